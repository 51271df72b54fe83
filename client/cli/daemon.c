/* daemon: the connection, and calls over it. */
#include "client/cli/cli.h"
#include "client/cli/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define TOKEN_MAX_BYTES 4096
#define SLOW_BYTES_A_MS 64 /* of a line that is still worth waiting for */

/* The first line of the file, as the daemon reads it. */
static enum td_status read_token(const char *path, char token[TOKEN_MAX_BYTES])
{
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, token, TOKEN_MAX_BYTES - 1);
    if (got < 0)
        return fail(TD_INVALID, "the token file %s cannot be read: %s", path, strerror(errno));
    token[got] = '\0';
    token[strcspn(token, "\n")] = '\0';
    if (!*token)
        return fail(TD_INVALID, "the token file %s has no token in its first line", path);
    return TD_OK;
}

static bool is_interrupted(void *nothing)
{
    (void)nothing;
    return signals_caught() != 0;
}

enum td_status cli_args_patience(const struct cli *cli, struct td_args *args, uint64_t body_bytes)
{
    if (cli_has(cli, OPTION_TIMEOUT))
        return TD_OK;
    return td_args_uint(args, "timeout_ms", TIMEOUT_DEFAULT_MS + body_bytes / SLOW_BYTES_A_MS);
}

enum td_status cli_connect(struct cli *cli)
{
    char token[TOKEN_MAX_BYTES];
    uint64_t timeout_ms;
    struct td_options options = {
        .client = "tensorctl",
        .interrupted = is_interrupted,
        .progress = progress_of_body,
    };
    if (cli->client)
        return TD_OK;
    TRY(cli_duration(cli, OPTION_TIMEOUT, TIMEOUT_DEFAULT_MS, &timeout_ms));
    options.timeout_ms = timeout_ms ? (int64_t)timeout_ms : -1;
    if (cli_has(cli, OPTION_TOKEN_FILE)) {
        TRY(read_token(cli->options[OPTION_TOKEN_FILE], token));
        options.token = token;
    }
    enum td_status status = td_connect(cli->options[OPTION_URL], &options, &cli->client);
    explicit_bzero(token, sizeof token);
    return status;
}

void cli_set_subject(struct cli *cli, const char *subject)
{
    bool is_name = subject && strlen(subject) < sizeof cli->subject;
    strcpy(cli->subject, is_name ? subject : "");
}

enum td_status cli_op(struct cli *cli, const char *op, const struct td_args *args,
                      const char *subject, struct td_reply **out)
{
    TRY(cli_connect(cli));
    cli_set_subject(cli, subject);
    return td_op(cli->client, op, args, NULL, 0, out);
}

enum td_status cli_op_input(struct cli *cli, const char *op, const char *input,
                            struct td_reply **out)
{
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    TRY(td_args_text(args, "input", input));
    return cli_op(cli, op, args, input, out);
}

enum td_status cli_counter(struct cli *cli, const char *name, uint64_t *out)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    const struct td_reply *entry;
    const char *entry_name;
    size_t cursor = 0;
    TRY(cli_connect(cli));
    TRY(td_op(cli->client, "stats", NULL, NULL, 0, &reply)); /* the subject stays what it was */
    *out = 0;
    while (td_reply_next(reply, &cursor, &entry))
        if (td_reply_text(entry, "name", &entry_name) && strcmp(entry_name, name) == 0)
            (void)td_reply_uint(entry, "count", out);
    return TD_OK;
}

enum td_status cli_args_patience_of_all(struct cli *cli, struct td_args *args)
{
    uint64_t limit;
    TRY(cli_counter(cli, "memory_limit_bytes", &limit));
    return cli_args_patience(cli, args, limit);
}
