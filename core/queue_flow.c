/* Items through a queue: put, handed out, acknowledged, or back again. */
#include "core/queue_internal.h"

#include <inttypes.h>
#include <string.h>

/* ---- room --------------------------------------------------------------------------------------
 */

static bool has_room(const struct queue *queue, uint64_t bytes)
{
    const struct queue_settings *settings = &queue->settings;
    return queue->count < settings->max_items && queue->bytes <= settings->max_bytes &&
           bytes <= settings->max_bytes - queue->bytes;
}

/* An item leaves those that wait. */
static void unlink_item(struct queue *queue, struct queue_item *item)
{
    if (queue->back == item)
        queue->back = TAILQ_PREV(item, item_list, link);
    TAILQ_REMOVE(&queue->items, item, link);
    queue->count--;
    queue->bytes -= item->bytes;
}

/* By number: what comes back stands ahead of all that were put later, and behind what was put
 * before and came back, too. Many come back one after the other: the place is looked for from the
 * last one's. */
static void link_item(struct queue *queue, struct queue_item *item)
{
    struct queue_item *last = TAILQ_LAST(&queue->items, item_list), *at = queue->back;
    if (!last || last->id < item->id) {
        TAILQ_INSERT_TAIL(&queue->items, item, link);
    } else {
        if (!at || at->id > item->id)
            at = TAILQ_FIRST(&queue->items);
        while (at->id < item->id)
            at = TAILQ_NEXT(at, link);
        TAILQ_INSERT_BEFORE(at, item, link);
        queue->back = item;
    }
    queue->count++;
    queue->bytes += item->bytes;
}

/* ---- who waits --------------------------------------------------------------------------------
 */

void queue_settle_locked(struct queue *queue)
{
    bool over = queue->closed && !queue->count && !queue->flying_count;
    while ((over || queue->deleted || queue->count > queue->getters_called) &&
           waiter_wake_one(&queue->getters))
        queue->getters_called++;
    /* One after another: the next is woken when the first has found its place, or none. */
    while ((queue->closed || (!queue->putters_called && has_room(queue, 0))) &&
           waiter_wake_one(&queue->putters))
        queue->putters_called++;
}

/* Whether the waiter was woken and comes because of that; it is not expected any more. */
static bool answers_call(const struct waiter *waiter, uint64_t *called)
{
    bool woken = waiter->woken && !waiter_waits(waiter);
    *called -= woken;
    return woken;
}

/* One that stands in line already keeps its place. */
static void stand_in_line(struct waiter_list *list, struct waiter *waiter)
{
    if (!waiter_waits(waiter))
        waiter_add_again(list, waiter);
}

static void leave_line(struct waiter_list *list, struct waiter *waiter)
{
    waiter_remove(list, waiter);
    waiter->woken = false;
}

/* ---- items that come back ----------------------------------------------------------------------
 */

/* Its memory is not to be waited for by its producer. */
static void retire_segments(const struct queue_item *item)
{
    for (size_t i = 0; i < item->count; i++)
        ring_retire(item->tensors[i].tensor->storage);
}

/* What was in flight goes back to the front, aside after too many deliveries, or, if the queue is
 * no more, to those that are gone. */
static void come_back_locked(struct queue *queue, struct delivery *delivery, struct item_list *gone)
{
    struct queue_item *item = delivery->item;
    TAILQ_REMOVE(&queue->flying, delivery, link);
    delivery->flying = false;
    queue->flying_count--;
    (void)queue_item_ref(item); /* the queue's; the delivery keeps its own */
    if (queue->deleted) {
        TAILQ_INSERT_TAIL(gone, item, link);
    } else if (atomic_load(&item->deliveries) >= QUEUE_DELIVERIES_MAX) {
        TAILQ_INSERT_TAIL(&queue->parked, item, link);
        queue->parked_count++;
        retire_segments(item);
    } else {
        link_item(queue, item);
    }
    queue_settle_locked(queue);
}

static void expire_locked(struct queue *queue, struct item_list *gone)
{
    uint64_t now_ms = clock_now_ms();
    for (struct delivery *first; (first = TAILQ_FIRST(&queue->flying));) {
        if (first->due_ms > now_ms)
            return;
        queue->expired++;
        retire_segments(first->item); /* who is as slow as that may hold it for ever */
        come_back_locked(queue, first, gone);
    }
}

void queue_expire(struct queue *queue)
{
    struct item_list gone = TAILQ_HEAD_INITIALIZER(gone);
    pthread_mutex_lock(&queue->lock);
    expire_locked(queue, &gone);
    pthread_mutex_unlock(&queue->lock);
    queue_items_free(&gone);
}

/* ---- put ---------------------------------------------------------------------------------------
 */

static enum td_status refuse_closed(const struct queue *queue)
{
    return fail(TD_CLOSED, "the queue '%.*s' %s", TEXT_ARGS(queue->name),
                queue->deleted ? "was deleted" : "is closed: it takes no more items");
}

static enum td_status refuse_full(const struct queue *queue, uint64_t bytes)
{
    if (has_room(queue, bytes))
        return fail(TD_FULL,
                    "the queue '%.*s' has room for what others wait to put, who were here before; "
                    "wait (timeout_ms)",
                    TEXT_ARGS(queue->name));
    return fail(TD_FULL,
                "the queue '%.*s' is full: %" PRIu64 " items (of %" PRIu64 ") of %" PRIu64
                " bytes (of %" PRIu64 ") wait; wait until some are taken (timeout_ms), or raise "
                "max_items or max_bytes",
                TEXT_ARGS(queue->name), queue->count, queue->settings.max_items, queue->bytes,
                queue->settings.max_bytes);
}

static void drop_oldest(struct queue *queue, uint64_t bytes, struct item_list *gone)
{
    while (!has_room(queue, bytes)) {
        struct queue_item *oldest = TAILQ_FIRST(&queue->items);
        unlink_item(queue, oldest);
        TAILQ_INSERT_TAIL(gone, oldest, link);
        queue->dropped++;
    }
}

/* Whether it is this one's turn: who was there before goes first. */
static bool is_first(const struct queue *queue, const struct waiter *waiter, bool called)
{
    const struct waiter *first = queue->putters.first;
    return called || (!queue->putters_called && (!first || first == waiter));
}

static enum td_status put_locked(struct queue *queue, struct queue_item *item,
                                 struct waiter *waiter, bool may_wait, bool *waits,
                                 struct item_list *gone)
{
    enum queue_full policy = queue->settings.when_full;
    bool called = answers_call(waiter, &queue->putters_called);
    if (queue->closed)
        return refuse_closed(queue);
    if (item->bytes > queue->settings.max_bytes)
        return fail(TD_TOO_LARGE,
                    "an item of %" PRIu64 " bytes never fits into the queue '%.*s', which holds "
                    "%" PRIu64 "; make it with more max_bytes",
                    item->bytes, TEXT_ARGS(queue->name), queue->settings.max_bytes);
    if (policy == QUEUE_FULL_DROP_OLDEST)
        drop_oldest(queue, item->bytes, gone);
    if (!has_room(queue, item->bytes) || !is_first(queue, waiter, called)) {
        *waits = may_wait && policy == QUEUE_FULL_BLOCK;
        return *waits ? TD_OK : refuse_full(queue, item->bytes);
    }
    item->id = ++queue->last_item;
    link_item(queue, queue_item_ref(item));
    queue->puts++;
    return TD_OK;
}

enum td_status queue_put(struct queue *queue, struct queue_item *item, struct waiter *waiter,
                         bool may_wait, bool *waits)
{
    struct item_list gone = TAILQ_HEAD_INITIALIZER(gone);
    *waits = false;
    pthread_mutex_lock(&queue->lock);
    enum td_status status = put_locked(queue, item, waiter, may_wait, waits, &gone);
    if (*waits) {
        stand_in_line(&queue->putters, waiter);
    } else {
        leave_line(&queue->putters, waiter);
        queue_settle_locked(queue);
    }
    pthread_mutex_unlock(&queue->lock);
    queue_items_free(&gone);
    return status;
}

static void forget(struct queue *queue, struct waiter_list *list, uint64_t *called,
                   struct waiter *waiter)
{
    pthread_mutex_lock(&queue->lock);
    (void)answers_call(waiter, called);
    leave_line(list, waiter);
    queue_settle_locked(queue);
    pthread_mutex_unlock(&queue->lock);
}

void queue_put_forget(struct queue *queue, struct waiter *waiter)
{
    forget(queue, &queue->putters, &queue->putters_called, waiter);
}

void queue_get_forget(struct queue *queue, struct waiter *waiter)
{
    forget(queue, &queue->getters, &queue->getters_called, waiter);
}

/* ---- get ---------------------------------------------------------------------------------------
 */

/* Lets go of what a delivery is made of. */
static void delivery_free(struct delivery *delivery)
{
    for (size_t i = 0; delivery->item && i < delivery->pinned; i++)
        session_unpin(delivery->session, delivery->item->tensors[i].tensor->id);
    queue_item_unref(delivery->item);
    queue_unref(delivery->queue);
    session_unref(delivery->session);
    free(delivery);
}

/* The item goes back unless it was acknowledged, or has gone back before. */
static void delivery_end(struct delivery *delivery)
{
    struct queue *queue = delivery->queue;
    struct item_list gone = TAILQ_HEAD_INITIALIZER(gone);
    pthread_mutex_lock(&queue->lock);
    if (delivery->flying) {
        queue->returned++;
        come_back_locked(queue, delivery, &gone);
    }
    pthread_mutex_unlock(&queue->lock);
    if (delivery->lease.cut) /* the client may be there still, and read */
        retire_segments(delivery->item);
    queue_items_free(&gone);
    delivery_free(delivery);
}

static void lease_ended(struct lease *lease)
{
    delivery_end((struct delivery *)(void *)lease);
}

static enum td_status nothing_locked(struct queue *queue, bool may_wait, bool *waits,
                                     uint64_t *until_ms)
{
    const struct delivery *first = TAILQ_FIRST(&queue->flying);
    if (queue->deleted || (queue->closed && !first && !queue->count))
        return refuse_closed(queue);
    if (!may_wait)
        return fail(TD_EMPTY, "the queue '%.*s' has nothing to hand out%s", TEXT_ARGS(queue->name),
                    first ? ": what there is, other consumers have in hand" : "");
    *until_ms = first ? first->due_ms : 0;
    *waits = true;
    return TD_OK;
}

/* Takes the first item for the delivery, if there is one that is not there for others. */
static enum td_status take_locked(struct queue *queue, struct delivery *delivery,
                                  const struct waiter *waiter, bool may_wait, bool *waits,
                                  uint64_t *until_ms)
{
    struct queue_item *item = TAILQ_FIRST(&queue->items);
    bool called = answers_call(waiter, &queue->getters_called);
    if (!item || (may_wait && !called && queue->count <= queue->getters_called))
        return nothing_locked(queue, may_wait, waits, until_ms);
    unlink_item(queue, item);
    delivery->item = item; /* with the queue's reference */
    atomic_fetch_add(&item->deliveries, 1);
    delivery->flying = true;
    delivery->due_ms = clock_now_ms() + queue->settings.visibility_ms;
    TAILQ_INSERT_TAIL(&queue->flying, delivery, link);
    queue->flying_count++;
    queue->gets++;
    return TD_OK;
}

/* The item becomes the session's: its tensors as objects, and a lease for all of it. */
static enum td_status hand_over(struct delivery *delivery, uint64_t *lease)
{
    struct queue_item *item = delivery->item;
    for (; delivery->pinned < item->count; delivery->pinned++)
        TRY(session_pin(delivery->session, item->tensors[delivery->pinned].tensor));
    delivery->lease.kind = LEASE_ITEM;
    delivery->lease.bytes = item->bytes;
    delivery->lease.end = lease_ended;
    return session_lease_begin(delivery->session, &delivery->lease, lease);
}

/* Takes the first item in hand: *made is then a delivery of it, which is not the session's yet. */
static enum td_status deliver(struct queue *queue, struct session *session, struct waiter *waiter,
                              bool may_wait, bool *waits, uint64_t *until_ms,
                              struct delivery **made)
{
    struct item_list gone = TAILQ_HEAD_INITIALIZER(gone);
    struct delivery *delivery = calloc(1, sizeof *delivery);
    enum td_status status = TD_OUT_OF_MEMORY;
    if (delivery) {
        delivery->queue = queue_ref(queue);
        delivery->session = session_ref(session);
    }
    pthread_mutex_lock(&queue->lock);
    expire_locked(queue, &gone);
    if (delivery)
        status = take_locked(queue, delivery, waiter, may_wait, waits, until_ms);
    else
        (void)answers_call(waiter, &queue->getters_called);
    if (*waits) {
        stand_in_line(&queue->getters, waiter);
    } else {
        leave_line(&queue->getters, waiter);
        queue_settle_locked(queue);
    }
    pthread_mutex_unlock(&queue->lock);
    queue_items_free(&gone);
    if (!delivery)
        return fail(TD_OUT_OF_MEMORY, "no memory to hand out an item");
    if (status != TD_OK || *waits)
        delivery_free(delivery);
    else
        *made = delivery;
    return status;
}

enum td_status queue_get(struct queue *queue, struct session *session, struct waiter *waiter,
                         bool may_wait, bool *waits, uint64_t *until_ms, struct queue_item **item,
                         uint64_t *lease)
{
    struct delivery *delivery = NULL;
    *waits = false;
    *until_ms = 0;
    TRY(deliver(queue, session, waiter, may_wait, waits, until_ms, &delivery));
    if (!delivery)
        return TD_OK;
    /* Once it is the session's, its end may come at any time. */
    struct queue_item *got = queue_item_ref(delivery->item);
    enum td_status status = hand_over(delivery, lease);
    if (status != TD_OK) {
        queue_item_unseen(got);
        delivery_end(delivery);
        queue_item_unref(got);
        return status;
    }
    *item = got;
    return TD_OK;
}

/* ---- acknowledging -----------------------------------------------------------------------------
 */

/* With the table of leases locked, so that the delivery stays. */
static enum td_status ack_locked(struct lease *lease, void *argument)
{
    struct delivery *delivery = (struct delivery *)(void *)lease;
    struct queue_item **done = argument;
    if (lease->kind != LEASE_ITEM)
        return fail(TD_INVALID, "lease %" PRIu64 " is no item of a queue; release gives it back",
                    lease->id);
    struct queue *queue = delivery->queue;
    pthread_mutex_lock(&queue->lock);
    bool flying = delivery->flying;
    if (flying) {
        TAILQ_REMOVE(&queue->flying, delivery, link);
        delivery->flying = false;
        queue->flying_count--;
        queue->acks++;
        *done = queue_item_ref(delivery->item);
        queue_settle_locked(queue);
    }
    pthread_mutex_unlock(&queue->lock);
    if (flying)
        return TD_OK;
    return fail(TD_CONFLICT, "the item was acknowledged before, or has gone back to the queue: it "
                             "was not acknowledged within visibility_ms");
}

enum td_status queue_ack(struct session *session, uint64_t lease)
{
    _cleanup_(queue_item_unrefp) struct queue_item *item = NULL;
    TRY(session_lease_use(session, lease, ack_locked, &item));
    queue_item_done(item);
    return TD_OK;
}

size_t queue_peek(struct queue *queue, bool parked, size_t max, struct queue_item **out)
{
    size_t count = 0;
    struct queue_item *item;
    queue_expire(queue);
    pthread_mutex_lock(&queue->lock);
    TAILQ_FOREACH(item, parked ? &queue->parked : &queue->items, link)
    {
        if (count == max)
            break;
        out[count++] = queue_item_ref(item);
    }
    pthread_mutex_unlock(&queue->lock);
    return count;
}

/* ---- producers ---------------------------------------------------------------------------------
 */

#define RING_SPARE 4 /* segments that are being filled, or in consumers' hands */

static void ring_ended(struct ring *ring, void *argument)
{
    struct queue *queue = argument;
    struct ring_member *gone = NULL;
    pthread_mutex_lock(&queue->lock);
    for (struct ring_member **at = &queue->rings; *at; at = &(*at)->next)
        if ((*at)->ring == ring) {
            gone = *at;
            *at = gone->next;
            break;
        }
    pthread_mutex_unlock(&queue->lock);
    if (gone)
        ring_unref(gone->ring);
    free(gone);
    queue_unref(queue);
}

static struct ring *find_ring_locked(struct queue *queue, const struct session *session)
{
    for (struct ring_member *member = queue->rings; member; member = member->next)
        if (ring_session(member->ring) == session && !ring_is_closed(member->ring))
            return ring_ref(member->ring);
    return NULL;
}

struct ring *queue_ring_there(struct queue *queue, const struct session *session)
{
    pthread_mutex_lock(&queue->lock);
    struct ring *found = find_ring_locked(queue, session);
    pthread_mutex_unlock(&queue->lock);
    return found;
}

/* Enters the ring, of which the member has a reference; false if it has ended already, or the queue
 * has, or another connection of the session was faster: *there is a reference to that one then. */
static bool add_ring(struct queue *queue, struct ring_member *member, struct ring **there)
{
    pthread_mutex_lock(&queue->lock);
    *there = find_ring_locked(queue, ring_session(member->ring));
    bool added = !*there && !queue->deleted && !ring_is_closed(member->ring);
    if (added) {
        member->next = queue->rings;
        queue->rings = member;
    }
    pthread_mutex_unlock(&queue->lock);
    return added;
}

enum td_status queue_ring(struct queue *queue, struct session *session, struct ring **out)
{
    struct ring *there;
    if ((*out = queue_ring_there(queue, session)))
        return TD_OK;
    struct ring_member *member = calloc(1, sizeof *member);
    if (!member)
        return fail(TD_OUT_OF_MEMORY, "no memory for a producer's segments");
    enum td_status status = ring_create(session, queue->settings.max_items + RING_SPARE, ring_ended,
                                        queue_ref(queue), &member->ring);
    if (status != TD_OK) {
        queue_unref(queue);
        free(member);
        return status;
    }
    struct ring *made = ring_ref(member->ring);
    if (add_ring(queue, member, &there)) {
        *out = made;
        return TD_OK;
    }
    ring_close(made);
    ring_unref(made);
    ring_unref(member->ring);
    free(member);
    *out = there;
    return there ? TD_OK : fail(TD_CLOSED, "the queue was deleted, or the session has ended");
}
