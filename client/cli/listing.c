#include "client/cli/listing.h"
#include "client/cli/names.h"
#include "client/cli/sizes.h"

#include <inttypes.h>
#include <string.h>

/* Every level takes two characters of a name at least, and six bytes here at most. */
#define BRANCHES_SIZE (NAME_SIZE / 2 * 6 + 64)

void listing_cells(const struct td_info *info, bool exact, struct listing_cells *out)
{
    layout_shape_text(info->rank, info->shape, out->shape, sizeof out->shape);
    if (exact)
        snprintf(out->size, sizeof out->size, "%" PRId64, info->nbytes);
    else
        size_text((uint64_t)info->nbytes, out->size);
    const char *cells[LISTING_COLUMNS] = {
        info->name, td_dtype_name((int)info->dtype),   out->shape, out->size, info->device,
        info->mode, info->requires_grad ? "grad" : "",
    };
    memcpy(out->cells, cells, sizeof cells);
}

struct table listing_table(void)
{
    return (struct table){
        .columns = LISTING_COLUMNS,
        .styles = {STYLE_BOLD, STYLE_GREEN, STYLE_PLAIN, STYLE_PLAIN, STYLE_DIM, STYLE_DIM,
                   STYLE_YELLOW},
        .right = {[3] = true},
    };
}

/* ---- the tree ------------------------------------------------------------------------------ */

struct tree {
    const struct table *listing;
    struct table *out;
    char branches[BRANCHES_SIZE]; /* "│   " for every level that goes on below */
};

static const char *name_at(const struct tree *tree, size_t i)
{
    return tree->listing->cells[i * LISTING_COLUMNS];
}

/* Where the group of names ends that begin as number `first` does up to `length` bytes. */
static size_t group_end(const struct tree *tree, size_t first, size_t end, size_t length)
{
    size_t i = first + 1;
    while (i < end && strncmp(name_at(tree, i), name_at(tree, first), length) == 0)
        i++;
    return i;
}

/* The length of a name up to its first separator behind `offset`, that included; 0 without one. A
 * separator right at the offset parts nothing. */
static size_t segment_end(const char *name, size_t offset)
{
    if (!name[offset])
        return 0;
    size_t at = offset + 1 + strcspn(name + offset + 1, "/.");
    return name[at] && name[at + 1] ? at + 1 : 0;
}

/* How much all names of a group have in common, up to a separator; `length` is known already. */
static size_t common_length(const char *first, const char *last, size_t length)
{
    for (size_t next; (next = segment_end(first, length)) > 0; length = next)
        if (strncmp(first, last, next) != 0)
            break;
    return length;
}

static enum td_status add_row(struct tree *tree, bool last, bool top, const char *text,
                              size_t length, const char *const *cells)
{
    _cleanup_(freep) char *label = NULL;
    const char *row[LISTING_COLUMNS] = {NULL};
    if (asprintf(&label, "%s%s%.*s", tree->branches,
                 top    ? ""
                 : last ? "└── "
                        : "├── ",
                 (int)length, text) < 0) {
        label = NULL;
        return fail(TD_OUT_OF_MEMORY, "no memory for the tree");
    }
    if (cells)
        memcpy(row, cells, sizeof row);
    row[0] = label;
    return table_row(tree->out, row);
}

/* The names begin .. end, which all begin with the same `offset` bytes. */
static enum td_status add_level(struct tree *tree, size_t begin, size_t end, size_t offset)
{
    bool top = offset == 0;
    for (size_t i = begin, next; i < end; i = next) {
        const char *name = name_at(tree, i);
        size_t length = segment_end(name, offset);
        next = length ? group_end(tree, i, end, length) : i + 1;
        bool last = next == end;
        if (next == i + 1) {
            TRY(add_row(tree, last, top, name + offset, strlen(name) - offset,
                        (const char *const *)&tree->listing->cells[i * LISTING_COLUMNS]));
            continue;
        }
        length = common_length(name, name_at(tree, next - 1), length);
        TRY(add_row(tree, last, top, name + offset, length - offset, NULL));
        size_t used = strlen(tree->branches);
        if (!top)
            strcpy(tree->branches + used, last ? "    " : "│   ");
        TRY(add_level(tree, i, next, length));
        tree->branches[used] = '\0';
    }
    return TD_OK;
}

enum td_status listing_tree(const struct table *listing, struct table *out)
{
    struct tree tree = {.listing = listing, .out = out};
    *out = listing_table();
    return add_level(&tree, 0, listing->count / LISTING_COLUMNS, 0);
}
