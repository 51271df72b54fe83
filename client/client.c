/* client: td_connect, td_close, calls, releases, and what fork() needs. */
#include "client/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>

/* All clients of the process, for the handlers around fork(). */
static pthread_mutex_t clients_lock = PTHREAD_MUTEX_INITIALIZER;
static struct td_client *clients;

const char *td_last_error(void)
{
    return fail_detail();
}

const char *td_version(void)
{
    return "0.1.0";
}

/* ---- fork ---------------------------------------------------------------------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&clients_lock);
    for (struct td_client *c = clients; c; c = c->next)
        pthread_mutex_lock(&c->lock);
    regions_lock();
}

static void unlock_all(void)
{
    regions_unlock();
    for (struct td_client *c = clients; c; c = c->next)
        pthread_mutex_unlock(&c->lock);
    pthread_mutex_unlock(&clients_lock);
}

static void after_fork(void)
{
    for (struct td_client *c = clients; c; c = c->next)
        c->forks++;
    unlock_all();
}

/* The child's copies of the sockets would keep the parent's sessions alive after its death. */
static void after_fork_in_child(void)
{
    for (struct td_client *client = clients; client; client = client->next) {
        client->foreign = true;
        storages_after_fork(client);
        for (struct connection *c = client->connections; c; c = c->next) {
            if (c->fd >= 0)
                close(c->fd);
            c->fd = -1;
        }
    }
    unlock_all();
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

bool client_is_foreign(const struct td_client *client)
{
    return client->foreign; /* asking the kernel for the pid would cost each call a system call */
}

/* ---- lifetime ------------------------------------------------------------------------------ */

static void client_destroy(struct td_client *client)
{
    while (client->connections) {
        struct connection *connection = client->connections;
        client->connections = connection->next;
        connection_close(connection);
    }
    pthread_mutex_destroy(&client->lock);
    pthread_cond_destroy(&client->session_opened);
    free(client->pending);
    if (client->token)
        explicit_bzero(client->token, strlen(client->token));
    free(client->token);
    free(client->name);
    free(client);
}

void client_ref(struct td_client *client)
{
    atomic_fetch_add_explicit(&client->refs, 1, memory_order_relaxed);
}

void client_unref(struct td_client *client)
{
    if (!client || atomic_fetch_sub_explicit(&client->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_lock(&clients_lock);
    struct td_client **at = &clients;
    while (*at != client)
        at = &(*at)->next;
    *at = client->next;
    pthread_mutex_unlock(&clients_lock);
    client_destroy(client);
}

/* The program's name may be any bytes; texts on the wire are UTF-8. */
static char *program_name(void)
{
    char *name = strdup(program_invocation_short_name);
    for (char *c = name; c && *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    return name;
}

static enum td_status client_new(const struct td_options *options, const struct address *address,
                                 struct td_client **out)
{
    const char *token = options->token ? options->token : getenv("TENSORD_TOKEN");
    struct td_client *client = calloc(1, sizeof *client);
    if (!client)
        return fail(TD_OUT_OF_MEMORY, "no memory for a client");
    atomic_init(&client->refs, 1);
    atomic_init(&client->kept_due_ms, INT64_MAX);
    client->pid = getpid();
    client->address = *address;
    client->timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_DEFAULT_MS;
    client->reconnect = !options->no_reconnect;
    client->interrupt = (struct interrupt){options->interrupted, options->interrupted_argument};
    client->progress = (struct progress){options->progress, options->progress_argument};
    pthread_mutex_init(&client->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&client->session_opened, &monotonic);
    pthread_condattr_destroy(&monotonic);
    client->name = options->client ? strdup(options->client) : program_name();
    client->token = token && *token ? strdup(token) : NULL;
    pthread_mutex_lock(&clients_lock);
    client->next = clients;
    clients = client;
    pthread_mutex_unlock(&clients_lock);
    if (!client->name || (token && *token && !client->token)) {
        client_unref(client);
        return fail(TD_OUT_OF_MEMORY, "no memory for a client");
    }
    *out = client;
    return TD_OK;
}

enum td_status td_connect(const char *url, const struct td_options *options, struct td_client **out)
{
    static const struct td_options defaults = {0};
    struct address address;
    struct connection *connection;
    _cleanup_(client_unrefp) struct td_client *client = NULL;

    if (!options)
        options = &defaults;
    TRY(address_parse(url, &address));
    TRY(client_new(options, &address, &client));
    TRY(pool_take(client, deadline_after(client->timeout_ms), &connection));
    pool_give(client, connection, CONNECTION_GOOD);
    *out = take(&client);
    return TD_OK;
}

/* Gives back all but the leases, which belong to mappings; what waits to be released goes along. */
static bool release_objects(struct connection *keeper)
{
    struct pending_release all = {.all = true, .session = keeper->session};
    return connection_queue_release(keeper, &all) && connection_flush_now(keeper);
}

/* While mappings hold leases one connection stays, so that the session does: until client_unleased.
 * Until then it is busy. */
static struct connection *begin_close(struct td_client *client)
{
    pthread_mutex_lock(&client->lock);
    bool leased = client->leased > 0;
    pthread_mutex_unlock(&client->lock);
    if (!leased || client_is_foreign(client))
        return NULL;
    struct connection *keeper = pool_take_keeper(client);
    if (!keeper || release_objects(keeper))
        return keeper;
    pool_give(client, keeper, CONNECTION_LOST);
    return NULL;
}

void td_close(struct td_client *client)
{
    if (!client)
        return;
    struct connection *idle = NULL, *keeper = begin_close(client);
    pthread_mutex_lock(&client->lock);
    client->closed = true;
    if (keeper && client->leased > 0 && keeper->session == client->session)
        client->keeper = keeper;
    pthread_cond_broadcast(&client->session_opened);
    for (struct connection **at = &client->connections; *at;) {
        struct connection *connection = *at;
        if (connection == keeper) {
            at = &connection->next;
        } else if (connection->busy) {
            /* Its call ends at once, and closes it. In a child the socket is the parent's. */
            if (connection->fd >= 0 && !client_is_foreign(client))
                shutdown(connection->fd, SHUT_RDWR);
            at = &connection->next;
        } else {
            *at = connection->next;
            connection->next = idle;
            idle = connection;
        }
    }
    pthread_mutex_unlock(&client->lock);
    while (idle) {
        struct connection *next = idle->next;
        connection_close(idle);
        idle = next;
    }
    if (keeper)
        pool_give(client, keeper, CONNECTION_GOOD);
    client_unref(client);
}

const char *td_url(const struct td_client *client)
{
    return client->address.url;
}

bool td_is_local(const struct td_client *client)
{
    return client->address.local;
}

uint64_t td_session_count(const struct td_client *client)
{
    struct td_client *locked = (struct td_client *)(uintptr_t)client;
    pthread_mutex_lock(&locked->lock);
    uint64_t session = client->session;
    pthread_mutex_unlock(&locked->lock);
    return session;
}

/* ---- calls --------------------------------------------------------------------------------- */

/* Operations that may be sent twice: they change no tensor and no name. What a lost map or allocate
 * had made ends with the session. */
static bool is_repeatable(enum op op)
{
    switch (op) {
    case OP_ping:
    case OP_stats:
    case OP_devices:
    case OP_ops:
    case OP_get:
    case OP_map:
    case OP_numpy:
    case OP_info:
    case OP_list:
    case OP_allocate:
    case OP_leases:
    case OP_principals:
    case OP_print:
    case OP_save:
    case OP_item:
    case OP_wait:
    case OP_watch:
        return true;
    default:
        return false;
    }
}

/* What waits for others waits for ever, unless it says how long; but for operations with wait_ms,
 * which end by themselves. */
static int64_t call_deadline(const struct td_client *client, const struct call *call)
{
    const struct fields *fields = call->fields;
    const struct op_info *info = &op_infos[call->op];
    int64_t timeout_ms = client->timeout_ms;
    bool timed = FIELDS_HAS(fields, timeout_ms), ends = info->optional & FIELD_BIT(wait_ms);
    if ((info->traits & OP_WAITS) && !timed && !ends)
        return DEADLINE_NEVER;
    uint64_t asked = timed ? fields->timeout_ms : FIELDS_HAS(fields, wait_ms) ? fields->wait_ms : 0;
    if (timeout_ms >= 0 && asked) {
        if (asked > INT64_MAX - TIMEOUT_GRACE_MS)
            timeout_ms = -1;
        else if ((int64_t)asked + TIMEOUT_GRACE_MS > timeout_ms)
            timeout_ms = (int64_t)asked + TIMEOUT_GRACE_MS;
    }
    return deadline_after(timeout_ms);
}

/* One attempt. *again: the connection was found dead, and trying on another is safe. */
static enum td_status call_once(struct td_client *client, const struct call *call, int64_t deadline,
                                bool *again, struct td_reply **out)
{
    struct connection *connection;
    struct exchange exchange;
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;

    *again = false;
    TRY(reply_new(&reply));
    int64_t connect_deadline = deadline_after(client->timeout_ms);
    TRY(pool_take(client, deadline == DEADLINE_NEVER ? connect_deadline : deadline, &connection));
    if (call->session && connection->session != call->session) {
        pool_give(client, connection, CONNECTION_GOOD);
        return fail(TD_CONNECTION,
                    "the session at %s that '%s' is about is gone, and what it held with it: the "
                    "connection was lost, and made anew",
                    client->address.url, op_infos[call->op].name);
    }
    bool fresh = connection->fresh;
    reply->session = connection->session;
    connection->tell_listens = pool_listens;
    connection->listens_argument = client;
    enum td_status status = connection_exchange(connection, call, deadline, reply, &exchange);
    pool_give(client, connection, exchange.state);
    if (status != TD_OK && exchange.state == CONNECTION_GOOD && !exchange.refused)
        client_give_back(client, call->op, reply);
    if (status == TD_OK || (status == TD_TOO_LARGE && call->into_given)) {
        *out = take(&reply);
        return status;
    }
    bool unsent = !exchange.request_begun || (is_repeatable(call->op) && !exchange.reply_begun);
    *again = exchange.state == CONNECTION_LOST && !exchange.refused && !fresh &&
             client->reconnect && unsent;
    return status;
}

enum td_status client_check_process(const struct td_client *client)
{
    if (!client_is_foreign(client))
        return TD_OK;
    return fail(TD_CONNECTION,
                "this client of %s was connected by process %d, before fork(); "
                "connect anew in process %d",
                client->address.url, (int)client->pid, (int)getpid());
}

enum td_status client_call(struct td_client *client, const struct call *call, struct td_reply **out)
{
    TRY(client_check_process(client));
    size_t length = wire_fields_size(call->fields);
    if (length > WIRE_META_MAX)
        return fail(TD_INVALID,
                    "the arguments of '%s' have %zu bytes, and a request has room for %d: name "
                    "fewer tensors at a time, or give it shorter texts",
                    op_infos[call->op].name, length, WIRE_META_MAX);
    client_ref(client); /* td_close may come from another thread meanwhile */
    (void)kept_age(client);
    int64_t deadline = call_deadline(client, call);
    bool again;
    enum td_status status;
    *out = NULL;
    do
        status = call_once(client, call, deadline, &again, out);
    while (again);
    client_unref(client);
    return status;
}

bool call_was_refused(enum td_status status)
{
    return status != TD_OK && status != TD_CONNECTION && status != TD_DEADLINE &&
           status != TD_CANCELLED && status != TD_PROTOCOL;
}

/* ---- releases ------------------------------------------------------------------------------ */

static void release(struct td_client *client, const struct pending_release *given)
{
    if (client_is_foreign(client))
        return;
    struct pending_release item = *given;
    uint64_t session = item.session;
    struct connection *connection = NULL;
    pthread_mutex_lock(&client->lock);
    if ((!client->closed || client->keeper) && session == client->session &&
        pending_push(&client->pending, &client->pending_count, &client->pending_capacity, &item))
        connection = pool_find_idle(client);
    if (connection)
        pool_queue_pending(client, connection);
    else
        pool_send_pending(client);
    pthread_mutex_unlock(&client->lock);
    if (!connection)
        return; /* else whoever gives a connection back sends it */
    bool good = connection_flush_now(connection);
    pool_give(client, connection, good ? CONNECTION_GOOD : CONNECTION_LOST);
}

void client_release(struct td_client *client, bool lease, uint64_t id, uint64_t session)
{
    release(client, &(struct pending_release){.lease = lease, .id = id, .session = session});
}

void client_give_back(struct td_client *client, enum op op, const struct td_reply *reply)
{
    const struct fields *fields = &reply->fields;
    bool memory = op == OP_allocate || op == OP_queue_put; /* an object that is to be filled */
    if (memory && FIELDS_HAS(fields, storage) && FIELDS_HAS(fields, id))
        client_release(client, false, fields->id, reply->session);
    if (FIELDS_HAS(fields, lease))
        client_release(client, true, fields->lease, reply->session);
}

void client_acknowledge(struct td_client *client, uint64_t lease, uint64_t session)
{
    release(client,
            &(struct pending_release){
                .lease = true, .done = true, .keep = true, .id = lease, .session = session});
}

bool client_holds(struct td_client *client, uint64_t session)
{
    pthread_mutex_lock(&client->lock);
    bool holds = session == client->session && !client->closed;
    pthread_mutex_unlock(&client->lock);
    return holds;
}

bool client_leased(struct td_client *client, uint64_t session, uint64_t *forks)
{
    pthread_mutex_lock(&client->lock);
    *forks = client->forks;
    bool counts = session == client->session && (!client->closed || client->keeper);
    client->leased += counts;
    pthread_mutex_unlock(&client->lock);
    return counts;
}

void client_unleased(struct td_client *client, uint64_t lease, bool done, uint64_t session,
                     uint64_t forks)
{
    struct pending_release item = {.lease = true, .done = done, .id = lease, .session = session};
    struct connection *keeper = NULL;
    if (client_is_foreign(client))
        return;
    pthread_mutex_lock(&client->lock);
    item.inherited = forks != client->forks;
    bool last = session == client->session && --client->leased == 0 && client->closed;
    if (last)
        keeper = pool_drop_keeper(client);
    pthread_mutex_unlock(&client->lock);
    if (last && keeper && done && connection_queue_release(keeper, &item))
        (void)connection_flush_now(keeper);
    if (last)
        connection_close(keeper); /* and with it the session */
    else
        release(client, &item);
}

void td_release(struct td_client *client, uint64_t object_id, uint64_t session)
{
    if (client)
        client_release(client, false, object_id, session);
}
