/* http: the HTTP/JSON door, on libmicrohttpd's epoll threads. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "core/engine.h"
#include "server/auth.h"

struct http_options {
    struct engine *engine;
    const struct token *token;
    struct account *account; /* borrowed: who comes over HTTP is one principal */
    int listen_fd;           /* borrowed; stays open until http_server_stop has returned */
    const char *hosts;   /* names that Host may have besides localhost and addresses, by commas */
    const char *origins; /* web pages that browsers may call from, by commas; "" for none */
    unsigned threads;
    uint64_t max_connections, max_per_address;
    uint64_t max_body; /* bytes of one request */
    uint64_t header_timeout_ms, idle_timeout_ms, drain_timeout_ms;
    uint64_t min_rate;       /* bytes a second that a transfer must make */
    uint64_t session_ttl_ms; /* of a session that nobody uses */
    uint64_t max_sessions;   /* of this door */
};

struct http_server;

/* Starts the threads. */
NODISCARD enum td_status http_server_start(const struct http_options *options,
                                           struct http_server **out);
/* No new connections; what waits is answered, what comes on open ones is answered for the last
 * time. */
void http_server_drain(struct http_server *server);
/* Waits, up to drain_timeout_ms, until everything in flight is answered, and ends. Once. */
void http_server_stop(struct http_server *server);

#endif
