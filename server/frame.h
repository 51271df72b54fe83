/* frame: the door for binary frames (proto/PROTOCOL.md), on Unix and TCP sockets.
 *
 * N threads, each with a libuv loop, share the listening sockets. A connection stays with the
 * thread that accepted it. Bytes go straight from the socket into the tensor's memory and back;
 * whatever is long runs in the engine's job pool.
 */
#ifndef SERVER_FRAME_H
#define SERVER_FRAME_H

#include "core/engine.h"
#include "server/auth.h"

struct frame_listener {
    int fd;     /* nonblocking, listening; stays the caller's */
    bool local; /* a Unix socket: descriptors can be passed */
};

struct frame_options {
    struct engine *engine;
    const struct token *token;
    struct account *remote; /* borrowed: who comes over TCP is one principal */
    struct frame_listener listeners[2];
    int listener_count;
    unsigned threads;
    uint64_t max_connections, max_inflight, max_body;
    uint64_t hello_timeout_ms, io_timeout_ms, drain_timeout_ms;
};

struct frame_server;

/* Starts the threads. */
NODISCARD enum td_status frame_server_start(const struct frame_options *options,
                                            struct frame_server **out);
/* Accepts no more, answers what is in flight, closes everything, and frees the server. */
void frame_server_stop(struct frame_server *server);

#endif
