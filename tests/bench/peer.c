/* peer KIND SOCKET: serves share, echo, bulk or http on a Unix socket and on a TCP port, which it
 * prints. */
#include "peer.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- share --------------------------------------------------------------------------------- */

struct shared {
    int fd;
    char *data;
    size_t size;
};

/* The memfd of that kind and size; one of another size makes room for it. */
static int shared_find(struct shared *shared, size_t size, bool huge)
{
    if (shared->size == size)
        return shared->fd;
    if (shared->size > 0) {
        munmap(shared->data, shared->size);
        close(shared->fd);
    }
    shared->size = size;
    shared->fd = size > 0 ? memfd_make(size, huge, &shared->data) : -1;
    return shared->fd;
}

static void send_descriptor(int to, const struct bare_message *answer, int descriptor)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)(uintptr_t)answer, sizeof *answer};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptor >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    }
    if (sendmsg(to, &message, MSG_NOSIGNAL) != sizeof *answer)
        die("sending a descriptor");
}

_Noreturn void serve_share(int unix_fd)
{
    struct shared huge = {.fd = -1}, plain = {.fd = -1};
    struct bare_message request;
    for (;;) {
        int fd = accept(unix_fd, NULL, NULL);
        if (fd < 0)
            die("accepting");
        while (receive_exactly(fd, &request, sizeof request)) {
            bool wants_huge = request.kind == BARE_SHARE_HUGE;
            send_descriptor(fd, &request,
                            shared_find(wants_huge ? &huge : &plain, request.size, wants_huge));
        }
        close(fd);
    }
}

/* ---- echo ---------------------------------------------------------------------------------- */

static void *echo_connection(void *argument)
{
    struct bare_message message;
    int fd = (int)(intptr_t)argument;
    while (receive_exactly(fd, &message, sizeof message))
        send_exactly(fd, &message, sizeof message);
    close(fd);
    return NULL;
}

static _Noreturn void echo_listener(int listening, bool local)
{
    for (;;) {
        pthread_t thread;
        int fd = accept(listening, NULL, NULL);
        if (fd < 0)
            die("accepting");
        if (local)
            set_unix_buffers(fd, true);
        else
            set_nodelay(fd);
        if (pthread_create(&thread, NULL, echo_connection, (void *)(intptr_t)fd) != 0)
            die("a thread");
        pthread_detach(thread);
    }
}

static void *echo_tcp(void *argument)
{
    echo_listener((int)(intptr_t)argument, false);
}

_Noreturn void serve_echo(int unix_fd, int tcp_fd)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, echo_tcp, (void *)(intptr_t)tcp_fd) != 0)
        die("a thread");
    echo_listener(unix_fd, true);
}

int main(int argc, char **argv)
{
    int port;
    if (argc != 3)
        die("usage: peer share|echo|bulk|http SOCKET");
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* run.py may be killed */
    int unix_fd = listen_unix(argv[2]), tcp_fd = listen_tcp(&port);
    printf("%d\n", port);
    fflush(stdout);
    if (strcmp(argv[1], "share") == 0)
        serve_share(unix_fd);
    if (strcmp(argv[1], "echo") == 0)
        serve_echo(unix_fd, tcp_fd);
    if (strcmp(argv[1], "bulk") == 0)
        serve_bulk(unix_fd, tcp_fd);
    if (strcmp(argv[1], "http") == 0)
        serve_http(tcp_fd);
    die("there is no peer %s", argv[1]);
}
