/* Queues over a host of their own, without an engine: see open_queues and close_queues. */
#ifndef TESTS_UNIT_QUEUE_FIXTURE_H
#define TESTS_UNIT_QUEUE_FIXTURE_H

#include "core/queue.h"
#include "core/ring.h"
#include "tests/unit/core_assert.h"

#include <time.h>
#include <unistd.h>

#define MAX_QUEUES 8
#define LEASES 16 /* of a session */

static struct host host;
static struct session_table *sessions;
static struct queue_table *queues;
static struct session *producer, *consumer;

static inline struct session *open_session(struct account *account)
{
    struct session *session;
    assert_ok(session_open(sessions, account, 0, &session));
    return session;
}

static inline int open_queues(void **state)
{
    static const struct session_limits limits = {.sessions = 32, .objects = 512, .leases = LEASES};
    (void)state;
    host_open(&host, 64 * MIB, 0);
    assert_ok(session_table_create(&host.ledger, &limits, &sessions));
    assert_ok(queue_table_create(&host.ledger, MAX_QUEUES, &queues));
    producer = open_session(NULL);
    consumer = open_session(NULL);
    return 0;
}

/* With the sessions and the queues everything goes, to the last byte and descriptor. */
static inline int close_queues(void **state)
{
    (void)state;
    session_leave(producer);
    session_leave(consumer);
    queue_table_destroy(queues);
    struct session_counts counts;
    session_table_count(sessions, &counts);
    assert_int_equal(counts.sessions + counts.objects + counts.leases, 0);
    session_table_destroy(sessions);
    host_close(&host);
    return 0;
}

static inline struct queue *queue_with(uint64_t max_items, uint64_t max_bytes,
                                       enum queue_full when_full, uint64_t visibility_ms)
{
    struct queue *queue;
    struct queue_settings settings = {max_items, max_bytes, visibility_ms, when_full};
    assert_ok(queue_open(queues, text_of("q"), &settings, 0, true, NULL, &queue));
    return queue;
}

static inline struct queue *plain_queue(void)
{
    return queue_with(8, 1 << 20, QUEUE_FULL_BLOCK, 60000);
}

/* Who waits, and how often that was woken. */
struct seat {
    struct waiter waiter;
    atomic_int wakes;
};

static inline void seat_wake(struct waiter *waiter)
{
    struct seat *seat = (struct seat *)(void *)waiter;
    atomic_fetch_add(&seat->wakes, 1);
}

static inline struct seat *seat_init(struct seat *seat)
{
    *seat = (struct seat){.waiter.wake = seat_wake};
    return seat;
}

/* An item of one tensor of that many bytes, and a text. */
static inline struct queue_item *item_of(int64_t size, const char *meta, struct account *account)
{
    struct queue_item *item;
    struct tensor *tensor = bytes_tensor(host.cpu, size);
    struct text key = text_of("");
    assert_ok(queue_item_create(&host.ledger, account, text_of(meta), 1, &tensor, &key, &item));
    tensor_unref(tensor);
    return item;
}

/* Puts without waiting. */
static inline enum td_status try_put(struct queue *queue, int64_t size, const char *meta)
{
    struct seat seat;
    bool waits;
    struct queue_item *item = item_of(size, meta, NULL);
    enum td_status status = queue_put(queue, item, &seat_init(&seat)->waiter, false, &waits);
    assert_false(waits);
    queue_item_unref(item);
    return status;
}

static inline void put(struct queue *queue, const char *meta)
{
    assert_ok(try_put(queue, 8, meta));
}

/* What a get gave: nothing if the status is not TD_OK. */
struct got {
    enum td_status status;
    bool waits;
    uint64_t lease, id, until_ms;
    unsigned deliveries;
    char meta[64];
};

static inline struct got get_with(struct queue *queue, struct session *session, struct seat *seat,
                                  bool may_wait)
{
    struct got got = {0};
    struct queue_item *item = NULL;
    got.status = queue_get(queue, session, &seat->waiter, may_wait, &got.waits, &got.until_ms,
                           &item, &got.lease);
    if (got.status == TD_OK && !got.waits) {
        got.id = queue_item_id(item);
        got.deliveries = queue_item_deliveries(item);
        snprintf(got.meta, sizeof got.meta, "%.*s", TEXT_ARGS(queue_item_meta(item)));
        queue_item_unref(item);
    }
    return got;
}

/* Gets without waiting. */
static inline struct got try_get(struct queue *queue, struct session *session)
{
    struct seat seat;
    return get_with(queue, session, seat_init(&seat), false);
}

/* Gets the item with that text. */
static inline uint64_t get(struct queue *queue, struct session *session, const char *meta)
{
    struct got got = try_get(queue, session);
    assert_ok(got.status);
    assert_string_equal(got.meta, meta);
    return got.lease;
}

static inline struct queue_stats stats_of(struct queue *queue)
{
    struct queue_stats stats;
    queue_read(queue, &stats);
    return stats;
}

/* Acknowledges and lets go. */
static inline void done(struct session *session, uint64_t lease)
{
    assert_ok(queue_ack(session, lease));
    assert_ok(session_release(session, lease));
}

#define QTEST(name) cmocka_unit_test_setup_teardown(name, open_queues, close_queues)

#endif
