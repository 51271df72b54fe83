/* map: td_map of a stored tensor beside a bare descriptor pass and mmap; and the touch of pages. */
#include "driver.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAME "bench/map"
#define WARM_UP 5

static volatile unsigned char sink;

/* One read of every 4 KiB. */
static int64_t touch(const void *data, size_t size)
{
    const volatile unsigned char *bytes = data;
    int64_t start = now_ns();
    for (size_t at = 0; at < size; at += SMALL_PAGE_BYTES)
        sink = bytes[at];
    return now_ns() - start;
}

/* A frozen tensor, made by the daemon itself, so that no memory of its size is needed here. */
static void tensor_make(struct td_client *client, size_t size)
{
    int64_t shape = (int64_t)(size / sizeof(float));
    struct td_args *args = td_args_new();
    if (!args)
        die("no memory");
    td_args_dims(args, "shape", 1, &shape);
    td_args_dtype(args, TD_FLOAT32);
    td_args_bool(args, "mutable", false);
    td_args_text(args, "output", NAME);
    expect(td_op(client, "zeros", args, NULL, 0, NULL), "zeros");
    td_args_free(args);
}

static void tensor_delete(struct td_client *client)
{
    struct td_args *args = td_args_new();
    if (!args)
        die("no memory");
    td_args_text(args, "input", NAME);
    expect(td_op(client, "delete", args, NULL, 0, NULL), "delete");
    td_args_free(args);
}

static struct td_mapping *tensor_map(struct td_client *client)
{
    struct td_mapping *mapping;
    expect(td_map(client, NAME, 0, &mapping), "map");
    return mapping;
}

/* The descriptor that the bare server answers with; -1 when it has dropped the memory. */
static int bare_request(int fd, enum bare_kind kind, size_t size)
{
    struct bare_message message = {.kind = (uint64_t)kind, .size = size};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {&message, sizeof message};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = sizeof control.bytes};
    int received = -1;
    send_exactly(fd, &message, sizeof message);
    if (recvmsg(fd, &header, MSG_CMSG_CLOEXEC) != sizeof message)
        die("receiving a descriptor");
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    if (c)
        memcpy(&received, CMSG_DATA(c), sizeof received);
    return received;
}

static void *bare_map(int fd, enum bare_kind kind, size_t size)
{
    int received = bare_request(fd, kind, size);
    void *data = kind == BARE_SHARE_HUGE ? map_aligned(received, size, PROT_READ)
                                         : mmap(NULL, size, PROT_READ, MAP_SHARED, received, 0);
    if (data == MAP_FAILED)
        die("mapping");
    close(received);
    return data;
}

/* ---- map ----------------------------------------------------------------------------------- */

static void map_tensord(struct td_client *client, bool warm)
{
    int64_t start = now_ns();
    struct td_mapping *mapping = tensor_map(client);
    int64_t mapped = now_ns();
    td_unmap(mapping);
    int64_t end = now_ns();
    if (warm)
        return;
    sample("map", TENSORD, mapped - start);
    sample("map_unmap", TENSORD, end - start);
}

static void map_bare(int fd, size_t size, bool warm)
{
    int64_t start = now_ns();
    void *data = bare_map(fd, BARE_SHARE_HUGE, size);
    int64_t mapped = now_ns();
    munmap(data, size);
    int64_t end = now_ns();
    if (warm)
        return;
    sample("map", LIMIT, mapped - start);
    sample("map_unmap", LIMIT, end - start);
}

void measure_map(const struct plan *plan)
{
    struct td_client *client = tensord_connect(plan);
    int fd = peer_connect(plan);
    tensor_make(client, plan->size);
    /* The first map of a tensor seals its memory, which is done once in its life. */
    int64_t start = now_ns();
    td_unmap(tensor_map(client));
    sample("map_first", TENSORD, now_ns() - start);
    for (int i = -WARM_UP; i < plan->repetitions; i++) {
        map_tensord(client, i < 0);
        let_settle();
        map_bare(fd, plan->size, i < 0);
        let_settle();
    }
    bare_request(fd, BARE_SHARE_HUGE, 0);
    tensor_delete(client);
    td_close(client);
    close(fd);
}

/* ---- touch --------------------------------------------------------------------------------- */

static void touch_tensord(struct td_client *client, size_t size, bool warm)
{
    struct td_mapping *mapping = tensor_map(client);
    int64_t taken = touch(td_mapping_data(mapping), size);
    if (warm && huge_bytes_at(td_mapping_data(mapping)) < size)
        fprintf(stderr, "bench: the tensor is not in huge pages\n");
    int64_t start = now_ns();
    td_unmap(mapping);
    int64_t end = now_ns();
    if (warm)
        return;
    sample("touch", TENSORD, taken);
    sample("touch_huge", TENSORD, taken);
    sample("touch_unmap", TENSORD, end - start);
}

static void touch_bare(int fd, enum bare_kind kind, size_t size, bool warm)
{
    bool plain = kind == BARE_SHARE_PLAIN;
    void *data = bare_map(fd, kind, size);
    int64_t taken = touch(data, size);
    int64_t start = now_ns();
    munmap(data, size);
    int64_t end = now_ns();
    if (warm)
        return;
    sample(plain ? "touch" : "touch_huge", LIMIT, taken);
    if (plain)
        sample("touch_unmap", LIMIT, end - start);
}

void measure_touch(const struct plan *plan)
{
    struct td_client *client = tensord_connect(plan);
    int fd = peer_connect(plan);
    tensor_make(client, plan->size);
    for (int i = -WARM_UP; i < plan->repetitions; i++) {
        touch_tensord(client, plan->size, i < 0);
        let_settle();
        touch_bare(fd, BARE_SHARE_PLAIN, plan->size, i < 0);
        touch_bare(fd, BARE_SHARE_HUGE, plan->size, i < 0);
        let_settle();
    }
    bare_request(fd, BARE_SHARE_PLAIN, 0);
    bare_request(fd, BARE_SHARE_HUGE, 0);
    tensor_delete(client);
    td_close(client);
    close(fd);
}
