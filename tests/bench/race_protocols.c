/* The protocols of the race: frames (proto/PROTOCOL.md), Redis, memcached, HTTP/1.1. */
#include "race.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- texts ---------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void head_print(struct request *out,
                                                             const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(out->head, sizeof out->head, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof out->head)
        die("a request of %d bytes is too long", length);
    out->head_length = (size_t)length;
    out->body_length = 0;
    out->tail = "";
}

/* The bytes up to and with `end`; 0 if that has not come. */
static size_t length_to(const char *in, size_t have, const char *end)
{
    const char *at = memmem(in, have, end, strlen(end));
    return at ? (size_t)(at - in) + strlen(end) : 0;
}

static bool begins(const char *in, size_t have, const char *with)
{
    return have >= strlen(with) && memcmp(in, with, strlen(with)) == 0;
}

/* ---- frames --------------------------------------------------------------------------------- */

enum { FRAME_HEADER = 40, AT_STATUS = 16, AT_META = 20, AT_BODY = 24 };
enum { FIELD_INPUT = 1, FIELD_OUTPUT = 3, FIELD_DTYPE = 4, FIELD_SHAPE = 6, FIELD_PROTOCOL = 38 };
enum { OPCODE_HELLO = 1, OPCODE_PUT = 10, OPCODE_GET = 11, DTYPE_UINT8 = 2 };

static void frame_begin(struct request *out, uint16_t opcode, uint64_t body_length)
{
    static const char magic_and_version[] = {'T', 'D', 'R', 'F', 1};
    memset(out->head, 0, FRAME_HEADER);
    memcpy(out->head, magic_and_version, sizeof magic_and_version);
    memcpy(out->head + 6, &opcode, sizeof opcode);
    memcpy(out->head + AT_BODY, &body_length, sizeof body_length);
    out->head_length = FRAME_HEADER;
    out->body_length = body_length;
    out->tail = "";
}

/* Fields come in ascending order of their numbers. */
static void frame_field(struct request *out, uint32_t field, const void *value, uint32_t length)
{
    uint32_t entry = length << 8 | field, meta;
    memcpy(out->head + out->head_length, &entry, sizeof entry);
    memcpy(out->head + out->head_length + sizeof entry, value, length);
    out->head_length += sizeof entry + length;
    meta = (uint32_t)(out->head_length - FRAME_HEADER);
    memcpy(out->head + AT_META, &meta, sizeof meta);
}

static struct answer frames_parse(const char *in, size_t have)
{
    uint32_t status, meta;
    uint64_t body;
    if (have < FRAME_HEADER)
        return (struct answer){0};
    memcpy(&status, in + AT_STATUS, sizeof status);
    memcpy(&meta, in + AT_META, sizeof meta);
    memcpy(&body, in + AT_BODY, sizeof body);
    if (have < FRAME_HEADER + meta)
        return (struct answer){0};
    if (status != 0)
        die("tensord answers %u: %.*s", status, (int)meta, in + FRAME_HEADER);
    return (struct answer){FRAME_HEADER + meta, body, 0};
}

static void frames_greet(int fd)
{
    static const uint64_t version = 1;
    struct request hello;
    char none[1];
    frame_begin(&hello, OPCODE_HELLO, 0);
    frame_field(&hello, FIELD_PROTOCOL, &version, sizeof version);
    send_exactly(fd, hello.head, hello.head_length);
    answer_receive(protocol_find("frames", 6), fd, none, 0);
}

static void frames_get(const char *target, struct request *out)
{
    (void)target;
    frame_begin(out, OPCODE_GET, 0);
    frame_field(out, FIELD_INPUT, RACE_KEY, sizeof RACE_KEY - 1);
}

static void frames_put(const char *target, size_t size, struct request *out)
{
    static const char dtype = DTYPE_UINT8;
    (void)target;
    frame_begin(out, OPCODE_PUT, size);
    frame_field(out, FIELD_OUTPUT, RACE_KEY, sizeof RACE_KEY - 1);
    frame_field(out, FIELD_DTYPE, &dtype, sizeof dtype);
    frame_field(out, FIELD_SHAPE, &(uint64_t){size}, sizeof(uint64_t));
}

/* ---- Redis ---------------------------------------------------------------------------------- */

static void redis_get(const char *target, struct request *out)
{
    (void)target;
    head_print(out, "*2\r\n$3\r\nGET\r\n$%zu\r\n" RACE_KEY "\r\n", sizeof RACE_KEY - 1);
}

static void redis_put(const char *target, size_t size, struct request *out)
{
    (void)target;
    head_print(out, "*3\r\n$3\r\nSET\r\n$%zu\r\n" RACE_KEY "\r\n$%zu\r\n", sizeof RACE_KEY - 1,
               size);
    out->body_length = size;
    out->tail = "\r\n";
}

static struct answer redis_parse(const char *in, size_t have)
{
    size_t line = length_to(in, have, "\r\n");
    if (line == 0)
        return (struct answer){0};
    if (begins(in, have, "+OK"))
        return (struct answer){line, 0, 0};
    if (!begins(in, have, "$") || begins(in, have, "$-"))
        die("Redis answers %.*s", (int)line, in);
    return (struct answer){line, strtoull(in + 1, NULL, 10), 2};
}

/* ---- memcached ------------------------------------------------------------------------------ */

static void memcached_get(const char *target, struct request *out)
{
    (void)target;
    head_print(out, "get " RACE_KEY "\r\n");
}

static void memcached_put(const char *target, size_t size, struct request *out)
{
    (void)target;
    head_print(out, "set " RACE_KEY " 0 0 %zu\r\n", size);
    out->body_length = size;
    out->tail = "\r\n";
}

static struct answer memcached_parse(const char *in, size_t have)
{
    size_t line = length_to(in, have, "\r\n");
    if (line == 0)
        return (struct answer){0};
    if (begins(in, have, "STORED"))
        return (struct answer){line, 0, 0};
    unsigned long long size;
    if (sscanf(in, "VALUE " RACE_KEY " 0 %llu\r\n", &size) != 1)
        die("memcached answers %.*s", (int)line, in);
    return (struct answer){line, size, strlen("\r\nEND\r\n")};
}

/* ---- HTTP ----------------------------------------------------------------------------------- */

static void http_get(const char *target, struct request *out)
{
    head_print(out, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", target);
}

static void http_put(const char *target, size_t size, struct request *out)
{
    head_print(out,
               "PUT %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
               "Content-Length: %zu\r\n\r\n",
               target, size);
    out->body_length = size;
}

static struct answer http_parse(const char *in, size_t have)
{
    size_t head = length_to(in, have, "\r\n\r\n");
    if (head == 0)
        return (struct answer){0};
    if (!begins(in, have, "HTTP/1.1 2"))
        die("the HTTP server answers %.*s", (int)have, in);
    for (size_t line = 0; line < head; line += length_to(in + line, head - line, "\r\n"))
        if (strncasecmp(in + line, "Content-Length:", strlen("Content-Length:")) == 0)
            return (struct answer){head, strtoull(in + line + strlen("Content-Length:"), NULL, 10),
                                   0};
    if (begins(in, have, "HTTP/1.1 204"))
        return (struct answer){head, 0, 0};
    die("the HTTP server does not say how long its answer is: %.*s", (int)head, in);
}

/* ---- all of them ---------------------------------------------------------------------------- */

static const struct protocol protocols[] = {
    {"frames", frames_greet, frames_get, frames_put, frames_parse, true},
    {"redis", NULL, redis_get, redis_put, redis_parse, true},
    {"memcached", NULL, memcached_get, memcached_put, memcached_parse, true},
    {"http", NULL, http_get, http_put, http_parse, false},
};

const struct protocol *protocol_find(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof protocols / sizeof protocols[0]; i++)
        if (strlen(protocols[i].name) == length && memcmp(protocols[i].name, name, length) == 0)
            return &protocols[i];
    return NULL;
}

size_t answer_receive(const struct protocol *protocol, int fd, char *into, size_t room)
{
    char head[HEAD_BYTES];
    struct answer answer = {0};
    size_t have = 0;
    while (answer.head_length == 0) {
        ssize_t n = have < sizeof head ? recv(fd, head + have, sizeof head - have, 0) : 0;
        if (n <= 0)
            die("%s: no answer", protocol->name);
        have += (size_t)n;
        answer = protocol->parse(head, have);
    }
    size_t total = answer.body_length + answer.tail_length, early = have - answer.head_length;
    if (total > room || early > total)
        die("%s: an answer of %zu bytes where %zu were expected", protocol->name, total, room);
    memcpy(into, head + answer.head_length, early);
    if (!receive_exactly(fd, into + early, total - early))
        die("%s: the answer ends early", protocol->name);
    return answer.body_length;
}
