/* store: which texts are names, and names that come, go and change their tensors. */
#include "core/store.h"
#include "tests/unit/core_assert.h"

#include <stdlib.h>

static struct host host;
static struct store *store;
static struct tensor *one, *two;

static int open_store(void **state)
{
    (void)state;
    host_open(&host, MIB, 0);
    assert_ok(store_create(&host.ledger, &store));
    one = bytes_tensor(host.cpu, 1);
    two = bytes_tensor(host.cpu, 2);
    return 0;
}

static int close_store(void **state)
{
    (void)state;
    store_destroy(store);
    tensor_unref(one);
    tensor_unref(two);
    host_close(&host);
    return 0;
}

/* -- names -- */

static const struct {
    const char *text;
    const char *refusal; /* NULL: it is a name */
} names[] = {
    {"a", NULL},
    {"weights/layer.0/w", NULL},
    {"...", NULL},
    {".a/..b/c..", NULL},
    {"a@b", NULL},
    {"a b", NULL},
    {"~", NULL},
    {"%s%n", NULL},
    {"a\\b", NULL},
    {"\xC3\xA9/\xE6\x97\xA5\xE6\x9C\xAC/\xF0\x9F\x92\xBE", NULL},
    {"\xC2\xA0", NULL},         /* the first after the C1 controls */
    {"\xED\x9F\xBF", NULL},     /* the last before the surrogates */
    {"\xEE\x80\x80", NULL},     /* the first after them */
    {"\xF4\x8F\xBF\xBF", NULL}, /* U+10FFFF */
    {"\xE0\xA0\x80", NULL},
    {"\xF0\x90\x80\x80", NULL},
    {"", "1 to 512 bytes"},
    {"@", "begins with '@'"},
    {"@1", "begins with '@'"},
    {"/", "segment"},
    {"/a", "segment"},
    {"a/", "segment"},
    {"a//b", "segment"},
    {".", "segment"},
    {"..", "segment"},
    {"a/./b", "segment"},
    {"a/..", "segment"},
    {"../a", "segment"},
    {"a\n", "byte 1 is 0x0a"},
    {"\x1B[2J", "byte 0 is 0x1b"},
    {"\x7F", "byte 0 is 0x7f"},
    {"a\xC2\x80", "byte 1 is 0xc2"}, /* C1 controls */
    {"\xC2\x9F", "byte 0"},
    {"\x80", "byte 0"},
    {"\xBF", "byte 0"},
    {"\xC0\xAF", "byte 0"},           /* overlong '/' */
    {"a/\xC0\xAE\xC0\xAE", "byte 2"}, /* overlong ".." */
    {"\xC1\xBF", "byte 0"},
    {"\xE0\x80\xAF", "byte 0"},
    {"\xE0\x9F\xBF", "byte 0"},
    {"\xF0\x80\x80\xAF", "byte 0"},
    {"\xF0\x8F\xBF\xBF", "byte 0"},
    {"\xED\xA0\x80", "byte 0"}, /* surrogates */
    {"\xED\xBF\xBF", "byte 0"},
    {"\xF4\x90\x80\x80", "byte 0"}, /* past U+10FFFF */
    {"\xF5\x80\x80\x80", "byte 0"},
    {"\xF8\x88\x80\x80\x80", "byte 0"},
    {"\xFF", "byte 0"},
    {"\xFE\xFF", "byte 0"},
    {"a\xC3", "byte 1"}, /* cut short */
    {"a\xE6\x97", "byte 1"},
    {"a\xF0\x9F\x92", "byte 1"},
    {"\xC3(", "byte 0"},
    {"\xE6\x97(", "byte 0"},
};

static void name_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        size_t length = strlen(names[i].text);
        char *exact = malloc(length ? length : 1); /* no NUL behind it: reading on is seen */
        memcpy(exact, names[i].text, length);
        enum td_status status = name_check((struct text){exact, length});
        free(exact);
        if (!names[i].refusal && status != TD_OK)
            fail_msg("'%s' was refused: %s", names[i].text, fail_detail());
        if (names[i].refusal && status != TD_INVALID)
            fail_msg("row %zu was accepted", i);
        if (names[i].refusal && !strstr(fail_detail(), names[i].refusal))
            fail_msg("row %zu: '%s'", i, fail_detail());
    }
    assert_refused(name_check((struct text){"a\0b", 3}), TD_INVALID, "byte 1 is 0x00");
}

static void name_lengths(void **state)
{
    char name[514];
    (void)state;
    memset(name, 'n', sizeof name);
    assert_ok(name_check((struct text){name, 511}));
    assert_ok(name_check((struct text){name, 512}));
    assert_refused(name_check((struct text){name, 513}), TD_INVALID, "this one has 513");
    assert_refused(name_check((struct text){name, SIZE_MAX}), TD_INVALID, "1 to 512");
    memcpy(name + 511, "\xC3\xA9", 2); /* the last character ends behind the limit */
    assert_refused(name_check((struct text){name, 512}), TD_INVALID, "byte 511");
}

/* -- publish, look up, remove -- */

static const struct store_condition always, create_only = {.create_only = true};

static struct store_condition generation_is(uint64_t generation)
{
    return (struct store_condition){.has_generation = true, .generation = generation};
}

static uint64_t publish(const char *name, struct tensor *tensor)
{
    uint64_t generation = 0;
    assert_ok(store_publish(store, text_of(name), tensor, &always, &generation));
    return generation;
}

static void assert_holds(const char *name, const struct tensor *wanted, uint64_t wanted_generation)
{
    struct tensor *tensor;
    uint64_t generation;
    assert_ok(store_lookup(store, text_of(name), &tensor, &generation));
    assert_ptr_equal(tensor, wanted);
    assert_int_equal(generation, wanted_generation);
    tensor_unref(tensor);
}

static void assert_missing(const char *name)
{
    struct tensor *tensor;
    assert_refused(store_lookup(store, text_of(name), &tensor, NULL), TD_NOT_FOUND,
                   "no tensor is named");
}

static void publish_and_remove(void **state)
{
    (void)state;
    assert_missing("x");
    uint64_t first = publish("x", one);
    assert_holds("x", one, first);
    assert_int_equal(atomic_load(&one->refs), 2);
    uint64_t second = publish("x", two);
    assert_true(second > first);
    assert_holds("x", two, second);
    assert_int_equal(atomic_load(&one->refs), 1);
    assert_int_equal(store_count(store), 1);
    assert_ok(store_remove(store, text_of("x"), &always));
    assert_missing("x");
    assert_int_equal(store_count(store), 0);
    assert_refused(store_remove(store, text_of("x"), &always), TD_NOT_FOUND, "'x'");
    uint64_t generation;
    assert_refused(store_publish(store, text_of("../x"), one, &always, &generation), TD_INVALID,
                   "segment");
}

/* Whoever looked a tensor up keeps it, whatever happens to the name. */
static void holders_keep_it(void **state)
{
    struct tensor *held, *mine = bytes_tensor(host.cpu, 100);
    (void)state;
    publish("x", mine);
    assert_ok(store_lookup(store, text_of("x"), &held, NULL));
    tensor_unref(mine);
    publish("x", two);
    assert_ok(store_remove(store, text_of("x"), &always));
    memset(tensor_data(held), 7, 100);
    assert_int_equal(atomic_load(&held->refs), 1);
    tensor_unref(held);
}

static void conditions(void **state)
{
    uint64_t generation = 99;
    struct text x = text_of("x");
    (void)state;
    struct store_condition stale = generation_is(1000), none = generation_is(0);
    assert_refused(store_publish(store, x, one, &stale, &generation), TD_PRECONDITION,
                   "has generation 0, not 1000");
    assert_refused(store_publish(store, x, one, &none, &generation), TD_PRECONDITION, "");
    assert_int_equal(store_count(store), 0);
    assert_ok(store_publish(store, x, one, &create_only, &generation));
    uint64_t first = generation;
    assert_refused(store_publish(store, x, two, &create_only, &generation), TD_EXISTS, "is taken");
    assert_refused(store_publish(store, x, two, &stale, &generation), TD_PRECONDITION, "not 1000");
    assert_holds("x", one, first);
    struct store_condition right = generation_is(first);
    assert_ok(store_publish(store, x, two, &right, &generation));
    assert_holds("x", two, generation);
    assert_refused(store_publish(store, x, one, &right, &generation), TD_PRECONDITION, "");
    assert_refused(store_remove(store, x, &right), TD_PRECONDITION, "");
    right = generation_is(generation);
    assert_ok(store_remove(store, x, &right));
    assert_refused(store_remove(store, x, &right), TD_NOT_FOUND, "");
}

/* Deleted and made again never looks unchanged. */
static void generations_never_repeat(void **state)
{
    uint64_t last = 0, generation;
    (void)state;
    for (int i = 0; i < 100; i++) {
        generation = publish(i % 3 ? "x" : "y", i % 2 ? one : two);
        assert_true(generation > last);
        last = generation;
        if (i % 4 == 0)
            assert_ok(store_remove(store, text_of(i % 3 ? "x" : "y"), &always));
        if (i % 8 == 1 && store_count(store) > 0) {
            publish("z", one);
            assert_ok(store_rename(store, text_of("z"), text_of("x"), &always, &generation));
            assert_true(generation > last);
            last = generation;
        }
        assert_true(store_revision(store) >= last);
    }
}

static void rename_names(void **state)
{
    uint64_t generation;
    (void)state;
    uint64_t first = publish("a", one);
    assert_ok(store_rename(store, text_of("a"), text_of("b"), &always, &generation));
    assert_true(generation > first);
    assert_missing("a");
    assert_holds("b", one, generation);
    uint64_t other = publish("c", two);
    assert_refused(store_rename(store, text_of("b"), text_of("c"), &create_only, &generation),
                   TD_EXISTS, "'c' is taken");
    struct store_condition stale = generation_is(other + 1), right = generation_is(other);
    assert_refused(store_rename(store, text_of("b"), text_of("c"), &stale, &generation),
                   TD_PRECONDITION, "");
    assert_refused(store_rename(store, text_of("gone"), text_of("c"), &always, &generation),
                   TD_NOT_FOUND, "'gone'");
    assert_refused(store_rename(store, text_of("b"), text_of("/"), &always, &generation),
                   TD_INVALID, "segment");
    assert_holds("c", two, other);
    assert_ok(store_rename(store, text_of("b"), text_of("c"), &right, &generation));
    assert_missing("b");
    assert_holds("c", one, generation);
    assert_int_equal(store_count(store), 1);
    assert_int_equal(atomic_load(&two->refs), 1);
    assert_ok(store_rename(store, text_of("c"), text_of("c"), &always, &generation));
    assert_holds("c", one, generation); /* onto itself: only the generation is new */
    assert_int_equal(store_count(store), 1);
    assert_int_equal(atomic_load(&one->refs), 2);
}

/* -- listing -- */

static void assert_listed(const char *prefix, const char *cursor, size_t max, const char *wanted)
{
    struct store_entry entries[8];
    char got[128] = "";
    assert_true(max <= COUNT(entries));
    size_t found = store_list(store, text_of(prefix), text_of(cursor), max, entries);
    for (size_t i = 0; i < found; i++) {
        strcat(strcat(got, i ? " " : ""), entries[i].name);
        assert_non_null(entries[i].tensor);
        tensor_unref(entries[i].tensor);
    }
    if (strcmp(got, wanted) != 0)
        fail_msg("'%s' after '%s': '%s', not '%s'", prefix, cursor, got, wanted);
}

static void listing(void **state)
{
    static const char *const all[] = {"b/1", "a", "ab", "\xC3\xA9", "b", "b/10", "b/2", "Z"};
    static const struct {
        const char *prefix, *cursor;
        size_t max;
        const char *wanted;
    } rows[] = {
        {"", "", 8, "Z a ab b b/1 b/10 b/2 \xC3\xA9"},
        {"", "", 0, ""},
        {"", "", 3, "Z a ab"},
        {"", "ab", 3, "b b/1 b/10"},
        {"", "aa", 2, "ab b"}, /* a cursor that is not there (any more) */
        {"", "\xC3\xA9", 8, ""},
        {"", "\xFF", 8, ""},
        {"b", "", 8, "b b/1 b/10 b/2"},
        {"b/", "", 8, "b/1 b/10 b/2"},
        {"b/1", "", 8, "b/1 b/10"},
        {"b/", "b/1", 8, "b/10 b/2"},
        {"b/", "b/2", 8, ""},
        {"b/", "a", 8, "b/1 b/10 b/2"}, /* a cursor before the prefix */
        {"b/", "c", 8, ""},             /* and behind it */
        {"b", "b", 8, "b/1 b/10 b/2"},
        {"c", "", 8, ""},
        {"ab", "", 8, "ab"},
        {"abc", "", 8, ""},
    };
    (void)state;
    assert_listed("", "", 8, "");
    for (size_t i = 0; i < COUNT(all); i++)
        publish(all[i], one);
    for (size_t i = 0; i < COUNT(rows); i++)
        assert_listed(rows[i].prefix, rows[i].cursor, rows[i].max, rows[i].wanted);
    assert_ok(store_remove(store, text_of("b/1"), &always));
    assert_listed("b/", "b/1", 8, "b/10 b/2"); /* the cursor went: the rest still follows */
    publish("b/11", one);
    assert_listed("b/", "b/10", 8, "b/11 b/2");
}

static void longest_name(void **state)
{
    char name[NAME_MAX_BYTES + 1];
    struct store_entry entry;
    (void)state;
    memset(name, 'n', NAME_MAX_BYTES);
    name[NAME_MAX_BYTES] = '\0';
    publish(name, one);
    assert_int_equal(store_list(store, text_of("n"), text_of(""), 1, &entry), 1);
    assert_string_equal(entry.name, name);
    tensor_unref(entry.tensor);
}

/* -- limits -- */

static void names_limit(void **state)
{
    char name[16];
    uint64_t generation = 0;
    (void)state;
    host.ledger.limits.names = 3;
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "n%d", i);
        publish(name, one);
    }
    uint64_t revision = store_revision(store);
    assert_refused(store_publish(store, text_of("n3"), one, &always, &generation), TD_OUT_OF_MEMORY,
                   "3 of 3 names");
    assert_int_equal(store_revision(store), revision);
    assert_int_equal(store_count(store), 3);
    publish("n1", two); /* replacing needs no name more */
    assert_holds("n1", two, store_revision(store));
    assert_refused(store_publish(store, text_of("n1"), one, &create_only, &generation), TD_EXISTS,
                   "is taken");
    assert_ok(store_remove(store, text_of("n0"), &always));
    publish("n3", one);
    assert_int_equal(host.ledger.used.names, 3);
}

/* Neither does another name for the same tensor. */
static void rename_when_full(void **state)
{
    uint64_t generation = 0;
    (void)state;
    host.ledger.limits.names = 2;
    publish("a", one);
    publish("b", two);
    assert_ok(store_rename(store, text_of("a"), text_of("c"), &always, &generation));
    assert_ok(store_rename(store, text_of("c"), text_of("b"), &always, &generation));
    assert_holds("b", one, generation);
    assert_int_equal(store_count(store), 1);
    assert_int_equal(host.ledger.used.names, 1);
}

/* A refused reservation changes nothing. */
static void refused_reservation(void **state)
{
    uint64_t generation = 0;
    (void)state;
    uint64_t used = host.ledger.used.memory_bytes;
    host.ledger.fail_after = 1;
    assert_refused(store_publish(store, text_of("x"), one, &always, &generation), TD_OUT_OF_MEMORY,
                   "for a test");
    assert_int_equal(store_revision(store), 0);
    assert_int_equal(atomic_load(&one->refs), 1);
    assert_int_equal(host.ledger.used.memory_bytes, used);
    publish("x", one);
    assert_ok(store_remove(store, text_of("x"), &always));
    assert_int_equal(host.ledger.used.memory_bytes, used);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_store, close_store)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(name_table),
        cmocka_unit_test(name_lengths),
        TEST(publish_and_remove),
        TEST(holders_keep_it),
        TEST(conditions),
        TEST(generations_never_repeat),
        TEST(rename_names),
        TEST(listing),
        TEST(longest_name),
        TEST(names_limit),
        TEST(rename_when_full),
        TEST(refused_reservation),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
