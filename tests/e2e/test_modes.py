"""Modes of memory, and that the kernel keeps them: against whoever holds a descriptor, of the
daemon's own user (root, here) and of another one. See attacks.py for what is tried."""

import fcntl
import hashlib
import mmap
import os

import attacks
import pytest
from harness import (OPEN, OTHER_UID, SMALL, Daemon, Filling, Mapping, Peer, as_root, get,
                     make_memfd, ok, put, refused)  # fmt: skip

SIZE = 300000
BODY = os.urandom(SIZE)
FUTURE_WRITE = 0x10  # F_SEAL_FUTURE_WRITE, which Python's fcntl may not have
USERS = [pytest.param(None, id="same user"),
         pytest.param(OTHER_UID, id="other user", marks=as_root)]  # fmt: skip


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL, *OPEN) as running:
        yield running


@pytest.fixture
def local(daemon):
    with daemon.connect() as connected:
        yield connected
    daemon.quiet()


@pytest.fixture(params=USERS)
def adversary(request, daemon):
    with Peer(daemon.url, request.param) as peer:
        yield peer


# ---- ways to get a tensor named "target" with the bytes of BODY ----------------------------------


def stored(local):
    put(local, "target", BODY)


def filled(mode):
    def make(local):
        memory = Filling(local, [SIZE])
        memory.view[:SIZE] = BODY
        if mode == "frozen":
            memory.unmap()
        reply = ok(memory.publish("target", mode=mode))
        assert (reply["memory"], reply["mode"]) == ("shared", mode)
        return memory

    return make


def given(local):
    """The client's own memory, that only it can write to."""
    memory = Filling.__new__(Filling)
    memory.fd = make_memfd(BODY)
    memory.view = mmap.mmap(memory.fd, SIZE)
    fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, FUTURE_WRITE | fcntl.F_SEAL_SEAL)
    reply = ok(local.request("from_numpy", {"output": "target", "dtype": "uint8", "shape": [SIZE]},
                             fds=[memory.fd]))  # fmt: skip
    assert (reply["memory"], reply["mode"]) == ("shared", "single-writer")
    return memory


def sealed(local):
    put(local, "target", BODY, mutable=True)
    assert ok(local.request("seal", {"input": "target"}))["memory"] == "shared"


def sealed_copy(local):
    put(local, "target", BODY, mutable=True)
    memory = Mapping(local, "target", write=True)
    reply = ok(local.request("seal", {"input": "target", "wait_ms": 0}))
    assert (reply["memory"], reply["reason"], reply["mode"]) == ("copied", "mode", "frozen")
    memory.view[:10] = b"too late.."
    return memory


FROZEN = {"stored": stored, "filled": filled("frozen"), "sealed": sealed,
          "sealed copy": sealed_copy}  # fmt: skip
SINGLE_WRITER = {"filled": filled("single-writer"), "given": given}


def attacked(peer, daemon):
    """Lets the peer try everything, also on the daemon's own descriptors; what it got through."""
    peer.run("m = Mapping(c, 'target')")
    tried, done = peer.ask("attacks.attack(m.fd, m.reply['storage_bytes'])")
    assert len(tried) >= 40
    # The daemon's own opening of the same file, by who may look into its /proc.
    peer.run(f"""
mine = os.fstat(m.fd)
theirs = []
try:
    for n in os.listdir('/proc/{daemon.pid}/fd'):
        path = '/proc/{daemon.pid}/fd/' + n
        try:
            info = os.stat(path)
        except OSError:
            continue
        if (info.st_ino, info.st_dev) == (mine.st_ino, mine.st_dev):
            theirs += attacks.reopened(path).values()
except OSError:
    pass
more = [attacks.attack(fd, m.reply['storage_bytes'])[1] for fd in theirs]
""")
    return done + peer.ask("sum(more, [])")


@pytest.mark.parametrize("source", FROZEN)
def test_nobody_changes_frozen_memory(daemon, local, adversary, source):
    memory = FROZEN[source](local)
    before = ok(local.request("info", {"input": "target"}))
    assert before["mode"] == "frozen"
    assert attacked(adversary, daemon) == []
    assert get(local, "target") == BODY
    assert adversary.ask("hashlib.sha256(m.view[:300000]).digest().hex()") == sha(BODY)
    in_place_is_refused(local, before)
    finish(local, memory)


@pytest.mark.parametrize("source", SINGLE_WRITER)
def test_only_the_writer_changes_single_writer_memory(daemon, local, adversary, source):
    memory = SINGLE_WRITER[source](local)
    before = ok(local.request("info", {"input": "target"}))
    assert before["mode"] == "single-writer"
    assert attacked(adversary, daemon) == []
    assert get(local, "target") == BODY
    in_place_is_refused(local, before)
    memory.view[7] ^= 0xFF  # the writer goes on
    changed = BODY[:7] + bytes([BODY[7] ^ 0xFF]) + BODY[8:]
    assert get(local, "target") == changed
    assert adversary.ask("hashlib.sha256(m.view[:300000]).digest().hex()") == sha(changed)
    refused(adversary_map(adversary), "frozen")
    # But not in a new way: its right is the mapping that it has.
    reader = Mapping(local, "target")
    assert attacks.attack(reader.fd, reader.reply["storage_bytes"])[1] == []
    assert attacks.attack(memory.fd, reader.reply["storage_bytes"])[1] == []
    assert get(local, "target") == changed
    reader.close()
    finish(local, memory)


def adversary_map(peer):
    status, fields = peer.ask("c.request('map', {'input': 'target', 'write': True})[:2]")
    return status, fields, b"", []


def in_place_is_refused(client, before):
    """Every operation that would change the bytes in place, and nothing has changed."""
    was = get(client, "target")
    for op, fields in [("fill_", {"value": 1}), ("copy_", {"other": "target"}),
                       ("setitem", {"index": [0], "value": 1})]:  # fmt: skip
        refused(client.request(op, {"input": "target", **fields}), "frozen", text=before["mode"])
    part = ok(client.request("getitem", {"input": "target", "index": [slice(0, 5)]}))
    refused(client.request("fill_", {"input": f"@{part['id']}", "value": 1}), "frozen")
    refused(client.request("map", {"input": "target", "write": True}), "frozen")
    after = ok(client.request("info", {"input": "target"}))
    assert (after["epoch"], after["version"]) == (before["epoch"], before["version"])
    assert get(client, "target") == was


def sha(body):
    return hashlib.sha256(body).hexdigest()


def finish(client, memory):
    if memory:
        memory.close()
    ok(client.request("delete", {"input": "target"}))


def test_a_reader_of_mutable_memory_is_no_reader_for_ever(daemon, local):
    """Why a frozen tensor is not made of memory that was seen: its reader can open it again."""
    put(local, "target", BODY, mutable=True)
    with Peer(daemon.url) as peer:
        peer.run("m = Mapping(c, 'target')\nfd = os.open(f'/proc/self/fd/{m.fd}', os.O_RDWR)")
        peer.run("os.pwrite(fd, b'changed', 0)")
    assert get(local, "target")[:7] == b"changed"
    assert ok(local.request("seal", {"input": "target"}))["memory"] == "copied"
    ok(local.request("delete", {"input": "target"}))


@pytest.mark.parametrize("mode", ["frozen", "single-writer", "mutable"])
def test_the_seals_of_a_mode(local, mode):
    memory = filled(mode)(local)
    reader = Mapping(local, "target")
    wanted = {"frozen": fcntl.F_SEAL_WRITE, "single-writer": FUTURE_WRITE, "mutable": 0}[mode]
    wanted |= fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    assert fcntl.fcntl(reader.fd, fcntl.F_GET_SEALS) == wanted
    assert fcntl.fcntl(reader.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    assert os.fstat(reader.fd).st_mode & 0o777 == 0o600
    reader.close()
    finish(local, memory)


def test_mutable_memory_that_was_filled(daemon, local):
    """All may write: the daemon, the one who filled it, and a third."""
    memory = filled("mutable")(local)
    with Peer(daemon.url) as peer:
        peer.run("m = Mapping(c, 'target', write=True); m.view[0] = 1")
        memory.view[1] = 2
        ok(local.request("setitem", {"input": "target", "index": [2], "value": 3}))
        assert get(local, "target")[:3] == bytes(memory.view[:3]) == b"\1\2\3"
        assert peer.ask("list(m.view[:3])") == [1, 2, 3]
    finish(local, memory)


def test_the_attacks_are_real():
    """On memory that nothing protects they go through, so that a refusal means something."""
    fd = make_memfd(BODY, sealed=False)
    done = [name for name, act in attacks.with_descriptor(fd, SIZE).items()
            if attacks.result_of(act) == "done"]  # fmt: skip
    os.close(fd)
    assert {"pwrite", "truncate", "grow", "punch", "sendfile", "copy_file_range", "splice", "map",
            "mprotect", "mremap", "remove, writable"} <= set(done)  # fmt: skip


def test_a_name_gets_no_more_time_by_waiting_to_be_sealed(local):
    put(local, "target", BODY, mutable=True, ttl_ms=60000)
    mapping = Mapping(local, "target", write=True)
    reply = ok(local.request("seal", {"input": "target", "wait_ms": 1500}))
    assert reply["memory"] == "copied" and reply["ttl_ms"] <= 58500
    mapping.close()
    ok(local.request("delete", {"input": "target"}))
