/* cast: brings elements at any steps before the kernels, block by block through buffers in the
 * first cache, and what they make to where it belongs. */
#include "core/cast/cast.h"
#include "core/cast/cast_internal.h"
#include "core/dtype_info.h"

#include <stdint.h>
#include <string.h>

#define BLOCK_BYTES 4096
#define LINE 64

#define CAST_MOVE(SIZE)                                                                            \
    static void move_##SIZE(const unsigned char *restrict in, ptrdiff_t in_step,                   \
                            unsigned char *restrict out, ptrdiff_t out_step, ptrdiff_t count)      \
    {                                                                                              \
        if (in_step == 0 && out_step == SIZE)                                                      \
            for (ptrdiff_t i = 0; i < count; i++)                                                  \
                memcpy(out + i * SIZE, in, SIZE);                                                  \
        else                                                                                       \
            for (ptrdiff_t i = 0; i < count; i++)                                                  \
                memcpy(out + i * out_step, in + i * in_step, SIZE);                                \
    }
CAST_MOVE(1)
CAST_MOVE(2)
CAST_MOVE(4)
CAST_MOVE(8)
CAST_MOVE(16)

/* Copies elements of `size` bytes from steps to steps. */
static void move(const unsigned char *in, ptrdiff_t in_step, unsigned char *out, ptrdiff_t out_step,
                 size_t count, size_t size)
{
    static void (*const moves[17])(const unsigned char *restrict, ptrdiff_t,
                                   unsigned char *restrict, ptrdiff_t, ptrdiff_t) = {
        [1] = move_1, [2] = move_2, [4] = move_4, [8] = move_8, [16] = move_16,
    };
    moves[size](in, in_step, out, out_step, (ptrdiff_t)count);
}

/* How many elements come next. The first block ends where a line of the destination does, if its
 * elements are aligned at all, so that all others are whole lines. */
static size_t block_length(const unsigned char *dst, size_t in_size, size_t out_size, size_t left)
{
    size_t bytes = in_size > out_size ? BLOCK_BYTES / in_size * out_size : BLOCK_BYTES;
    size_t length = (bytes - (uintptr_t)dst % LINE) / out_size;
    return length < left ? length : left;
}

void cast_elements(enum td_dtype from, enum td_dtype to, const void *source,
                   ptrdiff_t src_step_bytes, void *destination, ptrdiff_t dst_step_bytes,
                   size_t count, unsigned flags)
{
    const unsigned char *src = source;
    unsigned char *dst = destination;
    const size_t in_size = dtype_infos[from].size_bytes, out_size = dtype_infos[to].size_bytes;
    const bool src_packed = src_step_bytes == (ptrdiff_t)in_size;
    const bool dst_packed = dst_step_bytes == (ptrdiff_t)out_size;
    /* The fence costs a short run more than it gains. */
    const bool is_long = count >= BLOCK_BYTES / out_size;
    const bool stream = (flags & CAST_STREAM) && dst_packed && is_long;
    const bool saturate = flags & CAST_SATURATE;
    cast_kernel kernel = cast_path_kernels()[from][to];
    _Alignas(LINE) unsigned char gathered[BLOCK_BYTES], made[BLOCK_BYTES];

    if (count == 0)
        return;
    if (src_packed && dst_packed && !stream) {
        kernel(src, dst, count, saturate);
        return;
    }
    if (from == to && !stream) {
        move(src, src_step_bytes, dst, dst_step_bytes, count, in_size);
        return;
    }
    for (size_t length; count > 0; count -= length) {
        length = block_length(dst, in_size, out_size, count);
        const unsigned char *in = src_packed ? src : gathered;
        if (!src_packed)
            move(src, src_step_bytes, gathered, (ptrdiff_t)in_size, length, in_size);
        unsigned char *out = dst_packed && !stream ? dst : made;
        kernel(in, out, length, saturate);
        if (stream)
            cast_stream(dst, made, length * out_size);
        else if (!dst_packed)
            move(made, (ptrdiff_t)out_size, dst, dst_step_bytes, length, out_size);
        src += (ptrdiff_t)length * src_step_bytes;
        dst += (ptrdiff_t)length * dst_step_bytes;
    }
    if (stream)
        cast_stream_end();
}
