/* pool: the connections of a client, and the session that they share.
 *
 * A session ends in the daemon with its last connection, and with it all leases and anonymous
 * objects. So a connection that must be closed while the daemon lives is replaced first.
 */
#include "client/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* A call that has failed waits at most this much longer, and at most a quarter of its timeout. */
#define REPLACEMENT_TIMEOUT_MS 1000

static void unlink_connection(struct td_client *client, struct connection *connection)
{
    struct connection **at = &client->connections;
    while (*at != connection)
        at = &(*at)->next;
    *at = connection->next;
}

static void link_connection(struct td_client *client, struct connection *connection)
{
    connection->next = client->connections;
    client->connections = connection;
}

struct connection *pool_find_idle(struct td_client *client)
{
    for (struct connection *c = client->connections; c; c = c->next)
        if (!c->busy && c->session == client->session) {
            c->busy = true;
            return c;
        }
    return NULL;
}

void pool_queue_pending(struct td_client *client, struct connection *connection)
{
    size_t kept = 0;
    for (size_t i = 0; i < client->pending_count; i++) {
        struct pending_release item = client->pending[i];
        if (item.session != client->session)
            continue; /* ended with its session */
        if (connection->session != client->session || !connection_queue_release(connection, &item))
            client->pending[kept++] = item;
    }
    client->pending_count = kept;
}

void pool_send_pending(struct td_client *client)
{
    struct connection *c = client->connections;
    while (c && !(c->listens && c->session == client->session))
        c = c->next;
    if (!c || client->pending_count == 0)
        return;
    pool_queue_pending(client, c);
    (void)connection_flush_now(c); /* whoever waits for the reply finds out if it is broken */
}

void pool_listens(struct connection *connection, void *argument, bool listens)
{
    struct td_client *client = argument;
    pthread_mutex_lock(&client->lock);
    connection->listens = listens;
    if (listens)
        pool_send_pending(client); /* what came while the request was sent */
    pthread_mutex_unlock(&client->lock);
}

/* ---- sessions ------------------------------------------------------------------------------ */

static enum td_status closed_error(const struct td_client *client)
{
    return fail(TD_CONNECTION, "the client of %s was closed; connect anew", client->address.url);
}

/* The first request of a connection: joins the session of `key`, or opens one if that is "". */
static enum td_status say_hello(const struct td_client *client, struct connection *connection,
                                const char *key, int64_t deadline, struct td_reply *reply)
{
    struct fields fields;
    fields.present = 0;
    FIELDS_SET(&fields, protocol, WIRE_VERSION);
    FIELDS_SET(&fields, client, text_of(client->name));
    if (client->token)
        FIELDS_SET(&fields, token, text_of(client->token));
    if (*key)
        FIELDS_SET(&fields, session_key, text_of(key));
    struct call call = {.op = OP_hello, .fields = &fields, .descriptor = -1};
    struct exchange exchange;
    TRY(connection_exchange(connection, &call, deadline, reply, &exchange));
    if (!FIELDS_HAS(&reply->fields, session_key) || reply->fields.session_key.length == 0 ||
        reply->fields.session_key.length >= SESSION_KEY_SIZE)
        return fail(TD_PROTOCOL, "%s opened a session without a key of 1 to %d bytes",
                    client->address.url, SESSION_KEY_SIZE - 1);
    return TD_OK;
}

/* The lock is released after this returned true, with the key to join by in `key`; "": the caller
 * opens a session and must end that with session_opened. */
static enum td_status session_wait(struct td_client *client, int64_t deadline, char *key,
                                   uint64_t *session)
{
    enum td_status status = TD_OK;
    pthread_mutex_lock(&client->lock);
    while (client->opening && !client->closed && status == TD_OK) {
        if (deadline == DEADLINE_NEVER) {
            pthread_cond_wait(&client->session_opened, &client->lock);
            continue;
        }
        struct timespec until = {.tv_sec = deadline / 1000, .tv_nsec = deadline % 1000 * 1000000};
        if (pthread_cond_timedwait(&client->session_opened, &client->lock, &until) == ETIMEDOUT)
            status = fail(TD_DEADLINE,
                          "%s did not open a session in time; raise timeout_ms, or "
                          "look at its log",
                          client->address.url);
    }
    if (status == TD_OK && client->closed)
        status = closed_error(client);
    if (status == TD_OK) {
        strcpy(key, client->session_key);
        *session = client->session;
        client->opening = !*key;
    }
    pthread_mutex_unlock(&client->lock);
    return status;
}

/* Ends what session_wait began for an empty key. reply NULL: it failed. */
static void session_opened(struct td_client *client, const struct td_reply *reply,
                           uint64_t *session)
{
    pthread_mutex_lock(&client->lock);
    client->opening = false;
    if (reply) {
        struct text key = reply->fields.session_key;
        memcpy(client->session_key, key.data, key.length);
        client->session_key[key.length] = '\0';
        *session = ++client->session;
        client->leased = 0; /* those of the session before ended with it */
    }
    pthread_cond_broadcast(&client->session_opened);
    pthread_mutex_unlock(&client->lock);
}

/* The session turned out to be gone: the next connection opens another. */
static enum td_status session_forget(struct td_client *client, uint64_t session)
{
    if (!client->reconnect)
        return fail(TD_CONNECTION,
                    "the session at %s is gone, and the client was told not to "
                    "reconnect; call td_connect again",
                    client->address.url);
    pthread_mutex_lock(&client->lock);
    if (client->session == session)
        client->session_key[0] = '\0';
    pthread_mutex_unlock(&client->lock);
    return TD_OK;
}

/* One attempt to open a connection into the session. *again: the session was gone. */
static enum td_status session_connect_once(struct td_client *client, int64_t deadline, bool *again,
                                           struct connection **out)
{
    char key[SESSION_KEY_SIZE];
    uint64_t session;
    struct connection *connection = NULL;
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;

    *again = false;
    TRY(reply_new(&reply));
    TRY(session_wait(client, deadline, key, &session));
    enum td_status status = connection_open(&client->address, &client->interrupt, &client->progress,
                                            deadline, &connection);
    if (status == TD_OK)
        status = say_hello(client, connection, key, deadline, reply);
    if (!*key)
        session_opened(client, status == TD_OK ? reply : NULL, &session);
    if (status == TD_OK) {
        connection->session = session;
        *out = connection;
        return TD_OK;
    }
    connection_close(connection);
    if (status == TD_NOT_FOUND && *key) {
        *again = true;
        return session_forget(client, session);
    }
    return status;
}

static enum td_status session_connect(struct td_client *client, int64_t deadline,
                                      struct connection **out)
{
    bool again;
    enum td_status status;
    do
        status = session_connect_once(client, deadline, &again, out);
    while (status == TD_OK && again);
    return status;
}

/* ---- taking and giving --------------------------------------------------------------------- */

static enum td_status pool_add(struct td_client *client, struct connection *connection, bool busy)
{
    pthread_mutex_lock(&client->lock);
    bool closed = client->closed;
    if (!closed) {
        connection->busy = busy;
        link_connection(client, connection);
        pool_queue_pending(client, connection);
    }
    pthread_mutex_unlock(&client->lock);
    if (!closed)
        return TD_OK;
    connection_close(connection);
    return closed_error(client);
}

enum td_status pool_take(struct td_client *client, int64_t deadline, struct connection **out)
{
    for (;;) {
        pthread_mutex_lock(&client->lock);
        bool closed = client->closed;
        struct connection *connection = closed ? NULL : pool_find_idle(client);
        if (connection)
            pool_queue_pending(client, connection);
        pthread_mutex_unlock(&client->lock);
        if (closed)
            return closed_error(client);
        if (!connection)
            break;
        /* A Unix socket tells when sending; TCP would take a request that can no longer arrive. */
        if (connection->local || !connection_is_dead(connection)) {
            *out = connection;
            return TD_OK;
        }
        pool_give(client, connection, CONNECTION_LOST);
    }
    TRY(session_connect(client, deadline, out));
    return pool_add(client, *out, true);
}

static int64_t replacement_deadline(const struct td_client *client)
{
    int64_t quarter = client->timeout_ms < 0 ? REPLACEMENT_TIMEOUT_MS : client->timeout_ms / 4;
    return deadline_after(quarter < REPLACEMENT_TIMEOUT_MS ? quarter : REPLACEMENT_TIMEOUT_MS);
}

/* Before a connection is closed that may be the session's last: opens another. Of several that go
 * at once the last to come here finds nobody else. The thread's error text stays what it was. */
static void session_keep(struct td_client *client, struct connection *going)
{
    bool needed;
    pthread_mutex_lock(&client->lock);
    going->going = true;
    needed = !client->closed && going->session == client->session;
    for (const struct connection *c = client->connections; c && needed; c = c->next)
        needed = c->going || c->session != client->session;
    pthread_mutex_unlock(&client->lock);
    if (!needed)
        return;
    char detail[FAIL_DETAIL_SIZE];
    strcpy(detail, fail_detail());
    struct connection *replacement;
    if (session_connect(client, replacement_deadline(client), &replacement) == TD_OK &&
        pool_add(client, replacement, false) != TD_OK)
        replacement = NULL;
    (void)fail(TD_CONNECTION, "%s", detail);
}

/* The least recently used idle connection that is too many, or of an earlier session; unlinked. The
 * caller holds the lock. */
static struct connection *find_surplus(struct td_client *client)
{
    int idle = 0;
    for (struct connection *c = client->connections; c; c = c->next) {
        if (c->busy || (c->session == client->session && ++idle <= IDLE_CONNECTIONS_MAX))
            continue;
        unlink_connection(client, c);
        return c;
    }
    return NULL;
}

static void give_good(struct td_client *client, struct connection *connection)
{
    bool good = true;
    pthread_mutex_lock(&client->lock);
    /* Releases that came while all connections were busy go now, not with some later call. */
    while (client->pending_count > 0 && connection->session == client->session && good &&
           (!client->closed || connection == client->keeper)) {
        size_t before = client->pending_count;
        pool_queue_pending(client, connection);
        if (client->pending_count == before)
            break; /* no memory */
        pthread_mutex_unlock(&client->lock);
        good = connection_flush_now(connection);
        pthread_mutex_lock(&client->lock);
    }
    connection->fresh = false;
    connection->busy = false;
    unlink_connection(client, connection);
    link_connection(client, connection);
    struct connection *surplus = find_surplus(client);
    if (client->closed && !surplus && connection != client->keeper) {
        unlink_connection(client, connection);
        surplus = connection;
    }
    pthread_mutex_unlock(&client->lock);
    connection_close(surplus);
}

/* What the daemon has handed out in the moment in which the call gave up, nobody would give back
 * before the session ends. */
static void give_back_answer(struct td_client *client, struct connection *connection)
{
    enum op op;
    struct td_reply *reply;
    char detail[FAIL_DETAIL_SIZE];
    strcpy(detail, fail_detail());
    if (reply_new(&reply) == TD_OK) {
        reply->session = connection->session;
        if (connection_take_answer(connection, reply, &op))
            client_give_back(client, op, reply);
        td_reply_free(reply);
    }
    (void)fail(TD_CONNECTION, "%s", detail);
}

void pool_give(struct td_client *client, struct connection *connection, enum connection_state state)
{
    if (state == CONNECTION_GOOD) {
        give_good(client, connection);
        return;
    }
    if (state == CONNECTION_DESYNC)
        session_keep(client, connection);
    if (state == CONNECTION_DESYNC && connection->unanswered)
        give_back_answer(client, connection);
    pthread_mutex_lock(&client->lock);
    unlink_connection(client, connection);
    if (connection == client->keeper)
        client->keeper = NULL;
    for (size_t i = 0; i < connection->queued_count; i++) /* never left: another takes them */
        pending_push(&client->pending, &client->pending_count, &client->pending_capacity,
                     &connection->queued[i]);
    pthread_mutex_unlock(&client->lock);
    connection_close(connection);
}

/* ---- after td_close ------------------------------------------------------------------------ */

struct connection *pool_take_keeper(struct td_client *client)
{
    char detail[FAIL_DETAIL_SIZE];
    strcpy(detail, fail_detail());
    struct connection *keeper = NULL;
    enum td_status status = pool_take(client, replacement_deadline(client), &keeper);
    (void)fail(TD_CONNECTION, "%s", detail);
    return status == TD_OK ? keeper : NULL;
}

struct connection *pool_drop_keeper(struct td_client *client)
{
    struct connection *keeper = take(&client->keeper);
    if (!keeper || keeper->busy)
        return NULL;
    unlink_connection(client, keeper);
    return keeper;
}
