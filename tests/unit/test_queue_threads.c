/* queue, from many threads: producers, consumers, some of which die with items in hand or give up
 * waiting. Nothing is lost, and nothing handed out twice that had not come back. For the thread
 * sanitizer. */
#include "tests/unit/queue_fixture.h"

#include <pthread.h>

#define PRODUCERS 3
#define CONSUMERS 4
#define PUTS 400 /* of each producer */
#define SIZE 70000

static struct queue *queue;
static atomic_int errors, acked[PRODUCERS][PUTS], handed, putting;

/* A thread that waits, as a door's request does. */
struct sleeper {
    struct waiter waiter;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool is_woken;
};

static void sleeper_wake(struct waiter *waiter)
{
    struct sleeper *sleeper = (struct sleeper *)(void *)waiter;
    pthread_mutex_lock(&sleeper->lock);
    sleeper->is_woken = true;
    pthread_cond_signal(&sleeper->woken);
    pthread_mutex_unlock(&sleeper->lock);
}

static void sleeper_init(struct sleeper *sleeper)
{
    memset(sleeper, 0, sizeof *sleeper);
    sleeper->waiter.wake = sleeper_wake;
    pthread_mutex_init(&sleeper->lock, NULL);
    pthread_cond_init(&sleeper->woken, NULL);
}

static void sleeper_finish(struct sleeper *sleeper)
{
    pthread_mutex_destroy(&sleeper->lock);
    pthread_cond_destroy(&sleeper->woken);
}

/* False if nobody woke it for that long. */
static bool sleeper_sleep(struct sleeper *sleeper, long ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (until.tv_nsec + ms * 1000000) / 1000000000;
    until.tv_nsec = (until.tv_nsec + ms * 1000000) % 1000000000;
    pthread_mutex_lock(&sleeper->lock);
    int rc = 0;
    while (!sleeper->is_woken && rc == 0)
        rc = pthread_cond_timedwait(&sleeper->woken, &sleeper->lock, &until);
    bool woken = sleeper->is_woken;
    sleeper->is_woken = false;
    pthread_mutex_unlock(&sleeper->lock);
    return woken;
}

#define FOREVER_MS 20000 /* who is not woken for that long is forgotten */

static void check(bool good, const char *what)
{
    if (!good && atomic_fetch_add(&errors, 1) == 0)
        fprintf(stderr, "%s: %s\n", what, fail_detail());
}

/* ---- producers ---------------------------------------------------------------------------------
 */

/* One of the session's segments, with the item's text in it. */
static struct tensor *fill_segment(struct ring *ring, struct sleeper *sleeper, const char *text)
{
    struct storage *storage = NULL;
    struct tensor *tensor = NULL;
    struct layout layout;
    struct dims shape = {.rank = 1, .v = {SIZE}};
    bool waits = true;
    for (;;) {
        check(ring_take(ring, host.cpu, SIZE, &sleeper->waiter, &waits, &storage) == TD_OK, "take");
        if (!waits)
            break;
        check(sleeper_sleep(sleeper, FOREVER_MS), "a segment is waited for");
        ring_forget(ring, &sleeper->waiter, false);
    }
    check(layout_contiguous(TD_UINT8, &shape, &layout) == TD_OK, "layout");
    check(tensor_create(storage, &layout, &tensor) == TD_OK, "tensor");
    if (storage_mode_of(storage) == STORAGE_BUILDING)
        storage_finish(storage, STORAGE_SINGLE_WRITER);
    snprintf((char *)tensor_data(tensor), 64, "%s", text);
    storage_left(storage);
    storage_unref(storage);
    return tensor;
}

/* Now and then it gives up waiting, and comes again. */
static void put_until_done(struct queue_item *item, struct sleeper *sleeper, unsigned *random)
{
    bool waits = true;
    for (;;) {
        check(queue_put(queue, item, &sleeper->waiter, true, &waits) == TD_OK, "put");
        if (!waits)
            return;
        bool hasty = rand_r(random) % 4 == 0;
        if (!sleeper_sleep(sleeper, hasty ? 1 : FOREVER_MS)) {
            check(hasty, "room is waited for");
            queue_put_forget(queue, &sleeper->waiter);
        }
    }
}

static void *produce(void *argument)
{
    int number = (int)(intptr_t)argument;
    unsigned random = (unsigned)number;
    struct session *session = open_session(NULL);
    struct sleeper room, segments; /* a waiter stands in one line */
    struct ring *ring;
    struct text key = text_of("");
    sleeper_init(&room);
    sleeper_init(&segments);
    check(queue_ring(queue, session, &ring) == TD_OK, "ring");
    for (int i = 0; i < PUTS; i++) {
        char meta[32];
        struct queue_item *item = NULL;
        snprintf(meta, sizeof meta, "%d %d", number, i);
        struct tensor *tensor = fill_segment(ring, &segments, meta);
        check(queue_item_create(&host.ledger, NULL, text_of(meta), 1, &tensor, &key, &item) ==
                  TD_OK,
              "item");
        tensor_unref(tensor);
        put_until_done(item, &room, &random);
        queue_item_unref(item);
    }
    ring_unref(ring);
    session_leave(session);
    sleeper_finish(&room);
    sleeper_finish(&segments);
    if (atomic_fetch_sub(&putting, 1) == 1)
        queue_close(queue);
    return NULL;
}

/* ---- consumers ---------------------------------------------------------------------------------
 */

static enum td_status get_until(struct session *session, struct sleeper *sleeper, unsigned *random,
                                struct queue_item **item, uint64_t *lease)
{
    for (;;) {
        bool waits;
        uint64_t until_ms;
        bool hasty = rand_r(random) % 4 == 0;
        enum td_status status =
            queue_get(queue, session, &sleeper->waiter, true, &waits, &until_ms, item, lease);
        if (status != TD_OK || !waits)
            return status;
        if (!sleeper_sleep(sleeper, hasty ? 1 : FOREVER_MS)) {
            check(hasty, "an item is waited for");
            queue_get_forget(queue, &sleeper->waiter);
        }
    }
}

/* The bytes are those that were put, also now. */
static void read_item(const struct queue_item *item, int *by, int *number)
{
    struct text key, meta = queue_item_meta(item);
    char text[32];
    snprintf(text, sizeof text, "%.*s", TEXT_ARGS(meta));
    check(strcmp(text, (const char *)tensor_data(queue_item_tensor(item, 0, &key))) == 0, "bytes");
    check(sscanf(text, "%d %d", by, number) == 2, "meta");
}

static void *consume(void *argument)
{
    unsigned random = 100 + (unsigned)(intptr_t)argument;
    struct session *session = open_session(NULL);
    struct sleeper sleeper;
    sleeper_init(&sleeper);
    for (;;) {
        struct queue_item *item = NULL;
        uint64_t lease;
        int by = 0, number = 0;
        if (get_until(session, &sleeper, &random, &item, &lease) != TD_OK)
            break; /* closed */
        atomic_fetch_add(&handed, 1);
        read_item(item, &by, &number);
        int chance = rand_r(&random) % 8;
        if (chance > 1 || queue_item_deliveries(item) >= QUEUE_DELIVERIES_MAX) {
            read_item(item, &by, &number);
            check(queue_ack(session, lease) == TD_OK, "ack");
            atomic_fetch_add(&acked[by][number], 1);
        }
        queue_item_unref(item);
        if (chance != 0) {
            check(session_release(session, lease) == TD_OK, "release");
        } else { /* dies */
            session_leave(session);
            session = open_session(NULL);
        }
    }
    session_leave(session);
    sleeper_finish(&sleeper);
    return NULL;
}

static void *look(void *argument)
{
    (void)argument;
    while (atomic_load(&putting)) {
        struct queue_item *items[4];
        struct queue_stats stats = stats_of(queue);
        check(stats.in_flight <= CONSUMERS, "more in flight than there are consumers");
        for (size_t n = queue_peek(queue, false, 4, items); n > 0; n--)
            queue_item_unref(items[n - 1]);
        queue_table_expire(queues);
        usleep(500);
    }
    return NULL;
}

static void every_item_is_acknowledged_once(void **state)
{
    (void)state;
    pthread_t threads[PRODUCERS + CONSUMERS + 1];
    queue = queue_with(4, 100 * MIB, QUEUE_FULL_BLOCK, 60000);
    atomic_store(&putting, PRODUCERS);
    for (intptr_t i = 0; i < PRODUCERS; i++)
        pthread_create(&threads[i], NULL, produce, (void *)i);
    for (intptr_t i = 0; i < CONSUMERS; i++)
        pthread_create(&threads[PRODUCERS + i], NULL, consume, (void *)i);
    pthread_create(&threads[PRODUCERS + CONSUMERS], NULL, look, NULL);
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&errors), 0);
    for (int by = 0; by < PRODUCERS; by++)
        for (int i = 0; i < PUTS; i++)
            if (atomic_load(&acked[by][i]) != 1)
                fail_msg("item %d of producer %d: acknowledged %d times", i, by,
                         atomic_load(&acked[by][i]));
    struct queue_stats stats = stats_of(queue);
    assert_int_equal(stats.puts, PRODUCERS * PUTS);
    assert_int_equal(stats.acks, PRODUCERS * PUTS);
    assert_int_equal(stats.gets, atomic_load(&handed));
    assert_int_equal(stats.gets, stats.acks + stats.returned);
    assert_int_equal(stats.items + stats.in_flight + stats.parked + stats.segments, 0);
    assert_int_equal(stats.waiting_gets + stats.waiting_puts, 0);
    queue_unref(queue);
}

/* ---- one session from several connections ------------------------------------------------------
 */

static void *allocate(void *argument)
{
    (void)argument;
    for (int i = 0; i < 200; i++) {
        struct ring *ring = NULL;
        struct storage *storage;
        bool waits;
        if (queue_ring(queue, producer, &ring) != TD_OK)
            return NULL; /* deleted */
        if (ring_take(ring, host.cpu, SIZE, NULL, &waits, &storage) == TD_OK) {
            storage_left(storage);
            storage_unref(storage);
        }
        if (i % 50 == 7)
            ring_close(ring);
        ring_unref(ring);
    }
    return NULL;
}

static void *delete_soon(void *argument)
{
    (void)argument;
    usleep(2000);
    check(queue_delete(queues, text_of("q")) == TD_OK, "delete");
    return NULL;
}

static void rings_are_made_once_and_end_with_the_queue(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        pthread_t threads[4];
        queue = plain_queue();
        for (size_t i = 0; i < COUNT(threads); i++)
            pthread_create(&threads[i], NULL, i ? allocate : delete_soon, NULL);
        for (size_t i = 0; i < COUNT(threads); i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(stats_of(queue).segments, 0);
        assert_int_equal(session_entries(producer), 0);
        queue_unref(queue);
    }
    assert_int_equal(atomic_load(&errors), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        QTEST(every_item_is_acknowledged_once),
        QTEST(rings_are_made_once_and_end_with_the_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
