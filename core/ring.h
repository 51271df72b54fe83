/* ring: the recycled memory of one producer in a queue.
 *
 * First touches cost ten times a copy, and descriptors cost a pass each. So a producer fills the
 * same few segments over and over: it maps each once, for writing, as its only writer
 * (SINGLE_WRITER: all others are kept to reading by the kernel), and consumers map each once, too.
 * A segment comes back when no tensor over it is referenced any more: by no item, no lease, no
 * name, no operation.
 *
 * A ring is its session's (a lease of LEASE_PRODUCER): when that ends, segments that are not in use
 * are freed, and those that are with their last use.
 *
 * Threads: every function, from any thread.
 */
#ifndef CORE_RING_H
#define CORE_RING_H

#include "core/session.h"

struct ring;

/* A ring of at most max_segments, and the lease for it. `ended`, with its argument, is called once,
 * when the lease ends and the ring is closed. */
NODISCARD enum td_status ring_create(struct session *session, uint64_t max_segments,
                                     void (*ended)(struct ring *ring, void *argument),
                                     void *argument, struct ring **out);
struct ring *ring_ref(struct ring *ring);
void ring_unref(struct ring *ring);
CLEANUP_DEFINE(struct ring *, ring_unref)
const struct session *ring_session(const struct ring *ring);
bool ring_is_closed(struct ring *ring);
/* Ends its lease, if that has not ended: takes no more back, and frees what is not in use. */
void ring_close(struct ring *ring);
void ring_count(struct ring *ring, uint64_t *segments, uint64_t *bytes);

/* Memory of at least size_bytes that nobody uses, as a reference: a segment that came back, or a
 * new one, BUILDING. Where that cannot be, because of max_segments or memory, while segments are in
 * use: adds the waiter, if there is one (*waits, and *out is not set), to be woken when one comes
 * back; else the error. It counts as if a tensor were over it, until the caller has made one and
 * calls storage_left. */
NODISCARD enum td_status ring_take(struct ring *ring, struct device *device, uint64_t size_bytes,
                                   struct waiter *waiter, bool *waits, struct storage **out);
/* Whether ring_take would find one that came back. */
bool ring_is_ready(struct ring *ring, uint64_t size_bytes);
/* The same as a reference, if one came back that its producer has mapped; else NULL. */
struct storage *ring_take_ready(struct ring *ring, uint64_t size_bytes);
/* Frees the segment that has not been wanted for longest; false if all are in use. */
bool ring_drop_free(struct ring *ring);
void ring_forget(struct ring *ring, struct waiter *waiter, bool given_up);
/* The storage, if it is a segment of a ring, is not to be filled again: somebody may go on reading
 * who is not waited for, or it may be a long time before it comes back. It goes with its last
 * reference, which the caller has one of. */
void ring_retire(struct storage *storage);
/* Whether the storage is a segment of a ring. */
static inline bool ring_owns(const struct storage *storage)
{
    return storage->idle != NULL;
}

#endif
