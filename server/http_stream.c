#include "proto/format/json_tensor.h"
#include "server/http_internal.h"

#include <string.h>

#define BUFFER_BYTES ((size_t)256 << 10) /* of JSON written at a time, and of libmicrohttpd's */
#define INLINE_ELEMENTS 2048             /* so few are written as JSON without a job */
#define INLINE_BYTES ((size_t)8 << 10)   /* of those buffers then */

struct stream {
    struct exchange *x; /* a reference */
    struct body *body;
    bool is_short;
    size_t buffer_bytes;
    const unsigned char *ready; /* what is to be sent next */
    size_t ready_length;
    bool ended; /* nothing follows that */
    /* JSON: the block that is being written out, its text, and what stands around it all. */
    bool json;
    struct json_values values;
    const unsigned char *elements;
    size_t element_count;
    char *text;
    char *texts; /* the prefix, then the suffix */
    struct text suffix;
};

/* Makes `ready` the next piece. */
static enum td_status produce_bytes(struct stream *stream)
{
    const void *data;
    TRY(body_next(stream->body, &data, &stream->ready_length));
    stream->ready = data;
    stream->ended = stream->ready_length == 0;
    return TD_OK;
}

static enum td_status produce_json(struct stream *stream)
{
    size_t length = 0, size = dtype_infos[stream->values.dtype].size_bytes;
    while (!stream->values.ended && stream->buffer_bytes - length >= 256) {
        size_t used;
        if (!stream->element_count) {
            const void *data;
            TRY(body_next(stream->body, &data, &used));
            stream->elements = data;
            stream->element_count = used / size;
        }
        length += json_values_write(&stream->values, stream->elements, stream->element_count,
                                    stream->text + length, stream->buffer_bytes - length, &used);
        stream->elements += used * size;
        stream->element_count -= used;
        if (!used)
            break; /* the rest of the room is too small */
    }
    stream->ended = length == 0;
    stream->ready = (const unsigned char *)(length ? stream->text : stream->suffix.data);
    stream->ready_length = length ? length : stream->suffix.length;
    return TD_OK;
}

static enum td_status produce(struct stream *stream)
{
    return stream->json ? produce_json(stream) : produce_bytes(stream);
}

static enum td_status produce_in_job(struct exchange *x, struct parked *parked)
{
    TRY(parked_commit(parked));
    return produce(x->stream);
}

/* Goes on to what comes next. *waits: a job makes it. */
static enum td_status advance(struct stream *stream, bool *waits)
{
    struct exchange *x = stream->x;
    *waits = !stream->is_short && (stream->json || body_work_bytes(stream->body) > OP_INLINE_BYTES);
    if (!*waits)
        return produce(stream);
    x->stream = stream;
    return exchange_park(x, produce_in_job, PARKED_ONWARD);
}

/* libmicrohttpd's content reader. */
static ssize_t on_read(void *argument, uint64_t position, char *buffer, size_t room)
{
    struct stream *stream = argument;
    struct exchange *x = stream->x;
    (void)position;
    if (x->suspended_now) {
        exchange_resumed(x);
        peer_set(x->peer, PEER_READS);
        if (x->status != TD_OK)
            return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    while (!stream->ready_length && !stream->ended) {
        bool waits;
        if (advance(stream, &waits) != TD_OK)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (waits)
            return 0;
    }
    if (!stream->ready_length)
        return MHD_CONTENT_READER_END_OF_STREAM;
    size_t part = stream->ready_length < room ? stream->ready_length : room;
    memcpy(buffer, stream->ready, part);
    stream->ready += part;
    stream->ready_length -= part;
    atomic_fetch_add_explicit(&x->server->options.engine->bytes_sent, part, memory_order_relaxed);
    return (ssize_t)part;
}

static void on_free(void *argument)
{
    struct stream *stream = argument;
    body_destroy(stream->body);
    exchange_unref(stream->x);
    free(stream->texts);
    free(stream->text);
    free(stream);
}

static enum td_status open_json(struct stream *stream, const struct elements *what,
                                struct text prefix, struct text suffix)
{
    const struct layout *layout = &what->tensor->layout;
    struct dims shape = {.rank = layout->rank};
    memcpy(shape.v, layout->shape, (size_t)layout->rank * sizeof shape.v[0]);
    stream->json = true;
    stream->is_short = layout->elements <= INLINE_ELEMENTS;
    stream->buffer_bytes = stream->is_short ? INLINE_BYTES : BUFFER_BYTES;
    TRY(exchange_charge(stream->x, 2 * stream->buffer_bytes, 0));
    stream->texts = malloc(prefix.length + suffix.length + 1);
    stream->text = malloc(stream->buffer_bytes);
    if (!stream->texts || !stream->text)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    memcpy(stream->texts, prefix.data, prefix.length);
    memcpy(stream->texts + prefix.length, suffix.data, suffix.length);
    stream->ready = (const unsigned char *)stream->texts;
    stream->ready_length = prefix.length;
    stream->suffix = (struct text){stream->texts + prefix.length, suffix.length};
    json_values_begin(&stream->values, what->dtype, &shape);
    return body_add_tensor(stream->body, what->tensor, what->dtype, what->saturate);
}

static enum td_status open_bytes(struct stream *stream)
{
    stream->buffer_bytes = BUFFER_BYTES;
    if (body_total_bytes(stream->body) < BUFFER_BYTES)
        stream->buffer_bytes = (size_t)body_total_bytes(stream->body) + 1;
    return exchange_charge(stream->x, stream->buffer_bytes, 0);
}

/* Everything that could fail for want of memory is done before the answer's head leaves. Takes over
 * the stream. */
static enum td_status respond(struct stream *stream, enum td_status status, uint64_t size,
                              struct MHD_Response **out)
{
    if (status == TD_OK)
        status = body_prepare(stream->body, stream->x->server->options.account);
    if (status != TD_OK) {
        on_free(stream);
        return status;
    }
    stream->x->op_deadline_ms = 0; /* it was for the answer's beginning */
    *out = MHD_create_response_from_callback(size, stream->buffer_bytes, on_read, stream, on_free);
    if (*out)
        return TD_OK;
    on_free(stream);
    return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
}

/* Takes over the body. */
static enum td_status stream_create(struct exchange *x, struct body *body, struct stream **out)
{
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) {
        body_destroy(body);
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    }
    atomic_fetch_add(&x->refs, 1);
    stream->x = x;
    stream->body = body;
    *out = stream;
    return TD_OK;
}

enum td_status stream_bytes(struct exchange *x, struct body *body, struct MHD_Response **out)
{
    struct stream *stream;
    uint64_t size = body_total_bytes(body);
    TRY(stream_create(x, body, &stream));
    return respond(stream, open_bytes(stream), size, out);
}

enum td_status stream_json(struct exchange *x, const struct elements *what, struct text prefix,
                           struct text suffix, struct MHD_Response **out)
{
    struct body *body;
    struct stream *stream;
    TRY(body_create(x->server->options.engine->devices.list[0], BODY_BLOCK_BYTES, &body));
    TRY(stream_create(x, body, &stream));
    TRY(respond(stream, open_json(stream, what, prefix, suffix), MHD_SIZE_UNKNOWN, out));
    if (x->head)
        answer_head_of_unknown_size(*out);
    return TD_OK;
}
