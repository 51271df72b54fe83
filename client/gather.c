/* gather: elements at any strides, copied into C order. */
#include "client/internal.h"

#include <string.h>

bool strides_are_c_order(int rank, const int64_t *shape, const int64_t *strides)
{
    int64_t expected = 1;
    for (int d = 0; d < rank; d++)
        if (shape[d] == 0)
            return true; /* nothing to be out of order */
    for (int d = rank - 1; d >= 0; d--) {
        if (shape[d] != 1 && strides[d] != expected)
            return false;
        expected *= shape[d]; /* the callers checked that the size is one */
    }
    return true;
}

/* One row of elements that lie `step` bytes apart. */
static void gather_row(size_t element_bytes, int64_t count, int64_t step, const char *from,
                       char *to)
{
#define GATHER_ROW(bytes)                                                                          \
    case bytes:                                                                                    \
        for (int64_t i = 0; i < count; i++)                                                        \
            memcpy(to + i * bytes, from + i * step, bytes);                                        \
        break
    switch (element_bytes) {
        GATHER_ROW(1);
        GATHER_ROW(2);
        GATHER_ROW(4);
        GATHER_ROW(8);
        GATHER_ROW(16);
    default:
        for (int64_t i = 0; i < count; i++)
            memcpy(to + (size_t)i * element_bytes, from + i * step, element_bytes);
    }
#undef GATHER_ROW
}

void gather(size_t element_bytes, int rank, const int64_t *shape, const int64_t *strides,
            const void *first, void *out)
{
    int64_t sizes[RANK_MAX], steps[RANK_MAX], at[RANK_MAX] = {0};
    int outer = 0;
    for (int d = 0; d < rank; d++) {
        if (shape[d] == 0)
            return;
        if (shape[d] == 1)
            continue;
        sizes[outer] = shape[d];
        steps[outer++] = strides[d] * (int64_t)element_bytes;
    }
    /* Inner dimensions without holes are one block. */
    size_t block = element_bytes;
    while (outer > 0 && steps[outer - 1] == (int64_t)block)
        block *= (size_t)sizes[--outer];
    int64_t count = 1, step = 0;
    if (outer > 0) {
        outer--;
        count = sizes[outer];
        step = steps[outer];
    }
    const char *from = first;
    for (char *to = out;; to += (size_t)count * block) {
        gather_row(block, count, step, from, to);
        int d = outer - 1;
        for (; d >= 0; d--) {
            from += steps[d];
            if (++at[d] < sizes[d])
                break;
            from -= steps[d] * sizes[d];
            at[d] = 0;
        }
        if (d < 0)
            return;
    }
}
