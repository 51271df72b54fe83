/* http_session: keys, the limit, how long a session lives unused, and what its end lets go. */
#include "server/http_internal.h"
#include "tests/unit/core_assert.h"

#include <time.h>

#define TTL_MS 60000
#define MAX 3

static struct engine *engine;
static struct http_sessions *sessions;

static int open_all(void **state)
{
    (void)state;
    const struct engine_options options = {
        .ledger = limits_of(MIB),
        .sessions = {.sessions = MAX + 1, .objects = 2, .leases = 2},
        .job_threads = 1,
        .max_queued = 1,
    };
    assert_ok(engine_create(&options, &engine));
    const struct http_options http = {
        .engine = engine, .session_ttl_ms = TTL_MS, .max_sessions = MAX};
    assert_ok(http_sessions_create(&http, &sessions));
    return 0;
}

static int close_all(void **state)
{
    struct session_counts counts;
    (void)state;
    http_sessions_destroy(sessions);
    session_table_count(engine->sessions, &counts);
    assert_int_equal(counts.sessions, 0);
    assert_int_equal(counts.objects, 0);
    assert_ledger_empty(&engine->ledger);
    engine_destroy(engine);
    return 0;
}

/* A new session's key; nobody refers to it but the table. */
static struct text open_session(char key[SESSION_KEY_LENGTH + 1])
{
    struct session *session;
    assert_ok(http_session_open(sessions, &session));
    memcpy(key, session_key(session), SESSION_KEY_LENGTH + 1);
    session_unref(session);
    return text_of(key);
}

static bool lives(struct text key)
{
    struct session *session;
    enum td_status status = http_session_find(sessions, key, &session);
    if (status == TD_OK)
        session_unref(session);
    else
        assert_refused(status, TD_NOT_FOUND, "has ended (unused for 60 s) or never was");
    return status == TD_OK;
}

static uint64_t open_in_engine(void)
{
    struct session_counts counts;
    session_table_count(engine->sessions, &counts);
    return counts.sessions;
}

/* Until the clock shows another millisecond. */
static uint64_t later(void)
{
    uint64_t from = clock_now_ms();
    for (int i = 0; i < 1000 && clock_now_ms() <= from; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_true(clock_now_ms() > from);
    return clock_now_ms();
}

/* -- finding -- */

static void open_find_close(void **state)
{
    struct session *opened, *found;
    (void)state;
    assert_ok(http_session_open(sessions, &opened));
    struct text key = text_of(session_key(opened));
    assert_int_equal(key.length, SESSION_KEY_LENGTH);
    assert_ok(http_session_find(sessions, key, &found));
    assert_ptr_equal(found, opened);
    session_unref(found);
    assert_int_equal(open_in_engine(), 1);
    assert_ok(http_session_close(sessions, key));
    assert_int_equal(open_in_engine(), 0);
    assert_false(lives(key));
    assert_refused(http_session_close(sessions, key), TD_NOT_FOUND, "ask again without a session");
    session_unref(opened);
}

static void keys_that_are_none(void **state)
{
    static const char *const bad[] = {
        "",
        "0",
        "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcdef0",
        "0123456789ABCDEF0123456789ABCDEF",
        "0123456789abcdef0123456789abcdeg",
        "0123456789abcdef 123456789abcdef",
    };
    struct session *session;
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_refused(http_session_find(sessions, text_of(bad[i]), &session), TD_INVALID,
                       "32 hexadecimal digits");
        assert_refused(http_session_close(sessions, text_of(bad[i])), TD_INVALID,
                       "32 hexadecimal digits");
    }
    struct text nul = {"0123456789abcdef\0"
                       "123456789abcdef",
                       SESSION_KEY_LENGTH};
    assert_refused(http_session_find(sessions, nul, &session), TD_INVALID, "hexadecimal");
    assert_false(lives(text_of("0123456789abcdef0123456789abcdef")));
}

/* -- limits -- */

static void at_most(void **state)
{
    char keys[MAX][SESSION_KEY_LENGTH + 1], more[SESSION_KEY_LENGTH + 1];
    struct session *session;
    (void)state;
    for (int i = 0; i < MAX; i++)
        open_session(keys[i]);
    for (int i = 0; i < 2; i++)
        assert_refused(http_session_open(sessions, &session), TD_UNAVAILABLE,
                       "3 sessions are open over HTTP, which is the limit (--http-sessions)");
    assert_int_equal(open_in_engine(), MAX);
    assert_ok(http_session_close(sessions, text_of(keys[1])));
    struct text key = open_session(more);
    assert_true(lives(key) && lives(text_of(keys[0])) && lives(text_of(keys[2])));
    assert_false(lives(text_of(keys[1])));
}

/* The engine's own limit, which the other doors use up too. */
static void at_most_in_the_engine(void **state)
{
    struct session *others[MAX + 1], *session;
    (void)state;
    for (int i = 0; i <= MAX; i++)
        assert_ok(session_open(engine->sessions, NULL, 0, &others[i]));
    assert_refused(http_session_open(sessions, &session), TD_UNAVAILABLE, "4 sessions are open");
    session_leave(others[0]);
    char key[SESSION_KEY_LENGTH + 1];
    assert_true(lives(open_session(key)));
    for (int i = 1; i <= MAX; i++)
        session_leave(others[i]);
}

/* -- time -- */

static void expires(void **state)
{
    char key[SESSION_KEY_LENGTH + 1], second_key[SESSION_KEY_LENGTH + 1];
    (void)state;
    uint64_t before = clock_now_ms();
    struct text first = open_session(key);
    uint64_t after = later();
    struct text second = open_session(second_key);
    http_sessions_expire(sessions, before + TTL_MS - 1);
    assert_int_equal(open_in_engine(), 2);
    http_sessions_expire(sessions, after + TTL_MS - 1); /* `first` is older by a millisecond */
    assert_int_equal(open_in_engine(), 1);
    assert_false(lives(first));
    assert_true(lives(second));
    http_sessions_expire(sessions, clock_now_ms() + TTL_MS);
    assert_false(lives(second));
    assert_int_equal(open_in_engine(), 0);
}

static void use_begins_the_time_anew(void **state)
{
    char found_key[SESSION_KEY_LENGTH + 1], touched_key[SESSION_KEY_LENGTH + 1];
    char forgotten_key[SESSION_KEY_LENGTH + 1];
    struct session *session;
    (void)state;
    struct text found = open_session(found_key), touched = open_session(touched_key);
    struct text forgotten = open_session(forgotten_key);
    assert_ok(http_session_find(sessions, touched, &session));
    uint64_t used = later();
    http_session_touch(sessions, session);
    session_unref(session);
    assert_true(lives(found));
    http_sessions_expire(sessions, used + TTL_MS - 1);
    assert_false(lives(forgotten));
    assert_true(lives(found) && lives(touched));
}

/* One that has ended is not revived. */
static void touching_what_has_ended(void **state)
{
    struct session *session;
    (void)state;
    assert_ok(http_session_open(sessions, &session));
    assert_ok(http_session_close(sessions, text_of(session_key(session))));
    http_session_touch(sessions, session);
    assert_false(lives(text_of(session_key(session))));
    session_unref(session);
}

/* -- what it holds -- */

/* Who still runs something in it keeps the head, but nothing that it held. */
static void end_lets_go(void **state)
{
    struct session *session;
    (void)state;
    struct tensor *tensor = bytes_tensor(engine->devices.list[0], 8);
    assert_ok(http_session_open(sessions, &session));
    assert_ok(session_hold(session, tensor));
    assert_int_equal(atomic_load(&tensor->refs), 2);
    http_sessions_expire(sessions, clock_now_ms() + TTL_MS);
    assert_int_equal(atomic_load(&tensor->refs), 1);
    assert_refused(session_hold(session, tensor), TD_CANCELLED, "the session has ended");
    session_unref(session);
    tensor_unref(tensor);
}

/* A connection of another door that joined it keeps it alive. */
static void shared_with_a_connection(void **state)
{
    char key[SESSION_KEY_LENGTH + 1];
    struct session *joined;
    (void)state;
    struct tensor *tensor = bytes_tensor(engine->devices.list[0], 8);
    struct text text = open_session(key);
    assert_ok(session_join(engine->sessions, text, &joined));
    assert_ok(session_hold(joined, tensor));
    assert_ok(http_session_close(sessions, text));
    assert_false(lives(text));
    assert_int_equal(open_in_engine(), 1);
    assert_int_equal(atomic_load(&tensor->refs), 2);
    session_leave(joined);
    assert_int_equal(open_in_engine(), 0);
    assert_int_equal(atomic_load(&tensor->refs), 1);
    tensor_unref(tensor);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_all, close_all)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(open_find_close),
        TEST(keys_that_are_none),
        TEST(at_most),
        TEST(at_most_in_the_engine),
        TEST(expires),
        TEST(use_begins_the_time_anew),
        TEST(touching_what_has_ended),
        TEST(end_lets_go),
        TEST(shared_with_a_connection),
    };
    return cmocka_run_group_tests_name("http_session", tests, NULL, NULL);
}
