#include "proto/wire/bytes.h"
#include "proto/wire/wire.h"

#include <inttypes.h>

/* Where each part of the header lies. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_FLAGS = 5,
    AT_OPCODE = 6,
    AT_REQUEST_ID = 8,
    AT_STATUS = 16,
    AT_META_LENGTH = 20,
    AT_BODY_LENGTH = 24,
    AT_DESCRIPTORS = 32,
    AT_RESERVED = 34,
};

void wire_header_encode(const struct wire_header *header, uint8_t out[WIRE_HEADER_SIZE])
{
    u32_store(out + AT_MAGIC, WIRE_MAGIC);
    out[AT_VERSION] = header->version;
    out[AT_FLAGS] = header->flags;
    u16_store(out + AT_OPCODE, header->opcode);
    u64_store(out + AT_REQUEST_ID, header->request_id);
    u32_store(out + AT_STATUS, header->status);
    u32_store(out + AT_META_LENGTH, header->meta_length);
    u64_store(out + AT_BODY_LENGTH, header->body_length);
    u16_store(out + AT_DESCRIPTORS, header->descriptors);
    memset(out + AT_RESERVED, 0, WIRE_HEADER_SIZE - AT_RESERVED);
}

static enum td_status flags_check(const struct wire_header *header)
{
    if (header->flags & ~WIRE_FLAGS_ALL)
        return fail(TD_PROTOCOL,
                    "the header's flags 0x%02x have bits that mean nothing; known are 0x%02x",
                    header->flags, WIRE_FLAGS_ALL);
    if (header->flags == (WIRE_REPLY | WIRE_ONE_WAY))
        return fail(TD_PROTOCOL, "the header's flags say both reply and one-way");
    if (!(header->flags & WIRE_REPLY) && header->status != 0)
        return fail(TD_PROTOCOL, "the header of a request has status %" PRIu32 "; it must be 0",
                    header->status);
    return TD_OK;
}

enum td_status wire_header_decode(const uint8_t in[WIRE_HEADER_SIZE], struct wire_header *out)
{
    *out = (struct wire_header){
        .version = in[AT_VERSION],
        .flags = in[AT_FLAGS],
        .opcode = u16_load(in + AT_OPCODE),
        .request_id = u64_load(in + AT_REQUEST_ID),
        .status = u32_load(in + AT_STATUS),
        .meta_length = u32_load(in + AT_META_LENGTH),
        .body_length = u64_load(in + AT_BODY_LENGTH),
        .descriptors = u16_load(in + AT_DESCRIPTORS),
    };
    if (u32_load(in + AT_MAGIC) != WIRE_MAGIC)
        return fail(TD_PROTOCOL,
                    "a frame begins with the bytes 54 44 52 46 (\"TDRF\"), not with "
                    "%02x %02x %02x %02x",
                    in[0], in[1], in[2], in[3]);
    if (out->version != WIRE_VERSION)
        return fail(TD_PROTOCOL, "the frame is of version %u; this side speaks version %d",
                    out->version, WIRE_VERSION);
    TRY(flags_check(out));
    for (int i = AT_RESERVED; i < WIRE_HEADER_SIZE; i++)
        if (in[i] != 0)
            return fail(TD_PROTOCOL, "byte %d of the header is reserved and must be 0, not %u", i,
                        in[i]);
    if (out->meta_length > WIRE_META_MAX)
        return fail(TD_PROTOCOL, "the frame announces %" PRIu32 " bytes of meta; the limit is %d",
                    out->meta_length, WIRE_META_MAX);
    if (out->descriptors > WIRE_DESCRIPTORS_MAX)
        return fail(TD_PROTOCOL, "the frame announces %u descriptors; the limit is %d",
                    out->descriptors, WIRE_DESCRIPTORS_MAX);
    return TD_OK;
}
