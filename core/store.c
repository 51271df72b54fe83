#include "core/store.h"

#include <assert.h>
#include <bsd/sys/tree.h>
#include <inttypes.h>
#include <string.h>

struct entry {
    RB_ENTRY(entry) link;
    struct tensor *tensor;
    uint64_t generation;
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

struct store {
    struct ledger *ledger;
    pthread_mutex_t lock;
    struct name_tree names;
    uint64_t count;
    uint64_t revision;
    struct store_watch *watches;
    /* That of revision r is at r % STORE_EVENTS_KEPT: every revision leaves one. About 2 MiB
     * whatever happens, of which the kernel gives a page when events first reach it: as constant as
     * the daemon's own code, and charged to nobody like that. */
    struct store_event events[STORE_EVENTS_KEPT];
};

enum td_status store_create(struct ledger *ledger, struct store **out)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store)
        return fail(TD_OUT_OF_MEMORY, "no memory for the store");
    store->ledger = ledger;
    pthread_mutex_init(&store->lock, NULL);
    RB_INIT(&store->names);
    *out = store;
    return TD_OK;
}

static uint64_t entry_bytes(const struct entry *entry)
{
    return sizeof *entry + entry->name.length;
}

static void entry_free(struct store *store, struct entry *entry)
{
    if (!entry)
        return;
    ledger_release(store->ledger, entry_bytes(entry), 0, entry->charged_names);
    tensor_unref(entry->tensor);
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
    entry->charged_names = charged_names;
    enum td_status status = ledger_reserve(store->ledger, entry_bytes(entry), 0, charged_names);
    if (status != TD_OK) {
        free(entry);
        return status;
    }
    *out = entry;
    return TD_OK;
}

static struct entry *find_locked(struct store *store, struct text name)
{
    struct entry key = {.name = name};
    return RB_FIND(name_tree, &store->names, &key);
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
            watch->wake(watch);
    return store->revision;
}

/* Lets `name` refer to the tensor. Returns through *old what is to be let go, through *fresh what
 * of it was used (NULL then). */
static enum td_status publish_locked(struct store *store, struct text name, struct tensor *tensor,
                                     const struct store_condition *condition, struct entry **fresh,
                                     struct tensor **old, uint64_t *generation)
{
    struct entry *entry = find_locked(store, name);
    TRY(condition_check(condition, name, entry));
    if (!entry) {
        entry = take(fresh);
        RB_INSERT(name_tree, &store->names, entry);
        store->count++;
    }
    *old = entry->tensor;
    entry->tensor = tensor_ref(tensor);
    entry->generation = *generation = note_locked(store, STORE_PUBLISHED, name);
    return TD_OK;
}

enum td_status store_publish(struct store *store, struct text name, struct tensor *tensor,
                             const struct store_condition *condition, uint64_t *generation)
{
    struct entry *fresh = NULL;
    struct tensor *old = NULL;
    TRY(name_check(name));
    /* A new name's entry is made outside the lock, and only if there is none to be replaced. */
    pthread_mutex_lock(&store->lock);
    bool found = find_locked(store, name) != NULL;
    pthread_mutex_unlock(&store->lock);
    enum td_status status = found ? TD_OK : entry_create(store, name, 1, &fresh);
    pthread_mutex_lock(&store->lock);
    if (status == TD_OK && !fresh && !find_locked(store, name)) /* deleted in between */
        status = entry_create(store, name, 1, &fresh);
    if (status == TD_OK)
        status = publish_locked(store, name, tensor, condition, &fresh, &old, generation);
    pthread_mutex_unlock(&store->lock);
    entry_free(store, fresh);
    tensor_unref(old);
    return status;
}

enum td_status store_lookup(struct store *store, struct text name, struct tensor **tensor,
                            uint64_t *generation)
{
    enum td_status status = TD_OK;
    pthread_mutex_lock(&store->lock);
    struct entry *entry = find_locked(store, name);
    if (!entry) {
        status = not_found(name);
    } else {
        *tensor = tensor_ref(entry->tensor);
        if (generation)
            *generation = entry->generation;
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

static enum td_status detach_locked(struct store *store, struct text name,
                                    const struct store_condition *condition, struct entry **out)
{
    struct entry *entry = find_locked(store, name);
    if (!entry)
        return not_found(name);
    TRY(condition_check(condition, name, entry));
    RB_REMOVE(name_tree, &store->names, entry);
    store->count--;
    (void)note_locked(store, STORE_REMOVED, name);
    *out = entry;
    return TD_OK;
}

enum td_status store_remove(struct store *store, struct text name,
                            const struct store_condition *condition)
{
    struct entry *entry = NULL;
    pthread_mutex_lock(&store->lock);
    enum td_status status = detach_locked(store, name, condition, &entry);
    pthread_mutex_unlock(&store->lock);
    entry_free(store, entry);
    return status;
}

static enum td_status rename_locked(struct store *store, struct text from, struct text to,
                                    const struct store_condition *condition, struct entry **fresh,
                                    struct entry **gone, struct tensor **old, uint64_t *generation)
{
    static const struct store_condition none;
    struct entry *entry = find_locked(store, from);
    if (!entry)
        return not_found(from);
    TRY(publish_locked(store, to, entry->tensor, condition, fresh, old, generation));
    if (name_compare(entry, &(struct entry){.name = to}) == 0)
        return TD_OK;
    if (!*fresh) { /* it is in the tree now: one name for another, which also works at the limit */
        find_locked(store, to)->charged_names = entry->charged_names;
        entry->charged_names = 0;
    }
    return detach_locked(store, from, &none, gone);
}

enum td_status store_rename(struct store *store, struct text from, struct text to,
                            const struct store_condition *condition, uint64_t *generation)
{
    struct entry *fresh = NULL, *gone = NULL;
    struct tensor *old = NULL;
    TRY(name_check(to));
    TRY(entry_create(store, to, 0, &fresh));
    pthread_mutex_lock(&store->lock);
    enum td_status status =
        rename_locked(store, from, to, condition, &fresh, &gone, &old, generation);
    pthread_mutex_unlock(&store->lock);
    entry_free(store, fresh);
    entry_free(store, gone);
    tensor_unref(old);
    return status;
}

size_t store_list(struct store *store, struct text prefix, struct text cursor, size_t max,
                  struct store_entry *out)
{
    size_t count = 0;
    struct entry prefix_key = {.name = prefix}, cursor_key = {.name = cursor};
    bool from_cursor = name_compare(&cursor_key, &prefix_key) >= 0;
    struct entry *start = from_cursor ? &cursor_key : &prefix_key;
    pthread_mutex_lock(&store->lock);
    struct entry *entry = RB_NFIND(name_tree, &store->names, start);
    if (entry && from_cursor && cursor.length && name_compare(entry, &cursor_key) == 0)
        entry = RB_NEXT(name_tree, &store->names, entry);
    for (; entry && count < max && has_prefix(entry->name, prefix); count++) {
        memcpy(out[count].name, entry->name.data, entry->name.length);
        out[count].name[entry->name.length] = '\0';
        out[count].tensor = tensor_ref(entry->tensor);
        out[count].generation = entry->generation;
        entry = RB_NEXT(name_tree, &store->names, entry);
    }
    pthread_mutex_unlock(&store->lock);
    return count;
}

void store_watch_add(struct store *store, struct store_watch *watch)
{
    pthread_mutex_lock(&store->lock);
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
