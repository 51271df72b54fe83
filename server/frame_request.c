#include "server/frame_internal.h"

#include "server/log.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const struct parked_ops receive_ops, run_ops, piece_ops;

static struct request *memory_take(struct loop *loop, size_t meta_length)
{
    struct request *request = loop->spare;
    size_t room = meta_length < SPARE_META_BYTES ? SPARE_META_BYTES : meta_length;
    if (!request || room > SPARE_META_BYTES)
        return malloc(sizeof *request + room);
    loop->spare = request->next;
    loop->spare_count--;
    return request;
}

/* A request is large: the memory of the last one is in the caches still. */
static void memory_give(struct loop *loop, struct request *request)
{
    if (loop->spare_count == SPARE_MAX || request->header.meta_length > SPARE_META_BYTES) {
        free(request);
        return;
    }
    request->next = loop->spare;
    loop->spare = request;
    loop->spare_count++;
}

void requests_forget(struct loop *loop)
{
    while (loop->spare) {
        struct request *request = loop->spare;
        loop->spare = request->next;
        free(request);
    }
}

/* Large meta is memory that the client holds, as a body is. *payer: NULL for meta that is free. */
static enum td_status reserve_meta(const struct connection *connection, uint32_t bytes,
                                   struct account **payer)
{
    *payer = NULL;
    if (bytes <= META_FREE_BYTES)
        return TD_OK;
    TRY(account_reserve(connection->account, QUOTA_BYTES, bytes));
    enum td_status status =
        ledger_reserve(&connection->loop->server->options.engine->ledger, bytes, 0, 0);
    if (status != TD_OK)
        account_release(connection->account, QUOTA_BYTES, bytes);
    else
        *payer = account_ref(connection->account);
    return status;
}

static void release_meta(struct ledger *ledger, uint32_t bytes, struct account *payer)
{
    if (!payer)
        return;
    ledger_release(ledger, bytes, 0, 0);
    account_release(payer, QUOTA_BYTES, bytes);
    account_unref(payer);
}

enum td_status request_create(struct connection *connection, const struct wire_header *header,
                              struct request **out)
{
    struct engine *engine = connection->loop->server->options.engine;
    struct account *payer;
    TRY(reserve_meta(connection, header->meta_length, &payer));
    struct request *request = *out = memory_take(connection->loop, header->meta_length);
    if (!request) {
        release_meta(&engine->ledger, header->meta_length, payer);
        return fail(TD_OUT_OF_MEMORY, "no memory for a request");
    }
    /* The large parts (phases, message, call, in, head_inline) are filled when they are used. */
    memset(request, 0, offsetof(struct request, receive));
    memset((char *)request + offsetof(struct request, list), 0,
           offsetof(struct request, head_inline) - offsetof(struct request, list));
    atomic_init(&request->refs, 1);
    request->connection = connection;
    request->loop = connection->loop;
    request->header = *header;
    request->payer = payer;
    request->message[0] = '\0';
    request->in.present = 0;
    op_init(&request->call, engine, NULL, 0, &request->in);
    connection->inflight++;
    return TD_OK;
}

/* Lets go of what it holds. */
static void release(struct request *request)
{
    struct ledger *ledger = &request->call.engine->ledger;
    session_unref(request->call.session);
    if (request->list_room)
        ledger_release(ledger, request->list_room, 0, 0);
    release_meta(ledger, request->header.meta_length, request->payer);
    op_end(&request->call);
    free(request->list);
    if (request->head != request->head_inline)
        free(request->head);
}

void request_unref(struct request *request)
{
    if (atomic_fetch_sub(&request->refs, 1) != 1)
        return;
    release(request);
    free(request);
}

void request_drop(struct request *request)
{
    request->connection->inflight--;
    if (atomic_load(&request->refs) > 1) {
        request_unref(request);
        return;
    }
    release(request);
    memory_give(request->loop, request);
}

void request_undo(struct request *request)
{
    uint16_t opcode = request->header.opcode;
    if (request->status == TD_OK && request->call.session && opcode != OP_hello)
        op_undo(&request->call);
}

static void note_failure(struct request *request, enum td_status status)
{
    request->status = status;
    if (status != TD_OK)
        snprintf(request->message, sizeof request->message, "%s", fail_detail());
}

void request_fail(struct request *request, enum td_status status)
{
    note_failure(request, status);
    reply_queue(request);
}

/* An entry of a list reply: its length, then its fields. */
static enum td_status emit(void *sink, const struct fields *entry)
{
    struct request *request = sink;
    size_t size = wire_fields_size(entry);
    size_t needed = request->list_length + WIRE_ENTRY_PREFIX + size;
    if (needed > request->list_room) {
        size_t room = needed < 4096 ? 8192 : 2 * needed, more = room - request->list_room;
        struct ledger *ledger = &request->call.engine->ledger;
        TRY(ledger_reserve_over(ledger, more, LEDGER_ANSWERS_BYTES));
        unsigned char *larger = realloc(request->list, room);
        if (!larger) {
            ledger_release(ledger, more, 0, 0);
            return fail(TD_OUT_OF_MEMORY, "no memory for a list of %zu bytes", room);
        }
        request->list = larger;
        request->list_room = room;
    }
    unsigned char *at = request->list + request->list_length;
    for (int i = 0; i < WIRE_ENTRY_PREFIX; i++)
        at[i] = (unsigned char)(size >> (8 * i));
    wire_fields_encode(entry, at + WIRE_ENTRY_PREFIX);
    request->list_length = needed;
    return TD_OK;
}

/* ---- hello and ping, which belong to the connection --------------------------------------------
 */

static enum td_status hello_session(struct request *request)
{
    struct connection *connection = request->connection;
    const struct frame_options *options = &connection->loop->server->options;
    const struct fields *in = &request->in;
    TRY(op_check_fields(OP_hello, in));
    if (connection->session)
        return fail(TD_INVALID, "hello comes once, as the first request of a connection");
    if (in->protocol != WIRE_VERSION)
        return fail(TD_UNSUPPORTED, "protocol %llu is not spoken here; this daemon speaks %d",
                    (unsigned long long)in->protocol, WIRE_VERSION);
    struct text given = FIELDS_HAS(in, token) ? in->token : text_of("");
    if (!token_matches(options->token, given))
        return fail(TD_UNAUTHORIZED, given.length ? "the token is wrong"
                                                  : "this daemon needs a token; give the one of "
                                                    "its --token-file");
    if (FIELDS_HAS(in, session_key))
        return session_join(options->engine->sessions, in->session_key, &connection->session);
    return session_open(options->engine->sessions, connection->account, connection->pid,
                        &connection->session);
}

static enum td_status run_hello(struct request *request)
{
    struct connection *connection = request->connection;
    const struct frame_options *options = &connection->loop->server->options;
    struct fields *out = &request->call.out;
    char limits[256];
    TRY(hello_session(request));
    snprintf(limits, sizeof limits,
             "max_meta=%d max_body=%llu max_inflight=%llu max_descriptors=%d max_small_body=%d",
             WIRE_META_MAX, (unsigned long long)options->max_body,
             (unsigned long long)options->max_inflight, WIRE_DESCRIPTORS_MAX, WIRE_SMALL_BODY_MAX);
    request->call.text = strdup(limits);
    request->call.session = session_ref(connection->session);
    FIELDS_SET(out, protocol, WIRE_VERSION);
    FIELDS_SET(out, session, session_id(connection->session));
    FIELDS_SET(out, session_key, text_of(session_key(connection->session)));
    FIELDS_SET(out, boot, text_of(options->engine->boot));
    FIELDS_SET(out, text, text_of("tensord " TENSORD_VERSION));
    if (request->call.text)
        FIELDS_SET(out, limits, text_of(request->call.text));
    return TD_OK;
}

static enum td_status begin_ping(struct request *request)
{
    uint64_t length = request->header.body_length;
    TRY(op_check_fields(OP_ping, &request->in));
    if (length > WIRE_SMALL_BODY_MAX)
        return fail(TD_TOO_LARGE, "ping takes a body of at most %d bytes", WIRE_SMALL_BODY_MAX);
    request->list = malloc(length + 1);
    if (!request->list)
        return fail(TD_OUT_OF_MEMORY, "no memory for a ping");
    request->list_length = length;
    return TD_OK;
}

/* ---- the engine's operations -------------------------------------------------------------------
 */

void request_link(struct request *request, struct request **list)
{
    request->parked_next = *list;
    request->parked_link = list;
    if (request->parked_next)
        request->parked_next->parked_link = &request->parked_next;
    *list = request;
}

void request_unlink(struct request *request)
{
    *request->parked_link = request->parked_next;
    if (request->parked_next)
        request->parked_next->parked_link = request->parked_link;
    request->parked_link = NULL;
}

/* What comes of the request's body is passed over. */
static void skip_body(struct request *request)
{
    struct connection *connection = request->connection;
    connection->incoming = NULL;
    connection->reading = READ_SKIP;
    connection->wanted = request->header.body_length;
}

/* One that is not the request's own is made for a run after waiting. */
static void phase_free(struct phase *phase)
{
    struct request *request = phase->request;
    if (phase != &request->receive && phase != &request->run)
        free(phase);
}

/* Hands the request to the job pool. */
static enum td_status park(struct request *request, struct phase *phase,
                           const struct parked_ops *ops, enum parked_urgency urgency)
{
    struct connection *connection = request->connection;
    phase->request = request;
    request->phase = phase;
    atomic_fetch_add(&request->refs, 1);
    enum td_status status = parked_submit(request->call.engine->jobs, &phase->parked, ops, urgency);
    if (status != TD_OK) {
        atomic_fetch_sub(&request->refs, 1);
        phase_free(phase);
        return status;
    }
    request_link(request, &connection->parked);
    if (request->deadline_ms) /* one that passed between two phases is noticed now */
        loop_arm_deadline(connection->loop, request->deadline_ms);
    return TD_OK;
}

/* The job pool may still hold the phase that ran before. */
static enum td_status park_anew(struct request *request, const struct parked_ops *ops,
                                enum parked_urgency urgency)
{
    struct phase *phase = request->ran_in_job ? malloc(sizeof *phase) : &request->run;
    if (!phase)
        return fail(TD_OUT_OF_MEMORY, "no memory for an operation");
    request->ran_in_job = true;
    return park(request, phase, ops, urgency);
}

/* Readies a body that is made in pieces, if the reply has one. */
static enum td_status open_body(struct request *request)
{
    TRY(op_make_body(&request->call));
    if (request->call.body_made)
        request->body_rest = body_total_bytes(request->call.body_made);
    return TD_OK;
}

/* In the job pool, or on the loop's thread. */
static enum td_status next_piece(struct request *request)
{
    const void *piece;
    TRY(body_next(request->call.body_made, &piece, &request->body_length));
    request->body = piece;
    request->body_sent = 0;
    request->body_rest -= request->body_length;
    return TD_OK;
}

enum td_status request_go_on(struct request *request)
{
    if (body_work_bytes(request->call.body_made) <= OP_INLINE_BYTES)
        return next_piece(request);
    return park_anew(request, &piece_ops, PARKED_ONWARD);
}

void request_finish(struct request *request, enum td_status status)
{
    if (status == TD_OK)
        status = open_body(request);
    if (status == TD_OK)
        status = op_commit(&request->call);
    note_failure(request, status);
    reply_queue(request);
}

static void run_inline(struct request *request)
{
    enum td_status status = op_run(&request->call);
    if (status == TD_OK && request->call.waits)
        request_wait(request);
    else
        request_finish(request, status);
}

void request_execute(struct request *request)
{
    if (!op_run_is_long(&request->call)) {
        run_inline(request);
        return;
    }
    enum td_status status = park_anew(request, &run_ops, PARKED_IN_TURN);
    if (status != TD_OK)
        request_fail(request, status);
}

void request_body_complete(struct request *request)
{
    if (request->header.opcode == OP_ping)
        reply_queue(request);
    else
        request_execute(request);
}

/* The body may come: into the storage that was made for it. */
static void body_begin(struct request *request)
{
    struct connection *connection = request->connection;
    struct storage *storage = request->call.body_in;
    connection->reading = READ_BODY;
    connection->target = storage ? storage->memory.data : request->list;
    connection->wanted = request->header.body_length;
    if (request->deadline_ms)
        loop_arm_deadline(connection->loop, request->deadline_ms);
    if (connection->wanted == 0) { /* the parser waits for bytes before it looks again */
        connection->reading = READ_HEADER;
        connection->incoming = NULL;
        request_body_complete(request);
    }
}

static enum td_status begin_op(struct request *request)
{
    struct connection *connection = request->connection;
    struct op_call *call = &request->call;
    uint16_t opcode = request->header.opcode;
    bool known = opcode < OP_END && op_infos[opcode].name;
    bool one_way = request->header.flags & WIRE_ONE_WAY;
    if (!may_be_one_way(opcode))
        request->header.flags = 0; /* so that the answer is sent */
    TRY(wire_fields_decode(request->meta, request->header.meta_length, WIRE_STRICT, &request->in));
    if (!known)
        return fail(TD_NOT_FOUND, "no operation has the opcode %u; ops lists them", opcode);
    if (one_way && !may_be_one_way(opcode))
        return fail(TD_INVALID, "%s cannot be sent one way", op_infos[opcode].name);
    if (call->fd >= 0 && !(op_infos[opcode].traits & OP_FD_IN))
        return fail(TD_INVALID, "%s takes no descriptor", op_infos[opcode].name);
    if (opcode == OP_hello && request->header.body_length)
        return fail(TD_INVALID, "hello takes no body");
    if (opcode == OP_hello)
        return run_hello(request);
    if (opcode == OP_ping)
        return begin_ping(request);
    call->op = (enum op)opcode;
    call->session = session_ref(connection->session);
    call->account = session_account(connection->session);
    call->body_length = request->header.body_length;
    call->local = connection->local;
    call->emit = emit;
    call->sink = request;
    bool may_wait = op_infos[opcode].traits & OP_WAITS;
    if (may_wait)
        call->wake = request_wake;
    if (FIELDS_HAS(&request->in, timeout_ms) && !(may_wait && request->in.timeout_ms == 0)) {
        uint64_t limit = UINT32_MAX, wanted = request->in.timeout_ms;
        uint64_t now_ms = uv_hrtime() / 1000000 + 1; /* uv_now is older: that would be too early */
        request->deadline_ms = now_ms + (wanted < limit ? wanted : limit);
        loop_arm_deadline(connection->loop, request->deadline_ms);
    }
    return op_begin(call);
}

/* Refuses the request; what comes of its body is passed over. */
static void refuse(struct request *request, enum td_status status)
{
    struct connection *connection = request->connection;
    skip_body(request);
    /* Without a session nothing else can follow. */
    bool end = connection->session == NULL;
    request_fail(request, status);
    if (end)
        connection_end(connection);
}

void request_begin(struct request *request)
{
    struct connection *connection = request->connection;
    if (request->header.descriptors)
        request->call.fd = connection_claim(connection);
    enum td_status status = begin_op(request);
    if (status != TD_OK) {
        refuse(request, status);
        return;
    }
    uint16_t opcode = request->header.opcode;
    if (opcode != OP_hello && opcode != OP_ping && op_receive_is_long(&request->call)) {
        status = park(request, &request->receive, &receive_ops, PARKED_AHEAD);
        if (status == TD_OK)
            connection->reading = READ_HOLD;
        else
            refuse(request, status);
        return;
    }
    if (opcode != OP_hello && opcode != OP_ping)
        status = op_receive(&request->call);
    if (status != TD_OK) {
        refuse(request, status);
    } else if (opcode == OP_hello) {
        connection->incoming = NULL;
        connection->reading = READ_HEADER;
        reply_queue(request);
    } else {
        body_begin(request);
    }
}

void request_expire(struct request *request)
{
    struct connection *connection = request->connection;
    connection->incoming = NULL;
    connection->reading = READ_SKIP;
    request_fail(request,
                 fail(TD_DEADLINE, "the request's timeout_ms passed before its body came"));
    connection_resume(connection);
}

static struct phase *phase_of(struct parked *parked)
{
    return (struct phase *)(void *)((char *)parked - offsetof(struct phase, parked));
}

static struct request *request_of(struct parked *parked)
{
    return phase_of(parked)->request;
}

/* Any thread: tells the loop. */
static void complete(struct parked *parked, enum td_status status)
{
    struct request *request = request_of(parked);
    note_failure(request, status);
    loop_post(request->loop, request);
}

static void destroy(struct parked *parked)
{
    struct phase *phase = phase_of(parked);
    struct request *request = phase->request;
    phase_free(phase);
    request_unref(request);
}

static enum td_status receive_in_job(struct parked *parked)
{
    return op_receive(&request_of(parked)->call);
}

static enum td_status run_in_job(struct parked *parked)
{
    struct request *request = request_of(parked);
    struct op_call *call = &request->call;
    bool late = op_commits_late(call->op);
    if (!late)
        TRY(parked_commit(parked));
    TRY(op_run(call));
    if (call->waits)
        return TD_OK;
    /* Until then a deadline may answer the request, and nothing is written of a reply. */
    enum td_status status = late ? parked_commit(parked) : TD_OK;
    if (status == TD_OK)
        status = open_body(request);
    if (status == TD_OK && call->body_made) /* the head and the first piece go together */
        status = next_piece(request);
    if (status != TD_OK)
        op_undo(call);
    return status == TD_OK ? op_commit(call) : status;
}

static enum td_status piece_in_job(struct parked *parked)
{
    return next_piece(request_of(parked));
}

static const struct parked_ops receive_ops = {receive_in_job, complete, destroy};
static const struct parked_ops piece_ops = {piece_in_job, complete, destroy};
static const struct parked_ops run_ops = {run_in_job, complete, destroy};

void request_cancel(struct request *request, enum td_status status)
{
    (void)parked_cancel(&request->phase->parked, status);
}

void request_done(struct request *request)
{
    struct connection *connection = request->connection;
    struct phase *phase = request->phase;
    bool receiving = phase == &request->receive;
    request_unlink(request);
    if (connection->closed) {
        request_undo(request);
        parked_unref(&phase->parked);
        request_drop(request);
        connection_free_if_done(connection);
        return;
    }
    if (request->replied) {
        if (request->status != TD_OK) {
            log_line(LOG_ERROR, "a reply ends in the middle of its body: %s", request->message);
            connection_close(connection);
        }
    } else if (!receiving && request->status == TD_OK && request->call.waits) {
        request_wait(request);
    } else if (!receiving) {
        reply_queue(request);
    } else if (request->status == TD_OK) {
        body_begin(request);
    } else {
        skip_body(request);
        reply_queue(request);
    }
    parked_unref(&phase->parked);
    connection_resume(connection);
}
