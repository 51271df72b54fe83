/* hand: items from one process to another and back, through two queues of recycled segments, beside
 * a bare ping-pong of 64 bytes. The time runs from the other process's call of td_push until this
 * one, which waits already, has the elements: two wake-ups, as in the ping-pong. */
#include "driver.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define THERE "bench/there"
#define BACK "bench/back"
#define BLOCK 16
#define WARM_UP_BLOCKS 8

/* What stands at the start of the elements. */
struct stamp {
    int64_t sent_ns, number;
};

static struct td_queue *queue_open(struct td_client *client, const char *name)
{
    static const struct td_queue_options options = {.max_items = 4};
    struct td_queue *queue;
    expect(td_queue_open(client, name, &options, &queue), "opening a queue");
    return queue;
}

static void push_one(struct td_queue *queue, size_t size, int64_t number)
{
    struct td_mapping *mapping;
    int64_t shape = (int64_t)size;
    expect(td_queue_allocate(queue, TD_UINT8, 1, &shape, -1, &mapping), "allocating for a queue");
    struct stamp *stamp = td_mapping_data(mapping);
    const struct td_push_tensor tensor = {.mapping = mapping};
    stamp->number = number;
    stamp->sent_ns = now_ns();
    expect(td_push(queue, 1, &tensor, NULL, -1), "push");
    td_unmap(mapping);
}

/* Nanoseconds since it was sent. */
static int64_t pop_one(struct td_queue *queue, int64_t *number)
{
    struct td_item *item;
    struct td_mapping *mapping;
    struct stamp stamp;
    expect(td_pop(queue, -1, &item), "pop");
    expect(td_item_map(item, 0, 0, &mapping), "mapping an item");
    memcpy(&stamp, td_mapping_data(mapping), sizeof stamp);
    int64_t taken = now_ns() - stamp.sent_ns;
    td_unmap(mapping);
    td_item_done(item);
    *number = stamp.number;
    return taken;
}

/* The other process: sends back what comes, until that is negative. */
static _Noreturn void mirror(const struct plan *plan)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct td_client *client = tensord_connect(plan);
    struct td_queue *there = queue_open(client, THERE), *back = queue_open(client, BACK);
    for (int64_t number = 0; number >= 0;) {
        (void)pop_one(there, &number);
        push_one(back, plan->size, number);
    }
    td_queue_free(there);
    td_queue_free(back);
    td_close(client);
    exit(0);
}

static void hand_over(struct td_queue *there, struct td_queue *back, size_t size, bool warm)
{
    static int64_t number;
    int64_t returned;
    push_one(there, size, number);
    int64_t taken = pop_one(back, &returned);
    if (returned != number++)
        die("item %lld came back for %lld", (long long)returned, (long long)number - 1);
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

static void queue_delete(struct td_client *client, const char *name)
{
    struct td_args *args = td_args_new();
    if (!args)
        die("no memory");
    td_args_text(args, "queue", name);
    expect(td_op(client, "queue_delete", args, NULL, 0, NULL), "deleting a queue");
    td_args_free(args);
}

void measure_hand(const struct plan *plan)
{
    int64_t last;
    pid_t other = fork();
    if (other < 0)
        die("fork");
    if (other == 0)
        mirror(plan);
    struct td_client *client = tensord_connect(plan);
    struct td_queue *there = queue_open(client, THERE), *back = queue_open(client, BACK);
    int fd = peer_connect(plan);
    for (int block = -WARM_UP_BLOCKS; block < plan->repetitions; block++) {
        for (int i = 0; i < BLOCK; i++)
            hand_over(there, back, plan->size, block < 0 || i == 0);
        for (int i = 0; i < BLOCK; i++)
            ping_bare(fd, block < 0 || i == 0);
    }
    push_one(there, plan->size, -1);
    (void)pop_one(back, &last);
    waitpid(other, NULL, 0);
    td_queue_free(there);
    td_queue_free(back);
    queue_delete(client, THERE);
    queue_delete(client, BACK);
    td_close(client);
    close(fd);
}
