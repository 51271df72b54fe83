"""Quotas: what one user takes from the daemon it does not take from another one."""

import contextlib
import json
import os
import subprocess

import numpy as np
import plain_client
import pytest
from harness import (MIB, OPEN, OTHER_UID, SMALL, UNKNOWN_UID, Daemon, Filling, Mapping, Peer,
                     all_names, as_root, eventually, get, is_silent, make_memfd, ok, principals,
                     put, read_stats, refused, run_tensord, used)  # fmt: skip
from http_client import Http
from plain_client import PlainClient, Refused
from test_tensorctl import binary

ME = f"uid:{os.getuid()}"
KIB = 1024


def open_daemon(*options):
    return Daemon(*SMALL, *OPEN, *options)


def peer_refused(peer, request, text):
    """A request of another user that its quota refuses, with who holds what."""
    status, fields = peer.ask(f"{request}[:2]")
    assert status == "out_of_memory" and text in fields["message"], fields


@as_root
def test_bytes():
    with open_daemon("--quota-bytes", "1MiB") as daemon, daemon.connect() as client:
        with Peer(daemon.url, OTHER_UID) as peer:
            peer.run("put(c, 'theirs', bytes(1000000))")
            peer_refused(peer, "c.request('zeros', {'shape': [20000]})",
                         f"uid:{OTHER_UID} holds 1000000 of the 1048576 bytes of")  # fmt: skip
            peer_refused(peer, "c.request('allocate', {'dtype': 'uint8', 'shape': [100000]})",
                         "100000 more do not fit")  # fmt: skip
            put(client, "mine", bytes(1000000))  # the other's limit is not ours
            more = {"output": "more", "dtype": "uint8", "shape": [50000]}
            refused(client.request("put", more, bytes(50000)), "out_of_memory",
                    text=f"{ME} holds 1000000")  # fmt: skip
            refused(client.request("clone", {"input": "mine"}), "out_of_memory")
            refused(client.request("copy", {"input": "mine", "output": "c"}), "out_of_memory")
            # Who publishes another's tensor pays nothing: its maker does.
            ok(client.request("as_tensor", {"input": "theirs", "output": "also"}))
            assert used(client, f"uid:{OTHER_UID}", "bytes") == 1000000
            # Deleted memory that is still mapped counts, also above the quota.
            peer.run("m = Mapping(c, 'mine')")
            ok(client.request("delete", {"input": "mine"}))
            assert used(client, f"uid:{OTHER_UID}", "bytes") == 2000000
            peer_refused(peer, "c.request('zeros', {'shape': [1]})",
                         "1000000 of them deleted but still held")  # fmt: skip
            put(client, "mine", bytes(1000000))
            peer.run("ok(c.request('release', {'lease': m.reply['lease']}))")
            peer.run("ok(c.request('zeros', {'shape': [1000]}))")


@as_root
def test_large_requests_count():
    """Else a few that wait would take what others may store."""
    watch = f"'watch', {{'prefix': 'n' * {MIB - 100}, 'timeout_ms': 60_000}}"
    with open_daemon("--quota-bytes", 4 * MIB) as daemon, daemon.connect() as client:
        before = daemon.state()
        with Peer(daemon.url, OTHER_UID) as peer:
            peer.run(f"for _ in range(4): c.send({watch})")
            theirs = f"uid:{OTHER_UID}"
            eventually(lambda: used(client, theirs, "bytes") > 3.9 * MIB, "they wait")
            peer_refused(peer, f"c.request({watch})", "of the 4194304 bytes of tensors that it may")
            peer.run("ok(c.request('ping'))")
            put(client, "mine", bytes(3 * MIB))
            ok(client.request("delete", {"input": "mine"}))
        daemon.settle(before)


@as_root
def test_names():
    with open_daemon("--quota-names", "5") as daemon, daemon.connect() as client:
        with Peer(daemon.url, OTHER_UID) as peer:
            peer.run("for i in range(5): put(c, f'theirs/{i}', b'x')")
            peer_refused(peer, "c.request('rename', {'input': 'theirs/0', 'output': 'theirs/x'})"
                         " and c.request('as_tensor', {'input': 'theirs/x', 'output': 'n'})",
                         f"uid:{OTHER_UID} holds 5 of the 5 names")  # fmt: skip
            peer.run("put(c, 'theirs/1', b'again')")  # a name of its own is replaced at the limit
            for i in range(5):
                put(client, f"mine/{i}", b"x")
            refused(client.request("put", {"output": "n", "dtype": "uint8", "shape": [1]}, b"x"),
                    "out_of_memory", text="raise --quota-names or --max-names")  # fmt: skip
            # Replacing the name of another makes it one's own: not at the limit.
            refused(client.request("put", {"output": "theirs/2", "dtype": "uint8", "shape": [1]},
                                   b"y"), "out_of_memory")  # fmt: skip
            assert get(client, "theirs/2") == b"x"
            ok(client.request("delete", {"input": "mine/0"}))
            put(client, "theirs/2", b"y")
            assert used(client, ME, "names") == 5
            assert used(client, f"uid:{OTHER_UID}", "names") == 4
            ok(client.request("expire", {"input": "mine/1", "ttl_ms": 1}))
            eventually(lambda: used(client, ME, "names") == 4, "the name has expired")


@as_root
def test_leases():
    with open_daemon("--quota-leases", "10") as daemon, daemon.connect() as client:
        put(client, "x", bytes(100000))
        with Peer(daemon.url, OTHER_UID) as peer:
            peer.run("d = [c, *(PlainClient(daemon_url) for _ in range(2))]".replace(
                "daemon_url", repr(daemon.url)))
            peer.run("m = [Mapping(d[i % 3], 'x') for i in range(10)]")  # of all its sessions
            for i in range(3):
                peer_refused(peer, f"d[{i}].request('map', {{'input': 'x'}})",
                             f"uid:{OTHER_UID} holds 10 of the 10 leases")  # fmt: skip
            peer_refused(peer, "c.request('allocate', {'dtype': 'uint8', 'shape': [1]})", "leases")
            mine = [Mapping(client, "x") for _ in range(10)]
            refused(client.request("map", {"input": "x"}), "out_of_memory", text="--quota-leases")
            mine.pop().close()
            ok(client.request("release", {"lease": mine[0].reply["lease"]}))
            again = client.request("map", {"input": "x"})
            ok(again)
            os.close(again[3][0])
            for mapping in mine:
                mapping.close()


@as_root
def test_descriptors():
    with open_daemon("--quota-descriptors", "4") as daemon, daemon.connect() as client:
        other = f"uid:{OTHER_UID}"
        with Peer(daemon.url, OTHER_UID) as peer:
            peer.run("for i in range(3): put(c, f't{i}', bytes(100000))")
            # Small memory has none, until it is shared.
            peer.run("for i in range(8): put(c, f's{i}', b'x', mutable=True)")
            assert used(client, other, "descriptors") == 3
            peer.run("m = [Mapping(c, 's0') for _ in range(3)]")
            assert used(client, other, "descriptors") == 4
            peer_refused(peer, "c.request('map', {'input': 's1'})",
                         f"{other} holds 4 of the 4 memory descriptors")  # fmt: skip
            peer_refused(peer, "c.request('allocate', {'dtype': 'uint8', 'shape': [1]})",
                         "--max-descriptors")  # fmt: skip
            peer.run("given = make_memfd(bytes(4096))")
            peer_refused(peer, "c.request('from_numpy', {'dtype': 'uint8', 'shape': [4096]}, "
                         "fds=[given])", "descriptors")  # fmt: skip
            assert peer.ask("len(leases(c))") == 3
            for i in range(4):
                put(client, f"mine{i}", bytes(100000))
            refused(client.request("put", {"output": "n", "dtype": "uint8", "shape": [100000]},
                                   bytes(100000)), "out_of_memory", text=ME)  # fmt: skip
            put(client, "small", b"x")
            # Deleted and still mapped: who holds it has the descriptor.
            peer.run("m += [Mapping(c, 'mine0')]")
            ok(client.request("delete", {"input": "mine0"}))
            assert used(client, ME, "descriptors") == 3 and used(client, other, "descriptors") == 5
            peer.run("ok(c.request('release', {'lease': m[-1].reply['lease']}))")
            assert used(client, other, "descriptors") == 4
            peer.run("for i in range(8): ok(c.request('delete', {'input': f's{i}'}))")
            assert used(client, other, "descriptors") == 4  # s0 is still mapped
            peer.run("for x in m[:3]: ok(c.request('release', {'lease': x.reply['lease']}))")
            assert used(client, other, "descriptors") == 3


def test_descriptors_ahead_of_their_frames_count():
    """Else a few connections, each with a frame that never comes, would keep all the descriptors
    that the daemon may have open."""
    head = plain_client.build_frame("ping", 1)[: plain_client.HEADER.size - 1]
    with open_daemon("--quota-descriptors", "20") as daemon, daemon.connect() as client:
        before, given, hoarders = daemon.state(), make_memfd(bytes(4096)), []
        for _ in range(8):
            hoarders.append(daemon.connect())
            with contextlib.suppress(ConnectionError):
                for byte in head[:16]:
                    hoarders[-1].send_raw(bytes([byte]), [given])
            # The first is of the frame that has begun. The others are served by other threads.
            eventually(lambda: used(client, ME, "descriptors") == 15, "all of the first have come")
        assert is_silent(hoarders[0]) and all(one.is_closed() for one in hoarders[1:])
        assert len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before["fds"] + 1 + 16
        # Who sends a frame with its descriptor is served, as long as there is room for the memory.
        for i in range(5):
            put(client, f"t{i}", bytes(100000))
        refused(client.request("from_numpy", {"dtype": "uint8", "shape": [4096]}, fds=[given]),
                "out_of_memory", text="holds 20 of the 20 memory descriptors")  # fmt: skip
        hoarders[0].close()
        eventually(lambda: used(client, ME, "descriptors") == 5, "the rest is given back")
        ok(client.request("from_numpy", {"dtype": "uint8", "shape": [4096]}, fds=[given]))
        os.close(given)
        ok(client.request("release", {"force": True}))
        for i in range(5):
            ok(client.request("delete", {"input": f"t{i}"}))
        daemon.settle(before)


def test_given_memory_counts_while_it_is_known(client_of_one):
    fd = make_memfd(bytes(4096))
    fields = {"dtype": "uint8", "shape": [4096]}
    first = ok(client_of_one.request("from_numpy", fields, fds=[fd]))
    second = ok(client_of_one.request("from_numpy", fields, fds=[fd]))
    assert first["storage"] == second["storage"]
    assert used(client_of_one, ME, "descriptors") == 1 and used(client_of_one, ME, "bytes") == 4096
    ok(client_of_one.request("release", {"force": True}))
    assert used(client_of_one, ME, "descriptors") == used(client_of_one, ME, "bytes") == 0
    os.close(fd)


@pytest.fixture
def client_of_one():
    with open_daemon() as daemon, daemon.connect() as client:
        yield client


@as_root
def test_watches():
    """Whoever waits for many names leaves some of the daemon's watches to others."""
    with open_daemon("--max-watches", "16") as daemon, daemon.connect() as client:
        with Peer(daemon.url, OTHER_UID) as peer:
            peer.run("waits = [c.send('wait', {'input': 'x'}) for _ in range(15)]")
            status, fields = peer.ask("c.request('watch')[:2]")
            assert status == "unavailable", fields
            assert f"15 requests of uid:{OTHER_UID}" in fields["message"], fields
            mine = client.send("wait", {"input": "x"})
            refused(client.request("watch"), "unavailable", text="16 requests wait")
            put(client, "x", b"1")
            ok(client.wait(mine))
            peer.run("for one in waits: ok(c.wait(one))")
            peer.run("waits = [c.send('wait', {'input': 'y'}) for _ in range(15)]")  # given back
            assert peer.ask("c.request('ping')[0]") == "ok"
            put(client, "y", b"1")
            peer.run("for one in waits: ok(c.wait(one))")


def test_a_connection_too_many_is_told_so():
    """Also where the daemon was faster than the client, and has closed when that says hello."""
    with Daemon(*SMALL, "--max-connections", "4") as daemon:
        held = [daemon.connect() for _ in range(4)]
        for url in (daemon.url, daemon.tcp_url):
            for _ in range(20):
                done = tensorctl({**os.environ, "TENSORD_URL": url}, "stats")
                assert (done.returncode, b"--max-connections" in done.stderr) == (6, True), done
        for client in held:
            client.close()


@as_root
def test_connections():
    with open_daemon("--quota-connections", "6") as daemon:
        with Peer(daemon.url, OTHER_UID) as peer, daemon.connect() as client:
            peer.run(f"more = [PlainClient({daemon.url!r}) for _ in range(5)]")
            peer.run(f"""
s = socket.socket(socket.AF_UNIX)
s.connect({str(daemon.socket)!r})
s.settimeout(10)
answer = s.recv(4096).decode('latin-1')
""")
            answer = peer.ask("answer")
            assert f"uid:{OTHER_UID} holds 6 of the 6 connections" in answer
            assert peer.ask("s.recv(10).decode()") == ""  # and closed
            ours = [daemon.connect() for _ in range(5)]
            with pytest.raises((Refused, OSError, EOFError)) as caught:
                daemon.connect()
            assert "connections" in str(caught.value) or isinstance(caught.value, OSError)
            for connection in ours:
                connection.close()
            peer.run("more[0].close()")
            eventually(lambda: used(client, f"uid:{OTHER_UID}", "connections") == 5, "it is free")
            peer.run(f"more[0] = PlainClient({daemon.url!r})")


def test_tcp_and_http_without_a_token_are_one_principal():
    with open_daemon("--quota-names", "3", "--quota-bytes", "1MiB") as daemon:
        with PlainClient(daemon.tcp_url) as one, PlainClient(daemon.tcp_url) as two:
            put(one, "t/1", b"x")
            put(two, "t/2", b"x")
            assert http(daemon, "t/3", b"abc") in (200, 201)
            assert used(one, "tcp", "names") == 3 and used(one, "tcp", "bytes") == 5
            assert http(daemon, "t/4", b"abc") == 507
            refused(one.request("put", {"output": "t/5", "dtype": "uint8", "shape": [1]}, b"x"),
                    "out_of_memory", text="tcp holds 3 of the 3 names")  # fmt: skip
            assert http(daemon, "t/3", bytes(2 << 20)) == 507
            with daemon.connect() as local:
                put(local, "l/1", b"x")
                assert used(local, ME, "names") == 1
            ok(two.request("delete", {"input": "t/1"}))
            assert http(daemon, "t/4", b"abc") in (200, 201)
            (lease_less,) = [found for name, found in principals(one).items() if name == "tcp"]
            assert lease_less["connections"][0] == 2


def http(daemon, name, body):
    with Http(daemon.http_url) as client:
        return client.put(name, np.frombuffer(body, np.uint8)).status


def test_with_a_token_they_are_another(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret" * 5 + "\n")
    token.chmod(0o600)
    with open_daemon("--token-file", token) as daemon:
        with PlainClient(daemon.tcp_url, token="secret" * 5) as client:
            put(client, "x", b"abc")
            found = principals(client)
            assert found["token"]["bytes"][0] == 3 and "tcp" not in found


@as_root
def test_the_user_that_the_kernel_cannot_name_has_half():
    with open_daemon("--quota-bytes", "1MiB", "--quota-names", "10") as daemon:
        with Peer(daemon.url, UNKNOWN_UID) as unknown, daemon.connect() as client:
            unknown.run("put(c, 'half', bytes(500000))")
            peer_refused(unknown, "c.request('zeros', {'shape': [10000]})", "524288")
            unknown.run("for i in range(4): put(c, f'u{i}', b'')")
            peer_refused(unknown, "c.request('as_tensor', {'input': 'half', 'output': 'n'})",
                         "uid:65534 holds 5 of the 5 names")  # fmt: skip
            put(client, "all", bytes(1000000))


def test_the_limit_of_all_says_who_holds_most():
    options = ("--memory-limit", "2MiB", "--pool-limit", "0", "--quota-bytes", "1GiB")
    with Daemon(*options) as daemon, daemon.connect() as client:
        put(client, "much", bytes(1500000))
        text = refused(client.request("zeros", {"shape": [200000]}), "out_of_memory")
        assert f"{ME} 1500000" in text and "--memory-limit" in text


def test_every_quota_has_a_number_by_default():
    text = run_tensord("--help").stdout
    for quota in ("bytes", "names", "leases", "queue-bytes", "descriptors", "connections"):
        (line,) = [line for line in text.splitlines() if f"--quota-{quota} " in line]
        number = line.rpartition("[")[2].rstrip("]")
        assert int(number) > 0, line
    with Daemon(*SMALL, "--max-names", "77") as daemon, daemon.connect() as client:
        limits = {name: limit for name, (_, limit) in principals(client)[ME].items()}
        assert limits["bytes"] == limits["queue_bytes"] == 256 << 20 and limits["names"] == 77
        assert limits["connections"] == 1024 - 64 and limits["leases"] == 4 * 65536
        assert limits["deleted_bytes"] is None and limits["descriptors"] > 0


def test_queue_bytes_are_listed():
    with Daemon(*SMALL, "--quota-queue-bytes", "5k") as daemon, daemon.connect() as client:
        assert principals(client)[ME]["queue_bytes"] == (0, 5000)


def test_queues_that_fill_the_memory_are_named():
    """Who lists names, or leases, does not find it."""
    with Daemon("--memory-limit", "4MiB", "--pool-limit", "0") as daemon, \
            daemon.connect() as client:  # fmt: skip
        ok(client.request("queue_create", {"queue": "q"}))
        put(client, "x", bytes(3 * MIB))
        large = {"shape": [2 * MIB], "dtype": "uint8"}
        assert "in queues" not in refused(client.request("zeros", large), "out_of_memory")
        ok(client.request("queue_put", {"queue": "q", "tensors": "x"}))
        ok(client.request("delete", {"input": "x"}))
        refused(client.request("zeros", large), "out_of_memory",
                text="has items of 3145728 in queues")  # fmt: skip
        ok(client.request("queue_drain", {"queue": "q"}))
        ok(client.request("zeros", large))


def test_a_full_memory_tells_what_is_in_it():
    """Whoever looks for what to delete is answered, by every door."""
    with Daemon("--memory-limit", "4MiB", "--pool-limit", "0") as daemon, \
            daemon.connect() as client:  # fmt: skip
        for i in range(1100):
            ok(client.request("zeros", {"shape": [1], "output": f"a name among many others/{i}"}))
        size = 1 << 20
        for i in range(100):  # to the last byte
            fields = {"shape": [size], "dtype": "uint8", "output": f"fill/{i}"}
            size = size if client.request("zeros", fields)[0] == "ok" else max(1, size // 2)
        refused(client.request("zeros", {"shape": [100]}), "out_of_memory")
        for op in ("stats", "principals", "devices", "ops", "leases", "queues"):
            ok(client.request(op))
        assert len(all_names(client)) >= 1100
        environment = {**os.environ, "TENSORD_URL": daemon.url}
        for command in ("ls", "stats"):
            assert tensorctl(environment, command).returncode == 0
        with Http(daemon.http_url) as http:
            assert len(http.send("GET", "/v1/tensors").json["entries"]) == 1000
        assert tensorctl(environment, "rm", "--yes", "--prefix", "fill/").returncode == 0
        ok(client.request("zeros", {"shape": [100]}))


def fill_to_the_last_byte(client):
    """With anonymous tensors, then with items of the queue "rest" (of the tensor "small")."""
    def free():
        stats = read_stats(client)
        return stats["memory_limit_bytes"] - stats["memory_used_bytes"]

    while free() > 4096:
        ok(client.request("zeros", {"shape": [min(1 << 20, free() // 2)], "dtype": "uint8"}))
    for length in (1024, 256, 64, 16, 4, 1, 0):
        text = {"queue": "rest", "tensors": "small", "meta": "m" * length}
        while client.request("queue_put", text)[0] == "ok":
            pass
    assert free() < 200


def test_a_full_memory_is_handed_out_and_drained(tmp_path):
    """Consumers, and who saves what is there before it is deleted, need a little of it, too."""
    with Daemon("--memory-limit", "4MiB", "--pool-limit", "0") as daemon, \
            daemon.connect() as client, Http(daemon.http_url) as http:  # fmt: skip
        for queue in ("rest", "q"):
            ok(client.request("queue_create", {"queue": queue, "max_items": 10000}))
        put(client, "small", b"small")
        put(client, "large", bytes(100_000))
        for i in range(100):
            put(client, f"many/{i}", b"x")
        for _ in range(3):
            ok(client.request("queue_put", {"queue": "q", "tensors": "small\nlarge"}))
        fill_to_the_last_byte(client)
        item = ok(client.request("queue_get", {"queue": "q"}))
        Mapping(client, "large").close()
        assert "115" in ok(client.request("print", {"input": "small"}))["text"]
        assert http.send("GET", "/v1/tensors/small?format=text").status == 200
        assert http.send("POST", "/v1/ops/queue_get", b'{"queue": "q"}').status == 200
        environment = {**os.environ, "TENSORD_URL": daemon.url}
        assert tensorctl(environment, "show", "small").returncode == 0
        assert tensorctl(environment, "get", "large", "-o", tmp_path / "l.npy").returncode == 0
        assert tensorctl(environment, "save", tmp_path / "m.safetensors").returncode == 0
        for i in range(10_000):  # who hoards gets no end of it, and does not shut out consumers
            if client.request("getitem", {"input": "small", "index": [i % 5]})[0] != "ok":
                break
        assert 1000 < i < 9_999
        again = ok(client.request("queue_get", {"queue": "q"}))
        for lease in (item["lease"], again["lease"]):
            ok(client.request("queue_ack", {"lease": lease}))
        refused(client.request("zeros", {"shape": [1]}), "out_of_memory")
        many = [{"op": "delete", "input": f"many/{i}"} for i in range(100)]
        batch = json.dumps({"operations": many}).encode()
        assert http.send("POST", "/v1/batch", batch).status == 200
        assert len(all_names(client)) == 2


def tensorctl(environment, *words):
    return subprocess.run([binary(), *words], env=environment, capture_output=True, timeout=60)


def test_nothing_is_left_over():
    """All kinds of what counts, and then the counters are what they were."""
    with open_daemon() as daemon, daemon.connect() as client:
        before = principals(client)
        with daemon.connect() as other:
            put(other, "a", bytes(100000), mutable=True)
            put(other, "small", b"x", mutable=True)
            for name in ("a", "small"):
                mapping = Mapping(other, name, write=True)
                mapping.close()
            memory = Filling(other, [100000])
            memory.unmap()
            ok(memory.publish("b"))
            unpublished = Filling(other, [10])
            fd = make_memfd(bytes(4096))
            ok(other.request("from_numpy", {"dtype": "uint8", "shape": [4], "output": "c"},
                             fds=[fd]))  # fmt: skip
            ok(other.request("seal", {"input": "a", "wait_ms": 0}))
            ok(other.request("rename", {"input": "b", "output": "c"}))
            ok(other.request("delete", {"input": "c"}))
            unpublished.close()
            os.close(fd)
            os.close(memory.fd)
        for name in ("a", "small"):
            ok(client.request("delete", {"input": name}))
        eventually(lambda: principals(client) == before, "all is as it was")
        assert before[ME]["bytes"][0] == 0
