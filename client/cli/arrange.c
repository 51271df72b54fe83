#include "client/cli/arrange.h"

#include <stddef.h>
#include <string.h>

/* Only sizes over 1 can be in the wrong order. */
static bool order_matters(const struct dims *shape)
{
    int larger = 0;
    for (int i = 0; i < shape->rank; i++)
        larger += shape->v[i] > 1;
    return larger > 1;
}

bool arrange_needed(const struct npy_header *header)
{
    return (header->fortran_order && order_matters(&header->shape)) ||
           (header->big_endian && td_dtype_size((int)header->dtype) > 1);
}

/* With a size that the compiler knows, memcpy is a load and a store. */
static inline void copy_row(char *out, int64_t out_step, const char *in, int64_t in_step,
                            int64_t count, size_t size)
{
    for (int64_t i = 0; i < count; i++)
        memcpy(out + i * out_step, in + i * in_step, size);
}

static void copy_row_of(size_t size, char *out, int64_t out_step, const char *in, int64_t in_step,
                        int64_t count)
{
    switch (size) {
    case 1:
        copy_row(out, out_step, in, in_step, count, 1);
        break;
    case 2:
        copy_row(out, out_step, in, in_step, count, 2);
        break;
    case 4:
        copy_row(out, out_step, in, in_step, count, 4);
        break;
    case 8:
        copy_row(out, out_step, in, in_step, count, 8);
        break;
    default:
        copy_row(out, out_step, in, in_step, count, size);
        break;
    }
}

static enum td_status from_fortran(const struct npy_header *header, const char *in, char *out)
{
    struct layout c_order, fortran;
    struct layout_rows rows;
    int64_t steps[2][RANK_MAX], row_steps[2], counters[RANK_MAX] = {0}, offsets[2] = {0};
    TRY(layout_contiguous(header->dtype, &header->shape, &c_order));
    fortran = c_order;
    int64_t stride = 1;
    for (int i = 0; i < fortran.rank; i++) {
        fortran.strides[i] = stride;
        stride *= fortran.shape[i] ? fortran.shape[i] : 1; /* checked by layout_contiguous */
    }
    layout_rows((const struct layout *const[]){&c_order, &fortran}, 2, &rows, steps, row_steps);
    if (rows.rows > 0)
        do
            copy_row_of(td_dtype_size((int)header->dtype), out + offsets[0], row_steps[0],
                        in + offsets[1], row_steps[1], rows.count);
        while (layout_rows_next(&rows, counters, steps, 2, offsets));
    return TD_OK;
}

/* Reverses the bytes of each number. */
static void swap_bytes(unsigned char *bytes, size_t length, size_t number)
{
    for (size_t at = 0; at < length; at += number)
        for (size_t i = 0; i < number / 2; i++) {
            unsigned char byte = bytes[at + i];
            bytes[at + i] = bytes[at + number - 1 - i];
            bytes[at + number - 1 - i] = byte;
        }
}

enum td_status arrange_elements(const struct npy_header *header, const void *in, void *out)
{
    struct layout layout;
    TRY(layout_contiguous(header->dtype, &header->shape, &layout));
    size_t size = (size_t)layout_nbytes(&layout), element = td_dtype_size((int)header->dtype);
    if (header->fortran_order && order_matters(&header->shape))
        TRY(from_fortran(header, in, out));
    else if (size > 0)
        memcpy(out, in, size);
    bool is_complex = dtype_infos[header->dtype].kind == 'c';
    if (header->big_endian && element > 1)
        swap_bytes(out, size, is_complex ? element / 2 : element);
    return TD_OK;
}
