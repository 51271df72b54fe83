"""The element types: `tensord.float32` and its sixteen siblings.

A dtype equals PyTorch's, NumPy's and ml_dtypes' dtype of the same elements, and the strings that
name it ("float32", "torch.float32", "<f4", safetensors' "F32"):

    tensord.float32 == torch.float32 == ... ; tensord.float32 == np.dtype("float32")
"""

import sys
from typing import Any

from tensord._tensord import lib
from tensord.errors import BadDtype

# name, kind (b bool, u unsigned, i signed, f floating, c complex), NumPy's type string, and the
# letter of Python's struct module ("" where it has none).
_TABLE = (
    ("bool", "b", "|b1", "?"),
    ("uint8", "u", "|u1", "B"),
    ("int8", "i", "|i1", "b"),
    ("uint16", "u", "<u2", "H"),
    ("int16", "i", "<i2", "h"),
    ("uint32", "u", "<u4", "I"),
    ("int32", "i", "<i4", "i"),
    ("uint64", "u", "<u8", "Q"),
    ("int64", "i", "<i8", "q"),
    ("float16", "f", "<f2", "e"),
    ("bfloat16", "f", "<V2", ""),
    ("float32", "f", "<f4", "f"),
    ("float64", "f", "<f8", "d"),
    ("complex64", "c", "<c8", "f"),
    ("complex128", "c", "<c16", "d"),
    ("float8_e4m3fn", "f", "|V1", ""),
    ("float8_e5m2", "f", "|V1", ""),
)

# What PyTorch's legacy tensor types are called: torch.FloatTensor holds float32.
_LEGACY = {
    "FloatTensor": "float32",
    "DoubleTensor": "float64",
    "HalfTensor": "float16",
    "BFloat16Tensor": "bfloat16",
    "ByteTensor": "uint8",
    "CharTensor": "int8",
    "ShortTensor": "int16",
    "IntTensor": "int32",
    "LongTensor": "int64",
    "BoolTensor": "bool",
    "ComplexFloatTensor": "complex64",
    "ComplexDoubleTensor": "complex128",
    "UInt16Tensor": "uint16",
    "UInt32Tensor": "uint32",
    "UInt64Tensor": "uint64",
    "Float8_e4m3fnTensor": "float8_e4m3fn",
    "Float8_e5m2Tensor": "float8_e5m2",
}

# What Python's own number types mean as a dtype, in NumPy and in PyTorch alike.
_PYTHON = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}


# NumPy's types of no dtype in particular, which numpy.dtype() nevertheless takes.
_ABSTRACT = (
    "generic number integer signedinteger unsignedinteger inexact floating complexfloating "
    "flexible character"
).split()


class DType:
    """An element type. There is one object for each; compare with == or `is`.

    Its hash is that of its name, as in {"float32": ...}. PyTorch's and NumPy's dtypes of the same
    elements are equal to it but have hashes of their own: in a dict or a set, use x.dtype.torch,
    x.dtype.numpy or tensord.dtype(...) of the keys.
    """

    __slots__ = ("code", "itemsize", "kind", "name", "struct_code", "typestr")

    def __init__(self, name: str, kind: str, typestr: str, struct_code: str):
        self.name = name  #: PyTorch's name
        self.kind = kind  #: b bool, u unsigned, i signed, f floating, c complex
        self.typestr = typestr  #: NumPy's type string; "<V2" or "|V1" where NumPy has none
        self.struct_code = struct_code  #: of one real number, for Python's struct; "" if none
        self.code = int(lib.td_dtype_parse(name.encode()))  #: the number on the wire
        self.itemsize = int(lib.td_dtype_size(self.code))  #: bytes of one element

    @property
    def is_floating_point(self) -> bool:
        return self.kind == "f"

    @property
    def is_complex(self) -> bool:
        return self.kind == "c"

    @property
    def is_signed(self) -> bool:
        return self.kind in "ifc"

    @property
    def numpy(self) -> Any:
        """NumPy's dtype; of bfloat16 and float8 that of ml_dtypes.

        Raises TypeError saying what to install if ml_dtypes is missing.
        """
        import numpy

        if not self.typestr[1:].startswith("V"):
            return numpy.dtype(self.typestr)
        try:
            import ml_dtypes
        except ImportError:
            raise BadDtype(
                f"NumPy has no {self.name}. Install ml_dtypes (pip install ml_dtypes), or cast "
                f'first: x.to("float32").numpy()'
            ) from None
        return numpy.dtype(getattr(ml_dtypes, self.name))

    @property
    def torch(self) -> Any:
        """PyTorch's dtype. Imports PyTorch."""
        import torch

        return getattr(torch, self.name)

    @property
    def legacy_name(self) -> str:
        """What PyTorch's `x.type()` says: "torch.FloatTensor"."""
        return "torch." + next(old for old, name in _LEGACY.items() if name == self.name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DType):
            return self is other
        return _find(other) is self

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"tensord.{self.name}"

    def __reduce__(self) -> tuple:
        return (dtype, (self.name,))


_BY_CODE = {}
_BY_NAME = {}
for _row in _TABLE:
    _dtype = DType(*_row)
    _BY_CODE[_dtype.code] = _BY_NAME[_dtype.name] = _dtype

ALL = tuple(_BY_NAME.values())


def from_code(code: int) -> DType:
    """The dtype with a number of the wire."""
    return _BY_CODE[int(code)]


def _find_text(text: str) -> "DType | None":
    legacy = _LEGACY.get(text.removeprefix("torch."))
    if legacy:
        return _BY_NAME[legacy]
    if "\0" in text:
        return None
    return _BY_CODE.get(int(lib.td_dtype_parse(text.encode("utf-8", "replace"))))


def _find_numpy(numpy: Any, value: Any) -> "DType | None":
    """Of np.dtype("f4"), np.float32, ml_dtypes.bfloat16; None for other types and byte orders."""
    if isinstance(value, type) and issubclass(value, numpy.generic):
        if value.__name__ in _ABSTRACT:
            return None
        value = numpy.dtype(value)
    if not isinstance(value, numpy.dtype) or value.byteorder == ">":
        return None
    return _BY_NAME.get(value.name)


def _find(value: Any) -> "DType | None":
    if isinstance(value, DType):
        return value
    if isinstance(value, str):
        return _find_text(value)
    if isinstance(value, type) and value in _PYTHON:
        return _BY_NAME[_PYTHON[value]]
    # Only who has imported a library can hold one of its dtypes.
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, getattr(torch, "dtype", ())):
        return _find_text(str(value))
    if numpy is not None and hasattr(numpy, "dtype"):
        return _find_numpy(numpy, value)
    return None


def dtype(value: Any) -> DType:
    """The dtype that a value names: ours, PyTorch's, NumPy's, Python's number types, a string.

    Raises BadDtype (a TypeError) for anything else, and for big-endian NumPy dtypes.
    """
    found = _find(value)
    if found is None:
        known = ", ".join(_BY_NAME)
        raise BadDtype(f"{value!r} is not a dtype of tensord. The dtypes are: {known}")
    return found


def is_dtype(value: Any) -> bool:
    """True if the value names a dtype."""
    return _find(value) is not None


bool_ = _BY_NAME["bool"]  # tensord.bool
uint8 = _BY_NAME["uint8"]
int8 = _BY_NAME["int8"]
uint16 = _BY_NAME["uint16"]
int16 = _BY_NAME["int16"]
uint32 = _BY_NAME["uint32"]
int32 = _BY_NAME["int32"]
uint64 = _BY_NAME["uint64"]
int64 = _BY_NAME["int64"]
float16 = _BY_NAME["float16"]
bfloat16 = _BY_NAME["bfloat16"]
float32 = _BY_NAME["float32"]
float64 = _BY_NAME["float64"]
complex64 = _BY_NAME["complex64"]
complex128 = _BY_NAME["complex128"]
float8_e4m3fn = _BY_NAME["float8_e4m3fn"]
float8_e5m2 = _BY_NAME["float8_e5m2"]
