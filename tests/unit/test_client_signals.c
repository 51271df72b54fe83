/* libtensord and time: signals that end a call (td_options.interrupted), and calls that end late.
 */
#include "client/internal.h"
#include "tests/unit/mock_daemon.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define FAR_MS 20000 /* no call that a signal should end may take as long */

static struct mock_daemon mock;
static struct td_client *client;
static int asked;      /* how often the program was asked */
static bool answer;    /* what it says */
static bool misplaced; /* it was asked in another thread, or with another argument */
static pthread_t caller;

static bool interrupted(void *argument)
{
    asked++;
    misplaced = misplaced || !pthread_equal(caller, pthread_self()) || argument != &mock;
    return answer;
}

static const struct td_options options = {
    .timeout_ms = FAR_MS,
    .interrupted = interrupted,
    .interrupted_argument = &mock,
};

static void handle(int signal_number)
{
    (void)signal_number;
}

static int start(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = handle}; /* no SA_RESTART */
    sigaction(SIGUSR1, &action, NULL);
    caller = pthread_self();
    asked = 0;
    answer = true;
    misplaced = false;
    mock_start(&mock, false);
    return td_connect(mock.url, &options, &client) == TD_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    td_close(client);
    mock_stop(&mock);
    assert_false(misplaced);
    return 0;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- signals, again and again, while something blocks --------------------------------------- */

static atomic_bool quiet;

static void *signal_work(void *argument)
{
    (void)argument;
    while (!atomic_load(&quiet)) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        pthread_kill(caller, SIGUSR1);
    }
    return NULL;
}

static pthread_t signals_start(void)
{
    pthread_t thread;
    atomic_store(&quiet, false);
    assert_int_equal(pthread_create(&thread, NULL, signal_work, NULL), 0);
    return thread;
}

static void signals_stop(pthread_t thread)
{
    atomic_store(&quiet, true);
    pthread_join(thread, NULL);
}

/* ---- the halves of a call ------------------------------------------------------------------ */

static void test_receive(void **state)
{
    (void)state;
    atomic_store(&mock.fault, FAULT_SILENT);
    int64_t begun = now_ms();
    pthread_t thread = signals_start();
    assert_int_equal(td_touch(client, "x"), TD_CANCELLED);
    signals_stop(thread);
    assert_true(now_ms() - begun < FAR_MS / 2);
    assert_true(asked >= 1);
    assert_non_null(strstr(td_last_error(), "'touch' was interrupted by a signal"));
    atomic_store(&mock.fault, FAULT_NONE);
    assert_int_equal(td_op(client, "ping", NULL, "x", 1, NULL), TD_OK);
    assert_int_equal(td_session_count(client), 1);
}

/* Signals that the program does not mind change nothing. */
static void test_go_on(void **state)
{
    (void)state;
    answer = false;
    td_close(client);
    struct td_options hurried = options;
    hurried.timeout_ms = 300;
    assert_int_equal(td_connect(mock.url, &hurried, &client), TD_OK);
    atomic_store(&mock.fault, FAULT_SILENT);
    int64_t begun = now_ms();
    pthread_t thread = signals_start();
    assert_int_equal(td_touch(client, "x"), TD_DEADLINE);
    signals_stop(thread);
    assert_true(now_ms() - begun >= 300);
    assert_true(asked >= 1);
}

/* Nobody reads what is sent. */
static void test_send(void **state)
{
    (void)state;
    int64_t size = 32 << 20;
    char *body = calloc(1, (size_t)size);
    atomic_store(&mock.fault, FAULT_DEAF);
    pthread_t thread = signals_start();
    assert_int_equal(td_put(client, "x", TD_UINT8, 1, &size, body, 0, NULL), TD_CANCELLED);
    signals_stop(thread);
    atomic_store(&mock.fault, FAULT_NONE);
    assert_int_equal(td_op(client, "ping", NULL, "x", 1, NULL), TD_OK);
    assert_int_equal(td_session_count(client), 1);
    free(body);
}

/* Nobody accepts, and the queue is full. */
static void test_connect(void **state)
{
    (void)state;
    struct td_client *none = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/deaf", mock.directory);
    int deaf = socket(AF_UNIX, SOCK_STREAM, 0), queued = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(deaf, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(deaf, 0), 0);
    assert_int_equal(connect(queued, (struct sockaddr *)&address, sizeof address), 0);
    pthread_t thread = signals_start();
    assert_int_equal(td_connect(address.sun_path, &options, &none), TD_CANCELLED);
    signals_stop(thread);
    assert_null(none);
    assert_non_null(strstr(td_last_error(), "connecting to"));
    close(queued);
    close(deaf);
    unlink(address.sun_path);
}

/* ---- waiting for others ---------------------------------------------------------------------- */

#define PATIENT_ASKS 40 /* at 20 ms or more each */

static bool interrupted_late(void *argument)
{
    return interrupted(argument) && asked > PATIENT_ASKS;
}

/* The client's own timeout does not cut it short, a signal does. */
static void test_wait_for_ever(void **state)
{
    (void)state;
    td_close(client);
    struct td_options hurried = options;
    hurried.timeout_ms = 300;
    hurried.interrupted = interrupted_late;
    assert_int_equal(td_connect(mock.url, &hurried, &client), TD_OK);
    atomic_store(&mock.fault, FAULT_SILENT);
    for (int i = 0; i < 2; i++) {
        struct td_reply *none = NULL;
        uint64_t since = TD_SINCE_NOW;
        asked = 0;
        int64_t begun = now_ms();
        pthread_t thread = signals_start();
        if (i == 0)
            assert_int_equal(td_wait(client, "x", 0, -1, &none), TD_CANCELLED);
        else
            assert_int_equal(td_watch(client, "x", &since, -1, &none), TD_CANCELLED);
        signals_stop(thread);
        assert_true(now_ms() - begun > 600);
        assert_null(none);
        assert_true(since == TD_SINCE_NOW);
    }
    atomic_store(&mock.fault, FAULT_NONE);
    assert_int_equal(td_wait(client, NULL, 0, 0, NULL), TD_INVALID);
    assert_int_equal(td_session_count(client), 1);
}

/* ---- late ---------------------------------------------------------------------------------- */

/* The daemon hangs altogether: the connection that should keep the session waits no full second. */
static void test_replacement_is_short(void **state)
{
    (void)state;
    td_close(client);
    struct td_options hurried = {.timeout_ms = 400};
    assert_int_equal(td_connect(mock.url, &hurried, &client), TD_OK);
    struct connection *connection;
    assert_int_equal(pool_take(client, DEADLINE_NEVER, &connection), TD_OK);
    pthread_mutex_lock(&mock.lock); /* no hello is answered */
    int64_t begun = now_ms();
    pool_give(client, connection, CONNECTION_DESYNC);
    int64_t took = now_ms() - begun;
    pthread_mutex_unlock(&mock.lock);
    assert_in_range(took, 50, 800);
}

#define MOCKED(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MOCKED(test_receive), MOCKED(test_go_on),         MOCKED(test_send),
        MOCKED(test_connect), MOCKED(test_wait_for_ever), MOCKED(test_replacement_is_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
