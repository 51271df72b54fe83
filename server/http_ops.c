#include "proto/format/json.h"
#include "server/http_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- documents ---------------------------------------------------------------------------------
 */

/* A node of a tree for every two bytes of text, at worst. */
#define TREE_FACTOR 60
#define FIELDS_DOCUMENT_MAX ((size_t)64 << 10)

/* One operation's fields are read at once; a batch is read in a job. */
static enum td_status check_length(const struct exchange *x, uint64_t length)
{
    size_t limit = x->op ? FIELDS_DOCUMENT_MAX : HTTP_DOCUMENT_MAX;
    return length <= limit ? TD_OK
                           : fail(TD_TOO_LARGE, "a document here has at most %zu bytes", limit);
}

enum td_status document_begin(struct exchange *x)
{
    struct text type = x->headers.content_type;
    if (type.length && !content_type_is(type, "application/json") &&
        !content_type_is(type, "application/x-www-form-urlencoded")) /* what curl -d sends */
        return fail(TD_UNSUPPORTED, "this takes application/json, not %.*s%s",
                    (int)(type.length < 100 ? type.length : 100), type.data,
                    x->op == OP_load ? "; a file of tensors goes to PUT /v1/bundle" : "");
    return x->declared_length == UINT64_MAX ? TD_OK : check_length(x, x->declared_length);
}

enum td_status document_body(struct exchange *x, const char *data, size_t *length)
{
    size_t needed = x->document_length + *length;
    TRY(check_length(x, needed));
    if (needed > x->document_room) {
        size_t room = needed < 4096 ? 4096 : 2 * needed;
        TRY(exchange_charge(x, room - x->document_room, LEDGER_REQUESTS_BYTES));
        char *larger = realloc(x->document, room);
        if (!larger)
            return fail(TD_OUT_OF_MEMORY, "no memory for a document");
        x->document = larger;
        x->document_room = room;
    }
    memcpy(x->document + x->document_length, data, *length);
    x->document_length = needed;
    *length = 0;
    return TD_OK;
}

enum td_status document_parse(struct exchange *x)
{
    static const char nothing[] = "{}";
    TRY(exchange_charge(x, TREE_FACTOR * (uint64_t)x->document_length, LEDGER_REQUESTS_BYTES));
    if (!x->document_length)
        return json_parse(nothing, sizeof nothing - 1, &x->tree);
    return json_parse(x->document, x->document_length, &x->tree);
}

/* ---- the table ---------------------------------------------------------------------------------
 */

/* The names of a set of fields. */
static cJSON *field_names(field_set set)
{
    cJSON *names = cJSON_CreateArray();
    for (int i = 1; names && i < FIELD_END; i++)
        if (set & field_bit(i))
            cJSON_AddItemToArray(names, cJSON_CreateStringReference(field_infos[i].name));
    return names;
}

static cJSON *op_value(const struct op_info *info)
{
    cJSON *value = cJSON_CreateObject();
    if (!value)
        return NULL;
    cJSON_AddStringToObject(value, "name", info->name);
    cJSON_AddStringToObject(value, "text", info->doc);
    cJSON_AddItemToObject(value, "required", field_names(info->required));
    cJSON_AddItemToObject(value, "optional", field_names(info->optional & ~info->required));
    return value;
}

enum td_status ops_list(struct exchange *x)
{
    cJSON *value = cJSON_CreateObject(), *entries = cJSON_AddArrayToObject(value, "entries");
    for (int op = 1; entries && op < OP_END; op++)
        if (op_infos[op].name)
            cJSON_AddItemToArray(entries, op_value(&op_infos[op]));
    if (!entries) {
        cJSON_Delete(value);
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    }
    enum td_status status = answer_json(x, MHD_HTTP_OK, value);
    cJSON_Delete(value);
    return status;
}

/* ---- running one -------------------------------------------------------------------------------
 */

/* ping and hello belong to a connection of frames; here they are what they can be. */
static enum td_status answer_ping(struct exchange *x)
{
    return answer_text(x, MHD_HTTP_OK, "application/octet-stream",
                       (struct text){x->document ? x->document : "", x->document_length});
}

static enum td_status answer_hello(struct exchange *x)
{
    struct fields *out = &x->call.out;
    TRY(op_check_fields(OP_hello, &x->in));
    if (x->in.protocol != 1)
        return fail(TD_UNSUPPORTED, "protocol %llu is not spoken here; this daemon speaks 1",
                    (unsigned long long)x->in.protocol);
    if (FIELDS_HAS(&x->in, session_key))
        x->headers.session = x->in.session_key;
    TRY(exchange_open_session(x));
    op_init(&x->call, x->server->options.engine, x->session, OP_hello, &x->in);
    x->call_begun = true;
    FIELDS_SET(out, protocol, 1);
    FIELDS_SET(out, session, session_id(x->session));
    FIELDS_SET(out, session_key, text_of(session_key(x->session)));
    FIELDS_SET(out, boot, text_of(x->server->options.engine->boot));
    FIELDS_SET(out, text, text_of("tensord " TENSORD_VERSION));
    return answer_call(x);
}

/* load takes a document here, which has a path; files come to /v1/bundle. */
static bool takes_elements(enum op op)
{
    return (op_infos[op].traits & OP_BODY_IN) && !(op_infos[op].traits & OP_CONNECTION) &&
           op != OP_load;
}

enum td_status ops_post_begin(struct exchange *x)
{
    int op = op_find(x->rest.data, x->rest.length);
    if (!op)
        return fail(TD_NOT_FOUND, "there is no operation '%.*s'; GET /v1/ops lists them",
                    (int)(x->rest.length < 100 ? x->rest.length : 100), x->rest.data);
    x->op = (enum op)op;
    if (op_infos[op].optional & FIELD_BIT(format))
        bundle_take_format(x);
    if (takes_elements(x->op))
        return upload_begin(x, x->op);
    return x->op == OP_ping ? TD_OK : document_begin(x);
}

enum td_status ops_post_body(struct exchange *x, const char *data, size_t *length)
{
    if (takes_elements(x->op))
        return upload_body(x, data, length);
    return document_body(x, data, length);
}

/* The document's members, besides what the query said. */
static enum td_status take_document(struct exchange *x)
{
    struct fields members;
    TRY(document_parse(x));
    TRY(json_to_fields(x->tree, &members));
    field_set twice = members.present & x->in.present;
    if (twice)
        return fail(TD_INVALID, "'%s' stands in the query and in the document",
                    field_infos[field_first(twice)].name);
    fields_merge(&x->in, &members);
    return TD_OK;
}

static enum td_status answer_made(struct exchange *x)
{
    x->undo = true; /* until the answer is on its way */
    return answer_call(x);
}

enum td_status ops_post_end(struct exchange *x)
{
    if (takes_elements(x->op))
        return upload_end(x, answer_made);
    if (x->op == OP_ping)
        return answer_ping(x);
    TRY(take_document(x));
    if (x->op == OP_hello)
        return answer_hello(x);
    if (x->op == OP_load && !FIELDS_HAS(&x->in, path))
        return fail(TD_INVALID, "load needs a file: here the path of one that the daemon may read; "
                                "its bytes go to PUT /v1/bundle");
    TRY(exchange_call(x, x->op));
    TRY(op_begin(&x->call));
    return exchange_run(x, answer_made);
}
