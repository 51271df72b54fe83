/* lease: what a session was handed out, until it gives it back, dies, or its time is over.
 *
 * Every mapping is a lease, and so is every item of a queue that a consumer has in hand: one list
 * tells who holds what. Whoever hands something out embeds a `struct lease`; its `end` is called
 * exactly once, whatever ends it: release, the end of the session, or expiry.
 *
 * Threads: every function, from any thread. `end` is called without a lock.
 */
#ifndef CORE_LEASE_H
#define CORE_LEASE_H

#include "core/clock.h"
#include "core/storage.h"

#include <bsd/sys/tree.h>

struct lease;
struct lease_table;

/* Who has leases: a session, which embeds it. All but `first`, `count` and `ended` is its own, and
 * does not change. */
struct lease_owner {
    struct account *account; /* NULL: no quota */
    uint64_t session;        /* its id */
    int32_t pid;             /* the process, 0: unknown */
    uint64_t limit;          /* leases that it may have */
    struct lease *first;
    uint64_t count;
    bool ended;
};

/* X(name, text) */
#define LEASE_KINDS(X)                                                                             \
    X(READ, "read")         /* a mapping for reading */                                            \
    X(WRITE, "write")       /* a mapping for writing */                                            \
    X(FILL, "fill")         /* of memory that is not published yet */                              \
    X(ITEM, "item")         /* an item of a queue, in a consumer's hands */                        \
    X(PRODUCER, "producer") /* the recycled memory of a producer in a queue */

enum lease_kind {
#define LEASE_ENUM(name, text) LEASE_##name,
    LEASE_KINDS(LEASE_ENUM)
#undef LEASE_ENUM
};

struct lease {
    /* From who hands out. */
    enum lease_kind kind;
    struct storage *storage; /* a reference, or NULL */
    uint64_t bytes;          /* for the list */
    /* If not NULL, tells them instead, for they change. With the table locked: it takes no lock
     * under which leases begin or end. */
    uint64_t (*measure)(const struct lease *lease);
    uint64_t expires_ms; /* of clock_now_ms; 0: never; stays as it was at lease_begin */
    void (*end)(struct lease *lease); /* lets go of what it stands for, and frees it */

    /* The table's. */
    uint64_t id; /* never used again */
    struct lease_owner *owner;
    struct account *account; /* the owner's, a reference: for `end`, when the owner may be gone */
    bool cut;                /* for `end`: its memory may still be in use, for nobody has given it
                                back, or who did has said so */
    uint64_t since_ms;
    RB_ENTRY(lease) by_id, by_due;
    struct lease *next, **link; /* of the owner's */
};

/* What a list of leases tells of one. */
struct lease_entry {
    uint64_t id, session, bytes, age_ms, ttl_ms, storage;
    enum lease_kind kind;
    const char *mode; /* of the storage; NULL without one */
    bool deleted;     /* no name leads to the storage */
    bool has_uid;     /* the principal is a user */
    uint32_t uid;
    int32_t pid;
    char principal[24];
};

NODISCARD enum td_status lease_table_create(struct ledger *ledger, struct lease_table **out);
void lease_table_destroy(struct lease_table *table);
uint64_t lease_count(struct lease_table *table);
const char *lease_kind_name(enum lease_kind kind);

/* Ends those whose time is over at now_ms; for the doors' clocks. */
void lease_expire(struct lease_table *table, uint64_t now_ms);
/* Up to `max` leases with ids above `after`, ascending; only those of one account unless that is
 * NULL. Returns how many. */
size_t lease_list(struct lease_table *table, uint64_t after, const struct account *only, size_t max,
                  struct lease_entry *out);

/* ---- for session.c ---------------------------------------------------------------------------
 */

/* The lease is the owner's from now on, and may end at any time, reserved against its limit, its
 * account and the ledger; on failure it stays the caller's. CANCELLED when the owner has ended. */
NODISCARD enum td_status lease_begin(struct lease_table *table, struct lease_owner *owner,
                                     struct lease *lease, uint64_t *id);
/* Ends one; NOT_FOUND if the owner has none of that id. */
NODISCARD enum td_status lease_release(struct lease_table *table, const struct lease_owner *owner,
                                       uint64_t id);
/* Calls `use` with the lease of that id, which cannot end meanwhile; NOT_FOUND if the owner has
 * none. `use` takes no lock under which leases begin or end. */
NODISCARD enum td_status lease_use(struct lease_table *table, const struct lease_owner *owner,
                                   uint64_t id,
                                   enum td_status (*use)(struct lease *lease, void *argument),
                                   void *argument);
uint64_t lease_owner_count(struct lease_table *table, const struct lease_owner *owner);
/* Ends all that the owner has; none can begin any more. Returns how many there were. */
uint64_t lease_end_all(struct lease_table *table, struct lease_owner *owner);

#endif
