/* load: all tensors of a file, as views over one storage. */
#include "core/byte_order.h"
#include "core/ops_internal.h"
#include "core/utf8.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum td_status op_begin_load(struct op_call *call)
{
    bool path = FIELDS_HAS(call->in, path);
    const struct bundle_format *format;
    if (path && call->body_length)
        return fail(TD_INVALID, "a path and a body came together; load takes one of them");
    if (!path && !call->body_length)
        return fail(TD_INVALID, "load needs a file: as its body, or the path of one that the "
                                "daemon may read");
    const struct text *prefix = FIELDS_HAS(call->in, prefix) ? &call->in->prefix : NULL;
    if (prefix && memchr(prefix->data, '\0', prefix->length))
        return fail(TD_INVALID, "the prefix has a NUL, which no name has");
    call->has_body = !path;
    if (FIELDS_HAS(call->in, format))
        return bundle_format_find(call->engine->formats, call->in->format, &format);
    return TD_OK;
}

/* ---- the file ----------------------------------------------------------------------------------
 */

static enum td_status read_path(struct op_call *call)
{
    _cleanup_(closep) int fd = -1;
    struct stat info;
    TRY(file_open(call->engine->load_roots, call->in->path, &fd, &info));
    call->body_length = (uint64_t)info.st_size;
    TRY(storage_create(call->device, call->account, call->body_length, false, &call->body_in));
    return file_read(fd, &info, call->body_in->memory.data);
}

static enum td_status read_items(struct op_call *call, const struct bundle_file *file,
                                 const struct bundle_format **format)
{
    const struct fields *in = call->in;
    struct engine *engine = call->engine;
    enum td_dtype hint = FIELDS_HAS(in, dtype) ? in->dtype : TD_DTYPE_NONE;
    if (FIELDS_HAS(in, format))
        TRY(bundle_format_find(engine->formats, in->format, format));
    else
        TRY(bundle_format_recognise(engine->formats, file, format));
    call->bundle.ledger = &engine->ledger;
    TRY((*format)->read(file, hint, engine->ledger.limits.memory_bytes, &call->bundle));
    size_t metadata = call->bundle.metadata ? strlen(call->bundle.metadata) : 0;
    return metadata <= BUNDLE_METADATA_MAX
               ? TD_OK
               : fail(TD_TOO_LARGE,
                      "the file has %zu bytes of metadata; at most %zu are taken: save it with "
                      "less",
                      metadata, BUNDLE_METADATA_MAX);
}

/* ---- the elements ------------------------------------------------------------------------------
 */

static bool is_aligned(const struct bundle *bundle)
{
    for (size_t i = 0; i < bundle->count; i++)
        if (bundle->items[i].offset % dtype_infos[bundle->items[i].dtype].size_bytes)
            return false;
    return true;
}

/* Moves the elements towards the start, where what stood before them leaves room for gaps. */
static void align_items(struct bundle *bundle, unsigned char *bytes)
{
    uint64_t at = 0;
    for (size_t i = 0; i < bundle->count; i++) {
        struct bundle_item *item = &bundle->items[i];
        uint64_t element = dtype_infos[item->dtype].size_bytes, size = bundle_item_bytes(item);
        at += -at & (element - 1);
        assert(at <= item->offset);
        memmove(bytes + at, bytes + item->offset, size);
        item->offset = at;
        at += size;
    }
}

/* Recycled memory between the items would show what it held before. */
static void clear_gaps(const struct bundle *bundle, unsigned char *bytes)
{
    uint64_t at = 0;
    for (size_t i = 0; i < bundle->count; i++) {
        const struct bundle_item *item = &bundle->items[i];
        memset(bytes + at, 0, item->offset - at);
        at = item->offset + bundle_item_bytes(item);
    }
    memset(bytes + at, 0, bundle->unpacked_bytes - at);
}

static enum td_status unpack(struct op_call *call, const struct bundle_format *format,
                             const struct bundle_file *file)
{
    _cleanup_(storage_unrefp) struct storage *storage = NULL;
    enum td_dtype hint = FIELDS_HAS(call->in, dtype) ? call->in->dtype : TD_DTYPE_NONE;
    struct bundle *bundle = &call->bundle;
    TRY(storage_create(call->device, call->account, bundle->unpacked_bytes, false, &storage));
    clear_gaps(bundle, storage->memory.data);
    TRY(format->unpack(file, hint, bundle, storage->memory.data));
    storage_unref(call->body_in);
    call->body_in = take(&storage);
    return TD_OK;
}

static void settle_byte_order(const struct bundle *bundle, unsigned char *bytes)
{
    for (size_t i = 0; i < bundle->count; i++) {
        const struct bundle_item *item = &bundle->items[i];
        if (item->big_endian)
            byte_order_swap(bytes + item->offset, bundle_item_bytes(item),
                            byte_order_unit(item->dtype));
    }
}

/* Brings the elements into the order that tensors have, in call->body_in. */
static enum td_status settle(struct op_call *call, const struct bundle_format *format,
                             const struct bundle_file *file)
{
    const char *reason = call->local && !FIELDS_HAS(call->in, path) ? "heap" : "transport";
    if (format->packed)
        TRY(unpack(call, format, file));
    unsigned char *bytes = call->body_in->memory.data;
    if (!is_aligned(&call->bundle)) {
        align_items(&call->bundle, bytes);
        reason = "alignment";
    }
    settle_byte_order(&call->bundle, bytes);
    FIELDS_SET(&call->out, memory, text_of("copied"));
    FIELDS_SET(&call->out, reason, text_of(reason));
    return TD_OK;
}

/* ---- the tensors -------------------------------------------------------------------------------
 */

static enum td_status item_layout(const struct bundle_item *item, struct layout *out)
{
    struct dims shape = item->shape, order = {.rank = item->shape.rank};
    for (int d = 0; d < shape.rank; d++) {
        order.v[d] = shape.rank - 1 - d;
        if (item->fortran_order)
            shape.v[d] = item->shape.v[shape.rank - 1 - d];
    }
    TRY(layout_contiguous(item->dtype, &shape, out));
    out->offset_bytes = (int64_t)item->offset;
    return item->fortran_order ? layout_permute(out, &order, out) : TD_OK;
}

/* "PREFIX/NAME", or the prefix alone for a tensor without a name; malloc'd. */
static enum td_status full_name(struct text prefix, const char *name, char **out)
{
    if (prefix.length && prefix.data[prefix.length - 1] == '/')
        prefix.length--;
    else if (!prefix.length && !name)
        return fail(TD_INVALID, "the file has one array, without a name; say with prefix what it "
                                "is to be called");
    size_t size = prefix.length + (name ? strlen(name) : 0) + 2;
    *out = malloc(size);
    if (!*out)
        return fail(TD_OUT_OF_MEMORY, "no memory for a name");
    snprintf(*out, size, "%.*s%s%s", TEXT_ARGS(prefix), prefix.length && name ? "/" : "",
             name ? name : "");
    return TD_OK;
}

static enum td_status name_item(struct bundle_item *item, struct text prefix)
{
    _cleanup_(freep) char *name = NULL;
    TRY(full_name(prefix, item->name, &name));
    if (name_check(text_of(name)) != TD_OK) {
        char why[FAIL_DETAIL_SIZE];
        snprintf(why, sizeof why, "%s", fail_detail());
        return fail(TD_INVALID, "the file's tensor '%.*s' cannot be stored: %s",
                    SHOWN(item->name ? item->name : ""), why);
    }
    free((char *)(uintptr_t)item->name);
    item->name = take(&name);
    return TD_OK;
}

static enum td_status make_tensor(struct op_call *call, struct bundle_item *item)
{
    const struct fields *in = call->in;
    struct layout layout;
    TRY(name_item(item, FIELDS_HAS(in, prefix) ? in->prefix : text_of("")));
    TRY(item_layout(item, &layout));
    TRY(tensor_create(call->body_in, &layout, &item->tensor));
    op_set_grad_asked(call, item->tensor);
    return TD_OK;
}

static enum td_status make_tensors(struct op_call *call)
{
    const struct bundle *bundle = &call->bundle;
    call->publications = calloc(bundle->count + 1, sizeof *call->publications);
    if (!call->publications)
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu names", bundle->count);
    for (size_t i = 0; i < bundle->count; i++) {
        TRY(make_tensor(call, &bundle->items[i]));
        call->publications[i].name = text_of(bundle->items[i].name);
        call->publications[i].tensor = bundle->items[i].tensor;
    }
    return TD_OK;
}

enum td_status op_run_load(struct op_call *call)
{
    const struct bundle_format *format = NULL;
    const struct fields *in = call->in;
    if (FIELDS_HAS(in, path))
        TRY(read_path(call));
    /* Not the storage's own size: a body whose length was not known may have more room. */
    struct bundle_file file = {call->body_in->memory.data, call->body_length};
    TRY(read_items(call, &file, &format));
    TRY(settle(call, format, &file));
    bool writable = FIELDS_HAS(in, mutable) && in->mutable;
    storage_finish(call->body_in, writable ? STORAGE_MUTABLE : STORAGE_FROZEN);
    if (call->bundle.metadata)
        FIELDS_SET(&call->out, metadata, text_of(call->bundle.metadata));
    return make_tensors(call);
}

enum td_status op_commit_load(struct op_call *call)
{
    const struct fields *in = call->in;
    size_t count = call->bundle.count;
    uint64_t ttl_ms = FIELDS_HAS(in, ttl_ms) ? in->ttl_ms : 0;
    struct store_condition condition = {.create_only =
                                            FIELDS_HAS(in, create_only) && in->create_only};
    TRY(store_publish_many(call->engine->store, call->publications, count, &condition, ttl_ms,
                           call->account));
    FIELDS_SET(&call->out, count, count);
    /* They are there now: a list that memory is missing for is cut short, and no error. */
    enum td_status status = TD_OK;
    for (size_t i = 0; i < count && status == TD_OK; i++) {
        struct fields entry;
        entry.present = 0;
        op_describe_name(&entry, call->publications[i].name, call->publications[i].generation,
                         ttl_ms);
        tensor_describe(call->publications[i].tensor, &entry);
        status = call->emit(call->sink, &entry);
    }
    return TD_OK;
}
