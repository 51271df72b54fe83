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

#define TENSORD "tensord" /* the sides of a sample */
#define LIMIT "limit"

/* Ends the program with td_last_error unless status is TD_OK. */
void expect(enum td_status status, const char *what);
struct td_client *tensord_connect(const struct plan *plan);
int peer_connect(const struct plan *plan);

void measure_map(const struct plan *plan);   /* map, map_unmap, map_first */
void measure_touch(const struct plan *plan); /* touch, touch_unmap, touch_huge */
void measure_put(const struct plan *plan);   /* put */
void measure_get(const struct plan *plan);   /* get */
void measure_trip(const struct plan *plan);  /* ping, get */
void measure_hand(const struct plan *plan);  /* hand */

#endif
