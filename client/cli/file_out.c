#include "client/cli/file_out.h"
#include "client/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static enum td_status cannot_write(const char *label)
{
    if (errno == EPIPE)
        return fail(TD_CANCELLED, "nobody reads %s any more", label);
    return fail(TD_INVALID, "%s cannot be written: %s", label, strerror(errno));
}

/* Where the file is to be in the end: behind a symbolic link, if that is one. */
static enum td_status find_target(const char *path, struct file_out *out)
{
    char *resolved = realpath(path, NULL);
    if (!resolved && errno != ENOENT)
        return cannot_write(path);
    int length = snprintf(out->target, sizeof out->target, "%s", resolved ? resolved : path);
    free(resolved);
    if ((size_t)length + sizeof ".12345678" > sizeof out->target) {
        errno = ENAMETOOLONG;
        return cannot_write(path);
    }
    return TD_OK;
}

/* A new file beside the target, hidden, with the rights that the target would get. */
static enum td_status open_temporary(const struct stat *existing, struct file_out *out)
{
    const char *slash = strrchr(out->target, '/');
    int folder = slash ? (int)(slash + 1 - out->target) : 0;
    snprintf(out->temporary, sizeof out->temporary, "%.*s.%.200s.XXXXXX", folder, out->target,
             out->target + folder);
    mode_t mask = umask(0);
    umask(mask);
    mode_t mode = existing ? existing->st_mode & 0777 : 0666 & ~mask;
    signals_hold(true);
    out->fd = mkostemp(out->temporary, O_CLOEXEC);
    int error = errno;
    if (out->fd >= 0)
        signals_guard_file(out->temporary);
    signals_hold(false);
    if (out->fd < 0) {
        out->temporary[0] = '\0';
        errno = error;
        return cannot_write(out->label);
    }
    if (fchmod(out->fd, mode) != 0)
        return cannot_write(out->label);
    return TD_OK;
}

enum td_status file_out_open(const char *path, struct file_out *out)
{
    struct stat info;
    bool standard = strcmp(path, "-") == 0;
    *out = (struct file_out){.fd = -1, .label = standard ? "standard output" : path};
    if (standard) {
        out->fd = STDOUT_FILENO;
        return TD_OK;
    }
    bool exists = stat(path, &info) == 0;
    if (exists && !S_ISREG(info.st_mode)) {
        out->fd = open(path, O_WRONLY | O_CLOEXEC);
        return out->fd < 0 ? cannot_write(path) : TD_OK;
    }
    TRY(find_target(path, out));
    return open_temporary(exists ? &info : NULL, out);
}

enum td_status file_out_write(struct file_out *file, const void *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = write(file->fd, (const char *)bytes + done, length - done);
        if (n > 0)
            done += (size_t)n;
        else if (n < 0 && errno != EINTR)
            return cannot_write(file->label);
    }
    return TD_OK;
}

enum td_status file_out_commit(struct file_out *file)
{
    if (!file->temporary[0])
        return TD_OK;
    /* Some file systems say only here that the disk was full. */
    if (close(take_fd(&file->fd)) != 0)
        return cannot_write(file->label);
    signals_hold(true);
    bool moved = rename(file->temporary, file->target) == 0;
    int error = errno;
    if (moved) {
        signals_guard_file(NULL);
        file->temporary[0] = '\0';
    }
    signals_hold(false);
    errno = error;
    return moved ? TD_OK : cannot_write(file->label);
}

void file_out_close(struct file_out *file)
{
    if (file->fd > STDERR_FILENO)
        close(take_fd(&file->fd));
    if (file->temporary[0]) {
        unlink(file->temporary);
        signals_guard_file(NULL);
        file->temporary[0] = '\0';
    }
}
