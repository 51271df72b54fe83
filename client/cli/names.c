#include "client/cli/names.h"

#include <string.h>

/* One page. *count: the entries visited; cursor: where the next page begins, "" after the last. */
static enum td_status visit_page(struct td_reply *page, uint64_t max,
                                 enum td_status (*visit)(void *, const struct td_reply *),
                                 void *argument, uint64_t *count, char cursor[NAME_SIZE])
{
    const struct td_reply *entry;
    const char *next = "";
    for (size_t at = 0; *count < max && td_reply_next(page, &at, &entry); ++*count)
        TRY(visit(argument, entry));
    if (*count < max)
        (void)td_reply_text(page, "cursor", &next);
    if (*next && strcmp(next, cursor) <= 0) /* else this might never end */
        return fail(TD_PROTOCOL, "the daemon's list does not go on after '%s'", cursor);
    snprintf(cursor, NAME_SIZE, "%s", next);
    return TD_OK;
}

enum td_status entries_each(struct cli *cli, const char *op, const char *prefix, uint64_t max,
                            enum td_status (*visit)(void *argument, const struct td_reply *entry),
                            void *argument)
{
    char cursor[NAME_SIZE] = "";
    uint64_t count = 0;
    do {
        _cleanup_(td_reply_freep) struct td_reply *page = NULL;
        _cleanup_(td_args_freep) struct td_args *args = td_args_new();
        TRY(td_args_text(args, "prefix", prefix));
        if (*cursor)
            TRY(td_args_text(args, "cursor", cursor));
        TRY(cli_op(cli, op, args, NULL, &page));
        TRY(visit_page(page, max, visit, argument, &count, cursor));
    } while (*cursor);
    return TD_OK;
}

enum td_status names_each(struct cli *cli, const char *prefix, uint64_t max,
                          enum td_status (*visit)(void *argument, const struct td_reply *entry),
                          void *argument)
{
    return entries_each(cli, "list", prefix, max, visit, argument);
}

void name_list_finish(struct name_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->names[i]);
    free(list->names);
}

enum td_status name_list_add(void *argument, const struct td_reply *entry)
{
    struct name_list *list = argument;
    const char *name = "";
    (void)td_reply_text(entry, "name", &name);
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        char **grown = reallocarray(list->names, capacity, sizeof *grown);
        if (!grown)
            return fail(TD_OUT_OF_MEMORY, "no memory for %zu names", capacity);
        list->names = grown;
        list->capacity = capacity;
    }
    list->names[list->count] = strdup(name);
    if (!list->names[list->count])
        return fail(TD_OUT_OF_MEMORY, "no memory for a name");
    list->count++;
    return TD_OK;
}
