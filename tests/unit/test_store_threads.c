/* store, from many threads, while time passes and names expire: every generation once, listings in
 * order, nothing left; and watches, which see every event once and in order, and come and go
 * meanwhile. For the thread sanitizer. */
#include "core/store.h"
#include "tests/unit/core_assert.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

#define WRITERS 3
#define NAMES 8
#define ROUNDS 1500

static struct host host;
static struct store *store;
static struct tensor *tensors[WRITERS];
static atomic_int errors;
static atomic_bool done;

static uint64_t generations[WRITERS][ROUNDS];

/* The time, which passes while writers run. */
static atomic_ullong now;
static atomic_bool time_stands;

static uint64_t read_clock(void)
{
    return atomic_load(&now);
}

static size_t expired; /* by store_expire */

static void *pass_time(void *argument)
{
    (void)argument;
    while (!atomic_load(&time_stands)) {
        expired += store_expire(store, atomic_fetch_add(&now, 1) + 1, 2);
        sched_yield();
    }
    return NULL;
}

static void name_of(unsigned number, char *out, size_t size)
{
    snprintf(out, size, "%c/%u", 'a' + (char)(number % 2), number % NAMES);
}

static enum td_status set_ttl(struct text name, uint64_t ttl_ms)
{
    struct tensor *tensor;
    uint64_t generation;
    TRY(store_set_ttl(store, name, ttl_ms, &tensor, &generation));
    tensor_unref(tensor);
    return TD_OK;
}

/* Publishes, renames and removes the same few names as the others. */
static void *writer(void *argument)
{
    static const struct store_condition always;
    int self = *(int *)argument;
    unsigned random = (unsigned)self + 1;
    char name[16], other[16];
    for (int i = 0; i < ROUNDS; i++) {
        random = random * 1664525 + 1013904223;
        name_of(random >> 8, name, sizeof name);
        name_of(random >> 16, other, sizeof other);
        enum td_status status;
        uint64_t ttl_ms = random >> 4 & 3;
        atomic_fetch_add(&now, i % 8 == 0);
        generations[self][i] = 0;
        if (random >> 29 == 0)
            status = set_ttl(text_of(name), ttl_ms);
        else if (random >> 30 == 0)
            status = store_remove(store, text_of(name), &always);
        else if (random >> 30 == 1)
            status =
                store_rename(store, text_of(name), text_of(other), &always, &generations[self][i]);
        else
            status = store_publish_for(store, text_of(name), tensors[self], &always, ttl_ms, NULL,
                                       &generations[self][i]);
        if (status != TD_OK && status != TD_NOT_FOUND)
            atomic_fetch_add(&errors, 1);
        if (status != TD_OK)
            generations[self][i] = 0;
    }
    return NULL;
}

/* Pages through the names two at a time: always in byte order, whatever comes and goes. */
static void *lister(void *argument)
{
    (void)argument;
    while (!atomic_load(&done)) {
        struct store_entry page[2];
        char cursor[NAME_MAX_BYTES + 1] = "";
        size_t found;
        while ((found = store_list(store, text_of(""), text_of(cursor), 2, page)) > 0) {
            for (size_t i = 0; i < found; i++) {
                if (strcmp(page[i].name, cursor) <= 0 || page[i].tensor->layout.elements < 1)
                    atomic_fetch_add(&errors, 1);
                memcpy(cursor, page[i].name, sizeof cursor);
                tensor_unref(page[i].tensor);
            }
        }
    }
    return NULL;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void assert_generations_unique(void)
{
    uint64_t *all = &generations[0][0];
    for (int self = 0; self < WRITERS; self++) {
        uint64_t last = 0;
        for (int i = 0; i < ROUNDS; i++) {
            assert_true(!generations[self][i] || generations[self][i] > last);
            last = generations[self][i] ? generations[self][i] : last;
        }
    }
    qsort(all, WRITERS * ROUNDS, sizeof *all, compare);
    for (int i = 1; i < WRITERS * ROUNDS; i++)
        if (all[i] && all[i] == all[i - 1])
            fail_msg("generation %llu was given twice", (unsigned long long)all[i]);
}

static int open_store(void **state)
{
    (void)state;
    host_open(&host, MIB, 0);
    assert_ok(store_create(&host.ledger, &store));
    store_set_clock(store, read_clock);
    for (int i = 0; i < WRITERS; i++)
        tensors[i] = bytes_tensor(host.cpu, i + 1);
    atomic_store(&done, false);
    return 0;
}

static int close_store(void **state)
{
    (void)state;
    store_destroy(store);
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(atomic_load(&tensors[i]->refs), 1);
        tensor_unref(tensors[i]);
    }
    host_close(&host);
    assert_int_equal(atomic_load(&errors), 0);
    return 0;
}

/* All writers, each from its beginning to its end. Nothing is due afterwards. */
static void run_writers(void)
{
    pthread_t threads[WRITERS], clock;
    int self[WRITERS];
    atomic_store(&time_stands, false);
    assert_int_equal(pthread_create(&clock, NULL, pass_time, NULL), 0);
    for (int i = 0; i < WRITERS; i++) {
        self[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, writer, &self[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&time_stands, true);
    pthread_join(clock, NULL);
    expired += store_expire(store, read_clock(), SIZE_MAX);
}

static void publish_at_once(void **state)
{
    pthread_t reader;
    (void)state;
    assert_int_equal(pthread_create(&reader, NULL, lister, NULL), 0);
    run_writers();
    atomic_store(&done, true);
    pthread_join(reader, NULL);
    assert_generations_unique();
    assert_int_equal(host.ledger.used.names, store_count(store));
}

/* -- watches -- */

/* One that reads events whenever it is woken, and keeps what they say of each name. */
struct watcher {
    struct store_watch watch;
    sem_t woken;
    uint64_t since, lost, missing; /* revisions that did not come though nothing was lost */
    uint64_t generations[NAMES];   /* of each name, by its number; 0: removed */
};

static void wake_watcher(struct store_watch *watch)
{
    sem_post(&((struct watcher *)(void *)watch)->woken);
}

/* Takes in what is new; false if there was nothing. */
static bool read_events(struct watcher *watcher, uint64_t *last)
{
    struct store_event events[7];
    bool lost;
    size_t count = store_events(store, &watcher->watch, &watcher->since, &lost, 7, events);
    watcher->lost += lost;
    for (size_t i = 0; i < count; i++) {
        if (events[i].revision <= *last || events[i].revision > watcher->since)
            atomic_fetch_add(&errors, 1);
        watcher->missing += lost ? 0 : events[i].revision - *last - 1;
        *last = events[i].revision;
        uint64_t *generation = &watcher->generations[atoi(events[i].name + 2) % NAMES];
        bool removed = events[i].kind == STORE_REMOVED;
        if (removed && *generation == 0 && !watcher->lost)
            atomic_fetch_add(&errors, 1); /* it was not there */
        *generation = removed ? 0 : events[i].revision;
    }
    return count > 0;
}

static void *watch_events(void *argument)
{
    struct watcher *watcher = argument;
    uint64_t last = 0;
    store_watch_add(store, &watcher->watch);
    while (!atomic_load(&done)) {
        while (read_events(watcher, &last))
            ;
        sem_wait(&watcher->woken); /* the test posts once more when the writers are done */
    }
    while (read_events(watcher, &last))
        ;
    store_watch_remove(store, &watcher->watch);
    return NULL;
}

/* What the events told is what the store holds. */
static void assert_replayed(const struct watcher *watcher)
{
    uint64_t held[NAMES] = {0};
    struct store_entry entries[NAMES];
    size_t count = store_list(store, text_of(""), text_of(""), NAMES, entries);
    for (size_t i = 0; i < count; i++) {
        size_t prefix = watcher->watch.prefix.length;
        bool mine = strncmp(entries[i].name, watcher->watch.prefix.data, prefix) == 0 &&
                    (!watcher->watch.exact || entries[i].name[prefix] == '\0');
        if (mine)
            held[atoi(entries[i].name + 2)] = entries[i].generation;
        tensor_unref(entries[i].tensor);
    }
    for (int i = 0; i < NAMES; i++)
        if (watcher->generations[i] != held[i] && (held[i] || !watcher->lost))
            fail_msg("name %d of '%s': generation %llu, not %llu", i, watcher->watch.prefix.data,
                     (unsigned long long)watcher->generations[i], (unsigned long long)held[i]);
    assert_int_equal(watcher->since, store_revision(store));
}

static void every_event_once(void **state)
{
    static struct watcher watchers[] = {
        {.watch = {.prefix = {"", 0}, .wake = wake_watcher}},
        {.watch = {.prefix = {"a/", 2}, .wake = wake_watcher}},
        {.watch = {.prefix = {"b/3", 3}, .exact = true, .wake = wake_watcher}},
    };
    pthread_t threads[COUNT(watchers)];
    (void)state;
    for (size_t i = 0; i < COUNT(watchers); i++) {
        sem_init(&watchers[i].woken, 0, 0);
        assert_int_equal(pthread_create(&threads[i], NULL, watch_events, &watchers[i]), 0);
    }
    run_writers();
    atomic_store(&done, true);
    for (size_t i = 0; i < COUNT(watchers); i++)
        sem_post(&watchers[i].woken);
    for (size_t i = 0; i < COUNT(watchers); i++) {
        pthread_join(threads[i], NULL);
        sem_destroy(&watchers[i].woken);
        assert_replayed(&watchers[i]);
    }
    assert_int_equal(watchers[0].missing, 0); /* the others' names are some of all */
}

/* Adds watches and removes them while they may be called, and frees each at once: a late call would
 * be seen by the sanitizers. */
static void *come_and_go(void *argument)
{
    static const struct {
        struct text prefix;
        bool exact;
    } kinds[] = {{{"", 0}, false}, {{"a/", 2}, false}, {{"b/3", 3}, true}};
    atomic_ullong *wakes = argument;
    for (unsigned i = 0; !atomic_load(&done); i++) {
        struct watcher *held[3];
        for (size_t k = 0; k < COUNT(held); k++) {
            held[k] = calloc(1, sizeof *held[k]);
            sem_init(&held[k]->woken, 0, 0);
            held[k]->watch = (struct store_watch){
                .prefix = kinds[k].prefix, .exact = kinds[k].exact, .wake = wake_watcher};
            store_watch_add(store, &held[k]->watch);
        }
        sched_yield();
        for (size_t k = 0; k < COUNT(held); k++) {
            struct watcher *gone = held[(i + k) % COUNT(held)];
            int woken, later;
            store_watch_remove(store, &gone->watch);
            sem_getvalue(&gone->woken, &woken);
            if (k == 0)
                sched_yield();
            sem_getvalue(&gone->woken, &later);
            atomic_fetch_add(&errors, later != woken);
            atomic_fetch_add(wakes, (unsigned)woken);
            sem_destroy(&gone->woken);
            free(gone);
        }
    }
    return NULL;
}

static void watches_come_and_go(void **state)
{
    pthread_t threads[2];
    atomic_ullong wakes = 0;
    (void)state;
    for (size_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &wakes), 0);
    for (int i = 0; i < 100 && (i == 0 || atomic_load(&wakes) == 0); i++)
        run_writers(); /* until they have met */
    atomic_store(&done, true);
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    assert_true(atomic_load(&wakes) > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_store, close_store)

static int check_expired(void **state)
{
    (void)state;
    return expired == 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(publish_at_once),
        TEST(every_event_once),
        TEST(watches_come_and_go),
    };
    return cmocka_run_group_tests_name("store_threads", tests, NULL, check_expired);
}
