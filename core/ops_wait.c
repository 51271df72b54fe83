/* Operations that wait for what happens to names: wait and watch. */
#include "core/ops_internal.h"

#include <inttypes.h>
#include <stdio.h>

#define EVENTS_AT_ONCE 16

/* ---- watching the store ------------------------------------------------------------------------
 */

/* With the store locked, from any thread; the first event says it all. */
static void wake(struct store_watch *watch)
{
    struct op_call *call =
        (struct op_call *)(void *)((char *)watch - offsetof(struct op_call, watch));
    if (!call->waiter.woken)
        call->wake(call);
    call->waiter.woken = true;
}

/* Whoever is woken for names wakes nobody else: each watch is told of all events. */
static void stop_watching(struct op_call *call)
{
    store_watch_remove(call->engine->store, &call->watch);
    atomic_fetch_sub(&call->engine->watches, 1);
    if (call->account)
        atomic_fetch_sub(&call->account->watches, 1);
}

static bool count_up(atomic_uint *count, unsigned limit)
{
    bool fits = atomic_fetch_add(count, 1) < limit;
    if (!fits)
        atomic_fetch_sub(count, 1);
    return fits;
}

/* A sixteenth is left to others, so that no user keeps all of them out; as with connections. */
static enum td_status count_watch(struct engine *engine, struct account *account)
{
    unsigned limit = engine->max_watches, most = limit - limit / 16;
    if (account && !count_up(&account->watches, most))
        return fail(TD_UNAVAILABLE,
                    "%u requests of %s wait for names or watch them, which is the limit of one "
                    "user; try again later, or raise --max-watches",
                    most, account->name);
    if (count_up(&engine->watches, limit))
        return TD_OK;
    if (account)
        atomic_fetch_sub(&account->watches, 1);
    return fail(TD_UNAVAILABLE,
                "%u requests wait for names or watch them, which is the limit; try again later, "
                "or raise --max-watches",
                limit);
}

/* What happens to such names from here on wakes the call. */
static enum td_status begin_watching(struct op_call *call, struct text prefix, bool exact)
{
    struct engine *engine = call->engine;
    TRY(count_watch(engine, call->account));
    call->watch.prefix = prefix;
    call->watch.exact = exact;
    call->watch.wake = wake;
    call->waiter.woken = false;
    store_watch_add(engine->store, &call->watch);
    call->stop_waiting = stop_watching;
    return TD_OK;
}

/* ---- wait --------------------------------------------------------------------------------------
 */

/* Whether the name is there, with another generation than the client has seen: then the result. */
static bool find_published(struct op_call *call, uint64_t *seen)
{
    const struct fields *in = call->in;
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    uint64_t ttl_ms;
    *seen = 0;
    if (store_lookup_timed(call->engine->store, in->input, &tensor, seen, &ttl_ms) != TD_OK)
        return false;
    if (FIELDS_HAS(in, generation) && in->generation == *seen)
        return false;
    op_describe_name(&call->out, in->input, *seen, ttl_ms);
    call->result = take(&tensor);
    return true;
}

/* How long it has waited: "within 500 ms". */
static void patience_text(const struct op_call *call, char *out, size_t size)
{
    if (call->timed_out && FIELDS_HAS(call->in, timeout_ms))
        snprintf(out, size, "within %" PRIu64 " ms", call->in->timeout_ms);
    else
        snprintf(out, size, "%s",
                 call->timed_out ? "in time" : "yet, and this request does not wait");
}

static enum td_status not_published(const struct op_call *call, uint64_t seen)
{
    char patience[64];
    struct text name = call->in->input;
    patience_text(call, patience, sizeof patience);
    if (seen)
        return fail(TD_DEADLINE,
                    "'%.*s' was not published anew %s; its generation still is %" PRIu64
                    ". Wait again, or longer (timeout_ms)",
                    TEXT_ARGS(name), patience, seen);
    return fail(TD_DEADLINE,
                "'%.*s' was not published %s; is what publishes it running? Wait again, or longer "
                "(timeout_ms)",
                TEXT_ARGS(name), patience);
}

enum td_status op_run_wait(struct op_call *call)
{
    struct text name = call->in->input;
    uint64_t seen;
    if (!call->begun)
        TRY(name_check(name));
    if (find_published(call, &seen))
        return TD_OK;
    if (!op_may_wait(call))
        return not_published(call, seen);
    TRY(begin_watching(call, name, true));
    call->waits = !find_published(call, &seen); /* before it was watched */
    return TD_OK;
}

/* ---- watch -------------------------------------------------------------------------------------
 */

static enum td_status event_emit(struct op_call *call, const struct store_event *event)
{
    struct fields fields;
    fields.present = 0;
    FIELDS_SET(&fields, event, text_of(event->kind == STORE_PUBLISHED ? "publish" : "remove"));
    FIELDS_SET(&fields, name, text_of(event->name));
    FIELDS_SET(&fields, revision, event->revision);
    return call->emit(call->sink, &fields);
}

/* Answers the events after call->since. One reply has no gap in it: events that get lost while it
 * is made are for the next one to tell. */
static enum td_status emit_events(struct op_call *call, uint64_t limit, uint64_t *count, bool *lost)
{
    struct store_event events[EVENTS_AT_ONCE];
    size_t found = 1;
    *count = 0;
    *lost = false;
    while (found && *count < limit) {
        uint64_t since = call->since, left = limit - *count;
        bool gap;
        found = store_events(call->engine->store, &call->watch, &since, &gap,
                             left < EVENTS_AT_ONCE ? left : EVENTS_AT_ONCE, events);
        if (gap && (*count || *lost))
            break;
        *lost = *lost || gap;
        call->since = since;
        for (size_t i = 0; i < found; i++)
            TRY(event_emit(call, &events[i]));
        *count += found;
    }
    return TD_OK;
}

static void watch_begin(struct op_call *call)
{
    const struct fields *in = call->in;
    call->watch.prefix = FIELDS_HAS(in, prefix) ? in->prefix : text_of("");
    call->since = FIELDS_HAS(in, since) ? in->since : store_revision(call->engine->store);
}

enum td_status op_run_watch(struct op_call *call)
{
    uint64_t limit, count;
    bool lost;
    TRY(op_limit(call, &limit));
    if (!call->begun)
        watch_begin(call);
    else if (call->watch.quiet_until > call->since) /* others' events need not be looked at */
        call->since = call->watch.quiet_until;
    TRY(emit_events(call, limit, &count, &lost));
    if (!count && !lost && op_may_wait(call)) {
        TRY(begin_watching(call, call->watch.prefix, false));
        TRY(emit_events(call, limit, &count, &lost)); /* before it was watched */
        call->waits = !count && !lost;
    }
    if (call->waits)
        return TD_OK;
    FIELDS_SET(&call->out, since, call->since);
    FIELDS_SET(&call->out, count, count);
    if (lost)
        FIELDS_SET(&call->out, lost, true);
    return TD_OK;
}
