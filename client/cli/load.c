#include "client/cli/load.h"
#include "client/cli/arrange.h"
#include "proto/format/npz.h"
#include "proto/format/safetensors.h"

#include <inttypes.h>
#include <string.h>

enum td_status load_verdict(const struct load *load, enum td_status status)
{
    char detail[FAIL_DETAIL_SIZE];
    if (status == TD_OK)
        return TD_OK;
    snprintf(detail, sizeof detail, "%s", fail_detail());
    return fail(status, "%s: %.900s", load->file->label, detail);
}

/* ---- npy ----------------------------------------------------------------------------------- */

/* Hands the member over, its elements arranged if they have to be. */
static enum td_status take_arranged(const struct npy_header *header, struct member *member,
                                    const void *elements, load_take *take_member, void *argument)
{
    _cleanup_(freep) void *arranged = NULL;
    member->dtype = header->dtype;
    member->shape = header->shape;
    member->elements = elements;
    if (arrange_needed(header)) {
        member->elements = arranged = malloc(member->size_bytes + 1);
        if (!arranged)
            return fail(TD_OUT_OF_MEMORY, "no memory to arrange %zu bytes", member->size_bytes);
        TRY(arrange_elements(header, elements, arranged));
    }
    return take_member(argument, member);
}

static enum td_status load_npy(const struct load *load, load_take *take_member, void *argument)
{
    const struct file_in *file = load->file;
    struct npy_header header;
    struct layout layout;
    size_t needed;
    TRY(load_verdict(load, npy_read(file->bytes, file->length, load->dtype, &header, &needed)));
    if (needed)
        return fail(TD_INVALID, "%s ends in the middle of its npy header", file->label);
    TRY(layout_contiguous(header.dtype, &header.shape, &layout));
    uint64_t announced = (uint64_t)layout_nbytes(&layout);
    uint64_t there = file->length - header.header_bytes;
    if (there != announced)
        return fail(TD_INVALID,
                    "%s has %" PRIu64 " bytes of elements, and its header announces %" PRIu64
                    "; it is damaged, or not all of it is there",
                    file->label, there, announced);
    struct member member = {.name = "", .only = true, .size_bytes = (size_t)announced};
    return take_arranged(&header, &member, file->bytes + header.header_bytes, take_member,
                         argument);
}

/* ---- npz ----------------------------------------------------------------------------------- */

struct archive {
    load_take *take_member;
    void *argument;
    bool taking; /* the error is the taker's */
};

static enum td_status archive_bytes(void *context, uint64_t offset, void *out, size_t room,
                                    size_t *got)
{
    const struct file_in *file = context;
    size_t left = offset < file->length ? file->length - (size_t)offset : 0;
    *got = left < room ? left : room;
    if (*got > 0)
        memcpy(out, file->bytes + offset, *got);
    return TD_OK;
}

static enum td_status archive_visit(void *context, struct npz_reader *reader,
                                    const struct npz_member *in_archive)
{
    struct archive *archive = context;
    struct member member = {.name = in_archive->name, .size_bytes = (size_t)in_archive->data_bytes};
    _cleanup_(freep) unsigned char *elements = malloc(member.size_bytes + 1);
    size_t got = 1;
    if (!elements)
        return fail(TD_OUT_OF_MEMORY, "no memory for the %zu bytes of '%s'", member.size_bytes,
                    member.name);
    for (size_t have = 0; have < member.size_bytes && got > 0; have += got)
        TRY(npz_pull(reader, elements + have, member.size_bytes - have, &got));
    archive->taking = true;
    TRY(take_arranged(&in_archive->header, &member, elements, archive->take_member,
                      archive->argument));
    archive->taking = false;
    return TD_OK;
}

static enum td_status load_npz(const struct load *load, load_take *take_member, void *argument)
{
    struct archive archive = {.take_member = take_member, .argument = argument};
    struct npz_source source = {.context = (void *)(uintptr_t)load->file,
                                .read = archive_bytes,
                                .size_bytes = load->file->length};
    enum td_status status =
        npz_read_each(&source, load->dtype, load->most_bytes, archive_visit, &archive);
    return archive.taking ? status : load_verdict(load, status);
}

/* ---- safetensors --------------------------------------------------------------------------- */

static enum td_status load_safetensors(const struct load *load, load_take *take_member,
                                       void *argument)
{
    const struct file_in *file = load->file;
    struct safetensors *header = NULL;
    size_t needed;
    TRY(load_verdict(load, safetensors_needed(file->bytes, file->length, &needed)));
    if (needed > file->length)
        return fail(TD_INVALID, "%s ends in the middle of its safetensors header", file->label);
    TRY(load_verdict(load, safetensors_read(file->bytes, file->length, file->length, &header)));
    enum td_status status = TD_OK;
    for (size_t i = 0; i < header->count && status == TD_OK; i++) {
        const struct safetensors_entry *entry = &header->entries[i];
        struct member member = {
            .name = entry->name,
            .only = header->count == 1,
            .dtype = entry->dtype,
            .shape = entry->shape,
            .elements = file->bytes + header->header_bytes + entry->begin,
            .size_bytes = (size_t)(entry->end - entry->begin),
        };
        status = take_member(argument, &member);
    }
    safetensors_destroy(header);
    return status;
}

/* ---- raw ----------------------------------------------------------------------------------- */

static enum td_status load_raw(const struct load *load, load_take *take_member, void *argument)
{
    const struct file_in *file = load->file;
    struct layout layout;
    struct member member = {.name = "",
                            .only = true,
                            .dtype = load->dtype,
                            .elements = file->bytes,
                            .size_bytes = file->length};
    if (load->dtype == TD_DTYPE_NONE)
        return fail(TD_INVALID,
                    "%s is raw bytes; --dtype has to say of what, and --shape in what shape",
                    file->label);
    size_t element = td_dtype_size((int)load->dtype);
    member.shape = load->shape ? *load->shape
                               : (struct dims){.rank = 1, .v = {(int64_t)(file->length / element)}};
    TRY(layout_contiguous(load->dtype, &member.shape, &layout));
    if ((uint64_t)layout_nbytes(&layout) != file->length)
        return fail(TD_BAD_SHAPE, "%s has %zu bytes, and %s of shape %s takes %" PRId64,
                    file->label, file->length, td_dtype_name((int)load->dtype),
                    layout_shape_text(layout.rank, layout.shape, (char[SHAPE_TEXT_SIZE]){0},
                                      SHAPE_TEXT_SIZE),
                    layout_nbytes(&layout));
    return take_member(argument, &member);
}

bool load_holds_one(const struct load *load)
{
    const struct file_in *file = load->file;
    struct safetensors *header = NULL;
    if (load->format == FORMAT_NPZ)
        return false;
    bool several = load->format == FORMAT_SAFETENSORS &&
                   safetensors_read(file->bytes, file->length, file->length, &header) == TD_OK &&
                   header->count != 1;
    safetensors_destroy(header);
    return !several;
}

enum td_status load_members(const struct load *load, load_take *take_member, void *argument)
{
    static enum td_status (*const loaders[FORMAT_END])(const struct load *, load_take *, void *) = {
        [FORMAT_NPY] = load_npy, [FORMAT_NPZ] = load_npz,   [FORMAT_SAFETENSORS] = load_safetensors,
        [FORMAT_RAW] = load_raw, [FORMAT_JSON] = load_json,
    };
    if (!loaders[load->format])
        return fail(TD_UNSUPPORTED, "%s is for people; it is not read back",
                    format_infos[load->format].name);
    return loaders[load->format](load, take_member, argument);
}
