/* json_tensor: a tensor as a JSON document, its values streamed in both directions.
 *
 * A document is {"dtype": ..., "shape": ..., "data": nested lists, and other fields}, or a bare
 * nested list or number. The reader is fed piece by piece. It cuts out `data` and reads the
 * elements straight into memory of the caller's; the other members (at most 64 KiB) go through
 * json_parse.
 *
 *     json_tensor_create(dtype or NONE, shape or NULL, &reader)     what is known already
 *     json_tensor_feed(reader, bytes, length, &used, &want)         until want says otherwise
 *       JSON_WANT_MORE     all was used; feed the next piece
 *       JSON_WANT_MEMORY   dtype and shape are known and `data` begins: give the memory
 *                          (json_tensor_target), then feed the rest
 *       JSON_WANT_SPOOL    `data` begins, but dtype or shape are not known yet (they may follow it,
 *                          or have to be inferred): keep all bytes from here on, and when the body
 *                          is complete call json_tensor_measure, and with the memory it asks for
 *                          json_tensor_fill
 *     json_tensor_end(reader)       when the body is complete: INVALID if the document is not
 *
 * Inferred, as PyTorch does: the shape from the nesting, which must be even; the dtype bool if all
 * are true or false, int64 if all are integers, else float32 (complex64 is not inferred: a pair is
 * a dimension). Nesting of data at most RANK_MAX (a complex dtype: one more), numbers of at most
 * 1100 bytes. A complex element is [re, im], or a real number; where the shape is to be inferred
 * the deepest lists are the pairs.
 *
 * INVALID for what is no such document, and for a dtype or shape that differs from what is known;
 * BAD_SHAPE, telling the place, for data of another shape; BAD_DTYPE for numbers that the dtype
 * does not hold; TOO_LARGE for long members and numbers. After an error the reader can only be
 * destroyed.
 *
 * One thread at a time.
 */
#ifndef FORMAT_JSON_TENSOR_H
#define FORMAT_JSON_TENSOR_H

#include "core/fields.h"

enum json_want { JSON_WANT_MORE, JSON_WANT_MEMORY, JSON_WANT_SPOOL };

struct json_tensor;

NODISCARD enum td_status json_tensor_create(enum td_dtype dtype, const struct dims *shape,
                                            struct json_tensor **out);
void json_tensor_destroy(struct json_tensor *reader);

NODISCARD enum td_status json_tensor_feed(struct json_tensor *reader, const char *bytes,
                                          size_t length, size_t *used, enum json_want *want);
/* After JSON_WANT_MEMORY: room for all elements, which are written in C order. */
void json_tensor_target(struct json_tensor *reader, void *memory);
NODISCARD enum td_status json_tensor_end(struct json_tensor *reader);

/* After JSON_WANT_SPOOL: `text` is all that followed. Reads it without writing elements; dtype and
 * shape are known then. Takes time in proportion to the text. */
NODISCARD enum td_status json_tensor_measure(struct json_tensor *reader, const char *text,
                                             size_t length);
NODISCARD enum td_status json_tensor_fill(struct json_tensor *reader, const char *text,
                                          size_t length, void *memory);

/* Known from JSON_WANT_MEMORY, or json_tensor_measure, on. */
enum td_dtype json_tensor_dtype(const struct json_tensor *reader);
const struct dims *json_tensor_shape(const struct json_tensor *reader);
/* After the end: every member but `data`, dtype and shape included if they were there. Texts live
 * as long as the reader. Members of the description that a GET returns (id, strides, ...) are
 * fields too; which of them count is the caller's affair. */
const struct fields *json_tensor_fields(const struct json_tensor *reader);

/* ---- writing -------------------------------------------------------------------------------- */

/* Elements in C order as nested lists, without white space; a scalar as a bare number. */
struct json_values {
    enum td_dtype dtype;
    struct dims shape;
    int64_t counters[RANK_MAX];
    int open; /* brackets that are open */
    bool begun, ended;
};

void json_values_begin(struct json_values *values, enum td_dtype dtype, const struct dims *shape);
/* Writes as many of the `count` elements as fit into `room` bytes (at least 256), and the brackets
 * around them; *used of them. The last call, with the last elements, also closes the brackets: then
 * `ended` is true. A tensor without elements needs one call with count 0. Returns bytes written. */
size_t json_values_write(struct json_values *values, const void *elements, size_t count, char *out,
                         size_t room, size_t *used);

#endif
