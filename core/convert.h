/* convert: elements from one layout and dtype into another, in host memory.
 *
 * First a plan, from the two layouts alone: elements do not depend on each other, so that any order
 * will do, and the best one follows the destination's strides, then the source's. What lies behind
 * one another in both then merges: a permuted tensor copied into one that is permuted alike is a
 * single run. What is left are rows along the destination's smallest stride, or, where the source's
 * smallest stride is another dimension's, tiles of both that fit the cache.
 *
 * Unlike elsewhere, strides may be negative here, as a slice with a negative step makes them;
 * offset_bytes is that of the first element in every case.
 *
 * Threads: a plan is a value; whoever converts takes part of the work, the threads of `pool` help.
 */
#ifndef CORE_CONVERT_H
#define CORE_CONVERT_H

#include "core/cast/cast.h"
#include "core/layout.h"

struct job_pool;

enum convert_way {
    CONVERT_ROWS,   /* along the last dimension */
    CONVERT_BLOCKS, /* rows, but in tiles of the last two: the source's lines are used up */
    CONVERT_TILES,  /* the same, where vectors can transpose: the source lies along the last but
                       one dimension, the destination along the last, both without gaps */
};

struct convert_plan {
    enum convert_way way;
    int rank;                                        /* at least 1; outermost dimension first */
    int64_t sizes[RANK_MAX];                         /* 0 only if there are no elements */
    int64_t in_steps[RANK_MAX], out_steps[RANK_MAX]; /* bytes */
    int64_t in_offset, out_offset;                   /* bytes, of where all counters are 0 */
    enum td_dtype in_dtype, out_dtype;               /* equal ones: some dtype of that size */
    unsigned flags;                                  /* of enum cast_flag */
};

/* For layouts of equal shape. flags: CAST_SATURATE or 0; the plan adds CAST_STREAM. */
void convert_plan(const struct layout *src, const struct layout *dst, unsigned flags,
                  struct convert_plan *out);
/* Part number `part` of `parts`, as a plan; may be without elements. */
void convert_part(const struct convert_plan *whole, int64_t part, int64_t parts,
                  struct convert_plan *out);
/* By the calling thread alone. The offsets count from `in` and `out`. */
void convert_run(const struct convert_plan *plan, const void *in, void *out);

/* All of it. pool: NULL for the calling thread alone. */
void convert(struct job_pool *pool, const struct layout *src, const void *in,
             const struct layout *dst, void *out, bool saturate);

#endif
