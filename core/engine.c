#include "core/engine.h"

#include "core/random_id.h"

/* Ids and revisions begin at another million each time, so that one a client kept from before a
 * restart is not taken for a new object or storage, or for what it has seen already. */
static enum td_status begin_ids(struct engine *engine)
{
    uint32_t random;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return fail(TD_INTERNAL, "the kernel gave no random bytes");
    uint64_t first = (1 + random % 999983) * UINT64_C(1000000);
    tensor_ids_begin(first);
    storage_ids_begin(first);
    store_revisions_begin(engine->store, first);
    return TD_OK;
}

static void who_holds(void *accounts, enum ledger_resource resource, char *out, size_t size)
{
    static const enum quota quotas[] = {
        [LEDGER_BYTES] = QUOTA_BYTES,
        [LEDGER_DESCRIPTORS] = QUOTA_DESCRIPTORS,
        [LEDGER_NAMES] = QUOTA_NAMES,
    };
    accounts_describe(accounts, quotas[resource], out, size);
}

static enum td_status engine_open(struct engine *engine, const struct engine_options *options)
{
    uint64_t quotas[QUOTA_COUNT];
    for (int i = 0; i < QUOTA_COUNT; i++)
        quotas[i] = options->quotas[i] ? options->quotas[i] : UINT64_MAX;
    engine->formats = options->formats;
    TRY(file_roots_open(options->load_dirs, "load-dir", &engine->load_roots));
    TRY(file_roots_open(options->save_dirs, "save-dir", &engine->save_roots));
    TRY(random_id(BOOT_ID_LENGTH, engine->boot));
    TRY(job_pool_create(options->job_threads, options->max_queued, &engine->jobs));
    struct device_options devices = {
        .ledger = &engine->ledger,
        .jobs = engine->jobs,
        .pool_bytes = options->pool_bytes,
    };
    TRY(devices_open(&devices, &engine->devices));
    TRY(accounts_create(quotas, &engine->accounts));
    engine->ledger.who = who_holds;
    engine->ledger.who_argument = engine->accounts;
    TRY(queue_table_create(&engine->ledger, options->max_queues, &engine->queues));
    TRY(store_create(&engine->ledger, &engine->store));
    TRY(begin_ids(engine));
    return session_table_create(&engine->ledger, &options->sessions, &engine->sessions);
}

enum td_status engine_create(const struct engine_options *options, struct engine **out)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return fail(TD_OUT_OF_MEMORY, "no memory for the engine");
    ledger_init(&engine->ledger, &options->ledger);
    engine->max_watches = options->max_watches;
    enum td_status status = engine_open(engine, options);
    if (status != TD_OK) {
        engine_destroy(engine);
        return status;
    }
    *out = engine;
    return TD_OK;
}

void engine_expire(struct engine *engine, uint64_t now_ms, size_t max_names)
{
    (void)store_expire(engine->store, now_ms, max_names);
    lease_expire(session_leases(engine->sessions), now_ms);
    queue_table_expire(engine->queues);
}

void engine_destroy(struct engine *engine)
{
    if (!engine)
        return;
    job_pool_destroy(engine->jobs);
    session_table_destroy(engine->sessions);
    queue_table_destroy(engine->queues);
    store_destroy(engine->store);
    devices_close(&engine->devices);
    accounts_destroy(engine->accounts);
    file_roots_close(engine->load_roots);
    file_roots_close(engine->save_roots);
    ledger_finish(&engine->ledger);
    free(engine);
}
