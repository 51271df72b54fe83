#include "core/op_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAKES_FIELDS (F(output) | F(create_only) | F(if_generation) | F(ttl_ms))

const struct op_info op_infos[OP_END] = {
#define OP_ROW(number, name, required, optional, traits, doc)                                      \
    [number] = {#name, required,                                                                   \
                (optional) | F(timeout_ms) | (((traits)&OP_MAKES) ? MAKES_FIELDS : 0), traits,     \
                doc},
    OPS(OP_ROW)
#undef OP_ROW
};

const struct field_info field_infos[FIELD_END] = {
#define FIELD_ROW(number, name, type, meaning)                                                     \
    [number] = {#name, FIELD_TYPE_##type, offsetof(struct fields, name), meaning},
    FIELDS(FIELD_ROW)
#undef FIELD_ROW
};

char *text_dup(struct text text)
{
    char *copy = malloc(text.length + 1);
    if (copy && text.length)
        memcpy(copy, text.data, text.length);
    if (copy)
        copy[text.length] = '\0';
    return copy;
}

bool text_equal(struct text text, const char *string)
{
    return strlen(string) == text.length && memcmp(text.data, string, text.length) == 0;
}

int op_find(const char *name, size_t length)
{
    for (int op = 1; op < OP_END; op++)
        if (op_infos[op].name && text_equal((struct text){name, length}, op_infos[op].name))
            return op;
    return 0;
}

int field_find(const char *name, size_t length)
{
    for (int field = 1; field < FIELD_END; field++)
        if (field_infos[field].name &&
            text_equal((struct text){name, length}, field_infos[field].name))
            return field;
    return 0;
}

void fields_merge(struct fields *to, const struct fields *from)
{
#define FIELD_MERGE(number, name, type, meaning)                                                   \
    if (FIELDS_HAS(from, name))                                                                    \
        to->name = from->name;
    FIELDS(FIELD_MERGE)
#undef FIELD_MERGE
    to->present |= from->present;
}

const char *field_type_name(enum field_type type)
{
    static const char *const names[] = {"none",  "uint", "int",    "bool", "text",
                                        "dtype", "dims", "scalar", "index"};
    return names[type];
}

/* The names of the fields of a set, with commas between them; what has no room is left out. */
static const char *names_of(field_set set, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (int field = 1; field < FIELD_END && used < size; field++)
        if (field_infos[field].name && (set & field_bit(field)))
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "",
                                     field_infos[field].name);
    return out;
}

enum td_status op_check_fields(enum op op, const struct fields *fields)
{
    const struct op_info *info = &op_infos[op];
    field_set missing = info->required & ~fields->present;
    if (missing)
        return fail(TD_INVALID, "%s needs the field '%s': %s", info->name,
                    field_infos[field_first(missing)].name,
                    field_infos[field_first(missing)].meaning);
    field_set known = info->required | info->optional, surplus = fields->present & ~known;
    char names[512];
    if (surplus)
        return fail(TD_INVALID, "%s does not take the field '%s'; it takes %s", info->name,
                    field_infos[field_first(surplus)].name, names_of(known, names, sizeof names));
    return TD_OK;
}
