/* watch: names as they come, change and go.
 *
 * The frame protocol tells nobody by itself, so the list is asked for whenever the store's revision
 * has moved, and compared with the one before. Of each name only its generation is kept.
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
    uint64_t left; /* events that are still to be printed */
    bool first;    /* nothing was seen before: nothing is an event */
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

static enum td_status watch_names(struct watch *watch, uint64_t interval_ms)
{
    uint64_t revision, last = 0;
    watch->first = true;
    while (watch->left > 0 && !signals_caught()) {
        /* Read first: what happens during the look is in the next one. */
        TRY(cli_counter(watch->cli, "revision", &revision));
        if (watch->first || revision != last)
            TRY(look_again(watch));
        if (watch->first)
            cli_note(watch->cli, "tensorctl: watching %zu name%s, looking every %" PRIu64 " ms",
                     watch->before.count, watch->before.count == 1 ? "" : "s", interval_ms);
        watch->first = false;
        last = revision;
        if (watch->left > 0)
            signals_sleep(interval_ms);
    }
    return TD_OK;
}

enum td_status cmd_watch(struct cli *cli)
{
    struct watch watch = {.cli = cli, .prefix = cli->count ? cli->arguments[0] : ""};
    uint64_t interval_ms;
    TRY(cli_duration(cli, OPTION_INTERVAL, 200, &interval_ms));
    TRY(cli_number(cli, OPTION_COUNT, 1, UINT64_MAX, UINT64_MAX, &watch.left));
    if (interval_ms < 10)
        return cli_misused(cli, "--interval is 10ms or more");
    signals_gentle();
    enum td_status status = watch_names(&watch, interval_ms);
    look_clear(&watch.before);
    look_clear(&watch.now);
    free(watch.before.seen);
    free(watch.now.seen);
    return status;
}
