"""What the tests of proto/format share: the library of format_shim.c, and arrays to write.

TENSORD_FORMAT_LIB names a shared library of format_shim.c and what it needs.
"""

import ctypes
import io
import os
import warnings

import pytest

LIBRARY = os.environ.get("TENSORD_FORMAT_LIB")
if not LIBRARY:
    pytest.skip("TENSORD_FORMAT_LIB is not set: no library to test", allow_module_level=True)
np = pytest.importorskip("numpy")
ml_dtypes = pytest.importorskip("ml_dtypes")
pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

shim = ctypes.CDLL(LIBRARY)
int64s = ctypes.POINTER(ctypes.c_int64)
size_out = ctypes.POINTER(ctypes.c_size_t)
texts = ctypes.POINTER(ctypes.c_char_p)
VISIT = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, int64s, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t
)
shim.format_shim_detail.restype = ctypes.c_char_p
shim.format_shim_dtype.restype = ctypes.c_char_p
shim.format_shim_index_none.restype = ctypes.c_int64
shim.format_shim_index.argtypes = [ctypes.c_char_p, ctypes.c_size_t, int64s]
shim.format_shim_npy_read.argtypes = [
    ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, int64s, size_out
]  # fmt: skip
shim.format_shim_npy_write.argtypes = [ctypes.c_int, ctypes.c_int, int64s, ctypes.c_char_p]
shim.format_shim_npy_write.restype = ctypes.c_size_t
shim.format_shim_safetensors_read.argtypes = [
    ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.POINTER(ctypes.c_void_p), size_out,
    texts,
]  # fmt: skip
shim.format_shim_safetensors_entry.argtypes = [ctypes.c_void_p, ctypes.c_size_t, int64s]
shim.format_shim_safetensors_entry.restype = ctypes.c_char_p
shim.safetensors_destroy.argtypes = [ctypes.c_void_p]
shim.safetensors_destroy.restype = None
shim.format_shim_safetensors_write.argtypes = [
    ctypes.c_size_t, texts, int64s, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p), size_out
]  # fmt: skip
shim.format_shim_npz_read.argtypes = [
    ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_uint64, VISIT
]  # fmt: skip
shim.format_shim_npz_write.argtypes = [
    ctypes.c_size_t, texts, int64s, texts, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, size_out
]  # fmt: skip
libc = ctypes.CDLL(None)
libc.free.argtypes = [ctypes.c_void_p]

OK, INVALID, UNSUPPORTED, BAD_SHAPE, BAD_INDEX, BAD_DTYPE = 0, 1, 12, 13, 14, 15
RANK_MAX, INDEX_MAX = 32, 64
NONE = shim.format_shim_index_none()
NAMES = [shim.format_shim_dtype(number).decode() for number in range(1, 18)]
NUMBERS = {name: number for number, name in enumerate(NAMES, 1)}
LACKING = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]
NUMPY = {
    name: np.dtype(getattr(ml_dtypes, name) if name in LACKING else name) for name in NAMES
}
OWN = [name for name in NAMES if name not in LACKING]  # NumPy's

many = settings(
    deadline=None,
    max_examples=200,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def detail():
    return shim.format_shim_detail().decode()


def numbers(count):
    return (ctypes.c_int64 * count)()


def described(dtype, shape):
    """The numbers that say an array to the shim."""
    padding = [0] * (RANK_MAX - len(shape))
    return [NUMBERS[dtype], 0, 0, 0, len(shape), *shape, *padding]


sizes = st.sampled_from([0, 1, 1, 2, 3, 5, 12])
shapes = st.one_of(
    st.lists(sizes, max_size=4).map(tuple), st.integers(0, RANK_MAX).map(lambda n: (1,) * n)
)


def filled(dtype, shape):
    """An array whose bytes all differ from their neighbours'."""
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return (np.arange(count) * 37 % 251).astype(np.uint8).view(dtype).reshape(shape)


def same_bytes(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()

blanks = st.sampled_from(["", "", " ", "  ", "\n", "\t"])


class Npy:
    """What npy_read says of a file's start."""

    def __init__(self, data, hint="none"):
        out, needed = numbers(5 + RANK_MAX), ctypes.c_size_t(77)
        hint = NUMBERS.get(hint, 0)
        self.status = shim.format_shim_npy_read(data, len(data), hint, out, needed)
        self.detail = detail() if self.status != OK else None
        self.needed = needed.value
        if self.status == OK and self.needed == 0:
            self.header_bytes = out[3]
            self.take(out)

    def take(self, array):
        self.dtype, self.fortran_order, self.big_endian = NAMES[array[0] - 1], array[1], array[2]
        self.shape = tuple(array[5 : 5 + array[4]])

    @classmethod
    def of(cls, array):
        """Of elements without their header."""
        npy = cls.__new__(cls)
        npy.header_bytes = 0
        npy.take(array)
        return npy

    def array(self, data):
        """The elements, by what the header says and nothing else."""
        dtype = NUMPY[self.dtype]
        if self.big_endian:
            dtype = dtype.newbyteorder(">")
        flat = np.frombuffer(data[self.header_bytes :], dtype)
        return flat.reshape(self.shape, order="F" if self.fortran_order else "C")


def npy_bytes(array, version=None):
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of version 2.0, and of pickles
        np.lib.format.write_array(out, array, version)
    return out.getvalue()


@st.composite
def arrays(draw):
    dtype = NUMPY[draw(st.sampled_from(OWN))].newbyteorder(draw(st.sampled_from("<>=|")))
    array = filled(dtype, draw(shapes))
    layout = draw(st.sampled_from(["C", "F", "reversed"]))
    if layout == "reversed":
        return array.T[::-1] if array.ndim else array
    return np.asarray(array, order=layout)
