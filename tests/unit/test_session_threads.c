/* session, from many threads: connections that come and go while others still add. For the thread
 * sanitizer. */
#include "core/session.h"
#include "tests/unit/core_assert.h"

#include <pthread.h>

#define THREADS 4
#define ROUNDS 300
#define TENSORS 8

static struct host host;
static struct session_table *table;
static struct tensor *tensors[TENSORS];
static atomic_int errors, additions;
static char key[SESSION_KEY_LENGTH + 1];

static const struct session_limits limits = {.sessions = 2, .objects = 64, .leases = 64};

static int open_table(void **state)
{
    (void)state;
    host_open(&host, MIB, 0);
    assert_ok(session_table_create(&host.ledger, &limits, &table));
    for (int i = 0; i < TENSORS; i++)
        tensors[i] = bytes_tensor(host.cpu, 8);
    return 0;
}

static int close_table(void **state)
{
    (void)state;
    struct session_counts counts;
    session_table_count(table, &counts);
    assert_int_equal(counts.sessions + counts.objects + counts.leases, 0);
    session_table_destroy(table);
    for (int i = 0; i < TENSORS; i++) {
        assert_int_equal(atomic_load(&tensors[i]->refs), 1);
        assert_int_equal(atomic_load(&tensors[i]->storage->refs), 1);
        tensor_unref(tensors[i]);
    }
    host_close(&host);
    assert_int_equal(atomic_load(&errors), 0);
    return 0;
}

static void allow(enum td_status got, enum td_status a, enum td_status b)
{
    if (got != a && got != b)
        atomic_fetch_add(&errors, 1);
}

/* One connection: holds, finds, drops and leases what the others do, too. */
static void work(struct session *session, int self)
{
    for (int i = 0; i < TENSORS; i++) {
        struct tensor *found, *tensor = tensors[(i + self) % TENSORS];
        uint64_t lease;
        allow(session_hold(session, tensor), TD_OK, TD_OK);
        enum td_status status = session_find(session, tensor->id, &found);
        if (status == TD_OK)
            tensor_unref(found);
        allow(status, TD_OK, TD_OK); /* held here once at least */
        allow(session_lease(session, LEASE_READ, tensor->storage, 0, &lease), TD_OK, TD_OK);
        if (i % 2)
            allow(session_drop(session, tensor->id), TD_OK, TD_OK);
        if (i % 3)
            allow(session_release(session, lease), TD_OK, TD_OK);
    }
}

static void *join_work_leave(void *argument)
{
    int self = *(int *)argument;
    struct session *session;
    enum td_status status = session_join(table, text_of(key), &session);
    if (status == TD_OK) {
        work(session, self);
        session_leave(session);
    }
    allow(status, TD_OK, TD_NOT_FOUND); /* the first may have left, and all that joined */
    return NULL;
}

static void connections_come_and_go(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t threads[THREADS];
        int self[THREADS];
        struct session *session;
        assert_ok(session_open(table, NULL, 0, &session));
        memcpy(key, session_key(session), sizeof key);
        for (int i = 0; i < THREADS; i++) {
            self[i] = i;
            assert_int_equal(pthread_create(&threads[i], NULL, join_work_leave, &self[i]), 0);
        }
        session_leave(session);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
    }
}

/* Operations that still run when the last connection leaves: what they add before is let go, what
 * they add after is refused; nothing stays. */
static void *add_until_refused(void *argument)
{
    struct session *session = argument;
    enum td_status status = TD_OK;
    for (int i = 0; status == TD_OK; i = (i + 1) % TENSORS) {
        uint64_t lease;
        status = session_hold(session, tensors[i]);
        if (status == TD_OK)
            status = session_lease(session, LEASE_READ, tensors[i]->storage, 0, &lease);
        if (status == TD_OK && session_release(session, lease) != TD_OK)
            status = TD_CANCELLED; /* gone with the session */
        atomic_fetch_add(&additions, 1);
    }
    allow(status, TD_CANCELLED, TD_CANCELLED);
    allow(session_hold(session, tensors[0]), TD_CANCELLED, TD_CANCELLED);
    session_unref(session);
    return NULL;
}

static void end_under_operations(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t threads[THREADS];
        struct session *session;
        assert_ok(session_open(table, NULL, 0, &session));
        atomic_store(&additions, 0);
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(
                pthread_create(&threads[i], NULL, add_until_refused, session_ref(session)), 0);
        while (atomic_load(&additions) < round % 20)
            ;
        session_leave(session);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_table, close_table)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(connections_come_and_go),
        TEST(end_under_operations),
    };
    return cmocka_run_group_tests_name("session_threads", tests, NULL, NULL);
}
