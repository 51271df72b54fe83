/* byte_order: numbers whose bytes come the other way round. */
#ifndef CORE_BYTE_ORDER_H
#define CORE_BYTE_ORDER_H

#include "core/dtype_info.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes that are reversed together: those of a number, or of a complex one's part. 1: none are. */
static inline size_t byte_order_unit(enum td_dtype dtype)
{
    const struct dtype_info *info = &dtype_infos[dtype];
    return info->kind == 'c' ? info->size_bytes / 2 : info->size_bytes;
}

#define BYTE_ORDER_SWAP(bits)                                                                      \
    for (size_t i = 0; i + sizeof(uint##bits##_t) <= size; i += sizeof(uint##bits##_t)) {          \
        uint##bits##_t number;                                                                     \
        memcpy(&number, bytes + i, sizeof number);                                                 \
        number = __builtin_bswap##bits(number);                                                    \
        memcpy(bytes + i, &number, sizeof number);                                                 \
    }

/* Turns round all whole units of 2, 4 or 8 bytes. */
static inline void byte_order_swap(unsigned char *bytes, size_t size, size_t unit)
{
    if (unit == 2)
        BYTE_ORDER_SWAP(16)
    else if (unit == 4)
        BYTE_ORDER_SWAP(32)
    else if (unit == 8)
        BYTE_ORDER_SWAP(64)
}

#endif
