/* parked: every operation has one outcome and one end, whoever cancels it and when. For the thread
 * sanitizer. */
#include "core/fail.h"
#include "core/parked.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define THREADS 3
#define CANCELLERS 3
#define OPERATIONS 5000

struct operation {
    struct parked parked;
    atomic_int runs, commits, completions, destructions;
    atomic_int status;  /* of the completion */
    atomic_int decided; /* cancels that said they decided it */
    int number;
};

static struct operation operations[OPERATIONS];
static atomic_bool gate_open;
static atomic_int waiting;

/* Every third commits, as an operation that shows its result does; every fifth fails. */
static enum td_status operation_run(struct parked *parked)
{
    struct operation *operation = (struct operation *)parked;
    atomic_fetch_add(&operation->runs, 1);
    if (operation->number % 7 == 0)
        sched_yield();
    if (operation->number % 3 == 0) {
        enum td_status status = parked_commit(parked);
        if (status != TD_OK)
            return status;
        atomic_fetch_add(&operation->commits, 1);
        if (operation->number % 2 == 0)
            sched_yield(); /* a cancel may come now, too late */
    }
    return operation->number % 5 == 0 ? TD_CONFLICT : TD_OK;
}

static void operation_complete(struct parked *parked, enum td_status status)
{
    struct operation *operation = (struct operation *)parked;
    atomic_store(&operation->status, (int)status);
    atomic_fetch_add(&operation->completions, 1);
}

static void operation_destroy(struct parked *parked)
{
    struct operation *operation = (struct operation *)parked;
    atomic_fetch_add(&operation->destructions, 1);
}

static const struct parked_ops operation_ops = {operation_run, operation_complete,
                                                operation_destroy};

/* Holds its thread until the gate opens. */
static enum td_status gate_run(struct parked *parked)
{
    atomic_fetch_add(&waiting, 1);
    while (!atomic_load(&gate_open))
        sched_yield();
    return operation_run(parked);
}

static const struct parked_ops gate_ops = {gate_run, operation_complete, operation_destroy};

static int reset(void **state)
{
    (void)state;
    for (int i = 0; i < OPERATIONS; i++)
        operations[i] = (struct operation){.number = i};
    atomic_store(&gate_open, false);
    atomic_store(&waiting, 0);
    return 0;
}

static void submit(struct job_pool *pool, struct operation *operation, const struct parked_ops *ops)
{
    assert_int_equal(parked_submit(pool, &operation->parked, ops, PARKED_IN_TURN), TD_OK);
}

/* Blocks every thread of the pool, with operations of the end of the table. */
static void block(struct job_pool *pool, int threads)
{
    for (int i = 0; i < threads; i++)
        submit(pool, &operations[OPERATIONS - 1 - i], &gate_ops);
    while (atomic_load(&waiting) < threads)
        sched_yield();
}

static void unblock(int threads)
{
    atomic_store(&gate_open, true);
    for (int i = 0; i < threads; i++)
        parked_unref(&operations[OPERATIONS - 1 - i].parked);
}

static enum td_status own_status(const struct operation *operation)
{
    return operation->number % 5 == 0 ? TD_CONFLICT : TD_OK;
}

static void assert_done(struct operation *operation)
{
    int decided = atomic_load(&operation->decided);
    assert_int_equal(atomic_load(&operation->completions), 1);
    assert_int_equal(atomic_load(&operation->destructions), 1);
    assert_in_range(atomic_load(&operation->runs), 0, 1);
    assert_in_range(decided, 0, 1);
    if (atomic_load(&operation->commits))
        assert_int_equal(decided, 0); /* shown: it counts as done */
    if (decided) {
        assert_int_equal(atomic_load(&operation->status), TD_DEADLINE);
    } else {
        assert_int_equal(atomic_load(&operation->runs), 1);
        assert_int_equal(atomic_load(&operation->status), own_status(operation));
    }
}

/* -- one at a time -- */

static void cancelled_before_it_runs(void **state)
{
    struct job_pool *pool;
    struct operation *operation = &operations[0];
    (void)state;
    assert_int_equal(job_pool_create(1, 10, &pool), TD_OK);
    block(pool, 1);
    submit(pool, operation, &operation_ops);
    assert_true(parked_cancel(&operation->parked, TD_DEADLINE));
    assert_int_equal(atomic_load(&operation->completions), 1); /* at once */
    assert_false(parked_cancel(&operation->parked, TD_CANCELLED));
    parked_unref(&operation->parked);
    assert_int_equal(atomic_load(&operation->destructions), 0); /* the pool still has it */
    unblock(1);
    job_pool_destroy(pool);
    assert_int_equal(atomic_load(&operation->runs), 0);
    assert_int_equal(atomic_load(&operation->status), TD_DEADLINE);
    assert_int_equal(atomic_load(&operation->completions), 1);
    assert_int_equal(atomic_load(&operation->destructions), 1);
}

/* A cancel while it runs completes it at once; its commit is refused. */
static void cancelled_while_it_runs(void **state)
{
    struct job_pool *pool;
    struct operation *operation = &operations[3]; /* commits */
    (void)state;
    assert_int_equal(job_pool_create(1, 10, &pool), TD_OK);
    submit(pool, operation, &gate_ops);
    while (!atomic_load(&waiting))
        sched_yield();
    assert_true(parked_cancel(&operation->parked, TD_DEADLINE));
    assert_int_equal(atomic_load(&operation->completions), 1);
    parked_unref(&operation->parked);
    assert_int_equal(atomic_load(&operation->destructions), 0); /* it still runs */
    atomic_store(&gate_open, true);
    job_pool_destroy(pool);
    assert_int_equal(atomic_load(&operation->runs), 1);
    assert_int_equal(atomic_load(&operation->commits), 0);
    assert_int_equal(atomic_load(&operation->status), TD_DEADLINE);
    assert_int_equal(atomic_load(&operation->completions), 1);
    assert_int_equal(atomic_load(&operation->destructions), 1);
}

static void cancel_comes_too_late(void **state)
{
    struct job_pool *pool;
    struct operation *operation = &operations[3];
    (void)state;
    assert_int_equal(job_pool_create(1, 10, &pool), TD_OK);
    submit(pool, operation, &operation_ops);
    while (!atomic_load(&operation->completions))
        sched_yield();
    assert_false(parked_cancel(&operation->parked, TD_DEADLINE));
    job_pool_destroy(pool);
    assert_int_equal(atomic_load(&operation->destructions), 0); /* the submitter's reference */
    parked_unref(&operation->parked);
    assert_done(operation);
}

static void queue_limit(void **state)
{
    struct job_pool *pool;
    struct operation *refused = &operations[100];
    (void)state;
    assert_int_equal(job_pool_create(2, 3, &pool), TD_OK);
    block(pool, 2); /* these run: they are not in the queue */
    for (int i = 0; i < 3; i++)
        submit(pool, &operations[i], &operation_ops);
    assert_int_equal(parked_submit(pool, &refused->parked, &operation_ops, PARKED_IN_TURN),
                     TD_UNAVAILABLE);
    assert_non_null(strstr(fail_detail(), "3 operations are waiting"));
    struct operation *onward = &operations[101];
    assert_int_equal(parked_submit(pool, &onward->parked, &operation_ops, PARKED_ONWARD), TD_OK);
    parked_cancel(&operations[1].parked, TD_DEADLINE); /* its place is free when it is reached */
    atomic_store(&operations[1].decided, 1);
    assert_int_equal(parked_submit(pool, &refused->parked, &operation_ops, PARKED_IN_TURN),
                     TD_UNAVAILABLE);
    unblock(2);
    job_pool_destroy(pool);
    for (int i = 0; i < 3; i++) {
        parked_unref(&operations[i].parked);
        assert_done(&operations[i]);
    }
    parked_unref(&onward->parked);
    assert_done(onward);
    assert_int_equal(atomic_load(&refused->runs), 0);
    assert_int_equal(atomic_load(&refused->completions), 0);
    assert_int_equal(atomic_load(&refused->destructions), 0);
}

/* In the order in which they came, where there is one thread. */
static int order[3], ordered;

static enum td_status order_run(struct parked *parked)
{
    order[ordered++] = ((struct operation *)parked)->number;
    return TD_OK;
}

static void first_come_first_served(void **state)
{
    static const struct parked_ops order_ops = {order_run, operation_complete, operation_destroy};
    struct job_pool *pool;
    (void)state;
    assert_int_equal(job_pool_create(1, 10, &pool), TD_OK);
    block(pool, 1);
    for (int i = 0; i < 3; i++) {
        submit(pool, &operations[i + 1], &order_ops);
        parked_unref(&operations[i + 1].parked);
    }
    unblock(1);
    job_pool_destroy(pool);
    for (int i = 0; i < 3; i++)
        assert_int_equal(order[i], i + 1);
}

/* -- many -- */

static void destroy_drains(void **state)
{
    struct job_pool *pool;
    (void)state;
    assert_int_equal(job_pool_create(2, OPERATIONS, &pool), TD_OK);
    block(pool, 2);
    for (int i = 0; i < 500; i++) {
        submit(pool, &operations[i], &operation_ops);
        parked_unref(&operations[i].parked);
    }
    unblock(2);
    job_pool_destroy(pool);
    for (int i = 0; i < 500; i++)
        assert_done(&operations[i]);
    job_pool_destroy(NULL);
}

static atomic_int submitted, cancelled;

/* Cancels at random, here and there in what has been submitted. */
static void *canceller(void *argument)
{
    unsigned random = (unsigned)*(int *)argument + 1;
    for (int until; (until = atomic_load(&submitted)) < OPERATIONS;) {
        random = random * 1664525 + 1013904223;
        if (until == 0)
            continue;
        int recent = (int)(random >> 8) % 16;
        struct operation *operation = &operations[until > recent ? until - 1 - recent : 0];
        if (parked_cancel(&operation->parked, TD_DEADLINE)) {
            atomic_fetch_add(&operation->decided, 1);
            atomic_fetch_add(&cancelled, 1);
        }
    }
    return NULL;
}

static void random_cancels(void **state)
{
    pthread_t threads[CANCELLERS];
    int self[CANCELLERS];
    struct job_pool *pool;
    (void)state;
    atomic_store(&submitted, 0);
    assert_int_equal(job_pool_create(THREADS, OPERATIONS, &pool), TD_OK);
    for (int i = 0; i < CANCELLERS; i++) {
        self[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, canceller, &self[i]), 0);
    }
    for (int i = 0; i < OPERATIONS; i++) {
        submit(pool, &operations[i], i < THREADS ? &gate_ops : &operation_ops);
        atomic_store(&submitted, i + 1);
        while (i == 100 && !atomic_load(&cancelled)) /* all threads have begun */
            sched_yield();
        if (i == 100)
            atomic_store(&gate_open, true);
    }
    for (int i = 0; i < CANCELLERS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < OPERATIONS; i++)
        parked_unref(&operations[i].parked);
    job_pool_destroy(pool);
    for (int i = 0; i < OPERATIONS; i++)
        assert_done(&operations[i]);
    assert_in_range(atomic_load(&cancelled), 1, OPERATIONS - 1);
}

#define TEST(name) cmocka_unit_test_setup(name, reset)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(cancelled_before_it_runs), TEST(cancelled_while_it_runs),
        TEST(cancel_comes_too_late),    TEST(queue_limit),
        TEST(first_come_first_served),  TEST(destroy_drains),
        TEST(random_cancels),
    };
    return cmocka_run_group_tests_name("parked_threads", tests, NULL, NULL);
}
