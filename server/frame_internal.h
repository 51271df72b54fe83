/* frame_internal: what the files of the frame door share.
 *
 *   frame_server.c      threads, accepting, timeouts, draining
 *   frame_connection.c  a socket: bytes in, bytes to frames, closing
 *   frame_request.c     a request: meta to fields, to the engine, to a reply
 *   frame_wait.c        requests that wait for what others do
 *   frame_send.c        replies to bytes out
 *
 * Everything here belongs to the loop's thread, except what says otherwise.
 */
#ifndef SERVER_FRAME_INTERNAL_H
#define SERVER_FRAME_INTERNAL_H

#include "core/ops.h"
#include "proto/wire/wire.h"
#include "server/frame.h"

#include <uv.h>

#define INPUT_BYTES 16384 /* read ahead of frames */
/* More meta than this is reserved as memory of the client's, and taken only from who has said
 * hello. */
#define META_FREE_BYTES 65536
#define SPARE_META_BYTES 512 /* a request with more meta is not kept for reuse */
#define SPARE_MAX 4          /* requests kept for reuse by a loop */
#define UNCLAIMED_MAX 16     /* received descriptors that no header has claimed yet */
#define SOCKET_BUFFER_BYTES (4 << 20)
#define HEAD_INLINE_BYTES 640 /* of a reply's header and meta without an allocation */
#define OUTPUT_BYTES 16384    /* of small replies that are sent together */
#define OUTPUT_BODY_MAX 4096  /* larger bodies are sent from where they lie */
#define TURN_REQUESTS 32      /* begun before other connections get their turn */
#define UNSETTLED_MAX 16      /* connections whose replies wait to be sent */
#define WOKEN_AT_ONCE 256     /* run again before sockets get their turn */
#define TICK_MS 1000
#define LINGER_MS 2000

struct loop {
    struct frame_server *server;
    pthread_t thread;
    uv_loop_t uv;
    uv_async_t wake;     /* requests are done, or it is time to stop; sent from any thread */
    uv_timer_t tick;     /* looks for connections that stand still */
    uv_timer_t deadline; /* of the parked or waiting request that is due first */
    uv_check_t check;    /* after the sockets' turns: runs and sends what came of them */
    uv_prepare_t before; /* the same after timers, before the loop sleeps */
    uv_poll_t accepting[2];
    bool accept_paused, draining;
    int spare_fd;           /* given up for a moment to refuse who comes when there is no other */
    uint64_t tell_spare_ms; /* the log is told of that again from then on */
    uint64_t drain_until_ms;
    struct connection *connections;
    struct connection *unsettled[UNSETTLED_MAX]; /* read from, and not settled yet */
    int unsettled_count;
    struct request *spare; /* memory for requests */
    int spare_count;
    /* Held by the loop's thread but for the time in which it sleeps: then another loop's thread may
     * run a request that it has woken, and send the answer, see frame_wait.c. */
    pthread_mutex_t busy;
    bool holds_busy;                     /* the loop's thread's own */
    struct request *abroad;              /* of other loops, and woken by this one's thread */
    struct request *woken, **woken_last; /* waited, and are to be run again; the first one first */

    pthread_mutex_t lock; /* of what follows, which other threads write */
    struct request *done; /* with those that other threads woke; the last one first */
    bool stop;
};

struct frame_server {
    struct frame_options options;
    atomic_uint connections;
    pthread_mutex_t accepting;
    unsigned loop_count;
    struct loop loops[];
};

enum reading {
    READ_HEADER,
    READ_META,
    READ_BODY,
    READ_SKIP,   /* what is left of a request that is refused already */
    READ_HOLD,   /* until the memory for a body is there */
    READ_END,    /* nothing more; closes when everything is answered */
    READ_LINGER, /* all is sent: what still comes is dropped until the peer closes, see linger */
};

struct connection {
    struct loop *loop;
    struct connection *next, **link;
    uv_poll_t poll;
    int fd;
    int events;              /* that poll waits for */
    struct account *account; /* a reference, with a connection of its quota */
    int32_t pid;             /* of the client; 0: not known */
    bool local, closed, handle_closed;
    bool unsettled;
    bool more;               /* requests were read that wait for the next turn */
    struct session *session; /* NULL before hello */
    uint64_t opened_ms, linger_ms;
    uint64_t received_ms, sent_ms; /* the last progress, or the begin of waiting for it */

    enum reading reading;
    struct request *incoming; /* whose meta or body is being read */
    uint64_t wanted;          /* bytes still to come of the part that is read */
    unsigned char *target;    /* where they go */
    size_t input_start, input_end;
    int unclaimed[UNCLAIMED_MAX], unclaimed_count;

    unsigned inflight;       /* requests that exist */
    struct request *parked;  /* in the job pool */
    struct request *waiting; /* for what others do */
    /* Replies, in the order in which they go out: first the bytes of small ones, whose requests are
     * done with, then those that are sent from a request. */
    size_t output_start, output_end;
    struct request *sending, **sending_last;
    unsigned char input[INPUT_BYTES];
    unsigned char output[OUTPUT_BYTES];
};

struct phase {
    struct parked parked;
    struct request *request;
};

/* Of an operation that may wait. Who takes it from WAITING to WOKEN, hands it to the loop: once. */
enum wait_state {
    WAIT_NONE,    /* runs, or has nothing to do with this */
    WAIT_WAITING, /* in connection->waiting, and nobody has woken it */
    WAIT_WOKEN,   /* there too, and in loop->woken or loop->done; or woken before it waited */
};

struct request {
    atomic_uint refs; /* the loop's, and the job pool's while it is parked */
    atomic_int wait;  /* enum wait_state */
    struct connection *connection;
    struct loop *loop;
    struct request *next;                       /* in connection->sending or loop->woken */
    struct request *done_next;                  /* in loop->done */
    struct request *parked_next, **parked_link; /* in connection->parked or ->waiting */
    struct wire_header header;
    struct account *payer; /* for its meta, a reference; NULL: that is free */
    uint64_t deadline_ms;  /* 0: none */
    enum td_status status; /* set once, by who completes it */
    bool waiting;          /* in connection->waiting */
    bool ran_in_job;
    bool replied; /* its reply's head is on its way: what a job makes is a piece of the body */
    struct phase *phase; /* that is, or was, parked */
    struct phase receive, run;
    char message[FAIL_DETAIL_SIZE];
    struct op_call call;
    struct fields in;

    /* The reply. */
    unsigned char *list; /* the entries of a list, or ping's body; malloc'd */
    size_t list_length, list_room;
    unsigned char *head; /* header and meta: head_inline, or malloc'd */
    size_t head_length, head_sent;
    const unsigned char *body; /* or a piece of it */
    size_t body_length, body_sent;
    uint64_t body_rest; /* bytes that follow that piece, and are made when it is sent */
    unsigned char head_inline[HEAD_INLINE_BYTES];
    unsigned char meta[]; /* header.meta_length bytes of the request */
};

/* frame_connection.c */
/* Takes over fd and the account, against whose quota the connection counts already. */
void connection_open(struct loop *loop, int fd, bool local, struct account *account, int32_t pid);
void connection_close(struct connection *connection);
/* Goes on after a request ended or memory came: parses what was read, sends, waits anew. */
void connection_resume(struct connection *connection);
/* Sends, closes, and waits anew. */
void connection_settle(struct connection *connection);
/* The same from the thread of another loop, while this one sleeps: sends, and wakes it for the rest
 * if there is any. */
void connection_settle_abroad(struct connection *connection);
/* Sends, closes, and waits anew, for all connections that were read from. */
void connections_settle(struct loop *loop);
/* Has this connection among them: before the loop waits again. */
void connection_settle_soon(struct connection *connection);
/* True if nothing has begun that is not finished. */
bool connection_is_idle(const struct connection *connection);
/* No more is read; closes after the replies. */
void connection_end(struct connection *connection);
void connection_free_if_done(struct connection *connection);
/* The oldest received descriptor that no frame has claimed; -1 if there is none. */
int connection_claim(struct connection *connection);

/* frame_request.c */
/* The request for a header. OUT_OF_MEMORY also where there is none for its meta. */
NODISCARD enum td_status request_create(struct connection *connection,
                                        const struct wire_header *header, struct request **out);
/* Frees the memory that the loop keeps for requests. */
void requests_forget(struct loop *loop);
/* Whether the opcode is that of an operation that may be sent without wanting a reply. */
static inline bool may_be_one_way(uint16_t opcode)
{
    return opcode < OP_END && (op_infos[opcode].traits & OP_ONE_WAY);
}
/* Its meta is complete. Sets connection->reading for the body. */
void request_begin(struct request *request);
/* Its body is complete. */
void request_body_complete(struct request *request);
/* A parked phase has ended; on the loop's thread. */
void request_done(struct request *request);
/* Runs the operation, here or in the job pool, and answers or lets it wait. */
void request_execute(struct request *request);
/* Into and out of a list of the connection's, parked or waiting. */
void request_link(struct request *request, struct request **list);
void request_unlink(struct request *request);
/* After op_run, with its status: commits, and queues the answer. */
void request_finish(struct request *request, enum td_status status);
/* Makes the next piece of the reply's body: here if that is short, else in the job pool, and the
 * request is parked meanwhile. */
NODISCARD enum td_status request_go_on(struct request *request);
/* Answers with the error whose detail this thread wrote last. */
void request_fail(struct request *request, enum td_status status);
void request_unref(struct request *request);
/* The loop's reference goes: the request is no longer in flight. */
void request_drop(struct request *request);
/* Its reply will not arrive: what the session got for it is taken back. */
void request_undo(struct request *request);
/* Its deadline passed while its body was read: answers that, and passes over the rest. */
void request_expire(struct request *request);
/* Cancels it if it is parked and its outcome is open. */
void request_cancel(struct request *request, enum td_status status);

/* frame_wait.c */
/* op_call's wake. Any thread. */
void request_wake(struct op_call *call);
/* op_run lets it wait; or answers it if nobody may any more. */
void request_wait(struct request *request);
/* Its time has come: wakes it unless somebody was faster. */
void request_wake_now(struct request *request);
/* When it is to be run again at the latest, 0: never. */
uint64_t request_due_ms(const struct request *request);
/* Hands a request that is woken to its loop, which is the caller's. */
void request_woken(struct request *request);
/* Runs those again that were woken: also those of other loops, if these sleep. */
void requests_run_woken(struct loop *loop);
/* The connection has closed: its waiting requests end, those that are woken as soon as they run. */
void connection_stop_waiting(struct connection *connection);
/* Nobody will get an answer by waiting: they are told that. */
void connection_end_waits(struct connection *connection);

/* frame_send.c */
/* Encodes the reply and queues it; the reference goes with it. */
void reply_queue(struct request *request);
/* Whether replies are left that the socket has not taken, and not only such as are being made. */
bool replies_pending(const struct connection *connection);
/* Sends what the socket takes. False if the connection was closed. */
bool replies_flush(struct connection *connection);

/* frame_server.c */
/* The loop whose thread this is; NULL in other threads. */
struct loop *loop_of_thread(void);
/* At the begin of whatever libuv calls: the loop is awake. */
void loop_enter(struct loop *loop);
void loop_arm_deadline(struct loop *loop, uint64_t deadline_ms);
/* Any thread: has the loop take the request up again. */
void loop_post(struct loop *loop, struct request *request);

#endif
