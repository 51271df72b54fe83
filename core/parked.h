/* parked: an operation that waits for something: submit -> complete | cancel | deadline.
 *
 * Long work (casts, copies, allocations of many pages) runs in one bounded pool of threads, never
 * on a thread that serves connections. Whoever submits embeds a `struct parked` and gets exactly
 * one call of `complete`, from whichever thread decided the outcome.
 *
 * A cancelled operation that has not begun never runs. One that runs goes on, but its outcome is
 * decided already: parked_commit tells `run` so, before it shows its result to anyone.
 */
#ifndef CORE_PARKED_H
#define CORE_PARKED_H

#include "core/fail.h"

#include <stdatomic.h>
#include <stdbool.h>

struct job_pool;
struct parked;

struct parked_ops {
    /* In a thread of the pool. Not called after a cancel. */
    enum td_status (*run)(struct parked *parked);
    /* Once: after run, or at the cancel. The detail of an error is fail_detail() of that thread. */
    void (*complete)(struct parked *parked, enum td_status status);
    /* Once, last of all, when no thread uses it any more: free it here. */
    void (*destroy)(struct parked *parked);
};

/* What is short and holds up a connection goes ahead of what computes. What has begun already, and
 * cannot be refused any more, goes in turn, however many are queued. */
enum parked_urgency { PARKED_IN_TURN, PARKED_AHEAD, PARKED_ONWARD };

struct parked {
    const struct parked_ops *ops;
    struct parked *next;
    atomic_int state;
    atomic_uint refs; /* the pool's and the submitter's */
};

NODISCARD enum td_status job_pool_create(unsigned threads, unsigned max_queued,
                                         struct job_pool **out);
/* Runs what is queued, then ends the threads. */
void job_pool_destroy(struct job_pool *pool);
/* Threads that wait for work which nobody has queued yet. */
unsigned job_pool_idle(struct job_pool *pool);
/* More is queued than threads wait for. */
bool job_pool_is_short(struct job_pool *pool);

/* UNAVAILABLE, and nothing is kept, when too many are queued (but PARKED_ONWARD). On TD_OK the
 * submitter owns one reference, to be given back with parked_unref after it has no more use for
 * parked_cancel. */
NODISCARD enum td_status parked_submit(struct job_pool *pool, struct parked *parked,
                                       const struct parked_ops *ops, enum parked_urgency urgency);
/* Completes it with `status` unless its outcome is decided. True if this call decided it. */
bool parked_cancel(struct parked *parked, enum td_status status);
/* From `run`, before its result becomes visible: CANCELLED if the outcome is decided otherwise.
 * After TD_OK a cancel comes too late. */
NODISCARD enum td_status parked_commit(struct parked *parked);
void parked_unref(struct parked *parked);

#endif
