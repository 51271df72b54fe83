"""Allocate, fill, publish: nothing is copied, and nobody can change it afterwards; and seal."""

import mmap
import os
import threading
import time

import plain_client as plain
import pytest
from harness import (SMALL, Daemon, Filling, Mapping, Peer, daemon, eventually, get,  # noqa: F401
                     leases, local, ok, put, refused)  # fmt: skip
from plain_client import PlainClient

SIZE = 300000
SIZES = {"bool": 1, "int8": 1, "uint8": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "float16": 2,
         "bfloat16": 2, "int16": 2, "uint16": 2, "float32": 4, "int32": 4, "uint32": 4,
         "float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "complex128": 16}  # fmt: skip


def filled(client, body, **fields):
    memory = Filling(client, [len(body)], **fields)
    memory.view[: len(body)] = body
    return memory


def done(client, *names):
    for name in names:
        client.request("delete", {"input": name})
    ok(client.request("release", {"force": True}))


# ---- publish -------------------------------------------------------------------------------------


def test_nothing_is_copied(daemon, local):
    body = os.urandom(SIZE)
    memory = filled(local, body)
    before = daemon.stats()["memory_used_bytes"]
    inode = os.fstat(memory.fd).st_ino
    memory.unmap()
    reply = ok(memory.publish("x"))
    assert (reply["memory"], reply["mode"], reply["name"]) == ("shared", "frozen", "x")
    assert reply["storage"] == memory.reply["storage"] and reply["id"] == memory.reply["id"]
    mapping = Mapping(local, "x")
    assert os.fstat(mapping.fd).st_ino == inode and mapping.view[:SIZE] == body
    assert daemon.stats()["memory_used_bytes"] - before < 5000
    mapping.close()
    os.close(memory.fd)
    done(local, "x")


def test_memory_comes_zeroed(daemon, local):
    """Also where it was somebody else's before, out of the pool."""
    put(local, "was", b"\xff" * SIZE)
    ok(local.request("delete", {"input": "was"}))
    memory = Filling(local, [SIZE])
    assert memory.view[:] == bytes(memory.reply["storage_bytes"])
    assert (memory.reply["mode"], memory.reply["memory"]) == ("building", "shared")
    memory.close()
    ok(local.request("release", {"force": True}))


@pytest.mark.parametrize("dtype", plain.DTYPES.values())
@pytest.mark.parametrize("shape", [[], [3], [0], [2, 0, 5], [7, 11], [40, 60, 30]])
def test_every_dtype_and_shape(local, dtype, shape):
    count = 1
    for n in shape:
        count *= n
    memory = Filling(local, shape, dtype)
    assert memory.reply["dtype"] == dtype and memory.reply["shape"] == shape
    body = bytes(i % 2 for i in range(count * SIZES[dtype]))
    if memory.view:
        memory.view[: len(body)] = body
    memory.unmap()
    reply = ok(memory.publish("typed"))
    assert reply["memory"] == "shared" and reply["shape"] == shape
    assert get(local, "typed") == body
    os.close(memory.fd)
    done(local, "typed")


def test_who_keeps_its_mapping_is_waited_for(local):
    body = os.urandom(SIZE)
    memory = filled(local, body)
    begun = time.monotonic()
    reply = ok(memory.publish("x", wait_ms=200))
    assert 0.18 < time.monotonic() - begun < 5
    assert (reply["memory"], reply["reason"], reply["mode"]) == ("copied", "mode", "frozen")
    assert reply["storage"] != memory.reply["storage"]
    memory.view[:4] = b"late"  # it has its own memory still, which nobody else sees
    assert get(local, "x") == body
    refused(local.request("get", {"input": memory.ref}), "conflict", text="not published")
    memory.unmap()
    again = ok(memory.publish("y"))  # what it has written since
    assert again["memory"] == "shared" and get(local, "y") == b"late" + body[4:]
    os.close(memory.fd)
    done(local, "x", "y")


def test_letting_go_ends_the_wait(local):
    memory = filled(local, bytes(SIZE))
    request = local.send("publish", {"input": memory.ref, "output": "x", "wait_ms": 20000})
    time.sleep(0.2)
    begun = time.monotonic()
    memory.unmap()
    reply = ok(local.wait(request))
    assert reply["memory"] == "shared" and time.monotonic() - begun < 5
    os.close(memory.fd)
    done(local, "x")


def test_a_copy_can_become_mutable_later(local):
    """A publish that did not freeze the memory has not taken it from the daemon, either."""
    memory = filled(local, bytes(SIZE))
    assert ok(memory.publish("x", wait_ms=0))["memory"] == "copied"
    reply = ok(memory.publish("y", mode="mutable"))
    assert (reply["memory"], reply["mode"]) == ("shared", "mutable")
    ok(local.request("fill_", {"input": "y", "value": 5}))
    assert memory.view[0] == 5 and get(local, "x") == bytes(SIZE)
    memory.close()
    done(local, "x", "y")


def test_conditions_and_what_can_be_tried_again(local):
    put(local, "taken", b"old")
    memory = filled(local, b"new" * 50000)
    memory.unmap()
    refused(memory.publish("taken", create_only=True), "exists")
    generation = ok(local.request("info", {"input": "taken"}))["generation"]
    refused(memory.publish("taken", if_generation=generation + 1), "precondition")
    assert get(local, "taken") == b"old"
    reply = ok(memory.publish("taken", if_generation=generation, ttl_ms=60000, requires_grad=True))
    assert reply["memory"] == "shared" and reply["requires_grad"] and reply["is_leaf"]
    assert reply["generation"] > generation and reply["ttl_ms"] == 60000
    refused(memory.publish("again"), "conflict", text="published already")
    refused(memory.publish("again", mode="mutable"), "conflict", text="frozen")
    refused(memory.publish("again", mode="building"), "invalid", text="single-writer")
    os.close(memory.fd)
    done(local, "taken")


def test_what_is_not_published_is_nobody_elses(daemon, local):
    memory = filled(local, bytes(SIZE))
    for op in ("get", "as_tensor", "clone", "detach", "print", "seal", "numpy", "contiguous"):
        refused(local.request(op, {"input": memory.ref}), "conflict", text="not published")
    refused(local.request("fill_", {"input": memory.ref, "value": 1}), "conflict")
    refused(local.request("copy", {"input": memory.ref, "output": "x"}), "conflict")
    put(local, "m", bytes(SIZE), mutable=True)
    refused(local.request("copy_", {"input": "m", "other": memory.ref}), "conflict")
    refused(local.request("map", {"input": memory.ref}), "conflict")
    assert ok(local.request("info", {"input": memory.ref}))["mode"] == "building"
    # Nor through its descriptor.
    fields = {"dtype": "uint8", "shape": [SIZE], "output": "stolen"}
    refused(local.request("from_numpy", fields, fds=[memory.fd]), "conflict", text="not published")
    with daemon.connect() as other:
        refused(other.request("publish", {"input": memory.ref, "output": "x"}), "not_found")
        refused(other.request("info", {"input": memory.ref}), "not_found")
    assert local.request("info", {"input": "stolen"})[0] == "not_found"
    again = local.request("map", {"input": memory.ref, "write": True})
    assert ok(again)["mode"] == "building"
    os.close(again[3][0])
    memory.close()
    done(local, "m")


def test_what_was_not_allocated_cannot_be_published(local):
    put(local, "p", b"x", mutable=True)
    refused(local.request("publish", {"input": "p", "output": "q"}), "conflict", text="published")
    refused(local.request("publish", {"input": "p"}), "invalid", text="output")
    done(local, "p")


def test_only_over_the_unix_socket(daemon):
    with daemon.unchanged(), PlainClient(daemon.tcp_url) as client:
        refused(client.request("allocate", {"dtype": "uint8", "shape": [5]}), "unsupported",
                text="put")  # fmt: skip


@pytest.mark.threads
@pytest.mark.parametrize("end", ["release", "close", "kill"])
def test_what_is_not_published_goes_with_its_maker(daemon, end):
    with daemon.unchanged():
        with Peer(daemon.url) as peer:
            before = daemon.stats()["memory_used_bytes"]
            peer.run("f = [Filling(c, [2000000]) for _ in range(20)]")
            peer.run("for x in f: x.view[:3] = b'abc'")
            assert daemon.stats()["memory_used_bytes"] - before >= 40000000
            if end == "release":
                peer.run("for x in f: x.close(); ok(c.request('release', {'input': x.ref})); "
                         "ok(c.request('release', {'lease': x.reply['lease']}))")  # fmt: skip
            peer.kill() if end == "kill" else peer.run("c.close()")
            eventually(lambda: daemon.stats()["memory_used_bytes"] - before < 100000, "it is back")


def test_a_refused_object_leaves_no_lease(daemon):
    with Daemon(*SMALL, "--max-objects", "1") as small, small.connect() as client:
        first = Filling(client, [SIZE])
        refused(client.request("allocate", {"dtype": "uint8", "shape": [SIZE]}), "out_of_memory",
                text="max-objects")  # fmt: skip
        assert len(leases(client)) == 1
        first.close()


@pytest.mark.threads
def test_two_publish_at_once(daemon):
    """Over two connections of a session: one does it, the other is told, nobody is hurt."""
    with daemon.connect() as one, daemon.connect(session_key=one.welcome["session_key"]) as two:
        for _ in range(50):
            memory = Filling(one, [SIZE])
            memory.unmap()
            ids = [c.send("publish", {"input": memory.ref, "output": f"n{i}", "mode": mode})
                   for i, (c, mode) in enumerate([(one, "frozen"), (two, "mutable")])]  # fmt: skip
            mapped = two.request("map", {"input": memory.ref, "write": True})
            statuses = [c.wait(n)[0] for c, n in zip((one, two), ids)]
            assert sorted(statuses) == ["conflict", "ok"], statuses
            assert mapped[0] in ("ok", "conflict", "frozen")
            for fd in mapped[3]:
                os.close(fd)
            os.close(memory.fd)
            ok(one.request("release", {"force": True}))
            if mapped[0] == "ok":
                ok(one.request("release", {"lease": mapped[1]["lease"]}))
            ok(one.request("release", {"lease": memory.reply["lease"]}))
        done(one, "n0", "n1")


# ---- seal ----------------------------------------------------------------------------------------


def test_what_nobody_has_seen_is_frozen_where_it_is(local):
    first = put(local, "s", os.urandom(SIZE), mutable=True)
    reply = ok(local.request("seal", {"input": "s"}))
    assert (reply["memory"], reply["mode"], reply["name"]) == ("shared", "frozen", "s")
    assert reply["storage"] == first["storage"] and reply["generation"] == first["generation"]
    refused(local.request("fill_", {"input": "s", "value": 0}), "frozen")
    again = ok(local.request("seal", {"input": "s"}))  # it is already
    assert again["generation"] == first["generation"] and again["memory"] == "shared"
    named = ok(local.request("seal", {"input": "s", "output": "t", "create_only": True}))
    assert named["name"] == "t" and named["id"] == first["id"]
    done(local, "s", "t")


def test_an_anonymous_tensor_can_be_sealed(local):
    made = ok(local.request("zeros", {"shape": [100000]}))
    reply = ok(local.request("seal", {"input": f"@{made['id']}"}))
    assert reply["id"] == made["id"] and reply["mode"] == "frozen" and "name" not in reply
    for _ in range(2):  # it was handed out twice
        ok(local.request("release", {"input": f"@{made['id']}"}))
    refused(local.request("info", {"input": f"@{made['id']}"}), "not_found")


def test_writers_are_waited_for_and_then_left_behind(local):
    body = os.urandom(SIZE)
    first = put(local, "w", body, mutable=True, ttl_ms=60000, requires_grad=True)
    writer = Mapping(local, "w", write=True)
    begun = time.monotonic()
    reply = ok(local.request("seal", {"input": "w", "wait_ms": 300}))
    assert 0.28 < time.monotonic() - begun < 5
    assert (reply["memory"], reply["reason"], reply["mode"]) == ("copied", "mode", "frozen")
    assert reply["name"] == "w" and reply["generation"] > first["generation"]
    assert reply["requires_grad"] and 0 < reply["ttl_ms"] <= 60000
    writer.view[:4] = b"late"
    assert get(local, "w") == body
    writer.close()
    done(local, "w")


def test_the_last_writer_ends_the_wait(daemon, local):
    put(local, "w", bytes(SIZE), mutable=True)
    with Peer(daemon.url) as peer:
        peer.run("a = Mapping(c, 'w', write=True); b = Mapping(c, 'w', write=True)")
        took = []

        def seal():
            begun = time.monotonic()
            with daemon.connect() as other:
                reply = ok(other.request("seal", {"input": "w", "wait_ms": 8000}))
            took.append((time.monotonic() - begun, reply["memory"]))

        thread = threading.Thread(target=seal)
        thread.start()
        time.sleep(0.3)
        peer.run("a.view[0] = 1; ok(c.request('release', {'lease': a.reply['lease']}))")
        time.sleep(0.3)
        assert thread.is_alive()
        peer.run("b.view[1] = 2; ok(c.request('release', {'lease': b.reply['lease']}))")
        thread.join()
    # Its memory was seen, so it is copied; but no later than need be, with all that was written.
    (seconds, memory), = took
    assert 0.5 < seconds < 5 and memory == "copied" and get(local, "w")[:3] == b"\1\2\0"
    done(local, "w")


def test_a_deadline_ends_the_wait(local):
    put(local, "w", bytes(SIZE), mutable=True)
    writer = Mapping(local, "w", write=True)
    begun = time.monotonic()
    reply = ok(local.request("seal", {"input": "w", "wait_ms": 20000, "timeout_ms": 200}))
    assert reply["memory"] == "copied" and time.monotonic() - begun < 5
    writer.close()
    done(local, "w")


def test_a_name_that_was_replaced_meanwhile_is_left_alone(daemon, local):
    put(local, "w", bytes(SIZE), mutable=True)
    writer = Mapping(local, "w", write=True)
    request = local.send("seal", {"input": "w", "wait_ms": 400})
    time.sleep(0.1)
    with daemon.connect() as other:
        put(other, "w", b"new")
    refused(local.wait(request), "precondition")
    assert get(local, "w") == b"new"
    writer.close()
    done(local, "w")


def test_who_hangs_up_while_it_waits(daemon):
    with daemon.unchanged():
        with daemon.connect() as client:
            put(client, "w", bytes(SIZE), mutable=True)
            writer = Mapping(client, "w", write=True)
            for _ in range(10):
                with daemon.connect() as other:
                    other.send("seal", {"input": "w", "wait_ms": 60000})
            writer.close()
            done(client, "w")


def test_memory_that_is_a_view_of_seen_memory(local):
    """Freezing a view would freeze all of it."""
    put(local, "whole", bytes(range(200)) * 1500, mutable=True)
    part = ok(local.request("getitem", {"input": "whole", "index": [slice(10, 20)]}))
    writer = Mapping(local, "whole", write=True)
    reply = ok(local.request("seal", {"input": f"@{part['id']}", "wait_ms": 0}))
    assert reply["memory"] == "copied" and get(local, f"@{reply['id']}") == bytes(range(10, 20))
    assert ok(local.request("info", {"input": "whole"}))["mode"] == "mutable"
    writer.close()
    done(local, "whole")


def test_mapped_for_writing_by_hand(local):
    """A descriptor that was kept maps anew, until the memory is published: then it cannot."""
    memory = Filling(local, [SIZE])
    memory.unmap()
    mapped = mmap.mmap(memory.fd, SIZE)
    mapped[:3] = b"abc"
    mapped.close()
    assert ok(memory.publish("x"))["memory"] == "shared"
    with pytest.raises(PermissionError):
        mmap.mmap(memory.fd, SIZE)
    assert get(local, "x")[:3] == b"abc"
    os.close(memory.fd)
    done(local, "x")
