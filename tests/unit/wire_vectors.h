/* wire_vectors: reads proto/wire/vectors.txt, which tells its own form. Include after cmocka.h. */
#ifndef TESTS_UNIT_WIRE_VECTORS_H
#define TESTS_UNIT_WIRE_VECTORS_H

#include "proto/wire/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VECTORS "proto/wire/vectors.txt"
#define FRAME_MAX 65536 /* of the file */
#define ENTRIES_MAX 8
#define COUNT(array) (sizeof(array) / sizeof *(array))

struct vector {
    char title[128];
    uint8_t bytes[FRAME_MAX];
    size_t length;
    struct wire_header header;
    bool has_header;
    struct fields fields;
    struct fields entries[ENTRIES_MAX]; /* of a list */
    int entry_count;
    bool has_unknown; /* fields that do not come back when encoded */
    char refused[16]; /* header, meta, list, or "" */
    char status[32];
    uint64_t request_id;
};

static size_t parse_hex(const char *text, uint8_t *out, size_t capacity)
{
    size_t length = strlen(text) / 2;
    assert_true(length <= capacity);
    for (size_t i = 0; i < length; i++) {
        unsigned byte;
        assert_int_equal(sscanf(text + 2 * i, "%2x", &byte), 1);
        out[i] = (uint8_t)byte;
    }
    return length;
}

static void parse_header(char *text, struct wire_header *out)
{
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        char *value = strchr(word, '=');
        assert_non_null(value);
        *value++ = '\0';
        uint64_t number = strtoull(value, NULL, 10);
        if (strcmp(word, "flags") == 0)
            out->flags = (uint8_t)number;
        else if (strcmp(word, "opcode") == 0)
            out->opcode = (uint16_t)number;
        else if (strcmp(word, "request_id") == 0)
            out->request_id = number;
        else if (strcmp(word, "status") == 0)
            out->status = (uint32_t)number;
        else if (strcmp(word, "meta_length") == 0)
            out->meta_length = (uint32_t)number;
        else if (strcmp(word, "body_length") == 0)
            out->body_length = number;
        else if (strcmp(word, "descriptors") == 0)
            out->descriptors = (uint16_t)number;
        else
            fail_msg("the header has no '%s'", word);
    }
    out->version = WIRE_VERSION;
}

static void parse_scalar(const char *text, struct scalar *out)
{
    static const char *const kinds[] = {"bool", "int", "uint", "float", "complex"};
    const char *numbers = strchr(text, ' ');
    char *end;
    size_t kind = 0;
    assert_non_null(numbers);
    while (kind < COUNT(kinds) && strncmp(text, kinds[kind], (size_t)(numbers - text)) != 0)
        kind++;
    out->kind = (enum scalar_kind)kind;
    switch (out->kind) {
    case SCALAR_BOOL:
        out->b = strtol(numbers, NULL, 10) != 0;
        break;
    case SCALAR_INT:
        out->i = strtoll(numbers, NULL, 10);
        break;
    case SCALAR_UINT:
        out->u = strtoull(numbers, NULL, 10);
        break;
    case SCALAR_FLOAT:
        out->f = strtod(numbers, NULL);
        break;
    case SCALAR_COMPLEX:
        out->c[0] = strtod(numbers, &end);
        out->c[1] = strtod(end, NULL);
        break;
    default:
        fail_msg("'%s' is no scalar", text);
    }
}

/* "1", "1:5:2", "::", "...", "None". */
static struct index_item parse_item(const char *word)
{
    struct index_item item = {.kind = INDEX_INTEGER};
    int64_t *ends[] = {&item.start, &item.stop, &item.step};
    if (strcmp(word, "...") == 0 || strcmp(word, "None") == 0) {
        item.kind = word[0] == '.' ? INDEX_ELLIPSIS : INDEX_NEW_AXIS;
        return item;
    }
    if (strchr(word, ':'))
        item.kind = INDEX_SLICE;
    for (size_t i = 0; i < (item.kind == INDEX_SLICE ? 3u : 1u); i++) {
        char *end;
        *ends[i] = strtoll(word, &end, 10);
        if (end == word)
            *ends[i] = INDEX_NONE;
        word = *end ? end + 1 : end;
    }
    return item;
}

static void parse_field(char *text, struct fields *out)
{
    char *value = strchr(text, ' ');
    size_t length = value ? (size_t)(value - text) : strlen(text);
    int field = field_find(text, length);
    if (field == 0)
        fail_msg("no field is called '%.*s'", (int)length, text);
    value = value ? value + 1 : text + length;
    void *member = (char *)out + field_infos[field].offset;
    out->present |= field_bit(field);
    switch (field_infos[field].type) {
    case FIELD_TYPE_UINT:
        *(uint64_t *)member = strtoull(value, NULL, 10);
        break;
    case FIELD_TYPE_INT:
        *(int64_t *)member = strtoll(value, NULL, 10);
        break;
    case FIELD_TYPE_BOOL:
        *(bool *)member = value[0] == '1';
        break;
    case FIELD_TYPE_TEXT: /* the line lives as long as the vector */
        *(struct text *)member = text_of(value);
        break;
    case FIELD_TYPE_DTYPE:
        *(enum td_dtype *)member = td_dtype_parse(value);
        break;
    case FIELD_TYPE_DIMS:
        for (char *word = strtok(value, " "); word; word = strtok(NULL, " "))
            ((struct dims *)member)->v[((struct dims *)member)->rank++] = strtoll(word, NULL, 10);
        break;
    case FIELD_TYPE_SCALAR:
        parse_scalar(value, member);
        break;
    case FIELD_TYPE_INDEX:
        for (char *word = strtok(value, " "); word; word = strtok(NULL, " "))
            ((struct index *)member)->items[((struct index *)member)->count++] = parse_item(word);
        break;
    case FIELD_TYPE_NONE:
        fail_msg("field %d has no type", field);
    }
}

static void parse_line(char *line, struct vector *out)
{
    char *rest = strchr(line, ' ');
    rest = rest ? (*rest = '\0', rest + 1) : line + strlen(line);
    if (strcmp(line, "hex") == 0) {
        out->length += parse_hex(rest, out->bytes + out->length, FRAME_MAX - out->length);
    } else if (strcmp(line, "header") == 0) {
        parse_header(rest, &out->header);
        out->has_header = true;
    } else if (strcmp(line, "field") == 0) {
        parse_field(rest, out->entry_count ? &out->entries[out->entry_count - 1] : &out->fields);
    } else if (strcmp(line, "unknown") == 0) {
        out->has_unknown = true;
    } else if (strcmp(line, "entry") == 0) {
        assert_true(out->entry_count < ENTRIES_MAX);
        out->entry_count++;
    } else if (strcmp(line, "refused") == 0) {
        assert_int_equal(sscanf(rest, "%15s %31s", out->refused, out->status), 2);
    } else if (strcmp(line, "request_id") == 0) {
        out->request_id = strtoull(rest, NULL, 10);
    } else if (strcmp(line, "body") != 0) { /* elements mean nothing here */
        fail_msg("'%s' in " VECTORS, line);
    }
}

static char *read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s cannot be read; run the test in the source's root", path);
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(size + 1);
    assert_int_equal(fread(text, 1, size, file), size);
    text[size] = '\0';
    fclose(file);
    return text;
}

/* Calls check with every vector whose `refused` is that; returns how many there were. */
static int each_vector(const char *refused, void (*check)(const struct vector *vector))
{
    char *text = read_file(VECTORS), *next;
    struct vector *vector = calloc(1, sizeof *vector);
    int count = 0;
    for (char *line = text; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        bool begins = strncmp(line, "frame ", 6) == 0;
        if ((begins || !next) && vector->length && strcmp(vector->refused, refused) == 0) {
            check(vector);
            count++;
        }
        if (begins) {
            memset(vector, 0, sizeof *vector);
            snprintf(vector->title, sizeof vector->title, "%s", line + 6);
        } else if (*line && line[0] != '#') {
            parse_line(line, vector);
        }
    }
    free(vector);
    free(text);
    return count;
}

#endif
