/* npz: archives written and read in pieces, from memory; damaged, lying and oversized ones; errors
 * of the caller's own functions. tests/semantics/test_formats.py compares with NumPy. */
#include "proto/format/npz.h"

#include "tests/unit/layout_assert.h"

#include <stdlib.h>

#define NO_LIMIT UINT64_MAX
#define NPY_BYTES 128 /* of every header here */

/* -- archives in memory -- */

struct memory {
    unsigned char bytes[1 << 17];
    size_t length;
    size_t piece;     /* read and written at most at once */
    uint64_t fail_at; /* reading or writing past it fails */
    uint64_t expected_offset;
};

static struct memory archive;

static void archive_clear(void)
{
    archive.length = 0;
    archive.piece = sizeof archive.bytes;
    archive.fail_at = UINT64_MAX;
    archive.expected_offset = UINT64_MAX;
}

/* fail() is cmocka's here. */
static enum td_status own_error(enum td_status status, const char *text)
{
    fail_write("%s", text);
    return status;
}

static enum td_status memory_read(void *context, uint64_t offset, void *out, size_t room,
                                  size_t *got)
{
    struct memory *memory = context;
    size_t left = offset < memory->length ? memory->length - offset : 0;
    assert_true(room > 0);
    if (memory->expected_offset != UINT64_MAX) { /* a pipe */
        assert_int_equal(offset, memory->expected_offset);
    }
    *got = left < room ? left : room;
    *got = *got < memory->piece ? *got : memory->piece;
    if (offset + *got > memory->fail_at)
        return own_error(TD_CONNECTION, "the reader's own text");
    memcpy(out, memory->bytes + offset, *got);
    if (memory->expected_offset != UINT64_MAX)
        memory->expected_offset += *got;
    return TD_OK;
}

static enum td_status memory_write(void *context, const void *bytes, size_t length)
{
    struct memory *memory = context;
    assert_true(length <= sizeof memory->bytes - memory->length);
    if (memory->length + length > memory->fail_at)
        return own_error(TD_CONNECTION, "the writer's own text");
    memcpy(memory->bytes + memory->length, bytes, length);
    memory->length += length;
    return TD_OK;
}

static const struct npz_sink sink = {&archive, memory_write};

static struct npz_source source_of(struct memory *memory, bool pipe)
{
    memory->expected_offset = pipe ? 0 : UINT64_MAX;
    return (struct npz_source){memory, memory_read, pipe ? UINT64_MAX : memory->length};
}

/* -- zip files made by hand: stored, with the sizes in front -- */

struct zip {
    unsigned char directory[4096];
    size_t directory_bytes;
    unsigned count;
};

static uint32_t crc_of(const unsigned char *bytes, size_t length)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
    }
    return ~crc;
}

static size_t put(unsigned char *at, int bytes, uint64_t value)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (unsigned char)(value >> 8 * i);
    return (size_t)bytes;
}

/* What the local header and the directory have in common. */
static size_t put_common(unsigned char *at, const char *name, const void *bytes, size_t length,
                         uint32_t crc_error)
{
    size_t n = put(at, 2, 20);     /* version needed */
    n += put(at + n, 2, 1 << 11);  /* names are UTF-8 */
    n += put(at + n, 2, 0);        /* stored */
    n += put(at + n, 4, 0x210000); /* 1980-01-01 */
    n += put(at + n, 4, crc_of(bytes, length) ^ crc_error);
    n += put(at + n, 4, length);
    n += put(at + n, 4, length);
    n += put(at + n, 2, strlen(name));
    return n + put(at + n, 2, 0);
}

static void zip_add(struct zip *zip, const char *name, const void *bytes, size_t length,
                    uint32_t crc_error)
{
    unsigned char *at = archive.bytes + archive.length;
    unsigned char *row = zip->directory + zip->directory_bytes;
    size_t name_bytes = strlen(name), offset = archive.length;
    size_t n = put(at, 4, 0x04034b50);
    n += put_common(at + n, name, bytes, length, crc_error);
    memcpy(at + n, name, name_bytes);
    memcpy(at + n + name_bytes, bytes, length);
    archive.length += n + name_bytes + length;

    n = put(row, 4, 0x02014b50);
    n += put(row + n, 2, 0x0314); /* made by: Unix */
    n += put_common(row + n, name, bytes, length, crc_error);
    n += put(row + n, 2 + 2 + 2, 0); /* comment, disk, attributes */
    n += put(row + n, 4, UINT32_C(0100644) << 16);
    n += put(row + n, 4, offset);
    memcpy(row + n, name, name_bytes);
    zip->directory_bytes += n + name_bytes;
    zip->count++;
    assert_true(zip->directory_bytes < sizeof zip->directory / 2);
}

static void zip_end(const struct zip *zip)
{
    size_t offset = archive.length;
    memcpy(archive.bytes + offset, zip->directory, zip->directory_bytes);
    unsigned char *at = archive.bytes + offset + zip->directory_bytes;
    size_t n = put(at, 4, 0x06054b50);
    n += put(at + n, 4, 0);
    n += put(at + n, 2, zip->count);
    n += put(at + n, 2, zip->count);
    n += put(at + n, 4, zip->directory_bytes);
    n += put(at + n, 4, offset);
    n += put(at + n, 2, 0);
    archive.length = offset + zip->directory_bytes + n;
}

/* A zip of one member: int32 of this many elements by its header, and so many bytes of them. */
static void zip_one(const char *name, int64_t elements, size_t bytes, uint32_t crc_error)
{
    unsigned char npy[NPY_WRITE_MAX + 256] = {0};
    struct zip zip = {.count = 0};
    archive_clear();
    size_t header = npy_write(TD_INT32, &(struct dims){1, {elements}}, npy);
    zip_add(&zip, name, npy, header + bytes, crc_error);
    zip_end(&zip);
}

/* -- visiting -- */

struct visited {
    int count;
    size_t pull; /* at most so many bytes of each member, in pieces */
    size_t piece;
    const char *names[8];
    char name_bytes[8][64];
    struct npz_member members[8];
    unsigned char bytes[8][4096];
    size_t lengths[8];
    enum td_status status; /* what visiting returns after the first member */
};

static struct visited visited;

static enum td_status visit(void *context, struct npz_reader *reader,
                            const struct npz_member *member)
{
    struct visited *v = context;
    int at = v->count++;
    assert_true(at < 8);
    v->members[at] = *member;
    snprintf(v->name_bytes[at], sizeof v->name_bytes[at], "%s", member->name);
    v->lengths[at] = 0;
    while (v->lengths[at] < v->pull) {
        size_t got = 77, room = v->piece;
        room = room < v->pull - v->lengths[at] ? room : v->pull - v->lengths[at];
        TRY(npz_pull(reader, v->bytes[at] + v->lengths[at], room, &got));
        v->lengths[at] += got;
        if (got < room)
            break;
    }
    return v->status == TD_OK ? TD_OK : own_error(v->status, "the visitor's own text");
}

static enum td_status read_archive(bool pipe, uint64_t max_bytes)
{
    struct npz_source source = source_of(&archive, pipe);
    visited.count = 0;
    return npz_read_each(&source, TD_BFLOAT16, max_bytes, visit, &visited);
}

static void visit_all(size_t piece)
{
    visited = (struct visited){.pull = sizeof visited.bytes[0], .piece = piece};
}

/* -- writing -- */

static const struct {
    const char *name;
    enum td_dtype dtype;
    struct dims shape;
    size_t bytes;
} arrays[] = {
    {"plain", TD_FLOAT32, DIMS(2, 3), 24},
    {"nested/gr\xC3\xB6\xC3\x9F"
     "e \xE2\x82\xAC",
     TD_BFLOAT16, DIMS(5), 10},
    {"scalar", TD_COMPLEX128, SCALAR, 16},
    {"empty", TD_INT64, DIMS(0, 4), 0},
    {"a.npy", TD_UINT8, DIMS(3000), 3000},
};

static unsigned char byte_of(size_t array, size_t at)
{
    return (unsigned char)(array * 50 + at % 97);
}

static void write_arrays(bool deflate, size_t piece)
{
    struct npz_writer *writer = NULL;
    archive_clear();
    assert_int_equal(npz_write_begin(&sink, deflate, &writer), TD_OK);
    for (size_t i = 0; i < COUNT(arrays); i++) {
        unsigned char bytes[3000];
        for (size_t at = 0; at < arrays[i].bytes; at++)
            bytes[at] = byte_of(i, at);
        assert_int_equal(
            npz_write_member(writer, arrays[i].name, arrays[i].dtype, &arrays[i].shape), TD_OK);
        for (size_t at = 0; at < arrays[i].bytes; at += piece) {
            size_t left = arrays[i].bytes - at;
            assert_int_equal(npz_write_bytes(writer, bytes + at, left < piece ? left : piece),
                             TD_OK);
        }
    }
    assert_int_equal(npz_write_end(writer), TD_OK);
    npz_write_destroy(writer);
}

static void assert_arrays(void)
{
    assert_int_equal(visited.count, COUNT(arrays));
    for (int i = 0; i < visited.count; i++) {
        const struct npz_member *member = &visited.members[i];
        assert_string_equal(visited.name_bytes[i], arrays[i].name);
        assert_int_equal(member->header.dtype, arrays[i].dtype);
        assert_same_dims("shape", member->header.shape.rank, member->header.shape.v,
                         &arrays[i].shape);
        assert_int_equal(member->data_bytes, arrays[i].bytes);
        assert_int_equal(visited.lengths[i], arrays[i].bytes);
        for (size_t at = 0; at < arrays[i].bytes; at++)
            assert_int_equal(visited.bytes[i][at], byte_of((size_t)i, at));
    }
}

/* -- tests -- */

static void round_trip(void **state)
{
    static const size_t pieces[] = {1, 7, 64, 100000};
    (void)state;
    for (int deflate = 0; deflate < 2; deflate++)
        for (int pipe = 0; pipe < 2; pipe++)
            for (size_t i = 0; i < COUNT(pieces); i++) {
                write_arrays(deflate, pieces[i]);
                archive.piece = pieces[COUNT(pieces) - 1 - i];
                visit_all(pieces[i]);
                if (read_archive(pipe, NO_LIMIT) != TD_OK)
                    fail_msg("deflate %d, pipe %d: %s", deflate, pipe, fail_detail());
                assert_arrays();
            }
}

static void compresses_only_when_asked(void **state)
{
    (void)state;
    write_arrays(false, 100);
    size_t stored = archive.length;
    write_arrays(true, 100);
    assert_true(stored > 3050 + COUNT(arrays) * NPY_BYTES);
    assert_true(archive.length < stored - 2000);
}

static void writes_the_same_bytes_again(void **state)
{
    struct memory *first = malloc(sizeof *first);
    (void)state;
    assert_non_null(first);
    write_arrays(true, 100);
    *first = archive;
    setenv("TZ", "Pacific/Auckland", 1);
    write_arrays(true, 11);
    unsetenv("TZ");
    assert_int_equal(archive.length, first->length);
    assert_memory_equal(archive.bytes, first->bytes, first->length);
    free(first);
}

/* What is not pulled is passed over, however the archive is read. */
static void skips(void **state)
{
    static const size_t pulls[] = {0, 1, 20};
    (void)state;
    for (int deflate = 0; deflate < 2; deflate++)
        for (int pipe = 0; pipe < 2; pipe++)
            for (size_t i = 0; i < COUNT(pulls); i++) {
                write_arrays(deflate, 100);
                visited = (struct visited){.pull = pulls[i], .piece = 3};
                assert_int_equal(read_archive(pipe, NO_LIMIT), TD_OK);
                assert_int_equal(visited.count, COUNT(arrays));
                assert_int_equal(visited.lengths[4], pulls[i]);
                assert_string_equal(visited.name_bytes[4], "a.npy");
            }
}

/* A pipe is read through, and so its checksums are compared all the same. */
static void skips_damage_only_where_it_can(void **state)
{
    (void)state;
    zip_one("x.npy", 2, 8, 1);
    visited = (struct visited){.pull = 0};
    assert_int_equal(read_archive(false, NO_LIMIT), TD_OK);
    assert_int_equal(read_archive(true, NO_LIMIT), TD_INVALID);
    assert_int_equal(visited.count, 1);
}

static void limits(void **state)
{
    static const uint64_t all = 24 + 10 + 16 + 0 + 3000 + 5 * NPY_BYTES;
    (void)state;
    for (int pipe = 0; pipe < 2; pipe++) {
        write_arrays(true, 100);
        visit_all(100);
        assert_int_equal(read_archive(pipe, all), TD_OK);
        assert_failure(read_archive(pipe, all - 1), TD_TOO_LARGE,
                       "member 'a.npy.npy' of the .npz archive has 3128 bytes, with which the "
                       "archive goes over the limit of 3689");
        assert_int_equal(visited.count, 4);
        assert_failure(read_archive(pipe, 0), TD_TOO_LARGE,
                       "member 'plain.npy' of the .npz archive has 152 bytes, with which ...");
        assert_int_equal(visited.count, 0);
    }
}

/* A header that announces an exabyte is refused for that, before anybody makes room. */
static void refuses_what_cannot_be(void **state)
{
    (void)state;
    zip_one("x.npy", INT64_C(1) << 50, 8, 0);
    visit_all(100);
    assert_failure(read_archive(false, INT64_C(1) << 40), TD_TOO_LARGE,
                   "member 'x.npy' of the .npz archive has 4503599627370624 bytes, with which the "
                   "archive goes over the limit of 1099511627776");
    assert_failure(read_archive(false, NO_LIMIT), TD_INVALID,
                   "member 'x.npy' of the .npz archive has 136 bytes; expected 4503599627370624 by "
                   "its header");
    assert_int_equal(visited.count, 0);
}

static void refuses_members(void **state)
{
    static const struct {
        const char *name;
        int64_t elements;
        size_t bytes;
        uint32_t crc_error;
        const char *detail;
    } rows[] = {
        {"x.npy", 2, 8, 0, NULL},
        {".npy", 2, 8, 0, NULL},
        {"x.npy", 2, 7, 0,
         "member 'x.npy' of the .npz archive has 135 bytes; expected 136 by its header"},
        {"x.npy", 2, 9, 0,
         "member 'x.npy' of the .npz archive has 137 bytes; expected 136 by its header"},
        {"x.npy", 2, 8, 1, "member 'x.npy' of the .npz archive cannot be read: ..."},
        {"x.npy", 0, 0, 1, "member 'x.npy' of the .npz archive cannot be read: ..."},
        {"x.txt", 2, 8, 0,
         "member 'x.txt' of the .npz archive is no array: expected a file whose name ends in .npy"},
        {"model/data.pkl", 2, 8, 0,
         "member 'model/data.pkl' of the .npz archive is no array: expected a file whose name ends "
         "in .npy; this is what torch.save writes: torch.load it, and store its tensors or write "
         "them as safetensors"},
        {"x.npy/", 2, 8, 0, "member 'x.npy/' of the .npz archive is no array: ..."},
        {"npy", 2, 8, 0, "member 'npy' of the .npz archive is no array: ..."},
        {"\xC3(.npy", 2, 8, 0, "..."},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++)
        for (int pipe = 0; pipe < 2; pipe++) {
            zip_one(rows[i].name, rows[i].elements, rows[i].bytes, rows[i].crc_error);
            visit_all(100);
            enum td_status status = read_archive(pipe, NO_LIMIT);
            if (rows[i].detail)
                assert_failure(status, TD_INVALID, rows[i].detail);
            else if (status != TD_OK)
                fail_msg("%s: %s", rows[i].name, fail_detail());
        }
}

static void names_the_member_in_errors_of_its_header(void **state)
{
    static const char header[] = "\x93NUMPY\x01\x00\x3b\x00"
                                 "{'descr': '|O', 'fortran_order': False, 'shape': (), }     \n";
    struct zip zip = {.count = 0};
    (void)state;
    archive_clear();
    zip_add(&zip, "o.npy", header, sizeof header - 1, 0);
    zip_end(&zip);
    visit_all(100);
    assert_failure(read_archive(false, NO_LIMIT), TD_BAD_DTYPE,
                   "member 'o.npy' of the .npz archive: the array has dtype '|O' (Python "
                   "objects)...");
    archive_clear();
    zip.count = 0, zip.directory_bytes = 0;
    zip_add(&zip, "short.npy", header, 30, 0);
    zip_end(&zip);
    assert_failure(read_archive(false, NO_LIMIT), TD_INVALID,
                   "member 'short.npy' of the .npz archive ends within its header");
}

static void reads_no_arrays(void **state)
{
    struct zip none = {.count = 0};
    (void)state;
    archive_clear();
    visit_all(100);
    assert_failure(read_archive(false, NO_LIMIT), TD_INVALID,
                   "this is no .npz archive, or it is damaged: ...");
    assert_int_equal(read_archive(true, NO_LIMIT), TD_INVALID);
    archive.length = 1000;
    memset(archive.bytes, 'x', 1000);
    assert_int_equal(read_archive(false, NO_LIMIT), TD_INVALID);
    assert_int_equal(read_archive(true, NO_LIMIT), TD_INVALID);
    archive_clear();
    zip_end(&none);
    assert_int_equal(read_archive(false, NO_LIMIT), TD_OK);
    assert_int_equal(read_archive(true, NO_LIMIT), TD_OK);
    assert_int_equal(visited.count, 0);
}

/* The directory comes last: without its end there is no archive, but a pipe has had its arrays. */
static void cut_anywhere(void **state)
{
    (void)state;
    write_arrays(true, 100);
    for (size_t length = 0; length < archive.length; length++) {
        struct npz_source source = source_of(&archive, false);
        source.size_bytes = length;
        size_t whole = archive.length;
        archive.length = length;
        visit_all(1000);
        assert_int_equal(npz_read_each(&source, TD_BFLOAT16, NO_LIMIT, visit, &visited),
                         TD_INVALID);
        visit_all(1000);
        if (read_archive(true, NO_LIMIT) == TD_OK)
            assert_arrays();
        archive.length = whole;
    }
}

/* Whatever changes, nothing is read or written out of bounds (the address sanitizer looks). */
static void changed_anywhere(void **state)
{
    (void)state;
    for (int deflate = 0; deflate < 2; deflate++) {
        write_arrays(deflate, 100);
        for (size_t at = 0; at < archive.length; at++)
            for (int pipe = 0; pipe < 2; pipe++) {
                archive.bytes[at] ^= 0xFF;
                visit_all(1000);
                enum td_status status = read_archive(pipe, 8192);
                assert_true(status == TD_OK || status == TD_INVALID || status == TD_BAD_DTYPE ||
                            status == TD_UNSUPPORTED || status == TD_TOO_LARGE ||
                            status == TD_BAD_SHAPE);
                archive.bytes[at] ^= 0xFF;
            }
    }
}

static void forwards_errors(void **state)
{
    (void)state;
    for (int pipe = 0; pipe < 2; pipe++) {
        write_arrays(false, 100);
        archive.piece = 100;
        archive.fail_at = 1000;
        visit_all(100);
        assert_failure(read_archive(pipe, NO_LIMIT), TD_CONNECTION, "the reader's own text");
        archive.fail_at = UINT64_MAX;
        visited.status = TD_CONFLICT;
        assert_failure(read_archive(pipe, NO_LIMIT), TD_CONFLICT, "the visitor's own text");
        assert_int_equal(visited.count, 1);
    }
}

static void forwards_errors_of_the_sink(void **state)
{
    static const uint64_t places[] = {0, 1, 70000};
    unsigned char bytes[1000] = {0};
    (void)state;
    for (size_t i = 0; i < COUNT(places); i++) {
        struct npz_writer *writer = NULL;
        archive_clear();
        archive.fail_at = places[i];
        assert_int_equal(npz_write_begin(&sink, false, &writer), TD_OK);
        enum td_status status =
            npz_write_member(writer, "x", TD_UINT8, &(struct dims){1, {100 * sizeof bytes}});
        for (int k = 0; status == TD_OK && k < 100; k++)
            status = npz_write_bytes(writer, bytes, sizeof bytes);
        if (status == TD_OK)
            status = npz_write_end(writer);
        assert_failure(status, TD_CONNECTION, "the writer's own text");
        npz_write_destroy(writer);
        assert_true(archive.length <= places[i]);
    }
}

static void counts_what_is_written(void **state)
{
    char name[NPZ_NAME_MAX + 2];
    unsigned char bytes[16] = {0};
    struct npz_writer *writer = NULL;
    (void)state;
    archive_clear();
    assert_int_equal(npz_write_begin(&sink, false, &writer), TD_OK);
    memset(name, 'n', sizeof name);
    name[NPZ_NAME_MAX + 1] = '\0';
    assert_failure(npz_write_member(writer, name, TD_UINT8, &(struct dims)SCALAR), TD_INVALID,
                   "the name 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...' has "
                   "more than 4096 bytes, too many for an .npz archive");
    assert_int_equal(npz_write_member(writer, "x", TD_INT64, &(struct dims)DIMS(-1)), TD_BAD_SHAPE);
    name[NPZ_NAME_MAX] = '\0';
    assert_int_equal(npz_write_member(writer, name, TD_INT32, &(struct dims)DIMS(2)), TD_OK);
    assert_failure(npz_write_bytes(writer, bytes, 9), TD_INVALID, "9 bytes for 'nnn...");
    assert_int_equal(npz_write_bytes(writer, bytes, 7), TD_OK);
    assert_failure(npz_write_end(writer), TD_INVALID, "'nnn...");
    assert_failure(npz_write_member(writer, "y", TD_INT32, &(struct dims)SCALAR), TD_INVALID,
                   "'nnn...");
    assert_int_equal(npz_write_bytes(writer, bytes, 1), TD_OK);
    assert_failure(npz_write_bytes(writer, bytes, 1), TD_INVALID, "1 bytes for 'nnn...");
    assert_int_equal(npz_write_end(writer), TD_OK);
    npz_write_destroy(writer);
    npz_write_destroy(NULL);
}

/* Given up, it leaves nothing that could pass for an archive. */
static void unfinished(void **state)
{
    struct npz_writer *writer = NULL;
    (void)state;
    archive_clear();
    assert_int_equal(npz_write_begin(&sink, false, &writer), TD_OK);
    assert_int_equal(npz_write_member(writer, "x", TD_INT32, &(struct dims)SCALAR), TD_OK);
    assert_int_equal(npz_write_bytes(writer, "\0\0\0", 4), TD_OK);
    npz_write_destroy(writer);
    assert_int_equal(archive.length, 0); /* all of it was still being gathered */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(compresses_only_when_asked),
        cmocka_unit_test(writes_the_same_bytes_again),
        cmocka_unit_test(skips),
        cmocka_unit_test(skips_damage_only_where_it_can),
        cmocka_unit_test(limits),
        cmocka_unit_test(refuses_what_cannot_be),
        cmocka_unit_test(refuses_members),
        cmocka_unit_test(names_the_member_in_errors_of_its_header),
        cmocka_unit_test(reads_no_arrays),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(changed_anywhere),
        cmocka_unit_test(forwards_errors),
        cmocka_unit_test(forwards_errors_of_the_sink),
        cmocka_unit_test(counts_what_is_written),
        cmocka_unit_test(unfinished),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
