/* peer: the bare programs. Each serves the listening sockets until it is killed. */
#ifndef TESTS_BENCH_PEER_H
#define TESTS_BENCH_PEER_H

#include "bench.h"

/* Passes descriptors over the Unix socket; blocking, one connection after another. */
_Noreturn void serve_share(int unix_fd);
/* Sends each message back; blocking, one thread a connection. */
_Noreturn void serve_echo(int unix_fd, int tcp_fd);
/* libuv: reads bodies straight into warm memory, and writes them from it. */
_Noreturn void serve_bulk(int unix_fd, int tcp_fd);
/* libmicrohttpd: bodies from one memory and into it; TCP only. */
_Noreturn void serve_http(int tcp_fd);

#endif
