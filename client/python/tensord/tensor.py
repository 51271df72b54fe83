"""Handles: tensors that live in the daemon, with PyTorch's words for them."""

import sys
from typing import TYPE_CHECKING, Any

from tensord import _shapes
from tensord._session import Info, Reply, Session
from tensord.arithmetic import Arithmetic
from tensord.casts import Casts
from tensord.dtypes import DType
from tensord.errors import ConnectionError, NotFound
from tensord.export import Exports
from tensord.views import Views

if TYPE_CHECKING:
    from tensord.client import Client


class Device(str):
    """A device's name, "cpu" or "cuda:0", with PyTorch's `type` and `index`."""

    __slots__ = ()

    @property
    def type(self) -> str:
        return self.partition(":")[0]

    @property
    def index(self) -> "int | None":
        number = self.partition(":")[2]
        return int(number) if number else None

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, str(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Tensor(Views, Casts, Arithmetic, Exports):
    """A handle on a tensor in the daemon.

    It holds the tensor there: replacing or deleting the name it came from does not disturb it. The
    handle gives its reference back when it is garbage-collected, in whatever thread that happens.
    It may be used from any number of threads.

    What never changes (shape, dtype, device, strides, ids) is kept in the handle; what can change
    (requires_grad, grad_fn, version, mode) is asked of the daemon each time.

    Shapes, strides and offsets are in elements, sizes in bytes. Handles compare by identity.
    """

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

    # NumPy's scalars leave 2 * x to the handle, as they do for PyTorch's tensors.
    __array_priority__ = 1000

    _client: "Client"
    _session: Session
    _info: Info
    _exported: Any

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Tensor":
        raise TypeError("handles come from a client: c['x'], c.tensor(data), tensord.tensor(data)")

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None and not sys.is_finalizing():
            session.release(self._info.id, self._count)

    def _make(self, op: str, **fields: Any) -> "Tensor":
        """Runs an operation on this tensor that makes a tensor."""
        return wrap(self._client, self._run(op, **fields))

    def _same_or_new(self, op: str, **fields: Any) -> "Tensor":
        """The same for operations that may give this very tensor: then this very handle."""
        made = self._make(op, **fields)
        if made.id != self.id:
            return made
        self._memory, self._reason = made.memory, made.reason
        return self

    def _run(self, op: str, **fields: Any) -> Reply:
        """Runs an operation on this tensor."""
        try:
            return self._session.op(op, input=self.ref, **fields)
        except NotFound as error:
            if self._session.count() == self._count:
                raise
            raise ConnectionError(
                "the connection was lost, and what this handle held with it; the client has "
                "connected anew: fetch the tensor by its name again"
            ) from error

    def _operand(self, value: Any) -> "Tensor":
        """A handle of this client for the second operand: a tensor, an array, a list."""
        return self._client.operand(value)

    def _now(self) -> Info:
        """What the daemon says about the tensor now."""
        return self._run("info").info()

    # ---- what never changes ----

    @property
    def ref(self) -> str:
        """What names this object in operations of this session: "@" and its id."""
        return f"@{self._info.id}"

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
        """The store's revision when the name was given to this tensor; 0 for an anonymous one, and
        once the name belongs to another tensor before this was asked."""
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

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> "Tensor":
        """Sets requires_grad, of any dtype; RuntimeError for what an operation made."""
        self._run("requires_grad_", requires_grad=requires_grad)
        if requires_grad:
            self.__class__ = Variable
        return self

    @property
    def grad(self) -> "Tensor | None":
        """The gradient that was set, a tensor of the same shape, or None."""
        try:
            return self._make("grad")
        except NotFound:
            return None

    @grad.setter
    def grad(self, value: Any) -> None:
        # The handle has to be there until the daemon has answered.
        operand = None if value is None else self._operand(value)
        self._run("set_grad", other=None if operand is None else operand.ref)

    def touch(self) -> None:
        """Tells the daemon that the elements were changed through a NumPy array or PyTorch tensor
        over them: raises epoch and version, so that watchers and caches notice."""
        self._session.touch(self.ref)

    # ---- names ----

    def save(self, name: str, create_only: bool = False) -> "Tensor":
        """Publishes this tensor under a name, without copying; returns this handle. Whoever gets
        the name shares the memory. Exists if create_only is set and the name is taken."""
        published = self._run("as_tensor", output=name, create_only=create_only or None).info()
        self._info = published._replace(id=self._info.id)
        self._name = name
        return self

    def rename(self, name: str, create_only: bool = False) -> "Tensor":
        """Gives the name this handle has to another name; an anonymous tensor is saved under it."""
        if self._name is None:
            return self.save(name, create_only)
        self._client.rename(self._name, name, create_only)
        self._name = name
        return self

    # ---- text ----

    def __repr__(self) -> str:
        return self._run("print").text("text") or ""

    def __format__(self, spec: str) -> str:
        return format(self.item() if not self.shape and spec else str(self), spec)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError(
            "a handle belongs to its connection and cannot be pickled; send the tensor's name and "
            "fetch it with tensord.connect(url)[name] on the other side"
        )

    def __deepcopy__(self, _memo: dict) -> "Tensor":
        return self.clone()


class Variable(Tensor):
    """A tensor that may require grad: what PyTorch 0.2 called torch.autograd.Variable.

    Variable(data, requires_grad=False) wraps a handle, or an array that is stored first with the
    default client. Any dtype may require grad, integers too; only PyTorch itself refuses those.
    """

    __slots__ = ()

    def __new__(cls, data: Any, requires_grad: bool = False) -> "Variable":
        from tensord.defaults import default_client

        client = data._client if isinstance(data, Tensor) else default_client()
        return client.variable(data, requires_grad=requires_grad)


def wrap(client: "Client", reply: Reply, name: "str | None" = None) -> Tensor:
    """A handle on the object of a reply, of which the session holds one reference for it."""
    info = reply.info()
    handle = object.__new__(Variable if info.is_variable or info.requires_grad else Tensor)
    handle._client = client
    handle._count = reply.session()
    handle._exported = None
    handle._info = info
    handle._memory = info.memory
    handle._name = name or info.name or None
    handle._reason = info.reason
    handle._session = client.session
    return handle


def is_tensor(value: Any) -> bool:
    """True for handles of tensord, and for nothing else."""
    return isinstance(value, Tensor)
