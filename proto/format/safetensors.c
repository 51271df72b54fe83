#include "proto/format/safetensors.h"

#include "core/cleanup.h"
#include "core/utf8.h"
#include "proto/format/json_scan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8
#define REFERENCE_HEADER_MAX 100000000 /* no file of the reference has a longer header */
#define METADATA_KEY "__metadata__"

/* ---- names ----------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorts the names. */
static enum td_status check_unique(const char **names, size_t count, const char *what)
{
    if (count > 1)
        qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 1; i < count; i++) {
        char excerpt[JSON_EXCERPT_SIZE];
        if (strcmp(names[i - 1], names[i]) == 0)
            return fail(TD_INVALID, "there are two %s with the name '%s'; each needs its own", what,
                        json_excerpt(names[i], strlen(names[i]), excerpt));
    }
    return TD_OK;
}

static enum td_status check_entry_names(const struct safetensors_entry *entries, size_t count)
{
    _cleanup_(freep) const char **names = calloc(count > 0 ? count : 1, sizeof *names);
    if (!names)
        return fail(TD_OUT_OF_MEMORY, "no memory for the names of %zu tensors", count);
    for (size_t i = 0; i < count; i++)
        names[i] = entries[i].name;
    return check_unique(names, count, "tensors");
}

/* Room for one more in an array of `size` bytes an item. */
static enum td_status make_room(void **items, size_t count, size_t size)
{
    if (count > 0 && (count < 16 || (count & (count - 1)) != 0))
        return TD_OK;
    if (count >= SAFETENSORS_COUNT_MAX)
        return fail(TD_TOO_LARGE,
                    "more than %d tensors or members of the metadata in one "
                    "safetensors header; save them in several files",
                    SAFETENSORS_COUNT_MAX);
    void *grown = realloc(*items, (count < 16 ? 16 : 2 * count) * size);
    if (!grown)
        return fail(TD_OUT_OF_MEMORY, "no memory to read a safetensors header");
    *items = grown;
    return TD_OK;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* The JSON is read token by token, so that no tree of it is ever in memory. */
struct scan {
    const char *what; /* the document, for messages */
    const char *text;
    size_t length, at;
    size_t base; /* bytes before the text in the file */
    char *names; /* decoded strings, one behind the other; as long as the text */
    size_t names_used;
};

static enum td_status expected(const struct scan *scan, const char *what)
{
    return fail(TD_INVALID, "the %s is malformed at byte %zu: expected %s%s", scan->what,
                scan->base + scan->at, what, scan->at >= scan->length ? ", but it ends there" : "");
}

/* The first character of the next token, NUL at the end. */
static char peek(struct scan *scan)
{
    while (scan->at < scan->length && json_is_space(scan->text[scan->at]))
        scan->at++;
    return scan->at < scan->length ? scan->text[scan->at] : '\0';
}

static bool take_char(struct scan *scan, char c)
{
    if (peek(scan) != c || c == '\0')
        return false;
    scan->at++;
    return true;
}

static enum td_status take_string(struct scan *scan, const char *what, const char **out)
{
    if (peek(scan) != '"')
        return expected(scan, what);
    char *decoded = scan->names + scan->names_used; /* shorter than the string with its quotes */
    const char *wrong = json_string_decode(scan->text, scan->length, &scan->at, decoded);
    if (wrong)
        return expected(scan, wrong);
    scan->names_used += strlen(decoded) + 1;
    *out = decoded;
    return TD_OK;
}

static enum td_status take_key(struct scan *scan, const char **out)
{
    TRY(take_string(scan, "a key in quotes", out));
    return take_char(scan, ':') ? TD_OK : expected(scan, "':'");
}

/* Between the items of an object or list: true after a comma. Takes the closing bracket. */
static enum td_status take_next(struct scan *scan, char close, bool *more)
{
    *more = take_char(scan, ',');
    if (*more || take_char(scan, close))
        return TD_OK;
    return expected(scan, close == '}' ? "a comma or '}'" : "a comma or ']'");
}

static enum td_status take_number(struct scan *scan, uint64_t *out)
{
    bool integer;
    (void)peek(scan);
    const char *digits = scan->text + scan->at;
    size_t length = json_number_length(digits, scan->length - scan->at, &integer);
    if (length == 0 || !integer || digits[0] == '-')
        return expected(scan, "an integer of at least 0");
    *out = 0;
    for (size_t i = 0; i < length; i++)
        if (__builtin_mul_overflow(*out, 10, out) ||
            __builtin_add_overflow(*out, (uint64_t)(digits[i] - '0'), out))
            return expected(scan, "an integer of at most 64 bits");
    scan->at += length;
    return TD_OK;
}

static enum td_status take_numbers(struct scan *scan, int max, uint64_t *out, int *count)
{
    bool more;
    *count = 0;
    if (!take_char(scan, '['))
        return expected(scan, "a list of integers");
    more = !take_char(scan, ']');
    while (more) {
        if (*count == max)
            return fail(TD_INVALID, "the %s has more than %d integers in the list at byte %zu",
                        scan->what, max, scan->base + scan->at);
        TRY(take_number(scan, &out[(*count)++]));
        TRY(take_next(scan, ']', &more));
    }
    return TD_OK;
}

/* ---- metadata -------------------------------------------------------------------------------- */

/* An object of strings, with no key twice. */
static enum td_status take_metadata(struct scan *scan)
{
    _cleanup_(freep) const char **keys = NULL;
    size_t count = 0;
    if (!take_char(scan, '{'))
        return expected(scan, "the metadata, an object of strings");
    for (bool more = !take_char(scan, '}'); more;) {
        const char *value;
        TRY(make_room((void **)&keys, count, sizeof *keys));
        TRY(take_key(scan, &keys[count++]));
        TRY(take_string(scan, "a string, as all metadata are", &value));
        TRY(take_next(scan, '}', &more));
    }
    return check_unique(keys, count, "members of the metadata");
}

static enum td_status check_metadata(const char *metadata)
{
    struct scan scan = {.what = "metadata", .text = metadata, .length = strlen(metadata)};
    _cleanup_(freep) char *names = scan.names = malloc(scan.length + 1);
    if (!names)
        return fail(TD_OUT_OF_MEMORY, "no memory to check %zu bytes of metadata", scan.length);
    TRY(take_metadata(&scan));
    return peek(&scan) == '\0' && scan.at == scan.length
               ? TD_OK
               : expected(&scan, "nothing behind the object");
}

/* ---- one tensor ------------------------------------------------------------------------------ */

static enum td_status take_dtype(struct scan *scan, struct safetensors_entry *entry)
{
    const char *name = "";
    size_t before = scan->names_used;
    TRY(take_string(scan, "a dtype in quotes", &name));
    scan->names_used = before; /* only looked at */
    for (int d = TD_DTYPE_NONE + 1; d < TD_DTYPE_END && *name; d++)
        if (strcmp(name, dtype_infos[d].safetensors) == 0)
            entry->dtype = (enum td_dtype)d;
    if (entry->dtype != TD_DTYPE_NONE)
        return TD_OK;
    char tensor[JSON_EXCERPT_SIZE], dtype[JSON_EXCERPT_SIZE];
    return fail(TD_BAD_DTYPE,
                "tensor '%s' has dtype '%s', which tensord has not; convert it to one such as F32 "
                "before saving it",
                json_excerpt(entry->name, strlen(entry->name), tensor),
                json_excerpt(name, strlen(name), dtype));
}

static enum td_status take_shape(struct scan *scan, struct safetensors_entry *entry)
{
    uint64_t sizes[RANK_MAX];
    TRY(take_numbers(scan, RANK_MAX, sizes, &entry->shape.rank));
    for (int d = 0; d < entry->shape.rank; d++)
        /* One size too large for any tensor is as good as another. */
        entry->shape.v[d] = sizes[d] > INT64_MAX ? INT64_MAX : (int64_t)sizes[d];
    return TD_OK;
}

static enum td_status take_offsets(struct scan *scan, struct safetensors_entry *entry)
{
    uint64_t offsets[2];
    int count;
    TRY(take_numbers(scan, 2, offsets, &count));
    if (count != 2)
        return expected(scan, "two data_offsets, the begin and the end");
    entry->begin = offsets[0];
    entry->end = offsets[1];
    return TD_OK;
}

static const struct {
    const char *key;
    enum td_status (*take_value)(struct scan *scan, struct safetensors_entry *entry);
} members[] = {
    {"dtype", take_dtype},
    {"shape", take_shape},
    {"data_offsets", take_offsets},
};
#define MEMBER_COUNT (sizeof members / sizeof *members)

/* Bytes of the elements. */
static enum td_status entry_bytes(const struct safetensors_entry *entry, uint64_t *out)
{
    int64_t elements;
    char tensor[JSON_EXCERPT_SIZE], shape[SHAPE_TEXT_SIZE];
    if (!dims_count(&entry->shape, entry->dtype, &elements))
        return fail(TD_BAD_SHAPE, "tensor '%s' has the shape %s, which is larger than any can be",
                    json_excerpt(entry->name, strlen(entry->name), tensor),
                    layout_shape_text(entry->shape.rank, entry->shape.v, shape, sizeof shape));
    *out = (uint64_t)elements * td_dtype_size((int)entry->dtype);
    return TD_OK;
}

static enum td_status check_entry(const struct safetensors_entry *entry)
{
    uint64_t bytes = 0;
    char tensor[JSON_EXCERPT_SIZE];
    TRY(entry_bytes(entry, &bytes));
    if (entry->begin <= entry->end && entry->end - entry->begin == bytes)
        return TD_OK;
    return fail(TD_INVALID,
                "tensor '%s' takes %" PRIu64 " bytes by its dtype and shape, but its data_offsets "
                "are [%" PRIu64 ", %" PRIu64 "]",
                json_excerpt(entry->name, strlen(entry->name), tensor), bytes, entry->begin,
                entry->end);
}

static enum td_status take_member(struct scan *scan, bool seen[MEMBER_COUNT],
                                  struct safetensors_entry *entry)
{
    char tensor[JSON_EXCERPT_SIZE], excerpt[JSON_EXCERPT_SIZE];
    const char *key = "";
    size_t m = 0, before = scan->names_used;
    TRY(take_key(scan, &key));
    scan->names_used = before; /* only looked at */
    while (m < MEMBER_COUNT && strcmp(key, members[m].key) != 0)
        m++;
    if (m == MEMBER_COUNT || seen[m])
        return fail(TD_INVALID,
                    "tensor '%s' has the key '%s'%s; expected dtype, shape and data_offsets, once "
                    "each",
                    json_excerpt(entry->name, strlen(entry->name), tensor),
                    json_excerpt(key, strlen(key), excerpt), m == MEMBER_COUNT ? "" : " twice");
    seen[m] = true;
    return members[m].take_value(scan, entry);
}

static enum td_status take_entry(struct scan *scan, struct safetensors_entry *entry)
{
    bool seen[MEMBER_COUNT] = {false};
    char tensor[JSON_EXCERPT_SIZE];
    if (!take_char(scan, '{'))
        return expected(scan, "an object with dtype, shape and data_offsets");
    for (bool more = !take_char(scan, '}'); more;) {
        TRY(take_member(scan, seen, entry));
        TRY(take_next(scan, '}', &more));
    }
    for (size_t m = 0; m < MEMBER_COUNT; m++)
        if (!seen[m])
            return fail(TD_INVALID, "tensor '%s' has no %s",
                        json_excerpt(entry->name, strlen(entry->name), tensor), members[m].key);
    return check_entry(entry);
}

/* ---- the header ------------------------------------------------------------------------------ */

static enum td_status take_top_member(struct scan *scan, struct safetensors *file)
{
    const char *name = "";
    TRY(take_key(scan, &name));
    if (strcmp(name, METADATA_KEY) != 0) {
        TRY(make_room((void **)&file->entries, file->count, sizeof *file->entries));
        struct safetensors_entry *entry = &file->entries[file->count++];
        *entry = (struct safetensors_entry){.name = name};
        return take_entry(scan, entry);
    }
    if (file->metadata)
        return fail(TD_INVALID, "the safetensors header has the key '" METADATA_KEY "' twice");
    (void)peek(scan);
    size_t start = scan->at, before = scan->names_used;
    TRY(take_metadata(scan));
    scan->names_used = before; /* only looked at */
    file->metadata = text_dup((struct text){scan->text + start, scan->at - start});
    if (!file->metadata)
        return fail(TD_OUT_OF_MEMORY, "no memory for the metadata of a safetensors file");
    return TD_OK;
}

static enum td_status take_header(struct scan *scan, struct safetensors *file)
{
    if (!take_char(scan, '{'))
        return expected(scan, "'{'");
    for (bool more = !take_char(scan, '}'); more;) {
        TRY(take_top_member(scan, file));
        TRY(take_next(scan, '}', &more));
    }
    (void)peek(scan);
    return scan->at == scan->length ? TD_OK : expected(scan, "nothing but blanks behind the '}'");
}

static int compare_entries(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name; /* the header's order */
}

/* Puts the entries in the order of their bytes, which must follow one another. */
static enum td_status check_data(struct safetensors *file)
{
    if (file->count > 1)
        qsort(file->entries, file->count, sizeof *file->entries, compare_entries);
    for (size_t i = 0; i < file->count; i++) {
        const struct safetensors_entry *entry = &file->entries[i];
        char tensor[JSON_EXCERPT_SIZE];
        if (entry->begin != file->data_bytes)
            return fail(TD_INVALID,
                        "tensor '%s' begins at byte %" PRIu64 " of the data, but what is before it "
                        "ends at %" PRIu64 "; expected no %s",
                        json_excerpt(entry->name, strlen(entry->name), tensor), entry->begin,
                        file->data_bytes, entry->begin > file->data_bytes ? "hole" : "overlap");
        file->data_bytes = entry->end;
    }
    if (file->data_bytes > LAYOUT_BYTES_MAX)
        return fail(TD_TOO_LARGE,
                    "the safetensors file has %" PRIu64 " bytes of data, more than "
                    "any tensor",
                    file->data_bytes);
    return TD_OK;
}

enum td_status safetensors_needed(const void *bytes, size_t length, size_t *needed)
{
    const unsigned char *at = bytes;
    uint64_t header = 0;
    *needed = LENGTH_BYTES + 1;
    if (length < LENGTH_BYTES)
        return TD_OK;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        header = header << 8 | at[i];
    if (header < 2 || header > REFERENCE_HEADER_MAX)
        return fail(TD_INVALID,
                    "this is no safetensors file: its header would have %" PRIu64 " bytes; "
                    "expected 2 to %d",
                    header, REFERENCE_HEADER_MAX);
    if (length > LENGTH_BYTES && at[LENGTH_BYTES] != '{')
        return fail(TD_INVALID, "this is no safetensors file: its header does not begin with '{'");
    if (header > SAFETENSORS_HEADER_MAX)
        return fail(TD_TOO_LARGE,
                    "the safetensors header has %" PRIu64 " bytes; at most %zu are read", header,
                    SAFETENSORS_HEADER_MAX);
    *needed = LENGTH_BYTES + (size_t)header;
    if (*needed < length)
        *needed = length;
    return TD_OK;
}

bool safetensors_recognise(const void *bytes, size_t length)
{
    size_t needed;
    if (length <= LENGTH_BYTES)
        return false;
    enum td_status status = safetensors_needed(bytes, length, &needed);
    return status == TD_OK || status == TD_TOO_LARGE;
}

static void file_destroyp(struct safetensors **file)
{
    safetensors_destroy(*file);
}

enum td_status safetensors_read(const void *bytes, size_t length, uint64_t file_bytes,
                                struct safetensors **out)
{
    size_t needed;
    TRY(safetensors_needed(bytes, length, &needed));
    if (length < needed)
        return fail(TD_INVALID, "the safetensors header ends after %zu of %zu bytes", length,
                    needed);
    const unsigned char *at = bytes;
    size_t header = at[0] | (size_t)at[1] << 8 | (size_t)at[2] << 16 | (size_t)at[3] << 24;
    _cleanup_(file_destroyp) struct safetensors *file = calloc(1, sizeof *file);
    if (file)
        file->names = malloc(header);
    if (!file || !file->names)
        return fail(TD_OUT_OF_MEMORY, "no memory for a safetensors header of %zu bytes", header);
    file->header_bytes = LENGTH_BYTES + header;
    struct scan scan = {.what = "safetensors header",
                        .text = (const char *)bytes + LENGTH_BYTES,
                        .length = header,
                        .base = LENGTH_BYTES,
                        .names = file->names};
    TRY(take_header(&scan, file));
    TRY(check_entry_names(file->entries, file->count));
    TRY(check_data(file));
    if (file_bytes != UINT64_MAX && file_bytes != file->header_bytes + file->data_bytes)
        return fail(TD_INVALID,
                    "the safetensors file has %" PRIu64 " bytes; expected %" PRIu64
                    " by its header",
                    file_bytes, file->header_bytes + file->data_bytes);
    *out = take(&file);
    return TD_OK;
}

void safetensors_destroy(struct safetensors *file)
{
    if (!file)
        return;
    free(file->entries);
    free(file->metadata);
    free(file->names);
    free(file);
}

/* ---- writing --------------------------------------------------------------------------------- */

/* A JSON string as the reference escapes it. */
static void print_string(FILE *out, const char *string)
{
    static const char letters[] = "bfnrt", values[] = "\b\f\n\r\t";
    putc('"', out);
    for (; *string; string++) {
        const char *letter = strchr(values, *string);
        if (*string == '"' || *string == '\\')
            fprintf(out, "\\%c", *string);
        else if (letter)
            fprintf(out, "\\%c", letters[letter - values]);
        else if ((unsigned char)*string < 0x20)
            fprintf(out, "\\u%04x", (unsigned)*string);
        else
            putc(*string, out);
    }
    putc('"', out);
}

static void print_entry(FILE *out, const struct safetensors_entry *entry)
{
    print_string(out, entry->name);
    fprintf(out, ":{\"dtype\":\"%s\",\"shape\":[", dtype_infos[entry->dtype].safetensors);
    for (int d = 0; d < entry->shape.rank; d++)
        fprintf(out, "%s%" PRId64, d > 0 ? "," : "", entry->shape.v[d]);
    fprintf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", entry->begin, entry->end);
}

static enum td_status check_name(const char *name)
{
    char excerpt[JSON_EXCERPT_SIZE];
    size_t length = strlen(name), used = 1;
    if (strcmp(name, METADATA_KEY) == 0)
        return fail(TD_INVALID, "no tensor of a safetensors file can be named " METADATA_KEY);
    for (size_t at = 0; at < length && used > 0; at += used)
        used = utf8_length((const unsigned char *)name + at, length - at);
    if (used == 0)
        return fail(TD_INVALID, "the name '%s' is no valid UTF-8, as safetensors needs it",
                    json_excerpt(name, length, excerpt));
    return TD_OK;
}

/* The place of each dtype among the others. */
static const unsigned char dtype_places[TD_DTYPE_END] = {
    [TD_UINT64] = 1,       [TD_INT64] = 2,   [TD_FLOAT64] = 3, [TD_COMPLEX64] = 4,
    [TD_FLOAT32] = 5,      [TD_UINT32] = 6,  [TD_INT32] = 7,   [TD_BFLOAT16] = 8,
    [TD_FLOAT16] = 9,      [TD_UINT16] = 10, [TD_INT16] = 11,  [TD_FLOAT8_E4M3FN] = 12,
    [TD_FLOAT8_E5M2] = 13, [TD_INT8] = 14,   [TD_UINT8] = 15,  [TD_BOOL] = 16,
};

int safetensors_compare(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    int order = dtype_places[x->dtype] - dtype_places[y->dtype];
    return order ? order : strcmp(x->name, y->name);
}

static enum td_status place_entries(struct safetensors_entry *entries, size_t count)
{
    uint64_t at = 0, bytes = 0;
    char tensor[JSON_EXCERPT_SIZE];
    if (count > SAFETENSORS_COUNT_MAX)
        return fail(TD_TOO_LARGE, "%zu tensors for one safetensors file; at most %d can be", count,
                    SAFETENSORS_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        TRY(check_name(entries[i].name));
        json_excerpt(entries[i].name, strlen(entries[i].name), tensor);
        if (!dtype_valid((int)entries[i].dtype) || !*dtype_infos[entries[i].dtype].safetensors)
            return fail(TD_BAD_DTYPE,
                        "tensor '%s' has dtype %s, which safetensors has not; npz and npy have it, "
                        "or cast it",
                        tensor, td_dtype_name((int)entries[i].dtype));
        TRY(entry_bytes(&entries[i], &bytes));
        entries[i].begin = at;
        entries[i].end = at += bytes; /* both within LAYOUT_BYTES_MAX: does not wrap */
        if (at > LAYOUT_BYTES_MAX)
            return fail(TD_TOO_LARGE, "the tensors up to '%s' have more bytes than any file",
                        tensor);
    }
    return check_entry_names(entries, count);
}

static void print_header(FILE *out, const struct safetensors_entry *entries, size_t count,
                         const char *metadata)
{
    putc('{', out);
    if (metadata)
        fprintf(out, "\"" METADATA_KEY "\":%s", metadata);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 || metadata)
            putc(',', out);
        print_entry(out, &entries[i]);
    }
    putc('}', out);
}

enum td_status safetensors_write(struct safetensors_entry *entries, size_t count,
                                 const char *metadata, unsigned char **out, size_t *length)
{
    _cleanup_(freep) char *text = NULL;
    size_t size = 0;
    if (metadata)
        TRY(check_metadata(metadata));
    TRY(place_entries(entries, count));
    FILE *stream = open_memstream(&text, &size);
    if (!stream)
        return fail(TD_OUT_OF_MEMORY, "no memory to write a safetensors header");
    fprintf(stream, "%8s", ""); /* the length's place */
    print_header(stream, entries, count, metadata);
    bool failed = fflush(stream) != 0; /* `size` is set then */
    fprintf(stream, "%*s", (int)(-size % LENGTH_BYTES), "");
    failed = failed || ferror(stream) != 0;
    if (fclose(stream) != 0 || failed)
        return fail(TD_OUT_OF_MEMORY, "no memory to write a safetensors header");
    size -= LENGTH_BYTES;
    if (size > SAFETENSORS_HEADER_MAX)
        return fail(TD_TOO_LARGE, "the safetensors header would have %zu bytes; at most %zu can be",
                    size, SAFETENSORS_HEADER_MAX);
    for (int i = 0; i < LENGTH_BYTES; i++)
        text[i] = (char)(size >> 8 * i & 0xFF);
    *length = LENGTH_BYTES + size;
    *out = (unsigned char *)take(&text);
    return TD_OK;
}
