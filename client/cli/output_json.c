/* output_json: replies as JSON documents. */
#include "client/cli/output.h"
#include "proto/format/number.h"

#include <inttypes.h>
#include <string.h>

static cJSON *add_number(cJSON *object, const char *field, enum td_dtype dtype, const void *value)
{
    char text[NUMBER_TEXT_MAX + 1];
    text[number_write(dtype, value, text)] = '\0';
    return cJSON_AddRawToObject(object, field, text);
}

static cJSON *add_scalar(cJSON *object, const char *field, const struct td_reply *reply)
{
    int64_t integer;
    double parts[2];
    switch (td_reply_scalar(reply, field, &integer, &parts[0], &parts[1])) {
    case 'b':
        return cJSON_AddBoolToObject(object, field, integer != 0);
    case 'i':
        return add_number(object, field, TD_INT64, &integer);
    case 'u':
        return add_number(object, field, TD_UINT64, &integer);
    case 'f':
        return add_number(object, field, TD_FLOAT64, &parts[0]);
    case 'c':
        return add_number(object, field, TD_COMPLEX128, parts);
    default:
        return cJSON_AddNullToObject(object, field);
    }
}

static cJSON *add_field(cJSON *object, const char *field, const struct td_reply *reply)
{
    const char *text;
    char shape[SHAPE_TEXT_SIZE];
    uint64_t natural;
    int64_t integer, dims[TD_RANK_MAX];
    bool flag;
    enum td_dtype dtype;
    int rank;
    if (td_reply_text(reply, field, &text))
        return cJSON_AddStringToObject(object, field, text);
    if (td_reply_uint(reply, field, &natural))
        return add_number(object, field, TD_UINT64, &natural);
    if (td_reply_int(reply, field, &integer))
        return add_number(object, field, TD_INT64, &integer);
    if (td_reply_bool(reply, field, &flag))
        return cJSON_AddBoolToObject(object, field, flag);
    if (td_reply_dtype(reply, field, &dtype))
        return cJSON_AddStringToObject(object, field, td_dtype_name((int)dtype));
    if (td_reply_dims(reply, field, &rank, dims))
        return cJSON_AddRawToObject(object, field,
                                    layout_shape_text(rank, dims, shape, sizeof shape));
    return add_scalar(object, field, reply);
}

cJSON *json_of_reply(const struct td_reply *reply)
{
    _cleanup_(cJSON_Deletep) cJSON *object = cJSON_CreateObject();
    const char *field;
    for (int i = 0; object && (field = td_reply_field(reply, i)); i++)
        if (!add_field(object, field, reply))
            return NULL;
    return take(&object);
}

static enum td_status print_tree(cJSON *tree, const char *before, const char *after)
{
    char *text = tree ? cJSON_PrintUnformatted(tree) : NULL;
    cJSON_Delete(tree);
    if (!text)
        return fail(TD_OUT_OF_MEMORY, "no memory for the JSON document");
    printf("%s%s%s", before, text, after);
    cJSON_free(text);
    return TD_OK;
}

enum td_status json_print(cJSON *tree)
{
    return print_tree(tree, "", "\n");
}

enum td_status json_print_reply(const struct td_reply *reply)
{
    return json_print(json_of_reply(reply));
}

enum td_status json_list_item(struct json_list *list, cJSON *tree)
{
    const char *before = list->begun ? ",\n" : "[";
    list->begun = true;
    return print_tree(tree, before, "");
}

void json_list_end(const struct json_list *list)
{
    puts(list->begun ? "]" : "[]");
}
