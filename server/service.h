/* service: what a service manager (systemd) hands over, and what it wants to hear.
 *
 * Without one nothing is handed over, nobody listens, and each call does nothing. Threads: main.
 */
#ifndef SERVER_SERVICE_H
#define SERVER_SERVICE_H

#include "core/fail.h"

/* Listening sockets by their FileDescriptorName=; -1 where none was handed over. */
struct service_sockets {
    int unix_fd, tcp_fd, http_fd;
};

/* The sockets of $LISTEN_FDS, which the caller then owns: nonblocking, and not inherited further.
 * INVALID if one has another name, a name is there twice, or one is no such socket. Once, before
 * other threads start: it takes the variables out of the environment. */
NODISCARD enum td_status service_sockets_take(struct service_sockets *out);
/* Tells that clients are served from now on; `text` has the addresses, for people. */
void service_ready(const char *text);
/* Tells that the daemon ends by itself from now on. */
void service_stopping(void);

#endif
