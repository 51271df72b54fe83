/* philox: loops that use every number of a block before they make the next one. */
#include "core/philox.h"

#include <assert.h>

void philox_fill_uniform_bits(uint64_t seed, uint64_t offset, uint64_t first, size_t count,
                              unsigned bits, float *out)
{
    assert(bits >= 1 && bits <= 24);
    for (size_t i = 0; i < count;) {
        uint64_t index = first + i;
        struct philox_block block = philox_block(seed, offset, index / 4);
        for (uint64_t lane = index % 4; lane < 4 && i < count; lane++)
            out[i++] = philox_float_of_word(block.w[lane], bits);
    }
}

void philox_fill_uniform_double(uint64_t seed, uint64_t offset, uint64_t first, size_t count,
                                double *out)
{
    for (size_t i = 0; i < count;) {
        uint64_t index = first + i;
        struct philox_block block = philox_block(seed, offset, index / 2);
        for (unsigned half = index % 2; half < 2 && i < count; half++)
            out[i++] = philox_double_of_half(philox_half(block, half));
    }
}

void philox_fill_normal(uint64_t seed, uint64_t offset, uint64_t first, size_t count, double *out)
{
    for (size_t i = 0; i < count;) {
        uint64_t index = first + i;
        struct philox_pair pair = philox_normals_of_block(philox_block(seed, offset, index / 2));
        for (uint64_t lane = index % 2; lane < 2 && i < count; lane++)
            out[i++] = pair.v[lane];
    }
}

void philox_fill_randint(uint64_t seed, uint64_t offset, uint64_t first, size_t count, int64_t low,
                         int64_t high, int64_t *out)
{
    assert(low < high);
    for (size_t i = 0; i < count; i++)
        out[i] = philox_randint(seed, offset, first + i, low, high);
}
