/* scalar: one number as a value, apart from any tensor.
 *
 * What a JSON number, a fill value or a single element is while it is being handled: wide enough
 * for every dtype, without loss. Values: copy freely. Threads: pure functions.
 */
#ifndef CORE_SCALAR_H
#define CORE_SCALAR_H

#include "core/dtype.h"

#include <stdbool.h>
#include <stdint.h>

enum scalar_kind {
    SCALAR_BOOL,
    SCALAR_INT,    /* int64 */
    SCALAR_UINT,   /* uint64 */
    SCALAR_FLOAT,  /* double */
    SCALAR_COMPLEX /* two doubles */
};

struct scalar {
    enum scalar_kind kind;
    union {
        bool b;
        int64_t i;
        uint64_t u;
        double f;
        double c[2]; /* re, im */
    };
};

/* Writes one element of a dtype of the table, by the rules of core/cast, without saturation. `out`
 * needs no alignment. */
void scalar_store(const struct scalar *scalar, enum td_dtype dtype, void *out);

/* Reads one element of a dtype of the table, without loss: bool is BOOL, signed integers are INT,
 * unsigned ones UINT, every floating dtype FLOAT, complex ones COMPLEX. `element` needs no
 * alignment. */
struct scalar scalar_load(enum td_dtype dtype, const void *element);

#endif
