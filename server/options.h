/* options: what the daemon can be told, by flag > environment > file > default. */
#ifndef SERVER_OPTIONS_H
#define SERVER_OPTIONS_H

#include "core/account.h"

#include <stdbool.h>
#include <stdint.h>

struct options {
    const char *config;   /* an INI file of these names */
    const char *socket;   /* path of the Unix socket; "" for none */
    uint64_t socket_mode; /* its permissions */
    const char *tcp;      /* HOST:PORT; "" for none */
    const char *http;     /* HOST:PORT; "" for none */
    const char *http_hosts, *http_origins;
    const char *token_file;            /* "" for none */
    const char *load_dirs, *save_dirs; /* by colons; "" for none */
    const char *log_format;            /* plain or json */
    uint64_t memory_limit, pool_limit;
    uint64_t max_queues, max_body, max_descriptors, max_names, max_connections, max_objects,
        max_leases;
    uint64_t http_connections, http_per_address, http_sessions;
    uint64_t quotas[QUOTA_COUNT]; /* of one principal, core/account.h */
    uint64_t max_inflight, max_queued, max_watches;
    uint64_t io_threads, threads, http_threads;
    uint64_t header_timeout_ms, idle_timeout_ms, session_ttl_ms, min_rate;
    uint64_t hello_timeout_ms, io_timeout_ms, drain_timeout_ms;
    bool help, version;
};

/* Texts in *out live until the process ends. INVALID, with the culprit and what it should be. */
NODISCARD enum td_status options_parse(int argc, char **argv, struct options *out);
/* What --help prints. */
void options_print_help(void);

#endif
