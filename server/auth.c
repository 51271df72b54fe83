#include "server/auth.h"

#include "core/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

enum td_status token_read(const char *path, struct token *out)
{
    struct stat info;
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        return fail(TD_INVALID, "the token file %s cannot be read: %s", path, strerror(errno));
    if (info.st_mode & 077)
        return fail(TD_INVALID, "the token file %s can be read by others; chmod 600 it", path);
    ssize_t got = read(fd, out->bytes, sizeof out->bytes);
    if (got < 0)
        return fail(TD_INVALID, "the token file %s cannot be read: %s", path, strerror(errno));
    const char *end = memchr(out->bytes, '\n', (size_t)got);
    out->length = end ? (size_t)(end - out->bytes) : (size_t)got;
    if (out->length < 16 || out->length == sizeof out->bytes)
        return fail(TD_INVALID,
                    "the first line of the token file %s has %zu bytes; a token has 16 "
                    "to %d, for example of `openssl rand -hex 32`",
                    path, out->length, TOKEN_MAX_BYTES - 1);
    return TD_OK;
}

bool token_matches(const struct token *token, struct text given)
{
    if (token->length == 0)
        return true;
    /* Every byte of the secret is looked at, whatever was given. */
    unsigned different = token->length != given.length;
    for (size_t i = 0; i < token->length; i++)
        different |= (unsigned char)token->bytes[i] ^
                     (unsigned char)(given.length ? given.data[i % given.length] : 0);
    return different == 0;
}
