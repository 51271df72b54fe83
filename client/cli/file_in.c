#include "client/cli/file_in.h"
#include "client/cli/cli.h"
#include "client/cli/progress.h"
#include "core/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define FIRST_BYTES ((size_t)1 << 20)

static enum td_status cannot_read(const char *label)
{
    return fail(TD_INVALID, "%s cannot be read: %s", label, strerror(errno));
}

/* Makes the buffer larger; *capacity stays at `most` + 1, by which a longer pipe is noticed. */
static enum td_status grow(struct file_in *file, size_t most, size_t *capacity)
{
    size_t wanted = *capacity ? *capacity * 2 : FIRST_BYTES;
    if (wanted > most + 1 || wanted < *capacity)
        wanted = most + 1;
    unsigned char *grown = realloc((void *)(uintptr_t)file->bytes, wanted);
    if (!grown)
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu bytes of %s", wanted, file->label);
    file->bytes = grown;
    *capacity = wanted;
    return TD_OK;
}

static enum td_status read_all(int fd, size_t most, struct file_in *file)
{
    size_t capacity = 0;
    progress_begin(file->label, 0);
    for (;;) {
        if (file->length == capacity)
            TRY(grow(file, most, &capacity));
        ssize_t n = read(fd, (unsigned char *)(uintptr_t)file->bytes + file->length,
                         capacity - file->length);
        if (n < 0 && errno != EINTR)
            return cannot_read(file->label);
        if (n == 0)
            break;
        if (n > 0)
            file->length += (size_t)n;
        if (file->length > most)
            return fail(TD_TOO_LARGE,
                        "%s has more than %zu bytes, for which the daemon has no room (tensord's "
                        "--memory-limit)",
                        file->label, most);
        progress_add(n > 0 ? (uint64_t)n : 0);
    }
    progress_end();
    return TD_OK;
}

static enum td_status map_all(int fd, off_t size, struct file_in *file)
{
    void *map = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return cannot_read(file->label);
    file->bytes = map;
    file->length = (size_t)size;
    file->mapped = true;
    signals_guard_map(map, file->length);
    return TD_OK;
}

enum td_status file_in_open(const char *path, size_t most, struct file_in *out)
{
    struct stat info;
    bool standard = strcmp(path, "-") == 0;
    *out = (struct file_in){.label = standard ? "standard input" : path, .standard = standard};
    _cleanup_(closep) int opened = standard ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    int fd = standard ? STDIN_FILENO : opened;
    if (fd < 0 || fstat(fd, &info) != 0)
        return cannot_read(out->label);
    /* What was read of standard input before, by another program, does not count. Files of /proc
     * say that they are empty, and are not. */
    if (S_ISREG(info.st_mode) && info.st_size > 0 && lseek(fd, 0, SEEK_CUR) == 0)
        return map_all(fd, info.st_size, out);
    enum td_status status = read_all(fd, most < SIZE_MAX / 2 ? most : SIZE_MAX / 2, out);
    if (status != TD_OK)
        progress_end();
    return status;
}

enum td_status file_in_verdict(const struct file_in *file, enum td_status status)
{
    struct stat info;
    /* A socket cannot send what is no longer there. */
    if (status != TD_CONNECTION || !file->mapped)
        return status;
    if ((file->standard ? fstat(STDIN_FILENO, &info) : stat(file->label, &info)) != 0 ||
        (size_t)info.st_size >= file->length)
        return status;
    return fail(TD_INVALID, "%s became shorter while it was read; put it again when it is complete",
                file->label);
}

void file_in_close(struct file_in *file)
{
    if (file->mapped) {
        signals_guard_map(NULL, 0);
        munmap((void *)(uintptr_t)file->bytes, file->length);
    } else {
        free((void *)(uintptr_t)file->bytes);
    }
    *file = (struct file_in){.label = file->label};
}
