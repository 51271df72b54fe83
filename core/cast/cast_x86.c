/* cast_x86: the paths of x86-64, and stores past its caches. */
#include "core/cast/cast.h"
#include "core/cast/cast_internal.h"

#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LINE 64

static bool plain_available(void)
{
    return true;
}

/* "avx2" includes that the system saves the wide registers; clang 14 knows no "f16c". */
static bool avx2_available(void)
{
    unsigned eax, ebx, ecx, edx;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           (ecx & bit_F16C);
}

static const struct cast_path plain = {"plain", plain_available, cast_kernels_plain};
static const struct cast_path avx2 = {"avx2", avx2_available, cast_kernels_avx2};
const struct cast_path *const cast_paths[] = {&avx2, &plain, NULL};

/* Only whole lines: a part of one would be read from memory first, or written twice. */
void cast_stream(void *restrict to, const void *restrict from, size_t size)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    size_t head = -(uintptr_t)out % LINE;
    if (head > size)
        head = size;
    if (head > 0)
        memcpy(out, in, head);
    for (; size - head >= LINE; head += LINE)
        for (size_t i = 0; i < LINE; i += sizeof(__m128i)) {
            __m128i part;
            memcpy(&part, in + head + i, sizeof part);
            _mm_stream_si128((__m128i *)(void *)(out + head + i), part);
        }
    if (size > head)
        memcpy(out + head, in + head, size - head);
}

void cast_stream_end(void)
{
    _mm_sfence();
}
