/* Operations on names, bytes, mappings and the daemon itself. */
#include "core/ops_internal.h"
#include "core/print.h"

#include <inttypes.h>
#include <string.h>

enum td_status op_check_expanded(const struct op_call *call, const struct tensor *tensor,
                                 enum td_dtype dtype)
{
    uint64_t limit = call->engine->ledger.limits.memory_bytes;
    uint64_t bytes = (uint64_t)tensor->layout.elements * dtype_infos[dtype].size_bytes;
    bool expanded = (uint64_t)layout_nbytes(&tensor->layout) > tensor->storage->size_bytes;
    if (!expanded || bytes <= limit)
        return TD_OK;
    return fail(TD_OUT_OF_MEMORY,
                "%" PRIu64 " bytes of an expanded view do not fit into %" PRIu64
                ", which is the memory limit; take parts of it by index",
                bytes, limit);
}

/* Sends the elements as the reply's body, in C order and dtype: of many no copy is made. */
static enum td_status body_out(struct op_call *call, struct tensor *tensor, enum td_dtype dtype,
                               const char *reason)
{
    uint64_t bytes = (uint64_t)tensor->layout.elements * dtype_infos[dtype].size_bytes;
    TRY(op_check_expanded(call, tensor, dtype));
    if (bytes > OP_INLINE_BYTES)
        call->body_out = tensor_ref(tensor);
    else
        TRY(op_host_contiguous(call, tensor, dtype, &call->body_out));
    call->body_dtype = dtype;
    call->body_saturate = op_saturate(call);
    op_result(call, tensor_ref(tensor), reason);
    return TD_OK;
}

/* `force` asks for nothing more: a body has no grad, and is on the cpu. */
enum td_status op_run_get(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *part = NULL;
    enum td_dtype have = call->input->layout.dtype;
    enum td_dtype dtype = FIELDS_HAS(call->in, dtype) ? call->in->dtype : have;
    TRY(op_check_cast(call, have, dtype));
    if (FIELDS_HAS(call->in, index)) {
        TRY(op_result_to_read(call));
        part = take(&call->result);
    } else {
        part = tensor_ref(call->input);
    }
    return body_out(call, part, dtype, dtype == have ? "transport" : "dtype");
}

enum td_status op_map_tensor(struct op_call *call, struct tensor *tensor)
{
    const struct fields *in = call->in;
    struct storage *storage = tensor->storage;
    bool write = FIELDS_HAS(in, write) && in->write;
    bool frozen = storage_mode_of(storage) == STORAGE_FROZEN;
    if (!device_is_cpu(storage->device))
        return fail(TD_WRONG_DEVICE, "the tensor is on %s; map reaches host memory only, use cpu()",
                    storage->device->name);
    if (!call->local && write)
        return fail(TD_UNSUPPORTED, "memory is shared over the Unix socket only; over TCP write "
                                    "with setitem or copy_");
    if (!call->local || (frozen && !write && storage->memory.fd < 0))
        return body_out(call, tensor, tensor->layout.dtype, call->local ? "small" : "transport");
    /* The lease first: if it is refused, the memory stays as it is. */
    uint64_t lease, ttl_ms = FIELDS_HAS(in, ttl_ms) ? in->ttl_ms : 0;
    bool fills = storage_mode_of(storage) == STORAGE_BUILDING && (write || call->op == OP_allocate);
    enum lease_kind kind = fills ? LEASE_FILL : write ? LEASE_WRITE : LEASE_READ;
    bool by_name = call->input_generation != 0;
    TRY(session_lease_tensor(call->session, kind, tensor, by_name, ttl_ms, &lease));
    enum td_status status = fills ? storage_share_building(storage, &call->share_fd)
                                  : storage_share(storage, write, &call->share_fd);
    if (status != TD_OK)
        return session_release(call->session, lease) == TD_OK ? status : TD_INTERNAL;
    if (FIELDS_HAS(in, known_storage) && in->known_storage == storage->id)
        call->share_fd = -1; /* the client has it */
    op_result(call, tensor_ref(tensor), NULL);
    FIELDS_SET(&call->out, lease, lease);
    return TD_OK;
}

enum td_status op_run_map(struct op_call *call)
{
    return op_map_tensor(call, call->input);
}

enum td_status op_run_numpy(struct op_call *call)
{
    struct tensor *input = call->input;
    _cleanup_(tensor_unrefp) struct tensor *forced = NULL;
    struct device *device = input->storage->device;
    bool force = FIELDS_HAS(call->in, force) && call->in->force;
    if (!force && !device_is_cpu(device))
        return fail(TD_WRONG_DEVICE,
                    "can't convert %s device type tensor to numpy. Use Tensor.cpu() to copy the "
                    "tensor to host memory first.",
                    device->name);
    if (!force && tensor_requires_grad(input))
        return fail(TD_REQUIRES_GRAD, "Can't call numpy() on Tensor that requires grad. Use "
                                      "tensor.detach().numpy() instead.");
    if (device_is_cpu(device))
        return op_map_tensor(call, input);
    TRY(op_copy_of(input, call->account, input->layout.dtype, call->engine->devices.list[0], false,
                   &forced));
    storage_finish(forced->storage, STORAGE_MUTABLE);
    TRY(op_map_tensor(call, forced));
    FIELDS_SET(&call->out, memory, text_of("copied"));
    FIELDS_SET(&call->out, reason, text_of("device"));
    return TD_OK;
}

static enum td_status mark_cut(struct lease *lease, void *argument)
{
    (void)argument;
    lease->cut = true;
    return TD_OK;
}

/* left: somebody may go on reading who is not waited for. */
static enum td_status release_lease(struct op_call *call, bool left)
{
    if (left)
        TRY(session_lease_use(call->session, call->in->lease, mark_cut, NULL));
    return session_release(call->session, call->in->lease);
}

enum td_status op_run_release(struct op_call *call)
{
    const struct fields *in = call->in;
    bool force = FIELDS_HAS(in, force) && in->force;
    bool all = force && !FIELDS_HAS(in, lease);
    if (FIELDS_HAS(in, lease) + FIELDS_HAS(in, input) + all != 1)
        return fail(TD_INVALID, "release takes either a lease or an object as its input, or force "
                                "for all objects");
    if (all) {
        session_drop_all(call->session);
        return TD_OK;
    }
    if (FIELDS_HAS(in, lease))
        return release_lease(call, force);
    if (in->input.length == 0 || in->input.data[0] != '@')
        return fail(TD_INVALID, "release takes an object id like @17; names are removed by delete");
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    uint64_t generation, ttl_ms;
    TRY(op_resolve(call, in->input, &tensor, &generation, &ttl_ms));
    return session_drop(call->session, tensor->id);
}

enum td_status op_run_info(struct op_call *call)
{
    call->result = tensor_ref(call->input);
    return TD_OK;
}

static enum td_status list_emit(struct op_call *call, const struct store_entry *entry)
{
    struct fields fields;
    fields.present = 0;
    op_describe_name(&fields, text_of(entry->name), entry->generation, entry->ttl_ms);
    tensor_describe(entry->tensor, &fields);
    return call->emit(call->sink, &fields);
}

enum td_status op_run_list(struct op_call *call)
{
    const struct fields *in = call->in;
    struct text prefix = FIELDS_HAS(in, prefix) ? in->prefix : text_of("");
    struct text cursor = FIELDS_HAS(in, cursor) ? in->cursor : text_of("");
    uint64_t limit;
    TRY(op_limit(call, &limit));
    struct store_entry *entries = calloc(limit + 1, sizeof *entries);
    if (!entries)
        return fail(TD_OUT_OF_MEMORY, "no memory for a list of %llu names",
                    (unsigned long long)limit);
    enum td_status status = TD_OK;
    size_t found = store_list(call->engine->store, prefix, cursor, limit + 1, entries);
    for (size_t i = 0; i < found; i++) {
        if (status == TD_OK && i < limit)
            status = list_emit(call, &entries[i]);
        tensor_unref(entries[i].tensor);
    }
    if (found > limit && (call->text = strdup(entries[limit - 1].name)))
        FIELDS_SET(&call->out, cursor, text_of(call->text));
    FIELDS_SET(&call->out, count, store_count(call->engine->store));
    free(entries);
    return status;
}

enum td_status op_run_rename(struct op_call *call)
{
    const struct fields *in = call->in;
    struct store_condition condition = {
        .create_only = FIELDS_HAS(in, create_only) && in->create_only,
        .has_generation = FIELDS_HAS(in, if_generation),
        .generation = in->if_generation,
    };
    uint64_t generation, found, ttl_ms = 0;
    TRY(name_check(in->input));
    TRY(store_rename(call->engine->store, in->input, in->output, &condition, &generation));
    /* Described if it is still there: somebody else may be faster. */
    if (store_lookup_timed(call->engine->store, in->output, &call->result, &found, &ttl_ms) !=
        TD_OK)
        call->result = NULL;
    op_describe_name(&call->out, in->output, generation, ttl_ms);
    return TD_OK;
}

enum td_status op_run_expire(struct op_call *call)
{
    const struct fields *in = call->in;
    uint64_t generation, ttl_ms = FIELDS_HAS(in, ttl_ms) ? in->ttl_ms : 0;
    TRY(name_check(in->input));
    TRY(store_set_ttl(call->engine->store, in->input, ttl_ms, &call->result, &generation));
    op_describe_name(&call->out, in->input, generation, ttl_ms);
    return TD_OK;
}

enum td_status op_run_delete(struct op_call *call)
{
    struct store_condition condition = {
        .has_generation = FIELDS_HAS(call->in, if_generation),
        .generation = call->in->if_generation,
    };
    TRY(name_check(call->in->input));
    return store_remove(call->engine->store, call->in->input, &condition);
}

/* Lets who waits for the name, or watches it, see that its bytes changed. */
static void touch_name(struct op_call *call)
{
    const struct fields *in = call->in;
    struct text name = FIELDS_HAS(in, output) ? in->output : in->input;
    bool is_name = FIELDS_HAS(in, output) || call->input_generation; /* and no @id */
    uint64_t generation, ttl_ms;
    if (is_name &&
        store_touch(call->engine->store, name, call->input->storage, &generation, &ttl_ms))
        op_describe_name(&call->out, name, generation, ttl_ms);
}

enum td_status op_run_touch(struct op_call *call)
{
    if (storage_mode_of(call->input->storage) == STORAGE_FROZEN)
        return fail(TD_FROZEN, "the tensor's memory is frozen: nobody can have changed it");
    storage_touch(call->input->storage);
    tensor_bump_version(call->input);
    touch_name(call);
    return op_run_info(call);
}

static enum td_status emit_text(struct op_call *call, const char *name, const char *text)
{
    struct fields fields;
    fields.present = 0;
    FIELDS_SET(&fields, name, text_of(name));
    FIELDS_SET(&fields, text, text_of(text));
    return call->emit(call->sink, &fields);
}

enum td_status op_run_stats(struct op_call *call)
{
    struct engine *engine = call->engine;
    struct ledger ledger;
    struct session_counts sessions;
    ledger_read(&engine->ledger, &ledger);
    session_table_count(engine->sessions, &sessions);
    const struct {
        const char *name;
        uint64_t count;
    } rows[] = {
        {"memory_limit_bytes", ledger.limits.memory_bytes},
        {"memory_used_bytes", ledger.used.memory_bytes},
        {"memory_peak_bytes", ledger.peak_bytes},
        {"memory_pool_bytes", ledger.pool_bytes},
        {"reservations_refused", ledger.refused},
        {"descriptors", ledger.used.descriptors},
        {"names", ledger.used.names},
        {"revision", store_revision(engine->store)},
        {"sessions", sessions.sessions},
        {"objects", sessions.objects},
        {"leases", sessions.leases},
        {"connections", atomic_load(&engine->connections)},
        {"requests", atomic_load(&engine->requests)},
        {"errors", atomic_load(&engine->errors)},
        {"bytes_received", atomic_load(&engine->bytes_received)},
        {"bytes_sent", atomic_load(&engine->bytes_sent)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        TRY(op_emit_count(call, rows[i].name, rows[i].count));
    return TD_OK;
}

/* What the ledger keeps of the host's memory; GPUs do not tell theirs. */
enum td_status op_run_devices(struct op_call *call)
{
    const struct devices *devices = &call->engine->devices;
    for (int i = 0; i < devices->count; i++) {
        const struct device *device = devices->list[i];
        struct fields fields;
        fields.present = 0;
        FIELDS_SET(&fields, name, text_of(device->name));
        FIELDS_SET(&fields, text, text_of(device_is_cpu(device) ? "host memory" : "GPU memory"));
        if (device_is_cpu(device)) {
            struct ledger ledger;
            ledger_read(&call->engine->ledger, &ledger);
            FIELDS_SET(&fields, nbytes, ledger.used.memory_bytes);
            FIELDS_SET(&fields, storage_bytes, ledger.limits.memory_bytes);
        }
        TRY(call->emit(call->sink, &fields));
    }
    return TD_OK;
}

enum td_status op_run_ops(struct op_call *call)
{
    for (int op = 1; op < OP_END; op++)
        if (op_infos[op].name)
            TRY(emit_text(call, op_infos[op].name, op_infos[op].doc));
    return TD_OK;
}

enum td_status op_run_print(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *host = NULL;
    struct tensor *input = call->input;
    enum td_dtype dtype = FIELDS_HAS(call->in, dtype) ? call->in->dtype : input->layout.dtype;
    TRY(op_check_cast(call, input->layout.dtype, dtype));
    if (device_is_cpu(input->storage->device))
        host = tensor_ref(input);
    else
        TRY(op_host_contiguous(call, input, input->layout.dtype, &host));
    /* Of a cast it shows what to() would give: with a history if the input requires grad. */
    const char *made_by = input->history ? input->history->grad_fn : NULL;
    const char *cast_by =
        tensor_requires_grad(input) && dtype_is_differentiable(dtype) ? "ToCopyBackward0" : NULL;
    bool casts = dtype != input->layout.dtype;
    const struct printed printed = {
        .layout = &host->layout,
        .storage_base = host->storage->memory.data,
        .dtype = dtype,
        .saturate = op_saturate(call),
        .device = input->storage->device->name,
        .requires_grad = !casts && tensor_requires_grad(input),
        .grad_fn = casts ? cast_by : made_by,
    };
    TRY(print_tensor(&printed, &print_defaults, &call->text));
    TRY(ledger_reserve_over(&call->engine->ledger, strlen(call->text), LEDGER_ANSWERS_BYTES));
    call->text_charged = strlen(call->text);
    FIELDS_SET(&call->out, text, text_of(call->text));
    return TD_OK;
}

enum td_status op_run_item(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *host = NULL;
    struct tensor *input = call->input;
    if (input->layout.elements != 1)
        return fail(TD_BAD_SHAPE, "a Tensor with %lld elements cannot be converted to Scalar",
                    (long long)input->layout.elements);
    TRY(op_host_contiguous(call, input, input->layout.dtype, &host));
    FIELDS_SET(&call->out, value, scalar_load(host->layout.dtype, tensor_data(host)));
    FIELDS_SET(&call->out, dtype, host->layout.dtype);
    return TD_OK;
}
