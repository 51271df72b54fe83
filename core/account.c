#include "core/account.h"

#include "core/cleanup.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define DESCRIBED 3 /* of those that hold most */

/* Few: one for each user that is connected or holds something. */
struct accounts {
    pthread_mutex_t lock;
    struct account *first;
    uint64_t limits[QUOTA_COUNT];
};

static const struct {
    const char *name, *option, *what;
} quotas[] = {
#define QUOTA_ROW(NAME, name, option, what) {name, option, what},
    QUOTAS(QUOTA_ROW)
#undef QUOTA_ROW
};

enum td_status accounts_create(const uint64_t limits[QUOTA_COUNT], struct accounts **out)
{
    struct accounts *accounts = calloc(1, sizeof *accounts);
    if (!accounts)
        return fail(TD_OUT_OF_MEMORY, "no memory for the accounts");
    memcpy(accounts->limits, limits, sizeof accounts->limits);
    pthread_mutex_init(&accounts->lock, NULL);
    *out = accounts;
    return TD_OK;
}

void accounts_destroy(struct accounts *accounts)
{
    if (!accounts)
        return;
    pthread_mutex_destroy(&accounts->lock);
    free(accounts);
}

static bool principals_equal(struct principal a, struct principal b)
{
    return a.kind == b.kind && (a.kind != PRINCIPAL_UID || a.uid == b.uid);
}

static struct account *account_new(struct accounts *accounts, struct principal principal)
{
    struct account *account = calloc(1, sizeof *account);
    if (!account)
        return NULL;
    atomic_init(&account->refs, 1);
    account->accounts = accounts;
    account->principal = principal;
    if (principal.kind == PRINCIPAL_UID)
        snprintf(account->name, sizeof account->name, "uid:%" PRIu32, principal.uid);
    else
        strcpy(account->name, principal.kind == PRINCIPAL_TCP ? "tcp" : "token");
    for (int i = 0; i < QUOTA_COUNT; i++)
        account->limits[i] = accounts->limits[i] / (account_is_trusted(account) ? 1 : 2);
    account->next = accounts->first;
    accounts->first = account;
    return account;
}

enum td_status account_open(struct accounts *accounts, struct principal principal,
                            struct account **out)
{
    pthread_mutex_lock(&accounts->lock);
    struct account *account = accounts->first;
    while (account && !principals_equal(account->principal, principal))
        account = account->next;
    if (account)
        account_ref(account);
    else
        account = account_new(accounts, principal);
    pthread_mutex_unlock(&accounts->lock);
    if (!account)
        return fail(TD_OUT_OF_MEMORY, "no memory for a principal's account");
    *out = account;
    return TD_OK;
}

struct account *account_ref(struct account *account)
{
    if (account)
        atomic_fetch_add_explicit(&account->refs, 1, memory_order_relaxed);
    return account;
}

void account_unref(struct account *account)
{
    if (!account)
        return;
    /* The last reference goes under the lock, so that nobody finds an account that is going. */
    unsigned refs = atomic_load(&account->refs);
    while (refs > 1)
        if (atomic_compare_exchange_weak(&account->refs, &refs, refs - 1))
            return;
    struct accounts *accounts = account->accounts;
    pthread_mutex_lock(&accounts->lock);
    bool last = atomic_fetch_sub(&account->refs, 1) == 1;
    if (last) {
        struct account **at = &accounts->first;
        while (*at != account)
            at = &(*at)->next;
        *at = account->next;
    }
    pthread_mutex_unlock(&accounts->lock);
    if (last)
        free(account);
}

static enum td_status refuse(struct account *account, enum quota quota, uint64_t amount,
                             unsigned long long used)
{
    bool of_memory = quota == QUOTA_BYTES;
    uint64_t deleted = of_memory ? atomic_load(&account->deleted_bytes) : 0;
    uint64_t queued = of_memory ? atomic_load(&account->used[QUOTA_QUEUE_BYTES]) : 0;
    char also[128] = "";
    if (deleted)
        snprintf(also, sizeof also, ", %" PRIu64 " of them deleted but still held", deleted);
    if (queued)
        snprintf(also + strlen(also), sizeof also - strlen(also),
                 ", and has items of %" PRIu64 " in queues", queued);
    return fail(TD_OUT_OF_MEMORY,
                "%s holds %llu of the %" PRIu64 " %s that it may%s; %" PRIu64
                " more do not fit: release or delete some, or raise %s",
                account->name, used, account->limits[quota], quotas[quota].what, also, amount,
                quotas[quota].option);
}

static bool fits(const struct account *account, enum quota quota, uint64_t amount,
                 unsigned long long used)
{
    uint64_t limit = account->limits[quota];
    return amount <= limit && used <= limit - amount;
}

enum td_status account_check(struct account *account, enum quota quota, uint64_t amount)
{
    if (!account || !amount)
        return TD_OK;
    unsigned long long used = atomic_load(&account->used[quota]);
    return fits(account, quota, amount, used) ? TD_OK : refuse(account, quota, amount, used);
}

enum td_status account_reserve(struct account *account, enum quota quota, uint64_t amount)
{
    if (!account || !amount)
        return TD_OK;
    unsigned long long used = atomic_load_explicit(&account->used[quota], memory_order_relaxed);
    do {
        if (!fits(account, quota, amount, used))
            return refuse(account, quota, amount, used);
    } while (!atomic_compare_exchange_weak(&account->used[quota], &used, used + amount));
    return TD_OK;
}

void account_force(struct account *account, enum quota quota, uint64_t amount)
{
    if (account)
        atomic_fetch_add(&account->used[quota], amount);
}

void account_release(struct account *account, enum quota quota, uint64_t amount)
{
    if (account)
        atomic_fetch_sub(&account->used[quota], amount);
}

void account_hold_deleted(struct account *account, uint64_t bytes)
{
    account_force(account, QUOTA_BYTES, bytes);
    if (account)
        atomic_fetch_add(&account->deleted_bytes, bytes);
}

void account_drop_deleted(struct account *account, uint64_t bytes)
{
    account_release(account, QUOTA_BYTES, bytes);
    if (account)
        atomic_fetch_sub(&account->deleted_bytes, bytes);
}

const char *quota_name(enum quota quota)
{
    return quotas[quota].name;
}

size_t accounts_list(struct accounts *accounts, size_t max, struct account **out)
{
    size_t count = 0;
    pthread_mutex_lock(&accounts->lock);
    for (struct account *a = accounts->first; a && count < max; a = a->next)
        out[count++] = account_ref(a);
    pthread_mutex_unlock(&accounts->lock);
    return count;
}

void accounts_describe(struct accounts *accounts, enum quota quota, char *out, size_t size)
{
    struct {
        char name[24];
        uint64_t used;
    } most[DESCRIBED + 1] = {0};
    pthread_mutex_lock(&accounts->lock);
    for (const struct account *a = accounts->first; a; a = a->next) {
        uint64_t used = atomic_load(&a->used[quota]);
        int place = DESCRIBED;
        for (; place > 0 && used > most[place - 1].used; place--)
            most[place] = most[place - 1];
        if (place < DESCRIBED) {
            most[place].used = used;
            strcpy(most[place].name, a->name);
        }
    }
    pthread_mutex_unlock(&accounts->lock);
    size_t length = 0;
    out[0] = '\0';
    for (int i = 0; i < DESCRIBED && most[i].used && length < size; i++)
        length += (size_t)snprintf(out + length, size - length, "%s%s %" PRIu64, i ? ", " : "",
                                   most[i].name, most[i].used);
}
