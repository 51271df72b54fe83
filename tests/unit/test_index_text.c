/* index_text: what is read, and each way in which it is refused. tests/semantics/test_formats.py
 * compares with Python itself. */
#include "proto/format/index_text.h"

#include "tests/unit/layout_assert.h"

/* clang-format off */
#define ITEMS(...) (int)(sizeof((struct index_item[]){__VA_ARGS__}) / sizeof(struct index_item)), \
                   {__VA_ARGS__}
#define AT(position) {INDEX_INTEGER, (position), 0, 0}
#define SLICE(start, stop, step) {INDEX_SLICE, (start), (stop), (step)}
#define DOTS {INDEX_ELLIPSIS, 0, 0, 0}
#define AXIS {INDEX_NEW_AXIS, 0, 0, 0}
/* clang-format on */

static const struct {
    const char *text;
    int count;
    struct index_item items[8];
} good[] = {
    {"", 0, {AXIS}},
    {" \t\r\n ", 0, {AXIS}},
    {"[]", 0, {AXIS}},
    {" [ ] ", 0, {AXIS}},
    {"0", ITEMS(AT(0))},
    {"-1", ITEMS(AT(-1))},
    {"+7", ITEMS(AT(7))},
    {"- 12", ITEMS(AT(-12))},
    {"3,", ITEMS(AT(3))},
    {"[3 , ]", ITEMS(AT(3))},
    {"9223372036854775807", ITEMS(AT(MAX))},
    {"-9223372036854775807", ITEMS(AT(-MAX))},
    {":", ITEMS(SLICE(NONE, NONE, NONE))},
    {"::", ITEMS(SLICE(NONE, NONE, NONE))},
    {"1:", ITEMS(SLICE(1, NONE, NONE))},
    {":2", ITEMS(SLICE(NONE, 2, NONE))},
    {"1:3", ITEMS(SLICE(1, 3, NONE))},
    {"1:3:", ITEMS(SLICE(1, 3, NONE))},
    {"::2", ITEMS(SLICE(NONE, NONE, 2))},
    {" -5 : -1 : 2 ", ITEMS(SLICE(-5, -1, 2))},
    {"::-1", ITEMS(SLICE(NONE, NONE, -1))},
    {"::0", ITEMS(SLICE(NONE, NONE, 0))},
    {"None:None:None", ITEMS(SLICE(NONE, NONE, NONE))},
    {"1:newaxis", ITEMS(SLICE(1, NONE, NONE))},
    /* Where a slice ends does not change beyond the end of any dimension. */
    {"-9223372036854775808:99999999999999999999", ITEMS(SLICE(-MAX, MAX, NONE))},
    {":184467440737095516160", ITEMS(SLICE(NONE, MAX, NONE))}, /* 10 * 2^64 */
    {"...", ITEMS(DOTS)},
    {"Ellipsis", ITEMS(DOTS)},
    {"None", ITEMS(AXIS)},
    {"newaxis", ITEMS(AXIS)},
    {"0, 1:3, ::2, ..., None", ITEMS(AT(0), SLICE(1, 3, NONE), SLICE(NONE, NONE, 2), DOTS, AXIS)},
    {"[0,1:3,None,...]", ITEMS(AT(0), SLICE(1, 3, NONE), AXIS, DOTS)},
    {"...,...", ITEMS(DOTS, DOTS)}, /* refused by layout_index */
};

static void reads(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        struct index index;
        enum td_status status = index_from_text(text_of(good[i].text), &index);
        if (status != TD_OK)
            fail_msg("'%s': %s", good[i].text, fail_detail());
        assert_int_equal(index.count, good[i].count);
        for (int k = 0; k < index.count; k++) {
            const struct index_item *a = &index.items[k], *b = &good[i].items[k];
            if (a->kind != b->kind || a->start != b->start || a->stop != b->stop ||
                a->step != b->step)
                fail_msg("'%s': item %d differs", good[i].text, k + 1);
        }
    }
}

#define MAY_BE                                                                                     \
    "; an item is an integer, a slice start:stop:step, '...' or None, and commas separate items"

static const struct {
    const char *text, *detail;
} bad[] = {
    {",", "item 1 of the index is ''" MAY_BE},
    {"1,,2", "item 2 of the index is ''" MAY_BE},
    {"1, 2,,", "item 3 of the index is ''" MAY_BE},
    {"0, 1:x", "item 2 of the index is '1:x'" MAY_BE},
    {"1:2:3:4", "item 1 of the index is '1:2:3:4'" MAY_BE},
    {"1:2:3:", "item 1 of the index is '1:2:3:'" MAY_BE},
    {"1.0", "item 1 of the index is '1.0'" MAY_BE},
    {"007", "item 1 of the index is '007'" MAY_BE},
    {"1 2", "item 1 of the index is '1 2'" MAY_BE},
    {"--1", "item 1 of the index is '--1'" MAY_BE},
    {"-", "item 1 of the index is '-'" MAY_BE},
    {"+ ", "item 1 of the index is '+'" MAY_BE},
    {"0x10", "item 1 of the index is '0x10'" MAY_BE},
    {"..", "item 1 of the index is '..'" MAY_BE},
    {"....", "item 1 of the index is '....'" MAY_BE},
    {"...:1", "item 1 of the index is '...:1'" MAY_BE},
    {"none", "item 1 of the index is 'none'" MAY_BE},
    {"True", "item 1 of the index is 'True'" MAY_BE},
    {"[[0, 1]]", "item 1 of the index is '[0'" MAY_BE},
    {"(0, 1)", "item 1 of the index is '(0'" MAY_BE},
    {"[0, 1", "the index has a '[' without its ']'; write both brackets or none"},
    {"0, 1]", "the index has a ']' without its '['; write both brackets or none"},
    {"[", "the index has a '[' without its ']'; write both brackets or none"},
    {"1, 9223372036854775808",
     "item 2 of the index, 9223372036854775808, is past the end of any dimension"},
    {"-9223372036854775808",
     "item 1 of the index, -9223372036854775808, is past the end of any dimension"},
    {"00000000011111111112222222222333333333344444444445",
     "item 1 of the index is '0000000001111111111222222222233333333334...'" MAY_BE},
    /* Characters are shown whole, and only those that can be. */
    {"x23456789012345678901234567890123456789\xC3\xA9",
     "item 1 of the index is 'x23456789012345678901234567890123456789...'" MAY_BE},
    {"\xC3\xA9\xC3", "item 1 of the index is '\xC3\xA9...'" MAY_BE},
    {"1:\x1B[2J", "item 1 of the index is '1:...'" MAY_BE},
};

static void refuses(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct index index;
        assert_failure(index_from_text(text_of(bad[i].text), &index), TD_BAD_INDEX, bad[i].detail);
    }
}

static void counts_items(void **state)
{
    char text[2 * (INDEX_MAX + 1) + 1] = "";
    struct index index;
    (void)state;
    for (int i = 0; i < INDEX_MAX; i++)
        strcat(text, "1,");
    assert_int_equal(index_from_text(text_of(text), &index), TD_OK);
    assert_int_equal(index.count, INDEX_MAX);
    strcat(text, "1");
    assert_failure(index_from_text(text_of(text), &index), TD_BAD_INDEX,
                   "the index has more than 64 items");
}

static void reads_no_further(void **state)
{
    struct index index;
    (void)state;
    assert_int_equal(index_from_text((struct text){NULL, 0}, &index), TD_OK);
    assert_int_equal(index.count, 0);
    assert_int_equal(index_from_text((struct text){"12345", 2}, &index), TD_OK);
    assert_int_equal(index.items[0].start, 12);
    assert_int_equal(index_from_text((struct text){"1\0002", 3}, &index), TD_BAD_INDEX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),
        cmocka_unit_test(refuses),
        cmocka_unit_test(counts_items),
        cmocka_unit_test(reads_no_further),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
