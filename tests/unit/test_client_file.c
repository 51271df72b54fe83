/* td_op_to_file: a reply's body into a descriptor, and what becomes of it when that goes wrong. */
#include "client/internal.h"
#include "tests/unit/mock_daemon.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ELEMENTS 700001

static struct mock_daemon mock;
static struct td_client *client;
static uint8_t elements[ELEMENTS];
static uint64_t told_done, told_total;

static void tell(void *argument, uint64_t done, uint64_t total)
{
    (void)argument;
    assert_true(done > 0 && done <= total);
    told_done = done;
    told_total = total;
}

static int start(void **state)
{
    const struct td_options options = {.progress = tell};
    const int64_t shape[] = {ELEMENTS};
    (void)state;
    for (size_t i = 0; i < ELEMENTS; i++)
        elements[i] = (uint8_t)(i * 37 % 251);
    mock_start(&mock, false);
    if (td_connect(mock.url, &options, &client) != TD_OK)
        return -1;
    return td_put(client, "x", TD_UINT8, 1, shape, elements, 0, NULL) == TD_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    td_close(client);
    mock_stop(&mock);
    return 0;
}

static enum td_status get_into(int fd, struct td_reply **reply)
{
    struct td_args *args = td_args_new();
    (void)td_args_text(args, "input", "x");
    enum td_status status = td_op_to_file(client, "get", args, fd, reply);
    td_args_free(args);
    return status;
}

static void check_session(void)
{
    size_t size = ELEMENTS;
    uint8_t *back = malloc(size);
    assert_int_equal(td_get(client, "x", TD_DTYPE_NONE, back, &size, NULL), TD_OK);
    assert_int_equal(td_session_count(client), 1);
    free(back);
}

static void writes_the_body(void **state)
{
    struct td_reply *reply = NULL;
    struct td_info info;
    size_t size = 0;
    (void)state;
    int fd = memfd_create("test", MFD_CLOEXEC);
    uint8_t *back = malloc(ELEMENTS + 3);
    assert_int_equal(write(fd, "abc", 3), 3);
    assert_int_equal(get_into(fd, &reply), TD_OK);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), ELEMENTS + 3);
    assert_int_equal(pread(fd, back, ELEMENTS + 3, 0), ELEMENTS + 3);
    assert_memory_equal(back, "abc", 3);
    assert_memory_equal(back + 3, elements, ELEMENTS);
    assert_int_equal(td_reply_info(reply, &info), TD_OK);
    assert_int_equal(info.nbytes, ELEMENTS);
    assert_null(td_reply_body(reply, &size));
    assert_int_equal(size, ELEMENTS);
    assert_true(told_done == ELEMENTS && told_total == ELEMENTS);
    td_reply_free(reply);
    free(back);
    close(fd);
}

static void refusals_write_nothing(void **state)
{
    struct td_args *args = td_args_new();
    (void)state;
    int fd = memfd_create("test", MFD_CLOEXEC);
    (void)td_args_text(args, "input", "none");
    assert_int_equal(td_op_to_file(client, "get", args, fd, NULL), TD_NOT_FOUND);
    assert_int_equal(td_op_to_file(client, "gets", args, fd, NULL), TD_NOT_FOUND);
    assert_int_equal(lseek(fd, 0, SEEK_END), 0);
    td_args_free(args);
    close(fd);
}

/* The body is read to its end, and the session goes on. */
static void files_that_take_nothing(void **state)
{
    struct td_reply *reply = NULL;
    int ends[2];
    (void)state;
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_int_equal(get_into(fd, &reply), TD_INVALID);
    assert_string_equal(td_last_error(), "the file cannot be written: No space left on device");
    close(fd);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(get_into(ends[1], &reply), TD_CANCELLED);
    close(ends[1]);
    assert_null(reply);
    check_session();
}

static void bodies_that_end_too_early(void **state)
{
    struct td_reply *reply = NULL;
    (void)state;
    int fd = memfd_create("test", MFD_CLOEXEC);
    atomic_store(&mock.fault, FAULT_TRUNCATED_BODY);
    assert_int_equal(get_into(fd, &reply), TD_CONNECTION);
    assert_null(reply);
    assert_true(lseek(fd, 0, SEEK_END) < ELEMENTS);
    close(fd);
}

#define MOCKED(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MOCKED(writes_the_body),
        MOCKED(refusals_write_nothing),
        MOCKED(files_that_take_nothing),
        MOCKED(bodies_that_end_too_early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
