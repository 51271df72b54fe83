/* The cpu device: host memory. Copies, casts and fills are core/convert's. */
#include "core/cast/cast.h"
#include "core/cleanup.h"
#include "core/convert.h"
#include "core/parallel.h"
#include "core/philox.h"
#include "core/segment.h"

#include <string.h>

/* Elements that generators and arithmetic handle at a time, in a buffer that fits the cache. */
#define CHUNK 512

static enum td_status cpu_alloc(struct device *device, size_t size, bool clear, struct memory *out)
{
    return segment_alloc(device->state, size, clear, out);
}

static void cpu_free(struct device *device, struct memory *memory)
{
    segment_free(device->state, memory);
}

static enum td_status cpu_share(struct device *device, struct memory *memory,
                                enum storage_mode mode, bool write, int *fd)
{
    TRY(segment_promote(device->state, memory));
    TRY(segment_seal(memory, mode));
    *fd = write ? memory->fd : memory->read_fd;
    return TD_OK;
}

static enum td_status cpu_import(struct device *device, int fd, struct memory *out)
{
    return segment_import(device->state, fd, out);
}

static enum td_status cpu_upload(struct device *device, struct memory *memory, uint64_t offset,
                                 const void *from, size_t size)
{
    (void)device;
    memcpy(memory->data + offset, from, size);
    return TD_OK;
}

static enum td_status cpu_download(struct device *device, const struct memory *memory,
                                   uint64_t offset, void *to, size_t size)
{
    (void)device;
    memcpy(to, memory->data + offset, size);
    return TD_OK;
}

static enum td_status cpu_convert(struct device *device, const struct layout *src,
                                  const struct memory *src_memory, const struct layout *dst,
                                  struct memory *dst_memory, bool saturate)
{
    convert(device->jobs, src, src_memory->data, dst, dst_memory->data, saturate);
    return TD_OK;
}

/* One element, expanded. */
static enum td_status cpu_fill(struct device *device, const struct scalar *value,
                               const struct layout *dst, struct memory *memory)
{
    _Alignas(16) unsigned char element[16];
    struct layout src = *dst;
    src.offset_bytes = 0;
    memset(src.strides, 0, sizeof src.strides);
    scalar_store(value, dst->dtype, element);
    convert(device->jobs, &src, element, dst, memory->data, false);
    return TD_OK;
}

/* Fills `count` elements of `dtype` (what it makes) from element number `first` on. */
typedef void (*chunk_fn)(const void *spec, enum td_dtype dtype, int64_t first, size_t count,
                         void *out);

/* A contiguous tensor that is made in `dtype`, and cast to its own. */
struct generator {
    chunk_fn make;
    const void *spec;
    enum td_dtype dtype;
    const struct layout *dst;
    unsigned char *to;
    int64_t parts;
};

/* Chunk by chunk. */
static void generate_part(void *argument, int64_t part)
{
    const struct generator *g = argument;
    _Alignas(16) unsigned char buffer[CHUNK * 16];
    ptrdiff_t size = (ptrdiff_t)dtype_infos[g->dst->dtype].size_bytes;
    int64_t chunks = (g->dst->elements + CHUNK - 1) / CHUNK;
    for (int64_t i = chunks * part / g->parts; i < chunks * (part + 1) / g->parts; i++) {
        int64_t first = i * CHUNK, left = g->dst->elements - first;
        size_t count = left < CHUNK ? (size_t)left : CHUNK;
        g->make(g->spec, g->dtype, first, count, buffer);
        cast_elements(g->dtype, g->dst->dtype, buffer, (ptrdiff_t)dtype_infos[g->dtype].size_bytes,
                      g->to + first * size, size, count, 0);
    }
}

static void generate(struct device *device, chunk_fn make, const void *spec, enum td_dtype dtype,
                     const struct layout *dst, struct memory *memory)
{
    struct generator g = {make, spec, dtype, dst, memory->data + dst->offset_bytes, 0};
    g.parts = parallel_parts(device->jobs, layout_nbytes(dst));
    parallel_for(device->jobs, g.parts, generate_part, &g);
}

struct arange_spec {
    int64_t int_start, int_step;
    double start, step;
};

static void arange_chunk(const void *argument, enum td_dtype dtype, int64_t first, size_t count,
                         void *out)
{
    const struct arange_spec *spec = argument;
    for (size_t i = 0; i < count; i++) {
        uint64_t index = (uint64_t)first + i;
        if (dtype == TD_INT64)
            ((int64_t *)out)[i] =
                (int64_t)((uint64_t)spec->int_start + index * (uint64_t)spec->int_step);
        else
            ((double *)out)[i] = spec->start + (double)index * spec->step;
    }
}

static enum td_status cpu_arange(struct device *device, const struct scalar *start,
                                 const struct scalar *step, const struct layout *dst,
                                 struct memory *memory)
{
    struct arange_spec spec;
    scalar_store(start, TD_INT64, &spec.int_start);
    scalar_store(step, TD_INT64, &spec.int_step);
    scalar_store(start, TD_FLOAT64, &spec.start);
    scalar_store(step, TD_FLOAT64, &spec.step);
    bool floating = start->kind == SCALAR_FLOAT || step->kind == SCALAR_FLOAT;
    generate(device, arange_chunk, &spec, floating ? TD_FLOAT64 : TD_INT64, dst, memory);
    return TD_OK;
}

/* Random bits of a uniform number: as many as the significand has, so that none rounds up to 1. */
static unsigned uniform_bits(enum td_dtype dtype)
{
    switch (dtype) {
    case TD_FLOAT16:
        return 11;
    case TD_BFLOAT16:
        return 8;
    case TD_FLOAT8_E4M3FN:
        return 4;
    case TD_FLOAT8_E5M2:
        return 3;
    default:
        return 24;
    }
}

struct random_chunk_spec {
    const struct random_spec *spec;
    unsigned bits;
};

static void random_chunk(const void *argument, enum td_dtype dtype, int64_t first, size_t count,
                         void *out)
{
    const struct random_chunk_spec *chunk = argument;
    const struct random_spec *spec = chunk->spec;
    uint64_t seed = spec->seed, counter = spec->counter, from = (uint64_t)first;
    if (spec->kind == RANDOM_INTEGER)
        philox_fill_randint(seed, counter, from, count, spec->low, spec->high, out);
    else if (spec->kind == RANDOM_NORMAL)
        philox_fill_normal(seed, counter, from, count, out);
    else if (dtype == TD_FLOAT64)
        philox_fill_uniform_double(seed, counter, from, count, out);
    else
        philox_fill_uniform_bits(seed, counter, from, count, chunk->bits, out);
}

static enum td_status cpu_random(struct device *device, const struct random_spec *spec,
                                 const struct layout *dst, struct memory *memory)
{
    struct random_chunk_spec chunk = {spec, uniform_bits(dst->dtype)};
    enum td_dtype dtype = spec->kind == RANDOM_INTEGER  ? TD_INT64
                          : spec->kind == RANDOM_NORMAL ? TD_FLOAT64
                          : dst->dtype == TD_FLOAT64    ? TD_FLOAT64
                                                        : TD_FLOAT32;
    generate(device, random_chunk, &chunk, dtype, dst, memory);
    return TD_OK;
}

/* What PyTorch computes in: float for the 16- and 8-bit types, wrapping 64-bit integers for the
 * rest (bool: any sum or product that is not 0 is true). */
static enum td_dtype compute_dtype(enum td_dtype dtype)
{
    if (dtype == TD_FLOAT64 || dtype == TD_COMPLEX64 || dtype == TD_COMPLEX128)
        return dtype;
    return dtype_infos[dtype].kind == 'f' ? TD_FLOAT32 : TD_UINT64;
}

#define REAL_LOOP(type, name)                                                                      \
    static void name(enum arithmetic op, void *data, const void *value, size_t count)              \
    {                                                                                              \
        type *x = data, y = *(const type *)value;                                                  \
        for (size_t i = 0; i < count; i++)                                                         \
            x[i] = op == ARITHMETIC_MUL ? x[i] * y : x[i] + y;                                     \
    }
#define COMPLEX_LOOP(type, name)                                                                   \
    static void name(enum arithmetic op, void *data, const void *value, size_t count)              \
    {                                                                                              \
        type *x = data;                                                                            \
        const type *y = value;                                                                     \
        for (size_t i = 0; i < 2 * count; i += 2) {                                                \
            type re = x[i], im = x[i + 1];                                                         \
            x[i] = op == ARITHMETIC_MUL ? re * y[0] - im * y[1] : re + y[0];                       \
            x[i + 1] = op == ARITHMETIC_MUL ? re * y[1] + im * y[0] : im + y[1];                   \
        }                                                                                          \
    }
REAL_LOOP(uint64_t, arithmetic_integer)
REAL_LOOP(float, arithmetic_float)
REAL_LOOP(double, arithmetic_double)
COMPLEX_LOOP(float, arithmetic_complex64)
COMPLEX_LOOP(double, arithmetic_complex128)

static void arithmetic_run(enum td_dtype compute, enum arithmetic op, void *data, const void *value,
                           size_t count)
{
    switch (compute) {
    case TD_FLOAT32:
        arithmetic_float(op, data, value, count);
        break;
    case TD_FLOAT64:
        arithmetic_double(op, data, value, count);
        break;
    case TD_COMPLEX64:
        arithmetic_complex64(op, data, value, count);
        break;
    case TD_COMPLEX128:
        arithmetic_complex128(op, data, value, count);
        break;
    default:
        arithmetic_integer(op, data, value, count);
    }
}

struct arithmetic_row {
    enum arithmetic op;
    enum td_dtype from, compute, to;
    _Alignas(16) unsigned char value[16];
};

static void arithmetic_row_run(const struct arithmetic_row *row, const unsigned char *from,
                               ptrdiff_t from_step, unsigned char *to, ptrdiff_t to_step,
                               int64_t count)
{
    _Alignas(16) unsigned char buffer[CHUNK * 16];
    ptrdiff_t size = (ptrdiff_t)dtype_infos[row->compute].size_bytes;
    for (int64_t first = 0; first < count; first += CHUNK) {
        size_t n = count - first < CHUNK ? (size_t)(count - first) : CHUNK;
        cast_elements(row->from, row->compute, from + first * from_step, from_step, buffer, size, n,
                      0);
        arithmetic_run(row->compute, row->op, buffer, row->value, n);
        cast_elements(row->compute, row->to, buffer, size, to + first * to_step, to_step, n, 0);
    }
}

static enum td_status cpu_arithmetic(struct device *device, enum arithmetic op,
                                     const struct layout *src, const struct memory *src_memory,
                                     const struct scalar *value, const struct layout *dst,
                                     struct memory *dst_memory)
{
    (void)device;
    const struct layout *layouts[2] = {src, dst};
    int64_t steps[2][RANK_MAX], row_steps[2], counters[RANK_MAX] = {0};
    int64_t offsets[2] = {src->offset_bytes, dst->offset_bytes};
    struct layout_rows rows;
    struct arithmetic_row row = {
        .op = op,
        .from = src->dtype,
        .compute = compute_dtype(dst->dtype),
        .to = dst->dtype,
    };
    scalar_store(value, row.compute, row.value);
    layout_rows(layouts, 2, &rows, steps, row_steps);
    const unsigned char *from = src_memory->data;
    unsigned char *to = dst_memory->data;
    if (rows.rows > 0)
        do
            arithmetic_row_run(&row, from + offsets[0], row_steps[0], to + offsets[1], row_steps[1],
                               rows.count);
        while (layout_rows_next(&rows, counters, steps, 2, offsets));
    return TD_OK;
}

static const struct device_ops cpu_ops = {
    .alloc = cpu_alloc,
    .free = cpu_free,
    .share = cpu_share,
    .import = cpu_import,
    .upload = cpu_upload,
    .download = cpu_download,
    .convert = cpu_convert,
    .fill = cpu_fill,
    .arange = cpu_arange,
    .random = cpu_random,
    .arithmetic = cpu_arithmetic,
};

enum td_status device_cpu_open(const struct device_options *options, struct device **out)
{
    struct device *device = calloc(1, sizeof *device);
    if (!device)
        return fail(TD_OUT_OF_MEMORY, "no memory for the cpu device");
    struct segment_pool *pool = NULL;
    enum td_status status = segment_pool_create(options, &pool);
    if (status != TD_OK) {
        free(device);
        return status;
    }
    memcpy(device->name, "cpu", sizeof "cpu");
    device->ops = &cpu_ops;
    device->ledger = options->ledger;
    device->jobs = options->jobs;
    device->state = pool;
    *out = device;
    return TD_OK;
}

void device_cpu_close(struct device *device)
{
    segment_pool_destroy(device->state);
    free(device);
}
