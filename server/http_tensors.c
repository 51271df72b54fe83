#include "core/print.h"
#include "proto/format/json.h"
#include "server/http_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- reading -----------------------------------------------------------------------------------
 */

/* The part of the input that index= names, as a tensor of its own. */
static enum td_status view_of_input(struct op_call *call, const struct layout *layout,
                                    struct tensor **out)
{
    TRY(tensor_view(call->input, layout, out));
    (*out)->is_variable = call->input->is_variable;
    atomic_store(&(*out)->requires_grad, tensor_requires_grad(call->input));
    return TD_OK;
}

/* PyTorch's rule for what goes to NumPy: format=npy is numpy(), the other formats are not. */
static enum td_status check_numpy(const struct exchange *x)
{
    bool force = FIELDS_HAS(&x->in, force) && x->in.force;
    if (force || !tensor_requires_grad(x->call.input))
        return TD_OK;
    return fail(TD_REQUIRES_GRAD,
                "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() "
                "instead.");
}

static enum td_status answer_print(struct exchange *x)
{
    static const char newline[] = "\n";
    struct text text = x->call.out.text;
    struct MHD_Response *response;
    size_t length = text.length + sizeof newline - 1;
    char *copy = malloc(length);
    if (!copy)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    memcpy(copy, text.data, text.length);
    memcpy(copy + text.length, newline, sizeof newline - 1);
    response = MHD_create_response_from_buffer(length, copy, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(copy);
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    }
    answer_header(response, "Content-Type", format_content_type(FORMAT_TEXT));
    answer_header(response, "Cache-Control", "no-store");
    return answer_response(x, MHD_HTTP_OK, response);
}

/* As PyTorch prints it: the operation print, of the view. */
static enum td_status get_text(struct exchange *x, struct tensor *view)
{
    struct op_call *call = &x->call;
    tensor_unref(call->input);
    call->input = tensor_ref(view);
    call->op = OP_print;
    return exchange_run(x, answer_print);
}

static void describe(struct exchange *x, const struct tensor *view, enum td_dtype dtype,
                     struct fields *out)
{
    out->present = 0;
    tensor_describe(view, out);
    if (view != x->call.input) /* the view is nobody's object */
        out->present &= ~FIELD_BIT(id);
    if (x->call.input_generation)
        op_describe_name(out, x->in.input, x->call.input_generation, x->call.input_ttl_ms);
    op_describe_read(&x->call, out);
    if (dtype != view->layout.dtype) {
        FIELDS_SET(out, dtype, dtype);
        FIELDS_SET(out, nbytes, (uint64_t)view->layout.elements * dtype_infos[dtype].size_bytes);
    }
}

static enum td_status wants_values(const struct exchange *x, bool *out)
{
    struct text value = x->params[PARAM_VALUES];
    *out = value.data && (!value.length || text_equal(value, "true") || text_equal(value, "1"));
    if (!value.data || *out || text_equal(value, "false") || text_equal(value, "0"))
        return TD_OK;
    return fail(TD_INVALID, "values is true or false, not '%.*s'",
                (int)(value.length < 40 ? value.length : 40), value.data);
}

static enum td_status get_found(struct exchange *x)
{
    _cleanup_(tensor_unrefp) struct tensor *view = NULL;
    struct op_call *call = &x->call;
    const struct fields *in = &x->in;
    enum format format;
    struct fields description;
    bool values;
    TRY(format_asked(x, FORMAT_JSON, &format));
    TRY(wants_values(x, &values));
    if (FIELDS_HAS(in, index))
        TRY(view_of_input(call, &call->layout, &view));
    else
        view = tensor_ref(call->input);
    if (format == FORMAT_TEXT)
        return get_text(x, view);
    if (format == FORMAT_NPY)
        TRY(check_numpy(x));
    enum td_dtype dtype = FIELDS_HAS(in, dtype) ? in->dtype : view->layout.dtype;
    TRY(op_check_cast(call, view->layout.dtype, dtype));
    describe(x, view, dtype, &description);
    return answer_elements(x, &(struct elements){
                                  .tensor = view,
                                  .dtype = dtype,
                                  .saturate = FIELDS_HAS(in, saturate) && in->saturate,
                                  .format = format,
                                  .values = values,
                                  .description = &description,
                              });
}

enum td_status tensors_get(struct exchange *x)
{
    bool waits = false;
    x->next = tensors_get;
    if (x->params[PARAM_WAIT].data)
        TRY(wait_for_name(x, &waits));
    if (waits)
        return TD_OK;
    FIELDS_SET(&x->in, input, x->rest);
    TRY(exchange_call(x, OP_get));
    TRY(op_begin(&x->call));
    return get_found(x);
}

/* ---- listing -----------------------------------------------------------------------------------
 */

enum td_status tensors_list(struct exchange *x)
{
    return exchange_run_op(x, OP_list, answer_call);
}

enum td_status devices_list(struct exchange *x)
{
    return exchange_run_op(x, OP_devices, answer_call);
}

enum td_status leases_list(struct exchange *x)
{
    return exchange_run_op(x, OP_leases, answer_call);
}

enum td_status principals_list(struct exchange *x)
{
    return exchange_run_op(x, OP_principals, answer_call);
}

/* Counters as one object: a name and a number each. */
static enum td_status answer_counters(struct exchange *x)
{
    const cJSON *entry;
    cJSON *value = cJSON_CreateObject();
    cJSON_ArrayForEach(entry, x->list)
    {
        cJSON *name = cJSON_GetObjectItemCaseSensitive(entry, "name");
        cJSON *count = cJSON_DetachItemFromObjectCaseSensitive((cJSON *)(uintptr_t)entry, "count");
        if (!name || !count || !cJSON_AddItemToObject(value, name->valuestring, count))
            cJSON_Delete(count);
    }
    if (!value)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    enum td_status status = answer_json(x, MHD_HTTP_OK, value);
    cJSON_Delete(value);
    return status;
}

enum td_status stats_get(struct exchange *x)
{
    return exchange_run_op(x, OP_stats, answer_counters);
}

/* ---- changing ----------------------------------------------------------------------------------
 */

enum td_status exchange_take_ttl(struct exchange *x)
{
    uint64_t ttl_ms;
    if (!x->params[PARAM_TTL].data)
        return TD_OK;
    TRY(duration_from_text(x->params[PARAM_TTL], &ttl_ms));
    TRY(ttl_check(ttl_ms));
    FIELDS_SET(&x->in, ttl_ms, ttl_ms);
    return TD_OK;
}

enum td_status tensors_put_begin(struct exchange *x)
{
    TRY(name_check(x->rest));
    TRY(exchange_take_ttl(x));
    FIELDS_SET(&x->in, output, x->rest);
    TRY(etag_conditions(x, x->rest, &x->existed));
    return upload_begin(x, OP_put);
}

/* A path segment of a name is what RFC 3986 calls unreserved, or encoded. */
static void encode_path(struct text name, char *out)
{
    static const char plain[] = "-._~!$&'()*+,;=:@/";
    for (size_t i = 0; i < name.length; i++) {
        unsigned char c = (unsigned char)name.data[i];
        bool safe = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
                    (c && strchr(plain, c));
        out += snprintf(out, 4, safe ? "%c" : "%%%02X", c);
    }
    *out = '\0';
}

static enum td_status answer_put(struct exchange *x)
{
    char location[16 + 3 * NAME_MAX_BYTES] = "/v1/tensors/", etag[ETAG_SIZE];
    cJSON *value = answer_fields_value(&x->call.out);
    char *text = value ? cJSON_PrintUnformatted(value) : NULL;
    cJSON_Delete(value);
    struct MHD_Response *response = answer_json_response(x, text);
    if (!response)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    encode_path(x->rest, location + strlen(location));
    /* Of the generation alone: no representation was sent. */
    snprintf(etag, sizeof etag, "\"%" PRIu64 "\"", x->call.out.generation);
    answer_header(response, "Content-Type", "application/json");
    answer_header(response, "Cache-Control", "no-store");
    answer_header(response, "ETag", etag);
    answer_header(response, "Location", location);
    return answer_response(x, x->existed ? MHD_HTTP_OK : MHD_HTTP_CREATED, response);
}

enum td_status tensors_put_end(struct exchange *x)
{
    TRY(etag_conditions(x, x->rest, &x->existed)); /* others went on while the body came */
    return upload_end(x, answer_put);
}

static enum td_status answer_deleted(struct exchange *x)
{
    return answer_empty(x, MHD_HTTP_NO_CONTENT);
}

enum td_status tensors_delete(struct exchange *x)
{
    bool object = x->rest.length && x->rest.data[0] == '@', exists;
    if (!object) {
        TRY(name_check(x->rest));
        TRY(etag_conditions(x, x->rest, &exists));
    }
    x->in.present &= ~FIELD_BIT(create_only);
    FIELDS_SET(&x->in, input, x->rest);
    return exchange_run_op(x, object ? OP_release : OP_delete, answer_deleted);
}
