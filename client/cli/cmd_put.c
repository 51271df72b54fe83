/* put: the tensors of a file into the daemon.
 *
 * A file with one tensor is one request. The tensors of others are sent as anonymous objects first
 * and get their names when all have arrived, so that what goes wrong before changes nothing. What
 * is to be cast goes there and back: the casts are the daemon's, but what its operations make is
 * mutable, and only what arrives finished is frozen.
 */
#include "client/cli/commands.h"
#include "client/cli/load.h"
#include "client/cli/names.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/sizes.h"
#include "proto/format/json.h"

#include <inttypes.h>
#include <string.h>

/* A tensor that has arrived, without its name yet. */
struct staged {
    char name[NAME_SIZE];
    uint64_t id;
};

struct put {
    struct cli *cli;
    const char *name;
    enum td_dtype cast; /* NONE: stored as it is in the file */
    bool mutable, requires_grad, create_only;
    struct staged *staged;
    size_t count, capacity;
    struct json_list json;
    bool single; /* the file holds one tensor, without a name of its own */
};

/* The tensor's name: NAME, or NAME/member. */
static enum td_status member_name(const struct put *put, const struct member *member,
                                  char out[NAME_SIZE])
{
    size_t length = strlen(put->name);
    bool folder = length > 0 && put->name[length - 1] == '/';
    bool exact = member->only && !(folder && *member->name);
    int needed = snprintf(out, NAME_SIZE, "%s%s%s", put->name, exact || folder ? "" : "/",
                          exact ? "" : member->name);
    if (needed >= NAME_SIZE)
        return fail(TD_INVALID, "the name of '%.80s...' has %d bytes; a name has %d at most", out,
                    needed, NAME_SIZE - 1);
    return TD_OK;
}

static enum td_status tell(struct put *put, const struct td_reply *reply)
{
    struct td_info info;
    char shape[SHAPE_TEXT_SIZE], size[SIZE_TEXT_MAX];
    TRY(td_reply_info(reply, &info));
    progress_end();
    cli_note(put->cli, "%s: %s %s, %s", info.name, td_dtype_name((int)info.dtype),
             layout_shape_text(info.rank, info.shape, shape, sizeof shape),
             size_text((uint64_t)info.nbytes, size));
    if (!cli_has(put->cli, OPTION_JSON))
        return TD_OK;
    return put->single ? json_print_reply(reply) : json_list_item(&put->json, json_of_reply(reply));
}

/* ---- sending ------------------------------------------------------------------------------- */

/* Sends the elements by put, under a name, or by tensor, without one. */
static enum td_status send_member(struct put *put, const struct member *member, const char *name,
                                  struct td_reply **reply)
{
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    TRY(td_args_dtype(args, member->dtype));
    TRY(td_args_dims(args, "shape", member->shape.rank, member->shape.v));
    TRY(td_args_bool(args, "mutable", put->mutable || member->mutable));
    if (put->requires_grad || member->requires_grad)
        TRY(td_args_bool(args, "requires_grad", true));
    if (name)
        TRY(td_args_text(args, "output", name));
    if (name && put->create_only)
        TRY(td_args_bool(args, "create_only", true));
    TRY(cli_args_patience(put->cli, args, member->size_bytes));
    progress_begin(name ? name : member->name, member->size_bytes);
    progress_bodies();
    enum td_status status = td_op(put->cli->client, name ? "put" : "tensor", args, member->elements,
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

static enum td_status stage(struct put *put, const struct member *member, const char *name)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    struct td_info info;
    if (put->count == put->capacity) {
        size_t capacity = put->capacity ? put->capacity * 2 : 16;
        struct staged *grown = reallocarray(put->staged, capacity, sizeof *grown);
        if (!grown)
            return fail(TD_OUT_OF_MEMORY, "no memory for %zu tensors", capacity);
        put->staged = grown;
        put->capacity = capacity;
    }
    TRY(send_member(put, member, NULL, &reply));
    TRY(td_reply_info(reply, &info));
    put->staged[put->count].id = info.id;
    strcpy(put->staged[put->count].name, name);
    put->count++;
    return TD_OK;
}

/* Finds what would be refused in the end, names that are none and taken ones, before the elements
 * are sent. */
static enum td_status check_name(struct put *put, const char *name)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    enum td_status status = cli_op_input(put->cli, "info", name, &reply);
    if (status == TD_NOT_FOUND)
        return TD_OK;
    if (status == TD_OK && put->create_only)
        return fail(TD_EXISTS, "the name '%s' is taken; nothing was stored", name);
    return status;
}

static enum td_status take_member(void *argument, const struct member *member)
{
    struct put *put = argument;
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL, *cast = NULL;
    struct member as_cast;
    char name[NAME_SIZE];
    TRY(member_name(put, member, name));
    put->single = member->only;
    bool casts = put->cast != TD_DTYPE_NONE && put->cast != member->dtype;
    if (casts || !member->only)
        TRY(check_name(put, name));
    if (casts) {
        TRY(cast_member(put, member, &as_cast, &cast));
        member = &as_cast;
    }
    if (!member->only)
        return stage(put, member, name);
    TRY(send_member(put, member, name, &reply));
    return tell(put, reply);
}

/* ---- publishing ---------------------------------------------------------------------------- */

static enum td_status publish(struct put *put, const struct staged *staged)
{
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    char object[24];
    snprintf(object, sizeof object, "@%" PRIu64, staged->id);
    TRY(td_args_text(args, "input", object));
    TRY(td_args_text(args, "output", staged->name));
    if (put->create_only)
        TRY(td_args_bool(args, "create_only", true));
    TRY(td_op(put->cli->client, "as_tensor", args, NULL, 0, &reply));
    return tell(put, reply);
}

static enum td_status publish_all(struct put *put)
{
    char detail[FAIL_DETAIL_SIZE];
    for (size_t i = 0; i < put->count && put->create_only; i++)
        TRY(check_name(put, put->staged[i].name));
    for (size_t i = 0; i < put->count; i++) {
        enum td_status status = publish(put, &put->staged[i]);
        snprintf(detail, sizeof detail, "%s", fail_detail());
        if (status != TD_OK && i > 0)
            return fail(status, "%.900s; %zu of the file's %zu tensors are stored, the others not",
                        detail, i, put->count);
        TRY(status);
    }
    if (!put->single && put->count == 0)
        cli_note(put->cli, "the file holds no tensors");
    if (!put->single && cli_has(put->cli, OPTION_JSON))
        json_list_end(&put->json);
    return TD_OK;
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
    TRY(load_members(&load, take_member, put));
    return publish_all(put);
}

enum td_status cmd_put(struct cli *cli)
{
    struct file_in file = {.label = NULL};
    struct put put = {
        .cli = cli,
        .name = cli->arguments[0],
        .mutable = cli_has(cli, OPTION_MUTABLE),
        .requires_grad = cli_has(cli, OPTION_REQUIRES_GRAD),
        .create_only = cli_has(cli, OPTION_CREATE_ONLY),
    };
    enum td_status status = put_file(&put, &file);
    status = file_in_verdict(&file, status);
    file_in_close(&file);
    free(put.staged);
    return status;
}
