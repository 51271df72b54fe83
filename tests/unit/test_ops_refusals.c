/* ops: every reservation of every operation refused in turn. Nothing may have changed then: no
 * name, no object, no byte, nothing in the ledger. */
#include "tests/unit/ops_request.h"

#include <fcntl.h>
#include <sys/mman.h>

#define LARGE 20000 /* float32 elements: a memfd */

static uint64_t small_id, large_id, strided_id, frozen_id, grad_id;
static int memfd;

static int client_memfd(void)
{
    int fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(fallocate(fd, 0, 0, 4096), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    return fd;
}

static int open_filled_engine(void **state)
{
    static const float floats[4] = {0, 1, 2, 3};
    if (open_engine(state) != 0)
        return 1;
    small_id = counting(SHAPE(2, 3), false);
    large_id = RUN(zeros, SET(shape, SHAPE(2, LARGE)));
    RUN(map, INPUT(large_id)); /* keeps a descriptor for readers from now on */
    RUN(release, SET(lease, reply->lease));
    strided_id = RUN(transpose, INPUT(large_id), SET(dim0, 0), SET(dim1, 1));
    grad_id = counting(SHAPE(4), true);
    request_body = floats, request_body_bytes = sizeof floats;
    frozen_id = RUN(tensor, SET(dtype, TD_FLOAT32), SET(shape, SHAPE(4)), SET(mutable, false));
    RUN(copy, INPUT(small_id), SET(output, text_of("taken")));
    RUN(copy, INPUT(small_id), SET(output, text_of("other")));
    memfd = client_memfd();
    op_end(&call);
    return 0;
}

static int close_filled_engine(void **state)
{
    close(memfd);
    return close_engine(state);
}

/* What must be as before. */
struct world {
    struct ledger_limits used;
    uint64_t revision, names, objects, leases, versions, epochs;
    uint64_t descriptors; /* no padding: compared as bytes */
};

static struct world world(void)
{
    const uint64_t ids[] = {small_id, large_id, strided_id, frozen_id, grad_id};
    struct session_counts counts;
    op_end(&call);
    session_table_count(engine->sessions, &counts);
    struct world now = {
        .used = used_now(),
        .revision = store_revision(engine->store),
        .names = store_count(engine->store),
        .objects = counts.objects,
        .leases = counts.leases,
        .descriptors = (uint64_t)open_descriptors(),
    };
    for (size_t i = 0; i < COUNT(ids); i++) {
        RUN(info, INPUT(ids[i]));
        now.versions += reply->version;
        now.epochs += reply->epoch;
    }
    op_end(&call);
    return now;
}

/* The request of each row; `output` publishes it instead of holding it. */
static void fill_request(int row)
{
    static const float floats[4] = {4, 5, 6, 7};
    static unsigned char many[100 << 10];
    switch (row) {
    case 0:
    case 1:
        request_body = row ? (const void *)many : floats;
        request_body_bytes = row ? sizeof many : sizeof floats;
        SET(dtype, row ? TD_UINT8 : TD_FLOAT32);
        SET(shape, row ? SHAPE(100 << 10) : SHAPE(4));
        break;
    case 2:
        request_fd = dup(memfd);
        SET(dtype, TD_FLOAT32);
        SET(shape, SHAPE(1024));
        break;
    default:
        break;
    }
}

static const struct {
    const char *name;
    enum op op;
    int body; /* of fill_request, -1 for none */
    uint64_t *input, *other;
    field_set fields; /* to set, of those below */
    bool no_output;
    unsigned reservations; /* at least so many can be refused */
} rows[] = {
    {"put", OP_put, 0, NULL, NULL, F(output), false, 2},
    {"put of much", OP_put, 1, NULL, NULL, F(output), false, 2},
    {"tensor", OP_tensor, 0, NULL, NULL, 0, false, 2},
    {"from_numpy of a memfd", OP_from_numpy, 2, NULL, NULL, 0, false, 2},
    {"from_numpy of a body", OP_from_numpy, 0, NULL, NULL, 0, false, 2},
    {"zeros", OP_zeros, -1, NULL, NULL, F(shape), false, 2},
    {"ones", OP_ones, -1, NULL, NULL, F(shape), false, 2},
    {"full", OP_full, -1, NULL, NULL, F(shape) | F(value), false, 2},
    {"eye", OP_eye, -1, NULL, NULL, F(shape), false, 2},
    {"arange", OP_arange, -1, NULL, NULL, F(end), false, 2},
    {"rand", OP_rand, -1, NULL, NULL, F(shape), false, 2},
    {"randn", OP_randn, -1, NULL, NULL, F(shape), false, 2},
    {"randint", OP_randint, -1, NULL, NULL, F(shape) | F(high), false, 2},
    {"get, cast", OP_get, -1, &small_id, NULL, F(dtype), true, 1},
    {"get of a part, cast", OP_get, -1, &grad_id, NULL, F(dtype) | F(index), true, 3},
    {"get of a transposed", OP_get, -1, &strided_id, NULL, 0, true, 1},
    {"map", OP_map, -1, &large_id, NULL, 0, true, 1},
    {"numpy", OP_numpy, -1, &large_id, NULL, 0, true, 1},
    {"copy", OP_copy, -1, &small_id, NULL, F(output), false, 2},
    {"to", OP_to, -1, &large_id, NULL, F(dtype), false, 2},
    {"to the same", OP_as_tensor, -1, &frozen_id, NULL, 0, false, 0},
    {"type", OP_type, -1, &grad_id, NULL, F(dtype), false, 2},
    {"clone", OP_clone, -1, &grad_id, NULL, 0, false, 2},
    {"detach", OP_detach, -1, &grad_id, NULL, 0, false, 1},
    {"data", OP_data, -1, &grad_id, NULL, 0, false, 1},
    {"contiguous", OP_contiguous, -1, &strided_id, NULL, 0, false, 2},
    {"reshape", OP_reshape, -1, &strided_id, NULL, F(shape), false, 2},
    {"view", OP_view, -1, &large_id, NULL, F(shape), false, 1},
    {"transpose", OP_transpose, -1, &small_id, NULL, F(dim0) | F(dim1), false, 1},
    {"getitem", OP_getitem, -1, &small_id, NULL, F(index), false, 1},
    {"setitem with itself, backwards", OP_setitem, -1, &small_id, &small_id, F(index), true, 1},
    {"copy_ with itself", OP_copy_, -1, &small_id, &small_id, 0, true, 0},
    {"mul", OP_mul, -1, &grad_id, NULL, F(value), false, 2},
    {"add", OP_add, -1, &strided_id, NULL, F(value), false, 2},
    {"variable", OP_variable, -1, &small_id, NULL, 0, false, 1},
};

static const char *output_name; /* NULL: anonymous, but for operations that need one */

static enum td_status attempt_row(size_t row)
{
    char fresh[24];
    snprintf(fresh, sizeof fresh, "fresh/%zu", row);
    request.present = 0;
    SET(output, text_of(fresh));
    SET(shape,
        rows[row].op == OP_reshape || rows[row].op == OP_view ? SHAPE(2 * LARGE) : SHAPE(3, 100));
    SET(dtype, TD_FLOAT64);
    SET(value, real(2));
    SET(end, integer(100));
    SET(high, 5);
    SET(write, true);
    SET(dim0, 0);
    SET(dim1, 1);
    SET(index, INDEX(AT(0)));
    if (rows[row].op == OP_setitem)
        SET(index, INDEX(STEP(INDEX_NONE, INDEX_NONE, -1)));
    request.present &= rows[row].fields;
    if (output_name)
        SET(output, text_of(output_name));
    if (rows[row].input)
        INPUT(*rows[row].input);
    if (rows[row].other)
        OTHER(*rows[row].other);
    if (rows[row].body >= 0)
        fill_request(rows[row].body);
    return attempt(rows[row].op);
}

static void assert_same_world(const char *name, uint64_t n, const struct world *before)
{
    struct world after = world();
    if (memcmp(&after, before, sizeof after) != 0)
        fail_msg("%s, refused at reservation %" PRIu64 ": memory %" PRIu64 " -> %" PRIu64
                 ", names %" PRIu64 " -> %" PRIu64 ", objects %" PRIu64 " -> %" PRIu64
                 ", revision %" PRIu64 " -> %" PRIu64 ", descriptors %" PRIu64 " -> %" PRIu64
                 ", epochs %" PRIu64 " -> %" PRIu64,
                 name, n, before->used.memory_bytes, after.used.memory_bytes, before->names,
                 after.names, before->objects, after.objects, before->revision, after.revision,
                 before->descriptors, after.descriptors, before->epochs, after.epochs);
}

/* Refuses the first, the second ... reservation of the operation until it does not need so many. */
static void refuse_each(size_t row)
{
    struct world before = world();
    uint64_t n = 1;
    for (;; n++) {
        engine->ledger.fail_after = n;
        enum td_status status = attempt_row(row);
        bool reached = engine->ledger.fail_after == 0;
        engine->ledger.fail_after = 0;
        if (!reached) {
            if (status != TD_OK)
                fail_msg("%s: %s", rows[row].name, fail_detail());
            break;
        }
        if (status != TD_OUT_OF_MEMORY)
            fail_msg("%s, refused at reservation %" PRIu64 ": %s", rows[row].name, n,
                     td_status_name((int)status));
        assert_same_world(rows[row].name, n, &before);
        assert_true(n < 20);
    }
    if (n - 1 < rows[row].reservations)
        fail_msg("%s made only %" PRIu64 " reservations", rows[row].name, n - 1);
}

static void anonymous(void **state)
{
    (void)state;
    output_name = NULL;
    for (size_t i = 0; i < COUNT(rows); i++)
        refuse_each(i);
}

static void published(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        char name[16];
        snprintf(name, sizeof name, "out/%zu", i);
        output_name = rows[i].no_output ? NULL : name;
        refuse_each(i);
    }
}

/* Replacing a name needs room for the bytes only; refused, the old tensor stays there. */
static void replaced(void **state)
{
    (void)state;
    output_name = "taken";
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (rows[i].no_output)
            continue;
        RUN(copy, INPUT(small_id), SET(output, text_of("taken")));
        engine->ledger.fail_after = 1;
        enum td_status status = attempt_row(i);
        engine->ledger.fail_after = 0;
        if (status == TD_OUT_OF_MEMORY)
            assert_values(RUN(detach, SET(input, text_of("taken"))), VALUES(0, 1, 2, 3, 4, 5));
        else
            assert_ok(status);
    }
}

static void renamed(void **state)
{
    (void)state;
    struct world before = world();
    engine->ledger.fail_after = 1;
    SET(input, text_of("taken"));
    SET(output, text_of("new"));
    enum td_status status = attempt(OP_rename);
    if (engine->ledger.fail_after == 0) {
        assert_refused(status, TD_OUT_OF_MEMORY, "for a test");
        assert_same_world("rename", 1, &before);
    }
    engine->ledger.fail_after = 0;
}

/* The lease is refused after a small storage was readied for sharing. */
static void map_of_a_small_one(void **state)
{
    (void)state;
    struct world before = world();
    for (uint64_t n = 1; n <= 2; n++) {
        engine->ledger.fail_after = n;
        REFUSED(map, TD_OUT_OF_MEMORY, "for a test", INPUT(small_id), SET(write, true));
        assert_same_world("map", n, &before);
    }
    RUN(map, INPUT(small_id), SET(write, true));
}

/* A failed condition is told before, and changes as little. */
static void conditions_fail_late(void **state)
{
    (void)state;
    struct world before = world();
    REFUSED(zeros, TD_EXISTS, "is taken", SET(shape, SHAPE(LARGE)), SET(output, text_of("taken")),
            SET(create_only, true));
    assert_same_world("create_only", 0, &before);
    REFUSED(clone, TD_PRECONDITION, "generation", INPUT(large_id), SET(output, text_of("taken")),
            SET(if_generation, 99999));
    assert_same_world("if_generation", 0, &before);
}

/* -- limits of the session and of names -- */

static void limit_of_objects(void **state)
{
    (void)state;
    enum td_status status = TD_OK;
    int made = 0;
    for (; status == TD_OK && made < 1000; made++)
        status = attempt((SET(shape, SHAPE(1)), OP_zeros));
    assert_refused(status, TD_OUT_OF_MEMORY, "which is the limit");
    struct world before = world();
    REFUSED(zeros, TD_OUT_OF_MEMORY, "which is the limit", SET(shape, SHAPE(LARGE)));
    assert_same_world("zeros", 0, &before);
    RUN(zeros, SET(shape, SHAPE(1)), SET(output, text_of("named"))); /* needs no object */
}

static void limit_of_leases(void **state)
{
    (void)state;
    enum td_status status = TD_OK;
    for (int i = 0; status == TD_OK && i < 1000; i++)
        status = attempt((INPUT(large_id), OP_map));
    assert_refused(status, TD_OUT_OF_MEMORY, "leases, which is the limit");
    struct world before = world();
    REFUSED(map, TD_OUT_OF_MEMORY, "leases", INPUT(large_id));
    assert_same_world("map", 0, &before);
}

/* -- the pool -- */

static int open_small_engine(void **state)
{
    (void)state;
    return open_engine_with(4 * MIB, 4 * MIB);
}

/* Memory that nobody uses is no reason to refuse a name or an object. */
static void pooled_memory_gives_way(void **state)
{
    struct ledger now;
    (void)state;
    uint64_t x = RUN(zeros, SET(shape, SHAPE(8)));
    ledger_read(&engine->ledger, &now);
    uint64_t large = RUN(zeros, SET(shape, SHAPE(1 << 20)), SET(dtype, TD_UINT8));
    RUN(release, INPUT(large));
    op_end(&call);
    ledger_read(&engine->ledger, &now);
    assert_int_equal(now.pool_bytes, 1 << 20);
    engine->ledger.limits.memory_bytes = now.used.memory_bytes; /* full, but for the pool */
    RUN(detach, INPUT(x));
    RUN(detach, INPUT(x), SET(output, text_of("name")));
}

#define FILLED(name) cmocka_unit_test_setup_teardown(name, open_filled_engine, close_filled_engine)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILLED(anonymous),
        FILLED(published),
        FILLED(replaced),
        FILLED(renamed),
        FILLED(map_of_a_small_one),
        FILLED(conditions_fail_late),
        FILLED(limit_of_objects),
        FILLED(limit_of_leases),
        cmocka_unit_test_setup_teardown(pooled_memory_gives_way, open_small_engine, close_engine),
    };
    return cmocka_run_group_tests_name("ops_refusals", tests, NULL, NULL);
}
