/* segment: host memory for storages, and the pool that recycles it.
 *
 * From MEMFD_MIN_BYTES on, a segment is a memfd of its own, sealed against shrinking and growing at
 * birth, fully allocated, mapped at a 2 MiB-aligned address, in huge pages where the kernel has
 * them. First-touch page faults cost ten times the copy itself, so a segment that never left the
 * daemon is kept, faulted in, for the next storage of its size class.
 *
 * Threads: every function, from any thread.
 */
#ifndef CORE_SEGMENT_H
#define CORE_SEGMENT_H

#include "core/device.h"

struct segment_pool;

NODISCARD enum td_status segment_pool_create(const struct device_options *options,
                                             struct segment_pool **out);
void segment_pool_destroy(struct segment_pool *pool);

/* Bytes a memfd segment for `size` bytes has: a size class at most one eighth above. 0 on overflow.
 */
size_t segment_capacity(size_t size);

/* See device_ops.alloc; reserves in the ledger first, dropping pooled segments when it is full. */
NODISCARD enum td_status segment_alloc(struct segment_pool *pool, size_t size, bool clear,
                                       struct memory *out);
/* Into the pool if it may be used again, else back to the kernel. */
void segment_free(struct segment_pool *pool, struct memory *memory);
/* Moves heap memory into a memfd, so that a descriptor of it exposes no neighbour. */
NODISCARD enum td_status segment_promote(struct segment_pool *pool, struct memory *memory);
/* Takes over a client's descriptor: INVALID unless it is a memfd sealed against shrinking and
 * growing, fully allocated, without huge-TLB pages. Charged before it is mapped. */
NODISCARD enum td_status segment_import(struct segment_pool *pool, int fd, struct memory *out);
/* Sets the seals that `mode` promises, once; for BUILDING only notes that a client may write now.
 * CONFLICT while a client has mapped for writing what is to be FROZEN. */
NODISCARD enum td_status segment_seal(struct memory *memory, enum storage_mode mode);

#endif
