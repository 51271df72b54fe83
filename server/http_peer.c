/* Connections, and the clock that ends what takes too long.
 *
 * libmicrohttpd's own timeout begins anew with every byte and does not run at all while a
 * connection is suspended, so each connection has its peer here, which the clock looks at: how many
 * bytes came and went is what the kernel counts (TCP_INFO), so that nothing is counted per chunk.
 */
#include "server/http_internal.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define TICK_MS 250
#define CLOSE_WAIT 8 /* TCP_CLOSE_WAIT of <netinet/tcp.h>, which does not go with <linux/tcp.h> */
#define SESSIONS_EVERY 4   /* ticks */
#define EXPIRE_A_TICK 4096 /* names */
#define BATCH 256

struct peer {
    struct http_server *server;
    int fd; /* libmicrohttpd's; open as long as the peer is in the list */
    /* Under the server's lock: */
    enum peer_state state;
    bool fresh;  /* the clock has not looked since the state began */
    bool begun;  /* PEER_IDLE: the first bytes of a request are there */
    bool probed; /* in this request: see probe() */
    bool cut;
    uint64_t since_ms;                   /* when what is waited for began */
    uint64_t received, acked;            /* bytes, when the clock looked last */
    uint64_t offered;                    /* and those it was given to take by then */
    uint64_t sends_lag_ms, reads_lag_ms; /* behind min_rate, in a body and in answers */
    struct peer *next, **link;
};

/* ---- connections -------------------------------------------------------------------------------
 */

/* A client that is gone without a word (a cable, a power switch) would keep a suspended connection
 * for ever. Sockets that are not TCP refuse this, and know when the other side ends. */
static void keep_alive(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 30}, /* seconds */
        {IPPROTO_TCP, TCP_KEEPINTVL, 10},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                         sizeof options[i].value);
}

static struct peer *peer_create(struct http_server *server, int fd)
{
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        return NULL;
    peer->server = server;
    peer->fd = fd;
    peer->since_ms = clock_now_ms();
    pthread_mutex_lock(&server->lock);
    peer->next = server->peers;
    peer->link = &server->peers;
    if (peer->next)
        peer->next->link = &peer->next;
    server->peers = peer;
    pthread_mutex_unlock(&server->lock);
    return peer;
}

static void peer_destroy(struct peer *peer)
{
    if (!peer)
        return;
    pthread_mutex_lock(&peer->server->lock);
    *peer->link = peer->next;
    if (peer->next)
        peer->next->link = peer->link;
    pthread_mutex_unlock(&peer->server->lock);
    free(peer);
}

/* TCP_NODELAY is libmicrohttpd's business, which pushes what an answer ends with. */
void peer_notify(void *argument, struct MHD_Connection *connection, void **socket_context,
                 enum MHD_ConnectionNotificationCode code)
{
    struct http_server *server = argument;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) { /* and closes the descriptor after this */
        peer_destroy(*socket_context);
        *socket_context = NULL;
        return;
    }
    int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    keep_alive(fd);
    *socket_context = peer_create(server, fd);
    if (!*socket_context) /* nobody would watch over it */
        (void)shutdown(fd, SHUT_RDWR);
}

void peer_set(struct peer *peer, enum peer_state state)
{
    if (!peer)
        return;
    pthread_mutex_lock(&peer->server->lock);
    peer->state = state;
    peer->fresh = true;
    if (state == PEER_IDLE)
        peer->probed = false;
    pthread_mutex_unlock(&peer->server->lock);
}

/* ---- what is too slow --------------------------------------------------------------------------
 */

/* What a peer did since the clock looked last. */
struct progress {
    uint64_t now_ms, elapsed_ms;
    uint64_t received, acked; /* bytes */
    bool owes;                /* to take bytes that are on the way to it, and were before */
    bool counts;              /* the kernel knows: it is TCP */
    bool ended;               /* it will send no more */
    bool fresh;               /* its state began since the clock looked last */
};

/* A transfer may fall as far behind as a request's head may take; bytes make good for it. */
static bool lags(const struct peer *peer, const struct progress *p, uint64_t bytes,
                 uint64_t *lag_ms)
{
    const struct http_options *o = &peer->server->options;
    if (!o->min_rate || !p->counts)
        return false;
    uint64_t earned_ms = bytes > UINT64_MAX / 1000 ? UINT64_MAX : bytes * 1000 / o->min_rate;
    uint64_t behind_ms = *lag_ms + p->elapsed_ms;
    *lag_ms = behind_ms > earned_ms ? behind_ms - earned_ms : 0;
    return *lag_ms > o->header_timeout_ms;
}

/* In every state: answers of earlier requests, and events, may still be on their way. */
static bool reads_too_slowly(struct peer *peer, const struct progress *p)
{
    if (!p->owes)
        peer->reads_lag_ms = 0;
    return p->owes && lags(peer, p, p->acked, &peer->reads_lag_ms);
}

static bool idles_too_long(struct peer *peer, const struct progress *p)
{
    const struct http_options *o = &peer->server->options;
    if (!peer->begun && p->received) {
        peer->begun = true;
        peer->since_ms = p->now_ms;
    }
    if (!peer->begun && p->owes) /* it still has something to do */
        peer->since_ms = p->now_ms;
    return p->now_ms - peer->since_ms > (peer->begun ? o->header_timeout_ms : o->idle_timeout_ms);
}

/* Its end may have come with the last bytes, in one event that libmicrohttpd took for those. */
static bool has_ended(const struct peer *peer, const struct progress *p)
{
    bool waits = peer->state == PEER_SENDS || peer->state == PEER_IDLE;
    return p->ended && waits && !p->fresh && !p->received && !p->owes;
}

static bool peer_is_late(struct peer *peer, const struct progress *p)
{
    if (has_ended(peer, p))
        return true;
    if (reads_too_slowly(peer, p))
        return true;
    if (peer->state == PEER_IDLE)
        return idles_too_long(peer, p);
    return peer->state == PEER_SENDS && lags(peer, p, p->received, &peer->sends_lag_ms);
}

/* libmicrohttpd sees the end of the connection, and completes its request. What the kernel still
 * holds for one that does not read is dropped with it, instead of being offered for minutes. */
static void peer_cut(struct peer *peer, bool owes)
{
    static const struct linger drop = {.l_onoff = 1, .l_linger = 0};
    if (owes)
        (void)setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &drop, sizeof drop);
    (void)shutdown(peer->fd, SHUT_RDWR);
    peer->cut = true;
}

/* What is on the way just now says nothing, only what was there already the last time. */
static bool peer_owes(struct peer *peer, const struct tcp_info *info)
{
    bool owed = info->tcpi_bytes_acked < peer->offered;
    int queued = 0;
    if (info->tcpi_notsent_bytes || info->tcpi_unacked)
        (void)ioctl(peer->fd, SIOCOUTQ, &queued);
    peer->offered = (uint64_t)info->tcpi_bytes_acked + (unsigned)queued;
    return owed;
}

static void peer_look(struct peer *peer, uint64_t now_ms, uint64_t elapsed_ms)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    memset(&info, 0, sizeof info);
    bool counts = getsockopt(peer->fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0;
    struct progress progress = {
        .now_ms = now_ms,
        .elapsed_ms = elapsed_ms,
        .received = info.tcpi_bytes_received - peer->received,
        .acked = info.tcpi_bytes_acked - peer->acked,
        .owes = peer_owes(peer, &info),
        .counts = counts,
        .ended = counts && info.tcpi_state == CLOSE_WAIT,
        .fresh = peer->fresh,
    };
    peer->received = info.tcpi_bytes_received;
    peer->acked = info.tcpi_bytes_acked;
    if (peer->fresh) { /* what came belongs to the state before */
        peer->fresh = peer->begun = false;
        peer->since_ms = now_ms;
        peer->sends_lag_ms = progress.received = 0;
    }
    if (peer_is_late(peer, &progress))
        peer_cut(peer, progress.owes);
}

/* With the lock: about half a microsecond each. */
static void look_at_peers(struct http_server *server, uint64_t now_ms, uint64_t elapsed_ms)
{
    for (struct peer *peer = server->peers; peer; peer = peer->next)
        if (!peer->cut)
            peer_look(peer, now_ms, elapsed_ms);
}

/* ---- suspended exchanges -----------------------------------------------------------------------
 */

/* Found under the lock, to be ended without it. */
struct ending {
    struct exchange *x;    /* unlinked, to be resumed; or NULL, and */
    struct parked *parked; /* a reference to its job, to be cancelled */
    enum td_status status;
};

struct endings {
    size_t count;
    struct ending of[BATCH];
};

/* With the lock. Not if there is no room, or its job is just being submitted: then the next time.
 */
static void end_later(struct endings *endings, struct exchange *x, enum td_status status)
{
    struct ending *ending = &endings->of[endings->count];
    if (endings->count == BATCH)
        return;
    *ending = (struct ending){.parked = exchange_job_ref(x), .status = status};
    if (x->job && !ending->parked)
        return;
    x->deadline_ms = 0; /* once: a job that has committed ends by itself */
    if (!x->job) {
        exchange_unlink(x);
        ending->x = x;
    }
    endings->count++;
}

static void end_now(const struct endings *endings)
{
    for (size_t i = 0; i < endings->count; i++) {
        const struct ending *ending = &endings->of[i];
        enum td_status status = ending->status;
        if (status != TD_OK)
            status = fail(status, status == TD_DEADLINE ? "the request's timeout_ms passed"
                                                        : "the client hung up");
        if (ending->x)
            exchange_resume(ending->x, status);
        else
            (void)parked_cancel(ending->parked, status);
        parked_unref(ending->parked);
    }
}

static void find_late(struct http_server *server, uint64_t now_ms, struct endings *endings)
{
    for (struct exchange *x = server->suspended, *next; x; x = next) {
        next = x->next_suspended;
        if (x->deadline_ms && x->deadline_ms <= now_ms)
            end_later(endings, x, x->job ? TD_DEADLINE : TD_OK);
    }
}

/* Linux says POLLRDHUP alone both for a client that only ended its side (`nc -N`, which waits for
 * the answer) and for one that closed its socket with nothing left to read; POLLHUP and POLLERR
 * come with a reset, which the second sends as soon as it is sent something. So it is sent
 * something that changes nothing: an interim answer, which every client of HTTP/1.1 skips (RFC
 * 9110, 15.2). Not in the middle of an answer: of events a keep-alive is sent anyway. */
static void probe(struct exchange *x)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (x->answered || x->http_1_0 || x->peer->probed)
        return;
    x->peer->probed = true;
    (void)send(x->peer->fd, interim, sizeof interim - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* With the lock, which keeps the descriptors open: poll does not wait. */
static void find_gone(struct http_server *server, struct endings *endings)
{
    struct pollfd fds[BATCH];
    struct exchange *of[BATCH], *x = server->suspended;
    while (x) {
        nfds_t count = 0;
        for (; x && count < BATCH; x = x->next_suspended)
            if (x->peer) {
                fds[count] = (struct pollfd){.fd = x->peer->fd, .events = POLLRDHUP};
                of[count++] = x;
            }
        if (poll(fds, count, 0) <= 0)
            continue;
        for (nfds_t i = 0; i < count; i++) {
            if (fds[i].revents & (POLLHUP | POLLERR))
                end_later(endings, of[i], TD_CANCELLED);
            else if (fds[i].revents & POLLRDHUP)
                probe(of[i]);
        }
    }
}

/* A session does not end while a request of it is under way. */
static void touch_sessions(struct http_server *server)
{
    for (struct exchange *x = server->suspended; x; x = x->next_suspended)
        if (x->session)
            http_session_touch(server->sessions, x->session);
}

/* ---- the clock ---------------------------------------------------------------------------------
 */

/* With the lock, until tick_ms, the next deadline, or something changed. */
static void clock_wait(struct http_server *server, uint64_t tick_ms)
{
    uint64_t until_ms = tick_ms;
    for (struct exchange *x = server->suspended; x; x = x->next_suspended)
        if (x->deadline_ms && x->deadline_ms < until_ms)
            until_ms = x->deadline_ms;
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                             .tv_nsec = (long)(until_ms % 1000) * 1000000};
    server->wakes_ms = until_ms;
    (void)pthread_cond_timedwait(&server->tick, &server->lock, &until);
}

static void *clock_run(void *argument)
{
    struct http_server *server = argument;
    uint64_t last_ms = clock_now_ms(), ticks = 0;
    pthread_mutex_lock(&server->lock);
    while (!server->stopping) {
        struct endings endings = {.count = 0};
        clock_wait(server, last_ms + TICK_MS);
        uint64_t now_ms = clock_now_ms();
        bool tick = now_ms - last_ms >= TICK_MS;
        bool sessions = tick && ++ticks % SESSIONS_EVERY == 0;
        find_late(server, now_ms, &endings);
        if (tick) {
            find_gone(server, &endings);
            look_at_peers(server, now_ms, now_ms - last_ms);
            last_ms = now_ms;
        }
        if (sessions)
            touch_sessions(server);
        pthread_mutex_unlock(&server->lock);
        end_now(&endings);
        if (tick)
            engine_expire(server->options.engine, now_ms, EXPIRE_A_TICK);
        if (sessions)
            http_sessions_expire(server->sessions, now_ms);
        pthread_mutex_lock(&server->lock);
    }
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

enum td_status clock_start(struct http_server *server)
{
    if (pthread_create(&server->clock, NULL, clock_run, server) != 0)
        return fail(TD_OUT_OF_MEMORY, "cannot start the clock of the HTTP server");
    return TD_OK;
}

void clock_stop(struct http_server *server)
{
    pthread_mutex_lock(&server->lock);
    server->stopping = true;
    pthread_cond_signal(&server->tick);
    pthread_mutex_unlock(&server->lock);
    pthread_join(server->clock, NULL);
}
