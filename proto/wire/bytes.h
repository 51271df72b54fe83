/* bytes: little-endian numbers at any address. For the sources of proto/wire only. */
#ifndef PROTO_WIRE_BYTES_H
#define PROTO_WIRE_BYTES_H

#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire's numbers are copied as is");

#define BYTES_ACCESS(type, name)                                                                   \
    static inline type name##_load(const uint8_t *in)                                              \
    {                                                                                              \
        type value;                                                                                \
        memcpy(&value, in, sizeof value);                                                          \
        return value;                                                                              \
    }                                                                                              \
    static inline void name##_store(uint8_t *out, type value)                                      \
    {                                                                                              \
        memcpy(out, &value, sizeof value);                                                         \
    }

BYTES_ACCESS(uint16_t, u16)
BYTES_ACCESS(uint32_t, u32)
BYTES_ACCESS(uint64_t, u64)
BYTES_ACCESS(int64_t, i64)

#undef BYTES_ACCESS

#endif
