/* waiter: who waits for what another thread will do.
 *
 * Whoever has something to wait for keeps a list of waiters under a lock of its own; all of this is
 * called with that lock. A waiter is woken once: it leaves the list with that, and looks for itself
 * whether what it waits for has come. First come, first woken. One that was woken and gives up
 * passes that on: it calls waiter_wake_one.
 */
#ifndef CORE_WAITER_H
#define CORE_WAITER_H

#include <stdbool.h>
#include <stddef.h>

struct waiter {
    /* From any thread, with the list's lock: only signals, takes no lock under which that one is
     * taken. Set by who waits. */
    void (*wake)(struct waiter *waiter);
    struct waiter *next, **link; /* link NULL: in no list */
    bool woken;                  /* since it was added last */
};

struct waiter_list {
    struct waiter *first, **last; /* last NULL: nobody ever waited */
};

static inline bool waiter_waits(const struct waiter *waiter)
{
    return waiter->link != NULL;
}

static inline void waiter_add(struct waiter_list *list, struct waiter *waiter)
{
    if (!list->first)
        list->last = &list->first;
    waiter->woken = false;
    waiter->next = NULL;
    waiter->link = list->last;
    *list->last = waiter;
    list->last = &waiter->next;
}

/* Adds one that may have waited before: if it was woken, and somebody else was faster, it goes
 * ahead of all others. */
static inline void waiter_add_again(struct waiter_list *list, struct waiter *waiter)
{
    if (!waiter->woken || !list->first) {
        waiter_add(list, waiter);
        return;
    }
    waiter->woken = false;
    waiter->next = list->first;
    waiter->link = &list->first;
    waiter->next->link = &waiter->next;
    list->first = waiter;
}

/* No wake follows. Nothing happens to one that is in no list. */
static inline void waiter_remove(struct waiter_list *list, struct waiter *waiter)
{
    if (!waiter->link)
        return;
    *waiter->link = waiter->next;
    if (waiter->next)
        waiter->next->link = waiter->link;
    else
        list->last = waiter->link;
    waiter->link = NULL;
}

/* Wakes the one that has waited longest; false if there is none. */
static inline bool waiter_wake_one(struct waiter_list *list)
{
    struct waiter *waiter = list->first;
    if (!waiter)
        return false;
    waiter_remove(list, waiter);
    waiter->woken = true;
    waiter->wake(waiter);
    return true;
}

static inline void waiter_wake_all(struct waiter_list *list)
{
    while (waiter_wake_one(list))
        ;
}

#endif
