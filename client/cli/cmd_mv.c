/* mv: another name for a tensor. */
#include "client/cli/commands.h"
#include "client/cli/output.h"

enum td_status cmd_mv(struct cli *cli)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    TRY(td_args_text(args, "input", cli->arguments[0]));
    TRY(td_args_text(args, "output", cli->arguments[1]));
    if (cli_has(cli, OPTION_CREATE_ONLY))
        TRY(td_args_bool(args, "create_only", true));
    TRY(cli_op(cli, "rename", args, cli->arguments[0], &reply));
    return cli_has(cli, OPTION_JSON) ? json_print_reply(reply) : TD_OK;
}
