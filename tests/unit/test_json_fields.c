/* json_fields: every type of field from JSON, from a URL's text, and back to JSON, exactly. */
#include "tests/unit/core_assert.h"

#include "proto/format/json.h"
#include "proto/wire/wire.h"

#include <math.h>
#include <stdlib.h>

static cJSON *tree_of(const char *text)
{
    cJSON *root;
    assert_ok(json_parse(text, strlen(text), &root));
    return root;
}

/* The fields as one text of JSON; the caller frees it. */
static char *json_of(const struct fields *fields)
{
    cJSON *object = cJSON_CreateObject();
    assert_ok(json_add_fields(object, fields));
    char *text = cJSON_PrintUnformatted(object);
    assert_non_null(text);
    cJSON_Delete(object);
    return text;
}

static void assert_same_fields(const struct fields *a, const struct fields *b)
{
    size_t size = wire_fields_size(a);
    assert_int_equal(size, wire_fields_size(b));
    uint8_t *left = malloc(size + 1), *right = malloc(size + 1);
    wire_fields_encode(a, left);
    wire_fields_encode(b, right);
    assert_memory_equal(left, right, size);
    free(left);
    free(right);
}

/* ---- JSON there and back --------------------------------------------------------------------- */

/* `written` is what comes out again, NULL for the same text. */
static const struct {
    const char *text, *written;
} round_trips[] = {
    {"{}", NULL},
    {"{\"input\":\"a/\xC3\xA9 \\\"b\\\"\",\"other\":\"@5\",\"output\":\"\"}", NULL},
    {"{\"dtype\":\"bfloat16\"}", NULL},
    {"{\"dtype\":\"<f4\"}", "{\"dtype\":\"float32\"}"},
    {"{\"dtype\":\"F8_E4M3\"}", "{\"dtype\":\"float8_e4m3fn\"}"},
    {"{\"shape\":[]}", NULL},
    {"{\"shape\":[ 2 , -1, 9223372036854775807, -9223372036854775808]}",
     "{\"shape\":[2,-1,9223372036854775807,-9223372036854775808]}"},
    {"{\"shape\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,"
     "31,32]}",
     NULL},
    {"{\"requires_grad\":true,\"mutable\":false}", NULL},
    {"{\"offset_bytes\":0,\"seed\":18446744073709551615}", NULL},
    {"{\"low\":-9223372036854775808,\"high\":9223372036854775807}", NULL},
    {"{\"low\":9007199254740993}", NULL},
    {"{\"dim\":-0}", "{\"dim\":0}"},
    /* In the table's order, whatever order they came in. */
    {"{\"boot\":\"b\",\"input\":\"x\"}", "{\"input\":\"x\",\"boot\":\"b\"}"},
    /* null is absent. */
    {"{\"input\":null,\"dtype\":null,\"shape\":null,\"dim\":1}", "{\"dim\":1}"},
    {"{\"value\":true}", NULL},
    {"{\"value\":false}", NULL},
    {"{\"value\":1}", NULL},
    {"{\"value\":-9223372036854775808}", NULL},
    {"{\"value\":18446744073709551615}", NULL},
    {"{\"value\":1.0}", NULL},
    {"{\"value\":0.1}", NULL},
    {"{\"value\":0.1000000000000000055511151231257827021181583404541015625}", "{\"value\":0.1}"},
    {"{\"value\":1e300}", "{\"value\":1e+300}"},
    {"{\"value\":5e-324}", NULL},
    {"{\"value\":-0.0}", NULL},
    {"{\"value\":1e2}", "{\"value\":100.0}"},
    {"{\"value\":\"NaN\"}", NULL},
    {"{\"value\":\"Infinity\"}", NULL},
    {"{\"value\":\"-Infinity\"}", NULL},
    {"{\"value\":[1,-2.5]}", "{\"value\":[1.0,-2.5]}"},
    {"{\"value\":[\"NaN\",\"-Infinity\"]}", NULL},
    {"{\"index\":\"\"}", NULL},
    {"{\"index\":\"0, 1:3 ,::2,..., None,-1, :, 5:\"}",
     "{\"index\":\"0,1:3,::2,...,None,-1,:,5:\"}"},
    {"{\"index\":\"[newaxis, Ellipsis, -3:-1:1]\"}", "{\"index\":\"None,...,-3:-1:1\"}"},
    {"{\"index\":7}", "{\"index\":\"7\"}"},
    {"{\"index\":-9223372036854775807}", "{\"index\":\"-9223372036854775807\"}"},
    /* A description, as info gives it. */
    {"{\"dtype\":\"float32\",\"device\":\"cpu\",\"shape\":[2,3],\"strides\":[3,1],\"offset_bytes\":"
     "0,"
     "\"requires_grad\":false,\"id\":12,\"name\":\"w\",\"kind\":\"tensor\",\"generation\":7,"
     "\"version\":0,\"epoch\":3,\"nbytes\":24,\"is_leaf\":true,\"storage\":5,\"storage_bytes\":24,"
     "\"mode\":\"frozen\"}",
     NULL},
};

static void there_and_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(round_trips); i++) {
        struct fields fields, again;
        cJSON *root = tree_of(round_trips[i].text);
        if (json_to_fields(root, &fields) != TD_OK)
            fail_msg("%s: %s", round_trips[i].text, fail_detail());
        char *text = json_of(&fields);
        assert_string_equal(text,
                            round_trips[i].written ? round_trips[i].written : round_trips[i].text);
        cJSON *second = tree_of(text);
        assert_ok(json_to_fields(second, &again));
        assert_same_fields(&fields, &again);
        free(text);
        cJSON_Delete(second);
        cJSON_Delete(root);
    }
}

/* An index of the longest texts there are, of all lengths. */
static void long_indices(void **state)
{
    (void)state;
    for (int count = 0; count <= INDEX_MAX; count++) {
        struct fields fields = {0}, again;
        fields.index.count = count;
        for (int i = 0; i < count; i++)
            fields.index.items[i] =
                (struct index_item){INDEX_SLICE, INT64_MIN + 1 + i, INT64_MIN + 1, -INT64_MAX + i};
        fields.present = FIELD_BIT(index);
        char *text = json_of(&fields);
        cJSON *root = tree_of(text);
        assert_ok(json_to_fields(root, &again));
        assert_same_fields(&fields, &again);
        cJSON_Delete(root);
        free(text);
    }
}

static void texts_without_nul(void **state)
{
    struct fields fields = {0};
    char name[3] = {'a', 'b', 'c'};
    (void)state;
    FIELDS_SET(&fields, input, (struct text){name, sizeof name});
    FIELDS_SET(&fields, output, (struct text){NULL, 0});
    char *text = json_of(&fields);
    assert_string_equal(text, "{\"input\":\"abc\",\"output\":\"\"}");
    free(text);
}

static void scalars_have_kinds(void **state)
{
    struct fields fields;
    cJSON *root = tree_of("{\"value\":true,\"start\":-3,\"end\":9223372036854775808,\"step\":1e0}");
    (void)state;
    assert_ok(json_to_fields(root, &fields));
    assert_int_equal(fields.value.kind, SCALAR_BOOL);
    assert_true(fields.value.b);
    assert_int_equal(fields.start.kind, SCALAR_INT);
    assert_int_equal(fields.start.i, -3);
    assert_int_equal(fields.end.kind, SCALAR_UINT);
    assert_true(fields.end.u == (uint64_t)1 << 63);
    assert_int_equal(fields.step.kind, SCALAR_FLOAT);
    assert_true(fields.step.f == 1);
    cJSON_Delete(root);
    root = tree_of("{\"value\":[9007199254740993,\"NaN\"]}");
    assert_ok(json_to_fields(root, &fields));
    assert_int_equal(fields.value.kind, SCALAR_COMPLEX);
    assert_true(fields.value.c[0] == 9007199254740992.0 && isnan(fields.value.c[1]));
    assert_true(fields.present == FIELD_BIT(value));
    cJSON_Delete(root);
}

/* ---- what JSON must not say ------------------------------------------------------------------ */

static const struct {
    const char *text;
    enum td_status status;
    const char *part;
} bad[] = {
    {"[]", TD_INVALID, "expected was a JSON object"},
    {"1", TD_INVALID, "expected was a JSON object"},
    {"{\"color\":1}", TD_INVALID, "there is no field 'color'"},
    {"{\"color\":null}", TD_INVALID, "there is no field 'color'"},
    {"{\"Dtype\":\"int8\"}", TD_INVALID, "there is no field 'Dtype'"},
    {"{\"\":1}", TD_INVALID, "there is no field ''"},
    {"{\"a\\nb\":1}", TD_INVALID, "there is no field 'a?b'"},
    {"{\"input\":5}", TD_INVALID, "'input' is 5; expected was a text"},
    {"{\"input\":[\"a\"]}", TD_INVALID, "'input' is another list; expected was a text"},
    {"{\"input\":{}}", TD_INVALID, "'input' is an object; expected was a text"},
    {"{\"input\":true}", TD_INVALID, "'input' is true; expected was a text"},
    {"{\"dtype\":\"float31\"}", TD_BAD_DTYPE, "'dtype' is \"float31\"; expected was the name of"},
    {"{\"dtype\":\"float32float32float32float32float32\"}", TD_BAD_DTYPE, "'dtype' is"},
    {"{\"dtype\":\"\"}", TD_BAD_DTYPE, "'dtype' is \"\""},
    {"{\"dtype\":12}", TD_INVALID, "'dtype' is 12"},
    {"{\"shape\":3}", TD_INVALID, "'shape' is 3; expected was a list of at most 32 integers"},
    {"{\"shape\":[2,\"3\"]}", TD_INVALID, "'shape' is another list"},
    {"{\"shape\":[2.0]}", TD_INVALID, "'shape' is another list"},
    {"{\"shape\":[true]}", TD_INVALID, "'shape' is another list"},
    {"{\"shape\":[[2]]}", TD_INVALID, "'shape' is another list"},
    {"{\"shape\":[9223372036854775808]}", TD_INVALID, "'shape' is another list"},
    {"{\"shape\":\"2,3\"}", TD_INVALID, "'shape' is \"2,3\""},
    {"{\"shape\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
     TD_BAD_SHAPE, "at most 32"},
    {"{\"mutable\":1}", TD_INVALID, "'mutable' is 1; expected was true or false"},
    {"{\"mutable\":\"true\"}", TD_INVALID, "'mutable' is \"true\""},
    {"{\"seed\":-1}", TD_INVALID, "'seed' is -1; expected was an integer from 0"},
    {"{\"seed\":18446744073709551616}", TD_INVALID, "'seed' is 18446744073709551616"},
    {"{\"seed\":1.0}", TD_INVALID, "'seed' is 1.0"},
    {"{\"seed\":1e3}", TD_INVALID, "'seed' is 1e3"},
    {"{\"seed\":true}", TD_INVALID, "'seed' is true"},
    {"{\"seed\":\"1\"}", TD_INVALID, "'seed' is \"1\""},
    {"{\"low\":9223372036854775808}", TD_INVALID, "'low' is 9223372036854775808"},
    {"{\"low\":-9223372036854775809}", TD_INVALID, "'low' is -9223372036854775809"},
    {"{\"low\":0.5}", TD_INVALID, "'low' is 0.5"},
    {"{\"value\":\"1\"}", TD_INVALID, "'value' is \"1\"; expected was a number"},
    {"{\"value\":\"nan\"}", TD_INVALID, "'value' is \"nan\""},
    {"{\"value\":[]}", TD_INVALID, "'value' is another list"},
    {"{\"value\":[1]}", TD_INVALID, "'value' is another list"},
    {"{\"value\":[1,2,3]}", TD_INVALID, "'value' is another list"},
    {"{\"value\":[1,true]}", TD_INVALID, "'value' is another list"},
    {"{\"value\":[1,[2]]}", TD_INVALID, "'value' is another list"},
    {"{\"value\":{}}", TD_INVALID, "'value' is an object"},
    {"{\"value\":1e400}", TD_BAD_DTYPE, "'value' is 1e400"},
    {"{\"value\":18446744073709551616}", TD_BAD_DTYPE, "'value' is 18446744073709551616"},
    {"{\"index\":true}", TD_INVALID, "'index' is true; expected was NumPy's basic index"},
    {"{\"index\":1.5}", TD_INVALID, "'index' is 1.5"},
    {"{\"index\":[1]}", TD_INVALID, "'index' is another list"},
    {"{\"index\":\"1.5\"}", TD_BAD_INDEX, "item 1 of the index is '1.5'"},
};

static void bad_members(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct fields fields;
        cJSON *root = tree_of(bad[i].text);
        assert_refused(json_to_fields(root, &fields), bad[i].status, bad[i].part);
        cJSON_Delete(root);
    }
}

/* ---- texts of a query ------------------------------------------------------------------------ */

static const struct {
    int field;
    const char *text, *written;
} texts[] = {
    {FIELD_input, "a b/c", "{\"input\":\"a b/c\"}"},
    {FIELD_input, "", "{\"input\":\"\"}"},
    {FIELD_input, "\xC3\xA9", "{\"input\":\"\xC3\xA9\"}"},
    {FIELD_dtype, "float16", "{\"dtype\":\"float16\"}"},
    {FIELD_dtype, "<f8", "{\"dtype\":\"float64\"}"},
    {FIELD_shape, "2,3", "{\"shape\":[2,3]}"},
    {FIELD_shape, "[2,3]", "{\"shape\":[2,3]}"},
    {FIELD_shape, " [ 2 , -1 ] ", "{\"shape\":[2,-1]}"},
    {FIELD_shape, "7", "{\"shape\":[7]}"},
    {FIELD_shape, "", "{\"shape\":[]}"},
    {FIELD_shape, "[]", "{\"shape\":[]}"},
    {FIELD_shape, "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
     "{\"shape\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}"},
    {FIELD_mutable, "true", "{\"mutable\":true}"},
    {FIELD_mutable, "1", "{\"mutable\":true}"},
    {FIELD_mutable, "", "{\"mutable\":true}"},
    {FIELD_mutable, "false", "{\"mutable\":false}"},
    {FIELD_mutable, "0", "{\"mutable\":false}"},
    {FIELD_limit, "18446744073709551615", "{\"limit\":18446744073709551615}"},
    {FIELD_dim, "-2", "{\"dim\":-2}"},
    {FIELD_value, "true", "{\"value\":true}"},
    {FIELD_value, "-7", "{\"value\":-7}"},
    {FIELD_value, "2.5", "{\"value\":2.5}"},
    {FIELD_value, "NaN", "{\"value\":\"NaN\"}"},
    {FIELD_value, "\"-Infinity\"", "{\"value\":\"-Infinity\"}"},
    {FIELD_value, "[1, 2.5]", "{\"value\":[1.0,2.5]}"},
    {FIELD_value, "[NaN,-Infinity]", "{\"value\":[\"NaN\",\"-Infinity\"]}"},
    {FIELD_value, "[\"NaN\",0]", "{\"value\":[\"NaN\",0.0]}"},
    {FIELD_index, "0,1:3,...", "{\"index\":\"0,1:3,...\"}"},
    {FIELD_timeout_ms, "250", "{\"timeout_ms\":250}"},
    {FIELD_timeout_ms, "30s", "{\"timeout_ms\":30000}"},
    {FIELD_timeout_ms, "2m", "{\"timeout_ms\":120000}"},
};

/* The text in memory of exactly its size. */
static enum td_status from_text(int field, const char *text, size_t length, struct fields *out,
                                char **copy)
{
    *copy = malloc(length > 0 ? length : 1);
    memcpy(*copy, text, length);
    return field_from_text(field, (struct text){*copy, length}, out);
}

static void query_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        struct fields fields = {0};
        char *copy;
        if (from_text(texts[i].field, texts[i].text, strlen(texts[i].text), &fields, &copy) !=
            TD_OK)
            fail_msg("%s: %s", texts[i].text, fail_detail());
        char *text = json_of(&fields);
        assert_string_equal(text, texts[i].written);
        free(text);
        free(copy);
    }
}

static void fields_add_up(void **state)
{
    struct fields fields = {0};
    (void)state;
    assert_ok(field_from_text(FIELD_shape, text_of("2"), &fields));
    assert_ok(field_from_text(FIELD_mutable, (struct text){NULL, 0}, &fields));
    assert_ok(field_from_text(FIELD_device, (struct text){NULL, 0}, &fields));
    char *text = json_of(&fields);
    assert_string_equal(text, "{\"device\":\"\",\"shape\":[2],\"mutable\":true}");
    free(text);
}

static const struct {
    int field;
    const char *text;
    size_t length;
    enum td_status status;
    const char *part;
} bad_texts[] = {
#define BAD(field, text, status, part)                                                             \
    {                                                                                              \
        FIELD_##field, text, sizeof(text) - 1, TD_##status, part                                   \
    }
    BAD(input, "a\0b", INVALID, "'input' is a?b; expected was a text, in UTF-8 and without NUL"),
    BAD(input, "a\xFF", INVALID, "'input' is a?; expected"),
    BAD(input, "\xE2\x82", INVALID, "'input' is ??; expected"),
    BAD(dtype, "", BAD_DTYPE, "'dtype' is ; expected was the name of a dtype"),
    BAD(dtype, "int8\0", BAD_DTYPE, "'dtype' is int8?"),
    BAD(dtype, "f", BAD_DTYPE, "'dtype' is f;"),
    BAD(shape, "2,", INVALID, "'shape' is 2,; expected was a list"),
    BAD(shape, ",", INVALID, "'shape' is ,"),
    BAD(shape, "2 3", INVALID, "'shape' is 2 3"),
    BAD(shape, "[2", INVALID, "'shape' is [2"),
    BAD(shape, "[[2]]", INVALID, "'shape' is [[2]]"),
    BAD(shape, "2.5", INVALID, "'shape' is 2.5"),
    BAD(shape, "x", INVALID, "'shape' is x"),
    BAD(shape, "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0", BAD_SHAPE,
        "'shape' is 0,0"),
    BAD(mutable, "yes", INVALID, "'mutable' is yes; expected was true or false"),
    BAD(mutable, "TRUE", INVALID, "'mutable' is TRUE"),
    BAD(limit, "", INVALID, "'limit' is ; expected was an integer"),
    BAD(limit, "-1", INVALID, "'limit' is -1"),
    BAD(limit, "+1", INVALID, "'limit' is +1"),
    BAD(limit, " 1", INVALID, "'limit' is  1"),
    BAD(limit, "true", INVALID, "'limit' is true"),
    BAD(limit, "18446744073709551616", INVALID, "'limit' is 18446744073709551616"),
    BAD(dim, "1e2", INVALID, "'dim' is 1e2"),
    BAD(value, "", INVALID, "'value' is ; expected was a number"),
    BAD(value, "one", INVALID, "'value' is one"),
    BAD(value, "nan", INVALID, "'value' is nan"),
    BAD(value, "[1]", INVALID, "'value' is [1]"),
    BAD(value, "[1,2,3]", INVALID, "'value' is [1,2,3]"),
    BAD(value, "[1,true]", INVALID, "'value' is [1,true]"),
    BAD(value, "[1", INVALID, "'value' is [1"),
    BAD(value, "1e999", BAD_DTYPE, "'value' is 1e999"),
    BAD(index, "x", BAD_INDEX, "item 1 of the index is 'x'"),
    BAD(timeout_ms, "1d", INVALID, "'1d' is no duration"),
    BAD(timeout_ms, "", INVALID, "'' is no duration"),
};

static void bad_query_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_texts); i++) {
        struct fields fields = {0};
        char *copy;
        assert_refused(
            from_text(bad_texts[i].field, bad_texts[i].text, bad_texts[i].length, &fields, &copy),
            bad_texts[i].status, bad_texts[i].part);
        assert_true(fields.present == 0);
        free(copy);
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int allocations_left;

static void *malloc_some(size_t size)
{
    return allocations_left-- > 0 ? malloc(size) : NULL;
}

static void out_of_memory(void **state)
{
    cJSON_Hooks hooks = {malloc_some, free};
    struct fields fields = {0};
    (void)state;
    FIELDS_SET(&fields, input, text_of("x"));
    FIELDS_SET(&fields, limit, 5);
    cJSON *object = cJSON_CreateObject();
    cJSON_InitHooks(&hooks);
    allocations_left = 2;
    assert_refused(json_add_fields(object, &fields), TD_OUT_OF_MEMORY, "for the field 'input'");
    allocations_left = 5;
    assert_refused(json_add_fields(object, &fields), TD_OUT_OF_MEMORY, "for the field 'limit'");
    cJSON_InitHooks(NULL);
    cJSON_Delete(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),    cmocka_unit_test(long_indices),
        cmocka_unit_test(texts_without_nul), cmocka_unit_test(scalars_have_kinds),
        cmocka_unit_test(bad_members),       cmocka_unit_test(query_texts),
        cmocka_unit_test(fields_add_up),     cmocka_unit_test(bad_query_texts),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
