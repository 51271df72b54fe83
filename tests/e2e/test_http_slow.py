"""Slow HTTP clients: each stage of a request has its limit, and nobody else is held up."""

import contextlib
import http.client
import os
import resource
import selectors
import socket
import struct
import time
from urllib.parse import urlsplit

import pytest
from harness import MIB, SMALL, Daemon, eventually, ok, put

HEADER_S, IDLE_S, MIN_RATE = 2, 4, 65536
SLOW = ("--header-timeout-ms", HEADER_S * 1000, "--idle-timeout-ms", IDLE_S * 1000,
        "--min-rate", MIN_RATE)  # fmt: skip
TICK_S = 0.25  # how often the daemon looks
PATIENCE_S = 20
LONG_NAME = '"' * 512


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL, *SLOW) as running:
        running.stats()  # by a connection that stays
        running.alone = descriptors(running)
        yield running


@pytest.fixture
def local(daemon):
    with daemon.connect() as client:
        yield client
    daemon.quiet()


def dial(daemon, buffer=None, source=None):
    at = urlsplit(daemon.http_url)
    connection = socket.socket()
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    if source:
        connection.bind((source, 0))
    connection.settimeout(PATIENCE_S)
    connection.connect((at.hostname, at.port))
    return connection


def head(target, *headers, method="GET"):
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode()


def answer(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def ask(daemon, target):
    with dial(daemon) as connection:
        connection.sendall(head(target))
        return answer(connection)


def rows(daemon):
    """The daemon's HTTP connections, as the kernel sees them."""
    port = urlsplit(daemon.http_url).port
    lines = [line.split() for line in open("/proc/net/tcp").readlines()[1:]]
    return [r for r in lines if r[1].endswith(f":{port:04X}") and r[3] != "0A" and r[9] != "0"]


@pytest.fixture(autouse=True)
def nobody_is_connected(daemon):
    yield
    eventually(lambda: descriptors(daemon) == daemon.alone, "all are closed")


class Slow:
    """A connection that sends a part of `parts` every `every` seconds. The daemon may end it
    `after` seconds at the earliest; None: not at all."""

    def __init__(self, daemon, parts=(), every=0.1, after=None, before=b""):
        self.socket = dial(daemon)
        self.socket.sendall(before)
        if before:
            assert answer(self.socket)[0] == 200
        self.socket.setblocking(False)
        self.parts, self.every, self.after = iter(parts), every, after
        self.begin = self.next = time.monotonic()
        self.ended = None
        self.got = b""

    def step(self, now):
        if self.ended is not None:
            return
        try:
            while now >= self.next:
                self.socket.send(next(self.parts, b""))
                self.next += self.every
            while part := self.socket.recv(65536):
                self.got += part
            self.ended = now - self.begin
        except BlockingIOError:
            pass
        except OSError:
            self.ended = now - self.begin


def run(slows, seconds):
    """Lets them all go on until those that are to be cut are, and at least so long."""
    begin = time.monotonic()
    while True:
        now = time.monotonic()
        for slow in slows:
            slow.step(now)
        waited = now - begin
        if waited > seconds and all(s.ended is not None for s in slows if s.after is not None):
            return
        assert waited < PATIENCE_S, [s.after for s in slows if s.ended is None]
        time.sleep(0.02)


def bytes_of(data):
    return [data[i : i + 1] for i in range(len(data))]


def test_each_stage_has_its_limit(daemon, local):
    """All at once: what is cut, when, and what is not."""
    get, alive = head("/v1/stats", "A: " + "long " * 100), head("/livez")
    upload = head("/v1/tensors/slow?dtype=uint8&shape=1000000", "Content-Length: 1000000",
                  "Content-Type: application/octet-stream", method="PUT")  # fmt: skip
    chunked = head("/v1/tensors/slow?dtype=uint8&shape=1000000", "Transfer-Encoding: chunked",
                   "Content-Type: application/octet-stream", method="PUT")  # fmt: skip
    rate = MIN_RATE / 10  # of a part
    quick = head("/v1/tensors/quick?dtype=uint8&shape=500000", "Content-Length: 500000",
                 "Content-Type: application/octet-stream", method="PUT")  # fmt: skip
    cases = {
        "a request line": Slow(daemon, bytes_of(get), after=HEADER_S),
        "a part of one": Slow(daemon, [b"GET /v1"], after=HEADER_S),
        "headers": Slow(daemon, [get[:30], *bytes_of(get[30:])], after=HEADER_S),
        "endless headers": Slow(daemon, [get[:-2]] + [b"A: b\r\n"] * 1000, after=HEADER_S),
        "a second request": Slow(daemon, bytes_of(get), before=alive, after=HEADER_S),
        "no request": Slow(daemon, after=IDLE_S),
        "no second request": Slow(daemon, before=alive, after=IDLE_S),
        "a body": Slow(daemon, [upload] + [b"x" * int(rate / 4)] * 1000, after=HEADER_S),
        "no body": Slow(daemon, [upload], after=HEADER_S),
        "a chunked body": Slow(daemon, [chunked] + [b"1\r\nx\r\n"] * 1000, after=HEADER_S),
        "a body that stops": Slow(daemon, [upload + b"x" * 100000], after=HEADER_S),
        "a body in time": Slow(daemon, [quick] + [b"x" * 20000] * 25),
        "requests now and then": Slow(daemon, [alive] * 20, every=1),
        "waiting": Slow(daemon, [head("/v1/tensors/never?wait=1m")]),
        "events": Slow(daemon, [head("/v1/watch?prefix=never")]),
    }
    try:
        run(cases.values(), IDLE_S + 3 * TICK_S)
        for name, case in cases.items():
            if case.after is None:
                assert case.ended is None, f"{name}: ended after {case.ended} s: {case.got}"
            else:
                assert case.ended >= case.after - 0.1, f"{name}: ended after {case.ended} s"
                assert case.got == b"", name
        assert cases["a body in time"].got.startswith(b"HTTP/1.1 201 ")
        assert cases["requests now and then"].got.count(b"HTTP/1.1 200 ") >= IDLE_S
        assert cases["waiting"].got == b""
        assert cases["events"].got.count(b": keep-alive") >= 2
    finally:
        for case in cases.values():
            case.socket.close()
    assert local.request("info", {"input": "slow"})[0] == "not_found"
    assert ok(local.request("info", {"input": "quick"}))["nbytes"] == 500000
    ok(local.request("delete", {"input": "quick"}))


# ---- reading -------------------------------------------------------------------------------------


def test_who_does_not_read_is_cut(daemon, local):
    """And the memory that its answer holds goes with it, also what the kernel had taken over."""
    before = daemon.state()
    put(local, "big", bytes(64 * MIB))
    begin = time.monotonic()
    with dial(daemon, buffer=4096) as connection:
        connection.sendall(head("/v1/tensors/big?format=raw"))
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        ok(local.request("delete", {"input": "big"}))
        assert daemon.stats()["memory_used_bytes"] >= 64 * MIB
        eventually(lambda: not rows(daemon), "they are cut")
        assert time.monotonic() - begin > HEADER_S - 0.1
        with pytest.raises(ConnectionResetError):
            while connection.recv(MIB):
                pass
    daemon.settle(before)


def test_who_reads_in_time_is_not(daemon, local):
    size = 4 * MIB
    put(local, "big", bytes(size))
    with dial(daemon, buffer=16384) as connection:
        connection.sendall(head("/v1/tensors/big?format=raw"))
        got, begin = 0, time.monotonic()
        while got < size:
            time.sleep(max(0, begin + 1.5 * HEADER_S * got / size - time.monotonic()))
            part = connection.recv(32768)
            assert part, f"cut after {got} bytes"
            got += len(part)
        assert time.monotonic() - begin > HEADER_S
    ok(local.request("delete", {"input": "big"}))


def test_who_asks_without_reading_is_cut(daemon):
    """Many requests on one connection, whose answers fill all buffers."""
    with dial(daemon, buffer=4096) as connection:
        request = head("/openapi.json") * 100
        with contextlib.suppress(OSError), pytest.raises(OSError):
            for _ in range(1000):
                connection.sendall(request)
        eventually(lambda: not rows(daemon), "they are cut")


def test_a_listener_that_does_not_read_is_cut(daemon, local):
    with dial(daemon, buffer=4096) as deaf, dial(daemon) as keen:
        for connection in (deaf, keen):
            connection.sendall(head("/v1/watch"))
            assert connection.recv(12) == b"HTTP/1.1 200"
        keen.setblocking(False)
        heard, count = b"", 100  # more than the deaf one's buffer takes
        for _ in range(count):
            put(local, LONG_NAME, b"1")
            with contextlib.suppress(BlockingIOError):
                heard += keen.recv(65536)
        eventually(lambda: len(rows(daemon)) == 1, "they are cut")
        last = put(local, "last", b"1")["generation"]
        keen.settimeout(PATIENCE_S)
        while b'{"name":"last","revision":%d}' % last not in heard:
            heard += keen.recv(65536)
        assert b"event: lost" not in heard and heard.count(b"event: publish") == count + 1
    for name in (LONG_NAME, "last"):
        ok(local.request("delete", {"input": name}))


# ---- many ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def many_descriptors(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"needs {count} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.threads
def test_others_are_served(daemon, local):
    """1000 idle and 200 slow connections, a byte a second at each stage."""
    put(local, "big", bytes(8 * MIB))
    get = head("/v1/tensors/big?format=raw")
    upload = head("/v1/tensors/slow?dtype=uint8&shape=1000000", "Content-Length: 1000000",
                  "Content-Type: application/octet-stream", method="PUT")  # fmt: skip
    stages = [b"", get[:25], upload, get]  # request line, headers, body, reading the answer
    with many_descriptors(4000), contextlib.ExitStack() as open_ones:
        idle = [open_ones.enter_context(dial(daemon)) for _ in range(1000)]
        slow = [open_ones.enter_context(dial(daemon, buffer=4096)) for _ in range(200)]
        selector = open_ones.enter_context(selectors.DefaultSelector())
        for i, connection in enumerate(slow):
            connection.sendall(stages[i % 4])
            connection.setblocking(False)
        for connection in idle:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
        other = open_ones.enter_context(dial(daemon))
        served, longest, begin, dripped = 0, 0, time.monotonic(), 0
        while time.monotonic() - begin < IDLE_S + 1:
            if time.monotonic() - begin > dripped:
                dripped += 1
                for i, connection in enumerate(slow):
                    with contextlib.suppress(OSError):
                        connection.recv(1) if i % 4 == 3 else connection.send(b"G")
            asked = time.monotonic()
            other.sendall(head("/v1/stats"))
            assert answer(other)[0] == 200
            served += 1
            longest = max(longest, time.monotonic() - asked)
        assert served >= 20 and longest < 4, (served, longest)  # they were thousands, in 10 ms
        eventually(lambda: len(rows(daemon)) <= 1, "they are cut")
        ended = {key.fileobj for key, _ in selector.select(0)}
        assert len(ended) == 1000 and all(c.recv(1) == b"" for c in idle)
    assert local.request("info", {"input": "slow"})[0] == "not_found"
    ok(local.request("delete", {"input": "big"}))


# ---- limits --------------------------------------------------------------------------------------


def is_answered(connection, seconds=PATIENCE_S):
    """False: not within the time; raises if the daemon has hung up."""
    connection.settimeout(seconds)
    try:
        if not connection.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError
    except TimeoutError:
        return False
    return answer(connection)[0] == 200


def test_connections_in_total():
    with Daemon(*SMALL, "--http-connections", 8) as daemon, contextlib.ExitStack() as open_ones:
        first = [open_ones.enter_context(dial(daemon)) for _ in range(8)]
        for connection in first:
            connection.sendall(head("/livez"))
            assert is_answered(connection)
        more = [open_ones.enter_context(dial(daemon)) for _ in range(2)]
        for connection in more:
            connection.sendall(head("/livez"))
        assert not is_answered(more[0], 0.5) and not is_answered(more[1], 0.1)
        first[3].close()
        assert is_answered(more[0])
        assert not is_answered(more[1], 0.5)
        for connection in first[:3] + first[4:]:
            connection.sendall(head("/livez"))
            assert is_answered(connection)
        first[0].close()
        assert is_answered(more[1])


def test_connections_of_an_address():
    with Daemon(*SMALL, "--http-per-address", 4) as daemon, contextlib.ExitStack() as open_ones:

        def served(source="127.0.0.1"):
            connection = open_ones.enter_context(dial(daemon, source=source))
            try:
                connection.sendall(head("/livez"))
                assert is_answered(connection)
            except (ConnectionError, BrokenPipeError):
                return None
            return connection

        first = [served() for _ in range(4)]
        assert all(first)
        assert served() is None and served() is None
        assert served("127.0.0.2")
        first[0].close()
        eventually(lambda: len(rows(daemon)) == 4, "the others are cut")
        assert served()
        assert served() is None


def test_who_vanishes_is_noticed(daemon):
    """The kernel asks now and then whether a silent client is still there."""
    with dial(daemon) as connection:
        connection.sendall(head("/v1/tensors/never?wait=1h"))
        eventually(lambda: rows(daemon), "it is connected")
        eventually(lambda: [row[5][:2] for row in rows(daemon)] == ["02"], "a timer runs")
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
