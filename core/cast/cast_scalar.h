/* cast_scalar: how one element of any dtype becomes one element of any other, once.
 *
 * The same text is compiled as C11 for the host and as CUDA C++ for kernels, so that both devices
 * give the same bits. float16, bfloat16 and the float8 types are computed with integer operations,
 * IEEE additions and the float <-> double conversions of the machine; compile without -ffast-math
 * and --use_fast_math, and with denormals (no flush to zero). The rounding mode is the default one.
 *
 * The rules, for an element of type FROM that becomes one of type TO (FROM differs from TO; equal
 * dtypes are copied byte by byte, not cast):
 * - to a float: rounded once, to nearest, ties to even, straight from the source's exact value
 *   (also float64 -> float16 and int64 -> bfloat16). Overflow gives infinity; float8_e4m3fn, which
 *   has none, gives NaN from past 464 on (464 itself ties to 448).
 * - every NaN becomes the one canonical NaN of TO (see CAST_FORMAT_ and CAST_NAN_).
 * - float to integer: truncated toward zero, then saturated; NaN gives 0.
 * - integer to integer: wraps (two's complement).
 * - to bool: != 0, so NaN is true. A bool in memory is true for any byte but 0.
 * - complex to real: the imaginary part is dropped; complex to bool: re or im. Real to complex: im
 *   is +0. Complex to complex: part by part.
 * - `saturate` concerns the two float8 types only: what would overflow, infinities included,
 *   becomes the largest finite value of its sign. NaN stays NaN. (PyTorch 2.13 always saturates
 *   float8_e4m3fn and never float8_e5m2; ml_dtypes saturates neither.)
 *
 * How it is built: every dtype is first widened, without loss, to its *carrier*, one of nine types
 * that hold it exactly; then one function per carrier and destination narrows it, so that 17 + 9 x
 * 17 small functions give 17 x 17 casts. A new dtype needs its row in TD_DTYPES, its block below
 * (CAST_TYPE_, CAST_CARRIER_, widen, narrow) and its row in cast_pairs.h.
 *
 *   CAST_SCALAR(FLOAT32, BFLOAT16, x, saturate)   x is a CAST_TYPE_FLOAT32, the value a
 *                                                 CAST_TYPE_BFLOAT16
 *
 * Sources: IEEE 754; OCP 8-bit Floating Point Specification (OFP8) for float8; Boldo and Melquiond,
 * "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", IEEE
 * Trans. Computers 57(4), 2008, for rounding through a wider type without rounding twice.
 * Threads: pure functions.
 */
#ifndef CORE_CAST_SCALAR_H
#define CORE_CAST_SCALAR_H

#include "core/dtype.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Always in line: a loop over these becomes vectors only when nothing in it is a call. */
#ifdef __CUDACC__
#define CAST_INLINE static __host__ __device__ __forceinline__
#else
#define CAST_INLINE static inline __attribute__((always_inline, unused))
#endif

struct cast_complex64 {
    float re, im;
};

struct cast_complex128 {
    double re, im;
};

/* The type of a carrier. `small` is an integer of at most 17 bits, exact in a float. */
#define CAST_VALUE_small int32_t
#define CAST_VALUE_i32 int32_t
#define CAST_VALUE_u32 uint32_t
#define CAST_VALUE_i64 int64_t
#define CAST_VALUE_u64 uint64_t
#define CAST_VALUE_f32 float
#define CAST_VALUE_f64 double
#define CAST_VALUE_c64 struct cast_complex64
#define CAST_VALUE_c128 struct cast_complex128

/* What an element is in memory: floats narrower than float32 are their bits. */
#define CAST_TYPE_BOOL uint8_t
#define CAST_TYPE_UINT8 uint8_t
#define CAST_TYPE_INT8 int8_t
#define CAST_TYPE_UINT16 uint16_t
#define CAST_TYPE_INT16 int16_t
#define CAST_TYPE_UINT32 uint32_t
#define CAST_TYPE_INT32 int32_t
#define CAST_TYPE_UINT64 uint64_t
#define CAST_TYPE_INT64 int64_t
#define CAST_TYPE_FLOAT16 uint16_t
#define CAST_TYPE_BFLOAT16 uint16_t
#define CAST_TYPE_FLOAT32 float
#define CAST_TYPE_FLOAT64 double
#define CAST_TYPE_COMPLEX64 struct cast_complex64
#define CAST_TYPE_COMPLEX128 struct cast_complex128
#define CAST_TYPE_FLOAT8_E4M3FN uint8_t
#define CAST_TYPE_FLOAT8_E5M2 uint8_t

#define CAST_CARRIER_BOOL small
#define CAST_CARRIER_UINT8 small
#define CAST_CARRIER_INT8 small
#define CAST_CARRIER_UINT16 small
#define CAST_CARRIER_INT16 small
#define CAST_CARRIER_UINT32 u32
#define CAST_CARRIER_INT32 i32
#define CAST_CARRIER_UINT64 u64
#define CAST_CARRIER_INT64 i64
#define CAST_CARRIER_FLOAT16 f32
#define CAST_CARRIER_BFLOAT16 f32
#define CAST_CARRIER_FLOAT32 f32
#define CAST_CARRIER_FLOAT64 f64
#define CAST_CARRIER_COMPLEX64 c64
#define CAST_CARRIER_COMPLEX128 c128
#define CAST_CARRIER_FLOAT8_E4M3FN f32
#define CAST_CARRIER_FLOAT8_E5M2 f32

/* Floats narrower than float32, as the arguments of cast_widen_bits and cast_narrow_bits:
 * bits of an element, of its fraction, exponent bias, largest finite value, what overflow gives
 * (infinity, or NaN where there is none), NaN. The NaN of float8_e5m2 is the one that PyTorch and
 * NVIDIA's conversion instructions give; those of the others are the plain quiet NaN. */
#define CAST_FORMAT_FLOAT16 16, 10, 15, 0x7BFF, 0x7C00, 0x7E00
#define CAST_FORMAT_BFLOAT16 16, 7, 127, 0x7F7F, 0x7F80, 0x7FC0
#define CAST_FORMAT_FLOAT8_E4M3FN 8, 3, 7, 0x7E, 0x7F, 0x7F
#define CAST_FORMAT_FLOAT8_E5M2 8, 2, 15, 0x7B, 0x7C, 0x7F
#define CAST_NAN_FLOAT32 0x7FC00000u
#define CAST_NAN_FLOAT64 0x7FF8000000000000u

CAST_INLINE uint32_t cast_bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

CAST_INLINE float cast_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

CAST_INLINE double cast_double_of_bits(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- Floats narrower than float32 ------------------------------------------------------------ */

/* The float of a narrower one: exact, and the canonical NaN of a NaN. */
CAST_INLINE float cast_widen_bits(uint32_t element, uint32_t width, uint32_t fraction,
                                  uint32_t bias, uint32_t largest, uint32_t overflow, uint32_t nan)
{
    uint32_t sign = (element >> (width - 1)) << 31;
    uint32_t magnitude = element & ((1u << (width - 1)) - 1);
    uint32_t bits = (magnitude << (23 - fraction)) + ((127 - bias) << 23);
    if (bias < 127) {
        /* A subnormal is its fraction times the smallest normal number: 1.fraction times that
         * number, less the number itself. Where bias is 127 float's own subnormals fit. */
        uint32_t smallest_normal = (128 - bias) << 23;
        float subnormal = cast_float_of_bits((magnitude << (23 - fraction)) + smallest_normal) -
                          cast_float_of_bits(smallest_normal);
        bits = magnitude < (1u << fraction) ? cast_bits_of_float(subnormal) : bits;
    }
    if (overflow != nan)
        bits = magnitude == overflow ? 0x7F800000u : bits;
    bits |= sign;
    bool is_nan = magnitude > largest && (magnitude != overflow || overflow == nan);
    return cast_float_of_bits(is_nan ? CAST_NAN_FLOAT32 : bits);
}

/* The nearest narrower float, ties to even. */
CAST_INLINE uint32_t cast_narrow_bits(float value, bool clamp, uint32_t width, uint32_t fraction,
                                      uint32_t bias, uint32_t largest, uint32_t overflow,
                                      uint32_t nan)
{
    uint32_t bits = cast_bits_of_float(value);
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    uint32_t sign = (bits >> 31) << (width - 1);
    uint32_t dropped = 23 - fraction;
    /* Half a unit, less one bit where the last kept bit is even; it may carry into the exponent. */
    uint32_t half = ((1u << (dropped - 1)) - 1) + ((magnitude >> dropped) & 1);
    uint32_t result = ((magnitude + half) >> dropped) - ((127 - bias) << fraction);
    if (bias < 127) {
        /* Below the smallest normal number the unit is fixed. A float of which that is the last bit
         * makes the addition round there, and leaves the number of units in its low bits. */
        uint32_t magic = (127 + 24 - bias - fraction) << 23;
        float sum = cast_float_of_bits(magnitude) + cast_float_of_bits(magic);
        uint32_t subnormal = cast_bits_of_float(sum) - magic;
        result = magnitude < ((128 - bias) << 23) ? subnormal : result;
    }
    uint32_t over = clamp ? largest | sign : overflow == nan ? nan : overflow | sign;
    result = result > largest ? over : result | sign;
    return magnitude > 0x7F800000u ? nan : result;
}

/* Expands the format before the arguments are counted. */
#define CAST_CALL_(function, ...) function(__VA_ARGS__)

/* ---- Rounding to odd: towards zero or down, the last bit set if anything was lost ------------
 * What is rounded to odd with at least two bits to spare rounds to nearest as the value itself. */

/* Leaves 24 significant bits, for the narrow floats, which need 13 of them. */
CAST_INLINE float cast_odd_float_of_i32(int32_t value)
{
    uint32_t bits = (uint32_t)value;
    uint32_t odd = (bits & ~0xFFu) | ((bits & 0xFFu) != 0 ? 0x100u : 0u);
    bool exact = value >= -0x1000000 && value <= 0x1000000;
    return (float)(exact ? value : (int32_t)odd);
}

CAST_INLINE float cast_odd_float_of_u32(uint32_t value)
{
    uint32_t odd = (value & ~0xFFu) | ((value & 0xFFu) != 0 ? 0x100u : 0u);
    return (float)(value <= 0x1000000u ? value : odd);
}

/* Leaves 53 significant bits. */
CAST_INLINE double cast_odd_double_of_i64(int64_t value)
{
    uint64_t bits = (uint64_t)value;
    uint64_t odd = (bits & ~(uint64_t)0x7FF) | ((bits & 0x7FFu) != 0 ? 0x800u : 0u);
    bool exact = value >= -((int64_t)1 << 53) && value <= (int64_t)1 << 53;
    return (double)(exact ? value : (int64_t)odd);
}

CAST_INLINE double cast_odd_double_of_u64(uint64_t value)
{
    uint64_t odd = (value & ~(uint64_t)0x7FF) | ((value & 0x7FFu) != 0 ? 0x800u : 0u);
    return (double)(value <= (uint64_t)1 << 53 ? value : odd);
}

/* The nearest float if it is exact or odd, else its neighbour on the value's other side. The
 * largest float is odd, so that overflow stays finite here and is decided by who narrows next. */
CAST_INLINE float cast_odd_float_of_f64(double value)
{
    float nearest = (float)value;
    double back = (double)nearest;
    uint32_t bits = cast_bits_of_float(nearest);
    bool too_large = value < 0 ? back < value : back > value;
    bool lost = value < back || value > back; /* false for NaN */
    uint32_t neighbour = too_large ? bits - 1 : bits + 1;
    return cast_float_of_bits(lost && (bits & 1) == 0 ? neighbour : bits);
}

/* ---- Widening: cast_widen_NAME(element) is the carrier's value ------------------------------- */

#define CAST_WIDEN_PLAIN_(NAME, value_type)                                                        \
    CAST_INLINE value_type cast_widen_##NAME(CAST_TYPE_##NAME element)                             \
    {                                                                                              \
        return element;                                                                            \
    }
#define CAST_WIDEN_FLOAT_(NAME)                                                                    \
    CAST_INLINE float cast_widen_##NAME(CAST_TYPE_##NAME element)                                  \
    {                                                                                              \
        return CAST_CALL_(cast_widen_bits, element, CAST_FORMAT_##NAME);                           \
    }

CAST_INLINE int32_t cast_widen_BOOL(uint8_t element)
{
    return element != 0 ? 1 : 0;
}
CAST_WIDEN_PLAIN_(UINT8, int32_t)
CAST_WIDEN_PLAIN_(INT8, int32_t)
CAST_WIDEN_PLAIN_(UINT16, int32_t)
CAST_WIDEN_PLAIN_(INT16, int32_t)
CAST_WIDEN_PLAIN_(UINT32, uint32_t)
CAST_WIDEN_PLAIN_(INT32, int32_t)
CAST_WIDEN_PLAIN_(UINT64, uint64_t)
CAST_WIDEN_PLAIN_(INT64, int64_t)
CAST_WIDEN_FLOAT_(FLOAT16)
CAST_WIDEN_FLOAT_(BFLOAT16)
CAST_WIDEN_PLAIN_(FLOAT32, float)
CAST_WIDEN_PLAIN_(FLOAT64, double)
CAST_WIDEN_PLAIN_(COMPLEX64, struct cast_complex64)
CAST_WIDEN_PLAIN_(COMPLEX128, struct cast_complex128)
CAST_WIDEN_FLOAT_(FLOAT8_E4M3FN)
CAST_WIDEN_FLOAT_(FLOAT8_E5M2)

/* ---- Narrowing: cast_NAME_of_carrier(value, saturate) is the element of dtype NAME ----------- */

/* One narrowing function. `value` and `saturate` are the names for the expression. */
#define CAST_NARROW_(NAME, carrier, expression)                                                    \
    CAST_INLINE CAST_TYPE_##NAME cast_##NAME##_of_##carrier(CAST_VALUE_##carrier value,            \
                                                            bool saturate)                         \
    {                                                                                              \
        (void)saturate;                                                                            \
        return (CAST_TYPE_##NAME)(expression);                                                     \
    }

/* A real number takes the real part of a complex one. */
#define CAST_NARROW_COMPLEX_(NAME)                                                                 \
    CAST_NARROW_(NAME, c64, cast_##NAME##_of_f32(value.re, saturate))                              \
    CAST_NARROW_(NAME, c128, cast_##NAME##_of_f64(value.re, saturate))

#define CAST_TRUTH_(carrier, expression) CAST_NARROW_(BOOL, carrier, (expression) ? 1 : 0)
CAST_TRUTH_(small, value != 0)
CAST_TRUTH_(i32, value != 0)
CAST_TRUTH_(u32, value != 0)
CAST_TRUTH_(i64, value != 0)
CAST_TRUTH_(u64, value != 0)
CAST_TRUTH_(f32, value != 0)
CAST_TRUTH_(f64, value != 0)
CAST_TRUTH_(c64, value.re != 0 || value.im != 0)
CAST_TRUTH_(c128, value.re != 0 || value.im != 0)

/* Truncates what fits and replaces the rest, in this order, so that no conversion is undefined and
 * no branch is needed. `least` and `greatest` + 1 are powers of two (or 0), exact in a float; what
 * lies between -1 and an unsigned type's 0 is 0 either way. */
#define CAST_TRUNCATE_(NAME, carrier, real, least, greatest)                                       \
    CAST_INLINE CAST_TYPE_##NAME cast_##NAME##_of_##carrier(real value, bool saturate)             \
    {                                                                                              \
        const real low = (real)(least);                                                            \
        const real end = (real)2 * (real)((greatest) / 2 + 1);                                     \
        real inside = value >= low && value < end ? value : (real)0;                               \
        CAST_TYPE_##NAME result = (CAST_TYPE_##NAME)inside;                                        \
        (void)saturate;                                                                            \
        result = value >= end ? (greatest) : result;                                               \
        return value < low ? (least) : result;                                                     \
    }
/* The same where `real` holds both limits exactly. */
#define CAST_CLAMP_(NAME, carrier, real, least, greatest)                                          \
    CAST_INLINE CAST_TYPE_##NAME cast_##NAME##_of_##carrier(real value, bool saturate)             \
    {                                                                                              \
        real inside = value > (real)(least) ? value : (real)(least);                               \
        inside = inside < (real)(greatest) ? inside : (real)(greatest);                            \
        (void)saturate;                                                                            \
        return (CAST_TYPE_##NAME)(value != value ? 0 : (int32_t)inside);                           \
    }
#define CAST_TO_INTEGER_(NAME)                                                                     \
    CAST_NARROW_(NAME, small, value)                                                               \
    CAST_NARROW_(NAME, i32, value)                                                                 \
    CAST_NARROW_(NAME, u32, value)                                                                 \
    CAST_NARROW_(NAME, i64, value)                                                                 \
    CAST_NARROW_(NAME, u64, value)                                                                 \
    CAST_NARROW_COMPLEX_(NAME)

CAST_CLAMP_(UINT8, f32, float, 0, UINT8_MAX)
CAST_CLAMP_(UINT8, f64, double, 0, UINT8_MAX)
CAST_CLAMP_(INT8, f32, float, INT8_MIN, INT8_MAX)
CAST_CLAMP_(INT8, f64, double, INT8_MIN, INT8_MAX)
CAST_CLAMP_(UINT16, f32, float, 0, UINT16_MAX)
CAST_CLAMP_(UINT16, f64, double, 0, UINT16_MAX)
CAST_CLAMP_(INT16, f32, float, INT16_MIN, INT16_MAX)
CAST_CLAMP_(INT16, f64, double, INT16_MIN, INT16_MAX)
CAST_TRUNCATE_(INT32, f32, float, INT32_MIN, INT32_MAX)
CAST_CLAMP_(INT32, f64, double, INT32_MIN, INT32_MAX)
CAST_TRUNCATE_(UINT32, f32, float, 0, UINT32_MAX)
CAST_TRUNCATE_(UINT32, f64, double, 0, UINT32_MAX)
CAST_TRUNCATE_(INT64, f32, float, INT64_MIN, INT64_MAX)
CAST_TRUNCATE_(INT64, f64, double, INT64_MIN, INT64_MAX)
CAST_TRUNCATE_(UINT64, f32, float, 0, UINT64_MAX)
CAST_TRUNCATE_(UINT64, f64, double, 0, UINT64_MAX)

CAST_TO_INTEGER_(UINT8)
CAST_TO_INTEGER_(INT8)
CAST_TO_INTEGER_(UINT16)
CAST_TO_INTEGER_(INT16)
CAST_TO_INTEGER_(UINT32)
CAST_TO_INTEGER_(INT32)
CAST_TO_INTEGER_(UINT64)
CAST_TO_INTEGER_(INT64)

/* `clamp` is whether overflow gives the largest finite value. */
#define CAST_TO_NARROW_FLOAT_(NAME, clamp)                                                         \
    CAST_NARROW_(NAME, f32, CAST_CALL_(cast_narrow_bits, value, clamp, CAST_FORMAT_##NAME))        \
    CAST_NARROW_(NAME, f64, cast_##NAME##_of_f32(cast_odd_float_of_f64(value), saturate))          \
    CAST_NARROW_(NAME, small, cast_##NAME##_of_f32((float)value, saturate))                        \
    CAST_NARROW_(NAME, i32, cast_##NAME##_of_f32(cast_odd_float_of_i32(value), saturate))          \
    CAST_NARROW_(NAME, u32, cast_##NAME##_of_f32(cast_odd_float_of_u32(value), saturate))          \
    CAST_NARROW_(NAME, i64, cast_##NAME##_of_f64(cast_odd_double_of_i64(value), saturate))         \
    CAST_NARROW_(NAME, u64, cast_##NAME##_of_f64(cast_odd_double_of_u64(value), saturate))         \
    CAST_NARROW_COMPLEX_(NAME)

CAST_TO_NARROW_FLOAT_(FLOAT16, false)
CAST_TO_NARROW_FLOAT_(BFLOAT16, false)
CAST_TO_NARROW_FLOAT_(FLOAT8_E4M3FN, saturate)
CAST_TO_NARROW_FLOAT_(FLOAT8_E5M2, saturate)

/* The machine's own conversions round once, to nearest; only the NaN is ours. */
#define CAST_TO_FLOAT_(NAME, real, nan)                                                            \
    CAST_INLINE real cast_canonical_##NAME(real value)                                             \
    {                                                                                              \
        return value != value ? (nan) : value;                                                     \
    }                                                                                              \
    CAST_NARROW_(NAME, small, value)                                                               \
    CAST_NARROW_(NAME, i32, value)                                                                 \
    CAST_NARROW_(NAME, u32, value)                                                                 \
    CAST_NARROW_(NAME, i64, value)                                                                 \
    CAST_NARROW_(NAME, u64, value)                                                                 \
    CAST_NARROW_(NAME, f32, cast_canonical_##NAME((real)value))                                    \
    CAST_NARROW_(NAME, f64, cast_canonical_##NAME((real)value))                                    \
    CAST_NARROW_COMPLEX_(NAME)

CAST_TO_FLOAT_(FLOAT32, float, cast_float_of_bits(CAST_NAN_FLOAT32))
CAST_TO_FLOAT_(FLOAT64, double, cast_double_of_bits(CAST_NAN_FLOAT64))

#define CAST_PARTS_(NAME, carrier, real, imaginary)                                                \
    CAST_INLINE CAST_TYPE_##NAME cast_##NAME##_of_##carrier(CAST_VALUE_##carrier value,            \
                                                            bool saturate)                         \
    {                                                                                              \
        CAST_TYPE_##NAME result;                                                                   \
        result.re = (real);                                                                        \
        result.im = (imaginary);                                                                   \
        (void)saturate;                                                                            \
        return result;                                                                             \
    }
#define CAST_TO_COMPLEX_(NAME, REAL)                                                               \
    CAST_PARTS_(NAME, small, cast_##REAL##_of_small(value, false), 0)                              \
    CAST_PARTS_(NAME, i32, cast_##REAL##_of_i32(value, false), 0)                                  \
    CAST_PARTS_(NAME, u32, cast_##REAL##_of_u32(value, false), 0)                                  \
    CAST_PARTS_(NAME, i64, cast_##REAL##_of_i64(value, false), 0)                                  \
    CAST_PARTS_(NAME, u64, cast_##REAL##_of_u64(value, false), 0)                                  \
    CAST_PARTS_(NAME, f32, cast_##REAL##_of_f32(value, false), 0)                                  \
    CAST_PARTS_(NAME, f64, cast_##REAL##_of_f64(value, false), 0)                                  \
    CAST_PARTS_(NAME, c64, cast_##REAL##_of_f32(value.re, false),                                  \
                cast_##REAL##_of_f32(value.im, false))                                             \
    CAST_PARTS_(NAME, c128, cast_##REAL##_of_f64(value.re, false),                                 \
                cast_##REAL##_of_f64(value.im, false))

CAST_TO_COMPLEX_(COMPLEX64, FLOAT32)
CAST_TO_COMPLEX_(COMPLEX128, FLOAT64)

/* ---- One element ----------------------------------------------------------------------------- */

#define CAST_SCALAR(FROM, TO, element, saturate)                                                   \
    CAST_SCALAR_1_(TO, CAST_CARRIER_##FROM, cast_widen_##FROM(element), saturate)
#define CAST_SCALAR_1_(TO, carrier, value, saturate) CAST_SCALAR_2_(TO, carrier, value, saturate)
#define CAST_SCALAR_2_(TO, carrier, value, saturate) cast_##TO##_of_##carrier(value, saturate)

#endif
