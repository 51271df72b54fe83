/* session: what is held and leased, by whom, how often, and that the end lets everything go. */
#include "core/session.h"
#include "tests/unit/core_assert.h"

static struct host host;
static struct session_table *table;
static struct tensor *tensor;

static const struct session_limits limits = {.sessions = 3, .objects = 2, .leases = 2};

static int open_table(void **state)
{
    (void)state;
    host_open(&host, MIB, 0);
    assert_ok(session_table_create(&host.ledger, &limits, &table));
    tensor = bytes_tensor(host.cpu, 8);
    return 0;
}

static int close_table(void **state)
{
    (void)state;
    session_table_destroy(table);
    assert_int_equal(atomic_load(&tensor->refs), 1);
    assert_int_equal(atomic_load(&tensor->storage->refs), 1);
    tensor_unref(tensor);
    host_close(&host);
    return 0;
}

static void assert_counts(uint64_t sessions, uint64_t objects, uint64_t leases)
{
    struct session_counts counts;
    session_table_count(table, &counts);
    assert_int_equal(counts.sessions, sessions);
    assert_int_equal(counts.objects, objects);
    assert_int_equal(counts.leases, leases);
}

static struct session *open_session(void)
{
    struct session *session;
    assert_ok(session_open(table, NULL, 0, &session));
    return session;
}

static void assert_not_held(struct session *session, uint64_t id)
{
    struct tensor *found;
    assert_refused(session_find(session, id, &found), TD_NOT_FOUND, "holds no object @");
    assert_refused(session_drop(session, id), TD_NOT_FOUND, "holds no object @");
}

/* -- objects -- */

/* Held as often as it was handed out, for one entry. */
static void hold_counts(void **state)
{
    struct tensor *found;
    (void)state;
    struct session *session = open_session();
    assert_not_held(session, tensor->id);
    for (int i = 0; i < 3; i++)
        assert_ok(session_hold(session, tensor));
    assert_counts(1, 1, 0);
    assert_int_equal(atomic_load(&tensor->refs), 2);
    for (int i = 0; i < 3; i++) {
        assert_ok(session_find(session, tensor->id, &found));
        assert_ptr_equal(found, tensor);
        tensor_unref(found);
        assert_ok(session_drop(session, tensor->id));
    }
    assert_not_held(session, tensor->id);
    assert_counts(1, 0, 0);
    session_leave(session);
}

/* What one session holds is nothing to another. */
static void sessions_are_apart(void **state)
{
    uint64_t lease;
    (void)state;
    struct session *mine = open_session(), *other = open_session();
    assert_true(session_id(other) > session_id(mine));
    assert_string_not_equal(session_key(mine), session_key(other));
    assert_int_equal(strlen(session_key(mine)), SESSION_KEY_LENGTH);
    assert_ok(session_hold(mine, tensor));
    assert_not_held(other, tensor->id);
    assert_ok(session_lease(mine, LEASE_READ, tensor->storage, 0, &lease));
    assert_refused(session_release(other, lease), TD_NOT_FOUND, "has no lease");
    session_leave(other);
    struct tensor *found;
    assert_ok(session_find(mine, tensor->id, &found));
    tensor_unref(found);
    session_leave(mine);
}

/* -- leases -- */

static void leases(void **state)
{
    uint64_t first, second, third;
    (void)state;
    struct session *session = open_session();
    assert_ok(session_lease(session, LEASE_READ, tensor->storage, 0, &first));
    assert_ok(session_lease(session, LEASE_READ, tensor->storage, 0, &second));
    assert_true(second > first && first > 0);
    assert_int_equal(atomic_load(&tensor->storage->refs), 3);
    assert_ok(session_release(session, first));
    assert_refused(session_release(session, first), TD_NOT_FOUND, "has no lease");
    assert_refused(session_release(session, 0), TD_NOT_FOUND, "has no lease 0");
    assert_refused(session_release(session, UINT64_MAX), TD_NOT_FOUND, "has no lease");
    assert_ok(session_lease(session, LEASE_READ, tensor->storage, 0, &third));
    assert_true(third > second); /* never the same again */
    assert_counts(1, 0, 2);
    session_leave(session);
}

/* A lease keeps the bytes when the tensor goes. */
static void lease_keeps_storage(void **state)
{
    uint64_t lease;
    (void)state;
    struct session *session = open_session();
    struct tensor *mine = bytes_tensor(host.cpu, 100);
    struct storage *storage = mine->storage;
    assert_ok(session_lease(session, LEASE_READ, storage, 0, &lease));
    tensor_unref(mine);
    memset(storage->memory.data, 1, 100);
    assert_int_equal(atomic_load(&storage->refs), 1);
    assert_ok(session_release(session, lease));
    session_leave(session);
}

/* -- life -- */

static void join_and_leave(void **state)
{
    struct session *again, *late;
    char key[SESSION_KEY_LENGTH + 1];
    (void)state;
    struct session *session = open_session();
    memcpy(key, session_key(session), sizeof key);
    assert_ok(session_join(table, text_of(key), &again));
    assert_ptr_equal(again, session);
    assert_ok(session_hold(session, tensor));
    session_leave(session);
    assert_counts(1, 1, 0); /* one connection is left */
    session_leave(again);
    assert_counts(0, 0, 0);
    assert_refused(session_join(table, text_of(key), &late), TD_NOT_FOUND, "has ended");
}

static void wrong_keys(void **state)
{
    struct session *joined;
    char key[SESSION_KEY_LENGTH + 1];
    (void)state;
    struct session *session = open_session();
    memcpy(key, session_key(session), sizeof key);
    assert_refused(session_join(table, text_of(""), &joined), TD_NOT_FOUND, "");
    assert_refused(session_join(table, (struct text){key, SESSION_KEY_LENGTH - 1}, &joined),
                   TD_NOT_FOUND, "");
    assert_refused(session_join(table, (struct text){key, SESSION_KEY_LENGTH + 1}, &joined),
                   TD_NOT_FOUND, "");
    key[0] = key[0] == '0' ? '1' : '0';
    assert_refused(session_join(table, text_of(key), &joined), TD_NOT_FOUND, "");
    session_leave(session);
    assert_refused(session_join(table, text_of(key), &joined), TD_NOT_FOUND, "");
}

/* An operation that still runs keeps the head, and adds nothing any more. */
static void nothing_after_the_end(void **state)
{
    uint64_t lease;
    (void)state;
    struct session *session = open_session();
    struct session *running = session_ref(session);
    assert_ok(session_hold(session, tensor));
    assert_ok(session_lease(session, LEASE_READ, tensor->storage, 0, &lease));
    session_leave(session);
    assert_counts(0, 0, 0);
    assert_int_equal(atomic_load(&tensor->refs), 1);
    uint64_t used = host.ledger.used.memory_bytes;
    assert_refused(session_hold(running, tensor), TD_CANCELLED, "has ended");
    assert_refused(session_lease(running, LEASE_READ, tensor->storage, 0, &lease), TD_CANCELLED,
                   "has ended");
    assert_not_held(running, tensor->id);
    assert_refused(session_release(running, lease), TD_NOT_FOUND, "");
    assert_int_equal(host.ledger.used.memory_bytes, used);
    session_unref(running);
}

static void end_releases_everything(void **state)
{
    uint64_t lease;
    (void)state;
    uint64_t used = host.ledger.used.memory_bytes;
    struct session *session = open_session();
    for (int i = 0; i < 2; i++) {
        struct tensor *mine = bytes_tensor(host.cpu, 1000);
        assert_ok(session_hold(session, mine));
        assert_ok(session_hold(session, mine));
        assert_ok(session_lease(session, LEASE_READ, mine->storage, 0, &lease));
        tensor_unref(mine);
    }
    assert_true(host.ledger.used.memory_bytes > used + 2000);
    session_leave(session);
    assert_int_equal(host.ledger.used.memory_bytes, used);
}

/* -- limits -- */

static void limit_of_sessions(void **state)
{
    struct session *sessions[3], *more;
    (void)state;
    for (int i = 0; i < 3; i++)
        sessions[i] = open_session();
    assert_refused(session_open(table, NULL, 0, &more), TD_UNAVAILABLE, "3 sessions are open");
    assert_ok(session_join(table, text_of(session_key(sessions[0])), &more)); /* is no new one */
    session_leave(more);
    session_leave(sessions[0]);
    sessions[0] = open_session();
    for (int i = 0; i < 3; i++)
        session_leave(sessions[i]);
}

static void limits_of_a_session(void **state)
{
    uint64_t lease[3];
    struct tensor *more[2];
    (void)state;
    struct session *session = open_session();
    for (int i = 0; i < 2; i++) {
        more[i] = bytes_tensor(host.cpu, 8);
        assert_ok(session_hold(session, more[i]));
        assert_ok(session_lease(session, LEASE_READ, more[i]->storage, 0, &lease[i]));
    }
    uint64_t used = host.ledger.used.memory_bytes;
    assert_refused(session_hold(session, tensor), TD_OUT_OF_MEMORY, "2 anonymous objects");
    assert_refused(session_lease(session, LEASE_READ, tensor->storage, 0, &lease[2]),
                   TD_OUT_OF_MEMORY, "2 leases");
    assert_int_equal(host.ledger.used.memory_bytes, used);
    assert_ok(session_hold(session, more[0])); /* once more is no new entry */
    assert_ok(session_drop(session, more[1]->id));
    assert_ok(session_hold(session, tensor));
    for (int i = 0; i < 2; i++)
        tensor_unref(more[i]);
    session_leave(session);
}

static void refused_reservation(void **state)
{
    uint64_t lease;
    (void)state;
    struct session *session = open_session();
    uint64_t used = host.ledger.used.memory_bytes;
    host.ledger.fail_after = 1;
    assert_refused(session_hold(session, tensor), TD_OUT_OF_MEMORY, "for a test");
    assert_not_held(session, tensor->id);
    host.ledger.fail_after = 1;
    assert_refused(session_lease(session, LEASE_READ, tensor->storage, 0, &lease), TD_OUT_OF_MEMORY,
                   "for a test");
    assert_counts(1, 0, 0);
    assert_int_equal(host.ledger.used.memory_bytes, used);
    assert_int_equal(atomic_load(&tensor->refs), 1);
    session_leave(session);
}

/* A chain of grads as long as a client likes ends without a deep recursion. */
static void long_chain_of_grads(void **state)
{
    (void)state;
    struct session *session = open_session();
    host.ledger.limits.memory_bytes = 256 << 20; /* every one of them is charged */
    struct tensor *head = bytes_tensor(host.cpu, 1), *last = head;
    for (int i = 0; i < 100000; i++) {
        struct tensor *next;
        assert_ok(tensor_view(head, &head->layout, &next));
        tensor_set_grad(last, next);
        tensor_unref(next);
        last = next;
    }
    assert_ok(session_hold(session, head));
    tensor_unref(head);
    session_leave(session);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_table, close_table)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(hold_counts),           TEST(sessions_are_apart),      TEST(leases),
        TEST(lease_keeps_storage),   TEST(join_and_leave),          TEST(wrong_keys),
        TEST(nothing_after_the_end), TEST(end_releases_everything), TEST(limit_of_sessions),
        TEST(limits_of_a_session),   TEST(refused_reservation),     TEST(long_chain_of_grads),
    };
    return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
