/* ops_input: how a sequence of requests stands in an input of fuzz_ops.
 *
 *     opcode u8, how u8, descriptor u8, meta length u16, body length u16 (little-endian); then the
 *     meta, then the body unless it is BODY_MADE
 *
 * Lengths past the input's end are cut there, so that any bytes are a sequence. */
#ifndef TESTS_FUZZ_OPS_INPUT_H
#define TESTS_FUZZ_OPS_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define OPS_HEAD 7
#define OPS_REQUESTS_MAX 16
#define OPS_INPUT_MAX ((size_t)64 << 10)
#define OPS_BODY_UNIT 16 /* a made body has so many bytes for each it announces */

enum ops_how {
    HOW_REMOTE = 1,    /* no descriptor can be passed */
    HOW_HELD = 2,      /* waits before op_run, until another request or the session's end went by */
    HOW_BODY_MADE = 4, /* the body is not in the input */
    HOW_DESCRIPTOR = 8, /* a descriptor comes along */
    HOW_REFUSE = 4,     /* from this bit on: which of the ledger's reservations is refused */
};

enum ops_descriptor {
    FD_NEW = 0,    /* in the low two bits: a memfd of its own, */
    FD_SHARED = 1, /* the one that the daemon handed out last, */
    FD_GIVEN = 2,  /* the one that was given last, */
    FD_STRANGE = 3,
    FD_KIND = 3,
    FD_UNSEALED = 4,
    FD_FROZEN = 8,
    FD_FUTURE = 16,
    FD_HOLES = 32,
    FD_READ_ONLY = 64,
    FD_LARGE = 128,
};

struct ops_request {
    uint8_t opcode, how, descriptor;
    size_t meta_length, body_length; /* both in the input */
    size_t body_wanted;              /* what the request announces */
    const uint8_t *meta, *body;
};

static inline size_t ops_length(const uint8_t *in)
{
    return (size_t)in[0] | (size_t)in[1] << 8;
}

/* Reads the request at *offset and moves *offset past it; false when there is none. */
static inline bool ops_next(const uint8_t *in, size_t size, size_t *offset, struct ops_request *out)
{
    if (size - *offset < OPS_HEAD)
        return false;
    const uint8_t *head = in + *offset;
    size_t left = size - *offset - OPS_HEAD, meta = ops_length(head + 3), body;
    out->opcode = head[0];
    out->how = head[1];
    out->descriptor = head[2];
    out->body_wanted = body = ops_length(head + 5);
    out->meta_length = meta < left ? meta : left;
    left -= out->meta_length;
    if (out->how & HOW_BODY_MADE) {
        out->body_wanted *= OPS_BODY_UNIT;
        body = 0;
    }
    out->body_length = body < left ? body : left;
    out->meta = head + OPS_HEAD;
    out->body = out->meta + out->meta_length;
    *offset += OPS_HEAD + out->meta_length + out->body_length;
    return true;
}

/* Bytes of a request in an input. */
static inline size_t ops_size(const struct ops_request *request)
{
    return OPS_HEAD + request->meta_length + request->body_length;
}

/* Writes a request of less than 64 KiB; a body that is BODY_MADE has no bytes. */
static inline void ops_write(const struct ops_request *request, uint8_t *out)
{
    size_t unit = request->how & HOW_BODY_MADE ? OPS_BODY_UNIT : 1;
    size_t body = request->body_wanted / unit;
    out[0] = request->opcode;
    out[1] = request->how;
    out[2] = request->descriptor;
    out[3] = (uint8_t)request->meta_length;
    out[4] = (uint8_t)(request->meta_length >> 8);
    out[5] = (uint8_t)body;
    out[6] = (uint8_t)(body >> 8);
    memcpy(out + OPS_HEAD, request->meta, request->meta_length);
    if (request->body_length)
        memcpy(out + OPS_HEAD + request->meta_length, request->body, request->body_length);
}

#endif
