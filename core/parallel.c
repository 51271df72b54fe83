#include "core/parallel.h"

#include "core/cleanup.h"
#include "core/parked.h"

#include <pthread.h>

#define PARTS_PER_THREAD 4

/* Lives until the last helper has come, which may be long after the caller has gone: then no part
 * is left, and `argument` is not looked at. */
struct group {
    struct job_pool *pool;
    void (*part)(void *argument, int64_t i);
    void *argument;
    int64_t count;
    atomic_llong next; /* the first part that nobody has taken */
    pthread_mutex_t lock;
    pthread_cond_t all_done;
    int64_t done;
    atomic_uint refs; /* the caller's and the helpers' */
    struct helper {
        struct parked parked; /* first, so that the one is the other */
        struct group *group;
    } helpers[];
};

static void group_unref(struct group *group)
{
    if (atomic_fetch_sub(&group->refs, 1) != 1)
        return;
    pthread_cond_destroy(&group->all_done);
    pthread_mutex_destroy(&group->lock);
    free(group);
}

/* A helper leaves the rest to the caller when its thread is wanted for something else. */
static void take_parts(struct group *group, bool helps)
{
    int64_t own = 0;
    while (!helps || !job_pool_is_short(group->pool)) {
        int64_t i = atomic_fetch_add(&group->next, 1);
        if (i >= group->count)
            break;
        group->part(group->argument, i);
        own++;
    }
    if (own == 0)
        return;
    pthread_mutex_lock(&group->lock);
    group->done += own;
    if (group->done == group->count)
        pthread_cond_signal(&group->all_done);
    pthread_mutex_unlock(&group->lock);
}

static enum td_status helper_run(struct parked *parked)
{
    take_parts(((struct helper *)parked)->group, true);
    return TD_OK;
}

static void helper_complete(struct parked *parked, enum td_status status)
{
    (void)parked;
    (void)status;
}

static void helper_destroy(struct parked *parked)
{
    group_unref(((struct helper *)parked)->group);
}

static const struct parked_ops helper_ops = {helper_run, helper_complete, helper_destroy};

static void call_helpers(struct group *group, int64_t helpers)
{
    for (int64_t i = 0; i < helpers; i++) {
        struct helper *helper = &group->helpers[i];
        helper->group = group;
        atomic_fetch_add(&group->refs, 1);
        if (parked_submit(group->pool, &helper->parked, &helper_ops, PARKED_IN_TURN) != TD_OK) {
            group_unref(group); /* nobody is idle any more */
            return;
        }
        parked_unref(&helper->parked);
    }
}

int64_t parallel_parts(struct job_pool *pool, int64_t bytes)
{
    int64_t threads = pool ? 1 + (int64_t)job_pool_idle(pool) : 1;
    int64_t most = bytes / PARALLEL_PART_BYTES;
    if (threads == 1 || most < 2)
        return 1;
    return most < threads * PARTS_PER_THREAD ? most : threads * PARTS_PER_THREAD;
}

void parallel_for(struct job_pool *pool, int64_t count, void (*part)(void *argument, int64_t i),
                  void *argument)
{
    int64_t helpers = pool && count > 1 ? (int64_t)job_pool_idle(pool) : 0;
    if (helpers > count - 1)
        helpers = count - 1;
    struct group *group = NULL;
    if (helpers > 0)
        group = calloc(1, sizeof *group + (size_t)helpers * sizeof group->helpers[0]);
    if (!group) {
        for (int64_t i = 0; i < count; i++)
            part(argument, i);
        return;
    }
    group->pool = pool;
    group->part = part;
    group->argument = argument;
    group->count = count;
    atomic_store(&group->refs, 1);
    pthread_mutex_init(&group->lock, NULL);
    pthread_cond_init(&group->all_done, NULL);
    call_helpers(group, helpers);
    take_parts(group, false);
    pthread_mutex_lock(&group->lock);
    while (group->done < count)
        pthread_cond_wait(&group->all_done, &group->lock);
    pthread_mutex_unlock(&group->lock);
    group_unref(group);
}
