#include "core/bundle.h"

#include "core/utf8.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

void bundle_finish(struct bundle *bundle)
{
    for (size_t i = 0; i < bundle->count; i++) {
        tensor_unref(bundle->items[i].tensor);
        free((char *)(uintptr_t)bundle->items[i].name);
    }
    free(bundle->items);
    free(bundle->metadata);
    if (bundle->charged_bytes)
        ledger_release(bundle->ledger, bundle->charged_bytes, 0, 0);
    *bundle = (struct bundle){.ledger = bundle->ledger};
}

static enum td_status charge(struct bundle *bundle, uint64_t bytes)
{
    TRY(ledger_reserve_over(bundle->ledger, bytes, LEDGER_REQUESTS_BYTES));
    bundle->charged_bytes += bytes;
    return TD_OK;
}

static enum td_status make_room(struct bundle *bundle)
{
    if (bundle->count < bundle->room)
        return TD_OK;
    if (bundle->count == BUNDLE_MAX)
        return fail(TD_TOO_LARGE, "more than %d tensors in one file; split it", BUNDLE_MAX);
    size_t more = bundle->room ? bundle->room : 16, room = bundle->room + more;
    TRY(charge(bundle, more * sizeof *bundle->items));
    struct bundle_item *items = realloc(bundle->items, room * sizeof *items);
    if (!items)
        return fail(TD_OUT_OF_MEMORY, "no memory for a list of %zu tensors", room);
    bundle->items = items;
    bundle->room = room;
    return TD_OK;
}

enum td_status bundle_add(struct bundle *bundle, const struct bundle_item *item)
{
    TRY(make_room(bundle));
    TRY(charge(bundle, item->name ? strlen(item->name) + 1 : 0));
    char *name = item->name ? strdup(item->name) : NULL;
    if (item->name && !name)
        return fail(TD_OUT_OF_MEMORY, "no memory for a tensor's name");
    bundle->items[bundle->count] = *item;
    bundle->items[bundle->count++].name = name;
    if (item->tensor)
        tensor_ref(item->tensor);
    return TD_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

enum td_status bundle_check_names(const struct bundle *bundle)
{
    size_t count = bundle->count;
    _cleanup_(freep) const char **names = calloc(count + 1, sizeof *names);
    if (!names)
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu names", count);
    for (size_t i = 0; i < count; i++)
        names[i] = bundle->items[i].name;
    qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 1; i < count; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return fail(TD_INVALID, "two tensors are to be called '%.*s' in the file",
                        SHOWN(names[i]));
    return TD_OK;
}

uint64_t bundle_item_bytes(const struct bundle_item *item)
{
    int64_t elements = 0;
    bool fits = dims_count(&item->shape, item->dtype, &elements);
    assert(fits);
    (void)fits;
    return (uint64_t)elements * dtype_infos[item->dtype].size_bytes;
}

/* "safetensors, npz, npy" */
static const char *list_names(const struct bundle_format *const *formats, char *out, size_t size)
{
    size_t length = 0;
    out[0] = '\0';
    for (size_t i = 0; formats && formats[i] && length < size; i++)
        length +=
            (size_t)snprintf(out + length, size - length, "%s%s", i ? ", " : "", formats[i]->name);
    return out;
}

enum td_status bundle_format_find(const struct bundle_format *const *formats, struct text name,
                                  const struct bundle_format **out)
{
    char names[120];
    for (size_t i = 0; formats && formats[i]; i++)
        if (text_equal(name, formats[i]->name)) {
            *out = formats[i];
            return TD_OK;
        }
    return fail(TD_INVALID, "'%.*s' is no format of files with tensors; expected one of: %s",
                TEXT_SHOWN(name), list_names(formats, names, sizeof names));
}

enum td_status bundle_format_recognise(const struct bundle_format *const *formats,
                                       const struct bundle_file *file,
                                       const struct bundle_format **out)
{
    char names[120];
    size_t length = file->size < BUNDLE_SNIFF_BYTES ? (size_t)file->size : BUNDLE_SNIFF_BYTES;
    for (size_t i = 0; formats && formats[i]; i++)
        if (formats[i]->recognise(file->bytes, length)) {
            *out = formats[i];
            return TD_OK;
        }
    return fail(TD_UNSUPPORTED, "the file is not recognised; expected one of: %s",
                list_names(formats, names, sizeof names));
}

uint64_t bundle_file_total(const struct bundle_format *const *formats,
                           const struct bundle_file *start, struct ledger *ledger)
{
    const struct bundle_format *format;
    if (bundle_format_recognise(formats, start, &format) != TD_OK || !format->total)
        return 0;
    return format->total(start, ledger);
}
