#include "proto/format/number.h"

#include "core/dtype_info.h"
#include "proto/format/number_decimal.h"

#include <assert.h>
#include <string.h>

/* ---- digits ---------------------------------------------------------------------------------- */

/* Eight characters at a time, the first one in the lowest byte: this machine's order in memory. */
#define EIGHT 8
#define ZEROS UINT64_C(0x3030303030303030)
#define EIGHT_DIGITS 100000000

/* The eight digits of a number, as bytes from 0 to 9. Halves of it are split side by side in one
 * word, by 100 and by 10 (P. Khuong, "How to print integers really fast", 2017). */
static uint64_t digits_of(uint32_t number)
{
    uint64_t fours = number / 10000 | (uint64_t)(number % 10000) << 32;
    uint64_t hundreds = (fours * 10486 >> 20) & UINT64_C(0x7F0000007F);
    uint64_t pairs = ((fours - 100 * hundreds) << 16) + hundreds;
    uint64_t tens = (pairs * 103 >> 10) & UINT64_C(0x000F000F000F000F);
    return ((pairs - 10 * tens) << 8) + tens;
}

/* The digits of a number stand at the end of the first DIGITS_SIZE characters, behind zeros, and
 * zeros follow, so that copies may be of a fixed length. */
#define DIGITS_SIZE 24
#define DIGITS_PADDING 32
struct digits {
    char text[DIGITS_SIZE + DIGITS_PADDING];
    size_t first;
};

static void digits_fill(struct digits *digits, uint64_t number)
{
    size_t at = DIGITS_SIZE;
    uint64_t eight;
    memset(digits->text + at, '0', DIGITS_PADDING);
    do {
        eight = digits_of((uint32_t)(number % EIGHT_DIGITS));
        number /= EIGHT_DIGITS;
        uint64_t characters = eight | ZEROS;
        at -= EIGHT;
        memcpy(digits->text + at, &characters, EIGHT);
    } while (number);
    digits->first = at + (eight ? (size_t)__builtin_ctzll(eight) / 8 : EIGHT - 1);
}

/* How many digits there are without zeros at the end. The number is not 0. */
static size_t digits_significant(const struct digits *digits)
{
    size_t end = DIGITS_SIZE;
    uint64_t eight;
    while (memcpy(&eight, digits->text + end - EIGHT, EIGHT), eight == ZEROS)
        end -= EIGHT;
    return end - (size_t)__builtin_clzll(eight ^ ZEROS) / 8 - digits->first;
}

/* ---- writing --------------------------------------------------------------------------------- */

static size_t text_write(const char *text, char *out)
{
    size_t length = strlen(text);
    memcpy(out, text, length);
    return length;
}

static size_t integer_write(bool negative, uint64_t absolute, char *out)
{
    struct digits digits;
    digits_fill(&digits, absolute);
    *out = '-';
    memcpy(out + negative, digits.text + digits.first, DIGITS_SIZE);
    return negative + DIGITS_SIZE - digits.first;
}

static size_t exponent_write(int exponent, char *out)
{
    int absolute = exponent < 0 ? -exponent : exponent;
    size_t length = 2;
    out[0] = 'e';
    out[1] = exponent < 0 ? '-' : '+';
    if (absolute >= 100)
        out[length++] = (char)('0' + absolute / 100);
    out[length++] = (char)('0' + absolute / 10 % 10);
    out[length++] = (char)('0' + absolute % 10);
    return length;
}

/* digits * 10^exponent as Python's repr writes it: with an exponent below 1e-4 and from 1e16 on.
 * Copies of a fixed length write 33 bytes at most, also where the text is shorter. */
static size_t decimal_write(uint64_t number, int exponent, char *out)
{
    struct digits digits;
    digits_fill(&digits, number);
    const char *text = digits.text + digits.first;
    int count = (int)digits_significant(&digits); /* at most 17 */
    int point = DIGITS_SIZE - (int)digits.first + exponent;
    if (point > 16 || point < -3) {
        out[0] = text[0];
        out[1] = '.';
        memcpy(out + 2, text + 1, 16);
        size_t length = count > 1 ? (size_t)count + 1 : 1;
        return length + exponent_write(point - 1, out + length);
    }
    if (point <= 0) {
        memcpy(out, "0.000", 5);
        memcpy(out + 2 - point, text, 17);
        return (size_t)(2 - point + count);
    }
    memcpy(out, text, 16);
    out[point] = '.';
    memcpy(out + point + 1, text + point, 16);
    return (size_t)(count > point ? count + 1 : point + 2);
}

static size_t float_write(const struct float_format *format, uint64_t bits, char *out)
{
    uint64_t magnitude = bits & (format->sign - 1);
    bool negative = (bits & format->sign) != 0;
    if (magnitude > format->largest) {
        if (magnitude != format->infinity)
            return text_write("\"NaN\"", out);
        return text_write(negative ? "\"-Infinity\"" : "\"Infinity\"", out);
    }
    *out = '-';
    out += negative;
    if (magnitude == 0)
        return negative + text_write("0.0", out);
    int exponent;
    uint64_t digits = decimal_shortest(format, magnitude, &exponent);
    return negative + decimal_write(digits, exponent, out);
}

/* The bytes of an element, the first one lowest. */
static uint64_t bits_load(const void *element, size_t size_bytes)
{
    uint64_t bits = 0;
    switch (size_bytes) { /* copies of a fixed length are a single instruction */
    case 1:
        memcpy(&bits, element, 1);
        break;
    case 2:
        memcpy(&bits, element, 2);
        break;
    case 4:
        memcpy(&bits, element, 4);
        break;
    default:
        memcpy(&bits, element, 8);
    }
    return bits;
}

static size_t complex_write(enum td_dtype dtype, const void *element, char *out)
{
    enum td_dtype part = dtype == TD_COMPLEX64 ? TD_FLOAT32 : TD_FLOAT64;
    const unsigned char *re = element, *im = re + dtype_infos[part].size_bytes;
    char *at = out;
    *at++ = '[';
    at += number_write(part, re, at);
    *at++ = ',';
    at += number_write(part, im, at);
    *at++ = ']';
    return (size_t)(at - out);
}

size_t number_write(enum td_dtype dtype, const void *element, char *out)
{
    assert(dtype_valid((int)dtype));
    char kind = dtype_infos[dtype].kind;
    size_t size = dtype_infos[dtype].size_bytes;
    if (kind == 'c')
        return complex_write(dtype, element, out);
    uint64_t bits = bits_load(element, size);
    if (kind == 'f')
        return float_write(&float_formats[dtype], bits, out);
    if (kind == 'b')
        return text_write(bits ? "true" : "false", out);
    uint64_t sign = UINT64_C(1) << (8 * size - 1);
    bool negative = kind == 'i' && (bits & sign);
    return integer_write(negative, negative ? 2 * sign - bits : bits, out);
}
