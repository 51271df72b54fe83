/* Feeds bytes to the reader of .npy headers, whole and in the pieces that it asks for. What is read
 * must be a shape that can be, and must be read again from the header that is written for it. */
#include "proto/format/npy.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

/* Reads from a copy of exactly that size, so that the address sanitizer sees what is read past it.
 */
static enum td_status read_exact(const uint8_t *data, size_t size, enum td_dtype hint,
                                 struct npy_header *out, size_t *needed)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (size > 0)
        memcpy(copy, data, size);
    enum td_status status = npy_read(copy, size, hint, out, needed);
    free(copy);
    return status;
}

/* As a stream: only as many bytes as were asked for. What comes of it must be the same. */
static void read_in_pieces(const uint8_t *data, size_t size, enum td_dtype hint,
                           enum td_status whole, const struct npy_header *expected)
{
    struct npy_header header;
    size_t have = 0, needed = 0;
    for (;;) {
        enum td_status status = read_exact(data, have, hint, &header, &needed);
        if (status != TD_OK) {
            require(status == whole);
            return;
        }
        if (needed == 0)
            break;
        require(needed > have && needed <= NPY_HEADER_MAX);
        if (needed > size)
            return;
        have = needed;
    }
    require(whole == TD_OK && header.header_bytes == have);
    require(header.dtype == expected->dtype && header.header_bytes == expected->header_bytes);
}

static void check_header(const struct npy_header *header, size_t size)
{
    struct layout layout;
    struct npy_header again;
    unsigned char written[NPY_WRITE_MAX];
    size_t needed;
    require(header->header_bytes <= size && header->header_bytes <= NPY_HEADER_MAX);
    require(layout_contiguous(header->dtype, &header->shape, &layout) == TD_OK);
    require(!header->big_endian || td_dtype_size((int)header->dtype) > 1);
    size_t length = npy_write(header->dtype, &header->shape, written);
    require(length % 64 == 0 && length <= sizeof written);
    require(read_exact(written, length, header->dtype, &again, &needed) == TD_OK && needed == 0);
    require(again.dtype == header->dtype && again.header_bytes == length);
    require(again.shape.rank == header->shape.rank && !again.fortran_order && !again.big_endian);
    for (int d = 0; d < again.shape.rank; d++)
        require(again.shape.v[d] == header->shape.v[d]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum td_dtype hints[] = {TD_DTYPE_NONE, TD_BFLOAT16, TD_FLOAT8_E4M3FN};
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        struct npy_header header = {0};
        size_t needed = 0;
        enum td_status status = read_exact(data, size, hints[i], &header, &needed);
        require(status != TD_OK || needed == 0 || (needed > size && needed <= NPY_HEADER_MAX));
        if (status == TD_OK && needed == 0)
            check_header(&header, size);
        if (status != TD_OK || needed == 0)
            read_in_pieces(data, size, hints[i], status, &header);
    }
    return 0;
}
