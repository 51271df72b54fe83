/* ops: running one row of the operations table, for any door.
 *
 *     op_begin     checks the fields, finds the tensors; never long
 *     op_receive   for operations with a body: makes the memory the body goes to; may be long
 *     op_run       computes; may be long; shows nothing to anyone, except in-place changes
 *     op_commit    publishes or hands out the result, and describes it; never long
 *     op_end       always, at the end
 *
 * Some operations wait (OP_WAITS): op_run then returns TD_OK with call->waits set. The door comes
 * back to it, with op_run again, when call->wake was called, at wait_until_ms, or, with timed_out
 * set, when the request's timeout_ms is over; then it does not wait any more. op_stop_waiting gives
 * it up.
 *
 * What such an operation does: it looks; if what it wants is not there and op_may_wait (in
 * ops_internal.h), it registers a waiter whose wake leads to call->wake, sets stop_waiting, looks
 * once more if something may have come in between, and sets `waits`. op_run takes the waiter out of
 * its list before it runs the operation again, and also when the operation turns out not to wait.
 *
 * A door fills in the first part of struct op_call, calls these in order (from any thread, one at a
 * time), stops at the first that fails, and sends what the second part holds.
 */
#ifndef CORE_OPS_H
#define CORE_OPS_H

#include "core/body.h"
#include "core/engine.h"
#include "core/op_table.h"
#include "core/queue.h"
#include "core/ring.h"
#include "core/waiter.h"

/* More bytes than this are worked on in the job pool. */
#define OP_INLINE_BYTES ((uint64_t)256 << 10)

struct op_call {
    /* From the door. */
    struct engine *engine;
    struct session *session;
    struct account *account; /* who asks, for quotas: the session's, or the door's */
    enum op op;
    const struct fields *in;
    uint64_t body_length;
    int fd;     /* a received descriptor, or -1; op_end closes what is left */
    bool local; /* descriptors can be passed */
    enum td_status (*emit)(void *sink, const struct fields *entry); /* takes entries of a list */
    void *sink;
    /* Of an operation that waits: comes from any thread, at most once for each time that a waiter
     * was registered, maybe before op_run has returned; only signals, and may come for nothing.
     * NULL: it does not wait. */
    void (*wake)(struct op_call *call);
    bool timed_out; /* its time is over: op_run ends it, one way or the other */

    /* To the door. */
    struct storage *body_in; /* where the body goes: body_length bytes at the start of its data */
    /* The reply's body is its elements, in C order and body_dtype; NULL: none. What is small lies
     * so in memory already; of others see op_make_body. */
    struct tensor *body_out;
    enum td_dtype body_dtype;
    bool body_saturate;
    struct body *body_made; /* or the reply's body is this; NULL: no such */
    int share_fd;           /* borrowed while the call lives, or -1: goes out with the reply */
    bool waits;             /* it is not done: op_run is to be called again, see above */
    void (*undo)(struct op_call *call); /* takes back what was given, see op_undo; NULL: nothing */
    uint64_t wait_until_ms;             /* then, of CLOCK_MONOTONIC, at the latest; 0: none */

    /* In between. */
    struct tensor *input, *other;
    uint64_t input_generation; /* of the input's name, 0 for an object */
    uint64_t input_ttl_ms;     /* that the input's name had left; 0: it stays */
    struct device *device;     /* the field's, or the cpu */
    bool has_body;             /* body_in is wanted, of body_length */
    struct tensor *result;     /* what the reply describes */
    char *text;                /* malloc'd, that out.text points into */
    size_t text_charged;       /* of it in the ledger */
    uint64_t patience_ms;      /* until then, of clock_now_ms, it waits for writers; 0: not begun */
    struct waiter waiter;      /* while it waits, in the list of whoever it waits for */
    struct store_watch watch;  /* or in the store's */
    uint64_t since;            /* of `watch`: all up to this revision is known */
    bool begun;                /* op_run was called before */
    struct queue *queue;       /* these three are references */
    struct queue_item *item;
    struct ring *ring;
    struct bundle bundle;                   /* of load and save */
    struct store_publication *publications; /* malloc'd: of load */
    struct new_file *file;                  /* that save writes; owned */
    /* Takes the waiter out of its list: then `wake` is not running and not called any more. NULL:
     * it is in none. */
    void (*stop_waiting)(struct op_call *call);
    /* stop_waiting: op_run does not follow, so a wake that it had goes to the next. Else it may
     * keep its place in line. */
    bool given_up;

    /* Large, and written before they are read: op_init does not clear them. */
    struct fields out;    /* to the door; texts live until op_end */
    struct layout layout; /* of a body that comes in; of what `get` reads of its input */
};

void op_init(struct op_call *call, struct engine *engine, struct session *session, enum op op,
             const struct fields *in);
NODISCARD enum td_status op_begin(struct op_call *call);
NODISCARD enum td_status op_receive(struct op_call *call);
NODISCARD enum td_status op_run(struct op_call *call);
NODISCARD enum td_status op_commit(struct op_call *call);
void op_end(struct op_call *call);

/* After op_run, for a door that sends body_out as bytes: makes it body_made unless it lies in
 * memory as it is to be sent. Readies body_made. */
NODISCARD enum td_status op_make_body(struct op_call *call);

/* Of an operation that waits and is given up: after this call->wake is not running and not called
 * any more. op_end does it as well. */
void op_stop_waiting(struct op_call *call);
/* Of one that waited and is run again next, if op_run_is_long: the same, for a door that could take
 * a late call->wake for the end of what runs in the job pool. */
void op_wait_over(struct op_call *call);

/* Whether op_receive or op_run belongs into the job pool. After op_begin. */
bool op_receive_is_long(const struct op_call *call);
bool op_run_is_long(const struct op_call *call);
/* Whether the operation changes what others see only in op_commit, so that it can be given up
 * before. */
static inline bool op_commits_late(enum op op)
{
    return (op_infos[op].traits & OP_IN_PLACE) == 0;
}
/* Whether the result becomes an object of the session: one that no name is given to.
 * Also before the fields were checked. */
bool op_makes_object(enum op op, const struct fields *in);
/* Takes back what the session was given for a reply that nobody will get: the lease, the object. */
void op_undo(struct op_call *call);

/* What the operation may cost, in bytes touched or their like; for tests and op_run_is_long. */
uint64_t op_cost_bytes(const struct op_call *call);

/* The fields that tell of a name: with ttl_ms unless that is 0. */
void op_describe_name(struct fields *out, struct text name, uint64_t generation, uint64_t ttl_ms);

/* After tensor_describe of what `get` reads: in C order where the index steps backwards. */
void op_describe_read(const struct op_call *call, struct fields *out);

/* Whether the cast is allowed by the field `casting`; for a door that casts on the way out. */
NODISCARD enum td_status op_check_cast(const struct op_call *call, enum td_dtype from,
                                       enum td_dtype to);

#endif
