/* kept: what stays mapped from item to item of a queue. */
#include "client/internal.h"

#include <string.h>

#define KEPT_MAX 4096 /* segments, of each side of a queue: each is a mapping of the process */

static int64_t now_ms(void)
{
    return deadline_after(0);
}

static void kept_free(struct td_client *client, struct kept *kept)
{
    storage_put(client, kept->map);
    td_unmap(kept->mapping);
}

/* Moves the one at `i` to the front. The caller holds the lock. */
static void touch_locked(struct kept_list *list, size_t i)
{
    struct kept used = list->kept[i];
    used.used_ms = now_ms();
    memmove(&list->kept[1], &list->kept[0], i * sizeof used);
    list->kept[0] = used;
}

/* Something is kept from now on: not later than it is old kept_age looks. */
static void due_locked(struct td_client *client, int64_t used_ms)
{
    if (atomic_load(&client->kept_due_ms) > used_ms + KEPT_MS)
        atomic_store(&client->kept_due_ms, used_ms + KEPT_MS);
}

void kept_open(struct td_client *client, struct kept_list *list)
{
    pthread_mutex_lock(&client->lock);
    list->next = client->kept;
    list->at = &client->kept;
    if (list->next)
        list->next->at = &list->next;
    client->kept = list;
    pthread_mutex_unlock(&client->lock);
}

void kept_close(struct td_client *client, struct kept_list *list)
{
    pthread_mutex_lock(&client->lock);
    *list->at = list->next;
    if (list->next)
        list->next->at = list->at;
    pthread_mutex_unlock(&client->lock);
    kept_clear(client, list);
}

/* The caller holds the lock. */
static bool last_is_old_locked(const struct kept_list *list)
{
    return list->count && now_ms() - list->kept[list->count - 1].used_ms > KEPT_MS;
}

struct storage_map *kept_find(struct td_client *client, struct kept_list *list, uint64_t storage,
                              uint64_t session)
{
    struct storage_map *found = NULL;
    pthread_mutex_lock(&client->lock);
    for (size_t i = 0; i < list->count && !found; i++)
        if (list->kept[i].storage == storage && list->kept[i].session == session) {
            found = list->kept[i].map;
            found->refs++;
            touch_locked(list, i);
        }
    pthread_mutex_unlock(&client->lock);
    return found;
}

/* The caller holds the lock. */
static bool grow_locked(struct kept_list *list)
{
    if (list->count < list->room)
        return true;
    size_t room = list->room ? 2 * list->room : 16;
    struct kept *larger = room <= KEPT_MAX ? reallocarray(list->kept, room, sizeof *larger) : NULL;
    if (!larger)
        return false;
    list->kept = larger;
    list->room = room;
    return true;
}

void kept_add(struct td_client *client, struct kept_list *list, struct storage_map *map,
              struct td_mapping *mapping)
{
    struct kept fresh = {map->storage, map->session, map, mapping, 0}, gone = {0};
    pthread_mutex_lock(&client->lock);
    if (list->count && (last_is_old_locked(list) || !grow_locked(list)))
        gone = list->kept[--list->count];
    if (grow_locked(list)) {
        list->kept[list->count++] = fresh;
        touch_locked(list, list->count - 1);
        due_locked(client, list->kept[0].used_ms);
    } else {
        gone = fresh; /* no memory to note it in */
    }
    pthread_mutex_unlock(&client->lock);
    if (gone.map)
        kept_free(client, &gone);
}

struct td_mapping *kept_swap_spare(struct td_client *client, struct kept_list *list,
                                   struct td_mapping *spare)
{
    pthread_mutex_lock(&client->lock);
    struct td_mapping *before = list->spare;
    list->spare = spare;
    if (spare) {
        list->spare_ms = now_ms();
        due_locked(client, list->spare_ms);
    }
    pthread_mutex_unlock(&client->lock);
    return before;
}

/* Takes something out of the list that was used last before `until_ms`; false if there is none. The
 * caller holds the lock, and then frees it without. */
static bool take_locked(struct kept_list *list, int64_t until_ms, struct kept *out)
{
    *out = (struct kept){0};
    if (list->spare && list->spare_ms < until_ms)
        out->mapping = take(&list->spare);
    else if (list->count && list->kept[list->count - 1].used_ms < until_ms)
        *out = list->kept[--list->count];
    return out->map || out->mapping;
}

/* When something of it is old; INT64_MAX: nothing is there. The caller holds the lock. */
static int64_t due_of_locked(const struct kept_list *list)
{
    int64_t first = INT64_MAX - KEPT_MS;
    if (list->count)
        first = list->kept[list->count - 1].used_ms;
    if (list->spare && list->spare_ms < first)
        first = list->spare_ms;
    return first + KEPT_MS;
}

bool kept_age(struct td_client *client)
{
    int64_t due_ms = atomic_load_explicit(&client->kept_due_ms, memory_order_relaxed);
    if (due_ms == INT64_MAX)
        return false;
    int64_t now = now_ms();
    for (bool more = now > due_ms; more;) {
        struct kept gone = {0};
        due_ms = INT64_MAX;
        pthread_mutex_lock(&client->lock);
        more = false;
        for (struct kept_list *list = client->kept; list && !more; list = list->next) {
            more = take_locked(list, now - KEPT_MS, &gone);
            due_ms = due_of_locked(list) < due_ms ? due_of_locked(list) : due_ms;
        }
        if (!more)
            atomic_store(&client->kept_due_ms, due_ms);
        pthread_mutex_unlock(&client->lock);
        kept_free(client, &gone);
    }
    return due_ms != INT64_MAX;
}

void kept_clear(struct td_client *client, struct kept_list *list)
{
    struct kept gone;
    bool more = true;
    while (more) {
        pthread_mutex_lock(&client->lock);
        more = take_locked(list, INT64_MAX, &gone);
        if (!more) {
            free(list->kept);
            list->kept = NULL;
            list->room = 0;
        }
        pthread_mutex_unlock(&client->lock);
        kept_free(client, &gone);
    }
}
