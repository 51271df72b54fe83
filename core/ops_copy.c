/* Copying elements: between dtypes, layouts and devices. */
#include "core/ops_internal.h"

#include <string.h>

/* Bytes that cross between devices at a time. */
#define BOUNCE_BYTES ((uint64_t)1 << 20)

/* Equal dtype and C order on both sides: through host memory, piece by piece. */
static enum td_status copy_across(const struct tensor *src, uint64_t src_offset, struct tensor *dst,
                                  uint64_t dst_offset, uint64_t size)
{
    struct device *from = src->storage->device, *to = dst->storage->device;
    struct memory *dst_memory = &dst->storage->memory;
    if (device_is_cpu(from))
        return to->ops->upload(to, dst_memory, dst_offset, src->storage->memory.data + src_offset,
                               size);
    if (device_is_cpu(to))
        return from->ops->download(from, &src->storage->memory, src_offset,
                                   dst_memory->data + dst_offset, size);
    _cleanup_(freep) unsigned char *bounce = malloc(BOUNCE_BYTES);
    if (!bounce)
        return fail(TD_OUT_OF_MEMORY, "no memory to copy between devices");
    for (uint64_t done = 0, part; done < size; done += part) {
        part = size - done < BOUNCE_BYTES ? size - done : BOUNCE_BYTES;
        TRY(from->ops->download(from, &src->storage->memory, src_offset + done, bounce, part));
        TRY(to->ops->upload(to, dst_memory, dst_offset + done, bounce, part));
    }
    return TD_OK;
}

static enum td_status convert_on(struct device *device, const struct tensor *src,
                                 const struct layout *src_layout, struct tensor *dst,
                                 const struct layout *dst_layout, bool saturate)
{
    return device->ops->convert(device, src_layout, &src->storage->memory, dst_layout,
                                &dst->storage->memory, saturate);
}

enum td_status op_copy_elements(const struct tensor *src, const struct layout *src_layout,
                                struct tensor *dst, const struct layout *dst_layout, bool saturate)
{
    struct device *from = src->storage->device, *to = dst->storage->device;
    if (from == to)
        return convert_on(from, src, src_layout, dst, dst_layout, saturate);
    /* Cast and gather where the elements are, cross, and scatter where they go. */
    _cleanup_(tensor_unrefp) struct tensor *gathered = NULL, *arrived = NULL;
    struct dims shape = dims_of_layout(src_layout);
    TRY(op_new_tensor(from, NULL, dst_layout->dtype, &shape, false, &gathered));
    TRY(convert_on(from, src, src_layout, gathered, &gathered->layout, saturate));
    uint64_t size = (uint64_t)layout_nbytes(dst_layout);
    if (layout_is_contiguous(dst_layout))
        return copy_across(gathered, 0, dst, (uint64_t)dst_layout->offset_bytes, size);
    TRY(op_new_tensor(to, NULL, dst_layout->dtype, &shape, false, &arrived));
    TRY(copy_across(gathered, 0, arrived, 0, size));
    return convert_on(to, arrived, &arrived->layout, dst, dst_layout, false);
}

static enum td_status copy_of(struct tensor *src, const struct layout *layout,
                              struct account *payer, enum td_dtype dtype, struct device *device,
                              bool saturate, struct tensor **out)
{
    _cleanup_(tensor_unrefp) struct tensor *copy = NULL;
    struct dims shape = dims_of_layout(layout);
    TRY(op_new_tensor(device, payer, dtype, &shape, false, &copy));
    TRY(op_copy_elements(src, layout, copy, &copy->layout, saturate));
    *out = take(&copy);
    return TD_OK;
}

enum td_status op_copy_of(struct tensor *src, struct account *payer, enum td_dtype dtype,
                          struct device *device, bool saturate, struct tensor **out)
{
    return copy_of(src, &src->layout, payer, dtype, device, saturate, out);
}

enum td_status op_copy_of_layout(struct tensor *src, const struct layout *layout,
                                 struct account *payer, struct tensor **out)
{
    return copy_of(src, layout, payer, layout->dtype, src->storage->device, false, out);
}

enum td_status op_host_contiguous(struct op_call *call, struct tensor *src, enum td_dtype dtype,
                                  struct tensor **out)
{
    if (device_is_cpu(src->storage->device) && src->layout.dtype == dtype &&
        layout_is_contiguous(&src->layout)) {
        *out = tensor_ref(src);
        return TD_OK;
    }
    return op_copy_of(src, call->account, dtype, call->engine->devices.list[0], op_saturate(call),
                      out);
}
