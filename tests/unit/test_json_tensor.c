/* json_tensor, reading: what documents become, in whatever pieces they come, and the limits. */
#include "tests/unit/json_reading.h"

/* ---- tensors --------------------------------------------------------------------------------- */

static const struct document known[] = {
    {TD_FLOAT32, "2,2", "[[1,2.5],[-3e1,4]]", "float32 [2, 2]: 1 2.5 -30 4"},
    {TD_FLOAT32, "2,2", " [ [ 1 , 2.5 ]\n,\t[ -3e1 , 4 ] ]\r\n ", "float32 [2, 2]: 1 2.5 -30 4"},
    {TD_FLOAT64, "", "0.1", "float64 []: 0.10000000000000001"},
    {TD_FLOAT64, "", " -12.5e-1 ", "float64 []: -1.25"},
    {TD_FLOAT64, "1", "[5]", "float64 [1]: 5"},
    {TD_INT64, "3", "[-9223372036854775808,0,9223372036854775807]",
     "int64 [3]: -9223372036854775808 0 9223372036854775807"},
    {TD_UINT64, "2", "[18446744073709551615,1e3]", "uint64 [2]: 18446744073709551615 1000"},
    {TD_UINT8, "2", "[2.0,true]", "uint8 [2]: 2 1"},
    {TD_BOOL, "4", "[true,false,1,0]", "bool [4]: true false true false"},
    {TD_BOOL, "", "true", "bool []: true"},
    {TD_FLOAT32, "3", "[\"NaN\",\"Infinity\",\"-Infinity\"]", "float32 [3]: nan inf -inf"},
    {TD_FLOAT32, "", "\"NaN\"", "float32 []: nan"},
    {TD_FLOAT16, "2", "[0.1,-0.0]", "float16 [2]: 0.0999755859375 -0"},
    {TD_BFLOAT16, "1,1,1", "[[[3.140625]]]", "bfloat16 [1, 1, 1]: 3.140625"},
    {TD_FLOAT8_E4M3FN, "2", "[448,0.001953125]", "float8_e4m3fn [2]: 448 0.001953125"},
    /* Nothing below a size of 0 can be seen. */
    {TD_FLOAT32, "0", "[]", "float32 [0]:"},
    {TD_FLOAT32, "0,3", "[]", "float32 [0, 3]:"},
    {TD_FLOAT32, "2,0", "[[],[]]", "float32 [2, 0]:"},
    {TD_FLOAT32, "2,0,5", "[[],[]]", "float32 [2, 0, 5]:"},
    {TD_FLOAT32, "0", "{\"data\":[]}", "float32 [0]:"},
    /* Complex numbers are pairs, or real. */
    {TD_COMPLEX64, "2", "[[1,2],[-0.5,1e1]]", "complex64 [2]: 1+2i -0.5+10i"},
    {TD_COMPLEX64, "3", "[1,[2, 3] ,\"NaN\"]", "complex64 [3]: 1+0i 2+3i nan+0i"},
    {TD_COMPLEX128, "", "[0.1,\"-Infinity\"]", "complex128 []: 0.10000000000000001-infi"},
    {TD_COMPLEX128, "", "7", "complex128 []: 7+0i"},
    {TD_COMPLEX64, "1,2", "[[1,2]]", "complex64 [1, 2]: 1+0i 2+0i"},
    {TD_COMPLEX64, "0", "[]", "complex64 [0]:"},
};

static const struct document objects[] = {
    {0, NULL, "{\"dtype\":\"float32\",\"shape\":[2,2],\"data\":[[1,2.5],[3,4]]}",
     "float32 [2, 2]: 1 2.5 3 4"},
    {0, NULL, "{\"dtype\":\"<i2\",\"shape\":[],\"data\":5}", "int16 []: 5"},
    {0, NULL, " { \"shape\" : [ 2 ] , \"dtype\" : \"int8\" , \"data\" : [ 1 , 2 ] } ",
     "int8 [2]: 1 2"},
    {TD_INT8, "2", "{\"data\":[1,2],\"requires_grad\":false}", "int8 [2]: 1 2"},
    {TD_INT8, "2", "{\"dtype\":\"int8\",\"data\":[1,2],\"shape\":[2]}", "int8 [2]: 1 2"},
    {TD_INT8, "2", "{\"data\":[1,2]}", "int8 [2]: 1 2"},
    {TD_INT8, NULL, "{\"shape\":[2],\"data\":[1,2]}", "int8 [2]: 1 2"},
    {0, "2", "{\"dtype\":\"int8\",\"data\":[1,2]}", "int8 [2]: 1 2"},
    {0, NULL, "{\"dtype\":\"int8\",\"shape\":[1],\"dtype2\":null,\"data\":[1]}",
     "invalid: there is no field 'dtype2'; GET /openapi.json lists them"},
    {0, NULL,
     "{\"name\":\"\\u0064ata\",\"\\u0073hape\":[1],\"dtype\":\"int8\",\"\\u0064\\u0061t\\u0061\":"
     "[1]}",
     "int8 [1]: 1"},
    {0, NULL,
     "{\"name\":\"\\\"data\\\":[9]\",\"dtype\":\"int8\",\"shape\":[1],\"data\":[1],\"mode\":"
     "\"]}\\\\\"}",
     "int8 [1]: 1"},
    {0, NULL, "{\"dtype\":null,\"data\":[1]}", "int64 [1]: 1"},
};

static const struct document inferred[] = {
    {0, NULL, "[[1,2],[3,4]]", "int64 [2, 2]: 1 2 3 4"},
    {0, NULL, "[1,2.0]", "float32 [2]: 1 2"},
    {0, NULL, "[1,1e0]", "float32 [2]: 1 1"},
    {0, NULL, "[1,\"NaN\"]", "float32 [2]: 1 nan"},
    {0, NULL, "[true,false]", "bool [2]: true false"},
    {0, NULL, "[true,2]", "int64 [2]: 1 2"},
    {0, NULL, "[true,2.5]", "float32 [2]: 1 2.5"},
    {0, NULL, "-0", "int64 []: 0"},
    {0, NULL, " 3.5 ", "float32 []: 3.5"},
    {0, NULL, "true", "bool []: true"},
    {0, NULL, "\"Infinity\"", "float32 []: inf"},
    {0, NULL, "[]", "float32 [0]:"},
    {0, NULL, "[[],[]]", "float32 [2, 0]:"},
    {0, NULL, "[[[]]]", "float32 [1, 1, 0]:"},
    {0, NULL, "[[[1],[2]],[[3],[4]],[[5],[6]]]", "int64 [3, 2, 1]: 1 2 3 4 5 6"},
    {TD_UINT8, NULL, "[[1,2],[3,4]]", "uint8 [2, 2]: 1 2 3 4"},
    {TD_INT8, NULL, "[]", "int8 [0]:"},
    {0, "2", "[1,2]", "int64 [2]: 1 2"},
    {0, "0,3", "[]", "float32 [0, 3]:"},
    {0, "2,1", "{\"data\":[[1],[2.5]]}", "float32 [2, 1]: 1 2.5"},
    {0, NULL, "{\"data\":[1,2],\"shape\":[2],\"dtype\":\"float64\"}", "float64 [2]: 1 2"},
    {0, NULL, "{\"data\":[1,2],\"dtype\":\"float64\"}", "float64 [2]: 1 2"},
    {0, NULL, "{ \"data\" : 5 , \"shape\" : [] } ", "int64 []: 5"},
    {0, NULL, "{\"data\":5}", "int64 []: 5"},
    {0, NULL, "{\"data\":true,\"name\":\"x\"}", "bool []: true"},
    {0, NULL, "{\"shape\":[2],\"data\":[\"NaN\",1]}", "float32 [2]: nan 1"},
    /* Without a shape the deepest lists are the pairs of complex numbers. */
    {TD_COMPLEX64, NULL, "[[1,2],[3,4]]", "complex64 [2]: 1+2i 3+4i"},
    {TD_COMPLEX64, NULL, "[1,2]", "complex64 []: 1+2i"},
    {TD_COMPLEX64, NULL, "3", "complex64 []: 3+0i"},
    {TD_COMPLEX64, NULL, "[3,[1,2]]", "complex64 [2]: 3+0i 1+2i"},
    {TD_COMPLEX64, NULL, "[]", "complex64 [0]:"},
    {TD_COMPLEX64, NULL, "[[],[]]", "complex64 [2, 0]:"},
    {0, NULL, "{\"data\":[[1,2],[3,4]],\"dtype\":\"complex64\"}", "complex64 [2]: 1+2i 3+4i"},
    {0, NULL, "{\"data\":[[1,2]],\"dtype\":\"complex64\",\"shape\":[1,2]}",
     "complex64 [1, 2]: 1+0i 2+0i"},
};

static void known_tensors(void **state)
{
    (void)state;
    check_all(known, COUNT(known));
}

static void tensors_as_objects(void **state)
{
    (void)state;
    check_all(objects, COUNT(objects));
}

static void inferred_tensors(void **state)
{
    (void)state;
    check_all(inferred, COUNT(inferred));
}

/* ---- limits ---------------------------------------------------------------------------------- */

static char *repeated(const char *before, const char *unit, size_t times, const char *after)
{
    size_t length = strlen(before) + times * strlen(unit) + strlen(after) + 1, at;
    char *text = malloc(length);
    at = (size_t)snprintf(text, length, "%s", before);
    for (size_t i = 0; i < times; i++)
        at += (size_t)snprintf(text + at, length - at, "%s", unit);
    snprintf(text + at, length - at, "%s", after);
    return text;
}

/* The exact value of the smallest double has 1077 bytes; a float's tie needs many digits, too. */
static void long_numbers(void **state)
{
    (void)state;
    char *text = repeated("[0.", "0", 1074, "1]"); /* 1077 bytes */
    check(TD_FLOAT64, "1", text, "float64 [1]: 0");
    free(text);
    text = repeated("[1.", "0", 1097, "1]"); /* 1100 bytes */
    check(TD_FLOAT64, "1", text, "float64 [1]: 1");
    check(0, NULL, text, "float32 [1]: 1");
    free(text);
    text = repeated("[[0,1.", "0", 1098, "1]]"); /* 1101 bytes */
    check(TD_FLOAT64, "1,2", text,
          "too_large: data[0][0]: the number at byte 4 is longer than 1100 bytes; write fewer "
          "digits");
    check(0, NULL, text,
          "too_large: data[0][0]: the number at byte 4 is longer than 1100 bytes; write fewer "
          "digits");
    free(text);
    text = repeated("[\"", "x", 5000, "");
    check(TD_FLOAT64, "1", text,
          "too_large: data[0]: the number at byte 1 is longer than 1100 bytes; write fewer digits");
    free(text);
}

static void nesting(void **state)
{
    char expected[RESULT_SIZE], text[SHAPE_TEXT_SIZE];
    struct dims ones = {.rank = RANK_MAX};
    (void)state;
    for (int d = 0; d < RANK_MAX; d++)
        ones.v[d] = 1;
    layout_shape_text(ones.rank, ones.v, text, sizeof text);
    char *lists = repeated("", "[", RANK_MAX, "5]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]");
    snprintf(expected, sizeof expected, "int64 %s: 5", text);
    check(0, NULL, lists, expected);
    free(lists);
    lists = repeated("{\"data\":", "[", RANK_MAX,
                     "[5,6]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],\"dtype\":"
                     "\"complex64\"}");
    snprintf(expected, sizeof expected, "complex64 %s: 5+6i", text);
    check(0, NULL, lists, expected);
    free(lists);
    lists = repeated("", "[", RANK_MAX + 1, "");
    check(0, NULL, lists,
          "bad_shape: data has lists in more than 32 lists (byte 32); a tensor has at most 32 "
          "dimensions");
    free(lists);
    lists = repeated("", "[", 5000, "5");
    check(TD_COMPLEX64, NULL, lists,
          "bad_shape: data has lists in more than 32 lists (byte 32); a tensor has at most 32 "
          "dimensions");
    free(lists);
    /* The members keep to json_parse's limit. */
    lists = repeated("{\"name\":", "[", 32, ",\"data\":1}");
    check_length(0, NULL, lists, strlen(lists), "invalid: ", true);
    free(lists);
}

/* All but the data: 64 KiB with the place of the data. */
static void members_limit(void **state)
{
    static const char after[] = "\",\"data\":[1]}";
    size_t most = ((size_t)64 << 10) - strlen("{\"name\":\"\",\"data\":null}");
    (void)state;
    char *text = repeated("{\"name\":\"", "x", most, after);
    check(TD_INT8, "1", text, "int8 [1]: 1");
    free(text);
    text = repeated("{\"name\":\"", "x", most + 1, after);
    check_length(TD_INT8, "1", text, strlen(text),
                 "too_large: the members of the document besides 'data' take more than 65536 bytes",
                 true);
    free(text);
    text = repeated("{\"data\":[1],\"name\":\"", "x", most + 1, "\"}");
    check(0, NULL, text,
          "too_large: the members of the document besides 'data' take more than 65536 bytes (byte "
          "65535)");
    free(text);
    /* White space around the document, and data of any length, are no part of them. */
    text = repeated("", " \n", 50000, "{\"data\":[1]}");
    check(TD_INT8, "1", text, "int8 [1]: 1");
    free(text);
    text = repeated("[1]", "\t ", 50000, "");
    check(0, NULL, text, "int64 [1]: 1");
    free(text);
}

/* ---- fields ---------------------------------------------------------------------------------- */

static void fields_of_the_document(void **state)
{
    static const char text[] = "{\"dtype\":\"int8\",\"shape\":[1],\"name\":\"w\",\"data\":[1],"
                               "\"requires_grad\":true,\"strides\":[1],\"id\":12,\"device\":null}";
    struct json_tensor *reader;
    enum json_want want;
    size_t used, more;
    signed char element = 0;
    (void)state;
    assert_ok(json_tensor_create(TD_DTYPE_NONE, NULL, &reader));
    assert_ok(json_tensor_feed(reader, text, sizeof text - 1, &used, &want));
    assert_int_equal(want, JSON_WANT_MEMORY);
    assert_int_equal(text[used], '[');
    assert_int_equal(json_tensor_dtype(reader), TD_INT8);
    json_tensor_target(reader, &element);
    assert_ok(json_tensor_feed(reader, text + used, sizeof text - 1 - used, &more, &want));
    assert_int_equal(want, JSON_WANT_MORE);
    assert_int_equal(used + more, sizeof text - 1);
    assert_ok(json_tensor_end(reader));
    assert_ok(json_tensor_end(reader));
    assert_int_equal(element, 1);
    const struct fields *fields = json_tensor_fields(reader);
    assert_true(fields->present == (FIELD_BIT(dtype) | FIELD_BIT(shape) | FIELD_BIT(name) |
                                    FIELD_BIT(requires_grad) | FIELD_BIT(strides) | FIELD_BIT(id)));
    assert_true(text_equal(fields->name, "w"));
    assert_true(fields->requires_grad);
    assert_int_equal(fields->id, 12);
    json_tensor_destroy(reader);
    json_tensor_destroy(NULL);
}

static void fields_of_a_spooled_document(void **state)
{
    static const char text[] = "{\"name\":\"w\",\"data\":[1,2],\"mutable\":true}";
    struct json_tensor *reader;
    enum json_want want;
    size_t used;
    int64_t elements[2];
    (void)state;
    assert_ok(json_tensor_create(TD_DTYPE_NONE, NULL, &reader));
    assert_ok(json_tensor_feed(reader, text, sizeof text - 1, &used, &want));
    assert_int_equal(want, JSON_WANT_SPOOL);
    assert_ok(json_tensor_measure(reader, text + used, sizeof text - 1 - used));
    assert_ok(json_tensor_fill(reader, text + used, sizeof text - 1 - used, elements));
    assert_int_equal(elements[1], 2);
    const struct fields *fields = json_tensor_fields(reader);
    assert_true(fields->present == (FIELD_BIT(name) | FIELD_BIT(mutable)));
    assert_true(text_equal(fields->name, "w") && fields->mutable);
    json_tensor_destroy(reader);
}

/* What is known is read as it comes, and nothing is kept. */
static void streams_when_it_can(void **state)
{
    static const struct {
        const char *text;
        bool spooled;
    } documents[] = {
        {"{\"dtype\":\"int8\",\"shape\":[1],\"data\":[1]}", false},
        {"{\"shape\":[1],\"dtype\":\"int8\",\"name\":\"x\",\"data\":[1]}", false},
        {"{\"shape\":[1],\"data\":[1],\"dtype\":\"int8\"}", true},
        {"{\"dtype\":\"int8\",\"data\":[1]}", true},
        {"[1]", true},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(documents); i++) {
        char result[RESULT_SIZE];
        size_t length = strlen(documents[i].text);
        struct reading reading = {
            .text = documents[i].text, .length = length, .piece = length, .first = length};
        read_document(&reading, result);
        assert_int_equal(reading.spooled, documents[i].spooled);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_tensors),
        cmocka_unit_test(tensors_as_objects),
        cmocka_unit_test(inferred_tensors),
        cmocka_unit_test(long_numbers),
        cmocka_unit_test(nesting),
        cmocka_unit_test(members_limit),
        cmocka_unit_test(fields_of_the_document),
        cmocka_unit_test(fields_of_a_spooled_document),
        cmocka_unit_test(streams_when_it_can),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
