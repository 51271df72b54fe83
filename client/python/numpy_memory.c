/* numpy_memory: NumPy's arrays in memory that can be given to the daemon (NEP 49).
 *
 * Compiled into the cffi module (build_ffi.py). NumPy is not needed to build: the two structs below
 * are its documented ABI (numpy/ndarraytypes.h, version 1 of the handler, NumPy 1.22 and later).
 *
 * Every array gets a memfd of its own, also a small one: memory is shared by whole memfds, so two
 * arrays in one would show each other to whoever gets either. The process's last descriptors are
 * left to the rest of it (files, sockets): from there on, and where the kernel has no memory left,
 * arrays fall back to the heap; from_numpy then copies and says "heap".
 *
 * Threads: any, at once. Nothing here touches a Python object.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

struct numpy_allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size_bytes);
    void *(*calloc)(void *ctx, size_t count, size_t size_bytes);
    void *(*realloc)(void *ctx, void *memory, size_t size_bytes);
    void (*free)(void *ctx, void *memory, size_t size_bytes);
};

struct numpy_handler {
    char name[127];
    uint8_t version;
    struct numpy_allocator allocator;
};

/* What is handed out, by address: realloc is not told the old size, and free has to know the heap's
 * blocks from ours. Not kept in the blocks themselves, which other processes may write to. */
struct numpy_block {
    void *memory;
    size_t size_bytes;
    struct numpy_block *next;
};

#define NUMPY_BUCKETS 4096
static struct numpy_block *numpy_blocks[NUMPY_BUCKETS];
static pthread_mutex_t numpy_lock = PTHREAD_MUTEX_INITIALIZER;

/* A child finds the lock free, whatever the parent's other threads were doing. */
static void numpy_before_fork(void)
{
    pthread_mutex_lock(&numpy_lock);
}

static void numpy_after_fork(void)
{
    pthread_mutex_unlock(&numpy_lock);
}

__attribute__((constructor)) static void numpy_watch_forks(void)
{
    pthread_atfork(numpy_before_fork, numpy_after_fork, numpy_after_fork);
}

static struct numpy_block **numpy_bucket(const void *memory)
{
    return &numpy_blocks[((uintptr_t)memory >> 12) % NUMPY_BUCKETS]; /* blocks begin on pages */
}

static struct numpy_block **numpy_find(const void *memory)
{
    struct numpy_block **link = numpy_bucket(memory);
    while (*link && (*link)->memory != memory)
        link = &(*link)->next;
    return link;
}

/* The first descriptor number that arrays leave alone: a quarter of the limit lies above it, and 64
 * at least. The limit is that of the first array; a process that lowers it later has to reckon with
 * the descriptors it already has anyway. */
#define NUMPY_SPARE_DESCRIPTORS 64
static pthread_once_t numpy_limit_once = PTHREAD_ONCE_INIT;
static int numpy_descriptors;

static void numpy_limit_read(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return; /* none for arrays */
    rlim_t count = limit.rlim_cur < INT32_MAX ? limit.rlim_cur : INT32_MAX;
    rlim_t spare = count / 4 > NUMPY_SPARE_DESCRIPTORS ? count / 4 : NUMPY_SPARE_DESCRIPTORS;
    numpy_descriptors = count > spare ? (int)(count - spare) : 0;
}

/* True if the next descriptor, which is the lowest free number, is one that arrays may take. */
static bool numpy_descriptor_left(void)
{
    pthread_once(&numpy_limit_once, numpy_limit_read);
    int next = eventfd(0, EFD_CLOEXEC);
    if (next < 0)
        return false;
    close(next);
    return next < numpy_descriptors;
}

static void *numpy_shared_alloc(size_t size_bytes)
{
    if (!numpy_descriptor_left())
        return NULL;
    struct numpy_block *block = malloc(sizeof *block);
    if (!block)
        return NULL;
    block->size_bytes = size_bytes ? size_bytes : 1;
    block->memory = td_shared_alloc(block->size_bytes);
    if (!block->memory) {
        free(block);
        return NULL;
    }
    void *memory = block->memory;
    pthread_mutex_lock(&numpy_lock);
    struct numpy_block **bucket = numpy_bucket(memory);
    block->next = *bucket;
    *bucket = block;
    pthread_mutex_unlock(&numpy_lock);
    return memory;
}

/* Frees a block of ours; false for memory of the heap. */
static bool numpy_shared_free(void *memory)
{
    pthread_mutex_lock(&numpy_lock);
    struct numpy_block **link = numpy_find(memory);
    struct numpy_block *block = *link;
    if (block)
        *link = block->next;
    pthread_mutex_unlock(&numpy_lock);
    if (!block)
        return false;
    td_shared_free(block->memory);
    free(block);
    return true;
}

/* The size of a block of ours, 0 for memory of the heap. */
static size_t numpy_shared_size(const void *memory)
{
    pthread_mutex_lock(&numpy_lock);
    struct numpy_block *block = *numpy_find(memory);
    size_t size_bytes = block ? block->size_bytes : 0;
    pthread_mutex_unlock(&numpy_lock);
    return size_bytes;
}

static void *numpy_malloc(void *ctx, size_t size_bytes)
{
    (void)ctx;
    void *memory = numpy_shared_alloc(size_bytes);
    return memory ? memory : malloc(size_bytes ? size_bytes : 1);
}

static void *numpy_calloc(void *ctx, size_t count, size_t size_bytes)
{
    (void)ctx;
    size_t total_bytes;
    if (__builtin_mul_overflow(count, size_bytes, &total_bytes))
        return NULL;
    void *memory = numpy_shared_alloc(total_bytes); /* zeroed */
    return memory ? memory : calloc(total_bytes ? total_bytes : 1, 1);
}

static void numpy_free(void *ctx, void *memory, size_t size_bytes)
{
    (void)ctx;
    (void)size_bytes;
    if (memory && !numpy_shared_free(memory))
        free(memory);
}

static void *numpy_realloc(void *ctx, void *memory, size_t size_bytes)
{
    if (!memory)
        return numpy_malloc(ctx, size_bytes);
    size_t old_bytes = numpy_shared_size(memory);
    if (!old_bytes)
        return realloc(memory, size_bytes ? size_bytes : 1);
    void *moved = numpy_malloc(ctx, size_bytes);
    if (!moved)
        return NULL;
    memcpy(moved, memory, old_bytes < size_bytes ? old_bytes : size_bytes);
    numpy_free(ctx, memory, old_bytes);
    return moved;
}

static struct numpy_handler numpy_handler = {
    .name = "tensord_shared",
    .version = 1,
    .allocator = {.malloc = numpy_malloc,
                  .calloc = numpy_calloc,
                  .realloc = numpy_realloc,
                  .free = numpy_free},
};

/* What PyCapsule_New takes for NumPy. A capsule does not copy its name, and NumPy asks for it when
 * the last array goes, which may be after Python's own objects: hence a name of the library's. */
static const struct {
    struct numpy_handler *handler;
    const char *name;
} numpy_capsule = {&numpy_handler, "mem_handler"};

/* The address of the two pointers above, for ctypes. */
static uintptr_t tdpy_numpy_handler(void)
{
    return (uintptr_t)&numpy_capsule;
}
