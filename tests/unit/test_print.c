/* print: the literal text of PyTorch 2.13 for hand-picked tensors, and what makes printing fail.
 * Linked with -Wl,--wrap=realloc, so that memory can run out. */
#include "core/print.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int reallocs_left = -1; /* until they fail; -1 for never */

void *__real_realloc(void *bytes, size_t size);
void *__wrap_realloc(void *bytes, size_t size);

void *__wrap_realloc(void *bytes, size_t size)
{
    if (reallocs_left == 0)
        return NULL;
    if (reallocs_left > 0)
        reallocs_left--;
    return __real_realloc(bytes, size);
}

/* A C-contiguous layout at offset 0. */
static struct layout dense(enum td_dtype dtype, int rank, const int64_t *shape)
{
    struct layout layout = {.dtype = dtype, .rank = rank, .elements = 1};
    for (int dim = rank - 1; dim >= 0; dim--) {
        layout.shape[dim] = shape[dim];
        layout.strides[dim] = layout.elements;
        layout.elements *= shape[dim];
    }
    return layout;
}

#define SHAPE(...)                                                                                 \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[])                         \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static void expect_of(const struct layout *layout, const void *values, const char *device,
                      bool requires_grad, const char *grad_fn, const struct print_options *options,
                      const char *want)
{
    const struct printed printed = {layout, values,        layout->dtype, false,
                                    device, requires_grad, grad_fn};
    char *text = NULL;
    assert_int_equal(print_tensor(&printed, options, &text), TD_OK);
    assert_string_equal(text, want);
    free(text);
}

static void expect(const struct layout *layout, const void *values, const char *want)
{
    expect_of(layout, values, "cpu", false, NULL, &print_defaults, want);
}

static void expect_failure(const struct layout *layout, const void *values,
                           const struct print_options *options, enum td_status want)
{
    const struct printed printed = {layout, values, layout->dtype, .device = "cpu"};
    char untouched, *text = &untouched;
    assert_int_equal(print_tensor(&printed, options, &text), want);
    assert_ptr_equal(text, &untouched);
    assert_true(strlen(fail_detail()) > 0);
}

static void test_scalars(void **state)
{
    (void)state;
    struct layout layout = dense(TD_FLOAT32, 0, NULL);
    expect(&layout, &(float){1.5f}, "tensor(1.5000)");
    expect(&layout, &(float){3.0f}, "tensor(3.)");
    expect(&layout, &(float){-0.0f}, "tensor(-0.)");
    expect(&layout, &(float){1e-5f}, "tensor(1.0000e-05)");
    expect(&layout, &(float){1e10f}, "tensor(1.0000e+10)");
    expect(&layout, &(float){-NAN}, "tensor(nan)");
    expect(&layout, &(float){-INFINITY}, "tensor(-inf)");
    layout = dense(TD_BOOL, 0, NULL);
    expect(&layout, &(uint8_t){1}, "tensor(True)");
    layout = dense(TD_UINT64, 0, NULL);
    expect(&layout, &(uint64_t){UINT64_MAX}, "tensor(18446744073709551615, dtype=torch.uint64)");
    layout = dense(TD_INT64, 0, NULL);
    expect(&layout, &(int64_t){INT64_MIN}, "tensor(-9223372036854775808)");
    layout = dense(TD_COMPLEX64, 0, NULL);
    expect(&layout, (float[]){1.0f, -2.5f}, "tensor(1.-2.5000j)");
    layout = dense(TD_FLOAT8_E4M3FN, 0, NULL);
    expect(&layout, &(uint8_t){0x38}, "tensor(1., dtype=torch.float8_e4m3fn)");
    layout = dense(TD_FLOAT64, 0, NULL);
    expect(&layout, &(double){5e-324}, "tensor(4.9407e-324, dtype=torch.float64)");
}

static void test_vectors(void **state)
{
    (void)state;
    struct layout layout = dense(TD_INT64, SHAPE(3));
    expect(&layout, (int64_t[]){1, -20, 300}, "tensor([  1, -20, 300])");
    layout = dense(TD_FLOAT32, SHAPE(3));
    expect(&layout, (float[]){1, 2, 30}, "tensor([ 1.,  2., 30.])");
    expect(&layout, (float[]){1, 2.5f, NAN}, "tensor([1.0000, 2.5000,    nan])");
    expect(&layout, (float[]){1, INFINITY, 0}, "tensor([1., inf, 0.])");
    expect(&layout, (float[]){1e-3f, 2, 3}, "tensor([1.0000e-03, 2.0000e+00, 3.0000e+00])");
    expect(&layout, (float[]){0, 0, 0}, "tensor([0., 0., 0.])");
    layout = dense(TD_BOOL, SHAPE(2));
    expect(&layout, (uint8_t[]){1, 0}, "tensor([ True, False])");
    layout = dense(TD_COMPLEX128, SHAPE(2));
    expect(&layout, (double[]){1, 2, -3, -0.5},
           "tensor([ 1.+2.0000j, -3.-0.5000j], dtype=torch.complex128)");
    layout = dense(TD_BFLOAT16, SHAPE(2));
    expect(&layout, (uint16_t[]){0x3f80, 0x3dcd}, "tensor([1.0000, 0.1001], dtype=torch.bfloat16)");
    layout = dense(TD_UINT8, SHAPE(25));
    uint8_t ones[25];
    memset(ones, 1, sizeof ones);
    expect(&layout, ones,
           "tensor([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,\n"
           "        1], dtype=torch.uint8)");
}

static void test_blocks_and_strides(void **state)
{
    (void)state;
    int64_t values[] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct layout layout = dense(TD_INT64, SHAPE(2, 2, 2));
    expect(&layout, values,
           "tensor([[[0, 1],\n         [2, 3]],\n\n        [[4, 5],\n         [6, 7]]])");
    struct layout turned = {.dtype = TD_INT64, .rank = 2, .elements = 6, .offset_bytes = 8};
    turned.shape[0] = 3, turned.shape[1] = 2;
    turned.strides[0] = 1, turned.strides[1] = 3;
    expect(&turned, values, "tensor([[1, 4],\n        [2, 5],\n        [3, 6]])");
    turned.strides[1] = 0;
    expect(&turned, values, "tensor([[1, 1],\n        [2, 2],\n        [3, 3]])");
}

static void test_empty(void **state)
{
    (void)state;
    struct layout layout = dense(TD_FLOAT32, SHAPE(0));
    expect(&layout, NULL, "tensor([])");
    layout = dense(TD_FLOAT32, SHAPE(0, 3));
    expect(&layout, NULL, "tensor([], size=(0, 3))");
    layout = dense(TD_INT64, SHAPE(0));
    expect(&layout, NULL, "tensor([], dtype=torch.int64)");
    layout = dense(TD_COMPLEX64, SHAPE(2, 0));
    expect(&layout, NULL, "tensor([], size=(2, 0), dtype=torch.complex64)");
}

static void test_summary(void **state)
{
    (void)state;
    int64_t values[1001];
    for (int64_t i = 0; i < 1001; i++)
        values[i] = i;
    struct layout layout = dense(TD_INT64, SHAPE(1001));
    expect(&layout, values, "tensor([   0,    1,    2,  ...,  998,  999, 1000])");
    layout = dense(TD_INT64, SHAPE(7, 143));
    expect(&layout, values,
           "tensor([[   0,    1,    2,  ...,  140,  141,  142],\n"
           "        [ 143,  144,  145,  ...,  283,  284,  285],\n"
           "        [ 286,  287,  288,  ...,  426,  427,  428],\n"
           "        ...,\n"
           "        [ 572,  573,  574,  ...,  712,  713,  714],\n"
           "        [ 715,  716,  717,  ...,  855,  856,  857],\n"
           "        [ 858,  859,  860,  ...,  998,  999, 1000]])");
    struct print_options options = print_defaults;
    options.edgeitems = 0;
    expect_of(&layout, values, "cpu", false, NULL, &options, "tensor([...], size=(7, 143))");
}

/* A dimension of 2^40 over bytes that are not there but at its two ends. */
static void test_summary_reads_only_the_ends(void **state)
{
    (void)state;
    uint8_t values[] = {1, 2, 3, 4, 5, 6};
    struct layout layout = dense(TD_UINT8, SHAPE((int64_t)1 << 40, 6));
    layout.strides[0] = 0;
    struct print_options options = print_defaults;
    options.edgeitems = 1;
    expect_of(&layout, values, "cpu", false, NULL, &options,
              "tensor([[1,  ..., 6],\n        ...,\n        [1,  ..., 6]], dtype=torch.uint8)");
}

static void test_suffixes(void **state)
{
    (void)state;
    struct layout layout = dense(TD_FLOAT16, SHAPE(2));
    uint16_t halves[] = {0x3c00, 0x3800};
    expect_of(&layout, halves, "cuda:0", true, NULL, &print_defaults,
              "tensor([1.0000, 0.5000], device='cuda:0', dtype=torch.float16,\n"
              "       requires_grad=True)");
    expect_of(&layout, halves, "cpu", true, "MulBackward0", &print_defaults,
              "tensor([1.0000, 0.5000], dtype=torch.float16, grad_fn=<MulBackward0>)");
    layout = dense(TD_INT32, SHAPE(2));
    expect_of(&layout, (int32_t[]){1, 2}, "cpu", true, NULL, &print_defaults,
              "tensor([1, 2], dtype=torch.int32, requires_grad=True)");
}

static void test_options(void **state)
{
    (void)state;
    struct layout layout = dense(TD_FLOAT32, SHAPE(3));
    float values[] = {1, 2.25f, 3};
    struct print_options options = print_defaults;
    options.precision = 1;
    options.linewidth = 20;
    expect_of(&layout, values, "cpu", false, NULL, &options, "tensor([1.0, 2.2,\n        3.0])");
    options.sci_mode = 1;
    options.linewidth = 80;
    expect_of(&layout, values, "cpu", false, NULL, &options, "tensor([1.0e+00, 2.2e+00, 3.0e+00])");
    options.precision = PRINT_PRECISION_MAX + 1;
    expect_failure(&layout, values, &options, TD_INVALID);
    options.precision = -1;
    expect_failure(&layout, values, &options, TD_INVALID);
    options = print_defaults;
    options.edgeitems = -1;
    expect_failure(&layout, values, &options, TD_INVALID);
    options = print_defaults;
    options.sci_mode = 2;
    expect_failure(&layout, values, &options, TD_INVALID);
}

/* The longest number there is fits. */
static void test_longest_number(void **state)
{
    (void)state;
    struct layout layout = dense(TD_FLOAT64, SHAPE(2));
    struct print_options options = print_defaults;
    options.precision = PRINT_PRECISION_MAX;
    options.sci_mode = 0;
    char *text = NULL;
    const double values[] = {-1.7976931348623157e308, 0.5};
    const struct printed printed = {&layout, values, TD_FLOAT64, .device = "cpu"};
    assert_int_equal(print_tensor(&printed, &options, &text), TD_OK);
    size_t number = 1 + 309 + 1 + PRINT_PRECISION_MAX;
    assert_int_equal(strcspn(text + 8, ","), number);
    free(text);
}

/* One byte seen as 2^32 elements, none of which a summary would leave out. */
static void test_too_large(void **state)
{
    (void)state;
    struct layout layout = {.dtype = TD_UINT8, .rank = RANK_MAX, .elements = (int64_t)1 << 32};
    for (int dim = 0; dim < RANK_MAX; dim++)
        layout.shape[dim] = 2;
    expect_failure(&layout, &(uint8_t){7}, &print_defaults, TD_TOO_LARGE);

    layout = dense(TD_INT64, SHAPE(1 << 20));
    layout.strides[0] = 0;
    struct print_options options = print_defaults;
    options.threshold = INT64_MAX;
    expect_failure(&layout, &(int64_t){1234567890123456}, &options, TD_TOO_LARGE);

    /* Complex numbers are refused while they are printed: imaginary parts have no padding. */
    layout = dense(TD_COMPLEX64, SHAPE(1 << 21));
    layout.strides[0] = 0;
    expect_failure(&layout, (float[]){1, 1.5f}, &options, TD_TOO_LARGE);

    /* Numbers of one digit, but a line break and an indent for every fifth. */
    layout = dense(TD_UINT8, SHAPE(1 << 20, 5));
    layout.strides[0] = layout.strides[1] = 0;
    expect_failure(&layout, &(uint8_t){7}, &options, TD_TOO_LARGE);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    int64_t values[200] = {0};
    struct layout layout = dense(TD_INT64, SHAPE(200));
    for (int reallocs = 0; reallocs < 2; reallocs++) {
        reallocs_left = reallocs;
        expect_failure(&layout, values, &print_defaults, TD_OUT_OF_MEMORY);
    }
    reallocs_left = -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_blocks_and_strides),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_summary),
        cmocka_unit_test(test_summary_reads_only_the_ends),
        cmocka_unit_test(test_suffixes),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_longest_number),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
