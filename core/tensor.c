#include "core/tensor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct version_counter {
    atomic_uint refs;
    atomic_ullong value;
};

/* Charged to the ledger with each tensor: its head, its version counter, and the head of the
 * storage that most have to themselves. A history is charged apart. */
#define TENSOR_BYTES (sizeof(struct tensor) + sizeof(struct storage) + 64)

static atomic_ullong last_id;

void tensor_ids_begin(uint64_t first)
{
    atomic_store(&last_id, first);
}

static struct version_counter *counter_create(void)
{
    struct version_counter *counter = calloc(1, sizeof *counter);
    if (counter)
        atomic_init(&counter->refs, 1);
    return counter;
}

static void counter_unref(struct version_counter *counter)
{
    if (counter && atomic_fetch_sub(&counter->refs, 1) == 1)
        free(counter);
}

/* Takes over the reference to the counter, which may be NULL: no memory. */
static enum td_status tensor_new(struct storage *storage, const struct layout *layout,
                                 struct version_counter *counter, uint64_t over_bytes,
                                 struct tensor **out)
{
    struct ledger *ledger = storage->device->ledger;
    enum td_status status = ledger_reserve_over(ledger, TENSOR_BYTES, over_bytes);
    if (status != TD_OK) {
        counter_unref(counter);
        return status;
    }
    struct tensor *tensor = counter ? calloc(1, sizeof *tensor) : NULL;
    if (!tensor) {
        counter_unref(counter);
        ledger_release(ledger, TENSOR_BYTES, 0, 0);
        return fail(TD_OUT_OF_MEMORY, "no memory for a tensor's head");
    }
    atomic_init(&tensor->refs, 1);
    tensor->id = atomic_fetch_add(&last_id, 1) + 1;
    tensor->storage = storage_ref(storage);
    atomic_fetch_add_explicit(&storage->tensors, 1, memory_order_relaxed);
    tensor->layout = *layout;
    tensor->version = counter;
    pthread_mutex_init(&tensor->lock, NULL);
    *out = tensor;
    return TD_OK;
}

enum td_status tensor_create(struct storage *storage, const struct layout *layout,
                             struct tensor **out)
{
    return tensor_new(storage, layout, counter_create(), 0, out);
}

enum td_status tensor_view(struct tensor *base, const struct layout *layout, struct tensor **out)
{
    atomic_fetch_add(&base->version->refs, 1);
    return tensor_new(base->storage, layout, base->version, LEDGER_VIEWS_BYTES, out);
}

struct tensor *tensor_ref(struct tensor *tensor)
{
    atomic_fetch_add_explicit(&tensor->refs, 1, memory_order_relaxed);
    return tensor;
}

void tensor_unref(struct tensor *tensor)
{
    /* A loop, not a recursion: a chain of grads may be long. */
    while (tensor && atomic_fetch_sub_explicit(&tensor->refs, 1, memory_order_acq_rel) == 1) {
        struct tensor *grad = tensor->grad;
        size_t history_bytes = tensor->history ? tensor->history->charged_bytes : 0;
        ledger_release(tensor->storage->device->ledger, TENSOR_BYTES + history_bytes, 0, 0);
        storage_left(tensor->storage);
        storage_unref(tensor->storage);
        counter_unref(tensor->version);
        free(tensor->history);
        pthread_mutex_destroy(&tensor->lock);
        free(tensor);
        tensor = grad;
    }
}

enum td_status tensor_fresh_version(struct tensor *tensor)
{
    struct version_counter *counter = counter_create();
    if (!counter)
        return fail(TD_OUT_OF_MEMORY, "no memory for a version counter");
    counter_unref(tensor->version);
    tensor->version = counter;
    return TD_OK;
}

uint64_t tensor_version(const struct tensor *tensor)
{
    return atomic_load(&tensor->version->value);
}

void tensor_bump_version(struct tensor *tensor)
{
    atomic_fetch_add(&tensor->version->value, 1);
}

enum td_status tensor_record(struct tensor *tensor, const char *grad_fn, const struct tensor *input,
                             struct text input_name, uint64_t generation)
{
    if (!tensor_requires_grad(input))
        return TD_OK;
    size_t size = input_name.length + 24;
    struct ledger *ledger = tensor->storage->device->ledger;
    TRY(ledger_reserve(ledger, sizeof(struct history) + size, 0, 0));
    struct history *history = malloc(sizeof *history + size);
    if (!history) {
        ledger_release(ledger, sizeof *history + size, 0, 0);
        return fail(TD_OUT_OF_MEMORY, "no memory for a history");
    }
    history->charged_bytes = sizeof *history + size;
    history->grad_fn = grad_fn;
    if (generation)
        snprintf(history->made_from, size, "%.*s@%" PRIu64, TEXT_ARGS(input_name), generation);
    else
        snprintf(history->made_from, size, "@%" PRIu64, input->id);
    tensor->history = history;
    tensor->is_variable = true;
    atomic_store(&tensor->requires_grad, true);
    return TD_OK;
}

struct tensor *tensor_grad(struct tensor *tensor)
{
    pthread_mutex_lock(&tensor->lock);
    struct tensor *grad = tensor->grad ? tensor_ref(tensor->grad) : NULL;
    pthread_mutex_unlock(&tensor->lock);
    return grad;
}

void tensor_set_grad(struct tensor *tensor, struct tensor *grad)
{
    struct tensor *new_grad = grad ? tensor_ref(grad) : NULL;
    pthread_mutex_lock(&tensor->lock);
    struct tensor *old_grad = tensor->grad;
    tensor->grad = new_grad;
    pthread_mutex_unlock(&tensor->lock);
    tensor_unref(old_grad);
}

/* In place: a struct dims is large. */
static void set_dims(struct dims *out, int rank, const int64_t *values)
{
    out->rank = rank;
    memcpy(out->v, values, (size_t)rank * sizeof *values);
}

void tensor_describe(const struct tensor *tensor, struct fields *out)
{
    const struct layout *layout = &tensor->layout;
    const struct storage *storage = tensor->storage;
    bool variable = tensor->is_variable || tensor_requires_grad(tensor);
    FIELDS_SET(out, id, tensor->id);
    FIELDS_SET(out, kind, text_of(variable ? "variable" : "tensor"));
    FIELDS_SET(out, dtype, layout->dtype);
    set_dims(&out->shape, layout->rank, layout->shape);
    set_dims(&out->strides, layout->rank, layout->strides);
    out->present |= FIELD_BIT(shape) | FIELD_BIT(strides);
    FIELDS_SET(out, offset_bytes, (uint64_t)layout->offset_bytes);
    FIELDS_SET(out, nbytes, (uint64_t)layout_nbytes(layout));
    FIELDS_SET(out, device, text_of(storage->device->name));
    FIELDS_SET(out, requires_grad, tensor_requires_grad(tensor));
    FIELDS_SET(out, is_leaf, tensor->history == NULL);
    FIELDS_SET(out, version, tensor_version(tensor));
    FIELDS_SET(out, epoch, atomic_load(&storage->epoch));
    FIELDS_SET(out, storage, storage->id);
    FIELDS_SET(out, storage_bytes, storage_mapped_bytes(storage));
    FIELDS_SET(out, mode, text_of(storage_mode_name(storage_mode_of(storage))));
    if (tensor->history) {
        FIELDS_SET(out, grad_fn, text_of(tensor->history->grad_fn));
        FIELDS_SET(out, history, text_of(tensor->history->made_from));
    }
}
