#include "core/ring.h"

#include "core/segment.h"

#include <inttypes.h>
#include <string.h>

/* One that fits, and is not more than so many times as large as needed, is taken before a new one.
 */
#define WASTE_MAX 4

struct ring {
    atomic_uint refs;
    struct session *session; /* a reference */
    uint64_t lease;          /* its id, before anybody else sees the ring */
    struct account *account; /* a reference: pays for the segments */
    uint64_t max_segments;
    void (*ended)(struct ring *ring, void *argument);
    void *argument;

    pthread_mutex_t lock;
    bool closed;
    struct waiter_list waiting;
    uint64_t bytes, returns;
    size_t count, room;
    struct segment {
        struct storage *storage; /* a reference; it knows the ring, by a reference of its own */
        uint64_t returned;       /* when it came back, as `returns` counts; 0: it is in use */
    } * segments;
};

struct ring_lease {
    struct lease lease;
    struct ring *ring;
};

struct ring *ring_ref(struct ring *ring)
{
    atomic_fetch_add_explicit(&ring->refs, 1, memory_order_relaxed);
    return ring;
}

void ring_unref(struct ring *ring)
{
    if (!ring || atomic_fetch_sub_explicit(&ring->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&ring->lock);
    account_unref(ring->account);
    session_unref(ring->session);
    free(ring->segments);
    free(ring);
}

const struct session *ring_session(const struct ring *ring)
{
    return ring->session;
}

/* ---- its life ----------------------------------------------------------------------------------
 */

/* Nothing leads to the segment any more, as far as the ring goes. */
static void segment_leave(struct storage *storage)
{
    storage_name_end(storage);
    storage_unref(storage);
}

static void let_go(struct ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    ring->closed = true;
    struct segment *segments = take(&ring->segments);
    size_t count = ring->count;
    ring->count = ring->room = 0;
    ring->bytes = 0;
    waiter_wake_all(&ring->waiting);
    pthread_mutex_unlock(&ring->lock);
    for (size_t i = 0; i < count; i++)
        segment_leave(segments[i].storage);
    free(segments);
}

void ring_close(struct ring *ring)
{
    if (session_release(ring->session, ring->lease) != TD_OK)
        return; /* it has ended, or is about to */
}

bool ring_is_closed(struct ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    bool closed = ring->closed;
    pthread_mutex_unlock(&ring->lock);
    return closed;
}

static void lease_ended(struct lease *lease)
{
    struct ring_lease *of = (struct ring_lease *)(void *)lease;
    struct ring *ring = of->ring;
    let_go(ring);
    ring->ended(ring, ring->argument);
    ring_unref(ring);
    free(of);
}

static uint64_t measure(const struct lease *lease)
{
    uint64_t segments, bytes;
    ring_count(((const struct ring_lease *)(const void *)lease)->ring, &segments, &bytes);
    return bytes;
}

enum td_status ring_create(struct session *session, uint64_t max_segments,
                           void (*ended)(struct ring *ring, void *argument), void *argument,
                           struct ring **out)
{
    struct ring *ring = calloc(1, sizeof *ring);
    struct ring_lease *of = calloc(1, sizeof *of);
    if (!ring || !of) {
        free(ring);
        free(of);
        return fail(TD_OUT_OF_MEMORY, "no memory for a producer's segments");
    }
    atomic_init(&ring->refs, 2);
    ring->session = session_ref(session);
    ring->account = account_ref(session_account(session));
    ring->max_segments = max_segments;
    ring->ended = ended;
    ring->argument = argument;
    pthread_mutex_init(&ring->lock, NULL);
    of->ring = ring;
    of->lease.kind = LEASE_PRODUCER;
    of->lease.measure = measure;
    of->lease.end = lease_ended;
    enum td_status status = session_lease_begin(session, &of->lease, &ring->lease);
    if (status != TD_OK) {
        ring_unref(ring);
        ring_unref(ring);
        free(of);
        return status;
    }
    *out = ring;
    return TD_OK;
}

void ring_count(struct ring *ring, uint64_t *segments, uint64_t *bytes)
{
    pthread_mutex_lock(&ring->lock);
    *segments = ring->count;
    *bytes = ring->bytes;
    pthread_mutex_unlock(&ring->lock);
}

/* ---- segments ----------------------------------------------------------------------------------
 */

/* No tensor is over it any more, as far as who let the last one go has seen; its reference keeps
 * the storage. A segment that the ring has dropped just goes with its references. */
static void on_idle(struct storage *storage)
{
    struct ring *ring = storage->idle_argument;
    pthread_mutex_lock(&ring->lock);
    for (size_t i = 0; i < ring->count; i++)
        if (ring->segments[i].storage == storage && atomic_load(&storage->tensors) == 0) {
            if (!ring->segments[i].returned)
                ring->segments[i].returned = ++ring->returns;
            (void)waiter_wake_one(&ring->waiting);
        }
    pthread_mutex_unlock(&ring->lock);
}

static void on_freed(struct storage *storage)
{
    ring_unref(storage->idle_argument);
}

/* What a new segment for that many bytes has. */
static uint64_t capacity_for(uint64_t size_bytes)
{
    uint64_t capacity = segment_capacity(size_bytes ? size_bytes : 1);
    return capacity ? capacity : size_bytes;
}

/* A client may have made a tensor over one that had come back: its descriptor is known. */
static bool is_free(const struct segment *segment)
{
    return segment->returned && atomic_load(&segment->storage->tensors) == 0;
}

/* The free segment that fits best, unless it is far too large (`any`: also then); of equal ones
 * that which came back last, for its lines may still be in the cache. */
static struct segment *find_free_locked(struct ring *ring, uint64_t size_bytes, bool any)
{
    struct segment *best = NULL;
    uint64_t capacity = capacity_for(size_bytes);
    for (size_t i = 0; i < ring->count; i++) {
        struct segment *s = &ring->segments[i];
        uint64_t size = s->storage->size_bytes;
        if (!is_free(s) || size < size_bytes || (!any && size / WASTE_MAX > capacity))
            continue;
        uint64_t least = best ? best->storage->size_bytes : UINT64_MAX;
        if (size < least || (size == least && s->returned > best->returned))
            best = s;
    }
    return best;
}

static struct storage *take_free_locked(struct ring *ring, uint64_t size_bytes, bool any)
{
    struct segment *found = find_free_locked(ring, size_bytes, any);
    if (!found)
        return NULL;
    found->returned = 0;
    atomic_fetch_add(&found->storage->tensors,
                     1); /* so that it does not come back before its time */
    return storage_ref(found->storage);
}

struct storage *ring_take_ready(struct ring *ring, uint64_t size_bytes)
{
    struct storage *found = NULL;
    pthread_mutex_lock(&ring->lock);
    const struct segment *best = find_free_locked(ring, size_bytes, false);
    if (best && best->storage->filled)
        found = take_free_locked(ring, size_bytes, false);
    pthread_mutex_unlock(&ring->lock);
    return found;
}

bool ring_is_ready(struct ring *ring, uint64_t size_bytes)
{
    pthread_mutex_lock(&ring->lock);
    bool ready = find_free_locked(ring, size_bytes, false) != NULL;
    pthread_mutex_unlock(&ring->lock);
    return ready;
}

static bool grow_locked(struct ring *ring)
{
    if (ring->count < ring->room)
        return true;
    size_t room = ring->room ? 2 * ring->room : 8;
    struct segment *larger = reallocarray(ring->segments, room, sizeof *larger);
    if (!larger)
        return false;
    ring->segments = larger;
    ring->room = room;
    return true;
}

/* Enters a new segment, in use; false if the ring cannot take it. */
static bool add_segment(struct ring *ring, struct storage *storage)
{
    pthread_mutex_lock(&ring->lock);
    bool good = !ring->closed && ring->count < ring->max_segments && grow_locked(ring);
    if (good) {
        ring->segments[ring->count++] = (struct segment){.storage = storage_ref(storage)};
        atomic_fetch_add(&storage->tensors, 1);
        ring->bytes += storage->size_bytes;
        storage->idle_argument = ring_ref(ring);
        storage->idle = on_idle;
        storage->freed = on_freed;
        storage_name_begin(storage, NULL); /* the ring leads to it, until segment_leave */
    }
    pthread_mutex_unlock(&ring->lock);
    return good;
}

/* The free segment that was not wanted for longest makes room for another; false if there is none.
 */
bool ring_drop_free(struct ring *ring)
{
    struct segment *oldest = NULL;
    struct storage *gone = NULL;
    pthread_mutex_lock(&ring->lock);
    for (size_t i = 0; i < ring->count; i++) {
        struct segment *s = &ring->segments[i];
        if (is_free(s) && (!oldest || s->returned < oldest->returned))
            oldest = s;
    }
    if (oldest) {
        gone = oldest->storage;
        ring->bytes -= gone->size_bytes;
        *oldest = ring->segments[--ring->count];
    }
    pthread_mutex_unlock(&ring->lock);
    if (gone)
        segment_leave(gone);
    return gone != NULL;
}

void ring_retire(struct storage *storage)
{
    if (!ring_owns(storage))
        return;
    struct ring *ring = storage->idle_argument;
    bool here = false;
    pthread_mutex_lock(&ring->lock);
    for (size_t i = 0; i < ring->count && !here; i++)
        if (ring->segments[i].storage == storage) {
            here = true;
            ring->bytes -= storage->size_bytes;
            ring->segments[i] = ring->segments[--ring->count];
            (void)waiter_wake_one(&ring->waiting); /* another may be made in its place */
        }
    pthread_mutex_unlock(&ring->lock);
    if (here)
        segment_leave(storage);
}

static enum td_status make_segment(struct ring *ring, struct device *device, uint64_t size_bytes,
                                   struct storage **out)
{
    _cleanup_(storage_unrefp) struct storage *made = NULL;
    pthread_mutex_lock(&ring->lock);
    bool full = ring->count >= ring->max_segments, closed = ring->closed;
    pthread_mutex_unlock(&ring->lock);
    if (closed)
        return fail(TD_CLOSED, "the queue is gone, or the session has ended");
    if (full)
        return fail(TD_FULL,
                    "%" PRIu64 " segments of this producer are in use in the queue, which is the "
                    "limit; wait until consumers let go of some, or raise max_items",
                    ring->max_segments);
    /* Cleared: recycled memory of the daemon would show what it held before. */
    TRY(storage_create(device, ring->account, capacity_for(size_bytes), true, &made));
    if (!add_segment(ring, made))
        return fail(TD_FULL, "the queue takes no more segments of this producer");
    *out = take(&made);
    return TD_OK;
}

/* Whether something is in use that will come back: then the waiter is told. If something has come
 * back just now, *again is set instead. */
static bool wait_for_return(struct ring *ring, struct waiter *waiter, bool *again)
{
    bool in_use = false;
    *again = false;
    pthread_mutex_lock(&ring->lock);
    for (size_t i = 0; i < ring->count; i++) {
        bool is = is_free(&ring->segments[i]);
        *again = *again || is;
        in_use = in_use || !is;
    }
    in_use = in_use && !*again;
    if (in_use)
        waiter_add_again(&ring->waiting, waiter);
    pthread_mutex_unlock(&ring->lock);
    return in_use;
}

/* Who is woken for nothing may be told that nothing will come back; so are those behind it. */
static void pass_on(struct ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    (void)waiter_wake_one(&ring->waiting);
    pthread_mutex_unlock(&ring->lock);
}

/* Takes what is there, makes what may be made, or frees one segment after the other to that end. */
static enum td_status take_or_make(struct ring *ring, struct device *device, uint64_t size_bytes,
                                   struct storage **out)
{
    enum td_status status = TD_OK;
    do {
        pthread_mutex_lock(&ring->lock);
        *out = take_free_locked(ring, size_bytes, status != TD_OK);
        pthread_mutex_unlock(&ring->lock);
        if (*out)
            return TD_OK;
        status = make_segment(ring, device, size_bytes, out);
        if (status == TD_OK)
            return TD_OK;
    } while (status != TD_CLOSED && ring_drop_free(ring));
    return status;
}

enum td_status ring_take(struct ring *ring, struct device *device, uint64_t size_bytes,
                         struct waiter *waiter, bool *waits, struct storage **out)
{
    enum td_status status;
    bool again;
    *waits = false;
    do {
        again = false;
        status = take_or_make(ring, device, size_bytes, out);
        if (status != TD_OK && status != TD_CLOSED && waiter)
            *waits = wait_for_return(ring, waiter, &again);
    } while (again);
    if (waiter && status != TD_OK && !*waits)
        pass_on(ring);
    return *waits ? TD_OK : status;
}

void ring_forget(struct ring *ring, struct waiter *waiter, bool given_up)
{
    pthread_mutex_lock(&ring->lock);
    bool had = !waiter_waits(waiter) && waiter->woken;
    waiter_remove(&ring->waiting, waiter);
    if (given_up && had)
        (void)waiter_wake_one(&ring->waiting);
    pthread_mutex_unlock(&ring->lock);
}
