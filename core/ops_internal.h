/* ops_internal: what the handlers of the operations share. */
#ifndef CORE_OPS_INTERNAL_H
#define CORE_OPS_INTERNAL_H

#include "core/ops.h"

typedef enum td_status (*op_handler)(struct op_call *call);

/* The one list of handlers, by room. */
#define OP_HANDLER(name) enum td_status op_run_##name(struct op_call *call);
OP_HANDLER(stats) OP_HANDLER(devices) OP_HANDLER(ops) OP_HANDLER(get) OP_HANDLER(map)
OP_HANDLER(release) OP_HANDLER(info) OP_HANDLER(list) OP_HANDLER(rename) OP_HANDLER(copy)
OP_HANDLER(delete) OP_HANDLER(touch) OP_HANDLER(zeros) OP_HANDLER(ones) OP_HANDLER(full)
OP_HANDLER(eye) OP_HANDLER(arange) OP_HANDLER(rand) OP_HANDLER(randn) OP_HANDLER(randint)
OP_HANDLER(body) OP_HANDLER(from_numpy) OP_HANDLER(to) OP_HANDLER(cpu) OP_HANDLER(cuda)
OP_HANDLER(clone) OP_HANDLER(detach) OP_HANDLER(data) OP_HANDLER(contiguous) OP_HANDLER(numpy)
OP_HANDLER(view) OP_HANDLER(reshape) OP_HANDLER(transpose) OP_HANDLER(permute) OP_HANDLER(select)
OP_HANDLER(slice) OP_HANDLER(getitem) OP_HANDLER(squeeze) OP_HANDLER(unsqueeze)
OP_HANDLER(expand) OP_HANDLER(setitem) OP_HANDLER(fill_) OP_HANDLER(copy_) OP_HANDLER(mul)
OP_HANDLER(add) OP_HANDLER(variable) OP_HANDLER(requires_grad_) OP_HANDLER(grad)
OP_HANDLER(set_grad) OP_HANDLER(print) OP_HANDLER(item)

/* The field `saturate`, off unless given. */
static inline bool op_saturate(const struct op_call *call)
{
    return FIELDS_HAS(call->in, saturate) && call->in->saturate;
}

/* The tensor a field names, as a reference: a name, or @id of the session. generation may be NULL. */
NODISCARD enum td_status op_resolve(struct op_call *call, struct text name, struct tensor **out,
                                    uint64_t *generation);

/* The result, with what was done to memory: takes over the reference. NULL: it is shared. */
void op_result(struct op_call *call, struct tensor *tensor, const char *copied_because);

/* The same for a tensor whose elements were computed: nothing was shared or copied. */
void op_result_new(struct op_call *call, struct tensor *tensor);

/* A new tensor, BUILDING: C order, on `device`; see device_ops.alloc for clear. */
NODISCARD enum td_status op_new_tensor(struct device *device, enum td_dtype dtype,
                                       const struct dims *shape, bool clear, struct tensor **out);
/* Ends BUILDING with the mode the request asks for, and sets requires_grad if it asks for that. */
void op_finish_new(struct op_call *call, struct tensor *tensor, bool mutable_by_default);

/* dst = cast(src) for equal shapes, across devices; dst is not visible yet or locked for writing,
 * and shares no bytes with src. */
NODISCARD enum td_status op_copy_elements(const struct tensor *src, const struct layout *src_layout,
                                          struct tensor *dst, const struct layout *dst_layout,
                                          bool saturate);
/* A copy of its own in C order with another dtype and device, still BUILDING. */
NODISCARD enum td_status op_copy_of(struct tensor *src, enum td_dtype dtype, struct device *device,
                                    bool saturate, struct tensor **out);
/* The tensor itself if it is C-contiguous on the cpu with that dtype, else a copy that is. */
NODISCARD enum td_status op_host_contiguous(struct op_call *call, struct tensor *src,
                                            enum td_dtype dtype, struct tensor **out);
/* A view of the input as the result; records grad_fn. */
NODISCARD enum td_status op_result_view(struct op_call *call, const struct layout *layout,
                                        const char *grad_fn);
/* Whether the cast is allowed by the field `casting`. */
NODISCARD enum td_status op_check_cast(const struct op_call *call, enum td_dtype from,
                                       enum td_dtype to);
struct dims dims_of_layout(const struct layout *layout);

#endif
