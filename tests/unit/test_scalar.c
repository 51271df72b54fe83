/* Numbers as values: written into and read from elements of every dtype. */
#include "core/dtype_info.h"
#include "core/scalar.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void scalars_store(void **state)
{
    struct scalar s = {.kind = SCALAR_COMPLEX, .c = {-2.5, 7}};
    uint16_t f16 = 0;
    int8_t i8 = 0;
    uint8_t truth = 0;
    float c64[2] = {0};
    (void)state;
    scalar_store(&s, TD_FLOAT16, &f16);
    assert_int_equal(f16, 0xC100);
    scalar_store(&s, TD_COMPLEX64, c64);
    assert_true(c64[0] == -2.5f && c64[1] == 7.0f);
    s = (struct scalar){.kind = SCALAR_UINT, .u = UINT64_MAX};
    scalar_store(&s, TD_INT8, &i8);
    assert_int_equal(i8, -1);
    s = (struct scalar){.kind = SCALAR_INT, .i = -300};
    scalar_store(&s, TD_INT8, &i8);
    assert_int_equal(i8, -44);
    s = (struct scalar){.kind = SCALAR_FLOAT, .f = -300};
    scalar_store(&s, TD_INT8, &i8);
    assert_int_equal(i8, -128);
    scalar_store(&s, TD_BOOL, &truth);
    assert_int_equal(truth, 1);
    s = (struct scalar){.kind = SCALAR_BOOL, .b = true};
    scalar_store(&s, TD_FLOAT16, &f16);
    assert_int_equal(f16, 0x3C00);
}

/* Every dtype: what was stored loads as its kind with its value. */
static void scalars_load(void **state)
{
    unsigned char memory[16 + 1]; /* the widest element, unaligned */
    (void)state;
    for (int dtype = 1; dtype < TD_DTYPE_END; dtype++) {
        struct scalar in = {.kind = SCALAR_INT, .i = dtype_infos[dtype].kind == 'u' ? 96 : -96};
        double value = (double)in.i;
        struct scalar out;
        scalar_store(&in, (enum td_dtype)dtype, memory + 1);
        out = scalar_load((enum td_dtype)dtype, memory + 1);
        switch (dtype_infos[dtype].kind) {
        case 'b':
            assert_true(out.kind == SCALAR_BOOL && out.b);
            break;
        case 'u':
            assert_true(out.kind == SCALAR_UINT && out.u == 96);
            break;
        case 'i':
            assert_true(out.kind == SCALAR_INT && out.i == -96);
            break;
        case 'f':
            assert_true(out.kind == SCALAR_FLOAT && out.f == value);
            break;
        default:
            assert_true(out.kind == SCALAR_COMPLEX && out.c[0] == value && out.c[1] == 0);
        }
    }
    memory[0] = 2; /* any byte but 0 is true */
    assert_true(scalar_load(TD_BOOL, memory).b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_store),
        cmocka_unit_test(scalars_load),
    };
    return cmocka_run_group_tests_name("scalar", tests, NULL, NULL);
}
