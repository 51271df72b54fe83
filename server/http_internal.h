/* http_internal: what the files of the HTTP door share.
 *
 *   http_server.c    libmicrohttpd's daemon: starting, its callbacks, draining
 *   http_exchange.c  one request and its answer: steps, suspending, jobs
 *   http_guard.c     who may ask: Host, Origin, token, and what smugglers would send
 *   http_route.c     addresses: the table of routes, names and queries in URLs
 *   http_answer.c    answers: JSON, problems (RFC 9457), headers
 *   http_format.c    which format is asked for, or sent
 *   http_elements.c  answers of elements: headers, Range
 *   http_etag.c      ETags and what is made conditional by them
 *   http_stream.c    answers that are made in pieces
 *   http_tensors.c   /v1/tensors
 *   http_bundle.c    /v1/bundle
 *   http_upload.c    bodies: npy, safetensors, JSON, raw and whole files, into the storage that is
 *                    published; http_upload_head.c what stands before the elements
 *   http_ops.c       /v1/ops and the operations that answer with lists
 *   http_batch.c     /v1/batch
 *   http_queues.c    /v1/queues
 *   http_watch.c     ?wait= and /v1/watch
 *   http_session.c   sessions that live by use instead of a connection
 *   http_peer.c      connections: their limits in time and rate; the clock
 *   http_about.c     probes, the contract, the first page
 *
 * Threads: an exchange belongs to the libmicrohttpd thread of its connection. While it is suspended
 * it belongs to whoever will wake it (one job, one watch, an operation's waiter); exchange_wake
 * hands it back.
 */
#ifndef SERVER_HTTP_INTERNAL_H
#define SERVER_HTTP_INTERNAL_H

#include "core/clock.h"
#include "core/ops.h"
#include "server/http.h"

#include <cjson/cJSON.h>
#include <microhttpd.h>

#define HTTP_DOCUMENT_MAX ((size_t)1 << 20) /* bytes of a batch */
#define HTTP_WAIT_MAX_MS UINT64_C(3600000)
/* What each exchange may use uncharged: a daemon whose memory is full can be asked what there is,
 * and told what to delete. */
#define HTTP_FREE_BYTES ((uint64_t)32 << 10)

struct exchange;
struct peer;
struct http_sessions;
struct upload;
struct batch;
struct stream;

/* ---- routes ------------------------------------------------------------------------------------
 */

/* Parameters of a URL's query that are no fields of an operation. */
enum param {
    PARAM_NONE,
    PARAM_FORMAT,
    PARAM_VALUES,
    PARAM_WAIT,
    PARAM_SINCE,
    PARAM_TTL,
    PARAM_COUNT,
};

struct route {
    const char *method;
    const char *path;   /* a last segment {name} stands for all that follows */
    const char *params; /* what the query may hold: fields and params, by blanks; "*": any field */
    /* After the headers: checks what can be checked before the body comes. May be NULL. */
    enum td_status (*begin)(struct exchange *x);
    /* A piece of the body; takes what it can, *length is what it left. NULL: there must be none. */
    enum td_status (*body)(struct exchange *x, const char *data, size_t *length);
    /* After the body: answers, or suspends. */
    enum td_status (*end)(struct exchange *x);
    bool open; /* needs no token */
    const char *doc;
};

extern const struct route http_routes[];
extern const size_t http_route_count;

/* The route of x->uri, with x->rest (the name in its path) and the query in x->in and x->params.
 * NOT_FOUND, BAD_METHOD (x->allow lists the methods that there are, also for OPTIONS), INVALID. */
NODISCARD enum td_status route_find(struct exchange *x, const char *method);

/* ---- an exchange -------------------------------------------------------------------------------
 */

/* The headers that count, found in one pass. Texts are libmicrohttpd's. */
struct headers {
    struct text host, origin, authorization, content_type, content_length, content_encoding;
    struct text content_range, transfer_encoding;
    struct text accept, if_match, if_none_match, if_range, range, session, last_event_id;
    struct text request_method; /* Access-Control-Request-Method */
};

struct exchange {
    atomic_uint refs; /* libmicrohttpd's, and one of each job */
    struct http_server *server;
    struct MHD_Connection *connection; /* until it is completed */
    struct peer *peer;
    const struct route *route;
    char allow[64]; /* methods of the address */
    bool head;      /* HEAD: the answer's body is not sent */
    bool http_1_0;  /* no chunked answers */
    bool begun;
    bool answered;
    bool undo;           /* the session was given something that only the answer tells of */
    bool suspended_now;  /* libmicrohttpd has not called since exchange_suspend */
    bool origin_allowed; /* the answer says so to a browser */
    struct headers headers;
    uint64_t declared_length; /* Content-Length; UINT64_MAX when chunked, 0 without a body */
    uint64_t swallowed;
    char *uri; /* owned: the request target, decoded in place; what the fields' texts point into */
    struct text rest;                /* {name} */
    struct text params[PARAM_COUNT]; /* data NULL: not given */

    /* What is done when the body has come, and again after each suspension. */
    enum td_status (*next)(struct exchange *x);
    enum td_status status; /* of what went wrong already, or of the last job */
    char message[FAIL_DETAIL_SIZE];

    /* Suspended: under the server's lock. */
    bool suspended;
    uint64_t deadline_ms; /* of this suspension; 0: none */
    struct job *job;      /* that may be cancelled, or NULL */
    struct store_watch watch;
    bool watching;
    struct exchange *next_suspended, **suspended_link;

    enum op op;              /* of POST /v1/ops */
    struct session *session; /* a reference */
    bool session_is_new;     /* the answer tells its key */
    uint64_t op_deadline_ms; /* of the request's timeout_ms; 0: none */
    atomic_int wait;         /* enum http_wait */
    bool call_begun;
    enum td_status (*then)(struct exchange *x); /* what follows the operation */
    struct fields in;
    struct op_call call;
    struct upload *upload; /* owned */
    struct batch *batch;   /* owned */
    struct stream *stream; /* that a job works for; libmicrohttpd's response owns it */
    bool existed;          /* PUT: the name was taken */
    uint64_t range_of;     /* of BAD_RANGE: the bytes there are */
    char *document;        /* owned: a JSON body */
    size_t document_length, document_room;
    cJSON *tree;            /* owned: of the document */
    cJSON *list;            /* owned: entries of a list operation */
    char *text;             /* owned: an answer that a job has printed */
    uint64_t free_bytes;    /* of HTTP_FREE_BYTES */
    uint64_t charged_bytes; /* in the ledger, for documents, lists and the like */
};

/* NULL without memory. */
struct exchange *exchange_create(struct http_server *server, struct MHD_Connection *connection,
                                 const char *uri);
void exchange_unref(struct exchange *x);
/* Charges memory that the exchange will use to the ledger, past HTTP_FREE_BYTES, until it ends: as
 * ledger_reserve_over. OUT_OF_MEMORY. */
NODISCARD enum td_status exchange_charge(struct exchange *x, uint64_t bytes, uint64_t over_bytes);
/* Notes an error that is answered when the body has been swallowed. */
void exchange_note(struct exchange *x, enum td_status status);

/* Suspends the connection until exchange_wake; then `next` is called (or, in the middle of a body,
 * the route's body again). Only in a callback of libmicrohttpd, before what will wake it is set
 * going. deadline_ms: of clock_now_ms, 0 for none; at it the job is cancelled with DEADLINE, or the
 * exchange woken with OK: who waits without a job looks at the time. */
void exchange_suspend(struct exchange *x, uint64_t deadline_ms);
/* Hands the exchange back to its thread, unless that was done already; the caller does not touch it
 * any more. Any thread. */
void exchange_wake(struct exchange *x, enum td_status status);
/* The same in two steps, for who walks the list of the suspended: with the server's lock, then
 * without, if the server cannot end meanwhile. */
void exchange_unlink(struct exchange *x);
void exchange_resume(struct exchange *x, enum td_status status);
/* With the server's lock: a reference (parked_unref) to the job of a suspended exchange, to cancel
 * it without the lock; NULL without a job, or while it is still being submitted. */
struct parked *exchange_job_ref(struct exchange *x);
/* libmicrohttpd calls again: ends what the suspension held. */
void exchange_resumed(struct exchange *x);
/* Runs `work` in the job pool while the exchange is suspended. It commits before it shows anything
 * (parked_commit). An error of submitting is answered like one of the job; after one that is
 * returned nothing is suspended. */
NODISCARD enum td_status
exchange_park(struct exchange *x, enum td_status (*work)(struct exchange *x, struct parked *parked),
              enum parked_urgency urgency);

/* The session that the request names, if it names one: by Tensord-Session, or a cookie. A session
 * that has ended is NOT_FOUND for the first, and none for the second. */
NODISCARD enum td_status exchange_find_session(struct exchange *x);
/* The same, opening one if none is named. */
NODISCARD enum td_status exchange_open_session(struct exchange *x);

/* Sets up x->call for an operation over x->in, with the session found. */
NODISCARD enum td_status exchange_call(struct exchange *x, enum op op);
/* op_run and op_commit, in the job pool if they are long; then `then`. An operation that waits
 * suspends the exchange until it is woken or its time is over, and is run again. */
NODISCARD enum td_status exchange_run(struct exchange *x,
                                      enum td_status (*then)(struct exchange *x));
/* The whole of an operation without a body, by the fields in x->in. */
NODISCARD enum td_status exchange_run_op(struct exchange *x, enum op op,
                                         enum td_status (*then)(struct exchange *x));

/* ---- the guard ---------------------------------------------------------------------------------
 */

/* Reads the headers, and refuses what is ambiguous or comes from where it must not. */
NODISCARD enum td_status guard_headers(struct exchange *x, const char *version);
NODISCARD enum td_status guard_token(const struct exchange *x);
/* Whether an Origin is one that may call: the daemon's own pages, or one of the list. */
bool guard_origin_allowed(const struct exchange *x);

/* ---- answers -----------------------------------------------------------------------------------
 */

/* Each queues the answer; an error is one of libmicrohttpd's memory, after which the connection is
 * cut. */
NODISCARD enum td_status answer_json(struct exchange *x, unsigned http_status, const cJSON *value);
/* What cJSON printed, which it takes over (NULL: there was no memory), with a newline behind it;
 * NULL without memory. */
struct MHD_Response *answer_json_response(struct exchange *x, char *text);
/* x->text, which is JSON. */
NODISCARD enum td_status answer_printed(struct exchange *x, unsigned http_status);
NODISCARD enum td_status answer_text(struct exchange *x, unsigned http_status,
                                     const char *content_type, struct text body);
NODISCARD enum td_status answer_empty(struct exchange *x, unsigned http_status);
/* An error as application/problem+json, with this thread's fail_detail. */
NODISCARD enum td_status answer_problem(struct exchange *x, enum td_status status);
/* The same as a JSON value: type, title, status, detail, code; NULL without memory. */
cJSON *answer_problem_value(enum td_status status);
/* The reply of x->call: its fields, its elements or entries, or a file. */
NODISCARD enum td_status answer_call(struct exchange *x);
/* In a job: prints the entries of a list operation into x->text. */
NODISCARD enum td_status answer_print_list(struct exchange *x);
/* The fields of a reply as JSON, with a name that can be used as input; NULL without memory. */
cJSON *answer_fields_value(const struct fields *fields);
/* Queues a response that the caller made (and lets it go), with the headers all answers have. */
NODISCARD enum td_status answer_response(struct exchange *x, unsigned http_status,
                                         struct MHD_Response *response);
/* For HEAD: the answer to GET would come in chunks. */
void answer_head_of_unknown_size(struct MHD_Response *response);
/* A header that is not user-controlled, or was checked. */
void answer_header(struct MHD_Response *response, const char *name, const char *value);

/* ---- elements ----------------------------------------------------------------------------------
 */

enum format { FORMAT_NONE, FORMAT_JSON, FORMAT_NPY, FORMAT_SAFETENSORS, FORMAT_RAW, FORMAT_TEXT };

/* Whether a Content-Type is that one, whatever its parameters. */
bool content_type_is(struct text content_type, const char *type);
/* The format asked for by ?format= or Accept; `otherwise` if neither says. NOT_ACCEPTABLE. */
NODISCARD enum td_status format_asked(const struct exchange *x, enum format otherwise,
                                      enum format *out);
/* The format of a body by ?format= or Content-Type; FORMAT_NONE: its first bytes tell. */
NODISCARD enum td_status format_sent(const struct exchange *x, enum format *out);
const char *format_content_type(enum format format);
/* "npy", ... */
const char *format_name(enum format format);

/* What is answered of a tensor. */
struct elements {
    struct tensor *tensor; /* borrowed */
    enum td_dtype dtype;   /* cast on the way */
    bool saturate;
    enum format format; /* not TEXT */
    bool values;        /* JSON: with the elements */
    const struct fields *description;
};
/* Answers with the description as JSON (with the elements if asked), or the elements in the format.
 * Handles If-Match, If-None-Match and Range of a GET; what a POST has run has no ETag. */
NODISCARD enum td_status answer_elements(struct exchange *x, const struct elements *what);
/* Answers with the bytes of a body, which it takes over, also when it fails. */
NODISCARD enum td_status answer_body(struct exchange *x, struct body *body,
                                     const char *content_type);

/* ---- answers in pieces (http_stream.c) ---------------------------------------------------------
 *
 * What has to be computed is made by jobs, in blocks of bounded size. */

/* A response of the body's bytes. Takes the body over, also when it fails. */
NODISCARD enum td_status stream_bytes(struct exchange *x, struct body *body,
                                      struct MHD_Response **out);
/* A response of the elements as nested lists, between `prefix` and `suffix` (which are copied). */
NODISCARD enum td_status stream_json(struct exchange *x, const struct elements *what,
                                     struct text prefix, struct text suffix,
                                     struct MHD_Response **out);

/* ---- ETags (http_etag.c) -----------------------------------------------------------------------
 *
 * "GENERATION-EPOCH-BOOT-REPRESENTATION": of the name, of its storage, of the daemon, and a hash of
 * what was asked for. Weak (RFC 9110, 8.8.1) while somebody else may write to the memory, and where
 * the answer tells the time that the name has left. */

#define ETAG_SIZE 96

/* "" for what has no generation: anonymous objects. */
void etag_of(const struct exchange *x, const struct elements *what, char out[ETAG_SIZE]);
/* Whether a tag is one of a list of them (or the list is *); `strong`: neither may be weak. */
bool etag_listed(struct text list, const char *etag, bool strong);
/* The generation in the first tag of a list, of this boot, or in a bare "GENERATION". */
bool etag_generation(struct text list, const char *boot, uint64_t *generation);
/* What If-Match and If-None-Match ask of a publish or removal, into x->in (create_only,
 * if_generation), and that it holds at present: nothing of a body need come that will be refused.
 * PRECONDITION. *exists: whether the name does. */
NODISCARD enum td_status etag_conditions(struct exchange *x, struct text name, bool *exists);

/* ---- the server --------------------------------------------------------------------------------
 */

struct http_server {
    struct http_options options;
    struct MHD_Daemon *mhd;
    struct http_sessions *sessions;
    pthread_mutex_t lock; /* of the lists */
    struct peer *peers;
    struct exchange *suspended;
    atomic_uint exchanges; /* in flight */
    atomic_uint held;      /* the same, and those that a job still works for */
    atomic_bool draining;
    pthread_t clock;
    pthread_cond_t tick; /* with the lock: wakes the clock before wakes_ms */
    uint64_t wakes_ms;   /* when it looks next at the latest */
    bool stopping;
    bool ending; /* with the lock: who suspends is woken at once */
};

/* ---- peers (http_peer.c) -----------------------------------------------------------------------
 */

/* What the daemon waits for on a connection, which decides what is too slow. In every state it has
 * to take what was sent to it at min_rate. A transfer may fall behind by header_timeout_ms. */
enum peer_state {
    PEER_IDLE,    /* for a request: idle_timeout_ms; once begun, header_timeout_ms */
    PEER_SENDS,   /* for a body: min_rate */
    PEER_IS_DUE,  /* for nothing: the daemon works */
    PEER_READS,   /* for it to read an answer: min_rate */
    PEER_LISTENS, /* for it to read events, of which there may be none */
};

NODISCARD enum td_status clock_start(struct http_server *server);
void clock_stop(struct http_server *server);
/* libmicrohttpd's connection callback: a peer for each. */
void peer_notify(void *server, struct MHD_Connection *connection, void **socket_context,
                 enum MHD_ConnectionNotificationCode code);
void peer_set(struct peer *peer, enum peer_state state);

/* ---- sessions (http_session.c) -----------------------------------------------------------------
 */

NODISCARD enum td_status http_sessions_create(const struct http_options *options,
                                              struct http_sessions **out);
/* Ends them all. */
void http_sessions_destroy(struct http_sessions *sessions);
NODISCARD enum td_status http_session_open(struct http_sessions *sessions, struct session **out);
/* A reference to a living session, whose TTL begins anew. */
NODISCARD enum td_status http_session_find(struct http_sessions *sessions, struct text key,
                                           struct session **out);
NODISCARD enum td_status http_session_close(struct http_sessions *sessions, struct text key);
/* Ends those that nobody used for their TTL. */
void http_sessions_expire(struct http_sessions *sessions, uint64_t now_ms);
/* Its TTL begins anew, if it has not ended: a request of it is still under way. */
void http_session_touch(struct http_sessions *sessions, const struct session *session);

/* ---- uploads (http_upload.c) -------------------------------------------------------------------
 */

/* The body of the operation x->in is for: put, tensor, from_numpy, load. */
NODISCARD enum td_status upload_begin(struct exchange *x, enum op op);
NODISCARD enum td_status upload_body(struct exchange *x, const char *data, size_t *length);
/* Runs the operation when all has come, then `then`. */
NODISCARD enum td_status upload_end(struct exchange *x, enum td_status (*then)(struct exchange *x));
void upload_destroy(struct upload *upload);

void batch_destroy(struct batch *batch);

/* ---- what handlers share -----------------------------------------------------------------------
 */

/* ?ttl= as the field of the operation. */
NODISCARD enum td_status exchange_take_ttl(struct exchange *x);
/* ?format= as the field of an operation that has one: load, save. */
void bundle_take_format(struct exchange *x);
/* What a file for load tells of its length by what has come of it; 0: nothing (yet). */
uint64_t bundle_told_total(const struct exchange *x, enum op op, const struct storage *come,
                           uint64_t length);
/* Answers with the file that save has made. */
NODISCARD enum td_status bundle_answer(struct exchange *x);

/* ---- handlers of routes ------------------------------------------------------------------------
 */

/* A JSON body of at most HTTP_DOCUMENT_MAX into x->document. */
enum td_status document_begin(struct exchange *x);
enum td_status document_body(struct exchange *x, const char *data, size_t *length);
/* Into x->tree; an empty one is an empty object. */
NODISCARD enum td_status document_parse(struct exchange *x);

enum td_status tensors_list(struct exchange *x);
enum td_status tensors_get(struct exchange *x);
enum td_status tensors_put_begin(struct exchange *x);
enum td_status tensors_put_end(struct exchange *x);
enum td_status tensors_delete(struct exchange *x);
enum td_status bundle_get(struct exchange *x);
enum td_status bundle_put_begin(struct exchange *x);
enum td_status bundle_put_end(struct exchange *x);
enum td_status ops_list(struct exchange *x);
enum td_status ops_post_begin(struct exchange *x);
enum td_status ops_post_body(struct exchange *x, const char *data, size_t *length);
enum td_status ops_post_end(struct exchange *x);
enum td_status devices_list(struct exchange *x);
enum td_status leases_list(struct exchange *x);
enum td_status principals_list(struct exchange *x);
enum td_status queues_list(struct exchange *x);
enum td_status queues_get(struct exchange *x);
enum td_status queues_put(struct exchange *x);
enum td_status queues_delete(struct exchange *x);
enum td_status stats_get(struct exchange *x);
enum td_status batch_end(struct exchange *x);
enum td_status session_post(struct exchange *x);
enum td_status session_delete(struct exchange *x);
enum td_status watch_get(struct exchange *x);
enum td_status livez_get(struct exchange *x);
enum td_status readyz_get(struct exchange *x);
enum td_status openapi_get(struct exchange *x);
enum td_status root_get(struct exchange *x);

/* ?wait=: whether the exchange has to wait for its name (or a generation other than that of
 * If-None-Match); it is suspended then, and x->next is called when something happened. */
NODISCARD enum td_status wait_for_name(struct exchange *x, bool *waits);

#endif
