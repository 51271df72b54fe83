/* options: the command line, by the tables of commands.c. */
#include "client/cli/commands.h"
#include "client/cli/suggest.h"
#include "proto/format/json.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

const struct command *command_find(const char *name)
{
    for (const struct command *c = commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

/* The row of a long name (`length` bytes of it) or of a letter, NULL if the table has none. */
static const struct option_row *find_in(const struct option_row *table, const char *name,
                                        size_t length, char letter)
{
    for (; table && table->id != OPTION_NONE; table++)
        if (name ? strlen(table->name) == length && memcmp(table->name, name, length) == 0
                 : table->letter == letter)
            return table;
    return NULL;
}

const struct option_row *option_find(const struct command *command, const char *name, size_t length,
                                     char letter)
{
    const struct option_row *row = command ? find_in(command->options, name, length, letter) : NULL;
    return row ? row : find_in(global_options, name, length, letter);
}

static enum td_status unknown_option(struct cli *cli, const char *flag)
{
    struct suggestions near;
    char text[SUGGESTIONS_TEXT_SIZE];
    suggestions_begin(&near, flag);
    const struct option_row *tables[] = {cli->command ? cli->command->options : NULL,
                                         global_options};
    for (size_t i = 0; i < 2; i++)
        for (const struct option_row *row = tables[i]; row && row->id != OPTION_NONE; row++) {
            char full[64];
            snprintf(full, sizeof full, "--%s", row->name);
            suggestions_offer(&near, full);
        }
    const char *field = flag + strspn(flag, "-");
    size_t length = strcspn(field, "=");
    if (cli->command && cli->command->run == cmd_op && field_find(field, length))
        return cli_misused(cli,
                           "there is no option %s; the fields of operations are written %.*s=...",
                           flag, (int)length, field);
    return cli_misused(cli, "there is no option %s (tensorctl %s%s--help lists them)%s", flag,
                       cli->command ? cli->command->name : "", cli->command ? " " : "",
                       suggestions_text(&near, text));
}

/* What others call a command, the daemon's own messages among them ("list shows ..."). */
static const char *const other_words[][2] = {
    {"list", "ls"},     {"queues", "queue ls"}, {"delete", "rm"},   {"del", "rm"},
    {"remove", "rm"},   {"rename", "mv"},       {"move", "mv"},     {"cat", "show"},
    {"print", "show"},  {"describe", "info"},   {"freeze", "seal"}, {"upload", "put"},
    {"download", "get"}};

/* A command that is not far from the name, or what does the same, or the operation of that name. */
static void suggest_commands(struct suggestions *near, const char *name)
{
    struct td_op_description op;
    char words[SUGGESTION_SIZE];
    suggestions_begin(near, name);
    for (const struct command *c = commands; c->name; c++)
        suggestions_offer(near, c->name);
    for (size_t i = 0; i < sizeof other_words / sizeof *other_words; i++)
        if (strcmp(name, other_words[i][0]) == 0) {
            suggestions_begin(near, other_words[i][1]);
            suggestions_offer(near, other_words[i][1]);
            return;
        }
    for (int i = 0; near->count == 0 && td_op_info(i, &op); i++)
        if (strcmp(name, op.name) == 0) {
            snprintf(words, sizeof words, "op %s", name);
            suggestions_begin(near, words);
            suggestions_offer(near, words);
        }
}

enum td_status command_unknown(struct cli *cli, const char *name)
{
    struct suggestions near;
    char text[SUGGESTIONS_TEXT_SIZE];
    suggest_commands(&near, name);
    return cli_misused(cli, "there is no command '%s' (tensorctl --help lists them)%s", name,
                       suggestions_text(&near, text));
}

/* Takes the option's argument from behind it, or from the next word. */
static enum td_status take_argument(struct cli *cli, const struct option_row *row,
                                    const char *attached, char **argv, int *i)
{
    if (!row->argument && attached)
        return cli_misused(cli, "--%s takes no value, and '%s' was given", row->name, attached);
    if (!row->argument)
        cli->options[row->id] = "";
    else if (attached)
        cli->options[row->id] = attached;
    else if (argv[*i + 1])
        cli->options[row->id] = argv[++*i];
    else
        return cli_misused(cli, "--%s needs a value: --%s %s", row->name, row->name, row->argument);
    return TD_OK;
}

static enum td_status parse_long(struct cli *cli, char **argv, int *i)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    const struct option_row *row = option_find(cli->command, name, length, 0);
    if (!row)
        return unknown_option(cli, argv[*i]);
    return take_argument(cli, row, equals ? equals + 1 : NULL, argv, i);
}

/* "-q", "-qy", "-o FILE", "-oFILE". */
static enum td_status parse_letters(struct cli *cli, char **argv, int *i)
{
    for (const char *letter = argv[*i] + 1; *letter; letter++) {
        const struct option_row *row = option_find(cli->command, NULL, 0, *letter);
        if (!row)
            return unknown_option(cli, argv[*i]);
        if (row->argument)
            return take_argument(cli, row, letter[1] ? letter + 1 : NULL, argv, i);
        cli->options[row->id] = "";
    }
    return TD_OK;
}

static enum td_status check_count(struct cli *cli)
{
    const struct command *c = cli->command;
    if (!c || cli_has(cli, OPTION_HELP) || cli_has(cli, OPTION_VERSION))
        return TD_OK;
    if (cli->count < c->arguments_min)
        return cli_misused(cli, "%s needs more: tensorctl %s %s", c->name, c->name, c->arguments);
    if (c->arguments_max >= 0 && cli->count > c->arguments_max)
        return cli_misused(cli, "'%s' is one argument too many: tensorctl %s %s",
                           cli->arguments[c->arguments_max], c->name, c->arguments);
    return TD_OK;
}

enum td_status cli_parse(struct cli *cli, int argc, char **argv)
{
    bool options_end = false;
    cli->arguments = argv; /* written over from its start: never past what was read */
    for (int i = 1; i < argc; i++) {
        char *word = argv[i];
        if (!options_end && strcmp(word, "--") == 0) {
            options_end = true;
        } else if (!options_end && word[0] == '-' && word[1] == '-') {
            TRY(parse_long(cli, argv, &i));
        } else if (!options_end && word[0] == '-' && word[1]) {
            TRY(parse_letters(cli, argv, &i));
        } else if (!cli->command) {
            cli->command = command_find(word);
            if (!cli->command)
                return command_unknown(cli, word);
        } else {
            cli->arguments[cli->count++] = word;
        }
    }
    return check_count(cli);
}

/* ---- arguments of options ------------------------------------------------------------------ */

static const struct option_row *row_of(const struct cli *cli, enum option_id option)
{
    for (const struct option_row *row = cli->command->options; row->id != OPTION_NONE; row++)
        if (row->id == option)
            return row;
    const struct option_row *row = global_options;
    while (row->id != option)
        row++;
    return row;
}

enum td_status cli_number(struct cli *cli, enum option_id option, uint64_t min, uint64_t max,
                          uint64_t otherwise, uint64_t *out)
{
    const char *text = cli->options[option];
    char *end;
    *out = otherwise;
    if (!text)
        return TD_OK;
    errno = 0;
    *out = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno || *out < min || *out > max)
        return cli_misused(cli, "--%s takes a number from %llu to %llu, and '%s' was given",
                           row_of(cli, option)->name, (unsigned long long)min,
                           (unsigned long long)max, text);
    return TD_OK;
}

enum td_status cli_duration(struct cli *cli, enum option_id option, uint64_t otherwise,
                            uint64_t *out_ms)
{
    const char *text = cli->options[option];
    *out_ms = otherwise;
    if (!text)
        return TD_OK;
    enum td_status status = duration_from_text(text_of(text), out_ms);
    if (status == TD_OK && *out_ms > (uint64_t)INT64_MAX / 1000000)
        status = fail(TD_INVALID, "'%s' is longer than any clock counts", text);
    cli->misused = status != TD_OK;
    return status;
}

enum td_status cli_size(struct cli *cli, enum option_id option, uint64_t otherwise, uint64_t *out)
{
    static const char units[] = "kMGT";
    const char *text = cli->options[option];
    *out = otherwise;
    if (!text)
        return TD_OK;
    char *end;
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    bool good = isdigit((unsigned char)*text) && !errno;
    const char *unit = *end ? strchr(units, *end == 'K' ? 'k' : *end) : NULL;
    if (unit) {
        uint64_t base = end[1] == 'i' ? 1024 : 1000;
        end += end[1] == 'i' ? 2 : 1;
        for (const char *u = units; u <= unit; u++)
            good = good && !__builtin_mul_overflow(number, base, &number);
    }
    if (*end == 'B')
        end++;
    if (!good || *end)
        return cli_misused(cli, "--%s takes a size such as 4096, 64KiB or 1GB, and '%s' was given",
                           row_of(cli, option)->name, text);
    *out = number;
    return TD_OK;
}

enum td_status cli_dtype(struct cli *cli, enum td_dtype *out)
{
    struct suggestions near;
    char list[SUGGESTIONS_TEXT_SIZE];
    const char *text = cli->options[OPTION_DTYPE];
    *out = text ? td_dtype_parse(text) : TD_DTYPE_NONE;
    if (!text || *out != TD_DTYPE_NONE)
        return TD_OK;
    suggestions_begin(&near, text);
    for (int dtype = 1; dtype < TD_DTYPE_END; dtype++)
        suggestions_offer(&near, td_dtype_name(dtype));
    return cli_misused(cli, "'%s' is no dtype; expected float32, int64, bool or the like%s", text,
                       suggestions_text(&near, list));
}
