/* json_scan: what the readers of JSON share, and nobody else needs: tokens, documents with a piece
 * cut out, and the elements of a tensor's `data`.
 *
 * Pure functions, any thread; a struct json_data belongs to one thread at a time.
 */
#ifndef FORMAT_JSON_SCAN_H
#define FORMAT_JSON_SCAN_H

#include "core/fail.h"
#include "core/layout.h"

#include <cjson/cJSON.h>

/* ---- tokens ---------------------------------------------------------------------------------- */

static inline bool json_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* The end of the token at `at`, which is no string: `end` if it is not there yet. */
static inline const char *json_token_end(const char *at, const char *end)
{
    for (;; at++) {
        while (at < end && (unsigned char)(*at - '-') <= '9' - '-') /* most: - . / and digits */
            at++;
        if (at == end || json_is_space(*at) || *at == ',' || *at == ']' || *at == '}')
            return at;
    }
}

/* Bytes of the number (RFC 8259) that the text begins with, 0 if it begins with none; a longer
 * number may follow if the text ends there. *integer: it has neither a point nor an exponent. */
size_t json_number_length(const char *text, size_t length, bool *integer);

/* Decodes the string whose opening quote is text[*at], into at most as many bytes as it has in the
 * text, and NUL. *at moves behind the closing quote and NULL is returned; or *at is where it went
 * wrong, and what was expected there is returned. */
const char *json_string_decode(const char *text, size_t length, size_t *at, char *out);

/* Text from outside for a message: at most 60 bytes, "..." where it was cut, "?" for control
 * characters and what is not UTF-8. Returns `buffer`. */
#define JSON_EXCERPT_SIZE 64
const char *json_excerpt(const char *text, size_t length, char buffer[JSON_EXCERPT_SIZE]);

/* ---- documents ------------------------------------------------------------------------------- */

/* A text that is a document but for a piece that was cut out of it; errors tell the byte of the
 * document. `base` bytes stood before the text; text[cut_at] was byte `cut_to` of the document.
 * Without a cut, cut_at is SIZE_MAX. */
struct json_source {
    const char *text;
    size_t length;
    uint64_t base;
    size_t cut_at;
    uint64_t cut_to;
};

/* json_parse of a text of any length. */
NODISCARD enum td_status json_build(const struct json_source *source, cJSON **out);

/* ---- elements -------------------------------------------------------------------------------- */

/* More than the exact decimal value of any double takes (1077 bytes). */
#define JSON_TOKEN_MAX 1100

enum json_data_state {
    JSON_DATA_VALUE, /* an element or a list is due */
    JSON_DATA_FIRST, /* the same, or the end of the list that just began */
    JSON_DATA_NEXT,  /* a comma, or the end of the list */
    JSON_DATA_DONE
};

/* Reads nested lists of elements, in pieces cut anywhere. */
struct json_data {
    enum td_dtype dtype; /* NONE: only look at what kinds of elements there are */
    enum td_dtype part;  /* what one number is read as: a complex element has two */
    size_t part_bytes;
    bool complex, declared;   /* declared: all sizes were known from the start */
    int rank;                 /* -1: not known before the first element or empty list */
    int64_t sizes[RANK_MAX];  /* -1: not known before the first list there ends */
    int64_t counts[RANK_MAX]; /* items so far of each open list */
    int depth;                /* open lists, pairs of complex numbers not counted */
    int parts;                /* numbers so far of the open pair, -1 without one */
    enum json_data_state state;
    unsigned char *out;                /* the next element; NULL to write none */
    bool has_bool, has_int, has_float; /* elements of these kinds (only without `out`) */
    uint64_t offset;                   /* in the document, of the next byte to come */
    size_t token_length;               /* of a token whose end has not come yet */
    char token[JSON_TOKEN_MAX];
};

/* offset: of the first byte, in the document. shape NULL: inferred, with `rank` dimensions (-1: as
 * many as there are). out: room for all elements, or NULL to check them without writing. */
void json_data_begin(struct json_data *data, enum td_dtype dtype, const struct dims *shape,
                     int rank, void *out, uint64_t offset);
/* Reads until the data ends or the piece does; *used is `length` unless the state is DONE. INVALID,
 * BAD_SHAPE, BAD_DTYPE, TOO_LARGE for a token over JSON_TOKEN_MAX; all tell where. */
NODISCARD enum td_status json_data_feed(struct json_data *data, const char *bytes, size_t length,
                                        size_t *used);
/* No more is coming. INVALID unless the data is complete. */
NODISCARD enum td_status json_data_end(struct json_data *data);

/* Bytes of the value that the text begins with, judged by quotes and brackets only; `length` if it
 * does not end. *leaf_depth: in how many lists the deepest element lies, -1 without elements. */
size_t json_value_extent(const char *text, size_t length, int *leaf_depth);

#endif
