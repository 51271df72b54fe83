#include "server/listener.h"

#include "core/cleanup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 1024

/* Whether somebody answers at the address. */
static bool is_alive(const struct sockaddr_un *address)
{
    _cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    return connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EAGAIN;
}

static enum td_status clear_path(const struct sockaddr_un *address)
{
    struct stat info;
    if (lstat(address->sun_path, &info) != 0)
        return errno == ENOENT
                   ? TD_OK
                   : fail(TD_INVALID, "the socket %s: %s", address->sun_path, strerror(errno));
    if (!S_ISSOCK(info.st_mode))
        return fail(TD_CONFLICT, "%s exists and is no socket; choose another --socket",
                    address->sun_path);
    if (is_alive(address))
        return fail(TD_CONFLICT,
                    "another daemon listens on %s; stop it, or choose another --socket",
                    address->sun_path);
    if (unlink(address->sun_path) != 0)
        return fail(TD_CONFLICT, "the stale socket %s cannot be removed: %s", address->sun_path,
                    strerror(errno));
    return TD_OK;
}

enum td_status listener_unix(const char *path, unsigned mode, int *out, struct stat *file)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return fail(TD_INVALID, "the socket path %s is longer than %zu bytes", path,
                    sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    TRY(clear_path(&address));
    _cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(TD_INTERNAL, "socket: %s", strerror(errno));
    /* The file appears with its final permissions: no moment in which others may connect. */
    mode_t before = umask((mode_t)(~mode & 0777));
    int bound = bind(fd, (struct sockaddr *)&address, sizeof address);
    umask(before);
    if (bound != 0 || listen(fd, BACKLOG) != 0 || lstat(path, file) != 0)
        return fail(TD_CONFLICT, "cannot listen on the socket %s: %s", path, strerror(errno));
    *out = take_fd(&fd);
    return TD_OK;
}

void listener_unlink(const char *path, const struct stat *file)
{
    struct stat now;
    if (lstat(path, &now) == 0 && now.st_ino == file->st_ino && now.st_dev == file->st_dev)
        unlink(path);
}

void listener_unix_address(int fd, char *path, size_t size)
{
    struct sockaddr_un bound = {.sun_family = AF_UNIX};
    socklen_t length = sizeof bound;
    *path = '\0';
    if (getsockname(fd, (struct sockaddr *)&bound, &length) == 0)
        snprintf(path, size, "%.*s", (int)sizeof bound.sun_path, bound.sun_path);
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *ip4 = (const void *)address;
        return (ntohl(ip4->sin_addr.s_addr) >> 24) == 127;
    }
    const struct sockaddr_in6 *ip6 = (const void *)address;
    return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&ip6->sin6_addr);
}

/* Cuts "HOST:PORT" or "[HOST]:PORT" in two, in place. */
static bool split(char *text, char **host, char **port)
{
    char *colon = strrchr(text, ':');
    if (!colon || !colon[1] || colon == text)
        return false;
    *colon = '\0';
    *host = text;
    *port = colon + 1;
    size_t length = strlen(text);
    if (text[0] == '[' && text[length - 1] == ']') {
        text[length - 1] = '\0';
        *host = text + 1;
    }
    return true;
}

static enum td_status resolve(const char *host_port, struct addrinfo **out)
{
    char text[300], *host, *port;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    if (snprintf(text, sizeof text, "%s", host_port) >= (int)sizeof text ||
        !split(text, &host, &port))
        return fail(TD_INVALID, "'%s' is no TCP address; expected HOST:PORT", host_port);
    size_t digits = strspn(port, "0123456789");
    if (port[digits] || digits > 5 || atoi(port) > UINT16_MAX)
        return fail(TD_INVALID, "'%s' is no port; expected a number up to %d", port, UINT16_MAX);
    int error = getaddrinfo(host, port, &hints, out);
    if (error)
        return fail(TD_INVALID, "the TCP address '%s': %s", host_port, gai_strerror(error));
    return TD_OK;
}

static void describe(int fd, char *address, size_t size)
{
    struct sockaddr_storage bound;
    socklen_t length = sizeof bound;
    char host[INET6_ADDRSTRLEN] = "", port[8] = "";
    if (getsockname(fd, (struct sockaddr *)&bound, &length) == 0)
        getnameinfo((struct sockaddr *)&bound, length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(address, size, bound.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static enum td_status refuse_without_token(const char *address)
{
    return fail(TD_UNAUTHORIZED, "%s is reachable from other machines, which needs --token-file",
                address);
}

enum td_status listener_tcp_address(int fd, bool has_token, char *address, size_t size)
{
    struct sockaddr_storage bound = {0};
    socklen_t length = sizeof bound;
    describe(fd, address, size);
    if (getsockname(fd, (struct sockaddr *)&bound, &length) != 0)
        return fail(TD_INTERNAL, "a listening socket has no address: %s", strerror(errno));
    bool allowed = has_token || is_loopback((const struct sockaddr *)&bound);
    return allowed ? TD_OK : refuse_without_token(address);
}

enum td_status listener_tcp(const char *option, const char *host_port, bool has_token, int *out,
                            char *address, size_t address_size)
{
    struct addrinfo *info = NULL;
    TRY(resolve(host_port, &info));
    bool allowed = has_token || is_loopback(info->ai_addr);
    _cleanup_(closep) int fd = -1;
    int failed = 0, one = 1;
    if (allowed) {
        fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        failed = fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
                 bind(fd, info->ai_addr, info->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0;
    }
    freeaddrinfo(info);
    if (!allowed)
        return refuse_without_token(host_port);
    if (failed)
        return fail(TD_CONFLICT, "cannot listen on %s: %s; choose another --%s, or --no-%s",
                    host_port, strerror(errno), option, option);
    describe(fd, address, address_size);
    *out = take_fd(&fd);
    return TD_OK;
}
