/* cli: what the files of tensorctl share: the command line, the daemon, how a command ends.
 *
 * A command is a row of the table in commands.c and a file cmd_NAME.c. It is run with the options
 * and arguments it was given, and returns a status; main says what went wrong, once, and turns the
 * status into the exit code. Data goes to standard output, everything else to standard error.
 *
 * tensorctl has one thread. Texts of options and arguments live as long as the process.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "client/tensord.h"
#include "core/cleanup.h"
#include "core/fail.h"

#include <stdbool.h>
#include <stdio.h>

CLEANUP_DEFINE(struct td_reply *, td_reply_free)
CLEANUP_DEFINE(struct td_args *, td_args_free)

#define NAME_SIZE 513 /* of the longest name of a tensor, and NUL */

/* ---- the command line ---------------------------------------------------------------------- */

/* Every option of every command, once. */
enum option_id {
    OPTION_NONE,
    OPTION_URL,
    OPTION_TOKEN_FILE,
    OPTION_TIMEOUT,
    OPTION_JSON,
    OPTION_QUIET,
    OPTION_NO_COLOR,
    OPTION_HELP,
    OPTION_VERSION,
    OPTION_FLAT,
    OPTION_NAMES,
    OPTION_BYTES,
    OPTION_DTYPE,
    OPTION_DEVICE,
    OPTION_KIND,
    OPTION_MIN_SIZE,
    OPTION_GLOB,
    OPTION_OUTPUT,
    OPTION_FORMAT,
    OPTION_SHAPE,
    OPTION_MUTABLE,
    OPTION_REQUIRES_GRAD,
    OPTION_CREATE_ONLY,
    OPTION_PREFIX,
    OPTION_YES,
    OPTION_BODY,
    OPTION_WATCH,
    OPTION_COUNT,
    OPTION_INTERVAL,
    OPTION_SIZE,
    OPTION_GENERATION,
    OPTION_MAX_ITEMS,
    OPTION_MAX_BYTES,
    OPTION_WHEN_FULL,
    OPTION_VISIBILITY,
    OPTION_META,
    OPTION_FILE,
    OPTION_NO_ACK,
    OPTION_PARKED,
    OPTION_WAIT,
    OPTION_TTL,
    OPTION_METADATA,
    OPTION_FORCE,
    OPTION_BY_DAEMON,
    OPTION_END
};

/* What may stand in a place of the command line, for the shells' completion. */
enum completion {
    COMPLETE_NOTHING,
    COMPLETE_NAME,
    COMPLETE_FILE,
    COMPLETE_COMMAND,
    COMPLETE_OP,
    COMPLETE_FIELD, /* of the operation before it: field=value */
    COMPLETE_DTYPE,
    COMPLETE_FORMAT,
    COMPLETE_WHOLE_FORMAT, /* of load and save */
    COMPLETE_KEYED_NAME,   /* [KEY=]NAME */
    COMPLETE_KIND,
    COMPLETE_DEVICE,
    COMPLETE_SHELL,
    COMPLETE_QUEUE_COMMAND,
    COMPLETE_QUEUE, /* a queue's name, and behind it what an item is made of */
    COMPLETE_POLICY,
};

struct option_row {
    enum option_id id; /* OPTION_NONE ends a table */
    char letter;       /* of the short form, or 0 */
    const char *name;
    const char *argument; /* its name in the help; NULL: a switch */
    const char *meaning;
    enum completion completion; /* of the argument */
};

struct cli;

struct command {
    const char *name;
    enum td_status (*run)(struct cli *cli);
    const char *arguments; /* what stands behind the name in the usage */
    const char *summary;   /* one line */
    const char *help;      /* paragraphs, or "" */
    const struct option_row *options;
    int arguments_min, arguments_max; /* max < 0: any number */
    enum completion first, rest;      /* of the arguments */
};

extern const struct command commands[]; /* ends with a name of NULL */
extern const struct option_row global_options[];

/* The command of a name, NULL if there is none. */
const struct command *command_find(const char *name);
/* The option of a long name (`length` bytes of it), or of a letter with a name of NULL; NULL if
 * there is none. The command's own (NULL: none) come first: they may use a letter of the global
 * ones. */
const struct option_row *option_find(const struct command *command, const char *name, size_t length,
                                     char letter);
/* INVALID, with `misused`, naming the commands that are spelled like it. */
NODISCARD enum td_status command_unknown(struct cli *cli, const char *name);

struct cli {
    const struct command *command;   /* NULL: none was named */
    const char *options[OPTION_END]; /* the argument, "" for a switch; NULL: not given */
    int count;                       /* of arguments */
    char **arguments;
    bool misused;            /* the error is one of usage */
    bool told;               /* the error was told already, see cli_tell */
    bool color;              /* standard output is a terminal that takes colours */
    bool terminal;           /* standard output is a terminal */
    char subject[NAME_SIZE]; /* that the last call was about, for "did you mean"; "": none */
    struct td_client *client;
};

/* Sorts argv into options and arguments. INVALID, with `misused`, names what is wrong. */
NODISCARD enum td_status cli_parse(struct cli *cli, int argc, char **argv);
/* True if the option was given. */
static inline bool cli_has(const struct cli *cli, enum option_id option)
{
    return cli->options[option] != NULL;
}
/* Is INVALID: the command line is wrong. The exit code is that of usage. */
#define cli_misused(cli, ...) ((cli)->misused = true, fail(TD_INVALID, __VA_ARGS__))

/* ---- numbers on the command line ----------------------------------------------------------- */

/* The option's argument as a number from min to max, or what it is without the option. */
NODISCARD enum td_status cli_number(struct cli *cli, enum option_id option, uint64_t min,
                                    uint64_t max, uint64_t otherwise, uint64_t *out);
/* The same for a duration such as 500ms or 2s, in milliseconds. */
NODISCARD enum td_status cli_duration(struct cli *cli, enum option_id option, uint64_t otherwise,
                                      uint64_t *out_ms);
/* The same for a size such as 4096, 64KiB or 1GB. */
NODISCARD enum td_status cli_size(struct cli *cli, enum option_id option, uint64_t otherwise,
                                  uint64_t *out);
/* --dtype in any spelling; TD_DTYPE_NONE without it. */
NODISCARD enum td_status cli_dtype(struct cli *cli, enum td_dtype *out);

#define TIMEOUT_DEFAULT_MS 30000 /* without --timeout */

/* ---- the daemon ---------------------------------------------------------------------------- */

/* Connects, unless that was done. */
NODISCARD enum td_status cli_connect(struct cli *cli);
/* The name that errors from here on are about; NULL: none. Copied. */
void cli_set_subject(struct cli *cli, const char *subject);
/* Gives a call with a body of that size time enough for a slow line, unless --timeout says how long
 * a call may take. */
NODISCARD enum td_status cli_args_patience(const struct cli *cli, struct td_args *args,
                                           uint64_t body_bytes);
/* The same where the size is not known, but that the daemon has room for it. */
NODISCARD enum td_status cli_args_patience_of_all(struct cli *cli, struct td_args *args);
/* td_op after cli_connect. `subject` is the name it is about, or NULL. */
NODISCARD enum td_status cli_op(struct cli *cli, const char *op, const struct td_args *args,
                                const char *subject, struct td_reply **out);
/* An operation whose only argument is its input. */
NODISCARD enum td_status cli_op_input(struct cli *cli, const char *op, const char *input,
                                      struct td_reply **out);
/* One of the daemon's counters; 0 if it has none of that name. */
NODISCARD enum td_status cli_counter(struct cli *cli, const char *name, uint64_t *out);

/* ---- how it ends --------------------------------------------------------------------------- */

enum {
    EXIT_REFUSED = 1,
    EXIT_USAGE = 2,
    EXIT_NOT_FOUND = 3,
    EXIT_CONNECT = 4,
    EXIT_CONFLICT = 5,
    EXIT_LIMIT = 6,
    EXIT_TIME = 7,
    EXIT_QUEUE = 8,
    EXIT_CLOSED = 9,
    EXIT_INTERRUPTED = 130,
    EXIT_PIPE = 141,
};

struct exit_row {
    int code;
    const char *meaning;
};
extern const struct exit_row exit_codes[]; /* ends with a meaning of NULL */

/* Flushes standard output and ends the command: says what went wrong, and gives the exit code. */
int cli_finish(struct cli *cli, enum td_status status);
/* Says what went wrong at once, for commands that go on after an error. The exit code. */
int cli_tell(struct cli *cli, enum td_status status);
/* Says to standard error what a person may want to know, unless --quiet. */
__attribute__((format(printf, 2, 3))) void cli_note(const struct cli *cli, const char *format, ...);
/* UNAVAILABLE when standard output takes no more: long outputs stop there. */
NODISCARD enum td_status cli_check_output(void);

/* ---- signals ------------------------------------------------------------------------------- */

/* SIGINT, SIGTERM and SIGHUP end the process at once, and remove the guarded file. */
void signals_setup(void);
/* From here on the first of them only makes signals_caught true, for commands that go on until they
 * are told to stop. */
void signals_gentle(void);
/* The number of the signal that came, 0 if none did. */
int signals_caught(void);
/* A file that is to be removed when a signal ends the process; NULL: none any more. Copied. */
void signals_guard_file(const char *path);
/* A mapped file; NULL: none any more. Should somebody make it shorter, reading what is gone says so
 * and ends the process. */
void signals_guard_map(const void *bytes, size_t length);
/* Whether a line of progress stands on the terminal, to be wiped by a signal that ends it. */
void signals_line(bool drawn);
/* Keeps the signals off while a file is made and guarded, or moved to its place. */
void signals_hold(bool hold);
/* Sleeps, but not on after a signal. */
void signals_sleep(uint64_t milliseconds);

#endif
