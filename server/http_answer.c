#include "core/utf8.h"
#include "proto/format/json.h"
#include "server/http_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void answer_header(struct MHD_Response *response, const char *name, const char *value)
{
    /* Refused only without memory, or for values that cannot stand in a header. */
    (void)MHD_add_response_header(response, name, value);
}

/* libmicrohttpd 0.9.75 sends the end of a chunked body even where there is none: the connection
 * would go on with it in front of the next answer. So it ends instead. */
void answer_head_of_unknown_size(struct MHD_Response *response)
{
    MHD_set_response_options(response, MHD_RF_HTTP_1_0_COMPATIBLE_STRICT, MHD_RO_END);
}

/* ---- headers that all answers have -------------------------------------------------------------
 */

/* For a browser page of an allowed origin; that of another gets no answer at all. */
static void add_cors(const struct exchange *x, struct MHD_Response *response)
{
    char origin[300];
    struct text given = x->headers.origin;
    if (!x->origin_allowed || given.length >= sizeof origin)
        return;
    memcpy(origin, given.data, given.length);
    origin[given.length] = '\0';
    answer_header(response, "Access-Control-Allow-Origin", origin);
    answer_header(response, "Vary", "Origin");
    answer_header(response, "Access-Control-Expose-Headers",
                  "Accept-Ranges, Content-Range, ETag, Location, Tensord-Session, Tensord-Dtype, "
                  "Tensord-Shape");
    if (!x->headers.request_method.data)
        return;
    answer_header(response, "Access-Control-Allow-Methods", x->allow);
    answer_header(response, "Access-Control-Allow-Headers",
                  "Authorization, Content-Type, If-Match, If-None-Match, If-Range, Last-Event-ID, "
                  "Range, Tensord-Session");
    answer_header(response, "Access-Control-Max-Age", "600");
}

static void add_session(const struct exchange *x, struct MHD_Response *response)
{
    char cookie[SESSION_KEY_LENGTH + 80];
    answer_header(response, "Tensord-Session", session_key(x->session));
    snprintf(cookie, sizeof cookie, "tensord-session=%s; Path=/v1; HttpOnly; SameSite=Strict",
             session_key(x->session));
    answer_header(response, "Set-Cookie", cookie);
}

enum td_status answer_response(struct exchange *x, unsigned http_status,
                               struct MHD_Response *response)
{
    if (!response)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    answer_header(response, "X-Content-Type-Options", "nosniff");
    if (x->headers.origin.data)
        add_cors(x, response);
    if (x->session_is_new && x->session)
        add_session(x, response);
    if (atomic_load_explicit(&x->server->draining, memory_order_relaxed))
        answer_header(response, "Connection", "close");
    peer_set(x->peer, PEER_READS);
    enum MHD_Result queued = MHD_queue_response(x->connection, http_status, response);
    MHD_destroy_response(response);
    if (queued != MHD_YES)
        return fail(TD_INTERNAL, "libmicrohttpd did not take the answer");
    x->answered = true;
    return TD_OK;
}

/* ---- small bodies ------------------------------------------------------------------------------
 */

enum td_status answer_text(struct exchange *x, unsigned http_status, const char *content_type,
                           struct text body)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        body.length, (void *)(uintptr_t)body.data, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    answer_header(response, "Content-Type", content_type);
    answer_header(response, "Cache-Control", "no-store");
    atomic_fetch_add_explicit(&x->server->options.engine->bytes_sent, body.length,
                              memory_order_relaxed);
    return answer_response(x, http_status, response);
}

struct MHD_Response *answer_json_response(struct exchange *x, char *text)
{
    size_t length = text ? strlen(text) : 0;
    if (!text)
        return NULL;
    text[length] = '\n'; /* in the place of the NUL, for who reads it in a terminal */
    struct MHD_Response *response =
        MHD_create_response_from_buffer(length + 1, text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text);
        return NULL;
    }
    atomic_fetch_add_explicit(&x->server->options.engine->bytes_sent, length + 1,
                              memory_order_relaxed);
    return response;
}

/* Takes over the text. */
static enum td_status answer_json_text(struct exchange *x, unsigned http_status, char *text)
{
    struct MHD_Response *response = answer_json_response(x, text);
    if (!response)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    answer_header(response, "Content-Type", "application/json");
    answer_header(response, "Cache-Control", "no-store");
    return answer_response(x, http_status, response);
}

enum td_status answer_json(struct exchange *x, unsigned http_status, const cJSON *value)
{
    return answer_json_text(x, http_status, cJSON_PrintUnformatted(value));
}

enum td_status answer_printed(struct exchange *x, unsigned http_status)
{
    return answer_json_text(x, http_status, take(&x->text));
}

enum td_status answer_empty(struct exchange *x, unsigned http_status)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (response && x->allow[0] && http_status == MHD_HTTP_NO_CONTENT && !x->route)
        answer_header(response, "Allow", x->allow);
    return answer_response(x, http_status, response);
}

/* ---- problems (RFC 9457) -----------------------------------------------------------------------
 */

/* Names in a detail may hold bytes that are no UTF-8, or be cut in the middle of a letter. */
static void clean_utf8(char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0, step; i < length; i += step) {
        step = utf8_length((const unsigned char *)text + i, length - i);
        if (step == 0) {
            text[i] = '?';
            step = 1;
        }
    }
}

cJSON *answer_problem_value(enum td_status status)
{
    char type[64], detail[FAIL_DETAIL_SIZE];
    snprintf(detail, sizeof detail, "%s", fail_detail());
    clean_utf8(detail);
    snprintf(type, sizeof type, "urn:tensord:error:%s", td_status_name((int)status));
    cJSON *value = cJSON_CreateObject();
    bool whole = value && cJSON_AddStringToObject(value, "type", type) &&
                 cJSON_AddStringToObject(value, "title", td_status_meaning((int)status)) &&
                 cJSON_AddNumberToObject(value, "status", td_status_http((int)status)) &&
                 cJSON_AddStringToObject(value, "detail", detail) &&
                 cJSON_AddStringToObject(value, "code", td_status_name((int)status));
    if (whole)
        return value;
    cJSON_Delete(value);
    return NULL;
}

enum td_status answer_problem(struct exchange *x, enum td_status status)
{
    if (status == TD_EXISTS && x->headers.if_none_match.data)
        status = TD_PRECONDITION; /* it was taken while the body came */
    cJSON *value = answer_problem_value(status);
    char *text = value ? cJSON_PrintUnformatted(value) : NULL;
    cJSON_Delete(value);
    struct MHD_Response *response = answer_json_response(x, text);
    if (!response)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    answer_header(response, "Content-Type", "application/problem+json");
    answer_header(response, "Cache-Control", "no-store");
    if (status == TD_UNAUTHORIZED)
        answer_header(response, "WWW-Authenticate", "Bearer realm=\"tensord\"");
    if (status == TD_BAD_METHOD)
        answer_header(response, "Allow", x->allow);
    if (status == TD_BAD_RANGE) {
        char range[40];
        snprintf(range, sizeof range, "bytes */%" PRIu64, x->range_of);
        answer_header(response, "Content-Range", range);
    }
    if (status == TD_UNAVAILABLE)
        answer_header(response, "Retry-After", "1");
    return answer_response(x, (unsigned)td_status_http((int)status), response);
}

/* ---- replies of operations ---------------------------------------------------------------------
 */

cJSON *answer_fields_value(const struct fields *fields)
{
    char id[24];
    struct fields named;
    if (FIELDS_HAS(fields, id) && !FIELDS_HAS(fields, name)) {
        named = *fields; /* anonymous: what it can be named by */
        snprintf(id, sizeof id, "@%" PRIu64, fields->id);
        FIELDS_SET(&named, name, text_of(id));
        fields = &named;
    }
    cJSON *value = cJSON_CreateObject();
    if (!value || json_add_fields(value, fields) != TD_OK) {
        cJSON_Delete(value);
        return NULL;
    }
    cJSON *name = cJSON_DetachItemFromObjectCaseSensitive(value, "name");
    if (name) /* first: who reads it looks for that */
        cJSON_InsertItemInArray(value, 0, name);
    return value;
}

/* {"entries": [...], and the reply's fields: cursor, count} */
static cJSON *list_value(struct exchange *x)
{
    cJSON *value = answer_fields_value(&x->call.out);
    if (value && cJSON_AddItemToObject(value, "entries", x->list)) {
        x->list = NULL;
        return value;
    }
    cJSON_Delete(value);
    return NULL;
}

enum td_status answer_print_list(struct exchange *x)
{
    cJSON *value = list_value(x);
    x->text = value ? cJSON_PrintUnformatted(value) : NULL;
    cJSON_Delete(value);
    return x->text ? TD_OK : fail(TD_OUT_OF_MEMORY, "no memory for the answer");
}

enum td_status answer_call(struct exchange *x)
{
    struct op_call *call = &x->call;
    enum format format;
    if (call->op == OP_save && call->body_made)
        return bundle_answer(x);
    if (call->body_out) {
        TRY(format_asked(x, FORMAT_JSON, &format));
        if (format == FORMAT_TEXT)
            return fail(TD_NOT_ACCEPTABLE, "elements come as json, npy, safetensors or raw; the "
                                           "operation print gives text");
        return answer_elements(x, &(struct elements){.tensor = call->body_out,
                                                     .dtype = call->body_dtype,
                                                     .saturate = call->body_saturate,
                                                     .format = format,
                                                     .values = true,
                                                     .description = &call->out});
    }
    if (x->text)
        return answer_printed(x, MHD_HTTP_OK);
    cJSON *value = x->list ? list_value(x) : answer_fields_value(&call->out);
    if (!value)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    enum td_status status = answer_json(x, MHD_HTTP_OK, value);
    cJSON_Delete(value);
    return status;
}
