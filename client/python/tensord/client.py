"""The client: the tensors of one daemon, by name."""

from collections import OrderedDict
from typing import Any, Iterable, Iterator, Mapping, NamedTuple
from weakref import WeakValueDictionary

from tensord import _shapes, convert, mapping, waiting
from tensord._session import Info, Reply, Session, ttl_argument, wait_argument
from tensord._tensord import lib
from tensord.allocation import Allocation
from tensord.dtypes import dtype as find_dtype
from tensord.errors import ConnectionError, NotFound
from tensord.files import Files
from tensord.queues import Queue
from tensord.tensor import Tensor
from tensord.waiting import Event

_PAGE = 1000  # names in one reply to list
_OPENED_MAX = 16  # queues whose memory stays mapped when no Queue is left


class Lease(NamedTuple):
    """What somebody was handed out: mostly memory that it has mapped."""

    id: int
    kind: str  #: "read", "write", "fill" (not published yet), "item" or "producer" (of a queue)
    principal: str  #: whose quota it counts against: "uid:1000", "tcp", "token"
    uid: "int | None"  #: None for who comes over TCP or HTTP
    pid: int  #: the process, in the daemon's eyes; 0: unknown
    session: int
    storage: "int | None"
    mode: str  #: of the storage; "" without one
    nbytes: int
    age: float  #: seconds
    ttl: "float | None"  #: seconds until it ends by itself; None: it does not
    deleted: bool  #: no name leads to the memory any more


class Client(Files):
    """A connection to a daemon, used like a dict of tensors.

        c["x"] = np.eye(3)      # stored, frozen
        x = c["x"]              # a handle
        del c["x"]; "x" in c; list(c); len(c)

    Thread-safe. In a child after fork(), and where a pickle of it is loaded, it connects anew when
    it is first used, with the same address, token and timeout. `with` closes it, which gives back
    everything its handles hold; arrays over mapped memory stay good, and keep that.
    """

    def __init__(
        self,
        url: "str | None" = None,
        token: "str | None" = None,
        timeout: "float | None" = 30.0,
    ):
        """See tensord.connect."""
        self._begin(Session(url, token, timeout))

    def _begin(self, session: Session) -> None:
        self.session = session
        self._queues: "WeakValueDictionary[int, Queue]" = WeakValueDictionary()
        self._opened: "OrderedDict[str, Any]" = OrderedDict()  # by name; used last, last

    # ---- the connection ----

    def close(self) -> None:
        """Ends the connection. Handles of it raise ConnectionError from now on."""
        self.session.close()
        for reference in self._queues.valuerefs():
            opened = reference()
            if opened is not None:
                opened._forget()
        self._opened.clear()

    @property
    def closed(self) -> bool:
        return self.session.closed

    def __reduce__(self) -> tuple:
        if self.closed:
            raise ConnectionError("this client is closed and cannot be pickled")
        return _restore, self.session.arguments()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()

    @property
    def is_local(self) -> bool:
        """True if memory can be shared with the daemon: over a Unix socket."""
        return self.session.is_local()

    def ping(self, data: bytes = b"") -> bytes:
        """Returns data (at most 64 KiB) from the daemon."""
        return bytes(self.session.op("ping", data).body())

    def stats(self) -> "dict[str, int]":
        """The daemon's counters by name."""
        entries = self.session.op("stats").entries()
        return {entry.text("name") or "": entry.uint("count") or 0 for entry in entries}

    def devices(self) -> "list[str]":
        """The devices of the daemon: ["cpu"], ["cpu", "cuda:0"]."""
        entries = self.session.op("devices").entries()
        return [entry.text("device") or entry.text("name") or "" for entry in entries]

    def ops(self) -> "dict[str, str]":
        """The daemon's operations, and what each does."""
        entries = self.session.op("ops").entries()
        return {entry.text("name") or "": entry.text("text") or "" for entry in entries}

    def op(self, name: str, body: Any = None, **fields: Any) -> Reply:
        """Runs any operation of the table with its fields as keywords; tensors among them as
        handles or names. Returns the reply, for what has no method."""
        for field, value in fields.items():
            if isinstance(value, Tensor):
                value._check_session()
                fields[field] = value.ref
        return self.session.op(name, body, **fields)

    # ---- names ----

    def _ipython_key_completions_(self) -> "list[str]":
        """What IPython and Jupyter offer behind c["."""
        return self.list(limit=1000)

    def __getitem__(self, name: str) -> Tensor:
        """A handle on the tensor that has the name now. NotFound (a KeyError) if none has."""
        return self.handle(self.session.op("as_tensor", input=name), name)

    def __setitem__(self, name: str, value: Any) -> None:
        """Stores an array frozen; publishes a handle of this client under the name, not copied."""
        if isinstance(value, Tensor) and value._client is self:
            value._run("as_tensor", output=name)
        else:
            self._store(name, value, 0)

    def __delitem__(self, name: str) -> None:
        self.delete(name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or name.startswith("@"):
            return False
        try:
            self.info(name)
        except (NotFound, ValueError):  # no tensor can have a name that is malformed
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def __len__(self) -> int:
        return sum(1 for _name in self.keys())

    def get(self, name: str, default: Any = None) -> Any:
        """c[name], or default if no tensor has the name."""
        try:
            return self[name]
        except NotFound:
            return default

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The names that begin with prefix, in byte order."""
        return (info.name for info in self.infos(prefix))

    def items(self, prefix: str = "") -> "Iterator[tuple[str, Tensor]]":
        """(name, handle) of the names that begin with prefix, in byte order. Names that are
        deleted meanwhile are left out."""
        for name in self.keys(prefix):
            tensor = self.get(name)
            if tensor is not None:
                yield name, tensor

    def values(self, prefix: str = "") -> Iterator[Tensor]:
        """Handles of the names that begin with prefix, in byte order."""
        return (tensor for _name, tensor in self.items(prefix))

    def update(self, tensors: "Mapping[str, Any] | Iterable[tuple[str, Any]]") -> None:
        """c[name] = value for each."""
        pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
        for name, value in pairs:
            self[name] = value

    def list(self, prefix: str = "", limit: "int | None" = None) -> "list[str]":
        """The names that begin with prefix, in byte order, at most `limit`."""
        return [info.name for info in self.infos(prefix, limit)]

    def infos(self, prefix: str = "", limit: "int | None" = None) -> Iterator[Info]:
        """What the daemon says about each tensor whose name begins with prefix, in byte order."""
        cursor, left = None, limit
        while left is None or left > 0:
            page = _PAGE if left is None else min(left, _PAGE)
            reply = self.session.op("list", prefix=prefix or None, limit=page, cursor=cursor)
            entries = [entry.info() for entry in reply.entries()]
            yield from entries
            cursor = reply.text("cursor")
            if not cursor:
                return
            left = None if left is None else left - len(entries)

    def info(self, name: str) -> Info:
        """What the daemon says about a tensor."""
        return self.session.op("info", input=name).info()

    def rename(self, old: str, new: str, create_only: bool = False) -> None:
        """Gives a tensor another name, which it takes from whoever has it; Exists instead if
        create_only is set. Whoever holds a tensor notices nothing."""
        self.session.op("rename", input=old, output=new, create_only=create_only or None)

    def copy(self, name: str, to: str, mutable: "bool | None" = None) -> None:
        """Stores a copy of a tensor's elements under another name."""
        self.session.op("copy", input=name, output=to, mutable=mutable)

    def delete(self, name: str, if_generation: "int | None" = None) -> None:
        """Removes a name; whoever holds or maps the tensor keeps it. Precondition if the name does
        not have that generation."""
        self.session.op("delete", input=name, if_generation=if_generation)

    def expire(self, name: str, ttl: "float | None" = None) -> None:
        """Removes a name after `ttl` seconds from now, instead of when it would have been removed
        before; None: the name stays. Whoever holds the tensor keeps it."""
        self.session.op("expire", input=name, ttl_ms=ttl_argument(ttl))

    def ttl(self, name: str) -> "float | None":
        """Seconds until a name is removed; None for one that stays."""
        left = self.session.op("info", input=name).uint("ttl_ms")
        return None if left is None else left / 1000

    def seal(self, name: str, wait: "float | None" = None) -> Tensor:
        """Freezes the tensor that has the name: a copy of it, to which the name then leads, if
        others have seen its memory. The handle's `memory` and `reason` tell. See Tensor.seal."""
        reply = self.session.op("seal", input=name, wait_ms=wait_argument(wait))
        sealed, info = self[name], reply.info()
        sealed._memory, sealed._reason = info.memory, info.reason
        return sealed

    # ---- who holds what ----

    def leases(self) -> "list[Lease]":
        """Who has what mapped, of all clients of the daemon, oldest first."""
        found: list = []
        after: "int | None" = None
        while True:
            reply = self.session.op("leases", lease=after)
            found += map(_lease, reply.entries())
            after = reply.uint("lease")
            if after is None:
                return found

    def principals(self) -> "dict[str, dict]":
        """What each user holds and may hold: {"uid:1000": {"bytes": {"used": 4096, "limit":
        1073741824}, "names": ..., "deleted_bytes": {"used": 0}}, ...}. deleted_bytes are those of
        the bytes to which no name leads any more."""
        found: dict = {}
        for entry in self.session.op("principals").entries():
            quota = {"used": entry.uint("count")}
            if entry.uint("limit") is not None:
                quota["limit"] = entry.uint("limit")
            found.setdefault(entry.text("principal"), {})[entry.text("name")] = quota
        return found

    def touch(self, name: str) -> None:
        """Tells the daemon that a tensor was changed through a mapping. See Tensor.touch."""
        self.session.touch(name)

    # ---- queues ----

    def queue(
        self,
        name: str,
        maxsize: "int | None" = None,
        maxbytes: "int | None" = None,
        when_full: "str | None" = None,
        visibility: "float | None" = None,
    ) -> Queue:
        """The queue of that name, made if there is none. It stays until it is deleted.

        maxsize, maxbytes: what may wait in it (64 items, 1 GiB); when_full: what put then does,
        "block" (the default), "fail" or "drop_oldest"; visibility: seconds in which an item has to
        be acknowledged before it is handed out again (300). None: the default, or as the queue that
        is there has it; Exists if that differs from what is asked for.

        What one Queue has mapped serves the next one of that name. What was not used for ten
        seconds goes with the next call of this client, whichever that is.
        """
        return Queue(self, name, maxsize, maxbytes, when_full, visibility)

    def _same(self, name: str, opened: tuple) -> tuple:
        """Of Queues of a name one (connection, td_queue): the one that was opened first, whose
        memory stays mapped also when the last of them is gone."""
        known = self._opened
        found: tuple = known.setdefault(name, opened)
        if found[0] is not opened[0]:  # of the process that this one was forked from
            found = known[name] = opened
        try:
            known.move_to_end(name)
            while len(known) > _OPENED_MAX:
                known.popitem(last=False)
        except KeyError:  # another thread was faster
            pass
        return found

    def queues(self, prefix: str = "") -> "list[str]":
        """The names of the queues that begin with prefix, in byte order."""
        found: list = []
        cursor: "str | None" = None
        while True:
            reply = self.session.op("queues", prefix=prefix or None, cursor=cursor)
            found += [entry.text("queue") for entry in reply.entries()]
            cursor = reply.text("cursor")
            if not cursor:
                return found

    # ---- waiting for others ----

    def wait(
        self, name: str, generation: "int | None" = None, timeout: "float | None" = None
    ) -> Tensor:
        """Waits until a name is there, and returns c[name].

        With generation: until it was published, or its tensor touched, since it had that one (see
        Tensor.generation). timeout: seconds, None for ever; Deadline (a TimeoutError) when they
        are over. Other threads may use the client meanwhile; Ctrl-C ends it.
        """
        return waiting.wait(self, name, generation, timeout)

    def watch(
        self, prefix: str = "", since: "int | None" = None, timeout: "float | None" = None
    ) -> Iterator[Event]:
        """What is published and removed from now on, or after the revision `since` (that of an
        event), of names that begin with prefix: an iterator of Events, oldest first.

            for event in c.watch("weights/"):
                print(event.event, event.name)

        It waits for the next event, at most `timeout` seconds, and then ends; None: for ever. An
        Event "lost" says that some are missing: the daemon keeps the latest 4096 of all names.
        """
        return waiting.watch(self.session, prefix, since, timeout)

    # ---- arrays in and out ----

    def put(
        self,
        name: str,
        value: Any,
        *,
        mutable: bool = False,
        requires_grad: bool = False,
        create_only: bool = False,
        ttl: "float | None" = None,
    ) -> Tensor:
        """Stores a copy of an array under a name and returns a handle on it.

        Frozen unless mutable is set: then nobody can change it, and the kernel sees to that.
        Exists (and nothing changes) if create_only is set and the name is taken. With ttl the name
        is removed after so many seconds; whoever holds the tensor keeps it.
        """
        if ttl is not None:
            source = self._source(_plain(value))
            self.session.op(
                "put", source.body, output=name, dtype=source.dtype, shape=source.shape,
                mutable=mutable or None, requires_grad=requires_grad or None,
                create_only=create_only or None, ttl_ms=ttl_argument(ttl),
            )  # fmt: skip
            return self[name]
        flags = lib.TD_PUT_MUTABLE if mutable else 0
        flags |= lib.TD_PUT_REQUIRES_GRAD if requires_grad else 0
        flags |= lib.TD_PUT_CREATE_ONLY if create_only else 0
        self._store(name, value, flags)
        return self[name]

    def allocate(self, shape: Any, dtype: Any = "float32") -> Allocation:
        """Memory of the daemon to be filled in place and then published, without a copy.

            with c.allocate((480, 640), "uint8") as frame:
                camera.read_into(frame.array)
                frame.publish("frame")

        Zeroed. shape: a size or several. Over the Unix socket only (Unsupported).
        """
        sizes = (shape,) if hasattr(shape, "__index__") else tuple(shape)
        element = find_dtype(dtype)
        return Allocation(self, self.session.allocate(element.code, _shapes.sizes((sizes,))))

    def _store(self, name: str, value: Any, flags: int) -> None:
        self.session.put(name, self._source(_plain(value)), flags)

    def fetch(self, name: str, dtype: Any = None, out: Any = None) -> Any:
        """A copy of a tensor's elements as a NumPy array, or in `out`. See Tensor.fetch."""
        return self[name].fetch(dtype, out)

    def numpy(self, name: str, force: bool = False) -> Any:
        """c[name].numpy(), without a handle and with one round trip less."""
        flags = mapping.NUMPY | (mapping.FORCE if force else 0)
        found = mapping.Mapping(self.session.map(name, flags))
        if found.mode == "mutable" and self.session.is_local():
            found = mapping.Mapping(self.session.map(name, flags | mapping.WRITE))
        return mapping.to_numpy(found)

    def variable(self, *arguments: Any, requires_grad: bool = False) -> Tensor:
        """variable(data) or variable(name, data): a variable over a tensor's memory.

        data is a handle, a name, or an array (which is copied). As PyTorch 0.2's Variable it wraps
        tensors of any dtype.
        """
        if len(arguments) not in (1, 2):
            raise TypeError(f"variable() takes (data) or (name, data), not {len(arguments)} values")
        name, data = arguments if len(arguments) == 2 else (None, *arguments)
        operand = self[data] if isinstance(data, str) else self.operand(data)
        made = operand._make("variable", requires_grad=requires_grad)
        return made.save(name) if name is not None else made

    # ---- state dicts ----

    def put_state_dict(
        self, prefix: str, state_dict: "Mapping[str, Any]", mutable: bool = False
    ) -> None:
        """Stores every tensor of a PyTorch state dict as prefix/key; keys keep their dots.

        Names under the prefix that the dict does not have stay as they are. Tied weights (the same
        memory under several keys) are one tensor under several names. Everything is read before
        the first tensor is stored, so a value that is no tensor changes nothing.
        """
        sources = {}
        for key, value in state_dict.items():
            try:
                sources[key] = self._source(_plain(value), contiguous=False)
            except TypeError as error:
                if type(error) is not TypeError:
                    raise
                found = type(value).__name__
                raise TypeError(f"the state dict's {key!r} is no tensor but a {found}") from error
        names: dict = {}  # by what they show
        for key, source in sources.items():
            names.setdefault(_memory_of(key, source), []).append((key, source))
        for (key, source), *tied in names.values():
            name = f"{prefix}/{key}"
            whole = source if source.is_contiguous() else self._source(_plain(state_dict[key]))
            self.session.put(name, whole, lib.TD_PUT_MUTABLE if mutable else 0)
            stored = self[name] if tied else None
            for other, _source in tied:
                self[f"{prefix}/{other}"] = stored

    def get_state_dict(self, prefix: str) -> "OrderedDict[str, Any]":
        """The tensors under prefix/ as PyTorch tensors over the daemon's memory (see
        Tensor.torch), by what follows the prefix, in byte order; for model.load_state_dict. Names
        of one tensor give one PyTorch tensor.

        NotFound if there is none.
        """
        start = f"{prefix}/"
        found, made = OrderedDict(), {}
        for name, tensor in self.items(start):
            if tensor.id not in made:
                made[tensor.id] = tensor.torch()
            found[name.removeprefix(start)] = made[tensor.id]
        if not found:
            raise NotFound(f"there is no tensor under {start!r}")
        return found

    def __repr__(self) -> str:
        if self.closed:
            return "<tensord.Client closed>"
        where = "local" if self.is_local else "remote"
        return f"<tensord.Client {where} {self.session.arguments()[0]}>"


# Clients out of pickles, so that many pickles of one client make one connection.
_restored: "WeakValueDictionary[tuple, Client]" = WeakValueDictionary()


def _restore(url: "str | None", token: "str | None", timeout: "float | None") -> Client:
    """A client that was pickled; it connects when it is first used."""
    key = (url, token, timeout)
    client = _restored.get(key)
    if client is None or client.closed:
        client = Client.__new__(Client)
        client._begin(Session(url, token, timeout, lazily=True))
        _restored[key] = client
    return client


def _lease(entry: Reply) -> Lease:
    ttl_ms = entry.uint("ttl_ms")
    return Lease(
        id=entry.uint("lease") or 0,
        kind=entry.text("kind") or "",
        principal=entry.text("principal") or "",
        uid=entry.uint("uid"),
        pid=entry.uint("pid") or 0,
        session=entry.uint("session") or 0,
        storage=entry.uint("storage"),
        mode=entry.text("mode") or "",
        nbytes=entry.uint("nbytes") or 0,
        age=(entry.uint("age_ms") or 0) / 1000,
        ttl=None if ttl_ms is None else ttl_ms / 1000,
        deleted=entry.text("text") == "deleted",
    )


def _memory_of(key: str, source: convert.Source) -> tuple:
    """Equal for tensors of a state dict that are one."""
    if source.gathered or not source.nbytes:
        return (key,)
    return source.address, source.dtype, source.shape, source.strides


def _plain(value: Any) -> Any:
    """Handles without grad, whose elements can be had; all else as it is."""
    return value.detach() if isinstance(value, Tensor) else value


def connect(
    url: "str | None" = None, token: "str | None" = None, timeout: "float | None" = 30.0
) -> Client:
    """Connects to a daemon.

    url: "unix:///run/tensord.sock", "tcp://host:7071" or the path of a socket; without it
    TENSORD_URL, then TENSORD_SOCKET, then the default socket. token: the secret of --token-file.
    timeout: seconds for connecting and for each call; None waits for ever.

    Raises ConnectionError if no daemon answers, Unauthorized if it wants another token.
    """
    return Client(url, token, timeout)
