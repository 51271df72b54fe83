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
    struct loop *here = loop_of_thread();
    if (here == request->loop) {
        request_woken(request);
    } else if (here) {
        request->next = here->abroad;
        here->abroad = request;
    } else {
        loop_post(request->loop, request);
    }
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
    connection_settle(connection); /* ahead of who has woken it, and waits for nothing */
}

/* ---- from another loop's thread ----------------------------------------------------------------
 *
 * Waking a loop that sleeps costs more than all of the rest of a hand-over. So the thread that has
 * woken a request runs it itself and sends the answer, if the request's loop sleeps (it then has
 * its lock). It touches nothing of libuv's but uv_async_send.
 */

/* Whether nothing but its answer is left to be done. */
static bool may_run_abroad(const struct request *request)
{
    const struct connection *connection = request->connection;
    uint64_t due_ms = request->deadline_ms;
    return !connection->closed && !waits_in_vain(request) && !op_run_is_long(&request->call) &&
           (!due_ms || due_ms > uv_now(&loop_of_thread()->uv));
}

/* False if it waits again: then it is still as it was, and woken. */
static bool run_abroad(struct request *request)
{
    struct connection *connection = request->connection;
    enum td_status status = op_run(&request->call);
    if (status == TD_OK && request->call.waits)
        return false;
    request_unlink(request);
    request->waiting = false;
    request_finish(request, status);
    connection_settle_abroad(connection);
    return true;
}

static void run_or_post(struct request *request)
{
    struct loop *loop = request->loop;
    bool ran = false;
    if (pthread_mutex_trylock(&loop->busy) == 0) {
        ran = may_run_abroad(request) && run_abroad(request);
        pthread_mutex_unlock(&loop->busy);
    }
    if (!ran)
        loop_post(loop, request);
}

static void run_those_abroad(struct loop *here)
{
    for (struct request *request; (request = here->abroad);) {
        here->abroad = request->next;
        run_or_post(request);
    }
}

/* One of them may wake the next. */
void requests_run_woken(struct loop *loop)
{
    run_those_abroad(loop);
    for (int i = 0; i < WOKEN_AT_ONCE && loop->woken; i++) {
        struct request *request = loop->woken;
        loop->woken = request->next;
        if (!loop->woken)
            loop->woken_last = &loop->woken;
        run_again(request);
        run_those_abroad(loop);
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
