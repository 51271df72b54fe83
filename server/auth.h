/* auth: the shared secret of --token-file. Threads: token_matches from any. */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include "core/fields.h"

#define TOKEN_MAX_BYTES 4096

struct token {
    size_t length; /* 0: none is needed */
    char bytes[TOKEN_MAX_BYTES];
};

/* The first line of the file, which must be private to its owner. */
NODISCARD enum td_status token_read(const char *path, struct token *out);
/* In a time that does not tell where a wrong token differs. */
bool token_matches(const struct token *token, struct text given);

#endif
