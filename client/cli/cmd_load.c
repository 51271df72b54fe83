/* load: all tensors of a file into the daemon, in one request. */
#include "client/cli/commands.h"
#include "client/cli/load.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/sizes.h"

#include <inttypes.h>
#include <string.h>

enum td_status load_flags(const struct cli *cli, struct td_args *args)
{
    static const struct {
        enum option_id option;
        const char *field;
    } flags[] = {
        {OPTION_MUTABLE, "mutable"},
        {OPTION_REQUIRES_GRAD, "requires_grad"},
        {OPTION_CREATE_ONLY, "create_only"},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (cli_has(cli, flags[i].option))
            TRY(td_args_bool(args, flags[i].field, true));
    return TD_OK;
}

static enum td_status add_options(struct cli *cli, struct td_args *args)
{
    enum td_dtype dtype;
    uint64_t ttl_ms;
    TRY(format_of_files(cli, NULL, args));
    TRY(cli_dtype(cli, &dtype));
    TRY(cli_duration(cli, OPTION_TTL, 0, &ttl_ms));
    if (cli_has(cli, OPTION_TTL) && ttl_ms == 0)
        return cli_misused(cli, "--ttl is a time above 0, such as 30s");
    if (cli_has(cli, OPTION_PREFIX) && *cli->options[OPTION_PREFIX])
        TRY(td_args_text(args, "prefix", cli->options[OPTION_PREFIX]));
    if (dtype != TD_DTYPE_NONE)
        TRY(td_args_dtype(args, dtype));
    if (ttl_ms > 0)
        TRY(td_args_uint(args, "ttl_ms", ttl_ms));
    return load_flags(cli, args);
}

/* The daemon reads the file itself. */
static enum td_status load_path(struct cli *cli, struct td_args *args, struct td_reply **reply)
{
    if (strcmp(cli->arguments[0], "-") == 0)
        return cli_misused(cli, "--by-daemon takes the path of a file, not standard input");
    TRY(td_args_text(args, "path", cli->arguments[0]));
    TRY(cli_args_patience_of_all(cli, args));
    return cli_op(cli, "load", args, NULL, reply);
}

enum td_status load_send(struct cli *cli, const struct file_in *file, struct td_args *args,
                         struct td_reply **reply)
{
    if (file->length == 0)
        return fail(TD_INVALID, "%s is empty; expected a safetensors, npz or npy file",
                    file->label);
    TRY(cli_args_patience(cli, args, file->length));
    progress_begin(file->label, file->length);
    progress_bodies();
    enum td_status status = td_op(cli->client, "load", args, file->bytes, file->length, reply);
    progress_end();
    return status;
}

static enum td_status load_file(struct cli *cli, struct td_args *args, struct td_reply **reply)
{
    struct file_in file = {.label = NULL};
    uint64_t limit;
    TRY(cli_counter(cli, "memory_limit_bytes", &limit));
    enum td_status status =
        file_in_open(cli->arguments[0], limit < SIZE_MAX ? (size_t)limit : SIZE_MAX, &file);
    if (status == TD_OK)
        status = load_send(cli, &file, args, reply);
    status = file_in_verdict(&file, status);
    file_in_close(&file);
    return status;
}

/* For people what came, for programs the tensors as ls lists them. */
static enum td_status tell(struct cli *cli, struct td_reply *reply)
{
    const struct td_reply *entry;
    struct json_list json = {0};
    size_t cursor = 0;
    uint64_t count = 0, bytes = 0, stored;
    char size[SIZE_TEXT_MAX];
    for (; td_reply_next(reply, &cursor, &entry); count++) {
        struct td_info info;
        TRY(td_reply_info(entry, &info));
        bytes += (uint64_t)info.nbytes;
        if (cli_has(cli, OPTION_JSON))
            TRY(json_list_item(&json, json_of_reply(entry)));
    }
    if (cli_has(cli, OPTION_JSON))
        json_list_end(&json);
    if (td_reply_uint(reply, "count", &stored) && stored > count)
        return fail(TD_OUT_OF_MEMORY,
                    "all %" PRIu64 " tensors of the file are stored, but the daemon had memory to "
                    "list %" PRIu64 " of them only; tensorctl ls lists them",
                    stored, count);
    bool standard = strcmp(cli->arguments[0], "-") == 0;
    cli_note(cli, "%s: %" PRIu64 " tensor%s, %s", standard ? "standard input" : cli->arguments[0],
             count, count == 1 ? "" : "s", size_text(bytes, size));
    return TD_OK;
}

enum td_status cmd_load(struct cli *cli)
{
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    TRY(add_options(cli, args));
    TRY(cli_has(cli, OPTION_BY_DAEMON) ? load_path(cli, args, &reply)
                                       : load_file(cli, args, &reply));
    return tell(cli, reply);
}
