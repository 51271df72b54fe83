/* cast_avx2: the kernels for processors with AVX2 and F16C. Most are the compiler's. Some pairs are
 * written by hand, a step of some elements at a time; narrow floats become others, and others
 * narrow floats, by way of float32, block by block. */
#include "core/cast/cast_internal.h"
#include "core/cast/cast_scalar.h"

#include <immintrin.h>

/* X(FROM, TO, elements a step): what is written by hand, as step_FROM_TO. */
#define BY_HAND(X)                                                                                 \
    X(FLOAT16, FLOAT32, 8)                                                                         \
    X(BFLOAT16, FLOAT32, 8)                                                                        \
    X(FLOAT8_E4M3FN, FLOAT32, 8)                                                                   \
    X(FLOAT8_E5M2, FLOAT32, 8)                                                                     \
    X(FLOAT64, FLOAT16, 8)                                                                         \
    X(FLOAT32, FLOAT16, 8)                                                                         \
    X(FLOAT32, BFLOAT16, 16)                                                                       \
    X(FLOAT32, FLOAT64, 4)                                                                         \
    X(FLOAT32, INT16, 16)                                                                          \
    X(FLOAT32, UINT16, 16)                                                                         \
    X(FLOAT32, INT8, 32)                                                                           \
    X(FLOAT32, UINT8, 32)                                                                          \
    X(FLOAT32, INT32, 8)                                                                           \
    X(FLOAT64, INT32, 4)                                                                           \
    X(FLOAT32, INT64, 8)                                                                           \
    X(FLOAT64, INT64, 4)                                                                           \
    X(INT64, FLOAT32, 8)                                                                           \
    X(INT64, FLOAT64, 4)

#define LOAD_PS(in) _mm256_loadu_ps((const void *)(in))
#define LOAD_SI(in) _mm256_loadu_si256((const void *)(in))
#define STORE_PS(out, value) _mm256_storeu_ps((void *)(out), value)
#define STORE_SI(out, value) _mm256_storeu_si256((void *)(out), value)
#define SIGN_PS _mm256_set1_ps(-0.0f)

/* ---- Floats ---------------------------------------------------------------------------------- */

static inline __m256 nan_where(__m256 floats, __m256 mask)
{
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(CAST_NAN_FLOAT32));
    return _mm256_blendv_ps(floats, nan, mask);
}

static inline __m256 canonical(__m256 floats)
{
    return nan_where(floats, _mm256_cmp_ps(floats, floats, _CMP_UNORD_Q));
}

static inline void step_FLOAT16_FLOAT32(const unsigned char *in, unsigned char *out)
{
    STORE_PS(out, canonical(_mm256_cvtph_ps(_mm_loadu_si128((const void *)in))));
}

static inline void step_BFLOAT16_FLOAT32(const unsigned char *in, unsigned char *out)
{
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)in));
    STORE_PS(out, canonical(_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16))));
}

/* As a float16 with the same fields the number is 2^-8 times too small, and the NaN is 480. */
static inline void step_FLOAT8_E4M3FN_FLOAT32(const unsigned char *in, unsigned char *out)
{
    __m128i bits = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64((const void *)in)), 7);
    __m128i halves = _mm_and_si128(bits, _mm_set1_epi16((short)0xBFFF));
    __m256 floats = _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(256));
    __m256 magnitudes = _mm256_andnot_ps(SIGN_PS, floats);
    __m256 is_nan = _mm256_cmp_ps(magnitudes, _mm256_set1_ps(480), _CMP_EQ_OQ);
    STORE_PS(out, nan_where(floats, is_nan));
}

/* The upper byte of a float16. */
static inline void step_FLOAT8_E5M2_FLOAT32(const unsigned char *in, unsigned char *out)
{
    __m128i bytes = _mm_loadl_epi64((const void *)in);
    __m128i halves = _mm_unpacklo_epi8(_mm_setzero_si128(), bytes);
    STORE_PS(out, canonical(_mm256_cvtph_ps(halves)));
}

static inline void step_FLOAT32_FLOAT16(const unsigned char *in, unsigned char *out)
{
    __m256 floats = canonical(LOAD_PS(in));
    _mm_storeu_si128((void *)out, _mm256_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT));
}

/* Four doubles as floats that round to the same float16: see short_float_of_f64. */
static inline __m128 short_floats_of(const unsigned char *in)
{
    const __m256i lost = _mm256_set1_epi64x(0x1FFFFFFF);
    __m256i bits = LOAD_SI(in);
    __m256i carry = _mm256_add_epi64(_mm256_and_si256(bits, lost), lost);
    __m256i odd = _mm256_andnot_si256(lost, _mm256_or_si256(bits, carry));
    return _mm256_cvtpd_ps(_mm256_castsi256_pd(odd));
}

static inline void step_FLOAT64_FLOAT16(const unsigned char *in, unsigned char *out)
{
    __m256 floats = _mm256_set_m128(short_floats_of(in + 32), short_floats_of(in));
    _mm_storeu_si128((void *)out, _mm256_cvtps_ph(canonical(floats), _MM_FROUND_TO_NEAREST_INT));
}

/* In the lower half of each element. */
static inline __m256i bfloats_of(__m256 floats)
{
    __m256i bits = _mm256_castps_si256(canonical(floats));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    return _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
}

static inline void step_FLOAT32_BFLOAT16(const unsigned char *in, unsigned char *out)
{
    __m256i packed = _mm256_packus_epi32(bfloats_of(LOAD_PS(in)), bfloats_of(LOAD_PS(in + 32)));
    STORE_SI(out, _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
}

static inline void step_FLOAT32_FLOAT64(const unsigned char *in, unsigned char *out)
{
    const __m256d nan = _mm256_castsi256_pd(_mm256_set1_epi64x(CAST_NAN_FLOAT64));
    __m256d doubles = _mm256_cvtps_pd(_mm_loadu_ps((const void *)in));
    __m256d is_nan = _mm256_cmp_pd(doubles, doubles, _CMP_UNORD_Q);
    _mm256_storeu_pd((void *)out, _mm256_blendv_pd(doubles, nan, is_nan));
}

/* ---- Integers -------------------------------------------------------------------------------- */

/* The machine gives INT32_MIN for all that does not fit; its complement is INT32_MAX. */
static inline void step_FLOAT32_INT32(const unsigned char *in, unsigned char *out)
{
    __m256 floats = LOAD_PS(in);
    __m256 too_large = _mm256_cmp_ps(floats, _mm256_set1_ps(0x1p31f), _CMP_GE_OQ);
    __m256 is_number = _mm256_cmp_ps(floats, floats, _CMP_ORD_Q);
    __m256i integers =
        _mm256_xor_si256(_mm256_cvttps_epi32(floats), _mm256_castps_si256(too_large));
    STORE_SI(out, _mm256_and_si256(integers, _mm256_castps_si256(is_number)));
}

/* Eight floats as integers from `least` to `greatest`, which are exact as floats. */
static inline __m256i clamped(const unsigned char *in, float least, float greatest)
{
    __m256 floats = LOAD_PS(in);
    __m256 is_number = _mm256_cmp_ps(floats, floats, _CMP_ORD_Q);
    __m256 inside =
        _mm256_min_ps(_mm256_max_ps(floats, _mm256_set1_ps(least)), _mm256_set1_ps(greatest));
    return _mm256_cvttps_epi32(_mm256_and_ps(inside, is_number));
}

static inline void step_FLOAT32_INT16(const unsigned char *in, unsigned char *out)
{
    __m256i packed = _mm256_packs_epi32(clamped(in, INT16_MIN, INT16_MAX),
                                        clamped(in + 32, INT16_MIN, INT16_MAX));
    STORE_SI(out, _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
}

static inline void step_FLOAT32_UINT16(const unsigned char *in, unsigned char *out)
{
    __m256i packed =
        _mm256_packus_epi32(clamped(in, 0, UINT16_MAX), clamped(in + 32, 0, UINT16_MAX));
    STORE_SI(out, _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
}

/* Packing works within halves of a vector, and leaves groups of four bytes in this order. */
static inline __m256i ordered_bytes(__m256i packed)
{
    return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static inline void step_FLOAT32_INT8(const unsigned char *in, unsigned char *out)
{
    __m256i low =
        _mm256_packs_epi32(clamped(in, INT8_MIN, INT8_MAX), clamped(in + 32, INT8_MIN, INT8_MAX));
    __m256i high = _mm256_packs_epi32(clamped(in + 64, INT8_MIN, INT8_MAX),
                                      clamped(in + 96, INT8_MIN, INT8_MAX));
    STORE_SI(out, ordered_bytes(_mm256_packs_epi16(low, high)));
}

static inline void step_FLOAT32_UINT8(const unsigned char *in, unsigned char *out)
{
    __m256i low = _mm256_packs_epi32(clamped(in, 0, UINT8_MAX), clamped(in + 32, 0, UINT8_MAX));
    __m256i high =
        _mm256_packs_epi32(clamped(in + 64, 0, UINT8_MAX), clamped(in + 96, 0, UINT8_MAX));
    STORE_SI(out, ordered_bytes(_mm256_packus_epi16(low, high)));
}

static inline void step_FLOAT64_INT32(const unsigned char *in, unsigned char *out)
{
    __m256d doubles = _mm256_loadu_pd((const void *)in);
    __m256d is_number = _mm256_cmp_pd(doubles, doubles, _CMP_ORD_Q);
    __m256d inside =
        _mm256_min_pd(_mm256_max_pd(doubles, _mm256_set1_pd(INT32_MIN)), _mm256_set1_pd(INT32_MAX));
    _mm_storeu_si128((void *)out, _mm256_cvttpd_epi32(_mm256_and_pd(inside, is_number)));
}

/* Four floats taken apart, for which AVX2 has no conversion: the integer is significand << left or
 * >> right; the shift that is not meant is a huge one and gives 0. The others are masks. */
struct apart {
    __m256i significand, left, right, negative, too_large, nan;
};

static inline __m256i int64_of(struct apart x)
{
    const __m256i greatest = _mm256_set1_epi64x(INT64_MAX);
    __m256i magnitude = _mm256_or_si256(_mm256_sllv_epi64(x.significand, x.left),
                                        _mm256_srlv_epi64(x.significand, x.right));
    __m256i value = _mm256_sub_epi64(_mm256_xor_si256(magnitude, x.negative), x.negative);
    __m256i limit = _mm256_xor_si256(greatest, x.negative);
    return _mm256_andnot_si256(x.nan, _mm256_blendv_epi8(value, limit, x.too_large));
}

static inline struct apart apart_floats(const unsigned char *in)
{
    const __m128i unit = _mm_set1_epi32(127 + 23);
    __m128 floats = _mm_loadu_ps((const void *)in);
    __m128i bits = _mm_castps_si128(floats);
    __m128i exponent = _mm_and_si128(_mm_srli_epi32(bits, 23), _mm_set1_epi32(0xFF));
    __m128i fraction = _mm_and_si128(bits, _mm_set1_epi32(0x7FFFFF));
    __m128i too_large = _mm_cmpgt_epi32(exponent, _mm_set1_epi32(127 + 62));
    __m128i nan = _mm_castps_si128(_mm_cmpunord_ps(floats, floats));
    return (struct apart){
        .significand = _mm256_cvtepu32_epi64(_mm_or_si128(fraction, _mm_set1_epi32(0x800000))),
        .left = _mm256_cvtepi32_epi64(_mm_sub_epi32(exponent, unit)),
        .right = _mm256_cvtepi32_epi64(_mm_sub_epi32(unit, exponent)),
        .negative = _mm256_cvtepi32_epi64(_mm_srai_epi32(bits, 31)),
        .too_large = _mm256_cvtepi32_epi64(too_large),
        .nan = _mm256_cvtepi32_epi64(nan),
    };
}

static inline struct apart apart_doubles(const unsigned char *in)
{
    const __m256i one = _mm256_set1_epi64x((int64_t)1 << 52);
    const __m256i fraction = _mm256_set1_epi64x(((int64_t)1 << 52) - 1);
    const __m256i unit = _mm256_set1_epi64x(1023 + 52);
    __m256d doubles = _mm256_loadu_pd((const void *)in);
    __m256i bits = _mm256_castpd_si256(doubles);
    __m256i exponent = _mm256_and_si256(_mm256_srli_epi64(bits, 52), _mm256_set1_epi64x(0x7FF));
    return (struct apart){
        .significand = _mm256_or_si256(_mm256_and_si256(bits, fraction), one),
        .left = _mm256_sub_epi64(exponent, unit),
        .right = _mm256_sub_epi64(unit, exponent),
        .negative = _mm256_cmpgt_epi64(_mm256_setzero_si256(), bits),
        .too_large = _mm256_cmpgt_epi64(exponent, _mm256_set1_epi64x(1023 + 62)),
        .nan = _mm256_castpd_si256(_mm256_cmp_pd(doubles, doubles, _CMP_UNORD_Q)),
    };
}

/* By way of 32 bits where all eight fit in them, as most numbers do. */
static inline void step_FLOAT32_INT64(const unsigned char *in, unsigned char *out)
{
    __m256i narrow = _mm256_cvttps_epi32(LOAD_PS(in));
    __m256i misfits = _mm256_cmpeq_epi32(narrow, _mm256_set1_epi32(INT32_MIN));
    if (_mm256_testz_si256(misfits, misfits)) {
        STORE_SI(out, _mm256_cvtepi32_epi64(_mm256_castsi256_si128(narrow)));
        STORE_SI(out + 32, _mm256_cvtepi32_epi64(_mm256_extracti128_si256(narrow, 1)));
    } else {
        STORE_SI(out, int64_of(apart_floats(in)));
        STORE_SI(out + 32, int64_of(apart_floats(in + 16)));
    }
}

static inline void step_FLOAT64_INT64(const unsigned char *in, unsigned char *out)
{
    STORE_SI(out, int64_of(apart_doubles(in)));
}

static inline void step_INT64_FLOAT32(const unsigned char *in, unsigned char *out)
{
    __m256 first = LOAD_PS(in), second = LOAD_PS(in + 32);
    __m256i low = _mm256_castps_si256(_mm256_shuffle_ps(first, second, _MM_SHUFFLE(2, 0, 2, 0)));
    __m256i high = _mm256_castps_si256(_mm256_shuffle_ps(first, second, _MM_SHUFFLE(3, 1, 3, 1)));
    __m256i misfits = _mm256_xor_si256(high, _mm256_srai_epi32(low, 31));
    if (_mm256_testz_si256(misfits, misfits)) {
        low = _mm256_permute4x64_epi64(low, _MM_SHUFFLE(3, 1, 2, 0));
        STORE_PS(out, _mm256_cvtepi32_ps(low));
        return;
    }
    for (size_t i = 0; i < 8; i++) {
        int64_t value;
        memcpy(&value, in + i * sizeof value, sizeof value);
        float rounded = (float)value;
        memcpy(out + i * sizeof rounded, &rounded, sizeof rounded);
    }
}

/* Each half stands in the fraction of a double of its own, the upper one biased to be positive;
 * their difference from what the exponents and the bias add is exact, and only the sum rounds. */
static inline void step_INT64_FLOAT64(const unsigned char *in, unsigned char *out)
{
    const __m256i low_unit = _mm256_set1_epi64x(0x4330000000000000);  /* 2^52 */
    const __m256i high_unit = _mm256_set1_epi64x(0x4530000080000000); /* 2^84 + 2^63 */
    const __m256d both_units = _mm256_set1_pd(0x1p84 + 0x1p63 + 0x1p52);
    __m256i integers = LOAD_SI(in);
    __m256i low = _mm256_blend_epi32(low_unit, integers, 0x55);
    __m256i high = _mm256_xor_si256(_mm256_srli_epi64(integers, 32), high_unit);
    __m256d upper = _mm256_sub_pd(_mm256_castsi256_pd(high), both_units);
    _mm256_storeu_pd((void *)out, _mm256_add_pd(upper, _mm256_castsi256_pd(low)));
}

/* ---- Kernels --------------------------------------------------------------------------------- */

#define HAND_KERNEL(FROM, TO, STEP)                                                                \
    static void hand_##FROM##_##TO(const unsigned char *restrict in, unsigned char *restrict out,  \
                                   size_t count, bool saturate)                                    \
    {                                                                                              \
        CAST_TYPE_##FROM source;                                                                   \
        CAST_TYPE_##TO target;                                                                     \
        size_t i = 0;                                                                              \
        for (; count - i >= 2 * (STEP); i += 2 * (STEP)) { /* unrolled */                          \
            step_##FROM##_##TO(in + i * sizeof source, out + i * sizeof target);                   \
            step_##FROM##_##TO(in + (i + (STEP)) * sizeof source,                                  \
                               out + (i + (STEP)) * sizeof target);                                \
        }                                                                                          \
        for (; count - i >= (STEP); i += (STEP))                                                   \
            step_##FROM##_##TO(in + i * sizeof source, out + i * sizeof target);                   \
        for (; i < count; i++) {                                                                   \
            memcpy(&source, in + i * sizeof source, sizeof source);                                \
            target = CAST_SCALAR(FROM, TO, source, saturate);                                      \
            memcpy(out + i * sizeof target, &target, sizeof target);                               \
        }                                                                                          \
    }
BY_HAND(HAND_KERNEL)

static const cast_kernels hand_kernels[TD_DTYPE_END] = {
#define HAND_ENTRY(FROM, TO, STEP) [TD_##FROM][TD_##TO] = hand_##FROM##_##TO,
    BY_HAND(HAND_ENTRY)};

/* Doubles and wide integers as floats that round to the same float16 or float8: rounded to odd. The
 * smallest and largest doubles, where that fails, are 0 or too large for either. */
CAST_INLINE float short_float_of_f64(double value)
{
    const uint64_t lost = 0x1FFFFFFF;
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (float)cast_double_of_bits((bits | ((bits & lost) + lost)) & ~lost);
}

#define ODD_KERNEL(NAME, value)                                                                    \
    static void odd_floats_of_##NAME(const unsigned char *restrict in,                             \
                                     unsigned char *restrict out, size_t count, bool saturate)     \
    {                                                                                              \
        (void)saturate;                                                                            \
        for (size_t i = 0; i < count; i++) {                                                       \
            CAST_TYPE_##NAME source;                                                               \
            memcpy(&source, in + i * sizeof source, sizeof source);                                \
            float target = value;                                                                  \
            memcpy(out + i * sizeof target, &target, sizeof target);                               \
        }                                                                                          \
    }
ODD_KERNEL(UINT32, cast_odd_float_of_u32(source))
ODD_KERNEL(INT32, cast_odd_float_of_i32(source))
ODD_KERNEL(UINT64, short_float_of_f64(cast_odd_double_of_u64(source)))
ODD_KERNEL(INT64, short_float_of_f64(cast_odd_double_of_i64(source)))
ODD_KERNEL(FLOAT64, short_float_of_f64(source))
#define CAST_TYPE_WIDE_FLOAT64 double
ODD_KERNEL(WIDE_FLOAT64, cast_odd_float_of_f64(source))

static const cast_kernel odd_kernels[TD_DTYPE_END] = {
    [TD_UINT32] = odd_floats_of_UINT32,   [TD_INT32] = odd_floats_of_INT32,
    [TD_UINT64] = odd_floats_of_UINT64,   [TD_INT64] = odd_floats_of_INT64,
    [TD_FLOAT64] = odd_floats_of_FLOAT64,
};

/* Floats on their way from one kernel to the next, in the first cache. */
#define BLOCK 1024

struct way {
    cast_kernel to_floats, from_floats;
    size_t in_size, out_size;
};

static void by_way_of_floats(struct way way, const unsigned char *in, unsigned char *out,
                             size_t count, bool saturate)
{
    _Alignas(32) unsigned char floats[BLOCK * sizeof(float)];
    for (size_t length; count > 0; count -= length) {
        length = count < BLOCK ? count : BLOCK;
        way.to_floats(in, floats, length, saturate);
        way.from_floats(floats, out, length, saturate);
        in += length * way.in_size;
        out += length * way.out_size;
    }
}

CAST_INLINE bool is_narrow(enum td_dtype dtype)
{
    return dtype == TD_FLOAT16 || dtype == TD_BFLOAT16 || dtype == TD_FLOAT8_E4M3FN ||
           dtype == TD_FLOAT8_E5M2;
}

CAST_INLINE bool goes_by_way_of_floats(enum td_dtype from, enum td_dtype to)
{
    bool is_complex = from == TD_COMPLEX64 || from == TD_COMPLEX128;
    if (from == TD_FLOAT32 || to == TD_FLOAT32 || is_complex)
        return false;
    return is_narrow(from) || is_narrow(to);
}

/* bfloat16 reaches as far as float32 and needs the smallest doubles as they are. */
CAST_INLINE cast_kernel to_floats(enum td_dtype from, enum td_dtype to)
{
    if (!is_narrow(to) || !odd_kernels[from])
        return cast_kernels_avx2[from][TD_FLOAT32];
    return from == TD_FLOAT64 && to == TD_BFLOAT16 ? odd_floats_of_WIDE_FLOAT64 : odd_kernels[from];
}

/* The dtypes and sizes are constants at every call. */
CAST_INLINE bool by_hand(enum td_dtype from, size_t in_size, enum td_dtype to, size_t out_size,
                         const unsigned char *in, unsigned char *out, size_t count, bool saturate)
{
    if (hand_kernels[from][to])
        hand_kernels[from][to](in, out, count, saturate);
    else if (goes_by_way_of_floats(from, to))
        by_way_of_floats(
            (struct way){to_floats(from, to), cast_kernels_avx2[TD_FLOAT32][to], in_size, out_size},
            in, out, count, saturate);
    else
        return false;
    return true;
}

#define CAST_KERNELS cast_kernels_avx2
#define CAST_BY_HAND(FROM, TO)                                                                     \
    by_hand(TD_##FROM, sizeof(CAST_TYPE_##FROM), TD_##TO, sizeof(CAST_TYPE_##TO), in, out, count,  \
            saturate)
#include "core/cast/cast_kernels.h"
