/* status: every error once.
 *
 * One table gives an error its name, its number on the wire, its HTTP status and its plain meaning.
 * The function that *decides* an error writes its detail, once, with fail(); callers only forward
 * the status. The detail lives in the calling thread until that thread's next fail().
 *
 * Part of the public interface: enum td_status and td_status_name are what libtensord's callers
 * see. Threads: everything here may be called from any thread.
 */
#ifndef TENSORD_STATUS_H
#define TENSORD_STATUS_H

/* X(name, wire number, HTTP status, meaning) */
#define TD_STATUSES(X)                                                                             \
    X(OK, 0, 200, "success")                                                                       \
    X(INVALID, 1, 400, "an argument is missing, malformed or not known to this operation")         \
    X(PROTOCOL, 2, 400, "the bytes received are not a frame of this protocol")                     \
    X(UNAUTHORIZED, 3, 401, "a token is needed, and none or a wrong one was given")                \
    X(NOT_FOUND, 4, 404, "there is no such name, object, lease or operation")                      \
    X(CONFLICT, 5, 409, "the state of the tensor does not allow this")                             \
    X(EXISTS, 6, 409, "the name is taken")                                                         \
    X(REQUIRES_GRAD, 7, 409, "the tensor requires grad, and the operation cannot record that")     \
    X(WRONG_DEVICE, 8, 409, "the tensor is on another device than the operation needs")            \
    X(FROZEN, 9, 409, "the bytes can no longer change")                                            \
    X(PRECONDITION, 10, 412, "the generation is not the one that was asked for")                   \
    X(TOO_LARGE, 11, 413, "a length is over a limit of the daemon")                                \
    X(UNSUPPORTED, 12, 415, "this format, dtype or transport cannot do that")                      \
    X(BAD_SHAPE, 13, 422, "the shape, strides or dimension do not fit")                            \
    X(BAD_INDEX, 14, 422, "the index does not fit the shape")                                      \
    X(BAD_DTYPE, 15, 422, "the dtype is unknown, or the cast is refused")                          \
    X(NO_DEVICE, 16, 422, "the device does not exist here")                                        \
    X(CANCELLED, 17, 499, "the client went away or took the request back")                         \
    X(INTERNAL, 18, 500, "the daemon failed; this is a bug")                                       \
    X(UNAVAILABLE, 19, 503, "the daemon is stopping, or a limit on requests is reached")           \
    X(DEADLINE, 20, 504, "the deadline of the request passed")                                     \
    X(OUT_OF_MEMORY, 21, 507, "the memory limit does not allow this reservation")                  \
    X(CONNECTION, 22, 502, "the connection could not be made, or was lost")                        \
    X(FORBIDDEN, 23, 403, "the request comes from where it is not allowed, or wants what is not")  \
    X(BAD_METHOD, 24, 405, "this address takes other methods")                                     \
    X(NOT_ACCEPTABLE, 25, 406, "the tensor cannot be had in the format asked for")                 \
    X(BAD_RANGE, 26, 416, "the range lies outside of the representation")                          \
    X(FULL, 27, 429, "the queue is full")                                                          \
    X(EMPTY, 28, 404, "the queue has nothing to hand out")                                         \
    X(CLOSED, 29, 410, "the queue is closed")

enum td_status {
#define TD_STATUS_ENUM(name, number, http, meaning) TD_##name = number,
    TD_STATUSES(TD_STATUS_ENUM)
#undef TD_STATUS_ENUM
        TD_STATUS_COUNT
};

#ifdef __cplusplus
extern "C" {
#endif

/* The table's name in lower case ("not_found"), "unknown" for a number outside the table. Static.
 */
const char *td_status_name(int status);
/* What the table says the error means. Static. */
const char *td_status_meaning(int status);
/* The HTTP status of an error, 500 for a number outside the table. */
int td_status_http(int status);

#ifdef __cplusplus
}
#endif

#endif
