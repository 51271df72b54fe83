/* Items of queues: tensors with a text, counted. */
#include "core/queue_internal.h"

#include <string.h>

enum td_status queue_item_create(struct ledger *ledger, struct account *account, struct text meta,
                                 size_t count, struct tensor *const tensors[],
                                 const struct text keys[], struct queue_item **out)
{
    size_t texts = meta.length;
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        texts += keys[i].length;
        bytes += (uint64_t)layout_nbytes(&tensors[i]->layout);
    }
    size_t size = sizeof(struct queue_item) + count * sizeof(struct item_tensor) + texts;
    TRY(account_reserve(account, QUOTA_QUEUE_BYTES, bytes + texts));
    enum td_status status = ledger_reserve(ledger, size, 0, 0);
    struct queue_item *item = status == TD_OK ? malloc(size) : NULL;
    if (!item) {
        account_release(account, QUOTA_QUEUE_BYTES, bytes + texts);
        if (status != TD_OK)
            return status;
        ledger_release(ledger, size, 0, 0);
        return fail(TD_OUT_OF_MEMORY, "no memory for an item");
    }
    memset(item, 0, sizeof *item);
    atomic_init(&item->refs, 1);
    item->ledger = ledger;
    item->account = account_ref(account);
    item->charged_bytes = size;
    item->quota_bytes = bytes + texts;
    item->bytes = bytes;
    item->count = count;
    char *at = (char *)&item->tensors[count];
    for (size_t i = 0; i < count; i++) {
        item->tensors[i].tensor = tensor_ref(tensors[i]);
        storage_name_begin(tensors[i]->storage, account);
        if (keys[i].length)
            memcpy(at, keys[i].data, keys[i].length);
        item->tensors[i].key = (struct text){at, keys[i].length};
        at += keys[i].length;
    }
    if (meta.length)
        memcpy(at, meta.data, meta.length);
    item->meta = (struct text){at, meta.length};
    *out = item;
    return TD_OK;
}

void queue_item_done(struct queue_item *item)
{
    if (atomic_exchange(&item->done, true))
        return;
    for (size_t i = 0; i < item->count; i++)
        storage_name_end(item->tensors[i].tensor->storage);
    account_release(item->account, QUOTA_QUEUE_BYTES, item->quota_bytes);
}

struct queue_item *queue_item_ref(struct queue_item *item)
{
    atomic_fetch_add_explicit(&item->refs, 1, memory_order_relaxed);
    return item;
}

void queue_item_unref(struct queue_item *item)
{
    if (!item || atomic_fetch_sub_explicit(&item->refs, 1, memory_order_acq_rel) != 1)
        return;
    queue_item_done(item);
    for (size_t i = 0; i < item->count; i++)
        tensor_unref(item->tensors[i].tensor);
    ledger_release(item->ledger, item->charged_bytes, 0, 0);
    account_unref(item->account);
    free(item);
}

uint64_t queue_item_id(const struct queue_item *item)
{
    return item->id;
}

uint64_t queue_item_bytes(const struct queue_item *item)
{
    return item->bytes;
}

unsigned queue_item_deliveries(const struct queue_item *item)
{
    return atomic_load(&item->deliveries);
}

void queue_item_unseen(struct queue_item *item)
{
    atomic_fetch_sub(&item->deliveries, 1);
}

struct text queue_item_meta(const struct queue_item *item)
{
    return item->meta;
}

size_t queue_item_count(const struct queue_item *item)
{
    return item->count;
}

struct tensor *queue_item_tensor(const struct queue_item *item, size_t i, struct text *key)
{
    *key = item->tensors[i].key;
    return item->tensors[i].tensor;
}
