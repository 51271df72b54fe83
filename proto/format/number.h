/* number: one element as decimal text, exactly, both ways.
 *
 * Floats are written with the fewest digits that read back as the same value in their own dtype, in
 * the notation of Python's repr ("0.1", "1.0", "1e-05", "-0.0", "1e+22"), so that they stay floats
 * in JSON; integers with all their digits; bool as true and false; complex numbers as [re,im].
 * What JSON has no number for is the string "NaN", "Infinity" or "-Infinity", with its quotes.
 *
 * Reading rounds once, from the decimal text straight to the nearest value of the dtype (ties to
 * even); there is no detour through double that could round twice.
 *
 * Pure functions, any thread; part of no locale.
 */
#ifndef FORMAT_NUMBER_H
#define FORMAT_NUMBER_H

#include "core/dtype.h"
#include "core/fail.h"
#include "core/scalar.h"

#define NUMBER_TEXT_MAX 64 /* bytes of the longest element, complex ones included */

/* Writes one element (any alignment) of a dtype of the table as JSON, without NUL; returns its
 * length. `out` has room for NUMBER_TEXT_MAX bytes, and those behind the text may change too. */
size_t number_write(enum td_dtype dtype, const void *element, char *out);

/* Reads one JSON token into one element of a real dtype (a complex one's part: of float32 or
 * float64; the caller takes [re, im] apart). Tokens: a JSON number, true, false, and the strings
 * "NaN", "Infinity", "-Infinity" with their quotes. true and false are 1 and 0; bool takes 0 and 1.
 * An integer dtype takes whatever has an integral value (1e3, 2.0). BAD_DTYPE, naming the token and
 * the dtype, for a value out of range (a float that would round to infinity, or to NaN in
 * float8_e4m3fn), a fraction for an integer, NaN for an integer; INVALID for what is no token. */
NODISCARD enum td_status number_read(enum td_dtype dtype, const char *token, size_t length,
                                     void *element);

/* The number as a scalar, as Python reads it: true and false BOOL; an integer INT if int64 holds
 * it, else UINT if uint64 does, else BAD_DTYPE; what has a point or an exponent, and the three
 * strings, FLOAT. */
NODISCARD enum td_status number_read_scalar(const char *token, size_t length, struct scalar *out);

#endif
