#include "proto/format/json_tensor.h"

#include "core/cleanup.h"
#include "proto/format/json.h"
#include "proto/format/json_scan.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#define MEMBERS_MAX ((size_t)64 << 10) /* bytes of a document without its data */
#define DATA_MEMBER "data"
#define DATA_PLACE "null" /* stands for the data in the members' text */

enum phase {
    PHASE_START,   /* before the document */
    PHASE_MEMBERS, /* in an object, outside of its data */
    PHASE_COLON,   /* behind "data": */
    PHASE_TARGET,  /* the caller is to give memory */
    PHASE_DATA,    /* in the data */
    PHASE_SPOOL,   /* the caller is to measure */
    PHASE_FILL,    /* the caller is to fill */
    PHASE_AFTER,   /* behind the document */
    PHASE_END,
    PHASE_COUNT
};

/* The members' text is kept as it came, with a place holder for the data, and becomes a tree when
 * the data begins (for what is known by then) and at the end. Until then only as much is seen of it
 * as finding the data takes: quotes, brackets, and names at the first level. What else may be wrong
 * with it the tree's parser finds. */
struct json_tensor {
    enum phase phase;
    bool object;         /* the document is one; else it is the data itself */
    bool data_seen;      /* the member was there */
    uint64_t offset;     /* bytes of the document that were used */
    enum td_dtype dtype; /* NONE: not known yet */
    struct dims shape;   /* rank -1: not known yet */

    char *members;
    size_t members_length, members_room;
    uint64_t members_begin;              /* the offset of its first byte */
    size_t data_end;                     /* in members: behind the place holder, SIZE_MAX before */
    uint64_t data_begin, data_continued; /* offsets: of the data, and of what follows it */
    size_t data_bytes;                   /* of the text that was measured */
    int depth;                           /* open brackets of the members */
    bool in_string, escaped;
    bool name_due;                      /* at the first level, and no colon has come yet */
    size_t string_begin, string_length; /* the last string in members, with its quotes */

    cJSON *tree; /* of the members; the texts of `fields` point into it */
    struct fields fields;
    struct json_data data;
};

enum td_status json_tensor_create(enum td_dtype dtype, const struct dims *shape,
                                  struct json_tensor **out)
{
    struct json_tensor *reader = calloc(1, sizeof *reader);
    if (!reader)
        return fail(TD_OUT_OF_MEMORY, "no memory to read a tensor from JSON");
    reader->dtype = dtype;
    reader->shape.rank = -1;
    reader->data_end = SIZE_MAX;
    if (shape)
        reader->shape = *shape;
    *out = reader;
    return TD_OK;
}

void json_tensor_destroy(struct json_tensor *reader)
{
    if (!reader)
        return;
    cJSON_Delete(reader->tree);
    free(reader->members);
    free(reader);
}

enum td_dtype json_tensor_dtype(const struct json_tensor *reader)
{
    return reader->dtype;
}

const struct dims *json_tensor_shape(const struct json_tensor *reader)
{
    return &reader->shape;
}

const struct fields *json_tensor_fields(const struct json_tensor *reader)
{
    return &reader->fields;
}

/* ---- what the members say -------------------------------------------------------------------- */

static enum td_status members_append(struct json_tensor *reader, const char *text, size_t length)
{
    size_t needed = reader->members_length + length, room = reader->members_room;
    if (length > MEMBERS_MAX || needed > MEMBERS_MAX)
        return fail(TD_TOO_LARGE,
                    "the members of the document besides '%s' take more than %zu bytes "
                    "(byte %" PRIu64 ")",
                    DATA_MEMBER, MEMBERS_MAX, reader->offset);
    if (needed > room) {
        while (room < needed)
            room = room > 0 ? room * 2 : 256;
        char *grown = realloc(reader->members, room);
        if (!grown)
            return fail(TD_OUT_OF_MEMORY, "no memory for %zu bytes of a JSON document", room);
        reader->members = grown;
        reader->members_room = room;
    }
    memcpy(reader->members + reader->members_length, text, length);
    reader->members_length = needed;
    return TD_OK;
}

static bool same_shape(const struct dims *a, const struct dims *b)
{
    return a->rank == b->rank &&
           (a->rank <= 0 || memcmp(a->v, b->v, (size_t)a->rank * sizeof *a->v) == 0);
}

/* Takes dtype and shape from the members, which must agree with what is known. */
static enum td_status members_agree(struct json_tensor *reader)
{
    const struct fields *fields = &reader->fields;
    char known[SHAPE_TEXT_SIZE / 2], said[SHAPE_TEXT_SIZE / 2]; /* both are to fit in a detail */
    if (FIELDS_HAS(fields, dtype) && reader->dtype == TD_DTYPE_NONE)
        reader->dtype = fields->dtype;
    if (FIELDS_HAS(fields, dtype) && reader->dtype != fields->dtype)
        return fail(TD_INVALID,
                    "the document says dtype %s, but %s was asked for; leave one of them out",
                    td_dtype_name((int)fields->dtype), td_dtype_name((int)reader->dtype));
    if (FIELDS_HAS(fields, shape) && reader->shape.rank < 0)
        reader->shape = fields->shape;
    if (FIELDS_HAS(fields, shape) && !same_shape(&reader->shape, &fields->shape))
        return fail(TD_INVALID,
                    "the document says shape %s, but %s was asked for; leave one of them out",
                    layout_shape_text(fields->shape.rank, fields->shape.v, said, sizeof said),
                    layout_shape_text(reader->shape.rank, reader->shape.v, known, sizeof known));
    return TD_OK;
}

/* Of a shape that is known; the dtype may not be. */
static enum td_status shape_check(const struct json_tensor *reader)
{
    struct layout layout;
    return layout_contiguous(reader->dtype == TD_DTYPE_NONE ? TD_BOOL : reader->dtype,
                             &reader->shape, &layout);
}

/* Reads the members so far, as an object. */
static enum td_status members_read(struct json_tensor *reader)
{
    struct json_source source = {.text = reader->members,
                                 .length = reader->members_length,
                                 .base = reader->members_begin,
                                 .cut_at = reader->data_end,
                                 .cut_to = reader->data_continued};
    cJSON *tree;
    TRY(json_build(&source, &tree));
    cJSON_DeleteItemFromObjectCaseSensitive(tree, DATA_MEMBER);
    cJSON_Delete(reader->tree);
    reader->tree = tree;
    TRY(json_to_fields(tree, &reader->fields));
    return members_agree(reader);
}

/* ---- the data begins ------------------------------------------------------------------------- */

/* `data` comes next, with the character `first`: what is known decides where its elements go. */
static enum td_status data_begin(struct json_tensor *reader, char first, enum json_want *want)
{
    char excerpt[JSON_EXCERPT_SIZE];
    if (first == '{' || json_token_end(&first, &first + 1) == &first)
        return fail(TD_INVALID,
                    "the data begins with '%s' (byte %" PRIu64 "); expected was '[' or a number",
                    json_excerpt(&first, 1, excerpt), reader->offset);
    reader->data_seen = true;
    reader->data_begin = reader->offset;
    if (reader->object) {
        size_t length = reader->members_length;
        TRY(members_append(reader, DATA_PLACE "}", strlen(DATA_PLACE "}")));
        TRY(members_read(reader));
        reader->members_length = reader->data_end = length + strlen(DATA_PLACE);
    }
    bool known = reader->dtype != TD_DTYPE_NONE && reader->shape.rank >= 0;
    reader->phase = known ? PHASE_TARGET : PHASE_SPOOL;
    *want = known ? JSON_WANT_MEMORY : JSON_WANT_SPOOL;
    return known ? shape_check(reader) : TD_OK;
}

void json_tensor_target(struct json_tensor *reader, void *memory)
{
    assert(reader->phase == PHASE_TARGET);
    json_data_begin(&reader->data, reader->dtype, &reader->shape, -1, memory, reader->offset);
    reader->phase = PHASE_DATA;
}

static void data_finish(struct json_tensor *reader)
{
    reader->data_continued = reader->data.offset;
    reader->phase = reader->object ? PHASE_MEMBERS : PHASE_AFTER;
}

/* ---- phases: each uses some bytes, or goes on to another phase ------------------------------- */

static size_t space_length(const char *bytes, size_t length)
{
    size_t n = 0;
    while (n < length && json_is_space(bytes[n]))
        n++;
    return n;
}

static enum td_status start_feed(struct json_tensor *reader, const char *bytes, size_t length,
                                 size_t *used, enum json_want *want)
{
    *used = space_length(bytes, length);
    if (*used > 0)
        return TD_OK;
    reader->members_begin = reader->offset;
    reader->object = bytes[0] == '{';
    if (!reader->object)
        return data_begin(reader, bytes[0], want);
    reader->phase = PHASE_MEMBERS;
    return TD_OK;
}

/* Whether the last string is the data's name, which may be written with escapes. */
static bool name_is_data(const struct json_tensor *reader)
{
    char name[6 * sizeof DATA_MEMBER + 2]; /* room if every character is one */
    size_t at = 0, length = reader->string_length;
    return length > 0 && length <= sizeof name &&
           !json_string_decode(reader->members + reader->string_begin, length, &at, name) &&
           strcmp(name, DATA_MEMBER) == 0;
}

/* One character of a string, which was appended already. */
static void string_step(struct json_tensor *reader, char c)
{
    bool ends = c == '"' && !reader->escaped;
    reader->escaped = c == '\\' && !reader->escaped;
    if (!ends)
        return;
    reader->in_string = false;
    reader->string_length = reader->members_length - reader->string_begin;
}

/* One character outside of strings, likewise. */
static void structure_step(struct json_tensor *reader, char c)
{
    if (c == '"') {
        reader->in_string = true;
        reader->string_begin = reader->members_length - 1;
    } else if (c == '{' || c == '[') {
        reader->depth++;
        reader->name_due = reader->depth == 1;
    } else if (c == '}' || c == ']') {
        reader->depth--;
        reader->phase = reader->depth <= 0 ? PHASE_AFTER : PHASE_MEMBERS;
    } else if (c == ',' && reader->depth == 1) {
        reader->name_due = true;
    } else if (c == ':' && reader->name_due) {
        reader->phase = name_is_data(reader) ? PHASE_COLON : PHASE_MEMBERS;
        reader->name_due = false;
    }
}

static enum td_status members_feed(struct json_tensor *reader, const char *bytes, size_t length,
                                   size_t *used, enum json_want *want)
{
    (void)length;
    (void)want;
    TRY(members_append(reader, bytes, 1));
    if (reader->in_string)
        string_step(reader, bytes[0]);
    else
        structure_step(reader, bytes[0]);
    *used = 1;
    if (reader->phase == PHASE_COLON && reader->data_seen)
        return fail(TD_INVALID,
                    "the document has the member '%s' more than once (byte %" PRIu64 ")",
                    DATA_MEMBER, reader->offset);
    return TD_OK;
}

static enum td_status colon_feed(struct json_tensor *reader, const char *bytes, size_t length,
                                 size_t *used, enum json_want *want)
{
    *used = space_length(bytes, length);
    return *used > 0 ? TD_OK : data_begin(reader, bytes[0], want);
}

static enum td_status data_feed(struct json_tensor *reader, const char *bytes, size_t length,
                                size_t *used, enum json_want *want)
{
    (void)want;
    TRY(json_data_feed(&reader->data, bytes, length, used));
    if (reader->data.state == JSON_DATA_DONE)
        data_finish(reader);
    return TD_OK;
}

static enum td_status after_feed(struct json_tensor *reader, const char *bytes, size_t length,
                                 size_t *used, enum json_want *want)
{
    char excerpt[JSON_EXCERPT_SIZE];
    (void)want;
    *used = space_length(bytes, length);
    if (*used == 0)
        return fail(TD_INVALID,
                    "the document has ended before byte %" PRIu64
                    ", where '%s' follows; expected was nothing but white space",
                    reader->offset, json_excerpt(bytes, 1, excerpt));
    return TD_OK;
}

enum td_status json_tensor_feed(struct json_tensor *reader, const char *bytes, size_t length,
                                size_t *used, enum json_want *want)
{
    typedef enum td_status (*feed)(struct json_tensor *, const char *, size_t, size_t *,
                                   enum json_want *);
    static const feed feeds[PHASE_COUNT] = {
        [PHASE_START] = start_feed, [PHASE_MEMBERS] = members_feed, [PHASE_COLON] = colon_feed,
        [PHASE_DATA] = data_feed,   [PHASE_AFTER] = after_feed,
    };
    *used = 0;
    *want = JSON_WANT_MORE;
    while (*used < length && *want == JSON_WANT_MORE) {
        size_t n = 0;
        assert(feeds[reader->phase]);
        TRY(feeds[reader->phase](reader, bytes + *used, length - *used, &n, want));
        *used += n;
        reader->offset += n;
    }
    return TD_OK;
}

/* ---- the end --------------------------------------------------------------------------------- */

enum td_status json_tensor_end(struct json_tensor *reader)
{
    if (reader->phase == PHASE_END)
        return TD_OK;
    assert(reader->phase != PHASE_TARGET && reader->phase != PHASE_SPOOL &&
           reader->phase != PHASE_FILL);
    if (reader->phase == PHASE_DATA) {
        TRY(json_data_end(&reader->data));
        data_finish(reader);
    }
    if (reader->phase == PHASE_START)
        return fail(TD_INVALID, "the document is empty; expected was JSON: an object with the "
                                "member '" DATA_MEMBER "', or a list");
    if (reader->phase != PHASE_AFTER)
        return fail(TD_INVALID,
                    "the document ends at byte %" PRIu64 ", before the '}' that ends its object",
                    reader->offset);
    if (reader->object)
        TRY(members_read(reader));
    if (!reader->data_seen)
        return fail(TD_INVALID,
                    "the document has no member '%s'; expected were the elements as nested lists",
                    DATA_MEMBER);
    reader->phase = PHASE_END;
    return TD_OK;
}

/* ---- documents that were kept ---------------------------------------------------------------- */

/* Reads what follows the data, of which there are `extent` bytes, to the end of the document. */
static enum td_status rest_read(struct json_tensor *reader, const char *text, size_t length,
                                size_t extent)
{
    size_t used;
    enum json_want want;
    reader->offset = reader->data_continued = reader->data_begin + extent;
    reader->phase = reader->object ? PHASE_MEMBERS : PHASE_AFTER;
    TRY(json_tensor_feed(reader, text + extent, length - extent, &used, &want));
    return json_tensor_end(reader);
}

static void infer(struct json_tensor *reader)
{
    const struct json_data *data = &reader->data;
    if (reader->dtype == TD_DTYPE_NONE) {
        bool empty = !data->has_bool && !data->has_int && !data->has_float;
        reader->dtype = empty || data->has_float ? TD_FLOAT32 : data->has_int ? TD_INT64 : TD_BOOL;
    }
    if (reader->shape.rank >= 0)
        return;
    reader->shape.rank = data->rank;
    memcpy(reader->shape.v, data->sizes, sizeof reader->shape.v);
}

enum td_status json_tensor_measure(struct json_tensor *reader, const char *text, size_t length)
{
    bool complex = dtype_infos[reader->dtype].kind == 'c';
    size_t extent = length;
    int leaf_depth = -1;
    assert(reader->phase == PHASE_SPOOL);
    if (reader->object || complex)
        extent = json_value_extent(text, length, &leaf_depth);
    if (reader->object) /* which may say dtype and shape after the data */
        TRY(rest_read(reader, text, length, extent));
    /* Without a shape it cannot be told whether a list of numbers is a dimension or [re, im]: then
     * the deepest lists are pairs. */
    complex = dtype_infos[reader->dtype].kind == 'c';
    bool known = reader->shape.rank >= 0;
    if (known)
        TRY(shape_check(reader));
    json_data_begin(&reader->data, reader->dtype, known ? &reader->shape : NULL,
                    complex && leaf_depth > 0 ? leaf_depth - 1 : -1, NULL, reader->data_begin);
    TRY(json_data_feed(&reader->data, text, extent, &reader->data_bytes));
    TRY(json_data_end(&reader->data));
    if (!reader->object)
        TRY(rest_read(reader, text, length, reader->data_bytes));
    infer(reader);
    reader->phase = PHASE_FILL;
    return shape_check(reader);
}

enum td_status json_tensor_fill(struct json_tensor *reader, const char *text, size_t length,
                                void *memory)
{
    size_t used;
    assert(reader->phase == PHASE_FILL && reader->data_bytes <= length);
    json_data_begin(&reader->data, reader->dtype, &reader->shape, -1, memory, reader->data_begin);
    TRY(json_data_feed(&reader->data, text, reader->data_bytes, &used));
    TRY(json_data_end(&reader->data));
    reader->phase = PHASE_END;
    return TD_OK;
}
