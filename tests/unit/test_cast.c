/* Every cast against a slow reference that shares no code or method with core/cast: values are held
 * in long double (64 significant bits: exact for every element of every dtype), and narrow floats
 * are found by searching the list of all their values. */
#include "core/cast/cast.h"
#include "core/scalar.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

_Static_assert(LDBL_MANT_DIG >= 64, "the reference needs 64 significant bits");

#define SMALL_MAX 0x8000
#define ELEMENT_MAX 16

/* ---- The reference --------------------------------------------------------------------------- */

static const struct row {
    const char *name;
    size_t size;
    char kind;
} rows[TD_DTYPE_END] = {
#define ROW(number, NAME, name, size, kind, ...) [number] = {#NAME, size, kind},
    TD_DTYPES(ROW)
#undef ROW
};

/* The narrow floats, from their specifications. infinity 0: there is none. */
static const struct format {
    enum td_dtype dtype;
    int width, fraction, bias;
    unsigned largest, infinity, nan;
} formats[] = {
    {TD_FLOAT16, 16, 10, 15, 0x7BFF, 0x7C00, 0x7E00},
    {TD_BFLOAT16, 16, 7, 127, 0x7F7F, 0x7F80, 0x7FC0},
    {TD_FLOAT8_E4M3FN, 8, 3, 7, 0x7E, 0, 0x7F},
    {TD_FLOAT8_E5M2, 8, 2, 15, 0x7B, 0x7C, 0x7F},
};
#define FORMATS (sizeof formats / sizeof formats[0])

/* The value of every magnitude, in order; the one past the largest is where it would go on. */
static long double small_values[FORMATS][SMALL_MAX];

static const struct format *format_of(enum td_dtype dtype)
{
    for (size_t i = 0; i < FORMATS; i++)
        if (formats[i].dtype == dtype)
            return &formats[i];
    return NULL;
}

static int make_small_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < FORMATS; i++) {
        const struct format *f = &formats[i];
        for (int bits = 0; bits < 1 << (f->width - 1); bits++) {
            int exponent = bits >> f->fraction;
            int fraction = bits & ((1 << f->fraction) - 1);
            int significand = exponent == 0 ? fraction : fraction + (1 << f->fraction);
            int power = (exponent == 0 ? 1 : exponent) - f->bias - f->fraction;
            small_values[i][bits] = ldexpl((long double)significand, power);
        }
    }
    return 0;
}

struct number {
    bool is_integer;
    uint64_t bits; /* of an integer, in two's complement */
    long double re, im;
};

static long double small_value(const struct format *f, unsigned bits)
{
    unsigned magnitude = bits & ((1u << (f->width - 1)) - 1);
    long double value = small_values[f - formats][magnitude];
    if (magnitude > f->largest)
        value = magnitude == f->infinity ? (long double)INFINITY : (long double)NAN;
    return bits >> (f->width - 1) ? -value : value;
}

static long double real_of(enum td_dtype dtype, const unsigned char *p)
{
    float f32;
    double f64;
    uint64_t bits = 0;
    if (dtype == TD_FLOAT32) {
        memcpy(&f32, p, sizeof f32);
        return (long double)f32;
    }
    if (dtype == TD_FLOAT64) {
        memcpy(&f64, p, sizeof f64);
        return (long double)f64;
    }
    memcpy(&bits, p, rows[dtype].size);
    return small_value(format_of(dtype), (unsigned)bits);
}

static struct number number_of(enum td_dtype dtype, const unsigned char *p)
{
    struct number n = {0};
    size_t size = rows[dtype].size;
    memcpy(&n.bits, p, size < 8 ? size : 8);
    switch (rows[dtype].kind) {
    case 'b':
        n.bits = n.bits != 0;
        n.is_integer = true;
        n.re = (long double)n.bits;
        break;
    case 'u':
        n.is_integer = true;
        n.re = (long double)n.bits;
        break;
    case 'i':
        n.is_integer = true;
        if (size < 8 && n.bits >> (8 * size - 1))
            n.bits |= ~(uint64_t)0 << (8 * size);
        n.re = (long double)(int64_t)n.bits;
        break;
    case 'f':
        n.re = real_of(dtype, p);
        break;
    default:
        n.re = real_of(size == 8 ? TD_FLOAT32 : TD_FLOAT64, p);
        n.im = real_of(size == 8 ? TD_FLOAT32 : TD_FLOAT64, p + size / 2);
    }
    return n;
}

/* The nearest value of a narrow float by searching for its lower neighbour; a tie goes to the even
 * one. Magnitudes past the largest compete as if the format went on. */
static unsigned small_of(const struct format *f, long double value, bool saturate)
{
    const long double *values = small_values[f - formats];
    long double magnitude = fabsl(value);
    unsigned sign = signbit(value) ? 1u << (f->width - 1) : 0;
    unsigned low = 0;
    unsigned high = f->largest + 1;
    bool is_float8 = f->width == 8;
    if (isnan(value))
        return f->nan;
    while (high - low > 1) { /* values[low] <= magnitude < values[high] if it is not past it */
        unsigned middle = (low + high) / 2;
        if (values[middle] <= magnitude)
            low = middle;
        else
            high = middle;
    }
    long double half = (values[low] + values[high]) / 2;
    unsigned nearest = magnitude < half || (magnitude == half && low % 2 == 0) ? low : high;
    if (nearest <= f->largest)
        return nearest | sign;
    if (saturate && is_float8)
        return f->largest | sign;
    return f->infinity ? f->infinity | sign : f->nan;
}

static uint64_t integer_of(long double value, int bits, bool is_signed)
{
    long double end = ldexpl(1, is_signed ? bits - 1 : bits);
    long double low = is_signed ? -end : 0;
    if (isnan(value))
        return 0;
    value = truncl(value);
    if (value < low)
        value = low;
    if (value > end - 1)
        value = end - 1;
    return value < 0 ? (uint64_t)(int64_t)value : (uint64_t)value;
}

static void store_real(enum td_dtype dtype, long double value, bool saturate, unsigned char *out)
{
    if (dtype == TD_FLOAT32) {
        uint32_t bits = 0x7FC00000u;
        float f32 = (float)value;
        if (!isnan(value))
            memcpy(&bits, &f32, sizeof bits);
        memcpy(out, &bits, sizeof bits);
    } else if (dtype == TD_FLOAT64) {
        uint64_t bits = 0x7FF8000000000000u;
        double f64 = (double)value;
        if (!isnan(value))
            memcpy(&bits, &f64, sizeof bits);
        memcpy(out, &bits, sizeof bits);
    } else {
        unsigned bits = small_of(format_of(dtype), value, saturate);
        memcpy(out, &bits, rows[dtype].size);
    }
}

static void expect(const struct number *n, enum td_dtype to, bool saturate, unsigned char *out)
{
    size_t size = rows[to].size;
    char kind = rows[to].kind;
    uint64_t bits = n->bits;
    if (kind == 'b') {
        out[0] = n->re != 0 || n->im != 0; /* NaN != 0 */
    } else if (kind == 'u' || kind == 'i') {
        if (!n->is_integer)
            bits = integer_of(n->re, (int)(8 * size), kind == 'i');
        memcpy(out, &bits, size);
    } else if (kind == 'f') {
        store_real(to, n->re, saturate, out);
    } else {
        store_real(size == 8 ? TD_FLOAT32 : TD_FLOAT64, n->re, false, out);
        store_real(size == 8 ? TD_FLOAT32 : TD_FLOAT64, n->im, false, out + size / 2);
    }
}

/* ---- Comparing ------------------------------------------------------------------------------- */

static void *allocate(size_t size)
{
    void *memory = calloc(1, size + 1);
    assert_non_null(memory);
    return memory;
}

static const char *hex_of(const unsigned char *p, size_t size, char *text)
{
    for (size_t i = 0; i < size; i++)
        snprintf(text + 2 * i, 3, "%02x", p[size - 1 - i]);
    return text;
}

/* Casts `count` packed elements and compares each with the reference. */
static void check(enum td_dtype from, enum td_dtype to, const void *src, size_t count,
                  bool saturate)
{
    size_t in_size = rows[from].size;
    size_t out_size = rows[to].size;
    const unsigned char *in = src;
    unsigned char *out = allocate(count * out_size);
    unsigned char wanted[ELEMENT_MAX];
    char a[2 * ELEMENT_MAX + 1], b[2 * ELEMENT_MAX + 1], c[2 * ELEMENT_MAX + 1];

    cast_elements(from, to, in, (ptrdiff_t)in_size, out, (ptrdiff_t)out_size, count, saturate);
    for (size_t i = 0; i < count; i++) {
        struct number n = number_of(from, in + i * in_size);
        expect(&n, to, saturate, wanted);
        if (memcmp(wanted, out + i * out_size, out_size) != 0)
            fail_msg("%s %s -> %s%s: %s instead of %s", rows[from].name,
                     hex_of(in + i * in_size, in_size, a), rows[to].name,
                     saturate ? " saturating" : "", hex_of(out + i * out_size, out_size, b),
                     hex_of(wanted, out_size, c));
    }
    free(out);
}

/* To every other dtype; saturating where that makes a difference, and to one where it must not. */
static void check_all(enum td_dtype from, const void *src, size_t count)
{
    for (int to = 1; to < TD_DTYPE_END; to++) {
        if (to == (int)from)
            continue;
        check(from, (enum td_dtype)to, src, count, false);
        if (to == TD_FLOAT8_E4M3FN || to == TD_FLOAT8_E5M2 || to == TD_FLOAT16)
            check(from, (enum td_dtype)to, src, count, true);
    }
}

static void exhaustive_8_and_16_bits(void **state)
{
    uint8_t *bytes = allocate(256);
    uint16_t *words = allocate(65536 * sizeof *words);
    (void)state;
    for (unsigned i = 0; i < 256; i++)
        bytes[i] = (uint8_t)i;
    for (unsigned i = 0; i < 65536; i++)
        words[i] = (uint16_t)i;
    for (int from = 1; from < TD_DTYPE_END; from++) {
        if (rows[from].size == 1)
            check_all((enum td_dtype)from, bytes, 256);
        else if (rows[from].size == 2)
            check_all((enum td_dtype)from, words, 65536);
    }
    free(bytes);
    free(words);
}

/* Every number in the middle between two neighbours of a narrow float, and the numbers next to it
 * in float32 and float64, where rounding twice shows. */
static void middles_of_narrow_floats(void **state)
{
    float *f32 = allocate(6 * SMALL_MAX * sizeof *f32);
    double *f64 = allocate(6 * SMALL_MAX * sizeof *f64);
    (void)state;
    for (size_t k = 0; k < FORMATS; k++) {
        size_t n = 0;
        for (unsigned i = 0; i <= formats[k].largest; i++) {
            double middle = (double)((small_values[k][i] + small_values[k][i + 1]) / 2);
            for (int sign = -1; sign <= 1; sign += 2, n += 3) {
                f64[n] = sign * middle;
                f64[n + 1] = sign * nextafter(middle, 0);
                f64[n + 2] = sign * nextafter(middle, INFINITY);
                f32[n] = (float)f64[n];
                f32[n + 1] = nextafterf(f32[n], 0);
                f32[n + 2] = nextafterf(f32[n], sign < 0 ? -INFINITY : INFINITY);
            }
        }
        for (int saturate = 0; saturate <= (formats[k].width == 8); saturate++) {
            check(TD_FLOAT32, formats[k].dtype, f32, n, saturate);
            check(TD_FLOAT64, formats[k].dtype, f64, n, saturate);
        }
    }
    free(f32);
    free(f64);
}

/* ---- Edges of the wide dtypes ---------------------------------------------------------------- */

/* A small generator of its own (xorshift64). */
static uint64_t random_bits(void)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

#define EDGES_MAX 40000

/* Around 2^j + 2^k for all j and k, of both signs: where some float rounds or some integer ends. */
static size_t integer_edges(uint64_t *out)
{
    size_t n = 0;
    for (int j = 0; j < 64; j++)
        for (int k = 0; k <= j; k++)
            for (int d = -1; d <= 1; d++) {
                uint64_t value = ((uint64_t)1 << j) + ((uint64_t)1 << k) + (uint64_t)(int64_t)d;
                out[n++] = value;
                out[n++] = 0 - value;
            }
    for (int i = 0; i < 4000; i++)
        out[n++] = random_bits() >> (i % 64);
    assert_true(n <= EDGES_MAX);
    return n;
}

/* The integers' edges with their neighbours, the same scaled down, special values, random bits. */
static size_t float_edges(double *out)
{
    static const uint64_t specials[] = {
        0x0000000000000000, 0x8000000000000000, 0x7FF0000000000000, 0xFFF0000000000000,
        0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001, 0xFFF7FFFFFFFFFFFF,
        0x7FFFFFFFFFFFFFFF, 0x0000000000000001, 0x8000000000000001, 0x000FFFFFFFFFFFFF,
        0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF, 0x47EFFFFFE0000000, 0x47EFFFFFF0000000,
        0x47EFFFFFEFFFFFFF, 0x36A0000000000000, 0x3690000000000000, 0x3690000000000001,
    };
    size_t n = sizeof specials / sizeof specials[0];
    memcpy(out, specials, sizeof specials);
    for (int j = -160; j < 140; j++)
        for (int k = 0; k < 30; k += j % 8 == 0 ? 1 : 5) {
            double value = ldexp(1 + ldexp(1, -k), j);
            out[n++] = value;
            out[n++] = -nextafter(value, 0);
            out[n++] = nextafter(-value, -INFINITY);
        }
    for (int k = 0; k <= 64; k++)
        for (int d = -4; d <= 4; d++) {
            out[n++] = ldexp(1, k) + d * 0.25;
            out[n++] = -ldexp(1, k) - d * 0.25;
        }
    for (int i = 0; i < 4000; i++) {
        uint64_t bits = random_bits();
        if (i % 2) /* exponents from 2^-63 to 2^64 */
            bits = (bits & 0x800FFFFFFFFFFFFFu) | (uint64_t)(960 + random_bits() % 128) << 52;
        memcpy(&out[n++], &bits, sizeof bits);
    }
    assert_true(n <= EDGES_MAX);
    return n;
}

static void edges_of_wide_integers(void **state)
{
    uint64_t *wide = allocate(EDGES_MAX * sizeof *wide);
    uint32_t *half = allocate(EDGES_MAX * sizeof *half);
    size_t n = integer_edges(wide);
    (void)state;
    for (size_t i = 0; i < n; i++)
        half[i] = (uint32_t)wide[i];
    check_all(TD_UINT64, wide, n);
    check_all(TD_INT64, wide, n);
    check_all(TD_UINT32, half, n);
    check_all(TD_INT32, half, n);
    free(wide);
    free(half);
}

static void edges_of_wide_floats(void **state)
{
    double *f64 = allocate(EDGES_MAX * sizeof *f64);
    float *f32 = allocate(EDGES_MAX * sizeof *f32);
    size_t n = float_edges(f64) & ~(size_t)1; /* whole pairs, for the complex numbers */
    (void)state;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)random_bits();
        f32[i] = (float)f64[i];
        if (i + 2000 > n) /* any bits: subnormals, NaN */
            memcpy(&f32[i], &bits, sizeof bits);
    }
    check_all(TD_FLOAT64, f64, n);
    check_all(TD_FLOAT32, f32, n);
    check_all(TD_COMPLEX128, f64, n / 2);
    check_all(TD_COMPLEX64, f32, n / 2);
    free(f64);
    free(f32);
}

/* ---- The rules, word for word ---------------------------------------------------------------- */

static void written_rules(void **state)
{
    static const struct {
        double value;
        enum td_dtype to;
        bool saturate;
        uint64_t bits;
    } cases[] = {
        {464, TD_FLOAT8_E4M3FN, false, 0x7E},
        {464.00001, TD_FLOAT8_E4M3FN, false, 0x7F},
        {-465, TD_FLOAT8_E4M3FN, true, 0xFE},
        {-INFINITY, TD_FLOAT8_E4M3FN, true, 0xFE},
        {INFINITY, TD_FLOAT8_E4M3FN, false, 0x7F},
        {NAN, TD_FLOAT8_E4M3FN, true, 0x7F},
        {61440, TD_FLOAT8_E5M2, false, 0x7C},
        {61439, TD_FLOAT8_E5M2, false, 0x7B},
        {-1e30, TD_FLOAT8_E5M2, true, 0xFB},
        {NAN, TD_FLOAT8_E5M2, true, 0x7F},
        {65520, TD_FLOAT16, false, 0x7C00},
        {65520, TD_FLOAT16, true, 0x7C00},
        {0x1.002000001p0, TD_FLOAT16, false, 0x3C01},
        {0x1.0020000p0, TD_FLOAT16, false, 0x3C00},
        {-0.0, TD_BFLOAT16, false, 0x8000},
        {-0.0, TD_BOOL, false, 0},
        {NAN, TD_BOOL, false, 1},
        {0x1p-1074, TD_BOOL, false, 1},
        {NAN, TD_INT32, false, 0},
        {300, TD_UINT8, false, 255},
        {-1.5, TD_UINT8, false, 0},
        {-0.9, TD_INT8, false, 0},
        {-129, TD_INT8, false, 0x80},
        {2147483647.9, TD_INT32, false, 0x7FFFFFFF},
        {1e300, TD_UINT64, false, UINT64_MAX},
        {-1e300, TD_INT64, false, (uint64_t)1 << 63},
        {-1, TD_UINT64, false, 0},
        {0x1p63, TD_INT64, false, INT64_MAX},
    };
    static const int64_t large = INT64_C(0x4000004000000001); /* a tie and one */
    int8_t minus_one = -1;
    uint64_t wrapped = 0;
    float f32 = 0;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t bits = 0;
        cast_elements(TD_FLOAT64, cases[i].to, &cases[i].value, 8, &bits, 0, 1, cases[i].saturate);
        if (bits != cases[i].bits)
            fail_msg("%g -> %s: %#llx", cases[i].value, rows[cases[i].to].name,
                     (unsigned long long)bits);
    }
    cast_elements(TD_INT64, TD_FLOAT32, &large, 8, &f32, 4, 1, false);
    assert_true(f32 == 0x1.000002p62f);
    cast_elements(TD_INT8, TD_UINT64, &minus_one, 1, &wrapped, 8, 1, false);
    assert_true(wrapped == UINT64_MAX);
}

/* ---- Steps and alignment --------------------------------------------------------------------- */

#define RUN 37

/* The packed loop's result at any steps and alignment, and no byte written between the elements. */
static void check_steps(enum td_dtype from, enum td_dtype to, ptrdiff_t in_step, ptrdiff_t out_step)
{
    unsigned char in[RUN * 64], out[RUN * 64], packed_in[RUN * 16], packed_out[RUN * 16];
    size_t in_size = rows[from].size;
    size_t out_size = rows[to].size;
    ptrdiff_t in_base = in_step < 0 ? -in_step * (RUN - 1) + 1 : 1;
    ptrdiff_t out_base = out_step < 0 ? -out_step * (RUN - 1) + 1 : 1;

    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (unsigned char)random_bits();
    memset(out, 0xA5, sizeof out);
    for (ptrdiff_t i = 0; i < RUN; i++)
        memcpy(packed_in + i * (ptrdiff_t)in_size, in + in_base + i * in_step, in_size);
    cast_elements(from, to, in + in_base, in_step, out + out_base, out_step, RUN, 0);
    cast_elements(from, to, packed_in, (ptrdiff_t)in_size, packed_out, (ptrdiff_t)out_size, RUN, 0);
    for (ptrdiff_t i = 0; i < RUN; i++) {
        unsigned char *element = out + out_base + i * out_step;
        assert_memory_equal(element, packed_out + i * (ptrdiff_t)out_size, out_size);
        memset(element, 0xA5, out_size);
    }
    for (size_t i = 0; i < sizeof out; i++)
        assert_int_equal(out[i], 0xA5);
}

static void steps_and_alignment(void **state)
{
    (void)state;
    for (int from = 1; from < TD_DTYPE_END; from++)
        for (int to = 1; to < TD_DTYPE_END; to++) {
            ptrdiff_t in_size = (ptrdiff_t)rows[from].size;
            ptrdiff_t out_size = (ptrdiff_t)rows[to].size;
            check_steps((enum td_dtype)from, (enum td_dtype)to, in_size, out_size);
            check_steps((enum td_dtype)from, (enum td_dtype)to, 0, 3 * out_size + 1);
            check_steps((enum td_dtype)from, (enum td_dtype)to, -in_size - 3, out_size);
            check_steps((enum td_dtype)from, (enum td_dtype)to, 2 * in_size, -2 * out_size);
            cast_elements((enum td_dtype)from, (enum td_dtype)to, NULL, in_size, NULL, out_size, 0,
                          false);
        }
}

/* A copy of equal dtypes changes nothing: NaN payloads and odd bools stay. */
static void equal_dtypes_are_copied(void **state)
{
    unsigned char in[256 * 16], out[256 * 16];
    (void)state;
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = i % 3 ? 0xFF : (unsigned char)random_bits();
    for (int dtype = 1; dtype < TD_DTYPE_END; dtype++) {
        ptrdiff_t size = (ptrdiff_t)rows[dtype].size;
        enum td_dtype same = (enum td_dtype)dtype;
        memset(out, 0, sizeof out);
        cast_elements(same, same, in, size, out, size, 256, CAST_SATURATE);
        assert_memory_equal(in, out, 256 * (size_t)size);
        cast_elements(same, same, in + 255 * size, -size, out, size, 256, CAST_SATURATE);
        for (ptrdiff_t i = 0; i < 256; i++)
            assert_memory_equal(in + (255 - i) * size, out + i * size, (size_t)size);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exhaustive_8_and_16_bits),
        cmocka_unit_test(middles_of_narrow_floats),
        cmocka_unit_test(edges_of_wide_integers),
        cmocka_unit_test(edges_of_wide_floats),
        cmocka_unit_test(written_rules),
        cmocka_unit_test(steps_and_alignment),
        cmocka_unit_test(equal_dtypes_are_copied),
    };
    int failures = 0;
    const char *path = NULL;
    for (size_t i = 0; (path = cast_path_at(i)) != NULL; i++) {
        char name[32];
        snprintf(name, sizeof name, "cast %s", path);
        if (!cast_path_set(path))
            return 1;
        failures += cmocka_run_group_tests_name(name, tests, make_small_values, NULL);
    }
    return failures;
}
