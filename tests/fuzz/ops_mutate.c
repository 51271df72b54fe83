/* Makes inputs of fuzz_ops that get past the checks of fields: requests of the operations table,
 * with the fields each takes. Half of the time bytes are changed at random, as without it. */
#include "core/op_table.h"
#include "proto/wire/wire.h"
#include "tests/fuzz/ops_input.h"

#include <stdio.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static uint64_t state;

static uint64_t pick(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 16) % below;
}

static bool chance(uint64_t one_in)
{
    return pick(one_in) == 0;
}

static int64_t number(void)
{
    static const int64_t far[] = {
        64,        255,        1000,       4095,       4096,          16384,     65536,
        1 << 20,   INT32_MAX,  UINT32_MAX, 1LL << 40,  1LL << 56,     INT64_MAX, INT64_MIN,
        INT64_MAX, INDEX_NONE, -1000,      -(1 << 20), INT64_MIN + 1,
    };
    return chance(8) ? far[pick(sizeof far / sizeof *far)] : (int64_t)pick(9) - 2;
}

/* ---- values of fields ------------------------------------------------------------------------
 */

static struct text tensor_text(bool is_input)
{
    static const char *const names[] = {"a", "b", "c", "d/e", "\xc3\xa9"};
    static const char *const ids[] = {"@1", "@2", "@3", "@4", "@5", "@6", "@7", "@8"};
    static char longest[513];
    if (chance(40)) {
        memset(longest, 'n', sizeof longest);
        return (struct text){longest, sizeof longest - pick(2)};
    }
    if (chance(60))
        return text_of("@18446744073709551617");
    if (is_input && chance(2))
        return text_of(ids[pick(8)]);
    return text_of(names[pick(5)]);
}

/* The tensors of an item, with keys or without. */
static struct text item_text(void)
{
    static char text[256];
    size_t length = 0;
    for (uint64_t left = 1 + pick(chance(20) ? 70 : 4); left && length < sizeof text - 32; left--) {
        struct text name = tensor_text(true);
        if (name.length > 24)
            continue;
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%.*s\n",
                                   chance(2)   ? ""
                                   : chance(2) ? "="
                                               : "k=",
                                   TEXT_ARGS(name));
    }
    return (struct text){text, length};
}

static struct text text_for(unsigned field)
{
    static const char *const full[] = {"block", "fail", "drop_oldest", "explode"};
    static const char *const modes[] = {"frozen", "single-writer", "mutable", "building"};
    static const char *const rules[] = {"unsafe", "same_kind", "safe", "strange"};
    static const char *const formats[] = {"safetensors", "npz", "npy", "strange"};
    static const char *const metadata[] = {"{}", "{\"a\": \"b\"}", "[]", ""};
    switch (field) {
    case FIELD_device:
        return text_of(chance(8) ? "cuda:1" : "cpu");
    case FIELD_queue:
        return text_of(chance(4) ? "r" : "q");
    case FIELD_tensors:
        return item_text();
    case FIELD_when_full:
        return text_of(full[pick(4)]);
    case FIELD_mode:
        return text_of(modes[pick(4)]);
    case FIELD_casting:
        return text_of(rules[pick(4)]);
    case FIELD_format:
        return text_of(formats[pick(4)]);
    case FIELD_metadata:
        return text_of(metadata[pick(4)]);
    case FIELD_input:
    case FIELD_other:
        return tensor_text(true);
    default:
        return tensor_text(false);
    }
}

/* Of few elements, at times of many dimensions. */
static struct dims dims_for(unsigned field)
{
    struct dims dims = {.rank = (int)pick(4)};
    if (chance(30))
        dims.rank = (int)pick(RANK_MAX + 1);
    for (int d = 0; d < dims.rank; d++)
        dims.v[d] =
            chance(6) ? number() : (int64_t)pick(4) + (field == FIELD_shape && dims.rank < 4);
    if (field == FIELD_dims) /* an order, more often than not */
        for (int d = 0; d < dims.rank && !chance(8); d++)
            dims.v[d] = (d + 1) % dims.rank;
    return dims;
}

static struct scalar scalar_value(void)
{
    struct scalar scalar = {.kind = (enum scalar_kind)pick(5)};
    double real = chance(4) ? (double)number() * 1e300 * 1e10 : (double)number() / 4;
    if (scalar.kind == SCALAR_BOOL)
        scalar.b = chance(2);
    else if (scalar.kind == SCALAR_INT || scalar.kind == SCALAR_UINT)
        scalar.i = number();
    else if (scalar.kind == SCALAR_FLOAT)
        scalar.f = chance(12) ? __builtin_nan("") : real;
    else
        scalar.c[0] = real, scalar.c[1] = (double)number();
    return scalar;
}

static struct index index_value(void)
{
    struct index index = {.count = (int)pick(4)};
    if (chance(2))
        index.count = 1;
    for (int i = 0; i < index.count; i++) {
        enum index_kind kind = (enum index_kind)pick(4);
        int64_t step = chance(4) ? number() : chance(2) ? INDEX_NONE : (int64_t)pick(3) + 1;
        index.items[i] = (struct index_item){kind, number(), number(), step};
        if (kind == INDEX_SLICE && chance(3))
            index.items[i].stop = INDEX_NONE;
    }
    return index;
}

static void set_field(struct fields *fields, unsigned field)
{
    void *member = (char *)fields + field_infos[field].offset;
    fields->present |= field_bit((int)field);
    switch (field_infos[field].type) {
    case FIELD_TYPE_UINT:
    case FIELD_TYPE_INT:
        *(int64_t *)member = number();
        break;
    case FIELD_TYPE_BOOL:
        *(bool *)member = !chance(3);
        break;
    case FIELD_TYPE_TEXT:
        *(struct text *)member = text_for(field);
        break;
    case FIELD_TYPE_DTYPE:
        *(enum td_dtype *)member = (enum td_dtype)(pick(TD_DTYPE_COUNT) + 1);
        break;
    case FIELD_TYPE_DIMS:
        *(struct dims *)member = dims_for(field);
        break;
    case FIELD_TYPE_SCALAR:
        *(struct scalar *)member = scalar_value();
        break;
    case FIELD_TYPE_INDEX:
        *(struct index *)member = index_value();
        break;
    default:
        fields->present &= ~field_bit((int)field);
    }
}

/* ---- requests --------------------------------------------------------------------------------
 */

static field_set fields_of(uint8_t opcode)
{
    return op_infos[opcode].required | op_infos[opcode].optional;
}

/* The file that load is to read: the one it had, with a byte changed at times, or one of few. */
static void set_file(struct ops_request *request)
{
    static const char *const headers[] = {
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
        "\"c\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[3,5]}}",
        "{\"__metadata__\":{\"k\":\"v\"}}",
    };
    static const size_t data[] = {8, 5, 0};
    static uint8_t file[4096];
    size_t which = pick(3), length = request->body_length;
    if (length > sizeof file)
        length = sizeof file;
    if (length) {
        memmove(file, request->body, length);
        if (chance(2))
            file[pick(length)] = (uint8_t)pick(256);
    } else {
        memset(file, 0, sizeof file);
        file[0] = (uint8_t)strlen(headers[which]);
        memcpy(file + 8, headers[which], file[0]);
        length = 8 + file[0] + data[which];
    }
    request->body = file;
    request->body_wanted = request->body_length = length;
}

/* The body that shape and dtype ask for, in one of the two ways that an input can say it. */
static void set_body(struct ops_request *request, const struct fields *in)
{
    struct layout layout;
    request->how &= (uint8_t)~HOW_BODY_MADE;
    if (request->opcode == OP_load) {
        set_file(request);
        return;
    }
    request->body_wanted = request->body_length = 0;
    if (!(op_infos[request->opcode].traits & OP_BODY_IN) || (request->how & HOW_DESCRIPTOR) ||
        layout_contiguous(in->dtype, &in->shape, &layout) != TD_OK)
        return;
    size_t wanted = (size_t)layout_nbytes(&layout);
    if (wanted > (size_t)UINT16_MAX * OPS_BODY_UNIT)
        return;
    request->body_wanted = wanted;
    if (wanted % OPS_BODY_UNIT == 0)
        request->how |= HOW_BODY_MADE;
    else if (wanted < 256)
        request->body_length = wanted;
    else
        request->body_wanted = 0;
}

static void generate(struct ops_request *request, struct fields *in)
{
    memset(in, 0, sizeof *in);
    memset(request, 0, sizeof *request);
    bool of_queues = chance(3);
    do
        request->opcode =
            (uint8_t)(of_queues ? OP_queue_create + pick(OP_END - OP_queue_create) : pick(OP_END));
    while (!op_infos[request->opcode].name || (op_infos[request->opcode].traits & OP_CONNECTION));
    field_set required = op_infos[request->opcode].required, all = fields_of(request->opcode);
    for (unsigned field = 1; field < FIELD_END; field++) {
        field_set bit = field_bit((int)field);
        if ((required & bit) || ((all & bit) && chance(field == FIELD_output ? 2 : 5)))
            set_field(in, field);
    }
    request->how = (uint8_t)((chance(8) ? HOW_REMOTE : 0) | (chance(8) ? HOW_HELD : 0) |
                             (chance(20) ? (1 + pick(5)) << HOW_REFUSE : 0));
    if ((op_infos[request->opcode].traits & OP_FD_IN) && !chance(4)) {
        request->how |= HOW_DESCRIPTOR;
        request->descriptor = (uint8_t)(chance(4) ? pick(256) : pick(3) | (pick(4) * FD_FROZEN));
    }
    set_body(request, in);
}

/* One field of it gets another value, or comes, or goes. */
static void change(struct ops_request *request, struct fields *in)
{
    field_set all = fields_of(request->opcode);
    unsigned field = 1 + (unsigned)pick(FIELD_END - 1);
    for (int i = 0; i < 200 && !(all & field_bit((int)field)); i++)
        field = 1 + (unsigned)pick(FIELD_END - 1);
    if (chance(4))
        in->present &= ~field_bit((int)field);
    else
        set_field(in, field);
    if (chance(8))
        request->how ^= (uint8_t)(1 << pick(8));
    set_body(request, in);
}

/* ---- inputs ----------------------------------------------------------------------------------
 */

/* Puts the request in place of `old` bytes at `at`. The input as it is if there is no room. */
static size_t put(uint8_t *data, size_t size, size_t max_size, size_t at, size_t old,
                  struct ops_request *request, const struct fields *in)
{
    static uint8_t meta[UINT16_MAX], body[256];
    request->meta_length = wire_fields_size(in);
    size_t added = ops_size(request);
    if (request->meta_length > sizeof meta || size - old + added > max_size)
        return size;
    wire_fields_encode(in, meta); /* before the texts that point into data move */
    request->meta = meta;
    if (request->opcode != OP_load) {
        for (size_t i = 0; i < request->body_length; i++)
            body[i] = (uint8_t)pick(256);
        request->body = body;
    }
    memmove(data + at + added, data + at + old, size - at - old);
    ops_write(request, data + at);
    return size - old + added;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    struct ops_request request, last = {0};
    struct fields in;
    size_t at = 0, end = 0;
    state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    pick(2);
    if (chance(3))
        return LLVMFuzzerMutate(data, size, max_size);
    /* One of the requests, or the end. */
    for (uint64_t skip = pick(8); ops_next(data, size, &end, &request); skip--) {
        last = request;
        if (skip == 0)
            break;
        at = end;
    }
    size_t old = end - at;
    if (old && chance(12)) {
        memmove(data + at, data + end, size - end);
        return size - old;
    }
    if (old && chance(2) && last.opcode < OP_END && op_infos[last.opcode].name &&
        wire_fields_decode(last.meta, last.meta_length, WIRE_STRICT, &in) == TD_OK) {
        change(&last, &in);
        return put(data, size, max_size, at, old, &last, &in);
    }
    generate(&request, &in);
    return put(data, size, max_size, at, chance(2) ? old : 0, &request, &in);
}
