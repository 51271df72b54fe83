/* philox: random numbers, of which each is a function of (seed, offset, element index).
 *
 * Philox-4x32-10: ten rounds that turn a 128-bit counter and a 64-bit key into 128 random bits.
 * Nothing is carried from one number to the next, so that any element can be computed alone, in any
 * order, by any thread or device, with the same bits on host and GPU: only integer operations, IEEE
 * additions, multiplications, divisions and square roots are used, and no libm function that
 * differs between the two. Not the streams of PyTorch or NumPy.
 *
 *   key      seed, low word first
 *   counter  words 0, 1: block number, low word first; words 2, 3: offset, low word first
 *
 * An operation takes one offset of its generator, and its elements the indices 0, 1, ... from
 * there; the same (seed, offset) used twice gives related numbers. What an element takes of a
 * block:
 *
 *   uniform float   word  index % 4 of block index / 4
 *   uniform double  words 2 (index % 2), low, and the next, high, of block index / 2
 *   normal          both numbers of block index / 2: the cosine for even, the sine for odd indices
 *   randint         all of block `index`
 *
 * The inline functions are C11 and CUDA C++; philox.c has loops for the host that use whole blocks.
 * Link with -lm; compile the host's part with -ffp-contract=off.
 *
 * Sources: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as
 * 1, 2, 3", SC'11, 2011 (the generator; test vectors: Random123's kat_vectors); G. E. P. Box, M. E.
 * Muller, "A note on the generation of random normal deviates", Ann. Math. Statist. 29(2), 1958;
 * D. Lemire, "Fast random integer generation in an interval", ACM TOMACS 29(1), 2019 (multiplying
 * instead of dividing).
 * Threads: pure functions.
 */
#ifndef CORE_PHILOX_H
#define CORE_PHILOX_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define PHILOX_INLINE static __host__ __device__ __forceinline__
#else
#define PHILOX_INLINE static inline __attribute__((unused))
#endif

struct philox_block {
    uint32_t w[4];
};

struct philox_pair {
    double v[2];
};

/* ---- The generator --------------------------------------------------------------------------- */

PHILOX_INLINE struct philox_block philox_4x32_10(struct philox_block counter, uint32_t key0,
                                                 uint32_t key1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * counter.w[0];
        uint64_t b = (uint64_t)0xCD9E8D57u * counter.w[2];
        counter.w[0] = (uint32_t)(b >> 32) ^ counter.w[1] ^ key0;
        counter.w[1] = (uint32_t)b;
        counter.w[2] = (uint32_t)(a >> 32) ^ counter.w[3] ^ key1;
        counter.w[3] = (uint32_t)a;
        key0 += 0x9E3779B9u; /* the golden ratio */
        key1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    return counter;
}

PHILOX_INLINE struct philox_block philox_block(uint64_t seed, uint64_t offset, uint64_t block)
{
    struct philox_block counter;
    counter.w[0] = (uint32_t)block;
    counter.w[1] = (uint32_t)(block >> 32);
    counter.w[2] = (uint32_t)offset;
    counter.w[3] = (uint32_t)(offset >> 32);
    return philox_4x32_10(counter, (uint32_t)seed, (uint32_t)(seed >> 32));
}

/* Half a block as a number: half is 0 or 1. */
PHILOX_INLINE uint64_t philox_half(struct philox_block block, unsigned half)
{
    return (uint64_t)block.w[2 * half + 1] << 32 | block.w[2 * half];
}

/* ---- Arithmetic that is the same everywhere -------------------------------------------------- */

/* a * b + c, rounded twice. Kernels are compiled with contraction to fused operations; the
 * intrinsic is never contracted. */
#ifdef __CUDA_ARCH__
PHILOX_INLINE double philox_multiply_add(double a, double b, double c)
{
    return __dadd_rn(__dmul_rn(a, b), c);
}
#else
PHILOX_INLINE double philox_multiply_add(double a, double b, double c)
{
    double product = a * b;
    return product + c;
}
#endif

/* The high 64 bits of a product. */
PHILOX_INLINE uint64_t philox_multiply_high(uint64_t a, uint64_t b)
{
    uint64_t low = (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
    uint64_t middle = (a >> 32) * (b & 0xFFFFFFFFu) + (low >> 32);
    uint64_t other = (a & 0xFFFFFFFFu) * (b >> 32) + (middle & 0xFFFFFFFFu);
    return (a >> 32) * (b >> 32) + (middle >> 32) + (other >> 32);
}

/* c[0] z^(n-1) + ... + c[n-1] */
PHILOX_INLINE double philox_polynomial(double z, const double *c, int n)
{
    double sum = c[0];
    for (int i = 1; i < n; i++)
        sum = philox_multiply_add(sum, z, c[i]);
    return sum;
}

/* The natural logarithm of a normal positive number, to about 1e-16 of the result: x is m 2^e with
 * m around 1, and ln m is 2 artanh((m - 1) / (m + 1)) by its power series. */
PHILOX_INLINE double philox_log(double x)
{
    const double series[] = {1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13,
                             1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3};
    /* ln 2 in two parts, the first short enough for e * ln2_high to be exact. */
    const double ln2_high = 0x1.62e42feep-1;
    const double ln2_low = 0x1.a39ef35793c76p-33;
    uint64_t bits;
    double m, s, z, small;
    memcpy(&bits, &x, sizeof bits);
    double e = (double)((int)(bits >> 52) - 1023);
    bits = (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    memcpy(&m, &bits, sizeof m);
    if (m > 0x1.6a09e667f3bcdp+0) { /* sqrt(2) */
        m *= 0.5;
        e += 1;
    }
    s = (m - 1) / (m + 1);
    z = s * s;
    small = philox_multiply_add(e, ln2_low, philox_polynomial(z, series, 10) * z * (2 * s));
    return philox_multiply_add(e, ln2_high, 2 * s + small);
}

/* Cosine and sine of an angle between -pi/4 and pi/4, by their power series. */
PHILOX_INLINE struct philox_pair philox_cos_sin(double angle)
{
    const double cosine[] = {1.0 / 20922789888000,
                             -1.0 / 87178291200,
                             1.0 / 479001600,
                             -1.0 / 3628800,
                             1.0 / 40320,
                             -1.0 / 720,
                             1.0 / 24,
                             -1.0 / 2,
                             1.0};
    const double sine[] = {1.0 / 355687428096000,
                           -1.0 / 1307674368000,
                           1.0 / 6227020800,
                           -1.0 / 39916800,
                           1.0 / 362880,
                           -1.0 / 5040,
                           1.0 / 120,
                           -1.0 / 6,
                           1.0};
    double z = angle * angle;
    struct philox_pair pair;
    pair.v[0] = philox_polynomial(z, cosine, 9);
    pair.v[1] = philox_polynomial(z, sine, 9) * angle;
    return pair;
}

/* ---- What a block becomes -------------------------------------------------------------------- */

/* k 2^-bits in [0, 1), from the top `bits` (1 .. 24) of a word. */
PHILOX_INLINE float philox_float_of_word(uint32_t word, unsigned bits)
{
    return (float)(word >> (32 - bits)) / (float)(1u << bits);
}

/* k 2^-53 in [0, 1). */
PHILOX_INLINE double philox_double_of_half(uint64_t half)
{
    return (double)(half >> 11) * 0x1p-53;
}

/* Box and Muller: radius sqrt(-2 ln u) with u = k 2^-53 in (0, 1] from the low half; the angle from
 * the high half, as a quarter turn from the top two bits and a fraction of one, from -1/2 to 1/2,
 * from the next 51. (From 0 to 1 would only turn the whole circle by pi/4.) */
PHILOX_INLINE struct philox_pair philox_normals_of_block(struct philox_block block)
{
    const double half_pi = 0x1.921fb54442d18p+0;
    double u = (double)((philox_half(block, 0) >> 11) + 1) * 0x1p-53;
    uint64_t turn = philox_half(block, 1) >> 11;
    double fraction = (double)(turn & 0x7FFFFFFFFFFFFu) * 0x1p-51 - 0.5;
    double radius = sqrt(-2 * philox_log(u));
    unsigned quarter = (unsigned)(turn >> 51);
    struct philox_pair a = philox_cos_sin(half_pi * fraction);
    double cosine = (quarter & 1) != 0 ? a.v[1] : a.v[0];
    double sine = (quarter & 1) != 0 ? a.v[0] : a.v[1];
    struct philox_pair pair;
    pair.v[0] = radius * (quarter == 1 || quarter == 2 ? -cosine : cosine);
    pair.v[1] = radius * (quarter >= 2 ? -sine : sine);
    return pair;
}

/* The block as a fraction of 2^128, times the range, without its own fraction. A value's chance
 * differs from 1 / range by at most 2^-128, of itself by at most range / 2^128: under 2^-64. */
PHILOX_INLINE uint64_t philox_below(struct philox_block block, uint64_t range)
{
    uint64_t high = philox_half(block, 1);
    uint64_t carried = philox_multiply_high(philox_half(block, 0), range);
    uint64_t low = high * range;
    return philox_multiply_high(high, range) + (low + carried < low ? 1u : 0u);
}

/* ---- Element `index` of (seed, offset) ------------------------------------------------------- */

/* In [0, 1), k 2^-bits. A dtype of p significant bits holds it exactly with bits = p: 24 for
 * float32, 11 for float16, 8 for bfloat16, 4 and 3 for float8_e4m3fn and float8_e5m2. (Rounding a
 * number of more bits to such a dtype would give 1 now and then.) */
PHILOX_INLINE float philox_uniform_bits(uint64_t seed, uint64_t offset, uint64_t index,
                                        unsigned bits)
{
    return philox_float_of_word(philox_block(seed, offset, index / 4).w[index % 4], bits);
}

PHILOX_INLINE float philox_uniform_float(uint64_t seed, uint64_t offset, uint64_t index)
{
    return philox_uniform_bits(seed, offset, index, 24);
}

/* In [0, 1), k 2^-53. */
PHILOX_INLINE double philox_uniform_double(uint64_t seed, uint64_t offset, uint64_t index)
{
    struct philox_block block = philox_block(seed, offset, index / 2);
    return philox_double_of_half(philox_half(block, (unsigned)(index % 2)));
}

/* Normally distributed, mean 0, variance 1; never beyond 8.58. */
PHILOX_INLINE double philox_normal(uint64_t seed, uint64_t offset, uint64_t index)
{
    return philox_normals_of_block(philox_block(seed, offset, index / 2)).v[index % 2];
}

/* In [low, high); low must be less than high. */
PHILOX_INLINE int64_t philox_randint(uint64_t seed, uint64_t offset, uint64_t index, int64_t low,
                                     int64_t high)
{
    uint64_t range = (uint64_t)high - (uint64_t)low;
    uint64_t below = philox_below(philox_block(seed, offset, index), range);
    return (int64_t)((uint64_t)low + below);
}

/* ---- Elements first .. first + count - 1, on the host ---------------------------------------- */

#ifdef __cplusplus
extern "C" {
#endif

void philox_fill_uniform_bits(uint64_t seed, uint64_t offset, uint64_t first, size_t count,
                              unsigned bits, float *out);
void philox_fill_uniform_double(uint64_t seed, uint64_t offset, uint64_t first, size_t count,
                                double *out);
void philox_fill_normal(uint64_t seed, uint64_t offset, uint64_t first, size_t count, double *out);
void philox_fill_randint(uint64_t seed, uint64_t offset, uint64_t first, size_t count, int64_t low,
                         int64_t high, int64_t *out);

#ifdef __cplusplus
}
#endif

#endif
