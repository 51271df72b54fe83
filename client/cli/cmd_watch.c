/* watch: names as they come, change and go.
 *
 * The daemon tells what is published and removed; whether a name was there before is known from the
 * list, which is asked for once, and again when events were lost. Of each name only its generation
 * is kept.
 */
#include "client/cli/commands.h"
#include "client/cli/names.h"
#include "client/cli/output.h"
#include "client/cli/sizes.h"

#include <inttypes.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define NAMES_MAX ((size_t)1000000) /* that are kept in mind */
/* That one question to the daemon lasts; a signal that comes just before is noticed after it. */
#define TURN_MS 2000

struct seen {
    char *name;
    uint64_t generation;
};

/* The names of one look, in byte order. */
struct look {
    size_t count, capacity;
    struct seen *seen;
};

struct watch {
    struct cli *cli;
    const char *prefix;
    uint64_t left;  /* events that are still to be printed */
    bool first;     /* nothing was seen before: nothing is an event */
    uint64_t since; /* the revision up to which all was told */
    struct look before, now;
    size_t compared; /* names of `before` that are behind the one that came last */
};

static void look_clear(struct look *look)
{
    for (size_t i = 0; i < look->count; i++)
        free(look->seen[i].name);
    look->count = 0;
}

static enum td_status look_add(struct look *look, const char *name, uint64_t generation)
{
    if (look->count == NAMES_MAX)
        return fail(TD_TOO_LARGE,
                    "more than %zu names are too many to watch; a longer prefix has "
                    "fewer",
                    NAMES_MAX);
    if (look->count == look->capacity) {
        size_t capacity = look->capacity ? look->capacity * 2 : 256;
        struct seen *grown = reallocarray(look->seen, capacity, sizeof *grown);
        if (!grown)
            return fail(TD_OUT_OF_MEMORY, "no memory for %zu names", capacity);
        look->seen = grown;
        look->capacity = capacity;
    }
    char *copy = strdup(name);
    if (!copy)
        return fail(TD_OUT_OF_MEMORY, "no memory for a name");
    look->seen[look->count++] = (struct seen){copy, generation};
    return TD_OK;
}

/* ---- events -------------------------------------------------------------------------------- */

static void print_time(char out[64])
{
    struct timeval now;
    struct tm local;
    gettimeofday(&now, NULL);
    localtime_r(&now.tv_sec, &local);
    size_t length = strftime(out, 64, "%H:%M:%S", &local);
    snprintf(out + length, 64 - length, ".%03d", (int)(now.tv_usec / 1000));
}

static enum td_status print_json(const char *what, const struct seen *seen,
                                 const struct td_reply *entry)
{
    char text[32];
    cJSON *object = entry ? json_of_reply(entry) : cJSON_CreateObject();
    bool good = object && cJSON_AddStringToObject(object, "event", what);
    if (good && !entry) {
        snprintf(text, sizeof text, "%" PRIu64, seen->generation);
        good = cJSON_AddStringToObject(object, "name", seen->name) &&
               cJSON_AddRawToObject(object, "generation", text);
    }
    if (!good) {
        cJSON_Delete(object);
        return json_print(NULL);
    }
    return json_print(object);
}

/* entry: the tensor that is there now, NULL for a name that is gone. */
static enum td_status event(struct watch *watch, const char *what, enum style style,
                            const struct seen *seen, const struct td_reply *entry)
{
    const struct cli *cli = watch->cli;
    char now[64], shape[SHAPE_TEXT_SIZE], size[SIZE_TEXT_MAX];
    struct td_info info;
    if (watch->left == 0)
        return TD_OK;
    watch->left--;
    if (cli_has(cli, OPTION_JSON))
        return print_json(what, seen, entry);
    print_time(now);
    printf("%s%s%s  %s%-8s%s  %s", style_begin(cli, STYLE_DIM), now, style_end(cli, STYLE_DIM),
           style_begin(cli, style), what, style_end(cli, style), seen->name);
    if (entry && td_reply_info(entry, &info) == TD_OK)
        printf("  %s %s, %s", td_dtype_name((int)info.dtype),
               layout_shape_text(info.rank, info.shape, shape, sizeof shape),
               size_text((uint64_t)info.nbytes, size));
    putchar('\n');
    return TD_OK;
}

/* The names of the look before that come ahead of `name` (NULL: all that are left) are gone. */
static enum td_status removed_until(struct watch *watch, const char *name)
{
    for (; watch->compared < watch->before.count; watch->compared++) {
        const struct seen *old = &watch->before.seen[watch->compared];
        if (name && strcmp(old->name, name) >= 0)
            break;
        TRY(event(watch, "removed", STYLE_RED, old, NULL));
    }
    return TD_OK;
}

static enum td_status visit(void *argument, const struct td_reply *entry)
{
    struct watch *watch = argument;
    const char *name = "";
    uint64_t generation = 0;
    (void)td_reply_text(entry, "name", &name);
    (void)td_reply_uint(entry, "generation", &generation);
    TRY(look_add(&watch->now, name, generation));
    if (watch->first)
        return TD_OK;
    const struct seen *seen = &watch->now.seen[watch->now.count - 1];
    TRY(removed_until(watch, name));
    const struct seen *old =
        watch->compared < watch->before.count ? &watch->before.seen[watch->compared] : NULL;
    if (!old || strcmp(old->name, name) != 0)
        return event(watch, "created", STYLE_GREEN, seen, entry);
    watch->compared++;
    if (old->generation == generation)
        return TD_OK;
    return event(watch, "replaced", STYLE_YELLOW, seen, entry);
}

static enum td_status look_again(struct watch *watch)
{
    look_clear(&watch->now);
    watch->compared = 0;
    TRY(names_each(watch->cli, watch->prefix, UINT64_MAX, visit, watch));
    if (!watch->first)
        TRY(removed_until(watch, NULL));
    struct look free_look = watch->before;
    watch->before = watch->now;
    watch->now = free_look;
    return cli_check_output();
}

/* ---- what the daemon tells ----------------------------------------------------------------- */

/* The place of a name in the last look, or where it would stand. */
static size_t look_find(const struct look *look, const char *name, bool *found)
{
    size_t low = 0, high = look->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(look->seen[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found = low < look->count && strcmp(look->seen[low].name, name) == 0;
    return low;
}

/* The description of what was published, if nobody was faster. */
static enum td_status describe(struct watch *watch, const struct seen *seen, struct td_reply **out)
{
    uint64_t generation;
    enum td_status status = cli_op_input(watch->cli, "info", seen->name, out);
    if (status == TD_NOT_FOUND)
        return TD_OK;
    TRY(status);
    if (td_reply_uint(*out, "generation", &generation) && generation == seen->generation)
        return TD_OK;
    td_reply_free(take(out));
    return TD_OK;
}

static enum td_status published(struct watch *watch, const char *name, uint64_t revision)
{
    _cleanup_(td_reply_freep) struct td_reply *entry = NULL;
    struct look *look = &watch->before;
    bool known;
    size_t at = look_find(look, name, &known);
    if (known && look->seen[at].generation >= revision) /* the look came later than this */
        return TD_OK;
    if (!known) {
        TRY(look_add(look, name, 0));
        struct seen added = look->seen[look->count - 1];
        memmove(&look->seen[at + 1], &look->seen[at], (look->count - 1 - at) * sizeof added);
        look->seen[at] = added;
    }
    look->seen[at].generation = revision;
    TRY(describe(watch, &look->seen[at], &entry));
    return event(watch, known ? "replaced" : "created", known ? STYLE_YELLOW : STYLE_GREEN,
                 &look->seen[at], entry);
}

static enum td_status removed(struct watch *watch, const char *name, uint64_t revision)
{
    struct look *look = &watch->before;
    bool known;
    size_t at = look_find(look, name, &known);
    if (!known || look->seen[at].generation >= revision)
        return TD_OK;
    enum td_status status = event(watch, "removed", STYLE_RED, &look->seen[at], NULL);
    free(look->seen[at].name);
    look->count--;
    memmove(&look->seen[at], &look->seen[at + 1], (look->count - at) * sizeof look->seen[at]);
    return status;
}

static enum td_status take_event(struct watch *watch, const struct td_reply *entry)
{
    const char *what = "", *name = "";
    uint64_t revision = 0;
    (void)td_reply_text(entry, "event", &what);
    (void)td_reply_text(entry, "name", &name);
    (void)td_reply_uint(entry, "revision", &revision);
    return strcmp(what, "publish") == 0 ? published(watch, name, revision)
                                        : removed(watch, name, revision);
}

/* One answer of the daemon's; none within the timeout is fine. */
static enum td_status take_events(struct watch *watch, uint64_t timeout_ms)
{
    _cleanup_(td_reply_freep) struct td_reply *reply = NULL;
    _cleanup_(td_args_freep) struct td_args *args = td_args_new();
    const struct td_reply *entry;
    bool lost = false;
    size_t cursor = 0;
    TRY(td_args_text(args, "prefix", watch->prefix));
    TRY(td_args_uint(args, "timeout_ms", timeout_ms));
    if (!watch->first)
        TRY(td_args_uint(args, "since", watch->since));
    TRY(cli_op(watch->cli, "watch", args, NULL, &reply));
    (void)td_reply_uint(reply, "since", &watch->since);
    if (td_reply_bool(reply, "lost", &lost) && lost) {
        cli_note(watch->cli, "tensorctl: more has happened than the daemon keeps in mind; looking "
                             "at the names instead");
        return look_again(watch);
    }
    while (td_reply_next(reply, &cursor, &entry))
        TRY(take_event(watch, entry));
    return cli_check_output();
}

static enum td_status watch_names(struct watch *watch)
{
    watch->first = true;
    TRY(take_events(watch, 0)); /* first: what happens during the look is told after it */
    TRY(look_again(watch));
    watch->first = false;
    cli_note(watch->cli, "tensorctl: watching %zu name%s", watch->before.count,
             watch->before.count == 1 ? "" : "s");
    while (watch->left > 0 && !signals_caught()) {
        enum td_status status = take_events(watch, TURN_MS);
        if (status == TD_CANCELLED && signals_caught())
            break;
        TRY(status);
    }
    return TD_OK;
}

enum td_status cmd_watch(struct cli *cli)
{
    struct watch watch = {.cli = cli, .prefix = cli->count ? cli->arguments[0] : ""};
    TRY(cli_number(cli, OPTION_COUNT, 1, UINT64_MAX, UINT64_MAX, &watch.left));
    signals_gentle();
    enum td_status status = watch_names(&watch);
    look_clear(&watch.before);
    look_clear(&watch.now);
    free(watch.before.seen);
    free(watch.now.seen);
    return status;
}
