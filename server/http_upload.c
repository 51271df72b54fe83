/* Bodies of elements, received straight into the storage that will be published.
 *
 * The operation itself begins when all has come: JSON may name it last. What can be refused earlier
 * is: the format, sizes, memory. */
#include "server/http_upload.h"
#include "core/byte_order.h"
#include "proto/format/json_tensor.h"

#include <inttypes.h>
#include <string.h>

#define JSON_INLINE_BYTES ((size_t)64 << 10) /* of text are read without a job */

void upload_destroy(struct upload *upload)
{
    if (!upload)
        return;
    storage_unref(upload->storage);
    storage_unref(upload->spool);
    json_tensor_destroy(upload->json);
    free(upload->head);
    free(upload);
}

/* ---- the storage -------------------------------------------------------------------------------
 */

static struct device *cpu_of(const struct exchange *x)
{
    return x->server->options.engine->devices.list[0];
}

static enum td_status allocate(struct exchange *x)
{
    return storage_create(cpu_of(x), x->server->options.account, x->upload->length, false,
                          &x->upload->storage);
}

static enum td_status allocate_in_job(struct exchange *x, struct parked *parked)
{
    TRY(parked_commit(parked));
    return allocate(x);
}

/* dtype and shape are in x->in: makes the storage, in a job if it is large. */
static enum td_status elements_begin(struct exchange *x)
{
    struct upload *upload = x->upload;
    struct layout layout;
    TRY(layout_contiguous(x->in.dtype, &x->in.shape, &layout));
    upload->length = (uint64_t)layout_nbytes(&layout);
    if (upload->length > x->server->options.max_body)
        return fail(TD_TOO_LARGE,
                    "the tensor has %" PRIu64 " bytes, and the limit is %" PRIu64
                    " (--max-body, --memory-limit)",
                    upload->length, x->server->options.max_body);
    uint64_t declared = x->declared_length;
    bool has_length = declared != UINT64_MAX && upload->format != FORMAT_JSON;
    if (has_length && declared - upload->consumed != upload->length)
        return fail(TD_BAD_SHAPE,
                    "the shape and dtype need %" PRIu64 " bytes, but the body has %" PRIu64,
                    upload->length, declared - upload->consumed);
    upload->stage = upload->format == FORMAT_JSON ? STAGE_JSON : STAGE_ELEMENTS;
    if (upload->length <= OP_INLINE_BYTES)
        return allocate(x);
    upload->stage = STAGE_ALLOCATE;
    return exchange_park(x, allocate_in_job, PARKED_AHEAD);
}

/* ---- JSON --------------------------------------------------------------------------------------
 */

static enum td_status json_begin(struct exchange *x)
{
    struct upload *upload = x->upload;
    upload->stage = STAGE_JSON;
    return json_tensor_create(FIELDS_HAS(&x->in, dtype) ? x->in.dtype : TD_DTYPE_NONE,
                              FIELDS_HAS(&x->in, shape) ? &x->in.shape : NULL, &upload->json);
}

/* Room for all of a body of known length; else twice as much as before, up to the limit. */
static uint64_t next_spool_room(const struct exchange *x)
{
    const struct upload *upload = x->upload;
    uint64_t room = upload->spool_room ? 2 * upload->spool_room : OP_INLINE_BYTES;
    uint64_t limit = x->server->options.max_body;
    bool known = x->declared_length != UINT64_MAX;
    uint64_t total = known ? x->declared_length - upload->consumed
                           : bundle_told_total(x, upload->op, upload->spool, upload->spooled);
    if (known || total > upload->spool_room) /* else what trails it is to be refused */
        return total;
    return room < limit ? room : limit;
}

static enum td_status spool_grow(struct exchange *x)
{
    struct upload *upload = x->upload;
    _cleanup_(storage_unrefp) struct storage *larger = NULL;
    uint64_t room = next_spool_room(x), limit = x->server->options.max_body;
    if (room <= upload->spool_room || room > limit)
        return fail(TD_TOO_LARGE, "the body is over the limit of %" PRIu64 " bytes (--max-body)",
                    limit);
    TRY(storage_create(cpu_of(x), x->server->options.account, room, false, &larger));
    if (upload->spooled)
        memcpy(larger->memory.data, upload->spool->memory.data, upload->spooled);
    storage_unref(upload->spool);
    upload->spool = take(&larger);
    upload->spool_room = room;
    return TD_OK;
}

static enum td_status spool_grow_in_job(struct exchange *x, struct parked *parked)
{
    TRY(parked_commit(parked));
    return spool_grow(x);
}

static enum td_status spool_body(struct exchange *x, const char *data, size_t *length)
{
    struct upload *upload = x->upload;
    if (*length && !upload->spool && next_spool_room(x) <= OP_INLINE_BYTES)
        TRY(spool_grow(x));
    uint64_t room = upload->spool_room - upload->spooled;
    size_t part = *length < room ? *length : (size_t)room;
    if (part)
        memcpy(upload->spool->memory.data + upload->spooled, data, part);
    upload->spooled += part;
    *length -= part;
    return *length ? exchange_park(x, spool_grow_in_job, PARKED_AHEAD) : TD_OK;
}

/* Memory is not made for more numbers than the rest of the text can hold: a digit and a comma each.
 */
static enum td_status check_text(struct exchange *x)
{
    int64_t elements = 0;
    uint64_t left = x->declared_length - x->upload->consumed;
    bool known =
        x->declared_length != UINT64_MAX && dims_count(&x->in.shape, x->in.dtype, &elements);
    if (known && (uint64_t)elements > left / 2 + 1)
        return fail(TD_BAD_SHAPE,
                    "the shape has %" PRId64 " elements, more than %" PRIu64 " bytes of text hold",
                    elements, left);
    return TD_OK;
}

static enum td_status json_body(struct exchange *x, const char *data, size_t *length)
{
    struct upload *upload = x->upload;
    while (*length) {
        enum json_want want;
        size_t used;
        TRY(json_tensor_feed(upload->json, data, *length, &used, &want));
        data += used;
        *length -= used;
        upload->consumed += used;
        if (want == JSON_WANT_SPOOL) {
            upload->stage = STAGE_SPOOL;
            return spool_body(x, data, length);
        }
        if (want == JSON_WANT_MORE)
            continue;
        TRY(upload_agree_on_dtype(x, json_tensor_dtype(upload->json)));
        TRY(upload_agree_on_shape(x, json_tensor_shape(upload->json)));
        TRY(check_text(x));
        TRY(elements_begin(x));
        if (x->suspended_now)
            return TD_OK;
        json_tensor_target(upload->json, upload->storage->memory.data);
    }
    return TD_OK;
}

/* What the document said besides its elements, as far as the operation takes it. Where both say
 * something, the query counts: it is the request's own. */
static void take_members(struct exchange *x)
{
    static const field_set taken = FIELD_BIT(requires_grad) | FIELD_BIT(mutable) |
                                   FIELD_BIT(device) | FIELD_BIT(output) | FIELD_BIT(create_only) |
                                   FIELD_BIT(if_generation) | FIELD_BIT(ttl_ms);
    const struct op_info *info = &op_infos[x->upload->op];
    struct fields members = *json_tensor_fields(x->upload->json);
    members.present &= taken & (info->required | info->optional) & ~x->in.present;
    fields_merge(&x->in, &members);
}

/* ---- pieces ------------------------------------------------------------------------------------
 */

/* What stands before the elements; then their memory is made. */
static enum td_status head_body(struct exchange *x, const char *data, size_t *length)
{
    bool complete;
    TRY(upload_head_body(x, data, length, &complete));
    if (!complete)
        return TD_OK;
    return x->upload->format == FORMAT_JSON ? json_begin(x) : elements_begin(x);
}

/* Turns round whole numbers that have come. */
static void swap_numbers(struct upload *upload)
{
    uint64_t whole = upload->received - upload->received % upload->swap_bytes;
    byte_order_swap(upload->storage->memory.data + upload->swapped, whole - upload->swapped,
                    upload->swap_bytes);
    upload->swapped = whole;
}

static enum td_status elements_body(struct exchange *x, const char *data, size_t *length)
{
    struct upload *upload = x->upload;
    if (*length > upload->length - upload->received)
        return fail(TD_BAD_SHAPE,
                    "the shape and dtype need %" PRIu64 " bytes, but the body has more",
                    upload->length);
    memcpy(upload->storage->memory.data + upload->received, data, *length);
    upload->received += *length;
    *length = 0;
    if (upload->swap_bytes)
        swap_numbers(upload);
    return TD_OK;
}

/* The body of load: all of it is what the tensors will be views of. */
static enum td_status file_begin(struct exchange *x)
{
    uint64_t limit = x->server->options.max_body;
    x->upload->stage = STAGE_SPOOL;
    if (x->declared_length != UINT64_MAX && x->declared_length > limit)
        return fail(TD_TOO_LARGE,
                    "the file has %" PRIu64 " bytes, and the limit is %" PRIu64
                    " (--max-body, --memory-limit)",
                    x->declared_length, limit);
    return TD_OK;
}

enum td_status upload_begin(struct exchange *x, enum op op)
{
    TRY(exchange_find_session(x)); /* one that has ended is refused before the body comes */
    struct upload *upload = x->upload = calloc(1, sizeof *upload);
    if (!upload)
        return fail(TD_OUT_OF_MEMORY, "no memory for an upload");
    upload->op = op;
    if (op == OP_load)
        return file_begin(x);
    TRY(format_sent(x, &upload->format));
    if (FIELDS_HAS(&x->in, strides) && upload->format != FORMAT_RAW)
        return fail(TD_INVALID, "strides= is for raw bytes; files and documents have an order of "
                                "their own");
    upload_head_begin(x);
    if (upload->format == FORMAT_JSON)
        return json_begin(x);
    if (upload->format == FORMAT_RAW) {
        struct layout layout;
        TRY(layout_contiguous(x->in.dtype, &x->in.shape, &layout));
        upload->length = (uint64_t)layout_nbytes(&layout);
        if (x->declared_length != UINT64_MAX && x->declared_length != upload->length)
            return fail(TD_BAD_SHAPE,
                        "the shape and dtype need %" PRIu64 " bytes, but the body has %" PRIu64,
                        upload->length, x->declared_length);
        upload->stage = STAGE_ALLOCATE;
    }
    return TD_OK;
}

/* Takes what it can of a piece. */
static enum td_status take_piece(struct exchange *x, const char *data, size_t *length)
{
    struct upload *upload = x->upload;
    switch (upload->stage) {
    case STAGE_HEAD:
        return head_body(x, data, length);
    case STAGE_ALLOCATE: /* its job is done, or for raw bytes has not begun */
        if (!upload->storage)
            return elements_begin(x);
        if (upload->format == FORMAT_JSON)
            json_tensor_target(upload->json, upload->storage->memory.data);
        upload->stage = upload->format == FORMAT_JSON ? STAGE_JSON : STAGE_ELEMENTS;
        return TD_OK;
    case STAGE_ELEMENTS:
        return elements_body(x, data, length);
    case STAGE_JSON:
        return json_body(x, data, length);
    case STAGE_SPOOL:
        return spool_body(x, data, length);
    }
    return TD_OK;
}

static enum td_status take_pieces(struct exchange *x, const char *data, size_t *length)
{
    while (*length && !x->suspended_now) {
        size_t before = *length;
        TRY(take_piece(x, data, length));
        data += before - *length;
    }
    return TD_OK;
}

/* The first bytes of a document, which were kept to recognise it. */
static enum td_status take_head(struct exchange *x)
{
    struct upload *upload = x->upload;
    if (upload->format != FORMAT_JSON || upload->stage == STAGE_HEAD)
        return TD_OK;
    size_t left = upload->head_length - upload->head_used;
    enum td_status status = take_pieces(x, upload->head + upload->head_used, &left);
    upload->head_used = upload->head_length - left;
    return status;
}

enum td_status upload_body(struct exchange *x, const char *data, size_t *length)
{
    size_t before = *length;
    if (x->upload->stage == STAGE_HEAD)
        TRY(head_body(x, data, length));
    TRY(take_head(x));
    return take_pieces(x, data + (before - *length), length);
}

/* ---- the end -----------------------------------------------------------------------------------
 */

/* All elements are there: the operation, with them as its body. */
static enum td_status call_begin(struct exchange *x)
{
    struct upload *upload = x->upload;
    if (upload->json)
        take_members(x);
    TRY(exchange_call(x, upload->op));
    bool file = upload->op == OP_load;
    x->call.body_length = file ? upload->spooled : upload->length;
    TRY(op_begin(&x->call));
    x->call.body_in = take(file ? &upload->spool : &upload->storage);
    return TD_OK;
}

/* Reads a document that was spooled, and makes its tensor. */
static enum td_status read_spooled(struct exchange *x)
{
    struct upload *upload = x->upload;
    const char *text = (const char *)upload->spool->memory.data;
    struct layout layout;
    TRY(json_tensor_measure(upload->json, text, upload->spooled));
    TRY(upload_agree_on_dtype(x, json_tensor_dtype(upload->json)));
    TRY(upload_agree_on_shape(x, json_tensor_shape(upload->json)));
    TRY(layout_contiguous(x->in.dtype, &x->in.shape, &layout));
    upload->length = (uint64_t)layout_nbytes(&layout);
    TRY(allocate(x));
    return json_tensor_fill(upload->json, text, upload->spooled, upload->storage->memory.data);
}

static enum td_status read_in_job(struct exchange *x, struct parked *parked)
{
    TRY(read_spooled(x));
    return parked_commit(parked);
}

/* A file of unknown length came into more memory than it takes, and that may be recycled: what lay
 * there would be seen by who maps the tensors. */
static enum td_status trim_in_job(struct exchange *x, struct parked *parked)
{
    struct upload *upload = x->upload;
    _cleanup_(storage_unrefp) struct storage *exact = NULL;
    TRY(parked_commit(parked));
    TRY(storage_create(cpu_of(x), x->server->options.account, upload->spooled, false, &exact));
    memcpy(exact->memory.data, upload->spool->memory.data, upload->spooled);
    storage_unref(upload->spool);
    upload->spool = take(&exact);
    return TD_OK;
}

static enum td_status run(struct exchange *x)
{
    TRY(call_begin(x));
    return exchange_run(x, x->upload->then);
}

static enum td_status incomplete(const struct upload *upload)
{
    if (upload->stage == STAGE_HEAD)
        return fail(TD_INVALID,
                    "the body ended after %zu bytes, in the middle of its header; "
                    "expected npy, safetensors or JSON",
                    upload->head_length);
    return fail(TD_BAD_SHAPE,
                "the shape and dtype need %" PRIu64 " bytes, but the body had %" PRIu64,
                upload->length, upload->received);
}

static enum td_status upload_again(struct exchange *x)
{
    return upload_end(x, x->upload->then);
}

/* Of a body without a declared length that ended before its first bytes could tell what it is. */
static enum td_status head_end(struct exchange *x)
{
    struct upload *upload = x->upload;
    if (upload->stage != STAGE_HEAD || upload->format != FORMAT_NONE || !upload->head_length)
        return TD_OK;
    TRY(upload_recognise(upload));
    return upload->format == FORMAT_JSON ? json_begin(x) : TD_OK;
}

enum td_status upload_end(struct exchange *x, enum td_status (*then)(struct exchange *x))
{
    struct upload *upload = x->upload;
    upload->then = then;
    x->next = upload_again;
    TRY(head_end(x));
    TRY(take_head(x));
    if (x->suspended_now)
        return TD_OK;
    x->next = run;
    if (upload->op == OP_load)
        return upload->spool_room > upload->spooled ? exchange_park(x, trim_in_job, PARKED_AHEAD)
                                                    : run(x);
    if (upload->stage == STAGE_SPOOL && upload->spooled > JSON_INLINE_BYTES)
        return exchange_park(x, read_in_job, PARKED_IN_TURN);
    if (upload->stage == STAGE_SPOOL) {
        TRY(read_spooled(x));
        return run(x);
    }
    if (upload->stage == STAGE_JSON) {
        TRY(json_tensor_end(upload->json));
        return run(x);
    }
    /* Without elements no piece of them came that would have made the storage. */
    if (upload->stage == STAGE_ALLOCATE && upload->length == 0 && !upload->storage)
        TRY(elements_begin(x));
    if (upload->stage != STAGE_ELEMENTS || upload->received != upload->length)
        return incomplete(upload);
    return run(x);
}
