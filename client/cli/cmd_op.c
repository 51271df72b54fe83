/* op: any operation of the table, by name. */
#include "client/cli/commands.h"
#include "client/cli/file_in.h"
#include "client/cli/help.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/suggest.h"
#include "client/cli/view.h"
#include "proto/format/json.h"
#include "proto/format/json_tensor.h"

#include <inttypes.h>
#include <string.h>

#define VALUES_MAX 4096 /* bytes of a body that are printed as values */

/* ---- the list ------------------------------------------------------------------------------ */

static cJSON *json_of_op(const struct td_op_description *op)
{
    _cleanup_(cJSON_Deletep) cJSON *object = cJSON_CreateObject();
    if (object && cJSON_AddStringToObject(object, "name", op->name) &&
        cJSON_AddStringToObject(object, "text", op->doc) &&
        cJSON_AddStringToObject(object, "required", op->required) &&
        cJSON_AddStringToObject(object, "optional", op->optional) &&
        cJSON_AddBoolToObject(object, "makes_tensor", op->makes_tensor))
        return take(&object);
    return NULL;
}

static enum td_status list_ops(struct cli *cli)
{
    _cleanup_(table_finish) struct table table = {.columns = 2, .styles = {STYLE_BOLD}};
    struct td_op_description op;
    struct json_list json = {0};
    for (int i = 0; td_op_info(i, &op); i++) {
        if (cli_has(cli, OPTION_JSON))
            TRY(json_list_item(&json, json_of_op(&op)));
        else
            TRY(table_row(&table, (const char *const[]){op.name, op.doc}));
    }
    if (cli_has(cli, OPTION_JSON))
        json_list_end(&json);
    else
        table_print(cli, &table);
    return TD_OK;
}

/* ---- arguments ----------------------------------------------------------------------------- */

static enum td_status scalar_to_args(const struct scalar *value, const char *name,
                                     struct td_args *args)
{
    switch (value->kind) {
    case SCALAR_BOOL:
        return td_args_scalar_bool(args, name, value->b);
    case SCALAR_INT:
        return td_args_scalar_int(args, name, value->i);
    case SCALAR_UINT:
        return td_args_scalar_uint(args, name, value->u);
    case SCALAR_FLOAT:
        return td_args_scalar_float(args, name, value->f);
    default:
        return td_args_scalar_complex(args, name, value->c[0], value->c[1]);
    }
}

/* Sets the field that was read into `fields`; a text is `text`, which ends with NUL. */
static enum td_status field_to_args(int field, const struct fields *fields, const char *text,
                                    struct td_args *args)
{
    const struct field_info *info = &field_infos[field];
    const void *member = (const char *)fields + info->offset;
    switch (info->type) {
    case FIELD_TYPE_UINT:
        return td_args_uint(args, info->name, *(const uint64_t *)member);
    case FIELD_TYPE_INT:
        return td_args_int(args, info->name, *(const int64_t *)member);
    case FIELD_TYPE_BOOL:
        return td_args_bool(args, info->name, *(const bool *)member);
    case FIELD_TYPE_DTYPE:
        return td_args_dtype(args, *(const enum td_dtype *)member);
    case FIELD_TYPE_DIMS:
        return td_args_dims(args, info->name, ((const struct dims *)member)->rank,
                            ((const struct dims *)member)->v);
    case FIELD_TYPE_SCALAR:
        return scalar_to_args(member, info->name, args);
    case FIELD_TYPE_INDEX:
        return index_to_args(member, args);
    default:
        return td_args_text(args, info->name, text);
    }
}

static bool has_word(const char *words, const char *word, size_t length)
{
    for (char one[WORD_SIZE]; word_next(&words, one);)
        if (strlen(one) == length && memcmp(one, word, length) == 0)
            return true;
    return false;
}

static bool op_takes(const struct td_op_description *op, const char *field, size_t length)
{
    return has_word(op->required, field, length) || has_word(op->optional, field, length);
}

static void offer_words(struct suggestions *near, const char *words)
{
    for (char word[WORD_SIZE]; word_next(&words, word);)
        suggestions_offer(near, word);
}

static enum td_status unknown_field(struct cli *cli, const struct td_op_description *op,
                                    const char *name, size_t length)
{
    struct suggestions near;
    char wanted[64], text[SUGGESTIONS_TEXT_SIZE];
    snprintf(wanted, sizeof wanted, "%.*s", (int)(length < 60 ? length : 60), name);
    suggestions_begin(&near, wanted);
    offer_words(&near, op->required);
    offer_words(&near, op->optional);
    return cli_misused(cli, "%s has no field '%s' (tensorctl op %s --help lists them)%s", op->name,
                       wanted, op->name, suggestions_text(&near, text));
}

/* field=value; the field's bit is added to *given. */
static enum td_status add_field(struct cli *cli, const struct td_op_description *op,
                                const char *name, size_t length, const char *value,
                                struct td_args *args, field_set *given)
{
    struct fields fields = {.present = 0};
    int field = field_find(name, length);
    if (!field || !op_takes(op, name, length))
        return unknown_field(cli, op, name, length);
    if (*given & field_bit(field))
        return cli_misused(cli, "%s is given twice", field_infos[field].name);
    *given |= field_bit(field);
    if (field == FIELD_input)
        cli_set_subject(cli, value);
    enum td_status status = field_from_text(field, text_of(value), &fields);
    if (status == TD_OK)
        status = field_to_args(field, &fields, value, args);
    cli->misused = status != TD_OK;
    return status;
}

/* The daemon would refuse it too, but it cannot say how it is written here. */
static enum td_status check_required(struct cli *cli, const struct td_op_description *op,
                                     field_set given)
{
    const char *words = op->required;
    for (char word[WORD_SIZE]; word_next(&words, word);) {
        int field = field_find(word, strlen(word));
        if (field && !(given & field_bit(field)))
            return cli_misused(cli, "%s needs %s=...: %s (tensorctl op %s --help)", op->name, word,
                               field_infos[field].meaning, op->name);
    }
    return TD_OK;
}

static enum td_status read_arguments(struct cli *cli, const struct td_op_description *op,
                                     struct td_args *args, field_set *given)
{
    *given = 0;
    for (int i = 1; i < cli->count; i++) {
        const char *word = cli->arguments[i], *equals = strchr(word, '=');
        size_t length = equals ? (size_t)(equals - word) : 0;
        /* A name may have a = in it, too. */
        bool is_input = i == 1 && !field_find(word, length) && op_takes(op, "input", 5);
        if (is_input)
            TRY(add_field(cli, op, "input", 5, word, args, given));
        else if (equals)
            TRY(add_field(cli, op, word, length, equals + 1, args, given));
        else
            return cli_misused(cli, "'%s' is no field=value (tensorctl op %s --help lists fields)",
                               word, op->name);
    }
    if (cli_has(cli, OPTION_OUTPUT))
        TRY(add_field(cli, op, "output", 6, cli->options[OPTION_OUTPUT], args, given));
    return check_required(cli, op, *given);
}

/* ---- the result ---------------------------------------------------------------------------- */

static bool is_list(const struct td_op_description *op)
{
    return has_word("stats devices ops list load leases principals watch queues queue_info "
                    "queue_get queue_peek",
                    op->name, strlen(op->name));
}

/* The body as values, if it is the elements of the tensor that the reply describes, and small; the
 * caller frees *out. */
static enum td_status body_values(const struct td_reply *reply, char **out)
{
    struct json_values values;
    struct td_info info;
    size_t size, used;
    const void *body = td_reply_body(reply, &size);
    *out = NULL;
    if (!body || size > VALUES_MAX || td_reply_info(reply, &info) != TD_OK ||
        (uint64_t)info.nbytes != size)
        return TD_OK;
    struct dims shape = {.rank = info.rank};
    memcpy(shape.v, info.shape, (size_t)info.rank * sizeof *shape.v);
    size_t room = VALUES_MAX * 64 + 65536, count = size / td_dtype_size((int)info.dtype);
    char *text = malloc(room);
    if (!text)
        return fail(TD_OUT_OF_MEMORY, "no memory to print %zu elements", count);
    json_values_begin(&values, info.dtype, &shape);
    text[json_values_write(&values, body, count, text, room - 1, &used)] = '\0';
    *out = text;
    return TD_OK;
}

static enum td_status add_entries(cJSON *object, struct td_reply *reply)
{
    const struct td_reply *entry;
    size_t cursor = 0;
    cJSON *entries = cJSON_AddArrayToObject(object, "entries");
    while (entries && td_reply_next(reply, &cursor, &entry)) {
        cJSON *item = json_of_reply(entry);
        if (!item || !cJSON_AddItemToArray(entries, item)) {
            cJSON_Delete(item);
            return fail(TD_OUT_OF_MEMORY, "no memory for the JSON document");
        }
    }
    return entries ? TD_OK : fail(TD_OUT_OF_MEMORY, "no memory for the JSON document");
}

/* The fields, and `entries` of a list, `values` of a small body, or `body_bytes` of another one. */
static enum td_status print_json(const struct td_op_description *op, struct td_reply *reply)
{
    _cleanup_(cJSON_Deletep) cJSON *object = json_of_reply(reply);
    _cleanup_(freep) char *values = NULL;
    char number[32];
    size_t size;
    (void)td_reply_body(reply, &size);
    if (!object)
        return json_print(NULL);
    if (is_list(op))
        TRY(add_entries(object, reply));
    else
        TRY(body_values(reply, &values));
    if (values && !cJSON_AddRawToObject(object, "values", values))
        return json_print(NULL);
    snprintf(number, sizeof number, "%zu", size);
    if (!values && size > 0 && !is_list(op) && !cJSON_AddRawToObject(object, "body_bytes", number))
        return json_print(NULL);
    return json_print(take(&object));
}

static enum td_status print_entries(const struct cli *cli, struct td_reply *reply)
{
    const struct td_reply *entry;
    size_t cursor = 0;
    for (bool first = true; td_reply_next(reply, &cursor, &entry); first = false) {
        fputs(first ? "" : "\n", stdout);
        TRY(reply_print(cli, entry));
    }
    return TD_OK;
}

/* An anonymous result is gone with the session: its elements are all that can be kept of it. */
static enum td_status print_anonymous(struct cli *cli, const struct td_reply *reply)
{
    _cleanup_(td_reply_freep) struct td_reply *printed = NULL;
    struct td_info info;
    const char *text;
    char id[24];
    TRY(td_reply_info(reply, &info));
    snprintf(id, sizeof id, "@%" PRIu64, info.id);
    TRY(cli_op_input(cli, "print", id, &printed));
    if (td_reply_text(printed, "text", &text))
        printf("\n%s\n", text);
    cli_note(cli, "tensorctl: the result has no name, and is gone now; -o NAME keeps it");
    return TD_OK;
}

static enum td_status print_result(struct cli *cli, const struct td_op_description *op,
                                   struct td_reply *reply)
{
    _cleanup_(freep) char *values = NULL;
    const char *text, *name;
    size_t size;
    if (cli_has(cli, OPTION_JSON))
        return print_json(op, reply);
    if (td_reply_text(reply, "text", &text)) {
        puts(text);
        return TD_OK;
    }
    TRY(reply_print(cli, reply));
    if (is_list(op))
        return print_entries(cli, reply);
    TRY(body_values(reply, &values));
    if (values)
        printf("\n%s\n", values);
    else if (td_reply_body(reply, &size))
        cli_note(cli, "tensorctl: %zu bytes came along; tensorctl get writes elements, save files",
                 size);
    if (op->makes_tensor && !td_reply_text(reply, "name", &name))
        return print_anonymous(cli, reply);
    return TD_OK;
}

/* ---- the command --------------------------------------------------------------------------- */

/* --body, of as many bytes as the daemon could take. */
static enum td_status read_body(struct cli *cli, const struct td_op_description *op,
                                struct file_in *body)
{
    uint64_t limit;
    if (!cli_has(cli, OPTION_BODY))
        return TD_OK;
    if (!op->takes_body)
        return cli_misused(cli, "%s takes no elements, and --body gives some", op->name);
    TRY(cli_counter(cli, "memory_limit_bytes", &limit));
    return file_in_open(cli->options[OPTION_BODY], limit, body);
}

static enum td_status call(struct cli *cli, const struct td_op_description *op,
                           struct td_args *args, struct file_in *body, struct td_reply **reply)
{
    field_set given;
    TRY(read_arguments(cli, op, args, &given));
    TRY(read_body(cli, op, body));
    TRY(cli_connect(cli));
    if (body->length > 0) {
        if (!(given & FIELD_BIT(timeout_ms)))
            TRY(cli_args_patience(cli, args, body->length));
        progress_begin(body->label, body->length);
        progress_bodies();
    }
    enum td_status status = td_op(cli->client, op->name, args, body->bytes, body->length, reply);
    progress_end();
    return file_in_verdict(body, status);
}

enum td_status cmd_op(struct cli *cli)
{
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    struct td_op_description op;
    struct file_in body = {.label = NULL};
    if (cli->count == 0)
        return list_ops(cli);
    if (!op_described(cli->arguments[0], &op))
        return op_unknown(cli->arguments[0]);
    enum td_status status = call(cli, &op, args, &body, &reply);
    file_in_close(&body);
    TRY(status);
    return print_result(cli, &op, reply);
}
