/* What holders of a shared descriptor can and cannot do to it, tried by processes of their own: one
 * of the same user, who may open every descriptor of /proc again, and one of another user. */
#include "core/storage.h"
#include "tests/unit/core_assert.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define SIZE (256 * KIB)
#define OTHER_USER 65534

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

/* -- attacks: each true if it worked -- */

static bool map_for_writing(int fd)
{
    unsigned char *bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        return false;
    bytes[7] = 0xEE;
    return true;
}

static bool write_at(int fd)
{
    return pwrite(fd, "\xEE", 1, 7) == 1;
}

static bool shrink(int fd)
{
    return ftruncate(fd, 4096) == 0;
}

static bool grow(int fd)
{
    return ftruncate(fd, 2 * (off_t)SIZE) == 0;
}

static bool grow_by_allocation(int fd)
{
    return fallocate(fd, 0, (off_t)SIZE, 4096) == 0;
}

static bool grow_by_writing(int fd)
{
    return pwrite(fd, "\xEE", 1, (off_t)SIZE) == 1;
}

static bool punch_hole(int fd)
{
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;
}

/* Would take the memory from those who may still write. */
static bool add_seal(int fd)
{
    return fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0;
}

static bool protect_for_writing(int fd)
{
    unsigned char *bytes = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED || mprotect(bytes, SIZE, PROT_READ | PROT_WRITE) != 0)
        return false;
    bytes[7] = 0xEE;
    return true;
}

static bool remove_pages(int fd)
{
    unsigned char *bytes = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
    return bytes != MAP_FAILED && madvise(bytes, 4096, MADV_REMOVE) == 0;
}

static bool copy_into(int fd)
{
    int source = memfd_create("source", 0);
    return ftruncate(source, 4096) == 0 && copy_file_range(source, NULL, fd, NULL, 4096, 0) > 0;
}

typedef bool (*attack_fn)(int fd);

static bool through(const char *path, int flags, attack_fn attack)
{
    int fd = open(path, flags);
    bool worked = fd >= 0 && attack(fd);
    if (fd >= 0)
        close(fd);
    return worked;
}

static bool opened_again(int fd, int flags, attack_fn attack)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return through(path, flags, attack);
}

static bool reopen_and_map(int fd)
{
    return opened_again(fd, O_RDWR, map_for_writing);
}

static bool reopen_and_write(int fd)
{
    return opened_again(fd, O_RDWR, write_at);
}

static bool reopen_and_punch(int fd)
{
    return opened_again(fd, O_RDWR, punch_hole);
}

static bool reopen_and_shrink(int fd)
{
    return opened_again(fd, O_RDWR, shrink);
}

static bool reopen_and_seal(int fd)
{
    return opened_again(fd, O_RDWR, add_seal);
}

static bool anything(int fd)
{
    return fd >= 0;
}

static bool reopen_truncated(int fd)
{
    return opened_again(fd, O_RDWR | O_TRUNC, anything);
}

static char daemon_path[40]; /* the daemon's own, writable descriptor */

static bool map_of_the_daemon(int fd)
{
    (void)fd;
    return through(daemon_path, O_RDWR, map_for_writing);
}

static bool write_to_the_daemon(int fd)
{
    (void)fd;
    return through(daemon_path, O_RDWR, write_at);
}

static bool shrink_of_the_daemon(int fd)
{
    (void)fd;
    return through(daemon_path, O_RDWR, shrink);
}

enum { CHANGES = 1, RESIZES = 2, SEALS = 4, REOPENS = 8 };

static const struct {
    const char *name;
    attack_fn attack;
    int kind;
} attacks[] = {
    {"mmap for writing", map_for_writing, CHANGES},
    {"pwrite", write_at, CHANGES},
    {"fallocate to punch a hole", punch_hole, CHANGES},
    {"mprotect to writable", protect_for_writing, CHANGES},
    {"MADV_REMOVE", remove_pages, CHANGES},
    {"copy_file_range", copy_into, CHANGES},
    {"reopen and mmap", reopen_and_map, CHANGES | REOPENS},
    {"reopen and pwrite", reopen_and_write, CHANGES | REOPENS},
    {"reopen and punch a hole", reopen_and_punch, CHANGES | REOPENS},
    {"mmap of the daemon's descriptor", map_of_the_daemon, CHANGES | REOPENS},
    {"pwrite to the daemon's descriptor", write_to_the_daemon, CHANGES | REOPENS},
    {"ftruncate to less", shrink, RESIZES},
    {"ftruncate to more", grow, RESIZES},
    {"fallocate of more", grow_by_allocation, RESIZES},
    {"pwrite past the end", grow_by_writing, RESIZES},
    {"reopen and ftruncate", reopen_and_shrink, RESIZES},
    {"ftruncate of the daemon's descriptor", shrink_of_the_daemon, RESIZES},
    {"open with O_TRUNC", reopen_truncated, RESIZES},
    {"another seal", add_seal, SEALS},
    {"reopen and another seal", reopen_and_seal, SEALS},
};

/* -- the processes -- */

static bool become(uid_t user)
{
    if (user == getuid())
        return true;
    /* Dumpable, as a program that this user had started: its /proc/self is its own. */
    return setgroups(0, NULL) == 0 && setgid((gid_t)user) == 0 && setuid(user) == 0 &&
           prctl(PR_SET_DUMPABLE, 1) == 0;
}

static pid_t client_start(void)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
    }
    return child;
}

static int client_end(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status))
        fail_msg("the client died of %s", strsignal(WTERMSIG(status)));
    return WEXITSTATUS(status);
}

/* A client with nothing but the descriptor tries one attack: 0 or 1 as it worked. */
static bool attack_works(attack_fn attack, uid_t user, int given, const struct storage *storage)
{
    pid_t child = client_start();
    if (child == 0) {
        int fd = dup2(given, 100); /* a dup keeps the way it was opened */
        munmap(storage->memory.data, storage->memory.capacity);
        if (fd != 100 || close_range(3, 99, 0) != 0 || !become(user))
            _exit(9);
        _exit(attack(fd) ? 1 : 0);
    }
    int result = client_end(child);
    assert_in_range(result, 0, 1);
    return result == 1;
}

static struct storage *filled_storage(enum storage_mode mode)
{
    struct storage *storage;
    assert_ok(storage_create(host.cpu, NULL, SIZE, true, &storage));
    memset(storage->memory.data, 0x11, SIZE);
    storage_finish(storage, mode);
    return storage;
}

static bool unchanged(const struct storage *storage)
{
    const unsigned char *data = storage->memory.data;
    for (size_t i = 0; i < SIZE; i++)
        if (data[i] != 0x11)
            return false;
    return true;
}

/* `allowed`: the kinds of attack that a mode allows the holder of a descriptor, given for writing
 * or for reading. Returns how many worked. */
static int assert_defended(enum storage_mode mode, bool write, uid_t user, int allowed)
{
    int fd, worked = 0;
    struct storage *storage = filled_storage(mode);
    assert_ok(storage_share(storage, write, &fd));
    snprintf(daemon_path, sizeof daemon_path, "/proc/%d/fd/%d", (int)getpid(), storage->memory.fd);
    for (size_t i = 0; i < COUNT(attacks); i++) {
        if (mode == STORAGE_MUTABLE)
            memset(storage->memory.data, 0x11, SIZE);
        bool works = attack_works(attacks[i].attack, user, fd, storage);
        bool may = (attacks[i].kind & ~allowed) == 0;
        if ((works && !may) || (!may && !unchanged(storage)))
            fail_msg("%s of a %s storage, given for %s to user %d, worked", attacks[i].name,
                     storage_mode_name(mode), write ? "writing" : "reading", (int)user);
        worked += works;
    }
    storage_unref(storage);
    return worked;
}

/* `worked`: at least so many attacks of the same user succeed, or the test would prove nothing. */
static void for_each_user(enum storage_mode mode, bool write, int allowed_same, int allowed_other,
                          int worked)
{
    assert_in_range(assert_defended(mode, write, getuid(), allowed_same), worked, COUNT(attacks));
    if (getuid() == 0)
        (void)assert_defended(mode, write, OTHER_USER, allowed_other);
    else
        print_message("not root: no client of another user\n");
}

static void frozen(void **state)
{
    (void)state;
    for_each_user(STORAGE_FROZEN, false, 0, 0, 0);
}

static void single_writer(void **state)
{
    (void)state;
    for_each_user(STORAGE_SINGLE_WRITER, false, 0, 0, 0);
}

static void mutable_for_writing(void **state)
{
    (void)state;
    for_each_user(STORAGE_MUTABLE, true, CHANGES | REOPENS, CHANGES, 10);
}

/* The same user may open it again for writing; that is why seals, not modes, are the boundary. */
static void mutable_for_reading(void **state)
{
    (void)state;
    for_each_user(STORAGE_MUTABLE, false, CHANGES | REOPENS, 0, 5);
}

/* -- what must work -- */

static void step(int to, int from)
{
    char byte = 0;
    if (write(to, &byte, 1) != 1 || read(from, &byte, 1) != 1)
        _exit(8);
}

/* A reader maps the storage and tells what it sees before and after the daemon writes. */
static void client_reads(int fd, int to, int from)
{
    unsigned char *bytes = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        _exit(1);
    if (bytes[0] != 0x11 || bytes[SIZE - 1] != 0x11)
        _exit(2);
    step(to, from);
    _exit(bytes[0] == 0x22 && bytes[SIZE - 1] == 0x22 ? 0 : 3);
}

static void daemon_writes(struct storage *storage)
{
    assert_ok(storage_write_begin(storage));
    memset(storage->memory.data, 0x22, SIZE);
    storage_write_end(storage);
}

static void assert_reader_sees_writes(enum storage_mode mode, uid_t user)
{
    int fd, up[2], down[2];
    char byte;
    struct storage *storage = filled_storage(mode);
    assert_ok(storage_share(storage, false, &fd));
    assert_int_equal(pipe(up) | pipe(down), 0);
    pid_t child = client_start();
    if (child == 0) {
        munmap(storage->memory.data, storage->memory.capacity);
        close(storage->memory.fd);
        if (!become(user))
            _exit(9);
        client_reads(fd, up[1], down[0]);
    }
    close(up[1]);
    assert_int_equal(read(up[0], &byte, 1), 1);
    daemon_writes(storage);
    assert_int_equal(write(down[1], &byte, 1), 1);
    assert_int_equal(client_end(child), 0);
    close(up[0]);
    close(down[0]);
    close(down[1]);
    storage_unref(storage);
}

/* Sealed for everybody else, the daemon's own writes go on and show. */
static void daemon_writes_show(void **state)
{
    (void)state;
    uid_t other = getuid() == 0 ? OTHER_USER : getuid();
    assert_reader_sees_writes(STORAGE_SINGLE_WRITER, getuid());
    assert_reader_sees_writes(STORAGE_SINGLE_WRITER, other);
    assert_reader_sees_writes(STORAGE_MUTABLE, other);
}

static void client_writes_show(void **state)
{
    int fd;
    (void)state;
    struct storage *storage = filled_storage(STORAGE_MUTABLE);
    assert_ok(storage_share(storage, true, &fd));
    assert_true(attack_works(map_for_writing, getuid() == 0 ? OTHER_USER : getuid(), fd, storage));
    assert_int_equal(((unsigned char *)storage->memory.data)[7], 0xEE);
    storage_unref(storage);
}

/* What PyTorch gets of a frozen tensor: reads are shared, writes stay private. */
static bool write_privately(int fd)
{
    unsigned char *bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED || bytes[7] != 0x11)
        return false;
    bytes[7] = 0xEE;
    return bytes[7] == 0xEE && bytes[8] == 0x11;
}

static void private_writes(void **state)
{
    int fd;
    (void)state;
    struct storage *storage = filled_storage(STORAGE_FROZEN);
    assert_ok(storage_share(storage, false, &fd));
    assert_true(attack_works(write_privately, getuid() == 0 ? OTHER_USER : getuid(), fd, storage));
    assert_true(unchanged(storage));
    storage_unref(storage);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_host, close_host)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(frozen),
        TEST(single_writer),
        TEST(mutable_for_writing),
        TEST(mutable_for_reading),
        TEST(daemon_writes_show),
        TEST(client_writes_show),
        TEST(private_writes),
    };
    return cmocka_run_group_tests_name("storage_modes", tests, NULL, NULL);
}
