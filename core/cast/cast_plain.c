/* cast_plain: the kernels as the compiler makes them, for every machine. */
#define CAST_KERNELS cast_kernels_plain
#define CAST_BY_HAND(FROM, TO) false
#include "core/cast/cast_kernels.h"
