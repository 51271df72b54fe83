/* waiter: lists of those who wait. */
#include "core/waiter.h"
#include "tests/unit/core_assert.h"

#define WAITERS 4

static struct waiter_list list;
static struct waiter waiters[WAITERS];
static int order[16], woken;

static void note(struct waiter *waiter)
{
    order[woken++] = (int)(waiter - waiters);
}

static int begin(void **state)
{
    (void)state;
    memset(&list, 0, sizeof list);
    memset(waiters, 0, sizeof waiters);
    for (int i = 0; i < WAITERS; i++)
        waiters[i].wake = note;
    woken = 0;
    return 0;
}

static void assert_order(int count, const int *wanted)
{
    assert_int_equal(woken, count);
    for (int i = 0; i < count; i++)
        assert_int_equal(order[i], wanted[i]);
}
#define ORDER(...)                                                                                 \
    (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)), (int[])                                     \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static void first_come_first_woken(void **state)
{
    (void)state;
    assert_false(waiter_wake_one(&list));
    for (int i = 0; i < WAITERS; i++)
        waiter_add(&list, &waiters[i]);
    assert_true(waiter_wake_one(&list));
    assert_true(waiters[0].woken);
    assert_false(waiter_waits(&waiters[0]));
    assert_true(waiter_waits(&waiters[1]));
    waiter_wake_all(&list);
    assert_order(ORDER(0, 1, 2, 3));
    assert_false(waiter_wake_one(&list));
}

static void who_leaves_is_not_woken(void **state)
{
    (void)state;
    for (int last = 0; last < 3; last++) { /* the first, one between, the last */
        begin(NULL);
        for (int i = 0; i < 3; i++)
            waiter_add(&list, &waiters[i]);
        waiter_remove(&list, &waiters[last]);
        waiter_remove(&list, &waiters[last]);
        assert_false(waiters[last].woken);
        waiter_add(&list, &waiters[3]);
        waiter_wake_all(&list);
        assert_int_equal(woken, 3);
        assert_int_equal(order[2], 3);
        for (int i = 0; i < woken; i++)
            assert_int_not_equal(order[i], last);
    }
}

static void who_was_woken_goes_to_the_front(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        waiter_add_again(&list, &waiters[i]);
    assert_true(waiter_wake_one(&list));
    waiter_add_again(&list, &waiters[0]); /* another one was faster */
    assert_false(waiters[0].woken);
    waiter_add_again(&list, &waiters[3]);
    waiter_remove(&list, &waiters[1]);
    waiter_wake_all(&list);
    assert_order(ORDER(0, 0, 2, 3));
    waiter_add_again(&list, &waiters[2]); /* into an empty list */
    waiter_add(&list, &waiters[1]);
    waiter_wake_all(&list);
    assert_order(ORDER(0, 0, 2, 3, 2, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(first_come_first_woken, begin),
        cmocka_unit_test_setup(who_leaves_is_not_woken, begin),
        cmocka_unit_test_setup(who_was_woken_goes_to_the_front, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
