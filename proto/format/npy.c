#include "proto/format/npy.h"

#include "core/fields.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PREFIX_BYTES 10  /* magic, version and the length of version 1.0: what tells the rest */
#define ALIGNMENT 64     /* of the first element, as numpy.save has it */
#define GROWTH_DIGITS 21 /* numpy.save leaves room for the first size to grow to so many */
#define SHOWN_MAX 40     /* bytes of a dtype or key in a message */
#define SHOWN(text) (int)((text).length < SHOWN_MAX ? (text).length : SHOWN_MAX), (text).data

/* ---- the dict literal ----------------------------------------------------------------------- */

struct literal {
    const char *start, *at, *end; /* start: of the file */
    enum td_dtype hint;
};

static enum td_status expected(const struct literal *l, const char *what)
{
    return fail(TD_INVALID, "the .npy header is malformed at byte %zu: expected %s%s",
                (size_t)(l->at - l->start), what,
                l->at == l->end ? ", but the header ends there" : "");
}

static char peek(const struct literal *l)
{
    return l->at < l->end ? *l->at : '\0';
}

/* What comes after any blanks. */
static char peek_token(struct literal *l)
{
    while (l->at < l->end && strchr(" \t\r\n", *l->at) && *l->at)
        l->at++;
    return peek(l);
}

static bool take_char(struct literal *l, char c)
{
    if (peek_token(l) != c)
        return false;
    l->at++;
    return true;
}

static bool take_word(struct literal *l, const char *word)
{
    size_t length = strlen(word);
    if (peek_token(l) != *word || (size_t)(l->end - l->at) < length ||
        memcmp(l->at, word, length) != 0)
        return false;
    l->at += length;
    return true;
}

/* A string in single or double quotes. Those that matter here have no escapes. */
static enum td_status take_string(struct literal *l, const char *what, struct text *out)
{
    char quote = peek_token(l);
    if (quote != '\'' && quote != '"')
        return expected(l, what);
    const char *start = ++l->at;
    while (l->at < l->end && *l->at != quote) {
        if (*l->at < ' ' || *l->at > '~' || *l->at == '\\')
            return expected(l, "a printable ASCII character other than a backslash");
        l->at++;
    }
    if (l->at == l->end)
        return expected(l, "the closing quote");
    *out = (struct text){start, (size_t)(l->at++ - start)};
    return TD_OK;
}

/* Python 2 wrote long integers with an L behind them. */
static enum td_status take_size(struct literal *l, int64_t *out)
{
    char first = peek_token(l);
    const char *start = l->at;
    bool fits = true;
    *out = 0;
    for (; peek(l) >= '0' && peek(l) <= '9'; l->at++)
        fits = fits && !__builtin_mul_overflow(*out, 10, out) &&
               !__builtin_add_overflow(*out, *l->at - '0', out);
    struct text digits = {start, (size_t)(l->at - start)};
    if (digits.length == 0 || (first == '0' && digits.length > 1)) {
        l->at = start;
        return expected(l, "a size, which is 0 or a positive integer");
    }
    if (!fits)
        return fail(TD_BAD_SHAPE, "the array has a size of %.*s%s, more than any tensor has",
                    SHOWN(digits), digits.length > SHOWN_MAX ? "..." : "");
    if (peek(l) == 'L')
        l->at++;
    return TD_OK;
}

/* ---- the three keys ------------------------------------------------------------------------- */

static const struct {
    char kind;
    const char *meaning;
} foreign_kinds[] = {
    {'O', "Python objects"},
    {'S', "byte strings"},
    {'a', "byte strings"},
    {'U', "text"},
    {'T', "text"},
    {'M', "dates"},
    {'m', "time spans"},
    {'V', "raw bytes"},
    {'f', "floats of that size"},
    {'c', "complex numbers of that size"},
};

static enum td_status foreign_dtype(struct text descr, char kind)
{
    const char *meaning = "unknown";
    for (size_t i = 0; i < sizeof foreign_kinds / sizeof *foreign_kinds; i++)
        if (foreign_kinds[i].kind == kind)
            meaning = foreign_kinds[i].meaning;
    return fail(TD_BAD_DTYPE,
                "the array has dtype '%.*s' (%s), which tensord has not; convert it to a dtype "
                "such as float64 or uint8 before saving it",
                SHOWN(descr), meaning);
}

static bool is_void(enum td_dtype dtype)
{
    return dtype != TD_DTYPE_NONE && dtype_infos[dtype].numpy[1] == 'V';
}

/* The dtype of a type string without its byte order, TD_DTYPE_NONE if there is none. */
static enum td_dtype find_dtype(struct text type, enum td_dtype hint)
{
    if (text_equal(type, "f1"))
        return TD_FLOAT8_E5M2;
    if (is_void(hint) && text_equal(type, dtype_infos[hint].numpy + 1))
        return hint;
    for (int d = TD_DTYPE_NONE + 1; d < TD_DTYPE_END; d++)
        if (!is_void((enum td_dtype)d) && text_equal(type, dtype_infos[d].numpy + 1))
            return (enum td_dtype)d;
    return TD_DTYPE_NONE;
}

static enum td_status take_descr(struct literal *l, struct npy_header *out)
{
    struct text descr;
    char first = peek_token(l);
    if (first == '[' || first == '(')
        return fail(TD_BAD_DTYPE, "the array has a structured dtype (several fields in each "
                                  "element), which tensord has not; save each field as an array "
                                  "of its own");
    TRY(take_string(l, "the dtype as a string", &descr));
    char order = descr.length > 0 ? descr.data[0] : '\0';
    bool has_order = order == '<' || order == '>' || order == '=' || order == '|';
    struct text type = {descr.data + has_order, descr.length - has_order};
    out->dtype = find_dtype(type, l->hint);
    out->big_endian = order == '>' && td_dtype_size((int)out->dtype) > 1;
    if (out->dtype != TD_DTYPE_NONE)
        return TD_OK;
    if (text_equal(type, "V1") || text_equal(type, "V2"))
        return fail(
            TD_BAD_DTYPE, "the array has dtype '%.*s' (raw bytes); say which dtype they are: %s",
            SHOWN(descr), text_equal(type, "V2") ? "bfloat16" : "float8_e4m3fn or float8_e5m2");
    return foreign_dtype(descr, type.length > 0 ? type.data[0] : '\0');
}

static enum td_status take_fortran_order(struct literal *l, struct npy_header *out)
{
    out->fortran_order = take_word(l, "True");
    if (out->fortran_order || take_word(l, "False"))
        return TD_OK;
    return expected(l, "True or False");
}

/* (), (3,), (2, 3) or (2, 3,); (3) would be a number and no tuple. */
static enum td_status take_shape(struct literal *l, struct npy_header *out)
{
    bool comma = true;
    out->shape = (struct dims){0};
    if (!take_char(l, '('))
        return expected(l, "the shape, a tuple of integers");
    while (!take_char(l, ')')) {
        int64_t size;
        if (!comma)
            return expected(l, "a comma or ')'");
        TRY(take_size(l, &size));
        if (out->shape.rank == RANK_MAX)
            return fail(TD_BAD_SHAPE,
                        "the array has more than %d dimensions; reshape it to fewer "
                        "before saving it",
                        RANK_MAX);
        out->shape.v[out->shape.rank++] = size;
        comma = take_char(l, ',');
    }
    if (out->shape.rank == 1 && !comma)
        return expected(l, "a tuple; the shape of one dimension is written (3,)");
    return TD_OK;
}

static const struct {
    const char *name;
    enum td_status (*take_value)(struct literal *l, struct npy_header *out);
} keys[] = {
    {"descr", take_descr},
    {"fortran_order", take_fortran_order},
    {"shape", take_shape},
};
#define KEY_COUNT (sizeof keys / sizeof *keys)

static enum td_status take_member(struct literal *l, struct npy_header *out, bool seen[KEY_COUNT])
{
    struct text name;
    size_t k = 0;
    TRY(take_string(l, "a key in quotes, or '}'", &name));
    while (k < KEY_COUNT && !text_equal(name, keys[k].name))
        k++;
    if (k == KEY_COUNT || seen[k])
        return fail(TD_INVALID,
                    "the .npy header has the key '%.*s'%s; expected descr, fortran_order and "
                    "shape, once each",
                    SHOWN(name), k == KEY_COUNT ? "" : " twice");
    seen[k] = true;
    if (!take_char(l, ':'))
        return expected(l, "':'");
    return keys[k].take_value(l, out);
}

static enum td_status read_literal(struct literal *l, struct npy_header *out)
{
    bool seen[KEY_COUNT] = {false}, comma = true;
    if (!take_char(l, '{'))
        return expected(l, "'{', which begins a Python dict");
    while (!take_char(l, '}')) {
        if (!comma)
            return expected(l, "a comma or '}'");
        TRY(take_member(l, out, seen));
        comma = take_char(l, ',');
    }
    (void)peek_token(l);
    if (l->at != l->end)
        return expected(l, "nothing but blanks after the '}'");
    for (size_t k = 0; k < KEY_COUNT; k++)
        if (!seen[k])
            return fail(TD_INVALID,
                        "the .npy header lacks the key '%s'; expected descr, fortran_order and "
                        "shape",
                        keys[k].name);
    return TD_OK;
}

/* ---- the file's start ------------------------------------------------------------------------ */

/* Where the literal begins and ends, or how many bytes must be there before that is known. */
static enum td_status find_literal(const unsigned char *bytes, size_t length, size_t *begin,
                                   size_t *end, size_t *needed)
{
    *needed = PREFIX_BYTES;
    size_t magic = length < NPY_MAGIC_BYTES ? length : NPY_MAGIC_BYTES;
    if (magic > 0 && memcmp(bytes, NPY_MAGIC, magic) != 0)
        return fail(TD_INVALID, "this is no .npy file: it does not begin with \\x93NUMPY");
    if (length < PREFIX_BYTES)
        return TD_OK;
    if (bytes[6] < 1 || bytes[6] > 3 || bytes[7] != 0)
        return fail(TD_UNSUPPORTED, "the .npy file is of version %d.%d; expected 1.0, 2.0 or 3.0",
                    bytes[6], bytes[7]);
    *begin = bytes[6] == 1 ? 10 : 12;
    *needed = *begin;
    if (length < *begin)
        return TD_OK;
    size_t literal = bytes[8] + ((size_t)bytes[9] << 8);
    if (bytes[6] > 1)
        literal += ((size_t)bytes[10] << 16) + ((size_t)bytes[11] << 24);
    if (literal > NPY_HEADER_MAX - *begin)
        return fail(TD_TOO_LARGE, "the .npy header has %zu bytes; at most %zu are read", literal,
                    NPY_HEADER_MAX - *begin);
    *end = *begin + literal;
    *needed = length < *end ? *end : 0;
    return TD_OK;
}

bool npy_recognise(const void *bytes, size_t length)
{
    return length >= NPY_MAGIC_BYTES && memcmp(bytes, NPY_MAGIC, NPY_MAGIC_BYTES) == 0;
}

enum td_status npy_read(const void *bytes, size_t length, enum td_dtype hint,
                        struct npy_header *out, size_t *needed)
{
    const char *start = bytes;
    size_t begin = 0, end = 0;
    struct npy_header header = {0};
    struct layout layout;
    TRY(find_literal(bytes, length, &begin, &end, needed));
    if (*needed > 0)
        return TD_OK;
    struct literal l = {start, start + begin, start + end, hint};
    TRY(read_literal(&l, &header));
    TRY(layout_contiguous(header.dtype, &header.shape, &layout));
    header.header_bytes = end;
    *out = header;
    return TD_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

struct line {
    char *start;
    size_t length;
};

static void put(struct line *line, const char *text)
{
    size_t length = strlen(text);
    assert(line->length + length <= NPY_WRITE_MAX);
    memcpy(line->start + line->length, text, length);
    line->length += length;
}

/* Returns the digits. */
static int put_size(struct line *line, int64_t size)
{
    char text[24];
    int digits = snprintf(text, sizeof text, "%" PRId64, size);
    put(line, text);
    return digits;
}

size_t npy_write(enum td_dtype dtype, const struct dims *shape, unsigned char *out)
{
    struct line line = {(char *)out, PREFIX_BYTES};
    int spare = 0;
    put(&line, "{'descr': '");
    put(&line, dtype_infos[dtype].numpy);
    put(&line, "', 'fortran_order': False, 'shape': (");
    for (int d = 0; d < shape->rank; d++) {
        put(&line, d > 0 ? ", " : "");
        int digits = put_size(&line, shape->v[d]);
        spare = d == 0 ? GROWTH_DIGITS - digits : spare;
    }
    put(&line, shape->rank == 1 ? ",), }" : "), }");
    for (int i = 0; i < spare; i++)
        put(&line, " ");
    do /* at least one, also where the end would fit without */
        put(&line, " ");
    while ((line.length + 1) % ALIGNMENT != 0);
    put(&line, "\n");

    size_t literal = line.length - PREFIX_BYTES;
    memcpy(out, NPY_MAGIC "\x01\x00", 8);
    out[8] = (unsigned char)(literal & 0xFF);
    out[9] = (unsigned char)(literal >> 8);
    return line.length;
}
