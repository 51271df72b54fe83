#include "server/bundle_formats.h"

#include "core/cleanup.h"
#include "proto/format/npy.h"
#include "proto/format/npz.h"
#include "proto/format/safetensors.h"

#include <string.h>

/* ---- safetensors -------------------------------------------------------------------------------
 */

/* What safetensors_read takes for each byte of a header, at most: a tensor of 300 bytes has 48 in
 * the header, and the text is held twice. */
#define HEADER_FACTOR 9

static void safetensors_destroyp(struct safetensors **file)
{
    safetensors_destroy(*file);
}

/* The header at the start of a file, of whose `file_bytes` only so many need be there. */
static enum td_status read_header(const struct bundle_file *start, uint64_t file_bytes,
                                  struct ledger *ledger, struct safetensors **out)
{
    size_t needed = 0, length = start->size < SIZE_MAX ? (size_t)start->size : SIZE_MAX;
    TRY(safetensors_needed(start->bytes, length < 9 ? length : 9, &needed));
    uint64_t working = HEADER_FACTOR * (uint64_t)needed;
    if (needed > length)
        needed = length; /* for safetensors_read to refuse */
    TRY(ledger_reserve(ledger, working, 0, 0));
    enum td_status status = safetensors_read(start->bytes, needed, file_bytes, out);
    ledger_release(ledger, working, 0, 0);
    return status;
}

static uint64_t safetensors_total(const struct bundle_file *start, struct ledger *ledger)
{
    _cleanup_(safetensors_destroyp) struct safetensors *read = NULL;
    if (read_header(start, UINT64_MAX, ledger, &read) != TD_OK)
        return 0;
    return read->header_bytes + read->data_bytes;
}

static enum td_status safetensors_load(const struct bundle_file *file, enum td_dtype hint,
                                       uint64_t max_bytes, struct bundle *out)
{
    _cleanup_(safetensors_destroyp) struct safetensors *read = NULL;
    (void)hint;
    (void)max_bytes;
    TRY(read_header(file, file->size, out->ledger, &read));
    for (size_t i = 0; i < read->count; i++) {
        const struct safetensors_entry *entry = &read->entries[i];
        TRY(bundle_add(out, &(struct bundle_item){.name = entry->name,
                                                  .dtype = entry->dtype,
                                                  .shape = entry->shape,
                                                  .offset = read->header_bytes + entry->begin}));
    }
    out->metadata = take(&read->metadata);
    return TD_OK;
}

static int compare_items(const void *a, const void *b)
{
    const struct bundle_item *x = a, *y = b;
    struct safetensors_entry left = {.name = x->name, .dtype = x->dtype};
    struct safetensors_entry right = {.name = y->name, .dtype = y->dtype};
    return safetensors_compare(&left, &right);
}

static enum td_status safetensors_head(struct bundle *bundle, unsigned char **out, size_t *length)
{
    size_t count = bundle->count;
    if (count > 1)
        qsort(bundle->items, count, sizeof *bundle->items, compare_items);
    _cleanup_(freep) struct safetensors_entry *entries = calloc(count + 1, sizeof *entries);
    if (!entries)
        return fail(TD_OUT_OF_MEMORY, "no memory for the header of %zu tensors", count);
    for (size_t i = 0; i < count; i++) {
        entries[i].name = bundle->items[i].name;
        entries[i].dtype = bundle->items[i].dtype;
        entries[i].shape = bundle->items[i].shape;
    }
    return safetensors_write(entries, count, bundle->metadata, out, length);
}

/* ---- npy ---------------------------------------------------------------------------------------
 */

static struct bundle_item item_of_npy(const char *name, const struct npy_header *header,
                                      uint64_t offset)
{
    return (struct bundle_item){.name = name,
                                .dtype = header->dtype,
                                .shape = header->shape,
                                .offset = offset,
                                .fortran_order = header->fortran_order,
                                .big_endian = header->big_endian};
}

static uint64_t npy_total(const struct bundle_file *start, struct ledger *ledger)
{
    struct npy_header header;
    size_t needed, length = start->size < NPY_HEADER_MAX ? (size_t)start->size : NPY_HEADER_MAX;
    (void)ledger;
    /* What void elements mean does not change how large they are. */
    if (npy_read(start->bytes, length, TD_BFLOAT16, &header, &needed) != TD_OK || needed)
        return 0;
    struct bundle_item item = item_of_npy(NULL, &header, 0);
    return header.header_bytes + bundle_item_bytes(&item);
}

static enum td_status npy_load(const struct bundle_file *file, enum td_dtype hint,
                               uint64_t max_bytes, struct bundle *out)
{
    struct npy_header header;
    size_t needed, length = file->size < NPY_HEADER_MAX ? (size_t)file->size : NPY_HEADER_MAX;
    (void)max_bytes;
    TRY(npy_read(file->bytes, length, hint, &header, &needed));
    if (needed)
        return fail(TD_INVALID, "the .npy file ends within its header");
    struct bundle_item item = item_of_npy(NULL, &header, header.header_bytes);
    uint64_t expected = header.header_bytes + bundle_item_bytes(&item);
    if (file->size != expected)
        return fail(TD_INVALID, "the .npy file has %llu bytes; expected %llu by its header",
                    (unsigned long long)file->size, (unsigned long long)expected);
    return bundle_add(out, &item);
}

static enum td_status npy_head(struct bundle *bundle, unsigned char **out, size_t *length)
{
    const struct bundle_item *item = bundle->items;
    if (bundle->count != 1)
        return fail(TD_INVALID,
                    "an .npy file has one array, and these are %zu tensors; save them as npz or "
                    "safetensors",
                    bundle->count);
    *out = malloc(NPY_WRITE_MAX);
    if (!*out)
        return fail(TD_OUT_OF_MEMORY, "no memory for a header");
    *length = npy_write(item->dtype, &item->shape, *out);
    return TD_OK;
}

/* ---- npz ---------------------------------------------------------------------------------------
 */

static enum td_status read_from_memory(void *context, uint64_t offset, void *out, size_t room,
                                       size_t *got)
{
    const struct bundle_file *file = context;
    uint64_t left = offset < file->size ? file->size - offset : 0;
    *got = left < room ? (size_t)left : room;
    memcpy(out, file->bytes + offset, *got);
    return TD_OK;
}

static struct npz_source source_of(const struct bundle_file *file)
{
    return (struct npz_source){(void *)(uintptr_t)file, read_from_memory, file->size};
}

static enum td_status npz_add_member(void *context, struct npz_reader *reader,
                                     const struct npz_member *member)
{
    struct bundle *out = context;
    (void)reader;
    uint64_t offset = out->unpacked_bytes;
    offset += -offset % BUNDLE_ALIGNMENT;
    struct bundle_item item = item_of_npy(member->name, &member->header, offset);
    out->unpacked_bytes = offset + member->data_bytes;
    return bundle_add(out, &item);
}

static enum td_status npz_load(const struct bundle_file *file, enum td_dtype hint,
                               uint64_t max_bytes, struct bundle *out)
{
    struct npz_source source = source_of(file);
    return npz_read_each(&source, hint, max_bytes, npz_add_member, out);
}

struct unpacking {
    const struct bundle *bundle;
    size_t next;
    unsigned char *to;
};

static enum td_status npz_unpack_member(void *context, struct npz_reader *reader,
                                        const struct npz_member *member)
{
    struct unpacking *unpacking = context;
    const struct bundle *bundle = unpacking->bundle;
    const struct bundle_item *item = &bundle->items[unpacking->next];
    /* The archive is the same as before, and in memory that nobody else has. */
    if (unpacking->next++ >= bundle->count || member->data_bytes != bundle_item_bytes(item))
        return fail(TD_INTERNAL, "the archive reads differently for the second time");
    unsigned char *at = unpacking->to + item->offset;
    for (uint64_t left = member->data_bytes; left > 0;) {
        size_t got = 0;
        TRY(npz_pull(reader, at, (size_t)left, &got));
        at += got;
        left -= got;
    }
    return TD_OK;
}

static enum td_status npz_unpack(const struct bundle_file *file, enum td_dtype hint,
                                 const struct bundle *bundle, unsigned char *to)
{
    struct npz_source source = source_of(file);
    struct unpacking unpacking = {.bundle = bundle, .to = to};
    return npz_read_each(&source, hint, UINT64_MAX, npz_unpack_member, &unpacking);
}

static void npz_writer_destroyp(struct npz_writer **writer)
{
    npz_write_destroy(*writer);
}

/* What a member takes besides its elements and its name, which stands there twice: the header of
 * its .npy file, and the zip's records with all their extensions. */
#define MEMBER_BYTES (NPY_WRITE_MAX + 512)
#define DIRECTORY_BYTES 256 /* its end, zip64 */

static uint64_t npz_most_bytes(const struct bundle *bundle)
{
    uint64_t bytes = DIRECTORY_BYTES;
    for (size_t i = 0; i < bundle->count; i++)
        bytes +=
            bundle_item_bytes(&bundle->items[i]) + MEMBER_BYTES + 2 * strlen(bundle->items[i].name);
    return bytes;
}

static enum td_status npz_pack(const struct bundle *bundle, const struct bundle_io *io)
{
    _cleanup_(npz_writer_destroyp) struct npz_writer *writer = NULL;
    struct npz_sink sink = {io->context, io->write};
    TRY(npz_write_begin(&sink, false, &writer));
    for (size_t i = 0; i < bundle->count; i++) {
        const struct bundle_item *item = &bundle->items[i];
        const void *data;
        size_t size;
        TRY(npz_write_member(writer, item->name, item->dtype, &item->shape));
        do {
            TRY(io->next(io->context, i, &data, &size));
            TRY(npz_write_bytes(writer, data, size));
        } while (size > 0);
    }
    return npz_write_end(writer);
}

/* ---- the table ---------------------------------------------------------------------------------
 */

static const struct bundle_format safetensors = {
    .name = "safetensors",
    .content_type = "application/vnd.safetensors",
    .has_metadata = true,
    .recognise = safetensors_recognise,
    .total = safetensors_total,
    .read = safetensors_load,
    .head = safetensors_head,
};

static const struct bundle_format npz = {
    .name = "npz",
    .content_type = "application/zip",
    .packed = true,
    .is_numpy = true,
    .recognise = npz_recognise,
    .read = npz_load,
    .unpack = npz_unpack,
    .pack = npz_pack,
    .most_bytes = npz_most_bytes,
};

static const struct bundle_format npy = {
    .name = "npy",
    .content_type = "application/x-npy",
    .is_numpy = true,
    .recognise = npy_recognise,
    .total = npy_total,
    .read = npy_load,
    .head = npy_head,
};

const struct bundle_format *const bundle_formats[] = {&safetensors, &npz, &npy, NULL};
