/* tensor: a view over a storage. Every result of an operation is one; names refer to them.
 *
 * Storage and layout never change after creation. A variable's requires_grad and grad may; a tensor
 * that a recorded operation made has a history and is no leaf. The version counter is a box shared
 * by views and detach, as in PyTorch.
 *
 * Threads: every function, from any thread.
 */
#ifndef CORE_TENSOR_H
#define CORE_TENSOR_H

#include "core/fields.h"
#include "core/storage.h"

struct version_counter;

/* What a tensor was made from. Immutable. */
struct history {
    size_t charged_bytes; /* in the ledger */
    const char *grad_fn;  /* "MulBackward0"; static */
    char made_from[];     /* "w@12", the name and generation of the input, or "@id" */
};

struct tensor {
    atomic_uint refs;
    uint64_t id; /* never used again */
    struct storage *storage;
    struct layout layout;
    struct version_counter *version;
    struct history *history; /* NULL for a leaf; owned */
    bool is_variable;        /* made by variable(), or with requires_grad */
    bool view_of_leaf;       /* a recorded view of a leaf: in-place writes would miss the history */
    atomic_bool requires_grad;
    pthread_mutex_t lock; /* of grad */
    struct tensor *grad;
};

/* Where ids go on from; for the engine, before the first tensor is made. */
void tensor_ids_begin(uint64_t first);

/* A tensor of its own over `storage`, of which it takes a reference of its own. */
NODISCARD enum td_status tensor_create(struct storage *storage, const struct layout *layout,
                                       struct tensor **out);
/* The same memory and version counter in another layout; grad and history are not inherited. */
NODISCARD enum td_status tensor_view(struct tensor *base, const struct layout *layout,
                                     struct tensor **out);
struct tensor *tensor_ref(struct tensor *tensor);
void tensor_unref(struct tensor *tensor);
CLEANUP_DEFINE(struct tensor *, tensor_unref)

/* A new counter in place of the shared one: PyTorch's .data. Before the tensor is shown to anyone.
 */
NODISCARD enum td_status tensor_fresh_version(struct tensor *tensor);
uint64_t tensor_version(const struct tensor *tensor);
void tensor_bump_version(struct tensor *tensor);

/* Records that the operation grad_fn made `tensor` from `input`, known as `input_name` with that
 * generation; only if the input requires grad. Before the tensor is shown to anyone. */
NODISCARD enum td_status tensor_record(struct tensor *tensor, const char *grad_fn,
                                       const struct tensor *input, struct text input_name,
                                       uint64_t generation);

/* A reference to the grad, NULL if there is none. */
struct tensor *tensor_grad(struct tensor *tensor);
/* Replaces the grad by a reference to another tensor, or none. */
void tensor_set_grad(struct tensor *tensor, struct tensor *grad);

static inline unsigned char *tensor_data(const struct tensor *tensor)
{
    return tensor->storage->memory.data + tensor->layout.offset_bytes;
}

static inline bool tensor_requires_grad(const struct tensor *tensor)
{
    return atomic_load(&tensor->requires_grad);
}

/* Writes the fields that describe the tensor: id, kind, dtype, shape ... Texts live as long as the
 * reference does. */
void tensor_describe(const struct tensor *tensor, struct fields *out);

#endif
