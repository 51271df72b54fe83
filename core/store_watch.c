#include "core/store_internal.h"

static bool watch_matches(const struct store_watch *watch, struct text name)
{
    return name_begins_with(name, watch->prefix) &&
           (!watch->exact || name.length == watch->prefix.length);
}

static void wake_locked(struct store *store, struct store_watch *watch)
{
    if (!watch->woken)
        watch->quiet_until = store->revision - 1;
    watch->woken = true;
    watch->wake(watch);
}

uint64_t store_note_locked(struct store *store, enum store_event_kind kind, struct text name)
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
    uint64_t first = store->first_revision, last = store->revision;
    uint64_t gone = last - first > STORE_EVENTS_KEPT ? last - STORE_EVENTS_KEPT : first;
    uint64_t seen = *since ? *since : first;
    *lost = seen < gone || seen > last;
    if (*lost)
        seen = gone;
    for (; seen < last && count < max; seen++) {
        const struct store_event *event = &store->events[(seen + 1) % STORE_EVENTS_KEPT];
        if (watch_matches(watch, text_of(event->name)))
            out[count++] = *event;
    }
    *since = seen;
    pthread_mutex_unlock(&store->lock);
    return count;
}
