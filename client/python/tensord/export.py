"""The methods of a handle that hand its memory to this process.

Over a Unix socket nothing is copied (small frozen tensors excepted): arrays, PyTorch tensors and
capsules show the daemon's own memory, and stay good when the handle and the client are gone. Over
TCP they are copies. `memory` and `reason` of the handle say which it was, after each of these.
"""

import builtins
from typing import TYPE_CHECKING, Any

from tensord import _shapes, convert, dlpack, mapping
from tensord._session import python_number
from tensord.arithmetic import is_number
from tensord.dtypes import dtype as find_dtype
from tensord.errors import BadDtype, Error, Frozen, RequiresGrad
from tensord.handle import Handle

if TYPE_CHECKING:
    from tensord.tensor import Tensor

_NO_COPY = "Unable to avoid copy while creating an array as requested."


class Exports(Handle):
    """Export methods of Tensor."""

    __slots__ = ()

    def numpy(self, force: bool = False) -> Any:
        """A NumPy array over the tensor's memory.

        Writable if the tensor is mutable: then writes on either side show on the other (and
        `touch()` tells the daemon that there were some). Read-only if it is frozen. Over TCP it is
        a copy (`memory` says so), and writes stay in it.

        Raises PyTorch's errors: RequiresGrad (a RuntimeError) for a tensor that requires grad,
        WrongDevice (a TypeError) on a GPU; `force=True` does x.detach().cpu() first. bfloat16 and
        float8 come as ml_dtypes' types; TypeError if that is not installed.
        """
        return mapping.to_numpy(self._numpy_mapping(mapping.FORCE if force else 0))

    def _numpy_mapping(self, flags: int = 0) -> mapping.Mapping:
        """A mapping with the checks of numpy(), writable if the tensor's mode allows it."""
        return self._writable_mapping(flags | mapping.NUMPY, flags | mapping.NUMPY)

    def _open_mapping(self) -> mapping.Mapping:
        """A mapping that can be written: the tensor's own memory, or private if it is frozen."""
        return self._writable_mapping(0, mapping.PRIVATE)

    def _writable_mapping(self, flags: int, otherwise: int) -> mapping.Mapping:
        if self._info.mode == "mutable" and self._session.is_local():
            try:
                return self._map(flags | mapping.WRITE)
            except Frozen:  # since this handle was made
                pass
        return self._map(otherwise)

    def _map(self, flags: int) -> mapping.Mapping:
        found = mapping.Mapping(self._ask(self._session.map, flags))
        private = flags & mapping.PRIVATE and found.info.memory == "shared"
        self._memory = "private" if private else found.info.memory
        self._reason = "mode" if private else found.info.reason
        return found

    def torch(self) -> Any:
        """A PyTorch tensor over the tensor's memory, of any dtype. Imports PyTorch.

        A mutable tensor is shared: writes on either side show on the other (over TCP it is a
        copy). PyTorch has no read-only tensors, so a frozen one comes as a private copy-on-write
        map: reads are shared, writes stay in this process, and `memory` then says "private".

        A tensor that requires grad gives a PyTorch leaf that does; for integers that is PyTorch's
        own RuntimeError.
        """
        requires_grad = self.requires_grad
        result = mapping.to_torch(self._open_mapping())
        return result.requires_grad_(True) if requires_grad else result

    def memoryview(self) -> builtins.memoryview:
        """Python's own view of the memory, without NumPy. Read-only if the tensor is frozen. Of
        bytes, in one dimension, for float16, bfloat16, float8 and complex numbers.

        BufferError unless the tensor is contiguous and on the cpu.
        """
        self._check_plain("a memoryview")
        if not self.is_contiguous():
            raise BufferError("only contiguous tensors have a memoryview; use x.contiguous()")
        return mapping.to_memoryview(self._open_mapping())

    def tobytes(self) -> bytes:
        """The elements in C order: a copy."""
        return bytes(self._ask(self._session.get, 0).body())

    def tolist(self) -> Any:
        """Nested lists of Python numbers; of a 0-d tensor the number itself."""
        element = self.dtype if self.dtype.struct_code else find_dtype("float32")
        reply = self._ask(self._session.get, element.code)
        return mapping.to_list(self._info, reply.body(), element)

    def fetch(self, dtype: Any = None, out: Any = None) -> Any:
        """The elements in C order, copied into a NumPy array or into `out`; returns that.

        dtype: cast on the way, by the daemon, so that only the result travels. out: a contiguous,
        writable array, PyTorch tensor or buffer of that dtype and as many elements, or a buffer of
        plain bytes (a bytearray) that is large enough; NumPy is not used then. BadDtype (a
        TypeError) if the dtype is another one, ValueError if the size is or it is no such memory.
        """
        element = find_dtype(dtype) if dtype is not None else self.dtype
        if out is None:
            import numpy

            out = numpy.empty(self.shape, element.numpy)
        target = _writable(out)
        _check_out(out, target, element, self.numel())
        self._ask(self._session.get_into, element.code, target.address, target.nbytes)
        return out

    def __contains__(self, element: Any) -> bool:
        """True if any element equals a number, or the tensor it is compared with."""
        if isinstance(element, Handle) or type(element).__module__ == "torch":
            other = element
        elif is_number(element):
            other = python_number(element)
        else:
            raise RuntimeError(
                "Tensor.__contains__ only supports Tensor or scalar, but you passed in a "
                f"{type(element)}."
            )
        return bool((self._comparable() == _comparable(other, self)).any())

    def _comparable(self) -> Any:
        """The elements in a dtype that NumPy has, which shows every value of theirs."""
        known = self.dtype.typestr[1] != "V"
        return self.fetch(None if known else "float32")

    def __array__(self, dtype: Any = None, copy: "bool | None" = None) -> Any:
        """For np.asarray(x) and np.array(x). Errors as numpy()."""
        values = self.numpy()
        fits = dtype is None or values.dtype == dtype
        if copy is False and not (fits and self._memory == "shared"):
            raise ValueError(_NO_COPY)
        if not fits:
            return values.astype(dtype)
        return values.copy() if copy else values

    @property
    def __array_interface__(self) -> dict:
        """For NumPy and what speaks its protocol. AttributeError where numpy() would fail, so that
        hasattr() answers truly; NumPy then asks __array__, whose error says why. Over TCP there is
        none either: nothing is downloaded to answer hasattr()."""
        try:
            # Kept for the life of the handle, which is the base of arrays made from this.
            self._exported = self._shown("__array_interface__")
        except (Error, BufferError) as error:
            raise AttributeError(str(error)) from error
        return mapping.array_interface(self._exported)

    def __buffer__(self, flags: int) -> builtins.memoryview:
        """For memoryview(x) and whatever reads buffers, from Python 3.12 on: the tensor's own
        memory, read-only if it is frozen. BufferError where that could only be a copy, as
        x.memoryview() and x.tobytes() make it, and for bfloat16 and float8. Needs NumPy."""
        return memoryview(mapping.to_numpy(self._shown("a buffer")))

    def _shown(self, what: str) -> mapping.Mapping:
        """A mapping of the very memory, in a dtype that NumPy has. Never a download."""
        if self.dtype.typestr[1] == "V":
            raise BufferError(f"NumPy has no {self.dtype.name}")
        if not self._session.is_local():
            raise BufferError("the elements can only be copied: transport")
        self._check_plain(what)
        shown = self._exported or self._numpy_mapping()
        if shown.info.memory == "copied":  # __array__ makes a new copy each time
            raise BufferError(f"the elements can only be copied: {shown.info.reason}")
        return shown

    def _check_plain(self, what: str) -> None:
        if self.requires_grad:
            raise RequiresGrad(
                "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() "
                "instead."
            )
        if self.device != "cpu":
            raise BufferError(f"{what} needs a tensor on the cpu, not on {self.device}")

    def __dlpack_device__(self) -> tuple:
        if self.device.type == "cuda":
            return dlpack.CUDA, self.device.index
        return dlpack.CPU, 0

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: "tuple | None" = None,
        dl_device: "tuple | None" = None,
        copy: "bool | None" = None,
    ) -> Any:
        """A DLPack capsule for np.from_dlpack(x), torch.from_dlpack(x) and others.

        Frozen tensors come as private copy-on-write memory that is flagged read-only: PyTorch
        ignores the flag, and may then write without harm to anybody. BufferError if the tensor
        requires grad, is on a GPU, or copy=False and it would have to be copied.
        """
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        target = tuple(dl_device) if dl_device is not None else self.__dlpack_device__()
        if target != (dlpack.CPU, 0):
            raise BufferError(f"tensord exports host memory over DLPack, not device {target}")
        versioned = max_version is not None and max_version[0] >= 1
        exported: Exports = self if self.device == "cpu" and not copy else self._copied(copy)
        found = exported._open_mapping()
        self._memory, self._reason = exported._memory, exported._reason
        if copy is False and found.info.memory == "copied":
            raise BufferError(f"this tensor can only be copied: {found.info.reason}")
        read_only = found.info.mode != "mutable" and not copy
        return mapping.to_capsule(found, versioned, read_only, bool(copy))

    def _copied(self, copy: "bool | None") -> "Tensor":
        if copy is False:
            raise BufferError(f"a tensor on {self.device} has to be copied for the cpu")
        return self._make("to", device="cpu", copy=True)


def _comparable(other: Any, tensor: Exports) -> Any:
    """What a tensor's elements are compared with: rounded as the tensor's own are, like PyTorch."""
    if isinstance(other, Exports):
        return other._comparable()
    if isinstance(other, float) and tensor.dtype.is_floating_point:
        return tensor._client.full((), other, dtype=tensor.dtype).item()
    return other


def _check_out(out: Any, target: convert.Source, element: Any, count: int) -> None:
    """Refuses an array of another dtype or size: bytes of the wrong meaning would be in it."""
    if not hasattr(out, "dtype") and target.dtype == "uint8":  # a buffer of plain bytes
        if target.nbytes < count * element.itemsize:
            raise ValueError(f"out has {target.nbytes} bytes, not {count * element.itemsize}")
        return
    if target.dtype != element:
        raise BadDtype(
            f"out is {target.dtype.name}, not {element.name}; fetch(dtype=out.dtype, out=out) casts"
        )
    if _shapes.count(target.shape) != count:
        raise ValueError(f"out has {_shapes.count(target.shape)} elements, not {count}")


def _writable(out: Any) -> convert.Source:
    """The memory of an array that is to be written to."""
    if isinstance(out, Handle):
        raise TypeError(
            "out must be memory of this process, not a handle; x.copy_(y) writes to one"
        )
    target = convert.source(out, contiguous=False)
    if target.gathered or not target.is_contiguous():
        raise ValueError("out must be contiguous memory of this process")
    if _is_read_only(out):
        raise ValueError("out is read-only")
    return target


def _is_read_only(out: Any) -> bool:
    if getattr(getattr(out, "flags", None), "writeable", True) is False:
        return True
    try:
        return memoryview(out).readonly
    except (TypeError, ValueError, BufferError):  # PyTorch's, and dtypes that buffers do not know
        return False
