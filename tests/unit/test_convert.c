/* convert: which plan two layouts get. That its elements arrive is
 * tests/semantics/test_convert.py's.
 */
#include "core/convert.h"

#include "tests/unit/layout_assert.h"

struct row {
    const char *what;
    enum td_dtype from, to;
    struct dims shape, in, out; /* strides in elements */
    enum convert_way way;
    struct dims sizes;
    enum td_dtype in_dtype; /* in the plan, if nothing is cast */
};

static struct layout layout_of(enum td_dtype dtype, const struct dims *shape,
                               const struct dims *strides)
{
    struct layout layout = {.dtype = dtype, .rank = shape->rank, .elements = 1};
    for (int d = 0; d < shape->rank; d++) {
        layout.shape[d] = shape->v[d];
        layout.strides[d] = strides->v[d];
        layout.elements *= shape->v[d];
        if (strides->v[d] < 0)
            layout.offset_bytes -=
                strides->v[d] * (shape->v[d] - 1) * (int64_t)td_dtype_size((int)dtype);
    }
    return layout;
}

#define F32 TD_FLOAT32
#define F64 TD_FLOAT64
#define U32 TD_UINT32

static const struct row plans[] = {
    {"a scalar", F32, F32, SCALAR, SCALAR, SCALAR, CONVERT_ROWS, DIMS(1), U32},
    {"no elements", F32, F32, DIMS(3, 0), DIMS(1, 1), DIMS(1, 1), CONVERT_ROWS, DIMS(0), U32},
    {"one run", F32, F32, DIMS(5, 6, 7), DIMS(42, 7, 1), DIMS(42, 7, 1), CONVERT_ROWS, DIMS(210),
     U32},
    {"one run, cast", F32, F64, DIMS(5, 6, 7), DIMS(42, 7, 1), DIMS(42, 7, 1), CONVERT_ROWS,
     DIMS(210), F32},
    {"one run, permuted alike", F32, F32, DIMS(7, 5, 6), DIMS(1, 42, 7), DIMS(1, 42, 7),
     CONVERT_ROWS, DIMS(210), U32},
    {"one run, backwards in both", F32, F64, DIMS(5, 6), DIMS(-6, -1), DIMS(-6, -1), CONVERT_ROWS,
     DIMS(30), F32},
    {"sizes of 1 have any stride", F32, F64, DIMS(1, 5, 1, 6), DIMS(9, 6, 9, 1), DIMS(0, 6, 8, 1),
     CONVERT_ROWS, DIMS(30), F32},
    {"a scalar, expanded", F32, F64, DIMS(5, 6), DIMS(0, 0), DIMS(6, 1), CONVERT_ROWS, DIMS(30),
     F32},
    {"rows with gaps", F32, F32, DIMS(5, 60), DIMS(70, 1), DIMS(60, 1), CONVERT_ROWS, DIMS(5, 60),
     U32},
    {"every second", F32, F32, DIMS(5, 60), DIMS(120, 2), DIMS(60, 1), CONVERT_ROWS, DIMS(300),
     U32},
    {"backwards", F32, F32, DIMS(300), DIMS(-1), DIMS(1), CONVERT_ROWS, DIMS(300), U32},
    {"rows of one expanded row", F32, F32, DIMS(5, 60), DIMS(0, 1), DIMS(60, 1), CONVERT_ROWS,
     DIMS(5, 60), U32},
    {"rows of the same element", F32, F32, DIMS(5, 60), DIMS(1, 0), DIMS(60, 1), CONVERT_ROWS,
     DIMS(5, 60), U32},
    {"heads and positions change places", F32, F32, DIMS(2, 16, 512, 64), DIMS(524288, 64, 1024, 1),
     DIMS(524288, 32768, 64, 1), CONVERT_ROWS, DIMS(2, 16, 512, 64), U32},
    {"a transpose", F32, F32, DIMS(300, 200), DIMS(1, 300), DIMS(200, 1), CONVERT_TILES,
     DIMS(300, 200), U32},
    {"a transpose, cast", F32, F64, DIMS(300, 200), DIMS(1, 300), DIMS(200, 1), CONVERT_TILES,
     DIMS(300, 200), F32},
    {"a transposed destination", F32, F32, DIMS(200, 300), DIMS(300, 1), DIMS(1, 200),
     CONVERT_TILES, DIMS(300, 200), U32},
    {"a transpose, the source backwards", F32, F32, DIMS(300, 200), DIMS(-1, 300), DIMS(200, 1),
     CONVERT_TILES, DIMS(300, 200), U32},
    {"with gaps in the source", F32, F32, DIMS(300, 200), DIMS(2, 600), DIMS(200, 1),
     CONVERT_BLOCKS, DIMS(300, 200), U32},
    {"with gaps in the destination", F32, F32, DIMS(300, 200), DIMS(1, 300), DIMS(400, 2),
     CONVERT_BLOCKS, DIMS(300, 200), U32},
    {"(2, 0, 1) merges two dimensions", F32, F32, DIMS(50, 64, 30), DIMS(1, 1500, 50),
     DIMS(1920, 30, 1), CONVERT_TILES, DIMS(50, 1920), U32},
    {"channels go last", F32, F32, DIMS(2, 28, 28, 3), DIMS(2352, 28, 1, 784), DIMS(2352, 84, 3, 1),
     CONVERT_TILES, DIMS(2, 784, 3), U32},
    {"channels go first", F32, F32, DIMS(2, 3, 28, 28), DIMS(2352, 1, 84, 3),
     DIMS(2352, 784, 28, 1), CONVERT_TILES, DIMS(2, 3, 784), U32},
    {"pairs are elements", F32, F32, DIMS(300, 200, 2), DIMS(2, 600, 1), DIMS(400, 2, 1),
     CONVERT_TILES, DIMS(300, 200), TD_UINT64},
    {"pairs that are cast are none", F32, F64, DIMS(300, 200, 2), DIMS(2, 600, 1), DIMS(400, 2, 1),
     CONVERT_ROWS, DIMS(300, 200, 2), F32},
    {"eight bytes are one element", TD_BOOL, TD_BOOL, DIMS(4, 3, 8), DIMS(8, 32, 1), DIMS(24, 8, 1),
     CONVERT_TILES, DIMS(4, 3), TD_UINT64},
    {"three are none", TD_BOOL, TD_BOOL, DIMS(4, 5, 3), DIMS(3, 12, 1), DIMS(15, 3, 1),
     CONVERT_ROWS, DIMS(4, 5, 3), TD_UINT8},
};

static void plans_are(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(plans); i++) {
        const struct row *row = &plans[i];
        struct layout src = layout_of(row->from, &row->shape, &row->in);
        struct layout dst = layout_of(row->to, &row->shape, &row->out);
        struct convert_plan plan;
        convert_plan(&src, &dst, CAST_SATURATE, &plan);
        assert_same_dims(row->what, plan.rank, plan.sizes, &row->sizes);
        if (plan.way != row->way || plan.in_dtype != row->in_dtype || plan.flags != CAST_SATURATE)
            fail_msg("%s: way %d, dtype %s", row->what, (int)plan.way,
                     td_dtype_name((int)plan.in_dtype));
    }
}

/* Whatever the number of parts, they have all elements between them. */
static void parts_are_the_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(plans); i++)
        for (int64_t parts = 1; parts < 20; parts++) {
            struct layout src = layout_of(plans[i].from, &plans[i].shape, &plans[i].in);
            struct layout dst = layout_of(plans[i].to, &plans[i].shape, &plans[i].out);
            struct convert_plan plan, part;
            int64_t elements = 0, whole = 1;
            convert_plan(&src, &dst, 0, &plan);
            for (int d = 0; d < plan.rank; d++)
                whole *= plan.sizes[d];
            for (int64_t k = 0; k < parts; k++) {
                convert_part(&plan, k, parts, &part);
                int64_t own = 1;
                for (int d = 0; d < part.rank; d++)
                    own *= part.sizes[d];
                elements += own;
            }
            assert_int_equal(elements, whole);
        }
}

static void what_is_larger_than_the_cache_is_streamed(void **state)
{
    struct dims shape = DIMS(64, 1 << 20), expanded = DIMS(0, 0), strides = DIMS(1 << 20, 1);
    struct layout src = layout_of(F32, &shape, &expanded);
    struct layout dst = layout_of(F32, &shape, &strides);
    struct convert_plan plan;
    (void)state;
    convert_plan(&src, &dst, 0, &plan);
    assert_int_equal(plan.flags, CAST_STREAM);
}

/* Rows of whole lines that are written past the cache are read one behind the other. */
static void long_ways_follow_the_source(void **state)
{
    struct dims shape = DIMS(8, 16, 512, 64), in = DIMS(524288, 64, 1024, 1);
    struct dims out = DIMS(524288, 32768, 64, 1), wanted = DIMS(8, 512, 16, 64);
    struct layout src = layout_of(F32, &shape, &in), dst = layout_of(F32, &shape, &out);
    struct convert_plan plan;
    (void)state;
    convert_plan(&src, &dst, 0, &plan);
    assert_same_dims("whole lines", plan.rank, plan.sizes, &wanted);
    assert_int_equal(plan.flags, CAST_STREAM);
    dst.offset_bytes = 4;
    convert_plan(&src, &dst, 0, &plan);
    assert_same_dims("not at a line's begin", plan.rank, plan.sizes, &shape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_are),
        cmocka_unit_test(parts_are_the_whole),
        cmocka_unit_test(what_is_larger_than_the_cache_is_streamed),
        cmocka_unit_test(long_ways_follow_the_source),
    };
    return cmocka_run_group_tests_name("convert", tests, NULL, NULL);
}
