/* args: the arguments of any operation, and the operations table for programs. */
#include "client/internal.h"

#include <stdio.h>
#include <string.h>

struct text_block {
    struct text_block *next;
    char bytes[];
};

struct td_args *td_args_new(void)
{
    struct td_args *args = calloc(1, sizeof *args);
    return args;
}

void td_args_free(struct td_args *args)
{
    if (!args)
        return;
    while (args->texts) {
        struct text_block *next = args->texts->next;
        free(args->texts);
        args->texts = next;
    }
    free(args->detail);
    free(args);
}

/* Remembers the first error for the call that uses the arguments. */
static enum td_status args_fail(struct td_args *args, enum td_status status)
{
    if (args && args->status == TD_OK) {
        args->status = status;
        args->detail = strdup(fail_detail()); /* without memory: the status alone */
    }
    return status;
}

static enum td_status no_args(void)
{
    return fail(TD_OUT_OF_MEMORY, "there are no arguments to set: td_args_new had no memory");
}

static const char *quoted(const char *text)
{
    return text ? text : "(null)";
}

/* The member for the field, marked as present. *out is left alone on failure. */
static enum td_status args_field(struct td_args *args, const char *name, enum field_type type,
                                 void *out_member)
{
    if (!args)
        return no_args();
    int field = name ? field_find(name, strlen(name)) : 0;
    if (field == 0)
        return args_fail(args, fail(TD_INVALID,
                                    "no operation has a field '%s'; td_op_info lists "
                                    "what each takes",
                                    quoted(name)));
    if (field_infos[field].type != type)
        return args_fail(args, fail(TD_INVALID,
                                    "the field '%s' is of type %s, and a value of type "
                                    "%s was given",
                                    name, field_type_name(field_infos[field].type),
                                    field_type_name(type)));
    args->fields.present |= field_bit(field);
    void *member = (char *)&args->fields + field_infos[field].offset;
    memcpy(out_member, &member, sizeof member);
    return TD_OK;
}

enum td_status td_args_text(struct td_args *args, const char *field, const char *value)
{
    struct text *member;
    TRY(args_field(args, field, FIELD_TYPE_TEXT, &member));
    *member = (struct text){"", 0};
    if (!value)
        return args_fail(args, fail(TD_INVALID, "the field '%s' was given no text (NULL)", field));
    size_t length = strlen(value);
    if (length > WIRE_META_MAX)
        return args_fail(args,
                         fail(TD_INVALID,
                              "the field '%s' was given %zu bytes, and a request has room "
                              "for %d: name fewer tensors at a time, or give it shorter texts",
                              field, length, WIRE_META_MAX));
    struct text_block *block = malloc(sizeof *block + length + 1);
    if (!block)
        return args_fail(args, fail(TD_OUT_OF_MEMORY, "no memory for the field '%s'", field));
    memcpy(block->bytes, value, length + 1);
    block->next = args->texts;
    args->texts = block;
    *member = (struct text){block->bytes, length};
    return TD_OK;
}

enum td_status td_args_uint(struct td_args *args, const char *field, uint64_t value)
{
    uint64_t *member;
    TRY(args_field(args, field, FIELD_TYPE_UINT, &member));
    *member = value;
    return TD_OK;
}

enum td_status td_args_int(struct td_args *args, const char *field, int64_t value)
{
    int64_t *member;
    TRY(args_field(args, field, FIELD_TYPE_INT, &member));
    *member = value;
    return TD_OK;
}

enum td_status td_args_bool(struct td_args *args, const char *field, bool value)
{
    bool *member;
    TRY(args_field(args, field, FIELD_TYPE_BOOL, &member));
    *member = value;
    return TD_OK;
}

enum td_status td_args_dtype(struct td_args *args, enum td_dtype dtype)
{
    enum td_dtype *member;
    if (args && !dtype_valid((int)dtype))
        return args_fail(args, fail(TD_BAD_DTYPE, "there is no dtype number %d", (int)dtype));
    TRY(args_field(args, "dtype", FIELD_TYPE_DTYPE, &member));
    *member = dtype;
    return TD_OK;
}

enum td_status td_args_dims(struct td_args *args, const char *field, int rank, const int64_t *dims)
{
    struct dims *member;
    if (args && (rank < 0 || rank > RANK_MAX || (rank > 0 && !dims)))
        return args_fail(args, fail(TD_BAD_SHAPE,
                                    "the field '%s' was given %d dimensions; 0 to %d "
                                    "are possible",
                                    quoted(field), rank, RANK_MAX));
    TRY(args_field(args, field, FIELD_TYPE_DIMS, &member));
    member->rank = rank;
    if (rank > 0)
        memcpy(member->v, dims, (size_t)rank * sizeof *dims);
    return TD_OK;
}

static enum td_status args_scalar(struct td_args *args, const char *field, struct scalar value)
{
    struct scalar *member;
    TRY(args_field(args, field, FIELD_TYPE_SCALAR, &member));
    *member = value;
    return TD_OK;
}

enum td_status td_args_scalar_bool(struct td_args *args, const char *field, bool value)
{
    return args_scalar(args, field, (struct scalar){.kind = SCALAR_BOOL, .b = value});
}

enum td_status td_args_scalar_int(struct td_args *args, const char *field, int64_t value)
{
    return args_scalar(args, field, (struct scalar){.kind = SCALAR_INT, .i = value});
}

enum td_status td_args_scalar_uint(struct td_args *args, const char *field, uint64_t value)
{
    return args_scalar(args, field, (struct scalar){.kind = SCALAR_UINT, .u = value});
}

enum td_status td_args_scalar_float(struct td_args *args, const char *field, double value)
{
    return args_scalar(args, field, (struct scalar){.kind = SCALAR_FLOAT, .f = value});
}

enum td_status td_args_scalar_complex(struct td_args *args, const char *field, double re, double im)
{
    return args_scalar(args, field, (struct scalar){.kind = SCALAR_COMPLEX, .c = {re, im}});
}

static enum td_status args_index(struct td_args *args, struct index_item item)
{
    struct index *member;
    bool begun = args && FIELDS_HAS(&args->fields, index);
    TRY(args_field(args, "index", FIELD_TYPE_INDEX, &member));
    if (!begun)
        member->count = 0;
    if (member->count == INDEX_MAX)
        return args_fail(args, fail(TD_BAD_INDEX, "an index has %d items at most", INDEX_MAX));
    member->items[member->count++] = item;
    return TD_OK;
}

enum td_status td_args_index_integer(struct td_args *args, int64_t position)
{
    return args_index(args, (struct index_item){.kind = INDEX_INTEGER, .start = position});
}

enum td_status td_args_index_slice(struct td_args *args, int64_t start, int64_t stop, int64_t step)
{
    return args_index(args, (struct index_item){INDEX_SLICE, start, stop, step});
}

enum td_status td_args_index_ellipsis(struct td_args *args)
{
    return args_index(args, (struct index_item){.kind = INDEX_ELLIPSIS});
}

enum td_status td_args_index_new_axis(struct td_args *args)
{
    return args_index(args, (struct index_item){.kind = INDEX_NEW_AXIS});
}

/* ---- any operation ------------------------------------------------------------------------- */

enum td_status args_check(const struct td_args *args)
{
    if (args && args->status != TD_OK)
        return fail(args->status, "%s", args->detail ? args->detail : "wrong arguments");
    return TD_OK;
}

static enum td_status op_of(const char *name, const struct td_args *args, int *out)
{
    int op = name ? op_find(name, strlen(name)) : 0;
    if (op == 0)
        return fail(TD_NOT_FOUND, "there is no operation '%s'; td_op_info lists them",
                    quoted(name));
    if (op == OP_hello)
        return fail(TD_INVALID, "hello opens connections; td_connect sends it");
    TRY(args_check(args));
    *out = op;
    return TD_OK;
}

/* file: where the reply's body is written to; NULL: it is the reply's. */
static enum td_status run(struct td_client *client, const char *op, const struct td_args *args,
                          const void *body, size_t body_bytes, const int *file,
                          struct td_reply **out)
{
    static const struct fields none;
    int opcode = 0;
    TRY(op_of(op, args, &opcode));
    if (body_bytes > 0 && !body)
        return fail(TD_INVALID, "'%s' was given a body of %zu bytes at NULL", op, body_bytes);
    struct call call = {
        .op = (enum op)opcode,
        .fields = args ? &args->fields : &none,
        .body = body,
        .body_bytes = body_bytes,
        .descriptor = -1,
        .file = file,
    };
    struct td_reply *reply;
    TRY(client_call(client, &call, &reply));
    if (out)
        *out = reply;
    else
        td_reply_free(reply);
    return TD_OK;
}

enum td_status td_op(struct td_client *client, const char *op, const struct td_args *args,
                     const void *body, size_t body_bytes, struct td_reply **out)
{
    return run(client, op, args, body, body_bytes, NULL, out);
}

enum td_status td_op_to_file(struct td_client *client, const char *op, const struct td_args *args,
                             int fd, struct td_reply **out)
{
    return run(client, op, args, NULL, 0, &fd, out);
}

#define FIELD_NAMES_SIZE 256 /* of one operation; the unit test finds texts that do not fit */

static struct {
    int opcode;
    char required[FIELD_NAMES_SIZE], optional[FIELD_NAMES_SIZE];
} descriptions[OP_END];
static int description_count;
static pthread_once_t descriptions_once = PTHREAD_ONCE_INIT;

static void write_field_names(field_set fields, char out[FIELD_NAMES_SIZE])
{
    size_t used = 0;
    for (; fields; fields &= fields - 1) {
        int n = snprintf(out + used, FIELD_NAMES_SIZE - used, "%s%s", used ? " " : "",
                         field_infos[field_first(fields)].name);
        if (n < 0 || (size_t)n >= FIELD_NAMES_SIZE - used)
            return;
        used += (size_t)n;
    }
}

static void write_descriptions(void)
{
    for (int op = 1; op < OP_END; op++) {
        if (!op_infos[op].name)
            continue;
        descriptions[description_count].opcode = op;
        write_field_names(op_infos[op].required, descriptions[description_count].required);
        write_field_names(op_infos[op].optional, descriptions[description_count].optional);
        description_count++;
    }
}

bool td_op_info(int i, struct td_op_description *out)
{
    pthread_once(&descriptions_once, write_descriptions);
    if (i < 0 || i >= description_count)
        return false;
    int opcode = descriptions[i].opcode;
    const struct op_info *info = &op_infos[opcode];
    *out = (struct td_op_description){
        .opcode = opcode,
        .name = info->name,
        .doc = info->doc,
        .required = descriptions[i].required,
        .optional = descriptions[i].optional,
        .makes_tensor = info->traits & OP_MAKES,
        .takes_body = info->traits & OP_BODY_IN,
        .returns_body = info->traits & OP_BODY_OUT,
        .takes_descriptor = info->traits & OP_FD_IN,
        .returns_descriptor = info->traits & OP_FD_OUT,
    };
    return true;
}

const char *td_field_type(const char *field)
{
    int number = field ? field_find(field, strlen(field)) : 0;
    return number ? field_type_name(field_infos[number].type) : NULL;
}
