/* help: what --help and tensorctl help print, from the table of commands. */
#ifndef CLI_HELP_H
#define CLI_HELP_H

#include "client/cli/cli.h"

/* A command's page, or the overview for NULL. */
NODISCARD enum td_status help_print(const struct cli *cli, const struct command *command);
/* An operation's fields; NOT_FOUND if there is no such operation. */
NODISCARD enum td_status help_print_op(struct cli *cli, const char *name);
/* The row of an operation, false if there is none. */
bool op_described(const char *name, struct td_op_description *out);
/* The next of words that are separated by spaces, as a description has its fields; false after the
 * last. *words goes on behind it. */
#define WORD_SIZE 64
bool word_next(const char **words, char word[WORD_SIZE]);
/* NOT_FOUND, naming the operations that are spelled like it. */
NODISCARD enum td_status op_unknown(const char *name);

#endif
