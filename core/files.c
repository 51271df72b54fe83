#include "core/files.h"

#include "core/random_id.h"
#include "core/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>

#define PIECE_BYTES ((size_t)8 << 20) /* read or written at a time */
#define RACES_MAX 16                  /* of renames that disturb the kernel's walk */

struct root {
    int fd;
    char *given, *real; /* without a slash at the end */
    struct root *next;
};

struct file_roots {
    const char *option;
    struct root *first;
};

/* ---- the directories ---------------------------------------------------------------------------
 */

static void strip_slashes(char *path)
{
    for (size_t length = strlen(path); length > 0 && path[length - 1] == '/';)
        path[--length] = '\0';
}

static enum td_status root_open(const char *option, struct text path, struct root **out)
{
    struct root *root = *out = calloc(1, sizeof *root);
    if (!root)
        return fail(TD_OUT_OF_MEMORY, "no memory for --%s", option);
    root->fd = -1;
    root->given = text_dup(path);
    if (!root->given)
        return fail(TD_OUT_OF_MEMORY, "no memory for --%s", option);
    root->fd = open(root->given, O_PATH | O_DIRECTORY | O_CLOEXEC);
    root->real = root->fd < 0 ? NULL : realpath(root->given, NULL);
    if (!root->real)
        return fail(TD_INVALID, "%s: '%s' is no directory that can be opened: %s", option,
                    root->given, strerror(errno));
    strip_slashes(root->given);
    strip_slashes(root->real);
    return TD_OK;
}

enum td_status file_roots_open(const char *list, const char *option, struct file_roots **out)
{
    struct file_roots *roots = *out = calloc(1, sizeof *roots);
    if (!roots)
        return fail(TD_OUT_OF_MEMORY, "no memory for --%s", option);
    roots->option = option;
    struct root **last = &roots->first;
    for (const char *at = list ? list : ""; *at; at += *at == ':') {
        struct text path = {at, strcspn(at, ":")};
        at += path.length;
        if (!path.length)
            continue;
        TRY(root_open(option, path, last));
        last = &(*last)->next;
    }
    return TD_OK;
}

void file_roots_close(struct file_roots *roots)
{
    if (!roots)
        return;
    for (struct root *root = roots->first, *next; root; root = next) {
        next = root->next;
        closep(&root->fd);
        free(root->given);
        free(root->real);
        free(root);
    }
    free(roots);
}

/* ---- paths -------------------------------------------------------------------------------------
 */

static enum td_status path_check(const struct file_roots *roots, struct text path)
{
    if (!roots || !roots->first)
        return fail(TD_FORBIDDEN,
                    "the daemon opens no files by path: it was started without --%s DIR; send or "
                    "take the file's bytes as the body instead",
                    roots ? roots->option : "load-dir");
    if (!path.length || path.length >= PATH_MAX || memchr(path.data, '\0', path.length))
        return fail(TD_INVALID, "a path has 1 to %d bytes and no NUL", PATH_MAX - 1);
    for (size_t at = 0, length; at <= path.length; at += length + 1) {
        const char *slash = memchr(path.data + at, '/', path.length - at);
        length = slash ? (size_t)(slash - path.data) - at : path.length - at;
        if (length == 2 && memcmp(path.data + at, "..", 2) == 0)
            return fail(TD_FORBIDDEN, "the path '%.*s' has a '..'; write it without",
                        TEXT_SHOWN(path));
    }
    return TD_OK;
}

/* What of an absolute path stands behind the directory; NULL if it does not lie there. */
static const char *below(const char *directory, const char *path)
{
    size_t length = strlen(directory);
    if (strncmp(path, directory, length) != 0 || path[length] != '/')
        return NULL;
    path += length;
    return path + strspn(path, "/");
}

/* The path as seen from the root; NULL if it lies elsewhere. */
static const char *path_in(const struct root *root, const char *path)
{
    if (path[0] != '/')
        return path;
    const char *rest = below(root->given, path);
    return rest ? rest : below(root->real, path);
}

static int open_beneath(int directory, const char *path, uint64_t flags)
{
    const struct open_how how = {.flags = flags | O_CLOEXEC,
                                 .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    long fd = -1;
    for (int i = 0; i < RACES_MAX; i++) {
        fd = syscall(SYS_openat2, directory, path, &how, sizeof how);
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
            break;
    }
    return (int)fd;
}

static enum td_status path_failed(const struct file_roots *roots, const char *path, int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
        return fail(TD_NOT_FOUND, "there is no '%.*s' below the directories of --%s", SHOWN(path),
                    roots->option);
    case EXDEV:
    case ELOOP:
        return fail(TD_FORBIDDEN, "the path '%.*s' leads out of the directories of --%s",
                    SHOWN(path), roots->option);
    case ENOSYS:
        return fail(TD_UNSUPPORTED, "this kernel cannot keep a path within a directory (openat2, "
                                    "Linux 5.6); send or take the bytes as the body instead");
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return fail(TD_OUT_OF_MEMORY, "'%.*s' cannot be written: %s", SHOWN(path), strerror(error));
    case EAGAIN: /* renames again and again */
    case EIO:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
        return fail(TD_UNAVAILABLE, "'%.*s': %s", SHOWN(path), strerror(error));
    default:
        return fail(TD_FORBIDDEN, "'%.*s' cannot be opened by the daemon: %s", SHOWN(path),
                    strerror(error));
    }
}

/* Opens it below the first directory that has it. */
static enum td_status open_in_roots(const struct file_roots *roots, const char *path,
                                    uint64_t flags, int *out)
{
    int error = path[0] == '/' ? EXDEV : ENOENT;
    for (const struct root *root = roots->first; root; root = root->next) {
        const char *rest = path_in(root, path);
        if (!rest)
            continue;
        *out = open_beneath(root->fd, *rest ? rest : ".", flags);
        if (*out >= 0)
            return TD_OK;
        error = errno;
        if (error != ENOENT && error != ENOTDIR)
            break;
    }
    return path_failed(roots, path, error);
}

/* ---- reading -----------------------------------------------------------------------------------
 */

enum td_status file_open(const struct file_roots *roots, struct text text, int *out,
                         struct stat *info)
{
    _cleanup_(closep) int fd = -1;
    TRY(path_check(roots, text));
    _cleanup_(freep) char *path = text_dup(text);
    if (!path)
        return fail(TD_OUT_OF_MEMORY, "no memory for a path");
    TRY(open_in_roots(roots, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, &fd));
    if (fstat(fd, info) != 0)
        return path_failed(roots, path, errno);
    if (!S_ISREG(info->st_mode))
        return fail(TD_FORBIDDEN, "'%.*s' is no regular file, and only those are read",
                    SHOWN(path));
    *out = take_fd(&fd);
    return TD_OK;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

enum td_status file_read(int fd, const struct stat *info, unsigned char *to)
{
    uint64_t size = (uint64_t)info->st_size, done = 0;
    struct stat now;
    while (done < size) {
        size_t wanted = size - done < PIECE_BYTES ? (size_t)(size - done) : PIECE_BYTES;
        ssize_t got = pread(fd, to + done, wanted, (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(TD_UNAVAILABLE, "the file cannot be read: %s", strerror(errno));
        if (got == 0)
            break;
        done += (uint64_t)got;
    }
    if (done < size || fstat(fd, &now) != 0 || !same_file(info, &now))
        return fail(TD_CONFLICT, "the file was changed while it was read; load it again");
    return TD_OK;
}

/* ---- writing -----------------------------------------------------------------------------------
 */

struct new_file {
    int directory, fd;  /* -1: none */
    char *name;         /* in the directory */
    char temporary[48]; /* its name until it is published; "" while it has none */
};

/* Opens the directory that the path is in, and keeps the name of the file. */
static enum td_status open_directory(const struct file_roots *roots, struct text text,
                                     struct new_file *file)
{
    _cleanup_(freep) char *path = text_dup(text);
    char *slash = path ? strrchr(path, '/') : NULL;
    if (path)
        file->name = strdup(slash ? slash + 1 : path);
    if (!path || !file->name)
        return fail(TD_OUT_OF_MEMORY, "no memory for a path");
    if (!*file->name || strcmp(file->name, ".") == 0)
        return fail(TD_INVALID, "the path '%.*s' names no file", TEXT_SHOWN(text));
    if (slash)
        slash[1] = '\0';
    return open_in_roots(roots, slash ? path : "./", O_RDONLY | O_DIRECTORY, &file->directory);
}

static enum td_status choose_temporary(struct new_file *file)
{
    char random[17];
    TRY(random_id(sizeof random - 1, random));
    snprintf(file->temporary, sizeof file->temporary, ".tensord-%s.tmp", random);
    return TD_OK;
}

/* What has no name goes by itself when the daemon is killed. Not every file system can do that, and
 * it gets a name by way of /proc, see open(2). */
static int open_unnamed(int directory, mode_t mode)
{
    if (access("/proc/self/fd", X_OK) != 0)
        return -1;
    return openat(directory, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, mode);
}

static enum td_status open_named(const struct file_roots *roots, struct new_file *file, mode_t mode)
{
    TRY(choose_temporary(file));
    file->fd = openat(file->directory, file->temporary,
                      O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (file->fd >= 0)
        return TD_OK;
    file->temporary[0] = '\0';
    return path_failed(roots, file->name, errno);
}

/* Who could not read what was there cannot read what takes its place. */
static bool keep_permissions(int fd, const struct stat *there)
{
    struct stat made;
    mode_t mode = there->st_mode & 0777, both = mode >> 3 & mode & 07;
    if (fstat(fd, &made) != 0)
        return false;
    /* The daemon may be in another group: what only one of group and others had, neither has. */
    if (made.st_gid != there->st_gid && fchown(fd, (uid_t)-1, there->st_gid) != 0)
        mode = (mode & 0700) | both << 3 | both;
    return fchmod(fd, mode) == 0;
}

static enum td_status open_temporary(const struct file_roots *roots, struct new_file *file)
{
    struct stat there;
    bool found = fstatat(file->directory, file->name, &there, AT_SYMLINK_NOFOLLOW) == 0;
    if (!found && errno != ENOENT) /* such as a name that is too long */
        return path_failed(roots, file->name, errno);
    if (found && !S_ISREG(there.st_mode))
        return fail(TD_FORBIDDEN, "'%.*s' is something else than a regular file",
                    SHOWN(file->name));
    mode_t mode = found ? 0600 : 0666; /* nobody opens it before it has its permissions */
    file->fd = open_unnamed(file->directory, mode);
    if (file->fd < 0)
        TRY(open_named(roots, file, mode));
    if (found && !keep_permissions(file->fd, &there))
        return path_failed(roots, file->name, errno);
    return TD_OK;
}

enum td_status file_create(const struct file_roots *roots, struct text path, struct new_file **out)
{
    TRY(path_check(roots, path));
    _cleanup_(file_destroyp) struct new_file *file = calloc(1, sizeof *file);
    if (!file)
        return fail(TD_OUT_OF_MEMORY, "no memory for a file");
    file->directory = file->fd = -1;
    TRY(open_directory(roots, path, file));
    TRY(open_temporary(roots, file));
    *out = take(&file);
    return TD_OK;
}

static enum td_status write_failed(const struct new_file *file)
{
    bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
    return fail(full ? TD_OUT_OF_MEMORY : TD_UNAVAILABLE, "'%.*s' cannot be written: %s",
                SHOWN(file->name), strerror(errno));
}

enum td_status file_write(struct new_file *file, const void *bytes, size_t size)
{
    const unsigned char *at = bytes;
    while (size > 0) {
        ssize_t sent = write(file->fd, at, size < PIECE_BYTES ? size : PIECE_BYTES);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return write_failed(file);
        at += sent;
        size -= (size_t)sent;
    }
    return TD_OK;
}

enum td_status file_sync(struct new_file *file)
{
    return fsync(file->fd) == 0 ? TD_OK : write_failed(file);
}

/* Only for a moment: linkat cannot replace what is there. */
static enum td_status name_temporary(struct new_file *file)
{
    char itself[32];
    TRY(choose_temporary(file));
    snprintf(itself, sizeof itself, "/proc/self/fd/%d", file->fd);
    if (linkat(AT_FDCWD, itself, file->directory, file->temporary, AT_SYMLINK_FOLLOW) == 0)
        return TD_OK;
    file->temporary[0] = '\0';
    return write_failed(file);
}

enum td_status file_publish(struct new_file *file)
{
    if (!file->temporary[0])
        TRY(name_temporary(file));
    if (renameat(file->directory, file->temporary, file->directory, file->name) != 0)
        return write_failed(file);
    file->temporary[0] = '\0';
    /* Without it the name may be lost with the machine's power; what was there is not. */
    (void)fsync(file->directory);
    return TD_OK;
}

void file_destroy(struct new_file *file)
{
    if (!file)
        return;
    if (file->temporary[0])
        unlinkat(file->directory, file->temporary, 0);
    closep(&file->fd);
    closep(&file->directory);
    free(file->name);
    free(file);
}
