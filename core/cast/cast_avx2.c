/* cast_avx2: the kernels for processors with AVX2 and F16C. By hand: float16, which has its own
 * instructions, and floats to 64-bit integers, for which AVX2 has none. */
#include "core/cast/cast_internal.h"
#include "core/cast/cast_scalar.h"

#include <immintrin.h>

/* Floats on their way from one kernel to the next, in the first cache. */
#define BLOCK 1024

static __m256 canonical(__m256 floats)
{
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(CAST_NAN_FLOAT32));
    return _mm256_blendv_ps(floats, nan, _mm256_cmp_ps(floats, floats, _CMP_UNORD_Q));
}

static void floats_of_halves(const unsigned char *restrict in, unsigned char *restrict out,
                             size_t count)
{
    size_t i = 0;
    for (; count - i >= 8; i += 8) {
        __m128i halves = _mm_loadu_si128((const void *)(in + 2 * i));
        _mm256_storeu_ps((void *)(out + 4 * i), canonical(_mm256_cvtph_ps(halves)));
    }
    for (; i < count; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        float value = cast_widen_FLOAT16(half);
        memcpy(out + 4 * i, &value, sizeof value);
    }
}

static void halves_of_floats(const unsigned char *restrict in, unsigned char *restrict out,
                             size_t count)
{
    size_t i = 0;
    for (; count - i >= 8; i += 8) {
        __m256 floats = canonical(_mm256_loadu_ps((const void *)(in + 4 * i)));
        _mm_storeu_si128((void *)(out + 2 * i), _mm256_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT));
    }
    for (; i < count; i++) {
        float value;
        memcpy(&value, in + 4 * i, sizeof value);
        uint16_t half = cast_FLOAT16_of_f32(value, false);
        memcpy(out + 2 * i, &half, sizeof half);
    }
}

/* What rounds to the same float16 as the source does. */
#define ODD_FLOATS(NAME, value)                                                                    \
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
ODD_FLOATS(UINT32, cast_odd_float_of_u32(source))
ODD_FLOATS(INT32, cast_odd_float_of_i32(source))
ODD_FLOATS(UINT64, cast_odd_float_of_f64(cast_odd_double_of_u64(source)))
ODD_FLOATS(INT64, cast_odd_float_of_f64(cast_odd_double_of_i64(source)))
ODD_FLOATS(FLOAT64, cast_odd_float_of_f64(source))

static const cast_kernel odd_floats[TD_DTYPE_END] = {
    [TD_UINT32] = odd_floats_of_UINT32,   [TD_INT32] = odd_floats_of_INT32,
    [TD_UINT64] = odd_floats_of_UINT64,   [TD_INT64] = odd_floats_of_INT64,
    [TD_FLOAT64] = odd_floats_of_FLOAT64,
};

/* ---- 64-bit integers ------------------------------------------------------------------------- */

/* Four floats apart: the integer is significand << left or >> right, where the shift that is not
 * meant is a huge one and gives 0. The masks are whole elements. */
struct apart {
    __m256i significand, left, right, negative, too_large, nan;
};

static __m256i int64_of(struct apart x)
{
    const __m256i greatest = _mm256_set1_epi64x(INT64_MAX);
    __m256i magnitude = _mm256_or_si256(_mm256_sllv_epi64(x.significand, x.left),
                                        _mm256_srlv_epi64(x.significand, x.right));
    __m256i value = _mm256_sub_epi64(_mm256_xor_si256(magnitude, x.negative), x.negative);
    __m256i limit = _mm256_xor_si256(greatest, x.negative);
    return _mm256_andnot_si256(x.nan, _mm256_blendv_epi8(value, limit, x.too_large));
}

static struct apart apart_floats(const unsigned char *in)
{
    __m128 floats = _mm_loadu_ps((const void *)in);
    __m128i bits = _mm_castps_si128(floats);
    __m128i exponent = _mm_and_si128(_mm_srli_epi32(bits, 23), _mm_set1_epi32(0xFF));
    __m128i significand =
        _mm_or_si128(_mm_and_si128(bits, _mm_set1_epi32(0x7FFFFF)), _mm_set1_epi32(0x800000));
    __m128i left = _mm_sub_epi32(exponent, _mm_set1_epi32(127 + 23));
    __m128i right = _mm_sub_epi32(_mm_set1_epi32(127 + 23), exponent);
    __m128i too_large = _mm_cmpgt_epi32(exponent, _mm_set1_epi32(127 + 62));
    __m128i nan = _mm_castps_si128(_mm_cmpunord_ps(floats, floats));
    return (struct apart){
        .significand = _mm256_cvtepu32_epi64(significand),
        .left = _mm256_cvtepi32_epi64(left),
        .right = _mm256_cvtepi32_epi64(right),
        .negative = _mm256_cvtepi32_epi64(_mm_srai_epi32(bits, 31)),
        .too_large = _mm256_cvtepi32_epi64(too_large),
        .nan = _mm256_cvtepi32_epi64(nan),
    };
}

static struct apart apart_doubles(const unsigned char *in)
{
    const __m256i fraction = _mm256_set1_epi64x(((int64_t)1 << 52) - 1);
    __m256d doubles = _mm256_loadu_pd((const void *)in);
    __m256i bits = _mm256_castpd_si256(doubles);
    __m256i exponent = _mm256_and_si256(_mm256_srli_epi64(bits, 52), _mm256_set1_epi64x(0x7FF));
    return (struct apart){
        .significand =
            _mm256_or_si256(_mm256_and_si256(bits, fraction), _mm256_set1_epi64x((int64_t)1 << 52)),
        .left = _mm256_sub_epi64(exponent, _mm256_set1_epi64x(1023 + 52)),
        .right = _mm256_sub_epi64(_mm256_set1_epi64x(1023 + 52), exponent),
        .negative = _mm256_cmpgt_epi64(_mm256_setzero_si256(), bits),
        .too_large = _mm256_cmpgt_epi64(exponent, _mm256_set1_epi64x(1023 + 62)),
        .nan = _mm256_castpd_si256(_mm256_cmp_pd(doubles, doubles, _CMP_UNORD_Q)),
    };
}

static void int64s_of_floats(const unsigned char *restrict in, unsigned char *restrict out,
                             size_t count)
{
    size_t i = 0;
    for (; count - i >= 4; i += 4)
        _mm256_storeu_si256((void *)(out + 8 * i), int64_of(apart_floats(in + 4 * i)));
    for (; i < count; i++) {
        float value;
        memcpy(&value, in + 4 * i, sizeof value);
        int64_t integer = cast_INT64_of_f32(value, false);
        memcpy(out + 8 * i, &integer, sizeof integer);
    }
}

static void int64s_of_doubles(const unsigned char *restrict in, unsigned char *restrict out,
                              size_t count)
{
    size_t i = 0;
    for (; count - i >= 4; i += 4)
        _mm256_storeu_si256((void *)(out + 8 * i), int64_of(apart_doubles(in + 8 * i)));
    for (; i < count; i++) {
        double value;
        memcpy(&value, in + 8 * i, sizeof value);
        int64_t integer = cast_INT64_of_f64(value, false);
        memcpy(out + 8 * i, &integer, sizeof integer);
    }
}

/* ---- By hand, or by way of floats ------------------------------------------------------------ */

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

#define CAST_KERNELS cast_kernels_avx2
#define CAST_BY_HAND(FROM, TO)                                                                     \
    by_hand(TD_##FROM, sizeof(CAST_TYPE_##FROM), TD_##TO, sizeof(CAST_TYPE_##TO), in, out, count,  \
            saturate)

/* The dtypes and sizes are constants at every call. */
CAST_INLINE bool by_hand(enum td_dtype from, size_t in_size, enum td_dtype to, size_t out_size,
                         const unsigned char *in, unsigned char *out, size_t count, bool saturate)
{
    const bool is_complex = from == TD_COMPLEX64 || from == TD_COMPLEX128;
    const bool is_narrow = from == TD_FLOAT16 || from == TD_BFLOAT16 || from == TD_FLOAT8_E4M3FN ||
                           from == TD_FLOAT8_E5M2;
    if (from == TD_FLOAT16 && to == TD_FLOAT32)
        floats_of_halves(in, out, count);
    else if (from == TD_FLOAT32 && to == TD_FLOAT16)
        halves_of_floats(in, out, count);
    else if (from == TD_FLOAT32 && to == TD_INT64)
        int64s_of_floats(in, out, count);
    else if (from == TD_FLOAT64 && to == TD_INT64)
        int64s_of_doubles(in, out, count);
    else if (from == TD_FLOAT16 || (to == TD_FLOAT16 && !is_complex) ||
             (is_narrow && to == TD_INT64)) {
        cast_kernel odd = to == TD_FLOAT16 ? odd_floats[from] : NULL;
        const struct way way = {odd ? odd : cast_kernels_avx2[from][TD_FLOAT32],
                                cast_kernels_avx2[TD_FLOAT32][to], in_size, out_size};
        by_way_of_floats(way, in, out, count, saturate);
    } else
        return false;
    return true;
}
#include "core/cast/cast_kernels.h"
