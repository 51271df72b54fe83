/* npy: headers that NumPy's versions wrote, each way in which one is refused, and how many bytes
 * are asked for. tests/semantics/test_formats.py compares with NumPy itself. */
#include "proto/format/npy.h"

#include "tests/unit/layout_assert.h"

#include <stdlib.h>

#define V1 "\x93NUMPY\x01\x00"
#define WHOLE "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
#define BUFFER 4096

/* A file's start of this version around a literal. Returns its bytes. */
static size_t build(int major, int minor, const char *literal, unsigned char out[BUFFER])
{
    size_t length = strlen(literal), begin = major == 1 ? 10 : 12;
    memcpy(out, NPY_MAGIC, NPY_MAGIC_BYTES);
    out[6] = (unsigned char)major;
    out[7] = (unsigned char)minor;
    for (size_t i = 8; i < begin; i++)
        out[i] = (unsigned char)(length >> 8 * (i - 8));
    memcpy(out + begin, literal, length);
    return begin + length;
}

/* From memory of exactly that size, so that the address sanitizer sees what is read past it. */
static enum td_status read_exact(const unsigned char *bytes, size_t length, enum td_dtype hint,
                                 struct npy_header *out, size_t *needed)
{
    unsigned char *copy = malloc(length);
    assert_non_null(copy);
    memcpy(copy, bytes, length);
    enum td_status status = npy_read(copy, length, hint, out, needed);
    free(copy);
    return status;
}

static enum td_status read_literal(int major, const char *literal, enum td_dtype hint,
                                   struct npy_header *out)
{
    unsigned char bytes[BUFFER];
    size_t needed = 77, length = build(major, 0, literal, bytes);
    enum td_status status = read_exact(bytes, length, hint, out, &needed);
    if (status == TD_OK) {
        assert_int_equal(needed, 0);
        assert_int_equal(out->header_bytes, length);
    }
    return status;
}

#define C false
#define F true
#define LITTLE false
#define BIGGEST_FIRST true

static const struct {
    int major;
    const char *literal;
    enum td_dtype dtype;
    struct dims shape;
    bool fortran_order, big_endian;
} good[] = {
    {1, WHOLE, TD_FLOAT32, DIMS(2, 3), C, LITTLE},
    {2, WHOLE "    \n", TD_FLOAT32, DIMS(2, 3), C, LITTLE},
    {3, WHOLE "\n", TD_FLOAT32, DIMS(2, 3), C, LITTLE},
    {1, "{'shape': (), 'descr': '|b1', 'fortran_order': False}", TD_BOOL, SCALAR, C, LITTLE},
    {1, " {\"fortran_order\" : True , \"shape\":(3 ,),'descr' :\">i8\" ,\n}\t\r\n", TD_INT64,
     DIMS(3), F, BIGGEST_FIRST},
    {1, "{'descr': '<u2', 'fortran_order': True, 'shape': (2L, 0L, 30000000000L), }", TD_UINT16,
     DIMS(2, 0, INT64_C(30000000000)), F, LITTLE},
    {1, "{'descr':'=c16','fortran_order':False,'shape':(1,1,)}", TD_COMPLEX128, DIMS(1, 1), C,
     LITTLE},
    {1, "{'descr':'>u1','fortran_order':False,'shape':()}", TD_UINT8, SCALAR, C, LITTLE},
    {1, "{'descr':'|i2','fortran_order':False,'shape':()}", TD_INT16, SCALAR, C, LITTLE},
    {1, "{'descr':'f8','fortran_order':False,'shape':()}", TD_FLOAT64, SCALAR, C, LITTLE},
    {1, "{'descr':'>c8','fortran_order':False,'shape':()}", TD_COMPLEX64, SCALAR, C, BIGGEST_FIRST},
    {1, "{'descr':'<f1','fortran_order':False,'shape':()}", TD_FLOAT8_E5M2, SCALAR, C, LITTLE},
    {1,
     "{'descr':'<i1','fortran_order':False,'shape':"
     "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)}",
     TD_INT8,
     DIMS(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
          1, 1),
     C, LITTLE},
};

static void reads(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        struct npy_header header;
        if (read_literal(good[i].major, good[i].literal, TD_DTYPE_NONE, &header) != TD_OK)
            fail_msg("%s: %s", good[i].literal, fail_detail());
        assert_int_equal(header.dtype, good[i].dtype);
        assert_same_dims(good[i].literal, header.shape.rank, header.shape.v, &good[i].shape);
        assert_int_equal(header.fortran_order, good[i].fortran_order);
        assert_int_equal(header.big_endian, good[i].big_endian);
    }
}

#define LITERAL(descr, shape) "{'descr': " descr ", 'fortran_order': False, 'shape': " shape ", }"
#define CONVERT                                                                                    \
    ", which tensord has not; convert it to a dtype such as float64 or uint8 before saving it"
#define AT_BYTE(n, what) "the .npy header is malformed at byte " #n ": expected " what

static const struct {
    const char *literal;
    enum td_status status;
    const char *detail;
} bad[] = {
    {LITERAL("'|O'", "(3,)"), TD_BAD_DTYPE, "the array has dtype '|O' (Python objects)" CONVERT},
    {LITERAL("'<U5'", "(3,)"), TD_BAD_DTYPE, "the array has dtype '<U5' (text)" CONVERT},
    {LITERAL("'|S2'", "(3,)"), TD_BAD_DTYPE, "the array has dtype '|S2' (byte strings)" CONVERT},
    {LITERAL("'<M8[ns]'", "()"), TD_BAD_DTYPE, "the array has dtype '<M8[ns]' (dates)" CONVERT},
    {LITERAL("'<m8'", "()"), TD_BAD_DTYPE, "the array has dtype '<m8' (time spans)" CONVERT},
    {LITERAL("'<f16'", "()"), TD_BAD_DTYPE,
     "the array has dtype '<f16' (floats of that size)" CONVERT},
    {LITERAL("'<c32'", "()"), TD_BAD_DTYPE,
     "the array has dtype '<c32' (complex numbers of that size)" CONVERT},
    {LITERAL("'|V16'", "()"), TD_BAD_DTYPE, "the array has dtype '|V16' (raw bytes)" CONVERT},
    {LITERAL("''", "()"), TD_BAD_DTYPE, "the array has dtype '' (unknown)" CONVERT},
    {LITERAL("'<'", "()"), TD_BAD_DTYPE, "the array has dtype '<' (unknown)" CONVERT},
    {LITERAL("'float32'", "()"), TD_BAD_DTYPE, "the array has dtype 'float32' (floats..."},
    {LITERAL("'<f4 '", "()"), TD_BAD_DTYPE, "the array has dtype '<f4 ' (floats..."},
    {LITERAL("'<<f4'", "()"), TD_BAD_DTYPE, "the array has dtype '<<f4' (unknown)..."},
    {LITERAL("'<V2'", "()"), TD_BAD_DTYPE,
     "the array has dtype '<V2' (raw bytes); say which dtype they are: bfloat16"},
    {LITERAL("'|V1'", "()"), TD_BAD_DTYPE,
     "the array has dtype '|V1' (raw bytes); say which dtype they are: float8_e4m3fn or "
     "float8_e5m2"},
    {LITERAL("[('a', '<f4')]", "()"), TD_BAD_DTYPE,
     "the array has a structured dtype (several fields in each element), which tensord has not; "
     "save each field as an array of its own"},
    {LITERAL("('<f4', (2,))", "()"), TD_BAD_DTYPE, "the array has a structured dtype..."},
    {LITERAL("'123456789012345678901234567890123456789012345'", "()"), TD_BAD_DTYPE,
     "the array has dtype '1234567890123456789012345678901234567890' (unknown)" CONVERT},

    {"", TD_INVALID, AT_BYTE(10, "'{', which begins a Python dict, but the header ends there")},
    {"[]", TD_INVALID, AT_BYTE(10, "'{', which begins a Python dict")},
    {"{", TD_INVALID, AT_BYTE(11, "a key in quotes, or '}', but the header ends there")},
    {"{,}", TD_INVALID, AT_BYTE(11, "a key in quotes, or '}'")},
    {"{descr", TD_INVALID, AT_BYTE(11, "a key in quotes, or '}'")},
    {"{'descr", TD_INVALID, AT_BYTE(17, "the closing quote, but the header ends there")},
    {"{'des\\x63r'", TD_INVALID, AT_BYTE(15, "a printable ASCII character other than a backslash")},
    {"{'descr\n'", TD_INVALID, AT_BYTE(17, "a printable ASCII character other than a backslash")},
    {"{'descr\xC3\xA9'", TD_INVALID, AT_BYTE(17, "a printable ASCII character other than ...")},
    {"{'descr\"", TD_INVALID, AT_BYTE(18, "the closing quote, but the header ends there")},
    {"{'descr' '<f4'", TD_INVALID, AT_BYTE(19, "':'")},
    {"{'descr':,", TD_INVALID, AT_BYTE(19, "the dtype as a string")},
    {"{'descr': None", TD_INVALID, AT_BYTE(20, "the dtype as a string")},
    {"{'descr':'<f4' 'shape'", TD_INVALID, AT_BYTE(25, "a comma or '}'")},
    {"{'descr':'<f4',,", TD_INVALID, AT_BYTE(25, "a key in quotes, or '}'")},
    {"{'fortran_order': 0", TD_INVALID, AT_BYTE(28, "True or False")},
    {"{'fortran_order': true", TD_INVALID, AT_BYTE(28, "True or False")},
    {"{'fortran_order': Tru", TD_INVALID, AT_BYTE(28, "True or False")},
    {"{'fortran_order': Truex", TD_INVALID, AT_BYTE(32, "a comma or '}'")},
    {"{'shape': 3", TD_INVALID, AT_BYTE(20, "the shape, a tuple of integers")},
    {"{'shape': [3]", TD_INVALID, AT_BYTE(20, "the shape, a tuple of integers")},
    {"{'shape': (3)", TD_INVALID,
     AT_BYTE(23, "a tuple; the shape of one dimension is written (3,), but the header ends there")},
    {"{'shape': (3 4)", TD_INVALID, AT_BYTE(23, "a comma or ')'")},
    {"{'shape': (,)", TD_INVALID, AT_BYTE(21, "a size, which is 0 or a positive integer")},
    {"{'shape': (3,,)", TD_INVALID, AT_BYTE(23, "a size, which is 0 or a positive integer")},
    {"{'shape': (-3,)", TD_INVALID, AT_BYTE(21, "a size, which is 0 or a positive integer")},
    {"{'shape': (03,)", TD_INVALID, AT_BYTE(21, "a size, which is 0 or a positive integer")},
    {"{'shape': (3.0,)", TD_INVALID, AT_BYTE(22, "a comma or ')'")},
    {"{'shape': (True,)", TD_INVALID, AT_BYTE(21, "a size, which is 0 or a positive integer")},
    {"{'shape': (3LL,)", TD_INVALID, AT_BYTE(23, "a comma or ')'")},
    {"{'shape': (3", TD_INVALID, AT_BYTE(22, "a comma or ')', but the header ends there")},
    {"{'shape': (3,", TD_INVALID, AT_BYTE(23, "a size, which is 0 or a positive integer, but ...")},
    {"{}", TD_INVALID,
     "the .npy header lacks the key 'descr'; expected descr, fortran_order and shape"},
    {"{'descr': '<f4', 'fortran_order': False}", TD_INVALID,
     "the .npy header lacks the key 'shape'; ..."},
    {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}", TD_INVALID,
     "the .npy header has the key 'descr' twice; expected descr, fortran_order and shape, once "
     "each"},
    {"{'shape': (), 'order': 'C'}", TD_INVALID, "the .npy header has the key 'order'; expected..."},
    {WHOLE "x", TD_INVALID, AT_BYTE(69, "nothing but blanks after the '}'")},
    {WHOLE "}", TD_INVALID, AT_BYTE(69, "nothing but blanks after the '}'")},
    {LITERAL("'<f4'", "(9223372036854775808,)"), TD_BAD_SHAPE,
     "the array has a size of 9223372036854775808, more than any tensor has"},
    {LITERAL("'<f4'", "(9223372036854775807,)"), TD_BAD_SHAPE, "Storage size calculation..."},
    {LITERAL("'<f4'", "(1099511627776, 1099511627776, 0)"), TD_BAD_SHAPE, "Storage size..."},
    {LITERAL("'<f4'", "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)"),
     TD_BAD_SHAPE, "the array has more than 32 dimensions; reshape it to fewer before saving it"},
};

static void refuses(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct npy_header header;
        fill(&header, sizeof header);
        assert_failure(read_literal(1, bad[i].literal, TD_DTYPE_NONE, &header), bad[i].status,
                       bad[i].detail);
        assert_filled(&header, sizeof header);
    }
}

static void reads_void_by_hint(void **state)
{
    static const struct {
        const char *descr;
        enum td_dtype hint, dtype; /* NONE: refused */
        bool big_endian;
    } rows[] = {
        {"<V2", TD_BFLOAT16, TD_BFLOAT16, false},
        {"|V2", TD_BFLOAT16, TD_BFLOAT16, false},
        {">V2", TD_BFLOAT16, TD_BFLOAT16, true},
        {"|V1", TD_FLOAT8_E4M3FN, TD_FLOAT8_E4M3FN, false},
        {"<V1", TD_FLOAT8_E5M2, TD_FLOAT8_E5M2, false},
        {">V1", TD_FLOAT8_E5M2, TD_FLOAT8_E5M2, false},
        {"<V2", TD_FLOAT8_E5M2, TD_DTYPE_NONE, false},
        {"|V1", TD_BFLOAT16, TD_DTYPE_NONE, false},
        {"<V2", TD_FLOAT16, TD_DTYPE_NONE, false},
        {"<V4", TD_FLOAT32, TD_DTYPE_NONE, false},
        {"<f4", TD_BFLOAT16, TD_FLOAT32, false}, /* it says its own */
        {"<f1", TD_FLOAT8_E4M3FN, TD_FLOAT8_E5M2, false},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        char literal[100];
        struct npy_header header;
        snprintf(literal, sizeof literal, LITERAL("'%s'", "(7,)"), rows[i].descr);
        enum td_status status = read_literal(1, literal, rows[i].hint, &header);
        assert_int_equal(status, rows[i].dtype == TD_DTYPE_NONE ? TD_BAD_DTYPE : TD_OK);
        if (status != TD_OK)
            continue;
        assert_int_equal(header.dtype, rows[i].dtype);
        assert_int_equal(header.big_endian, rows[i].big_endian);
    }
}

/* Whatever is there, as many bytes are asked for as are missing until more is known. */
static void asks_for_bytes(void **state)
{
    unsigned char bytes[BUFFER];
    (void)state;
    for (int major = 1; major <= 3; major++) {
        size_t begin = major == 1 ? 10 : 12, length = build(major, 0, WHOLE, bytes);
        for (size_t have = 0; have <= length; have++) {
            struct npy_header header;
            size_t needed = 77;
            fill(&header, sizeof header);
            assert_int_equal(read_exact(bytes, have, TD_DTYPE_NONE, &header, &needed), TD_OK);
            size_t want = have < 10 ? 10 : have < begin ? begin : have < length ? length : 0;
            assert_int_equal(needed, want);
            if (needed > 0)
                assert_filled(&header, sizeof header);
            else
                assert_int_equal(header.header_bytes, length);
        }
    }
}

static void refuses_by_the_first_bytes(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
        enum td_status status;
        const char *detail;
    } rows[] = {
        {"PK\3\4", 4, TD_INVALID, "this is no .npy file: it does not begin with \\x93NUMPY"},
        {"{", 1, TD_INVALID, "this is no .npy file: ..."},
        {"\x93NUMPX", 6, TD_INVALID, "this is no .npy file: ..."},
        {NPY_MAGIC "\x04\x00\x10\x00", 10, TD_UNSUPPORTED,
         "the .npy file is of version 4.0; expected 1.0, 2.0 or 3.0"},
        {NPY_MAGIC "\x00\x01\x10\x00", 10, TD_UNSUPPORTED, "the .npy file is of version 0.1; ..."},
        {NPY_MAGIC "\x01\x01\x10\x00", 10, TD_UNSUPPORTED, "the .npy file is of version 1.1; ..."},
        {V1 "\xFF\xFF", 10, TD_TOO_LARGE,
         "the .npy header has 65535 bytes; at most 65526 are read"},
        {NPY_MAGIC "\x02\x00\xF5\xFF\x00\x00", 12, TD_TOO_LARGE,
         "the .npy header has 65525 bytes; at most 65524 are read"},
        {NPY_MAGIC "\x03\x00\xFF\xFF\xFF\xFF", 12, TD_TOO_LARGE,
         "the .npy header has 4294967295 bytes; at most 65524 are read"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct npy_header header;
        size_t needed;
        assert_failure(read_exact((const unsigned char *)rows[i].bytes, rows[i].length,
                                  TD_DTYPE_NONE, &header, &needed),
                       rows[i].status, rows[i].detail);
    }
    struct npy_header header;
    size_t needed = 0;
    assert_int_equal(npy_read(V1 "\xF6\xFF", 10, TD_DTYPE_NONE, &header, &needed), TD_OK);
    assert_int_equal(needed, NPY_HEADER_MAX);
    assert_int_equal(npy_read(NULL, 0, TD_DTYPE_NONE, &header, &needed), TD_OK);
    assert_int_equal(needed, 10);
}

/* The bytes that NumPy 2.4 writes. */
static void writes_as_numpy(void **state)
{
    static const struct {
        enum td_dtype dtype;
        struct dims shape;
        size_t literal; /* bytes before the padding */
        const char *text;
    } rows[] = {
        {TD_FLOAT32, DIMS(2, 3), 118, WHOLE},
        {TD_INT64, SCALAR, 118, "{'descr': '<i8', 'fortran_order': False, 'shape': (), }"},
        {TD_BOOL, DIMS(5), 118, "{'descr': '|b1', 'fortran_order': False, 'shape': (5,), }"},
        {TD_BFLOAT16, DIMS(5), 118, "{'descr': '<V2', 'fortran_order': False, 'shape': (5,), }"},
        /* What fills two lines of 64 bytes but for one blank, and one digit more. */
        {TD_COMPLEX128, DIMS(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), 118,
         "{'descr': '<c16', 'fortran_order': False, "
         "'shape': (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), }"},
        {TD_COMPLEX128, DIMS(1, 1, 10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), 182,
         "{'descr': '<c16', 'fortran_order': False, "
         "'shape': (1, 1, 10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), }"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        unsigned char out[NPY_WRITE_MAX];
        size_t length = npy_write(rows[i].dtype, &rows[i].shape, out);
        size_t text = strlen(rows[i].text);
        assert_int_equal(length, 10 + rows[i].literal);
        assert_memory_equal(out, V1, 8);
        assert_int_equal(out[8] + 256 * out[9], rows[i].literal);
        assert_memory_equal(out + 10, rows[i].text, text);
        for (size_t at = 10 + text; at < length - 1; at++)
            assert_int_equal(out[at], ' ');
        assert_int_equal(out[length - 1], '\n');
    }
}

static void reads_what_it_writes(void **state)
{
    static const struct dims shapes[] = {SCALAR, DIMS(0), DIMS(7), DIMS(2, 3), DIMS(1, 0, 4)};
    (void)state;
    for (int dtype = 1; dtype < TD_DTYPE_END; dtype++)
        for (size_t i = 0; i < COUNT(shapes); i++) {
            unsigned char out[NPY_WRITE_MAX];
            struct npy_header header;
            size_t needed, length = npy_write((enum td_dtype)dtype, &shapes[i], out);
            assert_int_equal(length % 64, 0);
            assert_int_equal(read_exact(out, length, (enum td_dtype)dtype, &header, &needed),
                             TD_OK);
            assert_int_equal(needed, 0);
            assert_int_equal(header.dtype, dtype);
            assert_int_equal(header.header_bytes, length);
            assert_false(header.fortran_order);
            assert_false(header.big_endian);
            assert_same_dims("shape", header.shape.rank, header.shape.v, &shapes[i]);
        }
}

/* Room for whatever can be in a struct dims, valid or not. */
static void writes_within_the_room(void **state)
{
    struct dims longest = {.rank = RANK_MAX};
    unsigned char *out = malloc(NPY_WRITE_MAX);
    (void)state;
    assert_non_null(out);
    for (int d = 0; d < RANK_MAX; d++)
        longest.v[d] = INT64_MIN;
    assert_int_equal(npy_write(TD_COMPLEX128, &longest, out), 832);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),
        cmocka_unit_test(refuses),
        cmocka_unit_test(reads_void_by_hint),
        cmocka_unit_test(asks_for_bytes),
        cmocka_unit_test(refuses_by_the_first_bytes),
        cmocka_unit_test(writes_as_numpy),
        cmocka_unit_test(reads_what_it_writes),
        cmocka_unit_test(writes_within_the_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
