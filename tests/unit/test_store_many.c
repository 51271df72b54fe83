/* store: many names published at one moment, all of them or none. */
#include "core/store.h"
#include "tests/unit/core_assert.h"

#include <stdlib.h>

static struct host host;
static struct store *store;
static struct tensor *one, *two;
static struct accounts *accounts;
static struct account *account;
static uint64_t clock_ms;
static const struct store_condition always, create_only = {.create_only = true};

static uint64_t read_clock(void)
{
    return clock_ms;
}

static int open_store(void **state)
{
    uint64_t quotas[QUOTA_COUNT];
    (void)state;
    for (int i = 0; i < QUOTA_COUNT; i++)
        quotas[i] = UINT64_MAX;
    quotas[QUOTA_NAMES] = 5;
    host_open(&host, 64 * MIB, 0);
    assert_ok(store_create(&host.ledger, &store));
    clock_ms = 1000;
    store_set_clock(store, read_clock);
    one = bytes_tensor(host.cpu, 1);
    two = bytes_tensor(host.cpu, 2);
    assert_ok(accounts_create(quotas, &accounts));
    assert_ok(account_open(accounts, (struct principal){PRINCIPAL_UID, 7}, &account));
    return 0;
}

static int close_store(void **state)
{
    (void)state;
    store_destroy(store);
    tensor_unref(one);
    tensor_unref(two);
    assert_int_equal(atomic_load(&account->used[QUOTA_NAMES]), 0);
    account_unref(account);
    accounts_destroy(accounts);
    host_close(&host);
    return 0;
}

/* Names separated by blanks, all for the same tensor. */
static enum td_status publish_words(const char *words, struct tensor *tensor,
                                    const struct store_condition *condition, uint64_t ttl_ms,
                                    struct store_publication *list)
{
    size_t count = 0;
    for (const char *at = words; *at; at += strspn(at, " ")) {
        list[count++] = (struct store_publication){{at, strcspn(at, " ")}, tensor, 0};
        at += strcspn(at, " ");
    }
    return store_publish_many(store, list, count, condition, ttl_ms, account);
}

static void publish(const char *words, struct tensor *tensor)
{
    struct store_publication list[8];
    assert_ok(publish_words(words, tensor, &always, 0, list));
}

static void refused(const char *words, const struct store_condition *condition,
                    enum td_status status, const char *part)
{
    struct store_publication list[8];
    struct ledger before, after;
    uint64_t revision = store_revision(store), count = store_count(store);
    unsigned refs = atomic_load(&two->refs);
    unsigned long long names = atomic_load(&account->used[QUOTA_NAMES]);
    ledger_read(&host.ledger, &before);
    assert_refused(publish_words(words, two, condition, 0, list), status, part);
    ledger_read(&host.ledger, &after);
    assert_int_equal(store_revision(store), revision);
    assert_int_equal(store_count(store), count);
    assert_int_equal(atomic_load(&two->refs), refs);
    assert_int_equal(atomic_load(&account->used[QUOTA_NAMES]), names);
    assert_int_equal(after.used.memory_bytes, before.used.memory_bytes);
    assert_int_equal(after.used.names, before.used.names);
}

static void assert_holds(const char *name, struct tensor *wanted, uint64_t wanted_generation)
{
    struct tensor *tensor;
    uint64_t generation;
    assert_ok(store_lookup(store, text_of(name), &tensor, &generation));
    assert_ptr_equal(tensor, wanted);
    assert_int_equal(generation, wanted_generation);
    tensor_unref(tensor);
}

static void revisions_in_order(void **state)
{
    struct store_publication list[8];
    struct store_watch watch = {.prefix = text_of("")};
    struct store_event events[8];
    uint64_t since = 0;
    bool lost;
    (void)state;
    publish("b", one);
    assert_ok(publish_words("c b a", two, &always, 0, list));
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(list[i].generation, 2 + i);
    assert_holds("c", two, 2);
    assert_holds("b", two, 3);
    assert_holds("a", two, 4);
    assert_int_equal(atomic_load(&one->refs), 1);
    assert_int_equal(store_events(store, &watch, &since, &lost, 8, events), 4);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(events[i].kind, STORE_PUBLISHED);
        assert_int_equal(events[i].name[0], "cba"[i - 1]);
    }
    assert_ok(store_publish_many(store, list, 0, &always, 0, account));
}

static void conditions_hold_for_all(void **state)
{
    struct store_publication list[8];
    (void)state;
    publish("b", one);
    refused("a b c", &create_only, TD_EXISTS, "'b' is taken");
    refused("b c", &(struct store_condition){.has_generation = true, .generation = 1},
            TD_PRECONDITION, "'c'");
    assert_holds("b", one, 1);
    assert_ok(publish_words("a c", two, &create_only, 0, list));
}

static void names_are_checked_first(void **state)
{
    (void)state;
    refused("a b//c d", &always, TD_INVALID, "segment");
    refused("a b c b", &always, TD_INVALID, "'b' comes twice");
    refused("a a", &always, TD_INVALID, "twice");
    struct store_publication list[1] = {{text_of(""), two, 0}};
    assert_refused(store_publish_many(store, list, 1, &always, 0, account), TD_INVALID, "");
}

static void too_many_at_once(void **state)
{
    struct store_publication list[1];
    (void)state;
    assert_refused(store_publish_many(store, list, STORE_PUBLISH_MAX + 1, &always, 0, account),
                   TD_TOO_LARGE, "65536");
}

static void quota_of_all(void **state)
{
    struct store_publication list[8];
    (void)state;
    publish("a b c", one);
    refused("d e f", &always, TD_OUT_OF_MEMORY, "3 more do not fit");
    assert_ok(publish_words("a b d e", two, &always, 0, list)); /* two of them are paid for */
    assert_int_equal(atomic_load(&account->used[QUOTA_NAMES]), 5);
    /* Names that others pay for are this account's from now on. */
    uint64_t generation;
    assert_ok(store_publish(store, text_of("theirs"), one, &always, &generation));
    refused("theirs a", &always, TD_OUT_OF_MEMORY, "1 more do not fit");
    assert_ok(store_remove(store, text_of("b"), &always));
    assert_ok(publish_words("theirs a", two, &always, 0, list));
    assert_int_equal(atomic_load(&account->used[QUOTA_NAMES]), 5);
}

static void ledger_of_all(void **state)
{
    (void)state;
    host.ledger.limits.names = 3;
    publish("a", one);
    refused("a b c d", &always, TD_OUT_OF_MEMORY, "names");
    host.ledger.limits.names = 64;
    for (uint64_t nth = 1; nth <= 3; nth++) {
        host.ledger.fail_after = nth;
        refused("x y z", &always, TD_OUT_OF_MEMORY, "for a test");
    }
}

static void they_expire_together(void **state)
{
    struct store_publication list[8];
    struct tensor *tensor;
    uint64_t generation;
    (void)state;
    publish("b", one);
    assert_ok(publish_words("a b c", two, &always, 50, list));
    clock_ms += 49;
    assert_int_equal(store_count(store), 3);
    clock_ms += 1;
    assert_refused(store_lookup(store, text_of("b"), &tensor, &generation), TD_NOT_FOUND, "'b'");
    /* What is over is not there for create_only either. */
    assert_ok(publish_words("a b c", one, &create_only, 0, list));
    assert_int_equal(atomic_load(&two->refs), 1);
}

static void as_many_as_can_be(void **state)
{
    static struct store_publication list[STORE_PUBLISH_MAX];
    static char names[STORE_PUBLISH_MAX][8];
    (void)state;
    host.ledger.limits.names = STORE_PUBLISH_MAX;
    for (int i = 0; i < STORE_PUBLISH_MAX; i++) {
        snprintf(names[i], sizeof names[i], "n%d", (i * 7919) % STORE_PUBLISH_MAX);
        list[i] = (struct store_publication){text_of(names[i]), one, 0};
    }
    assert_ok(store_publish_many(store, list, STORE_PUBLISH_MAX, &create_only, 0, NULL));
    assert_int_equal(store_count(store), STORE_PUBLISH_MAX);
    assert_int_equal(atomic_load(&one->refs), STORE_PUBLISH_MAX + 1);
    assert_holds("n7919", one, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_store, close_store)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(revisions_in_order),
        TEST(conditions_hold_for_all),
        TEST(names_are_checked_first),
        TEST(too_many_at_once),
        TEST(quota_of_all),
        TEST(ledger_of_all),
        TEST(they_expire_together),
        TEST(as_many_as_can_be),
    };
    return cmocka_run_group_tests_name("store_many", tests, NULL, NULL);
}
