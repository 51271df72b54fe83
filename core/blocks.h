/* blocks: a tensor's elements in C order, cast on the way, in pieces of bounded size.
 *
 * What is contiguous, uncast and on the cpu is handed out as it lies in memory; everything else is
 * converted block by block into one buffer of at most block_bytes, so that a whole copy is never in
 * memory. A block ends where a dimension does, and may be shorter for it. The tensor is held until
 * blocks_destroy.
 *
 * One thread at a time.
 */
#ifndef CORE_BLOCKS_H
#define CORE_BLOCKS_H

#include "core/tensor.h"

struct blocks;
struct device;

/* `cpu` is the device buffers are made on. `dtype`: of the elements handed out. block_bytes: at
 * least one element (taken as one if less); the buffer is reserved in the ledger when first needed.
 */
NODISCARD enum td_status blocks_create(struct tensor *tensor, enum td_dtype dtype, bool saturate,
                                       size_t block_bytes, struct device *cpu, struct blocks **out);
void blocks_destroy(struct blocks *blocks);
/* The next elements: *size_bytes of them at *data, valid until the next call; 0 bytes at the end.
 */
NODISCARD enum td_status blocks_next(struct blocks *blocks, const void **data, size_t *size_bytes);
/* Bytes of all elements in `dtype`. */
uint64_t blocks_total_bytes(const struct blocks *blocks);
/* True if blocks_next computes nothing: elements are handed out where they lie. */
bool blocks_in_place(const struct blocks *blocks);
CLEANUP_DEFINE(struct blocks *, blocks_destroy)

#endif
