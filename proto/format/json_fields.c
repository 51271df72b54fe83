#include "core/cleanup.h"
#include "core/utf8.h"
#include "proto/format/index_text.h"
#include "proto/format/json.h"
#include "proto/format/json_scan.h"
#include "proto/format/number.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- errors ---------------------------------------------------------------------------------- */

static const char *const expectations[] = {
    [FIELD_TYPE_UINT] = "an integer from 0 to 18446744073709551615",
    [FIELD_TYPE_INT] = "an integer from -9223372036854775808 to 9223372036854775807",
    [FIELD_TYPE_BOOL] = "true or false",
    [FIELD_TYPE_TEXT] = "a text, in UTF-8 and without NUL",
    [FIELD_TYPE_DTYPE] = "the name of a dtype, such as float32, <f4 or F32",
    [FIELD_TYPE_DIMS] = "a list of at most 32 integers of 64 bits, such as [2, 3]",
    [FIELD_TYPE_SCALAR] = "a number (an integer of 64 bits, or within float64), true, false, "
                          "\"NaN\", \"Infinity\", \"-Infinity\", or [re, im]",
    [FIELD_TYPE_INDEX] = "NumPy's basic index as a text such as \"0, 1:3, ...\", or an integer",
};

/* A value that the field's type does not take. */
static enum td_status fail_text(int field, struct text found, enum td_status status)
{
    char excerpt[JSON_EXCERPT_SIZE];
    return fail(status, "'%s' is %s; expected was %s", field_infos[field].name,
                json_excerpt(found.data, found.length, excerpt),
                expectations[field_infos[field].type]);
}

static enum td_status fail_node(int field, const cJSON *node, enum td_status status)
{
    char quoted[JSON_EXCERPT_SIZE + 2], excerpt[JSON_EXCERPT_SIZE];
    struct text found = text_of(cJSON_IsObject(node)  ? "an object"
                                : cJSON_IsArray(node) ? "another list"
                                : cJSON_IsTrue(node)  ? "true"
                                : cJSON_IsFalse(node) ? "false"
                                                      : "null");
    if (cJSON_IsNumber(node))
        found = text_of(node->valuestring);
    if (cJSON_IsString(node)) {
        json_excerpt(node->valuestring, strlen(node->valuestring), excerpt);
        snprintf(quoted, sizeof quoted, "\"%s\"", excerpt);
        return fail(status, "'%s' is %s; expected was %s", field_infos[field].name, quoted,
                    expectations[field_infos[field].type]);
    }
    return fail_text(field, found, status);
}

/* ---- values of either origin ----------------------------------------------------------------- */

static bool uint_read(struct text token, uint64_t *out)
{
    struct scalar scalar;
    if (number_read_scalar(token.data, token.length, &scalar) != TD_OK)
        return false;
    bool fits = scalar.kind == SCALAR_UINT || (scalar.kind == SCALAR_INT && scalar.i >= 0);
    if (fits)
        *out = scalar.kind == SCALAR_INT ? (uint64_t)scalar.i : scalar.u;
    return fits;
}

static bool int_read(struct text token, int64_t *out)
{
    struct scalar scalar;
    if (number_read_scalar(token.data, token.length, &scalar) != TD_OK)
        return false;
    if (scalar.kind == SCALAR_INT)
        *out = scalar.i;
    return scalar.kind == SCALAR_INT;
}

/* The words for what JSON has no number for, without quotes. */
static bool special_read(struct text word, double *out)
{
    static const struct {
        const char *word;
        double value;
    } specials[] = {
        {"NaN", (double)NAN}, {"Infinity", (double)INFINITY}, {"-Infinity", -(double)INFINITY}};
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++)
        if (text_equal(word, specials[i].word)) {
            *out = specials[i].value;
            return true;
        }
    return false;
}

/* A part of a complex number: not true or false, which an element may be. */
static bool part_read(struct text token, double *out)
{
    bool word = token.length > 0 && (token.data[0] == 't' || token.data[0] == 'f');
    return special_read(token, out) ||
           (!word && number_read(TD_FLOAT64, token.data, token.length, out) == TD_OK);
}

static enum td_status dtype_read(struct text name, enum td_dtype *out)
{
    char copy[32]; /* longer than any spelling */
    if (name.length >= sizeof copy || memchr(name.data, '\0', name.length))
        return TD_BAD_DTYPE;
    memcpy(copy, name.data, name.length);
    copy[name.length] = '\0';
    *out = td_dtype_parse(copy);
    return *out == TD_DTYPE_NONE ? TD_BAD_DTYPE : TD_OK;
}

/* ---- members of objects ---------------------------------------------------------------------- */

/* Each reads a node into the field's member of a struct fields. The status without a detail unless
 * it is BAD_INDEX. */
static enum td_status uint_from_node(const cJSON *node, void *member)
{
    return cJSON_IsNumber(node) && uint_read(text_of(node->valuestring), member) ? TD_OK
                                                                                 : TD_INVALID;
}

static enum td_status int_from_node(const cJSON *node, void *member)
{
    return cJSON_IsNumber(node) && int_read(text_of(node->valuestring), member) ? TD_OK
                                                                                : TD_INVALID;
}

static enum td_status bool_from_node(const cJSON *node, void *member)
{
    *(bool *)member = cJSON_IsTrue(node);
    return cJSON_IsBool(node) ? TD_OK : TD_INVALID;
}

static enum td_status text_from_node(const cJSON *node, void *member)
{
    if (!cJSON_IsString(node))
        return TD_INVALID;
    *(struct text *)member = text_of(node->valuestring);
    return TD_OK;
}

static enum td_status dtype_from_node(const cJSON *node, void *member)
{
    return cJSON_IsString(node) ? dtype_read(text_of(node->valuestring), member) : TD_INVALID;
}

static enum td_status dims_from_node(const cJSON *node, void *member)
{
    struct dims *dims = member;
    dims->rank = 0;
    if (!cJSON_IsArray(node))
        return TD_INVALID;
    for (const cJSON *item = node->child; item; item = item->next) {
        if (dims->rank == RANK_MAX)
            return TD_BAD_SHAPE;
        if (int_from_node(item, &dims->v[dims->rank]) != TD_OK)
            return TD_INVALID;
        dims->rank++;
    }
    return TD_OK;
}

static bool part_from_node(const cJSON *node, double *out)
{
    if (cJSON_IsString(node))
        return special_read(text_of(node->valuestring), out);
    return cJSON_IsNumber(node) && part_read(text_of(node->valuestring), out);
}

static enum td_status scalar_from_node(const cJSON *node, void *member)
{
    struct scalar *scalar = member;
    if (cJSON_IsBool(node)) {
        *scalar = (struct scalar){.kind = SCALAR_BOOL, .b = cJSON_IsTrue(node)};
        return TD_OK;
    }
    if (cJSON_IsNumber(node))
        return number_read_scalar(node->valuestring, strlen(node->valuestring), scalar);
    if (cJSON_IsString(node)) {
        scalar->kind = SCALAR_FLOAT;
        return special_read(text_of(node->valuestring), &scalar->f) ? TD_OK : TD_INVALID;
    }
    const cJSON *re = cJSON_IsArray(node) ? node->child : NULL, *im = re ? re->next : NULL;
    if (!im || im->next)
        return TD_INVALID;
    scalar->kind = SCALAR_COMPLEX;
    return part_from_node(re, &scalar->c[0]) && part_from_node(im, &scalar->c[1]) ? TD_OK
                                                                                  : TD_INVALID;
}

static enum td_status index_from_node(const cJSON *node, void *member)
{
    struct index *index = member;
    if (cJSON_IsString(node))
        return index_from_text(text_of(node->valuestring), index);
    index->count = 1;
    index->items[0] = (struct index_item){INDEX_INTEGER, 0, 0, 0};
    return int_from_node(node, &index->items[0].start);
}

/* ---- texts, as in a URL's query -------------------------------------------------------------- */

static enum td_status uint_from_text(struct text value, void *member)
{
    return uint_read(value, member) ? TD_OK : TD_INVALID;
}

static enum td_status int_from_text(struct text value, void *member)
{
    return int_read(value, member) ? TD_OK : TD_INVALID;
}

static enum td_status bool_from_text(struct text value, void *member)
{
    *(bool *)member = value.length == 0 || text_equal(value, "true") || text_equal(value, "1");
    return *(bool *)member || text_equal(value, "false") || text_equal(value, "0") ? TD_OK
                                                                                   : TD_INVALID;
}

static enum td_status text_from_text(struct text value, void *member)
{
    for (size_t i = 0, size; i < value.length; i += size) {
        const unsigned char *at = (const unsigned char *)value.data + i;
        size = *at ? utf8_length(at, value.length - i) : 0;
        if (size == 0)
            return TD_INVALID;
    }
    *(struct text *)member = value;
    return TD_OK;
}

static enum td_status dtype_from_text(struct text value, void *member)
{
    return dtype_read(value, member);
}

static struct text text_trim(struct text text)
{
    while (text.length > 0 && json_is_space(text.data[0])) {
        text.data++;
        text.length--;
    }
    while (text.length > 0 && json_is_space(text.data[text.length - 1]))
        text.length--;
    return text;
}

/* The items between commas, with or without brackets around them, blanks apart. false for more than
 * `max`. */
static bool items_from_text(struct text value, struct text *items, int max, int *count)
{
    value = text_trim(value);
    if (value.length >= 2 && value.data[0] == '[' && value.data[value.length - 1] == ']')
        value = text_trim((struct text){value.data + 1, value.length - 2});
    *count = 0;
    if (value.length == 0)
        return true;
    for (;;) {
        const char *comma = memchr(value.data, ',', value.length);
        size_t length = comma ? (size_t)(comma - value.data) : value.length;
        if (*count == max)
            return false;
        items[(*count)++] = text_trim((struct text){value.data, length});
        if (!comma)
            return true;
        value = (struct text){comma + 1, value.length - length - 1};
    }
}

static enum td_status dims_from_text(struct text value, void *member)
{
    struct dims *dims = member;
    struct text items[RANK_MAX];
    if (!items_from_text(value, items, RANK_MAX, &dims->rank))
        return TD_BAD_SHAPE;
    for (int i = 0; i < dims->rank; i++)
        if (!int_read(items[i], &dims->v[i]))
            return TD_INVALID;
    return TD_OK;
}

/* A special word may have quotes, as in JSON, or none. */
static enum td_status scalar_from_text(struct text value, void *member)
{
    struct scalar *scalar = member;
    struct text items[2];
    int count;
    if (special_read(value, &scalar->f)) {
        scalar->kind = SCALAR_FLOAT;
        return TD_OK;
    }
    if (value.length == 0 || value.data[0] != '[')
        return number_read_scalar(value.data, value.length, scalar);
    if (!items_from_text(value, items, 2, &count) || count != 2)
        return TD_INVALID;
    scalar->kind = SCALAR_COMPLEX;
    for (int i = 0; i < 2; i++)
        if (!part_read(items[i], &scalar->c[i]))
            return TD_INVALID;
    return TD_OK;
}

static enum td_status index_of_text(struct text value, void *member)
{
    return index_from_text(value, member);
}

/* ---- output ---------------------------------------------------------------------------------- */

/* More than any field takes but texts: an index of 64 slices of three numbers. */
#define VALUE_SIZE (INDEX_MAX * 3 * 21 + INDEX_MAX + 8)

/* Each writes the member's value as JSON, at most VALUE_SIZE bytes with NUL. */
static void uint_write(const void *member, char *out)
{
    snprintf(out, VALUE_SIZE, "%" PRIu64, *(const uint64_t *)member);
}

static void int_write(const void *member, char *out)
{
    snprintf(out, VALUE_SIZE, "%" PRId64, *(const int64_t *)member);
}

static void bool_write(const void *member, char *out)
{
    snprintf(out, VALUE_SIZE, "%s", *(const bool *)member ? "true" : "false");
}

static void dtype_write(const void *member, char *out)
{
    snprintf(out, VALUE_SIZE, "\"%s\"", td_dtype_name((int)*(const enum td_dtype *)member));
}

static void dims_write(const void *member, char *out)
{
    const struct dims *dims = member;
    char *end = out + VALUE_SIZE;
    *out++ = '[';
    for (int i = 0; i < dims->rank; i++)
        out += snprintf(out, (size_t)(end - out), "%s%" PRId64, i > 0 ? "," : "", dims->v[i]);
    snprintf(out, (size_t)(end - out), "]");
}

static void scalar_write(const void *member, char *out)
{
    const struct scalar *scalar = member;
    if (scalar->kind == SCALAR_FLOAT || scalar->kind == SCALAR_COMPLEX) {
        bool complex = scalar->kind == SCALAR_COMPLEX;
        out[number_write(complex ? TD_COMPLEX128 : TD_FLOAT64, scalar->c, out)] = '\0';
    } else if (scalar->kind == SCALAR_BOOL) {
        bool_write(&scalar->b, out);
    } else if (scalar->kind == SCALAR_INT) {
        int_write(&scalar->i, out);
    } else {
        uint_write(&scalar->u, out);
    }
}

static char *bound_write(int64_t bound, char *out)
{
    if (bound != INDEX_NONE)
        out += sprintf(out, "%" PRId64, bound);
    return out;
}

static void index_write(const void *member, char *out)
{
    const struct index *index = member;
    *out++ = '"';
    for (int i = 0; i < index->count; i++) {
        const struct index_item *item = &index->items[i];
        if (i > 0)
            *out++ = ',';
        if (item->kind == INDEX_ELLIPSIS || item->kind == INDEX_NEW_AXIS) {
            out = stpcpy(out, item->kind == INDEX_ELLIPSIS ? "..." : "None");
            continue;
        }
        if (item->kind == INDEX_INTEGER) {
            out += sprintf(out, "%" PRId64, item->start);
            continue;
        }
        out = bound_write(item->start, out);
        *out++ = ':';
        out = bound_write(item->stop, out);
        if (item->step != INDEX_NONE)
            *out++ = ':';
        out = bound_write(item->step, out);
    }
    memcpy(out, "\"", 2);
}

/* ---- the table ------------------------------------------------------------------------------- */

static const struct codec {
    enum td_status (*from_node)(const cJSON *node, void *member);
    enum td_status (*from_text)(struct text value, void *member);
    void (*write)(const void *member, char *out); /* NULL: texts, of any length */
} codecs[] = {
    [FIELD_TYPE_UINT] = {uint_from_node, uint_from_text, uint_write},
    [FIELD_TYPE_INT] = {int_from_node, int_from_text, int_write},
    [FIELD_TYPE_BOOL] = {bool_from_node, bool_from_text, bool_write},
    [FIELD_TYPE_TEXT] = {text_from_node, text_from_text, NULL},
    [FIELD_TYPE_DTYPE] = {dtype_from_node, dtype_from_text, dtype_write},
    [FIELD_TYPE_DIMS] = {dims_from_node, dims_from_text, dims_write},
    [FIELD_TYPE_SCALAR] = {scalar_from_node, scalar_from_text, scalar_write},
    [FIELD_TYPE_INDEX] = {index_from_node, index_of_text, index_write},
};

static void *member_of(struct fields *fields, int field)
{
    return (char *)fields + field_infos[field].offset;
}

static enum td_status member_read(const cJSON *node, struct fields *out)
{
    int field = field_find(node->string, strlen(node->string));
    if (field == 0) {
        char excerpt[JSON_EXCERPT_SIZE];
        return fail(TD_INVALID, "there is no field '%s'; GET /openapi.json lists them",
                    json_excerpt(node->string, strlen(node->string), excerpt));
    }
    if (cJSON_IsNull(node))
        return TD_OK;
    enum td_status status = codecs[field_infos[field].type].from_node(node, member_of(out, field));
    if (status != TD_OK)
        return status == TD_BAD_INDEX ? status : fail_node(field, node, status);
    out->present |= field_bit(field);
    return TD_OK;
}

enum td_status json_to_fields(const cJSON *object, struct fields *out)
{
    memset(out, 0, sizeof *out); /* absent fields read as zero, never as what was there before */
    if (!cJSON_IsObject(object))
        return fail(TD_INVALID, "expected was a JSON object of fields, {\"name\": value, ...}");
    for (const cJSON *node = object->child; node; node = node->next)
        TRY(member_read(node, out));
    return TD_OK;
}

enum td_status field_from_text(int field, struct text value, struct fields *out)
{
    assert(field > 0 && field < FIELD_END && field_infos[field].name);
    if (!value.data)
        value = text_of("");
    if (field == FIELD_timeout_ms) {
        TRY(duration_from_text(value, &out->timeout_ms));
    } else {
        enum td_status status =
            codecs[field_infos[field].type].from_text(value, member_of(out, field));
        if (status != TD_OK)
            return status == TD_BAD_INDEX ? status : fail_text(field, value, status);
    }
    out->present |= field_bit(field);
    return TD_OK;
}

/* cJSON copies it, and wants NUL at its end. */
static cJSON *text_add(cJSON *object, const char *name, struct text text)
{
    _cleanup_(freep) char *copy = text_dup(text);
    return copy ? cJSON_AddStringToObject(object, name, copy) : NULL;
}

enum td_status json_add_fields(cJSON *object, const struct fields *fields)
{
    for (field_set left = fields->present; left != 0; left &= left - 1) {
        const struct field_info *info = &field_infos[field_first(left)];
        const void *member = (const char *)fields + info->offset;
        char value[VALUE_SIZE];
        cJSON *node;
        if (info->type == FIELD_TYPE_TEXT) {
            node = text_add(object, info->name, *(const struct text *)member);
        } else {
            codecs[info->type].write(member, value);
            node = cJSON_AddRawToObject(object, info->name, value);
        }
        if (!node)
            return fail(TD_OUT_OF_MEMORY, "no memory for the field '%s' as JSON", info->name);
    }
    return TD_OK;
}
