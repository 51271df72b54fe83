/* device: where bytes live, and what can be done to them there.
 *
 * A device is a table of functions over `struct memory`. The engine above knows no pointers into
 * other devices than the cpu: it allocates, converts, fills and shares through this table, so that
 * a GPU is a second implementation and nothing above it changes.
 *
 * Layouts given here have been checked against the memory's size. Threads: every function, from any
 * thread; two calls that write the same bytes are kept apart by the storage's lock above.
 */
#ifndef CORE_DEVICE_H
#define CORE_DEVICE_H

#include "core/layout.h"
#include "core/ledger.h"
#include "core/scalar.h"

#include <stdatomic.h>

struct device;
struct job_pool;

enum storage_mode {
    STORAGE_BUILDING,      /* one writer fills it; not visible yet */
    STORAGE_FROZEN,        /* nobody can change it */
    STORAGE_SINGLE_WRITER, /* one side, the daemon or the giver, writes; all others read */
    STORAGE_MUTABLE,       /* every holder may write */
};

/* Bytes on a device. On the cpu: heap below MEMFD_MIN_BYTES, a memfd from there on. */
struct memory {
    _Atomic(unsigned char *) data; /* host address, NULL off the cpu */
    atomic_size_t capacity;        /* bytes allocated; at least the size asked for */
    int fd;                        /* the memfd, -1 on the heap */
    int read_fd;                   /* the same opened O_RDONLY for readers; -1 until shared */
    bool exported;        /* a descriptor of it has left the daemon, or came from a client */
    bool imported;        /* the latter: its seals are the giver's */
    atomic_bool sealed;   /* the seals of its mode are set */
    bool read_only;       /* the daemon's own mapping cannot be written */
    void *retired;        /* a heap block that was promoted; late readers may still use it */
    size_t charged_bytes; /* in the ledger */
};

#define MEMFD_MIN_BYTES ((size_t)64 << 10)
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

enum random_kind { RANDOM_UNIFORM, RANDOM_NORMAL, RANDOM_INTEGER };

struct random_spec {
    enum random_kind kind;
    uint64_t seed, counter;
    int64_t low, high; /* of RANDOM_INTEGER: [low, high) */
};

enum arithmetic { ARITHMETIC_MUL, ARITHMETIC_ADD };

struct device_ops {
    /* At least size bytes; `clear` zeroes them all, otherwise only those past size are zero. */
    enum td_status (*alloc)(struct device *, size_t size, bool clear, struct memory *out);
    void (*free)(struct device *, struct memory *);
    /* Readies the memory for other processes: moves it into a descriptor of its own and sets the
     * seals of the mode; none of BUILDING. *fd is borrowed, for writing if `write`. CONFLICT while
     * somebody else has mapped for writing what is to be FROZEN. The caller holds the lock. */
    enum td_status (*share)(struct device *, struct memory *, enum storage_mode, bool write,
                            int *fd);
    /* Takes over fd, memory that a client made; *out's fd is closed on failure too. */
    enum td_status (*import)(struct device *, int fd, struct memory *out);
    enum td_status (*upload)(struct device *, struct memory *, uint64_t offset, const void *from,
                             size_t size);
    enum td_status (*download)(struct device *, const struct memory *, uint64_t offset, void *to,
                               size_t size);
    /* dst[i] = cast(src[i]) for equal shapes; both on this device, not overlapping. Strides may be
     * negative. */
    enum td_status (*convert)(struct device *, const struct layout *src, const struct memory *,
                              const struct layout *dst, struct memory *, bool saturate);
    /* Here, too. */
    enum td_status (*fill)(struct device *, const struct scalar *, const struct layout *dst,
                           struct memory *);
    /* dst is C-contiguous in these three. */
    enum td_status (*arange)(struct device *, const struct scalar *start, const struct scalar *step,
                             const struct layout *dst, struct memory *);
    enum td_status (*random)(struct device *, const struct random_spec *, const struct layout *dst,
                             struct memory *);
    /* dst[i] = cast to dst's dtype(src[i]) op value, computed as PyTorch does. */
    enum td_status (*arithmetic)(struct device *, enum arithmetic, const struct layout *src,
                                 const struct memory *, const struct scalar *value,
                                 const struct layout *dst, struct memory *);
};

struct device {
    char name[16]; /* "cpu", "cuda:0" */
    const struct device_ops *ops;
    struct ledger *ledger;
    struct job_pool *jobs; /* its idle threads help with large tensors; NULL: nobody does */
    void *state;           /* the implementation's */
};

struct device_options {
    struct ledger *ledger;
    struct job_pool *jobs;
    uint64_t pool_bytes;           /* at most so much is kept for reuse */
    unsigned long memfd_min_bytes; /* 0: MEMFD_MIN_BYTES */
};

/* The devices of this machine: the cpu first, then what device_cuda finds. */
struct devices {
    int count;
    struct device *list[17];
};

NODISCARD enum td_status devices_open(const struct device_options *options, struct devices *out);
void devices_close(struct devices *devices);
/* "cpu", "cuda" (the first), "cuda:N". NO_DEVICE, in PyTorch's words, if it is not here. */
NODISCARD enum td_status devices_find(const struct devices *devices, const char *name,
                                      size_t length, struct device **out);

static inline bool device_is_cpu(const struct device *device)
{
    return device->name[0] == 'c' && device->name[1] == 'p';
}

/* The implementations. */
NODISCARD enum td_status device_cpu_open(const struct device_options *options, struct device **out);
void device_cpu_close(struct device *device);
/* Appends the CUDA devices of the machine, none without CUDA. */
NODISCARD enum td_status device_cuda_open(const struct device_options *options,
                                          struct devices *devices);
void device_cuda_close(struct device *device);
/* Why there is no CUDA device, for messages and the log. */
const char *device_cuda_absence(void);

#endif
