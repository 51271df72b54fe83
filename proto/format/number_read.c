#include "core/dtype_info.h"
#include "proto/format/number.h"
#include "proto/format/number_decimal.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum number_kind { NUMBER_FINITE, NUMBER_INFINITE, NUMBER_NAN };

/* A token, taken apart. */
struct number {
    enum number_kind kind;
    bool negative;
    bool truth;             /* true or false, which count as 1 and 0 */
    bool plain;             /* neither a point nor an exponent */
    int64_t place;          /* the first digit counts 10^place */
    struct decimal decimal; /* its digits are 0 for zero */
};

/* ---- scanning -------------------------------------------------------------------------------- */

/* An exponent as large as this is not counted on: no text is long enough to make up for it. */
#define EXPONENT_ENOUGH INT64_C(1000000000000000)

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Appends digits to *digits, modulo 2^64; returns what comes after them. */
static const char *digits_scan(const char *at, const char *end, uint64_t *digits)
{
    for (; at < end && is_digit(*at); at++)
        *digits = 10 * *digits + (uint64_t)(*at - '0');
    return at;
}

/* What comes after an "e"; NULL if it is no exponent. */
static const char *exponent_scan(const char *at, const char *end, int64_t *exponent)
{
    bool negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+'))
        at++;
    if (at == end || !is_digit(*at))
        return NULL;
    int64_t value = 0;
    for (; at < end && is_digit(*at); at++)
        if (value < EXPONENT_ENOUGH)
            value = 10 * value + (*at - '0');
    *exponent = negative ? -value : value;
    return at;
}

/* The first DECIMAL_DIGITS digits, where `digits` has all of them modulo 2^64. */
static void decimal_fill(const char *first, const char *end, const char *point, uint64_t digits,
                         struct number *out)
{
    int64_t count = end - first - (first < point && point < end ? 1 : 0);
    bool truncated = count > DECIMAL_DIGITS;
    if (truncated) {
        digits = 0;
        count = 0;
        for (const char *at = first; count < DECIMAL_DIGITS; at++)
            if (*at != '.') {
                digits = 10 * digits + (uint64_t)(*at - '0');
                count++;
            }
    }
    out->decimal = (struct decimal){
        .digits = digits,
        .exponent = out->place - count + 1,
        .truncated = truncated,
        .first = first,
        .end = end,
    };
}

/* A JSON number: -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][-+]?[0-9]+)? */
static bool number_scan(const char *at, size_t length, struct number *out)
{
    const char *end = at + length;
    uint64_t digits = 0;
    int64_t exponent = 0;
    out->kind = NUMBER_FINITE;
    out->truth = false;
    out->negative = at < end && *at == '-';
    const char *whole = at + out->negative;
    const char *point = at = digits_scan(whole, end, &digits);
    if (point == whole || (*whole == '0' && point - whole > 1))
        return false;
    if (at < end && *at == '.') {
        at = digits_scan(point + 1, end, &digits);
        if (at == point + 1)
            return false;
    }
    const char *digits_end = at;
    if (at < end && (*at == 'e' || *at == 'E')) {
        at = exponent_scan(at + 1, end, &exponent);
        if (!at)
            return false;
    }
    if (at != end)
        return false;
    out->plain = point == end;
    const char *first = whole;
    while (first < digits_end && (*first == '0' || *first == '.'))
        first++;
    out->place = exponent + (first < point ? point - first - 1 : point - first);
    decimal_fill(first, digits_end, point, digits, out);
    return true;
}

/* The tokens that are no numbers; true and false stand for one. */
static const struct {
    const char *word, *number;
    enum number_kind kind;
    bool negative;
} words[] = {
    {"true", "1", NUMBER_FINITE, false},
    {"false", "0", NUMBER_FINITE, false},
    {"\"NaN\"", NULL, NUMBER_NAN, false},
    {"\"Infinity\"", NULL, NUMBER_INFINITE, false},
    {"\"-Infinity\"", NULL, NUMBER_INFINITE, true},
};

#define TOKEN_SHOWN 40

/* The bytes of a token that a message shows: some, and only what is fit to print. */
static int token_shown(const char *token, size_t length)
{
    int shown = 0;
    while (shown < TOKEN_SHOWN && (size_t)shown < length && token[shown] > 31 && token[shown] < 127)
        shown++;
    return shown;
}

/* For "%.*s%s" in a message. */
#define TOKEN_ARGS(token, length)                                                                  \
    token_shown(token, length), token, (size_t)token_shown(token, length) < (length) ? "..." : ""

static enum td_status token_scan(const char *token, size_t length, struct number *out)
{
    if (number_scan(token, length, out))
        return TD_OK;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (length == strlen(words[i].word) && memcmp(token, words[i].word, length) == 0) {
            if (words[i].number && !number_scan(words[i].number, 1, out))
                break;
            out->truth = words[i].number != NULL;
            out->kind = words[i].kind;
            out->negative = words[i].negative;
            return TD_OK;
        }
    return fail(TD_INVALID,
                "'%.*s%s' is no element; expected a JSON number such as 1, -2.5 or 1e-3, or true, "
                "false, \"NaN\", \"Infinity\" or \"-Infinity\"",
                TOKEN_ARGS(token, length));
}

/* ---- values ---------------------------------------------------------------------------------- */

enum integer_value { INTEGER_FITS, INTEGER_TOO_LARGE, INTEGER_HAS_FRACTION };

/* The absolute value, if it is an integer that a uint64_t holds. */
static enum integer_value integer_absolute(const struct number *number, uint64_t *absolute)
{
    const struct decimal *decimal = &number->decimal;
    *absolute = decimal->digits;
    if (decimal->digits == 0 || (decimal->exponent == 0 && !decimal->truncated))
        return INTEGER_FITS;
    int64_t place = number->place;
    uint64_t value = 0;
    for (const char *at = decimal->first; at < decimal->end; at++) {
        if (*at == '.')
            continue;
        uint64_t digit = (uint64_t)(*at - '0');
        if (place < 0 && digit)
            return INTEGER_HAS_FRACTION;
        if (place >= 0 && (__builtin_mul_overflow(value, 10, &value) ||
                           __builtin_add_overflow(value, digit, &value)))
            return INTEGER_TOO_LARGE;
        place--;
    }
    for (; place >= 0; place--) /* the value is not 0: 20 times suffice */
        if (__builtin_mul_overflow(value, 10, &value))
            return INTEGER_TOO_LARGE;
    *absolute = value;
    return INTEGER_FITS;
}

/* The largest absolute value of an integer dtype, on either side of 0. */
static uint64_t integer_limit(enum td_dtype dtype, bool negative)
{
    const struct dtype_info *info = &dtype_infos[dtype];
    if (info->kind == 'b')
        return negative ? 0 : 1;
    uint64_t all = UINT64_MAX >> (64 - 8 * info->size_bytes);
    if (info->kind == 'u')
        return negative ? 0 : all;
    return all / 2 + (negative ? 1 : 0);
}

/* Writes the largest number of a dtype on one side of 0. A float is written as a float64: the
 * shortest text of float16's 65504 would be 65500. */
static size_t limit_write(enum td_dtype dtype, bool negative, char *out)
{
    const struct float_format *format = &float_formats[dtype];
    if (dtype_infos[dtype].kind != 'f') {
        uint64_t limit = integer_limit(dtype, negative), opposite = 0 - limit;
        return number_write(negative ? TD_INT64 : TD_UINT64, negative ? &opposite : &limit, out);
    }
    uint64_t hidden = UINT64_C(1) << format->fraction_bits;
    uint64_t significand = (format->largest & (hidden - 1)) | hidden;
    int unit = format->least_unit + (int)(format->largest >> format->fraction_bits) - 1;
    double limit = ldexp((double)significand, unit);
    limit = negative ? -limit : limit;
    return number_write(TD_FLOAT64, &limit, out);
}

static __attribute__((cold)) enum td_status fail_range(enum td_dtype dtype, const char *token,
                                                       size_t length)
{
    char low[NUMBER_TEXT_MAX], high[NUMBER_TEXT_MAX];
    size_t low_length = limit_write(dtype, true, low);
    size_t high_length = limit_write(dtype, false, high);
    return fail(TD_BAD_DTYPE,
                "%.*s%s is out of the range of %s, which is %.*s to %.*s; send a number within it, "
                "or choose another dtype",
                TOKEN_ARGS(token, length), dtype_infos[dtype].name, (int)low_length, low,
                (int)high_length, high);
}

/* The bits of the element. */
static enum td_status float_read(enum td_dtype dtype, const struct number *number,
                                 const char *token, size_t length, uint64_t *bits)
{
    const struct float_format *format = &float_formats[dtype];
    uint64_t magnitude = format->nan;
    if (number->kind == NUMBER_FINITE) {
        magnitude = number->decimal.digits ? decimal_nearest(format, &number->decimal) : 0;
        if (magnitude > format->largest)
            return fail_range(dtype, token, length);
    } else if (number->kind == NUMBER_INFINITE) {
        magnitude = format->infinity;
        if (!magnitude)
            return fail_range(dtype, token, length);
    }
    *bits = magnitude | (number->negative ? format->sign : 0);
    return TD_OK;
}

static enum td_status integer_read(enum td_dtype dtype, const struct number *number,
                                   const char *token, size_t length, uint64_t *bits)
{
    uint64_t absolute;
    enum integer_value value = INTEGER_HAS_FRACTION;
    if (number->kind == NUMBER_FINITE)
        value = integer_absolute(number, &absolute);
    if (value == INTEGER_HAS_FRACTION)
        return fail(TD_BAD_DTYPE,
                    "%.*s%s is no integer, and %s holds only these; send integers, or choose a "
                    "floating dtype",
                    TOKEN_ARGS(token, length), dtype_infos[dtype].name);
    if (value == INTEGER_TOO_LARGE || absolute > integer_limit(dtype, number->negative))
        return fail_range(dtype, token, length);
    *bits = number->negative ? 0 - absolute : absolute;
    return TD_OK;
}

static void bits_store(uint64_t bits, size_t size_bytes, void *element)
{
    switch (size_bytes) { /* copies of a fixed length are a single instruction */
    case 1:
        memcpy(element, &bits, 1);
        break;
    case 2:
        memcpy(element, &bits, 2);
        break;
    case 4:
        memcpy(element, &bits, 4);
        break;
    default:
        memcpy(element, &bits, 8);
    }
}

enum td_status number_read(enum td_dtype dtype, const char *token, size_t length, void *element)
{
    struct number number;
    uint64_t bits;
    char kind = dtype_infos[dtype].kind;
    assert(dtype_valid((int)dtype) && kind != 'c');
    TRY(token_scan(token, length, &number));
    if (kind == 'f')
        TRY(float_read(dtype, &number, token, length, &bits));
    else
        TRY(integer_read(dtype, &number, token, length, &bits));
    bits_store(bits, dtype_infos[dtype].size_bytes, element);
    return TD_OK;
}

enum td_status number_read_scalar(const char *token, size_t length, struct scalar *out)
{
    struct number number;
    uint64_t bits;
    TRY(token_scan(token, length, &number));
    if (number.truth) {
        *out = (struct scalar){.kind = SCALAR_BOOL, .b = number.decimal.digits != 0};
    } else if (number.kind == NUMBER_FINITE && number.plain) {
        enum td_dtype widest = number.negative ? TD_INT64 : TD_UINT64;
        TRY(integer_read(widest, &number, token, length, &bits));
        if (number.negative || bits <= INT64_MAX)
            *out = (struct scalar){.kind = SCALAR_INT, .i = (int64_t)bits};
        else
            *out = (struct scalar){.kind = SCALAR_UINT, .u = bits};
    } else {
        *out = (struct scalar){.kind = SCALAR_FLOAT};
        TRY(float_read(TD_FLOAT64, &number, token, length, &bits));
        memcpy(&out->f, &bits, sizeof bits);
    }
    return TD_OK;
}
