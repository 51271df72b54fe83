#include "core/parked.h"

#include "core/cleanup.h"

#include <pthread.h>

enum parked_state { PARKED_OPEN, PARKED_COMMITTED, PARKED_COMPLETED };

struct job_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct parked *first, **last;
    unsigned queued, max_queued, waiting;
    bool stopping;
    unsigned threads;
    pthread_t ids[];
};

void parked_unref(struct parked *parked)
{
    if (parked && atomic_fetch_sub(&parked->refs, 1) == 1)
        parked->ops->destroy(parked);
}

bool parked_cancel(struct parked *parked, enum td_status status)
{
    int open = PARKED_OPEN;
    if (!atomic_compare_exchange_strong(&parked->state, &open, PARKED_COMPLETED))
        return false;
    parked->ops->complete(parked, status);
    return true;
}

enum td_status parked_commit(struct parked *parked)
{
    int open = PARKED_OPEN;
    if (!atomic_compare_exchange_strong(&parked->state, &open, PARKED_COMMITTED))
        return fail(TD_CANCELLED, "the request was cancelled");
    return TD_OK;
}

static void parked_run(struct parked *parked)
{
    if (atomic_load(&parked->state) == PARKED_OPEN) {
        enum td_status status = parked->ops->run(parked);
        /* Committed or still open: this thread completes it. Completed: a cancel did. */
        if (atomic_exchange(&parked->state, PARKED_COMPLETED) != PARKED_COMPLETED)
            parked->ops->complete(parked, status);
    }
    parked_unref(parked);
}

static struct parked *pool_next(struct job_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->waiting++;
    while (!pool->first && !pool->stopping)
        pthread_cond_wait(&pool->wake, &pool->lock);
    pool->waiting--;
    struct parked *parked = pool->first;
    if (parked) {
        pool->first = parked->next;
        if (!pool->first)
            pool->last = &pool->first;
        pool->queued--;
    }
    pthread_mutex_unlock(&pool->lock);
    return parked;
}

static void *pool_thread(void *argument)
{
    struct job_pool *pool = argument;
    for (struct parked *parked; (parked = pool_next(pool));)
        parked_run(parked);
    return NULL;
}

enum td_status job_pool_create(unsigned threads, unsigned max_queued, struct job_pool **out)
{
    struct job_pool *pool = calloc(1, sizeof *pool + threads * sizeof pool->ids[0]);
    if (!pool)
        return fail(TD_OUT_OF_MEMORY, "no memory for the job pool");
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->last = &pool->first;
    pool->max_queued = max_queued;
    for (; pool->threads < threads; pool->threads++)
        if (pthread_create(&pool->ids[pool->threads], NULL, pool_thread, pool) != 0) {
            job_pool_destroy(pool);
            return fail(TD_OUT_OF_MEMORY, "cannot start %u job threads", threads);
        }
    *out = pool;
    return TD_OK;
}

void job_pool_destroy(struct job_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->threads; i++)
        pthread_join(pool->ids[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

unsigned job_pool_idle(struct job_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    unsigned idle = pool->waiting > pool->queued ? pool->waiting - pool->queued : 0;
    pthread_mutex_unlock(&pool->lock);
    return idle;
}

bool job_pool_is_short(struct job_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    bool is_short = pool->queued > pool->waiting;
    pthread_mutex_unlock(&pool->lock);
    return is_short;
}

enum td_status parked_submit(struct job_pool *pool, struct parked *parked,
                             const struct parked_ops *ops, enum parked_urgency urgency)
{
    parked->ops = ops;
    parked->next = NULL;
    atomic_store(&parked->state, PARKED_OPEN);
    atomic_store(&parked->refs, 2);
    pthread_mutex_lock(&pool->lock);
    bool fits = pool->queued < pool->max_queued || urgency == PARKED_ONWARD;
    bool room = fits && !pool->stopping;
    if (room) {
        struct parked **place = urgency == PARKED_AHEAD ? &pool->first : pool->last;
        parked->next = *place;
        *place = parked;
        if (!parked->next)
            pool->last = &parked->next;
        pool->queued++;
        pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
    return room ? TD_OK
                : fail(TD_UNAVAILABLE,
                       "%u operations are waiting for a job thread; try again "
                       "later, or raise --max-queued",
                       pool->max_queued);
}
