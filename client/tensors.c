/* tensors: td_put, td_get, td_from_memory, td_touch. */
#include "client/internal.h"

#include <errno.h>
#include <string.h>

enum td_status tensor_describe(enum td_dtype dtype, int rank, const int64_t *shape,
                               struct layout *out)
{
    struct dims dims = {.rank = rank};
    if (rank < 0 || rank > RANK_MAX || (rank > 0 && !shape))
        return fail(TD_BAD_SHAPE, "%d dimensions were given; 0 to %d are possible", rank, RANK_MAX);
    if (rank > 0)
        memcpy(dims.v, shape, (size_t)rank * sizeof *shape);
    return layout_contiguous(dtype, &dims, out);
}

static struct dims layout_shape(const struct layout *layout)
{
    struct dims shape = {.rank = layout->rank};
    memcpy(shape.v, layout->shape, (size_t)layout->rank * sizeof *shape.v);
    return shape;
}

/* Runs the call and hands the reply over, or drops it when the caller wants none. */
static enum td_status finish(struct td_client *client, const struct call *call,
                             struct td_reply **out)
{
    struct td_reply *reply;
    TRY(client_call(client, call, &reply));
    if (out)
        *out = reply;
    else
        td_reply_free(reply);
    return TD_OK;
}

static enum td_status check_name(const char *name)
{
    if (!name)
        return fail(TD_INVALID, "no name was given (NULL)");
    return TD_OK;
}

enum td_status tensor_put(struct td_client *client, const char *name, const struct layout *layout,
                          const void *data, unsigned flags, struct td_reply **reply)
{
    struct fields fields;
    fields.present = 0;
    TRY(check_name(name));
    if (flags & ~(unsigned)(TD_PUT_MUTABLE | TD_PUT_REQUIRES_GRAD | TD_PUT_CREATE_ONLY))
        return fail(TD_INVALID, "unknown flags %#x of td_put", flags);
    if (!data && layout_nbytes(layout) > 0)
        return fail(TD_INVALID, "no elements were given for '%s' (NULL)", name);
    FIELDS_SET(&fields, output, text_of(name));
    FIELDS_SET(&fields, dtype, layout->dtype);
    FIELDS_SET(&fields, shape, layout_shape(layout));
    if (flags & TD_PUT_MUTABLE)
        FIELDS_SET(&fields, mutable, true);
    if (flags & TD_PUT_REQUIRES_GRAD)
        FIELDS_SET(&fields, requires_grad, true);
    if (flags & TD_PUT_CREATE_ONLY)
        FIELDS_SET(&fields, create_only, true);
    struct call call = {
        .op = OP_put,
        .fields = &fields,
        .body = data,
        .body_bytes = (size_t)layout_nbytes(layout),
        .descriptor = -1,
    };
    return finish(client, &call, reply);
}

enum td_status td_put(struct td_client *client, const char *name, enum td_dtype dtype, int rank,
                      const int64_t *shape, const void *data, unsigned flags,
                      struct td_reply **reply)
{
    struct layout layout;
    TRY(tensor_describe(dtype, rank, shape, &layout));
    return tensor_put(client, name, &layout, data, flags, reply);
}

static enum td_status get_fields(const char *name, enum td_dtype dtype, struct fields *out)
{
    out->present = 0;
    TRY(check_name(name));
    FIELDS_SET(out, input, text_of(name));
    if (dtype == TD_DTYPE_NONE)
        return TD_OK;
    if (!dtype_valid((int)dtype))
        return fail(TD_BAD_DTYPE, "there is no dtype number %d", (int)dtype);
    FIELDS_SET(out, dtype, dtype);
    return TD_OK;
}

enum td_status td_get(struct td_client *client, const char *name, enum td_dtype dtype, void *buffer,
                      size_t *size_bytes, struct td_reply **reply)
{
    struct fields fields;
    struct td_reply *got;
    TRY(get_fields(name, dtype, &fields));
    if (!buffer && *size_bytes > 0)
        return fail(TD_INVALID, "no buffer was given for '%s' (NULL)", name);
    struct call call = {
        .op = OP_get,
        .fields = &fields,
        .descriptor = -1,
        .into = buffer,
        .into_bytes = *size_bytes,
        .into_given = true,
    };
    enum td_status status = client_call(client, &call, &got);
    if (!got)
        return status;
    if (got->body_bytes > 0 || status == TD_OK)
        *size_bytes = got->body_bytes;
    if (reply && status == TD_OK)
        *reply = take(&got);
    td_reply_free(got);
    return status;
}

enum td_status td_get_alloc(struct td_client *client, const char *name, enum td_dtype dtype,
                            struct td_reply **reply)
{
    struct fields fields;
    TRY(get_fields(name, dtype, &fields));
    struct call call = {.op = OP_get, .fields = &fields, .descriptor = -1};
    return finish(client, &call, reply);
}

enum td_status td_touch(struct td_client *client, const char *name)
{
    struct fields fields;
    fields.present = 0;
    TRY(check_name(name));
    FIELDS_SET(&fields, input, text_of(name));
    struct call call = {.op = OP_touch, .fields = &fields, .descriptor = -1};
    return finish(client, &call, NULL);
}

/* ---- the caller's own memory --------------------------------------------------------------- */

struct own_memory {
    struct layout c_order;
    struct dims strides;
    const void *data;
    int descriptor; /* of the region around data, ours; -1: it is no memory that can be shared */
    uint64_t offset_bytes;
};

static void own_memory_finish(struct own_memory *memory)
{
    if (memory->descriptor >= 0)
        close(memory->descriptor);
}

static enum td_status own_memory_check(enum td_dtype dtype, int rank, const int64_t *shape,
                                       const int64_t *strides, const void *data,
                                       struct own_memory *out)
{
    out->descriptor = -1;
    out->data = data;
    TRY(tensor_describe(dtype, rank, shape, &out->c_order));
    if (!data && out->c_order.elements > 0)
        return fail(TD_INVALID, "no elements were given (NULL)");
    out->strides.rank = rank;
    if (rank > 0)
        memcpy(out->strides.v, strides ? strides : out->c_order.strides,
               (size_t)rank * sizeof *out->strides.v);
    return TD_OK;
}

/* Finds the region that holds the elements, all of them, if there is one. */
static enum td_status own_memory_locate(struct own_memory *memory)
{
    const void *base;
    size_t size;
    struct dims shape = layout_shape(&memory->c_order);
    struct layout checked;
    memory->offset_bytes = 0;
    if (!region_find(memory->data, &base, &size, &memory->descriptor)) {
        size = INT64_MAX; /* the caller alone knows how far it reaches */
    } else {
        if (memory->descriptor < 0)
            return fail(TD_OUT_OF_MEMORY, "no descriptor to share the memory with: %s",
                        strerror(errno));
        memory->offset_bytes = (uint64_t)((const char *)memory->data - (const char *)base);
    }
    return layout_strided(memory->c_order.dtype, &shape, &memory->strides, memory->offset_bytes,
                          size, &checked);
}

static enum td_status from_shared(struct td_client *client, struct fields *fields,
                                  const struct own_memory *memory, struct td_reply **reply)
{
    FIELDS_SET(fields, strides, memory->strides);
    FIELDS_SET(fields, offset_bytes, memory->offset_bytes);
    struct call call = {.op = OP_from_numpy, .fields = fields, .descriptor = memory->descriptor};
    return finish(client, &call, reply);
}

static enum td_status from_copy(struct td_client *client, struct fields *fields,
                                const struct own_memory *memory, struct td_reply **reply)
{
    const struct layout *layout = &memory->c_order;
    size_t size = (size_t)layout_nbytes(layout);
    struct call call = {
        .op = OP_from_numpy,
        .fields = fields,
        .body = memory->data,
        .body_bytes = size,
        .descriptor = -1,
    };
    if (strides_are_c_order(layout->rank, layout->shape, memory->strides.v))
        return finish(client, &call, reply);
    void *copy = block_alloc(size);
    if (!copy)
        return fail(TD_OUT_OF_MEMORY, "no memory to gather %zu bytes into C order", size);
    gather(td_dtype_size((int)layout->dtype), layout->rank, layout->shape, memory->strides.v,
           memory->data, copy);
    call.body = copy;
    enum td_status status = finish(client, &call, reply);
    block_free(copy, size);
    return status;
}

enum td_status td_from_memory(struct td_client *client, const char *output, enum td_dtype dtype,
                              int rank, const int64_t *shape, const int64_t *strides, void *data,
                              bool require_shared, struct td_reply **reply)
{
    _cleanup_(own_memory_finish) struct own_memory memory = {.descriptor = -1};
    struct fields fields;
    fields.present = 0;
    TRY(own_memory_check(dtype, rank, shape, strides, data, &memory));
    TRY(own_memory_locate(&memory));
    FIELDS_SET(&fields, dtype, dtype);
    FIELDS_SET(&fields, shape, layout_shape(&memory.c_order));
    if (output)
        FIELDS_SET(&fields, output, text_of(output));
    if (require_shared)
        FIELDS_SET(&fields, require_shared, true);
    bool shareable = memory.descriptor >= 0 && td_is_local(client);
    if (shareable)
        return from_shared(client, &fields, &memory, reply);
    if (require_shared && !td_is_local(client))
        return fail(TD_UNSUPPORTED,
                    "memory cannot be shared with %s; connect through the daemon's "
                    "Unix socket, or let it be copied",
                    client->address.url);
    if (require_shared)
        return fail(TD_UNSUPPORTED,
                    "this memory is ordinary heap memory, which cannot be shared; "
                    "allocate it with td_shared_alloc (in Python: tensord.empty, or NumPy within "
                    "tensord.allocator()), or let it be copied");
    return from_copy(client, &fields, &memory, reply);
}
