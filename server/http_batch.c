/* /v1/batch: operations one after another; each result or error stands in its place. */
#include "proto/format/json.h"
#include "server/http_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BATCH_MAX 1000
#define TURN_BYTES ((uint64_t)64 << 20) /* that operations touch in one job */
#define RESULT_BYTES 4096               /* of a result as a tree and as text, about */

struct batch {
    const cJSON *item; /* that comes next; of x->tree */
    cJSON *results;
    const char *op_name;
    struct made { /* what "@[0]", the first result, stands for */
        char name[NAME_MAX_BYTES + 1];
    } * made;
    int count;
};

void batch_destroy(struct batch *batch)
{
    if (!batch)
        return;
    cJSON_Delete(batch->results);
    free(batch->made);
    free(batch);
}

/* ---- one item ----------------------------------------------------------------------------------
 */

/* "@[3]" is what the fourth item made. */
static enum td_status replace_reference(const struct batch *batch, struct text *text)
{
    char copy[16];
    int index, used = 0;
    if (text->length < 4 || text->length >= sizeof copy || memcmp(text->data, "@[", 2) != 0)
        return TD_OK;
    memcpy(copy, text->data, text->length);
    copy[text->length] = '\0';
    if (sscanf(copy, "@[%9d]%n", &index, &used) != 1 || (size_t)used != text->length)
        return fail(TD_INVALID, "'%s' is no reference to a result; the first one's is @[0]", copy);
    if (index < 0 || index >= batch->count || !batch->made[index].name[0])
        return fail(TD_INVALID, "'%s' stands for the result of an earlier operation that made one",
                    copy);
    *text = text_of(batch->made[index].name);
    return TD_OK;
}

static enum td_status check_op(struct text name, enum op *out)
{
    int op = op_find(name.data, name.length);
    if (!op)
        return fail(TD_NOT_FOUND, "there is no operation '%.*s'; GET /v1/ops lists them",
                    (int)(name.length < 100 ? name.length : 100), name.data);
    unsigned traits = op_infos[op].traits;
    if ((traits & (OP_BODY_IN | OP_CONNECTION)) || ((traits & OP_BODY_OUT) && (traits & OP_BYTES)))
        return fail(TD_UNSUPPORTED,
                    "%s moves elements, or belongs to a connection: it takes a request of its own",
                    op_infos[op].name);
    *out = (enum op)op;
    return TD_OK;
}

static enum td_status item_begin(struct exchange *x)
{
    struct batch *batch = x->batch;
    cJSON *item = (cJSON *)(uintptr_t)batch->item, *name;
    enum op op;
    batch->op_name = "";
    if (!cJSON_IsObject(item))
        return fail(TD_INVALID, "an operation of a batch is an object with the member 'op'");
    name = cJSON_GetObjectItemCaseSensitive(item, "op");
    if (!cJSON_IsString(name))
        return fail(TD_INVALID, "an operation of a batch needs the member 'op', its name");
    TRY(check_op(text_of(name->valuestring), &op));
    batch->op_name = op_infos[op].name;
    cJSON_Delete(cJSON_DetachItemFromObjectCaseSensitive(item, "op"));
    TRY(json_to_fields(item, &x->in));
    if (FIELDS_HAS(&x->in, input))
        TRY(replace_reference(batch, &x->in.input));
    if (FIELDS_HAS(&x->in, other))
        TRY(replace_reference(batch, &x->in.other));
    TRY(exchange_call(x, op));
    return op_begin(&x->call);
}

static cJSON *item_value(struct exchange *x, enum td_status status)
{
    cJSON *value =
        status == TD_OK ? answer_fields_value(&x->call.out) : answer_problem_value(status);
    if (value && status == TD_OK && x->list && cJSON_AddItemToObject(value, "entries", x->list))
        x->list = NULL;
    if (value)
        cJSON_AddStringToObject(value, "op", x->batch->op_name);
    return value;
}

static enum td_status item_end(struct exchange *x, enum td_status status)
{
    struct batch *batch = x->batch;
    const struct fields *out = &x->call.out;
    struct made *made = &batch->made[batch->count++];
    if (status != TD_OK)
        atomic_fetch_add_explicit(&x->server->options.engine->errors, 1, memory_order_relaxed);
    if (status == TD_OK && FIELDS_HAS(out, name))
        snprintf(made->name, sizeof made->name, "%.*s", TEXT_ARGS(out->name));
    else if (status == TD_OK && FIELDS_HAS(out, id))
        snprintf(made->name, sizeof made->name, "@%" PRIu64, out->id);
    cJSON *value = item_value(x, status);
    bool kept = value && cJSON_AddItemToArray(batch->results, value);
    if (!kept)
        cJSON_Delete(value);
    if (x->call_begun)
        op_end(&x->call);
    x->call_begun = false;
    cJSON_Delete(take(&x->list));
    x->in.present = 0;
    x->op_deadline_ms = 0;
    batch->item = batch->item->next;
    return kept ? TD_OK : fail(TD_OUT_OF_MEMORY, "no memory for the results");
}

/* ---- all of them -------------------------------------------------------------------------------
 */

/* In the job: the results as text. */
static enum td_status results_print(struct exchange *x)
{
    cJSON *value = cJSON_CreateObject();
    if (value && cJSON_AddItemToObject(value, "results", x->batch->results)) {
        x->batch->results = NULL;
        x->text = cJSON_PrintUnformatted(value);
    }
    cJSON_Delete(value);
    return x->text ? TD_OK : fail(TD_OUT_OF_MEMORY, "no memory for the answer");
}

static enum td_status batch_open(struct exchange *x)
{
    TRY(document_parse(x));
    const cJSON *list =
        cJSON_IsObject(x->tree) ? cJSON_GetObjectItemCaseSensitive(x->tree, "operations") : NULL;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(x->tree) != 1)
        return fail(TD_INVALID, "a batch is {\"operations\": [{\"op\": ..., ...}, ...]}");
    int count = cJSON_GetArraySize(list);
    if (count > BATCH_MAX)
        return fail(TD_TOO_LARGE, "a batch has at most %d operations; this one has %d", BATCH_MAX,
                    count);
    TRY(exchange_charge(x, (uint64_t)count * RESULT_BYTES, LEDGER_REQUESTS_BYTES));
    struct batch *batch = x->batch = calloc(1, sizeof *batch);
    if (!batch)
        return fail(TD_OUT_OF_MEMORY, "no memory for a batch");
    batch->made = calloc((size_t)count + 1, sizeof *batch->made);
    batch->results = cJSON_CreateArray();
    batch->item = list->child;
    if (!batch->made || !batch->results)
        return fail(TD_OUT_OF_MEMORY, "no memory for a batch");
    return TD_OK;
}

/* As many operations as make one turn. */
static enum td_status batch_turn(struct exchange *x)
{
    if (!x->batch)
        TRY(batch_open(x));
    for (uint64_t cost = 0; x->batch->item && cost < TURN_BYTES;) {
        enum td_status status = item_begin(x);
        if (status == TD_OK) {
            uint64_t bytes = op_cost_bytes(&x->call);
            cost = bytes < TURN_BYTES ? cost + bytes : TURN_BYTES;
            status = op_run(&x->call);
        }
        if (status == TD_OK)
            status = op_commit(&x->call);
        TRY(item_end(x, status));
    }
    return x->batch->item ? TD_OK : results_print(x);
}

/* In a job. What may be hundreds of thousands of nodes is let go there, too. */
static enum td_status batch_work(struct exchange *x, struct parked *parked)
{
    TRY(parked_commit(parked));
    enum td_status status = batch_turn(x);
    if (status != TD_OK || !x->batch->item)
        cJSON_Delete(take(&x->tree));
    return status;
}

/* Turn by turn, so that others' jobs come in between. */
static enum td_status batch_go(struct exchange *x)
{
    if (x->text)
        return answer_printed(x, MHD_HTTP_OK);
    x->next = batch_go;
    return exchange_park(x, batch_work, PARKED_IN_TURN);
}

enum td_status batch_end(struct exchange *x)
{
    TRY(exchange_find_session(x)); /* from headers, which are this thread's */
    return batch_go(x);
}
