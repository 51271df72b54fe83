/* What the tests of layouts share: literal shapes, and comparing that says what differs. */
#ifndef TESTS_UNIT_LAYOUT_ASSERT_H
#define TESTS_UNIT_LAYOUT_ASSERT_H

#include "core/layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
/* clang-format off */
#define SCALAR {0, {0}}
#define DIMS(...) {(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}}
/* clang-format on */

#define STORAGE_BYTES 4096
#define BIG (INT64_C(1) << 40)
#define HUGE_SIZE (INT64_C(1) << 62)
#define MAX INT64_MAX
#define MIN INT64_MIN
#define NONE INDEX_NONE

static inline void assert_same_dims(const char *what, int rank, const int64_t *got,
                                    const struct dims *want)
{
    char a[SHAPE_TEXT_SIZE], b[SHAPE_TEXT_SIZE];
    layout_shape_text(rank, got, a, sizeof a);
    layout_shape_text(want->rank, want->v, b, sizeof b);
    if (strcmp(a, b) != 0)
        fail_msg("%s is %s, not %s", what, a, b);
}

static inline void assert_layout(const char *what, const struct layout *got,
                                 const struct dims *shape, const struct dims *strides,
                                 int64_t offset)
{
    char text[128];
    int64_t elements = 1;
    snprintf(text, sizeof text, "shape of %s", what);
    assert_same_dims(text, got->rank, got->shape, shape);
    snprintf(text, sizeof text, "strides of %s", what);
    assert_same_dims(text, got->rank, got->strides, strides);
    for (int d = 0; d < shape->rank; d++)
        elements *= shape->v[d];
    assert_int_equal(got->elements, elements);
    if (got->offset_bytes != offset * 4)
        fail_msg("offset of %s is %lld bytes, not %lld", what, (long long)got->offset_bytes,
                 (long long)offset * 4);
    assert_true(got->offset_bytes + layout_span_bytes(got) <= STORAGE_BYTES);
}

/* `text` is the whole detail, or how it begins if it ends in "...". */
static inline void assert_failure(enum td_status got, enum td_status want, const char *text)
{
    size_t length = strlen(text);
    bool begins = length >= 3 && strcmp(text + length - 3, "...") == 0;
    if (got != want)
        fail_msg("%s, not %s, for: %s", td_status_name((int)got), td_status_name((int)want), text);
    if (begins ? strncmp(fail_detail(), text, length - 3) != 0 : strcmp(fail_detail(), text) != 0)
        fail_msg("'%s', not '%s'", fail_detail(), text);
}

static inline void fill(void *bytes, size_t size)
{
    memset(bytes, 0x5a, size);
}

static inline void assert_filled(const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        assert_int_equal(((const unsigned char *)bytes)[i], 0x5a);
}

/* A layout of float32 with its offset in elements, in a storage of STORAGE_BYTES. */
static inline struct layout make(const struct dims *shape, const struct dims *strides,
                                 int64_t offset)
{
    struct layout layout;
    assert_int_equal(
        layout_strided(TD_FLOAT32, shape, strides, (uint64_t)offset * 4, STORAGE_BYTES, &layout),
        TD_OK);
    return layout;
}

#endif
