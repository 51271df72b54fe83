/* cast_path: which path is in use. */
#include "core/cast/cast.h"
#include "core/cast/cast_internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const struct cast_path *_Atomic cast_path_in_use;

static const struct cast_path *path_available(size_t index)
{
    for (const struct cast_path *const *path = cast_paths; *path; path++)
        if ((*path)->available() && index-- == 0)
            return *path;
    return NULL;
}

bool cast_path_set(const char *name)
{
    for (const struct cast_path *const *path = cast_paths; *path; path++)
        if (strcmp((*path)->name, name) == 0 && (*path)->available()) {
            atomic_store(&cast_path_in_use, *path);
            return true;
        }
    return false;
}

/* Threads that come here at once choose the same. */
static const struct cast_path *path_in_use(void)
{
    const struct cast_path *path = atomic_load_explicit(&cast_path_in_use, memory_order_relaxed);
    if (path)
        return path;
    const char *wanted = getenv("TENSORD_CAST_PATH");
    if (!wanted || !cast_path_set(wanted))
        atomic_store(&cast_path_in_use, path_available(0));
    return atomic_load(&cast_path_in_use);
}

const cast_kernels *cast_path_kernels(void)
{
    return path_in_use()->kernels;
}

const char *cast_path_name(void)
{
    return path_in_use()->name;
}

const char *cast_path_at(size_t index)
{
    const struct cast_path *path = path_available(index);
    return path ? path->name : NULL;
}
