#include "proto/format/json_scan.h"

#include "core/utf8.h"

#include <stdio.h>
#include <string.h>

static size_t digits_length(const char *text, size_t length)
{
    size_t n = 0;
    while (n < length && text[n] >= '0' && text[n] <= '9')
        n++;
    return n;
}

size_t json_number_length(const char *text, size_t length, bool *integer)
{
    size_t at = length > 0 && text[0] == '-' ? 1 : 0;
    size_t digits = digits_length(text + at, length - at);
    *integer = true;
    if (digits == 0 || (digits > 1 && text[at] == '0'))
        return 0;
    at += digits;
    if (at < length && text[at] == '.') {
        digits = digits_length(text + at + 1, length - at - 1);
        if (digits == 0)
            return 0;
        at += 1 + digits;
        *integer = false;
    }
    if (at < length && (text[at] == 'e' || text[at] == 'E')) {
        at++;
        if (at < length && (text[at] == '+' || text[at] == '-'))
            at++;
        digits = digits_length(text + at, length - at);
        if (digits == 0)
            return 0;
        at += digits;
        *integer = false;
    }
    return at;
}

/* ---- strings --------------------------------------------------------------------------------- */

/* The value of four hexadecimal digits, -1 if they are none. */
static int hex4(const char *text, size_t length)
{
    int value = 0;
    if (length < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static size_t utf8_encode(unsigned code, char *out)
{
    size_t length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char leads[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = length - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(leads[length] | code);
    return length;
}

/* The character that the escape at text[0] == '\\' stands for: *code, and *used bytes of the text.
 * What was expected if it is none. */
static const char *escape_decode(const char *text, size_t length, unsigned *code, size_t *used)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *letter = length > 1 ? memchr(letters, text[1], sizeof letters - 1) : NULL;
    *used = 2;
    if (letter) {
        *code = (unsigned char)values[letter - letters];
        return NULL;
    }
    if (length < 2 || text[1] != 'u')
        return "an escape: one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX";
    int high = hex4(text + 2, length - 2);
    *used = 6;
    if (high < 0)
        return "four hexadecimal digits after \\u";
    if (high == 0)
        return "a character other than \\u0000, which no text here may hold";
    *code = (unsigned)high;
    if (high < 0xD800 || high > 0xDFFF)
        return NULL;
    bool follows = high < 0xDC00 && length > 7 && text[6] == '\\' && text[7] == 'u';
    int low = follows ? hex4(text + 8, length - 8) : -1;
    if (low < 0xDC00 || low > 0xDFFF)
        return "a surrogate pair (\\uD800 to \\uDBFF, then \\uDC00 to \\uDFFF), not half of one";
    *code = 0x10000u + (((unsigned)high - 0xD800u) << 10) + ((unsigned)low - 0xDC00u);
    *used = 12;
    return NULL;
}

const char *json_string_decode(const char *text, size_t length, size_t *at, char *out)
{
    for (++*at; *at < length;) {
        unsigned char c = (unsigned char)text[*at];
        size_t used = 1;
        if (c == '"') {
            ++*at;
            *out = '\0';
            return NULL;
        }
        if (c == '\\') {
            unsigned code;
            const char *expected = escape_decode(text + *at, length - *at, &code, &used);
            if (expected)
                return expected;
            out += utf8_encode(code, out); /* never more bytes than the escape has */
        } else if (c < 0x20) {
            return "an escape, since strings hold no control characters";
        } else {
            used = utf8_length((const unsigned char *)text + *at, length - *at);
            if (used == 0)
                return "a character in UTF-8";
            memcpy(out, text + *at, used);
            out += used;
        }
        *at += used;
    }
    return "a '\"' that ends the string";
}

const char *json_excerpt(const char *text, size_t length, char buffer[JSON_EXCERPT_SIZE])
{
    enum { ROOM = JSON_EXCERPT_SIZE - 4 };
    size_t at = 0, out = 0;
    while (at < length) {
        size_t size = utf8_length((const unsigned char *)text + at, length - at);
        bool plain = size > 0 && (unsigned char)text[at] >= 0x20 && text[at] != 0x7F;
        if (out + (plain ? size : 1) > ROOM)
            break;
        if (plain)
            memcpy(buffer + out, text + at, size);
        else
            buffer[out] = '?';
        out += plain ? size : 1;
        at += size > 0 ? size : 1;
    }
    snprintf(buffer + out, JSON_EXCERPT_SIZE - out, "%s", at < length ? "..." : "");
    return buffer;
}

/* ---- extents --------------------------------------------------------------------------------- */

/* Behind the string at `at`, or `end`. */
static const char *string_end(const char *at, const char *end)
{
    at++;
    while (at < end && *at != '"')
        at += *at == '\\' && end - at > 1 ? 2 : 1;
    return at < end ? at + 1 : end;
}

size_t json_value_extent(const char *text, size_t length, int *leaf_depth)
{
    const char *at = text, *end = text + length;
    size_t depth = 0;
    *leaf_depth = -1;
    while (at < end) {
        char c = *at;
        if (c == '[') {
            depth++;
            at++;
        } else if (c == ']' && depth > 0) {
            depth--;
            at++;
        } else {
            const char *begin = at;
            at = c == '"' ? string_end(at, end) : json_token_end(at, end);
            /* Deeper than any tensor is as deep as can be told. */
            int leaf = depth > RANK_MAX + 1 ? RANK_MAX + 2 : (int)depth;
            if (at > begin && leaf > *leaf_depth)
                *leaf_depth = leaf;
            if (at == begin && depth > 0) /* what is between items */
                at++;
        }
        if (depth == 0)
            break;
    }
    return (size_t)(at - text);
}
