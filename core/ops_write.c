/* In-place operations, and arithmetic with a number. */
#include "core/ops_internal.h"
#include "core/scalar_check.h"

/* PyTorch's rule for in-place writes, through the tensor itself or through an index of it. */
static enum td_status check_in_place(const struct tensor *tensor, bool through_view)
{
    if (!tensor_requires_grad(tensor))
        return TD_OK;
    bool leaf = tensor->history == NULL;
    if (tensor->view_of_leaf || (leaf && through_view))
        return fail(TD_REQUIRES_GRAD, "a view of a leaf Variable that requires grad is being used "
                                      "in an in-place operation.");
    if (leaf)
        return fail(TD_REQUIRES_GRAD,
                    "a leaf Variable that requires grad is being used in an in-place operation.");
    return TD_OK;
}

static enum td_status check_overlap(const struct layout *target)
{
    if (layout_self_overlaps(target))
        return fail(TD_CONFLICT,
                    "unsupported operation: more than one element of the written-to tensor refers "
                    "to a single memory location. Please clone() the tensor before performing the "
                    "operation.");
    return TD_OK;
}

/* The source for a write into `target`: its layout broadcast to that shape, and in memory of its
 * own if it may share some that is written. Setting an item drops leading dimensions of size 1. */
static enum td_status source_for(struct op_call *call, const struct layout *target,
                                 struct tensor **held, struct layout *layout)
{
    struct tensor *source = call->other;
    struct dims shape = dims_of_layout(target);
    struct layout from = source->layout;
    TRY(op_check_cast(call, from.dtype, target->dtype));
    while (call->op == OP_setitem && from.rank > shape.rank && from.shape[0] == 1)
        TRY(layout_select(&from, 0, 0, &from));
    TRY(layout_expand(&from, &shape, layout));
    if (source->storage != call->input->storage || layout_same_elements(layout, target) ||
        !layout_may_meet(layout, target)) {
        *held = tensor_ref(source);
        return TD_OK;
    }
    TRY(op_copy_of_layout(source, &from, call->account, held));
    return layout_expand(&(*held)->layout, &shape, layout);
}

static enum td_status write_tensor(struct op_call *call, const struct layout *target)
{
    _cleanup_(tensor_unrefp) struct tensor *source = NULL;
    struct tensor *input = call->input;
    struct layout layout;
    TRY(source_for(call, target, &source, &layout));
    bool of_itself = source->storage == input->storage && layout_same_elements(&layout, target);
    TRY(storage_write_begin(input->storage));
    enum td_status status =
        of_itself ? TD_OK : op_copy_elements(source, &layout, input, target, op_saturate(call));
    storage_write_end(input->storage);
    return status;
}

static enum td_status write_value(struct op_call *call, const struct layout *target)
{
    struct storage *storage = call->input->storage;
    struct device *device = storage->device;
    TRY(scalar_check(&call->in->value, target->dtype));
    TRY(storage_write_begin(storage));
    enum td_status status = device->ops->fill(device, &call->in->value, target, &storage->memory);
    storage_write_end(storage);
    return status;
}

static enum td_status write_into(struct op_call *call, const struct layout *target)
{
    /* For a number, too, unlike PyTorch: a small storage can be expanded to more elements than
     * anybody could wait for. */
    TRY(check_overlap(target));
    TRY(call->other ? write_tensor(call, target) : write_value(call, target));
    tensor_bump_version(call->input);
    op_result(call, tensor_ref(call->input), NULL);
    return TD_OK;
}

enum td_status op_run_setitem(struct op_call *call)
{
    struct layout target;
    if (FIELDS_HAS(call->in, value) == FIELDS_HAS(call->in, other))
        return fail(TD_INVALID, "setitem takes either a value or another tensor");
    TRY(layout_index(&call->input->layout, &call->in->index, &target));
    TRY(check_in_place(call->input, true));
    return write_into(call, &target);
}

enum td_status op_run_fill_(struct op_call *call)
{
    TRY(check_in_place(call->input, false));
    return write_into(call, &call->input->layout);
}

enum td_status op_run_copy_(struct op_call *call)
{
    TRY(check_in_place(call->input, false));
    return write_into(call, &call->input->layout);
}

/* PyTorch's type promotion with a Python number: the number counts only by its kind. */
static enum td_dtype promote(enum td_dtype dtype, enum scalar_kind kind)
{
    char have = dtype_infos[dtype].kind;
    bool integral = have == 'b' || have == 'u' || have == 'i';
    switch (kind) {
    case SCALAR_BOOL:
        return dtype;
    case SCALAR_INT:
    case SCALAR_UINT:
        return have == 'b' ? TD_INT64 : dtype;
    case SCALAR_FLOAT:
        return integral ? TD_FLOAT32 : dtype;
    case SCALAR_COMPLEX:
        return have == 'c' ? dtype : dtype == TD_FLOAT64 ? TD_COMPLEX128 : TD_COMPLEX64;
    }
    return dtype;
}

static enum td_status arithmetic(struct op_call *call, enum arithmetic op, const char *grad_fn)
{
    _cleanup_(tensor_unrefp) struct tensor *result = NULL;
    struct tensor *input = call->input;
    const struct scalar *value = &call->in->value;
    struct device *device = input->storage->device;
    struct dims shape = dims_of_layout(&input->layout);
    TRY(op_new_tensor(device, call->account, promote(input->layout.dtype, value->kind), &shape,
                      false, &result));
    TRY(device->ops->arithmetic(device, op, &input->layout, &input->storage->memory, value,
                                &result->layout, &result->storage->memory));
    TRY(tensor_record(result, grad_fn, input, call->in->input, call->input_generation));
    op_finish_new(call, result, true);
    op_result_new(call, take(&result));
    return TD_OK;
}

enum td_status op_run_mul(struct op_call *call)
{
    return arithmetic(call, ARITHMETIC_MUL, "MulBackward0");
}

enum td_status op_run_add(struct op_call *call)
{
    return arithmetic(call, ARITHMETIC_ADD, "AddBackward0");
}
