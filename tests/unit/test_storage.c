/* storage: its life, promotion of small ones, and knowing a descriptor again. */
#include "core/storage.h"
#include "tests/unit/core_assert.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define SIZE (256 * KIB)

static struct host host;

static int open_host(void **state)
{
    (void)state;
    host_open(&host, 16 * MIB, 4 * MIB);
    return 0;
}

static int close_host(void **state)
{
    (void)state;
    host_close(&host);
    return 0;
}

static struct storage *new_storage(uint64_t size, enum storage_mode mode)
{
    struct storage *storage;
    assert_ok(storage_create(host.cpu, NULL, size, true, &storage));
    if (mode != STORAGE_BUILDING)
        storage_finish(storage, mode);
    return storage;
}

static int client_memfd(size_t size, int seals)
{
    int fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(fallocate(fd, 0, 0, (off_t)size), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | seals), 0);
    return fd;
}

static uint64_t in_use(void)
{
    struct ledger now;
    ledger_read(&host.ledger, &now);
    return now.used.memory_bytes - now.pool_bytes;
}

/* -- life -- */

static void references(void **state)
{
    (void)state;
    struct storage *storage = new_storage(SIZE, STORAGE_MUTABLE);
    struct storage *other = new_storage(SIZE, STORAGE_MUTABLE);
    assert_true(other->id > storage->id);
    storage_unref(other);
    assert_ptr_equal(storage_ref(storage), storage);
    storage_unref(storage);
    assert_int_equal(in_use(), SIZE);
    storage_unref(storage);
    assert_int_equal(in_use(), 0);
    storage_unref(NULL);
}

static void creation_refused(void **state)
{
    struct storage *storage;
    (void)state;
    assert_refused(storage_create(host.cpu, NULL, 17 * MIB, true, &storage), TD_OUT_OF_MEMORY,
                   "do not fit");
    assert_refused(storage_create(host.cpu, NULL, UINT64_MAX, true, &storage), TD_OUT_OF_MEMORY,
                   "bytes");
    assert_int_equal(in_use(), 0);
}

static void mode_names(void **state)
{
    static const char *const names[] = {"building", "frozen", "single-writer", "mutable"};
    (void)state;
    for (int mode = STORAGE_BUILDING; mode <= STORAGE_MUTABLE; mode++)
        assert_string_equal(storage_mode_name((enum storage_mode)mode), names[mode]);
}

/* The epoch rises at every write and touch; a frozen storage is not written. */
static void writes(void **state)
{
    (void)state;
    struct storage *storage = new_storage(100, STORAGE_MUTABLE);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(atomic_load(&storage->epoch), 2 * i);
        assert_ok(storage_write_begin(storage));
        storage_write_end(storage);
        storage_touch(storage);
    }
    storage_unref(storage);
    storage = new_storage(100, STORAGE_FROZEN);
    assert_refused(storage_write_begin(storage), TD_FROZEN, "frozen: in-place operations");
    assert_int_equal(atomic_load(&storage->epoch), 0);
    storage_unref(storage);
}

/* -- sharing -- */

static void share_for_writing(void **state)
{
    static const struct {
        enum storage_mode mode;
        enum td_status status;
        const char *text;
    } rows[] = {
        {STORAGE_FROZEN, TD_FROZEN, "is frozen and cannot be mapped for writing"},
        {STORAGE_SINGLE_WRITER, TD_FROZEN, "is single-writer and cannot be mapped for writing"},
        {STORAGE_MUTABLE, TD_OK, ""},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        int fd = -1;
        struct storage *storage = new_storage(SIZE, rows[i].mode);
        enum td_status status = storage_share(storage, true, &fd);
        if (rows[i].status == TD_OK) {
            assert_ok(status);
            assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
        } else {
            assert_refused(status, rows[i].status, rows[i].text);
            assert_false(storage->memory.exported);
        }
        assert_ok(storage_share(storage, false, &fd));
        assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
        int again = -1;
        assert_ok(storage_share(storage, false, &again));
        assert_int_equal(again, fd);
        storage_unref(storage);
        assert_int_equal(in_use(), 0);
    }
}

/* Small storages move into a memfd of their own; whoever held the old bytes still reads them. */
static void promotion(void **state)
{
    static const uint64_t sizes[] = {0, 1, 100, 4096, 5000, 64 * KIB - 1};
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        int fd = -1;
        struct storage *storage = new_storage(sizes[i], STORAGE_MUTABLE);
        unsigned char *old = storage->memory.data;
        assert_int_equal(storage->memory.fd, -1);
        memset(old, 0x33, sizes[i]);
        assert_ok(storage_share(storage, true, &fd));
        unsigned char *now = storage->memory.data;
        assert_ptr_not_equal(now, old);
        uint64_t mapped = storage_mapped_bytes(storage);
        unsigned char *client = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_ptr_not_equal(client, MAP_FAILED);
        for (uint64_t k = 0; k < mapped; k++)
            assert_int_equal(client[k], k < sizes[i] ? 0x33 : 0);
        for (uint64_t k = 0; k < sizes[i]; k++)
            assert_int_equal(old[k], 0x33);
        now[0] = 0x44; /* both sides see one memory */
        assert_int_equal(client[0], 0x44);
        client[mapped - 1] = 0x55;
        assert_int_equal(now[mapped - 1], 0x55);
        munmap(client, mapped);
        storage_unref(storage);
        assert_int_equal(in_use(), 0);
    }
}

static void share_refused(void **state)
{
    int fd = -1;
    (void)state;
    struct storage *storage = new_storage(100, STORAGE_MUTABLE);
    memset(storage->memory.data, 0x33, 100);
    host.ledger.fail_after = 1;
    assert_refused(storage_share(storage, true, &fd), TD_OUT_OF_MEMORY, "for a test");
    assert_int_equal(fd, -1);
    assert_int_equal(((unsigned char *)storage->memory.data)[99], 0x33);
    assert_ok(storage_share(storage, true, &fd)); /* and works later */
    storage_unref(storage);
}

/* -- knowing descriptors again -- */

/* What was handed out and comes back is the same storage, and costs nothing. */
static void handed_out_and_given_back(void **state)
{
    static const uint64_t sizes[] = {100, SIZE};
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int write = 0; write < 2; write++) {
            int fd = -1;
            struct storage *again, *storage = new_storage(sizes[i], STORAGE_MUTABLE);
            assert_ok(storage_share(storage, write, &fd));
            uint64_t before = in_use();
            assert_ok(storage_import(host.cpu, NULL, dup(fd), &again));
            assert_ptr_equal(again, storage);
            assert_int_equal(in_use(), before);
            storage_unref(storage);
            assert_int_equal(in_use(), before);
            storage_unref(again);
            assert_int_equal(in_use(), 0);
        }
}

static void given_twice(void **state)
{
    struct storage *first, *second, *third;
    (void)state;
    int fd = client_memfd(SIZE, 0);
    assert_ok(storage_import(host.cpu, NULL, dup(fd), &first));
    assert_ok(storage_import(host.cpu, NULL, dup(fd), &second));
    assert_ptr_equal(second, first);
    assert_int_equal(storage_mode_of(first), STORAGE_MUTABLE);
    assert_int_equal(first->size_bytes, SIZE);
    assert_int_equal(in_use(), SIZE);
    uint64_t id = first->id;
    storage_unref(first);
    storage_unref(second);
    assert_int_equal(in_use(), 0);
    assert_ok(storage_import(host.cpu, NULL, fd, &third)); /* forgotten by now: a new one */
    assert_int_not_equal(third->id, id);
    storage_unref(third);
}

static void import_refused(void **state)
{
    struct storage *storage;
    (void)state;
    int fd = client_memfd(17 * MIB, 0);
    assert_refused(storage_import(host.cpu, NULL, fd, &storage), TD_OUT_OF_MEMORY, "do not fit");
    assert_refused(storage_import(host.cpu, NULL, 1 << 20, &storage), TD_INVALID, "descriptor");
    assert_refused(
        storage_import(host.cpu, NULL, open("/dev/null", O_RDONLY | O_CLOEXEC), &storage),
        TD_INVALID, "not a memfd");
    assert_int_equal(in_use(), 0);
}

/* The mode is what the giver's seals make true, not what the daemon could not do itself. */
static const struct {
    int seals;
    bool read_only_descriptor;
    enum storage_mode mode; /* BUILDING: refused */
} imports[] = {
    {0, false, STORAGE_MUTABLE},
    {F_SEAL_SEAL, false, STORAGE_MUTABLE},
    {F_SEAL_WRITE, false, STORAGE_FROZEN},
    {F_SEAL_WRITE | F_SEAL_SEAL, true, STORAGE_FROZEN},
    {0, true, STORAGE_BUILDING},
    {F_SEAL_FUTURE_WRITE, false, STORAGE_SINGLE_WRITER},
    {F_SEAL_FUTURE_WRITE | F_SEAL_SEAL, false, STORAGE_SINGLE_WRITER},
    {F_SEAL_FUTURE_WRITE, true, STORAGE_BUILDING},
};

static void assert_imported(size_t row, int fd)
{
    struct storage *storage;
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int given = imports[row].read_only_descriptor ? open(path, O_RDONLY | O_CLOEXEC) : dup(fd);
    enum td_status status = storage_import(host.cpu, NULL, given, &storage);
    if (imports[row].mode == STORAGE_BUILDING) {
        assert_refused(status, TD_INVALID, "reading only");
        return;
    }
    assert_ok(status);
    assert_int_equal(storage_mode_of(storage), imports[row].mode);
    int shared = -1;
    bool writable = imports[row].mode == STORAGE_MUTABLE;
    assert_ok(storage_share(storage, false, &shared));
    assert_int_equal(fcntl(shared, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_int_equal(storage_share(storage, true, &shared), writable ? TD_OK : TD_FROZEN);
    enum td_status written = storage_write_begin(storage);
    assert_int_equal(written, writable ? TD_OK : TD_FROZEN);
    if (written == TD_OK)
        storage_write_end(storage);
    storage_unref(storage);
}

static void mode_of_imports(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(imports); i++) {
        int fd = client_memfd(4096, 0);
        unsigned char *writer = NULL;
        if ((imports[i].seals & F_SEAL_WRITE) == 0)
            writer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (imports[i].seals)
            assert_int_equal(fcntl(fd, F_ADD_SEALS, imports[i].seals), 0);
        assert_imported(i, fd);
        if (writer)
            munmap(writer, 4096);
        close(fd);
    }
}

/* Inode numbers are those of one file system: a file that bears a storage's number elsewhere is
 * not the way to somebody's memory. */
enum { FILES = 512, TRIES = 300000, IMPORTS = 2000 };

static ino_t inode_of(int fd)
{
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    return info.st_ino;
}

/* A file of another tmpfs with that number, which hands them out in order; -1 if it does not come
 * by. Files with higher ones are left in `files`. */
static int file_with_inode(ino_t wanted, int *files, int *count)
{
    for (int tries = 0; tries < TRIES && *count < FILES; tries++) {
        int file = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (file < 0 || inode_of(file) == wanted)
            return file;
        if (inode_of(file) > wanted)
            files[(*count)++] = file;
        else
            close(file);
    }
    return -1;
}

/* A tmpfs of this process alone, which numbers its files from 1 on. Needs root; without it the
 * machine's own has to do. */
static void mount_own_tmpfs(void)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tensord", "/dev/shm", "tmpfs", 0, "size=1m") != 0)
        print_message("no tmpfs of our own: %s\n", strerror(errno));
}

static struct storage *shared_storage(uint64_t size, ino_t *inode)
{
    int fd;
    struct storage *storage = new_storage(size, STORAGE_MUTABLE);
    assert_ok(storage_share(storage, false, &fd));
    *inode = inode_of(fd);
    return storage;
}

static void same_inode_elsewhere(void **state)
{
    int files[FILES], count = 0;
    ino_t inode;
    (void)state;
    mount_own_tmpfs();
    struct storage *storage = shared_storage(SIZE, &inode);
    int found = file_with_inode(inode, files, &count);
    /* Or the daemon's numbers come by those of the files. */
    for (int tries = 0; tries < IMPORTS && found < 0 && count; tries++) {
        storage_unref(storage);
        storage = shared_storage(SIZE / 4, &inode);
        for (int i = 0; i < count && found < 0; i++)
            if (inode_of(files[i]) == inode)
                found = dup(files[i]);
    }
    while (count > 0)
        close(files[--count]);
    struct storage *got = NULL;
    enum td_status status = TD_INVALID;
    if (found < 0)
        print_message("no file of /dev/shm got the inode number of a memfd\n");
    else
        status = storage_import(host.cpu, NULL, found, &got);
    if (status == TD_OK)
        storage_unref(got);
    storage_unref(storage);
    assert_int_equal(status, TD_INVALID);
}

/* -- who else may write -- */

static void exposed_by_sharing(void **state)
{
    static const struct {
        enum storage_mode mode;
        bool write, exposed;
    } rows[] = {
        {STORAGE_FROZEN, false, false},
        {STORAGE_SINGLE_WRITER, false, false}, /* the daemon is the writer */
        {STORAGE_MUTABLE, false, true},        /* its holder can open it again for writing */
        {STORAGE_MUTABLE, true, true},
    };
    static const uint64_t sizes[] = {100, SIZE};
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++)
        for (size_t k = 0; k < COUNT(sizes); k++) {
            int fd;
            struct storage *storage = new_storage(sizes[k], STORAGE_BUILDING);
            assert_false(storage_is_exposed(storage));
            storage_finish(storage, rows[i].mode);
            assert_false(storage_is_exposed(storage));
            assert_ok(storage_share(storage, rows[i].write, &fd));
            assert_int_equal(storage_is_exposed(storage), rows[i].exposed);
            storage_unref(storage);
        }
    struct storage *storage = new_storage(100, STORAGE_MUTABLE);
    int fd;
    host.ledger.fail_after = 1;
    assert_refused(storage_share(storage, false, &fd), TD_OUT_OF_MEMORY, "for a test");
    assert_false(storage_is_exposed(storage)); /* nothing has left */
    storage_unref(storage);
}

static void exposed_by_the_giver(void **state)
{
    static const struct {
        int seals;
        bool exposed;
    } rows[] = {{0, true}, {F_SEAL_FUTURE_WRITE, true}, {F_SEAL_WRITE, false}};
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct storage *storage;
        int fd;
        assert_ok(storage_import(host.cpu, NULL, client_memfd(SIZE, rows[i].seals), &storage));
        assert_int_equal(storage_is_exposed(storage), rows[i].exposed);
        assert_ok(storage_share(storage, false, &fd));
        assert_int_equal(storage_is_exposed(storage), rows[i].exposed);
        storage_unref(storage);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_host, close_host)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(references),         TEST(creation_refused),
        TEST(mode_names),         TEST(writes),
        TEST(promotion),          TEST(share_for_writing),
        TEST(share_refused),      TEST(handed_out_and_given_back),
        TEST(given_twice),        TEST(import_refused),
        TEST(mode_of_imports),    TEST(same_inode_elsewhere),
        TEST(exposed_by_sharing), TEST(exposed_by_the_giver),
    };
    return cmocka_run_group_tests_name("storage", tests, NULL, NULL);
}
