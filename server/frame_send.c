#include "server/frame_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define PARTS 32
#define TURN_BYTES ((size_t)8 << 20) /* sent before other connections get their turn */

/* The reply's header and meta. */
static void encode(struct request *request, const struct fields *fields)
{
    size_t meta = wire_fields_size(fields);
    struct wire_header header = {
        .version = WIRE_VERSION,
        .flags = WIRE_REPLY,
        .opcode = request->header.opcode,
        .request_id = request->header.request_id,
        .status = (uint32_t)request->status,
        .meta_length = (uint32_t)meta,
        .body_length = request->body_length,
        .descriptors = request->status == TD_OK && request->call.share_fd >= 0 ? 1 : 0,
    };
    request->head_length = WIRE_HEADER_SIZE + meta;
    request->head = request->head_inline;
    if (request->head_length > sizeof request->head_inline)
        request->head = malloc(request->head_length);
    if (!request->head) {
        /* Not even an error's text fits: the header alone says what happened. */
        request->head = request->head_inline;
        request->head_length = WIRE_HEADER_SIZE;
        request->body_length = 0;
        header = (struct wire_header){.version = WIRE_VERSION,
                                      .flags = WIRE_REPLY,
                                      .opcode = header.opcode,
                                      .request_id = header.request_id,
                                      .status = TD_OUT_OF_MEMORY};
        request->status = TD_OUT_OF_MEMORY;
        wire_header_encode(&header, request->head);
        return;
    }
    wire_header_encode(&header, request->head);
    wire_fields_encode(fields, request->head + WIRE_HEADER_SIZE);
}

static void encode_error(struct request *request)
{
    struct fields error;
    error.present = 0;
    FIELDS_SET(&error, message, text_of(request->message));
    request->body_length = 0;
    encode(request, &error);
}

static void encode_success(struct request *request)
{
    const struct tensor *body = request->call.body_out;
    if (wire_fields_size(&request->call.out) > WIRE_META_MAX) {
        request->status = TD_TOO_LARGE;
        snprintf(request->message, sizeof request->message,
                 "the reply's text is over %d bytes; ask for a part of the tensor", WIRE_META_MAX);
        encode_error(request);
        return;
    }
    request->body = body ? tensor_data(body) : request->list;
    request->body_length = body ? (size_t)layout_nbytes(&body->layout) : request->list_length;
    encode(request, &request->call.out);
}

void reply_queue(struct request *request)
{
    struct connection *connection = request->connection;
    struct engine *engine = connection->loop->server->options.engine;
    atomic_fetch_add_explicit(&engine->requests, 1, memory_order_relaxed);
    if (request->status != TD_OK)
        atomic_fetch_add_explicit(&engine->errors, 1, memory_order_relaxed);
    if (connection->closed || (request->header.flags & WIRE_ONE_WAY)) {
        if (connection->closed)
            request_undo(request);
        connection->inflight--;
        request_unref(request);
        return;
    }
    if (request->status == TD_OK)
        encode_success(request);
    else
        encode_error(request);
    request->next = NULL;
    *connection->sending_last = request;
    connection->sending_last = &request->next;
}

/* Whether a descriptor must go with the reply's first byte, and has not yet. */
static bool needs_descriptor(const struct request *request)
{
    return request->status == TD_OK && request->call.share_fd >= 0 && request->head_sent == 0;
}

/* Gathers what is to be sent: whole replies up to the next one with a descriptor. */
static int gather(const struct connection *connection, struct iovec parts[PARTS], size_t *total)
{
    int count = 0;
    *total = 0;
    for (const struct request *r = connection->sending; r && count + 2 <= PARTS; r = r->next) {
        if (r != connection->sending && needs_descriptor(r))
            break;
        if (r->head_sent < r->head_length)
            parts[count++] = (struct iovec){r->head + r->head_sent, r->head_length - r->head_sent};
        if (r->body_sent < r->body_length)
            parts[count++] = (struct iovec){(void *)(uintptr_t)(r->body + r->body_sent),
                                            r->body_length - r->body_sent};
        *total += r->head_length - r->head_sent + r->body_length - r->body_sent;
    }
    return count;
}

static ssize_t send_parts(struct connection *connection, struct iovec *parts, int count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    if (needs_descriptor(connection->sending)) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &connection->sending->call.share_fd, sizeof(int));
    }
    return sendmsg(connection->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Notes that `sent` bytes are gone, and ends the replies that are complete. */
static void advance(struct connection *connection, size_t sent)
{
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
            return;
        connection->sending = r->next;
        if (!connection->sending)
            connection->sending_last = &connection->sending;
        connection->inflight--;
        request_unref(r);
    }
    assert(sent == 0);
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
    encode_error(request);
}

bool replies_flush(struct connection *connection)
{
    size_t turn = 0;
    while (connection->sending && turn < TURN_BYTES) {
        struct iovec parts[PARTS];
        size_t total;
        int count = gather(connection, parts, &total);
        ssize_t sent = send_parts(connection, parts, count);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (sent < 0 && errno == ETOOMANYREFS && needs_descriptor(connection->sending)) {
            refuse_descriptor(connection->sending);
            continue;
        }
        if (sent < 0) {
            connection_close(connection);
            return false;
        }
        turn += (size_t)sent;
        connection->sent_ms = uv_now(&connection->loop->uv);
        advance(connection, (size_t)sent);
        if ((size_t)sent < total)
            break;
    }
    if (turn)
        atomic_fetch_add_explicit(&connection->loop->server->options.engine->bytes_sent, turn,
                                  memory_order_relaxed);
    return true;
}
