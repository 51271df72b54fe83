/* queue put: an item of tensors that the daemon has, or of files that are sent before. */
#include "client/cli/load.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/queue.h"
#include "client/cli/sizes.h"

#include <inttypes.h>
#include <string.h>

struct item {
    struct cli *cli;
    char *tensors; /* the lines of the field */
    size_t length;
    const char *key; /* of the file that is read */
    size_t key_length;
};

static void item_finish(struct item *item)
{
    free(item->tensors);
}

static enum td_status add_line(struct item *item, const char *key, size_t key_length,
                               const char *slash, const char *member, const char *tensor)
{
    size_t room = item->length + key_length + strlen(slash) + strlen(member) + strlen(tensor) + 3;
    char *longer = realloc(item->tensors, room);
    if (!longer)
        return fail(TD_OUT_OF_MEMORY, "no memory for an item");
    item->tensors = longer;
    item->length += (size_t)snprintf(longer + item->length, room - item->length, "%.*s%s%s=%s\n",
                                     (int)key_length, key, slash, member, tensor);
    return TD_OK;
}

/* Sends one tensor of a file: an object of the session until the item has it. */
static enum td_status send_member(void *argument, const struct member *member)
{
    struct item *item = argument;
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    struct td_info info;
    char id[24];
    bool both = item->key_length && !member->only;
    if (strpbrk(member->name, "=\n"))
        return fail(TD_INVALID, "'%s' cannot be a key of an item: it has a = or a line break",
                    member->name);
    TRY(td_args_dtype(args, member->dtype));
    TRY(td_args_dims(args, "shape", member->shape.rank, member->shape.v));
    TRY(td_args_bool(args, "mutable", member->mutable));
    if (member->requires_grad)
        TRY(td_args_bool(args, "requires_grad", true));
    TRY(cli_args_patience(item->cli, args, member->size_bytes));
    progress_begin(member->name, member->size_bytes);
    progress_bodies();
    enum td_status status =
        td_op(item->cli->client, "tensor", args, member->elements, member->size_bytes, &reply);
    progress_end();
    TRY(status);
    TRY(td_reply_info(reply, &info));
    snprintf(id, sizeof id, "@%" PRIu64, info.id);
    return add_line(item, item->key, item->key_length, both ? "/" : "",
                    item->key_length && !both ? "" : member->name, id);
}

static enum td_status load_file(struct item *item, const char *path, struct file_in *file)
{
    struct load load = {.file = file};
    uint64_t limit;
    TRY(cli_counter(item->cli, "memory_limit_bytes", &limit));
    load.most_bytes = limit;
    TRY(file_in_open(path, limit < SIZE_MAX / 8 ? limit * 4 : SIZE_MAX, file));
    TRY(format_choose(item->cli, file->standard ? NULL : path, &load.format));
    if (load.format == FORMAT_NONE)
        load.format = format_recognise(file->bytes, file->length);
    if (load.format == FORMAT_NONE || load.format == FORMAT_RAW || load.format == FORMAT_TEXT)
        return fail(TD_INVALID, "%s: expected npy, npz, safetensors or json; --format says which",
                    file->label);
    return load_members(&load, send_member, item);
}

/* [KEY=]FILE. */
static enum td_status add_file(struct item *item, const char *word)
{
    const char *equals = strchr(word, '=');
    struct file_in file = {.label = NULL};
    item->key = word;
    item->key_length = equals ? (size_t)(equals - word) : 0;
    enum td_status status = load_file(item, equals ? equals + 1 : word, &file);
    file_in_close(&file);
    return status;
}

/* [KEY=]TENSOR; one that has a = in its name is written =TENSOR. */
static enum td_status add_tensor(struct item *item, const char *word)
{
    const char *equals = strchr(word, '=');
    if (strchr(word, '\n'))
        return cli_misused(item->cli, "a name of a tensor has no line breaks");
    return add_line(item, word, equals ? (size_t)(equals - word) : 0, "", "",
                    equals ? equals + 1 : word);
}

enum td_status queue_put(struct cli *cli, const char *queue, char *const *words, int count)
{
    _cleanup_(item_finish) struct item item = {.cli = cli};
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    char size[SIZE_TEXT_MAX];
    if (!cli_has(cli, OPTION_FILE) && cli_has(cli, OPTION_FORMAT))
        return cli_misused(cli, "--format is of files, which --file puts");
    TRY(cli_connect(cli));
    for (int i = 0; i < count; i++)
        TRY(cli_has(cli, OPTION_FILE) ? add_file(&item, words[i]) : add_tensor(&item, words[i]));
    if (!item.tensors)
        return fail(TD_INVALID, "the file has no tensors, and an item has at least one");
    TRY(td_args_text(args, "tensors", item.tensors));
    if (cli_has(cli, OPTION_META))
        TRY(td_args_text(args, "meta", cli->options[OPTION_META]));
    TRY(queue_patience(cli, args));
    TRY(queue_op(cli, "queue_put", args, queue, &reply));
    if (cli_has(cli, OPTION_JSON))
        return json_print_reply(reply);
    cli_note(cli, "%s: item %" PRIu64 ", %s", queue, queue_number(reply, "item"),
             size_text(queue_number(reply, "nbytes"), size));
    return TD_OK;
}
