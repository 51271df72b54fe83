/* libtensord against a mock daemon: queues, items that lie about themselves, sessions that are
 * lost, and answers that come when nobody waits any more. */
#include "tests/unit/mock_queue.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static bool was_released(const char *object)
{
    pthread_mutex_lock(&mock.lock);
    bool released = strcmp(mock.last_release_input, object) == 0;
    pthread_mutex_unlock(&mock.lock);
    return released;
}

static bool segment_was_released(void)
{
    return was_released("@30");
}

static bool next_was_released(void)
{
    return was_released("@31");
}

/* ---- what goes well -------------------------------------------------------------------------- */

static void an_item_tells_what_it_is(void **state)
{
    (void)state;
    struct td_item *item = pop();
    assert_int_equal(td_item_id(item), 5);
    assert_int_equal(td_item_deliveries(item), 2);
    assert_string_equal(td_item_meta(item), "said with it");
    assert_int_equal(td_item_count(item), 2);
    assert_string_equal(td_item_key(item, 1), "b");
    assert_int_equal(td_item_info(item, 1)->id, ITEM_OBJECT + 1);
    td_item_free(item);
    wait_for(item_was_released);
    assert_int_equal(atomic_load(&acks), 0);
}

static void a_mapping_keeps_the_item_that_is_done_with(void **state)
{
    (void)state;
    struct td_item *item = pop();
    struct td_mapping *first, *second, *private;
    assert_int_equal(td_item_map(item, 0, 0, &first), TD_OK);
    assert_int_equal(td_item_map(item, 1, 0, &second), TD_OK);
    assert_int_equal(atomic_load(&maps), 1); /* the same storage */
    assert_int_equal(td_item_map(item, 0, TD_MAP_PRIVATE, &private), TD_OK);
    assert_int_equal(td_item_map(item, 0, TD_MAP_WRITE, &private), TD_INVALID);
    assert_memory_equal(td_mapping_data(first), "bytes", 5);
    assert_false(td_mapping_writable(first));
    *(char *)td_mapping_data(private) = 'B';
    td_item_done(item);
    wait_for(one_was_acknowledged);
    td_unmap(private);
    td_unmap(second);
    assert_false(item_was_released());
    assert_memory_equal(td_mapping_data(first), "bytes", 5);
    td_unmap(first);
    wait_for(item_was_released);
    /* Once more, right before that: what was said first may have gone another way, and be late. */
    assert_int_equal(atomic_load(&acks), 2);
    item = pop(); /* what stays mapped serves the next one */
    assert_int_equal(td_item_map(item, 0, 0, &first), TD_OK);
    assert_int_equal(atomic_load(&maps), 2);
    td_unmap(first);
    td_item_done(item);
}

static void memory_is_mapped_once_and_given_away(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct td_mapping *segment = allocate();
        assert_true(td_mapping_writable(segment));
        memcpy(td_mapping_data(segment), "filled", 6);
        struct td_push_tensor tensor = {.key = "a", .mapping = segment};
        assert_int_equal(td_push(queue, 1, &tensor, "meta", 1000), TD_OK);
        assert_false(td_mapping_writable(segment));
        td_unmap(segment);
    }
    assert_false(segment_was_released()); /* it is not the producer's any more */
    struct td_mapping *segment = allocate();
    td_unmap(segment);
    wait_for(segment_was_released);
}

/* ---- replies that lie ------------------------------------------------------------------------ */

static void an_item_that_cannot_be(void **state)
{
    (void)state;
    static const struct {
        enum lie lie;
        const char *text;
        bool released;
    } cases[] = {
        {NO_LEASE, "without tensors or lease", false},
        {NO_COUNT, "without tensors or lease", true},
        {MANY_TENSORS, "without tensors or lease", true},
        {FEWER_ENTRIES, "an item of 2 tensors with 1", true},
        {BROKEN_ENTRY, "", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct td_item *item = NULL;
        atomic_store(&mock.last_released, 0);
        atomic_store(&lie, (int)cases[i].lie);
        assert_int_not_equal(td_pop(queue, 1000, &item), TD_OK);
        assert_null(item);
        assert_non_null(strstr(td_last_error(), cases[i].text));
        if (cases[i].released)
            wait_for(item_was_released);
        assert_int_equal(atomic_load(&acks), 0);
    }
}

static void a_mapping_that_cannot_be(void **state)
{
    (void)state;
    const enum lie lies[] = {NO_DESCRIPTOR, ABSURD_SIZE, ABSURD_OFFSET};
    const int64_t shape = ELEMENTS;
    struct td_mapping *mapping = NULL;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        atomic_store(&lie, HONEST);
        struct td_item *item = pop();
        atomic_store(&lie, (int)lies[i]);
        atomic_store(&asks, 0);
        assert_int_equal(td_item_map(item, 0, 0, &mapping), TD_PROTOCOL);
        assert_int_equal(td_item_map(item, 0, TD_MAP_PRIVATE, &mapping), TD_PROTOCOL);
        td_item_free(item);
        assert_int_equal(td_queue_allocate(queue, TD_UINT8, 1, &shape, 1000, &mapping),
                         TD_PROTOCOL);
        assert_null(mapping);
    }
    atomic_store(&lie, HONEST);
    struct td_item *item = pop();
    atomic_store(&lie, OTHER_STORAGE);
    assert_int_equal(td_item_map(item, 0, 0, &mapping), TD_PROTOCOL);
    assert_int_equal(td_item_map(item, 0, TD_MAP_PRIVATE, &mapping), TD_PROTOCOL);
    assert_null(mapping);
    td_item_free(item);
    atomic_store(&lie, ABSURD_OFFSET);
    assert_int_equal(td_pop(queue, 1000, &(struct td_item *){NULL}), TD_PROTOCOL);
    atomic_store(&lie, HONEST); /* and nothing of it stays */
    atomic_store(&asks, 0);
    td_unmap(allocate());
}

static void arguments_that_cannot_be(void **state)
{
    (void)state;
    struct td_push_tensor tensors[65] = {{.name = "a"}};
    assert_int_equal(td_push(queue, 0, tensors, NULL, 0), TD_INVALID);
    assert_int_equal(td_push(queue, 65, tensors, NULL, 0), TD_INVALID);
    assert_int_equal(td_push(queue, 2, tensors, NULL, 0), TD_INVALID); /* neither nor */
    tensors[0].key = "a=b";
    assert_int_equal(td_push(queue, 1, tensors, NULL, 0), TD_INVALID);
    assert_int_equal(td_queue_open(client, NULL, NULL, &queue), TD_INVALID);
    struct td_client *other;
    assert_int_equal(td_connect(mock.url, NULL, &other), TD_OK);
    struct td_queue *others;
    assert_int_equal(td_queue_open(other, "q", NULL, &others), TD_OK);
    struct td_mapping *segment = allocate();
    struct td_push_tensor tensor = {.mapping = segment};
    assert_int_equal(td_push(others, 1, &tensor, NULL, 0), TD_INVALID);
    assert_non_null(strstr(td_last_error(), "with this client"));
    td_unmap(segment);
    td_queue_free(others);
    td_close(other);
}

/* ---- connections and sessions that are lost ------------------------------------------------- */

static void a_connection_that_is_lost(void **state)
{
    (void)state;
    struct td_item *item = NULL;
    struct td_mapping *segment = allocate();
    struct td_push_tensor tensor = {.mapping = segment};
    atomic_store(&lie, CLOSES);
    assert_int_equal(td_pop(queue, 1000, &item), TD_CONNECTION);
    assert_null(item);
    assert_int_equal(td_push(queue, 1, &tensor, NULL, 1000), TD_CONNECTION);
    assert_non_null(strstr(td_last_error(), "may or may not"));
    assert_false(td_mapping_writable(segment)); /* it may be the item's by now */
    atomic_store(&lie, HONEST);
    assert_int_equal(td_push(queue, 1, &tensor, NULL, 1000), TD_OK);
    td_unmap(segment);
    td_item_free(pop());
}

/* Numbers of before may be others' by now: nobody is asked about them. */
static void a_session_that_is_lost(void **state)
{
    (void)state;
    struct td_item *item = pop(), *mapped = pop();
    struct td_mapping *segment = allocate(), *shown, *none = NULL;
    assert_int_equal(td_item_map(mapped, 0, 0, &shown), TD_OK);
    td_queue_free(queue); /* nothing stays mapped */
    assert_int_equal(td_queue_open(client, "q", NULL, &queue), TD_OK);
    td_unmap(shown);
    atomic_store(&mock.forget, true);
    mock_drop_connections(&mock);
    struct td_push_tensor tensor = {.mapping = segment};
    int seen = atomic_load(&maps);
    atomic_store(&mock.last_released, 0);
    (void)td_item_ack(item); /* finds that out */
    assert_int_equal(td_item_ack(item), TD_CONNECTION);
    assert_non_null(strstr(td_last_error(), "is gone"));
    assert_int_equal(td_item_map(item, 0, 0, &none), TD_CONNECTION);
    assert_int_equal(td_item_map(item, 0, TD_MAP_PRIVATE, &none), TD_CONNECTION);
    assert_int_equal(td_push(queue, 1, &tensor, NULL, 1000), TD_CONNECTION);
    assert_int_equal(td_session_count(client), 2);
    td_item_done(item);
    td_item_free(mapped);
    td_unmap(segment);
    assert_int_equal(td_op(client, "ping", NULL, NULL, 0, NULL), TD_OK);
    assert_int_equal(atomic_load(&acks), 0);
    assert_int_equal(atomic_load(&maps), seen);
    assert_int_equal(atomic_load(&mock.last_released), 0);
    item = pop();
    assert_int_equal(td_item_ack(item), TD_OK);
    td_item_free(item);
}

/* ---- fork, close ----------------------------------------------------------------------------- */

/* Pushes one, whose reply brings the memory of the next. */
static void push_and_get_another(void)
{
    struct td_mapping *segment = allocate();
    struct td_push_tensor tensor = {.mapping = segment};
    atomic_store(&lie, OFFERS);
    assert_int_equal(td_push(queue, 1, &tensor, NULL, 1000), TD_OK);
    td_unmap(segment);
}

/* What comes without a question to the daemon is the parent's all the same. */
static void nothing_is_to_be_had_in_a_child(void **state)
{
    (void)state;
    const int64_t shape = ELEMENTS;
    struct td_item *item = pop();
    struct td_mapping *shown, *mapping = NULL;
    assert_int_equal(td_item_map(item, 0, 0, &shown), TD_OK);
    push_and_get_another();
    pid_t pid = fork();
    if (pid == 0) {
        int failed = td_item_map(item, 1, 0, &mapping) != TD_CONNECTION;
        failed |= (td_queue_allocate(queue, TD_UINT8, 1, &shape, 0, &mapping) != TD_CONNECTION) * 2;
        failed |= !strstr(td_last_error(), "before fork()") * 4;
        _exit(failed);
    }
    int ended = -1;
    assert_int_equal(waitpid(pid, &ended, 0), pid);
    assert_int_equal(ended, 0);
    int asked = atomic_load(&asks);
    mapping = allocate(); /* here it is there, without a question */
    assert_int_equal(atomic_load(&asks), asked);
    td_unmap(mapping);
    td_unmap(shown);
    td_item_done(item);
}

static void ended(int signal_number)
{
    _exit(signal_number);
}

/* What it wrote after the parent's push would be in an item that others have read. */
static void a_child_does_not_fill_what_the_parent_pushes(void **state)
{
    (void)state;
    char seen[4] = {0};
    struct td_mapping *segment = allocate();
    char *data = td_mapping_data(segment);
    memcpy(data, "old", 3);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, ended);
        if (td_mapping_writable(segment) || memcmp(data, "old", 3) != 0)
            _exit(1);
        *(volatile char *)data = 'c';
        _exit(2);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), SIGSEGV);
    assert_true(td_mapping_writable(segment));
    memcpy(data, "new", 3); /* here nothing has changed */
    assert_int_equal(pread(memory, seen, 3, 0), 3);
    assert_string_equal(seen, "new");
    td_unmap(segment);
}

static void no_memory_of_a_client_that_is_closed(void **state)
{
    (void)state;
    const int64_t shape = ELEMENTS;
    struct td_mapping *segment = NULL;
    push_and_get_another();
    td_close(client);
    assert_int_equal(td_queue_allocate(queue, TD_UINT8, 1, &shape, 0, &segment), TD_CONNECTION);
    assert_null(segment);
    client = NULL;
}

/* ---- what stays mapped ----------------------------------------------------------------------- */

static void ten_seconds_pass(void)
{
    pthread_mutex_lock(&client->lock);
    for (struct kept_list *list = client->kept; list; list = list->next) {
        list->spare_ms -= KEPT_MS + 1;
        for (size_t i = 0; i < list->count; i++)
            list->kept[i].used_ms -= KEPT_MS + 1;
    }
    client->kept_due_ms -= client->kept_due_ms == INT64_MAX ? 0 : KEPT_MS + 1;
    pthread_mutex_unlock(&client->lock);
}

static bool first_map_was_released(void)
{
    return atomic_load(&mock.last_released) == 901;
}

/* Who does not pop any more, but goes on calling, must not hold the memory of a producer that has
 * ended. */
static void any_call_lets_go_of_what_is_old(void **state)
{
    (void)state;
    struct td_item *item = pop();
    struct td_mapping *shown;
    assert_int_equal(td_item_map(item, 0, 0, &shown), TD_OK);
    td_unmap(shown);
    td_item_done(item);
    wait_for(item_was_released);
    assert_int_equal(td_op(client, "ping", NULL, NULL, 0, NULL), TD_OK);
    assert_true(item_was_released()); /* the item, and nothing since */
    ten_seconds_pass();
    assert_int_equal(td_op(client, "ping", NULL, NULL, 0, NULL), TD_OK);
    wait_for(first_map_was_released);
    assert_int_equal(client->kept_due_ms, INT64_MAX);
    item = pop(); /* mapped again, and kept */
    assert_int_equal(td_item_map(item, 0, 0, &shown), TD_OK);
    assert_int_equal(atomic_load(&maps), 2);
    assert_true(client->kept_due_ms < INT64_MAX);
    td_unmap(shown);
    td_item_done(item);
}

static void what_a_producer_fills_next_is_let_go_of_too(void **state)
{
    (void)state;
    push_and_get_another();
    assert_int_equal(td_op(client, "ping", NULL, NULL, 0, NULL), TD_OK);
    assert_false(next_was_released());
    ten_seconds_pass();
    assert_int_equal(td_op(client, "ping", NULL, NULL, 0, NULL), TD_OK);
    wait_for(next_was_released);
    td_unmap(allocate());
}

/* ---- giving up ------------------------------------------------------------------------------- */

/* The daemon hands the item out in the moment in which the call is interrupted. */
static void an_item_that_comes_too_late_is_given_back(void **state)
{
    (void)state;
    struct td_item *item = NULL;
    atomic_store(&lie, LATE);
    assert_int_equal(td_pop(queue, 4000, &item), TD_CANCELLED);
    assert_non_null(strstr(td_last_error(), "interrupted"));
    assert_null(item);
    wait_for(item_was_released);
    assert_int_equal(atomic_load(&acks), 0);
    assert_int_equal(td_session_count(client), 1); /* another connection has kept it */
    atomic_store(&lie, HONEST);
    td_item_done(pop());
}

/* Or nobody could fill it before the session ends. */
static void memory_that_comes_too_late_is_given_back(void **state)
{
    (void)state;
    const int64_t shape = ELEMENTS;
    struct td_mapping *segment = NULL;
    atomic_store(&lie, LATE);
    assert_int_equal(td_queue_allocate(queue, TD_UINT8, 1, &shape, 4000, &segment), TD_CANCELLED);
    assert_null(segment);
    wait_for(segment_was_released);
    atomic_store(&lie, HONEST);
    atomic_store(&asks, 0);
    segment = allocate();
    struct td_push_tensor tensor = {.mapping = segment};
    atomic_store(&lie, LATE);
    assert_int_equal(td_push(queue, 1, &tensor, NULL, 4000), TD_CANCELLED);
    wait_for(next_was_released);
    td_unmap(segment);
}

static void memory_without_a_descriptor_to_spare_is_given_back(void **state)
{
    (void)state;
    const int64_t shape = ELEMENTS;
    struct td_mapping *segment = NULL;
    struct rlimit limit, before;
    int next = dup(memory);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit = (struct rlimit){(rlim_t)next, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    enum td_status status = td_queue_allocate(queue, TD_UINT8, 1, &shape, 1000, &segment);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(status, TD_OUT_OF_MEMORY);
    assert_non_null(strstr(td_last_error(), "RLIMIT_NOFILE"));
    wait_for(segment_was_released);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, start, stop)
    const struct CMUnitTest tests[] = {
        CASE(an_item_tells_what_it_is),
        CASE(a_mapping_keeps_the_item_that_is_done_with),
        CASE(memory_is_mapped_once_and_given_away),
        CASE(an_item_that_cannot_be),
        CASE(a_mapping_that_cannot_be),
        CASE(arguments_that_cannot_be),
        CASE(a_connection_that_is_lost),
        CASE(a_session_that_is_lost),
        CASE(nothing_is_to_be_had_in_a_child),
        CASE(a_child_does_not_fill_what_the_parent_pushes),
        CASE(no_memory_of_a_client_that_is_closed),
        CASE(any_call_lets_go_of_what_is_old),
        CASE(what_a_producer_fills_next_is_let_go_of_too),
        CASE(an_item_that_comes_too_late_is_given_back),
        CASE(memory_that_comes_too_late_is_given_back),
        CASE(memory_without_a_descriptor_to_spare_is_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
