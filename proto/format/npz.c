#include "proto/format/npz.h"

#include "core/cleanup.h"
#include "proto/format/json_scan.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 65536 /* read and written at a time */
#define EMPTY_BYTES 22    /* of an archive without members */
#define SUFFIX ".npy"
#define SUFFIX_BYTES (sizeof SUFFIX - 1)
#define SHOWN(name) json_excerpt(name, strlen(name), (char[JSON_EXCERPT_SIZE]){0})

/* ---- locale ---------------------------------------------------------------------------------- */

/* libarchive turns names into the characters of the locale, and loses those that the locale of a
 * program that never called setlocale() has not: this thread gets one with all of them, which is
 * made once and stays. */
static locale_t utf8_locale;

static void utf8_locale_make(void)
{
    utf8_locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
}

static locale_t utf8_enter(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, utf8_locale_make);
    return uselocale(utf8_locale); /* (locale_t)0 changes nothing */
}

static void utf8_leavep(const locale_t *before)
{
    uselocale(*before);
}

/* ---- reading --------------------------------------------------------------------------------- */

bool npz_recognise(const void *bytes, size_t length)
{
    return length >= 4 &&
           (memcmp(bytes, "PK\x03\x04", 4) == 0 || memcmp(bytes, "PK\x05\x06", 4) == 0);
}

struct npz_reader {
    struct archive *archive;
    const struct npz_source *source;
    uint64_t offset;       /* of the next byte to read */
    enum td_status status; /* of the source, when it failed */
    enum td_dtype hint;
    uint64_t max_bytes, budget; /* budget: what is left of max_bytes */
    const char *path;           /* of the member, libarchive's */
    uint64_t left;              /* of its elements */
    unsigned char block[BLOCK_BYTES];
    unsigned char header[NPY_HEADER_MAX];
};

/* libarchive's reader of the directory does not find that of an empty archive; its reader of pipes
 * does. */
static bool can_seek(const struct npz_reader *reader)
{
    return reader->source->size_bytes != UINT64_MAX && reader->source->size_bytes != EMPTY_BYTES;
}

static la_ssize_t source_read(struct archive *archive, void *context, const void **out)
{
    struct npz_reader *reader = context;
    size_t got = 0;
    if (reader->status == TD_OK)
        reader->status = reader->source->read(reader->source->context, reader->offset,
                                              reader->block, sizeof reader->block, &got);
    if (reader->status != TD_OK) {
        archive_set_error(archive, EIO, "the source failed");
        return ARCHIVE_FATAL;
    }
    reader->offset += got;
    *out = reader->block;
    return (la_ssize_t)got;
}

static la_int64_t source_seek(struct archive *archive, void *context, la_int64_t offset, int whence)
{
    struct npz_reader *reader = context;
    la_int64_t size = (la_int64_t)reader->source->size_bytes, target;
    la_int64_t from = whence == SEEK_SET   ? 0
                      : whence == SEEK_CUR ? (la_int64_t)reader->offset
                                           : size;
    if (__builtin_add_overflow(from, offset, &target) || target < 0 || target > size) {
        archive_set_error(archive, EIO, "a place past the end is referred to");
        return ARCHIVE_FATAL;
    }
    reader->offset = (uint64_t)target;
    return target;
}

/* Past libarchive. *have is less than asked for at the end of the archive only. */
static enum td_status source_peek(const struct npz_reader *reader, uint64_t offset,
                                  unsigned char *out, size_t size, size_t *have)
{
    size_t got = 1;
    for (*have = 0; *have < size && got > 0; *have += got)
        TRY(reader->source->read(reader->source->context, offset + *have, out + *have, size - *have,
                                 &got));
    return TD_OK;
}

static size_t two_bytes(const unsigned char *at)
{
    return at[0] | (size_t)at[1] << 8;
}

static enum td_status archive_failed(const struct npz_reader *reader)
{
    if (reader->status != TD_OK)
        return reader->status;
    const char *what = archive_error_string(reader->archive);
    if (!reader->path)
        return fail(TD_INVALID, "this is no .npz archive, or it is damaged: %.200s",
                    what ? what : "it cannot be read");
    return fail(TD_INVALID, "member '%s' of the .npz archive cannot be read: %.200s",
                SHOWN(reader->path), what ? what : "it is damaged");
}

/* As many bytes as there are, up to `room`. */
static enum td_status read_bytes(struct npz_reader *reader, void *out, size_t room, size_t *got)
{
    la_ssize_t length = archive_read_data(reader->archive, out, room);
    if (length < 0)
        return archive_failed(reader);
    *got = (size_t)length;
    return TD_OK;
}

/* Nothing may follow the elements. Looking for it also makes libarchive compare the checksum. */
static enum td_status check_end(struct npz_reader *reader)
{
    unsigned char byte;
    size_t got = 0;
    TRY(read_bytes(reader, &byte, 1, &got));
    return got == 0 ? TD_OK
                    : fail(TD_INVALID,
                           "member '%s' of the .npz archive goes on after the elements that its "
                           "header announces",
                           SHOWN(reader->path));
}

enum td_status npz_pull(struct npz_reader *reader, void *out, size_t room, size_t *got)
{
    size_t wanted = room < reader->left ? room : (size_t)reader->left;
    *got = 0;
    if (wanted == 0)
        return TD_OK;
    TRY(read_bytes(reader, out, wanted, got));
    reader->left -= *got;
    if (*got < wanted)
        return fail(TD_INVALID, "member '%s' of the .npz archive ends %" PRIu64 " bytes too early",
                    SHOWN(reader->path), reader->left);
    return reader->left > 0 ? TD_OK : check_end(reader);
}

static enum td_status read_header(struct npz_reader *reader, struct npy_header *out)
{
    size_t have = 0, needed = 0;
    for (;;) {
        enum td_status status = npy_read(reader->header, have, reader->hint, out, &needed);
        if (status != TD_OK) {
            char detail[FAIL_DETAIL_SIZE];
            snprintf(detail, sizeof detail, "%s", fail_detail());
            return fail(status, "member '%s' of the .npz archive: %s", SHOWN(reader->path), detail);
        }
        if (needed == 0)
            return TD_OK;
        size_t got = 0;
        TRY(read_bytes(reader, reader->header + have, needed - have, &got));
        if (got < needed - have)
            return fail(TD_INVALID, "member '%s' of the .npz archive ends within its header",
                        SHOWN(reader->path));
        have = needed;
    }
}

/* ---- backslashes ----
 *
 * libarchive makes slashes of the backslashes of a name that has no slash, as in archives from
 * Windows, but does so whoever made them. The name as it was given stands in the member's own
 * header, which ends where its data begin: 30 bytes, the name, and extensions. */
#define LOCAL_BYTES 30
#define EXTRA_MAX 4096 /* bytes of extensions behind which a header is looked for */

/* Whether this is the header of the member, whose name differs in backslashes at most. */
static bool is_local_header(const unsigned char *at, size_t extra, const char *path, size_t length)
{
    if (memcmp(at, "PK\x03\x04", 4) != 0 || two_bytes(at + 26) != length ||
        two_bytes(at + 28) != extra)
        return false;
    for (size_t i = 0; i < length; i++) {
        char given = (char)at[LOCAL_BYTES + i];
        if (given != path[i] && !(given == '\\' && path[i] == '/'))
            return false;
    }
    return true;
}

/* Before any of the member was read. name: the path's, or a part of it. */
static enum td_status restore_backslashes(struct npz_reader *reader, const char *path, char *name)
{
    size_t length = strlen(path), room = LOCAL_BYTES + length + EXTRA_MAX, have = 0;
    uint64_t end = (uint64_t)archive_filter_bytes(reader->archive, 0);
    if (!can_seek(reader) || strchr(path, '\\') || !strchr(path, '/') ||
        room > sizeof reader->header)
        return TD_OK;
    size_t size = end < room ? (size_t)end : room;
    TRY(source_peek(reader, end - size, reader->header, size, &have));
    if (have < size)
        return TD_OK;
    for (size_t extra = 0; LOCAL_BYTES + length + extra <= size; extra++) {
        const unsigned char *at = reader->header + size - extra - length - LOCAL_BYTES;
        if (is_local_header(at, extra, path, length)) {
            memcpy(name, at + LOCAL_BYTES, strlen(name));
            break;
        }
    }
    return TD_OK;
}

/* A file of torch.save is an archive, too: its first member is ARCHIVE/data.pkl. */
static bool is_of_torch_save(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && strcmp(slash, "/data.pkl") == 0;
}

/* The name in the archive without its suffix, which the caller frees. */
static enum td_status member_name(struct npz_reader *reader, struct archive_entry *entry,
                                  char **out)
{
    const char *path = archive_entry_pathname_utf8(entry);
    if (!path)
        return fail(TD_INVALID, "the .npz archive has a member whose name is no valid UTF-8");
    size_t length = strlen(path);
    reader->path = path;
    if (archive_entry_filetype(entry) != AE_IFREG || length < SUFFIX_BYTES ||
        strcmp(path + length - SUFFIX_BYTES, SUFFIX) != 0)
        return fail(TD_INVALID,
                    "member '%s' of the .npz archive is no array: expected a file "
                    "whose name ends in " SUFFIX "%s",
                    SHOWN(path),
                    is_of_torch_save(path) ? "; this is what torch.save writes: torch.load it, and "
                                             "store its tensors or write them as safetensors"
                                           : "");
    *out = strndup(path, length - SUFFIX_BYTES);
    if (!*out)
        return fail(TD_OUT_OF_MEMORY, "no memory for the name of an array");
    return restore_backslashes(reader, path, *out);
}

/* The limit counts what the header announces, since no more than that is ever read. */
static enum td_status charge(struct npz_reader *reader, const struct npz_member *member)
{
    uint64_t bytes = member->header.header_bytes + member->data_bytes;
    if (bytes > reader->budget)
        return fail(TD_TOO_LARGE,
                    "member '%s' of the .npz archive has %" PRIu64 " bytes, with which the "
                    "archive goes over the limit of %" PRIu64,
                    SHOWN(reader->path), bytes, reader->max_bytes);
    reader->budget -= bytes;
    return TD_OK;
}

static enum td_status skip_rest(struct npz_reader *reader)
{
    unsigned char piece[4096];
    size_t got;
    if (can_seek(reader))
        return TD_OK; /* libarchive goes to the next member, wherever this one ends */
    while (reader->left > 0)
        TRY(npz_pull(reader, piece, sizeof piece, &got));
    return TD_OK;
}

static enum td_status read_member(struct npz_reader *reader, struct archive_entry *entry,
                                  npz_visit *visit, void *context)
{
    _cleanup_(freep) char *name = NULL;
    struct npz_member member;
    struct layout layout;
    TRY(member_name(reader, entry, &name));
    TRY(read_header(reader, &member.header));
    TRY(layout_contiguous(member.header.dtype, &member.header.shape, &layout));
    member.name = name;
    member.data_bytes = (uint64_t)layout_nbytes(&layout);
    TRY(charge(reader, &member));
    uint64_t bytes = member.header.header_bytes + member.data_bytes;
    if (archive_entry_size_is_set(entry) && (uint64_t)archive_entry_size(entry) != bytes)
        return fail(TD_INVALID,
                    "member '%s' of the .npz archive has %" PRId64 " bytes; expected %" PRIu64
                    " by its header",
                    SHOWN(reader->path), (int64_t)archive_entry_size(entry), bytes);
    reader->left = member.data_bytes;
    if (reader->left == 0)
        TRY(check_end(reader));
    TRY(visit(context, reader, &member));
    return skip_rest(reader);
}

static void reader_destroyp(struct npz_reader **reader)
{
    if (*reader && (*reader)->archive)
        archive_read_free((*reader)->archive);
    free(*reader);
}

/* Each way of reading has its own reader of zip files, lest a file without its directory be taken
 * for a pipe. */
static enum td_status reader_open(struct npz_reader *reader)
{
    struct archive *archive = reader->archive = archive_read_new();
    bool ready =
        archive &&
        (can_seek(reader) ? archive_read_support_format_zip_seekable(archive)
                          : archive_read_support_format_zip_streamable(archive)) == ARCHIVE_OK &&
        archive_read_set_callback_data(archive, reader) == ARCHIVE_OK &&
        archive_read_set_read_callback(archive, source_read) == ARCHIVE_OK &&
        (!can_seek(reader) || archive_read_set_seek_callback(archive, source_seek) == ARCHIVE_OK);
    if (!ready)
        return fail(TD_OUT_OF_MEMORY, "no memory to read an .npz archive");
    return archive_read_open1(archive) == ARCHIVE_OK ? TD_OK : archive_failed(reader);
}

/* As zip -r writes them beside the files that are in them. */
static bool is_empty_folder(struct archive_entry *entry)
{
    return archive_entry_filetype(entry) == AE_IFDIR && archive_entry_size_is_set(entry) &&
           archive_entry_size(entry) == 0;
}

/* ---- the directory's end ----
 *
 * libarchive takes members that are said to begin at the same place for one, and stops without a
 * word where the directory does. Its end says how many there are. */
#define END_SEARCHED 16384 /* bytes in which libarchive looks for it */
#define MANY 0xFFFF        /* as many, or more: what zip64 adds says how many */

/* 0 where it is not known. */
static enum td_status announced_members(struct npz_reader *reader, size_t *out)
{
    uint64_t total = reader->source->size_bytes;
    size_t size = total < END_SEARCHED ? (size_t)total : END_SEARCHED, have = 0;
    *out = 0;
    if (!can_seek(reader) || size < EMPTY_BYTES)
        return TD_OK;
    TRY(source_peek(reader, total - size, reader->header, size, &have));
    for (size_t i = size - EMPTY_BYTES + 1; have == size && i-- > 0;)
        if (memcmp(reader->header + i, "PK\x05\x06", 4) == 0) {
            size_t count = two_bytes(reader->header + i + 10);
            *out = count < MANY ? count : 0;
            break;
        }
    return TD_OK;
}

enum td_status npz_read_each(const struct npz_source *source, enum td_dtype hint,
                             uint64_t max_bytes, npz_visit *visit, void *context)
{
    _cleanup_(utf8_leavep) locale_t before = utf8_enter();
    _cleanup_(reader_destroyp) struct npz_reader *reader = calloc(1, sizeof *reader);
    (void)before;
    if (!reader)
        return fail(TD_OUT_OF_MEMORY, "no memory to read an .npz archive");
    if (source->size_bytes != UINT64_MAX && source->size_bytes > INT64_MAX)
        return fail(TD_INVALID, "no archive has %" PRIu64 " bytes", source->size_bytes);
    reader->source = source;
    reader->hint = hint;
    reader->max_bytes = reader->budget = max_bytes;
    size_t announced;
    TRY(announced_members(reader, &announced));
    TRY(reader_open(reader));
    for (size_t found = 0;; found++) {
        struct archive_entry *entry;
        reader->path = NULL;
        int result = archive_read_next_header(reader->archive, &entry);
        if (result == ARCHIVE_EOF && reader->status == TD_OK && found < announced)
            return fail(TD_INVALID,
                        "the .npz archive is damaged: it has %zu members by the end of its "
                        "directory, but %zu were found",
                        announced, found);
        if (result == ARCHIVE_EOF)
            return reader->status;
        if (result != ARCHIVE_OK) /* also a warning: what the zip says twice differs */
            return archive_failed(reader);
        if (!is_empty_folder(entry))
            TRY(read_member(reader, entry, visit, context));
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

struct npz_writer {
    struct archive *archive;
    struct npz_sink sink;
    enum td_status status; /* of the sink, when it failed */
    uint64_t left;         /* of the elements of the member */
    char name[NPZ_NAME_MAX + SUFFIX_BYTES + 1];
};

/* What the sink failed to take is lost here and not in libarchive, which never frees what it holds
 * after a failed write. */
static la_ssize_t sink_write(struct archive *archive, void *context, const void *bytes,
                             size_t length)
{
    struct npz_writer *writer = context;
    (void)archive;
    if (writer->status == TD_OK)
        writer->status = writer->sink.write(writer->sink.context, bytes, length);
    return (la_ssize_t)length;
}

/* What a call of libarchive came to. */
static enum td_status written(const struct npz_writer *writer, bool ok)
{
    if (writer->status != TD_OK || ok)
        return writer->status;
    const char *what = archive_error_string(writer->archive);
    return fail(TD_INTERNAL, "the .npz archive cannot be written at '%s': %.200s",
                SHOWN(writer->name), what ? what : "libarchive does not say why");
}

/* Small writes are gathered; the last block is not filled up. */
static bool writer_open(struct npz_writer *writer, bool deflate)
{
    struct archive *archive = writer->archive;
    return archive_write_set_format_zip(archive) == ARCHIVE_OK &&
           (deflate ? archive_write_zip_set_compression_deflate(archive)
                    : archive_write_zip_set_compression_store(archive)) == ARCHIVE_OK &&
           archive_write_set_bytes_per_block(archive, BLOCK_BYTES) == ARCHIVE_OK &&
           archive_write_set_bytes_in_last_block(archive, 1) == ARCHIVE_OK &&
           archive_write_open(archive, writer, NULL, sink_write, NULL) == ARCHIVE_OK;
}

static void writer_destroyp(struct npz_writer **writer)
{
    npz_write_destroy(*writer);
}

enum td_status npz_write_begin(const struct npz_sink *sink, bool deflate, struct npz_writer **out)
{
    _cleanup_(writer_destroyp) struct npz_writer *writer = calloc(1, sizeof *writer);
    if (writer)
        writer->archive = archive_write_new();
    if (!writer || !writer->archive)
        return fail(TD_OUT_OF_MEMORY, "no memory to write an .npz archive");
    writer->sink = *sink;
    TRY(written(writer, writer_open(writer, deflate)));
    *out = take(&writer);
    return TD_OK;
}

static enum td_status write_all(struct npz_writer *writer, const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    while (length > 0) {
        la_ssize_t taken = archive_write_data(writer->archive, at, length);
        TRY(written(writer, taken > 0));
        at += taken;
        length -= (size_t)taken;
    }
    return TD_OK;
}

static enum td_status check_complete(const struct npz_writer *writer)
{
    if (writer->left == 0)
        return TD_OK;
    return fail(TD_INVALID, "'%s' lacks %" PRIu64 " bytes of its elements", SHOWN(writer->name),
                writer->left);
}

static void entry_freep(struct archive_entry **entry)
{
    if (*entry)
        archive_entry_free(*entry);
}

enum td_status npz_write_member(struct npz_writer *writer, const char *name, enum td_dtype dtype,
                                const struct dims *shape)
{
    _cleanup_(utf8_leavep) locale_t before = utf8_enter();
    _cleanup_(entry_freep) struct archive_entry *entry = archive_entry_new();
    unsigned char header[NPY_WRITE_MAX];
    struct layout layout;
    size_t name_bytes = strnlen(name, NPZ_NAME_MAX + 1);
    (void)before;
    TRY(check_complete(writer));
    TRY(layout_contiguous(dtype, shape, &layout));
    if (name_bytes > NPZ_NAME_MAX)
        return fail(TD_INVALID,
                    "the name '%.60s...' has more than %d bytes, too many for an .npz "
                    "archive",
                    name, NPZ_NAME_MAX);
    if (!entry)
        return fail(TD_OUT_OF_MEMORY, "no memory to write an .npz archive");
    snprintf(writer->name, sizeof writer->name, "%s" SUFFIX, name);
    size_t header_bytes = npy_write(dtype, shape, header);
    archive_entry_set_pathname(entry, writer->name);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, (la_int64_t)header_bytes + layout_nbytes(&layout));
    TRY(written(writer, archive_write_header(writer->archive, entry) == ARCHIVE_OK));
    writer->left = (uint64_t)layout_nbytes(&layout);
    return write_all(writer, header, header_bytes);
}

enum td_status npz_write_bytes(struct npz_writer *writer, const void *bytes, size_t length)
{
    if (length > writer->left)
        return fail(TD_INVALID, "%zu bytes for '%s', of whose elements %" PRIu64 " are left",
                    length, SHOWN(writer->name), writer->left);
    TRY(write_all(writer, bytes, length));
    writer->left -= length;
    return TD_OK;
}

enum td_status npz_write_end(struct npz_writer *writer)
{
    TRY(check_complete(writer));
    return written(writer, archive_write_close(writer->archive) == ARCHIVE_OK);
}

void npz_write_destroy(struct npz_writer *writer)
{
    if (!writer)
        return;
    writer->status = TD_CANCELLED; /* freeing an archive that was not ended writes its directory */
    if (writer->archive)
        archive_write_free(writer->archive);
    free(writer);
}
