"""Queues: tensors handed from process to process, by reference.

    q = c.queue("frames", maxsize=8)
    q.put(frame)                        # an array is copied once, into memory that is recycled
    with q.allocate((480, 640), "uint8") as frame:
        camera.read_into(frame.array)   # or filled in place: then nothing is copied at all
        q.put(frame)

and in any number of other processes:

    for item in c.queue("frames"):      # each item is done with when the next one is asked for
        show(item.numpy())
"""

import ctypes
import math
import time
from typing import TYPE_CHECKING, Any, Iterator, NamedTuple

from tensord import _shapes, convert, mapping
from tensord._session import dims_argument, seconds, text_argument
from tensord._tensord import ffi, lib
from tensord.allocation import Fillable
from tensord.dtypes import DType
from tensord.dtypes import dtype as find_dtype
from tensord.errors import Closed, Full, OutOfMemory, check
from tensord.items import Given, Item, ItemTensor
from tensord.tensor import Tensor
from tensord.waiting import timeout_argument

if TYPE_CHECKING:
    from tensord.client import Client

__all__ = ["Item", "ItemTensor", "Queue", "Segment", "Waiting"]

_FULL = {"block", "fail", "drop_oldest"}
_TENSORS_MAX = 64  # of an item
_RECYCLED_S = 0.05  # that put waits for recycled memory before it takes other


class _Patience:
    """How long a call waits in all."""

    def __init__(self, block: bool, timeout: "float | None"):
        if timeout_argument(timeout) is None or not block:
            timeout = None if block else 0.0
        self._ends = None if timeout is None else time.monotonic() + timeout

    def left_ms(self, most: float = math.inf) -> int:
        """timeout_ms of libtensord: -1 for ever, 0 not at all. most: in seconds."""
        if self._ends is not None:
            most = min(most, max(0.0, self._ends - time.monotonic()))
        timeout_ms = timeout_argument(most)
        return -1 if timeout_ms is None else timeout_ms


class Waiting(NamedTuple):
    """An item that waits in a queue, without its elements. See Queue.peek."""

    id: int
    deliveries: int
    nbytes: int
    tensors: "dict[str, str]"  #: by key, or position: "float32[2, 3]"
    meta: str


class Segment(Fillable):
    """Memory to be filled and put into its queue: see Queue.allocate. Not zeroed.

    `with` gives it back unless it was put. Once it is put its array is read-only; what it shows is
    the item's then, and later that of another one. So it is when a put was interrupted or lost its
    connection, for nobody knows then whether it was put; it can be put again, which says NotFound
    if it was.

    Only the process that allocated it can fill it. A child that is forked meanwhile finds it
    read-only; NumPy refuses to write to what is taken from here then, and the kernel ends a child
    that writes through an array, a view or a PyTorch tensor that it inherited.
    """

    __slots__ = ("_put",)

    def __init__(self, pointer: Any):
        super().__init__(pointer)
        self._put = False

    def _mapped(self) -> mapping.Mapping:
        if self._put:
            raise ValueError("this memory was put; allocate anew")
        self._notice()
        return super()._mapped()

    def _fill(self, source: convert.Source) -> None:
        if source.nbytes:
            ctypes.memmove(self._mapped().address, source.address, source.nbytes)

    def _was_put(self, pushed: bool) -> None:
        """What is the item's, or may be (a put was interrupted), is not to be written to."""
        self._notice()
        self._put = pushed

    def __repr__(self) -> str:
        if self._mapping is None or self._put:
            return f"<tensord.Segment, {'put' if self._put else 'given back'}>"
        return f"<tensord.Segment {self.shape} {self.dtype.name}>"


class Queue:
    """A bounded queue of the daemon, used like queue.Queue. See Client.queue.

    Any number of processes and threads put and get. A Queue may be used in a child after fork(),
    and pickled, as its client may.
    """

    def __init__(
        self,
        client: "Client",
        name: str,
        maxsize: "int | None" = None,
        maxbytes: "int | None" = None,
        when_full: "str | None" = None,
        visibility: "float | None" = None,
    ):
        if when_full is not None and when_full not in _FULL:
            raise ValueError(f"when_full is block, fail or drop_oldest, not {when_full!r}")
        for what, most in (("maxsize", maxsize), ("maxbytes", maxbytes)):
            if most is not None and not 1 <= most.__index__() < 2**64:
                raise ValueError(f"{what} is 1 or more, or None for the default, not {most}")
        if visibility is not None and not 0 < seconds(visibility, "visibility") < math.inf:
            raise ValueError(f"visibility is a time in seconds above 0, not {visibility}")
        self.name = name
        self._client = client
        self._settings = (maxsize, maxbytes, when_full, visibility)
        self._opened: Any = None  # (the connection, the td_queue over it)
        self._queue()

    def _queue(self) -> Any:
        """The td_queue of this process."""
        connection = self._client.session.connection()
        opened = self._opened
        if opened is None or opened[0] is not connection:
            opened = self._client._same(self.name, (connection, self._open(connection)))
            self._opened = opened
            self._client._queues[id(self)] = self
            if self._client.closed:  # by another thread, which did not see this one
                self._forget()
        return opened[1]

    def _open(self, connection: Any) -> Any:
        maxsize, maxbytes, when_full, visibility = self._settings
        options = ffi.new("struct td_queue_options *")
        options.max_items = maxsize or 0
        options.max_bytes = maxbytes or 0
        policy = None if when_full is None else ffi.new("char[]", when_full.encode())
        options.when_full = ffi.NULL if policy is None else policy
        options.visibility_ms = 0 if visibility is None else max(1, round(visibility * 1000))
        out = ffi.new("struct td_queue **")
        check(lib.td_queue_open(connection, text_argument(self.name, "name"), options, out))
        return ffi.gc(out[0], lib.td_queue_free)

    def _forget(self) -> None:
        """Lets go of what stays mapped; the client is being closed."""
        self._opened = None
        self._client._opened.pop(self.name, None)

    def __reduce__(self) -> tuple:
        return Queue, (self._client, self.name, *self._settings)

    # ---- putting ----

    def allocate(
        self, shape: Any, dtype: Any = "float32", timeout: "float | None" = None
    ) -> Segment:
        """Memory to be filled in place and put: recycled, so that filling it costs no page faults,
        and handing it over no copy. Not zeroed.

        Waits while all that this process may have is in use, for `timeout` seconds (None: for
        ever), then Full. Over the Unix socket only (Unsupported). Not to be filled by a child that
        is forked meanwhile: see Segment.
        """
        sizes = (shape,) if hasattr(shape, "__index__") else tuple(shape)
        patience = _Patience(True, timeout)
        return self._allocate(find_dtype(dtype), _shapes.sizes((sizes,)), patience.left_ms())

    def _allocate(self, element: DType, shape: tuple, timeout_ms: int) -> Segment:
        out, dims = ffi.new("struct td_mapping **"), dims_argument(shape)
        queue = self._queue()
        check(lib.td_queue_allocate(queue, element.code, len(dims), dims, timeout_ms, out))
        return Segment(out[0])

    def put(
        self, value: Any, block: bool = True, timeout: "float | None" = None, meta: str = ""
    ) -> None:
        """Appends an item: a tensor, or a dict or tuple of tensors, with a small text.

        What comes from allocate(), handles of this client and items of its queues are handed over
        by reference; other arrays are copied once. When the queue is full it waits, for `timeout`
        seconds (None: for ever), then Full (queue.Full); at once if block is False. Closed if the
        queue is.
        """
        patience = _Patience(block, timeout)
        keep: list = []
        values = _values(value)
        if not 1 <= len(values) <= _TENSORS_MAX:
            raise ValueError(f"an item has 1 to {_TENSORS_MAX} tensors, not {len(values)}")
        tensors = ffi.new("struct td_push_tensor[]", len(values))
        segments: list = []
        for slot, (key, part) in zip(tensors, values):
            slot.key = ffi.NULL if key == "" else self._kept(keep, text_argument(key, "key"))
            given = self._segment(part, patience, not segments)
            if isinstance(given, Segment):
                segments.append(given)
                slot.mapping = given._mapped().pointer
            else:
                keep.append(given)
                slot.name = self._kept(keep, given.ref.encode())
        text = ffi.NULL if not meta else self._kept(keep, text_argument(meta, "meta"))
        pushed = False
        try:
            check(lib.td_push(self._queue(), len(values), tensors, text, patience.left_ms()))
            pushed = True
        finally:
            for segment in segments:
                segment._was_put(pushed)

    @staticmethod
    def _kept(keep: list, text: bytes) -> Any:
        keep.append(ffi.new("char[]", text))
        return keep[-1]

    def _segment(self, part: Any, patience: _Patience, first: bool) -> "Segment | Tensor":
        """What of the daemon's a value is, or becomes. first: this call has no segment yet."""
        if isinstance(part, (Segment, Tensor)):
            return part if isinstance(part, Segment) else self._client.operand(part)
        if part is None:
            raise TypeError(
                "a tensor or an array was expected, not None; q.close() says that no more come"
            )
        if isinstance(part, str):
            raise TypeError("a tensor or an array was expected, not str")
        source = self._client._source(part)
        segment = self._recycled(source, patience, first) if self._client.is_local else None
        if segment is None:
            return self._client._create(
                "tensor", None, dtype=source.dtype, shape=source.shape, mutable=False,
                body=source.body,
            )  # fmt: skip
        segment._fill(source)
        return segment

    def _recycled(
        self, source: convert.Source, patience: _Patience, first: bool
    ) -> "Segment | None":
        """Memory to fill, if it comes soon; None while consumers hold it all, although the queue
        may have room. Who holds a segment already must not wait for another: all that are in use
        may be such."""
        try:
            soon = patience.left_ms(_RECYCLED_S if first else 0.0)
            return self._allocate(source.dtype, source.shape, soon)
        except Full:
            return None
        except OutOfMemory:
            if not first:
                raise
        return self._allocate(source.dtype, source.shape, patience.left_ms())

    def put_nowait(self, value: Any, meta: str = "") -> None:
        """put(value, block=False)."""
        self.put(value, block=False, meta=meta)

    # ---- getting ----

    def get(self, block: bool = True, timeout: "float | None" = None) -> Item:
        """Takes the first item. Waits for one, for `timeout` seconds (None: for ever), then Empty
        (queue.Empty); at once if block is False. Closed when the queue is and nothing is left.

        Nothing is left once the last item is done with: until then it may come back. So who holds
        items of a closed queue itself waits for itself here; arrays may be held, see Item.done."""
        given = Given()
        check(lib.td_pop(self._queue(), _Patience(block, timeout).left_ms(), given.cell))
        return Item(self._client, given)

    def get_nowait(self) -> Item:
        """get(block=False)."""
        return self.get(block=False)

    def __iter__(self) -> Iterator[Item]:
        """Items until the queue is closed and empty. Each is done with when the next one is asked
        for; one in whose turn an exception comes, or a break, goes back to the queue."""
        while True:
            try:
                item = self.get()
            except Closed:
                return
            with item:
                yield item
            del item

    # ---- looking ----

    def info(self) -> dict:
        """The queue's settings and counters by name: items, bytes, in_flight, parked, puts, ..."""
        reply = self._client.session.op("queue_info", queue=self.name)
        found: dict = {entry.text("name"): entry.uint("count") for entry in reply.entries()}
        found.update(
            max_items=reply.uint("max_items"),
            max_bytes=reply.uint("max_bytes"),
            when_full=reply.text("when_full"),
            visibility=(reply.uint("visibility_ms") or 0) / 1000,
            closed=bool(reply.bool("closed")),
        )
        return found

    def qsize(self) -> int:
        """The number of items that wait."""
        return int(self.info()["items"])

    def __len__(self) -> int:
        return self.qsize()

    def __bool__(self) -> bool:
        return True

    def empty(self) -> bool:
        return self.qsize() == 0

    def full(self) -> bool:
        info = self.info()
        return bool(info["items"] >= info["max_items"] or info["bytes"] >= info["max_bytes"])

    @property
    def maxsize(self) -> int:
        """How many items may wait."""
        return int(self.info()["max_items"])

    @property
    def closed(self) -> bool:
        """Whether the queue takes no more items."""
        return bool(self.info()["closed"])

    def peek(self, limit: int = 1000, parked: bool = False) -> "list[Waiting]":
        """The first items that wait, without taking them; or those that are parked, because they
        were handed out five times and never acknowledged."""
        reply = self._client.session.op(
            "queue_peek", queue=self.name, limit=limit, parked=parked or None
        )
        return [_waiting(entry) for entry in reply.entries()]

    # ---- ending ----

    def close(self) -> None:
        """No more items can be put; those that wait can still be got, and then all who get are told
        Closed, which ends their iterating."""
        self._client.session.op("queue_close", queue=self.name)

    shutdown = close

    def drain(self, parked: bool = False) -> int:
        """Drops the items that wait, or those that are parked; returns how many."""
        reply = self._client.session.op(
            "queue_drain", queue=self.name, parked=parked or None
        )
        return reply.uint("count") or 0

    def delete(self) -> None:
        """Removes the queue and what waits in it. Whoever has an item in hand keeps its memory."""
        self._client.session.op("queue_delete", queue=self.name)
        self._client._opened.pop(self.name, None)

    def __repr__(self) -> str:
        return f"<tensord.Queue {self.name!r}>"


def _values(value: Any) -> "list[tuple[str, Any]]":
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, Item):
        return list(zip(value._keys, value))
    if isinstance(value, tuple):
        return [("", part) for part in value]
    return [("", value)]


def _waiting(entry: Any) -> Waiting:
    tensors = {}
    for i, line in enumerate((entry.text("tensors") or "").split("\n")):
        key, equals, what = line.partition("=")
        tensors[key if equals else str(i)] = what if equals else key
    return Waiting(
        id=entry.uint("item") or 0,
        deliveries=entry.uint("deliveries") or 0,
        nbytes=entry.uint("nbytes") or 0,
        tensors=tensors,
        meta=entry.text("meta") or "",
    )


