/* Operations that make tensors out of numbers, and out of bytes that a client gave. */
#include "core/ops_internal.h"
#include "core/scalar_check.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/random.h>

static enum td_dtype dtype_or(const struct op_call *call, enum td_dtype otherwise)
{
    return FIELDS_HAS(call->in, dtype) ? call->in->dtype : otherwise;
}

/* Takes over the tensor and makes it the result. */
static enum td_status made(struct op_call *call, struct tensor **tensor)
{
    op_finish_new(call, *tensor, true);
    op_result_new(call, take(tensor));
    return TD_OK;
}

static enum td_status fill(struct tensor *tensor, const struct layout *layout,
                           const struct scalar *value)
{
    struct device *device = tensor->storage->device;
    return device->ops->fill(device, value, layout, &tensor->storage->memory);
}

enum td_status op_run_zeros(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    TRY(op_new_tensor(call->device, call->account, dtype_or(call, TD_FLOAT32), &call->in->shape,
                      true, &tensor));
    return made(call, &tensor);
}

enum td_status op_run_empty(struct op_call *call)
{
    return op_run_zeros(call); /* recycled memory would show what it held before */
}

static enum td_status make_full(struct op_call *call, enum td_dtype dtype,
                                const struct scalar *value)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    TRY(scalar_check(value, dtype));
    TRY(op_new_tensor(call->device, call->account, dtype, &call->in->shape, false, &tensor));
    TRY(fill(tensor, &tensor->layout, value));
    return made(call, &tensor);
}

enum td_status op_run_ones(struct op_call *call)
{
    struct scalar one = {.kind = SCALAR_INT, .i = 1};
    return make_full(call, dtype_or(call, TD_FLOAT32), &one);
}

enum td_status op_run_full(struct op_call *call)
{
    static const enum td_dtype natural[] = {
        [SCALAR_BOOL] = TD_BOOL,     [SCALAR_INT] = TD_INT64,         [SCALAR_UINT] = TD_UINT64,
        [SCALAR_FLOAT] = TD_FLOAT32, [SCALAR_COMPLEX] = TD_COMPLEX64,
    };
    const struct scalar *value = &call->in->value;
    return make_full(call, dtype_or(call, natural[value->kind]), value);
}

enum td_status op_run_eye(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    struct dims shape = call->in->shape;
    if (shape.rank == 1)
        shape = (struct dims){.rank = 2, .v = {shape.v[0], shape.v[0]}};
    if (shape.rank != 2)
        return fail(TD_BAD_SHAPE, "eye makes a matrix: its shape is [n] or [n, m], not of rank %d",
                    shape.rank);
    TRY(op_new_tensor(call->device, call->account, dtype_or(call, TD_FLOAT32), &shape, true,
                      &tensor));
    int64_t diagonal = shape.v[0] < shape.v[1] ? shape.v[0] : shape.v[1];
    struct scalar one = {.kind = SCALAR_INT, .i = 1};
    struct dims length = {.rank = 1, .v = {diagonal}}, stride = {.rank = 1, .v = {shape.v[1] + 1}};
    struct layout layout;
    TRY(layout_strided(tensor->layout.dtype, &length, &stride, 0, tensor->storage->size_bytes,
                       &layout));
    TRY(fill(tensor, &layout, &one));
    return made(call, &tensor);
}

/* The number of elements of arange over doubles, as PyTorch: ceil((end - start) / step). */
static enum td_status arange_count_double(const struct scalar *first, const struct scalar *last,
                                          const struct scalar *by, int64_t *count)
{
    double start, end, step;
    scalar_store(first, TD_FLOAT64, &start);
    scalar_store(last, TD_FLOAT64, &end);
    scalar_store(by, TD_FLOAT64, &step);
    if (step == 0 || isnan(step))
        return fail(TD_INVALID, "step must be nonzero");
    if (!isfinite(start) || !isfinite(end))
        return fail(TD_INVALID, "unsupported range: %g -> %g", start, end);
    if ((step > 0 && start > end) || (step < 0 && start < end))
        return fail(TD_INVALID, "upper bound and lower bound inconsistent with step sign");
    double n = ceil((end - start) / step);
    if (!(n < 0x1p62))
        return fail(TD_BAD_SHAPE, "arange from %g to %g by %g has too many elements", start, end,
                    step);
    *count = (int64_t)n;
    return TD_OK;
}

static enum td_status arange_count_int(const struct scalar *start, const struct scalar *end,
                                       const struct scalar *step, int64_t *count)
{
    __extension__ typedef __int128 wide;
    const struct scalar *const given[3] = {start, end, step};
    int64_t numbers[3];
    for (int i = 0; i < 3; i++) {
        if (given[i]->kind == SCALAR_UINT && given[i]->u > INT64_MAX)
            return fail(TD_INVALID, "arange counts in int64; %" PRIu64 " is over its range",
                        given[i]->u);
        scalar_store(given[i], TD_INT64, &numbers[i]);
    }
    wide distance = (wide)numbers[1] - numbers[0], by = numbers[2];
    if (by == 0)
        return fail(TD_INVALID, "step must be nonzero");
    if ((by > 0 && distance < 0) || (by < 0 && distance > 0))
        return fail(TD_INVALID, "upper bound and lower bound inconsistent with step sign");
    wide n = distance / by + (distance % by != 0);
    *count = n > INT64_MAX ? INT64_MAX : (int64_t)n;
    return TD_OK;
}

static void cut_to_integer(struct scalar *scalar)
{
    int64_t value;
    if (scalar->kind != SCALAR_FLOAT)
        return;
    scalar_store(scalar, TD_INT64, &value);
    *scalar = (struct scalar){.kind = SCALAR_INT, .i = value};
}

static enum td_status arange_count(const struct scalar *start, const struct scalar *end,
                                   const struct scalar *step, int64_t *count)
{
    if (start->kind == SCALAR_FLOAT || end->kind == SCALAR_FLOAT || step->kind == SCALAR_FLOAT)
        return arange_count_double(start, end, step, count);
    return arange_count_int(start, end, step, count);
}

enum td_status op_run_arange(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    const struct fields *in = call->in;
    struct scalar start = {.kind = SCALAR_INT}, step = {.kind = SCALAR_INT, .i = 1};
    if (FIELDS_HAS(in, start))
        start = in->start;
    if (FIELDS_HAS(in, step))
        step = in->step;
    if (start.kind == SCALAR_COMPLEX || step.kind == SCALAR_COMPLEX ||
        in->end.kind == SCALAR_COMPLEX)
        return fail(TD_INVALID, "arange counts real numbers, not complex ones");
    bool floating =
        start.kind == SCALAR_FLOAT || step.kind == SCALAR_FLOAT || in->end.kind == SCALAR_FLOAT;
    enum td_dtype dtype = dtype_or(call, floating ? TD_FLOAT32 : TD_INT64);
    struct scalar end = in->end;
    struct dims shape = {.rank = 1};
    if (dtype == TD_INT64) { /* as PyTorch: int64 also counts in integers */
        cut_to_integer(&start);
        cut_to_integer(&end);
        cut_to_integer(&step);
    }
    TRY(arange_count(&start, &end, &step, &shape.v[0]));
    if (!dtype_is_differentiable(dtype)) {
        cut_to_integer(&start);
        cut_to_integer(&step);
    }
    TRY(op_new_tensor(call->device, call->account, dtype, &shape, false, &tensor));
    TRY(call->device->ops->arange(call->device, &start, &step, &tensor->layout,
                                  &tensor->storage->memory));
    return made(call, &tensor);
}

/* The request's seed, or one that nobody knows yet; the reply tells it. */
static enum td_status random_spec_of(struct op_call *call, enum random_kind kind,
                                     struct random_spec *spec)
{
    memset(spec, 0, sizeof *spec);
    spec->kind = kind;
    spec->seed = call->in->seed;
    spec->counter = FIELDS_HAS(call->in, counter) ? call->in->counter : 0;
    if (!FIELDS_HAS(call->in, seed) &&
        getrandom(&spec->seed, sizeof spec->seed, 0) != (ssize_t)sizeof spec->seed)
        return fail(TD_INTERNAL, "the kernel gave no random bytes");
    FIELDS_SET(&call->out, seed, spec->seed);
    return TD_OK;
}

/* A complex tensor as twice as many real numbers. */
static struct layout real_layout(const struct layout *layout)
{
    struct layout real = *layout;
    if (dtype_infos[layout->dtype].kind == 'c') {
        real.dtype = layout->dtype == TD_COMPLEX64 ? TD_FLOAT32 : TD_FLOAT64;
        real.rank = 1;
        real.elements = real.shape[0] = 2 * layout->elements;
        real.strides[0] = 1;
    }
    return real;
}

static enum td_status make_random(struct op_call *call, enum td_dtype dtype,
                                  const struct random_spec *spec)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    struct device *device = call->device;
    TRY(op_new_tensor(device, call->account, dtype, &call->in->shape, false, &tensor));
    struct memory *memory = &tensor->storage->memory;
    struct layout real = real_layout(&tensor->layout);
    TRY(device->ops->random(device, spec, &real, memory));
    /* A complex normal number has variance 1, half of it in either part. */
    struct scalar half = {.kind = SCALAR_FLOAT, .f = M_SQRT1_2};
    if (spec->kind == RANDOM_NORMAL && dtype_infos[dtype].kind == 'c')
        TRY(device->ops->arithmetic(device, ARITHMETIC_MUL, &real, memory, &half, &real, memory));
    return made(call, &tensor);
}

static enum td_status make_random_floating(struct op_call *call, enum random_kind kind)
{
    struct random_spec spec;
    enum td_dtype dtype = dtype_or(call, TD_FLOAT32);
    if (!dtype_is_differentiable(dtype))
        return fail(TD_BAD_DTYPE, "%s makes floating point or complex numbers, not %s; use randint",
                    op_infos[call->op].name, td_dtype_name((int)dtype));
    TRY(random_spec_of(call, kind, &spec));
    return make_random(call, dtype, &spec);
}

enum td_status op_run_rand(struct op_call *call)
{
    return make_random_floating(call, RANDOM_UNIFORM);
}

enum td_status op_run_randn(struct op_call *call)
{
    return make_random_floating(call, RANDOM_NORMAL);
}

/* Random integers stay in [low, high) after the cast to an integer dtype. */
static enum td_status check_bound(const char *what, int64_t value, enum td_dtype dtype)
{
    _Alignas(16) unsigned char element[16];
    struct scalar scalar = {.kind = SCALAR_INT, .i = value};
    if (dtype_is_differentiable(dtype))
        return TD_OK;
    scalar_store(&scalar, dtype, element);
    struct scalar back = scalar_load(dtype, element);
    bool same = back.kind == SCALAR_BOOL   ? back.b == value
                : back.kind == SCALAR_UINT ? value >= 0 && back.u == (uint64_t)value
                                           : back.i == value;
    if (!same)
        return fail(TD_INVALID, "%s is out of bounds for %s", what, dtype_infos[dtype].name);
    return TD_OK;
}

enum td_status op_run_randint(struct op_call *call)
{
    struct random_spec spec;
    TRY(random_spec_of(call, RANDOM_INTEGER, &spec));
    spec.low = FIELDS_HAS(call->in, low) ? call->in->low : 0;
    spec.high = call->in->high;
    if (spec.low >= spec.high)
        return fail(TD_INVALID,
                    "random_ expects 'from' to be less than 'to', but got from=%" PRId64
                    " >= to=%" PRId64,
                    spec.low, spec.high);
    enum td_dtype dtype = dtype_or(call, TD_INT64);
    TRY(check_bound("from", spec.low, dtype));
    TRY(check_bound("to - 1", spec.high - 1, dtype));
    return make_random(call, dtype, &spec);
}

/* The body has arrived in its storage. */
static enum td_status from_body(struct op_call *call)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    TRY(tensor_create(call->body_in, &call->layout, &tensor));
    op_finish_new(call, tensor, call->op != OP_put);
    op_result(call, take(&tensor), call->local ? "heap" : "transport");
    return TD_OK;
}

enum td_status op_run_put(struct op_call *call)
{
    return from_body(call);
}

enum td_status op_run_tensor(struct op_call *call)
{
    return from_body(call);
}

static enum td_status from_descriptor(struct op_call *call)
{
    _cleanup_(storage_unrefp) struct storage *storage = NULL;
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    const struct fields *in = call->in;
    struct layout layout;
    TRY(layout_contiguous(in->dtype, &in->shape, &layout)); /* before anything is mapped */
    struct dims strides = {.rank = layout.rank};
    memcpy(strides.v, layout.strides, sizeof strides.v);
    TRY(storage_import(call->device, call->account, take_fd(&call->fd), &storage));
    if (storage_mode_of(storage) == STORAGE_BUILDING)
        return fail(TD_CONFLICT,
                    "this memory was allocated by the daemon and is not published yet: "
                    "publish it before others use it");
    TRY(layout_strided(in->dtype, &in->shape, FIELDS_HAS(in, strides) ? &in->strides : &strides,
                       FIELDS_HAS(in, offset_bytes) ? in->offset_bytes : 0, storage->size_bytes,
                       &layout));
    TRY(tensor_create(storage, &layout, &tensor));
    op_result(call, take(&tensor), NULL);
    return TD_OK;
}

enum td_status op_run_from_numpy(struct op_call *call)
{
    if (call->fd >= 0)
        return from_descriptor(call);
    if (FIELDS_HAS(call->in, require_shared) && call->in->require_shared)
        return fail(TD_UNSUPPORTED,
                    "the array's memory is not in a descriptor, so it cannot be shared; make it "
                    "with tensord.empty or inside tensord.allocator(), and use the Unix socket");
    return from_body(call);
}
