/* Feeds texts to the readers of JSON. A document that is taken must mean the same to cJSON's own
 * parser; fields must survive being written and read again; and a tensor must come out the same, or
 * be refused in the same words, however its document is cut into pieces.
 *
 * An input is a dtype (0: none), a rank (4: no shape) with as many sizes, a number that the cuts
 * come from, a byte each; the rest is the text. */
#include "proto/format/json.h"
#include "proto/format/json_tensor.h"
#include "proto/wire/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ELEMENTS_MAX ((int64_t)1 << 16)

static void require(bool condition)
{
    if (!condition)
        abort();
}

/* A copy of exactly that size, so that the address sanitizer sees what is read past it. */
static char *exact(const char *text, size_t length)
{
    char *copy = malloc(length);
    if (length > 0)
        memcpy(copy, text, length);
    return copy;
}

/* ---- documents ------------------------------------------------------------------------------- */

static bool same_string(const char *a, const char *b)
{
    return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

/* Recursion is bounded by JSON_DEPTH_MAX. */
static bool same_tree(const cJSON *a, const cJSON *b)
{
    bool number = cJSON_IsNumber(a);
    if (a->type != b->type || !same_string(a->string, b->string) ||
        (!number && !same_string(a->valuestring, b->valuestring)))
        return false;
    if (number && a->valuedouble != b->valuedouble) /* JSON has no NaN */
        return false;
    const cJSON *x = a->child, *y = b->child;
    for (; x && y; x = x->next, y = y->next)
        if (!same_tree(x, y))
            return false;
    return !x && !y;
}

/* cJSON's parser cuts numbers of 64 bytes and more. */
static bool has_long_number(const cJSON *tree)
{
    if (cJSON_IsNumber(tree) && strlen(tree->valuestring) > 60)
        return true;
    for (const cJSON *item = tree->child; item; item = item->next)
        if (has_long_number(item))
            return true;
    return false;
}

static void check_encodings_match(const struct fields *a, const struct fields *b)
{
    size_t size = wire_fields_size(a);
    require(wire_fields_size(b) == size);
    uint8_t *left = malloc(size), *right = malloc(size);
    wire_fields_encode(a, left);
    wire_fields_encode(b, right);
    require(size == 0 || memcmp(left, right, size) == 0);
    free(left);
    free(right);
}

/* Written as JSON and read again they are the same. */
static void check_fields(const struct fields *fields)
{
    struct fields again;
    cJSON *tree = NULL, *object = cJSON_CreateObject();
    require(json_add_fields(object, fields) == TD_OK);
    char *text = cJSON_PrintUnformatted(object);
    require(text && json_parse(text, strlen(text), &tree) == TD_OK);
    /* The one integer that no index text can say. */
    const struct index_item *first = &fields->index.items[0];
    bool unsayable = FIELDS_HAS(fields, index) && fields->index.count > 0 &&
                     first->kind == INDEX_INTEGER && first->start == INT64_MIN;
    enum td_status status = json_to_fields(tree, &again);
    require(status == (unsayable ? TD_BAD_INDEX : TD_OK));
    if (status == TD_OK)
        check_encodings_match(fields, &again);
    cJSON_Delete(tree);
    cJSON_Delete(object);
    cJSON_free(text);
}

static bool check_document(const char *text, size_t length)
{
    struct fields fields;
    cJSON *tree;
    if (json_parse(text, length, &tree) != TD_OK)
        return false;
    cJSON *theirs = cJSON_ParseWithLength(text, length);
    if (!has_long_number(tree))
        require(theirs && same_tree(tree, theirs));
    if (json_to_fields(tree, &fields) == TD_OK)
        check_fields(&fields);
    cJSON_Delete(theirs);
    cJSON_Delete(tree);
    return true;
}

static void check_query(unsigned field, const char *text, size_t length)
{
    struct fields fields = {0};
    if (field > 0 && field < FIELD_END && length <= 4096 &&
        field_from_text((int)field, (struct text){text, length}, &fields) == TD_OK)
        check_fields(&fields);
}

/* ---- tensors --------------------------------------------------------------------------------- */

struct known {
    enum td_dtype dtype;
    struct dims shape; /* rank -1: none */
};

struct result {
    enum td_status status;
    bool skipped; /* too large to be read here */
    bool spooled;
    char detail[FAIL_DETAIL_SIZE];
    struct known found;
    field_set fields; /* present */
    void *elements;
    size_t bytes;
};

/* Another one each time, so that what is not written shows up as different. */
static unsigned char filling;

static void elements_make(const struct json_tensor *reader, struct result *result)
{
    int64_t count;
    result->found.dtype = json_tensor_dtype(reader);
    result->found.shape = *json_tensor_shape(reader);
    require(dims_count(&result->found.shape, result->found.dtype, &count));
    result->skipped = count > ELEMENTS_MAX;
    if (result->skipped)
        return;
    result->bytes = (size_t)count * td_dtype_size((int)result->found.dtype);
    result->elements = malloc(result->bytes);
    memset(result->elements, ++filling, result->bytes);
}

static enum td_status read_spooled(struct json_tensor *reader, const char *text, size_t length,
                                   struct result *result)
{
    char *copy = exact(text, length);
    result->spooled = true;
    enum td_status status = json_tensor_measure(reader, copy, length);
    if (status == TD_OK)
        elements_make(reader, result);
    if (status == TD_OK && !result->skipped)
        status = json_tensor_fill(reader, copy, length, result->elements);
    free(copy);
    return status;
}

/* The next piece's length. */
static size_t piece_length(unsigned *cuts)
{
    *cuts = *cuts * 1103515245u + 12345u;
    unsigned choice = *cuts >> 16;
    return choice % 3 ? 1 + choice / 3 % 4 : 1 + choice / 3 % 64;
}

/* cuts 0: in one piece; 1: byte by byte. */
static enum td_status read_pieces(struct json_tensor *reader, const char *text, size_t length,
                                  unsigned cuts, struct result *result)
{
    for (size_t at = 0; at < length && !result->skipped;) {
        enum json_want want;
        size_t used, piece = cuts == 0 ? length : cuts == 1 ? 1 : piece_length(&cuts);
        if (piece > length - at)
            piece = length - at;
        char *bytes = exact(text + at, piece);
        enum td_status status = json_tensor_feed(reader, bytes, piece, &used, &want);
        free(bytes);
        if (status != TD_OK)
            return status;
        require(used <= piece && (want != JSON_WANT_MORE || used == piece));
        at += used;
        if (want == JSON_WANT_SPOOL)
            return read_spooled(reader, text + at, length - at, result);
        if (want == JSON_WANT_MORE)
            continue;
        elements_make(reader, result);
        if (!result->skipped)
            json_tensor_target(reader, result->elements);
    }
    return result->skipped ? TD_OK : json_tensor_end(reader);
}

static void read_tensor(const struct known *known, const char *text, size_t length, unsigned cuts,
                        struct result *result)
{
    struct json_tensor *reader;
    memset(result, 0, sizeof *result);
    require(json_tensor_create(known->dtype, known->shape.rank < 0 ? NULL : &known->shape,
                               &reader) == TD_OK);
    result->status = read_pieces(reader, text, length, cuts, result);
    if (result->status != TD_OK)
        strcpy(result->detail, fail_detail());
    else if (!result->skipped)
        result->fields = json_tensor_fields(reader)->present;
    json_tensor_destroy(reader);
}

static void require_same(const struct result *a, const struct result *b)
{
    require(a->status == b->status && a->skipped == b->skipped &&
            strcmp(a->detail, b->detail) == 0);
    if (a->status != TD_OK || a->skipped)
        return;
    const struct dims *left = &a->found.shape, *right = &b->found.shape;
    require(a->found.dtype == b->found.dtype && left->rank == right->rank);
    require(memcmp(left->v, right->v, (size_t)left->rank * sizeof *left->v) == 0);
    require(a->bytes == b->bytes && memcmp(a->elements, b->elements, a->bytes) == 0);
}

static void check_tensor(const struct known *known, const char *text, size_t length, unsigned cuts,
                         bool is_json)
{
    struct result whole, other;
    read_tensor(known, text, length, 0, &whole);
    for (unsigned pass = 0; pass < 2; pass++) {
        read_tensor(known, text, length, pass == 0 ? 1 : cuts + 2, &other);
        require_same(&whole, &other);
        require(whole.fields == other.fields);
        free(other.elements);
    }
    bool read = whole.status == TD_OK && !whole.skipped;
    /* Strictly JSON, unless it is nested deeper than json_parse goes. */
    if (read && whole.found.shape.rank < JSON_DEPTH_MAX - 2 && length <= JSON_DOCUMENT_MAX)
        require(is_json);
    /* Read as it comes it is the same as inferred before. */
    if (read && whole.spooled) {
        read_tensor(&whole.found, text, length, cuts + 2, &other);
        require_same(&whole, &other);
        free(other.elements);
    }
    free(whole.elements);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct known known = {.shape = {.rank = -1}};
    if (size < 7)
        return 0;
    known.dtype = (enum td_dtype)(data[0] % TD_DTYPE_END);
    if (data[1] % 5 < 4)
        known.shape.rank = data[1] % 5;
    for (int d = 0; d < known.shape.rank; d++)
        known.shape.v[d] = data[2 + d] % 8;
    unsigned cuts = data[5];
    size_t length = size - 6;
    char *text = exact((const char *)data + 6, length);
    bool is_json = check_document(text, length);
    check_query(cuts, text, length);
    check_tensor(&known, text, length, cuts, is_json);
    free(text);
    return 0;
}
