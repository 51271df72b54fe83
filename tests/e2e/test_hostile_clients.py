"""Clients that are slow, or many, or send nonsense: others are not harmed, the store is unchanged,
nothing leaks. Well-aimed bad bytes are in test_hostile_stream.py."""

import contextlib
import os
import random
import resource
import socket
import struct
import threading
import time

import plain_client as plain
import pytest
from harness import (MIB, SMALL, Daemon, daemon, eventually, get, ok, put,  # noqa: F401
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
            for fd in client.request("map", {"input": "keep/big"})[3]:  # opens it for readers, once
                os.close(fd)
    daemon.quiet()
    with daemon.unchanged():
        yield


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
    slowest, served, stop = [0.0], threading.Event(), threading.Event()

    def work():
        with daemon.connect() as client:
            for _ in range(100000):
                begun = time.monotonic()
                assert get(client, "big", timeout_ms=60000)[:1] == b"\0"
                slowest[0] = max(slowest[0], time.monotonic() - begun)
                served.set()
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
        assert served.wait(60), failures  # so that its connection is one of those before
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not failures, failures
    assert slowest[0] < most_s, f"another client waited {slowest[0]:.2f} s"


def test_a_slow_sender_is_served_and_harms_nobody(strict):
    with strict.unchanged(), others_are_served(strict), strict.connect() as slow:
        frame = plain.build_frame("put", 1, {"output": "slow", "dtype": "uint8", "shape": [60]},
                                  bytes(range(60)))  # fmt: skip
        for byte in frame:  # about 2 s: longer than the time without progress
            slow.send_raw(bytes([byte]))
            time.sleep(0.015)
        ok(slow.wait(1))
        assert get(slow, "slow") == bytes(range(60))
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


@pytest.mark.threads
def test_clients_that_share_names_and_memory(daemon):
    """Each puts, maps, copies and deletes what the others do, on both transports. (Nobody writes in
    place: readers of mutable memory take no lock, which the thread sanitizer would report.)"""
    failures = []

    def work(number):
        chance = random.Random(number)
        try:
            with PlainClient(daemon.url if number % 2 else daemon.tcp_url, timeout=60) as client:
                for _ in range(60):
                    for fd in client.request(*chance.choice(SHARED))[3]:
                        os.close(fd)
        except BaseException as error:  # seen by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads) and not failures, failures
    clear_junk(daemon)


WIDE = {"output": "junk/s", "dtype": "uint8", "shape": [300000]}
SHARED = [
    ("put", {**WIDE, "mutable": True}, bytes(300000)), ("zeros", WIDE),
    ("put", {**WIDE, "shape": [1000], "mutable": True}, bytes(1000)),  # moves when it is mapped
    ("put", WIDE, bytes(300000)), ("mul", {"input": "junk/s", "value": 2}),
    ("get", {"input": "junk/s"}), ("map", {"input": "junk/s"}), ("delete", {"input": "junk/s"}),
    ("map", {"input": "junk/s", "write": True}), ("touch", {"input": "junk/s"}), ("list", {}),
    ("rename", {"input": "junk/s", "output": "junk/t"}), ("stats", {}),
    ("numpy", {"input": "junk/t"}), ("detach", {"input": "junk/s"}),
    ("copy", {"input": "junk/t", "output": "junk/s"}), ("requires_grad_", {"input": "junk/t"}),
    ("set_grad", {"input": "junk/s", "other": "junk/t"}), ("grad", {"input": "junk/s"}),
    ("print", {"input": "junk/t"}), ("variable", {"input": "junk/t", "output": "junk/s"}),
]  # fmt: skip


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


def test_who_comes_when_no_file_can_be_opened_is_told_so():
    """Nobody waits for an answer that does not come, and the log is not filled with it."""
    with Daemon(*SMALL) as daemon, daemon.connect() as client:
        highest = max(int(fd) for fd in os.listdir(f"/proc/{daemon.pid}/fd"))
        hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (highest + 4, hard))
        held = []
        with pytest.raises((plain.Refused, plain.Disconnected, ConnectionError)):
            while len(held) < 100:
                held.append(PlainClient(daemon.url, timeout=5))
        assert held
        for url in (daemon.url, daemon.tcp_url) * 20:
            with PlainClient(url, hello=False) as late:
                refused(late.wait(0), "unavailable", text="ulimit -n")
        assert client.request("ping", {}, b"x")[2] == b"x"
        assert 1 <= daemon.log().count("refusing connections: ") <= 2  # once for each thread
        for one in held:
            one.close()
        eventually(lambda: daemon.stats()["connections"] == 2, "they are gone")
        daemon.connect().close()


@pytest.mark.threads
def test_many_connections_come_and_go(daemon):
    for _ in range(5):
        clients = [PlainClient(daemon.url if i % 2 else daemon.tcp_url) for i in range(40)]
        for client in clients:
            client.send("get", {"input": "keep"})
        for client in clients:
            assert client.receive().body == KEPT
            client.close()


@pytest.mark.threads
def test_a_queue_that_is_full():
    """More long requests than may wait: unavailable, the connection stays."""
    limits = ("--max-queued", "2", "--threads", "1", "--max-inflight", "32")
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


TEXTS = [b"keep", b"keep/big", b"junk/c", b"cpu", b"@1", b"", b"\xff"]
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
             "int": lambda: struct.pack("<q", chance.choice([0, 1, -1, 7, 1 << 62, -(1 << 63)])),
             "bool": lambda: bytes([chance.choice([0, 1, 1, 2])]),
             "text": lambda: chance.choice(TEXTS),
             "dtype": lambda: bytes([chance.randrange(19)]),
             "dims": lambda: struct.pack("<3q", *(chance.choice([0, 1, 2, 16, -1, 1 << 40])
                                                  for _ in range(3)))[: 8 * chance.randrange(4)],
             "scalar": lambda: plain.build_scalar(chance.choice([True, 3, -1.5, 2j, 1e300])),
             "index": lambda: plain.build_value("index", [chance.choice(
                 [0, -1, ..., None, slice(None), slice(1, 5, 3)])])}  # fmt: skip
    # set_grad would leave a grad, and its charge, with what is kept
    lasting = ("delete", "rename", "expire", "touch", "hello", "set_grad", "seal", "queue_create")
    waiting = {row[1] for row in plain.protocol_table("ops") if "waits" in row[4]}
    harmless = [op for op in plain.OPS.values() if op not in lasting]
    rows = {row[1]: (row[2] + ", " + row[3]).split(", ") for row in plain.protocol_table("ops")}
    statuses = set()
    with daemon.connect() as client:
        for _ in range(1500):
            op = chance.choice(harmless)
            names = [name for name in rows[op] if name.strip()]
            if op != "ping" and "output" in names or chance.random() < 0.3:
                names.append("output")
            fields = {}
            for name in sorted(set(names)):  # the same in every run
                number = plain.FIELD_NUMBERS[name]
                if chance.random() < 0.85:
                    fields[f"#{number}"] = kinds[plain.FIELDS[number][1]]()
            if op in waiting:
                fields["#30"] = struct.pack("<Q", 0)  # timeout_ms
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
