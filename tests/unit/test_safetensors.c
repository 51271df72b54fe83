/* safetensors: headers that are read, each way in which one is refused, and what is written.
 * tests/semantics/test_formats.py compares with the safetensors package. */
#include "proto/format/safetensors.h"

#include "tests/unit/layout_assert.h"

#include <stdlib.h>

#define UNKNOWN UINT64_MAX

/* -- a file's start around a header, in memory of exactly that size -- */

static unsigned char *build(const char *json, size_t *length)
{
    size_t header = strlen(json);
    unsigned char *bytes = malloc(8 + header);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(header >> 8 * i);
    memcpy(bytes + 8, json, header);
    *length = 8 + header;
    return bytes;
}

/* data_bytes: what follows the header, if that is known. */
static enum td_status read_json(const char *json, uint64_t data_bytes, struct safetensors **out)
{
    size_t length;
    unsigned char *bytes = build(json, &length);
    uint64_t file_bytes = data_bytes == UNKNOWN ? UNKNOWN : length + data_bytes;
    *out = NULL;
    enum td_status status = safetensors_read(bytes, length, file_bytes, out);
    free(bytes);
    if (status == TD_OK)
        assert_int_equal((*out)->header_bytes, length);
    else
        assert_null(*out);
    return status;
}

#define T(name, dtype, shape, begin, end)                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end \
    "]}"

/* -- reading -- */

static void reads(void **state)
{
    /* In another order than the bytes', and with members, blanks and escapes as JSON has them. */
    static const struct dims shapes[] = {SCALAR, DIMS(0, 7), DIMS(3, 1), DIMS(2)};
    struct safetensors *file;
    static const char json[] =
        "{ \"b\\u00e9\\\"\" :\t{\"data_offsets\" : [8 , 20],\"shape\":[3,1],\"dtype\":\"I32\" } ,"
        "\"__metadata__\": {\"format\":\"pt\", \"\":\"\\n\"} ,\n" T(
            "z", "F16", "[2]", 20, 24) "," T("", "F64", "[]", 0, 8) "," T("e", "BOOL", "[0,7]", 8,
                                                                          8) "}\r\n  ";
    static const char *const names[] = {"", "e", "b\xC3\xA9\"", "z"};
    static const enum td_dtype dtypes[] = {TD_FLOAT64, TD_BOOL, TD_INT32, TD_FLOAT16};
    static const uint64_t ends[] = {8, 8, 20, 24};
    (void)state;
    assert_int_equal(read_json(json, 24, &file), TD_OK);
    assert_int_equal(file->count, 4);
    assert_int_equal(file->data_bytes, 24);
    assert_string_equal(file->metadata, "{\"format\":\"pt\", \"\":\"\\n\"}");
    for (size_t i = 0; i < 4; i++) {
        const struct safetensors_entry *entry = &file->entries[i];
        assert_string_equal(entry->name, names[i]);
        assert_int_equal(entry->dtype, dtypes[i]);
        assert_same_dims(entry->name, entry->shape.rank, entry->shape.v, &shapes[i]);
        assert_int_equal(entry->begin, i > 0 ? ends[i - 1] : 0);
        assert_int_equal(entry->end, ends[i]);
    }
    safetensors_destroy(file);
}

static void reads_nothing(void **state)
{
    struct safetensors *file;
    (void)state;
    assert_int_equal(read_json("{}", 0, &file), TD_OK);
    assert_int_equal(file->count, 0);
    assert_int_equal(file->data_bytes, 0);
    assert_null(file->metadata);
    safetensors_destroy(file);
    assert_int_equal(read_json("{\"__metadata__\":{}}", UNKNOWN, &file), TD_OK);
    assert_string_equal(file->metadata, "{}");
    safetensors_destroy(file);
    safetensors_destroy(NULL);
}

static void knows_every_dtype(void **state)
{
    (void)state;
    for (int dtype = 1; dtype < TD_DTYPE_END; dtype++) {
        char json[200];
        struct safetensors *file;
        if (dtype == TD_COMPLEX128)
            continue;
        snprintf(json, sizeof json,
                 "{\"x\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%zu]}}",
                 dtype_infos[dtype].safetensors, 3 * td_dtype_size(dtype));
        assert_int_equal(read_json(json, UNKNOWN, &file), TD_OK);
        assert_int_equal(file->entries[0].dtype, dtype);
        safetensors_destroy(file);
    }
}

#define BYTE(n, what) "the safetensors header is malformed at byte " #n ": expected " what
#define ENDS ", but it ends there"

static const struct {
    const char *json;
    enum td_status status;
    const char *detail;
} bad[] = {
    {"{\"a", TD_INVALID, BYTE(11, "a '\"' that ends the string" ENDS)},
    {"{\"a\"", TD_INVALID, BYTE(12, "':'" ENDS)},
    {"{\"a\":", TD_INVALID, BYTE(13, "an object with dtype, shape and data_offsets" ENDS)},
    {"{\"a\":1}", TD_INVALID, BYTE(13, "an object with dtype, shape and data_offsets")},
    {"{,}", TD_INVALID, BYTE(9, "a key in quotes")},
    {"{a:1}", TD_INVALID, BYTE(9, "a key in quotes")},
    {"{\"\\x\":1}", TD_INVALID, BYTE(10, "an escape: one of ...")},
    {"{\"\\u0000\":1}", TD_INVALID, BYTE(10, "a character other than \\u0000, ...")},
    {"{\"\xFF\":1}", TD_INVALID, BYTE(10, "a character in UTF-8")},
    {"{}{}", TD_INVALID, BYTE(10, "nothing but blanks behind the '}'")},
    {"{}\v", TD_INVALID, BYTE(10, "nothing but blanks behind the '}'")},
    {"{" T("a", "U8", "[]", 0, 1) ",}", TD_INVALID, BYTE(60, "a key in quotes")},
    {"{" T("a", "U8", "[]", 0, 1) " \"b\"", TD_INVALID, BYTE(60, "a comma or '}'")},
    {"{\"a\":{}}", TD_INVALID, "tensor 'a' has no dtype"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", TD_INVALID, "tensor 'a' has no data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", TD_INVALID,
     "tensor 'a' has the key 'dtype' twice; expected dtype, shape and data_offsets, once each"},
    {"{\"a\\u0007\":{\"Dtype\":\"U8\"}}", TD_INVALID,
     "tensor 'a?' has the key 'Dtype'; expected ..."},
    {"{\"a\":{\"dtype\":8}}", TD_INVALID, BYTE(22, "a dtype in quotes")},
    {"{" T("a", "f32", "[]", 0, 4) "}", TD_BAD_DTYPE, "tensor 'a' has dtype 'f32', which..."},
    {"{" T("a", "F8_E8M0", "[]", 0, 1) "}", TD_BAD_DTYPE, "tensor 'a' has dtype 'F8_E8M0'..."},
    {"{" T("a", "", "[]", 0, 16) "}", TD_BAD_DTYPE, "tensor 'a' has dtype '', which ..."},
    {"{" T("a", "U8", "3", 0, 3) "}", TD_INVALID, BYTE(35, "a list of integers")},
    {"{" T("a", "U8", "[3", 0, 3) "}", TD_INVALID, BYTE(38, "an integer of at least 0")},
    {"{" T("a", "U8", "[3 3]", 0, 9) "}", TD_INVALID, BYTE(38, "a comma or ']'")},
    {"{" T("a", "U8", "[3,]", 0, 3) "}", TD_INVALID, BYTE(38, "an integer of at least 0")},
    {"{" T("a", "U8", "[-3]", 0, 3) "}", TD_INVALID, BYTE(36, "an integer of at least 0")},
    {"{" T("a", "U8", "[3.0]", 0, 3) "}", TD_INVALID, BYTE(36, "an integer of at least 0")},
    {"{" T("a", "U8", "[3e0]", 0, 3) "}", TD_INVALID, BYTE(36, "an integer of at least 0")},
    {"{" T("a", "U8", "[03]", 0, 3) "}", TD_INVALID, BYTE(36, "an integer of at least 0")},
    {"{" T("a", "U8", "[\"3\"]", 0, 3) "}", TD_INVALID, BYTE(36, "an integer of at least 0")},
    {"{" T("a", "U8", "[18446744073709551616]", 0, 3) "}", TD_INVALID,
     BYTE(36, "an integer of at most 64 bits")},
    {"{" T("a", "U8", "[18446744073709551615]", 0, 3) "}", TD_BAD_SHAPE,
     "tensor 'a' has the shape [9223372036854775807], which is larger than any can be"},
    {"{" T("a", "U8", "[4294967296,4294967296,0]", 0, 0) "}", TD_BAD_SHAPE, "tensor 'a' has..."},
    {"{" T("a", "U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", 0,
           1) "}",
     TD_INVALID, "the safetensors header has more than 32 integers in the list at byte 100"},
    {"{\"a\":{\"data_offsets\":[0]", TD_INVALID,
     BYTE(32, "two data_offsets, the begin and the end" ENDS)},
    {"{\"a\":{\"data_offsets\":[0,1,2]", TD_INVALID,
     "the safetensors header has more than 2 integers in the list at byte 34"},
    {"{" T("a", "I16", "[3]", 0, 5) "}", TD_INVALID,
     "tensor 'a' takes 6 bytes by its dtype and shape, but its data_offsets are [0, 5]"},
    {"{" T("a", "I16", "[3]", 6, 0) "}", TD_INVALID,
     "tensor 'a' takes 6 bytes by its dtype and shape, but its data_offsets are [6, 0]"},
    {"{" T("a", "U8", "[]", 1, 2) "}", TD_INVALID,
     "tensor 'a' begins at byte 1 of the data, but what is before it ends at 0; expected no hole"},
    {"{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 1, 3) "}", TD_INVALID,
     "tensor 'b' begins at byte 1 of the data, but what is before it ends at 2; expected no "
     "overlap"},
    {"{" T("b", "U8", "[2]", 3, 5) "," T("a", "U8", "[2]", 0, 2) "}", TD_INVALID,
     "tensor 'b' begins at byte 3 of the data, but what is before it ends at 2; expected no hole"},
    {"{" T("a", "U8", "[0]", 1, 1) "," T("b", "U8", "[2]", 0, 2) "}", TD_INVALID,
     "tensor 'a' begins at byte 1 of the data, but what is before it ends at 2; expected no "
     "overlap"},
    {"{" T("a", "U8", "[]", 0, 1) "," T("\\u0061", "U8", "[]", 1, 2) "}", TD_INVALID,
     "there are two tensors with the name 'a'; each needs its own"},
    {"{\"__metadata__\":null}", TD_INVALID, BYTE(24, "the metadata, an object of strings")},
    {"{\"__metadata__\":{\"a\":1}}", TD_INVALID, BYTE(29, "a string, as all metadata are")},
    {"{\"__metadata__\":{\"a\":\"1\",\"\\u0061\":\"2\"}}", TD_INVALID,
     "there are two members of the metadata with the name 'a'; each needs its own"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", TD_INVALID,
     "the safetensors header has the key '__metadata__' twice"},
};

static void refuses(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct safetensors *file;
        assert_failure(read_json(bad[i].json, UNKNOWN, &file), bad[i].status, bad[i].detail);
    }
}

static void compares_with_the_file(void **state)
{
    static const char json[] = "{" T("a", "U8", "[3]", 0, 3) "}";
    struct safetensors *file;
    (void)state;
    assert_int_equal(read_json(json, 3, &file), TD_OK);
    safetensors_destroy(file);
    assert_failure(read_json(json, 2, &file), TD_INVALID,
                   "the safetensors file has 63 bytes; expected 64 by its header");
    assert_failure(read_json(json, 4, &file), TD_INVALID,
                   "the safetensors file has 65 bytes; expected 64 by its header");
}

static void asks_for_bytes(void **state)
{
    size_t length, needed;
    unsigned char *bytes = build("{" T("a", "U8", "[3]", 0, 3) "}", &length);
    struct safetensors *file;
    (void)state;
    for (size_t have = 0; have <= length; have++) {
        unsigned char *start = malloc(have > 0 ? have : 1);
        memcpy(start, bytes, have);
        assert_int_equal(safetensors_needed(start, have, &needed), TD_OK);
        assert_int_equal(needed, have < 8 ? 9 : length);
        if (have < length)
            assert_int_equal(safetensors_read(start, have, UNKNOWN, &file), TD_INVALID);
        free(start);
    }
    bytes = realloc(bytes, length + 3);
    assert_int_equal(safetensors_needed(bytes, length + 3, &needed), TD_OK);
    assert_int_equal(needed, length + 3);
    assert_int_equal(safetensors_read(bytes, length + 3, length + 3, &file), TD_OK);
    assert_int_equal(file->header_bytes, length);
    safetensors_destroy(file);
    free(bytes);
}

static void recognises_by_the_first_bytes(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
        enum td_status status;
        const char *detail;
    } rows[] = {
        {"\2\0\0\0\0\0\0\0", 8, TD_OK, NULL},
        {"\0\0\0\1\0\0\0\0{", 9, TD_OK, NULL},
        {"\1\0\0\0\0\0\0\0", 8, TD_INVALID,
         "this is no safetensors file: its header would have 1 bytes; expected 2 to 100000000"},
        {"\x93NUMPY\1\0", 8, TD_INVALID, "this is no safetensors file: its header would have..."},
        {"\x01\xE1\xF5\5\0\0\0\0{", 9, TD_INVALID,
         "this is no safetensors file: its header would have 100000001 bytes; ..."},
        {"\2\0\0\0\0\0\0\0[", 9, TD_INVALID,
         "this is no safetensors file: its header does not begin with '{'"},
        {"\2\0\0\0\0\0\0\0 {}", 11, TD_INVALID, "this is no safetensors file: its header does..."},
        {"\1\0\0\1\0\0\0\0{", 9, TD_TOO_LARGE,
         "the safetensors header has 16777217 bytes; at most 16777216 are read"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        size_t needed;
        enum td_status status = safetensors_needed(rows[i].bytes, rows[i].length, &needed);
        if (rows[i].detail)
            assert_failure(status, rows[i].status, rows[i].detail);
        else
            assert_int_equal(status, TD_OK);
        assert_int_equal(safetensors_recognise(rows[i].bytes, rows[i].length),
                         rows[i].length > 8 && rows[i].status != TD_INVALID);
    }
}

/* -- writing -- */

static void writes(void **state)
{
    struct safetensors_entry entries[] = {
        {.name = "w", .dtype = TD_FLOAT64, .shape = DIMS(2, 3)},
        {.name = "a \"\\/\b\x01\xC3\xA9", .dtype = TD_BFLOAT16, .shape = SCALAR},
        {.name = "e", .dtype = TD_FLOAT8_E5M2, .shape = DIMS(0)},
    };
    static const char want[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"w\":{\"dtype\":\"F64\",\"shape\":[2,3],\"data_offsets\":[0,48]},"
        "\"a \\\"\\\\/\\b\\u0001\xC3\xA9\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[48,"
        "50]},"
        "\"e\":{\"dtype\":\"F8_E5M2\",\"shape\":[0],\"data_offsets\":[50,50]}}";
    unsigned char *out = NULL;
    size_t length;
    struct safetensors *file;
    (void)state;
    assert_int_equal(
        safetensors_write(entries, COUNT(entries), "{\"format\":\"pt\"}", &out, &length), TD_OK);
    assert_int_equal(length % 8, 0);
    assert_true(length >= 8 + strlen(want) && length < 16 + strlen(want));
    assert_int_equal(out[0] + 256 * out[1], length - 8);
    for (int i = 2; i < 8; i++)
        assert_int_equal(out[i], 0);
    assert_memory_equal(out + 8, want, strlen(want));
    for (size_t at = 8 + strlen(want); at < length; at++)
        assert_int_equal(out[at], ' ');
    assert_int_equal(entries[2].begin, 50);
    assert_int_equal(entries[2].end, 50);

    assert_int_equal(safetensors_read(out, length, length + 50, &file), TD_OK);
    assert_int_equal(file->count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(file->entries[i].name, entries[i].name);
        assert_int_equal(file->entries[i].begin, entries[i].begin);
    }
    assert_string_equal(file->metadata, "{\"format\":\"pt\"}");
    safetensors_destroy(file);
    free(out);
}

static void writes_nothing(void **state)
{
    unsigned char *out = NULL;
    size_t length;
    (void)state;
    assert_int_equal(safetensors_write(NULL, 0, NULL, &out, &length), TD_OK);
    assert_int_equal(length, 16);
    assert_memory_equal(out, "\x8\0\0\0\0\0\0\0{}      ", 16);
    free(out);
}

static void refuses_to_write(void **state)
{
    static const struct {
        struct safetensors_entry entries[2];
        const char *metadata;
        enum td_status status;
        const char *detail;
    } rows[] = {
        {{{"c", TD_COMPLEX128, SCALAR, 0, 0}, {"d", TD_INT8, SCALAR, 0, 0}},
         NULL,
         TD_BAD_DTYPE,
         "tensor 'c' has dtype complex128, which safetensors has not; npz and npy have it, or cast "
         "it"},
        {{{"c", TD_INT8, SCALAR, 0, 0}, {"c", TD_INT8, SCALAR, 0, 0}},
         NULL,
         TD_INVALID,
         "there are two tensors with the name 'c'; each needs its own"},
        {{{"c\xFF", TD_INT8, SCALAR, 0, 0}, {"c", TD_INT8, SCALAR, 0, 0}},
         NULL,
         TD_INVALID,
         "the name 'c?' is no valid UTF-8, as safetensors needs it"},
        {{{"c", TD_INT8, SCALAR, 0, 0}, {"__metadata__", TD_INT8, SCALAR, 0, 0}},
         NULL,
         TD_INVALID,
         "no tensor of a safetensors file can be named __metadata__"},
        {{{"c", TD_INT8, SCALAR, 0, 0}, {"d", TD_INT8, DIMS(-1), 0, 0}},
         NULL,
         TD_BAD_SHAPE,
         "tensor 'd' has the shape [-1], which is larger than any can be"},
        {{{"c", TD_INT8, DIMS(1 << 30, 1 << 25), 0, 0},
          {"d", TD_INT8, DIMS(1 << 30, 1 << 26), 0, 0}},
         NULL,
         TD_TOO_LARGE,
         "the tensors up to 'd' have more bytes than any file"},
        {{{"c", TD_INT8, SCALAR, 0, 0}, {"d", TD_INT8, SCALAR, 0, 0}},
         "{\"a\":1}",
         TD_INVALID,
         "the metadata is malformed at byte 5: expected a string, as all metadata are"},
        {{{"c", TD_INT8, SCALAR, 0, 0}, {"d", TD_INT8, SCALAR, 0, 0}},
         "{} {}",
         TD_INVALID,
         "the metadata is malformed at byte 3: expected nothing behind the object"},
        {{{"c", TD_INT8, SCALAR, 0, 0}, {"d", TD_INT8, SCALAR, 0, 0}},
         "",
         TD_INVALID,
         "the metadata is malformed at byte 0: expected the metadata, an object of strings, but it "
         "ends there"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct safetensors_entry entries[2] = {rows[i].entries[0], rows[i].entries[1]};
        unsigned char *out = NULL;
        size_t length;
        assert_failure(safetensors_write(entries, 2, rows[i].metadata, &out, &length),
                       rows[i].status, rows[i].detail);
        assert_null(out);
    }
}

/* -- limits -- */

/* As many tensors as there may be, all without elements, and one more. */
static void counts_tensors(void **state)
{
    size_t room = 100 * (SAFETENSORS_COUNT_MAX + 2), at = 0;
    char *json = malloc(room);
    struct safetensors *file;
    (void)state;
    assert_non_null(json);
    for (int i = 0; i < SAFETENSORS_COUNT_MAX; i++)
        at += (size_t)snprintf(json + at, room - at, "%c" T("%d", "U8", "[0]", 0, 0),
                               i > 0 ? ',' : '{', i);
    strcpy(json + at, "}");
    assert_int_equal(read_json(json, 0, &file), TD_OK);
    assert_int_equal(file->count, SAFETENSORS_COUNT_MAX);

    unsigned char *out = NULL;
    size_t length;
    assert_int_equal(safetensors_write(file->entries, file->count, NULL, &out, &length), TD_OK);
    free(out);
    safetensors_destroy(file);
    strcpy(json + at, "," T("x", "U8", "[0]", 0, 0) "}");
    assert_failure(read_json(json, 0, &file), TD_TOO_LARGE,
                   "more than 65536 tensors or members of the metadata in one safetensors header; "
                   "save them in several files");
    free(json);
}

/* A name may take nearly all of a header. */
static void long_headers(void **state)
{
    static const char rest[] = "\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}";
    size_t length = SAFETENSORS_HEADER_MAX;
    char *json = malloc(length + 2);
    struct safetensors *file;
    (void)state;
    assert_non_null(json);
    memset(json, 'n', length);
    memcpy(json, "{\"", 2);
    memcpy(json + length - strlen(rest), rest, sizeof rest);
    assert_int_equal(read_json(json, 1, &file), TD_OK);
    assert_int_equal(strlen(file->entries[0].name), length - 2 - strlen(rest));

    unsigned char *out = NULL;
    size_t written;
    struct safetensors_entry entry = file->entries[0];
    assert_int_equal(safetensors_write(&entry, 1, NULL, &out, &written), TD_OK);
    assert_int_equal(written, 8 + length);
    free(out);
    out = NULL;
    assert_failure(safetensors_write(&entry, 1, "{}", &out, &written), TD_TOO_LARGE,
                   "the safetensors header would have 16777240 bytes; at most 16777216 can be");
    assert_null(out);
    safetensors_destroy(file);
    strcpy(json + length, " ");
    assert_int_equal(read_json(json, 1, &file), TD_TOO_LARGE);
    free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),
        cmocka_unit_test(reads_nothing),
        cmocka_unit_test(knows_every_dtype),
        cmocka_unit_test(refuses),
        cmocka_unit_test(compares_with_the_file),
        cmocka_unit_test(asks_for_bytes),
        cmocka_unit_test(recognises_by_the_first_bytes),
        cmocka_unit_test(writes),
        cmocka_unit_test(writes_nothing),
        cmocka_unit_test(refuses_to_write),
        cmocka_unit_test(counts_tensors),
        cmocka_unit_test(long_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
