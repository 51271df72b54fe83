/* connection: one socket to the daemon; frames out, frames in, deadlines.
 *
 * Blocking, with deadlines. One request is under way at a time; one-way frames are queued in `out`
 * and go ahead of the next request, or alone with connection_flush_now.
 *
 * Threads: a connection belongs to whoever took it out of the pool (pool.c); no locks in here.
 */
#ifndef CLIENT_CONNECTION_H
#define CLIENT_CONNECTION_H

#include "core/op_table.h"
#include "proto/wire/wire.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

/* Milliseconds of CLOCK_MONOTONIC; DEADLINE_NEVER waits for ever. */
#define DEADLINE_NEVER INT64_MAX
int64_t deadline_after(int64_t timeout_ms); /* < 0: never */
/* What poll() takes: 0 when it has passed, -1 for never. */
int deadline_left(int64_t deadline);

struct address {
    bool local;    /* a Unix socket */
    char url[512]; /* for messages */
    struct sockaddr_un unix_address;
    char host[256], port[8];
};

/* INVALID for an url that is none. url may be NULL: see td_connect. */
NODISCARD enum td_status address_parse(const char *url, struct address *out);

/* Header, meta and small bodies arrive with one system call into this many bytes. */
#define CONNECTION_IN_SIZE 16384

/* A lease or an object to be given back, in the session that it belongs to. */
struct pending_release {
    bool all;       /* all objects of the session */
    bool done;      /* an item's lease: it is acknowledged ahead of that */
    bool keep;      /* and not given back yet */
    bool lease;     /* a lease's number; else an object's */
    bool inherited; /* a child may go on reading what the lease stood for */
    uint64_t id, session;
};

struct connection {
    int fd;
    bool local;
    bool busy;       /* checked out; written under the client's lock */
    bool going;      /* about to be closed; under the client's lock */
    bool fresh;      /* not yet used for a call */
    bool unanswered; /* a call that waits has given up, and nothing of its reply was read */
    bool listens;    /* its call is sent and waits for the reply: whoever holds the client's
                        lock may send releases; under the lock */
    /* Called when that begins and when it ends; NULL: nobody is told. */
    void (*tell_listens)(struct connection *connection, void *argument, bool listens);
    void *listens_argument;
    struct connection *next; /* the pool's list; under the client's lock */
    uint64_t session;        /* td_session_count of the session it belongs to */
    uint64_t last_id;
    uint64_t request_id;               /* of the call, whose reply is to come */
    int64_t patience_ms;               /* the socket's receive timeout; 0: for ever */
    const char *url;                   /* of the client, for messages */
    const struct interrupt *interrupt; /* of the client */
    const struct progress *progress;   /* of the client */
    uint8_t *out;                      /* frames that wait to be sent */
    size_t out_size, out_capacity;
    /* The releases in `out`, until a byte of it was written: a lost connection hands them back. */
    struct pending_release *queued;
    size_t queued_count, queued_capacity;
    uint8_t in[CONNECTION_IN_SIZE];
};

/* What td_options say about signals; asked: NULL if nothing. Read by all threads, never written. */
struct interrupt {
    bool (*asked)(void *argument);
    void *argument;
};

/* Whom td_options have told of bodies on their way; tell: NULL if nobody. As above. */
struct progress {
    void (*tell)(void *argument, uint64_t done_bytes, uint64_t total_bytes);
    void *argument;
};

/* After EINTR: true if the program wants the call to end. */
bool interrupt_asked(const struct interrupt *interrupt);

/* Connects the socket; hello is the caller's. CONNECTION, DEADLINE or CANCELLED. */
NODISCARD enum td_status connection_open(const struct address *address,
                                         const struct interrupt *interrupt,
                                         const struct progress *progress, int64_t deadline,
                                         struct connection **out);
void connection_close(struct connection *connection); /* NULL is fine */
/* An idle connection that the daemon closed, or that holds bytes nobody asked for. */
bool connection_is_dead(const struct connection *connection);

/* Appends to an array of releases; false without memory. */
bool pending_push(struct pending_release **array, size_t *count, size_t *capacity,
                  const struct pending_release *item);
/* Queues a release that wants no reply; false without memory. Writes no error text. */
bool connection_queue_release(struct connection *connection, const struct pending_release *item);
/* Sends what is queued as far as it goes without waiting; false when the connection is broken.
 * Writes no error text. */
bool connection_flush_now(struct connection *connection);

struct call {
    enum op op;
    const struct fields *fields;
    const void *body;
    size_t body_bytes;
    int descriptor; /* sent along; -1: none. Stays the caller's */
    void *into;     /* where the reply's body goes; NULL: memory of the reply's own */
    size_t into_bytes;
    bool into_given; /* into counts, even if it is NULL and 0 */
    const int *file; /* a descriptor that the body is written to as it comes; NULL: none */
    /* td_session_count of the session that the numbers in `fields` belong to, which no other may
     * be asked about; 0: there are none. */
    uint64_t session;
};

/* What an exchange leaves of its connection. */
enum connection_state {
    CONNECTION_GOOD,   /* may carry the next call */
    CONNECTION_DESYNC, /* alive, but a reply is still to come or half read: close it */
    CONNECTION_LOST,   /* the other side is gone */
};

struct exchange {
    enum connection_state state;
    bool request_begun; /* at least a byte of the request itself was written */
    bool reply_begun;   /* at least a byte of a reply was read */
    bool refused;       /* the daemon answered with an error, which is the returned status */
};

struct td_reply;

/* Sends the request and receives its reply into `reply` (empty, reply_new). An error that the
 * daemon answers is returned with its message as the detail. CONNECTION, DEADLINE, CANCELLED,
 * PROTOCOL, TOO_LARGE (the body does not fit into `into`; reply->body_bytes tells its size),
 * OUT_OF_MEMORY (also without a descriptor to spare: then the reply is whole but for that). */
NODISCARD enum td_status connection_exchange(struct connection *connection, const struct call *call,
                                             int64_t deadline, struct td_reply *reply,
                                             struct exchange *exchange);

/* After a call that waits has given up: asks the daemon to give up, too, and reads its answer
 * and to what it is, which may be that it had just done it. False if none comes at once. Writes no
 * error text. */
bool connection_take_answer(struct connection *connection, struct td_reply *reply, enum op *op);

/* The halves of an exchange, in send.c and receive.c. */
enum io_result { IO_DONE, IO_EARLY_REPLY, IO_CLOSED, IO_TIMEOUT, IO_CANCELLED, IO_FAILED };
enum io_result connection_send(struct connection *connection, const struct call *call,
                               int64_t deadline, bool *request_begun);
void progress_tell(const struct progress *progress, uint64_t done_bytes, uint64_t total_bytes);
enum td_status connection_receive(struct connection *connection, const struct call *call,
                                  int64_t deadline, struct td_reply *reply,
                                  struct exchange *exchange);
/* The error that a transfer which did not end well is for the caller. IO_FAILED reads errno. */
enum td_status connection_fail(const struct connection *connection, const struct call *call,
                               enum io_result result);
/* Waits for events (POLLIN, POLLOUT); returns what came, 0 at the deadline, -1 on error: EINTR when
 * the program wants the call to end. */
int connection_wait(const struct connection *connection, short events, int64_t deadline);

#endif
