/* wire: the frames of vectors.txt, random fields there and back, and every truncation of metas. All
 * that is decoded lies in buffers of exactly its size, so that the address sanitizer sees each byte
 * read past it. Runs in the source's root. */
#include "proto/wire/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/wire_vectors.h"

/* ---- helpers --------------------------------------------------------------------------------- */

/* A copy of exactly that size; never NULL. */
static uint8_t *exact(const uint8_t *data, size_t length)
{
    uint8_t *copy = malloc(length);
    if (length > 0)
        memcpy(copy, data, length);
    return copy;
}

/* Whether the fields encode to exactly these bytes. */
static bool encodes_to(const struct fields *fields, const uint8_t *meta, size_t length)
{
    size_t size = wire_fields_size(fields);
    uint8_t *encoded = malloc(size);
    wire_fields_encode(fields, encoded);
    bool same = size == length && (size == 0 || memcmp(encoded, meta, size) == 0);
    free(encoded);
    return same;
}

/* Decodes from a buffer of exactly that size. Texts in `out` are not to be looked at. */
static enum td_status decode(const uint8_t *meta, size_t length, enum wire_strictness strictness,
                             struct fields *out)
{
    uint8_t *copy = exact(meta, length);
    enum td_status status = wire_fields_decode(copy, length, strictness, out);
    if (status == TD_OK && strictness == WIRE_STRICT)
        assert_true(encodes_to(out, copy, length));
    free(copy);
    return status;
}

/* ---- checks of one vector -------------------------------------------------------------------- */

static const uint8_t *meta_of(const struct vector *vector)
{
    return vector->bytes + WIRE_HEADER_SIZE;
}

static enum wire_strictness strictness_of(const struct vector *vector)
{
    return vector->header.flags & WIRE_REPLY ? WIRE_LENIENT : WIRE_STRICT;
}

static void check_status(const struct vector *vector, enum td_status status)
{
    if (strcmp(td_status_name((int)status), vector->status) != 0)
        fail_msg("%s: %s (%s), not %s", vector->title, td_status_name((int)status), fail_detail(),
                 vector->status);
    assert_true(strlen(fail_detail()) > 10);
}

static void check_header(const struct vector *vector)
{
    struct wire_header header;
    uint8_t encoded[WIRE_HEADER_SIZE];
    uint8_t *bytes = exact(vector->bytes, WIRE_HEADER_SIZE);
    assert_true(vector->has_header && vector->length >= WIRE_HEADER_SIZE);
    enum td_status status = wire_header_decode(bytes, &header);
    if (status != TD_OK)
        fail_msg("%s: %s", vector->title, fail_detail());
    wire_header_encode(&vector->header, encoded);
    assert_memory_equal(encoded, bytes, WIRE_HEADER_SIZE);
    wire_header_encode(&header, encoded);
    assert_memory_equal(encoded, bytes, WIRE_HEADER_SIZE);
    free(bytes);
}

/* Every beginning of the meta either is refused or holds the first of the fields. */
static void check_truncations(const struct vector *vector, field_set present)
{
    for (size_t length = 0; length < vector->header.meta_length; length++) {
        struct fields fields;
        enum td_status status = decode(meta_of(vector), length, strictness_of(vector), &fields);
        field_set others = present & ~fields.present;
        if (status != TD_OK)
            assert_int_equal(status, TD_PROTOCOL);
        assert_true((fields.present & ~present) == 0);
        assert_true((others & -others) > fields.present || others == 0);
    }
}

static int check_list(const struct vector *vector, enum td_status *status)
{
    size_t length = vector->length - WIRE_HEADER_SIZE - vector->header.meta_length;
    uint8_t *body = exact(meta_of(vector) + vector->header.meta_length, length);
    size_t offset = 0;
    int count = 0;
    struct fields entry;
    *status = TD_OK;
    while (offset < length) {
        size_t before = offset;
        *status = wire_entry_next(body, length, &offset, &entry);
        if (*status != TD_OK) {
            assert_int_equal(offset, before);
            break;
        }
        size_t size = offset - before - WIRE_ENTRY_PREFIX;
        assert_true(count < vector->entry_count);
        if (!vector->has_unknown)
            assert_true(
                encodes_to(&vector->entries[count], body + before + WIRE_ENTRY_PREFIX, size));
        assert_true(entry.present == vector->entries[count].present);
        count++;
    }
    free(body);
    return count;
}

static void check_good(const struct vector *vector)
{
    struct fields fields;
    size_t length = vector->header.meta_length;
    check_header(vector);
    uint8_t *meta = exact(meta_of(vector), length);
    enum td_status status = wire_fields_decode(meta, length, strictness_of(vector), &fields);
    if (status != TD_OK)
        fail_msg("%s: %s", vector->title, fail_detail());
    assert_true(fields.present == vector->fields.present);
    if (!vector->has_unknown)
        assert_true(encodes_to(&vector->fields, meta, length));
    assert_true(encodes_to(&fields, meta, length) == !vector->has_unknown || vector->entry_count);
    free(meta);
    check_truncations(vector, vector->fields.present);
    if (vector->entry_count > 0) {
        assert_int_equal(check_list(vector, &status), vector->entry_count);
        assert_int_equal(status, TD_OK);
    }
}

static void check_refused_header(const struct vector *vector)
{
    struct wire_header header;
    uint8_t *bytes = exact(vector->bytes, WIRE_HEADER_SIZE);
    check_status(vector, wire_header_decode(bytes, &header));
    assert_int_equal(header.request_id, vector->request_id);
    free(bytes);
}

static void check_refused_meta(const struct vector *vector)
{
    struct fields fields;
    check_header(vector);
    check_status(vector, decode(meta_of(vector), vector->header.meta_length, strictness_of(vector),
                                &fields));
}

static void check_refused_list(const struct vector *vector)
{
    enum td_status status;
    check_header(vector);
    assert_int_equal(check_list(vector, &status), vector->entry_count);
    check_status(vector, status);
}

static void vectors_that_are_good(void **state)
{
    (void)state;
    assert_true(each_vector("", check_good) > 50);
}

static void vectors_that_are_refused(void **state)
{
    (void)state;
    assert_true(each_vector("header", check_refused_header) > 10);
    assert_true(each_vector("meta", check_refused_meta) > 30);
    assert_true(each_vector("list", check_refused_list) > 3);
}

/* ---- random fields --------------------------------------------------------------------------- */

static uint64_t random_state = 88172645463325252u;

static uint64_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static size_t random_below(size_t n)
{
    return (size_t)(random_bits() % n);
}

static struct text random_text(void)
{
    static const char text[] = "aß語😀/layer.0:w b\x7f\xc2\x80\xef\xbf\xbf\xf4\x8f\xbf\xbf";
    static const size_t cuts[] = {0, 1, 3, 6, 10, 11};
    size_t from = random_below(COUNT(cuts));
    size_t to = random_below(COUNT(cuts) - from) + from;
    if (random_below(4) == 0)
        return (struct text){text, sizeof text - 1};
    return (struct text){text + cuts[from], cuts[to] - cuts[from]};
}

static void random_scalar(struct scalar *out)
{
    out->kind = (enum scalar_kind)random_below(5);
    if (out->kind == SCALAR_BOOL)
        out->b = random_below(2);
    else if (out->kind != SCALAR_COMPLEX)
        out->u = random_bits(); /* of a float too: any bits, NaN among them */
    else
        memcpy(out->c, (uint64_t[]){random_bits(), random_bits()}, sizeof out->c);
}

static void random_index(struct index *out)
{
    out->count = (int)random_below(random_below(8) == 0 ? INDEX_MAX + 1 : 4);
    for (int i = 0; i < out->count; i++)
        out->items[i] =
            (struct index_item){(enum index_kind)random_below(4), (int64_t)random_bits(),
                                INDEX_NONE, (int64_t)random_bits()};
}

static void random_value(enum field_type type, void *member)
{
    struct dims *dims = member;
    switch (type) {
    case FIELD_TYPE_UINT:
    case FIELD_TYPE_INT:
        *(uint64_t *)member = random_bits();
        break;
    case FIELD_TYPE_BOOL:
        *(bool *)member = random_below(2);
        break;
    case FIELD_TYPE_TEXT:
        *(struct text *)member = random_text();
        break;
    case FIELD_TYPE_DTYPE:
        *(enum td_dtype *)member = (enum td_dtype)(1 + random_below(TD_DTYPE_COUNT));
        break;
    case FIELD_TYPE_DIMS:
        dims->rank = (int)random_below(random_below(8) == 0 ? RANK_MAX + 1 : 5);
        for (int i = 0; i < dims->rank; i++)
            dims->v[i] = (int64_t)random_bits();
        break;
    case FIELD_TYPE_SCALAR:
        random_scalar(member);
        break;
    case FIELD_TYPE_INDEX:
        random_index(member);
        break;
    case FIELD_TYPE_NONE:
        fail_msg("a field without a type");
    }
}

static field_set random_set(void)
{
    return (field_set)random_bits() << 64 | random_bits();
}

static void random_fields(struct fields *out)
{
    field_set wanted = random_set();
    if (random_below(4) != 0)
        wanted &= random_set() & random_set();
    memset(out, 0, sizeof *out);
    for (int field = 1; field < FIELD_END; field++) {
        if (!(wanted & field_bit(field)) || field_infos[field].type == FIELD_TYPE_NONE)
            continue;
        random_value(field_infos[field].type, (char *)out + field_infos[field].offset);
        out->present |= field_bit(field);
    }
}

static bool value_equal(int field, const struct fields *a, const struct fields *b)
{
    const void *x = (const char *)a + field_infos[field].offset;
    const void *y = (const char *)b + field_infos[field].offset;
    const struct text *s = x, *t = y;
    switch (field_infos[field].type) {
    case FIELD_TYPE_BOOL:
        return *(const bool *)x == *(const bool *)y;
    case FIELD_TYPE_DTYPE:
        return *(const enum td_dtype *)x == *(const enum td_dtype *)y;
    case FIELD_TYPE_TEXT:
        return s->length == t->length &&
               (s->length == 0 || memcmp(s->data, t->data, s->length) == 0);
    case FIELD_TYPE_DIMS:
        return memcmp(x, y, sizeof(struct dims)) == 0;
    case FIELD_TYPE_SCALAR:
        return memcmp(x, y, sizeof(struct scalar)) == 0;
    case FIELD_TYPE_INDEX:
        return memcmp(x, y, sizeof(struct index)) == 0;
    default:
        return memcmp(x, y, sizeof(uint64_t)) == 0;
    }
}

static void random_fields_there_and_back(void **state)
{
    (void)state;
    for (int round = 0; round < 3000; round++) {
        struct fields fields, back;
        random_fields(&fields);
        size_t size = wire_fields_size(&fields);
        /* At odd addresses, too. */
        size_t shift = random_below(8);
        uint8_t *memory = malloc(size + shift), *meta = memory + shift;
        wire_fields_encode(&fields, meta);
        memset(&back, 0xa5, sizeof back);
        if (wire_fields_decode(meta, size, WIRE_STRICT, &back) != TD_OK)
            fail_msg("round %d: %s", round, fail_detail());
        assert_true(back.present == fields.present);
        for (int field = 1; field < FIELD_END; field++)
            if (!value_equal(field, &fields, &back))
                fail_msg("round %d: field '%s' differs", round, field_infos[field].name);
        free(memory);
    }
}

static void truncated_and_damaged_metas(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        struct fields fields, back;
        random_fields(&fields);
        size_t size = wire_fields_size(&fields);
        uint8_t *meta = malloc(size);
        wire_fields_encode(&fields, meta);
        for (size_t length = 0; length < size; length++) {
            enum td_status status = decode(meta, length, WIRE_STRICT, &back);
            assert_true(status == TD_OK || status == TD_PROTOCOL);
        }
        for (int i = 0; i < 200 && size > 0; i++) {
            size_t at = random_below(size);
            uint8_t kept = meta[at];
            meta[at] ^= (uint8_t)(1u << random_below(8));
            enum td_status strictly = decode(meta, size, WIRE_STRICT, &back);
            enum td_status leniently = decode(meta, size, WIRE_LENIENT, &back);
            if (strictly == TD_OK || leniently == TD_OK) /* they differ in unknown fields only */
                assert_true(strictly == leniently || strictly == TD_INVALID);
            meta[at] = kept;
        }
        free(meta);
    }
}

/* ---- single points --------------------------------------------------------------------------- */

static void details_are_precise(void **state)
{
    (void)state;
    struct fields fields;
    uint8_t shape[4 + 33 * 8] = {FIELD_shape, 33 * 8 & 0xff, 33 * 8 >> 8};
    assert_int_equal(decode(shape, sizeof shape, WIRE_STRICT, &fields), TD_BAD_SHAPE);
    assert_string_equal(fail_detail(), "field 'shape' has rank 33; the limit is 32");
    uint8_t text[] = {FIELD_input, 3, 0, 0, 'a', 0xc3, 'b'};
    assert_int_equal(decode(text, sizeof text, WIRE_STRICT, &fields), TD_INVALID);
    assert_string_equal(fail_detail(),
                        "the text of field 'input' is not UTF-8 without NUL: byte 1 is 0xc3");
    uint8_t dtype[] = {FIELD_dtype, 1, 0, 0, 99};
    assert_int_equal(decode(dtype, sizeof dtype, WIRE_STRICT, &fields), TD_BAD_DTYPE);
    assert_string_equal(fail_detail(),
                        "field 'dtype': there is no dtype 99; they are numbered 1 to 17");
}

static void nothing_is_a_meta(void **state)
{
    (void)state;
    struct fields fields;
    uint8_t none;
    memset(&fields, 0xa5, sizeof fields);
    assert_int_equal(wire_fields_decode(NULL, 0, WIRE_STRICT, &fields), TD_OK);
    assert_true(fields.present == 0);
    assert_int_equal(fields.shape.rank, 0); /* absent fields are zero */
    assert_int_equal(wire_fields_size(&fields), 0);
    wire_fields_encode(&fields, &none);
    FIELDS_SET(&fields, text, (struct text){NULL, 0});
    assert_int_equal(wire_fields_size(&fields), 4);
    uint8_t empty[4];
    wire_fields_encode(&fields, empty);
    assert_memory_equal(empty, ((uint8_t[]){FIELD_text, 0, 0, 0}), 4);
}

/* The largest meta that a header allows, of one text. */
static void largest_meta(void **state)
{
    (void)state;
    struct fields fields = {0}, back;
    char *letters = malloc(WIRE_META_MAX);
    memset(letters, 'x', WIRE_META_MAX);
    FIELDS_SET(&fields, text, (struct text){letters, WIRE_META_MAX - 4});
    assert_int_equal(wire_fields_size(&fields), WIRE_META_MAX);
    uint8_t *meta = malloc(WIRE_META_MAX);
    wire_fields_encode(&fields, meta);
    assert_int_equal(wire_fields_decode(meta, WIRE_META_MAX, WIRE_STRICT, &back), TD_OK);
    assert_ptr_equal(back.text.data, meta + 4);
    assert_int_equal(back.text.length, WIRE_META_MAX - 4);
    free(meta);
    free(letters);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_that_are_good),
        cmocka_unit_test(vectors_that_are_refused),
        cmocka_unit_test(random_fields_there_and_back),
        cmocka_unit_test(truncated_and_damaged_metas),
        cmocka_unit_test(details_are_precise),
        cmocka_unit_test(nothing_is_a_meta),
        cmocka_unit_test(largest_meta),
    };
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
