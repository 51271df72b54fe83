#include "server/http_internal.h"

#include <stdio.h>
#include <string.h>

struct exchange *exchange_create(struct http_server *server, struct MHD_Connection *connection,
                                 const char *uri)
{
    struct exchange *x = malloc(sizeof *x);
    if (!x)
        return NULL;
    /* The large parts (in, call, message) are filled when they are used. */
    memset(x, 0, offsetof(struct exchange, message));
    memset((char *)x + offsetof(struct exchange, suspended), 0,
           offsetof(struct exchange, in) - offsetof(struct exchange, suspended));
    memset((char *)x + offsetof(struct exchange, upload), 0,
           sizeof *x - offsetof(struct exchange, upload));
    x->in.present = 0;
    x->message[0] = '\0';
    x->uri = strdup(uri);
    if (!x->uri) {
        free(x);
        return NULL;
    }
    atomic_init(&x->refs, 1);
    atomic_fetch_add(&server->held, 1);
    x->server = server;
    x->connection = connection;
    x->free_bytes = HTTP_FREE_BYTES;
    return x;
}

void exchange_unref(struct exchange *x)
{
    if (atomic_fetch_sub(&x->refs, 1) != 1)
        return;
    if (x->call_begun)
        op_end(&x->call);
    session_unref(x->session);
    upload_destroy(x->upload);
    batch_destroy(x->batch);
    cJSON_Delete(x->tree);
    cJSON_Delete(x->list);
    if (x->charged_bytes)
        ledger_release(&x->server->options.engine->ledger, x->charged_bytes, 0, 0);
    free(x->document);
    free(x->text);
    free(x->uri);
    struct http_server *server = x->server;
    free(x);
    atomic_fetch_sub(&server->held, 1); /* which may be the last that keeps the server */
}

enum td_status exchange_charge(struct exchange *x, uint64_t bytes, uint64_t over_bytes)
{
    uint64_t given = bytes < x->free_bytes ? bytes : x->free_bytes;
    struct ledger *ledger = &x->server->options.engine->ledger;
    x->free_bytes -= given;
    if (bytes > given)
        TRY(ledger_reserve_over(ledger, bytes - given, over_bytes));
    x->charged_bytes += bytes - given;
    return TD_OK;
}

void exchange_note(struct exchange *x, enum td_status status)
{
    x->status = status;
    if (status != TD_OK)
        snprintf(x->message, sizeof x->message, "%s", fail_detail());
}

/* ---- suspending --------------------------------------------------------------------------------
 */

struct job {
    struct parked parked;
    struct exchange *x;
    bool submitted; /* under the server's lock: it may be cancelled */
    enum td_status (*work)(struct exchange *x, struct parked *parked);
};

/* libmicrohttpd 0.9.75 reads before it calls the handler of a connection that is resumed, and takes
 * the end of what a client sends (`nc -N`) for the end of the connection, unanswered. One with a
 * timeout of its own, which never passes, is handled before anything is read. */
static void handle_before_reading(struct exchange *x, bool yes)
{
    (void)MHD_set_connection_option(x->connection, MHD_CONNECTION_OPTION_TIMEOUT,
                                    yes ? 1000000U : 0U);
}

static void set_deadline_locked(struct exchange *x, uint64_t deadline_ms)
{
    x->deadline_ms = deadline_ms;
    if (deadline_ms && deadline_ms < x->server->wakes_ms)
        pthread_cond_signal(&x->server->tick);
}

void exchange_suspend(struct exchange *x, uint64_t deadline_ms)
{
    struct http_server *server = x->server;
    peer_set(x->peer, PEER_IS_DUE);
    x->suspended_now = true;
    MHD_suspend_connection(x->connection);
    handle_before_reading(x, true);
    pthread_mutex_lock(&server->lock);
    x->suspended = true;
    set_deadline_locked(x, deadline_ms);
    x->next_suspended = server->suspended;
    x->suspended_link = &server->suspended;
    if (x->next_suspended)
        x->next_suspended->suspended_link = &x->next_suspended;
    server->suspended = x;
    bool ending = server->ending;
    pthread_mutex_unlock(&server->lock);
    if (ending)
        exchange_wake(x, fail(TD_UNAVAILABLE, "the daemon is stopping"));
}

void exchange_unlink(struct exchange *x)
{
    *x->suspended_link = x->next_suspended;
    if (x->next_suspended)
        x->next_suspended->suspended_link = x->suspended_link;
    x->suspended = false;
}

void exchange_resume(struct exchange *x, enum td_status status)
{
    exchange_note(x, status);
    MHD_resume_connection(x->connection);
}

void exchange_wake(struct exchange *x, enum td_status status)
{
    struct http_server *server = x->server;
    pthread_mutex_lock(&server->lock);
    if (x->suspended) { /* in one step: who finds none suspended may stop libmicrohttpd */
        exchange_unlink(x);
        exchange_resume(x, status);
    }
    pthread_mutex_unlock(&server->lock);
}

void exchange_resumed(struct exchange *x)
{
    if (x->suspended_now)
        handle_before_reading(x, false);
    x->suspended_now = false;
    if (x->watching)
        store_watch_remove(x->server->options.engine->store, &x->watch);
    x->watching = false;
    if (x->job)
        parked_unref(&x->job->parked);
    x->job = NULL;
}

static struct job *job_of(struct parked *parked)
{
    return (struct job *)(void *)((char *)parked - offsetof(struct job, parked));
}

static enum td_status job_run(struct parked *parked)
{
    struct job *job = job_of(parked);
    return job->work(job->x, parked);
}

static void job_complete(struct parked *parked, enum td_status status)
{
    exchange_wake(job_of(parked)->x, status);
}

static void job_destroy(struct parked *parked)
{
    struct job *job = job_of(parked);
    exchange_unref(job->x);
    free(job);
}

struct parked *exchange_job_ref(struct exchange *x)
{
    if (!x->job || !x->job->submitted)
        return NULL;
    atomic_fetch_add(&x->job->parked.refs, 1);
    return &x->job->parked;
}

enum td_status exchange_park(struct exchange *x,
                             enum td_status (*work)(struct exchange *x, struct parked *parked),
                             enum parked_urgency urgency)
{
    static const struct parked_ops ops = {job_run, job_complete, job_destroy};
    uint64_t deadline_ms = x->op_deadline_ms; /* once submitted, what is in x is the job's */
    struct job *job = malloc(sizeof *job);
    if (!job)
        return fail(TD_OUT_OF_MEMORY, "no memory for an operation");
    job->x = x;
    job->work = work;
    job->submitted = false;
    atomic_fetch_add(&x->refs, 1);
    /* Suspended first: the job may be done before it has been submitted, so to speak. Its deadline
     * begins when it can be cancelled. */
    x->job = job;
    exchange_suspend(x, 0);
    enum td_status status = TD_UNAVAILABLE;
    if (x->suspended) /* else the daemon stops, and this was woken with that */
        status = parked_submit(x->server->options.engine->jobs, &job->parked, &ops, urgency);
    if (status == TD_OK) {
        pthread_mutex_lock(&x->server->lock);
        job->submitted = true;
        if (x->suspended)
            set_deadline_locked(x, deadline_ms);
        pthread_mutex_unlock(&x->server->lock);
        return TD_OK;
    }
    exchange_wake(x, status); /* which answers it; until then the clock looks at the job */
    x->job = NULL;
    free(job);
    atomic_fetch_sub(&x->refs, 1);
    return TD_OK;
}

/* ---- sessions ----------------------------------------------------------------------------------
 */

enum td_status exchange_find_session(struct exchange *x)
{
    struct text key = x->headers.session;
    if (x->session)
        return TD_OK;
    if (!key.data) {
        const char *cookie =
            MHD_lookup_connection_value(x->connection, MHD_COOKIE_KIND, "tensord-session");
        if (!cookie)
            return TD_OK;
        /* A browser sends it on when the session has ended, and cannot be told not to. */
        enum td_status status =
            http_session_find(x->server->sessions, text_of(cookie), &x->session);
        return status == TD_NOT_FOUND ? TD_OK : status;
    }
    return http_session_find(x->server->sessions, key, &x->session);
}

enum td_status exchange_open_session(struct exchange *x)
{
    TRY(exchange_find_session(x));
    if (x->session)
        return TD_OK;
    struct session *session;
    TRY(http_session_open(x->server->sessions, &session));
    pthread_mutex_lock(&x->server->lock); /* the clock looks at it while a batch goes on */
    x->session = session;
    pthread_mutex_unlock(&x->server->lock);
    x->session_is_new = true;
    return TD_OK;
}

/* ---- operations --------------------------------------------------------------------------------
 */

/* What a tensor's description takes as a tree and as text, about; and a counter. */
#define ENTRY_BYTES 4096
#define COUNTER_BYTES 512
#define LIST_INLINE 64 /* entries */

/* An entry of a list operation, kept as JSON. */
static enum td_status emit(void *sink, const struct fields *entry)
{
    struct exchange *x = sink;
    uint64_t texts = (FIELDS_HAS(entry, meta) ? entry->meta.length : 0) +
                     (FIELDS_HAS(entry, tensors) ? entry->tensors.length : 0);
    uint64_t about = FIELDS_HAS(entry, shape) ? ENTRY_BYTES : COUNTER_BYTES;
    /* As a tree, and printed. */
    TRY(exchange_charge(x, about + 2 * texts, LEDGER_ANSWERS_BYTES));
    cJSON *value = answer_fields_value(entry);
    if (!value || !cJSON_AddItemToArray(x->list, value)) {
        cJSON_Delete(value);
        return fail(TD_OUT_OF_MEMORY, "no memory for a list");
    }
    return TD_OK;
}

/* What a session would have to hold. */
static bool names_object(struct text name)
{
    return name.length && name.data[0] == '@';
}

static enum td_status check_session(const struct exchange *x, enum op op)
{
    const struct fields *in = &x->in;
    bool needed = op == OP_release || op == OP_queue_ack ||
                  (FIELDS_HAS(in, input) && names_object(in->input)) ||
                  (FIELDS_HAS(in, other) && names_object(in->other));
    if (x->session || !needed)
        return TD_OK;
    return fail(TD_NOT_FOUND, "objects (@id) and leases belong to a session; send the "
                              "Tensord-Session header, or the cookie, of the answer that told it");
}

enum td_status exchange_call(struct exchange *x, enum op op)
{
    TRY(exchange_find_session(x));
    TRY(check_session(x, op));
    if (op_makes_object(op, &x->in) || op == OP_queue_get)
        TRY(exchange_open_session(x));
    op_init(&x->call, x->server->options.engine, x->session, op, &x->in);
    x->call_begun = true;
    x->call.account = x->server->options.account;
    x->call.emit = emit;
    x->call.sink = x;
    TRY(op_check_cast(&x->call, TD_BOOL, TD_BOOL)); /* a wrong rule, also where nothing is cast */
    bool may_wait = op_infos[op].traits & OP_WAITS, timed = FIELDS_HAS(&x->in, timeout_ms);
    uint64_t limit = HTTP_WAIT_MAX_MS, wanted = timed ? x->in.timeout_ms : limit;
    if (may_wait ? wanted > 0 : timed) /* what need not wait at all is in no hurry for that */
        x->op_deadline_ms = clock_now_ms() + (wanted < limit ? wanted : limit);
    if (!x->list && !(op_infos[op].traits & OP_BYTES) && (op_infos[op].traits & OP_BODY_OUT))
        x->list = cJSON_CreateArray();
    return TD_OK;
}

static enum td_status run_in_job(struct exchange *x, struct parked *parked)
{
    struct op_call *call = &x->call;
    bool late = op_commits_late(call->op);
    if (!late)
        TRY(parked_commit(parked));
    TRY(op_run(call));
    if (call->waits)
        return TD_OK;
    enum td_status status = late ? parked_commit(parked) : TD_OK;
    if (status != TD_OK)
        op_undo(call);
    TRY(status);
    TRY(op_commit(call));
    return x->list ? answer_print_list(x) : TD_OK;
}

/* A thousand descriptions as JSON are some milliseconds; a few need not wait for a thread. */
static bool list_is_long(const struct op_call *call)
{
    bool few = FIELDS_HAS(call->in, limit) && call->in->limit <= LIST_INLINE;
    return call->op == OP_list && !few && store_count(call->engine->store) > LIST_INLINE;
}

/* Of an operation that may wait. */
enum http_wait {
    WAIT_NONE,    /* it runs */
    WAIT_WAITING, /* it is suspended */
    WAIT_WOKEN,
};

/* Any thread. */
static void wake_call(struct op_call *call)
{
    struct exchange *x =
        (struct exchange *)(void *)((char *)call - offsetof(struct exchange, call));
    if (atomic_exchange(&x->wait, WAIT_WOKEN) == WAIT_WAITING)
        exchange_wake(x, TD_OK);
}

static enum td_status run_again(struct exchange *x);

static enum td_status wait_suspended(struct exchange *x)
{
    int running = WAIT_NONE;
    uint64_t until_ms = x->call.wait_until_ms, deadline_ms = x->op_deadline_ms;
    if (atomic_load(&x->server->draining))
        return fail(TD_UNAVAILABLE, "the daemon is stopping");
    x->next = run_again;
    exchange_suspend(x,
                     until_ms && (!deadline_ms || until_ms < deadline_ms) ? until_ms : deadline_ms);
    if (!atomic_compare_exchange_strong(&x->wait, &running, WAIT_WAITING))
        exchange_wake(x, TD_OK); /* since op_run began */
    return TD_OK;
}

static enum td_status run_end(struct exchange *x)
{
    if (x->call.waits)
        return wait_suspended(x);
    x->next = x->then;
    return x->then(x);
}

static enum td_status run(struct exchange *x)
{
    x->next = run_end;
    if (op_run_is_long(&x->call)) {
        op_wait_over(&x->call); /* the clock may have been faster than who is about to wake it */
        return exchange_park(x, run_in_job, PARKED_IN_TURN);
    }
    if (list_is_long(&x->call))
        return exchange_park(x, run_in_job, PARKED_AHEAD);
    TRY(op_run(&x->call));
    if (!x->call.waits)
        TRY(op_commit(&x->call));
    return run_end(x);
}

static enum td_status run_again(struct exchange *x)
{
    atomic_store(&x->wait, WAIT_NONE);
    if (x->op_deadline_ms && clock_now_ms() >= x->op_deadline_ms) {
        x->call.timed_out = true;
        x->op_deadline_ms = 0;
    }
    return run(x);
}

enum td_status exchange_run(struct exchange *x, enum td_status (*then)(struct exchange *x))
{
    x->then = then;
    if (op_infos[x->call.op].traits & OP_WAITS)
        x->call.wake = wake_call;
    return run(x);
}

enum td_status exchange_run_op(struct exchange *x, enum op op,
                               enum td_status (*then)(struct exchange *x))
{
    TRY(exchange_call(x, op));
    TRY(op_begin(&x->call));
    return exchange_run(x, then);
}
