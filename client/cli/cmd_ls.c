/* ls: what there is, as a tree, as a table, as lines, or as JSON. */
#include "client/cli/commands.h"
#include "client/cli/listing.h"
#include "client/cli/names.h"
#include "client/cli/sizes.h"

#include <fnmatch.h>
#include <string.h>

struct filter {
    enum td_dtype dtype;
    const char *device, *kind, *glob;
    uint64_t min_size;
};

struct ls {
    struct cli *cli;
    struct filter filter;
    struct json_list json;
    struct table table;
    uint64_t bytes; /* of all elements in the table */
};

static bool device_matches(const char *wanted, const char *device)
{
    size_t length = strlen(wanted);
    /* "cuda" is any of them. */
    return strcmp(wanted, device) == 0 ||
           (strncmp(wanted, device, length) == 0 && device[length] == ':');
}

static bool matches(const struct filter *filter, const struct td_info *info)
{
    return (filter->dtype == TD_DTYPE_NONE || info->dtype == filter->dtype) &&
           (!filter->device || device_matches(filter->device, info->device)) &&
           (!filter->kind ||
            strcmp(filter->kind, info->is_variable ? "variable" : "tensor") == 0) &&
           (!filter->glob || fnmatch(filter->glob, info->name, 0) == 0) &&
           (uint64_t)info->nbytes >= filter->min_size;
}

static bool is_device(const char *text)
{
    static const char gpu[] = "cuda:";
    if (strncmp(text, gpu, strlen(gpu)) != 0)
        return strcmp(text, "cpu") == 0 || strcmp(text, "cuda") == 0;
    const char *number = text + strlen(gpu);
    return *number && number[strspn(number, "0123456789")] == '\0';
}

static enum td_status filter_read(struct cli *cli, struct filter *filter)
{
    filter->device = cli->options[OPTION_DEVICE];
    filter->kind = cli->options[OPTION_KIND];
    filter->glob = cli->options[OPTION_GLOB];
    if (filter->device && !is_device(filter->device))
        return cli_misused(cli, "--device is cpu, cuda or cuda:N, not '%s'", filter->device);
    if (filter->kind && strcmp(filter->kind, "tensor") != 0 &&
        strcmp(filter->kind, "variable") != 0)
        return cli_misused(cli, "--kind is tensor or variable, not '%s'", filter->kind);
    TRY(cli_dtype(cli, &filter->dtype));
    return cli_size(cli, OPTION_MIN_SIZE, 0, &filter->min_size);
}

static void print_line(const struct cli *cli, const struct td_info *info)
{
    struct listing_cells line;
    listing_cells(info, cli_has(cli, OPTION_BYTES), &line);
    for (int i = 0; i < LISTING_COLUMNS; i++)
        printf("%s%s", i ? "\t" : "", line.cells[i]);
    putchar('\n');
}

static enum td_status add_row(struct ls *ls, const struct td_info *info)
{
    struct listing_cells line;
    listing_cells(info, cli_has(ls->cli, OPTION_BYTES), &line);
    ls->bytes += (uint64_t)info->nbytes;
    return table_row(&ls->table, line.cells);
}

static enum td_status visit(void *argument, const struct td_reply *entry)
{
    struct ls *ls = argument;
    struct td_info info;
    TRY(td_reply_info(entry, &info));
    if (!matches(&ls->filter, &info))
        return TD_OK;
    if (ferror(stdout))
        return cli_check_output();
    if (cli_has(ls->cli, OPTION_JSON))
        return json_list_item(&ls->json, json_of_reply(entry));
    if (!cli_has(ls->cli, OPTION_NAMES) && ls->cli->terminal)
        return add_row(ls, &info);
    if (cli_has(ls->cli, OPTION_NAMES))
        puts(info.name);
    else
        print_line(ls->cli, &info);
    return TD_OK;
}

static enum td_status print_tree(const struct ls *ls)
{
    _cleanup_(table_finish) struct table tree = {0};
    size_t count = ls->table.count / LISTING_COLUMNS;
    char size[SIZE_TEXT_MAX];
    TRY(listing_tree(&ls->table, &tree));
    table_print(ls->cli, &tree);
    printf("%zu tensor%s, %s\n", count, count == 1 ? "" : "s", size_text(ls->bytes, size));
    return TD_OK;
}

static enum td_status print_all(const struct ls *ls, const char *prefix)
{
    const struct cli *cli = ls->cli;
    if (cli_has(cli, OPTION_JSON))
        json_list_end(&ls->json);
    else if (ls->table.count > 0 && !cli_has(cli, OPTION_FLAT))
        return print_tree(ls);
    else if (ls->table.count > 0)
        table_print(cli, &ls->table);
    else if (cli->terminal && !cli_has(cli, OPTION_NAMES))
        cli_note(cli, "nothing matches%s%s", *prefix ? ": " : "", prefix);
    return TD_OK;
}

enum td_status cmd_ls(struct cli *cli)
{
    struct ls ls = {.cli = cli, .table = listing_table()};
    const char *prefix = cli->count ? cli->arguments[0] : "";
    TRY(filter_read(cli, &ls.filter));
    enum td_status status = names_each(cli, prefix, UINT64_MAX, visit, &ls);
    if (status == TD_OK)
        status = print_all(&ls, prefix);
    table_finish(&ls.table);
    return status;
}
