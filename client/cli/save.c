#include "client/cli/save.h"
#include "proto/format/npz.h"
#include "proto/format/safetensors.h"

#include <string.h>

struct dims save_shape(const struct save *save, size_t i)
{
    const struct td_info *info = &save->views[i].info;
    struct dims shape = {.rank = info->rank};
    memcpy(shape.v, info->shape, (size_t)info->rank * sizeof *shape.v);
    return shape;
}

static enum td_status write_piece(void *argument, const void *bytes, size_t size_bytes)
{
    return file_out_write(argument, bytes, size_bytes);
}

enum td_status save_elements(const struct save *save, size_t i)
{
    return view_read(save->cli, &save->views[i], save->dtype, write_piece, save->file);
}

/* ---- npy, raw, text ------------------------------------------------------------------------ */

static enum td_status save_npy(const struct save *save)
{
    unsigned char header[NPY_WRITE_MAX];
    struct dims shape = save_shape(save, 0);
    size_t length = npy_write(save_dtype(save, 0), &shape, header);
    TRY(file_out_write(save->file, header, length));
    return save_elements(save, 0);
}

static enum td_status save_raw(const struct save *save)
{
    return save_elements(save, 0);
}

/* As PyTorch prints them, in their own dtype or cast. */
static enum td_status save_text(const struct save *save)
{
    for (size_t i = 0; i < save->count; i++) {
        _cleanup_(td_reply_freep) struct td_reply *cast = NULL, *reply = NULL;
        _cleanup_(td_args_freep) struct td_args *args = td_args_new();
        const char *text = "";
        struct td_info info;
        char id[24];
        TRY(td_args_text(args, "input", save->views[i].id));
        TRY(td_args_dtype(args, save_dtype(save, i)));
        TRY(td_op(save->cli->client, "type", args, NULL, 0, &cast));
        TRY(td_reply_info(cast, &info));
        snprintf(id, sizeof id, "@%llu", (unsigned long long)info.id);
        TRY(cli_op_input(save->cli, "print", id, &reply));
        (void)td_reply_text(reply, "text", &text);
        TRY(file_out_write(save->file, text, strlen(text)));
        TRY(file_out_write(save->file, "\n", 1));
    }
    return TD_OK;
}

/* ---- npz ----------------------------------------------------------------------------------- */

static enum td_status write_member_piece(void *argument, const void *bytes, size_t size_bytes)
{
    return npz_write_bytes(argument, bytes, size_bytes);
}

static enum td_status save_members(const struct save *save, struct npz_writer *writer)
{
    for (size_t i = 0; i < save->count; i++) {
        struct dims shape = save_shape(save, i);
        TRY(npz_write_member(writer, save->names[i], save_dtype(save, i), &shape));
        TRY(view_read(save->cli, &save->views[i], save->dtype, write_member_piece, writer));
    }
    return npz_write_end(writer);
}

static enum td_status save_npz(const struct save *save)
{
    struct npz_sink sink = {.context = save->file, .write = write_piece};
    struct npz_writer *writer = NULL;
    TRY(npz_write_begin(&sink, false, &writer));
    enum td_status status = save_members(save, writer);
    npz_write_destroy(writer);
    return status;
}

/* ---- safetensors --------------------------------------------------------------------------- */

struct placed {
    size_t number; /* of the tensor in struct save */
    size_t element_bytes;
    const char *name;
};

/* The reference's order: the largest elements first, so that all are aligned, then by name. */
static int compare_placed(const void *left, const void *right)
{
    const struct placed *a = left, *b = right;
    if (a->element_bytes != b->element_bytes)
        return a->element_bytes < b->element_bytes ? 1 : -1;
    return strcmp(a->name, b->name);
}

static enum td_status write_safetensors(const struct save *save, struct placed *order,
                                        struct safetensors_entry *entries)
{
    _cleanup_(freep) unsigned char *header = NULL;
    size_t length;
    for (size_t i = 0; i < save->count; i++)
        order[i] = (struct placed){i, td_dtype_size((int)save_dtype(save, i)), save->names[i]};
    qsort(order, save->count, sizeof *order, compare_placed);
    for (size_t i = 0; i < save->count; i++)
        entries[i] = (struct safetensors_entry){.name = order[i].name,
                                                .dtype = save_dtype(save, order[i].number),
                                                .shape = save_shape(save, order[i].number)};
    TRY(safetensors_write(entries, save->count, NULL, &header, &length));
    TRY(file_out_write(save->file, header, length));
    for (size_t i = 0; i < save->count; i++)
        TRY(save_elements(save, order[i].number));
    return TD_OK;
}

static enum td_status save_safetensors(const struct save *save)
{
    _cleanup_(freep) struct placed *order = calloc(save->count + 1, sizeof *order);
    _cleanup_(freep) struct safetensors_entry *entries = calloc(save->count + 1, sizeof *entries);
    if (!order || !entries)
        return fail(TD_OUT_OF_MEMORY, "no memory for a file of %zu tensors", save->count);
    return write_safetensors(save, order, entries);
}

enum td_status save_tensors(const struct save *save, enum format format)
{
    static enum td_status (*const savers[FORMAT_END])(const struct save *) = {
        [FORMAT_NPY] = save_npy, [FORMAT_NPZ] = save_npz,   [FORMAT_SAFETENSORS] = save_safetensors,
        [FORMAT_RAW] = save_raw, [FORMAT_JSON] = save_json, [FORMAT_TEXT] = save_text,
    };
    return savers[format](save);
}
