/* print: a tensor as text, character for character what PyTorch 2.13's repr() gives.
 *
 * The rules are those of PyTorch's printer: one width for all numbers (two for complex ones), whole
 * floating numbers as "1.", scientific notation where a fixed one would hide digits, the middle of
 * large dimensions left out, lines folded at linewidth, and the suffixes device, size, dtype and
 * grad_fn or requires_grad.
 *
 * Reads host memory only, and of a summarised tensor only the elements that are shown; no others
 * are cast, either, where another dtype is asked for. What is printed is bounded by PRINT_TEXT_MAX,
 * because a small storage expanded to many dimensions of size 2 is never summarised.
 *
 * Threads: pure functions; the caller keeps writers away from the bytes if the text must show one
 * moment. Numbers are written in the locale's notation, so the process stays in the C locale.
 */
#ifndef CORE_PRINT_H
#define CORE_PRINT_H

#include "core/layout.h"

/* Bytes of the longest text; printing more fails with TD_TOO_LARGE. */
#define PRINT_TEXT_MAX (1 << 20)
/* Digits that every double has at most behind its point; more precision shows only zeros. */
#define PRINT_PRECISION_MAX 1100

/* torch.set_printoptions. */
struct print_options {
    int precision;     /* digits behind the point, 0 .. PRINT_PRECISION_MAX */
    int64_t threshold; /* more elements than this are summarised; INT64_MAX for never */
    int64_t edgeitems; /* shown at either end of a summarised dimension, 0 or more */
    int linewidth;     /* characters of a line */
    int sci_mode;      /* scientific notation: 1 always, 0 never, -1 as the values need it */
};

extern const struct print_options print_defaults;

/* What is printed. */
struct printed {
    const struct layout *layout;
    const void *storage_base; /* the storage's first byte, on the host; not read without elements */
    enum td_dtype dtype;      /* as which it is shown: what is shown of another is cast */
    bool saturate;            /* see cast_scalar.h */
    const char *device;       /* "cpu", which is not printed, or the likes of "cuda:0" */
    bool requires_grad;       /* printed for every dtype, integers too */
    const char *grad_fn; /* the operation's name, or NULL; with it, requires_grad is not printed */
};

/* Writes the text into *text, which the caller frees; on failure *text is untouched.
 * INVALID for options out of range, TOO_LARGE, OUT_OF_MEMORY. */
NODISCARD enum td_status print_tensor(const struct printed *printed,
                                      const struct print_options *options, char **text);

#endif
