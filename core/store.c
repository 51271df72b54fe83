#include "core/store_internal.h"

#include "core/clock.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

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

RB_GENERATE_INTERNAL(name_tree, entry, link, name_compare, __attribute__((unused)) static)

static int due_compare(const struct entry *a, const struct entry *b)
{
    if (a->expires_ms != b->expires_ms)
        return a->expires_ms < b->expires_ms ? -1 : 1;
    return name_compare(a, b);
}

RB_GENERATE_INTERNAL(due_tree, entry, due_link, due_compare, __attribute__((unused)) static)

enum td_status store_create(struct ledger *ledger, struct store **out)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store)
        return fail(TD_OUT_OF_MEMORY, "no memory for the store");
    store->ledger = ledger;
    store->now_ms = clock_now_ms;
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

/* ---- visits: the store locked, at one moment --------------------------------------------------
 */

struct visit {
    uint64_t now_ms;        /* 0 while no name has a time to live: the clock need not be read */
    struct account *payer;  /* who publishes: borrowed, or NULL */
    struct change *changes; /* borrowed */
    size_t count;
    struct entry *gone; /* removed: to be let go when the store is unlocked */
};

/* One name of a publish. What it holds after the visit is let go when the store is unlocked. */
struct change {
    struct text name;
    struct tensor *tensor;     /* borrowed */
    struct entry *entry;       /* that is there already, or NULL; borrowed */
    struct entry *fresh;       /* for a name that is not; NULL once it is in the tree */
    struct tensor *old;        /* replaced */
    struct account *old_payer; /* of the name, for which it is still charged; or NULL */
    uint64_t generation;       /* that it got */
};

static void visit_begin(struct store *store, struct visit *visit)
{
    pthread_mutex_lock(&store->lock);
    visit->now_ms = RB_EMPTY(&store->due) ? 0 : store->now_ms();
}

static void visit_end(struct store *store, struct visit *visit)
{
    pthread_mutex_unlock(&store->lock);
    for (struct entry *entry; (entry = visit->gone);) {
        visit->gone = entry->next;
        entry_free(store, entry);
    }
}

/* With the store unlocked. */
static void changes_finish(struct store *store, struct visit *visit)
{
    for (size_t i = 0; i < visit->count; i++) {
        struct change *change = &visit->changes[i];
        entry_free(store, take(&change->fresh));
        tensor_unnamed(take(&change->old));
        name_uncharge(take(&change->old_payer));
    }
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
    (void)store_note_locked(store, STORE_REMOVED, entry->name);
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

/* Finds what is there under the names. */
static void changes_find_locked(struct store *store, struct visit *visit)
{
    for (size_t i = 0; i < visit->count; i++)
        visit->changes[i].entry = find_locked(store, visit, visit->changes[i].name);
}

/* Makes entries for those that are not. */
static enum td_status changes_make_entries(struct store *store, struct visit *visit)
{
    for (size_t i = 0; i < visit->count; i++) {
        struct change *change = &visit->changes[i];
        if (!change->entry && !change->fresh)
            TRY(entry_create(store, change->name, 1, &change->fresh));
    }
    return TD_OK;
}

/* Whether all of it may be done; reserves what has to be. Nothing has changed after an error. */
static enum td_status changes_admit(struct visit *visit, const struct store_condition *condition)
{
    uint64_t unpaid = 0;
    for (size_t i = 0; i < visit->count; i++) {
        const struct change *change = &visit->changes[i];
        TRY(condition_check(condition, change->name, change->entry));
        unpaid += !change->entry || change->entry->account != visit->payer;
    }
    return account_reserve(visit->payer, QUOTA_NAMES, unpaid);
}

/* Lets the name refer to the tensor. */
static void change_apply(struct store *store, struct visit *visit, struct change *change,
                         uint64_t expires_ms)
{
    struct entry *entry = change->entry;
    bool paid = entry && entry->account == visit->payer;
    if (!entry) {
        entry = change->entry = take(&change->fresh);
        RB_INSERT(name_tree, &store->names, entry);
        store->count++;
    }
    change->old = entry->tensor;
    entry->tensor = tensor_ref(change->tensor);
    storage_name_begin(change->tensor->storage, visit->payer);
    if (!paid) {
        change->old_payer = entry->account;
        entry->account = account_ref(visit->payer);
    }
    change->generation = entry->generation =
        store_note_locked(store, STORE_PUBLISHED, change->name);
    set_expiry_locked(store, entry, expires_ms);
}

static enum td_status publish_locked(struct store *store, struct visit *visit,
                                     const struct store_condition *condition, uint64_t expires_ms)
{
    TRY(changes_admit(visit, condition));
    for (size_t i = 0; i < visit->count; i++)
        change_apply(store, visit, &visit->changes[i], expires_ms);
    return TD_OK;
}

static int change_compare(const void *a, const void *b)
{
    const struct entry x = {.name = (*(struct change *const *)a)->name};
    const struct entry y = {.name = (*(struct change *const *)b)->name};
    return name_compare(&x, &y);
}

static enum td_status changes_check_unique(const struct visit *visit)
{
    size_t count = visit->count;
    if (count < 2)
        return TD_OK;
    _cleanup_(freep) struct change **sorted = calloc(count, sizeof(struct change *));
    if (!sorted)
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu names", count);
    for (size_t i = 0; i < count; i++)
        sorted[i] = &visit->changes[i];
    qsort(sorted, count, sizeof(struct change *), change_compare);
    for (size_t i = 1; i < count; i++)
        if (change_compare(&sorted[i - 1], &sorted[i]) == 0)
            return fail(TD_INVALID, "the name '%.*s' comes twice; one publish gives it once",
                        TEXT_ARGS(sorted[i]->name));
    return TD_OK;
}

static enum td_status publish_changes(struct store *store, struct visit *visit,
                                      const struct store_condition *condition, uint64_t ttl_ms)
{
    for (size_t i = 0; i < visit->count; i++)
        TRY(name_check(visit->changes[i].name));
    TRY(changes_check_unique(visit));
    /* New names' entries are made outside the lock, and only if there are none to be replaced. */
    visit_begin(store, visit);
    (void)expire_locked(store, visit, EXPIRE_A_PUBLISH);
    changes_find_locked(store, visit);
    visit_end(store, visit);
    TRY(changes_make_entries(store, visit));
    visit_begin(store, visit);
    changes_find_locked(store, visit);
    enum td_status status = changes_make_entries(store, visit); /* gone in between */
    if (status == TD_OK)
        status = publish_locked(store, visit, condition, expiry_locked(store, ttl_ms));
    visit_end(store, visit);
    return status;
}

enum td_status store_publish_many(struct store *store, struct store_publication *list, size_t count,
                                  const struct store_condition *condition, uint64_t ttl_ms,
                                  struct account *account)
{
    struct change one;
    _cleanup_(freep) struct change *many = NULL;
    struct visit visit = {.payer = account, .changes = &one, .count = count};
    if (count > STORE_PUBLISH_MAX)
        return fail(TD_TOO_LARGE, "%zu names to publish at once; at most %d can be", count,
                    STORE_PUBLISH_MAX);
    if (count > 1)
        visit.changes = many = malloc(count * sizeof *many);
    if (!visit.changes)
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu names", count);
    for (size_t i = 0; i < count; i++)
        visit.changes[i] = (struct change){.name = list[i].name, .tensor = list[i].tensor};
    enum td_status status = publish_changes(store, &visit, condition, ttl_ms);
    for (size_t i = 0; status == TD_OK && i < count; i++)
        list[i].generation = visit.changes[i].generation;
    changes_finish(store, &visit);
    return status;
}

enum td_status store_publish_for(struct store *store, struct text name, struct tensor *tensor,
                                 const struct store_condition *condition, uint64_t ttl_ms,
                                 struct account *account, uint64_t *generation)
{
    struct store_publication one = {.name = name, .tensor = tensor};
    TRY(store_publish_many(store, &one, 1, condition, ttl_ms, account));
    *generation = one.generation;
    return TD_OK;
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
        *generation = entry->generation = store_note_locked(store, STORE_PUBLISHED, name);
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
                                    const struct store_condition *condition)
{
    struct change *change = visit->changes;
    struct entry *entry = find_locked(store, visit, from);
    if (!entry)
        return not_found(from);
    change->tensor = entry->tensor;
    changes_find_locked(store, visit);
    TRY(publish_locked(store, visit, condition, entry->expires_ms));
    struct entry *renamed = change->entry;
    /* Who paid for the old name pays for the new one. */
    renamed->account = take(renamed == entry ? &change->old_payer : &entry->account);
    if (renamed == entry)
        return TD_OK;
    if (!change->fresh) { /* it is in the tree now: one name for another, also at the limit */
        renamed->charged_names = entry->charged_names;
        entry->charged_names = 0;
    }
    remove_locked(store, visit, entry);
    return TD_OK;
}

enum td_status store_rename(struct store *store, struct text from, struct text to,
                            const struct store_condition *condition, uint64_t *generation)
{
    struct change change = {.name = to};
    struct visit visit = {.changes = &change, .count = 1};
    TRY(name_check(to));
    TRY(entry_create(store, to, 0, &change.fresh));
    visit_begin(store, &visit);
    enum td_status status = rename_locked(store, &visit, from, condition);
    if (status == TD_OK)
        *generation = change.generation;
    visit_end(store, &visit);
    changes_finish(store, &visit);
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
    for (; entry && count < max && name_begins_with(entry->name, prefix);
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

void store_revisions_begin(struct store *store, uint64_t first)
{
    store->first_revision = store->revision = first;
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
