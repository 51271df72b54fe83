/* waits: td_wait, td_watch. */
#include "client/internal.h"

static void set_timeout(struct fields *fields, int64_t timeout_ms)
{
    if (timeout_ms >= 0)
        FIELDS_SET(fields, timeout_ms, (uint64_t)timeout_ms);
}

enum td_status td_wait(struct td_client *client, const char *name, uint64_t generation,
                       int64_t timeout_ms, struct td_reply **reply)
{
    struct td_reply *got;
    struct fields fields;
    fields.present = 0;
    if (!name)
        return fail(TD_INVALID, "no name was given (NULL)");
    FIELDS_SET(&fields, input, text_of(name));
    if (generation)
        FIELDS_SET(&fields, generation, generation);
    set_timeout(&fields, timeout_ms);
    struct call call = {.op = OP_wait, .fields = &fields, .descriptor = -1};
    TRY(client_call(client, &call, &got));
    if (reply)
        *reply = got;
    else
        td_reply_free(got);
    return TD_OK;
}

enum td_status td_watch(struct td_client *client, const char *prefix, uint64_t *since,
                        int64_t timeout_ms, struct td_reply **events)
{
    struct fields fields;
    fields.present = 0;
    if (prefix && *prefix)
        FIELDS_SET(&fields, prefix, text_of(prefix));
    if (*since != TD_SINCE_NOW)
        FIELDS_SET(&fields, since, *since);
    set_timeout(&fields, timeout_ms);
    struct call call = {.op = OP_watch, .fields = &fields, .descriptor = -1};
    TRY(client_call(client, &call, events));
    (void)td_reply_uint(*events, "since", since);
    return TD_OK;
}
