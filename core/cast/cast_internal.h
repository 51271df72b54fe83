/* cast_internal: what the files of this folder share.
 *
 * A kernel casts `count` packed elements of one pair of dtypes, at any alignment. A path is a table
 * of kernels for all pairs, compiled for one kind of processor: cast_kernels.h, included by a file
 * for each path. What is not packed, or to be written past the cache, is brought into a kernel's
 * reach by cast_elements. */
#ifndef CORE_CAST_INTERNAL_H
#define CORE_CAST_INTERNAL_H

#include "core/dtype.h"

#include <stdbool.h>
#include <stddef.h>

typedef void (*cast_kernel)(const unsigned char *restrict in, unsigned char *restrict out,
                            size_t count, bool saturate);
typedef cast_kernel cast_kernels[TD_DTYPE_END];

struct cast_path {
    const char *name;
    bool (*available)(void);
    const cast_kernels *kernels; /* [from][to] */
};

/* One file of each for each kind of machine (cast_x86.c, cast_other.c): the paths, best first, the
 * last one NULL; and cast_stream. */
extern const struct cast_path *const cast_paths[];

extern const cast_kernels cast_kernels_plain[TD_DTYPE_END];
extern const cast_kernels cast_kernels_avx2[TD_DTYPE_END];

/* The kernels of the path in use. */
const cast_kernels *cast_path_kernels(void);

#endif
