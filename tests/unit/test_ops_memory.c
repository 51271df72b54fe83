/* ops: who shares memory with whom, what becomes of gradients, and memory that leaves or comes in
 * as a descriptor. */
#include "tests/unit/ops_request.h"

#include <fcntl.h>
#include <sys/mman.h>

/* What a reply says of a tensor. */
struct facts {
    uint64_t id, storage, version, epoch;
    bool requires_grad, is_leaf;
};

static struct facts facts(void)
{
    return (struct facts){reply->id,    reply->storage,       reply->version,
                          reply->epoch, reply->requires_grad, reply->is_leaf};
}

static struct facts info(uint64_t id)
{
    RUN(info, INPUT(id));
    return facts();
}

/* -- the table: who shares memory with whom -- */

enum sharing { SAME_TENSOR, SHARES, COPIES };

static const struct {
    const char *what;
    enum op op;
    enum td_dtype dtype;
    const char *device;
    bool copy, contiguous; /* of the input: in C order */
    enum sharing sharing;
    const char *reason;
    bool keeps_grad;
    const char *grad_fn;
} conversions[] = {
    {"as_tensor()", OP_as_tensor, 0, NULL, false, true, SAME_TENSOR, NULL, true, NULL},
    {"as_tensor(float32)", OP_as_tensor, TD_FLOAT32, "cpu", false, true, SAME_TENSOR, NULL, true,
     NULL},
    {"as_tensor(float64)", OP_as_tensor, TD_FLOAT64, NULL, false, true, COPIES, "dtype", true,
     "ToCopyBackward0"},
    {"to()", OP_to, 0, NULL, false, true, SAME_TENSOR, NULL, true, NULL},
    {"to(float32)", OP_to, TD_FLOAT32, NULL, false, false, SAME_TENSOR, NULL, true, NULL},
    {"to(cpu)", OP_to, 0, "cpu", false, true, SAME_TENSOR, NULL, true, NULL},
    {"to(copy)", OP_to, 0, NULL, true, true, COPIES, "copy", true, "ToCopyBackward0"},
    {"to(float16)", OP_to, TD_FLOAT16, NULL, false, true, COPIES, "dtype", true, "ToCopyBackward0"},
    {"to(complex64)", OP_to, TD_COMPLEX64, NULL, false, true, COPIES, "dtype", true,
     "ToCopyBackward0"},
    {"to(int64)", OP_to, TD_INT64, NULL, false, true, COPIES, "dtype", false, NULL},
    {"to(bool)", OP_to, TD_BOOL, NULL, false, true, COPIES, "dtype", false, NULL},
    {"type(float32)", OP_type, TD_FLOAT32, NULL, false, true, SAME_TENSOR, NULL, true, NULL},
    {"type(int8)", OP_type, TD_INT8, NULL, false, true, COPIES, "dtype", false, NULL},
    {"cpu()", OP_cpu, 0, NULL, false, true, SAME_TENSOR, NULL, true, NULL},
    {"clone()", OP_clone, 0, NULL, false, true, COPIES, "copy", true, "CloneBackward0"},
    {"clone() of a transposed", OP_clone, 0, NULL, false, false, COPIES, "copy", true,
     "CloneBackward0"},
    {"contiguous()", OP_contiguous, 0, NULL, false, true, SAME_TENSOR, NULL, true, NULL},
    {"contiguous() of a transposed", OP_contiguous, 0, NULL, false, false, COPIES, "layout", true,
     "CloneBackward0"},
    {"detach()", OP_detach, 0, NULL, false, true, SHARES, NULL, false, NULL},
    {"detach() of a transposed", OP_detach, 0, NULL, false, false, SHARES, NULL, false, NULL},
    {"data", OP_data, 0, NULL, false, true, SHARES, NULL, false, NULL},
};

static void assert_converted(size_t row, uint64_t x, bool requires_grad)
{
    struct facts before = info(x);
    char made_from[32];
    snprintf(made_from, sizeof made_from, "@%" PRIu64, x);
    INPUT(x);
    if (conversions[row].dtype)
        SET(dtype, conversions[row].dtype);
    if (conversions[row].device)
        SET(device, text_of(conversions[row].device));
    if (conversions[row].copy)
        SET(copy, true);
    run_(conversions[row].op, conversions[row].what, (int)row);
    struct facts after = facts();
    bool keeps = requires_grad && conversions[row].keeps_grad;
    bool recorded = keeps && conversions[row].grad_fn;
    if ((after.id == before.id) != (conversions[row].sharing == SAME_TENSOR) ||
        (after.storage == before.storage) != (conversions[row].sharing != COPIES) ||
        after.requires_grad != keeps)
        fail_msg("%s: id %" PRIu64 " -> %" PRIu64 ", storage %" PRIu64 " -> %" PRIu64 ", grad %d",
                 conversions[row].what, before.id, after.id, before.storage, after.storage,
                 after.requires_grad);
    assert_memory(conversions[row].sharing == COPIES ? "copied" : "shared",
                  conversions[row].reason);
    assert_int_equal(FIELDS_HAS(reply, grad_fn),
                     recorded || (conversions[row].sharing == SAME_TENSOR && !before.is_leaf));
    if (recorded) {
        assert_text(reply->grad_fn, conversions[row].grad_fn);
        assert_text(reply->history, made_from);
    }
    RUN(release, INPUT(after.id));
}

static void who_shares_with_whom(void **state)
{
    (void)state;
    for (int grad = 0; grad < 2; grad++) {
        uint64_t x = counting(SHAPE(2, 3), grad);
        uint64_t t = RUN(transpose, INPUT(x), SET(dim0, 0), SET(dim1, 1));
        for (size_t i = 0; i < COUNT(conversions); i++)
            assert_converted(i, conversions[i].contiguous ? x : t, grad);
    }
}

static const struct {
    enum op op;
    const char *grad_fn;
    struct dims wanted;
} views[] = {
    {OP_view, "ViewBackward0", {2, {3, 2}}},
    {OP_reshape, "ViewBackward0", {2, {3, 2}}},
    {OP_transpose, "TransposeBackward0", {2, {3, 2}}},
    {OP_permute, "PermuteBackward0", {2, {3, 2}}},
    {OP_select, "SelectBackward0", {1, {2}}},
    {OP_slice, "SliceBackward0", {2, {2, 2}}},
    {OP_getitem, "SliceBackward0", {1, {2}}},
    {OP_squeeze, "SqueezeBackward0", {2, {2, 3}}},
    {OP_unsqueeze, "UnsqueezeBackward0", {3, {2, 1, 3}}},
    {OP_expand, "ExpandBackward0", {3, {4, 2, 3}}},
};

static void set_view_fields(enum op op)
{
    SET(shape, op == OP_expand ? SHAPE(4, -1, 3) : SHAPE(3, -1));
    SET(dims, SHAPE(1, 0));
    SET(dim, 1);
    SET(dim0, 0);
    SET(dim1, 1);
    if (op == OP_getitem)
        SET(index, INDEX(AT(1), SLICE(1, INDEX_NONE)));
    else if (op == OP_select)
        SET(index, INDEX(AT(-1)));
    else
        SET(index, INDEX(SLICE(1, INDEX_NONE)));
    request.present &= op_infos[op].required;
}

/* Views share storage and version; requires_grad and where it came from are told. */
static void views_share(void **state)
{
    (void)state;
    for (int grad = 0; grad < 2; grad++)
        for (size_t i = 0; i < COUNT(views); i++) {
            char made_from[32];
            uint64_t x = counting(SHAPE(2, 3), grad);
            struct facts base = facts();
            set_view_fields(views[i].op);
            INPUT(x);
            uint64_t v = run_(views[i].op, op_infos[views[i].op].name, 0);
            assert_memory("shared", NULL);
            assert_shape(views[i].wanted);
            assert_int_equal(reply->storage, base.storage);
            assert_int_not_equal(v, x);
            assert_int_equal(reply->requires_grad, grad);
            assert_int_equal(reply->is_leaf, !grad);
            assert_int_equal(FIELDS_HAS(reply, grad_fn), grad);
            snprintf(made_from, sizeof made_from, "@%" PRIu64, x);
            if (grad) {
                assert_text(reply->grad_fn, views[i].grad_fn);
                assert_text(reply->history, made_from);
            } else {
                RUN(fill_, INPUT(x), SET(value, integer(9)));
                assert_int_equal(info(v).version, 1);
                assert_int_equal(info(v).epoch, base.epoch + 1);
            }
        }
}

/* reshape copies only where no view can say it. */
static void reshape_copies(void **state)
{
    (void)state;
    uint64_t t = RUN(transpose, INPUT(counting(SHAPE(2, 3), true)), SET(dim0, 0), SET(dim1, 1));
    uint64_t storage = reply->storage;
    REFUSED(view, TD_BAD_SHAPE, "Use .reshape(...) instead.", INPUT(t), SET(shape, SHAPE(6)));
    uint64_t r = RUN(reshape, INPUT(t), SET(shape, SHAPE(-1)));
    assert_memory("copied", "view");
    assert_text(reply->grad_fn, "UnsafeViewBackward0");
    assert_int_not_equal(reply->storage, storage);
    assert_values(r, VALUES(0, 3, 1, 4, 2, 5));
    REFUSED(reshape, TD_BAD_SHAPE, "", INPUT(t), SET(shape, SHAPE(4)));
}

/* .data has a version of its own, detach the same one. */
static void versions(void **state)
{
    (void)state;
    uint64_t x = RUN(zeros, SET(shape, SHAPE(4)));
    uint64_t detached = RUN(detach, INPUT(x)), data = RUN(data, INPUT(x));
    RUN(fill_, INPUT(x), SET(value, integer(1)));
    RUN(fill_, INPUT(detached), SET(value, integer(2)));
    assert_int_equal(info(x).version, 2);
    assert_int_equal(info(detached).version, 2);
    assert_int_equal(info(data).version, 0);
    assert_int_equal(info(data).epoch, 2);
    RUN(fill_, INPUT(data), SET(value, integer(3)));
    assert_int_equal(info(x).version, 2);
    assert_int_equal(info(x).epoch, 3);
    assert_values(x, VALUES(3, 3, 3, 3));
}

/* -- variables -- */

static void variables(void **state)
{
    (void)state;
    uint64_t x = RUN(arange, SET(end, integer(3))); /* int64: any dtype will do */
    struct facts base = facts();
    uint64_t v = RUN(variable, INPUT(x), SET(requires_grad, true));
    assert_text(reply->kind, "variable");
    assert_int_equal(reply->storage, base.storage);
    assert_true(reply->requires_grad && reply->is_leaf);
    assert_false(info(x).requires_grad);
    RUN(variable, INPUT(x));
    assert_text(reply->kind, "variable");
    assert_false(reply->requires_grad);
    RUN(requires_grad_, INPUT(v), SET(requires_grad, false));
    assert_false(reply->requires_grad);
    RUN(requires_grad_, INPUT(v));
    assert_true(reply->requires_grad);
    uint64_t y = RUN(mul, INPUT(v), SET(value, integer(2)));
    REFUSED(requires_grad_, TD_CONFLICT,
            "you can only change requires_grad flags of leaf variables.", INPUT(y),
            SET(requires_grad, false));
    RUN(requires_grad_, INPUT(y));
    assert_false(reply->is_leaf);
    RUN(copy, INPUT(y), SET(output, text_of("copy")));
    assert_true(reply->is_leaf && reply->requires_grad); /* a stored leaf of its own */
    assert_memory("copied", "copy");
}

static void history_of_names(void **state)
{
    char wanted[32];
    (void)state;
    RUN(ones, SET(shape, SHAPE(2)), SET(requires_grad, true), SET(output, text_of("w")));
    snprintf(wanted, sizeof wanted, "w@%" PRIu64, reply->generation);
    RUN(add, SET(input, text_of("w")), SET(value, real(1)), SET(output, text_of("w")));
    assert_text(reply->history, wanted); /* what it was, not what it became */
    assert_text(reply->grad_fn, "AddBackward0");
    assert_values(RUN(detach, SET(input, text_of("w"))), VALUES(2, 2));
}

static void grads(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(3), true);
    REFUSED(grad, TD_NOT_FOUND, "has no grad", INPUT(x));
    REFUSED(set_grad, TD_BAD_SHAPE, "data of a different size",
            OTHER(RUN(zeros, SET(shape, SHAPE(4)))), INPUT(x));
    REFUSED(set_grad, TD_BAD_DTYPE, "data of a different type",
            OTHER(RUN(zeros, SET(shape, SHAPE(3)), SET(dtype, TD_FLOAT64))), INPUT(x));
    uint64_t g = RUN(full, SET(shape, SHAPE(3)), SET(value, real(7)));
    uint64_t storage = reply->storage;
    RUN(set_grad, INPUT(x), OTHER(g));
    RUN(release, INPUT(g));
    uint64_t got = RUN(grad, INPUT(x));
    assert_int_equal(reply->storage, storage);
    assert_values(got, VALUES(7, 7, 7));
    RUN(set_grad, INPUT(x), OTHER(x)); /* a circle of references would never be freed */
    RUN(set_grad, INPUT(RUN(grad, INPUT(x))), OTHER(x));
    RUN(set_grad, INPUT(x));
    REFUSED(grad, TD_NOT_FOUND, "has no grad", INPUT(x));
}

static void numpy_rules(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(3), true);
    REFUSED(numpy, TD_REQUIRES_GRAD,
            "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.",
            INPUT(x));
    RUN(numpy, INPUT(x), SET(force, true));
    assert_memory("shared", NULL);
    assert_true(call.share_fd >= 0);
    RUN(numpy, INPUT(RUN(detach, INPUT(x))));
    assert_memory("shared", NULL);
}

/* -- memory that leaves -- */

static unsigned char *mapped(int fd, int protection)
{
    unsigned char *bytes = mmap(NULL, reply->storage_bytes, protection, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(bytes, MAP_FAILED);
    return bytes;
}

static void map_mutable(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(4), false);
    RUN(map, INPUT(x), SET(write, true));
    assert_memory("shared", NULL);
    uint64_t lease = reply->lease, size = reply->storage_bytes, storage = reply->storage;
    float *bytes = (float *)(void *)mapped(call.share_fd, PROT_READ | PROT_WRITE);
    assert_true(bytes[3] == 3);
    bytes[0] = 42;
    assert_values(x, VALUES(42, 1, 2, 3));
    RUN(setitem, INPUT(x), SET(index, INDEX(AT(1))), SET(value, integer(5)));
    assert_true(bytes[1] == 5);
    RUN(map, INPUT(x), SET(known_storage, storage));
    assert_int_equal(call.share_fd, -1); /* the client has it */
    assert_true(FIELDS_HAS(reply, lease) && reply->lease != lease);
    RUN(map, INPUT(x), SET(known_storage, storage + 1));
    assert_true(call.share_fd >= 0);
    RUN(release, INPUT(x));
    assert_true(bytes[0] == 42); /* the lease keeps the memory */
    RUN(release, SET(lease, lease));
    REFUSED(release, TD_NOT_FOUND, "has no lease", SET(lease, lease));
    REFUSED(release, TD_INVALID, "either a lease or an object", 0);
    REFUSED(release, TD_INVALID, "either a lease or an object", SET(force, false));
    REFUSED(release, TD_INVALID, "either a lease or an object", SET(lease, 1), INPUT(x));
    REFUSED(release, TD_NOT_FOUND, "has no lease", SET(lease, lease), SET(force, true));
    REFUSED(release, TD_INVALID, "removed by delete", SET(input, text_of("x")));
    munmap(bytes, size);
}

static void map_frozen(void **state)
{
    static unsigned char body[128 << 10];
    (void)state;
    request_body = body, request_body_bytes = 10;
    uint64_t small = RUN(tensor, SET(dtype, TD_UINT8), SET(shape, SHAPE(10)), SET(mutable, false));
    RUN(map, INPUT(small));
    assert_memory("copied", "small");
    assert_int_equal(call.share_fd, -1);
    assert_non_null(call.body_out);
    assert_false(FIELDS_HAS(reply, lease));
    request_body = body, request_body_bytes = sizeof body;
    uint64_t large =
        RUN(tensor, SET(dtype, TD_UINT8), SET(shape, SHAPE(128 << 10)), SET(mutable, false));
    RUN(map, INPUT(large));
    assert_memory("shared", NULL);
    munmap(mapped(call.share_fd, PROT_READ), reply->storage_bytes);
    REFUSED(map, TD_FROZEN, "cannot be mapped for writing", INPUT(large), SET(write, true));
    REFUSED(fill_, TD_FROZEN, "frozen", INPUT(large), SET(value, integer(1)));
    uint64_t clone = RUN(clone, INPUT(large)); /* whoever wants to write takes a copy */
    assert_text(reply->mode, "mutable");
    RUN(fill_, INPUT(clone), SET(value, integer(1)));
}

static void map_over_tcp(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(4), false);
    request_remote = true;
    RUN(map, INPUT(x));
    assert_memory("copied", "transport");
    assert_int_equal(call.share_fd, -1);
    request_remote = true;
    REFUSED(map, TD_UNSUPPORTED, "over the Unix socket only", INPUT(x), SET(write, true));
}

/* The end of the session takes its leases and their storages with it. */
static void leases_end(void **state)
{
    (void)state;
    uint64_t x = RUN(zeros, SET(shape, SHAPE(1 << 16)));
    RUN(map, INPUT(x), SET(write, true));
    RUN(release, INPUT(x));
    assert_true(used_now().memory_bytes >= 4 << 16);
    op_end(&call);
    session_leave(session);
    assert_int_equal(used_now().memory_bytes, 0);
    assert_int_equal(used_now().descriptors, 0);
    assert_ok(session_open(engine->sessions, NULL, 0, &session));
}

/* -- memory that comes in -- */

static int floats_in_memfd(size_t count)
{
    int fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, (off_t)(count * sizeof(float))), 0);
    for (size_t i = 0; i < count; i++) {
        float value = (float)i;
        assert_int_equal(pwrite(fd, &value, sizeof value, (off_t)(i * sizeof value)), 4);
    }
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    return fd;
}

static void from_numpy_shares(void **state)
{
    (void)state;
    int fd = floats_in_memfd(100), descriptors = open_descriptors();
    request_fd = dup(fd);
    uint64_t x = RUN(from_numpy, SET(dtype, TD_FLOAT32), SET(shape, SHAPE(100)));
    assert_memory("shared", NULL);
    assert_text(reply->mode, "mutable");
    uint64_t storage = reply->storage;
    float value = 77;
    assert_int_equal(pwrite(fd, &value, sizeof value, 0), 4);
    uint64_t first = RUN(getitem, INPUT(x), SET(index, INDEX(AT(0))));
    RUN(item, INPUT(first));
    assert_true(reply->value.f == 77);
    RUN(release, INPUT(first));
    RUN(fill_, INPUT(x), SET(value, integer(5)));
    assert_int_equal(pread(fd, &value, sizeof value, 396), 4);
    assert_true(value == 5);
    request_fd = dup(fd); /* again: another view of the same memory */
    uint64_t y = RUN(from_numpy, SET(dtype, TD_FLOAT32), SET(shape, SHAPE(2, 3)),
                     SET(strides, SHAPE(1, 10)), SET(offset_bytes, 8));
    assert_int_equal(reply->storage, storage);
    RUN(release, INPUT(x));
    RUN(release, INPUT(y));
    op_end(&call);
    assert_int_equal(used_now().memory_bytes, 0);
    assert_int_equal(open_descriptors(), descriptors);
    close(fd);
}

/* A descriptor the daemon itself handed out comes back as the storage it is of. */
static void from_numpy_of_own_memory(void **state)
{
    (void)state;
    uint64_t x = counting(SHAPE(4), false);
    uint64_t storage = reply->storage;
    RUN(map, INPUT(x), SET(write, true));
    request_fd = dup(call.share_fd);
    uint64_t y = RUN(from_numpy, SET(dtype, TD_FLOAT32), SET(shape, SHAPE(2)),
                     SET(strides, SHAPE(2)), SET(require_shared, true));
    assert_int_equal(reply->storage, storage);
    assert_values(y, VALUES(0, 2));
    RUN(map, INPUT(x));
    request_fd = dup(call.share_fd);
    REFUSED(from_numpy, TD_BAD_SHAPE, "", SET(dtype, TD_FLOAT32), SET(shape, SHAPE(5)));
}

static void from_numpy_refused(void **state)
{
    static const struct {
        struct dims shape, strides;
        uint64_t offset;
        enum td_status status;
    } rows[] = {
        {{1, {101}}, {1, {1}}, 0, TD_BAD_SHAPE},
        {{1, {100}}, {1, {1}}, 4, TD_BAD_SHAPE},
        {{1, {1}}, {1, {1}}, 400, TD_BAD_SHAPE},
        {{1, {1}}, {1, {1}}, UINT64_MAX - 3, TD_BAD_SHAPE},
        {{1, {10}}, {1, {1}}, 2, TD_BAD_SHAPE},
        {{1, {2}}, {1, {100}}, 0, TD_BAD_SHAPE},
        {{1, {2}}, {1, {INT64_MAX}}, 0, TD_BAD_SHAPE},
        {{1, {2}}, {1, {-1}}, 4, TD_BAD_SHAPE},
        {{2, {2, 2}}, {1, {1}}, 0, TD_BAD_SHAPE},
        {{1, {-1}}, {1, {1}}, 0, TD_BAD_SHAPE},
        {{2, {INT64_C(1) << 40, INT64_C(1) << 40}}, {2, {1, 1}}, 0, TD_BAD_SHAPE},
    };
    (void)state;
    int fd = floats_in_memfd(100), descriptors = open_descriptors();
    for (size_t i = 0; i < COUNT(rows); i++) {
        request_fd = dup(fd);
        REFUSED(from_numpy, rows[i].status, "", SET(dtype, TD_FLOAT32), SET(shape, rows[i].shape),
                SET(strides, rows[i].strides), SET(offset_bytes, rows[i].offset));
        op_end(&call);
        assert_int_equal(used_now().memory_bytes, 0);
        assert_int_equal(open_descriptors(), descriptors);
    }
    request_fd = dup(fd);
    request_body = "", request_body_bytes = 1;
    REFUSED(from_numpy, TD_INVALID, "came together", SET(dtype, TD_UINT8), SET(shape, SHAPE(1)));
    REFUSED(from_numpy, TD_UNSUPPORTED, "cannot be shared", SET(dtype, TD_UINT8),
            SET(shape, SHAPE(0)), SET(require_shared, true));
    REFUSED(from_numpy, TD_INVALID, "go with a descriptor", SET(dtype, TD_UINT8),
            SET(shape, SHAPE(0)), SET(strides, SHAPE(1)));
    request_fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    REFUSED(from_numpy, TD_INVALID, "not a memfd", SET(dtype, TD_UINT8), SET(shape, SHAPE(1)));
    op_end(&call);
    assert_int_equal(open_descriptors(), descriptors);
    request_body = "\5", request_body_bytes = 1;
    RUN(from_numpy, SET(dtype, TD_UINT8), SET(shape, SHAPE(1)));
    assert_memory("copied", "heap");
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(who_shares_with_whom),
        TEST(views_share),
        TEST(reshape_copies),
        TEST(versions),
        TEST(variables),
        TEST(history_of_names),
        TEST(grads),
        TEST(numpy_rules),
        TEST(map_mutable),
        TEST(map_frozen),
        TEST(map_over_tcp),
        TEST(leases_end),
        TEST(from_numpy_shares),
        TEST(from_numpy_of_own_memory),
        TEST(from_numpy_refused),
    };
    return cmocka_run_group_tests_name("ops_memory", tests, NULL, NULL);
}
