/* ops: in-place writes, what they refuse, writing a tensor over itself, and arithmetic. */
#include "tests/unit/ops_request.h"

#include <math.h>

/* -- in-place writes -- */

static void writes_values(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(2, 3), false);
    assert_int_equal(RUN(fill_, INPUT(x), SET(value, real(1.5))), x);
    assert_int_equal(reply->version, 1);
    assert_int_equal(reply->epoch, 1);
    assert_memory("shared", NULL);
    RUN(setitem, INPUT(x), SET(index, INDEX(AT(-1), STEP(0, 3, 2))), SET(value, integer(7)));
    assert_values(x, VALUES(1.5, 1.5, 1.5, 7, 1.5, 7));
    assert_int_equal(RUN(info, INPUT(x)), x);
    assert_int_equal(reply->version, 2);
    uint64_t row = counting(SHAPE(3), false);
    RUN(copy_, INPUT(x), OTHER(row)); /* broadcast */
    assert_values(x, VALUES(0, 1, 2, 0, 1, 2));
    uint64_t column = RUN(full, SET(shape, SHAPE(2, 1)), SET(value, integer(9)));
    RUN(setitem, INPUT(x), SET(index, INDEX({.kind = INDEX_ELLIPSIS}, SLICE(1, INDEX_NONE))),
        OTHER(column)); /* and cast: int64 to float32 */
    assert_values(x, VALUES(0, 9, 9, 0, 9, 9));
    uint64_t t = RUN(transpose, INPUT(x), SET(dim0, 0), SET(dim1, 1));
    RUN(setitem, INPUT(t), SET(index, INDEX(AT(0))), SET(value, real(4)));
    assert_values(x, VALUES(4, 9, 9, 4, 9, 9));
    uint64_t extra = RUN(ones, SET(shape, SHAPE(1, 1, 3)));
    RUN(setitem, INPUT(x), SET(index, INDEX(AT(0))), OTHER(extra)); /* leading 1s go */
    assert_values(x, VALUES(1, 1, 1, 4, 9, 9));
    RUN(setitem, INPUT(x), SET(index, INDEX(SLICE(1, 1))), SET(value, integer(5))); /* nothing */
    assert_values(x, VALUES(1, 1, 1, 4, 9, 9));
}

static void writes_refused(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(2, 3), false), y = counting(SHAPE(4), false);
    uint64_t wide = RUN(expand, INPUT(counting(SHAPE(1), false)), SET(shape, SHAPE(3)));
    REFUSED(copy_, TD_BAD_SHAPE, "", INPUT(x), OTHER(y));
    REFUSED(copy_, TD_BAD_SHAPE, "", INPUT(y), OTHER(x));
    REFUSED(setitem, TD_INVALID, "either a value or another tensor", INPUT(x),
            SET(index, INDEX(AT(0))));
    REFUSED(setitem, TD_INVALID, "either a value or another tensor", INPUT(x), OTHER(y),
            SET(value, integer(1)), SET(index, INDEX(AT(0))));
    REFUSED(setitem, TD_BAD_INDEX, "", INPUT(x), SET(value, integer(1)), SET(index, INDEX(AT(2))));
    REFUSED(copy_, TD_CONFLICT, "refers to a single memory location", INPUT(wide), OTHER(wide));
    REFUSED(setitem, TD_CONFLICT, "refers to a single memory location", INPUT(wide), OTHER(wide),
            SET(index, INDEX(SLICE(0, 3))));
    REFUSED(setitem, TD_CONFLICT, "refers to a single memory location", INPUT(wide),
            SET(value, integer(1)), SET(index, INDEX(SLICE(0, 2))));
    REFUSED(fill_, TD_CONFLICT, "refers to a single memory location", INPUT(wide),
            SET(value, integer(1)));
    RUN(setitem, INPUT(wide), SET(value, integer(8)), SET(index, INDEX(AT(1)))); /* just one */
    assert_values(wide, VALUES(8, 8, 8));
    uint64_t small = RUN(zeros, SET(shape, SHAPE(2, 3)), SET(dtype, TD_UINT8));
    REFUSED(copy_, TD_BAD_DTYPE, "'same_kind'", INPUT(small), OTHER(x),
            SET(casting, text_of("same_kind")));
    REFUSED(setitem, TD_BAD_DTYPE, "'safe'", INPUT(small), OTHER(x), SET(index, INDEX(AT(0))),
            SET(casting, text_of("safe")));
    assert_values(x, VALUES(0, 1, 2, 3, 4, 5)); /* nothing of it happened */
    assert_int_equal(RUN(info, INPUT(x)), x);
    assert_int_equal(reply->version + reply->epoch, 0);
}

/* PyTorch's rules for what requires grad. */
static void grad_rules(void **state)
{
    static const char *const leaf =
        "a leaf Variable that requires grad is being used in an in-place operation.";
    static const char *const view =
        "a view of a leaf Variable that requires grad is being used in an in-place operation.";
    (void)state;
    uint64_t plain = counting(SHAPE(2, 3), false), x = counting(SHAPE(2, 3), true);
    uint64_t v = RUN(view, INPUT(x), SET(shape, SHAPE(6)));
    uint64_t vv = RUN(select, INPUT(v), SET(dim, 0), SET(index, INDEX(AT(0))));
    uint64_t y = RUN(mul, INPUT(x), SET(value, integer(2)));
    uint64_t yv = RUN(view, INPUT(y), SET(shape, SHAPE(6)));
    REFUSED(fill_, TD_REQUIRES_GRAD, leaf, INPUT(x), SET(value, integer(1)));
    REFUSED(copy_, TD_REQUIRES_GRAD, leaf, INPUT(x), OTHER(plain));
    REFUSED(setitem, TD_REQUIRES_GRAD, view, INPUT(x), SET(index, INDEX(AT(0))),
            SET(value, integer(1)));
    REFUSED(fill_, TD_REQUIRES_GRAD, view, INPUT(v), SET(value, integer(1)));
    REFUSED(setitem, TD_REQUIRES_GRAD, view, INPUT(v), SET(index, INDEX(AT(0))),
            SET(value, integer(1)));
    REFUSED(fill_, TD_REQUIRES_GRAD, view, INPUT(vv), SET(value, integer(1)));
    RUN(fill_, INPUT(RUN(detach, INPUT(x))), SET(value, integer(4))); /* nobody records that */
    assert_values(x, VALUES(4, 4, 4, 4, 4, 4));
    RUN(fill_, INPUT(RUN(data, INPUT(v))), SET(value, integer(5)));
    RUN(fill_, INPUT(y), SET(value, integer(6))); /* no leaf */
    RUN(setitem, INPUT(yv), SET(index, INDEX(AT(0))), SET(value, integer(7)));
    assert_values(y, VALUES(7, 6, 6, 6, 6, 6));
}

/* -- over itself: as if the source had been copied first -- */

static void overlapping_writes(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(6), false);
    uint64_t front = RUN(getitem, INPUT(x), SET(index, INDEX(SLICE(INDEX_NONE, -1))));
    RUN(setitem, INPUT(x), SET(index, INDEX(SLICE(1, INDEX_NONE))), OTHER(front));
    assert_values(x, VALUES(0, 0, 1, 2, 3, 4)); /* x[1:] = x[:-1] */
    x = counting(SHAPE(6), false);
    uint64_t back = RUN(getitem, INPUT(x), SET(index, INDEX(SLICE(1, INDEX_NONE))));
    RUN(setitem, INPUT(x), SET(index, INDEX(SLICE(INDEX_NONE, -1))), OTHER(back));
    assert_values(x, VALUES(1, 2, 3, 4, 5, 5)); /* x[:-1] = x[1:] */
    x = counting(SHAPE(3, 3), false);
    uint64_t t = RUN(transpose, INPUT(x), SET(dim0, 0), SET(dim1, 1));
    RUN(copy_, INPUT(x), OTHER(t)); /* x = x.T */
    assert_values(x, VALUES(0, 3, 6, 1, 4, 7, 2, 5, 8));
    RUN(copy_, INPUT(x), OTHER(x));
    assert_values(x, VALUES(0, 3, 6, 1, 4, 7, 2, 5, 8));
    uint64_t row = RUN(select, INPUT(x), SET(dim, 0), SET(index, INDEX(AT(1))));
    RUN(copy_, INPUT(x), OTHER(row)); /* every row, also the source itself */
    assert_values(x, VALUES(1, 4, 7, 1, 4, 7, 1, 4, 7));
}

/* -- arithmetic -- */

enum number { A_BOOL, AN_INT, A_FLOAT, A_COMPLEX };

static const struct {
    enum td_dtype dtype,
        with[4]; /* the result with a number of each kind, as PyTorch 2.13 has it */
} promotions[] = {
    {TD_BOOL, {TD_BOOL, TD_INT64, TD_FLOAT32, TD_COMPLEX64}},
    {TD_UINT8, {TD_UINT8, TD_UINT8, TD_FLOAT32, TD_COMPLEX64}},
    {TD_INT8, {TD_INT8, TD_INT8, TD_FLOAT32, TD_COMPLEX64}},
    {TD_INT16, {TD_INT16, TD_INT16, TD_FLOAT32, TD_COMPLEX64}},
    {TD_INT32, {TD_INT32, TD_INT32, TD_FLOAT32, TD_COMPLEX64}},
    {TD_INT64, {TD_INT64, TD_INT64, TD_FLOAT32, TD_COMPLEX64}},
    {TD_UINT64, {TD_UINT64, TD_UINT64, TD_FLOAT32, TD_COMPLEX64}},
    {TD_FLOAT16, {TD_FLOAT16, TD_FLOAT16, TD_FLOAT16, TD_COMPLEX64}},
    {TD_BFLOAT16, {TD_BFLOAT16, TD_BFLOAT16, TD_BFLOAT16, TD_COMPLEX64}},
    {TD_FLOAT32, {TD_FLOAT32, TD_FLOAT32, TD_FLOAT32, TD_COMPLEX64}},
    {TD_FLOAT64, {TD_FLOAT64, TD_FLOAT64, TD_FLOAT64, TD_COMPLEX128}},
    {TD_COMPLEX64, {TD_COMPLEX64, TD_COMPLEX64, TD_COMPLEX64, TD_COMPLEX64}},
    {TD_COMPLEX128, {TD_COMPLEX128, TD_COMPLEX128, TD_COMPLEX128, TD_COMPLEX128}},
};

static void promotion(void **state)
{
    (void)state;
    const struct scalar numbers[4] = {
        [A_BOOL] = truth(true),
        [AN_INT] = integer(2),
        [A_FLOAT] = real(2),
        [A_COMPLEX] = complex_number(2, 0),
    };
    for (size_t i = 0; i < COUNT(promotions); i++)
        for (int k = 0; k < 4; k++) {
            enum td_dtype wanted = promotions[i].with[k];
            double one_times = k == A_BOOL ? 1 : 2;
            uint64_t x = RUN(ones, SET(shape, SHAPE(2)), SET(dtype, promotions[i].dtype));
            uint64_t y = RUN(mul, INPUT(x), SET(value, numbers[k]));
            if (reply->dtype != wanted)
                fail_msg("%s * %d is %s", td_dtype_name((int)promotions[i].dtype), k,
                         td_dtype_name((int)reply->dtype));
            assert_memory(NULL, NULL);
            assert_values(y, VALUES(one_times, one_times));
            uint64_t z = RUN(add, INPUT(x), SET(value, numbers[k]));
            assert_int_equal(reply->dtype, wanted);
            double sum = wanted == TD_BOOL ? 1 : 1 + one_times;
            assert_values(z, VALUES(sum, sum));
            RUN(release, INPUT(x));
            RUN(release, INPUT(y));
            RUN(release, INPUT(z));
        }
}

static void integers_wrap(void **state)
{
    (void)state;
    uint64_t x = RUN(full, SET(shape, SHAPE(2)), SET(value, integer(200)), SET(dtype, TD_UINT8));
    assert_values(RUN(mul, INPUT(x), SET(value, integer(2))), VALUES(144, 144));
    assert_values(RUN(add, INPUT(x), SET(value, integer(-201))), VALUES(255, 255));
    x = RUN(full, SET(shape, SHAPE(1)), SET(value, integer(INT64_MAX)));
    assert_values(RUN(add, INPUT(x), SET(value, integer(1))), VALUES(-0x1p63));
    x = RUN(full, SET(shape, SHAPE(1)), SET(value, integer(-100)), SET(dtype, TD_INT8));
    assert_values(RUN(mul, INPUT(x), SET(value, integer(-3))), VALUES(44));
}

static void complex_products(void **state)
{
    (void)state;
    uint64_t x = RUN(full, SET(shape, SHAPE(1)), SET(value, complex_number(1, 2)));
    assert_int_equal(reply->dtype, TD_COMPLEX64);
    uint64_t y = RUN(mul, INPUT(x), SET(value, complex_number(3, -4)));
    RUN(item, INPUT(y));
    assert_true(reply->value.c[0] == 11 && reply->value.c[1] == 2);
    y = RUN(add, INPUT(x), SET(value, real(0.5)));
    RUN(item, INPUT(y));
    assert_true(reply->value.c[0] == 1.5 && reply->value.c[1] == 2);
}

/* Of strided and empty tensors, and longer than a chunk; the result is new and in C order. */
static void arithmetic_of_views(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(2, 3), false);
    uint64_t t = RUN(transpose, INPUT(x), SET(dim0, 0), SET(dim1, 1));
    uint64_t y = RUN(add, INPUT(t), SET(value, integer(10)));
    assert_int_equal(reply->strides.v[0], 2);
    assert_values(y, VALUES(10, 13, 11, 14, 12, 15));
    assert_values(x, VALUES(0, 1, 2, 3, 4, 5));
    RUN(mul, INPUT(RUN(zeros, SET(shape, SHAPE(0, 3)))), SET(value, integer(10)));
    assert_shape(SHAPE(0, 3));
    uint64_t wide = RUN(expand, INPUT(RUN(ones, SET(shape, SHAPE(1)))), SET(shape, SHAPE(2000)));
    uint64_t all = RUN(mul, INPUT(wide), SET(value, integer(3)));
    RUN(item, INPUT(RUN(getitem, INPUT(all), SET(index, INDEX(AT(1999))))));
    assert_true(reply->value.f == 3);
    uint64_t nan = RUN(mul, INPUT(RUN(full, SET(shape, SHAPE(1)), SET(value, real(INFINITY)))),
                       SET(value, integer(0)));
    RUN(item, INPUT(nan));
    assert_true(isnan(reply->value.f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(writes_values),      TEST(writes_refused),      TEST(grad_rules),
        TEST(overlapping_writes), TEST(promotion),           TEST(integers_wrap),
        TEST(complex_products),   TEST(arithmetic_of_views),
    };
    return cmocka_run_group_tests_name("ops_write", tests, NULL, NULL);
}
