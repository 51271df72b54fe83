#include "client/cli/output.h"
#include "client/cli/sizes.h"
#include "core/utf8.h"
#include "proto/format/number.h"

#include <inttypes.h>
#include <string.h>

/* ---- colours ------------------------------------------------------------------------------- */

const char *style_begin(const struct cli *cli, enum style style)
{
    static const char *const escapes[] = {
        [STYLE_PLAIN] = "",         [STYLE_BOLD] = "\033[1m",    [STYLE_DIM] = "\033[2m",
        [STYLE_GREEN] = "\033[32m", [STYLE_YELLOW] = "\033[33m", [STYLE_RED] = "\033[31m",
        [STYLE_BLUE] = "\033[34m",
    };
    return cli->color ? escapes[style] : "";
}

const char *style_end(const struct cli *cli, enum style style)
{
    return cli->color && style != STYLE_PLAIN ? "\033[0m" : "";
}

/* ---- tables -------------------------------------------------------------------------------- */

size_t text_width(const char *text)
{
    size_t width = 0;
    const unsigned char *s = (const unsigned char *)text;
    for (size_t left = strlen(text); left > 0;) {
        size_t step = utf8_length(s, left);
        step = step ? step : 1;
        s += step;
        left -= step;
        width++;
    }
    return width;
}

void table_finish(struct table *table)
{
    for (size_t i = 0; i < table->count; i++)
        free(table->cells[i]);
    free(table->cells);
    table->cells = NULL;
    table->count = table->capacity = 0;
}

enum td_status table_row(struct table *table, const char *const *cells)
{
    size_t columns = (size_t)table->columns;
    if (table->count + columns > table->capacity) {
        size_t capacity = table->capacity ? table->capacity * 2 : 16 * columns;
        char **grown = reallocarray(table->cells, capacity, sizeof *grown);
        if (!grown)
            return fail(TD_OUT_OF_MEMORY, "no memory for the table");
        table->cells = grown;
        table->capacity = capacity;
    }
    for (size_t i = 0; i < columns; i++) {
        char *copy = strdup(cells[i] ? cells[i] : "");
        if (!copy) {
            table->count -= table->count % columns; /* without half a row */
            return fail(TD_OUT_OF_MEMORY, "no memory for the table");
        }
        table->cells[table->count++] = copy;
    }
    return TD_OK;
}

/* The last cell of the row that has a text; what follows needs no blanks. */
static size_t row_end(const struct table *table, size_t row)
{
    size_t columns = (size_t)table->columns;
    while (columns > 0 && !*table->cells[row + columns - 1])
        columns--;
    return columns;
}

static void print_cell(const struct cli *cli, enum style style, const char *text, int padding,
                       bool right)
{
    printf("%*s%s%s%s%*s", right ? padding : 0, "", style_begin(cli, style), text,
           style_end(cli, style), right ? 0 : padding, "");
}

void table_print(const struct cli *cli, const struct table *table)
{
    size_t columns = (size_t)table->columns, widths[TABLE_COLUMNS_MAX] = {0};
    for (size_t i = 0; i < table->count; i++) {
        size_t width = text_width(table->cells[i]);
        if (width > widths[i % columns])
            widths[i % columns] = width;
    }
    for (size_t row = 0; row < table->count; row += columns) {
        size_t end = row_end(table, row);
        for (size_t i = 0; i < end; i++) {
            const char *text = table->cells[row + i];
            size_t padding = widths[i] - text_width(text);
            bool last = i + 1 == end;
            print_cell(cli, *text ? table->styles[i] : STYLE_PLAIN, text,
                       last && !table->right[i] ? 0 : (int)padding, table->right[i]);
            fputs(last ? "\n" : "  ", stdout);
        }
    }
}

/* ---- fields of replies --------------------------------------------------------------------- */

/* The fewest digits that are the number exactly; nan and inf as C writes them. */
static const char *float_text(double value, char out[NUMBER_TEXT_MAX + 1])
{
    out[number_write(TD_FLOAT64, &value, out)] = '\0';
    if (out[0] == '"')
        snprintf(out, NUMBER_TEXT_MAX, "%g", value);
    return out;
}

static int print_scalar(const struct td_reply *reply, const char *field, char **out)
{
    int64_t integer;
    double re, im;
    char first[NUMBER_TEXT_MAX + 1], second[NUMBER_TEXT_MAX + 1];
    switch (td_reply_scalar(reply, field, &integer, &re, &im)) {
    case 'b':
        return asprintf(out, "%s", integer ? "true" : "false");
    case 'i':
        return asprintf(out, "%" PRId64, integer);
    case 'u':
        return asprintf(out, "%" PRIu64, (uint64_t)integer);
    case 'f':
        return asprintf(out, "%s", float_text(re, first));
    default:
        float_text(im, second);
        return asprintf(out, "%s%s%sj", float_text(re, first), second[0] == '-' ? "" : "+", second);
    }
}

static int print_uint(const char *field, uint64_t value, char **out)
{
    char size[SIZE_TEXT_MAX];
    const char *ending = strstr(field, "bytes");
    if (!ending || value < 1024)
        return asprintf(out, "%" PRIu64, value);
    return asprintf(out, "%" PRIu64 " (%s)", value, size_text(value, size));
}

enum td_status reply_field_text(const struct td_reply *reply, const char *field, char **out)
{
    const char *text = "";
    char shape[SHAPE_TEXT_SIZE];
    uint64_t natural;
    int64_t integer, dims[TD_RANK_MAX];
    bool flag;
    enum td_dtype dtype;
    int rank, length;
    if (td_reply_text(reply, field, &text))
        length = asprintf(out, "%s", text);
    else if (td_reply_uint(reply, field, &natural))
        length = print_uint(field, natural, out);
    else if (td_reply_int(reply, field, &integer))
        length = asprintf(out, "%" PRId64, integer);
    else if (td_reply_bool(reply, field, &flag))
        length = asprintf(out, "%s", flag ? "true" : "false");
    else if (td_reply_dtype(reply, field, &dtype))
        length = asprintf(out, "%s", td_dtype_name((int)dtype));
    else if (td_reply_dims(reply, field, &rank, dims))
        length = asprintf(out, "%s", layout_shape_text(rank, dims, shape, sizeof shape));
    else
        length = print_scalar(reply, field, out);
    if (length < 0) {
        *out = NULL;
        return fail(TD_OUT_OF_MEMORY, "no memory to print the field '%s'", field);
    }
    return TD_OK;
}

static enum td_status add_field(struct table *table, const struct td_reply *reply,
                                const char *field)
{
    _cleanup_(freep) char *value = NULL;
    TRY(reply_field_text(reply, field, &value));
    return table_row(table, (const char *const[]){field, value});
}

enum td_status reply_print(const struct cli *cli, const struct td_reply *reply)
{
    _cleanup_(table_finish) struct table table = {.columns = 2, .styles = {STYLE_DIM}};
    const char *field, *name;
    if (td_reply_text(reply, "name", &name))
        TRY(add_field(&table, reply, "name"));
    for (int i = 0; (field = td_reply_field(reply, i)); i++)
        if (strcmp(field, "name") != 0)
            TRY(add_field(&table, reply, field));
    table_print(cli, &table);
    return TD_OK;
}
