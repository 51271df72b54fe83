/* The bare HTTP server: what a libmicrohttpd program reaches that only moves the bytes. GET /N
 * answers with N bytes of one body in memory; PUT copies what comes into that memory. */
#include "peer.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BODY_BYTES ((size_t)64 << 20)
#define IOVEC_MIN_BYTES 65536 /* from here on bodies are sent without a copy */
#define CONNECTION_MEMORY_BYTES ((size_t)128 << 10) /* larger gains nothing, and costs a memset */

static char *body; /* BODY_BYTES, touched before */

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status,
                              struct MHD_Response *response)
{
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/octet-stream");
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result answer_get(struct MHD_Connection *connection, const char *url)
{
    size_t size = strtoull(url + 1, NULL, 10);
    struct MHD_IoVec part = {body, size};
    if (size > BODY_BYTES)
        return MHD_NO;
    return answer(connection, MHD_HTTP_OK,
                  size < IOVEC_MIN_BYTES
                      ? MHD_create_response_from_buffer(size, body, MHD_RESPMEM_PERSISTENT)
                      : MHD_create_response_from_iovec(&part, 1, NULL, NULL));
}

/* Called with the headers, with each part of the body, and at its end. `*state` is how many bytes
 * came, plus 1, as a pointer. */
static enum MHD_Result on_request(void *closure, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state)
{
    (void)closure;
    (void)version;
    size_t have = (size_t)(uintptr_t)*state;
    if (have == 0) {
        *state = (void *)(uintptr_t)1;
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) == 0)
        return answer_get(connection, url);
    if (*upload_size == 0)
        return answer(connection, MHD_HTTP_CREATED,
                      MHD_create_response_from_buffer(0, body, MHD_RESPMEM_PERSISTENT));
    if (*upload_size > BODY_BYTES - (have - 1))
        return MHD_NO;
    memcpy(body + have - 1, upload, *upload_size);
    *state = (void *)(uintptr_t)(have + *upload_size);
    *upload_size = 0;
    return MHD_YES;
}

_Noreturn void serve_http(int tcp_fd)
{
    body = warm_alloc(BODY_BYTES);
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, NULL,
        MHD_OPTION_LISTEN_SOCKET, tcp_fd, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        CONNECTION_MEMORY_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_END);
    if (!daemon)
        die("libmicrohttpd does not start");
    for (;;)
        pause();
}
