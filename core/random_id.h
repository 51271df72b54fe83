/* random_id: names that nobody can guess. */
#ifndef CORE_RANDOM_ID_H
#define CORE_RANDOM_ID_H

#include "core/fail.h"

#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>

/* `digits` (even, at most 64) random hexadecimal digits and NUL. */
NODISCARD static inline enum td_status random_id(size_t digits, char *out)
{
    unsigned char random[32];
    if (getrandom(random, digits / 2, 0) != (ssize_t)(digits / 2))
        return fail(TD_INTERNAL, "the kernel gave no random bytes");
    for (size_t i = 0; i < digits / 2; i++)
        snprintf(out + 2 * i, 3, "%02x", random[i]);
    return TD_OK;
}

#endif
