/* /v1/bundle: a whole model in one request. */
#include "server/http_internal.h"

#include <string.h>

void bundle_take_format(struct exchange *x)
{
    struct text format = x->params[PARAM_FORMAT];
    if (format.data)
        FIELDS_SET(&x->in, format, format);
}

/* Content-Type as a format, where it names one; the file's first bytes tell otherwise. */
static enum td_status format_of_type(struct exchange *x)
{
    const struct bundle_format *const *formats = x->server->options.engine->formats;
    struct text type = x->headers.content_type;
    bundle_take_format(x);
    if (FIELDS_HAS(&x->in, format) || !type.length)
        return TD_OK;
    for (size_t i = 0; formats && formats[i]; i++)
        if (content_type_is(type, formats[i]->content_type)) {
            FIELDS_SET(&x->in, format, text_of(formats[i]->name));
            return TD_OK;
        }
    /* What curl -T and --data-binary send without being told, and what else is no format. */
    static const char *const anything[] = {"application/octet-stream", "binary/octet-stream",
                                           "application/x-www-form-urlencoded"};
    for (size_t i = 0; i < sizeof anything / sizeof anything[0]; i++)
        if (content_type_is(type, anything[i]))
            return TD_OK;
    return fail(TD_UNSUPPORTED,
                "Content-Type '%.*s' is no file of tensors; expected application/vnd.safetensors, "
                "application/zip (npz), application/x-npy or application/octet-stream",
                (int)(type.length < 100 ? type.length : 100), type.data);
}

uint64_t bundle_told_total(const struct exchange *x, enum op op, const struct storage *come,
                           uint64_t length)
{
    struct engine *engine = x->server->options.engine;
    if (op != OP_load || !come)
        return 0;
    struct bundle_file start = {come->memory.data, length};
    return bundle_file_total(engine->formats, &start, &engine->ledger);
}

/* A bundle has no tag of its own; one that is there is any of its names. */
static enum td_status take_conditions(struct exchange *x)
{
    struct text none = x->headers.if_none_match;
    if (x->headers.if_match.data || (none.data && !text_equal(none, "*")))
        return fail(TD_INVALID, "a bundle has no ETag; If-None-Match: * stores it only if none of "
                                "its names is taken");
    if (none.data)
        FIELDS_SET(&x->in, create_only, true);
    return TD_OK;
}

enum td_status bundle_put_begin(struct exchange *x)
{
    TRY(take_conditions(x));
    TRY(exchange_take_ttl(x));
    TRY(format_of_type(x));
    return upload_begin(x, OP_load);
}

enum td_status bundle_put_end(struct exchange *x)
{
    return upload_end(x, answer_call);
}

enum td_status bundle_answer(struct exchange *x)
{
    const struct bundle_format *const *formats = x->server->options.engine->formats;
    const struct bundle_format *format = formats[0];
    if (FIELDS_HAS(&x->in, format))
        TRY(bundle_format_find(formats, x->in.format, &format));
    return answer_body(x, take(&x->call.body_made), format->content_type);
}

enum td_status bundle_get(struct exchange *x)
{
    bundle_take_format(x);
    return exchange_run_op(x, OP_save, answer_call);
}
