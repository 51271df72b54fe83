/* dtype: every spelling that is understood and some that must not be, and NumPy's can_cast. */
#include "core/dtype_info.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void table_is_whole(void **state)
{
    (void)state;
    assert_int_equal(TD_DTYPE_COUNT, 17);
    for (int d = 1; d < TD_DTYPE_END; d++) {
        const struct dtype_info *info = &dtype_infos[d];
        assert_true(dtype_valid(d));
        assert_string_equal(td_dtype_name(d), info->name);
        assert_int_equal(td_dtype_size(d), info->size_bytes);
        assert_non_null(strchr("buifc", info->kind));
        bool differentiable = info->kind == 'f' || info->kind == 'c';
        assert_int_equal(dtype_is_differentiable((enum td_dtype)d), differentiable);
        /* The number in a NumPy type string is the size. */
        char digits[8];
        snprintf(digits, sizeof digits, "%zu", info->size_bytes);
        assert_string_equal(info->numpy + 2, digits);
        assert_int_equal(info->numpy[0], info->size_bytes == 1 ? '|' : '<');
    }
}

static void numbers_outside_the_table(void **state)
{
    static const int outside[] = {0, -1, TD_DTYPE_END, 255, INT32_MAX, INT32_MIN};
    (void)state;
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        assert_false(dtype_valid(outside[i]));
        assert_string_equal(td_dtype_name(outside[i]), "none");
        assert_int_equal(td_dtype_size(outside[i]), 0);
    }
    assert_false(dtype_can_cast_safely(TD_DTYPE_NONE, TD_BOOL));
    assert_false(dtype_can_cast_safely(TD_BOOL, TD_DTYPE_END));
    assert_false(dtype_can_cast_same_kind(TD_DTYPE_END, TD_BOOL));
    assert_false(dtype_can_cast_same_kind(TD_BOOL, TD_DTYPE_NONE));
}

static void assert_parses(int expected, const char *prefix, const char *name)
{
    char text[64];
    snprintf(text, sizeof text, "%s%s", prefix, name);
    if ((int)td_dtype_parse(text) != expected)
        fail_msg("'%s' is %s, not %s", text, td_dtype_name((int)td_dtype_parse(text)),
                 td_dtype_name(expected));
}

static void every_row_parses(void **state)
{
    (void)state;
    for (int d = 1; d < TD_DTYPE_END; d++) {
        const struct dtype_info *info = &dtype_infos[d];
        bool numpy = info->numpy[1] != 'V';
        assert_parses(d, "", info->name);
        assert_parses(d, "torch.", info->name);
        assert_parses(numpy ? d : TD_DTYPE_NONE, "numpy.", info->name);
        assert_parses(numpy ? d : TD_DTYPE_NONE, "", info->numpy);
        assert_parses(numpy ? d : TD_DTYPE_NONE, "", info->numpy + 1);
        assert_parses(numpy ? d : TD_DTYPE_NONE, "=", info->numpy + 1);
        assert_parses(numpy && info->size_bytes == 1 ? d : TD_DTYPE_NONE, ">", info->numpy + 1);
        if (*info->safetensors)
            assert_parses(d, "", info->safetensors);
        assert_parses(TD_DTYPE_NONE, "torch.", info->numpy);
        assert_parses(TD_DTYPE_NONE, "numpy.", info->safetensors);
        assert_parses(TD_DTYPE_NONE, " ", info->name);
        assert_parses(TD_DTYPE_NONE, "torch.torch.", info->name);
    }
}

static const struct {
    const char *text;
    int dtype;
} spellings[] = {
    {"half", TD_FLOAT16},
    {"float", TD_FLOAT32},
    {"double", TD_FLOAT64},
    {"short", TD_INT16},
    {"int", TD_INT32},
    {"long", TD_INT64},
    {"cfloat", TD_COMPLEX64},
    {"cdouble", TD_COMPLEX128},
    {"torch.half", TD_FLOAT16},
    {"torch.float", TD_FLOAT32},
    {"torch.long", TD_INT64},
    {"torch.cfloat", TD_COMPLEX64},
    {"numpy.half", TD_FLOAT16},
    {"numpy.double", TD_FLOAT64},
    {"numpy.short", TD_INT16},
    {"numpy.cdouble", TD_COMPLEX128},
    {"bool_", TD_BOOL},
    {"numpy.bool_", TD_BOOL},
    {"numpy.bool", TD_BOOL},
    {"<f4", TD_FLOAT32},
    {"=f4", TD_FLOAT32},
    {"|f4", TD_FLOAT32},
    {"f4", TD_FLOAT32},
    {"<c16", TD_COMPLEX128},
    {"|b1", TD_BOOL},
    {"<u1", TD_UINT8},
    {">i1", TD_INT8},
    {"i8", TD_INT64},
    {"I8", TD_INT8},
    {"u8", TD_UINT64},
    {"U8", TD_UINT8},
    {"F8_E4M3", TD_FLOAT8_E4M3FN},
    {"F8_E5M2", TD_FLOAT8_E5M2},
    {"BF16", TD_BFLOAT16},
    {"BOOL", TD_BOOL},
    {"bfloat16", TD_BFLOAT16},
    {"float8_e5m2", TD_FLOAT8_E5M2},
    {"torch.float8_e4m3fn", TD_FLOAT8_E4M3FN},
    /* Another type, an ambiguous one, or none at all. */
    {"", TD_DTYPE_NONE},
    {"torch.", TD_DTYPE_NONE},
    {"numpy.", TD_DTYPE_NONE},
    {"V1", TD_DTYPE_NONE},
    {"V2", TD_DTYPE_NONE},
    {"|V1", TD_DTYPE_NONE},
    {"<V2", TD_DTYPE_NONE},
    {">f4", TD_DTYPE_NONE},
    {">u2", TD_DTYPE_NONE},
    {"!f4", TD_DTYPE_NONE},
    {"<", TD_DTYPE_NONE},
    {"<<f4", TD_DTYPE_NONE},
    {"<f", TD_DTYPE_NONE},
    {"<f4 ", TD_DTYPE_NONE},
    {"<f04", TD_DTYPE_NONE},
    {"<f44", TD_DTYPE_NONE},
    {"<F4", TD_DTYPE_NONE},
    {"f16", TD_DTYPE_NONE},
    {"<U8", TD_DTYPE_NONE},
    {"<F32", TD_DTYPE_NONE},
    {"f32", TD_DTYPE_NONE},
    {"float32 ", TD_DTYPE_NONE},
    {"Float32", TD_DTYPE_NONE},
    {"FLOAT32", TD_DTYPE_NONE},
    {"none", TD_DTYPE_NONE},
    {"char", TD_DTYPE_NONE},
    {"byte", TD_DTYPE_NONE},
    {"torch.char", TD_DTYPE_NONE},
    {"torch.bool_", TD_DTYPE_NONE},
    {"numpy.float", TD_DTYPE_NONE},
    {"numpy.int", TD_DTYPE_NONE},
    {"numpy.cfloat", TD_DTYPE_NONE},
    {"float8_e4m3", TD_DTYPE_NONE},
    {"float8_e4m3fnuz", TD_DTYPE_NONE},
    {"F8_E4M3FN", TD_DTYPE_NONE},
    {"complex32", TD_DTYPE_NONE},
    {"float128", TD_DTYPE_NONE},
    {"quint8", TD_DTYPE_NONE},
    {"object", TD_DTYPE_NONE},
    {"|O", TD_DTYPE_NONE},
    {"<M8[ns]", TD_DTYPE_NONE},
    {"%s%n", TD_DTYPE_NONE},
    {"np.float32", TD_DTYPE_NONE},
    {"Torch.float32", TD_DTYPE_NONE},
    {"\xff\xfe", TD_DTYPE_NONE},
    {"float32\n", TD_DTYPE_NONE},
};

static void other_spellings(void **state)
{
    char lengthy[70000];
    (void)state;
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++)
        assert_parses(spellings[i].dtype, "", spellings[i].text);
    memset(lengthy, '<', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = '\0';
    assert_int_equal(td_dtype_parse(lengthy), TD_DTYPE_NONE);
    assert_int_equal(td_dtype_parse(NULL), TD_DTYPE_NONE);
}

/* Rows and columns are the dtypes in the order of their numbers. NumPy 2.4's np.can_cast, but for
 * what NumPy does not know: bfloat16 (row 11) and the two float8 (rows 16 and 17). */
static const char *const safe[] = {
    "11111111111111111", "01011111111111100", "00101010111111100", "00010111100111100",
    "00001010100111100", "00000101100010100", "00000010100010100", "00000001000010100",
    "00000000100010100", "00000000010111100", "00000000001111100", "00000000000111100",
    "00000000000010100", "00000000000001100", "00000000000000100", "00000000011111110",
    "00000000011111101",
};
static const char *const same_kind[] = {
    "11111111111111111", "01111111111111111", "00101010111111111", "01111111111111111",
    "00101010111111111", "01111111111111111", "00101010111111111", "01111111111111111",
    "00101010111111111", "00000000011111111", "00000000011111111", "00000000011111111",
    "00000000011111111", "00000000000001100", "00000000000001100", "00000000011111111",
    "00000000011111111",
};

static void can_cast_as_numpy(void **state)
{
    (void)state;
    for (int from = 1; from < TD_DTYPE_END; from++) {
        for (int to = 1; to < TD_DTYPE_END; to++) {
            bool safely = dtype_can_cast_safely((enum td_dtype)from, (enum td_dtype)to);
            bool kindly = dtype_can_cast_same_kind((enum td_dtype)from, (enum td_dtype)to);
            if (safely != (safe[from - 1][to - 1] == '1'))
                fail_msg("safe: %s to %s", td_dtype_name(from), td_dtype_name(to));
            if (kindly != (same_kind[from - 1][to - 1] == '1'))
                fail_msg("same_kind: %s to %s", td_dtype_name(from), td_dtype_name(to));
            assert_true(kindly || !safely);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_is_whole),    cmocka_unit_test(numbers_outside_the_table),
        cmocka_unit_test(every_row_parses),  cmocka_unit_test(other_spellings),
        cmocka_unit_test(can_cast_as_numpy),
    };
    return cmocka_run_group_tests_name("dtype", tests, NULL, NULL);
}
