/* store_internal: what the files of the store share.
 *
 *   store.c        names: publishing, finding, removing, expiring, listing
 *   store_watch.c  events, and who is woken by them
 */
#ifndef CORE_STORE_INTERNAL_H
#define CORE_STORE_INTERNAL_H

#include "core/store.h"

#include <bsd/sys/tree.h>

struct entry;

RB_HEAD(name_tree, entry);
RB_HEAD(due_tree, entry);

struct store {
    struct ledger *ledger;
    uint64_t (*now_ms)(void);
    pthread_mutex_t lock;
    struct name_tree names;
    struct due_tree due; /* the names that expire, by when they do */
    uint64_t count;
    uint64_t revision;
    uint64_t first_revision; /* before anything happened */
    struct store_watch *watches;
    /* That of revision r is at r % STORE_EVENTS_KEPT: every revision leaves one. About 2 MiB
     * whatever happens, of which the kernel gives a page when events first reach it: as constant as
     * the daemon's own code, and charged to nobody like that. */
    struct store_event events[STORE_EVENTS_KEPT];
};

static inline bool name_begins_with(struct text name, struct text prefix)
{
    return name.length >= prefix.length && memcmp(name.data, prefix.data, prefix.length) == 0;
}

/* Takes the next revision for what has happened to the name, and wakes who watches it. With the
 * store locked. */
uint64_t store_note_locked(struct store *store, enum store_event_kind kind, struct text name);

#endif
