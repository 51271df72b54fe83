/* hand: an item from one process to another, through a queue of recycled segments, beside a bare
 * ping-pong of 64 bytes. The consumer waits already; the time runs from the producer's call of
 * td_push until the consumer has the elements. Two wake-ups either way. */
#include "driver.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define QUEUE "bench/hand"
#define BLOCK 16
#define WARM_UP_BLOCKS 4
#define WAITING_NS 100000 /* until the consumer waits, after it has said that it will */

static const struct td_queue_options options = {.max_items = 4};

/* What the producer writes at the start of the elements. */
struct stamp {
    int64_t sent_ns, number;
};

static struct td_queue *queue_open(struct td_client *client)
{
    struct td_queue *queue;
    expect(td_queue_open(client, QUEUE, &options, &queue), "opening a queue");
    return queue;
}

/* ---- the producer ------------------------------------------------------------------------- */

static void push_one(struct td_queue *queue, size_t size, int64_t number, int asked)
{
    struct td_mapping *mapping;
    int64_t shape = (int64_t)size;
    char byte;
    expect(td_queue_allocate(queue, TD_UINT8, 1, &shape, -1, &mapping), "allocating for a queue");
    if (read(asked, &byte, 1) != 1)
        exit(0);                                                /* the consumer has had enough */
    nanosleep(&(struct timespec){.tv_nsec = WAITING_NS}, NULL); /* they may share a CPU */
    struct stamp *stamp = td_mapping_data(mapping);
    const struct td_push_tensor tensor = {.mapping = mapping};
    stamp->number = number;
    stamp->sent_ns = now_ns();
    expect(td_push(queue, 1, &tensor, NULL, -1), "push");
    td_unmap(mapping);
}

static _Noreturn void produce(const struct plan *plan, int asked)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct td_client *client = tensord_connect(plan);
    struct td_queue *queue = queue_open(client);
    for (int64_t number = 0;; number++)
        push_one(queue, plan->size, number, asked);
}

/* ---- the consumer ------------------------------------------------------------------------- */

static void pop_one(struct td_queue *queue, int ask, int64_t number, bool warm)
{
    struct td_item *item;
    struct td_mapping *mapping;
    if (write(ask, "", 1) != 1)
        die("asking the producer");
    expect(td_pop(queue, -1, &item), "pop");
    expect(td_item_map(item, 0, 0, &mapping), "mapping an item");
    struct stamp stamp;
    memcpy(&stamp, td_mapping_data(mapping), sizeof stamp);
    int64_t taken = now_ns() - stamp.sent_ns;
    if (stamp.number != number)
        die("item %lld came for %lld", (long long)stamp.number, (long long)number);
    td_unmap(mapping);
    td_item_done(item);
    if (!warm)
        sample("hand", TENSORD, taken);
}

static void ping_bare(int fd, bool warm)
{
    struct bare_message message = {.kind = BARE_ECHO}, answer;
    int64_t start = now_ns();
    send_exactly(fd, &message, sizeof message);
    if (!receive_exactly(fd, &answer, sizeof answer))
        die("the bare server went away");
    int64_t taken = now_ns() - start;
    if (!warm)
        sample("hand", LIMIT, taken);
}

static void queue_delete(struct td_client *client)
{
    struct td_args *args = td_args_new();
    if (!args)
        die("no memory");
    td_args_text(args, "queue", QUEUE);
    expect(td_op(client, "queue_delete", args, NULL, 0, NULL), "deleting a queue");
    td_args_free(args);
}

void measure_hand(const struct plan *plan)
{
    int ask[2];
    if (pipe(ask) != 0)
        die("a pipe");
    pid_t producer = fork();
    if (producer < 0)
        die("fork");
    if (producer == 0) {
        close(ask[1]);
        produce(plan, ask[0]);
    }
    close(ask[0]);
    struct td_client *client = tensord_connect(plan);
    struct td_queue *queue = queue_open(client);
    int fd = peer_connect(plan);
    int64_t number = 0;
    for (int block = -WARM_UP_BLOCKS; block < plan->repetitions; block++) {
        for (int i = 0; i < BLOCK; i++)
            pop_one(queue, ask[1], number++, block < 0 || i == 0);
        for (int i = 0; i < BLOCK; i++)
            ping_bare(fd, block < 0 || i == 0);
    }
    close(ask[1]);
    waitpid(producer, NULL, 0);
    td_queue_free(queue);
    queue_delete(client);
    td_close(client);
    close(fd);
}
