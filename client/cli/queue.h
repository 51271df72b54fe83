/* queue: what the files of the command queue share. */
#ifndef CLI_QUEUE_H
#define CLI_QUEUE_H

#include "client/cli/output.h"

#define META_TEXT_SIZE 4097 /* what is said with an item, at most */

/* An operation on the queue of that name, with more arguments or NULL. */
NODISCARD enum td_status queue_op(struct cli *cli, const char *op, struct td_args *args,
                                  const char *queue, struct td_reply **out);
/* How long to wait for an item or room: --timeout, 0 for ever. */
NODISCARD enum td_status queue_patience(struct cli *cli, struct td_args *args);
/* A row of the table; in a pipe at once a line, with one tab between its cells. */
NODISCARD enum td_status queue_row(const struct cli *cli, struct table *table,
                                   const char *const *cells);
/* What somebody said with an item, for a line of text: nothing in it that moves a terminal's cursor
 * or makes it another line or column. Returns `text`. */
char *queue_plain(char *text);
/* A reply's number, 0 without it. */
uint64_t queue_number(const struct td_reply *reply, const char *field);

/* queue_put.c, queue_get.c: the subcommands of these names; the arguments begin with the queue. */
NODISCARD enum td_status queue_put(struct cli *cli, const char *queue, char *const *words,
                                   int count);
NODISCARD enum td_status queue_get(struct cli *cli, const char *queue);

#endif
