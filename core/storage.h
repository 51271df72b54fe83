/* storage: reference-counted bytes on one device.
 *
 * Born BUILDING, seen by nobody but its maker; storage_finish gives it the mode it keeps. Whoever
 * maps a view maps its whole storage. The epoch rises at every write through the daemon.
 *
 * Threads: ref, unref and the readers from any thread. In-place changes are between
 * storage_write_begin and storage_write_end, which keep two of them apart and also apart from the
 * first share of a small storage (which moves its bytes). Readers take no lock: like readers of any
 * shared memory they may see a write half done.
 */
#ifndef CORE_STORAGE_H
#define CORE_STORAGE_H

#include "core/account.h"
#include "core/cleanup.h"
#include "core/device.h"
#include "core/hash.h"
#include "core/waiter.h"

struct storage {
    atomic_uint refs;
    uint64_t id;         /* never used again */
    uint64_t size_bytes; /* what tensors may cover; the memory's capacity may be larger */
    struct device *device;
    atomic_int mode; /* enum storage_mode */
    atomic_ullong epoch;
    pthread_rwlock_t lock;
    struct memory memory;
    uint64_t inode; /* of a memfd that is known outside, to know it again; else 0 */
    bool imported;  /* a client made the memory; never changes */
    bool filled;    /* a client had it to fill, and may have kept a mapping; under the lock */
    UT_hash_handle hh;

    /* Who has it, and who pays for it; see below. */
    pthread_mutex_t holders_lock; /* of what follows; only that of the accounts is taken under it */
    struct account *payer;        /* a reference; NULL: nobody, or the holders do */
    uint64_t descriptors;         /* of the memory, that are paid for: 0 or 1 */
    uint64_t named;               /* names and items of queues that lead here */
    bool was_named;               /* one of those has led here at some time */
    bool deleted;                 /* the last of those is gone, and holders remain */
    struct holder {
        struct account *account; /* a reference */
        uint64_t count;          /* of leases and objects of its sessions; 0: free */
        struct holder *next;
    } holders;                  /* the first is here, further ones on the heap */
    unsigned writers;           /* leases whose holders may write to a mapping */
    struct waiter_list waiting; /* for writers to be gone */

    /* Recycled memory (core/ring.h): what is done when the last tensor over it has gone. */
    atomic_uint tensors;
    void (*idle)(struct storage *storage);
    void (*freed)(struct storage *storage); /* just before it is; or NULL */
    void *idle_argument;
};

/* Where ids go on from; for the engine, before the first storage is made. */
void storage_ids_begin(uint64_t first);

/* size bytes in BUILDING; zeroed if `clear`, otherwise the caller overwrites all of them. payer:
 * the account that they are reserved against first; NULL: none. */
NODISCARD enum td_status storage_create(struct device *device, struct account *payer,
                                        uint64_t size_bytes, bool clear, struct storage **out);
/* A client's own memory: takes over fd, also when it fails. The mode follows from its seals. A
 * descriptor that was given or handed out before gives the storage that it belongs to. */
NODISCARD enum td_status storage_import(struct device *device, struct account *payer, int fd,
                                        struct storage **out);
struct storage *storage_ref(struct storage *storage);
void storage_unref(struct storage *storage);
CLEANUP_DEFINE(struct storage *, storage_unref)

/* A tensor over it, or what counted as one, has gone; the reference of it still stands. */
static inline void storage_left(struct storage *storage)
{
    if (atomic_fetch_sub_explicit(&storage->tensors, 1, memory_order_acq_rel) == 1 && storage->idle)
        storage->idle(storage);
}

/* Ends BUILDING. */
void storage_finish(struct storage *storage, enum storage_mode mode);
enum storage_mode storage_mode_of(const struct storage *storage);
/* "building", "frozen", "single-writer", "mutable". */
const char *storage_mode_name(enum storage_mode mode);

/* The descriptor of memory that is BUILDING, for the one client that fills it: without a seal that
 * would keep it from being frozen afterwards. CONFLICT if it was finished meanwhile. */
NODISCARD enum td_status storage_share_building(struct storage *storage, int *fd);
/* Ends BUILDING of memory that storage_share_building has shown to a client: FROZEN needs every
 * writable mapping gone, and is CONFLICT, with nothing changed, while one is left. SINGLE_WRITER
 * leaves those that there are, and no other can be made. CONFLICT also, with a mode that is not
 * BUILDING any more, if it was finished before; but nothing happens if it got that very mode, and
 * no name: then it is published once more, after the first time failed. */
NODISCARD enum td_status storage_seal(struct storage *storage, enum storage_mode mode);
/* FROZEN from now on, of memory that is MUTABLE and that nobody outside has seen; false if somebody
 * has: then only a copy can be frozen. */
bool storage_freeze_unseen(struct storage *storage);

/* A descriptor for others to map the storage with, borrowed for as long as the reference is held.
 * FROZEN if write is asked of memory that others may not write. */
NODISCARD enum td_status storage_share(struct storage *storage, bool write, int *fd);
/* Whether somebody outside the daemon may write to the bytes: they can change unnoticed. Once true
 * it stays so, for nobody knows who kept a descriptor; one that is handed out now makes it true. */
bool storage_is_exposed(const struct storage *storage);
/* Bytes a client maps. */
uint64_t storage_mapped_bytes(const struct storage *storage);

/* FROZEN unless the daemon may change the bytes. On TD_OK storage_write_end must follow. */
NODISCARD enum td_status storage_write_begin(struct storage *storage);
/* Raises the epoch. */
void storage_write_end(struct storage *storage);
/* Raises the epoch for a change that a client made through its own mapping. */
void storage_touch(struct storage *storage);

/* ---- who has it --------------------------------------------------------------------------------
 *
 * Names and queues lead to a storage; leases and objects of sessions hold it. Who made it pays for
 * it (QUOTA_BYTES and QUOTA_DESCRIPTORS of an account), until nothing leads to it any more: from
 * then on those who still hold it do, each as for all of it, as deleted bytes. */

/* One more name or item leads here. If it was deleted, `payer` (NULL: nobody) pays from now on. */
void storage_name_begin(struct storage *storage, struct account *payer);
void storage_name_end(struct storage *storage);
void storage_hold_begin(struct storage *storage, struct account *account);
void storage_hold_end(struct storage *storage, struct account *account);
bool storage_is_deleted(struct storage *storage);

/* A lease begins, or ends, whose holder may write to its mapping. */
void storage_writer_begin(struct storage *storage);
void storage_writer_end(struct storage *storage);
/* True if there are such leases: then the waiter is woken when the last of them has ended, unless
 * it is taken back by storage_writers_forget. */
bool storage_writers_wait(struct storage *storage, struct waiter *waiter);
void storage_writers_forget(struct storage *storage, struct waiter *waiter);

#endif
