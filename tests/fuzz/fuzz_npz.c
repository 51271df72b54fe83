/* Feeds bytes to the reader of .npz archives, as a file and as a pipe. What is read stays within
 * the limit, is as long as its headers say, and is read again from an archive that is written of
 * it.
 */
#include "proto/format/npz.h"

#include <stdlib.h>
#include <string.h>

#define LIMIT_BYTES ((uint64_t)1 << 20) /* of all members, inflated */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

struct archive_bytes {
    uint8_t *bytes;
    size_t length;
};

static enum td_status read_some(void *context, uint64_t offset, void *out, size_t room, size_t *got)
{
    const struct archive_bytes *archive = context;
    size_t left = offset < archive->length ? archive->length - (size_t)offset : 0;
    *got = left < room ? left : room;
    if (*got > 0)
        memcpy(out, archive->bytes + offset, *got);
    return TD_OK;
}

static enum td_status append(void *context, const void *bytes, size_t length)
{
    struct archive_bytes *archive = context;
    archive->bytes = realloc(archive->bytes, archive->length + length + 1);
    memcpy(archive->bytes + archive->length, bytes, length);
    archive->length += length;
    return TD_OK;
}

/* What the reader of an archive has seen of it. */
struct seen {
    struct npz_writer *copy; /* where what is seen is written anew, or NULL */
    enum td_dtype hint;
    uint64_t limit, bytes;
    uint64_t members, sum; /* of those that can be written and read again */
};

/* Elements that NumPy has no name for are read again only where the hint is theirs. */
static bool can_be_copied(const struct seen *seen, const struct npz_member *member)
{
    enum td_dtype dtype = member->header.dtype;
    return strlen(member->name) <= NPZ_NAME_MAX &&
           (dtype_infos[dtype].numpy[1] != 'V' || dtype == seen->hint);
}

static void take_member(struct seen *seen, const struct npz_member *member, const uint8_t *elements)
{
    if (!can_be_copied(seen, member))
        return;
    seen->members++;
    for (uint64_t i = 0; i < member->data_bytes; i++)
        seen->sum = seen->sum * 31 + elements[i];
    if (!seen->copy)
        return;
    require(npz_write_member(seen->copy, member->name, member->header.dtype,
                             &member->header.shape) == TD_OK);
    require(npz_write_bytes(seen->copy, elements, (size_t)member->data_bytes) == TD_OK);
}

static enum td_status visit(void *context, struct npz_reader *reader,
                            const struct npz_member *member)
{
    struct seen *seen = context;
    struct layout layout;
    size_t length = (size_t)member->data_bytes, have = 0, got = 1;
    require(layout_contiguous(member->header.dtype, &member->header.shape, &layout) == TD_OK);
    require(member->data_bytes == (uint64_t)layout_nbytes(&layout));
    seen->bytes += member->header.header_bytes + member->data_bytes;
    require(seen->bytes <= seen->limit);
    uint8_t *elements = malloc(length + 1);
    enum td_status status = TD_OK;
    while (status == TD_OK && got > 0) {
        status = npz_pull(reader, elements + have, length - have, &got);
        have += got;
    }
    if (status == TD_OK) {
        require(have == length);
        take_member(seen, member, elements);
    }
    free(elements);
    return status;
}

/* Reads the archive, and writes one of the members that were whole. */
static void read_and_write(const struct archive_bytes *archive, bool pipe, enum td_dtype hint)
{
    struct archive_bytes copy = {0};
    struct npz_source source = {(void *)(uintptr_t)archive, read_some,
                                pipe ? UINT64_MAX : archive->length};
    struct npz_sink sink = {&copy, append};
    struct seen first = {.hint = hint, .limit = LIMIT_BYTES};
    struct seen again = {.hint = hint, .limit = UINT64_MAX};
    require(npz_write_begin(&sink, archive->length % 2 == 1, &first.copy) == TD_OK);
    (void)npz_read_each(&source, hint, first.limit, visit, &first);
    require(npz_write_end(first.copy) == TD_OK);
    npz_write_destroy(first.copy);
    source.context = &copy;
    source.size_bytes = pipe ? UINT64_MAX : copy.length;
    require(npz_read_each(&source, hint, again.limit, visit, &again) == TD_OK);
    require(again.members == first.members && again.sum == first.sum);
    free(copy.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct archive_bytes archive = {malloc(size + 1), size};
    memcpy(archive.bytes, data, size);
    read_and_write(&archive, false, TD_DTYPE_NONE);
    read_and_write(&archive, true, TD_BFLOAT16);
    free(archive.bytes);
    return 0;
}
