/* cast_pairs: says CAST_PAIR(FROM, TO), which the including file defines, for every ordered pair of
 * dtypes, equal ones too; then undefines it. Included wherever 17 x 17 functions, kernels or table
 * entries are wanted, as often as needed. The columns are TD_DTYPES; the rows are listed here, as
 * the preprocessor cannot expand a list inside itself. cast_kernels.h counts them and refuses to
 * compile when a row is missing. No include guard, on purpose. */
#define CAST_PAIR_OF_ROW_(number, TO, ...) CAST_PAIR_EXPAND_(CAST_ROW, TO)
#define CAST_PAIR_EXPAND_(FROM, TO) CAST_PAIR(FROM, TO)

#define CAST_ROW BOOL
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW UINT8
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW INT8
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW UINT16
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW INT16
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW UINT32
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW INT32
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW UINT64
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW INT64
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW FLOAT16
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW BFLOAT16
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW FLOAT32
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW FLOAT64
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW COMPLEX64
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW COMPLEX128
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW FLOAT8_E4M3FN
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW
#define CAST_ROW FLOAT8_E5M2
TD_DTYPES(CAST_PAIR_OF_ROW_)
#undef CAST_ROW

#undef CAST_PAIR
#undef CAST_PAIR_OF_ROW_
#undef CAST_PAIR_EXPAND_
