/* race: one client for tensord and for the servers that others use for the same. It speaks each
 * one's protocol over a bare socket with the same code around it, so that what it measures is the
 * server. */
#ifndef TESTS_BENCH_RACE_H
#define TESTS_BENCH_RACE_H

#include "bench.h"

#define RACE_KEY "bench-race" /* what is stored and read, except over HTTP */
#define HEAD_BYTES 4096       /* of a request or an answer, ahead of the body; at most */

/* As sent: head, then body_length bytes of the caller's, then tail. */
struct request {
    char head[HEAD_BYTES];
    size_t head_length, body_length;
    const char *tail; /* "" for none */
};

struct answer {
    size_t head_length; /* 0: its head has not come in full */
    size_t body_length, tail_length;
};

struct protocol {
    const char *name;
    void (*greet)(int fd); /* what comes first on a connection; NULL: nothing */
    /* `target` is what follows the port in the side's address: HTTP's path. */
    void (*get)(const char *target, struct request *out);
    void (*put)(const char *target, size_t size, struct request *out);
    /* Reads the head of an answer; ends the program if it is an error. */
    struct answer (*parse)(const char *in, size_t have);
    bool fills; /* put stores what get reads */
};

/* NULL if there is none of that name. */
const struct protocol *protocol_find(const char *name, size_t length);

/* One answer: its body and tail go to `into`, which has `room`. Returns the body's length. */
size_t answer_receive(const struct protocol *protocol, int fd, char *into, size_t room);

#endif
