/* Feeds bytes to the decoders of headers, metas and lists. What is taken must encode to the same
 * bytes again: there is one encoding of each meaning. */
#include "proto/wire/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

/* A copy of exactly that size, so that the address sanitizer sees what is read past it. */
static uint8_t *exact(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

static bool encodes_to(const struct fields *fields, const uint8_t *meta, size_t length)
{
    size_t size = wire_fields_size(fields);
    uint8_t *encoded = malloc(size);
    wire_fields_encode(fields, encoded);
    bool same = size == length && (size == 0 || memcmp(encoded, meta, size) == 0);
    free(encoded);
    return same;
}

/* A meta that was taken leniently is a good one without its unknown fields. */
static void check_lenient(const struct fields *fields)
{
    struct fields again;
    size_t size = wire_fields_size(fields);
    uint8_t *meta = malloc(size);
    wire_fields_encode(fields, meta);
    require(wire_fields_decode(meta, size, WIRE_STRICT, &again) == TD_OK);
    require(again.present == fields->present && encodes_to(&again, meta, size));
    free(meta);
}

static void check_meta(const uint8_t *data, size_t length)
{
    struct fields strict, lenient;
    uint8_t *meta = exact(data, length);
    enum td_status strictly = wire_fields_decode(meta, length, WIRE_STRICT, &strict);
    enum td_status leniently = wire_fields_decode(meta, length, WIRE_LENIENT, &lenient);
    if (strictly == TD_OK)
        require(leniently == TD_OK && encodes_to(&strict, meta, length));
    if (leniently == TD_OK)
        check_lenient(&lenient);
    free(meta);
}

static void check_list(const uint8_t *data, size_t length)
{
    struct fields entry;
    size_t offset = 0;
    uint8_t *body = exact(data, length);
    while (offset < length) {
        size_t before = offset;
        if (wire_entry_next(body, length, &offset, &entry) != TD_OK) {
            require(offset == before);
            break;
        }
        require(offset >= before + WIRE_ENTRY_PREFIX && offset <= length);
        check_lenient(&entry);
    }
    free(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_header header;
    uint8_t encoded[WIRE_HEADER_SIZE];
    if (size < WIRE_HEADER_SIZE)
        return 0;
    uint8_t *start = exact(data, WIRE_HEADER_SIZE);
    enum td_status status = wire_header_decode(start, &header);
    wire_header_encode(&header, encoded);
    if (status == TD_OK)
        require(memcmp(encoded, start, WIRE_HEADER_SIZE) == 0);
    free(start);
    /* The rest is read even after a bad header: what is refused there is refused for itself. */
    size_t rest = size - WIRE_HEADER_SIZE;
    size_t meta = status == TD_OK && header.meta_length < rest ? header.meta_length : rest;
    check_meta(data + WIRE_HEADER_SIZE, meta);
    check_list(data + WIRE_HEADER_SIZE + meta, rest - meta);
    return 0;
}
