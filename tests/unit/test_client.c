/* libtensord against a mock daemon: calls, replies that are none, lost connections. */
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

static struct mock_daemon mock;
static struct td_client *client;

static void connect_with(const struct td_options *options)
{
    assert_int_equal(td_connect(mock.url, options, &client), TD_OK);
}

static int start(void **state)
{
    (void)state;
    mock_start(&mock, false);
    struct td_options options = {.client = "test", .timeout_ms = 5000};
    connect_with(&options);
    return 0;
}

static int start_tcp(void **state)
{
    (void)state;
    mock_start(&mock, true);
    connect_with(NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    td_close(client);
    mock_stop(&mock);
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

/* ---- connecting ---------------------------------------------------------------------------- */

static void test_addresses(void **state)
{
    (void)state;
    static const struct {
        const char *url;
        enum td_status status;
        bool local;
        const char *host, *port;
    } rows[] = {
        {"unix:///run/x.sock", TD_OK, true, "", ""},
        {"/run/x.sock", TD_OK, true, "", ""},
        {"x.sock", TD_OK, true, "", ""},
        {"tcp://example.org:17", TD_OK, false, "example.org", "17"},
        {"tcp://example.org", TD_OK, false, "example.org", "7071"},
        {"tcp://[::1]:80", TD_OK, false, "::1", "80"},
        {"tcp://[::1]", TD_OK, false, "::1", "7071"},
        {"unix://", TD_INVALID, false, "", ""},
        {"tcp://", TD_INVALID, false, "", ""},
        {"tcp://:1", TD_INVALID, false, "", ""},
        {"tcp://host:", TD_INVALID, false, "", ""},
        {"tcp://host:12a", TD_INVALID, false, "", ""},
        {"tcp://[::1:80", TD_INVALID, false, "", ""},
        {"tcp://[::1]80", TD_INVALID, false, "", ""},
        {"http://host:7070", TD_INVALID, false, "", ""},
        {"localhost:7071", TD_INVALID, false, "", ""},
    };
    struct address address;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(address_parse(rows[i].url, &address), rows[i].status);
        if (rows[i].status != TD_OK)
            continue;
        assert_int_equal(address.local, rows[i].local);
        assert_string_equal(address.host, rows[i].host);
        assert_string_equal(address.port, rows[i].port);
    }
    char long_path[200];
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    assert_int_equal(address_parse(long_path, &address), TD_INVALID);
}

static void test_default_address(void **state)
{
    (void)state;
    struct address address;
    unsetenv("TENSORD_URL");
    unsetenv("TENSORD_SOCKET");
    unsetenv("XDG_RUNTIME_DIR");
    assert_int_equal(address_parse(NULL, &address), TD_OK);
    assert_string_equal(address.url, "unix:///run/tensord.sock");
    setenv("TENSORD_SOCKET", "/tmp/a.sock", 1);
    assert_int_equal(address_parse(NULL, &address), TD_OK);
    assert_string_equal(address.unix_address.sun_path, "/tmp/a.sock");
    setenv("TENSORD_URL", "tcp://h:1", 1);
    assert_int_equal(address_parse(NULL, &address), TD_OK);
    assert_string_equal(address.host, "h");
    unsetenv("TENSORD_URL");
    unsetenv("TENSORD_SOCKET");
}

static void test_connect_refused(void **state)
{
    (void)state;
    struct td_client *none = NULL;
    assert_int_equal(td_connect("unix:///tmp/no/such.sock", NULL, &none), TD_CONNECTION);
    assert_null(none);
    assert_non_null(strstr(td_last_error(), "is tensord running?"));
    assert_int_equal(td_connect("tcp://127.0.0.1:1", NULL, &none), TD_CONNECTION);
}

static void test_connect_deadline(void **state)
{
    (void)state;
    struct td_client *none = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/tmp/tensord-deaf-%d", (int)getpid());
    int deaf = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(deaf, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(deaf, 8), 0);
    struct td_options options = {.timeout_ms = 50};
    assert_int_equal(td_connect(address.sun_path, &options, &none), TD_DEADLINE);
    close(deaf);
    unlink(address.sun_path);
}

static void test_close_null(void **state)
{
    (void)state;
    td_close(NULL);
    td_unmap(NULL);
    td_reply_free(NULL);
    td_args_free(NULL);
    td_release(NULL, 1, 1);
    td_shared_free(NULL);
}

/* ---- put, get, any operation --------------------------------------------------------------- */

static void test_put_get(void **state)
{
    (void)state;
    float values[6] = {1, 2, 3, 4, 5, 6}, back[6];
    int64_t shape[2] = {2, 3};
    struct td_reply *reply;
    struct td_info info;
    size_t size = sizeof back;

    assert_int_equal(td_put(client, "a/b", TD_FLOAT32, 2, shape, values, TD_PUT_MUTABLE, &reply),
                     TD_OK);
    assert_int_equal(td_reply_info(reply, &info), TD_OK);
    assert_string_equal(info.name, "a/b");
    assert_string_equal(info.mode, "mutable");
    assert_int_equal(info.nbytes, sizeof values);
    assert_int_equal(info.strides[0], 3);
    assert_int_equal(td_reply_session(reply), 1);
    td_reply_free(reply);

    assert_int_equal(td_get(client, "a/b", TD_DTYPE_NONE, back, &size, &reply), TD_OK);
    assert_int_equal(size, sizeof back);
    assert_memory_equal(back, values, sizeof back);
    td_reply_free(reply);

    size = 8;
    assert_int_equal(td_get(client, "a/b", TD_DTYPE_NONE, back, &size, NULL), TD_TOO_LARGE);
    assert_int_equal(size, sizeof values);
    ping_works(); /* the connection goes on */
    assert_int_equal(atomic_load(&mock.hellos), 1);

    assert_int_equal(td_get_alloc(client, "a/b", TD_DTYPE_NONE, &reply), TD_OK);
    const void *body = td_reply_body(reply, &size);
    assert_int_equal((uintptr_t)body % 64, 0);
    assert_memory_equal(body, values, sizeof values);
    td_reply_free(reply);
}

static void test_large_bodies(void **state)
{
    (void)state;
    int64_t n = 3 << 20; /* 12 MiB: many system calls each way */
    put_ramp("large", n, 0);
    struct td_reply *reply;
    assert_int_equal(td_get_alloc(client, "large", TD_DTYPE_NONE, &reply), TD_OK);
    const float *values = td_reply_body(reply, NULL);
    for (int64_t i = 0; i < n; i += 9973)
        assert_true(values[i] == (float)i);
    td_reply_free(reply);
    size_t size = 16;
    float some[4];
    assert_int_equal(td_get(client, "large", TD_DTYPE_NONE, some, &size, NULL), TD_TOO_LARGE);
    assert_int_equal(size, n * 4);
    ping_works();
    assert_int_equal(atomic_load(&mock.hellos), 1);
}

static void test_empty_tensor(void **state)
{
    (void)state;
    int64_t shape[2] = {0, 3};
    size_t size = 0;
    struct td_mapping *mapping;
    assert_int_equal(td_put(client, "none", TD_INT8, 2, shape, NULL, 0, NULL), TD_OK);
    assert_int_equal(td_get(client, "none", TD_DTYPE_NONE, NULL, &size, NULL), TD_OK);
    assert_int_equal(size, 0);
    assert_int_equal(td_map(client, "none", 0, &mapping), TD_OK);
    assert_non_null(td_mapping_data(mapping));
    assert_int_equal(td_mapping_span(mapping), 0);
    td_unmap(mapping);
}

static void test_wrong_arguments(void **state)
{
    (void)state;
    float value = 1;
    int64_t huge[2] = {INT64_MAX, 2}, negative = -1, one = 1;
    size_t size = 4;
    struct td_mapping *mapping;
    assert_int_equal(td_put(client, "x", TD_FLOAT32, 2, huge, &value, 0, NULL), TD_BAD_SHAPE);
    assert_int_equal(td_put(client, "x", TD_FLOAT32, 1, &negative, &value, 0, NULL), TD_BAD_SHAPE);
    assert_int_equal(td_put(client, "x", TD_FLOAT32, 33, huge, &value, 0, NULL), TD_BAD_SHAPE);
    assert_int_equal(td_put(client, "x", (enum td_dtype)99, 1, &one, &value, 0, NULL),
                     TD_BAD_DTYPE);
    assert_int_equal(td_put(client, "x", TD_FLOAT32, 1, &one, NULL, 0, NULL), TD_INVALID);
    assert_int_equal(td_put(client, NULL, TD_FLOAT32, 1, &one, &value, 0, NULL), TD_INVALID);
    assert_int_equal(td_put(client, "x", TD_FLOAT32, 1, &one, &value, 64, NULL), TD_INVALID);
    assert_int_equal(td_get(client, "x", TD_DTYPE_NONE, NULL, &size, NULL), TD_INVALID);
    assert_int_equal(td_get(client, NULL, TD_DTYPE_NONE, &value, &size, NULL), TD_INVALID);
    assert_int_equal(td_get(client, "x", (enum td_dtype)99, &value, &size, NULL), TD_BAD_DTYPE);
    assert_int_equal(td_map(client, NULL, 0, &mapping), TD_INVALID);
    assert_int_equal(td_map(client, "x", TD_MAP_FORCE, &mapping), TD_INVALID);
    assert_int_equal(td_op(client, "no_such", NULL, NULL, 0, NULL), TD_NOT_FOUND);
    assert_int_equal(td_op(client, "hello", NULL, NULL, 0, NULL), TD_INVALID);
    assert_int_equal(td_op(client, "ping", NULL, NULL, 3, NULL), TD_INVALID);
    assert_int_equal(atomic_load(&mock.requests), 0);
}

static void test_args(void **state)
{
    (void)state;
    int64_t dims[2] = {2, 3};
    struct td_args *args = td_args_new();
    assert_int_equal(td_args_text(args, "input", "x"), TD_OK);
    assert_int_equal(td_args_text(args, "input", "y"), TD_OK);
    assert_int_equal(td_args_dims(args, "shape", 2, dims), TD_OK);
    assert_int_equal(td_args_scalar_complex(args, "value", 1, -2), TD_OK);
    assert_int_equal(td_args_index_integer(args, -1), TD_OK);
    assert_int_equal(td_args_index_slice(args, 1, TD_INDEX_NONE, 2), TD_OK);
    assert_int_equal(td_args_index_ellipsis(args), TD_OK);
    assert_int_equal(td_args_index_new_axis(args), TD_OK);
    assert_int_equal(args->fields.index.count, 4);
    assert_int_equal(args->fields.index.items[1].stop, INDEX_NONE);
    assert_true(text_equal(args->fields.input, "y"));
    assert_int_equal(td_op(client, "info", args, NULL, 0, NULL), TD_NOT_FOUND);
    assert_int_equal(td_args_uint(args, "input", 1), TD_INVALID);
    assert_non_null(strstr(td_last_error(), "type text"));
    assert_int_equal(td_args_text(args, "nonsense", "x"), TD_INVALID);
    assert_int_equal(td_op(client, "info", args, NULL, 0, NULL), TD_INVALID); /* the first error */
    assert_non_null(strstr(td_last_error(), "type text"));
    td_args_free(args);

    args = td_args_new();
    assert_int_equal(td_args_dims(args, "shape", 33, dims), TD_BAD_SHAPE);
    assert_int_equal(td_op(client, "zeros", args, NULL, 0, NULL), TD_BAD_SHAPE);
    td_args_free(args);
    assert_int_equal(td_args_bool(NULL, "force", true), TD_OUT_OF_MEMORY);

    args = td_args_new();
    char *long_text = malloc(WIRE_META_MAX + 1);
    memset(long_text, 'a', WIRE_META_MAX);
    long_text[WIRE_META_MAX] = '\0';
    assert_int_equal(td_args_text(args, "input", long_text), TD_OK);
    assert_int_equal(td_op(client, "info", args, NULL, 0, NULL), TD_INVALID);
    free(long_text);
    td_args_free(args);
}

static void test_list(void **state)
{
    (void)state;
    struct td_reply *reply;
    const struct td_reply *entry;
    const char *name;
    size_t cursor = 0;
    int count = 0;
    put_ramp("first", 3, 0);
    put_ramp("second-with-a-longer-name", 4, 0);
    assert_int_equal(td_op(client, "list", NULL, NULL, 0, &reply), TD_OK);
    while (td_reply_next(reply, &cursor, &entry)) {
        struct td_info info;
        assert_true(td_reply_text(entry, "name", &name));
        assert_string_equal(name, count == 0 ? "first" : "second-with-a-longer-name");
        assert_int_equal(td_reply_info(entry, &info), TD_OK);
        assert_string_equal(info.device, "cpu");
        assert_int_equal(info.shape[0], 3 + count);
        count++;
    }
    assert_int_equal(count, 2);
    assert_false(td_reply_next(reply, &cursor, &entry));
    td_reply_free(reply);
}

static void test_reply_fields(void **state)
{
    (void)state;
    struct td_reply *reply;
    struct td_args *args = td_args_new();
    const char *text;
    uint64_t number;
    bool flag;
    enum td_dtype dtype;
    int rank, fields = 0;
    int64_t dims[TD_RANK_MAX];
    put_ramp("x", 3, 0);
    td_args_text(args, "input", "x");
    assert_int_equal(td_op(client, "info", args, NULL, 0, &reply), TD_OK);
    assert_true(td_reply_text(reply, "mode", &text));
    assert_string_equal(text, "frozen");
    assert_true(td_reply_uint(reply, "nbytes", &number));
    assert_int_equal(number, 12);
    assert_true(td_reply_dtype(reply, "dtype", &dtype));
    assert_int_equal(dtype, TD_FLOAT32);
    assert_true(td_reply_dims(reply, "shape", &rank, dims));
    assert_int_equal(rank, 1);
    assert_false(td_reply_uint(reply, "mode", &number)); /* of another type */
    assert_false(td_reply_bool(reply, "requires_grad", &flag));
    assert_false(td_reply_text(reply, "nonsense", &text));
    assert_int_equal(td_reply_scalar(reply, "value", NULL, NULL, NULL), 0);
    while (td_reply_field(reply, fields))
        fields++;
    assert_true(fields >= 8);
    assert_string_equal(td_reply_field(reply, 0), "dtype");
    td_reply_free(reply);
    td_args_free(args);
}

static void test_op_info(void **state)
{
    (void)state;
    struct td_op_description op;
    int count = 0;
    bool put = false;
    for (int i = 0; td_op_info(i, &op); i++, count++) {
        assert_true(strlen(op.optional) < 250 && strlen(op.required) < 250);
        if (strcmp(op.name, "put") != 0)
            continue;
        put = true;
        assert_string_equal(op.required, "output dtype shape");
        assert_true(op.makes_tensor && op.takes_body && !op.returns_body);
    }
    assert_true(put && count > 50);
    assert_false(td_op_info(-1, &op));
    assert_string_equal(td_field_type("shape"), "dims");
    assert_null(td_field_type("nonsense"));
    assert_null(td_field_type(NULL));
}

/* ---- errors, and replies that are none ----------------------------------------------------- */

static void test_error_reply(void **state)
{
    (void)state;
    set_fault(FAULT_ERROR);
    assert_int_equal(td_touch(client, "x"), TD_NOT_FOUND);
    assert_string_equal(td_last_error(), "as asked for");
    set_fault(FAULT_UNKNOWN_ERROR);
    assert_int_equal(td_touch(client, "x"), TD_INTERNAL);
    assert_non_null(strstr(td_last_error(), "999"));
    set_fault(FAULT_NONE);
    ping_works();
    assert_int_equal(atomic_load(&mock.hellos), 1);
}

static void test_bad_replies(void **state)
{
    (void)state;
    static const enum mock_fault faults[] = {
        FAULT_WRONG_ID,  FAULT_WRONG_OPCODE, FAULT_NOT_A_REPLY,
        FAULT_BAD_MAGIC, FAULT_EXTRA_BYTES,  FAULT_BAD_META,
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        put_ramp("x", 3, 0);
        set_fault(faults[i]);
        assert_int_equal(td_touch(client, "x"), TD_PROTOCOL);
        set_fault(FAULT_NONE);
        ping_works();
        assert_int_equal(td_session_count(client), 1); /* another connection kept it */
    }
}

static void test_truncated_replies(void **state)
{
    (void)state;
    float back[3];
    size_t size = sizeof back;
    put_ramp("x", 3, 0);
    set_fault(FAULT_TRUNCATED);
    assert_int_equal(td_get(client, "x", TD_DTYPE_NONE, back, &size, NULL), TD_CONNECTION);
    set_fault(FAULT_NONE);
    ping_works();
    set_fault(FAULT_TRUNCATED_BODY);
    assert_int_equal(td_get(client, "x", TD_DTYPE_NONE, back, &size, NULL), TD_CONNECTION);
    set_fault(FAULT_NONE);
    ping_works();
}

static void test_early_error(void **state)
{
    (void)state;
    int64_t n = 8 << 20; /* more than the socket's buffers hold */
    char *body = calloc(1, (size_t)n);
    set_fault(FAULT_EARLY_ERROR);
    assert_int_equal(td_put(client, "x", TD_UINT8, 1, &n, body, 0, NULL), TD_TOO_LARGE);
    assert_string_equal(td_last_error(), "the body is over the limit");
    set_fault(FAULT_NONE);
    ping_works();
    free(body);
}

static void test_timeout(void **state)
{
    (void)state;
    td_close(client);
    struct td_options options = {.timeout_ms = 800};
    connect_with(&options);
    put_ramp("x", 3, 0);
    int hellos = atomic_load(&mock.hellos);
    set_fault(FAULT_SILENT);
    assert_int_equal(td_touch(client, "x"), TD_DEADLINE);
    set_fault(FAULT_NONE);
    ping_works();
    assert_int_equal(td_session_count(client), 1);
    assert_int_equal(atomic_load(&mock.hellos), hellos + 1); /* made before the other was closed */
}

/* A call's own timeout_ms is longer than the client's: the daemon's answer is waited for. */
static void test_own_timeout(void **state)
{
    (void)state;
    struct fields fields = {0};
    struct call call = {.op = OP_info, .fields = &fields, .descriptor = -1};
    FIELDS_SET(&fields, input, text_of("x"));
    FIELDS_SET(&fields, timeout_ms, 300);
    td_close(client);
    struct td_options options = {.timeout_ms = 50};
    connect_with(&options);
    put_ramp("x", 3, 0);
    set_fault(FAULT_SILENT);
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    struct td_reply *reply;
    assert_int_equal(client_call(client, &call, &reply), TD_DEADLINE);
    clock_gettime(CLOCK_MONOTONIC, &after);
    assert_true(after.tv_sec - before.tv_sec >= 2);
    set_fault(FAULT_NONE);
}

/* ---- lost connections ---------------------------------------------------------------------- */

static void test_reconnect(void **state)
{
    (void)state;
    put_ramp("x", 3, 0);
    atomic_store(&mock.forget, true);
    mock_drop_connections(&mock);
    put_ramp("y", 3, 0); /* nothing of it was sent to the dead connection */
    assert_int_equal(td_session_count(client), 2);
    assert_int_equal(atomic_load(&mock.hellos), 3); /* joined in vain, then opened */
    mock_drop_connections(&mock);
    put_ramp("z", 3, 0); /* the session was kept by somebody: joined */
    assert_int_equal(td_session_count(client), 2);
}

static void test_reconnect_tcp(void **state)
{
    (void)state;
    put_ramp("x", 3, 0);
    assert_false(td_is_local(client));
    atomic_store(&mock.forget, true);
    mock_drop_connections(&mock);
    put_ramp("x", 3, 0);
    assert_int_equal(td_session_count(client), 2);
    ping_works();
}

static void test_no_reconnect(void **state)
{
    (void)state;
    td_close(client);
    struct td_options options = {.no_reconnect = true};
    connect_with(&options);
    atomic_store(&mock.forget, true);
    mock_drop_connections(&mock);
    assert_int_equal(td_touch(client, "x"), TD_CONNECTION);
    assert_int_equal(td_touch(client, "x"), TD_CONNECTION);
    assert_non_null(strstr(td_last_error(), "told not to"));
}

/* Lost after the request was sent: only what changes nothing is sent again. */
static void test_lost_after_sending(void **state)
{
    (void)state;
    put_ramp("x", 3, 0);
    int requests = atomic_load(&mock.requests);
    set_fault(FAULT_CLOSE);
    assert_int_equal(td_touch(client, "x"), TD_CONNECTION);
    assert_int_equal(atomic_load(&mock.requests), requests + 1);
    set_fault(FAULT_NONE);
    ping_works();
    static const char *const repeated[] = {"ping", "save"};
    for (size_t i = 0; i < sizeof repeated / sizeof *repeated; i++) {
        set_fault(FAULT_CLOSE);
        requests = atomic_load(&mock.requests);
        assert_int_equal(td_op(client, repeated[i], NULL, NULL, 0, NULL), TD_CONNECTION);
        assert_int_equal(atomic_load(&mock.requests), requests + 2); /* once more, on a new one */
        set_fault(FAULT_NONE);
        ping_works();
    }
}

#define MOCKED(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_default_address),
        cmocka_unit_test(test_connect_refused),
        cmocka_unit_test(test_connect_deadline),
        cmocka_unit_test(test_close_null),
        MOCKED(test_put_get),
        MOCKED(test_large_bodies),
        MOCKED(test_empty_tensor),
        MOCKED(test_wrong_arguments),
        MOCKED(test_args),
        MOCKED(test_list),
        MOCKED(test_reply_fields),
        MOCKED(test_op_info),
        MOCKED(test_error_reply),
        MOCKED(test_bad_replies),
        MOCKED(test_truncated_replies),
        MOCKED(test_early_error),
        MOCKED(test_timeout),
        MOCKED(test_own_timeout),
        MOCKED(test_reconnect),
        cmocka_unit_test_setup_teardown(test_reconnect_tcp, start_tcp, stop),
        MOCKED(test_no_reconnect),
        MOCKED(test_lost_after_sending),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
