#include "core/blocks.h"
#include "proto/format/json_tensor.h"
#include "server/http_internal.h"

#include <string.h>

#define BLOCK_BYTES ((size_t)1 << 20)    /* of elements that are converted at a time */
#define BUFFER_BYTES ((size_t)256 << 10) /* of JSON written at a time, and of libmicrohttpd's */
#define INLINE_ELEMENTS 2048             /* so few are converted without a job */
#define INLINE_BYTES ((size_t)8 << 10)   /* of those buffers then */

enum stage { STAGE_PREFIX, STAGE_ELEMENTS, STAGE_SUFFIX, STAGE_END };

struct stream {
    struct exchange *x; /* a reference */
    enum stage stage;
    struct blocks *blocks;
    bool is_short;
    size_t buffer_bytes;
    char *texts; /* the prefix, then the suffix */
    struct text prefix, suffix;
    const unsigned char *ready; /* what is to be sent next */
    size_t ready_length;
    bool exhausted; /* no more elements */
    /* JSON: the block that is being written out, and its text. */
    bool json;
    struct json_values values;
    const unsigned char *elements;
    size_t element_count;
    char *text;
};

/* Makes `ready` the next piece of the elements; empty after the last. */
static enum td_status produce_bytes(struct stream *stream)
{
    const void *data;
    TRY(blocks_next(stream->blocks, &data, &stream->ready_length));
    stream->ready = data;
    return TD_OK;
}

static enum td_status produce_json(struct stream *stream)
{
    size_t length = 0, size = dtype_infos[stream->values.dtype].size_bytes;
    while (!stream->values.ended && stream->buffer_bytes - length >= 256) {
        size_t used;
        if (!stream->element_count) {
            const void *data;
            TRY(blocks_next(stream->blocks, &data, &used));
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
    stream->ready = (const unsigned char *)stream->text;
    stream->ready_length = length;
    return TD_OK;
}

static enum td_status produce(struct stream *stream)
{
    TRY(stream->json ? produce_json(stream) : produce_bytes(stream));
    stream->exhausted = stream->ready_length == 0;
    return TD_OK;
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
    *waits = false;
    switch (stream->stage) {
    case STAGE_PREFIX:
        stream->ready = (const unsigned char *)stream->prefix.data;
        stream->ready_length = stream->prefix.length;
        stream->stage = STAGE_ELEMENTS;
        return TD_OK;
    case STAGE_ELEMENTS:
        if (stream->exhausted) {
            stream->ready = (const unsigned char *)stream->suffix.data;
            stream->ready_length = stream->suffix.length;
            stream->stage = STAGE_SUFFIX;
            return TD_OK;
        }
        if (stream->is_short)
            return produce(stream);
        *waits = true;
        x->stream = stream;
        return exchange_park(x, produce_in_job, PARKED_IN_TURN);
    default:
        stream->stage = STAGE_END;
        return TD_OK;
    }
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
    while (!stream->ready_length && stream->stage != STAGE_END) {
        bool waits;
        if (advance(stream, &waits) != TD_OK)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (waits)
            return 0;
    }
    if (stream->stage == STAGE_END)
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
    blocks_destroy(stream->blocks);
    exchange_unref(stream->x);
    free(stream->texts);
    free(stream->text);
    free(stream);
}

static enum td_status stream_open(struct stream *stream, const struct elements *what,
                                  struct text prefix, struct text suffix)
{
    struct device *cpu = stream->x->server->options.engine->devices.list[0];
    const struct layout *layout = &what->tensor->layout;
    struct dims shape = {.rank = layout->rank};
    memcpy(shape.v, layout->shape, (size_t)layout->rank * sizeof shape.v[0]);
    stream->is_short = layout->elements <= INLINE_ELEMENTS;
    stream->json = what->format == FORMAT_JSON;
    stream->buffer_bytes = stream->is_short ? INLINE_BYTES : BUFFER_BYTES;
    TRY(exchange_charge(stream->x, (stream->json ? 2 : 1) * stream->buffer_bytes));
    stream->texts = malloc(prefix.length + suffix.length + 1);
    stream->text = stream->json ? malloc(stream->buffer_bytes) : NULL;
    if (!stream->texts || (stream->json && !stream->text))
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    memcpy(stream->texts, prefix.data, prefix.length);
    memcpy(stream->texts + prefix.length, suffix.data, suffix.length);
    stream->prefix = (struct text){stream->texts, prefix.length};
    stream->suffix = (struct text){stream->texts + prefix.length, suffix.length};
    if (stream->json)
        json_values_begin(&stream->values, what->dtype, &shape);
    return blocks_create(what->tensor, what->dtype, what->saturate, BLOCK_BYTES, cpu,
                         &stream->blocks);
}

enum td_status stream_create(struct exchange *x, const struct elements *what, struct text prefix,
                             struct text suffix, struct MHD_Response **out)
{
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    atomic_fetch_add(&x->refs, 1);
    stream->x = x;
    enum td_status status = stream_open(stream, what, prefix, suffix);
    if (status != TD_OK) {
        on_free(stream);
        return status;
    }
    uint64_t size = stream->json
                        ? MHD_SIZE_UNKNOWN
                        : prefix.length + blocks_total_bytes(stream->blocks) + suffix.length;
    x->op_deadline_ms = 0; /* it was for the answer's beginning */
    *out = MHD_create_response_from_callback(size, stream->buffer_bytes, on_read, stream, on_free);
    if (!*out) {
        on_free(stream);
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    }
    if (x->head && stream->json)
        answer_head_of_unknown_size(*out);
    return TD_OK;
}
