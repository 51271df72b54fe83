/* save: a file of several tensors, as a reply's body or on the daemon's disk. */
#include "core/ops_internal.h"
#include "core/utf8.h"

#include <string.h>

/* Names that are looked for first; the room grows until all are there. */
#define SNAPSHOT_FIRST 512

/* ---- which tensors -----------------------------------------------------------------------------
 */

static enum td_status want(struct op_call *call, const struct bundle_format *format,
                           const char *name, struct tensor *tensor)
{
    const struct fields *in = call->in;
    enum td_dtype have = tensor->layout.dtype;
    struct bundle_item item = {
        .name = name,
        .dtype = FIELDS_HAS(in, dtype) ? in->dtype : have,
        .shape = dims_of_layout(&tensor->layout),
        .tensor = tensor,
    };
    bool force = FIELDS_HAS(in, force) && in->force;
    TRY(op_check_published(call, tensor));
    TRY(op_check_cast(call, have, item.dtype));
    TRY(op_check_expanded(call, tensor, item.dtype));
    if (format->is_numpy && !force && tensor_requires_grad(tensor))
        return fail(TD_REQUIRES_GRAD,
                    "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() "
                    "instead. (It is '%.*s'; %s files are NumPy's, safetensors takes it as it is.)",
                    SHOWN(name), format->name);
    return bundle_add(&call->bundle, &item);
}

static enum td_status want_entries(struct op_call *call, const struct bundle_format *format,
                                   size_t skip, const struct store_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++)
        TRY(want(call, format, entries[i].name + skip, entries[i].tensor));
    return TD_OK;
}

/* Up to `room` names below the prefix, all of one moment. *complete: there are no more. */
static enum td_status want_names(struct op_call *call, const struct bundle_format *format,
                                 struct text prefix, size_t room, bool *complete)
{
    struct ledger *ledger = &call->engine->ledger;
    uint64_t bytes = (room + 1) * sizeof(struct store_entry);
    TRY(ledger_reserve_over(ledger, bytes, LEDGER_REQUESTS_BYTES));
    struct store_entry *entries = malloc(bytes);
    size_t found =
        entries ? store_list(call->engine->store, prefix, text_of(""), room + 1, entries) : 0;
    enum td_status status =
        entries ? TD_OK : fail(TD_OUT_OF_MEMORY, "no memory for a list of %zu names", room);
    *complete = found <= room;
    if (*complete && status == TD_OK)
        status = want_entries(call, format, prefix.length, entries, found);
    for (size_t i = 0; i < found; i++)
        tensor_unref(entries[i].tensor);
    free(entries);
    ledger_release(ledger, bytes, 0, 0);
    return status;
}

/* PREFIX/..., of which the names in the file are what follows. */
static enum td_status want_prefix(struct op_call *call, const struct bundle_format *format)
{
    struct text given = FIELDS_HAS(call->in, prefix) ? call->in->prefix : text_of("");
    bool slash = given.length && given.data[given.length - 1] != '/';
    if (given.length > NAME_MAX_BYTES)
        return fail(TD_INVALID, "the prefix has %zu bytes, more than any name", given.length);
    char text[NAME_MAX_BYTES + 1];
    memcpy(text, given.data, given.length);
    text[given.length] = '/';
    struct text prefix = {text, given.length + slash};
    bool complete = false;
    for (size_t room = SNAPSHOT_FIRST; !complete && room <= BUNDLE_MAX; room *= 2)
        TRY(want_names(call, format, prefix, room, &complete));
    if (!complete)
        return fail(TD_TOO_LARGE, "there are more than %d tensors below '%.*s'; save them in parts",
                    BUNDLE_MAX, TEXT_SHOWN(given));
    if (!call->bundle.count && !prefix.length)
        return fail(TD_NOT_FOUND, "there are no tensors to save");
    if (!call->bundle.count)
        return fail(TD_NOT_FOUND,
                    "there are no tensors below '%.*s'; list shows the names there are",
                    TEXT_SHOWN(prefix));
    return TD_OK;
}

/* "KEY=NAME", or the name alone: then it is the key. */
static enum td_status want_line(struct op_call *call, const struct bundle_format *format,
                                struct text line)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    const char *equals = memchr(line.data, '=', line.length);
    size_t skip = equals ? (size_t)(equals - line.data) + 1 : 0;
    struct text ref = {line.data + skip, line.length - skip};
    struct text key = skip > 1 ? (struct text){line.data, skip - 1} : ref;
    uint64_t generation, ttl_ms;
    TRY(op_resolve(call, ref, &tensor, &generation, &ttl_ms));
    _cleanup_(freep) char *name = text_dup(key);
    if (!name)
        return fail(TD_OUT_OF_MEMORY, "no memory for a tensor's name");
    if (strlen(name) != key.length)
        return fail(TD_INVALID, "a tensor's name has a NUL");
    return want(call, format, name, tensor);
}

static enum td_status want_lines(struct op_call *call, const struct bundle_format *format)
{
    struct text all = call->in->tensors;
    for (size_t at = 0; at < all.length;) {
        const char *end = memchr(all.data + at, '\n', all.length - at);
        size_t length = end ? (size_t)(end - all.data) - at : all.length - at;
        if (length)
            TRY(want_line(call, format, (struct text){all.data + at, length}));
        at += length + 1;
    }
    if (!call->bundle.count)
        return fail(TD_INVALID, "there are no tensors in the list (tensors)");
    return bundle_check_names(&call->bundle);
}

/* ---- their bytes -------------------------------------------------------------------------------
 */

static enum td_status add_elements(struct op_call *call, struct body *body)
{
    const struct bundle *bundle = &call->bundle;
    for (size_t i = 0; i < bundle->count; i++)
        TRY(body_add_tensor(body, bundle->items[i].tensor, bundle->items[i].dtype,
                            op_saturate(call)));
    return TD_OK;
}

static enum td_status new_body(const struct op_call *call, struct body **out)
{
    return body_create(call->engine->devices.list[0], BODY_BLOCK_BYTES, out);
}

/* A head, and the elements as they lie in memory. */
static enum td_status make_plain(struct op_call *call, const struct bundle_format *format)
{
    unsigned char *head;
    size_t length;
    TRY(format->head(&call->bundle, &head, &length));
    enum td_status status = new_body(call, &call->body_made);
    if (status != TD_OK) {
        free(head);
        return status;
    }
    TRY(body_add_bytes(call->body_made, head, length));
    return add_elements(call, call->body_made);
}

/* What an archive is made of, and goes to: a file, or memory of bounded size. */
struct packing {
    struct op_call *call;
    struct body *elements;
    size_t item;
    uint64_t left; /* of the item's elements */
    unsigned char *memory;
    uint64_t room, written;
};

static enum td_status pack_next(void *context, size_t item, const void **data, size_t *size)
{
    struct packing *packing = context;
    if (packing->item != item) {
        packing->item = item;
        packing->left = bundle_item_bytes(&packing->call->bundle.items[item]);
    }
    *size = 0;
    if (packing->left)
        TRY(body_next(packing->elements, data, size));
    packing->left -= *size;
    return TD_OK;
}

static enum td_status pack_write(void *context, const void *bytes, size_t size)
{
    struct packing *packing = context;
    if (packing->call->file)
        return file_write(packing->call->file, bytes, size);
    if (size > packing->room - packing->written)
        return fail(TD_INTERNAL, "an archive is larger than it should be");
    memcpy(packing->memory + packing->written, bytes, size);
    packing->written += size;
    return TD_OK;
}

static enum td_status pack(struct op_call *call, const struct bundle_format *format,
                           struct packing *packing)
{
    _cleanup_(body_destroyp) struct body *elements = NULL;
    struct bundle_io io = {packing, pack_next, pack_write};
    TRY(new_body(call, &elements));
    TRY(add_elements(call, elements));
    TRY(body_prepare(elements, call->account));
    packing->elements = elements;
    return format->pack(&call->bundle, &io);
}

/* The archive's length is to be told before its first byte. */
static enum td_status make_packed(struct op_call *call, const struct bundle_format *format)
{
    _cleanup_(storage_unrefp) struct storage *storage = NULL;
    _cleanup_(tensor_unrefp) struct tensor *bytes = NULL;
    struct packing packing = {.call = call, .item = SIZE_MAX};
    packing.room = format->most_bytes(&call->bundle);
    TRY(storage_create(call->device, call->account, packing.room, false, &storage));
    packing.memory = storage->memory.data;
    TRY(pack(call, format, &packing));
    struct dims length = {.rank = 1, .v = {(int64_t)packing.written}};
    struct layout layout;
    TRY(layout_contiguous(TD_UINT8, &length, &layout));
    TRY(tensor_create(storage, &layout, &bytes));
    TRY(new_body(call, &call->body_made));
    return body_add_tensor(call->body_made, bytes, TD_UINT8, false);
}

/* ---- a file ------------------------------------------------------------------------------------
 */

static enum td_status write_body(struct op_call *call, struct body *body)
{
    const void *data;
    size_t size;
    TRY(body_prepare(body, call->account));
    do {
        TRY(body_next(body, &data, &size));
        TRY(file_write(call->file, data, size));
    } while (size > 0);
    return TD_OK;
}

static enum td_status fill_file(struct op_call *call, const struct bundle_format *format)
{
    if (format->packed) {
        struct packing packing = {.call = call, .item = SIZE_MAX};
        TRY(pack(call, format, &packing));
    } else {
        TRY(make_plain(call, format));
        TRY(write_body(call, call->body_made));
        body_destroy(take(&call->body_made));
    }
    return file_sync(call->file);
}

/* It gets its name in op_commit; what could not be written goes at once, still in the job. */
static enum td_status write_file(struct op_call *call, const struct bundle_format *format)
{
    TRY(file_create(call->engine->save_roots, call->in->path, &call->file));
    enum td_status status = fill_file(call, format);
    if (status != TD_OK)
        file_destroy(take(&call->file));
    return status;
}

static enum td_status format_asked(const struct op_call *call, const struct bundle_format **out)
{
    const struct fields *in = call->in;
    if (FIELDS_HAS(in, format))
        TRY(bundle_format_find(call->engine->formats, in->format, out));
    else if (call->engine->formats)
        *out = call->engine->formats[0];
    else
        return fail(TD_UNSUPPORTED, "this engine knows no formats of files");
    if (FIELDS_HAS(in, metadata) && !(*out)->has_metadata)
        return fail(TD_UNSUPPORTED, "a file of the format %s has no metadata", (*out)->name);
    return TD_OK;
}

static enum td_status take_metadata(struct op_call *call)
{
    const struct fields *in = call->in;
    if (!FIELDS_HAS(in, metadata))
        return TD_OK;
    if (in->metadata.length > BUNDLE_METADATA_MAX) /* or load would not take the file back */
        return fail(TD_TOO_LARGE, "the metadata has %zu bytes; at most %zu are taken",
                    in->metadata.length, BUNDLE_METADATA_MAX);
    if (memchr(in->metadata.data, '\0', in->metadata.length))
        return fail(TD_INVALID, "the metadata has a NUL");
    call->bundle.metadata = text_dup(in->metadata);
    return call->bundle.metadata ? TD_OK : fail(TD_OUT_OF_MEMORY, "no memory for the metadata");
}

enum td_status op_run_save(struct op_call *call)
{
    const struct fields *in = call->in;
    const struct bundle_format *format = NULL;
    TRY(format_asked(call, &format));
    if (FIELDS_HAS(in, prefix) && FIELDS_HAS(in, tensors))
        return fail(TD_INVALID, "prefix and tensors came together; save takes one of them");
    call->bundle.ledger = &call->engine->ledger;
    TRY(take_metadata(call));
    TRY(FIELDS_HAS(in, tensors) ? want_lines(call, format) : want_prefix(call, format));
    FIELDS_SET(&call->out, count, call->bundle.count);
    if (FIELDS_HAS(in, path))
        return write_file(call, format);
    return format->packed ? make_packed(call, format) : make_plain(call, format);
}

enum td_status op_commit_save(struct op_call *call)
{
    return call->file ? file_publish(call->file) : TD_OK;
}
