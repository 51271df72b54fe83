/* put and get of large tensors beside a bare libuv server; warm memory on both sides. */
#include "driver.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAME "bench/bulk"
#define WARM_UP 3

static void put_tensord(struct td_client *client, const void *data, size_t size)
{
    int64_t shape = (int64_t)(size / sizeof(float));
    expect(td_put(client, NAME, TD_FLOAT32, 1, &shape, data, 0, NULL), "put");
}

static void get_tensord(struct td_client *client, void *data, size_t size)
{
    size_t got = size;
    expect(td_get(client, NAME, TD_DTYPE_NONE, data, &got, NULL), "get");
    if (got != size)
        die("a get of %zu bytes gave %zu", size, got);
}

/* With the system calls of libtensord: sendmsg of what is left, poll when the socket is full. */
static void bare_send(int fd, const struct bare_message *head, const void *data, size_t size)
{
    for (size_t sent = 0; sent < sizeof *head + size;) {
        size_t of_head = sent < sizeof *head ? sent : sizeof *head, of_data = sent - of_head;
        struct iovec parts[2] = {
            {(char *)(uintptr_t)head + of_head, sizeof *head - of_head},
            {(char *)(uintptr_t)data + of_data, size - of_data},
        };
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        if (n > 0)
            sent += (size_t)n;
        else if (errno != EAGAIN || poll(&wait, 1, -1) < 0)
            die("sending");
    }
}

static void bare_put(int fd, const void *data, size_t size)
{
    struct bare_message message = {.kind = BARE_PUT, .size = size};
    bare_send(fd, &message, data, size);
    if (!receive_exactly(fd, &message, sizeof message))
        die("the bare server went away");
}

static void bare_get(int fd, void *data, size_t size)
{
    struct bare_message message = {.kind = BARE_GET, .size = size};
    send_exactly(fd, &message, sizeof message);
    if (!receive_exactly(fd, &message, sizeof message) || !receive_exactly(fd, data, size))
        die("the bare server went away");
}

static void delete_bulk(struct td_client *client)
{
    struct td_args *args = td_args_new();
    if (!args)
        die("no memory");
    td_args_text(args, "input", NAME);
    expect(td_op(client, "delete", args, NULL, 0, NULL), "delete");
    td_args_free(args);
}

static void measure(const struct plan *plan, bool put)
{
    const char *metric = put ? "put" : "get";
    struct td_client *client = tensord_connect(plan);
    int fd = peer_connect(plan);
    void *data = warm_alloc(plan->size);
    put_tensord(client, data, plan->size);
    for (int i = -WARM_UP; i < plan->repetitions; i++) {
        int64_t start = now_ns();
        if (put)
            put_tensord(client, data, plan->size);
        else
            get_tensord(client, data, plan->size);
        int64_t tensord = now_ns() - start;
        let_settle();
        start = now_ns();
        if (put)
            bare_put(fd, data, plan->size);
        else
            bare_get(fd, data, plan->size);
        int64_t limit = now_ns() - start;
        let_settle();
        if (i < 0)
            continue;
        sample(metric, TENSORD, tensord);
        sample(metric, LIMIT, limit);
    }
    delete_bulk(client);
    td_close(client);
    close(fd);
}

void measure_put(const struct plan *plan)
{
    measure(plan, true);
}

void measure_get(const struct plan *plan)
{
    measure(plan, false);
}
