#include "client/cli/save.h"
#include "proto/format/npz.h"
#include "proto/format/safetensors.h"

#include <inttypes.h>
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

enum td_status save_string(const struct save *save, const char *text)
{
    return file_out_write(save->file, text, strlen(text));
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

/* *cast is the object to print, cast to the dtype that was asked for; NULL: the view itself. */
static enum td_status cast_view(const struct save *save, size_t i, struct td_reply **cast)
{
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    if (save->dtype == TD_DTYPE_NONE)
        return TD_OK;
    TRY(td_args_text(args, "input", save->views[i].id));
    TRY(td_args_dtype(args, save->dtype));
    return td_op(save->cli->client, "type", args, NULL, 0, cast);
}

static enum td_status print_view(const struct save *save, size_t i, struct td_reply **printed)
{
    _cleanup_(td_reply_freep) struct td_reply *cast = NULL;
    struct td_info info = {.id = save->views[i].info.id};
    char id[24];
    TRY(cast_view(save, i, &cast));
    if (cast)
        TRY(td_reply_info(cast, &info));
    snprintf(id, sizeof id, "@%" PRIu64, info.id);
    enum td_status status = cli_op_input(save->cli, "print", id, printed);
    if (cast)
        td_release(save->cli->client, info.id, td_reply_session(cast));
    return status;
}

/* As PyTorch prints them; of several each below its name. */
static enum td_status save_text(const struct save *save)
{
    for (size_t i = 0; i < save->count; i++) {
        _cleanup_(td_reply_freep) struct td_reply *printed = NULL;
        const char *text = "";
        TRY(print_view(save, i, &printed));
        (void)td_reply_text(printed, "text", &text);
        TRY(save_string(save, save->count > 1 ? save->names[i] : ""));
        TRY(save_string(save, save->count > 1 ? ":\n" : ""));
        TRY(save_string(save, text));
        TRY(save_string(save, "\n"));
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

/* The entries in the reference's order; order[i] is the number in struct save of entry i. */
static void order_entries(const struct save *save, struct safetensors_entry *entries, size_t *order)
{
    for (size_t i = 0; i < save->count; i++)
        entries[i] = (struct safetensors_entry){.name = save->names[i],
                                                .dtype = save_dtype(save, i),
                                                .shape = save_shape(save, i),
                                                .begin = i}; /* until it is known */
    qsort(entries, save->count, sizeof *entries, safetensors_compare);
    for (size_t i = 0; i < save->count; i++)
        order[i] = (size_t)entries[i].begin;
}

static enum td_status save_safetensors(const struct save *save)
{
    _cleanup_(freep) size_t *order = calloc(save->count + 1, sizeof *order);
    _cleanup_(freep) struct safetensors_entry *entries = calloc(save->count + 1, sizeof *entries);
    _cleanup_(freep) unsigned char *header = NULL;
    size_t length;
    if (!order || !entries)
        return fail(TD_OUT_OF_MEMORY, "no memory for a file of %zu tensors", save->count);
    order_entries(save, entries, order);
    TRY(safetensors_write(entries, save->count, NULL, &header, &length));
    TRY(file_out_write(save->file, header, length));
    for (size_t i = 0; i < save->count; i++)
        TRY(save_elements(save, order[i]));
    return TD_OK;
}

enum td_status save_tensors(const struct save *save, enum format format)
{
    static enum td_status (*const savers[FORMAT_END])(const struct save *) = {
        [FORMAT_NPY] = save_npy, [FORMAT_NPZ] = save_npz,   [FORMAT_SAFETENSORS] = save_safetensors,
        [FORMAT_RAW] = save_raw, [FORMAT_JSON] = save_json, [FORMAT_TEXT] = save_text,
    };
    return savers[format](save);
}
