/* body: the bytes of a reply, in parts, in pieces of bounded size.
 *
 * A part is bytes, or the elements of a tensor in C order, cast on the way. Bytes, and elements
 * that are contiguous, uncast and on the cpu, are handed out whole, as they lie in memory;
 * everything else is converted block by block into one buffer, so that a whole copy is never in
 * memory. A block ends where a dimension does, and may be shorter for it; its elements are whole.
 * Tensors are held until body_destroy. A change of one meanwhile is in the pieces that follow.
 *
 *     body_create, body_add_...   what it consists of
 *     body_prepare                makes the memory that blocks need: after this only a device fails
 *     body_next                   piece by piece
 *
 * One thread at a time.
 */
#ifndef CORE_BODY_H
#define CORE_BODY_H

#include "core/tensor.h"

/* Larger blocks leave the caches, smaller ones take too many jobs. */
#define BODY_BLOCK_BYTES ((size_t)1 << 20)

struct body;

/* `cpu` is the device the buffer is made on. block_bytes: taken as one element if that is more. */
NODISCARD enum td_status body_create(struct device *cpu, size_t block_bytes, struct body **out);
void body_destroy(struct body *body);
CLEANUP_DEFINE(struct body *, body_destroy)

/* Takes over malloc'd bytes, also when it fails, and reserves them in the ledger. */
NODISCARD enum td_status body_add_bytes(struct body *body, void *bytes, size_t length);
/* Takes a reference. `dtype`: of the elements handed out. */
NODISCARD enum td_status body_add_tensor(struct body *body, struct tensor *tensor,
                                         enum td_dtype dtype, bool saturate);

/* Of all parts. */
uint64_t body_total_bytes(const struct body *body);

/* After the last part, once or more often. If it fails it can be tried again. payer: see
 * storage_create. */
NODISCARD enum td_status body_prepare(struct body *body, struct account *payer);
/* The next piece: *size_bytes at *data, valid until the next call; 0 bytes at the end. */
NODISCARD enum td_status body_next(struct body *body, const void **data, size_t *size_bytes);
/* Bytes that body_next will compute: 0 if it hands out what is there. */
size_t body_work_bytes(const struct body *body);

/* Whether elements of that dtype lie on the cpu as a body has them: contiguous and uncast. */
bool body_in_place(const struct tensor *tensor, enum td_dtype dtype);

#endif
