/* format: the file formats by name, by a file's ending and by its first bytes. */
#ifndef CLI_FORMAT_H
#define CLI_FORMAT_H

#include "client/cli/cli.h"

enum format {
    FORMAT_NONE,
    FORMAT_NPY,
    FORMAT_NPZ,
    FORMAT_SAFETENSORS,
    FORMAT_RAW,
    FORMAT_JSON,
    FORMAT_TEXT,
    FORMAT_END
};

struct format_info {
    const char *name;
    const char *endings[2]; /* of files, with the dot */
    bool binary;            /* not for terminals */
    bool many;              /* holds several tensors */
    bool whole;             /* load and save have it, whose files the daemon reads and writes */
};
extern const struct format_info format_infos[FORMAT_END];

/* --format, else by the path's ending (NULL: there is none); FORMAT_NONE if neither tells. INVALID,
 * with `misused`. */
NODISCARD enum td_status format_choose(struct cli *cli, const char *path, enum format *out);
/* Adds what format_choose has chosen to the arguments of load or save. INVALID, with `misused`, for
 * one that is not for whole files. */
NODISCARD enum td_status format_of_files(struct cli *cli, const char *path, struct td_args *args);
/* By the first bytes, FORMAT_NONE if they say nothing. */
enum format format_recognise(const void *bytes, size_t length);

#endif
