/* wire: frames and their meta section as bytes; see PROTOCOL.md. Pure encode and decode.
 *
 * A frame is a header of WIRE_HEADER_SIZE bytes, meta_length bytes of meta, body_length bytes of
 * body. The meta is a sequence of fields in ascending order of their numbers; each is a
 * little-endian u32 (field number in the low 8 bits, length of the value in the upper 24), then the
 * value.
 *
 * Nothing here allocates or keeps state. Threads: pure functions.
 */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include "core/fields.h"

#define WIRE_MAGIC UINT32_C(0x46524454) /* "TDRF" in memory */
#define WIRE_VERSION 1
#define WIRE_HEADER_SIZE 40
#define WIRE_META_MAX (1 << 20)
#define WIRE_DESCRIPTORS_MAX 1    /* with one frame */
#define WIRE_SMALL_BODY_MAX 65536 /* of ping */

enum wire_flag {
    WIRE_REPLY = 1,   /* from the daemon */
    WIRE_ONE_WAY = 2, /* the sender wants no reply; for operations that allow it */
    WIRE_FLAGS_ALL = 3,
};

struct wire_header {
    uint8_t version;
    uint8_t flags;        /* enum wire_flag */
    uint16_t opcode;      /* enum op; a reply repeats the request's */
    uint64_t request_id;  /* the client's choice; the reply carries it */
    uint32_t status;      /* enum td_status in replies, 0 in requests */
    uint32_t meta_length; /* bytes */
    uint64_t body_length; /* bytes */
    uint16_t descriptors; /* passed with SCM_RIGHTS along with the header's first byte */
};

void wire_header_encode(const struct wire_header *header, uint8_t out[WIRE_HEADER_SIZE]);
/* PROTOCOL, with the reason, for a wrong magic, version, flag, reserved byte, or a meta or
 * descriptor count over the limits. `out` is filled as far as it could be read, so that the request
 * id of a refused frame can be told. The body's length is the caller's to judge. */
NODISCARD enum td_status wire_header_decode(const uint8_t in[WIRE_HEADER_SIZE],
                                            struct wire_header *out);

/* Bytes that wire_fields_encode writes; 0 fields are 0 bytes. */
size_t wire_fields_size(const struct fields *fields);
/* Writes exactly wire_fields_size bytes. */
void wire_fields_encode(const struct fields *fields, uint8_t *out);

enum wire_strictness {
    WIRE_STRICT,  /* requests: an unknown field is an error */
    WIRE_LENIENT, /* replies: an unknown field of a newer daemon is passed over */
};
/* Reads a meta section; texts in `out` point into `in`. PROTOCOL for bytes that are no meta
 * section, INVALID for fields that are unknown, BAD_SHAPE, BAD_INDEX, BAD_DTYPE for values out of
 * range. */
NODISCARD enum td_status wire_fields_decode(const uint8_t *in, size_t length,
                                            enum wire_strictness strictness, struct fields *out);

/* A list body is a sequence of entries: a little-endian u32 length, then that many bytes of meta.
 */
#define WIRE_ENTRY_PREFIX 4
/* Reads the entry at *offset and moves *offset past it; call while *offset < length. */
NODISCARD enum td_status wire_entry_next(const uint8_t *body, size_t length, size_t *offset,
                                         struct fields *out);

#endif
