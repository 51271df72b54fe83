/* dlpack: mappings as DLPack tensors, and DLPack tensors stored. */
#include "client/dlpack.h"

#include "client/internal.h"

#include <string.h>

static enum td_dtype dtype_of(DLDataType type)
{
    for (int d = TD_DTYPE_NONE + 1; d < TD_DTYPE_END; d++)
        if (dtype_infos[d].dlpack_code == type.code && dtype_infos[d].size_bytes * 8 == type.bits &&
            type.lanes == 1)
            return (enum td_dtype)d;
    return TD_DTYPE_NONE;
}

/* A DLPack tensor and what it points to, freed together. */
struct export_versioned {
    DLManagedTensorVersioned tensor;
    struct td_mapping *mapping;
    int64_t shape[RANK_MAX], strides[RANK_MAX];
};

struct export_plain {
    DLManagedTensor tensor;
    struct td_mapping *mapping;
    int64_t shape[RANK_MAX], strides[RANK_MAX];
};

static void delete_versioned(DLManagedTensorVersioned *self)
{
    if (!self)
        return;
    struct export_versioned *export = self->manager_ctx;
    td_unmap(export->mapping);
    free(export);
}

static void delete_plain(DLManagedTensor *self)
{
    if (!self)
        return;
    struct export_plain *export = self->manager_ctx;
    td_unmap(export->mapping);
    free(export);
}

static DLTensor describe(const struct td_mapping *mapping, int64_t *shape, int64_t *strides)
{
    const struct td_info *info = td_mapping_info(mapping);
    memcpy(shape, info->shape, (size_t)info->rank * sizeof *shape);
    memcpy(strides, info->strides, (size_t)info->rank * sizeof *strides);
    return (DLTensor){
        .data = td_mapping_data(mapping),
        .device = {kDLCPU, 0}, /* a mapping is host memory, wherever the tensor lives */
        .ndim = info->rank,
        .dtype = {.code = (uint8_t)dtype_infos[info->dtype].dlpack_code,
                  .bits = (uint8_t)(dtype_infos[info->dtype].size_bytes * 8),
                  .lanes = 1},
        .shape = shape,
        .strides = strides,
    };
}

enum td_status td_dlpack_versioned(struct td_mapping *mapping,
                                   struct DLManagedTensorVersioned **out)
{
    struct export_versioned *export = malloc(sizeof *export);
    if (!export)
        return fail(TD_OUT_OF_MEMORY, "no memory for a DLPack tensor");
    bool copied = strcmp(td_mapping_info(mapping)->memory, "copied") == 0;
    export->mapping = mapping;
    export->tensor = (DLManagedTensorVersioned){
        .version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION},
        .manager_ctx = export,
        .deleter = delete_versioned,
        .flags = (td_mapping_writable(mapping) ? 0 : DLPACK_FLAG_BITMASK_READ_ONLY) |
                 (copied ? DLPACK_FLAG_BITMASK_IS_COPIED : 0),
        .dl_tensor = describe(mapping, export->shape, export->strides),
    };
    *out = &export->tensor;
    return TD_OK;
}

enum td_status td_dlpack(struct td_mapping *mapping, struct DLManagedTensor **out)
{
    if (!td_mapping_writable(mapping))
        return fail(TD_UNSUPPORTED,
                    "this mapping cannot be written, which a DLPack tensor without "
                    "version cannot say; use td_dlpack_versioned, or map with TD_MAP_PRIVATE");
    struct export_plain *export = malloc(sizeof *export);
    if (!export)
        return fail(TD_OUT_OF_MEMORY, "no memory for a DLPack tensor");
    export->mapping = mapping;
    export->tensor = (DLManagedTensor){
        .manager_ctx = export,
        .deleter = delete_plain,
        .dl_tensor = describe(mapping, export->shape, export->strides),
    };
    *out = &export->tensor;
    return TD_OK;
}

/* ---- storing ------------------------------------------------------------------------------- */

static bool is_host(DLDeviceType type)
{
    return type == kDLCPU || type == kDLCUDAHost || type == kDLROCMHost || type == kDLCUDAManaged;
}

static enum td_status check_import(const DLManagedTensorVersioned *tensor, struct layout *out)
{
    if (tensor->version.major != DLPACK_MAJOR_VERSION)
        return fail(TD_UNSUPPORTED, "the tensor is of DLPack %u.%u; %d.x is understood",
                    tensor->version.major, tensor->version.minor, DLPACK_MAJOR_VERSION);
    const DLTensor *t = &tensor->dl_tensor;
    if (!is_host(t->device.device_type))
        return fail(TD_WRONG_DEVICE,
                    "the tensor is on DLPack device type %d, and only host memory "
                    "can be stored; copy it to the cpu first",
                    (int)t->device.device_type);
    enum td_dtype dtype = dtype_of(t->dtype);
    if (dtype == TD_DTYPE_NONE)
        return fail(TD_BAD_DTYPE, "no dtype is DLPack's code %u with %u bits and %u lanes",
                    t->dtype.code, t->dtype.bits, t->dtype.lanes);
    TRY(tensor_describe(dtype, t->ndim, t->shape, out));
    if (!t->data && out->elements > 0)
        return fail(TD_INVALID, "the DLPack tensor has no data (NULL)");
    return TD_OK;
}

enum td_status td_put_dlpack(struct td_client *client, const char *name,
                             const struct DLManagedTensorVersioned *tensor, unsigned flags,
                             struct td_reply **reply)
{
    struct layout layout;
    TRY(check_import(tensor, &layout));
    const DLTensor *t = &tensor->dl_tensor;
    const char *first = layout.elements > 0 ? (const char *)t->data + t->byte_offset : NULL;
    if (!t->strides || strides_are_c_order(t->ndim, t->shape, t->strides))
        return tensor_put(client, name, &layout, first, flags, reply);
    size_t size = (size_t)layout_nbytes(&layout);
    void *copy = block_alloc(size);
    if (!copy)
        return fail(TD_OUT_OF_MEMORY, "no memory to gather %zu bytes into C order", size);
    gather(td_dtype_size((int)layout.dtype), t->ndim, t->shape, t->strides, first, copy);
    enum td_status status = tensor_put(client, name, &layout, copy, flags, reply);
    block_free(copy, size);
    return status;
}
