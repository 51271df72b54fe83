#include "server/http_internal.h"

#include <string.h>
#include <time.h>

/* Below it a connection's buffer is cleared at each request for less than the request costs; a
 * larger one gains no bulk speed. */
#define CONNECTION_MEMORY ((size_t)128 << 10)
#define DRAIN_STEP_MS 20

/* ---- libmicrohttpd's callbacks -----------------------------------------------------------------
 */

/* The request line was read. What this returns is the exchange of the calls that follow. */
static void *on_uri(void *argument, const char *uri, struct MHD_Connection *connection)
{
    struct http_server *server = argument;
    struct exchange *x = exchange_create(server, connection, uri);
    if (!x)
        return NULL;
    x->peer =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    atomic_fetch_add(&server->exchanges, 1);
    return x;
}

/* libmicrohttpd would decode names so that %00 cuts them; http_route.c does it. */
static size_t on_unescape(void *argument, struct MHD_Connection *connection, char *text)
{
    (void)argument;
    (void)connection;
    return strlen(text);
}

static enum td_status preflight(struct exchange *x)
{
    return answer_empty(x, MHD_HTTP_NO_CONTENT);
}

/* What can be told before the body comes: nothing of a refused one is read. */
static enum td_status begin(struct exchange *x, const char *method, const char *version)
{
    atomic_fetch_add_explicit(&x->server->options.engine->requests, 1, memory_order_relaxed);
    x->head = strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
    TRY(guard_headers(x, version));
    enum td_status status = route_find(x, method);
    if (strcmp(method, MHD_HTTP_METHOD_OPTIONS) == 0 && x->allow[0]) {
        x->next = preflight;
        return x->declared_length ? fail(TD_INVALID, "OPTIONS takes no body") : TD_OK;
    }
    TRY(status);
    if (!x->route->open)
        TRY(guard_token(x));
    if (x->declared_length && !x->route->body)
        return fail(TD_INVALID, "%s %s takes no body", x->route->method, x->route->path);
    if (x->declared_length != UINT64_MAX && x->declared_length > x->server->options.max_body)
        return fail(TD_TOO_LARGE,
                    "the body has %llu bytes, and the limit is %llu (--max-body, --memory-limit)",
                    (unsigned long long)x->declared_length,
                    (unsigned long long)x->server->options.max_body);
    x->next = x->route->end;
    return x->route->begin ? x->route->begin(x) : TD_OK;
}

/* What only the answer would have told of, which nobody gets: an object, a session. */
static void take_back(struct exchange *x)
{
    if (x->call_begun)
        op_stop_waiting(&x->call);
    if (x->undo && x->call_begun && x->call.session)
        op_undo(&x->call);
    x->undo = false; /* once: an object may have been handed out before */
    const char *key = x->session_is_new ? session_key(x->session) : NULL;
    if (key && http_session_close(x->server->sessions, text_of(key)) != TD_OK)
        return; /* it has ended already */
    x->session_is_new = false;
}

static enum MHD_Result answer_failure(struct exchange *x, enum td_status status)
{
    atomic_fetch_add_explicit(&x->server->options.engine->errors, 1, memory_order_relaxed);
    take_back(x);
    return answer_problem(x, status) == TD_OK ? MHD_YES : MHD_NO;
}

/* A refused body is read to its end, so that the client gets to see the answer: libmicrohttpd takes
 * none in the middle. That costs less than one that is stored, and has the same limit. */
static enum MHD_Result swallow(struct exchange *x, size_t *length)
{
    x->swallowed += *length;
    *length = 0;
    return x->swallowed <= x->server->options.max_body ? MHD_YES : MHD_NO;
}

static enum MHD_Result on_body(struct exchange *x, const char *data, size_t *length)
{
    size_t given = *length;
    if (x->status != TD_OK)
        return swallow(x, length);
    if (x->session) /* lives on while the body comes */
        http_session_touch(x->server->sessions, x->session);
    enum td_status status = x->route->body(x, data, length);
    atomic_fetch_add_explicit(&x->server->options.engine->bytes_received, given - *length,
                              memory_order_relaxed);
    if (x->suspended_now || status == TD_OK)
        return MHD_YES;
    exchange_note(x, status);
    return swallow(x, length);
}

static bool is_suspended(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_SUSPENDED)->suspended;
}

static enum MHD_Result on_request(void *argument, struct MHD_Connection *connection,
                                  const char *url, const char *method, const char *version,
                                  const char *data, size_t *length, void **slot)
{
    struct exchange *x = *slot;
    (void)argument;
    (void)url;
    if (!x)
        return MHD_NO; /* no memory */
    if (!x->begun) {
        x->begun = true;
        enum td_status status = begin(x, method, version);
        if (status != TD_OK)
            return answer_failure(x, status);
        peer_set(x->peer, x->declared_length ? PEER_SENDS : PEER_IS_DUE);
        return MHD_YES;
    }
    if (x->suspended_now && is_suspended(connection))
        return MHD_YES; /* the next chunk of what it has read already: not yet */
    if (x->suspended_now) {
        exchange_resumed(x);
        peer_set(x->peer, *length ? PEER_SENDS : PEER_IS_DUE);
    }
    if (*length)
        return on_body(x, data, length);
    if (x->answered)
        return MHD_YES;
    if (x->status != TD_OK)
        return answer_failure(x, fail(x->status, "%s", x->message));
    enum td_status status = x->next(x);
    return status == TD_OK ? MHD_YES : answer_failure(x, status);
}

static void on_completed(void *argument, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode how)
{
    struct http_server *server = argument;
    struct exchange *x = *slot;
    (void)connection;
    *slot = NULL;
    if (!x)
        return;
    exchange_resumed(x);
    peer_set(x->peer, PEER_IDLE);
    if (how != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        take_back(x);
    exchange_unref(x);
    atomic_fetch_sub(&server->exchanges, 1);
}

/* ---- starting and stopping ---------------------------------------------------------------------
 */

/* Without libmicrohttpd's log: clients could fill it with their own mistakes. */
static enum td_status daemon_start(struct http_server *server)
{
    const struct http_options *o = &server->options;
    struct MHD_OptionItem pool[] = {{MHD_OPTION_THREAD_POOL_SIZE, (intptr_t)o->threads, NULL},
                                    {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem *one = &pool[1]; /* a pool of one is none */
    server->mhd = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0, NULL, NULL,
        on_request, server, MHD_OPTION_LISTEN_SOCKET, o->listen_fd,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)o->max_connections, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        (unsigned)o->max_per_address, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_URI_LOG_CALLBACK,
        on_uri, server, MHD_OPTION_UNESCAPE_CALLBACK, on_unescape, NULL,
        MHD_OPTION_NOTIFY_CONNECTION, peer_notify, server, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, server, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_ARRAY,
        o->threads > 1 ? pool : one, MHD_OPTION_END);
    return server->mhd ? TD_OK : fail(TD_INTERNAL, "cannot start libmicrohttpd");
}

enum td_status http_server_start(const struct http_options *options, struct http_server **out)
{
    struct http_server *server = calloc(1, sizeof *server);
    pthread_condattr_t monotonic;
    if (!server)
        return fail(TD_OUT_OF_MEMORY, "no memory for the HTTP server");
    server->options = *options;
    pthread_mutex_init(&server->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&server->tick, &monotonic);
    pthread_condattr_destroy(&monotonic);
    /* The process ends if one of these fails; what was started is not taken apart. */
    TRY(http_sessions_create(options, &server->sessions));
    TRY(daemon_start(server));
    TRY(clock_start(server));
    *out = server;
    return TD_OK;
}

/* Ends the waiting of whoever waits for something that may never happen. */
static void end_waits(struct http_server *server)
{
    struct exchange *waiting = NULL;
    pthread_mutex_lock(&server->lock);
    for (struct exchange *x = server->suspended, *next; x; x = next) {
        next = x->next_suspended;
        if (x->job)
            continue;
        exchange_unlink(x);
        x->next_suspended = waiting;
        waiting = x;
    }
    pthread_mutex_unlock(&server->lock);
    while (waiting) {
        struct exchange *x = waiting;
        waiting = x->next_suspended;
        exchange_resume(x, fail(TD_UNAVAILABLE, "the daemon is stopping"));
    }
}

void http_server_drain(struct http_server *server)
{
    if (!server)
        return;
    atomic_store(&server->draining, true);
    MHD_quiesce_daemon(server->mhd);
    end_waits(server);
}

void http_server_stop(struct http_server *server)
{
    if (!server)
        return;
    if (!atomic_load(&server->draining))
        http_server_drain(server);
    uint64_t until = clock_now_ms() + server->options.drain_timeout_ms;
    while (atomic_load(&server->exchanges) && clock_now_ms() < until) {
        nanosleep(&(struct timespec){.tv_nsec = DRAIN_STEP_MS * 1000000L}, NULL);
        end_waits(server);
    }
    clock_stop(server);
    pthread_mutex_lock(&server->lock);
    server->ending = true;
    pthread_mutex_unlock(&server->lock);
    /* Jobs wake what they were for; libmicrohttpd wants nobody suspended when it ends. */
    for (bool suspended = true; suspended;) {
        end_waits(server);
        pthread_mutex_lock(&server->lock);
        suspended = server->suspended != NULL;
        pthread_mutex_unlock(&server->lock);
        if (suspended)
            nanosleep(&(struct timespec){.tv_nsec = DRAIN_STEP_MS * 1000000L}, NULL);
    }
    MHD_stop_daemon(server->mhd);
    while (atomic_load(&server->held)) /* jobs that nobody waits for any more */
        nanosleep(&(struct timespec){.tv_nsec = DRAIN_STEP_MS * 1000000L}, NULL);
    http_sessions_destroy(server->sessions);
    pthread_cond_destroy(&server->tick);
    pthread_mutex_destroy(&server->lock);
    free(server);
}
