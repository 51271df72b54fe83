#include "core/store.h"
#include "core/utf8.h"

#include <string.h>

static bool is_control(const unsigned char *s, size_t length)
{
    return (length == 1 && (s[0] < 0x20 || s[0] == 0x7F)) ||
           (length == 2 && s[0] == 0xC2 && s[1] < 0xA0);
}

static enum td_status segment_check(struct text name, size_t start, size_t end)
{
    size_t length = end - start;
    const char *segment = name.data + start;
    if (length == 0 || (length == 1 && segment[0] == '.') ||
        (length == 2 && segment[0] == '.' && segment[1] == '.'))
        return fail(TD_INVALID,
                    "the name '%.*s' has a segment that is empty, '.' or '..'; segments are "
                    "separated by '/'",
                    TEXT_ARGS(name));
    return TD_OK;
}

enum td_status name_check(struct text name)
{
    const unsigned char *s = (const unsigned char *)name.data;
    size_t start = 0;
    if (name.length == 0 || name.length > NAME_MAX_BYTES)
        return fail(TD_INVALID, "a name has 1 to %d bytes; this one has %zu", NAME_MAX_BYTES,
                    name.length);
    if (s[0] == '@')
        return fail(TD_INVALID, "the name '%.*s' begins with '@', which marks object ids",
                    TEXT_ARGS(name));
    for (size_t i = 0, step; i < name.length; i += step) {
        step = utf8_length(s + i, name.length - i);
        if (step == 0 || is_control(s + i, step))
            return fail(TD_INVALID,
                        "a name is UTF-8 without control characters; byte %zu is 0x%02x", i, s[i]);
        if (s[i] == '/') {
            TRY(segment_check(name, start, i));
            start = i + 1;
        }
    }
    return segment_check(name, start, name.length);
}
