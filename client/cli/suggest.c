#include "client/cli/suggest.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static size_t smallest(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

size_t edit_distance(const char *a, const char *b, size_t most)
{
    uint16_t rows[3][SUGGESTION_SIZE];
    uint16_t *before = rows[0], *above = rows[1], *row = rows[2];
    size_t a_length = strlen(a), b_length = strlen(b);
    size_t difference = a_length > b_length ? a_length - b_length : b_length - a_length;
    if (difference > most || a_length >= SUGGESTION_SIZE || b_length >= SUGGESTION_SIZE)
        return most + 1;
    for (size_t k = 0; k <= b_length; k++)
        above[k] = (uint16_t)k;
    for (size_t i = 1; i <= a_length; i++) {
        size_t least = row[0] = (uint16_t)i;
        for (size_t k = 1; k <= b_length; k++) {
            size_t here = smallest(above[k] + 1U, row[k - 1] + 1U,
                                   above[k - 1] + (a[i - 1] == b[k - 1] ? 0U : 1U));
            if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
                here = smallest(here, before[k - 2] + 1U, here);
            row[k] = (uint16_t)here;
            least = here < least ? here : least;
        }
        if (least > most + 1) /* an exchange may still save one */
            return most + 1;
        uint16_t *free_row = before;
        before = above, above = row, row = free_row;
    }
    return above[b_length];
}

void suggestions_begin(struct suggestions *suggestions, const char *wanted)
{
    suggestions->count = 0;
    snprintf(suggestions->wanted, sizeof suggestions->wanted, "%s", wanted);
}

void suggestions_offer(struct suggestions *s, const char *name)
{
    size_t longer = strlen(s->wanted) > strlen(name) ? strlen(s->wanted) : strlen(name);
    size_t most = longer / 3 > 1 ? longer / 3 : 1;
    size_t distance = edit_distance(s->wanted, name, most);
    if (distance > most || distance >= longer)
        return;
    size_t at = s->count;
    while (at > 0 && s->near[at - 1].distance > distance)
        at--;
    if (at == SUGGESTIONS_MAX)
        return;
    if (s->count < SUGGESTIONS_MAX)
        s->count++;
    memmove(&s->near[at + 1], &s->near[at], (s->count - at - 1) * sizeof s->near[0]);
    s->near[at].distance = distance;
    snprintf(s->near[at].name, sizeof s->near[at].name, "%s", name);
}

const char *suggestions_text(const struct suggestions *s, char out[SUGGESTIONS_TEXT_SIZE])
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < s->count; i++) {
        const char *before = i == 0 ? "; did you mean " : i + 1 == s->count ? " or " : ", ";
        int n = snprintf(out + used, SUGGESTIONS_TEXT_SIZE - used, "%s'%s'%s", before,
                         s->near[i].name, i + 1 == s->count ? "?" : "");
        used += n > 0 ? (size_t)n : 0; /* fits: see the size */
    }
    return out;
}
