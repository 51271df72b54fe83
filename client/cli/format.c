#include "client/cli/format.h"
#include "client/cli/suggest.h"
#include "proto/format/npz.h"
#include "proto/format/safetensors.h"

#include <string.h>

const struct format_info format_infos[FORMAT_END] = {
    [FORMAT_NONE] = {"", {NULL}, false, false, false},
    [FORMAT_NPY] = {"npy", {".npy"}, true, false, true},
    [FORMAT_NPZ] = {"npz", {".npz"}, true, true, true},
    [FORMAT_SAFETENSORS] = {"safetensors", {".safetensors"}, true, true, true},
    [FORMAT_RAW] = {"raw", {".raw", ".bin"}, true, false, false},
    [FORMAT_JSON] = {"json", {".json"}, false, true, false},
    [FORMAT_TEXT] = {"text", {".txt"}, false, true, false},
};

static bool has_ending(const char *path, const char *ending)
{
    size_t length = strlen(path), end = ending ? strlen(ending) : 0;
    return end > 0 && length > end && strcasecmp(path + length - end, ending) == 0;
}

enum td_status format_choose(struct cli *cli, const char *path, enum format *out)
{
    struct suggestions near;
    char text[SUGGESTIONS_TEXT_SIZE];
    const char *wanted = cli->options[OPTION_FORMAT];
    *out = FORMAT_NONE;
    suggestions_begin(&near, wanted ? wanted : "");
    for (enum format format = FORMAT_NPY; format < FORMAT_END; format++) {
        const struct format_info *info = &format_infos[format];
        if (wanted && strcmp(wanted, info->name) == 0)
            *out = format;
        if (!wanted && path &&
            (has_ending(path, info->endings[0]) || has_ending(path, info->endings[1])))
            *out = format;
        suggestions_offer(&near, info->name);
    }
    if (wanted && *out == FORMAT_NONE)
        return cli_misused(cli,
                           "there is no format '%s'; expected npy, npz, safetensors, raw, json or "
                           "text%s",
                           wanted, suggestions_text(&near, text));
    return TD_OK;
}

enum td_status format_of_files(struct cli *cli, const char *path, struct td_args *args)
{
    enum format format;
    TRY(format_choose(cli, path, &format));
    if (format == FORMAT_NONE)
        return TD_OK;
    if (!format_infos[format].whole)
        return cli_misused(cli, "%s takes safetensors, npz and npy, not %s; see put and get",
                           cli->command->name, format_infos[format].name);
    return td_args_text(args, "format", format_infos[format].name);
}

enum format format_recognise(const void *bytes, size_t length)
{
    const char *text = bytes;
    size_t blank = 0;
    if (npy_recognise(bytes, length))
        return FORMAT_NPY;
    if (npz_recognise(bytes, length))
        return FORMAT_NPZ;
    if (safetensors_recognise(bytes, length))
        return FORMAT_SAFETENSORS;
    while (blank < length && strchr(" \t\r\n", text[blank]) && text[blank])
        blank++;
    if (blank < length && (text[blank] == '{' || text[blank] == '['))
        return FORMAT_JSON;
    return FORMAT_NONE;
}
