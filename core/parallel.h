/* parallel: one piece of work in many parts, done by the calling thread and by idle threads of the
 * job pool.
 *
 * The caller takes parts until none is left, so that it needs nobody: a busy pool, or none, only
 * makes it slower, and threads of the pool may call it. It then waits for the parts that others
 * have begun, never for a thread that has not begun any. Helpers that come late find nothing left,
 * and leave after a part when something else is queued: large work does not hold up small.
 */
#ifndef CORE_PARALLEL_H
#define CORE_PARALLEL_H

#include <stdint.h>

struct job_pool;

/* Memory that is read and written: with less for each thread, waking one costs more than it does.
 */
#define PARALLEL_PART_BYTES (INT64_C(1) << 20)

/* How many parts are worth making of work on so many bytes, 1 or more: with idle threads, a few for
 * each, so that one that is slow or late does not hold up all. pool: NULL for none. */
int64_t parallel_parts(struct job_pool *pool, int64_t bytes);

/* Calls part(argument, i) once for every 0 <= i < count, from several threads at a time and in any
 * order; returns when all have returned. A part must not wait for another one. */
void parallel_for(struct job_pool *pool, int64_t count, void (*part)(void *argument, int64_t i),
                  void *argument);

#endif
