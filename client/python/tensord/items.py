"""What a queue hands out: items, and handles on their tensors."""

import sys
from typing import TYPE_CHECKING, Any, Iterator

from tensord import mapping
from tensord._session import Info, read_info
from tensord._tensord import ffi, lib
from tensord.dtypes import DType
from tensord.errors import check
from tensord.tensor import Tensor

if TYPE_CHECKING:
    from tensord.client import Client


class ItemTensor(Tensor):
    """A handle on a tensor of an item, to be used until the item is done with. Arrays made from it
    hold the item's memory as it is, also after that."""

    __slots__ = ("_index", "_item")

    _index: int
    _item: "Item"

    def __del__(self) -> None:
        pass  # the item holds the object

    def torch(self) -> Any:
        """See Tensor.torch; does not ask the daemon."""
        result = mapping.to_torch(self._open_mapping())
        return result.requires_grad_(True) if self._info.requires_grad else result

    def _map(self, flags: int) -> mapping.Mapping:
        checked = flags & (mapping.NUMPY | mapping.FORCE) == mapping.NUMPY
        if flags & mapping.WRITE or (checked and self._info.requires_grad):
            return super()._map(flags)
        private = flags & mapping.PRIVATE
        out = ffi.new("struct td_mapping **")
        check(self._item._call(lib.td_item_map, self._index, private, out))
        found = mapping.Mapping(out[0])
        shared = found.info.memory == "shared"
        self._memory = "private" if private and shared else found.info.memory
        self._reason = "mode" if private and shared else found.info.reason
        return found


class Given:
    """A td_item, made before one is taken: whatever exception comes in between, a Ctrl-C among
    them, gives the item back. It ends with the last call that uses it, as `how` says."""

    __slots__ = ("cell", "how")

    def __init__(self) -> None:
        self.cell = ffi.new("struct td_item **")
        self.how = lib.td_item_free

    def __del__(self) -> None:
        self.how(self.cell[0])


def _item_tensor(item: "Item", index: int, info: Info) -> ItemTensor:
    handle: ItemTensor = object.__new__(ItemTensor)
    handle._client = item._client
    handle._count = item._count
    handle._exported = None
    handle._index = index
    handle._info = info
    handle._item = item
    handle._memory, handle._reason = "shared", ""  # as it was handed over
    handle._name = None
    handle._session = item._client.session
    return handle


class Item:
    """What a queue hands out: tensors, by key and by position, and what was said with them.

    `with` acknowledges it at its end, or, after an exception, gives it back to the queue, where it
    stands first; so does iterating over a queue. An item that is simply dropped was done with. If
    this process dies before, or does not say so within the queue's visibility time, the item is
    handed out again, to whoever asks: so an item may come twice (`deliveries` tells).

    An item of one tensor can be used like that: item.numpy(), item.torch(), np.asarray(item).
    """

    def __init__(self, client: "Client", given: Given):
        pointer = given.cell[0]
        self._client = client
        self._count = client.session.count()
        self._infos = [
            read_info(lib.td_item_info(pointer, i)) for i in range(lib.td_item_count(pointer))
        ]
        self._keys = [
            ffi.string(lib.td_item_key(pointer, i)).decode() for i in range(len(self._infos))
        ]
        #: Its number in the queue.
        self.id = int(lib.td_item_id(pointer))
        #: How often it was handed out; 1: for the first time.
        self.deliveries = int(lib.td_item_deliveries(pointer))
        #: The text that was put with it, "" if there was none.
        self.meta = ffi.string(lib.td_item_meta(pointer)).decode()
        self._given: "Given | None" = given

    def _call(self, function: Any, *arguments: Any) -> Any:
        """function(the td_item, *arguments), during which another thread may end the item."""
        given = self._given
        if given is None:
            raise ValueError("the item is done with, or was given back")
        return function(given.cell[0], *arguments)

    # ---- its tensors ----

    def __len__(self) -> int:
        return len(self._infos)

    def __getitem__(self, key: "int | str") -> ItemTensor:
        """The tensor at a position, or of a key; a KeyError or IndexError if there is none."""
        index = self._index(key)
        return _item_tensor(self, index, self._infos[index])

    def _index(self, key: "int | str") -> int:
        if isinstance(key, str):
            keys = self.keys()
            if key not in keys:
                raise KeyError(f"the item has no {key!r}; it has {', '.join(keys)}")
            return keys.index(key)
        index = key.__index__()
        if not -len(self) <= index < len(self):
            raise IndexError(f"the item has {len(self)} tensors, and no number {index}")
        return index % len(self)

    def __contains__(self, key: object) -> bool:
        """Whether it is one of the keys."""
        return key in self.keys()

    def __iter__(self) -> Iterator[ItemTensor]:
        return (self[i] for i in range(len(self)))

    def keys(self) -> "list[str]":
        """The keys, those that were not given as the position."""
        return [key or str(i) for i, key in enumerate(self._keys)]

    _ipython_key_completions_ = keys

    def items(self) -> "Iterator[tuple[str, ItemTensor]]":
        """(key, tensor) of each."""
        return zip(self.keys(), self)

    @property
    def tensor(self) -> ItemTensor:
        """The tensor of an item that has one; ValueError for several."""
        if len(self) != 1:
            raise ValueError(f"the item has {len(self)} tensors: {', '.join(self.keys())}")
        return self[0]

    @property
    def shape(self) -> tuple:
        return self.tensor.shape

    @property
    def dtype(self) -> DType:
        return self.tensor.dtype

    def numpy(self) -> Any:
        """The tensor as a NumPy array, of the very memory that was filled; read-only."""
        return self.tensor.numpy()

    def torch(self) -> Any:
        """The tensor for PyTorch: copy-on-write, so that what is written stays in this process."""
        return self.tensor.torch()

    def __array__(self, dtype: Any = None, copy: "bool | None" = None) -> Any:
        return self.tensor.__array__(dtype, copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple:
        return self.tensor.__dlpack_device__()

    # ---- its end ----

    def ack(self) -> None:
        """Acknowledges it, and waits for the daemon's word. Conflict if it had gone back to the
        queue by then: it is handed out again."""
        check(self._call(lib.td_item_ack))

    def done(self) -> None:
        """Acknowledges it, without waiting. Arrays made from it stay good."""
        self._end(lib.td_item_done)

    def retry(self) -> None:
        """Gives it back to the queue, to be handed out again: as soon as the arrays made from it
        are gone."""
        self._end(lib.td_item_free)

    def _end(self, how: Any) -> None:
        given = self._given
        if given is not None:
            given.how = how
        self._given = None

    def __enter__(self) -> "Item":
        return self

    def __exit__(self, kind: Any, _error: Any, _traceback: Any) -> None:
        if kind is None:
            self.done()
        else:
            self.retry()

    def __del__(self) -> None:
        if getattr(self, "_given", None) is not None and not sys.is_finalizing():
            self.done()

    def __repr__(self) -> str:
        tensors = ", ".join(
            f"{key}: {info.dtype.name}{list(info.shape)}"
            for key, info in zip(self.keys(), self._infos)
        )
        return f"<tensord.Item {self.id}: {tensors}>"
