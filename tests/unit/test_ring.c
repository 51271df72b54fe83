/* ring: a producer's segments, used over and over, and never while somebody may read them. */
#include "tests/unit/queue_fixture.h"

#define SIZE 100000

static struct queue *queue;
static struct ring *ring;

/* A ring of the queue's: max_items + 4 segments. */
static int open_ring(void **state)
{
    int rc = open_queues(state);
    queue = queue_with(1, 100 * MIB, QUEUE_FULL_BLOCK, 60000);
    assert_ok(queue_ring(queue, producer, &ring));
    return rc;
}
#define SEGMENTS_MAX 5

static int close_ring(void **state)
{
    ring_unref(ring);
    queue_unref(queue);
    return close_queues(state);
}

static struct storage *take_segment(uint64_t size)
{
    struct storage *storage;
    bool waits;
    assert_ok(ring_take(ring, host.cpu, size, NULL, &waits, &storage));
    assert_false(waits);
    assert_true(storage->size_bytes >= size);
    assert_true(ring_owns(storage));
    return storage;
}

/* As if a tensor had been made over it, and had gone. */
static void give_back(struct storage *storage)
{
    storage_left(storage);
    storage_unref(storage);
}

static uint64_t recycled(uint64_t size)
{
    struct storage *storage = take_segment(size);
    uint64_t id = storage->id;
    give_back(storage);
    return id;
}

static void assert_segments(uint64_t count)
{
    uint64_t segments, bytes;
    ring_count(ring, &segments, &bytes);
    assert_int_equal(segments, count);
    assert_int_equal(bytes > 0, count > 0);
    assert_int_equal(stats_of(queue).segments, count);
    assert_int_equal(stats_of(queue).segment_bytes, bytes);
}

static void a_segment_comes_back_when_nobody_has_it(void **state)
{
    (void)state;
    struct storage *first = take_segment(SIZE), *second = take_segment(SIZE);
    uint64_t id = first->id;
    assert_int_not_equal(second->id, id);
    assert_false(ring_is_ready(ring, SIZE));
    give_back(first);
    assert_true(ring_is_ready(ring, SIZE));
    first = take_segment(SIZE);
    assert_int_equal(first->id, id);
    assert_segments(2);
    give_back(first);
    give_back(second);
    uint64_t last = recycled(SIZE);
    assert_int_equal(recycled(SIZE), last); /* which is in the caches still */
    assert_segments(2);
}

/* Segments are sized for what is asked: larger ones serve smaller needs, but not much smaller. */
static void segments_grow_and_shrink(void **state)
{
    (void)state;
    uint64_t small = recycled(SIZE);
    uint64_t large = recycled(3 * SIZE);
    assert_int_not_equal(small, large);
    assert_int_equal(recycled(SIZE), small);
    struct storage *held = take_segment(SIZE);
    assert_int_equal(recycled(SIZE), large);
    assert_int_not_equal(recycled(SIZE / 4), large);
    give_back(held);
    assert_segments(3);
    assert_int_not_equal(recycled(0), 0);
}

static void nothing_is_waited_for_that_can_be_freed(void **state)
{
    (void)state;
    struct storage *held[SEGMENTS_MAX - 1];
    for (size_t i = 0; i < COUNT(held); i++)
        held[i] = take_segment(SIZE);
    uint64_t last = recycled(SIZE);
    assert_segments(SEGMENTS_MAX);
    uint64_t large = recycled(10 * SIZE); /* in place of the one that is free */
    assert_int_not_equal(large, last);
    assert_segments(SEGMENTS_MAX);
    assert_int_not_equal(recycled(8), large); /* far too large */
    for (size_t i = 0; i < COUNT(held); i++)
        give_back(held[i]);
}

static void who_wants_more_waits(void **state)
{
    (void)state;
    struct storage *held[SEGMENTS_MAX], *got;
    struct seat seats[2];
    bool waits;
    for (size_t i = 0; i < COUNT(held); i++)
        held[i] = take_segment(SIZE);
    assert_refused(ring_take(ring, host.cpu, SIZE, NULL, &waits, &got), TD_FULL, "max_items");
    for (int i = 0; i < 2; i++) {
        assert_ok(ring_take(ring, host.cpu, SIZE, &seat_init(&seats[i])->waiter, &waits, &got));
        assert_true(waits);
    }
    give_back(held[0]);
    assert_int_equal(atomic_load(&seats[0].wakes), 1);
    assert_int_equal(atomic_load(&seats[1].wakes), 0);
    ring_forget(ring, &seats[0].waiter, true); /* gives up: the next one's turn */
    assert_int_equal(atomic_load(&seats[1].wakes), 1);
    ring_forget(ring, &seats[1].waiter, false);
    assert_ok(ring_take(ring, host.cpu, 10 * SIZE, &seats[1].waiter, &waits, &got));
    assert_false(waits);
    give_back(got);
    for (size_t i = 1; i < COUNT(held); i++)
        give_back(held[i]);
}

/* Memory that others took meanwhile: nothing is in use any more that could come back. */
static void who_waits_in_vain_is_told(void **state)
{
    (void)state;
    struct storage *held = take_segment(SIZE), *got;
    struct seat seats[2];
    bool waits;
    for (int i = 0; i < 2; i++) {
        assert_ok(
            ring_take(ring, host.cpu, 100 * MIB, &seat_init(&seats[i])->waiter, &waits, &got));
        assert_true(waits);
    }
    ring_retire(held);
    assert_int_equal(atomic_load(&seats[0].wakes), 1);
    ring_forget(ring, &seats[0].waiter, false);
    assert_refused(ring_take(ring, host.cpu, 100 * MIB, &seats[0].waiter, &waits, &got),
                   TD_OUT_OF_MEMORY, "do not fit");
    assert_int_equal(atomic_load(&seats[1].wakes), 1); /* it looks for itself, and is told, too */
    ring_forget(ring, &seats[1].waiter, false);
    give_back(held);
}

/* A client may give a segment's descriptor back as memory of its own: a tensor over what is free.
 */
static void what_a_client_has_a_tensor_over_is_not_free(void **state)
{
    (void)state;
    struct storage *storage = take_segment(SIZE);
    struct dims shape = {.rank = 1, .v = {10}};
    struct layout layout;
    struct tensor *tensor, *other;
    uint64_t id = storage->id;
    assert_ok(layout_contiguous(TD_UINT8, &shape, &layout));
    /* Over one that was just taken: its end does not make that free. */
    assert_ok(tensor_create(storage, &layout, &tensor));
    tensor_unref(tensor);
    assert_false(ring_is_ready(ring, SIZE));
    assert_int_not_equal(recycled(SIZE), id);
    /* Over one that is free: it is not while the tensor is there. */
    assert_ok(tensor_create(storage, &layout, &tensor));
    storage_left(storage);
    assert_int_not_equal(recycled(SIZE), id);
    tensor_unref(tensor);
    assert_int_equal(recycled(SIZE), id);
    assert_ok(tensor_create(storage, &layout, &tensor));
    assert_ok(tensor_create(storage, &layout, &other));
    assert_int_not_equal(recycled(SIZE), id);
    while (ring_drop_free(ring))
        ;
    assert_segments(1);
    tensor_unref(tensor);
    tensor_unref(other);
    storage_unref(storage);
    assert_int_equal(recycled(SIZE), id);
}

static void a_retired_segment_goes_with_its_last_use(void **state)
{
    (void)state;
    struct storage *storage = take_segment(SIZE);
    uint64_t id = storage->id;
    ring_retire(storage);
    ring_retire(storage);
    assert_segments(0);
    give_back(storage);
    assert_int_not_equal(recycled(SIZE), id);
    struct tensor *tensor = bytes_tensor(host.cpu, 8);
    ring_retire(tensor->storage); /* no segment at all */
    tensor_unref(tensor);
}

static uint64_t leases(void)
{
    struct session_counts counts;
    session_table_count(sessions, &counts);
    return counts.leases;
}

static void a_ring_ends_with_its_session(void **state)
{
    (void)state;
    struct ring *other;
    struct session *session = open_session(NULL);
    struct storage *storage;
    struct seat seat;
    bool waits;
    assert_ok(queue_ring(queue, session, &other));
    assert_int_equal(leases(), 2);
    assert_ok(ring_take(other, host.cpu, SIZE, NULL, &waits, &storage));
    assert_ok(ring_take(other, host.cpu, 100 * MIB, &seat_init(&seat)->waiter, &waits,
                        &(struct storage *){NULL}));
    assert_true(waits);
    session_leave(session);
    assert_int_equal(leases(), 1);
    assert_int_equal(atomic_load(&seat.wakes), 1);
    assert_true(ring_is_closed(other));
    assert_refused(ring_take(other, host.cpu, SIZE, NULL, &waits, &(struct storage *){NULL}),
                   TD_CLOSED, "session has ended");
    assert_int_equal(stats_of(queue).segments, 0);
    memset(storage->memory.data, 1, SIZE); /* who has it still has it */
    give_back(storage);
    ring_unref(other);
}

static void a_ring_ends_with_its_queue(void **state)
{
    (void)state;
    struct ring *again;
    uint64_t id = recycled(SIZE);
    assert_int_not_equal(id, 0);
    assert_ok(queue_delete(queues, text_of("q")));
    assert_true(ring_is_closed(ring));
    assert_int_equal(leases(), 0); /* or who makes one queue after the other runs out of them */
    assert_null(queue_ring_there(queue, producer));
    assert_refused(queue_ring(queue, producer, &again), TD_CLOSED, "deleted");
    assert_null(again);
    assert_int_equal(leases(), 0);
}

static void a_session_has_one_ring_in_a_queue(void **state)
{
    (void)state;
    struct ring *again, *other;
    assert_ok(queue_ring(queue, producer, &again));
    assert_ptr_equal(again, ring);
    assert_ok(queue_ring(queue, consumer, &other));
    assert_ptr_not_equal(other, ring);
    ring_unref(again);
    again = queue_ring_there(queue, producer);
    assert_ptr_equal(again, ring);
    ring_close(ring); /* as its lease is released */
    ring_close(ring);
    ring_unref(again);
    assert_null(queue_ring_there(queue, producer));
    assert_ok(queue_ring(queue, producer, &again)); /* a new one, then */
    assert_ptr_not_equal(again, ring);
    ring_unref(again);
    ring_unref(other);
}

#define RTEST(name) cmocka_unit_test_setup_teardown(name, open_ring, close_ring)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RTEST(a_segment_comes_back_when_nobody_has_it),
        RTEST(segments_grow_and_shrink),
        RTEST(nothing_is_waited_for_that_can_be_freed),
        RTEST(who_wants_more_waits),
        RTEST(who_waits_in_vain_is_told),
        RTEST(what_a_client_has_a_tensor_over_is_not_free),
        RTEST(a_retired_segment_goes_with_its_last_use),
        RTEST(a_ring_ends_with_its_session),
        RTEST(a_ring_ends_with_its_queue),
        RTEST(a_session_has_one_ring_in_a_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
