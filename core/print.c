#include "core/print.h"

#include "core/cast/cast.h"
#include "core/scalar.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "tensor("
#define INDENT 7 /* continued lines start below the character after PREFIX */

/* The longest number: sign, 309 digits before the point, the point, the precision, NUL. */
#define NUMBER_SIZE (PRINT_PRECISION_MAX + 320)

const struct print_options print_defaults = {
    .precision = 4,
    .threshold = 1000,
    .edgeitems = 3,
    .linewidth = 80,
    .sci_mode = -1,
};

struct growing_text {
    char *bytes;
    size_t length;
    size_t capacity; /* of bytes, which also hold the NUL */
};

/* How all numbers are written: PyTorch's _Formatter. A complex tensor has one for the real and one
 * for the imaginary parts. The range is that of the magnitudes that are finite and not 0. */
struct number_format {
    bool any; /* there is such a magnitude */
    double least;
    double greatest;
    bool whole; /* all are integers */
    bool scientific;
    size_t width;
};

struct printer {
    const struct printed *printed;
    const struct layout *layout; /* its */
    const struct print_options *options;
    bool summarise;
    bool floating; /* the parts of the elements are doubles */
    int parts;     /* of an element: 2 for complex dtypes */
    int64_t shown; /* elements in the text */
    struct number_format formats[2];
    struct growing_text text;
};

/* text */

static enum td_status too_large(void)
{
    return fail(TD_TOO_LARGE,
                "the printed tensor is longer than %d bytes; print a part of it, or with a lower "
                "threshold",
                PRINT_TEXT_MAX);
}

static enum td_status text_reserve(struct growing_text *text, size_t extra)
{
    if (extra >= PRINT_TEXT_MAX - text->length)
        return too_large();
    size_t needed = text->length + extra + 1;
    if (needed <= text->capacity)
        return TD_OK;
    size_t capacity = text->capacity < 256 ? 256 : text->capacity;
    while (capacity < needed)
        capacity *= 2; /* ends at PRINT_TEXT_MAX, a power of two */
    char *bytes = realloc(text->bytes, capacity);
    if (!bytes)
        return fail(TD_OUT_OF_MEMORY, "no memory for %zu bytes of a printed tensor", capacity);
    text->bytes = bytes;
    text->capacity = capacity;
    return TD_OK;
}

static enum td_status text_bytes(struct growing_text *text, const char *bytes, size_t length)
{
    TRY(text_reserve(text, length));
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    text->bytes[text->length] = '\0';
    return TD_OK;
}

static enum td_status text_string(struct growing_text *text, const char *string)
{
    return text_bytes(text, string, strlen(string));
}

static enum td_status text_repeat(struct growing_text *text, char c, size_t count)
{
    TRY(text_reserve(text, count));
    memset(text->bytes + text->length, c, count);
    text->length += count;
    text->bytes[text->length] = '\0';
    return TD_OK;
}

/* What is shown of a dimension: every index, or edgeitems of them, a gap, and edgeitems again. The
 * pieces are counted through, the gap being one of them. */

static bool has_gap(const struct printer *p, int dim)
{
    int64_t edge = p->options->edgeitems;
    return p->summarise && p->layout->shape[dim] - edge > edge; /* 2 * edge might overflow */
}

static int64_t pieces_of(const struct printer *p, int dim)
{
    return has_gap(p, dim) ? 2 * p->options->edgeitems + 1 : p->layout->shape[dim];
}

/* The index of a piece, -1 for the gap. */
static int64_t piece_index(const struct printer *p, int dim, int64_t piece)
{
    int64_t edge = p->options->edgeitems;
    if (!has_gap(p, dim) || piece < edge)
        return piece;
    return piece == edge ? -1 : p->layout->shape[dim] - (2 * edge + 1) + piece;
}

static const unsigned char *element_at(const struct printer *p, int dim, const unsigned char *at,
                                       int64_t index)
{
    int64_t size = (int64_t)dtype_infos[p->layout->dtype].size_bytes;
    return at + index * p->layout->strides[dim] * size;
}

/* Elements that are shown, or PRINT_TEXT_MAX if there are about as many or more. */
static int64_t shown_elements(const struct printer *p)
{
    int64_t shown = 1, limit = PRINT_TEXT_MAX;
    for (int dim = 0; dim < p->layout->rank; dim++) {
        int64_t count = pieces_of(p, dim) - (has_gap(p, dim) ? 1 : 0);
        if (count == 0)
            return 0;
        shown = shown < limit / count ? shown * count : limit;
    }
    return shown;
}

/* numbers */

static double part_double(const struct scalar *scalar, int part)
{
    return scalar->kind == SCALAR_COMPLEX ? scalar->c[part] : scalar->f;
}

static int float_text(const struct number_format *format, double value, int precision, char *out)
{
    if (isnan(value)) /* printf would show the sign of a NaN; Python does not */
        return snprintf(out, NUMBER_SIZE, "nan");
    if (format->scientific)
        return snprintf(out, NUMBER_SIZE, "%.*e", precision, value);
    if (format->whole)
        return snprintf(out, NUMBER_SIZE, isinf(value) ? "%.0f" : "%.0f.", value);
    return snprintf(out, NUMBER_SIZE, "%.*f", precision, value);
}

/* One part of an element, without padding. */
static enum td_status number_text(const struct printer *p, const struct scalar *scalar, int part,
                                  char out[static NUMBER_SIZE], size_t *length)
{
    int n = -1;
    switch (scalar->kind) {
    case SCALAR_BOOL:
        n = snprintf(out, NUMBER_SIZE, scalar->b ? "True" : "False");
        break;
    case SCALAR_INT:
        n = snprintf(out, NUMBER_SIZE, "%" PRId64, scalar->i);
        break;
    case SCALAR_UINT:
        n = snprintf(out, NUMBER_SIZE, "%" PRIu64, scalar->u);
        break;
    case SCALAR_FLOAT:
    case SCALAR_COMPLEX:
        n = float_text(&p->formats[part], part_double(scalar, part), p->options->precision, out);
        break;
    }
    if (n < 0) /* printf allocates for long numbers */
        return fail(TD_OUT_OF_MEMORY, "no memory to print a number");
    assert(n < NUMBER_SIZE);
    *length = (size_t)n;
    return TD_OK;
}

static struct scalar element_load(const struct printer *p, const unsigned char *at)
{
    _Alignas(16) unsigned char element[16];
    enum td_dtype dtype = p->printed->dtype;
    if (dtype == p->layout->dtype)
        return scalar_load(dtype, at);
    cast_elements(p->layout->dtype, dtype, at, 0, element, 0, 1,
                  p->printed->saturate ? CAST_SATURATE : 0);
    return scalar_load(dtype, element);
}

/* The two looks at the data before it is printed: the range of the values decides how numbers are
 * written, and then the longest of them decides the width. */

typedef enum td_status element_visit(struct printer *p, const struct scalar *scalar);

static enum td_status visit_elements(struct printer *p, int dim, const unsigned char *at,
                                     element_visit *visit)
{
    if (dim == p->layout->rank) {
        struct scalar scalar = element_load(p, at);
        return visit(p, &scalar);
    }
    int64_t pieces = pieces_of(p, dim);
    for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t index = piece_index(p, dim, piece);
        if (index >= 0)
            TRY(visit_elements(p, dim + 1, element_at(p, dim, at, index), visit));
    }
    return TD_OK;
}

/* Zeros, infinities and NaNs have no say in how numbers are written, nor in their width. */
static bool counts(double value)
{
    return isfinite(value) && value != 0;
}

static enum td_status visit_range(struct printer *p, const struct scalar *scalar)
{
    for (int part = 0; part < p->parts; part++) {
        struct number_format *format = &p->formats[part];
        double value = part_double(scalar, part), magnitude = fabs(value);
        if (!counts(value))
            continue;
        if (!format->any || magnitude < format->least)
            format->least = magnitude;
        if (!format->any || magnitude > format->greatest)
            format->greatest = magnitude;
        format->any = true;
        format->whole = format->whole && value == ceil(value);
    }
    return TD_OK;
}

static enum td_status visit_width(struct printer *p, const struct scalar *scalar)
{
    char number[NUMBER_SIZE];
    for (int part = 0; part < p->parts; part++) {
        if (p->floating && !counts(part_double(scalar, part)))
            continue;
        size_t length;
        TRY(number_text(p, scalar, part, number, &length));
        if (length <= p->formats[part].width)
            continue;
        p->formats[part].width = length;
        /* Every element takes the width of the real part, a comma and a space. */
        if (part == 0 && p->shown > PRINT_TEXT_MAX / ((int64_t)length + 2))
            return too_large();
    }
    return TD_OK;
}

/* Without a number that counts, sci_mode has no effect, not even 1. */
static bool wants_scientific(const struct number_format *format, int sci_mode)
{
    if (!format->any || sci_mode >= 0)
        return format->any && sci_mode > 0;
    return format->greatest / format->least > 1000.0 || format->greatest > 1.0e8 ||
           format->least < 1.0e-4;
}

static enum td_status choose_formats(struct printer *p, const unsigned char *first)
{
    for (int part = 0; part < p->parts; part++)
        p->formats[part] = (struct number_format){.whole = true, .width = 1};
    if (p->floating) {
        TRY(visit_elements(p, 0, first, visit_range));
        for (int part = 0; part < p->parts; part++)
            p->formats[part].scientific = wants_scientific(&p->formats[part], p->options->sci_mode);
    }
    return visit_elements(p, 0, first, visit_width);
}

/* the values in their brackets */

static enum td_status print_element(struct printer *p, const unsigned char *at)
{
    struct scalar scalar = element_load(p, at);
    char number[NUMBER_SIZE];
    size_t length, width = p->formats[0].width;
    TRY(number_text(p, &scalar, 0, number, &length));
    if (length < width)
        TRY(text_repeat(&p->text, ' ', width - length));
    TRY(text_bytes(&p->text, number, length));
    if (p->parts == 1)
        return TD_OK;
    TRY(number_text(p, &scalar, 1, number, &length));
    if (number[0] != '-')
        TRY(text_string(&p->text, "+"));
    TRY(text_bytes(&p->text, number, length));
    return text_string(&p->text, "j");
}

static enum td_status print_vector(struct printer *p, int dim, const unsigned char *at)
{
    /* The space counted for: the number, a comma and a space, the imaginary part and its j. */
    size_t space = p->formats[0].width + 2;
    if (p->parts == 2)
        space += p->formats[1].width + 1;
    int64_t indent = INDENT + dim;
    int64_t per_line = (p->options->linewidth - indent) / (int64_t)space;
    if (per_line < 1)
        per_line = 1;
    int64_t pieces = pieces_of(p, dim);
    TRY(text_string(&p->text, "["));
    for (int64_t piece = 0; piece < pieces; piece++) {
        if (piece > 0 && piece % per_line == 0) {
            TRY(text_string(&p->text, ",\n"));
            TRY(text_repeat(&p->text, ' ', (size_t)indent + 1));
        } else if (piece > 0) {
            TRY(text_string(&p->text, ", "));
        }
        int64_t index = piece_index(p, dim, piece);
        if (index < 0)
            TRY(text_string(&p->text, p->options->edgeitems ? " ..." : "..."));
        else
            TRY(print_element(p, element_at(p, dim, at, index)));
    }
    return text_string(&p->text, "]");
}

/* Dimension dim and all inner ones, from the element `at` on. */
static enum td_status print_block(struct printer *p, int dim, const unsigned char *at)
{
    int inner = p->layout->rank - dim - 1;
    if (inner < 0)
        return print_element(p, at);
    if (inner == 0)
        return print_vector(p, dim, at);
    int64_t pieces = pieces_of(p, dim);
    TRY(text_string(&p->text, "["));
    for (int64_t piece = 0; piece < pieces; piece++) {
        if (piece > 0) {
            TRY(text_string(&p->text, ","));
            TRY(text_repeat(&p->text, '\n', (size_t)inner));
            TRY(text_repeat(&p->text, ' ', (size_t)(INDENT + dim) + 1));
        }
        int64_t index = piece_index(p, dim, piece);
        if (index < 0)
            TRY(text_string(&p->text, "..."));
        else
            TRY(print_block(p, dim + 1, element_at(p, dim, at, index)));
    }
    return text_string(&p->text, "]");
}

static enum td_status print_values(struct printer *p, const unsigned char *storage)
{
    if (p->layout->elements == 0)
        return text_string(&p->text, "[]");
    /* An element takes at least "0, ": much is refused before any of it is read. */
    p->shown = shown_elements(p);
    if (p->shown > PRINT_TEXT_MAX / 3)
        return too_large();
    const unsigned char *first = storage + p->layout->offset_bytes;
    TRY(choose_formats(p, first));
    return print_block(p, 0, first);
}

/* the suffixes */

/* PyTorch's _add_suffixes. `line` is its count of the last line's characters, which starts one or
 * two too high, and so decides where a line breaks. */
static enum td_status print_suffix(struct printer *p, const char *name, const char *value,
                                   const char *end, size_t *line)
{
    size_t length = strlen(name) + strlen(value) + strlen(end);
    if ((int64_t)(*line + length + 2) > p->options->linewidth) {
        TRY(text_string(&p->text, ",\n"));
        TRY(text_repeat(&p->text, ' ', INDENT));
        *line = INDENT + length;
    } else {
        TRY(text_string(&p->text, ", "));
        *line += length + 2;
    }
    TRY(text_string(&p->text, name));
    TRY(text_string(&p->text, value));
    return text_string(&p->text, end);
}

/* The count of the last line that print_suffix starts from. */
static size_t last_line(const struct growing_text *text)
{
    size_t newline = text->length;
    while (newline > 0 && text->bytes[newline - 1] != '\n')
        newline--;
    return text->length - newline + 2;
}

static void shape_tuple(const struct layout *layout, char *out, size_t size)
{
    size_t used = 0;
    for (int dim = 0; dim < layout->rank; dim++) {
        used += (size_t)snprintf(out + used, size - used, "%s%" PRId64, dim ? ", " : "(",
                                 layout->shape[dim]);
        assert(used < size);
    }
    snprintf(out + used, size - used, "%s",
             layout->rank == 0   ? "()"
             : layout->rank == 1 ? ",)"
                                 : ")");
}

static bool dtype_is_printed(enum td_dtype dtype, bool empty)
{
    if (dtype == TD_FLOAT32)
        return false;
    return empty || (dtype != TD_COMPLEX64 && dtype != TD_INT64 && dtype != TD_BOOL);
}

static enum td_status print_suffixes(struct printer *p)
{
    const struct layout *layout = p->layout;
    const struct printed *printed = p->printed;
    size_t line = last_line(&p->text);
    if (strcmp(printed->device, "cpu") != 0)
        TRY(print_suffix(p, "device='", printed->device, "'", &line));
    if (layout->elements == 0 ? layout->rank != 1 : p->options->edgeitems == 0) {
        char shape[RANK_MAX * 22 + 4];
        shape_tuple(layout, shape, sizeof shape);
        TRY(print_suffix(p, "size=", shape, "", &line));
    }
    if (dtype_is_printed(printed->dtype, layout->elements == 0))
        TRY(print_suffix(p, "dtype=torch.", dtype_infos[printed->dtype].name, "", &line));
    if (printed->grad_fn)
        TRY(print_suffix(p, "grad_fn=<", printed->grad_fn, ">", &line));
    else if (printed->requires_grad)
        TRY(print_suffix(p, "requires_grad=True", "", "", &line));
    return text_string(&p->text, ")");
}

static enum td_status check_options(const struct print_options *options)
{
    if (options->precision < 0 || options->precision > PRINT_PRECISION_MAX)
        return fail(TD_INVALID, "precision is %d; it must be from 0 to %d", options->precision,
                    PRINT_PRECISION_MAX);
    if (options->edgeitems < 0)
        return fail(TD_INVALID, "edgeitems is %" PRId64 "; it must be 0 or more",
                    options->edgeitems);
    if (options->sci_mode < -1 || options->sci_mode > 1)
        return fail(TD_INVALID, "sci_mode is %d; it must be -1 (automatic), 0 or 1",
                    options->sci_mode);
    return TD_OK;
}

static enum td_status print_all(struct printer *p)
{
    TRY(text_string(&p->text, PREFIX));
    TRY(print_values(p, p->printed->storage_base));
    return print_suffixes(p);
}

enum td_status print_tensor(const struct printed *printed, const struct print_options *options,
                            char **text)
{
    assert(dtype_valid((int)printed->layout->dtype) && dtype_valid((int)printed->dtype));
    TRY(check_options(options));
    char kind = dtype_infos[printed->dtype].kind;
    struct printer p = {
        .printed = printed,
        .layout = printed->layout,
        .options = options,
        .summarise = printed->layout->elements > options->threshold,
        .floating = kind == 'f' || kind == 'c',
        .parts = kind == 'c' ? 2 : 1,
    };
    enum td_status status = print_all(&p);
    if (status == TD_OK)
        *text = p.text.bytes;
    else
        free(p.text.bytes);
    return status;
}
