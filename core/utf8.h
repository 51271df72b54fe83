/* utf8: characters of a text (RFC 3629: shortest form, no surrogates). Part of the vocabulary. */
#ifndef CORE_UTF8_H
#define CORE_UTF8_H

#include <stddef.h>
#include <string.h>

/* Bytes of the character at s, of which `left` (at least 1) may be read; 0 if there is none. */
static inline size_t utf8_length(const unsigned char *s, size_t left)
{
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (length == 0 || length > left || s[0] > 0xF4)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return length;
}

/* Bytes of a text to show in a message: SHOWN_BYTES at most, and no part of a character. For
 * "%.*s" with SHOWN(string). */
#define SHOWN_BYTES ((size_t)200)
static inline int utf8_shown(const char *text, size_t length)
{
    size_t shown = length < SHOWN_BYTES ? length : SHOWN_BYTES;
    while (shown > 0 && shown < length && ((unsigned char)text[shown] & 0xC0) == 0x80)
        shown--;
    return (int)shown;
}
#define SHOWN(string) utf8_shown(string, strlen(string)), (string)
#define TEXT_SHOWN(text) utf8_shown((text).data, (text).length), (text).data

#endif
