/* The door through which test_cast.py reaches the cast table: packed elements of any two dtypes.
 * Built, with core/cast, core/scalar, core/dtype and core/status, into a shared library whose path
 * the test reads from TENSORD_CAST_LIB. */
#include "core/cast/cast.h"

void cast_run(int from, int to, const void *src, void *dst, size_t count, int saturate);

void cast_run(int from, int to, const void *src, void *dst, size_t count, int saturate)
{
    cast_fn cast = cast_find((enum td_dtype)from, (enum td_dtype)to);
    cast(src, (ptrdiff_t)td_dtype_size(from), dst, (ptrdiff_t)td_dtype_size(to), count,
         saturate ? CAST_SATURATE : 0);
}
