"""Allocate, fill and publish from Python; sealing; who holds what; how long leases live."""

import gc
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import tensord

DTYPES = [getattr(tensord, name) for name in
          "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64 "
          "float8_e4m3fn float8_e5m2 complex64 complex128".split()]  # fmt: skip


def settles(client, count, seconds=20):
    """Waits until so many leases are left."""
    deadline = time.monotonic() + seconds
    while len(client.leases()) != count:
        assert time.monotonic() < deadline, client.leases()
        time.sleep(0.01)


def alone(client, seconds=20):
    """Waits until no other session is left."""
    deadline = time.monotonic() + seconds
    while client.stats()["sessions"] > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_filled_with_numpy_nothing_is_copied(client, second):
    memory = client.allocate((300, 400))
    address = memory.array.ctypes.data
    assert memory.array.flags.writeable and not memory.array.any() and not memory.published
    memory.array[:] = np.arange(120000, dtype=np.float32).reshape(300, 400)
    x = memory.publish("filled")
    assert (x.memory, x.reason, x.mode) == ("shared", "", "frozen")
    assert x.id == memory.id and x.name == "filled" and x.generation > 0 and memory.published
    # The array is where it was, shows the same, and is read-only.
    assert memory.array.ctypes.data == address and memory.array[299, 399] == 119999
    assert not memory.array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        memory.array[0, 0] = 1
    assert second.ask("float(c['filled'].numpy()[299, 399])") == 119999
    assert second.ask("c['filled'].storage_id") == x.storage_id
    with pytest.raises(tensord.Frozen):
        x.fill_(1)


def test_filled_with_torch(client, second):
    memory = client.allocate((4, 5), torch.float16)
    view = memory.torch()
    view.copy_(torch.arange(20).reshape(4, 5))
    x = memory.publish("torch", requires_grad=True)
    assert isinstance(x, tensord.Variable) and x.requires_grad
    view[0, 0] = 99  # it stays in this process
    assert view[0, 0] == 99
    assert second.ask("c['torch'].detach().tolist()[0]") == [0, 1, 2, 3, 4]
    assert torch.equal(torch.tensor(x.tolist()), torch.arange(20.0).reshape(4, 5))


def test_filled_through_a_buffer(client):
    memory = client.allocate(10, "uint8")
    memory.memoryview()[:4] = b"abcd"
    np.asarray(memory)[4:] = 7
    assert np.asarray(memory) is memory.array
    assert np.array(memory, dtype="int16").tolist() == [97, 98, 99, 100] + [7] * 6
    assert memory.publish("buffer").tobytes() == b"abcd" + b"\7" * 6
    if sys.version_info >= (3, 12):
        assert bytes(client.allocate(3, "int8")) == bytes(3)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 0, 3), (50, 60, 7)], ids=str)
def test_dtypes_and_shapes(client, dtype, shape):
    pytest.importorskip("ml_dtypes")
    with client.allocate(shape, dtype) as memory:
        assert (memory.shape, memory.dtype) == (shape, dtype)
        memory.array[...] = np.ones(shape).astype(dtype.numpy)
        x = memory.publish("typed")
        assert memory.nbytes == x.nbytes == x.numel() * dtype.itemsize
    assert x.memory == "shared" and x.shape == shape and x.dtype == dtype
    assert (x.fetch("float64" if not dtype.is_complex else None) == 1).all()


def test_modes(client, second):
    memory = client.allocate(1000)
    x = memory.publish("single", "single-writer")
    assert x.mode == "single-writer" and memory.array.flags.writeable
    memory.array[3] = 5
    assert second.ask("float(c['single'].numpy()[3])") == 5
    with pytest.raises(AssertionError, match="read-only"):
        second.run("c['single'].numpy()[3] = 6")
    with pytest.raises(tensord.Frozen):
        x.fill_(1)
    memory = client.allocate(1000)
    x = memory.publish("mutable", "mutable")
    assert x.mode == "mutable"
    memory.array[3] = 5
    second.run("c['mutable'].numpy()[4] = 6")
    x[5] = 7
    assert memory.array[3:6].tolist() == [5, 6, 7]
    assert client.from_numpy(memory.array[3:]).storage_id == x.storage_id  # it is shareable now
    with pytest.raises(ValueError, match="mode"):
        client.allocate(3).publish("x", "building")


def test_what_fails_can_be_tried_again(client):
    client["taken"] = [1]
    with client.allocate(50000) as memory:
        memory.array[:] = 4
        with pytest.raises(tensord.Exists):
            memory.publish("taken", create_only=True)
        with pytest.raises(tensord.Precondition):
            memory.publish("taken", if_generation=1)
        with pytest.raises(tensord.Error):
            memory.publish("bad//name")
        assert memory.array[0] == 4 and not memory.published
        x = memory.publish("taken", if_generation=client.info("taken").generation, ttl=60)
        assert client.ttl("taken") > 50 and x[0].item() == 4
        with pytest.raises(tensord.Conflict, match="published already"):
            memory.publish("twice")
        assert memory.array[0] == 4


def test_a_refusal_before_the_seal_leaves_it_writable(client):
    memory = client.allocate(50000)
    with pytest.raises(tensord.Error):
        memory.publish("bad//name")
    assert memory.array.flags.writeable
    memory.array[7] = 8
    assert memory.publish("good")[7].item() == 8


def test_what_is_not_published_is_given_back(client, usage):
    before = usage.now()
    with client.allocate((1 << 20,)) as memory:
        memory.array[:] = 1
        assert usage.now()["bytes"] >= before["bytes"] + (4 << 20)
    usage.settles_at(before)
    with pytest.raises(ValueError, match="given back"):
        memory.array
    with pytest.raises(ValueError, match="given back"):
        memory.publish("x")
    assert "given back" in repr(memory)
    memory = client.allocate(1 << 20)
    rows = memory.array[5:]  # the last that shows it keeps it
    del memory
    gc.collect()
    assert usage.now()["leases"] == before["leases"] + 1
    rows[:] = 3
    del rows
    usage.settles_at(before)
    client.allocate(1000)
    usage.settles_at(before)


def test_a_killed_producer_gives_it_back(usage, second):
    before = usage.now()
    second.run("m = [c.allocate(1 << 18) for _ in range(20)]\nfor x in m: x.array[:] = 1")
    assert usage.now()["bytes"] >= before["bytes"] + (20 << 20)
    second.kill()
    usage.settles_at(before)


def test_not_over_tcp(tcp_client):
    with pytest.raises(tensord.Unsupported, match="Unix socket"):
        tcp_client.allocate(3)


@pytest.mark.threads
def test_many_threads_allocate_and_publish(daemon, client):
    def produce(index):
        for i in range(20):
            with client.allocate(30000, "int32") as memory:
                memory.array[:] = index * 100 + i
                memory.publish(f"threads/{index}/{i}")

    threads = [threading.Thread(target=produce, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(6):
        for i in range(20):
            values = client[f"threads/{index}/{i}"].numpy()
            assert values.min() == values.max() == index * 100 + i
    for name in client.list("threads/"):
        del client[name]


# ---- seal ----------------------------------------------------------------------------------------


def test_sealing_what_nobody_has_seen(client):
    x = client.zeros(100_000)
    assert x.seal() is x and (x.memory, x.mode) == ("shared", "frozen")
    named = client.put("seal/a", np.zeros(100_000), mutable=True)
    generation = named.generation
    assert named.seal() is named and client["seal/a"].id == named.id and named.memory == "shared"
    assert not named.numpy().flags.writeable
    again = client.seal("seal/a")
    assert again.id == named.id and again.memory == "shared" and generation > 0


def test_sealing_what_is_mapped(client):
    x = client.put("seal/b", np.zeros(100_000), mutable=True)
    array = x.numpy()
    array[0] = 1
    begun = time.monotonic()
    frozen = x.seal(wait=0.2)
    assert time.monotonic() - begun > 0.19
    assert frozen is not x and (frozen.memory, frozen.reason) == ("copied", "mode")
    assert frozen.mode == "frozen" and frozen.name == "seal/b" and client["seal/b"].id == frozen.id
    array[0] = 2
    assert frozen[0].item() == 1 and x[0].item() == 2
    copy = x[10:20].seal(wait=0)  # a view without a name
    assert copy.mode == "frozen" and copy.name is None and copy.shape == (10,)
    with pytest.raises(ValueError, match="wait"):
        x.seal(wait=-1)


def test_sealing_waits_until_the_array_is_gone(client):
    x = client.put("seal/c", np.zeros(100_000), mutable=True)
    arrays = [x.numpy()]
    threading.Timer(0.3, arrays.clear).start()
    begun = time.monotonic()
    frozen = client.seal("seal/c", wait=20)
    assert 0.2 < time.monotonic() - begun < 15 and frozen.mode == "frozen"


def test_a_handle_whose_name_moved_on_seals_its_own(client):
    x = client.put("seal/d", np.zeros(100_000), mutable=True)
    client["seal/d"] = [1, 2]
    assert x.seal() is x and x.mode == "frozen" and client["seal/d"].tolist() == [1, 2]


# ---- who holds what ------------------------------------------------------------------------------


def test_leases_are_listed(client):
    client["lease/x"] = np.zeros(100_000)
    array, x = client["lease/x"].numpy(), client["lease/x"]
    memory = client.allocate(100_000)
    read, fill = client.leases()
    assert isinstance(read, tensord.Lease)
    assert (read.kind, read.mode, read.storage) == ("read", "frozen", x.storage_id)
    assert (fill.kind, fill.mode) == ("fill", "building")
    assert read.pid == os.getpid() and read.uid == os.getuid() and read.ttl is None
    assert read.principal == f"uid:{os.getuid()}" and read.nbytes >= array.nbytes
    assert 0 <= read.age < 60 and not read.deleted
    del client["lease/x"], x
    assert client.leases()[0].deleted
    mine = client.principals()[f"uid:{os.getuid()}"]
    assert mine["deleted_bytes"]["used"] == 800_000 and mine["bytes"]["used"] >= 1_200_000
    assert mine["leases"]["used"] == 2 and mine["leases"]["limit"] > 2
    del array, memory
    settles(client, 0)


def test_many_leases_come_in_pages(client):
    x = client.zeros(100_000)
    arrays = [x.numpy() for _ in range(1100)]
    found = client.leases()
    assert len(found) == 1100 and len({lease.id for lease in found}) == 1100
    arrays.clear()
    settles(client, 0)


@pytest.mark.parametrize("mutable", [False, True])
def test_a_lease_ends_with_the_last_array_also_without_client(daemon, client, mutable):
    other = tensord.connect(daemon.url)
    x = other.put("last/x", np.full(100_000, 7.0), mutable=mutable)
    arrays = [x.numpy(), x.numpy()[5:], x.torch(), np.asarray(x), x.memoryview()]
    anonymous = other.ones(5)
    anonymous_id = anonymous.id
    count = len(client.leases())
    assert count >= 4 and client.stats()["objects"] >= 2
    del x
    other.close()
    del other
    gc.collect()
    # The leases are still there; what handles held is not.
    assert len(client.leases()) == count and anonymous_id
    deadline = time.monotonic() + 20
    while client.stats()["objects"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(tensord.ConnectionError):
        anonymous.tolist()
    while arrays:
        assert float(np.asarray(arrays[0]).flat[0]) == 7 or arrays[0].nbytes
        arrays.pop()
    settles(client, 0)
    alone(client)
    del client["last/x"]


def test_a_closed_client_without_arrays_is_gone_at_once(daemon, client):
    with tensord.connect(daemon.url) as other:
        other["gone/x"] = np.zeros(100_000)
        x = other["gone/x"]
        assert x.numpy().sum() == 0
    alone(client)
    assert x.shape == (100_000,)
    del client["gone/x"]


@pytest.mark.threads
def test_arrays_that_go_in_other_threads_after_close(daemon, client):
    other = tensord.connect(daemon.url)
    x = other.zeros(100_000)
    arrays = [x.numpy() for _ in range(64)]
    del x
    other.close()

    def drop():
        while arrays:
            try:
                arrays.pop()
            except IndexError:
                return

    threads = [threading.Thread(target=drop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    settles(client, 0)
    alone(client)


@pytest.mark.threads
def test_closing_while_others_call_keeps_the_arrays_leases(daemon, client):
    for _ in range(10):
        other = tensord.connect(daemon.url)
        x = other.zeros(100_000)
        array = x.numpy()
        stop = threading.Event()

        def call(other=other, stop=stop):
            while not stop.is_set():
                try:
                    other.zeros(10)
                except tensord.ConnectionError:
                    return

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        other.close()
        for thread in threads:
            thread.join()
        stop.set()
        assert len(client.leases()) == 1
        del array, x, other, call, threads
        gc.collect()
        settles(client, 0)


def test_the_end_of_a_program_that_holds_everything(daemon, client):
    """Interpreters end in an order of their own; the daemon is left with nothing, and the program
    does not hang or crash."""
    program = """if True:
        import sys, numpy as np, tensord
        c = tensord.connect(sys.argv[1])
        x = c.zeros(100_000); a = x.numpy(); t = x.torch()
        m = c.allocate(100_000); b = m.array
        d = tensord.connect(sys.argv[1]); e = d.zeros(100_000).numpy(); d.close()
        class Ring: pass
        r = Ring(); r.r, r.a = r, [a, b, e]
    """
    done = subprocess.run([sys.executable, "-c", program, daemon.url], capture_output=True,
                          text=True, timeout=120)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    settles(client, 0)
