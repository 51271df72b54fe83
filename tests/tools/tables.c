/* tables: prints the product's tables, for PROTOCOL.md, openapi.json and whatever else must not
 * differ from them.
 *
 *     tables markdown status|dtypes|fields|ops
 *     tables json status|dtypes|fields|ops|routes|limits
 */
#include "core/dtype_info.h"
#include "core/op_table.h"
#include "core/status.h"
#include "server/http_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const struct {
    unsigned bit;
    const char *name;
    const char *meaning;
} traits[] = {
    {OP_MAKES, "makes", "the result is a tensor: published under `output`, or an anonymous object"},
    {OP_BODY_IN, "body_in", "the request's body is the elements, in C order, or a file"},
    {OP_BODY_OUT, "body_out", "the reply's body is the elements, a file, or a list of entries"},
    {OP_FD_IN, "fd_in", "a descriptor may come instead of a body (Unix socket)"},
    {OP_FD_OUT, "fd_out", "a descriptor may leave instead of a body (Unix socket)"},
    {OP_BYTES, "bytes", "touches the bytes of tensors, so that it may take long"},
    {OP_ONE_WAY, "one_way", "may be sent as a one-way frame"},
    {OP_CONNECTION, "connection", "belongs to the connection itself"},
    {OP_IN_PLACE, "in_place",
     "changes what others see while it runs: no deadline once it has begun"},
    {OP_WAITS, "waits", "may wait for what others do, until its `timeout_ms`; see Waiting"},
};

/* ---- text ------------------------------------------------------------------------------------ */

static void print_markdown(const char *text)
{
    for (; *text; text++) {
        if (*text == '|' || *text == '<')
            putchar('\\');
        putchar(*text);
    }
}

static void print_json(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        if ((unsigned char)*text < 0x20)
            printf("\\u%04x", (unsigned)(unsigned char)*text);
        else
            putchar(*text);
    }
    putchar('"');
}

/* `"key": "text"`, for rows of JSON. */
static void print_member(const char *key, const char *text)
{
    printf(", \"%s\": ", key);
    print_json(text);
}

/* Between the rows of a JSON array. */
static void print_row_start(bool *first)
{
    printf(*first ? "[\n  {" : ",\n  {");
    *first = false;
}

/* The names of a set of fields, `between` them. */
static void print_fields(field_set set, const char *quote, const char *between)
{
    for (field_set left = set; left != 0; left &= left - 1)
        printf("%s%s%s%s", left == set ? "" : between, quote, field_infos[field_first(left)].name,
               quote);
}

/* The names of an operation's traits; a bit without a name would be missing from the documents. */
static void print_traits(unsigned set, const char *quote, const char *between)
{
    const char *before = "";
    for (size_t i = 0; i < COUNT(traits); i++) {
        if (!(set & traits[i].bit))
            continue;
        printf("%s%s%s%s", before, quote, traits[i].name, quote);
        before = between;
        set &= ~traits[i].bit;
    }
    if (set != 0) {
        fprintf(stderr, "tables: trait 0x%x has no name in tests/tools/tables.c\n", set);
        exit(1);
    }
}

/* ---- status and dtypes ----------------------------------------------------------------------- */

static void status_markdown(void)
{
    puts("| number | status | HTTP | meaning |\n|---:|---|---:|---|");
    for (int status = 0; status < TD_STATUS_COUNT; status++) {
        printf("| %d | %s | %d | ", status, td_status_name(status), td_status_http(status));
        print_markdown(td_status_meaning(status));
        puts(" |");
    }
}

static void status_json(void)
{
    bool first = true;
    for (int status = 0; status < TD_STATUS_COUNT; status++) {
        print_row_start(&first);
        printf("\"number\": %d", status);
        print_member("name", td_status_name(status));
        printf(", \"http\": %d", td_status_http(status));
        print_member("meaning", td_status_meaning(status));
        putchar('}');
    }
    puts("\n]");
}

static void dtypes_markdown(void)
{
    puts("| number | dtype | bytes | kind | NumPy | safetensors | DLPack |\n"
         "|---:|---|---:|---|---|---|---:|");
    for (int dtype = 1; dtype < TD_DTYPE_END; dtype++) {
        const struct dtype_info *info = &dtype_infos[dtype];
        printf("| %d | %s | %zu | %c | ", dtype, info->name, info->size_bytes, info->kind);
        print_markdown(info->numpy);
        printf(" | %s | %d |\n", info->safetensors, info->dlpack_code);
    }
}

static void dtypes_json(void)
{
    bool first = true;
    for (int dtype = 1; dtype < TD_DTYPE_END; dtype++) {
        const struct dtype_info *info = &dtype_infos[dtype];
        print_row_start(&first);
        printf("\"number\": %d", dtype);
        print_member("name", info->name);
        printf(", \"size_bytes\": %zu, \"kind\": \"%c\"", info->size_bytes, info->kind);
        print_member("numpy", info->numpy);
        print_member("safetensors", info->safetensors);
        printf(", \"dlpack_code\": %d}", info->dlpack_code);
    }
    puts("\n]");
}

/* ---- fields ---------------------------------------------------------------------------------- */

static void fields_markdown(void)
{
    puts("| number | field | type | meaning |\n|---:|---|---|---|");
    for (int field = 1; field < FIELD_END; field++) {
        const struct field_info *info = &field_infos[field];
        if (!info->name)
            continue;
        printf("| %d | %s | %s | ", field, info->name, field_type_name(info->type));
        print_markdown(info->meaning);
        puts(" |");
    }
}

static void fields_json(void)
{
    bool first = true;
    for (int field = 1; field < FIELD_END; field++) {
        const struct field_info *info = &field_infos[field];
        if (!info->name)
            continue;
        print_row_start(&first);
        printf("\"number\": %d", field);
        print_member("name", info->name);
        print_member("type", field_type_name(info->type));
        print_member("meaning", info->meaning);
        putchar('}');
    }
    puts("\n]");
}

/* ---- operations ------------------------------------------------------------------------------ */

/* The fields that every operation with these traits takes. */
static field_set fields_common(unsigned with_traits)
{
    field_set common = ~(field_set)0;
    for (int op = 1; op < OP_END; op++)
        if (op_infos[op].name && (op_infos[op].traits & with_traits) == with_traits)
            common &= op_infos[op].required | op_infos[op].optional;
    return common;
}

/* Optional fields besides those that all operations of its traits take. */
static field_set fields_own(const struct op_info *info)
{
    field_set common = fields_common(0);
    if (info->traits & OP_MAKES)
        common |= fields_common(OP_MAKES);
    return info->optional & ~(info->required | common);
}

static void ops_markdown(void)
{
    field_set every = fields_common(0);
    printf("Every operation also takes ");
    print_fields(every, "`", ", ");
    printf("; those with the trait `makes` also take ");
    print_fields(fields_common(OP_MAKES) & ~every, "`", ", ");
    puts(".\n\n| trait | meaning |\n|---|---|");
    for (size_t i = 0; i < COUNT(traits); i++)
        printf("| %s | %s |\n", traits[i].name, traits[i].meaning);
    puts("\n| opcode | operation | required | optional | traits | what it does |\n"
         "|---:|---|---|---|---|---|");
    for (int op = 1; op < OP_END; op++) {
        const struct op_info *info = &op_infos[op];
        if (!info->name)
            continue;
        printf("| %d | %s | ", op, info->name);
        print_fields(info->required, "", ", ");
        printf(" | ");
        print_fields(fields_own(info), "", ", ");
        printf(" | ");
        print_traits(info->traits, "", ", ");
        printf(" | ");
        print_markdown(info->doc);
        puts(" |");
    }
}

static void ops_json(void)
{
    bool first = true;
    for (int op = 1; op < OP_END; op++) {
        const struct op_info *info = &op_infos[op];
        if (!info->name)
            continue;
        print_row_start(&first);
        printf("\"number\": %d", op);
        print_member("name", info->name);
        printf(", \"required\": [");
        print_fields(info->required, "\"", ", ");
        printf("], \"optional\": [");
        print_fields(info->optional & ~info->required, "\"", ", ");
        printf("], \"traits\": [");
        print_traits(info->traits, "\"", ", ");
        putchar(']');
        print_member("doc", info->doc);
        putchar('}');
    }
    puts("\n]");
}

/* ---- HTTP ------------------------------------------------------------------------------------ */

/* The words of a list separated by blanks. */
static void print_words(const char *list)
{
    const char *before = "";
    for (size_t length; *list; list += length) {
        list += strspn(list, " ");
        length = strcspn(list, " ");
        printf("%s\"%.*s\"", before, (int)length, list);
        before = ", ";
    }
}

static void routes_json(void)
{
    bool first = true;
    for (size_t i = 0; i < http_route_count; i++) {
        const struct route *route = &http_routes[i];
        print_row_start(&first);
        printf("\"method\": \"%s\"", route->method);
        print_member("path", route->path);
        printf(", \"params\": [");
        print_words(route->params);
        printf("], \"body\": %s, \"open\": %s", route->body ? "true" : "false",
               route->open ? "true" : "false");
        print_member("doc", route->doc);
        putchar('}');
    }
    puts("\n]");
}

static void limits_json(void)
{
    printf("{\"version\": \"%s\", \"name_bytes\": %d, \"rank\": %d, \"index_items\": %d, "
           "\"session_key_digits\": %d, \"ttl_ms\": %" PRIu64 "}\n",
           TENSORD_VERSION, NAME_MAX_BYTES, RANK_MAX, INDEX_MAX, SESSION_KEY_LENGTH,
           STORE_TTL_MAX_MS);
}

/* ---- which ----------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*markdown)(void); /* NULL: no document shows it as a table */
    void (*json)(void);
} tables[] = {
    {"status", status_markdown, status_json},
    {"dtypes", dtypes_markdown, dtypes_json},
    {"fields", fields_markdown, fields_json},
    {"ops", ops_markdown, ops_json},
    {"routes", NULL, routes_json},
    {"limits", NULL, limits_json},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 3 && i < COUNT(tables); i++) {
        if (strcmp(argv[2], tables[i].name) != 0)
            continue;
        if (strcmp(argv[1], "markdown") == 0 && tables[i].markdown)
            tables[i].markdown();
        else if (strcmp(argv[1], "json") == 0)
            tables[i].json();
        else
            break;
        return ferror(stdout) || fflush(stdout) != 0;
    }
    fputs("usage: tables markdown|json status|dtypes|fields|ops, tables json routes|limits\n",
          stderr);
    return 2;
}
