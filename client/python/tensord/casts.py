"""The methods of a handle that copy it, cast it or move it, and only where they have to."""

import builtins
from typing import TYPE_CHECKING, Any

from tensord.dtypes import dtype as find_dtype
from tensord.dtypes import is_dtype
from tensord.errors import NoDevice
from tensord.handle import Handle

if TYPE_CHECKING:
    from tensord.tensor import Tensor


def device_name(device: Any) -> str:
    """The daemon's name of a device: of "cuda", "cuda:1", 1, torch.device("cuda")."""
    return f"cuda:{device}" if isinstance(device, int) else str(device)


def _to_arguments(args: tuple) -> "dict[str, Any]":
    """The positional arguments of to() by name, in PyTorch's three orders."""
    if not args:
        return {}
    found = is_dtype(args[0])
    if found or (not isinstance(args[0], (str, int)) and hasattr(args[0], "dtype")):
        names: tuple = ("dtype" if found else "other", "non_blocking", "copy")
    else:
        names = ("device", "dtype", "non_blocking", "copy")
        if isinstance(args[0], str) and args[0].partition(":")[0] not in ("cpu", "cuda"):
            raise NoDevice(
                f"Invalid device string: {args[0]!r}; expected cpu, cuda or cuda:N, or a dtype "
                "such as float16"
            )
    given = dict(zip(names, args))
    flags = [given.get("non_blocking", False), given.get("copy", False)]
    if len(args) > len(names) or not all(isinstance(flag, builtins.bool) for flag in flags):
        raise TypeError(
            "to() takes (dtype), (device, dtype) or (other), and non_blocking and copy after them"
        )
    return given


class Casts(Handle):
    """Copy and cast methods of Tensor."""

    __slots__ = ()

    def to(
        self,
        *args: Any,
        dtype: Any = None,
        device: Any = None,
        other: Any = None,
        copy: builtins.bool = False,
        non_blocking: builtins.bool = False,
        casting: "str | None" = None,
        saturate: "builtins.bool | None" = None,
    ) -> "Tensor":
        """The same tensor if it has that dtype and device already, else a copy.

        to(dtype), to(device), to(device, dtype), to(other), each also by keyword, and each
        followed by non_blocking and copy; dtypes and devices are tensord's, PyTorch's, NumPy's or
        texts. copy=True always copies. casting is NumPy's ("unsafe", "same_kind", "safe"), saturate
        keeps float8 finite. non_blocking is accepted and has no effect. NoDevice (a RuntimeError)
        where there is no such device.
        """
        given = _to_arguments(args)
        other, copy = given.get("other", other), given.get("copy", copy)
        dtype, device = given.get("dtype", dtype), given.get("device", device)
        if other is not None:
            dtype, device = dtype or other.dtype, device or getattr(other, "device", "cpu")
        return self._same_or_new(
            "to",
            dtype=dtype,
            device=None if device is None else device_name(device),
            copy=copy or None,
            casting=casting,
            saturate=saturate,
        )

    def type(
        self,
        dtype: Any = None,
        casting: "str | None" = None,
        saturate: "builtins.bool | None" = None,
    ) -> Any:
        """Cast to a dtype, which may be a legacy type (torch.HalfTensor); without one the name of
        this tensor's legacy type, "torch.FloatTensor". ValueError for a text that names none."""
        if dtype is None:
            return self.dtype.legacy_name
        if builtins.type(dtype).__name__ == "tensortype":
            device = "cuda" if dtype.is_cuda else None
            return self.to(dtype=dtype.dtype, device=device, casting=casting, saturate=saturate)
        if isinstance(dtype, str) and not is_dtype(dtype):
            raise ValueError(f"invalid type: {dtype!r}")
        return self._same_or_new(
            "type", dtype=find_dtype(dtype), casting=casting, saturate=saturate
        )

    def cpu(self) -> "Tensor":
        """to("cpu")."""
        return self._same_or_new("cpu")

    def cuda(self, device: Any = None) -> "Tensor":
        """To a GPU, the first unless another is named. NoDevice (a RuntimeError) without one."""
        return self._same_or_new("cuda", device=None if device is None else device_name(device))

    def clone(self) -> "Tensor":
        """A copy in memory of its own; it keeps requires_grad."""
        return self._make("clone")

    def detach(self) -> "Tensor":
        """The same memory and version, without grad or history."""
        return self._make("detach")

    @property
    def data(self) -> "Tensor":
        """The same memory without grad or history, and with a version of its own."""
        return self._make("data")

    def contiguous(self) -> "Tensor":
        """The same tensor if its elements lie in C order without holes, else a copy that does."""
        return self._same_or_new("contiguous")

    def float(self) -> "Tensor":
        return self.type("float32")

    def double(self) -> "Tensor":
        return self.type("float64")

    def half(self) -> "Tensor":
        return self.type("float16")

    def bfloat16(self) -> "Tensor":
        return self.type("bfloat16")

    def int(self) -> "Tensor":
        return self.type("int32")

    def long(self) -> "Tensor":
        return self.type("int64")

    def short(self) -> "Tensor":
        return self.type("int16")

    def char(self) -> "Tensor":
        return self.type("int8")

    def byte(self) -> "Tensor":
        return self.type("uint8")

    def bool(self) -> "Tensor":
        return self.type("bool")
