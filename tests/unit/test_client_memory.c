/* The memory of libtensord: shared blocks, the caller's own memory, gathering, DLPack. */
#include "client/dlpack.h"
#include "client/internal.h"
#include "tests/unit/mock_daemon.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct mock_daemon mock;
static struct td_client *client;

static int start(void **state)
{
    (void)state;
    mock_start(&mock, false);
    return td_connect(mock.url, NULL, &client) == TD_OK ? 0 : -1;
}

static int start_tcp(void **state)
{
    (void)state;
    mock_start(&mock, true);
    return td_connect(mock.url, NULL, &client) == TD_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    td_close(client);
    mock_stop(&mock);
    return 0;
}

/* ---- shared blocks ------------------------------------------------------------------------- */

static void test_alloc(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4096, 4097, 100000, 2 << 20, (5 << 20) + 17};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const void *base;
        size_t size;
        int fd;
        char *memory = td_shared_alloc(sizes[i]);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % (sizes[i] >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 4096),
                         0);
        assert_true(region_find(memory, &base, &size, &fd));
        assert_ptr_equal(base, memory);
        assert_true(size >= sizes[i] && size % 4096 == 0 && size > 0);
        for (size_t at = 0; at < sizes[i]; at++)
            if (memory[at] != 0)
                fail_msg("byte %zu is not zero", at);
        struct stat file;
        assert_int_equal(fstat(fd, &file), 0);
        assert_int_equal(file.st_size, size);
        assert_int_equal(file.st_blocks * 512, size); /* all of it allocated */
        assert_int_equal(file.st_mode & 0777, 0600);
        int seals = fcntl(fd, F_GET_SEALS);
        assert_int_equal(seals, F_SEAL_SHRINK | F_SEAL_GROW);
        assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
        close(fd);
        assert_true(td_shared_owns(memory + size - 1));
        td_shared_free(memory);
        assert_false(td_shared_owns(memory));
    }
}

static void test_alloc_too_much(void **state)
{
    (void)state;
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 4096, (size_t)1 << 62, (size_t)1 << 45};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        errno = 0;
        assert_null(td_shared_alloc(sizes[i]));
        assert_int_equal(errno, ENOMEM);
    }
}

static void test_many_regions(void **state)
{
    (void)state;
    char *blocks[300];
    int here;
    for (int i = 0; i < 300; i++)
        assert_non_null(blocks[i] = td_shared_alloc(1));
    for (int i = 0; i < 300; i += 2)
        td_shared_free(blocks[i]);
    for (int i = 0; i < 300; i++)
        assert_int_equal(td_shared_owns(blocks[i] + 100), i % 2);
    assert_false(td_shared_owns(NULL));
    assert_false(td_shared_owns(&here));
    for (int i = 1; i < 300; i += 2)
        td_shared_free(blocks[i]);
}

static void test_blocks(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 100, (2 << 20) - 1, 2 << 20, 3 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *block = block_alloc(sizes[i]);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        memset(block, 1, sizes[i]);
        block_free(block, sizes[i]);
    }
    assert_null(block_alloc(SIZE_MAX));
    assert_null(block_alloc((size_t)1 << 50));
}

/* ---- gather -------------------------------------------------------------------------------- */

/* Element by element, the slow way. */
static void gather_plainly(size_t element, int rank, const int64_t *shape, const int64_t *strides,
                           const char *first, char *out)
{
    int64_t total = 1;
    for (int d = 0; d < rank; d++)
        total *= shape[d];
    for (int64_t i = 0; i < total; i++) {
        int64_t rest = i, at = 0;
        for (int d = rank - 1; d >= 0; d--) {
            at += rest % shape[d] * strides[d];
            rest /= shape[d];
        }
        memcpy(out + (size_t)i * element, first + at * (int64_t)element, element);
    }
}

static void test_gather(void **state)
{
    (void)state;
    static const struct {
        int rank;
        int64_t shape[4], strides[4];
        int64_t first;
    } rows[] = {
        {0, {0}, {0}, 0},
        {1, {5}, {1}, 0},
        {1, {5}, {3}, 0},
        {1, {5}, {-2}, 20},
        {1, {5}, {0}, 3},
        {2, {3, 4}, {4, 1}, 0},
        {2, {3, 4}, {1, 3}, 0},
        {2, {3, 4}, {8, 1}, 2},
        {2, {3, 4}, {-4, 1}, 40},
        {2, {3, 4}, {4, -1}, 40},
        {2, {1, 4}, {100, 2}, 0},
        {3, {2, 3, 4}, {12, 4, 1}, 0},
        {3, {2, 3, 4}, {24, 4, 1}, 0},
        {3, {2, 3, 4}, {1, 2, 6}, 0},
        {3, {2, 1, 4}, {0, 7, 1}, 5},
        {4, {2, 2, 2, 3}, {12, 24, 3, 1}, 0},
        {4, {2, 0, 2, 3}, {12, 24, 3, 1}, 0},
    };
    static const size_t elements[] = {1, 2, 4, 8, 16};
    char source[64 * 16], fast[64 * 16], slow[64 * 16];
    for (size_t i = 0; i < sizeof source; i++)
        source[i] = (char)(i * 7 % 251);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (size_t e = 0; e < sizeof elements / sizeof *elements; e++) {
            const char *first = source + (size_t)rows[r].first * elements[e];
            memset(fast, 0, sizeof fast);
            memset(slow, 0, sizeof slow);
            gather(elements[e], rows[r].rank, rows[r].shape, rows[r].strides, first, fast);
            gather_plainly(elements[e], rows[r].rank, rows[r].shape, rows[r].strides, first, slow);
            assert_memory_equal(fast, slow, sizeof fast);
        }
}

/* ---- the caller's own memory --------------------------------------------------------------- */

static void test_from_shared_memory(void **state)
{
    (void)state;
    int64_t shape[2] = {3, 4}, strides[2] = {20, 2}, backwards[2] = {20, -2};
    float *values = td_shared_alloc(100 * sizeof *values);
    struct td_reply *reply;
    struct td_info info;
    assert_int_equal(
        td_from_memory(client, "m", TD_FLOAT32, 2, shape, strides, values + 5, true, &reply),
        TD_OK);
    assert_int_equal(td_reply_info(reply, &info), TD_OK);
    assert_string_equal(info.memory, "shared");
    assert_true(values[5] == 1); /* the mock adds 1 to the first element */
    td_reply_free(reply);
    assert_int_equal(
        td_from_memory(client, "m", TD_FLOAT32, 2, shape, backwards, values + 50, true, NULL),
        TD_BAD_SHAPE);
    /* past the end of the page that the block has */
    assert_int_equal(
        td_from_memory(client, "m", TD_FLOAT32, 2, shape, strides, values + 1000, true, NULL),
        TD_BAD_SHAPE);
    td_shared_free(values);
}

static void test_from_heap(void **state)
{
    (void)state;
    int64_t shape[2] = {3, 4}, strides[2] = {1, 3};
    float values[12], back[12];
    size_t size = sizeof back;
    struct td_reply *reply;
    struct td_info info;
    for (int i = 0; i < 12; i++)
        values[i] = (float)i;
    assert_int_equal(
        td_from_memory(client, NULL, TD_FLOAT32, 2, shape, strides, values, true, NULL),
        TD_UNSUPPORTED);
    assert_non_null(strstr(td_last_error(), "td_shared_alloc"));
    assert_int_equal(
        td_from_memory(client, NULL, TD_FLOAT32, 2, shape, strides, values, false, &reply), TD_OK);
    assert_int_equal(td_reply_info(reply, &info), TD_OK);
    assert_string_equal(info.memory, "copied");
    td_reply_free(reply);
    assert_int_equal(td_get(client, "numpy", TD_DTYPE_NONE, back, &size, NULL), TD_OK);
    for (int i = 0; i < 12; i++)
        assert_true(back[i] == (float)(i / 4 + i % 4 * 3)); /* transposed */
    assert_int_equal(td_from_memory(client, NULL, TD_FLOAT32, 2, shape, NULL, NULL, false, NULL),
                     TD_INVALID);
}

static void test_from_memory_tcp(void **state)
{
    (void)state;
    int64_t n = 10;
    float *values = td_shared_alloc(100 * sizeof *values);
    assert_int_equal(td_from_memory(client, NULL, TD_FLOAT32, 1, &n, NULL, values, true, NULL),
                     TD_UNSUPPORTED);
    assert_non_null(strstr(td_last_error(), "Unix socket"));
    assert_int_equal(td_from_memory(client, NULL, TD_FLOAT32, 1, &n, NULL, values, false, NULL),
                     TD_OK);
    assert_int_equal(atomic_load(&mock.descriptors_in), 0);
    td_shared_free(values);
}

/* ---- DLPack -------------------------------------------------------------------------------- */

static struct td_mapping *map_ramp(const char *name, int64_t n, unsigned put, unsigned flags)
{
    float values[1000];
    struct td_mapping *mapping;
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)i;
    assert_int_equal(td_put(client, name, TD_FLOAT32, 1, &n, values, put, NULL), TD_OK);
    assert_int_equal(td_map(client, name, flags, &mapping), TD_OK);
    return mapping;
}

static void test_dlpack_out(void **state)
{
    (void)state;
    DLManagedTensorVersioned *v;
    DLManagedTensor *plain = NULL;
    struct td_mapping *mapping = map_ramp("x", 1000, 0, 0);
    assert_int_equal(td_dlpack(mapping, &plain), TD_UNSUPPORTED);
    assert_null(plain);
    assert_int_equal(td_dlpack_versioned(mapping, &v), TD_OK);
    assert_int_equal(v->version.major, 1);
    assert_int_equal(v->flags, DLPACK_FLAG_BITMASK_READ_ONLY);
    assert_int_equal(v->dl_tensor.ndim, 1);
    assert_int_equal(v->dl_tensor.shape[0], 1000);
    assert_int_equal(v->dl_tensor.strides[0], 1);
    assert_int_equal(v->dl_tensor.device.device_type, kDLCPU);
    assert_int_equal(v->dl_tensor.dtype.code, kDLFloat);
    assert_int_equal(v->dl_tensor.dtype.bits, 32);
    assert_int_equal(v->dl_tensor.dtype.lanes, 1);
    assert_true(((float *)v->dl_tensor.data)[7] == 7);
    v->deleter(v); /* ends the mapping */

    mapping = map_ramp("small", 4, 0, 0);
    assert_int_equal(td_dlpack_versioned(mapping, &v), TD_OK);
    assert_int_equal(v->flags, DLPACK_FLAG_BITMASK_IS_COPIED);
    v->deleter(v);

    mapping = map_ramp("m", 1000, TD_PUT_MUTABLE, TD_MAP_WRITE);
    assert_int_equal(td_dlpack(mapping, &plain), TD_OK);
    ((float *)plain->dl_tensor.data)[0] = 3;
    plain->deleter(plain);
}

static void test_dlpack_in(void **state)
{
    (void)state;
    int16_t values[6] = {1, 2, 3, 4, 5, 6}, back[6], reversed[6] = {6, 5, 4, 3, 2, 1};
    int64_t shape[2] = {2, 3}, strides[2] = {-3, -1};
    size_t size = sizeof back;
    DLManagedTensorVersioned tensor = {
        .version = {1, 0},
        .dl_tensor = {.data = values,
                      .device = {kDLCPU, 0},
                      .ndim = 2,
                      .shape = shape,
                      .dtype = {kDLInt, 16, 1}},
    };
    assert_int_equal(td_put_dlpack(client, "d", &tensor, 0, NULL), TD_OK);
    assert_int_equal(td_get(client, "d", TD_DTYPE_NONE, back, &size, NULL), TD_OK);
    assert_memory_equal(back, values, sizeof back);
    tensor.dl_tensor.strides = strides;
    tensor.dl_tensor.byte_offset = 5 * sizeof *values;
    assert_int_equal(td_put_dlpack(client, "d", &tensor, 0, NULL), TD_OK);
    assert_int_equal(td_get(client, "d", TD_DTYPE_NONE, back, &size, NULL), TD_OK);
    assert_memory_equal(back, reversed, sizeof back);

    tensor.dl_tensor.dtype.lanes = 2;
    assert_int_equal(td_put_dlpack(client, "d", &tensor, 0, NULL), TD_BAD_DTYPE);
    tensor.dl_tensor.dtype.lanes = 1;
    tensor.dl_tensor.device.device_type = kDLCUDA;
    assert_int_equal(td_put_dlpack(client, "d", &tensor, 0, NULL), TD_WRONG_DEVICE);
    tensor.dl_tensor.device.device_type = kDLCPU;
    tensor.dl_tensor.ndim = 33;
    assert_int_equal(td_put_dlpack(client, "d", &tensor, 0, NULL), TD_BAD_SHAPE);
    tensor.dl_tensor.ndim = 2;
    tensor.dl_tensor.data = NULL;
    assert_int_equal(td_put_dlpack(client, "d", &tensor, 0, NULL), TD_INVALID);
    tensor.version.major = 2;
    assert_int_equal(td_put_dlpack(client, "d", &tensor, 0, NULL), TD_UNSUPPORTED);
}

/* Every dtype goes out under a code that comes back as itself. */
static void test_dlpack_dtypes(void **state)
{
    (void)state;
    char element[16] = {0};
    for (int d = 1; d < TD_DTYPE_END; d++) {
        struct td_mapping *mapping;
        DLManagedTensorVersioned *v;
        struct td_reply *reply;
        struct td_info info;
        assert_int_equal(td_put(client, "x", (enum td_dtype)d, 0, NULL, element, 0, NULL), TD_OK);
        assert_int_equal(td_map(client, "x", 0, &mapping), TD_OK);
        assert_int_equal(td_dlpack_versioned(mapping, &v), TD_OK);
        assert_int_equal(td_put_dlpack(client, "y", v, 0, &reply), TD_OK);
        assert_int_equal(td_reply_info(reply, &info), TD_OK);
        assert_int_equal(info.dtype, d);
        assert_int_equal(info.rank, 0);
        td_reply_free(reply);
        v->deleter(v);
    }
}

#define MOCKED(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_alloc_too_much),
        cmocka_unit_test(test_many_regions),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_gather),
        MOCKED(test_from_shared_memory),
        MOCKED(test_from_heap),
        cmocka_unit_test_setup_teardown(test_from_memory_tcp, start_tcp, stop),
        MOCKED(test_dlpack_out),
        MOCKED(test_dlpack_in),
        MOCKED(test_dlpack_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
