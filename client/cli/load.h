/* load: the tensors of a file, one after another. */
#ifndef CLI_LOAD_H
#define CLI_LOAD_H

#include "client/cli/file_in.h"
#include "client/cli/format.h"
#include "core/fields.h"

struct load {
    const struct file_in *file;
    enum format format;
    enum td_dtype dtype; /* of raw bytes, of NumPy's void elements, of JSON's numbers; or NONE */
    const struct dims *shape; /* of raw bytes; NULL: as many as there are */
    uint64_t most_bytes;      /* of all elements of an archive together */
};

struct member {
    const char *name; /* in the file; "" where it has none */
    bool only;        /* the file holds this one alone, and needs no name for it */
    enum td_dtype dtype;
    struct dims shape;
    const void *elements; /* in C order, little-endian; valid during the call */
    size_t size_bytes;
    bool mutable, requires_grad; /* a JSON document may say so */
};

/* Takes a member; an error ends the loading, and is its result. */
typedef enum td_status load_take(void *argument, const struct member *member);

/* INVALID for a damaged file, and what the format's reader says. */
NODISCARD enum td_status load_members(const struct load *load, load_take *take_member,
                                      void *argument);
/* The status of a format's reader, with the file's name before the error. */
NODISCARD enum td_status load_verdict(const struct load *load, enum td_status status);
/* Whether the file is one tensor, which may go without a name of its own; also true of what cannot
 * be read, for load_members to say so. */
bool load_holds_one(const struct load *load);
/* load_json.c */
NODISCARD enum td_status load_json(const struct load *load, load_take *take_member, void *argument);

/* ---- by the daemon ------------------------------------------------------------------------- */

/* Adds --mutable, --requires-grad and --create-only to the arguments of load. */
NODISCARD enum td_status load_flags(const struct cli *cli, struct td_args *args);
/* Sends a safetensors, npz or npy file, whose tensors are stored all or not at all. The reply has
 * an entry for each. */
NODISCARD enum td_status load_send(struct cli *cli, const struct file_in *file,
                                   struct td_args *args, struct td_reply **reply);

#endif
