/* What an operation may cost, before it runs: whether a thread that serves connections may do it.
 */
#include "core/ops_internal.h"

static uint64_t saturating(uint64_t a, uint64_t factor)
{
    uint64_t product;
    return __builtin_mul_overflow(a, factor, &product) ? UINT64_MAX : product;
}

/* The elements that a creating operation makes, 0 if its shape is none. */
static uint64_t made_elements(const struct op_call *call)
{
    const struct fields *in = call->in;
    struct layout made;
    if (!FIELDS_HAS(in, shape) || call->input ||
        layout_contiguous(TD_BOOL, &in->shape, &made) != TD_OK)
        return 0;
    uint64_t elements = (uint64_t)made.elements;
    return call->op == OP_eye && made.rank == 1 ? saturating(elements, elements) : elements;
}

/* Bytes, or their like, for each element: random and printed numbers take far more than a copy. */
static uint64_t element_cost(const struct op_call *call)
{
    const struct fields *in = call->in;
    size_t size = FIELDS_HAS(in, dtype) ? dtype_infos[in->dtype].size_bytes : 1;
    if (call->input && dtype_infos[call->input->layout.dtype].size_bytes > size)
        size = dtype_infos[call->input->layout.dtype].size_bytes;
    switch (call->op) {
    case OP_rand:
    case OP_randn:
    case OP_randint:
        return 16 + size;
    case OP_print:
        return 64;
    default:
        return size < 8 && !FIELDS_HAS(in, dtype) ? 8 : size;
    }
}

/* What is looked at of the input. */
static const struct layout *read_layout(const struct op_call *call)
{
    return call->op == OP_get ? &call->layout : &call->input->layout;
}

/* Whether mapping the input is only a matter of passing a descriptor. */
static bool maps_at_once(const struct op_call *call)
{
    const struct storage *storage = call->input->storage;
    bool small_frozen = storage_mode_of(storage) == STORAGE_FROZEN && storage->memory.fd < 0;
    return call->local && !small_frozen &&
           (atomic_load(&storage->memory.sealed) || storage->size_bytes <= OP_INLINE_BYTES);
}

/* Whether an operation that may copy has nothing to copy: its result is the input's own memory. */
static bool copies_nothing(const struct op_call *call)
{
    const struct fields *in = call->in;
    const struct tensor *input = call->input, *like = call->other ? call->other : input;
    if (!input)
        return false;
    bool on_cpu = device_is_cpu(input->storage->device);
    bool in_order = layout_is_contiguous(read_layout(call));
    enum td_dtype dtype = FIELDS_HAS(in, dtype) ? in->dtype : like->layout.dtype;
    switch (call->op) {
    case OP_get:
        return on_cpu && in_order && dtype == input->layout.dtype;
    case OP_map:
    case OP_numpy:
        return on_cpu && (call->local ? maps_at_once(call) : in_order);
    case OP_contiguous:
        return in_order;
    case OP_reshape: /* at worst a view is made in the job pool */
        return in_order;
    case OP_slice:
    case OP_getitem:
        return !index_steps_back(&in->index);
    case OP_cpu:
        return on_cpu;
    case OP_to:
    case OP_type:
    case OP_as_tensor:
        return dtype == input->layout.dtype && !(FIELDS_HAS(in, copy) && in->copy) &&
               (FIELDS_HAS(in, device) ? call->device : like->storage->device) ==
                   input->storage->device;
    default:
        return false;
    }
}

uint64_t op_cost_bytes(const struct op_call *call)
{
    unsigned traits = op_infos[call->op].traits;
    if (!(traits & OP_BYTES) || copies_nothing(call))
        return 0;
    if (FIELDS_HAS(call->in, end)) /* arange: not known before its arithmetic is done */
        return OP_INLINE_BYTES + 1;
    uint64_t elements = made_elements(call);
    if (call->input)
        elements += (uint64_t)read_layout(call)->elements;
    if (call->other)
        elements += (uint64_t)call->other->layout.elements;
    uint64_t bytes = saturating(elements, element_cost(call));
    /* An in-place operation may wait for another one on the same storage, however small its view.
     */
    if ((traits & OP_IN_PLACE) && bytes < call->input->storage->size_bytes)
        return call->input->storage->size_bytes;
    return bytes;
}
