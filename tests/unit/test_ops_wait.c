/* ops: operations that wait, as a door runs them: wait, watch, and touch, which wakes both. */
#include "tests/unit/ops_request.h"

#define EVENTS_MAX 64

/* A request of its own, beside those of RUN. */
struct waiting {
    struct op_call call;
    struct fields in;
    int wakes;
    int count; /* of events that it was told */
    char told[EVENTS_MAX][40];
};

static void wake(struct op_call *woken)
{
    ((struct waiting *)(void *)woken)->wakes++;
}

static enum td_status tell(void *sink, const struct fields *entry)
{
    struct waiting *w = sink;
    if (w->count < EVENTS_MAX)
        snprintf(w->told[w->count], sizeof w->told[0], "%.*s %.*s %" PRIu64,
                 TEXT_ARGS(entry->event), TEXT_ARGS(entry->name), entry->revision);
    w->count++;
    return TD_OK;
}

/* Begins the operation with the fields of `request`, and runs it once. */
static enum td_status start(struct waiting *w, enum op op)
{
    memset(w, 0, sizeof *w);
    w->in = request;
    request.present = 0;
    op_init(&w->call, engine, session, op, &w->in);
    w->call.wake = wake;
    w->call.emit = tell;
    w->call.sink = w;
    TRY(op_begin(&w->call));
    TRY(op_receive(&w->call));
    return op_run(&w->call);
}

#define START(w, op, ...) ((void)(__VA_ARGS__), assert_ok(start((w), OP_##op)))

static void assert_waits(const struct waiting *w, int wakes)
{
    assert_true(w->call.waits);
    assert_int_equal(w->wakes, wakes);
    assert_int_equal(w->count, 0);
}

/* Runs on after a wake, to its end. */
static void finish(struct waiting *w)
{
    assert_ok(op_run(&w->call));
    assert_false(w->call.waits);
    assert_null(w->call.stop_waiting);
    assert_ok(op_commit(&w->call));
}

static void assert_told(const struct waiting *w, const char *const *wanted, int count)
{
    assert_int_equal(w->count, count);
    assert_int_equal(w->call.out.count, count);
    for (int i = 0; i < count; i++)
        assert_string_equal(w->told[i], wanted[i]);
}

#define TOLD(w, ...)                                                                               \
    assert_told((w), (const char *const[]){__VA_ARGS__},                                           \
                (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))

static uint64_t publish(const char *name)
{
    SET(mutable, true);
    RUN(zeros, SET(shape, SHAPE(1)), SET(output, text_of(name)));
    return reply->generation;
}

static uint64_t revision(void)
{
    return store_revision(engine->store);
}

static void assert_no_watches(void)
{
    assert_int_equal(atomic_load(&engine->watches), 0);
}

/* ---- wait ------------------------------------------------------------------------------------ */

static void what_is_there_is_described_at_once(void **state)
{
    static struct waiting w;
    (void)state;
    uint64_t generation = publish("x");
    START(&w, wait, SET(input, text_of("x")));
    assert_false(w.call.waits);
    assert_ok(op_commit(&w.call));
    assert_text(w.call.out.name, "x");
    assert_int_equal(w.call.out.generation, generation);
    assert_int_equal(w.call.out.shape.rank, 1);
    op_end(&w.call);
    START(&w, wait, SET(input, text_of("x")), SET(generation, generation + 1));
    assert_false(w.call.waits);
    op_end(&w.call);
    assert_no_watches();
}

static void waits_for_the_name(void **state)
{
    static struct waiting w;
    (void)state;
    START(&w, wait, SET(input, text_of("a/x")));
    assert_waits(&w, 0);
    publish("a/x/y");
    publish("a");
    assert_waits(&w, 0);
    uint64_t generation = publish("a/x");
    publish("a/x");
    assert_waits(&w, 1); /* once, and the latest counts */
    finish(&w);
    assert_true(w.call.out.generation > generation);
    op_end(&w.call);
    assert_no_watches();
}

static void waits_for_another_generation(void **state)
{
    static struct waiting w;
    (void)state;
    uint64_t generation = publish("x");
    START(&w, wait, SET(input, text_of("x")), SET(generation, generation));
    assert_waits(&w, 0);
    RUN(delete, SET(input, text_of("x")));
    assert_waits(&w, 1);
    assert_ok(op_run(&w.call)); /* gone is not published */
    assert_waits(&w, 1);
    generation = publish("x");
    assert_waits(&w, 2);
    finish(&w);
    assert_int_equal(w.call.out.generation, generation);
    op_end(&w.call);
}

static void a_touch_is_a_publish_of_the_same_tensor(void **state)
{
    static struct waiting w;
    (void)state;
    uint64_t generation = publish("x");
    RUN(info, SET(input, text_of("x")));
    uint64_t id = reply->id, version = reply->version;
    START(&w, wait, SET(input, text_of("x")), SET(generation, generation));
    RUN(touch, SET(input, text_of("x")));
    assert_int_equal(reply->generation, revision());
    assert_waits(&w, 1);
    finish(&w);
    assert_int_equal(w.call.out.id, id);
    assert_int_equal(w.call.out.version, version + 1);
    assert_true(w.call.out.generation > generation);
    op_end(&w.call);
}

static void a_touch_shows_at_the_output_while_it_is_that_memory(void **state)
{
    (void)state;
    publish("x");
    uint64_t id = RUN(detach, SET(input, text_of("x"))), before = revision();
    RUN(touch, INPUT(id)); /* an object has no name */
    assert_int_equal(revision(), before);
    assert_false(FIELDS_HAS(reply, name));
    RUN(touch, INPUT(id), SET(output, text_of("x")));
    assert_int_equal(reply->generation, before + 1);
    assert_text(reply->name, "x");
    RUN(touch, INPUT(id), SET(output, text_of("y"))); /* nobody has it */
    assert_false(FIELDS_HAS(reply, name));
    publish("x");
    before = revision();
    RUN(touch, INPUT(id), SET(output, text_of("x"))); /* other memory by now */
    assert_int_equal(revision(), before);
    assert_false(FIELDS_HAS(reply, name));
    REFUSED(touch, TD_INVALID, "name", INPUT(id), SET(output, text_of("a//b")));
}

static void a_touched_name_keeps_its_time_to_live(void **state)
{
    (void)state;
    SET(output, text_of("x"));
    SET(mutable, true);
    RUN(zeros, SET(shape, SHAPE(1)), SET(ttl_ms, 60000));
    RUN(touch, SET(input, text_of("x")));
    assert_true(reply->ttl_ms > 50000 && reply->ttl_ms <= 60000);
}

static void time_over(void **state)
{
    static struct waiting w;
    (void)state;
    START(&w, wait, SET(input, text_of("x")), SET(timeout_ms, 250));
    w.call.timed_out = true;
    assert_refused(op_run(&w.call), TD_DEADLINE, "'x' was not published within 250 ms");
    assert_false(w.call.waits);
    op_end(&w.call);
    uint64_t generation = publish("x");
    START(&w, wait, SET(input, text_of("x")), SET(generation, generation), SET(timeout_ms, 9));
    w.call.timed_out = true;
    assert_refused(op_run(&w.call), TD_DEADLINE, "not published anew within 9 ms");
    op_end(&w.call);
    START(&w, wait, SET(input, text_of("x")), SET(generation, generation));
    publish("x");
    w.call.timed_out = true; /* at the same moment: what is there counts */
    finish(&w);
    op_end(&w.call);
    assert_no_watches();
}

static void what_cannot_wait_answers_at_once(void **state)
{
    (void)state; /* RUN's requests cannot */
    REFUSED(wait, TD_DEADLINE, "does not wait", SET(input, text_of("x")));
    REFUSED(wait, TD_DEADLINE, "does not wait", SET(input, text_of("x")), SET(timeout_ms, 0));
    REFUSED(wait, TD_INVALID, "@", SET(input, text_of("@7")));
    REFUSED(wait, TD_INVALID, "name", SET(input, text_of("")));
    RUN(watch, SET(prefix, text_of("x")));
    assert_int_equal(reply->count, 0);
    static struct waiting w;
    SET(input, text_of("x"));
    SET(timeout_ms, 0);
    assert_refused(start(&w, OP_wait), TD_DEADLINE, "does not wait");
    op_end(&w.call);
}

static void given_up(void **state)
{
    static struct waiting w[3];
    (void)state;
    for (int i = 0; i < 3; i++)
        START(&w[i], wait, SET(input, text_of("x")));
    assert_int_equal(atomic_load(&engine->watches), 3);
    op_stop_waiting(&w[0].call);
    op_end(&w[1].call);
    publish("x");
    assert_int_equal(w[0].wakes + w[1].wakes, 0);
    assert_waits(&w[2], 1);
    op_end(&w[0].call);
    op_end(&w[2].call);
    assert_no_watches();
}

static void as_many_as_the_limit(void **state)
{
    static struct waiting w[9];
    (void)state;
    for (int i = 0; i < 8; i++)
        START(&w[i], wait, SET(input, text_of("x")));
    SET(input, text_of("y"));
    assert_refused(start(&w[8], OP_wait), TD_UNAVAILABLE, "--max-watches");
    op_end(&w[8].call);
    assert_refused(start(&w[8], OP_watch), TD_UNAVAILABLE, "8 requests wait");
    op_end(&w[8].call);
    publish("y"); /* what need not wait is answered */
    START(&w[8], wait, SET(input, text_of("y")));
    assert_false(w[8].call.waits);
    op_end(&w[8].call);
    op_end(&w[0].call);
    START(&w[0], watch, 0);
    assert_waits(&w[0], 0);
    for (int i = 0; i < 8; i++)
        op_end(&w[i].call);
    assert_no_watches();
}

/* ---- watch ----------------------------------------------------------------------------------- */

/* The engine's revisions begin anywhere. */
static void revisions_from_1(void)
{
    store_revisions_begin(engine->store, 0);
}

static void events_after_a_revision(void **state)
{
    static struct waiting w;
    (void)state;
    revisions_from_1();
    publish("a/1");
    publish("b");
    publish("a/2");
    RUN(delete, SET(input, text_of("a/1")));
    START(&w, watch, SET(since, 0), SET(prefix, text_of("a/")));
    assert_false(w.call.waits);
    TOLD(&w, "publish a/1 1", "publish a/2 3", "remove a/1 4");
    assert_int_equal(w.call.out.since, 4);
    assert_false(FIELDS_HAS(&w.call.out, lost));
    op_end(&w.call);
    START(&w, watch, SET(since, 0), SET(limit, 2));
    TOLD(&w, "publish a/1 1", "publish b 2");
    assert_int_equal(w.call.out.since, 2);
    op_end(&w.call);
    START(&w, watch, SET(since, 2), SET(limit, 1), SET(prefix, text_of("b")));
    assert_waits(&w, 0);
    op_end(&w.call);
    REFUSED(watch, TD_INVALID, "limit", SET(limit, 0));
}

static void events_from_now_on(void **state)
{
    static struct waiting w;
    (void)state;
    revisions_from_1();
    publish("x");
    START(&w, watch, 0);
    assert_waits(&w, 0);
    publish("y");
    RUN(rename, SET(input, text_of("y")), SET(output, text_of("z")));
    assert_waits(&w, 1);
    finish(&w);
    TOLD(&w, "publish y 2", "publish z 3", "remove y 4");
    assert_int_equal(w.call.out.since, 4);
    op_end(&w.call);
    RUN(watch, 0); /* without waiting: tells from where the next one may go on */
    assert_int_equal(reply->since, 4);
    assert_int_equal(reply->count, 0);
}

static void a_watch_whose_time_is_over_tells_where_it_stands(void **state)
{
    static struct waiting w;
    (void)state;
    START(&w, watch, SET(prefix, text_of("x")), SET(timeout_ms, 5));
    publish("y");
    w.call.timed_out = true;
    finish(&w);
    assert_told(&w, NULL, 0);
    assert_int_equal(w.call.out.since, revision());
    op_end(&w.call);
}

static void others_events_are_not_lost_ones(void **state)
{
    static struct waiting w;
    (void)state;
    START(&w, watch, SET(prefix, text_of("rare")));
    for (int i = 0; i < STORE_EVENTS_KEPT + 10; i++)
        publish("often");
    assert_waits(&w, 0);
    publish("rare");
    for (int i = 0; i < 10; i++)
        publish("often");
    finish(&w);
    assert_int_equal(w.count, 1);
    assert_false(FIELDS_HAS(&w.call.out, lost));
    assert_int_equal(w.call.out.since, revision());
    op_end(&w.call);
    START(&w, watch, SET(prefix, text_of("rare")));
    for (int i = 0; i < STORE_EVENTS_KEPT + 10; i++)
        publish("often");
    w.call.timed_out = true;
    finish(&w);
    assert_int_equal(w.count, 0);
    assert_false(FIELDS_HAS(&w.call.out, lost));
    assert_int_equal(w.call.out.since, revision());
    op_end(&w.call);
}

static void lost_events_are_told_at_once(void **state)
{
    static struct waiting w;
    (void)state;
    revisions_from_1();
    for (int i = 0; i < STORE_EVENTS_KEPT; i++)
        publish("x");
    START(&w, watch, SET(since, 0), SET(limit, 1)); /* just not */
    assert_false(FIELDS_HAS(&w.call.out, lost));
    TOLD(&w, "publish x 1");
    op_end(&w.call);
    publish("x");
    START(&w, watch, SET(since, 0), SET(limit, 2));
    assert_false(w.call.waits);
    assert_true(w.call.out.lost);
    TOLD(&w, "publish x 2", "publish x 3");
    op_end(&w.call);
    START(&w, watch, SET(since, 0), SET(prefix, text_of("other"))); /* who knows whether its own */
    assert_false(w.call.waits);
    assert_true(w.call.out.lost);
    assert_int_equal(w.call.out.count, 0);
    assert_int_equal(w.call.out.since, revision());
    op_end(&w.call);
    START(&w, watch, SET(since, revision() + 1)); /* of before a restart */
    assert_false(w.call.waits);
    assert_true(w.call.out.lost);
    op_end(&w.call);
    assert_no_watches();
}

/* A reader that keeps up gets every event once and in order, however they fall into replies. */
static void nothing_is_lost_from_reply_to_reply(void **state)
{
    static struct waiting w;
    (void)state;
    uint64_t since = revision(), next = since + 1, random = 7;
    char wanted[40];
    for (int round = 0; round < 300; round++) {
        START(&w, watch, SET(since, since), SET(limit, 1 + random % 20));
        for (uint64_t i = random >> 8 & 31; i > 0; i--)
            publish("x");
        if (w.call.waits)
            w.call.timed_out = true, finish(&w);
        for (int i = 0; i < w.count; i++) {
            snprintf(wanted, sizeof wanted, "publish x %" PRIu64, next++);
            assert_string_equal(w.told[i], wanted);
        }
        since = w.call.out.since;
        assert_int_equal(since, next - 1);
        op_end(&w.call);
        random = random * 6364136223846793005u + 1442695040888963407u;
    }
}

/* ---- the contract of op_run ------------------------------------------------------------------ */

static void op_run_begins_anew(void **state)
{
    static struct waiting w;
    (void)state;
    START(&w, wait, SET(input, text_of("x")));
    w.call.wait_until_ms = 99;
    assert_ok(op_run(&w.call)); /* for nothing */
    assert_waits(&w, 0);
    assert_int_equal(w.call.wait_until_ms, 0);
    assert_int_equal(atomic_load(&engine->watches), 1);
    assert_false(w.call.given_up);
    op_stop_waiting(&w.call);
    assert_true(w.call.given_up);
    op_stop_waiting(&w.call);
    op_end(&w.call);
    assert_no_watches();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_there_is_described_at_once),
        TEST(waits_for_the_name),
        TEST(waits_for_another_generation),
        TEST(a_touch_is_a_publish_of_the_same_tensor),
        TEST(a_touch_shows_at_the_output_while_it_is_that_memory),
        TEST(a_touched_name_keeps_its_time_to_live),
        TEST(time_over),
        TEST(what_cannot_wait_answers_at_once),
        TEST(given_up),
        TEST(as_many_as_the_limit),
        TEST(events_after_a_revision),
        TEST(events_from_now_on),
        TEST(a_watch_whose_time_is_over_tells_where_it_stands),
        TEST(others_events_are_not_lost_ones),
        TEST(lost_events_are_told_at_once),
        TEST(nothing_is_lost_from_reply_to_reply),
        TEST(op_run_begins_anew),
    };
    return cmocka_run_group_tests_name("ops_wait", tests, NULL, NULL);
}
