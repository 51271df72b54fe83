/* queue: queues, and the items in them. */
#include "client/cli/commands.h"
#include "client/cli/help.h"
#include "client/cli/names.h"
#include "client/cli/output.h"
#include "client/cli/queue.h"
#include "client/cli/sizes.h"
#include "client/cli/suggest.h"

#include <inttypes.h>
#include <string.h>

enum td_status queue_op(struct cli *cli, const char *op, struct td_args *args, const char *queue,
                        struct td_reply **out)
{
    _cleanup_(td_args_freep) struct td_args *own = args ? NULL : td_args_new();
    struct td_args *all = args ? args : own;
    TRY(td_args_text(all, "queue", queue));
    return cli_op(cli, op, all, NULL, out);
}

enum td_status queue_patience(struct cli *cli, struct td_args *args)
{
    uint64_t timeout_ms;
    TRY(cli_duration(cli, OPTION_TIMEOUT, TIMEOUT_DEFAULT_MS, &timeout_ms));
    return timeout_ms ? td_args_uint(args, "timeout_ms", timeout_ms) : TD_OK;
}

uint64_t queue_number(const struct td_reply *reply, const char *field)
{
    uint64_t number = 0;
    (void)td_reply_uint(reply, field, &number);
    return number;
}

char *queue_plain(char *text)
{
    for (char *c = text; *c; c++) {
        unsigned char byte = (unsigned char)*c, next = (unsigned char)c[1];
        if (byte < ' ' || byte == 0x7f)
            *c = ' ';
        else if (byte == 0xc2 && next >= 0x80 && next < 0xa0) /* the other control characters */
            c[0] = c[1] = ' ';
    }
    return text;
}

enum td_status queue_row(const struct cli *cli, struct table *table, const char *const *cells)
{
    if (cli->terminal)
        return table_row(table, cells);
    for (int i = 0; i < table->columns; i++)
        printf("%s%s", i ? "\t" : "", cells[i]);
    puts("");
    return TD_OK;
}

/* ---- queues ------------------------------------------------------------------------------------
 */

struct listing {
    struct cli *cli;
    struct table table;
    struct json_list json;
};

static void listing_finish(struct listing *listing)
{
    table_finish(&listing->table);
}

static enum td_status list_queue(void *argument, const struct td_reply *entry)
{
    struct listing *listing = argument;
    const char *name = "", *when_full = "";
    char items[48], bytes[SIZE_TEXT_MAX], most[SIZE_TEXT_MAX], sizes[2 * SIZE_TEXT_MAX + 8];
    bool closed = false;
    if (cli_has(listing->cli, OPTION_JSON))
        return json_list_item(&listing->json, json_of_reply(entry));
    (void)td_reply_text(entry, "queue", &name);
    (void)td_reply_text(entry, "when_full", &when_full);
    (void)td_reply_bool(entry, "closed", &closed);
    snprintf(items, sizeof items, "%" PRIu64 "/%" PRIu64, queue_number(entry, "count"),
             queue_number(entry, "max_items"));
    snprintf(sizes, sizeof sizes, "%s/%s", size_text(queue_number(entry, "nbytes"), bytes),
             size_text(queue_number(entry, "max_bytes"), most));
    return queue_row(listing->cli, &listing->table,
                     (const char *const[]){name, items, sizes, when_full, closed ? "closed" : ""});
}

static enum td_status queue_ls(struct cli *cli, const char *prefix, char *const *words, int count)
{
    (void)words;
    (void)count;
    _cleanup_(listing_finish) struct listing listing = {
        .cli = cli, .table = {.columns = 5, .styles = {STYLE_BOLD}, .right = {false, true, true}}};
    TRY(entries_each(cli, "queues", prefix ? prefix : "", UINT64_MAX, list_queue, &listing));
    if (cli_has(cli, OPTION_JSON))
        json_list_end(&listing.json);
    else
        table_print(cli, &listing.table);
    return TD_OK;
}

static enum td_status queue_create(struct cli *cli, const char *queue, char *const *words,
                                   int count)
{
    (void)words;
    (void)count;
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    uint64_t max_items, max_bytes, visibility_ms;
    TRY(cli_number(cli, OPTION_MAX_ITEMS, 1, UINT64_MAX, 0, &max_items));
    TRY(cli_size(cli, OPTION_MAX_BYTES, 0, &max_bytes));
    TRY(cli_duration(cli, OPTION_VISIBILITY, 0, &visibility_ms));
    if (max_items)
        TRY(td_args_uint(args, "max_items", max_items));
    if (cli_has(cli, OPTION_MAX_BYTES))
        TRY(td_args_uint(args, "max_bytes", max_bytes));
    if (cli_has(cli, OPTION_VISIBILITY))
        TRY(td_args_uint(args, "visibility_ms", visibility_ms));
    if (cli_has(cli, OPTION_WHEN_FULL))
        TRY(td_args_text(args, "when_full", cli->options[OPTION_WHEN_FULL]));
    if (cli_has(cli, OPTION_CREATE_ONLY))
        TRY(td_args_bool(args, "create_only", true));
    TRY(queue_op(cli, "queue_create", args, queue, &reply));
    if (cli_has(cli, OPTION_JSON))
        return json_print_reply(reply);
    return cli_has(cli, OPTION_QUIET) ? TD_OK : reply_print(cli, reply);
}

/* The settings, and a counter in each line. */
static enum td_status queue_info(struct cli *cli, const char *queue, char *const *words, int count)
{
    (void)words;
    (void)count;
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(table_finish) struct table table = {
        .columns = 2, .styles = {STYLE_BOLD}, .right = {false, true}};
    const struct td_reply *entry;
    const char *name;
    char number[24];
    size_t cursor = 0;
    TRY(queue_op(cli, "queue_info", NULL, queue, &reply));
    cJSON *json = cli_has(cli, OPTION_JSON) ? json_of_reply(reply) : NULL;
    if (!json && !cli_has(cli, OPTION_JSON))
        TRY(reply_print(cli, reply));
    while (td_reply_next(reply, &cursor, &entry)) {
        (void)td_reply_text(entry, "name", &name);
        snprintf(number, sizeof number, "%" PRIu64, queue_number(entry, "count"));
        if (json)
            cJSON_AddRawToObject(json, name, number);
        else
            TRY(table_row(&table, (const char *const[]){name, number}));
    }
    if (cli_has(cli, OPTION_JSON))
        return json_print(json);
    puts("");
    table_print(cli, &table);
    return TD_OK;
}

static enum td_status queue_peek(struct cli *cli, const char *queue, char *const *words, int count)
{
    (void)words;
    (void)count;
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    _cleanup_(table_finish) struct table table = {
        .columns = 5, .styles = {STYLE_BOLD}, .right = {true, true, true}};
    struct json_list json = {0};
    const struct td_reply *entry;
    uint64_t limit;
    TRY(cli_number(cli, OPTION_COUNT, 1, 1000, 1000, &limit));
    TRY(td_args_uint(args, "limit", limit));
    TRY(td_args_bool(args, "parked", cli_has(cli, OPTION_PARKED)));
    TRY(queue_op(cli, "queue_peek", args, queue, &reply));
    for (size_t cursor = 0; td_reply_next(reply, &cursor, &entry);) {
        char item[24], deliveries[24], size[SIZE_TEXT_MAX], tensors[256];
        char plain[META_TEXT_SIZE];
        const char *text = "", *meta = "";
        if (cli_has(cli, OPTION_JSON)) {
            TRY(json_list_item(&json, json_of_reply(entry)));
            continue;
        }
        (void)td_reply_text(entry, "tensors", &text);
        (void)td_reply_text(entry, "meta", &meta);
        snprintf(item, sizeof item, "%" PRIu64, queue_number(entry, "item"));
        snprintf(deliveries, sizeof deliveries, "%" PRIu64, queue_number(entry, "deliveries"));
        snprintf(tensors, sizeof tensors, "%s", text);
        snprintf(plain, sizeof plain, "%s", meta);
        TRY(queue_row(cli, &table,
                      (const char *const[]){item, deliveries,
                                            size_text(queue_number(entry, "nbytes"), size),
                                            queue_plain(tensors), queue_plain(plain)}));
    }
    if (cli_has(cli, OPTION_JSON))
        json_list_end(&json);
    else
        table_print(cli, &table);
    return TD_OK;
}

static enum td_status simple(struct cli *cli, const char *op, const char *queue, bool parked)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    uint64_t dropped;
    if (parked)
        TRY(td_args_bool(args, "parked", true));
    TRY(queue_op(cli, op, args, queue, &reply));
    if (cli_has(cli, OPTION_JSON))
        return json_print_reply(reply);
    if (td_reply_uint(reply, "count", &dropped))
        cli_note(cli, "%s: %" PRIu64 " item%s dropped", queue, dropped, dropped == 1 ? "" : "s");
    return TD_OK;
}

static enum td_status queue_close(struct cli *cli, const char *queue, char *const *words, int count)
{
    (void)words;
    (void)count;
    return simple(cli, "queue_close", queue, false);
}

static enum td_status queue_drain(struct cli *cli, const char *queue, char *const *words, int count)
{
    (void)words;
    (void)count;
    return simple(cli, "queue_drain", queue, cli_has(cli, OPTION_PARKED));
}

static enum td_status queue_rm(struct cli *cli, const char *queue, char *const *words, int count)
{
    (void)words;
    (void)count;
    return simple(cli, "queue_delete", queue, false);
}

static enum td_status queue_get_one(struct cli *cli, const char *queue, char *const *words,
                                    int count)
{
    (void)words;
    (void)count;
    return queue_get(cli, queue);
}

/* ---- the command -------------------------------------------------------------------------------
 */

#define OPTIONS_MAX 8

/* `words` are the arguments behind the queue's name. */
static const struct subcommand {
    const char *name, *usage;
    enum td_status (*run)(struct cli *cli, const char *queue, char *const *words, int count);
    int min, max; /* arguments with the queue's name; max < 0: any number */
    enum option_id options[OPTIONS_MAX];
} subcommands[] = {
    {"ls", "[PREFIX]", queue_ls, 0, 1, {0}},
    {"create",
     "NAME [--max-items N] [--max-bytes SIZE] [--when-full POLICY] [--visibility TIME]",
     queue_create,
     1,
     1,
     {OPTION_MAX_ITEMS, OPTION_MAX_BYTES, OPTION_WHEN_FULL, OPTION_VISIBILITY, OPTION_CREATE_ONLY}},
    {"info", "NAME", queue_info, 1, 1, {0}},
    {"put",
     "NAME [KEY=]TENSOR... | --file [KEY=]FILE... [--meta TEXT]",
     queue_put,
     2,
     -1,
     {OPTION_META, OPTION_FILE, OPTION_FORMAT}},
    {"get",
     "NAME [-o FILE] [--count N] [--no-ack]",
     queue_get_one,
     1,
     1,
     {OPTION_OUTPUT, OPTION_FORMAT, OPTION_COUNT, OPTION_NO_ACK}},
    {"peek", "NAME [--parked] [--count N]", queue_peek, 1, 1, {OPTION_PARKED, OPTION_COUNT}},
    {"close", "NAME", queue_close, 1, 1, {0}},
    {"drain", "NAME [--parked]", queue_drain, 1, 1, {OPTION_PARKED}},
    {"rm", "NAME", queue_rm, 1, 1, {0}},
};
#define SUBCOMMANDS (sizeof subcommands / sizeof subcommands[0])

const char *queue_subcommand(size_t i)
{
    return i < SUBCOMMANDS ? subcommands[i].name : NULL;
}

static enum td_status unknown(struct cli *cli, const char *name)
{
    struct suggestions near;
    char text[SUGGESTIONS_TEXT_SIZE];
    suggestions_begin(&near, name);
    for (size_t i = 0; i < SUBCOMMANDS; i++)
        suggestions_offer(&near, subcommands[i].name);
    return cli_misused(cli, "queue has no command '%s' (tensorctl queue --help lists them)%s", name,
                       suggestions_text(&near, text));
}

/* The options of the table of queue are those of all of its commands. */
static enum td_status check_options(struct cli *cli, const struct subcommand *sub)
{
    for (const struct option_row *row = cli->command->options; row->id != OPTION_NONE; row++) {
        bool taken = !cli_has(cli, row->id);
        for (int i = 0; i < OPTIONS_MAX; i++)
            taken = taken || sub->options[i] == row->id;
        if (!taken)
            return cli_misused(cli, "queue %s has no option --%s: tensorctl queue %s %s", sub->name,
                               row->name, sub->name, sub->usage);
    }
    return TD_OK;
}

enum td_status cmd_queue(struct cli *cli)
{
    const struct subcommand *sub = NULL;
    int count = cli->count - 1;
    for (size_t i = 0; i < SUBCOMMANDS; i++)
        if (strcmp(subcommands[i].name, cli->arguments[0]) == 0)
            sub = &subcommands[i];
    if (!sub)
        return unknown(cli, cli->arguments[0]);
    if (count < sub->min)
        return cli_misused(cli, "queue %s needs more: tensorctl queue %s %s", sub->name, sub->name,
                           sub->usage);
    if (sub->max >= 0 && count > sub->max)
        return cli_misused(cli, "'%s' is one argument too many: tensorctl queue %s %s",
                           cli->arguments[sub->max + 1], sub->name, sub->usage);
    TRY(check_options(cli, sub));
    return sub->run(cli, count ? cli->arguments[1] : NULL, cli->arguments + 2, count - 1);
}
