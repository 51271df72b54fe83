/* cast: runs of elements from one dtype to another, on the host.
 *
 * The rules are those of cast_scalar.h. Steps are in bytes, may be 0 or negative, and are used as
 * given; elements need not be aligned. Source and destination must not overlap, in part or whole.
 * Equal dtypes are copied byte by byte (a NaN keeps its payload, a bool its byte).
 *
 * Threads: pure functions; the table is constant.
 */
#ifndef CORE_CAST_H
#define CORE_CAST_H

#include "core/dtype.h"

#include <stddef.h>

enum cast_flag {
    CAST_SATURATE = 1, /* float8 destinations: clamp to the largest finite value */
    CAST_STREAM = 2,   /* the whole destination is larger than the cache: not to be kept there */
};

typedef void (*cast_fn)(const void *src, ptrdiff_t src_step_bytes, void *dst,
                        ptrdiff_t dst_step_bytes, size_t count, unsigned flags);

/* The loop for a pair of dtypes. NULL only for a dtype outside the table. */
cast_fn cast_find(enum td_dtype from, enum td_dtype to);

#endif
