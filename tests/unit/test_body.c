/* body: a tensor's elements piece by piece are those that a plain loop over it gives, whatever its
 * layout, dtype and device, in memory of bounded size; and several parts come one after the other.
 */
#include "core/body.h"
#include "core/cast/cast.h"
#include "tests/unit/core_assert.h"

#include <inttypes.h>
#include <stdlib.h>

static struct host host;

static int open_host(void **state)
{
    (void)state;
    host_open(&host, 16 * MIB, 0);
    return 0;
}

static int close_host(void **state)
{
    (void)state;
    host_close(&host);
    return 0;
}

/* -- a device whose bytes no host pointer reaches -- */

#define ALLOCATIONS 4

static struct {
    const struct memory *memory;
    unsigned char *bytes;
    size_t size;
} there[ALLOCATIONS];
static int downloads, converts;

static unsigned char *bytes_there(const struct memory *memory, uint64_t offset, uint64_t size)
{
    for (int i = 0; i < ALLOCATIONS; i++)
        if (there[i].memory == memory) {
            assert_true(offset + size <= there[i].size);
            return there[i].bytes + offset;
        }
    fail_msg("memory that is not of the other device was given to it");
    return NULL;
}

static enum td_status there_alloc(struct device *device, size_t size, bool clear,
                                  struct memory *out)
{
    memset(out, 0, sizeof *out);
    out->fd = out->read_fd = -1;
    TRY(ledger_reserve(device->ledger, size, 0, 0));
    out->charged_bytes = size;
    for (int i = 0; i < ALLOCATIONS; i++)
        if (!there[i].memory) {
            there[i].memory = out;
            there[i].size = size;
            there[i].bytes = calloc(1, size + 1);
            memset(there[i].bytes, clear ? 0 : 0xCD, size);
            return TD_OK;
        }
    fail_write("the other device is full");
    return TD_OUT_OF_MEMORY;
}

static void there_free(struct device *device, struct memory *memory)
{
    ledger_release(device->ledger, memory->charged_bytes, 0, 0);
    for (int i = 0; i < ALLOCATIONS; i++)
        if (there[i].memory == memory) {
            free(there[i].bytes);
            there[i].memory = NULL;
        }
}

static enum td_status there_download(struct device *device, const struct memory *memory,
                                     uint64_t offset, void *to, size_t size)
{
    (void)device;
    downloads++;
    memcpy(to, bytes_there(memory, offset, size), size);
    return TD_OK;
}

static enum td_status there_convert(struct device *device, const struct layout *src,
                                    const struct memory *src_memory, const struct layout *dst,
                                    struct memory *dst_memory, bool saturate)
{
    struct memory from = {.fd = -1}, to = {.fd = -1};
    struct device *cpu = device->state;
    converts++;
    atomic_init(&from.data, bytes_there(src_memory, 0, 0));
    atomic_init(&to.data, bytes_there(dst_memory, 0, (uint64_t)layout_nbytes(dst)));
    return cpu->ops->convert(cpu, src, &from, dst, &to, saturate);
}

static const struct device_ops there_ops = {
    .alloc = there_alloc, .free = there_free, .download = there_download, .convert = there_convert};

static struct device other_device(void)
{
    return (struct device){
        .name = "cuda:0", .ops = &there_ops, .ledger = &host.ledger, .state = host.cpu};
}

/* -- tensors -- */

/* The bytes are `bytes`, wherever they lie. */
static struct tensor *tensor_over(struct device *device, const struct layout *layout,
                                  const unsigned char *bytes, size_t size)
{
    struct storage *storage;
    struct tensor *tensor;
    assert_ok(storage_create(device, NULL, size, false, &storage));
    memcpy(device_is_cpu(device) ? storage->memory.data : bytes_there(&storage->memory, 0, size),
           bytes, size);
    storage_finish(storage, STORAGE_FROZEN);
    assert_ok(tensor_create(storage, layout, &tensor));
    storage_unref(storage);
    return tensor;
}

static struct layout contiguous(enum td_dtype dtype, struct dims shape)
{
    struct layout layout;
    assert_ok(layout_contiguous(dtype, &shape, &layout));
    return layout;
}

#define SHAPE(...)                                                                                 \
    ((struct dims){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})

/* The elements in C order, one at a time. */
static unsigned char *plain_loop(const struct layout *layout, const unsigned char *bytes,
                                 enum td_dtype dtype, bool saturate)
{
    ptrdiff_t from_size = (ptrdiff_t)dtype_infos[layout->dtype].size_bytes;
    size_t to_size = dtype_infos[dtype].size_bytes;
    unsigned char *out = calloc((size_t)layout->elements + 1, to_size);
    for (int64_t i = 0; i < layout->elements; i++) {
        int64_t rest = i, offset = 0;
        for (int d = layout->rank - 1; d >= 0; d--) {
            offset += rest % layout->shape[d] * layout->strides[d];
            rest /= layout->shape[d];
        }
        cast_elements(layout->dtype, dtype, bytes + layout->offset_bytes + offset * from_size,
                      from_size, out + (size_t)i * to_size, (ptrdiff_t)to_size, 1, saturate);
    }
    return out;
}

/* Not prepared yet. */
static struct body *body_of(struct tensor *tensor, enum td_dtype dtype, bool saturate,
                            size_t block_bytes)
{
    struct body *body;
    assert_ok(body_create(host.cpu, block_bytes, &body));
    assert_ok(body_add_tensor(body, tensor, dtype, saturate));
    return body;
}

/* Reads all blocks, none larger than it may be, and compares them. Returns how many there were. */
static int assert_blocks(struct tensor *tensor, enum td_dtype dtype, bool saturate,
                         size_t block_bytes, const unsigned char *wanted)
{
    size_t element = dtype_infos[dtype].size_bytes, done = 0, size;
    size_t total = (size_t)tensor->layout.elements * element;
    const void *data;
    struct body *body;
    int count = 0;
    body = body_of(tensor, dtype, saturate, block_bytes);
    assert_int_equal(body_total_bytes(body), total);
    assert_ok(body_prepare(body, NULL));
    for (;; count++) {
        size_t work = body_work_bytes(body);
        assert_ok(body_next(body, &data, &size));
        if (size == 0)
            break;
        size_t from = dtype_infos[tensor->layout.dtype].size_bytes;
        size_t computed = size / element * (from > element ? from : element);
        assert_int_equal(work, body_in_place(tensor, dtype) ? 0 : computed);
        assert_int_equal(size % element, 0);
        assert_true(size <= total - done);
        assert_true(body_in_place(tensor, dtype) || size <= block_bytes || size == element);
        assert_memory_equal(data, wanted + done, size);
        done += size;
    }
    assert_int_equal(done, total);
    assert_ok(body_next(body, &data, &size)); /* the end stays the end */
    assert_int_equal(size, 0);
    body_destroy(body);
    return count;
}

/* -- random layouts -- */

static uint64_t random_state = 1;

static int64_t below(int64_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int64_t)(random_state >> 33) % n;
}

static enum td_dtype any_dtype(void)
{
    return (enum td_dtype)(1 + below(TD_DTYPE_COUNT));
}

/* A view of a view ... of a contiguous layout. */
static struct layout any_layout(enum td_dtype dtype)
{
    struct dims shape = {.rank = (int)below(6)};
    for (int d = 0; d < shape.rank; d++)
        shape.v[d] = below(8) ? 1 + below(6) : below(2);
    struct layout layout = contiguous(dtype, shape);
    for (int64_t steps = below(4); steps > 0 && layout.rank > 0; steps--) {
        int64_t dim = below(layout.rank);
        struct index_item slice = {INDEX_SLICE, below(3), INDEX_NONE, 1 + below(2)};
        struct dims wide = {.rank = layout.rank + (int)below(2)};
        switch (below(4)) {
        case 0:
            assert_ok(layout_transpose(&layout, dim, below(layout.rank), &layout));
            break;
        case 1:
            assert_ok(layout_slice(&layout, dim, &slice, &layout));
            break;
        case 2:
            if (layout.shape[dim] > 0)
                assert_ok(layout_select(&layout, dim, below(layout.shape[dim]), &layout));
            break;
        default:
            for (int d = 0; d < wide.rank; d++) {
                int old = d - (wide.rank - layout.rank);
                bool free = old < 0 || layout.shape[old] == 1;
                wide.v[d] = free ? 1 + below(4) : layout.shape[old];
            }
            assert_ok(layout_expand(&layout, &wide, &layout));
        }
    }
    return layout;
}

static void random_layouts(void **state)
{
    unsigned char bytes[8 * 6 * 6 * 6 * 6 * 6];
    int in_place = 0, several = 0;
    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)below(256);
    for (int round = 0; round < 10000; round++) {
        enum td_dtype from = any_dtype(), to = below(3) ? any_dtype() : from;
        struct layout layout = any_layout(from);
        struct device other = other_device();
        struct device *device = below(3) ? host.cpu : &other;
        size_t size = (size_t)(layout.offset_bytes + layout_span_bytes(&layout));
        bool saturate = below(2);
        if (size > sizeof bytes)
            continue;
        size_t block_bytes = (size_t)(below(4) ? 1 + below(200) : below(100000));
        struct tensor *tensor = tensor_over(device, &layout, bytes, size);
        unsigned char *wanted = plain_loop(&layout, bytes, to, saturate);
        int count = assert_blocks(tensor, to, saturate, block_bytes, wanted);
        several += count > 1;
        in_place += device == host.cpu && from == to && layout_is_contiguous(&layout);
        free(wanted);
        tensor_unref(tensor);
    }
    fprintf(stderr, "%d %d\n", in_place, several);
    assert_true(in_place > 100 && several > 1000); /* or it proves little */
}

/* -- where blocks end -- */

static void sizes_of_blocks(void **state)
{
    static const struct {
        struct dims shape;
        size_t block; /* elements */
        int count;
    } rows[] = {
        {{1, {10}}, 10, 1},        {{1, {10}}, 100, 1},
        {{1, {10}}, 4, 3},         {{1, {10}}, 1, 10},
        {{2, {4, 5}}, 20, 1},      {{2, {4, 5}}, 19, 2}, /* three rows, one row */
        {{2, {4, 5}}, 5, 4},       {{2, {4, 5}}, 4, 8},  /* less than a row: 4 and 1 */
        {{2, {4, 5}}, 0, 20},                            /* taken as one element */
        {{3, {2, 1, 5}}, 5, 2},    {{3, {2, 3, 5}}, 15, 2},
        {{3, {2, 3, 5}}, 10, 4},                     /* two rows and one, twice */
        {{4, {1, 1, 1, 1}}, 1, 1}, {{0, {0}}, 1, 1}, /* a single number */
        {{1, {0}}, 1, 0},          {{3, {2, 0, 5}}, 7, 0},
    };
    unsigned char bytes[64];
    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)i;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct layout layout = contiguous(TD_UINT8, rows[i].shape);
        struct tensor *tensor = tensor_over(host.cpu, &layout, bytes, sizeof bytes);
        unsigned char *wanted = plain_loop(&layout, bytes, TD_INT32, false);
        int count = assert_blocks(tensor, TD_INT32, false, rows[i].block * 4, wanted);
        if (count != rows[i].count)
            fail_msg("row %zu: %d blocks, not %d", i, count, rows[i].count);
        free(wanted);
        tensor_unref(tensor);
    }
}

static void in_place(void **state)
{
    const void *data;
    size_t size;
    struct body *body;
    (void)state;
    struct tensor *tensor = bytes_tensor(host.cpu, 100000);
    uint64_t used = host.ledger.used.memory_bytes;
    body = body_of(tensor, TD_UINT8, false, 10);
    assert_int_equal(atomic_load(&tensor->refs), 2); /* held */
    assert_ok(body_prepare(body, NULL));
    const unsigned char *bytes = tensor_data(tensor);
    tensor_unref(tensor);
    assert_ok(body_next(body, &data, &size));
    assert_ptr_equal(data, bytes);
    assert_int_equal(size, 100000);
    assert_ok(body_next(body, &data, &size));
    assert_int_equal(size, 0);
    assert_int_equal(host.ledger.used.memory_bytes, used); /* no buffer */
    body_destroy(body);
    body_destroy(NULL);
}

/* -- memory -- */

/* More elements than 4 GiB hold, of a storage of 8 bytes: only a buffer is ever there. */
static void expanded_without_end(void **state)
{
    static const size_t block_bytes = 100000;
    struct dims wide = SHAPE(3, INT64_C(1) << 33, 2);
    struct layout layout = contiguous(TD_FLOAT32, SHAPE(1, 2));
    float values[2] = {1.5F, -2.5F};
    struct body *body;
    (void)state;
    assert_ok(layout_expand(&layout, &wide, &layout));
    for (int where = 0; where < 2; where++) {
        struct device other = other_device();
        struct tensor *tensor = tensor_over(where ? &other : host.cpu, &layout,
                                            (const unsigned char *)values, sizeof values);
        uint64_t used = host.ledger.used.memory_bytes;
        body = body_of(tensor, TD_COMPLEX128, false, block_bytes);
        assert_int_equal(body_total_bytes(body), UINT64_C(6) * 16 << 33);
        assert_int_equal(host.ledger.used.memory_bytes, used); /* not before it is prepared */
        host.ledger.peak_bytes = used;
        assert_ok(body_prepare(body, NULL));
        for (int i = 0; i < 50; i++) {
            const void *data;
            const double *got;
            size_t size;
            assert_ok(body_next(body, &data, &size));
            assert_int_equal(size, 6250 * 16);
            got = data;
            for (size_t k = 0; k < size / 8; k += 4)
                assert_true(got[k] == 1.5 && got[k + 1] == 0 && got[k + 2] == -2.5);
        }
        /* The host's buffer is rounded up to a size class, by an eighth at most. */
        uint64_t most = block_bytes + block_bytes / 8 + (where ? block_bytes : 0);
        assert_in_range(host.ledger.peak_bytes - used, block_bytes, most);
        body_destroy(body);
        assert_int_equal(host.ledger.used.memory_bytes, used);
        tensor_unref(tensor);
    }
}

/* No buffer is larger than all elements are. */
static void small_tensors_have_small_buffers(void **state)
{
    struct body *body;
    const void *data;
    size_t size;
    (void)state;
    struct tensor *tensor = bytes_tensor(host.cpu, 10);
    uint64_t used = host.ledger.used.memory_bytes;
    body = body_of(tensor, TD_FLOAT64, false, SIZE_MAX);
    assert_ok(body_prepare(body, NULL));
    assert_ok(body_next(body, &data, &size));
    assert_int_equal(size, 80);
    assert_in_range(host.ledger.used.memory_bytes - used, 80, 200);
    body_destroy(body);
    tensor_unref(tensor);
}

/* A reservation that is refused can be tried again; after it no piece needs one. */
static void refused_reservations(void **state)
{
    struct layout layout = contiguous(TD_INT16, SHAPE(20, 3));
    const int reservations[] = {1, 2}; /* the buffer; and what is downloaded */
    unsigned char bytes[120];
    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)i;
    for (int where = 0; where < 2; where++) {
        struct device other = other_device();
        struct tensor *tensor = tensor_over(where ? &other : host.cpu, &layout, bytes, 120);
        unsigned char *wanted = plain_loop(&layout, bytes, TD_INT64, false);
        struct body *body;
        const void *data;
        size_t size;
        body = body_of(tensor, TD_INT64, false, 80);
        for (int n = 1; n <= reservations[where]; n++) {
            host.ledger.fail_after = (uint64_t)n;
            assert_refused(body_prepare(body, NULL), TD_OUT_OF_MEMORY, "for a test");
            assert_int_equal(host.ledger.fail_after, 0);
        }
        assert_ok(body_prepare(body, NULL));
        assert_ok(body_next(body, &data, &size));
        assert_int_equal(size, 72);
        assert_memory_equal(data, wanted, size);
        body_destroy(body);
        free(wanted);
        tensor_unref(tensor);
    }
}

/* What lies there as it is wanted is downloaded, without a detour. */
static void straight_from_the_device(void **state)
{
    struct layout layout = contiguous(TD_INT16, SHAPE(20, 3)), transposed;
    unsigned char bytes[120];
    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)i;
    assert_ok(layout_transpose(&layout, 0, 1, &transposed));
    const struct {
        const struct layout *layout;
        enum td_dtype dtype;
        bool converts;
    } rows[] = {
        {&layout, TD_INT16, false}, {&layout, TD_INT32, true}, {&transposed, TD_INT16, true}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct device other = other_device();
        struct tensor *tensor = tensor_over(&other, rows[i].layout, bytes, sizeof bytes);
        unsigned char *wanted = plain_loop(rows[i].layout, bytes, rows[i].dtype, false);
        size_t element = dtype_infos[rows[i].dtype].size_bytes;
        downloads = converts = 0;
        int count = assert_blocks(tensor, rows[i].dtype, false, 8 * element, wanted);
        assert_int_equal(downloads, count);
        assert_int_equal(converts, rows[i].converts ? count : 0);
        free(wanted);
        tensor_unref(tensor);
    }
}

/* -- several parts -- */

static void add_text(struct body *body, const char *text)
{
    assert_ok(body_add_bytes(body, strdup(text), strlen(text)));
}

/* Header, tensors that are handed out and converted, on both devices, and nothing at all between
 * them: in order, computed in one buffer, and all given back. */
static void several_parts(void **state)
{
    unsigned char bytes[6] = {0, 1, 2, 3, 4, 5}, got[64];
    struct layout plain = contiguous(TD_UINT8, SHAPE(2, 3)), turned, none, wide;
    struct device other = other_device();
    struct body *body;
    const void *data;
    size_t size, length = 0, pieces = 0;
    (void)state;
    assert_ok(layout_transpose(&plain, 0, 1, &turned));
    none = contiguous(TD_UINT8, SHAPE(0, 3));
    wide = contiguous(TD_UINT8, SHAPE(6));
    uint64_t used = host.ledger.used.memory_bytes;
    struct tensor *tensors[] = {
        tensor_over(host.cpu, &plain, bytes, 6), tensor_over(host.cpu, &turned, bytes, 6),
        tensor_over(host.cpu, &none, bytes, 6), tensor_over(&other, &wide, bytes, 6),
        tensor_over(&other, &turned, bytes, 6)};
    assert_ok(body_create(host.cpu, 4, &body));
    add_text(body, "head");
    add_text(body, "");
    for (size_t i = 0; i < COUNT(tensors); i++) {
        bool cast = i == 3;
        assert_ok(body_add_tensor(body, tensors[i], cast ? TD_INT16 : TD_UINT8, false));
        tensor_unref(tensors[i]);
    }
    add_text(body, "tail");
    assert_int_equal(body_total_bytes(body), 4 + 6 + 6 + 0 + 12 + 6 + 4);
    assert_ok(body_prepare(body, NULL));
    uint64_t prepared = host.ledger.used.memory_bytes;
    for (;; pieces++) {
        assert_ok(body_next(body, &data, &size));
        if (size == 0)
            break;
        memcpy(got + length, data, size);
        length += size;
    }
    assert_int_equal(pieces, 1 + 1 + 2 + 3 + 2 + 1);
    assert_int_equal(length, body_total_bytes(body));
    assert_memory_equal(got,
                        "head\0\1\2\3\4\5\0\3\1\4\2\5"
                        "\0\0\1\0\2\0\3\0\4\0\5\0\0\3\1\4\2\5tail",
                        length);
    assert_int_equal(host.ledger.used.memory_bytes, prepared);
    assert_int_equal(body_work_bytes(body), 0);
    body_destroy(body);
    assert_int_equal(host.ledger.used.memory_bytes, used);
}

static void nothing_at_all(void **state)
{
    struct body *body;
    const void *data;
    size_t size = 1;
    (void)state;
    assert_ok(body_create(host.cpu, 100, &body));
    assert_ok(body_prepare(body, NULL));
    assert_int_equal(body_total_bytes(body), 0);
    assert_int_equal(body_work_bytes(body), 0);
    assert_ok(body_next(body, &data, &size));
    assert_int_equal(size, 0);
    body_destroy(body);
}

/* What is refused leaves the body, and the ledger, as they were. */
static void refused_parts(void **state)
{
    struct layout layout = contiguous(TD_UINT8, SHAPE(1));
    struct dims huge = SHAPE(INT64_C(1) << 56);
    unsigned char byte = 7;
    struct body *body;
    (void)state;
    assert_ok(layout_expand(&layout, &huge, &layout));
    struct tensor *tensor = tensor_over(host.cpu, &layout, &byte, 1);
    assert_ok(body_create(host.cpu, 100, &body));
    uint64_t used = host.ledger.used.memory_bytes;
    host.ledger.fail_after = 1;
    assert_refused(body_add_bytes(body, strdup("abc"), 3), TD_OUT_OF_MEMORY, "for a test");
    assert_int_equal(body_total_bytes(body), 0);
    for (int i = 0; i < 15; i++)
        assert_ok(body_add_tensor(body, tensor, TD_COMPLEX128, false));
    for (int i = 0; i < 2; i++)
        assert_refused(body_add_tensor(body, tensor, TD_COMPLEX128, false), TD_TOO_LARGE,
                       "more bytes");
    assert_int_equal(body_total_bytes(body), UINT64_C(15) << 60);
    assert_int_equal(atomic_load(&tensor->refs), 16);
    body_destroy(body);
    assert_int_equal(host.ledger.used.memory_bytes, used);
    tensor_unref(tensor);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_host, close_host)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(random_layouts),
        TEST(sizes_of_blocks),
        TEST(in_place),
        TEST(expanded_without_end),
        TEST(small_tensors_have_small_buffers),
        TEST(refused_reservations),
        TEST(straight_from_the_device),
        TEST(several_parts),
        TEST(nothing_at_all),
        TEST(refused_parts),
    };
    return cmocka_run_group_tests_name("body", tests, NULL, NULL);
}
