/* listing: tensors as a tree or as a table, on a terminal. */
#ifndef CLI_LISTING_H
#define CLI_LISTING_H

#include "client/cli/output.h"

enum { LISTING_COLUMNS = 7 }; /* name, dtype, shape, size, device, mode, grad */

/* A tensor's cells; texts live as long as the cells and the info do. */
struct listing_cells {
    char shape[SHAPE_TEXT_SIZE], size[32];
    const char *cells[LISTING_COLUMNS];
};
/* exact: sizes in bytes. */
void listing_cells(const struct td_info *info, bool exact, struct listing_cells *out);

/* A table with a row for each tensor, in byte order of the names. */
struct table listing_table(void);
/* The same tensors as a tree: names that begin alike, up to a / or a . , below one another. */
NODISCARD enum td_status listing_tree(const struct table *listing, struct table *out);

#endif
