/* leases, principals: who holds what, and how much of it. */
#include "client/cli/commands.h"
#include "client/cli/output.h"
#include "client/cli/sizes.h"

#include <inttypes.h>
#include <string.h>

static uint64_t number_of(const struct td_reply *entry, const char *field)
{
    uint64_t number = 0;
    (void)td_reply_uint(entry, field, &number);
    return number;
}

static const char *text_field(const struct td_reply *entry, const char *field)
{
    const char *text = "";
    (void)td_reply_text(entry, field, &text);
    return text;
}

static const char *bytes_text(const struct cli *cli, uint64_t bytes, char out[SIZE_TEXT_MAX])
{
    if (!cli_has(cli, OPTION_BYTES))
        return size_text(bytes, out);
    snprintf(out, SIZE_TEXT_MAX, "%" PRIu64, bytes);
    return out;
}

/* "0.4s", "12s", "5m03s", "3h20m", "12d4h". */
static const char *age_text(uint64_t age_ms, char out[SIZE_TEXT_MAX])
{
    uint64_t seconds = age_ms / 1000, minutes = seconds / 60, hours = minutes / 60;
    if (seconds < 10)
        snprintf(out, SIZE_TEXT_MAX, "%" PRIu64 ".%" PRIu64 "s", seconds, age_ms / 100 % 10);
    else if (minutes < 1)
        snprintf(out, SIZE_TEXT_MAX, "%" PRIu64 "s", seconds);
    else if (hours < 1)
        snprintf(out, SIZE_TEXT_MAX, "%" PRIu64 "m%02" PRIu64 "s", minutes, seconds % 60);
    else if (hours < 48)
        snprintf(out, SIZE_TEXT_MAX, "%" PRIu64 "h%02" PRIu64 "m", hours, minutes % 60);
    else
        snprintf(out, SIZE_TEXT_MAX, "%" PRIu64 "d%" PRIu64 "h", hours / 24, hours % 24);
    return out;
}

/* A row of the table on a terminal; in a pipe a line of its own. */
static enum td_status add_row(const struct cli *cli, struct table *table, const char *const *cells)
{
    if (cli->terminal)
        return table_row(table, cells);
    for (int i = 0; i < table->columns; i++)
        printf("%s%s", i ? "\t" : "", cells[i]);
    putchar('\n');
    return cli_check_output();
}

/* ---- leases -------------------------------------------------------------------------------- */

enum { LEASE_COLUMNS = 9 };

static enum td_status lease_row(const struct cli *cli, struct table *table,
                                const struct td_reply *entry)
{
    char id[24], pid[24] = "", session[24], storage[24] = "", size[SIZE_TEXT_MAX],
                 age[SIZE_TEXT_MAX], mode[48];
    uint64_t number;
    snprintf(id, sizeof id, "%" PRIu64, number_of(entry, "lease"));
    snprintf(session, sizeof session, "%" PRIu64, number_of(entry, "session"));
    if (number_of(entry, "pid"))
        snprintf(pid, sizeof pid, "%" PRIu64, number_of(entry, "pid"));
    if (td_reply_uint(entry, "storage", &number))
        snprintf(storage, sizeof storage, "%" PRIu64, number);
    const char *deleted = text_field(entry, "text");
    snprintf(mode, sizeof mode, "%.20s%s%.20s", text_field(entry, "mode"), *deleted ? " " : "",
             deleted);
    return add_row(cli, table,
                   (const char *const[LEASE_COLUMNS]){
                       id, text_field(entry, "kind"), text_field(entry, "principal"), pid, session,
                       storage, mode, bytes_text(cli, number_of(entry, "nbytes"), size),
                       age_text(number_of(entry, "age_ms"), age)});
}

/* Those after lease `after`, which moves on; 0 at the end. */
static enum td_status lease_page(struct cli *cli, uint64_t *after, struct json_list *json,
                                 struct table *table)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    const struct td_reply *entry;
    size_t cursor = 0;
    if (*after)
        TRY(td_args_uint(args, "lease", *after));
    TRY(cli_op(cli, "leases", args, NULL, &reply));
    while (td_reply_next(reply, &cursor, &entry)) {
        if (cli_has(cli, OPTION_JSON))
            TRY(json_list_item(json, json_of_reply(entry)));
        else
            TRY(lease_row(cli, table, entry));
    }
    *after = number_of(reply, "lease");
    return TD_OK;
}

enum td_status cmd_leases(struct cli *cli)
{
    static const char *const head[LEASE_COLUMNS] = {
        "LEASE", "KIND", "PRINCIPAL", "PID", "SESSION", "STORAGE", "MODE", "SIZE", "AGE"};
    _cleanup_(table_finish) struct table table = {
        .columns = LEASE_COLUMNS,
        .styles = {STYLE_BOLD, STYLE_GREEN, STYLE_PLAIN, STYLE_PLAIN, STYLE_DIM, STYLE_DIM,
                   STYLE_PLAIN, STYLE_PLAIN, STYLE_DIM},
        .right = {[0] = true, [3] = true, [4] = true, [5] = true, [7] = true, [8] = true},
    };
    struct json_list json = {0};
    uint64_t after = 0;
    if (cli->terminal && !cli_has(cli, OPTION_JSON))
        TRY(table_row(&table, head));
    do
        TRY(lease_page(cli, &after, &json, &table));
    while (after);
    if (cli_has(cli, OPTION_JSON))
        json_list_end(&json);
    else
        table_print(cli, &table);
    return TD_OK;
}

/* ---- principals ---------------------------------------------------------------------------- */

enum { QUOTA_COLUMNS = 4 };

static enum td_status quota_row(const struct cli *cli, struct table *table,
                                const struct td_reply *entry)
{
    char used[SIZE_TEXT_MAX], may[SIZE_TEXT_MAX] = "";
    uint64_t limit;
    const char *name = text_field(entry, "name");
    bool limited = td_reply_uint(entry, "limit", &limit);
    if (strstr(name, "bytes")) {
        bytes_text(cli, number_of(entry, "count"), used);
        if (limited)
            bytes_text(cli, limit, may);
    } else {
        snprintf(used, sizeof used, "%" PRIu64, number_of(entry, "count"));
        if (limited)
            snprintf(may, sizeof may, "%" PRIu64, limit);
    }
    return add_row(
        cli, table,
        (const char *const[QUOTA_COLUMNS]){text_field(entry, "principal"), name, used, may});
}

enum td_status cmd_principals(struct cli *cli)
{
    static const char *const head[QUOTA_COLUMNS] = {"PRINCIPAL", "QUOTA", "USED", "LIMIT"};
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(table_finish) struct table table = {
        .columns = QUOTA_COLUMNS,
        .styles = {STYLE_BOLD, STYLE_PLAIN, STYLE_GREEN, STYLE_DIM},
        .right = {[2] = true, [3] = true},
    };
    struct json_list json = {0};
    const struct td_reply *entry;
    size_t cursor = 0;
    TRY(cli_op(cli, "principals", NULL, NULL, &reply));
    if (cli->terminal && !cli_has(cli, OPTION_JSON))
        TRY(table_row(&table, head));
    while (td_reply_next(reply, &cursor, &entry)) {
        if (cli_has(cli, OPTION_JSON))
            TRY(json_list_item(&json, json_of_reply(entry)));
        else
            TRY(quota_row(cli, &table, entry));
    }
    if (cli_has(cli, OPTION_JSON))
        json_list_end(&json);
    else
        table_print(cli, &table);
    return TD_OK;
}
