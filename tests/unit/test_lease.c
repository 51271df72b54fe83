/* lease: begun, used, listed, and ended in each of its ways, once. */
#include "core/session.h"
#include "tests/unit/core_assert.h"

static struct host host;
static struct lease_table *table;
static struct accounts *accounts;
static struct account *account, *other_account;
static struct lease_owner owner, other;
static int ended;
static uint64_t last_id; /* of the lease that was begun last */

struct held {
    struct lease lease;
    int number;
};

static int open_table(void **state)
{
    static const uint64_t quotas[QUOTA_COUNT] = {[QUOTA_LEASES] = 6};
    (void)state;
    host_open(&host, MIB, 0);
    assert_ok(lease_table_create(&host.ledger, &table));
    assert_ok(accounts_create(quotas, &accounts));
    assert_ok(account_open(accounts, (struct principal){PRINCIPAL_UID, 42}, &account));
    assert_ok(account_open(accounts, (struct principal){.kind = PRINCIPAL_TCP}, &other_account));
    owner = (struct lease_owner){.account = account, .session = 3, .pid = 77, .limit = 4};
    other = (struct lease_owner){.account = other_account, .session = 4, .limit = 100};
    ended = 0;
    return 0;
}

static int close_table(void **state)
{
    (void)state;
    (void)lease_end_all(table, &owner);
    (void)lease_end_all(table, &other);
    assert_int_equal(lease_count(table), 0);
    lease_table_destroy(table);
    assert_int_equal(atomic_load(&account->used[QUOTA_LEASES]), 0);
    account_unref(account);
    account_unref(other_account);
    accounts_destroy(accounts);
    assert_ledger_empty(&host.ledger);
    host_close(&host);
    return 0;
}

static void end(struct lease *lease)
{
    assert_non_null(lease->account);
    ended++;
    storage_unref(lease->storage);
    free(lease);
}

static struct lease *new_lease(enum lease_kind kind)
{
    struct held *held = calloc(1, sizeof *held);
    held->lease.kind = kind;
    held->lease.bytes = 4096;
    held->lease.end = end;
    return &held->lease;
}

static uint64_t begin(struct lease_owner *of, enum lease_kind kind)
{
    struct lease *lease = new_lease(kind);
    assert_ok(lease_begin(table, of, lease, &last_id));
    return last_id;
}

static void test_a_lease_ends_once(void **state)
{
    (void)state;
    uint64_t a = begin(&owner, LEASE_READ), b = begin(&owner, LEASE_WRITE);
    assert_true(b > a && a > 0);
    assert_int_equal(lease_owner_count(table, &owner), 2);
    assert_refused(lease_release(table, &other, a), TD_NOT_FOUND, "has no lease");
    assert_ok(lease_release(table, &owner, a));
    assert_refused(lease_release(table, &owner, a), TD_NOT_FOUND, "leases lists those there are");
    assert_int_equal(ended, 1);
    assert_int_equal(lease_end_all(table, &owner), 1);
    assert_int_equal(lease_end_all(table, &owner), 0);
    assert_int_equal(ended, 2);
    struct lease *late = new_lease(LEASE_READ);
    assert_refused(lease_begin(table, &owner, late, &last_id), TD_CANCELLED, "has ended");
    free(late);
    assert_int_equal(ended, 2);
}

static void test_the_limits(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        begin(&owner, LEASE_READ);
    struct lease *more = new_lease(LEASE_READ);
    assert_refused(lease_begin(table, &owner, more, &last_id), TD_OUT_OF_MEMORY, "--max-leases");
    /* Of another session of the same user. */
    struct lease_owner second = {.account = account, .session = 5, .limit = 100};
    begin(&second, LEASE_READ);
    begin(&second, LEASE_READ);
    assert_refused(lease_begin(table, &second, more, &last_id), TD_OUT_OF_MEMORY,
                   "uid:42 holds 6 of the 6 leases");
    host.ledger.fail_after = 1;
    assert_refused(lease_begin(table, &other, more, &last_id), TD_OUT_OF_MEMORY, "");
    assert_int_equal(atomic_load(&other_account->used[QUOTA_LEASES]), 0);
    assert_ok(lease_begin(table, &other, more, &last_id));
    assert_int_equal(lease_end_all(table, &second), 2);
}

static enum td_status note(struct lease *lease, void *argument)
{
    *(uint64_t *)argument = lease->bytes;
    return TD_UNAVAILABLE; /* is passed on */
}

static void test_a_lease_is_used_by_its_owner(void **state)
{
    (void)state;
    uint64_t bytes = 0, id = begin(&owner, LEASE_ITEM);
    assert_int_equal(lease_use(table, &owner, id, note, &bytes), TD_UNAVAILABLE);
    assert_int_equal(bytes, 4096);
    assert_refused(lease_use(table, &other, id, note, &bytes), TD_NOT_FOUND, "");
}

static void test_what_expires(void **state)
{
    (void)state;
    uint64_t now = clock_now_ms();
    struct lease *soon = new_lease(LEASE_READ), *later = new_lease(LEASE_READ);
    struct lease *given_back = new_lease(LEASE_READ);
    begin(&owner, LEASE_READ);
    soon->expires_ms = now + 10;
    given_back->expires_ms = now + 5;
    later->expires_ms = now + 20;
    assert_ok(lease_begin(table, &owner, later, &last_id));
    assert_ok(lease_begin(table, &owner, given_back, &last_id));
    assert_ok(lease_release(table, &owner, last_id));
    assert_int_equal(ended, 1);
    assert_ok(lease_begin(table, &owner, soon, &last_id));
    lease_expire(table, now + 9);
    assert_int_equal(ended, 1);
    lease_expire(table, now + 10);
    assert_int_equal(ended, 2);
    lease_expire(table, now + 1000000);
    assert_int_equal(ended, 3);
    assert_int_equal(lease_owner_count(table, &owner), 1); /* that has no such time */
}

static void test_the_list(void **state)
{
    (void)state;
    struct lease_entry entries[8];
    struct storage *storage;
    assert_ok(storage_create(host.cpu, NULL, 100, true, &storage));
    storage_finish(storage, STORAGE_FROZEN);
    struct lease *mapping = new_lease(LEASE_FILL);
    mapping->storage = storage;
    mapping->expires_ms = clock_now_ms() + 60000;
    begin(&other, LEASE_ITEM);
    assert_ok(lease_begin(table, &owner, mapping, &last_id));
    uint64_t last = begin(&other, LEASE_PRODUCER);

    assert_int_equal(lease_list(table, 0, NULL, 8, entries), 3);
    assert_int_equal(entries[1].session, 3);
    assert_int_equal(entries[1].pid, 77);
    assert_int_equal(entries[1].uid, 42);
    assert_true(entries[1].has_uid && !entries[0].has_uid);
    assert_string_equal(entries[1].principal, "uid:42");
    assert_string_equal(entries[0].principal, "tcp");
    assert_string_equal(entries[1].mode, "frozen");
    assert_int_equal(entries[1].kind, LEASE_READ); /* what was filled is frozen now */
    assert_null(entries[0].mode);
    assert_true(entries[1].ttl_ms > 50000 && entries[1].ttl_ms <= 60000 && !entries[0].ttl_ms);
    assert_true(entries[0].age_ms < 50000 && !entries[1].deleted);
    assert_string_equal(lease_kind_name(entries[2].kind), "producer");

    assert_int_equal(lease_list(table, 0, NULL, 2, entries), 2); /* page by page */
    assert_int_equal(lease_list(table, entries[1].id, NULL, 8, entries), 1);
    assert_int_equal(entries[0].id, last);
    assert_int_equal(lease_list(table, last, NULL, 8, entries), 0);
    assert_int_equal(lease_list(table, UINT64_MAX, NULL, 8, entries), 0);
    assert_int_equal(lease_list(table, 0, account, 8, entries), 1); /* of one user */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_table, close_table)
    const struct CMUnitTest tests[] = {
        TEST(test_a_lease_ends_once),
        TEST(test_the_limits),
        TEST(test_a_lease_is_used_by_its_owner),
        TEST(test_what_expires),
        TEST(test_the_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
