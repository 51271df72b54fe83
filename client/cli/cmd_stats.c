/* stats: the daemon's counters, once or again and again. */
#include "client/cli/commands.h"
#include "client/cli/output.h"
#include "client/cli/sizes.h"

#include <inttypes.h>
#include <string.h>

#define COUNTERS_MAX                                                                               \
    64 /* that are compared with the time before; more are printed all the same                    \
        */

struct stats {
    struct cli *cli;
    bool again; /* there was a time before */
    uint64_t before[COUNTERS_MAX];
};

static const char *count_text(const struct cli *cli, const char *name, uint64_t count, char *out,
                              size_t size)
{
    char human[SIZE_TEXT_MAX];
    if (strstr(name, "bytes") && !cli_has(cli, OPTION_BYTES))
        snprintf(out, size, "%s", size_text(count, human));
    else
        snprintf(out, size, "%" PRIu64, count);
    return out;
}

/* "+5", "-3", "" without a change. */
static const char *change_text(const struct cli *cli, const char *name, uint64_t before,
                               uint64_t now, char *out, size_t size)
{
    char text[SIZE_TEXT_MAX];
    uint64_t change = now > before ? now - before : before - now;
    out[0] = '\0';
    if (change)
        snprintf(out, size, "%c%s", now > before ? '+' : '-',
                 count_text(cli, name, change, text, sizeof text));
    return out;
}

static enum td_status print_table(struct stats *stats, struct td_reply *reply)
{
    _cleanup_(table_finish) struct table table = {
        .columns = 3, .styles = {STYLE_DIM, STYLE_PLAIN, STYLE_GREEN}, .right = {[1] = true}};
    const struct td_reply *entry;
    size_t cursor = 0, i = 0;
    for (; td_reply_next(reply, &cursor, &entry); i++) {
        char count_out[64], change_out[64] = "";
        const char *name = "";
        uint64_t count = 0;
        (void)td_reply_text(entry, "name", &name);
        (void)td_reply_uint(entry, "count", &count);
        if (i < COUNTERS_MAX && stats->again)
            change_text(stats->cli, name, stats->before[i], count, change_out, sizeof change_out);
        if (i < COUNTERS_MAX)
            stats->before[i] = count;
        count_text(stats->cli, name, count, count_out, sizeof count_out);
        TRY(table_row(&table, (const char *const[]){name, count_out, change_out}));
    }
    table_print(stats->cli, &table);
    return TD_OK;
}

/* {"names": 3, ...} */
static enum td_status print_json(struct td_reply *reply)
{
    _cleanup_(cJSON_Deletep) cJSON *object = cJSON_CreateObject();
    const struct td_reply *entry;
    size_t cursor = 0;
    while (object && td_reply_next(reply, &cursor, &entry)) {
        char text[32];
        const char *name = "";
        uint64_t count = 0;
        (void)td_reply_text(entry, "name", &name);
        (void)td_reply_uint(entry, "count", &count);
        snprintf(text, sizeof text, "%" PRIu64, count);
        if (!cJSON_AddRawToObject(object, name, text))
            return json_print(NULL);
    }
    return json_print(take(&object));
}

static enum td_status stats_once(struct stats *stats)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    TRY(cli_op(stats->cli, "stats", NULL, NULL, &reply));
    if (cli_has(stats->cli, OPTION_JSON))
        return print_json(reply);
    /* A terminal shows the last time only: to its top, and away with the rest. */
    if (cli_has(stats->cli, OPTION_WATCH) && stats->cli->terminal)
        fputs("\033[H\033[2J", stdout);
    else if (stats->again)
        putchar('\n');
    TRY(print_table(stats, reply));
    stats->again = true;
    return TD_OK;
}

/* --watch, which people give in seconds and fractions of them; 0 without it. */
static enum td_status read_interval(struct cli *cli, uint64_t *interval_ms)
{
    const char *text = cli->options[OPTION_WATCH];
    char *end = NULL;
    double seconds = text ? strtod(text, &end) : 0;
    if (text && (*end || !(seconds >= 0.05 && seconds <= 86400)))
        return cli_misused(cli, "--watch takes 0.05 to 86400 seconds, and '%s' was given", text);
    *interval_ms = (uint64_t)(seconds * 1000);
    return TD_OK;
}

enum td_status cmd_stats(struct cli *cli)
{
    struct stats stats = {.cli = cli};
    uint64_t interval_ms, count;
    TRY(read_interval(cli, &interval_ms));
    TRY(cli_number(cli, OPTION_COUNT, 1, UINT64_MAX, interval_ms ? UINT64_MAX : 1, &count));
    if (cli_has(cli, OPTION_COUNT) && !interval_ms)
        return cli_misused(cli, "--count goes with --watch SECONDS");
    if (interval_ms)
        signals_gentle();
    for (uint64_t i = 0; i < count && !signals_caught(); i++) {
        if (i > 0)
            signals_sleep(interval_ms);
        if (signals_caught())
            break;
        TRY(stats_once(&stats));
        TRY(cli_check_output());
    }
    return TD_OK;
}
