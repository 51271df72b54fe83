#include "client/cli/view.h"
#include "client/cli/progress.h"
#include "proto/format/index_text.h"

#include <inttypes.h>
#include <string.h>

#define PIECE_MAX ((size_t)8 << 20) /* bytes */
#define PIECE_FIRST ((size_t)1 << 20)
#define PIECE_QUICK_MS 500

enum td_status target_parse(struct cli *cli, const char *text, struct target *out)
{
    size_t length = strlen(text);
    const char *bracket = length && text[length - 1] == ']' ? strrchr(text, '[') : NULL;
    *out = (struct target){.name = NULL};
    if (bracket) {
        struct text index = {bracket + 1, (size_t)(text + length - 1 - bracket - 1)};
        enum td_status status = index_from_text(index, &out->index);
        cli->misused = status != TD_OK;
        TRY(status);
        out->indexed = out->index.count > 0;
        length = (size_t)(bracket - text);
    }
    out->name = strndup(text, length);
    if (!out->name)
        return fail(TD_OUT_OF_MEMORY, "no memory for a name");
    return TD_OK;
}

void target_finish(struct target *target)
{
    free(target->name);
    target->name = NULL;
}

enum td_status index_to_args(const struct index *index, struct td_args *args)
{
    for (int i = 0; i < index->count; i++) {
        const struct index_item *item = &index->items[i];
        switch (item->kind) {
        case INDEX_INTEGER:
            TRY(td_args_index_integer(args, item->start));
            break;
        case INDEX_SLICE:
            TRY(td_args_index_slice(args, item->start, item->stop, item->step));
            break;
        case INDEX_ELLIPSIS:
            TRY(td_args_index_ellipsis(args));
            break;
        case INDEX_NEW_AXIS:
            TRY(td_args_index_new_axis(args));
            break;
        }
    }
    return TD_OK;
}

enum td_status view_open(struct cli *cli, const char *text, bool whole, struct view *out)
{
    _cleanup_(target_finish) struct target target = {.name = NULL};
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    *out = (struct view){.label = text};
    if (!whole)
        TRY(target_parse(cli, text, &target));
    else if (!(target.name = strdup(text)))
        return fail(TD_OUT_OF_MEMORY, "no memory for a name");
    out->name = take(&target.name);
    TRY(td_args_text(args, "input", out->name));
    if (target.indexed)
        TRY(index_to_args(&target.index, args));
    else
        TRY(td_args_index_ellipsis(args));
    TRY(cli_op(cli, "getitem", args, out->name, &out->reply));
    out->client = cli->client;
    TRY(td_reply_info(out->reply, &out->info));
    snprintf(out->id, sizeof out->id, "@%" PRIu64, out->info.id);
    return TD_OK;
}

void view_close(struct view *view)
{
    if (view->reply)
        td_release(view->client, view->info.id, td_reply_session(view->reply));
    td_reply_free(view->reply);
    free(view->name);
    *view = (struct view){.label = view->label};
}

enum td_status views_open(struct cli *cli, const char *const *texts, size_t count, bool whole,
                          struct views *out)
{
    out->count = 0;
    out->views = calloc(count + 1, sizeof *out->views);
    if (!out->views)
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu tensors", count);
    for (size_t i = 0; i < count; i++) {
        out->count++; /* also what fails is closed */
        TRY(view_open(cli, texts[i], whole, &out->views[i]));
    }
    return TD_OK;
}

void views_close(struct views *views)
{
    for (size_t i = 0; i < views->count; i++)
        view_close(&views->views[i]);
    free(views->views);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* A view in pieces: positions of the dimensions before `dim`, and a range of that one. */
struct reading {
    struct cli *cli;
    const struct view *view;
    enum td_dtype dtype;
    int dim;
    size_t row_bytes; /* of one position of dim, with all dimensions behind it */
    int64_t rows;     /* of a piece, as long as that is quick */
    int64_t at[TD_RANK_MAX];
    void *buffer;
    size_t buffer_bytes;
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Chooses the outermost dimension of which a position fits into a piece. Returns false if there are
 * no elements. */
static bool reading_plan(struct reading *reading)
{
    const struct td_info *info = &reading->view->info;
    enum td_dtype dtype = reading->dtype == TD_DTYPE_NONE ? info->dtype : reading->dtype;
    reading->row_bytes = td_dtype_size((int)dtype);
    reading->dim = info->rank - 1;
    for (int i = 0; i < info->rank; i++)
        if (info->shape[i] == 0)
            return false;
    while (reading->dim > 0 && reading->row_bytes * (size_t)info->shape[reading->dim] <= PIECE_MAX)
        reading->row_bytes *= (size_t)info->shape[reading->dim--];
    size_t rows = reading->dim < 0 ? 1 : (size_t)info->shape[reading->dim];
    size_t most = smaller(rows, PIECE_MAX / reading->row_bytes);
    reading->buffer_bytes = most * reading->row_bytes;
    reading->rows = (int64_t)smaller(most, PIECE_FIRST / reading->row_bytes + 1);
    return true;
}

/* The object that holds the positions from at[] on, `rows` of them: the whole view where that is
 * all of it. *reply is what has to be released, or NULL. */
static enum td_status piece_open(const struct reading *reading, int64_t rows, char id[24],
                                 struct td_reply **reply)
{
    const struct td_info *whole = &reading->view->info;
    struct td_info info;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    if (reading->dim < 0 || (reading->dim == 0 && rows == whole->shape[0])) {
        strcpy(id, reading->view->id);
        return TD_OK;
    }
    TRY(td_args_text(args, "input", reading->view->id));
    for (int i = 0; i < reading->dim; i++)
        TRY(td_args_index_integer(args, reading->at[i]));
    int64_t begin = reading->at[reading->dim];
    TRY(td_args_index_slice(args, begin, begin + rows, 1));
    TRY(td_op(reading->cli->client, "getitem", args, NULL, 0, reply));
    TRY(td_reply_info(*reply, &info));
    snprintf(id, 24, "@%" PRIu64, info.id);
    return TD_OK;
}

static enum td_status piece_fetch(const struct reading *reading, int64_t rows)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    struct td_client *client = reading->cli->client;
    size_t expected = (size_t)rows * reading->row_bytes, size = reading->buffer_bytes;
    struct td_info info;
    char id[24];
    TRY(piece_open(reading, rows, id, &reply));
    enum td_status status = td_get(client, id, reading->dtype, reading->buffer, &size, NULL);
    if (reply && td_reply_info(reply, &info) == TD_OK)
        td_release(client, info.id, td_reply_session(reply));
    TRY(status);
    if (size != expected)
        return fail(TD_PROTOCOL, "the daemon sent %zu bytes of '%s', and announced %zu", size,
                    reading->view->label, expected);
    return TD_OK;
}

/* Goes on by `rows`; false at the end. */
static bool reading_next(struct reading *reading, int64_t rows)
{
    const int64_t *shape = reading->view->info.shape;
    if (reading->dim < 0)
        return false;
    reading->at[reading->dim] += rows;
    for (int i = reading->dim; i >= 0; i--) {
        if (reading->at[i] < shape[i])
            return true;
        reading->at[i] = 0;
        if (i > 0)
            reading->at[i - 1]++;
    }
    return false;
}

/* Larger pieces need fewer round trips; smaller ones are done in time also over slow lines. */
static void reading_adapt(struct reading *reading, uint64_t took_ms)
{
    int64_t most = (int64_t)(reading->buffer_bytes / reading->row_bytes);
    if (took_ms < PIECE_QUICK_MS)
        reading->rows = reading->rows > most / 2 ? most : reading->rows * 2;
}

enum td_status view_read(struct cli *cli, const struct view *view, enum td_dtype dtype,
                         view_take *take_piece, void *argument)
{
    struct reading reading = {.cli = cli, .view = view, .dtype = dtype};
    if (!reading_plan(&reading))
        return TD_OK;
    _cleanup_(freep) void *buffer = reading.buffer = malloc(reading.buffer_bytes);
    if (!buffer)
        return fail(TD_OUT_OF_MEMORY, "no memory for a piece of '%s'", view->label);
    int64_t rows;
    do {
        int64_t left = 1;
        if (reading.dim >= 0)
            left = view->info.shape[reading.dim] - reading.at[reading.dim];
        rows = reading.rows < left ? reading.rows : left;
        uint64_t begun = progress_now_ms();
        TRY(piece_fetch(&reading, rows));
        reading_adapt(&reading, progress_now_ms() - begun);
        TRY(take_piece(argument, reading.buffer, (size_t)rows * reading.row_bytes));
    } while (reading_next(&reading, rows));
    return TD_OK;
}
