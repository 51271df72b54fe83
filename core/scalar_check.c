#include "core/scalar_check.h"

#include <float.h>
#include <math.h>

/* What PyTorch calls the C++ type, and its range. The ends of 64 bits are rounded to double, as in
 * PyTorch's own comparison. What is narrower than float is written from a double: all are taken. */
static const struct range {
    const char *name;
    double low, high;
    char kind;
} ranges[TD_DTYPE_END] = {
    [TD_UINT8] = {"uint8_t", 0, UINT8_MAX, 'u'},
    [TD_INT8] = {"int8_t", INT8_MIN, INT8_MAX, 'i'},
    [TD_UINT16] = {"uint16_t", 0, UINT16_MAX, 'u'},
    [TD_INT16] = {"int16_t", INT16_MIN, INT16_MAX, 'i'},
    [TD_UINT32] = {"uint32_t", 0, UINT32_MAX, 'u'},
    [TD_INT32] = {"int", INT32_MIN, INT32_MAX, 'i'},
    [TD_UINT64] = {"uint64_t", 0, 0x1p64, 'u'},
    [TD_INT64] = {"int64_t", -0x1p63, 0x1p63, 'i'},
    [TD_FLOAT16] = {"double", -DBL_MAX, DBL_MAX, 'f'},
    [TD_BFLOAT16] = {"double", -DBL_MAX, DBL_MAX, 'f'},
    [TD_FLOAT8_E4M3FN] = {"double", -DBL_MAX, DBL_MAX, 'f'},
    [TD_FLOAT8_E5M2] = {"double", -DBL_MAX, DBL_MAX, 'f'},
    [TD_FLOAT32] = {"float", -(double)FLT_MAX, FLT_MAX, 'f'},
    [TD_FLOAT64] = {"double", -DBL_MAX, DBL_MAX, 'f'},
    [TD_COMPLEX64] = {"c10::complex<float>", -(double)FLT_MAX, FLT_MAX, 'c'},
    [TD_COMPLEX128] = {"c10::complex<double>", -DBL_MAX, DBL_MAX, 'c'},
};

/* Compared before it is cut: 255.7 is no uint8. */
static bool fits(const struct range *range, double value)
{
    bool floating = range->kind == 'f' || range->kind == 'c';
    if (floating && (isnan(value) || isinf(value)))
        return true;
    return value >= range->low && value <= range->high;
}

/* Negative integers, not fractions, wrap in unsigned dtypes, down to -max. */
static bool fits_integer(const struct range *range, int64_t value)
{
    return fits(range, range->kind == 'u' && value < 0 ? -(double)value : (double)value);
}

enum td_status scalar_check(const struct scalar *scalar, enum td_dtype dtype)
{
    const struct range *range = &ranges[dtype];
    bool good = true;
    if (dtype == TD_BOOL)
        return TD_OK;
    switch (scalar->kind) {
    case SCALAR_BOOL:
        return TD_OK;
    case SCALAR_INT:
        good = fits_integer(range, scalar->i);
        break;
    case SCALAR_UINT: /* its double may round up to what int64's end is rounded to */
        good = dtype == TD_INT64 ? scalar->u <= INT64_MAX : fits(range, (double)scalar->u);
        break;
    case SCALAR_FLOAT:
        good = fits(range, scalar->f);
        break;
    case SCALAR_COMPLEX:
        good = fits(range, scalar->c[0]) &&
               (range->kind == 'c' ? fits(range, scalar->c[1]) : scalar->c[1] == 0);
        break;
    }
    if (!good)
        return fail(TD_INVALID, "value cannot be converted to type %s without overflow",
                    range->name);
    return TD_OK;
}
