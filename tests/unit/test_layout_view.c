/* layout: every view with PyTorch 2.13's results and texts, and what must be refused. */
#include "tests/unit/layout_assert.h"

enum view { TRANSPOSE, PERMUTE, SQUEEZE, UNSQUEEZE, EXPAND, VIEW, SELECT, SLICE };

static const char *const view_names[] = {"transpose", "permute", "squeeze", "unsqueeze",
                                         "expand",    "view",    "select",  "slice"};

/* Squeeze takes no argument or a dimension; select a dimension and a position; slice a dimension,
 * start, stop and step. *possible is false only after a view that needs a copy. */
static enum td_status apply(enum view view, const struct layout *in, const struct dims *a,
                            bool *possible, struct layout *out)
{
    const int64_t *v = a->v;
    const struct index_item slice = {INDEX_SLICE, v[1], v[2], v[3]};
    *possible = true;
    switch (view) {
    case TRANSPOSE:
        return layout_transpose(in, v[0], v[1], out);
    case PERMUTE:
        return layout_permute(in, a, out);
    case SQUEEZE:
        return layout_squeeze(in, a->rank > 0, v[0], out);
    case UNSQUEEZE:
        return layout_unsqueeze(in, v[0], out);
    case EXPAND:
        return layout_expand(in, a, out);
    case VIEW:
        return layout_view(in, a, possible, out);
    case SELECT:
        return layout_select(in, v[0], v[1], out);
    case SLICE:
        return layout_slice(in, v[0], &slice, out);
    }
    return TD_INTERNAL;
}

static const struct {
    enum view view;
    struct dims shape, strides; /* the input's, at offset 2 */
    struct dims arguments;
    struct dims want_shape, want_strides;
    int64_t want_offset;
} good_views[] = {
    {TRANSPOSE, DIMS(3, 4), DIMS(4, 1), DIMS(0, 1), DIMS(4, 3), DIMS(1, 4), 2},
    {TRANSPOSE, DIMS(3, 4, 5), DIMS(20, 5, 1), DIMS(-1, 0), DIMS(5, 4, 3), DIMS(1, 5, 20), 2},
    {TRANSPOSE, DIMS(3, 4), DIMS(4, 1), DIMS(1, -1), DIMS(3, 4), DIMS(4, 1), 2},
    {TRANSPOSE, SCALAR, SCALAR, DIMS(-1, 0), SCALAR, SCALAR, 2},
    {PERMUTE, DIMS(3, 4), DIMS(4, 1), DIMS(-1, -2), DIMS(4, 3), DIMS(1, 4), 2},
    {PERMUTE, DIMS(2, 3, 4), DIMS(12, 4, 1), DIMS(2, 0, 1), DIMS(4, 2, 3), DIMS(1, 12, 4), 2},
    {PERMUTE, SCALAR, SCALAR, SCALAR, SCALAR, SCALAR, 2},
    {SQUEEZE, DIMS(1, 3, 1), DIMS(3, 1, 7), SCALAR, DIMS(3), DIMS(1), 2},
    {SQUEEZE, DIMS(1, 1), DIMS(3, 1), SCALAR, SCALAR, SCALAR, 2},
    {SQUEEZE, DIMS(1, 3, 1), DIMS(3, 1, 7), DIMS(-1), DIMS(1, 3), DIMS(3, 1), 2},
    {SQUEEZE, DIMS(1, 3, 1), DIMS(3, 1, 7), DIMS(1), DIMS(1, 3, 1), DIMS(3, 1, 7), 2},
    {SQUEEZE, SCALAR, SCALAR, DIMS(-1), SCALAR, SCALAR, 2},
    {UNSQUEEZE, DIMS(3, 4), DIMS(1, 3), DIMS(0), DIMS(1, 3, 4), DIMS(3, 1, 3), 2},
    {UNSQUEEZE, DIMS(3, 4), DIMS(1, 3), DIMS(1), DIMS(3, 1, 4), DIMS(1, 12, 3), 2},
    {UNSQUEEZE, DIMS(3, 4), DIMS(1, 3), DIMS(-1), DIMS(3, 4, 1), DIMS(1, 3, 1), 2},
    {UNSQUEEZE, SCALAR, SCALAR, DIMS(-1), DIMS(1), DIMS(1), 2},
    {UNSQUEEZE, DIMS(0, 3), DIMS(3, 1), DIMS(0), DIMS(1, 0, 3), DIMS(0, 3, 1), 2},
    {EXPAND, DIMS(3, 4), DIMS(4, 1), DIMS(2, 3, 4), DIMS(2, 3, 4), DIMS(0, 4, 1), 2},
    {EXPAND, DIMS(3, 4), DIMS(4, 1), DIMS(2, -1, -1), DIMS(2, 3, 4), DIMS(0, 4, 1), 2},
    {EXPAND, DIMS(1, 4), DIMS(4, 1), DIMS(5, 4), DIMS(5, 4), DIMS(0, 1), 2},
    {EXPAND, DIMS(1, 4), DIMS(4, 1), DIMS(0, 4), DIMS(0, 4), DIMS(0, 1), 2},
    {EXPAND, DIMS(3, 2), DIMS(1, 3), DIMS(1, 1, 3, 2), DIMS(1, 1, 3, 2), DIMS(3, 3, 1, 3), 2},
    {EXPAND, SCALAR, SCALAR, DIMS(3), DIMS(3), DIMS(0), 2},
    {EXPAND, SCALAR, SCALAR, DIMS(1, 1), DIMS(1, 1), DIMS(0, 0), 2},
    {EXPAND, SCALAR, SCALAR, SCALAR, SCALAR, SCALAR, 2},
    {EXPAND, DIMS(1), DIMS(1), DIMS(BIG), DIMS(BIG), DIMS(0), 2},
    {VIEW, DIMS(3, 4), DIMS(4, 1), DIMS(2, -1), DIMS(2, 6), DIMS(6, 1), 2},
    {VIEW, DIMS(3, 4), DIMS(4, 1), DIMS(12, 1, 1), DIMS(12, 1, 1), DIMS(1, 1, 1), 2},
    {VIEW, DIMS(4, 3), DIMS(1, 4), DIMS(2, 2, 3), DIMS(2, 2, 3), DIMS(2, 1, 4), 2},
    {VIEW, DIMS(2, 6), DIMS(12, 2), DIMS(2, 3, 2), DIMS(2, 3, 2), DIMS(12, 4, 2), 2},
    {VIEW, DIMS(3, 1, 4), DIMS(4, 77, 1), DIMS(12), DIMS(12), DIMS(1), 2},
    {VIEW, DIMS(2, 3), DIMS(0, 1), DIMS(2, 1, 3), DIMS(2, 1, 3), DIMS(0, 3, 1), 2},
    {VIEW, DIMS(1, 1), DIMS(70, 5), DIMS(1, 1, 1), DIMS(1, 1, 1), DIMS(5, 5, 5), 2},
    {VIEW, SCALAR, SCALAR, DIMS(1, -1), DIMS(1, 1), DIMS(1, 1), 2},
    {VIEW, DIMS(1), DIMS(9), SCALAR, SCALAR, SCALAR, 2},
    {VIEW, DIMS(4, 3, 0), DIMS(1, 4, 12), DIMS(4, 3, 0), DIMS(4, 3, 0), DIMS(1, 4, 12), 2},
    {VIEW, DIMS(4, 3, 0), DIMS(1, 4, 12), DIMS(0, 5), DIMS(0, 5), DIMS(5, 1), 2},
    {VIEW, DIMS(0, 3), DIMS(3, 1), DIMS(-1), DIMS(0), DIMS(1), 2},
    {SELECT, DIMS(3, 4), DIMS(4, 1), DIMS(0, 2), DIMS(4), DIMS(1), 10},
    {SELECT, DIMS(3, 4), DIMS(4, 1), DIMS(-1, -4), DIMS(3), DIMS(4), 2},
    {SELECT, DIMS(3), DIMS(0), DIMS(0, 2), SCALAR, SCALAR, 2},
    {SELECT, DIMS(3, 0), DIMS(9, 1), DIMS(0, 2), DIMS(0), DIMS(1), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, 1, 5, 2), DIMS(2), DIMS(6), 5},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, NONE, NONE, NONE), DIMS(5), DIMS(3), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, NONE, NONE, 2), DIMS(3), DIMS(6), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, -100, 100, 1), DIMS(5), DIMS(3), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, -2, NONE, 1), DIMS(2), DIMS(3), 11},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, NONE, -1, 1), DIMS(4), DIMS(3), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, 4, 2, 1), DIMS(0), DIMS(3), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, 5, NONE, 1), DIMS(0), DIMS(3), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, MAX, MAX, 1), DIMS(0), DIMS(3), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, MIN + 1, MAX, MAX), DIMS(1), DIMS(3), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, 1, MIN + 1, 1), DIMS(0), DIMS(3), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, NONE, NONE, 100), DIMS(1), DIMS(300), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, NONE, NONE, HUGE_SIZE / 16), DIMS(1), DIMS(3), 2},
    {SLICE, DIMS(5), DIMS(3), DIMS(0, NONE, NONE, HUGE_SIZE), DIMS(1), DIMS(3), 2},
    {SLICE, DIMS(2, 3), DIMS(3, 1), DIMS(-1, 1, 2, 1), DIMS(2, 1), DIMS(3, 1), 3},
};

static void views(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(good_views); i++) {
        struct layout in = make(&good_views[i].shape, &good_views[i].strides, 2);
        struct layout out;
        bool possible = false;
        assert_int_equal(apply(good_views[i].view, &in, &good_views[i].arguments, &possible, &out),
                         TD_OK);
        assert_true(possible);
        assert_layout(view_names[good_views[i].view], &out, &good_views[i].want_shape,
                      &good_views[i].want_strides, good_views[i].want_offset);
        assert_int_equal(out.dtype, TD_FLOAT32);
        assert_int_equal(apply(good_views[i].view, &in, &good_views[i].arguments, &possible, &in),
                         TD_OK);
        assert_layout("a view in place", &in, &good_views[i].want_shape,
                      &good_views[i].want_strides, good_views[i].want_offset);
    }
}

static void views_that_need_a_copy(void **state)
{
    static const struct {
        struct dims shape, strides, target;
    } rows[] = {
        {DIMS(4, 3), DIMS(1, 4), DIMS(12)},      {DIMS(4, 3), DIMS(1, 4), DIMS(3, 4)},
        {DIMS(2, 6), DIMS(12, 1), DIMS(3, 4)},   {DIMS(2, 3), DIMS(0, 1), DIMS(6)},
        {DIMS(2, 2), DIMS(3, 1), DIMS(-1)},      {DIMS(2, 3, 4), DIMS(12, 1, 3), DIMS(2, 12)},
        {DIMS(2, 3, 1), DIMS(6, 1, 1), DIMS(6)},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct layout in = make(&rows[i].shape, &rows[i].strides, 0);
        struct layout out;
        bool possible = true;
        fill(&out, sizeof out);
        assert_int_equal(layout_view(&in, &rows[i].target, &possible, &out), TD_OK);
        assert_false(possible);
        assert_filled(&out, sizeof out);
    }
}

#define OUT_OF_RANGE(low, high, got)                                                               \
    "Dimension out of range (expected to be in range of [" low ", " high "], but got " got ")"
#define MAX_TEXT "9223372036854775807"
#define MIN_TEXT "-9223372036854775808"
#define PERMUTE_TEXT(rank, count)                                                                  \
    "permute(sparse_coo): number of dimensions in the tensor input does not match the length of "  \
    "the desired ordering of dimensions i.e. input.dim() = " rank                                  \
    " is not equal to len(dims) = " count
#define EXPAND_TEXT(got, have, dim, target, sizes)                                                 \
    "The expanded size of the tensor (" got ") must match the existing size (" have                \
    ") at non-singleton dimension " dim ".  Target sizes: " target ".  Tensor sizes: " sizes
#define AMBIGUOUS(shape)                                                                           \
    "cannot reshape tensor of 0 elements into shape " shape                                        \
    " because the unspecified dimension size -1 can be any value and is ambiguous"

static const struct {
    enum view view;
    struct dims shape; /* the input's, contiguous */
    struct dims arguments;
    enum td_status status;
    const char *text;
} bad_views[] = {
    {TRANSPOSE, DIMS(3, 4), DIMS(0, 2), TD_BAD_INDEX, OUT_OF_RANGE("-2", "1", "2")},
    {TRANSPOSE, DIMS(3, 4), DIMS(-3, 0), TD_BAD_INDEX, OUT_OF_RANGE("-2", "1", "-3")},
    {TRANSPOSE, SCALAR, DIMS(1, 0), TD_BAD_INDEX, OUT_OF_RANGE("-1", "0", "1")},
    {TRANSPOSE, DIMS(3, 4), DIMS(MIN, 0), TD_BAD_INDEX, OUT_OF_RANGE("-2", "1", MIN_TEXT)},
    {PERMUTE, DIMS(3, 4), DIMS(0), TD_BAD_SHAPE, PERMUTE_TEXT("2", "1")},
    {PERMUTE, DIMS(3, 4), DIMS(0, 0, 9), TD_BAD_SHAPE, PERMUTE_TEXT("2", "3")},
    {PERMUTE, DIMS(3, 4), {33, {0}}, TD_BAD_SHAPE, PERMUTE_TEXT("2", "33")},
    {PERMUTE, SCALAR, DIMS(0), TD_BAD_SHAPE, PERMUTE_TEXT("0", "1")},
    {PERMUTE, SCALAR, {-1, {0}}, TD_BAD_SHAPE, PERMUTE_TEXT("0", "-1")},
    {PERMUTE, DIMS(3, 4), DIMS(1, -1), TD_BAD_SHAPE, "permute(): duplicate dims are not allowed."},
    {PERMUTE, DIMS(3, 4), DIMS(0, MAX), TD_BAD_INDEX, OUT_OF_RANGE("-2", "1", MAX_TEXT)},
    {SQUEEZE, DIMS(3, 4), DIMS(2), TD_BAD_INDEX, OUT_OF_RANGE("-2", "1", "2")},
    {SQUEEZE, SCALAR, DIMS(1), TD_BAD_INDEX, OUT_OF_RANGE("-1", "0", "1")},
    {UNSQUEEZE, DIMS(3, 4), DIMS(3), TD_BAD_INDEX, OUT_OF_RANGE("-3", "2", "3")},
    {UNSQUEEZE, DIMS(3, 4), DIMS(-4), TD_BAD_INDEX, OUT_OF_RANGE("-3", "2", "-4")},
    {UNSQUEEZE, DIMS(3, 4), DIMS(MAX), TD_BAD_INDEX, OUT_OF_RANGE("-3", "2", MAX_TEXT)},
    {UNSQUEEZE, SCALAR, DIMS(1), TD_BAD_INDEX, OUT_OF_RANGE("-1", "0", "1")},
    {EXPAND, DIMS(3, 4), DIMS(4), TD_BAD_SHAPE,
     "expand(torch.float32{[3, 4]}, size=[4]): the number of sizes provided (1) must be "
     "greater or equal to the number of dimensions in the tensor (2)"},
    {EXPAND, DIMS(3, 4), {33, {0}}, TD_BAD_SHAPE, "a tensor has 0 to 32 dimensions, not 33"},
    {EXPAND, SCALAR, {-1, {0}}, TD_BAD_SHAPE, "a tensor has 0 to 32 dimensions, not -1"},
    {EXPAND, DIMS(2, 3), DIMS(2, 4), TD_BAD_SHAPE, EXPAND_TEXT("4", "3", "1", "[2, 4]", "[2, 3]")},
    {EXPAND, DIMS(0, 4), DIMS(1, 4), TD_BAD_SHAPE, EXPAND_TEXT("1", "0", "0", "[1, 4]", "[0, 4]")},
    {EXPAND, DIMS(3, 4), DIMS(5, 3, -2), TD_BAD_SHAPE,
     EXPAND_TEXT("-2", "4", "2", "[5, 3, -2]", "[3, 4]")},
    {EXPAND, DIMS(3, 4), DIMS(-1, 3, 4), TD_BAD_SHAPE,
     "The expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension "
     "0"},
    {EXPAND, SCALAR, DIMS(-1), TD_BAD_SHAPE, "The expanded size of the tensor (-1) isn't ..."},
    {EXPAND, DIMS(1), DIMS(MIN), TD_BAD_SHAPE,
     "invalid shape dimension " MIN_TEXT " at index 0 of shape [" MIN_TEXT "]"},
    {EXPAND, DIMS(1), DIMS(-2, 1), TD_BAD_SHAPE,
     "invalid shape dimension -2 at index 0 of shape [-2, 1]"},
    {EXPAND, DIMS(1), DIMS(BIG, BIG), TD_BAD_SHAPE,
     "Storage size calculation overflowed with sizes=[1099511627776, 1099511627776]"},
    {EXPAND, DIMS(1), DIMS(0, MAX), TD_BAD_SHAPE, "Storage size calculation overflowed ..."},
    {VIEW, DIMS(3), DIMS(2, 2), TD_BAD_SHAPE, "shape '[2, 2]' is invalid for input of size 3"},
    {VIEW, DIMS(3, 4), SCALAR, TD_BAD_SHAPE, "shape '[]' is invalid for input of size 12"},
    {VIEW, DIMS(3, 4), DIMS(-1, 5), TD_BAD_SHAPE,
     "shape '[-1, 5]' is invalid for input of size 12"},
    {VIEW, DIMS(3, 4), DIMS(-1, 0), TD_BAD_SHAPE,
     "shape '[-1, 0]' is invalid for input of size 12"},
    {VIEW, DIMS(3, 4), DIMS(-1, -1), TD_BAD_SHAPE, "only one dimension can be inferred"},
    {VIEW, DIMS(3, 4), DIMS(-1, -2), TD_BAD_SHAPE,
     "invalid shape dimension -2 at index 1 of shape [-1, -2]"},
    {VIEW, DIMS(3, 4), {33, {1}}, TD_BAD_SHAPE, "a tensor has 0 to 32 dimensions, not 33"},
    {VIEW, DIMS(3, 4), {-1, {1}}, TD_BAD_SHAPE, "a tensor has 0 to 32 dimensions, not -1"},
    {VIEW, DIMS(0, 3), DIMS(-1, 0), TD_BAD_SHAPE, AMBIGUOUS("[-1, 0]")},
    {VIEW, DIMS(0, 3), DIMS(3), TD_BAD_SHAPE, "shape '[3]' is invalid for input of size 0"},
    {VIEW, DIMS(3, 4), DIMS(HUGE_SIZE, 4, 12), TD_BAD_SHAPE,
     "shape '[4611686018427387904, 4, 12]' is invalid for input of size 12; ..."},
    {VIEW, DIMS(0, 3), DIMS(BIG, BIG, 0), TD_BAD_SHAPE,
     "shape '[1099511627776, 1099511627776, 0]' is invalid for input of size 0; ..."},
    {VIEW, DIMS(0, 3), DIMS(0, MAX), TD_BAD_SHAPE, "shape '[0, " MAX_TEXT "]' is invalid ..."},
    {SELECT, DIMS(3, 4), DIMS(0, 3), TD_BAD_INDEX,
     "select(): index 3 out of range for tensor of size [3, 4] at dimension 0"},
    {SELECT, DIMS(3, 4), DIMS(-1, -5), TD_BAD_INDEX,
     "select(): index -5 out of range for tensor of size [3, 4] at dimension 1"},
    {SELECT, DIMS(3, 4), DIMS(0, MIN), TD_BAD_INDEX, "select(): index " MIN_TEXT " out ..."},
    {SELECT, DIMS(0, 4), DIMS(0, 0), TD_BAD_INDEX,
     "select(): index 0 out of range for tensor of size [0, 4] at dimension 0"},
    {SELECT, DIMS(3, 4), DIMS(2, 9), TD_BAD_INDEX, OUT_OF_RANGE("-2", "1", "2")},
    {SELECT, SCALAR, DIMS(0, 0), TD_BAD_INDEX, "select() cannot be applied to a 0-dim tensor."},
    {SLICE, SCALAR, DIMS(0, 0, 1, 1), TD_BAD_INDEX, "slice() cannot be applied to a 0-dim tensor."},
    {SLICE, DIMS(3, 4), DIMS(2, 0, 1, 0), TD_BAD_INDEX, OUT_OF_RANGE("-2", "1", "2")},
    {SLICE, DIMS(3, 4), DIMS(0, 0, 1, 0), TD_BAD_INDEX, "slice step cannot be zero"},
};

static void views_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_views); i++) {
        struct layout in, out;
        bool possible;
        assert_int_equal(layout_contiguous(TD_FLOAT32, &bad_views[i].shape, &in), TD_OK);
        fill(&out, sizeof out);
        assert_failure(apply(bad_views[i].view, &in, &bad_views[i].arguments, &possible, &out),
                       bad_views[i].status, bad_views[i].text);
        assert_filled(&out, sizeof out);
    }
}

static void rank_at_its_limit(void **state)
{
    struct dims shape = {.rank = RANK_MAX};
    struct layout in, out;
    struct index index = {2, {{INDEX_INTEGER, 0, 0, 0}, {INDEX_NEW_AXIS, 0, 0, 0}}};
    (void)state;
    for (int d = 0; d < RANK_MAX; d++)
        shape.v[d] = 1;
    assert_int_equal(layout_contiguous(TD_FLOAT32, &shape, &in), TD_OK);
    fill(&out, sizeof out);
    assert_failure(layout_unsqueeze(&in, 0, &out), TD_BAD_SHAPE,
                   "a tensor has 0 to 32 dimensions, not 33");
    assert_filled(&out, sizeof out);
    in.rank = 0;
    assert_int_equal(layout_expand(&in, &shape, &out), TD_OK);
    assert_int_equal(out.rank, RANK_MAX);
    in.rank = RANK_MAX;
    /* A new axis may take the place of an integer, in either order. */
    assert_int_equal(layout_index(&in, &index, &out), TD_OK);
    assert_int_equal(out.rank, RANK_MAX);
    index.items[0].kind = INDEX_NEW_AXIS;
    index.items[1].kind = INDEX_INTEGER;
    assert_int_equal(layout_index(&in, &index, &out), TD_OK);
    assert_int_equal(out.rank, RANK_MAX);
    index.items[1].kind = INDEX_ELLIPSIS;
    assert_failure(layout_index(&in, &index, &out), TD_BAD_SHAPE,
                   "a tensor has 0 to 32 dimensions, not 33");
}

/* -- indices -- */

/* clang-format off */
#define I(position) {INDEX_INTEGER, position, 0, 0}
#define S(start, stop, step) {INDEX_SLICE, start, stop, step}
#define ALL {INDEX_SLICE, NONE, NONE, NONE}
#define ELLIPSIS {INDEX_ELLIPSIS, 0, 0, 0}
#define AXIS {INDEX_NEW_AXIS, 0, 0, 0}
/* clang-format on */

static const struct {
    struct dims shape; /* contiguous */
    struct index index;
    struct dims want_shape, want_strides;
    int64_t want_offset;
} good_indices[] = {
    {DIMS(3, 4), {0, {I(0)}}, DIMS(3, 4), DIMS(4, 1), 0},
    {DIMS(3, 4), {1, {I(1)}}, DIMS(4), DIMS(1), 4},
    {DIMS(3, 4), {2, {I(-1), I(-4)}}, SCALAR, SCALAR, 8},
    {DIMS(3, 4), {3, {I(0), I(0), ELLIPSIS}}, SCALAR, SCALAR, 0},
    {DIMS(3, 4), {2, {ELLIPSIS, I(1)}}, DIMS(3), DIMS(4), 1},
    {DIMS(3, 4), {2, {ALL, S(1, 4, 2)}}, DIMS(3, 2), DIMS(4, 2), 1},
    {DIMS(3, 4), {2, {S(1, 3, 2), ALL}}, DIMS(1, 4), DIMS(8, 1), 4},
    {DIMS(3, 4), {1, {AXIS}}, DIMS(1, 3, 4), DIMS(12, 4, 1), 0},
    {DIMS(3, 4), {2, {AXIS, S(1, 2, 1)}}, DIMS(1, 1, 4), DIMS(12, 4, 1), 4},
    {DIMS(3, 4), {3, {AXIS, ELLIPSIS, AXIS}}, DIMS(1, 3, 4, 1), DIMS(12, 4, 1, 1), 0},
    {DIMS(3, 4), {3, {I(2), AXIS, S(1, NONE, 1)}}, DIMS(1, 3), DIMS(4, 1), 9},
    {DIMS(2, 3, 4), {3, {I(1), ELLIPSIS, I(3)}}, DIMS(3), DIMS(4), 15},
    {DIMS(2, 3, 4), {2, {ELLIPSIS, ALL}}, DIMS(2, 3, 4), DIMS(12, 4, 1), 0},
    {DIMS(3, 4), {2, {S(3, NONE, 1), S(4, NONE, 1)}}, DIMS(0, 0), DIMS(4, 1), 0},
    {DIMS(3, 4), {2, {I(2), S(9, NONE, 1)}}, DIMS(0), DIMS(1), 0},
    {DIMS(3, 4), {1, {S(NONE, NONE, -1)}}, DIMS(3, 4), DIMS(-4, 1), 8},
    {DIMS(3, 4), {2, {ALL, S(NONE, NONE, -2)}}, DIMS(3, 2), DIMS(4, -2), 3},
    {DIMS(3, 4), {2, {ALL, S(2, 0, -1)}}, DIMS(3, 2), DIMS(4, -1), 2},
    {DIMS(3, 4), {2, {ALL, S(MAX, -MAX, -1)}}, DIMS(3, 4), DIMS(4, -1), 3},
    {DIMS(3, 4), {2, {S(-1, -3, -1), S(-2, NONE, -2)}}, DIMS(2, 2), DIMS(-4, -2), 10},
    /* Nobody steps along these: the stride stays. */
    {DIMS(3, 4), {2, {ALL, S(NONE, NONE, -MAX)}}, DIMS(3, 1), DIMS(4, 1), 3},
    {DIMS(3, 4), {2, {ALL, S(1, 2, -1)}}, DIMS(3, 0), DIMS(4, 1), 0},
    {DIMS(0, 4), {1, {S(NONE, NONE, -1)}}, DIMS(0, 4), DIMS(4, 1), 0},
    {SCALAR, {1, {ELLIPSIS}}, SCALAR, SCALAR, 0},
    {SCALAR, {2, {AXIS, AXIS}}, DIMS(1, 1), DIMS(1, 1), 0},
};

static void indices(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(good_indices); i++) {
        struct layout layout;
        assert_int_equal(layout_contiguous(TD_FLOAT32, &good_indices[i].shape, &layout), TD_OK);
        assert_int_equal(layout_index(&layout, &good_indices[i].index, &layout), TD_OK);
        assert_layout("an index", &layout, &good_indices[i].want_shape,
                      &good_indices[i].want_strides, good_indices[i].want_offset);
    }
}

static const struct {
    struct dims shape;
    struct index index;
    const char *text;
} bad_indices[] = {
    {DIMS(3, 4), {1, {I(5)}}, "index 5 is out of bounds for dimension 0 with size 3"},
    {DIMS(3, 4), {2, {I(0), I(-5)}}, "index -5 is out of bounds for dimension 1 with size 4"},
    {DIMS(0, 4), {1, {I(0)}}, "index 0 is out of bounds for dimension 0 with size 0"},
    {DIMS(3, 4), {1, {I(MIN)}}, "index " MIN_TEXT " is out of bounds for dimension 0 ..."},
    {DIMS(3, 4), {1, {I(MAX)}}, "index " MAX_TEXT " is out of bounds for dimension 0 ..."},
    {DIMS(2, 3, 4), {2, {ELLIPSIS, I(7)}}, "index 7 is out of bounds for dimension 2 with size 4"},
    {DIMS(2, 3), {2, {AXIS, I(7)}}, "index 7 is out of bounds for dimension 0 with size 2"},
    {DIMS(3, 4), {3, {I(0), I(0), I(0)}}, "too many indices for tensor of dimension 2"},
    {DIMS(3, 4), {3, {I(9), ALL, ALL}}, "too many indices for tensor of dimension 2"},
    {SCALAR, {2, {I(0), AXIS}}, "too many indices for tensor of dimension 0"},
    {SCALAR, {1, {I(0)}}, "invalid index of a 0-dim tensor. Use `tensor.item()` in Python ..."},
    {SCALAR, {1, {ALL}}, "slice() cannot be applied to a 0-dim tensor."},
    {DIMS(3, 4), {1, {S(NONE, NONE, 0)}}, "slice step cannot be zero"},
    {DIMS(3, 4), {2, {I(9), S(NONE, NONE, 0)}}, "index 9 is out of bounds for dimension 0 ..."},
    {DIMS(3, 4), {2, {ELLIPSIS, ELLIPSIS}}, "an index can only have a single ellipsis ('...')"},
    {DIMS(3, 4), {65, {I(0)}}, "an index has 0 to 64 items, not 65"},
    {DIMS(3, 4), {-1, {I(0)}}, "an index has 0 to 64 items, not -1"},
    {DIMS(3, 4), {INT32_MAX, {I(0)}}, "an index has 0 to 64 items, not 2147483647"},
    {DIMS(3, 4),
     {2, {I(0), {(enum index_kind)4, 0, 0, 0}}},
     "item 1 of the index is of the unknown kind 4"},
};

static void indices_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_indices); i++) {
        struct layout in, out;
        assert_int_equal(layout_contiguous(TD_FLOAT32, &bad_indices[i].shape, &in), TD_OK);
        fill(&out, sizeof out);
        assert_failure(layout_index(&in, &bad_indices[i].index, &out), TD_BAD_INDEX,
                       bad_indices[i].text);
        assert_filled(&out, sizeof out);
    }
}

static void all_new_axes(void **state)
{
    struct index index = {.count = INDEX_MAX};
    struct dims shape = DIMS(3);
    struct layout layout;
    (void)state;
    for (int i = 0; i < INDEX_MAX; i++)
        index.items[i].kind = INDEX_NEW_AXIS;
    assert_int_equal(layout_contiguous(TD_FLOAT32, &shape, &layout), TD_OK);
    assert_failure(layout_index(&layout, &index, &layout), TD_BAD_SHAPE,
                   "a tensor has 0 to 32 dimensions, not 65");
    index.count = RANK_MAX - 1;
    assert_int_equal(layout_index(&layout, &index, &layout), TD_OK);
    assert_int_equal(layout.rank, RANK_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views),         cmocka_unit_test(views_that_need_a_copy),
        cmocka_unit_test(views_refused), cmocka_unit_test(rank_at_its_limit),
        cmocka_unit_test(indices),       cmocka_unit_test(indices_refused),
        cmocka_unit_test(all_new_axes),
    };
    return cmocka_run_group_tests_name("layout_view", tests, NULL, NULL);
}
