/* number for ctypes: one element, and many at once, where Python would be slow. */
#include "proto/format/number.h"

#include <string.h>

size_t number_shim_write(int dtype, const void *elements, size_t count, char *out);
size_t number_shim_read(int dtype, const char *lines, size_t length, void *elements, int *status);
int number_shim_scalar(const char *token, size_t length, int *kind, void *value);
uint64_t number_shim_round_trip(int dtype, uint64_t first, uint64_t step, uint64_t count);
const char *number_shim_detail(void);

/* A line for each element; returns the length. `out` has NUMBER_TEXT_MAX + 1 bytes for each. */
size_t number_shim_write(int dtype, const void *elements, size_t count, char *out)
{
    size_t size = td_dtype_size(dtype);
    char *at = out;
    for (size_t i = 0; i < count; i++) {
        at += number_write((enum td_dtype)dtype, (const char *)elements + i * size, at);
        *at++ = '\n';
    }
    return (size_t)(at - out);
}

/* A token a line, each line ended; returns how many were read before one failed. */
size_t number_shim_read(int dtype, const char *lines, size_t length, void *elements, int *status)
{
    size_t size = td_dtype_size(dtype), count = 0;
    const char *end = lines + length;
    *status = TD_OK;
    for (const char *at = lines; at < end; count++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        *status = (int)number_read((enum td_dtype)dtype, at, (size_t)(stop - at),
                                   (char *)elements + count * size);
        if (*status != TD_OK)
            break;
        at = stop + 1;
    }
    return count;
}

int number_shim_scalar(const char *token, size_t length, int *kind, void *value)
{
    struct scalar scalar = {.kind = SCALAR_INT};
    enum td_status status = number_read_scalar(token, length, &scalar);
    *kind = (int)scalar.kind;
    memcpy(value, &scalar.u, sizeof scalar.u);
    return (int)status;
}

/* How many of `count` elements, first, first + step, ... as bits, do not come back as they were. A
 * NaN may come back as another one. */
uint64_t number_shim_round_trip(int dtype, uint64_t first, uint64_t step, uint64_t count)
{
    uint64_t failures = 0;
    size_t size = td_dtype_size(dtype);
    for (uint64_t i = 0, bits = first; i < count; i++, bits += step) {
        char text[NUMBER_TEXT_MAX];
        uint64_t back = 0, want = bits & UINT64_MAX >> (64 - 8 * size);
        size_t length = number_write((enum td_dtype)dtype, &want, text);
        if (length == 5 && memcmp(text, "\"NaN\"", 5) == 0)
            continue;
        if (number_read((enum td_dtype)dtype, text, length, &back) != TD_OK || back != want)
            failures++;
    }
    return failures;
}

const char *number_shim_detail(void)
{
    return fail_detail();
}
