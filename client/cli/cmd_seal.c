/* seal: nobody changes a tensor any more. */
#include "client/cli/commands.h"
#include "client/cli/output.h"

#include <string.h>

static enum td_status seal(struct cli *cli, const char *name, uint64_t wait_ms,
                           struct json_list *json)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    const char *memory = "";
    TRY(td_args_text(args, "input", name));
    if (cli_has(cli, OPTION_WAIT))
        TRY(td_args_uint(args, "wait_ms", wait_ms));
    TRY(cli_op(cli, "seal", args, name, &reply));
    if (cli_has(cli, OPTION_JSON))
        return json_list_item(json, json_of_reply(reply));
    (void)td_reply_text(reply, "memory", &memory);
    if (strcmp(memory, "copied") == 0)
        cli_note(cli, "%s is a frozen copy now: others have its former memory mapped", name);
    else
        cli_note(cli, "%s is frozen", name);
    return TD_OK;
}

enum td_status cmd_seal(struct cli *cli)
{
    struct json_list json = {0};
    uint64_t wait_ms;
    TRY(cli_duration(cli, OPTION_WAIT, 0, &wait_ms));
    for (int i = 0; i < cli->count; i++)
        TRY(seal(cli, cli->arguments[i], wait_ms, &json));
    if (cli_has(cli, OPTION_JSON))
        json_list_end(&json);
    return TD_OK;
}
