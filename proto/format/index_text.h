/* index_text: NumPy's basic index as text, "0, 1:3, ::2, ..., None".
 *
 * Integers, slices with optional start, stop and step, `...` or `Ellipsis`, `None` or `newaxis`,
 * separated by commas, with blanks anywhere between; also with the brackets around it, "[0, 1:3]".
 * An empty text is the whole tensor. Whether it fits a shape is layout_index's affair. As in Python
 * a slice may go past the end by any number, also one that int64 does not hold.
 *
 * A pure function, any thread.
 */
#ifndef FORMAT_INDEX_TEXT_H
#define FORMAT_INDEX_TEXT_H

#include "core/fields.h"

/* BAD_INDEX, naming the item that is wrong and what an item may be. */
NODISCARD enum td_status index_from_text(struct text text, struct index *out);

#endif
