/* race [OPTIONS] get|put|trip|rate NAME=PROTOCOL:ADDRESS...
 *
 * ADDRESS is the path of a Unix socket, or a TCP port of 127.0.0.1 and, over HTTP, the path that is
 * asked for: http:8080/v1/tensors/x. The sides take turns; every sample goes to standard output as
 * a line "metric NAME nanoseconds".
 *
 *     get, put   a transfer of -s bytes with warm memory on this side
 *     trip       a get of -s bytes, in blocks, each block's first one left out
 *     rate       -d gets of -s bytes under way on each of -l connections: nanoseconds for each
 */
#include "race.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define SIDES_MAX 4
#define LANES_MAX 16
#define TAIL_ROOM 64
#define LANE_BYTES 65536
#define WARM_UP 3
#define TRIP_BLOCK 16
#define RATE_REQUESTS 8192 /* of a block, of all connections together */

struct plan {
    size_t size;
    int rounds, depth, lanes, cpu;
    bool awake;
};

struct lane {
    int fd;
    size_t have;
    char buffer[LANE_BYTES];
};

struct side {
    char name[32], address[256];
    const char *target; /* the part of the address that the server is asked for */
    const struct protocol *protocol;
    struct request get, put;
    struct lane *lanes;
};

static char *body; /* plan.size bytes and room for a tail */

/* ---- one exchange --------------------------------------------------------------------------- */

static void send_parts(int fd, struct iovec *parts, size_t count)
{
    while (count > 0) {
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            die("sending");
        for (size_t left = n > 0 ? (size_t)n : 0; count > 0;) {
            size_t done = left < parts->iov_len ? left : parts->iov_len;
            parts->iov_base = (char *)parts->iov_base + done;
            parts->iov_len -= done;
            left -= done;
            if (parts->iov_len > 0)
                break;
            parts++;
            count--;
        }
    }
}

/* Returns the length of the answer's body, which goes to `into`. */
static size_t exchange(struct side *side, struct request *request, char *into, size_t room)
{
    struct iovec parts[] = {
        {request->head, request->head_length},
        {body, request->body_length},
        {(char *)(uintptr_t)request->tail, strlen(request->tail)},
    };
    send_parts(side->lanes[0].fd, parts, 3);
    return answer_receive(side->protocol, side->lanes[0].fd, into, room);
}

static void get(const struct plan *plan, struct side *side)
{
    size_t got = exchange(side, &side->get, body, plan->size + TAIL_ROOM);
    if (got != plan->size)
        die("%s: a get of %zu bytes gave %zu", side->name, plan->size, got);
}

static void put(const struct plan *plan, struct side *side)
{
    char described[HEAD_BYTES]; /* an answer to a put may have a body that says what was put */
    (void)plan;
    exchange(side, &side->put, described, sizeof described);
}

/* ---- measurements: each one's turn of a round ------------------------------------------------ */

static void transfer(const struct plan *plan, struct side *side, const char *metric, bool warm,
                     void (*call)(const struct plan *plan, struct side *side))
{
    int64_t start = now_ns();
    call(plan, side);
    int64_t taken = now_ns() - start;
    if (!warm)
        sample(metric, side->name, taken);
}

static void turn_get(const struct plan *plan, struct side *side, bool warm)
{
    transfer(plan, side, "get", warm, get);
}

static void turn_put(const struct plan *plan, struct side *side, bool warm)
{
    transfer(plan, side, "put", warm, put);
}

static void turn_trip(const struct plan *plan, struct side *side, bool warm)
{
    for (int i = 0; i < TRIP_BLOCK; i++)
        transfer(plan, side, "trip", warm || i == 0, get);
}

/* Takes `count` answers off a connection. */
static void collect(const struct plan *plan, struct side *side, struct lane *lane, int count)
{
    for (size_t at = 0; count > 0;) {
        struct answer answer = side->protocol->parse(lane->buffer + at, lane->have - at);
        size_t length = answer.head_length + answer.body_length + answer.tail_length;
        if (answer.head_length > 0 && at + length <= lane->have) {
            if (answer.body_length != plan->size)
                die("%s: a get of %zu bytes gave %zu", side->name, plan->size, answer.body_length);
            at += length;
            count--;
            continue;
        }
        memmove(lane->buffer, lane->buffer + at, lane->have - at);
        lane->have -= at;
        at = 0;
        ssize_t n = recv(lane->fd, lane->buffer + lane->have, LANE_BYTES - lane->have, 0);
        if (n <= 0)
            die("%s: no answer", side->name);
        lane->have += (size_t)n;
    }
    lane->have = 0;
}

static void turn_rate(const struct plan *plan, struct side *side, bool warm)
{
    static char batch[LANE_BYTES];
    const struct request *one = &side->get;
    size_t length = one->head_length * (size_t)plan->depth;
    int turns = RATE_REQUESTS / (plan->depth * plan->lanes);
    if (length > sizeof batch)
        die("%d requests of %zu bytes are too long", plan->depth, one->head_length);
    for (int i = 0; i < plan->depth; i++)
        memcpy(batch + (size_t)i * one->head_length, one->head, one->head_length);
    int64_t start = now_ns();
    for (int i = 0; i <= turns; i++)
        for (int k = 0; k < plan->lanes; k++) {
            if (i > 0)
                collect(plan, side, &side->lanes[k], plan->depth);
            if (i < turns)
                send_exactly(side->lanes[k].fd, batch, length);
        }
    int64_t taken = now_ns() - start;
    if (!warm)
        sample("rate", side->name, taken / (turns * plan->lanes * plan->depth));
}

static const struct {
    const char *name;
    void (*turn)(const struct plan *plan, struct side *side, bool warm);
} measurements[] = {
    {"get", turn_get},
    {"put", turn_put},
    {"trip", turn_trip},
    {"rate", turn_rate},
};

/* ---- sides ---------------------------------------------------------------------------------- */

static void side_parse(const char *text, struct side *side)
{
    char protocol[16];
    if (sscanf(text, "%31[^=]=%15[^:]:%255s", side->name, protocol, side->address) != 3)
        die("not NAME=PROTOCOL:ADDRESS: %s", text);
    side->protocol = protocol_find(protocol, strlen(protocol));
    if (!side->protocol)
        die("there is no protocol %s", protocol);
    side->target = side->address + strspn(side->address, "0123456789");
}

static void side_open(const struct plan *plan, struct side *side)
{
    bool tcp = isdigit((unsigned char)side->address[0]);
    side->lanes = malloc((size_t)plan->lanes * sizeof *side->lanes);
    if (!side->lanes)
        die("no memory");
    for (int i = 0; i < plan->lanes; i++) {
        struct lane *lane = &side->lanes[i];
        lane->fd = tcp ? connect_tcp(atoi(side->address)) : connect_unix(side->address);
        lane->have = 0;
        if (side->protocol->greet)
            side->protocol->greet(lane->fd);
    }
    side->protocol->get(side->target, &side->get);
    side->protocol->put(side->target, plan->size, &side->put);
}

/* Stores what the others will read, and sees that it is what comes back. */
static void side_fill(const struct plan *plan, struct side *side)
{
    for (size_t i = 0; i < plan->size; i++)
        body[i] = (char)(i * 31 % 251);
    put(plan, side);
    memset(body, 0, plan->size);
    get(plan, side);
    for (size_t i = 0; i < plan->size; i++)
        if (body[i] != (char)(i * 31 % 251))
            die("%s: byte %zu is not the one that was stored", side->name, i);
}

/* ---- main ----------------------------------------------------------------------------------- */

static struct plan parse(int argc, char **argv)
{
    struct plan plan = {.size = 64, .rounds = 10, .depth = 16, .lanes = 1, .cpu = -1};
    for (int option; (option = getopt(argc, argv, "s:n:d:l:c:a")) != -1;) {
        switch (option) {
        case 's':
            plan.size = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            plan.rounds = atoi(optarg);
            break;
        case 'd':
            plan.depth = atoi(optarg);
            break;
        case 'l':
            plan.lanes = atoi(optarg);
            break;
        case 'c':
            plan.cpu = atoi(optarg);
            break;
        case 'a':
            plan.awake = true;
            break;
        default:
            exit(2);
        }
    }
    if (plan.lanes < 1 || plan.lanes > LANES_MAX || plan.depth < 1 ||
        plan.depth * plan.lanes > RATE_REQUESTS)
        die("%d requests on %d connections", plan.depth, plan.lanes);
    return plan;
}

int main(int argc, char **argv)
{
    struct plan plan = parse(argc, argv);
    static struct side sides[SIDES_MAX];
    int count = argc - optind - 1;
    if (count < 1 || count > SIDES_MAX)
        die("usage: race [-s BYTES] [-n ROUNDS] [-d DEPTH] [-l CONNECTIONS] [-c CPU] [-a] "
            "get | put | trip | rate NAME=PROTOCOL:ADDRESS...");
    if (plan.awake)
        awake_start(); /* before there are sockets to inherit */
    if (plan.cpu >= 0)
        stay_on(plan.cpu);
    size_t which = 0;
    while (which < sizeof measurements / sizeof measurements[0] &&
           strcmp(measurements[which].name, argv[optind]) != 0)
        which++;
    if (which == sizeof measurements / sizeof measurements[0])
        die("there is no measurement %s", argv[optind]);
    body = warm_alloc((plan.size + TAIL_ROOM + HUGE_PAGE_BYTES - 1) & ~(HUGE_PAGE_BYTES - 1));
    for (int i = 0; i < count; i++) {
        side_parse(argv[optind + 1 + i], &sides[i]);
        side_open(&plan, &sides[i]);
        if (sides[i].protocol->fills)
            side_fill(&plan, &sides[i]);
    }
    for (int round = -WARM_UP; round < plan.rounds; round++)
        for (int i = 0; i < count; i++) {
            measurements[which].turn(&plan, &sides[i], round < 0);
            let_settle();
        }
    print_samples();
    return 0;
}
