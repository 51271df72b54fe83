"""Bad bytes, and clients that stop, stall or vanish: a clear error or a clean close, others not
harmed, the store unchanged, nothing leaked."""

import contextlib
import os
import random
import socket
import struct
import threading
import time

import plain_client as plain
import pytest
from harness import (MIB, SMALL, Daemon, abort, daemon, get, make_memfd, ok, put,  # noqa: F401
                     refused)  # fmt: skip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_client import PlainClient

KEPT = bytes(range(256))


@pytest.fixture(autouse=True)
def nothing_is_left(daemon):
    with daemon.connect() as client:
        if client.request("info", {"input": "keep"})[0] != "ok":
            put(client, "keep", KEPT)
            put(client, "keep/big", bytes(2 * MIB))
    daemon.quiet()
    with daemon.unchanged():
        yield


@pytest.fixture(params=["unix", "tcp"])
def url(request, daemon):
    return daemon.url if request.param == "unix" else daemon.tcp_url


# ---- malformed headers ---------------------------------------------------------------------------

BAD_HEADERS = {
    "magic": {"magic": b"TDRG"}, "magic of http": {"magic": b"GET "}, "magic zero": {"magic": bytes(4)},
    "version 0": {"version": 0}, "version 2": {"version": 2}, "version 255": {"version": 255},
    "reply": {"flags": 1}, "reply and one-way": {"flags": 3}, "flag 4": {"flags": 4},
    "flag 128": {"flags": 128}, "status": {"status": 1}, "status max": {"status": (1 << 32) - 1},
    "reserved first": {"reserved": b"\1" + bytes(5)}, "reserved last": {"reserved": bytes(5) + b"\1"},
    "meta over 1 MiB": {"meta_length": (1 << 20) + 1}, "meta max": {"meta_length": (1 << 32) - 1},
    "2 descriptors": {"descriptors": 2}, "65535 descriptors": {"descriptors": 65535},
    "a descriptor that did not come": {"descriptors": 1},
}  # fmt: skip
TOO_LARGE = {
    "meta over the limit of requests": {"meta_length": 65537},
    "meta of 1 MiB": {"meta_length": 1 << 20},
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


@pytest.mark.parametrize("opcode", [0, 6, 9, 32, 96, 255, 256, 1000, 65535])
def test_unknown_operations(url, opcode):
    with PlainClient(url) as client:
        for body in (b"", b"x" * 100, b"x" * MIB):
            refused(client.request(opcode, {}, body), "not_found")
            refused(client.request(opcode, {"input": "keep"}, body), "not_found")
        assert client.request("ping", {}, b"stays")[2] == b"stays"


def test_the_first_frame_is_hello(url):
    for op, fields, body in [("ping", {}, b""), ("get", {"input": "keep"}, b""), (999, {}, b""),
                             ("put", {"output": "x", "dtype": "uint8", "shape": [3]}, b"abc")]:  # fmt: skip
        with PlainClient(url, hello=False) as client:
            refused(client.request(op, fields, body), "unauthorized")
            assert client.is_closed()


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
             b"\x1e\4\0\0" + bytes(4), b"\x18\1\0\0\0", os.urandom(1) * 65536]  # fmt: skip


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


# ---- slow clients --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict():
    """A daemon that waits for nobody."""
    times = ("--io-timeout-ms", "700", "--hello-timeout-ms", "700")
    with Daemon(*SMALL, *times, "--io-threads", "1") as running:
        with running.connect() as client:
            put(client, "big", bytes(8 * MIB))
        running.quiet()
        yield running


@contextlib.contextmanager
def others_are_served(daemon, most_s=2.0):
    """Meanwhile another client works, and waits for no answer long."""
    slowest, stop = [0.0], threading.Event()

    def work():
        with daemon.connect() as client:
            for _ in range(100000):
                begun = time.monotonic()
                assert get(client, "big", timeout_ms=60000)[:1] == b"\0"
                slowest[0] = max(slowest[0], time.monotonic() - begun)
                if stop.wait(0.05):
                    return
        raise AssertionError("never stopped")

    failures = []

    def guarded():
        try:
            work()
        except BaseException as error:  # seen by the test
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not failures, failures
    assert slowest[0] < most_s, f"another client waited {slowest[0]:.2f} s"


def test_a_slow_sender_is_served_and_harms_nobody(strict):
    with strict.unchanged(), others_are_served(strict), strict.connect() as slow:
        frame = plain.build_frame("put", 1, {"output": "slow", "dtype": "uint8", "shape": [60]},
                                  numbered(60))  # fmt: skip
        for byte in frame:  # about 2 s: longer than the time without progress
            slow.send_raw(bytes([byte]))
            time.sleep(0.015)
        ok(slow.wait(1))
        assert get(slow, "slow") == numbered(60)
        ok(slow.request("delete", {"input": "slow"}))


@pytest.mark.parametrize("cut", [1, 39, 40, 60, 200, 100000])
def test_a_sender_that_stops_is_closed(strict, cut):
    """In a header, a meta, a small body and a large one."""
    fields = {"output": "stalled", "dtype": "uint8", "shape": [300000]}
    frame = plain.build_frame("put", 1, fields, bytes(300000))
    with strict.unchanged(), strict.connect() as client:
        client.send_raw(frame[:cut])
        begun = time.monotonic()
        assert client.is_closed()
        assert 0.6 < time.monotonic() - begun < 5


def test_idle_connections_stay(strict):
    with strict.connect() as client:
        time.sleep(2.5)
        assert client.request("ping", {}, b"here")[2] == b"here"


def test_who_says_no_hello_is_closed(strict):
    with strict.unchanged():
        for start in (b"", b"TDRF", plain.build_frame("hello", 1, {"protocol": 1})[:45]):
            with strict.connect(hello=False) as client:
                client.send_raw(start)
                begun = time.monotonic()
                assert client.is_closed()
                assert 0.6 < time.monotonic() - begun < 5


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_reader_that_never_reads_is_closed(strict, kind):
    with strict.unchanged(seconds=15), others_are_served(strict):
        client = PlainClient(strict.url if kind == "unix" else strict.tcp_url)
        connections = strict.stats()["connections"]
        with contextlib.suppress(TimeoutError, ConnectionError):
            client.socket.settimeout(0.5)
            for _ in range(200):
                client.send("get", {"input": "big"})
        deadline = time.monotonic() + 15
        while strict.stats()["connections"] >= connections:
            assert time.monotonic() < deadline, "the daemon keeps a reader that never reads"
            time.sleep(0.05)
        client.close()


def test_a_reader_that_trickles_bodies_in_is_closed(strict):
    """Bytes that come are no reason to wait for ever for a reader: progress counts for each
    direction."""
    with strict.unchanged(seconds=15), strict.connect() as client:
        for _ in range(4):
            client.send("get", {"input": "big"})
        frame = plain.build_frame("put", 99, {"output": "x", "dtype": "uint8", "shape": [1000]},
                                  bytes(1000))  # fmt: skip
        try:
            for byte in frame[:40]:
                client.send_raw(bytes([byte]))
                time.sleep(0.1)
        except ConnectionError:
            return
        raise AssertionError("after 4 s of not reading the connection is still open")


# ---- many clients --------------------------------------------------------------------------------


def test_the_limit_of_connections():
    with Daemon(*SMALL, "--max-connections", "4") as daemon:
        held = [daemon.connect() for _ in range(4)]
        for url in (daemon.url, daemon.tcp_url):
            with PlainClient(url, hello=False) as late:
                reply = late.wait(0)
                refused(reply, "unavailable", text="max-connections")
                assert late.is_closed()
        for client in held:
            assert client.request("ping", {}, b"x")[2] == b"x"
        held.pop().close()
        deadline = time.monotonic() + 5
        while True:
            try:
                held.append(daemon.connect())
                break
            except (plain.Refused, plain.Disconnected, ConnectionError):
                assert time.monotonic() < deadline
        for client in held:
            client.close()


def test_many_connections_come_and_go(daemon):
    for _ in range(5):
        clients = [PlainClient(daemon.url if i % 2 else daemon.tcp_url) for i in range(40)]
        for client in clients:
            client.send("get", {"input": "keep"})
        for client in clients:
            assert client.receive().body == KEPT
            client.close()


def test_a_queue_that_is_full():
    """More long requests than may wait: unavailable, the connection stays."""
    limits = ("--max-queued", "2", "--job-threads", "1", "--max-inflight", "32")
    with Daemon(*SMALL, *limits) as daemon, daemon.unchanged(), daemon.connect() as client:
        ids = [client.send("randn", {"shape": [MIB], "seed": i}) for i in range(12)]
        body = {"output": "x", "dtype": "uint8", "shape": [MIB]}
        ids.append(client.send("put", body, bytes(MIB)))
        statuses = [client.wait(request)[0] for request in ids]
        assert set(statuses) <= {"ok", "unavailable"} and statuses[0] == "ok"
        assert "unavailable" in statuses
        assert client.request("ping", {}, b"stays")[2] == b"stays"
        client.request("delete", {"input": "x"})


# ---- random bytes --------------------------------------------------------------------------------

SEEDED = settings(max_examples=120, derandomize=True, database=None, deadline=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip


def speak(url, data, hello):
    """Sends bytes, half-closes, and reads whatever comes until the daemon closes."""
    with contextlib.suppress(ConnectionError), PlainClient(url, hello=hello) as client:
        client.send_raw(data)
        client.socket.shutdown(socket.SHUT_WR)
        for _ in range(100000):
            if not client.receive_some(1 << 16)[0]:
                return
        raise AssertionError("the daemon never stops sending")


FRAMES = [
    plain.build_frame("put", 1, {"output": "junk/a", "dtype": "uint8", "shape": [64]}, bytes(64)),
    plain.build_frame("get", 2, {"input": "keep", "dtype": "float32", "casting": "unsafe"}),
    plain.build_frame("list", 3, {"prefix": "k", "limit": 2, "cursor": "a"}),
    plain.build_frame("ping", 4, {}, b"ping"),
    plain.build_frame("arange", 5, {"end": 100, "start": 1.5, "step": 2}),
    plain.build_frame("getitem", 6, {"input": "keep", "index": [None, slice(1, 9, 2), ...]}),
    plain.build_frame("full", 7, {"shape": [3, 4], "value": 1j, "output": "junk/b"}),
    plain.build_frame("map", 8, {"input": "keep/big"}),
    plain.build_frame("randint", 9, {"shape": [5], "high": 9, "seed": 1}),
    plain.build_frame("stats", 10),
]


@st.composite
def damaged_frames(draw):
    """Good frames in a row, with some bytes changed, removed or put in."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=5))))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["flip", "set", "cut", "insert"]))
        if how == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "set" and data:
            data[at] = draw(st.sampled_from([0, 1, 127, 128, 255]))
        elif how == "cut":
            del data[at : at + draw(st.integers(1, 20))]
        else:
            data[at:at] = draw(st.binary(max_size=20))
    return bytes(data)


def clear_junk(daemon):
    """What damaged puts may have stored is not what is looked for."""
    with daemon.connect() as client:
        status, _, body, _ = client.request("list")
        for entry in plain.read_list(body):
            if not entry["name"].startswith("keep"):
                client.request("delete", {"input": entry["name"]})


@pytest.mark.parametrize("hello", [True, False])
def test_random_bytes(daemon, hello):
    @SEEDED
    @given(st.binary(max_size=400), st.booleans())
    def run(data, tcp):
        speak(daemon.tcp_url if tcp else daemon.url, data, hello)

    run()


def test_damaged_frames(daemon):
    @SEEDED
    @given(damaged_frames(), st.booleans())
    def run(data, tcp):
        speak(daemon.tcp_url if tcp else daemon.url, data, hello=True)

    run()
    clear_junk(daemon)


def test_random_frames(daemon):
    """Good headers with random operations, fields and values."""
    chance = random.Random(1)
    kinds = {"uint": lambda: struct.pack("<Q", chance.choice([0, 1, 5, 1 << 40, (1 << 64) - 1])),
             "int": lambda: struct.pack("<q", chance.choice([0, 1, -1, 7, (1 << 63) - 1, -(1 << 63)])),
             "bool": lambda: bytes([chance.choice([0, 1, 1, 2])]),
             "text": lambda: chance.choice([b"keep", b"keep/big", b"junk/c", b"cpu", b"@1", b"", b"\xff"]),
             "dtype": lambda: bytes([chance.randrange(19)]),
             "dims": lambda: struct.pack("<3q", *(chance.choice([0, 1, 2, 16, -1, 1 << 40])
                                                  for _ in range(3)))[: 8 * chance.randrange(4)],
             "scalar": lambda: plain.build_scalar(chance.choice([True, 3, -1.5, 2j, 1e300])),
             "index": lambda: plain.build_value("index", [chance.choice(
                 [0, -1, ..., None, slice(None), slice(1, 5, 3)])])}  # fmt: skip
    harmless = [op for op in plain.OPS.values() if op not in ("delete", "rename", "hello")]
    rows = {row[1]: (row[2] + ", " + row[3]).split(", ") for row in plain.protocol_table("ops")}
    statuses = set()
    with daemon.connect() as client:
        for _ in range(1500):
            op = chance.choice(harmless)
            names = [name for name in rows[op] if name.strip()]
            if op != "ping" and "output" in names or chance.random() < 0.3:
                names.append("output")
            fields = {}
            for name in set(names):
                number = plain.FIELD_NUMBERS[name]
                if chance.random() < 0.85:
                    fields[f"#{number}"] = kinds[plain.FIELDS[number][1]]()
            fields = {key: value for key, value in fields.items()
                      if not (key == "#3" and value.startswith(b"keep"))}  # fmt: skip
            status, _, _, fds = client.request(op, fields, bytes(chance.choice([0, 0, 2, 16])))
            statuses.add(status)
            for fd in fds:
                os.close(fd)
    assert "ok" in statuses and "internal" not in statuses, statuses
    with daemon.connect() as client:  # in-place operations and grads may reach what is mutable only
        assert get(client, "keep") == KEPT
    clear_junk(daemon)
