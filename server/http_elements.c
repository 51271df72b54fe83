#include "proto/format/npy.h"
#include "proto/format/safetensors.h"
#include "server/http_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Up to so much is copied into the answer: header and body then leave in one packet, and nothing is
 * held while they do. */
#define COPIED_BYTES ((size_t)32 << 10)

/* What stands before the elements in a file of the format. The caller frees *out. */
static enum td_status file_header(const struct elements *what, unsigned char **out, size_t *length)
{
    const struct fields *description = what->description;
    const struct layout *layout = &what->tensor->layout;
    struct dims shape = {.rank = layout->rank};
    memcpy(shape.v, layout->shape, (size_t)layout->rank * sizeof shape.v[0]);
    *out = NULL;
    *length = 0;
    if (what->format == FORMAT_SAFETENSORS) {
        char name[NAME_MAX_BYTES + 1] = "tensor";
        if (FIELDS_HAS(description, name))
            snprintf(name, sizeof name, "%.*s", TEXT_ARGS(description->name));
        struct safetensors_entry entry = {.name = name, .dtype = what->dtype, .shape = shape};
        return safetensors_write(&entry, 1, NULL, out, length);
    }
    if (what->format != FORMAT_NPY)
        return TD_OK;
    *out = malloc(NPY_WRITE_MAX);
    if (!*out)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    *length = npy_write(what->dtype, &shape, *out);
    return TD_OK;
}

/* ---- Range (RFC 9110, 14) ----------------------------------------------------------------------
 */

struct range {
    uint64_t first, length;
    bool partial;
};

static bool read_number(const char **at, const char *end, uint64_t *out)
{
    const char *start = *at;
    for (*out = 0; *at < end && **at >= '0' && **at <= '9'; ++*at)
        if (__builtin_mul_overflow(*out, 10, out) ||
            __builtin_add_overflow(*out, (uint64_t)(**at - '0'), out))
            *out = UINT64_MAX; /* past any end, which is what it means */
    return *at > start;
}

/* One range of bytes; what is no such (several, another unit) is ignored, as it may be. */
static enum td_status read_range(const struct exchange *x, const char *etag, uint64_t total,
                                 struct range *out)
{
    const char *at = x->headers.range.data, *end = at + x->headers.range.length;
    uint64_t first, last;
    *out = (struct range){.length = total};
    struct text condition = x->headers.if_range;
    bool weak = etag[0] != '"';
    if (!at || weak || x->head || (condition.data && !etag_listed(condition, etag, true)))
        return TD_OK;
    if (x->headers.range.length < 7 || memcmp(at, "bytes=", 6) != 0)
        return TD_OK;
    at += 6;
    bool has_first = read_number(&at, end, &first);
    if (at == end || *at++ != '-')
        return TD_OK;
    bool has_last = read_number(&at, end, &last);
    if (at != end || (!has_first && !has_last) || (has_first && has_last && last < first))
        return TD_OK;
    if (!has_first) /* the last so many */
        first = last < total ? total - last : 0;
    if (!has_first || !has_last)
        last = UINT64_MAX;
    if (first >= total)
        return fail(TD_BAD_RANGE, "the range begins at byte %" PRIu64 " of %" PRIu64, first, total);
    out->partial = true;
    out->first = first;
    out->length = (last < total ? last + 1 : total) - first;
    return TD_OK;
}

/* ---- headers -----------------------------------------------------------------------------------
 */

static void add_headers(struct MHD_Response *response, const struct elements *what,
                        const char *etag)
{
    char shape[SHAPE_TEXT_SIZE];
    const struct layout *layout = &what->tensor->layout;
    answer_header(response, "Content-Type", format_content_type(what->format));
    answer_header(response, "Cache-Control", "no-cache");
    answer_header(response, "Vary", "Accept");
    if (etag[0])
        answer_header(response, "ETag", etag);
    if (what->format != FORMAT_RAW)
        return;
    /* Raw bytes say nothing about themselves. */
    layout_shape_text(layout->rank, layout->shape, shape, sizeof shape);
    answer_header(response, "Tensord-Dtype", td_dtype_name((int)what->dtype));
    answer_header(response, "Tensord-Shape", shape);
}

/* If-Match and If-None-Match of a GET. *done: it was answered. */
static enum td_status check_conditions(struct exchange *x, const struct elements *what,
                                       const char *etag, bool *done)
{
    const struct headers *h = &x->headers;
    *done = false;
    if (h->if_match.data && !etag_listed(h->if_match, etag, true))
        return fail(TD_PRECONDITION, "If-Match: the tensor's ETag is %s", etag[0] ? etag : "none");
    bool strong = etag[0] == '"';
    if (!h->if_none_match.data || !strong || !etag_listed(h->if_none_match, etag, false))
        return TD_OK;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    add_headers(response, what, etag);
    *done = true;
    return answer_response(x, MHD_HTTP_NOT_MODIFIED, response);
}

/* ---- bodies ------------------------------------------------------------------------------------
 */

/* Holds what a response is sent from. */
struct held {
    struct tensor *tensor;
    unsigned char *header;
};

static void let_go(void *argument)
{
    struct held *held = argument;
    tensor_unref(held->tensor);
    free(held->header);
    free(held);
}

/* The part of (header, data) that a range covers, as up to two vectors. */
static unsigned cut_range(const struct range *range, const unsigned char *header,
                          size_t header_length, const unsigned char *data, uint64_t data_length,
                          struct MHD_IoVec parts[2])
{
    const struct {
        const unsigned char *bytes;
        uint64_t length;
    } whole[] = {{header, header_length}, {data, data_length}};
    uint64_t skip = range->first, left = range->length;
    unsigned count = 0;
    for (int i = 0; i < 2; i++) {
        uint64_t skipped = skip < whole[i].length ? skip : whole[i].length;
        uint64_t length = whole[i].length - skipped;
        length = length < left ? length : left;
        skip -= skipped;
        left -= length;
        if (length)
            parts[count++] = (struct MHD_IoVec){whole[i].bytes + skipped, (size_t)length};
    }
    return count;
}

static struct MHD_Response *copied_response(const struct MHD_IoVec *parts, unsigned count,
                                            size_t length)
{
    unsigned char *copy = malloc(length + 1), *at = copy;
    for (unsigned i = 0; copy && i < count; at += parts[i++].iov_len)
        memcpy(at, parts[i].iov_base, parts[i].iov_len);
    struct MHD_Response *response =
        copy ? MHD_create_response_from_buffer(length, copy, MHD_RESPMEM_MUST_FREE) : NULL;
    if (!response)
        free(copy);
    return response;
}

/* Sent from where it lies. Takes over the header. */
static struct MHD_Response *held_response(const struct elements *what, unsigned char **header,
                                          const struct MHD_IoVec *parts, unsigned count)
{
    struct held *held = malloc(sizeof *held);
    if (!held)
        return NULL;
    *held = (struct held){tensor_ref(what->tensor), take(header)};
    struct MHD_Response *response = MHD_create_response_from_iovec(parts, count, let_go, held);
    if (!response)
        let_go(held);
    return response;
}

/* Elements that lie in memory as they are asked for. */
static enum td_status answer_in_place(struct exchange *x, const struct elements *what,
                                      unsigned char **header, size_t header_length,
                                      const char *etag)
{
    struct range range;
    struct MHD_IoVec parts[2];
    uint64_t length = (uint64_t)layout_nbytes(&what->tensor->layout);
    uint64_t total = header_length + length;
    enum td_status status = read_range(x, etag, total, &range);
    char text[80];
    if (status == TD_BAD_RANGE)
        x->range_of = total;
    TRY(status);
    unsigned count =
        cut_range(&range, *header, header_length, tensor_data(what->tensor), length, parts);
    struct MHD_Response *response = range.length <= COPIED_BYTES
                                        ? copied_response(parts, count, (size_t)range.length)
                                        : held_response(what, header, parts, count);
    if (!response)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    add_headers(response, what, etag);
    if (etag[0] == '"') /* else none is given */
        answer_header(response, "Accept-Ranges", "bytes");
    if (range.partial) {
        snprintf(text, sizeof text, "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, range.first,
                 range.first + range.length - 1, total);
        answer_header(response, "Content-Range", text);
    }
    atomic_fetch_add_explicit(&x->server->options.engine->bytes_sent, x->head ? 0 : range.length,
                              memory_order_relaxed);
    return answer_response(x, range.partial ? MHD_HTTP_PARTIAL_CONTENT : MHD_HTTP_OK, response);
}

/* The elements behind the header of a file, which it takes over. */
static enum td_status answer_computed(struct exchange *x, const struct elements *what,
                                      unsigned char **header, size_t header_length,
                                      const char *etag)
{
    _cleanup_(body_destroyp) struct body *body = NULL;
    struct MHD_Response *response;
    TRY(body_create(x->server->options.engine->devices.list[0], BODY_BLOCK_BYTES, &body));
    TRY(body_add_bytes(body, take(header), header_length));
    TRY(body_add_tensor(body, what->tensor, what->dtype, what->saturate));
    TRY(stream_bytes(x, take(&body), &response));
    add_headers(response, what, etag);
    return answer_response(x, MHD_HTTP_OK, response);
}

enum td_status answer_body(struct exchange *x, struct body *body, const char *content_type)
{
    struct MHD_Response *response;
    TRY(stream_bytes(x, body, &response));
    answer_header(response, "Content-Type", content_type);
    answer_header(response, "Cache-Control", "no-cache");
    return answer_response(x, MHD_HTTP_OK, response);
}

static enum td_status answer_file(struct exchange *x, const struct elements *what, const char *etag)
{
    _cleanup_(freep) unsigned char *header = NULL;
    size_t length;
    TRY(file_header(what, &header, &length));
    if (body_in_place(what->tensor, what->dtype))
        return answer_in_place(x, what, &header, length, etag);
    return answer_computed(x, what, &header, length, etag);
}

/* The description, and behind it the elements: {..., "data": ...}. */
static enum td_status answer_document(struct exchange *x, const struct elements *what,
                                      const char *etag)
{
    struct MHD_Response *response;
    cJSON *value = answer_fields_value(what->description);
    char *text = value ? cJSON_PrintUnformatted(value) : NULL;
    size_t length = text ? strlen(text) : 0;
    cJSON_Delete(value);
    if (!text)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    if (what->values) {
        static const char data[] = ",\"data\":";
        char *longer = realloc(text, length + sizeof data);
        if (!longer) {
            free(text);
            return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
        }
        text = longer;
        memcpy(text + length - 1, data, sizeof data);
        enum td_status status = stream_json(x, what, text_of(text), text_of("}\n"), &response);
        free(text);
        TRY(status);
        add_headers(response, what, etag);
        return answer_response(x, MHD_HTTP_OK, response);
    }
    response = answer_json_response(x, text);
    if (!response)
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    add_headers(response, what, etag);
    return answer_response(x, MHD_HTTP_OK, response);
}

enum td_status answer_elements(struct exchange *x, const struct elements *what)
{
    char etag[ETAG_SIZE] = "";
    bool done = false;
    if (strcmp(x->route->method, MHD_HTTP_METHOD_GET) == 0) {
        etag_of(x, what, etag);
        TRY(check_conditions(x, what, etag, &done));
    }
    if (done)
        return TD_OK;
    return what->format == FORMAT_JSON ? answer_document(x, what, etag)
                                       : answer_file(x, what, etag);
}
