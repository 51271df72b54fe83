/* libtensord from many threads at once; for the thread sanitizer as well. */
#include "client/internal.h"
#include "tests/unit/mock_daemon.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define THREADS 6
#define ROUNDS 60
#define ELEMENTS 1000

static struct mock_daemon mock;
static struct td_client *client;
static atomic_int failures;

static int start(void **state)
{
    (void)state;
    mock_start(&mock, false);
    atomic_store(&failures, 0);
    return td_connect(mock.url, NULL, &client) == TD_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    td_close(client);
    mock_stop(&mock);
    return 0;
}

static void check(bool good)
{
    if (!good)
        atomic_fetch_add(&failures, 1);
}

static void run(void *(*work)(void *), void *arguments[THREADS])
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, arguments[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&failures), 0);
}

/* ---- calls, maps and releases on one client ------------------------------------------------ */

static bool all_equal(const float *values, float value)
{
    for (int i = 0; i < ELEMENTS; i++)
        if (values[i] != value)
            return false;
    return true;
}

static void *mixed_work(void *argument)
{
    const char *name = argument;
    int64_t n = ELEMENTS;
    float values[ELEMENTS], back[ELEMENTS];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < ELEMENTS; i++)
            values[i] = (float)round;
        size_t size = sizeof back;
        check(td_put(client, name, TD_FLOAT32, 1, &n, values, 0, NULL) == TD_OK);
        check(td_get(client, name, TD_DTYPE_NONE, back, &size, NULL) == TD_OK);
        check(all_equal(back, (float)round));
        struct td_mapping *mine = NULL, *shared = NULL;
        check(td_map(client, name, 0, &mine) == TD_OK);
        check(td_map(client, "shared", round % 2 ? TD_MAP_WRITE : 0, &shared) == TD_OK);
        check(mine && all_equal(td_mapping_data(mine), (float)round));
        check(shared && all_equal(td_mapping_data(shared), 5));
        td_release(client, (uint64_t)round, 1);
        td_unmap(mine);
        td_unmap(shared);
    }
    return NULL;
}

static void test_mixed(void **state)
{
    (void)state;
    int64_t n = ELEMENTS;
    float values[ELEMENTS];
    for (int i = 0; i < ELEMENTS; i++)
        values[i] = 5;
    assert_int_equal(td_put(client, "shared", TD_FLOAT32, 1, &n, values, TD_PUT_MUTABLE, NULL),
                     TD_OK);
    void *names[THREADS] = {"a", "b", "c", "d", "e", "f"};
    run(mixed_work, names);
    assert_true(atomic_load(&mock.hellos) <= THREADS + 1);
    int expected = THREADS * ROUNDS * 3; /* two leases and an object a round: none is lost */
    for (int i = 0; i < 2000 && atomic_load(&mock.releases) < expected; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_int_equal(atomic_load(&mock.releases), expected);
    for (int i = 0; i < STORAGE_BUCKETS; i++)
        assert_true(!client->storages_by_id[i] && !client->storages_by_name[i]);
}

/* ---- the session is lost under all of them ------------------------------------------------- */

static void *ping_work(void *argument)
{
    (void)argument;
    for (int round = 0; round < ROUNDS; round++)
        check(td_op(client, "ping", NULL, "x", 1, NULL) == TD_OK);
    return NULL;
}

/* All find the session gone at the same time; one opens another, which the others join. */
static void test_one_new_session(void **state)
{
    (void)state;
    void *nothing[THREADS] = {0};
    run(ping_work, nothing);
    for (uint64_t loss = 1; loss <= 5; loss++) {
        atomic_store(&mock.forget, true);
        mock_drop_connections(&mock);
        run(ping_work, nothing);
        assert_int_equal(td_session_count(client), 1 + loss);
    }
}

/* ---- connections given up ------------------------------------------------------------------ */

static atomic_int at_the_line;

static void *give_up_work(void *argument)
{
    atomic_fetch_add(&at_the_line, 1);
    while (atomic_load(&at_the_line) < 2)
        ;
    pool_give(client, argument, CONNECTION_DESYNC);
    return NULL;
}

/* The last two connections go at the same time: neither relies on the other. */
static void test_two_go_at_once(void **state)
{
    for (int batch = 0; batch < 20; batch++) { /* a mock takes MOCK_CONNECTIONS in all */
        for (int round = 0; round < 15; round++) {
            struct connection *a, *b;
            pthread_t thread;
            atomic_store(&at_the_line, 0);
            assert_int_equal(pool_take(client, DEADLINE_NEVER, &a), TD_OK);
            assert_int_equal(pool_take(client, DEADLINE_NEVER, &b), TD_OK);
            while (client->connections->next->next) { /* an idle one would keep the session */
                struct connection *idle = NULL;
                assert_int_equal(pool_take(client, DEADLINE_NEVER, &idle), TD_OK);
                pool_give(client, idle, CONNECTION_LOST);
            }
            assert_int_equal(pthread_create(&thread, NULL, give_up_work, a), 0);
            give_up_work(b);
            pthread_join(thread, NULL);
            assert_non_null(client->connections);
        }
        assert_int_equal(td_session_count(client), 1);
        stop(state);
        start(state);
    }
}

/* ---- closing under a call ------------------------------------------------------------------ */

static void *blocked_work(void *argument)
{
    (void)argument;
    check(td_touch(client, "x") == TD_CONNECTION);
    return NULL;
}

static void test_close_ends_calls(void **state)
{
    (void)state;
    pthread_t thread;
    atomic_store(&mock.fault, FAULT_SILENT);
    assert_int_equal(pthread_create(&thread, NULL, blocked_work, NULL), 0);
    while (atomic_load(&mock.requests) == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    td_close(client);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&failures), 0);
    atomic_store(&mock.fault, FAULT_NONE);
    assert_int_equal(td_connect(mock.url, NULL, &client), TD_OK);
}

/* ---- shared memory ------------------------------------------------------------------------- */

static void *memory_work(void *argument)
{
    (void)argument;
    for (int round = 0; round < ROUNDS; round++) {
        int64_t n = ELEMENTS;
        float *values = td_shared_alloc(ELEMENTS * sizeof *values);
        check(values && td_shared_owns(values + 10));
        if (!values)
            continue;
        check(td_from_memory(client, NULL, TD_FLOAT32, 1, &n, NULL, values, true, NULL) == TD_OK);
        check(values[0] == 1); /* the mock adds 1 */
        td_shared_free(values);
    }
    return NULL;
}

static void test_memory(void **state)
{
    (void)state;
    void *nothing[THREADS] = {0};
    run(memory_work, nothing);
    assert_int_equal(atomic_load(&mock.descriptors_in), THREADS * ROUNDS);
}

#define MOCKED(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MOCKED(test_mixed),          MOCKED(test_one_new_session),
        MOCKED(test_two_go_at_once), MOCKED(test_close_ends_calls),
        MOCKED(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
