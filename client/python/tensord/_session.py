"""The Python side of one libtensord client: arguments in, replies out.

Internal. Everything the package asks of the daemon goes through a Session.

Threads: a session may be used by any number of threads at once. No lock is held here, because
handles are released by the garbage collector, which may run in any thread at any allocation: a
lock held by the interrupted code would never be given back. What has to be kept alive is kept by
references instead: a call holds the connection that it uses, so that close() cannot pull it away.
"""

import itertools
import math
import os
from typing import Any, Iterator, NamedTuple

from tensord._tensord import ffi, lib
from tensord.dtypes import DType, dtype, from_code
from tensord.errors import ConnectionError, check

_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)
_NO_INDEX = lib.TD_INDEX_NONE if hasattr(lib, "TD_INDEX_NONE") else -(2**63)
_FIELD_TYPES: dict = {}


class Info(NamedTuple):
    """What the daemon says about a tensor. Shapes and strides in elements, the rest in bytes."""

    id: int
    name: str
    generation: int
    dtype: DType
    shape: tuple
    strides: tuple
    offset_bytes: int
    nbytes: int
    device: str
    is_variable: bool
    requires_grad: bool
    is_leaf: bool
    grad_fn: str
    history: str
    version: int
    epoch: int
    storage: int
    storage_bytes: int
    mode: str
    memory: str
    reason: str


def text(pointer: Any) -> str:
    return ffi.string(pointer).decode("utf-8", "replace") if pointer else ""


def read_info(info: Any) -> Info:
    """An Info of a struct td_info, whose texts are copied."""
    rank = info.rank
    return Info(
        id=info.id,
        name=text(info.name),
        generation=info.generation,
        dtype=from_code(info.dtype),
        shape=tuple(info.shape[0:rank]),
        strides=tuple(info.strides[0:rank]),
        offset_bytes=info.offset_bytes,
        nbytes=info.nbytes,
        device=text(info.device),
        is_variable=info.is_variable,
        requires_grad=info.requires_grad,
        is_leaf=info.is_leaf,
        grad_fn=text(info.grad_fn),
        history=text(info.history),
        version=info.version,
        epoch=info.epoch,
        storage=info.storage,
        storage_bytes=info.storage_bytes,
        mode=text(info.mode),
        memory=text(info.memory),
        reason=text(info.reason),
    )


class Reply:
    """The answer to one operation."""

    __slots__ = ("_owner", "_pointer")

    def __init__(self, pointer: Any, owner: Any = None):
        # An entry of a list is owned by the reply that holds the list.
        self._pointer = pointer if owner else ffi.gc(pointer, lib.td_reply_free)
        self._owner = owner

    def info(self) -> Info:
        info = ffi.new("struct td_info *")
        check(lib.td_reply_info(self._pointer, info))
        return read_info(info)

    def text(self, field: str) -> "str | None":
        out = ffi.new("char **")
        found = lib.td_reply_text(self._pointer, field.encode(), ffi.cast("const char **", out))
        return text(out[0]) if found else None

    def uint(self, field: str) -> "int | None":
        out = ffi.new("uint64_t *")
        return int(out[0]) if lib.td_reply_uint(self._pointer, field.encode(), out) else None

    def bool(self, field: str) -> Any:
        out = ffi.new("bool *")
        return bool(out[0]) if lib.td_reply_bool(self._pointer, field.encode(), out) else None

    def scalar(self, field: str) -> Any:
        """The number as a Python number, exactly; None if the reply has no such field."""
        integer, re, im = ffi.new("int64_t *"), ffi.new("double *"), ffi.new("double *")
        kind = lib.td_reply_scalar(self._pointer, field.encode(), integer, re, im)
        convert = {
            b"b": lambda: bool(integer[0]),
            b"i": lambda: int(integer[0]),
            b"u": lambda: int(integer[0]) % 2**64,
            b"f": lambda: float(re[0]),
            b"c": lambda: complex(re[0], im[0]),
        }.get(kind)
        return convert() if convert else None

    def session(self) -> int:
        """The session that answered, as libtensord counts them; see Session.count_of."""
        return int(lib.td_reply_session(self._pointer))

    def fields(self) -> dict:
        """Every field that is a text, a count, a truth or a number, by name."""
        names = (lib.td_reply_field(self._pointer, i) for i in itertools.count())
        known = itertools.takewhile(lambda name: name != ffi.NULL, names)
        return {name: self._value(name) for name in map(text, known)}

    def _value(self, field: str) -> Any:
        read = {"text": self.text, "uint": self.uint, "scalar": self.scalar, "bool": self.bool}
        return read.get(_field_type(field), lambda _field: None)(field)

    def body(self) -> Any:
        """The elements in C order, as a buffer that keeps the reply alive."""
        size = ffi.new("size_t *")
        data = lib.td_reply_body(self._pointer, size)
        if data == ffi.NULL or size[0] == 0:
            return memoryview(b"")
        pointer = self._pointer
        keep = ffi.gc(ffi.cast("char *", data), lambda _data: pointer)
        return ffi.buffer(keep, size[0])

    def entries(self) -> "Iterator[Reply]":
        """The entries of a list. Each is good until the next one is asked for."""
        cursor, entry = ffi.new("size_t *"), ffi.new("struct td_reply **")
        out = ffi.cast("const struct td_reply **", entry)
        while lib.td_reply_next(self._pointer, cursor, out):
            yield Reply(entry[0], self)


def _field_type(field: str) -> str:
    kind = _FIELD_TYPES.get(field)
    if kind is None:
        kind = _FIELD_TYPES[field] = text(lib.td_field_type(field.encode())) or "none"
    return kind


def text_argument(value: Any, what: str) -> bytes:
    """A text for C, which ends at its first NUL; so a NUL in it is refused."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a text, not {type(value).__name__}")
    if "\0" in value:
        raise ValueError(f"{what} {value!r} contains a NUL character")
    return value.encode("utf-8")


def dims_argument(values: Any) -> Any:
    """Sizes for C. IndexError-free: Python's own errors for what is no integer or too large."""
    values = [value.__index__() for value in values]
    for value in values:
        if value not in _INT64:
            raise OverflowError(f"{value} does not fit in 64 bits")
    return ffi.new("int64_t[]", values)


def seconds(value: Any, what: str) -> float:
    """A time as a number. TypeError for all else, such as texts and timedeltas."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} is a time in seconds, such as 0.5, not {type(value).__name__}")
    return float(value)


def wait_argument(wait: "float | None", what: str = "wait") -> "int | None":
    """The field wait_ms, or timeout_ms, of a time in seconds; None for the daemon's default."""
    if wait is None:
        return None
    if not 0 <= (wait := seconds(wait, what)) < math.inf:
        raise ValueError(f"{what} is a time in seconds, 0 or more, or None for a default: {wait}")
    return round(wait * 1000)


def ttl_argument(ttl: "float | None") -> "int | None":
    """The field ttl_ms of a time to live in seconds, at least a millisecond; None for none."""
    if ttl is None:
        return None
    if not 0 < (ttl := seconds(ttl, "ttl")) < math.inf:
        raise ValueError(f"ttl is a time in seconds above 0, or None for a name that stays: {ttl}")
    return max(1, round(ttl * 1000))


class _Arguments:
    """Builds a td_args. A value is turned into what the field's type in the table asks for."""

    def __init__(self, fields: dict):
        self.pointer = ffi.gc(lib.td_args_new(), lib.td_args_free)
        if self.pointer == ffi.NULL:
            raise MemoryError("no memory for the arguments of an operation")
        for field, value in fields.items():
            if value is not None:
                getattr(self, "_" + _field_type(field))(field.encode(), value)

    def _none(self, field: bytes, value: Any) -> None:
        raise TypeError(f"operations have no argument {field.decode()!r}")

    def _text(self, field: bytes, value: Any) -> None:
        check(lib.td_args_text(self.pointer, field, text_argument(value, field.decode())))

    def _uint(self, field: bytes, value: Any) -> None:
        check(lib.td_args_uint(self.pointer, field, value.__index__()))

    def _int(self, field: bytes, value: Any) -> None:
        check(lib.td_args_int(self.pointer, field, value.__index__()))

    def _bool(self, field: bytes, value: Any) -> None:
        check(lib.td_args_bool(self.pointer, field, bool(value)))

    def _dtype(self, field: bytes, value: Any) -> None:
        check(lib.td_args_dtype(self.pointer, dtype(value).code))

    def _dims(self, field: bytes, value: Any) -> None:
        dims = dims_argument(value)
        check(lib.td_args_dims(self.pointer, field, len(dims), dims))

    def _scalar(self, field: bytes, value: Any) -> None:
        if not isinstance(value, (bool, int, float, complex)):
            value = python_number(value)
        if isinstance(value, bool):
            check(lib.td_args_scalar_bool(self.pointer, field, value))
        elif isinstance(value, int) and value in _INT64:
            check(lib.td_args_scalar_int(self.pointer, field, value))
        elif isinstance(value, int) and value in _UINT64:
            check(lib.td_args_scalar_uint(self.pointer, field, value))
        elif isinstance(value, int):
            raise OverflowError(f"{value} does not fit in 64 bits")
        elif isinstance(value, float):
            check(lib.td_args_scalar_float(self.pointer, field, value))
        else:
            check(lib.td_args_scalar_complex(self.pointer, field, value.real, value.imag))

    def _index(self, _field: bytes, items: Any) -> None:
        for item in items:
            check(self._index_item(item))

    def _index_item(self, item: Any) -> int:
        if item is None:
            return lib.td_args_index_new_axis(self.pointer)
        if item is Ellipsis:
            return lib.td_args_index_ellipsis(self.pointer)
        if isinstance(item, slice):
            parts = [_slice_part(part) for part in (item.start, item.stop, item.step)]
            return lib.td_args_index_slice(self.pointer, *parts)
        return lib.td_args_index_integer(self.pointer, item.__index__())


def _slice_part(part: Any) -> int:
    """Part of a slice: huge numbers mean "as far as it goes", in Python as here."""
    if part is None:
        return _NO_INDEX
    return max(-(2**63) + 1, min(part.__index__(), 2**63 - 1))


def python_number(value: Any) -> Any:
    """A Python number of anything with one element: NumPy's and PyTorch's scalars, handles."""
    item = getattr(value, "item", None)
    number = item() if item else value
    if not isinstance(number, (bool, int, float, complex)):
        raise TypeError(f"a number was expected, not {type(value).__name__}")
    return number


def _connect(url: "str | None", token: "str | None", timeout: "float | None") -> Any:
    """A td_client. td_close runs when the last call that still uses it has returned."""
    options = ffi.new("struct td_options *")
    texts = [ffi.NULL if token is None else ffi.new("char[]", text_argument(token, "token"))]
    options.token = texts[0]
    if timeout is not None and not 0 <= (timeout := seconds(timeout, "timeout")) < math.inf:
        raise ValueError(f"timeout is a time in seconds, or None for ever: {timeout}")
    options.timeout_ms = -1 if timeout is None else max(1, round(timeout * 1000))
    options.interrupted = ffi.addressof(lib, "tdpy_interrupted")
    address = ffi.NULL if url is None else ffi.new("char[]", text_argument(url, "url"))
    out = ffi.new("struct td_client **")
    check(lib.td_connect(address, options, out))
    return ffi.gc(out[0], lib.td_close)


class _Held(NamedTuple):
    """The connection of one process."""

    pid: int
    epoch: int  # how many there were before it: of processes, by fork(), that this one comes from
    client: Any  # the td_client


_COUNT_BITS = 40  # of Session.count, which libtensord counts; the epoch is above them


class Session:
    """One connection to a daemon and what belongs to it there.

    It belongs to a process: in a child after fork() the first call connects anew, with the same
    address, token and timeout. lazily: here, too, the first call connects.
    """

    def __init__(
        self,
        url: "str | None",
        token: "str | None",
        timeout: "float | None",
        lazily: bool = False,
    ):
        self._url, self._token, self._timeout = url, token, timeout
        self._held: "_Held | None" = _Held(0, 0, None)
        self._made: dict = {}  # by process: of threads that connect at a time, the first one's
        if not lazily:
            self._current()

    def _current(self) -> _Held:
        held = self._held
        if held is None:
            raise ConnectionError("this client is closed; make a new one with tensord.connect()")
        return held if held.pid == os.getpid() else self._connect_here(held.epoch + 1)

    def _connect_here(self, epoch: int) -> _Held:
        here = os.getpid()
        fresh = _Held(here, epoch, _connect(self._url, self._token, self._timeout))
        made = self._made.setdefault(here, fresh)
        for other in [pid for pid in self._made if pid != here]:
            self._made.pop(other, None)
        if self._held is not None:  # else closed meanwhile
            self._held = made
        return made

    def connection(self) -> Any:
        """The td_client; whoever holds it keeps it open for that long.

        So no function below has it in a variable: the traceback of an error would hold that.
        """
        return self._current().client

    @property
    def closed(self) -> bool:
        return self._held is None

    def close(self) -> None:
        self._held = None
        self._made = {}

    def arguments(self) -> tuple:
        """What another process connects with, to the same daemon."""
        url = self._url
        if url is None and not self.closed:
            url = text(lib.td_url(self.connection()))
        return url, self._token, self._timeout

    def is_local(self) -> bool:
        return bool(lib.td_is_local(self.connection()))

    def count(self) -> int:
        """Which session this is: rises when a lost connection had to be made anew, and is another
        one in each process."""
        held = self._current()
        return held.epoch << _COUNT_BITS | int(lib.td_session_count(held.client))

    def count_of(self, reply: Reply) -> int:
        """The session that answered, as count counts them: ids in the reply are its."""
        held = self._held
        return 0 if held is None else held.epoch << _COUNT_BITS | reply.session()

    def is_of_this_process(self, count: int) -> bool:
        """Whether what belongs to session `count` may still be there; also when this is closed."""
        held = self._held
        if held is None:
            return True
        return held.epoch == count >> _COUNT_BITS and held.pid == os.getpid()

    def op(self, name: str, body: Any = None, **fields: Any) -> Reply:
        """Runs an operation. body: anything with a buffer, or a cdata (pointer, bytes) pair."""
        out, arguments = ffi.new("struct td_reply **"), _Arguments(fields)
        pointer, size = _body(body)
        key = name.encode()
        check(lib.td_op(self.connection(), key, arguments.pointer, pointer, size, out))
        return Reply(out[0])

    def op_to_file(self, name: str, descriptor: int, **fields: Any) -> None:
        """Runs an operation whose reply's body is written to a file's descriptor."""
        arguments, key = _Arguments(fields), name.encode()
        check(lib.td_op_to_file(self.connection(), key, arguments.pointer, descriptor, ffi.NULL))

    def memory_limit(self) -> int:
        """Bytes that all tensors of the daemon may have."""
        for entry in self.op("stats").entries():
            if entry.text("name") == "memory_limit_bytes":
                return entry.uint("count") or 0
        return 2**64

    def put(self, name: str, source: Any, flags: int) -> None:
        dims = dims_argument(source.shape)
        check(
            lib.td_put(
                self.connection(),
                text_argument(name, "name"),
                source.dtype.code,
                len(dims),
                dims,
                ffi.cast("void *", source.address),
                flags,
                ffi.NULL,
            )
        )

    def get_into(self, name: str, code: int, address: int, size_bytes: int) -> int:
        """Fetches elements into memory of the caller's; returns the bytes written."""
        size = ffi.new("size_t *", size_bytes)
        target = ffi.cast("void *", address)
        key = text_argument(name, "name")
        check(lib.td_get(self.connection(), key, code, target, size, ffi.NULL))
        return int(size[0])

    def get(self, name: str, code: int) -> Reply:
        out = ffi.new("struct td_reply **")
        check(lib.td_get_alloc(self.connection(), text_argument(name, "name"), code, out))
        return Reply(out[0])

    def map(self, name: str, flags: int) -> Any:
        """A td_mapping, which the caller owns and ends with td_unmap."""
        out = ffi.new("struct td_mapping **")
        check(lib.td_map(self.connection(), text_argument(name, "name"), flags, out))
        return out[0]

    def from_memory(self, source: Any, require_shared: bool) -> Reply:
        out = ffi.new("struct td_reply **")
        shape, strides = dims_argument(source.shape), dims_argument(source.strides)
        memory = ffi.cast("void *", source.address)
        check(
            lib.td_from_memory(
                self.connection(),
                ffi.NULL,
                source.dtype.code,
                len(shape),
                shape,
                strides,
                memory,
                require_shared,
                out,
            )
        )
        return Reply(out[0])

    def allocate(self, code: int, shape: tuple) -> Any:
        """A td_mapping of memory to be filled, which the caller owns."""
        out, dims = ffi.new("struct td_mapping **"), dims_argument(shape)
        check(lib.td_allocate(self.connection(), code, len(dims), dims, out))
        return out[0]

    def publish(self, mapping: Any, **fields: Any) -> Reply:
        """Publishes what allocate gave; fields of the operation but its input."""
        out, arguments = ffi.new("struct td_reply **"), _Arguments(fields)
        check(lib.td_publish_args(self.connection(), mapping, arguments.pointer, out))
        return Reply(out[0])

    def touch(self, name: str, output: "str | None" = None) -> int:
        """output: a name that shows the change, if it still is that memory's. Returns the new
        generation, 0 if no name got one."""
        if output is not None:
            reply = self.op("touch", input=name, output=output)
            return reply.uint("generation") or 0
        check(lib.td_touch(self.connection(), text_argument(name, "name")))
        return 0

    def release(self, object_id: int, count: int) -> None:
        """Gives back one reference to an object; called by the garbage collector.

        Neither waits nor fails: what a lost or closed session held is gone already.
        """
        held = self._held
        if held is None or held.pid != os.getpid() or held.epoch != count >> _COUNT_BITS:
            return
        lib.td_release(held.client, object_id, count & ((1 << _COUNT_BITS) - 1))


def _body(body: Any) -> tuple:
    """(pointer, bytes) of a request's elements."""
    if body is None:
        return ffi.NULL, 0
    if isinstance(body, tuple):
        address, size = body
        return ffi.cast("void *", address), size
    buffer = ffi.from_buffer(body)
    return buffer, len(buffer)
