/* /v1/queues: a queue by its address. Everything else of queues is an operation: /v1/ops/queue_*.
 */
#include "server/http_internal.h"

/* The operation, with the name that the path ends in. */
static enum td_status run_named(struct exchange *x, enum op op,
                                enum td_status (*then)(struct exchange *x))
{
    FIELDS_SET(&x->in, queue, x->rest);
    return exchange_run_op(x, op, then);
}

enum td_status queues_list(struct exchange *x)
{
    return exchange_run_op(x, OP_queues, answer_call);
}

enum td_status queues_get(struct exchange *x)
{
    return run_named(x, OP_queue_info, answer_call);
}

enum td_status queues_put(struct exchange *x)
{
    return run_named(x, OP_queue_create, answer_call);
}

static enum td_status answer_deleted(struct exchange *x)
{
    return answer_empty(x, MHD_HTTP_NO_CONTENT);
}

enum td_status queues_delete(struct exchange *x)
{
    return run_named(x, OP_queue_delete, answer_deleted);
}
