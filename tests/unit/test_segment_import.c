/* segment: a client's own memory, and every descriptor that is none. */
#include "core/segment.h"
#include "tests/unit/core_assert.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define LIMIT_BYTES (4 * MIB)
#define RESIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static struct ledger ledger;
static struct segment_pool *pool;
static int descriptors;

static int open_pool(void **state)
{
    struct ledger_limits limits = limits_of(LIMIT_BYTES);
    struct device_options options = {.ledger = &ledger, .pool_bytes = LIMIT_BYTES};
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

/* A memfd of a client's, filled with 0x11 as far as `allocated`. */
static int client_memfd(size_t size, size_t allocated, int seals)
{
    unsigned char bytes[4096];
    memset(bytes, 0x11, sizeof bytes);
    int fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    for (size_t done = 0, part; done < allocated; done += part) {
        part = allocated - done < sizeof bytes ? allocated - done : sizeof bytes;
        assert_int_equal(pwrite(fd, bytes, part, (off_t)done), part);
    }
    if (seals)
        assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void accepted(void **state)
{
    static const size_t sizes[] = {1, 100, 4096, 5000, 64 * KIB, 3 * MIB};
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct memory memory;
        int fd = client_memfd(sizes[i], sizes[i], RESIZE_SEALS);
        assert_ok(segment_import(pool, fd, &memory));
        assert_int_equal(memory.fd, fd);
        assert_int_equal(memory.capacity, sizes[i]);
        assert_true(memory.exported && !memory.read_only);
        assert_int_equal(ledger.used.memory_bytes, sizes[i]);
        assert_int_equal(ledger.used.descriptors, 1);
        unsigned char *data = memory.data, seen;
        assert_int_equal(data[sizes[i] - 1], 0x11);
        data[0] = 0x22;
        assert_int_equal(pread(fd, &seen, 1, 0), 1);
        assert_int_equal(seen, 0x22);
        segment_free(pool, &memory); /* the client still has it: never into the pool */
        assert_ledger_empty(&ledger);
        assert_int_equal(fcntl(fd, F_GETFD), -1);
    }
}

/* Memory that can no longer be written is mapped for reading. */
static void write_sealed(void **state)
{
    static const int seals[] = {F_SEAL_WRITE, F_SEAL_FUTURE_WRITE, F_SEAL_WRITE | F_SEAL_SEAL};
    (void)state;
    for (size_t i = 0; i < COUNT(seals); i++) {
        struct memory memory;
        int fd = client_memfd(MIB, MIB, RESIZE_SEALS | seals[i]);
        assert_ok(segment_import(pool, fd, &memory));
        assert_true(memory.read_only);
        assert_int_equal(((unsigned char *)memory.data)[MIB - 1], 0x11);
        segment_free(pool, &memory);
    }
}

static int a_pipe(void)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    close(ends[1]);
    return ends[0];
}

static int a_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int a_file_in(const char *directory)
{
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        assert_int_equal(posix_fallocate(fd, 0, 4096), 0);
    else
        print_message("%s has no O_TMPFILE: %s\n", directory, strerror(errno));
    return fd;
}

static int a_file(void)
{
    return a_file_in("/var/tmp");
}

static int a_tmpfs_file(void)
{
    return a_file_in("/dev/shm");
}

static int a_directory(void)
{
    return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int a_path(void)
{
    return open("/", O_PATH | O_CLOEXEC);
}

static int a_null(void)
{
    return open("/dev/null", O_RDWR | O_CLOEXEC);
}

static int unsealed(void)
{
    return client_memfd(4096, 4096, 0);
}

static int only_shrink(void)
{
    return client_memfd(4096, 4096, F_SEAL_SHRINK);
}

static int only_grow(void)
{
    return client_memfd(4096, 4096, F_SEAL_GROW);
}

static int unsealable(void)
{
    int fd = memfd_create("client", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, 4096), 0);
    assert_int_equal(fallocate(fd, 0, 0, 4096), 0);
    return fd;
}

static int huge_tlb(void)
{
    int fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
    if (fd < 0 || ftruncate(fd, (off_t)HUGE_PAGE_BYTES) != 0 ||
        fcntl(fd, F_ADD_SEALS, RESIZE_SEALS) != 0) {
        print_message("no huge-TLB memfd on this machine: %s\n", strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

static int empty(void)
{
    return client_memfd(0, 0, RESIZE_SEALS);
}

static int sparse(void)
{
    return client_memfd(MIB, 0, RESIZE_SEALS);
}

static int last_page_missing(void)
{
    return client_memfd(MIB, MIB - 4096, RESIZE_SEALS);
}

static int sparse_and_vast(void)
{
    int fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, INT64_MAX & ~4095), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, RESIZE_SEALS), 0);
    return fd;
}

static const struct {
    const char *name;
    int (*make)(void);
    const char *text;
} refusals[] = {
    {"a pipe", a_pipe, "not a memfd"},
    {"a socket", a_socket, "not a memfd"},
    {"a file", a_file, "not a memfd"},
    {"a file of tmpfs", a_tmpfs_file, "not sealed"},
    {"a directory", a_directory, "not a memfd"},
    {"a path", a_path, "not a memfd"},
    {"/dev/null", a_null, "not a memfd"},
    {"an unsealed memfd", unsealed, "not sealed"},
    {"one sealed against shrinking only", only_shrink, "not sealed"},
    {"one sealed against growing only", only_grow, "not sealed"},
    {"one that cannot be sealed", unsealable, "not sealed"},
    {"huge-TLB pages", huge_tlb, "huge-TLB"},
    {"an empty memfd", empty, "empty"},
    {"a sparse memfd", sparse, "holes"},
    {"one without its last page", last_page_missing, "holes"},
    {"one of 8 EiB without pages", sparse_and_vast, "holes"},
};

/* Refused before anything is charged, and closed. */
static void refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(refusals); i++) {
        struct memory memory;
        int fd = refusals[i].make();
        if (fd < 0)
            continue;
        if (segment_import(pool, fd, &memory) == TD_OK)
            fail_msg("%s was accepted", refusals[i].name);
        if (!strstr(fail_detail(), refusals[i].text))
            fail_msg("of %s it says '%s'", refusals[i].name, fail_detail());
        assert_int_equal(fcntl(fd, F_GETFD), -1);
        assert_ledger_empty(&ledger);
        assert_int_equal(open_descriptors(), descriptors);
    }
}

static void over_the_limit(void **state)
{
    struct memory memory;
    (void)state;
    int fd = client_memfd(LIMIT_BYTES + 1, LIMIT_BYTES + 1, RESIZE_SEALS);
    assert_refused(segment_import(pool, fd, &memory), TD_OUT_OF_MEMORY, "do not fit");
    assert_int_equal(open_descriptors(), descriptors);
    ledger.limits.descriptors = 0;
    fd = client_memfd(4096, 4096, RESIZE_SEALS);
    assert_refused(segment_import(pool, fd, &memory), TD_OUT_OF_MEMORY, "descriptors");
    assert_int_equal(open_descriptors(), descriptors);
}

/* Pooled memory gives way to a client's. */
static void pool_gives_way(void **state)
{
    struct memory pooled, memory;
    (void)state;
    assert_ok(segment_alloc(pool, 2 * MIB, false, &pooled));
    segment_free(pool, &pooled);
    assert_int_equal(ledger.pool_bytes, 2 * MIB);
    assert_ok(segment_import(pool, client_memfd(3 * MIB, 3 * MIB, RESIZE_SEALS), &memory));
    assert_int_equal(ledger.pool_bytes, 0);
    segment_free(pool, &memory);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_pool, close_pool)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(accepted),       TEST(write_sealed),   TEST(refused),
        TEST(over_the_limit), TEST(pool_gives_way),
    };
    return cmocka_run_group_tests_name("segment_import", tests, NULL, NULL);
}
