#include "core/dtype_info.h"

#include <string.h>

const struct dtype_info dtype_infos[TD_DTYPE_END] = {[TD_DTYPE_NONE] = {"none", 0, '\0', "", "", 0},
#define DTYPE_ROW(number, NAME, name, size, kind, numpy, safetensors, dlpack)                      \
    [TD_##NAME] = {#name, size, kind, numpy, safetensors, dlpack},
                                                     TD_DTYPES(DTYPE_ROW)
#undef DTYPE_ROW
};

const char *td_dtype_name(int dtype)
{
    return dtype_valid(dtype) ? dtype_infos[dtype].name : dtype_infos[TD_DTYPE_NONE].name;
}

size_t td_dtype_size(int dtype)
{
    return dtype_valid(dtype) ? dtype_infos[dtype].size_bytes : 0;
}

/* Second names that one of the libraries has, and in which of them the name means this dtype. Alone
 * they are PyTorch's: "float" is float32 and "int" is int32, where Python's own and NumPy's strings
 * would mean 64 bits. torch.char, torch.byte and the like do not exist. */
static const struct dtype_alias {
    const char *name;
    enum td_dtype dtype;
    bool torch, numpy;
} dtype_aliases[] = {
    {"half", TD_FLOAT16, true, true},      {"float", TD_FLOAT32, true, false},
    {"double", TD_FLOAT64, true, true},    {"short", TD_INT16, true, true},
    {"int", TD_INT32, true, false},        {"long", TD_INT64, true, true},
    {"cfloat", TD_COMPLEX64, true, false}, {"cdouble", TD_COMPLEX128, true, true},
    {"bool_", TD_BOOL, false, true},
};

/* NumPy has no name and no type string for this dtype: "V2" is any two bytes, "V1" any one. */
static bool numpy_lacks(const struct dtype_info *info)
{
    return info->numpy[1] == 'V';
}

static enum td_dtype parse_name(const char *name, bool torch, bool numpy)
{
    for (int d = TD_DTYPE_NONE + 1; d < TD_DTYPE_END; d++) {
        const struct dtype_info *info = &dtype_infos[d];
        if (strcmp(name, info->name) == 0 && (torch || !numpy_lacks(info)))
            return (enum td_dtype)d;
    }
    for (size_t i = 0; i < sizeof dtype_aliases / sizeof *dtype_aliases; i++) {
        const struct dtype_alias *alias = &dtype_aliases[i];
        if (strcmp(name, alias->name) == 0 && ((torch && alias->torch) || (numpy && alias->numpy)))
            return alias->dtype;
    }
    return TD_DTYPE_NONE;
}

/* "<f4", "=f4", "|u1", "f4". Everything here is little-endian, so ">" fits single bytes only. */
static enum td_dtype parse_numpy_string(const char *name)
{
    char order = *name;
    if (order == '<' || order == '>' || order == '=' || order == '|')
        name++;
    for (int d = TD_DTYPE_NONE + 1; d < TD_DTYPE_END; d++) {
        const struct dtype_info *info = &dtype_infos[d];
        if (numpy_lacks(info) || strcmp(name, info->numpy + 1) != 0)
            continue;
        return order == '>' && info->size_bytes > 1 ? TD_DTYPE_NONE : (enum td_dtype)d;
    }
    return TD_DTYPE_NONE;
}

static enum td_dtype parse_safetensors(const char *name)
{
    for (int d = TD_DTYPE_NONE + 1; d < TD_DTYPE_END; d++)
        if (strcmp(name, dtype_infos[d].safetensors) == 0)
            return (enum td_dtype)d;
    return TD_DTYPE_NONE;
}

/* The case of letters counts: "i8" is NumPy's int64, "I8" safetensors' int8. */
enum td_dtype td_dtype_parse(const char *name)
{
    if (!name || !*name)
        return TD_DTYPE_NONE;
    if (strncmp(name, "torch.", 6) == 0)
        return parse_name(name + 6, true, false);
    if (strncmp(name, "numpy.", 6) == 0)
        return parse_name(name + 6, false, true);
    enum td_dtype dtype = parse_name(name, true, true);
    if (dtype == TD_DTYPE_NONE)
        dtype = parse_numpy_string(name);
    if (dtype == TD_DTYPE_NONE)
        dtype = parse_safetensors(name);
    return dtype;
}

#define BIT(NAME) (1u << TD_##NAME)

#define COMPLEX (BIT(COMPLEX64) | BIT(COMPLEX128))
#define FROM_FLOAT32 (BIT(FLOAT32) | BIT(FLOAT64) | COMPLEX)
#define FROM_FLOAT64 (BIT(FLOAT64) | BIT(COMPLEX128))
#define FROM_FLOAT8 (BIT(FLOAT16) | BIT(BFLOAT16) | FROM_FLOAT32)
#define EVERY ((1u << TD_DTYPE_END) - (1u << TD_BOOL))

/* What each dtype casts to safely. Among NumPy's dtypes this is np.can_cast, which calls 64-bit
 * integers safe in float64 although those past 2^53 round. For the others safe means exact: bytes
 * fit in bfloat16's 8 significant bits, nothing but bool fits in float8 (ml_dtypes says bytes do).
 */
static const unsigned casts_safely[TD_DTYPE_END] = {
    [TD_BOOL] = EVERY,
    [TD_UINT8] = BIT(UINT8) | BIT(UINT16) | BIT(INT16) | BIT(UINT32) | BIT(INT32) | BIT(UINT64) |
                 BIT(INT64) | FROM_FLOAT8,
    [TD_INT8] = BIT(INT8) | BIT(INT16) | BIT(INT32) | BIT(INT64) | FROM_FLOAT8,
    [TD_UINT16] = BIT(UINT16) | BIT(UINT32) | BIT(INT32) | BIT(UINT64) | BIT(INT64) | FROM_FLOAT32,
    [TD_INT16] = BIT(INT16) | BIT(INT32) | BIT(INT64) | FROM_FLOAT32,
    [TD_UINT32] = BIT(UINT32) | BIT(UINT64) | BIT(INT64) | FROM_FLOAT64,
    [TD_INT32] = BIT(INT32) | BIT(INT64) | FROM_FLOAT64,
    [TD_UINT64] = BIT(UINT64) | FROM_FLOAT64,
    [TD_INT64] = BIT(INT64) | FROM_FLOAT64,
    [TD_FLOAT16] = BIT(FLOAT16) | FROM_FLOAT32,
    [TD_BFLOAT16] = BIT(BFLOAT16) | FROM_FLOAT32,
    [TD_FLOAT32] = FROM_FLOAT32,
    [TD_FLOAT64] = FROM_FLOAT64,
    [TD_COMPLEX64] = COMPLEX,
    [TD_COMPLEX128] = BIT(COMPLEX128),
    [TD_FLOAT8_E4M3FN] = BIT(FLOAT8_E4M3FN) | FROM_FLOAT8,
    [TD_FLOAT8_E5M2] = BIT(FLOAT8_E5M2) | FROM_FLOAT8,
};

bool dtype_can_cast_safely(enum td_dtype from, enum td_dtype to)
{
    return dtype_valid((int)from) && dtype_valid((int)to) && (casts_safely[from] >> to & 1u);
}

bool dtype_can_cast_same_kind(enum td_dtype from, enum td_dtype to)
{
    static const char upwards[] = "buifc";
    if (!dtype_valid((int)from) || !dtype_valid((int)to))
        return false;
    return strchr(upwards, dtype_infos[from].kind) <= strchr(upwards, dtype_infos[to].kind);
}
