#include "core/hash.h"
#include "server/http_internal.h"

#include <inttypes.h>
#include <string.h>

/* HTTP has no connection that a session could end with: the door keeps one connection of each
 * session, and gives it up when nobody has used the session for its TTL. */
struct entry {
    struct session *session; /* owned, with its one connection */
    const char *key;         /* the session's */
    uint64_t used_ms;        /* of clock_now_ms */
    struct entry *next_gone;
    UT_hash_handle hh;
};

struct http_sessions {
    struct session_table *table;
    struct account *account; /* borrowed */
    uint64_t ttl_ms, max;
    pthread_mutex_t lock;
    struct entry *entries; /* by key */
};

enum td_status http_sessions_create(const struct http_options *options, struct http_sessions **out)
{
    struct http_sessions *sessions = calloc(1, sizeof *sessions);
    if (!sessions)
        return fail(TD_OUT_OF_MEMORY, "no memory for the HTTP sessions");
    sessions->table = options->engine->sessions;
    sessions->account = options->account;
    sessions->ttl_ms = options->session_ttl_ms;
    sessions->max = options->max_sessions;
    pthread_mutex_init(&sessions->lock, NULL);
    *out = sessions;
    return TD_OK;
}

/* Without the lock: what a session holds may take long to let go. */
static void entry_end(struct entry *entry)
{
    session_leave(entry->session);
    free(entry);
}

void http_sessions_destroy(struct http_sessions *sessions)
{
    struct entry *entry, *next;
    if (!sessions)
        return;
    HASH_ITER(hh, sessions->entries, entry, next)
    {
        HASH_DEL(sessions->entries, entry);
        entry_end(entry);
    }
    pthread_mutex_destroy(&sessions->lock);
    free(sessions);
}

static enum td_status add_locked(struct http_sessions *sessions, struct entry *entry)
{
    if (HASH_COUNT(sessions->entries) >= sessions->max)
        return fail(TD_UNAVAILABLE,
                    "%" PRIu64 " sessions are open over HTTP, which is the limit "
                    "(--http-sessions); DELETE /v1/session ends one, and each ends by itself "
                    "when it is not used for %g s",
                    sessions->max, (double)sessions->ttl_ms / 1000);
    HASH_ADD_KEYPTR(hh, sessions->entries, entry->key, SESSION_KEY_LENGTH, entry);
    if (!entry->hh.tbl)
        return fail(TD_OUT_OF_MEMORY, "no memory for a session");
    return TD_OK;
}

enum td_status http_session_open(struct http_sessions *sessions, struct session **out)
{
    struct entry *entry = calloc(1, sizeof *entry);
    if (!entry)
        return fail(TD_OUT_OF_MEMORY, "no memory for a session");
    enum td_status status = session_open(sessions->table, sessions->account, 0, &entry->session);
    if (status != TD_OK) {
        free(entry);
        return status;
    }
    entry->key = session_key(entry->session);
    entry->used_ms = clock_now_ms();
    pthread_mutex_lock(&sessions->lock);
    status = add_locked(sessions, entry);
    if (status == TD_OK)
        *out = session_ref(entry->session);
    pthread_mutex_unlock(&sessions->lock);
    if (status != TD_OK)
        entry_end(entry);
    return status;
}

static enum td_status key_check(struct text key)
{
    size_t digits = 0;
    while (digits < key.length && ((key.data[digits] >= '0' && key.data[digits] <= '9') ||
                                   (key.data[digits] >= 'a' && key.data[digits] <= 'f')))
        digits++;
    if (digits == SESSION_KEY_LENGTH && digits == key.length)
        return TD_OK;
    return fail(TD_INVALID,
                "a session's key is %d hexadecimal digits in lower case, as Tensord-Session told "
                "it; this is another text",
                SESSION_KEY_LENGTH);
}

static enum td_status missing(const struct http_sessions *sessions)
{
    return fail(TD_NOT_FOUND,
                "the session has ended (unused for %g s) or never was; ask again without a session "
                "to get a new one",
                (double)sessions->ttl_ms / 1000);
}

enum td_status http_session_find(struct http_sessions *sessions, struct text key,
                                 struct session **out)
{
    struct entry *entry;
    TRY(key_check(key));
    pthread_mutex_lock(&sessions->lock);
    HASH_FIND(hh, sessions->entries, key.data, key.length, entry);
    if (entry) {
        entry->used_ms = clock_now_ms();
        *out = session_ref(entry->session);
    }
    pthread_mutex_unlock(&sessions->lock);
    return entry ? TD_OK : missing(sessions);
}

void http_session_touch(struct http_sessions *sessions, const struct session *session)
{
    struct entry *entry;
    pthread_mutex_lock(&sessions->lock);
    HASH_FIND(hh, sessions->entries, session_key(session), SESSION_KEY_LENGTH, entry);
    if (entry)
        entry->used_ms = clock_now_ms();
    pthread_mutex_unlock(&sessions->lock);
}

enum td_status http_session_close(struct http_sessions *sessions, struct text key)
{
    struct entry *entry;
    TRY(key_check(key));
    pthread_mutex_lock(&sessions->lock);
    HASH_FIND(hh, sessions->entries, key.data, key.length, entry);
    if (entry)
        HASH_DEL(sessions->entries, entry);
    pthread_mutex_unlock(&sessions->lock);
    if (!entry)
        return missing(sessions);
    entry_end(entry);
    return TD_OK;
}

void http_sessions_expire(struct http_sessions *sessions, uint64_t now_ms)
{
    struct entry *entry, *next, *gone = NULL;
    pthread_mutex_lock(&sessions->lock);
    HASH_ITER(hh, sessions->entries, entry, next)
    {
        if (now_ms < entry->used_ms + sessions->ttl_ms)
            continue;
        HASH_DEL(sessions->entries, entry);
        entry->next_gone = gone;
        gone = entry;
    }
    pthread_mutex_unlock(&sessions->lock);
    for (; gone; gone = next) {
        next = gone->next_gone;
        entry_end(gone);
    }
}

/* ---- /v1/session -------------------------------------------------------------------------------
 */

enum td_status session_post(struct exchange *x)
{
    TRY(http_session_open(x->server->sessions, &x->session));
    x->session_is_new = true;
    cJSON *value = cJSON_CreateObject();
    double ttl_seconds = (double)x->server->options.session_ttl_ms / 1000;
    bool whole = value && cJSON_AddStringToObject(value, "session", session_key(x->session)) &&
                 cJSON_AddNumberToObject(value, "ttl_seconds", ttl_seconds);
    enum td_status status = TD_OUT_OF_MEMORY;
    if (whole)
        status = answer_json(x, MHD_HTTP_CREATED, value);
    else
        fail_write("no memory for the answer");
    cJSON_Delete(value);
    return status;
}

enum td_status session_delete(struct exchange *x)
{
    TRY(exchange_find_session(x));
    if (!x->session)
        return fail(TD_INVALID, "name the session to end: Tensord-Session: KEY");
    TRY(http_session_close(x->server->sessions, text_of(session_key(x->session))));
    return answer_empty(x, MHD_HTTP_NO_CONTENT);
}
