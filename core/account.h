/* account: what one principal holds, against its quota.
 *
 * A principal is a user at the Unix socket (by the kernel's word, SO_PEERCRED), or everybody who
 * comes over TCP or HTTP: with the token, or without one. uid 65534 is who the kernel cannot name,
 * such as the users of a container whose ids are not mapped here: they are many and look like one,
 * so that one is never trusted: it has half a quota, and sees no leases but its own.
 *
 * The ledger (core/ledger.h) keeps the daemon within the machine; accounts keep its clients from
 * taking everything from one another. Both are asked before anything is allocated.
 *
 * Threads: every function, from any thread.
 */
#ifndef CORE_ACCOUNT_H
#define CORE_ACCOUNT_H

#include "core/fail.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(NAME, name, option, what is counted) */
#define QUOTAS(X)                                                                                  \
    X(BYTES, "bytes", "--quota-bytes or --memory-limit", "bytes of tensors")                       \
    X(NAMES, "names", "--quota-names or --max-names", "names")                                     \
    X(LEASES, "leases", "--quota-leases", "leases")                                                \
    X(QUEUE_BYTES, "queue_bytes", "--quota-queue-bytes", "bytes in queues")                        \
    X(DESCRIPTORS, "descriptors", "--quota-descriptors or --max-descriptors",                      \
      "memory descriptors")                                                                        \
    X(CONNECTIONS, "connections", "--quota-connections or --max-connections", "connections")

enum quota {
#define QUOTA_ENUM(NAME, name, option, what) QUOTA_##NAME,
    QUOTAS(QUOTA_ENUM)
#undef QUOTA_ENUM
        QUOTA_COUNT
};

#define UID_UNKNOWN 65534u /* the kernel's overflowuid */

enum principal_kind { PRINCIPAL_UID, PRINCIPAL_TCP, PRINCIPAL_TOKEN };

struct principal {
    enum principal_kind kind;
    uint32_t uid; /* of PRINCIPAL_UID */
};

struct accounts;

struct account {
    atomic_uint refs;
    struct accounts *accounts;
    struct principal principal;
    char name[24]; /* "uid:1000", "tcp", "token" */
    uint64_t limits[QUOTA_COUNT];
    atomic_ullong used[QUOTA_COUNT];
    /* Of the bytes: those whose names are gone, and which this principal still holds. */
    atomic_ullong deleted_bytes;
    atomic_uint watches; /* its operations that wait for names */
    struct account *next;
};

NODISCARD enum td_status accounts_create(const uint64_t limits[QUOTA_COUNT], struct accounts **out);
/* All accounts must have been let go. */
void accounts_destroy(struct accounts *accounts);

/* The principal's account, as a reference; it ends when nobody holds it and it holds nothing. */
NODISCARD enum td_status account_open(struct accounts *accounts, struct principal principal,
                                      struct account **out);
struct account *account_ref(struct account *account);
void account_unref(struct account *account);
static inline bool account_is_trusted(const struct account *account)
{
    return account->principal.kind != PRINCIPAL_UID || account->principal.uid != UID_UNKNOWN;
}

/* OUT_OF_MEMORY, with who holds what, if that were more than the quota. An account of NULL has no
 * quota: the daemon's own doings. */
NODISCARD enum td_status account_reserve(struct account *account, enum quota quota,
                                         uint64_t amount);
/* The same without taking it: before something costly, which account_reserve follows. */
NODISCARD enum td_status account_check(struct account *account, enum quota quota, uint64_t amount);
/* Counts it also if that is more than the quota: for what cannot be refused any more. */
void account_force(struct account *account, enum quota quota, uint64_t amount);
void account_release(struct account *account, enum quota quota, uint64_t amount);
/* The bytes count against it, or no longer, as deleted ones that it still holds. */
void account_hold_deleted(struct account *account, uint64_t bytes);
void account_drop_deleted(struct account *account, uint64_t bytes);

/* "bytes", ... */
const char *quota_name(enum quota quota);

/* References to at most `max` accounts, in no order; returns how many. */
size_t accounts_list(struct accounts *accounts, size_t max, struct account **out);
/* "uid:1000 900, tcp 100": who holds most of it, for messages. At most `size` bytes with the NUL.
 */
void accounts_describe(struct accounts *accounts, enum quota quota, char *out, size_t size);

#endif
