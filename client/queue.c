/* queue: td_queue_open, td_push, td_pop, and what stays mapped from item to item.
 *
 * Producers fill recycled segments, which they have mapped for writing, and consumers read them.
 * Both map each once, and keep that in their td_queue: an item that comes then costs neither a
 * descriptor nor a page fault. What has not been seen for a while is let go.
 */
#include "client/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TENSORS_MAX 64 /* of an item */
#define TENSORS_TEXT_MAX 32768

struct td_queue {
    atomic_uint refs;         /* the caller's, and those of items */
    struct td_client *client; /* a reference */
    struct kept_list filled, read;
    char name[];
};

struct td_item {
    atomic_uint refs;       /* the caller's, and those of mappings */
    struct td_queue *queue; /* a reference */
    struct td_reply *reply;
    bool leased;
    uint64_t forks;           /* see client_leased */
    atomic_bool done;         /* acknowledged, or to be */
    atomic_bool told;         /* the daemon, without an answer */
    atomic_bool acknowledged; /* it has answered */
    size_t count;
    struct item_tensor {
        struct td_reply *entry; /* the texts of info */
        const char *key;
        struct td_info info;
    } tensors[];
};

/* ---- queues ---------------------------------------------------------------------------------- */

static struct td_queue *queue_ref(struct td_queue *queue)
{
    atomic_fetch_add_explicit(&queue->refs, 1, memory_order_relaxed);
    return queue;
}

static void queue_unref(struct td_queue *queue)
{
    if (atomic_fetch_sub_explicit(&queue->refs, 1, memory_order_acq_rel) != 1)
        return;
    kept_close(queue->client, &queue->filled);
    kept_close(queue->client, &queue->read);
    client_unref(queue->client);
    free(queue);
}

enum td_status td_queue_open(struct td_client *client, const char *name,
                             const struct td_queue_options *options, struct td_queue **out)
{
    static const struct td_queue_options defaults = {0};
    struct fields fields;
    struct td_reply *reply;
    if (!name)
        return fail(TD_INVALID, "no name was given (NULL)");
    if (!options)
        options = &defaults;
    fields.present = 0;
    FIELDS_SET(&fields, queue, text_of(name));
    if (options->max_items)
        FIELDS_SET(&fields, max_items, options->max_items);
    if (options->max_bytes)
        FIELDS_SET(&fields, max_bytes, options->max_bytes);
    if (options->visibility_ms > 0)
        FIELDS_SET(&fields, visibility_ms, (uint64_t)options->visibility_ms);
    if (options->when_full)
        FIELDS_SET(&fields, when_full, text_of(options->when_full));
    struct call call = {.op = OP_queue_create, .fields = &fields, .descriptor = -1};
    TRY(client_call(client, &call, &reply));
    td_reply_free(reply);
    size_t size = strlen(name) + 1;
    struct td_queue *queue = calloc(1, sizeof *queue + size);
    if (!queue)
        return fail(TD_OUT_OF_MEMORY, "no memory for a queue");
    memcpy(queue->name, name, size);
    atomic_init(&queue->refs, 1);
    client_ref(client);
    queue->client = client;
    kept_open(client, &queue->filled);
    kept_open(client, &queue->read);
    *out = queue;
    return TD_OK;
}

void td_queue_free(struct td_queue *queue)
{
    if (!queue)
        return;
    kept_clear(queue->client, &queue->filled);
    kept_clear(queue->client, &queue->read);
    queue_unref(queue);
}

static void set_timeout(struct fields *fields, int64_t timeout_ms)
{
    if (timeout_ms >= 0)
        FIELDS_SET(fields, timeout_ms, (uint64_t)timeout_ms);
}

/* ---- filling --------------------------------------------------------------------------------- */

static enum td_status ask_for_segment(struct td_queue *queue, const struct layout *layout,
                                      int64_t timeout_ms, bool force, struct td_reply **out)
{
    struct fields fields;
    fields.present = 0;
    FIELDS_SET(&fields, queue, text_of(queue->name));
    FIELDS_SET(&fields, dtype, layout->dtype);
    FIELDS_SET(&fields, shape, (struct dims){.rank = layout->rank});
    memcpy(fields.shape.v, layout->shape, (size_t)layout->rank * sizeof *fields.shape.v);
    if (force)
        FIELDS_SET(&fields, force, true);
    set_timeout(&fields, timeout_ms);
    struct call call = {.op = OP_allocate, .fields = &fields, .descriptor = -1};
    return client_call(queue->client, &call, out);
}

/* The segment's mapping: kept from before, another td_queue's of this client, or made from the
 * descriptor that came; NULL, without an error, where there is none. */
static enum td_status find_segment(struct td_queue *queue, struct td_mapping *mapping,
                                   struct storage_map **out)
{
    const struct td_info *info = &mapping->info;
    uint64_t session = mapping->reply->session;
    if ((*out = kept_find(queue->client, &queue->filled, info->storage, session)))
        return TD_OK;
    if (mapping->reply->descriptor >= 0)
        TRY(storage_get(queue->client, queue->name, true, info, mapping->reply, out));
    else
        *out = storage_known(queue->client, info->storage, session, true);
    struct storage_map *kept =
        *out ? storage_known(queue->client, info->storage, session, true) : NULL;
    if (kept)
        kept_add(queue->client, &queue->filled, kept, NULL);
    return TD_OK;
}

static enum td_status map_segment(struct td_queue *queue, struct td_mapping *mapping)
{
    TRY(mapping_check_layout(mapping));
    TRY(find_segment(queue, mapping, &mapping->storage));
    if (!mapping->storage)
        return TD_OK;
    if (mapping->storage->size_bytes < mapping->info.storage_bytes)
        return fail(TD_PROTOCOL, "the daemon gives two sizes for storage %" PRIu64,
                    mapping->info.storage);
    if (mapping->span_bytes)
        mapping->data = mapping->storage->base + mapping->info.offset_bytes;
    mapping->writable = true;
    return TD_OK;
}

static enum td_status allocate_once(struct td_queue *queue, const struct layout *layout,
                                    int64_t timeout_ms, bool force, struct td_mapping **out)
{
    struct td_reply *reply;
    _cleanup_(td_unmapp) struct td_mapping *mapping = NULL;
    TRY(ask_for_segment(queue, layout, timeout_ms, force, &reply));
    TRY(mapping_new(queue->client, reply, &mapping));
    mapping->holds = true;
    TRY(map_segment(queue, mapping));
    *out = take(&mapping);
    return TD_OK;
}

/* The segment that came with the last push, if it is one of those elements; else it is given back.
 */
static struct td_mapping *take_next(struct td_queue *queue, const struct layout *layout)
{
    struct td_mapping *next = kept_swap_spare(queue->client, &queue->filled, NULL);
    const struct td_info *info = next ? &next->info : NULL;
    if (next && info->dtype == layout->dtype && info->rank == layout->rank &&
        memcmp(info->shape, layout->shape, (size_t)info->rank * sizeof *info->shape) == 0 &&
        client_holds(queue->client, next->reply->session))
        return next;
    td_unmap(next);
    return NULL;
}

enum td_status td_queue_allocate(struct td_queue *queue, enum td_dtype dtype, int rank,
                                 const int64_t *shape, int64_t timeout_ms, struct td_mapping **out)
{
    struct layout layout;
    struct td_mapping *mapping;
    TRY(client_check_process(queue->client)); /* what is mapped here is the parent's to fill */
    TRY(tensor_describe(dtype, rank, shape, &layout));
    if ((mapping = take_next(queue, &layout))) {
        *out = mapping;
        return TD_OK;
    }
    TRY(allocate_once(queue, &layout, timeout_ms, false, &mapping));
    if (!mapping->storage) { /* a segment whose mapping was let go: it cannot be mapped again */
        td_unmap(mapping);
        TRY(allocate_once(queue, &layout, timeout_ms, true, &mapping));
    }
    if (!mapping->storage) {
        td_unmap(mapping);
        return fail(TD_PROTOCOL, "the daemon gives memory to fill without its descriptor");
    }
    *out = mapping;
    return TD_OK;
}

/* ---- push ------------------------------------------------------------------------------------ */

/* "KEY=REF" lines. */
static enum td_status tensors_text(size_t count, const struct td_push_tensor *tensors, char *out,
                                   size_t size)
{
    size_t length = 0;
    if (count == 0 || count > TENSORS_MAX || !tensors)
        return fail(TD_INVALID, "an item has 1 to %d tensors, and %zu were given", TENSORS_MAX,
                    count);
    for (size_t i = 0; i < count; i++) {
        char object[32];
        const struct td_push_tensor *t = &tensors[i];
        const char *key = t->key ? t->key : "", *ref = t->name;
        if (t->mapping)
            snprintf(object, sizeof object, "@%" PRIu64, t->mapping->info.id), ref = object;
        if (!ref || strchr(ref, '\n'))
            return fail(TD_INVALID, "tensor %zu of the item has neither a mapping nor a name", i);
        if (strpbrk(key, "=\n"))
            return fail(TD_INVALID, "the key of tensor %zu of the item has a '=' or a new line", i);
        length += (size_t)snprintf(out + length, size - length, "%s=%s\n", key, ref);
        if (length >= size)
            return fail(TD_TOO_LARGE, "the keys and names of an item are more than %zu bytes",
                        size);
    }
    return TD_OK;
}

/* Numbers mean something in their own session only: 0 where there is none. */
static enum td_status session_of(const struct td_client *client, size_t count,
                                 const struct td_push_tensor *tensors, uint64_t *out)
{
    for (size_t i = 0; i < count; i++) {
        const struct td_mapping *mapping = tensors[i].mapping;
        if (!mapping)
            continue;
        if (mapping->client != client || !mapping->reply)
            return fail(TD_INVALID,
                        "tensor %zu of the item is no memory that td_queue_allocate gave with this "
                        "client",
                        i);
        if (*out && *out != mapping->reply->session)
            return fail(TD_CONNECTION, "the tensors of the item were allocated in two sessions");
        *out = mapping->reply->session;
    }
    return TD_OK;
}

/* Asks for a segment like the one that is pushed: who fills one fills another. */
static void ask_for_next(size_t count, const struct td_push_tensor *tensors, struct fields *fields)
{
    for (size_t i = 0; i < count; i++) {
        const struct td_mapping *mapping = tensors[i].mapping;
        if (!mapping || !mapping->holds)
            continue;
        FIELDS_SET(fields, dtype, mapping->info.dtype);
        FIELDS_SET(fields, shape, (struct dims){.rank = mapping->info.rank});
        memcpy(fields->shape.v, mapping->info.shape,
               (size_t)mapping->info.rank * sizeof *fields->shape.v);
        return;
    }
}

/* Takes the reply to a push over, and keeps the segment that it may describe. A failure costs the
 * next producer a question, and nothing else. */
static void keep_next(struct td_queue *queue, struct td_reply *reply)
{
    struct td_mapping *next;
    if (!FIELDS_HAS(&reply->fields, storage)) {
        td_reply_free(reply);
        return;
    }
    if (mapping_new(queue->client, reply, &next) != TD_OK)
        return;
    next->holds = true;
    if (map_segment(queue, next) != TD_OK || !next->storage)
        td_unmap(next);
    else
        td_unmap(kept_swap_spare(queue->client, &queue->filled, next));
}

enum td_status td_push(struct td_queue *queue, size_t count, const struct td_push_tensor *tensors,
                       const char *meta, int64_t timeout_ms)
{
    struct fields fields;
    struct td_reply *reply;
    char text[TENSORS_TEXT_MAX];
    TRY(tensors_text(count, tensors, text, sizeof text));
    fields.present = 0;
    FIELDS_SET(&fields, queue, text_of(queue->name));
    FIELDS_SET(&fields, tensors, text_of(text));
    if (meta && *meta)
        FIELDS_SET(&fields, meta, text_of(meta));
    ask_for_next(count, tensors, &fields);
    set_timeout(&fields, timeout_ms);
    struct call call = {.op = OP_queue_put, .fields = &fields, .descriptor = -1};
    TRY(session_of(queue->client, count, tensors, &call.session));
    enum td_status status = client_call(queue->client, &call, &reply);
    /* Where nobody knows, they may be the item's: given back they are, if they are not. */
    for (size_t i = 0; i < count; i++) {
        if (tensors[i].mapping && !call_was_refused(status))
            tensors[i].mapping->writable = false;
        if (tensors[i].mapping && status == TD_OK)
            tensors[i].mapping->holds = false;
    }
    TRY(status);
    keep_next(queue, reply);
    return TD_OK;
}

/* ---- items ----------------------------------------------------------------------------------- */

void item_unref(struct td_item *item)
{
    if (!item || atomic_fetch_sub_explicit(&item->refs, 1, memory_order_acq_rel) != 1)
        return;
    /* Also if it was told: that may have gone over another connection, and come later than this. */
    bool tell = atomic_load(&item->done) && !atomic_load(&item->acknowledged);
    if (item->leased)
        client_unleased(item->queue->client, item->reply->fields.lease, tell, item->reply->session,
                        item->forks);
    for (size_t i = 0; i < item->count; i++)
        td_reply_free(item->tensors[i].entry);
    td_reply_free(item->reply);
    queue_unref(item->queue);
    free(item);
}
CLEANUP_DEFINE(struct td_item *, item_unref)

/* The list's entries, each with texts of its own. */
static enum td_status read_tensors(struct td_item *item, size_t count)
{
    const struct td_reply *entry;
    size_t cursor = 0;
    while (item->count < count && td_reply_next(item->reply, &cursor, &entry)) {
        struct item_tensor *tensor = &item->tensors[item->count++];
        tensor->entry = take(&item->reply->entry);
        tensor->key = "";
        (void)td_reply_text(tensor->entry, "key", &tensor->key);
        TRY(td_reply_info(tensor->entry, &tensor->info));
    }
    return item->count == count
               ? TD_OK
               : fail(TD_PROTOCOL, "the daemon hands out an item of %zu tensors with %zu", count,
                      item->count);
}

/* Takes the reply over, also on failure: then the item goes back. */
static enum td_status item_new(struct td_queue *queue, struct td_reply *reply, struct td_item **out)
{
    size_t count = FIELDS_HAS(&reply->fields, count) ? reply->fields.count : 0;
    bool good = FIELDS_HAS(&reply->fields, lease) && count >= 1 && count <= TENSORS_MAX;
    struct td_item *made = good ? calloc(1, sizeof *made + count * sizeof made->tensors[0]) : NULL;
    if (!made) {
        if (FIELDS_HAS(&reply->fields, lease))
            client_release(queue->client, true, reply->fields.lease, reply->session);
        td_reply_free(reply);
        return good ? fail(TD_OUT_OF_MEMORY, "no memory for an item")
                    : fail(TD_PROTOCOL, "the daemon hands out an item without tensors or lease");
    }
    _cleanup_(item_unrefp) struct td_item *item = made;
    atomic_init(&item->refs, 1);
    item->queue = queue_ref(queue);
    item->reply = reply;
    item->leased = client_leased(queue->client, reply->session, &item->forks);
    TRY(read_tensors(item, count));
    *out = take(&item);
    return TD_OK;
}

static enum td_status pop(struct td_queue *queue, int64_t timeout_ms, struct td_item **out)
{
    struct fields fields;
    struct td_reply *reply;
    fields.present = 0;
    FIELDS_SET(&fields, queue, text_of(queue->name));
    set_timeout(&fields, timeout_ms);
    struct call call = {.op = OP_queue_get, .fields = &fields, .descriptor = -1};
    TRY(client_call(queue->client, &call, &reply));
    return item_new(queue, reply, out);
}

enum td_status td_pop(struct td_queue *queue, int64_t timeout_ms, struct td_item **out)
{
    int64_t deadline = deadline_after(timeout_ms);
    for (;;) {
        /* Who waits long must not hold, meanwhile, what producers are done with. */
        int left_ms = deadline_left(deadline);
        bool in_turns = kept_age(queue->client) && (left_ms < 0 || left_ms > KEPT_MS);
        enum td_status status = pop(queue, in_turns ? KEPT_MS : left_ms, out);
        if (status != TD_EMPTY || (!in_turns && left_ms != INT32_MAX))
            return status;
    }
}

uint64_t td_item_id(const struct td_item *item)
{
    return FIELDS_HAS(&item->reply->fields, item) ? item->reply->fields.item : 0;
}

unsigned td_item_deliveries(const struct td_item *item)
{
    uint64_t deliveries =
        FIELDS_HAS(&item->reply->fields, deliveries) ? item->reply->fields.deliveries : 1;
    return (unsigned)deliveries;
}

const char *td_item_meta(const struct td_item *item)
{
    return FIELDS_HAS(&item->reply->fields, meta) ? item->reply->fields.meta.data : "";
}

size_t td_item_count(const struct td_item *item)
{
    return item->count;
}

const char *td_item_key(const struct td_item *item, size_t i)
{
    return item->tensors[i].key;
}

const struct td_info *td_item_info(const struct td_item *item, size_t i)
{
    return &item->tensors[i].info;
}

static struct td_item *item_ref(struct td_item *item)
{
    atomic_fetch_add_explicit(&item->refs, 1, memory_order_relaxed);
    return item;
}

/* Over a storage that is mapped already, of which it takes the reference over. */
static enum td_status map_known(struct td_item *item, const struct td_info *info,
                                struct storage_map *storage, struct td_mapping **out)
{
    struct td_mapping *m = calloc(1, sizeof *m);
    if (!m) {
        storage_put(item->queue->client, storage);
        return fail(TD_OUT_OF_MEMORY, "no memory for a mapping");
    }
    _cleanup_(td_unmapp) struct td_mapping *mapping = m;
    client_ref(item->queue->client);
    mapping->client = item->queue->client;
    mapping->item = item_ref(item);
    mapping->fd = -1;
    mapping->storage = storage;
    mapping->info = *info;
    mapping->info.memory = "shared";
    TRY(mapping_check_layout(mapping));
    if (storage->size_bytes < info->storage_bytes)
        return fail(TD_PROTOCOL, "the daemon gives two sizes for storage %" PRIu64, info->storage);
    if (mapping->span_bytes)
        mapping->data = storage->base + info->offset_bytes;
    *out = take(&mapping);
    return TD_OK;
}

/* What the item holds, mapped by a request of its own. */
static enum td_status map_anew(struct td_item *item, const struct td_info *info, unsigned flags,
                               struct td_mapping **out)
{
    char object[32];
    snprintf(object, sizeof object, "@%" PRIu64, info->id);
    return mapping_of(item->queue->client, object, flags, item->reply->session, out);
}

enum td_status td_item_map(struct td_item *item, size_t i, unsigned flags, struct td_mapping **out)
{
    struct td_queue *queue = item->queue;
    const struct td_info *info = &item->tensors[i].info;
    uint64_t session = item->reply->session;
    bool recycled = strcmp(info->mode, "single-writer") == 0;
    struct td_mapping *mapping;
    if (flags & ~(unsigned)TD_MAP_PRIVATE)
        return fail(TD_INVALID, "the flags %#x of td_item_map are unknown", flags);
    TRY(client_check_process(queue->client)); /* the item is the parent's to keep */
    if (recycled && !flags) {
        struct storage_map *kept = kept_find(queue->client, &queue->read, info->storage, session);
        if (kept)
            return map_known(item, info, kept, out);
    }
    TRY(map_anew(item, info, flags, &mapping));
    if (!recycled) { /* with a lease of its own */
        *out = mapping;
        return TD_OK;
    }
    if (mapping->info.storage != info->storage) {
        td_unmap(mapping);
        return fail(TD_PROTOCOL, "the daemon shares another storage than the item has");
    }
    if (flags || !mapping->storage) {
        mapping->item = item_ref(item);
        *out = mapping;
        return TD_OK;
    }
    /* It stays mapped, with its lease, and the item's mapping is one over that. */
    struct storage_map *stays = storage_known(queue->client, info->storage, session, false);
    struct storage_map *shown = storage_known(queue->client, info->storage, session, false);
    kept_add(queue->client, &queue->read, stays, mapping);
    return map_known(item, info, shown, out);
}

enum td_status td_item_ack(struct td_item *item)
{
    struct fields fields;
    struct td_reply *reply;
    fields.present = 0;
    FIELDS_SET(&fields, lease, item->reply->fields.lease);
    struct call call = {
        .op = OP_queue_ack, .fields = &fields, .descriptor = -1, .session = item->reply->session};
    TRY(client_call(item->queue->client, &call, &reply));
    td_reply_free(reply);
    atomic_store(&item->done, true);
    atomic_store(&item->acknowledged, true);
    return TD_OK;
}

void td_item_done(struct td_item *item)
{
    if (!item)
        return;
    atomic_store(&item->done, true);
    /* Mappings keep the lease, but who has read need not be waited for. */
    if (atomic_load(&item->refs) > 1 && item->leased && !atomic_load(&item->acknowledged) &&
        !atomic_exchange(&item->told, true))
        client_acknowledge(item->queue->client, item->reply->fields.lease, item->reply->session);
    item_unref(item);
}

void td_item_free(struct td_item *item)
{
    item_unref(item);
}
