/* memory_allows: whether so much can be allocated without waking the kernel's OOM killer.
 *
 * fallocate of a memfd past the machine's memory, or past a control group's, is not ENOMEM: the
 * kernel kills processes, and not necessarily this one.
 */
#include "client/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define UNCHECKED_BYTES ((size_t)1 << 20) /* below it asking would cost more than it saves */

/* A small text file, cut at size - 1; false if it cannot be read. */
static bool read_file(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t used = 0;
    ssize_t n = 1;
    while (n > 0 && used < size - 1) {
        n = read(fd, out + used, size - 1 - used);
        if (n > 0)
            used += (size_t)n;
    }
    close(fd);
    out[used] = '\0';
    return used > 0;
}

static uint64_t machine_available(void)
{
    char text[4096];
    if (!read_file("/proc/meminfo", text, sizeof text))
        return UINT64_MAX;
    const char *line = strstr(text, "MemAvailable:");
    return line ? strtoull(line + strlen("MemAvailable:"), NULL, 10) * 1024 : UINT64_MAX;
}

/* What a control group (version 2) at `directory` leaves: limit less use, page cache left aside. */
static uint64_t group_left(const char *directory)
{
    char path[600], text[64], statistics[8192];
    snprintf(path, sizeof path, "%s/memory.max", directory);
    if (!read_file(path, text, sizeof text) || text[0] < '0' || text[0] > '9')
        return UINT64_MAX; /* "max", or no such file */
    uint64_t limit = strtoull(text, NULL, 10), used = 0, cache = 0;
    snprintf(path, sizeof path, "%s/memory.current", directory);
    if (read_file(path, text, sizeof text))
        used = strtoull(text, NULL, 10);
    snprintf(path, sizeof path, "%s/memory.stat", directory);
    const char *line = NULL;
    if (read_file(path, statistics, sizeof statistics))
        line = strstr(statistics, "\ninactive_file ");
    if (line)
        cache = strtoull(line + strlen("\ninactive_file "), NULL, 10);
    used -= cache < used ? cache : used;
    return limit > used ? limit - used : 0;
}

static uint64_t group_available(void)
{
    char text[512], directory[560];
    if (!read_file("/proc/self/cgroup", text, sizeof text))
        return UINT64_MAX;
    char *path = strstr(text, "0::");
    if (!path)
        return UINT64_MAX;
    path += 3;
    path[strcspn(path, "\n")] = '\0';
    uint64_t least = UINT64_MAX;
    for (;;) { /* the group's own limit, and those of the groups around it */
        snprintf(directory, sizeof directory, "/sys/fs/cgroup%s", path);
        uint64_t left = group_left(directory);
        if (left < least)
            least = left;
        char *slash = strrchr(path, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

bool memory_allows(size_t size_bytes)
{
    if (size_bytes < UNCHECKED_BYTES)
        return true;
    return size_bytes <= machine_available() / 2 && size_bytes <= group_available() / 2;
}
