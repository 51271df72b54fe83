/* queue_internal: what the files of queues share. */
#ifndef CORE_QUEUE_INTERNAL_H
#define CORE_QUEUE_INTERNAL_H

#include "core/account.h"
#include "core/queue.h"
#include "core/ring.h"

#include <bsd/sys/tree.h>
#include <sys/queue.h>

struct queue_item {
    atomic_uint refs;
    struct ledger *ledger;
    struct account *account; /* a reference: who put it */
    size_t charged_bytes;    /* in the ledger */
    uint64_t quota_bytes;    /* against the account: those of tensors and texts */
    uint64_t bytes, id;
    atomic_uint deliveries;
    atomic_bool done;             /* it is no queue's any more */
    TAILQ_ENTRY(queue_item) link; /* among those that wait, or are parked; under the queue's lock */
    struct text meta;
    size_t count;
    struct item_tensor {
        struct tensor *tensor; /* a reference */
        struct text key;
    } tensors[]; /* and behind them the texts */
};
TAILQ_HEAD(item_list, queue_item);

/* It leaves the queue for good: no bytes of a queue any more, and nothing leads to its tensors but
 * who holds them. Once; takes no lock but those of storages and accounts. */
void queue_item_done(struct queue_item *item);

/* An item in a consumer's hands. */
struct delivery {
    struct lease lease;
    struct queue *queue; /* these three are references */
    struct queue_item *item;
    struct session *session;
    size_t pinned;              /* of the item's tensors, as objects of the session */
    bool flying;                /* under the queue's lock: it goes back unless it is acknowledged */
    uint64_t due_ms;            /* of clock_now_ms: then it goes back */
    TAILQ_ENTRY(delivery) link; /* while it is flying, by when they are due */
};
TAILQ_HEAD(delivery_list, delivery);

struct queue {
    atomic_uint refs;
    struct queue_table *table;
    struct account *account; /* a reference, with a name of its quota */
    struct queue_settings settings;
    RB_ENTRY(queue) by_name; /* these three under the table's lock */
    struct queue *next;
    bool listed;

    pthread_mutex_t lock; /* of all that follows */
    bool closed, deleted;
    struct item_list items, parked;
    struct queue_item *back; /* of the items, the one that came back last; or NULL */
    struct delivery_list flying;
    uint64_t last_item, count, bytes, flying_count, parked_count;
    struct waiter_list getters, putters;
    /* Of the waiters those that were woken, and have not come back yet: what is there is theirs,
     * before anybody else's who would wait. */
    uint64_t getters_called, putters_called;
    struct ring_member {
        struct ring *ring; /* a reference */
        struct ring_member *next;
    } * rings; /* of the producers */
#define QUEUE_COUNTER_MEMBER(name) uint64_t name;
    QUEUE_COUNTERS(QUEUE_COUNTER_MEMBER)
#undef QUEUE_COUNTER_MEMBER

    struct text name; /* points to name_bytes, or in a search key to the caller's */
    char name_bytes[];
};

/* Takes items back whose consumers were too slow. */
void queue_expire(struct queue *queue);
/* With the lock, after anything has changed: wakes those who wait for that. */
void queue_settle_locked(struct queue *queue);
/* Lets go of items that have left the queue. Without its lock. */
void queue_items_free(struct item_list *items);

#endif
