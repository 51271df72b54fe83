/* wait: until a name is published. */
#include "client/cli/commands.h"
#include "client/cli/output.h"

enum td_status cmd_wait(struct cli *cli)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    const char *name = cli->arguments[0];
    uint64_t generation, timeout_ms;
    TRY(cli_number(cli, OPTION_GENERATION, 1, UINT64_MAX, 0, &generation));
    TRY(cli_duration(cli, OPTION_TIMEOUT, TIMEOUT_DEFAULT_MS, &timeout_ms));
    TRY(td_args_text(args, "input", name));
    if (generation)
        TRY(td_args_uint(args, "generation", generation));
    if (timeout_ms)
        TRY(td_args_uint(args, "timeout_ms", timeout_ms));
    TRY(cli_op(cli, "wait", args, name, &reply));
    if (cli_has(cli, OPTION_JSON))
        return json_print_reply(reply);
    return cli_has(cli, OPTION_QUIET) ? TD_OK : reply_print(cli, reply);
}
