/* files: directories, and what the kernel may answer to a path within them. What paths lead where
 * is in tests/e2e/test_bundle_paths.py. */
#include "core/files.h"
#include "tests/unit/core_assert.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>

static char folder[64];
static struct file_roots *roots;

/* What the next calls of openat2 fail with, instead of being made. */
static int failing, failures;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d);
long __wrap_syscall(long number, long a, long b, long c, long d)
{
    if (number == SYS_openat2 && failures > 0) {
        failures--;
        errno = failing;
        return -1;
    }
    return __real_syscall(number, a, b, c, d);
}

static bool no_proc;

int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode);
int __wrap_access(const char *path, int mode)
{
    if (!no_proc)
        return __real_access(path, mode);
    errno = ENOENT;
    return -1;
}

static bool no_group;

int __real_fchown(int fd, uid_t owner, gid_t group);
int __wrap_fchown(int fd, uid_t owner, gid_t group);
int __wrap_fchown(int fd, uid_t owner, gid_t group)
{
    if (!no_group)
        return __real_fchown(fd, owner, group);
    errno = EPERM;
    return -1;
}

static void fail_with(int error, int times)
{
    failing = error;
    failures = times;
}

static int open_folder(void **state)
{
    char command[96];
    (void)state;
    strcpy(folder, "/tmp/tensord-files-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(command, sizeof command, "%s/x", folder);
    int fd = open(command, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "content", 7), 7);
    close(fd);
    assert_ok(file_roots_open(folder, "load-dir", &roots));
    fail_with(0, 0);
    return 0;
}

static int close_folder(void **state)
{
    char path[96];
    (void)state;
    file_roots_close(roots);
    snprintf(path, sizeof path, "%s/x", folder);
    unlink(path);
    assert_int_equal(rmdir(folder), 0); /* nothing else was left */
    return 0;
}

static enum td_status open_x(int *fd)
{
    struct stat info;
    return file_open(roots, text_of("x"), fd, &info);
}

static void what_the_kernel_says(void **state)
{
    static const struct {
        int error;
        enum td_status status;
        const char *part;
    } rows[] = {
        {ENOSYS, TD_UNSUPPORTED, "openat2, Linux 5.6"},
        {EXDEV, TD_FORBIDDEN, "leads out"},
        {ELOOP, TD_FORBIDDEN, "leads out"},
        {ENOENT, TD_NOT_FOUND, "'x' below the directories of --load-dir"},
        {EACCES, TD_FORBIDDEN, "Permission denied"},
        {EMFILE, TD_UNAVAILABLE, "Too many open files"},
        {EIO, TD_UNAVAILABLE, ""},
    };
    int fd = -1;
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        fail_with(rows[i].error, 1);
        assert_refused(open_x(&fd), rows[i].status, rows[i].part);
        assert_int_equal(fd, -1);
    }
    assert_ok(open_x(&fd));
    close(fd);
}

/* The kernel's walk was disturbed by a rename: it is tried again, and not for ever. */
static void races_of_renames(void **state)
{
    int fd = -1;
    (void)state;
    fail_with(EAGAIN, 5);
    assert_ok(open_x(&fd));
    close(fd);
    fail_with(EAGAIN, 1000);
    assert_refused(open_x(&fd), TD_UNAVAILABLE, "temporarily unavailable");
    assert_true(failures > 900);
}

static void lists_of_directories(void **state)
{
    struct file_roots *other = NULL;
    char list[200];
    int fd = -1;
    struct stat info;
    (void)state;
    assert_ok(file_roots_open(NULL, "load-dir", &other));
    assert_refused(file_open(other, text_of("x"), &fd, &info), TD_FORBIDDEN, "--load-dir DIR");
    file_roots_close(other);
    assert_ok(file_roots_open("", "save-dir", &other));
    assert_refused(file_open(other, text_of("x"), &fd, &info), TD_FORBIDDEN, "--save-dir DIR");
    file_roots_close(other);
    snprintf(list, sizeof list, ":/proc::%s/:", folder);
    assert_ok(file_roots_open(list, "load-dir", &other));
    assert_ok(file_open(other, text_of("x"), &fd, &info));
    assert_int_equal(info.st_size, 7);
    close(fd);
    file_roots_close(other);
    snprintf(list, sizeof list, "%s:%s/x", folder, folder);
    assert_refused(file_roots_open(list, "load-dir", &other), TD_INVALID, "/x' is no directory");
    file_roots_close(other);
}

static void reading(void **state)
{
    unsigned char bytes[16] = {0};
    struct stat info, wrong;
    int fd = -1;
    (void)state;
    assert_ok(file_open(roots, text_of("x"), &fd, &info));
    assert_ok(file_read(fd, &info, bytes));
    assert_memory_equal(bytes, "content", 8);
    wrong = info;
    wrong.st_size = 9;
    assert_refused(file_read(fd, &wrong, bytes), TD_CONFLICT, "changed while it was read");
    wrong.st_size = 6;
    assert_refused(file_read(fd, &wrong, bytes), TD_CONFLICT, "changed");
    wrong = info;
    wrong.st_mtim.tv_nsec ^= 1;
    assert_refused(file_read(fd, &wrong, bytes), TD_CONFLICT, "changed");
    close(fd);
}

static int files_in_folder(void)
{
    int count = 0;
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count - 2; /* . and .. */
}

static bool folder_takes_unnamed(void)
{
    int fd = open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void write_with(bool named, int64_t size_before)
{
    struct new_file *file = NULL;
    unsigned char bytes[16] = {0};
    struct stat info;
    int fd = -1;
    assert_ok(file_create(roots, text_of("x"), &file));
    assert_ok(file_write(file, "new", 3));
    assert_int_equal(files_in_folder(), named ? 2 : 1);
    file_destroy(file); /* given up: the old one stays, and no other */
    assert_int_equal(files_in_folder(), 1);
    assert_ok(file_create(roots, text_of("x"), &file));
    assert_ok(file_write(file, "new", 3));
    assert_ok(file_write(file, "er", 2));
    assert_ok(file_sync(file));
    assert_ok(file_open(roots, text_of("x"), &fd, &info));
    assert_int_equal(info.st_size, size_before);
    close(fd);
    assert_ok(file_publish(file));
    file_destroy(file);
    assert_ok(file_open(roots, text_of("x"), &fd, &info));
    assert_ok(file_read(fd, &info, bytes));
    assert_memory_equal(bytes, "newer", 6);
    close(fd);
    assert_int_equal(files_in_folder(), 1);
}

static void writing(void **state)
{
    (void)state;
    write_with(!folder_takes_unnamed(), 7);
    no_proc = true;
    write_with(true, 5);
    no_proc = false;
}

static struct stat replaced(mode_t mode, gid_t group)
{
    struct new_file *file = NULL;
    struct stat info;
    char path[96];
    snprintf(path, sizeof path, "%s/x", folder);
    assert_int_equal(chown(path, (uid_t)-1, group), 0);
    assert_int_equal(chmod(path, mode), 0);
    assert_ok(file_create(roots, text_of("x"), &file));
    assert_ok(file_publish(file));
    file_destroy(file);
    assert_int_equal(stat(path, &info), 0);
    return info;
}

/* Who could not read what was there cannot read what takes its place: not in either group. */
static void permissions(void **state)
{
    static const struct {
        mode_t there, in_another_group;
    } rows[] = {{0600, 0600}, {0640, 0600}, {0644, 0644}, {0664, 0644}, {0604, 0600}};
    (void)state;
    if (geteuid() != 0)
        skip(); /* who may give files to any group */
    for (size_t i = 0; i < COUNT(rows); i++)
        for (int named = 0; named < 2; named++) {
            no_proc = named;
            struct stat info = replaced(rows[i].there, 7);
            assert_int_equal(info.st_gid, 7);
            assert_int_equal(info.st_mode & 0777, rows[i].there);
            no_group = true;
            info = replaced(rows[i].there, 7);
            no_group = no_proc = false;
            assert_int_equal(info.st_gid, getegid());
            assert_int_equal(info.st_mode & 0777, rows[i].in_another_group);
        }
}

static void what_cannot_be_written(void **state)
{
    struct new_file *file = NULL;
    (void)state;
    fail_with(ENOSYS, 1);
    assert_refused(file_create(roots, text_of("x"), &file), TD_UNSUPPORTED, "openat2");
    char longer[300]; /* than a name can be: said before everything is written */
    memset(longer, 'n', sizeof longer);
    assert_refused(file_create(roots, (struct text){longer, sizeof longer}, &file), TD_FORBIDDEN,
                   "File name too long");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_folder, close_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_the_kernel_says),
        TEST(races_of_renames),
        TEST(lists_of_directories),
        TEST(reading),
        TEST(writing),
        TEST(permissions),
        TEST(what_cannot_be_written),
    };
    return cmocka_run_group_tests_name("files", tests, NULL, NULL);
}
