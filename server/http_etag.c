#include "server/http_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BOOT_DIGITS 8

/* FNV-1a (Fowler, Noll, Vo), over what makes one representation another. */
static uint32_t hash(uint32_t seed, const void *bytes, size_t length)
{
    const unsigned char *in = bytes;
    for (size_t i = 0; i < length; i++)
        seed = (seed ^ in[i]) * UINT32_C(16777619);
    return seed;
}

static uint32_t representation(const struct exchange *x, const struct elements *what)
{
    const struct fields *d = what->description;
    uint64_t parts[] = {
        (uint64_t)what->format,
        (uint64_t)what->dtype,
        what->values,
        what->saturate,
        /* The description also tells what changes without a write. */
        what->format == FORMAT_JSON ? d->version : 0,
        what->format == FORMAT_JSON && d->requires_grad,
    };
    uint32_t sum = hash(UINT32_C(2166136261), parts, sizeof parts);
    if (FIELDS_HAS(&x->in, index))
        for (int i = 0; i < x->in.index.count; i++) {
            const struct index_item *item = &x->in.index.items[i];
            int64_t numbers[] = {(int64_t)item->kind, item->start, item->stop, item->step};
            sum = hash(sum, numbers, sizeof numbers);
        }
    return sum;
}

void etag_of(const struct exchange *x, const struct elements *what, char out[ETAG_SIZE])
{
    const struct fields *d = what->description;
    out[0] = '\0';
    if (!FIELDS_HAS(d, generation))
        return;
    /* The time that a name has left is another each time it is told. */
    bool weak = storage_is_exposed(what->tensor->storage) ||
                (what->format == FORMAT_JSON && FIELDS_HAS(d, ttl_ms));
    snprintf(out, ETAG_SIZE, "%s\"%" PRIu64 "-%" PRIu64 "-%.*s-%08" PRIx32 "\"", weak ? "W/" : "",
             d->generation, d->epoch, BOOT_DIGITS, x->server->options.engine->boot,
             representation(x, what));
}

/* The next tag of a list, with its quotes; *weak: W/ stood before it. */
static bool next_tag(struct text *list, struct text *tag, bool *weak)
{
    const char *at = list->data, *end = at + list->length;
    while (at < end && (*at == ' ' || *at == '\t' || *at == ','))
        at++;
    *weak = end - at > 2 && at[0] == 'W' && at[1] == '/';
    if (*weak)
        at += 2;
    const char *close = at < end && *at == '"' ? memchr(at + 1, '"', (size_t)(end - at - 1)) : NULL;
    if (!close)
        return false;
    *tag = (struct text){at, (size_t)(close + 1 - at)};
    *list = (struct text){close + 1, (size_t)(end - close - 1)};
    return true;
}

bool etag_listed(struct text list, const char *etag, bool strong)
{
    struct text tag;
    bool weak, ours_is_weak = strncmp(etag, "W/", 2) == 0;
    if (text_equal(list, "*"))
        return true;
    if (strong && ours_is_weak)
        return false;
    while (next_tag(&list, &tag, &weak))
        if (text_equal(tag, ours_is_weak ? etag + 2 : etag) && !(strong && weak))
            return true;
    return false;
}

/* The numbers of a tag: of "17" only the generation. */
static bool read_tag(struct text tag, const char *boot, uint64_t *generation, uint64_t *epoch,
                     bool *has_epoch)
{
    char text[ETAG_SIZE], tag_boot[BOOT_DIGITS + 1];
    int used = 0;
    if (tag.length < 3 || tag.length >= sizeof text)
        return false;
    memcpy(text, tag.data + 1, tag.length - 2);
    text[tag.length - 2] = '\0';
    if (text[0] < '0' || text[0] > '9')
        return false;
    if (sscanf(text, "%20" SCNu64 "%n", generation, &used) == 1 && !text[used]) {
        *has_epoch = false;
        return true;
    }
    *has_epoch = true;
    return sscanf(text, "%20" SCNu64 "-%20" SCNu64 "-%8[0-9a-f]-", generation, epoch, tag_boot) ==
               3 &&
           strncmp(tag_boot, boot, BOOT_DIGITS) == 0;
}

bool etag_generation(struct text list, const char *boot, uint64_t *generation)
{
    struct text tag;
    uint64_t epoch;
    bool weak, has_epoch;
    return next_tag(&list, &tag, &weak) && read_tag(tag, boot, generation, &epoch, &has_epoch);
}

/* If-Match: "..." (RFC 9110, 13.1.1): one of the tags must be what is there. */
static enum td_status match(struct exchange *x, const struct tensor *tensor, uint64_t now)
{
    struct text list = x->headers.if_match, tag;
    uint64_t generation, epoch, at = tensor ? atomic_load(&tensor->storage->epoch) : 0;
    bool weak, has_epoch;
    while (next_tag(&list, &tag, &weak))
        if (!weak &&
            read_tag(tag, x->server->options.engine->boot, &generation, &epoch, &has_epoch) &&
            tensor && generation == now && (!has_epoch || epoch == at)) {
            FIELDS_SET(&x->in, if_generation, generation);
            return TD_OK;
        }
    return fail(TD_PRECONDITION,
                "If-Match: what is stored is of generation %" PRIu64 "%s; read it again (a tag "
                "that begins with W/ never matches: give the generation alone, \"%" PRIu64 "\")",
                now, tensor ? "" : ", that is, nothing", now);
}

enum td_status etag_conditions(struct exchange *x, struct text name, bool *exists)
{
    _cleanup_(tensor_unrefp) struct tensor *tensor = NULL;
    uint64_t generation = 0;
    struct text none = x->headers.if_none_match, match_list = x->headers.if_match;
    *exists = store_lookup(x->server->options.engine->store, name, &tensor, &generation) == TD_OK;
    if (none.data && !text_equal(none, "*"))
        return fail(TD_INVALID, "If-None-Match of a change is *, which creates only");
    if (none.data && *exists)
        return fail(TD_PRECONDITION, "If-None-Match: the name is taken (generation %" PRIu64 ")",
                    generation);
    if (none.data)
        FIELDS_SET(&x->in, create_only, true);
    if (!match_list.data)
        return TD_OK;
    if (!text_equal(match_list, "*"))
        return match(x, tensor, generation);
    if (!*exists)
        return fail(TD_PRECONDITION, "If-Match: * needs the name to exist");
    FIELDS_SET(&x->in, if_generation, generation);
    return TD_OK;
}
