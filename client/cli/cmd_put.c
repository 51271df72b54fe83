/* put: the tensors of a file into the daemon.
 *
 * A file is one request. One tensor is put; several are loaded as they are in the file, all of them
 * or none. What is to be cast goes there and back before: the casts are the daemon's, but what its
 * operations make is mutable, and only what arrives finished is frozen.
 */
#include "client/cli/commands.h"
#include "client/cli/load.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/sizes.h"
#include "proto/format/json.h"
#include "proto/format/npz.h"

#include <inttypes.h>
#include <string.h>

struct put {
    struct cli *cli;
    const char *name;
    enum td_dtype cast;         /* NONE: stored as it is in the file */
    struct npz_writer *archive; /* of several tensors that are cast */
};

static enum td_status note(const struct put *put, const struct td_reply *reply)
{
    struct td_info info;
    char shape[SHAPE_TEXT_SIZE], size[SIZE_TEXT_MAX];
    TRY(td_reply_info(reply, &info));
    cli_note(put->cli, "%s: %s %s, %s", info.name, td_dtype_name((int)info.dtype),
             layout_shape_text(info.rank, info.shape, shape, sizeof shape),
             size_text((uint64_t)info.nbytes, size));
    return TD_OK;
}

/* ---- one tensor ---------------------------------------------------------------------------- */

/* Sends the elements by put, under a name, or by tensor, without one. */
static enum td_status send_member(struct put *put, const struct member *member, const char *name,
                                  struct td_reply **reply)
{
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    const struct cli *cli = put->cli;
    TRY(td_args_dtype(args, member->dtype));
    TRY(td_args_dims(args, "shape", member->shape.rank, member->shape.v));
    TRY(td_args_bool(args, "mutable", cli_has(cli, OPTION_MUTABLE) || member->mutable));
    if (cli_has(cli, OPTION_REQUIRES_GRAD) || member->requires_grad)
        TRY(td_args_bool(args, "requires_grad", true));
    if (name)
        TRY(td_args_text(args, "output", name));
    if (name && cli_has(cli, OPTION_CREATE_ONLY))
        TRY(td_args_bool(args, "create_only", true));
    TRY(cli_args_patience(cli, args, member->size_bytes));
    progress_begin(name ? name : member->name, member->size_bytes);
    progress_bodies();
    enum td_status status = td_op(cli->client, name ? "put" : "tensor", args, member->elements,
                                  member->size_bytes, reply);
    progress_end();
    return status;
}

/* Has the daemon cast the elements: *out is the member as it is to be stored, until *reply ends. */
static enum td_status cast_member(struct put *put, const struct member *member, struct member *out,
                                  struct td_reply **cast)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    struct td_client *client = put->cli->client;
    struct td_info info;
    char object[24];
    TRY(send_member(put, member, NULL, &reply));
    TRY(td_reply_info(reply, &info));
    snprintf(object, sizeof object, "@%" PRIu64, info.id);
    TRY(td_args_text(args, "input", object));
    TRY(td_args_dtype(args, put->cast));
    TRY(cli_args_patience(put->cli, args, member->size_bytes * 8)); /* cast, it may be as large */
    progress_begin("cast", 0);
    progress_bodies();
    enum td_status status = td_op(client, "get", args, NULL, 0, cast);
    progress_end();
    td_release(client, info.id, td_reply_session(reply));
    TRY(status);
    *out = *member;
    out->dtype = put->cast;
    out->elements = td_reply_body(*cast, &out->size_bytes);
    return TD_OK;
}

static enum td_status put_one(struct put *put, const struct member *member)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    char name[NAME_SIZE];
    size_t length = strlen(put->name);
    bool folder = length > 0 && put->name[length - 1] == '/';
    int needed = snprintf(name, NAME_SIZE, "%s%s", put->name, folder ? member->name : "");
    if (needed >= NAME_SIZE)
        return fail(TD_INVALID, "the name of '%.80s...' has %d bytes; a name has %d at most", name,
                    needed, NAME_SIZE - 1);
    TRY(send_member(put, member, name, &reply));
    TRY(note(put, reply));
    return cli_has(put->cli, OPTION_JSON) ? json_print_reply(reply) : TD_OK;
}

static enum td_status take_member(void *argument, const struct member *member)
{
    struct put *put = argument;
    _cleanup_(td_reply_freep) struct td_reply *cast = NULL;
    struct member as_cast;
    if (put->cast != TD_DTYPE_NONE && put->cast != member->dtype) {
        TRY(cast_member(put, member, &as_cast, &cast));
        member = &as_cast;
    }
    if (member->only)
        return put_one(put, member);
    TRY(npz_write_member(put->archive, member->name, member->dtype, &member->shape));
    return npz_write_bytes(put->archive, member->elements, member->size_bytes);
}

/* ---- several ------------------------------------------------------------------------------- */

static enum td_status put_several(struct put *put, const struct file_in *file)
{
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    const struct td_reply *entry;
    struct json_list json = {0};
    size_t cursor = 0;
    bool lists = cli_has(put->cli, OPTION_JSON);
    TRY(load_flags(put->cli, args));
    TRY(td_args_text(args, "prefix", put->name));
    if (put->cast != TD_DTYPE_NONE)
        TRY(td_args_dtype(args, put->cast));
    TRY(load_send(put->cli, file, args, &reply));
    while (td_reply_next(reply, &cursor, &entry)) {
        TRY(note(put, entry));
        if (lists)
            TRY(json_list_item(&json, json_of_reply(entry)));
    }
    if (lists)
        json_list_end(&json);
    if (cursor == 0)
        cli_note(put->cli, "the file holds no tensors");
    return TD_OK;
}

static enum td_status append(void *context, const void *bytes, size_t length)
{
    return fwrite(bytes, 1, length, context) == length
               ? TD_OK
               : fail(TD_OUT_OF_MEMORY, "no memory for an archive of what was cast");
}

/* What is cast goes on as an archive that was made of it here. */
static enum td_status cast_several(struct put *put, const struct load *load)
{
    _cleanup_(freep) char *bytes = NULL;
    struct file_in archive = {.label = load->file->label};
    FILE *stream = open_memstream(&bytes, &archive.length);
    struct npz_sink sink = {.context = stream, .write = append};
    if (!stream)
        return fail(TD_OUT_OF_MEMORY, "no memory for an archive");
    enum td_status status = npz_write_begin(&sink, false, &put->archive);
    if (status == TD_OK)
        status = load_members(load, take_member, put);
    if (status == TD_OK)
        status = npz_write_end(put->archive);
    npz_write_destroy(put->archive);
    if (fclose(stream) != 0 && status == TD_OK)
        status = fail(TD_OUT_OF_MEMORY, "no memory for an archive");
    TRY(status);
    archive.bytes = (const unsigned char *)bytes;
    return put_several(put, &archive);
}

/* ---- the command --------------------------------------------------------------------------- */

static enum td_status shape_of_option(struct cli *cli, struct fields *fields)
{
    const char *text = cli->options[OPTION_SHAPE];
    fields->present = 0;
    if (!text)
        return TD_OK;
    enum td_status status = field_from_text(FIELD_shape, text_of(text), fields);
    cli->misused = status != TD_OK;
    return status;
}

static enum td_status choose_format(struct cli *cli, const struct file_in *file, enum format *out)
{
    const char *path = cli->arguments[1];
    TRY(format_choose(cli, strcmp(path, "-") == 0 ? NULL : path, out));
    if (*out == FORMAT_NONE)
        *out = format_recognise(file->bytes, file->length);
    if (*out == FORMAT_NONE && cli_has(cli, OPTION_DTYPE))
        *out = FORMAT_RAW;
    if (*out == FORMAT_NONE)
        return fail(TD_UNSUPPORTED,
                    "%s is in no format that its name or its first bytes tell; --format says "
                    "which (npy, npz, safetensors or json), and for raw bytes --dtype and --shape",
                    file->label);
    if (*out != FORMAT_RAW && cli_has(cli, OPTION_SHAPE))
        return cli_misused(cli, "--shape is for raw bytes; %s has the shape in it",
                           format_infos[*out].name);
    return TD_OK;
}

static enum td_status put_file(struct put *put, struct file_in *file)
{
    struct cli *cli = put->cli;
    struct load load = {.file = file};
    struct fields fields;
    uint64_t limit;
    TRY(cli_dtype(cli, &load.dtype));
    TRY(shape_of_option(cli, &fields));
    TRY(cli_counter(cli, "memory_limit_bytes", &limit));
    load.most_bytes = limit;
    /* The text of a number may take far more room than the number. */
    TRY(file_in_open(cli->arguments[1], limit < SIZE_MAX / 8 ? limit * 4 : SIZE_MAX, file));
    TRY(choose_format(cli, file, &load.format));
    if (FIELDS_HAS(&fields, shape))
        load.shape = &fields.shape;
    put->cast = load.dtype;
    if (load_holds_one(&load))
        return load_members(&load, take_member, put);
    return put->cast == TD_DTYPE_NONE ? put_several(put, file) : cast_several(put, &load);
}

enum td_status cmd_put(struct cli *cli)
{
    struct file_in file = {.label = NULL};
    struct put put = {.cli = cli, .name = cli->arguments[0]};
    enum td_status status = put_file(&put, &file);
    status = file_in_verdict(&file, status);
    file_in_close(&file);
    return status;
}
