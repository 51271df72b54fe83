/* Operations whose result is another view of the input's memory. */
#include "core/ops_internal.h"

#include <stdio.h>

enum td_status op_run_view(struct op_call *call)
{
    struct layout layout;
    bool possible;
    TRY(layout_view(&call->input->layout, &call->in->shape, &possible, &layout));
    if (!possible)
        return fail(TD_BAD_SHAPE,
                    "view size is not compatible with input tensor's size and stride (at least one "
                    "dimension spans across two contiguous subspaces). Use .reshape(...) instead.");
    return op_result_view(call, &layout, "ViewBackward0");
}

enum td_status op_run_reshape(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *copy = NULL, *shaped = NULL;
    struct tensor *input = call->input;
    struct layout layout;
    bool possible;
    TRY(layout_view(&input->layout, &call->in->shape, &possible, &layout));
    if (possible)
        return op_result_view(call, &layout, "ViewBackward0");
    TRY(op_copy_of(input, call->account, input->layout.dtype, input->storage->device, false,
                   &copy));
    TRY(layout_view(&copy->layout, &call->in->shape, &possible, &layout));
    TRY(tensor_view(copy, &layout, &shaped));
    TRY(tensor_record(shaped, "UnsafeViewBackward0", input, call->in->input,
                      call->input_generation));
    op_finish_new(call, shaped, true);
    op_result(call, take(&shaped), "view");
    return TD_OK;
}

enum td_status op_run_transpose(struct op_call *call)
{
    struct layout layout;
    TRY(layout_transpose(&call->input->layout, call->in->dim0, call->in->dim1, &layout));
    return op_result_view(call, &layout, "TransposeBackward0");
}

enum td_status op_run_permute(struct op_call *call)
{
    struct layout layout;
    TRY(layout_permute(&call->input->layout, &call->in->dims, &layout));
    return op_result_view(call, &layout, "PermuteBackward0");
}

static enum td_status one_item(const struct op_call *call, enum index_kind kind, const char *what,
                               const struct index_item **out)
{
    const struct index *index = &call->in->index;
    if (index->count != 1 || index->items[0].kind != kind)
        return fail(TD_BAD_INDEX, "%s takes one %s as its index", op_infos[call->op].name, what);
    *out = &index->items[0];
    return TD_OK;
}

enum td_status op_run_select(struct op_call *call)
{
    const struct index_item *item;
    struct layout layout;
    TRY(one_item(call, INDEX_INTEGER, "integer", &item));
    TRY(layout_select(&call->input->layout, call->in->dim, item->start, &layout));
    return op_result_view(call, &layout, "SelectBackward0");
}

/* A view, or a copy where a step is negative, which no tensor's strides can say. */
static enum td_status result_indexed(struct op_call *call, const struct layout *layout,
                                     const char *grad_fn)
{
    _cleanup_(tensor_unrefp) struct tensor *copy = NULL;
    struct tensor *input = call->input;
    if (!index_steps_back(&call->in->index))
        return op_result_view(call, layout, grad_fn);
    TRY(op_copy_of_layout(input, layout, call->account, &copy));
    TRY(tensor_record(copy, grad_fn, input, call->in->input, call->input_generation));
    op_finish_new(call, copy, true);
    op_result(call, take(&copy), "layout");
    return TD_OK;
}

enum td_status op_run_slice(struct op_call *call)
{
    const struct index_item *item;
    struct layout layout;
    TRY(one_item(call, INDEX_SLICE, "slice", &item));
    TRY(layout_slice(&call->input->layout, call->in->dim, item, &layout));
    return result_indexed(call, &layout, "SliceBackward0");
}

/* What PyTorch names a chain of views after: its last step. */
static const char *index_grad_fn(const struct index *index)
{
    static const char *const names[] = {
        [INDEX_INTEGER] = "SelectBackward0",
        [INDEX_SLICE] = "SliceBackward0",
        [INDEX_ELLIPSIS] = "AliasBackward0",
        [INDEX_NEW_AXIS] = "UnsqueezeBackward0",
    };
    return names[index->count ? index->items[index->count - 1].kind : INDEX_ELLIPSIS];
}

enum td_status op_run_getitem(struct op_call *call)
{
    struct layout layout;
    TRY(layout_index(&call->input->layout, &call->in->index, &layout));
    return result_indexed(call, &layout, index_grad_fn(&call->in->index));
}

enum td_status op_result_to_read(struct op_call *call)
{
    return op_result_view(call, &call->layout, index_grad_fn(&call->in->index));
}

enum td_status op_run_squeeze(struct op_call *call)
{
    struct layout layout;
    bool has_dim = FIELDS_HAS(call->in, dim);
    TRY(layout_squeeze(&call->input->layout, has_dim, call->in->dim, &layout));
    return op_result_view(call, &layout, has_dim ? "SqueezeBackward1" : "SqueezeBackward0");
}

enum td_status op_run_unsqueeze(struct op_call *call)
{
    struct layout layout;
    TRY(layout_unsqueeze(&call->input->layout, call->in->dim, &layout));
    return op_result_view(call, &layout, "UnsqueezeBackward0");
}

enum td_status op_run_expand(struct op_call *call)
{
    struct layout layout;
    TRY(layout_expand(&call->input->layout, &call->in->shape, &layout));
    return op_result_view(call, &layout, "ExpandBackward0");
}
