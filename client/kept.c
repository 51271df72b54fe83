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
    } else {
        gone = fresh; /* no memory to note it in */
    }
    pthread_mutex_unlock(&client->lock);
    if (gone.map)
        kept_free(client, &gone);
}

/* Lets go of the last ones, of all or of the old. */
static bool let_go(struct td_client *client, struct kept_list *list, bool all)
{
    for (;;) {
        struct kept gone = {0};
        pthread_mutex_lock(&client->lock);
        if (all ? list->count > 0 : last_is_old_locked(list))
            gone = list->kept[--list->count];
        bool left = list->count > 0;
        pthread_mutex_unlock(&client->lock);
        if (!gone.map)
            return left;
        kept_free(client, &gone);
    }
}

bool kept_age(struct td_client *client, struct kept_list *list)
{
    return let_go(client, list, false);
}

void kept_clear(struct td_client *client, struct kept_list *list)
{
    (void)let_go(client, list, true);
    pthread_mutex_lock(&client->lock);
    if (!list->count) {
        free(list->kept);
        list->kept = NULL;
        list->room = 0;
    }
    pthread_mutex_unlock(&client->lock);
}
