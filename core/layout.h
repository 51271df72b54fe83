/* layout: shape + strides + dtype as a value, and the one place that computes byte counts.
 *
 * A layout says which bytes of a storage a tensor covers: element (i0, i1, ...) lies at byte
 * offset_bytes + sum(ik * strides[k]) * element size. Strides count elements, as in PyTorch, and
 * may be 0 (expanded) but never negative: no tensor has such. Only what a slice with a negative
 * step makes of a layout does, on its way to core/convert, which copies it. Rank 0 is a scalar of
 * one element; a dimension of 0 means no elements at all. The bytes of all elements, the span, and
 * those of every size * stride are checked to stay within LAYOUT_BYTES_MAX before they are
 * computed, also where a size of 0 would hide them; views keep it so.
 *
 * Values: copy freely; nothing is allocated. Threads: pure functions.
 */
#ifndef CORE_LAYOUT_H
#define CORE_LAYOUT_H

#include "core/dtype_info.h"
#include "core/fail.h"

#include <stdint.h>

#define RANK_MAX 32

/* More than any address space holds, and far enough from INT64_MAX that sums and rounding up to
 * pages cannot wrap. */
#define LAYOUT_BYTES_MAX (INT64_C(1) << 56)

struct dims {
    int rank; /* 0 .. RANK_MAX */
    int64_t v[RANK_MAX];
};

struct layout {
    enum td_dtype dtype;
    int rank;
    int64_t shape[RANK_MAX];
    int64_t strides[RANK_MAX]; /* in elements */
    int64_t offset_bytes;      /* of the first element from the storage's start */
    int64_t elements;          /* product of shape */
};

/* The product of the sizes. false for an unknown dtype, a rank outside 0 .. RANK_MAX, a negative
 * size, or more than LAYOUT_BYTES_MAX bytes, where a size of 0 counts as 1 and hides nothing.
 * Writes no detail. */
NODISCARD bool dims_count(const struct dims *shape, enum td_dtype dtype, int64_t *elements);

/* A C-contiguous layout. BAD_SHAPE for a negative size or more bytes than LAYOUT_BYTES_MAX (also
 * when another dimension is 0), BAD_DTYPE outside the table. */
NODISCARD enum td_status layout_contiguous(enum td_dtype dtype, const struct dims *shape,
                                           struct layout *out);
/* A layout with strides of the caller's (elements) and an offset (bytes), which must lie within a
 * storage of storage_bytes and be a multiple of the element size. */
NODISCARD enum td_status layout_strided(enum td_dtype dtype, const struct dims *shape,
                                        const struct dims *strides, uint64_t offset_bytes,
                                        uint64_t storage_bytes, struct layout *out);

/* Bytes of the elements, without holes between them: elements * element size. */
int64_t layout_nbytes(const struct layout *layout);
/* Bytes from the first element's start to the last one's end; 0 without elements. */
int64_t layout_span_bytes(const struct layout *layout);
/* PyTorch's is_contiguous: C order without holes; dimensions of size 1 may have any stride. */
bool layout_is_contiguous(const struct layout *layout);
/* Two elements may share bytes (an expanded dimension), so that writing through it is ambiguous.
 * Exact for every view of a contiguous layout; of stranger strides true may be too strict. */
bool layout_self_overlaps(const struct layout *layout);
bool layout_same_shape(const struct layout *a, const struct layout *b);
/* The bytes from the first element to the last one of both have some in common, if they are of the
 * same storage; false is certain, true may be too strict. Strides may be negative, as above. */
bool layout_may_meet(const struct layout *a, const struct layout *b);
/* Every element of the one lies where it does in the other. */
bool layout_same_elements(const struct layout *a, const struct layout *b);

/* A dimension counted from the end when negative, as in PyTorch: -rank <= dim < rank (rank 0 counts
 * as rank 1). BAD_INDEX with PyTorch's text otherwise. */
NODISCARD enum td_status layout_dim(const struct layout *layout, int64_t dim, int *out);

/* Views. Each writes a layout over the same storage, or fails without touching `out`, which may be
 * `in`. A view without elements keeps the offset of what it came from, so that an offset never lies
 * past the storage's end; PyTorch moves it. */
NODISCARD enum td_status layout_transpose(const struct layout *in, int64_t dim0, int64_t dim1,
                                          struct layout *out);
NODISCARD enum td_status layout_permute(const struct layout *in, const struct dims *order,
                                        struct layout *out);
/* Sizes of 1, or only dimension dim if has_dim. */
NODISCARD enum td_status layout_squeeze(const struct layout *in, bool has_dim, int64_t dim,
                                        struct layout *out);
NODISCARD enum td_status layout_unsqueeze(const struct layout *in, int64_t dim, struct layout *out);
/* Broadcasting to `shape` (-1 keeps a size); new dimensions go in front. */
NODISCARD enum td_status layout_expand(const struct layout *in, const struct dims *shape,
                                       struct layout *out);
/* The shape with its one -1 replaced, which must hold the same number of elements. */
NODISCARD enum td_status layout_infer_shape(const struct layout *in, const struct dims *shape,
                                            struct dims *out);
/* PyTorch's view: the same elements in another shape where strides allow it; *possible tells.
 * BAD_SHAPE only if the number of elements differs. */
NODISCARD enum td_status layout_view(const struct layout *in, const struct dims *shape,
                                     bool *possible, struct layout *out);

enum index_kind { INDEX_INTEGER, INDEX_SLICE, INDEX_ELLIPSIS, INDEX_NEW_AXIS };

#define INDEX_NONE INT64_MIN /* an absent start, stop or step of a slice */
#define INDEX_MAX 64

struct index_item {
    enum index_kind kind;
    int64_t start, stop, step; /* an integer index is in start */
};

struct index {
    int count;
    struct index_item items[INDEX_MAX];
};

/* Whether a slice has a negative step: then the result of layout_index and layout_slice may have
 * negative strides, and has to be copied. */
bool index_steps_back(const struct index *index);
/* NumPy's basic indexing. An error names the dimension of `in`, whatever new axes and ellipses
 * stand before it. */
NODISCARD enum td_status layout_index(const struct layout *in, const struct index *index,
                                      struct layout *out);
/* One slice of one dimension: PyTorch's slice. */
NODISCARD enum td_status layout_slice(const struct layout *in, int64_t dim,
                                      const struct index_item *slice, struct layout *out);
/* One position of one dimension, which disappears: PyTorch's select. */
NODISCARD enum td_status layout_select(const struct layout *in, int64_t dim, int64_t position,
                                       struct layout *out);

/* "[2, 3, 4]" for messages, cut to fit; returns `buffer`. Any shape fits in SHAPE_TEXT_SIZE. */
#define SHAPE_TEXT_SIZE (22 * RANK_MAX + 3)
const char *layout_shape_text(int rank, const int64_t *shape, char *buffer, size_t size);

/* A layout as rows: runs along the innermost dimension, after dropping sizes of 1 and merging
 * dimensions that lie behind one another. The order of the elements stays.
 *
 *     layout_rows(layouts, 2, &rows, steps, row_steps);
 *     if (rows.rows > 0)
 *         do
 *             visit(offsets, row_steps, rows.count);
 *         while (layout_rows_next(&rows, counters, steps, 2, offsets));
 */
struct layout_rows {
    int rank;                /* dimensions that are left to count, without the innermost */
    int64_t count;           /* elements of a row */
    int64_t rows;            /* number of rows; 0 without elements */
    int64_t sizes[RANK_MAX]; /* outermost first */
};
/* Merges the dimensions of `n` layouts of equal shape together and gives every layout's strides (in
 * bytes) for what is left: steps[k][d] for outer dimension d, row_steps[k] along the row. */
void layout_rows(const struct layout *const *layouts, int n, struct layout_rows *rows,
                 int64_t steps[][RANK_MAX], int64_t *row_steps);
/* Moves offsets[0 .. n - 1] (in bytes; the caller starts with each layout's offset_bytes, and with
 * counters of 0) to the next row; false after the last one, when all are back at the start. */
bool layout_rows_next(const struct layout_rows *rows, int64_t counters[RANK_MAX],
                      int64_t steps[][RANK_MAX], int n, int64_t *offsets);

#endif
