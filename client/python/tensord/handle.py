"""What every method of a handle stands on: the reference to the object, and what it is."""

import sys
from typing import TYPE_CHECKING, Any, Callable, TypeVar, cast

from tensord import _shapes
from tensord._session import Info, Reply, Session
from tensord.dtypes import DType
from tensord.errors import ConnectionError, NotFound, Precondition

if TYPE_CHECKING:
    from tensord.client import Client
    from tensord.mapping import Mapping
    from tensord.tensor import Tensor

_Answer = TypeVar("_Answer")

NOT_HELD = -1  # a handle's _count, when no session holds the object for it


class Device:
    """A device, "cpu" or "cuda:0". Equals the text and PyTorch's torch.device of the same name."""

    __slots__ = ("_name",)

    def __init__(self, name: str):
        self._name = name

    @property
    def type(self) -> str:
        """ "cpu" or "cuda"."""
        return self._name.partition(":")[0]

    @property
    def index(self) -> "int | None":
        """The number of a GPU; None for the cpu."""
        number = self._name.partition(":")[2]
        return int(number) if number else None

    def __eq__(self, other: object) -> bool:
        return self._name == str(other)

    def __hash__(self) -> int:
        return hash(self._name)

    def __str__(self) -> str:
        return self._name

    def __repr__(self) -> str:
        number = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{number})"


class Handle:
    """A reference to an object in the daemon, and what the daemon says about it."""

    __slots__ = (
        "__weakref__",
        "_client",
        "_count",
        "_exported",
        "_info",
        "_memory",
        "_name",
        "_reason",
        "_session",
    )

    _client: "Client"
    _count: int  # the session that the reference belongs to, as Session.count counts
    _exported: "Mapping | None"  # what __array_interface__ showed
    _info: Info
    _memory: str
    _name: "str | None"
    _reason: str
    _session: Session

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None and not sys.is_finalizing():
            session.release(self._info.id, self._count)

    def _make(self, op: str, **fields: Any) -> "Tensor":
        """Runs an operation on this tensor that makes a tensor."""
        return self._client.handle(self._run(op, **fields))

    def _same_or_new(self, op: str, **fields: Any) -> "Tensor":
        """The same for operations that may give this very tensor: then this very handle."""
        made = self._make(op, **fields)
        if made.id != self.id:
            return made
        self._memory, self._reason = made.memory, made.reason
        return cast("Tensor", self)

    def _run(self, op: str, **fields: Any) -> Reply:
        """Runs an operation on this tensor."""
        return self._ask(lambda ref: self._session.op(op, input=ref, **fields))

    def _ask(self, call: Callable[..., _Answer], *arguments: Any) -> _Answer:
        """call(what names this object, *arguments), a function of the session."""
        try:
            return call(self.ref, *arguments)
        except NotFound:
            self._check_session()
            raise

    def _check_session(self) -> None:
        """ConnectionError if the session that held the object is gone."""
        self._attach()
        if self._session.count() != self._count:
            raise ConnectionError(
                "the connection was lost, and what this handle held with it; the client has "
                "connected anew: fetch the tensor by its name again"
            )

    def _operand(self, value: Any) -> "Tensor":
        """A handle of this client for the second operand: a tensor, an array, a list."""
        return self._client.operand(value)

    def _now(self) -> Info:
        """What the daemon says about the tensor now."""
        return self._run("info").info()

    # ---- what never changes ----

    @property
    def ref(self) -> str:
        """What names this object in operations of this session: "@" and its id.

        In another process than the one that the handle comes from, by fork() or a pickle, the
        session of this process gets hold of the object first, by its name. ConnectionError if it
        has none, NotFound if the name is gone, Precondition if it belongs to another tensor now.
        """
        self._attach()
        return f"@{self._info.id}"

    def _attach(self) -> None:
        if self._session.is_of_this_process(self._count):
            return
        if self._name is None:
            raise ConnectionError(
                "this tensor belongs to the process that made it, and has no name to get hold of "
                "it by in another one; give it one with x.save(name) before"
            )
        found = self._client[self._name]
        if found.id != self._info.id:
            raise Precondition(
                f"{self._name!r} is the name of another tensor by now, and this process holds the "
                "former one by nothing else; fetch it by its name again"
            )
        if not self._session.is_of_this_process(self._count):  # by another thread
            self._info, self._count, found._count = found._info, found._count, NOT_HELD

    @property
    def id(self) -> int:
        """The object's number in the daemon."""
        return self._info.id

    @property
    def storage_id(self) -> int:
        """The storage's number: equal for tensors that share memory."""
        return self._info.storage

    @property
    def name(self) -> "str | None":
        """The name this handle was fetched or published under; None for an anonymous tensor."""
        return self._name

    @property
    def shape(self) -> tuple:
        return self._info.shape

    @property
    def dtype(self) -> DType:
        return self._info.dtype

    @property
    def device(self) -> Device:
        return Device(self._info.device)

    @property
    def strides(self) -> tuple:
        """Elements (not bytes) between neighbours in each dimension, as PyTorch's stride()."""
        return self._info.strides

    def stride(self, dim: "int | None" = None) -> Any:
        """strides, or that of one dimension."""
        return self.strides if dim is None else self.strides[self._dim(dim)]

    def storage_offset(self) -> int:
        """Elements from the storage's start to the first element."""
        return self._info.offset_bytes // self.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without holes."""
        return self._info.nbytes

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    def element_size(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def size(self, dim: "int | None" = None) -> Any:
        """The shape, or the size of one dimension."""
        return self.shape if dim is None else self.shape[self._dim(dim)]

    def _dim(self, dim: int) -> int:
        reach = max(self.ndim, 1)
        if not -reach <= dim < reach:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [{-reach}, {reach - 1}], "
                f"but got {dim})"
            )
        return dim

    def numel(self) -> int:
        """The number of elements."""
        return _shapes.count(self.shape)

    def is_contiguous(self) -> bool:
        """True if the elements lie in C order without holes."""
        return _shapes.is_contiguous(self.shape, self.strides)

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        return self.dtype.is_complex

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    # ---- how it came about, and how its memory was handed out ----

    @property
    def memory(self) -> str:
        """What the last call that made this tensor or handed its memory out did: "shared",
        "copied", or "private" (a copy-on-write map of a frozen tensor for PyTorch)."""
        return self._memory

    @property
    def reason(self) -> str:
        """Why it was copied: dtype, device, layout, heap, view, small, alignment, transport or
        mode. "" if it was not."""
        return self._reason

    # ---- what can change: each asks the daemon ----

    @property
    def mode(self) -> str:
        """Of the storage: "frozen", "mutable", "single-writer" or "building"."""
        return self._now().mode

    @property
    def generation(self) -> int:
        """The store's revision when the name was given to this tensor, or when this handle touched
        it since; 0 for an anonymous one, and once the name belongs to another tensor before this
        was asked."""
        if not self._info.generation and self._name is not None:
            try:
                named = self._client.info(self._name)
            except NotFound:
                return 0
            if named.id == self.id:
                self._info = self._info._replace(generation=named.generation)
        return self._info.generation

    @property
    def _version(self) -> int:
        """In-place changes as PyTorch counts them: shared by views and detach, not by data."""
        return self._now().version

    @property
    def epoch(self) -> int:
        """Writes to the storage through the daemon, and touches."""
        return self._now().epoch

    @property
    def is_variable(self) -> bool:
        return self._now().is_variable

    @property
    def is_leaf(self) -> bool:
        """True if no recorded operation made it."""
        return self._now().is_leaf

    @property
    def grad_fn(self) -> "str | None":
        """The recorded operation that made it, "MulBackward0"; None for a leaf."""
        return self._now().grad_fn or None

    @property
    def history(self) -> str:
        """What it was made from: "name@generation", or ""."""
        return self._now().history

    @property
    def requires_grad(self) -> bool:
        return self._now().requires_grad

    def touch(self) -> None:
        """Tells the daemon that the elements were changed through a NumPy array or PyTorch tensor
        over them: raises epoch and version, so that watchers and caches notice. The name that the
        handle has gets a new generation, if it still refers to this memory: so Client.wait and
        Client.watch notice, too."""
        generation = self._ask(self._session.touch, self._name)
        if generation:
            self._info = self._info._replace(generation=generation)
