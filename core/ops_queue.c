/* Operations on queues. */
#include "core/ops_internal.h"
#include "core/queue.h"
#include "core/ring.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DESCRIPTION_MAX 4096
#define ITEMS_INLINE 1000 /* let go at once; more are, in the job pool */

static struct waiter *waiter_of(struct op_call *call)
{
    if (!call->begun) /* else it may stand in line, where others look at it */
        call->waiter.wake = op_woken;
    return &call->waiter;
}

/* The queue that the request names, kept for the calls that follow. */
static enum td_status find_queue(struct op_call *call)
{
    return call->queue ? TD_OK : queue_find(call->engine->queues, call->in->queue, &call->queue);
}

/* ---- making and looking ------------------------------------------------------------------------
 */

static enum td_status when_full_asked(struct text text, enum queue_full *out)
{
    for (int i = 0; i < QUEUE_FULL_COUNT; i++)
        if (text_equal(text, queue_full_name((enum queue_full)i))) {
            *out = (enum queue_full)i;
            return TD_OK;
        }
    return fail(TD_INVALID,
                "'%.*s' is nothing that a full queue does; expected block, fail or "
                "drop_oldest",
                (int)(text.length < 40 ? text.length : 40), text.data);
}

static enum td_status settings_asked(const struct fields *in, struct queue_settings *out)
{
    *out = queue_defaults;
    if (FIELDS_HAS(in, max_items))
        out->max_items = in->max_items;
    if (FIELDS_HAS(in, max_bytes))
        out->max_bytes = in->max_bytes;
    if (FIELDS_HAS(in, visibility_ms))
        out->visibility_ms = in->visibility_ms;
    if (FIELDS_HAS(in, when_full))
        TRY(when_full_asked(in->when_full, &out->when_full));
    if (!out->max_items || out->max_items > QUEUE_ITEMS_MAX || !out->max_bytes)
        return fail(TD_INVALID,
                    "a queue holds 1 to %d items (max_items), and 1 byte or more "
                    "(max_bytes)",
                    QUEUE_ITEMS_MAX);
    if (!out->visibility_ms || out->visibility_ms > STORE_TTL_MAX_MS)
        return fail(TD_INVALID, "visibility_ms is 1 or more, and at most a hundred years");
    return TD_OK;
}

/* The settings and what it holds, into the reply or an entry of a list. */
static void describe(const struct queue_stats *stats, struct text name, struct fields *out)
{
    FIELDS_SET(out, queue, name);
    FIELDS_SET(out, count, stats->items);
    FIELDS_SET(out, nbytes, stats->bytes);
    FIELDS_SET(out, max_items, stats->settings.max_items);
    FIELDS_SET(out, max_bytes, stats->settings.max_bytes);
    FIELDS_SET(out, visibility_ms, stats->settings.visibility_ms);
    FIELDS_SET(out, when_full, text_of(queue_full_name(stats->settings.when_full)));
    FIELDS_SET(out, closed, stats->closed);
}

enum td_status op_run_queue_create(struct op_call *call)
{
    const struct fields *in = call->in;
    struct queue_settings settings;
    struct queue_stats stats;
    bool create_only = FIELDS_HAS(in, create_only) && in->create_only;
    TRY(settings_asked(in, &settings));
    TRY(queue_open(call->engine->queues, in->queue, &settings, in->present, create_only,
                   call->account, &call->queue));
    queue_read(call->queue, &stats);
    describe(&stats, queue_name(call->queue), &call->out);
    return TD_OK;
}

bool op_queue_is_long(const struct op_call *call)
{
    _cleanup_(queue_unrefp) struct queue *queue = NULL;
    return queue_find(call->engine->queues, call->in->queue, &queue) == TD_OK &&
           queue_length(queue) > ITEMS_INLINE;
}

enum td_status op_run_queue_delete(struct op_call *call)
{
    return queue_delete(call->engine->queues, call->in->queue);
}

enum td_status op_run_queue_close(struct op_call *call)
{
    TRY(find_queue(call));
    queue_close(call->queue);
    return TD_OK;
}

enum td_status op_run_queue_drain(struct op_call *call)
{
    const struct fields *in = call->in;
    TRY(find_queue(call));
    FIELDS_SET(&call->out, count, queue_drain(call->queue, FIELDS_HAS(in, parked) && in->parked));
    return TD_OK;
}

enum td_status op_run_queue_info(struct op_call *call)
{
    struct queue_stats stats;
    TRY(find_queue(call));
    queue_read(call->queue, &stats);
    describe(&stats, queue_name(call->queue), &call->out);
    const struct {
        const char *name;
        uint64_t number;
    } rows[] = {{"items", stats.items},
                {"bytes", stats.bytes},
                {"in_flight", stats.in_flight},
                {"parked", stats.parked},
                {"waiting_gets", stats.waiting_gets},
                {"waiting_puts", stats.waiting_puts},
                {"segments", stats.segments},
                {"segment_bytes", stats.segment_bytes},
#define QUEUE_COUNTER_ROW(name) {#name, stats.name},
                QUEUE_COUNTERS(QUEUE_COUNTER_ROW)
#undef QUEUE_COUNTER_ROW
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        TRY(op_emit_count(call, rows[i].name, rows[i].number));
    return TD_OK;
}

static enum td_status emit_queue(struct op_call *call, struct queue *queue)
{
    struct fields fields;
    struct queue_stats stats;
    queue_read(queue, &stats);
    fields.present = 0;
    describe(&stats, queue_name(queue), &fields);
    return call->emit(call->sink, &fields);
}

enum td_status op_run_queues(struct op_call *call)
{
    const struct fields *in = call->in;
    struct text prefix = FIELDS_HAS(in, prefix) ? in->prefix : text_of("");
    struct text cursor = FIELDS_HAS(in, cursor) ? in->cursor : text_of("");
    struct queue *list[OP_LIST_MAX + 1];
    uint64_t limit;
    TRY(op_limit(call, &limit));
    size_t found = queue_list(call->engine->queues, prefix, cursor, limit + 1, list);
    enum td_status status = TD_OK;
    for (size_t i = 0; i < found; i++) {
        if (status == TD_OK && i < limit)
            status = emit_queue(call, list[i]);
        if (i + 1 == limit && found > limit && (call->text = text_dup(queue_name(list[i]))))
            FIELDS_SET(&call->out, cursor, text_of(call->text));
        queue_unref(list[i]);
    }
    FIELDS_SET(&call->out, count, queue_table_count(call->engine->queues));
    return status;
}

/* ---- put ---------------------------------------------------------------------------------------
 */

struct wanted {
    size_t count;
    struct tensor *tensors[QUEUE_TENSORS_MAX]; /* references */
    struct text keys[QUEUE_TENSORS_MAX], refs[QUEUE_TENSORS_MAX];
};

static void wanted_finish(struct wanted *wanted)
{
    for (size_t i = 0; i < wanted->count; i++)
        tensor_unref(wanted->tensors[i]);
}

/* "KEY=REF", "=REF" or, if there is no =, "REF". */
static enum td_status want_line(struct op_call *call, struct text line, struct wanted *wanted)
{
    const char *equals = memchr(line.data, '=', line.length);
    size_t key_length = equals ? (size_t)(equals - line.data) : 0,
           skip = equals ? key_length + 1 : 0;
    struct text key = {line.data, key_length};
    struct text ref = {line.data + skip, line.length - skip};
    uint64_t generation, ttl_ms;
    if (wanted->count == QUEUE_TENSORS_MAX)
        return fail(TD_TOO_LARGE, "an item has at most %d tensors", QUEUE_TENSORS_MAX);
    for (size_t i = 0; i < wanted->count; i++)
        if (key.length && key.length == wanted->keys[i].length &&
            memcmp(key.data, wanted->keys[i].data, key.length) == 0)
            return fail(TD_INVALID, "the key '%.*s' stands twice in the item", TEXT_ARGS(key));
    TRY(op_resolve(call, ref, &wanted->tensors[wanted->count], &generation, &ttl_ms));
    wanted->keys[wanted->count] = key;
    wanted->refs[wanted->count++] = ref;
    return TD_OK;
}

static enum td_status want_lines(struct op_call *call, struct wanted *wanted)
{
    struct text all = call->in->tensors;
    for (size_t at = 0; at < all.length;) {
        const char *end = memchr(all.data + at, '\n', all.length - at);
        size_t length = end ? (size_t)(end - all.data) - at : all.length - at;
        if (length)
            TRY(want_line(call, (struct text){all.data + at, length}, wanted));
        at += length + 1;
    }
    return wanted->count ? TD_OK : fail(TD_INVALID, "an item has at least one tensor (tensors)");
}

/* What the producer has filled is sealed, once, so that it stays the only one who can write. */
static enum td_status ready_segment(struct storage *storage)
{
    if (storage_mode_of(storage) != STORAGE_BUILDING)
        return TD_OK;
    if (!ring_owns(storage))
        return fail(TD_CONFLICT, "the tensor is not published yet: publish it before it is put, or "
                                 "allocate it for a queue");
    enum td_status status = storage_seal(storage, STORAGE_SINGLE_WRITER);
    /* It may have been put meanwhile, over another connection of the session. */
    return storage_mode_of(storage) == STORAGE_SINGLE_WRITER ? TD_OK : status;
}

static enum td_status make_item(struct op_call *call, struct queue_item **out)
{
    _cleanup_(wanted_finish) struct wanted wanted = {0};
    const struct fields *in = call->in;
    struct text meta = FIELDS_HAS(in, meta) ? in->meta : (struct text){"", 0};
    if (meta.length > QUEUE_META_MAX)
        return fail(TD_TOO_LARGE, "meta has %zu bytes, and %d at most are taken", meta.length,
                    QUEUE_META_MAX);
    TRY(want_lines(call, &wanted));
    for (size_t i = 0; i < wanted.count; i++)
        TRY(ready_segment(wanted.tensors[i]->storage));
    return queue_item_create(&call->engine->ledger, call->account, meta, wanted.count,
                             wanted.tensors, wanted.keys, out);
}

/* Before op_run its place in line is kept: queue_put knows the waiter again. */
static void forget_put(struct op_call *call)
{
    if (call->given_up)
        queue_put_forget(call->queue, &call->waiter);
}

/* What was allocated for a queue is the item's from now on, not the producer's any more. */
static void give_up_segments(struct op_call *call)
{
    for (size_t i = 0; i < queue_item_count(call->item); i++) {
        struct text key;
        const struct tensor *tensor = queue_item_tensor(call->item, i, &key);
        if (ring_owns(tensor->storage) && call->session)
            session_disown(call->session, tensor->id);
    }
}

static void offer_segment(struct op_call *call);

enum td_status op_run_queue_put(struct op_call *call)
{
    bool waits = false;
    TRY(find_queue(call));
    if (!call->item)
        TRY(make_item(call, &call->item));
    TRY(queue_put(call->queue, call->item, waiter_of(call), op_may_wait(call), &waits));
    call->waits = waits;
    if (waits) {
        call->stop_waiting = forget_put;
        return TD_OK;
    }
    give_up_segments(call);
    offer_segment(call);
    FIELDS_SET(&call->out, item, queue_item_id(call->item));
    FIELDS_SET(&call->out, nbytes, queue_item_bytes(call->item));
    return TD_OK;
}

/* ---- get ---------------------------------------------------------------------------------------
 */

static void forget_get(struct op_call *call)
{
    if (call->given_up)
        queue_get_forget(call->queue, &call->waiter);
}

static enum td_status emit_tensor(struct op_call *call, const struct tensor *tensor,
                                  struct text key)
{
    struct fields fields;
    fields.present = 0;
    if (key.length)
        FIELDS_SET(&fields, key, key);
    tensor_describe(tensor, &fields);
    return call->emit(call->sink, &fields);
}

/* The reply tells of the item, which lives as long as the call. */
static enum td_status describe_item(struct op_call *call, const struct queue_item *item)
{
    FIELDS_SET(&call->out, item, queue_item_id(item));
    FIELDS_SET(&call->out, deliveries, queue_item_deliveries(item));
    FIELDS_SET(&call->out, nbytes, queue_item_bytes(item));
    FIELDS_SET(&call->out, count, queue_item_count(item));
    if (queue_item_meta(item).length)
        FIELDS_SET(&call->out, meta, queue_item_meta(item));
    for (size_t i = 0; i < queue_item_count(item); i++) {
        struct text key;
        const struct tensor *tensor = queue_item_tensor(item, i, &key);
        TRY(emit_tensor(call, tensor, key));
    }
    return TD_OK;
}

/* Then op_undo releases the lease, and the item goes back. */
static void undo_get(struct op_call *call)
{
    queue_item_unseen(call->item);
}

enum td_status op_run_queue_get(struct op_call *call)
{
    bool waits;
    uint64_t lease;
    TRY(find_queue(call));
    TRY(queue_get(call->queue, call->session, waiter_of(call), op_may_wait(call), &waits,
                  &call->wait_until_ms, &call->item, &lease));
    call->waits = waits;
    if (waits) {
        call->stop_waiting = forget_get;
        return TD_OK;
    }
    FIELDS_SET(&call->out, lease, lease);
    call->undo = undo_get;
    enum td_status status = describe_item(call, call->item);
    if (status != TD_OK) {
        op_undo(call);
        call->out.present = 0;
    }
    return status;
}

enum td_status op_run_queue_ack(struct op_call *call)
{
    return queue_ack(call->session, call->in->lease);
}

/* "KEY=float32[2, 3]", one a line; those that do not fit are left out. */
static void item_text(const struct queue_item *item, char *out, size_t size)
{
    size_t length = 0;
    for (size_t i = 0; i < queue_item_count(item); i++) {
        char shape[SHAPE_TEXT_SIZE];
        struct text key;
        const struct layout *layout = &queue_item_tensor(item, i, &key)->layout;
        int more = snprintf(out + length, size - length, "%s%.*s%s%s%s", i ? "\n" : "",
                            TEXT_ARGS(key), key.length ? "=" : "", dtype_infos[layout->dtype].name,
                            layout_shape_text(layout->rank, layout->shape, shape, sizeof shape));
        if (more < 0 || (size_t)more >= size - length)
            break;
        length += (size_t)more;
    }
    out[length] = '\0';
}

static enum td_status emit_item(struct op_call *call, const struct queue_item *item)
{
    char text[DESCRIPTION_MAX];
    struct fields fields;
    fields.present = 0;
    item_text(item, text, sizeof text);
    FIELDS_SET(&fields, item, queue_item_id(item));
    FIELDS_SET(&fields, deliveries, queue_item_deliveries(item));
    FIELDS_SET(&fields, nbytes, queue_item_bytes(item));
    FIELDS_SET(&fields, count, queue_item_count(item));
    FIELDS_SET(&fields, tensors, text_of(text));
    if (queue_item_meta(item).length)
        FIELDS_SET(&fields, meta, queue_item_meta(item));
    return call->emit(call->sink, &fields);
}

enum td_status op_run_queue_peek(struct op_call *call)
{
    const struct fields *in = call->in;
    struct queue_item *items[OP_LIST_MAX];
    uint64_t limit;
    TRY(op_limit(call, &limit));
    TRY(find_queue(call));
    size_t found = queue_peek(call->queue, FIELDS_HAS(in, parked) && in->parked, limit, items);
    enum td_status status = TD_OK;
    for (size_t i = 0; i < found; i++) {
        if (status == TD_OK)
            status = emit_item(call, items[i]);
        queue_item_unref(items[i]);
    }
    FIELDS_SET(&call->out, count, found);
    return status;
}

/* ---- memory to fill ----------------------------------------------------------------------------
 */

static void forget_segment(struct op_call *call)
{
    ring_forget(call->ring, &call->waiter, call->given_up);
}

/* Or will never be. */
static bool segment_is_ready(const struct op_call *call)
{
    _cleanup_(queue_unrefp) struct queue *queue = NULL;
    _cleanup_(ring_unrefp) struct ring *ring = call->ring ? ring_ref(call->ring) : NULL;
    const struct fields *in = call->in;
    struct layout layout;
    if (!call->session || layout_contiguous(in->dtype, &in->shape, &layout) != TD_OK)
        return true; /* to be refused */
    if (FIELDS_HAS(in, force) && in->force)
        return false;
    if (!ring && queue_find(call->engine->queues, in->queue, &queue) != TD_OK)
        return true;
    if (!ring)
        ring = queue_ring_there(queue, call->session);
    return ring && ring_is_ready(ring, (uint64_t)layout_nbytes(&layout));
}

bool op_allocate_is_long(const struct op_call *call)
{
    bool ready = FIELDS_HAS(call->in, queue) && segment_is_ready(call);
    return !ready && op_cost_bytes(call) > OP_INLINE_BYTES;
}

/* A tensor over the segment is the session's, until it is put. */
static enum td_status hand_segment(struct op_call *call, const struct layout *layout,
                                   struct storage *storage)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    TRY(tensor_create(storage, layout, &tensor));
    /* Its descriptor leaves once: who has it mapped fills it again and again. */
    if (!storage->filled)
        TRY(storage_share_building(storage, &call->share_fd));
    TRY(session_hold(call->session, tensor));
    op_result(call, take(&tensor), NULL);
    call->undo = op_undo_object;
    return TD_OK;
}

/* For the next item, if that is asked for and costs nothing; else the producer will ask. */
static void offer_segment(struct op_call *call)
{
    _cleanup_(ring_unrefp) struct ring *ring = NULL;
    _cleanup_(storage_unrefp) struct storage *storage = NULL;
    const struct fields *in = call->in;
    struct layout layout;
    if (!FIELDS_HAS(in, dtype) || !FIELDS_HAS(in, shape) || !call->local || !call->session ||
        layout_contiguous(in->dtype, &in->shape, &layout) != TD_OK)
        return;
    ring = queue_ring_there(call->queue, call->session);
    storage = ring ? ring_take_ready(ring, (uint64_t)layout_nbytes(&layout)) : NULL;
    if (!storage)
        return;
    if (hand_segment(call, &layout, storage) != TD_OK)
        call->undo = NULL; /* why is told to who asks for one */
    storage_left(storage); /* as ring_take_ready counted it */
}

enum td_status op_allocate_for_queue(struct op_call *call)
{
    _cleanup_(storage_unrefp) struct storage *storage = NULL;
    const struct fields *in = call->in;
    struct layout layout;
    bool waits;
    if (!device_is_cpu(call->device))
        return fail(TD_UNSUPPORTED,
                    "queues recycle memory of the cpu; put tensors of %s without "
                    "allocating for the queue",
                    call->device->name);
    TRY(find_queue(call));
    TRY(layout_contiguous(in->dtype, &in->shape, &layout));
    if (!call->ring)
        TRY(queue_ring(call->queue, call->session, &call->ring));
    /* A client that has lost its mappings cannot fill what it had before. */
    while (FIELDS_HAS(in, force) && in->force && ring_drop_free(call->ring))
        ;
    struct waiter *waiter = op_may_wait(call) ? waiter_of(call) : NULL;
    TRY(ring_take(call->ring, call->device, (uint64_t)layout_nbytes(&layout), waiter, &waits,
                  &storage));
    call->waits = waits;
    if (waits) {
        call->stop_waiting = forget_segment;
        return TD_OK;
    }
    enum td_status status = hand_segment(call, &layout, storage);
    storage_left(storage); /* as ring_take counted it */
    return status;
}
