#include "server/frame_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define PARTS 32
#define TURN_BYTES ((size_t)8 << 20) /* sent before other connections get their turn, */
#define TURN_SENDS 64                /* and so often: a file may have many small tensors */

/* What the reply says, with the size of that as meta: the result, or what is written to *error. */
static const struct fields *reply_fields(struct request *request, struct fields *error,
                                         size_t *meta_length)
{
    const struct op_call *call = &request->call;
    const struct tensor *body = call->body_out;
    const struct fields *result = &call->out;
    if (request->status == TD_OK && (*meta_length = wire_fields_size(result)) > WIRE_META_MAX) {
        request->status = TD_TOO_LARGE;
        snprintf(request->message, sizeof request->message,
                 "the reply's text is over %d bytes; ask for a part of the tensor", WIRE_META_MAX);
    }
    if (request->status == TD_OK && call->body_made)
        return result;
    if (request->status == TD_OK) {
        request->body = body ? tensor_data(body) : request->list;
        request->body_length = body ? (size_t)layout_nbytes(&body->layout) : request->list_length;
        return result;
    }
    request->body_length = request->body_rest = 0;
    error->present = 0;
    FIELDS_SET(error, message, text_of(request->message));
    *meta_length = wire_fields_size(error);
    return error;
}

static void encode(const struct request *request, const struct fields *fields, size_t meta_length,
                   unsigned char *out)
{
    struct wire_header header = {
        .version = WIRE_VERSION,
        .flags = WIRE_REPLY,
        .opcode = request->header.opcode,
        .request_id = request->header.request_id,
        .status = (uint32_t)request->status,
        .meta_length = (uint32_t)meta_length,
        .body_length = request->body_length + request->body_rest,
        .descriptors = request->status == TD_OK && request->call.share_fd >= 0 ? 1 : 0,
    };
    wire_header_encode(&header, out);
    if (meta_length)
        wire_fields_encode(fields, out + WIRE_HEADER_SIZE);
}

/* Header and meta, into memory of the request's own. */
static void encode_head(struct request *request, const struct fields *fields, size_t meta_length)
{
    request->head_length = WIRE_HEADER_SIZE + meta_length;
    request->head = request->head_inline;
    if (request->head_length > sizeof request->head_inline)
        request->head = malloc(request->head_length);
    if (!request->head) {
        /* Not even an error's text fits: the header alone says what happened. */
        request->head = request->head_inline;
        request->head_length = WIRE_HEADER_SIZE;
        request->body_length = request->body_rest = 0;
        request->status = TD_OUT_OF_MEMORY;
        meta_length = 0;
    }
    encode(request, fields, meta_length, request->head);
}

/* Whether the reply is small, comes next, and leaves nothing to its request: not even to take back
 * what the session was given, should the connection end before the reply is sent. */
static bool fits_output(const struct request *request, size_t head_length)
{
    const struct connection *connection = request->connection;
    uint16_t opcode = request->header.opcode;
    unsigned traits = opcode < OP_END ? op_infos[opcode].traits : 0;
    bool gives = request->status == TD_OK && (traits & (OP_MAKES | OP_FD_OUT | OP_WAITS));
    return !gives && !connection->sending && !request->body_rest &&
           request->body_length <= OUTPUT_BODY_MAX &&
           head_length + request->body_length <= OUTPUT_BYTES - connection->output_end;
}

/* The whole reply, behind those that wait to be sent with it. */
static void encode_output(const struct request *request, const struct fields *fields,
                          size_t meta_length)
{
    struct connection *connection = request->connection;
    unsigned char *out = connection->output + connection->output_end;
    size_t head_length = WIRE_HEADER_SIZE + meta_length;
    encode(request, fields, meta_length, out);
    if (request->body_length)
        memcpy(out + head_length, request->body, request->body_length);
    connection->output_end += head_length + request->body_length;
}

void reply_queue(struct request *request)
{
    struct connection *connection = request->connection;
    struct engine *engine = connection->loop->server->options.engine;
    atomic_fetch_add_explicit(&engine->requests, 1, memory_order_relaxed);
    bool one_way = request->header.flags & WIRE_ONE_WAY;
    if (request->status != TD_OK && !one_way) /* else nobody is told that there was one */
        atomic_fetch_add_explicit(&engine->errors, 1, memory_order_relaxed);
    if (connection->closed || one_way) {
        if (connection->closed)
            request_undo(request);
        request_drop(request);
        return;
    }
    struct fields error;
    size_t meta_length;
    const struct fields *fields = reply_fields(request, &error, &meta_length);
    if (fits_output(request, WIRE_HEADER_SIZE + meta_length)) {
        encode_output(request, fields, meta_length);
        request_drop(request);
        return;
    }
    encode_head(request, fields, meta_length);
    request->replied = true;
    request->deadline_ms = 0; /* it was for the reply's beginning */
    request->next = NULL;
    *connection->sending_last = request;
    connection->sending_last = &request->next;
}

/* Whether a descriptor must go with the reply's first byte, and has not yet. */
static bool needs_descriptor(const struct request *request)
{
    return request->status == TD_OK && request->call.share_fd >= 0 && request->head_sent == 0;
}

bool replies_pending(const struct connection *connection)
{
    const struct request *first = connection->sending;
    return connection->output_start < connection->output_end || (first && !first->parked_link);
}

/* Gathers what is to be sent: whole replies up to the next one with a descriptor, whose first byte
 * must be the first of all, and up to one of whose body more is to be made. */
static int gather(const struct connection *connection, struct iovec parts[PARTS], size_t *total,
                  const struct request **with_descriptor)
{
    int count = 0;
    size_t output = connection->output_end - connection->output_start;
    *total = output;
    *with_descriptor = NULL;
    if (output)
        parts[count++] = (struct iovec){
            (void *)(uintptr_t)(connection->output + connection->output_start), output};
    for (const struct request *r = connection->sending; r && count + 2 <= PARTS; r = r->next) {
        if (needs_descriptor(r) && count > 0)
            break;
        if (needs_descriptor(r))
            *with_descriptor = r;
        if (r->head_sent < r->head_length)
            parts[count++] = (struct iovec){r->head + r->head_sent, r->head_length - r->head_sent};
        if (r->body_sent < r->body_length)
            parts[count++] = (struct iovec){(void *)(uintptr_t)(r->body + r->body_sent),
                                            r->body_length - r->body_sent};
        *total += r->head_length - r->head_sent + r->body_length - r->body_sent;
        if (r->body_rest)
            break;
    }
    return count;
}

static ssize_t send_parts(int fd, struct iovec *parts, int count,
                          const struct request *with_descriptor)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    if (with_descriptor) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &with_descriptor->call.share_fd, sizeof(int));
    }
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Notes that `sent` bytes are gone, and ends the replies that are complete. It fails if no more of
 * a body can be made. */
static enum td_status advance(struct connection *connection, size_t sent)
{
    size_t output = connection->output_end - connection->output_start;
    size_t of_output = sent < output ? sent : output;
    sent -= of_output;
    connection->output_start += of_output;
    if (connection->output_start < connection->output_end)
        return TD_OK;
    connection->output_start = connection->output_end = 0;
    while (connection->sending) {
        struct request *r = connection->sending;
        size_t head = r->head_length - r->head_sent;
        size_t of_head = sent < head ? sent : head;
        r->head_sent += of_head;
        sent -= of_head;
        size_t body = r->body_length - r->body_sent;
        size_t of_body = sent < body ? sent : body;
        r->body_sent += of_body;
        sent -= of_body;
        if (r->head_sent < r->head_length || r->body_sent < r->body_length)
            return TD_OK;
        if (r->body_rest)
            return request_go_on(r);
        connection->sending = r->next;
        if (!connection->sending)
            connection->sending_last = &connection->sending;
        request_drop(r);
    }
    assert(sent == 0);
    return TD_OK;
}

/* Too many descriptors of this user are on their way in sockets that nobody reads: the kernel takes
 * no more. It may be another client's doing, so this one is told instead of being cut off. */
static void refuse_descriptor(struct request *request)
{
    request_undo(request);
    if (request->head != request->head_inline)
        free(request->head);
    request->status = TD_UNAVAILABLE;
    snprintf(request->message, sizeof request->message,
             "too many descriptors are on their way to clients that do not read them; try again");
    struct fields error;
    size_t meta_length;
    const struct fields *fields = reply_fields(request, &error, &meta_length);
    encode_head(request, fields, meta_length);
}

bool replies_flush(struct connection *connection)
{
    size_t turn = 0;
    for (int sends = 0; replies_pending(connection) && turn < TURN_BYTES && sends < TURN_SENDS;
         sends++) {
        struct iovec parts[PARTS];
        size_t total;
        const struct request *with_descriptor;
        int count = gather(connection, parts, &total, &with_descriptor);
        ssize_t sent = send_parts(connection->fd, parts, count, with_descriptor);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (sent < 0 && errno == ETOOMANYREFS && with_descriptor) {
            refuse_descriptor(connection->sending);
            continue;
        }
        if (sent < 0 || advance(connection, (size_t)sent) != TD_OK) {
            if (loop_of_thread() == connection->loop) /* else that one notices it, too */
                connection_close(connection);
            return false;
        }
        turn += (size_t)sent;
        connection->sent_ms = uv_now(&loop_of_thread()->uv);
        if ((size_t)sent < total)
            break;
    }
    if (turn)
        atomic_fetch_add_explicit(&connection->loop->server->options.engine->bytes_sent, turn,
                                  memory_order_relaxed);
    return true;
}
