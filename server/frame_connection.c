#include "server/frame_internal.h"

#include "server/closer.h"
#include "server/log.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#define SESSION_LARGE 1000 /* objects and leases */
#define ROUNDS 16          /* reads before other connections get their turn */

static void set_socket_options(int fd, bool local)
{
    int one = 1, size = SOCKET_BUFFER_BYTES;
    if (!local) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return; /* the kernel tunes TCP's buffers better than a fixed size does */
    }
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) != 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) != 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
}

static void on_event(uv_poll_t *poll, int status, int events);

/* What the connection's state can use. */
static int wanted_events(const struct connection *connection)
{
    const struct frame_options *options = &connection->loop->server->options;
    bool may_read = connection->reading != READ_HOLD && connection->reading != READ_END &&
                    !connection->more &&
                    (connection->reading == READ_LINGER ||
                     connection->inflight < options->max_inflight || connection->incoming);
    int events = (may_read ? UV_READABLE : 0) | (replies_pending(connection) ? UV_WRITABLE : 0);
    if (!may_read)
        events |= UV_DISCONNECT;
    return events;
}

static void update_poll(struct connection *connection)
{
    int events = wanted_events(connection);
    if (connection->closed || events == connection->events)
        return;
    uint64_t now = uv_now(&connection->loop->uv);
    int begun = events & ~connection->events;
    if (begun & UV_READABLE)
        connection->received_ms = now;
    if (begun & UV_WRITABLE)
        connection->sent_ms = now;
    connection->events = events;
    uv_poll_start(&connection->poll, events, on_event);
}

static void account_leave(struct account *account)
{
    account_release(account, QUOTA_CONNECTIONS, 1);
    account_unref(account);
}

void connection_open(struct loop *loop, int fd, bool local, struct account *account, int32_t pid)
{
    struct connection *connection = malloc(sizeof *connection);
    if (!connection || uv_poll_init(&loop->uv, &connection->poll, fd) != 0) {
        log_line(LOG_ERROR, "no memory for a connection");
        free(connection);
        close(fd);
        account_leave(account);
        return;
    }
    memset(connection, 0, offsetof(struct connection, poll));
    memset((char *)connection + offsetof(struct connection, fd), 0,
           offsetof(struct connection, input) - offsetof(struct connection, fd));
    connection->loop = loop;
    connection->poll.data = connection;
    connection->fd = fd;
    connection->local = local;
    connection->account = account;
    connection->pid = pid;
    connection->opened_ms = uv_now(&loop->uv);
    connection->sending_last = &connection->sending;
    connection->next = loop->connections;
    connection->link = &loop->connections;
    if (connection->next)
        connection->next->link = &connection->next;
    loop->connections = connection;
    atomic_fetch_add(&loop->server->connections, 1);
    atomic_fetch_add(&loop->server->options.engine->connections, 1);
    set_socket_options(fd, local);
    update_poll(connection);
}

void connection_free_if_done(struct connection *connection)
{
    if (!connection->handle_closed || connection->inflight)
        return;
    *connection->link = connection->next;
    if (connection->next)
        connection->next->link = connection->link;
    atomic_fetch_sub(&connection->loop->server->connections, 1);
    atomic_fetch_sub(&connection->loop->server->options.engine->connections, 1);
    account_leave(connection->account);
    free(connection);
}

static void on_closed(uv_handle_t *handle)
{
    struct connection *connection = handle->data;
    loop_enter(connection->loop);
    close(connection->fd);
    connection->handle_closed = true;
    connection_free_if_done(connection);
}

struct leaving {
    struct parked parked;
    struct session *session;
};

static enum td_status leave_in_job(struct parked *parked)
{
    session_leave(((struct leaving *)(void *)parked)->session);
    return TD_OK;
}

static void leave_complete(struct parked *parked, enum td_status status)
{
    (void)parked;
    (void)status;
}

static void leave_destroy(struct parked *parked)
{
    free(parked);
}

/* A session that holds much takes long to end, and is left to the job pool if that has room. */
static void leave_session(struct connection *connection)
{
    static const struct parked_ops ops = {leave_in_job, leave_complete, leave_destroy};
    struct job_pool *jobs = connection->loop->server->options.engine->jobs;
    struct session *session = take(&connection->session);
    struct leaving *leaving =
        session_entries(session) > SESSION_LARGE ? calloc(1, sizeof *leaving) : NULL;
    if (leaving) {
        leaving->session = session;
        if (parked_submit(jobs, &leaving->parked, &ops, PARKED_AHEAD) == TD_OK) {
            parked_unref(&leaving->parked);
            return;
        }
        free(leaving);
    }
    session_leave(session);
}

void connection_close(struct connection *connection)
{
    if (connection->closed)
        return;
    connection->closed = true;
    connection->reading = READ_END;
    for (struct request *request = connection->parked, *next; request; request = next) {
        next = request->parked_next;
        request_cancel(request, fail(TD_CANCELLED, "the client went away"));
    }
    connection_stop_waiting(connection);
    while (connection->sending) {
        struct request *request = connection->sending;
        connection->sending = request->next;
        if (request->parked_link)
            continue;
        request_undo(request);
        request_drop(request);
    }
    /* A request whose memory, or whose reply's next piece, is being made is parked, and comes back
     * through request_done. */
    if (connection->incoming && !connection->incoming->parked_link)
        request_drop(connection->incoming);
    connection->incoming = NULL;
    for (int fd; (fd = connection_claim(connection)) >= 0;)
        close(fd);
    if (connection->session)
        leave_session(connection);
    uv_close((uv_handle_t *)&connection->poll, on_closed);
}

bool connection_is_idle(const struct connection *connection)
{
    return connection->inflight == 0 && !replies_pending(connection) &&
           connection->input_start == connection->input_end &&
           (connection->reading == READ_HEADER || connection->reading == READ_END);
}

void connection_end(struct connection *connection)
{
    connection->reading = READ_END;
    connection->input_start = connection->input_end = 0;
    connection_end_waits(connection);
}

/* The first that waits is of the frame that has begun. Those behind it are ahead of their frames,
 * for as long as the client likes, and count as what it holds. */
static bool reserve_descriptor(struct connection *connection)
{
    struct ledger *ledger = &connection->loop->server->options.engine->ledger;
    if (connection->unclaimed_count == 0)
        return true;
    if (account_reserve(connection->account, QUOTA_DESCRIPTORS, 1) != TD_OK)
        return false;
    if (ledger_reserve(ledger, 0, 1, 0) == TD_OK)
        return true;
    account_release(connection->account, QUOTA_DESCRIPTORS, 1);
    return false;
}

/* After one has left those that wait. */
static void release_descriptor(struct connection *connection)
{
    if (connection->unclaimed_count == 0)
        return;
    account_release(connection->account, QUOTA_DESCRIPTORS, 1);
    ledger_release(&connection->loop->server->options.engine->ledger, 0, 1, 0);
}

int connection_claim(struct connection *connection)
{
    if (connection->unclaimed_count == 0)
        return -1;
    int fd = connection->unclaimed[0];
    connection->unclaimed_count--;
    memmove(connection->unclaimed, connection->unclaimed + 1,
            (size_t)connection->unclaimed_count * sizeof fd);
    release_descriptor(connection);
    return fd;
}

/* Answers a frame by its header alone; false if there is no memory for that either. */
static bool refuse(struct connection *connection, struct wire_header header, enum td_status status)
{
    struct request *request;
    header.meta_length = 0;
    header.body_length = 0;
    if (!may_be_one_way(header.opcode))
        header.flags = 0; /* so that the answer is sent */
    if (request_create(connection, &header, &request) != TD_OK)
        return false;
    if (header.descriptors)
        request->call.fd = connection_claim(connection);
    request_fail(request, status);
    return true;
}

/* Answers bytes that are no frame, and reads no more: what follows cannot be found. */
static void refuse_stream(struct connection *connection, const struct wire_header *header,
                          enum td_status status)
{
    struct wire_header told = *header;
    told.flags = 0;
    told.descriptors = 0;
    (void)refuse(connection, told, status);
    connection_end(connection);
}

/* Answers a request that there is no memory for, and passes over it. */
static void refuse_request(struct connection *connection, const struct wire_header *header,
                           enum td_status status)
{
    connection->reading = READ_SKIP;
    connection->wanted = header->meta_length + header->body_length;
    if (!refuse(connection, *header, status))
        connection_end(connection);
}

static enum td_status check_header(struct connection *connection, const struct wire_header *header)
{
    const struct frame_options *options = &connection->loop->server->options;
    if (header->flags & WIRE_REPLY)
        return fail(TD_PROTOCOL, "a client sends requests, and this frame is marked as a reply");
    if (header->descriptors > connection->unclaimed_count)
        return fail(TD_PROTOCOL, "the header promises %u descriptors, and %d came with it",
                    header->descriptors, connection->unclaimed_count);
    if (header->body_length > options->max_body)
        return fail(TD_TOO_LARGE,
                    "a body of %llu bytes is over the limit of %llu; see --max-body and "
                    "--memory-limit",
                    (unsigned long long)header->body_length, (unsigned long long)options->max_body);
    if (!connection->session && header->opcode != OP_hello)
        return fail(TD_UNAUTHORIZED, "the first request of a connection is hello");
    if (!connection->session && header->meta_length > META_FREE_BYTES)
        return fail(TD_TOO_LARGE, "%u bytes of meta are over the limit of hello, %d",
                    header->meta_length, META_FREE_BYTES);
    return TD_OK;
}

static void begin_header(struct connection *connection)
{
    struct wire_header header;
    struct request *request;
    enum td_status status =
        wire_header_decode(connection->input + connection->input_start, &header);
    if (status == TD_OK)
        status = check_header(connection, &header);
    connection->input_start += WIRE_HEADER_SIZE;
    if (status != TD_OK) {
        refuse_stream(connection, &header, status);
        return;
    }
    if ((status = request_create(connection, &header, &request)) != TD_OK) {
        refuse_request(connection, &header, status);
        return;
    }
    connection->incoming = request;
    connection->reading = READ_META;
    connection->target = request->meta;
    connection->wanted = header.meta_length;
}

/* The part that was being read is complete. */
static void part_complete(struct connection *connection)
{
    struct request *request = connection->incoming;
    switch (connection->reading) {
    case READ_META:
        request_begin(request);
        break;
    case READ_BODY:
        connection->incoming = NULL;
        connection->reading = READ_HEADER;
        request_body_complete(request);
        break;
    default: /* READ_SKIP */
        connection->reading = READ_HEADER;
    }
}

/* Moves read-ahead bytes to where they belong. */
static void take_input(struct connection *connection)
{
    size_t have = connection->input_end - connection->input_start;
    size_t n = connection->wanted < have ? (size_t)connection->wanted : have;
    if (connection->reading != READ_SKIP && n)
        memcpy(connection->target, connection->input + connection->input_start, n);
    connection->target += connection->reading == READ_SKIP ? 0 : n;
    connection->input_start += n;
    connection->wanted -= n;
}

/* Parses as far as there are bytes. */
static void consume(struct connection *connection)
{
    const uint64_t max_inflight = connection->loop->server->options.max_inflight;
    int begun = 0;
    if (connection->reading == READ_LINGER)
        connection->input_start = connection->input_end = 0;
    while (connection->reading < READ_HOLD) {
        size_t have = connection->input_end - connection->input_start;
        if (connection->reading == READ_HEADER) {
            if (have < WIRE_HEADER_SIZE || connection->inflight >= max_inflight ||
                begun++ == TURN_REQUESTS)
                break;
            begin_header(connection);
            continue;
        }
        take_input(connection);
        if (connection->wanted)
            break;
        part_complete(connection);
    }
    size_t left = connection->input_end - connection->input_start;
    memmove(connection->input, connection->input + connection->input_start, left);
    connection->input_start = 0;
    connection->input_end = left;
    if (left == 0 && connection->reading == READ_HEADER && connection->unclaimed_count) {
        struct wire_header nobody = {.version = WIRE_VERSION};
        refuse_stream(connection, &nobody,
                      fail(TD_PROTOCOL, "%d descriptors came that no frame's header announced",
                           connection->unclaimed_count));
    }
}

/* Keeps the descriptors of a message; false if there were more than the protocol, or the client's
 * quota, allows. */
static bool keep_descriptors(struct connection *connection, struct msghdr *message)
{
    bool good = !(message->msg_flags & MSG_CTRUNC);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (fcntl(fd, F_GET_SEALS) < 0)
                fd = closer_replace(fd);
            if (fd < 0)
                good = false;
            else if (connection->unclaimed_count < UNCLAIMED_MAX &&
                     reserve_descriptor(connection)) {
                connection->unclaimed[connection->unclaimed_count++] = fd;
            } else {
                close(fd);
                good = false;
            }
        }
    }
    return good;
}

/* One read: into the body's memory if one is being read, and ahead. The bytes that came, 0 if none
 * are there now, -1 if the connection is over. *drained: the socket is probably empty. */
static ssize_t receive(struct connection *connection, bool *drained)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(UNCLAIMED_MAX * sizeof(int))];
    } control;
    struct iovec parts[2];
    int count = 0;
    size_t direct = 0;
    if (connection->reading == READ_BODY) {
        direct = connection->wanted;
        parts[count++] = (struct iovec){connection->target, direct};
    }
    size_t room = INPUT_BYTES - connection->input_end;
    parts[count++] = (struct iovec){connection->input + connection->input_end, room};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    if (connection->local) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
    }
    ssize_t got = recvmsg(connection->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (connection->local && !keep_descriptors(connection, &message))
        return -1;
    if (got == 0)
        return -1;
    *drained = (size_t)got < direct + room;
    size_t placed = (size_t)got < direct ? (size_t)got : direct;
    if (direct) {
        connection->target += placed;
        connection->wanted -= placed;
    }
    connection->input_end += (size_t)got - placed;
    connection->received_ms = uv_now(&connection->loop->uv);
    atomic_fetch_add_explicit(&connection->loop->server->options.engine->bytes_received,
                              (unsigned long long)got, memory_order_relaxed);
    return got;
}

/* Whether requests that were read already had to wait for others to be answered. */
static bool can_consume(const struct connection *connection)
{
    return connection->reading == READ_HEADER &&
           connection->input_end - connection->input_start >= WIRE_HEADER_SIZE &&
           connection->inflight < connection->loop->server->options.max_inflight;
}

/* Closing a TCP socket whose input is unread resets it, and the peer may lose the last reply: that
 * it is refused, and why. So the sending side closes first, and the peer gets a moment to notice.
 */
static void linger(struct connection *connection)
{
    shutdown(connection->fd, SHUT_WR);
    connection->reading = READ_LINGER;
    connection->linger_ms = uv_now(&connection->loop->uv) + LINGER_MS;
    update_poll(connection);
}

/* After anything happened: sends, closes what is over, waits for what comes next. */
void connection_settle(struct connection *connection)
{
    if (connection->closed || !replies_flush(connection))
        return;
    connection->more = can_consume(connection);
    if (connection->more)
        uv_async_send(&connection->loop->wake);
    bool idle = connection_is_idle(connection);
    if (idle && connection->reading == READ_END && !connection->local)
        linger(connection);
    else if (idle && (connection->reading == READ_END || connection->loop->draining))
        connection_close(connection);
    else
        update_poll(connection);
}

/* Before the loop waits again, but after the other sockets that are readable were read from: who
 * has requests on several connections then is woken once for all of them. */
void connection_settle_soon(struct connection *connection)
{
    struct loop *loop = connection->loop;
    if (connection->unsettled)
        return;
    connection->unsettled = true;
    loop->unsettled[loop->unsettled_count++] = connection;
    if (loop->unsettled_count == UNSETTLED_MAX)
        connections_settle(loop);
}

void connections_settle(struct loop *loop)
{
    for (int i = 0; i < loop->unsettled_count; i++) {
        loop->unsettled[i]->unsettled = false;
        connection_settle(loop->unsettled[i]);
    }
    loop->unsettled_count = 0;
}

void connection_resume(struct connection *connection)
{
    if (connection->closed)
        return;
    consume(connection);
    connection_settle(connection);
}

void connection_settle_abroad(struct connection *connection)
{
    bool sent = replies_flush(connection);
    if (sent && wanted_events(connection) == connection->events)
        return;
    connection->more = true; /* what is libuv's is its thread's */
    uv_async_send(&connection->loop->wake);
}

static void on_event(uv_poll_t *poll, int status, int events)
{
    struct connection *connection = poll->data;
    loop_enter(connection->loop);
    const uint64_t max_inflight = connection->loop->server->options.max_inflight;
    if (status < 0 || ((events & UV_DISCONNECT) && !(events & UV_READABLE))) {
        connection_close(connection);
        return;
    }
    bool drained = false;
    for (int i = 0; i < ROUNDS && (events & UV_READABLE) && !drained; i++) {
        if (connection->reading == READ_HOLD || connection->reading == READ_END ||
            can_consume(connection) ||
            (connection->inflight >= max_inflight && !connection->incoming))
            break;
        ssize_t got = receive(connection, &drained);
        if (got < 0) {
            connection_close(connection);
            return;
        }
        if (got == 0)
            break;
        consume(connection);
    }
    connection_settle_soon(connection);
}
