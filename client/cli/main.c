/* tensorctl: tensord from the command line. */
#include "client/cli/cli.h"
#include "client/cli/help.h"
#include "client/cli/names.h"
#include "client/cli/progress.h"
#include "client/cli/suggest.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#define SUGGESTION_NAMES_MAX 20000 /* that are looked at for "did you mean" */

/* ---- exit codes ---------------------------------------------------------------------------- */

const struct exit_row exit_codes[] = {
    {0, "done"},
    {EXIT_REFUSED, "refused, or another error"},
    {EXIT_USAGE, "the command line is wrong"},
    {EXIT_NOT_FOUND, "there is no tensor or queue of that name, or no such operation"},
    {EXIT_CONNECT, "the daemon could not be reached, or did not let this client in"},
    {EXIT_CONFLICT, "the state of the tensor, or a condition, does not allow it"},
    {EXIT_LIMIT, "out of memory, or over another limit"},
    {EXIT_TIME, "not done in the time of --timeout"},
    {EXIT_QUEUE, "the queue had no item, or no room, in that time"},
    {EXIT_CLOSED, "the queue is closed, and nothing is to come"},
    {EXIT_INTERRUPTED, "interrupted (128 and the number of the signal)"},
    {EXIT_PIPE, "nobody reads the output any more"},
    {0, NULL},
};

/* What is not here is EXIT_REFUSED. */
static const struct {
    enum td_status status;
    int code;
    const char *hint; /* what to do, where the daemon's or the library's text does not say it */
} endings[] = {
    {TD_NOT_FOUND, EXIT_NOT_FOUND, NULL},
    {TD_CONNECTION, EXIT_CONNECT,
     "--url names another address: unix:///path/of/tensord.sock or tcp://host:7071"},
    {TD_UNAUTHORIZED, EXIT_CONNECT, "--token-file FILE or TENSORD_TOKEN gives the token"},
    {TD_PROTOCOL, EXIT_CONNECT, NULL},
    {TD_CONFLICT, EXIT_CONFLICT, NULL},
    {TD_EXISTS, EXIT_CONFLICT, NULL},
    {TD_REQUIRES_GRAD, EXIT_CONFLICT, NULL},
    {TD_WRONG_DEVICE, EXIT_CONFLICT, NULL},
    {TD_FROZEN, EXIT_CONFLICT, NULL},
    {TD_PRECONDITION, EXIT_CONFLICT, NULL},
    {TD_TOO_LARGE, EXIT_LIMIT, NULL},
    {TD_UNAVAILABLE, EXIT_LIMIT, NULL},
    {TD_OUT_OF_MEMORY, EXIT_LIMIT, "tensorctl stats shows what is in use"},
    {TD_DEADLINE, EXIT_TIME, "--timeout 2m waits longer"},
    {TD_EMPTY, EXIT_QUEUE, "--timeout 2m waits longer"},
    {TD_FULL, EXIT_QUEUE, NULL},
    {TD_CLOSED, EXIT_CLOSED, NULL},
};

static int exit_code_of(const struct cli *cli, enum td_status status, const char **hint)
{
    *hint = NULL;
    if (cli->misused)
        return EXIT_USAGE;
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
        if (endings[i].status == status) {
            *hint = endings[i].hint;
            return endings[i].code;
        }
    return EXIT_REFUSED;
}

/* ---- messages ------------------------------------------------------------------------------ */

void cli_note(const struct cli *cli, const char *format, ...)
{
    va_list arguments;
    if (cli_has(cli, OPTION_QUIET))
        return;
    fflush(stdout); /* on a terminal they stand in the order they were written */
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static enum td_status offer_name(void *suggestions, const struct td_reply *entry)
{
    const char *name;
    if (td_reply_text(entry, "name", &name))
        suggestions_offer(suggestions, name);
    return TD_OK;
}

/* The names nearest to the one that was not found, "" without any. */
static const char *near_names(struct cli *cli, char out[SUGGESTIONS_TEXT_SIZE])
{
    struct suggestions near;
    if (!*cli->subject || !cli->client)
        return "";
    suggestions_begin(&near, cli->subject);
    if (names_each(cli, "", SUGGESTION_NAMES_MAX, offer_name, &near) != TD_OK)
        return "";
    /* If it is there, it was another tensor that was not found. */
    bool there = near.count > 0 && near.near[0].distance == 0;
    return there ? "" : suggestions_text(&near, out);
}

/* {"error": {"code": "not_found", "message": ...}} */
static bool print_error_json(const char *code, const char *text, const char *near)
{
    bool printed = false;
    char *message = NULL, *document = NULL;
    cJSON *root = cJSON_CreateObject();
    cJSON *error = root ? cJSON_AddObjectToObject(root, "error") : NULL;
    if (asprintf(&message, "%s%s", text, near) < 0)
        message = NULL;
    if (error && message && cJSON_AddStringToObject(error, "code", code) &&
        cJSON_AddStringToObject(error, "message", message))
        document = cJSON_PrintUnformatted(root);
    if (document)
        printed = fprintf(stderr, "%s\n", document) > 0;
    cJSON_free(document);
    cJSON_Delete(root);
    free(message);
    return printed;
}

int cli_tell(struct cli *cli, enum td_status status)
{
    char text[FAIL_DETAIL_SIZE], near[SUGGESTIONS_TEXT_SIZE];
    const char *hint, *suggested = "";
    int code = exit_code_of(cli, status, &hint);
    snprintf(text, sizeof text, "%s", fail_detail());
    if (status == TD_NOT_FOUND && !cli->misused && !cli->told)
        suggested = near_names(cli, near);
    cli->told = true;
    if (cli_has(cli, OPTION_JSON) &&
        print_error_json(cli->misused ? "usage" : td_status_name((int)status), text, suggested))
        return code;
    fprintf(stderr, "tensorctl: %s%s\n", text, suggested);
    if (hint)
        fprintf(stderr, "tensorctl: %s\n", hint);
    if (cli->misused && cli->command && !cli_has(cli, OPTION_QUIET))
        fprintf(stderr, "tensorctl: see tensorctl help %s\n", cli->command->name);
    return code;
}

enum td_status cli_check_output(void)
{
    if (!ferror(stdout) && fflush(stdout) == 0)
        return TD_OK;
    if (errno == EPIPE)
        return fail(TD_CANCELLED, "nobody reads standard output any more");
    return fail(TD_INVALID, "standard output cannot be written: %s", strerror(errno));
}

int cli_finish(struct cli *cli, enum td_status status)
{
    progress_end();
    if (status == TD_OK)
        status = cli_check_output();
    int caught = signals_caught();
    if (caught)
        return 128 + caught;
    if (status == TD_CANCELLED)
        return EXIT_PIPE;
    const char *hint;
    if (status != TD_OK)
        return cli->told ? exit_code_of(cli, status, &hint) : cli_tell(cli, status);
    return 0;
}

/* ---- main ---------------------------------------------------------------------------------- */

static bool wants_color(const struct cli *cli)
{
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    return cli->terminal && !cli_has(cli, OPTION_NO_COLOR) && !(no_color && *no_color) &&
           !(term && strcmp(term, "dumb") == 0);
}

static enum td_status run(struct cli *cli, int argc, char **argv)
{
    TRY(cli_parse(cli, argc, argv));
    cli->terminal = isatty(STDOUT_FILENO);
    cli->color = wants_color(cli);
    progress_allow(!cli_has(cli, OPTION_QUIET));
    if (cli_has(cli, OPTION_VERSION)) {
        puts("tensorctl " TENSORD_VERSION);
        return TD_OK;
    }
    if (cli_has(cli, OPTION_HELP) && cli->command == command_find("op") && cli->count > 0)
        return help_print_op(cli, cli->arguments[0]);
    if (cli_has(cli, OPTION_HELP))
        return help_print(cli, cli->command);
    if (!cli->command)
        return cli_misused(cli, "no command was given; tensorctl --help lists them");
    return cli->command->run(cli);
}

int main(int argc, char **argv)
{
    struct cli cli = {.command = NULL};
    signals_setup();
    int code = cli_finish(&cli, run(&cli, argc, argv));
    td_close(cli.client);
    return code;
}
