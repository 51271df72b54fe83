/* commands: what each command does, in its own file. Returned errors are as cli.h says. */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#include "client/cli/cli.h"

enum td_status cmd_ls(struct cli *cli);
enum td_status cmd_info(struct cli *cli);
enum td_status cmd_show(struct cli *cli);
enum td_status cmd_put(struct cli *cli);
enum td_status cmd_get(struct cli *cli);
enum td_status cmd_load(struct cli *cli);
enum td_status cmd_save(struct cli *cli);
enum td_status cmd_rm(struct cli *cli);
enum td_status cmd_mv(struct cli *cli);
enum td_status cmd_seal(struct cli *cli);
enum td_status cmd_op(struct cli *cli);
enum td_status cmd_stats(struct cli *cli);
enum td_status cmd_leases(struct cli *cli);
enum td_status cmd_principals(struct cli *cli);
enum td_status cmd_watch(struct cli *cli);
enum td_status cmd_wait(struct cli *cli);
enum td_status cmd_queue(struct cli *cli);
enum td_status cmd_ping(struct cli *cli);
enum td_status cmd_completion(struct cli *cli);
enum td_status cmd_help(struct cli *cli);

/* The name of number i of queue's commands; NULL behind the last. */
const char *queue_subcommand(size_t i);

#endif
