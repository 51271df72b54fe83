/* Philox against Random123's published vectors, and what becomes of its blocks against slower
 * formulas: libm in long double for normals, 192-bit products for integers, moments for all. */
#include "core/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define SEED UINT64_C(0x299f31d0a4093822)
#define OFFSET UINT64_C(0x0370734413198a2e)
#define BLOCK UINT64_C(0x85a308d3243f6a88)

/* Random123, tests/kat_vectors, "philox4x32 10": counter, key, result. */
static const uint32_t vectors[][10] = {
    {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
    {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e,
     0xa20bc7c6, 0x6d5451fd},
    {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb,
     0x5001e420, 0x24126ea1},
};

static void known_answers(void **state)
{
    struct philox_block block;
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        const uint32_t *v = vectors[i];
        struct philox_block counter = {{v[0], v[1], v[2], v[3]}};
        block = philox_4x32_10(counter, v[4], v[5]);
        for (int k = 0; k < 4; k++)
            assert_int_equal(block.w[k], v[6 + k]);
    }
    /* The third again: where seed, offset and block number go. */
    block = philox_block(SEED, OFFSET, BLOCK);
    for (int k = 0; k < 4; k++)
        assert_int_equal(block.w[k], vectors[2][6 + k]);
}

/* Which part of a block an element takes: from block 0 of seed 0, offset 0, the first vector. */
static void elements_of_a_block(void **state)
{
    const uint32_t *w = vectors[0] + 6;
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        assert_true(philox_uniform_float(0, 0, i) == ldexpf((float)(w[i] >> 8), -24));
        assert_true(philox_uniform_bits(0, 0, i, 11) == ldexpf((float)(w[i] >> 21), -11));
        assert_true(philox_uniform_bits(0, 0, i, 1) == ldexpf((float)(w[i] >> 31), -1));
    }
    assert_true(philox_uniform_double(0, 0, 0) == ldexp((double)(0xe169c58d6627e8d5u >> 11), -53));
    assert_true(philox_uniform_double(0, 0, 1) == ldexp((double)(0x9b00dbd8bc57ac4cu >> 11), -53));
    assert_true(philox_uniform_float(0, 0, 4) != philox_uniform_float(0, 0, 0));
    /* A range of 2^63 keeps the top 63 bits. */
    assert_true(philox_randint(0, 0, 0, INT64_MIN, 0) - INT64_MIN == 0x9b00dbd8bc57ac4cu / 2);
    assert_true(philox_randint(SEED, OFFSET, BLOCK, INT64_MIN, 0) - INT64_MIN ==
                0x24126ea15001e420 / 2);
}

static void words_at_the_ends(void **state)
{
    (void)state;
    assert_true(philox_float_of_word(0, 24) == 0);
    assert_true(philox_float_of_word(UINT32_MAX, 24) == 1 - 0x1p-24f);
    assert_true(philox_float_of_word(UINT32_MAX, 3) == 0.875f);
    assert_true(philox_double_of_half(0) == 0);
    assert_true(philox_double_of_half(UINT64_MAX) == 1 - 0x1p-53);
}

/* ---- Normals --------------------------------------------------------------------------------- */

static void assert_normals(struct philox_block block)
{
    const long double pi = 3.14159265358979323846264338327950288L;
    long double u = ldexpl((long double)((philox_half(block, 0) >> 11) + 1), -53);
    long double turn = ldexpl((long double)(philox_half(block, 1) >> 11), -53);
    long double radius = sqrtl(-2 * logl(u));
    /* The header's quarter and fraction are one angle: the turn less an eighth. */
    long double angle = 2 * pi * turn - pi / 4;
    struct philox_pair pair = philox_normals_of_block(block);
    long double limit = 1e-15L * radius; /* 4 units in the last place of the radius */
    assert_true(fabsl((long double)pair.v[0] - radius * cosl(angle)) <= limit);
    assert_true(fabsl((long double)pair.v[1] - radius * sinl(angle)) <= limit);
}

static void normals_as_libm_computes_them(void **state)
{
    static const uint32_t words[] = {0,          1,          0x7FF,      0x3FFFFFFF, 0x40000000,
                                     0x7FFFFFFF, 0x80000000, 0xBFFFFFFF, 0xC0000000, 0xFFFFFFFF};
    const size_t n = sizeof words / sizeof words[0];
    (void)state;
    for (uint64_t i = 0; i < 100000; i++)
        assert_normals(philox_block(1, 2, i));
    for (size_t i = 0; i < n * n * n * n; i++) {
        struct philox_block block = {
            {words[i % n], words[i / n % n], words[i / n / n % n], words[i / n / n / n]}};
        assert_normals(block);
    }
}

/* The smallest u gives the largest number, u = 1 gives 0: finite everywhere. */
static void normals_at_the_ends(void **state)
{
    struct philox_block least = {{0, 0, 0, 0x20000000}}; /* half a quarter turn: the angle 0 */
    struct philox_block most = {{UINT32_MAX, UINT32_MAX, 0, 0x20000000}};
    (void)state;
    assert_true(fabs(philox_normals_of_block(least).v[0] - 8.5716) < 0.001);
    assert_true(philox_normals_of_block(least).v[1] == 0);
    assert_true(philox_normals_of_block(most).v[0] == 0);
    assert_true(philox_normals_of_block(most).v[1] == 0);
}

/* Bits, so that another compiler, flag or device that rounds differently is noticed. */
static void normals_bit_for_bit(void **state)
{
    static const uint64_t wanted[] = {
        0x3ff0b2b86795e4ceu,
        0x3fed44b564882b3au,
        0x3ffca6cc6a777d08u,
        0x3ffc5995cb44be9bu,
    };
    uint64_t hash = 0xcbf29ce484222325u;
    (void)state;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        double normal = philox_normal(SEED, OFFSET, i);
        uint64_t bits;
        memcpy(&bits, &normal, sizeof bits);
        assert_true(bits == wanted[i]);
    }
    for (uint64_t i = 0; i < 100000; i++) {
        double normal = philox_normal(SEED, OFFSET, i);
        uint64_t bits;
        memcpy(&bits, &normal, sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3u;
    }
    assert_true(hash == 0xc4726cbd5e207fd2u);
}

/* ---- Integers -------------------------------------------------------------------------------- */

/* floor(block * range / 2^128), by adding shifted ranges into 192 bits. */
static uint64_t below_slowly(struct philox_block block, uint64_t range)
{
    uint64_t sum[3] = {0, 0, 0};
    for (int bit = 0; bit < 128; bit++) {
        uint64_t add[3] = {0, 0, 0};
        uint64_t carry = 0;
        if (!(block.w[bit / 32] >> (bit % 32) & 1))
            continue;
        add[bit / 64] = range << (bit % 64);
        if (bit % 64)
            add[bit / 64 + 1] = range >> (64 - bit % 64);
        for (int k = 0; k < 3; k++) {
            uint64_t before = sum[k] + carry;
            carry = before < carry;
            sum[k] = before + add[k];
            carry |= sum[k] < before;
        }
    }
    return sum[2];
}

static void integers_are_exact(void **state)
{
    static const uint64_t ranges[] = {1,
                                      2,
                                      3,
                                      10,
                                      0xFFFFFFFF,
                                      0x100000000,
                                      1000000007,
                                      INT64_MAX,
                                      UINT64_C(1) << 63,
                                      UINT64_MAX,
                                      UINT64_MAX - 1};
    struct philox_block all = {{UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}};
    struct philox_block none = {{0, 0, 0, 0}};
    (void)state;
    for (size_t r = 0; r < sizeof ranges / sizeof ranges[0]; r++) {
        assert_true(philox_below(all, ranges[r]) == ranges[r] - 1);
        assert_true(philox_below(none, ranges[r]) == 0);
        for (uint64_t i = 0; i < 500; i++) {
            struct philox_block block = philox_block(3, r, i);
            assert_true(philox_below(block, ranges[r]) == below_slowly(block, ranges[r]));
        }
    }
    for (uint64_t i = 0; i < 10000; i++) {
        int64_t value = philox_randint(5, 6, i, -3, 4);
        assert_true(value >= -3 && value < 4);
        assert_true(philox_randint(5, 6, i, INT64_MIN, INT64_MAX) < INT64_MAX);
        assert_true(philox_randint(5, 6, i, INT64_MAX - 1, INT64_MAX) == INT64_MAX - 1);
        assert_true(philox_randint(5, 6, i, INT64_MIN, INT64_MIN + 1) == INT64_MIN);
    }
}

/* ---- Distributions --------------------------------------------------------------------------- */

#define MANY 200000

/* Mean and variance within five standard errors; the seeds are fixed, so this never flickers. */
static void moments(void **state)
{
    double mean[3] = {0}, square[3] = {0}, fourth = 0, neighbours = 0;
    int faces[6] = {0};
    double chi = 0;
    (void)state;
    for (uint64_t i = 0; i < MANY; i++) {
        double v[3] = {(double)philox_uniform_float(11, 1, i), philox_uniform_double(11, 2, i),
                       philox_normal(11, 3, i)};
        for (int k = 0; k < 3; k++) {
            mean[k] += v[k] / MANY;
            square[k] += v[k] * v[k] / MANY;
        }
        fourth += v[2] * v[2] * v[2] * v[2] / MANY;
        neighbours += v[2] * philox_normal(11, 3, i ^ 1) / MANY;
        faces[philox_randint(11, 4, i, 0, 6)]++;
    }
    for (int k = 0; k < 2; k++) {
        assert_true(fabs(mean[k] - 0.5) < 5 * sqrt(1.0 / 12 / MANY));
        assert_true(fabs(square[k] - 1.0 / 3) < 5 * sqrt(4.0 / 45 / MANY));
    }
    assert_true(fabs(mean[2]) < 5 * sqrt(1.0 / MANY));
    assert_true(fabs(square[2] - 1) < 5 * sqrt(2.0 / MANY));
    assert_true(fabs(fourth - 3) < 5 * sqrt(96.0 / MANY));
    assert_true(fabs(neighbours) < 5 * sqrt(2.0 / MANY)); /* each product counted twice */
    for (int k = 0; k < 6; k++)
        chi += (faces[k] - MANY / 6.0) * (faces[k] - MANY / 6.0) / (MANY / 6.0);
    assert_true(chi < 25.7); /* 5 degrees of freedom: 1 in 10000 */
}

/* ---- Loops ----------------------------------------------------------------------------------- */

/* A run that starts and ends within a block is its elements. */
static void runs_are_their_elements(void **state)
{
    enum { COUNT = 23 };
    float floats[COUNT + 1];
    double doubles[COUNT + 1], normals[COUNT + 1];
    int64_t integers[COUNT + 1];
    const uint64_t bases[] = {0, UINT64_C(0x3FFFFFFF0), UINT64_C(0xFFFFFFFFFFFFFF00)};
    (void)state;
    for (size_t b = 0; b < 3; b++)
        for (size_t start = 0; start < 5; start++)
            for (size_t count = 0; count <= COUNT; count++) {
                uint64_t first = bases[b] + start;
                floats[count] = 7;
                doubles[count] = normals[count] = 7;
                integers[count] = 70;
                philox_fill_uniform_bits(SEED, OFFSET, first, count, 24, floats);
                philox_fill_uniform_double(SEED, OFFSET, first, count, doubles);
                philox_fill_normal(SEED, OFFSET, first, count, normals);
                philox_fill_randint(SEED, OFFSET, first, count, -6, 66, integers);
                for (size_t i = 0; i < count; i++) {
                    assert_true(floats[i] == philox_uniform_float(SEED, OFFSET, first + i));
                    assert_true(doubles[i] == philox_uniform_double(SEED, OFFSET, first + i));
                    assert_true(normals[i] == philox_normal(SEED, OFFSET, first + i));
                    assert_true(integers[i] == philox_randint(SEED, OFFSET, first + i, -6, 66));
                }
                assert_true(floats[count] == 7 && doubles[count] == 7 && normals[count] == 7);
                assert_true(integers[count] == 70);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),           cmocka_unit_test(elements_of_a_block),
        cmocka_unit_test(words_at_the_ends),       cmocka_unit_test(normals_as_libm_computes_them),
        cmocka_unit_test(normals_at_the_ends),     cmocka_unit_test(normals_bit_for_bit),
        cmocka_unit_test(integers_are_exact),      cmocka_unit_test(moments),
        cmocka_unit_test(runs_are_their_elements),
    };
    return cmocka_run_group_tests_name("philox", tests, NULL, NULL);
}
