#include "proto/format/index_text.h"

#include "core/utf8.h"

#include <stdlib.h>
#include <string.h>

#define SHOWN_MAX 40 /* bytes of a wrong item in a message */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static struct text trimmed(struct text text)
{
    while (text.length > 0 && is_blank(text.data[0])) {
        text.data++;
        text.length--;
    }
    while (text.length > 0 && is_blank(text.data[text.length - 1]))
        text.length--;
    return text;
}

/* What a message can show of a text: its first characters, up to one that is not printable. */
static struct text shown(struct text text)
{
    struct text start = {text.data, 0};
    while (start.length < text.length) {
        const unsigned char *at = (const unsigned char *)text.data + start.length;
        size_t length = utf8_length(at, text.length - start.length);
        if (length == 0 || *at < ' ' || *at == 0x7F || start.length + length > SHOWN_MAX)
            break;
        start.length += length;
    }
    return start;
}

static enum td_status bad_item(int number, struct text item)
{
    struct text start = shown(item);
    return fail(TD_BAD_INDEX,
                "item %d of the index is '%.*s%s'; an item is an integer, a slice "
                "start:stop:step, '...' or None, and commas separate items",
                number, TEXT_ARGS(start), start.length < item.length ? "..." : "");
}

/* What stands between the colons of an item. */
enum part_kind { PART_BAD, PART_EMPTY, PART_NONE, PART_INTEGER };

struct part {
    enum part_kind kind;
    int64_t value;
    bool clamped; /* the number is farther from 0, and its own sign is kept */
};

/* A decimal integer as Python writes it: no leading zeros, a sign in front. */
static struct part read_integer(struct text text)
{
    struct part part = {.kind = PART_INTEGER};
    bool negative = text.data[0] == '-';
    if (negative || text.data[0] == '+')
        text = trimmed((struct text){text.data + 1, text.length - 1});
    if (text.length == 0 || (text.length > 1 && text.data[0] == '0'))
        return (struct part){.kind = PART_BAD};
    for (size_t i = 0; i < text.length; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return (struct part){.kind = PART_BAD};
        part.clamped = part.clamped || __builtin_mul_overflow(part.value, 10, &part.value) ||
                       __builtin_add_overflow(part.value, text.data[i] - '0', &part.value);
    }
    if (part.clamped)
        part.value = INT64_MAX;
    if (negative)
        part.value = -part.value;
    return part;
}

static struct part read_part(struct text text)
{
    text = trimmed(text);
    if (text.length == 0)
        return (struct part){.kind = PART_EMPTY};
    if (text_equal(text, "None") || text_equal(text, "newaxis"))
        return (struct part){.kind = PART_NONE};
    return read_integer(text);
}

/* An item without colons: an integer, a new axis or an ellipsis. */
static enum td_status read_single(int number, struct text text, struct index_item *out)
{
    *out = (struct index_item){INDEX_ELLIPSIS, 0, 0, 0};
    if (text_equal(text, "...") || text_equal(text, "Ellipsis"))
        return TD_OK;
    struct part part = read_part(text);
    if (part.kind == PART_INTEGER && part.clamped) {
        struct text start = shown(text);
        return fail(TD_BAD_INDEX, "item %d of the index, %.*s%s, is past the end of any dimension",
                    number, TEXT_ARGS(start), start.length < text.length ? "..." : "");
    }
    if (part.kind == PART_INTEGER)
        *out = (struct index_item){INDEX_INTEGER, part.value, 0, 0};
    else if (part.kind == PART_NONE)
        *out = (struct index_item){INDEX_NEW_AXIS, 0, 0, 0};
    else
        return bad_item(number, text);
    return TD_OK;
}

/* The text up to the next `mark`, which is taken away with it; *more: there was one. */
static struct text split(struct text *rest, char mark, bool *more)
{
    const char *at = rest->length > 0 ? memchr(rest->data, mark, rest->length) : NULL;
    size_t length = at ? (size_t)(at - rest->data) : rest->length;
    struct text part = {rest->data, length};
    *more = at != NULL;
    rest->data += at ? length + 1 : length;
    rest->length -= at ? length + 1 : length;
    return part;
}

static enum td_status read_item(int number, struct text text, struct index_item *out)
{
    struct text rest = text;
    int64_t parts[3] = {INDEX_NONE, INDEX_NONE, INDEX_NONE};
    bool more = true;
    if (text.length == 0 || !memchr(text.data, ':', text.length))
        return read_single(number, text, out);
    for (int i = 0; more; i++) {
        struct part part = read_part(split(&rest, ':', &more));
        if (part.kind == PART_BAD || i == 3)
            return bad_item(number, text);
        if (part.kind == PART_INTEGER)
            parts[i] = part.value; /* a slice ends at the dimension's end, however far it goes */
    }
    *out = (struct index_item){INDEX_SLICE, parts[0], parts[1], parts[2]};
    return TD_OK;
}

/* Takes the brackets off, if there are any. */
static enum td_status without_brackets(struct text text, struct text *out)
{
    *out = trimmed(text);
    bool opened = out->length > 0 && out->data[0] == '[';
    bool closed = out->length > 0 && out->data[out->length - 1] == ']';
    if (opened != closed)
        return fail(TD_BAD_INDEX,
                    "the index has a '%c' without its '%c'; write both brackets or none",
                    opened ? '[' : ']', opened ? ']' : '[');
    if (opened)
        *out = trimmed((struct text){out->data + 1, out->length - 2});
    return TD_OK;
}

enum td_status index_from_text(struct text text, struct index *out)
{
    struct text rest;
    bool more;
    TRY(without_brackets(text, &rest));
    out->count = 0;
    while (rest.length > 0) { /* false after a comma at the end, as Python has it */
        if (out->count == INDEX_MAX)
            return fail(TD_BAD_INDEX, "the index has more than %d items", INDEX_MAX);
        struct text item = trimmed(split(&rest, ',', &more));
        TRY(read_item(out->count + 1, item, &out->items[out->count]));
        out->count++;
    }
    return TD_OK;
}
