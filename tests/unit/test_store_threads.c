/* store, from many threads: every generation once, listings in order, nothing left. For the thread
 * sanitizer. */
#include "core/store.h"
#include "tests/unit/core_assert.h"

#include <pthread.h>
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

static void name_of(unsigned number, char *out, size_t size)
{
    snprintf(out, size, "%c/%u", 'a' + (char)(number % 2), number % NAMES);
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
        if (random >> 30 == 0)
            status = store_remove(store, text_of(name), &always);
        else if (random >> 30 == 1)
            status =
                store_rename(store, text_of(name), text_of(other), &always, &generations[self][i]);
        else
            status =
                store_publish(store, text_of(name), tensors[self], &always, &generations[self][i]);
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

static void publish_at_once(void **state)
{
    pthread_t threads[WRITERS], reader;
    int self[WRITERS];
    (void)state;
    host_open(&host, MIB, 0);
    assert_ok(store_create(&host.ledger, &store));
    for (int i = 0; i < WRITERS; i++) {
        self[i] = i;
        tensors[i] = bytes_tensor(host.cpu, i + 1);
    }
    assert_int_equal(pthread_create(&reader, NULL, lister, NULL), 0);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, writer, &self[i]), 0);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&done, true);
    pthread_join(reader, NULL);
    assert_int_equal(atomic_load(&errors), 0);
    assert_generations_unique();
    assert_int_equal(host.ledger.used.names, store_count(store));
    store_destroy(store);
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(atomic_load(&tensors[i]->refs), 1);
        tensor_unref(tensors[i]);
    }
    host_close(&host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(publish_at_once),
    };
    return cmocka_run_group_tests_name("store_threads", tests, NULL, NULL);
}
