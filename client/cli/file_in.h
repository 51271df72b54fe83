/* file_in: all bytes of a file or of standard input. */
#ifndef CLI_FILE_IN_H
#define CLI_FILE_IN_H

#include "core/fail.h"

#include <stdbool.h>
#include <stddef.h>

struct file_in {
    const char *label; /* the path, or "standard input" */
    const unsigned char *bytes;
    size_t length;
    bool standard;
    bool mapped; /* else malloc'ed */
};

/* Maps a regular file, reads anything else to its end; "-" is standard input. `most`: bytes that a
 * pipe may hold. INVALID for what cannot be read, TOO_LARGE, OUT_OF_MEMORY. Ended by
 * file_in_close, also after an error. `path` must outlive it. */
NODISCARD enum td_status file_in_open(const char *path, size_t most, struct file_in *out);
/* What a call with the bytes came to: `status`, or INVALID if the reason is that somebody made the
 * mapped file shorter. (Reading what is gone ends the process, see signals_guard_map.) */
NODISCARD enum td_status file_in_verdict(const struct file_in *file, enum td_status status);
void file_in_close(struct file_in *file);

#endif
