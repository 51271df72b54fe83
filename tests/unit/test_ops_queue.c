/* ops: queues, as a door runs them. */
#include "tests/unit/ops_request.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define TENSORS(...) SET(tensors, text_of(__VA_ARGS__))
#define Q SET(queue, text_of("q"))

static void make_queue(void)
{
    RUN(queue_create, Q, SET(max_items, 2));
}

static void publish(const char *name, const char *bytes)
{
    request_body = bytes;
    request_body_bytes = strlen(bytes);
    RUN(put, SET(output, text_of(name)), SET(dtype, TD_UINT8),
        SET(shape, SHAPE((int64_t)strlen(bytes))));
}

static uint64_t counter(const char *name)
{
    RUN(queue_info, Q);
    for (int i = 0; i < listed.count; i++)
        if (strcmp(listed.names[i], name) == 0)
            return listed.counts[i];
    fail_msg("no counter %s", name);
    return 0;
}

/* ---- making ------------------------------------------------------------------------------------
 */

static void a_queue_tells_its_settings(void **state)
{
    (void)state;
    RUN(queue_create, Q);
    assert_int_equal(reply->max_items, 64);
    assert_int_equal(reply->max_bytes, UINT64_C(1) << 30);
    assert_int_equal(reply->visibility_ms, 300000);
    assert_text(reply->when_full, "block");
    assert_text(reply->queue, "q");
    assert_false(reply->closed);
    RUN(queue_create, SET(queue, text_of("r")), SET(max_items, 3), SET(max_bytes, 4),
        SET(visibility_ms, 5), SET(when_full, text_of("drop_oldest")), SET(create_only, true));
    assert_int_equal(reply->max_items, 3);
    assert_int_equal(reply->max_bytes, 4);
    assert_int_equal(reply->visibility_ms, 5);
    assert_text(reply->when_full, "drop_oldest");
    REFUSED(queue_create, TD_EXISTS, "there already", Q, SET(create_only, true));
    REFUSED(queue_create, TD_INVALID, "1 to 65536 items", Q, SET(max_items, 0));
    REFUSED(queue_create, TD_INVALID, "1 to 65536 items", Q, SET(max_items, 65537));
    REFUSED(queue_create, TD_INVALID, "1 byte or more", Q, SET(max_bytes, 0));
    REFUSED(queue_create, TD_INVALID, "visibility_ms", Q, SET(visibility_ms, 0));
    REFUSED(queue_create, TD_INVALID, "visibility_ms", Q, SET(visibility_ms, UINT64_MAX));
    REFUSED(queue_create, TD_INVALID, "'explode'", Q, SET(when_full, text_of("explode")));
    REFUSED(queue_info, TD_NOT_FOUND, "no queue 'x'", SET(queue, text_of("x")));
    RUN(queues, SET(limit, 1));
    assert_int_equal(reply->count, 2);
    assert_text(reply->cursor, "q");
    assert_int_equal(listed.count, 1);
    RUN(queues, SET(cursor, text_of("q")));
    assert_int_equal(listed.count, 1);
    assert_false(FIELDS_HAS(reply, cursor));
    REFUSED(queues, TD_INVALID, "limit", SET(limit, 0));
    RUN(queue_delete, Q);
    REFUSED(queue_delete, TD_NOT_FOUND, "", Q);
}

/* ---- items -------------------------------------------------------------------------------------
 */

static void an_item_is_put_by_name_and_id(void **state)
{
    (void)state;
    make_queue();
    publish("a=b", "frozen");
    uint64_t id = counting(SHAPE(2, 3), false);
    char tensors[64];
    snprintf(tensors, sizeof tensors, "=a=b\n\nx=@%" PRIu64 "\n@%" PRIu64, id, id);
    RUN(queue_put, Q, TENSORS(tensors), SET(meta, text_of("{\"n\": 1}")));
    assert_int_equal(reply->item, 1);
    assert_int_equal(reply->nbytes, 6 + 24 + 24);
    RUN(queue_peek, Q);
    assert_int_equal(reply->count, 1);
    RUN(queue_get, Q);
    assert_int_equal(listed.count, 3);
    assert_int_equal(reply->count, 3);
    assert_int_equal(reply->item, 1);
    assert_int_equal(reply->deliveries, 1);
    assert_text(reply->meta, "{\"n\": 1}");
    uint64_t lease = reply->lease;
    REFUSED(queue_get, TD_EMPTY, "other consumers", Q);
    RUN(queue_ack, SET(lease, lease));
    REFUSED(queue_ack, TD_CONFLICT, "", SET(lease, lease));
    RUN(release, SET(lease, lease));
    REFUSED(queue_ack, TD_NOT_FOUND, "", SET(lease, lease));
    assert_values(id, VALUES(0, 1, 2, 3, 4, 5)); /* it was the session's before, and still is */
}

/* However often the reply does not arrive: nobody has failed on it. */
static void what_nobody_saw_is_no_delivery(void **state)
{
    (void)state;
    make_queue();
    publish("t", "abc");
    RUN(queue_put, Q, TENSORS("t"));
    for (int i = 0; i < 2 * QUEUE_DELIVERIES_MAX; i++) {
        RUN(queue_get, Q);
        assert_int_equal(reply->deliveries, 1);
        op_undo(&call);
    }
    assert_int_equal(counter("parked"), 0);
    RUN(queue_get, Q);
    assert_int_equal(reply->deliveries, 1);
    RUN(queue_ack, SET(lease, reply->lease));
}

static void what_is_no_item_is_refused(void **state)
{
    (void)state;
    char many[1024] = "", meta[QUEUE_META_MAX + 2];
    make_queue();
    publish("t", "abc");
    for (int i = 0; i <= QUEUE_TENSORS_MAX; i++)
        strcat(many, "t\n");
    memset(meta, 'x', sizeof meta - 1);
    meta[sizeof meta - 1] = '\0';
    REFUSED(queue_put, TD_INVALID, "at least one", Q, TENSORS(""));
    REFUSED(queue_put, TD_INVALID, "at least one", Q, TENSORS("\n\n"));
    REFUSED(queue_put, TD_TOO_LARGE, "at most 64 tensors", Q, TENSORS(many));
    REFUSED(queue_put, TD_TOO_LARGE, "4097 bytes", Q, TENSORS("t"), SET(meta, text_of(meta)));
    REFUSED(queue_put, TD_INVALID, "'k' stands twice", Q, TENSORS("k=t\nk=t"));
    REFUSED(queue_put, TD_NOT_FOUND, "", Q, TENSORS("k=nothing"));
    REFUSED(queue_put, TD_INVALID, "", Q, TENSORS("k="));
    REFUSED(queue_put, TD_NOT_FOUND, "@99", Q, TENSORS("@99999"));
    REFUSED(queue_put, TD_NOT_FOUND, "no queue", SET(queue, text_of("x")), TENSORS("t"));
    RUN(allocate, SET(dtype, TD_UINT8), SET(shape, SHAPE(70000)));
    REFUSED(queue_put, TD_CONFLICT, "not published", Q, TENSORS(object(reply->id, 0).data));
    assert_int_equal(counter("items"), 0);
    RUN(release, SET(force, true));
    meta[QUEUE_META_MAX] = '\0';
    RUN(queue_put, Q, TENSORS("t"), SET(meta, text_of(meta)));
}

static void an_operation_that_may_not_wait_tells_so(void **state)
{
    (void)state;
    make_queue();
    publish("t", "abc");
    REFUSED(queue_get, TD_EMPTY, "nothing to hand out", Q);
    RUN(queue_put, Q, TENSORS("t"));
    RUN(queue_put, Q, TENSORS("t"));
    REFUSED(queue_put, TD_FULL, "2 items (of 2)", Q, TENSORS("t"));
    RUN(queue_close, Q);
    REFUSED(queue_put, TD_CLOSED, "closed", Q, TENSORS("t"));
    RUN(queue_drain, Q);
    assert_int_equal(reply->count, 2);
    REFUSED(queue_get, TD_CLOSED, "", Q);
    assert_int_equal(counter("drained"), 2);
    RUN(delete, SET(input, text_of("t")));
}

/* The bytes stay, whatever becomes of the name. */
static void an_item_keeps_its_tensors(void **state)
{
    (void)state;
    make_queue();
    publish("t", "before");
    RUN(queue_put, Q, TENSORS("t"));
    publish("t", "after!");
    RUN(delete, SET(input, text_of("t")));
    RUN(queue_get, Q);
    uint64_t lease = reply->lease, first = reply->item;
    assert_int_equal(first, 1);
    struct text key;
    uint64_t id = queue_item_tensor(call.item, 0, &key)->id;
    RUN(get, INPUT(id));
    assert_memory_equal(tensor_data(call.body_out), "before", 6);
    RUN(release, SET(force, true)); /* all objects that were handed out: not those of an item */
    RUN(get, INPUT(id));
    RUN(release, SET(lease, lease));
    REFUSED(get, TD_NOT_FOUND, "", INPUT(id));
}

/* Sixty-four tensors of keys that do not all fit into a description. */
static void a_description_ends_with_a_whole_line(void **state)
{
    (void)state;
    static char tensors[32768];
    size_t length = 0;
    make_queue();
    publish("t", "abc");
    for (int i = 0; i < QUEUE_TENSORS_MAX; i++) {
        length += (size_t)sprintf(tensors + length, "%d", i);
        for (int k = 0; k < 60; k++)
            length += (size_t)sprintf(tensors + length, "\xc3\xa4");
        length += (size_t)sprintf(tensors + length, "=t\n");
    }
    RUN(queue_put, Q, TENSORS(tensors));
    RUN(queue_peek, Q);
    assert_int_equal(listed.count, 1);
    assert_true(strlen(listed.texts) < 4096);
    assert_string_equal(listed.texts + strlen(listed.texts) - 8, "uint8[3]");
}

/* To let go of many items takes long, and is no loop's affair. */
static void a_long_queue_is_dropped_in_the_job_pool(void **state)
{
    (void)state;
    RUN(queue_create, Q, SET(max_items, 2000));
    publish("x", "x");
    for (int i = 0; i <= 1000; i++) {
        RUN(queue_info, Q);
        call.op = i % 2 ? OP_queue_drain : OP_queue_delete;
        assert_false(op_run_is_long(&call));
        RUN(queue_put, Q, TENSORS("x"));
    }
    RUN(queue_info, Q);
    call.op = OP_queue_drain;
    assert_true(op_run_is_long(&call));
    call.op = OP_queue_delete;
    assert_true(op_run_is_long(&call));
    assert_false(op_commits_late(OP_queue_drain) || op_commits_late(OP_queue_delete));
    RUN(queue_drain, Q);
    assert_int_equal(reply->count, 1001);
    assert_false(op_run_is_long(&call));
}

/* ---- memory to fill ----------------------------------------------------------------------------
 */

/* Allocates for the queue; the descriptor that came with it, or -1. */
static int allocate(int64_t bytes, uint64_t *id, uint64_t *storage)
{
    *id = RUN(allocate, Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(bytes)));
    *storage = reply->storage;
    assert_memory("shared", NULL);
    return call.share_fd;
}

static void hand_over(uint64_t id)
{
    RUN(queue_put, Q, TENSORS(object(id, 0).data));
    REFUSED(info, TD_NOT_FOUND, "", INPUT(id)); /* given away */
    RUN(queue_get, Q);
    uint64_t lease = reply->lease;
    RUN(queue_ack, SET(lease, lease));
    RUN(release, SET(lease, lease));
}

/* A consumer's child may read on: the lease is given back, and the memory not filled again. */
static void what_may_be_read_on_is_not_recycled(void **state)
{
    (void)state;
    uint64_t id, first, storage;
    make_queue();
    assert_true(allocate(70000, &id, &first) >= 0);
    RUN(queue_put, Q, TENSORS(object(id, 0).data));
    RUN(queue_get, Q);
    uint64_t lease = reply->lease;
    RUN(queue_ack, SET(lease, lease));
    RUN(release, SET(lease, lease), SET(force, true));
    assert_int_equal(counter("segments"), 0);
    assert_true(allocate(70000, &id, &storage) >= 0);
    assert_int_not_equal(storage, first);
    assert_int_equal(counter("segments"), 1);
}

static void segments_are_recycled(void **state)
{
    (void)state;
    uint64_t id, first, storage;
    make_queue();
    assert_true(allocate(70000, &id, &first) >= 0);
    assert_text(reply->mode, "building");
    hand_over(id);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(allocate(70000, &id, &storage), -1);
        assert_int_equal(storage, first);
        assert_text(reply->mode, "single-writer");
        hand_over(id);
    }
    assert_int_equal(counter("segments"), 1);
    RUN(allocate, Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(70000)), SET(force, true));
    assert_int_not_equal(reply->storage, first);
    assert_true(call.share_fd >= 0);
    assert_int_equal(counter("segments"), 1);
    for (int64_t size = 0; size < 3; size++) { /* small ones, too, have a descriptor */
        uint64_t small;
        RUN(queue_drain, Q);
        assert_true(allocate(size, &small, &storage) >= 0);
        hand_over(small);
        RUN(release, SET(force, true));
        RUN(allocate, Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(size)));
        assert_int_equal(reply->storage, storage);
        RUN(release, SET(force, true));
        RUN(allocate, Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(1)), SET(force, true));
        RUN(release, SET(force, true));
        RUN(allocate, Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(9 * 70000)), SET(force, true));
    }
}

static void a_segment_stays_single_writer(void **state)
{
    (void)state;
    uint64_t id, storage;
    make_queue();
    int fd = allocate(70000, &id, &storage);
    void *mine = mmap(NULL, 70000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(mine, MAP_FAILED);
    /* Others could write, or nobody, and it would be filled again. */
    REFUSED(publish, TD_CONFLICT, "filled again", INPUT(id), SET(output, text_of("x")));
    REFUSED(publish, TD_CONFLICT, "filled again", INPUT(id), SET(output, text_of("x")),
            SET(mode, text_of("mutable")));
    REFUSED(clone, TD_CONFLICT, "not published", INPUT(id));
    memset(mine, 7, 70000);
    RUN(queue_put, Q, TENSORS(object(id, 0).data));
    RUN(queue_get, Q);
    struct text key;
    uint64_t lease = reply->lease, tensor = queue_item_tensor(call.item, 0, &key)->id;
    REFUSED(fill_, TD_FROZEN, "single-writer", INPUT(tensor), SET(value, integer(1)));
    REFUSED(map, TD_FROZEN, "single-writer", INPUT(tensor), SET(write, true));
    RUN(map, INPUT(tensor));
    assert_ptr_equal(mmap(NULL, 70000, PROT_READ | PROT_WRITE, MAP_SHARED, call.share_fd, 0),
                     MAP_FAILED);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", call.share_fd);
    int again = open(path, O_RDWR);
    assert_ptr_equal(mmap(NULL, 70000, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
    assert_int_equal(pwrite(again, "x", 1, 0), -1);
    close(again);
    /* As its own memory: a tensor over it keeps it out of the ring. */
    request_fd = dup(call.share_fd);
    uint64_t kept = RUN(from_numpy, SET(dtype, TD_UINT8), SET(shape, SHAPE(10)));
    assert_int_equal(reply->storage, storage);
    RUN(queue_ack, SET(lease, lease));
    RUN(release, SET(lease, lease));
    uint64_t other;
    (void)allocate(70000, &id, &other);
    assert_int_not_equal(other, storage);
    RUN(release, INPUT(kept));
    (void)allocate(70000, &id, &other);
    assert_int_equal(other, storage);
    munmap(mine, 70000);
}

/* What is mapped by an item in hand is left mapped when the item is done with, and filled again. A
 * name that leads to the same tensor has nothing to do with the item. */
static void what_is_mapped_by_name_is_not_filled_again(void **state)
{
    (void)state;
    uint64_t id, storage, other;
    struct text key;
    make_queue();
    (void)allocate(70000, &id, &storage);
    RUN(queue_put, Q, TENSORS(object(id, 0).data));
    RUN(queue_get, Q);
    uint64_t item = reply->lease, tensor = queue_item_tensor(call.item, 0, &key)->id;
    RUN(as_tensor, INPUT(tensor), SET(output, text_of("x")));
    assert_int_equal(reply->storage, storage);
    RUN(map, SET(input, text_of("x")));
    uint64_t mapping = reply->lease;
    RUN(queue_ack, SET(lease, item));
    RUN(release, SET(lease, item));
    RUN(delete, SET(input, text_of("x")));
    (void)allocate(70000, &id, &other);
    assert_int_not_equal(other, storage);
    RUN(release, SET(lease, mapping));
    (void)allocate(70000, &id, &other);
    assert_int_equal(other, storage);
}

/* Puts @id and asks for the memory of the next item; whether the reply has some. */
static bool put_and_ask(uint64_t id, int64_t bytes)
{
    RUN(queue_put, Q, TENSORS(object(id, 0).data), SET(dtype, TD_UINT8), SET(shape, SHAPE(bytes)));
    assert_true(FIELDS_HAS(reply, item));
    assert_int_equal(call.share_fd, -1);
    return FIELDS_HAS(reply, storage);
}

static void a_put_may_ask_for_the_next_memory(void **state)
{
    (void)state;
    uint64_t ids[2], storages[2];
    make_queue();
    for (int i = 0; i < 2; i++)
        (void)allocate(70000, &ids[i], &storages[i]);
    assert_false(put_and_ask(ids[0], 70000)); /* all are in use */
    RUN(queue_get, Q);
    uint64_t lease = reply->lease;
    RUN(queue_ack, SET(lease, lease));
    RUN(release, SET(lease, lease));
    assert_true(put_and_ask(ids[1], 60000));
    assert_int_equal(reply->storage, storages[0]);
    assert_int_equal(reply->nbytes, 60000);
    uint64_t next = reply->id;
    RUN(queue_drain, Q);
    assert_false(put_and_ask(next, 700000)); /* none that is large enough */
    RUN(queue_drain, Q);
    (void)allocate(70000, &next, &storages[0]);
    assert_true(put_and_ask(next, 70000));
    next = reply->id;
    op_undo(&call); /* the reply does not arrive */
    REFUSED(info, TD_NOT_FOUND, "", INPUT(next));
    assert_int_equal(counter("segments"), 2);
    RUN(queue_drain, Q);
    (void)allocate(70000, &ids[0], &storages[0]);
    request_remote = true; /* over TCP nobody can fill it */
    assert_false(put_and_ask(ids[0], 70000));
}

static void segments_are_for_who_can_map_them(void **state)
{
    (void)state;
    make_queue();
    request_remote = true;
    REFUSED(allocate, TD_UNSUPPORTED, "Unix socket", Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(1)));
    REFUSED(allocate, TD_NOT_FOUND, "no queue", SET(queue, text_of("x")), SET(dtype, TD_UINT8),
            SET(shape, SHAPE(1)));
    REFUSED(allocate, TD_BAD_SHAPE, "", Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(-1)));
    RUN(queue_close, Q);
    RUN(allocate, Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(1)));
    REFUSED(queue_put, TD_CLOSED, "", Q, TENSORS(object(reply->id, 0).data));
    RUN(queue_delete, Q);
}

/* ---- waiting -----------------------------------------------------------------------------------
 */

struct waiting {
    struct op_call call;
    struct fields in;
    int wakes, entries;
};

static void wake(struct op_call *woken)
{
    ((struct waiting *)(void *)woken)->wakes++;
}

static enum td_status count_entry(void *sink, const struct fields *entry)
{
    (void)entry;
    ((struct waiting *)sink)->entries++;
    return TD_OK;
}

/* With the fields of `request`. */
static void start(struct waiting *w, enum op op)
{
    memset(w, 0, sizeof *w);
    w->in = request;
    request.present = 0;
    op_init(&w->call, engine, session, op, &w->in);
    w->call.wake = wake;
    w->call.emit = count_entry;
    w->call.sink = w;
    w->call.local = true;
    assert_ok(op_begin(&w->call));
    assert_ok(op_run(&w->call));
    assert_true(w->call.waits);
}
#define START(w, op, ...) ((void)(__VA_ARGS__), start((w), OP_##op))

static void a_get_waits_for_an_item(void **state)
{
    (void)state;
    struct waiting first, second;
    make_queue();
    publish("t", "abc");
    START(&first, queue_get, Q);
    START(&second, queue_get, Q);
    assert_int_equal(counter("waiting_gets"), 2);
    RUN(queue_put, Q, TENSORS("t"));
    assert_int_equal(first.wakes, 1);
    assert_int_equal(second.wakes, 0);
    op_stop_waiting(&first.call); /* its client has gone */
    op_end(&first.call);
    assert_int_equal(second.wakes, 1);
    assert_ok(op_run(&second.call));
    assert_false(second.call.waits);
    assert_int_equal(second.entries, 1);
    assert_int_equal(second.call.out.item, 1);
    op_undo(&second.call); /* and here the reply does not arrive */
    op_end(&second.call);
    RUN(queue_get, Q);
    assert_int_equal(reply->deliveries, 1);
    START(&second, queue_get, Q);
    assert_true(second.call.wait_until_ms > 0);
    second.call.timed_out = true;
    assert_int_equal(op_run(&second.call), TD_EMPTY);
    op_end(&second.call);
    assert_int_equal(counter("waiting_gets"), 0);
}

static void a_put_waits_for_room(void **state)
{
    (void)state;
    struct waiting puts[3];
    make_queue();
    publish("t", "abc");
    RUN(queue_put, Q, TENSORS("t"));
    RUN(queue_put, Q, TENSORS("t"));
    for (int i = 0; i < 3; i++)
        START(&puts[i], queue_put, Q, TENSORS("t"));
    RUN(delete, SET(input, text_of("t")));
    RUN(queue_get, Q);
    /* Woken as its time is over: the room is its own, and then the next one's. */
    assert_int_equal(puts[0].wakes, 1);
    puts[0].call.timed_out = true;
    assert_ok(op_run(&puts[0].call));
    assert_int_equal(puts[0].call.out.item, 3);
    RUN(queue_get, Q);
    assert_int_equal(puts[1].wakes, 1);
    op_end(&puts[1].call);
    assert_int_equal(puts[2].wakes, 1);
    assert_ok(op_run(&puts[2].call));
    op_end(&puts[0].call);
    op_end(&puts[2].call);
    assert_int_equal(counter("waiting_puts"), 0);
    RUN(queue_delete, Q);
}

static void an_allocation_waits_for_a_segment(void **state)
{
    (void)state;
    struct waiting w;
    uint64_t ids[6], storages[6];
    make_queue();
    for (int i = 0; i < 6; i++)
        (void)allocate(70000, &ids[i], &storages[i]);
    REFUSED(allocate, TD_FULL, "6 segments", Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(70000)));
    START(&w, allocate, Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(70000)));
    RUN(release, INPUT(ids[3]));
    assert_int_equal(w.wakes, 1);
    assert_ok(op_run(&w.call));
    assert_false(w.call.waits);
    assert_ok(op_commit(&w.call));
    assert_int_equal(w.call.out.storage, storages[3]);
    assert_int_equal(w.call.share_fd, -1);
    op_undo(&w.call);
    op_end(&w.call);
    (void)allocate(70000, &ids[3], &storages[3]);
    START(&w, allocate, Q, SET(dtype, TD_UINT8), SET(shape, SHAPE(700000)));
    op_end(&w.call);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_queue_tells_its_settings),
        TEST(an_item_is_put_by_name_and_id),
        TEST(what_nobody_saw_is_no_delivery),
        TEST(what_is_no_item_is_refused),
        TEST(an_operation_that_may_not_wait_tells_so),
        TEST(an_item_keeps_its_tensors),
        TEST(a_description_ends_with_a_whole_line),
        TEST(a_long_queue_is_dropped_in_the_job_pool),
        TEST(what_may_be_read_on_is_not_recycled),
        TEST(segments_are_recycled),
        TEST(what_is_mapped_by_name_is_not_filled_again),
        TEST(a_segment_stays_single_writer),
        TEST(a_put_may_ask_for_the_next_memory),
        TEST(segments_are_for_who_can_map_them),
        TEST(a_get_waits_for_an_item),
        TEST(a_put_waits_for_room),
        TEST(an_allocation_waits_for_a_segment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
