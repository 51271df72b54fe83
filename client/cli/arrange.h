/* arrange: elements as NumPy may have written them, into C order and little-endian. */
#ifndef CLI_ARRANGE_H
#define CLI_ARRANGE_H

#include "proto/format/npy.h"

/* True if the elements have to be arranged at all. */
bool arrange_needed(const struct npy_header *header);
/* Copies the elements of a header's tensor; `in` needs no alignment, `out` has room for all. */
NODISCARD enum td_status arrange_elements(const struct npy_header *header, const void *in,
                                          void *out);

#endif
