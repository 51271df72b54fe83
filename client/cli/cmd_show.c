/* show: elements as PyTorch prints them; with --json as they are. */
#include "client/cli/commands.h"
#include "client/cli/save.h"

enum td_status cmd_show(struct cli *cli)
{
    _cleanup_(views_close) struct views views = {0};
    _cleanup_(file_out_close) struct file_out file = {.fd = -1};
    TRY(views_open(cli, (const char *const *)cli->arguments, (size_t)cli->count, false, &views));
    TRY(file_out_open("-", &file));
    struct save save = {
        .cli = cli,
        .file = &file,
        .count = views.count,
        .views = views.views,
        .names = (const char *const *)cli->arguments,
    };
    return save_tensors(&save, cli_has(cli, OPTION_JSON) ? FORMAT_JSON : FORMAT_TEXT);
}
