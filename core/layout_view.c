/* The views of core/layout.h: from one layout to another over the same storage. Where PyTorch has a
 * text for an error, it is that text. Nothing here can leave the storage, because no view reaches a
 * byte that its input did not reach. */
#include "core/layout.h"

#include <inttypes.h>

#define MESSAGE_DIM_RANGE                                                                          \
    "Dimension out of range (expected to be in range of [%d, %d], but got %" PRId64 ")"

/* dim in -rank .. rank - 1, from the end when negative. */
static enum td_status wrap_dim(int64_t dim, int rank, int *out)
{
    if (dim < -rank || dim >= rank)
        return fail(TD_BAD_INDEX, MESSAGE_DIM_RANGE, -rank, rank - 1, dim);
    *out = (int)(dim < 0 ? dim + rank : dim);
    return TD_OK;
}

static void remove_dim(struct layout *layout, int dim)
{
    layout->rank--;
    for (int d = dim; d < layout->rank; d++) {
        layout->shape[d] = layout->shape[d + 1];
        layout->strides[d] = layout->strides[d + 1];
    }
}

/* The stride that PyTorch gives a new dimension of size 1 in front of dimension dim. */
static int64_t new_stride(const struct layout *in, int dim)
{
    return dim < in->rank ? in->shape[dim] * in->strides[dim] : 1;
}

static void append_dim(struct layout *layout, int64_t size, int64_t stride)
{
    layout->shape[layout->rank] = size;
    layout->strides[layout->rank] = stride;
    layout->rank++;
}

static void append_dims(struct layout *layout, const struct layout *in, int from, int to)
{
    for (int d = from; d < to; d++)
        append_dim(layout, in->shape[d], in->strides[d]);
}

static enum td_status check_rank(int rank)
{
    if (rank < 0 || rank > RANK_MAX)
        return fail(TD_BAD_SHAPE, "a tensor has 0 to %d dimensions, not %d", RANK_MAX, rank);
    return TD_OK;
}

enum td_status layout_dim(const struct layout *layout, int64_t dim, int *out)
{
    return wrap_dim(dim, layout->rank == 0 ? 1 : layout->rank, out);
}

enum td_status layout_transpose(const struct layout *in, int64_t dim0, int64_t dim1,
                                struct layout *out)
{
    int a = 0, b = 0;
    TRY(layout_dim(in, dim0, &a));
    TRY(layout_dim(in, dim1, &b));
    struct layout result = *in;
    result.shape[a] = in->shape[b];
    result.strides[a] = in->strides[b];
    result.shape[b] = in->shape[a];
    result.strides[b] = in->strides[a];
    *out = result;
    return TD_OK;
}

enum td_status layout_permute(const struct layout *in, const struct dims *order, struct layout *out)
{
    struct layout result = *in;
    bool seen[RANK_MAX] = {false};
    /* PyTorch says sparse_coo here of dense tensors, too. */
    if (order->rank != in->rank)
        return fail(TD_BAD_SHAPE,
                    "permute(sparse_coo): number of dimensions in the tensor input does not match "
                    "the length of the desired ordering of dimensions i.e. input.dim() = %d is not "
                    "equal to len(dims) = %d",
                    in->rank, order->rank);
    for (int d = 0; d < in->rank; d++) {
        int from = 0;
        TRY(wrap_dim(order->v[d], in->rank, &from));
        if (seen[from])
            return fail(TD_BAD_SHAPE, "permute(): duplicate dims are not allowed.");
        seen[from] = true;
        result.shape[d] = in->shape[from];
        result.strides[d] = in->strides[from];
    }
    *out = result;
    return TD_OK;
}

enum td_status layout_squeeze(const struct layout *in, bool has_dim, int64_t dim,
                              struct layout *out)
{
    int only = 0;
    if (has_dim)
        TRY(layout_dim(in, dim, &only));
    struct layout result = *in;
    for (int d = in->rank - 1; d >= 0; d--)
        if (in->shape[d] == 1 && (!has_dim || d == only))
            remove_dim(&result, d);
    *out = result;
    return TD_OK;
}

enum td_status layout_unsqueeze(const struct layout *in, int64_t dim, struct layout *out)
{
    int at = 0;
    TRY(wrap_dim(dim, in->rank + 1, &at));
    TRY(check_rank(in->rank + 1));
    struct layout result = *in;
    result.rank = 0;
    append_dims(&result, in, 0, at);
    append_dim(&result, 1, new_stride(in, at));
    append_dims(&result, in, at, in->rank);
    *out = result;
    return TD_OK;
}

/* The size and stride of one dimension of an expanded layout. `old` is the dimension of `in` that
 * it comes from, negative for a new one in front; `layout` already has the dimensions behind it. */
static enum td_status expand_dim(const struct layout *in, const struct dims *shape, int dim,
                                 int old, struct layout *layout)
{
    char target[SHAPE_TEXT_SIZE], tensor[SHAPE_TEXT_SIZE];
    int64_t wanted = shape->v[dim];
    int64_t size = old >= 0 ? in->shape[old] : 1;
    int64_t stride = 0;
    if (wanted == -1 && old < 0)
        return fail(TD_BAD_SHAPE,
                    "The expanded size of the tensor (%" PRId64 ") isn't allowed in a leading, "
                    "non-existing dimension %d",
                    wanted, dim);
    if (wanted == -1)
        wanted = size;
    if (size != 1 && wanted != size)
        return fail(TD_BAD_SHAPE,
                    "The expanded size of the tensor (%" PRId64 ") must match the existing size "
                    "(%" PRId64 ") at non-singleton dimension %d.  Target sizes: %s.  Tensor "
                    "sizes: %s",
                    wanted, size, dim,
                    layout_shape_text(shape->rank, shape->v, target, sizeof target),
                    layout_shape_text(in->rank, in->shape, tensor, sizeof tensor));
    if (wanted < 0)
        return fail(TD_BAD_SHAPE, "invalid shape dimension %" PRId64 " at index %d of shape %s",
                    wanted, dim, layout_shape_text(shape->rank, shape->v, target, sizeof target));
    if (old >= 0 && wanted == size)
        stride = in->strides[old];
    else if (old < 0 && wanted == 1 && in->rank > 0)
        stride = layout->shape[dim + 1] * layout->strides[dim + 1];
    layout->shape[dim] = wanted;
    layout->strides[dim] = stride;
    return TD_OK;
}

enum td_status layout_expand(const struct layout *in, const struct dims *shape, struct layout *out)
{
    char text[SHAPE_TEXT_SIZE], tensor[SHAPE_TEXT_SIZE];
    TRY(check_rank(shape->rank));
    if (shape->rank < in->rank)
        return fail(TD_BAD_SHAPE,
                    "expand(torch.%s{%s}, size=%s): the number of sizes provided (%d) must be "
                    "greater or equal to the number of dimensions in the tensor (%d)",
                    td_dtype_name((int)in->dtype),
                    layout_shape_text(in->rank, in->shape, tensor, sizeof tensor),
                    layout_shape_text(shape->rank, shape->v, text, sizeof text), shape->rank,
                    in->rank);
    struct layout result = *in;
    struct dims sizes = {.rank = shape->rank};
    result.rank = shape->rank;
    for (int d = shape->rank - 1; d >= 0; d--) {
        TRY(expand_dim(in, shape, d, d - (shape->rank - in->rank), &result));
        sizes.v[d] = result.shape[d];
    }
    if (!dims_count(&sizes, in->dtype, &result.elements))
        return fail(TD_BAD_SHAPE, "Storage size calculation overflowed with sizes=%s",
                    layout_shape_text(sizes.rank, sizes.v, text, sizeof text));
    *out = result;
    return TD_OK;
}

/* The place of the one -1 of a shape, or -1. */
static enum td_status find_inferred(const struct dims *shape, int *out)
{
    char text[SHAPE_TEXT_SIZE];
    int inferred = -1;
    for (int d = 0; d < shape->rank; d++) {
        if (shape->v[d] == -1 && inferred >= 0)
            return fail(TD_BAD_SHAPE, "only one dimension can be inferred");
        if (shape->v[d] == -1)
            inferred = d;
        else if (shape->v[d] < 0)
            return fail(TD_BAD_SHAPE, "invalid shape dimension %" PRId64 " at index %d of shape %s",
                        shape->v[d], d,
                        layout_shape_text(shape->rank, shape->v, text, sizeof text));
    }
    *out = inferred;
    return TD_OK;
}

enum td_status layout_infer_shape(const struct layout *in, const struct dims *shape,
                                  struct dims *out)
{
    char text[SHAPE_TEXT_SIZE];
    int inferred = -1;
    TRY(check_rank(shape->rank));
    TRY(find_inferred(shape, &inferred));
    struct dims result = *shape;
    if (inferred >= 0)
        result.v[inferred] = 1;
    int64_t known;
    if (!dims_count(&result, in->dtype, &known))
        return fail(TD_BAD_SHAPE,
                    "shape '%s' is invalid for input of size %" PRId64
                    "; its size calculation overflows",
                    layout_shape_text(shape->rank, shape->v, text, sizeof text), in->elements);
    if (known == 0 && in->elements == 0 && inferred >= 0)
        return fail(TD_BAD_SHAPE,
                    "cannot reshape tensor of 0 elements into shape %s because the unspecified "
                    "dimension size -1 can be any value and is ambiguous",
                    layout_shape_text(shape->rank, shape->v, text, sizeof text));
    bool fits = inferred < 0 ? known == in->elements : known > 0 && in->elements % known == 0;
    if (!fits)
        return fail(TD_BAD_SHAPE, "shape '%s' is invalid for input of size %" PRId64,
                    layout_shape_text(shape->rank, shape->v, text, sizeof text), in->elements);
    if (inferred >= 0)
        result.v[inferred] = in->elements / known;
    *out = result;
    return TD_OK;
}

/* The strides for `shape` over the elements of `in`, of which there are some. The dimensions of
 * `in` fall into blocks within which one stride says it all; a view exists if the new dimensions
 * fall into blocks of the same sizes. Works from the innermost block outwards. */
static bool view_strides(const struct layout *in, const struct dims *shape, int64_t *strides)
{
    int next = shape->rank - 1; /* the new dimension to place */
    for (int d = in->rank - 1; d >= 0; d--) {
        int64_t base = in->strides[d];
        int64_t old_count = in->shape[d];
        while (d > 0 && (in->shape[d - 1] == 1 || in->strides[d - 1] == old_count * base))
            old_count *= in->shape[--d];
        int64_t new_count = 1;
        for (; next >= 0 && (new_count < old_count || shape->v[next] == 1); next--) {
            strides[next] = new_count * base;
            new_count *= shape->v[next];
        }
        if (new_count != old_count)
            return false;
    }
    return next < 0;
}

enum td_status layout_view(const struct layout *in, const struct dims *shape, bool *possible,
                           struct layout *out)
{
    struct dims sizes;
    struct layout result;
    TRY(layout_infer_shape(in, shape, &sizes));
    TRY(layout_contiguous(in->dtype, &sizes, &result));
    result.offset_bytes = in->offset_bytes;
    *possible = true;
    if (in->elements == 0 && layout_same_shape(in, &result))
        result = *in;
    else if (in->elements > 0 && in->rank > 0)
        *possible = view_strides(in, &sizes, result.strides);
    if (*possible)
        *out = result;
    return TD_OK;
}

/* Where an absent or negative end of a slice lies, within first .. last. */
static int64_t slice_end(int64_t value, int64_t absent, int64_t size, int64_t first, int64_t last)
{
    if (value == INDEX_NONE)
        return absent;
    if (value < 0)
        value += size;
    return value < first ? first : value > last ? last : value;
}

/* What is left of a dimension that an index or a slice cut. */
struct cut {
    int64_t size, stride;
    int64_t moved_bytes; /* from the old first element to the new one; within LAYOUT_BYTES_MAX */
};

/* The stride times the step. That can only be too large if nobody steps along it: it stays, and so
 * it does there, instead of becoming negative. */
static int64_t cut_stride(int64_t size, int64_t stride, int64_t step, int64_t element_bytes)
{
    int64_t product, bytes;
    if (step < 0)
        return size > 1 ? stride * step : stride;
    if (__builtin_mul_overflow(stride, step, &product) ||
        __builtin_mul_overflow(product, element_bytes, &bytes) ||
        __builtin_mul_overflow(bytes, size > 1 ? size : 1, &bytes) || bytes > LAYOUT_BYTES_MAX)
        return stride;
    return product;
}

static enum td_status cut_slice(const struct layout *in, int dim, const struct index_item *slice,
                                struct cut *out)
{
    int64_t element_bytes = (int64_t)td_dtype_size((int)in->dtype), size = in->shape[dim];
    int64_t step = slice->step == INDEX_NONE ? 1 : slice->step;
    if (step == 0)
        return fail(TD_BAD_INDEX, "slice step cannot be zero");
    bool back = step < 0;
    int64_t first = back ? -1 : 0, last = back ? size - 1 : size, pace = back ? -step : step;
    int64_t start = slice_end(slice->start, back ? last : first, size, first, last);
    int64_t stop = slice_end(slice->stop, back ? first : last, size, first, last);
    int64_t length = back ? start - stop : stop - start;
    out->size = length > 0 ? length / pace + (length % pace != 0) : 0;
    out->stride = cut_stride(out->size, in->strides[dim], step, element_bytes);
    out->moved_bytes = start * in->strides[dim] * element_bytes;
    return TD_OK;
}

/* The position must lie in -size .. size - 1. */
static int64_t position_bytes(const struct layout *in, int dim, int64_t position)
{
    int64_t from_start = position < 0 ? position + in->shape[dim] : position;
    return from_start * in->strides[dim] * (int64_t)td_dtype_size((int)in->dtype);
}

/* Counts the elements again after dimensions were cut or dropped, and moves the first one. */
static void settle(struct layout *layout, int64_t moved_bytes)
{
    layout->elements = 1;
    for (int d = 0; d < layout->rank; d++)
        layout->elements *= layout->shape[d]; /* not above what dims_count allowed */
    if (layout->elements > 0)
        layout->offset_bytes += moved_bytes;
}

static bool position_fits(int64_t position, int64_t size)
{
    return position >= -size && position < size;
}

bool index_steps_back(const struct index *index)
{
    for (int i = 0; i < index->count; i++) {
        const struct index_item *item = &index->items[i];
        if (item->kind == INDEX_SLICE && item->step < 0 && item->step != INDEX_NONE)
            return true;
    }
    return false;
}

enum td_status layout_slice(const struct layout *in, int64_t dim, const struct index_item *slice,
                            struct layout *out)
{
    int at = 0;
    if (in->rank == 0)
        return fail(TD_BAD_INDEX, "slice() cannot be applied to a 0-dim tensor.");
    TRY(layout_dim(in, dim, &at));
    struct cut cut;
    TRY(cut_slice(in, at, slice, &cut));
    struct layout result = *in;
    result.shape[at] = cut.size;
    result.strides[at] = cut.stride;
    settle(&result, cut.moved_bytes);
    *out = result;
    return TD_OK;
}

enum td_status layout_select(const struct layout *in, int64_t dim, int64_t position,
                             struct layout *out)
{
    int at = 0;
    if (in->rank == 0)
        return fail(TD_BAD_INDEX, "select() cannot be applied to a 0-dim tensor.");
    TRY(layout_dim(in, dim, &at));
    if (!position_fits(position, in->shape[at])) {
        char text[SHAPE_TEXT_SIZE];
        return fail(TD_BAD_INDEX,
                    "select(): index %" PRId64
                    " out of range for tensor of size %s at dimension %d",
                    position, layout_shape_text(in->rank, in->shape, text, sizeof text), at);
    }
    struct layout result = *in;
    remove_dim(&result, at);
    settle(&result, position_bytes(in, at, position));
    *out = result;
    return TD_OK;
}

/* Whether the items fit the rank; *used is how many dimensions they take. */
static enum td_status check_index(const struct layout *in, const struct index *index, int *used)
{
    int counts[INDEX_NEW_AXIS + 1] = {0};
    if (index->count < 0 || index->count > INDEX_MAX)
        return fail(TD_BAD_INDEX, "an index has 0 to %d items, not %d", INDEX_MAX, index->count);
    for (int i = 0; i < index->count; i++) {
        int kind = (int)index->items[i].kind;
        if (kind < INDEX_INTEGER || kind > INDEX_NEW_AXIS)
            return fail(TD_BAD_INDEX, "item %d of the index is of the unknown kind %d", i, kind);
        counts[kind]++;
    }
    *used = counts[INDEX_INTEGER] + counts[INDEX_SLICE];
    if (in->rank == 0 && index->count == 1 && counts[INDEX_INTEGER] == 1)
        return fail(TD_BAD_INDEX,
                    "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or "
                    "`tensor.item<T>()` in C++ to convert a 0-dim tensor to a number");
    if (in->rank == 0 && index->count == 1 && counts[INDEX_SLICE] == 1)
        return fail(TD_BAD_INDEX, "slice() cannot be applied to a 0-dim tensor.");
    if (*used > in->rank)
        return fail(TD_BAD_INDEX, "too many indices for tensor of dimension %d", in->rank);
    if (counts[INDEX_ELLIPSIS] > 1)
        return fail(TD_BAD_INDEX, "an index can only have a single ellipsis ('...')");
    return check_rank(in->rank - counts[INDEX_INTEGER] + counts[INDEX_NEW_AXIS]);
}

/* Applies one item to dimension *dim of `in` and the ones behind it. `skipped` dimensions are the
 * ellipsis's. */
static enum td_status index_item(const struct layout *in, const struct index_item *item,
                                 int skipped, int *dim, int64_t *moved_bytes, struct layout *result)
{
    struct cut cut;
    switch (item->kind) {
    case INDEX_INTEGER:
        if (!position_fits(item->start, in->shape[*dim]))
            return fail(TD_BAD_INDEX,
                        "index %" PRId64 " is out of bounds for dimension %d with size %" PRId64,
                        item->start, *dim, in->shape[*dim]);
        *moved_bytes += position_bytes(in, *dim, item->start);
        *dim += 1;
        return TD_OK;
    case INDEX_SLICE:
        TRY(cut_slice(in, *dim, item, &cut));
        *moved_bytes += cut.moved_bytes; /* at most RANK_MAX * LAYOUT_BYTES_MAX in all */
        append_dim(result, cut.size, cut.stride);
        *dim += 1;
        return TD_OK;
    case INDEX_ELLIPSIS:
        append_dims(result, in, *dim, *dim + skipped);
        *dim += skipped;
        return TD_OK;
    case INDEX_NEW_AXIS:
        append_dim(result, 1, new_stride(in, *dim));
        return TD_OK;
    }
    return fail(TD_INTERNAL, "an index item that was checked is of an unknown kind");
}

enum td_status layout_index(const struct layout *in, const struct index *index, struct layout *out)
{
    int used = 0;
    TRY(check_index(in, index, &used));
    struct layout result = {.dtype = in->dtype, .offset_bytes = in->offset_bytes};
    int64_t moved_bytes = 0;
    int dim = 0;
    for (int i = 0; i < index->count; i++)
        TRY(index_item(in, &index->items[i], in->rank - used, &dim, &moved_bytes, &result));
    append_dims(&result, in, dim, in->rank);
    settle(&result, moved_bytes);
    *out = result;
    return TD_OK;
}
