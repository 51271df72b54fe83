/* scalar: one number as a value. Both ways go through the cast table. */
#include "core/scalar.h"

#include "core/cast/cast.h"
#include "core/dtype_info.h"

#include <assert.h>

/* Per kind, the dtype whose memory is the union's. */
static const enum td_dtype kind_dtypes[] = {
    [SCALAR_BOOL] = TD_BOOL,     [SCALAR_INT] = TD_INT64,          [SCALAR_UINT] = TD_UINT64,
    [SCALAR_FLOAT] = TD_FLOAT64, [SCALAR_COMPLEX] = TD_COMPLEX128,
};

static enum scalar_kind scalar_kind_of(enum td_dtype dtype)
{
    static const char letters[TD_DTYPE_END] = {
#define SCALAR_LETTER(number, NAME, name, size, kind, ...) [number] = kind,
        TD_DTYPES(SCALAR_LETTER)
#undef SCALAR_LETTER
    };
    switch (letters[dtype]) {
    case 'b':
        return SCALAR_BOOL;
    case 'i':
        return SCALAR_INT;
    case 'u':
        return SCALAR_UINT;
    case 'f':
        return SCALAR_FLOAT;
    default:
        return SCALAR_COMPLEX;
    }
}

void scalar_store(const struct scalar *scalar, enum td_dtype dtype, void *out)
{
    assert(dtype_valid((int)dtype));
    cast_elements(kind_dtypes[scalar->kind], dtype, &scalar->c, 0, out, 0, 1, 0);
}

struct scalar scalar_load(enum td_dtype dtype, const void *element)
{
    struct scalar scalar = {.kind = SCALAR_BOOL};

    assert(dtype > TD_DTYPE_NONE && dtype < TD_DTYPE_END);
    scalar.kind = scalar_kind_of(dtype);
    if (dtype == TD_BOOL) {
        /* A C bool holds 0 or 1 and nothing else, the memory of a bool tensor any byte. */
        scalar.b = *(const unsigned char *)element != 0;
        return scalar;
    }
    cast_elements(dtype, kind_dtypes[scalar.kind], element, 0, &scalar.c, 0, 1, 0);
    return scalar;
}
