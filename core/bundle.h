/* bundle: files of several tensors, as the engine sees them.
 *
 * The engine knows no format: whoever opens it gives it a table of them (engine_options). Here is
 * what such a table says, and the list of tensors that both sides fill and read.
 *
 * Threads: one at a time for each bundle; a format's functions are pure, any thread.
 */
#ifndef CORE_BUNDLE_H
#define CORE_BUNDLE_H

#include "core/store.h"

#define BUNDLE_MAX STORE_PUBLISH_MAX            /* tensors of a file */
#define BUNDLE_METADATA_MAX ((size_t)512 << 10) /* bytes: what a reply has room for */
#define BUNDLE_SNIFF_BYTES 16                   /* tell the formats apart */
#define BUNDLE_ALIGNMENT 64                     /* of the tensors of a packed file, in bytes */

struct bundle_item {
    const char *name; /* in the file, NUL-terminated; NULL: it is one tensor without a name */
    enum td_dtype dtype;
    struct dims shape;
    uint64_t offset;       /* of its elements: in the file, or in what it is unpacked to */
    bool fortran_order;    /* the first dimension varies fastest */
    bool big_endian;       /* each number's bytes are to be reversed, a complex one's parts apart */
    struct tensor *tensor; /* a reference, or NULL */
};

struct bundle {
    struct ledger *ledger;
    size_t count;
    struct bundle_item *items; /* when read: in the order of their bytes */
    char *metadata;            /* malloc'd JSON text of an object of strings, or NULL: none */
    uint64_t unpacked_bytes;   /* when read, of a packed format: what all items take */
    size_t room;
    uint64_t charged_bytes;
};

/* Zeroes alone are an empty one, but for the ledger. Lets go of tensors, names and metadata. */
void bundle_finish(struct bundle *bundle);
/* Appends a copy, with its name and a reference to its tensor. TOO_LARGE past BUNDLE_MAX,
 * OUT_OF_MEMORY. */
NODISCARD enum td_status bundle_add(struct bundle *bundle, const struct bundle_item *item);
/* INVALID if two items have the same name. */
NODISCARD enum td_status bundle_check_names(const struct bundle *bundle);
/* Bytes of the item's elements. What was read fits layout_contiguous. */
uint64_t bundle_item_bytes(const struct bundle_item *item);

/* A whole file. */
struct bundle_file {
    const unsigned char *bytes;
    uint64_t size;
};

/* What writes a packed file. */
struct bundle_io {
    void *context;
    /* The next piece of an item's elements, in C order: 0 bytes after the last. Items are asked for
     * one after the other. */
    enum td_status (*next)(void *context, size_t item, const void **data, size_t *size);
    enum td_status (*write)(void *context, const void *bytes, size_t size);
};

struct bundle_format {
    const char *name; /* "safetensors" */
    const char *content_type;
    /* The elements are not in the file as they are in memory: `unpack` and `pack` move them. */
    bool packed;
    bool has_metadata;
    bool is_numpy; /* a tensor that requires grad is saved only by force, as numpy() is */
    /* Whether a file that begins so is one: BUNDLE_SNIFF_BYTES, or all of a shorter one. */
    bool (*recognise)(const void *bytes, size_t length);
    /* How many bytes the whole file has, by what stands at its start; 0 if that does not tell yet,
     * or never. NULL: never. */
    uint64_t (*total)(const struct bundle_file *start, struct ledger *ledger);
    /* Adds what the file holds. hint: what NumPy's void elements mean, or TD_DTYPE_NONE. max_bytes:
     * of what a packed file is unpacked to; TOO_LARGE. If not packed, there are at least 16 bytes
     * for each item in front of the first one's elements, and no items overlap. INVALID, BAD_DTYPE,
     * BAD_SHAPE, UNSUPPORTED. */
    enum td_status (*read)(const struct bundle_file *file, enum td_dtype hint, uint64_t max_bytes,
                           struct bundle *out);
    /* Writes the elements of what `read` has found to their offsets. */
    enum td_status (*unpack)(const struct bundle_file *file, enum td_dtype hint,
                             const struct bundle *bundle, unsigned char *to);
    /* What stands before the elements, malloc'd; brings the items into the order in which their
     * elements follow it. */
    enum td_status (*head)(struct bundle *bundle, unsigned char **out, size_t *length);
    enum td_status (*pack)(const struct bundle *bundle, const struct bundle_io *io);
    /* What `pack` writes at most. */
    uint64_t (*most_bytes)(const struct bundle *bundle);
};

/* The format of that name in a list that ends with NULL. INVALID, with the names there are. */
NODISCARD enum td_status bundle_format_find(const struct bundle_format *const *formats,
                                            struct text name, const struct bundle_format **out);
/* The one that a file is recognised as. UNSUPPORTED. */
NODISCARD enum td_status bundle_format_recognise(const struct bundle_format *const *formats,
                                                 const struct bundle_file *file,
                                                 const struct bundle_format **out);
/* `total` of the format that the file is recognised as; 0 if it is none. */
uint64_t bundle_file_total(const struct bundle_format *const *formats,
                           const struct bundle_file *start, struct ledger *ledger);

#endif
