#include "core/ops_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const op_handler handlers[OP_END] = {
#define OP_HANDLER_ROW(number, name, required, optional, traits, doc) [number] = op_run_##name,
    OPS(OP_HANDLER_ROW)
#undef OP_HANDLER_ROW
};

void op_init(struct op_call *call, struct engine *engine, struct session *session, enum op op,
             const struct fields *in)
{
    memset(call, 0, offsetof(struct op_call, out));
    call->out.present = 0;
    call->engine = engine;
    call->session = session;
    call->account = session ? session_account(session) : NULL;
    call->op = op;
    call->in = in;
    call->fd = call->share_fd = -1;
}

static enum td_status parse_id(struct text text, uint64_t *id)
{
    uint64_t value = 0;
    bool good = text.length > 1 && text.length <= 20;
    for (size_t i = 1; i < text.length && good; i++) {
        good = text.data[i] >= '0' && text.data[i] <= '9';
        value = value * 10 + (uint64_t)(text.data[i] - '0');
    }
    if (!good)
        return fail(TD_INVALID, "'%.*s' is no object id; those are @ and a number",
                    TEXT_ARGS(text));
    *id = value;
    return TD_OK;
}

enum td_status op_resolve(struct op_call *call, struct text name, struct tensor **out,
                          uint64_t *generation, uint64_t *ttl_ms)
{
    uint64_t id;
    *generation = *ttl_ms = 0;
    if (name.length == 0 || name.data[0] != '@') {
        TRY(name_check(name));
        return store_lookup_timed(call->engine->store, name, out, generation, ttl_ms);
    }
    TRY(parse_id(name, &id));
    if (!call->session)
        return fail(TD_NOT_FOUND, "objects (@id) belong to a session, and the request names none");
    return session_find(call->session, id, out);
}

/* The layout of a body whose elements lie by strides of the client's: each byte is of one element,
 * as in a contiguous tensor with its dimensions in another order. */
static enum td_status body_strided(const struct fields *in, struct layout *layout)
{
    char sizes[SHAPE_TEXT_SIZE], strides[SHAPE_TEXT_SIZE];
    TRY(layout_strided(in->dtype, &in->shape, &in->strides, 0, LAYOUT_BYTES_MAX, layout));
    if (layout_span_bytes(layout) != layout_nbytes(layout) || layout_self_overlaps(layout))
        return fail(TD_BAD_SHAPE,
                    "a body of shape %s with the strides %s has holes, or elements that overlap; "
                    "put takes strides of C order with dimensions exchanged, or none",
                    layout_shape_text(layout->rank, layout->shape, sizes, sizeof sizes),
                    layout_shape_text(layout->rank, layout->strides, strides, sizeof strides));
    return TD_OK;
}

/* The layout that a body must have, and that it has it. */
static enum td_status begin_body(struct op_call *call)
{
    const struct fields *in = call->in;
    if (call->fd >= 0 && call->body_length)
        return fail(TD_INVALID, "a descriptor and a body came together; send one of them");
    call->has_body = call->fd < 0;
    if (!call->has_body)
        return TD_OK;
    bool strided = call->op == OP_put && FIELDS_HAS(in, strides);
    if ((FIELDS_HAS(in, strides) && !strided) || FIELDS_HAS(in, offset_bytes))
        return fail(TD_INVALID, "strides and offset_bytes go with a descriptor; a body is in C "
                                "order without holes");
    if (!device_is_cpu(call->device))
        return fail(TD_UNSUPPORTED,
                    "a body arrives on the cpu; move the tensor with to afterwards");
    TRY(layout_contiguous(in->dtype, &in->shape, &call->layout));
    if ((uint64_t)layout_nbytes(&call->layout) != call->body_length)
        return fail(TD_BAD_SHAPE,
                    "the shape and dtype need %" PRId64 " bytes, but the body has %" PRIu64,
                    layout_nbytes(&call->layout), call->body_length);
    return strided ? body_strided(in, &call->layout) : TD_OK;
}

/* What these take need not be a tensor that is still there, or is no tensor at all. */
static bool takes_names_only(enum op op)
{
    return op == OP_release || op == OP_delete || op == OP_rename || op == OP_expire ||
           op == OP_wait;
}

enum td_status op_check_published(const struct op_call *call, const struct tensor *tensor)
{
    bool fills = call->op == OP_publish || call->op == OP_info || call->op == OP_map;
    if (!tensor || fills || storage_mode_of(tensor->storage) != STORAGE_BUILDING)
        return TD_OK;
    return fail(TD_CONFLICT, "the tensor is not published yet: publish it before others use it");
}

static enum td_status begin_names(struct op_call *call)
{
    const struct fields *in = call->in;
    bool makes = op_infos[call->op].traits & OP_MAKES;
    if (FIELDS_HAS(in, output))
        TRY(name_check(in->output));
    else if (makes && (FIELDS_HAS(in, create_only) || FIELDS_HAS(in, if_generation) ||
                       FIELDS_HAS(in, ttl_ms)))
        return fail(TD_INVALID, "create_only, if_generation and ttl_ms go with an output name");
    if (FIELDS_HAS(in, ttl_ms))
        TRY(ttl_check(in->ttl_ms));
    if (takes_names_only(call->op))
        return TD_OK;
    uint64_t generation, ttl_ms;
    if (FIELDS_HAS(in, input))
        TRY(op_resolve(call, in->input, &call->input, &call->input_generation,
                       &call->input_ttl_ms));
    if (FIELDS_HAS(in, other))
        TRY(op_resolve(call, in->other, &call->other, &generation, &ttl_ms));
    TRY(op_check_published(call, call->input));
    return op_check_published(call, call->other);
}

/* What `get` reads. */
static enum td_status begin_get(struct op_call *call)
{
    call->layout = call->input->layout;
    if (!FIELDS_HAS(call->in, index))
        return TD_OK;
    return layout_index(&call->input->layout, &call->in->index, &call->layout);
}

/* The input's name and its slice, whatever tensor holds the elements. */
static enum td_status commit_get(struct op_call *call)
{
    if (call->input_generation)
        op_describe_name(&call->out, call->in->input, call->input_generation, call->input_ttl_ms);
    tensor_describe(call->result, &call->out);
    op_describe_read(call, &call->out);
    return TD_OK;
}

static bool is_always_long(const struct op_call *call)
{
    (void)call;
    return true;
}

/* What an operation does in its own way besides running; NULL: as the others do. */
struct op_hooks {
    enum td_status (*begin_body)(struct op_call *call); /* refuses it before it comes */
    enum td_status (*begin)(struct op_call *call);      /* after its names are resolved */
    enum td_status (*commit)(struct op_call *call);
    bool (*is_long)(const struct op_call *call);
};

static const struct op_hooks hooks[OP_END] = {
    [OP_get] = {.begin = begin_get, .commit = commit_get},
    [OP_allocate] = {.is_long = op_allocate_is_long},
    /* A small archive may hold very much. */
    [OP_load] = {.begin_body = op_begin_load, .commit = op_commit_load, .is_long = is_always_long},
    [OP_save] = {.commit = op_commit_save, .is_long = is_always_long},
    [OP_queue_delete] = {.is_long = op_queue_is_long},
    [OP_queue_drain] = {.is_long = op_queue_is_long},
};

enum td_status op_begin(struct op_call *call)
{
    const struct fields *in = call->in;
    unsigned traits = op_infos[call->op].traits;
    TRY(op_check_fields(call->op, in));
    if (call->body_length && !(traits & OP_BODY_IN))
        return fail(TD_INVALID, "%s takes no body", op_infos[call->op].name);
    if (call->fd >= 0 && !(traits & OP_FD_IN))
        return fail(TD_INVALID, "%s takes no descriptor", op_infos[call->op].name);
    struct text device = FIELDS_HAS(in, device) ? in->device : text_of("cpu");
    TRY(devices_find(&call->engine->devices, device.data, device.length, &call->device));
    const struct op_hooks *own = &hooks[call->op];
    if (traits & OP_BODY_IN)
        TRY(own->begin_body ? own->begin_body(call) : begin_body(call));
    TRY(begin_names(call));
    return own->begin ? own->begin(call) : TD_OK;
}

enum td_status op_receive(struct op_call *call)
{
    if (!call->has_body)
        return TD_OK;
    return storage_create(call->device, call->account, call->body_length, false, &call->body_in);
}

bool op_receive_is_long(const struct op_call *call)
{
    return call->body_length > OP_INLINE_BYTES;
}

bool op_run_is_long(const struct op_call *call)
{
    const struct op_hooks *own = &hooks[call->op];
    return own->is_long ? own->is_long(call) : op_cost_bytes(call) > OP_INLINE_BYTES;
}

static enum td_status of_the_connection(const struct op_call *call)
{
    return fail(TD_UNSUPPORTED, "%s is answered by the connection, not by the engine",
                op_infos[call->op].name);
}

enum td_status op_run_hello(struct op_call *call)
{
    return of_the_connection(call);
}

enum td_status op_run_ping(struct op_call *call)
{
    return of_the_connection(call);
}

static void stop_waiting(struct op_call *call, bool given_up)
{
    if (!call->stop_waiting)
        return;
    call->given_up = given_up;
    call->stop_waiting(call);
    call->stop_waiting = NULL;
}

void op_stop_waiting(struct op_call *call)
{
    stop_waiting(call, true);
}

void op_wait_over(struct op_call *call)
{
    stop_waiting(call, false);
}

enum td_status op_run(struct op_call *call)
{
    stop_waiting(call, false);
    call->waits = false;
    call->wait_until_ms = 0;
    enum td_status status = handlers[call->op](call);
    call->begun = true;
    assert(!call->waits || op_may_wait(call));
    if (status != TD_OK)
        call->waits = false;
    if (!call->waits) /* it has what it wanted, or will never get it */
        stop_waiting(call, status != TD_OK);
    return status;
}

/* seal without an output gives the name that it was asked for to what is frozen now. */
static bool seals_name(enum op op, const struct fields *in)
{
    bool of_name = FIELDS_HAS(in, input) && in->input.length && in->input.data[0] != '@';
    return op == OP_seal && !FIELDS_HAS(in, output) && of_name;
}

bool op_makes_object(enum op op, const struct fields *in)
{
    return (op_infos[op].traits & OP_MAKES) && !FIELDS_HAS(in, output) && !seals_name(op, in);
}

void op_undo(struct op_call *call)
{
    if (call->undo)
        call->undo(call);
    call->undo = NULL;
    /* Neither can fail but for a session that has ended, and let everything go by itself. */
    if (FIELDS_HAS(&call->out, lease) && session_release(call->session, call->out.lease) != TD_OK)
        return;
    bool held = op_makes_object(call->op, call->in) && FIELDS_HAS(&call->out, id);
    if (held && session_drop(call->session, call->result->id) != TD_OK)
        return;
}

void op_describe_name(struct fields *out, struct text name, uint64_t generation, uint64_t ttl_ms)
{
    FIELDS_SET(out, name, name);
    FIELDS_SET(out, generation, generation);
    if (ttl_ms)
        FIELDS_SET(out, ttl_ms, ttl_ms);
}

/* Backwards no tensor lies: only the elements go that way. */
void op_describe_read(const struct op_call *call, struct fields *out)
{
    int64_t stride = 1;
    if (!FIELDS_HAS(call->in, index) || !index_steps_back(&call->in->index))
        return;
    for (int d = out->strides.rank - 1; d >= 0; d--) {
        out->strides.v[d] = stride;
        stride *= out->shape.v[d] ? out->shape.v[d] : 1;
    }
    FIELDS_SET(out, offset_bytes, 0);
}

/* What the input's name has left now, after the operation has waited. */
static uint64_t ttl_left(const struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    uint64_t generation, ttl_ms = 0;
    enum td_status status =
        store_lookup_timed(call->engine->store, call->in->input, &tensor, &generation, &ttl_ms);
    return status == TD_OK ? ttl_ms : 0; /* if it is gone, it is not published anew */
}

static enum td_status commit_made(struct op_call *call)
{
    const struct fields *in = call->in;
    struct fields *out = &call->out;
    bool again = seals_name(call->op, in);
    if (again && call->result == call->input)
        return TD_OK; /* it has it */
    if (op_makes_object(call->op, in))
        return session_hold(call->session, call->result);
    struct store_condition condition = {
        .create_only = FIELDS_HAS(in, create_only) && in->create_only,
        .has_generation = again || FIELDS_HAS(in, if_generation),
        .generation = again ? call->input_generation : in->if_generation,
    };
    struct text output = again ? in->input : in->output;
    uint64_t generation, ttl_ms = FIELDS_HAS(in, ttl_ms) ? in->ttl_ms : 0;
    if (again)
        ttl_ms = ttl_left(call);
    TRY(store_publish_for(call->engine->store, output, call->result, &condition, ttl_ms,
                          call->account, &generation));
    op_describe_name(out, output, generation, ttl_ms);
    return TD_OK;
}

enum td_status op_commit(struct op_call *call)
{
    struct fields *out = &call->out;
    if (hooks[call->op].commit)
        return hooks[call->op].commit(call);
    if (!call->result)
        return TD_OK;
    if (op_infos[call->op].traits & OP_MAKES)
        TRY(commit_made(call));
    if (!FIELDS_HAS(out, name) && call->input_generation && call->result == call->input)
        op_describe_name(out, call->in->input, call->input_generation, call->input_ttl_ms);
    tensor_describe(call->result, out);
    return TD_OK;
}

enum td_status op_make_body(struct op_call *call)
{
    const struct tensor *out = call->body_out;
    if (out && !body_in_place(out, call->body_dtype)) {
        TRY(body_create(call->engine->devices.list[0], BODY_BLOCK_BYTES, &call->body_made));
        TRY(body_add_tensor(call->body_made, call->body_out, call->body_dtype,
                            call->body_saturate));
    }
    return call->body_made ? body_prepare(call->body_made, call->account) : TD_OK;
}

void op_end(struct op_call *call)
{
    op_stop_waiting(call);
    closep(&call->fd);
    call->fd = call->share_fd = -1;
    storage_unref(take(&call->body_in));
    tensor_unref(take(&call->body_out));
    body_destroy(take(&call->body_made));
    tensor_unref(take(&call->input));
    tensor_unref(take(&call->other));
    tensor_unref(take(&call->result));
    queue_item_unref(take(&call->item));
    ring_unref(take(&call->ring));
    queue_unref(take(&call->queue));
    bundle_finish(&call->bundle);
    free(take(&call->publications));
    file_destroy(take(&call->file));
    if (call->text_charged)
        ledger_release(&call->engine->ledger, call->text_charged, 0, 0);
    call->text_charged = 0;
    free(take(&call->text));
}

enum td_status op_limit(const struct op_call *call, uint64_t *limit)
{
    const struct fields *in = call->in;
    *limit = FIELDS_HAS(in, limit) && in->limit < OP_LIST_MAX ? in->limit : OP_LIST_MAX;
    return *limit ? TD_OK : fail(TD_INVALID, "limit is the number of entries wanted, 1 or more");
}

void op_woken(struct waiter *waiter)
{
    struct op_call *call =
        (struct op_call *)(void *)((char *)waiter - offsetof(struct op_call, waiter));
    call->wake(call);
}

enum td_status op_emit_count(struct op_call *call, const char *name, uint64_t count)
{
    struct fields fields;
    fields.present = 0;
    FIELDS_SET(&fields, name, text_of(name));
    FIELDS_SET(&fields, count, count);
    return call->emit(call->sink, &fields);
}

void op_undo_object(struct op_call *call)
{
    if (session_drop(call->session, call->result->id) != TD_OK)
        return; /* the session has ended, and let it go */
}

void op_result_new(struct op_call *call, struct tensor *tensor)
{
    call->result = tensor;
}

void op_result(struct op_call *call, struct tensor *tensor, const char *copied_because)
{
    call->result = tensor;
    FIELDS_SET(&call->out, memory, text_of(copied_because ? "copied" : "shared"));
    if (copied_because)
        FIELDS_SET(&call->out, reason, text_of(copied_because));
}

struct dims dims_of_layout(const struct layout *layout)
{
    struct dims dims = {.rank = layout->rank};
    memcpy(dims.v, layout->shape, (size_t)layout->rank * sizeof dims.v[0]);
    return dims;
}

enum td_status op_new_tensor(struct device *device, struct account *payer, enum td_dtype dtype,
                             const struct dims *shape, bool clear, struct tensor **out)
{
    _cleanup_(storage_unrefp) struct storage *storage = NULL;
    struct layout layout;
    TRY(layout_contiguous(dtype, shape, &layout));
    TRY(storage_create(device, payer, (uint64_t)layout_nbytes(&layout), clear, &storage));
    return tensor_create(storage, &layout, out);
}

void op_finish_new(struct op_call *call, struct tensor *tensor, bool mutable_by_default)
{
    const struct fields *in = call->in;
    bool writable = FIELDS_HAS(in, mutable) ? in->mutable : mutable_by_default;
    storage_finish(tensor->storage, writable ? STORAGE_MUTABLE : STORAGE_FROZEN);
    op_set_grad_asked(call, tensor);
}

void op_set_grad_asked(struct op_call *call, struct tensor *tensor)
{
    const struct fields *in = call->in;
    if (FIELDS_HAS(in, requires_grad) && in->requires_grad) {
        tensor->is_variable = true;
        atomic_store(&tensor->requires_grad, true);
    }
}

enum td_status op_result_view(struct op_call *call, const struct layout *layout,
                              const char *grad_fn)
{
    _cleanup_(tensor_unrefp) struct tensor *view = NULL;
    TRY(tensor_view(call->input, layout, &view));
    TRY(tensor_record(view, grad_fn, call->input, call->in->input, call->input_generation));
    view->view_of_leaf = tensor_requires_grad(call->input) &&
                         (call->input->history == NULL || call->input->view_of_leaf);
    op_result(call, take(&view), NULL);
    return TD_OK;
}
