#include "core/body.h"

#include <assert.h>
#include <string.h>

struct part {
    unsigned char *bytes; /* owned; NULL: a tensor's elements */
    size_t length;
    struct tensor *tensor; /* a reference */
    enum td_dtype dtype;
    bool saturate;
    bool in_place;
    struct storage *scratch; /* on its device if that is another: what is downloaded, or NULL */
};

/* Elements are counted in C order. A block is a part of the tensor's layout: one position of each
 * dimension before `split`, up to `rows` of `split` itself, and all of those behind it. */
struct split {
    struct layout source; /* the tensor's, with a dimension of 1 where it has none */
    int dimension;
    int64_t row;  /* elements of one position of `dimension` */
    int64_t rows; /* positions of it in a block */
    int64_t done; /* elements that were handed out */
};

struct body {
    struct device *cpu;
    size_t block_bytes;
    uint64_t total_bytes;
    struct part *parts;
    size_t count, room;
    bool prepared;
    size_t at;              /* the part that comes next; == count: none */
    struct split split;     /* of that part, if it is computed */
    size_t buffer_bytes;    /* of the largest block */
    struct storage *buffer; /* on the cpu; NULL if nothing is computed */
};

enum td_status body_create(struct device *cpu, size_t block_bytes, struct body **out)
{
    struct body *body = calloc(1, sizeof *body);
    if (!body)
        return fail(TD_OUT_OF_MEMORY, "no memory for a reply's body");
    body->cpu = cpu;
    body->block_bytes = block_bytes;
    *out = body;
    return TD_OK;
}

void body_destroy(struct body *body)
{
    if (!body)
        return;
    for (struct part *part = body->parts; part < body->parts + body->count; part++) {
        if (part->bytes)
            ledger_release(body->cpu->ledger, part->length, 0, 0);
        free(part->bytes);
        storage_unref(part->scratch);
        tensor_unref(part->tensor);
    }
    storage_unref(body->buffer);
    free(body->parts);
    free(body);
}

/* ---- parts -------------------------------------------------------------------------------------
 */

/* Takes nothing over if it fails. */
static enum td_status add(struct body *body, const struct part *part, uint64_t bytes)
{
    assert(!body->prepared);
    uint64_t total;
    if (__builtin_add_overflow(body->total_bytes, bytes, &total))
        return fail(TD_TOO_LARGE, "the parts have more bytes than a body can have");
    if (bytes == 0)
        return TD_OK;
    if (body->count == body->room) {
        size_t room = body->room ? 2 * body->room : 4;
        struct part *parts = realloc(body->parts, room * sizeof *parts);
        if (!parts)
            return fail(TD_OUT_OF_MEMORY, "no memory for a body of %zu parts", room);
        body->parts = parts;
        body->room = room;
    }
    body->parts[body->count++] = *part;
    body->total_bytes = total;
    return TD_OK;
}

enum td_status body_add_bytes(struct body *body, void *bytes, size_t length)
{
    _cleanup_(freep) void *owned = bytes;
    struct part part = {.bytes = bytes, .length = length};
    struct ledger *ledger = body->cpu->ledger;
    if (length == 0)
        return TD_OK;
    TRY(ledger_reserve_over(ledger, length, LEDGER_REQUESTS_BYTES));
    enum td_status status = add(body, &part, length);
    if (status == TD_OK)
        owned = NULL;
    else
        ledger_release(ledger, length, 0, 0);
    return status;
}

bool body_in_place(const struct tensor *tensor, enum td_dtype dtype)
{
    return device_is_cpu(tensor->storage->device) && tensor->layout.dtype == dtype &&
           layout_is_contiguous(&tensor->layout);
}

enum td_status body_add_tensor(struct body *body, struct tensor *tensor, enum td_dtype dtype,
                               bool saturate)
{
    size_t element_bytes = dtype_infos[dtype].size_bytes;
    uint64_t bytes = (uint64_t)tensor->layout.elements * element_bytes;
    struct part part = {.tensor = tensor, .dtype = dtype, .saturate = saturate};
    part.in_place = body_in_place(tensor, dtype);
    TRY(add(body, &part, bytes));
    if (bytes == 0)
        return TD_OK;
    tensor_ref(tensor);
    size_t most = body->block_bytes < element_bytes ? element_bytes : body->block_bytes;
    size_t block = bytes < most ? (size_t)bytes : most;
    if (!part.in_place && body->buffer_bytes < block)
        body->buffer_bytes = block;
    return TD_OK;
}

uint64_t body_total_bytes(const struct body *body)
{
    return body->total_bytes;
}

/* ---- memory for blocks -------------------------------------------------------------------------
 */

/* Whether its elements are to be converted where they lie before they can be downloaded. */
static bool needs_scratch(const struct part *part)
{
    return part->tensor && !device_is_cpu(part->tensor->storage->device) &&
           (part->tensor->layout.dtype != part->dtype ||
            !layout_is_contiguous(&part->tensor->layout));
}

/* One for all parts on the same device. */
static enum td_status make_scratch(struct body *body, struct part *part, struct account *payer)
{
    struct device *device = part->tensor->storage->device;
    for (const struct part *p = body->parts; p < part; p++)
        if (p->scratch && p->scratch->device == device) {
            part->scratch = storage_ref(p->scratch);
            return TD_OK;
        }
    return storage_create(device, payer, body->buffer_bytes, false, &part->scratch);
}

/* The largest parts that have at most block_bytes, of which there are some. */
static void split_begin(struct body *body)
{
    struct split *split = &body->split;
    if (body->at == body->count)
        return;
    const struct part *part = &body->parts[body->at];
    if (part->bytes || part->in_place)
        return;
    split->source = part->tensor->layout;
    const struct layout *source = &split->source;
    if (source->rank == 0) {
        split->source.rank = 1;
        split->source.shape[0] = split->source.strides[0] = 1;
    }
    size_t fit = body->block_bytes / dtype_infos[part->dtype].size_bytes;
    int64_t most = fit == 0 ? 1 : fit > INT64_MAX ? INT64_MAX : (int64_t)fit;
    split->dimension = source->rank - 1;
    split->row = 1;
    split->done = 0;
    while (split->dimension > 0 && source->shape[split->dimension] <= most / split->row)
        split->row *= source->shape[split->dimension--];
    int64_t size = source->shape[split->dimension];
    split->rows = most / split->row < size ? most / split->row : size;
}

enum td_status body_prepare(struct body *body, struct account *payer)
{
    if (body->prepared)
        return TD_OK;
    if (body->buffer_bytes && !body->buffer)
        TRY(storage_create(body->cpu, payer, body->buffer_bytes, false, &body->buffer));
    for (struct part *part = body->parts; part < body->parts + body->count; part++)
        if (needs_scratch(part) && !part->scratch)
            TRY(make_scratch(body, part, payer));
    body->prepared = true;
    split_begin(body);
    return TD_OK;
}

/* ---- pieces ------------------------------------------------------------------------------------
 */

/* The next block, as a layout of the tensor's storage. */
static struct layout next_block(const struct split *split)
{
    struct layout block = split->source;
    int64_t element_bytes = (int64_t)dtype_infos[block.dtype].size_bytes;
    /* The position, counted as if all dimensions up to the split one were one. */
    int64_t position = split->done / split->row;
    int64_t left = block.shape[split->dimension] - position % block.shape[split->dimension];
    for (int d = split->dimension; d >= 0; d--) {
        block.offset_bytes += position % block.shape[d] * block.strides[d] * element_bytes;
        position /= block.shape[d];
        block.shape[d] = 1;
    }
    block.shape[split->dimension] = left < split->rows ? left : split->rows;
    block.elements = block.shape[split->dimension] * split->row;
    return block;
}

/* The block's elements, cast and in C order, at the start of the buffer. */
static enum td_status fill_buffer(const struct body *body, const struct part *part,
                                  const struct layout *block)
{
    const struct memory *memory = &part->tensor->storage->memory;
    struct device *device = part->tensor->storage->device;
    struct memory *buffer = &body->buffer->memory;
    struct dims shape = {.rank = block->rank};
    struct layout packed;
    memcpy(shape.v, block->shape, sizeof shape.v);
    TRY(layout_contiguous(part->dtype, &shape, &packed));
    size_t size = (size_t)layout_nbytes(&packed);
    if (device_is_cpu(device))
        return device->ops->convert(device, block, memory, &packed, buffer, part->saturate);
    if (!part->scratch)
        return device->ops->download(device, memory, (uint64_t)block->offset_bytes, buffer->data,
                                     size);
    struct memory *scratch = &part->scratch->memory;
    TRY(device->ops->convert(device, block, memory, &packed, scratch, part->saturate));
    return device->ops->download(device, scratch, 0, buffer->data, size);
}

static void next_part(struct body *body)
{
    body->at++;
    split_begin(body);
}

enum td_status body_next(struct body *body, const void **data, size_t *size_bytes)
{
    assert(body->prepared);
    *size_bytes = 0;
    *data = NULL;
    if (body->at == body->count)
        return TD_OK;
    const struct part *part = &body->parts[body->at];
    if (part->bytes || part->in_place) {
        *data = part->bytes ? part->bytes : tensor_data(part->tensor);
        *size_bytes = part->bytes ? part->length : (size_t)layout_nbytes(&part->tensor->layout);
        next_part(body);
        return TD_OK;
    }
    struct layout block = next_block(&body->split);
    TRY(fill_buffer(body, part, &block));
    *data = body->buffer->memory.data;
    *size_bytes = (size_t)block.elements * dtype_infos[part->dtype].size_bytes;
    body->split.done += block.elements;
    if (body->split.done == body->split.source.elements)
        next_part(body);
    return TD_OK;
}

size_t body_work_bytes(const struct body *body)
{
    if (body->at == body->count)
        return 0;
    const struct part *part = &body->parts[body->at];
    if (part->bytes || part->in_place)
        return 0;
    struct layout block = next_block(&body->split);
    size_t from = dtype_infos[block.dtype].size_bytes, to = dtype_infos[part->dtype].size_bytes;
    return (size_t)block.elements * (from > to ? from : to);
}
