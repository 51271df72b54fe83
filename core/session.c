#include "core/session.h"

#include "core/hash.h"
#include "core/random_id.h"

#include <inttypes.h>
#include <string.h>

/* Charged to the ledger with each entry: the entry and its share of the hash table. */
#define ENTRY_BYTES 128

struct held_object {
    uint64_t id;
    struct tensor *tensor;
    uint64_t times;
    UT_hash_handle hh;
};

struct lease {
    uint64_t id;
    struct storage *storage;
    UT_hash_handle hh;
};

struct session {
    atomic_uint refs;
    struct session_table *table;
    uint64_t id;
    char key[SESSION_KEY_LENGTH + 1];
    unsigned connections; /* under the table's lock */
    pthread_mutex_t lock; /* of all that follows */
    bool ended;
    struct held_object *objects;
    struct lease *leases;
    UT_hash_handle hh; /* in the table, by key */
};

struct session_table {
    struct ledger *ledger;
    struct session_limits limits;
    pthread_mutex_t lock;
    struct session *sessions;
    uint64_t last_id;
    atomic_ullong last_lease, objects, leases;
};

enum td_status session_table_create(struct ledger *ledger, const struct session_limits *limits,
                                    struct session_table **out)
{
    struct session_table *table = calloc(1, sizeof *table);
    if (!table)
        return fail(TD_OUT_OF_MEMORY, "no memory for the sessions");
    table->ledger = ledger;
    table->limits = *limits;
    pthread_mutex_init(&table->lock, NULL);
    *out = table;
    return TD_OK;
}

void session_table_destroy(struct session_table *table)
{
    if (!table)
        return;
    pthread_mutex_destroy(&table->lock);
    free(table);
}

void session_table_count(struct session_table *table, struct session_counts *out)
{
    pthread_mutex_lock(&table->lock);
    out->sessions = HASH_COUNT(table->sessions);
    pthread_mutex_unlock(&table->lock);
    out->objects = atomic_load(&table->objects);
    out->leases = atomic_load(&table->leases);
}

static enum td_status session_new(struct session_table *table, struct session **out)
{
    struct session *session = calloc(1, sizeof *session);
    if (!session)
        return fail(TD_OUT_OF_MEMORY, "no memory for a session");
    enum td_status status = random_id(SESSION_KEY_LENGTH, session->key);
    if (status != TD_OK) {
        free(session);
        return status;
    }
    atomic_init(&session->refs, 1);
    session->table = table;
    session->connections = 1;
    pthread_mutex_init(&session->lock, NULL);
    *out = session;
    return TD_OK;
}

static enum td_status table_add_locked(struct session_table *table, struct session *session)
{
    if (HASH_COUNT(table->sessions) >= table->limits.sessions)
        return fail(TD_UNAVAILABLE,
                    "%" PRIu64 " sessions are open; close some, or raise "
                    "--max-connections",
                    table->limits.sessions);
    session->id = ++table->last_id;
    HASH_ADD_STR(table->sessions, key, session);
    if (!session->hh.tbl)
        return fail(TD_OUT_OF_MEMORY, "no memory for a session");
    return TD_OK;
}

enum td_status session_open(struct session_table *table, struct session **out)
{
    _cleanup_(session_unrefp) struct session *session = NULL;
    TRY(session_new(table, &session));
    pthread_mutex_lock(&table->lock);
    enum td_status status = table_add_locked(table, session);
    pthread_mutex_unlock(&table->lock);
    TRY(status);
    *out = take(&session);
    return TD_OK;
}

enum td_status session_join(struct session_table *table, struct text key, struct session **out)
{
    struct session *session = NULL;
    pthread_mutex_lock(&table->lock);
    HASH_FIND(hh, table->sessions, key.data, key.length, session);
    if (session) {
        session->connections++;
        *out = session_ref(session);
    }
    pthread_mutex_unlock(&table->lock);
    return session ? TD_OK
                   : fail(TD_NOT_FOUND, "the session has ended; say hello without a session_key");
}

/* Lets everything go. Nothing can be added any more. */
static void session_end(struct session *session)
{
    struct held_object *object, *next_object;
    struct lease *lease, *next_lease;
    pthread_mutex_lock(&session->lock);
    session->ended = true;
    struct held_object *objects = take(&session->objects);
    struct lease *leases = take(&session->leases);
    pthread_mutex_unlock(&session->lock);
    uint64_t entries = HASH_COUNT(objects) + HASH_COUNT(leases);
    atomic_fetch_sub(&session->table->objects, HASH_COUNT(objects));
    atomic_fetch_sub(&session->table->leases, HASH_COUNT(leases));
    ledger_release(session->table->ledger, entries * ENTRY_BYTES, 0, 0);
    HASH_ITER(hh, objects, object, next_object)
    {
        HASH_DEL(objects, object);
        tensor_unref(object->tensor);
        free(object);
    }
    HASH_ITER(hh, leases, lease, next_lease)
    {
        HASH_DEL(leases, lease);
        storage_unref(lease->storage);
        free(lease);
    }
}

void session_leave(struct session *session)
{
    struct session_table *table = session->table;
    pthread_mutex_lock(&table->lock);
    bool last = --session->connections == 0;
    if (last)
        HASH_DEL(table->sessions, session);
    pthread_mutex_unlock(&table->lock);
    if (last)
        session_end(session);
    session_unref(session);
}

uint64_t session_entries(struct session *session)
{
    pthread_mutex_lock(&session->lock);
    uint64_t entries = HASH_COUNT(session->objects) + HASH_COUNT(session->leases);
    pthread_mutex_unlock(&session->lock);
    return entries;
}

struct session *session_ref(struct session *session)
{
    atomic_fetch_add_explicit(&session->refs, 1, memory_order_relaxed);
    return session;
}

void session_unref(struct session *session)
{
    if (!session || atomic_fetch_sub_explicit(&session->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&session->lock);
    free(session);
}

uint64_t session_id(const struct session *session)
{
    return session->id;
}

const char *session_key(const struct session *session)
{
    return session->key;
}

/* Memory for one more entry, which the caller has charged, if the session lives and `count` is
 * below the limit. */
static enum td_status entry_create(struct session *session, size_t size, uint64_t count,
                                   uint64_t limit, const char *what, void *out)
{
    if (session->ended)
        return fail(TD_CANCELLED, "the session has ended");
    if (count >= limit)
        return fail(TD_OUT_OF_MEMORY, "the session holds %" PRIu64 " %s, which is the limit (%s)",
                    count, what, "see --help for limits; release what is not used any more");
    void *entry = calloc(1, size);
    if (!entry)
        return fail(TD_OUT_OF_MEMORY, "no memory for one more of the session's %s", what);
    *(void **)out = entry;
    return TD_OK;
}

static enum td_status entry_refuse(void *entry)
{
    free(entry);
    return fail(TD_OUT_OF_MEMORY, "no memory for a session's table");
}

/* *charged: the entry is new. */
static enum td_status hold_locked(struct session *session, struct tensor *tensor, bool *charged)
{
    struct held_object *object = NULL;
    HASH_FIND(hh, session->objects, &tensor->id, sizeof tensor->id, object);
    if (!object) {
        TRY(entry_create(session, sizeof *object, HASH_COUNT(session->objects),
                         session->table->limits.objects, "anonymous objects", &object));
        object->id = tensor->id;
        HASH_ADD(hh, session->objects, id, sizeof object->id, object);
        if (!object->hh.tbl)
            return entry_refuse(object);
        object->tensor = tensor_ref(tensor);
        atomic_fetch_add(&session->table->objects, 1);
        *charged = true;
    }
    object->times++;
    return TD_OK;
}

enum td_status session_hold(struct session *session, struct tensor *tensor)
{
    bool charged = false;
    /* Before the lock: reserving may give pooled memory back to the kernel. */
    TRY(ledger_reserve(session->table->ledger, ENTRY_BYTES, 0, 0));
    pthread_mutex_lock(&session->lock);
    enum td_status status = hold_locked(session, tensor, &charged);
    pthread_mutex_unlock(&session->lock);
    if (!charged)
        ledger_release(session->table->ledger, ENTRY_BYTES, 0, 0);
    return status;
}

static enum td_status object_missing(uint64_t id)
{
    return fail(TD_NOT_FOUND,
                "the session holds no object @%" PRIu64
                "; it was released, or belongs to another session",
                id);
}

enum td_status session_find(struct session *session, uint64_t id, struct tensor **out)
{
    struct held_object *object = NULL;
    pthread_mutex_lock(&session->lock);
    HASH_FIND(hh, session->objects, &id, sizeof id, object);
    if (object)
        *out = tensor_ref(object->tensor);
    pthread_mutex_unlock(&session->lock);
    return object ? TD_OK : object_missing(id);
}

enum td_status session_drop(struct session *session, uint64_t id)
{
    struct held_object *object = NULL;
    struct tensor *gone = NULL;
    pthread_mutex_lock(&session->lock);
    HASH_FIND(hh, session->objects, &id, sizeof id, object);
    if (object && --object->times == 0) {
        HASH_DEL(session->objects, object);
        gone = object->tensor;
    }
    pthread_mutex_unlock(&session->lock);
    if (!object)
        return object_missing(id);
    if (gone) {
        atomic_fetch_sub(&session->table->objects, 1);
        ledger_release(session->table->ledger, ENTRY_BYTES, 0, 0);
        tensor_unref(gone);
        free(object);
    }
    return TD_OK;
}

static enum td_status lease_locked(struct session *session, struct storage *storage, uint64_t *out)
{
    struct lease *lease;
    TRY(entry_create(session, sizeof *lease, HASH_COUNT(session->leases),
                     session->table->limits.leases, "leases", &lease));
    lease->id = atomic_fetch_add(&session->table->last_lease, 1) + 1;
    HASH_ADD(hh, session->leases, id, sizeof lease->id, lease);
    if (!lease->hh.tbl)
        return entry_refuse(lease);
    lease->storage = storage_ref(storage);
    atomic_fetch_add(&session->table->leases, 1);
    *out = lease->id;
    return TD_OK;
}

enum td_status session_lease(struct session *session, struct storage *storage, uint64_t *out)
{
    TRY(ledger_reserve(session->table->ledger, ENTRY_BYTES, 0, 0));
    pthread_mutex_lock(&session->lock);
    enum td_status status = lease_locked(session, storage, out);
    pthread_mutex_unlock(&session->lock);
    if (status != TD_OK)
        ledger_release(session->table->ledger, ENTRY_BYTES, 0, 0);
    return status;
}

enum td_status session_release(struct session *session, uint64_t id)
{
    struct lease *lease = NULL;
    pthread_mutex_lock(&session->lock);
    HASH_FIND(hh, session->leases, &id, sizeof id, lease);
    if (lease)
        HASH_DEL(session->leases, lease);
    pthread_mutex_unlock(&session->lock);
    if (!lease)
        return fail(TD_NOT_FOUND, "the session has no lease %" PRIu64, id);
    atomic_fetch_sub(&session->table->leases, 1);
    ledger_release(session->table->ledger, ENTRY_BYTES, 0, 0);
    storage_unref(lease->storage);
    free(lease);
    return TD_OK;
}
