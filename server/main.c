/* tensord: reads its options, opens the engine and the doors, and waits to be told to stop. */
#include "core/cast/cast.h"
#include "server/bundle_formats.h"
#include "server/frame.h"
#include "server/http.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/options.h"
#include "server/service.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

_Static_assert(sizeof(void *) == 8 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "tensord is written for little-endian 64-bit Linux");

struct daemon {
    struct options options;
    struct token token;
    struct engine *engine;
    struct account *remote; /* of who comes over TCP or HTTP */
    struct frame_server *frames;
    struct http_server *http;
    int unix_fd, tcp_fd, http_fd;
    bool given[3];           /* of these: handed over, others will listen on them */
    struct stat socket_file; /* of a socket that the daemon made; else st_ino is 0 */
    char socket_path[128], tcp_address[128], http_address[128];
};

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Times are UTC here. Where TZ is not set, the C library reads the zone's file anew each time that
 * the log, or libarchive, asks for a time. */
static void settle_time_zone(void)
{
    setenv("TZ", "UTC0", 1);
    tzset();
}

/* In every thread these wait for sigwait in main. */
static void block_signals(sigset_t *stopping)
{
    sigemptyset(stopping);
    sigaddset(stopping, SIGTERM);
    sigaddset(stopping, SIGINT);
    pthread_sigmask(SIG_BLOCK, stopping, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that is too large is an error of who wanted it */
}

static enum td_status open_engine(struct daemon *daemon)
{
    const struct options *o = &daemon->options;
    struct engine_options engine = {
        .ledger = {.memory_bytes = o->memory_limit,
                   .descriptors = o->max_descriptors,
                   .names = o->max_names},
        .sessions = {.sessions = o->max_connections + o->http_sessions,
                     .objects = o->max_objects,
                     .leases = o->max_leases},
        .max_queues = o->max_queues,
        .pool_bytes = o->pool_limit < o->memory_limit ? o->pool_limit : o->memory_limit,
        .job_threads = (unsigned)o->threads,
        .max_queued = (unsigned)o->max_queued,
        .max_watches = (unsigned)o->max_watches,
        .formats = bundle_formats,
        .load_dirs = o->load_dirs,
        .save_dirs = o->save_dirs,
    };
    if (*o->token_file)
        TRY(token_read(o->token_file, &daemon->token));
    memcpy(engine.quotas, o->quotas, sizeof engine.quotas);
    TRY(engine_create(&engine, &daemon->engine));
    struct principal remote = {.kind = daemon->token.length ? PRINCIPAL_TOKEN : PRINCIPAL_TCP};
    return account_open(daemon->engine->accounts, remote, &daemon->remote);
}

static uint64_t body_limit(const struct options *o)
{
    return o->max_body < o->memory_limit ? o->max_body : o->memory_limit;
}

/* What the service manager handed over takes the place of what the options say. */
static enum td_status take_sockets(struct daemon *daemon)
{
    const struct options *o = &daemon->options;
    struct service_sockets sockets;
    TRY(service_sockets_take(&sockets));
    daemon->unix_fd = sockets.unix_fd;
    daemon->tcp_fd = sockets.tcp_fd;
    daemon->http_fd = sockets.http_fd;
    daemon->given[0] = daemon->unix_fd >= 0;
    daemon->given[1] = daemon->tcp_fd >= 0;
    daemon->given[2] = daemon->http_fd >= 0;
    if (!*o->socket && !*o->tcp && !*o->http && daemon->unix_fd < 0 && daemon->tcp_fd < 0 &&
        daemon->http_fd < 0)
        return fail(TD_INVALID, "there is neither a socket nor an address to listen on");
    return TD_OK;
}

static enum td_status listen_unix(struct daemon *daemon)
{
    const struct options *o = &daemon->options;
    if (daemon->unix_fd >= 0) {
        listener_unix_address(daemon->unix_fd, daemon->socket_path, sizeof daemon->socket_path);
        return TD_OK;
    }
    if (!*o->socket)
        return TD_OK;
    snprintf(daemon->socket_path, sizeof daemon->socket_path, "%s", o->socket);
    return listener_unix(o->socket, (unsigned)o->socket_mode, &daemon->unix_fd,
                         &daemon->socket_file);
}

/* `option` is its name, and `host_port` its value. */
static enum td_status listen_tcp(const struct daemon *daemon, const char *option,
                                 const char *host_port, int *fd, char *address, size_t size)
{
    bool has_token = daemon->token.length > 0;
    if (*fd >= 0)
        return listener_tcp_address(*fd, has_token, address, size);
    return *host_port ? listener_tcp(option, host_port, has_token, fd, address, size) : TD_OK;
}

static enum td_status open_http(struct daemon *daemon)
{
    const struct options *o = &daemon->options;
    TRY(listen_tcp(daemon, "http", o->http, &daemon->http_fd, daemon->http_address,
                   sizeof daemon->http_address));
    if (daemon->http_fd < 0)
        return TD_OK;
    const struct http_options http = {
        .engine = daemon->engine,
        .token = &daemon->token,
        .account = daemon->remote,
        .listen_fd = daemon->http_fd,
        .hosts = o->http_hosts,
        .origins = o->http_origins,
        .threads = (unsigned)o->http_threads,
        .max_connections = o->http_connections,
        .max_per_address = o->http_per_address,
        .max_body = body_limit(o),
        .header_timeout_ms = o->header_timeout_ms,
        .idle_timeout_ms = o->idle_timeout_ms,
        .drain_timeout_ms = o->drain_timeout_ms,
        .min_rate = o->min_rate,
        .session_ttl_ms = o->session_ttl_ms,
        .max_sessions = o->http_sessions,
    };
    return http_server_start(&http, &daemon->http);
}

static enum td_status open_frames(struct daemon *daemon)
{
    const struct options *o = &daemon->options;
    struct frame_options frames = {
        .engine = daemon->engine,
        .token = &daemon->token,
        .remote = daemon->remote,
        .threads = (unsigned)o->io_threads,
        .max_connections = o->max_connections,
        .max_inflight = o->max_inflight,
        .max_body = body_limit(o),
        .hello_timeout_ms = o->hello_timeout_ms,
        .io_timeout_ms = o->io_timeout_ms,
        .drain_timeout_ms = o->drain_timeout_ms,
    };
    TRY(listen_tcp(daemon, "tcp", o->tcp, &daemon->tcp_fd, daemon->tcp_address,
                   sizeof daemon->tcp_address));
    TRY(listen_unix(daemon));
    if (daemon->tcp_fd >= 0)
        frames.listeners[frames.listener_count++] = (struct frame_listener){daemon->tcp_fd, false};
    if (daemon->unix_fd >= 0)
        frames.listeners[frames.listener_count++] = (struct frame_listener){daemon->unix_fd, true};
    if (!frames.listener_count)
        return TD_OK;
    return frame_server_start(&frames, &daemon->frames);
}

/* Who comes while the rest is finished is turned away by the kernel, and does not wait for that. */
static void turn_away(const struct daemon *daemon)
{
    const int listening[] = {daemon->unix_fd, daemon->tcp_fd, daemon->http_fd};
    for (int i = 0; i < 3; i++)
        if (listening[i] >= 0 && !daemon->given[i])
            shutdown(listening[i], SHUT_RDWR);
}

static void close_all(struct daemon *daemon)
{
    http_server_drain(daemon->http);
    turn_away(daemon);
    if (daemon->frames)
        frame_server_stop(daemon->frames);
    http_server_stop(daemon->http);
    if (daemon->socket_file.st_ino) /* one that was handed over stays: others will listen on it */
        listener_unlink(daemon->socket_path, &daemon->socket_file);
    if (daemon->unix_fd >= 0)
        close(daemon->unix_fd);
    if (daemon->tcp_fd >= 0)
        close(daemon->tcp_fd);
    if (daemon->http_fd >= 0)
        close(daemon->http_fd);
    account_unref(daemon->remote);
    engine_destroy(daemon->engine);
}

static void announce(const struct daemon *daemon)
{
    const struct {
        int fd;
        const char *scheme, *address;
    } doors[] = {{daemon->unix_fd, "unix", daemon->socket_path},
                 {daemon->tcp_fd, "tcp", daemon->tcp_address},
                 {daemon->http_fd, "http", daemon->http_address}};
    char text[sizeof daemon->tcp_address * 3 + 40] = "";
    for (size_t i = 0; i < sizeof doors / sizeof doors[0]; i++)
        if (doors[i].fd >= 0)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s://%s",
                     *text ? ", " : "", doors[i].scheme, doors[i].address);
    log_line(
        LOG_INFO, "tensord " TENSORD_VERSION " is ready: %s; %llu MiB for tensors; %s; %s casts",
        text, (unsigned long long)(daemon->options.memory_limit >> 20),
        daemon->token.length ? "clients need the token" : "no token is needed", cast_path_name());
    service_ready(text);
}

int main(int argc, char **argv)
{
    struct daemon daemon = {.unix_fd = -1, .tcp_fd = -1, .http_fd = -1};
    sigset_t stopping;
    int signal_number = 0;
    raise_descriptor_limit();
    settle_time_zone();
    enum td_status status = options_parse(argc, argv, &daemon.options);
    if (daemon.options.help || daemon.options.version) {
        if (daemon.options.help)
            options_print_help();
        else
            puts("tensord " TENSORD_VERSION);
        return 0;
    }
    if (status == TD_OK)
        status = take_sockets(&daemon);
    if (status != TD_OK) {
        fprintf(stderr, "tensord: %s\n", fail_detail());
        return 2;
    }
    log_setup(strcmp(daemon.options.log_format, "json") == 0);
    block_signals(&stopping);
    status = open_engine(&daemon);
    if (status == TD_OK)
        status = open_frames(&daemon);
    if (status == TD_OK)
        status = open_http(&daemon);
    if (status != TD_OK) {
        log_line(LOG_ERROR, "%s", fail_detail());
        close_all(&daemon);
        return 1;
    }
    announce(&daemon);
    sigwait(&stopping, &signal_number);
    log_line(LOG_INFO, "%s: finishing what is in flight",
             signal_number == SIGTERM ? "SIGTERM" : "SIGINT");
    service_stopping();
    close_all(&daemon);
    log_line(LOG_INFO, "stopped");
    return 0;
}
