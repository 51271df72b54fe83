"""DLPack: capsules out of mappings, and memory out of other libraries' capsules.

https://dmlc.github.io/dlpack/latest/python_spec.html
"""

import ctypes
from typing import Any, NamedTuple

from tensord._shapes import c_strides
from tensord._tensord import ffi, lib
from tensord.dtypes import DType, _find
from tensord.errors import BadDtype, WrongDevice

CPU = 1  # kDLCPU
CUDA = 2  # kDLCUDA
_HOST = (CPU, 3, 11, 13)  # and memory that CUDA or ROCm made, but the host can read
_READ_ONLY = 1
_IS_COPIED = 2

# code -> the dtype's name without its bits
_FAMILIES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex"}
_WHOLE = {(6, 8): "bool", (10, 8): "float8_e4m3fn", (12, 8): "float8_e5m2"}

_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p,) * 3
_valid = ctypes.pythonapi.PyCapsule_IsValid
_valid.restype, _valid.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)
_get = ctypes.pythonapi.PyCapsule_GetPointer
_get.restype, _get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


class View(NamedTuple):
    """What a capsule describes. Shape and strides in elements."""

    dtype: DType
    shape: tuple
    strides: tuple
    address: int
    owner: Any  # the capsule: dropping it ends the producer's export
    copied: bool  # by the producer, for this request


def capsule(managed: Any, versioned: bool) -> Any:
    """A capsule that owns a DLManagedTensor(Versioned) until a consumer takes it over."""
    pointer = int(ffi.cast("uintptr_t", managed))
    return _new(pointer, lib.tdpy_capsule_name(versioned), lib.tdpy_capsule_destructor())


def mark(managed: Any, read_only: bool, copied: bool) -> None:
    """Sets the flags of a versioned tensor that only its exporter knows."""
    managed.flags |= (_READ_ONLY if read_only else 0) | (_IS_COPIED if copied else 0)


def _request(value: Any) -> Any:
    """The capsule of any object with __dlpack__; producers before DLPack 1.0 take no version."""
    try:
        return value.__dlpack__(max_version=(1, 1))
    except TypeError:
        return value.__dlpack__()


def _tensor(owner: Any) -> tuple:
    """The DLTensor of a capsule, and whether its producer says that it is a copy."""
    if _valid(owner, b"dltensor_versioned"):
        pointer = _get(owner, b"dltensor_versioned")
        managed = ffi.cast("DLManagedTensorVersioned *", pointer)
        if managed.version.major != 1:
            raise BufferError(
                f"the tensor is of DLPack {managed.version.major}.{managed.version.minor}; 1.x is "
                "understood"
            )
        return managed.dl_tensor, bool(managed.flags & _IS_COPIED)
    if _valid(owner, b"dltensor"):
        return ffi.cast("DLManagedTensor *", _get(owner, b"dltensor")).dl_tensor, False
    raise BufferError("__dlpack__() did not return a DLPack capsule that can be used")


def _dtype(element: Any) -> DType:
    family = _FAMILIES.get(element.code, "code")
    found = _find(_WHOLE.get((element.code, element.bits), f"{family}{element.bits}"))
    if found is None or element.lanes != 1:
        raise BadDtype(
            f"tensord has no dtype like DLPack's code {element.code}, {element.bits} bits, "
            f"{element.lanes} lanes"
        )
    return found


def read(value: Any) -> View:
    """The memory of an object with __dlpack__. BufferError or WrongDevice if it is not here."""
    owner = _request(value)
    tensor, copied = _tensor(owner)
    if tensor.device.device_type not in _HOST:
        raise WrongDevice(
            f"the memory of this {type(value).__name__} is not host memory (DLPack device "
            f"{tensor.device.device_type}); copy it to the cpu first"
        )
    shape = tuple(tensor.shape[0 : tensor.ndim]) if tensor.ndim else ()
    # Producers before DLPack 1.2 may leave the strides of C order out.
    known = tensor.strides != ffi.NULL and tensor.ndim
    strides = tuple(tensor.strides[0 : tensor.ndim]) if known else c_strides(shape)
    address = int(ffi.cast("uintptr_t", tensor.data)) + tensor.byte_offset
    return View(_dtype(tensor.dtype), shape, strides, address, owner, copied)
