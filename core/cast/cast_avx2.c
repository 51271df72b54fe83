/* cast_avx2: the kernels for processors with AVX2 and F16C. */
#define CAST_KERNELS cast_kernels_avx2
#define CAST_BY_HAND(FROM, TO) false
#include "core/cast/cast_kernels.h"
