/* save: tensors of the daemon into a file, in one request, as they all are at one moment. */
#include "client/cli/commands.h"
#include "client/cli/file_out.h"
#include "client/cli/format.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/sizes.h"

#include <inttypes.h>
#include <string.h>

/* The words behind the file, [KEY=]NAME, a line each. The caller frees *out. */
static enum td_status read_tensors(struct cli *cli, char **out)
{
    size_t room = 1, used = 0;
    for (int i = 1; i < cli->count; i++)
        room += strlen(cli->arguments[i]) + 1;
    *out = malloc(room);
    if (!*out)
        return fail(TD_OUT_OF_MEMORY, "no memory for %d names", cli->count);
    for (int i = 1; i < cli->count; i++) {
        if (strchr(cli->arguments[i], '\n'))
            return cli_misused(cli, "a name of a tensor has no line breaks");
        used += (size_t)snprintf(*out + used, room - used, "%s\n", cli->arguments[i]);
    }
    return TD_OK;
}

static enum td_status add_tensors(struct cli *cli, struct td_args *args)
{
    _cleanup_(freep) char *tensors = NULL;
    const char *prefix = cli->options[OPTION_PREFIX];
    if (cli->count > 1 && prefix)
        return cli_misused(cli, "save takes names, or --prefix PREFIX");
    if (prefix && *prefix)
        return td_args_text(args, "prefix", prefix);
    if (cli->count == 1)
        return TD_OK;
    TRY(read_tensors(cli, &tensors));
    cli_set_subject(cli, cli->count == 2 ? cli->arguments[1] : NULL);
    return td_args_text(args, "tensors", tensors);
}

static enum td_status add_options(struct cli *cli, struct td_args *args)
{
    enum td_dtype dtype;
    const char *path = cli->arguments[0];
    TRY(format_of_files(cli, strcmp(path, "-") == 0 ? NULL : path, args));
    TRY(cli_dtype(cli, &dtype));
    TRY(add_tensors(cli, args));
    if (dtype != TD_DTYPE_NONE)
        TRY(td_args_dtype(args, dtype));
    if (cli_has(cli, OPTION_METADATA))
        TRY(td_args_text(args, "metadata", cli->options[OPTION_METADATA]));
    if (cli_has(cli, OPTION_FORCE))
        TRY(td_args_bool(args, "force", true));
    return TD_OK;
}

/* The daemon writes the file itself. */
static enum td_status save_path(struct cli *cli, struct td_args *args, struct td_reply **reply)
{
    if (strcmp(cli->arguments[0], "-") == 0)
        return cli_misused(cli, "--by-daemon takes the path of a file, not standard output");
    TRY(td_args_text(args, "path", cli->arguments[0]));
    return td_op(cli->client, "save", args, NULL, 0, reply);
}

static enum td_status save_file(struct cli *cli, struct td_args *args, struct td_reply **reply)
{
    _cleanup_(file_out_close) struct file_out file = {.fd = -1};
    const char *path = cli->arguments[0];
    if (strcmp(path, "-") == 0 && cli->terminal)
        return cli_misused(cli, "the file is nothing for a terminal; name one, or send it into a "
                                "pipe");
    TRY(file_out_open(path, &file));
    progress_begin(file.label, 0);
    progress_bodies();
    enum td_status status = td_op_to_file(cli->client, "save", args, file.fd, reply);
    progress_end();
    TRY(status);
    return file_out_commit(&file);
}

static enum td_status tell(const struct cli *cli, const struct td_reply *reply)
{
    uint64_t count = 0;
    size_t bytes;
    char size[SIZE_TEXT_MAX];
    if (strcmp(cli->arguments[0], "-") == 0)
        return TD_OK;
    (void)td_reply_uint(reply, "count", &count);
    (void)td_reply_body(reply, &bytes); /* 0 for a file that the daemon has written */
    cli_note(cli, "%s: %" PRIu64 " tensor%s%s%s", cli->arguments[0], count, count == 1 ? "" : "s",
             bytes ? ", " : "", bytes ? size_text(bytes, size) : "");
    return cli_has(cli, OPTION_JSON) ? json_print_reply(reply) : TD_OK;
}

enum td_status cmd_save(struct cli *cli)
{
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    TRY(add_options(cli, args));
    TRY(cli_args_patience_of_all(cli, args));
    TRY(cli_has(cli, OPTION_BY_DAEMON) ? save_path(cli, args, &reply)
                                       : save_file(cli, args, &reply));
    return tell(cli, reply);
}
