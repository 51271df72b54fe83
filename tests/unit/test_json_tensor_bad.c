/* json_tensor, reading: documents that are none, or no tensors, and what is said of them. */
#include "tests/unit/json_reading.h"

/* ---- what is no tensor ----------------------------------------------------------------------- */

static const struct document bad_shapes[] = {
    {TD_FLOAT32, "2,3", "[[1,2,3],[4,5]]",
     "bad_shape: data[1] has 2 items; expected were 3 (byte 13); the shape is [2, 3]"},
    {TD_FLOAT32, "2,3", "[[1,2,3],[4,5,6,7]]",
     "bad_shape: data[1] has more than 3 items (byte 16); the shape is [2, 3]"},
    {TD_FLOAT32, "2,3", "[[1,2,3]]",
     "bad_shape: data has 1 items; expected were 2 (byte 8); the shape is [2, 3]"},
    {TD_FLOAT32, "2", "[1,2,3]",
     "bad_shape: data has more than 2 items (byte 5); the shape is [2]"},
    {TD_FLOAT32, "2,1", "[[1],2]",
     "bad_shape: data[1] is a number; expected was a list (byte 5); the shape is [2, 1]"},
    {TD_FLOAT32, "2", "[1,[2]]",
     "bad_shape: data[1] is a list; expected was a number (byte 3); the shape is [2]"},
    {TD_FLOAT32, "", "[1]",
     "bad_shape: data is a list; expected was a number (byte 0); the shape is []"},
    {TD_FLOAT32, "1", "1",
     "bad_shape: data is a number; expected was a list (byte 0); the shape is [1]"},
    {TD_FLOAT32, "0", "[1]", "bad_shape: data has more than 0 items (byte 1); the shape is [0]"},
    {TD_FLOAT32, "0,3", "[[]]",
     "bad_shape: data has more than 0 items (byte 1); the shape is [0, 3]"},
    {TD_FLOAT32, "2,0", "[]",
     "bad_shape: data has 0 items; expected were 2 (byte 1); the shape is [2, 0]"},
    {TD_FLOAT32, "4", "[[1,2],[3,4]]",
     "bad_shape: data[0] is a list; expected was a number (byte 1); the shape is [4]"},
    {TD_FLOAT32, "2,2", "[1,2,3,4]",
     "bad_shape: data[0] is a number; expected was a list (byte 1); the shape is [2, 2]"},
    {TD_FLOAT32, "-1", "[1]",
     "bad_shape: Trying to create tensor with negative dimension -1: [-1]"},
    {0, "-1", "[1]", "bad_shape: Trying to create tensor with negative dimension -1: [-1]"},
    {TD_FLOAT32, "4611686018427387904", "[1]",
     "bad_shape: Storage size calculation overflowed with sizes=[4611686018427387904]"},
    {0, "4611686018427387904", "[1]",
     "bad_shape: Storage size calculation overflowed with sizes=[4611686018427387904]"},
    {0, NULL, "[[1,2],[3]]",
     "bad_shape: data[1] has 1 items; expected were 2 (byte 9); lists side by side must be equally "
     "long and equally deep"},
    {0, NULL, "[[1],[2,3]]",
     "bad_shape: data[1] has more than 1 items (byte 8); lists side by side must be equally long "
     "and equally deep"},
    {0, NULL, "[[[1,2]],[[3,4],[5,6]]]",
     "bad_shape: data[1] has more than 1 items (byte 16); lists side by side must be equally long "
     "and equally deep"},
    {0, NULL, "[1,[2]]",
     "bad_shape: data[1] is a list; expected was a number (byte 3); lists side by side must be "
     "equally long and equally deep"},
    {0, NULL, "[[1],2]",
     "bad_shape: data[1] is a number; expected was a list (byte 5); lists side by side must be "
     "equally long and equally deep"},
    {0, NULL, "[[],1]",
     "bad_shape: data[1] is a number; expected was a list (byte 4); lists side by side must be "
     "equally long and equally deep"},
    {0, NULL, "[[],[1]]",
     "bad_shape: data[1] has more than 0 items (byte 5); lists side by side must be equally long "
     "and equally deep"},
    {0, NULL, "[[],[[]]]",
     "bad_shape: data[1][0] is a list; expected was a number (byte 5); lists side by side must be "
     "equally long and equally deep"},
    {TD_COMPLEX64, "1", "[[1]]",
     "bad_shape: data[0] is no complex number (byte 3): expected was [re, im], the two parts in a "
     "list; real numbers alone need the shape to be given"},
    {TD_COMPLEX64, "1", "[[1,2,3]]",
     "bad_shape: data[0] is no complex number (byte 6): expected was [re, im], the two parts in a "
     "list; real numbers alone need the shape to be given"},
    {TD_COMPLEX64, "1", "[[]]",
     "bad_shape: data[0] is no complex number (byte 2): expected was [re, im], the two parts in a "
     "list; real numbers alone need the shape to be given"},
    {TD_COMPLEX64, "1", "[[1,[2]]]",
     "bad_shape: data[0] is no complex number (byte 4): expected was [re, im], the two parts in a "
     "list; real numbers alone need the shape to be given"},
    {TD_COMPLEX64, NULL, "[1,2,3]",
     "bad_shape: data is no complex number (byte 5): expected was [re, im], the two parts in a "
     "list; real numbers alone need the shape to be given"},
    {TD_COMPLEX64, "1", "[[1,2],[3,4]]",
     "bad_shape: data has more than 1 items (byte 7); the shape is [1]"},
};

#define NO_TOKEN                                                                                   \
    "; expected was a number of JSON's, true, false, \"NaN\", \"Infinity\" or \"-Infinity\""

static const struct document bad_data[] = {
    {TD_FLOAT32, "2", "[1,]", "invalid: data[0]: expected was a number or '[' at byte 3, not ']'"},
    {TD_FLOAT32, "2", "[,1]",
     "invalid: data[0]: expected was a number, '[' or ']' at byte 1, not ','"},
    {TD_FLOAT32, "2", "[1 2]", "invalid: data[0]: expected was ',' or ']' at byte 3, not '2'"},
    {TD_FLOAT32, "2", "[1,2}", "invalid: data[1]: expected was ',' or ']' at byte 4, not '}'"},
    {TD_FLOAT32, "2", "[1,2:3]", "invalid: data[1] is '2:3' (byte 3)" NO_TOKEN},
    {TD_FLOAT32, "1", "[null]", "invalid: data[0] is 'null' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[NaN]", "invalid: data[0] is 'NaN' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[01]", "invalid: data[0] is '01' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[1.]", "invalid: data[0] is '1.' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[.5]", "invalid: data[0] is '.5' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[+1]", "invalid: data[0] is '+1' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[0x1p3]", "invalid: data[0] is '0x1p3' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[1\v]", "invalid: data[0] is '1?' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[\"1\"]", "invalid: data[0] is '\"1\"' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[\"a]\"]", "invalid: data[0] is '\"a]\"' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[\"\\u004eaN\"]", "invalid: data[0] is '\"\\u004eaN\"' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[\"NaN\"5]", "invalid: data[0]: expected was ',' or ']' at byte 6, not '5'"},
    {TD_FLOAT32, "1", "[\xC3\xA9\xFF]", "invalid: data[0] is '\xC3\xA9?' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[{}]", "invalid: data[0] is '{' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[True]", "invalid: data[0] is 'True' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "null", "invalid: data is 'null' (byte 0)" NO_TOKEN},
    {0, NULL, "[null]", "invalid: data[0] is 'null' (byte 1)" NO_TOKEN},
    {0, NULL, "[1,01]", "invalid: data[1] is '01' (byte 3)" NO_TOKEN},
    {0, NULL, "[\"1\"]", "invalid: data[0] is '\"1\"' (byte 1)" NO_TOKEN},
    {0, NULL, "[1,]", "invalid: data[0]: expected was a number or '[' at byte 3, not ']'"},
    {0, NULL, "[\"\\\"]\"]", "invalid: data[0] is '\"\\\"' (byte 1)" NO_TOKEN},
    {TD_FLOAT32, "1", "[1",
     "invalid: the document ends at byte 2, in the middle of the data (at "
     "data[0])"},
    {TD_FLOAT32, "1", "[\"NaN",
     "invalid: the document ends at byte 5, in the middle of the data (at data[0])"},
    {TD_FLOAT32, "", "\"NaN",
     "invalid: the document ends at byte 4, in the middle of the data (at data)"},
    {0, NULL, "[[1],[2]",
     "invalid: the document ends at byte 8, in the middle of the data (at "
     "data[1])"},
    {TD_FLOAT32, "1", "[1]]",
     "invalid: the document has ended before byte 3, where ']' follows; expected was nothing but "
     "white space"},
    {TD_FLOAT32, "1", "[1] 2",
     "invalid: the document has ended before byte 4, where '2' follows; expected was nothing but "
     "white space"},
    {TD_FLOAT32, "", "1 2",
     "invalid: the document has ended before byte 2, where '2' follows; expected was nothing but "
     "white space"},
    {0, NULL, "[1] [2]",
     "invalid: the document has ended before byte 4, where '[' follows; expected was nothing but "
     "white space"},
    {0, NULL, "1,2",
     "invalid: the document has ended before byte 1, where ',' follows; expected was nothing but "
     "white space"},
    {TD_FLOAT32, "1", "]",
     "invalid: the data begins with ']' (byte 0); expected was '[' or a number"},
    {0, NULL, ",", "invalid: the data begins with ',' (byte 0); expected was '[' or a number"},
    {0, NULL, " \n ",
     "invalid: the document is empty; expected was JSON: an object with the member "
     "'data', or a list"},
    {TD_FLOAT32, "1", "\xEF\xBB\xBF[1]", "invalid: data is '\xEF\xBB\xBF[1' (byte 0)" NO_TOKEN},
};

static const struct document bad_members[] = {
    {0, NULL, "{}",
     "invalid: the document has no member 'data'; expected were the elements as "
     "nested lists"},
    {0, NULL, "{\"dtype\":\"int8\",\"shape\":[1]}",
     "invalid: the document has no member 'data'; expected were the elements as nested lists"},
    {0, NULL, "{\"Data\":[1]}", "invalid: there is no field 'Data'; GET /openapi.json lists them"},
    {0, NULL, "{\"data\":{}}",
     "invalid: the data begins with '{' (byte 8); expected was '[' or a number"},
    {0, NULL, "{\"data\": }",
     "invalid: the data begins with '}' (byte 9); expected was '[' or a number"},
    {0, NULL, "{\"data\":null}", "invalid: data is 'null' (byte 8)" NO_TOKEN},
    {TD_INT8, "1", "{\"data\":[1],\"data\":[1]}",
     "invalid: the document has the member 'data' more than once (byte 18)"},
    {0, NULL, "{\"data\":[1],\"d\\u0061ta\":[1]}",
     "invalid: the document has the member 'data' more than once (byte 23)"},
    {0, NULL, "{\"dtype\":\"int8\",\"dtype\":\"int8\",\"data\":[1]}",
     "invalid: the object that begins at byte 0 of the JSON document has the member 'dtype' more "
     "than once"},
    {TD_INT8, "1", "{\"dtype\":\"int8\",\"data\":[1],\"dtype\":\"int8\"}",
     "invalid: the object that begins at byte 0 of the JSON document has the member 'dtype' more "
     "than once"},
    {TD_INT8, NULL, "{\"dtype\":\"float32\",\"data\":[1]}",
     "invalid: the document says dtype float32, but int8 was asked for; leave one of them out"},
    {TD_INT8, "1", "{\"data\":[1],\"dtype\":\"float32\"}",
     "invalid: the document says dtype float32, but int8 was asked for; leave one of them out"},
    {0, "2", "{\"shape\":[1,2],\"data\":[1,2]}",
     "invalid: the document says shape [1, 2], but [2] was asked for; leave one of them out"},
    {TD_INT8, "2", "{\"data\":[1,2],\"shape\":[]}",
     "invalid: the document says shape [], but [2] was asked for; leave one of them out"},
    {0, NULL, "{\"shape\":[-1],\"data\":[1,2]}",
     "bad_shape: Trying to create tensor with negative dimension -1: [-1]"},
    {0, NULL, "{\"dtype\":\"int7\",\"data\":[1]}",
     "bad_dtype: 'dtype' is \"int7\"; expected was the name of a dtype, such as float32, <f4 or "
     "F32"},
    {TD_INT8, "1", "{\"data\":[1] \"name\":\"x\"}",
     "invalid: the JSON document is wrong at byte 12: expected ',' or '}', found '\"'"},
    {TD_INT8, "1", "{\"data\":[1],}",
     "invalid: the JSON document is wrong at byte 12: expected the name of a member in quotes, "
     "found '}'"},
    {TD_INT8, "1", "{\"data\":[1],\"a\":tru}",
     "invalid: the JSON document is wrong at byte 16: expected a value, found 't'"},
    {TD_INT8, "1", "  {\"x\" 1, \"data\":[1]}",
     "invalid: the JSON document is wrong at byte 7: expected ':', found '1'"},
    {TD_INT8, "1", "{\"x\" \"data\":[1]}",
     "invalid: the JSON document is wrong at byte 5: expected ':', found '\"'"},
    {TD_INT8, "1", "{\"x\":[1},\"data\":[1]}",
     "invalid: the JSON document is wrong at byte 7: expected ',' or ']', found '}'"},
    {TD_INT8, "1", "{\"data\":[1]:2}",
     "invalid: the JSON document is wrong at byte 11: expected ',' or '}', found ':'"},
    {TD_INT8, "1", "{\"data\":[1]]",
     "invalid: the JSON document is wrong at byte 11: expected ',' or '}', found ']'"},
    {TD_INT8, "1", "{\"data\":[1]}}",
     "invalid: the document has ended before byte 12, where '}' follows; expected was nothing but "
     "white space"},
    {TD_INT8, "1", "{\"data\":[1]",
     "invalid: the document ends at byte 11, before the '}' that ends its object"},
    {TD_INT8, "1",
     "{\"data\":", "invalid: the document ends at byte 8, before the '}' that ends its object"},
    {TD_INT8, "1", "{\"dat",
     "invalid: the document ends at byte 5, before the '}' that ends its object"},
    {0, NULL, "{\"data\":[1],\"name\":\"\xFF\"}",
     "invalid: the JSON document is wrong at byte 20: expected a character in UTF-8, found 0xff"},
    {0, NULL, "{\"data\":[1],\"name\":\"\\u0000\"}",
     "invalid: the JSON document is wrong at byte 20: expected a character other than \\u0000, "
     "which no text here may hold, found '\\'"},
    {0, NULL, "{\"data\":[\"\\\"]\"],\"name\":\"x\"}",
     "invalid: data[0] is '\"\\\"' (byte 9)" NO_TOKEN},
    {0, NULL, "{\"name\":{\"data\":[1]}}",
     "invalid: 'name' is an object; expected was a text, in UTF-8 and without NUL"},
    {0, NULL, "{\"name\":{\"a\":1,\"data\":[1]},\"data\":[1]}",
     "invalid: 'name' is an object; expected was a text, in UTF-8 and without NUL"},
    {0, NULL, "{\"data\":5,\"name\":1}",
     "invalid: 'name' is 1; expected was a text, in UTF-8 and without NUL"},
};

static void shapes_that_do_not_fit(void **state)
{
    (void)state;
    check_all(bad_shapes, COUNT(bad_shapes));
}

static void data_that_is_wrong(void **state)
{
    (void)state;
    check_all(bad_data, COUNT(bad_data));
    check_length(TD_FLOAT32, "1", "[1\0]", 4, "invalid: data[0] is '1?' (byte 1)" NO_TOKEN, false);
    check_length(0, NULL, "[1]\0", 4, "invalid: the document has ended before byte 3, where '?'",
                 true);
}

static void members_that_are_wrong(void **state)
{
    (void)state;
    check_all(bad_members, COUNT(bad_members));
}

/* The reader of numbers says what; the place is added. */
static void numbers_that_do_not_fit(void **state)
{
    (void)state;
    static const struct document numbers[] = {
        {TD_UINT8, "2,1", "[[1],[256]]", "bad_dtype: data[1][0] (byte 6): 256 is out of the range"},
        {TD_INT8, "1", "{\"data\":[0.5]}", "bad_dtype: data[0] (byte 9): 0.5 is no integer"},
        {TD_FLOAT16, "1", "[65520]", "bad_dtype: data[0] (byte 1): 65520 is out of the range"},
        {TD_INT64, "1", "[\"NaN\"]", "bad_dtype: data[0] (byte 1): \"NaN\" is no integer"},
        {0, NULL, "[9223372036854775808]", "bad_dtype: data[0] (byte 1): 9223372036854775808 is"},
        {0, NULL, "{\"data\":[[1,1e39]]}", "bad_dtype: data[0][1] (byte 12): 1e39 is out of the"},
    };
    for (size_t i = 0; i < COUNT(numbers); i++)
        check_length(numbers[i].dtype, numbers[i].shape, numbers[i].text, strlen(numbers[i].text),
                     numbers[i].result, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_that_do_not_fit),
        cmocka_unit_test(data_that_is_wrong),
        cmocka_unit_test(members_that_are_wrong),
        cmocka_unit_test(numbers_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
