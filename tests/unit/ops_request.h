/* Asking the engine as a door does: one request at a time, begin to end.
 *
 *     uint64_t x = RUN(arange, SET(end, integer(6)));
 *     assert_values(RUN(view, INPUT(x), SET(shape, SHAPE(2, 3))), VALUES(0, 1, 2, 3, 4, 5));
 *     REFUSED(item, TD_BAD_SHAPE, "6 elements", INPUT(x));
 *
 * What the last request answered is in `reply` (and `call`, for bodies and descriptors) until the
 * next one. */
#ifndef TESTS_UNIT_OPS_REQUEST_H
#define TESTS_UNIT_OPS_REQUEST_H

#include "core/ops.h"
#include "tests/unit/core_assert.h"

#include <inttypes.h>

static struct engine *engine;
static struct session *session;
static struct fields request;
static struct op_call call;
static struct fields *const reply = &call.out;
static const void *request_body; /* of request_body_bytes, with the next request */
static size_t request_body_bytes;
static int request_fd = -1;
static bool request_remote;

/* What a list answered. */
static struct {
    int count;
    char names[128][64];
    uint64_t counts[128];
    char texts[8192]; /* the field tensors of the last entry */
} listed;

static inline enum td_status list_entry(void *sink, const struct fields *entry)
{
    (void)sink;
    if (listed.count < 128) {
        if (FIELDS_HAS(entry, name))
            snprintf(listed.names[listed.count], 64, "%.*s", TEXT_ARGS(entry->name));
        listed.counts[listed.count] = FIELDS_HAS(entry, count) ? entry->count : 0;
    }
    if (FIELDS_HAS(entry, tensors))
        snprintf(listed.texts, sizeof listed.texts, "%.*s", TEXT_ARGS(entry->tensors));
    listed.count++;
    return TD_OK;
}

static inline enum td_status attempt(enum op op)
{
    static struct fields in; /* lives as long as the call */
    op_end(&call);
    in = request;
    op_init(&call, engine, session, op, &in);
    call.body_length = request_body_bytes;
    call.fd = request_fd;
    call.local = !request_remote;
    call.emit = list_entry;
    listed.count = 0;
    enum td_status status = op_begin(&call);
    if (status == TD_OK)
        status = op_receive(&call);
    if (status == TD_OK && call.body_in && request_body)
        memcpy(call.body_in->memory.data, request_body, request_body_bytes);
    if (status == TD_OK)
        status = op_run(&call);
    if (status == TD_OK)
        status = op_commit(&call);
    request.present = 0;
    request_body = NULL;
    request_body_bytes = 0;
    request_fd = -1;
    request_remote = false;
    return status;
}

static inline uint64_t run_(enum op op, const char *file, int line)
{
    enum td_status status = attempt(op);
    if (status != TD_OK)
        fail_msg("%s:%d: %s: %s: %s", file, line, op_infos[op].name, td_status_name((int)status),
                 fail_detail());
    return FIELDS_HAS(reply, id) ? reply->id : 0;
}

static inline void refused_(enum op op, enum td_status want, const char *part, const char *file,
                            int line)
{
    enum td_status status = attempt(op);
    if (status != want || !strstr(fail_detail(), part))
        fail_msg("%s:%d: %s: %s '%s', not %s '%s'", file, line, op_infos[op].name,
                 td_status_name((int)status), status == TD_OK ? "" : fail_detail(),
                 td_status_name((int)want), part);
}

#define SET(field, ...) FIELDS_SET(&request, field, __VA_ARGS__)
#define INPUT(id) SET(input, object((id), 0))
#define OTHER(id) SET(other, object((id), 1))
/* The fields, separated by commas, those with a request of their own in them first; 0 for none. */
#define RUN(op, ...) ((void)(__VA_ARGS__), run_(OP_##op, __FILE__, __LINE__))
#define REFUSED(op, status, part, ...)                                                             \
    ((void)(__VA_ARGS__), refused_(OP_##op, (status), (part), __FILE__, __LINE__))

#define SHAPE(...)                                                                                 \
    ((struct dims){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define VALUES(...) (double[]){__VA_ARGS__}, sizeof((double[]){__VA_ARGS__}) / sizeof(double)
#define INDEX(...)                                                                                 \
    ((struct index){(int)(sizeof((struct index_item[]){__VA_ARGS__}) / sizeof(struct index_item)), \
                    {__VA_ARGS__}})
#define AT(n)                                                                                      \
    {                                                                                              \
        .kind = INDEX_INTEGER, .start = (n)                                                        \
    }
#define SLICE(from, to)                                                                            \
    {                                                                                              \
        INDEX_SLICE, (from), (to), INDEX_NONE                                                      \
    }
#define STEP(from, to, by)                                                                         \
    {                                                                                              \
        INDEX_SLICE, (from), (to), (by)                                                            \
    }

static inline struct text object(uint64_t id, int slot)
{
    static char texts[2][24];
    snprintf(texts[slot], sizeof texts[slot], "@%" PRIu64, id);
    return text_of(texts[slot]);
}

static inline struct scalar integer(int64_t value)
{
    return (struct scalar){.kind = SCALAR_INT, .i = value};
}

static inline struct scalar real(double value)
{
    return (struct scalar){.kind = SCALAR_FLOAT, .f = value};
}

static inline struct scalar complex_number(double re, double im)
{
    return (struct scalar){.kind = SCALAR_COMPLEX, .c = {re, im}};
}

static inline struct scalar truth(bool value)
{
    return (struct scalar){.kind = SCALAR_BOOL, .b = value};
}

/* The elements in C order, as float64. */
static inline void assert_values(uint64_t id, const double *wanted, size_t count)
{
    RUN(get, INPUT(id), SET(dtype, TD_FLOAT64));
    assert_int_equal(call.body_out->layout.elements, count);
    const double *got = (const double *)(const void *)tensor_data(call.body_out);
    for (size_t i = 0; i < count; i++)
        if (memcmp(&got[i], &wanted[i], sizeof *got) != 0 && got[i] != wanted[i])
            fail_msg("element %zu is %g, not %g", i, got[i], wanted[i]);
}

static inline void assert_text(struct text got, const char *wanted)
{
    if (!text_equal(got, wanted))
        fail_msg("'%.*s', not '%s'", TEXT_ARGS(got), wanted);
}

/* "shared", or "copied" and why; NULL for neither. */
static inline void assert_memory(const char *memory, const char *reason)
{
    assert_int_equal(FIELDS_HAS(reply, memory), memory != NULL);
    if (memory)
        assert_text(reply->memory, memory);
    assert_int_equal(FIELDS_HAS(reply, reason), reason != NULL);
    if (reason)
        assert_text(reply->reason, reason);
}

static inline void assert_shape(struct dims wanted)
{
    assert_int_equal(reply->shape.rank, wanted.rank);
    for (int d = 0; d < wanted.rank; d++)
        assert_int_equal(reply->shape.v[d], wanted.v[d]);
}

/* A float32 tensor 0, 1, 2 ... of that shape. */
static inline uint64_t counting(struct dims shape, bool requires_grad)
{
    float values[256];
    size_t count = 1;
    for (int d = 0; d < shape.rank; d++)
        count *= (size_t)shape.v[d];
    for (size_t i = 0; i < count; i++)
        values[i] = (float)i;
    request_body = values;
    request_body_bytes = count * sizeof values[0];
    SET(requires_grad, requires_grad);
    return RUN(tensor, SET(dtype, TD_FLOAT32), SET(shape, shape));
}

static inline struct ledger_limits used_now(void)
{
    struct ledger now;
    ledger_read(&engine->ledger, &now);
    return now.used;
}

static inline int open_engine_with(uint64_t memory_bytes, uint64_t pool_bytes)
{
    struct engine_options options = {
        .ledger = {.memory_bytes = memory_bytes, .descriptors = 64, .names = 256},
        .sessions = {.sessions = 4, .objects = 512, .leases = 64},
        .pool_bytes = pool_bytes,
        .job_threads = 1,
        .max_queued = 8,
        .max_watches = 8,
        .max_queues = 8,
    };
    memset(&call, 0, sizeof call);
    call.fd = -1;
    request.present = 0;
    if (engine_create(&options, &engine) != TD_OK)
        return 1;
    return session_open(engine->sessions, NULL, 0, &session) != TD_OK;
}

static inline int open_engine(void **state)
{
    (void)state;
    return open_engine_with(32 * MIB, 0);
}

static inline void delete_all_names(void)
{
    static const struct store_condition always;
    struct store_entry entry;
    while (store_list(engine->store, text_of(""), text_of(""), 1, &entry)) {
        tensor_unref(entry.tensor);
        assert_ok(store_remove(engine->store, text_of(entry.name), &always));
    }
}

static inline void delete_all_queues(void)
{
    struct queue *queue;
    while (queue_list(engine->queues, text_of(""), text_of(""), 1, &queue)) {
        assert_ok(queue_delete(engine->queues, queue_name(queue)));
        queue_unref(queue);
    }
}

/* With the session and the names everything goes, to the last byte. */
static inline int close_engine(void **state)
{
    (void)state;
    op_end(&call);
    session_leave(session);
    delete_all_queues();
    delete_all_names();
    struct ledger now;
    ledger_read(&engine->ledger, &now);
    assert_int_equal(now.used.memory_bytes, now.pool_bytes);
    assert_int_equal(now.used.names, 0);
    engine_destroy(engine);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_engine, close_engine)

#endif
