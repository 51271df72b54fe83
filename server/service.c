#include "server/service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

static const struct door {
    const char *name; /* in FileDescriptorName= */
    bool local;
    size_t offset; /* in struct service_sockets */
} doors[] = {
    {"unix", true, offsetof(struct service_sockets, unix_fd)},
    {"tcp", false, offsetof(struct service_sockets, tcp_fd)},
    {"http", false, offsetof(struct service_sockets, http_fd)},
};

static const struct door *find_door(const char *name)
{
    for (size_t i = 0; i < sizeof doors / sizeof doors[0]; i++)
        if (strcmp(doors[i].name, name) == 0)
            return &doors[i];
    return NULL;
}

static bool is_kind(int fd, bool local)
{
    if (local)
        return sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) > 0;
    return sd_is_socket(fd, AF_INET, SOCK_STREAM, 1) > 0 ||
           sd_is_socket(fd, AF_INET6, SOCK_STREAM, 1) > 0;
}

static enum td_status assign(struct service_sockets *out, int fd, const char *name)
{
    const struct door *door = find_door(name);
    if (!door)
        return fail(TD_INVALID,
                    "the service manager handed over a socket named '%s'; expected unix, tcp or "
                    "http: set FileDescriptorName= in its socket unit",
                    name);
    int *slot = (int *)((char *)out + door->offset);
    if (*slot >= 0)
        return fail(TD_INVALID,
                    "the service manager handed over two sockets named '%s'; tensord has one such "
                    "door: leave one ListenStream= in its socket unit",
                    name);
    if (!is_kind(fd, door->local))
        return fail(TD_INVALID,
                    "the socket named '%s' that the service manager handed over does not listen as "
                    "expected of it; give it a ListenStream= that is %s, and Accept=no",
                    name, door->local ? "a path" : "a port or HOST:PORT");
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return fail(TD_INTERNAL, "the socket named '%s': %s", name, strerror(errno));
    *slot = fd;
    return TD_OK;
}

static void free_names(char **names, int count)
{
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

enum td_status service_sockets_take(struct service_sockets *out)
{
    char **names = NULL;
    *out = (struct service_sockets){-1, -1, -1};
    int count = sd_listen_fds_with_names(true, &names);
    if (count < 0)
        return fail(TD_INVALID, "the sockets of the service manager (LISTEN_FDS): %s",
                    strerror(-count));
    enum td_status status = TD_OK;
    for (int i = 0; i < count && status == TD_OK; i++)
        status = assign(out, SD_LISTEN_FDS_START + i, names[i]);
    free_names(names, count);
    return status;
}

void service_ready(const char *text)
{
    (void)sd_notifyf(false, "READY=1\nSTATUS=Serving %s", text);
}

void service_stopping(void)
{
    (void)sd_notify(false, "STOPPING=1\nSTATUS=Finishing what is in flight");
}
