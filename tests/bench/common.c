#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

_Noreturn void die(const char *format, ...)
{
    int error = errno;
    va_list arguments;
    fputs("bench: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, error ? ": %s\n" : "\n", strerror(error));
    exit(1);
}

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- memory -------------------------------------------------------------------------------- */

static char *reserve_aligned(size_t size)
{
    size_t span = size + HUGE_PAGE_BYTES;
    char *start = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        die("reserving %zu bytes of addresses", span);
    size_t skip = -(uintptr_t)start & (HUGE_PAGE_BYTES - 1);
    if (skip > 0)
        munmap(start, skip);
    munmap(start + skip + size, HUGE_PAGE_BYTES - skip);
    return start + skip;
}

void *map_aligned(int fd, size_t size, int protection)
{
    void *data = mmap(reserve_aligned(size), size, protection, MAP_SHARED | MAP_FIXED, fd, 0);
    if (data == MAP_FAILED)
        die("mapping %zu bytes", size);
    return data;
}

void *warm_alloc(size_t size)
{
    char *data = mmap(reserve_aligned(size), size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (data == MAP_FAILED)
        die("%zu bytes", size);
    madvise(data, size, MADV_HUGEPAGE);
    memset(data, 1, size);
    return data;
}

int memfd_make(size_t size, bool huge, char **data)
{
    int fd = memfd_create("tensord-bench", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        die("a memfd of %zu bytes", size);
    *data = map_aligned(fd, size, PROT_READ | PROT_WRITE);
    /* A byte in each extent: an empty one cannot be collapsed. */
    for (size_t at = 0; huge && at < size; at += HUGE_PAGE_BYTES)
        ((volatile char *)*data)[at] = 0;
    if (huge && madvise(*data, size, MADV_COLLAPSE) != 0)
        fprintf(stderr, "bench: no huge pages for the bare memfd: %s\n", strerror(errno));
    memset(*data, 1, size);
    return fd;
}

size_t huge_bytes_at(const void *address)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    bool here = false;
    size_t total = 0;
    while (file && fgets(line, sizeof line, file)) {
        uintptr_t start, end;
        size_t kib;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
            here = start == (uintptr_t)address;
        else if (here && (sscanf(line, "AnonHugePages: %zu", &kib) == 1 ||
                          sscanf(line, "ShmemPmdMapped: %zu", &kib) == 1))
            total += kib << 10;
    }
    if (file)
        fclose(file);
    return total;
}

/* ---- sockets ------------------------------------------------------------------------------- */

static void set_buffer(int fd, int forced, int plain, bool force)
{
    int size = UNIX_BUFFER_BYTES;
    if (!force || setsockopt(fd, SOL_SOCKET, forced, &size, sizeof size) != 0)
        setsockopt(fd, SOL_SOCKET, plain, &size, sizeof size);
}

void set_unix_buffers(int fd, bool force)
{
    set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, force);
    set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, force);
}

void set_nodelay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static struct sockaddr_un unix_address(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        die("the path %s is too long for a socket", path);
    strcpy(address.sun_path, path);
    return address;
}

static struct sockaddr_in tcp_address(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

int listen_unix(const char *path)
{
    struct sockaddr_un address = unix_address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 16) != 0)
        die("listening on %s", path);
    return fd;
}

int listen_tcp(int *port)
{
    struct sockaddr_in address = tcp_address(0);
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) != 0 || listen(fd, 16) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        die("listening on 127.0.0.1");
    *port = ntohs(address.sin_port);
    return fd;
}

int connect_unix(const char *path)
{
    struct sockaddr_un address = unix_address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("connecting to %s", path);
    set_unix_buffers(fd, false);
    return fd;
}

int connect_tcp(int port)
{
    struct sockaddr_in address = tcp_address(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("connecting to 127.0.0.1:%d", port);
    set_nodelay(fd);
    return fd;
}

bool receive_exactly(int fd, void *to, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = recv(fd, (char *)to + done, size - done, 0);
        if (n == 0)
            return false;
        if (n < 0 && errno != EINTR)
            die("receiving");
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

void send_exactly(int fd, const void *from, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = send(fd, (const char *)from + done, size - done, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            die("sending");
        done += n > 0 ? (size_t)n : 0;
    }
}
