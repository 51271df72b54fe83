/* npy: NumPy's file format, versions 1.0, 2.0 and 3.0 (NEP 1, numpy.lib.format).
 *
 * Pure functions, any thread. Nothing is allocated; lengths are checked before they are believed.
 */
#ifndef FORMAT_NPY_H
#define FORMAT_NPY_H

#include "core/layout.h"

#include <stdbool.h>

#define NPY_MAGIC "\x93NUMPY"
#define NPY_MAGIC_BYTES 6
#define NPY_HEADER_MAX 65536 /* bytes before the elements, at most */

struct npy_header {
    enum td_dtype dtype;
    struct dims shape;
    bool fortran_order;  /* the first dimension varies fastest */
    bool big_endian;     /* each number's bytes are to be reversed (a complex one's parts apart) */
    size_t header_bytes; /* the elements follow */
};

/* Whether a file that begins so is one. */
bool npy_recognise(const void *bytes, size_t length);
/* Reads the header. *needed: 0 when it was read, else how many bytes from the start there must be
 * before it can be (more than `length`; never over NPY_HEADER_MAX), and *out is as before. `hint`:
 * what void elements mean ("<V2" is bfloat16, "|V1" a float8, only if the caller says so; but "<f1"
 * is what ml_dtypes calls float8_e5m2, and nothing else), TD_DTYPE_NONE without; a hint of another
 * dtype than a header that says its own is left to the caller. BAD_DTYPE for dtypes that
 * tensord has not (object, string, datetime, float128), naming it; INVALID for a malformed header,
 * saying what is wrong with it; UNSUPPORTED for another version; TOO_LARGE for a header over
 * NPY_HEADER_MAX; BAD_SHAPE for a shape that no tensor has. What was read fits layout_contiguous.
 */
NODISCARD enum td_status npy_read(const void *bytes, size_t length, enum td_dtype hint,
                                  struct npy_header *out, size_t *needed);

#define NPY_WRITE_MAX 1024 /* more than any header of rank 32 takes */
/* Writes a version 1.0 header for elements in C order, as numpy.save does (padded to 64 bytes).
 * Returns its bytes. */
size_t npy_write(enum td_dtype dtype, const struct dims *shape, unsigned char *out);

#endif
