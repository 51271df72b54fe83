"""A client of the frame protocol in plain Python, written from proto/PROTOCOL.md alone.

It shares no code with the product, so that it can tell what the product really sends and accepts,
and it can send what no proper client would: see send_raw and the keywords of build_header. Numbers
of fields, operations, dtypes and statuses are read out of PROTOCOL.md's tables.

    with PlainClient("unix:///run/tensord.sock") as c:
        status, fields, body, fds = c.request("get", {"input": "x"})

Values of fields by type: uint, int: int; bool: bool; text: str; dtype: its name; dims: list of int;
scalar: Scalar; index: list of int, slice, Ellipsis and None. In requests a scalar may also be
a bool, int, float or complex.
"""

import array
import itertools
import os
import re
import socket
import struct
from collections import deque
from typing import NamedTuple

PROTOCOL_MD = os.path.join(os.path.dirname(__file__), "..", "..", "proto", "PROTOCOL.md")

MAGIC = b"TDRF"
VERSION = 1
REPLY, ONE_WAY = 1, 2
HEADER = struct.Struct("<4sBBHQIIQH6s")
META_MAX = 1 << 20
DESCRIPTORS_MAX = 1
RANK_MAX = 32
INDEX_MAX = 64
INDEX_NONE = -(1 << 63)
INDEX_ITEM = struct.Struct("<Bqqq")


def protocol_table(name):
    """The rows of a generated table of PROTOCOL.md, as lists of cells."""
    with open(PROTOCOL_MD, encoding="utf-8") as file:
        text = file.read()
    section = re.search(f"<!-- generated: {name} -->\n(.*?)<!-- end -->", text, re.DOTALL).group(1)
    rows = [line.strip("|").split(" | ") for line in section.split("\n")]
    return [[cell.strip() for cell in row] for row in rows if row[0].strip().isdigit()]


STATUSES = {int(row[0]): row[1] for row in protocol_table("status")}
DTYPES = {int(row[0]): row[1] for row in protocol_table("dtypes")}
FIELDS = {int(row[0]): (row[1], row[2]) for row in protocol_table("fields")}
OPS = {int(row[0]): row[1] for row in protocol_table("ops")}
DTYPE_NUMBERS = {name: number for number, name in DTYPES.items()}
FIELD_NUMBERS = {name: number for number, (name, _) in FIELDS.items()}
OP_NUMBERS = {name: number for number, name in OPS.items()}


class Refused(Exception):
    """Bytes that the protocol does not allow. status: how it says that they are answered."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status = status


class Disconnected(Exception):
    """The other side has closed the connection."""


class Scalar(NamedTuple):
    kind: str  # bool, int, uint, float, complex
    value: object


class Header(NamedTuple):
    opcode: int
    request_id: int
    meta_length: int
    body_length: int
    status: int = 0
    flags: int = 0
    descriptors: int = 0
    version: int = VERSION
    magic: bytes = MAGIC
    reserved: bytes = bytes(6)


class Frame(NamedTuple):
    header: Header
    fields: dict
    body: bytes
    fds: list


# ---- values ----------------------------------------------------------------------------------

SCALARS = {"bool": (0, "<B"), "int": (1, "<q"), "uint": (2, "<Q"), "float": (3, "<d"),
           "complex": (4, "<dd")}  # fmt: skip
FIXED = {"uint": "<Q", "int": "<q", "bool": "<B", "dtype": "<B"}


def scalar_of(value):
    if isinstance(value, Scalar):
        return value
    return Scalar(type(value).__name__, value)


def build_scalar(value):
    kind, value = scalar_of(value)
    number, form = SCALARS[kind]
    parts = (value.real, value.imag) if kind == "complex" else (value,)
    return bytes([number]) + struct.pack(form, *parts)


def read_scalar(data):
    require(data, "protocol", "an empty scalar")
    known = [kind for kind, (number, _) in SCALARS.items() if number == data[0]]
    require(known, "invalid", f"kind {data[0]} of a scalar")
    kind, form = known[0], SCALARS[known[0]][1]
    require(len(data) == 1 + struct.calcsize(form), "protocol", f"{len(data)} bytes of {kind}")
    parts = struct.unpack(form, data[1:])
    if kind == "bool":
        require(parts[0] <= 1, "invalid", f"a bool of {parts[0]}")
        return Scalar(kind, parts[0] == 1)
    return Scalar(kind, complex(*parts) if kind == "complex" else parts[0])


def index_numbers(item):
    if isinstance(item, slice):
        ends = (item.start, item.stop, item.step)
        return 1, *(INDEX_NONE if end is None else end for end in ends)
    if item is Ellipsis:
        return 2, 0, 0, 0
    if item is None:
        return 3, 0, 0, 0
    return 0, item, 0, 0


def index_item(kind, *ends):
    require(kind <= 3, "bad_index", f"kind {kind} of an index's item")
    if kind == 1:
        return slice(*(None if end == INDEX_NONE else end for end in ends))
    return {0: ends[0], 2: Ellipsis, 3: None}[kind]


def read_index(data):
    require(len(data) % INDEX_ITEM.size == 0, "protocol", f"an index of {len(data)} bytes")
    require(len(data) // INDEX_ITEM.size <= INDEX_MAX, "bad_index", "too many items")
    return [index_item(*numbers) for numbers in INDEX_ITEM.iter_unpack(data)]


def build_value(kind, value):
    if kind in FIXED:
        return struct.pack(FIXED[kind], DTYPE_NUMBERS[value] if kind == "dtype" else value)
    if kind == "text":
        return value.encode()
    if kind == "dims":
        return struct.pack(f"<{len(value)}q", *value)
    if kind == "scalar":
        return build_scalar(value)
    return b"".join(INDEX_ITEM.pack(*index_numbers(item)) for item in value)


def read_fixed(kind, data):
    size = struct.calcsize(FIXED[kind])
    require(len(data) == size, "protocol", f"{len(data)} bytes of {kind}")
    (number,) = struct.unpack(FIXED[kind], data)
    if kind == "bool":
        require(number <= 1, "invalid", f"a bool of {number}")
        return number == 1
    if kind == "dtype":
        require(number in DTYPES, "bad_dtype", f"dtype {number}")
        return DTYPES[number]
    return number


def read_value(kind, data):
    if kind in FIXED:
        return read_fixed(kind, data)
    if kind == "text":
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused("invalid", str(error)) from error
        require("\0" not in text, "invalid", "NUL in a text")
        return text
    if kind == "dims":
        require(len(data) % 8 == 0, "protocol", f"{len(data)} bytes of dims")
        require(len(data) // 8 <= RANK_MAX, "bad_shape", f"rank {len(data) // 8}")
        return [number for (number,) in struct.iter_unpack("<q", data)]
    return read_scalar(data) if kind == "scalar" else read_index(data)


def require(condition, status, text):
    if not condition:
        raise Refused(status, text)


# ---- meta, lists, headers --------------------------------------------------------------------


def build_field(number, value):
    """One field of raw bytes, whatever its number."""
    return struct.pack("<I", len(value) << 8 | number) + value


def build_meta(fields):
    """A dict of fields by name. A field of the name "#200" holds raw bytes."""
    numbered = []
    for name, value in fields.items():
        number = int(name[1:]) if name[0] == "#" else FIELD_NUMBERS[name]
        raw = value if name[0] == "#" else build_value(FIELDS[number][1], value)
        numbered.append((number, raw))
    return b"".join(build_field(number, raw) for number, raw in sorted(numbered))


def read_meta(data, lenient):
    """The fields by name. lenient: those of unknown numbers as raw bytes under "#200"."""
    fields, previous, at = {}, 0, 0
    while at < len(data):
        require(len(data) - at >= 4, "protocol", "the meta ends in a field's head")
        (head,) = struct.unpack_from("<I", data, at)
        number, size = head & 0xFF, head >> 8
        at += 4
        require(number > previous, "protocol", f"field {number} after {previous}")
        require(size <= len(data) - at, "protocol", f"field {number} is longer than the meta")
        raw = bytes(data[at : at + size])
        if number in FIELDS:
            name, kind = FIELDS[number]
            fields[name] = read_value(kind, raw)
        else:
            require(lenient, "invalid", f"field {number}")
            fields[f"#{number}"] = raw
        previous = number
        at += size
    return fields


def build_list(entries):
    metas = [build_meta(fields) for fields in entries]
    return b"".join(struct.pack("<I", len(meta)) + meta for meta in metas)


def read_list(body):
    """The entries of a list body, each a dict of fields."""
    entries, at = [], 0
    while at < len(body):
        require(len(body) - at >= 4, "protocol", "the list ends in an entry's length")
        (size,) = struct.unpack_from("<I", body, at)
        at += 4
        require(size <= len(body) - at, "protocol", "an entry is longer than the list")
        entries.append(read_meta(body[at : at + size], lenient=True))
        at += size
    return entries


def build_header(header):
    h = header
    return HEADER.pack(h.magic, h.version, h.flags, h.opcode, h.request_id, h.status,
                       h.meta_length, h.body_length, h.descriptors, h.reserved)  # fmt: skip


def read_header(data):
    magic, version, flags, opcode, request_id, status, meta, body, fds, rest = HEADER.unpack(data)
    require(magic == MAGIC, "protocol", f"magic {magic!r}")
    require(version == VERSION, "protocol", f"version {version}")
    require(flags <= ONE_WAY, "protocol", f"flags {flags}")
    require(flags == REPLY or status == 0, "protocol", f"status {status} in a request")
    require(rest == bytes(6), "protocol", f"reserved bytes {rest.hex()}")
    require(meta <= META_MAX, "protocol", f"{meta} bytes of meta")
    require(fds <= DESCRIPTORS_MAX, "protocol", f"{fds} descriptors")
    return Header(opcode, request_id, meta, body, status, flags, fds)


def op_number(op):
    return OP_NUMBERS[op] if isinstance(op, str) else op


def build_frame(op, request_id, fields=None, body=b"", **header):
    """A frame's bytes. fields: a dict, or the raw bytes of a meta; header: members of Header that
    shall not be what they should."""
    meta = fields if isinstance(fields, bytes) else build_meta(fields or {})
    values = {"opcode": op_number(op), "request_id": request_id, "meta_length": len(meta),
              "body_length": len(body), **header}  # fmt: skip
    return build_header(Header(**values)) + meta + bytes(body)


# ---- the connection --------------------------------------------------------------------------


def connect_socket(url, timeout):
    if url.startswith("tcp://"):
        host, _, port = url[len("tcp://") :].rpartition(":")
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    connection.connect(url[len("unix://") :] if url.startswith("unix://") else url)
    return connection


class PlainClient:
    """One connection. url: "unix:///path", a path, or "tcp://host:port". hello=False sends none;
    its other fields come from the keywords token, client and session_key. timeout: seconds,
    TimeoutError after that. After hello its reply's fields are in self.welcome."""

    def __init__(self, url, *, hello=True, timeout=10, **fields):
        self.socket = connect_socket(url, timeout)
        self.ids = itertools.count(1)
        self.received_fds = deque()
        self.early = {}  # replies that came before they were waited for, by request id
        self.welcome = None
        if hello:
            try:
                self.welcome = self.hello(**fields)
            except BaseException:
                self.close()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Closes the connection, and the descriptors that nobody took."""
        self.socket.close()
        for frame in self.early.values():
            for fd in frame.fds:
                os.close(fd)
        self.early.clear()
        while self.received_fds:
            os.close(self.received_fds.popleft())

    def hello(self, **fields):
        status, reply, _, _ = self.request("hello", {"protocol": VERSION, **fields})
        if status != "ok":
            raise Refused(status, reply.get("message", ""))
        return reply

    # Sending

    def send_raw(self, data, fds=()):
        """Any bytes, with descriptors along with the first of them."""
        if fds:
            sent = socket.send_fds(self.socket, [data], list(fds))
            data = memoryview(data)[sent:]
        if data:
            self.socket.sendall(data)

    def send(self, op, fields=None, body=b"", fds=(), **header):
        """Sends a request and returns its id. header: see build_frame."""
        request_id = header.pop("request_id", None)
        if request_id is None:
            request_id = next(self.ids)
        header.setdefault("descriptors", len(fds))
        self.send_raw(build_frame(op, request_id, fields, body, **header), fds)
        return request_id

    # Receiving

    def receive_some(self, size):
        """Bytes and flags of one recvmsg; descriptors go to the queue."""
        data, fds, flags, _ = socket.recv_fds(self.socket, size, 16, socket.MSG_CMSG_CLOEXEC)
        self.received_fds.extend(fds)
        return data, flags

    def receive_exactly(self, size):
        parts = bytearray()
        while len(parts) < size:
            data, flags = self.receive_some(min(size - len(parts), 1 << 20))
            if flags & socket.MSG_CTRUNC:
                raise Refused("protocol", "descriptors were lost")
            if not data:
                raise Disconnected(f"after {len(parts)} of {size} bytes")
            parts += data
        return bytes(parts)

    def receive(self):
        """The next frame, whatever it answers. Its descriptors are the caller's."""
        header = read_header(self.receive_exactly(HEADER.size))
        require(header.flags == REPLY, "protocol", f"flags {header.flags} of a reply")
        fields = read_meta(self.receive_exactly(header.meta_length), lenient=True)
        body = self.receive_exactly(header.body_length)
        require(len(self.received_fds) >= header.descriptors, "protocol", "a descriptor is missing")
        fds = [self.received_fds.popleft() for _ in range(header.descriptors)]
        return Frame(header, fields, body, fds)

    def wait(self, request_id):
        """The reply to one request, as (status, fields, body, descriptors)."""
        while request_id not in self.early:
            frame = self.receive()
            self.early[frame.header.request_id] = frame
        frame = self.early.pop(request_id)
        status = STATUSES.get(frame.header.status, str(frame.header.status))
        return status, frame.fields, frame.body, frame.fds

    def request(self, op, fields=None, body=b"", fds=(), **header):
        """Sends a request and waits for its reply: (status, fields, body, descriptors)."""
        return self.wait(self.send(op, fields, body, fds, **header))

    def is_closed(self):
        """Waits until the daemon closes the connection; False if it sends something instead."""
        try:
            data, _ = self.receive_some(1)
        except ConnectionError:
            return True
        return not data


def elements(code, body):
    """A body's elements by their code of the array module: "f" float32, "d" float64, "q" int64."""
    values = array.array(code)
    values.frombytes(body)
    return values.tolist()
