/* allocate: td_allocate, td_publish, td_seal.
 *
 * Such memory is mapped for its td_mapping alone, outside the table of storages: whoever maps the
 * tensor later gets a mapping of what it has become.
 */
#include "client/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define PUBLISH_FLAGS (TD_PUT_REQUIRES_GRAD | TD_PUT_CREATE_ONLY)

/* ---- td_allocate --------------------------------------------------------------------------- */

/* The whole storage, and its descriptor for what td_publish will do. */
static enum td_status map_for_filling(struct td_mapping *mapping)
{
    const struct td_info *info = &mapping->info;
    struct td_reply *reply = mapping->reply;
    TRY(mapping_check_layout(mapping));
    mapping->writable = true;
    if (mapping->span_bytes == 0)
        return TD_OK;
    TRY(storage_check_descriptor(info, reply));
    mapping->own =
        map_aligned(reply->descriptor, info->storage_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
    if (!mapping->own)
        return mapping_failed(info->storage, info->storage_bytes, true, errno);
    mapping->own_bytes = info->storage_bytes;
    mapping->data = (char *)mapping->own + info->offset_bytes;
    mapping->fd = take_fd(&reply->descriptor);
    return TD_OK;
}

enum td_status td_allocate(struct td_client *client, enum td_dtype dtype, int rank,
                           const int64_t *shape, struct td_mapping **out)
{
    struct layout layout;
    struct fields fields;
    struct td_reply *reply;
    TRY(tensor_describe(dtype, rank, shape, &layout));
    fields.present = 0;
    FIELDS_SET(&fields, dtype, layout.dtype);
    FIELDS_SET(&fields, shape, (struct dims){.rank = rank});
    memcpy(fields.shape.v, layout.shape, (size_t)rank * sizeof *fields.shape.v);
    struct call call = {.op = OP_allocate, .fields = &fields, .descriptor = -1};
    TRY(client_call(client, &call, &reply));

    _cleanup_(td_unmapp) struct td_mapping *mapping = NULL;
    TRY(mapping_new(client, reply, &mapping));
    mapping->holds = true;
    TRY(map_for_filling(mapping));
    *out = take(&mapping);
    return TD_OK;
}

/* ---- td_publish ---------------------------------------------------------------------------- */

/* Another mapping of the same bytes at the same address; errno on failure. */
static bool remap(const struct td_mapping *mapping, int protection, int flags)
{
    return mmap(mapping->own, mapping->own_bytes, protection, flags | MAP_FIXED, mapping->fd, 0) !=
           MAP_FAILED;
}

/* As long as a shared mapping could be made writable, the kernel does not seal the memory. Readers
 * may write all the same, see map_storage. */
static enum td_status become_private(struct td_mapping *mapping)
{
    if (mapping->writable && mapping->fd >= 0 &&
        !remap(mapping, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE) &&
        !remap(mapping, PROT_READ, MAP_PRIVATE))
        return mapping_failed(mapping->info.storage, mapping->own_bytes, false, errno);
    mapping->writable = false;
    return TD_OK;
}

/* The daemon did not take it: as it was before, unless the kernel refuses that, because the memory
 * is frozen. */
static void become_writable(struct td_mapping *mapping)
{
    mapping->writable = mapping->fd < 0 || remap(mapping, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void published(struct td_mapping *mapping, const char *mode)
{
    mapping->info.mode = mode;
    if (strcmp(mode, "mutable") == 0 && mapping->fd >= 0 && !mapping->region)
        mapping->region = region_add(mapping->own, mapping->own_bytes, mapping->fd, false);
    if (!mapping->region && mapping->fd >= 0) {
        close(mapping->fd);
        mapping->fd = -1;
    }
}

/* One of the modes; NULL for none of them. */
static const char *mode_of(const struct fields *fields)
{
    static const char *const modes[] = {"frozen", "single-writer", "mutable"};
    if (!FIELDS_HAS(fields, mode))
        return modes[0];
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (text_equal(fields->mode, modes[i]))
            return modes[i];
    return NULL;
}

static enum td_status publish(struct td_client *client, struct td_mapping *mapping,
                              struct fields *fields, struct td_reply **out)
{
    char object[32];
    struct td_reply *reply;
    const char *mode = mode_of(fields);
    if (!mapping->holds || mapping->client != client)
        return fail(TD_INVALID, "the mapping is none that td_allocate gave with this client");
    if (!FIELDS_HAS(fields, output))
        return fail(TD_INVALID, "no name was given to publish it under");
    bool freezes = mode && strcmp(mode, "frozen") == 0, was_writable = mapping->writable;
    if (freezes)
        TRY(become_private(mapping));
    snprintf(object, sizeof object, "@%llu", (unsigned long long)mapping->info.id);
    FIELDS_SET(fields, input, text_of(object));
    struct call call = {
        .op = OP_publish, .fields = fields, .descriptor = -1, .session = mapping->reply->session};
    enum td_status status = client_call(client, &call, &reply);
    if (freezes && was_writable && call_was_refused(status))
        become_writable(mapping);
    TRY(status);
    published(mapping, mode);
    if (out)
        *out = reply;
    else
        td_reply_free(reply);
    return TD_OK;
}

enum td_status td_publish_args(struct td_client *client, struct td_mapping *mapping,
                               const struct td_args *args, struct td_reply **reply)
{
    struct fields fields;
    fields.present = 0;
    TRY(args_check(args));
    if (args)
        fields = args->fields;
    return publish(client, mapping, &fields, reply);
}

enum td_status td_publish(struct td_client *client, const char *name, struct td_mapping *mapping,
                          const char *mode, unsigned flags, struct td_reply **reply)
{
    struct fields fields;
    fields.present = 0;
    if (flags & ~(unsigned)PUBLISH_FLAGS)
        return fail(TD_INVALID, "unknown flags %#x of td_publish", flags);
    if (name)
        FIELDS_SET(&fields, output, text_of(name));
    if (mode)
        FIELDS_SET(&fields, mode, text_of(mode));
    if (flags & TD_PUT_REQUIRES_GRAD)
        FIELDS_SET(&fields, requires_grad, true);
    if (flags & TD_PUT_CREATE_ONLY)
        FIELDS_SET(&fields, create_only, true);
    return publish(client, mapping, &fields, reply);
}

/* ---- td_seal ------------------------------------------------------------------------------- */

enum td_status td_seal(struct td_client *client, const char *name, int64_t wait_ms,
                       struct td_reply **out)
{
    struct fields fields;
    struct td_reply *reply;
    fields.present = 0;
    if (!name)
        return fail(TD_INVALID, "no name was given (NULL)");
    FIELDS_SET(&fields, input, text_of(name));
    if (wait_ms >= 0)
        FIELDS_SET(&fields, wait_ms, (uint64_t)wait_ms);
    struct call call = {.op = OP_seal, .fields = &fields, .descriptor = -1};
    TRY(client_call(client, &call, &reply));
    if (out)
        *out = reply;
    else
        td_reply_free(reply);
    return TD_OK;
}
