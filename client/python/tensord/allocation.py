"""Memory of the daemon that is filled in place, and then published without a copy."""

from typing import TYPE_CHECKING, Any, TypeVar

from tensord import mapping
from tensord._session import ttl_argument, wait_argument
from tensord._tensord import lib
from tensord.dtypes import DType
from tensord.errors import ConnectionError

if TYPE_CHECKING:
    from tensord.client import Client
    from tensord.tensor import Tensor


_Self = TypeVar("_Self", bound="Fillable")


class Fillable:
    """Writable memory of the daemon's, as the arrays that fill it."""

    __slots__ = ("__weakref__", "_array", "_mapping")

    def __init__(self, pointer: Any):
        self._mapping: "mapping.Mapping | None" = mapping.Mapping(pointer)
        self._mapping.writable = True
        self._array: Any = None

    def _mapped(self) -> mapping.Mapping:
        if self._mapping is None:
            raise ValueError("this memory was given back; allocate anew")
        return self._mapping

    @property
    def shape(self) -> tuple:
        return self._mapped().shape

    @property
    def dtype(self) -> DType:
        return self._mapped().dtype

    @property
    def nbytes(self) -> int:
        return self._mapped().info.nbytes

    @property
    def array(self) -> Any:
        """The memory as a NumPy array: the same one each time. Read-only once nobody may write to
        the memory any more, and good for as long as anybody holds it."""
        if self._array is None:
            self._array = mapping.to_numpy(self._mapped())
        self._notice()
        return self._array

    def _notice(self) -> None:
        """What may not be written to any more is read-only from now on."""
        mapped = self._mapping
        if mapped is not None:
            mapped.writable = bool(lib.td_mapping_writable(mapped.pointer))
            if self._array is not None and not mapped.writable:
                self._array.flags.writeable = False

    def torch(self) -> Any:
        """The memory as a PyTorch tensor. PyTorch has no read-only tensors: it must not be written
        to once the memory was given away."""
        return mapping.to_torch(self._mapped())

    def memoryview(self) -> memoryview:
        """The memory as Python's own view, without NumPy."""
        return mapping.to_memoryview(self._mapped())

    def __buffer__(self, _flags: int) -> memoryview:  # Python 3.12
        return self.memoryview()

    def __array__(self, dtype: Any = None, copy: "bool | None" = None) -> Any:
        values = self.array
        if dtype is not None and values.dtype != dtype:
            if copy is False:
                raise ValueError("Unable to avoid copy while creating an array as requested.")
            return values.astype(dtype)
        return values.copy() if copy else values

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_error: Any) -> None:
        self._array = None
        self._mapping = None


class Allocation(Fillable):
    """A tensor that nobody else sees before it is published: see Client.allocate.

    Its memory goes when it was not published and this object and all arrays of it are gone, and
    at the latest with the process. `with` lets go of it at its end. What PyTorch writes to it after
    it is published as frozen is seen in this process only.
    """

    __slots__ = ("_client", "_count", "_published")

    def __init__(self, client: "Client", pointer: Any):
        super().__init__(pointer)
        self._client = client
        self._count = client.session.count()
        self._published = False

    @property
    def id(self) -> int:
        """The object's number in the daemon."""
        return self._mapped().info.id

    @property
    def published(self) -> bool:
        return self._published

    def publish(
        self,
        name: str,
        mode: str = "frozen",
        *,
        requires_grad: bool = False,
        create_only: bool = False,
        if_generation: "int | None" = None,
        ttl: "float | None" = None,
        wait: "float | None" = None,
    ) -> "Tensor":
        """Gives the name to the tensor as it is now; nothing is copied. Returns a handle on it.

        mode "frozen": nobody can change it any more, this process neither; the array becomes
        read-only. Nobody may write to it while this runs. "single-writer": only through the arrays
        made before. "mutable": whoever maps it.

        A process that was forked from this one in between can write as well. It is waited for,
        `wait` seconds at most (1 unless given); then the elements are copied, and the handle's
        `memory` says "copied", its `reason` "mode".

        Exists, Precondition and the like: nothing was published, and it can be tried again.
        """
        mapped = self._mapped()
        self._check_session()
        try:
            reply = self._client.session.publish(
                mapped.pointer, output=name, mode=mode, requires_grad=requires_grad or None,
                create_only=create_only or None, if_generation=if_generation,
                ttl_ms=ttl_argument(ttl), wait_ms=wait_argument(wait),
            )  # fmt: skip
        finally:
            self._notice()
        self._published = True
        return self._handle(name, reply.info())

    def _handle(self, name: str, info: Any) -> "Tensor":
        """A reference of its own to what was published."""
        source = name if info.memory == "copied" else f"@{info.id}"
        handle = self._client.handle(self._client.session.op("as_tensor", input=source), name)
        handle._info = handle._info._replace(name=name, generation=info.generation)
        handle._memory, handle._reason = info.memory, info.reason
        return handle

    def _check_session(self) -> None:
        if self._client.session.count() != self._count:
            raise ConnectionError(
                "the session that allocated this memory is gone, or another process's; allocate "
                "anew"
            )

    def __repr__(self) -> str:
        if self._mapping is None:
            return "<tensord.Allocation, given back>"
        state = "published" if self._published else "not published"
        return f"<tensord.Allocation {self.shape} {self.dtype.name}, {state}>"
