"""NumPy arrays in memory that can be given to the daemon, and so to other processes.

    a = tensord.empty((480, 640), "uint8")     # one array
    with tensord.allocator():                  # every array that NumPy makes in here
        b = np.eye(3)
    c.from_numpy("frame", a)                   # no copy: a's memory is the tensor

Each array has a descriptor (memfd) of its own and takes up whole pages. Inside allocator(), when
memory runs out or only a quarter of the process's descriptors (64 at least) is left, arrays come
from the heap, and from_numpy copies them and says so.

After fork() parent and child write to the same such memory: what the daemon can share, the kernel
shares too.
"""

import contextlib
import ctypes
from typing import Any, Iterator

from tensord import _shapes
from tensord._tensord import ffi, lib
from tensord.dtypes import dtype as find_dtype

# Where NumPy keeps these functions in its table for C (numpy/__multiarray_api.h), since 1.22.
_SET_HANDLER = 304
_GET_VERSION = 211
_VERSION_1_22 = 15

_handler: Any = None


def empty(shape: Any, dtype: Any = "float32") -> Any:
    """A NumPy array in shareable memory: zeroed, C order. shape: a size or several.

    MemoryError without memory for it. The memory goes when the array and its views are gone; a
    tensor made of it keeps it in the daemon.
    """
    import numpy

    element = find_dtype(dtype)
    sizes = _shapes.sizes((shape,)) if not hasattr(shape, "__index__") else (shape.__index__(),)
    if any(size < 0 for size in sizes):
        raise ValueError(f"negative dimensions are not allowed: {sizes}")
    size_bytes = _shapes.count(sizes) * element.itemsize
    if size_bytes == 0:
        return numpy.empty(sizes, element.numpy)
    pointer = lib.td_shared_alloc(size_bytes)
    if pointer == ffi.NULL:
        raise MemoryError(f"no shareable memory for {size_bytes} bytes")
    memory = ffi.gc(ffi.cast("char *", pointer), lib.td_shared_free)
    return numpy.ndarray(sizes, element.numpy, buffer=ffi.buffer(memory, size_bytes))


def zeros(shape: Any, dtype: Any = "float32") -> Any:
    """The same as empty, which is zeroed."""
    return empty(shape, dtype)


@contextlib.contextmanager
def allocator() -> Iterator[None]:
    """Inside `with tensord.allocator():` NumPy makes its arrays in shareable memory.

    Ordinary NumPy code then makes arrays that from_numpy and as_tensor share without a copy, also
    small ones. Arrays may outlive the block. As NumPy's allocators are, it is local to the
    context: other threads and tasks are not affected. Needs NumPy 1.22 or later.
    """
    set_handler = _numpy_function(_SET_HANDLER, ctypes.py_object, ctypes.py_object)
    before = set_handler(_capsule())
    try:
        yield
    finally:
        set_handler(before)


def _capsule() -> Any:
    """NumPy's name for an allocator: a capsule of its struct. One for all, never destroyed."""
    global _handler
    if _handler is None:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p,) * 3
        words = ffi.cast("uintptr_t *", lib.tdpy_numpy_handler())
        _handler = new(int(words[0]), int(words[1]), None)  # the struct, and the capsule's name
    return _handler


def _numpy_function(slot: int, result: Any, *arguments: Any) -> Any:
    """A function of NumPy's C API, which is an array of pointers in a capsule."""
    table = _numpy_table()
    version = ctypes.PYFUNCTYPE(ctypes.c_uint)(table[_GET_VERSION])()
    if version < _VERSION_1_22:
        raise NotImplementedError("tensord.allocator() needs NumPy 1.22 or later")
    return ctypes.PYFUNCTYPE(result, *arguments)(table[slot])


def _numpy_table() -> Any:
    try:
        from numpy._core import multiarray
    except ImportError:  # before NumPy 2
        from numpy.core import multiarray  # type: ignore[no-redef]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    address = pointer(multiarray._ARRAY_API, None)
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))
