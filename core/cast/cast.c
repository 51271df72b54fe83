/* cast: one loop for each of the 17 x 17 pairs, and the table that finds it. */
#include "core/cast/cast.h"

#include "core/cast/cast_scalar.h"

/* Equal dtypes. The size is a constant at every call, so that memcpy is one move. */
CAST_INLINE void cast_copy(const unsigned char *restrict in, ptrdiff_t in_step_bytes,
                           unsigned char *restrict out, ptrdiff_t out_step_bytes, size_t count,
                           size_t size_bytes)
{
    if (in_step_bytes == (ptrdiff_t)size_bytes && out_step_bytes == (ptrdiff_t)size_bytes) {
        if (count > 0)
            memcpy(out, in, count * size_bytes);
        return;
    }
    for (size_t i = 0; i < count; i++)
        memcpy(out + (ptrdiff_t)i * out_step_bytes, in + (ptrdiff_t)i * in_step_bytes, size_bytes);
}

/* Loads and stores are memcpy, which compilers make plain moves: any alignment will do. The first
 * loop is for the compiler's vectors: it knows the steps. */
#define CAST_PAIR(FROM, TO)                                                                        \
    CAST_INLINE void cast_one_##FROM##_##TO(const unsigned char *restrict in,                      \
                                            unsigned char *restrict out, bool saturate)            \
    {                                                                                              \
        CAST_TYPE_##FROM source;                                                                   \
        CAST_TYPE_##TO target;                                                                     \
        memcpy(&source, in, sizeof source);                                                        \
        target = CAST_SCALAR(FROM, TO, source, saturate);                                          \
        memcpy(out, &target, sizeof target);                                                       \
    }                                                                                              \
    static void cast_loop_##FROM##_##TO(const void *restrict src, ptrdiff_t src_step_bytes,        \
                                        void *restrict dst, ptrdiff_t dst_step_bytes,              \
                                        size_t count, unsigned flags)                              \
    {                                                                                              \
        const bool saturate = flags & CAST_SATURATE;                                               \
        const ptrdiff_t in_size = (ptrdiff_t)sizeof(CAST_TYPE_##FROM);                             \
        const ptrdiff_t out_size = (ptrdiff_t)sizeof(CAST_TYPE_##TO);                              \
        const unsigned char *restrict in = src;                                                    \
        unsigned char *restrict out = dst;                                                         \
        const ptrdiff_t n = (ptrdiff_t)count;                                                      \
        if ((int)TD_##FROM == (int)TD_##TO) {                                                      \
            cast_copy(in, src_step_bytes, out, dst_step_bytes, count, sizeof(CAST_TYPE_##FROM));   \
            return;                                                                                \
        }                                                                                          \
        if (src_step_bytes == in_size && dst_step_bytes == out_size) {                             \
            for (ptrdiff_t i = 0; i < n; i++)                                                      \
                cast_one_##FROM##_##TO(in + i * in_size, out + i * out_size, saturate);            \
            return;                                                                                \
        }                                                                                          \
        for (ptrdiff_t i = 0; i < n; i++)                                                          \
            cast_one_##FROM##_##TO(in + i * src_step_bytes, out + i * dst_step_bytes, saturate);   \
    }
#include "core/cast/cast_pairs.h"

/* The rows' sizes are the table's, and no pair is missing. */
#define CAST_CHECK_SIZE(number, NAME, name, size, ...)                                             \
    _Static_assert(sizeof(CAST_TYPE_##NAME) == (size), "the size of " #name);
TD_DTYPES(CAST_CHECK_SIZE)

enum cast_pair_counter {
#define CAST_PAIR(FROM, TO) CAST_COUNT_##FROM##_##TO,
#include "core/cast/cast_pairs.h"
    CAST_PAIR_COUNT
};
_Static_assert((int)CAST_PAIR_COUNT == TD_DTYPE_COUNT * TD_DTYPE_COUNT, "a row of cast_pairs.h");

static const cast_fn cast_table[TD_DTYPE_END][TD_DTYPE_END] = {
#define CAST_PAIR(FROM, TO) [TD_##FROM][TD_##TO] = cast_loop_##FROM##_##TO,
#include "core/cast/cast_pairs.h"
};

cast_fn cast_find(enum td_dtype from, enum td_dtype to)
{
    unsigned row = (unsigned)from;
    unsigned column = (unsigned)to;
    return row < TD_DTYPE_END && column < TD_DTYPE_END ? cast_table[row][column] : NULL;
}
