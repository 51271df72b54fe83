/* receive: frames in. */
#include "client/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>

/* More than may come, so that a daemon which sends too many is noticed and all are closed. */
#define DESCRIPTOR_ROOM 4

/* A reply while it arrives: in[used .. have) of the connection is read ahead. */
struct reader {
    struct connection *connection;
    int64_t deadline;
    size_t have, used;
    uint64_t received;     /* bytes, ever */
    bool in_body;          /* which progress is told of */
    int descriptor;        /* -1: none came yet */
    bool descriptor_lost;  /* one came, and this process had no number free for it */
    bool descriptor_fault; /* too many came */
};

static void take_descriptors(struct reader *reader, struct msghdr *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (reader->descriptor < 0) {
                reader->descriptor = fd;
            } else {
                close(fd);
                reader->descriptor_fault = true;
            }
        }
    }
    if (message->msg_flags & MSG_CTRUNC && reader->descriptor >= 0)
        reader->descriptor_fault = true;
    else if (message->msg_flags & MSG_CTRUNC)
        reader->descriptor_lost = true;
}

#define PATIENCE_LONG_MS 10000

/* Lets a blocking receive give up at about the deadline, at most an eighth late, so that calls with
 * the same timeout need no system call for it. False when the deadline has passed. */
static bool set_patience(struct connection *connection, int64_t deadline)
{
    int64_t left = deadline_left(deadline), have = connection->patience_ms;
    if (left == 0)
        return false;
    /* Who waits for ever may as well be woken now and then. */
    bool fits = left < 0 ? have == 0 || have >= PATIENCE_LONG_MS
                         : have >= left && have <= left + left / 8 + 1;
    if (fits)
        return true;
    int64_t wanted = left < 0 ? 0 : left + left / 16;
    struct timeval patience = {.tv_sec = wanted / 1000, .tv_usec = wanted % 1000 * 1000};
    (void)setsockopt(connection->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    connection->patience_ms = wanted;
    return true;
}

/* Receives at least a byte into `to`. `wait`: nothing is expected to be there yet. */
static enum io_result receive_some(struct reader *reader, void *to, size_t size, bool wait,
                                   size_t *received)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(DESCRIPTOR_ROOM * sizeof(int))];
    } control;
    for (;; wait = true) {
        bool expired = wait && !set_patience(reader->connection, reader->deadline);
        struct iovec part = {to, size};
        struct msghdr message = {
            .msg_iov = &part,
            .msg_iovlen = 1,
            .msg_control = control.bytes,
            .msg_controllen = sizeof control.bytes,
        };
        ssize_t n = recvmsg(reader->connection->fd, &message,
                            MSG_CMSG_CLOEXEC | (wait && !expired ? 0 : MSG_DONTWAIT));
        if (n > 0) {
            take_descriptors(reader, &message);
            reader->received += (size_t)n;
            *received = (size_t)n;
            return IO_DONE;
        }
        if (n == 0 || errno == ECONNRESET || errno == EPIPE)
            return IO_CLOSED;
        if (errno == EAGAIN && expired) /* what was there already would have been taken */
            return IO_TIMEOUT;
        if (errno == EINTR && interrupt_asked(reader->connection->interrupt))
            return IO_CANCELLED;
        if (errno != EAGAIN && errno != EINTR)
            return IO_FAILED;
    }
}

/* At least a byte: of what was read ahead, else straight from the socket. */
static enum io_result receive_next(struct reader *reader, void *to, size_t size, size_t *received)
{
    size_t ahead = reader->have - reader->used;
    if (ahead == 0)
        return receive_some(reader, to, size, false, received);
    *received = ahead < size ? ahead : size;
    memcpy(to, reader->connection->in + reader->used, *received);
    reader->used += *received;
    return IO_DONE;
}

/* Exactly size bytes. */
static enum io_result receive_exactly(struct reader *reader, void *to, uint64_t size)
{
    uint8_t *at = to;
    for (uint64_t done = 0; done < size;) {
        size_t n;
        enum io_result result = receive_next(reader, at + done, size - done, &n);
        if (result != IO_DONE)
            return result;
        done += n;
        if (reader->in_body)
            progress_tell(reader->connection->progress, done, size);
    }
    return IO_DONE;
}

/* Reads over a body that nobody can take, so that the connection, and the session, can go on. */
static enum io_result skip(struct reader *reader, uint64_t size)
{
    uint64_t ahead = reader->have - reader->used;
    if (ahead > size)
        ahead = size;
    reader->used += (size_t)ahead;
    for (uint64_t left = size - ahead; left > 0;) {
        size_t n, most = left < CONNECTION_IN_SIZE ? (size_t)left : CONNECTION_IN_SIZE;
        enum io_result result = receive_some(reader, reader->connection->in, most, false, &n);
        if (result != IO_DONE)
            return result;
        left -= n;
        reader->have = reader->used = 0;
    }
    return IO_DONE;
}

static enum io_result receive_header(struct reader *reader)
{
    struct connection *connection = reader->connection;
    while (reader->have < WIRE_HEADER_SIZE) {
        size_t n;
        enum io_result result = receive_some(reader, connection->in + reader->have,
                                             sizeof connection->in - reader->have, true, &n);
        if (result != IO_DONE)
            return result;
        reader->have += n;
    }
    reader->used = WIRE_HEADER_SIZE;
    return IO_DONE;
}

static enum td_status check_header(const struct reader *reader, const struct call *call,
                                   const struct wire_header *header)
{
    const struct connection *connection = reader->connection;
    const char *op = op_infos[call->op].name;
    if (!(header->flags & WIRE_REPLY))
        return fail(TD_PROTOCOL, "%s sent a request instead of the reply to '%s'; is it tensord?",
                    connection->url, op);
    /* A request whose header could not be read is refused under the id 0. */
    bool unread = header->status != TD_OK && header->request_id == 0;
    if (!unread && (header->request_id != connection->request_id || header->opcode != call->op))
        return fail(TD_PROTOCOL,
                    "%s answered request %" PRIu64 " (operation %u), and '%s' was "
                    "request %" PRIu64 "; the connection is closed",
                    connection->url, header->request_id, header->opcode, op,
                    connection->request_id);
    int came = reader->descriptor >= 0 || reader->descriptor_lost;
    if (reader->descriptor_fault || header->descriptors != came)
        return fail(TD_PROTOCOL, "the reply to '%s' from %s announces %u descriptors, and %s came",
                    op, connection->url, header->descriptors,
                    reader->descriptor_fault ? "more"
                    : came                   ? "1"
                                             : "none");
    return TD_OK;
}

static enum td_status receive_meta(struct reader *reader, const struct call *call, size_t length,
                                   struct td_reply *reply)
{
    uint8_t *meta = malloc(length + 1);
    if (!meta)
        return fail(TD_OUT_OF_MEMORY, "no memory for the reply to '%s'", op_infos[call->op].name);
    enum io_result result = receive_exactly(reader, meta, length);
    if (result != IO_DONE) {
        free(meta);
        return connection_fail(reader->connection, call, result);
    }
    return reply_set_meta(reply, meta, length);
}

/* What the daemon says went wrong. */
static enum td_status refusal(const struct call *call, const struct wire_header *header,
                              const struct td_reply *reply)
{
    struct text message = FIELDS_HAS(&reply->fields, message)
                              ? reply->fields.message
                              : text_of(td_status_meaning((int)header->status));
    if (header->status < TD_STATUS_COUNT)
        return fail((enum td_status)header->status, "%.*s", TEXT_ARGS(message));
    return fail(TD_INTERNAL,
                "'%s' ended with error %" PRIu32 ", which this client does not know; "
                "it says: %.*s",
                op_infos[call->op].name, header->status, TEXT_ARGS(message));
}

/* A pipe may take a part, and the rest whenever somebody reads it. */
static enum io_result write_all(const struct interrupt *interrupt, int fd, const uint8_t *bytes,
                                size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = write(fd, bytes + done, length - done);
        if (n < 0 && errno != EINTR)
            return IO_FAILED;
        if (n > 0)
            done += (size_t)n;
        if (done < length && interrupt_asked(interrupt))
            return IO_CANCELLED;
    }
    return IO_DONE;
}

static enum td_status cannot_write(void)
{
    if (errno == EPIPE)
        return fail(TD_CANCELLED, "nobody reads any more what is written");
    return fail(TD_INVALID, "the file cannot be written: %s", strerror(errno));
}

/* Few enough that they still are in the processor's cache when they are written. */
#define PIECE_BYTES ((size_t)256 << 10)

/* Writes the body as it comes; one that cannot be written is read to its end all the same. */
static enum td_status receive_into_file(struct reader *reader, const struct call *call,
                                        uint64_t length, bool *finished)
{
    _cleanup_(freep) uint8_t *piece = malloc(PIECE_BYTES);
    if (!piece)
        return fail(TD_OUT_OF_MEMORY, "no memory for a piece of what '%s' gives",
                    op_infos[call->op].name);
    for (uint64_t done = 0; done < length;) {
        size_t n, most = length - done < PIECE_BYTES ? (size_t)(length - done) : PIECE_BYTES;
        enum io_result result = receive_next(reader, piece, most, &n);
        if (result != IO_DONE)
            return connection_fail(reader->connection, call, result);
        done += n;
        progress_tell(reader->connection->progress, done, length);
        result = write_all(reader->connection->interrupt, *call->file, piece, n);
        if (result == IO_CANCELLED)
            return connection_fail(reader->connection, call, result);
        if (result != IO_DONE) {
            enum td_status status = cannot_write();
            *finished = skip(reader, length - done) == IO_DONE;
            return status;
        }
    }
    *finished = true;
    return TD_OK;
}

/* The body, to where the call wants it. */
static enum td_status receive_body(struct reader *reader, const struct call *call, uint64_t length,
                                   struct td_reply *reply, bool *finished)
{
    enum io_result result;
    reply->body_bytes = length;
    reader->in_body = true;
    if (call->file)
        return receive_into_file(reader, call, length, finished);
    if (call->into_given && length > call->into_bytes) {
        result = skip(reader, length);
        *finished = result == IO_DONE;
        if (*finished)
            return fail(TD_TOO_LARGE, "the elements are %" PRIu64 " bytes, and the buffer has %zu",
                        length, call->into_bytes);
    } else if (call->into_given) {
        result = receive_exactly(reader, call->into, length);
    } else if (length > 0) {
        reply->body = block_alloc(length);
        if (!reply->body)
            return fail(TD_OUT_OF_MEMORY, "no memory for the %" PRIu64 " bytes that '%s' gives",
                        length, op_infos[call->op].name);
        result = receive_exactly(reader, reply->body, length);
    } else {
        result = IO_DONE;
    }
    *finished = result == IO_DONE;
    return *finished ? TD_OK : connection_fail(reader->connection, call, result);
}

/* After the header. *finished: the frame was read to its end, whatever the status says. */
static enum td_status receive_rest(struct reader *reader, const struct call *call,
                                   const struct wire_header *header, struct td_reply *reply,
                                   struct exchange *exchange, bool *finished)
{
    TRY(receive_meta(reader, call, header->meta_length, reply));
    if (header->status == TD_OK)
        return receive_body(reader, call, header->body_length, reply, finished);
    exchange->refused = true;
    *finished = skip(reader, header->body_length) == IO_DONE;
    return refusal(call, header, reply);
}

enum td_status connection_receive(struct connection *connection, const struct call *call,
                                  int64_t deadline, struct td_reply *reply,
                                  struct exchange *exchange)
{
    struct reader reader = {.connection = connection, .deadline = deadline, .descriptor = -1};
    struct wire_header header;
    bool finished = false;
    enum td_status status;

    enum io_result result = receive_header(&reader);
    if (result != IO_DONE)
        status = connection_fail(connection, call, result);
    else
        status = wire_header_decode(connection->in, &header);
    if (result == IO_DONE && status == TD_OK)
        status = check_header(&reader, call, &header);
    if (status == TD_OK) {
        status = receive_rest(&reader, call, &header, reply, exchange, &finished);
        finished = finished && !(exchange->refused && header.request_id == 0);
    }
    if (finished && (reader.have != reader.used || reader.descriptor_fault)) {
        finished = false;
        status = fail(TD_PROTOCOL, "%s sent more than the reply to '%s'; the connection is closed",
                      connection->url, op_infos[call->op].name);
    }
    if (finished && status == TD_OK && reader.descriptor_lost)
        status = fail(TD_OUT_OF_MEMORY,
                      "no descriptor is free for what '%s' shares; close some, or raise "
                      "RLIMIT_NOFILE (ulimit -n)",
                      op_infos[call->op].name);
    reply->descriptor = reader.descriptor;
    exchange->reply_begun = reader.received > 0;
    connection->unanswered = (op_infos[call->op].traits & OP_WAITS) && !exchange->reply_begun &&
                             (result == IO_CANCELLED || result == IO_TIMEOUT);
    if (!finished)
        exchange->state =
            status == TD_CONNECTION && !exchange->refused ? CONNECTION_LOST : CONNECTION_DESYNC;
    return status;
}

#define TAKE_ANSWER_MS 250

bool connection_take_answer(struct connection *connection, struct td_reply *reply, enum op *op)
{
    static const struct interrupt undisturbed = {0};
    struct reader reader = {
        .connection = connection, .deadline = deadline_after(TAKE_ANSWER_MS), .descriptor = -1};
    struct wire_header header;
    connection->interrupt = &undisturbed;
    bool answered = shutdown(connection->fd, SHUT_WR) == 0 && receive_header(&reader) == IO_DONE &&
                    wire_header_decode(connection->in, &header) == TD_OK &&
                    (header.flags & WIRE_REPLY) && header.status == TD_OK &&
                    header.request_id == connection->last_id;
    if (answered) {
        *op = (enum op)header.opcode;
        uint8_t *meta = malloc(header.meta_length + 1);
        answered = meta && receive_exactly(&reader, meta, header.meta_length) == IO_DONE;
        if (answered)
            answered = reply_set_meta(reply, meta, header.meta_length) == TD_OK;
        else
            free(meta);
    }
    reply->descriptor = reader.descriptor;
    return answered;
}
