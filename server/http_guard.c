/* Who may ask, and how: what RFC 9112 calls ambiguous is refused, since another reader in between
 * might take it for two requests; and a browser is no way around the token or the loopback address
 * (DNS rebinding, cross-site requests). */
#include "server/http_internal.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    size_t offset; /* of its struct text in struct headers */
    bool once;     /* twice is ambiguous */
} known[] = {
    {"Host", offsetof(struct headers, host), true},
    {"Origin", offsetof(struct headers, origin), true},
    {"Authorization", offsetof(struct headers, authorization), true},
    {"Content-Type", offsetof(struct headers, content_type), true},
    {"Content-Length", offsetof(struct headers, content_length), true},
    {"Content-Encoding", offsetof(struct headers, content_encoding), true},
    {"Content-Range", offsetof(struct headers, content_range), true},
    {"Transfer-Encoding", offsetof(struct headers, transfer_encoding), true},
    {"Accept", offsetof(struct headers, accept), false},
    {"If-Match", offsetof(struct headers, if_match), true},
    {"If-None-Match", offsetof(struct headers, if_none_match), true},
    {"If-Range", offsetof(struct headers, if_range), true},
    {"Range", offsetof(struct headers, range), true},
    {"Tensord-Session", offsetof(struct headers, session), true},
    {"Last-Event-ID", offsetof(struct headers, last_event_id), true},
    {"Access-Control-Request-Method", offsetof(struct headers, request_method), true},
};

struct gathering {
    struct headers *headers;
    const char *twice;
    bool odd_name;
};

/* Whether a name is a token (RFC 9110, 5.6.2): one that ends in a blank, say, is another header to
 * some readers. */
static bool is_token(const char *name, size_t length)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < length; i++) {
        char c = name[i], letter = (char)(c | 32);
        if (!(c >= '0' && c <= '9') && !(letter >= 'a' && letter <= 'z') &&
            (c == '\0' || !strchr(marks, c)))
            return false;
    }
    return length > 0;
}

static enum MHD_Result on_header(void *argument, enum MHD_ValueKind kind, const char *name,
                                 size_t name_length, const char *value, size_t value_length)
{
    struct gathering *gathering = argument;
    (void)kind;
    if (!is_token(name, name_length))
        gathering->odd_name = true;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcasecmp(name, known[i].name) != 0)
            continue;
        struct text *slot = (struct text *)(void *)((char *)gathering->headers + known[i].offset);
        if (slot->data && known[i].once)
            gathering->twice = known[i].name;
        *slot = (struct text){value ? value : "", value ? value_length : 0};
        break;
    }
    return MHD_YES;
}

/* ---- framing -----------------------------------------------------------------------------------
 */

static enum td_status check_framing(struct exchange *x)
{
    const struct headers *h = &x->headers;
    if (h->transfer_encoding.data && x->http_1_0)
        return fail(TD_INVALID, "HTTP/1.0 has no Transfer-Encoding");
    if (h->transfer_encoding.data && h->content_length.data)
        return fail(TD_INVALID, "Transfer-Encoding and Content-Length came together; send one");
    if (h->transfer_encoding.data) {
        if (strcasecmp(h->transfer_encoding.data, "chunked") != 0)
            return fail(TD_UNSUPPORTED, "the only Transfer-Encoding understood is chunked");
        x->declared_length = UINT64_MAX;
        return TD_OK;
    }
    struct text length = h->content_length;
    for (size_t i = 0; i < length.length; i++)
        if (length.data[i] < '0' || length.data[i] > '9' ||
            __builtin_mul_overflow(x->declared_length, 10, &x->declared_length) ||
            __builtin_add_overflow(x->declared_length, (uint64_t)(length.data[i] - '0'),
                                   &x->declared_length) ||
            x->declared_length == UINT64_MAX)
            return fail(TD_INVALID, "Content-Length is no number of bytes");
    if (length.data && !length.length)
        return fail(TD_INVALID, "Content-Length is empty");
    return TD_OK;
}

/* ---- Host and Origin ---------------------------------------------------------------------------
 */

/* Whether `text` is one of a list separated by commas; "*" in it stands for all. */
static bool is_listed(const char *list, struct text text)
{
    while (*list) {
        size_t length = strcspn(list, ",");
        if ((length == text.length && strncasecmp(list, text.data, length) == 0) ||
            (length == 1 && *list == '*'))
            return true;
        list += length;
        list += strspn(list, ", ");
    }
    return false;
}

/* Without ":PORT"; false if what stands there is no port. */
static bool cut_port(struct text *host)
{
    const char *end = memchr(host->data, ']', host->length);
    const char *from = end ? end : host->data;
    const char *colon = memchr(from, ':', host->length - (size_t)(from - host->data));
    if (!colon)
        return true;
    for (const char *c = colon + 1; c < host->data + host->length; c++)
        if (*c < '0' || *c > '9')
            return false;
    host->length = (size_t)(colon - host->data);
    return true;
}

static bool is_address(struct text host)
{
    char text[INET6_ADDRSTRLEN + 2];
    struct in6_addr address;
    if (host.length == 0 || host.length >= sizeof text)
        return false;
    memcpy(text, host.data, host.length);
    text[host.length] = '\0';
    if (text[0] == '[' && text[host.length - 1] == ']') {
        text[host.length - 1] = '\0';
        return inet_pton(AF_INET6, text + 1, &address) == 1;
    }
    return inet_pton(AF_INET, text, &address) == 1;
}

/* A page of a foreign name that was made to resolve to our address gives itself away by its Host.
 * An address there was not resolved from a name. */
static enum td_status check_host(const struct exchange *x)
{
    struct text host = x->headers.host;
    if (!host.data && x->http_1_0)
        return TD_OK;
    if (!host.data || !host.length)
        return fail(TD_INVALID, "HTTP/1.1 needs a Host header");
    bool good = cut_port(&host);
    if (good && (is_address(host) || is_listed("localhost", host) ||
                 is_listed(x->server->options.hosts, host)))
        return TD_OK;
    return fail(
        TD_FORBIDDEN, "Host '%.*s' is neither an address nor localhost; --http-hosts allows names",
        (int)(x->headers.host.length < 200 ? x->headers.host.length : 200), x->headers.host.data);
}

bool guard_origin_allowed(const struct exchange *x)
{
    static const char scheme[] = "http://";
    struct text origin = x->headers.origin, host = x->headers.host;
    size_t skip = sizeof scheme - 1;
    bool own = host.data && origin.length == skip + host.length &&
               memcmp(origin.data, scheme, skip) == 0 &&
               strncasecmp(origin.data + skip, host.data, host.length) == 0;
    return own || is_listed(x->server->options.origins, origin);
}

static enum td_status check_origin(struct exchange *x)
{
    struct text origin = x->headers.origin;
    if (!origin.data)
        return TD_OK;
    x->origin_allowed = guard_origin_allowed(x);
    if (x->origin_allowed)
        return TD_OK;
    return fail(TD_FORBIDDEN, "web pages of '%.*s' may not call; --http-origins allows some",
                (int)(origin.length < 200 ? origin.length : 200), origin.data);
}

enum td_status guard_headers(struct exchange *x, const char *version)
{
    struct gathering gathering = {.headers = &x->headers};
    x->http_1_0 = strcmp(version, MHD_HTTP_VERSION_1_0) == 0;
    MHD_get_connection_values_n(x->connection, MHD_HEADER_KIND, on_header, &gathering);
    if (gathering.twice)
        return fail(TD_INVALID, "the header %s came twice", gathering.twice);
    if (gathering.odd_name)
        return fail(TD_INVALID, "a header's name has a character that names have not");
    struct text encoding = x->headers.content_encoding;
    if (encoding.data && strcasecmp(encoding.data, "identity") != 0)
        return fail(TD_UNSUPPORTED, "bodies come as they are, without Content-Encoding");
    if (x->headers.content_range.data) /* RFC 9110, 14.5 */
        return fail(TD_INVALID, "a part of a body cannot be stored; send the whole, without "
                                "Content-Range");
    TRY(check_framing(x));
    TRY(check_host(x));
    return check_origin(x);
}

enum td_status guard_token(const struct exchange *x)
{
    static const char scheme[] = "Bearer ";
    const struct token *token = x->server->options.token;
    struct text given = x->headers.authorization;
    if (token->length == 0)
        return TD_OK;
    if (!given.data)
        return fail(TD_UNAUTHORIZED, "this daemon needs its token: Authorization: Bearer TOKEN "
                                     "(the first line of its --token-file)");
    if (given.length < sizeof scheme || strncasecmp(given.data, scheme, sizeof scheme - 1) != 0)
        return fail(TD_UNAUTHORIZED, "Authorization must be: Bearer TOKEN");
    given.data += sizeof scheme - 1;
    given.length -= sizeof scheme - 1;
    return token_matches(token, given) ? TD_OK : fail(TD_UNAUTHORIZED, "the token is wrong");
}
