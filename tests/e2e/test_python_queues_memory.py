"""Arrays of a queue's items: what they show stays what it was, and the memory goes with them."""

import gc
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import tensord

BIG = 20_000  # float64


def wait_until(condition, what=""):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@pytest.fixture
def q(client):
    made = client.queue("memory", maxsize=4)
    yield made
    made.delete()


def refill(q, turns=20):
    """What the producer does meanwhile: all its memory is filled again, many times."""
    for i in range(turns):
        with q.allocate(BIG, "float64") as segment:
            segment.array[:] = -1 - i
            q.put(segment)
        with q.get() as item:
            assert (item.numpy() == -1 - i).all()


SHOW = {
    "numpy": lambda item: item.numpy(),
    "a view": lambda item: item.numpy()[1:].T,
    "asarray": lambda item: np.asarray(item),
    "asarray of the tensor": lambda item: np.asarray(item[0]),
    "torch": lambda item: item.torch(),
    "torch view": lambda item: item.torch()[5:],
    "NumPy's DLPack": lambda item: np.from_dlpack(item),
    "PyTorch's DLPack": lambda item: torch.from_dlpack(item),
    "memoryview": lambda item: item.tensor.memoryview(),
    "numpy(force=True)": lambda item: item.tensor.numpy(force=True),
    "a handle on it": lambda item: item._client.as_tensor(item[0]).numpy(),
    "a view in the daemon": lambda item: item[0][3:].numpy(),
    "detached": lambda item: item[0].detach().numpy(),
}


@pytest.mark.parametrize("how", SHOW)
@pytest.mark.parametrize("end", ["done", "retry", "del", "visibility"])
def test_an_array_stays_what_it_was(client, how, end):
    visibility = 0.1 if end == "visibility" else 300
    q = client.queue(f"memory/stays/{end}", maxsize=4, visibility=visibility)
    with q.allocate(BIG, "float64") as segment:
        segment.array[:] = 7
        q.put(segment)
    item = q.get()
    shown = SHOW[how](item)
    if end == "visibility":
        time.sleep(0.15)
        q.get().done()
    elif end != "del":
        getattr(item, end)()
    del item
    if end == "retry":
        wait_until(lambda: q.qsize() or q.info()["in_flight"])
        q.drain()
    refill(q)
    values = np.asarray(shown)
    assert (values == 7).all(), (how, end, values)
    del shown, values
    gc.collect()
    q.delete()


def test_an_array_outlives_queue_and_client(daemon, usage):
    before = usage.now()
    client = tensord.connect(daemon.url)
    q = client.queue("memory/outlives")
    q.put(np.full(BIG, 7))
    item = q.get()
    first, second = item.numpy(), item.torch()
    item.done()
    q.delete()
    client.close()
    del item, q, client
    gc.collect()
    assert (first == 7).all() and (second == 7).all()
    assert usage.now()["leases"] > before["leases"]
    del first
    gc.collect()
    assert (second == 7).all()
    del second
    gc.collect()
    usage.settles_at(before)


def test_the_lease_goes_with_the_last_array(client, usage):
    q = client.queue("memory/lease")
    q.put(np.zeros(BIG))

    def items():
        return sum(lease.kind == "item" for lease in client.leases())

    item = q.get()
    arrays = [item.numpy()[1:], item.torch(), item.tensor.memoryview()]
    item.done()
    del item
    for left in range(len(arrays), 0, -1):
        gc.collect()
        assert len(arrays) == left and items() == 1
        arrays.pop()
    wait_until(lambda: items() == 0)
    q.delete()


def test_the_memory_behind_a_name_is_not_filled_again(client, q, second):
    """What is put under a name is there as long as anybody maps it, also after a replacement."""
    with q.allocate(BIG, "float64") as segment:
        segment.array[:] = 7
        q.put(segment)
    with q.get() as item:
        client["memory/named"] = item[0]
    second.run("array = c['memory/named'].numpy()")
    mine = client["memory/named"].numpy()
    client["memory/named"] = np.zeros(3)
    refill(q)
    assert (mine == 7).all() and second.ask("bool((array == 7).all())")
    del client["memory/named"]


def test_a_producer_that_gets_its_own_item_cannot_write_to_it_either(daemon, client):
    """Not even by accident, as through PyTorch: another consumer may read the same memory."""
    code = """
import ctypes, sys, numpy as np, tensord
q = tensord.connect(sys.argv[1]).queue("memory/own")
for i in range(2):                       # of new and of recycled memory
    q.put(np.full(20_000, i))
    item = q.get()
    assert (item.numpy() == i).all()
    item.done() if i == 0 else None
print("got it", flush=True)
ctypes.memset(item.numpy().ctypes.data, 9, 1)
print("wrote")
"""
    done = subprocess.run([sys.executable, "-c", code, daemon.url], capture_output=True, text=True)
    assert done.returncode == -signal.SIGSEGV and done.stdout == "got it\n", done
    client.queue("memory/own").delete()


def test_nobody_else_sees_a_write(client, q, second):
    second.run("q = c.queue('memory')")
    with q.allocate(BIG, "float64") as segment:
        array = segment.array
        array[:] = 7
        q.put(segment)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="put"):
        segment.array
    second.run("item = q.get(); a = item.numpy(); t = item.torch(); t[:] = 1")
    for write in ("a[0] = 1", "a.flags.writeable = True", "item.tensor.memoryview()[0] = 1"):
        with pytest.raises(AssertionError, match="(?i)read-only|writeable|writable"):
            second.run(write)
    with pytest.raises(AssertionError, match="Frozen"):
        second.run("item[0].fill_(1)")
    assert second.ask("bool((a == 7).all() and (t == 1).all())") and (array == 7).all()
    second.run("del a, t; item.retry(); del item")
    wait_until(lambda: q.qsize() == 1)
    with q.get() as item:
        assert (item.numpy() == 7).all() and item.deliveries == 2
        item.torch().fill_(2)
        assert (item.numpy() == 7).all()


def test_segments_that_were_not_put_come_back(client, usage):
    q = client.queue("memory/back", maxsize=2)
    for _ in range(50):
        with q.allocate(BIG):
            pass
        segment = q.allocate(BIG)
        del segment
    assert q.info()["segments"] == 1
    with pytest.raises(ValueError, match="given back"):
        with q.allocate(BIG) as segment:
            pass
        segment.array
    q.delete()


# ---- what a hand-over costs ----------------------------------------------------------------------

CONSUMER = """
import os, resource, numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def consume(turns):
    for _ in range(turns):
        with q.get(timeout=60) as item:
            item.numpy()[::4096].sum()
def measure(turns):
    before = faults()
    consume(turns)
    return faults() - before
"""


def produce(q, turns, size):
    for i in range(turns):
        with q.allocate(size, "uint8", timeout=60) as segment:
            segment.array[::4096] = i % 256
            q.put(segment)


def test_no_page_faults_in_the_steady_state(client, second):
    q, size = client.queue("memory/faults", maxsize=2), 16 << 20
    second.run("q = c.queue('memory/faults')")
    second.run(CONSUMER)

    def hand_over(turns):
        import threading

        maker = threading.Thread(target=produce, args=(q, turns, size))
        maker.start()
        found = second.ask(f"measure({turns})")
        maker.join(60)
        return found

    hand_over(20)  # each segment is seen for the first time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    theirs = hand_over(40)
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(f"\nfaults of 40 hand-overs of 16 MiB: the consumer's {theirs}, the producer's {mine}")
    assert theirs < 400 and mine < 800  # Python's own; 4096 pages each would be 160,000
    q.delete()


def test_a_queue_object_for_each_call_costs_no_page_faults_either(daemon, usage):
    """Each would map the memory anew, and fault it in."""
    before, values = usage.now(), np.zeros(1 << 20, "uint8")  # below a huge page
    with tensord.connect(daemon.url) as client:

        def hand_over(turns):
            for _ in range(turns):
                client.queue("memory/inline").put(values)
                with client.queue("memory/inline").get() as item:
                    assert item.numpy().nbytes == values.nbytes

        hand_over(10)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        hand_over(20)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults < 400  # not 20 * 256
        assert client.queue("memory/inline").info()["segments"] <= 4
        with pytest.raises(tensord.Exists):  # options are looked at all the same
            client.queue("memory/inline", maxsize=3)
        client.queue("memory/inline").delete()
        client.queue("memory/inline", maxsize=3).put(values)  # as new
        client.queue("memory/inline").get().done()
        client.queue("memory/inline").delete()
    usage.settles_at(before)  # nothing is left with the client


def test_memory_of_a_queue_that_others_delete_is_no_trap(client, second):
    second.run("q = c.queue('memory/trap')")
    for i in range(5):
        client.queue("memory/trap").put(np.full(BIG, i))
        with client.queue("memory/trap").get() as item:
            assert (item.numpy() == i).all()
        second.run("c.queue('memory/trap').delete()")


def test_not_more_than_some_queues_stay_mapped(client):
    def maps():
        return sum("memfd" in line for line in open("/proc/self/maps"))

    before = maps()
    for i in range(60):
        client.queue(f"memory/many/{i}").put(np.zeros(BIG))
    assert maps() - before <= 2 * 16
    for i in range(60):
        client.queue(f"memory/many/{i}").delete()


def test_two_queue_objects_fill_the_same_memory(client):
    """They have the producer's segments in common, which the daemon hands out to either."""
    queues, used = [client.queue("memory/two", maxsize=2) for _ in range(2)], set()
    for i in range(40):
        with queues[i % 2].allocate(BIG, "float64", timeout=60) as segment:
            segment.array[:] = i
            used.add(segment._mapped().info.storage)
            queues[i % 2].put(segment)
        with queues[i // 2 % 2].get() as item:
            assert (item.numpy() == i).all()
    assert len(used) <= 4, used  # and not one after the other, each of them new
    queues[0].delete()


def test_each_segment_is_mapped_once(client, second):
    q = client.queue("memory/once", maxsize=300)
    second.run("q = c.queue('memory/once')")
    second.run(CONSUMER)

    def maps():
        return sum("memfd" in line for line in open("/proc/self/maps"))

    def reads():
        return sum(lease.kind == "read" for lease in client.leases())

    before, others = maps(), reads()
    count = "sum('memfd' in line for line in open('/proc/self/maps'))"
    for _turn in range(3):  # all of them wait at a time, so all are used in turn
        for i in range(300):
            q.put(np.full(9000, i))
        second.run("consume(300)")
        segments = q.info()["segments"]
        leases = reads() - others
        assert segments <= 304 and leases <= segments, (segments, leases)
        assert second.ask(count) <= segments + 8 and maps() - before <= segments + 8
    # Which is so from the first turn on: later ones map nothing.
    before = client.stats()["requests"]
    for i in range(300):
        q.put(np.full(9000, i))
    second.run("consume(300)")
    spent = client.stats()["requests"] - before
    print(f"\n{spent} requests for 300 items: allocate, put, get, and one to end each")
    assert spent <= 300 * 5 + 20
    q.delete()


def test_the_descriptors_do_not_pile_up(client, second):
    q = client.queue("memory/fds", maxsize=4)
    second.run("q = c.queue('memory/fds')")
    second.run(CONSUMER)
    here, there = len(os.listdir("/proc/self/fd")), second.ask("len(os.listdir('/proc/self/fd'))")
    for _ in range(30):
        for i in range(4):
            q.put((np.full(BIG, i), np.full(2 * BIG, i)))
        second.run("for _ in range(4):\n    with q.get() as item: [t.numpy()[0] for t in item]")
    # One of each segment that is filled here; none that is only read.
    assert len(os.listdir("/proc/self/fd")) - here <= q.info()["segments"] + 2
    assert second.ask("len(os.listdir('/proc/self/fd'))") - there <= 2
    q.delete()


if os.environ.get("TENSORD_TESTS_FULL"):  # for it takes longer than ten seconds

    def test_who_waits_long_holds_nothing(client, second):
        """A consumer that stays, when its producer has gone, lets go of the producer's memory."""
        q = client.queue("memory/idle")
        q.put(np.zeros(BIG))
        second.run("q = c.queue('memory/idle')")
        second.run(CONSUMER)
        second.run("consume(1)\nimport threading\nt = threading.Thread(target=consume, args=(1,))")
        second.run("t.start()")
        assert any(lease.kind == "read" for lease in client.leases())
        time.sleep(11)
        assert not any(lease.kind == "read" for lease in client.leases())
        q.put(np.zeros(BIG))
        second.run("t.join()")
        q.delete()

    def test_who_does_something_else_holds_nothing(client, second):
        """Neither what it read nor what it filled."""
        q = client.queue("memory/else")
        second.run("q = c.queue('memory/else'); q.put(np.zeros(20_000))")
        second.run(CONSUMER)
        second.run("consume(1)")
        q.put(np.zeros(BIG))
        second.run("consume(1)")
        assert sum(lease.kind == "read" for lease in client.leases()) == 2
        time.sleep(11)
        client.ping()
        second.run("c.ping()")
        wait_until(lambda: not any(lease.kind == "read" for lease in client.leases()))
        assert q.info()["items"] == 0
        q.delete()
