/* libtensord against a mock daemon: the session lives as long as mappings hold leases, also after
 * td_close; and releases go out while a call waits. */
#include "client/internal.h"
#include "tests/unit/mock_daemon.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#define PATIENCE_MS 10000

static struct mock_daemon mock;
static struct td_client *client;

static int start(void **state)
{
    (void)state;
    mock_start(&mock, false);
    struct td_options options = {.client = "test", .timeout_ms = 5000};
    assert_int_equal(td_connect(mock.url, &options, &client), TD_OK);
    float values[1000] = {1, 2, 3};
    int64_t shape = 1000;
    assert_int_equal(td_put(client, "x", TD_FLOAT32, 1, &shape, values, TD_PUT_MUTABLE, NULL),
                     TD_OK);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    mock_stop(&mock);
    return 0;
}

static int releases(void)
{
    return atomic_load(&mock.releases);
}

static int requests(void)
{
    return atomic_load(&mock.requests);
}

static int connections(void)
{
    int count = 0;
    pthread_mutex_lock(&mock.lock);
    for (int i = 0; i < mock.connection_count; i++)
        count += mock.sockets[i] >= 0;
    pthread_mutex_unlock(&mock.lock);
    return count;
}

/* What arrives one-way has no reply to wait for. */
static void eventually(int (*what)(void), int count)
{
    const struct timespec step = {.tv_nsec = 1000000};
    for (int i = 0; what() != count; i++) {
        if (i > PATIENCE_MS)
            fail_msg("%d, not %d", what(), count);
        nanosleep(&step, NULL);
    }
}

static struct td_mapping *map_x(void)
{
    struct td_mapping *mapping;
    assert_int_equal(td_map(client, "x", TD_MAP_WRITE, &mapping), TD_OK);
    return mapping;
}

static void test_without_mappings_it_ends_at_once(void **state)
{
    (void)state;
    td_unmap(map_x());
    eventually(connections, 1);
    td_close(client);
    eventually(connections, 0);
}

static void test_the_last_mapping_ends_it(void **state)
{
    (void)state;
    struct td_mapping *first = map_x(), *second = map_x();
    int before = releases();
    td_close(client);
    eventually(releases, before + 1); /* of all objects */
    assert_int_equal(connections(), 1);
    assert_true(((const float *)td_mapping_data(second))[2] == 3);
    td_unmap(first);
    eventually(releases, before + 2); /* of its lease */
    assert_int_equal(connections(), 1);
    td_unmap(second);
    eventually(connections, 0); /* with the session the lease goes */
}

static void test_calls_fail_though_the_session_lives(void **state)
{
    (void)state;
    struct td_mapping *mapping = map_x(), *more;
    client_ref(client); /* as another thread's call would */
    td_close(client);
    assert_int_equal(td_map(client, "x", 0, &more), TD_CONNECTION);
    assert_int_equal(td_op(client, "ping", NULL, NULL, 0, NULL), TD_CONNECTION);
    assert_int_equal(connections(), 1);
    td_unmap(mapping);
    eventually(connections, 0);
    client_unref(client);
}

static void test_errors_keep_their_text(void **state)
{
    (void)state;
    struct td_mapping *mapping = map_x(), *none;
    assert_int_equal(td_map(client, "nothing", 0, &none), TD_NOT_FOUND);
    char text[200];
    snprintf(text, sizeof text, "%s", td_last_error());
    td_close(client);
    td_unmap(mapping);
    assert_string_equal(td_last_error(), text);
}

static void test_a_daemon_that_is_gone(void **state)
{
    (void)state;
    struct td_mapping *first = map_x(), *second = map_x();
    mock_stop(&mock);
    td_close(client);
    assert_true(((const float *)td_mapping_data(first))[0] == 1);
    td_unmap(first);
    td_unmap(second);
    mock_start(&mock, false);
}

/* The child neither ends nor keeps what is the parent's. */
static void test_fork(void **state)
{
    (void)state;
    struct td_mapping *first = map_x(), *second = map_x();
    int before = releases();
    td_close(client);
    eventually(releases, before + 1);
    pid_t child = fork();
    if (child == 0) {
        bool good = ((const float *)td_mapping_data(first))[1] == 2;
        td_unmap(first);
        td_unmap(second);
        _exit(good ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    assert_int_equal(connections(), 1);
    assert_int_equal(releases(), before + 1);
    td_unmap(first);
    td_unmap(second);
    eventually(connections, 0);
}

static void *wait_for_nothing(void *argument)
{
    (void)argument;
    assert_int_equal(td_op(client, "ping", NULL, NULL, 0, NULL), TD_DEADLINE);
    return NULL;
}

static void test_a_release_does_not_wait_for_a_reply(void **state)
{
    pthread_t thread;
    (void)state;
    struct td_mapping *mapping = map_x();
    int released = releases(), asked = requests();
    atomic_store(&mock.fault, FAULT_SILENT);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_nothing, NULL), 0);
    eventually(requests, asked + 1);
    td_unmap(mapping); /* the only connection is in use */
    eventually(releases, released + 1);
    atomic_store(&mock.fault, FAULT_NONE);
    pthread_join(thread, NULL);
    td_close(client);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)
    const struct CMUnitTest tests[] = {
        TEST(test_without_mappings_it_ends_at_once),
        TEST(test_the_last_mapping_ends_it),
        TEST(test_calls_fail_though_the_session_lives),
        TEST(test_errors_keep_their_text),
        TEST(test_a_daemon_that_is_gone),
        TEST(test_fork),
        TEST(test_a_release_does_not_wait_for_a_reply),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
