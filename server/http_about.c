#include "server/http_internal.h"

#include <string.h>

/* proto/openapi.json, put into the program by proto/embed.py. */
extern const char openapi_json[];
extern const size_t openapi_json_length;

static enum td_status answer_plain(struct exchange *x, unsigned http_status, const char *text)
{
    return answer_text(x, http_status, "text/plain; charset=utf-8", text_of(text));
}

enum td_status livez_get(struct exchange *x)
{
    return answer_plain(x, MHD_HTTP_OK, "ok\n");
}

enum td_status readyz_get(struct exchange *x)
{
    if (atomic_load(&x->server->draining))
        return fail(TD_UNAVAILABLE, "the daemon is stopping");
    return answer_plain(x, MHD_HTTP_OK, "ok\n");
}

enum td_status openapi_get(struct exchange *x)
{
    return answer_text(x, MHD_HTTP_OK, "application/json",
                       (struct text){openapi_json, openapi_json_length});
}

enum td_status root_get(struct exchange *x)
{
    static const char page[] =
        "tensord " TENSORD_VERSION ": named tensors, shared and converted\n\n"
        "  curl -T x.npy          URL/v1/tensors/x        store a NumPy file\n"
        "  curl                   URL/v1/tensors          list what there is\n"
        "  curl                   URL/v1/tensors/x        describe it\n"
        "  curl 'URL/v1/tensors/x?format=text'            print it as PyTorch does\n"
        "  curl 'URL/v1/tensors/x?format=npy&index=0,1:3&dtype=float16' -o y.npy\n"
        "  curl URL/v1/ops/transpose -d '{\"input\": \"x\", \"dim0\": 0, \"dim1\": 1, "
        "\"output\": \"xt\"}'\n"
        "  curl URL/v1/ops        the operations\n"
        "  curl URL/openapi.json  all of it, as OpenAPI 3.1\n";
    return answer_plain(x, MHD_HTTP_OK, page);
}
