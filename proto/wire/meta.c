#include "core/utf8.h"
#include "proto/wire/bytes.h"
#include "proto/wire/wire.h"

#include <assert.h>
#include <inttypes.h>

#define ENTRY_HEAD 4 /* field number and length of the value */
#define VALUE_MAX 0xffffff
#define DIM_SIZE 8   /* one i64 */
#define ITEM_SIZE 25 /* of an index: kind u8, start, stop, step i64 */

/* ---- one decoder and one encoder a type ------------------------------------------------------ */

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

static size_t uint_size(const void *member)
{
    (void)member;
    return 8;
}

static void uint_encode(const void *member, uint8_t *out)
{
    u64_store(out, *(const uint64_t *)member);
}

static enum td_status uint_decode(const struct value *value, void *member)
{
    TRY(length_check(value, 8));
    *(uint64_t *)member = u64_load(value->in);
    return TD_OK;
}

static void int_encode(const void *member, uint8_t *out)
{
    i64_store(out, *(const int64_t *)member);
}

static enum td_status int_decode(const struct value *value, void *member)
{
    TRY(length_check(value, 8));
    *(int64_t *)member = i64_load(value->in);
    return TD_OK;
}

static size_t byte_size(const void *member)
{
    (void)member;
    return 1;
}

static void bool_encode(const void *member, uint8_t *out)
{
    out[0] = *(const bool *)member ? 1 : 0;
}

static enum td_status bool_decode(const struct value *value, void *member)
{
    TRY(length_check(value, 1));
    if (value->in[0] > 1)
        return fail(TD_INVALID, "field '%s' is a bool: 0 or 1, not %u", value->name, value->in[0]);
    *(bool *)member = value->in[0] == 1;
    return TD_OK;
}

static void dtype_encode(const void *member, uint8_t *out)
{
    out[0] = (uint8_t)(*(const enum td_dtype *)member);
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

static size_t text_size(const void *member)
{
    return ((const struct text *)member)->length;
}

static void text_encode(const void *member, uint8_t *out)
{
    const struct text *text = member;
    if (text->length > 0) /* the data of an empty text may be NULL */
        memcpy(out, text->data, text->length);
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

static size_t dims_size(const void *member)
{
    const struct dims *dims = member;
    assert(dims->rank >= 0 && dims->rank <= RANK_MAX);
    return (size_t)dims->rank * DIM_SIZE;
}

static void dims_encode(const void *member, uint8_t *out)
{
    const struct dims *dims = member;
    for (int i = 0; i < dims->rank; i++)
        i64_store(out + i * DIM_SIZE, dims->v[i]);
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

static size_t scalar_size(const void *member)
{
    return 1 + scalar_payload(((const struct scalar *)member)->kind);
}

static void scalar_encode(const void *member, uint8_t *out)
{
    const struct scalar *scalar = member;
    out[0] = (uint8_t)scalar->kind;
    if (scalar->kind == SCALAR_BOOL)
        out[1] = scalar->b ? 1 : 0;
    else /* i, u, f and c all begin where the union does */
        memcpy(out + 1, scalar->c, scalar_payload(scalar->kind));
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

static size_t index_size(const void *member)
{
    const struct index *index = member;
    assert(index->count >= 0 && index->count <= INDEX_MAX);
    return (size_t)index->count * ITEM_SIZE;
}

static void index_encode(const void *member, uint8_t *out)
{
    const struct index *index = member;
    for (int i = 0; i < index->count; i++, out += ITEM_SIZE) {
        const struct index_item *item = &index->items[i];
        out[0] = (uint8_t)item->kind;
        i64_store(out + 1, item->start);
        i64_store(out + 9, item->stop);
        i64_store(out + 17, item->step);
    }
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

/* `member` points at the field's member of a struct fields; encode writes `size` bytes. */
static const struct codec {
    size_t (*size)(const void *member);
    void (*encode)(const void *member, uint8_t *out);
    enum td_status (*decode)(const struct value *value, void *member);
} codecs[] = {
    [FIELD_TYPE_UINT] = {uint_size, uint_encode, uint_decode},
    [FIELD_TYPE_INT] = {uint_size, int_encode, int_decode},
    [FIELD_TYPE_BOOL] = {byte_size, bool_encode, bool_decode},
    [FIELD_TYPE_TEXT] = {text_size, text_encode, text_decode},
    [FIELD_TYPE_DTYPE] = {byte_size, dtype_encode, dtype_decode},
    [FIELD_TYPE_DIMS] = {dims_size, dims_encode, dims_decode},
    [FIELD_TYPE_SCALAR] = {scalar_size, scalar_encode, scalar_decode},
    [FIELD_TYPE_INDEX] = {index_size, index_encode, index_decode},
};

/* ---- the sequence ---------------------------------------------------------------------------- */

static const void *member_of(const struct fields *fields, unsigned field)
{
    return (const char *)fields + field_infos[field].offset;
}

static const struct codec *codec_of(unsigned field)
{
    return &codecs[field_infos[field].type];
}

size_t wire_fields_size(const struct fields *fields)
{
    size_t size = 0;
    for (uint64_t left = fields->present; left != 0; left &= left - 1) {
        unsigned field = (unsigned)__builtin_ctzll(left);
        size += ENTRY_HEAD + codec_of(field)->size(member_of(fields, field));
    }
    return size;
}

void wire_fields_encode(const struct fields *fields, uint8_t *out)
{
    for (uint64_t left = fields->present; left != 0; left &= left - 1) {
        unsigned field = (unsigned)__builtin_ctzll(left);
        const void *member = member_of(fields, field);
        size_t size = codec_of(field)->size(member);
        assert(size <= VALUE_MAX);
        u32_store(out, (uint32_t)size << 8 | field);
        codec_of(field)->encode(member, out + ENTRY_HEAD);
        out += ENTRY_HEAD + size;
    }
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
    TRY(codec_of(field)->decode(&value, (char *)out + field_infos[field].offset));
    out->present |= UINT64_C(1) << field;
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
