/* queue: order, room, items that come back, who waits, and the end of it all. */
#include "tests/unit/queue_fixture.h"

/* ---- order -------------------------------------------------------------------------------------
 */

static void items_come_in_the_order_they_were_put(void **state)
{
    (void)state;
    struct queue *queue = plain_queue();
    put(queue, "a");
    put(queue, "b");
    struct got first = try_get(queue, consumer), second = try_get(queue, consumer);
    assert_string_equal(first.meta, "a");
    assert_string_equal(second.meta, "b");
    assert_int_equal(first.id, 1);
    assert_int_equal(second.id, 2);
    assert_int_equal(first.deliveries, 1);
    assert_refused(try_get(queue, consumer).status, TD_EMPTY, "other consumers");
    done(consumer, first.lease);
    done(consumer, second.lease);
    assert_refused(try_get(queue, consumer).status, TD_EMPTY, "nothing to hand out");
    struct queue_stats stats = stats_of(queue);
    assert_int_equal(stats.puts, 2);
    assert_int_equal(stats.gets, 2);
    assert_int_equal(stats.acks, 2);
    assert_int_equal(stats.items + stats.bytes + stats.in_flight + stats.parked, 0);
    queue_unref(queue);
}

static void an_item_has_its_tensors_and_keys(void **state)
{
    (void)state;
    struct tensor *tensors[] = {bytes_tensor(host.cpu, 3), bytes_tensor(host.cpu, 5)};
    struct text keys[] = {text_of("left"), text_of("")}, key;
    struct queue_item *item;
    assert_ok(queue_item_create(&host.ledger, NULL, text_of("{}"), 2, tensors, keys, &item));
    assert_int_equal(queue_item_count(item), 2);
    assert_int_equal(queue_item_bytes(item), 8);
    assert_int_equal(queue_item_id(item), 0);
    assert_ptr_equal(queue_item_tensor(item, 0, &key), tensors[0]);
    assert_true(text_equal(key, "left"));
    assert_ptr_equal(queue_item_tensor(item, 1, &key), tensors[1]);
    assert_int_equal(key.length, 0);
    tensor_unref(tensors[0]);
    tensor_unref(tensors[1]);
    queue_item_unref(item);
}

/* ---- room --------------------------------------------------------------------------------------
 */

static void a_full_queue_refuses_or_drops(void **state)
{
    (void)state;
    struct queue *queue = queue_with(2, 20, QUEUE_FULL_FAIL, 60000);
    assert_refused(try_put(queue, 21, ""), TD_TOO_LARGE, "never fits");
    assert_ok(try_put(queue, 12, "a"));
    assert_refused(try_put(queue, 9, "b"), TD_FULL, "1 items (of 2) of 12 bytes (of 20)");
    assert_ok(try_put(queue, 8, "b"));
    assert_refused(try_put(queue, 0, "c"), TD_FULL, "full");
    uint64_t lease = get(queue, consumer, "a"); /* what is in flight takes no room */
    assert_ok(try_put(queue, 12, "c"));
    done(consumer, lease);
    assert_ok(queue_delete(queues, text_of("q")));
    queue_unref(queue);

    queue = queue_with(2, 20, QUEUE_FULL_DROP_OLDEST, 60000);
    assert_ok(try_put(queue, 8, "a"));
    assert_ok(try_put(queue, 8, "b"));
    assert_ok(try_put(queue, 8, "c"));
    assert_ok(try_put(queue, 20, "d"));
    assert_refused(try_put(queue, 21, ""), TD_TOO_LARGE, "");
    assert_int_equal(stats_of(queue).dropped, 3);
    done(consumer, get(queue, consumer, "d"));
    queue_unref(queue);
}

/* What comes back needs no room, and none is for others until it is gone again. */
static void items_that_come_back_may_overfill(void **state)
{
    (void)state;
    struct queue *queue = queue_with(1, 20, QUEUE_FULL_FAIL, 60000);
    assert_ok(try_put(queue, 20, "a"));
    uint64_t lease = get(queue, consumer, "a");
    assert_ok(try_put(queue, 20, "b"));
    assert_ok(session_release(consumer, lease));
    assert_int_equal(stats_of(queue).items, 2);
    assert_int_equal(stats_of(queue).bytes, 40);
    assert_refused(try_put(queue, 0, ""), TD_FULL, "");
    done(consumer, get(queue, consumer, "a"));
    assert_refused(try_put(queue, 0, ""), TD_FULL, "");
    done(consumer, get(queue, consumer, "b"));
    assert_ok(try_put(queue, 20, "c"));
    queue_unref(queue);
}

/* ---- coming back -------------------------------------------------------------------------------
 */

static void what_is_not_acknowledged_goes_back_to_the_front(void **state)
{
    (void)state;
    struct queue *queue = plain_queue();
    put(queue, "a");
    put(queue, "b");
    put(queue, "c");
    uint64_t a = get(queue, consumer, "a"), b = get(queue, consumer, "b");
    assert_ok(session_release(consumer, a));
    assert_refused(queue_ack(consumer, a), TD_NOT_FOUND, "no lease");
    assert_ok(session_release(consumer, b));
    struct got again = try_get(queue, consumer);
    assert_string_equal(again.meta, "a");
    assert_int_equal(again.deliveries, 2);
    done(consumer, again.lease);
    done(consumer, get(queue, consumer, "b"));
    done(consumer, get(queue, consumer, "c"));
    assert_int_equal(stats_of(queue).returned, 2);
    queue_unref(queue);
}

static void a_session_that_ends_gives_its_items_back_in_order(void **state)
{
    (void)state;
    struct queue *queue = plain_queue();
    struct session *dying = open_session(NULL);
    const char *names[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < COUNT(names); i++)
        put(queue, names[i]);
    for (size_t i = 0; i < 3; i++)
        (void)get(queue, dying, names[i]);
    assert_int_equal(stats_of(queue).in_flight, 3);
    session_leave(dying);
    assert_int_equal(stats_of(queue).in_flight, 0);
    for (size_t i = 0; i < COUNT(names); i++)
        done(consumer, get(queue, consumer, names[i]));
    queue_unref(queue);
}

static void sleep_ms(long ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static void a_slow_consumer_loses_the_item_but_not_its_memory(void **state)
{
    (void)state;
    struct queue *queue = queue_with(8, 1 << 20, QUEUE_FULL_BLOCK, 300);
    put(queue, "slow");
    uint64_t slow = get(queue, consumer, "slow");
    assert_refused(try_get(queue, producer).status, TD_EMPTY, "other consumers have in hand");
    sleep_ms(310);
    queue_table_expire(queues);
    struct got again = try_get(queue, producer);
    assert_string_equal(again.meta, "slow");
    assert_int_equal(again.deliveries, 2);
    assert_refused(queue_ack(consumer, slow), TD_CONFLICT, "visibility_ms");
    struct session_counts counts;
    session_table_count(sessions, &counts);
    assert_int_equal(counts.leases, 2); /* both have it, and the one object of each */
    assert_int_equal(counts.objects, 2);
    done(producer, again.lease);
    assert_refused(queue_ack(producer, again.lease), TD_NOT_FOUND, "");
    assert_refused(queue_ack(consumer, slow), TD_CONFLICT, "");
    assert_ok(session_release(consumer, slow));
    assert_int_equal(stats_of(queue).expired, 1);
    assert_int_equal(stats_of(queue).returned, 0);
    queue_unref(queue);
}

/* Items of one byte, all of the same tensor. */
static void put_many(struct queue *queue, int count)
{
    struct tensor *tensor = bytes_tensor(host.cpu, 1);
    struct text key = text_of("");
    for (int i = 0; i < count; i++) {
        struct queue_item *item;
        struct seat seat;
        bool waits;
        assert_ok(queue_item_create(&host.ledger, NULL, text_of(""), 1, &tensor, &key, &item));
        assert_ok(queue_put(queue, item, &seat_init(&seat)->waiter, false, &waits));
        queue_item_unref(item);
    }
    tensor_unref(tensor);
}

/* One consumer that has taken very many, and is too slow, keeps nobody else waiting. */
static void many_come_back_at_once(void **state)
{
    (void)state;
    enum { MANY = 50000, VISIBLE_MS = 1000 };
    static const struct session_limits limits = {1, .objects = 1, .leases = MANY};
    struct session_table *table;
    struct session *greedy;
    struct queue *queue = queue_with(QUEUE_ITEMS_MAX, 1 << 20, QUEUE_FULL_FAIL, VISIBLE_MS);
    assert_ok(session_table_create(&host.ledger, &limits, &table));
    assert_ok(session_open(table, NULL, 0, &greedy));
    put_many(queue, MANY);
    for (int i = 0; i < MANY; i++)
        assert_ok(try_get(queue, greedy).status);
    put(queue, "later");
    sleep_ms(VISIBLE_MS);
    sleep_ms(10);
    uint64_t began_ms = clock_now_ms();
    queue_table_expire(queues);
    assert_true(clock_now_ms() - began_ms < 3000);
    assert_int_equal(stats_of(queue).items, MANY + 1);
    for (uint64_t id = 1; id <= 3; id++) {
        struct got got = try_get(queue, consumer);
        assert_int_equal(got.id, id);
        done(consumer, got.lease);
    }
    session_leave(greedy);
    session_table_destroy(table);
    queue_unref(queue);
}

static void acknowledging_twice_is_a_conflict(void **state)
{
    (void)state;
    struct queue *queue = plain_queue();
    put(queue, "a");
    uint64_t lease = get(queue, consumer, "a");
    assert_ok(queue_ack(consumer, lease));
    assert_refused(queue_ack(consumer, lease), TD_CONFLICT, "acknowledged before");
    assert_refused(queue_ack(producer, lease), TD_NOT_FOUND, "");
    assert_ok(session_release(consumer, lease));
    assert_refused(try_get(queue, consumer).status, TD_EMPTY, "");
    queue_unref(queue);
}

static void an_item_is_parked_after_its_last_delivery(void **state)
{
    (void)state;
    struct queue *queue = plain_queue();
    put(queue, "poison");
    put(queue, "good");
    for (unsigned i = 1; i <= QUEUE_DELIVERIES_MAX; i++) {
        struct got got = try_get(queue, consumer);
        assert_string_equal(got.meta, "poison");
        assert_int_equal(got.deliveries, i);
        assert_ok(session_release(consumer, got.lease));
    }
    struct queue_item *items[4];
    assert_int_equal(queue_peek(queue, true, 4, items), 1);
    assert_true(text_equal(queue_item_meta(items[0]), "poison"));
    queue_item_unref(items[0]);
    assert_int_equal(queue_peek(queue, false, 4, items), 1);
    queue_item_unref(items[0]);
    assert_int_equal(stats_of(queue).parked, 1);
    assert_int_equal(queue_drain(queue, true), 1);
    assert_int_equal(stats_of(queue).parked, 0);
    done(consumer, get(queue, consumer, "good"));
    assert_int_equal(stats_of(queue).drained, 1);
    queue_unref(queue);
}

/* Nobody has seen it, then. */
static void an_item_that_cannot_be_handed_over_stays(void **state)
{
    (void)state;
    struct queue *queue = queue_with(LEASES + 1, 1 << 20, QUEUE_FULL_BLOCK, 60000);
    for (int i = 0; i < LEASES + 1; i++)
        put(queue, i < LEASES ? "" : "last");
    for (int i = 0; i < LEASES; i++)
        assert_ok(try_get(queue, consumer).status);
    for (int i = 0; i < 2 * QUEUE_DELIVERIES_MAX; i++)
        assert_refused(try_get(queue, consumer).status, TD_OUT_OF_MEMORY, "--max-leases");
    struct got got = try_get(queue, producer);
    assert_string_equal(got.meta, "last");
    assert_int_equal(got.deliveries, 1);
    queue_unref(queue);
}

/* ---- the end -----------------------------------------------------------------------------------
 */

static void a_closed_queue_gives_what_it_has(void **state)
{
    (void)state;
    struct queue *queue = plain_queue();
    put(queue, "a");
    put(queue, "b");
    queue_close(queue);
    queue_close(queue);
    assert_true(stats_of(queue).closed);
    assert_refused(try_put(queue, 1, ""), TD_CLOSED, "takes no more");
    uint64_t a = get(queue, consumer, "a"), b = get(queue, consumer, "b");
    assert_refused(try_get(queue, consumer).status, TD_EMPTY, "");
    assert_ok(session_release(consumer, a)); /* which may come back, and does */
    a = get(queue, consumer, "a");
    done(consumer, b);
    done(consumer, a);
    assert_refused(try_get(queue, consumer).status, TD_CLOSED, "");
    queue_unref(queue);
}

static void a_deleted_queue_drops_what_comes_back(void **state)
{
    (void)state;
    struct queue *queue = plain_queue(), *gone;
    put(queue, "a");
    put(queue, "b");
    put(queue, "c");
    uint64_t a = get(queue, consumer, "a"), b = get(queue, consumer, "b");
    assert_ok(queue_delete(queues, text_of("q")));
    assert_refused(queue_delete(queues, text_of("q")), TD_NOT_FOUND, "no queue 'q'");
    assert_refused(queue_find(queues, text_of("q"), &gone), TD_NOT_FOUND, "queue_create");
    assert_refused(try_put(queue, 1, ""), TD_CLOSED, "was deleted");
    assert_refused(try_get(queue, consumer).status, TD_CLOSED, "was deleted");
    assert_ok(session_release(consumer, a));
    assert_int_equal(stats_of(queue).items, 0);
    done(consumer, b);
    queue_unref(queue);
    queue = plain_queue(); /* another one of the name */
    assert_refused(try_get(queue, consumer).status, TD_EMPTY, "");
    queue_unref(queue);
}

/* ---- by name -----------------------------------------------------------------------------------
 */

static void a_queue_is_made_once(void **state)
{
    (void)state;
    struct queue *queue = queue_with(2, 100, QUEUE_FULL_FAIL, 1000), *again;
    struct queue_settings other = {3, 100, 1000, QUEUE_FULL_BLOCK};
    struct text q = text_of("q");
    assert_ok(queue_open(queues, q, &other, 0, false, NULL, &again));
    assert_ptr_equal(queue, again);
    queue_unref(again);
    assert_ok(queue_open(queues, q, &other, FIELD_BIT(max_bytes), false, NULL, &again));
    queue_unref(again);
    assert_refused(queue_open(queues, q, &other, 0, true, NULL, &again), TD_EXISTS,
                   "there already");
    assert_refused(queue_open(queues, q, &other, FIELD_BIT(max_items), false, NULL, &again),
                   TD_EXISTS, "a max_items of 2 and not 3");
    assert_refused(queue_open(queues, q, &other, FIELD_BIT(when_full), false, NULL, &again),
                   TD_EXISTS, "when_full fail and not block");
    other.max_bytes = 5;
    assert_refused(queue_open(queues, q, &other, FIELD_BIT(max_bytes), false, NULL, &again),
                   TD_EXISTS, "max_bytes of 100 and not 5");
    other.visibility_ms = 5;
    assert_refused(queue_open(queues, q, &other, FIELD_BIT(visibility_ms), false, NULL, &again),
                   TD_EXISTS, "visibility_ms of 1000 and not 5");
    assert_refused(queue_open(queues, text_of("a//b"), &other, 0, false, NULL, &again), TD_INVALID,
                   "");
    assert_int_equal(queue_table_count(queues), 1);
    queue_unref(queue);
}

static void queues_are_listed_in_byte_order(void **state)
{
    (void)state;
    static const char *const names[] = {"b", "a/2", "a/1", "a", "c"};
    struct queue *list[8], *queue;
    for (size_t i = 0; i < COUNT(names); i++) {
        assert_ok(queue_open(queues, text_of(names[i]), &queue_defaults, 0, true, NULL, &queue));
        queue_unref(queue);
    }
    const struct {
        const char *prefix, *cursor, *first;
        size_t count;
    } rows[] = {{"", "", "a", 5},    {"a/", "", "a/1", 2}, {"a/", "a/1", "a/2", 1},
                {"", "a/2", "b", 2}, {"a", "0", "a", 3},   {"d", "", NULL, 0},
                {"a", "b", NULL, 0}};
    for (size_t r = 0; r < COUNT(rows); r++) {
        size_t found =
            queue_list(queues, text_of(rows[r].prefix), text_of(rows[r].cursor), 8, list);
        assert_int_equal(found, rows[r].count);
        if (found)
            assert_true(text_equal(queue_name(list[0]), rows[r].first));
        for (size_t i = 0; i < found; i++)
            queue_unref(list[i]);
    }
    assert_int_equal(queue_list(queues, text_of(""), text_of(""), 1, list), 1);
    queue_unref(list[0]);
    for (int i = COUNT(names); i < MAX_QUEUES; i++) {
        char name[8];
        snprintf(name, sizeof name, "n%d", i);
        assert_ok(queue_open(queues, text_of(name), &queue_defaults, 0, true, NULL, &queue));
        queue_unref(queue);
    }
    assert_refused(queue_open(queues, text_of("one"), &queue_defaults, 0, true, NULL, &queue),
                   TD_OUT_OF_MEMORY, "--max-queues");
}

/* ---- quotas ------------------------------------------------------------------------------------
 */

static void bytes_and_names_count_against_the_account(void **state)
{
    (void)state;
    const uint64_t limits[QUOTA_COUNT] = {[QUOTA_QUEUE_BYTES] = 100, [QUOTA_NAMES] = 1};
    struct accounts *accounts;
    struct account *account;
    struct queue *queue, *other;
    struct seat seat;
    bool waits;
    assert_ok(accounts_create(limits, &accounts));
    assert_ok(account_open(accounts, (struct principal){.kind = PRINCIPAL_TCP}, &account));
    assert_ok(queue_open(queues, text_of("q"), &queue_defaults, 0, true, account, &queue));
    assert_refused(queue_open(queues, text_of("r"), &queue_defaults, 0, true, account, &other),
                   TD_OUT_OF_MEMORY, "names");
    struct queue_item *item = item_of(60, "a", account), *second;
    assert_int_equal(atomic_load(&account->used[QUOTA_QUEUE_BYTES]), 61);
    struct tensor *tensor = bytes_tensor(host.cpu, 60);
    struct text key = text_of("");
    assert_refused(queue_item_create(&host.ledger, account, text_of(""), 1, &tensor, &key, &second),
                   TD_OUT_OF_MEMORY, "bytes in queues");
    tensor_unref(tensor);
    tensor = bytes_tensor(host.cpu, 0); /* texts are bytes, too */
    assert_refused(queue_item_create(&host.ledger, account, text_of("0123456789abcdef0123"), 1,
                                     &tensor, &(struct text){"0123456789abcdef0123", 20}, &second),
                   TD_OUT_OF_MEMORY, "bytes in queues");
    tensor_unref(tensor);
    assert_ok(queue_put(queue, item, &seat_init(&seat)->waiter, false, &waits));
    queue_item_unref(item);
    uint64_t lease = get(queue, consumer, "a"); /* in flight it still counts */
    assert_int_equal(atomic_load(&account->used[QUOTA_QUEUE_BYTES]), 61);
    assert_ok(queue_ack(consumer, lease));
    assert_int_equal(atomic_load(&account->used[QUOTA_QUEUE_BYTES]), 0);
    /* The name is free at once, whoever has an item in hand still. */
    assert_ok(queue_delete(queues, text_of("q")));
    assert_int_equal(atomic_load(&account->used[QUOTA_NAMES]), 0);
    queue_unref(queue);
    assert_ok(queue_open(queues, text_of("r"), &queue_defaults, 0, true, account, &queue));
    queue_unref(queue);
    assert_ok(queue_delete(queues, text_of("r")));
    assert_ok(session_release(consumer, lease));
    assert_int_equal(atomic_load(&account->used[QUOTA_NAMES]), 0);
    account_unref(account);
    accounts_destroy(accounts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        QTEST(items_come_in_the_order_they_were_put),
        QTEST(an_item_has_its_tensors_and_keys),
        QTEST(a_full_queue_refuses_or_drops),
        QTEST(items_that_come_back_may_overfill),
        QTEST(what_is_not_acknowledged_goes_back_to_the_front),
        QTEST(a_session_that_ends_gives_its_items_back_in_order),
        QTEST(a_slow_consumer_loses_the_item_but_not_its_memory),
        QTEST(many_come_back_at_once),
        QTEST(acknowledging_twice_is_a_conflict),
        QTEST(an_item_is_parked_after_its_last_delivery),
        QTEST(an_item_that_cannot_be_handed_over_stays),
        QTEST(a_closed_queue_gives_what_it_has),
        QTEST(a_deleted_queue_drops_what_comes_back),
        QTEST(a_queue_is_made_once),
        QTEST(queues_are_listed_in_byte_order),
        QTEST(bytes_and_names_count_against_the_account),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
