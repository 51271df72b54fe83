#include "proto/format/json_scan.h"
#include "proto/format/number.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- errors ---------------------------------------------------------------------------------- */

#define PATH_SIZE 256
#define REASON_SIZE (SHAPE_TEXT_SIZE + 32)

/* "data[1][0]": the item in progress in each of the first `depth` open lists. It fits: all items
 * before it were in the text, so that large indices are few. */
static const char *path_of(const struct json_data *data, int depth, char buffer[PATH_SIZE])
{
    size_t used = (size_t)snprintf(buffer, PATH_SIZE, "data");
    for (int d = 0; d < depth && used < PATH_SIZE; d++)
        used += (size_t)snprintf(buffer + used, PATH_SIZE - used, "[%" PRId64 "]",
                                 data->counts[d] > 0 ? data->counts[d] - 1 : 0);
    return buffer;
}

/* Why a list must have this length and an item be a list or not. */
static const char *reason_of(const struct json_data *data, char buffer[REASON_SIZE])
{
    char shape[SHAPE_TEXT_SIZE];
    if (!data->declared)
        return "lists side by side must be equally long and equally deep";
    snprintf(buffer, REASON_SIZE, "the shape is %s",
             layout_shape_text(data->rank, data->sizes, shape, sizeof shape));
    return buffer;
}

/* The innermost open list is longer or shorter than it must be. */
static enum td_status fail_length(const struct json_data *data, uint64_t byte)
{
    char path[PATH_SIZE], reason[REASON_SIZE];
    int d = data->depth - 1;
    path_of(data, d, path);
    if (data->counts[d] >= data->sizes[d])
        return fail(TD_BAD_SHAPE, "%s has more than %" PRId64 " items (byte %" PRIu64 "); %s", path,
                    data->sizes[d], byte, reason_of(data, reason));
    return fail(TD_BAD_SHAPE,
                "%s has %" PRId64 " items; expected were %" PRId64 " (byte %" PRIu64 "); %s", path,
                data->counts[d], data->sizes[d], byte, reason_of(data, reason));
}

/* A list where an element is due, or the other way round. */
static enum td_status fail_depth(struct json_data *data, const char *found, uint64_t byte)
{
    char path[PATH_SIZE], reason[REASON_SIZE];
    if (data->depth > 0)
        data->counts[data->depth - 1]++; /* the item in question */
    return fail(TD_BAD_SHAPE, "%s is %s; expected was %s (byte %" PRIu64 "); %s",
                path_of(data, data->depth, path), found,
                data->depth < data->rank ? "a list" : "a number", byte, reason_of(data, reason));
}

static enum td_status fail_pair(const struct json_data *data, uint64_t byte)
{
    char path[PATH_SIZE];
    return fail(TD_BAD_SHAPE,
                "%s is no complex number (byte %" PRIu64 "): expected was [re, im], the two parts "
                "in a list; real numbers alone need the shape to be given",
                path_of(data, data->depth, path), byte);
}

static enum td_status fail_expected(const struct json_data *data, char found, uint64_t byte)
{
    static const char *const expected[] = {
        [JSON_DATA_VALUE] = "a number or '['",
        [JSON_DATA_FIRST] = "a number, '[' or ']'",
        [JSON_DATA_NEXT] = "',' or ']'",
    };
    char path[PATH_SIZE], excerpt[JSON_EXCERPT_SIZE];
    return fail(TD_INVALID, "%s: expected was %s at byte %" PRIu64 ", not '%s'",
                path_of(data, data->depth, path), expected[data->state], byte,
                json_excerpt(&found, 1, excerpt));
}

static enum td_status fail_token_long(const struct json_data *data, uint64_t byte)
{
    char path[PATH_SIZE];
    return fail(TD_TOO_LARGE,
                "%s: the number at byte %" PRIu64 " is longer than %d bytes; write fewer digits",
                path_of(data, data->depth, path), byte, JSON_TOKEN_MAX);
}

/* ---- one token ------------------------------------------------------------------------------- */

static bool token_is(const char *token, size_t length, const char *word)
{
    return strlen(word) == length && memcmp(token, word, length) == 0;
}

enum token_kind { TOKEN_NONE, TOKEN_BOOL, TOKEN_INT, TOKEN_FLOAT };

static enum token_kind token_kind(const char *token, size_t length)
{
    bool integer;
    if (json_number_length(token, length, &integer) == length)
        return integer ? TOKEN_INT : TOKEN_FLOAT;
    if (token_is(token, length, "true") || token_is(token, length, "false"))
        return TOKEN_BOOL;
    if (token_is(token, length, "\"NaN\"") || token_is(token, length, "\"Infinity\"") ||
        token_is(token, length, "\"-Infinity\""))
        return TOKEN_FLOAT;
    return TOKEN_NONE;
}

static enum td_status fail_token(const struct json_data *data, const char *token, size_t length,
                                 uint64_t byte)
{
    char path[PATH_SIZE], excerpt[JSON_EXCERPT_SIZE];
    return fail(TD_INVALID,
                "%s is '%s' (byte %" PRIu64 "); expected was a number of JSON's, true, false, "
                "\"NaN\", \"Infinity\" or \"-Infinity\"",
                path_of(data, data->depth, path), json_excerpt(token, length, excerpt), byte);
}

static enum td_status token_look(struct json_data *data, const char *token, size_t length,
                                 uint64_t byte)
{
    enum token_kind kind = token_kind(token, length);
    data->has_bool |= kind == TOKEN_BOOL;
    data->has_int |= kind == TOKEN_INT;
    data->has_float |= kind == TOKEN_FLOAT;
    return kind == TOKEN_NONE ? fail_token(data, token, length, byte) : TD_OK;
}

/* The reader of numbers knows what is wrong, but not where. */
static __attribute__((cold)) enum td_status fail_number(const struct json_data *data,
                                                        enum td_status status, const char *token,
                                                        size_t length, uint64_t byte)
{
    char path[PATH_SIZE], detail[FAIL_DETAIL_SIZE];
    if (token_kind(token, length) == TOKEN_NONE)
        return fail_token(data, token, length, byte);
    snprintf(detail, sizeof detail, "%s", fail_detail());
    return fail(status, "%s (byte %" PRIu64 "): %s", path_of(data, data->depth, path), byte,
                detail);
}

/* One more item in the innermost open list. */
static inline enum td_status item_begin(struct json_data *data, uint64_t byte)
{
    int d = data->depth - 1;
    if (d < 0)
        return TD_OK;
    if (data->sizes[d] >= 0 && data->counts[d] >= data->sizes[d])
        return fail_length(data, byte);
    data->counts[d]++;
    return TD_OK;
}

static inline void item_end(struct json_data *data)
{
    data->state = data->depth == 0 && data->parts < 0 ? JSON_DATA_DONE : JSON_DATA_NEXT;
}

/* A whole token, which begins at `byte` of the document. */
static enum td_status token_take(struct json_data *data, const char *token, size_t length,
                                 uint64_t byte)
{
    bool in_pair = data->parts >= 0;
    if (length > JSON_TOKEN_MAX)
        return fail_token_long(data, byte);
    if (in_pair && data->parts == 2)
        return fail_pair(data, byte);
    if (data->rank < 0)
        data->rank = data->depth;
    if (data->depth != data->rank)
        return token_kind(token, length) == TOKEN_NONE ? fail_token(data, token, length, byte)
                                                       : fail_depth(data, "a number", byte);
    if (!in_pair)
        TRY(item_begin(data, byte));
    if (data->out) {
        enum td_status status = number_read(data->part, token, length, data->out);
        if (status != TD_OK)
            return fail_number(data, status, token, length, byte);
        data->out += data->part_bytes;
    } else {
        TRY(token_look(data, token, length, byte));
    }
    if (in_pair) {
        data->parts++;
    } else if (data->complex && data->out) { /* a real number */
        memset(data->out, 0, data->part_bytes);
        data->out += data->part_bytes;
    }
    item_end(data);
    return TD_OK;
}

/* ---- lists ----------------------------------------------------------------------------------- */

static enum td_status list_open(struct json_data *data, uint64_t byte)
{
    if (data->parts >= 0)
        return fail_pair(data, byte);
    data->state = JSON_DATA_FIRST;
    if (data->complex && data->depth == data->rank) {
        TRY(item_begin(data, byte));
        data->parts = 0;
        return TD_OK;
    }
    if (data->depth == data->rank)
        return fail_depth(data, "a list", byte);
    if (data->depth == RANK_MAX)
        return fail(TD_BAD_SHAPE,
                    "data has lists in more than %d lists (byte %" PRIu64 "); a tensor has at most "
                    "%d dimensions",
                    RANK_MAX, byte, RANK_MAX);
    TRY(item_begin(data, byte));
    data->counts[data->depth++] = 0;
    return TD_OK;
}

static enum td_status list_close(struct json_data *data, uint64_t byte)
{
    if (data->parts >= 0) {
        if (data->parts != 2)
            return fail_pair(data, byte);
        data->parts = -1;
        item_end(data);
        return TD_OK;
    }
    int d = data->depth - 1;
    if (data->sizes[d] < 0)
        data->sizes[d] = data->counts[d];
    if (data->counts[d] != data->sizes[d])
        return fail_length(data, byte);
    if (data->rank < 0) /* an empty list before any element: nothing can lie deeper */
        data->rank = data->depth;
    data->depth--;
    item_end(data);
    return TD_OK;
}

/* ---- pieces ---------------------------------------------------------------------------------- */

void json_data_begin(struct json_data *data, enum td_dtype dtype, const struct dims *shape,
                     int rank, void *out, uint64_t offset)
{
    assert(!out || (shape && dtype != TD_DTYPE_NONE));
    memset(data, 0, offsetof(struct json_data, token));
    data->dtype = dtype;
    data->complex = dtype_infos[dtype].kind == 'c';
    data->part = dtype == TD_COMPLEX64 ? TD_FLOAT32 : dtype == TD_COMPLEX128 ? TD_FLOAT64 : dtype;
    data->part_bytes = td_dtype_size((int)data->part);
    data->declared = shape != NULL;
    data->rank = shape ? shape->rank : rank;
    for (int d = 0; d < RANK_MAX; d++)
        data->sizes[d] = shape && d < shape->rank ? shape->v[d] : -1;
    data->parts = -1;
    data->out = out;
    data->offset = offset;
}

/* The bytes of a token up to its end, or all there are; *whole: its end is among them. */
static size_t token_extent(const char *at, const char *end, bool quoted, bool *whole)
{
    if (quoted) {
        const char *quote = memchr(at, '"', (size_t)(end - at));
        *whole = quote != NULL;
        return quote ? (size_t)(quote + 1 - at) : (size_t)(end - at);
    }
    const char *token_end = json_token_end(at, end);
    *whole = token_end < end;
    return (size_t)(token_end - at);
}

/* Takes the token that begins at `at`, or keeps its beginning for the next piece. Returns the bytes
 * used in *used. */
static enum td_status token_begin(struct json_data *data, const char *at, const char *end,
                                  uint64_t byte, size_t *used)
{
    bool whole, quoted = *at == '"';
    size_t skip = quoted ? 1 : 0;
    *used = skip + token_extent(at + skip, end, quoted, &whole);
    if (*used == 0)
        return fail_expected(data, *at, byte);
    if (whole)
        return token_take(data, at, *used, byte);
    if (*used > JSON_TOKEN_MAX)
        return fail_token_long(data, byte);
    memcpy(data->token, at, *used);
    data->token_length = *used;
    return TD_OK;
}

/* Takes the rest of a token from an earlier piece, or keeps more of it. */
static enum td_status token_continue(struct json_data *data, const char *at, const char *end,
                                     uint64_t byte, size_t *used)
{
    bool whole;
    *used = token_extent(at, end, data->token[0] == '"', &whole);
    byte -= data->token_length;
    if (*used > JSON_TOKEN_MAX - data->token_length)
        return fail_token_long(data, byte);
    memcpy(data->token + data->token_length, at, *used);
    data->token_length += *used;
    if (!whole)
        return TD_OK;
    size_t length = data->token_length;
    data->token_length = 0;
    return token_take(data, data->token, length, byte);
}

enum td_status json_data_feed(struct json_data *data, const char *bytes, size_t length,
                              size_t *used)
{
    const char *at = bytes, *end = bytes + length;
    while (at < end && data->state != JSON_DATA_DONE) {
        uint64_t byte = data->offset + (uint64_t)(at - bytes);
        size_t n = 1;
        if (data->token_length > 0) {
            TRY(token_continue(data, at, end, byte, &n));
        } else if (json_is_space(*at)) {
            /* between tokens */
        } else if (data->state == JSON_DATA_NEXT && *at == ',') {
            data->state = JSON_DATA_VALUE;
        } else if (*at == ']' && data->state != JSON_DATA_VALUE) {
            TRY(list_close(data, byte));
        } else if (data->state == JSON_DATA_NEXT) {
            return fail_expected(data, *at, byte);
        } else if (*at == '[') {
            TRY(list_open(data, byte));
        } else {
            TRY(token_begin(data, at, end, byte, &n));
        }
        at += n;
    }
    *used = (size_t)(at - bytes);
    data->offset += *used;
    return TD_OK;
}

enum td_status json_data_end(struct json_data *data)
{
    char path[PATH_SIZE];
    bool quoted = data->token_length > 0 && data->token[0] == '"';
    if (data->depth == 0 && data->parts < 0 && data->token_length > 0 && !quoted) {
        size_t length = data->token_length;
        data->token_length = 0;
        TRY(token_take(data, data->token, length, data->offset - length));
    }
    if (data->state == JSON_DATA_DONE)
        return TD_OK;
    return fail(TD_INVALID,
                "the document ends at byte %" PRIu64 ", in the middle of the data (at %s)",
                data->offset, path_of(data, data->depth, path));
}
