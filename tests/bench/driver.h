/* driver: the measuring client. One measurement a run; within it tensord and the bare program take
 * turns, and every sample goes to standard output as a line "metric side nanoseconds". */
#ifndef TESTS_BENCH_DRIVER_H
#define TESTS_BENCH_DRIVER_H

#include "bench.h"
#include "client/tensord.h"

struct plan {
    const char *url;         /* of tensord */
    const char *peer_socket; /* of the bare program; NULL: peer_port */
    int peer_port;
    size_t size;
    int repetitions;
    int cpu;    /* to run on; -1: any */
    bool awake; /* keep the CPUs from sleeping */
};

enum side { TENSORD, LIMIT };

/* Samples are kept back until the end, so that nobody is woken by them. */
void sample(const char *metric, enum side side, int64_t nanoseconds);
/* Ends the program with td_last_error unless status is TD_OK. */
void expect(enum td_status status, const char *what);
/* Lets what a call has left behind (a release, a free) finish before the other side's turn. */
void let_settle(void);
struct td_client *tensord_connect(const struct plan *plan);
int peer_connect(const struct plan *plan);

/* A loop in the SCHED_IDLE class on every CPU: it gives way to everything, but no CPU sleeps. */
void awake_start(void);

void measure_map(const struct plan *plan);   /* map, map_unmap, map_first */
void measure_touch(const struct plan *plan); /* touch, touch_unmap, touch_huge */
void measure_put(const struct plan *plan);   /* put */
void measure_get(const struct plan *plan);   /* get */
void measure_trip(const struct plan *plan);  /* ping, get */

#endif
