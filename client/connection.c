#include "client/internal.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define UNIX_BUFFER_BYTES (4 << 20) /* the default ones halve the speed of large bodies */
#define DEFAULT_PORT "7071"
#define DEFAULT_SOCKET "/run/tensord.sock"

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t deadline_after(int64_t timeout_ms)
{
    int64_t deadline;
    if (timeout_ms < 0 || __builtin_add_overflow(now_ms(), timeout_ms, &deadline))
        return DEADLINE_NEVER;
    return deadline;
}

int deadline_left(int64_t deadline)
{
    if (deadline == DEADLINE_NEVER)
        return -1;
    int64_t left = deadline - now_ms();
    if (left <= 0)
        return 0;
    return left > INT32_MAX ? INT32_MAX : (int)left;
}

bool interrupt_asked(const struct interrupt *interrupt)
{
    if (!interrupt->asked)
        return false;
    bool asked = interrupt->asked(interrupt->argument);
    errno = EINTR;
    return asked;
}

void progress_tell(const struct progress *progress, uint64_t done_bytes, uint64_t total_bytes)
{
    if (progress->tell)
        progress->tell(progress->argument, done_bytes, total_bytes);
}

int connection_wait(const struct connection *connection, short events, int64_t deadline)
{
    for (;;) {
        struct pollfd wait = {.fd = connection->fd, .events = events};
        int left = deadline_left(deadline);
        int ready = poll(&wait, 1, left);
        if (ready > 0)
            return wait.revents;
        if (ready < 0 && (errno != EINTR || interrupt_asked(connection->interrupt)))
            return -1;
        if (ready == 0 && left != INT32_MAX) /* longer waits go in turns */
            return 0;
    }
}

/* ---- addresses ----------------------------------------------------------------------------- */

static enum td_status parse_unix(const char *path, struct address *out)
{
    out->local = true;
    out->unix_address.sun_family = AF_UNIX;
    if (!*path)
        return fail(TD_INVALID, "'%s' names no socket; expected unix:///path/of/tensord.sock",
                    out->url);
    if (strlen(path) >= sizeof out->unix_address.sun_path)
        return fail(TD_INVALID,
                    "the socket's path '%s' has %zu bytes, and the kernel takes %zu at "
                    "most; use a shorter path or a symbolic link",
                    path, strlen(path), sizeof out->unix_address.sun_path - 1);
    strcpy(out->unix_address.sun_path, path);
    return TD_OK;
}

/* "host", "host:port", "[v6]:port". */
static enum td_status parse_tcp(const char *rest, struct address *out)
{
    const char *host = rest, *end, *port = DEFAULT_PORT;
    if (*rest == '[') {
        host = rest + 1;
        end = strchr(host, ']');
        if (!end || (end[1] && end[1] != ':'))
            return fail(TD_INVALID, "'%s' is no address; expected tcp://[::1]:7071", out->url);
        if (end[1])
            port = end + 2;
    } else {
        end = strchr(host, ':');
        if (end)
            port = end + 1;
        else
            end = host + strlen(host);
    }
    size_t host_length = (size_t)(end - host), digits = strspn(port, "0123456789");
    if (host_length == 0 || host_length >= sizeof out->host || digits == 0 || port[digits] ||
        digits >= sizeof out->port)
        return fail(TD_INVALID, "'%s' is no address; expected tcp://host:7071", out->url);
    memcpy(out->host, host, host_length);
    strcpy(out->port, port);
    return TD_OK;
}

/* The socket that is used when nobody says another. */
static void default_url(char *out, size_t size)
{
    const char *socket_path = getenv("TENSORD_SOCKET"), *runtime = getenv("XDG_RUNTIME_DIR");
    if (socket_path && *socket_path) {
        snprintf(out, size, "unix://%s", socket_path);
        return;
    }
    if (runtime && *runtime) {
        int length = snprintf(out, size, "unix://%s/tensord.sock", runtime);
        if (length > 0 && (size_t)length < size && access(out + strlen("unix://"), F_OK) == 0)
            return;
    }
    snprintf(out, size, "unix://" DEFAULT_SOCKET);
}

enum td_status address_parse(const char *url, struct address *out)
{
    memset(out, 0, sizeof *out);
    if (!url || !*url)
        url = getenv("TENSORD_URL");
    if (!url || !*url)
        default_url(out->url, sizeof out->url);
    else if (strlen(url) < sizeof out->url)
        strcpy(out->url, url);
    else
        return fail(TD_INVALID, "the url has %zu bytes; at most %zu are taken", strlen(url),
                    sizeof out->url - 1);
    if (strncmp(out->url, "unix://", 7) == 0)
        return parse_unix(out->url + 7, out);
    if (strncmp(out->url, "tcp://", 6) == 0)
        return parse_tcp(out->url + 6, out);
    if (strstr(out->url, "://") || (strchr(out->url, ':') && !strchr(out->url, '/')))
        return fail(TD_INVALID,
                    "'%s' is no address of tensord; expected unix:///run/tensord.sock, "
                    "tcp://host:7071 or the path of a socket",
                    out->url);
    return parse_unix(out->url, out);
}

/* ---- opening and closing ------------------------------------------------------------------- */

static enum td_status connect_failed(const struct address *address, int error)
{
    if (error == EINTR)
        return fail(TD_CANCELLED, "connecting to %s was interrupted by a signal", address->url);
    if (error == EAGAIN || error == EINPROGRESS || error == ETIMEDOUT)
        return fail(TD_DEADLINE,
                    "%s took no connection in time; the daemon is overloaded or hung: "
                    "raise timeout_ms, or look at its log",
                    address->url);
    return fail(TD_CONNECTION,
                "cannot connect to %s: %s; is tensord running? Start it with "
                "deploy/up.sh, or set TENSORD_URL",
                address->url, strerror(error));
}

/* A blocking connect whose patience is the socket's send timeout; then everything is MSG_DONTWAIT.
 */
static int socket_connect(int family, const struct sockaddr *to, socklen_t size,
                          const struct interrupt *interrupt, int64_t deadline)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int connected, error;
    do {
        int left = deadline_left(deadline);
        if (left == 0) {
            connected = -1, error = ETIMEDOUT;
            break;
        }
        struct timeval patience = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
        if (left < 0)
            patience = (struct timeval){0}; /* for ever */
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        connected = connect(fd, to, size);
        error = errno;
    } while (connected < 0 && error == EINTR && !interrupt_asked(interrupt));
    if (connected == 0 || error == EISCONN) /* connected while a signal was handled */
        return fd;
    close(fd);
    errno = error;
    return -1;
}

static void set_option(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof value); /* only speed depends on it */
}

static enum td_status connect_unix(const struct address *address, const struct interrupt *interrupt,
                                   int64_t deadline, int *out)
{
    int fd = socket_connect(AF_UNIX, (const struct sockaddr *)&address->unix_address,
                            sizeof address->unix_address, interrupt, deadline);
    if (fd < 0)
        return connect_failed(address, errno);
    set_option(fd, SOL_SOCKET, SO_SNDBUF, UNIX_BUFFER_BYTES);
    set_option(fd, SOL_SOCKET, SO_RCVBUF, UNIX_BUFFER_BYTES);
    *out = fd;
    return TD_OK;
}

static enum td_status connect_tcp(const struct address *address, const struct interrupt *interrupt,
                                  int64_t deadline, int *out)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list;
    int error = getaddrinfo(address->host, address->port, &hints, &list);
    if (error)
        return fail(TD_CONNECTION, "cannot resolve the host of %s: %s", address->url,
                    error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
    int fd = -1;
    error = 0;
    for (const struct addrinfo *a = list; a && fd < 0 && error != EINTR; a = a->ai_next) {
        fd = socket_connect(a->ai_family, a->ai_addr, a->ai_addrlen, interrupt, deadline);
        error = errno;
    }
    freeaddrinfo(list);
    if (fd < 0)
        return connect_failed(address, error);
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1); /* the buffers are left to the kernel's tuning */
    *out = fd;
    return TD_OK;
}

enum td_status connection_open(const struct address *address, const struct interrupt *interrupt,
                               const struct progress *progress, int64_t deadline,
                               struct connection **out)
{
    int fd = -1;
    if (address->local)
        TRY(connect_unix(address, interrupt, deadline, &fd));
    else
        TRY(connect_tcp(address, interrupt, deadline, &fd));
    struct connection *connection = malloc(sizeof *connection);
    if (!connection) {
        close(fd);
        return fail(TD_OUT_OF_MEMORY, "no memory for a connection to %s", address->url);
    }
    memset(connection, 0, offsetof(struct connection, in));
    connection->fd = fd;
    connection->local = address->local;
    connection->fresh = true;
    connection->url = address->url;
    connection->interrupt = interrupt;
    connection->progress = progress;
    *out = connection;
    return TD_OK;
}

void connection_close(struct connection *connection)
{
    if (!connection)
        return;
    if (connection->fd >= 0)
        close(connection->fd);
    free(connection->out);
    free(connection->queued);
    free(connection);
}

bool connection_is_dead(const struct connection *connection)
{
    char byte;
    ssize_t n = recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

/* ---- one request and its reply ------------------------------------------------------------- */

enum td_status connection_fail(const struct connection *connection, const struct call *call,
                               enum io_result result)
{
    int error = errno;
    const char *op = op_infos[call->op].name;
    if (result == IO_TIMEOUT)
        return fail(TD_DEADLINE,
                    "%s did not finish '%s' in time; it is busy or hung: raise "
                    "timeout_ms, or look at its log",
                    connection->url, op);
    if (result == IO_CANCELLED)
        return fail(TD_CANCELLED,
                    "'%s' was interrupted by a signal; %s may or may not have done it", op,
                    connection->url);
    if (result == IO_FAILED)
        return fail(TD_CONNECTION, "the connection to %s failed during '%s': %s", connection->url,
                    op, strerror(error));
    return fail(TD_CONNECTION,
                "%s closed the connection during '%s', which may or may not have "
                "been done; look at its log. The next call connects anew",
                connection->url, op);
}

/* The reply may take for ever to come: what others have to send meanwhile does not wait for it. */
static enum td_status receive_listening(struct connection *connection, const struct call *call,
                                        int64_t deadline, struct td_reply *reply,
                                        struct exchange *exchange)
{
    if (connection->tell_listens)
        connection->tell_listens(connection, connection->listens_argument, true);
    enum td_status status = connection_receive(connection, call, deadline, reply, exchange);
    if (connection->tell_listens)
        connection->tell_listens(connection, connection->listens_argument, false);
    return status;
}

enum td_status connection_exchange(struct connection *connection, const struct call *call,
                                   int64_t deadline, struct td_reply *reply,
                                   struct exchange *exchange)
{
    *exchange = (struct exchange){.state = CONNECTION_GOOD};
    enum io_result sent = connection_send(connection, call, deadline, &exchange->request_begun);
    if (sent == IO_DONE)
        return receive_listening(connection, call, deadline, reply, exchange);

    /* A connection too many is told so before it has said hello, and closed. */
    bool may_have_answer = sent == IO_EARLY_REPLY ||
                           (sent == IO_CLOSED && (exchange->request_begun || call->op == OP_hello));
    if (!may_have_answer) {
        exchange->state = sent == IO_CLOSED ? CONNECTION_LOST : CONNECTION_DESYNC;
        return connection_fail(connection, call, sent);
    }
    /* The daemon refuses a body that is too large before it has read it. */
    enum td_status status = connection_receive(
        connection, call, sent == IO_CLOSED ? deadline_after(0) : deadline, reply, exchange);
    if (sent == IO_CLOSED)
        exchange->state = CONNECTION_LOST;
    else if (exchange->state == CONNECTION_GOOD)
        exchange->state = CONNECTION_DESYNC; /* the rest of the body was not sent */
    if (exchange->refused)
        return status;
    if (sent == IO_CLOSED)
        return connection_fail(connection, call, sent);
    TRY(status);
    return fail(TD_PROTOCOL, "%s answered '%s' before the request was complete", connection->url,
                op_infos[call->op].name);
}
