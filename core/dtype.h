/* dtype: the element types, once.
 *
 * The names are PyTorch's. On input NumPy's type strings ("<f4", "float32") and safetensors' names
 * ("F32") are understood as well. All values are little-endian in memory and on the wire; complex
 * numbers are (re, im) pairs. The numbers are the wire's. Part of the public interface.
 */
#ifndef TENSORD_DTYPE_H
#define TENSORD_DTYPE_H

#include <stddef.h>

/* X(number, NAME, name, size in bytes, kind, NumPy type string, safetensors name, DLPack code)
 * kind: b bool, u unsigned, i signed, f floating, c complex.
 * NumPy has no bfloat16 or float8: their bytes travel as void ("V2", "V1") or through ml_dtypes.
 * DLPack codes: 0 int, 1 uint, 2 float, 4 bfloat, 5 complex, 6 bool, 10 float8_e4m3fn,
 * 12 float8_e5m2 (DLPack 1.1). */
#define TD_DTYPES(X)                                                                               \
    X(1, BOOL, bool, 1, 'b', "|b1", "BOOL", 6)                                                     \
    X(2, UINT8, uint8, 1, 'u', "|u1", "U8", 1)                                                     \
    X(3, INT8, int8, 1, 'i', "|i1", "I8", 0)                                                       \
    X(4, UINT16, uint16, 2, 'u', "<u2", "U16", 1)                                                  \
    X(5, INT16, int16, 2, 'i', "<i2", "I16", 0)                                                    \
    X(6, UINT32, uint32, 4, 'u', "<u4", "U32", 1)                                                  \
    X(7, INT32, int32, 4, 'i', "<i4", "I32", 0)                                                    \
    X(8, UINT64, uint64, 8, 'u', "<u8", "U64", 1)                                                  \
    X(9, INT64, int64, 8, 'i', "<i8", "I64", 0)                                                    \
    X(10, FLOAT16, float16, 2, 'f', "<f2", "F16", 2)                                               \
    X(11, BFLOAT16, bfloat16, 2, 'f', "<V2", "BF16", 4)                                            \
    X(12, FLOAT32, float32, 4, 'f', "<f4", "F32", 2)                                               \
    X(13, FLOAT64, float64, 8, 'f', "<f8", "F64", 2)                                               \
    X(14, COMPLEX64, complex64, 8, 'c', "<c8", "C64", 5)                                           \
    X(15, COMPLEX128, complex128, 16, 'c', "<c16", "", 5)                                          \
    X(16, FLOAT8_E4M3FN, float8_e4m3fn, 1, 'f', "|V1", "F8_E4M3", 10)                              \
    X(17, FLOAT8_E5M2, float8_e5m2, 1, 'f', "|V1", "F8_E5M2", 12)

enum td_dtype {
    TD_DTYPE_NONE = 0,
#define TD_DTYPE_ENUM(number, NAME, name, size, kind, numpy, safetensors, dlpack)                  \
    TD_##NAME = number,
    TD_DTYPES(TD_DTYPE_ENUM)
#undef TD_DTYPE_ENUM
        TD_DTYPE_END
};

#define TD_DTYPE_COUNT (TD_DTYPE_END - 1)

#ifdef __cplusplus
extern "C" {
#endif

/* PyTorch's name ("float32"), "none" outside the table. Static. */
const char *td_dtype_name(int dtype);
/* Bytes of one element, 0 outside the table. */
size_t td_dtype_size(int dtype);
/* The dtype of any accepted spelling, with or without "torch." before it; TD_DTYPE_NONE if unknown.
 */
enum td_dtype td_dtype_parse(const char *name);

#ifdef __cplusplus
}
#endif

#endif
