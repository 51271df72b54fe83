/* ledger: what is in use against the limits, reserved before anything is allocated.
 *
 * Past the machine's or the cgroup's memory, fallocate of a memfd does not fail: the kernel kills
 * processes. So bytes, descriptors and names are counted here first, and over a limit the answer is
 * OUT_OF_MEMORY with what is in use, and nothing else has changed.
 *
 * Threads: every function, from any thread.
 */
#ifndef CORE_LEDGER_H
#define CORE_LEDGER_H

#include "core/fail.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How far above the limit goes what only shows, hands out or takes away what there is: whoever
 * makes room must be able to when there is none. Each has some that those before it cannot use up.
 */
#define LEDGER_VIEWS_BYTES ((uint64_t)2 << 20)    /* other tensors over the same memory */
#define LEDGER_LEASES_BYTES ((uint64_t)4 << 20)   /* mapping it, taking a queue's item in hand */
#define LEDGER_REQUESTS_BYTES ((uint64_t)6 << 20) /* of HTTP, and what loads and saves note */
#define LEDGER_ANSWERS_BYTES ((uint64_t)8 << 20)  /* lists, and printed texts */

struct ledger_limits {
    uint64_t memory_bytes;
    uint64_t descriptors; /* memfds held, each with its mapping */
    uint64_t names;
};

enum ledger_resource { LEDGER_BYTES, LEDGER_DESCRIPTORS, LEDGER_NAMES };

struct ledger {
    pthread_mutex_t lock;
    struct ledger_limits limits;
    struct ledger_limits used; /* memory_bytes includes the pool's */
    uint64_t peak_bytes;
    uint64_t pool_bytes; /* of memory_bytes: recycled segments nobody uses */
    uint64_t refused;    /* reservations */
    /* Gives memory back that nobody uses; false if there is none. Called without the lock. */
    bool (*reclaim)(void *argument);
    void *reclaim_argument;
    /* Writes who holds most of it, for the message of an error. Called without the lock. */
    void (*who)(void *argument, enum ledger_resource resource, char *out, size_t size);
    void *who_argument;
    uint64_t fail_after; /* for tests: refuse the nth reservation from now, 0 never */
};

void ledger_init(struct ledger *ledger, const struct ledger_limits *limits);
void ledger_finish(struct ledger *ledger);

/* Reserves all three or nothing, after reclaiming what it can. OUT_OF_MEMORY, with the limit and
 * what is in use. */
NODISCARD enum td_status ledger_reserve(struct ledger *ledger, uint64_t bytes, uint64_t descriptors,
                                        uint64_t names);
/* Bytes that may go over the limit, by over_bytes (see above) with all that is in use. */
NODISCARD enum td_status ledger_reserve_over(struct ledger *ledger, uint64_t bytes,
                                             uint64_t over_bytes);
void ledger_release(struct ledger *ledger, uint64_t bytes, uint64_t descriptors, uint64_t names);
/* Moves bytes between "in use" and "pool"; positive puts them into the pool. */
void ledger_pool(struct ledger *ledger, int64_t bytes);
/* A consistent copy of the counters (the lock in it is not to be used). */
void ledger_read(struct ledger *ledger, struct ledger *out);

/* The default memory limit, in bytes: half of what the machine has available, and what the cgroup
 * leaves after 512 MiB (at least 64 MiB), whichever is less. */
uint64_t ledger_default_limit(void);

#endif
