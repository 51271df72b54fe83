/* number: elements as decimal text, hand-picked values and the edges of every dtype.
 * tests/semantics/test_number.py compares with other implementations. */
#include "core_assert.h"
#include "proto/format/number.h"

#include <inttypes.h>
#include <stdlib.h>

static uint64_t bits_of_double(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static uint64_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* At an odd address, and in memory of its own, so that nothing else can be read or written. */
static size_t written(enum td_dtype dtype, const void *element, char *text)
{
    size_t size = td_dtype_size((int)dtype);
    char *copy = malloc(size + 1), *out = malloc(NUMBER_TEXT_MAX);
    memcpy(copy + 1, element, size);
    size_t length = number_write(dtype, copy + 1, out);
    assert_true(length > 0 && length <= NUMBER_TEXT_MAX);
    memcpy(text, out, length);
    text[length] = '\0';
    free(copy);
    free(out);
    return length;
}

static enum td_status read_text(enum td_dtype dtype, const char *token, uint64_t *bits)
{
    size_t length = strlen(token), size = td_dtype_size((int)dtype);
    char *copy = malloc(length + 1), *element = malloc(size + 1);
    memcpy(copy, token, length); /* without the NUL */
    char *exact = realloc(copy, length ? length : 1);
    enum td_status status = number_read(dtype, exact, length, element + 1);
    *bits = 0;
    if (status == TD_OK)
        memcpy(bits, element + 1, size);
    free(exact);
    free(element);
    return status;
}

static void expect_written(enum td_dtype dtype, uint64_t bits, const char *want)
{
    char text[NUMBER_TEXT_MAX + 1];
    written(dtype, &bits, text);
    assert_string_equal(text, want);
}

static void expect_read(enum td_dtype dtype, const char *token, uint64_t want)
{
    uint64_t bits;
    enum td_status status = read_text(dtype, token, &bits);
    if (status != TD_OK || bits != want)
        fail_msg("%s as %s: 0x%" PRIx64 " (%s), not 0x%" PRIx64, token, td_dtype_name((int)dtype),
                 bits, status == TD_OK ? "ok" : fail_detail(), want);
}

static void expect_refused(enum td_dtype dtype, const char *token, enum td_status want,
                           const char *part)
{
    uint64_t bits;
    assert_refused(read_text(dtype, token, &bits), want, part);
    if (want == TD_BAD_DTYPE && strlen(token) < 40)
        assert_non_null(strstr(fail_detail(), token));
}

static void expect_both(enum td_dtype dtype, uint64_t bits, const char *text)
{
    expect_written(dtype, bits, text);
    expect_read(dtype, text, bits);
}

static void test_float64(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } rows[] = {
        {0.0, "0.0"},
        {-0.0, "-0.0"},
        {1.0, "1.0"},
        {-1.5, "-1.5"},
        {0.1, "0.1"},
        {0.1 + 0.2, "0.30000000000000004"},
        {1.0 / 3, "0.3333333333333333"},
        {100.0, "100.0"},
        {1e15, "1000000000000000.0"},
        {9007199254740993.0, "9007199254740992.0"},
        {9999999999999998.0, "9999999999999998.0"},
        {1e16, "1e+16"},
        {1.5e16, "1.5e+16"},
        {1e22, "1e+22"},
        {1e23, "1e+23"},
        {9.5e-3, "0.0095"},
        {1e-4, "0.0001"},
        {0.00012345678901234567, "0.00012345678901234567"},
        {1e-5, "1e-05"},
        {1.25e-5, "1.25e-05"},
        {1e100, "1e+100"},
        {5e-324, "5e-324"},
        {1e-323, "1e-323"},
        {2.2250738585072011e-308, "2.225073858507201e-308"},
        {2.2250738585072014e-308, "2.2250738585072014e-308"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {8.98846567431158e+307, "8.98846567431158e+307"}, /* a power of two */
        {5.684341886080802e-14, "5.684341886080802e-14"}, /* of two with 16 digits the closer */
        {1125899906842624.25, "1125899906842624.2"},      /* half way: even */
        {1125899906842624.75, "1125899906842624.8"},
        {2251799813685249.5, "2251799813685249.5"},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        expect_both(TD_FLOAT64, bits_of_double(rows[i].value), rows[i].text);
    expect_both(TD_FLOAT64, 0x7FF8000000000000, "\"NaN\"");
    expect_both(TD_FLOAT64, 0x7FF0000000000000, "\"Infinity\"");
    expect_both(TD_FLOAT64, 0xFFF0000000000000, "\"-Infinity\"");
    expect_written(TD_FLOAT64, 0xFFF8000000000001, "\"NaN\"");
    expect_written(TD_FLOAT64, 0x7FF0000000000001, "\"NaN\"");
}

static void test_float32(void **state)
{
    (void)state;
    static const struct {
        float value;
        const char *text;
    } rows[] = {
        {0.1f, "0.1"},
        {-0.0f, "-0.0"},
        {16777216.0f, "16777216.0"},
        {33554432.0f, "33554432.0"},
        {1e10f, "10000000000.0"},
        {3.4028235e38f, "3.4028235e+38"},
        {1.1754944e-38f, "1.1754944e-38"},
        {1e-45f, "1e-45"},
        {0.3f, "0.3"},
        {1.0f / 3, "0.33333334"},
        {8.5070592e37f, "8.507059e+37"}, /* a power of two */
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        expect_both(TD_FLOAT32, bits_of_float(rows[i].value), rows[i].text);
    expect_both(TD_FLOAT32, 0x7FC00000, "\"NaN\"");
    expect_both(TD_FLOAT32, 0xFF800000, "\"-Infinity\"");
}

static void test_narrow_floats(void **state)
{
    (void)state;
    expect_both(TD_FLOAT16, 0x2E66, "0.1");
    expect_both(TD_FLOAT16, 0x7BFF, "65500.0");
    expect_read(TD_FLOAT16, "65504", 0x7BFF);
    expect_both(TD_FLOAT16, 0x0001, "6e-08");
    expect_both(TD_FLOAT16, 0x8000, "-0.0");
    expect_both(TD_FLOAT16, 0x7C00, "\"Infinity\"");
    expect_both(TD_FLOAT16, 0x7E00, "\"NaN\"");
    expect_both(TD_BFLOAT16, 0x3DCD, "0.1");
    expect_both(TD_BFLOAT16, 0x7F7F, "3.39e+38");
    expect_both(TD_BFLOAT16, 0x0001, "9e-41");
    expect_both(TD_BFLOAT16, 0x7FC0, "\"NaN\"");
    expect_both(TD_FLOAT8_E4M3FN, 0x01, "0.002");
    expect_both(TD_FLOAT8_E4M3FN, 0x38, "1.0");
    expect_read(TD_FLOAT8_E4M3FN, "448", 0x7E);
    expect_both(TD_FLOAT8_E4M3FN, 0x7F, "\"NaN\"");
    expect_written(TD_FLOAT8_E4M3FN, 0xFF, "\"NaN\"");
    expect_both(TD_FLOAT8_E5M2, 0x01, "2e-05");
    expect_both(TD_FLOAT8_E5M2, 0xBC, "-1.0");
    expect_both(TD_FLOAT8_E5M2, 0x7C, "\"Infinity\"");
    expect_both(TD_FLOAT8_E5M2, 0x7F, "\"NaN\"");
    expect_written(TD_FLOAT8_E5M2, 0x7D, "\"NaN\"");
}

static void test_integers_bool_complex(void **state)
{
    (void)state;
    expect_both(TD_UINT8, 255, "255");
    expect_both(TD_INT8, 0x80, "-128");
    expect_both(TD_INT16, 0xFFFF, "-1");
    expect_both(TD_INT32, 99999999, "99999999");
    expect_both(TD_INT32, 100000000, "100000000");
    expect_both(TD_INT64, 0, "0");
    expect_both(TD_INT64, 9999999999999999, "9999999999999999");
    expect_both(TD_INT64, 10000000000000000, "10000000000000000");
    expect_both(TD_INT64, UINT64_C(1) << 63, "-9223372036854775808");
    expect_both(TD_UINT64, UINT64_MAX, "18446744073709551615");
    expect_both(TD_BOOL, 1, "true");
    expect_both(TD_BOOL, 0, "false");
    expect_written(TD_BOOL, 7, "true");
    char text[NUMBER_TEXT_MAX + 1];
    written(TD_COMPLEX64, (float[]){0.1f, -2}, text);
    assert_string_equal(text, "[0.1,-2.0]");
    double longest = -2.2250738585072014e-308, pair[] = {longest, longest};
    assert_int_equal(written(TD_COMPLEX128, pair, text), 51);
    assert_string_equal(text, "[-2.2250738585072014e-308,-2.2250738585072014e-308]");
}

/* Every integer dtype at its limits, in several spellings, and one past them. */
static void test_integer_limits(void **state)
{
    (void)state;
    static const struct {
        enum td_dtype dtype;
        const char *least, *below, *greatest, *above;
    } rows[] = {
        {TD_BOOL, "0", "-1", "1", "2"},
        {TD_UINT8, "0", "-1", "255", "256"},
        {TD_INT8, "-128", "-129", "127", "128"},
        {TD_UINT16, "0", "-1", "65535", "65536"},
        {TD_INT16, "-32768", "-32769", "32767", "32768"},
        {TD_UINT32, "0", "-1", "4294967295", "4294967296"},
        {TD_INT32, "-2147483648", "-2147483649", "2147483647", "2147483648"},
        {TD_UINT64, "0", "-1", "18446744073709551615", "18446744073709551616"},
        {TD_INT64, "-9223372036854775808", "-9223372036854775809", "9223372036854775807",
         "9223372036854775808"},
    };
    static const char *endings[] = {"", ".0", ".000000000000000000000000", "e0", "00E-2", ".00e+0"};
    char token[128];
    for (size_t i = 0; i < COUNT(rows); i++)
        for (size_t k = 0; k < COUNT(endings); k++) {
            uint64_t mask = UINT64_MAX >> (64 - 8 * td_dtype_size((int)rows[i].dtype));
            if (strcmp(rows[i].least, "0") != 0 || k != 4) { /* 000E-2 is no number */
                snprintf(token, sizeof token, "%s%s", rows[i].least, endings[k]);
                expect_read(rows[i].dtype, token,
                            (uint64_t)strtoll(rows[i].least, NULL, 10) & mask);
            }
            snprintf(token, sizeof token, "%s%s", rows[i].greatest, endings[k]);
            expect_read(rows[i].dtype, token, strtoull(rows[i].greatest, NULL, 10));
            snprintf(token, sizeof token, "%s%s", rows[i].below, endings[k]);
            expect_refused(rows[i].dtype, token, TD_BAD_DTYPE, "out of the range");
            snprintf(token, sizeof token, "%s%s", rows[i].above, endings[k]);
            expect_refused(rows[i].dtype, token, TD_BAD_DTYPE, "out of the range");
        }
    expect_refused(TD_INT8, "-129", TD_BAD_DTYPE, "int8, which is -128 to 127;");
    expect_refused(TD_UINT64, "-1", TD_BAD_DTYPE,
                   "uint64, which is 0 to 18446744073709551615; send a number within it");
}

static void test_integers_of_other_spellings(void **state)
{
    (void)state;
    expect_read(TD_INT32, "1e3", 1000);
    expect_read(TD_INT32, "2.0", 2);
    expect_read(TD_INT32, "12.5e1", 125);
    expect_read(TD_INT32, "1500e-2", 15);
    expect_read(TD_INT32, "-0", 0);
    expect_read(TD_UINT8, "-0.0e5", 0);
    expect_read(TD_UINT8, "0e999999999999999999999", 0);
    expect_read(TD_UINT8, "true", 1);
    expect_read(TD_INT64, "false", 0);
    expect_read(TD_BOOL, "1e0", 1);
    expect_read(TD_UINT64, "0.000000000000000000000000018446744073709551615e45",
                UINT64_C(18446744073709551615));
    expect_refused(TD_INT32, "1.5", TD_BAD_DTYPE, "1.5 is no integer, and int32 holds only these");
    expect_refused(TD_INT32, "1e-1", TD_BAD_DTYPE, "no integer");
    expect_refused(TD_INT32, "1e-999999999999999999999", TD_BAD_DTYPE, "no integer");
    expect_refused(TD_INT64, "1.00000000000000000000000000000000000001", TD_BAD_DTYPE,
                   "no integer");
    expect_refused(TD_INT64, "1e999999999999999999999", TD_BAD_DTYPE, "out of the range");
    expect_refused(TD_BOOL, "0.5", TD_BAD_DTYPE, "no integer");
    expect_refused(TD_INT32, "\"NaN\"", TD_BAD_DTYPE, "no integer");
    expect_refused(TD_INT32, "\"-Infinity\"", TD_BAD_DTYPE, "no integer");
}

static const enum td_dtype floats[] = {TD_FLOAT64,  TD_FLOAT32,       TD_FLOAT16,
                                       TD_BFLOAT16, TD_FLOAT8_E4M3FN, TD_FLOAT8_E5M2};

/* The largest finite value of each float, and from where on it is out of range: one half unit
 * above it, the tie belonging to the even neighbour. */
static void test_float_limits(void **state)
{
    (void)state;
    static const struct {
        enum td_dtype dtype;
        uint64_t largest;
        const char *last, *beyond;
    } rows[] = {
        {TD_FLOAT32, 0x7F7FFFFF, "340282356779733661637539395458142568447.999999999999999999999",
         "340282356779733661637539395458142568448"},
        {TD_FLOAT16, 0x7BFF, "65519.99999999999999999999999999999999", "65520"},
        {TD_BFLOAT16, 0x7F7F, "339617752923046005526922703901628039167.9",
         "339617752923046005526922703901628039168"},
        {TD_FLOAT8_E4M3FN, 0x7E, "464", "464.0000000000000000000000000000000000000000001"},
        {TD_FLOAT8_E5M2, 0x7B, "61439.999999999999999999999999999999999999999", "61440"},
    };
    char token[1200];
    for (size_t i = 0; i < COUNT(rows); i++) {
        expect_read(rows[i].dtype, rows[i].last, rows[i].largest);
        expect_refused(rows[i].dtype, rows[i].beyond, TD_BAD_DTYPE, "out of the range");
    }
    expect_refused(TD_FLOAT16, "-1e5", TD_BAD_DTYPE, "float16, which is -65504.0 to 65504.0;");
    expect_refused(TD_FLOAT8_E4M3FN, "\"Infinity\"", TD_BAD_DTYPE, "out of the range");
    /* float64: 2^1024 - 2^971, and 2^970 more, to the last digit */
    snprintf(token, sizeof token, "%.0f", 1.7976931348623157e308);
    expect_read(TD_FLOAT64, token, 0x7FEFFFFFFFFFFFFF);
    const char *tie =
        "179769313486231580793728971405303415079934132710037826936173778980444968292764"
        "750946649017977587207096330286416692887910946555547851940402630657488671505820"
        "681908902000708383676273854845817711531764475730270069855571366959622842914819"
        "860834936475292719074168444365510704342711559699508093042880177904174497792";
    expect_refused(TD_FLOAT64, tie, TD_BAD_DTYPE, "1797693134862315807937289714053034150799...");
    snprintf(token, sizeof token, "%.*s1.99999", (int)strlen(tie) - 1, tie);
    expect_read(TD_FLOAT64, token, 0x7FEFFFFFFFFFFFFF);
    for (size_t i = 0; i < COUNT(floats); i++) {
        expect_refused(floats[i], "1e999999999999999999999999", TD_BAD_DTYPE, "out of the range");
        expect_refused(floats[i], "-1e310", TD_BAD_DTYPE, "out of the range");
        expect_read(floats[i], "1e-999999999999999999999999", 0);
        expect_read(floats[i], "0e999999999999999999999999", 0);
        expect_read(floats[i], "0.0000000000000000000000000000000000000000000e12", 0);
        uint64_t sign = UINT64_C(1) << (8 * td_dtype_size((int)floats[i]) - 1);
        expect_read(floats[i], "-0", sign);
        expect_read(floats[i], "-1e-400", sign);
        expect_read(floats[i], "false", 0);
    }
    expect_read(TD_FLOAT32, "true", bits_of_float(1));
}

static void test_ties_and_subnormals(void **state)
{
    (void)state;
    /* Between 2^53 and its neighbours. */
    expect_read(TD_FLOAT64, "9007199254740993", bits_of_double(9007199254740992));
    expect_read(TD_FLOAT64, "9007199254740995", bits_of_double(9007199254740996));
    expect_read(TD_FLOAT64, "9007199254740993.0000000000000000000000000000000000000001",
                bits_of_double(9007199254740994));
    /* Through float64 this would be a tie, and round to the even 1. */
    expect_read(TD_FLOAT32, "1.00000005960464477539062500000000000000001", 0x3F800001);
    expect_read(TD_FLOAT32, "1.000000059604644775390625", 0x3F800000);
    expect_read(TD_FLOAT16, "1.00048828125", 0x3C00);
    expect_read(TD_FLOAT16, "1.00048828125000000000000000000000000001", 0x3C01);
    expect_read(TD_BFLOAT16, "1.00390625", 0x3F80);
    expect_read(TD_BFLOAT16, "1.01171875", 0x3F82);
    expect_read(TD_FLOAT8_E4M3FN, "1.0625", 0x38);
    expect_read(TD_FLOAT8_E4M3FN, "1.1875", 0x3A);
    expect_read(TD_FLOAT8_E5M2, "1.125", 0x3C);
    expect_read(TD_FLOAT8_E5M2, "1.375", 0x3E);
    /* Half of the least subnormal number is a tie with 0. */
    expect_read(TD_FLOAT16, "2.98023223876953125e-8", 0);
    expect_read(TD_FLOAT16, "2.98023223876953126e-8", 1);
    expect_read(TD_FLOAT8_E4M3FN, "0.0009765625", 0);
    expect_read(TD_FLOAT8_E4M3FN, "9.765626e-4", 1);
    expect_read(TD_FLOAT8_E4M3FN, "0.0029296875", 2);
    expect_read(TD_FLOAT64, "2.4703282292062327e-324", 0);
    expect_read(TD_FLOAT64, "2.4703282292062328e-324", 1);
    expect_read(TD_FLOAT64, "2.2250738585072012e-308", 0x0010000000000000);
    expect_read(TD_FLOAT64, "2.2250738585072011e-308", 0x000FFFFFFFFFFFFF);
    /* Of many digits, and with exponents that make up for zeros. */
    char token[4096];
    memset(token, '0', sizeof token);
    memcpy(token, "0.", 2);
    strcpy(token + 3000, "25e2999");
    expect_read(TD_FLOAT64, token, bits_of_double(2.5));
    memset(token, '0', sizeof token);
    token[0] = '4';
    strcpy(token + 3000, ".0e-3000");
    expect_read(TD_FLOAT64, token, bits_of_double(0.4));
    /* One digit far behind a tie. */
    memset(token, '0', sizeof token);
    memcpy(token, "9007199254740993.", 17);
    strcpy(token + 4000, "1");
    expect_read(TD_FLOAT64, token, bits_of_double(9007199254740994));
    strcpy(token + 4000, "0");
    expect_read(TD_FLOAT64, token, bits_of_double(9007199254740992));
}

static void test_no_tokens(void **state)
{
    (void)state;
    static const char *tokens[] = {
        "",     "-",     "+1",      "01",     "-01",      "00",        ".5",
        "-.5",  "1.",    "1.e3",    "1e",     "1e+",      "1e-",       "1e1.0",
        "0x10", "1_0",   "1,0",     " 1",     "1 ",       "1\n",       "1f",
        "nan",  "NaN",   "\"nan\"", "inf",    "-inf",     "Infinity",  "-true",
        "True", "true ", "null",    "\"1\"",  "\"NaN",    "NaN\"",     "--1",
        "1-",   "1e1e1", "1..2",    "1.2.3",  "[1]",      "\"\"",      "-\"Infinity\"",
        "e5",   "-e5",   "tru",     "falsey", "\xc3\xa9", "1\xc3\xa9", "\"+Infinity\"",
    };
    for (size_t i = 0; i < COUNT(tokens); i++) {
        struct scalar scalar;
        expect_refused(TD_FLOAT64, tokens[i], TD_INVALID, "is no element; expected a JSON number");
        expect_refused(TD_INT32, tokens[i], TD_INVALID, "is no element");
        assert_refused(number_read_scalar(tokens[i], strlen(tokens[i]), &scalar), TD_INVALID,
                       "is no element");
    }
    /* Nothing but what can be printed reaches the message, and not much of it. */
    expect_refused(TD_FLOAT64, "1\xc3\xa9", TD_INVALID, "'1...' is no element");
    expect_refused(TD_FLOAT64, "x23456789012345678901234567890123456789012345", TD_INVALID,
                   "'x234567890123456789012345678901234567890...' is no element");
}

static void expect_scalar(const char *token, struct scalar want)
{
    struct scalar got;
    memset(&got, 0, sizeof got);
    assert_ok(number_read_scalar(token, strlen(token), &got));
    assert_int_equal(got.kind, want.kind);
    if (want.kind == SCALAR_BOOL)
        assert_int_equal(got.b, want.b);
    else
        assert_memory_equal(&got.u, &want.u, sizeof got.u);
}

static void test_scalars(void **state)
{
    (void)state;
    expect_scalar("true", (struct scalar){.kind = SCALAR_BOOL, .b = true});
    expect_scalar("false", (struct scalar){.kind = SCALAR_BOOL, .b = false});
    expect_scalar("0", (struct scalar){.kind = SCALAR_INT, .i = 0});
    expect_scalar("-0", (struct scalar){.kind = SCALAR_INT, .i = 0});
    expect_scalar("-7", (struct scalar){.kind = SCALAR_INT, .i = -7});
    expect_scalar("9223372036854775807", (struct scalar){.kind = SCALAR_INT, .i = INT64_MAX});
    expect_scalar("-9223372036854775808", (struct scalar){.kind = SCALAR_INT, .i = INT64_MIN});
    expect_scalar("9223372036854775808",
                  (struct scalar){.kind = SCALAR_UINT, .u = UINT64_C(1) << 63});
    expect_scalar("18446744073709551615", (struct scalar){.kind = SCALAR_UINT, .u = UINT64_MAX});
    expect_scalar("1.0", (struct scalar){.kind = SCALAR_FLOAT, .f = 1});
    expect_scalar("-0.0", (struct scalar){.kind = SCALAR_FLOAT, .f = -0.0});
    expect_scalar("1e3", (struct scalar){.kind = SCALAR_FLOAT, .f = 1000});
    expect_scalar("18446744073709551616.0",
                  (struct scalar){.kind = SCALAR_FLOAT, .f = 18446744073709551616.0});
    expect_scalar("\"-Infinity\"", (struct scalar){.kind = SCALAR_FLOAT, .f = -__builtin_inf()});
    struct scalar got;
    assert_ok(number_read_scalar("\"NaN\"", 5, &got));
    assert_true(got.kind == SCALAR_FLOAT && got.f != got.f);
    static const char *refused[] = {"18446744073709551616", "-9223372036854775809",
                                    "100000000000000000000000000", "1e309", "-1.8e308"};
    for (size_t i = 0; i < COUNT(refused); i++)
        assert_refused(number_read_scalar(refused[i], strlen(refused[i]), &got), TD_BAD_DTYPE,
                       refused[i]);
}

/* Every value of the narrow floats, and its shortest text, come back. */
static void test_narrow_round_trip(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(floats); i++) {
        size_t size = td_dtype_size((int)floats[i]);
        if (size > 2)
            continue;
        for (uint64_t bits = 0; bits < UINT64_C(1) << (8 * size); bits++) {
            char text[NUMBER_TEXT_MAX];
            uint64_t again = 0;
            size_t length = number_write(floats[i], &bits, text);
            assert_ok(number_read(floats[i], text, length, &again));
            if (bits != again && memcmp(text, "\"NaN\"", 5) != 0)
                fail_msg("%s 0x%" PRIx64 " came back as 0x%" PRIx64 " from %.*s",
                         td_dtype_name((int)floats[i]), bits, again, (int)length, text);
        }
    }
}

/* A fixed stream of random numbers: xorshift64*, by Marsaglia and Vigna. */
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

/* Reading agrees with the C library's, for texts shorter, as long as and longer than needed. */
static void test_as_strtod(void **state)
{
    (void)state;
    uint64_t random = 1;
    for (int i = 0; i < 200000; i++) {
        uint64_t bits = random_next(&random), back;
        double value;
        memcpy(&value, &bits, sizeof value);
        if (value != value || value - value != 0)
            continue;
        char text[64];
        static const int precisions[] = {3, 8, 15, 16, 18, 19, 24, 40};
        snprintf(text, sizeof text, "%.*e", precisions[i % 8], value);
        double wide = strtod(text, NULL);
        if (wide - wide == 0) {
            assert_ok(number_read(TD_FLOAT64, text, strlen(text), &back));
            if (bits_of_double(wide) != back)
                fail_msg("%s: 0x%" PRIx64, text, back);
        }
        float narrow = strtof(text, NULL);
        uint32_t narrow_back;
        if (narrow - narrow == 0) {
            assert_ok(number_read(TD_FLOAT32, text, strlen(text), &narrow_back));
            if (bits_of_float(narrow) != narrow_back)
                fail_msg("%s: 0x%" PRIx32, text, narrow_back);
        }
        size_t length = number_write(TD_FLOAT64, &bits, text);
        assert_ok(number_read(TD_FLOAT64, text, length, &back));
        assert_true(bits == back);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float64),
        cmocka_unit_test(test_float32),
        cmocka_unit_test(test_narrow_floats),
        cmocka_unit_test(test_integers_bool_complex),
        cmocka_unit_test(test_integer_limits),
        cmocka_unit_test(test_integers_of_other_spellings),
        cmocka_unit_test(test_float_limits),
        cmocka_unit_test(test_ties_and_subnormals),
        cmocka_unit_test(test_no_tokens),
        cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_narrow_round_trip),
        cmocka_unit_test(test_as_strtod),
    };
    return cmocka_run_group_tests_name("number", tests, NULL, NULL);
}
