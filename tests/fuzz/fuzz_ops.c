/* Runs sequences of requests through the engine as a door does, in one session. Whatever comes:
 *
 *     an error has a detail, in UTF-8, is no internal one, and has changed nothing in the ledger;
 *     a reply encodes, and decodes to the same again;
 *     a tensor lies within its storage, a descriptor that leaves allows what was asked for at most;
 *     names expire between requests, never within one;
 *     after the session's end and without the names all memory and descriptors are given back.
 *
 * The input's form is in ops_input.h; ops_mutate.c makes such inputs. */
#include "core/ops.h"
#include "proto/wire/wire.h"
#include "server/bundle_formats.h"
#include "tests/fuzz/ops_input.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PIECES 4 /* of a body that may be without end */
#define PAGE ((size_t)4096)
#define WORK_BYTES ((uint64_t)8 << 20) /* of an input, by op_cost_bytes */
#define MEMORY_BYTES ((uint64_t)4 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One request, from begin to end. */
struct ask {
    struct op_call call;
    struct fields in;
    uint8_t *meta; /* of exactly its length, that `in` points into */
    uint8_t how;
};

/* One input. */
struct world {
    struct engine *engine;
    struct session *session;
    struct ask *held; /* waits before op_run */
    uint64_t work;    /* bytes */
    int given, shared;
};

/* Says what was wrong: the stack alone does not tell the values. */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not %s; %s\n", __FILE__, __LINE__, #condition, fail_detail()); \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void *allocate(size_t size)
{
    void *bytes = malloc(size ? size : 1);
    REQUIRE(bytes);
    return bytes;
}

/* The number that the next descriptor gets: the same at the end if none was left open. */
static int lowest_free(void)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    REQUIRE(fd >= 0);
    close(fd);
    return fd;
}

/* ---- replies ---------------------------------------------------------------------------------
 */

/* Encodes to one meaning, which both decoders and the reader of lists take. */
static void check_fields(const struct fields *fields)
{
    struct fields again;
    size_t size = wire_fields_size(fields), offset = 0;
    uint8_t *entry = allocate(WIRE_ENTRY_PREFIX + size), *meta = entry + WIRE_ENTRY_PREFIX;
    uint8_t *second = allocate(size);
    for (int i = 0; i < WIRE_ENTRY_PREFIX; i++)
        entry[i] = (uint8_t)(size >> (8 * i));
    wire_fields_encode(fields, meta);
    REQUIRE(wire_fields_decode(meta, size, WIRE_STRICT, &again) == TD_OK);
    REQUIRE(again.present == fields->present && wire_fields_size(&again) == size);
    wire_fields_encode(&again, second);
    REQUIRE(memcmp(meta, second, size) == 0);
    REQUIRE(wire_entry_next(entry, WIRE_ENTRY_PREFIX + size, &offset, &again) == TD_OK);
    REQUIRE(again.present == fields->present && offset == WIRE_ENTRY_PREFIX + size);
    free(second);
    free(entry);
}

static enum td_status emit(void *sink, const struct fields *entry)
{
    int *count = sink;
    (*count)++;
    check_fields(entry);
    return TD_OK;
}

static void check_error(enum td_status status)
{
    struct fields error = {0};
    REQUIRE(status > TD_OK && status < TD_STATUS_COUNT);
    REQUIRE(status != TD_INTERNAL);
    FIELDS_SET(&error, message, text_of(fail_detail()));
    REQUIRE(error.message.length > 0 && error.message.length < FAIL_DETAIL_SIZE);
    check_fields(&error);
}

/* Every element lies within the storage, and the storage within its memory. */
static void check_tensor(const struct tensor *tensor)
{
    const struct layout *layout = &tensor->layout;
    const struct storage *storage = tensor->storage;
    int64_t last = 0, size = (int64_t)dtype_infos[layout->dtype].size_bytes;
    REQUIRE(layout->rank >= 0 && layout->rank <= RANK_MAX && layout->offset_bytes >= 0);
    REQUIRE((uint64_t)layout->offset_bytes <= storage->size_bytes);
    REQUIRE(storage->size_bytes <= storage->memory.capacity);
    for (int d = 0; d < layout->rank && layout->elements; d++)
        last += (layout->shape[d] - 1) * layout->strides[d];
    if (layout->elements)
        REQUIRE((uint64_t)(layout->offset_bytes + (last + 1) * size) <= storage->size_bytes);
}

/* Reads all bytes, or those of some pieces: a sanitizer or the kernel tells if they are not there.
 */
static void check_body(struct op_call *call)
{
    unsigned sum = 0;
    if (call->body_out)
        check_tensor(call->body_out);
    if (op_make_body(call) != TD_OK)
        return;
    const void *data = call->body_out ? tensor_data(call->body_out) : NULL;
    size_t length = call->body_out ? (size_t)layout_nbytes(&call->body_out->layout) : 1;
    for (int piece = 0; piece < PIECES && length > 0; piece++) {
        if (call->body_made)
            REQUIRE(body_next(call->body_made, &data, &length) == TD_OK);
        for (size_t i = 0; i < length; i += 64)
            sum += ((const unsigned char *)data)[i];
        if (length)
            sum += ((const unsigned char *)data)[length - 1];
    }
    __asm__ volatile("" : : "r"(sum)); /* so that the reads are done */
}

static void check_share(struct world *world, const struct ask *ask)
{
    struct stat info;
    const struct op_call *call = &ask->call;
    bool fills = call->op == OP_allocate, of_queue = fills && FIELDS_HAS(&ask->in, queue);
    bool write = fills || (FIELDS_HAS(&ask->in, write) && ask->in.write);
    REQUIRE(call->local && FIELDS_HAS(&call->out, lease) == !of_queue);
    REQUIRE(fstat(call->share_fd, &info) == 0);
    REQUIRE((uint64_t)info.st_size == call->out.storage_bytes);
    int access = fcntl(call->share_fd, F_GETFL) & O_ACCMODE;
    int seals = fcntl(call->share_fd, F_GET_SEALS);
    REQUIRE(access == (write ? O_RDWR : O_RDONLY));
    REQUIRE((seals & F_SEAL_SHRINK) && (seals & F_SEAL_GROW));
    if (text_equal(call->out.mode, "frozen"))
        REQUIRE(seals & F_SEAL_WRITE);
    closep(&world->shared);
    world->shared = fcntl(call->share_fd, F_DUPFD_CLOEXEC, 0);
}

/* Who fills memory that nobody else sees yet looks at it. */
static bool may_build(enum op op)
{
    return op == OP_allocate || op == OP_info || op == OP_map;
}

static void check_success(struct world *world, struct ask *ask)
{
    struct op_call *call = &ask->call;
    if (call->result) {
        check_tensor(call->result);
        REQUIRE(storage_mode_of(call->result->storage) != STORAGE_BUILDING || may_build(call->op));
    }
    for (size_t i = 0; i < call->bundle.count; i++) /* that were loaded, or are saved */
        check_tensor(call->bundle.items[i].tensor);
    if (call->body_out || call->body_made)
        check_body(call);
    if (call->share_fd >= 0)
        check_share(world, ask);
    /* A text over the limit, which only print makes, is refused by the door. */
    REQUIRE(wire_fields_size(&call->out) <= WIRE_META_MAX || call->op == OP_print);
    check_fields(&call->out);
}

/* ---- requests --------------------------------------------------------------------------------
 */

static int memfd_of(uint8_t descriptor)
{
    char path[40];
    unsigned char bytes[PAGE];
    size_t size = descriptor & FD_LARGE ? 17 * PAGE : PAGE;
    int seals = F_SEAL_SHRINK | F_SEAL_GROW, fd = memfd_create("fuzz", MFD_ALLOW_SEALING);
    REQUIRE(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    memset(bytes, 0x3f, sizeof bytes);
    for (size_t at = 0; at < size && !(descriptor & FD_HOLES); at += PAGE)
        REQUIRE(pwrite(fd, bytes, PAGE, (off_t)at) == (ssize_t)PAGE);
    seals |= descriptor & FD_FROZEN ? F_SEAL_WRITE : 0;
    seals |= descriptor & FD_FUTURE ? F_SEAL_FUTURE_WRITE : 0;
    if (!(descriptor & FD_UNSEALED))
        REQUIRE(fcntl(fd, F_ADD_SEALS, seals) == 0);
    if (!(descriptor & FD_READ_ONLY))
        return fd;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reader = open(path, O_RDONLY | O_CLOEXEC);
    close(fd);
    return reader;
}

/* A descriptor for a request, -1 if there is none such. */
static int descriptor_of(struct world *world, uint8_t descriptor)
{
    int kind = descriptor & FD_KIND;
    if (kind == FD_STRANGE)
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    int fd = kind == FD_NEW      ? memfd_of(descriptor)
             : kind == FD_SHARED ? fcntl(world->shared, F_DUPFD_CLOEXEC, 0)
                                 : fcntl(world->given, F_DUPFD_CLOEXEC, 0);
    if (kind == FD_NEW) {
        closep(&world->given);
        world->given = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    return fd;
}

static struct ledger ledger_now(const struct world *world)
{
    struct ledger now;
    ledger_read(&world->engine->ledger, &now);
    now.used.memory_bytes -= now.pool_bytes;
    return now;
}

static void ask_end(struct ask *ask)
{
    op_end(&ask->call);
    free(ask->meta);
    free(ask);
}

/* The body comes in: what the input has of it, then zeros; ones for a body that is BODY_MADE. */
static void receive_body(const struct op_call *call, const struct ops_request *request)
{
    if (!call->body_in)
        return;
    unsigned char *to = call->body_in->memory.data;
    memset(to, request->body_length ? 0 : 1, call->body_length);
    if (request->body_length)
        memcpy(to, request->body, request->body_length);
}

/* Up to where a request can be held. All runs in this thread; doors ask what is long, though. */
static enum td_status begin(struct ask *ask, const struct ops_request *request)
{
    struct op_call *call = &ask->call;
    TRY(op_begin(call));
    REQUIRE(op_receive_is_long(call) == (call->body_length > OP_INLINE_BYTES));
    TRY(op_receive(call));
    receive_body(call, request);
    (void)op_run_is_long(call);
    return TD_OK;
}

static void wake(struct op_call *call)
{
    REQUIRE(op_infos[call->op].traits & OP_WAITS);
}

/* *waits: it is to be run again. */
static enum td_status run(struct world *world, struct ask *ask, bool *waits)
{
    *waits = false;
    TRY(op_run(&ask->call));
    *waits = ask->call.waits;
    if (*waits)
        return TD_OK;
    TRY(op_commit(&ask->call));
    check_success(world, ask);
    return TD_OK;
}

static void finish_held(struct world *world)
{
    struct ask *ask = world->held;
    world->held = NULL;
    if (!ask)
        return;
    fail_write("%s", "");
    bool waits = ask->call.begun; /* then its time is over */
    enum td_status status = waits ? TD_OK : run(world, ask, &waits);
    ask->call.timed_out = true;
    if (status == TD_OK && waits && !(ask->how & HOW_REMOTE)) /* else its client has gone */
        status = run(world, ask, &waits);
    if (status != TD_OK)
        check_error(status);
    REQUIRE(!waits || (ask->how & HOW_REMOTE));
    ask_end(ask);
}

/* The request as the door takes it apart; NULL where the door itself answers. */
static struct ask *ask_create(struct world *world, const struct ops_request *request)
{
    struct ask *ask = allocate(sizeof *ask);
    ask->meta = allocate(request->meta_length);
    memcpy(ask->meta, request->meta, request->meta_length);
    ask->how = request->how;
    bool known = request->opcode < OP_END && op_infos[request->opcode].name &&
                 !(op_infos[request->opcode].traits & OP_CONNECTION);
    enum op op = known ? (enum op)request->opcode : OP_info;
    op_init(&ask->call, world->engine, world->session, op, &ask->in);
    enum td_status status =
        wire_fields_decode(ask->meta, request->meta_length, WIRE_STRICT, &ask->in);
    if (status != TD_OK)
        check_error(status);
    if (known && status == TD_OK)
        return ask;
    ask_end(ask);
    return NULL;
}

/* Whether there is time for it: none costs more than a part, as what does not fit is refused. */
static bool affordable(struct world *world, const struct ask *ask)
{
    uint64_t cost = op_cost_bytes(&ask->call);
    world->work += cost < WORK_BYTES / 4 ? cost : WORK_BYTES / 4;
    return world->work <= WORK_BYTES;
}

static bool is_unchanged(const struct world *world, const struct ledger *before)
{
    struct ledger after = ledger_now(world);
    return after.used.memory_bytes == before->used.memory_bytes &&
           after.used.names == before->used.names;
}

/* false when the input has had its time. */
static bool answer(struct world *world, const struct ops_request *request)
{
    static int listed;
    struct ask *ask = ask_create(world, request);
    if (!ask)
        return true;
    struct ledger before = ledger_now(world);
    struct op_call *call = &ask->call;
    if (request->how & HOW_DESCRIPTOR)
        call->fd = descriptor_of(world, request->descriptor);
    call->local = !(request->how & HOW_REMOTE);
    call->body_length = request->body_wanted;
    call->emit = emit;
    call->sink = &listed;
    if (op_infos[call->op].traits & OP_WAITS)
        call->wake = wake;
    world->engine->ledger.fail_after = request->how >> HOW_REFUSE;
    fail_write("%s", "");
    enum td_status status = begin(ask, request);
    bool afford = status != TD_OK || affordable(world, ask);
    if (status == TD_OK && afford && (ask->how & HOW_HELD)) {
        finish_held(world);
        world->held = ask;
        return true;
    }
    bool waits = false;
    if (status == TD_OK && afford)
        status = run(world, ask, &waits);
    if (waits) {
        finish_held(world);
        world->held = ask;
        return true;
    }
    bool makes_ring = call->op == OP_allocate && FIELDS_HAS(&ask->in, queue); /* which stays */
    if (status != TD_OK)
        check_error(status);
    ask_end(ask);
    REQUIRE(status == TD_OK || makes_ring || is_unchanged(world, &before));
    finish_held(world);
    return afford;
}

/* ---- an input --------------------------------------------------------------------------------
 */

static uint64_t now_ms;

static uint64_t read_clock(void)
{
    return now_ms;
}

static void pass_time(struct world *world)
{
    now_ms += 2;
    (void)store_expire(world->engine->store, now_ms, SIZE_MAX);
    queue_table_expire(world->engine->queues);
}

static void world_create(struct world *world)
{
    const struct engine_options options = {
        .ledger = {.memory_bytes = MEMORY_BYTES, .descriptors = 16, .names = 64},
        .sessions = {.sessions = 2, .objects = 64, .leases = 16},
        .pool_bytes = (uint64_t)1 << 20,
        .max_queues = 3,
        .max_watches = 2,
        .formats = bundle_formats,
    };
    memset(world, 0, sizeof *world);
    world->given = world->shared = -1;
    REQUIRE(engine_create(&options, &world->engine) == TD_OK);
    REQUIRE(session_open(world->engine->sessions, NULL, 0, &world->session) == TD_OK);
    now_ms = 1;
    store_set_clock(world->engine->store, read_clock);
    /* An input that names @1 or a known storage finds the same each time. */
    tensor_ids_begin(0);
    storage_ids_begin(0);
}

static void delete_names(struct store *store)
{
    static const struct store_condition always;
    struct store_entry entry;
    while (store_list(store, text_of(""), text_of(""), 1, &entry)) {
        tensor_unref(entry.tensor);
        REQUIRE(store_remove(store, text_of(entry.name), &always) == TD_OK);
    }
    REQUIRE(store_count(store) == 0);
}

static void delete_queues(struct queue_table *queues)
{
    struct queue *queue;
    while (queue_list(queues, text_of(""), text_of(""), 1, &queue)) {
        struct queue_stats stats;
        queue_read(queue, &stats);
        REQUIRE(stats.in_flight + stats.segments + stats.waiting_gets + stats.waiting_puts == 0);
        REQUIRE(stats.gets == stats.acks + stats.returned + stats.expired);
        REQUIRE(queue_delete(queues, queue_name(queue)) == TD_OK);
        queue_unref(queue);
    }
}

/* A request that was held finds its session ended, as after a lost connection. */
static void world_end(struct world *world)
{
    struct engine *engine = world->engine;
    struct ledger *ledger = &engine->ledger;
    struct session_counts counts;
    ledger->fail_after = 0;
    (void)session_ref(world->session);
    session_leave(world->session);
    finish_held(world);
    session_unref(world->session);
    delete_queues(engine->queues);
    delete_names(engine->store);
    while (ledger->reclaim(ledger->reclaim_argument))
        ;
    const struct ledger_limits *used = &ledger->used;
    REQUIRE(used->memory_bytes == 0 && used->descriptors == 0 && used->names == 0);
    REQUIRE(ledger->pool_bytes == 0);
    session_table_count(engine->sessions, &counts);
    REQUIRE(counts.sessions == 0 && counts.objects == 0 && counts.leases == 0);
    engine_destroy(engine);
    closep(&world->given);
    closep(&world->shared);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world world;
    struct ops_request request;
    size_t offset = 0;
    int free_before = lowest_free();
    if (size > OPS_INPUT_MAX)
        return 0;
    world_create(&world);
    for (int i = 0; i < OPS_REQUESTS_MAX && ops_next(data, size, &offset, &request); i++) {
        pass_time(&world);
        if (!answer(&world, &request))
            break;
    }
    world_end(&world);
    REQUIRE(lowest_free() == free_before);
    return 0;
}
