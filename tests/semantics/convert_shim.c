/* core/convert.h for ctypes. A layout travels as one array of int64_t: offset in bytes, dtype, rank,
 * then the sizes, then the strides in elements. */
#include "core/convert.h"

int convert_shim_rank_max(void);
int convert_shim_plan(const int64_t *src, const int64_t *dst, int64_t *out);
void convert_shim_run(const int64_t *src, const void *in, const int64_t *dst, void *out,
                      int saturate, int64_t parts);

int convert_shim_rank_max(void)
{
    return RANK_MAX;
}

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

/* The sizes of the plan's dimensions in `out`; the way is added to a hundred times the rank. */
int convert_shim_plan(const int64_t *src, const int64_t *dst, int64_t *out)
{
    struct layout from = unpack(src), to = unpack(dst);
    struct convert_plan plan;
    convert_plan(&from, &to, 0, &plan);
    for (int d = 0; d < plan.rank; d++)
        out[d] = plan.sizes[d];
    return 100 * plan.rank + (int)plan.way;
}

void convert_shim_run(const int64_t *src, const void *in, const int64_t *dst, void *out,
                      int saturate, int64_t parts)
{
    struct layout from = unpack(src), to = unpack(dst);
    struct convert_plan plan, part;
    convert_plan(&from, &to, saturate ? CAST_SATURATE : 0, &plan);
    for (int64_t i = 0; i < parts; i++) {
        convert_part(&plan, i, parts, &part);
        convert_run(&part, in, out);
    }
}
