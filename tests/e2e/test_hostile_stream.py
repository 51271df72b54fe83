"""Bad bytes, surplus descriptors, and clients that vanish at every byte: a clear error or a clean
close, the store unchanged, nothing leaked."""

import contextlib
import os
import socket
import time

import plain_client as plain
import pytest
from harness import (MIB, Daemon, abort, daemon, eventually, make_memfd, ok,  # noqa: F401
                     put, refused)  # fmt: skip
from plain_client import PlainClient

KEPT = bytes(range(256))


@pytest.fixture(autouse=True)
def nothing_is_left(daemon):
    with daemon.connect() as client:
        if client.request("info", {"input": "keep"})[0] != "ok":
            put(client, "keep", KEPT)
            put(client, "keep/big", bytes(2 * MIB))
            for fd in client.request("map", {"input": "keep/big"})[3]:  # opens it for readers, once
                os.close(fd)
    daemon.quiet()
    with daemon.unchanged():
        yield


@pytest.fixture(params=["unix", "tcp"])
def url(request, daemon):
    return daemon.url if request.param == "unix" else daemon.tcp_url


# ---- malformed headers ---------------------------------------------------------------------------

BAD_HEADERS = {
    "magic": {"magic": b"TDRG"}, "magic of http": {"magic": b"GET "},
    "magic zero": {"magic": bytes(4)},
    "version 0": {"version": 0}, "version 2": {"version": 2}, "version 255": {"version": 255},
    "reply": {"flags": 1}, "reply and one-way": {"flags": 3}, "flag 4": {"flags": 4},
    "flag 128": {"flags": 128}, "status": {"status": 1}, "status max": {"status": (1 << 32) - 1},
    "reserved first": {"reserved": b"\1" + bytes(5)},
    "reserved last": {"reserved": bytes(5) + b"\1"},
    "meta over 1 MiB": {"meta_length": (1 << 20) + 1}, "meta max": {"meta_length": (1 << 32) - 1},
    "2 descriptors": {"descriptors": 2}, "65535 descriptors": {"descriptors": 65535},
    "a descriptor that did not come": {"descriptors": 1},
}  # fmt: skip
TOO_LARGE = {
    "body max": {"body_length": (1 << 64) - 1},
    "body 2^63": {"body_length": 1 << 63},
    "body 1 TiB": {"body_length": 1 << 40},
}


@pytest.mark.parametrize("kind", [*BAD_HEADERS, *TOO_LARGE])
def test_malformed_headers(url, kind):
    """An answer with the id that was read, whatever follows, and the end of the connection."""
    wrong = {**BAD_HEADERS, **TOO_LARGE}[kind]
    for rest in (b"", b"x" * 100, b"x" * MIB):
        with PlainClient(url) as client:
            request = client.send("ping", {}, b"", request_id=77, **wrong)
            with contextlib.suppress(ConnectionError):
                client.send_raw(rest)
            reply = client.wait(request)
            refused(reply, "protocol" if kind in BAD_HEADERS else "too_large")
            assert client.is_closed()


@pytest.mark.parametrize("kind", BAD_HEADERS)
def test_malformed_headers_instead_of_hello(url, kind):
    with PlainClient(url, hello=False) as client:
        request = client.send("hello", {"protocol": 1}, request_id=5, **BAD_HEADERS[kind])
        refused(client.wait(request), "protocol")
        assert client.is_closed()


def test_answers_before_a_malformed_header_are_sent(url):
    with PlainClient(url) as client:
        frames = [plain.build_frame("ping", i, {}, b"x") for i in range(5)]
        client.send_raw(b"".join(frames) + b"nonsense" * 20)
        for i in range(5):
            assert client.wait(i)[2] == b"x"
        frame = client.receive()
        assert plain.STATUSES[frame.header.status] == "protocol"
        assert client.is_closed()


@pytest.mark.parametrize("opcode", [0, 6, 9, 79, 96, 255, 256, 1000, 65535])
def test_unknown_operations(url, opcode):
    with PlainClient(url) as client:
        for body in (b"", b"x" * 100, b"x" * MIB):
            refused(client.request(opcode, {}, body), "not_found")
            refused(client.request(opcode, {"input": "keep"}, body), "not_found")
        assert client.request("ping", {}, b"stays")[2] == b"stays"


def test_the_first_frame_is_hello(url):
    stored = {"output": "x", "dtype": "uint8", "shape": [3]}
    for op, fields, body in [("ping", {}, b""), ("get", {"input": "keep"}, b""), (999, {}, b""),
                             ("put", stored, b"abc")]:  # fmt: skip
        with PlainClient(url, hello=False) as client:
            refused(client.request(op, fields, body), "unauthorized")
            assert client.is_closed()


def test_meta_of_strangers_takes_no_memory(url):
    with PlainClient(url, hello=False) as client:
        request = client.send("hello", b"", meta_length=65537)
        refused(client.wait(request), "too_large", text="hello")
        assert client.is_closed()


def test_large_meta_counts_as_memory():
    """While it is there; where it does not fit only its request is refused, and passed over."""
    meta = {"input": "n" * (MIB - 20) + "?"}
    with Daemon("--memory-limit", "8700KiB", "--quota-bytes", "64MiB") as daemon, \
            daemon.unchanged(), daemon.connect() as client:  # fmt: skip
        refused(client.request("info", meta), "invalid", text="512")
        halves = [plain.build_frame("info", i, meta)[:-1] for i in range(100, 110)]
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(daemon.connect()) for _ in halves]
            for other, half in zip(others, halves):
                other.send_raw(half)
            eventually(lambda: daemon.stats()["reservations_refused"] > 0, "not all fit")
            (fd,) = memfds(1)
            with daemon.connect() as last:
                request = last.send("from_numpy", meta, b"", fds=[fd])
                refused(last.wait(request), "out_of_memory")
                request = last.send("info", meta, flags=plain.ONE_WAY)  # which info cannot be
                refused(last.wait(request), "out_of_memory")
                assert last.request("ping", {}, b"stays")[2] == b"stays"
            os.close(fd)
            for i, other in enumerate(others):
                other.send_raw(b"?")
                refused(other.wait(100 + i), "invalid", "out_of_memory")
                assert other.request("ping", {}, b"stays")[2] == b"stays"


def test_a_hello_that_is_refused_ends_what_follows(url):
    with PlainClient(url, hello=False) as client:
        frames = plain.build_frame("hello", 1, {"protocol": 9}) + plain.build_frame("ping", 2)
        client.send_raw(frames)
        refused(client.wait(1), "unsupported")
        assert client.is_closed()
    with PlainClient(url, hello=False) as client:
        fields = {"protocol": 1}
        refused(client.request("hello", fields, b"body"), "invalid")
        assert client.is_closed()


def test_requests_right_behind_hello(url):
    with PlainClient(url, hello=False) as client:
        hello = plain.build_frame("hello", 1, {"protocol": 1})
        client.send_raw(hello + plain.build_frame("get", 2, {"input": "keep"}))
        assert client.wait(2)[2] == KEPT
        assert client.wait(1)[0] == "ok"


BAD_METAS = [b"\1", b"\1\0\0", b"\1\1\0\0", b"\1\xff\xff\xff", b"\1\1\0\0\0", b"\0" * 4,
             b"\xff\0\0\0", b"\1\0\0\0" * 2, b"\7\0\0\0\6\0\0\0", b"\6\7\0\0" + bytes(7),
             b"\x1e\4\0\0" + bytes(4), b"\x18\1\0\0\0", b"\3" * 65536]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_METAS)))
def test_malformed_meta(url, number):
    meta = BAD_METAS[number]
    with PlainClient(url) as client:
        for op, body in [("info", b""), ("put", b"x" * 100), ("put", bytes(MIB)), ("ping", b"")]:
            reply = client.request(op, meta, body)
            refused(reply, "protocol", "invalid", "bad_dtype", "bad_shape", "bad_index")
        assert client.request("ping", {}, b"stays")[2] == b"stays"


# ---- surplus descriptors -------------------------------------------------------------------------


def memfds(count):
    return [os.memfd_create(f"surplus {i}") for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 15, 16])
@pytest.mark.parametrize("op", ["ping", "get", "put", "hello"])
def test_descriptors_that_nothing_announced(daemon, op, count):
    """The request itself may be answered first; then an error, and the end."""
    fields = {"get": {"input": "keep"}, "hello": {"protocol": 1},
              "put": {"output": "x", "dtype": "uint8", "shape": [2]}}.get(op, {})  # fmt: skip
    with daemon.connect(hello=op != "hello") as client:
        fds = memfds(count)
        client.send(op, fields, b"xx" if op == "put" else b"", fds=fds, descriptors=0, request_id=9)
        for fd in fds:
            os.close(fd)
        statuses = {}
        for _ in range(3):
            try:
                frame = client.receive()
            except (plain.Disconnected, ConnectionError):
                break
            statuses[frame.header.request_id] = plain.STATUSES[frame.header.status]
        assert statuses.pop(9, "ok") == "ok"
        assert statuses in ({}, {0: "protocol"})
    with daemon.connect() as client:
        client.request("delete", {"input": "x"})


@pytest.mark.parametrize("count", [17, 100, 253])
def test_more_descriptors_than_a_message_may_have(daemon, count):
    with daemon.connect() as client:
        fds = memfds(count)
        client.send("ping", {}, fds=fds, descriptors=0)
        for fd in fds:
            os.close(fd)
        assert client.is_closed()


def test_descriptors_drip_into_the_queue(daemon):
    """One with each byte of a frame: more than may wait."""
    frame = plain.build_frame("ping", 1, {}, bytes(30))
    with daemon.connect() as client:
        fd = os.memfd_create("drip")
        with contextlib.suppress(ConnectionError):
            for byte in frame[:39]:
                client.send_raw(bytes([byte]), [fd])
        os.close(fd)
        assert client.is_closed()


def test_descriptors_of_requests_that_fail(daemon):
    """Each is closed, also when its frame is refused at every possible stage."""
    with daemon.connect() as client:
        fields = {"dtype": "uint8", "shape": [3]}
        for op, meta, body in [("from_numpy", {}, b""), ("from_numpy", fields, b"abc"),
                               ("from_numpy", b"\1", b""), (999, {}, b""), ("info", {}, b""),
                               ("from_numpy", {**fields, "output": "@"}, b""),
                               ("from_numpy", {**fields, "timeout_ms": 1}, b"")]:  # fmt: skip
            (fd,) = memfds(1)
            assert client.request(op, meta, body, fds=[fd])[0] != "ok"
            os.close(fd)


# ---- clients that vanish at every byte -----------------------------------------------------------


def numbered(size):
    return bytes(i * 7 & 255 for i in range(size))


def frame_of(op):
    """A whole request's bytes, and the descriptor that goes with it."""
    fields = {"output": "cut", "dtype": "uint8", "shape": [40]}
    if op == "put":
        return plain.build_frame("put", 1, fields, numbered(40)), None
    if op == "large put":
        large = {**fields, "shape": [300000]}
        return plain.build_frame("put", 1, large, bytes(300000)), None
    if op == "get":
        return plain.build_frame("get", 1, {"input": "keep/big", "timeout_ms": 10000}), None
    if op == "hello":
        return plain.build_frame("hello", 1, {"protocol": 1, "client": "cut"}), None
    frame = plain.build_frame("from_numpy", 1, {"dtype": "uint8", "shape": [90000]}, descriptors=1)
    return frame, make_memfd(bytes(100000))


def cut_client(url, op, frame, fd, cut, end):
    client = PlainClient(url, hello=op != "hello")
    client.send_raw(frame[:cut], [fd] if fd is not None else ())
    if end == "reset":
        abort(client)
    elif end == "half":
        client.socket.shutdown(socket.SHUT_WR)
        client.is_closed()
    client.close()


@pytest.mark.parametrize("end", ["close", "half", "reset"])
@pytest.mark.parametrize("op", ["put", "get", "from_numpy", "hello", "large put"])
def test_a_client_that_goes_at_every_byte(daemon, op, end):
    url = daemon.tcp_url if end == "reset" else daemon.url
    frame, fd = frame_of(op)
    if fd is not None and end == "reset":
        os.close(fd)
        url, end, (frame, fd) = daemon.url, "close", frame_of(op)
    first = 1 if fd is not None else 0
    cuts = range(first, len(frame))  # all but the last byte: never a whole request
    if op == "large put":
        cuts = [*range(40, 120), 16384, 65536, 131072, 262144, 299999, len(frame) - 1]
    for cut in cuts:
        cut_client(url, op, frame, fd, cut, end)
    if fd is not None:
        os.close(fd)


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_client_that_goes_while_it_is_answered(daemon, end):
    """With the whole reply unread, or read up to some byte."""
    url = daemon.tcp_url if end == "reset" else daemon.url
    for cut in (0, 1, 39, 40, 41, 300, 1000, 65536, MIB):
        client = PlainClient(url)
        for i in range(4):
            client.send("get", {"input": "keep/big"})
        client.receive_exactly(cut)
        abort(client) if end == "reset" else client.close()


@pytest.mark.threads
def test_a_client_that_goes_with_a_descriptor_on_its_way(daemon):
    with daemon.connect() as owner:
        made = put(owner, "mapped", bytes(MIB), mutable=True)
        for fd in owner.request("map", {"input": "mapped"})[3]:
            os.close(fd)
        owner.close()
    for cut in (0, 1, 40):
        client = daemon.connect()
        for _ in range(5):
            client.send("map", {"input": "mapped", "known_storage": made["storage"] + 1})
        client.receive_exactly(cut)
        client.close()
    with daemon.connect() as owner:
        ok(owner.request("delete", {"input": "mapped"}))


@pytest.mark.threads
@pytest.mark.parametrize("end", ["close", "half", "reset"])
def test_a_client_that_goes_while_a_long_job_runs(daemon, end):
    for wait_s in (0, 0.005, 0.05):
        client = PlainClient(daemon.tcp_url if end == "reset" else daemon.url)
        for i in range(6):
            client.send("randn", {"shape": [2 * MIB], "seed": i})
        client.send("put", {"output": "x", "dtype": "uint8", "shape": [3 * MIB]}, b"",
                    body_length=3 * MIB)  # fmt: skip
        time.sleep(wait_s)
        if end == "reset":
            abort(client)
        elif end == "half":
            client.socket.shutdown(socket.SHUT_WR)
            client.is_closed()
        client.close()


@pytest.mark.threads
def test_what_was_committed_is_whole(daemon):
    """A client that goes right behind its request: the name is there with all elements, or not."""
    for i in range(10):
        client = daemon.connect()
        client.send("full", {"output": f"gone/{i}", "shape": [MIB], "value": 3, "dtype": "uint8"})
        client.close()
    daemon.quiet()
    with daemon.connect() as client:
        for i in range(10):
            status, _, body, _ = client.request("get", {"input": f"gone/{i}"})
            assert status == "not_found" or body == b"\3" * MIB
            client.request("delete", {"input": f"gone/{i}"})
