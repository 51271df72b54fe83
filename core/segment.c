#include "core/segment.h"

#include "core/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define HEAP_ALIGNMENT 64
#define HEAP_OVERHEAD 64 /* what malloc itself keeps, charged with every heap block */
#define POOL_SLOTS 256

struct segment_pool {
    struct ledger *ledger;
    size_t memfd_min_bytes;
    uint64_t limit_bytes;
    pthread_mutex_t lock;
    int count; /* slots in use, the oldest first */
    uint64_t bytes;
    struct memory slots[POOL_SLOTS];
};

static size_t round_up(size_t size, size_t granule) /* granule a power of two; checked by callers */
{
    return (size + granule - 1) & ~(granule - 1);
}

size_t segment_capacity(size_t size)
{
    if (size == 0 || size > SIZE_MAX / 4)
        return 0;
    size_t granule = ((size_t)1 << (63 - __builtin_clzll(size))) / 8;
    if (granule < 4096)
        granule = 4096;
    return round_up(size, granule);
}

static void segment_unmap(struct memory *memory)
{
    munmap(memory->data, memory->capacity);
    if (memory->fd >= 0)
        close(memory->fd);
    if (memory->read_fd >= 0)
        close(memory->read_fd);
}

/* Back to the kernel, and out of the ledger. */
static void segment_destroy(struct segment_pool *pool, struct memory *memory)
{
    free(memory->retired);
    if (memory->fd < 0)
        free(memory->data);
    else
        segment_unmap(memory);
    ledger_release(pool->ledger, memory->charged_bytes, memory->fd < 0 ? 0 : 1, 0);
}

static void memory_move(struct memory *to, const struct memory *from)
{
    atomic_init(&to->data, atomic_load_explicit(&from->data, memory_order_relaxed));
    to->capacity = from->capacity;
    to->fd = from->fd;
    to->read_fd = from->read_fd;
    to->exported = from->exported;
    to->imported = from->imported;
    to->sealed = from->sealed;
    to->read_only = from->read_only;
    to->retired = from->retired;
    to->charged_bytes = from->charged_bytes;
}

/* Takes slot i out of the pool. The caller holds the lock. */
static void pool_take(struct segment_pool *pool, int i, struct memory *out)
{
    memory_move(out, &pool->slots[i]);
    pool->count--;
    for (int k = i; k < pool->count; k++)
        memory_move(&pool->slots[k], &pool->slots[k + 1]);
    pool->bytes -= out->capacity;
    ledger_pool(pool->ledger, -(int64_t)out->capacity);
}

/* The most recently used segment of that capacity: its lines may still be in the cache. */
static bool pool_find(struct segment_pool *pool, size_t capacity, struct memory *out)
{
    bool found = false;
    pthread_mutex_lock(&pool->lock);
    for (int i = pool->count - 1; i >= 0 && !found; i--)
        if (pool->slots[i].capacity == capacity) {
            pool_take(pool, i, out);
            found = true;
        }
    pthread_mutex_unlock(&pool->lock);
    return found;
}

/* Gives the oldest pooled segment back to the kernel; false if there is none. */
static bool pool_drop_oldest(void *argument)
{
    struct segment_pool *pool = argument;
    struct memory oldest;
    pthread_mutex_lock(&pool->lock);
    bool found = pool->count > 0;
    if (found)
        pool_take(pool, 0, &oldest);
    pthread_mutex_unlock(&pool->lock);
    if (found)
        segment_destroy(pool, &oldest);
    return found;
}

enum td_status segment_pool_create(const struct device_options *options, struct segment_pool **out)
{
    struct segment_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return fail(TD_OUT_OF_MEMORY, "no memory for the segment pool");
    pool->ledger = options->ledger;
    pool->limit_bytes = options->pool_bytes;
    pool->memfd_min_bytes = options->memfd_min_bytes ? options->memfd_min_bytes : MEMFD_MIN_BYTES;
    pthread_mutex_init(&pool->lock, NULL);
    pool->ledger->reclaim = pool_drop_oldest;
    pool->ledger->reclaim_argument = pool;
    *out = pool;
    return TD_OK;
}

void segment_pool_destroy(struct segment_pool *pool)
{
    if (!pool)
        return;
    while (pool_drop_oldest(pool))
        ;
    pool->ledger->reclaim = NULL;
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/* Maps fd at an address that huge pages can use. MAP_FAILED without room. */
static void *map_aligned(int fd, size_t size, int protection)
{
    if (size < HUGE_PAGE_BYTES)
        return mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    size_t span = size + HUGE_PAGE_BYTES;
    char *reserved =
        mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED)
        return MAP_FAILED;
    char *aligned = reserved + (-(uintptr_t)reserved & (HUGE_PAGE_BYTES - 1));
    if (aligned > reserved)
        munmap(reserved, (size_t)(aligned - reserved));
    char *end = aligned + round_up(size, 4096);
    munmap(end, (size_t)(reserved + span - end));
    void *mapped = mmap(aligned, size, protection, MAP_SHARED | MAP_FIXED, fd, 0);
    if (mapped == MAP_FAILED)
        munmap(aligned, size);
    return mapped;
}

/* Allocates every page: huge ones by collapse, which needs one page of each extent to be there, the
 * rest by fallocate, which finds nothing to do where that worked. Nothing is touched before it is
 * allocated: where memory may not be overcommitted, that would be SIGBUS and not an error. */
static int populate(int fd, char *data, size_t size)
{
    size_t huge = size & ~(HUGE_PAGE_BYTES - 1);
    for (size_t i = 0; i < huge; i += HUGE_PAGE_BYTES)
        if (fallocate(fd, 0, (off_t)i, 1) != 0 && errno != EINTR)
            return -1;
    if (huge)
        (void)madvise(data, huge, MADV_COLLAPSE); /* without it: small pages, slower and as right */
    int rc;
    do
        rc = fallocate(fd, 0, 0, (off_t)size);
    while (rc != 0 && errno == EINTR);
    return rc;
}

/* The ledger had room, and the kernel has none: it was promised too much. */
static enum td_status kernel_refuses(const char *what, size_t size, int error)
{
    const char *remedy = error == EMFILE || error == ENFILE
                             ? "give the daemon more open files (ulimit -n), or fewer descriptors "
                               "(--max-descriptors)"
                             : "the machine has less for it than --memory-limit says";
    return fail(TD_OUT_OF_MEMORY, "%s, of %zu bytes: %s; release what is not used, or %s", what,
                size, strerror(error), remedy);
}

static enum td_status memfd_create_sealed(size_t capacity, struct memory *out)
{
    _cleanup_(closep) int fd = memfd_create("tensord", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return kernel_refuses("making shared memory", capacity, errno);
    if (ftruncate(fd, (off_t)capacity) != 0 || fchmod(fd, 0600) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
        return kernel_refuses("making shared memory", capacity, errno);
    void *data = map_aligned(fd, capacity, PROT_READ | PROT_WRITE);
    if (data == MAP_FAILED)
        return kernel_refuses("mapping shared memory", capacity, errno);
    if (populate(fd, data, capacity) != 0) {
        enum td_status status = kernel_refuses("allocating shared memory", capacity, errno);
        munmap(data, capacity);
        return status;
    }
    atomic_init(&out->data, data);
    out->capacity = out->charged_bytes = capacity;
    out->fd = fd;
    fd = -1;
    return TD_OK;
}

static enum td_status memfd_alloc(struct segment_pool *pool, size_t size, bool clear,
                                  struct memory *out)
{
    size_t capacity = segment_capacity(size);
    if (capacity == 0)
        return fail(TD_OUT_OF_MEMORY, "%zu bytes are more than any machine has", size);
    if (pool_find(pool, capacity, out)) {
        size_t keep = clear ? 0 : size;
        memset(out->data + keep, 0, capacity - keep);
        return TD_OK;
    }
    TRY(ledger_reserve(pool->ledger, capacity, 1, 0));
    enum td_status status = memfd_create_sealed(capacity, out);
    if (status != TD_OK)
        ledger_release(pool->ledger, capacity, 1, 0);
    return status;
}

static enum td_status heap_alloc(struct segment_pool *pool, size_t size, struct memory *out)
{
    size_t capacity = round_up(size ? size : 1, HEAP_ALIGNMENT);
    size_t charged = capacity + HEAP_OVERHEAD;
    TRY(ledger_reserve(pool->ledger, charged, 0, 0));
    void *data = aligned_alloc(HEAP_ALIGNMENT, capacity);
    if (!data) {
        ledger_release(pool->ledger, charged, 0, 0);
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu bytes", size);
    }
    memset(data, 0, capacity); /* small: cheaper than telling the cases apart */
    atomic_init(&out->data, data);
    out->capacity = capacity;
    out->charged_bytes = charged;
    return TD_OK;
}

static void memory_init(struct memory *memory)
{
    memset(memory, 0, sizeof *memory);
    memory->fd = memory->read_fd = -1;
}

enum td_status segment_alloc(struct segment_pool *pool, size_t size, bool clear, struct memory *out)
{
    memory_init(out);
    return size < pool->memfd_min_bytes ? heap_alloc(pool, size, out)
                                        : memfd_alloc(pool, size, clear, out);
}

void segment_free(struct segment_pool *pool, struct memory *memory)
{
    bool kept = false;
    /* Only what nobody outside has seen; and not what a seal that failed left half sealed. */
    bool clean = !memory->exported && !memory->sealed && !memory->read_only && !memory->retired;
    if (memory->fd >= 0 && clean) {
        pthread_mutex_lock(&pool->lock);
        kept = pool->count < POOL_SLOTS && memory->capacity <= pool->limit_bytes &&
               pool->bytes <= pool->limit_bytes - memory->capacity;
        if (kept) {
            memory_move(&pool->slots[pool->count++], memory);
            pool->bytes += memory->capacity;
            ledger_pool(pool->ledger, (int64_t)memory->capacity);
        }
        pthread_mutex_unlock(&pool->lock);
    }
    if (!kept)
        segment_destroy(pool, memory);
}

enum td_status segment_promote(struct segment_pool *pool, struct memory *memory)
{
    if (memory->fd >= 0)
        return TD_OK;
    struct memory larger;
    memory_init(&larger);
    TRY(memfd_alloc(pool, memory->capacity, true, &larger));
    memcpy(larger.data, memory->data, memory->capacity);
    memory->retired = memory->data; /* its charge stays until the storage ends */
    memory->fd = larger.fd;
    memory->capacity = larger.capacity;
    memory->charged_bytes += larger.charged_bytes;
    atomic_store(&memory->data, atomic_load(&larger.data));
    return TD_OK;
}

static enum td_status open_read_only(struct memory *memory)
{
    char path[40];
    if (memory->read_fd >= 0)
        return TD_OK;
    snprintf(path, sizeof path, "/proc/self/fd/%d", memory->fd);
    memory->read_fd = open(path, O_RDONLY | O_CLOEXEC);
    /* A giver of another user may have kept the file's mode to itself; the seals are what counts.
     */
    if (memory->read_fd < 0 && errno == EACCES && memory->imported)
        memory->read_fd = fcntl(memory->fd, F_DUPFD_CLOEXEC, 0);
    if (memory->read_fd < 0 && (errno == EMFILE || errno == ENFILE))
        return kernel_refuses("opening shared memory for readers", memory->capacity, errno);
    if (memory->read_fd < 0)
        return fail(TD_UNAVAILABLE, "opening shared memory for readers: %s; is /proc mounted?",
                    strerror(errno));
    return TD_OK;
}

static enum td_status import_check(int fd, struct stat *info)
{
    struct statfs filesystem;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || fstat(fd, info) != 0 || fstatfs(fd, &filesystem) != 0)
        return fail(TD_INVALID, "the descriptor is not a memfd; make the memory with memfd_create "
                                "and MFD_ALLOW_SEALING, or with td_shared_alloc");
    if (filesystem.f_type != TMPFS_MAGIC)
        return fail(TD_INVALID, "the memfd has huge-TLB pages; make it without MFD_HUGETLB");
    if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
        return fail(TD_INVALID,
                    "the memfd is not sealed; add F_SEAL_SHRINK and F_SEAL_GROW before giving it");
    if (!(seals & F_SEAL_WRITE) && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR)
        return fail(TD_INVALID, "the descriptor is open for reading only, and the memfd is not "
                                "sealed against writing; give one that is open for both");
    if (info->st_size <= 0)
        return fail(TD_INVALID, "the memfd is empty");
    if (info->st_blocks < info->st_size / 512 + (info->st_size % 512 != 0))
        return fail(TD_INVALID,
                    "the memfd has holes (%lld of %lld bytes are allocated); "
                    "fallocate it before giving it",
                    (long long)info->st_blocks * 512, (long long)info->st_size);
    return TD_OK;
}

/* What is sealed against writing is mapped through a descriptor for reading: kernels before 6.7
 * refuse a shared map of it through one for both. */
static enum td_status map_imported(struct memory *memory, size_t size)
{
    if (memory->read_only)
        TRY(open_read_only(memory));
    /* Holes that a file's block count can hide would be filled at the daemon's own expense later.
     */
    else if (fallocate(memory->fd, 0, 0, (off_t)size) != 0)
        return fail(TD_INVALID, "the memfd cannot be allocated: %s", strerror(errno));
    void *data = memory->read_only ? map_aligned(memory->read_fd, size, PROT_READ)
                                   : map_aligned(memory->fd, size, PROT_READ | PROT_WRITE);
    if (data == MAP_FAILED)
        return fail(TD_INVALID, "the memfd cannot be mapped: %s", strerror(errno));
    atomic_init(&memory->data, data);
    memory->capacity = size;
    return TD_OK;
}

enum td_status segment_import(struct segment_pool *pool, int given_fd, struct memory *out)
{
    _cleanup_(closep) int fd = given_fd;
    struct stat info;
    memory_init(out);
    TRY(import_check(fd, &info));
    size_t size = (size_t)info.st_size;
    TRY(ledger_reserve(pool->ledger, size, 1, 0));
    out->fd = take_fd(&fd);
    out->charged_bytes = size;
    out->exported = out->imported = true;
    out->read_only = (fcntl(out->fd, F_GET_SEALS) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0;
    enum td_status status = map_imported(out, size);
    if (status != TD_OK) {
        ledger_release(pool->ledger, size, 1, 0);
        closep(&out->fd);
        closep(&out->read_fd);
    }
    return status;
}

/* Replaces the daemon's own mapping by another of the same bytes. -1 with errno. */
static int remap(struct memory *memory, bool write)
{
    /* Not through libc's mmap, which the thread sanitizer would take for a write of the bytes. */
    long mapped = syscall(SYS_mmap, (void *)memory->data, (size_t)memory->capacity,
                          write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED,
                          write ? memory->fd : memory->read_fd, 0L);
    return mapped == -1 ? -1 : 0;
}

/* By one that cannot write, at the same address: whoever reads from it in another thread sees one
 * or the other, with the same bytes. */
static enum td_status remap_read_only(struct memory *memory)
{
    if (memory->read_only)
        return TD_OK;
    if (remap(memory, false) != 0)
        return kernel_refuses("mapping shared memory for reading", memory->capacity, errno);
    memory->read_only = true;
    return TD_OK;
}

/* A client that was to fill the memory may have sealed it itself, and against further seals. */
static enum td_status add_seals(int fd, int seals)
{
    if (fcntl(fd, F_ADD_SEALS, seals) == 0)
        return TD_OK;
    int error = errno, there = fcntl(fd, F_GET_SEALS);
    if (error == EPERM && there >= 0 && (there & seals) == seals)
        return TD_OK;
    if (error == EBUSY || error == EPERM)
        return fail(TD_CONFLICT, "the memory is still mapped for writing by who filled it");
    return fail(TD_UNAVAILABLE, "sealing shared memory: %s; try again", strerror(error));
}

enum td_status segment_seal(struct memory *memory, enum storage_mode mode)
{
    static const int seals[] = {
        [STORAGE_FROZEN] = F_SEAL_WRITE | F_SEAL_SEAL,
        [STORAGE_SINGLE_WRITER] = F_SEAL_FUTURE_WRITE | F_SEAL_SEAL,
        [STORAGE_MUTABLE] = F_SEAL_SEAL,
    };
    assert(memory->fd >= 0);
    if (memory->sealed)
        return TD_OK;
    TRY(open_read_only(memory));
    if (mode == STORAGE_BUILDING) {
        memory->exported = true;
        return TD_OK;
    }
    /* Who has filled it is the one writer, not the daemon. */
    bool others_write = mode == STORAGE_SINGLE_WRITER && memory->exported;
    if (!memory->imported && (mode == STORAGE_FROZEN || others_write))
        TRY(remap_read_only(memory));
    enum td_status status = TD_OK;
    if (!memory->imported) /* those of a giver are its own, and made the mode */
        status = add_seals(memory->fd, seals[mode]);
    if (status == TD_OK)
        memory->sealed = memory->exported = true;
    else if (!memory->imported && memory->read_only && remap(memory, true) == 0)
        memory->read_only = false; /* it may yet become what the daemon writes to */
    return status;
}
