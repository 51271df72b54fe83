#include "core/utf8.h"
#include "proto/wire/bytes.h"
#include "proto/wire/wire.h"

#include <assert.h>
#include <inttypes.h>

#define ENTRY_HEAD 4 /* field number and length of the value */
#define VALUE_MAX 0xffffff
#define DIM_SIZE 8   /* one i64 */
#define ITEM_SIZE 25 /* of an index: kind u8, start, stop, step i64 */

/* ---- one size, encoder and decoder a type ----------------------------------------------------
 *
 * Encoders write what `size` says, and return it. Sizes and encoders are called by the names of the
 * types in FIELDS, each with the member itself, so that the sequence below is straight code. */

/* The value of one field as bytes, and who it is for messages. */
struct value {
    const char *name;
    const uint8_t *in;
    size_t length;
};

static enum td_status length_check(const struct value *value, size_t length)
{
    if (value->length != length)
        return fail(TD_PROTOCOL, "the value of field '%s' has %zu bytes; it takes %zu", value->name,
                    value->length, length);
    return TD_OK;
}

static size_t UINT_size(const uint64_t *number)
{
    return sizeof *number;
}

static size_t UINT_encode(const uint64_t *number, uint8_t *out)
{
    u64_store(out, *number);
    return sizeof *number;
}

static enum td_status uint_decode(const struct value *value, void *member)
{
    TRY(length_check(value, 8));
    *(uint64_t *)member = u64_load(value->in);
    return TD_OK;
}

static size_t INT_size(const int64_t *number)
{
    return sizeof *number;
}

static size_t INT_encode(const int64_t *number, uint8_t *out)
{
    i64_store(out, *number);
    return sizeof *number;
}

static enum td_status int_decode(const struct value *value, void *member)
{
    TRY(length_check(value, 8));
    *(int64_t *)member = i64_load(value->in);
    return TD_OK;
}

static size_t BOOL_size(const bool *flag)
{
    (void)flag;
    return 1;
}

static size_t BOOL_encode(const bool *flag, uint8_t *out)
{
    out[0] = *flag ? 1 : 0;
    return 1;
}

static enum td_status bool_decode(const struct value *value, void *member)
{
    TRY(length_check(value, 1));
    if (value->in[0] > 1)
        return fail(TD_INVALID, "field '%s' is a bool: 0 or 1, not %u", value->name, value->in[0]);
    *(bool *)member = value->in[0] == 1;
    return TD_OK;
}

static size_t DTYPE_size(const enum td_dtype *dtype)
{
    (void)dtype;
    return 1;
}

static size_t DTYPE_encode(const enum td_dtype *dtype, uint8_t *out)
{
    out[0] = (uint8_t)*dtype;
    return 1;
}

static enum td_status dtype_decode(const struct value *value, void *member)
{
    TRY(length_check(value, 1));
    if (value->in[0] == TD_DTYPE_NONE || value->in[0] >= TD_DTYPE_END)
        return fail(TD_BAD_DTYPE, "field '%s': there is no dtype %u; they are numbered 1 to %d",
                    value->name, value->in[0], TD_DTYPE_COUNT);
    *(enum td_dtype *)member = (enum td_dtype)value->in[0];
    return TD_OK;
}

static size_t TEXT_size(const struct text *text)
{
    return text->length;
}

static size_t TEXT_encode(const struct text *text, uint8_t *out)
{
    if (text->length > 0) /* the data of an empty text may be NULL */
        memcpy(out, text->data, text->length);
    return text->length;
}

static enum td_status text_decode(const struct value *value, void *member)
{
    for (size_t i = 0; i < value->length;) {
        size_t size = value->in[i] ? utf8_length(value->in + i, value->length - i) : 0;
        if (size == 0)
            return fail(TD_INVALID,
                        "the text of field '%s' is not UTF-8 without NUL: byte %zu is 0x%02x",
                        value->name, i, value->in[i]);
        i += size;
    }
    *(struct text *)member = (struct text){(const char *)value->in, value->length};
    return TD_OK;
}

static size_t DIMS_size(const struct dims *dims)
{
    assert(dims->rank >= 0 && dims->rank <= RANK_MAX);
    return (size_t)dims->rank * DIM_SIZE;
}

static size_t DIMS_encode(const struct dims *dims, uint8_t *out)
{
    for (int i = 0; i < dims->rank; i++)
        i64_store(out + i * DIM_SIZE, dims->v[i]);
    return DIMS_size(dims);
}

static enum td_status dims_decode(const struct value *value, void *member)
{
    struct dims *dims = member;
    size_t rank = value->length / DIM_SIZE;
    if (value->length % DIM_SIZE != 0)
        return fail(TD_PROTOCOL, "the value of field '%s' has %zu bytes; it takes a multiple of %d",
                    value->name, value->length, DIM_SIZE);
    if (rank > RANK_MAX)
        return fail(TD_BAD_SHAPE, "field '%s' has rank %zu; the limit is %d", value->name, rank,
                    RANK_MAX);
    dims->rank = (int)rank;
    for (size_t i = 0; i < rank; i++)
        dims->v[i] = i64_load(value->in + i * DIM_SIZE);
    return TD_OK;
}

/* Bytes of a scalar after its kind. */
static size_t scalar_payload(unsigned kind)
{
    static const size_t sizes[] = {[SCALAR_BOOL] = 1,
                                   [SCALAR_INT] = 8,
                                   [SCALAR_UINT] = 8,
                                   [SCALAR_FLOAT] = 8,
                                   [SCALAR_COMPLEX] = 16};
    return kind < sizeof sizes / sizeof *sizes ? sizes[kind] : 0;
}

static size_t SCALAR_size(const struct scalar *scalar)
{
    return 1 + scalar_payload(scalar->kind);
}

static size_t SCALAR_encode(const struct scalar *scalar, uint8_t *out)
{
    out[0] = (uint8_t)scalar->kind;
    if (scalar->kind == SCALAR_BOOL)
        out[1] = scalar->b ? 1 : 0;
    else /* i, u, f and c all begin where the union does */
        memcpy(out + 1, scalar->c, scalar_payload(scalar->kind));
    return SCALAR_size(scalar);
}

static enum td_status scalar_decode(const struct value *value, void *member)
{
    struct scalar *scalar = member;
    if (value->length == 0)
        return fail(TD_PROTOCOL, "the value of field '%s' is empty; a scalar begins with its kind",
                    value->name);
    size_t payload = scalar_payload(value->in[0]);
    if (payload == 0)
        return fail(TD_INVALID,
                    "field '%s': there is no scalar of kind %u; kinds are 0 bool, 1 int, "
                    "2 uint, 3 float, 4 complex",
                    value->name, value->in[0]);
    TRY(length_check(value, 1 + payload));
    scalar->kind = (enum scalar_kind)value->in[0];
    if (scalar->kind != SCALAR_BOOL)
        memcpy(scalar->c, value->in + 1, payload);
    else if (value->in[1] > 1)
        return fail(TD_INVALID, "field '%s' is a bool: 0 or 1, not %u", value->name, value->in[1]);
    else
        scalar->b = value->in[1] == 1;
    return TD_OK;
}

static size_t INDEX_size(const struct index *index)
{
    assert(index->count >= 0 && index->count <= INDEX_MAX);
    return (size_t)index->count * ITEM_SIZE;
}

static size_t INDEX_encode(const struct index *index, uint8_t *out)
{
    for (int i = 0; i < index->count; i++, out += ITEM_SIZE) {
        const struct index_item *item = &index->items[i];
        out[0] = (uint8_t)item->kind;
        i64_store(out + 1, item->start);
        i64_store(out + 9, item->stop);
        i64_store(out + 17, item->step);
    }
    return INDEX_size(index);
}

static enum td_status index_decode(const struct value *value, void *member)
{
    struct index *index = member;
    size_t count = value->length / ITEM_SIZE;
    if (value->length % ITEM_SIZE != 0)
        return fail(TD_PROTOCOL, "the value of field '%s' has %zu bytes; it takes a multiple of %d",
                    value->name, value->length, ITEM_SIZE);
    if (count > INDEX_MAX)
        return fail(TD_BAD_INDEX, "field '%s' has %zu items; the limit is %d", value->name, count,
                    INDEX_MAX);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *in = value->in + i * ITEM_SIZE;
        if (in[0] > INDEX_NEW_AXIS)
            return fail(TD_BAD_INDEX,
                        "field '%s': item %zu is of kind %u; kinds are 0 integer, "
                        "1 slice, 2 ellipsis, 3 new axis",
                        value->name, i, in[0]);
        index->items[i] = (struct index_item){(enum index_kind)in[0], i64_load(in + 1),
                                              i64_load(in + 9), i64_load(in + 17)};
    }
    index->count = (int)count;
    return TD_OK;
}

/* `member` points at the field's member of a struct fields. */
static enum td_status (*const decoders[])(const struct value *value, void *member) = {
    [FIELD_TYPE_UINT] = uint_decode,     [FIELD_TYPE_INT] = int_decode,
    [FIELD_TYPE_BOOL] = bool_decode,     [FIELD_TYPE_TEXT] = text_decode,
    [FIELD_TYPE_DTYPE] = dtype_decode,   [FIELD_TYPE_DIMS] = dims_decode,
    [FIELD_TYPE_SCALAR] = scalar_decode, [FIELD_TYPE_INDEX] = index_decode,
};

/* ---- the sequence: FIELDS is in ascending order, as the wire wants it ------------------------ */

size_t wire_fields_size(const struct fields *fields)
{
    size_t size = 0;
#define FIELD_SIZE(number, name, type, meaning)                                                    \
    if (FIELDS_HAS(fields, name))                                                                  \
        size += ENTRY_HEAD + type##_size(&fields->name);
    FIELDS(FIELD_SIZE)
#undef FIELD_SIZE
    return size;
}

/* The head of a field whose value is written already; returns where the next one begins. */
static uint8_t *entry_finish(uint8_t *entry, uint32_t field, size_t size)
{
    assert(size <= VALUE_MAX);
    u32_store(entry, (uint32_t)size << 8 | field);
    return entry + ENTRY_HEAD + size;
}

void wire_fields_encode(const struct fields *fields, uint8_t *out)
{
#define FIELD_ENCODE(number, name, type, meaning)                                                  \
    if (FIELDS_HAS(fields, name))                                                                  \
        out = entry_finish(out, number, type##_encode(&fields->name, out + ENTRY_HEAD));
    FIELDS(FIELD_ENCODE)
#undef FIELD_ENCODE
}

static bool field_known(unsigned field)
{
    return field < FIELD_END && field_infos[field].type != FIELD_TYPE_NONE;
}

static enum td_status value_decode(unsigned field, const uint8_t *in, size_t length,
                                   enum wire_strictness strictness, struct fields *out)
{
    if (!field_known(field)) {
        if (strictness == WIRE_LENIENT)
            return TD_OK;
        return fail(TD_INVALID, "there is no field of number %u; see the table of fields", field);
    }
    struct value value = {field_infos[field].name, in, length};
    TRY(decoders[field_infos[field].type](&value, (char *)out + field_infos[field].offset));
    out->present |= field_bit((int)field);
    return TD_OK;
}

enum td_status wire_fields_decode(const uint8_t *in, size_t length, enum wire_strictness strictness,
                                  struct fields *out)
{
    unsigned previous = 0;
    memset(out, 0, sizeof *out); /* absent fields read as zero, never as what was there before */
    for (size_t at = 0; at < length;) {
        if (length - at < ENTRY_HEAD)
            return fail(TD_PROTOCOL, "the meta ends %zu bytes into a field's head of %d",
                        length - at, ENTRY_HEAD);
        uint32_t head = u32_load(in + at);
        unsigned field = head & 0xff;
        size_t size = head >> 8;
        at += ENTRY_HEAD;
        if (field <= previous)
            return fail(TD_PROTOCOL,
                        "field %u comes after field %u; fields are numbered from 1 and "
                        "come in ascending order, each once",
                        field, previous);
        if (size > length - at)
            return fail(TD_PROTOCOL, "field %u announces %zu bytes, but the meta has %zu left",
                        field, size, length - at);
        TRY(value_decode(field, in + at, size, strictness, out));
        previous = field;
        at += size;
    }
    return TD_OK;
}

enum td_status wire_entry_next(const uint8_t *body, size_t length, size_t *offset,
                               struct fields *out)
{
    size_t left = length - *offset;
    assert(*offset < length);
    if (left < WIRE_ENTRY_PREFIX)
        return fail(TD_PROTOCOL, "the list ends %zu bytes into the length of an entry", left);
    size_t size = u32_load(body + *offset);
    left -= WIRE_ENTRY_PREFIX;
    if (size > left)
        return fail(TD_PROTOCOL,
                    "an entry of the list announces %zu bytes, but the body has %zu left", size,
                    left);
    TRY(wire_fields_decode(body + *offset + WIRE_ENTRY_PREFIX, size, WIRE_LENIENT, out));
    *offset += WIRE_ENTRY_PREFIX + size;
    return TD_OK;
}
