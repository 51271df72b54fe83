/* file_out: a file that is there whole or not at all.
 *
 * Bytes go into a temporary file beside the target, which takes the target's name at the end; an
 * error or a signal removes it. What is no regular file (/dev/null, a pipe) is written directly.
 */
#ifndef CLI_FILE_OUT_H
#define CLI_FILE_OUT_H

#include "core/fail.h"

#include <limits.h>
#include <stddef.h>

struct file_out {
    int fd;
    const char *label;        /* the path, or "standard output" */
    char target[PATH_MAX];    /* "" where nothing is to be renamed */
    char temporary[PATH_MAX]; /* "" likewise */
};

/* "-" is standard output. INVALID. Ended by file_out_close, also after an error; without
 * file_out_commit before it nothing is left. `path` must outlive it. */
NODISCARD enum td_status file_out_open(const char *path, struct file_out *out);
NODISCARD enum td_status file_out_write(struct file_out *file, const void *bytes, size_t length);
/* The file gets its name. */
NODISCARD enum td_status file_out_commit(struct file_out *file);
void file_out_close(struct file_out *file);

#endif
