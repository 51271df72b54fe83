/* ops: load and save, with formats made for the test.
 *
 * A file is a mark of four bytes, the number of items, 16 bytes for each (its letter, dtype, sizes
 * of two dimensions, flags), and the elements; a packed one has them upside down. */
#include "tests/unit/ops_request.h"

#include <ctype.h>

enum { FORTRAN = 1, BIG_ENDIAN_ = 2, NAMELESS = 4 };

#define HEAD(count) (5 + 16 * (size_t)(count))

static uint64_t most_bytes = 4096;

static enum td_status because(enum td_status status, const char *detail)
{
    fail_write("%s", detail); /* cmocka has a macro of the name fail */
    return status;
}

static enum td_status read_fake(const struct bundle_file *file, uint64_t max_bytes, bool packed,
                                struct bundle *out)
{
    size_t count = file->size > 4 ? file->bytes[4] : 0;
    uint64_t at = HEAD(count);
    if (file->size < at)
        return because(TD_INVALID, "the fake file ends within its head");
    for (size_t i = 0; i < count; i++) {
        const unsigned char *record = file->bytes + HEAD(i);
        char name[2] = {(char)record[0], '\0'};
        struct bundle_item item = {
            .name = record[4] & NAMELESS ? NULL : name,
            .dtype = (enum td_dtype)record[1],
            .shape = {.rank = 2, .v = {record[2], record[3]}},
            .offset = packed ? out->unpacked_bytes : at,
            .fortran_order = record[4] & FORTRAN,
            .big_endian = record[4] & BIG_ENDIAN_,
        };
        uint64_t size = bundle_item_bytes(&item);
        at += size;
        out->unpacked_bytes += size + -size % BUNDLE_ALIGNMENT;
        TRY(bundle_add(out, &item));
    }
    if (at != file->size)
        return because(TD_INVALID, "the fake file has a wrong length");
    if (packed && out->unpacked_bytes > max_bytes)
        return because(TD_TOO_LARGE, "the fake archive is too large");
    out->metadata = count > 3 ? strdup("{}") : NULL;
    return TD_OK;
}

static enum td_status plain_read(const struct bundle_file *file, enum td_dtype hint,
                                 uint64_t max_bytes, struct bundle *out)
{
    (void)hint;
    return read_fake(file, max_bytes, false, out);
}

static enum td_status packed_read(const struct bundle_file *file, enum td_dtype hint,
                                  uint64_t max_bytes, struct bundle *out)
{
    (void)hint;
    return read_fake(file, max_bytes, true, out);
}

static enum td_status packed_unpack(const struct bundle_file *file, enum td_dtype hint,
                                    const struct bundle *bundle, unsigned char *to)
{
    uint64_t at = HEAD(bundle->count);
    (void)hint;
    for (size_t i = 0; i < bundle->count; i++)
        for (uint64_t b = 0; b < bundle_item_bytes(&bundle->items[i]); b++)
            to[bundle->items[i].offset + b] = (unsigned char)~file->bytes[at++];
    return TD_OK;
}

static bool is_plain(const void *bytes, size_t length)
{
    return length >= 4 && memcmp(bytes, "FAKE", 4) == 0;
}

static bool is_packed(const void *bytes, size_t length)
{
    return length >= 4 && memcmp(bytes, "PACK", 4) == 0;
}

/* In a file that is saved a record is the letter and the dtype alone. */
static enum td_status plain_head(struct bundle *bundle, unsigned char **out, size_t *length)
{
    *length = HEAD(bundle->count);
    *out = calloc(1, *length);
    memcpy(*out, "FAKE", 4);
    (*out)[4] = (unsigned char)bundle->count;
    for (size_t i = 0; i < bundle->count; i++) {
        (*out)[HEAD(i)] = (unsigned char)bundle->items[i].name[0];
        (*out)[HEAD(i) + 1] = (unsigned char)bundle->items[i].dtype;
    }
    return TD_OK;
}

static enum td_status packed_pack(const struct bundle *bundle, const struct bundle_io *io)
{
    TRY(io->write(io->context, "PACK", 4));
    for (size_t i = 0; i < bundle->count; i++) {
        const void *data;
        size_t size;
        do {
            TRY(io->next(io->context, i, &data, &size));
            TRY(io->write(io->context, data, size));
        } while (size > 0);
        TRY(io->write(io->context, ".", 1));
    }
    return TD_OK;
}

static uint64_t packed_most_bytes(const struct bundle *bundle)
{
    (void)bundle;
    return most_bytes;
}

static const struct bundle_format plain = {.name = "plain",
                                           .content_type = "x/plain",
                                           .has_metadata = true,
                                           .recognise = is_plain,
                                           .read = plain_read,
                                           .head = plain_head};
static const struct bundle_format packed = {.name = "packed",
                                            .content_type = "x/packed",
                                            .packed = true,
                                            .is_numpy = true,
                                            .recognise = is_packed,
                                            .read = packed_read,
                                            .unpack = packed_unpack,
                                            .pack = packed_pack,
                                            .most_bytes = packed_most_bytes};
static const struct bundle_format *const formats[] = {&plain, &packed, NULL};

static int open_bundles(void **state)
{
    int failed = open_engine(state);
    engine->formats = formats;
    most_bytes = 4096;
    return failed;
}

/* -- files -- */

struct item {
    char letter;
    enum td_dtype dtype;
    int rows, columns, flags;
};

static unsigned char file[4096];
static size_t file_bytes;

/* Elements are the bytes 1, 2, 3 ... */
static void make_file(const char *mark, size_t count, const struct item *items)
{
    unsigned char next = 1;
    memset(file, 0, sizeof file);
    memcpy(file, mark, 4);
    file[4] = (unsigned char)count;
    file_bytes = HEAD(count);
    for (size_t i = 0; i < count; i++) {
        unsigned char *record = file + HEAD(i);
        record[0] = (unsigned char)items[i].letter;
        record[1] = (unsigned char)items[i].dtype;
        record[2] = (unsigned char)items[i].rows;
        record[3] = (unsigned char)items[i].columns;
        record[4] = (unsigned char)items[i].flags;
        size_t bytes = (size_t)items[i].rows * (size_t)items[i].columns *
                       dtype_infos[items[i].dtype].size_bytes;
        for (size_t b = 0; b < bytes; b++, next++)
            file[file_bytes++] = *mark == 'P' ? (unsigned char)~next : next;
    }
    request_body = file;
    request_body_bytes = file_bytes;
}

#define FILE_OF(mark, ...)                                                                         \
    make_file(mark, sizeof((struct item[]){__VA_ARGS__}) / sizeof(struct item),                    \
              (struct item[]){__VA_ARGS__})

static struct tensor *named(const char *name)
{
    struct tensor *tensor;
    assert_ok(store_lookup(engine->store, text_of(name), &tensor, NULL));
    tensor_unref(tensor); /* the name holds it */
    return tensor;
}

static void assert_bytes(const char *name, const char *wanted)
{
    const unsigned char *got = tensor_data(named(name));
    for (size_t i = 0; wanted[i]; i++)
        if (got[i] != (unsigned char)(wanted[i] - 'a' + 1))
            fail_msg("byte %zu of %s is %d", i, name, got[i]);
}

#define A(letter, dtype, rows, columns)                                                            \
    {                                                                                              \
        letter, dtype, rows, columns, 0                                                            \
    }

/* -- load -- */

static void views_of_the_body_itself(void **state)
{
    (void)state;
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3), A('b', TD_INT8, 2, 2));
    RUN(load, SET(prefix, text_of("m")));
    assert_memory("copied", "heap");
    assert_int_equal(listed.count, 2);
    assert_int_equal(reply->count, 2);
    assert_string_equal(listed.names[0], "m/a");
    assert_string_equal(listed.names[1], "m/b");
    struct tensor *a = named("m/a"), *b = named("m/b");
    assert_ptr_equal(a->storage, b->storage);
    assert_ptr_equal(a->storage, call.body_in);
    assert_int_equal(a->layout.offset_bytes, HEAD(2));
    assert_int_equal(b->layout.offset_bytes, HEAD(2) + 3);
    assert_int_equal(storage_mode_of(a->storage), STORAGE_FROZEN);
    assert_bytes("m/a", "abc");
    assert_bytes("m/b", "defg");
    assert_false(FIELDS_HAS(reply, metadata));
}

static void unaligned_elements_are_moved(void **state)
{
    (void)state;
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3), A('b', TD_FLOAT64, 1, 2), A('c', TD_INT16, 0, 4),
            A('d', TD_BOOL, 1, 1), A('e', TD_COMPLEX128, 1, 1));
    RUN(load, SET(prefix, text_of("m/")), SET(mutable, true), SET(requires_grad, true));
    assert_memory("copied", "alignment");
    assert_text(reply->metadata, "{}");
    assert_bytes("m/a", "abc");
    assert_bytes("m/b", "defghijklmnopqrs");
    assert_bytes("m/d", "t");
    for (const char *name = "m/e"; name; name = NULL)
        assert_int_equal(*tensor_data(named(name)), 21);
    static const int64_t offsets[] = {0, 8, 24, 24, 32};
    for (int i = 0; i < 5; i++) {
        const struct tensor *tensor = named((char[]){'m', '/', (char)('a' + i), '\0'});
        assert_int_equal(tensor->layout.offset_bytes, offsets[i]);
        assert_int_equal(storage_mode_of(tensor->storage), STORAGE_MUTABLE);
        assert_true(tensor_requires_grad(tensor) && tensor->is_variable);
    }
}

static void packed_files_have_memory_of_their_own(void **state)
{
    (void)state;
    FILE_OF("PACK", A('a', TD_UINT8, 1, 3), A('b', TD_FLOAT64, 1, 2));
    RUN(load, 0);
    assert_bytes("a", "abc");
    assert_bytes("b", "defghijklmnopqrs");
    struct tensor *a = named("a"), *b = named("b");
    assert_ptr_equal(a->storage, b->storage);
    assert_int_equal(a->storage->size_bytes, 128);
    assert_int_equal(b->layout.offset_bytes, 64);
    for (int i = 3; i < 64; i++) /* nothing of what the memory held before */
        assert_int_equal(tensor_data(a)[i], 0);
}

static void orders_of_numpy(void **state)
{
    static const struct item items[] = {{'f', TD_UINT8, 2, 3, FORTRAN},
                                        {'g', TD_UINT32, 1, 2, BIG_ENDIAN_},
                                        {'h', TD_COMPLEX64, 1, 1, BIG_ENDIAN_},
                                        {'i', TD_UINT16, 2, 1, BIG_ENDIAN_ | FORTRAN},
                                        {'j', TD_INT64, 1, 1, BIG_ENDIAN_}};
    (void)state;
    make_file("FAKE", COUNT(items), items);
    RUN(load, 0);
    assert_bytes("f", "abcdef");
    assert_int_equal(named("f")->layout.strides[0], 1);
    assert_int_equal(named("f")->layout.strides[1], 2);
    assert_bytes("g", "jihgnmlk");
    assert_bytes("h", "rqpovuts");
    assert_bytes("i", "xwzy");
}

static void a_file_without_a_name(void **state)
{
    static const struct item item = {'a', TD_UINT8, 1, 3, NAMELESS};
    (void)state;
    make_file("FAKE", 1, &item);
    REFUSED(load, TD_INVALID, "prefix", 0);
    make_file("FAKE", 1, &item);
    RUN(load, SET(prefix, text_of("one/")));
    assert_bytes("one", "abc");
}

/* Whatever there is no memory for: nothing is stored, and nothing kept. */
static void every_reservation_is_refused_once(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        FILE_OF("FAKE", A('a', TD_UINT8, 1, 9));
        RUN(load, 0);
        op_end(&call);
        uint64_t nth = 0;
        enum td_status status;
        do {
            FILE_OF(kind ? "PACK" : "FAKE", A('a', TD_UINT8, 1, 3), A('b', TD_FLOAT64, 1, 2),
                    A('c', TD_FLOAT16, 1, 1));
            uint64_t revision = store_revision(engine->store);
            struct ledger_limits before = used_now();
            engine->ledger.fail_after = ++nth;
            status = attempt(OP_load);
            engine->ledger.fail_after = 0;
            if (status == TD_OK)
                break;
            assert_int_equal(status, TD_OUT_OF_MEMORY);
            assert_int_equal(store_revision(engine->store), revision);
            op_end(&call);
            assert_int_equal(used_now().memory_bytes, before.memory_bytes);
            assert_int_equal(used_now().names, before.names);
            assert_bytes("a", "abcdefghi");
        } while (nth < 100);
        assert_in_range(nth, 6, 40);
        delete_all_names();
    }
}

static enum td_status full(void *sink, const struct fields *entry)
{
    (void)sink, (void)entry;
    return because(TD_OUT_OF_MEMORY, "no memory for a list");
}

/* What is stored is no error any more. */
static void a_list_without_memory_is_cut_short(void **state)
{
    static struct fields in;
    (void)state;
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3));
    in.present = 0;
    op_init(&call, engine, session, OP_load, &in);
    call.body_length = file_bytes;
    call.emit = full;
    assert_ok(op_begin(&call));
    assert_ok(op_receive(&call));
    memcpy(call.body_in->memory.data, file, file_bytes);
    assert_ok(op_run(&call));
    assert_ok(op_commit(&call));
    assert_int_equal(reply->count, 1);
    assert_bytes("a", "abc");
    request_body = NULL;
    request_body_bytes = 0;
}

static void what_load_refuses(void **state)
{
    (void)state;
    REFUSED(load, TD_INVALID, "needs a file", 0);
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3));
    REFUSED(load, TD_INVALID, "one of them", SET(path, text_of("x")));
    REFUSED(load, TD_FORBIDDEN, "--load-dir", SET(path, text_of("x")));
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3));
    REFUSED(load, TD_INVALID, "NUL", SET(prefix, ((struct text){"m\0n", 3})));
    FILE_OF("WHAT", A('a', TD_UINT8, 1, 3));
    REFUSED(load, TD_UNSUPPORTED, "plain, packed", 0);
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3));
    REFUSED(load, TD_INVALID, "plain, packed", SET(format, text_of("zip")));
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3), A('/', TD_UINT8, 1, 3));
    REFUSED(load, TD_INVALID, "tensor '/' cannot be stored", 0);
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3), A('a', TD_UINT8, 1, 3));
    REFUSED(load, TD_INVALID, "'a' comes twice", 0);
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3));
    file[4] = 200;
    REFUSED(load, TD_INVALID, "within its head", 0);
    engine->formats = NULL;
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3));
    REFUSED(load, TD_UNSUPPORTED, "not recognised", 0);
    assert_int_equal(store_count(engine->store), 0);
}

/* -- save -- */

static void load_two(bool requires_grad)
{
    FILE_OF("FAKE", A('a', TD_UINT8, 1, 3), A('b', TD_UINT8, 2, 2));
    RUN(load, SET(prefix, text_of("m")), SET(requires_grad, requires_grad));
}

static void assert_body(const char *head, size_t head_length, const char *rest)
{
    unsigned char body[256];
    size_t length = 0, size;
    const void *data;
    assert_ok(op_make_body(&call));
    assert_int_equal(body_total_bytes(call.body_made), head_length + strlen(rest));
    do {
        assert_ok(body_next(call.body_made, &data, &size));
        if (size)
            memcpy(body + length, data, size);
        length += size;
    } while (size);
    assert_int_equal(length, head_length + strlen(rest));
    assert_memory_equal(body, head, strlen(head));
    for (size_t i = 0; rest[i]; i++) {
        unsigned char byte = body[head_length + i];
        assert_int_equal(byte, islower((unsigned char)rest[i]) ? rest[i] - 'a' + 1 : rest[i]);
    }
}

static void save_as_it_lies_in_memory(void **state)
{
    (void)state;
    load_two(true);
    RUN(save, SET(prefix, text_of("m")));
    assert_int_equal(reply->count, 2);
    assert_body("FAKE\2a", HEAD(2), "abcdefg");
    RUN(save, SET(tensors, text_of("b=m/b\n\nx=m/a\nm/a")), SET(metadata, text_of("{}")));
    assert_body("FAKE\3b", HEAD(3), "defgabcabc");
}

static void save_packed(void **state)
{
    (void)state;
    load_two(false);
    RUN(save, SET(prefix, text_of("m")), SET(format, text_of("packed")));
    assert_body("PACK", 4, "abc.defg.");
    most_bytes = 12; /* a byte too few */
    REFUSED(save, TD_INTERNAL, "larger", SET(prefix, text_of("m")), SET(format, text_of("packed")));
}

static void what_save_refuses(void **state)
{
    (void)state;
    load_two(true);
    REFUSED(save, TD_NOT_FOUND, "'n/'", SET(prefix, text_of("n")));
    REFUSED(save, TD_NOT_FOUND, "'m/a/'", SET(prefix, text_of("m/a")));
    REFUSED(save, TD_INVALID, "plain, packed", SET(format, text_of("zip")));
    REFUSED(save, TD_INVALID, "one of them", SET(prefix, text_of("m")), SET(tensors, text_of("")));
    REFUSED(save, TD_INVALID, "no tensors", SET(tensors, text_of("\n")));
    REFUSED(save, TD_NOT_FOUND, "'c'", SET(tensors, text_of("x=c")));
    REFUSED(save, TD_INVALID, "two tensors are to be called 'x'",
            SET(tensors, text_of("x=m/a\nx=m/b")));
    REFUSED(save, TD_REQUIRES_GRAD, "It is 'a'", SET(prefix, text_of("m")),
            SET(format, text_of("packed")));
    RUN(save, SET(prefix, text_of("m")), SET(format, text_of("packed")), SET(force, true));
    REFUSED(save, TD_UNSUPPORTED, "no metadata", SET(prefix, text_of("m")),
            SET(format, text_of("packed")), SET(metadata, text_of("{}")));
    REFUSED(save, TD_INVALID, "NUL", SET(metadata, ((struct text){"{}\0", 3})));
    REFUSED(save, TD_BAD_DTYPE, "", SET(dtype, TD_BOOL), SET(casting, text_of("safe")));
    REFUSED(save, TD_FORBIDDEN, "--save-dir", SET(path, text_of("x")));
    /* One byte, 2^56 times; as complex128 there are more bytes than any layout has. */
    RUN(expand, INPUT(RUN(zeros, SET(dtype, TD_BOOL), SET(shape, SHAPE(1)))),
        SET(shape, SHAPE(INT64_C(1) << 56)), SET(output, text_of("endless")));
    for (int i = 0; i < 2; i++)
        REFUSED(save, TD_OUT_OF_MEMORY, "expanded view", SET(tensors, text_of("endless")),
                SET(dtype, i ? TD_BOOL : TD_COMPLEX128), SET(format, text_of("packed")));
    REFUSED(save, TD_OUT_OF_MEMORY, "expanded view", SET(tensors, text_of("endless")));
    engine->formats = NULL;
    REFUSED(save, TD_UNSUPPORTED, "no formats", 0);
}

#undef TEST
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_bundles, close_engine)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(views_of_the_body_itself),
        TEST(unaligned_elements_are_moved),
        TEST(packed_files_have_memory_of_their_own),
        TEST(orders_of_numpy),
        TEST(a_file_without_a_name),
        TEST(every_reservation_is_refused_once),
        TEST(a_list_without_memory_is_cut_short),
        TEST(what_load_refuses),
        TEST(save_as_it_lies_in_memory),
        TEST(save_packed),
        TEST(what_save_refuses),
    };
    return cmocka_run_group_tests_name("ops_bundle", tests, NULL, NULL);
}
