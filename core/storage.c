#include "core/storage.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/stat.h>

static atomic_ullong last_id;

void storage_ids_begin(uint64_t first)
{
    atomic_store(&last_id, first);
}

/* The storages whose memfd is known outside, by inode, so that a descriptor which comes back is
 * known again. Entries are weak: a storage leaves the registry before it is freed. */
static struct storage *known;
static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;

/* Enters the storage, unless it is there; without memory for the table it is just not known again.
 */
static void known_add(struct storage *storage)
{
    struct storage *other = NULL;
    struct stat info;
    if (fstat(storage->memory.fd, &info) != 0)
        return;
    uint64_t inode = info.st_ino;
    pthread_mutex_lock(&known_lock);
    HASH_FIND(hh, known, &inode, sizeof inode, other);
    if (!other) {
        storage->inode = inode;
        HASH_ADD(hh, known, inode, sizeof inode, storage);
        if (!storage->hh.tbl)
            storage->inode = 0;
    }
    pthread_mutex_unlock(&known_lock);
}

static void known_remove(struct storage *storage)
{
    pthread_mutex_lock(&known_lock);
    if (storage->inode)
        HASH_DEL(known, storage);
    pthread_mutex_unlock(&known_lock);
}

/* A reference to the storage whose memfd this descriptor refers to, NULL if there is none: none was
 * known, or its last reference is already gone and it is about to leave the registry. */
static struct storage *known_find(int fd)
{
    struct storage *storage = NULL;
    struct stat info, known_info;
    if (fcntl(fd, F_GET_SEALS) < 0 || fstat(fd, &info) != 0)
        return NULL; /* no memfd: files elsewhere may have the same number */
    uint64_t inode = info.st_ino;
    pthread_mutex_lock(&known_lock);
    HASH_FIND(hh, known, &inode, sizeof inode, storage);
    if (storage &&
        (fstat(storage->memory.fd, &known_info) != 0 || known_info.st_dev != info.st_dev))
        storage = NULL;
    if (storage) {
        unsigned refs = atomic_load(&storage->refs);
        while (refs && !atomic_compare_exchange_weak(&storage->refs, &refs, refs + 1))
            ;
        if (!refs)
            storage = NULL;
    }
    pthread_mutex_unlock(&known_lock);
    return storage;
}

static enum td_status storage_new(struct device *device, struct storage **out)
{
    struct storage *storage = calloc(1, sizeof *storage);
    if (!storage)
        return fail(TD_OUT_OF_MEMORY, "no memory for a storage's head");
    atomic_init(&storage->refs, 1);
    storage->id = atomic_fetch_add(&last_id, 1) + 1;
    storage->device = device;
    atomic_init(&storage->mode, STORAGE_BUILDING);
    pthread_rwlock_init(&storage->lock, NULL);
    pthread_mutex_init(&storage->holders_lock, NULL);
    *out = storage;
    return TD_OK;
}

static void storage_delete(struct storage *storage)
{
    for (struct holder *holder = storage->holders.next, *next; holder; holder = next) {
        next = holder->next;
        free(holder);
    }
    pthread_mutex_destroy(&storage->holders_lock);
    pthread_rwlock_destroy(&storage->lock);
    free(storage);
}

/* ---- who pays ----------------------------------------------------------------------------------
 */

static enum td_status pay_begin(struct storage *storage, struct account *payer)
{
    uint64_t descriptors = storage->imported || storage->size_bytes >= MEMFD_MIN_BYTES;
    TRY(account_reserve(payer, QUOTA_BYTES, storage->size_bytes));
    enum td_status status = account_reserve(payer, QUOTA_DESCRIPTORS, descriptors);
    if (status != TD_OK) {
        account_release(payer, QUOTA_BYTES, storage->size_bytes);
        return status;
    }
    storage->descriptors = descriptors;
    storage->payer = account_ref(payer);
    return TD_OK;
}

static void pay_end(struct storage *storage)
{
    account_release(storage->payer, QUOTA_BYTES, storage->size_bytes);
    account_release(storage->payer, QUOTA_DESCRIPTORS, storage->descriptors);
    account_unref(take(&storage->payer));
}

/* One descriptor more, of small memory that is shared for the first time, or one less: whoever pays
 * for the storage pays for that as well. */
static enum td_status pay_descriptor(struct storage *storage)
{
    enum td_status status = TD_OK;
    pthread_mutex_lock(&storage->holders_lock);
    if (!storage->descriptors) {
        status = account_reserve(storage->payer, QUOTA_DESCRIPTORS, 1);
        storage->descriptors = status == TD_OK;
        for (struct holder *holder = &storage->holders; holder; holder = holder->next)
            if (storage->deleted && holder->count)
                account_force(holder->account, QUOTA_DESCRIPTORS, 1);
    }
    pthread_mutex_unlock(&storage->holders_lock);
    return status;
}

static void pay_no_descriptor(struct storage *storage)
{
    pthread_mutex_lock(&storage->holders_lock);
    storage->descriptors = 0;
    account_release(storage->payer, QUOTA_DESCRIPTORS, 1);
    for (struct holder *holder = &storage->holders; holder; holder = holder->next)
        if (storage->deleted && holder->count)
            account_release(holder->account, QUOTA_DESCRIPTORS, 1);
    pthread_mutex_unlock(&storage->holders_lock);
}

/* The memory comes first, so that the error of who finds no more of it tells what others hold, and
 * not what is asked for. */
static enum td_status allocate(struct storage *storage, struct account *payer, bool clear)
{
    struct device *device = storage->device;
    uint64_t size_bytes = storage->size_bytes;
    TRY(account_check(payer, QUOTA_BYTES, size_bytes));
    TRY(account_check(payer, QUOTA_DESCRIPTORS, size_bytes >= MEMFD_MIN_BYTES));
    TRY(device->ops->alloc(device, size_bytes, clear, &storage->memory));
    enum td_status status = pay_begin(storage, payer);
    if (status != TD_OK)
        device->ops->free(device, &storage->memory);
    return status;
}

enum td_status storage_create(struct device *device, struct account *payer, uint64_t size_bytes,
                              bool clear, struct storage **out)
{
    struct storage *storage = NULL;
    TRY(storage_new(device, &storage));
    storage->size_bytes = size_bytes;
    enum td_status status = allocate(storage, payer, clear);
    if (status != TD_OK) {
        storage_delete(storage);
        return status;
    }
    *out = storage;
    return TD_OK;
}

/* What the giver's seals allow: with FUTURE_WRITE only the giver, who mapped it before, writes. */
static enum storage_mode imported_mode(const struct memory *memory)
{
    int seals = fcntl(memory->fd, F_GET_SEALS);
    return seals & F_SEAL_WRITE          ? STORAGE_FROZEN
           : seals & F_SEAL_FUTURE_WRITE ? STORAGE_SINGLE_WRITER
                                         : STORAGE_MUTABLE;
}

enum td_status storage_import(struct device *device, struct account *payer, int given_fd,
                              struct storage **out)
{
    _cleanup_(closep) int fd = given_fd;
    struct storage *storage = NULL;
    if ((*out = known_find(fd)))
        return TD_OK;
    TRY(storage_new(device, &storage));
    int handed_over = fd;
    fd = -1;
    enum td_status status = device->ops->import(device, handed_over, &storage->memory);
    if (status != TD_OK) {
        storage_delete(storage);
        return status;
    }
    storage->size_bytes = storage->memory.capacity;
    storage->imported = true;
    status = pay_begin(storage, payer); /* its size was not known before */
    if (status != TD_OK) {
        storage_unref(storage);
        return status;
    }
    storage_finish(storage, imported_mode(&storage->memory));
    known_add(storage);
    *out = storage;
    return TD_OK;
}

struct storage *storage_ref(struct storage *storage)
{
    atomic_fetch_add_explicit(&storage->refs, 1, memory_order_relaxed);
    return storage;
}

void storage_unref(struct storage *storage)
{
    if (!storage || atomic_fetch_sub_explicit(&storage->refs, 1, memory_order_acq_rel) != 1)
        return;
    known_remove(storage);
    pay_end(storage);
    if (storage->freed)
        storage->freed(storage);
    storage->device->ops->free(storage->device, &storage->memory);
    storage_delete(storage);
}

void storage_finish(struct storage *storage, enum storage_mode mode)
{
    assert(storage_mode_of(storage) == STORAGE_BUILDING && mode != STORAGE_BUILDING);
    atomic_store(&storage->mode, mode);
}

enum storage_mode storage_mode_of(const struct storage *storage)
{
    return (enum storage_mode)atomic_load(&storage->mode);
}

const char *storage_mode_name(enum storage_mode mode)
{
    static const char *const names[] = {"building", "frozen", "single-writer", "mutable"};
    return names[mode];
}

static enum td_status share_check(const struct storage *storage, bool write)
{
    enum storage_mode mode = storage_mode_of(storage);
    if (mode == STORAGE_BUILDING)
        return fail(TD_CONFLICT, "the tensor is not published yet; only who fills it maps it");
    if (write && (mode != STORAGE_MUTABLE || storage->memory.read_only))
        return fail(TD_FROZEN,
                    "the tensor's memory is %s and cannot be mapped for writing; clone it, or "
                    "store it with mutable",
                    storage_mode_name(mode));
    return TD_OK;
}

/* With the storage's lock. */
static enum td_status share_locked(struct storage *storage, enum storage_mode mode, bool write,
                                   int *fd)
{
    bool promotes = storage->memory.fd < 0;
    if (promotes)
        TRY(pay_descriptor(storage));
    enum td_status status =
        storage->device->ops->share(storage->device, &storage->memory, mode, write, fd);
    if (promotes && storage->memory.fd < 0)
        pay_no_descriptor(storage);
    if (status == TD_OK && !storage->inode)
        known_add(storage);
    return status;
}

enum td_status storage_share(struct storage *storage, bool write, int *fd)
{
    TRY(share_check(storage, write));
    /* Once it is sealed nothing is left to be done, and no writer to be waited for. */
    if (atomic_load(&storage->memory.sealed))
        return storage->device->ops->share(storage->device, &storage->memory,
                                           storage_mode_of(storage), write, fd);
    pthread_rwlock_wrlock(&storage->lock);
    enum td_status status = share_check(storage, write); /* it may have been frozen meanwhile */
    if (status == TD_OK)
        status = share_locked(storage, storage_mode_of(storage), write, fd);
    pthread_rwlock_unlock(&storage->lock);
    return status;
}

/* `sealed` is set before a descriptor leaves, and read here without the lock. A descriptor for
 * reading counts as well: its holder can open the memfd again for writing, through /proc. */
bool storage_is_exposed(const struct storage *storage)
{
    switch (storage_mode_of(storage)) {
    case STORAGE_MUTABLE:
        return storage->imported || atomic_load(&storage->memory.sealed);
    case STORAGE_SINGLE_WRITER: /* the giver, or who has filled it */
        return storage->imported || storage->filled;
    default:
        return false;
    }
}

enum td_status storage_share_building(struct storage *storage, int *fd)
{
    enum td_status status;
    pthread_rwlock_wrlock(&storage->lock);
    if (storage_mode_of(storage) == STORAGE_BUILDING) {
        status = share_locked(storage, STORAGE_BUILDING, true, fd);
        storage->filled = storage->filled || status == TD_OK;
    } else { /* over another connection of the session */
        status = fail(TD_CONFLICT, "the tensor was published meanwhile; map it again");
    }
    pthread_rwlock_unlock(&storage->lock);
    return status;
}

static bool was_named(struct storage *storage)
{
    pthread_mutex_lock(&storage->holders_lock);
    bool was = storage->was_named;
    pthread_mutex_unlock(&storage->holders_lock);
    return was;
}

static enum td_status seal_locked(struct storage *storage, enum storage_mode mode)
{
    int fd;
    enum storage_mode now = storage_mode_of(storage);
    if (now == mode && storage->filled && !was_named(storage))
        return TD_OK;
    if (now != STORAGE_BUILDING)
        return fail(TD_CONFLICT,
                    "the tensor was published already, and is %s; as_tensor gives it "
                    "one more name",
                    storage_mode_name(now));
    TRY(share_locked(storage, mode, false, &fd));
    storage_finish(storage, mode);
    return TD_OK;
}

enum td_status storage_seal(struct storage *storage, enum storage_mode mode)
{
    pthread_rwlock_wrlock(&storage->lock);
    enum td_status status = seal_locked(storage, mode);
    pthread_rwlock_unlock(&storage->lock);
    return status;
}

bool storage_freeze_unseen(struct storage *storage)
{
    pthread_rwlock_wrlock(&storage->lock);
    int mutable = STORAGE_MUTABLE;
    bool unseen = !storage->imported && !storage->memory.exported;
    if (unseen)
        unseen = atomic_compare_exchange_strong(&storage->mode, &mutable, STORAGE_FROZEN);
    pthread_rwlock_unlock(&storage->lock);
    return unseen;
}

uint64_t storage_mapped_bytes(const struct storage *storage)
{
    return storage->memory.capacity;
}

enum td_status storage_write_begin(struct storage *storage)
{
    enum storage_mode mode = storage_mode_of(storage);
    if (mode == STORAGE_FROZEN || storage->memory.read_only)
        return fail(TD_FROZEN,
                    "the tensor's memory is %s: in-place operations cannot change it; clone it, "
                    "or store it with mutable",
                    storage_mode_name(mode));
    pthread_rwlock_wrlock(&storage->lock);
    if (storage_mode_of(storage) != STORAGE_FROZEN && !storage->memory.read_only)
        return TD_OK;
    pthread_rwlock_unlock(&storage->lock); /* it was frozen meanwhile */
    return fail(TD_FROZEN, "the tensor's memory was frozen: in-place operations cannot change it");
}

void storage_write_end(struct storage *storage)
{
    pthread_rwlock_unlock(&storage->lock);
    storage_touch(storage);
}

void storage_touch(struct storage *storage)
{
    atomic_fetch_add(&storage->epoch, 1);
}

/* ---- who has it --------------------------------------------------------------------------------
 */

static void holder_pays(const struct storage *storage, struct account *account, bool pay)
{
    if (pay) {
        account_hold_deleted(account, storage->size_bytes);
        account_force(account, QUOTA_DESCRIPTORS, storage->descriptors);
    } else {
        account_drop_deleted(account, storage->size_bytes);
        account_release(account, QUOTA_DESCRIPTORS, storage->descriptors);
    }
}

/* All holders pay for all of it, or no longer. */
static void holders_pay(struct storage *storage, bool pay)
{
    for (struct holder *holder = &storage->holders; holder; holder = holder->next)
        if (holder->count)
            holder_pays(storage, holder->account, pay);
    storage->deleted = pay;
}

void storage_name_begin(struct storage *storage, struct account *payer)
{
    pthread_mutex_lock(&storage->holders_lock);
    storage->named++;
    storage->was_named = true;
    if (storage->deleted) {
        holders_pay(storage, false);
        account_force(payer, QUOTA_BYTES, storage->size_bytes);
        account_force(payer, QUOTA_DESCRIPTORS, storage->descriptors);
        storage->payer = account_ref(payer);
    }
    pthread_mutex_unlock(&storage->holders_lock);
}

static bool is_held(const struct storage *storage)
{
    for (const struct holder *holder = &storage->holders; holder; holder = holder->next)
        if (holder->count)
            return true;
    return false;
}

void storage_name_end(struct storage *storage)
{
    pthread_mutex_lock(&storage->holders_lock);
    if (--storage->named == 0 && is_held(storage)) {
        pay_end(storage);
        holders_pay(storage, true);
    }
    pthread_mutex_unlock(&storage->holders_lock);
}

/* The account's, or a free one; NULL without memory. */
static struct holder *holder_find(struct storage *storage, const struct account *account)
{
    struct holder *unused = NULL, *last = NULL;
    for (struct holder *holder = &storage->holders; holder; holder = holder->next) {
        if (holder->count && holder->account == account)
            return holder;
        if (!holder->count && !unused)
            unused = holder;
        last = holder;
    }
    if (!unused)
        unused = last->next = calloc(1, sizeof *unused);
    return unused;
}

/* Without memory a holder is not counted: then it does not pay for what is deleted. */
void storage_hold_begin(struct storage *storage, struct account *account)
{
    if (!account)
        return;
    pthread_mutex_lock(&storage->holders_lock);
    if (storage->was_named && !storage->named && !storage->deleted) {
        /* Its last name went while a request, which now holds it, had it in hand. */
        pay_end(storage);
        storage->deleted = true;
    }
    struct holder *holder = holder_find(storage, account);
    if (holder && holder->count++ == 0) {
        holder->account = account_ref(account);
        if (storage->deleted)
            holder_pays(storage, account, true);
    }
    pthread_mutex_unlock(&storage->holders_lock);
}

void storage_hold_end(struct storage *storage, struct account *account)
{
    struct account *gone = NULL;
    if (!account)
        return;
    pthread_mutex_lock(&storage->holders_lock);
    for (struct holder *holder = &storage->holders; holder; holder = holder->next)
        if (holder->count && holder->account == account) {
            if (--holder->count == 0)
                gone = take(&holder->account);
            break;
        }
    if (gone && storage->deleted)
        holder_pays(storage, gone, false);
    pthread_mutex_unlock(&storage->holders_lock);
    account_unref(gone);
}

bool storage_is_deleted(struct storage *storage)
{
    pthread_mutex_lock(&storage->holders_lock);
    bool deleted = storage->deleted;
    pthread_mutex_unlock(&storage->holders_lock);
    return deleted;
}

void storage_writer_begin(struct storage *storage)
{
    pthread_mutex_lock(&storage->holders_lock);
    storage->writers++;
    pthread_mutex_unlock(&storage->holders_lock);
}

void storage_writer_end(struct storage *storage)
{
    pthread_mutex_lock(&storage->holders_lock);
    if (--storage->writers == 0)
        waiter_wake_all(&storage->waiting);
    pthread_mutex_unlock(&storage->holders_lock);
}

bool storage_writers_wait(struct storage *storage, struct waiter *waiter)
{
    pthread_mutex_lock(&storage->holders_lock);
    bool waits = storage->writers > 0;
    if (waits)
        waiter_add(&storage->waiting, waiter);
    pthread_mutex_unlock(&storage->holders_lock);
    return waits;
}

void storage_writers_forget(struct storage *storage, struct waiter *waiter)
{
    pthread_mutex_lock(&storage->holders_lock);
    waiter_remove(&storage->waiting, waiter);
    pthread_mutex_unlock(&storage->holders_lock);
}
