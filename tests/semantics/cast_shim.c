/* The door through which Python reaches the casts: any two dtypes, steps, flags and paths. Built,
 * with core, into a shared library whose path the tests read from TENSORD_CAST_LIB. */
#include "core/cast/cast.h"
#include "core/dtype_info.h"

void cast_run_packed(int from, int to, const void *src, void *dst, size_t count, unsigned flags);
void cast_run_steps(int from, int to, const void *src, ptrdiff_t src_step, void *dst,
                    ptrdiff_t dst_step, size_t count, unsigned flags);
const char *cast_path(size_t index);
int cast_use(const char *path);
int can_cast(int from, int to, int safely);

void cast_run_packed(int from, int to, const void *src, void *dst, size_t count, unsigned flags)
{
    cast_run_steps(from, to, src, (ptrdiff_t)td_dtype_size(from), dst, (ptrdiff_t)td_dtype_size(to),
                   count, flags);
}

void cast_run_steps(int from, int to, const void *src, ptrdiff_t src_step, void *dst,
                    ptrdiff_t dst_step, size_t count, unsigned flags)
{
    cast_elements((enum td_dtype)from, (enum td_dtype)to, src, src_step, dst, dst_step, count,
                  flags);
}

const char *cast_path(size_t index)
{
    return cast_path_at(index);
}

int cast_use(const char *path)
{
    return cast_path_set(path);
}

int can_cast(int from, int to, int safely)
{
    return safely ? dtype_can_cast_safely((enum td_dtype)from, (enum td_dtype)to)
                  : dtype_can_cast_same_kind((enum td_dtype)from, (enum td_dtype)to);
}
