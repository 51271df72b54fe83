#include "client/cli/output.h"
#include "client/cli/save.h"
#include "proto/format/json_tensor.h"

#include <string.h>

#define TEXT_BYTES 65536

struct writing {
    struct file_out *file;
    struct json_values values;
    size_t element_bytes;
    char text[TEXT_BYTES];
};

static enum td_status write_values(void *argument, const void *bytes, size_t size_bytes)
{
    struct writing *writing = argument;
    size_t count = size_bytes / writing->element_bytes, used;
    const char *elements = bytes;
    do {
        size_t length = json_values_write(&writing->values, elements, count, writing->text,
                                          sizeof writing->text, &used);
        TRY(file_out_write(writing->file, writing->text, length));
        elements += used * writing->element_bytes;
        count -= used;
    } while (count > 0);
    return TD_OK;
}

/* {"name": ..., "dtype": ..., "shape": ..., "data": ...}; the name only where there are several. */
static enum td_status write_document(const struct save *save, size_t i, struct writing *writing)
{
    _cleanup_(cJSON_Deletep) cJSON *head = cJSON_CreateObject();
    char shape[SHAPE_TEXT_SIZE];
    struct dims dims = save_shape(save, i);
    enum td_dtype dtype = save_dtype(save, i);
    layout_shape_text(dims.rank, dims.v, shape, sizeof shape);
    bool good = (save->count == 1 || cJSON_AddStringToObject(head, "name", save->names[i])) &&
                cJSON_AddStringToObject(head, "dtype", td_dtype_name((int)dtype)) &&
                cJSON_AddRawToObject(head, "shape", shape);
    char *text = good ? cJSON_PrintUnformatted(head) : NULL;
    if (!text)
        return fail(TD_OUT_OF_MEMORY, "no memory for the JSON document");
    text[strlen(text) - 1] = '\0'; /* the data comes before its end */
    enum td_status status = save_string(save, text);
    cJSON_free(text);
    TRY(status);
    TRY(save_string(save, ",\"data\":"));
    json_values_begin(&writing->values, dtype, &dims);
    writing->element_bytes = td_dtype_size((int)dtype);
    TRY(view_read(save->cli, &save->views[i], save->dtype, write_values, writing));
    if (!writing->values.ended)
        TRY(write_values(writing, NULL, 0));
    return save_string(save, "}");
}

enum td_status save_json(const struct save *save)
{
    _cleanup_(freep) struct writing *writing = malloc(sizeof *writing);
    if (!writing)
        return fail(TD_OUT_OF_MEMORY, "no memory for the JSON document");
    writing->file = save->file;
    TRY(save_string(save, save->count == 1 ? "" : "["));
    for (size_t i = 0; i < save->count; i++) {
        TRY(save_string(save, i > 0 ? ",\n" : ""));
        TRY(write_document(save, i, writing));
    }
    return save_string(save, save->count == 1 ? "\n" : "]\n");
}
