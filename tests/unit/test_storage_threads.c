/* storage, from many threads: sharing, writing and reading one that moves, and one descriptor that
 * comes back while its storage goes. For the thread sanitizer. */
#include "core/storage.h"
#include "tests/unit/core_assert.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

#define THREADS 4
#define ROUNDS 200
#define IMPORTS 5000
#define WRITES 500

static struct host host;

static int open_host(void **state)
{
    (void)state;
    host_open(&host, 16 * MIB, 4 * MIB);
    return 0;
}

static int close_host(void **state)
{
    (void)state;
    host_close(&host);
    return 0;
}

static void run_threads(void *(*body)(void *), void *argument)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, body, argument), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static atomic_int errors, turn;

/* All share one small storage, which moves into a memfd once, and look at it meanwhile. */
static void *share_and_look(void *argument)
{
    struct storage *storage = argument;
    int fd = -1;
    const unsigned char *before = storage->memory.data;
    uint64_t mapped = storage_mapped_bytes(storage);
    bool exposed = storage_is_exposed(storage);
    if (storage_share(storage, true, &fd) != TD_OK || fd != storage->memory.fd)
        atomic_fetch_add(&errors, 1);
    const unsigned char *after = storage->memory.data;
    if (before[99] != 0x33 || after[99] != 0x33 || storage_mapped_bytes(storage) < mapped)
        atomic_fetch_add(&errors, 1);
    if (!storage_is_exposed(storage)) /* from the first descriptor on, whoever has it */
        atomic_fetch_add(&errors, 1);
    if (exposed && storage->memory.fd < 0)
        atomic_fetch_add(&errors, 1);
    return NULL;
}

static void share_at_once(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        struct storage *storage;
        assert_ok(storage_create(host.cpu, NULL, 100, true, &storage));
        memset(storage->memory.data, 0x33, 100);
        storage_finish(storage, STORAGE_MUTABLE);
        run_threads(share_and_look, storage);
        storage_unref(storage);
    }
    assert_int_equal(atomic_load(&errors), 0);
}

/* Each adds to one number; one of them shares in between. No write may get lost in the old bytes.
 */
static void *count_and_share(void *argument)
{
    struct storage *storage = argument;
    int mine = atomic_fetch_add(&turn, 1), fd;
    for (int i = 0; i < WRITES; i++) {
        if (mine == 0 && i == WRITES / 2 && storage_share(storage, false, &fd) != TD_OK)
            atomic_fetch_add(&errors, 1);
        if (storage_write_begin(storage) != TD_OK)
            atomic_fetch_add(&errors, 1);
        ++*(uint64_t *)(void *)storage->memory.data;
        storage_write_end(storage);
    }
    return NULL;
}

static void no_write_is_lost(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        struct storage *storage;
        assert_ok(storage_create(host.cpu, NULL, 64, true, &storage));
        storage_finish(storage, STORAGE_MUTABLE);
        atomic_store(&turn, 0);
        run_threads(count_and_share, storage);
        assert_int_equal(*(uint64_t *)(void *)storage->memory.data, THREADS * WRITES);
        assert_int_equal(atomic_load(&storage->epoch), THREADS * WRITES);
        storage_unref(storage);
    }
    assert_int_equal(atomic_load(&errors), 0);
}

/* The same descriptor over and over: found again while another thread lets the last reference go,
 * or made anew, but never a storage that is being freed. */
static void *import_and_let_go(void *argument)
{
    int fd = *(int *)argument;
    for (int i = 0; i < IMPORTS; i++) {
        struct storage *storage;
        if (storage_import(host.cpu, NULL, dup(fd), &storage) != TD_OK) {
            atomic_fetch_add(&errors, 1);
            continue;
        }
        if (storage->size_bytes != 64 * KIB || *(unsigned char *)storage->memory.data != 0x11)
            atomic_fetch_add(&errors, 1);
        storage_unref(storage);
    }
    return NULL;
}

static void import_at_once(void **state)
{
    (void)state;
    int fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, 64 * KIB), 0);
    assert_int_equal(fallocate(fd, 0, 0, 64 * KIB), 0);
    assert_int_equal(pwrite(fd, "\x11", 1, 0), 1);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    run_threads(import_and_let_go, &fd);
    close(fd);
    assert_int_equal(atomic_load(&errors), 0);
}

/* Memory that goes round through the pool never arrives with the bytes of another. */
static void *recycle(void *argument)
{
    (void)argument;
    for (int i = 0; i < ROUNDS; i++) {
        struct storage *storage;
        if (storage_create(host.cpu, NULL, 64 * KIB, true, &storage) != TD_OK) {
            atomic_fetch_add(&errors, 1);
            continue;
        }
        unsigned char *data = storage->memory.data;
        if (data[0] || data[64 * KIB - 1])
            atomic_fetch_add(&errors, 1);
        memset(data, 0xAB, 64 * KIB);
        storage_unref(storage);
    }
    return NULL;
}

static void recycle_at_once(void **state)
{
    (void)state;
    run_threads(recycle, NULL);
    assert_int_equal(atomic_load(&errors), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_host, close_host)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(share_at_once),
        TEST(no_write_is_lost),
        TEST(import_at_once),
        TEST(recycle_at_once),
    };
    return cmocka_run_group_tests_name("storage_threads", tests, NULL, NULL);
}
