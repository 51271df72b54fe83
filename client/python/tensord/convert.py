"""Arrays on their way in: what memory a value has, whatever library it comes from.

Understood are NumPy arrays and scalars (ml_dtypes' too), PyTorch tensors, anything with DLPack, the
array interface or the buffer protocol, and Python's numbers and nested lists of them. Neither NumPy
nor PyTorch is imported here unless the value needs it.
"""

import array
import functools
import importlib
import struct
import sys
from typing import Any, Callable, Iterator, NamedTuple

from tensord import _shapes, dlpack
from tensord._session import python_number
from tensord._tensord import ffi
from tensord.dtypes import DType, _find, dtype
from tensord.errors import BadDtype, TooLarge

# The text of PyTorch's own error.
_NUMPY_DTYPES = (
    "float64, float32, float16, complex64, complex128, int64, int32, int16, int8, uint64, uint32, "
    "uint16, uint8, and bool"
)
_LARGE = 64 << 20  # bytes, before which nobody asks whether they are too many
_MAX_DEPTH = 32  # of nested lists: the highest rank


class Source(NamedTuple):
    """Elements in memory of this process. Shape and strides in elements, address in bytes."""

    dtype: DType
    shape: tuple
    strides: tuple
    address: int
    owner: Any  # keeps the memory alive
    requires_grad: bool = False
    gathered: bool = False  # this is a copy made here, not the caller's own memory
    origin: int = 0  # the address that a copy of an array was made from

    @property
    def nbytes(self) -> int:
        return _shapes.count(self.shape) * self.dtype.itemsize

    @property
    def body(self) -> tuple:
        """(address, bytes) of the elements; only of a contiguous one."""
        return self.address, self.nbytes

    def is_contiguous(self) -> bool:
        return _shapes.is_contiguous(self.shape, self.strides)


def source(
    value: Any,
    want: "DType | None" = None,
    contiguous: bool = True,
    limit: "Callable[[], int] | None" = None,
) -> Source:
    """The memory of a value, gathered into C order if `contiguous` asks for that.

    `want` is a hint: lists and numbers are written in that dtype where Python can do it exactly,
    and in float64 or complex128 where the daemon has to do the rounding. `limit` tells, when it is
    called, how many bytes are too many to be gathered: strides of 0 make any number of so few.
    """

    def check(nbytes: int) -> None:
        if limit is not None and nbytes > _LARGE and nbytes > (most := limit()):
            raise TooLarge(
                f"the elements are {nbytes} bytes in C order, and the daemon takes at most {most}; "
                "store what they are made of, and expand that there"
            )

    found = _library_source(value, contiguous, check)
    if found is None:
        found = _list_source(value, want, check)
    return found


_Check = Callable[[int], None]


def _library_source(value: Any, contiguous: bool, check: _Check) -> "Source | None":
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
        return _torch_source(torch, value, contiguous, check)
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _numpy_source(numpy, value, contiguous, check)
    if hasattr(value, "__dlpack__"):
        return _dlpack_source(value, contiguous, check)
    if hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
        return _numpy_source(importlib.import_module("numpy"), value, contiguous, check)
    try:
        view = memoryview(value)
    except TypeError:
        return None
    return _buffer_source(view, check)


def _torch_source(torch: Any, tensor: Any, contiguous: bool, check: _Check) -> Source:
    element = _find(tensor.dtype)
    if element is None:
        raise BadDtype(f"tensord has no dtype like PyTorch's {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise BadDtype(f"a {tensor.layout} tensor has no plain elements; use x.to_dense()")
    if contiguous and not tensor.is_contiguous():
        check(tensor.numel() * element.itemsize)
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    if contiguous:
        plain = plain.contiguous()
    return Source(
        element,
        tuple(plain.shape),
        tuple(plain.stride()),
        plain.data_ptr(),
        plain,
        requires_grad=bool(tensor.requires_grad),
        gathered=plain.data_ptr() != tensor.data_ptr(),
        origin=tensor.data_ptr() if tensor.device.type == "cpu" else 0,
    )


def _numpy_source(numpy: Any, value: Any, contiguous: bool, check: _Check) -> Source:
    values = given = numpy.asarray(value)
    if values.dtype.byteorder == ">":
        check(values.nbytes)
        values = values.astype(values.dtype.newbyteorder("<"))
    element = _find(values.dtype)
    if element is None:
        raise BadDtype(
            f"can't convert np.ndarray of type {values.dtype.type.__module__}."
            f"{values.dtype.type.__name__}. The only supported types are: {_NUMPY_DTYPES}."
        )
    if _needs_gathering(values, contiguous):
        check(values.nbytes)
        values = values.copy(order="C")
    return Source(
        element,
        tuple(values.shape),
        tuple(step // element.itemsize for step in values.strides),
        _address(values),
        values,
        gathered=values is not given or not _is_own_memory(numpy, value, given),
        origin=_address(given),
    )


def _address(values: Any) -> int:
    return int(values.__array_interface__["data"][0])


def _is_own_memory(numpy: Any, value: Any, values: Any) -> bool:
    """False for arrays that NumPy made of something else. They may well lie in memory that can be
    shared, inside tensord.allocator(), but nobody else sees them."""
    if isinstance(value, numpy.ndarray):
        return True
    shown = None if isinstance(value, numpy.generic) else _interface(value)
    return shown is not None and shown["data"] is not None and shown["data"][0] == _address(values)


def _interface(value: Any) -> Any:
    found = getattr(value, "__array_interface__", None)
    return found if isinstance(found, dict) and isinstance(found.get("data"), tuple) else None


def _needs_gathering(values: Any, contiguous: bool) -> bool:
    """True for strides that the daemon does not know: negative ones, and parts of an element."""
    if values.flags.c_contiguous:
        return False
    return contiguous or any(step < 0 or step % values.itemsize for step in values.strides)


def _dlpack_source(value: Any, contiguous: bool, check: _Check) -> Source:
    view = dlpack.read(value)
    found = Source(
        view.dtype, view.shape, view.strides, view.address, view.owner, gathered=view.copied
    )
    if found.is_contiguous() or (not contiguous and min(found.strides, default=0) >= 0):
        return found
    check(found.nbytes)
    return _gather(found)


def _gather(found: Source) -> Source:
    """A strided source copied into C order, without NumPy: by rows where they are in one piece."""
    size = found.dtype.itemsize
    whole_rows = bool(found.shape) and found.strides[-1] == 1
    outer = len(found.shape) - whole_rows
    row_bytes = size * (found.shape[-1] if whole_rows else 1)
    out, base = bytearray(), ffi.cast("char *", found.address)
    for offset in _offsets(found.shape[:outer], found.strides[:outer]):
        out += ffi.buffer(base + offset * size, row_bytes)
    return _own_source(found.dtype, found.shape, out)


def _offsets(shape: tuple, strides: tuple) -> Iterator[int]:
    """The offset of each position in C order, in elements."""
    if not shape:
        yield 0
        return
    for position in range(shape[0]):
        for inner in _offsets(shape[1:], strides[1:]):
            yield position * strides[0] + inner


def _own_source(element: DType, shape: tuple, elements: Any) -> Source:
    """A source over elements that were written here, in C order."""
    memory = ffi.from_buffer(elements)
    address = int(ffi.cast("uintptr_t", memory))
    return Source(element, shape, _shapes.c_strides(shape), address, memory, gathered=True)


_BUFFER_KINDS = {"?": "b", "e": "f", "f": "f", "d": "f", "Zf": "c", "Zd": "c", "c": "u"}
_BUFFER_KINDS.update(dict.fromkeys("bhilqn", "i"), **dict.fromkeys("BHILQN", "u"))


def _buffer_dtype(view: memoryview) -> DType:
    letters = view.format.lstrip("<=@")
    kind = _BUFFER_KINDS.get(letters)
    found = _find(f"<{kind}{view.itemsize}") if kind and letters != "?" else None
    if letters == "?" and view.itemsize == 1:
        found = dtype("bool")
    if found is None:
        raise BadDtype(f"tensord has no dtype like the buffer format {view.format!r}")
    return found


def _buffer_source(view: memoryview, check: _Check) -> Source:
    element, shape = _buffer_dtype(view), tuple(view.shape or ())
    gathered = not view.c_contiguous
    if gathered:
        check(view.nbytes)
    memory = ffi.from_buffer(view.tobytes() if gathered else view)
    address = int(ffi.cast("uintptr_t", memory))
    return Source(element, shape, _shapes.c_strides(shape), address, memory, gathered=gathered)


# ---- Python's numbers and nested lists ---------------------------------------------------------


def _list_source(value: Any, want: "DType | None", check: _Check) -> Source:
    _check_value(value)
    flat: list = []
    shape = _shape_of(value)
    _flatten(value, shape, 0, flat)
    if any(hasattr(item, "__array__") or hasattr(item, "dtype") for item in flat):
        import numpy  # lists of arrays, and of NumPy's numbers, which have dtypes of their own

        found = _numpy_source(numpy, numpy.asarray(value), True, check)
        return found._replace(gathered=True, origin=0)
    numbers = [item if _is_number(item) else python_number(item) for item in flat]
    element = _written_as(want or _natural(numbers))
    return _own_source(element, shape, _pack(numbers, element))


def _is_number(value: Any) -> bool:
    return type(value) in (bool, int, float, complex)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple, range))


def _check_value(value: Any) -> None:
    """A TypeError for what is neither elements nor one of them."""
    if _is_number(value) or _is_sequence(value) or isinstance(value, str) or hasattr(value, "item"):
        return
    several = "; c.update and c.put_state_dict store several by name"
    raise TypeError(
        "an array, a tensor, a number or a nested list of numbers was expected, not "
        f"{type(value).__name__}{several if hasattr(value, 'keys') else ''}"
    )


def _shape_of(value: Any) -> tuple:
    shape: list = []
    while _is_sequence(value) and len(shape) < _MAX_DEPTH:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if isinstance(value, str):
        if not shape:
            raise TypeError("new(): invalid data type 'str'")
        raise ValueError("too many dimensions 'str'")
    return tuple(shape)


def _flatten(value: Any, shape: tuple, dim: int, out: list) -> None:
    """Appends the elements in C order; refuses lists of unequal length with PyTorch's text."""
    if dim == len(shape):
        if _is_sequence(value):
            raise ValueError(f"too many dimensions '{type(value).__name__}'")
        out.append(value)
        return
    if not _is_sequence(value):
        raise TypeError(f"expected a sequence at dim {dim} (got {type(value).__name__})")
    if len(value) != shape[dim]:
        raise ValueError(
            f"expected sequence of length {shape[dim]} at dim {dim} (got {len(value)})"
        )
    for item in value:
        _flatten(item, shape, dim + 1, out)


def _natural(numbers: list) -> DType:
    """PyTorch's default for Python numbers: float32, unless all are integers or all are bools."""
    kinds = {type(number) for number in numbers}
    if complex in kinds:
        return dtype("complex64")
    if float in kinds or not kinds:
        return dtype("float32")
    return dtype("int64") if int in kinds else dtype("bool")


def _written_as(want: DType) -> DType:
    """What Python writes: types narrower than float32 are rounded once, by the daemon."""
    narrow = want.is_floating_point and want.itemsize < 4
    return dtype("float64") if narrow else want


def _pack(numbers: list, element: DType) -> Any:
    if element.is_complex:
        parts = [part for number in map(complex, numbers) for part in (number.real, number.imag)]
        return array.array(element.struct_code, parts)
    if element.is_floating_point:
        return array.array(element.struct_code, numbers)  # to infinity where struct would raise
    convert = bool if element.kind == "b" else functools.partial(_integer, element)
    return struct.pack(f"<{len(numbers)}{element.struct_code}", *map(convert, numbers))


def _integer(element: DType, number: Any) -> int:
    """A number as an integer of that dtype, by PyTorch's rules and with its errors: fractions are
    cut off, negative integers wrap around in unsigned dtypes, and all else has to fit."""
    if isinstance(number, complex):
        raise TypeError("'complex' object cannot be interpreted as an integer")
    bits = 8 * element.itemsize
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if element.is_signed else (0, 2**bits - 1)
    if isinstance(number, float):
        fits = low <= number <= high  # false for NaN
    elif element.itemsize == 8 and not element.is_signed:
        if number < 0:
            raise OverflowError("can't convert negative int to unsigned")
        fits = number <= high
    else:
        if not -(2**63) <= number < 2**63:
            raise ValueError("Overflow when unpacking long long")
        fits = (low if element.is_signed else -high) <= number <= high
    if not fits:
        raise RuntimeError(f"value cannot be converted to type {element.name} without overflow")
    return int(number) if element.is_signed else int(number) % 2**bits
