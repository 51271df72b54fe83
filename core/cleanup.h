/* cleanup: ownership that can be seen.
 *
 *     _cleanup_(tensor_unrefp) struct tensor *t = NULL;
 *     TRY(tensor_create(..., &t));
 *     return take(&t);       -- hands it over; the clean-up then sees NULL
 */
#ifndef CORE_CLEANUP_H
#define CORE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(function) __attribute__((cleanup(function)))

/* Defines function##p, which ends what the pointer points to and may be given to _cleanup_. */
#define CLEANUP_DEFINE(type, function)                                                             \
    static inline void function##p(type *pointer)                                                  \
    {                                                                                              \
        function(*pointer);                                                                        \
    }

static inline void *take_pointer_(void *slot)
{
    void *value = *(void **)slot;
    *(void **)slot = NULL;
    return value;
}
/* Empties a pointer variable and gives what it held. */
#define take(slot) ((__typeof__(*(slot)))take_pointer_(slot))

/* The same for a descriptor: leaves -1. */
static inline int take_fd(int *slot)
{
    int fd = *slot;
    *slot = -1;
    return fd;
}

static inline void freep(void *pointer)
{
    free(*(void **)pointer);
}

static inline void closep(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

#endif
