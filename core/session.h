/* session: an owner's references, all let go when the owner is gone.
 *
 * A session holds anonymous objects (results without a name, as often as they were handed out) and
 * leases (core/lease.h: mappings, items of queues). Several connections may share it by its key; it
 * ends with the last of them. Operations that still run then keep the head alive, but can add
 * nothing.
 *
 * Threads: every function, from any thread.
 */
#ifndef CORE_SESSION_H
#define CORE_SESSION_H

#include "core/lease.h"
#include "core/tensor.h"

#define SESSION_KEY_LENGTH 32 /* hexadecimal digits: 128 random bits */

struct session_limits {
    uint64_t sessions;
    uint64_t objects; /* of one session */
    uint64_t leases;  /* of one session */
};

struct session_table;
struct session;

NODISCARD enum td_status session_table_create(struct ledger *ledger,
                                              const struct session_limits *limits,
                                              struct session_table **out);
/* All sessions must have ended. */
void session_table_destroy(struct session_table *table);
/* Sums over all sessions. */
struct session_counts {
    uint64_t sessions, objects, leases;
};
void session_table_count(struct session_table *table, struct session_counts *out);

/* A new session with one connection; *out is a reference of the caller's. account: whose quota it
 * counts against, NULL for none; pid: the process that opens it, 0 if that is not known. */
NODISCARD enum td_status session_open(struct session_table *table, struct account *account,
                                      int32_t pid, struct session **out);
/* One connection more for the session with that key, which is a secret: whoever has it is who
 * opened the session, also for its quota. NOT_FOUND if it has ended. */
NODISCARD enum td_status session_join(struct session_table *table, struct text key,
                                      struct session **out);
/* One connection less; the last one ends the session, which takes the longer the more it holds. */
void session_leave(struct session *session);
/* Objects and leases that it holds. */
uint64_t session_entries(struct session *session);
struct session *session_ref(struct session *session);
void session_unref(struct session *session);
CLEANUP_DEFINE(struct session *, session_unref)

uint64_t session_id(const struct session *session);
const char *session_key(const struct session *session);
/* Borrowed; NULL for none. */
struct account *session_account(const struct session *session);
int32_t session_pid(const struct session *session);

/* Hands the object out once more: takes a reference of its own. */
NODISCARD enum td_status session_hold(struct session *session, struct tensor *tensor);
/* The same for as long as something else of the session lives, until session_unpin. */
NODISCARD enum td_status session_pin(struct session *session, struct tensor *tensor);
void session_unpin(struct session *session, uint64_t id);
/* The client has given the object away: takes all its handings-out back. */
void session_disown(struct session *session, uint64_t id);
/* The object with that id, as a reference of the caller's. */
NODISCARD enum td_status session_find(struct session *session, uint64_t id, struct tensor **out);
/* Takes one handing-out back. */
NODISCARD enum td_status session_drop(struct session *session, uint64_t id);

/* Gives back every object that was handed out to the client: not those that an item of a queue
 * stands for. */
void session_drop_all(struct session *session);

/* Begins a lease that the caller has filled in (core/lease.h); on failure it stays the caller's. */
NODISCARD enum td_status session_lease_begin(struct session *session, struct lease *lease,
                                             uint64_t *id);
/* A mapping of the storage, of which it takes a reference that lasts until the lease's end. */
NODISCARD enum td_status session_lease(struct session *session, enum lease_kind kind,
                                       struct storage *storage, uint64_t ttl_ms, uint64_t *lease);
/* The same of a tensor's. Recycled memory (core/ring.h) is not filled again meanwhile, unless the
 * session has the tensor only with items in hand, and asks for it as that and not by a name: then
 * it is as long as these are, so that a consumer can leave mapped what comes again and again. */
NODISCARD enum td_status session_lease_tensor(struct session *session, enum lease_kind kind,
                                              struct tensor *tensor, bool by_name, uint64_t ttl_ms,
                                              uint64_t *lease);
NODISCARD enum td_status session_release(struct session *session, uint64_t lease);
/* See lease_use. */
NODISCARD enum td_status
session_lease_use(struct session *session, uint64_t id,
                  enum td_status (*use)(struct lease *lease, void *argument), void *argument);
struct lease_table *session_leases(struct session_table *table);

#endif
