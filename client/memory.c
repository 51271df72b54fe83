/* memory: blocks for bodies, aligned maps, and memory that can be given to the daemon. */
#include "client/internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define BLOCK_ALIGNMENT 64
#define ALLOCATE_STEP_BYTES ((size_t)64 << 20) /* a signal undoes only one step */

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* 0 on overflow, which no allocation takes. */
static size_t round_up(size_t size, size_t granule)
{
    return size > SIZE_MAX - (granule - 1) ? 0 : (size + granule - 1) & ~(granule - 1);
}

/* Address space of which any part of size_bytes can begin where it should. */
static char *reserve(size_t size_bytes, size_t *reserved)
{
    if (size_bytes > SIZE_MAX - HUGE_PAGE_BYTES)
        return NULL;
    *reserved = size_bytes + HUGE_PAGE_BYTES;
    char *address =
        mmap(NULL, *reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return address == MAP_FAILED ? NULL : address;
}

void *map_aligned(int fd, size_t size_bytes, int protection, int flags, size_t offset)
{
    size_t size = round_up(size_bytes, page_size()), reserved;
    if (size == 0) {
        errno = ENOMEM;
        return NULL;
    }
    if (size < HUGE_PAGE_BYTES) {
        void *address = mmap(NULL, size, protection, flags, fd, (off_t)offset);
        return address == MAP_FAILED ? NULL : address;
    }
    char *space = reserve(size, &reserved);
    if (!space) {
        errno = ENOMEM;
        return NULL;
    }
    size_t skip = (offset - (uintptr_t)space) & (HUGE_PAGE_BYTES - 1);
    char *address = mmap(space + skip, size, protection, flags | MAP_FIXED, fd, (off_t)offset);
    if (address == MAP_FAILED) {
        int error = errno;
        munmap(space, reserved);
        errno = error;
        return NULL;
    }
    if (skip > 0)
        munmap(space, skip);
    munmap(address + size, reserved - skip - size);
    return address;
}

/* ---- blocks -------------------------------------------------------------------------------- */

void *block_alloc(size_t size_bytes)
{
    if (size_bytes < HUGE_PAGE_BYTES) {
        size_t size = round_up(size_bytes ? size_bytes : 1, BLOCK_ALIGNMENT);
        return aligned_alloc(BLOCK_ALIGNMENT, size);
    }
    void *block =
        map_aligned(-1, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, 0);
    if (block) /* page faults cost more than the copy */
        madvise(block, size_bytes, MADV_HUGEPAGE);
    return block;
}

void block_free(void *block, size_t size_bytes)
{
    if (block && size_bytes >= HUGE_PAGE_BYTES)
        munmap(block, round_up(size_bytes, page_size()));
    else
        free(block);
}

/* ---- regions ------------------------------------------------------------------------------- */

struct region {
    char *base;
    size_t size_bytes;
    int fd;
    bool allocated; /* by td_shared_alloc; else a mapping */
};

/* Sorted by address. */
static pthread_mutex_t regions_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct region *regions;
static size_t region_count, region_capacity;

void regions_lock(void)
{
    pthread_mutex_lock(&regions_mutex);
}

void regions_unlock(void)
{
    pthread_mutex_unlock(&regions_mutex);
}

/* The number of regions that begin at or before the address. The caller holds the lock. */
static size_t regions_up_to(const void *address)
{
    size_t low = 0, high = region_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uintptr_t)regions[middle].base <= (uintptr_t)address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool region_add(void *base, size_t size_bytes, int fd, bool allocated)
{
    bool added = false;
    regions_lock();
    if (region_count == region_capacity) {
        size_t capacity = region_capacity ? region_capacity * 2 : 64;
        struct region *grown = realloc(regions, capacity * sizeof *grown);
        if (grown) {
            regions = grown;
            region_capacity = capacity;
        }
    }
    if (region_count < region_capacity) {
        size_t at = regions_up_to(base);
        memmove(&regions[at + 1], &regions[at], (region_count - at) * sizeof *regions);
        regions[at] = (struct region){base, size_bytes, fd, allocated};
        region_count++;
        added = true;
    }
    regions_unlock();
    return added;
}

bool region_remove(const void *base, bool allocated, int *fd, size_t *size_bytes)
{
    regions_lock();
    size_t at = regions_up_to(base);
    const struct region *region = at > 0 ? &regions[at - 1] : NULL;
    bool found = region && region->base == base && region->allocated == allocated;
    if (found) {
        *fd = region->fd;
        *size_bytes = region->size_bytes;
        memmove(&regions[at - 1], &regions[at], (region_count - at) * sizeof *regions);
        region_count--;
    }
    regions_unlock();
    return found;
}

/* The region around an address, NULL if there is none. The caller holds the lock. */
static const struct region *region_around(const void *address)
{
    size_t at = regions_up_to(address);
    if (at == 0)
        return NULL;
    const struct region *region = &regions[at - 1];
    return (uintptr_t)address - (uintptr_t)region->base < region->size_bytes ? region : NULL;
}

bool region_find(const void *address, const void **base, size_t *size_bytes, int *fd)
{
    regions_lock();
    const struct region *region = region_around(address);
    if (region) {
        *fd = fcntl(region->fd, F_DUPFD_CLOEXEC, 0);
        *base = region->base;
        *size_bytes = region->size_bytes;
    }
    regions_unlock();
    return region != NULL;
}

bool td_shared_owns(const void *address)
{
    regions_lock();
    bool owned = region_around(address) != NULL;
    regions_unlock();
    return owned;
}

/* ---- shared memory ------------------------------------------------------------------------- */

/* Huge pages, where the kernel has them: touched (an empty extent cannot be collapsed), collapsed.
 * Without them all goes on, slower. */
static void fault_in_huge(char *base, size_t size_bytes)
{
    size_t huge = size_bytes & ~(HUGE_PAGE_BYTES - 1);
    for (size_t at = 0; at < huge; at += HUGE_PAGE_BYTES)
        *(volatile char *)(base + at) = 0;
    if (huge > 0)
        madvise(base, huge, MADV_COLLAPSE);
}

/* All pages, so that nobody who touches them later has to pay, or die, for them. */
static bool allocate_all(int fd, size_t size_bytes)
{
    for (size_t at = 0; at < size_bytes;) {
        size_t step = size_bytes - at < ALLOCATE_STEP_BYTES ? size_bytes - at : ALLOCATE_STEP_BYTES;
        if (fallocate(fd, 0, (off_t)at, (off_t)step) == 0)
            at += step;
        else if (errno != EINTR)
            return false;
    }
    return true;
}

static char *shared_create(int fd, size_t size_bytes)
{
    if (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t)size_bytes) < 0)
        return NULL;
    char *base = map_aligned(fd, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
    if (!base)
        return NULL;
    fault_in_huge(base, size_bytes);
    if (allocate_all(fd, size_bytes) && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0 &&
        region_add(base, size_bytes, fd, true))
        return base;
    int error = errno ? errno : ENOMEM;
    munmap(base, size_bytes);
    errno = error;
    return NULL;
}

void *td_shared_alloc(size_t size_bytes)
{
    size_t size = round_up(size_bytes ? size_bytes : 1, page_size());
    if (size == 0 || size > INT64_MAX || !memory_allows(size)) {
        errno = ENOMEM;
        return NULL;
    }
    int fd = memfd_create("tensord-client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return NULL;
    errno = 0;
    char *base = shared_create(fd, size);
    if (!base) {
        int error = errno ? errno : ENOMEM;
        close(fd);
        errno = error;
    }
    return base;
}

void td_shared_free(void *memory)
{
    int fd;
    size_t size;
    if (!memory)
        return;
    bool found = region_remove(memory, true, &fd, &size);
    assert(found); /* no pointer of td_shared_alloc, or freed before */
    if (!found)
        return;
    munmap(memory, size);
    close(fd);
}
