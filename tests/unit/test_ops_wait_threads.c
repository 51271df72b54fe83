/* Operations that wait, from many threads: waiters, those they wait for, and those who give up, all
 * at once. Every waiter is woken in the end, none twice for one registration, and none after it has
 * been given up. For the thread sanitizer. */
#include "tests/unit/ops_request.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

#define WAITERS 6
#define NAMES 4
#define ROUNDS 3000
#define CHANGES 2000 /* of each of two: fewer events than are kept, however slow their reader */

static const struct store_condition always;
static atomic_bool done;
static atomic_int errors, gone;
static struct tensor *shown;

struct waiting {
    struct op_call call;
    struct fields in;
    sem_t woken;
    atomic_int wakes; /* since op_run */
    uint64_t last;    /* revision told */
    bool told;        /* anything */
};

static void wake(struct op_call *woken)
{
    struct waiting *w = (struct waiting *)(void *)woken;
    if (atomic_fetch_add(&w->wakes, 1) > 0)
        atomic_fetch_add(&errors, 1);
    sem_post(&w->woken);
}

static enum td_status tell(void *sink, const struct fields *entry)
{
    struct waiting *w = sink;
    if (entry->revision <= w->last)
        atomic_fetch_add(&errors, 1);
    w->last = entry->revision;
    w->told = true;
    return TD_OK;
}

/* Waits as a door does. gives_up: not for long, and then not any more. */
static enum td_status wait_through(struct waiting *w, bool gives_up)
{
    TRY(op_begin(&w->call));
    for (;;) {
        atomic_store(&w->wakes, 0);
        TRY(op_run(&w->call));
        if (!w->call.waits)
            return op_commit(&w->call);
        if (gives_up) {
            sched_yield();
            op_stop_waiting(&w->call);
            atomic_fetch_add(&gone, 1);
            return TD_CANCELLED;
        }
        sem_wait(&w->woken);
    }
}

/* On the heap, and freed at once: a wake that comes late would be seen by the sanitizers. */
static struct waiting *waiting_create(enum op op)
{
    struct waiting *w = calloc(1, sizeof *w);
    sem_init(&w->woken, 0, 0);
    op_init(&w->call, engine, session, op, &w->in);
    w->call.wake = wake;
    w->call.emit = tell;
    w->call.sink = w;
    return w;
}

static void waiting_destroy(struct waiting *w)
{
    op_end(&w->call);
    sem_destroy(&w->woken);
    free(w);
}

static const char *const names[NAMES] = {"a", "b", "a/b", "c"};

/* Waits for one new generation after another of a name, and gives up now and then. */
static void *wait_for_names(void *argument)
{
    unsigned self = *(unsigned *)argument, random = self + 1;
    uint64_t generation = 0;
    while (!atomic_load(&done)) {
        struct waiting *w = waiting_create(OP_wait);
        random = random * 1664525 + 1013904223;
        FIELDS_SET(&w->in, input, text_of(names[self % NAMES]));
        FIELDS_SET(&w->in, generation, generation);
        enum td_status status = wait_through(w, random >> 30 == 0);
        if (status == TD_OK && w->call.out.generation <= generation)
            atomic_fetch_add(&errors, 1);
        else if (status == TD_OK)
            generation = w->call.out.generation;
        else if (status != TD_CANCELLED)
            atomic_fetch_add(&errors, 1);
        waiting_destroy(w);
    }
    return NULL;
}

/* Reads all events from reply to reply. */
static void *watch_names(void *argument)
{
    uint64_t since = 0, last = 0;
    bool ends = false;
    (void)argument;
    while (!ends) {
        struct waiting *w = waiting_create(OP_watch);
        ends = atomic_load(&done);
        w->last = last;
        FIELDS_SET(&w->in, since, since);
        if (ends)
            FIELDS_SET(&w->in, timeout_ms, 0);
        if (wait_through(w, false) != TD_OK || FIELDS_HAS(&w->call.out, lost) ||
            w->call.out.since < w->last)
            atomic_fetch_add(&errors, 1);
        else
            since = w->call.out.since;
        ends = ends && !w->told; /* one reply has not always all that there is */
        last = w->last;
        waiting_destroy(w);
    }
    if (last != store_revision(engine->store))
        atomic_fetch_add(&errors, 1);
    return NULL;
}

/* Publishes, touches and removes. */
static void *change_names(void *argument)
{
    unsigned random = *(unsigned *)argument + 77;
    for (int i = 0; i < CHANGES; i++) {
        uint64_t generation, ttl_ms;
        random = random * 1664525 + 1013904223;
        struct text name = text_of(names[random >> 20 & 3]);
        enum td_status status = TD_OK;
        if (random >> 30 == 0)
            status = store_remove(engine->store, name, &always);
        else if (random >> 30 == 1)
            (void)store_touch(engine->store, name, shown->storage, &generation, &ttl_ms);
        else
            status = store_publish(engine->store, name, shown, &always, &generation);
        if (status != TD_OK && status != TD_NOT_FOUND)
            atomic_fetch_add(&errors, 1);
        sched_yield();
    }
    return NULL;
}

static void start(pthread_t *threads, int count, unsigned *self, void *(*run)(void *))
{
    for (int i = 0; i < count; i++) {
        self[i] = (unsigned)i;
        assert_int_equal(pthread_create(&threads[i], NULL, run, &self[i]), 0);
    }
}

static void publish_all(void)
{
    uint64_t generation;
    for (int i = 0; i < NAMES; i++)
        assert_ok(store_publish(engine->store, text_of(names[i]), shown, &always, &generation));
}

static void waiters_wakers_and_cancels(void **state)
{
    pthread_t waiters[WAITERS], watchers[1], changers[2];
    unsigned self[WAITERS + 3];
    (void)state;
    engine->max_watches = 64;
    shown = bytes_tensor(engine->devices.list[0], 1);
    start(waiters, WAITERS, self, wait_for_names);
    start(watchers, 1, self + WAITERS, watch_names);
    start(changers, 2, self + WAITERS + 1, change_names);
    for (int i = 0; i < 2; i++)
        pthread_join(changers[i], NULL);
    atomic_store(&done, true);
    publish_all(); /* for those that wait still */
    for (int i = 0; i < WAITERS; i++)
        pthread_join(waiters[i], NULL);
    pthread_join(watchers[0], NULL);
    tensor_unref(shown);
    assert_int_equal(atomic_load(&errors), 0);
    assert_int_equal(atomic_load(&engine->watches), 0);
    assert_true(atomic_load(&gone) > 0);
}

static void not_needed(struct op_call *woken)
{
    (void)woken;
}

static enum td_status no_entry(void *sink, const struct fields *entry)
{
    (void)sink;
    (void)entry;
    return TD_OK;
}

/* Gets what is put, and does not wait to be woken: as at wait_until_ms, the operation is run again
 * while it stands in line. */
static void *get_items(void *argument)
{
    (void)argument;
    for (int i = 0; i < ROUNDS; i++) {
        struct waiting *w = waiting_create(OP_queue_get);
        w->call.wake = not_needed;
        w->call.emit = no_entry;
        FIELDS_SET(&w->in, queue, text_of("q"));
        enum td_status status = op_begin(&w->call);
        do {
            sched_yield();
            status = op_run(&w->call);
        } while (status == TD_OK && w->call.waits);
        if (status != TD_OK || queue_ack(session, w->call.out.lease) != TD_OK ||
            session_release(session, w->call.out.lease) != TD_OK)
            atomic_fetch_add(&errors, 1);
        waiting_destroy(w);
    }
    return NULL;
}

static void run_again_while_others_look(void **state)
{
    pthread_t getter;
    unsigned self;
    (void)state;
    shown = bytes_tensor(engine->devices.list[0], 1);
    publish_all();
    RUN(queue_create, SET(queue, text_of("q")));
    start(&getter, 1, &self, get_items);
    for (int i = 0; i < ROUNDS; i++) {
        RUN(queue_put, SET(queue, text_of("q")), SET(tensors, text_of("a")));
        while (RUN(queue_info, SET(queue, text_of("q"))), listed.counts[0] > 0)
            sched_yield();
    }
    pthread_join(getter, NULL);
    tensor_unref(shown);
    assert_int_equal(atomic_load(&errors), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(waiters_wakers_and_cancels),
                                       TEST(run_again_while_others_look)};
    return cmocka_run_group_tests_name("ops_wait_threads", tests, NULL, NULL);
}
