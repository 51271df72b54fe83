"""Many small requests at once: their replies are put together, in order, with large ones, with
descriptors, and with readers that are slow or go away."""

import os
import socket
import time

import plain_client as plain
import pytest
from harness import MIB, SMALL, Daemon, ok, put

LIMITS = "max-inflight"


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL) as running:
        with running.connect() as client:
            put(client, "small", bytes(range(64)))
            put(client, "over", bytes(range(256)) * 17)  # 4352 bytes: sent from where it lies
            put(client, "big", os.urandom(MIB))
            for fd in client.request("map", {"input": "big"})[3]:
                os.close(fd)
        running.quiet()
        yield running


def urls(daemon):
    return {"unix": daemon.url, "tcp": daemon.tcp_url}


@pytest.mark.parametrize("door", ["unix", "tcp"])
def test_a_long_batch_is_answered_in_full_and_in_order(daemon, door):
    """Sizes around those that are copied, and around the room for replies that are put together."""
    sizes = [0, 1, 64, 4095, 4096, 4097, 16300, 16344, 16345, 65536] * 12
    with daemon.unchanged(), plain.PlainClient(urls(daemon)[door]) as client:
        bodies = [os.urandom(size) for size in sizes]
        frames = [plain.build_frame("ping", i + 1, {}, b) for i, b in enumerate(bodies)]
        client.socket.settimeout(20)
        sent, received = 0, []
        data = memoryview(b"".join(frames))
        client.socket.setblocking(False)
        while sent < len(data):  # the daemon reads no further while its replies are not read
            try:
                sent += client.socket.send(data[sent:])
            except BlockingIOError:
                client.socket.settimeout(20)
                received.append(client.receive())
                client.socket.setblocking(False)
        client.socket.settimeout(20)
        while len(received) < len(bodies):
            received.append(client.receive())
        assert [f.header.request_id for f in received] == list(range(1, len(bodies) + 1))
        assert [f.body for f in received] == bodies


def test_descriptors_come_with_their_own_reply(daemon):
    """Among small replies and large ones, all of one write."""
    ops = [("get", "small"), ("map", "big"), ("get", "small"), ("map", "big"), ("get", "over"),
           ("map", "big"), ("map", "big"), ("get", "big"), ("get", "small"), ("get", "none"),
           ("map", "big")] * 2  # fmt: skip
    with daemon.unchanged(), daemon.connect() as client:
        big = client.request("get", {"input": "big"})[2]
        batch = [
            plain.build_frame(op, 100 + i, {"input": name}) for i, (op, name) in enumerate(ops)
        ]
        client.send_raw(b"".join(batch))
        for i, (op, name) in enumerate(ops):
            frame = client.receive()
            assert frame.header.request_id == 100 + i
            assert (frame.header.status == 0) == (name != "none"), frame
            assert len(frame.fds) == (op == "map")
            assert not client.received_fds  # none came ahead of its reply
            for fd in frame.fds:
                assert os.pread(fd, MIB, 0) == big
                os.close(fd)
            if op == "get" and name == "big":
                assert frame.body == big


def test_one_way_and_refused_requests_leave_no_gap(daemon):
    with daemon.unchanged(), daemon.connect() as client:
        lease = ok(client.request("map", {"input": "small"}))  # small: a body, no lease
        assert lease["memory"] == "copied"
        batch = b""
        for i in range(40):
            batch += plain.build_frame("release", 1000 + i, {"lease": 1 << 40}, flags=plain.ONE_WAY)
            batch += plain.build_frame("get", 2 * i + 500, {"input": "small"})
            batch += plain.build_frame("get", 2 * i + 501, {"input": "not/there"})
        client.send_raw(batch)
        for i in range(40):
            good, bad = client.receive(), client.receive()
            assert (good.header.request_id, good.header.status) == (2 * i + 500, 0)
            assert good.body == bytes(range(64))
            assert bad.header.request_id == 2 * i + 501
            assert plain.STATUSES[bad.header.status] == "not_found"


def test_a_reader_that_takes_single_bytes(daemon):
    with daemon.unchanged(), daemon.connect() as client:
        client.send_raw(
            b"".join(plain.build_frame("ping", i, {}, bytes([i]) * 9) for i in range(50))
        )
        data = bytearray()
        while len(data) < 50 * 49:
            data += client.socket.recv(1 + len(data) % 7)
        for i in range(50):
            part = data[49 * i : 49 * i + 49]
            assert plain.read_header(bytes(part[:40])).request_id == i
            assert part[40:] == bytes([i]) * 9


def test_what_is_not_read_is_bounded_and_comes_later(daemon):
    """Requests that nobody reads the answers of: the daemon stops reading, and goes on later."""
    frame = plain.build_frame("get", 1, {"input": "small"})
    with daemon.unchanged(), daemon.connect() as client:
        client.socket.setblocking(False)
        sent, still = 0, 0
        block = frame * 1000
        while still < 20:
            try:
                sent += client.socket.send(block[sent % len(frame) :])
                still = 0
            except BlockingIOError:
                still += 1
                time.sleep(0.02)
        assert sent < 64 * MIB
        client.socket.settimeout(20)
        whole, part = divmod(sent, len(frame))
        for _ in range(whole):
            assert client.receive().body == bytes(range(64))
        client.send_raw(frame[part:])  # the rest of the last one, or one more
        assert client.receive().body == bytes(range(64))


def test_what_nobody_got_is_taken_back(daemon):
    """Objects and leases of replies that wait behind others when the connection ends."""
    with daemon.unchanged(), daemon.connect() as owner:
        key = owner.welcome["session_key"]
        for _ in range(20):
            other = daemon.connect(session_key=key)
            other.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # More than the sockets hold, so that none of the rest is sent.
            batch = b"".join(plain.build_frame("get", i, {"input": "big"}) for i in range(12))
            for i in range(15):
                batch += plain.build_frame("detach", 3 * i + 101, {"input": "small"})
                batch += plain.build_frame("map", 3 * i + 102, {"input": "big"})
                batch += plain.build_frame("get", 3 * i + 103, {"input": "small"})
            other.socket.setblocking(False)
            try:
                other.socket.send(batch)
            except BlockingIOError:
                pass
            time.sleep(0.01)
            other.close()
        deadline = time.monotonic() + 10
        while True:
            stats = daemon.stats()
            if stats["objects"] == 0 and stats["leases"] == 0:
                break
            assert time.monotonic() < deadline, stats
            time.sleep(0.02)
