/* send: frames out. */
#include "client/internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define OUT_KEEP_BYTES 65536 /* a larger buffer is given back after use */

/* Room for `more` bytes after out_size. */
static bool out_reserve(struct connection *connection, size_t more)
{
    size_t needed = connection->out_size + more; /* both far below SIZE_MAX: meta is bounded */
    if (needed <= connection->out_capacity)
        return true;
    size_t capacity = needed < 4096 ? 4096 : needed * 2;
    uint8_t *grown = realloc(connection->out, capacity);
    if (!grown)
        return false;
    connection->out = grown;
    connection->out_capacity = capacity;
    return true;
}

/* Forgets what was sent of `out`. */
static void out_consume(struct connection *connection, size_t sent)
{
    if (sent > 0)
        connection->queued_count = 0;
    connection->out_size -= sent;
    memmove(connection->out, connection->out + sent, connection->out_size);
    if (connection->out_size == 0 && connection->out_capacity > OUT_KEEP_BYTES) {
        free(connection->out);
        connection->out = NULL;
        connection->out_capacity = 0;
    }
}

static bool queue_frame(struct connection *connection, enum op op, uint8_t flags,
                        const struct fields *fields, uint64_t body_bytes, uint16_t descriptors)
{
    size_t meta_length = wire_fields_size(fields);
    if (!out_reserve(connection, WIRE_HEADER_SIZE + meta_length))
        return false;
    struct wire_header header = {
        .version = WIRE_VERSION,
        .flags = flags,
        .opcode = (uint16_t)op,
        .request_id = ++connection->last_id,
        .meta_length = (uint32_t)meta_length,
        .body_length = body_bytes,
        .descriptors = descriptors,
    };
    uint8_t *at = connection->out + connection->out_size;
    wire_header_encode(&header, at);
    wire_fields_encode(fields, at + WIRE_HEADER_SIZE);
    connection->out_size += WIRE_HEADER_SIZE + meta_length;
    return true;
}

bool pending_push(struct pending_release **array, size_t *count, size_t *capacity,
                  const struct pending_release *item)
{
    if (*count == *capacity) {
        size_t grown_capacity = *capacity ? *capacity * 2 : 16;
        struct pending_release *grown = realloc(*array, grown_capacity * sizeof *grown);
        if (!grown)
            return false;
        *array = grown;
        *capacity = grown_capacity;
    }
    (*array)[(*count)++] = *item;
    return true;
}

bool connection_queue_release(struct connection *connection, const struct pending_release *item)
{
    struct fields fields;
    char name[32];
    fields.present = 0;
    if (item->lease) {
        FIELDS_SET(&fields, lease, item->id);
    } else if (item->all) {
        FIELDS_SET(&fields, force, true);
    } else {
        snprintf(name, sizeof name, "@%llu", (unsigned long long)item->id);
        FIELDS_SET(&fields, input, text_of(name));
    }
    if (!pending_push(&connection->queued, &connection->queued_count, &connection->queued_capacity,
                      item))
        return false;
    bool told = !item->done || queue_frame(connection, OP_queue_ack, WIRE_ONE_WAY, &fields, 0, 0);
    if (item->inherited)
        FIELDS_SET(&fields, force, true);
    if (told && (item->keep || queue_frame(connection, OP_release, WIRE_ONE_WAY, &fields, 0, 0)))
        return true;
    connection->queued_count--;
    return false;
}

bool connection_flush_now(struct connection *connection)
{
    while (connection->out_size > 0) {
        ssize_t n = send(connection->fd, connection->out, connection->out_size,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            out_consume(connection, (size_t)n);
        else if (errno == EAGAIN)
            return true; /* the next call takes it along */
        else if (errno != EINTR)
            return false;
    }
    return true;
}

/* One sendmsg of what is left; a descriptor goes with the first byte. Bytes, or -1 with errno. */
static ssize_t send_some(int fd, struct iovec *parts, int descriptor)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    if (descriptor >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Waits until more can be sent. */
static enum io_result wait_to_send(const struct connection *connection, int64_t deadline)
{
    int events = connection_wait(connection, POLLIN | POLLOUT, deadline);
    if (events == 0)
        return IO_TIMEOUT;
    if (events < 0)
        return errno == EINTR ? IO_CANCELLED : IO_FAILED;
    return events & POLLIN ? IO_EARLY_REPLY : IO_DONE;
}

/* Sends out[] and then the body, from sent bytes on; *sent is kept up to date. */
static enum io_result send_all(const struct connection *connection, const void *body,
                               size_t body_bytes, int descriptor, int64_t deadline, size_t *sent)
{
    size_t head = connection->out_size;
    while (*sent < head + body_bytes) {
        size_t head_sent = *sent < head ? *sent : head, body_sent = *sent - head_sent;
        struct iovec parts[2] = {
            {connection->out + head_sent, head - head_sent},
            {body ? (uint8_t *)(uintptr_t)body + body_sent : NULL, body_bytes - body_sent},
        };
        ssize_t n = send_some(connection->fd, parts, *sent == 0 ? descriptor : -1);
        if (n > 0) {
            *sent += (size_t)n;
            if (*sent > head)
                progress_tell(connection->progress, *sent - head, body_bytes);
        } else if (n < 0 && errno == EAGAIN) {
            enum io_result waited = wait_to_send(connection, deadline);
            if (waited != IO_DONE)
                return waited;
        } else if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            return IO_CLOSED;
        } else if (n < 0 && errno != EINTR) {
            return IO_FAILED;
        }
    }
    return IO_DONE;
}

enum io_result connection_send(struct connection *connection, const struct call *call,
                               int64_t deadline, bool *request_begun)
{
    enum io_result result = IO_DONE;
    size_t sent = 0;
    *request_begun = false;
    if (call->descriptor >= 0 && connection->out_size > 0) {
        /* What goes ahead is sent by itself, so that the descriptor comes with its own header. */
        result = send_all(connection, NULL, 0, -1, deadline, &sent);
        out_consume(connection, sent);
        if (result == IO_EARLY_REPLY) /* nobody asked for one: the other side has closed */
            result = IO_CLOSED;
        if (result != IO_DONE)
            return result;
    }
    size_t ahead = connection->out_size;
    if (!queue_frame(connection, call->op, 0, call->fields, call->body_bytes,
                     call->descriptor >= 0 ? 1 : 0)) {
        errno = ENOMEM;
        return IO_FAILED;
    }
    connection->request_id = connection->last_id;
    sent = 0;
    result = send_all(connection, call->body, call->body_bytes, call->descriptor, deadline, &sent);
    *request_begun = sent > ahead;
    if (result == IO_EARLY_REPLY && !*request_begun)
        result = IO_CLOSED;
    out_consume(connection, sent < connection->out_size ? sent : connection->out_size);
    return result;
}
