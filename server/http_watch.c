/* Waiting for what others publish: ?wait= of one name, and the stream of /v1/watch. */
#include "proto/format/json.h"
#include "server/http_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EVENTS_AT_ONCE 16
#define KEEP_ALIVES 5     /* comments in an idle timeout: every 15 s of the default 75 */
#define BUFFER_BYTES 4096 /* of libmicrohttpd, for HTTP/1.0 */

/* From any thread, with the store locked. */
static void wake(struct store_watch *watch)
{
    exchange_wake((struct exchange *)(void *)((char *)watch - offsetof(struct exchange, watch)),
                  TD_OK);
}

/* After exchange_suspend: what happens from here on wakes the exchange, and what happened before it
 * has to look for itself. */
static void watch_add(struct exchange *x)
{
    x->watch.wake = wake;
    x->watching = true;
    store_watch_add(x->server->options.engine->store, &x->watch);
}

static enum td_status check_draining(const struct exchange *x)
{
    return atomic_load(&x->server->draining) ? fail(TD_UNAVAILABLE, "the daemon is stopping")
                                             : TD_OK;
}

/* ---- ?wait= ------------------------------------------------------------------------------------
 */

/* Objects are there from the start, or never. */
static bool is_object(struct text name)
{
    return name.length && name.data[0] == '@';
}

/* Whether the name is there, of another generation than the client has seen. */
static bool has_come(const struct exchange *x)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    const struct engine *engine = x->server->options.engine;
    struct text seen_tags = x->headers.if_none_match;
    uint64_t generation, seen;
    if (is_object(x->rest))
        return true;
    if (store_lookup(engine->store, x->rest, &tensor, &generation) != TD_OK)
        return false;
    return !seen_tags.data || !etag_generation(seen_tags, engine->boot, &seen) ||
           seen != generation;
}

static enum td_status wait_begin(struct exchange *x)
{
    uint64_t wait_ms;
    TRY(duration_from_text(x->params[PARAM_WAIT], &wait_ms));
    if (!is_object(x->rest))
        TRY(name_check(x->rest));
    TRY(exchange_find_session(x)); /* which lives on while it waits */
    x->op_deadline_ms = clock_now_ms() + (wait_ms < HTTP_WAIT_MAX_MS ? wait_ms : HTTP_WAIT_MAX_MS);
    return TD_OK;
}

enum td_status wait_for_name(struct exchange *x, bool *waits)
{
    *waits = false;
    if (!x->params[PARAM_WAIT].data)
        return TD_OK;
    if (!x->op_deadline_ms)
        TRY(wait_begin(x));
    if (has_come(x) || clock_now_ms() >= x->op_deadline_ms) {
        x->params[PARAM_WAIT].data = NULL; /* it is over, and what follows has no deadline */
        x->op_deadline_ms = 0;
        return TD_OK;
    }
    TRY(check_draining(x));
    *waits = true;
    x->watch.prefix = x->rest;
    x->watch.exact = true;
    exchange_suspend(x, x->op_deadline_ms);
    watch_add(x);
    if (has_come(x))
        exchange_wake(x, TD_OK);
    return TD_OK;
}

/* ---- Server-Sent Events ------------------------------------------------------------------------
 *
 * HTML Living Standard, 9.2 "Server-sent events": lines of "field: value", an empty line after each
 * event, comments after a colon. A client that reconnects sends the last id as Last-Event-ID, so
 * every id is the revision up to which all is known; one without data only moves it on.
 */

struct listener {
    struct exchange *x; /* borrowed: nobody reads after libmicrohttpd has completed it */
    uint64_t since;     /* all events up to this revision have been read */
    bool quiet;         /* and the watch was added at that revision, or before */
    uint64_t silence_ends_ms;
    struct store_event events[EVENTS_AT_ONCE]; /* read, from `next` on not sent yet */
    size_t next, count;
    char text[2 * NAME_MAX_BYTES + 256]; /* being sent: the longest is a name full of quotes */
    size_t sent, length;
};

__attribute__((format(printf, 2, 3))) static void say(struct listener *l, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(l->text, sizeof l->text, format, arguments);
    va_end(arguments);
    l->length = (size_t)length < sizeof l->text ? (size_t)length : sizeof l->text - 1;
    l->sent = 0;
}

static void say_event(struct listener *l, const struct store_event *event)
{
    char name[2 * NAME_MAX_BYTES + 16];
    cJSON text = {.type = cJSON_String, .valuestring = (char *)(uintptr_t)event->name};
    if (!cJSON_PrintPreallocated(&text, name, sizeof name, false))
        snprintf(name, sizeof name, "null"); /* cannot be: the room is enough */
    say(l,
        "id: %" PRIu64 "\nevent: %s\n"
        "data: {\"name\":%s,\"revision\":%" PRIu64 "}\n\n",
        event->revision, event->kind == STORE_PUBLISHED ? "publish" : "remove", name,
        event->revision);
}

/* Reads on in the store. What was lost is said first; what is there still comes after that. */
static void fetch(struct listener *l)
{
    struct store *store = l->x->server->options.engine->store;
    uint64_t from = l->since;
    bool lost;
    l->next = 0;
    l->count = store_events(store, &l->x->watch, &l->since, &lost, EVENTS_AT_ONCE, l->events);
    if (!lost)
        return;
    l->since = from; /* without reading events it moves to where they begin */
    l->count = store_events(store, &l->x->watch, &l->since, &lost, 0, l->events);
    say(l,
        "id: %" PRIu64 "\nevent: lost\n"
        "data: {\"since\":%" PRIu64 ",\"resumed\":%" PRIu64 "}\n\n",
        l->since, from, l->since);
}

/* The next text to be sent; false if there is none. */
static bool prepare(struct listener *l)
{
    l->sent = l->length = 0;
    if (l->next == l->count)
        fetch(l);
    if (!l->length && l->next < l->count)
        say_event(l, &l->events[l->next++]);
    if (!l->length && clock_now_ms() >= l->silence_ends_ms)
        say(l, ": keep-alive\nid: %" PRIu64 "\n\n", l->since);
    return l->length > 0;
}

/* A comment now and then shows who is gone, and keeps what is in between from cutting. */
static uint64_t silence_end(const struct exchange *x)
{
    return clock_now_ms() + x->server->options.idle_timeout_ms / KEEP_ALIVES;
}

static void listener_suspend(struct listener *l)
{
    struct exchange *x = l->x;
    exchange_suspend(x, l->silence_ends_ms);
    peer_set(x->peer, PEER_LISTENS);
    watch_add(x);
    l->quiet = store_revision(x->server->options.engine->store) == l->since;
    if (!l->quiet)
        exchange_wake(x, TD_OK);
}

/* What happened to other names meanwhile need not be looked at, and may be gone. */
static void listener_resumed(struct listener *l)
{
    struct exchange *x = l->x;
    exchange_resumed(x);
    if (l->quiet && x->watch.quiet_until > l->since)
        l->since = x->watch.quiet_until;
    l->quiet = false;
}

/* libmicrohttpd's content reader: fills what there is room for, or suspends. */
static ssize_t listener_read(void *argument, uint64_t position, char *out, size_t room)
{
    struct listener *l = argument;
    struct exchange *x = l->x;
    size_t filled = 0;
    (void)position;
    if (x->suspended_now)
        listener_resumed(l);
    if (x->status == TD_CANCELLED)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (x->status != TD_OK || atomic_load(&x->server->draining))
        return MHD_CONTENT_READER_END_OF_STREAM;
    while (filled < room && (l->sent < l->length || prepare(l))) {
        size_t left = l->length - l->sent, space = room - filled;
        size_t size = left < space ? left : space;
        memcpy(out + filled, l->text + l->sent, size);
        l->sent += size;
        filled += size;
        l->silence_ends_ms = silence_end(x);
    }
    if (!filled)
        listener_suspend(l);
    atomic_fetch_add_explicit(&x->server->options.engine->bytes_sent, filled, memory_order_relaxed);
    return (ssize_t)filled;
}

static enum td_status revision_from_text(struct text text, uint64_t *out)
{
    *out = 0;
    bool good = text.length > 0;
    for (size_t i = 0; i < text.length && good; i++)
        good = text.data[i] >= '0' && text.data[i] <= '9' &&
               !__builtin_mul_overflow(*out, 10, out) &&
               !__builtin_add_overflow(*out, (uint64_t)(text.data[i] - '0'), out);
    return good ? TD_OK
                : fail(TD_INVALID,
                       "since= and Last-Event-ID are revisions, as the ids of events tell them; "
                       "'%.*s' is none",
                       (int)(text.length < 40 ? text.length : 40), text.data);
}

/* A browser that reconnects repeats the address and adds Last-Event-ID, which is newer. */
static enum td_status find_since(const struct exchange *x, uint64_t *since)
{
    if (x->headers.last_event_id.length)
        return revision_from_text(x->headers.last_event_id, since);
    if (x->params[PARAM_SINCE].data)
        return revision_from_text(x->params[PARAM_SINCE], since);
    *since = store_revision(x->server->options.engine->store);
    return TD_OK;
}

enum td_status watch_get(struct exchange *x)
{
    uint64_t since;
    TRY(check_draining(x));
    TRY(find_since(x, &since));
    x->watch.prefix = FIELDS_HAS(&x->in, prefix) ? x->in.prefix : (struct text){"", 0};
    x->watch.exact = false;
    struct listener *l = malloc(sizeof *l);
    if (!l)
        return fail(TD_OUT_OF_MEMORY, "no memory for a watch");
    l->x = x;
    l->since = since;
    l->next = l->count = 0;
    l->silence_ends_ms = silence_end(x);
    say(l, ": watching from %" PRIu64 "\nid: %" PRIu64 "\n\n", since, since);
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BUFFER_BYTES, listener_read, l, free);
    if (!response) {
        free(l);
        return fail(TD_OUT_OF_MEMORY, "no memory for the answer");
    }
    if (x->head)
        answer_head_of_unknown_size(response);
    answer_header(response, "Content-Type", "text/event-stream");
    answer_header(response, "Cache-Control", "no-store");
    return answer_response(x, MHD_HTTP_OK, response);
}
