/* pipeline: three processes, decode -> batch -> consume, which hand tensors over without a copy.
 *
 *     cc pipeline.c $(pkg-config --cflags --libs tensord) -o pipeline
 *     ./pipeline              400 frames, at the default socket or TENSORD_URL
 *     ./pipeline 2000         so many frames
 *
 * `decode` fills frames right in the daemon's memory, `batch` puts sixteen of them together, again
 * in such memory, and `consume` reads the batches where they lie. It ends by itself, and deletes
 * its queues.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <tensord.h>

#define HEIGHT 480
#define WIDTH 640
#define FRAME_BYTES (HEIGHT * WIDTH * 3)
#define BATCH 16
#define FRAMES "example/c/frames"
#define BATCHES "example/c/batches"
#define FOR_EVER (-1)

static void check(enum td_status status, const char *what)
{
    if (status == TD_OK)
        return;
    fprintf(stderr, "%s: %s: %s\n", what, td_status_name((int)status), td_last_error());
    exit(1);
}

static struct td_client *connect_here(void)
{
    struct td_client *client;
    check(td_connect(NULL, NULL, &client), "connect");
    return client;
}

static struct td_queue *open_queue(struct td_client *client, const char *name, uint64_t max_items)
{
    struct td_queue *queue;
    struct td_queue_options options = {.max_items = max_items};
    check(td_queue_open(client, name, &options, &queue), name);
    return queue;
}

/* queue_close, queue_delete: an operation of the table that has no function of its own. */
static enum td_status queue_op(struct td_client *client, const char *op, const char *queue)
{
    struct td_args *args = td_args_new();
    (void)td_args_text(args, "queue", queue); /* the call tells if this failed */
    enum td_status status = td_op(client, op, args, NULL, 0, NULL);
    td_args_free(args);
    return status;
}

/* The first process: makes frames. A camera would be read here instead. */
static void decode(int count)
{
    static const int64_t shape[] = {HEIGHT, WIDTH, 3};
    struct td_client *client = connect_here();
    struct td_queue *frames = open_queue(client, FRAMES, 2 * BATCH);
    for (int number = 0; number < count; number++) {
        /* Memory of the daemon, which is mapped here: the same few pieces again and again. It waits
         * while the others are behind. */
        struct td_mapping *frame;
        char text[16];
        check(td_queue_allocate(frames, TD_UINT8, 3, shape, FOR_EVER, &frame), "allocate");
        memset(td_mapping_data(frame), number % 256, FRAME_BYTES);
        snprintf(text, sizeof text, "%d", number);
        struct td_push_tensor tensor = {.mapping = frame};
        check(td_push(frames, 1, &tensor, text, FOR_EVER), "push");
        td_unmap(frame); /* it is the item's now */
    }
    check(queue_op(client, "queue_close", FRAMES), "close");
    td_queue_free(frames);
    td_close(client);
}

/* Copies the frames into one tensor, which it pushes, and lets go of them. */
static void push_batch(struct td_queue *batches, struct td_mapping **frames, int count, int first)
{
    const int64_t shape[] = {count, HEIGHT, WIDTH, 3};
    struct td_mapping *images;
    char text[16];
    check(td_queue_allocate(batches, TD_UINT8, 4, shape, FOR_EVER, &images), "allocate");
    for (int i = 0; i < count; i++) {
        char *slot = (char *)td_mapping_data(images) + (size_t)i * FRAME_BYTES;
        memcpy(slot, td_mapping_data(frames[i]), FRAME_BYTES);
        td_unmap(frames[i]);
    }
    snprintf(text, sizeof text, "%d", first);
    struct td_push_tensor tensor = {.key = "images", .mapping = images};
    check(td_push(batches, 1, &tensor, text, FOR_EVER), "push");
    td_unmap(images);
}

/* The second process: puts frames together. */
static void batch(void)
{
    struct td_client *client = connect_here();
    struct td_queue *frames = open_queue(client, FRAMES, 0);
    struct td_queue *batches = open_queue(client, BATCHES, 4);
    struct td_mapping *collected[BATCH];
    struct td_item *item;
    int count = 0, next = 0;
    enum td_status status;
    while ((status = td_pop(frames, FOR_EVER, &item)) == TD_OK) {
        /* The mapping shows the memory that was filled, and keeps it as it is, although the item is
         * done with. */
        check(td_item_map(item, 0, 0, &collected[count]), "map a frame");
        td_item_done(item);
        if (++count == BATCH) {
            push_batch(batches, collected, count, next);
            next += count;
            count = 0;
        }
    }
    if (status != TD_CLOSED) /* which says that no more are to come */
        check(status, "pop");
    if (count)
        push_batch(batches, collected, count, next);
    check(queue_op(client, "queue_close", BATCHES), "close");
    td_queue_free(frames);
    td_queue_free(batches);
    td_close(client);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Reads a byte of each of its frames; they must be what `decode` wrote. Returns how many. */
static int64_t read_batch(struct td_item *item, int first)
{
    struct td_mapping *images;
    check(td_item_map(item, 0, 0, &images), "map a batch");
    const struct td_info *info = td_mapping_info(images);
    const unsigned char *pixels = td_mapping_data(images);
    for (int i = 0; i < info->shape[0]; i++)
        for (size_t at = 0; at < FRAME_BYTES; at += 4096)
            if (pixels[(size_t)i * FRAME_BYTES + at] != (first + i) % 256) {
                fprintf(stderr, "frame %d is not what was decoded\n", first + i);
                exit(1);
            }
    int64_t count = info->shape[0];
    td_unmap(images);
    return count;
}

/* The third process. */
static void consume(int count)
{
    struct td_client *client = connect_here();
    struct td_queue *batches = open_queue(client, BATCHES, 0);
    struct td_item *item;
    enum td_status status;
    int64_t seen = 0;
    double begun = 0;
    while ((status = td_pop(batches, FOR_EVER, &item)) == TD_OK) {
        if (!seen)
            begun = now();
        seen += read_batch(item, atoi(td_item_meta(item)));
        td_item_done(item);
    }
    if (status != TD_CLOSED)
        check(status, "pop");
    double bytes = (double)seen * FRAME_BYTES, seconds = now() - begun;
    if (seen != count) {
        fprintf(stderr, "%" PRId64 " frames of %d came\n", seen, count);
        exit(1);
    }
    printf("consumed %" PRId64 " frames, %.0f MB, %.2f GB/s, where the others had written them\n",
           seen, bytes / 1e6, bytes / 1e9 / seconds);
    td_queue_free(batches);
    td_close(client);
}

/* One that is forked connects by itself: a client is not to be used across fork(). */
static pid_t start(void (*role)(int count), int count)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        role(count);
        exit(0);
    }
    if (pid < 0)
        perror("fork");
    return pid;
}

static void batch_role(int count)
{
    (void)count;
    batch();
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 400, failed = 0;
    struct td_client *client = connect_here();
    if (!td_is_local(client)) {
        fprintf(stderr, "memory of the daemon is filled in place, which needs the Unix socket\n");
        return 1;
    }
    (void)queue_op(client, "queue_delete", FRAMES); /* of a run that did not come to its end */
    (void)queue_op(client, "queue_delete", BATCHES);
    td_queue_free(open_queue(client, FRAMES, 2 * BATCH));
    td_queue_free(open_queue(client, BATCHES, 4));
    printf("three processes, %d frames of %d x %d x 3 bytes\n", count, HEIGHT, WIDTH);
    pid_t pids[] = {start(decode, count), start(batch_role, count), start(consume, count)};
    for (size_t i = 0; i < sizeof pids / sizeof pids[0]; i++) {
        int ended = 1;
        if (pids[i] < 0 || waitpid(pids[i], &ended, 0) < 0 || ended != 0)
            failed = 1;
    }
    check(queue_op(client, "queue_delete", FRAMES), "delete");
    check(queue_op(client, "queue_delete", BATCHES), "delete");
    td_close(client);
    return failed;
}
