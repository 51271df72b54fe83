#include "core/blocks.h"

#include <string.h>

/* Elements are counted in C order. A block is a part of the tensor's layout: one position of each
 * dimension before `split`, up to `rows` of `split` itself, and all of those behind it. */
struct blocks {
    struct tensor *tensor;
    struct device *cpu;
    enum td_dtype dtype;
    bool saturate;
    bool in_place;
    struct layout source; /* the tensor's, with a dimension of 1 where it has none */
    int split;
    int64_t row;             /* elements of one position of `split` */
    int64_t rows;            /* positions of it in a block */
    int64_t done;            /* elements that were handed out */
    struct storage *buffer;  /* on the cpu: what is handed out */
    struct storage *scratch; /* on the tensor's device if that is another: what is downloaded */
};

/* The largest parts that have at most `most` elements, of which there are some. */
static void split_source(struct blocks *blocks, int64_t most)
{
    const struct layout *source = &blocks->source;
    blocks->split = source->rank - 1;
    blocks->row = 1;
    while (blocks->split > 0 && source->shape[blocks->split] <= most / blocks->row)
        blocks->row *= source->shape[blocks->split--];
    int64_t size = source->shape[blocks->split];
    blocks->rows = most / blocks->row < size ? most / blocks->row : size;
}

enum td_status blocks_create(struct tensor *tensor, enum td_dtype dtype, bool saturate,
                             size_t block_bytes, struct device *cpu, struct blocks **out)
{
    struct blocks *blocks = calloc(1, sizeof *blocks);
    if (!blocks)
        return fail(TD_OUT_OF_MEMORY, "no memory to read a tensor in blocks");
    struct layout *source = &blocks->source;
    blocks->tensor = tensor_ref(tensor);
    blocks->cpu = cpu;
    blocks->dtype = dtype;
    blocks->saturate = saturate;
    *source = tensor->layout;
    blocks->in_place = device_is_cpu(tensor->storage->device) && source->dtype == dtype &&
                       layout_is_contiguous(source);
    if (source->rank == 0) {
        source->rank = 1;
        source->shape[0] = source->strides[0] = 1;
    }
    size_t most = block_bytes / dtype_infos[dtype].size_bytes;
    if (source->elements > 0)
        split_source(blocks, most == 0 ? 1 : most > INT64_MAX ? INT64_MAX : (int64_t)most);
    *out = blocks;
    return TD_OK;
}

void blocks_destroy(struct blocks *blocks)
{
    if (!blocks)
        return;
    storage_unref(blocks->buffer);
    storage_unref(blocks->scratch);
    tensor_unref(blocks->tensor);
    free(blocks);
}

/* The next block, as a layout of the tensor's storage. */
static struct layout next_part(const struct blocks *blocks)
{
    struct layout part = blocks->source;
    int64_t element_bytes = (int64_t)dtype_infos[part.dtype].size_bytes;
    /* The position, counted as if all dimensions up to `split` were one. */
    int64_t position = blocks->done / blocks->row;
    int64_t left = part.shape[blocks->split] - position % part.shape[blocks->split];
    for (int d = blocks->split; d >= 0; d--) {
        part.offset_bytes += position % part.shape[d] * part.strides[d] * element_bytes;
        position /= part.shape[d];
        part.shape[d] = 1;
    }
    part.shape[blocks->split] = left < blocks->rows ? left : blocks->rows;
    part.elements = part.shape[blocks->split] * blocks->row;
    return part;
}

/* Room for the largest block, unless *storage is that already. */
static enum td_status make_room(const struct blocks *blocks, struct device *device,
                                struct storage **storage)
{
    uint64_t elements = (uint64_t)(blocks->rows * blocks->row);
    if (*storage)
        return TD_OK;
    return storage_create(device, NULL, elements * dtype_infos[blocks->dtype].size_bytes, false,
                          storage);
}

/* The part's elements, cast and in C order, at the start of the buffer. */
static enum td_status fill_buffer(struct blocks *blocks, const struct layout *part)
{
    const struct memory *memory = &blocks->tensor->storage->memory;
    struct device *device = blocks->tensor->storage->device;
    struct dims shape = {.rank = part->rank};
    struct layout packed;
    memcpy(shape.v, part->shape, sizeof shape.v);
    TRY(layout_contiguous(blocks->dtype, &shape, &packed));
    size_t size = (size_t)layout_nbytes(&packed);
    TRY(make_room(blocks, blocks->cpu, &blocks->buffer));
    struct memory *buffer = &blocks->buffer->memory;
    if (device_is_cpu(device))
        return device->ops->convert(device, part, memory, &packed, buffer, blocks->saturate);
    if (part->dtype == blocks->dtype && layout_is_contiguous(part))
        return device->ops->download(device, memory, (uint64_t)part->offset_bytes, buffer->data,
                                     size);
    TRY(make_room(blocks, device, &blocks->scratch));
    TRY(device->ops->convert(device, part, memory, &packed, &blocks->scratch->memory,
                             blocks->saturate));
    return device->ops->download(device, &blocks->scratch->memory, 0, buffer->data, size);
}

enum td_status blocks_next(struct blocks *blocks, const void **data, size_t *size_bytes)
{
    int64_t elements = blocks->source.elements - blocks->done;
    *size_bytes = 0;
    *data = NULL;
    if (elements == 0)
        return TD_OK;
    if (blocks->in_place) {
        *data = tensor_data(blocks->tensor);
    } else {
        struct layout part = next_part(blocks);
        TRY(fill_buffer(blocks, &part));
        *data = blocks->buffer->memory.data;
        elements = part.elements;
    }
    *size_bytes = (size_t)elements * dtype_infos[blocks->dtype].size_bytes;
    blocks->done += elements;
    return TD_OK;
}

uint64_t blocks_total_bytes(const struct blocks *blocks)
{
    return (uint64_t)blocks->source.elements * dtype_infos[blocks->dtype].size_bytes;
}

bool blocks_in_place(const struct blocks *blocks)
{
    return blocks->in_place;
}
