/* mock_queue: a queue of the mock daemon, which tells lies on demand, and a client that uses it. */
#ifndef TESTS_MOCK_QUEUE_H
#define TESTS_MOCK_QUEUE_H

#include "client/internal.h"
#include "tests/unit/mock_daemon.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define ELEMENTS 20000 /* uint8 */
#define LEASE 77
#define ITEM_OBJECT 40 /* and the numbers after it, for more tensors */
#define SEGMENT_OBJECT 30

enum lie {
    HONEST,
    NO_DESCRIPTOR,
    ABSURD_SIZE,
    ABSURD_OFFSET,
    NO_LEASE,
    NO_COUNT,
    MANY_TENSORS,
    FEWER_ENTRIES,
    BROKEN_ENTRY,
    OTHER_STORAGE, /* map shares one, and the item says another */
    CLOSES,
    OFFERS, /* not a lie: memory for the next item comes with the reply to a put */
    LATE,   /* the answer comes when the caller has given up */
};

static struct mock_daemon mock;
static struct td_client *client;
static struct td_queue *queue;
static atomic_int lie;
static atomic_int acks, asks, maps;
static int memory, memory_to_read;
static pthread_t caller;
static int descriptors_before;

static inline int descriptor_count(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* ---- the daemon's side --------------------------------------------------------------------- */

static inline void describe(struct fields *out, uint64_t id)
{
    int lies = atomic_load(&lie);
    FIELDS_SET(out, id, id);
    FIELDS_SET(out, dtype, TD_UINT8);
    FIELDS_SET(out, shape, (struct dims){.rank = 1});
    out->shape.v[0] = ELEMENTS;
    FIELDS_SET(out, device, text_of("cpu"));
    FIELDS_SET(out, offset_bytes, lies == ABSURD_OFFSET ? UINT64_MAX - 7 : 0);
    FIELDS_SET(out, storage, 9);
    FIELDS_SET(out, storage_bytes, lies == ABSURD_SIZE ? UINT64_C(1) << 50 : ELEMENTS);
    FIELDS_SET(out, nbytes, ELEMENTS);
    FIELDS_SET(out, mode, text_of("single-writer"));
    FIELDS_SET(out, memory, text_of("shared"));
}

static inline size_t add_entry(uint8_t *body, const struct fields *entry)
{
    uint32_t size = (uint32_t)wire_fields_size(entry);
    memcpy(body, &size, sizeof size);
    wire_fields_encode(entry, body + sizeof size);
    return sizeof size + size;
}

static inline void give_item(int socket, struct mock_frame *frame)
{
    uint8_t body[8192];
    size_t used = 0;
    int lies = atomic_load(&lie);
    struct fields fields = {0};
    uint64_t count = lies == MANY_TENSORS ? 65 : 2;
    for (uint64_t i = 0; i < (lies == FEWER_ENTRIES ? 1 : 2); i++) {
        struct fields entry = {0};
        FIELDS_SET(&entry, key, text_of(i ? "b" : "a"));
        if (!(i && lies == BROKEN_ENTRY))
            describe(&entry, ITEM_OBJECT + i);
        used += add_entry(body + used, &entry);
    }
    FIELDS_SET(&fields, item, 5);
    FIELDS_SET(&fields, deliveries, 2);
    FIELDS_SET(&fields, meta, text_of("said with it"));
    if (lies != NO_COUNT)
        FIELDS_SET(&fields, count, count);
    if (lies != NO_LEASE)
        FIELDS_SET(&fields, lease, LEASE);
    mock_reply(&mock, socket, frame, 0, &fields, body, used, -1);
}

/* Makes the caller give up, and answers once it has; others may speak to the mock meanwhile. */
static inline void wait_until_given_up(int socket)
{
    char byte;
    pthread_mutex_unlock(&mock.lock);
    for (int i = 0; i < 500; i++) {
        pthread_kill(caller, SIGUSR1);
        struct pollfd end = {.fd = socket, .events = POLLIN};
        if (poll(&end, 1, 10) > 0 && recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
            break;
    }
    pthread_mutex_lock(&mock.lock);
}

static inline void give_segment(int socket, struct mock_frame *frame)
{
    struct fields fields = {0};
    describe(&fields, SEGMENT_OBJECT);
    fields.storage = 8;
    bool known = atomic_fetch_add(&asks, 1) > 0 && !FIELDS_HAS(&frame->fields, force);
    int fd = known || atomic_load(&lie) == NO_DESCRIPTOR ? -1 : memory;
    mock_reply(&mock, socket, frame, 0, &fields, NULL, 0, fd);
}

static inline void offer_segment(int socket, struct mock_frame *frame)
{
    struct fields fields = {0};
    describe(&fields, SEGMENT_OBJECT + 1);
    fields.storage = 8;
    mock_reply(&mock, socket, frame, 0, &fields, NULL, 0, -1);
}

static inline void give_map(int socket, struct mock_frame *frame)
{
    struct fields fields = {0};
    atomic_fetch_add(&maps, 1);
    describe(&fields, ITEM_OBJECT);
    if (atomic_load(&lie) == OTHER_STORAGE)
        fields.storage = 10;
    FIELDS_SET(&fields, lease, 900 + (uint64_t)atomic_load(&maps));
    int fd = atomic_load(&lie) == NO_DESCRIPTOR ? -1 : memory_to_read;
    mock_reply(&mock, socket, frame, 0, &fields, NULL, 0, fd);
}

static inline bool answer(struct mock_daemon *of, int socket, struct mock_frame *frame)
{
    struct fields none = {0};
    bool one_way = frame->header.flags & WIRE_ONE_WAY;
    (void)of;
    switch (frame->header.opcode) {
    case OP_queue_get:
        if (atomic_load(&lie) == CLOSES)
            shutdown(socket, SHUT_RDWR);
        else if (atomic_load(&lie) == LATE)
            wait_until_given_up(socket);
        if (atomic_load(&lie) != CLOSES)
            give_item(socket, frame);
        return true;
    case OP_allocate:
        if (atomic_load(&lie) == LATE)
            wait_until_given_up(socket);
        give_segment(socket, frame);
        return true;
    case OP_map:
        give_map(socket, frame);
        return true;
    case OP_queue_ack:
        atomic_fetch_add(&acks, 1);
        break;
    case OP_queue_put:
        if (atomic_load(&lie) == CLOSES) {
            shutdown(socket, SHUT_RDWR);
            return true;
        }
        if (atomic_load(&lie) == LATE)
            wait_until_given_up(socket);
        if (atomic_load(&lie) >= OFFERS && FIELDS_HAS(&frame->fields, dtype)) {
            offer_segment(socket, frame);
            return true;
        }
        break;
    case OP_queue_create:
        break;
    default:
        return false;
    }
    if (!one_way)
        mock_reply(&mock, socket, frame, 0, &none, NULL, 0, -1);
    return true;
}

/* ---- fixture ------------------------------------------------------------------------------- */

static inline bool interrupted(void *argument)
{
    (void)argument;
    return true;
}

static inline void handle(int signal_number)
{
    (void)signal_number;
}

static inline int start(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = handle}; /* no SA_RESTART */
    sigaction(SIGUSR1, &action, NULL);
    caller = pthread_self();
    descriptors_before = descriptor_count();
    memory = mock_memfd(ELEMENTS, true);
    memory_to_read = mock_read_only(memory);
    if (pwrite(memory, "bytes", 5, 0) != 5)
        return -1;
    mock_start(&mock, false);
    mock.answer = answer;
    atomic_store(&lie, HONEST);
    atomic_store(&acks, 0);
    atomic_store(&asks, 0);
    atomic_store(&maps, 0);
    struct td_options options = {.client = "test", .timeout_ms = 5000, .interrupted = interrupted};
    assert_int_equal(td_connect(mock.url, &options, &client), TD_OK);
    assert_int_equal(td_queue_open(client, "q", NULL, &queue), TD_OK);
    return 0;
}

static inline int stop(void **state)
{
    (void)state;
    td_queue_free(queue);
    td_close(client);
    mock_stop(&mock);
    close(memory);
    close(memory_to_read);
    assert_int_equal(descriptor_count(), descriptors_before); /* whatever came */
    return 0;
}

static inline void wait_for(bool (*condition)(void))
{
    for (int i = 0; i < 5000 && !condition(); i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_true(condition());
}

static inline bool item_was_released(void)
{
    return atomic_load(&mock.last_released) == LEASE;
}

static inline bool one_was_acknowledged(void)
{
    return atomic_load(&acks) == 1;
}

static inline struct td_item *pop(void)
{
    struct td_item *item;
    assert_int_equal(td_pop(queue, 1000, &item), TD_OK);
    return item;
}

static inline struct td_mapping *allocate(void)
{
    const int64_t shape = ELEMENTS;
    struct td_mapping *segment;
    assert_int_equal(td_queue_allocate(queue, TD_UINT8, 1, &shape, 1000, &segment), TD_OK);
    return segment;
}

#endif
