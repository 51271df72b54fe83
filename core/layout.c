#include "core/layout.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

/* The bytes of n strides of `stride` elements; false past LAYOUT_BYTES_MAX. No argument is
 * negative. */
static bool stride_fits(int64_t n, int64_t stride, size_t element_bytes)
{
    int64_t bytes;
    return !__builtin_mul_overflow(n, stride, &bytes) &&
           !__builtin_mul_overflow(bytes, (int64_t)element_bytes, &bytes) &&
           bytes <= LAYOUT_BYTES_MAX;
}

static int64_t at_least_1(int64_t size)
{
    return size > 1 ? size : 1;
}

bool dims_count(const struct dims *shape, enum td_dtype dtype, int64_t *elements)
{
    int64_t capacity = 1; /* the product with 1 for every size of 0 */
    bool empty = false;
    if (!dtype_valid((int)dtype) || shape->rank < 0 || shape->rank > RANK_MAX)
        return false;
    for (int d = 0; d < shape->rank; d++) {
        int64_t size = shape->v[d];
        if (size < 0 || __builtin_mul_overflow(capacity, at_least_1(size), &capacity))
            return false;
        empty = empty || size == 0;
    }
    if (!stride_fits(capacity, 1, td_dtype_size((int)dtype)))
        return false;
    *elements = empty ? 0 : capacity;
    return true;
}

static enum td_status check_shape(enum td_dtype dtype, const struct dims *shape)
{
    char text[SHAPE_TEXT_SIZE];
    if (!dtype_valid((int)dtype))
        return fail(TD_BAD_DTYPE, "there is no dtype with the number %d; 1 to %d are known",
                    (int)dtype, TD_DTYPE_COUNT);
    if (shape->rank < 0 || shape->rank > RANK_MAX)
        return fail(TD_BAD_SHAPE, "a tensor has 0 to %d dimensions, not %d", RANK_MAX, shape->rank);
    for (int d = 0; d < shape->rank; d++)
        if (shape->v[d] < 0)
            return fail(TD_BAD_SHAPE,
                        "Trying to create tensor with negative dimension %" PRId64 ": %s",
                        shape->v[d], layout_shape_text(shape->rank, shape->v, text, sizeof text));
    return TD_OK;
}

enum td_status layout_contiguous(enum td_dtype dtype, const struct dims *shape, struct layout *out)
{
    struct layout layout = {.dtype = dtype};
    TRY(check_shape(dtype, shape));
    if (!dims_count(shape, dtype, &layout.elements)) {
        char text[SHAPE_TEXT_SIZE];
        return fail(TD_BAD_SHAPE, "Storage size calculation overflowed with sizes=%s",
                    layout_shape_text(shape->rank, shape->v, text, sizeof text));
    }
    layout.rank = shape->rank;
    int64_t stride = 1;
    for (int d = shape->rank - 1; d >= 0; d--) {
        layout.shape[d] = shape->v[d];
        layout.strides[d] = stride;
        stride *= at_least_1(shape->v[d]); /* at most what dims_count allowed */
    }
    *out = layout;
    return TD_OK;
}

static enum td_status check_strides(const struct layout *layout)
{
    char sizes[SHAPE_TEXT_SIZE], strides[SHAPE_TEXT_SIZE];
    size_t element_bytes = td_dtype_size((int)layout->dtype);
    for (int d = 0; d < layout->rank; d++)
        if (layout->strides[d] < 0)
            return fail(TD_BAD_SHAPE,
                        "as_strided: Negative strides are not supported at the moment, got "
                        "strides: %s",
                        layout_shape_text(layout->rank, layout->strides, strides, sizeof strides));
    bool fits = layout_span_bytes(layout) <= LAYOUT_BYTES_MAX;
    for (int d = 0; d < layout->rank && fits; d++)
        fits = stride_fits(at_least_1(layout->shape[d]), layout->strides[d], element_bytes);
    if (!fits)
        return fail(TD_BAD_SHAPE,
                    "Storage size calculation overflowed with sizes=%s and strides=%s",
                    layout_shape_text(layout->rank, layout->shape, sizes, sizeof sizes),
                    layout_shape_text(layout->rank, layout->strides, strides, sizeof strides));
    return TD_OK;
}

/* The span is at most LAYOUT_BYTES_MAX here. */
static enum td_status check_bounds(const struct layout *layout, uint64_t offset_bytes,
                                   uint64_t storage_bytes)
{
    char sizes[SHAPE_TEXT_SIZE], strides[SHAPE_TEXT_SIZE];
    size_t element_bytes = td_dtype_size((int)layout->dtype);
    uint64_t span = (uint64_t)layout_span_bytes(layout);
    if (offset_bytes % element_bytes != 0)
        return fail(TD_BAD_SHAPE,
                    "the offset of %" PRIu64 " bytes is no multiple of the %zu bytes of a %s",
                    offset_bytes, element_bytes, td_dtype_name((int)layout->dtype));
    if (offset_bytes > INT64_MAX - LAYOUT_BYTES_MAX)
        return fail(TD_BAD_SHAPE, "the offset of %" PRIu64 " bytes is too large", offset_bytes);
    if (span == 0 && offset_bytes > storage_bytes)
        return fail(TD_BAD_SHAPE,
                    "the offset of %" PRIu64 " bytes is out of bounds for storage of size %" PRIu64,
                    offset_bytes, storage_bytes);
    if (offset_bytes + span > storage_bytes)
        return fail(TD_BAD_SHAPE,
                    "setStorage: sizes %s, strides %s, storage offset %" PRIu64
                    ", and itemsize %zu requiring a storage size of %" PRIu64
                    " are out of bounds for storage of size %" PRIu64,
                    layout_shape_text(layout->rank, layout->shape, sizes, sizeof sizes),
                    layout_shape_text(layout->rank, layout->strides, strides, sizeof strides),
                    offset_bytes / element_bytes, element_bytes, offset_bytes + span,
                    storage_bytes);
    return TD_OK;
}

enum td_status layout_strided(enum td_dtype dtype, const struct dims *shape,
                              const struct dims *strides, uint64_t offset_bytes,
                              uint64_t storage_bytes, struct layout *out)
{
    struct layout layout;
    TRY(layout_contiguous(dtype, shape, &layout));
    if (strides->rank != shape->rank)
        return fail(TD_BAD_SHAPE, "mismatch in length of strides and shape");
    for (int d = 0; d < shape->rank; d++)
        layout.strides[d] = strides->v[d];
    TRY(check_strides(&layout));
    TRY(check_bounds(&layout, offset_bytes, storage_bytes));
    layout.offset_bytes = (int64_t)offset_bytes;
    *out = layout;
    return TD_OK;
}

int64_t layout_nbytes(const struct layout *layout)
{
    return layout->elements * (int64_t)td_dtype_size((int)layout->dtype);
}

/* INT64_MAX if that is too little, which no layout made here reaches. */
int64_t layout_span_bytes(const struct layout *layout)
{
    int64_t size = (int64_t)td_dtype_size((int)layout->dtype);
    int64_t last = 0;
    if (layout->elements == 0)
        return 0;
    for (int d = 0; d < layout->rank; d++) {
        int64_t reach;
        if (__builtin_mul_overflow(layout->shape[d] - 1, layout->strides[d], &reach) ||
            __builtin_add_overflow(last, reach, &last))
            return INT64_MAX;
    }
    if (__builtin_mul_overflow(last, size, &last) || __builtin_add_overflow(last, size, &last))
        return INT64_MAX;
    return last;
}

bool layout_is_contiguous(const struct layout *layout)
{
    int64_t expected = 1;
    if (layout->elements == 0)
        return true;
    for (int d = layout->rank - 1; d >= 0; d--) {
        if (layout->shape[d] == 1)
            continue;
        if (layout->strides[d] != expected)
            return false;
        expected *= layout->shape[d];
    }
    return true;
}

static int64_t magnitude(int64_t stride)
{
    return stride < 0 ? -stride : stride;
}

/* Sorted by stride, no element is met twice if every stride passes over all that the smaller ones
 * reach. Views of contiguous layouts keep that property; strides that break it are rare, and
 * finding out whether they overlap is a hard problem, so that they count as overlapping. */
bool layout_self_overlaps(const struct layout *layout)
{
    int order[RANK_MAX];
    int count = 0;
    if (layout->elements == 0)
        return false;
    for (int d = 0; d < layout->rank; d++) {
        if (layout->shape[d] == 1)
            continue;
        int at = count++;
        int64_t stride = magnitude(layout->strides[d]);
        for (; at > 0 && magnitude(layout->strides[order[at - 1]]) > stride; at--)
            order[at] = order[at - 1];
        order[at] = d;
    }
    int64_t reach = 0;
    for (int i = 0; i < count; i++) {
        int64_t stride = magnitude(layout->strides[order[i]]);
        if (stride <= reach)
            return true;
        reach += (layout->shape[order[i]] - 1) * stride; /* at most the span */
    }
    return false;
}

bool layout_same_shape(const struct layout *a, const struct layout *b)
{
    if (a->rank != b->rank)
        return false;
    for (int d = 0; d < a->rank; d++)
        if (a->shape[d] != b->shape[d])
            return false;
    return true;
}

/* Of which there are some; the checks of layouts keep all of it far from overflowing. */
static void bytes_between(const struct layout *layout, int64_t *begin, int64_t *end)
{
    int64_t size = (int64_t)td_dtype_size((int)layout->dtype);
    *begin = layout->offset_bytes;
    *end = layout->offset_bytes + size;
    for (int d = 0; d < layout->rank; d++)
        *(layout->strides[d] < 0 ? begin : end) +=
            (layout->shape[d] - 1) * layout->strides[d] * size;
}

bool layout_may_meet(const struct layout *a, const struct layout *b)
{
    int64_t a_begin, a_end, b_begin, b_end;
    if (a->elements == 0 || b->elements == 0)
        return false;
    bytes_between(a, &a_begin, &a_end);
    bytes_between(b, &b_begin, &b_end);
    return a_begin < b_end && b_begin < a_end;
}

bool layout_same_elements(const struct layout *a, const struct layout *b)
{
    if (!layout_same_shape(a, b) || a->dtype != b->dtype || a->offset_bytes != b->offset_bytes)
        return false;
    for (int d = 0; d < a->rank; d++)
        if (a->shape[d] != 1 && a->strides[d] != b->strides[d])
            return false;
    return true;
}

const char *layout_shape_text(int rank, const int64_t *shape, char *buffer, size_t size)
{
    size_t used = 0;
    if (size == 0)
        return buffer;
    buffer[0] = '\0';
    for (int d = 0; d <= rank && used < size; d++) {
        int n = d < rank ? snprintf(buffer + used, size - used, "%s%" PRId64, d == 0 ? "[" : ", ",
                                    shape[d])
                         : snprintf(buffer + used, size - used, rank > 0 ? "]" : "[]");
        used += (size_t)n;
    }
    return buffer;
}

/* All layouts step over the whole inner dimension when they step along the outer one. */
static bool dims_merge(const struct layout *const *layouts, int n, int outer, int inner)
{
    for (int k = 0; k < n; k++)
        if (layouts[k]->strides[outer] != layouts[k]->strides[inner] * layouts[k]->shape[inner])
            return false;
    return true;
}

void layout_rows(const struct layout *const *layouts, int n, struct layout_rows *rows,
                 int64_t steps[][RANK_MAX], int64_t *row_steps)
{
    assert(n > 0);
    const struct layout *first = layouts[0];
    int kept[RANK_MAX]; /* the innermost dimension of each merged group, outermost group first */
    int64_t sizes[RANK_MAX];
    int groups = 0;
    *rows = (struct layout_rows){.count = first->elements == 0 ? 0 : 1};
    for (int d = 0; d < first->rank && first->elements > 0; d++) {
        if (first->shape[d] == 1)
            continue;
        if (groups > 0 && dims_merge(layouts, n, kept[groups - 1], d)) {
            sizes[groups - 1] *= first->shape[d];
            kept[groups - 1] = d;
            continue;
        }
        sizes[groups] = first->shape[d];
        kept[groups++] = d;
    }
    for (int k = 0; k < n; k++) {
        assert(layout_same_shape(first, layouts[k]));
        int64_t element_bytes = (int64_t)td_dtype_size((int)layouts[k]->dtype);
        for (int g = 0; g < groups - 1; g++)
            steps[k][g] = layouts[k]->strides[kept[g]] * element_bytes;
        row_steps[k] = element_bytes;
        if (groups > 0)
            row_steps[k] *= layouts[k]->strides[kept[groups - 1]];
    }
    if (groups > 0)
        rows->count = sizes[groups - 1];
    rows->rank = groups > 0 ? groups - 1 : 0;
    rows->rows = first->elements == 0 ? 0 : 1;
    for (int g = 0; g < rows->rank; g++) {
        rows->sizes[g] = sizes[g];
        rows->rows *= sizes[g];
    }
}

bool layout_rows_next(const struct layout_rows *rows, int64_t counters[RANK_MAX],
                      int64_t steps[][RANK_MAX], int n, int64_t *offsets)
{
    for (int d = rows->rank - 1; d >= 0; d--) {
        if (++counters[d] < rows->sizes[d]) {
            for (int k = 0; k < n; k++)
                offsets[k] += steps[k][d];
            return true;
        }
        counters[d] = 0;
        for (int k = 0; k < n; k++)
            offsets[k] -= steps[k][d] * (rows->sizes[d] - 1);
    }
    return false;
}
