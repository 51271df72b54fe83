/* cast_kernels: the kernels of one path, for cast_plain.c and its like, which say before:
 *
 *   CAST_KERNELS             the name of their table
 *   CAST_BY_HAND(FROM, TO)   whether in, out, count and saturate were dealt with in a better way
 *
 * Loads and stores are memcpy, which compilers make plain moves: any alignment will do. No include
 * guard: one table for each file. */
#include "core/cast/cast_internal.h"
#include "core/cast/cast_scalar.h"

#define CAST_PAIR(FROM, TO)                                                                        \
    static void cast_kernel_##FROM##_##TO(const unsigned char *restrict in,                        \
                                          unsigned char *restrict out, size_t count,               \
                                          bool saturate)                                           \
    {                                                                                              \
        if ((int)TD_##FROM == (int)TD_##TO) {                                                      \
            memcpy(out, in, count * sizeof(CAST_TYPE_##FROM));                                     \
            return;                                                                                \
        }                                                                                          \
        if (CAST_BY_HAND(FROM, TO))                                                                \
            return;                                                                                \
        for (size_t i = 0; i < count; i++) {                                                       \
            CAST_TYPE_##FROM source;                                                               \
            memcpy(&source, in + i * sizeof source, sizeof source);                                \
            CAST_TYPE_##TO target = CAST_SCALAR(FROM, TO, source, saturate);                       \
            memcpy(out + i * sizeof target, &target, sizeof target);                               \
        }                                                                                          \
    }
#include "core/cast/cast_pairs.h"

/* No pair is missing, and the rows' sizes are the table's. */
enum cast_pair_counter {
#define CAST_PAIR(FROM, TO) CAST_COUNT_##FROM##_##TO,
#include "core/cast/cast_pairs.h"
    CAST_PAIR_COUNT
};
_Static_assert((int)CAST_PAIR_COUNT == TD_DTYPE_COUNT * TD_DTYPE_COUNT, "a row of cast_pairs.h");

#define CAST_CHECK_SIZE(number, NAME, name, size, ...)                                             \
    _Static_assert(sizeof(CAST_TYPE_##NAME) == (size), "the size of " #name);
TD_DTYPES(CAST_CHECK_SIZE)

const cast_kernels CAST_KERNELS[TD_DTYPE_END] = {
#define CAST_PAIR(FROM, TO) [TD_##FROM][TD_##TO] = cast_kernel_##FROM##_##TO,
#include "core/cast/cast_pairs.h"
};
