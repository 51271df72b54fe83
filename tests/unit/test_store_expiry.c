/* store: names that have a time to live, under a clock that the test moves. */
#include "core/store.h"
#include "tests/unit/core_assert.h"

#include <unistd.h>

static struct host host;
static struct store *store;
static struct tensor *one, *two;
static uint64_t now, step; /* by which time passes between two looks at the clock */

static const struct store_condition always, create_only = {.create_only = true};
static const struct store_watch all = {.prefix = {"", 0}};

static uint64_t read_clock(void)
{
    return now += step;
}

static int open_store(void **state)
{
    (void)state;
    host_open(&host, MIB, 0);
    host.ledger.limits.names = 1000;
    assert_ok(store_create(&host.ledger, &store));
    store_set_clock(store, read_clock);
    now = 1000;
    step = 0;
    one = bytes_tensor(host.cpu, 1);
    two = bytes_tensor(host.cpu, 2);
    return 0;
}

static int close_store(void **state)
{
    (void)state;
    store_destroy(store);
    assert_int_equal(atomic_load(&one->refs), 1);
    assert_int_equal(atomic_load(&two->refs), 1);
    tensor_unref(one);
    tensor_unref(two);
    host_close(&host);
    return 0;
}

static uint64_t publish(const char *name, uint64_t ttl_ms)
{
    uint64_t generation = 0;
    assert_ok(store_publish_for(store, text_of(name), one, &always, ttl_ms, NULL, &generation));
    return generation;
}

static uint64_t rename_to(const char *from, const char *to)
{
    uint64_t generation = 0;
    assert_ok(store_rename(store, text_of(from), text_of(to), &always, &generation));
    return generation;
}

static void set_ttl(const char *name, uint64_t ttl_ms, uint64_t wanted_generation)
{
    struct tensor *tensor;
    uint64_t generation;
    assert_ok(store_set_ttl(store, text_of(name), ttl_ms, &tensor, &generation));
    assert_ptr_equal(tensor, one);
    assert_int_equal(generation, wanted_generation);
    tensor_unref(tensor);
}

static void assert_gone(const char *name)
{
    struct tensor *tensor;
    uint64_t generation, ttl_ms;
    assert_refused(store_lookup(store, text_of(name), &tensor, NULL), TD_NOT_FOUND, name);
    assert_refused(store_lookup_timed(store, text_of(name), &tensor, &generation, &ttl_ms),
                   TD_NOT_FOUND, name);
}

static void assert_left(const char *name, uint64_t wanted_ms)
{
    struct tensor *tensor;
    uint64_t generation, ttl_ms = 77;
    assert_ok(store_lookup_timed(store, text_of(name), &tensor, &generation, &ttl_ms));
    assert_int_equal(ttl_ms, wanted_ms);
    tensor_unref(tensor);
}

static uint64_t names_charged(void)
{
    struct ledger ledger;
    ledger_read(&host.ledger, &ledger);
    return ledger.used.names;
}

/* The events after *since as "+a -a"; it moves on. */
static void assert_events(uint64_t *since, const char *wanted)
{
    struct store_event events[32];
    char got[512] = "";
    size_t length = 0;
    bool lost = true;
    size_t count = store_events(store, &all, since, &lost, COUNT(events), events);
    assert_false(lost);
    for (size_t i = 0; i < count; i++)
        length += (size_t)snprintf(got + length, sizeof got - length, "%s%c%s", i ? " " : "",
                                   events[i].kind == STORE_PUBLISHED ? '+' : '-', events[i].name);
    if (strcmp(got, wanted) != 0)
        fail_msg("'%s', not '%s'", got, wanted);
}

/* -- when -- */

static void gone_from_its_moment_on(void **state)
{
    uint64_t since = 0;
    (void)state;
    publish("a", 100);
    assert_left("a", 100);
    now = 1099;
    assert_left("a", 1);
    assert_int_equal(store_expire(store, now, 100), 0);
    assert_int_equal(store_count(store), 1);
    assert_events(&since, "+a");
    now = 1100;
    assert_gone("a"); /* and by this removed */
    assert_events(&since, "-a");
    assert_int_equal(names_charged(), 0);
    assert_int_equal(store_expire(store, now, 100), 0);
    assert_int_equal(store_count(store), 0);
    assert_events(&since, "");
}

static void idle_names_are_removed(void **state)
{
    uint64_t since = 0;
    (void)state;
    publish("a", 100);
    publish("b", 0);
    publish("c", 300);
    assert_int_equal(store_expire(store, 1099, 100), 0);
    assert_int_equal(store_expire(store, 1100, 100), 1);
    assert_int_equal(store_expire(store, 1399, 100), 1); /* by the caller's time */
    assert_int_equal(store_expire(store, UINT64_MAX, 100), 0);
    assert_events(&since, "+a +b +c -a -c");
    assert_left("b", 0);
    assert_int_equal(names_charged(), 1);
}

/* What was due first goes first, and at the same moment by name. */
static void order_and_bounds(void **state)
{
    uint64_t since = 0;
    (void)state;
    publish("e", 20);
    publish("d", 10);
    publish("a", 30);
    publish("c", 10);
    publish("b", 20);
    publish("f", 40);
    publish("g", 0);
    assert_events(&since, "+e +d +a +c +b +f +g");
    now = 1030;
    assert_int_equal(store_expire(store, now, 0), 0);
    assert_int_equal(store_expire(store, now, 1), 1);
    assert_events(&since, "-c");
    assert_int_equal(names_charged(), 6);
    assert_int_equal(store_expire(store, now, 3), 3);
    assert_events(&since, "-d -b -e");
    assert_int_equal(store_expire(store, now, 3), 1);
    assert_events(&since, "-a");
    assert_int_equal(store_expire(store, now, 3), 0);
    assert_int_equal(store_count(store), 2);
}

static void many_at_once(void **state)
{
    static const size_t steps[] = {1, 63, 64, 65, 128, 150, SIZE_MAX};
    char name[16];
    (void)state;
    for (int i = 0; i < 500; i++) {
        snprintf(name, sizeof name, "n%d", i);
        publish(name, (uint64_t)(1 + i % 7));
    }
    now += 7;
    size_t left = 500;
    for (size_t i = 0; i < COUNT(steps); i++) {
        size_t wanted = steps[i] < left ? steps[i] : left;
        assert_int_equal(store_expire(store, now, steps[i]), wanted);
        left -= wanted;
        assert_int_equal(names_charged(), left);
    }
    assert_int_equal(left, 0);
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "n%d", i);
        publish(name, i < 200 ? 1 : 0);
    }
    now += 1;
    assert_int_equal(store_count(store), 100);
    assert_int_equal(names_charged(), 100);
}

/* Publishing removes more than it adds, whether the doors' clocks keep up or not. */
static void publishing_removes(void **state)
{
    uint64_t since = 0;
    (void)state;
    publish("a", 1);
    publish("b", 2);
    publish("c", 3);
    publish("d", 5);
    now += 3;
    assert_events(&since, "+a +b +c +d");
    publish("x", 0);
    assert_events(&since, "-a -b +x");
    publish("c", 0); /* one that is due itself */
    assert_events(&since, "-c +c");
    publish("x", 0);
    assert_events(&since, "+x");
    assert_left("d", 2);
}

/* -- who sees it -- */

static void listed_with_what_is_left(void **state)
{
    struct store_entry entries[8];
    (void)state;
    publish("a", 10);
    publish("b", 0);
    publish("c", 20);
    publish("d", 10);
    now += 9;
    assert_int_equal(store_list(store, text_of(""), text_of(""), 8, entries), 4);
    static const uint64_t left[] = {1, 0, 11, 1};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(entries[i].ttl_ms, left[i]);
        tensor_unref(entries[i].tensor);
    }
    now += 1;
    assert_int_equal(store_list(store, text_of(""), text_of("a"), 8, entries), 2);
    assert_string_equal(entries[0].name, "b");
    assert_string_equal(entries[1].name, "c");
    assert_int_equal(entries[1].ttl_ms, 10);
    tensor_unref(entries[0].tensor);
    tensor_unref(entries[1].tensor);
    assert_int_equal(store_count(store), 2);
}

/* Also one that ends while the list is made. */
static void not_listed_any_more(void **state)
{
    struct store_entry entry;
    (void)state;
    publish("a", 10);
    publish("b", 0);
    now += 8;
    step = 1; /* a is there when what is over is removed, and not when names are looked at */
    assert_int_equal(store_list(store, text_of(""), text_of(""), 1, &entry), 1);
    assert_int_equal(now, 1010);
    assert_string_equal(entry.name, "b");
    tensor_unref(entry.tensor);
    assert_int_equal(names_charged(), 2);
}

static void conditions_take_it_as_removed(void **state)
{
    uint64_t since = 0, generation;
    struct text a = text_of("a"), b = text_of("b");
    struct tensor *tensor;
    (void)state;
    struct store_condition same = {.has_generation = true, .generation = publish("a", 10)};
    assert_refused(store_publish(store, a, two, &create_only, &generation), TD_EXISTS, "");
    now += 10;
    assert_refused(store_publish(store, a, two, &same, &generation), TD_PRECONDITION,
                   "generation 0, not 1");
    assert_refused(store_remove(store, a, &same), TD_NOT_FOUND, "");
    assert_refused(store_set_ttl(store, a, 5, &tensor, &generation), TD_NOT_FOUND, "");
    assert_events(&since, "+a -a");
    publish("a", 10);
    now += 10;
    assert_ok(store_publish(store, a, two, &create_only, &generation));
    assert_int_equal(generation, 5);
    assert_events(&since, "+a -a +a");
    publish("b", 10);
    now += 10;
    assert_refused(store_remove(store, b, &always), TD_NOT_FOUND, "");
    assert_refused(store_rename(store, b, a, &always, &generation), TD_NOT_FOUND, "'b'");
    publish("b", 10);
    now += 10;
    assert_ok(store_rename(store, a, b, &create_only, &generation));
    assert_events(&since, "+b -b +b -b +b -a");
}

/* -- how it changes -- */

static void publishing_makes_it_stay(void **state)
{
    (void)state;
    publish("a", 10);
    publish("a", 0);
    assert_left("a", 0);
    assert_int_equal(store_expire(store, UINT64_MAX, 9), 0);
    publish("a", 30);
    publish("a", 20);
    assert_left("a", 20);
    uint64_t generation, before = store_revision(store);
    struct store_condition stale = {.has_generation = true, .generation = 77};
    assert_refused(store_publish(store, text_of("a"), two, &create_only, &generation), TD_EXISTS,
                   "");
    assert_refused(store_publish_for(store, text_of("a"), two, &stale, 5, NULL, &generation),
                   TD_PRECONDITION, "");
    assert_left("a", 20); /* an error changes nothing */
    assert_int_equal(store_revision(store), before);
    assert_int_equal(store_expire(store, now + 20, 9), 1);
}

static void times_are_set_anew(void **state)
{
    struct tensor *tensor;
    uint64_t generation;
    (void)state;
    uint64_t a = publish("a", 0), revision = store_revision(store);
    set_ttl("a", 10, a);
    assert_left("a", 10);
    now += 5;
    set_ttl("a", 10, a);
    assert_left("a", 10);
    set_ttl("a", 2, a);
    assert_left("a", 2);
    set_ttl("a", 0, a);
    set_ttl("a", 0, a);
    assert_left("a", 0);
    assert_int_equal(store_expire(store, UINT64_MAX, 9), 0);
    assert_int_equal(store_revision(store), revision); /* nothing has happened to the name */
    set_ttl("a", STORE_TTL_MAX_MS, a);
    assert_left("a", STORE_TTL_MAX_MS);
    assert_refused(store_set_ttl(store, text_of("b"), 1, &tensor, &generation), TD_NOT_FOUND,
                   "'b'");
}

static void renaming_keeps_the_time(void **state)
{
    uint64_t since = 0;
    (void)state;
    publish("a", 10);
    publish("b", 50);
    publish("stays", 0);
    now += 4;
    rename_to("a", "b"); /* the old b's time is forgotten */
    assert_left("b", 6);
    rename_to("b", "b");
    assert_left("b", 6);
    rename_to("b", "stays");
    assert_left("stays", 6);
    now += 6;
    assert_int_equal(store_expire(store, now, 9), 1);
    assert_events(&since, "+a +b +stays +b -a +b +stays -b -stays");
    publish("stays", 0);
    publish("timed", 10);
    rename_to("stays", "timed");
    assert_left("timed", 0);
    assert_int_equal(store_expire(store, UINT64_MAX, 9), 0);
}

static void lengths(void **state)
{
    (void)state;
    assert_refused(ttl_check(0), TD_INVALID, "expected 1 to 3155760000000 ms");
    assert_ok(ttl_check(1));
    assert_ok(ttl_check(STORE_TTL_MAX_MS));
    assert_refused(ttl_check(STORE_TTL_MAX_MS + 1), TD_INVALID, "of 3155760000001 ms");
    assert_refused(ttl_check(UINT64_MAX), TD_INVALID, "");
}

/* -- memory -- */

static void holders_keep_the_tensor(void **state)
{
    struct tensor *held;
    (void)state;
    publish("a", 10);
    assert_ok(store_lookup(store, text_of("a"), &held, NULL));
    assert_int_equal(atomic_load(&one->refs), 3);
    now += 10;
    assert_int_equal(store_expire(store, now, 9), 1);
    assert_int_equal(atomic_load(&one->refs), 2);
    tensor_unref(held);
}

/* At the limit of names those that are over make room. */
static void room_for_others(void **state)
{
    uint64_t generation;
    (void)state;
    host.ledger.limits.names = 2;
    publish("a", 10);
    publish("b", 10);
    assert_refused(store_publish(store, text_of("c"), one, &always, &generation), TD_OUT_OF_MEMORY,
                   "2 of 2 names");
    now += 10;
    publish("c", 10);
    publish("d", 10);
    now += 10;
    publish("c", 0);
    publish("e", 0);
    assert_int_equal(names_charged(), 2);
}

static const struct device_ops *real_ops;
static int freed;

/* Asks the store: for ever, if it is locked. */
static void free_and_ask(struct device *device, struct memory *memory)
{
    struct tensor *tensor;
    freed++;
    (void)store_count(store);
    assert_refused(store_lookup(store, text_of("a"), &tensor, NULL), TD_NOT_FOUND, "");
    real_ops->free(device, memory);
}

static void last(const char *name, uint64_t ttl_ms)
{
    struct tensor *tensor = bytes_tensor(host.cpu, 3);
    uint64_t generation;
    assert_ok(store_publish_for(store, text_of(name), tensor, &always, ttl_ms, NULL, &generation));
    tensor_unref(tensor);
}

static void memory_goes_without_the_lock(void **state)
{
    struct device_ops asking = *(real_ops = host.cpu->ops);
    struct tensor *tensor;
    uint64_t generation;
    (void)state;
    asking.free = free_and_ask;
    host.cpu->ops = &asking;
    freed = 0;
    alarm(30);
    last("a", 1);
    now += 1;
    assert_int_equal(store_expire(store, now, 9), 1);
    assert_int_equal(freed, 1);
    last("a", 1);
    now += 1;
    assert_refused(store_lookup(store, text_of("a"), &tensor, NULL), TD_NOT_FOUND, "");
    assert_int_equal(freed, 2);
    last("b", 1);
    now += 1;
    assert_int_equal(store_count(store), 0);
    assert_int_equal(freed, 3);
    last("b", 1);
    now += 1;
    publish("c", 0);
    assert_int_equal(freed, 4);
    last("b", 1);
    now += 1;
    assert_ok(store_rename(store, text_of("c"), text_of("b"), &always, &generation));
    assert_int_equal(freed, 5);
    alarm(0);
    host.cpu->ops = real_ops;
}

/* -- watches -- */

static int wakes;

static void wake(struct store_watch *watch)
{
    (void)watch;
    wakes++;
}

static void watches_are_woken(void **state)
{
    struct store_watch watch = {.prefix = {"a", 1}, .exact = true, .wake = wake};
    (void)state;
    wakes = 0;
    publish("a", 10);
    publish("b", 10);
    store_watch_add(store, &watch);
    now += 10;
    assert_int_equal(store_expire(store, now, 9), 2);
    assert_int_equal(wakes, 1);
    store_watch_remove(store, &watch);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_store, close_store)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(gone_from_its_moment_on),
        TEST(idle_names_are_removed),
        TEST(order_and_bounds),
        TEST(many_at_once),
        TEST(publishing_removes),
        TEST(listed_with_what_is_left),
        TEST(not_listed_any_more),
        TEST(conditions_take_it_as_removed),
        TEST(watches_are_woken),
        TEST(publishing_makes_it_stay),
        TEST(times_are_set_anew),
        TEST(renaming_keeps_the_time),
        TEST(lengths),
        TEST(holders_keep_the_tensor),
        TEST(room_for_others),
        TEST(memory_goes_without_the_lock),
    };
    return cmocka_run_group_tests_name("store_expiry", tests, NULL, NULL);
}
