/* account: principals, what they may hold, and what is said when that is more. */
#include "core/account.h"
#include "tests/unit/core_assert.h"

static struct accounts *accounts;

static const uint64_t limits[QUOTA_COUNT] = {
    [QUOTA_BYTES] = 1000,       [QUOTA_NAMES] = 10,      [QUOTA_LEASES] = 7,
    [QUOTA_QUEUE_BYTES] = 1000, [QUOTA_DESCRIPTORS] = 5, [QUOTA_CONNECTIONS] = 3,
};

static int open_accounts(void **state)
{
    (void)state;
    return accounts_create(limits, &accounts) != TD_OK;
}

static int close_accounts(void **state)
{
    struct account *left[4];
    (void)state;
    assert_int_equal(accounts_list(accounts, 4, left), 0); /* forgotten when nobody holds them */
    accounts_destroy(accounts);
    return 0;
}

static struct account *user(uint32_t uid)
{
    struct account *account;
    assert_ok(account_open(accounts, (struct principal){PRINCIPAL_UID, uid}, &account));
    return account;
}

static void test_a_principal_has_one_account(void **state)
{
    (void)state;
    struct account *a = user(7), *same = user(7), *other = user(8), *tcp, *again, *token;
    assert_ptr_equal(a, same);
    assert_ptr_not_equal(a, other);
    assert_ok(account_open(accounts, (struct principal){PRINCIPAL_TCP, 7}, &tcp));
    assert_ok(account_open(accounts, (struct principal){PRINCIPAL_TCP, 9}, &again));
    assert_ok(account_open(accounts, (struct principal){.kind = PRINCIPAL_TOKEN}, &token));
    assert_ptr_equal(tcp, again); /* the uid says nothing there */
    assert_ptr_not_equal(tcp, token);
    assert_string_equal(a->name, "uid:7");
    assert_string_equal(tcp->name, "tcp");
    assert_string_equal(token->name, "token");
    struct account *list[8];
    assert_int_equal(accounts_list(accounts, 8, list), 4);
    for (int i = 0; i < 4; i++)
        account_unref(list[i]);
    assert_int_equal(accounts_list(accounts, 2, list), 2);
    account_unref(list[0]);
    account_unref(list[1]);
    struct account *all[] = {a, same, other, tcp, again, token, account_ref(NULL)};
    for (size_t i = 0; i < COUNT(all); i++)
        account_unref(all[i]);
}

static void test_a_quota_is_kept(void **state)
{
    (void)state;
    struct account *a = user(7), *b = user(8);
    assert_ok(account_reserve(a, QUOTA_BYTES, 600));
    assert_ok(account_check(a, QUOTA_BYTES, 400));
    assert_refused(account_check(a, QUOTA_BYTES, 401), TD_OUT_OF_MEMORY,
                   "uid:7 holds 600 of the 1000 bytes of tensors that it may; 401 more do not fit");
    assert_refused(account_reserve(a, QUOTA_BYTES, 401), TD_OUT_OF_MEMORY,
                   "raise --quota-bytes or --memory-limit");
    assert_refused(account_reserve(a, QUOTA_BYTES, UINT64_MAX), TD_OUT_OF_MEMORY, "uid:7");
    assert_ok(account_reserve(a, QUOTA_BYTES, 400));
    assert_ok(account_reserve(a, QUOTA_BYTES, 0));    /* nothing always fits */
    assert_ok(account_reserve(b, QUOTA_BYTES, 1000)); /* of its own */
    assert_ok(account_reserve(a, QUOTA_NAMES, 10));
    assert_refused(account_reserve(a, QUOTA_NAMES, 1), TD_OUT_OF_MEMORY, "10 names");
    account_release(a, QUOTA_NAMES, 10);
    account_release(a, QUOTA_BYTES, 1000);
    account_release(b, QUOTA_BYTES, 1000);
    assert_ok(account_reserve(NULL, QUOTA_BYTES, UINT64_MAX)); /* the daemon's own */
    account_release(NULL, QUOTA_BYTES, UINT64_MAX);
    account_unref(a);
    account_unref(b);
}

static void test_deleted_bytes_count_beyond_the_quota(void **state)
{
    (void)state;
    struct account *a = user(7);
    assert_ok(account_reserve(a, QUOTA_BYTES, 900));
    account_hold_deleted(a, 300);
    assert_int_equal(atomic_load(&a->used[QUOTA_BYTES]), 1200);
    assert_int_equal(atomic_load(&a->deleted_bytes), 300);
    assert_refused(account_reserve(a, QUOTA_BYTES, 1), TD_OUT_OF_MEMORY,
                   "uid:7 holds 1200 of the 1000 bytes of tensors that it may, 300 of them deleted "
                   "but still held");
    account_drop_deleted(a, 300);
    assert_ok(account_reserve(a, QUOTA_BYTES, 100));
    assert_int_equal(atomic_load(&a->deleted_bytes), 0);
    account_release(a, QUOTA_BYTES, 1000);
    account_hold_deleted(NULL, 5);
    account_drop_deleted(NULL, 5);
    account_unref(a);
}

static void test_who_the_kernel_cannot_name_has_half(void **state)
{
    (void)state;
    struct account *unknown = user(UID_UNKNOWN), *root = user(0), *tcp;
    assert_ok(account_open(accounts, (struct principal){.kind = PRINCIPAL_TCP}, &tcp));
    assert_false(account_is_trusted(unknown));
    assert_true(account_is_trusted(root));
    assert_true(account_is_trusted(tcp));
    for (int i = 0; i < QUOTA_COUNT; i++) {
        assert_int_equal(unknown->limits[i], limits[i] / 2);
        assert_int_equal(root->limits[i], limits[i]);
        assert_non_null(quota_name((enum quota)i));
    }
    account_unref(unknown);
    account_unref(root);
    account_unref(tcp);
}

static void test_who_holds_most_is_told(void **state)
{
    (void)state;
    char text[128], small[12];
    struct account *of[5];
    accounts_describe(accounts, QUOTA_BYTES, text, sizeof text);
    assert_string_equal(text, "");
    for (uint32_t i = 0; i < 5; i++) {
        of[i] = user(i);
        assert_ok(account_reserve(of[i], QUOTA_BYTES, i == 2 ? 900 : 100 * i));
    }
    accounts_describe(accounts, QUOTA_BYTES, text, sizeof text);
    assert_string_equal(text, "uid:2 900, uid:4 400, uid:3 300");
    accounts_describe(accounts, QUOTA_BYTES, small, sizeof small);
    assert_memory_equal(small, "uid:2 900, ", sizeof small); /* cut, and ended */
    for (uint32_t i = 0; i < 5; i++) {
        account_release(of[i], QUOTA_BYTES, i == 2 ? 900 : 100 * i);
        account_unref(of[i]);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_accounts, close_accounts)
    const struct CMUnitTest tests[] = {
        TEST(test_a_principal_has_one_account),
        TEST(test_a_quota_is_kept),
        TEST(test_deleted_bytes_count_beyond_the_quota),
        TEST(test_who_the_kernel_cannot_name_has_half),
        TEST(test_who_holds_most_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
