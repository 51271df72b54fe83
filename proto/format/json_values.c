#include "proto/format/json_tensor.h"
#include "proto/format/number.h"

#include <assert.h>
#include <string.h>

/* The lists of a tensor end at its innermost dimension, or where a size is 0: what the innermost
 * lists hold are the elements, or empty lists. */
static int list_depth(const struct dims *shape, bool *empty)
{
    int depth = 0;
    while (depth < shape->rank && shape->v[depth] != 0)
        depth++;
    *empty = depth < shape->rank;
    return depth;
}

void json_values_begin(struct json_values *values, enum td_dtype dtype, const struct dims *shape)
{
    assert(dtype_valid((int)dtype) && shape->rank >= 0 && shape->rank <= RANK_MAX);
    *values = (struct json_values){.dtype = dtype, .shape = *shape};
}

/* Counts one leaf, and returns how many lists end with it. */
static int lists_ended(struct json_values *values, int depth)
{
    int ended = 0;
    for (int d = depth - 1; d >= 0; d--) {
        if (++values->counters[d] < values->shape.v[d])
            break;
        values->counters[d] = 0;
        ended++;
    }
    return ended;
}

static char *brackets_write(char bracket, int count, char *out)
{
    memset(out, bracket, (size_t)count);
    return out + count;
}

/* What comes between a leaf and the next one. */
static char *separator_write(struct json_values *values, int depth, char *out)
{
    int ended = lists_ended(values, depth);
    out = brackets_write(']', ended, out);
    if (ended == depth) {
        values->open = 0;
        values->ended = true;
        return out;
    }
    *out++ = ',';
    return brackets_write('[', ended, out);
}

size_t json_values_write(struct json_values *values, const void *elements, size_t count, char *out,
                         size_t room, size_t *used)
{
    bool empty;
    int depth = list_depth(&values->shape, &empty);
    size_t size_bytes = dtype_infos[values->dtype].size_bytes;
    /* One leaf, and all lists ended and begun again. */
    size_t most = NUMBER_TEXT_MAX + 2 * (size_t)depth + 1;
    const unsigned char *element = elements;
    char *at = out, *end = out + room;
    assert(room >= 256);
    *used = 0;
    if (!values->begun) {
        at = brackets_write('[', depth, at);
        values->open = depth;
        values->begun = true;
    }
    while (!values->ended && (size_t)(end - at) >= most) {
        if (empty) {
            *at++ = '[';
            *at++ = ']';
        } else {
            if (*used == count)
                break;
            at += number_write(values->dtype, element, at);
            element += size_bytes;
            ++*used;
        }
        at = separator_write(values, depth, at);
    }
    return (size_t)(at - out);
}
