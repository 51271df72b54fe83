/* store: the events that publishes and removals leave, and who is woken by them. */
#include "core/store.h"
#include "tests/unit/core_assert.h"

#include <inttypes.h>

static struct host host;
static struct store *store;
static struct tensor *tensor;

static const struct store_condition always, create_only = {.create_only = true};
static const struct store_watch all = {.prefix = {"", 0}};

static int open_store(void **state)
{
    (void)state;
    host_open(&host, MIB, 0);
    assert_ok(store_create(&host.ledger, &store));
    tensor = bytes_tensor(host.cpu, 1);
    return 0;
}

static int close_store(void **state)
{
    (void)state;
    store_destroy(store);
    tensor_unref(tensor);
    host_close(&host);
    return 0;
}

static uint64_t publish(const char *name)
{
    uint64_t generation = 0;
    assert_ok(store_publish(store, text_of(name), tensor, &always, &generation));
    return generation;
}

static void drop(const char *name)
{
    assert_ok(store_remove(store, text_of(name), &always));
}

static uint64_t rename_to(const char *from, const char *to)
{
    uint64_t generation = 0;
    assert_ok(store_rename(store, text_of(from), text_of(to), &always, &generation));
    return generation;
}

/* The events as "1+a 2-a"; *since moves on. None may be lost. */
static void assert_events(const struct store_watch *watch, uint64_t *since, size_t max,
                          const char *wanted)
{
    struct store_event events[16];
    char got[512] = "";
    size_t length = 0;
    bool lost = true;
    assert_true(max <= COUNT(events));
    size_t count = store_events(store, watch, since, &lost, max, events);
    assert_false(lost);
    for (size_t i = 0; i < count; i++)
        length += (size_t)snprintf(got + length, sizeof got - length, "%s%" PRIu64 "%c%s",
                                   i ? " " : "", events[i].revision,
                                   events[i].kind == STORE_PUBLISHED ? '+' : '-', events[i].name);
    if (strcmp(got, wanted) != 0)
        fail_msg("'%s', not '%s'", got, wanted);
}

static void order_of_events(void **state)
{
    uint64_t since = 0;
    (void)state;
    assert_events(&all, &since, 16, "");
    assert_int_equal(publish("a"), 1);
    publish("b");
    publish("a");
    drop("b");
    assert_int_equal(store_revision(store), 4); /* a removal takes one, too */
    assert_events(&all, &since, 16, "1+a 2+b 3+a 4-b");
    assert_int_equal(since, 4);
    assert_events(&all, &since, 16, "");
    assert_int_equal(rename_to("a", "c"), 5);
    assert_int_equal(store_revision(store), 6);
    assert_events(&all, &since, 16, "5+c 6-a");
    publish("d");
    assert_int_equal(rename_to("c", "d"), 8); /* onto another */
    assert_int_equal(rename_to("d", "d"), 10);
    assert_int_equal(store_revision(store), 10);
    assert_events(&all, &since, 16, "7+d 8+d 9-c 10+d");
    since = 8;
    assert_events(&all, &since, 16, "9-c 10+d");
}

/* What was refused happened to nobody. */
static void refusals_leave_none(void **state)
{
    uint64_t since = 0, generation;
    (void)state;
    struct store_condition stale = {.has_generation = true, .generation = 77};
    publish("a");
    publish("b");
    struct text a = text_of("a"), b = text_of("b"), c = text_of("c");
    assert_refused(store_publish(store, a, tensor, &create_only, &generation), TD_EXISTS, "");
    assert_refused(store_publish(store, c, tensor, &stale, &generation), TD_PRECONDITION, "");
    assert_refused(store_remove(store, c, &always), TD_NOT_FOUND, "");
    assert_refused(store_remove(store, a, &stale), TD_PRECONDITION, "");
    assert_refused(store_rename(store, a, b, &create_only, &generation), TD_EXISTS, "");
    assert_refused(store_rename(store, c, a, &always, &generation), TD_NOT_FOUND, "");
    host.ledger.limits.names = 2;
    assert_refused(store_publish(store, c, tensor, &always, &generation), TD_OUT_OF_MEMORY, "");
    assert_int_equal(store_revision(store), 2);
    assert_events(&all, &since, 16, "1+a 2+b");
}

static void chosen_by_name(void **state)
{
    static const struct {
        const char *prefix;
        bool exact;
        const char *wanted;
    } rows[] = {
        {"", false, "1+a 2+a/b 3+ab 4+b 5-a 6+a"},
        {"a", false, "1+a 2+a/b 3+ab 5-a 6+a"},
        {"a/", false, "2+a/b"},
        {"a", true, "1+a 5-a 6+a"},
        {"ab", true, "3+ab"},
        {"ab", false, "3+ab"},
        {"abc", false, ""},
        {"a/b/c", true, ""},
        {"", true, ""}, /* no name is empty */
    };
    (void)state;
    publish("a");
    publish("a/b");
    publish("ab");
    publish("b");
    drop("a");
    publish("a");
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct store_watch watch = {.prefix = text_of(rows[i].prefix), .exact = rows[i].exact};
        uint64_t since = 0;
        assert_events(&watch, &since, 16, rows[i].wanted);
        assert_int_equal(since, 6); /* the others were looked at, too */
    }
}

static void in_pages(void **state)
{
    struct store_watch even = {.prefix = text_of("even")};
    uint64_t since = 0;
    (void)state;
    for (int i = 0; i < 4; i++) {
        publish("odd");
        publish("even");
    }
    assert_events(&even, &since, 0, "");
    assert_int_equal(since, 0);
    assert_events(&even, &since, 2, "2+even 4+even");
    assert_int_equal(since, 4); /* not past what may have been left out */
    assert_events(&even, &since, 1, "6+even");
    assert_events(&even, &since, 2, "8+even");
    assert_events(&even, &since, 2, "");
    assert_int_equal(since, 8);
}

/* -- the ring -- */

#define MORE 10

static void publish_many(uint64_t count)
{
    static const char *const names[] = {"x", "y", "z"};
    for (uint64_t i = 1; i <= count; i++)
        publish(names[i % 3]);
}

static void lost_events(void **state)
{
    static struct store_event events[STORE_EVENTS_KEPT + 1];
    static const struct {
        uint64_t since;
        bool lost;
        uint64_t first, count;
    } rows[] = {
        {0, true, MORE + 1, STORE_EVENTS_KEPT},
        {MORE - 1, true, MORE + 1, STORE_EVENTS_KEPT},
        {MORE, false, MORE + 1, STORE_EVENTS_KEPT},
        {MORE + 1, false, MORE + 2, STORE_EVENTS_KEPT - 1},
        {MORE + STORE_EVENTS_KEPT - 1, false, MORE + STORE_EVENTS_KEPT, 1},
        {MORE + STORE_EVENTS_KEPT, false, 0, 0},
        {MORE + STORE_EVENTS_KEPT + 1, true, MORE + 1, STORE_EVENTS_KEPT}, /* of before a restart */
        {UINT64_MAX, true, MORE + 1, STORE_EVENTS_KEPT},
    };
    (void)state;
    publish_many(STORE_EVENTS_KEPT + MORE);
    for (size_t i = 0; i < COUNT(rows); i++) {
        uint64_t since = rows[i].since;
        bool lost = !rows[i].lost;
        size_t count = store_events(store, &all, &since, &lost, COUNT(events), events);
        assert_int_equal(lost, rows[i].lost);
        assert_int_equal(count, rows[i].count);
        assert_int_equal(since, MORE + STORE_EVENTS_KEPT);
        for (size_t k = 0; k < count; k++) {
            assert_int_equal(events[k].revision, rows[i].first + k);
            assert_int_equal(events[k].name[0], "xyz"[events[k].revision % 3]);
        }
    }
    /* Lost while it reads: told once, and then goes on without a gap. */
    uint64_t since = 0;
    bool lost = false;
    assert_int_equal(store_events(store, &all, &since, &lost, 5, events), 5);
    assert_true(lost);
    assert_int_equal(since, MORE + 5);
    assert_int_equal(store_events(store, &all, &since, &lost, 5, events), 5);
    assert_false(lost);
    assert_int_equal(events[0].revision, MORE + 6);
}

/* As long as the ring is not full nothing is lost, from the very first on. */
static void full_ring(void **state)
{
    static struct store_event events[STORE_EVENTS_KEPT + 1];
    uint64_t since = 0;
    bool lost = true;
    (void)state;
    publish_many(STORE_EVENTS_KEPT);
    assert_int_equal(store_events(store, &all, &since, &lost, COUNT(events), events),
                     STORE_EVENTS_KEPT);
    assert_false(lost);
    assert_int_equal(events[0].revision, 1);
}

/* What was seen before a restart is not taken for this store's, whichever number is higher. */
static void revisions_of_before_a_restart(void **state)
{
    enum { FIRST = 3000000 };
    static const struct {
        uint64_t since;
        bool lost;
    } rows[] = {{1, true}, {FIRST - 1, true}, {FIRST + 4, true}, {0, false}, {FIRST, false}};
    (void)state;
    store_revisions_begin(store, FIRST);
    for (uint64_t since = 0; since <= FIRST; since += FIRST) {
        uint64_t seen = since;
        assert_events(&all, &seen, 16, "");
        assert_int_equal(seen, FIRST);
    }
    publish("a");
    drop("a");
    publish("b");
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct store_event events[4];
        uint64_t since = rows[i].since;
        bool lost = !rows[i].lost;
        assert_int_equal(store_events(store, &all, &since, &lost, 4, events), 3);
        assert_int_equal(lost, rows[i].lost);
        assert_int_equal(events[0].revision, FIRST + 1);
        assert_int_equal(since, FIRST + 3);
    }
    /* The first of them go like any other. */
    publish_many(STORE_EVENTS_KEPT);
    uint64_t since = 0;
    bool lost = false;
    struct store_event event;
    assert_int_equal(store_events(store, &all, &since, &lost, 1, &event), 1);
    assert_true(lost);
    assert_int_equal(event.revision, FIRST + 4);
}

/* The longest names in every slot, and what a shorter one leaves of them. */
static void long_names(void **state)
{
    char name[NAME_MAX_BYTES + 1];
    struct store_event event;
    (void)state;
    memset(name, 'n', NAME_MAX_BYTES);
    name[NAME_MAX_BYTES] = '\0';
    for (int i = 0; i < STORE_EVENTS_KEPT; i++) {
        name[NAME_MAX_BYTES - 1] = (char)('a' + i % 26);
        uint64_t revision = publish(name), since = revision - 1;
        bool lost;
        assert_int_equal(store_events(store, &all, &since, &lost, 1, &event), 1);
        assert_string_equal(event.name, name);
    }
    uint64_t since = publish("short") - 1;
    assert_events(&all, &since, 1, "4097+short");
    assert_int_equal(store_count(store), 27);
}

/* -- waking -- */

struct counted {
    struct store_watch watch;
    int woken;
};

static void count_wake(struct store_watch *watch)
{
    ((struct counted *)(void *)watch)->woken++;
}

static struct counted counted(const char *prefix, bool exact)
{
    return (struct counted){
        .watch = {.prefix = text_of(prefix), .exact = exact, .wake = count_wake}};
}

static void woken_for_names(void **state)
{
    struct counted everything = counted("", false), below = counted("a/", false);
    struct counted one = counted("a/x", true);
    struct counted *const watches[] = {&everything, &below, &one};
    (void)state;
    publish("a/x"); /* before anybody watched */
    for (size_t i = 0; i < COUNT(watches); i++)
        store_watch_add(store, &watches[i]->watch);
    static const struct {
        char what;
        const char *name, *to;
        int woken[3];
    } rows[] = {
        {'+', "b", NULL, {1, 0, 0}},       {'+', "a/xy", NULL, {1, 1, 0}},
        {'+', "a/x", NULL, {1, 1, 1}},     {'-', "a/x", NULL, {1, 1, 1}},
        {'-', "b", NULL, {1, 0, 0}},       {'>', "a/xy", "a/x", {2, 2, 1}},
        {'>', "a/x", "out", {2, 1, 1}},    {'>', "out", "in", {2, 0, 0}},
        {'>', "in", "a/x", {2, 1, 1}},     {'>', "a/x", "a/x", {1, 1, 1}},
        {'!', "missing", NULL, {0, 0, 0}}, /* refused */
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (rows[i].what == '+')
            publish(rows[i].name);
        else if (rows[i].what == '-')
            drop(rows[i].name);
        else if (rows[i].what == '>')
            rename_to(rows[i].name, rows[i].to);
        else
            assert_refused(store_remove(store, text_of(rows[i].name), &always), TD_NOT_FOUND, "");
        for (size_t k = 0; k < COUNT(watches); k++) {
            if (watches[k]->woken != rows[i].woken[k])
                fail_msg("row %zu: watch %zu was woken %d times, not %d", i, k, watches[k]->woken,
                         rows[i].woken[k]);
            watches[k]->woken = 0;
        }
    }
    for (size_t i = 0; i < COUNT(watches); i++)
        store_watch_remove(store, &watches[i]->watch);
}

/* The first, the middle and the last of the list, in every order. */
static void watches_removed(void **state)
{
    static const int orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                    {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    (void)state;
    for (size_t i = 0; i < COUNT(orders); i++) {
        struct counted watches[3];
        for (int k = 0; k < 3; k++) {
            watches[k] = counted("", false);
            store_watch_add(store, &watches[k].watch);
        }
        int wanted[3] = {0};
        for (int step = 0; step < 3; step++) {
            publish("x");
            for (int k = step; k < 3; k++)
                wanted[orders[i][k]]++;
            store_watch_remove(store, &watches[orders[i][step]].watch);
        }
        publish("x");
        for (int k = 0; k < 3; k++)
            assert_int_equal(watches[k].woken, wanted[k]);
        store_watch_add(store, &watches[0].watch); /* again */
        publish("x");
        store_watch_remove(store, &watches[0].watch);
        assert_int_equal(watches[0].woken, wanted[0] + 1);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_store, close_store)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(order_of_events),
        TEST(refusals_leave_none),
        TEST(chosen_by_name),
        TEST(in_pages),
        TEST(lost_events),
        TEST(full_ring),
        TEST(revisions_of_before_a_restart),
        TEST(long_names),
        TEST(woken_for_names),
        TEST(watches_removed),
    };
    return cmocka_run_group_tests_name("store_events", tests, NULL, NULL);
}
