/* Feeds bytes to the reader of safetensors headers. What is read must fill the data without holes,
 * and must be read again from the header that is written for it. */
#include "proto/format/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static bool same_metadata(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static void check_again(const struct safetensors *file)
{
    struct safetensors_entry *entries = calloc(file->count + 1, sizeof *entries);
    struct safetensors *again;
    unsigned char *header;
    size_t length;
    if (file->count > 0)
        memcpy(entries, file->entries, file->count * sizeof *entries);
    require(safetensors_write(entries, file->count, file->metadata, &header, &length) == TD_OK);
    require(length % 8 == 0);
    require(safetensors_read(header, length, length + file->data_bytes, &again) == TD_OK);
    require(again->header_bytes == length && again->count == file->count);
    require(same_metadata(again->metadata, file->metadata));
    for (size_t i = 0; i < file->count; i++) {
        const struct safetensors_entry *a = &file->entries[i], *b = &again->entries[i];
        require(strcmp(a->name, b->name) == 0 && a->dtype == b->dtype);
        require(a->begin == b->begin && a->end == b->end && a->shape.rank == b->shape.rank);
        for (int d = 0; d < a->shape.rank; d++)
            require(a->shape.v[d] == b->shape.v[d]);
    }
    safetensors_destroy(again);
    free(header);
    free(entries);
}

static void check_file(const struct safetensors *file, size_t size)
{
    uint64_t at = 0;
    require(file->header_bytes <= size);
    for (size_t i = 0; i < file->count; i++) {
        const struct safetensors_entry *entry = &file->entries[i];
        struct layout layout;
        require(layout_contiguous(entry->dtype, &entry->shape, &layout) == TD_OK);
        require(entry->begin == at && entry->end - at == (uint64_t)layout_nbytes(&layout));
        at = entry->end;
    }
    require(file->data_bytes == at);
    check_again(file);
}

/* The first 8 bytes are the length only now and then: else every other change would break it. */
static uint8_t *with_length(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size);
    memcpy(copy, data, size);
    if (size >= 8 && (data[7] & 1) == 0)
        for (int i = 0; i < 8; i++)
            copy[i] = (uint8_t)((size - 8) >> 8 * i & 0xFF);
    return copy;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *file = NULL;
    size_t needed;
    if (size == 0)
        return 0;
    uint8_t *bytes = with_length(data, size);
    enum td_status status = safetensors_needed(bytes, size, &needed);
    if (status == TD_OK)
        require(size >= 9 ? needed >= size : needed >= 9);
    if (safetensors_read(bytes, size, UINT64_MAX, &file) == TD_OK) {
        require(status == TD_OK && needed == size);
        check_file(file, size);
    }
    safetensors_destroy(file);
    free(bytes);
    return 0;
}
