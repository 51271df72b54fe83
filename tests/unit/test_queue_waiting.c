/* queue: who waits for items and for room: in which order, and that none sleeps on. */
#include "tests/unit/queue_fixture.h"

static struct seat seats[4];

static int open_waiting(void **state)
{
    for (size_t i = 0; i < COUNT(seats); i++)
        seat_init(&seats[i]);
    return open_queues(state);
}

static int wakes(int seat)
{
    return atomic_load(&seats[seat].wakes);
}

static struct got wait_get(struct queue *queue, int seat)
{
    return get_with(queue, consumer, &seats[seat], true);
}

static void assert_waits(struct got got)
{
    assert_ok(got.status);
    assert_true(got.waits);
}

static void assert_got(struct got got, const char *meta)
{
    assert_ok(got.status);
    assert_false(got.waits);
    assert_string_equal(got.meta, meta);
}

/* ---- gets --------------------------------------------------------------------------------------
 */

static void gets_are_served_in_the_order_they_came(void **state)
{
    (void)state;
    struct queue *queue = plain_queue();
    assert_waits(wait_get(queue, 0));
    assert_waits(wait_get(queue, 1));
    assert_int_equal(stats_of(queue).waiting_gets, 2);
    put(queue, "a");
    assert_int_equal(wakes(0), 1);
    assert_int_equal(wakes(1), 0);
    assert_waits(wait_get(queue, 2)); /* the item is there, for who was woken */
    put(queue, "b");
    assert_int_equal(wakes(1), 1);
    assert_int_equal(wakes(2), 0);
    assert_got(wait_get(queue, 1), "a");
    assert_got(wait_get(queue, 0), "b");
    put(queue, "c");
    assert_int_equal(wakes(2), 1);
    assert_got(wait_get(queue, 2), "c");
    queue_unref(queue);
}

static void who_does_not_wait_takes_what_is_there(void **state)
{
    (void)state;
    struct queue *queue = plain_queue();
    assert_waits(wait_get(queue, 0));
    assert_waits(wait_get(queue, 1));
    put(queue, "a");
    assert_got(try_get(queue, consumer), "a");
    assert_waits(wait_get(queue, 0)); /* too late, and first in line again */
    put(queue, "b");
    assert_int_equal(wakes(0), 2);
    assert_int_equal(wakes(1), 0);
    assert_got(wait_get(queue, 0), "b");
    queue_get_forget(queue, &seats[1].waiter);
    queue_unref(queue);
}

static void a_get_that_gives_up_passes_its_turn_on(void **state)
{
    (void)state;
    struct queue *queue = plain_queue();
    for (int i = 0; i < 3; i++)
        assert_waits(wait_get(queue, i));
    queue_get_forget(queue, &seats[1].waiter);
    put(queue, "a");
    assert_int_equal(wakes(0), 1);
    queue_get_forget(queue, &seats[0].waiter);
    assert_int_equal(wakes(1), 0);
    assert_int_equal(wakes(2), 1);
    /* At its deadline it does not wait any more, and takes what it was woken for. */
    assert_got(get_with(queue, consumer, &seats[2], false), "a");
    assert_refused(get_with(queue, consumer, &seats[0], false).status, TD_EMPTY, "");
    assert_int_equal(stats_of(queue).waiting_gets, 0);
    put(queue, "b");
    assert_got(wait_get(queue, 0), "b");
    queue_unref(queue);
}

static void a_get_keeps_its_place_when_it_looks_again(void **state)
{
    (void)state;
    struct queue *queue = plain_queue();
    put(queue, "a");
    uint64_t lease = get(queue, producer, "a");
    struct got got = wait_get(queue, 0);
    assert_waits(got);
    assert_true(got.until_ms > 0); /* when the item may come back */
    assert_waits(wait_get(queue, 1));
    assert_waits(wait_get(queue, 0));
    assert_ok(session_release(producer, lease));
    assert_int_equal(wakes(0), 1);
    assert_int_equal(wakes(1), 0);
    assert_got(wait_get(queue, 0), "a");
    queue_get_forget(queue, &seats[1].waiter);
    queue_unref(queue);
}

static void an_item_that_expires_goes_to_who_waits(void **state)
{
    (void)state;
    struct queue *queue = queue_with(8, 1000, QUEUE_FULL_BLOCK, 300);
    put(queue, "a");
    (void)get(queue, producer, "a");
    assert_waits(wait_get(queue, 0));
    assert_waits(wait_get(queue, 1));
    usleep(310000);
    assert_waits(wait_get(queue, 1)); /* who notices it is not who gets it */
    assert_int_equal(wakes(0), 1);
    assert_got(wait_get(queue, 0), "a");
    queue_get_forget(queue, &seats[1].waiter);
    queue_unref(queue);
}

/* A get that fails for a reason of its own leaves the item to the next. */
static void an_item_that_is_refused_wakes_the_next(void **state)
{
    (void)state;
    struct queue *queue = queue_with(64, 1000, QUEUE_FULL_BLOCK, 60000);
    for (int i = 0; i < LEASES; i++) {
        put(queue, "");
        assert_ok(try_get(queue, consumer).status);
    }
    assert_waits(wait_get(queue, 0));
    assert_waits(get_with(queue, producer, &seats[1], true));
    put(queue, "a");
    assert_refused(wait_get(queue, 0).status, TD_OUT_OF_MEMORY, "--max-leases");
    assert_int_equal(wakes(1), 1);
    assert_got(get_with(queue, producer, &seats[1], true), "a");
    queue_unref(queue);
}

/* ---- puts --------------------------------------------------------------------------------------
 */

/* The items that the seats put, and whether they wait. */
static struct queue_item *items[COUNT(seats)];

static bool wait_put(struct queue *queue, int seat, int64_t size)
{
    bool waits;
    if (!items[seat])
        items[seat] = item_of(size, "", NULL);
    assert_ok(queue_put(queue, items[seat], &seats[seat].waiter, true, &waits));
    if (!waits)
        queue_item_unref(take(&items[seat]));
    return waits;
}

static void give_up(struct queue *queue, int seat)
{
    queue_put_forget(queue, &seats[seat].waiter);
    queue_item_unref(take(&items[seat]));
}

static void take_one(struct queue *queue)
{
    struct got got = try_get(queue, consumer);
    assert_ok(got.status);
    done(consumer, got.lease);
}

static void puts_wait_in_the_order_they_came(void **state)
{
    (void)state;
    struct queue *queue = queue_with(1, 1000, QUEUE_FULL_BLOCK, 60000);
    put(queue, "");
    assert_refused(try_put(queue, 1, ""), TD_FULL, "1 items (of 1)");
    assert_true(wait_put(queue, 0, 8));
    assert_true(wait_put(queue, 1, 8));
    assert_int_equal(stats_of(queue).waiting_puts, 2);
    take_one(queue);
    assert_int_equal(wakes(0), 1);
    assert_int_equal(wakes(1), 0);
    /* There is room, but others were here before. */
    assert_refused(try_put(queue, 1, ""), TD_FULL, "others wait");
    assert_true(wait_put(queue, 2, 8));
    assert_false(wait_put(queue, 0, 8));
    take_one(queue);
    assert_int_equal(wakes(1), 1);
    assert_false(wait_put(queue, 1, 8));
    take_one(queue);
    assert_false(wait_put(queue, 2, 8));
    queue_unref(queue);
}

/* The deadline of who was woken and the room come together: it is that one's, or the next one's. */
static void a_put_that_gives_up_passes_its_turn_on(void **state)
{
    (void)state;
    struct queue *queue = queue_with(1, 1000, QUEUE_FULL_BLOCK, 60000);
    bool waits;
    put(queue, "");
    for (int i = 0; i < 3; i++)
        assert_true(wait_put(queue, i, 8));
    take_one(queue);
    assert_int_equal(wakes(0), 1);
    give_up(queue, 0);
    assert_int_equal(wakes(1), 1);
    assert_ok(queue_put(queue, items[1], &seats[1].waiter, false, &waits));
    assert_false(waits);
    queue_item_unref(take(&items[1]));
    assert_int_equal(stats_of(queue).items, 1);
    take_one(queue);
    assert_int_equal(wakes(2), 1);
    assert_false(wait_put(queue, 2, 8));
    queue_unref(queue);
}

/* What does not fit yet holds up what would; until it gives up. */
static void a_large_item_is_waited_for(void **state)
{
    (void)state;
    struct queue *queue = queue_with(8, 100, QUEUE_FULL_BLOCK, 60000);
    assert_ok(try_put(queue, 50, "a"));
    assert_ok(try_put(queue, 20, "b"));
    assert_true(wait_put(queue, 0, 90));
    assert_true(wait_put(queue, 1, 20));
    take_one(queue);
    assert_int_equal(wakes(0), 1);
    assert_true(wait_put(queue, 0, 90)); /* 20 are left: for the other it is enough */
    assert_int_equal(wakes(1), 0);
    assert_int_equal(stats_of(queue).waiting_puts, 2);
    take_one(queue);
    assert_int_equal(wakes(0), 2);
    assert_false(wait_put(queue, 0, 90));
    assert_int_equal(wakes(1), 1); /* looks, and there is no room */
    assert_true(wait_put(queue, 1, 20));
    assert_true(wait_put(queue, 2, 10));
    give_up(queue, 1);
    assert_int_equal(wakes(2), 1); /* for that one there is */
    assert_false(wait_put(queue, 2, 10));
    queue_unref(queue);
}

static void draining_makes_room_for_all(void **state)
{
    (void)state;
    struct queue *queue = queue_with(2, 1000, QUEUE_FULL_BLOCK, 60000);
    put(queue, "");
    put(queue, "");
    for (int i = 0; i < 3; i++)
        assert_true(wait_put(queue, i, 8));
    assert_int_equal(queue_drain(queue, false), 2);
    assert_false(wait_put(queue, 0, 8));
    assert_int_equal(wakes(1), 1);
    assert_false(wait_put(queue, 1, 8));
    assert_int_equal(wakes(2), 0);
    give_up(queue, 2);
    queue_unref(queue);
}

/* ---- the end -----------------------------------------------------------------------------------
 */

static void assert_closed(struct queue *queue, int seat)
{
    assert_true(wakes(seat) > 0);
    assert_refused(wait_get(queue, seat).status, TD_CLOSED, "");
}

static void closing_tells_all_who_wait(void **state)
{
    (void)state;
    bool waits;
    struct queue *queue = queue_with(1, 1000, QUEUE_FULL_BLOCK, 60000);
    put(queue, "");
    assert_true(wait_put(queue, 0, 8));
    assert_true(wait_put(queue, 1, 8));
    queue_close(queue);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(wakes(i), 1);
        assert_refused(queue_put(queue, items[i], &seats[i].waiter, true, &waits), TD_CLOSED, "");
        queue_item_unref(take(&items[i]));
    }
    take_one(queue);
    assert_ok(queue_delete(queues, text_of("q")));
    queue_unref(queue);
    queue = plain_queue();
    assert_waits(wait_get(queue, 2));
    assert_waits(wait_get(queue, 3));
    queue_close(queue);
    assert_closed(queue, 2);
    assert_closed(queue, 3);
    queue_unref(queue);
}

/* However the last item of a closed queue goes, those who waited for it to come back are told. */
static void the_last_item_ends_the_waiting(void **state)
{
    (void)state;
    for (int how = 0; how < 4; how++) {
        struct queue *queue = plain_queue();
        struct got got = {0};
        seat_init(&seats[0]);
        seat_init(&seats[1]);
        put(queue, "last");
        for (int i = 0; i < (how == 1 ? QUEUE_DELIVERIES_MAX : 1); i++) {
            if (i)
                assert_ok(session_release(producer, got.lease));
            got = try_get(queue, producer);
        }
        queue_close(queue);
        assert_waits(wait_get(queue, 0));
        assert_waits(wait_get(queue, 1));
        if (how == 0)
            assert_ok(queue_ack(producer, got.lease));
        if (how != 0 && how != 3)
            assert_ok(session_release(producer, got.lease)); /* 1: parked; 2: back */
        if (how == 2)
            assert_int_equal(queue_drain(queue, false), 1);
        if (how == 3)
            assert_ok(queue_delete(queues, text_of("q")));
        assert_closed(queue, 0);
        assert_closed(queue, 1);
        if (how == 0 || how == 3)
            assert_ok(session_release(producer, got.lease));
        if (how != 3)
            assert_ok(queue_delete(queues, text_of("q")));
        queue_unref(queue);
    }
}

#define WTEST(name) cmocka_unit_test_setup_teardown(name, open_waiting, close_queues)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WTEST(gets_are_served_in_the_order_they_came),
        WTEST(who_does_not_wait_takes_what_is_there),
        WTEST(a_get_that_gives_up_passes_its_turn_on),
        WTEST(a_get_keeps_its_place_when_it_looks_again),
        WTEST(an_item_that_expires_goes_to_who_waits),
        WTEST(an_item_that_is_refused_wakes_the_next),
        WTEST(puts_wait_in_the_order_they_came),
        WTEST(a_put_that_gives_up_passes_its_turn_on),
        WTEST(a_large_item_is_waited_for),
        WTEST(draining_makes_room_for_all),
        WTEST(closing_tells_all_who_wait),
        WTEST(the_last_item_ends_the_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
