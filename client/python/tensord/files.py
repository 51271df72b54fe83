"""Files of tensors: safetensors, npz and npy, as a whole, into the daemon and out of it.

The daemon reads and writes the formats; here bytes come from files and go to files: out of the
file's own pages, and into the file piece by piece.
"""

import contextlib
import errno
import io
import json
import mmap
import os
import secrets
import stat
from typing import Any, Iterable, Iterator, Mapping

from tensord._session import Reply, ttl_argument, wait_argument
from tensord.creation import Creation
from tensord.errors import Invalid, OutOfMemory, Precondition
from tensord.tensor import Tensor

_ENDINGS = {".safetensors": "safetensors", ".npz": "npz", ".npy": "npy"}
_EXPECTED = "tensors are names, or a mapping of names to tensors"
_NAME_BYTES = 200  # of a file, in the name of its temporary one


class Loaded(Mapping[str, Tensor]):
    """What Client.load has stored: handles, by the tensors' names in the file.

    A handle is made when it is asked for, by the name that the tensor got (the prefix, "/" and the
    name in the file): NotFound if that is gone by then, Precondition if it belongs to a tensor of
    another file.
    """

    def __init__(self, client: Any, names: "dict[str, tuple[str, int]]", metadata: dict):
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

    def _ipython_key_completions_(self) -> "list[str]":
        """What IPython and Jupyter offer behind model["."""
        return list(self._names)

    def __repr__(self) -> str:
        return f"<tensord.Loaded {list(self._names)}>"


class Files(Creation):
    """The methods of Client for files."""

    def load(
        self,
        source: Any,
        prefix: str = "",
        *,
        format: "str | None" = None,
        dtype: Any = None,
        mutable: bool = False,
        requires_grad: bool = False,
        create_only: bool = False,
        ttl: "float | None" = None,
        by_daemon: bool = False,
        timeout: "float | None" = None,
    ) -> Loaded:
        """Stores all tensors of a file, all of them or none, in one request.

            model = c.load("model.safetensors", "model")
            model["layer.0.weight"]     # a handle; its name is "model/layer.0.weight"
            model.metadata              # {"format": "pt"}

        source: the path of a safetensors, npz or npy file, an open binary file (what is left of
        it), or its bytes. The names are prefix, "/" and the name in the file; that of an npy file
        is the prefix alone. The tensors are views over one memory in the daemon.

        format: "safetensors", "npz" or "npy", where the first bytes shall not tell. dtype: what
        NumPy's void elements mean, as which it saves bfloat16 and float8. mutable, requires_grad,
        ttl (seconds): as put, of all of them; create_only: Exists if any of the names is taken.
        by_daemon: the daemon reads the file itself, from the path that it has for it below one of
        the directories of --load-dir; nothing is sent. timeout: seconds that it may take, where the
        client's own are too few.

        OSError for a file that cannot be read, Invalid for a malformed one, BadDtype for dtypes
        that tensord has not, TooLarge and OutOfMemory for more than the daemon takes (the text says
        so if the tensors are stored, and only the list of them is not), Forbidden for a path where
        it may not read.
        """
        where = {"path": os.fspath(source)} if by_daemon else {}
        body = None if by_daemon else _bytes_of(source)
        reply = self.session.op(
            "load", body, prefix=prefix or None, format=format, dtype=dtype,
            mutable=mutable or None, requires_grad=requires_grad or None,
            create_only=create_only or None, ttl_ms=ttl_argument(ttl),
            timeout_ms=wait_argument(timeout, "timeout"), **where,
        )  # fmt: skip
        metadata = json.loads(reply.text("metadata") or "{}")
        return Loaded(self, _names_of(reply, prefix or ""), metadata)

    def save(
        self,
        target: Any,
        prefix: str = "",
        *,
        tensors: "Mapping[str, Any] | Iterable[str] | None" = None,
        format: "str | None" = None,
        metadata: "Mapping[str, str] | None" = None,
        dtype: Any = None,
        casting: "str | None" = None,
        saturate: "bool | None" = None,
        force: bool = False,
        by_daemon: bool = False,
        timeout: "float | None" = None,
    ) -> None:
        """Writes tensors to a file, as they all are at one moment.

            c.save("model.safetensors", "model", metadata={"format": "pt"})
            c.save("some.npz", tensors={"a": c["x"], "b": "other/name", "c": np.eye(3)})

        The tensors are those whose names begin with the prefix and "/", by the rest of their names,
        or those of `tensors`: handles, names and arrays by their names in the file, or names alone.
        target: a path, where the file appears when it is complete, or not at all, or an open binary
        file.

        format: "safetensors", "npz" or "npy" (of one tensor); else the path's ending tells, and
        safetensors is what it is without. metadata: texts by name, for safetensors. dtype, casting,
        saturate: cast on the way, as to(). force: npz and npy of tensors that require grad, for
        which numpy() has an error. by_daemon: the daemon writes the file itself, to the path that
        it has for it below one of the directories of --save-dir; nothing comes here. timeout:
        seconds that it may take, where the client's own are too few.

        NotFound if there are no such tensors, OSError for a path that cannot be opened, Invalid
        when writing fails (the disk is full) and for more than 1 MiB of names and metadata,
        TooLarge for more than 512 KiB of metadata, which load would not take back, Cancelled when
        nobody reads the pipe that it is written to, RequiresGrad, Unsupported for a dtype that the
        format has not (complex128 of safetensors), Forbidden for a path where the daemon may not
        write.
        """
        by_path = isinstance(target, (str, os.PathLike))
        if not by_path and not hasattr(target, "write"):
            raise TypeError(f"expected a path or an open binary file, not {type(target).__name__}")
        if isinstance(target, io.TextIOBase):
            raise TypeError("expected a path or an open binary file, not a file opened as text")
        if by_path and format is None:
            format = _ENDINGS.get(os.path.splitext(os.fspath(target))[1].lower())
        lines, uploaded = self._lines(tensors)
        fields = {
            "prefix": prefix or None, "tensors": lines, "format": format, "dtype": dtype,
            "metadata": _text(metadata), "casting": casting, "saturate": saturate,
            "force": force or None, "timeout_ms": wait_argument(timeout, "timeout"),
        }  # fmt: skip
        if by_daemon:
            self.session.op("save", path=os.fspath(target), **fields)
        elif by_path:
            with _new_file(os.fspath(target)) as descriptor:
                self.session.op_to_file("save", descriptor, **fields)
        else:
            _write_all(target, self.session.op("save", **fields).body())
        del uploaded

    def _lines(self, tensors: Any) -> "tuple[str | None, list]":
        """KEY=NAME for each tensor, and what has to be kept until they are saved."""
        if tensors is None:
            return None, []
        if isinstance(tensors, (str, Tensor)):
            raise TypeError(f"{_EXPECTED}, not one {type(tensors).__name__}")
        named = tensors.items() if isinstance(tensors, Mapping) else ((n, n) for n in tensors)
        lines, kept = [], []
        for key, value in named:
            if not isinstance(key, str):
                raise TypeError(f"{_EXPECTED}; {type(key).__name__} is no name")
            if not isinstance(value, str):
                kept.append(self.operand(value))
                value = kept[-1].ref
            itself = value == key  # a name that may have a = in it
            if not key or "\n" in key + value or ("=" in key and not itself):
                raise ValueError(f"{key!r} is no name for a file: empty, or with a line break or =")
            lines.append(f"{'' if itself else key}={value}\n")
        return "".join(lines), kept


# ---- in ------------------------------------------------------------------------------------------


def _names_of(reply: Reply, prefix: str) -> "dict[str, tuple[str, int]]":
    start = f"{prefix}/" if prefix and not prefix.endswith("/") else prefix
    found = {}
    for entry in reply.entries():
        name = entry.text("name") or ""
        found[name.removeprefix(start)] = name, entry.uint("storage") or 0
    stored = reply.uint("count") or 0
    if len(found) < stored:
        raise OutOfMemory(
            f"all {stored} tensors of the file are stored, but the daemon had memory to list "
            f"{len(found)} of them only; take them by their names, {start!r} and those in the file"
        )
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
    try:
        size = memoryview(data).nbytes
    except TypeError:
        raise TypeError(
            "expected a path, an open binary file or the bytes of one, not "
            + (f"{type(source).__name__}" if data is source else "a file opened as text")
        ) from None
    if not size:
        raise Invalid(f"{source!r} has no bytes; expected a safetensors, npz or npy file")
    return data


def _pages_of(file: Any) -> Any:
    """The file, mapped; None for a pipe, and for files of /proc, which say that they are empty."""
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode) or not about.st_size:
        return None
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


# ---- out -----------------------------------------------------------------------------------------


def _text(metadata: "Mapping[str, str] | None") -> "str | None":
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata are texts by name, not {type(metadata).__name__}")
    for pair in metadata.items():
        if not all(isinstance(text, str) for text in pair):
            raise TypeError(f"metadata are texts by name, not {pair!r}")
    return json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":"))


def _write_all(file: Any, data: Any) -> None:
    """Also to files that take a part at a time, as those without a buffer may."""
    left = memoryview(data)
    while left.nbytes:
        written = file.write(left)
        if written is None and isinstance(file, io.RawIOBase):  # nothing, see io.RawIOBase.write
            raise BlockingIOError(errno.EAGAIN, "the file takes no more without blocking")
        left = left[len(left) if written is None else written :]


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[int]:
    """A descriptor of what takes the place of the file when all is well, with its permissions. What
    is no regular file (a pipe, /dev/null) is written to directly."""
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
    if not os.path.basename(path):  # realpath would take the / away
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    folder, name = os.path.split(os.path.realpath(path))
    shown = os.fsdecode(os.fsencode(name)[:_NAME_BYTES])
    temporary = os.path.join(folder, f".{shown}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        error.filename = path  # the name that the caller knows
        raise
    try:
        try:
            if mode is not None:
                os.fchmod(descriptor, stat.S_IMODE(mode))
            yield descriptor
        finally:
            os.close(descriptor)
        os.rename(temporary, os.path.join(folder, name))
    except BaseException:
        os.unlink(temporary)
        raise
