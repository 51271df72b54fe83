/* save: tensors into a file of some format. */
#ifndef CLI_SAVE_H
#define CLI_SAVE_H

#include "client/cli/file_out.h"
#include "client/cli/format.h"
#include "client/cli/view.h"

struct save {
    struct cli *cli;
    struct file_out *file;
    enum td_dtype dtype; /* cast to it on the way, unless NONE */
    size_t count;        /* one, except for formats that hold many */
    struct view *views;
    const char *const *names; /* of each, in the file */
};

/* The dtype of number i as it is written. */
static inline enum td_dtype save_dtype(const struct save *save, size_t i)
{
    return save->dtype == TD_DTYPE_NONE ? save->views[i].info.dtype : save->dtype;
}
struct dims save_shape(const struct save *save, size_t i);
/* Writes the elements of number i, in C order. */
NODISCARD enum td_status save_elements(const struct save *save, size_t i);
NODISCARD enum td_status save_string(const struct save *save, const char *text);

/* Writes all of it. The file is the caller's to commit. */
NODISCARD enum td_status save_tensors(const struct save *save, enum format format);
/* save_json.c */
NODISCARD enum td_status save_json(const struct save *save);

#endif
