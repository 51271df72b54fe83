/* help: the overview, a command's page, an operation's fields. */
#include "client/cli/commands.h"
#include "client/cli/help.h"
#include "client/cli/output.h"
#include "client/cli/suggest.h"

#include <string.h>

#define OPTION_COLUMN 26

static void print_options(const struct option_row *options)
{
    for (; options->id != OPTION_NONE; options++) {
        char text[64] = "    ";
        if (options->letter)
            snprintf(text, sizeof text, "-%c, ", options->letter);
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "--%s%s%s", options->name,
                 options->argument ? " " : "", options->argument ? options->argument : "");
        printf("  %-*s%s\n", OPTION_COLUMN, text, options->meaning);
    }
}

static void print_overview(const struct cli *cli)
{
    const char *bold = style_begin(cli, STYLE_BOLD), *plain = style_end(cli, STYLE_BOLD);
    printf("tensorctl: the tensors of a tensord daemon, from the command line\n\n"
           "%susage%s  tensorctl [OPTION]... COMMAND [ARGUMENT]...\n\n%scommands%s\n",
           bold, plain, bold, plain);
    for (const struct command *c = commands; c->name; c++)
        printf("  %-12s%s\n", c->name, c->summary);
    printf("\n%soptions of every command%s\n", bold, plain);
    print_options(global_options);
    printf("\n%senvironment%s\n"
           "  TENSORD_URL, TENSORD_SOCKET  the daemon, without --url\n"
           "  TENSORD_TOKEN                the token, without --token-file\n"
           "  NO_COLOR                     no colours\n\n%sexit codes%s\n",
           bold, plain, bold, plain);
    for (const struct exit_row *row = exit_codes; row->meaning; row++)
        printf("  %3d  %s\n", row->code, row->meaning);
    puts("\ntensorctl help COMMAND tells more.");
}

enum td_status help_print(const struct cli *cli, const struct command *command)
{
    if (!command) {
        print_overview(cli);
        return TD_OK;
    }
    const char *bold = style_begin(cli, STYLE_BOLD), *plain = style_end(cli, STYLE_BOLD);
    printf("tensorctl %s: %s\n\n%susage%s  tensorctl %s%s%s%s\n", command->name, command->summary,
           bold, plain, command->name, command->options->id != OPTION_NONE ? " [OPTION]..." : "",
           *command->arguments ? " " : "", command->arguments);
    if (*command->help)
        printf("\n%s", command->help);
    if (command->options->id != OPTION_NONE) {
        printf("\n%soptions%s\n", bold, plain);
        print_options(command->options);
    }
    puts("\nOptions of every command, and exit codes: tensorctl --help.");
    return TD_OK;
}

bool op_described(const char *name, struct td_op_description *out)
{
    for (int i = 0; td_op_info(i, out); i++)
        if (strcmp(out->name, name) == 0)
            return true;
    return false;
}

bool word_next(const char **words, char word[WORD_SIZE])
{
    size_t length = strcspn(*words, " ");
    snprintf(word, WORD_SIZE, "%.*s", (int)length, *words);
    *words += length + ((*words)[length] == ' ');
    return length > 0;
}

enum td_status op_unknown(const char *name)
{
    struct suggestions near;
    struct td_op_description op;
    char text[SUGGESTIONS_TEXT_SIZE];
    suggestions_begin(&near, name);
    for (int i = 0; td_op_info(i, &op); i++)
        suggestions_offer(&near, op.name);
    return fail(TD_NOT_FOUND, "there is no operation '%s' (tensorctl op lists them)%s", name,
                suggestions_text(&near, text));
}

/* A row for each of the fields (names separated by spaces). */
static enum td_status add_fields(struct table *table, const char *names, const char *whether)
{
    for (char name[WORD_SIZE]; word_next(&names, name);) {
        int field = field_find(name, strlen(name));
        TRY(table_row(table, (const char *const[]){name, td_field_type(name), whether,
                                                   field ? field_infos[field].meaning : ""}));
    }
    return TD_OK;
}

enum td_status help_print_op(struct cli *cli, const char *name)
{
    _cleanup_(table_finish) struct table table = {.columns = 4,
                                                  .styles = {STYLE_BOLD, STYLE_GREEN, STYLE_DIM}};
    struct td_op_description op;
    if (!op_described(name, &op))
        return op_unknown(name);
    TRY(add_fields(&table, op.required, "needed"));
    TRY(add_fields(&table, op.optional, ""));
    printf("%s: %s\n\n", op.name, op.doc);
    table_print(cli, &table);
    if (op.makes_tensor)
        puts("\nThe result is a tensor: -o NAME publishes it.");
    if (op.takes_body)
        puts("\nThe elements come from --body FILE, as raw bytes in C order.");
    return TD_OK;
}

enum td_status cmd_help(struct cli *cli)
{
    if (cli->count == 0)
        return help_print(cli, NULL);
    const struct command *command = command_find(cli->arguments[0]);
    if (!command)
        return command_unknown(cli, cli->arguments[0]);
    if (cli->count == 1)
        return help_print(cli, command);
    if (strcmp(command->name, "op") != 0)
        return cli_misused(cli, "'%s' is one argument too many: tensorctl help %s",
                           cli->arguments[1], command->name);
    return help_print_op(cli, cli->arguments[1]);
}
