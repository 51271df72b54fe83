/* numpy_memory: NumPy's arrays in memory that can be given to the daemon (NEP 49).
 *
 * Compiled into the cffi module (build_ffi.py). NumPy is not needed to build: the two structs below
 * are its documented ABI (numpy/ndarraytypes.h, version 1 of the handler, NumPy 1.22 and later).
 *
 * Every array gets a memfd of its own, also a small one: memory is shared by whole memfds, so two
 * arrays in one would show each other to whoever gets either. Where the kernel has no descriptor
 * or no memory left, the array falls back to the heap; from_numpy then copies and says "heap".
 *
 * Threads: any, at once. Nothing here touches a Python object.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

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

static void *numpy_shared_alloc(size_t size_bytes)
{
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

static uintptr_t tdpy_numpy_handler(void)
{
    return (uintptr_t)&numpy_handler;
}
