/* cast: runs of elements from one dtype to another, on the host.
 *
 * The rules are those of cast_scalar.h. Steps are in bytes, may be 0 or negative, and are used as
 * given; elements need not be aligned. Source and destination must not overlap, in part or whole.
 * Equal dtypes are copied byte by byte (a NaN keeps its payload, a bool its byte).
 *
 * The loops over packed elements exist once for each path: "plain" for every machine, and on x86-64
 * "avx2" for processors with AVX2 and F16C. All give the same bits. The best that this machine has
 * is in use, or the one that the environment variable TENSORD_CAST_PATH names when the first cast
 * runs (a path that this machine lacks is ignored).
 *
 * Threads: any; cast_path_set is for tests, while nothing is cast.
 */
#ifndef CORE_CAST_H
#define CORE_CAST_H

#include "core/dtype.h"

#include <stdbool.h>
#include <stddef.h>

enum cast_flag {
    CAST_SATURATE = 1, /* float8 destinations: clamp to the largest finite value */
    /* The whole destination is larger than the cache: not to be kept there. It is written past the
     * cache where the machine can and a run of packed elements is long enough. */
    CAST_STREAM = 2,
};

void cast_elements(enum td_dtype from, enum td_dtype to, const void *src, ptrdiff_t src_step_bytes,
                   void *dst, ptrdiff_t dst_step_bytes, size_t count, unsigned flags);

/* Bytes written past the cache where the machine can, whole lines of it. They are in order with
 * other stores only after cast_stream_end. */
void cast_stream(void *restrict out, const void *restrict in, size_t size);
void cast_stream_end(void);

/* The name of the path in use; those that this machine has, best first, NULL past the last. */
const char *cast_path_name(void);
const char *cast_path_at(size_t index);
/* false, and nothing changes, if this machine has no such path. */
bool cast_path_set(const char *name);

#endif
