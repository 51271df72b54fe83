/* queue: named, bounded queues of tensors, which are handed over by reference.
 *
 * An item is a tuple of tensors with small metadata. Who gets one has it in hand: the item is in
 * flight until that consumer acknowledges it. It goes back to the front of the queue when the
 * consumer gives it back, dies, or lets visibility_ms pass; after QUEUE_DELIVERIES_MAX deliveries
 * it is parked aside instead. So each item is handed out at least once, and to one consumer at a
 * time unless that one is too slow.
 *
 * What a consumer has in hand is a lease (LEASE_ITEM) of its session: its end gives the item back
 * unless it was acknowledged, and until then the tensors are the session's objects. A consumer that
 * was too slow still has its lease, so the memory it reads is not written to anew.
 *
 * Threads: every function, from any thread. No lock is held over what frees memory.
 */
#ifndef CORE_QUEUE_H
#define CORE_QUEUE_H

#include "core/session.h"

#define QUEUE_DELIVERIES_MAX 5
#define QUEUE_META_MAX 4096  /* bytes of an item's text */
#define QUEUE_TENSORS_MAX 64 /* of an item */
#define QUEUE_ITEMS_MAX 65536

/* X(name, text) */
#define QUEUE_FULL_POLICIES(X)                                                                     \
    X(BLOCK, "block")                                                                              \
    X(FAIL, "fail")                                                                                \
    X(DROP_OLDEST, "drop_oldest")

enum queue_full {
#define QUEUE_FULL_ENUM(name, text) QUEUE_FULL_##name,
    QUEUE_FULL_POLICIES(QUEUE_FULL_ENUM)
#undef QUEUE_FULL_ENUM
        QUEUE_FULL_COUNT
};
const char *queue_full_name(enum queue_full policy);

struct queue_settings {
    uint64_t max_items, max_bytes, visibility_ms;
    enum queue_full when_full;
};
extern const struct queue_settings queue_defaults;

/* X(name): counted over the queue's life. */
#define QUEUE_COUNTERS(X) X(puts) X(gets) X(acks) X(returned) X(expired) X(dropped) X(drained)

struct queue_stats {
    struct queue_settings settings;
    uint64_t items, bytes; /* that wait */
    uint64_t in_flight, parked, waiting_gets, waiting_puts;
    uint64_t segments, segment_bytes; /* recycled memory of all producers */
    bool closed;
#define QUEUE_COUNTER_MEMBER(name) uint64_t name;
    QUEUE_COUNTERS(QUEUE_COUNTER_MEMBER)
#undef QUEUE_COUNTER_MEMBER
};

struct queue_table;
struct queue;
struct queue_item;
struct ring;

NODISCARD enum td_status queue_table_create(struct ledger *ledger, uint64_t max_queues,
                                            struct queue_table **out);
/* All sessions must have ended. */
void queue_table_destroy(struct queue_table *table);
uint64_t queue_table_count(struct queue_table *table);
/* Takes items back whose consumers were too slow; for the doors' clocks. */
void queue_table_expire(struct queue_table *table);

/* The queue of that name, made if there is none; the name counts against the account. Of one that
 * is there already the settings must be these, as far as `given` (of enum field bits) says that
 * they were asked for, else EXISTS; so it is with create_only. *out is a reference. */
NODISCARD enum td_status queue_open(struct queue_table *table, struct text name,
                                    const struct queue_settings *settings, field_set given,
                                    bool create_only, struct account *account, struct queue **out);
/* NOT_FOUND. */
NODISCARD enum td_status queue_find(struct queue_table *table, struct text name,
                                    struct queue **out);
struct queue *queue_ref(struct queue *queue);
void queue_unref(struct queue *queue);
CLEANUP_DEFINE(struct queue *, queue_unref)
/* Up to `max` queues after `cursor` in byte order, as references. */
size_t queue_list(struct queue_table *table, struct text prefix, struct text cursor, size_t max,
                  struct queue **out);
/* Removes the name and drops what waits; what is in flight is dropped when it comes back. */
NODISCARD enum td_status queue_delete(struct queue_table *table, struct text name);
/* Takes no more items; those that wait can still be got, and then getting is CLOSED. */
void queue_close(struct queue *queue);
/* Drops the items that wait, or those that are parked; returns how many. */
uint64_t queue_drain(struct queue *queue, bool parked);
struct text queue_name(const struct queue *queue);
/* Items that wait, or are parked. */
uint64_t queue_length(struct queue *queue);
void queue_read(struct queue *queue, struct queue_stats *out);

/* ---- items -----------------------------------------------------------------------------------
 */

/* An item of those tensors (references of its own), with a text; charged to the ledger, and its
 * bytes, with those of its texts, against QUOTA_QUEUE_BYTES of the account. keys[i].data may be
 * NULL. */
NODISCARD enum td_status queue_item_create(struct ledger *ledger, struct account *account,
                                           struct text meta, size_t count,
                                           struct tensor *const tensors[], const struct text keys[],
                                           struct queue_item **out);
struct queue_item *queue_item_ref(struct queue_item *item);
void queue_item_unref(struct queue_item *item);
CLEANUP_DEFINE(struct queue_item *, queue_item_unref)
/* 0 before it was put. */
uint64_t queue_item_id(const struct queue_item *item);
uint64_t queue_item_bytes(const struct queue_item *item);
unsigned queue_item_deliveries(const struct queue_item *item);
/* Takes a delivery back that nobody has seen. */
void queue_item_unseen(struct queue_item *item);
struct text queue_item_meta(const struct queue_item *item);
size_t queue_item_count(const struct queue_item *item);
/* The tensor is borrowed; a key that was not given is empty. */
struct tensor *queue_item_tensor(const struct queue_item *item, size_t i, struct text *key);

/* Appends the item, of which the queue takes a reference. When there is no room: by the queue's
 * policy; to block is to add the waiter if that may wait (*waits), else FULL. CLOSED, TOO_LARGE.
 *
 * Who waits stands in line: first come, first served, before those who come later. One that waited
 * comes back with the same waiter, woken or not, and keeps its place if it waits on. A waiter is
 * for one line. */
NODISCARD enum td_status queue_put(struct queue *queue, struct queue_item *item,
                                   struct waiter *waiter, bool may_wait, bool *waits);
/* Hands the first item to the session, under a lease; *item is a reference. Without an item: adds
 * the waiter, if that may wait (*waits; *until_ms: when an item may come back by itself, 0:
 * unknown), else EMPTY. CLOSED when none is to come. Who may not wait takes what is there, also
 * before those who do. */
NODISCARD enum td_status queue_get(struct queue *queue, struct session *session,
                                   struct waiter *waiter, bool may_wait, bool *waits,
                                   uint64_t *until_ms, struct queue_item **item, uint64_t *lease);
/* The waiter of one of the two gives up: leaves the line, and its turn to the next. */
void queue_put_forget(struct queue *queue, struct waiter *waiter);
void queue_get_forget(struct queue *queue, struct waiter *waiter);
/* The item in hand is done with. NOT_FOUND for what is no such lease of the session, CONFLICT when
 * the item has gone back: the consumer was too slow. The lease stays until it is released. */
NODISCARD enum td_status queue_ack(struct session *session, uint64_t lease);
/* References to the first items that wait, or are parked. Returns how many. */
size_t queue_peek(struct queue *queue, bool parked, size_t max, struct queue_item **out);

/* The session's recycled memory in this queue (core/ring.h), made at first; *out is a reference. */
NODISCARD enum td_status queue_ring(struct queue *queue, struct session *session,
                                    struct ring **out);

/* The same if it was made, as a reference; else NULL. */
struct ring *queue_ring_there(struct queue *queue, const struct session *session);

#endif
