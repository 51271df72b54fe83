"""Memory shared over the Unix socket: with a second process, both ways, and until it ends."""

import errno
import fcntl
import hashlib
import mmap
import os
import time

import pytest
from harness import (Mapping, Peer, daemon, get, local, make_memfd, ok, put,  # noqa: F401
                     refused)  # fmt: skip
from plain_client import PlainClient

BIG = 300000  # bytes: a memfd from the start
GONE_S = 1.0  # all that a client held is let go within a second


@pytest.fixture
def peer(daemon):
    with Peer(daemon.url) as running:
        yield running


def errno_of(action):
    with pytest.raises(OSError) as caught:
        action()
    return caught.value.errno


# ---- the daemon's memory, mapped by a client -----------------------------------------------------


def test_in_place_operations_show_in_another_process(daemon, local, peer):
    ok(local.request("zeros", {"output": "shared", "shape": [BIG // 4], "dtype": "int32"}))
    peer.run("m = Mapping(c, 'shared'); v = memoryview(m.view).cast('i')")
    assert peer.ask("[v[0], v[70000], m.reply['mode']]") == [0, 0, "mutable"]
    ok(local.request("fill_", {"input": "shared", "value": 7}))
    ok(local.request("setitem", {"input": "shared", "index": [70000], "value": -5}))
    assert peer.ask("[v[0], v[69999], v[70000], v[70001]]") == [7, 7, -5, 7]
    part = ok(local.request("getitem", {"input": "shared", "index": [slice(10, 20)]}))
    ok(local.request("fill_", {"input": f"@{part['id']}", "value": 1}))
    assert peer.ask("list(v[9:21])") == [7] + 10 * [1] + [7]
    ok(local.request("delete", {"input": "shared"}))
    assert peer.ask("v[0]") == 7  # the name is gone, the bytes are not


def test_writes_of_another_process_show_in_the_daemon(daemon, local, peer):
    ok(local.request("zeros", {"output": "written", "shape": [BIG // 4], "dtype": "int32"}))
    before = ok(local.request("info", {"input": "written"}))
    peer.run("m = Mapping(c, 'written', write=True); v = memoryview(m.view).cast('i'); v[3] = 99")
    peer.run("ok(c.request('touch', {'input': 'written'}))")
    assert list(memoryview(get(local, "written")).cast("i")[:5]) == [0, 0, 0, 99, 0]
    after = ok(local.request("info", {"input": "written"}))
    assert after["epoch"] == before["epoch"] + 1 and after["version"] > before["version"]
    ok(local.request("delete", {"input": "written"}))


def test_small_tensors_are_shared_when_mutable(local, peer):
    put(local, "small", b"\1\2\3\4", mutable=True)
    peer.run("m = Mapping(c, 'small', write=True)")
    peer.run("m.view[2] = 33")
    assert get(local, "small") == b"\1\2\x21\4"
    ok(local.request("fill_", {"input": "small", "value": 8}))
    assert peer.ask("list(m.view[:4])") == [8, 8, 8, 8]
    ok(local.request("delete", {"input": "small"}))


def test_small_frozen_tensors_come_as_a_body(local):
    put(local, "tiny", b"abc")
    status, fields, body, fds = local.request("map", {"input": "tiny"})
    assert (status, fields["memory"], fields["reason"]) == ("ok", "copied", "small")
    assert body == b"abc" and not fds and "lease" not in fields
    ok(local.request("delete", {"input": "tiny"}))


def test_over_tcp_everything_comes_as_a_body(daemon):
    with daemon.unchanged(), PlainClient(daemon.tcp_url) as client:
        body = os.urandom(BIG)
        put(client, "far", body, mutable=True)
        status, fields, got, fds = client.request("map", {"input": "far"})
        assert (status, fields["reason"], got, fds) == ("ok", "transport", body, [])
        refused(client.request("map", {"input": "far", "write": True}), "unsupported")
        refused(client.request("from_numpy", {"dtype": "uint8", "shape": [1],
                                              "require_shared": True}, b"x"), "unsupported")
        ok(client.request("delete", {"input": "far"}))


FROZEN = """
import mmap, os, fcntl
m = Mapping(c, 'frozen')
def attempt(action):
    try:
        action()
        return 'done'
    except (OSError, ValueError) as error:
        return type(error).__name__
"""


def test_the_kernel_refuses_writes_to_frozen_memory(daemon, local, peer):
    """Also through another opening of the file, and by whoever owns it."""
    body = os.urandom(BIG)
    put(local, "frozen", body)
    peer.run(FROZEN)
    assert peer.ask("m.reply['mode']") == "frozen"
    size = peer.ask("m.reply['storage_bytes']")
    shared = f"mmap.mmap(FD, {size}, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)"
    tries = [shared, "os.pwrite(FD, b'x', 0)", "os.ftruncate(FD, 0)",
             f"os.ftruncate(FD, {2 * size})",
             "fcntl.fcntl(FD, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)"]  # fmt: skip
    for code in tries:
        assert peer.ask(f"attempt(lambda: {code})".replace("FD", "m.fd")) != "done", code
    peer.run("again = attempt(lambda: globals().update(fd2=os.open(f'/proc/self/fd/{m.fd}', 2)))")
    if peer.ask("again") == "done":
        for code in tries:
            assert peer.ask(f"attempt(lambda: {code})".replace("FD", "fd2")) != "done", code
    private = "mmap.mmap(m.fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)"
    peer.run(f"p = {private}; p[0] = 255 - p[0]")  # writes that nobody else sees are fine
    assert peer.ask("hashlib.sha256(m.view[:300000]).hexdigest()") == digest(body)
    assert get(local, "frozen") == body
    refused(local.request("map", {"input": "frozen", "write": True}), "frozen")
    refused(local.request("fill_", {"input": "frozen", "value": 0}), "frozen")
    ok(local.request("delete", {"input": "frozen"}))


def digest(body):
    return hashlib.sha256(body).hexdigest()


def test_a_mapping_for_reading_cannot_write(local):
    ok(local.request("zeros", {"output": "readable", "shape": [BIG], "dtype": "uint8"}))
    mapping = Mapping(local, "readable")
    size = mapping.reply["storage_bytes"]
    writing = mmap.PROT_READ | mmap.PROT_WRITE
    assert errno_of(lambda: mmap.mmap(mapping.fd, size, mmap.MAP_SHARED, writing)) == errno.EACCES
    assert errno_of(lambda: os.pwrite(mapping.fd, b"x", 0)) == errno.EBADF
    seals = fcntl.fcntl(mapping.fd, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_SHRINK and seals & fcntl.F_SEAL_GROW
    assert os.fstat(mapping.fd).st_size >= size
    mapping.close()
    ok(local.request("delete", {"input": "readable"}))


# ---- the client's memory, given to the daemon ----------------------------------------------------


GIVE = """
fd = make_memfd(bytes(400000))
import mmap
mine = mmap.mmap(fd, 400000)
v = memoryview(mine).cast('f')
r = ok(c.request('from_numpy', {'output': 'mine', 'dtype': 'float32', 'shape': [100000]}, fds=[fd]))
"""


def test_a_client_sees_what_is_written_into_its_own_memory(daemon, local, peer):
    peer.run(GIVE)
    assert peer.ask("[r['memory'], r['mode'], r['storage_bytes']]") == ["shared", "mutable", 400000]
    ok(local.request("setitem", {"input": "mine", "index": [5], "value": 2.5}))
    assert peer.ask("[v[4], v[5]]") == [0.0, 2.5]
    peer.run("v[0] = 100")
    first = ok(local.request("getitem", {"input": "mine", "index": [0]}))
    assert ok(local.request("item", {"input": f"@{first['id']}"}))["value"].value == 100.0
    mapping = Mapping(local, "mine", write=True)  # a third view of the same pages
    mapping.view[4:8] = b"\0\0\x80\x3f"
    assert peer.ask("v[1]") == 1.0
    mapping.close()
    ok(local.request("delete", {"input": "mine"}))


def test_given_memory_outlives_its_giver(daemon, local):
    with Peer(daemon.url) as giver:
        giver.run(GIVE)
        giver.run("v[7] = 77")
        giver.kill()
    assert memoryview(get(local, "mine")).cast("f")[7] == 77.0
    ok(local.request("fill_", {"input": "mine", "value": 3}))
    ok(local.request("delete", {"input": "mine"}))


def test_the_same_memfd_is_the_same_storage(local):
    fd = make_memfd(bytes(80000))
    fields = {"dtype": "uint8", "shape": [80000]}
    first = ok(local.request("from_numpy", fields, fds=[fd]))
    second = ok(local.request("from_numpy", {**fields, "shape": [10], "offset_bytes": 4}, fds=[fd]))
    assert first["storage"] == second["storage"] and first["id"] != second["id"]
    status, mapped, _, (back,) = local.request("map", {"input": f"@{first['id']}"})
    again = ok(local.request("from_numpy", fields, fds=[back]))
    assert again["storage"] == first["storage"]
    os.close(fd)
    os.close(back)


def test_memory_that_may_not_be_written_is_frozen(local):
    fd = make_memfd(os.urandom(80000))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    reply = ok(local.request("from_numpy", {"dtype": "uint8", "shape": [80000]}, fds=[fd]))
    assert reply["mode"] == "frozen"
    refused(local.request("fill_", {"input": f"@{reply['id']}", "value": 1}), "frozen")
    refused(local.request("map", {"input": f"@{reply['id']}", "write": True}), "frozen")
    os.close(fd)


def test_another_file_of_the_same_inode_number_is_another_memory(daemon, local):
    """Inode numbers are of a filesystem: a file elsewhere with the number of somebody's memfd must
    not open that memory to whoever gives it."""
    secret = os.urandom(80000)
    with daemon.connect() as thief:
        for attempt in range(20):
            put(local, "victim", secret, mutable=True)
            mapping = Mapping(local, "victim")
            fd = file_of_inode(os.fstat(mapping.fd).st_ino)
            mapping.close()
            if fd is not None:
                break
        else:
            return  # this kernel's numbers cannot be brought together
        reply = thief.request("from_numpy", {"dtype": "uint8", "shape": [80000]}, fds=[fd])
        os.close(fd)
        if reply[0] == "ok":
            stolen = get(thief, f"@{reply[1]['id']}")
            assert stolen != secret, "the daemon gave away a tensor for a file's inode number"
        refused(reply, "invalid")
    ok(local.request("delete", {"input": "victim"}))


def file_of_inode(inode, tries=200000):
    """A file of that number on a tmpfs, which counts them up. None if it is past; then the next
    memfds have numbers that are not."""
    path = f"/dev/shm/tensord-inode-{os.getpid()}"
    for _ in range(tries):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.unlink(path)
        number = os.fstat(fd).st_ino
        if number == inode:
            return fd
        os.close(fd)
        if number > inode:
            raise_memfd_numbers(number, tries)
            return None
    return None


def raise_memfd_numbers(past, tries):
    for _ in range(tries):
        fd = os.memfd_create("number")
        number = os.fstat(fd).st_ino
        os.close(fd)
        if number > past + 3000:  # more than the kernel takes at a time for a processor
            return


# ---- the end of a lease --------------------------------------------------------------------------


def hold(peer, name):
    """Makes a peer hold everything that a session can."""
    peer.run(GIVE.replace("'output': 'mine', ", ""))
    peer.run(f"m = Mapping(c, {name!r}); n = Mapping(c, {name!r})")
    peer.run("o = ok(c.request('zeros', {'shape': [100000]}))")


@pytest.mark.threads
@pytest.mark.parametrize("end", ["release", "disconnect", "kill"])
def test_everything_a_client_held_is_let_go(daemon, local, end):
    put(local, "held", bytes(BIG), mutable=True)
    ok(local.request("map", {"input": "held"}))  # opens its descriptors, once
    local.close()
    daemon.quiet()
    before = daemon.state()
    with Peer(daemon.url) as peer:
        hold(peer, "held")
        now = daemon.stats()
        assert now["leases"] == 2 and now["objects"] == 2
        assert now["memory_used_bytes"] > before["memory"] + 2 * 400000 - 1
        begun = time.monotonic()
        if end == "release":
            peer.run("for x in (m, n): ok(c.request('release', {'lease': x.reply['lease']}))")
            peer.run("for x in (r, o): ok(c.request('release', {'input': '@%d' % x['id']}))")
            now = daemon.stats()
            assert (now["leases"], now["objects"]) == (0, 0)
            assert now["memory_used_bytes"] - now["memory_pool_bytes"] == before["memory"]
        peer.kill() if end == "kill" else peer.run("c.close()")
        daemon.settle(before, seconds=max(GONE_S - (time.monotonic() - begun), 0.1) + 0.5)
    with daemon.connect() as again:
        ok(again.request("delete", {"input": "held"}))


def test_a_lease_keeps_the_memory_of_a_deleted_name(daemon):
    with daemon.unchanged():
        with daemon.connect() as client:
            body = os.urandom(BIG)
            put(client, "leased", body, mutable=True)
            mapping = Mapping(client, "leased")
            used = daemon.stats()["memory_used_bytes"]
            ok(client.request("delete", {"input": "leased"}))
            for i in range(8):  # memory of the same size, which must not be this one
                put(client, f"other/{i}", bytes(BIG), mutable=True)
                ok(client.request("delete", {"input": f"other/{i}"}))
            assert mapping.view[:BIG] == body
            stats = daemon.stats()
            assert used - 2000 < stats["memory_used_bytes"] - stats["memory_pool_bytes"]
            lease = mapping.reply["lease"]
            ok(client.request("release", {"lease": lease}))
            assert mapping.view[:BIG] == body  # it stays readable: the bytes are the mapping's, too
            mapping.close()
