/* output: tables, colours, and JSON on standard output. */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include "client/cli/cli.h"
#include "core/fields.h"

#include <cjson/cJSON.h>

enum style { STYLE_PLAIN, STYLE_BOLD, STYLE_DIM, STYLE_GREEN, STYLE_YELLOW, STYLE_RED, STYLE_BLUE };

/* The escape sequences around what is to have that style; "" where there are no colours. */
const char *style_begin(const struct cli *cli, enum style style);
const char *style_end(const struct cli *cli, enum style style);

/* ---- tables -------------------------------------------------------------------------------- */

#define TABLE_COLUMNS_MAX 9

/* Rows of cells, printed so that the columns stand below one another. */
struct table {
    int columns;
    enum style styles[TABLE_COLUMNS_MAX];
    bool right[TABLE_COLUMNS_MAX]; /* numbers */
    size_t count, capacity;        /* of cells */
    char **cells;
};

void table_finish(struct table *table);
/* Adds a row. Texts are copied; NULL is an empty cell. OUT_OF_MEMORY. */
NODISCARD enum td_status table_row(struct table *table, const char *const *cells);
void table_print(const struct cli *cli, const struct table *table);

/* Columns that a text takes on a terminal: its characters, of whatever script. */
size_t text_width(const char *text);

/* ---- fields of replies --------------------------------------------------------------------- */

/* A reply's field as a person reads it. OUT_OF_MEMORY. The caller frees *out. */
NODISCARD enum td_status reply_field_text(const struct td_reply *reply, const char *field,
                                          char **out);
/* A table of the reply's fields, the name first. */
NODISCARD enum td_status reply_print(const struct cli *cli, const struct td_reply *reply);

/* ---- JSON ---------------------------------------------------------------------------------- */

CLEANUP_DEFINE(cJSON *, cJSON_Delete)

/* The reply's fields as an object, numbers exactly. NULL without memory. */
cJSON *json_of_reply(const struct td_reply *reply);
/* Prints the tree on a line of its own, or in an array (see below), and ends it. A tree of NULL,
 * and what does not print, is OUT_OF_MEMORY. */
NODISCARD enum td_status json_print(cJSON *tree);
NODISCARD enum td_status json_print_reply(const struct td_reply *reply);

/* One document of any number of items, each printed as it comes:
 *     struct json_list list = {0};
 *     TRY(json_list_item(&list, tree)) ...
 *     json_list_end(&list); */
struct json_list {
    bool begun;
};
NODISCARD enum td_status json_list_item(struct json_list *list, cJSON *tree);
void json_list_end(const struct json_list *list);

#endif
