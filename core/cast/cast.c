/* cast: the table of the 17 x 17 pairs. */
#include "core/cast/cast.h"

#include "core/cast/cast_internal.h"

#define CAST_PAIR(FROM, TO)                                                                        \
    static void cast_##FROM##_##TO(const void *src, ptrdiff_t src_step_bytes, void *dst,           \
                                   ptrdiff_t dst_step_bytes, size_t count, unsigned flags)         \
    {                                                                                              \
        cast_run(TD_##FROM, TD_##TO, src, src_step_bytes, dst, dst_step_bytes, count, flags);      \
    }
#include "core/cast/cast_pairs.h"

enum cast_pair_counter {
#define CAST_PAIR(FROM, TO) CAST_COUNT_##FROM##_##TO,
#include "core/cast/cast_pairs.h"
    CAST_PAIR_COUNT
};
_Static_assert((int)CAST_PAIR_COUNT == TD_DTYPE_COUNT * TD_DTYPE_COUNT, "a row of cast_pairs.h");

static const cast_fn cast_table[TD_DTYPE_END][TD_DTYPE_END] = {
#define CAST_PAIR(FROM, TO) [TD_##FROM][TD_##TO] = cast_##FROM##_##TO,
#include "core/cast/cast_pairs.h"
};

cast_fn cast_find(enum td_dtype from, enum td_dtype to)
{
    unsigned row = (unsigned)from;
    unsigned column = (unsigned)to;
    return row < TD_DTYPE_END && column < TD_DTYPE_END ? cast_table[row][column] : NULL;
}
