#include "proto/format/json.h"

#include "core/cleanup.h"
#include "proto/format/json_scan.h"
#include "proto/format/number.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The tree is built here rather than by cJSON's parser: it cuts numbers at 63 bytes, and would have
 * to be followed through the text anyway for the numbers' texts. */
struct parser {
    const struct json_source *source;
    const char *text;
    size_t length, at;
    cJSON *root;
    cJSON *open[JSON_DEPTH_MAX];   /* lists and objects that have begun, outermost first */
    size_t begins[JSON_DEPTH_MAX]; /* where they did */
    int depth;
    char *key; /* of the value that comes next, if in an object */
};

/* ---- errors ---------------------------------------------------------------------------------- */

/* Which byte of the document a byte of the text is. */
static uint64_t byte_of(const struct parser *parser, size_t at)
{
    const struct json_source *source = parser->source;
    return at < source->cut_at ? source->base + at : source->cut_to + (at - source->cut_at);
}

static enum td_status fail_expected(const struct parser *parser, const char *expected)
{
    char excerpt[JSON_EXCERPT_SIZE], found[JSON_EXCERPT_SIZE + 2] = "the end";
    unsigned char c = parser->at < parser->length ? (unsigned char)parser->text[parser->at] : 0;
    if (c >= 0x80)
        snprintf(found, sizeof found, "0x%02x", c);
    else if (parser->at < parser->length)
        snprintf(found, sizeof found, "'%s'", json_excerpt((const char *)&c, 1, excerpt));
    return fail(TD_INVALID, "the JSON document is wrong at byte %" PRIu64 ": expected %s, found %s",
                byte_of(parser, parser->at), expected, found);
}

static __attribute__((cold)) enum td_status fail_memory(const struct parser *parser)
{
    return fail(TD_OUT_OF_MEMORY, "no memory for a JSON document of %zu bytes", parser->length);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void space_skip(struct parser *parser)
{
    while (parser->at < parser->length && json_is_space(parser->text[parser->at]))
        parser->at++;
}

/* Whether the character is next after white space; goes past it then. */
static bool next_is(struct parser *parser, char c)
{
    space_skip(parser);
    if (parser->at == parser->length || parser->text[parser->at] != c)
        return false;
    parser->at++;
    return true;
}

static enum td_status string_parse(struct parser *parser, char **out)
{
    const char *begin = parser->text + parser->at;
    size_t left = parser->length - parser->at, raw = 1;
    while (raw < left && begin[raw] != '"')
        raw += begin[raw] == '\\' ? 2 : 1;
    char *string = cJSON_malloc(raw + 1); /* the tree frees it with cJSON's allocator */
    if (!string)
        return fail_memory(parser);
    const char *expected = json_string_decode(parser->text, parser->length, &parser->at, string);
    if (expected) {
        cJSON_free(string);
        return fail_expected(parser, expected);
    }
    *out = string;
    return TD_OK;
}

static enum td_status number_parse(struct parser *parser, cJSON *node)
{
    bool integer;
    const char *token = parser->text + parser->at;
    size_t length = json_number_length(token, parser->length - parser->at, &integer);
    if (length == 0)
        return fail_expected(parser, "a number such as 10, -1.5 or 2e-3 (no '+', no leading zeros, "
                                     "digits around the point)");
    node->valuestring = cJSON_malloc(length + 1);
    if (!node->valuestring)
        return fail_memory(parser);
    memcpy(node->valuestring, token, length);
    node->valuestring[length] = '\0';
    double value;
    if (number_read(TD_FLOAT64, token, length, &value) != TD_OK)
        value = token[0] == '-' ? -(double)INFINITY : (double)INFINITY;
    cJSON_SetNumberValue(node, value);
    node->type = cJSON_Number;
    parser->at += length;
    return TD_OK;
}

static enum td_status literal_parse(struct parser *parser, cJSON *node)
{
    static const struct {
        const char *word;
        int type;
    } literals[] = {{"null", cJSON_NULL}, {"true", cJSON_True}, {"false", cJSON_False}};
    for (size_t i = 0; i < sizeof literals / sizeof *literals; i++) {
        size_t length = strlen(literals[i].word);
        if (parser->length - parser->at < length ||
            memcmp(parser->text + parser->at, literals[i].word, length) != 0)
            continue;
        node->type = literals[i].type;
        parser->at += length;
        return TD_OK;
    }
    return fail_expected(parser, "a value");
}

/* ---- objects and lists ----------------------------------------------------------------------- */

static int key_compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* No two members of the object that has just ended have the same name. */
static enum td_status keys_check(struct parser *parser, const cJSON *object)
{
    enum { FEW = 16 };
    const char *few[FEW];
    _cleanup_(freep) const char **many = NULL;
    size_t count = 0, n = 0;
    for (const cJSON *member = object->child; member; member = member->next)
        count++;
    if (count > FEW && !(many = calloc(count, sizeof *many)))
        return fail_memory(parser);
    const char **keys = many ? many : few;
    for (const cJSON *member = object->child; member; member = member->next)
        keys[n++] = member->string;
    qsort(keys, count, sizeof *keys, key_compare); /* glibc's merges: no input makes it quadratic */
    for (size_t i = 1; i < count; i++) {
        char excerpt[JSON_EXCERPT_SIZE];
        if (strcmp(keys[i - 1], keys[i]) == 0)
            return fail(TD_INVALID,
                        "the object that begins at byte %" PRIu64 " of the JSON document has the "
                        "member '%s' more than once",
                        byte_of(parser, parser->begins[parser->depth]),
                        json_excerpt(keys[i], strlen(keys[i]), excerpt));
    }
    return TD_OK;
}

static enum td_status key_parse(struct parser *parser)
{
    space_skip(parser);
    if (parser->at == parser->length || parser->text[parser->at] != '"')
        return fail_expected(parser, "the name of a member in quotes");
    TRY(string_parse(parser, &parser->key));
    if (!next_is(parser, ':'))
        return fail_expected(parser, "':'");
    return TD_OK;
}

static enum td_status container_open(struct parser *parser, cJSON *node, int type)
{
    if (parser->depth == JSON_DEPTH_MAX)
        return fail(TD_INVALID,
                    "the JSON document is nested deeper than %d levels at byte %" PRIu64,
                    JSON_DEPTH_MAX, byte_of(parser, parser->at));
    node->type = type;
    parser->open[parser->depth] = node;
    parser->begins[parser->depth++] = parser->at++;
    return TD_OK;
}

static enum td_status value_parse(struct parser *parser)
{
    cJSON *node = cJSON_CreateNull();
    if (!node)
        return fail_memory(parser);
    node->string = take(&parser->key);
    /* Hands the node to the tree. In an object it has brought its name, which cJSON's functions for
     * objects would copy. */
    if (parser->depth == 0)
        parser->root = node;
    else
        cJSON_AddItemToArray(parser->open[parser->depth - 1], node);
    space_skip(parser);
    if (parser->at == parser->length)
        return fail_expected(parser, "a value");
    char c = parser->text[parser->at];
    if (c == '{')
        return container_open(parser, node, cJSON_Object);
    if (c == '[')
        return container_open(parser, node, cJSON_Array);
    if (c == '-' || (c >= '0' && c <= '9'))
        return number_parse(parser, node);
    if (c != '"')
        return literal_parse(parser, node);
    TRY(string_parse(parser, &node->valuestring));
    node->type = cJSON_String;
    return TD_OK;
}

/* One item of the innermost open list or object, or its end. */
static enum td_status item_parse(struct parser *parser)
{
    cJSON *container = parser->open[parser->depth - 1];
    bool object = container->type == cJSON_Object;
    if (next_is(parser, object ? '}' : ']')) {
        parser->depth--;
        return object ? keys_check(parser, container) : TD_OK;
    }
    if (container->child && !next_is(parser, ','))
        return fail_expected(parser, object ? "',' or '}'" : "',' or ']'");
    if (object)
        TRY(key_parse(parser));
    return value_parse(parser);
}

static enum td_status document_parse(struct parser *parser)
{
    TRY(value_parse(parser));
    while (parser->depth > 0)
        TRY(item_parse(parser));
    space_skip(parser);
    if (parser->at < parser->length)
        return fail_expected(parser, "nothing but white space after the end");
    return TD_OK;
}

enum td_status json_build(const struct json_source *source, cJSON **out)
{
    struct parser parser = {.source = source, .text = source->text, .length = source->length};
    enum td_status status = document_parse(&parser);
    cJSON_free(parser.key);
    if (status != TD_OK)
        cJSON_Delete(parser.root);
    else
        *out = parser.root;
    return status;
}

enum td_status json_parse(const char *text, size_t length, cJSON **out)
{
    struct json_source source = {.text = text, .length = length, .cut_at = SIZE_MAX};
    if (length > JSON_DOCUMENT_MAX)
        return fail(TD_TOO_LARGE, "the JSON document has %zu bytes; the limit is %d", length,
                    JSON_DOCUMENT_MAX);
    return json_build(&source, out);
}
