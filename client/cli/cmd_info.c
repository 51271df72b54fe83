/* info: what the daemon knows of a tensor. */
#include "client/cli/commands.h"
#include "client/cli/output.h"

enum td_status cmd_info(struct cli *cli)
{
    struct json_list json = {0};
    bool many = cli->count > 1;
    for (int i = 0; i < cli->count; i++) {
        _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
        TRY(cli_op_input(cli, "info", cli->arguments[i], &reply));
        if (cli_has(cli, OPTION_JSON) && many) {
            TRY(json_list_item(&json, json_of_reply(reply)));
        } else if (cli_has(cli, OPTION_JSON)) {
            TRY(json_print_reply(reply));
        } else {
            fputs(i > 0 ? "\n" : "", stdout);
            TRY(reply_print(cli, reply));
        }
    }
    if (cli_has(cli, OPTION_JSON) && many)
        json_list_end(&json);
    return TD_OK;
}
