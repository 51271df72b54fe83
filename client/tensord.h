/* tensord.h: the C client of the tensord daemon (libtensord, `pkg-config tensord`).
 *
 * Blocking and thin. A td_client is a session: it may be used from any number of threads at once;
 * each call that runs at the same time as others uses a connection of its own within the session.
 * No dependency beyond libc. Not to be used across fork(): a child connects anew (calls on a client
 * of the parent return TD_CONNECTION). Mappings of the parent can be read in a child, as long as it
 * likes; their leases are the parent's. What the parent may write to or is about to push is not the
 * child's to write to; memory of td_queue_allocate is read-only in a child, and the kernel ends one
 * that writes to it.
 *
 * Every function that can fail returns an enum td_status (TD_OK is 0); td_last_error() then tells,
 * in words and per thread, what was wrong, what was expected and what to do. On failure outputs are
 * left as they were unless said otherwise.
 *
 * Units: sizes and offsets in bytes, shapes and strides in elements, times in milliseconds.
 * Tensors are named by text: a name ("model/layer.0"), or an object id ("@17").
 */
#ifndef TENSORD_H
#define TENSORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/dtype.h"  /* enum td_dtype: TD_FLOAT32, ...; td_dtype_name, _size, _parse */
#include "core/status.h" /* enum td_status: TD_OK, TD_NOT_FOUND, ...; td_status_name */

#ifdef __cplusplus
extern "C" {
#endif

#define TD_RANK_MAX 32
#define TD_API __attribute__((visibility("default")))

struct td_client;
struct td_args;
struct td_reply;
struct td_mapping;

/* ---- connection ---------------------------------------------------------------------------- */

struct td_options {
    const char *token;  /* NULL: the environment's TENSORD_TOKEN, else none */
    const char *client; /* a name for the daemon's log; NULL: the program's */
    /* For connecting and for each call; 0: 30000; < 0: wait for ever. A call with a longer
     * timeout_ms among its own arguments waits for the daemon's answer to that; one that waits for
     * what others do (td_wait, td_watch) and has no timeout_ms, for ever. Resolving the name
     * of a host is not counted. A call may end later: by up to an eighth of its timeout, and, when
     * another connection has to keep the session, by up to a quarter of timeout_ms, at most a
     * second. */
    int64_t timeout_ms;
    bool no_reconnect; /* a lost session is otherwise opened anew by the next call */
    /* Asked in the calling thread when a signal has interrupted waiting for the daemon (its handler
     * was installed without SA_RESTART). True ends the call with TD_CANCELLED; the daemon may or
     * may not have done it, and the session is kept. Calls nothing of this client. NULL: such calls
     * go on waiting. */
    bool (*interrupted)(void *argument);
    void *interrupted_argument;
    /* Told in the calling thread, after each piece of a request's or a reply's body, how much of it
     * has gone over the connection; a call that is sent once more begins anew. Calls nothing of
     * this client. NULL: nobody is told. */
    void (*progress)(void *argument, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_argument;
};

/* url: "unix:///run/tensord.sock", "tcp://host:7071", or a bare path of a socket. NULL: the
 * environment's TENSORD_URL, else "unix://" + $TENSORD_SOCKET, else the default socket
 * ($XDG_RUNTIME_DIR/tensord.sock, or /run/tensord.sock when that does not exist). options may be
 * NULL. The caller owns *out and ends it with td_close. */
TD_API enum td_status td_connect(const char *url, const struct td_options *options,
                                 struct td_client **out);
/* Ends the session, and with it the anonymous objects that it holds in the daemon. Calls under way
 * in other threads, and all later ones, end with TD_CONNECTION. Mappings that are still open stay
 * good until td_unmap, which may come later: for their leases one idle connection (no thread) is
 * kept, until the last of them is gone. NULL is fine. */
TD_API void td_close(struct td_client *client);
/* Where it is connected to, as an url. Lives as long as the client. */
TD_API const char *td_url(const struct td_client *client);
/* True if the memory of tensors can be shared with the daemon (a Unix socket). */
TD_API bool td_is_local(const struct td_client *client);
/* A new session is opened when the old one is found lost; this counts them (1 after td_connect).
 * Object ids and leases of an earlier session are gone. */
TD_API uint64_t td_session_count(const struct td_client *client);

/* The text of this thread's last failed call, "" before the first. Valid until the next call. */
TD_API const char *td_last_error(void);
/* The version of this library, "0.1.0". */
TD_API const char *td_version(void);

/* ---- tensors as the daemon describes them -------------------------------------------------- */

/* A tensor's description. Texts live as long as the td_reply or td_mapping it was read from. */
struct td_info {
    uint64_t id;         /* object id; "@<id>" names it while the session holds it */
    const char *name;    /* "" for an anonymous object */
    uint64_t generation; /* of the name; 0 for an anonymous object */
    enum td_dtype dtype;
    int rank;
    int64_t shape[TD_RANK_MAX];
    int64_t strides[TD_RANK_MAX]; /* in elements */
    int64_t offset_bytes;         /* of the first element in the storage */
    int64_t nbytes;               /* of the elements */
    const char *device;           /* "cpu", "cuda:0" */
    bool is_variable, requires_grad, is_leaf;
    const char *grad_fn; /* "" for a leaf */
    const char *history; /* "name@generation" of what it was made from, or "" */
    uint64_t version;    /* PyTorch's _version */
    uint64_t epoch;      /* writes to the storage */
    uint64_t storage;    /* equal for tensors that share memory */
    uint64_t storage_bytes;
    const char *mode;   /* "frozen", "mutable", ... */
    const char *memory; /* "shared" or "copied": what the call that was answered did */
    const char *reason; /* why it copied, "" if it did not */
};

/* ---- any operation ------------------------------------------------------------------------- */

/* Arguments by name, as the operations table lists them (td_op_info; PROTOCOL.md). A setter that
 * fails (an unknown field, the wrong type, no memory) makes the call that uses the arguments fail
 * with the same error, so that its result need not be looked at. Texts and dims are copied. */
TD_API struct td_args *td_args_new(void); /* NULL without memory */
TD_API void td_args_free(struct td_args *args);
TD_API enum td_status td_args_text(struct td_args *args, const char *field, const char *value);
TD_API enum td_status td_args_uint(struct td_args *args, const char *field, uint64_t value);
TD_API enum td_status td_args_int(struct td_args *args, const char *field, int64_t value);
TD_API enum td_status td_args_bool(struct td_args *args, const char *field, bool value);
TD_API enum td_status td_args_dtype(struct td_args *args, enum td_dtype dtype);
TD_API enum td_status td_args_dims(struct td_args *args, const char *field, int rank,
                                   const int64_t *dims);
TD_API enum td_status td_args_scalar_bool(struct td_args *args, const char *field, bool value);
TD_API enum td_status td_args_scalar_int(struct td_args *args, const char *field, int64_t value);
TD_API enum td_status td_args_scalar_uint(struct td_args *args, const char *field, uint64_t value);
TD_API enum td_status td_args_scalar_float(struct td_args *args, const char *field, double value);
TD_API enum td_status td_args_scalar_complex(struct td_args *args, const char *field, double re,
                                             double im);
/* Items of NumPy's basic index, in order. TD_INDEX_NONE is an absent start, stop or step. */
#define TD_INDEX_NONE INT64_MIN
TD_API enum td_status td_args_index_integer(struct td_args *args, int64_t position);
TD_API enum td_status td_args_index_slice(struct td_args *args, int64_t start, int64_t stop,
                                          int64_t step);
TD_API enum td_status td_args_index_ellipsis(struct td_args *args);
TD_API enum td_status td_args_index_new_axis(struct td_args *args);

/* Runs one operation by name. args NULL: none. body: the request's elements for operations that
 * take them (put, tensor, from_numpy; the bytes of a file for load), else NULL and 0. The caller
 * owns *out: td_reply_free; out may be NULL. TD_NOT_FOUND for an unknown operation. */
TD_API enum td_status td_op(struct td_client *client, const char *op, const struct td_args *args,
                            const void *body, size_t body_bytes, struct td_reply **out);
/* The same for operations whose reply has a body (get; save, which writes what load reads: a file
 * of tensors), which is written to a descriptor as it comes: memory for a piece of it is all that
 * it takes. td_reply_body of *out then gives NULL and its size. TD_INVALID when it cannot be
 * written; TD_CANCELLED for a pipe that nobody reads (where SIGPIPE is ignored). After an error
 * part of it may have been written. */
TD_API enum td_status td_op_to_file(struct td_client *client, const char *op,
                                    const struct td_args *args, int fd, struct td_reply **out);
TD_API void td_reply_free(struct td_reply *reply); /* NULL is fine */
/* The tensor that the reply describes. TD_INVALID when it describes none. */
TD_API enum td_status td_reply_info(const struct td_reply *reply, struct td_info *out);
/* A field of the reply by name; false when it is not there or of another type. */
TD_API bool td_reply_text(const struct td_reply *reply, const char *field, const char **out);
TD_API bool td_reply_uint(const struct td_reply *reply, const char *field, uint64_t *out);
TD_API bool td_reply_int(const struct td_reply *reply, const char *field, int64_t *out);
TD_API bool td_reply_bool(const struct td_reply *reply, const char *field, bool *out);
TD_API bool td_reply_dtype(const struct td_reply *reply, const char *field, enum td_dtype *out);
/* Writes *rank items of dims. */
TD_API bool td_reply_dims(const struct td_reply *reply, const char *field, int *rank,
                          int64_t dims[TD_RANK_MAX]);
/* The kind of a scalar field: 'b', 'i', 'u', 'f', 'c', or 0 when it is not there. Exact: *integer
 * holds i and u (as two's complement) and b, *re and *im hold f and c. Outputs may be NULL. */
TD_API char td_reply_scalar(const struct td_reply *reply, const char *field, int64_t *integer,
                            double *re, double *im);
/* The name of the i-th field that the reply holds, from 0; NULL past the last. Static. */
TD_API const char *td_reply_field(const struct td_reply *reply, int i);
/* The reply's body: elements in C order, aligned to 64 bytes. Owned by the reply. NULL and 0
 * without one. size_bytes may be NULL. */
TD_API const void *td_reply_body(const struct td_reply *reply, size_t *size_bytes);
/* The session that answered, as td_session_count counts them: ids in the reply belong to it. */
TD_API uint64_t td_reply_session(const struct td_reply *reply);
/* The entries of a list reply (list, stats, devices, ops), one after another, as replies of their
 * own: *cursor begins at 0. The entry is valid until the next call on the same reply or its end.
 * Returns false at the end, and where the list cannot be read. */
TD_API bool td_reply_next(struct td_reply *reply, size_t *cursor, const struct td_reply **entry);

/* Gives back a reference of a session (td_reply_session of the reply that gave the id) to an
 * anonymous object, which nobody else then holds. Of an earlier session nothing is left: ignored.
 * Meant for finalizers of other languages: from any thread, never waits for the daemon, reports no
 * error and leaves td_last_error as it is. Without connection to spare it goes out with the next
 * call. client may be NULL. */
TD_API void td_release(struct td_client *client, uint64_t object_id, uint64_t session);

/* The operations table: name, doc and field names (separated by spaces) of operation number i, for
 * i from 0 until false is returned. Static texts. */
struct td_op_description {
    int opcode;
    const char *name;
    const char *doc;
    const char *required; /* field names, separated by spaces */
    const char *optional;
    bool makes_tensor, takes_body, returns_body, takes_descriptor, returns_descriptor;
};
TD_API bool td_op_info(int i, struct td_op_description *out);
/* The type of a field by name: "uint", "int", "bool", "text", "dtype", "dims", "scalar", "index";
 * NULL if there is no such field. Static. */
TD_API const char *td_field_type(const char *field);

/* ---- put and get --------------------------------------------------------------------------- */

enum td_put_flags {
    TD_PUT_MUTABLE = 1,       /* holders may write; else frozen */
    TD_PUT_REQUIRES_GRAD = 2, /* a variable that requires grad */
    TD_PUT_CREATE_ONLY = 4,   /* TD_EXISTS if the name is taken */
};

/* Stores elements (C order, no holes) under a name. reply may be NULL. */
TD_API enum td_status td_put(struct td_client *client, const char *name, enum td_dtype dtype,
                             int rank, const int64_t *shape, const void *data, unsigned flags,
                             struct td_reply **reply);
/* Fetches the elements in C order straight into the caller's buffer, cast to dtype unless that is
 * TD_DTYPE_NONE. TD_TOO_LARGE, with the size needed in the text and in *size_bytes, if the buffer
 * is smaller. *size_bytes: in the buffer's size, out the bytes written. reply may be NULL. When
 * the connection is lost half-way, the buffer's contents are undefined. */
TD_API enum td_status td_get(struct td_client *client, const char *name, enum td_dtype dtype,
                             void *buffer, size_t *size_bytes, struct td_reply **reply);
/* The same into memory of libtensord's: the reply's body. */
TD_API enum td_status td_get_alloc(struct td_client *client, const char *name, enum td_dtype dtype,
                                   struct td_reply **reply);

/* ---- waiting for others --------------------------------------------------------------------
 *
 * These calls wait in the daemon, each over a connection of its own: calls of other threads go on.
 * timeout_ms: how long they wait, 0 for not at all, < 0 for ever; the client's own timeout does not
 * cut them short. A signal, as `interrupted` says, and td_close end them. */

/* Waits until the name is there and, unless generation is 0, has another generation than that; also
 * td_touch of the name gives it a new one. Describes the tensor (td_reply_info); reply may be NULL.
 * TD_DEADLINE when the time is over. */
TD_API enum td_status td_wait(struct td_client *client, const char *name, uint64_t generation,
                              int64_t timeout_ms, struct td_reply **reply);

#define TD_SINCE_NOW UINT64_MAX
/* What was published and removed after revision *since, of names that begin with prefix (NULL:
 * all), oldest first; waits until there is something. *since moves on to what is known then, for
 * the next call; TD_SINCE_NOW: what happens from now on. The events are the reply's entries
 * (td_reply_next), each with "event" ("publish" or "remove"), "name" and "revision" (which of a
 * publish is the generation). None, and TD_OK, when the time is over. The daemon keeps the latest
 * 4096 events: if some after *since are gone, "lost" of the reply (td_reply_bool) is true, and what
 * still is there follows. The caller owns *events: td_reply_free. */
TD_API enum td_status td_watch(struct td_client *client, const char *prefix, uint64_t *since,
                               int64_t timeout_ms, struct td_reply **events);

/* ---- sharing memory ------------------------------------------------------------------------ */

enum td_map_flags {
    TD_MAP_WRITE = 1,   /* the caller will write; TD_FROZEN if the kernel must refuse that */
    TD_MAP_PRIVATE = 2, /* copy-on-write: writes are seen through this mapping only; wins over
                           TD_MAP_WRITE */
    TD_MAP_NUMPY = 4,   /* with the checks of PyTorch's numpy(): on the cpu, no grad */
    TD_MAP_FORCE = 8,   /* with TD_MAP_NUMPY: numpy(force=True) */
};

/* Maps a stored tensor. On a Unix socket nothing is copied, except small frozen tensors;
 * elsewhere, and where the info's memory says "copied", the bytes are in memory of the caller's
 * own. The caller owns *out and ends it with td_unmap, from any thread, also after td_close.
 *
 * A mapping without TD_MAP_WRITE is for reading. A stray write to it does not end the process (but
 * of single-writer memory, which may be filled anew, and where so much private memory is not
 * allowed: RLIMIT_DATA, vm.overcommit_memory 2): the page is copied, and all readers of the
 * tensor's storage in this process, and nobody else, see that copy from then on, instead of what is
 * written to the storage later. If the process also maps the storage with TD_MAP_WRITE, its readers
 * may be given that mapping. */
TD_API enum td_status td_map(struct td_client *client, const char *name, unsigned flags,
                             struct td_mapping **out);
TD_API void td_unmap(struct td_mapping *mapping); /* as td_release; NULL is fine */
/* The first element. It may be written if td_mapping_writable. */
TD_API void *td_mapping_data(const struct td_mapping *mapping);
TD_API bool td_mapping_writable(const struct td_mapping *mapping);
TD_API const struct td_info *td_mapping_info(const struct td_mapping *mapping);
/* Bytes from the first element to the end of the last one. */
TD_API size_t td_mapping_span(const struct td_mapping *mapping);
/* Tells the daemon that bytes were changed through a mapping: raises epoch and version, and the
 * generation of the name, so that td_wait and td_watch notice. */
TD_API enum td_status td_touch(struct td_client *client, const char *name);

/* ---- memory that is filled in place -------------------------------------------------------- */

/* A new tensor that nobody else sees before td_publish: zeroed, in C order, mapped for writing. Its
 * elements are put into its memory, which is the daemon's: publishing copies nothing.
 * td_mapping_info tells its id. td_unmap gives memory back that was not published; so does the end
 * of this process. TD_UNSUPPORTED unless td_is_local. */
TD_API enum td_status td_allocate(struct td_client *client, enum td_dtype dtype, int rank,
                                  const int64_t *shape, struct td_mapping **out);
/* Publishes what td_allocate gave and the caller has filled. mode: "frozen" or NULL: nobody can
 * change it any more; "single-writer": only through this mapping; "mutable": whoever maps it.
 * flags: TD_PUT_REQUIRES_GRAD, TD_PUT_CREATE_ONLY. reply may be NULL.
 *
 * The mapping and its address stay good. Frozen, it becomes private (td_mapping_writable is then
 * false): nobody, this process neither, has a way left to write to what is published. No other
 * thread may write meanwhile: it would be lost. If another process still can write (a child that
 * was forked when the memory was allocated), the elements are copied after a second, and the
 * reply's memory says "copied", its reason "mode".
 *
 * When the daemon refuses (TD_EXISTS, TD_OUT_OF_MEMORY, ...) the mapping is what it was, writable,
 * unless the memory could be frozen before; then it stays so, and td_publish can be called again.
 * After TD_CONNECTION, TD_DEADLINE, TD_CANCELLED and TD_PROTOCOL nobody knows whether it was
 * published, and the mapping stays private. */
TD_API enum td_status td_publish(struct td_client *client, const char *name,
                                 struct td_mapping *mapping, const char *mode, unsigned flags,
                                 struct td_reply **reply);
/* The same with any arguments of the operation publish but input: output (the name, which must be
 * there), mode, requires_grad, create_only, if_generation, ttl_ms, wait_ms, timeout_ms. */
TD_API enum td_status td_publish_args(struct td_client *client, struct td_mapping *mapping,
                                      const struct td_args *args, struct td_reply **reply);
/* Freezes a stored tensor: its memory where nobody outside the daemon has seen it; else, once those
 * who may write to it have let go of it, or after wait_ms (< 0: a second), a copy of the elements,
 * to which the name leads from then on. The reply's memory and reason tell which ("copied",
 * "mode"). An object ("@17") that is copied gives another one. reply may be NULL. */
TD_API enum td_status td_seal(struct td_client *client, const char *name, int64_t wait_ms,
                              struct td_reply **reply);

/* ---- memory that is given ------------------------------------------------------------------ */

/* Memory that can be given to the daemon: zeroed, page-aligned, in a sealed memfd of its own.
 * td_shared_alloc returns NULL without memory (errno says why: ENOMEM also for more than half of
 * what the machine or the container has left, EMFILE, ...). td_shared_free takes what
 * td_shared_alloc returned, or NULL; any other address is a programmer's error (an assertion).
 * Free only what no longer is in use here: the daemon keeps what it was given. */
TD_API void *td_shared_alloc(size_t size_bytes);
TD_API void td_shared_free(void *memory);
/* True if the address lies in memory of td_shared_alloc or of a td_mapping of a mutable tensor. */
TD_API bool td_shared_owns(const void *address);

/* Makes a tensor over the caller's memory. Shared when data lies in td_shared_alloc's memory, or
 * in a mapping, of a Unix-socket client: then writes on either side show on the other, and the
 * daemon keeps the memory as long as it needs it. Else copied, and the reply's reason says why:
 * "heap", or "transport". strides in elements, NULL for C order; none may be negative. output
 * NULL: an anonymous object. require_shared: TD_UNSUPPORTED instead of a copy. */
TD_API enum td_status td_from_memory(struct td_client *client, const char *output,
                                     enum td_dtype dtype, int rank, const int64_t *shape,
                                     const int64_t *strides, void *data, bool require_shared,
                                     struct td_reply **reply);

/* ---- queues -------------------------------------------------------------------------------- */

struct td_queue;
struct td_item;

/* A bounded queue of the daemon, by name; items are handed over by reference, at least once, in the
 * order in which they were put. A td_queue may be used by any number of threads at once. */
struct td_queue_options {
    uint64_t max_items, max_bytes; /* that wait at most; 0: the daemon's default */
    int64_t visibility_ms;         /* to acknowledge an item in; 0: the daemon's default */
    const char *when_full;         /* "block", "fail", "drop_oldest"; NULL: "block" */
};
/* Makes the queue, or takes the one that is there: TD_EXISTS if that has other settings than are
 * asked for. options may be NULL. The caller owns *out and ends it with td_queue_free; the queue
 * itself stays until the operation queue_delete. */
TD_API enum td_status td_queue_open(struct td_client *client, const char *name,
                                    const struct td_queue_options *options, struct td_queue **out);
/* Lets go of the mappings that were kept for it. Items and mappings that are still open stay good.
 * NULL is fine.
 *
 * What a td_queue filled and read stays mapped, so that later items cost less. What was not used
 * for ten seconds goes with the next call of the client, whichever that is, and while it waits in
 * td_pop. So a client that calls nothing at all, or waits for ever in another call, keeps it, and
 * with it what a producer that has ended left in the daemon: free the td_queue then. */
TD_API void td_queue_free(struct td_queue *queue);

/* Memory for the elements of an item, in C order, not zeroed: to be filled in place, and pushed. It
 * is recycled: the daemon owns a few segments for each producer, which are mapped here once. Waits
 * while all of them are in use, at most timeout_ms (< 0: for ever; 0: not at all): TD_FULL then.
 * td_unmap gives memory back that was not pushed. Only this process may fill it: a child that is
 * forked meanwhile inherits it read-only (td_mapping_writable is false there). TD_UNSUPPORTED
 * unless td_is_local. */
TD_API enum td_status td_queue_allocate(struct td_queue *queue, enum td_dtype dtype, int rank,
                                        const int64_t *shape, int64_t timeout_ms,
                                        struct td_mapping **out);

/* A tensor of an item: of td_queue_allocate, or any that the daemon has. */
struct td_push_tensor {
    const char *key;            /* what the item calls it; NULL: nothing */
    struct td_mapping *mapping; /* of td_queue_allocate; NULL: */
    const char *name;           /* a name, or "@17" */
};
/* Appends an item of `count` tensors, by reference: nothing is copied. meta: a small text that goes
 * along (at most 4096 bytes), or NULL. Mappings of td_queue_allocate stay readable, but what they
 * show is the item's from now on, and later the next one's: they are no longer td_mapping_writable,
 * and must not be written to. Waits for room, at most timeout_ms (as above). TD_FULL, TD_CLOSED,
 * TD_TOO_LARGE; after an error nothing was pushed, and they are what they were. After
 * TD_CONNECTION, TD_DEADLINE, TD_CANCELLED and TD_PROTOCOL nobody knows: they may be the item's and
 * must not be written to either, but pushed again they can be: TD_NOT_FOUND if they were. */
TD_API enum td_status td_push(struct td_queue *queue, size_t count,
                              const struct td_push_tensor *tensors, const char *meta,
                              int64_t timeout_ms);

/* Takes the first item in hand, waiting for one, at most timeout_ms (as above): TD_EMPTY then,
 * TD_CLOSED when the queue is closed and none is to come: until the last one in somebody's hands is
 * done with it may come back, so who holds one of a closed queue itself waits for itself. The
 * caller owns *out, and says that it is done with td_item_done; an item that is freed otherwise, or
 * whose process dies, or that is not acknowledged in time, goes back to the front of the queue. */
TD_API enum td_status td_pop(struct td_queue *queue, int64_t timeout_ms, struct td_item **out);
TD_API uint64_t td_item_id(const struct td_item *item);         /* its number in the queue */
TD_API unsigned td_item_deliveries(const struct td_item *item); /* 1: for the first time */
TD_API const char *td_item_meta(const struct td_item *item);    /* "" if there is none */
TD_API size_t td_item_count(const struct td_item *item);        /* of its tensors */
/* Of tensor i < td_item_count: its key ("" if it has none), its description. As long as the item;
 * so is, of its "@id", what td_map gives. */
TD_API const char *td_item_key(const struct td_item *item, size_t i);
TD_API const struct td_info *td_item_info(const struct td_item *item, size_t i);
/* The tensor's elements, for reading. What is recycled is mapped once for all items, and the kernel
 * ends a process that writes to it all the same; flags may be TD_MAP_PRIVATE, for a copy-on-write
 * mapping of the caller's own. The mapping keeps the memory as it is, also after td_item_done and
 * td_item_free, until td_unmap. Over TCP a copy. */
TD_API enum td_status td_item_map(struct td_item *item, size_t i, unsigned flags,
                                  struct td_mapping **out);
/* Acknowledges it and waits for the answer: TD_CONFLICT if it has gone back to the queue meanwhile.
 * td_item_free must follow. */
TD_API enum td_status td_item_ack(struct td_item *item);
/* Acknowledges it, without waiting, and frees it. NULL is fine. */
TD_API void td_item_done(struct td_item *item);
/* Frees it. Unless it was acknowledged it goes back to the queue, once its mappings are gone, too.
 */
TD_API void td_item_free(struct td_item *item);

/* ---- DLPack -------------------------------------------------------------------------------- */

struct DLManagedTensor;
struct DLManagedTensorVersioned;

/* A DLPack view of a mapping, which it takes over: the consumer's call of the deleter ends the
 * mapping. READ_ONLY is set where the mapping cannot be written. On failure the mapping stays the
 * caller's. https://dmlc.github.io/dlpack/latest/ */
TD_API enum td_status td_dlpack_versioned(struct td_mapping *mapping,
                                          struct DLManagedTensorVersioned **out);
/* The older form without flags; TD_UNSUPPORTED for a mapping that cannot be written. */
TD_API enum td_status td_dlpack(struct td_mapping *mapping, struct DLManagedTensor **out);
/* Stores a DLPack tensor of host memory under a name (a copy; gathered into C order). The DLPack
 * tensor stays the caller's. */
TD_API enum td_status td_put_dlpack(struct td_client *client, const char *name,
                                    const struct DLManagedTensorVersioned *tensor, unsigned flags,
                                    struct td_reply **reply);

#ifdef __cplusplus
}
#endif

#endif
