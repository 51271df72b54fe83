/* engine: everything that outlives a request, in one place. No sockets in it. */
#ifndef CORE_ENGINE_H
#define CORE_ENGINE_H

#include "core/account.h"
#include "core/bundle.h"
#include "core/device.h"
#include "core/files.h"
#include "core/parked.h"
#include "core/queue.h"
#include "core/session.h"
#include "core/store.h"

#define BOOT_ID_LENGTH 32

struct engine_options {
    struct ledger_limits ledger;
    struct session_limits sessions;
    uint64_t quotas[QUOTA_COUNT]; /* of a principal; 0: as much as there is */
    uint64_t max_queues;
    uint64_t pool_bytes;
    unsigned job_threads, max_queued;
    unsigned max_watches;                       /* operations that wait for names at a time */
    const struct bundle_format *const *formats; /* of files; ends with NULL; NULL: none */
    const char *load_dirs, *save_dirs;          /* of files local to the daemon, see core/files.h */
};

struct engine {
    struct ledger ledger;
    struct devices devices;
    struct store *store;
    struct accounts *accounts;
    struct queue_table *queues;
    struct session_table *sessions;
    struct job_pool *jobs;
    const struct bundle_format *const *formats;
    struct file_roots *load_roots, *save_roots;
    unsigned max_watches;
    atomic_uint watches; /* of operations, that the store has to look at */
    char boot[BOOT_ID_LENGTH + 1];
    /* Counted by the doors. */
    atomic_ullong connections, requests, errors, bytes_received, bytes_sent;
};

NODISCARD enum td_status engine_create(const struct engine_options *options, struct engine **out);
/* For the doors' clocks, by CLOCK_MONOTONIC: ends leases and deliveries whose time is over, and at
 * most `max_names` names. */
void engine_expire(struct engine *engine, uint64_t now_ms, size_t max_names);
/* All connections must have ended. */
void engine_destroy(struct engine *engine);

#endif
