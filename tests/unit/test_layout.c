/* layout: shapes and strides that are refused, what is asked about them, and their rows. */
#include "tests/unit/layout_assert.h"

/* -- new layouts -- */

static void contiguous(void **state)
{
    static const struct {
        enum td_dtype dtype;
        struct dims shape, strides;
        int64_t elements;
    } rows[] = {
        {TD_FLOAT32, SCALAR, SCALAR, 1},
        {TD_FLOAT32, DIMS(5), DIMS(1), 5},
        {TD_FLOAT32, DIMS(2, 3, 4), DIMS(12, 4, 1), 24},
        {TD_FLOAT32, DIMS(2, 1, 4), DIMS(4, 4, 1), 8},
        {TD_FLOAT32, DIMS(0), DIMS(1), 0},
        {TD_FLOAT32, DIMS(2, 0, 3), DIMS(3, 3, 1), 0},
        {TD_UINT8, DIMS(BIG, 1 << 16), DIMS(1 << 16, 1), BIG << 16},
        {TD_COMPLEX128, DIMS(BIG, 1 << 12), DIMS(1 << 12, 1), BIG << 12},
        {TD_UINT8, DIMS(0, BIG, 1 << 16), DIMS(BIG << 16, 1 << 16, 1), 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct layout layout;
        assert_int_equal(layout_contiguous(rows[i].dtype, &rows[i].shape, &layout), TD_OK);
        assert_same_dims("shape", layout.rank, layout.shape, &rows[i].shape);
        assert_same_dims("strides", layout.rank, layout.strides, &rows[i].strides);
        assert_int_equal(layout.elements, rows[i].elements);
        assert_int_equal(layout.offset_bytes, 0);
        assert_int_equal(layout.dtype, rows[i].dtype);
        int64_t bytes = rows[i].elements * (int64_t)td_dtype_size((int)rows[i].dtype);
        assert_int_equal(layout_nbytes(&layout), bytes);
        assert_int_equal(layout_span_bytes(&layout), bytes);
        assert_true(layout_is_contiguous(&layout));
        assert_false(layout_self_overlaps(&layout));
    }
}

static const struct {
    int dtype;
    struct dims shape;
    enum td_status status;
    const char *text;
} bad_shapes[] = {
    {0, DIMS(2), TD_BAD_DTYPE, "there is no dtype with the number 0; 1 to 17 are known"},
    {18, DIMS(2), TD_BAD_DTYPE, "there is no dtype with the number 18; ..."},
    {-1, DIMS(2), TD_BAD_DTYPE, "there is no dtype with the number -1; ..."},
    {TD_INT8, {33, {1}}, TD_BAD_SHAPE, "a tensor has 0 to 32 dimensions, not 33"},
    {TD_INT8, {-1, {1}}, TD_BAD_SHAPE, "a tensor has 0 to 32 dimensions, not -1"},
    {TD_INT8, {INT32_MAX, {1}}, TD_BAD_SHAPE, "a tensor has 0 to 32 dimensions, not 2147..."},
    {TD_INT8, {INT32_MIN, {1}}, TD_BAD_SHAPE, "a tensor has 0 to 32 dimensions, not -2147..."},
    {TD_INT8, DIMS(2, -1), TD_BAD_SHAPE,
     "Trying to create tensor with negative dimension -1: [2, -1]"},
    {TD_INT8, DIMS(0, MIN), TD_BAD_SHAPE,
     "Trying to create tensor with negative dimension -9223372036854775808: "
     "[0, -9223372036854775808]"},
    {TD_INT8, DIMS(-2, -3), TD_BAD_SHAPE,
     "Trying to create tensor with negative dimension -2: [-2, -3]"},
    {TD_FLOAT32, DIMS(BIG, BIG), TD_BAD_SHAPE,
     "Storage size calculation overflowed with sizes=[1099511627776, 1099511627776]"},
    {TD_UINT8, DIMS(1000000000, 1000000000), TD_BAD_SHAPE,
     "Storage size calculation overflowed with sizes=[1000000000, 1000000000]"},
    {TD_UINT8, DIMS((1 << 30), (1 << 26) + 1), TD_BAD_SHAPE, "Storage size calculation..."},
    {TD_FLOAT64, DIMS(MAX), TD_BAD_SHAPE, "Storage size calculation..."},
    {TD_UINT8, DIMS(MAX, 2), TD_BAD_SHAPE, "Storage size calculation..."},
    {TD_UINT8, DIMS(HUGE_SIZE, 4), TD_BAD_SHAPE, "Storage size calculation..."},
    /* A size of 0 hides nothing, wherever it stands. */
    {TD_FLOAT32, DIMS(BIG, BIG, 0), TD_BAD_SHAPE, "Storage size calculation..."},
    {TD_FLOAT32, DIMS(0, BIG, BIG), TD_BAD_SHAPE, "Storage size calculation..."},
    {TD_FLOAT32, DIMS(BIG, 0, BIG), TD_BAD_SHAPE, "Storage size calculation..."},
    {TD_FLOAT32, DIMS(0, HUGE_SIZE), TD_BAD_SHAPE, "Storage size calculation..."},
    {TD_UINT8, DIMS(0, MAX), TD_BAD_SHAPE, "Storage size calculation..."},
};

static void contiguous_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_shapes); i++) {
        struct layout layout;
        int64_t elements;
        fill(&layout, sizeof layout);
        assert_failure(
            layout_contiguous((enum td_dtype)bad_shapes[i].dtype, &bad_shapes[i].shape, &layout),
            bad_shapes[i].status, bad_shapes[i].text);
        assert_filled(&layout, sizeof layout);
        assert_false(
            dims_count(&bad_shapes[i].shape, (enum td_dtype)bad_shapes[i].dtype, &elements));
    }
}

static const struct {
    struct dims shape, strides;
    uint64_t offset, storage; /* bytes, of float32 */
    const char *text;         /* NULL: accepted */
} strided_rows[] = {
    {DIMS(3, 4), DIMS(4, 1), 0, 48, NULL},
    {DIMS(3, 4), DIMS(4, 1), 4, 52, NULL},
    {DIMS(3, 4), DIMS(0, 0), 8, 12, NULL},
    {DIMS(3, 2), DIMS(1, 1), 0, 16, NULL},
    {DIMS(1, 1), DIMS(BIG, 1000), 0, 4, NULL},
    {DIMS(0, 3), DIMS(3, 1), 48, 48, NULL},
    {SCALAR, SCALAR, 44, 48, NULL},
    {DIMS(3, 4), DIMS(4), 0, 48, "mismatch in length of strides and shape"},
    {DIMS(3, 4), {33, {1}}, 0, 48, "mismatch in length of strides and shape"},
    {{33, {1}}, {33, {1}}, 0, 48, "a tensor has 0 to 32 dimensions, not 33"},
    {DIMS(2, 2), DIMS(-1, 1), 0, 48,
     "as_strided: Negative strides are not supported at the moment, got strides: [-1, 1]"},
    {DIMS(0, 2), DIMS(1, MIN), 0, 48, "as_strided: Negative strides are not supported ..."},
    {DIMS(2, -2), DIMS(1, 1), 0, 48, "Trying to create tensor with negative dimension -2: [2, -2]"},
    {DIMS(2, 20), DIMS(1, 1), 0, 48,
     "setStorage: sizes [2, 20], strides [1, 1], storage offset 0, and itemsize 4 requiring a "
     "storage size of 84 are out of bounds for storage of size 48"},
    {DIMS(2, 2), DIMS(1, 1), 48, 48,
     "setStorage: sizes [2, 2], strides [1, 1], storage offset 12, and itemsize 4 requiring a "
     "storage size of 60 are out of bounds for storage of size 48"},
    {DIMS(3, 4), DIMS(4, 1), 4, 48, "setStorage: sizes [3, 4], ..."},
    {SCALAR, SCALAR, 0, 3, "setStorage: sizes [], strides [], storage offset 0, ..."},
    {SCALAR, SCALAR, 48, 48, "setStorage: sizes [], ..."},
    {DIMS(2), DIMS(1), 2, 48, "the offset of 2 bytes is no multiple of the 4 bytes of a float32"},
    {DIMS(0), DIMS(1), 52, 48, "the offset of 52 bytes is out of bounds for storage of size 48"},
    {DIMS(1), DIMS(1), UINT64_MAX - 3, UINT64_MAX,
     "the offset of 18446744073709551612 bytes is too large"},
    {DIMS(1), DIMS(1), INT64_MAX - 3, UINT64_MAX, "the offset of 9223372036854775804 ..."},
    {DIMS(2), DIMS(BIG << 14), 0, UINT64_MAX, "Storage size calculation overflowed with ..."},
    {DIMS(2, 3), DIMS(HUGE_SIZE, HUGE_SIZE), 0, UINT64_MAX,
     "Storage size calculation overflowed with sizes=[2, 3] and strides=[4611686018427387904, "
     "4611686018427387904]"},
    {DIMS(2, 2, 2), DIMS(BIG << 13, BIG << 13, BIG << 13), 0, UINT64_MAX, "Storage size ..."},
    {DIMS(0, 2), DIMS(HUGE_SIZE, 1), 0, 48, "Storage size calculation overflowed with ..."},
    {DIMS(1), DIMS(MAX), 0, 48, "Storage size calculation overflowed with ..."},
    {DIMS(BIG, BIG), DIMS(0, 0), 0, 48, "Storage size calculation overflowed with sizes=..."},
};

static void strided(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(strided_rows); i++) {
        struct layout layout;
        fill(&layout, sizeof layout);
        enum td_status status =
            layout_strided(TD_FLOAT32, &strided_rows[i].shape, &strided_rows[i].strides,
                           strided_rows[i].offset, strided_rows[i].storage, &layout);
        if (!strided_rows[i].text) {
            assert_int_equal(status, TD_OK);
            assert_layout("strided", &layout, &strided_rows[i].shape, &strided_rows[i].strides,
                          (int64_t)strided_rows[i].offset / 4);
            continue;
        }
        assert_failure(status, TD_BAD_SHAPE, strided_rows[i].text);
        assert_filled(&layout, sizeof layout);
    }
}

static void queries(void **state)
{
    static const struct {
        struct dims shape, strides;
        bool contiguous, overlaps;
        int64_t span; /* elements */
    } rows[] = {
        {SCALAR, SCALAR, true, false, 1},
        {DIMS(3, 4), DIMS(4, 1), true, false, 12},
        {DIMS(4, 3), DIMS(1, 4), false, false, 12},
        {DIMS(3, 4), DIMS(8, 2), false, false, 23},
        {DIMS(3, 1), DIMS(1, 77), true, false, 3},
        {DIMS(1, 3), DIMS(0, 1), true, false, 3},
        {DIMS(1, 1), DIMS(7, 9), true, false, 1},
        {DIMS(3, 1), DIMS(2, 1), false, false, 5},
        {DIMS(0, 3), DIMS(7, 0), true, false, 0},
        {DIMS(2, 3), DIMS(0, 1), false, true, 3},
        {DIMS(2), DIMS(0), false, true, 1},
        {DIMS(2, 2), DIMS(1, 1), false, true, 3},
        {DIMS(2, 3, 2), DIMS(3, 1, 6), false, false, 12},
        {DIMS(2, 3, 2), DIMS(2, 1, 6), false, true, 11},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct layout layout = make(&rows[i].shape, &rows[i].strides, 1);
        assert_int_equal(layout_is_contiguous(&layout), rows[i].contiguous);
        assert_int_equal(layout_self_overlaps(&layout), rows[i].overlaps);
        assert_int_equal(layout_span_bytes(&layout), rows[i].span * 4);
        for (size_t k = 0; k < COUNT(rows); k++) {
            struct layout other = make(&rows[k].shape, &rows[k].strides, 0);
            bool same = rows[i].shape.rank == rows[k].shape.rank &&
                        memcmp(&rows[i].shape, &rows[k].shape, sizeof(struct dims)) == 0;
            assert_int_equal(layout_same_shape(&layout, &other), same);
        }
    }
    /* A layout that no function here makes must not wrap to a small span. */
    struct layout broken = {.dtype = TD_FLOAT64, .rank = 2, .elements = 4};
    broken.shape[0] = broken.shape[1] = 2;
    broken.strides[0] = broken.strides[1] = MAX;
    assert_int_equal(layout_span_bytes(&broken), INT64_MAX);
}

static void shape_text(void **state)
{
    const int64_t shape[] = {2, 0, MIN};
    const struct dims longest = {32, {MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN,
                                      MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN,
                                      MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN, MIN}};
    const char *whole = "[2, 0, -9223372036854775808]";
    char text[SHAPE_TEXT_SIZE];
    (void)state;
    assert_string_equal(layout_shape_text(0, shape, text, sizeof text), "[]");
    assert_string_equal(layout_shape_text(1, shape, text, sizeof text), "[2]");
    assert_string_equal(layout_shape_text(3, shape, text, sizeof text), whole);
    layout_shape_text(longest.rank, longest.v, text, sizeof text);
    assert_int_equal(text[strlen(text) - 1], ']');
    for (size_t size = 0; size <= strlen(whole) + 1; size++) {
        fill(text, sizeof text);
        layout_shape_text(3, shape, text, size);
        assert_filled(text + size, sizeof text - size);
        if (size > 0) {
            assert_int_equal(strlen(text), size - 1);
            assert_memory_equal(text, whole, size - 1);
        }
    }
}

/* -- rows -- */

static void rows_merge(void **state)
{
    static const struct {
        struct dims shape, a, b; /* the strides of two layouts; those of b of 8-byte elements */
        int rank;
        int64_t count, rows, row_steps[2];
        struct dims sizes;
    } cases[] = {
        {SCALAR, SCALAR, SCALAR, 0, 1, 1, {4, 8}, SCALAR},
        {DIMS(1, 1), DIMS(9, 7), DIMS(3, 3), 0, 1, 1, {4, 8}, SCALAR},
        {DIMS(2, 3, 4), DIMS(12, 4, 1), DIMS(12, 4, 1), 0, 24, 1, {4, 8}, SCALAR},
        {DIMS(2, 3, 4), DIMS(12, 4, 1), DIMS(20, 4, 1), 1, 12, 2, {4, 8}, DIMS(2)},
        {DIMS(2, 3, 4), DIMS(12, 4, 1), DIMS(30, 10, 1), 1, 4, 6, {4, 8}, DIMS(6)},
        {DIMS(2, 3, 4), DIMS(12, 4, 1), DIMS(1, 2, 6), 2, 4, 6, {4, 48}, DIMS(2, 3)},
        {DIMS(4, 3), DIMS(1, 4), DIMS(1, 4), 1, 3, 4, {16, 32}, DIMS(4)},
        {DIMS(2, 3), DIMS(0, 0), DIMS(3, 1), 0, 6, 1, {0, 8}, SCALAR},
        {DIMS(2, 3), DIMS(0, 1), DIMS(3, 1), 1, 3, 2, {4, 8}, DIMS(2)},
        {DIMS(2, 1, 3), DIMS(3, 77, 1), DIMS(3, 9, 1), 0, 6, 1, {4, 8}, SCALAR},
        {DIMS(3, 1), DIMS(5, 1), DIMS(1, 1), 0, 3, 1, {20, 8}, SCALAR},
        {DIMS(2, 0, 3), DIMS(3, 3, 1), DIMS(0, 0, 0), 0, 0, 0, {4, 8}, SCALAR},
        {DIMS(0), DIMS(1), DIMS(1), 0, 0, 0, {4, 8}, SCALAR},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct layout a = make(&cases[i].shape, &cases[i].a, 0);
        struct layout b = make(&cases[i].shape, &cases[i].b, 0);
        const struct layout *both[] = {&a, &b};
        struct layout_rows rows;
        int64_t steps[2][RANK_MAX], row_steps[2];
        b.dtype = TD_FLOAT64;
        layout_rows(both, 2, &rows, steps, row_steps);
        assert_int_equal(rows.rank, cases[i].rank);
        assert_int_equal(rows.count, cases[i].count);
        assert_int_equal(rows.rows, cases[i].rows);
        assert_int_equal(row_steps[0], cases[i].row_steps[0]);
        assert_int_equal(row_steps[1], cases[i].row_steps[1]);
        assert_same_dims("sizes", rows.rank, rows.sizes, &cases[i].sizes);
    }
}

/* The same numbers in every run and on every machine. */
static uint64_t seed = 1;

static int64_t below(int64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((seed >> 33) % (uint64_t)n);
}

/* Up to 5 dimensions of up to 3; the strides are anything, or those of views of a dense tensor. */
static struct layout random_layout(const struct dims *shape, bool dense)
{
    int order[RANK_MAX];
    struct dims strides = {.rank = shape->rank};
    int64_t stride = 1;
    for (int d = 0; d < shape->rank; d++) {
        order[d] = d;
        strides.v[d] = below(7);
    }
    for (int d = shape->rank - 1; d > 0; d--) {
        int other = (int)below(d + 1);
        int swap = order[d];
        order[d] = order[other];
        order[other] = swap;
    }
    for (int i = 0; i < shape->rank && dense; i++) {
        strides.v[order[i]] = below(6) ? stride : 0;
        stride *= shape->v[order[i]] > 0 ? shape->v[order[i]] : 1;
        stride *= below(4) ? 1 : 2;
    }
    struct layout layout;
    assert_int_equal(
        layout_strided(TD_INT16, shape, &strides, (uint64_t)below(5) * 2, 1 << 20, &layout), TD_OK);
    return layout;
}

static struct dims random_shape(void)
{
    struct dims shape = {.rank = (int)below(6)};
    for (int d = 0; d < shape.rank; d++)
        shape.v[d] = below(20) ? 1 + below(3) : 0;
    return shape;
}

/* Where element number n of the C order lies, by its indices. */
static int64_t element_offset(const struct layout *layout, int64_t n)
{
    int64_t offset = layout->offset_bytes;
    for (int d = layout->rank - 1; d >= 0; d--) {
        offset += n % layout->shape[d] * layout->strides[d] * 2;
        n /= layout->shape[d];
    }
    return offset;
}

static void rows_visit_every_element_in_order(void **state)
{
    (void)state;
    for (int round = 0; round < 3000; round++) {
        struct dims shape = random_shape();
        struct layout layouts[3];
        const struct layout *pointers[3];
        struct layout_rows rows;
        int64_t steps[3][RANK_MAX], row_steps[3], offsets[3], counters[RANK_MAX] = {0};
        int64_t seen = 0, visited = 0;
        for (int k = 0; k < 3; k++) {
            layouts[k] = random_layout(&shape, k < 2);
            pointers[k] = &layouts[k];
            offsets[k] = layouts[k].offset_bytes;
        }
        layout_rows(pointers, 3, &rows, steps, row_steps);
        assert_int_equal(rows.rows * rows.count, layouts[0].elements);
        if (rows.rows > 0) {
            do {
                visited++;
                for (int64_t i = 0; i < rows.count; i++, seen++)
                    for (int k = 0; k < 3; k++)
                        assert_int_equal(offsets[k] + i * row_steps[k],
                                         element_offset(&layouts[k], seen));
            } while (layout_rows_next(&rows, counters, steps, 3, offsets));
        }
        assert_int_equal(visited, rows.rows);
        assert_int_equal(seen, layouts[0].elements);
        for (int k = 0; k < 3; k++)
            assert_int_equal(offsets[k], layouts[k].offset_bytes);
    }
}

static bool overlaps_by_trying(const struct layout *layout)
{
    char seen[1024] = {0};
    for (int64_t n = 0; n < layout->elements; n++) {
        int64_t at = element_offset(layout, n) / 2;
        assert_true(at < (int64_t)sizeof seen);
        if (seen[at]++)
            return true;
    }
    return false;
}

static void overlaps_are_found(void **state)
{
    int found = 0;
    (void)state;
    for (int round = 0; round < 5000; round++) {
        struct dims shape = random_shape();
        bool dense = below(2) == 0;
        struct layout layout = random_layout(&shape, dense);
        bool really = overlaps_by_trying(&layout);
        found += really;
        if (really || dense)
            assert_int_equal(layout_self_overlaps(&layout), really);
    }
    assert_in_range(found, 500, 4500);
}

static void what_may_meet(void **state)
{
    static const struct {
        struct dims shape, strides;
        int64_t offset;
        struct dims other_shape, other_strides;
        int64_t other_offset;
        bool meets, same;
    } rows[] = {
        {DIMS(4), DIMS(1), 0, DIMS(4), DIMS(1), 0, true, true},
        {DIMS(4), DIMS(1), 0, DIMS(4), DIMS(1), 1, true, false},
        {DIMS(4), DIMS(1), 0, DIMS(4), DIMS(1), 4, false, false},
        {DIMS(4), DIMS(1), 4, DIMS(4), DIMS(1), 0, false, false},
        {DIMS(4), DIMS(1), 0, DIMS(3), DIMS(1), 0, true, false},
        {DIMS(4), DIMS(2), 0, DIMS(4), DIMS(2), 1, true, false}, /* between one another */
        {DIMS(4), DIMS(2), 0, DIMS(4), DIMS(2), 7, false, false},
        {DIMS(4), DIMS(1), 0, DIMS(4), DIMS(-1), 3, true, false}, /* the other way */
        {DIMS(4), DIMS(1), 0, DIMS(4), DIMS(-1), 7, false, false},
        {DIMS(4), DIMS(-1), 7, DIMS(4), DIMS(1), 3, true, false},
        {DIMS(3, 3), DIMS(3, 1), 0, DIMS(3, 3), DIMS(1, 3), 0, true, false},
        {DIMS(3, 1), DIMS(3, 1), 0, DIMS(3, 1), DIMS(3, 9), 0, true, true},
        {DIMS(0, 4), DIMS(4, 1), 0, DIMS(4), DIMS(1), 0, false, false},
        {SCALAR, SCALAR, 5, DIMS(6), DIMS(1), 0, true, false},
        {SCALAR, SCALAR, 6, DIMS(6), DIMS(1), 0, false, false},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct layout a, b;
        assert_int_equal(layout_contiguous(TD_INT16, &rows[i].shape, &a), TD_OK);
        assert_int_equal(layout_contiguous(TD_INT16, &rows[i].other_shape, &b), TD_OK);
        memcpy(a.strides, rows[i].strides.v, sizeof a.strides);
        memcpy(b.strides, rows[i].other_strides.v, sizeof b.strides);
        a.offset_bytes = 2 * rows[i].offset;
        b.offset_bytes = 2 * rows[i].other_offset;
        assert_int_equal(layout_may_meet(&a, &b), rows[i].meets);
        assert_int_equal(layout_may_meet(&b, &a), rows[i].meets);
        assert_int_equal(layout_same_elements(&a, &b), rows[i].same);
        b.dtype = TD_FLOAT16;
        assert_false(layout_same_elements(&a, &b));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contiguous),
        cmocka_unit_test(contiguous_refused),
        cmocka_unit_test(strided),
        cmocka_unit_test(queries),
        cmocka_unit_test(shape_text),
        cmocka_unit_test(rows_merge),
        cmocka_unit_test(rows_visit_every_element_in_order),
        cmocka_unit_test(overlaps_are_found),
        cmocka_unit_test(what_may_meet),
    };
    return cmocka_run_group_tests_name("layout", tests, NULL, NULL);
}
