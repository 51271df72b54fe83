/* ops: ttl_ms of the operations that publish, expire, and how both are told. */
#include "tests/unit/ops_request.h"

static uint64_t now;

static uint64_t read_clock(void)
{
    return now;
}

static int open_timed(void **state)
{
    if (open_engine(state))
        return 1;
    now = 5000;
    store_set_clock(engine->store, read_clock);
    return 0;
}

/* What the reply says that the name has left; 0: it says nothing. */
static uint64_t told(void)
{
    return FIELDS_HAS(reply, ttl_ms) ? reply->ttl_ms : 0;
}

static uint64_t left_of(const char *name)
{
    RUN(info, SET(input, text_of(name)));
    assert_text(reply->name, name);
    return told();
}

static void make(const char *name, uint64_t ttl_ms)
{
    SET(output, text_of(name));
    if (ttl_ms)
        SET(ttl_ms, ttl_ms);
    RUN(zeros, SET(shape, SHAPE(1)));
    assert_int_equal(told(), ttl_ms);
}

/* A request that the operation can answer; x is a variable of one element that has a grad. */
static void set_fields_of(enum op op, uint64_t x)
{
    static const float body = 1;
    INPUT(x);
    SET(index, op == OP_slice ? INDEX(SLICE(0, 1)) : INDEX(AT(0)));
    SET(shape, SHAPE(1));
    SET(dtype, TD_FLOAT32);
    SET(dims, SHAPE(0));
    SET(value, integer(1));
    SET(end, integer(1));
    SET(high, 1);
    SET(dim, 0);
    SET(dim0, 0);
    SET(dim1, 0);
    request.present &= op_infos[op].required;
    if (op_infos[op].traits & OP_BODY_IN) {
        request_body = &body;
        request_body_bytes = sizeof body;
    }
}

static void every_operation_that_makes(void **state)
{
    (void)state;
    int made = 0;
    uint64_t x = counting(SHAPE(1), true);
    RUN(set_grad, INPUT(x), OTHER(x));
    for (int op = 1; op < OP_END; op++) {
        bool takes = op_infos[op].name && (op_infos[op].optional & FIELD_BIT(ttl_ms));
        bool makes = op_infos[op].traits & OP_MAKES;
        assert_int_equal(takes, makes || op == OP_expire || op == OP_map || op == OP_load);
        /* Of publish the input is not published yet: test_ops_share. */
        if (!makes || op == OP_cuda || op == OP_publish)
            continue;
        set_fields_of((enum op)op, x);
        SET(output, text_of("out"));
        SET(ttl_ms, 50);
        run_((enum op)op, op_infos[op].name, 0);
        assert_text(reply->name, "out");
        assert_int_equal(told(), 50);
        now += 20;
        assert_int_equal(left_of("out"), 30);
        set_fields_of((enum op)op, x);
        SET(output, text_of("out"));
        run_((enum op)op, op_infos[op].name, 0);
        assert_int_equal(told(), 0);
        assert_int_equal(left_of("out"), 0);
        if (!(op_infos[op].required & FIELD_BIT(output))) {
            set_fields_of((enum op)op, x);
            SET(ttl_ms, 50);
            refused_((enum op)op, TD_INVALID, "ttl_ms go with an output name", op_infos[op].name,
                     0);
        }
        made++;
    }
    assert_true(made > 30);
}

static void refused_lengths(void **state)
{
    (void)state;
    make("x", 0);
    SET(shape, SHAPE(1));
    REFUSED(zeros, TD_INVALID, "to live of 0 ms", SET(output, text_of("y")), SET(ttl_ms, 0));
    SET(shape, SHAPE(1));
    REFUSED(zeros, TD_INVALID, "18446744073709551615", SET(output, text_of("y")),
            SET(ttl_ms, UINT64_MAX));
    REFUSED(expire, TD_INVALID, "expected 1 to", SET(input, text_of("x")), SET(ttl_ms, 0));
    REFUSED(expire, TD_INVALID, "3155760000001", SET(input, text_of("x")),
            SET(ttl_ms, STORE_TTL_MAX_MS + 1));
    assert_int_equal(left_of("x"), 0);
    REFUSED(info, TD_NOT_FOUND, "'y'", SET(input, text_of("y")));
}

static void expire_sets_and_clears(void **state)
{
    (void)state;
    make("x", 0);
    uint64_t generation = reply->generation, id = reply->id;
    assert_int_equal(RUN(expire, SET(input, text_of("x")), SET(ttl_ms, 100)), id);
    assert_text(reply->name, "x");
    assert_int_equal(reply->generation, generation);
    assert_int_equal(told(), 100);
    now += 99;
    assert_int_equal(left_of("x"), 1);
    RUN(expire, SET(input, text_of("x")));
    assert_int_equal(told(), 0);
    assert_int_equal(left_of("x"), 0);
    RUN(expire, SET(input, text_of("x")), SET(ttl_ms, 1));
    now += 1;
    REFUSED(expire, TD_NOT_FOUND, "'x'", SET(input, text_of("x")), SET(ttl_ms, 100));
    REFUSED(info, TD_NOT_FOUND, "'x'", SET(input, text_of("x")));
    REFUSED(expire, TD_NOT_FOUND, "'never'", SET(input, text_of("never")));
    uint64_t object_id = counting(SHAPE(1), false);
    REFUSED(expire, TD_INVALID, "'@'", INPUT(object_id), SET(ttl_ms, 1));
}

static void told_wherever_the_name_is(void **state)
{
    (void)state;
    make("x", 100);
    now += 40;
    RUN(get, SET(input, text_of("x")));
    assert_int_equal(told(), 60);
    RUN(touch, SET(input, text_of("x")));
    assert_int_equal(told(), 60);
    RUN(cpu, SET(input, text_of("x"))); /* the same tensor as an object */
    assert_int_equal(told(), 60);
    RUN(clone, SET(input, text_of("x"))); /* another one, without a name */
    assert_int_equal(told(), 0);
    RUN(rename, SET(input, text_of("x")), SET(output, text_of("y")));
    assert_text(reply->name, "y");
    assert_int_equal(told(), 60);
    RUN(copy, SET(input, text_of("y")), SET(output, text_of("z")));
    assert_int_equal(told(), 0);
    now += 60;
    RUN(list, 0);
    assert_int_equal(listed.count, 1);
    assert_string_equal(listed.names[0], "z");
    assert_int_equal(reply->count, 1);
}

/* A request that found its input goes on when the name has expired meanwhile. */
static void found_in_time(void **state)
{
    static struct fields in;
    (void)state;
    make("x", 100);
    op_end(&call);
    in.present = 0;
    FIELDS_SET(&in, input, text_of("x"));
    op_init(&call, engine, session, OP_get, &in);
    assert_ok(op_begin(&call));
    now += 100;
    assert_int_equal(store_expire(engine->store, now, 1), 1);
    assert_ok(op_run(&call));
    assert_ok(op_commit(&call));
    assert_int_equal(call.body_out->layout.elements, 1);
    assert_text(reply->name, "x");
}

static struct fields device;

static enum td_status keep_first(void *sink, const struct fields *entry)
{
    int *count = sink;
    if ((*count)++ == 0)
        device = *entry;
    return TD_OK;
}

static void devices_tell_their_memory(void **state)
{
    static struct fields in;
    int count = 0;
    (void)state;
    RUN(zeros, SET(shape, SHAPE(1 << 20)));
    op_end(&call);
    op_init(&call, engine, session, OP_devices, &in);
    call.emit = keep_first;
    call.sink = &count;
    assert_ok(op_begin(&call));
    assert_ok(op_run(&call));
    assert_int_equal(count, engine->devices.count);
    assert_text(device.name, "cpu");
    assert_int_equal(device.storage_bytes, 32 * MIB);
    assert_int_equal(device.nbytes, used_now().memory_bytes);
    assert_true(device.nbytes >= 4 * MIB && device.nbytes < 5 * MIB);
}

#undef TEST
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_timed, close_engine)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_operation_that_makes), TEST(refused_lengths), TEST(expire_sets_and_clears),
        TEST(told_wherever_the_name_is),  TEST(found_in_time),   TEST(devices_tell_their_memory),
    };
    return cmocka_run_group_tests_name("ops_expiry", tests, NULL, NULL);
}
