/* Operations on memory that clients fill, freeze and hold. */
#include "core/ops_internal.h"

#include <string.h>

#define WRITERS_WAIT_MS 1000 /* unless wait_ms says otherwise */
#define WRITERS_POLL_MS 20   /* a mapping may go before its lease does */

/* ---- filling -----------------------------------------------------------------------------------
 */

enum td_status op_run_allocate(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    const struct fields *in = call->in;
    if (!call->local)
        return fail(TD_UNSUPPORTED, "memory is shared over the Unix socket only; over TCP and HTTP "
                                    "send the elements with put");
    if (FIELDS_HAS(in, queue))
        return op_allocate_for_queue(call);
    /* Cleared: recycled memory would show what it held before. */
    TRY(op_new_tensor(call->device, call->account, in->dtype, &in->shape, true, &tensor));
    TRY(op_map_tensor(call, tensor));
    enum td_status status = session_hold(call->session, tensor);
    if (status != TD_OK) /* a session that has ended has let go of the lease, too */
        return session_release(call->session, call->out.lease) == TD_OK ? status : TD_CANCELLED;
    call->undo = op_undo_object;
    return TD_OK;
}

/* ---- freezing ----------------------------------------------------------------------------------
 */

static void stop_waiting_for_writers(struct op_call *call)
{
    storage_writers_forget(call->input->storage, &call->waiter);
}

/* Whether the operation is to wait for who may write to the input's memory: then it is set up so.
 */
static bool waits_for_writers(struct op_call *call)
{
    const struct fields *in = call->in;
    uint64_t now = clock_now_ms();
    uint64_t wait_ms = FIELDS_HAS(in, wait_ms) ? in->wait_ms : WRITERS_WAIT_MS;
    if (!call->patience_ms)
        call->patience_ms = now + (wait_ms < STORE_TTL_MAX_MS ? wait_ms : STORE_TTL_MAX_MS);
    if (!op_may_wait(call) || now >= call->patience_ms)
        return false;
    call->waiter.wake = op_woken;
    if (!storage_writers_wait(call->input->storage, &call->waiter))
        return false;
    call->stop_waiting = stop_waiting_for_writers;
    call->waits = true;
    call->wait_until_ms =
        now + WRITERS_POLL_MS < call->patience_ms ? now + WRITERS_POLL_MS : call->patience_ms;
    return true;
}

/* The elements as they are now, in memory that nobody else has seen. */
static enum td_status freeze_copy(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *copy = NULL;
    struct tensor *input = call->input;
    struct device *device = input->storage->device;
    TRY(op_copy_of(input, call->account, input->layout.dtype, device, false, &copy));
    storage_finish(copy->storage, STORAGE_FROZEN);
    copy->is_variable = input->is_variable;
    atomic_store(&copy->requires_grad, tensor_requires_grad(input));
    op_result(call, take(&copy), "mode");
    return TD_OK;
}

static enum td_status mode_asked(const struct op_call *call, enum storage_mode *out)
{
    static const enum storage_mode modes[] = {STORAGE_FROZEN, STORAGE_SINGLE_WRITER,
                                              STORAGE_MUTABLE};
    const struct fields *in = call->in;
    *out = STORAGE_FROZEN;
    if (!FIELDS_HAS(in, mode))
        return TD_OK;
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (text_equal(in->mode, storage_mode_name(modes[i]))) {
            *out = modes[i];
            return TD_OK;
        }
    return fail(TD_INVALID,
                "'%.*s' is no mode to publish in; expected frozen, single-writer or "
                "mutable",
                (int)(in->mode.length < 40 ? in->mode.length : 40), in->mode.data);
}

enum td_status op_run_publish(struct op_call *call)
{
    struct storage *storage = call->input->storage;
    enum storage_mode mode;
    TRY(mode_asked(call, &mode));
    if (ring_owns(storage) && mode != STORAGE_SINGLE_WRITER)
        return fail(TD_CONFLICT, "memory that was allocated for a queue is filled again: it is "
                                 "put, or published as single-writer; clone makes a copy that "
                                 "stays");
    enum td_status status = storage_seal(storage, mode);
    bool written = status == TD_CONFLICT && storage_mode_of(storage) == STORAGE_BUILDING;
    if (status != TD_OK && !written)
        return status;
    if (written && waits_for_writers(call))
        return TD_OK;
    if (written)
        TRY(freeze_copy(call));
    else
        op_result(call, tensor_ref(call->input), NULL);
    op_set_grad_asked(call, call->result);
    return TD_OK;
}

enum td_status op_run_seal(struct op_call *call)
{
    struct storage *storage = call->input->storage;
    bool frozen = storage_mode_of(storage) == STORAGE_FROZEN || storage_freeze_unseen(storage);
    if (frozen) {
        op_result(call, tensor_ref(call->input), NULL);
        return TD_OK;
    }
    return waits_for_writers(call) ? TD_OK : freeze_copy(call);
}

/* ---- who holds what ----------------------------------------------------------------------------
 */

static enum td_status emit_lease(struct op_call *call, const struct lease_entry *entry)
{
    struct fields fields;
    fields.present = 0;
    FIELDS_SET(&fields, lease, entry->id);
    FIELDS_SET(&fields, kind, text_of(lease_kind_name(entry->kind)));
    FIELDS_SET(&fields, session, entry->session);
    FIELDS_SET(&fields, principal, text_of(entry->principal));
    if (entry->has_uid)
        FIELDS_SET(&fields, uid, entry->uid);
    FIELDS_SET(&fields, pid, (uint64_t)(entry->pid > 0 ? entry->pid : 0));
    FIELDS_SET(&fields, nbytes, entry->bytes);
    FIELDS_SET(&fields, age_ms, entry->age_ms);
    if (entry->ttl_ms)
        FIELDS_SET(&fields, ttl_ms, entry->ttl_ms);
    if (entry->mode) {
        FIELDS_SET(&fields, storage, entry->storage);
        FIELDS_SET(&fields, mode, text_of(entry->mode));
    }
    if (entry->deleted)
        FIELDS_SET(&fields, text, text_of("deleted"));
    return call->emit(call->sink, &fields);
}

enum td_status op_run_leases(struct op_call *call)
{
    const struct fields *in = call->in;
    struct lease_table *leases = session_leases(call->engine->sessions);
    uint64_t limit, after = FIELDS_HAS(in, lease) ? in->lease : 0;
    const struct account *account = call->account;
    TRY(op_limit(call, &limit));
    _cleanup_(freep) struct lease_entry *entries = calloc(limit + 1, sizeof *entries);
    if (!entries)
        return fail(TD_OUT_OF_MEMORY, "no memory for a list of leases");
    bool only_own = account && !account_is_trusted(account);
    size_t found = lease_list(leases, after, only_own ? account : NULL, limit + 1, entries);
    for (size_t i = 0; i < found && i < limit; i++)
        TRY(emit_lease(call, &entries[i]));
    if (found > limit)
        FIELDS_SET(&call->out, lease, entries[limit - 1].id);
    FIELDS_SET(&call->out, count,
               only_own ? atomic_load(&account->used[QUOTA_LEASES]) : lease_count(leases));
    return TD_OK;
}

static enum td_status emit_quota(struct op_call *call, const struct account *account,
                                 const char *name, uint64_t used, const uint64_t *limit)
{
    struct fields fields;
    fields.present = 0;
    FIELDS_SET(&fields, principal, text_of(account->name));
    FIELDS_SET(&fields, name, text_of(name));
    FIELDS_SET(&fields, count, used);
    if (limit)
        FIELDS_SET(&fields, limit, *limit);
    return call->emit(call->sink, &fields);
}

static enum td_status emit_account(struct op_call *call, const struct account *account)
{
    for (int i = 0; i < QUOTA_COUNT; i++)
        TRY(emit_quota(call, account, quota_name((enum quota)i), atomic_load(&account->used[i]),
                       &account->limits[i]));
    return emit_quota(call, account, "deleted_bytes", atomic_load(&account->deleted_bytes), NULL);
}

enum td_status op_run_principals(struct op_call *call)
{
    struct account *list[OP_LIST_MAX];
    size_t count = accounts_list(call->engine->accounts, OP_LIST_MAX, list);
    bool only_own = call->account && !account_is_trusted(call->account);
    enum td_status status = TD_OK;
    for (size_t i = 0; i < count; i++) {
        if (status == TD_OK && (!only_own || list[i] == call->account))
            status = emit_account(call, list[i]);
        account_unref(list[i]);
    }
    return status;
}
