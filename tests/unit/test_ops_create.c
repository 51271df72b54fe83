/* ops: tensors made of numbers, and shapes that no machine can hold. */
#include "tests/unit/ops_request.h"

#include <math.h>

/* -- arange -- */

static const struct {
    struct scalar start, end, step;
    int64_t count; /* -1: INVALID, -2: BAD_SHAPE, -3: OUT_OF_MEMORY */
    enum td_dtype dtype;
    double first, last;
} ranges[] = {
#define I(n)                                                                                       \
    {                                                                                              \
        .kind = SCALAR_INT, .i = (n)                                                               \
    }
#define U(n)                                                                                       \
    {                                                                                              \
        .kind = SCALAR_UINT, .u = (n)                                                              \
    }
#define R(n)                                                                                       \
    {                                                                                              \
        .kind = SCALAR_FLOAT, .f = (n)                                                             \
    }
#define B(n)                                                                                       \
    {                                                                                              \
        .kind = SCALAR_BOOL, .b = (n)                                                              \
    }
    {I(0), I(5), I(1), 5, TD_INT64, 0, 4},
    {I(0), I(0), I(1), 0, TD_INT64, 0, 0},
    {I(3), I(3), I(-1), 0, TD_INT64, 0, 0},
    {I(1), I(10), I(3), 3, TD_INT64, 1, 7},
    {I(1), I(11), I(3), 4, TD_INT64, 1, 10},
    {I(5), I(0), I(-2), 3, TD_INT64, 5, 1},
    {I(-3), I(3), I(2), 3, TD_INT64, -3, 1},
    {I(INT64_MAX - 2), I(INT64_MAX), I(1), 2, TD_INT64, 0x1p63, 0x1p63},
    {I(INT64_MIN), I(INT64_MIN + 3), I(2), 2, TD_INT64, -0x1p63, -0x1p63},
    {I(INT64_MIN), I(INT64_MAX), I(INT64_MAX), 3, TD_INT64, -0x1p63, 0x1p63},
    {I(INT64_MAX), I(INT64_MIN), I(INT64_MIN), 2, TD_INT64, 0x1p63, -1},
    {U(3), U(6), U(1), 3, TD_INT64, 3, 5},
    {B(false), B(true), B(true), 1, TD_INT64, 0, 0},
    {R(0), R(1), R(0.25), 4, TD_FLOAT32, 0, 0.75},
    {R(0), R(1), R(0.3), 4, TD_FLOAT32, 0, 0.9f},
    {I(0), R(2.5), I(1), 3, TD_FLOAT32, 0, 2},
    {R(0.5), I(3), I(1), 3, TD_FLOAT32, 0.5, 2.5},
    {R(1), R(0), R(-0.5), 2, TD_FLOAT32, 1, 0.5},
    {R(1), R(1), R(1e-300), 0, TD_FLOAT32, 0, 0},
    {R(0), R(1e-300), R(1), 1, TD_FLOAT32, 0, 0},
    {I(0), I(5), I(0), -1, 0, 0, 0},
    {I(0), I(5), R(0), -1, 0, 0, 0},
    {I(0), I(5), R(NAN), -1, 0, 0, 0},
    {I(0), I(5), I(-1), -1, 0, 0, 0},
    {I(5), I(0), I(1), -1, 0, 0, 0},
    {R(NAN), I(0), I(1), -1, 0, 0, 0},
    {I(0), R(INFINITY), I(1), -1, 0, 0, 0},
    {R(-INFINITY), I(0), I(1), -1, 0, 0, 0},
    {{.kind = SCALAR_COMPLEX, .c = {0, 0}}, I(5), I(1), -1, 0, 0, 0},
    {R(-1e308), R(1e308), R(1), -2, 0, 0, 0},
    {R(0), R(1), R(1e-300), -2, 0, 0, 0},
    {I(INT64_MIN), I(INT64_MAX), I(1), -2, 0, 0, 0},
    {I(0), I(INT64_MAX), I(1), -2, 0, 0, 0},
    {I(0), I(INT64_C(1) << 50), I(1), -3, 0, 0, 0},
    {R(0), R(1e15), R(1), -3, 0, 0, 0},
    /* Neighbours that are one number as doubles. */
    {I((INT64_C(1) << 53) + 1), I(INT64_C(1) << 53), I(1), -1, 0, 0, 0},
    {I(INT64_C(1) << 53), I((INT64_C(1) << 53) + 1), I(1), 1, TD_INT64, 0x1p53, 0x1p53},
    /* Numbers that int64 does not have. */
    {U(0), U(UINT64_MAX), U(UINT64_C(1) << 63), -1, 0, 0, 0},
    {I(0), U(UINT64_MAX), I(1), -1, 0, 0, 0},
};

static bool range_is_right(size_t row)
{
    static const enum td_status refusals[] = {TD_OK, TD_INVALID, TD_BAD_SHAPE, TD_OUT_OF_MEMORY};
    SET(start, ranges[row].start);
    SET(end, ranges[row].end);
    SET(step, ranges[row].step);
    enum td_status status = attempt(OP_arange);
    enum td_status wanted = ranges[row].count < 0 ? refusals[-ranges[row].count] : TD_OK;
    if (status != wanted) {
        print_error("range %zu: %s, not %s: %s\n", row, td_status_name((int)status),
                    td_status_name((int)wanted), status == TD_OK ? "" : fail_detail());
        return false;
    }
    if (status != TD_OK)
        return true;
    uint64_t x = reply->id;
    assert_int_equal(reply->shape.v[0], ranges[row].count);
    assert_int_equal(reply->dtype, ranges[row].dtype);
    if (ranges[row].count) {
        RUN(get, INPUT(x), SET(dtype, TD_FLOAT64));
        const double *got = (const double *)(const void *)tensor_data(call.body_out);
        assert_true(got[0] == ranges[row].first);
        assert_true(got[ranges[row].count - 1] == ranges[row].last);
    }
    RUN(release, INPUT(x));
    return true;
}

static void arange_counts(void **state)
{
    size_t right = 0;
    (void)state;
    for (size_t i = 0; i < COUNT(ranges); i++)
        right += range_is_right(i);
    assert_int_equal(right, COUNT(ranges));
    assert_values(RUN(arange, SET(end, integer(3))), VALUES(0, 1, 2));
    assert_values(RUN(arange, SET(end, real(3)), SET(dtype, TD_UINT8)), VALUES(0, 1, 2));
    /* Over several chunks, without an error that adds up. */
    uint64_t x = RUN(arange, SET(end, real(100)), SET(step, real(0.1)), SET(dtype, TD_FLOAT64));
    RUN(item, INPUT(RUN(getitem, INPUT(x), SET(index, INDEX(AT(999))))));
    assert_true(fabs(reply->value.f - 99.9) < 1e-12);
}

/* -- full, eye and their like -- */

static void dtypes_of_values(void **state)
{
    static const struct {
        struct scalar value;
        enum td_dtype dtype;
    } rows[] = {
        {B(true), TD_BOOL},
        {I(-1), TD_INT64},
        {U(UINT64_MAX), TD_UINT64},
        {R(0.5), TD_FLOAT32},
        {{.kind = SCALAR_COMPLEX, .c = {1, 2}}, TD_COMPLEX64},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        RUN(full, SET(shape, SHAPE(2)), SET(value, rows[i].value));
        assert_int_equal(reply->dtype, rows[i].dtype);
        assert_memory(NULL, NULL);
    }
    RUN(zeros, SET(shape, SHAPE(1)));
    assert_int_equal(reply->dtype, TD_FLOAT32);
    for (int dtype = TD_DTYPE_NONE + 1; dtype < TD_DTYPE_END; dtype++)
        assert_values(RUN(ones, SET(shape, SHAPE(2)), SET(dtype, (enum td_dtype)dtype)),
                      VALUES(1, 1));
    REFUSED(zeros, TD_BAD_DTYPE, "", SET(shape, SHAPE(1)), SET(dtype, TD_DTYPE_NONE));
    REFUSED(zeros, TD_BAD_DTYPE, "", SET(shape, SHAPE(1)), SET(dtype, TD_DTYPE_END));
}

static void modes_asked_for(void **state)
{
    (void)state;
    RUN(zeros, SET(shape, SHAPE(1)));
    assert_text(reply->mode, "mutable");
    assert_text(reply->kind, "tensor");
    RUN(zeros, SET(shape, SHAPE(1)), SET(mutable, false), SET(requires_grad, true));
    assert_text(reply->mode, "frozen");
    assert_text(reply->kind, "variable");
    assert_true(reply->requires_grad && reply->is_leaf);
}

static int open_pooled_engine(void **state)
{
    (void)state;
    return open_engine_with(32 * MIB, 4 * MIB);
}

/* empty shows nothing of what the memory held before. */
static void empty_is_clear(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        uint64_t x = RUN(empty, SET(shape, SHAPE(1 << 16)), SET(dtype, TD_UINT8));
        uint64_t last = RUN(getitem, INPUT(x), SET(index, INDEX(AT(-1))));
        RUN(item, INPUT(last));
        assert_int_equal(reply->value.u, 0);
        RUN(release, INPUT(last));
        RUN(fill_, INPUT(x), SET(value, integer(0xAB)));
        RUN(release, INPUT(x));
        op_end(&call);
        assert_true(engine->ledger.pool_bytes > 0); /* or there was nothing to recycle */
    }
}

static void eyes(void **state)
{
    (void)state;
    assert_values(RUN(eye, SET(shape, SHAPE(2))), VALUES(1, 0, 0, 1));
    assert_values(RUN(eye, SET(shape, SHAPE(2, 3)), SET(dtype, TD_BOOL)), VALUES(1, 0, 0, 0, 1, 0));
    assert_values(RUN(eye, SET(shape, SHAPE(3, 2))), VALUES(1, 0, 0, 1, 0, 0));
    RUN(eye, SET(shape, SHAPE(0)));
    assert_shape(SHAPE(0, 0));
    RUN(eye, SET(shape, SHAPE(3, 0)));
    REFUSED(eye, TD_BAD_SHAPE, "of rank 3", SET(shape, SHAPE(1, 1, 1)));
    REFUSED(eye, TD_BAD_SHAPE, "of rank 0", SET(shape, (struct dims){.rank = 0}));
    REFUSED(eye, TD_BAD_SHAPE, "", SET(shape, SHAPE(-1)));
    REFUSED(eye, TD_BAD_SHAPE, "", SET(shape, SHAPE(INT64_MAX)));
    REFUSED(eye, TD_BAD_SHAPE, "", SET(shape, SHAPE(0, INT64_MAX)));
}

/* -- random numbers -- */

static void same_seed_same_numbers(void **state)
{
    static const enum op kinds[] = {OP_rand, OP_randn, OP_randint};
    (void)state;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        double values[3][4];
        for (int run = 0; run < 3; run++) {
            SET(shape, SHAPE(4));
            SET(high, 1000000);
            SET(seed, 7);
            SET(counter, run == 2);
            request.present &= op_infos[kinds[i]].required | op_infos[kinds[i]].optional;
            uint64_t x = run_(kinds[i], op_infos[kinds[i]].name, run);
            assert_int_equal(reply->seed, 7);
            RUN(get, INPUT(x), SET(dtype, TD_FLOAT64));
            memcpy(values[run], tensor_data(call.body_out), sizeof values[run]);
        }
        assert_memory_equal(values[0], values[1], sizeof values[0]);
        assert_memory_not_equal(values[0], values[2], sizeof values[0]);
    }
    RUN(rand, SET(shape, SHAPE(4)));
    uint64_t seed = reply->seed;
    RUN(rand, SET(shape, SHAPE(4)));
    assert_int_not_equal(reply->seed, seed); /* one nobody asked for is told, and another one */
}

static void ranges_of_random_numbers(void **state)
{
    (void)state;
    for (int dtype = TD_DTYPE_NONE + 1; dtype < TD_DTYPE_END; dtype++) {
        if (!dtype_is_differentiable((enum td_dtype)dtype)) {
            REFUSED(rand, TD_BAD_DTYPE, "use randint", SET(shape, SHAPE(1)),
                    SET(dtype, (enum td_dtype)dtype));
            continue;
        }
        uint64_t x =
            RUN(rand, SET(shape, SHAPE(3000)), SET(dtype, (enum td_dtype)dtype), SET(seed, 1));
        RUN(get, INPUT(x), SET(dtype, TD_FLOAT64));
        const double *got = (const double *)(const void *)tensor_data(call.body_out);
        double sum = 0;
        for (int i = 0; i < 3000; i++) {
            assert_true(got[i] >= 0 && got[i] < 1);
            sum += got[i];
        }
        assert_true(fabs(sum / 3000 - 0.5) < 0.15); /* 3-bit ones round down */
    }
    uint64_t x = RUN(randint, SET(shape, SHAPE(1000)), SET(low, -2), SET(high, 3), SET(seed, 1));
    assert_int_equal(reply->dtype, TD_INT64);
    RUN(get, INPUT(x));
    const int64_t *got = (const int64_t *)(const void *)tensor_data(call.body_out);
    int seen[5] = {0};
    for (int i = 0; i < 1000; i++) {
        assert_true(got[i] >= -2 && got[i] < 3);
        seen[got[i] + 2]++;
    }
    for (int i = 0; i < 5; i++)
        assert_in_range(seen[i], 120, 280);
    REFUSED(randint, TD_INVALID, "from=3 >= to=3", SET(shape, SHAPE(1)), SET(low, 3), SET(high, 3));
    RUN(randint, SET(shape, SHAPE(8)), SET(low, INT64_MIN), SET(high, INT64_MAX));
}

/* -- shapes -- */

static void hostile_shapes(void **state)
{
    static const int64_t e18 = INT64_C(1000000000000000000);
    static const struct {
        struct dims shape;
        enum td_status status;
    } rows[] = {
        {{1, {e18}}, TD_BAD_SHAPE},
        {{1, {INT64_MAX}}, TD_BAD_SHAPE},
        {{1, {-1}}, TD_BAD_SHAPE},
        {{1, {INT64_MIN}}, TD_BAD_SHAPE},
        {{2, {e18, e18}}, TD_BAD_SHAPE},
        {{2, {0, e18}}, TD_BAD_SHAPE},
        {{2, {INT64_C(1) << 32, INT64_C(1) << 32}}, TD_BAD_SHAPE},
        {{3, {INT64_C(1) << 31, INT64_C(1) << 31, 4}}, TD_BAD_SHAPE},
        {{33, {1}}, TD_BAD_SHAPE},
        {{-1, {1}}, TD_BAD_SHAPE},
        {{1, {INT64_C(1) << 40}}, TD_OUT_OF_MEMORY},
        {{1, {INT64_C(1) << 23}}, TD_OUT_OF_MEMORY}, /* 32 MiB and a tensor's head */
    };
    static const enum op ops[] = {OP_zeros, OP_empty, OP_ones, OP_full, OP_rand, OP_randint};
    (void)state;
    RUN(zeros, SET(shape, SHAPE(1)));
    uint64_t used = used_now().memory_bytes;
    for (size_t i = 0; i < COUNT(rows); i++)
        for (size_t k = 0; k < COUNT(ops); k++) {
            SET(shape, rows[i].shape);
            SET(value, integer(1));
            SET(high, 2);
            request.present &= op_infos[ops[k]].required;
            refused_(ops[k], rows[i].status, "", "shape", (int)i);
            op_end(&call);
            assert_int_equal(used_now().memory_bytes, used);
        }
}

static void rank_32(void **state)
{
    struct dims shape = {.rank = RANK_MAX}, order = {.rank = RANK_MAX};
    (void)state;
    for (int d = 0; d < RANK_MAX; d++) {
        shape.v[d] = d % 8 == 0 ? 2 : 1;
        order.v[d] = RANK_MAX - 1 - d;
    }
    uint64_t x = RUN(ones, SET(shape, shape));
    assert_int_equal(reply->nbytes, 16 * 4);
    uint64_t y = RUN(permute, INPUT(x), SET(dims, order));
    RUN(mul, INPUT(y), SET(value, integer(2)));
    assert_shape(reply->shape);
    REFUSED(unsqueeze, TD_BAD_SHAPE, "", INPUT(x), SET(dim, 0));
    RUN(print, INPUT(x));
    RUN(squeeze, INPUT(x));
    assert_shape(SHAPE(2, 2, 2, 2));
    /* A view of far more elements than its storage has is no way around the limits. */
    for (int d = 0; d < RANK_MAX; d++)
        shape.v[d] = 2;
    uint64_t wide = RUN(expand, INPUT(RUN(ones, SET(shape, SHAPE(1)))), SET(shape, shape));
    REFUSED(clone, TD_OUT_OF_MEMORY, "do not fit", INPUT(wide));
    REFUSED(mul, TD_OUT_OF_MEMORY, "do not fit", INPUT(wide), SET(value, integer(2)));
    REFUSED(get, TD_OUT_OF_MEMORY, "do not fit", INPUT(wide));
    REFUSED(to, TD_OUT_OF_MEMORY, "do not fit", INPUT(wide), SET(dtype, TD_INT8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(arange_counts),
        TEST(dtypes_of_values),
        TEST(modes_asked_for),
        cmocka_unit_test_setup_teardown(empty_is_clear, open_pooled_engine, close_engine),
        TEST(eyes),
        TEST(same_seed_same_numbers),
        TEST(ranges_of_random_numbers),
        TEST(hostile_shapes),
        TEST(rank_32),
    };
    return cmocka_run_group_tests_name("ops_create", tests, NULL, NULL);
}
