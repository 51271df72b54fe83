#include "core/ledger.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

void ledger_init(struct ledger *ledger, const struct ledger_limits *limits)
{
    memset(ledger, 0, sizeof *ledger);
    ledger->limits = *limits;
    pthread_mutex_init(&ledger->lock, NULL);
}

void ledger_finish(struct ledger *ledger)
{
    pthread_mutex_destroy(&ledger->lock);
}

/* Whether it fits; if not, what of. */
static bool fits(const struct ledger *ledger, const uint64_t wanted[3], uint64_t over_bytes,
                 enum ledger_resource *what)
{
    const struct ledger_limits *limits = &ledger->limits, *used = &ledger->used;
    const uint64_t in_use[3] = {used->memory_bytes, used->descriptors, used->names};
    uint64_t room = UINT64_MAX - limits->memory_bytes;
    const uint64_t most[3] = {limits->memory_bytes + (over_bytes < room ? over_bytes : room),
                              limits->descriptors, limits->names};
    for (int i = 0; i < 3; i++) {
        *what = (enum ledger_resource)i;
        if (wanted[i] && (wanted[i] > most[i] || in_use[i] > most[i] - wanted[i]))
            return false;
    }
    return true;
}

static enum td_status refuse(struct ledger *ledger, const uint64_t wanted[3],
                             enum ledger_resource what)
{
    char holders[96] = "", by[128] = "";
    struct ledger now;
    ledger_read(ledger, &now);
    if (ledger->who)
        ledger->who(ledger->who_argument, what, holders, sizeof holders);
    if (holders[0])
        snprintf(by, sizeof by, " (most by %s)", holders);
    switch (what) {
    case LEDGER_BYTES:
        return fail(TD_OUT_OF_MEMORY,
                    "%" PRIu64 " bytes do not fit: %" PRIu64 " of %" PRIu64
                    " bytes are in use%s; delete tensors, or raise --memory-limit",
                    wanted[what], now.used.memory_bytes, now.limits.memory_bytes, by);
    case LEDGER_DESCRIPTORS:
        return fail(TD_OUT_OF_MEMORY,
                    "%" PRIu64 " of %" PRIu64
                    " memory descriptors are in use%s; delete tensors, or raise --max-descriptors",
                    now.used.descriptors, now.limits.descriptors, by);
    case LEDGER_NAMES:
        break;
    }
    return fail(TD_OUT_OF_MEMORY,
                "%" PRIu64 " of %" PRIu64 " names are in use%s; delete some, or raise --max-names",
                now.used.names, now.limits.names, by);
}

/* Whether the reservation would fit without the pool. */
static bool reclaim_helps(const struct ledger *ledger, uint64_t bytes, uint64_t names)
{
    const struct ledger_limits *limits = &ledger->limits;
    uint64_t needed = ledger->used.memory_bytes - ledger->pool_bytes;
    return ledger->reclaim && ledger->pool_bytes > 0 && bytes <= limits->memory_bytes &&
           needed <= limits->memory_bytes - bytes && ledger->used.names + names <= limits->names;
}

/* over_bytes: of memory, above the limit. */
static enum td_status reserve(struct ledger *ledger, uint64_t bytes, uint64_t descriptors,
                              uint64_t names, uint64_t over_bytes)
{
    const uint64_t wanted[3] = {bytes, descriptors, names};
    enum ledger_resource what;
    for (;;) {
        pthread_mutex_lock(&ledger->lock);
        bool refused_for_a_test = ledger->fail_after && --ledger->fail_after == 0;
        bool good = !refused_for_a_test && fits(ledger, wanted, over_bytes, &what);
        if (good) {
            ledger->used.memory_bytes += bytes;
            ledger->used.descriptors += descriptors;
            ledger->used.names += names;
            if (ledger->used.memory_bytes > ledger->peak_bytes)
                ledger->peak_bytes = ledger->used.memory_bytes;
        }
        bool again = !good && reclaim_helps(ledger, bytes, names);
        if (!good && !again)
            ledger->refused++;
        pthread_mutex_unlock(&ledger->lock);
        if (good)
            return TD_OK;
        if (again && ledger->reclaim(ledger->reclaim_argument))
            continue;
        if (refused_for_a_test)
            return fail(TD_OUT_OF_MEMORY,
                        "a reservation of %" PRIu64 " bytes was refused for a test", bytes);
        return refuse(ledger, wanted, what);
    }
}

enum td_status ledger_reserve(struct ledger *ledger, uint64_t bytes, uint64_t descriptors,
                              uint64_t names)
{
    return reserve(ledger, bytes, descriptors, names, 0);
}

enum td_status ledger_reserve_over(struct ledger *ledger, uint64_t bytes, uint64_t over_bytes)
{
    return reserve(ledger, bytes, 0, 0, over_bytes);
}

void ledger_release(struct ledger *ledger, uint64_t bytes, uint64_t descriptors, uint64_t names)
{
    pthread_mutex_lock(&ledger->lock);
    ledger->used.memory_bytes -= bytes;
    ledger->used.descriptors -= descriptors;
    ledger->used.names -= names;
    pthread_mutex_unlock(&ledger->lock);
}

void ledger_pool(struct ledger *ledger, int64_t bytes)
{
    pthread_mutex_lock(&ledger->lock);
    ledger->pool_bytes += (uint64_t)bytes;
    pthread_mutex_unlock(&ledger->lock);
}

void ledger_read(struct ledger *ledger, struct ledger *out)
{
    pthread_mutex_lock(&ledger->lock);
    memcpy(out, ledger, sizeof *out);
    pthread_mutex_unlock(&ledger->lock);
}

/* The first number in a file like /sys/fs/cgroup/memory.max; UINT64_MAX for "max" or no file. */
static uint64_t file_number(const char *path)
{
    unsigned long long value = 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return UINT64_MAX;
    int found = fscanf(file, "%llu", &value);
    fclose(file);
    return found == 1 ? value : UINT64_MAX;
}

static uint64_t memory_available(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file)
        return 512 * MIB;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    fclose(file);
    return kib ? kib * 1024 : 512 * MIB;
}

/* The least memory.max of this process's cgroup (version 2) and those it is in. */
static uint64_t cgroup_limit(void)
{
    char line[PATH_MAX] = "", path[PATH_MAX + 64];
    uint64_t least = file_number("/sys/fs/cgroup/memory/memory.limit_in_bytes"); /* version 1 */
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return least;
    while (fgets(line, sizeof line, file) && strncmp(line, "0::", 3) != 0)
        line[0] = '\0';
    fclose(file);
    line[strcspn(line, "\n")] = '\0';
    for (char *group = line + (line[0] ? 3 : 0);;) {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group);
        uint64_t limit = file_number(path);
        if (limit < least)
            least = limit;
        char *parent = strrchr(group, '/');
        if (!parent)
            return least;
        *parent = '\0';
    }
}

uint64_t ledger_default_limit(void)
{
    uint64_t limit = memory_available() / 2;
    uint64_t cgroup = cgroup_limit();
    uint64_t leaves = cgroup > 576 * MIB ? cgroup - 512 * MIB : 64 * MIB;
    return leaves < limit ? leaves : limit;
}
