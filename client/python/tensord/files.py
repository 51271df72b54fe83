"""Files of tensors: safetensors, npz and npy, as a whole, into the daemon and out of it.

Internal but for Loaded. The daemon reads and writes the formats; here bytes come from files and go
to files: out of the file's own pages, and into the file piece by piece.
"""

import contextlib
import json
import mmap
import os
import secrets
import stat
from typing import TYPE_CHECKING, Any, Iterator, Mapping

from tensord._session import Reply, ttl_argument
from tensord.errors import Invalid, Precondition
from tensord.tensor import Tensor

if TYPE_CHECKING:
    from tensord.client import Client

_ENDINGS = {".safetensors": "safetensors", ".npz": "npz", ".npy": "npy"}


class Loaded(Mapping[str, Tensor]):
    """What Client.load has stored: handles, by the tensors' names in the file.

    A handle is made when it is asked for, by the name that the tensor got (the prefix, "/" and the
    name in the file): NotFound if that is gone by then, Precondition if it belongs to a tensor of
    another file.
    """

    def __init__(self, client: "Client", names: "dict[str, tuple[str, int]]", metadata: dict):
        self._client = client
        self._names = names  # key -> (name, storage)
        #: what the file says of itself ("__metadata__" of safetensors): texts by name
        self.metadata: "dict[str, str]" = metadata

    @property
    def names(self) -> "dict[str, str]":
        """The name of each tensor in the daemon, by its name in the file."""
        return {key: name for key, (name, _storage) in self._names.items()}

    def __getitem__(self, key: str) -> Tensor:
        name, storage = self._names[key]
        tensor = self._client[name]
        if tensor.storage_id != storage:
            raise Precondition(f"{name!r} is no longer the tensor that was loaded from the file")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def __repr__(self) -> str:
        return f"<tensord.Loaded {list(self._names)}>"


# ---- in ------------------------------------------------------------------------------------------


def load(
    client: "Client", source: Any, prefix: str, *, by_daemon: bool, ttl: Any, **fields: Any
) -> Loaded:
    """See Client.load."""
    where = {"path": os.fspath(source)} if by_daemon else {}
    body = None if by_daemon else _bytes_of(source)
    reply = client.session.op(
        "load", body, prefix=prefix or None, ttl_ms=ttl_argument(ttl), **where, **fields
    )
    return Loaded(client, _names_of(reply, prefix), json.loads(reply.text("metadata") or "{}"))


def _names_of(reply: Reply, prefix: str) -> "dict[str, tuple[str, int]]":
    start = f"{prefix}/" if prefix and not prefix.endswith("/") else prefix
    found = {}
    for entry in reply.entries():
        name = entry.text("name") or ""
        found[name.removeprefix(start)] = name, entry.uint("storage") or 0
    return found


def _bytes_of(source: Any) -> Any:
    """The bytes of a file by its path, of an open one from where it stands, or of a buffer."""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            data = _pages_of(file) or file.read()
    elif hasattr(source, "read") and not isinstance(source, mmap.mmap):
        data = source.read()
    else:
        data = source
    if not memoryview(data).nbytes:
        raise Invalid(f"{source!r} has no bytes; expected a safetensors, npz or npy file")
    return data


def _pages_of(file: Any) -> Any:
    """The file, mapped; None for a pipe, and for files of /proc, which say that they are empty."""
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode) or not about.st_size:
        return None
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


# ---- out -----------------------------------------------------------------------------------------


def save(
    client: "Client",
    target: Any,
    prefix: str,
    *,
    tensors: Any,
    format: "str | None",
    metadata: "Mapping[str, str] | None",
    by_daemon: bool,
    **fields: Any,
) -> None:
    """See Client.save."""
    by_path = isinstance(target, (str, os.PathLike))
    if by_path and format is None:
        format = _ENDINGS.get(os.path.splitext(os.fspath(target))[1].lower())
    lines, uploaded = _lines(client, tensors)
    fields.update(prefix=prefix or None, tensors=lines, format=format, metadata=_text(metadata))
    if by_daemon:
        client.session.op("save", path=os.fspath(target), **fields)
    elif by_path:
        with _new_file(os.fspath(target)) as descriptor:
            client.session.op_to_file("save", descriptor, **fields)
    else:
        target.write(client.session.op("save", **fields).body())
    del uploaded


def _lines(client: "Client", tensors: Any) -> "tuple[str | None, list]":
    """KEY=NAME for each tensor, and what has to be kept until they are saved."""
    if tensors is None:
        return None, []
    if isinstance(tensors, str):
        raise TypeError("tensors are names, or a mapping of names to tensors, not one str")
    if not isinstance(tensors, Mapping):
        tensors = {name: name for name in tensors}
    lines, kept = [], []
    for key, value in tensors.items():
        if not isinstance(value, str):
            kept.append(client.operand(value))
            value = kept[-1].ref
        if "\n" in key + value or "=" in key:
            raise ValueError(f"{key!r} cannot be saved: its name has a line break, or a =")
        lines.append(f"{key}={value}\n")
    return "".join(lines), kept


def _text(metadata: "Mapping[str, str] | None") -> "str | None":
    if metadata is None:
        return None
    for pair in metadata.items():
        if not all(isinstance(text, str) for text in pair):
            raise TypeError(f"metadata are texts by name, not {pair!r}")
    return json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":"))


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[int]:
    """A descriptor of what takes the place of the file when all is well, with its permissions. What
    is no regular file (a pipe, /dev/null) is written to directly."""
    path = os.path.realpath(path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        return
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            if mode is not None:
                os.fchmod(descriptor, stat.S_IMODE(mode))
            yield descriptor
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
