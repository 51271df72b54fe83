/* Addresses: which handler a method and path have, and what their query may hold. */
#include "proto/format/json.h"
#include "server/http_internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define READING "format index dtype casting saturate force values"

/* In the order in which they are compared; {name} takes the rest of the path. */
const struct route http_routes[] = {
    {"GET", "/v1/tensors/{name}", READING " wait", NULL, NULL, tensors_get, false,
     "The tensor: its description as JSON (with values=true its elements too), or its elements as "
     "npy, safetensors, raw or text, by format= or Accept; of a slice (index=), cast (dtype=)."},
    {"PUT", "/v1/tensors/{name}",
     "format dtype shape device requires_grad mutable strides ttl timeout_ms", tensors_put_begin,
     upload_body, tensors_put_end, false,
     "Stores the body under the name: npy, safetensors of one tensor, JSON, or raw bytes with "
     "dtype= and shape=. If-None-Match: * creates only, If-Match replaces only what was read."},
    {"DELETE", "/v1/tensors/{name}", "", NULL, NULL, tensors_delete, false,
     "Removes the name, or gives back an object (@id). Whoever holds the memory keeps it."},
    {"GET", "/v1/tensors", "prefix limit cursor", NULL, NULL, tensors_list, false,
     "The tensors in the byte order of their names, paged by cursor."},
    {"GET", "/v1/bundle", "prefix tensors format dtype casting saturate force metadata", NULL, NULL,
     bundle_get, false,
     "A file of all tensors below the prefix (or of those that `tensors` lists), as they are at "
     "one "
     "moment: safetensors unless format= says npz or npy; cast when dtype= is given."},
    {"PUT", "/v1/bundle", "prefix format dtype mutable requires_grad create_only ttl timeout_ms",
     bundle_put_begin, upload_body, bundle_put_end, false,
     "Stores all tensors of a file (safetensors, npz or npy) below the prefix, all of them or "
     "none, "
     "and lists them. They are views over one storage."},
    {"GET", "/v1/ops", "", NULL, NULL, ops_list, false, "The operations table."},
    {"POST", "/v1/ops/{name}", "*", ops_post_begin, ops_post_body, ops_post_end, false,
     "Runs one operation."},
    {"POST", "/v1/batch", "", document_begin, document_body, batch_end, false,
     "Runs a list of operations in order; each result or error in its place."},
    {"GET", "/v1/queues/{name}", "", NULL, NULL, queues_get, false,
     "The queue: its settings, what it holds, and its counters."},
    {"PUT", "/v1/queues/{name}", "max_items max_bytes when_full visibility_ms create_only", NULL,
     NULL, queues_put, false,
     "Makes a queue, or takes the one that is there; what is given must be so, then."},
    {"DELETE", "/v1/queues/{name}", "", NULL, NULL, queues_delete, false,
     "Removes the queue and what waits in it; whoever has an item in hand keeps its memory."},
    {"GET", "/v1/queues", "prefix limit cursor", NULL, NULL, queues_list, false,
     "The queues in the byte order of their names, paged by cursor."},
    {"GET", "/v1/devices", "", NULL, NULL, devices_list, false, "The devices."},
    {"GET", "/v1/leases", "lease limit", NULL, NULL, leases_list, false,
     "Who has what mapped: the leases after `lease`, a page of them."},
    {"GET", "/v1/principals", "", NULL, NULL, principals_list, false,
     "What each user holds, and may hold."},
    {"GET", "/v1/stats", "", NULL, NULL, stats_get, false, "The daemon's counters."},
    {"POST", "/v1/session", "", NULL, NULL, session_post, false,
     "Opens a session, which holds results without a name."},
    {"DELETE", "/v1/session", "", NULL, NULL, session_delete, false,
     "Ends the session that the request names, and all it holds."},
    {"GET", "/v1/watch", "prefix since", NULL, NULL, watch_get, false,
     "Server-Sent Events: what is published and removed."},
    {"GET", "/livez", "", NULL, NULL, livez_get, true, "Whether the daemon answers."},
    {"GET", "/readyz", "", NULL, NULL, readyz_get, true,
     "Whether the daemon takes work: not while it stops."},
    {"GET", "/openapi.json", "", NULL, NULL, openapi_get, false, "This contract."},
    {"GET", "/", "", NULL, NULL, root_get, true, "Where things are."},
};

const size_t http_route_count = sizeof http_routes / sizeof http_routes[0];

static const char *const param_names[PARAM_COUNT] = {
    [PARAM_FORMAT] = "format", [PARAM_VALUES] = "values", [PARAM_WAIT] = "wait",
    [PARAM_SINCE] = "since",   [PARAM_TTL] = "ttl",
};

/* ---- decoding ----------------------------------------------------------------------------------
 */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes percent signs (RFC 3986), in a query plus signs too, in place; false for a bad one. */
static bool decode(struct text *text, bool plus)
{
    char *out = (char *)(uintptr_t)text->data; /* x->uri, which is ours */
    const char *in = text->data, *end = in + text->length;
    for (; in < end; in++, out++) {
        if (*in == '%') {
            int high = end - in > 2 ? hex_digit(in[1]) : -1,
                low = end - in > 2 ? hex_digit(in[2]) : -1;
            if (high < 0 || low < 0)
                return false;
            *out = (char)(high << 4 | low);
            in += 2;
        } else {
            *out = plus && *in == '+' ? ' ' : *in;
        }
    }
    text->length = (size_t)(out - text->data);
    return true;
}

/* ---- the query ---------------------------------------------------------------------------------
 */

/* Whether a word is one of a list separated by blanks. */
static bool is_word_of(const char *list, struct text word)
{
    while (*list) {
        size_t length = strcspn(list, " ");
        if (length == word.length && memcmp(list, word.data, length) == 0)
            return true;
        list += length;
        list += strspn(list, " ");
    }
    return false;
}

static enum td_status take_param(struct exchange *x, struct text key, struct text value)
{
    const struct route *route = x->route;
    int field = field_find(key.data, key.length);
    bool any = strcmp(route->params, "*") == 0;
    if (!is_word_of(route->params, key) && !(any && (field || text_equal(key, "format"))))
        return fail(TD_INVALID, "%s %s takes no parameter '%.*s'%s%s", route->method, route->path,
                    (int)(key.length < 100 ? key.length : 100), key.data,
                    *route->params && !any ? "; it takes " : "", any ? "" : route->params);
    for (int i = 1; i < PARAM_COUNT; i++)
        if (text_equal(key, param_names[i])) {
            if (x->params[i].data)
                return fail(TD_INVALID, "the parameter %s came twice", param_names[i]);
            x->params[i] = value;
            return TD_OK;
        }
    if (x->in.present & field_bit(field))
        return fail(TD_INVALID, "the parameter %s came twice", field_infos[field].name);
    return field_from_text(field, value, &x->in);
}

static enum td_status read_query(struct exchange *x, char *query)
{
    for (char *part = query, *next; part; part = next) {
        next = strchr(part, '&');
        if (next)
            *next++ = '\0';
        if (!*part)
            continue;
        char *equals = strchr(part, '=');
        struct text key = {part, equals ? (size_t)(equals - part) : strlen(part)};
        struct text value = equals ? text_of(equals + 1) : (struct text){"", 0};
        if (!decode(&key, true) || (value.length && !decode(&value, true)))
            return fail(TD_INVALID, "the query has a '%%' that is not followed by two hex digits");
        TRY(take_param(x, key, value));
    }
    return TD_OK;
}

/* ---- the path ----------------------------------------------------------------------------------
 */

/* Whether the path is the route's; *rest is what stands in the place of {name}. */
static bool matches(const struct route *route, const char *path, struct text *rest)
{
    const char *name = strchr(route->path, '{');
    if (!name)
        return strcmp(route->path, path) == 0;
    size_t fixed = (size_t)(name - route->path);
    if (strncmp(route->path, path, fixed) != 0 || !path[fixed])
        return false;
    *rest = text_of(path + fixed);
    return true;
}

static void add_method(struct exchange *x, const char *method)
{
    size_t used = strlen(x->allow);
    snprintf(x->allow + used, sizeof x->allow - used, "%s%s", used ? ", " : "", method);
    if (strcmp(method, "GET") == 0)
        add_method(x, "HEAD");
}

/* The path of "http://host/path", as a proxy would send it; else the target itself. */
static char *path_of(char *uri)
{
    if (strncasecmp(uri, "http://", 7) != 0)
        return uri;
    char *slash = strchr(uri + 7, '/');
    return slash ? slash : uri + strlen(uri);
}

/* The first route of the path, with that method unless it is NULL. */
static const struct route *find(const char *path, const char *method, struct text *rest)
{
    for (size_t i = 0; i < http_route_count; i++)
        if ((!method || strcmp(http_routes[i].method, method) == 0) &&
            matches(&http_routes[i], path, rest))
            return &http_routes[i];
    return NULL;
}

/* Lists the methods of a path, in x->allow. */
static void list_methods(struct exchange *x, const char *path)
{
    struct text rest;
    for (size_t i = 0; i < http_route_count; i++)
        if (matches(&http_routes[i], path, &rest))
            add_method(x, http_routes[i].method);
    if (x->allow[0])
        add_method(x, "OPTIONS");
}

enum td_status route_find(struct exchange *x, const char *method)
{
    char *path = path_of(x->uri), *query = strchr(path, '?');
    if (query)
        *query++ = '\0';
    x->rest = (struct text){"", 0};
    x->route = find(path, x->head ? "GET" : method, &x->rest);
    if (!x->route)
        list_methods(x, path);
    if (!x->route && !x->allow[0])
        return fail(TD_NOT_FOUND, "there is nothing at %.200s; GET /openapi.json tells what is",
                    path);
    if (!x->route)
        return fail(TD_BAD_METHOD, "%.20s is not for %.200s; it takes %s", method, path, x->allow);
    if (x->rest.length && !decode(&x->rest, false))
        return fail(TD_INVALID, "the path has a '%%' that is not followed by two hex digits");
    return query ? read_query(x, query) : TD_OK;
}
