/* mapping: td_map, td_unmap. What td_allocate maps is in allocate.c. */
#include "client/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#define MAP_FLAGS (TD_MAP_WRITE | TD_MAP_PRIVATE | TD_MAP_NUMPY | TD_MAP_FORCE)

/* What the data of a tensor without elements points at. */
static _Alignas(64) char no_elements[64];

/* The elements came as the reply's body, in C order. */
static enum td_status use_copy(struct td_mapping *mapping)
{
    struct td_info *info = &mapping->info;
    struct layout layout;
    TRY(tensor_describe(info->dtype, info->rank, info->shape, &layout));
    if (mapping->reply->body_bytes != (uint64_t)info->nbytes)
        return fail(TD_PROTOCOL, "the daemon sent %zu bytes for a tensor of %" PRId64,
                    mapping->reply->body_bytes, info->nbytes);
    memcpy(info->strides, layout.strides, sizeof layout.strides);
    info->offset_bytes = 0;
    mapping->span_bytes = (size_t)info->nbytes;
    mapping->data = mapping->reply->body ? mapping->reply->body : no_elements;
    mapping->writable = true;
    return TD_OK;
}

static enum td_status check_layout(const struct td_info *info, struct layout *out)
{
    struct dims shape = {.rank = info->rank}, strides = {.rank = info->rank};
    memcpy(shape.v, info->shape, sizeof shape.v);
    memcpy(strides.v, info->strides, sizeof strides.v);
    if (layout_strided(info->dtype, &shape, &strides, (uint64_t)info->offset_bytes,
                       info->storage_bytes, out) == TD_OK)
        return TD_OK;
    char detail[FAIL_DETAIL_SIZE];
    strcpy(detail, fail_detail());
    return fail(TD_PROTOCOL,
                "the daemon describes a tensor that does not fit its storage of %" PRIu64
                " bytes: %.800s",
                info->storage_bytes, detail);
}

enum td_status mapping_check_layout(struct td_mapping *mapping)
{
    struct layout layout;
    TRY(check_layout(&mapping->info, &layout));
    mapping->span_bytes = (size_t)layout_span_bytes(&layout);
    mapping->data = no_elements;
    return TD_OK;
}

/* Copy-on-write, of the tensor's own pages only: two such mappings must not see each other's
 * writes, so they are not shared between td_mappings. */
static enum td_status use_private(struct td_mapping *mapping)
{
    const struct td_info *info = &mapping->info;
    TRY(storage_check_descriptor(info, mapping->reply));
    size_t offset = (size_t)info->offset_bytes, start = offset & ~(HUGE_PAGE_BYTES - 1);
    size_t size = offset - start + mapping->span_bytes;
    mapping->own = map_aligned(mapping->reply->descriptor, size, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_NORESERVE, start);
    if (!mapping->own)
        return mapping_failed(info->storage, size, true, errno);
    mapping->own_bytes = size;
    mapping->data = (char *)mapping->own + (offset - start);
    mapping->writable = true;
    return TD_OK;
}

static enum td_status use_shared(struct td_mapping *mapping, const char *name, unsigned flags)
{
    bool write = (flags & TD_MAP_WRITE) != 0;
    TRY(mapping_check_layout(mapping));
    if (mapping->span_bytes == 0) {
        mapping->writable = (flags & (TD_MAP_WRITE | TD_MAP_PRIVATE)) != 0;
        return TD_OK;
    }
    if (flags & TD_MAP_PRIVATE)
        return use_private(mapping);
    TRY(storage_get(mapping->client, name, write, &mapping->info, mapping->reply,
                    &mapping->storage));
    if (mapping->storage->size_bytes < mapping->info.storage_bytes)
        return fail(TD_PROTOCOL,
                    "the daemon gives two sizes for storage %" PRIu64 ", %zu and %" PRIu64 " bytes",
                    mapping->info.storage, mapping->storage->size_bytes,
                    mapping->info.storage_bytes);
    mapping->data = mapping->storage->base + mapping->info.offset_bytes;
    mapping->writable = write;
    return TD_OK;
}

enum td_status mapping_new(struct td_client *client, struct td_reply *reply,
                           struct td_mapping **out)
{
    struct td_mapping *m = calloc(1, sizeof *m);
    if (!m) {
        if (FIELDS_HAS(&reply->fields, lease))
            client_release(client, true, reply->fields.lease, reply->session);
        td_reply_free(reply);
        return fail(TD_OUT_OF_MEMORY, "no memory for a mapping");
    }
    _cleanup_(td_unmapp) struct td_mapping *mapping = m;
    client_ref(client);
    mapping->client = client;
    mapping->reply = reply;
    mapping->fd = -1;
    mapping->leased =
        FIELDS_HAS(&reply->fields, lease) && client_leased(client, reply->session, &mapping->forks);
    if (mapping->leased)
        mapping->lease = reply->fields.lease;
    TRY(td_reply_info(reply, &mapping->info));
    *out = take(&mapping);
    return TD_OK;
}

/* Takes the reply over, also on failure. */
static enum td_status mapping_create(struct td_client *client, const char *name, unsigned flags,
                                     struct td_reply *reply, struct td_mapping **out)
{
    _cleanup_(td_unmapp) struct td_mapping *mapping = NULL;
    TRY(mapping_new(client, reply, &mapping));
    if (strcmp(mapping->info.memory, "copied") == 0)
        TRY(use_copy(mapping));
    else if (strcmp(mapping->info.memory, "shared") == 0)
        TRY(use_shared(mapping, name, flags));
    else
        return fail(TD_PROTOCOL,
                    "the daemon says '%s' instead of whether '%s' was shared or "
                    "copied",
                    mapping->info.memory, name);
    if (reply->descriptor >= 0)
        close(reply->descriptor); /* the mapping holds the memory */
    reply->descriptor = -1;
    *out = take(&mapping);
    return TD_OK;
}

/* One attempt. guess: the storage to tell the daemon as known; may be NULL. *stale: the answer
 * relies on it, but comes from another session than the one that knew it. */
static enum td_status map_once(struct td_client *client, const char *name, unsigned flags,
                               uint64_t session, const struct storage_map *guess, bool *stale,
                               struct td_mapping **out)
{
    struct fields fields;
    struct td_reply *reply;
    fields.present = 0;
    FIELDS_SET(&fields, input, text_of(name));
    if (flags & TD_MAP_WRITE)
        FIELDS_SET(&fields, write, true);
    if (flags & TD_MAP_FORCE)
        FIELDS_SET(&fields, force, true);
    if (guess)
        FIELDS_SET(&fields, known_storage, guess->storage);
    struct call call = {
        .op = flags & TD_MAP_NUMPY ? OP_numpy : OP_map,
        .fields = &fields,
        .descriptor = -1,
        .session = session,
    };
    TRY(client_call(client, &call, &reply));
    *stale = guess && reply->session != guess->session && reply->descriptor < 0;
    if (!*stale)
        return mapping_create(client, name, flags, reply, out);
    if (FIELDS_HAS(&reply->fields, lease))
        client_release(client, true, reply->fields.lease, reply->session);
    td_reply_free(reply);
    return TD_OK;
}

enum td_status td_map(struct td_client *client, const char *name, unsigned flags,
                      struct td_mapping **out)
{
    return mapping_of(client, name, flags, 0, out);
}

enum td_status mapping_of(struct td_client *client, const char *name, unsigned flags,
                          uint64_t session, struct td_mapping **out)
{
    if (!name)
        return fail(TD_INVALID, "no name was given (NULL)");
    if (flags & ~(unsigned)MAP_FLAGS || (flags & TD_MAP_FORCE && !(flags & TD_MAP_NUMPY)))
        return fail(TD_INVALID,
                    "the flags %#x of td_map are unknown, or TD_MAP_FORCE without "
                    "TD_MAP_NUMPY",
                    flags);
    struct storage_map *guess = NULL;
    if (flags & TD_MAP_PRIVATE)
        flags &= ~(unsigned)TD_MAP_WRITE; /* nobody else sees the writes */
    else if (!client_is_foreign(client))
        guess = storage_guess(client, name, (flags & TD_MAP_WRITE) != 0);
    bool stale = false;
    enum td_status status = map_once(client, name, flags, session, guess, &stale, out);
    storage_put(client, guess);
    if (status == TD_OK && stale)
        status = map_once(client, name, flags, session, NULL, &stale, out);
    return status;
}

void td_unmap(struct td_mapping *mapping)
{
    if (!mapping)
        return;
    storage_put(mapping->client, mapping->storage);
    int fd;
    size_t size;
    if (mapping->region) /* no longer to be found before it is gone */
        (void)region_remove(mapping->own, false, &fd, &size);
    if (mapping->own)
        munmap(mapping->own, mapping->own_bytes);
    if (mapping->fd >= 0)
        close(mapping->fd);
    if (mapping->holds)
        client_release(mapping->client, false, mapping->info.id, mapping->reply->session);
    if (mapping->leased)
        client_unleased(mapping->client, mapping->lease, false, mapping->reply->session,
                        mapping->forks);
    td_reply_free(mapping->reply);
    item_unref(mapping->item);
    client_unref(mapping->client);
    free(mapping);
}

void *td_mapping_data(const struct td_mapping *mapping)
{
    return mapping->data;
}

bool td_mapping_writable(const struct td_mapping *mapping)
{
    const struct storage_map *storage = mapping->storage;
    return mapping->writable && (!storage || storage->writable); /* not so after fork() */
}

const struct td_info *td_mapping_info(const struct td_mapping *mapping)
{
    return &mapping->info;
}

size_t td_mapping_span(const struct td_mapping *mapping)
{
    return mapping->span_bytes;
}
