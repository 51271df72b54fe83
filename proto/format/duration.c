#include "proto/format/json.h"

#include <string.h>

enum td_status duration_from_text(struct text text, uint64_t *milliseconds)
{
    static const struct {
        const char *unit;
        uint64_t milliseconds;
    } units[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    uint64_t number = 0;
    size_t digits = 0;
    bool fits = true;
    for (; digits < text.length && text.data[digits] >= '0' && text.data[digits] <= '9'; digits++)
        fits = fits && !__builtin_mul_overflow(number, 10, &number) &&
               !__builtin_add_overflow(number, (uint64_t)(text.data[digits] - '0'), &number);
    struct text unit = {text.data + digits, text.length - digits};
    for (size_t i = 0; i < sizeof units / sizeof units[0] && digits && fits; i++)
        if (text_equal(unit, units[i].unit) &&
            !__builtin_mul_overflow(number, units[i].milliseconds, milliseconds))
            return TD_OK;
    return fail(TD_INVALID,
                "'%.*s' is no duration; expected a number of milliseconds, or one with "
                "ms, s, m or h behind it, such as 30s",
                TEXT_ARGS(text));
}
