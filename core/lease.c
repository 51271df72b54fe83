#include "core/lease.h"

#include "core/account.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* Charged to the ledger with each lease, whatever it is embedded in. */
#define LEASE_BYTES 256

static int id_compare(const struct lease *a, const struct lease *b)
{
    return (a->id > b->id) - (a->id < b->id);
}

RB_HEAD(lease_tree, lease);
RB_GENERATE_INTERNAL(lease_tree, lease, by_id, id_compare, __attribute__((unused)) static)

static int due_compare(const struct lease *a, const struct lease *b)
{
    if (a->expires_ms != b->expires_ms)
        return a->expires_ms < b->expires_ms ? -1 : 1;
    return id_compare(a, b);
}

RB_HEAD(lease_due, lease);
RB_GENERATE_INTERNAL(lease_due, lease, by_due, due_compare, __attribute__((unused)) static)

struct lease_table {
    struct ledger *ledger;
    pthread_mutex_t lock;
    struct lease_tree leases;
    struct lease_due due; /* of them, those that have an expires_ms */
    uint64_t last_id, count;
};

enum td_status lease_table_create(struct ledger *ledger, struct lease_table **out)
{
    struct lease_table *table = calloc(1, sizeof *table);
    if (!table)
        return fail(TD_OUT_OF_MEMORY, "no memory for the leases");
    table->ledger = ledger;
    pthread_mutex_init(&table->lock, NULL);
    RB_INIT(&table->leases);
    RB_INIT(&table->due);
    *out = table;
    return TD_OK;
}

void lease_table_destroy(struct lease_table *table)
{
    if (!table)
        return;
    pthread_mutex_destroy(&table->lock);
    free(table);
}

uint64_t lease_count(struct lease_table *table)
{
    pthread_mutex_lock(&table->lock);
    uint64_t count = table->count;
    pthread_mutex_unlock(&table->lock);
    return count;
}

const char *lease_kind_name(enum lease_kind kind)
{
    static const char *const names[] = {
#define LEASE_NAME(name, text) text,
        LEASE_KINDS(LEASE_NAME)
#undef LEASE_NAME
    };
    return names[kind];
}

static enum td_status begin_locked(struct lease_table *table, struct lease_owner *owner,
                                   struct lease *lease, uint64_t *id)
{
    if (owner->ended)
        return fail(TD_CANCELLED, "the session has ended");
    if (owner->count >= owner->limit)
        return fail(TD_OUT_OF_MEMORY,
                    "the session holds %" PRIu64
                    " leases, which is the limit (--max-leases); release what is not used any more",
                    owner->count);
    *id = lease->id = ++table->last_id;
    lease->owner = owner;
    lease->account = account_ref(owner->account);
    lease->since_ms = clock_now_ms();
    lease->next = owner->first;
    lease->link = &owner->first;
    if (lease->next)
        lease->next->link = &lease->next;
    owner->first = lease;
    owner->count++;
    table->count++;
    RB_INSERT(lease_tree, &table->leases, lease);
    if (lease->expires_ms)
        RB_INSERT(lease_due, &table->due, lease);
    return TD_OK;
}

static enum td_status reserve(struct lease_table *table, const struct lease_owner *owner)
{
    TRY(account_reserve(owner->account, QUOTA_LEASES, 1));
    enum td_status status = ledger_reserve_over(table->ledger, LEASE_BYTES, LEDGER_LEASES_BYTES);
    if (status != TD_OK)
        account_release(owner->account, QUOTA_LEASES, 1);
    return status;
}

static void unreserve(struct lease_table *table, struct account *account)
{
    account_release(account, QUOTA_LEASES, 1);
    ledger_release(table->ledger, LEASE_BYTES, 0, 0);
}

enum td_status lease_begin(struct lease_table *table, struct lease_owner *owner,
                           struct lease *lease, uint64_t *id)
{
    /* Before the lock: reserving may give pooled memory back to the kernel. */
    TRY(reserve(table, owner));
    pthread_mutex_lock(&table->lock);
    enum td_status status = begin_locked(table, owner, lease, id);
    pthread_mutex_unlock(&table->lock);
    if (status != TD_OK)
        unreserve(table, owner->account);
    return status;
}

static void remove_locked(struct lease_table *table, struct lease *lease)
{
    RB_REMOVE(lease_tree, &table->leases, lease);
    if (lease->expires_ms)
        RB_REMOVE(lease_due, &table->due, lease);
    *lease->link = lease->next;
    if (lease->next)
        lease->next->link = lease->link;
    lease->owner->count--;
    table->count--;
}

/* After it has left the table; the owner may be gone by now. */
static void lease_end(struct lease_table *table, struct lease *lease)
{
    struct account *account = lease->account;
    lease->end(lease);
    unreserve(table, account);
    account_unref(account);
}

static struct lease *find_locked(struct lease_table *table, const struct lease_owner *owner,
                                 uint64_t id)
{
    struct lease key = {.id = id}, *lease = RB_FIND(lease_tree, &table->leases, &key);
    return lease && lease->owner == owner ? lease : NULL;
}

static enum td_status missing(uint64_t id)
{
    return fail(TD_NOT_FOUND, "the session has no lease %" PRIu64 "; leases lists those there are",
                id);
}

enum td_status lease_release(struct lease_table *table, const struct lease_owner *owner,
                             uint64_t id)
{
    pthread_mutex_lock(&table->lock);
    struct lease *lease = find_locked(table, owner, id);
    if (lease)
        remove_locked(table, lease);
    pthread_mutex_unlock(&table->lock);
    if (!lease)
        return missing(id);
    lease_end(table, lease);
    return TD_OK;
}

enum td_status lease_use(struct lease_table *table, const struct lease_owner *owner, uint64_t id,
                         enum td_status (*use)(struct lease *lease, void *argument), void *argument)
{
    pthread_mutex_lock(&table->lock);
    struct lease *lease = find_locked(table, owner, id);
    enum td_status status = lease ? use(lease, argument) : missing(id);
    pthread_mutex_unlock(&table->lock);
    return status;
}

uint64_t lease_owner_count(struct lease_table *table, const struct lease_owner *owner)
{
    pthread_mutex_lock(&table->lock);
    uint64_t count = owner->count;
    pthread_mutex_unlock(&table->lock);
    return count;
}

uint64_t lease_end_all(struct lease_table *table, struct lease_owner *owner)
{
    uint64_t ended = 0;
    for (struct lease *lease;; ended++) {
        pthread_mutex_lock(&table->lock);
        owner->ended = true;
        lease = owner->first;
        if (lease) {
            remove_locked(table, lease);
            lease->cut = true;
        }
        pthread_mutex_unlock(&table->lock);
        if (!lease)
            return ended;
        lease_end(table, lease);
    }
}

static struct lease *take_due(struct lease_table *table, uint64_t now_ms)
{
    pthread_mutex_lock(&table->lock);
    struct lease *lease = RB_MIN(lease_due, &table->due);
    if (lease && lease->expires_ms > now_ms)
        lease = NULL;
    if (lease) {
        remove_locked(table, lease);
        lease->cut = true;
    }
    pthread_mutex_unlock(&table->lock);
    return lease;
}

void lease_expire(struct lease_table *table, uint64_t now_ms)
{
    struct lease *lease;
    while ((lease = take_due(table, now_ms)))
        lease_end(table, lease);
}

static void describe_locked(const struct lease *lease, uint64_t now_ms, struct lease_entry *out)
{
    const struct lease_owner *owner = lease->owner;
    const struct account *account = owner->account;
    *out = (struct lease_entry){
        .id = lease->id,
        .session = owner->session,
        .bytes = lease->measure ? lease->measure(lease) : lease->bytes,
        .age_ms = now_ms - lease->since_ms,
        .ttl_ms = lease->expires_ms > now_ms ? lease->expires_ms - now_ms : 0,
        .kind = lease->kind,
        .has_uid = account && account->principal.kind == PRINCIPAL_UID,
        .uid = account ? account->principal.uid : 0,
        .pid = owner->pid,
    };
    snprintf(out->principal, sizeof out->principal, "%s", account ? account->name : "");
    if (!lease->storage)
        return;
    enum storage_mode mode = storage_mode_of(lease->storage);
    if (lease->kind == LEASE_FILL && mode != STORAGE_BUILDING) /* it is published */
        out->kind = mode == STORAGE_FROZEN ? LEASE_READ : LEASE_WRITE;
    out->storage = lease->storage->id;
    out->mode = storage_mode_name(mode);
    out->deleted = storage_is_deleted(lease->storage);
}

size_t lease_list(struct lease_table *table, uint64_t after, const struct account *only, size_t max,
                  struct lease_entry *out)
{
    size_t count = 0;
    uint64_t now_ms = clock_now_ms();
    struct lease key = {.id = after + 1};
    if (after == UINT64_MAX)
        return 0;
    pthread_mutex_lock(&table->lock);
    struct lease *lease = RB_NFIND(lease_tree, &table->leases, &key);
    for (; lease && count < max; lease = RB_NEXT(lease_tree, &table->leases, lease))
        if (!only || lease->owner->account == only)
            describe_locked(lease, now_ms, &out[count++]);
    pthread_mutex_unlock(&table->lock);
    return count;
}
