/* rm: names away. */
#include "client/cli/commands.h"
#include "client/cli/names.h"
#include "client/cli/output.h"

#include <string.h>

/* Asks on the terminal; only "y" and "yes" are a yes. */
static enum td_status confirm(struct cli *cli, const char *prefix, size_t count)
{
    char answer[16] = "";
    if (cli_has(cli, OPTION_YES))
        return TD_OK;
    if (!isatty(STDIN_FILENO))
        return cli_misused(cli, "%zu names begin with '%s'; --yes removes them without asking",
                           count, prefix);
    fprintf(stderr, "remove %zu name%s that begin%s with '%s'? [y/N] ", count,
            count == 1 ? "" : "s", count == 1 ? "s" : "", prefix);
    fflush(stderr);
    if (!fgets(answer, sizeof answer, stdin))
        fputc('\n', stderr);
    answer[strcspn(answer, "\n")] = '\0';
    if (strcasecmp(answer, "y") != 0 && strcasecmp(answer, "yes") != 0)
        return fail(TD_INVALID, "nothing was removed");
    return TD_OK;
}

struct removal {
    struct cli *cli;
    bool by_prefix;
    cJSON *names; /* those that were removed, with --json */
};

static enum td_status removed(struct removal *removal, const char *name)
{
    cJSON *text;
    if (!removal->names)
        return TD_OK;
    text = cJSON_CreateString(name);
    if (text && cJSON_AddItemToArray(removal->names, text))
        return TD_OK;
    cJSON_Delete(text);
    return fail(TD_OUT_OF_MEMORY, "no memory for the JSON document");
}

/* All are tried, as long as the daemon answers; the first error counts. */
static enum td_status remove_all(struct removal *removal, char *const *names, size_t count)
{
    enum td_status result = TD_OK;
    for (size_t i = 0; i < count; i++) {
        enum td_status status = cli_op_input(removal->cli, "delete", names[i], NULL);
        if (status == TD_NOT_FOUND && removal->by_prefix)
            continue; /* somebody else was faster */
        if (status == TD_OK)
            status = removed(removal, names[i]);
        if (status != TD_OK)
            cli_tell(removal->cli, status);
        if (result == TD_OK)
            result = status;
        if (status == TD_CONNECTION || status == TD_DEADLINE)
            break;
    }
    return result;
}

static enum td_status remove_prefix(struct removal *removal, const char *prefix)
{
    _cleanup_(name_list_finish) struct name_list list = {0};
    TRY(names_each(removal->cli, prefix, UINT64_MAX, name_list_add, &list));
    if (list.count == 0)
        return fail(TD_NOT_FOUND, "no name begins with '%s'", prefix);
    TRY(confirm(removal->cli, prefix, list.count));
    TRY(remove_all(removal, list.names, list.count));
    cli_note(removal->cli, "removed %zu name%s", list.count, list.count == 1 ? "" : "s");
    return TD_OK;
}

/* {"removed": [...]}, also when not all could be. */
static enum td_status print_removed(cJSON *names)
{
    cJSON *root = cJSON_CreateObject();
    if (root && cJSON_AddItemToObject(root, "removed", names))
        return json_print(root);
    cJSON_Delete(root);
    cJSON_Delete(names);
    return json_print(NULL);
}

enum td_status cmd_rm(struct cli *cli)
{
    struct removal removal = {.cli = cli, .by_prefix = cli_has(cli, OPTION_PREFIX)};
    if ((cli->count > 0) == removal.by_prefix)
        return cli_misused(cli, "rm takes names, or --prefix PREFIX");
    if (cli_has(cli, OPTION_JSON) && !(removal.names = cJSON_CreateArray()))
        return fail(TD_OUT_OF_MEMORY, "no memory for the JSON document");
    enum td_status status = removal.by_prefix
                                ? remove_prefix(&removal, cli->options[OPTION_PREFIX])
                                : remove_all(&removal, cli->arguments, (size_t)cli->count);
    if (!removal.names)
        return status;
    if (status != TD_OK && !cli->told)
        cli_tell(cli, status);
    enum td_status printed = print_removed(removal.names);
    return status == TD_OK ? printed : status;
}
