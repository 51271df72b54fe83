"""The methods of a handle that write elements, or compute with a number."""

import math
from typing import TYPE_CHECKING, Any, TypeVar

from tensord._session import python_number
from tensord.handle import Handle
from tensord.views import index_items

if TYPE_CHECKING:
    from tensord.tensor import Tensor


def is_number(value: Any) -> bool:
    """Python's numbers, and NumPy's and PyTorch's scalars (but no handle)."""
    if isinstance(value, (bool, int, float, complex)):
        return True
    return getattr(value, "shape", None) == () and hasattr(value, "item")


_Self = TypeVar("_Self", bound="Arithmetic")


class Arithmetic(Handle):
    """In-place methods of Tensor, whose names end in _, and mul and add. Results of computing with
    a number have PyTorch's type promotion. Writing to a frozen tensor raises Frozen."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.setitem(key, value)

    def setitem(
        self,
        key: Any,
        value: Any,
        *,
        casting: "str | None" = None,
        saturate: "bool | None" = None,
    ) -> None:
        """x[key] = value: a number, or a tensor or array, broadcast and cast."""
        items = index_items(key)
        if self._is_plain_number(value):
            self._run("setitem", index=items, value=value, casting=casting, saturate=saturate)
            return
        other = self._operand(value)
        self._run("setitem", index=items, other=other.ref, casting=casting, saturate=saturate)

    def _is_plain_number(self, value: Any) -> bool:
        return not isinstance(value, Arithmetic) and is_number(value)

    def fill_(self: _Self, value: Any) -> _Self:
        """Writes one number everywhere."""
        self._run("fill_", value=value)
        return self

    def zero_(self: _Self) -> _Self:
        """Writes zeros."""
        return self.fill_(0)

    def copy_(
        self: _Self,
        other: Any,
        *,
        casting: "str | None" = None,
        saturate: "bool | None" = None,
    ) -> _Self:
        """Writes another tensor's or array's elements into this one, broadcast and cast."""
        operand = self._operand(other)
        self._run("copy_", other=operand.ref, casting=casting, saturate=saturate)
        return self

    def mul(self, value: Any) -> "Tensor":
        """A new tensor: this one times a number."""
        return self._make("mul", value=python_number(value))

    def add(self, value: Any) -> "Tensor":
        """A new tensor: this one plus a number."""
        return self._make("add", value=python_number(value))

    def mul_(self: _Self, value: Any) -> _Self:
        """mul in place. The result has to fit: an integer tensor takes no fractions."""
        return self._store(self._make("detach").mul(value))

    def add_(self: _Self, value: Any) -> _Self:
        """add in place. The result has to fit: an integer tensor takes no fractions."""
        return self._store(self._make("detach").add(value))

    def _store(self: _Self, result: "Tensor") -> _Self:
        order = "buifc"
        if order.index(result.dtype.kind) > order.index(self.dtype.kind):
            names = [t.dtype.legacy_name[6:].removesuffix("Tensor") for t in (result, self)]
            raise RuntimeError(
                f"result type {names[0]} can't be cast to the desired output type {names[1]}"
            )
        return self.copy_(result)

    def __mul__(self, value: Any) -> "Tensor":
        return self.mul(value) if self._is_plain_number(value) else NotImplemented

    __rmul__ = __mul__

    def __add__(self, value: Any) -> "Tensor":
        return self.add(value) if self._is_plain_number(value) else NotImplemented

    __radd__ = __add__

    def __imul__(self: _Self, value: Any) -> _Self:
        return self.mul_(value)

    def __iadd__(self: _Self, value: Any) -> _Self:
        return self.add_(value)

    # ---- one element as a Python number ----

    def item(self) -> Any:
        """The value of a tensor of one element, exactly."""
        return self._run("item").scalar("value")

    def _one(self) -> Any:
        if self.numel() != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        return self.item()

    def __int__(self) -> int:
        return int(self._one())

    def __float__(self) -> float:
        return float(self._one())

    def __complex__(self) -> complex:
        return complex(self._one())

    def __index__(self) -> int:
        if self.dtype.kind not in "bui" or math.prod(self.shape) != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.item())

    def __bool__(self) -> bool:
        if self.numel() != 1:
            amount = "more than one value" if self.numel() else "no values"
            raise RuntimeError(f"Boolean value of Tensor with {amount} is ambiguous")
        return bool(self.item())
