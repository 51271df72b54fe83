/* store: the ordered map of names, and the one revision that stamps every publish and removal.
 *
 * Publishing swaps one pointer: whoever reads or maps the old bytes keeps them. A name's generation
 * is the revision of its last publish, so delete and re-create never look unchanged.
 *
 * A name may have a time to live. When it is over the name is not there for anyone; it is removed,
 * as store_remove would, by who comes across it first: at the latest store_expire.
 *
 * Threads: every function, from any thread. Old tensors are let go outside the lock.
 */
#ifndef CORE_STORE_H
#define CORE_STORE_H

#include "core/tensor.h"

#define NAME_MAX_BYTES 512

struct store;

NODISCARD enum td_status store_create(struct ledger *ledger, struct store **out);
void store_destroy(struct store *store);

/* INVALID, with what is wrong, unless the text is a name: UTF-8, 1 to 512 bytes, segments separated
 * by '/', none of them empty, "." or "..", no control characters, no leading '@'. */
NODISCARD enum td_status name_check(struct text name);

/* What must hold of a name for it to be published or removed. */
struct store_condition {
    bool create_only;    /* EXISTS if it is there */
    bool has_generation; /* PRECONDITION unless it is there with this generation */
    uint64_t generation;
};

/* The name stays until it is removed, also if it had a time to live before. It counts against no
 * account. */
NODISCARD enum td_status store_publish(struct store *store, struct text name, struct tensor *tensor,
                                       const struct store_condition *condition,
                                       uint64_t *generation);
/* *tensor is a reference of the caller's; generation may be NULL. */
NODISCARD enum td_status store_lookup(struct store *store, struct text name, struct tensor **tensor,
                                      uint64_t *generation);
NODISCARD enum td_status store_remove(struct store *store, struct text name,
                                      const struct store_condition *condition);
/* The bytes of `storage` were changed in place: a publish of the same tensor, so that who waits for
 * the name, or watches it, notices. False, and nothing happens, unless the name refers to a tensor
 * over that storage. ttl_ms: as of store_lookup_timed. */
bool store_touch(struct store *store, struct text name, const struct storage *storage,
                 uint64_t *generation, uint64_t *ttl_ms);
/* The new name has the time that the old one had left. */
NODISCARD enum td_status store_rename(struct store *store, struct text from, struct text to,
                                      const struct store_condition *condition,
                                      uint64_t *generation);

/* ---- names that expire: times in milliseconds of a clock that only goes forward -------------- */

#define STORE_TTL_MAX_MS UINT64_C(3155760000000) /* a hundred years */

/* INVALID unless it is 1 to STORE_TTL_MAX_MS. */
NODISCARD enum td_status ttl_check(uint64_t ttl_ms);

/* In the next four a ttl_ms of 0 is a name that stays. The name counts against the account (NULL:
 * none) from then on, also if it was another's. */
NODISCARD enum td_status store_publish_for(struct store *store, struct text name,
                                           struct tensor *tensor,
                                           const struct store_condition *condition, uint64_t ttl_ms,
                                           struct account *account, uint64_t *generation);
/* The same for several names at once, at one moment and all or nothing: where one of them fails the
 * condition or the quota, none changes. Each has a revision of its own, in the list's order. The
 * lock is held for all of them, so that they are at most STORE_PUBLISH_MAX. INVALID for a name that
 * comes twice. */
#define STORE_PUBLISH_MAX 65536
struct store_publication {
    struct text name;
    struct tensor *tensor; /* borrowed */
    uint64_t generation;   /* set by the publish */
};
NODISCARD enum td_status store_publish_many(struct store *store, struct store_publication *list,
                                            size_t count, const struct store_condition *condition,
                                            uint64_t ttl_ms, struct account *account);
NODISCARD enum td_status store_lookup_timed(struct store *store, struct text name,
                                            struct tensor **tensor, uint64_t *generation,
                                            uint64_t *ttl_ms);
/* Sets the time that the name has left; that is no publish. *tensor as of store_lookup. */
NODISCARD enum td_status store_set_ttl(struct store *store, struct text name, uint64_t ttl_ms,
                                       struct tensor **tensor, uint64_t *generation);
/* Removes names whose time is over at now_ms, those that were due first, at most `max`; returns how
 * many. It looks at no other names, and holds the lock for a few at a time. For the doors' clocks.
 */
size_t store_expire(struct store *store, uint64_t now_ms, size_t max);
/* For tests: the clock, instead of CLOCK_MONOTONIC; before the store is used. */
void store_set_clock(struct store *store, uint64_t (*now_ms)(void));

/* ---- listing --------------------------------------------------------------------------------- */

struct store_entry {
    char name[NAME_MAX_BYTES + 1];
    struct tensor *tensor; /* a reference of the caller's */
    uint64_t generation;
    uint64_t ttl_ms; /* that the name has left; 0: it stays */
};
/* Up to `max` names after `cursor` (exclusive, empty: from the start) that begin with prefix, in
 * byte order. Returns how many; the caller unrefs each tensor. */
size_t store_list(struct store *store, struct text prefix, struct text cursor, size_t max,
                  struct store_entry *out);

/* ---- watching -------------------------------------------------------------------------------
 *
 * Every publish and removal takes the next revision and is kept, with the latest others, in a ring
 * of bounded size. A rename is a publish of the new name and then a removal of the old one (of a
 * name to itself only a publish). Whoever watches is woken, and reads the ring from the revision it
 * has seen; one that comes too late is told that events were lost, so that nobody's slowness costs
 * memory. */

#define STORE_EVENTS_KEPT 4096

enum store_event_kind { STORE_PUBLISHED, STORE_REMOVED };

struct store_event {
    uint64_t revision;
    enum store_event_kind kind;
    char name[NAME_MAX_BYTES + 1];
};

/* Embedded by who watches. */
struct store_watch {
    struct text prefix; /* of the names; with `exact` the whole name. Lives as long as the watch */
    bool exact;
    /* Something happened to such a name. Called with the store locked, from any thread: only
     * signals, takes no lock under which the store is called, and does not call the store. */
    void (*wake)(struct store_watch *watch);
    /* From the store, at the first wake and when the watch is removed: from when it was added up to
     * this revision nothing happened to such a name. */
    uint64_t quiet_until;
    bool woken;
    struct store_watch *next, **link; /* the store's */
};

/* Each event looks at every watch while the store is locked: who adds them bounds their number. */
void store_watch_add(struct store *store, struct store_watch *watch);
/* After this `wake` is not running and not called any more. */
void store_watch_remove(struct store *store, struct store_watch *watch);
/* The events of such names after revision *since, oldest first, at most `max`; the watch need not
 * be added, and of it only prefix and exact are looked at. *since moves on to what has been looked
 * at; 0 is from the first revision on. *lost: events after *since are not kept any more (also for a
 * *since that was never this store's, from before a restart); reading goes on with the oldest that
 * is. */
size_t store_events(struct store *store, const struct store_watch *watch, uint64_t *since,
                    bool *lost, size_t max, struct store_event *out);

uint64_t store_count(struct store *store);
/* Where revisions go on from; before the store is used. */
void store_revisions_begin(struct store *store, uint64_t first);
uint64_t store_revision(struct store *store);

#endif
