#include "server/frame_internal.h"

static struct request *request_of(struct op_call *call)
{
    return (struct request *)(void *)((char *)call - offsetof(struct request, call));
}

/* ---- waking ------------------------------------------------------------------------------------
 */

void request_woken(struct request *request)
{
    struct loop *loop = request->loop;
    request->next = NULL;
    *loop->woken_last = request;
    loop->woken_last = &request->next;
}

/* Often the one who publishes, or puts, is served by the same loop: then nobody need be woken. */
void request_wake(struct op_call *call)
{
    struct request *request = request_of(call);
    if (atomic_exchange(&request->wait, WAIT_WOKEN) != WAIT_WAITING)
        return; /* the loop is still about to let it wait, and notices */
    if (loop_is_here(request->loop))
        request_woken(request);
    else
        loop_post(request->loop, request);
}

void request_wake_now(struct request *request)
{
    int waiting = WAIT_WAITING;
    if (atomic_compare_exchange_strong(&request->wait, &waiting, WAIT_WOKEN))
        request_woken(request);
}

void connection_end_waits(struct connection *connection)
{
    for (struct request *r = connection->waiting; r; r = r->parked_next)
        request_wake_now(r);
}

/* ---- waiting -----------------------------------------------------------------------------------
 */

uint64_t request_due_ms(const struct request *request)
{
    uint64_t until_ms = request->call.wait_until_ms, deadline_ms = request->deadline_ms;
    return until_ms && (!deadline_ms || until_ms < deadline_ms) ? until_ms : deadline_ms;
}

/* Whether the connection, or the daemon, ends before anything may come. */
static bool waits_in_vain(const struct request *request)
{
    return request->loop->draining || request->connection->reading == READ_END;
}

void request_wait(struct request *request)
{
    int running = WAIT_NONE;
    uint64_t due_ms = request_due_ms(request);
    request_link(request, &request->connection->waiting);
    request->waiting = true;
    if (due_ms)
        loop_arm_deadline(request->loop, due_ms);
    if (!atomic_compare_exchange_strong(&request->wait, &running, WAIT_WAITING))
        request_woken(request); /* since op_run began */
    else if (waits_in_vain(request))
        request_wake_now(request);
}

static enum td_status end_in_vain(const struct request *request)
{
    if (request->loop->draining)
        return fail(TD_UNAVAILABLE, "the daemon is stopping");
    return fail(TD_CANCELLED, "the connection ends, because of what was sent after this request");
}

static void run_again(struct request *request)
{
    struct connection *connection = request->connection;
    uint64_t deadline_ms = request->deadline_ms;
    request_unlink(request);
    request->waiting = false;
    if (connection->closed) {
        request_drop(request);
        connection_free_if_done(connection);
        return;
    }
    atomic_store(&request->wait, WAIT_NONE);
    if (deadline_ms && deadline_ms <= uv_now(&request->loop->uv)) {
        request->call.timed_out = true;
        request->deadline_ms = 0;
    }
    if (waits_in_vain(request)) {
        op_stop_waiting(&request->call);
        request_fail(request, end_in_vain(request));
    } else {
        request_execute(request);
    }
    connection_settle_soon(connection);
}

/* One of them may wake the next. */
void requests_run_woken(struct loop *loop)
{
    for (int i = 0; i < WOKEN_AT_ONCE && loop->woken; i++) {
        struct request *request = loop->woken;
        loop->woken = request->next;
        if (!loop->woken)
            loop->woken_last = &loop->woken;
        run_again(request);
    }
}

void connection_stop_waiting(struct connection *connection)
{
    for (struct request *r = connection->waiting, *next; r; r = next) {
        next = r->parked_next;
        op_stop_waiting(&r->call);
        if (atomic_load(&r->wait) != WAIT_WAITING)
            continue; /* woken, and it comes back through run_again */
        request_unlink(r);
        request_drop(r);
    }
}
