"""The casts of core, reached through cast_shim.c, for the tests beside this file.

TENSORD_CAST_LIB is the path of the library that the shim is built into."""

import ctypes
import os

import ml_dtypes
import numpy as np
import pytest

LIBRARY = os.environ.get("TENSORD_CAST_LIB")
if not LIBRARY:
    pytest.skip("TENSORD_CAST_LIB (path of the cast library) is not set", allow_module_level=True)

library = ctypes.CDLL(LIBRARY)
library.cast_run_steps.argtypes = [
    ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p,
    ctypes.c_ssize_t, ctypes.c_size_t, ctypes.c_uint]  # fmt: skip
library.cast_run_steps.restype = None
library.cast_path.argtypes = [ctypes.c_size_t]
library.cast_path.restype = ctypes.c_char_p

SATURATE, STREAM = 1, 2  # enum cast_flag
PATHS = []
while (path := library.cast_path(len(PATHS))) is not None:
    PATHS.append(path.decode())

# In the order of TD_DTYPES, which is that of their numbers, from 1.
NAMES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
         "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
         "float8_e4m3fn", "float8_e5m2"]  # fmt: skip
NUMBERS = {name: number for number, name in enumerate(NAMES, 1)}
NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in NAMES}
# What a NaN becomes.
NAN_BITS = {"float16": 0x7E00, "bfloat16": 0x7FC0, "float32": 0x7FC00000,
            "float64": 0x7FF8000000000000, "float8_e4m3fn": 0x7F, "float8_e5m2": 0x7F}  # fmt: skip


def run(path, source, to, out, flags=0):
    """Casts one array of any steps and alignment into another, on one path."""
    assert library.cast_use(path.encode())
    library.cast_run_steps(
        NUMBERS[source.dtype.name], NUMBERS[to], source.ctypes.data, source.strides[0],
        out.ctypes.data, out.strides[0], source.size, flags)  # fmt: skip
    return out


def cast(source, to, saturate=False):
    """A packed copy in another dtype. All paths give the same bytes, streaming or not."""
    source = np.ascontiguousarray(source)
    results = [
        run(path, source, to, np.empty(source.shape, DTYPES[to]), saturate | flags)
        for path in PATHS
        for flags in (0, STREAM)
    ]
    for other in results[1:]:
        assert np.array_equal(other.view(np.uint8), results[0].view(np.uint8)), (source.dtype, to)
    return results[0]


def bits(array):
    return array.view(f"u{array.dtype.itemsize}")


def every_value(name):
    """All elements of one or two bytes, in the order of their bits."""
    size = DTYPES[name].itemsize
    return np.arange(256**size, dtype=f"u{size}").view(DTYPES[name])
