/* The paths of the casts, each forced: they give the same bits for every pair at every length and
 * alignment, streaming or not, read nothing past the source and write nothing past the destination.
 * What the bits must be is test_cast's affair. */
#include "core/cast/cast.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define LENGTHS 68
#define VECTOR 32
#define GUARD 64
#define LONG_LENGTH 5000
#define ELEMENT_MAX 16
#define SPACE (LONG_LENGTH * ELEMENT_MAX + 4 * GUARD)

static unsigned char random_bytes[SPACE], source[SPACE], wanted[SPACE], got[SPACE];

static int fill_random(void **state)
{
    uint64_t x = 0x9E3779B97F4A7C15u;
    (void)state;
    for (size_t i = 0; i < SPACE; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        random_bytes[i] = (unsigned char)(x >> 32);
    }
    return 0;
}

static ptrdiff_t size_of(int dtype)
{
    return (ptrdiff_t)td_dtype_size(dtype);
}

static void use(const char *path)
{
    assert_true(cast_path_set(path));
    assert_string_equal(cast_path_name(), path);
}

static void run(int from, int to, const unsigned char *in, unsigned char *out, size_t count,
                unsigned flags)
{
    cast_elements((enum td_dtype)from, (enum td_dtype)to, in, size_of(from), out, size_of(to),
                  count, flags);
}

/* `wanted` has the elements from GUARD on, and says what every byte around them is. */
static void expect_same(int from, int to, size_t count, size_t in_shift, size_t out_shift,
                        unsigned flags)
{
    size_t size = count * (size_t)size_of(to);
    memcpy(source + in_shift, random_bytes, count * (size_t)size_of(from));
    memset(got, 0xA5, size + out_shift + 2 * GUARD);
    run(from, to, source + in_shift, got + GUARD + out_shift, count, flags);
    if (memcmp(got + GUARD + out_shift, wanted + GUARD, size) != 0)
        fail_msg("%s: %s to %s differs: %zu elements, shifted by %zu and %zu, flags %u",
                 cast_path_name(), td_dtype_name(from), td_dtype_name(to), count, in_shift,
                 out_shift, flags);
    for (size_t i = 0; i < GUARD; i++)
        if (got[GUARD + out_shift - 1 - i] != 0xA5 || got[GUARD + out_shift + size + i] != 0xA5)
            fail_msg("%s: %s to %s writes outside: %zu elements, shifted by %zu and %zu, flags %u",
                     cast_path_name(), td_dtype_name(from), td_dtype_name(to), count, in_shift,
                     out_shift, flags);
}

/* What the plain path makes of `count` elements one by one, so that no vector is involved. */
static void make_wanted(int from, int to, size_t count, unsigned flags)
{
    use("plain");
    for (size_t i = 0; i < count; i++)
        run(from, to, random_bytes + (ptrdiff_t)i * size_of(from),
            wanted + GUARD + (ptrdiff_t)i * size_of(to), 1, flags);
}

typedef void (*check_fn)(int from, int to);

static void for_all_pairs_and_paths(check_fn check)
{
    const char *path = NULL;
    for (int from = 1; from < TD_DTYPE_END; from++)
        for (int to = 1; to < TD_DTYPE_END; to++) {
            make_wanted(from, to, LONG_LENGTH, CAST_SATURATE);
            for (size_t i = 0; (path = cast_path_at(i)) != NULL; i++) {
                use(path);
                check(from, to);
            }
        }
}

static void check_lengths(int from, int to)
{
    for (size_t count = 0; count < LENGTHS; count++) {
        size_t in_shift = count * 7 % VECTOR, out_shift = count * 13 % VECTOR;
        expect_same(from, to, count, in_shift, out_shift, CAST_SATURATE);
        expect_same(from, to, count, in_shift, out_shift, CAST_SATURATE | CAST_STREAM);
    }
}

static void every_length(void **state)
{
    (void)state;
    for_all_pairs_and_paths(check_lengths);
}

/* Lengths that are a few vectors and a rest. */
static void check_alignments(int from, int to)
{
    for (size_t in_shift = 0; in_shift < VECTOR; in_shift++)
        for (size_t out_shift = 0; out_shift < VECTOR; out_shift++)
            expect_same(from, to, 37 + in_shift % 7, in_shift, out_shift, CAST_SATURATE);
}

static void every_alignment(void **state)
{
    (void)state;
    for_all_pairs_and_paths(check_alignments);
}

/* More than a block and than a line, from every place in a line. */
static void check_streaming(int from, int to)
{
    for (size_t out_shift = 0; out_shift < GUARD; out_shift += 1 + out_shift % 3) {
        size_t count = LONG_LENGTH - out_shift * 11;
        expect_same(from, to, count, out_shift % 5, out_shift, CAST_SATURATE | CAST_STREAM);
    }
}

static void streaming(void **state)
{
    (void)state;
    for_all_pairs_and_paths(check_streaming);
}

/* Elements apart or backwards, more than a block of them. */
static void check_steps(int from, int to)
{
    const ptrdiff_t count = LONG_LENGTH / 3, in_size = size_of(from), out_size = size_of(to);
    const ptrdiff_t in_step = 2 * in_size + 1, out_step = -2 * out_size;
    unsigned char *last = got + SPACE - ELEMENT_MAX;
    for (ptrdiff_t i = 0; i < count; i++)
        memcpy(source + i * in_step, random_bytes + i * in_size, (size_t)in_size);
    cast_elements((enum td_dtype)from, (enum td_dtype)to, source, in_step, last, out_step,
                  (size_t)count, CAST_SATURATE | CAST_STREAM);
    for (ptrdiff_t i = 0; i < count; i++)
        assert_memory_equal(last + i * out_step, wanted + GUARD + i * out_size, (size_t)out_size);
    cast_elements((enum td_dtype)from, (enum td_dtype)to, source, in_step, got, out_size,
                  (size_t)count, CAST_SATURATE | CAST_STREAM);
    assert_memory_equal(got, wanted + GUARD, (size_t)(count * out_size));
}

static void steps_over_blocks(void **state)
{
    (void)state;
    for_all_pairs_and_paths(check_steps);
}

/* The source ends where the memory does. */
static unsigned char *memory_end;

static void check_end(int from, int to)
{
    for (size_t count = 0; count < LENGTHS; count++) {
        unsigned char *in = memory_end - (ptrdiff_t)count * size_of(from);
        memcpy(in, random_bytes, count * (size_t)size_of(from));
        run(from, to, in, got, count, CAST_SATURATE);
        assert_memory_equal(got, wanted + GUARD, count * (size_t)size_of(to));
    }
}

static void nothing_is_read_past_the_end(void **state)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *pages =
        mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)state;
    assert_true(pages != MAP_FAILED);
    assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
    memory_end = pages + page;
    for_all_pairs_and_paths(check_end);
    munmap(pages, 2 * page);
}

static void paths_have_names(void **state)
{
    size_t count = 0;
    (void)state;
    while (cast_path_at(count))
        count++;
    assert_true(count >= 1);
    assert_string_equal(cast_path_at(count - 1), "plain");
    use("plain");
    assert_false(cast_path_set("none"));
    assert_string_equal(cast_path_name(), "plain");
    assert_null(cast_path_at(SIZE_MAX));
}

/* In processes of their own: the variable is read once. */
static void the_environment_forces_a_path(void **state)
{
    static const char *const values[] = {"plain", "none", ""};
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        const char *expected = i == 0 ? "plain" : cast_path_at(0);
        char command[4200], self[4096] = "";
        assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
        snprintf(command, sizeof command, "TENSORD_CAST_PATH='%s' '%s' %s", values[i], self,
                 expected);
        assert_int_equal(system(command), 0);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) /* as the last test asks */
        return strcmp(cast_path_name(), argv[1]) != 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_length),
        cmocka_unit_test(every_alignment),
        cmocka_unit_test(streaming),
        cmocka_unit_test(steps_over_blocks),
        cmocka_unit_test(nothing_is_read_past_the_end),
        cmocka_unit_test(paths_have_names),
        cmocka_unit_test(the_environment_forces_a_path),
    };
    return cmocka_run_group_tests_name("cast paths", tests, fill_random, NULL);
}
