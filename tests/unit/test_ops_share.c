/* Operations on memory that clients fill, freeze and hold, without a door. */
#include "tests/unit/ops_request.h"

#include <fcntl.h>
#include <sys/mman.h>

#define COUNT_OF ((int64_t)100000) /* float32: a memfd */

static struct account *account;

/* The session of a user, instead of the one that nobody pays for. */
static int open_paid(void **state)
{
    (void)state;
    if (open_engine_with(32 * MIB, 0) != 0)
        return 1;
    session_leave(session);
    assert_ok(account_open(engine->accounts, (struct principal){PRINCIPAL_UID, 5}, &account));
    return session_open(engine->sessions, account, 1, &session) != TD_OK;
}

static uint64_t used(enum quota quota)
{
    return atomic_load(&account->used[quota]);
}

/* Ends the session and the names; then nothing is held any more. */
static int close_paid(void **state)
{
    (void)state;
    op_end(&call);
    session_leave(session);
    delete_all_names();
    for (int i = 0; i < QUOTA_COUNT; i++)
        assert_int_equal(atomic_load(&account->used[i]), 0);
    assert_int_equal(atomic_load(&account->deleted_bytes), 0);
    account_unref(account);
    assert_int_equal(used_now().memory_bytes, 0);
    engine_destroy(engine);
    return 0;
}

/* Memory to be filled, mapped as a client would; *map may be NULL. */
static uint64_t allocate(float **map)
{
    uint64_t id = RUN(allocate, SET(dtype, TD_FLOAT32), SET(shape, SHAPE(COUNT_OF)));
    assert_memory("shared", NULL);
    assert_text(reply->mode, "building");
    assert_true(call.share_fd >= 0);
    if (map) {
        *map =
            mmap(NULL, (size_t)COUNT_OF * 4, PROT_READ | PROT_WRITE, MAP_SHARED, call.share_fd, 0);
        assert_ptr_not_equal(*map, MAP_FAILED);
    }
    return id;
}

static void unmap(float *map)
{
    munmap(map, (size_t)COUNT_OF * 4);
}

static void test_publish_shares(void **state)
{
    float *map;
    (void)state;
    uint64_t id = allocate(&map), storage = reply->storage;
    map[7] = 1.5f;
    unmap(map);
    RUN(publish, INPUT(id), SET(output, text_of("x")), SET(requires_grad, true));
    assert_memory("shared", NULL);
    assert_text(reply->mode, "frozen");
    assert_int_equal(reply->id, id);
    assert_int_equal(reply->storage, storage);
    assert_true(reply->requires_grad);
    REFUSED(map, TD_FROZEN, "frozen", SET(input, text_of("x")), SET(write, true));
    REFUSED(publish, TD_CONFLICT, "published already, and is frozen", INPUT(id),
            SET(output, text_of("y")));
}

static void test_publish_copies_what_is_still_written(void **state)
{
    float *map;
    (void)state;
    uint64_t id = allocate(&map), storage = reply->storage;
    RUN(publish, INPUT(id), SET(output, text_of("x")), SET(wait_ms, 0));
    assert_memory("copied", "mode");
    assert_true(reply->storage != storage);
    RUN(info, INPUT(id));
    assert_text(reply->mode, "building"); /* and the daemon can write to it, whatever it becomes */
    RUN(publish, INPUT(id), SET(output, text_of("y")), SET(mode, text_of("mutable")));
    assert_memory("shared", NULL);
    RUN(fill_, SET(input, text_of("y")), SET(value, integer(3)));
    assert_true(map[5] == 3);
    unmap(map);
    assert_int_equal(used(QUOTA_BYTES), 2 * COUNT_OF * 4);
}

static void test_publish_fails_and_is_tried_again(void **state)
{
    static const char *const modes[] = {"frozen", "single-writer", "mutable"};
    (void)state;
    RUN(zeros, SET(shape, SHAPE(1)), SET(output, text_of("taken")));
    for (size_t i = 0; i < COUNT(modes); i++) {
        uint64_t id = allocate(NULL);
        for (int times = 0; times < 2; times++)
            REFUSED(publish, TD_EXISTS, "taken", INPUT(id), SET(output, text_of("taken")),
                    SET(create_only, true), SET(mode, text_of(modes[i])));
        RUN(publish, INPUT(id), SET(output, text_of(modes[i])), SET(mode, text_of(modes[i])));
        assert_memory("shared", NULL);
        assert_text(reply->mode, modes[i]);
    }
    uint64_t id = allocate(NULL);
    REFUSED(publish, TD_INVALID, "'building' is no mode", INPUT(id), SET(output, text_of("x")),
            SET(mode, text_of("building")));
}

static void test_what_is_filled_is_nobody_elses(void **state)
{
    (void)state;
    uint64_t id = allocate(NULL);
    REFUSED(get, TD_CONFLICT, "not published yet", INPUT(id));
    REFUSED(as_tensor, TD_CONFLICT, "not published yet", INPUT(id), SET(output, text_of("x")));
    REFUSED(seal, TD_CONFLICT, "not published yet", INPUT(id));
    REFUSED(map, TD_CONFLICT, "not published yet", INPUT(id));
    uint64_t other = RUN(zeros, SET(shape, SHAPE(COUNT_OF)));
    REFUSED(copy_, TD_CONFLICT, "not published yet", INPUT(other), OTHER(id));
    RUN(map, INPUT(id), SET(write, true));
    int fd = fcntl(call.share_fd, F_DUPFD_CLOEXEC, 0);
    request_fd = fd;
    REFUSED(from_numpy, TD_CONFLICT, "not published yet", SET(dtype, TD_FLOAT32),
            SET(shape, SHAPE(COUNT_OF)), SET(output, text_of("x")));
    REFUSED(info, TD_NOT_FOUND, "", SET(input, text_of("x")));
    request_remote = true;
    REFUSED(allocate, TD_UNSUPPORTED, "put", SET(dtype, TD_UINT8), SET(shape, SHAPE(1)));
}

static void test_an_allocation_costs_what_it_takes(void **state)
{
    (void)state;
    uint64_t before = used_now().memory_bytes, id = allocate(NULL), lease = reply->lease;
    assert_int_equal(used(QUOTA_BYTES), COUNT_OF * 4);
    assert_int_equal(used(QUOTA_DESCRIPTORS), 1);
    assert_int_equal(used(QUOTA_LEASES), 1);
    RUN(release, SET(lease, lease));
    RUN(release, INPUT(id));
    op_end(&call);
    assert_int_equal(used_now().memory_bytes, before);
    /* Small memory has a descriptor as well, when it is mapped. */
    RUN(allocate, SET(dtype, TD_UINT8), SET(shape, SHAPE(3)));
    assert_int_equal(used(QUOTA_DESCRIPTORS), 1);
    op_undo(&call); /* nobody got the reply */
    op_end(&call);
    assert_int_equal(used(QUOTA_DESCRIPTORS), 0);
    assert_int_equal(used(QUOTA_LEASES), 0);
    assert_int_equal(used_now().memory_bytes, before);
}

/* Whatever is refused on the way leaves nothing. */
static void test_every_failure_of_an_allocation(void **state)
{
    (void)state;
    op_end(&call);
    uint64_t before = used_now().memory_bytes;
    for (uint64_t n = 1;; n++) {
        engine->ledger.fail_after = n;
        SET(dtype, TD_FLOAT32);
        SET(shape, SHAPE(COUNT_OF));
        enum td_status status = attempt(OP_allocate);
        bool reached = engine->ledger.fail_after == 0;
        engine->ledger.fail_after = 0;
        if (status == TD_OK && !reached)
            break;
        if (status == TD_OK)
            op_undo(&call);
        op_end(&call);
        assert_true(n < 50);
        assert_int_equal(used_now().memory_bytes, before);
        assert_int_equal(used(QUOTA_BYTES) + used(QUOTA_LEASES) + used(QUOTA_DESCRIPTORS), 0);
    }
}

static void test_seal(void **state)
{
    (void)state;
    uint64_t id = RUN(zeros, SET(shape, SHAPE(COUNT_OF)), SET(output, text_of("x")));
    uint64_t generation = reply->generation;
    assert_int_equal(RUN(seal, SET(input, text_of("x"))), id);
    assert_memory("shared", NULL);
    assert_text(reply->mode, "frozen");
    assert_int_equal(reply->generation, generation); /* nothing new is published */
    /* What was seen is copied, and the name leads to the copy. */
    RUN(zeros, SET(shape, SHAPE(COUNT_OF)), SET(output, text_of("y")));
    generation = reply->generation;
    RUN(map, SET(input, text_of("y")));
    RUN(release, SET(lease, reply->lease));
    uint64_t copy = RUN(seal, SET(input, text_of("y")), SET(wait_ms, 0));
    assert_memory("copied", "mode");
    assert_true(reply->generation > generation);
    assert_int_equal(RUN(info, SET(input, text_of("y"))), copy);
}

/* A name gets what is frozen, not the session: there is nothing to take back of it. */
static void test_seal_of_a_name_hands_nothing_out(void **state)
{
    (void)state;
    RUN(zeros, SET(shape, SHAPE(3)), SET(output, text_of("x")));
    uint64_t id = RUN(as_tensor, SET(input, text_of("x")));
    assert_int_equal(RUN(seal, SET(input, text_of("x"))), id);
    op_undo(&call); /* the reply does not arrive */
    RUN(info, INPUT(id));
    RUN(release, INPUT(id));
    RUN(seal, SET(input, text_of("x")));
    REFUSED(info, TD_NOT_FOUND, "", INPUT(id));
}

static void test_deleted_memory_counts_against_who_holds_it(void **state)
{
    (void)state;
    RUN(zeros, SET(shape, SHAPE(COUNT_OF)), SET(output, text_of("x")));
    RUN(map, SET(input, text_of("x")));
    uint64_t lease = reply->lease;
    RUN(delete, SET(input, text_of("x")));
    assert_int_equal(atomic_load(&account->deleted_bytes), COUNT_OF * 4);
    assert_int_equal(used(QUOTA_BYTES), COUNT_OF * 4);
    assert_int_equal(used(QUOTA_DESCRIPTORS), 1);
    RUN(release, SET(lease, lease));
    assert_int_equal(atomic_load(&account->deleted_bytes) + used(QUOTA_BYTES), 0);
}

/* A request that has the tensor in hand when its name goes, and gets hold of it only then. */
static void test_held_after_it_was_deleted(void **state)
{
    struct tensor *tensor;
    (void)state;
    RUN(zeros, SET(shape, SHAPE(COUNT_OF)), SET(output, text_of("x")));
    assert_ok(store_lookup(engine->store, text_of("x"), &tensor, NULL));
    RUN(delete, SET(input, text_of("x")));
    assert_int_equal(atomic_load(&account->deleted_bytes), 0);
    assert_ok(session_hold(session, tensor));
    assert_int_equal(atomic_load(&account->deleted_bytes), COUNT_OF * 4);
    assert_int_equal(used(QUOTA_BYTES), COUNT_OF * 4);
    tensor_unref(tensor);
}

int main(void)
{
#define PAID(name) cmocka_unit_test_setup_teardown(name, open_paid, close_paid)
    const struct CMUnitTest tests[] = {
        PAID(test_publish_shares),
        PAID(test_publish_copies_what_is_still_written),
        PAID(test_publish_fails_and_is_tried_again),
        PAID(test_what_is_filled_is_nobody_elses),
        PAID(test_an_allocation_costs_what_it_takes),
        PAID(test_every_failure_of_an_allocation),
        PAID(test_seal),
        PAID(test_seal_of_a_name_hands_nothing_out),
        PAID(test_deleted_memory_counts_against_who_holds_it),
        PAID(test_held_after_it_was_deleted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
