/* listener: sockets that clients connect to. */
#ifndef SERVER_LISTENER_H
#define SERVER_LISTENER_H

#include "core/fail.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* A listening Unix socket at `path` with these permissions. A socket file that nobody listens on
 * any more is replaced; one that somebody listens on is CONFLICT. *fd is the caller's; `file` tells
 * the socket's file apart from one that replaces it. */
NODISCARD enum td_status listener_unix(const char *path, unsigned mode, int *fd, struct stat *file);
/* Removes the socket's file, unless it is another's by now. */
void listener_unlink(const char *path, const struct stat *file);
/* A listening TCP socket at "HOST:PORT" or "[HOST]:PORT"; `address` gets what it is bound to.
 * Beyond loopback UNAUTHORIZED unless has_token. `option` is the flag it came by, for errors. */
NODISCARD enum td_status listener_tcp(const char *option, const char *host_port, bool has_token,
                                      int *fd, char *address, size_t address_size);
/* What a listening Unix socket is bound to: "" if that has no path. */
void listener_unix_address(int fd, char *path, size_t size);
/* The same for a TCP socket that somebody else bound, under the same rule as listener_tcp. */
NODISCARD enum td_status listener_tcp_address(int fd, bool has_token, char *address, size_t size);

#endif
