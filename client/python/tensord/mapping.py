"""Arrays on their way out: NumPy arrays, PyTorch tensors, capsules and buffers over a mapping.

Internal. A mapping (td_mapping) belongs to the objects that show its memory: it ends with the last
of them, in whatever order they, the handle and the client go.
"""

import struct
from typing import Any

from tensord import _shapes, dlpack
from tensord._session import Info, read_info, text
from tensord._tensord import ffi, lib
from tensord.dtypes import from_code
from tensord.errors import check

WRITE = int(lib.TD_MAP_WRITE)
PRIVATE = int(lib.TD_MAP_PRIVATE)
NUMPY = int(lib.TD_MAP_NUMPY)
FORCE = int(lib.TD_MAP_FORCE)

# What memoryview.cast knows.
_VIEWED = "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float32 float64".split()


class Mapping:
    """A tensor's memory in this process, until it is handed over to what shows it."""

    def __init__(self, pointer: Any):
        self.pointer = ffi.gc(pointer, lib.td_unmap)
        self._info: "Info | None" = None
        told = lib.td_mapping_info(pointer)
        rank = told.rank
        self.dtype = from_code(told.dtype)
        self.shape = tuple(told.shape[0:rank])
        self.strides = tuple(told.strides[0:rank])  #: in elements
        self.mode = text(told.mode)
        # Arrays of frozen tensors are read-only also where this process got a copy of its own.
        self.writable = self.mode == "mutable" and bool(lib.td_mapping_writable(pointer))

    @property
    def info(self) -> Info:
        """All that the daemon told. An array needs less, and reading it takes a while."""
        if self._info is None:
            self._info = read_info(lib.td_mapping_info(self.pointer))
        return self._info

    @property
    def address(self) -> int:
        return int(ffi.cast("uintptr_t", lib.td_mapping_data(self.pointer)))

    def buffer(self) -> Any:
        """A writable buffer from the first element to the end of the last; keeps the mapping."""
        pointer = self.pointer
        data = ffi.cast("char *", lib.td_mapping_data(pointer))
        # The closure is the reference: it goes when the buffer goes, and the mapping with it.
        keep = ffi.gc(data, lambda _data: pointer)
        return ffi.buffer(keep, lib.td_mapping_span(pointer))


class _ReadOnly:
    """The base of read-only arrays.

    It has no buffer, so NumPy finds nothing that it could make writable: setting flags.writeable
    on the array or on a view of it fails. Who ignores that, as PyTorch does, writes into pages of
    this process alone.
    """

    def __init__(self, mapping: Mapping):
        self._mapping = mapping
        self.__array_interface__ = array_interface(mapping)


def array_interface(mapping: Mapping) -> dict:
    """NumPy's __array_interface__, version 3. Valid while the mapping is kept."""
    return {
        "version": 3,
        "shape": mapping.shape,
        "typestr": mapping.dtype.typestr,
        "strides": tuple(step * mapping.dtype.itemsize for step in mapping.strides),
        "data": (mapping.address, not mapping.writable),
    }


def to_numpy(mapping: Mapping) -> Any:
    """A NumPy array of the mapping's memory, read-only where it is not ours to write."""
    import numpy

    element = mapping.dtype.numpy
    if 0 in mapping.shape:
        empty = numpy.empty(mapping.shape, element)
        empty.flags.writeable = mapping.writable
        return empty
    if not mapping.writable:
        values = numpy.asarray(_ReadOnly(mapping))
        return values if values.dtype == element else values.view(element)
    strides = tuple(step * mapping.dtype.itemsize for step in mapping.strides)
    return numpy.ndarray(mapping.shape, element, buffer=mapping.buffer(), strides=strides)


def to_torch(mapping: Mapping) -> Any:
    """A PyTorch tensor of the mapping's memory, which must be writable."""
    import torch

    element = mapping.dtype.torch
    if 0 in mapping.shape:
        return torch.empty(mapping.shape, dtype=element)
    flat = torch.frombuffer(mapping.buffer(), dtype=element)
    return flat.as_strided(mapping.shape, mapping.strides)


def to_capsule(mapping: Mapping, versioned: bool, read_only: bool, copied: bool) -> Any:
    """A DLPack capsule that takes the mapping over."""
    copied = copied or mapping.info.memory == "copied"
    if versioned:
        out = ffi.new("struct DLManagedTensorVersioned **")
        check(lib.td_dlpack_versioned(mapping.pointer, out))
        dlpack.mark(out[0], read_only, copied)
    else:
        out = ffi.new("struct DLManagedTensor **")
        check(lib.td_dlpack(mapping.pointer, out))
    # The DLPack tensor ends the mapping now, not this object.
    ffi.gc(mapping.pointer, None)
    return dlpack.capsule(out[0], versioned)


def to_memoryview(mapping: Mapping) -> memoryview:
    """Python's own view of a contiguous mapping; of bytes where memoryviews lack the dtype."""
    view: Any = memoryview(mapping.buffer())
    if mapping.dtype.name in _VIEWED and 0 not in mapping.shape:
        view = view.cast(mapping.dtype.struct_code, mapping.shape)
    return view if mapping.writable else view.toreadonly()


def to_list(info: Info, elements: Any, element: Any) -> Any:
    """Nested lists of Python numbers of elements in C order, whose dtype is `element`."""
    total = _shapes.count(info.shape)
    pairs = 2 if element.is_complex else 1
    flat: list = list(struct.unpack(f"<{total * pairs}{element.struct_code}", elements))
    if element.is_complex:
        flat = [complex(re, im) for re, im in zip(flat[::2], flat[1::2])]
    return _nest(flat, info.shape)


def _nest(flat: list, shape: tuple) -> Any:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return flat
    step = _shapes.count(shape[1:])
    return [_nest(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]
