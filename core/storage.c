#include "core/storage.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/stat.h>

static atomic_ullong last_id;

void storage_ids_begin(uint64_t first)
{
    atomic_store(&last_id, first);
}

/* The storages whose memfd is known outside, by inode, so that a descriptor which comes back is
 * known again. Entries are weak: a storage leaves the registry before it is freed. */
static struct storage *known;
static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;

/* Enters the storage, unless it is there; without memory for the table it is just not known again.
 */
static void known_add(struct storage *storage)
{
    struct storage *other = NULL;
    struct stat info;
    if (fstat(storage->memory.fd, &info) != 0)
        return;
    uint64_t inode = info.st_ino;
    pthread_mutex_lock(&known_lock);
    HASH_FIND(hh, known, &inode, sizeof inode, other);
    if (!other) {
        storage->inode = inode;
        HASH_ADD(hh, known, inode, sizeof inode, storage);
        if (!storage->hh.tbl)
            storage->inode = 0;
    }
    pthread_mutex_unlock(&known_lock);
}

static void known_remove(struct storage *storage)
{
    pthread_mutex_lock(&known_lock);
    if (storage->inode)
        HASH_DEL(known, storage);
    pthread_mutex_unlock(&known_lock);
}

/* A reference to the storage whose memfd this descriptor refers to, NULL if there is none: none was
 * known, or its last reference is already gone and it is about to leave the registry. */
static struct storage *known_find(int fd)
{
    struct storage *storage = NULL;
    struct stat info, known_info;
    if (fcntl(fd, F_GET_SEALS) < 0 || fstat(fd, &info) != 0)
        return NULL; /* no memfd: files elsewhere may have the same number */
    uint64_t inode = info.st_ino;
    pthread_mutex_lock(&known_lock);
    HASH_FIND(hh, known, &inode, sizeof inode, storage);
    if (storage &&
        (fstat(storage->memory.fd, &known_info) != 0 || known_info.st_dev != info.st_dev))
        storage = NULL;
    if (storage) {
        unsigned refs = atomic_load(&storage->refs);
        while (refs && !atomic_compare_exchange_weak(&storage->refs, &refs, refs + 1))
            ;
        if (!refs)
            storage = NULL;
    }
    pthread_mutex_unlock(&known_lock);
    return storage;
}

static enum td_status storage_new(struct device *device, struct storage **out)
{
    struct storage *storage = calloc(1, sizeof *storage);
    if (!storage)
        return fail(TD_OUT_OF_MEMORY, "no memory for a storage's head");
    atomic_init(&storage->refs, 1);
    storage->id = atomic_fetch_add(&last_id, 1) + 1;
    storage->device = device;
    atomic_init(&storage->mode, STORAGE_BUILDING);
    pthread_rwlock_init(&storage->lock, NULL);
    *out = storage;
    return TD_OK;
}

static void storage_delete(struct storage *storage)
{
    pthread_rwlock_destroy(&storage->lock);
    free(storage);
}

enum td_status storage_create(struct device *device, uint64_t size_bytes, bool clear,
                              struct storage **out)
{
    struct storage *storage = NULL;
    TRY(storage_new(device, &storage));
    storage->size_bytes = size_bytes;
    enum td_status status = device->ops->alloc(device, size_bytes, clear, &storage->memory);
    if (status != TD_OK) {
        storage_delete(storage);
        return status;
    }
    *out = storage;
    return TD_OK;
}

/* What the giver's seals allow: with FUTURE_WRITE only the giver, who mapped it before, writes. */
static enum storage_mode imported_mode(const struct memory *memory)
{
    int seals = fcntl(memory->fd, F_GET_SEALS);
    return seals & F_SEAL_WRITE          ? STORAGE_FROZEN
           : seals & F_SEAL_FUTURE_WRITE ? STORAGE_SINGLE_WRITER
                                         : STORAGE_MUTABLE;
}

enum td_status storage_import(struct device *device, int given_fd, struct storage **out)
{
    _cleanup_(closep) int fd = given_fd;
    struct storage *storage = NULL;
    if ((*out = known_find(fd)))
        return TD_OK;
    TRY(storage_new(device, &storage));
    int handed_over = fd;
    fd = -1;
    enum td_status status = device->ops->import(device, handed_over, &storage->memory);
    if (status != TD_OK) {
        storage_delete(storage);
        return status;
    }
    storage->size_bytes = storage->memory.capacity;
    storage->imported = true;
    storage_finish(storage, imported_mode(&storage->memory));
    known_add(storage);
    *out = storage;
    return TD_OK;
}

struct storage *storage_ref(struct storage *storage)
{
    atomic_fetch_add_explicit(&storage->refs, 1, memory_order_relaxed);
    return storage;
}

void storage_unref(struct storage *storage)
{
    if (!storage || atomic_fetch_sub_explicit(&storage->refs, 1, memory_order_acq_rel) != 1)
        return;
    known_remove(storage);
    storage->device->ops->free(storage->device, &storage->memory);
    storage_delete(storage);
}

void storage_finish(struct storage *storage, enum storage_mode mode)
{
    assert(storage_mode_of(storage) == STORAGE_BUILDING && mode != STORAGE_BUILDING);
    atomic_store(&storage->mode, mode);
}

enum storage_mode storage_mode_of(const struct storage *storage)
{
    return (enum storage_mode)atomic_load(&storage->mode);
}

const char *storage_mode_name(enum storage_mode mode)
{
    static const char *const names[] = {"building", "frozen", "single-writer", "mutable"};
    return names[mode];
}

enum td_status storage_share(struct storage *storage, bool write, int *fd)
{
    enum storage_mode mode = storage_mode_of(storage);
    if (write && (mode != STORAGE_MUTABLE || storage->memory.read_only))
        return fail(TD_FROZEN,
                    "the tensor's memory is %s and cannot be mapped for writing; clone it, or "
                    "store it with mutable",
                    storage_mode_name(mode));
    /* Once it is sealed nothing is left to be done, and no writer to be waited for. */
    if (atomic_load(&storage->memory.sealed))
        return storage->device->ops->share(storage->device, &storage->memory, mode, write, fd);
    pthread_rwlock_wrlock(&storage->lock);
    enum td_status status =
        storage->device->ops->share(storage->device, &storage->memory, mode, write, fd);
    if (status == TD_OK && !storage->inode)
        known_add(storage);
    pthread_rwlock_unlock(&storage->lock);
    return status;
}

/* `sealed` is set before a descriptor leaves, and read here without the lock. A descriptor for
 * reading counts as well: its holder can open the memfd again for writing, through /proc. */
bool storage_is_exposed(const struct storage *storage)
{
    switch (storage_mode_of(storage)) {
    case STORAGE_MUTABLE:
        return storage->imported || atomic_load(&storage->memory.sealed);
    case STORAGE_SINGLE_WRITER: /* the giver, or the daemon itself */
        return storage->imported;
    default:
        return false;
    }
}

uint64_t storage_mapped_bytes(const struct storage *storage)
{
    return storage->memory.capacity;
}

enum td_status storage_write_begin(struct storage *storage)
{
    enum storage_mode mode = storage_mode_of(storage);
    if (mode == STORAGE_FROZEN || storage->memory.read_only)
        return fail(TD_FROZEN,
                    "the tensor's memory is %s: in-place operations cannot change it; clone it, "
                    "or store it with mutable",
                    storage_mode_name(mode));
    pthread_rwlock_wrlock(&storage->lock);
    return TD_OK;
}

void storage_write_end(struct storage *storage)
{
    pthread_rwlock_unlock(&storage->lock);
    storage_touch(storage);
}

void storage_touch(struct storage *storage)
{
    atomic_fetch_add(&storage->epoch, 1);
}
