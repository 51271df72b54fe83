/* npz: NumPy's archives of arrays: zip files with a .npy file for each.
 *
 * Both ways are streamed: the elements never pass through memory of more than a piece, and where
 * the bytes come from or go to is the caller's affair. A status other than TD_OK of a function of
 * the caller's ends the work and is what the call returns; its fail() stands.
 *
 * Linked apart from the other formats (libarchive). One thread at a time for each reader or writer;
 * while one reads, the thread's LC_CTYPE is C.UTF-8.
 */
#ifndef FORMAT_NPZ_H
#define FORMAT_NPZ_H

#include "proto/format/npy.h"

/* ---- reading --------------------------------------------------------------------------------- */

/* Whether a file that begins so is a zip, also one without members. */
bool npz_recognise(const void *bytes, size_t length);

struct npz_source {
    void *context;
    /* Reads 1 to `room` bytes from this offset of the archive on; *got is 0 only at its end. */
    enum td_status (*read)(void *context, uint64_t offset, void *out, size_t room, size_t *got);
    /* Of the archive. UINT64_MAX: a pipe, say, whose size is not known; it is read in order and
     * once. Where it is known only the members that the zip's directory lists are there. */
    uint64_t size_bytes;
};

struct npz_member {
    /* Without ".npy", UTF-8; not always unique, and the last one counts then. Of a pipe the
     * backslashes of a name that has no slash have become slashes. */
    const char *name;
    struct npy_header header;
    uint64_t data_bytes; /* of the elements */
};

struct npz_reader;

/* Called for each member in the archive's order, which pulls what it wants of the elements. What it
 * leaves is skipped, as good as unread if the archive's size is known: so an archive can be looked
 * through before any of it is used. */
typedef enum td_status npz_visit(void *context, struct npz_reader *reader,
                                 const struct npz_member *member);

/* hint: as for npy_read, for all members. max_bytes: of all members together when inflated;
 * TOO_LARGE before the member that goes over it is visited, whatever the zip says of its size.
 * INVALID for what is no zip or is damaged, for a member that is no .npy file (but a folder) or not
 * as long as its header says; npy_read's errors, naming the member. */
NODISCARD enum td_status npz_read_each(const struct npz_source *source, enum td_dtype hint,
                                       uint64_t max_bytes, npz_visit *visit, void *context);
/* The next bytes of the elements, as they are in the file (see npy_header for their order): `room`
 * bytes, or what is left; *got is 0 after the last. With the last of them the zip's checksum was
 * compared. Only from within npz_visit. */
NODISCARD enum td_status npz_pull(struct npz_reader *reader, void *out, size_t room, size_t *got);

/* ---- writing --------------------------------------------------------------------------------- */

struct npz_sink {
    void *context;
    enum td_status (*write)(void *context, const void *bytes, size_t length);
};

#define NPZ_NAME_MAX 4096 /* bytes */

struct npz_writer;

/*     npz_write_begin(&sink, false, &writer)
 *     for each array
 *         npz_write_member(writer, name, dtype, &shape)
 *         npz_write_bytes(writer, elements, length)      until all are there
 *     npz_write_end(writer)
 *     npz_write_destroy(writer)
 *
 * After an error only npz_write_destroy is left; what was written is no archive then. The same
 * calls write the same bytes, whatever the time of day. */

/* deflate: as numpy.savez_compressed, else as numpy.savez. *sink is copied. The caller ends *out
 * with npz_write_destroy. */
NODISCARD enum td_status npz_write_begin(const struct npz_sink *sink, bool deflate,
                                         struct npz_writer **out);
/* Begins an array: ".npy" comes behind the name (UTF-8, at most NPZ_NAME_MAX). Names should differ:
 * nobody looks. INVALID for a bad name, or if the array before lacks bytes; BAD_SHAPE, BAD_DTYPE.
 */
NODISCARD enum td_status npz_write_member(struct npz_writer *writer, const char *name,
                                          enum td_dtype dtype, const struct dims *shape);
/* The next bytes of its elements, little-endian and in C order. INVALID if they are too many. */
NODISCARD enum td_status npz_write_bytes(struct npz_writer *writer, const void *bytes,
                                         size_t length);
/* Writes the directory. INVALID if the last array lacks bytes. */
NODISCARD enum td_status npz_write_end(struct npz_writer *writer);
void npz_write_destroy(struct npz_writer *writer);

#endif
