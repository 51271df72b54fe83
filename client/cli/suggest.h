/* suggest: "did you mean" from the names that are nearest by edit distance.
 *
 * Values: nothing is allocated. Only names that could be a slip of the finger are taken: a third
 * of the longer text's characters may differ, and at least one may.
 */
#ifndef CLI_SUGGEST_H
#define CLI_SUGGEST_H

#include <stddef.h>

#define SUGGESTIONS_MAX 3
#define SUGGESTION_SIZE 513 /* of the longest name, and NUL */
#define SUGGESTIONS_TEXT_SIZE (SUGGESTIONS_MAX * (SUGGESTION_SIZE + 8) + 32)

struct suggestions {
    char wanted[SUGGESTION_SIZE];
    size_t count;
    struct {
        size_t distance;
        char name[SUGGESTION_SIZE];
    } near[SUGGESTIONS_MAX]; /* the nearest first */
};

void suggestions_begin(struct suggestions *suggestions, const char *wanted);
/* Takes the name in if it is among the nearest. */
void suggestions_offer(struct suggestions *suggestions, const char *name);
/* "; did you mean 'a' or 'b'?", or "" without any. Returns `out`. */
const char *suggestions_text(const struct suggestions *suggestions,
                             char out[SUGGESTIONS_TEXT_SIZE]);

/* Insertions, deletions, replacements and exchanges of neighbours (bytes) between two texts; any
 * number above `most` for more than that. Texts of at most SUGGESTION_SIZE - 1 bytes. */
size_t edit_distance(const char *a, const char *b, size_t most);

#endif
