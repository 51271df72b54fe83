#include "core/store.h"

#include <assert.h>
#include <bsd/sys/tree.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#define EXPIRE_AT_ONCE 64 /* names removed while the lock is held */
/* Names that are due and removed by a publish: more than it brings, so that they never pile up. */
#define EXPIRE_A_PUBLISH 2

struct entry {
    RB_ENTRY(entry) link, due_link;
    struct entry *next; /* of those that a visit removed */
    struct tensor *tensor;
    struct account *account; /* a reference, with a name of its quota; NULL: none */
    uint64_t generation;
    uint64_t expires_ms;    /* from then on it is not there; 0: never, and not in the tree `due` */
    uint64_t charged_names; /* 1, or 0 for one that takes over the charge of another */
    struct text name;       /* points to name_bytes, or in a search key to the caller's */
    char name_bytes[];
};

static int name_compare(const struct entry *a, const struct entry *b)
{
    size_t shorter = a->name.length < b->name.length ? a->name.length : b->name.length;
    int order = memcmp(a->name.data, b->name.data, shorter);
    if (order != 0)
        return order;
    return (a->name.length > b->name.length) - (a->name.length < b->name.length);
}

RB_HEAD(name_tree, entry);
RB_GENERATE_INTERNAL(name_tree, entry, link, name_compare, __attribute__((unused)) static)

static int due_compare(const struct entry *a, const struct entry *b)
{
    if (a->expires_ms != b->expires_ms)
        return a->expires_ms < b->expires_ms ? -1 : 1;
    return name_compare(a, b);
}

RB_HEAD(due_tree, entry);
RB_GENERATE_INTERNAL(due_tree, entry, due_link, due_compare, __attribute__((unused)) static)

struct store {
    struct ledger *ledger;
    uint64_t (*now_ms)(void);
    pthread_mutex_t lock;
    struct name_tree names;
    struct due_tree due; /* the names that expire, by when they do */
    uint64_t count;
    uint64_t revision;
    struct store_watch *watches;
    /* That of revision r is at r % STORE_EVENTS_KEPT: every revision leaves one. About 2 MiB
     * whatever happens, of which the kernel gives a page when events first reach it: as constant as
     * the daemon's own code, and charged to nobody like that. */
    struct store_event events[STORE_EVENTS_KEPT];
};

static uint64_t monotonic_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

enum td_status store_create(struct ledger *ledger, struct store **out)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store)
        return fail(TD_OUT_OF_MEMORY, "no memory for the store");
    store->ledger = ledger;
    store->now_ms = monotonic_ms;
    pthread_mutex_init(&store->lock, NULL);
    RB_INIT(&store->names);
    RB_INIT(&store->due);
    *out = store;
    return TD_OK;
}

void store_set_clock(struct store *store, uint64_t (*now_ms)(void))
{
    store->now_ms = now_ms;
}

static uint64_t entry_bytes(const struct entry *entry)
{
    return sizeof *entry + entry->name.length;
}

static void name_uncharge(struct account *account)
{
    account_release(account, QUOTA_NAMES, 1);
    account_unref(account);
}

/* A name has led to it that does so no more. */
static void tensor_unnamed(struct tensor *tensor)
{
    if (tensor)
        storage_name_end(tensor->storage);
    tensor_unref(tensor);
}

static void entry_free(struct store *store, struct entry *entry)
{
    if (!entry)
        return;
    ledger_release(store->ledger, entry_bytes(entry), 0, entry->charged_names);
    name_uncharge(entry->account);
    tensor_unnamed(entry->tensor);
    free(entry);
}

void store_destroy(struct store *store)
{
    if (!store)
        return;
    assert(!store->watches);
    for (struct entry *entry; (entry = RB_ROOT(&store->names));) {
        RB_REMOVE(name_tree, &store->names, entry);
        entry_free(store, entry);
    }
    pthread_mutex_destroy(&store->lock);
    free(store);
}

/* An entry that is not in the tree yet, charged to the ledger. */
static enum td_status entry_create(struct store *store, struct text name, uint64_t charged_names,
                                   struct entry **out)
{
    struct entry *entry = malloc(sizeof *entry + name.length);
    if (!entry)
        return fail(TD_OUT_OF_MEMORY, "no memory for a name");
    memcpy(entry->name_bytes, name.data, name.length);
    entry->name = (struct text){entry->name_bytes, name.length};
    entry->tensor = NULL;
    entry->account = NULL;
    entry->expires_ms = 0;
    entry->charged_names = charged_names;
    enum td_status status = ledger_reserve(store->ledger, entry_bytes(entry), 0, charged_names);
    if (status != TD_OK) {
        free(entry);
        return status;
    }
    *out = entry;
    return TD_OK;
}

static enum td_status not_found(struct text name)
{
    return fail(TD_NOT_FOUND, "no tensor is named '%.*s'; list shows the names there are",
                TEXT_ARGS(name));
}

static enum td_status condition_check(const struct store_condition *condition, struct text name,
                                      const struct entry *entry)
{
    if (condition->create_only && entry)
        return fail(TD_EXISTS, "the name '%.*s' is taken (generation %" PRIu64 ")", TEXT_ARGS(name),
                    entry->generation);
    if (condition->has_generation && (!entry || entry->generation != condition->generation))
        return fail(TD_PRECONDITION,
                    "the name '%.*s' has generation %" PRIu64 ", not %" PRIu64
                    "; read it again before replacing it",
                    TEXT_ARGS(name), entry ? entry->generation : 0, condition->generation);
    return TD_OK;
}

static bool has_prefix(struct text name, struct text prefix)
{
    return name.length >= prefix.length && memcmp(name.data, prefix.data, prefix.length) == 0;
}

static bool watch_matches(const struct store_watch *watch, struct text name)
{
    return has_prefix(name, watch->prefix) &&
           (!watch->exact || name.length == watch->prefix.length);
}

static void wake_locked(struct store *store, struct store_watch *watch)
{
    if (!watch->woken)
        watch->quiet_until = store->revision - 1;
    watch->woken = true;
    watch->wake(watch);
}

/* Takes the next revision for what has happened to the name, and wakes who watches it. */
static uint64_t note_locked(struct store *store, enum store_event_kind kind, struct text name)
{
    struct store_event *event = &store->events[++store->revision % STORE_EVENTS_KEPT];
    event->revision = store->revision;
    event->kind = kind;
    memcpy(event->name, name.data, name.length);
    event->name[name.length] = '\0';
    for (struct store_watch *watch = store->watches; watch; watch = watch->next)
        if (watch_matches(watch, name))
            wake_locked(store, watch);
    return store->revision;
}

/* ---- visits: the store locked, at one moment --------------------------------------------------
 */

struct visit {
    uint64_t now_ms; /* 0 while no name has a time to live: the clock need not be read */
    /* To be let go when the store is unlocked: */
    struct entry *fresh;       /* for a name that is not there yet; NULL once it is in the tree */
    struct entry *gone;        /* removed */
    struct tensor *old;        /* replaced */
    struct account *old_payer; /* of the name, for which it is still charged; or NULL */
    struct account *payer;     /* who publishes: borrowed, or NULL */
};

static void visit_begin(struct store *store, struct visit *visit)
{
    pthread_mutex_lock(&store->lock);
    visit->now_ms = RB_EMPTY(&store->due) ? 0 : store->now_ms();
}

static void visit_end(struct store *store, struct visit *visit)
{
    pthread_mutex_unlock(&store->lock);
    entry_free(store, take(&visit->fresh));
    for (struct entry *entry; (entry = visit->gone);) {
        visit->gone = entry->next;
        entry_free(store, entry);
    }
    tensor_unnamed(take(&visit->old));
    name_uncharge(take(&visit->old_payer));
}

static bool is_over(const struct visit *visit, const struct entry *entry)
{
    return entry->expires_ms && entry->expires_ms <= visit->now_ms;
}

static uint64_t ttl_left(const struct visit *visit, const struct entry *entry)
{
    return entry->expires_ms ? entry->expires_ms - visit->now_ms : 0;
}

/* When a name ends that now gets a time to live. */
static uint64_t expiry_locked(struct store *store, uint64_t ttl_ms)
{
    assert(ttl_ms <= STORE_TTL_MAX_MS);
    return ttl_ms ? store->now_ms() + ttl_ms : 0;
}

static void set_expiry_locked(struct store *store, struct entry *entry, uint64_t expires_ms)
{
    if (entry->expires_ms)
        RB_REMOVE(due_tree, &store->due, entry);
    entry->expires_ms = expires_ms;
    if (expires_ms)
        RB_INSERT(due_tree, &store->due, entry);
}

static void remove_locked(struct store *store, struct visit *visit, struct entry *entry)
{
    set_expiry_locked(store, entry, 0);
    RB_REMOVE(name_tree, &store->names, entry);
    store->count--;
    (void)note_locked(store, STORE_REMOVED, entry->name);
    entry->next = visit->gone;
    visit->gone = entry;
}

/* The name's entry; NULL if there is none, or none any more. */
static struct entry *find_locked(struct store *store, struct visit *visit, struct text name)
{
    struct entry key = {.name = name}, *entry = RB_FIND(name_tree, &store->names, &key);
    if (!entry || !is_over(visit, entry))
        return entry;
    remove_locked(store, visit, entry);
    return NULL;
}

static size_t expire_locked(struct store *store, struct visit *visit, size_t max)
{
    size_t count = 0;
    for (; count < max; count++) {
        struct entry *entry = RB_MIN(due_tree, &store->due);
        if (!entry || !is_over(visit, entry))
            break;
        remove_locked(store, visit, entry);
    }
    return count;
}

/* ---- names ----------------------------------------------------------------------------------- */

enum td_status ttl_check(uint64_t ttl_ms)
{
    if (ttl_ms >= 1 && ttl_ms <= STORE_TTL_MAX_MS)
        return TD_OK;
    return fail(TD_INVALID,
                "a time to live of %" PRIu64 " ms; expected 1 to %" PRIu64
                " ms, or none for a name that stays",
                ttl_ms, STORE_TTL_MAX_MS);
}

/* Lets `name` refer to the tensor, with visit->fresh if it is not there yet. */
static enum td_status publish_locked(struct store *store, struct visit *visit, struct text name,
                                     struct tensor *tensor, const struct store_condition *condition,
                                     uint64_t expires_ms, struct entry **out)
{
    struct entry *entry = find_locked(store, visit, name);
    TRY(condition_check(condition, name, entry));
    bool paid = entry && entry->account == visit->payer; /* also at the quota */
    if (!paid)
        TRY(account_reserve(visit->payer, QUOTA_NAMES, 1));
    if (!entry) {
        entry = take(&visit->fresh);
        RB_INSERT(name_tree, &store->names, entry);
        store->count++;
    }
    visit->old = entry->tensor;
    entry->tensor = tensor_ref(tensor);
    storage_name_begin(tensor->storage, visit->payer);
    if (!paid) {
        visit->old_payer = entry->account;
        entry->account = account_ref(visit->payer);
    }
    entry->generation = note_locked(store, STORE_PUBLISHED, name);
    set_expiry_locked(store, entry, expires_ms);
    *out = entry;
    return TD_OK;
}

enum td_status store_publish_for(struct store *store, struct text name, struct tensor *tensor,
                                 const struct store_condition *condition, uint64_t ttl_ms,
                                 struct account *account, uint64_t *generation)
{
    struct visit visit = {0};
    struct entry *entry;
    TRY(name_check(name));
    /* A new name's entry is made outside the lock, and only if there is none to be replaced. */
    visit_begin(store, &visit);
    (void)expire_locked(store, &visit, EXPIRE_A_PUBLISH);
    bool found = find_locked(store, &visit, name) != NULL;
    visit_end(store, &visit);
    visit.payer = account;
    enum td_status status = found ? TD_OK : entry_create(store, name, 1, &visit.fresh);
    visit_begin(store, &visit);
    if (status == TD_OK && !visit.fresh && !find_locked(store, &visit, name)) /* gone in between */
        status = entry_create(store, name, 1, &visit.fresh);
    if (status == TD_OK)
        status = publish_locked(store, &visit, name, tensor, condition,
                                expiry_locked(store, ttl_ms), &entry);
    if (status == TD_OK)
        *generation = entry->generation;
    visit_end(store, &visit);
    return status;
}

enum td_status store_publish(struct store *store, struct text name, struct tensor *tensor,
                             const struct store_condition *condition, uint64_t *generation)
{
    return store_publish_for(store, name, tensor, condition, 0, NULL, generation);
}

enum td_status store_lookup_timed(struct store *store, struct text name, struct tensor **tensor,
                                  uint64_t *generation, uint64_t *ttl_ms)
{
    struct visit visit = {0};
    enum td_status status = TD_OK;
    visit_begin(store, &visit);
    struct entry *entry = find_locked(store, &visit, name);
    if (!entry) {
        status = not_found(name);
    } else {
        *tensor = tensor_ref(entry->tensor);
        *generation = entry->generation;
        *ttl_ms = ttl_left(&visit, entry);
    }
    visit_end(store, &visit);
    return status;
}

enum td_status store_lookup(struct store *store, struct text name, struct tensor **tensor,
                            uint64_t *generation)
{
    uint64_t ignored, ttl_ms;
    return store_lookup_timed(store, name, tensor, generation ? generation : &ignored, &ttl_ms);
}

enum td_status store_set_ttl(struct store *store, struct text name, uint64_t ttl_ms,
                             struct tensor **tensor, uint64_t *generation)
{
    struct visit visit = {0};
    enum td_status status = TD_OK;
    visit_begin(store, &visit);
    struct entry *entry = find_locked(store, &visit, name);
    if (!entry) {
        status = not_found(name);
    } else {
        set_expiry_locked(store, entry, expiry_locked(store, ttl_ms));
        *tensor = tensor_ref(entry->tensor);
        *generation = entry->generation;
    }
    visit_end(store, &visit);
    return status;
}

bool store_touch(struct store *store, struct text name, const struct storage *storage,
                 uint64_t *generation, uint64_t *ttl_ms)
{
    struct visit visit = {0};
    visit_begin(store, &visit);
    struct entry *entry = find_locked(store, &visit, name);
    bool same = entry && entry->tensor->storage == storage;
    if (same) {
        *generation = entry->generation = note_locked(store, STORE_PUBLISHED, name);
        *ttl_ms = ttl_left(&visit, entry);
    }
    visit_end(store, &visit);
    return same;
}

enum td_status store_remove(struct store *store, struct text name,
                            const struct store_condition *condition)
{
    struct visit visit = {0};
    visit_begin(store, &visit);
    struct entry *entry = find_locked(store, &visit, name);
    enum td_status status = entry ? condition_check(condition, name, entry) : not_found(name);
    if (status == TD_OK)
        remove_locked(store, &visit, entry);
    visit_end(store, &visit);
    return status;
}

static enum td_status rename_locked(struct store *store, struct visit *visit, struct text from,
                                    struct text to, const struct store_condition *condition,
                                    uint64_t *generation)
{
    struct entry *entry = find_locked(store, visit, from), *renamed;
    if (!entry)
        return not_found(from);
    TRY(publish_locked(store, visit, to, entry->tensor, condition, entry->expires_ms, &renamed));
    *generation = renamed->generation;
    /* Who paid for the old name pays for the new one. */
    renamed->account = take(renamed == entry ? &visit->old_payer : &entry->account);
    if (renamed == entry)
        return TD_OK;
    if (!visit->fresh) { /* it is in the tree now: one name for another, also at the limit */
        renamed->charged_names = entry->charged_names;
        entry->charged_names = 0;
    }
    remove_locked(store, visit, entry);
    return TD_OK;
}

enum td_status store_rename(struct store *store, struct text from, struct text to,
                            const struct store_condition *condition, uint64_t *generation)
{
    struct visit visit = {0};
    TRY(name_check(to));
    TRY(entry_create(store, to, 0, &visit.fresh));
    visit_begin(store, &visit);
    enum td_status status = rename_locked(store, &visit, from, to, condition, generation);
    visit_end(store, &visit);
    return status;
}

size_t store_expire(struct store *store, uint64_t now_ms, size_t max)
{
    size_t count = 0, step, removed;
    do {
        struct visit visit = {.now_ms = now_ms};
        step = max - count < EXPIRE_AT_ONCE ? max - count : EXPIRE_AT_ONCE;
        pthread_mutex_lock(&store->lock);
        removed = expire_locked(store, &visit, step);
        visit_end(store, &visit);
        count += removed;
    } while (removed == EXPIRE_AT_ONCE && count < max);
    return count;
}

/* What walks or counts the names meets few that are over. */
static void expire_all(struct store *store)
{
    (void)store_expire(store, store->now_ms(), SIZE_MAX);
}

size_t store_list(struct store *store, struct text prefix, struct text cursor, size_t max,
                  struct store_entry *out)
{
    size_t count = 0;
    struct visit visit = {0};
    struct entry prefix_key = {.name = prefix}, cursor_key = {.name = cursor};
    bool from_cursor = name_compare(&cursor_key, &prefix_key) >= 0;
    struct entry *start = from_cursor ? &cursor_key : &prefix_key;
    expire_all(store);
    visit_begin(store, &visit);
    struct entry *entry = RB_NFIND(name_tree, &store->names, start);
    if (entry && from_cursor && cursor.length && name_compare(entry, &cursor_key) == 0)
        entry = RB_NEXT(name_tree, &store->names, entry);
    for (; entry && count < max && has_prefix(entry->name, prefix);
         entry = RB_NEXT(name_tree, &store->names, entry)) {
        if (is_over(&visit, entry))
            continue;
        memcpy(out[count].name, entry->name.data, entry->name.length);
        out[count].name[entry->name.length] = '\0';
        out[count].tensor = tensor_ref(entry->tensor);
        out[count].generation = entry->generation;
        out[count++].ttl_ms = ttl_left(&visit, entry);
    }
    visit_end(store, &visit);
    return count;
}

/* ---- watching -------------------------------------------------------------------------------- */

void store_watch_add(struct store *store, struct store_watch *watch)
{
    pthread_mutex_lock(&store->lock);
    watch->woken = false;
    watch->next = store->watches;
    watch->link = &store->watches;
    if (watch->next)
        watch->next->link = &watch->next;
    store->watches = watch;
    pthread_mutex_unlock(&store->lock);
}

void store_watch_remove(struct store *store, struct store_watch *watch)
{
    pthread_mutex_lock(&store->lock);
    *watch->link = watch->next;
    if (watch->next)
        watch->next->link = watch->link;
    watch->link = NULL;
    if (!watch->woken)
        watch->quiet_until = store->revision;
    pthread_mutex_unlock(&store->lock);
}

size_t store_events(struct store *store, const struct store_watch *watch, uint64_t *since,
                    bool *lost, size_t max, struct store_event *out)
{
    size_t count = 0;
    pthread_mutex_lock(&store->lock);
    uint64_t last = store->revision;
    uint64_t gone = last > STORE_EVENTS_KEPT ? last - STORE_EVENTS_KEPT : 0;
    *lost = *since < gone || *since > last;
    uint64_t seen = *lost ? gone : *since;
    for (; seen < last && count < max; seen++) {
        const struct store_event *event = &store->events[(seen + 1) % STORE_EVENTS_KEPT];
        if (watch_matches(watch, text_of(event->name)))
            out[count++] = *event;
    }
    *since = seen;
    pthread_mutex_unlock(&store->lock);
    return count;
}

uint64_t store_count(struct store *store)
{
    expire_all(store);
    pthread_mutex_lock(&store->lock);
    uint64_t count = store->count;
    pthread_mutex_unlock(&store->lock);
    return count;
}

uint64_t store_revision(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    uint64_t revision = store->revision;
    pthread_mutex_unlock(&store->lock);
    return revision;
}
