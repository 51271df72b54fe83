/* libtensord against a mock daemon: mappings, replies that lie about them, releases, fork. */
#include "client/internal.h"
#include "tests/unit/mock_daemon.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

static struct mock_daemon mock;
static struct td_client *client;

static void connect_with(const struct td_options *options)
{
    assert_int_equal(td_connect(mock.url, options, &client), TD_OK);
}

/* Descriptors that are open in this process. */
static int descriptor_count(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static int descriptors_before;

static int start(void **state)
{
    (void)state;
    descriptors_before = descriptor_count();
    mock_start(&mock, false);
    struct td_options options = {.client = "test", .timeout_ms = 5000};
    connect_with(&options);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    td_close(client);
    mock_stop(&mock);
    assert_int_equal(descriptor_count(), descriptors_before); /* none leaks, whatever came */
    return 0;
}

static void set_fault(enum mock_fault fault)
{
    atomic_store(&mock.fault, fault);
}

/* A ramp of n float32 under a name. */
static void put_ramp(const char *name, int64_t n, unsigned flags)
{
    float *values = malloc((size_t)n * sizeof *values + 1);
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)i;
    assert_int_equal(td_put(client, name, TD_FLOAT32, 1, &n, values, flags, NULL), TD_OK);
    free(values);
}

static void ping_works(void)
{
    struct td_reply *reply;
    assert_int_equal(td_op(client, "ping", NULL, "hello", 5, &reply), TD_OK);
    size_t size;
    assert_memory_equal(td_reply_body(reply, &size), "hello", 5);
    assert_int_equal(size, 5);
    td_reply_free(reply);
}

/* Releases are one-way: gives them time to arrive. */
static void expect_releases(int count)
{
    for (int i = 0; i < 2000 && atomic_load(&mock.releases) < count; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_int_equal(atomic_load(&mock.releases), count);
}

/* ---- mappings ------------------------------------------------------------------------------ */

static void test_map_shared(void **state)
{
    (void)state;
    struct td_mapping *a, *b, *c;
    put_ramp("x", 1000, 0);
    assert_int_equal(td_map(client, "x", 0, &a), TD_OK);
    assert_string_equal(td_mapping_info(a)->memory, "shared");
    assert_int_equal(td_mapping_span(a), 4000);
    assert_false(td_mapping_writable(a));
    assert_true(((const float *)td_mapping_data(a))[999] == 999);
    assert_false(td_shared_owns(td_mapping_data(a)));
    assert_int_equal(td_map(client, "x", 0, &b), TD_OK); /* the same pages, no descriptor */
    assert_ptr_equal(td_mapping_data(a), td_mapping_data(b));
    assert_int_equal(atomic_load(&mock.known), 1);
    assert_int_equal(td_map(client, "x", TD_MAP_PRIVATE, &c), TD_OK);
    assert_true(td_mapping_writable(c));
    ((float *)td_mapping_data(c))[0] = 7;
    assert_true(((const float *)td_mapping_data(a))[0] == 0);
    td_unmap(a);
    td_unmap(c);
    assert_true(((const float *)td_mapping_data(b))[5] == 5);
    td_unmap(b);
    expect_releases(3);
}

static void test_map_writable(void **state)
{
    (void)state;
    struct td_mapping *w, *r;
    float back[100];
    size_t size = sizeof back;
    put_ramp("m", 100, TD_PUT_MUTABLE);
    assert_int_equal(td_map(client, "m", TD_MAP_WRITE, &w), TD_OK);
    assert_true(td_mapping_writable(w));
    float *data = td_mapping_data(w);
    data[42] = -1;
    assert_int_equal(td_touch(client, "m"), TD_OK);
    assert_int_equal(td_get(client, "m", TD_DTYPE_NONE, back, &size, NULL), TD_OK);
    assert_true(back[42] == -1);
    assert_true(td_shared_owns(data) && td_shared_owns(data + 99));
    assert_false(td_shared_owns(data + 100));
    assert_int_equal(td_map(client, "m", TD_MAP_NUMPY | TD_MAP_FORCE, &r), TD_OK);
    assert_ptr_equal(td_mapping_data(r), data); /* a writable mapping serves readers too */
    assert_false(td_mapping_writable(r));
    int64_t n = 10;
    struct td_reply *reply;
    assert_int_equal(
        td_from_memory(client, "again", TD_FLOAT32, 1, &n, NULL, data + 10, true, &reply), TD_OK);
    assert_int_equal(atomic_load(&mock.descriptors_in), 1);
    assert_true(data[10] == 11); /* the mock adds 1 */
    td_reply_free(reply);
    td_unmap(w);
    td_unmap(r);
    assert_false(td_shared_owns(data));
}

static void test_map_copied(void **state)
{
    (void)state;
    struct td_mapping *mapping;
    put_ramp("s", 4, 0);
    assert_int_equal(td_map(client, "s", 0, &mapping), TD_OK);
    assert_string_equal(td_mapping_info(mapping)->memory, "copied");
    assert_string_equal(td_mapping_info(mapping)->reason, "small");
    assert_true(td_mapping_writable(mapping));
    assert_true(((float *)td_mapping_data(mapping))[3] == 3);
    td_unmap(mapping);
}

static void test_map_large_is_aligned(void **state)
{
    (void)state;
    struct td_mapping *a, *b;
    put_ramp("big", 1 << 20, 0); /* 4 MiB */
    assert_int_equal(td_map(client, "big", 0, &a), TD_OK);
    assert_int_equal((uintptr_t)td_mapping_data(a) % HUGE_PAGE_BYTES, 0);
    assert_int_equal(td_map(client, "big", TD_MAP_PRIVATE, &b), TD_OK);
    assert_int_equal((uintptr_t)td_mapping_data(b) % HUGE_PAGE_BYTES, 0);
    assert_true(((float *)td_mapping_data(b))[1048575] == 1048575);
    td_unmap(a);
    td_unmap(b);
}

static void test_map_lies(void **state)
{
    (void)state;
    static const enum mock_fault faults[] = {
        FAULT_NO_DESCRIPTOR, FAULT_TWO_DESCRIPTORS, FAULT_UNSEALED, FAULT_STORAGE_BYTES,
        FAULT_OFFSET,        FAULT_OFFSET_WRAPS,    FAULT_STRIDES,  FAULT_MEMORY_WORD,
    };
    struct td_mapping *mapping = NULL;
    put_ramp("x", 1000, 0);
    put_ramp("s", 4, 0);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        for (unsigned flags = 0; flags <= TD_MAP_PRIVATE; flags += TD_MAP_PRIVATE) {
            set_fault(faults[i]);
            assert_int_equal(td_map(client, "x", flags, &mapping), TD_PROTOCOL);
            assert_null(mapping);
            set_fault(FAULT_NONE);
        }
    set_fault(FAULT_COPY_SIZE);
    assert_int_equal(td_map(client, "s", 0, &mapping), TD_PROTOCOL);
    set_fault(FAULT_NONE);
    assert_int_equal(td_map(client, "x", 0, &mapping), TD_OK);
    td_unmap(mapping);
}

static void test_unmap_after_close(void **state)
{
    (void)state;
    struct td_mapping *mapping;
    put_ramp("x", 1000, 0);
    assert_int_equal(td_map(client, "x", 0, &mapping), TD_OK);
    td_close(client);
    assert_true(((const float *)td_mapping_data(mapping))[10] == 10);
    td_unmap(mapping);
    connect_with(NULL);
}

/* A mapping of an earlier session is not taken for a storage of the new one with the same id. */
static void test_map_across_sessions(void **state)
{
    (void)state;
    struct td_mapping *old, *new;
    put_ramp("x", 1000, 0);
    assert_int_equal(td_map(client, "x", 0, &old), TD_OK);
    atomic_store(&mock.forget, true);
    mock_drop_connections(&mock);
    assert_int_equal(td_map(client, "x", 0, &new), TD_OK);
    assert_int_equal(td_session_count(client), 2);
    assert_ptr_not_equal(td_mapping_data(old), td_mapping_data(new));
    assert_true(((const float *)td_mapping_data(new))[3] == 3);
    td_unmap(old); /* its lease ended with its session: nothing is sent */
    td_unmap(new);
    expect_releases(2); /* of the answer that was not used, and of new */
}

/* A stray write stays in this process; a page that nobody wrote to shows the storage. */
static void test_map_stray_write(void **state)
{
    (void)state;
    struct td_mapping *r, *again, *w;
    int64_t n = 4096; /* four pages */
    float back[4096];
    size_t size = sizeof back;
    put_ramp("m", n, TD_PUT_MUTABLE);
    assert_int_equal(td_map(client, "m", 0, &r), TD_OK);
    float *read = td_mapping_data(r);
    assert_true(read[0] == 0 && read[n - 1] == (float)(n - 1)); /* mapped before they change */
    assert_int_equal(td_map(client, "m", TD_MAP_WRITE, &w), TD_OK);
    float *written = td_mapping_data(w);
    assert_ptr_not_equal(read, written);
    written[n - 1] = 17;
    assert_true(read[n - 1] == 17);

    assert_false(td_mapping_writable(r));
    read[0] = -1;
    assert_true(written[0] == 0);
    written[1] = 18; /* of the page that was copied */
    written[n - 2] = 19;
    assert_true(read[1] == 1 && read[n - 2] == 19);
    assert_int_equal(td_get(client, "m", TD_DTYPE_NONE, back, &size, NULL), TD_OK);
    assert_true(back[0] == 0 && back[1] == 18);
    assert_false(td_shared_owns(read));
    td_unmap(w);
    assert_int_equal(td_map(client, "m", 0, &again), TD_OK);
    assert_ptr_equal(td_mapping_data(again), read);
    td_unmap(r);
    td_unmap(again);
}

/* Where a process may have no private memory, it can still read. */
static void test_map_without_private_memory(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* it needs private memory itself */
#endif
    struct td_mapping *r;
    struct rlimit data, none;
    put_ramp("x", 1 << 20, 0);
    assert_int_equal(getrlimit(RLIMIT_DATA, &data), 0);
    none = data;
    none.rlim_cur = 4096;
    assert_int_equal(setrlimit(RLIMIT_DATA, &none), 0);
    enum td_status status = td_map(client, "x", 0, &r);
    assert_int_equal(setrlimit(RLIMIT_DATA, &data), 0);
    assert_int_equal(status, TD_OK);
    assert_true(((const float *)td_mapping_data(r))[77] == 77);
    td_unmap(r);
}

/* No descriptor is free: the map fails, and nothing else. */
static void test_map_without_descriptors(void **state)
{
    (void)state;
    struct td_mapping *mapping = NULL;
    struct rlimit before, full;
    put_ramp("x", 1000, 0);
    int lowest = fcntl(0, F_DUPFD_CLOEXEC, 0); /* that is free */
    assert_true(lowest > 0);
    close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    full = before;
    full.rlim_cur = (rlim_t)lowest;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &full), 0);
    enum td_status status = td_map(client, "x", 0, &mapping);
    ping_works();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(status, TD_OUT_OF_MEMORY);
    assert_null(mapping);
    expect_releases(1);
    assert_int_equal(atomic_load(&mock.hellos), 1);
    assert_int_equal(td_session_count(client), 1);
    assert_int_equal(td_map(client, "x", 0, &mapping), TD_OK);
    td_unmap(mapping);
}

/* ---- releases ------------------------------------------------------------------------------ */

static void test_release(void **state)
{
    (void)state;
    assert_int_equal(td_touch(client, "nothing"), TD_NOT_FOUND);
    td_release(client, 77, 1);
    assert_non_null(strstr(td_last_error(), "no such tensor")); /* left alone */
    expect_releases(1);
    assert_string_equal(mock.last_release_input, "@77");
    ping_works();
}

/* With no idle connection they wait, and go with the next call. */
static void test_pending_releases(void **state)
{
    (void)state;
    struct connection *busy;
    assert_int_equal(pool_take(client, DEADLINE_NEVER, &busy), TD_OK);
    for (uint64_t id = 1; id <= 40; id++)
        td_release(client, id, 1);
    assert_int_equal(client->pending_count, 40);
    assert_int_equal(atomic_load(&mock.releases), 0);
    ping_works(); /* on a second connection, which takes them along */
    assert_int_equal(atomic_load(&mock.releases), 40);
    td_release(client, 41, 1);
    pool_give(client, busy, CONNECTION_GOOD);
    expect_releases(41);
}

/* What a dead connection did not take is sent on the next one. */
static void test_release_on_dead_connection(void **state)
{
    (void)state;
    mock_drop_connections(&mock);
    td_release(client, 5, 1);
    ping_works();
    expect_releases(1);
    assert_int_equal(td_session_count(client), 1);
}

/* The new session may hold another object of that number. */
static void test_release_of_earlier_session(void **state)
{
    (void)state;
    atomic_store(&mock.forget, true);
    mock_drop_connections(&mock);
    ping_works();
    assert_int_equal(td_session_count(client), 2);
    td_release(client, 5, 1);
    td_release(client, 6, 2);
    ping_works();
    expect_releases(1);
    assert_string_equal(mock.last_release_input, "@6");
}

/* ---- fork ---------------------------------------------------------------------------------- */

static void test_fork(void **state)
{
    (void)state;
    struct td_mapping *mapping;
    put_ramp("x", 1000, 0);
    assert_int_equal(td_map(client, "x", 0, &mapping), TD_OK);
    pid_t child = fork();
    if (child == 0) {
        bool good = td_touch(client, "x") == TD_CONNECTION;
        good = good && strstr(td_last_error(), "before fork(); connect anew in process") != NULL;
        good = good && ((const float *)td_mapping_data(mapping))[9] == 9;
        td_unmap(mapping);
        td_release(client, 3, 1);
        td_close(client);
        struct td_client *own = NULL;
        good = good && td_connect(mock.url, NULL, &own) == TD_OK;
        td_close(own);
        _exit(good ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    ping_works();
    assert_int_equal(atomic_load(&mock.releases), 0);
    assert_int_equal(td_session_count(client), 1);
    td_unmap(mapping);
    expect_releases(1);
}

#define MOCKED(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MOCKED(test_map_shared),
        MOCKED(test_map_writable),
        MOCKED(test_map_copied),
        MOCKED(test_map_large_is_aligned),
        MOCKED(test_map_lies),
        MOCKED(test_unmap_after_close),
        MOCKED(test_map_across_sessions),
        MOCKED(test_map_stray_write),
        MOCKED(test_map_without_private_memory),
        MOCKED(test_map_without_descriptors),
        MOCKED(test_release),
        MOCKED(test_pending_releases),
        MOCKED(test_release_on_dead_connection),
        MOCKED(test_release_of_earlier_session),
        MOCKED(test_fork),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
