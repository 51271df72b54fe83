/* Queues by name: making, finding, closing, draining, deleting, counting them. */
#include "core/queue_internal.h"
#include "core/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int name_compare(const struct queue *a, const struct queue *b)
{
    size_t shorter = a->name.length < b->name.length ? a->name.length : b->name.length;
    int order = memcmp(a->name.data, b->name.data, shorter);
    if (order != 0)
        return order;
    return (a->name.length > b->name.length) - (a->name.length < b->name.length);
}

RB_HEAD(queue_tree, queue);
RB_GENERATE_INTERNAL(queue_tree, queue, by_name, name_compare, __attribute__((unused)) static)

struct queue_table {
    struct ledger *ledger;
    uint64_t max_queues;
    pthread_mutex_t lock;
    struct queue_tree queues;
    uint64_t count;
};

const struct queue_settings queue_defaults = {
    .max_items = 64,
    .max_bytes = UINT64_C(1) << 30,
    .visibility_ms = 300000,
    .when_full = QUEUE_FULL_BLOCK,
};

const char *queue_full_name(enum queue_full policy)
{
    static const char *const names[] = {
#define QUEUE_FULL_NAME(name, text) text,
        QUEUE_FULL_POLICIES(QUEUE_FULL_NAME)
#undef QUEUE_FULL_NAME
    };
    return names[policy];
}

/* ---- the table ---------------------------------------------------------------------------------
 */

enum td_status queue_table_create(struct ledger *ledger, uint64_t max_queues,
                                  struct queue_table **out)
{
    struct queue_table *table = calloc(1, sizeof *table);
    if (!table)
        return fail(TD_OUT_OF_MEMORY, "no memory for the queues");
    table->ledger = ledger;
    table->max_queues = max_queues;
    pthread_mutex_init(&table->lock, NULL);
    RB_INIT(&table->queues);
    *out = table;
    return TD_OK;
}

/* What a queue takes, charged to the ledger. */
static uint64_t queue_size(const struct queue *queue)
{
    return sizeof *queue + queue->name.length;
}

void queue_table_destroy(struct queue_table *table)
{
    if (!table)
        return;
    for (struct queue *queue; (queue = RB_ROOT(&table->queues));) {
        RB_REMOVE(queue_tree, &table->queues, queue);
        queue_unref(queue);
    }
    pthread_mutex_destroy(&table->lock);
    free(table);
}

uint64_t queue_table_count(struct queue_table *table)
{
    pthread_mutex_lock(&table->lock);
    uint64_t count = table->count;
    pthread_mutex_unlock(&table->lock);
    return count;
}

void queue_table_expire(struct queue_table *table)
{
    struct queue *first = NULL, *queue;
    uint64_t now_ms = clock_now_ms();
    pthread_mutex_lock(&table->lock);
    RB_FOREACH(queue, queue_tree, &table->queues)
    {
        pthread_mutex_lock(&queue->lock);
        const struct delivery *oldest = TAILQ_FIRST(&queue->flying);
        bool due = oldest && oldest->due_ms <= now_ms;
        pthread_mutex_unlock(&queue->lock);
        if (due && !queue->listed) { /* else another clock is at it */
            queue->listed = true;
            queue->next = first;
            first = queue_ref(queue);
        }
    }
    pthread_mutex_unlock(&table->lock);
    for (; first; first = queue) {
        queue = first->next;
        queue_expire(first);
        pthread_mutex_lock(&table->lock);
        first->listed = false;
        pthread_mutex_unlock(&table->lock);
        queue_unref(first);
    }
}

/* ---- a queue -----------------------------------------------------------------------------------
 */

static enum td_status queue_new(struct queue_table *table, struct text name,
                                const struct queue_settings *settings, struct account *account,
                                struct queue **out)
{
    struct queue *queue = calloc(1, sizeof *queue + name.length);
    if (!queue)
        return fail(TD_OUT_OF_MEMORY, "no memory for a queue");
    atomic_init(&queue->refs, 1);
    queue->table = table;
    queue->settings = *settings;
    memcpy(queue->name_bytes, name.data, name.length);
    queue->name = (struct text){queue->name_bytes, name.length};
    pthread_mutex_init(&queue->lock, NULL);
    TAILQ_INIT(&queue->items);
    TAILQ_INIT(&queue->parked);
    TAILQ_INIT(&queue->flying);
    enum td_status status = account_reserve(account, QUOTA_NAMES, 1);
    if (status == TD_OK) {
        queue->account = account_ref(account);
        status = ledger_reserve(table->ledger, queue_size(queue), 0, 0);
    }
    if (status != TD_OK) {
        if (queue->account) {
            account_release(account, QUOTA_NAMES, 1);
            account_unref(account);
        }
        pthread_mutex_destroy(&queue->lock);
        free(queue);
        return status;
    }
    *out = queue;
    return TD_OK;
}

void queue_items_free(struct item_list *items)
{
    for (struct queue_item *item; (item = TAILQ_FIRST(items));) {
        TAILQ_REMOVE(items, item, link);
        queue_item_done(item);
        queue_item_unref(item);
    }
}

struct queue *queue_ref(struct queue *queue)
{
    atomic_fetch_add_explicit(&queue->refs, 1, memory_order_relaxed);
    return queue;
}

void queue_unref(struct queue *queue)
{
    if (!queue || atomic_fetch_sub_explicit(&queue->refs, 1, memory_order_acq_rel) != 1)
        return;
    queue_items_free(&queue->items);
    queue_items_free(&queue->parked);
    if (!queue->deleted)
        account_release(queue->account, QUOTA_NAMES, 1);
    account_unref(queue->account);
    ledger_release(queue->table->ledger, queue_size(queue), 0, 0);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

static struct queue *find_locked(struct queue_table *table, struct text name)
{
    struct queue key = {.name = name};
    return RB_FIND(queue_tree, &table->queues, &key);
}

static enum td_status setting_differs(struct text name, const char *what, uint64_t have,
                                      uint64_t asked)
{
    return fail(TD_EXISTS,
                "the queue '%.*s' is there already, with a %s of %" PRIu64 " and not %" PRIu64
                "; leave it out to take the queue as it is, or delete the queue first",
                TEXT_ARGS(name), what, have, asked);
}

/* Whether a queue that is there is what was asked for. */
static enum td_status settings_check(const struct queue *queue, const struct queue_settings *asked,
                                     field_set given)
{
    const struct queue_settings *have = &queue->settings;
    if ((given & FIELD_BIT(max_items)) && have->max_items != asked->max_items)
        return setting_differs(queue->name, "max_items", have->max_items, asked->max_items);
    if ((given & FIELD_BIT(max_bytes)) && have->max_bytes != asked->max_bytes)
        return setting_differs(queue->name, "max_bytes", have->max_bytes, asked->max_bytes);
    if ((given & FIELD_BIT(visibility_ms)) && have->visibility_ms != asked->visibility_ms)
        return setting_differs(queue->name, "visibility_ms", have->visibility_ms,
                               asked->visibility_ms);
    if ((given & FIELD_BIT(when_full)) && have->when_full != asked->when_full)
        return fail(TD_EXISTS,
                    "the queue '%.*s' is there already, with when_full %s and not %s; leave it out "
                    "to take the queue as it is, or delete the queue first",
                    TEXT_ARGS(queue->name), queue_full_name(have->when_full),
                    queue_full_name(asked->when_full));
    return TD_OK;
}

/* Finds the queue, or enters the fresh one, which it takes over then. */
static enum td_status open_locked(struct queue_table *table, struct text name,
                                  const struct queue_settings *settings, field_set given,
                                  bool create_only, struct queue **fresh, struct queue **out)
{
    struct queue *queue = find_locked(table, name);
    if (queue && create_only)
        return fail(TD_EXISTS, "the queue '%.*s' is there already", TEXT_ARGS(name));
    if (queue)
        TRY(settings_check(queue, settings, given));
    if (!queue && table->count >= table->max_queues)
        return fail(TD_OUT_OF_MEMORY,
                    "there are %" PRIu64 " queues, which is the limit; delete some, or raise "
                    "--max-queues",
                    table->count);
    if (!queue && *fresh) {
        queue = take(fresh);
        RB_INSERT(queue_tree, &table->queues, queue);
        table->count++;
    }
    *out = queue ? queue_ref(queue) : NULL;
    return TD_OK;
}

enum td_status queue_open(struct queue_table *table, struct text name,
                          const struct queue_settings *settings, field_set given, bool create_only,
                          struct account *account, struct queue **out)
{
    _cleanup_(queue_unrefp) struct queue *fresh = NULL;
    TRY(name_check(name));
    /* Most often it is there; else it is made outside of the lock. */
    for (*out = NULL;;) {
        pthread_mutex_lock(&table->lock);
        enum td_status status = open_locked(table, name, settings, given, create_only, &fresh, out);
        pthread_mutex_unlock(&table->lock);
        TRY(status);
        if (*out)
            return TD_OK;
        TRY(queue_new(table, name, settings, account, &fresh));
    }
}

enum td_status queue_find(struct queue_table *table, struct text name, struct queue **out)
{
    pthread_mutex_lock(&table->lock);
    struct queue *queue = find_locked(table, name);
    if (queue)
        *out = queue_ref(queue);
    pthread_mutex_unlock(&table->lock);
    if (queue)
        return TD_OK;
    TRY(name_check(name));
    return fail(TD_NOT_FOUND, "there is no queue '%.*s'; queue_create makes it, queues lists them",
                TEXT_ARGS(name));
}

size_t queue_list(struct queue_table *table, struct text prefix, struct text cursor, size_t max,
                  struct queue **out)
{
    size_t count = 0;
    struct queue prefix_key = {.name = prefix}, cursor_key = {.name = cursor};
    bool from_cursor = cursor.length && name_compare(&cursor_key, &prefix_key) >= 0;
    pthread_mutex_lock(&table->lock);
    struct queue *queue =
        RB_NFIND(queue_tree, &table->queues, from_cursor ? &cursor_key : &prefix_key);
    if (queue && from_cursor && name_compare(queue, &cursor_key) == 0)
        queue = RB_NEXT(queue_tree, &table->queues, queue);
    for (; queue && count < max; queue = RB_NEXT(queue_tree, &table->queues, queue)) {
        if (queue->name.length < prefix.length ||
            memcmp(queue->name.data, prefix.data, prefix.length) != 0)
            break;
        out[count++] = queue_ref(queue);
    }
    pthread_mutex_unlock(&table->lock);
    return count;
}

struct text queue_name(const struct queue *queue)
{
    return queue->name;
}

/* ---- its end -----------------------------------------------------------------------------------
 */

void queue_close(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    queue_settle_locked(queue);
    pthread_mutex_unlock(&queue->lock);
}

uint64_t queue_drain(struct queue *queue, bool parked)
{
    struct item_list gone = TAILQ_HEAD_INITIALIZER(gone);
    pthread_mutex_lock(&queue->lock);
    uint64_t *count = parked ? &queue->parked_count : &queue->count, drained = *count;
    TAILQ_CONCAT(&gone, parked ? &queue->parked : &queue->items, link);
    *count = 0;
    if (!parked) {
        queue->bytes = 0;
        queue->back = NULL;
    }
    queue->drained += drained;
    queue_settle_locked(queue);
    pthread_mutex_unlock(&queue->lock);
    queue_items_free(&gone);
    return drained;
}

static void rings_close(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    struct ring_member *rings = take(&queue->rings), *next;
    pthread_mutex_unlock(&queue->lock);
    for (; rings; rings = next) {
        next = rings->next;
        ring_close(rings->ring);
        ring_unref(rings->ring);
        free(rings);
    }
}

enum td_status queue_delete(struct queue_table *table, struct text name)
{
    _cleanup_(queue_unrefp) struct queue *queue = NULL;
    TRY(queue_find(table, name, &queue));
    pthread_mutex_lock(&table->lock);
    bool here = find_locked(table, name) == queue;
    if (here) {
        RB_REMOVE(queue_tree, &table->queues, queue);
        table->count--;
    }
    pthread_mutex_unlock(&table->lock);
    if (!here)
        return fail(TD_NOT_FOUND, "the queue '%.*s' was deleted meanwhile", TEXT_ARGS(name));
    pthread_mutex_lock(&queue->lock);
    queue->closed = queue->deleted = true;
    queue_settle_locked(queue);
    pthread_mutex_unlock(&queue->lock);
    account_release(queue->account, QUOTA_NAMES, 1); /* it may live on for what is in flight */
    (void)queue_drain(queue, false);
    (void)queue_drain(queue, true);
    rings_close(queue);
    struct queue *of_table = queue; /* its reference */
    queue_unref(of_table);
    return TD_OK;
}

/* ---- counting ----------------------------------------------------------------------------------
 */

static uint64_t waiters_of(const struct waiter_list *list)
{
    uint64_t count = 0;
    for (const struct waiter *waiter = list->first; waiter; waiter = waiter->next)
        count++;
    return count;
}

uint64_t queue_length(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    uint64_t length = queue->count + queue->parked_count;
    pthread_mutex_unlock(&queue->lock);
    return length;
}

void queue_read(struct queue *queue, struct queue_stats *out)
{
    uint64_t segments, bytes;
    queue_expire(queue);
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&queue->lock);
    out->settings = queue->settings;
    out->items = queue->count;
    out->bytes = queue->bytes;
    out->in_flight = queue->flying_count;
    out->parked = queue->parked_count;
    out->waiting_gets = waiters_of(&queue->getters);
    out->waiting_puts = waiters_of(&queue->putters);
    out->closed = queue->closed;
    for (const struct ring_member *member = queue->rings; member; member = member->next) {
        ring_count(member->ring, &segments, &bytes);
        out->segments += segments;
        out->segment_bytes += bytes;
    }
#define QUEUE_COUNTER_READ(name) out->name = queue->name;
    QUEUE_COUNTERS(QUEUE_COUNTER_READ)
#undef QUEUE_COUNTER_READ
    pthread_mutex_unlock(&queue->lock);
}
