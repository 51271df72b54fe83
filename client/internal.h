/* internal: what the files of libtensord share.
 *
 * Locks: client->lock guards the members of struct td_client below it and the pool's list; it is
 * never held over I/O that waits. The order is clients (client.c), client->lock, regions
 * (memory.c), storages. td_release and td_unmap run in finalizers of other languages, between a
 * failed call and its td_last_error: nothing they reach may write an error text.
 */
#ifndef CLIENT_INTERNAL_H
#define CLIENT_INTERNAL_H

#include "client/connection.h"
#include "client/tensord.h"
#include "core/cleanup.h"

#include <pthread.h>
#include <stdatomic.h>

_Static_assert(TD_RANK_MAX == RANK_MAX, "the public limit is the vocabulary's");
_Static_assert(TD_INDEX_NONE == INDEX_NONE, "the public mark is the vocabulary's");
_Static_assert(sizeof(void *) == 8, "tensord needs 64 bits");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensord needs a little-endian machine");

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

/* ---- client.c, pool.c ---------------------------------------------------------------------- */

#define IDLE_CONNECTIONS_MAX 16
#define SESSION_KEY_SIZE 256
#define STORAGE_BUCKETS 256
#define TIMEOUT_DEFAULT_MS 30000
/* A call whose own timeout_ms is longer than the client's waits this much longer than that, so that
 * the daemon's answer to the deadline arrives. */
#define TIMEOUT_GRACE_MS 2000

struct storage_map;

struct td_client {
    atomic_uint refs;       /* td_connect's caller, calls under way, mappings */
    struct td_client *next; /* of all clients; under the lock of clients */
    pid_t pid;              /* of the process that connected; nobody else may use the sockets */
    bool foreign;           /* this is another process: a child of that one */
    struct address address;
    char *token, *name;
    int64_t timeout_ms; /* < 0: none */
    bool reconnect;
    struct interrupt interrupt;
    struct progress progress;

    pthread_mutex_t lock;
    pthread_cond_t session_opened; /* of CLOCK_MONOTONIC */
    bool closed;
    bool opening;                       /* a thread is opening a session; the others wait */
    uint64_t session;                   /* counts sessions, from 1 */
    uint64_t forks;                     /* of this process, since the client is there */
    uint64_t leased;                    /* td_mappings that hold a lease of this session */
    struct connection *keeper;          /* once closed: keeps the session for those; in the list */
    char session_key[SESSION_KEY_SIZE]; /* "": the next connection opens a session */
    struct connection *connections;     /* most recently used first */
    struct pending_release *pending;    /* releases that wait for a connection */
    size_t pending_count, pending_capacity;
    struct storage_map *storages_by_id[STORAGE_BUCKETS]; /* storages.c */
    struct storage_map *storages_by_name[STORAGE_BUCKETS];
    struct kept_list *kept;      /* of all its queues; kept.c */
    _Atomic int64_t kept_due_ms; /* when kept_age may find something; INT64_MAX: nothing is kept */
};

void client_ref(struct td_client *client);
void client_unref(struct td_client *client);
CLEANUP_DEFINE(struct td_client *, client_unref)

/* Runs one call: takes a connection, makes it anew where that is safe, reads the reply. On success
 * the caller owns *out. */
NODISCARD enum td_status client_call(struct td_client *client, const struct call *call,
                                     struct td_reply **out);
/* Whether an error of client_call says that nothing was done: else nobody knows. */
bool call_was_refused(enum td_status status);
/* Gives back a lease or an object of that session; neither waits nor fails nor writes an error. */
void client_release(struct td_client *client, bool lease, uint64_t id, uint64_t session);
/* Gives back what a reply hands out that nobody will use. */
void client_give_back(struct td_client *client, enum op op, const struct td_reply *reply);
/* Acknowledges an item, in the same way. */
void client_acknowledge(struct td_client *client, uint64_t lease, uint64_t session);
/* Whether the session is the client's, as far as that has noticed, and the client not closed. */
bool client_holds(struct td_client *client, uint64_t session);
/* Counts a mapping that holds a lease of that session; false: the lease is gone with the session.
 * *forks is for client_unleased. */
bool client_leased(struct td_client *client, uint64_t session, uint64_t *forks);
/* The mapping is gone, and its lease given back (`done`: an item's, acknowledged) unless the client
 * is closed and this was the last one: then the session ends. If the process has forked since, a
 * child may go on reading, which the daemon is told. As client_release. */
void client_unleased(struct td_client *client, uint64_t lease, bool done, uint64_t session,
                     uint64_t forks);
/* True in a child of the process that connected. */
bool client_is_foreign(const struct td_client *client);
/* CONNECTION then. */
NODISCARD enum td_status client_check_process(const struct td_client *client);

/* Takes an idle connection of the session, or opens one (and a session, where the old one is gone).
 * Releases that wait are queued on it. */
NODISCARD enum td_status pool_take(struct td_client *client, int64_t deadline,
                                   struct connection **out);
/* Takes a connection back; one that cannot be used again is closed, without losing the session
 * if that can be helped. */
void pool_give(struct td_client *client, struct connection *connection,
               enum connection_state state);
/* An idle connection, marked busy, or NULL. The caller holds the lock. */
struct connection *pool_find_idle(struct td_client *client);
/* Sends the waiting releases over a connection whose call waits for its reply, if there is one. The
 * caller holds the lock, and goes on holding it: it does not wait. */
void pool_send_pending(struct td_client *client);
/* Whether the connection does that; for connection.tell_listens, whose argument is the client. */
void pool_listens(struct connection *connection, void *client, bool listens);
/* Queues the waiting releases on the connection. The caller holds the lock. */
void pool_queue_pending(struct td_client *client, struct connection *connection);
/* Before td_close: a connection that keeps the session, marked busy; NULL if that is gone. Waits no
 * longer than a replacement may take, and leaves the thread's error text as it is. */
struct connection *pool_take_keeper(struct td_client *client);
/* Takes it out of the list, for the caller to close; NULL if somebody uses it, who then closes it.
 * The caller holds the lock. */
struct connection *pool_drop_keeper(struct td_client *client);

/* ---- reply.c ------------------------------------------------------------------------------- */

struct td_reply {
    struct fields fields; /* texts point into meta and end with NUL */
    uint8_t *meta;
    void *body; /* block_alloc */
    size_t body_bytes;
    int descriptor;         /* received along, -1: none; the reply's until taken */
    uint64_t session;       /* td_session_count of the session that answered */
    struct td_reply *entry; /* td_reply_next's */
    size_t entry_meta_capacity;
};

NODISCARD enum td_status reply_new(struct td_reply **out);
CLEANUP_DEFINE(struct td_reply *, td_reply_free)
/* Takes meta (malloc'ed, one byte longer than `length`) over and decodes it; PROTOCOL. */
NODISCARD enum td_status reply_set_meta(struct td_reply *reply, uint8_t *meta, size_t length);

/* ---- args.c -------------------------------------------------------------------------------- */

struct td_args {
    enum td_status status; /* of the first setter that failed */
    char *detail;
    struct fields fields;
    struct text_block *texts;
};

/* The error of the first setter that failed. */
NODISCARD enum td_status args_check(const struct td_args *args);

/* ---- storages.c ---------------------------------------------------------------------------- */

/* One shared mapping of a whole storage in this process, counted, for all td_mappings of it. */
struct storage_map {
    struct storage_map *next_by_id, *next_by_name; /* these and refs under the client's lock */
    unsigned refs;
    uint64_t storage, session; /* ids are the daemon's, and mean something in a session only */
    bool writable;             /* by this process */
    bool refilled;             /* by one writer, for readers who have a mapping of their own */
    int fd;                    /* kept by writable ones, for td_from_memory; else -1 */
    char *base;
    size_t size_bytes;
    char name[]; /* that the first td_map gave */
};

/* The storage that the name was mapped from before, if it still is, as a reference; else NULL. */
struct storage_map *storage_guess(struct td_client *client, const char *name, bool write);
/* The mapping of the storage that a reply of map shares, made from its descriptor unless it is
 * there already. PROTOCOL where the reply does not hold together. */
NODISCARD enum td_status storage_get(struct td_client *client, const char *name, bool write,
                                     const struct td_info *info, struct td_reply *reply,
                                     struct storage_map **out);
/* The storage if it is mapped here, as a reference; else NULL. */
struct storage_map *storage_known(struct td_client *client, uint64_t storage, uint64_t session,
                                  bool write);
/* In a child, before anything else runs there: what the parent fills for queues is for reading. */
void storages_after_fork(struct td_client *client);
/* Neither waits nor fails nor writes an error. */
void storage_put(struct td_client *client, struct storage_map *storage);
/* OUT_OF_MEMORY or UNSUPPORTED, for what mmap gave as errno. */
NODISCARD enum td_status mapping_failed(uint64_t storage, size_t size_bytes, bool write, int error);
/* PROTOCOL unless the reply's descriptor is memory of the announced size that cannot shrink. */
NODISCARD enum td_status storage_check_descriptor(const struct td_info *info,
                                                  const struct td_reply *reply);

/* ---- memory.c ------------------------------------------------------------------------------ */

/* Memory for bodies: aligned for any element, in huge pages when large. NULL without memory. */
void *block_alloc(size_t size_bytes);
void block_free(void *block, size_t size_bytes);

/* Maps a descriptor from `offset` (a multiple of the page size), at an address that is as far from
 * a multiple of 2 MiB as the offset is, so that huge pages fit. NULL with errno. */
void *map_aligned(int fd, size_t size_bytes, int protection, int flags, size_t offset);

/* Address ranges that td_from_memory can pass as a descriptor. `fd` stays the owner's, which
 * removes the region before closing it. */
NODISCARD bool region_add(void *base, size_t size_bytes, int fd, bool allocated);
/* The descriptor and size of the region that begins there, which is removed; false if none does. */
bool region_remove(const void *base, bool allocated, int *fd, size_t *size_bytes);
/* The region around an address, false if there is none. *fd is a duplicate of its descriptor, the
 * caller's; -1 (errno) if none was to be had. */
bool region_find(const void *address, const void **base, size_t *size_bytes, int *fd);
/* ENOMEM in time: false for more than half of what the machine and the control groups have left. */
bool memory_allows(size_t size_bytes); /* memory_allows.c */

/* Around fork(), so that a child finds the lock free and the list whole. */
void regions_lock(void);
void regions_unlock(void);

/* ---- gather.c ------------------------------------------------------------------------------ */

/* Copies elements at any strides (in elements, also negative) into C order. `out` has room. */
void gather(size_t element_bytes, int rank, const int64_t *shape, const int64_t *strides,
            const void *first, void *out);
bool strides_are_c_order(int rank, const int64_t *shape, const int64_t *strides);

/* ---- mapping.c, allocate.c ------------------------------------------------------------------ */

struct td_mapping {
    struct td_client *client; /* a reference */
    struct storage_map
        *storage; /* a reference, where the bytes are shared with other td_mappings */
    void *own;    /* a mapping of its own; NULL: none */
    size_t own_bytes;
    int fd;      /* of memory that td_allocate gave, while it may be written; else -1 */
    bool region; /* `own` is known to td_from_memory, with `fd` */
    bool holds;  /* the object, which td_allocate made */
    void *data;
    size_t span_bytes;
    bool writable;
    bool leased;
    uint64_t lease, forks;  /* see client_leased */
    struct td_reply *reply; /* the texts of info, and the bytes of a copy */
    struct td_item *item;   /* a reference: the item of a queue that it shows; else NULL */
    struct td_info info;
};

CLEANUP_DEFINE(struct td_mapping *, td_unmap)
/* A mapping of what the reply describes, whose lease it has, without memory yet. Takes the reply
 * over, also on failure. */
NODISCARD enum td_status mapping_new(struct td_client *client, struct td_reply *reply,
                                     struct td_mapping **out);
/* As td_map, of an object of that session: CONNECTION if it is gone. 0: any session. */
NODISCARD enum td_status mapping_of(struct td_client *client, const char *name, unsigned flags,
                                    uint64_t session, struct td_mapping **out);
/* Offset, shape and strides must lie inside the storage, whatever the daemon says. *span_bytes: 0
 * without elements, and then `data` points somewhere. */
NODISCARD enum td_status mapping_check_layout(struct td_mapping *mapping);

/* ---- kept.c --------------------------------------------------------------------------------- */

#define KEPT_MS 10000 /* since they were used last */

/* Segments that stay mapped from item to item. Under the client's lock, which fork() respects. */
struct kept_list {
    struct kept_list *next, **at; /* of the client's */
    struct td_mapping *spare;     /* to be filled next; or NULL */
    int64_t spare_ms;
    size_t count, room; /* the one that was used last stands first */
    struct kept {
        uint64_t storage, session;
        struct storage_map *map;    /* a reference */
        struct td_mapping *mapping; /* a consumer's: with the lease; else NULL */
        int64_t used_ms;
    } * kept;
};

void kept_open(struct td_client *client, struct kept_list *list);
void kept_close(struct td_client *client, struct kept_list *list);
/* A reference to the segment if it is kept; else NULL. */
struct storage_map *kept_find(struct td_client *client, struct kept_list *list, uint64_t storage,
                              uint64_t session);
/* Keeps a segment, takes over what it is made of, and lets go of one that was not used for long. */
void kept_add(struct td_client *client, struct kept_list *list, struct storage_map *map,
              struct td_mapping *mapping);
/* What the producer will fill next; takes it over (NULL: nothing), and gives what was there. */
struct td_mapping *kept_swap_spare(struct td_client *client, struct kept_list *list,
                                   struct td_mapping *spare);
/* Lets go of what was not used for KEPT_MS, in any queue of the client; whether some is left. Each
 * call does, so that it does not depend on who goes on using which queue. Cheap when it is not due.
 */
bool kept_age(struct td_client *client);
void kept_clear(struct td_client *client, struct kept_list *list);

/* ---- queue.c -------------------------------------------------------------------------------- */

void item_unref(struct td_item *item);

/* ---- tensors.c ----------------------------------------------------------------------------- */

/* Checks a tensor that a caller describes; `out` in C order. */
NODISCARD enum td_status tensor_describe(enum td_dtype dtype, int rank, const int64_t *shape,
                                         struct layout *out);
/* put of elements in C order; see td_put. */
NODISCARD enum td_status tensor_put(struct td_client *client, const char *name,
                                    const struct layout *layout, const void *data, unsigned flags,
                                    struct td_reply **reply);

#endif
