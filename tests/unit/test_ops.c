/* ops: every operation of the table through op_begin ... op_end, and requests that do not fit. */
#include "tests/unit/ops_request.h"

#include <stdlib.h>

/* -- the table -- */

/* Run with every required field, each operation reaches a handler of its own. */
static void every_operation_has_a_handler(void **state)
{
    (void)state;
    for (int op = 1; op < OP_END; op++) {
        if (!op_infos[op].name)
            continue;
        request.present = 0;
        uint64_t x = RUN(ones, SET(shape, SHAPE(1)));
        SET(input, object(x, 0));
        SET(other, object(x, 1));
        SET(index, INDEX(AT(0)));
        SET(shape, SHAPE(1));
        SET(dtype, TD_FLOAT32);
        SET(output, text_of("out"));
        SET(dims, SHAPE(0));
        SET(value, integer(1));
        SET(end, integer(1));
        SET(high, 1);
        SET(dim, 0);
        SET(dim0, 0);
        SET(dim1, 0);
        SET(protocol, 1);
        request.present &= op_infos[op].required;
        bool of_connection = op_infos[op].traits & OP_CONNECTION;
        struct fields in = request;
        if (of_connection) {
            op_end(&call);
            op_init(&call, engine, session, (enum op)op, &in);
        }
        enum td_status status = of_connection ? op_run(&call) : attempt((enum op)op);
        bool answered = strstr(fail_detail(), "answered by the connection") != NULL;
        if (of_connection != (status == TD_UNSUPPORTED && answered))
            fail_msg("%s: %s", op_infos[op].name, fail_detail());
    }
}

static void fields_are_checked(void **state)
{
    (void)state;
    REFUSED(zeros, TD_INVALID, "zeros needs the field 'shape'", 0);
    REFUSED(zeros, TD_INVALID,
            "zeros does not take the field 'input'; it takes output, dtype, device, shape, ",
            SET(shape, SHAPE(1)), SET(input, text_of("x")));
    REFUSED(info, TD_INVALID, "does not take the field 'output'", SET(input, text_of("x")),
            SET(output, text_of("y")));
    REFUSED(zeros, TD_INVALID, "segment", SET(shape, SHAPE(1)), SET(output, text_of("a//b")));
    REFUSED(zeros, TD_NO_DEVICE, "Invalid device string: 'tpu'", SET(shape, SHAPE(1)),
            SET(device, text_of("tpu")));
    REFUSED(zeros, TD_NO_DEVICE, "cuda:99", SET(shape, SHAPE(1)), SET(device, text_of("cuda:99")));
    request_body = "", request_body_bytes = 1;
    REFUSED(zeros, TD_INVALID, "zeros takes no body", SET(shape, SHAPE(1)));
    request_fd = dup(1);
    REFUSED(zeros, TD_INVALID, "zeros takes no descriptor", SET(shape, SHAPE(1)));
    request_fd = dup(1);
    REFUSED(put, TD_INVALID, "put takes no descriptor", SET(shape, SHAPE(1)), SET(dtype, TD_UINT8),
            SET(output, text_of("x")));
    /* timeout_ms goes with everything. */
    RUN(zeros, SET(shape, SHAPE(1)), SET(timeout_ms, 1));
}

static void objects_and_ids(void **state)
{
    static const char *const no_ids[] = {"@",   "@x",  "@-1",  "@1x",
                                         "@ 1", "@+1", "@0x1", "@18446744073709551617"};
    (void)state;
    for (size_t i = 0; i < COUNT(no_ids); i++)
        REFUSED(info, TD_INVALID, "is no object id", SET(input, text_of(no_ids[i])));
    REFUSED(info, TD_NOT_FOUND, "holds no object", SET(input, text_of("@0")));
    REFUSED(info, TD_NOT_FOUND, "holds no object", SET(input, text_of("@9999999999999999999")));
    REFUSED(info, TD_INVALID, "1 to 512", SET(input, text_of("")));
    REFUSED(info, TD_NOT_FOUND, "no tensor is named 'x'", SET(input, text_of("x")));
    uint64_t x = RUN(zeros, SET(shape, SHAPE(1)));
    assert_int_equal(RUN(info, INPUT(x)), x);
    RUN(release, INPUT(x));
    REFUSED(info, TD_NOT_FOUND, "holds no object", INPUT(x));
    REFUSED(release, TD_NOT_FOUND, "holds no object", INPUT(x));
}

/* An object of one session is nothing to another. */
static void sessions_are_apart(void **state)
{
    struct session *mine = session;
    (void)state;
    uint64_t x = RUN(zeros, SET(shape, SHAPE(1)));
    assert_ok(session_open(engine->sessions, NULL, 0, &session));
    REFUSED(info, TD_NOT_FOUND, "belongs to another session", INPUT(x));
    REFUSED(release, TD_NOT_FOUND, "belongs to another session", INPUT(x));
    REFUSED(copy_, TD_NOT_FOUND, "another session", INPUT(RUN(zeros, SET(shape, SHAPE(1)))),
            OTHER(x));
    session_leave(session);
    session = mine;
    RUN(info, INPUT(x));
}

/* What the session's end finds still running is not handed out. */
static void result_after_the_end(void **state)
{
    (void)state;
    struct session *ended = session_ref(session);
    session_leave(session);
    session = ended;
    REFUSED(zeros, TD_CANCELLED, "has ended", SET(shape, SHAPE(100)));
    op_end(&call);
    assert_int_equal(used_now().memory_bytes, 0);
    session_unref(ended);
    assert_ok(session_open(engine->sessions, NULL, 0, &session));
}

/* -- names -- */

static void names(void **state)
{
    (void)state;
    uint64_t x = RUN(full, SET(shape, SHAPE(2)), SET(value, integer(3)), SET(output, text_of("x")));
    assert_text(reply->name, "x");
    uint64_t first = reply->generation;
    assert_int_equal(RUN(info, SET(input, text_of("x"))), x);
    assert_text(reply->name, "x");
    assert_int_equal(reply->generation, first);
    REFUSED(info, TD_NOT_FOUND, "holds no object", INPUT(x)); /* named, not held */
    REFUSED(zeros, TD_EXISTS, "is taken", SET(shape, SHAPE(1)), SET(output, text_of("x")),
            SET(create_only, true));
    REFUSED(zeros, TD_PRECONDITION, "has generation", SET(shape, SHAPE(1)),
            SET(output, text_of("x")), SET(if_generation, first + 1));
    RUN(zeros, SET(shape, SHAPE(1)), SET(output, text_of("x")), SET(if_generation, first));
    assert_true(reply->generation > first);
    RUN(rename, SET(input, text_of("x")), SET(output, text_of("y/z")));
    assert_text(reply->name, "y/z");
    REFUSED(rename, TD_NOT_FOUND, "'x'", SET(input, text_of("x")), SET(output, text_of("y")));
    REFUSED(rename, TD_INVALID, "begins with '@'", SET(input, text_of("@1")),
            SET(output, text_of("y")));
    RUN(copy, SET(input, text_of("y/z")), SET(output, text_of("c")));
    RUN(list, 0);
    assert_int_equal(listed.count, 2);
    assert_string_equal(listed.names[0], "c");
    assert_string_equal(listed.names[1], "y/z");
    assert_int_equal(reply->count, 2);
    assert_false(FIELDS_HAS(reply, cursor));
    REFUSED(delete, TD_PRECONDITION, "", SET(input, text_of("c")), SET(if_generation, 1));
    RUN(delete, SET(input, text_of("c")));
    REFUSED(delete, TD_NOT_FOUND, "'c'", SET(input, text_of("c")));
    REFUSED(delete, TD_INVALID, "'@'", SET(input, text_of("@1")));
}

static void list_in_pages(void **state)
{
    char name[16], cursor[16] = "";
    int seen = 0;
    (void)state;
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "p/%d", i % 10);
        RUN(zeros, SET(shape, SHAPE(1)), SET(output, text_of(name)));
    }
    RUN(zeros, SET(shape, SHAPE(1)), SET(output, text_of("other")));
    for (bool more = true; more;) {
        RUN(list, SET(prefix, text_of("p/")), SET(limit, 3), SET(cursor, text_of(cursor)));
        for (int i = 0; i < listed.count; i++) {
            snprintf(name, sizeof name, "p/%d", seen++ % 10);
            assert_string_equal(listed.names[i], name);
        }
        more = FIELDS_HAS(reply, cursor);
        if (more)
            snprintf(cursor, sizeof cursor, "%.*s", TEXT_ARGS(reply->cursor));
    }
    assert_int_equal(seen, 7);
    RUN(list, SET(limit, UINT64_MAX));
    assert_int_equal(listed.count, 8);
    REFUSED(list, TD_INVALID, "1 or more", SET(limit, 0));
}

/* -- the daemon itself -- */

static uint64_t counter(const char *name)
{
    for (int i = 0; i < listed.count; i++)
        if (strcmp(listed.names[i], name) == 0)
            return listed.counts[i];
    fail_msg("there is no counter %s", name);
    return 0;
}

static void about_the_daemon(void **state)
{
    (void)state;
    RUN(zeros, SET(shape, SHAPE(1000)), SET(output, text_of("x")));
    RUN(zeros, SET(shape, SHAPE(10)));
    RUN(stats, 0);
    assert_int_equal(counter("memory_limit_bytes"), 32 * MIB);
    assert_in_range(counter("memory_used_bytes"), 4040, 16000);
    assert_int_equal(counter("names"), 1);
    assert_int_equal(counter("objects"), 1);
    assert_int_equal(counter("sessions"), 1);
    assert_int_equal(counter("revision"), store_revision(engine->store));
    RUN(devices, 0);
    assert_true(listed.count >= 1);
    assert_string_equal(listed.names[0], "cpu");
    RUN(ops, 0);
    int ops = 0;
    for (int op = 1; op < OP_END; op++)
        ops += op_infos[op].name != NULL;
    assert_int_equal(listed.count, ops);
}

/* -- bodies -- */

static void bodies(void **state)
{
    static const float values[] = {1, 2, 3, 4, 5, 6};
    (void)state;
    request_body = values, request_body_bytes = sizeof values;
    RUN(put, SET(output, text_of("x")), SET(dtype, TD_FLOAT32), SET(shape, SHAPE(2, 3)));
    assert_text(reply->mode, "frozen");
    assert_memory("copied", "heap");
    RUN(get, SET(input, text_of("x")));
    assert_memory("copied", "transport");
    assert_memory_equal(tensor_data(call.body_out), values, sizeof values);
    RUN(get, SET(input, text_of("x")), SET(dtype, TD_UINT8));
    assert_memory("copied", "dtype");
    assert_memory_equal(tensor_data(call.body_out), "\1\2\3\4\5\6", 6);
    REFUSED(get, TD_BAD_DTYPE, "Cannot cast from float32 to uint8 according to the rule 'safe'",
            SET(input, text_of("x")), SET(dtype, TD_UINT8), SET(casting, text_of("safe")));
    REFUSED(get, TD_INVALID, "casting must be one of", SET(input, text_of("x")),
            SET(casting, text_of("no")));
    request_body = values, request_body_bytes = sizeof values - 1;
    REFUSED(put, TD_BAD_SHAPE, "need 24 bytes, but the body has 23", SET(output, text_of("y")),
            SET(dtype, TD_FLOAT32), SET(shape, SHAPE(2, 3)));
    request_body = values, request_body_bytes = sizeof values;
    RUN(tensor, SET(dtype, TD_FLOAT32), SET(shape, SHAPE(6)), SET(requires_grad, true));
    assert_text(reply->mode, "mutable");
    assert_text(reply->kind, "variable");
    assert_true(reply->requires_grad && reply->is_leaf);
    RUN(tensor, SET(dtype, TD_FLOAT32), SET(shape, SHAPE(0, 5))); /* an empty body */
    assert_int_equal(reply->nbytes, 0);
    request_remote = true;
    request_body = values, request_body_bytes = sizeof values;
    RUN(tensor, SET(dtype, TD_FLOAT32), SET(shape, SHAPE(6)), SET(mutable, false));
    assert_memory("copied", "transport");
    assert_text(reply->mode, "frozen");
}

/* What is large is copied by no operation: the door sends it in pieces, or from where it lies. */
static void large_bodies(void **state)
{
    const void *data;
    size_t size, total = 0;
    (void)state;
    uint64_t x = RUN(zeros, SET(shape, SHAPE(1000, 500)), SET(dtype, TD_UINT8));
    uint64_t used = engine->ledger.used.memory_bytes;
    RUN(get, INPUT(x));
    assert_ok(op_make_body(&call));
    assert_null(call.body_made);
    assert_ptr_equal(tensor_data(call.body_out), tensor_data(call.input));
    RUN(get, INPUT(x), SET(dtype, TD_FLOAT64), SET(saturate, true));
    assert_memory("copied", "dtype");
    assert_int_equal(call.body_dtype, TD_FLOAT64);
    assert_true(call.body_saturate);
    assert_int_equal(engine->ledger.used.memory_bytes, used);
    assert_ok(op_make_body(&call));
    assert_in_range(engine->ledger.used.memory_bytes - used, 1, 2 * BODY_BLOCK_BYTES);
    assert_int_equal(body_total_bytes(call.body_made), 4000000);
    do {
        assert_ok(body_next(call.body_made, &data, &size));
        assert_true(size <= BODY_BLOCK_BYTES);
        total += size;
    } while (size);
    assert_int_equal(total, 4000000);
    RUN(get, INPUT(x), SET(index, INDEX(AT(5)))); /* ends the last one, and makes a view */
    assert_in_range(engine->ledger.used.memory_bytes - used, 0, 4096);
    assert_ok(op_make_body(&call));
    assert_null(call.body_made);
    engine->ledger.fail_after = 1;
    RUN(get, INPUT(x), SET(dtype, TD_INT16));
    assert_refused(op_make_body(&call), TD_OUT_OF_MEMORY, "for a test");
}

/* The element at (i, j, k) lies where the strides say, and comes back in its place. */
static void bodies_with_strides(void **state)
{
    static const int orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                    {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static const int64_t shape[3] = {2, 3, 4};
    int16_t body[24], wanted[24];
    (void)state;
    for (int i = 0; i < 24; i++)
        body[i] = (int16_t)(i * 7);
    for (size_t row = 0; row < COUNT(orders); row++) {
        struct dims strides = {.rank = 3};
        int64_t stride = 1;
        for (int d = 2; d >= 0; stride *= shape[orders[row][d]], d--)
            strides.v[orders[row][d]] = stride;
        for (int64_t i = 0; i < 24; i++)
            wanted[i] =
                body[i / 12 * strides.v[0] + i / 4 % 3 * strides.v[1] + i % 4 * strides.v[2]];
        request_body = body, request_body_bytes = sizeof body;
        RUN(put, SET(output, text_of("x")), SET(dtype, TD_INT16), SET(shape, SHAPE(2, 3, 4)),
            SET(strides, strides));
        assert_text(reply->mode, "frozen");
        assert_memory("copied", "heap");
        assert_shape(SHAPE(2, 3, 4));
        assert_memory_equal(reply->strides.v, strides.v, 3 * sizeof strides.v[0]);
        assert_int_equal(reply->nbytes, 48);
        RUN(get, SET(input, text_of("x")));
        assert_memory_equal(tensor_data(call.body_out), wanted, sizeof wanted);
        RUN(get, SET(input, text_of("x")), SET(index, INDEX(AT(1), AT(2), AT(3))));
        assert_memory_equal(tensor_data(call.body_out), &wanted[23], 2);
    }
}

/* Strides that mean nothing: of sizes 0 and 1, and of a single number. */
static void strides_of_little(void **state)
{
    static const struct {
        struct dims shape, strides;
        size_t bytes;
    } rows[] = {
        {{0, {0}}, {0, {0}}, 1},
        {{2, {1, 1}}, {2, {9, 0}}, 1},
        {{2, {0, 3}}, {2, {5, 7}}, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        request_body = "\5", request_body_bytes = rows[i].bytes;
        RUN(put, SET(output, text_of("x")), SET(dtype, TD_UINT8), SET(shape, rows[i].shape),
            SET(strides, rows[i].strides));
        assert_int_equal(reply->nbytes, rows[i].bytes);
    }
}

static void strides_refused(void **state)
{
    static const struct {
        struct dims shape, strides;
        const char *text;
    } rows[] = {
        {{1, {6}}, {1, {2}}, "shape [6] with the strides [2] has holes"},
        {{1, {6}}, {1, {0}}, "strides [0]"},
        {{2, {2, 3}}, {2, {1, 1}}, "strides [1, 1]"},
        {{2, {2, 3}}, {2, {2, 1}}, "strides [2, 1]"},
        {{2, {2, 3}}, {2, {5, 0}}, "strides [5, 0]"}, /* reaches the end all the same */
        {{2, {2, 3}}, {2, {3, 2}}, "strides [3, 2]"},
        {{2, {2, 3}}, {2, {INT64_C(1) << 50, 1}}, "strides"},
        {{2, {2, 3}}, {2, {INT64_MAX, INT64_MAX}}, "strides"},
        {{2, {2, 3}}, {2, {-3, 1}}, "Negative strides"},
        {{2, {2, 3}}, {1, {1}}, "mismatch in length of strides"},
        {{2, {2, 4}}, {2, {1, 2}}, "need 8 bytes, but the body has 6"},
    };
    (void)state;
    uint64_t revision = store_revision(engine->store);
    for (size_t i = 0; i < COUNT(rows); i++) {
        request_body = "abcdef", request_body_bytes = 6;
        REFUSED(put, TD_BAD_SHAPE, rows[i].text, SET(output, text_of("x")), SET(dtype, TD_UINT8),
                SET(shape, rows[i].shape), SET(strides, rows[i].strides));
    }
    assert_int_equal(store_revision(engine->store), revision);
    request_body = "abcdef", request_body_bytes = 6;
    REFUSED(tensor, TD_INVALID, "does not take the field 'strides'", SET(dtype, TD_UINT8),
            SET(shape, SHAPE(2, 3)), SET(strides, SHAPE(1, 2)));
    request_body = "abcdef", request_body_bytes = 6;
    REFUSED(from_numpy, TD_INVALID, "go with a descriptor", SET(dtype, TD_UINT8),
            SET(shape, SHAPE(2, 3)), SET(strides, SHAPE(1, 2)));
}

static void parts(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(2, 3), true); /* a variable, which get never minds */
    uint64_t storage = reply->storage;
    RUN(copy, INPUT(x), SET(output, text_of("x")));
    uint64_t generation = reply->generation;
    RUN(get, SET(input, text_of("x")), SET(index, INDEX(AT(1), SLICE(0, 2))), SET(force, true));
    assert_memory_equal(tensor_data(call.body_out), ((float[]){3, 4}), 8);
    assert_int_equal(call.body_out->layout.elements, 2);
    assert_shape(SHAPE(2)); /* the reply tells of the part, and whose it is */
    assert_int_equal(reply->nbytes, 8);
    assert_int_equal(reply->offset_bytes, 12);
    assert_text(reply->name, "x");
    assert_int_equal(reply->generation, generation);
    assert_text(reply->kind, "variable");
    assert_memory("copied", "transport");
    RUN(get, INPUT(x), SET(index, INDEX({.kind = INDEX_ELLIPSIS}, AT(-1))), SET(dtype, TD_INT16));
    assert_memory_equal(tensor_data(call.body_out), ((int16_t[]){2, 5}), 4);
    assert_memory("copied", "dtype");
    assert_int_equal(reply->storage, storage);
    assert_false(FIELDS_HAS(reply, name));
    RUN(get, INPUT(x), SET(index, INDEX({.kind = INDEX_NEW_AXIS}, AT(0))), SET(force, false));
    assert_shape(SHAPE(1, 3));
    RUN(get, INPUT(x), SET(index, INDEX(SLICE(2, 2))));
    assert_shape(SHAPE(0, 3));
    assert_int_equal(call.body_out->layout.elements, 0);
    RUN(get, INPUT(x), SET(index, (struct index){.count = 0})); /* all of it */
    assert_int_equal(call.body_out->layout.elements, 6);
    REFUSED(get, TD_BAD_INDEX, "index 2 is out of bounds", INPUT(x), SET(index, INDEX(AT(2))));
    REFUSED(get, TD_BAD_INDEX, "too many indices", INPUT(x),
            SET(index, INDEX(AT(0), AT(0), AT(0))));
    REFUSED(get, TD_BAD_DTYPE, "rule 'safe'", INPUT(x), SET(index, INDEX(AT(0))),
            SET(dtype, TD_INT8), SET(casting, text_of("safe")));
    RUN(get, INPUT(x)); /* and without an index the tensor itself */
    assert_int_equal(reply->id, x);
}

/* -- values and text -- */

static void items_and_text(void **state)
{
    (void)state;
    uint64_t x = RUN(full, SET(shape, SHAPE(1, 1)), SET(value, real(2.5)), SET(dtype, TD_FLOAT16));
    RUN(item, INPUT(x));
    assert_int_equal(reply->value.kind, SCALAR_FLOAT);
    assert_true(reply->value.f == 2.5);
    assert_int_equal(reply->dtype, TD_FLOAT16);
    uint64_t y = counting(SHAPE(2, 3), true);
    REFUSED(item, TD_BAD_SHAPE, "a Tensor with 6 elements cannot be converted to Scalar", INPUT(y));
    RUN(print, INPUT(y));
    assert_text(reply->text, "tensor([[0., 1., 2.],\n        [3., 4., 5.]], requires_grad=True)");
    uint64_t z = RUN(mul, INPUT(y), SET(value, integer(2)));
    RUN(print, INPUT(z));
    assert_text(reply->text,
                "tensor([[ 0.,  2.,  4.],\n        [ 6.,  8., 10.]], grad_fn=<MulBackward0>)");
    uint64_t t = RUN(transpose, INPUT(y), SET(dim0, 0), SET(dim1, -1));
    uint64_t last = RUN(getitem, INPUT(t), SET(index, INDEX(AT(-1), AT(1))));
    RUN(item, INPUT(last));
    assert_true(reply->value.f == 5);
}

static void touch_raises(void **state)
{
    (void)state;
    uint64_t x = RUN(zeros, SET(shape, SHAPE(4)));
    uint64_t epoch = reply->epoch, version = reply->version;
    RUN(touch, INPUT(x));
    assert_int_equal(reply->epoch, epoch + 1);
    assert_int_equal(reply->version, version + 1);
}

/* -- where it runs -- */

static void what_is_long(void **state)
{
    (void)state;
    uint64_t large = RUN(zeros, SET(shape, SHAPE(1 << 17)));
    uint64_t small = RUN(zeros, SET(shape, SHAPE(10)));
    RUN(clone, INPUT(large));
    assert_true(op_run_is_long(&call));
    RUN(clone, INPUT(small));
    assert_false(op_run_is_long(&call));
    RUN(detach, INPUT(large));
    assert_false(op_run_is_long(&call));
    RUN(to, INPUT(large), SET(dtype, TD_FLOAT32));
    assert_false(op_run_is_long(&call)); /* the same tensor */
    RUN(to, INPUT(large), SET(dtype, TD_FLOAT64));
    assert_true(op_run_is_long(&call));
    RUN(ones, SET(shape, SHAPE(1 << 17)));
    assert_true(op_run_is_long(&call));
    RUN(arange, SET(end, integer(3)));
    assert_true(op_run_is_long(&call));
    uint64_t row = RUN(select, INPUT(RUN(zeros, SET(shape, SHAPE(2, 1 << 17)))), SET(dim, 0),
                       SET(index, INDEX(AT(0))));
    RUN(mul, INPUT(row), SET(value, integer(2)));
    assert_true(op_run_is_long(&call));
}

/* Of get counts what it reads, not what it reads from. */
static void what_is_long_of_a_part(void **state)
{
    (void)state;
    uint64_t x = RUN(zeros, SET(shape, SHAPE(300, 1000)));
    RUN(get, INPUT(x));
    assert_false(op_run_is_long(&call)); /* where it lies */
    RUN(get, INPUT(x), SET(dtype, TD_INT8));
    assert_true(op_run_is_long(&call));
    assert_int_equal(op_cost_bytes(&call), 300 * 1000 * 4);
    RUN(get, INPUT(x), SET(dtype, TD_INT8), SET(index, INDEX(SLICE(0, 2))));
    assert_false(op_run_is_long(&call));
    assert_int_equal(op_cost_bytes(&call), 2 * 1000 * 4);
    RUN(get, INPUT(x), SET(index, INDEX(SLICE(1, 200)))); /* in C order, from the middle */
    assert_false(op_run_is_long(&call));
    RUN(get, INPUT(x), SET(index, INDEX({.kind = INDEX_ELLIPSIS}, SLICE(0, 999))));
    assert_true(op_run_is_long(&call));
    RUN(get, INPUT(x), SET(index, INDEX({.kind = INDEX_ELLIPSIS}, AT(5))));
    assert_false(op_run_is_long(&call));
    RUN(getitem, INPUT(x), SET(index, INDEX(SLICE(0, 200)))); /* a view */
    assert_int_equal(op_cost_bytes(&call), 0);
    RUN(getitem, INPUT(x), SET(index, INDEX(STEP(1, INDEX_NONE, -1))));
    assert_memory("copied", "layout");
    RUN(get, INPUT(x), SET(index, INDEX(STEP(INDEX_NONE, INDEX_NONE, -1))));
    assert_true(op_run_is_long(&call));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_operation_has_a_handler),
        TEST(fields_are_checked),
        TEST(objects_and_ids),
        TEST(sessions_are_apart),
        TEST(result_after_the_end),
        TEST(names),
        TEST(list_in_pages),
        TEST(about_the_daemon),
        TEST(bodies),
        TEST(large_bodies),
        TEST(bodies_with_strides),
        TEST(strides_of_little),
        TEST(strides_refused),
        TEST(parts),
        TEST(items_and_text),
        TEST(touch_raises),
        TEST(what_is_long),
        TEST(what_is_long_of_a_part),
    };
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
