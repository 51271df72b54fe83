#include "core/convert.h"

#include "core/cast/cast.h"
#include "core/parallel.h"
#include "core/transpose.h"

#include <string.h>
#include <unistd.h>

#define LINE_BYTES 64
#define ELEMENT_BYTES_MAX 16
#define SHORT_BYTES 4096
#define FETCHED_BYTES_MAX 1024
#define VECTOR_BYTES 16
#define SHORT_ROW_BYTES 256

static int64_t size_of(enum td_dtype dtype)
{
    return (int64_t)dtype_infos[dtype].size_bytes;
}

static int64_t magnitude(int64_t step)
{
    return step < 0 ? -step : step;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Of source and destination together. From there on the destination is written past the cache: it
 * would not stay in it, and what is there would have to go. Where a cache is larger it is shared by
 * many. */
#define STREAM_BYTES_MAX (INT64_C(32) << 20)
/* The same, where more is gained by it: of tiles, and of rows that follow the source. */
#define STREAM_SOON_BYTES (INT64_C(16) << 20)

static int64_t stream_bytes(void)
{
    int64_t cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return cache > 0 ? smaller(cache, STREAM_BYTES_MAX) : STREAM_BYTES_MAX / 4;
}

/* ---- the plan ---- */

static void insert_dim(struct convert_plan *plan, int at, int64_t size, int64_t in_step,
                       int64_t out_step)
{
    size_t moved = (size_t)(plan->rank - at) * sizeof plan->sizes[0];
    memmove(&plan->sizes[at + 1], &plan->sizes[at], moved);
    memmove(&plan->in_steps[at + 1], &plan->in_steps[at], moved);
    memmove(&plan->out_steps[at + 1], &plan->out_steps[at], moved);
    plan->sizes[at] = size;
    plan->in_steps[at] = in_step;
    plan->out_steps[at] = out_step;
    plan->rank++;
}

static void remove_dim(struct convert_plan *plan, int at)
{
    size_t moved = (size_t)(--plan->rank - at) * sizeof plan->sizes[0];
    memmove(&plan->sizes[at], &plan->sizes[at + 1], moved);
    memmove(&plan->in_steps[at], &plan->in_steps[at + 1], moved);
    memmove(&plan->out_steps[at], &plan->out_steps[at + 1], moved);
}

/* Walks a dimension from its other end. */
static void flip_dim(struct convert_plan *plan, int at)
{
    int64_t last = plan->sizes[at] - 1;
    plan->in_offset += plan->in_steps[at] * last;
    plan->out_offset += plan->out_steps[at] * last;
    plan->in_steps[at] = -plan->in_steps[at];
    plan->out_steps[at] = -plan->out_steps[at];
}

/* The dimensions that are counted, the largest steps of the destination first, then of the source.
 */
static void sort_dims(const struct layout *src, const struct layout *dst, struct convert_plan *plan)
{
    for (int d = 0; d < dst->rank; d++) {
        int64_t in_step = src->strides[d] * size_of(src->dtype);
        int64_t out_step = dst->strides[d] * size_of(dst->dtype);
        int at = plan->rank;
        if (dst->shape[d] == 1)
            continue;
        for (; at > 0; at--) {
            int64_t above = magnitude(plan->out_steps[at - 1]), own = magnitude(out_step);
            if (above > own ||
                (above == own && magnitude(plan->in_steps[at - 1]) >= magnitude(in_step)))
                break;
        }
        insert_dim(plan, at, dst->shape[d], in_step, out_step);
    }
}

static void merge_dims(struct convert_plan *plan)
{
    for (int d = plan->rank - 2; d >= 0; d--) {
        int64_t size = plan->sizes[d + 1];
        if (plan->in_steps[d] != plan->in_steps[d + 1] * size ||
            plan->out_steps[d] != plan->out_steps[d + 1] * size)
            continue;
        plan->sizes[d + 1] *= plan->sizes[d];
        remove_dim(plan, d);
    }
}

/* Copied elements are bytes: a few of them behind one another are one that is larger. */
static void widen_elements(struct convert_plan *plan)
{
    static const enum td_dtype by_size[ELEMENT_BYTES_MAX + 1] = {
        [1] = TD_UINT8, [2] = TD_UINT16, [4] = TD_UINT32, [8] = TD_UINT64, [16] = TD_COMPLEX128,
    };
    int last = plan->rank - 1;
    int64_t size = size_of(plan->in_dtype);
    if (last > 0 && plan->in_steps[last] == size && plan->out_steps[last] == size &&
        plan->sizes[last] <= ELEMENT_BYTES_MAX / size && by_size[plan->sizes[last] * size]) {
        size *= plan->sizes[last];
        remove_dim(plan, last);
    }
    plan->in_dtype = plan->out_dtype = by_size[size];
}

/* The dimension along which the source's steps are smallest, if they are smaller than along the
 * last one; else -1. */
static int source_dim(const struct convert_plan *plan)
{
    int best = plan->rank - 1;
    for (int d = plan->rank - 2; d >= 0; d--)
        if (plan->in_steps[d] != 0 &&
            magnitude(plan->in_steps[d]) < magnitude(plan->in_steps[best]))
            best = d;
    return best == plan->rank - 1 ? -1 : best;
}

static void choose_way(struct convert_plan *plan)
{
    int last = plan->rank - 1, other = source_dim(plan);
    plan->way = CONVERT_ROWS;
    if (other < 0)
        return;
    int64_t size = plan->sizes[other], in_step = plan->in_steps[other];
    int64_t out_step = plan->out_steps[other];
    remove_dim(plan, other);
    insert_dim(plan, last - 1, size, in_step, out_step);
    if (in_step < 0)
        flip_dim(plan, last - 1);
    bool whole = plan->in_steps[last - 1] == size_of(plan->in_dtype) &&
                 plan->out_steps[last] == size_of(plan->out_dtype);
    plan->way = whole ? CONVERT_TILES : CONVERT_BLOCKS;
}

static bool rows_are_packed(const struct convert_plan *plan)
{
    int last = plan->rank - 1;
    return plan->in_steps[last] == size_of(plan->in_dtype) &&
           plan->out_steps[last] == size_of(plan->out_dtype);
}

/* Rows that are whole lines can be written past the cache in any order: so they are read in the
 * source's, one behind the other. Measured: up to twice the speed of the destination's order. */
static void follow_source(struct convert_plan *plan, int64_t bytes)
{
    int last = plan->rank - 1;
    bool lines = plan->out_offset % LINE_BYTES == 0;
    for (int d = 0; d < last; d++)
        lines = lines && plan->out_steps[d] % LINE_BYTES == 0;
    bool large = bytes >= STREAM_SOON_BYTES || plan->flags & CAST_STREAM;
    if (last < 2 || plan->way != CONVERT_ROWS || !large || !lines || !rows_are_packed(plan) ||
        plan->sizes[last] * plan->out_steps[last] % LINE_BYTES != 0)
        return;
    plan->flags |= CAST_STREAM;
    for (int d = 1; d < last; d++) {
        int64_t size = plan->sizes[d], in_step = plan->in_steps[d], out_step = plan->out_steps[d];
        int at = d;
        while (at > 0 && magnitude(plan->in_steps[at - 1]) < magnitude(in_step))
            at--;
        remove_dim(plan, d);
        insert_dim(plan, at, size, in_step, out_step);
    }
}

void convert_plan(const struct layout *src, const struct layout *dst, unsigned flags,
                  struct convert_plan *out)
{
    *out = (struct convert_plan){
        .in_offset = src->offset_bytes,
        .out_offset = dst->offset_bytes,
        .in_dtype = src->dtype,
        .out_dtype = dst->dtype,
        .flags = flags,
    };
    int64_t bytes = layout_nbytes(src) + layout_nbytes(dst);
    if (bytes >= stream_bytes())
        out->flags |= CAST_STREAM;
    if (dst->elements > 0)
        sort_dims(src, dst, out);
    for (int d = 0; d < out->rank; d++)
        if (out->out_steps[d] < 0)
            flip_dim(out, d);
    merge_dims(out);
    if (src->dtype == dst->dtype)
        widen_elements(out);
    if (out->rank == 0)
        insert_dim(out, 0, dst->elements, size_of(out->in_dtype), size_of(out->out_dtype));
    choose_way(out);
    if (out->way == CONVERT_TILES && bytes >= STREAM_SOON_BYTES)
        out->flags |= CAST_STREAM;
    follow_source(out, bytes);
}

/* ---- rows ---- */

struct work {
    const struct convert_plan *plan;
    int64_t in_size, out_size;
    enum td_dtype from, to;
    transpose_fn transpose;
    unsigned flags; /* without CAST_STREAM */
    bool stream, same;
};

struct row {
    const unsigned char *in;
    unsigned char *out;
    int64_t in_step, out_step, count;
};

/* Through a buffer: a cast that writes past the cache waits for memory at its end, which only long
 * rows can afford. Short ones wait once, when all is done. */
static void stream_short(const struct work *work, const unsigned char *in, unsigned char *out,
                         int64_t count)
{
    _Alignas(LINE_BYTES) unsigned char made[SHORT_BYTES];
    cast_elements(work->from, work->to, in, work->in_size, made, work->out_size, (size_t)count,
                  work->flags);
    cast_stream(out, made, (size_t)(count * work->out_size));
}

/* Without gaps. */
static void convert_packed(const struct work *work, const unsigned char *in, unsigned char *out,
                           int64_t count)
{
    size_t size = (size_t)(count * work->out_size);
    bool stream = work->stream && size >= ((uintptr_t)out % LINE_BYTES ? 2 : 1) * LINE_BYTES;
    if (work->same && stream)
        cast_stream(out, in, size);
    else if (work->same)
        memcpy(out, in, size);
    else if (stream && size <= SHORT_BYTES)
        stream_short(work, in, out, count);
    else
        cast_elements(work->from, work->to, in, work->in_size, out, work->out_size, (size_t)count,
                      stream ? work->flags | CAST_STREAM : work->flags);
}

static void convert_row(const struct work *work, const struct row *row)
{
    _Alignas(ELEMENT_BYTES_MAX) unsigned char element[ELEMENT_BYTES_MAX];
    const unsigned char *in = row->in;
    if (row->in_step == work->in_size && row->out_step == work->out_size) {
        convert_packed(work, in, row->out, row->count);
        return;
    }
    enum td_dtype from = work->from;
    if (row->in_step == 0) { /* cast once, then copied */
        cast_elements(from, work->to, in, 0, element, 0, 1, work->plan->flags);
        in = element;
        from = work->to;
    }
    cast_elements(from, work->to, in, row->in_step, row->out, row->out_step, (size_t)row->count,
                  work->plan->flags);
}

/* ---- tiles ---- */

/* Positions of the last but one dimension and of the last one. */
struct tile {
    int64_t rows, count;
};

/* Measured: 512 bytes of each of the source's rows are read at the pace of a stream, and 256 of
 * each of the destination's written so; with fewer, or more than the second cache holds, it takes
 * up to twice the time. Where one dimension is smaller, the other has what fits the first cache. */
#define TILE_ROW_BYTES 512
#define TILE_ROWS_MAX 256
#define TILE_COUNT_BYTES 256
#define TILE_BYTES (TILE_ROWS_MAX * (TILE_COUNT_BYTES + LINE_BYTES))
#define TILE_NARROW_BYTES 8192

/* So that the next tile does not begin in the middle of a line. */
static int64_t whole_lines(int64_t elements, int64_t size)
{
    return elements * size < LINE_BYTES ? elements : elements - elements % (LINE_BYTES / size);
}

static struct tile tile_of(const struct work *work)
{
    const int64_t *sizes = &work->plan->sizes[work->plan->rank - 2];
    int64_t rows = smaller(TILE_ROW_BYTES / work->in_size, TILE_ROWS_MAX);
    int64_t count = TILE_COUNT_BYTES / work->in_size, narrow = TILE_NARROW_BYTES / work->in_size;
    struct tile tile = {smaller(sizes[0], rows), smaller(sizes[1], count)};
    if (sizes[0] * count < narrow)
        tile.count = smaller(sizes[1], whole_lines(narrow / sizes[0], work->out_size));
    if (sizes[1] * rows < narrow)
        tile.rows = smaller(sizes[0], narrow / sizes[1]);
    return tile;
}

static void convert_tile(const struct work *work, struct tile tile, const unsigned char *in,
                         unsigned char *out)
{
    _Alignas(LINE_BYTES) unsigned char buffer[TILE_BYTES];
    const struct convert_plan *plan = work->plan;
    int last = plan->rank - 1;
    int64_t out_step = plan->out_steps[last - 1], size = tile.count * work->in_size;
    /* Without gaps between its rows the tile is a single run of the destination's. Else they lie
     * apart in the buffer, too, for powers of two would fall into the same sets of the cache. */
    bool one_run = out_step == tile.count * work->out_size;
    bool in_place = one_run && work->same && !work->stream;
    int64_t pitch = one_run || tile.rows > TILE_ROWS_MAX ? size : size + LINE_BYTES;
    work->transpose(in, plan->in_steps[last], in_place ? out : buffer, pitch, (size_t)tile.count,
                    (size_t)tile.rows);
    if (in_place)
        return;
    if (one_run) {
        convert_packed(work, buffer, out, tile.rows * tile.count);
        return;
    }
    for (int64_t i = 0; i < tile.rows; i++)
        convert_packed(work, buffer + i * pitch, out + i * out_step, tile.count);
}

/* Rows too short for the machine to see where reading goes. */
static bool rows_need_fetching(const struct convert_plan *plan)
{
    int last = plan->rank - 1;
    int64_t bytes = plan->sizes[last] * plan->in_steps[last];
    return plan->in_steps[last] == size_of(plan->in_dtype) && bytes >= 2 * LINE_BYTES &&
           bytes <= FETCHED_BYTES_MAX && plan->in_steps[last - 1] != bytes;
}

/* Of the next row but one: the address may be anywhere, it never faults. */
static void fetch_ahead(const struct convert_plan *plan, const unsigned char *in)
{
    int last = plan->rank - 1;
    uintptr_t ahead = (uintptr_t)in + 2 * (uintptr_t)plan->in_steps[last - 1];
    for (int64_t i = 0; i < plan->sizes[last] * plan->in_steps[last]; i += LINE_BYTES)
        __builtin_prefetch((const void *)(ahead + (uintptr_t)i));
}

/* A call for each would take longer than the copying. */
static bool rows_are_short(const struct work *work, int64_t count)
{
    int64_t bytes = count * work->out_size;
    return work->same && !work->stream && rows_are_packed(work->plan) && bytes <= SHORT_ROW_BYTES &&
           bytes % VECTOR_BYTES == 0;
}

static void copy_short_rows(const struct convert_plan *plan, const unsigned char *in,
                            unsigned char *out, int64_t rows, int64_t bytes)
{
    int last = plan->rank - 1;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < bytes; j += VECTOR_BYTES)
            memcpy(out + j, in + j, VECTOR_BYTES);
        in += plan->in_steps[last - 1];
        out += plan->out_steps[last - 1];
    }
}

static void convert_block(const struct work *work, struct tile tile, const unsigned char *in,
                          unsigned char *out)
{
    const struct convert_plan *plan = work->plan;
    int last = plan->rank - 1;
    if (rows_are_short(work, tile.count)) {
        copy_short_rows(plan, in, out, tile.rows, tile.count * work->out_size);
        return;
    }
    struct row row = {in, out, plan->in_steps[last], plan->out_steps[last], tile.count};
    bool fetches = rows_need_fetching(plan);
    for (int64_t i = 0; i < tile.rows; i++) {
        if (fetches)
            fetch_ahead(plan, row.in);
        convert_row(work, &row);
        row.in += plan->in_steps[last - 1];
        row.out += plan->out_steps[last - 1];
    }
}

/* The last two dimensions: row by row, or tile by tile along the destination's rows. */
static void convert_plane(const struct work *work, const unsigned char *in, unsigned char *out)
{
    const struct convert_plan *plan = work->plan;
    int last = plan->rank - 1;
    const bool rows = plan->way == CONVERT_ROWS;
    const struct tile whole =
        rows ? (struct tile){plan->sizes[last - 1], plan->sizes[last]} : tile_of(work);
    for (int64_t a = 0; a < plan->sizes[last - 1]; a += whole.rows)
        for (int64_t b = 0; b < plan->sizes[last]; b += whole.count) {
            struct tile tile = {smaller(whole.rows, plan->sizes[last - 1] - a),
                                smaller(whole.count, plan->sizes[last] - b)};
            (plan->way == CONVERT_TILES ? convert_tile : convert_block)(
                work, tile, in + a * plan->in_steps[last - 1] + b * plan->in_steps[last],
                out + a * plan->out_steps[last - 1] + b * plan->out_steps[last]);
        }
}

/* ---- all of it ---- */

/* Moves on to the next position of the first `rank` dimensions; false after the last one. */
static bool next(const struct convert_plan *plan, int rank, int64_t *counters,
                 const unsigned char **in, unsigned char **out)
{
    for (int d = rank - 1; d >= 0; d--) {
        *in += plan->in_steps[d];
        *out += plan->out_steps[d];
        if (++counters[d] < plan->sizes[d])
            return true;
        counters[d] = 0;
        *in -= plan->in_steps[d] * plan->sizes[d];
        *out -= plan->out_steps[d] * plan->sizes[d];
    }
    return false;
}

void convert_run(const struct convert_plan *plan, const void *from, void *to)
{
    int last = plan->rank - 1;
    if (plan->sizes[last] == 0)
        return;
    const struct work work = {
        .plan = plan,
        .in_size = size_of(plan->in_dtype),
        .out_size = size_of(plan->out_dtype),
        .from = plan->in_dtype,
        .to = plan->out_dtype,
        .transpose = transpose_find((size_t)size_of(plan->in_dtype)),
        .flags = plan->flags & ~(unsigned)CAST_STREAM,
        .stream = plan->flags & CAST_STREAM,
        .same = plan->in_dtype == plan->out_dtype,
    };
    const unsigned char *in = (const unsigned char *)from + plan->in_offset;
    unsigned char *out = (unsigned char *)to + plan->out_offset;
    int64_t counters[RANK_MAX] = {0};
    if (last == 0)
        convert_row(&work,
                    &(struct row){in, out, plan->in_steps[0], plan->out_steps[0], plan->sizes[0]});
    else
        do
            convert_plane(&work, in, out);
        while (next(plan, last - 1, counters, &in, &out));
    if (work.stream)
        cast_stream_end();
}

/* The dimension that is cut: the outermost that has enough positions for all parts to be alike. */
static int cut_dim(const struct convert_plan *plan, int64_t parts)
{
    int largest = 0;
    for (int d = 0; d < plan->rank; d++) {
        if (plan->sizes[d] >= 4 * parts)
            return d;
        if (plan->sizes[d] > plan->sizes[largest])
            largest = d;
    }
    return largest;
}

void convert_part(const struct convert_plan *whole, int64_t part, int64_t parts,
                  struct convert_plan *out)
{
    int d = cut_dim(whole, parts);
    /* Within rows and tiles at their lines' ends, more or less. */
    int64_t grain = d >= whole->rank - 2 && whole->sizes[d] > parts * LINE_BYTES ? LINE_BYTES : 1;
    int64_t grains = (whole->sizes[d] + grain - 1) / grain;
    int64_t begin = smaller(grains * part / parts * grain, whole->sizes[d]);
    int64_t end = smaller(grains * (part + 1) / parts * grain, whole->sizes[d]);
    *out = *whole;
    out->sizes[d] = end - begin;
    out->in_offset += begin * whole->in_steps[d];
    out->out_offset += begin * whole->out_steps[d];
    if (end == begin)
        out->sizes[out->rank - 1] = 0;
}

struct whole {
    struct convert_plan plan;
    const void *in;
    void *out;
    int64_t parts;
};

static void run_part(void *argument, int64_t i)
{
    const struct whole *whole = argument;
    struct convert_plan part;
    convert_part(&whole->plan, i, whole->parts, &part);
    convert_run(&part, whole->in, whole->out);
}

void convert(struct job_pool *pool, const struct layout *src, const void *in,
             const struct layout *dst, void *out, bool saturate)
{
    struct whole whole = {.in = in, .out = out};
    convert_plan(src, dst, saturate ? CAST_SATURATE : 0, &whole.plan);
    whole.parts = parallel_parts(pool, layout_nbytes(src) + layout_nbytes(dst));
    parallel_for(pool, whole.parts, run_part, &whole);
}
