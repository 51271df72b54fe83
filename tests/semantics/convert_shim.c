/* core/convert.h for ctypes. A layout travels as one array of int64_t: offset in bytes, dtype,
 * rank, then the sizes, then the strides in elements. */
#include "core/convert.h"
#include "core/parked.h"

int convert_shim_threads(unsigned threads);
void convert_shim_all(const int64_t *src, const void *in, const int64_t *dst, void *out);
void convert_shim_run(const int64_t *src, const void *in, const int64_t *dst, void *out, int flags,
                      int64_t parts);

static struct layout unpack(const int64_t *in)
{
    struct layout layout = {.offset_bytes = in[0], .dtype = (enum td_dtype)in[1]};
    layout.rank = (int)in[2];
    layout.elements = 1;
    for (int d = 0; d < layout.rank; d++) {
        layout.shape[d] = in[3 + d];
        layout.strides[d] = in[3 + layout.rank + d];
        layout.elements *= layout.shape[d];
    }
    return layout;
}

/* From now on convert_shim_all has so many threads, the caller's own among them. For the process's
 * life. */
static struct job_pool *pool;

int convert_shim_threads(unsigned threads)
{
    job_pool_destroy(pool);
    pool = NULL;
    return threads > 1 ? (int)job_pool_create(threads - 1, 64, &pool) : 0;
}

void convert_shim_all(const int64_t *src, const void *in, const int64_t *dst, void *out)
{
    struct layout from = unpack(src), to = unpack(dst);
    convert(pool, &from, in, &to, out, false);
}

/* In `parts` parts, one after the other. flags: of enum cast_flag, whatever the size. */
void convert_shim_run(const int64_t *src, const void *in, const int64_t *dst, void *out, int flags,
                      int64_t parts)
{
    struct layout from = unpack(src), to = unpack(dst);
    struct convert_plan plan, part;
    convert_plan(&from, &to, (unsigned)flags, &plan);
    for (int64_t i = 0; i < parts; i++) {
        convert_part(&plan, i, parts, &part);
        convert_run(&part, in, out);
    }
}
