#include "client/cli/load.h"
#include "proto/format/json_tensor.h"

CLEANUP_DEFINE(struct json_tensor *, json_tensor_destroy)

static enum td_status elements_alloc(const struct json_tensor *reader, struct member *member,
                                     void **elements)
{
    struct layout layout;
    member->dtype = json_tensor_dtype(reader);
    member->shape = *json_tensor_shape(reader);
    TRY(layout_contiguous(member->dtype, &member->shape, &layout));
    member->size_bytes = (size_t)layout_nbytes(&layout);
    member->elements = *elements = malloc(member->size_bytes + 1);
    if (!*elements)
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu bytes of elements", member->size_bytes);
    return TD_OK;
}

static enum td_status read_document(struct json_tensor *reader, const char *text, size_t length,
                                    struct member *member, void **elements)
{
    enum json_want want = JSON_WANT_MORE;
    for (size_t at = 0, used; at < length; at += used) {
        if (want == JSON_WANT_SPOOL) {
            TRY(json_tensor_measure(reader, text + at, length - at));
            TRY(elements_alloc(reader, member, elements));
            return json_tensor_fill(reader, text + at, length - at, *elements);
        }
        if (want == JSON_WANT_MEMORY) {
            TRY(elements_alloc(reader, member, elements));
            json_tensor_target(reader, *elements);
        }
        TRY(json_tensor_feed(reader, text + at, length - at, &used, &want));
    }
    return json_tensor_end(reader);
}

static size_t blanks(const char *text, size_t at, size_t length)
{
    while (at < length && (text[at] == ' ' || (text[at] >= '\t' && text[at] <= '\r')))
        at++;
    return at;
}

/* As get writes several tensors. */
static bool is_list_of_documents(const char *text, size_t length)
{
    size_t at = blanks(text, 0, length);
    if (at == length || text[at] != '[')
        return false;
    at = blanks(text, at + 1, length);
    return at < length && text[at] == '{';
}

enum td_status load_json(const struct load *load, load_take *take_member, void *argument)
{
    _cleanup_(json_tensor_destroyp) struct json_tensor *reader = NULL;
    _cleanup_(freep) void *elements = NULL;
    const char *text = (const char *)load->file->bytes;
    size_t length = load->file->length;
    struct member member = {.name = "", .only = true};
    if (is_list_of_documents(text, length))
        return fail(TD_UNSUPPORTED,
                    "%s is a list of documents, and one is put at a time; npz and safetensors "
                    "hold several tensors",
                    load->file->label);
    TRY(json_tensor_create(load->dtype, load->shape, &reader));
    TRY(load_verdict(load, read_document(reader, text, length, &member, &elements)));
    const struct fields *said = json_tensor_fields(reader);
    member.mutable = FIELDS_HAS(said, mutable) && said->mutable;
    member.requires_grad = FIELDS_HAS(said, requires_grad) && said->requires_grad;
    return take_member(argument, &member);
}
