/* lease and account, from many threads: sessions that come and go, leases that expire while they
 * are released and listed, and names that lead to a storage and do not. For the thread sanitizer.
 */
#include "core/session.h"
#include "tests/unit/core_assert.h"

#include <pthread.h>

#define THREADS 4
#define ROUNDS 60
#define LEASES 12

static struct host host;
static struct session_table *table;
static struct accounts *accounts;
static struct tensor *tensor;
static atomic_int errors;
static atomic_bool stop;

static int open_all(void **state)
{
    static const uint64_t quotas[QUOTA_COUNT] = {[QUOTA_BYTES] = MIB, [QUOTA_LEASES] = 20};
    static const struct session_limits limits = {.sessions = 64, .objects = 64, .leases = 64};
    (void)state;
    host_open(&host, MIB, 0);
    assert_ok(session_table_create(&host.ledger, &limits, &table));
    assert_ok(accounts_create(quotas, &accounts));
    tensor = bytes_tensor(host.cpu, 100);
    return 0;
}

static int close_all(void **state)
{
    struct account *left[2];
    (void)state;
    assert_int_equal(atomic_load(&errors), 0);
    assert_int_equal(lease_count(session_leases(table)), 0);
    session_table_destroy(table);
    assert_int_equal(atomic_load(&tensor->storage->refs), 1);
    assert_int_equal(tensor->storage->writers, 0);
    tensor_unref(tensor);
    assert_int_equal(accounts_list(accounts, 2, left), 0);
    accounts_destroy(accounts);
    host_close(&host);
    return 0;
}

static void expect(bool condition)
{
    if (!condition)
        atomic_fetch_add(&errors, 1);
}

/* Sessions of two users, which take leases, give some back, and end with the rest. */
static void *hold(void *argument)
{
    uint32_t uid = (uint32_t)(uintptr_t)argument % 2;
    for (int round = 0; round < ROUNDS; round++) {
        struct account *account;
        struct session *session;
        uint64_t ids[LEASES];
        int count = 0;
        expect(account_open(accounts, (struct principal){PRINCIPAL_UID, uid}, &account) == TD_OK);
        expect(session_open(table, account, 1, &session) == TD_OK);
        account_unref(account);
        for (int i = 0; i < LEASES; i++) {
            enum td_status status = session_lease(session, i % 2 ? LEASE_WRITE : LEASE_READ,
                                                  tensor->storage, i % 3 ? 0 : 1, &ids[count]);
            count += status == TD_OK;
            expect(status == TD_OK || status == TD_OUT_OF_MEMORY); /* the quota, of both threads */
        }
        for (int i = 0; i < count; i += 2) {
            enum td_status status = session_release(session, ids[i]);
            expect(status == TD_OK || status == TD_NOT_FOUND); /* it has expired */
        }
        session_leave(session);
    }
    return NULL;
}

/* The clock, and who looks. */
static void *watch(void *argument)
{
    struct lease_entry entries[16];
    struct account *list[4];
    char text[100];
    (void)argument;
    while (!atomic_load(&stop)) {
        lease_expire(session_leases(table), clock_now_ms());
        (void)lease_list(session_leases(table), 0, NULL, COUNT(entries), entries);
        size_t count = accounts_list(accounts, COUNT(list), list);
        while (count > 0)
            account_unref(list[--count]);
        accounts_describe(accounts, QUOTA_LEASES, text, sizeof text);
    }
    return NULL;
}

/* The storage has a name, and has none. */
static void *rename_it(void *argument)
{
    struct account *account;
    (void)argument;
    expect(account_open(accounts, (struct principal){PRINCIPAL_UID, 9}, &account) == TD_OK);
    while (!atomic_load(&stop)) {
        storage_name_begin(tensor->storage, account);
        storage_name_end(tensor->storage);
    }
    account_unref(account);
    return NULL;
}

static void test_everything_at_once(void **state)
{
    pthread_t threads[THREADS], watcher, namer;
    (void)state;
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&watcher, NULL, watch, NULL), 0);
    assert_int_equal(pthread_create(&namer, NULL, rename_it, NULL), 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hold, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&stop, true);
    pthread_join(watcher, NULL);
    pthread_join(namer, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_everything_at_once, open_all, close_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
