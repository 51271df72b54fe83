/* http_upload: a body of elements while it comes, as the files that read it share it. */
#ifndef SERVER_HTTP_UPLOAD_H
#define SERVER_HTTP_UPLOAD_H

#include "server/http_internal.h"

enum stage {
    STAGE_HEAD,     /* gathering what stands before the elements */
    STAGE_ALLOCATE, /* a job makes the storage */
    STAGE_ELEMENTS,
    STAGE_JSON,  /* a document, up to its data */
    STAGE_SPOOL, /* what can only be read when all of it is there: some JSON, a file for load */
};

struct upload {
    enum op op;
    enum stage stage;
    enum format format; /* NONE: the first bytes tell */
    char *head;
    size_t head_length, head_room, head_needed;
    size_t head_used;  /* JSON: of the bytes that told what it is */
    uint64_t consumed; /* of the body, before the elements */
    struct storage *storage;
    uint64_t length;   /* of the elements */
    uint64_t received; /* of them */
    size_t swap_bytes; /* numbers of so many bytes come the other way round; 0: none do */
    uint64_t swapped;
    struct json_tensor *json;
    struct storage *spool;
    uint64_t spooled, spool_room;
    enum td_status (*then)(struct exchange *x);
};

/* ---- what stands before the elements (http_upload_head.c) --------------------------------------
 */

void upload_head_begin(struct exchange *x);
/* Gathers exactly the bytes that are needed, so that the elements' first byte stays in `data`, and
 * tells by them the format, dtype and shape. *complete: all of that is told, but for JSON of which
 * only the format is. */
NODISCARD enum td_status upload_head_body(struct exchange *x, const char *data, size_t *length,
                                          bool *complete);
/* The format, by the first bytes. */
NODISCARD enum td_status upload_recognise(struct upload *upload);
/* What the body says of itself, against what the request says. */
NODISCARD enum td_status upload_agree_on_dtype(struct exchange *x, enum td_dtype dtype);
NODISCARD enum td_status upload_agree_on_shape(struct exchange *x, const struct dims *shape);

#endif
