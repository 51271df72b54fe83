/* view: a tensor, or a slice of one, as the command line names it: NAME or NAME[INDEX].
 *
 * It is held in the session as an anonymous object: replacing or deleting the name while this
 * process reads it changes nothing here.
 */
#ifndef CLI_VIEW_H
#define CLI_VIEW_H

#include "client/cli/cli.h"
#include "core/fields.h"

struct target {
    char *name; /* NULL before target_parse; ended by target_finish */
    bool indexed;
    struct index index;
};

/* "w[0, 1:3]" into name and index. What ends with ']' is always taken for an index: a name that
 * ends so is written NAME[...]. BAD_INDEX, with `misused`. */
NODISCARD enum td_status target_parse(struct cli *cli, const char *text, struct target *out);
void target_finish(struct target *target);

struct view {
    struct td_client *client;
    const char *label; /* the text it was opened by */
    char *name;        /* of the tensor, without the index */
    char id[24];       /* "@17" */
    struct td_reply *reply;
    struct td_info info;
};

/* whole: the text is a name, whatever it ends with. It must outlive the view, which the caller ends
 * with view_close, also after an error. */
NODISCARD enum td_status view_open(struct cli *cli, const char *text, bool whole, struct view *out);
void view_close(struct view *view);

/* Several of them, in the order of their texts. */
struct views {
    size_t count;
    struct view *views;
};
NODISCARD enum td_status views_open(struct cli *cli, const char *const *texts, size_t count,
                                    bool whole, struct views *out);
void views_close(struct views *views);

/* A piece of the elements in C order, on its way to a file. */
typedef enum td_status view_take(void *argument, const void *bytes, size_t size_bytes);

/* Reads the elements in C order, cast to dtype unless that is TD_DTYPE_NONE, in pieces of at most
 * some MiB. What is written into a mutable tensor meanwhile may be in some of them. */
NODISCARD enum td_status view_read(struct cli *cli, const struct view *view, enum td_dtype dtype,
                                   view_take *take_piece, void *argument);

/* The index of a struct index, as an argument of an operation. */
NODISCARD enum td_status index_to_args(const struct index *index, struct td_args *args);

#endif
