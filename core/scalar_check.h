/* scalar_check: whether a number may be written into a dtype, by PyTorch's rule for fill values. */
#ifndef CORE_SCALAR_CHECK_H
#define CORE_SCALAR_CHECK_H

#include "core/fail.h"
#include "core/scalar.h"

/* INVALID, in PyTorch's words, when the number is out of the dtype's range, no number and the dtype
 * an integer's, or has an imaginary part that would be lost. Fractions are cut; negative integers
 * wrap in unsigned dtypes; bool takes everything. (c10/util/overflows.h, and fill_ of PyTorch 2.13)
 */
NODISCARD enum td_status scalar_check(const struct scalar *scalar, enum td_dtype dtype);

#endif
