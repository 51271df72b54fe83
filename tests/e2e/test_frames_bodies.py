"""Replies whose body is computed while it is sent: elements that are cast, or do not lie in order.

Whatever the dtype and index, they are NumPy's; replies behind one come in order and whole; clients
that leave, stop reading or are slow harm nobody; and a copy of the whole is never in memory."""

import os
import threading
import time

import ml_dtypes
import numpy as np
import plain_client as plain
import pytest
from bundle_files import load
from harness import (MIB, SMALL, Daemon, abort, client, daemon, eventually, get,  # noqa: F401
                     ok, put, refused, used)  # fmt: skip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_client import PlainClient
from safetensors.numpy import save

BLOCK = MIB
INLINE = 256 << 10  # so much is computed at once, before the reply begins
BIG = np.arange(3 * MIB, dtype="i4").reshape(1024, 3 * 1024)  # 12 MiB, all different
DTYPES = {"bool": "?", "uint8": "u1", "int16": "i2", "int32": "i4", "int64": "i8",
          "float16": "f2", "float32": "f4", "float64": "f8", "complex64": "c8",
          "complex128": "c16", "bfloat16": ml_dtypes.bfloat16}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def stored(daemon):
    with daemon.connect() as client:
        put(client, "big", BIG.tobytes(), "int32", BIG.shape)
        ok(client.request("permute", {"input": "big", "dims": [1, 0], "output": "turned"}))
    daemon.quiet()


def start(client, name="big", **fields):
    return client.send("get", {"input": name, **fields})


def cast_bytes(dtype):
    return BIG.astype(DTYPES[dtype]).tobytes()


# ---- the elements ------------------------------------------------------------------------------

SMALL_NUMBERS = np.arange(1 << 21, dtype="i8") % 100  # which every dtype can hold
SHAPES = [(1 << 21,), (1 << 11, 1 << 10), (7, 300, 997), (64, 2, 64, 2, 64), (3, INLINE + 1),
          (2, 1, BLOCK), (1, 1)]  # fmt: skip


@st.composite
def requests(draw):
    """A shape, its dtype, an order of dimensions, an index, and the dtype that is asked for."""
    shape = draw(st.sampled_from(SHAPES))
    names = st.sampled_from([*DTYPES])
    order = draw(st.permutations(range(len(shape))))
    index = []
    for size in [shape[d] for d in order][: draw(st.integers(0, len(shape)))]:
        first = draw(st.integers(0, size // 3))
        last = draw(st.none() | st.integers(size - size // 3, size))
        step = draw(st.integers(1, 3))
        one = draw(st.integers(0, size - 1))
        index.append(draw(st.sampled_from([slice(None), slice(first, last, step), one,
                                           slice(last, first, -step)])))  # fmt: skip
    return shape, draw(names), order, index, draw(st.none() | names)


@given(requests())
@settings(max_examples=100, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_elements_are_numpys(client, asked):
    shape, dtype, order, index, wanted = asked
    values = SMALL_NUMBERS[: np.prod(shape)].reshape(shape).astype(DTYPES[dtype])
    fields = {"output": "x", "dtype": dtype, "shape": [*shape]}
    ok(client.request("put", fields, values.tobytes()))
    ok(client.request("permute", {"input": "x", "dims": order, "output": "view"}))
    more = {**({"index": index} if index else {}), **({"dtype": wanted} if wanted else {})}
    body = get(client, "view", **more)
    expected = values.transpose(order)[tuple(index)].astype(DTYPES[wanted or dtype])
    assert body == expected.tobytes()


@pytest.mark.parametrize("count", [INLINE // 8, INLINE // 8 + 1, BLOCK // 8 - 1, BLOCK // 8,
                                   BLOCK // 8 + 1, 2 * BLOCK // 8, 2 * BLOCK // 8 + 1])  # fmt: skip
def test_sizes_around_those_of_blocks(client, count):
    values = np.arange(count, dtype="i4")
    put(client, "x", values.tobytes(), "int32")
    assert get(client, "x", dtype="float64") == values.astype("f8").tobytes()


def test_saturation_goes_with_it(client):
    values = np.tile(np.array([1e6, -1e6, 3], dtype="f4"), MIB)
    put(client, "x", values.tobytes(), "float32")
    wanted = np.clip(values, -128, 127).astype("i1").tobytes()
    assert get(client, "x", dtype="int8", saturate=True) == wanted
    message = refused(client.request("get", {"input": "x", "dtype": "int8", "casting": "safe"}),
                      "bad_dtype")  # fmt: skip
    assert "safe" in message


@pytest.mark.parametrize("op", ["map", "numpy", "get"])
def test_what_lies_out_of_order_without_shared_memory(daemon, op):
    with PlainClient(daemon.tcp_url) as client:
        status, fields, body, _ = client.request(op, {"input": "turned"})
        assert status == "ok" and fields["memory"] == "copied" and fields["reason"] == "transport"
        assert body == BIG.T.tobytes()


# ---- what stands behind it ---------------------------------------------------------------------


def test_replies_behind_it_come_whole(client):
    wanted = {}
    for dtype in ("float64", "uint8", "complex64", "float16"):
        wanted[start(client, dtype=dtype)] = cast_bytes(dtype)
        wanted[start(client, "turned")] = BIG.T.tobytes()
        wanted[start(client)] = BIG.tobytes()
        wanted[start(client, index=[5])] = BIG[5].tobytes()
        wanted[client.send("ping", {}, dtype.encode())] = dtype.encode()
        wanted[start(client, index=[slice(0, 2)], dtype="int64")] = BIG[:2].astype("i8").tobytes()
    for request in reversed(wanted):
        status, _, body, _ = client.wait(request)
        assert status == "ok" and body == wanted[request]


def test_requests_behind_it_are_run_meanwhile(daemon, client):
    """Nobody reads the first reply, and it does not fit into the socket."""
    first = start(client, "turned")
    second = client.send("put", {"output": "behind", "dtype": "uint8", "shape": [3]}, b"abc")
    with daemon.connect() as other:
        eventually(lambda: other.request("info", {"input": "behind"})[0] == "ok", "run meanwhile")
        ok(other.request("delete", {"input": "behind"}))
    assert client.wait(first)[2] == BIG.T.tobytes()
    ok(client.wait(second))


def begun(client, request):
    """The reply's length, when its first bytes are there."""
    header = plain.read_header(client.receive_exactly(plain.HEADER.size))
    assert header.request_id == request and header.status == 0
    client.receive_exactly(header.meta_length)
    return header.body_length


def test_a_change_in_the_middle_is_seen_in_what_is_made_later(daemon, client):
    """As with what is sent from where it lies."""
    ok(client.request("full", {"shape": [8 * MIB], "dtype": "uint8", "value": 1, "output": "m"}))
    length = begun(client, start(client, "m", dtype="float64"))
    with daemon.connect() as other:
        ok(other.request("fill_", {"input": "m", "value": 2}))
    values = np.frombuffer(client.receive_exactly(length), "f8")
    assert len(values) == 8 * MIB and np.isin(values, [1, 2]).all()
    assert values[0] == 1 and values[-1] == 2
    ok(client.request("delete", {"input": "m"}))


def test_a_replaced_tensor_is_sent_to_its_end(daemon, client):
    values = np.arange(2 * MIB, dtype="i4")
    put(client, "r", values.tobytes(), "int32")
    length = begun(client, start(client, "r", dtype="float64"))
    with daemon.connect() as other:
        put(other, "r", b"new")
        ok(other.request("delete", {"input": "r"}))
    assert client.receive_exactly(length) == values.astype("f8").tobytes()


# ---- clients that leave, or are slow -----------------------------------------------------------

CUTS = [0, 1, 31, 32, 100, 5000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12345, 23 * BLOCK]


@pytest.mark.parametrize("url", ["url", "tcp_url"])
@pytest.mark.parametrize("cut", CUTS)
def test_clients_that_leave_in_the_middle(daemon, url, cut):
    with daemon.unchanged():
        for leave in (PlainClient.close, abort):
            client = PlainClient(getattr(daemon, url))
            start(client, "turned", dtype="float64")
            client.send("ping", {}, b"behind it")
            client.receive_exactly(cut)
            leave(client)


def test_clients_that_leave_at_once(daemon):
    """At different moments of the first job, and of those that follow it."""
    with daemon.unchanged():
        for i in range(60):
            client = daemon.connect()
            for _ in range(3):
                start(client, "turned", dtype="float64")
            time.sleep(i * 0.0002)
            client.close()


def test_a_reader_that_stops_is_closed_and_a_slow_one_is_not():
    values = np.arange(8 * MIB, dtype="u1")
    with Daemon(*SMALL, "--io-timeout-ms", "700", "--io-threads", "1") as strict:
        with strict.connect() as client:
            put(client, "x", values.tobytes())
        strict.quiet()
        with strict.unchanged(), strict.connect() as stopped, strict.connect() as slow:
            start(stopped, "x", dtype="float64")
            since = time.monotonic()
            length = begun(slow, start(slow, "x", dtype="float32"))
            body = b""
            while len(body) < length:
                body += slow.receive_exactly(min(2 * MIB, length - len(body)))
                time.sleep(0.1)
                with strict.connect() as other:  # on the same loop
                    assert other.request("ping", {}, b"x")[2] == b"x"
            assert body == values.astype("f4").tobytes()
            assert time.monotonic() - since > 1.4
            with pytest.raises((plain.Disconnected, ConnectionError)):
                stopped.receive_exactly(64 * MIB)


def test_a_drain_waits_for_those_who_read():
    values = np.arange(8 * MIB, dtype="u1")
    daemon = Daemon(*SMALL)
    client = daemon.connect()
    put(client, "x", values.tobytes())
    length = begun(client, start(client, "x", dtype="float32"))
    daemon.signal()
    time.sleep(0.2)
    assert client.receive_exactly(length) == values.astype("f4").tobytes()
    assert client.is_closed()
    daemon.wait()
    client.close()


def test_a_drain_does_not_wait_for_ever():
    daemon = Daemon(*SMALL, "--drain-timeout-ms", "300")
    client = daemon.connect()
    put(client, "x", bytes(8 * MIB))
    start(client, "x", dtype="float64")
    client.receive_exactly(plain.HEADER.size)
    daemon.signal()
    daemon.wait()
    client.close()


# ---- memory, jobs, threads ---------------------------------------------------------------------


def test_no_copy_of_the_whole_is_in_memory():
    """40 of 48 MiB are in use: a temporary of 20, or 40, would be refused."""
    with Daemon("--memory-limit", "48MiB", "--pool-limit", "0") as daemon:
        with daemon.connect() as client:
            ok(client.request("zeros", {"shape": [10, MIB], "dtype": "float32", "output": "x"}))
            view = ok(client.request("permute", {"input": "x", "dims": [1, 0]}))
            used = daemon.stats()["memory_used_bytes"]
            for fields in ({"input": "x", "dtype": "float16"}, {"input": f"@{view['id']}"},
                           {"input": f"@{view['id']}", "dtype": "float64"}):  # fmt: skip
                refused(client.request("clone" if "dtype" not in fields else "to", fields),
                        "out_of_memory")  # fmt: skip
                size = {"float16": 2, "float64": 8}.get(fields.get("dtype"), 4) * 10 * MIB
                assert client.request("get", fields)[2] == bytes(size)
            backwards = [slice(None), slice(None, None, -1)]
            assert get(client, "x", index=backwards, dtype="float16") == bytes(20 * MIB)
            more = daemon.stats()["memory_peak_bytes"] - used
            assert BLOCK <= more <= BLOCK + BLOCK // 4, "one block"


def test_without_memory_for_a_block_it_is_refused_in_words():
    with Daemon("--memory-limit", "32MiB", "--pool-limit", "0") as daemon:
        with daemon.connect() as client:
            for name, size in (("x", 28 * MIB), ("y", 7 * MIB // 2)):
                ok(client.request("zeros", {"shape": [size], "dtype": "uint8", "output": name}))
            with daemon.unchanged():
                fields = {"input": "x", "dtype": "int16"}
                message = refused(client.request("get", fields), "out_of_memory")
                assert "1048576 more do not fit" in message
                part = get(client, "x", dtype="int16", index=[slice(0, 1000)])
                assert part == bytes(2000)


def test_blocks_count_against_who_asked(daemon):
    """Also those of replies that stand behind one which nobody reads."""
    me = f"uid:{os.getuid()}"
    with daemon.unchanged(), daemon.connect() as other:
        before = used(other, me, "bytes")
        with daemon.connect() as client:
            for _ in range(20):
                start(client, dtype="float64")
            eventually(lambda: used(other, me, "bytes") - before == 20 * BLOCK, "all are begun")
        eventually(lambda: used(other, me, "bytes") == before, "all are given back")


def test_what_has_begun_is_not_refused_by_a_full_job_pool():
    values = np.arange(4 * MIB, dtype="u1")
    limits = ("--threads", "1", "--max-queued", "1")
    with Daemon(*SMALL, *limits) as daemon, daemon.connect() as client:
        put(client, "x", values.tobytes())
        wanted, done = values.astype("i2").tobytes(), []

        def fetch():
            with daemon.connect() as mine:
                while len(done) < 40:
                    status, _, body, _ = mine.request("get", {"input": "x", "dtype": "int16"})
                    assert status == "unavailable" or (status == "ok" and body == wanted)
                    done.append(1) if status == "ok" else time.sleep(0.001)

        run_all([fetch] * 8)
        assert len(done) >= 40


def test_a_deadline_behind_a_large_reply():
    """The job that makes a body goes on when its request is answered: nothing of it is sent."""
    limits = ("--memory-limit", "512MiB", "--pool-limit", "0", "--threads", "1")
    with Daemon(*limits) as daemon, daemon.connect() as client, daemon.connect() as other:
        ok(client.request("zeros", {"shape": [96 * MIB], "dtype": "uint8", "output": "m/x"}))
        first = start(client, "m/x")  # which nobody reads yet
        late = client.send("save", {"prefix": "m", "format": "npz", "timeout_ms": 20})
        behind = client.send("ping", {}, b"behind it")
        eventually(lambda: daemon.stats()["errors"] > 0, "it is answered")
        get(other, "m/x", dtype="int16", index=[slice(0, MIB)])  # the job's thread is through
        assert client.wait(first)[2] == bytes(96 * MIB)
        refused(client.wait(late), "deadline")
        assert client.wait(behind)[2] == b"behind it"
        assert client.request("ping", {}, b"nothing else came")[2] == b"nothing else came"


def test_many_small_parts_leave_others_their_turn():
    """Each is a send of its own; while they go out, others of the same loop are answered."""
    file = save({f"t{i}": np.zeros(1, "f4") for i in range(60_000)})
    with Daemon(*SMALL, "--io-threads", "1") as daemon:
        with daemon.connect() as client, daemon.connect() as other:
            load(client, file, prefix="m")
            for _ in range(3):
                length, over, pings = begun(client, client.send("save", {"prefix": "m"})), [], []

                def ping():
                    while not over:
                        pings.append(other.request("ping", {}, b"x")[2])

                thread = threading.Thread(target=ping)
                thread.start()
                body = client.receive_exactly(length)
                over.append(True)
                thread.join()
                assert len(body) == length and len(pings) > 20


@pytest.mark.threads
def test_many_at_once_with_changes_and_leaving(daemon):
    """Readers on both sockets, writers, and clients that leave: nobody gets what is not his."""
    stop = time.monotonic() + 3

    def read(url, name, dtype, wanted):
        with PlainClient(url) as mine:
            while time.monotonic() < stop:
                requests = [start(mine, name, dtype=dtype) for _ in range(2)]
                for request in requests:
                    assert mine.wait(request)[2] == wanted

    def leave():
        while time.monotonic() < stop:
            mine = daemon.connect()
            start(mine, "turned", dtype="float64")
            mine.receive_exactly(BLOCK // 2)
            mine.close()

    def change():
        with daemon.connect() as mine:
            while time.monotonic() < stop:
                put(mine, "changing", BIG[:300].tobytes(), "int32")

    with daemon.connect() as client:
        put(client, "changing", BIG[:300].tobytes(), "int32")
    turned = BIG.T.astype("f4").tobytes()
    changing = BIG[:300].astype("f8").tobytes()
    run_all([lambda: read(daemon.url, "turned", "float32", turned),
             lambda: read(daemon.tcp_url, "big", "uint8", cast_bytes("uint8")),
             lambda: read(daemon.url, "changing", "float64", changing), leave, change])  # fmt: skip


def run_all(works):
    """In a thread each; the first failure is the test's."""
    failures = []

    def run(work):
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
