/* What stands before the elements of a body, and tells what they are. */
#include "core/byte_order.h"
#include "proto/format/npy.h"
#include "proto/format/npz.h"
#include "proto/format/safetensors.h"
#include "server/http_upload.h"

#include <string.h>

#define HEAD_MAX ((size_t)1 << 20) /* bytes before the elements of a file */
#define SNIFF_BYTES 9              /* tell the formats apart */

enum td_status upload_agree_on_dtype(struct exchange *x, enum td_dtype dtype)
{
    if (FIELDS_HAS(&x->in, dtype) && x->in.dtype != dtype)
        return fail(TD_BAD_DTYPE,
                    "the file holds %s, not %s; store it as it is and cast it with "
                    "/v1/ops/type, or when you get it (?dtype=)",
                    td_dtype_name((int)dtype), td_dtype_name((int)x->in.dtype));
    FIELDS_SET(&x->in, dtype, dtype);
    return TD_OK;
}

enum td_status upload_agree_on_shape(struct exchange *x, const struct dims *shape)
{
    const struct dims *asked = &x->in.shape;
    if (FIELDS_HAS(&x->in, shape) &&
        (asked->rank != shape->rank ||
         memcmp(asked->v, shape->v, (size_t)shape->rank * sizeof shape->v[0]) != 0))
        return fail(TD_BAD_SHAPE, "the file has another shape than shape= says; leave shape= out");
    FIELDS_SET(&x->in, shape, *shape);
    return TD_OK;
}

static enum td_status npy_begin(struct exchange *x, size_t *needed)
{
    struct upload *upload = x->upload;
    struct npy_header header;
    enum td_dtype hint = FIELDS_HAS(&x->in, dtype) ? x->in.dtype : TD_DTYPE_NONE;
    TRY(npy_read(upload->head, upload->head_length, hint, &header, needed));
    if (*needed)
        return TD_OK;
    TRY(upload_agree_on_dtype(x, header.dtype));
    TRY(upload_agree_on_shape(x, &header.shape));
    if (header.big_endian)
        upload->swap_bytes = byte_order_unit(header.dtype);
    if (header.fortran_order && header.shape.rank > 1) {
        if (upload->op != OP_put)
            return fail(TD_UNSUPPORTED,
                        "%s takes elements in C order; this file is in Fortran order",
                        op_infos[upload->op].name);
        struct dims strides = {.rank = header.shape.rank};
        int64_t step = 1;
        for (int i = 0; i < strides.rank; i++) {
            strides.v[i] = step;
            if (header.shape.v[i] && __builtin_mul_overflow(step, header.shape.v[i], &step))
                return fail(TD_BAD_SHAPE, "the shape has too many elements");
        }
        FIELDS_SET(&x->in, strides, strides);
    }
    upload->consumed = header.header_bytes;
    return TD_OK;
}

static enum td_status safetensors_begin(struct exchange *x, size_t *needed)
{
    struct upload *upload = x->upload;
    struct safetensors *file = NULL;
    TRY(safetensors_needed(upload->head, upload->head_length, needed));
    if (*needed > upload->head_length)
        return TD_OK;
    *needed = 0;
    TRY(safetensors_read(upload->head, upload->head_length, x->declared_length, &file));
    struct safetensors_entry entry = {0};
    size_t count = file->count;
    if (count == 1)
        entry = file->entries[0];
    upload->consumed = file->header_bytes;
    safetensors_destroy(file);
    if (count != 1)
        return fail(TD_UNSUPPORTED,
                    "the file has %zu tensors; here it must have one. PUT /v1/bundle stores all "
                    "that a file has",
                    count);
    TRY(upload_agree_on_dtype(x, entry.dtype));
    return upload_agree_on_shape(x, &entry.shape);
}

enum td_status upload_recognise(struct upload *upload)
{
    const unsigned char *head = (const unsigned char *)upload->head;
    size_t length = upload->head_length, blanks = 0;
    while (blanks < length && memchr(" \t\r\n", head[blanks], 4))
        blanks++;
    if (npy_recognise(head, length))
        upload->format = FORMAT_NPY;
    else if (safetensors_recognise(head, length))
        upload->format = FORMAT_SAFETENSORS; /* before JSON: its length may look like a bracket */
    else if (blanks < length && (head[blanks] == '{' || head[blanks] == '['))
        upload->format = FORMAT_JSON;
    else if (npz_recognise(head, length))
        return fail(TD_UNSUPPORTED,
                    "the body is an npz archive, and this is for one tensor; PUT it to "
                    "/v1/bundle?prefix=NAME, which stores all that are in it");
    else
        return fail(TD_UNSUPPORTED,
                    "the body is not recognised as npy, safetensors or JSON; raw bytes need "
                    "dtype= and shape=");
    return TD_OK;
}

static enum td_status head_reserve(struct exchange *x, size_t room)
{
    struct upload *upload = x->upload;
    if (room <= upload->head_room)
        return TD_OK;
    if (room > HEAD_MAX)
        return fail(TD_TOO_LARGE, "the file's header has over %zu bytes", HEAD_MAX);
    TRY(exchange_charge(x, room - upload->head_room, 0));
    char *larger = realloc(upload->head, room);
    if (!larger)
        return fail(TD_OUT_OF_MEMORY, "no memory for the file's header");
    upload->head = larger;
    upload->head_room = room;
    return TD_OK;
}

static enum td_status head_begin(struct exchange *x, size_t *needed)
{
    return x->upload->format == FORMAT_NPY ? npy_begin(x, needed) : safetensors_begin(x, needed);
}

void upload_head_begin(struct exchange *x)
{
    struct upload *upload = x->upload;
    upload->head_needed = upload->format == FORMAT_NONE ? SNIFF_BYTES : NPY_MAGIC_BYTES + 4;
    if (upload->format == FORMAT_NONE && x->declared_length < SNIFF_BYTES)
        upload->head_needed = (size_t)x->declared_length; /* such as [1, 2] */
}

enum td_status upload_head_body(struct exchange *x, const char *data, size_t *length,
                                bool *complete)
{
    struct upload *upload = x->upload;
    size_t missing = upload->head_needed - upload->head_length;
    size_t part = *length < missing ? *length : missing;
    *complete = false;
    TRY(head_reserve(x, upload->head_needed));
    memcpy(upload->head + upload->head_length, data, part);
    upload->head_length += part;
    *length -= part;
    if (upload->head_length < upload->head_needed)
        return TD_OK;
    if (upload->format == FORMAT_NONE)
        TRY(upload_recognise(upload));
    if (upload->format != FORMAT_JSON)
        TRY(head_begin(x, &upload->head_needed));
    *complete = upload->format == FORMAT_JSON || !upload->head_needed;
    return TD_OK;
}
