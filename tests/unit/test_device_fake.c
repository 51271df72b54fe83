/* A second device whose bytes no host pointer reaches: everything above the devices' table works
 * through it alone. Its memory.data is NULL, and the bytes lie in a table of the device's own. */
#include "tests/unit/ops_request.h"

#include <fcntl.h>
#include <stdlib.h>

#define BLOCKS 64

struct fake {
    struct device device;
    struct device *cpu;
    struct {
        const struct memory *memory;
        unsigned char *bytes;
    } blocks[BLOCKS];
    int uploads, downloads, converts, fills, generates;
};

static struct fake fake;

static struct fake *fake_of(struct device *device)
{
    return device->state;
}

/* The bytes as memory that the cpu's functions work on. */
static struct memory shadow(struct device *device, const struct memory *memory)
{
    struct memory host = {.fd = -1, .read_fd = -1};
    struct fake *self = fake_of(device);
    assert_null(memory->data);
    for (int i = 0; i < BLOCKS; i++)
        if (self->blocks[i].memory == memory)
            atomic_init(&host.data, self->blocks[i].bytes);
    assert_non_null(host.data);
    return host;
}

static enum td_status fake_alloc(struct device *device, size_t size, bool clear, struct memory *out)
{
    struct fake *self = fake_of(device);
    size_t capacity = size ? size : 1;
    memset(out, 0, sizeof *out);
    out->fd = out->read_fd = -1;
    TRY(ledger_reserve(device->ledger, capacity, 0, 0));
    for (int i = 0; i < BLOCKS; i++)
        if (!self->blocks[i].memory) {
            self->blocks[i].memory = out;
            self->blocks[i].bytes = malloc(capacity);
            memset(self->blocks[i].bytes, clear ? 0 : 0xCD, capacity);
            out->capacity = out->charged_bytes = capacity;
            return TD_OK;
        }
    ledger_release(device->ledger, capacity, 0, 0);
    fail_write("the fake device is full");
    return TD_OUT_OF_MEMORY;
}

static void fake_free(struct device *device, struct memory *memory)
{
    struct fake *self = fake_of(device);
    for (int i = 0; i < BLOCKS; i++)
        if (self->blocks[i].memory == memory) {
            free(self->blocks[i].bytes);
            self->blocks[i].memory = NULL;
            ledger_release(device->ledger, memory->charged_bytes, 0, 0);
            return;
        }
    fail_msg("memory that is not of the fake device was freed by it");
}

static enum td_status fake_share(struct device *device, struct memory *memory,
                                 enum storage_mode mode, bool write, int *fd)
{
    (void)device, (void)memory, (void)mode, (void)write, (void)fd;
    fail_msg("memory of the fake device was shared");
    return TD_UNSUPPORTED;
}

static enum td_status fake_import(struct device *device, int fd, struct memory *out)
{
    (void)device, (void)out;
    close(fd);
    fail_msg("a descriptor was given to the fake device");
    return TD_UNSUPPORTED;
}

static enum td_status fake_upload(struct device *device, struct memory *memory, uint64_t offset,
                                  const void *from, size_t size)
{
    struct memory host = shadow(device, memory);
    assert_true(offset + size <= memory->capacity);
    fake_of(device)->uploads++;
    memcpy(host.data + offset, from, size);
    return TD_OK;
}

static enum td_status fake_download(struct device *device, const struct memory *memory,
                                    uint64_t offset, void *to, size_t size)
{
    struct memory host = shadow(device, memory);
    assert_true(offset + size <= memory->capacity);
    fake_of(device)->downloads++;
    memcpy(to, host.data + offset, size);
    return TD_OK;
}

static enum td_status fake_convert(struct device *device, const struct layout *src,
                                   const struct memory *src_memory, const struct layout *dst,
                                   struct memory *dst_memory, bool saturate)
{
    struct fake *self = fake_of(device);
    struct memory from = shadow(device, src_memory), to = shadow(device, dst_memory);
    self->converts++;
    return self->cpu->ops->convert(self->cpu, src, &from, dst, &to, saturate);
}

static enum td_status fake_fill(struct device *device, const struct scalar *value,
                                const struct layout *dst, struct memory *memory)
{
    struct fake *self = fake_of(device);
    struct memory to = shadow(device, memory);
    self->fills++;
    return self->cpu->ops->fill(self->cpu, value, dst, &to);
}

static enum td_status fake_arange(struct device *device, const struct scalar *start,
                                  const struct scalar *step, const struct layout *dst,
                                  struct memory *memory)
{
    struct fake *self = fake_of(device);
    struct memory to = shadow(device, memory);
    self->generates++;
    return self->cpu->ops->arange(self->cpu, start, step, dst, &to);
}

static enum td_status fake_random(struct device *device, const struct random_spec *spec,
                                  const struct layout *dst, struct memory *memory)
{
    struct fake *self = fake_of(device);
    struct memory to = shadow(device, memory);
    self->generates++;
    return self->cpu->ops->random(self->cpu, spec, dst, &to);
}

static enum td_status fake_arithmetic(struct device *device, enum arithmetic op,
                                      const struct layout *src, const struct memory *src_memory,
                                      const struct scalar *value, const struct layout *dst,
                                      struct memory *dst_memory)
{
    struct fake *self = fake_of(device);
    struct memory from = shadow(device, src_memory), to = shadow(device, dst_memory);
    self->generates++;
    return self->cpu->ops->arithmetic(self->cpu, op, src, &from, value, dst, &to);
}

static const struct device_ops fake_ops = {
    .alloc = fake_alloc,
    .free = fake_free,
    .share = fake_share,
    .import = fake_import,
    .upload = fake_upload,
    .download = fake_download,
    .convert = fake_convert,
    .fill = fake_fill,
    .arange = fake_arange,
    .random = fake_random,
    .arithmetic = fake_arithmetic,
};

/* -- an engine with two devices -- */

static int real_count; /* devices of this machine, kept aside */
static struct device *real_second;

static int open_two(void **state)
{
    if (open_engine(state) != 0)
        return 1;
    memset(&fake, 0, sizeof fake);
    memcpy(fake.device.name, "cuda:0", sizeof "cuda:0");
    fake.device.ops = &fake_ops;
    fake.device.ledger = &engine->ledger;
    fake.device.state = &fake;
    fake.cpu = engine->devices.list[0];
    real_count = engine->devices.count;
    real_second = engine->devices.list[1];
    engine->devices.list[1] = &fake.device;
    engine->devices.count = 2;
    return 0;
}

static int close_two(void **state)
{
    op_end(&call);
    delete_all_names();
    session_leave(session);
    for (int i = 0; i < BLOCKS; i++)
        assert_null(fake.blocks[i].memory);
    assert_int_equal(used_now().memory_bytes, 0);
    engine->devices.list[1] = real_second;
    engine->devices.count = real_count;
    return session_open(engine->sessions, NULL, 0, &session) != TD_OK || close_engine(state);
}

#define ON_CUDA SET(device, text_of("cuda:0"))

static uint64_t on_cuda(uint64_t id)
{
    return RUN(cuda, INPUT(id));
}

static void names(void **state)
{
    static const struct {
        const char *name;
        int device; /* -1: there is none */
        const char *text;
    } rows[] = {
        {"cpu", 0, ""},
        {"cuda", 1, ""},
        {"cuda:0", 1, ""},
        {"cuda:1", -1, "invalid device ordinal: there is no 'cuda:1' here, the last is 'cuda:0'"},
        {"cuda:9999", -1, "invalid device ordinal"},
        {"cuda:99999", -1, "Invalid device string: 'cuda:99999'"},
        {"", -1, "Invalid device string: ''"},
        {"CPU", -1, "Invalid device string: 'CPU'"},
        {"cpu:0", -1, "Invalid device string"},
        {"cuda:", -1, "Invalid device string"},
        {"cuda:-1", -1, "Invalid device string"},
        {"cuda:0 ", -1, "Invalid device string"},
        {"cuda:0x0", -1, "Invalid device string"},
        {"%s%n", -1, "Invalid device string: '%s%n'"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct device *found = NULL;
        enum td_status status =
            devices_find(&engine->devices, rows[i].name, strlen(rows[i].name), &found);
        if (rows[i].device < 0) {
            assert_refused(status, TD_NO_DEVICE, rows[i].text);
        } else {
            assert_ok(status);
            assert_ptr_equal(found, engine->devices.list[rows[i].device]);
        }
    }
    engine->devices.count = 1;
    struct device *found;
    assert_refused(devices_find(&engine->devices, "cuda", 4, &found), TD_NO_DEVICE,
                   "No CUDA GPUs are available");
    engine->devices.count = 2;
}

/* -- between the devices -- */

static void there_and_back(void **state)
{
    static const char *const spellings[] = {"cuda", "cuda:0"};
    (void)state;
    uint64_t x = counting(SHAPE(2, 3), false);
    for (size_t i = 0; i < COUNT(spellings); i++) {
        uint64_t g = RUN(to, INPUT(x), SET(device, text_of(spellings[i])));
        assert_text(reply->device, "cuda:0");
        assert_memory("copied", "device");
        assert_values(g, VALUES(0, 1, 2, 3, 4, 5));
        assert_int_equal(RUN(cuda, INPUT(g)), g);
        assert_memory("shared", NULL);
        assert_int_equal(RUN(to, INPUT(g), SET(device, text_of(spellings[i]))), g);
        uint64_t back = RUN(cpu, INPUT(g));
        assert_text(reply->device, "cpu");
        assert_memory("copied", "device");
        assert_int_not_equal(back, x);
        assert_values(back, VALUES(0, 1, 2, 3, 4, 5));
    }
    assert_true(fake.uploads > 0 && fake.downloads > 0);
    REFUSED(cuda, TD_NO_DEVICE, "invalid device ordinal", INPUT(x), SET(device, text_of("cuda:1")));
    REFUSED(cuda, TD_NO_DEVICE, "must be cuda device", INPUT(x), SET(device, text_of("cpu")));
}

/* What crosses is cast and put in C order on the way. */
static void cast_and_strided(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(2, 3), true);
    uint64_t t = RUN(transpose, INPUT(x), SET(dim0, 0), SET(dim1, 1));
    uint64_t g = RUN(to, INPUT(t), ON_CUDA, SET(dtype, TD_FLOAT16));
    assert_memory("copied", "dtype");
    assert_text(reply->grad_fn, "ToCopyBackward0");
    assert_values(g, VALUES(0, 3, 1, 4, 2, 5));
    uint64_t gt = RUN(transpose, INPUT(g), SET(dim0, 0), SET(dim1, 1));
    assert_text(reply->device, "cuda:0");
    assert_memory("shared", NULL);
    assert_values(gt, VALUES(0, 1, 2, 3, 4, 5));
    assert_values(RUN(cpu, INPUT(gt)), VALUES(0, 1, 2, 3, 4, 5));
    assert_values(RUN(contiguous, INPUT(gt)), VALUES(0, 1, 2, 3, 4, 5));
    uint64_t like = RUN(to, INPUT(x), OTHER(g));
    assert_text(reply->device, "cuda:0");
    assert_int_equal(reply->dtype, TD_FLOAT16);
    assert_values(like, VALUES(0, 1, 2, 3, 4, 5));
    uint64_t back = RUN(as_tensor, INPUT(g), SET(device, text_of("cpu")), SET(dtype, TD_INT32));
    assert_text(reply->device, "cpu");
    assert_false(reply->requires_grad);
    assert_values(back, VALUES(0, 3, 1, 4, 2, 5));
    uint64_t empty = on_cuda(RUN(zeros, SET(shape, SHAPE(0, 3))));
    RUN(cpu, INPUT(empty));
    assert_shape(SHAPE(0, 3));
}

/* More than one piece of the way through host memory. */
static void many_bytes(void **state)
{
    (void)state;
    uint64_t x = RUN(arange, SET(end, integer(300000)));
    uint64_t g = on_cuda(x);
    uint64_t back = RUN(cpu, INPUT(g));
    uint64_t last = RUN(getitem, INPUT(back), SET(index, INDEX(AT(-1))));
    RUN(item, INPUT(last));
    assert_int_equal(reply->value.i, 299999);
}

static void copies_across(void **state)
{
    (void)state;
    uint64_t host = counting(SHAPE(2, 3), false);
    uint64_t g = RUN(zeros, SET(shape, SHAPE(2, 3)), SET(dtype, TD_FLOAT64), ON_CUDA);
    RUN(copy_, INPUT(g), OTHER(host)); /* cpu to cuda, and cast */
    assert_values(g, VALUES(0, 1, 2, 3, 4, 5));
    uint64_t gt = RUN(transpose, INPUT(g), SET(dim0, 0), SET(dim1, 1));
    uint64_t ones = RUN(ones, SET(shape, SHAPE(2)));
    RUN(setitem, INPUT(gt), SET(index, INDEX(SLICE(1, 3))), OTHER(ones)); /* into a strided one */
    assert_values(g, VALUES(0, 1, 1, 3, 1, 1));
    RUN(copy_, INPUT(host), OTHER(g)); /* cuda to cpu */
    assert_values(host, VALUES(0, 1, 1, 3, 1, 1));
    uint64_t ht = RUN(transpose, INPUT(host), SET(dim0, 0), SET(dim1, 1));
    RUN(copy_, INPUT(ht), OTHER(gt));
    assert_values(host, VALUES(0, 1, 1, 3, 1, 1));
    uint64_t row = RUN(select, INPUT(g), SET(dim, 0), SET(index, INDEX(AT(1))));
    RUN(copy_, INPUT(g), OTHER(row)); /* over itself */
    assert_values(g, VALUES(3, 1, 1, 3, 1, 1));
    RUN(setitem, INPUT(g), SET(index, INDEX(AT(0), AT(0))), SET(value, real(9)));
    RUN(item, INPUT(RUN(getitem, INPUT(g), SET(index, INDEX(AT(0), AT(0))))));
    assert_true(reply->value.f == 9);
}

/* -- on the second device -- */

static void made_there(void **state)
{
    (void)state;
    uint64_t x = RUN(full, SET(shape, SHAPE(2, 2)), SET(value, integer(3)), ON_CUDA);
    assert_text(reply->device, "cuda:0");
    assert_text(reply->mode, "mutable");
    assert_values(x, VALUES(3, 3, 3, 3));
    assert_values(RUN(eye, SET(shape, SHAPE(2)), ON_CUDA), VALUES(1, 0, 0, 1));
    assert_values(RUN(arange, SET(end, integer(3)), ON_CUDA), VALUES(0, 1, 2));
    assert_values(RUN(empty, SET(shape, SHAPE(2)), ON_CUDA), VALUES(0, 0));
    uint64_t y = RUN(mul, INPUT(x), SET(value, real(0.5)));
    assert_text(reply->device, "cuda:0");
    assert_values(y, VALUES(1.5, 1.5, 1.5, 1.5));
    assert_values(RUN(clone, INPUT(y)), VALUES(1.5, 1.5, 1.5, 1.5));
    assert_values(RUN(reshape, INPUT(RUN(transpose, INPUT(y), SET(dim0, 0), SET(dim1, 1))),
                      SET(shape, SHAPE(4))),
                  VALUES(1.5, 1.5, 1.5, 1.5));
    RUN(copy, INPUT(y), SET(output, text_of("named")));
    assert_text(reply->device, "cuda:0");
    RUN(fill_, SET(input, text_of("named")), SET(value, integer(0)));
    assert_values(RUN(detach, SET(input, text_of("named"))), VALUES(0, 0, 0, 0));
}

/* The same seed gives the same numbers on both. */
static void random_there(void **state)
{
    static const enum td_dtype dtypes[] = {TD_FLOAT32, TD_FLOAT64, TD_COMPLEX64};
    (void)state;
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        double values[6];
        SET(dtype, dtypes[i]);
        uint64_t host = RUN(randn, SET(shape, SHAPE(6)), SET(seed, 5));
        RUN(get, INPUT(host), SET(dtype, TD_FLOAT64));
        memcpy(values, tensor_data(call.body_out), sizeof values);
        SET(dtype, dtypes[i]);
        uint64_t there = RUN(randn, SET(shape, SHAPE(6)), SET(seed, 5), ON_CUDA);
        assert_values(there, values, 6);
    }
}

static void looked_at(void **state)
{
    (void)state;
    uint64_t g = on_cuda(counting(SHAPE(2, 3), false));
    uint64_t column = RUN(select, INPUT(g), SET(dim, 1), SET(index, INDEX(AT(1))));
    RUN(print, INPUT(g));
    assert_text(reply->text, "tensor([[0., 1., 2.],\n        [3., 4., 5.]], device='cuda:0')");
    RUN(print, INPUT(column));
    assert_text(reply->text, "tensor([1., 4.], device='cuda:0')");
    RUN(get, INPUT(column));
    assert_memory_equal(tensor_data(call.body_out), ((float[]){1, 4}), 8);
    RUN(info, INPUT(g));
    assert_text(reply->device, "cuda:0");
    assert_int_equal(reply->storage_bytes, 24);
    RUN(copy, INPUT(g), SET(output, text_of("g")));
    RUN(list, 0);
    assert_int_equal(listed.count, 1);
    RUN(devices, 0);
    assert_int_equal(listed.count, 2);
    assert_string_equal(listed.names[1], "cuda:0");
}

/* -- what host memory alone can do -- */

static void numpy_and_map(void **state)
{
    (void)state;
    uint64_t g = on_cuda(counting(SHAPE(3), true));
    REFUSED(numpy, TD_WRONG_DEVICE,
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first.",
            INPUT(g));
    REFUSED(map, TD_WRONG_DEVICE, "the tensor is on cuda:0", INPUT(g));
    RUN(numpy, INPUT(g), SET(force, true));
    assert_memory("copied", "device");
    assert_true(call.share_fd >= 0);
    assert_true(FIELDS_HAS(reply, lease));
    float first = -1;
    assert_int_equal(pread(call.share_fd, &first, sizeof first, 4), 4);
    assert_true(first == 1);
    REFUSED(tensor, TD_UNSUPPORTED, "a body arrives on the cpu", SET(dtype, TD_UINT8),
            SET(shape, SHAPE(0)), ON_CUDA);
}

static void grads_on_devices(void **state)
{
    (void)state;
    uint64_t host = counting(SHAPE(3), true), g = on_cuda(host);
    REFUSED(set_grad, TD_WRONG_DEVICE, "located on a different device", INPUT(host), OTHER(g));
    RUN(set_grad, INPUT(g), OTHER(g));
    assert_values(RUN(grad, INPUT(g)), VALUES(0, 1, 2));
}

/* A reservation that is refused on either side leaves nothing on the other. */
static void refusals(void **state)
{
    (void)state;
    uint64_t host = counting(SHAPE(2, 3), false), g = on_cuda(host);
    uint64_t gt = RUN(transpose, INPUT(g), SET(dim0, 0), SET(dim1, 1));
    uint64_t ht = RUN(transpose, INPUT(host), SET(dim0, 0), SET(dim1, 1));
    op_end(&call);
    uint64_t used = used_now().memory_bytes;
    for (int what = 0; what < 4; what++)
        for (uint64_t n = 1;; n++) {
            engine->ledger.fail_after = n;
            enum td_status status = what == 0   ? attempt((INPUT(gt), OP_cpu))
                                    : what == 1 ? attempt((INPUT(ht), OP_cuda))
                                    : what == 2 ? attempt((INPUT(gt), OTHER(ht), OP_copy_))
                                                : attempt((INPUT(ht), OTHER(gt), OP_copy_));
            bool reached = engine->ledger.fail_after == 0;
            engine->ledger.fail_after = 0;
            if (!reached) {
                assert_ok(status);
                if (what < 2)
                    RUN(release, INPUT(reply->id));
                op_end(&call);
                break;
            }
            assert_refused(status, TD_OUT_OF_MEMORY, "for a test");
            op_end(&call);
            assert_int_equal(used_now().memory_bytes, used);
            assert_true(n < 10);
        }
}

#define TWO(name) cmocka_unit_test_setup_teardown(name, open_two, close_two)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TWO(names),         TWO(there_and_back),   TWO(cast_and_strided), TWO(many_bytes),
        TWO(copies_across), TWO(made_there),       TWO(random_there),     TWO(looked_at),
        TWO(numpy_and_map), TWO(grads_on_devices), TWO(refusals),
    };
    return cmocka_run_group_tests_name("device_fake", tests, NULL, NULL);
}
