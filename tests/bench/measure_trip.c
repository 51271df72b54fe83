/* Round trips of 64 bytes beside a bare ping-pong. In blocks, since a single call after the other
 * side's turn would find its server out of the caches; and each block's first call is left out. */
#include "driver.h"

#include <string.h>
#include <unistd.h>

#define NAME "bench/small"
#define BLOCK 16
#define WARM_UP_BLOCKS 4

static struct bare_message message = {.kind = BARE_ECHO};

static void ping_tensord(struct td_client *client)
{
    struct td_reply *reply;
    size_t size;
    expect(td_op(client, "ping", NULL, &message, sizeof message, &reply), "ping");
    const void *body = td_reply_body(reply, &size);
    if (size != sizeof message || memcmp(body, &message, size) != 0)
        die("ping answered something else");
    td_reply_free(reply);
}

static void get_tensord(struct td_client *client)
{
    struct bare_message into;
    size_t size = sizeof into;
    expect(td_get(client, NAME, TD_DTYPE_NONE, &into, &size, NULL), "get");
}

static void ping_bare(int fd)
{
    struct bare_message answer;
    send_exactly(fd, &message, sizeof message);
    if (!receive_exactly(fd, &answer, sizeof answer))
        die("the bare server went away");
}

static void block_tensord(struct td_client *client, const char *metric,
                          void (*call)(struct td_client *client), bool warm)
{
    for (int i = 0; i < BLOCK; i++) {
        int64_t start = now_ns();
        call(client);
        int64_t taken = now_ns() - start;
        if (i > 0 && !warm)
            sample(metric, TENSORD, taken);
    }
}

static void block_bare(int fd, bool warm)
{
    for (int i = 0; i < BLOCK; i++) {
        int64_t start = now_ns();
        ping_bare(fd);
        int64_t taken = now_ns() - start;
        if (i == 0 || warm)
            continue;
        sample("ping", LIMIT, taken);
        sample("get", LIMIT, taken);
    }
}

void measure_trip(const struct plan *plan)
{
    struct td_client *client = tensord_connect(plan);
    int fd = peer_connect(plan);
    int64_t shape = sizeof message / sizeof(float);
    expect(td_put(client, NAME, TD_FLOAT32, 1, &shape, &message, 0, NULL), "put");
    for (int i = -WARM_UP_BLOCKS; i < plan->repetitions; i++) {
        block_tensord(client, "ping", ping_tensord, i < 0);
        block_bare(fd, i < 0);
        block_tensord(client, "get", get_tensord, i < 0);
    }
    td_close(client);
    close(fd);
}
