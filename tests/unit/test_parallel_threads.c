/* parallel: every part is done once, before parallel_for returns, whoever helps. For the thread
 * sanitizer. */
#include "core/convert.h"
#include "core/parallel.h"
#include "core/parked.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define THREADS 3
#define PARTS 64
#define ROUNDS 300

/* Plain numbers: a part that is done twice at a time, or after the end, is a race. */
struct sheet {
    int done[PARTS];
};

static void mark(void *argument, int64_t i)
{
    struct sheet *sheet = argument;
    if (i % 5 == 0)
        sched_yield();
    sheet->done[i]++;
}

static void run_sheet(struct job_pool *pool, int64_t parts)
{
    struct sheet sheet = {{0}};
    parallel_for(pool, parts, mark, &sheet);
    for (int64_t i = 0; i < PARTS; i++)
        assert_int_equal(sheet.done[i], i < parts);
}

static void every_part_is_done_once(void **state)
{
    struct job_pool *pool;
    (void)state;
    assert_int_equal(job_pool_create(THREADS, 100, &pool), TD_OK);
    for (int64_t round = 0; round < ROUNDS; round++)
        run_sheet(pool, round % (PARTS + 1));
    job_pool_destroy(pool);
}

static void without_a_pool_the_caller_does_all(void **state)
{
    (void)state;
    run_sheet(NULL, PARTS);
    assert_int_equal(parallel_parts(NULL, INT64_MAX), 1);
}

/* ---- threads of the pool that call it ---- */

struct inside {
    struct parked parked;
    struct job_pool *pool;
};

static atomic_int begun, ended, let_go;

static enum td_status inside_run(struct parked *parked)
{
    struct inside *inside = (struct inside *)parked;
    atomic_fetch_add(&begun, 1);
    for (int64_t round = 0; round < ROUNDS; round++)
        run_sheet(inside->pool, 1 + round % PARTS);
    return TD_OK;
}

/* Holds its thread until it is let go. */
static enum td_status busy_run(struct parked *parked)
{
    (void)parked;
    atomic_fetch_add(&begun, 1);
    while (!atomic_load(&let_go))
        sched_yield();
    return TD_OK;
}

static void inside_complete(struct parked *parked, enum td_status status)
{
    (void)parked;
    assert_int_equal(status, TD_OK);
    atomic_fetch_add(&ended, 1);
}

static void inside_destroy(struct parked *parked)
{
    (void)parked;
}

static const struct parked_ops inside_ops = {inside_run, inside_complete, inside_destroy};
static const struct parked_ops busy_ops = {busy_run, inside_complete, inside_destroy};

static void submit(struct job_pool *pool, struct inside *inside, const struct parked_ops *ops)
{
    inside->pool = pool;
    assert_int_equal(parked_submit(pool, &inside->parked, ops, PARKED_IN_TURN), TD_OK);
    parked_unref(&inside->parked);
}

static void a_pool_whose_threads_all_call_it_goes_on(void **state)
{
    struct job_pool *pool;
    struct inside inside[2 * THREADS];
    (void)state;
    atomic_store(&ended, 0);
    assert_int_equal(job_pool_create(THREADS, 100, &pool), TD_OK);
    for (int i = 0; i < 2 * THREADS; i++)
        submit(pool, &inside[i], &inside_ops);
    for (int64_t round = 0; round < ROUNDS; round++)
        run_sheet(pool, PARTS); /* and from outside */
    job_pool_destroy(pool);
    assert_int_equal(atomic_load(&ended), 2 * THREADS);
}

static void a_busy_pool_is_not_waited_for(void **state)
{
    struct job_pool *pool;
    struct inside busy[THREADS];
    (void)state;
    atomic_store(&begun, 0);
    atomic_store(&let_go, 0);
    assert_int_equal(job_pool_create(THREADS, 100, &pool), TD_OK);
    for (int i = 0; i < THREADS; i++)
        submit(pool, &busy[i], &busy_ops);
    while (atomic_load(&begun) < THREADS)
        sched_yield();
    assert_int_equal(job_pool_idle(pool), 0);
    assert_int_equal(parallel_parts(pool, INT64_MAX), 1);
    run_sheet(pool, PARTS);
    atomic_store(&let_go, 1);
    job_pool_destroy(pool);
}

/* ---- others who want the thread ---- */

static pthread_t caller;
static struct inside other;
static int64_t helped;

static enum td_status other_run(struct parked *parked)
{
    (void)parked;
    atomic_fetch_add(&begun, 1);
    return TD_OK;
}

static const struct parked_ops other_ops = {other_run, inside_complete, inside_destroy};

/* The one thread of the pool queues a job, for which the caller waits. */
static void queue_or_wait(void *argument, int64_t i)
{
    (void)i;
    if (pthread_equal(pthread_self(), caller))
        while (!atomic_load(&begun))
            sched_yield();
    else if (helped++ == 0)
        submit(argument, &other, &other_ops);
}

static void what_is_queued_meanwhile_does_not_wait_for_the_end(void **state)
{
    struct job_pool *pool;
    (void)state;
    atomic_store(&begun, 0);
    caller = pthread_self();
    helped = 0;
    assert_int_equal(job_pool_create(1, 100, &pool), TD_OK);
    while (job_pool_idle(pool) < 1)
        sched_yield();
    parallel_for(pool, PARTS, queue_or_wait, pool);
    job_pool_destroy(pool);
    assert_int_equal(helped, 1);
    assert_int_equal(atomic_load(&begun), 1);
}

/* ---- and what it is for ---- */

static void large_tensors_are_converted_in_parts(void **state)
{
    enum { ROWS = 1500, COLUMNS = 1100 };
    struct layout src = {.dtype = TD_FLOAT32, .rank = 2, .elements = ROWS * COLUMNS};
    struct layout dst = {.dtype = TD_FLOAT64, .rank = 2, .elements = ROWS * COLUMNS};
    struct job_pool *pool;
    (void)state;
    src.shape[0] = dst.shape[0] = COLUMNS;
    src.shape[1] = dst.shape[1] = ROWS;
    src.strides[0] = 1;
    src.strides[1] = COLUMNS;
    dst.strides[0] = ROWS;
    dst.strides[1] = 1;
    float *in = malloc(ROWS * COLUMNS * sizeof *in);
    double *out = malloc(ROWS * COLUMNS * sizeof *out);
    for (int i = 0; i < ROWS * COLUMNS; i++)
        in[i] = (float)i;
    assert_int_equal(job_pool_create(THREADS, 100, &pool), TD_OK);
    while (job_pool_idle(pool) < THREADS)
        sched_yield();
    assert_true(parallel_parts(pool, ROWS * COLUMNS * 12) > 1);
    for (int round = 0; round < 3; round++) {
        memset(out, 0, ROWS * COLUMNS * sizeof *out);
        convert(pool, &src, in, &dst, out, false);
        for (int i = 0; i < ROWS * COLUMNS; i++)
            if (out[i] != in[i % ROWS * COLUMNS + i / ROWS])
                fail_msg("element %d is %f", i, out[i]);
    }
    job_pool_destroy(pool);
    free(in);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_is_done_once),
        cmocka_unit_test(without_a_pool_the_caller_does_all),
        cmocka_unit_test(a_pool_whose_threads_all_call_it_goes_on),
        cmocka_unit_test(a_busy_pool_is_not_waited_for),
        cmocka_unit_test(what_is_queued_meanwhile_does_not_wait_for_the_end),
        cmocka_unit_test(large_tensors_are_converted_in_parts),
    };
    return cmocka_run_group_tests_name("parallel", tests, NULL, NULL);
}
