/* transpose: rows become columns, for elements of 1, 2, 4, 8 and 16 bytes.
 *
 * The vectors are those of the compiler's vector extensions, 16 bytes each, which every x86-64 and
 * every 64-bit ARM has: there is one path, and more would be bound by memory all the same.
 *
 * Threads: pure functions.
 */
#ifndef CORE_TRANSPOSE_H
#define CORE_TRANSPOSE_H

#include <stddef.h>

/* out[c][r] = in[r][c]. The elements of a row lie behind one another, in both; from row to row it
 * is in_step and out_step bytes, of any sign. Nothing needs to be aligned; the two must not
 * overlap. For two to four columns or rows without gaps between them there are loops of their own.
 */
typedef void (*transpose_fn)(const void *in, ptrdiff_t in_step_bytes, void *out,
                             ptrdiff_t out_step_bytes, size_t rows, size_t columns);

/* NULL for another element size. */
transpose_fn transpose_find(size_t element_bytes);

#endif
