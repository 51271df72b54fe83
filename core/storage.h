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

#include "core/cleanup.h"
#include "core/device.h"
#include "core/hash.h"

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
    UT_hash_handle hh;
};

/* Where ids go on from; for the engine, before the first storage is made. */
void storage_ids_begin(uint64_t first);

/* size bytes in BUILDING; zeroed if `clear`, otherwise the caller overwrites all of them. */
NODISCARD enum td_status storage_create(struct device *device, uint64_t size_bytes, bool clear,
                                        struct storage **out);
/* A client's own memory: takes over fd, also when it fails. The mode follows from its seals. A
 * descriptor that was given or handed out before gives the storage that it belongs to. */
NODISCARD enum td_status storage_import(struct device *device, int fd, struct storage **out);
struct storage *storage_ref(struct storage *storage);
void storage_unref(struct storage *storage);
CLEANUP_DEFINE(struct storage *, storage_unref)

/* Ends BUILDING. */
void storage_finish(struct storage *storage, enum storage_mode mode);
enum storage_mode storage_mode_of(const struct storage *storage);
/* "building", "frozen", "single-writer", "mutable". */
const char *storage_mode_name(enum storage_mode mode);

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

#endif
