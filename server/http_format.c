#include "server/http_internal.h"

#include <string.h>
#include <strings.h>

/* The first row of a format is what is answered. */
static const struct {
    const char *content_type;
    enum format format;
} types[] = {
    {"application/json", FORMAT_JSON},
    {"application/x-npy", FORMAT_NPY},
    {"application/vnd.safetensors", FORMAT_SAFETENSORS},
    {"application/octet-stream", FORMAT_RAW},
    {"text/plain", FORMAT_TEXT},
    {"application/npy", FORMAT_NPY},
    {"application/vnd.numpy.npy", FORMAT_NPY},
    {"application/safetensors", FORMAT_SAFETENSORS},
};

static const char *const names[] = {
    [FORMAT_JSON] = "json", [FORMAT_NPY] = "npy",   [FORMAT_SAFETENSORS] = "safetensors",
    [FORMAT_RAW] = "raw",   [FORMAT_TEXT] = "text",
};

#define TYPES (sizeof types / sizeof types[0])
#define NAMES (sizeof names / sizeof names[0])

const char *format_content_type(enum format format)
{
    if (format == FORMAT_TEXT)
        return "text/plain; charset=utf-8";
    for (size_t i = 0; i < TYPES; i++)
        if (types[i].format == format)
            return types[i].content_type;
    return "application/octet-stream";
}

const char *format_name(enum format format)
{
    return names[format];
}

static enum td_status format_by_name(struct text name, enum format *out)
{
    for (size_t i = 1; i < NAMES; i++)
        if (text_equal(name, names[i])) {
            *out = (enum format)i;
            return TD_OK;
        }
    return fail(TD_INVALID, "format is json, npy, safetensors, raw or text, not '%.*s'",
                (int)(name.length < 40 ? name.length : 40), name.data);
}

static struct text trim(struct text text)
{
    while (text.length && strchr(" \t", text.data[0])) {
        text.data++;
        text.length--;
    }
    while (text.length && strchr(" \t", text.data[text.length - 1]))
        text.length--;
    return text;
}

/* Cuts off and returns what stands before the separator. */
static struct text cut(struct text *text, char separator)
{
    const char *at = memchr(text->data, separator, text->length);
    size_t length = at ? (size_t)(at - text->data) : text->length;
    struct text first = {text->data, length};
    text->data += length + (at ? 1 : 0);
    text->length -= length + (at ? 1 : 0);
    return trim(first);
}

static bool equal_case(struct text text, const char *string)
{
    return text.length == strlen(string) && strncasecmp(text.data, string, text.length) == 0;
}

static enum format format_by_type(struct text type)
{
    for (size_t i = 0; i < TYPES; i++)
        if (equal_case(type, types[i].content_type))
            return types[i].format;
    return FORMAT_NONE;
}

bool content_type_is(struct text content_type, const char *type)
{
    return equal_case(cut(&content_type, ';'), type);
}

/* The weight of a media range in thousandths: "q=0.5"; 1000 without. */
static int weight(struct text parameters)
{
    while (parameters.length) {
        struct text one = cut(&parameters, ';');
        if (one.length < 3 || (one.data[0] | 32) != 'q' || one.data[1] != '=')
            continue;
        int q = one.data[2] == '1' ? 1000 : 0;
        int digit = 100;
        for (size_t i = 4; i < one.length && digit && q < 1000; i++, digit /= 10)
            if (one.data[i] >= '0' && one.data[i] <= '9')
                q += (one.data[i] - '0') * digit;
        return q;
    }
    return 1000;
}

/* RFC 9110, 12.5.1. The heaviest range that names a format; wildcards stand for `otherwise`. */
static enum td_status format_by_accept(struct text accept, enum format otherwise, enum format *out)
{
    int best = 0;
    struct text left = accept;
    while (left.length) {
        struct text range = cut(&left, ',');
        struct text type = cut(&range, ';');
        bool any = equal_case(type, "*/*") || equal_case(type, "application/*");
        enum format format = equal_case(type, "text/*") ? FORMAT_TEXT
                             : any                      ? otherwise
                                                        : format_by_type(type);
        int q = weight(range);
        if (format != FORMAT_NONE && q > best) {
            best = q;
            *out = format;
        }
    }
    return best ? TD_OK
                : fail(TD_NOT_ACCEPTABLE,
                       "none of the types of Accept is known here: application/json, "
                       "application/x-npy, application/vnd.safetensors, application/octet-stream, "
                       "text/plain");
}

enum td_status format_asked(const struct exchange *x, enum format otherwise, enum format *out)
{
    if (x->params[PARAM_FORMAT].data)
        return format_by_name(x->params[PARAM_FORMAT], out);
    *out = otherwise;
    if (!x->headers.accept.length)
        return TD_OK;
    return format_by_accept(x->headers.accept, otherwise, out);
}

enum td_status format_sent(const struct exchange *x, enum format *out)
{
    struct text parameters = x->headers.content_type;
    struct text type = parameters.data ? cut(&parameters, ';') : (struct text){"", 0};
    bool described = FIELDS_HAS(&x->in, dtype) && FIELDS_HAS(&x->in, shape);
    enum format format = format_by_type(type);
    if (x->params[PARAM_FORMAT].data)
        TRY(format_by_name(x->params[PARAM_FORMAT], &format));
    /* What curl -T and --data-binary send without being told. */
    else if (!type.length || equal_case(type, "application/x-www-form-urlencoded"))
        format = described ? FORMAT_RAW : FORMAT_NONE;
    else if (format == FORMAT_RAW && !described)
        format = FORMAT_NONE;
    else if (format == FORMAT_NONE)
        return fail(TD_UNSUPPORTED,
                    "Content-Type '%.*s' is not known here; expected application/json, "
                    "application/x-npy, application/vnd.safetensors, or "
                    "application/octet-stream with dtype= and shape=",
                    (int)(type.length < 100 ? type.length : 100), type.data);
    if (format == FORMAT_TEXT)
        return fail(TD_UNSUPPORTED, "text is for reading by people; send json, npy, safetensors or "
                                    "raw");
    if (format == FORMAT_RAW && !described)
        return fail(TD_INVALID, "raw bytes need dtype= and shape=, such as "
                                "?dtype=float32&shape=2,3");
    *out = format;
    return TD_OK;
}
