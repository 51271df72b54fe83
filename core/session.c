#include "core/session.h"

#include "core/account.h"
#include "core/hash.h"
#include "core/random_id.h"
#include "core/ring.h"

#include <inttypes.h>
#include <string.h>

/* Charged to the ledger with each entry: the entry and its share of the hash table. */
#define ENTRY_BYTES 128

struct held_object {
    uint64_t id;
    struct tensor *tensor;
    uint64_t times; /* handed out to the client */
    uint64_t pins;  /* by items that the session has in hand */
    struct held_object *next_gone;
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
    struct lease_owner leases; /* under the lease table's lock */
    UT_hash_handle hh;         /* in the table, by key */
};

struct session_table {
    struct ledger *ledger;
    struct session_limits limits;
    pthread_mutex_t lock;
    struct session *sessions;
    uint64_t last_id;
    struct lease_table *leases;
    atomic_ullong objects;
};

enum td_status session_table_create(struct ledger *ledger, const struct session_limits *limits,
                                    struct session_table **out)
{
    struct session_table *table = calloc(1, sizeof *table);
    if (!table)
        return fail(TD_OUT_OF_MEMORY, "no memory for the sessions");
    table->ledger = ledger;
    table->limits = *limits;
    enum td_status status = lease_table_create(ledger, &table->leases);
    if (status != TD_OK) {
        free(table);
        return status;
    }
    pthread_mutex_init(&table->lock, NULL);
    *out = table;
    return TD_OK;
}

void session_table_destroy(struct session_table *table)
{
    if (!table)
        return;
    lease_table_destroy(table->leases);
    pthread_mutex_destroy(&table->lock);
    free(table);
}

struct lease_table *session_leases(struct session_table *table)
{
    return table->leases;
}

void session_table_count(struct session_table *table, struct session_counts *out)
{
    pthread_mutex_lock(&table->lock);
    out->sessions = HASH_COUNT(table->sessions);
    pthread_mutex_unlock(&table->lock);
    out->objects = atomic_load(&table->objects);
    out->leases = lease_count(table->leases);
}

static enum td_status session_new(struct session_table *table, struct account *account, int32_t pid,
                                  struct session **out)
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
    session->leases = (struct lease_owner){
        .account = account_ref(account), .pid = pid, .limit = table->limits.leases};
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
    session->id = session->leases.session = ++table->last_id;
    HASH_ADD_STR(table->sessions, key, session);
    if (!session->hh.tbl)
        return fail(TD_OUT_OF_MEMORY, "no memory for a session");
    return TD_OK;
}

enum td_status session_open(struct session_table *table, struct account *account, int32_t pid,
                            struct session **out)
{
    _cleanup_(session_unrefp) struct session *session = NULL;
    TRY(session_new(table, account, pid, &session));
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

/* Lets go of one that has left the session's table. */
static void object_end(struct session *session, struct held_object *object)
{
    atomic_fetch_sub(&session->table->objects, 1);
    ledger_release(session->table->ledger, ENTRY_BYTES, 0, 0);
    storage_hold_end(object->tensor->storage, session->leases.account);
    tensor_unref(object->tensor);
    free(object);
}

/* Lets everything go. Nothing can be added any more. Leases first: an item that goes back to its
 * queue still has its objects. */
static void session_end(struct session *session)
{
    pthread_mutex_lock(&session->lock);
    session->ended = true;
    pthread_mutex_unlock(&session->lock);
    (void)lease_end_all(session->table->leases, &session->leases);
    pthread_mutex_lock(&session->lock);
    struct held_object *objects = take(&session->objects);
    pthread_mutex_unlock(&session->lock);
    struct held_object *object, *next;
    HASH_ITER(hh, objects, object, next)
    {
        HASH_DEL(objects, object);
        ring_retire(object->tensor->storage); /* the client may be there still, and read */
        object_end(session, object);
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
    uint64_t objects = HASH_COUNT(session->objects);
    pthread_mutex_unlock(&session->lock);
    return objects + lease_owner_count(session->table->leases, &session->leases);
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
    account_unref(session->leases.account);
    free(session);
}

struct account *session_account(const struct session *session)
{
    return session->leases.account;
}

int32_t session_pid(const struct session *session)
{
    return session->leases.pid;
}

uint64_t session_id(const struct session *session)
{
    return session->id;
}

const char *session_key(const struct session *session)
{
    return session->key;
}

static enum td_status object_create(struct session *session, struct tensor *tensor,
                                    struct held_object **out)
{
    uint64_t count = HASH_COUNT(session->objects), limit = session->table->limits.objects;
    if (count >= limit)
        return fail(TD_OUT_OF_MEMORY,
                    "the session holds %" PRIu64
                    " anonymous objects, which is the limit (--max-objects); release what is not "
                    "used any more",
                    count);
    struct held_object *object = calloc(1, sizeof *object);
    if (!object)
        return fail(TD_OUT_OF_MEMORY, "no memory for one more of the session's objects");
    object->id = tensor->id;
    HASH_ADD(hh, session->objects, id, sizeof object->id, object);
    if (!object->hh.tbl) {
        free(object);
        return fail(TD_OUT_OF_MEMORY, "no memory for a session's table");
    }
    object->tensor = tensor_ref(tensor);
    storage_hold_begin(tensor->storage, session->leases.account);
    atomic_fetch_add(&session->table->objects, 1);
    *out = object;
    return TD_OK;
}

/* One more time, or one more pin. *charged: the entry is new. */
static enum td_status hold_locked(struct session *session, struct tensor *tensor, bool pin,
                                  bool *charged)
{
    struct held_object *object = NULL;
    if (session->ended)
        return fail(TD_CANCELLED, "the session has ended");
    HASH_FIND(hh, session->objects, &tensor->id, sizeof tensor->id, object);
    if (!object) {
        TRY(object_create(session, tensor, &object));
        *charged = true;
    }
    object->times += !pin;
    object->pins += pin;
    return TD_OK;
}

static enum td_status hold(struct session *session, struct tensor *tensor, bool pin)
{
    bool charged = false;
    /* Before the lock: reserving may give pooled memory back to the kernel. */
    TRY(ledger_reserve_over(session->table->ledger, ENTRY_BYTES,
                            pin ? LEDGER_LEASES_BYTES : LEDGER_VIEWS_BYTES));
    pthread_mutex_lock(&session->lock);
    enum td_status status = hold_locked(session, tensor, pin, &charged);
    pthread_mutex_unlock(&session->lock);
    if (!charged)
        ledger_release(session->table->ledger, ENTRY_BYTES, 0, 0);
    return status;
}

enum td_status session_hold(struct session *session, struct tensor *tensor)
{
    return hold(session, tensor, false);
}

enum td_status session_pin(struct session *session, struct tensor *tensor)
{
    return hold(session, tensor, true);
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

/* Takes a time or a pin back. False if there was none of them; *gone: that was the last of both. */
static bool drop_locked(struct session *session, uint64_t id, bool pin, struct held_object **gone)
{
    struct held_object *object = NULL;
    HASH_FIND(hh, session->objects, &id, sizeof id, object);
    if (!object || (pin ? object->pins : object->times) == 0)
        return false;
    object->times -= !pin;
    object->pins -= pin;
    if (!object->times && !object->pins) {
        HASH_DEL(session->objects, object);
        *gone = object;
    }
    return true;
}

static bool drop(struct session *session, uint64_t id, bool pin)
{
    struct held_object *gone = NULL;
    pthread_mutex_lock(&session->lock);
    bool found = drop_locked(session, id, pin, &gone);
    pthread_mutex_unlock(&session->lock);
    if (gone)
        object_end(session, gone);
    return found;
}

enum td_status session_drop(struct session *session, uint64_t id)
{
    return drop(session, id, false) ? TD_OK : object_missing(id);
}

void session_unpin(struct session *session, uint64_t id)
{
    (void)drop(session, id, true); /* a session that has ended has let it go */
}

void session_disown(struct session *session, uint64_t id)
{
    while (drop(session, id, false))
        ;
}

void session_drop_all(struct session *session)
{
    struct held_object *object, *next, *gone = NULL;
    pthread_mutex_lock(&session->lock);
    HASH_ITER(hh, session->objects, object, next)
    {
        object->times = 0;
        if (object->pins)
            continue;
        HASH_DEL(session->objects, object);
        object->next_gone = gone;
        gone = object;
    }
    pthread_mutex_unlock(&session->lock);
    for (; gone; gone = next) {
        next = gone->next_gone;
        object_end(session, gone);
    }
}

/* ---- leases ------------------------------------------------------------------------------------
 */

enum td_status session_lease_begin(struct session *session, struct lease *lease, uint64_t *id)
{
    return lease_begin(session->table->leases, &session->leases, lease, id);
}

/* Whether the session has the object only with items that it has in hand. */
static bool has_lent(struct session *session, uint64_t id)
{
    struct held_object *object = NULL;
    pthread_mutex_lock(&session->lock);
    HASH_FIND(hh, session->objects, &id, sizeof id, object);
    bool lent = object && object->pins && !object->times;
    pthread_mutex_unlock(&session->lock);
    return lent;
}

struct map_lease {
    struct lease lease;
    struct tensor *kept; /* a reference, so that its memory is not filled again; or NULL */
};

/* What a mapping stands for: that the storage is held, and may be written to. */
static void map_let_go(struct lease *lease, struct account *account)
{
    struct tensor *kept = ((struct map_lease *)(void *)lease)->kept;
    if (kept && lease->cut) /* the client may be there still, and read */
        ring_retire(lease->storage);
    tensor_unref(kept);
    if (lease->kind != LEASE_READ)
        storage_writer_end(lease->storage);
    storage_hold_end(lease->storage, account);
    storage_unref(lease->storage);
    free(lease);
}

static void map_end(struct lease *lease)
{
    map_let_go(lease, lease->account);
}

static enum td_status lease_mapping(struct session *session, enum lease_kind kind,
                                    struct storage *storage, struct tensor *kept, uint64_t ttl_ms,
                                    uint64_t *out)
{
    struct map_lease *made = calloc(1, sizeof *made);
    if (!made)
        return fail(TD_OUT_OF_MEMORY, "no memory for a lease");
    made->kept = kept ? tensor_ref(kept) : NULL;
    struct lease *lease = &made->lease;
    lease->kind = kind;
    lease->storage = storage_ref(storage);
    lease->bytes = storage_mapped_bytes(storage);
    lease->expires_ms = ttl_ms ? clock_now_ms() + ttl_ms : 0;
    lease->end = map_end;
    storage_hold_begin(storage, session->leases.account);
    if (kind != LEASE_READ)
        storage_writer_begin(storage);
    enum td_status status = session_lease_begin(session, lease, out);
    if (status != TD_OK)
        map_let_go(lease, session->leases.account);
    return status;
}

enum td_status session_lease(struct session *session, enum lease_kind kind, struct storage *storage,
                             uint64_t ttl_ms, uint64_t *out)
{
    return lease_mapping(session, kind, storage, NULL, ttl_ms, out);
}

enum td_status session_lease_tensor(struct session *session, enum lease_kind kind,
                                    struct tensor *tensor, bool by_name, uint64_t ttl_ms,
                                    uint64_t *out)
{
    bool keeps = ring_owns(tensor->storage) && (by_name || !has_lent(session, tensor->id));
    return lease_mapping(session, kind, tensor->storage, keeps ? tensor : NULL, ttl_ms, out);
}

enum td_status session_release(struct session *session, uint64_t id)
{
    return lease_release(session->table->leases, &session->leases, id);
}

enum td_status session_lease_use(struct session *session, uint64_t id,
                                 enum td_status (*use)(struct lease *lease, void *argument),
                                 void *argument)
{
    return lease_use(session->table->leases, &session->leases, id, use, argument);
}
