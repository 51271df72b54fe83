/* store: names with and without a time to live, at random, against a plain model of them. */
#include "core/store.h"
#include "tests/unit/core_assert.h"

#define ROUNDS 20000

static struct host host;
static struct store *store;
static struct tensor *one;
static uint64_t now;

static const struct store_condition always;
static const struct store_watch all = {.prefix = {"", 0}};

static uint64_t read_clock(void)
{
    return now;
}

#define MODEL_NAMES 10

static struct model {
    bool there;
    uint64_t generation, expires_ms;
} model[MODEL_NAMES];

static uint64_t random_state = 0x9e3779b97f4a7c15;

static unsigned below(unsigned n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 20) % n);
}

static struct text model_name(unsigned i)
{
    static char names[MODEL_NAMES][4];
    snprintf(names[i], sizeof names[i], "n%u", i);
    return text_of(names[i]);
}

/* One random change of both; the outcome must be the same. */
static void change_both(void)
{
    unsigned name = below(MODEL_NAMES), other = below(MODEL_NAMES);
    uint64_t ttl_ms = below(3) ? 1 + below(12) : 0, generation = 0;
    uint64_t expires_ms = ttl_ms ? now + ttl_ms : 0;
    struct store_condition condition = {.create_only = below(4) == 0};
    struct model *m = &model[name];
    struct tensor *tensor;
    enum td_status wanted = m->there ? TD_OK : TD_NOT_FOUND, got;
    switch (below(6)) {
    case 0:
        got = store_remove(store, model_name(name), &always);
        m->there = false;
        break;
    case 1:
        got = store_set_ttl(store, model_name(name), ttl_ms, &tensor, &generation);
        if (got == TD_OK)
            tensor_unref(tensor);
        m->expires_ms = expires_ms;
        break;
    case 2:
        if (m->there && condition.create_only && model[other].there)
            wanted = TD_EXISTS;
        got = store_rename(store, model_name(name), model_name(other), &condition, &generation);
        if (wanted == TD_OK) {
            expires_ms = m->expires_ms;
            m->there = false;
            model[other] = (struct model){true, generation, expires_ms};
        }
        break;
    default:
        wanted = condition.create_only && m->there ? TD_EXISTS : TD_OK;
        got =
            store_publish_for(store, model_name(name), one, &condition, ttl_ms, NULL, &generation);
        if (wanted == TD_OK)
            *m = (struct model){true, generation, expires_ms};
    }
    assert_int_equal(got, wanted);
}

static void assert_as_modelled(void)
{
    struct store_entry entries[MODEL_NAMES + 1];
    size_t count = store_list(store, text_of(""), text_of(""), COUNT(entries), entries), at = 0;
    for (unsigned i = 0; i < MODEL_NAMES; i++) {
        if (!model[i].there)
            continue;
        assert_true(at < count);
        assert_true(text_equal(model_name(i), entries[at].name));
        assert_int_equal(entries[at].generation, model[i].generation);
        assert_int_equal(entries[at++].ttl_ms, model[i].expires_ms ? model[i].expires_ms - now : 0);
    }
    assert_int_equal(at, count);
    for (size_t i = 0; i < count; i++)
        tensor_unref(entries[i].tensor);
}

/* What the events say of each name is what the store holds. */
static void assert_events_as_modelled(uint64_t *since, bool seen[MODEL_NAMES])
{
    struct store_event events[64];
    bool lost;
    size_t count = store_events(store, &all, since, &lost, COUNT(events), events);
    assert_false(lost);
    for (size_t i = 0; i < count; i++) {
        bool *there = &seen[events[i].name[1] - '0'], comes = events[i].kind == STORE_PUBLISHED;
        if (!comes)
            assert_true(*there);
        *there = comes;
    }
    for (unsigned i = 0; i < MODEL_NAMES; i++)
        assert_int_equal(seen[i], model[i].there);
}

static void assert_names_charged(uint64_t wanted)
{
    struct ledger ledger;
    ledger_read(&host.ledger, &ledger);
    assert_int_equal(ledger.used.names, wanted);
}

static void as_a_model_does(void **state)
{
    uint64_t since = 0;
    bool seen[MODEL_NAMES] = {false};
    (void)state;
    host_open(&host, MIB, 0);
    assert_ok(store_create(&host.ledger, &store));
    store_set_clock(store, read_clock);
    one = bytes_tensor(host.cpu, 1);
    for (int round = 0; round < ROUNDS; round++) {
        now += below(3);
        for (unsigned i = 0; i < MODEL_NAMES; i++)
            if (model[i].there && model[i].expires_ms && model[i].expires_ms <= now)
                model[i].there = false;
        if (below(4) == 0)
            (void)store_expire(store, now, below(4));
        change_both();
        if (below(4) == 0) {
            assert_as_modelled();
            assert_events_as_modelled(&since, seen);
            assert_names_charged(store_count(store));
        }
    }
    store_destroy(store);
    assert_int_equal(atomic_load(&one->refs), 1);
    tensor_unref(one);
    host_close(&host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_a_model_does)};
    return cmocka_run_group_tests_name("store_model", tests, NULL, NULL);
}
