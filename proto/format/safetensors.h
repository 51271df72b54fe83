/* safetensors: the header of Hugging Face's format, strictly.
 *
 * A file is the header's length (8 bytes, little-endian), the header (JSON), and the data. Offsets
 * are relative to the data; tensors follow one another without holes or overlaps and fill the data
 * to its end. Refused: duplicate or unknown keys, a header over SAFETENSORS_HEADER_MAX or with more
 * than SAFETENSORS_COUNT_MAX tensors, dtypes that tensord has not (BAD_DTYPE, naming them).
 *
 * Pure functions, any thread.
 */
#ifndef FORMAT_SAFETENSORS_H
#define FORMAT_SAFETENSORS_H

#include "core/fields.h"

#define SAFETENSORS_HEADER_MAX ((size_t)16 << 20) /* bytes, without the 8 of the length */
#define SAFETENSORS_COUNT_MAX 65536               /* tensors, and members of the metadata */

struct safetensors_entry {
    const char *name; /* NUL-terminated UTF-8 */
    enum td_dtype dtype;
    struct dims shape;
    uint64_t begin, end; /* of its bytes, from the data's start */
};

struct safetensors {
    size_t header_bytes; /* the 8 of the length included: the data's start in the file */
    uint64_t data_bytes;
    size_t count;
    struct safetensors_entry *entries; /* in the order of their bytes */
    char *metadata; /* the JSON text of __metadata__ (an object of strings), or NULL */
    char *names;    /* holds the entries' names */
};

/* Whether a file that begins so may be one: 9 bytes tell, and fewer never do. One with too large a
 * header is one: which is what its reader then says. */
bool safetensors_recognise(const void *bytes, size_t length);
/* How many bytes from the start there must be before safetensors_read can work: `length` itself
 * once it is enough. INVALID for what cannot be a header, TOO_LARGE for one over the limit; for
 * recognising the format by its first 9 bytes, too. */
NODISCARD enum td_status safetensors_needed(const void *bytes, size_t length, size_t *needed);
/* Reads the header. file_bytes: of the whole file, or UINT64_MAX if that is not known yet (the
 * caller then compares data_bytes with what comes). INVALID, BAD_DTYPE, BAD_SHAPE, TOO_LARGE,
 * OUT_OF_MEMORY; it takes at most 300 bytes a tensor and twice the header. The caller ends *out
 * with safetensors_destroy. */
NODISCARD enum td_status safetensors_read(const void *bytes, size_t length, uint64_t file_bytes,
                                          struct safetensors **out);
void safetensors_destroy(struct safetensors *file);

/* Writes the header of a file with these tensors (name, dtype and shape of each; begin and end are
 * filled in, in the given order) and metadata (JSON text of an object of strings, or NULL), padded
 * with spaces to 8 bytes as the reference does; in the reference's order it is the same, byte for
 * byte. The caller frees *out. BAD_DTYPE for complex128, which the format has not; INVALID for
 * names that are no UTF-8 or not unique, and for bad metadata; BAD_SHAPE; TOO_LARGE, OUT_OF_MEMORY.
 */
NODISCARD enum td_status safetensors_write(struct safetensors_entry *entries, size_t count,
                                           const char *metadata, unsigned char **out,
                                           size_t *length);
/* For qsort: entries as the reference orders them when it writes, by dtype, the largest elements
 * first so that all are aligned, and then by name. */
int safetensors_compare(const void *a, const void *b);

#endif
