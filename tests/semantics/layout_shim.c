/* core/layout.h for ctypes: plain arguments. A layout travels as one array of int64_t:
 * offset in elements, rank, then RANK_MAX sizes, then RANK_MAX strides; the dtype is int32. */
#include "core/layout.h"

#include <string.h>

#define PACKED (2 + 2 * RANK_MAX)

enum layout_shim_view { TRANSPOSE, PERMUTE, SQUEEZE, UNSQUEEZE, EXPAND, VIEW, SELECT, SLICE };

int layout_shim_rank_max(void);
int64_t layout_shim_none(void);
const char *layout_shim_detail(void);
int layout_shim_strided(const int64_t *in, uint64_t storage_bytes, int64_t *out);
int layout_shim_view(int view, const int64_t *in, int count, const int64_t *arguments,
                     int64_t *out);
int layout_shim_index(const int64_t *in, int count, const int64_t *items, int64_t *out);
void layout_shim_query(const int64_t *in, int64_t *contiguous, int64_t *overlaps, int64_t *bytes,
                       int64_t *span_bytes);
int64_t layout_shim_rows(const int64_t *in, const int64_t *other, int64_t *offsets,
                         int64_t *other_offsets);

int layout_shim_rank_max(void)
{
    return RANK_MAX;
}

int64_t layout_shim_none(void)
{
    return INDEX_NONE;
}

const char *layout_shim_detail(void)
{
    return fail_detail();
}

static struct layout unpack(const int64_t *in)
{
    struct layout layout = {.dtype = TD_INT32, .rank = (int)in[1], .offset_bytes = in[0] * 4};
    layout.elements = 1;
    for (int d = 0; d < layout.rank; d++) {
        layout.shape[d] = in[2 + d];
        layout.strides[d] = in[2 + RANK_MAX + d];
        layout.elements *= layout.shape[d];
    }
    return layout;
}

static void pack(const struct layout *layout, int64_t *out)
{
    memset(out, 0, PACKED * sizeof *out);
    out[0] = layout->offset_bytes / 4;
    out[1] = layout->rank;
    for (int d = 0; d < layout->rank; d++) {
        out[2 + d] = layout->shape[d];
        out[2 + RANK_MAX + d] = layout->strides[d];
    }
}

static enum td_status strided(const int64_t *in, uint64_t storage_bytes, int64_t *out)
{
    struct dims shape = {.rank = (int)in[1]}, strides = {.rank = (int)in[1]};
    struct layout layout;
    for (int d = 0; d < shape.rank && d < RANK_MAX; d++) {
        shape.v[d] = in[2 + d];
        strides.v[d] = in[2 + RANK_MAX + d];
    }
    TRY(layout_strided(TD_INT32, &shape, &strides, (uint64_t)in[0] * 4, storage_bytes, &layout));
    pack(&layout, out);
    return TD_OK;
}

int layout_shim_strided(const int64_t *in, uint64_t storage_bytes, int64_t *out)
{
    return (int)strided(in, storage_bytes, out);
}

static enum td_status make_view(int view, const struct layout *in, const struct dims *arguments,
                                bool *possible, struct layout *out)
{
    const int64_t *v = arguments->v;
    const struct index_item slice = {INDEX_SLICE, v[1], v[2], v[3]};
    switch (view) {
    case TRANSPOSE:
        return layout_transpose(in, v[0], v[1], out);
    case PERMUTE:
        return layout_permute(in, arguments, out);
    case SQUEEZE:
        return layout_squeeze(in, arguments->rank > 0, v[0], out);
    case UNSQUEEZE:
        return layout_unsqueeze(in, v[0], out);
    case EXPAND:
        return layout_expand(in, arguments, out);
    case VIEW:
        return layout_view(in, arguments, possible, out);
    case SELECT:
        return layout_select(in, v[0], v[1], out);
    case SLICE:
        return layout_slice(in, v[0], &slice, out);
    }
    return fail(TD_INVALID, "there is no view with the number %d", view);
}

/* -1 for a view that needs a copy. */
int layout_shim_view(int view, const int64_t *in, int count, const int64_t *arguments, int64_t *out)
{
    struct layout layout = unpack(in);
    struct dims dims = {.rank = count};
    bool possible = true;
    for (int i = 0; i < count && i < RANK_MAX; i++)
        dims.v[i] = arguments[i];
    enum td_status status = make_view(view, &layout, &dims, &possible, &layout);
    if (status == TD_OK && !possible)
        return -1;
    if (status == TD_OK)
        pack(&layout, out);
    return (int)status;
}

/* Four numbers an item: the kind, start, stop, step. */
int layout_shim_index(const int64_t *in, int count, const int64_t *items, int64_t *out)
{
    struct layout layout = unpack(in);
    struct index index = {.count = count};
    for (int i = 0; i < count && i < INDEX_MAX; i++)
        index.items[i] = (struct index_item){(enum index_kind)items[4 * i], items[4 * i + 1],
                                             items[4 * i + 2], items[4 * i + 3]};
    enum td_status status = layout_index(&layout, &index, &layout);
    if (status == TD_OK)
        pack(&layout, out);
    return (int)status;
}

void layout_shim_query(const int64_t *in, int64_t *contiguous, int64_t *overlaps, int64_t *bytes,
                       int64_t *span_bytes)
{
    struct layout layout = unpack(in);
    *contiguous = layout_is_contiguous(&layout);
    *overlaps = layout_self_overlaps(&layout);
    *bytes = layout_nbytes(&layout);
    *span_bytes = layout_span_bytes(&layout);
}

/* Where every element of two layouts of the same shape lies, in elements and in the order in which
 * their common rows come. Returns how many there are. */
int64_t layout_shim_rows(const int64_t *in, const int64_t *other, int64_t *offsets,
                         int64_t *other_offsets)
{
    struct layout layouts[2] = {unpack(in), unpack(other)};
    const struct layout *pointers[2] = {&layouts[0], &layouts[1]};
    struct layout_rows rows;
    int64_t steps[2][RANK_MAX], row_steps[2], counters[RANK_MAX] = {0};
    int64_t at[2] = {layouts[0].offset_bytes, layouts[1].offset_bytes};
    int64_t seen = 0;
    layout_rows(pointers, 2, &rows, steps, row_steps);
    if (rows.rows == 0)
        return 0;
    do {
        for (int64_t i = 0; i < rows.count; i++, seen++) {
            offsets[seen] = (at[0] + i * row_steps[0]) / 4;
            other_offsets[seen] = (at[1] + i * row_steps[1]) / 4;
        }
    } while (layout_rows_next(&rows, counters, steps, 2, at));
    return seen;
}
