/* transpose: shuffles of vectors.
 *
 * n vectors are taken as one row of n * lanes elements. A perfect shuffle, as of a pack of cards,
 * moves the element at p to 2p (modulo all places but the last), and log2(lanes) of them move it to
 * lanes * p: what was every n-th element then stands together. For n = lanes that is a transpose;
 * for smaller n it takes interleaved columns apart, and backwards it puts them together. */
#include "core/transpose.h"

#include <stdint.h>
#include <string.h>

#define VECTOR_BYTES 16
#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)

typedef uint8_t vector_1 __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t vector_2 __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t vector_4 __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t vector_8 __attribute__((vector_size(VECTOR_BYTES)));

/* Which elements of two vectors: of their low and high halves in turn; those at even and odd
 * places. */
#define LOW_1 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_1 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define EVEN_1 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD_1 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define LOW_2 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_2 4, 12, 5, 13, 6, 14, 7, 15
#define EVEN_2 0, 2, 4, 6, 8, 10, 12, 14
#define ODD_2 1, 3, 5, 7, 9, 11, 13, 15
#define LOW_4 0, 4, 1, 5
#define HIGH_4 2, 6, 3, 7
#define EVEN_4 0, 2, 4, 6
#define ODD_4 1, 3, 5, 7
#define LOW_8 0, 2
#define HIGH_8 1, 3
#define EVEN_8 0, 2
#define ODD_8 1, 3

#define SIZE 1
#include "core/transpose_loops.h"
#define SIZE 2
#include "core/transpose_loops.h"
#define SIZE 4
#include "core/transpose_loops.h"
#define SIZE 8
#include "core/transpose_loops.h"

/* One element is a vector: there is nothing to shuffle. */
static void transpose_16(const void *from, ptrdiff_t in_step, void *to, ptrdiff_t out_step,
                         size_t rows, size_t columns)
{
    const unsigned char *in = from;
    unsigned char *out = to;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++)
            memcpy(out + (ptrdiff_t)c * out_step + r * 16, in + (ptrdiff_t)r * in_step + c * 16,
                   16);
}

transpose_fn transpose_find(size_t element_bytes)
{
    static const transpose_fn by_size[17] = {
        [1] = transpose_1, [2] = transpose_2,   [4] = transpose_4,
        [8] = transpose_8, [16] = transpose_16,
    };
    return element_bytes < sizeof by_size / sizeof by_size[0] ? by_size[element_bytes] : NULL;
}
