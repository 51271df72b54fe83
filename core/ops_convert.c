/* Operations that convert, and those that only look at the same memory differently for autograd. */
#include "core/ops_internal.h"

static enum td_status casting_refused(const char *rule, enum td_dtype from, enum td_dtype to)
{
    return fail(TD_BAD_DTYPE, "Cannot cast from %s to %s according to the rule '%s'",
                td_dtype_name((int)from), td_dtype_name((int)to), rule);
}

enum td_status op_check_cast(const struct op_call *call, enum td_dtype from, enum td_dtype to)
{
    struct text rule = FIELDS_HAS(call->in, casting) ? call->in->casting : text_of("unsafe");
    if (text_equal(rule, "unsafe"))
        return TD_OK;
    if (text_equal(rule, "same_kind"))
        return dtype_can_cast_same_kind(from, to) ? TD_OK : casting_refused("same_kind", from, to);
    if (text_equal(rule, "safe"))
        return dtype_can_cast_safely(from, to) ? TD_OK : casting_refused("safe", from, to);
    return fail(TD_INVALID, "casting must be one of 'unsafe', 'same_kind' or 'safe', not '%.*s'",
                TEXT_ARGS(rule));
}

/* The input as a copy, its grad flag kept as PyTorch keeps it, recorded as made by grad_fn. */
static enum td_status result_copy(struct op_call *call, enum td_dtype dtype, struct device *device,
                                  const char *reason, const char *grad_fn)
{
    _cleanup_(tensor_unrefp) struct tensor *copy = NULL;
    TRY(op_check_cast(call, call->input->layout.dtype, dtype));
    TRY(op_copy_of(call->input, call->account, dtype, device, op_saturate(call), &copy));
    bool same_dtype = dtype == call->input->layout.dtype;
    if (same_dtype || dtype_is_differentiable(dtype))
        TRY(tensor_record(copy, grad_fn, call->input, call->in->input, call->input_generation));
    op_finish_new(call, copy, true);
    op_result(call, take(&copy), reason);
    return TD_OK;
}

static enum td_status convert(struct op_call *call, enum td_dtype dtype, struct device *device)
{
    struct tensor *input = call->input;
    const char *reason = dtype != input->layout.dtype                   ? "dtype"
                         : device != input->storage->device             ? "device"
                         : FIELDS_HAS(call->in, copy) && call->in->copy ? "copy"
                                                                        : NULL;
    if (reason)
        return result_copy(call, dtype, device, reason, "ToCopyBackward0");
    op_result(call, tensor_ref(input), NULL);
    return TD_OK;
}

/* What is not named stays as it is. */
enum td_status op_run_to(struct op_call *call)
{
    const struct fields *in = call->in;
    const struct tensor *like = call->other ? call->other : call->input;
    enum td_dtype dtype = FIELDS_HAS(in, dtype) ? in->dtype : like->layout.dtype;
    struct device *device = FIELDS_HAS(in, device) ? call->device : like->storage->device;
    return convert(call, dtype, device);
}

enum td_status op_run_type(struct op_call *call)
{
    return op_run_to(call);
}

enum td_status op_run_as_tensor(struct op_call *call)
{
    return op_run_to(call);
}

enum td_status op_run_cpu(struct op_call *call)
{
    return convert(call, call->input->layout.dtype, call->engine->devices.list[0]);
}

enum td_status op_run_cuda(struct op_call *call)
{
    struct text name = FIELDS_HAS(call->in, device) ? call->in->device : text_of("cuda");
    struct device *device;
    TRY(devices_find(&call->engine->devices, name.data, name.length, &device));
    if (device_is_cpu(device))
        return fail(TD_NO_DEVICE, "Invalid device, must be cuda device");
    return convert(call, call->input->layout.dtype, device);
}

enum td_status op_run_clone(struct op_call *call)
{
    const struct tensor *input = call->input;
    return result_copy(call, input->layout.dtype, input->storage->device, "copy", "CloneBackward0");
}

enum td_status op_run_copy(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *copy = NULL;
    struct tensor *input = call->input;
    TRY(op_copy_of(input, call->account, input->layout.dtype, input->storage->device, false,
                   &copy));
    copy->is_variable = input->is_variable;
    atomic_store(&copy->requires_grad, tensor_requires_grad(input)); /* a leaf of its own */
    op_finish_new(call, copy, storage_mode_of(input->storage) != STORAGE_FROZEN);
    op_result(call, take(&copy), "copy");
    return TD_OK;
}

enum td_status op_run_contiguous(struct op_call *call)
{
    struct tensor *input = call->input;
    if (!layout_is_contiguous(&input->layout))
        return result_copy(call, input->layout.dtype, input->storage->device, "layout",
                           "CloneBackward0");
    op_result(call, tensor_ref(input), NULL);
    return TD_OK;
}

enum td_status op_run_detach(struct op_call *call)
{
    struct tensor *detached = NULL;
    TRY(tensor_view(call->input, &call->input->layout, &detached));
    op_result(call, detached, NULL);
    return TD_OK;
}

enum td_status op_run_data(struct op_call *call)
{
    TRY(op_run_detach(call));
    return tensor_fresh_version(call->result);
}

enum td_status op_run_variable(struct op_call *call)
{
    TRY(op_run_detach(call));
    call->result->is_variable = true;
    bool requires_grad = FIELDS_HAS(call->in, requires_grad) && call->in->requires_grad;
    atomic_store(&call->result->requires_grad, requires_grad);
    return TD_OK;
}

enum td_status op_run_requires_grad_(struct op_call *call)
{
    struct tensor *input = call->input;
    bool wanted = !FIELDS_HAS(call->in, requires_grad) || call->in->requires_grad;
    if (input->history && !wanted)
        return fail(TD_CONFLICT,
                    "you can only change requires_grad flags of leaf variables. If you want to use "
                    "a computed variable in a subgraph that doesn't require differentiation use "
                    "var_no_grad = var.detach().");
    atomic_store(&input->requires_grad, wanted);
    op_result(call, tensor_ref(input), NULL);
    return TD_OK;
}

enum td_status op_run_grad(struct op_call *call)
{
    struct tensor *grad = tensor_grad(call->input);
    if (!grad)
        return fail(TD_NOT_FOUND, "the tensor has no grad; set_grad sets one");
    op_result(call, grad, NULL);
    return TD_OK;
}

enum td_status op_run_set_grad(struct op_call *call)
{
    struct tensor *grad = call->other;
    const struct tensor *input = call->input;
    if (grad && !layout_same_shape(&grad->layout, &input->layout))
        return fail(TD_BAD_SHAPE, "assigned grad has data of a different size");
    if (grad && grad->layout.dtype != input->layout.dtype)
        return fail(TD_BAD_DTYPE, "assigned grad has data of a different type");
    if (grad && grad->storage->device != input->storage->device)
        return fail(TD_WRONG_DEVICE, "assigned grad has data located on a different device");
    /* A detached view, so that no circle of references can be built. */
    _cleanup_(tensor_unrefp) struct tensor *detached = NULL;
    if (grad)
        TRY(tensor_view(grad, &grad->layout, &detached));
    tensor_set_grad(call->input, detached);
    op_result(call, tensor_ref(call->input), NULL);
    return TD_OK;
}
