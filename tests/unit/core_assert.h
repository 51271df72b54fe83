/* What the tests of the engine's parts share. Include it before anything of cmocka's. */
#ifndef TESTS_UNIT_CORE_ASSERT_H
#define TESTS_UNIT_CORE_ASSERT_H

#include "core/device.h"
#include "core/fields.h"
#include "core/tensor.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

/* The status, and in the detail the part of it that matters ("" for none). */
static inline void assert_refused(enum td_status got, enum td_status want, const char *part)
{
    if (got != want)
        fail_msg("%s (%s), not %s", td_status_name((int)got), got == TD_OK ? "" : fail_detail(),
                 td_status_name((int)want));
    if (!strstr(fail_detail(), part))
        fail_msg("'%s' does not say '%s'", fail_detail(), part);
}

#define assert_ok(expression) assert_ok_((expression), #expression, __FILE__, __LINE__)
static inline void assert_ok_(enum td_status got, const char *what, const char *file, int line)
{
    if (got != TD_OK)
        fail_msg("%s:%d: %s: %s: %s", file, line, what, td_status_name((int)got), fail_detail());
}

static inline struct ledger_limits limits_of(uint64_t memory_bytes)
{
    return (struct ledger_limits){.memory_bytes = memory_bytes, .descriptors = 64, .names = 64};
}

static inline void assert_ledger_empty(struct ledger *ledger)
{
    struct ledger now;
    ledger_read(ledger, &now);
    assert_int_equal(now.used.memory_bytes, 0);
    assert_int_equal(now.used.descriptors, 0);
    assert_int_equal(now.used.names, 0);
    assert_int_equal(now.pool_bytes, 0);
}

static inline int open_descriptors(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

/* The cpu device over a ledger of its own. */
struct host {
    struct ledger ledger;
    struct device *cpu;
    int descriptors; /* open before */
};

static inline void host_open(struct host *host, uint64_t memory_bytes, uint64_t pool_bytes)
{
    struct ledger_limits limits = limits_of(memory_bytes);
    host->descriptors = open_descriptors();
    ledger_init(&host->ledger, &limits);
    struct device_options options = {.ledger = &host->ledger, .pool_bytes = pool_bytes};
    assert_ok(device_cpu_open(&options, &host->cpu));
}

/* Proves that nothing was left behind. */
static inline void host_close(struct host *host)
{
    device_cpu_close(host->cpu);
    assert_ledger_empty(&host->ledger);
    ledger_finish(&host->ledger);
    assert_int_equal(open_descriptors(), host->descriptors);
}

/* A uint8 tensor of `size` elements over a storage of its own. */
static inline struct tensor *bytes_tensor(struct device *device, int64_t size)
{
    struct storage *storage;
    struct tensor *tensor;
    struct layout layout;
    struct dims shape = {.rank = 1, .v = {size}};
    assert_ok(layout_contiguous(TD_UINT8, &shape, &layout));
    assert_ok(storage_create(device, NULL, (uint64_t)size, true, &storage));
    storage_finish(storage, STORAGE_MUTABLE);
    assert_ok(tensor_create(storage, &layout, &tensor));
    storage_unref(storage);
    return tensor;
}

#endif
