/* segment: size classes, what is recycled and what never is, and the ledger around it. */
#include "core/segment.h"
#include "tests/unit/core_assert.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define SIZE (256 * KIB)
#define POOL_BYTES (4 * MIB)
#define LIMIT_BYTES (16 * MIB)
#define TAKEN_MAX 64 /* descriptors */

static struct ledger ledger;
static struct segment_pool *pool;
static int descriptors;

static int open_pool(void **state)
{
    struct ledger_limits limits = limits_of(LIMIT_BYTES);
    struct device_options options = {.ledger = &ledger, .pool_bytes = POOL_BYTES};
    (void)state;
    descriptors = open_descriptors();
    ledger_init(&ledger, &limits);
    return segment_pool_create(&options, &pool) != TD_OK;
}

static int close_pool(void **state)
{
    (void)state;
    segment_pool_destroy(pool);
    assert_ledger_empty(&ledger);
    ledger_finish(&ledger);
    assert_int_equal(open_descriptors(), descriptors);
    return 0;
}

static ino_t inode_of(int fd)
{
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    return info.st_ino;
}

static void assert_bytes(const struct memory *memory, size_t from, size_t to, unsigned char byte)
{
    const unsigned char *data = memory->data;
    for (size_t i = from; i < to; i++)
        if (data[i] != byte)
            fail_msg("byte %zu is 0x%02x, not 0x%02x", i, data[i], byte);
}

/* -- sizes -- */

static void size_classes(void **state)
{
    static const struct {
        size_t size, capacity;
    } rows[] = {
        {0, 0},
        {1, 4096},
        {4096, 4096},
        {4097, 8192},
        {64 * KIB, 64 * KIB},
        {64 * KIB + 1, 72 * KIB},
        {100 * KIB, 104 * KIB},
        {127 * KIB, 128 * KIB},
        {MIB, MIB},
        {MIB + 1, MIB + 128 * KIB},
        {15 * MIB, 15 * MIB},
        {15 * MIB + 1, 16 * MIB},
        {SIZE_MAX / 4, (size_t)1 << 62},
        {SIZE_MAX / 4 + 1, 0},
        {SIZE_MAX - 4096, 0},
        {SIZE_MAX, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++)
        assert_int_equal(segment_capacity(rows[i].size), rows[i].capacity);
    size_t before = 0;
    for (size_t size = 32 * KIB; size < 64 * MIB; size += size / 97 + 1) {
        size_t capacity = segment_capacity(size);
        assert_true(capacity >= size && capacity >= before && capacity % 4096 == 0);
        assert_true(capacity - size <= size / 8);
        assert_int_equal(segment_capacity(capacity), capacity);
        before = capacity;
    }
}

static void heap_below_64_kib(void **state)
{
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 64 * KIB - 1};
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct memory memory;
        assert_ok(segment_alloc(pool, sizes[i], false, &memory));
        assert_int_equal(memory.fd, -1);
        assert_int_equal((uintptr_t)(unsigned char *)memory.data % 64, 0);
        assert_true(memory.capacity >= sizes[i] && memory.charged_bytes >= memory.capacity);
        assert_int_equal(ledger.used.memory_bytes, memory.charged_bytes);
        assert_int_equal(ledger.used.descriptors, 0);
        assert_bytes(&memory, 0, memory.capacity, 0);
        segment_free(pool, &memory);
        assert_ledger_empty(&ledger);
    }
}

/* A memfd that nobody can resize, allocated to its last page, at an address for huge pages. */
static void memfd_from_64_kib(void **state)
{
    static const size_t sizes[] = {64 * KIB, 64 * KIB + 1, 3 * MIB + 5};
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct memory memory;
        struct stat info;
        assert_ok(segment_alloc(pool, sizes[i], false, &memory));
        assert_int_equal(memory.capacity, segment_capacity(sizes[i]));
        assert_int_equal(ledger.used.memory_bytes - ledger.pool_bytes, memory.capacity);
        assert_int_equal(ledger.used.descriptors, i + 1); /* the others are in the pool */
        assert_int_equal(fstat(memory.fd, &info), 0);
        assert_int_equal(info.st_size, memory.capacity);
        assert_true((uint64_t)info.st_blocks * 512 >= memory.capacity);
        assert_int_equal(info.st_mode & 0777, 0600);
        assert_int_equal(fcntl(memory.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        assert_int_equal(fcntl(memory.fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
        assert_int_equal(ftruncate(memory.fd, 0), -1);
        assert_int_equal(ftruncate(memory.fd, (off_t)memory.capacity * 2), -1);
        if (memory.capacity >= HUGE_PAGE_BYTES)
            assert_int_equal((uintptr_t)(unsigned char *)memory.data % HUGE_PAGE_BYTES, 0);
        memset(memory.data, 1, memory.capacity);
        segment_free(pool, &memory);
    }
}

/* -- recycling -- */

static void recycled_and_cleared(void **state)
{
    static const struct {
        size_t size;
        bool clear;
    } rows[] = {{SIZE, false}, {SIZE, true}, {SIZE - 5000, false}, {SIZE - 5000, true}};
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct memory first, second;
        assert_ok(segment_alloc(pool, SIZE, false, &first));
        memset(first.data, 0xAB, first.capacity);
        unsigned char *address = first.data;
        int fd = first.fd;
        segment_free(pool, &first);
        assert_int_equal(ledger.pool_bytes, SIZE);
        assert_int_equal(ledger.used.memory_bytes, SIZE);
        assert_ok(segment_alloc(pool, rows[i].size, rows[i].clear, &second));
        assert_ptr_equal((unsigned char *)second.data, address);
        assert_int_equal(second.fd, fd);
        assert_int_equal(ledger.pool_bytes, 0);
        assert_bytes(&second, rows[i].size, second.capacity, 0);
        if (rows[i].clear)
            assert_bytes(&second, 0, rows[i].size, 0);
        segment_free(pool, &second);
    }
}

/* Another size class gets other memory. */
static void not_recycled_across_classes(void **state)
{
    struct memory first, second;
    (void)state;
    assert_ok(segment_alloc(pool, SIZE, false, &first));
    ino_t inode = inode_of(first.fd);
    segment_free(pool, &first);
    assert_ok(segment_alloc(pool, SIZE / 2, false, &second));
    assert_int_not_equal(inode_of(second.fd), inode);
    assert_int_equal(ledger.pool_bytes, SIZE);
    segment_free(pool, &second);
    assert_int_equal(ledger.pool_bytes, SIZE + SIZE / 2);
}

/* What another process may still hold is never given to anybody else. */
static void never_recycled_once_shared(void **state)
{
    static const enum storage_mode modes[] = {STORAGE_FROZEN, STORAGE_SINGLE_WRITER,
                                              STORAGE_MUTABLE};
    (void)state;
    for (size_t i = 0; i < COUNT(modes); i++) {
        struct memory memory;
        assert_ok(segment_alloc(pool, SIZE, false, &memory));
        assert_ok(segment_seal(&memory, modes[i]));
        assert_true(memory.sealed && memory.exported && memory.read_fd >= 0);
        segment_free(pool, &memory);
        assert_ledger_empty(&ledger);
    }
    struct memory promoted;
    assert_ok(segment_alloc(pool, 100, false, &promoted));
    assert_ok(segment_promote(pool, &promoted));
    assert_ok(segment_seal(&promoted, STORAGE_MUTABLE));
    segment_free(pool, &promoted);
    assert_ledger_empty(&ledger);
}

static void pool_limit(void **state)
{
    struct memory memory[6];
    (void)state;
    for (size_t i = 0; i < COUNT(memory); i++)
        assert_ok(segment_alloc(pool, MIB, false, &memory[i]));
    for (size_t i = 0; i < COUNT(memory); i++)
        segment_free(pool, &memory[i]);
    assert_int_equal(ledger.pool_bytes, POOL_BYTES);
    assert_int_equal(ledger.used.memory_bytes, POOL_BYTES);
    assert_int_equal(ledger.used.descriptors, POOL_BYTES / MIB);
    struct memory large;
    assert_ok(segment_alloc(pool, POOL_BYTES + MIB, false, &large));
    segment_free(pool, &large);
    assert_int_equal(ledger.pool_bytes, POOL_BYTES);
}

/* -- the limit -- */

/* Pooled memory gives way before anything is refused, the oldest first and no more than needed. */
static void pool_dropped_when_full(void **state)
{
    struct memory pooled[2], used;
    (void)state;
    assert_ok(segment_alloc(pool, MIB, false, &pooled[0]));
    assert_ok(segment_alloc(pool, 2 * MIB, false, &pooled[1]));
    segment_free(pool, &pooled[0]);
    segment_free(pool, &pooled[1]);
    assert_ok(segment_alloc(pool, LIMIT_BYTES - 2 * MIB, false, &used));
    assert_int_equal(ledger.pool_bytes, 2 * MIB);
    assert_int_equal(ledger.used.memory_bytes, LIMIT_BYTES);
    segment_free(pool, &used);
    assert_ok(segment_alloc(pool, LIMIT_BYTES, false, &used));
    assert_int_equal(ledger.pool_bytes, 0);
    struct memory more;
    assert_refused(segment_alloc(pool, 1, false, &more), TD_OUT_OF_MEMORY, "in use");
    segment_free(pool, &used);
}

/* The same for descriptors. */
static void pool_dropped_for_descriptors(void **state)
{
    struct memory pooled, used[2];
    (void)state;
    ledger.limits.descriptors = 2;
    assert_ok(segment_alloc(pool, MIB, false, &pooled));
    segment_free(pool, &pooled);
    assert_ok(segment_alloc(pool, SIZE, false, &used[0]));
    assert_ok(segment_alloc(pool, SIZE, false, &used[1]));
    assert_int_equal(ledger.pool_bytes, 0);
    assert_refused(segment_alloc(pool, 2 * SIZE, false, &pooled), TD_OUT_OF_MEMORY,
                   "2 of 2 memory descriptors");
    segment_free(pool, &used[0]);
    segment_free(pool, &used[1]);
}

static void refused_sizes(void **state)
{
    static const size_t sizes[] = {LIMIT_BYTES + 1,  (size_t)1 << 40, SIZE_MAX / 4,
                                   SIZE_MAX / 4 + 1, SIZE_MAX - 64,   SIZE_MAX};
    struct memory memory;
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        assert_refused(segment_alloc(pool, sizes[i], false, &memory), TD_OUT_OF_MEMORY, "bytes");
        assert_ledger_empty(&ledger);
    }
}

/* A refusal at the reservation leaves small memory as it was. */
static void promotion_refused(void **state)
{
    struct memory memory;
    (void)state;
    assert_ok(segment_alloc(pool, 1000, false, &memory));
    memset(memory.data, 7, 1000);
    unsigned char *address = memory.data;
    ledger.fail_after = 1;
    assert_refused(segment_promote(pool, &memory), TD_OUT_OF_MEMORY, "for a test");
    assert_int_equal(memory.fd, -1);
    assert_ptr_equal((unsigned char *)memory.data, address);
    assert_bytes(&memory, 0, 1000, 7);
    segment_free(pool, &memory);
}

static void promotion_keeps_bytes(void **state)
{
    struct memory memory;
    (void)state;
    assert_ok(segment_alloc(pool, 5000, false, &memory));
    memset(memory.data, 7, 5000);
    const unsigned char *old = memory.data;
    uint64_t charged = memory.charged_bytes;
    assert_ok(segment_promote(pool, &memory));
    assert_true(memory.fd >= 0 && memory.data != old);
    assert_bytes(&memory, 0, 5000, 7);
    assert_bytes(&memory, 5000, memory.capacity, 0);
    assert_int_equal(old[4999], 7); /* a late reader's */
    assert_int_equal(ledger.used.memory_bytes, charged + memory.capacity);
    assert_int_equal(ledger.used.memory_bytes, memory.charged_bytes);
    int fd = memory.fd;
    assert_ok(segment_promote(pool, &memory));
    assert_int_equal(memory.fd, fd);
    assert_ok(segment_seal(&memory, STORAGE_MUTABLE));
    segment_free(pool, &memory);
}

/* -- failing to seal -- */

/* Runs it in a child, which must live to its end: an assertion or SIGSEGV is told by name. */
static void assert_child_survives(void (*body)(void))
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* cmocka's would go on with the next test */
        signal(SIGABRT, SIG_DFL);
        body();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status))
        fail_msg("the child died of %s", strsignal(WTERMSIG(status)));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* A writer's map in the way of F_SEAL_WRITE: the sealing fails, and the memory, whose own map is
 * read-only by now, must not be given to the next one who wants to write. */
static void seal_refused_child(void)
{
    struct memory memory, next;
    if (segment_alloc(pool, SIZE, false, &memory) != TD_OK)
        _exit(1);
    void *writer = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd, 0);
    if (writer == MAP_FAILED || segment_seal(&memory, STORAGE_FROZEN) != TD_CONFLICT)
        _exit(2);
    munmap(writer, SIZE);
    segment_free(pool, &memory);
    if (segment_alloc(pool, SIZE, true, &next) != TD_OK)
        _exit(3);
    memset(next.data, 1, SIZE);
    segment_free(pool, &next);
}

static void refused_seal_is_not_recycled(void **state)
{
    (void)state;
    assert_child_survives(seal_refused_child);
}

/* Takes every descriptor there is to take. */
static void take_descriptors(int *taken, int *count)
{
    const struct rlimit few = {.rlim_cur = TAKEN_MAX, .rlim_max = TAKEN_MAX};
    if (setrlimit(RLIMIT_NOFILE, &few) != 0)
        _exit(76);
    for (*count = 0; *count < TAKEN_MAX && (taken[*count] = dup(1)) >= 0;)
        ++*count;
    if (errno != EMFILE)
        _exit(77);
}

/* Promoted, but not sealed: no descriptor was left to reopen it for readers. */
static void promoted_unsealed_child(void)
{
    int taken[TAKEN_MAX], count;
    struct memory memory;
    if (segment_alloc(pool, 100, false, &memory) != TD_OK)
        _exit(1);
    take_descriptors(taken, &count);
    close(taken[--count]);
    if (segment_promote(pool, &memory) != TD_OK)
        _exit(2);
    if (segment_seal(&memory, STORAGE_MUTABLE) != TD_OUT_OF_MEMORY)
        _exit(3);
    if (!strstr(fail_detail(), "for readers") || !strstr(fail_detail(), "ulimit -n"))
        _exit(5);
    while (count > 0)
        close(taken[--count]);
    segment_free(pool, &memory);
    if (ledger.used.memory_bytes != ledger.pool_bytes)
        _exit(4);
}

static void out_of_descriptors_after_promotion(void **state)
{
    (void)state;
    assert_child_survives(promoted_unsealed_child);
}

/* No descriptor at all: refused, and nothing stays charged. */
static void no_descriptor_child(void)
{
    int taken[TAKEN_MAX], count;
    struct memory memory;
    take_descriptors(taken, &count);
    if (segment_alloc(pool, SIZE, false, &memory) != TD_OUT_OF_MEMORY)
        _exit(1);
    if (!strstr(fail_detail(), "ulimit -n") || !strstr(fail_detail(), "--max-descriptors"))
        _exit(3);
    if (ledger.used.memory_bytes || ledger.used.descriptors)
        _exit(2);
}

static void out_of_descriptors(void **state)
{
    (void)state;
    assert_child_survives(no_descriptor_child);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_pool, close_pool)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(size_classes),
        TEST(heap_below_64_kib),
        TEST(memfd_from_64_kib),
        TEST(recycled_and_cleared),
        TEST(not_recycled_across_classes),
        TEST(never_recycled_once_shared),
        TEST(pool_limit),
        TEST(pool_dropped_when_full),
        TEST(pool_dropped_for_descriptors),
        TEST(refused_sizes),
        TEST(promotion_refused),
        TEST(promotion_keeps_bytes),
        TEST(refused_seal_is_not_recycled),
        TEST(out_of_descriptors_after_promotion),
        TEST(out_of_descriptors),
    };
    return cmocka_run_group_tests_name("segment", tests, NULL, NULL);
}
