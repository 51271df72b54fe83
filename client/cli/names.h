/* names: the daemon's names, page by page. */
#ifndef CLI_NAMES_H
#define CLI_NAMES_H

#include "client/cli/cli.h"

/* Calls visit with the description of every tensor whose name begins with prefix, in byte order, at
 * most `max` of them, and stops at the first error. Names that come and go meanwhile may be missed.
 */
NODISCARD enum td_status
names_each(struct cli *cli, const char *prefix, uint64_t max,
           enum td_status (*visit)(void *argument, const struct td_reply *entry), void *argument);
/* The same with another operation that lists page by page: queues. */
NODISCARD enum td_status
entries_each(struct cli *cli, const char *op, const char *prefix, uint64_t max,
             enum td_status (*visit)(void *argument, const struct td_reply *entry), void *argument);
/* A list of names of one's own. */
struct name_list {
    size_t count, capacity;
    char **names;
};
void name_list_finish(struct name_list *list);
/* Adds the name of an entry: a visit of names_each. */
NODISCARD enum td_status name_list_add(void *list, const struct td_reply *entry);

#endif
