/* storages: the storages of the daemon that are mapped here, each once. */
#include "client/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static struct storage_map **bucket_of_id(struct td_client *client, uint64_t storage)
{
    return &client->storages_by_id[storage % STORAGE_BUCKETS];
}

static struct storage_map **bucket_of_name(struct td_client *client, const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return &client->storages_by_name[hash % STORAGE_BUCKETS];
}

/* A writable mapping serves readers as well, but of memory that only one may write to: a stray
 * write of a reader is to reach nobody. */
static bool serves(const struct storage_map *storage, bool write)
{
    return storage->writable == write || (storage->writable && !storage->refilled);
}

/* The caller holds the lock. */
static struct storage_map *find_by_id(struct td_client *client, uint64_t storage, uint64_t session,
                                      bool write)
{
    for (struct storage_map *s = *bucket_of_id(client, storage); s; s = s->next_by_id)
        if (s->storage == storage && s->session == session && serves(s, write)) {
            s->refs++;
            return s;
        }
    return NULL;
}

struct storage_map *storage_guess(struct td_client *client, const char *name, bool write)
{
    pthread_mutex_lock(&client->lock);
    struct storage_map *s = *bucket_of_name(client, name);
    while (s && (s->session != client->session || !serves(s, write) || strcmp(s->name, name) != 0))
        s = s->next_by_name;
    if (s)
        s->refs++;
    pthread_mutex_unlock(&client->lock);
    return s;
}

/* The caller holds the lock. */
static void link_storage(struct td_client *client, struct storage_map *storage)
{
    struct storage_map **by_id = bucket_of_id(client, storage->storage);
    struct storage_map **by_name = bucket_of_name(client, storage->name);
    storage->next_by_id = *by_id;
    storage->next_by_name = *by_name;
    *by_id = *by_name = storage;
}

/* The caller holds the lock. */
static void unlink_storage(struct td_client *client, struct storage_map *storage)
{
    struct storage_map **at = bucket_of_id(client, storage->storage);
    while (*at != storage)
        at = &(*at)->next_by_id;
    *at = storage->next_by_id;
    at = bucket_of_name(client, storage->name);
    while (*at != storage)
        at = &(*at)->next_by_name;
    *at = storage->next_by_name;
}

static void storage_destroy(struct storage_map *storage)
{
    int fd;
    size_t size;
    if (!storage)
        return;
    if (storage->fd >= 0) { /* no longer to be found before it is gone */
        (void)region_remove(storage->base, false, &fd, &size);
        close(storage->fd);
    }
    if (storage->base)
        munmap(storage->base, storage->size_bytes);
    free(storage);
}
CLEANUP_DEFINE(struct storage_map *, storage_destroy)

void storage_put(struct td_client *client, struct storage_map *storage)
{
    if (!storage)
        return;
    pthread_mutex_lock(&client->lock);
    bool last = --storage->refs == 0;
    if (last)
        unlink_storage(client, storage);
    pthread_mutex_unlock(&client->lock);
    if (last)
        storage_destroy(storage);
}

enum td_status storage_check_descriptor(const struct td_info *info, const struct td_reply *reply)
{
    struct stat file;
    if (reply->descriptor < 0)
        return fail(TD_PROTOCOL, "the daemon shares storage %" PRIu64 " without its descriptor",
                    info->storage);
    if (fstat(reply->descriptor, &file) < 0)
        return fail(TD_PROTOCOL, "the descriptor of storage %" PRIu64 " cannot be used: %s",
                    info->storage, strerror(errno));
    if (file.st_size < 0 || (uint64_t)file.st_size < info->storage_bytes)
        return fail(TD_PROTOCOL,
                    "storage %" PRIu64 " is said to have %" PRIu64 " bytes, and its "
                    "descriptor has %jd",
                    info->storage, info->storage_bytes, (intmax_t)file.st_size);
    int seals = fcntl(reply->descriptor, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return fail(TD_PROTOCOL,
                    "the descriptor of storage %" PRIu64 " is not sealed against "
                    "shrinking; reading it could end this process",
                    info->storage);
    return TD_OK;
}

enum td_status mapping_failed(uint64_t storage, size_t size_bytes, bool write, int error)
{
    enum td_status status = error == ENOMEM ? TD_OUT_OF_MEMORY : TD_UNSUPPORTED;
    return fail(status, "%zu bytes of storage %" PRIu64 " cannot be mapped for %s: %s", size_bytes,
                storage, write ? "writing" : "reading", strerror(error));
}

/* Readers may write all the same: programs that are given the address do not all know that they
 * must not (PyTorch ignores that a NumPy array is read-only), and the kernel would end the process.
 * So their mapping is copy-on-write; a page that nobody wrote to goes on showing the storage. Where
 * that much private memory is not allowed (RLIMIT_DATA, vm.overcommit_memory 2), such a write is
 * fatal. */
static void *map_storage(int fd, size_t size_bytes, bool write, bool refilled)
{
    if (refilled && !write) /* a page that was copied would show what was there before */
        return map_aligned(fd, size_bytes, PROT_READ, MAP_SHARED, 0);
    if (write)
        return map_aligned(fd, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
    void *base =
        map_aligned(fd, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, 0);
    return base ? base : map_aligned(fd, size_bytes, PROT_READ, MAP_SHARED, 0);
}

void storages_after_fork(struct td_client *client)
{
    for (size_t i = 0; i < STORAGE_BUCKETS; i++)
        for (struct storage_map *s = client->storages_by_id[i]; s; s = s->next_by_id) {
            if (!s->writable || !s->refilled)
                continue;
            /* The parent goes on filling it, item after item: a write of the child's could come
             * into one that was handed over long ago. In place, so that whoever unmaps it later
             * unmaps nothing else. */
            (void)mprotect(s->base, s->size_bytes, PROT_READ);
            s->writable = false;
        }
}

/* Maps the reply's descriptor, and keeps it when the mapping is writable. */
static enum td_status storage_create(const char *name, bool write, const struct td_info *info,
                                     struct td_reply *reply, struct storage_map **out)
{
    TRY(storage_check_descriptor(info, reply));
    size_t name_size = strlen(name) + 1;
    _cleanup_(storage_destroyp) struct storage_map *s = calloc(1, sizeof *s + name_size);
    if (!s)
        return fail(TD_OUT_OF_MEMORY, "no memory for a mapping");
    memcpy(s->name, name, name_size);
    s->refs = 1;
    s->storage = info->storage;
    s->session = reply->session;
    s->writable = write;
    s->fd = -1;
    s->size_bytes = info->storage_bytes;
    s->refilled = strcmp(info->mode, "mutable") != 0;
    s->base = map_storage(reply->descriptor, s->size_bytes, write,
                          strcmp(info->mode, "single-writer") == 0);
    if (!s->base)
        return mapping_failed(s->storage, s->size_bytes, write, errno);
    if (write && region_add(s->base, s->size_bytes, reply->descriptor, false)) {
        s->fd = reply->descriptor;
        reply->descriptor = -1;
    }
    *out = take(&s);
    return TD_OK;
}

struct storage_map *storage_known(struct td_client *client, uint64_t storage, uint64_t session,
                                  bool write)
{
    pthread_mutex_lock(&client->lock);
    struct storage_map *found = find_by_id(client, storage, session, write);
    pthread_mutex_unlock(&client->lock);
    return found;
}

enum td_status storage_get(struct td_client *client, const char *name, bool write,
                           const struct td_info *info, struct td_reply *reply,
                           struct storage_map **out)
{
    pthread_mutex_lock(&client->lock);
    *out = find_by_id(client, info->storage, reply->session, write);
    pthread_mutex_unlock(&client->lock);
    if (*out)
        return TD_OK;

    _cleanup_(storage_destroyp) struct storage_map *made = NULL;
    TRY(storage_create(name, write, info, reply, &made));
    pthread_mutex_lock(&client->lock);
    *out = find_by_id(client, info->storage, reply->session, write); /* by another thread, now? */
    if (!*out) {
        *out = take(&made);
        link_storage(client, *out);
    }
    pthread_mutex_unlock(&client->lock);
    return TD_OK;
}
