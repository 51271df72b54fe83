/* Reads a JSON document as a tensor whole, cut at every byte, and byte by byte, which must all come
 * to the same tensor, or to the same error word for word. Every piece lies in a buffer of exactly
 * its size, so that the address sanitizer sees each byte read past it. */
#ifndef TESTS_UNIT_JSON_READING_H
#define TESTS_UNIT_JSON_READING_H

#include "tests/unit/core_assert.h"

#include "proto/format/json_tensor.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- one reading ----------------------------------------------------------------------------- */

/* "float32 [2, 2]: 1 2 3 4", or "bad_shape: what was said". */
#define RESULT_SIZE 2048

struct reading {
    enum td_dtype dtype;
    const struct dims *shape;
    const char *text;
    size_t length;
    size_t piece, first; /* cut after `first` bytes, then every `piece` */
    bool spooled;        /* it asked for that */
};

static inline void *exact(const void *bytes, size_t length)
{
    char *copy = malloc(length > 0 ? length : 1);
    if (length > 0)
        memcpy(copy, bytes, length);
    return copy;
}

/* Memory for all elements, of exactly their size. */
static inline void *memory_for(const struct json_tensor *reader)
{
    int64_t count;
    assert_true(dims_count(json_tensor_shape(reader), json_tensor_dtype(reader), &count));
    assert_true(count < 1 << 20);
    return malloc((size_t)count * td_dtype_size((int)json_tensor_dtype(reader)));
}

static inline enum td_status spool(struct reading *reading, struct json_tensor *reader, size_t at,
                                   void **memory)
{
    size_t length = reading->length - at;
    char *text = exact(reading->text + at, length);
    reading->spooled = true;
    enum td_status status = json_tensor_measure(reader, text, length);
    if (status == TD_OK) {
        *memory = memory_for(reader);
        status = json_tensor_fill(reader, text, length, *memory);
    }
    free(text);
    return status == TD_OK ? json_tensor_end(reader) : status;
}

static inline enum td_status feed(struct reading *reading, struct json_tensor *reader,
                                  void **memory)
{
    for (size_t at = 0; at < reading->length;) {
        size_t piece = at == 0 ? reading->first : reading->piece, used;
        enum json_want want;
        if (piece > reading->length - at)
            piece = reading->length - at;
        char *bytes = exact(reading->text + at, piece);
        enum td_status status = json_tensor_feed(reader, bytes, piece, &used, &want);
        free(bytes);
        if (status != TD_OK)
            return status;
        at += used;
        if (want == JSON_WANT_SPOOL)
            return spool(reading, reader, at, memory);
        if (want == JSON_WANT_MORE)
            assert_int_equal(used, piece);
        else
            json_tensor_target(reader, *memory = memory_for(reader));
    }
    return json_tensor_end(reader);
}

static inline size_t append(char *out, size_t at, const char *text)
{
    size_t length = strlen(text);
    assert_true(at + length < RESULT_SIZE);
    memcpy(out + at, text, length + 1);
    return at + length;
}

static inline const char *scalar_text(const struct scalar *scalar, char buffer[96])
{
    if (scalar->kind == SCALAR_BOOL)
        snprintf(buffer, 96, "%s", scalar->b ? "true" : "false");
    else if (scalar->kind == SCALAR_INT)
        snprintf(buffer, 96, "%" PRId64, scalar->i);
    else if (scalar->kind == SCALAR_UINT)
        snprintf(buffer, 96, "%" PRIu64, scalar->u);
    else if (scalar->kind == SCALAR_FLOAT)
        snprintf(buffer, 96, "%.17g", scalar->f);
    else
        snprintf(buffer, 96, "%.17g%+.17gi", scalar->c[0], scalar->c[1]);
    return buffer;
}

static inline void render(const struct json_tensor *reader, const unsigned char *memory,
                          char out[RESULT_SIZE])
{
    enum td_dtype dtype = json_tensor_dtype(reader);
    const struct dims *shape = json_tensor_shape(reader);
    char text[SHAPE_TEXT_SIZE], element[96];
    int64_t count;
    assert_true(dims_count(shape, dtype, &count));
    size_t at = append(out, 0, td_dtype_name((int)dtype));
    at = append(out, at, " ");
    at = append(out, at, layout_shape_text(shape->rank, shape->v, text, sizeof text));
    at = append(out, at, ":");
    for (int64_t i = 0; i < count; i++) {
        struct scalar scalar = scalar_load(dtype, memory + (size_t)i * td_dtype_size((int)dtype));
        at = append(out, at, " ");
        at = append(out, at, scalar_text(&scalar, element));
    }
}

/* Reads the document and says what came of it. */
static inline void read_document(struct reading *reading, char out[RESULT_SIZE])
{
    struct json_tensor *reader;
    void *memory = NULL;
    reading->spooled = false;
    assert_ok(json_tensor_create(reading->dtype, reading->shape, &reader));
    enum td_status status = feed(reading, reader, &memory);
    if (status == TD_OK)
        render(reader, memory, out);
    else
        snprintf(out, RESULT_SIZE, "%s: %s", td_status_name((int)status), fail_detail());
    json_tensor_destroy(reader);
    free(memory);
}

/* All the cuts. Texts of more than 200 bytes are cut at every byte only near their ends. */
static inline void read_in_pieces(struct reading *reading, const char *whole)
{
    char result[RESULT_SIZE];
    for (size_t cut = 0; cut <= reading->length + 3; cut++) {
        if (cut > 100 && cut + 100 < reading->length)
            continue;
        /* The last rounds are pieces of 1, 2 and 3 bytes. */
        bool cut_once = cut <= reading->length;
        reading->first = cut_once ? cut : cut - reading->length;
        reading->piece = cut_once ? reading->length : cut - reading->length;
        if (reading->first == 0)
            continue;
        read_document(reading, result);
        if (strcmp(result, whole) != 0)
            fail_msg("%s, cut at %zu: %s, not %s", reading->text, cut, result, whole);
    }
}

static inline struct dims shape_of(const char *text)
{
    struct dims shape = {0};
    for (char *end; *text; text = *end == ',' ? end + 1 : end)
        shape.v[shape.rank++] = strtoll(text, &end, 10);
    return shape;
}

/* shape: sizes between commas, NULL for none. expected: the whole result, or only its start. */
static inline void check_length(enum td_dtype dtype, const char *shape, const char *text,
                                size_t length, const char *expected, bool start_only)
{
    char result[RESULT_SIZE];
    struct dims dims = shape_of(shape ? shape : "");
    struct reading reading = {
        .dtype = dtype,
        .shape = shape ? &dims : NULL,
        .text = text,
        .length = length,
        .piece = length,
        .first = length,
    };
    read_document(&reading, result);
    if (start_only ? strncmp(result, expected, strlen(expected)) : strcmp(result, expected))
        fail_msg("%s: %s, not %s", text, result, expected);
    read_in_pieces(&reading, result);
}

static inline void check(enum td_dtype dtype, const char *shape, const char *text,
                         const char *expected)
{
    check_length(dtype, shape, text, strlen(text), expected, false);
}

struct document {
    enum td_dtype dtype;
    const char *shape, *text, *result;
};

static inline void check_all(const struct document *documents, size_t count)
{
    for (size_t i = 0; i < count; i++)
        check(documents[i].dtype, documents[i].shape, documents[i].text, documents[i].result);
}

#endif
