/* proto/format for ctypes: plain arguments. An array is described by int64_t: dtype, fortran_order,
 * big_endian, bytes of the header, rank, then the sizes. */
#include "proto/format/index_text.h"
#include "proto/format/npz.h"
#include "proto/format/safetensors.h"

#include <stdlib.h>
#include <string.h>

#define ARRAY_NUMBERS (5 + RANK_MAX)

typedef void format_shim_visit(const char *name, const int64_t *array, const void *bytes,
                               size_t length);

const char *format_shim_detail(void);
const char *format_shim_dtype(int dtype);
int64_t format_shim_index_none(void);
enum td_status format_shim_index(const char *text, size_t length, int64_t *out);
enum td_status format_shim_npy_read(const void *bytes, size_t length, int hint, int64_t *out,
                                    size_t *needed);
size_t format_shim_npy_write(int dtype, int rank, const int64_t *shape, unsigned char *out);
enum td_status format_shim_safetensors_read(const void *bytes, size_t length, uint64_t file_bytes,
                                            struct safetensors **out, size_t *count,
                                            const char **metadata);
const char *format_shim_safetensors_entry(const struct safetensors *file, size_t i, int64_t *out);
enum td_status format_shim_safetensors_write(size_t count, const char **names,
                                             const int64_t *arrays, const char *metadata,
                                             unsigned char **out, size_t *length);
enum td_status format_shim_npz_read(const void *bytes, size_t length, int pipe, int hint,
                                    uint64_t max_bytes, format_shim_visit *visit);
enum td_status format_shim_npz_write(size_t count, const char **names, const int64_t *arrays,
                                     const void **bytes, int deflate, void *out, size_t room,
                                     size_t *length);

const char *format_shim_detail(void)
{
    return fail_detail();
}

const char *format_shim_dtype(int dtype)
{
    return td_dtype_name(dtype);
}

static struct dims dims_of(int64_t rank, const int64_t *sizes)
{
    struct dims dims = {.rank = (int)rank};
    for (int d = 0; d < dims.rank; d++)
        dims.v[d] = sizes[d];
    return dims;
}

static void dims_out(const struct dims *dims, int64_t *rank, int64_t *sizes)
{
    *rank = dims->rank;
    for (int d = 0; d < dims->rank; d++)
        sizes[d] = dims->v[d];
}

/* ---- index_text ------------------------------------------------------------------------------ */

int64_t format_shim_index_none(void)
{
    return INDEX_NONE;
}

/* out: how many items, then four numbers an item. */
enum td_status format_shim_index(const char *text, size_t length, int64_t *out)
{
    struct index index;
    TRY(index_from_text((struct text){text, length}, &index));
    *out++ = index.count;
    for (int i = 0; i < index.count; i++) {
        *out++ = index.items[i].kind;
        *out++ = index.items[i].start;
        *out++ = index.items[i].stop;
        *out++ = index.items[i].step;
    }
    return TD_OK;
}

/* ---- npy ------------------------------------------------------------------------------------- */

static void header_out(const struct npy_header *header, int64_t *out)
{
    out[0] = header->dtype;
    out[1] = header->fortran_order;
    out[2] = header->big_endian;
    out[3] = (int64_t)header->header_bytes;
    dims_out(&header->shape, &out[4], out + 5);
}

enum td_status format_shim_npy_read(const void *bytes, size_t length, int hint, int64_t *out,
                                    size_t *needed)
{
    struct npy_header header;
    TRY(npy_read(bytes, length, (enum td_dtype)hint, &header, needed));
    if (*needed == 0)
        header_out(&header, out);
    return TD_OK;
}

size_t format_shim_npy_write(int dtype, int rank, const int64_t *shape, unsigned char *out)
{
    struct dims dims = dims_of(rank, shape);
    return npy_write((enum td_dtype)dtype, &dims, out);
}

/* ---- safetensors ----------------------------------------------------------------------------- */

/* The file stays until it is ended with safetensors_destroy. */
enum td_status format_shim_safetensors_read(const void *bytes, size_t length, uint64_t file_bytes,
                                            struct safetensors **out, size_t *count,
                                            const char **metadata)
{
    TRY(safetensors_read(bytes, length, file_bytes, out));
    *count = (*out)->count;
    *metadata = (*out)->metadata;
    return TD_OK;
}

/* out: dtype, begin, end, header bytes of the file, rank, sizes. Returns the name. */
const char *format_shim_safetensors_entry(const struct safetensors *file, size_t i, int64_t *out)
{
    const struct safetensors_entry *entry = &file->entries[i];
    out[0] = entry->dtype;
    out[1] = (int64_t)entry->begin;
    out[2] = (int64_t)entry->end;
    out[3] = (int64_t)file->header_bytes;
    dims_out(&entry->shape, &out[4], out + 5);
    return entry->name;
}

/* The caller frees *out with free(). */
enum td_status format_shim_safetensors_write(size_t count, const char **names,
                                             const int64_t *arrays, const char *metadata,
                                             unsigned char **out, size_t *length)
{
    struct safetensors_entry *entries = calloc(count + 1, sizeof *entries);
    for (size_t i = 0; i < count; i++, arrays += ARRAY_NUMBERS)
        entries[i] = (struct safetensors_entry){.name = names[i],
                                                .dtype = (enum td_dtype)arrays[0],
                                                .shape = dims_of(arrays[4], arrays + 5)};
    enum td_status status = safetensors_write(entries, count, metadata, out, length);
    free(entries);
    return status;
}

/* ---- npz ------------------------------------------------------------------------------------- */

struct piece {
    const unsigned char *bytes;
    size_t length;
};

static enum td_status piece_read(void *context, uint64_t offset, void *out, size_t room,
                                 size_t *got)
{
    const struct piece *piece = context;
    size_t left = offset < piece->length ? piece->length - offset : 0;
    *got = left < room ? left : room;
    memcpy(out, piece->bytes + (piece->length - left), *got);
    return TD_OK;
}

static enum td_status pull_all(void *context, struct npz_reader *reader,
                               const struct npz_member *member)
{
    int64_t array[ARRAY_NUMBERS];
    size_t have = 0, got = 1;
    unsigned char *bytes = malloc(member->data_bytes + 1);
    enum td_status status = TD_OK;
    while (status == TD_OK && got > 0) {
        size_t room = member->data_bytes - have;
        status = npz_pull(reader, bytes + have, room < 1000 ? room : 1000, &got);
        have += got;
    }
    if (status == TD_OK) {
        header_out(&member->header, array);
        (*(format_shim_visit **)context)(member->name, array, bytes, have);
    }
    free(bytes);
    return status;
}

enum td_status format_shim_npz_read(const void *bytes, size_t length, int pipe, int hint,
                                    uint64_t max_bytes, format_shim_visit *visit)
{
    struct piece piece = {bytes, length};
    struct npz_source source = {&piece, piece_read, pipe ? UINT64_MAX : length};
    return npz_read_each(&source, (enum td_dtype)hint, max_bytes, pull_all, &visit);
}

struct room {
    unsigned char *at, *end;
};

static enum td_status room_write(void *context, const void *bytes, size_t length)
{
    struct room *room = context;
    if (length > (size_t)(room->end - room->at))
        return fail(TD_TOO_LARGE, "no room for the archive");
    memcpy(room->at, bytes, length);
    room->at += length;
    return TD_OK;
}

static enum td_status write_members(struct npz_writer *writer, size_t count, const char **names,
                                    const int64_t *arrays, const void **bytes)
{
    for (size_t i = 0; i < count; i++, arrays += ARRAY_NUMBERS) {
        struct dims shape = dims_of(arrays[4], arrays + 5);
        struct layout layout;
        TRY(npz_write_member(writer, names[i], (enum td_dtype)arrays[0], &shape));
        TRY(layout_contiguous((enum td_dtype)arrays[0], &shape, &layout));
        TRY(npz_write_bytes(writer, bytes[i], (size_t)layout_nbytes(&layout)));
    }
    return npz_write_end(writer);
}

enum td_status format_shim_npz_write(size_t count, const char **names, const int64_t *arrays,
                                     const void **bytes, int deflate, void *out, size_t room,
                                     size_t *length)
{
    unsigned char *start = out;
    struct room left = {start, start + room};
    struct npz_sink sink = {&left, room_write};
    struct npz_writer *writer;
    TRY(npz_write_begin(&sink, deflate != 0, &writer));
    enum td_status status = write_members(writer, count, names, arrays, bytes);
    npz_write_destroy(writer);
    *length = (size_t)(left.at - start);
    return status;
}
