/* get: tensors into a file. */
#include "client/cli/commands.h"
#include "client/cli/names.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/save.h"
#include "client/cli/sizes.h"

#include <string.h>

struct get {
    struct cli *cli;
    const char *path;
    enum format format;
    bool assumed;             /* neither --format nor the path told the format */
    struct name_list found;   /* by --prefix */
    const char *const *texts; /* of the tensors: NAME[INDEX] */
    const char **names;       /* of them in the file */
    size_t count;
    struct views views;
    struct file_out file;
};

static void get_finish(struct get *get)
{
    file_out_close(&get->file);
    views_close(&get->views);
    name_list_finish(&get->found);
    free(get->names);
}

static enum td_status choose_format(struct get *get)
{
    struct cli *cli = get->cli;
    bool many = cli->count > 1 || cli_has(cli, OPTION_PREFIX);
    bool standard = strcmp(get->path, "-") == 0;
    TRY(format_choose(cli, standard ? NULL : get->path, &get->format));
    if (get->format == FORMAT_NONE && cli_has(cli, OPTION_JSON) && standard)
        get->format = FORMAT_JSON;
    get->assumed = get->format == FORMAT_NONE;
    if (get->assumed)
        get->format = many ? FORMAT_NPZ : FORMAT_NPY;
    const struct format_info *info = &format_infos[get->format];
    if (many && !info->many)
        return cli_misused(cli, "%s holds one tensor; several go into npz or safetensors",
                           info->name);
    if (standard && cli->terminal && info->binary)
        return cli_misused(cli,
                           "%s is nothing for a terminal; name a file with -o x.%s, send it into "
                           "a pipe, or look at it with tensorctl show %s",
                           info->name, info->name, cli->count ? cli->arguments[0] : "NAME");
    return TD_OK;
}

static int compare_texts(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* In a file with one name twice one of the tensors would be lost. */
static enum td_status check_names(const struct get *get)
{
    _cleanup_(freep) const char **sorted = calloc(get->count + 1, sizeof *sorted);
    const char *prefix = get->cli->options[OPTION_PREFIX];
    if (!sorted)
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu names", get->count);
    memcpy(sorted, get->names, get->count * sizeof *sorted);
    qsort(sorted, get->count, sizeof *sorted, compare_texts);
    for (size_t i = 1; i < get->count; i++) {
        if (strcmp(sorted[i - 1], sorted[i]) != 0)
            continue;
        if (!prefix)
            return cli_misused(get->cli, "'%s' is named twice", sorted[i]);
        return fail(TD_INVALID,
                    "without the prefix '%s' two tensors would be '%s' in the file; name them "
                    "instead, or take another prefix",
                    prefix, sorted[i]);
    }
    return TD_OK;
}

/* A tensor of --prefix is named in the file as put would name it below the prefix; one that is the
 * prefix itself keeps its name. */
static const char *name_below(const char *name, const char *prefix)
{
    const char *rest = name + strlen(prefix);
    rest += *rest == '/';
    return *rest ? rest : name;
}

static enum td_status choose_names(struct get *get)
{
    struct cli *cli = get->cli;
    const char *prefix = cli->options[OPTION_PREFIX];
    get->texts = (const char *const *)cli->arguments;
    get->count = (size_t)cli->count;
    if (prefix) {
        TRY(names_each(cli, prefix, UINT64_MAX, name_list_add, &get->found));
        get->texts = (const char *const *)get->found.names;
        get->count = get->found.count;
        if (get->count == 0)
            return fail(TD_NOT_FOUND, "no name begins with '%s'", prefix);
    }
    get->names = calloc(get->count + 1, sizeof *get->names);
    if (!get->names)
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu names", get->count);
    for (size_t i = 0; i < get->count; i++)
        get->names[i] = prefix ? name_below(get->texts[i], prefix) : get->texts[i];
    return check_names(get);
}

/* NumPy has no name for some dtypes. */
static void note_void(const struct get *get, enum td_dtype dtype)
{
    const char *numpy = dtype_infos[dtype].numpy;
    if ((get->format == FORMAT_NPY || get->format == FORMAT_NPZ) && strchr(numpy, 'V'))
        cli_note(get->cli,
                 "tensorctl: NumPy has no %s and reads its bytes as void; --dtype float32 casts",
                 td_dtype_name((int)dtype));
}

static uint64_t total_bytes(const struct get *get, enum td_dtype dtype)
{
    uint64_t total = 0;
    for (size_t i = 0; i < get->views.count; i++) {
        const struct td_info *info = &get->views.views[i].info;
        uint64_t elements = (uint64_t)info->nbytes / td_dtype_size((int)info->dtype);
        total += elements * td_dtype_size((int)(dtype == TD_DTYPE_NONE ? info->dtype : dtype));
    }
    return total;
}

static enum td_status write_file(struct get *get, enum td_dtype dtype)
{
    struct save save = {.cli = get->cli,
                        .file = &get->file,
                        .dtype = dtype,
                        .count = get->count,
                        .views = get->views.views,
                        .names = get->names};
    TRY(file_out_open(get->path, &get->file));
    progress_begin(get->file.label, total_bytes(get, dtype));
    progress_bodies();
    enum td_status status = save_tensors(&save, get->format);
    progress_end();
    TRY(status);
    return file_out_commit(&get->file);
}

/* What was written, for people, or with --json for programs. */
static enum td_status tell(const struct get *get, enum td_dtype dtype)
{
    char size[SIZE_TEXT_MAX];
    struct json_list json = {0};
    for (size_t i = 0; i < get->count; i++)
        note_void(get, dtype == TD_DTYPE_NONE ? get->views.views[i].info.dtype : dtype);
    if (strcmp(get->path, "-") == 0)
        return TD_OK;
    cli_note(get->cli, "%s: %zu tensor%s, %s%s%s", get->path, get->count,
             get->count == 1 ? "" : "s", size_text(total_bytes(get, dtype), size),
             get->assumed ? ", as " : "", get->assumed ? format_infos[get->format].name : "");
    if (!cli_has(get->cli, OPTION_JSON))
        return TD_OK;
    for (size_t i = 0; i < get->count; i++)
        TRY(json_list_item(&json, json_of_reply(get->views.views[i].reply)));
    json_list_end(&json);
    return TD_OK;
}

static enum td_status get_all(struct get *get)
{
    struct cli *cli = get->cli;
    enum td_dtype dtype;
    if ((cli->count > 0) == cli_has(cli, OPTION_PREFIX))
        return cli_misused(cli, "get takes names, or --prefix PREFIX");
    TRY(cli_dtype(cli, &dtype));
    TRY(choose_format(get));
    TRY(choose_names(get));
    TRY(views_open(cli, get->texts, get->count, cli_has(cli, OPTION_PREFIX), &get->views));
    TRY(write_file(get, dtype));
    return tell(get, dtype);
}

enum td_status cmd_get(struct cli *cli)
{
    _cleanup_(get_finish) struct get get = {.cli = cli, .file = {.fd = -1}};
    get.path = cli_has(cli, OPTION_OUTPUT) ? cli->options[OPTION_OUTPUT] : "-";
    return get_all(&get);
}
