/* mock_daemon: a daemon in threads of the test, small enough to misbehave on demand.
 *
 * It listens on a Unix socket in a new directory. It holds up to MOCK_TENSORS tensors, each in a
 * sealed memfd, and answers hello, ping, put, get, info, map, numpy, release, touch, from_numpy and
 * list. `fault` makes the next matching reply wrong.
 */
#ifndef TESTS_MOCK_DAEMON_H
#define TESTS_MOCK_DAEMON_H

#include "core/cleanup.h"
#include "core/op_table.h"
#include "proto/wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define MOCK_TENSORS 16
#define MOCK_CONNECTIONS 64
#define MOCK_INLINE_MAX 64 /* smaller tensors are mapped as copies */

enum mock_fault {
    FAULT_NONE,
    FAULT_TRUNCATED,      /* half a header, then the end */
    FAULT_TRUNCATED_BODY, /* one byte of the body is missing, then the end */
    FAULT_CLOSE,          /* no reply, and the connection is closed */
    FAULT_SILENT,         /* no reply */
    FAULT_WRONG_ID,
    FAULT_WRONG_OPCODE,
    FAULT_NOT_A_REPLY,
    FAULT_BAD_MAGIC,
    FAULT_BAD_META,
    FAULT_EXTRA_BYTES,
    FAULT_ERROR,         /* not_found, with a message */
    FAULT_UNKNOWN_ERROR, /* a status this client does not know */
    FAULT_DEAF,          /* no body is read while this lasts */
    FAULT_EARLY_ERROR,   /* too_large before the body is read, then the end */
    FAULT_NO_DESCRIPTOR, /* map: shared, but nothing comes along */
    FAULT_TWO_DESCRIPTORS,
    FAULT_UNSEALED,
    FAULT_STORAGE_BYTES, /* map: more than the descriptor has */
    FAULT_OFFSET,        /* map: the elements end past the storage */
    FAULT_OFFSET_WRAPS,
    FAULT_STRIDES,     /* map: strides that overflow */
    FAULT_MEMORY_WORD, /* map: neither shared nor copied */
    FAULT_COPY_SIZE,   /* map: a body of another size */
};

struct mock_tensor {
    char name[64];
    enum td_dtype dtype;
    struct dims shape;
    bool mutable;
    uint64_t id, storage;
    int fd, read_fd;
    size_t bytes;
};

struct mock_frame;

struct mock_daemon {
    char directory[64], url[128];
    int listener;
    pthread_t acceptor;
    pthread_mutex_t lock;
    struct mock_tensor tensors[MOCK_TENSORS];
    int tensor_count;
    int sockets[MOCK_CONNECTIONS]; /* -1: ended */
    pthread_t workers[MOCK_CONNECTIONS];
    int connection_count;
    bool stopping;
    uint64_t last_id, last_lease;
    uint64_t session;   /* its key is "key-<session>" */
    atomic_int joined;  /* connections in the session */
    atomic_bool forget; /* the session is gone: joins are refused until a new one */
    atomic_int fault;
    atomic_int requests, hellos, releases, known, descriptors_in;
    atomic_ullong last_released;
    char last_release_input[64];
    /* Asked first, with the lock held: true if it has answered. NULL: nobody. */
    bool (*answer)(struct mock_daemon *mock, int socket, struct mock_frame *frame);
};

struct mock_frame {
    struct wire_header header;
    struct fields fields;
    uint8_t *meta, *body;
    int fd;
};

/* ---- bytes --------------------------------------------------------------------------------- */

static inline bool mock_read(int socket, void *to, size_t size, int *fd)
{
    for (size_t done = 0; done < size;) {
        char control[CMSG_SPACE(sizeof(int))];
        struct iovec part = {(char *)to + done, size - done};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof control};
        ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
        if (n <= 0)
            return false;
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        if (c && c->cmsg_type == SCM_RIGHTS)
            memcpy(fd, CMSG_DATA(c), sizeof *fd);
        done += (size_t)n;
    }
    return true;
}

static inline void mock_write(int socket, const void *from, size_t size, const int *fds, int count)
{
    const char *at = from;
    char control[CMSG_SPACE(2 * sizeof(int))] = {0};
    while (size > 0) {
        struct iovec part = {(char *)(uintptr_t)at, size};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (count > 0) {
            message.msg_control = control;
            message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
            struct cmsghdr *c = CMSG_FIRSTHDR(&message);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
            memcpy(CMSG_DATA(c), fds, (size_t)count * sizeof(int));
        }
        ssize_t n = sendmsg(socket, &message, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        count = 0;
        at += n;
        size -= (size_t)n;
    }
}

/* One reply in one write, so that the client can take it with one read. */
static inline void mock_reply(struct mock_daemon *mock, int socket,
                              const struct mock_frame *request, uint32_t status,
                              const struct fields *fields, const void *body, size_t body_bytes,
                              int fd)
{
    int fault = atomic_load(&mock->fault);
    if (request->header.opcode == OP_hello)
        fault = FAULT_NONE;
    struct wire_header header = {
        .version = WIRE_VERSION,
        .flags = fault == FAULT_NOT_A_REPLY ? 0 : WIRE_REPLY,
        .opcode = (uint16_t)(request->header.opcode + (fault == FAULT_WRONG_OPCODE ? 1 : 0)),
        .request_id = request->header.request_id + (fault == FAULT_WRONG_ID ? 1 : 0),
        .status = status,
        .meta_length = (uint32_t)wire_fields_size(fields),
        .body_length = body_bytes,
        .descriptors = fd >= 0 ? 1 : 0,
    };
    size_t size = WIRE_HEADER_SIZE + header.meta_length + body_bytes;
    uint8_t *bytes = calloc(1, size + 8);
    wire_header_encode(&header, bytes);
    wire_fields_encode(fields, bytes + WIRE_HEADER_SIZE);
    if (body_bytes > 0)
        memcpy(bytes + WIRE_HEADER_SIZE + header.meta_length, body, body_bytes);
    if (fault == FAULT_BAD_MAGIC)
        bytes[0] ^= 1;
    if (fault == FAULT_BAD_META && header.meta_length > 0)
        memset(bytes + WIRE_HEADER_SIZE, 0xff, header.meta_length);
    if (fault == FAULT_TRUNCATED)
        size = WIRE_HEADER_SIZE / 2;
    if (fault == FAULT_TRUNCATED_BODY)
        size--;
    if (fault == FAULT_EXTRA_BYTES)
        size += 8;
    int fds[2] = {fd, fd};
    mock_write(socket, bytes, size, fds, fd < 0 ? 0 : fault == FAULT_TWO_DESCRIPTORS ? 2 : 1);
    if (fault == FAULT_TRUNCATED || fault == FAULT_TRUNCATED_BODY)
        shutdown(socket, SHUT_RDWR);
    free(bytes);
}

static inline void mock_error(struct mock_daemon *mock, int socket,
                              const struct mock_frame *request, uint32_t status,
                              const char *message)
{
    struct fields fields = {0};
    FIELDS_SET(&fields, message, text_of(message));
    mock_reply(mock, socket, request, status, &fields, NULL, 0, -1);
}

/* ---- tensors ------------------------------------------------------------------------------- */

static inline struct mock_tensor *mock_find(struct mock_daemon *mock, struct text name)
{
    for (int i = mock->tensor_count - 1; i >= 0; i--)
        if (text_equal(name, mock->tensors[i].name))
            return &mock->tensors[i];
    return NULL;
}

static inline int mock_memfd(size_t bytes, bool seal)
{
    int fd = memfd_create("mock", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ftruncate(fd, (off_t)((bytes + 4095) & ~(size_t)4095)) != 0)
        abort();
    if (seal)
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    return fd;
}

static inline int mock_read_only(int fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* The caller holds the lock. */
static inline struct mock_tensor *mock_add(struct mock_daemon *mock, const struct fields *fields,
                                           const void *body, size_t bytes)
{
    struct mock_tensor *tensor = mock_find(mock, fields->output);
    if (!tensor)
        tensor = &mock->tensors[mock->tensor_count++];
    else
        close(tensor->fd), close(tensor->read_fd);
    snprintf(tensor->name, sizeof tensor->name, "%.*s", TEXT_ARGS(fields->output));
    tensor->dtype = fields->dtype;
    tensor->shape = fields->shape;
    tensor->mutable = FIELDS_HAS(fields, mutable) && fields->mutable;
    tensor->id = tensor->storage = ++mock->last_id;
    tensor->bytes = bytes;
    tensor->fd = mock_memfd(bytes ? bytes : 1, true);
    if (bytes > 0 && pwrite(tensor->fd, body, bytes, 0) != (ssize_t)bytes)
        abort();
    tensor->read_fd = mock_read_only(tensor->fd);
    return tensor;
}

static inline void mock_describe(const struct mock_tensor *tensor, struct fields *out)
{
    FIELDS_SET(out, id, tensor->id);
    FIELDS_SET(out, name, text_of(tensor->name));
    FIELDS_SET(out, dtype, tensor->dtype);
    FIELDS_SET(out, shape, tensor->shape);
    FIELDS_SET(out, device, text_of("cpu"));
    FIELDS_SET(out, offset_bytes, 0);
    FIELDS_SET(out, storage, tensor->storage);
    FIELDS_SET(out, storage_bytes, tensor->bytes);
    FIELDS_SET(out, nbytes, tensor->bytes);
    FIELDS_SET(out, mode, text_of(tensor->mutable ? "mutable" : "frozen"));
}

/* ---- operations ---------------------------------------------------------------------------- */

static inline void mock_hello(struct mock_daemon *mock, int socket, struct mock_frame *frame)
{
    char key[32];
    struct fields fields = {0};
    atomic_fetch_add(&mock->hellos, 1);
    pthread_mutex_lock(&mock->lock);
    snprintf(key, sizeof key, "key-%llu", (unsigned long long)mock->session);
    bool join = FIELDS_HAS(&frame->fields, session_key);
    bool known = join && !atomic_load(&mock->forget) && text_equal(frame->fields.session_key, key);
    if (!join) {
        snprintf(key, sizeof key, "key-%llu", (unsigned long long)++mock->session);
        atomic_store(&mock->forget, false);
    }
    uint64_t session = mock->session;
    pthread_mutex_unlock(&mock->lock);
    if (join && !known) {
        mock_error(mock, socket, frame, TD_NOT_FOUND, "no such session");
        return;
    }
    atomic_fetch_add(&mock->joined, 1);
    FIELDS_SET(&fields, protocol, 1);
    FIELDS_SET(&fields, session_key, text_of(key));
    FIELDS_SET(&fields, text, text_of("mock"));
    FIELDS_SET(&fields, session, session);
    mock_reply(mock, socket, frame, 0, &fields, NULL, 0, -1);
}

static inline void mock_map_reply(struct mock_daemon *mock, int socket, struct mock_frame *frame,
                                  const struct mock_tensor *tensor)
{
    int fault = atomic_load(&mock->fault);
    struct fields fields = {0};
    struct layout layout;
    char elements[MOCK_INLINE_MAX];
    bool copy = tensor->bytes <= MOCK_INLINE_MAX;
    bool write = FIELDS_HAS(&frame->fields, write) && frame->fields.write;
    int fd = write ? tensor->fd : tensor->read_fd, unsealed = -1;

    mock_describe(tensor, &fields);
    if (layout_contiguous(tensor->dtype, &tensor->shape, &layout) != TD_OK)
        abort();
    FIELDS_SET(&fields, lease, ++mock->last_lease);
    FIELDS_SET(&fields, memory, text_of(copy ? "copied" : "shared"));
    if (copy)
        FIELDS_SET(&fields, reason, text_of("small"));
    if (FIELDS_HAS(&frame->fields, known_storage) &&
        frame->fields.known_storage == tensor->storage) {
        atomic_fetch_add(&mock->known, 1);
        fd = -1;
    }
    if (fault == FAULT_NO_DESCRIPTOR)
        fd = -1;
    if (fault == FAULT_UNSEALED)
        fd = unsealed = mock_memfd(tensor->bytes, false);
    if (fault == FAULT_STORAGE_BYTES)
        fields.storage_bytes = 1 << 20;
    if (fault == FAULT_OFFSET)
        fields.offset_bytes = 8;
    if (fault == FAULT_OFFSET_WRAPS)
        fields.offset_bytes = UINT64_MAX - 7;
    if (fault == FAULT_STRIDES) {
        FIELDS_SET(&fields, strides, tensor->shape);
        fields.strides.v[0] = INT64_MAX / 2;
    }
    if (fault == FAULT_MEMORY_WORD)
        fields.memory = text_of("borrowed");
    ssize_t got = copy ? pread(tensor->fd, elements, tensor->bytes, 0) : 0;
    if (fault == FAULT_COPY_SIZE && got > 0)
        got--;
    mock_reply(mock, socket, frame, 0, &fields, elements, (size_t)got, copy ? -1 : fd);
    if (unsealed >= 0)
        close(unsealed);
}

static inline void mock_from_numpy(struct mock_daemon *mock, int socket, struct mock_frame *frame)
{
    struct fields fields = {0};
    struct mock_tensor tensor = {.dtype = frame->fields.dtype, .shape = frame->fields.shape};
    bool shared = frame->fd >= 0;
    if (shared) { /* the first element + 1 shows on the other side */
        struct stat file;
        float first;
        off_t at = (off_t)frame->fields.offset_bytes;
        fstat(frame->fd, &file);
        tensor.bytes = (size_t)file.st_size;
        if (pread(frame->fd, &first, sizeof first, at) == sizeof first) {
            first += 1;
            if (pwrite(frame->fd, &first, sizeof first, at) != sizeof first)
                abort();
        }
        atomic_fetch_add(&mock->descriptors_in, 1);
    } else {
        struct fields named = frame->fields;
        named.output = text_of("numpy");
        tensor = *mock_add(mock, &named, frame->body, frame->header.body_length);
    }
    mock_describe(&tensor, &fields);
    FIELDS_SET(&fields, memory, text_of(shared ? "shared" : "copied"));
    FIELDS_SET(&fields, reason, text_of(shared ? "" : "heap"));
    mock_reply(mock, socket, frame, 0, &fields, NULL, 0, -1);
}

static inline void mock_list(struct mock_daemon *mock, int socket, struct mock_frame *frame)
{
    uint8_t body[8192];
    size_t used = 0;
    struct fields none = {0};
    for (int i = 0; i < mock->tensor_count; i++) {
        struct fields fields = {0};
        mock_describe(&mock->tensors[i], &fields);
        uint32_t size = (uint32_t)wire_fields_size(&fields);
        memcpy(body + used, &size, sizeof size);
        wire_fields_encode(&fields, body + used + sizeof size);
        used += sizeof size + size;
    }
    mock_reply(mock, socket, frame, 0, &none, body, used, -1);
}

static inline void mock_named(struct mock_daemon *mock, int socket, struct mock_frame *frame)
{
    struct fields fields = {0};
    struct mock_tensor *tensor = mock_find(mock, frame->fields.input);
    if (!tensor) {
        mock_error(mock, socket, frame, TD_NOT_FOUND, "there is no such tensor; list shows them");
        return;
    }
    if (frame->header.opcode == OP_map || frame->header.opcode == OP_numpy) {
        mock_map_reply(mock, socket, frame, tensor);
        return;
    }
    mock_describe(tensor, &fields);
    if (frame->header.opcode != OP_get) {
        mock_reply(mock, socket, frame, 0, &fields, NULL, 0, -1);
        return;
    }
    uint8_t *bytes = malloc(tensor->bytes + 1);
    ssize_t got = pread(tensor->fd, bytes, tensor->bytes, 0);
    mock_reply(mock, socket, frame, 0, &fields, bytes, (size_t)got, -1);
    free(bytes);
}

static inline void mock_put(struct mock_daemon *mock, int socket, struct mock_frame *frame)
{
    struct fields fields = {0};
    mock_describe(mock_add(mock, &frame->fields, frame->body, frame->header.body_length), &fields);
    mock_reply(mock, socket, frame, 0, &fields, NULL, 0, -1);
}

static inline void mock_release(struct mock_daemon *mock, struct mock_frame *frame)
{
    if (FIELDS_HAS(&frame->fields, lease))
        atomic_store(&mock->last_released, frame->fields.lease);
    else
        snprintf(mock->last_release_input, sizeof mock->last_release_input, "%.*s",
                 TEXT_ARGS(frame->fields.input));
    atomic_fetch_add(&mock->releases, 1);
}

/* The caller holds the lock. False: the connection ends. */
static inline bool mock_answer(struct mock_daemon *mock, int socket, struct mock_frame *frame)
{
    int fault = atomic_load(&mock->fault);
    if (mock->answer && mock->answer(mock, socket, frame))
        return true;
    if (frame->header.flags & WIRE_ONE_WAY) {
        mock_release(mock, frame);
        return true;
    }
    atomic_fetch_add(&mock->requests, 1);
    if (fault == FAULT_CLOSE || fault == FAULT_SILENT)
        return fault == FAULT_SILENT;
    if (fault == FAULT_ERROR || fault == FAULT_UNKNOWN_ERROR) {
        mock_error(mock, socket, frame, fault == FAULT_ERROR ? TD_NOT_FOUND : 999, "as asked for");
        return true;
    }
    switch (frame->header.opcode) {
    case OP_put:
        mock_put(mock, socket, frame);
        break;
    case OP_list:
        mock_list(mock, socket, frame);
        break;
    case OP_from_numpy:
        mock_from_numpy(mock, socket, frame);
        break;
    case OP_ping: {
        struct fields none = {0};
        mock_reply(mock, socket, frame, 0, &none, frame->body, frame->header.body_length, -1);
        break;
    }
    default:
        mock_named(mock, socket, frame);
    }
    return true;
}

/* ---- connections --------------------------------------------------------------------------- */

static inline bool mock_serve_one(struct mock_daemon *mock, int socket)
{
    uint8_t head[WIRE_HEADER_SIZE];
    struct mock_frame frame = {.fd = -1};
    bool go_on = false;
    if (!mock_read(socket, head, sizeof head, &frame.fd) ||
        wire_header_decode(head, &frame.header) != TD_OK)
        return false;
    frame.meta = malloc(frame.header.meta_length + 1);
    if (mock_read(socket, frame.meta, frame.header.meta_length, &frame.fd) &&
        wire_fields_decode(frame.meta, frame.header.meta_length, WIRE_STRICT, &frame.fields) ==
            TD_OK)
        go_on = true;
    if (go_on && frame.header.body_length > 0 && atomic_load(&mock->fault) == FAULT_EARLY_ERROR) {
        mock_error(mock, socket, &frame, TD_TOO_LARGE, "the body is over the limit");
        go_on = false;
    }
    while (frame.header.body_length > 0 && atomic_load(&mock->fault) == FAULT_DEAF)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (go_on) {
        frame.body = malloc(frame.header.body_length + 1);
        go_on = mock_read(socket, frame.body, frame.header.body_length, &frame.fd);
    }
    if (go_on && frame.header.opcode == OP_hello) {
        mock_hello(mock, socket, &frame);
    } else if (go_on) {
        pthread_mutex_lock(&mock->lock);
        go_on = mock_answer(mock, socket, &frame);
        pthread_mutex_unlock(&mock->lock);
    }
    if (frame.fd >= 0)
        close(frame.fd);
    free(frame.meta);
    free(frame.body);
    return go_on;
}

struct mock_worker {
    struct mock_daemon *mock;
    int slot, socket;
};

static inline void *mock_work(void *argument)
{
    struct mock_worker worker = *(struct mock_worker *)argument;
    free(argument);
    while (mock_serve_one(worker.mock, worker.socket))
        ;
    pthread_mutex_lock(&worker.mock->lock);
    worker.mock->sockets[worker.slot] = -1;
    pthread_mutex_unlock(&worker.mock->lock);
    close(worker.socket);
    return NULL;
}

static inline void *mock_accept(void *argument)
{
    struct mock_daemon *mock = argument;
    for (;;) {
        int socket = accept4(mock->listener, NULL, NULL, SOCK_CLOEXEC);
        if (socket < 0)
            return NULL;
        pthread_mutex_lock(&mock->lock);
        if (mock->stopping || mock->connection_count == MOCK_CONNECTIONS) {
            pthread_mutex_unlock(&mock->lock);
            close(socket);
            continue;
        }
        struct mock_worker *worker = malloc(sizeof *worker);
        *worker = (struct mock_worker){mock, mock->connection_count, socket};
        mock->sockets[mock->connection_count] = socket;
        pthread_create(&mock->workers[mock->connection_count++], NULL, mock_work, worker);
        pthread_mutex_unlock(&mock->lock);
    }
}

/* Ends every connection, as a daemon that dies does. */
static inline void mock_drop_connections(struct mock_daemon *mock)
{
    pthread_mutex_lock(&mock->lock);
    int count = mock->connection_count;
    for (int i = 0; i < count; i++)
        if (mock->sockets[i] >= 0)
            shutdown(mock->sockets[i], SHUT_RDWR);
    pthread_mutex_unlock(&mock->lock);
    for (int i = 0; i < count; i++)
        pthread_join(mock->workers[i], NULL);
    pthread_mutex_lock(&mock->lock);
    mock->connection_count = 0;
    pthread_mutex_unlock(&mock->lock);
}

static inline void mock_stop(struct mock_daemon *mock)
{
    pthread_mutex_lock(&mock->lock);
    mock->stopping = true;
    pthread_mutex_unlock(&mock->lock);
    shutdown(mock->listener, SHUT_RDWR);
    pthread_join(mock->acceptor, NULL);
    close(mock->listener);
    mock_drop_connections(mock);
    for (int i = 0; i < mock->tensor_count; i++)
        close(mock->tensors[i].fd), close(mock->tensors[i].read_fd);
    if (mock->directory[0]) {
        unlink(mock->url + strlen("unix://"));
        rmdir(mock->directory);
    }
    pthread_mutex_destroy(&mock->lock);
}

/* The url is mock->url. tcp: a port of the kernel's choice instead of a Unix socket. */
static inline void mock_start(struct mock_daemon *mock, bool tcp)
{
    memset(mock, 0, sizeof *mock);
    pthread_mutex_init(&mock->lock, NULL);
    int bound;
    if (tcp) {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t size = sizeof address;
        mock->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bound = bind(mock->listener, (struct sockaddr *)&address, sizeof address);
        getsockname(mock->listener, (struct sockaddr *)&address, &size);
        snprintf(mock->url, sizeof mock->url, "tcp://127.0.0.1:%d", ntohs(address.sin_port));
    } else {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strcpy(mock->directory, "/tmp/tensord-mock-XXXXXX");
        if (!mkdtemp(mock->directory))
            abort();
        snprintf(mock->url, sizeof mock->url, "unix://%s/socket", mock->directory);
        snprintf(address.sun_path, sizeof address.sun_path, "%s", mock->url + strlen("unix://"));
        mock->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bound = bind(mock->listener, (struct sockaddr *)&address, sizeof address);
    }
    if (bound != 0 || listen(mock->listener, 32) != 0 ||
        pthread_create(&mock->acceptor, NULL, mock_accept, mock) != 0)
        abort();
}

#endif
