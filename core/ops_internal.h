/* ops_internal: what the handlers of the operations share. */
#ifndef CORE_OPS_INTERNAL_H
#define CORE_OPS_INTERNAL_H

#include "core/ops.h"

typedef enum td_status (*op_handler)(struct op_call *call);

/* op_run_NAME for every row of the operations table: one without it does not link. */
#define OP_HANDLER_DECLARE(number, name, required, optional, traits, doc)                          \
    enum td_status op_run_##name(struct op_call *call);
OPS(OP_HANDLER_DECLARE)
#undef OP_HANDLER_DECLARE

/* The field `saturate`, off unless given. */
static inline bool op_saturate(const struct op_call *call)
{
    return FIELDS_HAS(call->in, saturate) && call->in->saturate;
}

/* Whether the operation may still wait; else it answers with what there is. */
static inline bool op_may_wait(const struct op_call *call)
{
    bool at_once = FIELDS_HAS(call->in, timeout_ms) && call->in->timeout_ms == 0;
    return call->wake && !call->timed_out && !at_once;
}

/* For call->waiter.wake: wakes the call. */
void op_woken(struct waiter *waiter);

#define OP_LIST_MAX 1000 /* entries of one reply */
/* The field `limit`, or OP_LIST_MAX. */
NODISCARD enum td_status op_limit(const struct op_call *call, uint64_t *limit);
/* An entry of a list reply: a name and a number. */
NODISCARD enum td_status op_emit_count(struct op_call *call, const char *name, uint64_t count);
/* For call->undo: takes the result back, which the session was given as an object. */
void op_undo_object(struct op_call *call);

/* The tensor a field names, as a reference: a name, or @id of the session, which has generation 0
 * and ttl_ms 0. */
NODISCARD enum td_status op_resolve(struct op_call *call, struct text name, struct tensor **out,
                                    uint64_t *generation, uint64_t *ttl_ms);

/* CONFLICT for memory that its client still fills: it is nobody else's, and shows nothing yet. */
NODISCARD enum td_status op_check_published(const struct op_call *call,
                                            const struct tensor *tensor);

/* The result, with what was done to memory: takes over the reference. NULL: it is shared. */
void op_result(struct op_call *call, struct tensor *tensor, const char *copied_because);

/* The same for a tensor whose elements were computed: nothing was shared or copied. */
void op_result_new(struct op_call *call, struct tensor *tensor);

/* A new tensor, BUILDING: C order, on `device`; see device_ops.alloc for clear, and storage_create
 * for payer. */
NODISCARD enum td_status op_new_tensor(struct device *device, struct account *payer,
                                       enum td_dtype dtype, const struct dims *shape, bool clear,
                                       struct tensor **out);
/* Ends BUILDING with the mode the request asks for, and sets requires_grad if it asks for that. */
void op_finish_new(struct op_call *call, struct tensor *tensor, bool mutable_by_default);
/* The latter alone. */
void op_set_grad_asked(struct op_call *call, struct tensor *tensor);
/* Hands the tensor's memory out under a lease, or its elements: see map in the table. */
NODISCARD enum td_status op_map_tensor(struct op_call *call, struct tensor *tensor);

/* dst = cast(src) for equal shapes, across devices; dst is not visible yet or locked for writing,
 * and shares no bytes with src. */
NODISCARD enum td_status op_copy_elements(const struct tensor *src, const struct layout *src_layout,
                                          struct tensor *dst, const struct layout *dst_layout,
                                          bool saturate);
/* A copy of its own in C order with another dtype and device, still BUILDING. */
NODISCARD enum td_status op_copy_of(struct tensor *src, struct account *payer, enum td_dtype dtype,
                                    struct device *device, bool saturate, struct tensor **out);
/* The same of what `layout` makes of the tensor's storage; dtype and device stay. */
NODISCARD enum td_status op_copy_of_layout(struct tensor *src, const struct layout *layout,
                                           struct account *payer, struct tensor **out);
/* OUT_OF_MEMORY for a view of far more elements than its storage has, which would be a reply, or a
 * file, without end: what memory could not hold is asked for in parts. */
NODISCARD enum td_status op_check_expanded(const struct op_call *call, const struct tensor *tensor,
                                           enum td_dtype dtype);
/* The tensor itself if it is C-contiguous on the cpu with that dtype, else a copy that is. */
NODISCARD enum td_status op_host_contiguous(struct op_call *call, struct tensor *src,
                                            enum td_dtype dtype, struct tensor **out);
/* load: what can be refused before its body comes; and op_commit of load and save. */
NODISCARD enum td_status op_begin_load(struct op_call *call);
NODISCARD enum td_status op_commit_load(struct op_call *call);
NODISCARD enum td_status op_commit_save(struct op_call *call);
/* call->layout of the input as the result, for `get`: it may lie backwards, as no tensor may that
 * is kept. */
NODISCARD enum td_status op_result_to_read(struct op_call *call);
/* A view of the input as the result; records grad_fn. */
NODISCARD enum td_status op_result_view(struct op_call *call, const struct layout *layout,
                                        const char *grad_fn);
/* allocate, for the queue that the request names: a segment of the session's ring. */
NODISCARD enum td_status op_allocate_for_queue(struct op_call *call);
/* Not with a segment that is ready. */
bool op_allocate_is_long(const struct op_call *call);
/* Whether the queue has so many items that letting them go holds up a thread. */
bool op_queue_is_long(const struct op_call *call);
struct dims dims_of_layout(const struct layout *layout);

#endif
