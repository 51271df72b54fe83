"""The methods of a handle that look at the same memory in another way. Shapes count elements."""

import operator
from typing import TYPE_CHECKING, Any, Iterator, cast

from tensord import _shapes
from tensord.dtypes import is_dtype
from tensord.errors import BadIndex
from tensord.handle import Handle

if TYPE_CHECKING:
    from tensord.tensor import Tensor


def index_items(key: Any) -> tuple:
    """The items of x[key]. TypeError for what is not NumPy's basic indexing."""
    items = key if isinstance(key, tuple) else (key,)
    return tuple(map(_index_item, items)) or (Ellipsis,)


def _index_item(item: Any) -> Any:
    if item is None or item is Ellipsis:
        return item
    if isinstance(item, slice):
        _check_slice(item)
        return item
    if isinstance(item, float):
        raise BadIndex(
            "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables "
            f"are valid indices (got {type(item).__name__})"
        )
    try:
        # Arrays have an __index__ as well, which those of one integer answer. Bools are masks.
        if not isinstance(item, bool) and "bool" not in str(getattr(item, "dtype", "")):
            return operator.index(item)
    except TypeError:
        pass
    raise TypeError(
        f"tensord indexes with integers, slices, ... and None, not with {type(item).__name__}; "
        "for lists, arrays and masks use x.numpy()[...]"
    )


def _check_slice(item: slice) -> None:
    if item.step is not None and item.step.__index__() == 0:
        raise ValueError("slice step cannot be zero")


class Views(Handle):
    """View methods of Tensor. The result is on the same memory, unless a method says otherwise."""

    __slots__ = ()

    def view(self, *shape: Any) -> "Tensor":
        """The same memory in another shape; one size may be -1. BadShape (a RuntimeError) if the
        strides do not allow it: reshape copies then."""
        if len(shape) == 1 and is_dtype(shape[0]):
            raise TypeError("view takes a shape; for other dtypes there is x.torch().view(dtype)")
        return self._make("view", shape=_shapes.sizes(shape))

    def reshape(self, *shape: Any) -> "Tensor":
        """The same memory in another shape, or a copy where there is no such view: see `memory`."""
        return self._make("reshape", shape=_shapes.sizes(shape))

    def flatten(self) -> "Tensor":
        """reshape(-1)."""
        return self.reshape(-1)

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        """Two dimensions exchanged. BadIndex (an IndexError) for dimensions that do not exist."""
        return self._make("transpose", dim0=dim0, dim1=dim1)

    def t(self) -> "Tensor":
        """A matrix transposed; vectors and scalars as they are."""
        if self.ndim > 2:
            raise RuntimeError(
                f"t() expects a tensor with <= 2 dimensions, but self is {self.ndim}D"
            )
        return self.transpose(0, 1) if self.ndim == 2 else cast("Tensor", self)

    @property
    def T(self) -> "Tensor":
        """All dimensions in reverse order."""
        return self.permute(*reversed(range(self.ndim)))

    def permute(self, *dims: Any) -> "Tensor":
        """The dimensions in another order."""
        return self._make("permute", dims=_shapes.sizes(dims))

    def select(self, dim: int, index: int) -> "Tensor":
        """One position of a dimension, which disappears."""
        return self._make("select", dim=dim, index=(index,))

    def slice(
        self,
        dim: int = 0,
        start: "int | None" = None,
        stop: "int | None" = None,
        step: "int | None" = None,
    ) -> "Tensor":
        """x[start:stop:step] along one dimension; a copy if step is negative."""
        part = slice(start, stop, step)
        _check_slice(part)
        return self._make("slice", dim=dim, index=(part,))

    def narrow(self, dim: int, start: int, length: int) -> "Tensor":
        """`length` positions of a dimension from `start` on."""
        size = self.size(dim)
        if length < 0:
            raise RuntimeError("narrow(): length must be non-negative.")
        if not -size <= start <= size:
            raise BadIndex(
                f"start out of range (expected to be in range of [{-size}, {size}], "
                f"but got {start})"
            )
        start = start + size if start < 0 else start
        if start + length > size:
            raise RuntimeError(
                f"start ({start}) + length ({length}) exceeds dimension size ({size})."
            )
        return self.slice(dim, start, start + length)

    def squeeze(self, dim: "int | None" = None) -> "Tensor":
        """Without the dimensions of size 1, or without that one dimension."""
        return self._make("squeeze", dim=dim)

    def unsqueeze(self, dim: int) -> "Tensor":
        """With a new dimension of size 1."""
        return self._make("unsqueeze", dim=dim)

    def expand(self, *shape: Any) -> "Tensor":
        """Dimensions of size 1 repeated without a copy; -1 keeps a size."""
        return self._make("expand", shape=_shapes.sizes(shape))

    def __getitem__(self, key: Any) -> "Tensor":
        return self._make("getitem", index=index_items(key))

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> "Iterator[Tensor]":
        if not self.shape:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(self.shape[0]))

    def batches(self, n: int) -> "Iterator[Tensor]":
        """Views of n positions along the first dimension, one after another; the last may be
        shorter. For data too large to convert in one piece:

            for part in x.batches(1000):
                use(part.numpy())
        """
        if n <= 0:
            raise ValueError(f"a batch has 1 row or more, not {n}")
        return (self.slice(0, i, i + n) for i in range(0, len(self), n))
