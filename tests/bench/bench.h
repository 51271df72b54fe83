/* bench: what the driver and the race (the measuring clients) and the peer (the bare programs that
 * tensord is compared with) share. Programs that end with a message at any failure. */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define SMALL_PAGE_BYTES ((size_t)4096)
#define UNIX_BUFFER_BYTES (4 << 20) /* as client/connection.c and server/frame_connection.c */

/* What the bare programs say to each other: as large as a small tensord frame. */
enum bare_kind {
    BARE_SHARE_HUGE = 1, /* answer: a descriptor of `size` bytes in huge pages */
    BARE_SHARE_PLAIN,    /* the same in 4 KiB pages */
    BARE_PUT,            /* `size` bytes follow; answer: one message */
    BARE_GET,            /* answer: one message, then `size` bytes */
    BARE_ECHO,           /* answer: the same message */
};

struct bare_message {
    uint64_t kind, size;
    uint64_t padding[6];
};

_Static_assert(sizeof(struct bare_message) == 64, "the round trip is one of 64 bytes");

/* Prints the message, and errno's text if that is set, and exits with 1. */
_Noreturn __attribute__((format(printf, 1, 2))) void die(const char *format, ...);

int64_t now_ns(void); /* CLOCK_MONOTONIC */

/* ---- measuring (measuring.c) -------------------------------------------------------------- */

/* Samples are kept back until the end, so that nobody is woken by them. The texts are the caller's
 * and stay. */
void sample(const char *metric, const char *side, int64_t nanoseconds);
/* A line "metric side nanoseconds" for each. */
void print_samples(void);
/* Lets what a call has left behind (a release, a free) finish before the other side's turn. */
void let_settle(void);
/* A loop in the SCHED_IDLE class on every CPU: it gives way to everything, but no CPU sleeps. */
void awake_start(void);
void stay_on(int cpu);

/* ---- memory -------------------------------------------------------------------------------- */

/* Private memory in huge pages, touched. */
void *warm_alloc(size_t size);
/* Maps a descriptor at a 2 MiB-aligned address. */
void *map_aligned(int fd, size_t size, int protection);
/* A memfd of `size` bytes, all of them there, in huge pages or not; *data: its mapping. */
int memfd_make(size_t size, bool huge, char **data);
/* Bytes of a mapping that begins there which are mapped by huge pages, as /proc/self/smaps says. */
size_t huge_bytes_at(const void *address);

/* ---- sockets ------------------------------------------------------------------------------- */

/* As the daemon does for a Unix socket: by force where that is allowed. */
void set_unix_buffers(int fd, bool force);
void set_nodelay(int fd);
int listen_unix(const char *path);
int listen_tcp(int *port); /* of 127.0.0.1; the kernel chooses the port */
int connect_unix(const char *path);
int connect_tcp(int port);
/* Blocking, exactly `size` bytes. False when the other side has closed. */
bool receive_exactly(int fd, void *to, size_t size);
void send_exactly(int fd, const void *from, size_t size);

#endif
