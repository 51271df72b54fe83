/* ledger: limits, all or nothing, and what a failed reservation leaves behind. */
#include "tests/unit/core_assert.h"

static struct ledger ledger;

static int open_ledger(void **state)
{
    struct ledger_limits limits = {.memory_bytes = 1000, .descriptors = 3, .names = 2};
    (void)state;
    ledger_init(&ledger, &limits);
    return 0;
}

static int close_ledger(void **state)
{
    (void)state;
    ledger_finish(&ledger);
    return 0;
}

static void assert_used(uint64_t bytes, uint64_t descriptors, uint64_t names)
{
    struct ledger now;
    ledger_read(&ledger, &now);
    assert_int_equal(now.used.memory_bytes, bytes);
    assert_int_equal(now.used.descriptors, descriptors);
    assert_int_equal(now.used.names, names);
}

/* Up to every limit exactly, and one past each. */
static void limits(void **state)
{
    (void)state;
    assert_ok(ledger_reserve(&ledger, 1000, 3, 2));
    assert_used(1000, 3, 2);
    assert_ok(ledger_reserve(&ledger, 0, 0, 0));
    assert_refused(ledger_reserve(&ledger, 1, 0, 0), TD_OUT_OF_MEMORY,
                   "1 bytes do not fit: 1000 of 1000 bytes are in use");
    assert_refused(ledger_reserve(&ledger, 0, 1, 0), TD_OUT_OF_MEMORY,
                   "3 of 3 memory descriptors are in use");
    assert_refused(ledger_reserve(&ledger, 0, 0, 1), TD_OUT_OF_MEMORY, "2 of 2 names are in use");
    assert_int_equal(ledger.refused, 3);
    ledger_release(&ledger, 1, 1, 1);
    assert_ok(ledger_reserve(&ledger, 1, 1, 1));
    ledger_release(&ledger, 1000, 3, 2);
    assert_used(0, 0, 0);
    assert_int_equal(ledger.peak_bytes, 1000);
}

/* A refusal for one of the three keeps nothing of the other two. */
static void all_or_nothing(void **state)
{
    static const struct ledger_limits refused[] = {
        {901, 1, 1}, {1, 3, 1}, {1, 1, 2}, {1000, 3, 2}, {0, 4, 0}, {0, 0, 3},
    };
    (void)state;
    assert_ok(ledger_reserve(&ledger, 100, 1, 1));
    for (size_t i = 0; i < COUNT(refused); i++) {
        assert_refused(ledger_reserve(&ledger, refused[i].memory_bytes, refused[i].descriptors,
                                      refused[i].names),
                       TD_OUT_OF_MEMORY, "in use");
        assert_used(100, 1, 1);
    }
    assert_int_equal(ledger.peak_bytes, 100);
    assert_int_equal(ledger.refused, COUNT(refused));
}

/* Sums that wrap must not look small. */
static void overflow(void **state)
{
    static const uint64_t huge[] = {UINT64_MAX, UINT64_MAX - 1, UINT64_C(1) << 63};
    (void)state;
    assert_ok(ledger_reserve(&ledger, 2, 2, 2));
    for (size_t i = 0; i < COUNT(huge); i++) {
        assert_refused(ledger_reserve(&ledger, huge[i], 0, 0), TD_OUT_OF_MEMORY, "do not fit");
        assert_refused(ledger_reserve(&ledger, 0, huge[i], 0), TD_OUT_OF_MEMORY, "descriptors");
        assert_refused(ledger_reserve(&ledger, 0, 0, huge[i]), TD_OUT_OF_MEMORY, "names");
        assert_used(2, 2, 2);
    }
}

/* What tells what to delete has room when there is none. */
static void answers_when_it_is_full(void **state)
{
    (void)state;
    assert_ok(ledger_reserve(&ledger, 1000, 0, 0));
    assert_ok(ledger_reserve_over(&ledger, LEDGER_ANSWERS_BYTES, LEDGER_ANSWERS_BYTES));
    assert_refused(ledger_reserve_over(&ledger, 1, LEDGER_ANSWERS_BYTES), TD_OUT_OF_MEMORY,
                   "of 1000 bytes");
    assert_refused(ledger_reserve(&ledger, 1, 0, 0), TD_OUT_OF_MEMORY, "");
    assert_ok(ledger_reserve(&ledger, 0, 1, 1));
    ledger_release(&ledger, LEDGER_ANSWERS_BYTES + 1000, 1, 1);
    assert_used(0, 0, 0);
}

static void unlimited(void **state)
{
    (void)state;
    ledger.limits =
        (struct ledger_limits){.memory_bytes = UINT64_MAX, .descriptors = 1, .names = 1};
    assert_ok(ledger_reserve(&ledger, UINT64_MAX, 0, 0));
    assert_refused(ledger_reserve(&ledger, 1, 0, 0), TD_OUT_OF_MEMORY, "do not fit");
    assert_refused(ledger_reserve_over(&ledger, 1, LEDGER_ANSWERS_BYTES), TD_OUT_OF_MEMORY,
                   "do not fit");
    ledger_release(&ledger, UINT64_MAX, 0, 0);
    assert_used(0, 0, 0);
}

/* The nth reservation from now fails, once, and changes nothing. */
static void fail_after(void **state)
{
    (void)state;
    for (uint64_t n = 1; n <= 4; n++) {
        ledger.fail_after = n;
        for (uint64_t i = 1; i < n; i++)
            assert_ok(ledger_reserve(&ledger, 1, 0, 0));
        assert_refused(ledger_reserve(&ledger, 1, 1, 1), TD_OUT_OF_MEMORY, "refused for a test");
        assert_used(n - 1, 0, 0);
        assert_ok(ledger_reserve(&ledger, 1, 1, 1));
        ledger_release(&ledger, n, 1, 1);
    }
}

static void pool(void **state)
{
    struct ledger now;
    (void)state;
    assert_ok(ledger_reserve(&ledger, 500, 1, 0));
    ledger_pool(&ledger, 300);
    ledger_read(&ledger, &now);
    assert_int_equal(now.pool_bytes, 300);
    assert_int_equal(now.used.memory_bytes, 500);
    assert_refused(ledger_reserve(&ledger, 501, 0, 0), TD_OUT_OF_MEMORY, "500 of 1000");
    ledger_pool(&ledger, -300);
    ledger_read(&ledger, &now);
    assert_int_equal(now.pool_bytes, 0);
}

/* At most half of what the machine has, and not absurdly little. */
static void default_limit(void **state)
{
    unsigned long long total_kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    (void)state;
    assert_non_null(file);
    assert_int_equal(fscanf(file, "MemTotal: %llu kB", &total_kib), 1);
    fclose(file);
    uint64_t limit = ledger_default_limit();
    assert_true(limit >= 16 * MIB);
    assert_true(limit <= total_kib * 1024 / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(limits, open_ledger, close_ledger),
        cmocka_unit_test_setup_teardown(all_or_nothing, open_ledger, close_ledger),
        cmocka_unit_test_setup_teardown(overflow, open_ledger, close_ledger),
        cmocka_unit_test_setup_teardown(answers_when_it_is_full, open_ledger, close_ledger),
        cmocka_unit_test_setup_teardown(unlimited, open_ledger, close_ledger),
        cmocka_unit_test_setup_teardown(fail_after, open_ledger, close_ledger),
        cmocka_unit_test_setup_teardown(pool, open_ledger, close_ledger),
        cmocka_unit_test(default_limit),
    };
    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
