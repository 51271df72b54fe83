/* json_values: nested lists of any shape, whole and in pieces. */
#include "core_assert.h"
#include "proto/format/json_tensor.h"

#include <stdlib.h>

#define TEXT_SIZE ((size_t)1 << 20)

static struct dims shape_of(int rank, const int64_t *sizes)
{
    struct dims shape = {.rank = rank};
    for (int d = 0; d < rank; d++)
        shape.v[d] = sizes[d];
    return shape;
}

#define SHAPE(...) shape_of((int)COUNT(((int64_t[]){__VA_ARGS__})), (const int64_t[]){__VA_ARGS__})

/* Writes a tensor whole, `portion` elements and `room` bytes a call; every call makes progress, and
 * keeps within its bounds. The text stays with the caller. */
static size_t write_all(enum td_dtype dtype, const struct dims *shape, const void *elements,
                        size_t portion, size_t room, char *text)
{
    struct json_values values;
    int64_t total;
    assert_true(dims_count(shape, dtype, &total));
    size_t left = (size_t)total, length = 0, used;
    const unsigned char *at = elements;
    char *piece = malloc(room); /* of exactly this size, for the sanitizer */
    json_values_begin(&values, dtype, shape);
    for (int calls = 0; !values.ended; calls++) {
        assert_true(calls < 100000);
        size_t count = left < portion ? left : portion;
        size_t written = json_values_write(&values, at, count, piece, room, &used);
        assert_true(written <= room && used <= count && (used > 0 || total == 0));
        assert_true(length + written < TEXT_SIZE);
        memcpy(text + length, piece, written);
        length += written;
        at += used * td_dtype_size((int)dtype);
        left -= used;
    }
    assert_int_equal(left, 0);
    assert_int_equal(values.open, 0);
    /* After the end nothing more comes. */
    assert_int_equal(json_values_write(&values, NULL, 0, piece, room, &used), 0);
    assert_int_equal(used, 0);
    free(piece);
    text[length] = '\0';
    return length;
}

static void expect(enum td_dtype dtype, struct dims shape, const void *elements, const char *want)
{
    static char text[TEXT_SIZE];
    size_t portions[] = {1, 2, 5, SIZE_MAX};
    for (size_t i = 0; i < COUNT(portions); i++) {
        write_all(dtype, &shape, elements, portions[i], 256, text);
        assert_string_equal(text, want);
    }
    write_all(dtype, &shape, elements, SIZE_MAX, TEXT_SIZE, text);
    assert_string_equal(text, want);
}

static void test_shapes(void **state)
{
    (void)state;
    int32_t v[] = {1, -2, 3, 4, 5, 2147483647, 7, 8};
    expect(TD_INT32, SHAPE(3), v, "[1,-2,3]");
    expect(TD_INT32, SHAPE(1), v, "[1]");
    expect(TD_INT32, SHAPE(2, 3), v, "[[1,-2,3],[4,5,2147483647]]");
    expect(TD_INT32, SHAPE(3, 1), v, "[[1],[-2],[3]]");
    expect(TD_INT32, SHAPE(1, 1, 1), v, "[[[1]]]");
    expect(TD_INT32, SHAPE(2, 2, 2), v, "[[[1,-2],[3,4]],[[5,2147483647],[7,8]]]");
    struct dims scalar = {.rank = 0};
    expect(TD_INT32, scalar, v + 1, "-2");
}

static void test_no_elements(void **state)
{
    (void)state;
    expect(TD_FLOAT32, SHAPE(0), NULL, "[]");
    expect(TD_FLOAT32, SHAPE(0, 3), NULL, "[]");
    expect(TD_FLOAT32, SHAPE(2, 0), NULL, "[[],[]]");
    expect(TD_FLOAT32, SHAPE(2, 0, 5), NULL, "[[],[]]");
    expect(TD_FLOAT32, SHAPE(2, 3, 0), NULL, "[[[],[],[]],[[],[],[]]]");
}

static void test_many_empty_lists(void **state)
{
    (void)state;
    static char text[TEXT_SIZE];
    struct dims shape = SHAPE(1000, 0);
    assert_int_equal(write_all(TD_INT8, &shape, NULL, 1, 256, text), 3001);
    assert_memory_equal(text, "[[],[],", 7);
    assert_string_equal(text + 3001 - 7, ",[],[]]");
}

static void test_dtypes(void **state)
{
    (void)state;
    expect(TD_BOOL, SHAPE(3), (uint8_t[]){0, 1, 2}, "[false,true,true]");
    expect(TD_FLOAT64, SHAPE(2), (double[]){0.1, -1e300}, "[0.1,-1e+300]");
    expect(TD_FLOAT16, SHAPE(2), (uint16_t[]){0x2E66, 0xFC00}, "[0.1,\"-Infinity\"]");
    expect(TD_COMPLEX64, SHAPE(2, 1), (float[]){1, -2, 0.1f, 0}, "[[[1.0,-2.0]],[[0.1,0.0]]]");
    struct dims scalar = {.rank = 0};
    expect(TD_COMPLEX128, scalar, (double[]){0.5, -0.0}, "[0.5,-0.0]");
    expect(TD_UINT64, scalar, &(uint64_t){UINT64_MAX}, "18446744073709551615");
}

/* The deepest nesting, and the longest elements, in the smallest room. */
static void test_deepest(void **state)
{
    (void)state;
    static char text[TEXT_SIZE], want[TEXT_SIZE];
    struct dims shape = {.rank = RANK_MAX};
    for (int d = 0; d < RANK_MAX; d++)
        shape.v[d] = 1;
    shape.v[0] = 3;
    double longest = -2.2250738585072014e-308, v[6];
    for (size_t i = 0; i < COUNT(v); i++)
        v[i] = longest;
    char *at = want;
    *at++ = '[';
    for (int i = 0; i < 3; i++) {
        memset(at, '[', RANK_MAX - 1);
        at += RANK_MAX - 1;
        at += sprintf(at, "[-2.2250738585072014e-308,-2.2250738585072014e-308]");
        memset(at, ']', RANK_MAX - 1);
        at += RANK_MAX - 1;
        *at++ = i < 2 ? ',' : ']';
    }
    *at = '\0';
    write_all(TD_COMPLEX128, &shape, v, 3, 256, text);
    assert_string_equal(text, want);
    write_all(TD_COMPLEX128, &shape, v, 1, 1000, text);
    assert_string_equal(text, want);
}

/* Every way of cutting gives the same text. */
static void test_pieces(void **state)
{
    (void)state;
    static char whole[TEXT_SIZE], text[TEXT_SIZE];
    static int64_t v[7 * 11 * 13];
    for (size_t i = 0; i < COUNT(v); i++)
        v[i] = (int64_t)(i * i * i * 977) * (i % 2 ? 1 : -1);
    struct dims shape = SHAPE(7, 11, 13);
    size_t length = write_all(TD_INT64, &shape, v, SIZE_MAX, TEXT_SIZE, whole);
    assert_memory_equal(whole, "[[[0,977,-7816,", 15);
    for (size_t portion = 1; portion < 40; portion += 3)
        for (size_t room = 256; room < 700; room += 37) {
            assert_int_equal(write_all(TD_INT64, &shape, v, portion, room, text), length);
            assert_memory_equal(text, whole, length);
        }
}

/* More elements than the shape has are left alone. */
static void test_too_many(void **state)
{
    (void)state;
    struct json_values values;
    struct dims shape = SHAPE(2);
    char out[256];
    size_t used;
    json_values_begin(&values, TD_UINT8, &shape);
    assert_int_equal(json_values_write(&values, "\1\2\3", 3, out, sizeof out, &used), 5);
    assert_memory_equal(out, "[1,2]", 5);
    assert_int_equal(used, 2);
    assert_true(values.ended);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),           cmocka_unit_test(test_no_elements),
        cmocka_unit_test(test_many_empty_lists), cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_deepest),          cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_too_many),
    };
    return cmocka_run_group_tests_name("json_values", tests, NULL, NULL);
}
