#include "server/frame_internal.h"

#include "server/log.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define ACCEPT_ROUNDS 64
#define DRAIN_TICK_MS 20
#define TELL_AGAIN_MS 60000
#define EXPIRE_A_TICK 1024 /* names: other connections of the loop wait meanwhile */

/* ---- accepting ---------------------------------------------------------------------------------
 */

static void on_listening(uv_poll_t *poll, int status, int events);

static void accept_start(struct loop *loop)
{
    for (int i = 0; i < loop->server->options.listener_count; i++)
        uv_poll_start(&loop->accepting[i], UV_READABLE, on_listening);
    loop->accept_paused = false;
}

/* Until the next tick: without descriptors accept would fail, and be called again, at once. */
static void accept_pause(struct loop *loop, const char *why)
{
    log_line(LOG_WARNING, "not accepting connections for a moment: %s", why);
    for (int i = 0; i < loop->server->options.listener_count; i++)
        uv_poll_stop(&loop->accepting[i]);
    loop->accept_paused = true;
}

/* One connection too many: it is told so (this thread's fail_detail), as far as its socket takes
 * that at once. */
static void refuse(int fd)
{
    unsigned char frame[WIRE_HEADER_SIZE + FAIL_DETAIL_SIZE + 64];
    struct fields error;
    error.present = 0;
    FIELDS_SET(&error, message, text_of(fail_detail()));
    struct wire_header header = {.version = WIRE_VERSION,
                                 .flags = WIRE_REPLY,
                                 .opcode = OP_hello,
                                 .status = TD_UNAVAILABLE,
                                 .meta_length = (uint32_t)wire_fields_size(&error)};
    wire_header_encode(&header, frame);
    wire_fields_encode(&error, frame + WIRE_HEADER_SIZE);
    ssize_t sent =
        send(fd, frame, WIRE_HEADER_SIZE + header.meta_length, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent; /* closing says it, too */
    close(fd);
}

static void keep_spare(struct loop *loop)
{
    if (loop->spare_fd < 0)
        loop->spare_fd = eventfd(0, EFD_CLOEXEC);
}

/* There is no descriptor for who comes. It would wait for an answer in vain, so it is told so,
 * through the descriptor that is kept for that. 0, or why nobody was. */
static int refuse_without_descriptor(struct loop *loop, int listening)
{
    if (loop->spare_fd < 0)
        return EMFILE;
    close(loop->spare_fd);
    int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int error = fd < 0 ? errno : 0;
    if (fd >= 0) {
        (void)fail(TD_UNAVAILABLE,
                   "the daemon has as many files open as it may; close connections, delete "
                   "tensors, give it more open files (ulimit -n), or lower --max-connections and "
                   "--max-descriptors");
        refuse(fd);
    }
    loop->spare_fd = -1;
    keep_spare(loop);
    if (fd >= 0 && uv_now(&loop->uv) >= loop->tell_spare_ms) {
        loop->tell_spare_ms = uv_now(&loop->uv) + TELL_AGAIN_MS;
        log_line(LOG_WARNING, "refusing connections: %s", fail_detail());
    }
    return error;
}

/* Who is at the other end: by the kernel's word on a Unix socket. */
static enum td_status account_of(const struct frame_server *server, int fd, bool local,
                                 struct account **account, int32_t *pid)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    *pid = 0;
    if (!local) {
        *account = account_ref(server->options.remote);
        return TD_OK;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        peer = (struct ucred){.uid = UID_UNKNOWN};
    *pid = peer.pid;
    struct principal user = {.kind = PRINCIPAL_UID, .uid = peer.uid};
    return account_open(server->options.engine->accounts, user, account);
}

static enum td_status admit(const struct frame_server *server, int fd, bool local,
                            struct account **out, int32_t *pid)
{
    uint64_t limit = server->options.max_connections;
    struct account *account = NULL;
    if (atomic_load(&server->connections) >= limit)
        return fail(TD_UNAVAILABLE,
                    "%llu connections are open, which is the limit; close some, or raise "
                    "--max-connections",
                    (unsigned long long)limit);
    TRY(account_of(server, fd, local, &account, pid));
    enum td_status status = account_reserve(account, QUOTA_CONNECTIONS, 1);
    if (status == TD_OK)
        *out = account;
    else
        account_unref(account);
    return status;
}

/* 0, with the connection or -1 in *fd: who came was refused; or an error. The threads take turns,
 * else one would take the descriptor that another has just given up. */
static int accept_one(struct loop *loop, int listening, int *fd)
{
    pthread_mutex_lock(&loop->server->accepting);
    *fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int error = *fd < 0 ? errno : 0;
    if (error == EMFILE || error == ENFILE)
        error = refuse_without_descriptor(loop, listening);
    pthread_mutex_unlock(&loop->server->accepting);
    return error;
}

static void on_listening(uv_poll_t *poll, int status, int events)
{
    struct loop *loop = poll->data;
    loop_enter(loop);
    struct frame_server *server = loop->server;
    const struct frame_listener *listener = &server->options.listeners[poll - loop->accepting];
    (void)status;
    (void)events;
    for (int i = 0; i < ACCEPT_ROUNDS && !loop->accept_paused; i++) {
        int fd, error = accept_one(loop, listener->fd, &fd);
        struct account *account;
        int32_t pid;
        if (fd >= 0 && admit(server, fd, listener->local, &account, &pid) != TD_OK)
            refuse(fd);
        else if (fd >= 0)
            connection_open(loop, fd, listener->local, account, pid);
        else if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM)
            accept_pause(loop, strerror(error));
        else if (error && error != EINTR && error != ECONNABORTED)
            return;
    }
}

/* ---- time --------------------------------------------------------------------------------------
 */

/* Another loop's thread may have sent for this one, by a clock that is a little ahead. */
static bool is_past(uint64_t since_ms, uint64_t patience_ms, uint64_t now)
{
    return now > since_ms && now - since_ms > patience_ms;
}

static bool stands_still(const struct connection *connection, uint64_t now)
{
    const struct frame_options *options = &connection->loop->server->options;
    if (connection->reading == READ_LINGER)
        return now >= connection->linger_ms;
    if (!connection->session && !replies_pending(connection))
        return is_past(connection->opened_ms, options->hello_timeout_ms, now);
    uint64_t patience = options->io_timeout_ms;
    bool in_frame = connection->reading == READ_HEADER
                        ? connection->input_end > connection->input_start
                        : connection->reading < READ_HOLD;
    bool reads = connection->events & UV_READABLE; /* and not held back by the daemon itself */
    return (reads && in_frame && is_past(connection->received_ms, patience, now)) ||
           (replies_pending(connection) && is_past(connection->sent_ms, patience, now));
}

static void on_tick(uv_timer_t *timer)
{
    struct loop *loop = timer->data;
    loop_enter(loop);
    uint64_t now = uv_now(&loop->uv);
    bool drain_over = loop->draining && now >= loop->drain_until_ms;
    for (struct connection *c = loop->connections, *next; c; c = next) {
        next = c->next;
        if (drain_over || stands_still(c, now))
            connection_close(c);
        else if (loop->draining && connection_is_idle(c))
            connection_close(c);
    }
    keep_spare(loop);
    if (loop->accept_paused && !loop->draining)
        accept_start(loop);
    if (loop == loop->server->loops && !loop->draining) /* nobody waits for that any more */
        engine_expire(loop->server->options.engine, now, EXPIRE_A_TICK);
    if (loop->draining && !loop->connections) {
        uv_close((uv_handle_t *)&loop->tick, NULL);
        uv_close((uv_handle_t *)&loop->deadline, NULL);
        uv_close((uv_handle_t *)&loop->wake, NULL);
        uv_close((uv_handle_t *)&loop->check, NULL);
        uv_close((uv_handle_t *)&loop->before, NULL);
    }
}

/* Whether a time (0: none) has passed; if it is yet to come, the timer is set for it. */
static bool is_due(struct loop *loop, uint64_t due_ms, uint64_t now)
{
    if (!due_ms)
        return false;
    if (due_ms > now)
        loop_arm_deadline(loop, due_ms);
    return due_ms <= now;
}

static void on_deadline(uv_timer_t *timer)
{
    struct loop *loop = timer->data;
    loop_enter(loop);
    uint64_t now = uv_now(&loop->uv);
    for (struct connection *c = loop->connections; c; c = c->next) {
        for (struct request *r = c->parked; r; r = r->parked_next)
            if (is_due(loop, r->deadline_ms, now))
                request_cancel(r, fail(TD_DEADLINE, "the request's timeout_ms passed"));
        for (struct request *r = c->waiting; r; r = r->parked_next)
            if (is_due(loop, request_due_ms(r), now))
                request_wake_now(r);
        if (c->reading == READ_BODY && is_due(loop, c->incoming->deadline_ms, now))
            request_expire(c->incoming);
    }
}

void loop_arm_deadline(struct loop *loop, uint64_t deadline_ms)
{
    uint64_t now = uv_now(&loop->uv);
    uint64_t delay = deadline_ms > now ? deadline_ms - now : 0;
    bool armed = uv_is_active((uv_handle_t *)&loop->deadline);
    if (!armed || delay < uv_timer_get_due_in(&loop->deadline))
        uv_timer_start(&loop->deadline, on_deadline, delay, 0);
}

/* ---- threads -----------------------------------------------------------------------------------
 */

static void drain_begin(struct loop *loop)
{
    loop->draining = true;
    loop->drain_until_ms = uv_now(&loop->uv) + loop->server->options.drain_timeout_ms;
    for (int i = 0; i < loop->server->options.listener_count; i++)
        uv_close((uv_handle_t *)&loop->accepting[i], NULL);
    /* Not at once: requests that are in the sockets' buffers already are read and answered. */
    uv_timer_start(&loop->tick, on_tick, DRAIN_TICK_MS, DRAIN_TICK_MS);
    for (struct connection *c = loop->connections; c; c = c->next)
        connection_end_waits(c);
}

/* What other threads handed in, in that order. */
static struct request *take_done(struct loop *loop, bool *stop)
{
    struct request *first = NULL;
    pthread_mutex_lock(&loop->lock);
    struct request *done = take(&loop->done);
    *stop = loop->stop;
    pthread_mutex_unlock(&loop->lock);
    while (done) {
        struct request *request = done;
        done = done->done_next;
        request->done_next = first;
        first = request;
    }
    return first;
}

static void on_wake(uv_async_t *wake)
{
    struct loop *loop = wake->data;
    loop_enter(loop);
    bool stop;
    struct request *done = take_done(loop, &stop);
    while (done) {
        struct request *request = done;
        done = done->done_next;
        if (request->waiting)
            request_woken(request);
        else
            request_done(request);
    }
    for (struct connection *c = loop->connections; c; c = c->next)
        if (c->more)
            connection_resume(c);
    if (stop && !loop->draining)
        drain_begin(loop);
}

/* Runs what was woken, and sends what came of all. */
static void settle(struct loop *loop)
{
    requests_run_woken(loop);
    connections_settle(loop);
    if (loop->woken) /* too many for one turn, or woken by a connection's end just now */
        uv_async_send(&loop->wake);
}

static void on_check(uv_check_t *check)
{
    loop_enter(check->data);
    settle(check->data);
}

/* A name's time to live, or a queue's, may have woken somebody in a timer's turn. */
static void before_sleep(uv_prepare_t *before)
{
    struct loop *loop = before->data;
    loop_enter(loop);
    settle(loop);
    loop->holds_busy = false;
    pthread_mutex_unlock(&loop->busy);
}

/* libuv calls nothing between its sleep and what it was woken for. */
void loop_enter(struct loop *loop)
{
    if (loop->holds_busy)
        return;
    pthread_mutex_lock(&loop->busy);
    loop->holds_busy = true;
}

static _Thread_local struct loop *loop_here;

struct loop *loop_of_thread(void)
{
    return loop_here;
}

void loop_post(struct loop *loop, struct request *request)
{
    pthread_mutex_lock(&loop->lock);
    request->done_next = loop->done;
    loop->done = request;
    uv_async_send(&loop->wake); /* under the lock: without it the loop might be gone by now */
    pthread_mutex_unlock(&loop->lock);
}

static void *loop_thread(void *argument)
{
    struct loop *loop = argument;
    loop_here = loop;
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    return NULL;
}

static int loop_init(struct loop *loop)
{
    const struct frame_options *options = &loop->server->options;
    pthread_mutex_init(&loop->lock, NULL);
    pthread_mutex_init(&loop->busy, NULL);
    int error = uv_loop_init(&loop->uv);
    if (error)
        return error;
    loop->woken_last = &loop->woken;
    loop->wake.data = loop->tick.data = loop->deadline.data = loop->check.data = loop;
    loop->before.data = loop;
    loop->spare_fd = -1;
    keep_spare(loop);
    uv_prepare_init(&loop->uv, &loop->before);
    uv_prepare_start(&loop->before, before_sleep);
    uv_check_init(&loop->uv, &loop->check);
    uv_check_start(&loop->check, on_check);
    uv_timer_init(&loop->uv, &loop->tick);
    uv_timer_init(&loop->uv, &loop->deadline);
    error = uv_async_init(&loop->uv, &loop->wake, on_wake);
    for (int i = 0; i < options->listener_count && !error; i++) {
        error = uv_poll_init(&loop->uv, &loop->accepting[i], options->listeners[i].fd);
        loop->accepting[i].data = loop;
    }
    if (error)
        return error;
    accept_start(loop);
    uv_timer_start(&loop->tick, on_tick, TICK_MS, TICK_MS);
    error = pthread_create(&loop->thread, NULL, loop_thread, loop);
    return error ? -error : 0;
}

enum td_status frame_server_start(const struct frame_options *options, struct frame_server **out)
{
    size_t size = sizeof(struct frame_server) + options->threads * sizeof(struct loop);
    struct frame_server *server = calloc(1, size);
    if (!server)
        return fail(TD_OUT_OF_MEMORY, "no memory for %u threads", options->threads);
    server->options = *options;
    pthread_mutex_init(&server->accepting, NULL);
    for (unsigned i = 0; i < options->threads; i++) {
        server->loops[i].server = server;
        int error = loop_init(&server->loops[i]);
        if (error) /* the process ends; what was started is not taken apart */
            return fail(TD_INTERNAL, "cannot start a thread for connections: %s",
                        uv_strerror(error));
        server->loop_count++;
    }
    *out = server;
    return TD_OK;
}

void frame_server_stop(struct frame_server *server)
{
    for (unsigned i = 0; i < server->loop_count; i++) {
        struct loop *loop = &server->loops[i];
        pthread_mutex_lock(&loop->lock);
        loop->stop = true;
        pthread_mutex_unlock(&loop->lock);
        uv_async_send(&loop->wake);
    }
    for (unsigned i = 0; i < server->loop_count; i++) {
        struct loop *loop = &server->loops[i];
        pthread_join(loop->thread, NULL);
        uv_loop_close(&loop->uv);
        requests_forget(loop);
        if (loop->spare_fd >= 0)
            close(loop->spare_fd);
        pthread_mutex_destroy(&loop->lock);
    }
    pthread_mutex_destroy(&server->accepting);
    free(server);
}
