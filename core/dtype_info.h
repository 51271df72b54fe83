/* dtype_info: what the rest of the tree asks about a dtype, beyond its public name and size. */
#ifndef CORE_DTYPE_INFO_H
#define CORE_DTYPE_INFO_H

#include "core/dtype.h"

#include <stdbool.h>

struct dtype_info {
    const char *name;        /* PyTorch's */
    size_t size_bytes;       /* of one element */
    char kind;               /* b u i f c, see TD_DTYPES */
    const char *numpy;       /* NumPy type string */
    const char *safetensors; /* "" where safetensors has none */
    int dlpack_code;
};

/* Indexed by enum td_dtype; row 0 is TD_DTYPE_NONE. */
extern const struct dtype_info dtype_infos[TD_DTYPE_END];

static inline bool dtype_valid(int dtype)
{
    return dtype > TD_DTYPE_NONE && dtype < TD_DTYPE_END;
}

/* Floating or complex: what PyTorch lets require gradients. */
static inline bool dtype_is_differentiable(enum td_dtype dtype)
{
    return dtype_infos[dtype].kind == 'f' || dtype_infos[dtype].kind == 'c';
}

/* NumPy's can_cast for the 17 dtypes: "safe" loses nothing, "same_kind" stays within a kind or goes
 * up bool < unsigned < signed < floating < complex. */
bool dtype_can_cast_safely(enum td_dtype from, enum td_dtype to);
bool dtype_can_cast_same_kind(enum td_dtype from, enum td_dtype to);

#endif
