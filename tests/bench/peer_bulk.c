/* The bare bulk server: what a libuv program reaches that does nothing else with the bytes. */
#include "peer.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uv.h>

struct peer_connection {
    union {
        uv_stream_t stream;
        uv_pipe_t local;
        uv_tcp_t tcp;
    };
    struct bare_message message; /* that is being read, or whose body is */
    size_t have;                 /* of the message and of the body after it */
};

/* Of its own, since the next request may be read before libuv reports this one written. */
struct answer {
    uv_write_t write;
    struct bare_message message;
};

/* Where bodies land and come from: shared memory in huge pages, as a tensor is. */
static char *body;
static size_t body_size;

static void body_fit(size_t size)
{
    if (size == body_size)
        return;
    if (body)
        munmap(body, body_size);
    close(memfd_make(size, true, &body));
    body_size = size;
}

static void on_written(uv_write_t *write, int status)
{
    (void)status; /* a connection that broke is seen when reading */
    free(write->data);
}

static void answer(struct peer_connection *connection)
{
    struct answer *answer = malloc(sizeof *answer);
    if (!answer)
        die("no memory");
    answer->write.data = answer;
    answer->message = connection->message;
    connection->have = 0;
    bool get = answer->message.kind == BARE_GET;
    uv_buf_t parts[2] = {
        uv_buf_init((char *)&answer->message, sizeof answer->message),
        uv_buf_init(body, get ? (unsigned)answer->message.size : 0),
    };
    if (uv_write(&answer->write, &connection->stream, parts, get ? 2 : 1, on_written) != 0)
        die("writing");
}

/* The message first, then straight into the body's place. */
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    struct peer_connection *connection = handle->data;
    size_t head = sizeof connection->message;
    (void)suggested;
    if (connection->have < head) {
        *out = uv_buf_init((char *)&connection->message + connection->have,
                           (unsigned)(head - connection->have));
    } else {
        size_t done = connection->have - head;
        *out = uv_buf_init(body + done, (unsigned)(connection->message.size - done));
    }
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buffer)
{
    struct peer_connection *connection = stream->data;
    size_t head = sizeof connection->message;
    (void)buffer;
    if (got < 0) {
        uv_close((uv_handle_t *)stream, on_closed);
        return;
    }
    connection->have += (size_t)got;
    if (connection->have < head)
        return;
    if (connection->have == head && connection->message.size > 0)
        body_fit(connection->message.size);
    size_t wanted = connection->message.kind == BARE_PUT ? connection->message.size : 0;
    if (connection->have == head + wanted)
        answer(connection);
}

static void on_connection(uv_stream_t *listening, int status)
{
    struct peer_connection *connection = calloc(1, sizeof *connection);
    bool local = listening->type == UV_NAMED_PIPE;
    int fd;
    if (!connection || status < 0)
        die("accepting: %d", status);
    if (local)
        uv_pipe_init(listening->loop, &connection->local, 0);
    else
        uv_tcp_init(listening->loop, &connection->tcp);
    connection->stream.data = connection;
    if (uv_accept(listening, &connection->stream) != 0 ||
        uv_fileno((uv_handle_t *)&connection->stream, &fd) != 0)
        die("accepting");
    if (local)
        set_unix_buffers(fd, true);
    else
        set_nodelay(fd);
    uv_read_start(&connection->stream, on_alloc, on_read);
}

_Noreturn void serve_bulk(int unix_fd, int tcp_fd)
{
    uv_loop_t loop;
    uv_pipe_t local;
    uv_tcp_t tcp;
    if (uv_loop_init(&loop) != 0 || uv_pipe_init(&loop, &local, 0) != 0 ||
        uv_tcp_init(&loop, &tcp) != 0 || uv_pipe_open(&local, unix_fd) != 0 ||
        uv_tcp_open(&tcp, tcp_fd) != 0 ||
        uv_listen((uv_stream_t *)&local, 16, on_connection) != 0 ||
        uv_listen((uv_stream_t *)&tcp, 16, on_connection) != 0)
        die("a libuv loop");
    uv_run(&loop, UV_RUN_DEFAULT);
    die("the loop ended");
}
