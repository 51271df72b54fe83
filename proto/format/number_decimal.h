/* number_decimal: from binary floats to decimal digits and back; the arithmetic behind number.c.
 *
 * A float is here its magnitude: the bits of the element without the sign, as an integer. The
 * finite magnitudes of a format are 0 to `largest`, in the order of their values.
 *
 * Pure functions, any thread.
 */
#ifndef FORMAT_NUMBER_DECIMAL_H
#define FORMAT_NUMBER_DECIMAL_H

#include "core/dtype.h"

#include <stdbool.h>
#include <stdint.h>

struct float_format {
    int fraction_bits;
    int least_unit;    /* the least subnormal number is 2 to this power */
    uint64_t sign;     /* the bit of the sign */
    uint64_t largest;  /* finite magnitude */
    uint64_t infinity; /* 0 where there is none */
    uint64_t nan;      /* the one that is written */
};

/* Indexed by dtype; rows that are not of floats are empty. */
extern const struct float_format float_formats[TD_DTYPE_END];

/* The shortest decimal that reads back as this magnitude (finite, not 0), and of those the closest
 * to it: the result times 10^*exponent. It has at most 17 digits, and may end with zeros. */
uint64_t decimal_shortest(const struct float_format *format, uint64_t magnitude, int *exponent);

#define DECIMAL_DIGITS 19 /* what a uint64_t always holds */

/* A decimal number: `digits` times 10^exponent. If it has more than DECIMAL_DIGITS of them, they
 * are the first so many, and the text has the rest. */
struct decimal {
    uint64_t digits; /* not 0 */
    int64_t exponent;
    bool truncated;
    const char *first, *end; /* all digits, '.' among them; the first is not 0 */
};

/* The magnitude nearest to a decimal, ties to even. What would round past the largest finite one
 * gives more than `largest`. Takes time in proportion to the text. */
uint64_t decimal_nearest(const struct float_format *format, const struct decimal *decimal);

#endif
