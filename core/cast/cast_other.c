/* cast_other: the one path of machines other than x86-64. */
#include "core/cast/cast.h"
#include "core/cast/cast_internal.h"

#include <string.h>

static bool plain_available(void)
{
    return true;
}

static const struct cast_path plain = {"plain", plain_available, cast_kernels_plain};
const struct cast_path *const cast_paths[] = {&plain, NULL};

void cast_stream(void *restrict to, const void *restrict from, size_t size)
{
    memcpy(to, from, size);
}

void cast_stream_end(void)
{
}
