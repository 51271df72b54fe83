/* json: what is a document and what is not, the exact texts of numbers, and that bad input costs no
 * more than its length. Every text lies in a buffer of exactly its size, so that the address
 * sanitizer sees each byte read past it. */
#include "tests/unit/core_assert.h"

#include "proto/format/json.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

static enum td_status parse(const char *text, size_t length, cJSON **out)
{
    char *copy = malloc(length > 0 ? length : 1);
    memcpy(copy, text, length);
    enum td_status status = json_parse(copy, length, out);
    free(copy);
    return status;
}

/* ---- good documents -------------------------------------------------------------------------- */

static size_t append(char *out, size_t at, size_t size, const char *text)
{
    return at + (size_t)snprintf(out + at, size - at, "%s", text);
}

static size_t render_string(const char *string, char *out, size_t at, size_t size)
{
    at = append(out, at, size, "<");
    at = append(out, at, size, string);
    return append(out, at, size, ">");
}

/* Writes the tree so that every byte of it counts: strings as they are in memory, between < and >,
 * and numbers by their texts. */
static size_t render(const cJSON *node, char *out, size_t at, size_t size)
{
    if (cJSON_IsNumber(node))
        return append(out, at, size, node->valuestring);
    if (cJSON_IsString(node))
        return render_string(node->valuestring, out, at, size);
    if (!node->child && !cJSON_IsArray(node) && !cJSON_IsObject(node))
        return append(out, at, size,
                      cJSON_IsTrue(node)    ? "true"
                      : cJSON_IsFalse(node) ? "false"
                      : cJSON_IsNull(node)  ? "null"
                                            : "strange");
    at = append(out, at, size, cJSON_IsArray(node) ? "[" : "{");
    for (const cJSON *item = node->child; item; item = item->next) {
        if (item != node->child)
            at = append(out, at, size, ",");
        assert_true(cJSON_IsObject(node) == (item->string != NULL));
        if (item->string) {
            at = render_string(item->string, out, at, size);
            at = append(out, at, size, ":");
        }
        at = render(item, out, at, size);
    }
    return append(out, at, size, cJSON_IsArray(node) ? "]" : "}");
}

static const struct {
    const char *text, *tree;
} good[] = {
    {"null", "null"},
    {" \t\r\n true \t\r\n ", "true"},
    {"[]", "[]"},
    {"{}", "{}"},
    {" [ ] ", "[]"},
    {" { } ", "{}"},
    {"[1,2 , [3,[]],{}]", "[1,2,[3,[]],{}]"},
    {"{\"a\" : [true,false,null], \"b\":{\"a\":0}}", "{<a>:[true,false,null],<b>:{<a>:0}}"},
    {"{\"\":1,\"a\":2,\"A\":3,\" a\":4}", "{<>:1,<a>:2,<A>:3,< a>:4}"},
    {"[{\"a\":1},{\"a\":1}]", "[{<a>:1},{<a>:1}]"},
    {"\"\"", "<>"},
    {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "<\"\\/\b\f\n\r\t>"},
    {"\"\\u0041\\u00e9\\u20AC\\uD83D\\ude00\\uffff\"",
     "<A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xEF\xBF\xBF>"},
    {"\"\\u0001\\u001f\x7f\"", "<\x01\x1f\x7f>"},
    {"\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF\"",
     "<\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF>"},
    {"\"\\\\u0000\"", "<\\u0000>"},
    /* Numbers are their own texts, also where cJSON's parser would cut or round them. */
    {"[0,-0,-0.0,1,-1,10,0.5,1e5,1E+5,1e-05,0e0]", "[0,-0,-0.0,1,-1,10,0.5,1e5,1E+5,1e-05,0e0]"},
    {"[18446744073709551615,-9223372036854775808,9007199254740993]",
     "[18446744073709551615,-9223372036854775808,9007199254740993]"},
    {"0.1000000000000000055511151231257827021181583404541015625000000000000000000000001",
     "0.1000000000000000055511151231257827021181583404541015625000000000000000000000001"},
    {"1e400", "1e400"},
    {"12345678901234567890123456789012345678901234567890123456789012345678901234567890",
     "12345678901234567890123456789012345678901234567890123456789012345678901234567890"},
};

static void good_documents(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        char tree[256];
        cJSON *root;
        if (parse(good[i].text, strlen(good[i].text), &root) != TD_OK)
            fail_msg("%s: %s", good[i].text, fail_detail());
        render(root, tree, 0, sizeof tree);
        assert_string_equal(tree, good[i].tree);
        cJSON_Delete(root);
    }
}

static void numbers_have_values(void **state)
{
    static const struct {
        const char *text;
        double value;
        int integer;
    } numbers[] = {
        {"0.1", 0.1, 0},
        {"-2.5e3", -2500, -2500},
        {"9007199254740993", 9007199254740992, INT32_MAX},
        {"1e400", (double)INFINITY, INT32_MAX},
        {"-1e400", -(double)INFINITY, INT32_MIN},
        {"4.9e-324", 4.9e-324, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(numbers); i++) {
        cJSON *root;
        assert_ok(parse(numbers[i].text, strlen(numbers[i].text), &root));
        assert_memory_equal(&root->valuedouble, &numbers[i].value, sizeof(double));
        assert_int_equal(root->valueint, numbers[i].integer);
        cJSON_Delete(root);
    }
}

/* ---- bad documents --------------------------------------------------------------------------- */

#define BAD(text, byte, expected)                                                                  \
    {                                                                                              \
        text, sizeof(text) - 1, byte, expected                                                     \
    }

static const struct {
    const char *text;
    size_t length, byte;
    const char *expected;
} bad[] = {
    BAD("", 0, "a value, found the end"),
    BAD("  \n", 3, "a value, found the end"),
    BAD("[1,]", 3, "a value, found ']'"),
    BAD("[,1]", 1, "a value, found ','"),
    BAD("[1,,2]", 3, "a value, found ','"),
    BAD("[1 2]", 3, "',' or ']', found '2'"),
    BAD("[1", 2, "',' or ']', found the end"),
    BAD("[", 1, "a value, found the end"),
    BAD("]", 0, "a value, found ']'"),
    BAD("[}", 1, "a value, found '}'"),
    BAD("[1}", 2, "',' or ']', found '}'"),
    BAD("{", 1, "the name of a member in quotes, found the end"),
    BAD("{]", 1, "the name of a member in quotes, found ']'"),
    BAD("{\"a\"", 4, "':', found the end"),
    BAD("{\"a\" 1}", 5, "':', found '1'"),
    BAD("{\"a\",1}", 4, "':', found ','"),
    BAD("{\"a\":", 5, "a value, found the end"),
    BAD("{\"a\":}", 5, "a value, found '}'"),
    BAD("{\"a\":1", 6, "',' or '}', found the end"),
    BAD("{\"a\":1]", 6, "',' or '}', found ']'"),
    BAD("{\"a\":1,}", 7, "the name of a member in quotes, found '}'"),
    BAD("{\"a\":1 \"b\":2}", 7, "',' or '}', found '\"'"),
    BAD("{a:1}", 1, "the name of a member in quotes, found 'a'"),
    BAD("{1:2}", 1, "the name of a member in quotes, found '1'"),
    BAD("{'a':1}", 1, "the name of a member in quotes, found '''"),
    BAD("{null:1}", 1, "the name of a member in quotes"),
    BAD("01", 0, "a number"),
    BAD("-01", 0, "a number"),
    BAD("-", 0, "a number"),
    BAD("-a", 0, "a number"),
    BAD("1.", 0, "a number"),
    BAD("1.e3", 0, "a number"),
    BAD("[1,1e]", 3, "a number"),
    BAD("1e+", 0, "a number"),
    BAD("1e+.5", 0, "a number"),
    BAD("+1", 0, "a value, found '+'"),
    BAD(".5", 0, "a value, found '.'"),
    BAD("0x10", 1, "nothing but white space after the end, found 'x'"),
    BAD("1_000", 1, "nothing but white space"),
    BAD("1.5.2", 3, "nothing but white space"),
    BAD("1 2", 2, "nothing but white space after the end, found '2'"),
    BAD("[][]", 2, "nothing but white space"),
    BAD("{}x", 2, "nothing but white space"),
    BAD("[1]\0", 3, "nothing but white space after the end, found '?'"),
    BAD("\0", 0, "a value, found '?'"),
    BAD("[1]//", 3, "nothing but white space"),
    BAD("/**/1", 0, "a value, found '/'"),
    BAD("NaN", 0, "a value, found 'N'"),
    BAD("Infinity", 0, "a value"),
    BAD("-Infinity", 0, "a number"),
    BAD("nul", 0, "a value"),
    BAD("nulll", 4, "nothing but white space"),
    BAD("True", 0, "a value"),
    BAD("truefalse", 4, "nothing but white space"),
    BAD("\xEF\xBB\xBF{}", 0, "a value, found 0xef"),
    BAD("\xC2\xA0[]", 0, "a value, found 0xc2"),
    BAD("\f[]", 0, "a value, found '?'"),
    BAD("\"", 1, "a '\"' that ends the string, found the end"),
    BAD("\"abc", 4, "a '\"' that ends the string, found the end"),
    BAD("\"\\\"", 3, "a '\"' that ends the string"),
    BAD("\"\\", 1, "an escape"),
    BAD("\"a\\x41\"", 2, "an escape: one of"),
    BAD("\"\\\0\"", 1, "an escape: one of"),
    BAD("\"\\U0041\"", 1, "an escape: one of"),
    BAD("\"\\u12\"", 1, "four hexadecimal digits"),
    BAD("\"\\u123g\"", 1, "four hexadecimal digits"),
    BAD("\"\\u", 1, "four hexadecimal digits"),
    BAD("\"\\u+123\"", 1, "four hexadecimal digits"),
    BAD("\"ab\\u0000\"", 3, "a character other than \\u0000"),
    BAD("{\"\\u0000\":1}", 2, "a character other than \\u0000"),
    BAD("\"\\ud800\"", 1, "a surrogate pair"),
    BAD("\"\\ud800x\"", 1, "a surrogate pair"),
    BAD("\"\\ud800\\n\"", 1, "a surrogate pair"),
    BAD("\"\\ud800\\u0041\"", 1, "a surrogate pair"),
    BAD("\"\\ud800\\ud800\"", 1, "a surrogate pair"),
    BAD("\"\\ud800\\u", 1, "a surrogate pair"),
    BAD("\"\\udc00\\ud800\"", 1, "a surrogate pair"),
    BAD("\"\\udc00\\udc00\"", 1, "a surrogate pair"),
    BAD("\"\\udfff\"", 1, "a surrogate pair"),
    BAD("\"a\nb\"", 2, "an escape, since strings hold no control characters"),
    BAD("\"\t\"", 1, "an escape, since strings"),
    BAD("\"a\0b\"", 2, "an escape, since strings"),
    BAD("\"\x80\"", 1, "a character in UTF-8, found 0x80"),
    BAD("\"\xC0\xAF\"", 1, "a character in UTF-8"),
    BAD("\"\xE2\x82\"", 1, "a character in UTF-8"),
    BAD("\"\xE2\x82", 1, "a character in UTF-8"),
    BAD("\"\xED\xA0\x80\"", 1, "a character in UTF-8"),
    BAD("\"\xF4\x90\x80\x80\"", 1, "a character in UTF-8"),
    BAD("\"\xFF\"", 1, "a character in UTF-8"),
};

static void bad_documents(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        char where[64];
        cJSON *root = NULL;
        snprintf(where, sizeof where, "at byte %zu: expected ", bad[i].byte);
        enum td_status status = parse(bad[i].text, bad[i].length, &root);
        if (status != TD_INVALID || !strstr(fail_detail(), where) ||
            !strstr(fail_detail(), bad[i].expected))
            fail_msg("%s: not byte %zu, %s, but %s: %s", bad[i].text, bad[i].byte, bad[i].expected,
                     td_status_name((int)status), fail_detail());
        assert_null(root);
    }
}

/* Every beginning of a document is none. */
static void truncations(void **state)
{
    static const char text[] = "{\"a\":[1,-2.5e+3,\"\\u00e9\\ud83d\\ude00\xC3\xA9\"],\"b\":{\"c\":"
                               "null,\"d\":[]},\"e\":true}";
    cJSON *root;
    (void)state;
    for (size_t length = 0; length < sizeof text - 1; length++)
        assert_refused(parse(text, length, &root), TD_INVALID, "byte");
    assert_ok(parse(text, sizeof text - 1, &root));
    cJSON_Delete(root);
}

static void duplicates(void **state)
{
    static const struct {
        const char *text, *part;
    } twice[] = {
        {"{\"a\":1,\"a\":1}", "begins at byte 0 of the JSON document has the member 'a'"},
        {"{\"a\":1,\"b\":2,\"\\u0061\":3}", "byte 0 of the JSON document has the member 'a'"},
        {"[{\"x\":{\"\":1,\"\":2}}]", "begins at byte 6 of the JSON document has the member ''"},
    };
    cJSON *root;
    (void)state;
    for (size_t i = 0; i < COUNT(twice); i++)
        assert_refused(parse(twice[i].text, strlen(twice[i].text), &root), TD_INVALID,
                       twice[i].part);
    /* Wherever the second of many stands. */
    for (int second = 1; second < 40; second++) {
        char text[1024] = "{";
        size_t at = 1;
        for (int i = 0; i < 40; i++)
            at += (size_t)snprintf(text + at, sizeof text - at, "%s\"key%d\":%d", i > 0 ? "," : "",
                                   i == second ? second / 2 : i, i);
        at = append(text, at, sizeof text, "}");
        assert_refused(parse(text, at, &root), TD_INVALID, "more than once");
    }
}

static void depth(void **state)
{
    char text[2 * (JSON_DEPTH_MAX + 1)];
    cJSON *root;
    (void)state;
    for (int levels = JSON_DEPTH_MAX; levels <= JSON_DEPTH_MAX + 1; levels++) {
        memset(text, '[', (size_t)levels);
        memset(text + levels, ']', (size_t)levels);
        if (levels > JSON_DEPTH_MAX) {
            assert_refused(parse(text, (size_t)levels * 2, &root), TD_INVALID,
                           "deeper than 32 levels at byte 32");
            break;
        }
        assert_ok(parse(text, (size_t)levels * 2, &root));
        cJSON_Delete(root);
    }
}

/* ---- bounds ---------------------------------------------------------------------------------- */

static void length_limit(void **state)
{
    char *text = malloc(JSON_DOCUMENT_MAX + 1);
    cJSON *root;
    (void)state;
    memset(text, ' ', JSON_DOCUMENT_MAX + 1);
    text[0] = '1';
    assert_ok(parse(text, JSON_DOCUMENT_MAX, &root));
    cJSON_Delete(root);
    assert_refused(parse(text, JSON_DOCUMENT_MAX + 1, &root), TD_TOO_LARGE,
                   "has 1048577 bytes; the limit is 1048576");
    free(text);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Fills a document of JSON_DOCUMENT_MAX bytes with members whose names begin alike, and are in no
 * order. */
static size_t many_members(char *text, int prefix, bool last_twice)
{
    size_t at = 0, size = JSON_DOCUMENT_MAX;
    unsigned n = 0;
    for (; at + 2 * ((size_t)prefix + 32) < size; n++)
        at += (size_t)snprintf(text + at, size - at, "%c\"%0*d%u\":0", n > 0 ? ',' : '{', prefix, 0,
                               n * 2654435761U);
    if (last_twice)
        at += (size_t)snprintf(text + at, size - at, ",\"%0*d%u\":0", prefix, 0,
                               (n / 2) * 2654435761U);
    text[at++] = '}';
    return at;
}

/* Takes the sanitizers' time into account; anything quadratic would take hours. */
static void long_documents(void **state)
{
    static const int prefixes[] = {0, 100, 5000};
    char *text = malloc(JSON_DOCUMENT_MAX);
    double begun = seconds();
    cJSON *root;
    (void)state;
    for (size_t i = 0; i < COUNT(prefixes); i++) {
        size_t length = many_members(text, prefixes[i], false);
        assert_ok(parse(text, length, &root));
        cJSON_Delete(root);
        length = many_members(text, prefixes[i], true);
        assert_refused(parse(text, length, &root), TD_INVALID, "more than once");
    }
    memset(text, ',', JSON_DOCUMENT_MAX);
    for (size_t i = 1; i < JSON_DOCUMENT_MAX; i += 2)
        text[i] = '1';
    text[0] = '[';
    text[JSON_DOCUMENT_MAX - 1] = ']';
    assert_refused(parse(text, JSON_DOCUMENT_MAX, &root), TD_INVALID, "found ']'");
    text[JSON_DOCUMENT_MAX - 2] = ' ';
    assert_ok(parse(text, JSON_DOCUMENT_MAX, &root));
    assert_int_equal(cJSON_GetArraySize(root), JSON_DOCUMENT_MAX / 2 - 1);
    cJSON_Delete(root);
    if (seconds() - begun > 10)
        fail_msg("took %.1f s", seconds() - begun);
    free(text);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int allocations_left;

static void *malloc_some(size_t size)
{
    return allocations_left-- > 0 ? malloc(size) : NULL;
}

/* Whichever allocation fails, it is said and nothing is left behind (the sanitizer looks). */
static void out_of_memory(void **state)
{
    static const char text[] = "{\"a\":[1,\"b\",{\"c\":null,\"d\":2.5}],\"e\":[]}";
    cJSON_Hooks hooks = {malloc_some, free};
    enum td_status status = TD_OUT_OF_MEMORY;
    cJSON *root;
    int enough = 0;
    (void)state;
    cJSON_InitHooks(&hooks);
    for (; status != TD_OK && enough < 100; enough++) {
        allocations_left = enough;
        status = parse(text, sizeof text - 1, &root);
        if (status != TD_OK)
            assert_refused(status, TD_OUT_OF_MEMORY, "no memory for a JSON document of 39 bytes");
    }
    cJSON_InitHooks(NULL);
    assert_ok(status);
    cJSON_Delete(root);
    assert_int_equal(enough - 1, 15); /* 8 nodes, 4 names, a string and 2 numbers */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_documents), cmocka_unit_test(numbers_have_values),
        cmocka_unit_test(bad_documents),  cmocka_unit_test(truncations),
        cmocka_unit_test(duplicates),     cmocka_unit_test(depth),
        cmocka_unit_test(length_limit),   cmocka_unit_test(long_documents),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
