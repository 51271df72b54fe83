/* queue get: items out of a queue, into files. */
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/queue.h"
#include "client/cli/save.h"
#include "client/cli/sizes.h"

#include <inttypes.h>
#include <string.h>

#define ITEM_TENSORS_MAX 64

/* An item in hand. */
struct item {
    struct cli *cli;
    struct td_reply *reply;
    size_t count;
    char names[ITEM_TENSORS_MAX][24]; /* @id of each */
    const char *ids[ITEM_TENSORS_MAX], *keys[ITEM_TENSORS_MAX];
    char numbers[ITEM_TENSORS_MAX][24]; /* for those without a key */
    struct views views;
    struct file_out file;
    char path[PATH_MAX];
};

static void item_finish(struct item *item)
{
    file_out_close(&item->file);
    views_close(&item->views);
    td_reply_free(item->reply);
}

static enum td_status read_entries(struct item *item)
{
    const struct td_reply *entry;
    struct td_info info;
    size_t cursor = 0;
    for (; td_reply_next(item->reply, &cursor, &entry); item->count++) {
        size_t i = item->count;
        if (i == ITEM_TENSORS_MAX)
            return fail(TD_PROTOCOL, "the daemon's item has more than %d tensors",
                        ITEM_TENSORS_MAX);
        TRY(td_reply_info(entry, &info));
        snprintf(item->names[i], sizeof item->names[i], "@%" PRIu64, info.id);
        snprintf(item->numbers[i], sizeof item->numbers[i], "%zu", i);
        item->ids[i] = item->names[i];
        item->keys[i] = item->numbers[i];
    }
    return TD_OK;
}

/* The entries are read one after another: each is copied before the next comes. */
static enum td_status describe(struct item *item, cJSON **json)
{
    cJSON *tensors = NULL;
    const struct td_reply *entry;
    size_t cursor = 0;
    *json = json_of_reply(item->reply);
    tensors = *json ? cJSON_AddArrayToObject(*json, "tensors") : NULL;
    while (tensors && td_reply_next(item->reply, &cursor, &entry))
        if (!cJSON_AddItemToArray(tensors, json_of_reply(entry)))
            return fail(TD_OUT_OF_MEMORY, "no memory for the JSON document");
    return tensors ? TD_OK : fail(TD_OUT_OF_MEMORY, "no memory for the JSON document");
}

static enum td_status print_table(struct item *item)
{
    _cleanup_(table_finish) struct table table = {
        .columns = 4, .styles = {STYLE_BOLD}, .right = {false, false, false, true}};
    const char *meta = NULL;
    char size[SIZE_TEXT_MAX], plain[META_TEXT_SIZE];
    const struct td_reply *entry;
    printf("item %" PRIu64 ", delivery %" PRIu64 ", %zu tensor%s, %s\n",
           queue_number(item->reply, "item"), queue_number(item->reply, "deliveries"), item->count,
           item->count == 1 ? "" : "s", size_text(queue_number(item->reply, "nbytes"), size));
    if (td_reply_text(item->reply, "meta", &meta)) {
        snprintf(plain, sizeof plain, "%s", meta);
        printf("%s\n", queue_plain(plain));
    }
    for (size_t cursor = 0; td_reply_next(item->reply, &cursor, &entry);) {
        struct td_info info;
        char shape[SHAPE_TEXT_SIZE];
        const char *key = "";
        TRY(td_reply_info(entry, &info));
        (void)td_reply_text(entry, "key", &key);
        snprintf(plain, sizeof plain, "%s", key);
        TRY(queue_row(
            item->cli, &table,
            (const char *const[]){queue_plain(plain), td_dtype_name((int)info.dtype),
                                  layout_shape_text(info.rank, info.shape, shape, sizeof shape),
                                  size_text((uint64_t)info.nbytes, size)}));
    }
    table_print(item->cli, &table);
    return TD_OK;
}

static enum td_status print_item(struct item *item)
{
    cJSON *json = NULL;
    bool elsewhere = strcmp(item->path, "-") == 0; /* the file is what is printed */
    if (elsewhere || (cli_has(item->cli, OPTION_QUIET) && !cli_has(item->cli, OPTION_JSON)))
        return TD_OK;
    if (!cli_has(item->cli, OPTION_JSON))
        return print_table(item);
    enum td_status status = describe(item, &json);
    if (status != TD_OK) {
        cJSON_Delete(json);
        return status;
    }
    return json_print(json);
}

/* ---- the file ----------------------------------------------------------------------------------
 */

/* With --count there is a file for each item: x.npz becomes x-7.npz. */
static enum td_status choose_path(struct item *item, bool many)
{
    const char *given = item->cli->options[OPTION_OUTPUT];
    if (!given)
        return TD_OK;
    const char *slash = strrchr(given, '/'), *dot = strrchr(slash ? slash : given, '.');
    size_t stem = dot ? (size_t)(dot - given) : strlen(given);
    int length = many ? snprintf(item->path, sizeof item->path, "%.*s-%" PRIu64 "%s", (int)stem,
                                 given, queue_number(item->reply, "item"), dot ? dot : "")
                      : snprintf(item->path, sizeof item->path, "%s", given);
    return length < (int)sizeof item->path ? TD_OK : fail(TD_INVALID, "the path is too long");
}

static enum td_status choose_format(struct item *item, enum format *out)
{
    bool standard = strcmp(item->path, "-") == 0;
    TRY(format_choose(item->cli, standard ? NULL : item->path, out));
    if (*out == FORMAT_NONE)
        *out = item->count > 1 ? FORMAT_NPZ : FORMAT_NPY;
    if (item->count > 1 && !format_infos[*out].many)
        return cli_misused(item->cli,
                           "%s holds one tensor, and the item has %zu; several go into npz or "
                           "safetensors",
                           format_infos[*out].name, item->count);
    if (standard && item->cli->terminal && format_infos[*out].binary)
        return cli_misused(item->cli, "%s is nothing for a terminal; name a file with -o x.%s",
                           format_infos[*out].name, format_infos[*out].name);
    return TD_OK;
}

/* The keys, which end with the reply's next entry, are the views' from here on. */
static enum td_status name_views(struct item *item)
{
    const struct td_reply *entry;
    const char *key;
    size_t cursor = 0;
    for (size_t i = 0; i < item->count && td_reply_next(item->reply, &cursor, &entry); i++)
        if (td_reply_text(entry, "key", &key)) {
            char *copy = strdup(key);
            if (!copy)
                return fail(TD_OUT_OF_MEMORY, "no memory for a key");
            free(item->views.views[i].name);
            item->views.views[i].name = copy;
            item->keys[i] = copy;
        }
    return TD_OK;
}

static enum td_status write_item(struct item *item)
{
    struct cli *cli = item->cli;
    enum format format;
    if (!*item->path)
        return TD_OK;
    TRY(choose_format(item, &format));
    TRY(views_open(cli, item->ids, item->count, true, &item->views));
    TRY(name_views(item));
    struct save save = {.cli = cli,
                        .file = &item->file,
                        .count = item->count,
                        .views = item->views.views,
                        .names = item->keys};
    TRY(file_out_open(item->path, &item->file));
    progress_begin(item->file.label, queue_number(item->reply, "nbytes"));
    progress_bodies();
    enum td_status status = save_tensors(&save, format);
    progress_end();
    TRY(status);
    TRY(file_out_commit(&item->file));
    cli_note(cli, "%s: %zu tensor%s", item->path, item->count, item->count == 1 ? "" : "s");
    return TD_OK;
}

/* ---- items -------------------------------------------------------------------------------------
 */

/* Done with once it was written; else, and with --no-ack, it goes back. */
static enum td_status end_item(struct item *item, enum td_status status)
{
    static const char *const ends[] = {"queue_ack", "release"};
    bool done = status == TD_OK && !cli_has(item->cli, OPTION_NO_ACK);
    if (status != TD_OK)
        return status; /* the lease ends with this process */
    for (size_t i = done ? 0 : 1; i < sizeof ends / sizeof ends[0]; i++) {
        _cleanup_(td_args_freep) struct td_args *args = td_args_new();
        _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
        TRY(td_args_uint(args, "lease", queue_number(item->reply, "lease")));
        TRY(cli_op(item->cli, ends[i], args, NULL, &reply));
    }
    return TD_OK;
}

static enum td_status get_one(struct cli *cli, const char *queue, bool many)
{
    _cleanup_(item_finish) struct item item = {.cli = cli, .file = {.fd = -1}};
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    TRY(queue_patience(cli, args));
    TRY(queue_op(cli, "queue_get", args, queue, &item.reply));
    enum td_status status = read_entries(&item);
    if (status == TD_OK)
        status = choose_path(&item, many);
    if (status == TD_OK)
        status = write_item(&item);
    if (status == TD_OK)
        status = print_item(&item);
    if (status == TD_OK)
        status = cli_check_output(); /* what nobody reads is not done with */
    return end_item(&item, status);
}

enum td_status queue_get(struct cli *cli, const char *queue)
{
    uint64_t count;
    TRY(cli_number(cli, OPTION_COUNT, 1, UINT64_MAX, 1, &count));
    if (!cli_has(cli, OPTION_OUTPUT) && cli_has(cli, OPTION_FORMAT))
        return cli_misused(cli, "--format is of the file that -o names");
    if (count > 1 && cli_has(cli, OPTION_NO_ACK))
        return cli_misused(cli, "with --no-ack the item goes back, and the next would be the same");
    for (uint64_t i = 0; i < count && !signals_caught(); i++)
        TRY(get_one(cli, queue, cli_has(cli, OPTION_COUNT)));
    return TD_OK;
}
