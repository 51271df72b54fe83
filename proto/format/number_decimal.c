/* Powers of ten to 128 bits carry both directions.
 *
 * Writing: R. Giulietti, "The Schubfach way to render doubles", 2020. Reading: the product of the
 * digits and such a power, as in D. Lemire, "Number parsing at a gigabyte per second", Software:
 * Practice and Experience 51(8), 2021; its error is known, and where it might change the result, a
 * comparison of long integers decides, as in W. Clinger, "How to read floating point numbers
 * accurately", PLDI 1990.
 */
#include "proto/format/number_decimal.h"

#include <assert.h>

__extension__ typedef unsigned __int128 wide;

#define BITS(n) (UINT64_C(1) << (n))
#define FLOAT_FORMAT(width, fraction_bits, least_unit, largest, infinity, nan)                     \
    {                                                                                              \
        fraction_bits, least_unit, BITS((width)-1), largest, infinity, nan                         \
    }

/* The NaNs are those that a cast gives (core/cast/cast_scalar.h). */
const struct float_format float_formats[TD_DTYPE_END] = {
    [TD_FLOAT16] = FLOAT_FORMAT(16, 10, -24, 0x7BFF, 0x7C00, 0x7E00),
    [TD_BFLOAT16] = FLOAT_FORMAT(16, 7, -133, 0x7F7F, 0x7F80, 0x7FC0),
    [TD_FLOAT32] = FLOAT_FORMAT(32, 23, -149, 0x7F7FFFFF, 0x7F800000, 0x7FC00000),
    [TD_FLOAT64] =
        FLOAT_FORMAT(64, 52, -1074, 0x7FEFFFFFFFFFFFFF, 0x7FF0000000000000, 0x7FF8000000000000),
    [TD_FLOAT8_E4M3FN] = FLOAT_FORMAT(8, 3, -9, 0x7E, 0, 0x7F),
    [TD_FLOAT8_E5M2] = FLOAT_FORMAT(8, 2, -16, 0x7B, 0x7C, 0x7F),
};

/* A magnitude as significand * 2^unit. */
struct binary {
    uint64_t significand;
    int unit;
};

static struct binary binary_of(const struct float_format *format, uint64_t magnitude)
{
    uint64_t hidden = BITS(format->fraction_bits);
    int exponent = (int)(magnitude >> format->fraction_bits);
    if (exponent == 0)
        return (struct binary){magnitude, format->least_unit};
    return (struct binary){(magnitude & (hidden - 1)) | hidden, format->least_unit + exponent - 1};
}

/* ---- long integers --------------------------------------------------------------------------- */

/* The longest ones are compared for a float64 with 800 digits: less than 3,800 bits. */
#define BIG_LIMBS 128

struct big {
    int count;
    uint32_t limbs[BIG_LIMBS]; /* the lowest first */
};

static void big_multiply_add(struct big *big, uint32_t factor, uint32_t addend)
{
    uint64_t carry = addend;
    for (int i = 0; i < big->count; i++) {
        carry += (uint64_t)big->limbs[i] * factor;
        big->limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry) {
        assert(big->count < BIG_LIMBS);
        big->limbs[big->count++] = (uint32_t)carry;
    }
}

static void big_divide(struct big *big, uint32_t divisor)
{
    uint64_t rest = 0;
    for (int i = big->count - 1; i >= 0; i--) {
        rest = rest << 32 | big->limbs[i];
        big->limbs[i] = (uint32_t)(rest / divisor);
        rest %= divisor;
    }
    while (big->count > 0 && big->limbs[big->count - 1] == 0)
        big->count--;
}

static struct big big_of(uint64_t value)
{
    struct big big;
    big.limbs[0] = (uint32_t)value;
    big.limbs[1] = (uint32_t)(value >> 32);
    big.count = big.limbs[1] ? 2 : 1;
    return big;
}

/* Times base^power, as many factors at once as fit into a limb. */
static void big_scale(struct big *big, uint32_t base, int power)
{
    while (power > 0) {
        uint32_t factor = base;
        for (power--; power > 0 && factor <= UINT32_MAX / base; power--)
            factor *= base;
        big_multiply_add(big, factor, 0);
    }
}

static int big_compare(const struct big *a, const struct big *b)
{
    if (a->count != b->count)
        return a->count < b->count ? -1 : 1;
    for (int i = a->count - 1; i >= 0; i--)
        if (a->limbs[i] != b->limbs[i])
            return a->limbs[i] < b->limbs[i] ? -1 : 1;
    return 0;
}

/* ---- powers of ten --------------------------------------------------------------------------- */

#define POWER_MIN (-342) /* 10^19 times less than it rounds to 0 in a float64 */
#define POWER_MAX 324    /* makes an integer of 17 digits out of the least float64 */
#define POWER_EXACT 55   /* 5^55 is the last one below 2^128 */

/* 10^n = power * 2^(power_log2(n) - 127), with the highest bit set, rounded up unless it is exact,
 * which it is for n from 0 to POWER_EXACT. */
static wide powers[POWER_MAX - POWER_MIN + 1];

/* floor(log2(10^n)), for |n| <= 1233. */
static int power_log2(int n)
{
    return n * 1741647 >> 19;
}

/* The highest 128 bits, from the first one that is set. */
static wide big_top(const struct big *big)
{
    wide top = 0;
    for (int i = big->count - 1; i >= big->count - 4; i--)
        top = top << 32 | (i >= 0 ? big->limbs[i] : 0);
    int zeros = __builtin_clz(big->limbs[big->count - 1]);
    uint64_t next = big->count > 4 ? big->limbs[big->count - 5] : 0;
    return top << zeros | next >> (32 - zeros);
}

/* Runs before any thread, and takes about 50 us. Powers of five have the bits of powers of ten. */
__attribute__((constructor)) static void powers_fill(void)
{
    struct big five = big_of(1);
    for (int n = 0; n <= POWER_MAX; n++) {
        powers[n - POWER_MIN] = big_top(&five) + (n > POWER_EXACT ? 1 : 0);
        big_multiply_add(&five, 5, 0);
    }
    /* 2^992 / 5^342 still has 198 bits, and dividing step by step loses nothing above them. */
    struct big reciprocal = {.count = 32, .limbs = {[31] = 1}};
    for (int n = -1; n >= POWER_MIN; n--) {
        big_divide(&reciprocal, 5);
        powers[n - POWER_MIN] = big_top(&reciprocal) + 1;
    }
}

/* ---- to the shortest decimal ----------------------------------------------------------------- */

/* factor * power / 2^128, rounded to odd: down, and the last bit is set if anything was lost, so
 * that comparisons with even numbers come out as for the exact product. For the factors and powers
 * of decimal_shortest the exact product is either an integer, and then the excess of `power` leaves
 * less than 2^60 in the lower 128 bits here, or it lies 2^-66 or more from any integer
 * (tests/semantics/test_number.py finds the closest ones). */
static uint64_t product_to_odd(wide power, uint64_t factor)
{
    wide low = (wide)factor * (uint64_t)power;
    wide high = (wide)factor * (uint64_t)(power >> 64) + (uint64_t)(low >> 64);
    bool lost = ((uint64_t)high | (uint64_t)low >> 61) != 0;
    return (uint64_t)(high >> 64) | lost;
}

uint64_t decimal_shortest(const struct float_format *format, uint64_t magnitude, int *exponent)
{
    struct binary binary = binary_of(format, magnitude);
    uint64_t c = binary.significand;
    int q = binary.unit;
    /* An integer whose neighbours are at most 1 away has all its digits. */
    if (q <= 0 && q > -64 && (c & (BITS(-q) - 1)) == 0) {
        *exponent = 0;
        return c >> -q;
    }
    /* What reads back as c * 2^q reaches half way to its neighbours, in quarters of 2^q from
     * 4c - 2 to 4c + 2. Below a power of two the neighbour is only half as far. The ends belong to
     * it if c is even. */
    uint64_t odd = c & 1;
    bool closer = c == BITS(format->fraction_bits) && q > format->least_unit;
    /* 10^k is the largest power of ten that is not wider: k = floor(log10(2^q)), or of 3/4 2^q. */
    int k = (q * 1262611 - (closer ? 524031 : 0)) >> 22;
    int shift = q + power_log2(-k) + 1; /* 1 to 4 */
    wide power = powers[-k - POWER_MIN];
    uint64_t lower = product_to_odd(power, (4 * c - 2 + closer) << shift) + odd;
    uint64_t value = product_to_odd(power, 4 * c << shift);
    uint64_t upper = product_to_odd(power, (4 * c + 2) << shift) - odd;
    /* All three are quarters of 10^k now. At most one multiple of 10^(k + 1) lies between the ends;
     * it has fewer digits than any other. */
    uint64_t s = value / 4;
    if (s >= 10) {
        uint64_t tens = s / 10;
        bool below = lower <= 40 * tens, above = 40 * tens + 40 <= upper;
        if (below != above) {
            *exponent = k + 1;
            return tens + above;
        }
    }
    /* Else s or s + 1, whichever is between the ends, or closer, or even. */
    *exponent = k;
    bool below = lower <= 4 * s, above = 4 * s + 4 <= upper;
    if (below != above)
        return s + above;
    uint64_t middle = 4 * s + 2;
    return s + (value > middle || (value == middle && (s & 1)));
}

/* ---- to the nearest float -------------------------------------------------------------------- */

/* The magnitude nearest to mantissa * 2^exponent, ties to even. One of the three highest bits of
 * the mantissa is set. */
static uint64_t magnitude_nearest(const struct float_format *format, wide mantissa, int exponent)
{
    /* At least nine bits of the high half are dropped: there the low half counts as one bit. */
    uint64_t high = (uint64_t)(mantissa >> 64) | ((uint64_t)mantissa != 0);
    int top = exponent + 127 - __builtin_clzll(high); /* of the highest bit that is set */
    int unit = top - format->fraction_bits;
    if (unit < format->least_unit)
        unit = format->least_unit;
    int dropped = unit - (exponent + 64);
    if (dropped > 64) /* less than half of the least number */
        return 0;
    uint64_t half = BITS(dropped - 1), significand = high >> (dropped - 1) >> 1;
    uint64_t rest = high & (2 * half - 1);
    significand += rest > half || (rest == half && (significand & 1));
    /* The hidden bit of a normal number, and a carry, count up the exponent. */
    return ((uint64_t)(unit - format->least_unit) << format->fraction_bits) + significand;
}

/* The magnitudes nearest to two numbers between which digits * 10^exponent lies; seldom they
 * differ, and then by 1. */
static void bounds_nearest(const struct float_format *format, uint64_t digits, int exponent,
                           uint64_t *least, uint64_t *greatest)
{
    int zeros = __builtin_clzll(digits);
    digits <<= zeros;
    wide power = powers[exponent - POWER_MIN];
    wide low = (wide)digits * (uint64_t)power;
    wide product = (wide)digits * (uint64_t)(power >> 64) + (uint64_t)(low >> 64);
    int binary_exponent = power_log2(exponent) - 63 - zeros;
    if (exponent >= 0 && exponent <= POWER_EXACT) {
        product |= (uint64_t)low != 0;
        *least = *greatest = magnitude_nearest(format, product, binary_exponent);
        return;
    }
    /* The power is too large by less than 1, the product by less than 1, and it lost less than 1 */
    *least = magnitude_nearest(format, product - 1, binary_exponent);
    uint64_t tail = (uint64_t)product;
    bool same = tail > 1 && tail < UINT64_MAX; /* product +- 1 round alike: nothing carries */
    *greatest = same ? *least : magnitude_nearest(format, product + 1, binary_exponent);
}

/* The point half way between two neighbouring floats has at most 768 digits: of more than these
 * only counts whether there is one that is not 0. */
#define DIGITS_COUNTED 800

static struct big digits_all(const struct decimal *decimal, int *exponent)
{
    struct big big = big_of(0);
    *exponent = (int)decimal->exponent;
    if (!decimal->truncated)
        return big_of(decimal->digits);
    int count = 0;
    const char *at = decimal->first;
    for (; at < decimal->end && count < DIGITS_COUNTED; at++)
        if (*at != '.') {
            big_multiply_add(&big, 10, (uint32_t)(*at - '0'));
            count++;
        }
    while (at < decimal->end && (*at == '0' || *at == '.'))
        at++;
    if (at < decimal->end) {
        big_multiply_add(&big, 10, 1);
        count++;
    }
    *exponent += DECIMAL_DIGITS - count;
    return big;
}

/* The sign of decimal - significand * 2^unit, without rounding. */
static int decimal_compare(const struct decimal *decimal, uint64_t significand, int unit)
{
    int exponent;
    struct big left = digits_all(decimal, &exponent), right = big_of(significand);
    big_scale(exponent < 0 ? &right : &left, 5, exponent < 0 ? -exponent : exponent);
    int doublings = exponent - unit; /* of the left side, which make them comparable */
    big_scale(doublings < 0 ? &right : &left, 2, doublings < 0 ? -doublings : doublings);
    return big_compare(&left, &right);
}

uint64_t decimal_nearest(const struct float_format *format, const struct decimal *decimal)
{
    /* Out of the range of float64, and so of all. */
    if (decimal->exponent < POWER_MIN)
        return 0;
    if (decimal->exponent > 308)
        return format->largest + 1;
    int exponent = (int)decimal->exponent;
    uint64_t least, greatest, unused;
    bounds_nearest(format, decimal->digits, exponent, &least, &greatest);
    if (decimal->truncated)
        bounds_nearest(format, decimal->digits + 1, exponent, &unused, &greatest);
    if (least == greatest || least > format->largest)
        return least;
    struct binary binary = binary_of(format, least);
    int order = decimal_compare(decimal, 2 * binary.significand + 1, binary.unit - 1);
    return order > 0 || (order == 0 && (least & 1)) ? greatest : least;
}
