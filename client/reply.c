/* reply: what the daemon answered. */
#include "client/internal.h"

#include <string.h>

enum td_status reply_new(struct td_reply **out)
{
    struct td_reply *reply = malloc(sizeof *reply);
    if (!reply)
        return fail(TD_OUT_OF_MEMORY, "no memory for a reply");
    memset((char *)reply + sizeof reply->fields, 0, sizeof *reply - sizeof reply->fields);
    reply->fields.present = 0;
    reply->descriptor = -1;
    *out = reply;
    return TD_OK;
}

void td_reply_free(struct td_reply *reply)
{
    if (!reply)
        return;
    if (reply->descriptor >= 0)
        close(reply->descriptor);
    td_reply_free(reply->entry);
    block_free(reply->body, reply->body_bytes);
    free(reply->meta);
    free(reply);
}

static const void *field_at(const struct fields *fields, int field)
{
    return (const char *)fields + field_infos[field].offset;
}

/* Texts become C strings in place: what follows one is the head of the next field, read already. */
static void terminate_texts(const struct fields *fields)
{
    for (field_set left = fields->present; left; left &= left - 1) {
        int field = field_first(left);
        if (field_infos[field].type != FIELD_TYPE_TEXT)
            continue;
        const struct text *text = field_at(fields, field);
        ((char *)(uintptr_t)text->data)[text->length] = '\0';
    }
}

enum td_status reply_set_meta(struct td_reply *reply, uint8_t *meta, size_t length)
{
    reply->meta = meta;
    enum td_status status = wire_fields_decode(meta, length, WIRE_LENIENT, &reply->fields);
    if (status != TD_OK) {
        char detail[FAIL_DETAIL_SIZE];
        strcpy(detail, fail_detail());
        return fail(TD_PROTOCOL, "the daemon's reply cannot be read: %.900s", detail);
    }
    terminate_texts(&reply->fields);
    return TD_OK;
}

/* ---- what it holds ------------------------------------------------------------------------- */

#define TEXT_OR_EMPTY(fields, field) (FIELDS_HAS(fields, field) ? (fields)->field.data : "")
#define VALUE_OR_ZERO(fields, field) (FIELDS_HAS(fields, field) ? (fields)->field : 0)

enum td_status td_reply_info(const struct td_reply *reply, struct td_info *out)
{
    const struct fields *f = &reply->fields;
    struct layout layout;
    if (!FIELDS_HAS(f, dtype) || !FIELDS_HAS(f, shape))
        return fail(TD_INVALID, "the reply describes no tensor; td_reply_text and the like read "
                                "what it holds");
    if (layout_contiguous(f->dtype, &f->shape, &layout) != TD_OK)
        return fail(TD_PROTOCOL, "the daemon describes a tensor whose size cannot be");
    if (FIELDS_HAS(f, strides) && f->strides.rank != f->shape.rank)
        return fail(TD_PROTOCOL, "the daemon gives %d strides for %d dimensions", f->strides.rank,
                    f->shape.rank);
    *out = (struct td_info){
        .id = VALUE_OR_ZERO(f, id),
        .name = TEXT_OR_EMPTY(f, name),
        .generation = VALUE_OR_ZERO(f, generation),
        .dtype = f->dtype,
        .rank = layout.rank,
        .nbytes = layout_nbytes(&layout),
        .device = TEXT_OR_EMPTY(f, device),
        .is_variable = FIELDS_HAS(f, kind) && text_equal(f->kind, "variable"),
        .requires_grad = VALUE_OR_ZERO(f, requires_grad),
        .is_leaf = FIELDS_HAS(f, is_leaf) ? f->is_leaf : true,
        .grad_fn = TEXT_OR_EMPTY(f, grad_fn),
        .history = TEXT_OR_EMPTY(f, history),
        .version = VALUE_OR_ZERO(f, version),
        .epoch = VALUE_OR_ZERO(f, epoch),
        .storage = VALUE_OR_ZERO(f, storage),
        .storage_bytes = VALUE_OR_ZERO(f, storage_bytes),
        .mode = TEXT_OR_EMPTY(f, mode),
        .memory = TEXT_OR_EMPTY(f, memory),
        .reason = TEXT_OR_EMPTY(f, reason),
    };
    uint64_t offset = VALUE_OR_ZERO(f, offset_bytes);
    if (offset > INT64_MAX)
        return fail(TD_PROTOCOL, "the daemon gives an offset beyond any storage");
    out->offset_bytes = (int64_t)offset;
    const int64_t *strides = FIELDS_HAS(f, strides) ? f->strides.v : layout.strides;
    memcpy(out->shape, layout.shape, (size_t)layout.rank * sizeof *out->shape);
    memcpy(out->strides, strides, (size_t)layout.rank * sizeof *out->strides);
    return TD_OK;
}

/* The field's place in the reply, NULL when it is not there or of another type. */
static const void *find(const struct td_reply *reply, const char *name, enum field_type type)
{
    int field = field_find(name, strlen(name));
    if (field == 0 || field_infos[field].type != type ||
        !(reply->fields.present & field_bit(field)))
        return NULL;
    return field_at(&reply->fields, field);
}

bool td_reply_text(const struct td_reply *reply, const char *field, const char **out)
{
    const struct text *text = find(reply, field, FIELD_TYPE_TEXT);
    if (text)
        *out = text->data;
    return text != NULL;
}

bool td_reply_uint(const struct td_reply *reply, const char *field, uint64_t *out)
{
    const uint64_t *value = find(reply, field, FIELD_TYPE_UINT);
    if (value)
        *out = *value;
    return value != NULL;
}

bool td_reply_int(const struct td_reply *reply, const char *field, int64_t *out)
{
    const int64_t *value = find(reply, field, FIELD_TYPE_INT);
    if (value)
        *out = *value;
    return value != NULL;
}

bool td_reply_bool(const struct td_reply *reply, const char *field, bool *out)
{
    const bool *value = find(reply, field, FIELD_TYPE_BOOL);
    if (value)
        *out = *value;
    return value != NULL;
}

bool td_reply_dtype(const struct td_reply *reply, const char *field, enum td_dtype *out)
{
    const enum td_dtype *value = find(reply, field, FIELD_TYPE_DTYPE);
    if (value)
        *out = *value;
    return value != NULL;
}

bool td_reply_dims(const struct td_reply *reply, const char *field, int *rank,
                   int64_t dims[TD_RANK_MAX])
{
    const struct dims *value = find(reply, field, FIELD_TYPE_DIMS);
    if (!value)
        return false;
    *rank = value->rank;
    memcpy(dims, value->v, (size_t)value->rank * sizeof *dims);
    return true;
}

char td_reply_scalar(const struct td_reply *reply, const char *field, int64_t *integer, double *re,
                     double *im)
{
    static const char letters[] = {
        [SCALAR_BOOL] = 'b',  [SCALAR_INT] = 'i',     [SCALAR_UINT] = 'u',
        [SCALAR_FLOAT] = 'f', [SCALAR_COMPLEX] = 'c',
    };
    const struct scalar *value = find(reply, field, FIELD_TYPE_SCALAR);
    if (!value)
        return 0;
    int64_t whole = 0;
    double parts[2] = {0, 0};
    switch (value->kind) {
    case SCALAR_BOOL:
        whole = value->b;
        break;
    case SCALAR_INT:
        whole = value->i;
        break;
    case SCALAR_UINT:
        whole = (int64_t)value->u;
        break;
    case SCALAR_FLOAT:
        parts[0] = value->f;
        break;
    case SCALAR_COMPLEX:
        parts[0] = value->c[0], parts[1] = value->c[1];
        break;
    }
    if (integer)
        *integer = whole;
    if (re)
        *re = parts[0];
    if (im)
        *im = parts[1];
    return letters[value->kind];
}

const char *td_reply_field(const struct td_reply *reply, int i)
{
    field_set left = reply->fields.present;
    for (; i > 0 && left; i--)
        left &= left - 1;
    return left && i == 0 ? field_infos[field_first(left)].name : NULL;
}

const void *td_reply_body(const struct td_reply *reply, size_t *size_bytes)
{
    if (size_bytes)
        *size_bytes = reply->body_bytes;
    return reply->body;
}

uint64_t td_reply_session(const struct td_reply *reply)
{
    return reply->session;
}

/* ---- lists --------------------------------------------------------------------------------- */

/* Copies the texts of an entry, which lie between the bytes of others, behind one another. */
static enum td_status entry_own_texts(struct td_reply *entry)
{
    size_t needed = 0;
    for (field_set left = entry->fields.present; left; left &= left - 1) {
        int field = field_first(left);
        if (field_infos[field].type == FIELD_TYPE_TEXT)
            needed += ((const struct text *)field_at(&entry->fields, field))->length + 1;
    }
    if (needed > entry->entry_meta_capacity) {
        uint8_t *grown = realloc(entry->meta, needed);
        if (!grown)
            return fail(TD_OUT_OF_MEMORY, "no memory for an entry of a list");
        entry->meta = grown;
        entry->entry_meta_capacity = needed;
    }
    char *at = (char *)entry->meta;
    for (field_set left = entry->fields.present; left; left &= left - 1) {
        int field = field_first(left);
        if (field_infos[field].type != FIELD_TYPE_TEXT)
            continue;
        struct text *text = (struct text *)(uintptr_t)field_at(&entry->fields, field);
        memcpy(at, text->data, text->length);
        at[text->length] = '\0';
        text->data = at;
        at += text->length + 1;
    }
    return TD_OK;
}

bool td_reply_next(struct td_reply *reply, size_t *cursor, const struct td_reply **entry)
{
    if (!reply->body || *cursor >= reply->body_bytes)
        return false;
    if (!reply->entry && reply_new(&reply->entry) != TD_OK)
        return false;
    reply->entry->session = reply->session;
    if (wire_entry_next(reply->body, reply->body_bytes, cursor, &reply->entry->fields) != TD_OK ||
        entry_own_texts(reply->entry) != TD_OK)
        return false;
    *entry = reply->entry;
    return true;
}
