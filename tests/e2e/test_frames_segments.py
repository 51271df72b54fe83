"""The recycled memory of queues: a producer's segments, mapped once by whoever uses them."""

import errno
import fcntl
import hashlib
import mmap
import os
import time

import plain_client as plain
import pytest
from harness import Peer, daemon, local, ok, put, refused  # noqa: F401
from queue_client import SIZE, Consumer, Producer, get, info, make, page_faults, touch

LARGE = 4 << 20


@pytest.fixture
def pair(daemon):
    """A producer and a consumer, connections of their own, with an empty queue q."""
    with daemon.unchanged():
        with daemon.connect() as one, daemon.connect() as other:
            make(one)
            producer, consumer = Producer(one), Consumer(other)
            yield producer, consumer
            producer.close()
            consumer.close()
            ok(one.request("queue_delete", {"queue": "q"}))


def test_a_steady_state_passes_no_descriptors_and_faults_no_pages(pair):
    producer, consumer = pair
    data = os.urandom(LARGE)

    def hand_over(number):
        stamp = number.to_bytes(8, "little")
        fields = producer.allocate([LARGE])
        whole = producer.maps[fields["storage"]]
        whole[:8], whole[8:LARGE] = stamp, data[8:]
        ok(producer.put(fields))
        item = get(consumer.client)
        view = consumer.view(item)
        assert view[:8] == stamp and view[-100:] == data[-100:]
        touch(view)
        view.release()
        item.done()
        return fields["storage"]

    storages = {hand_over(i) for i in range(5)}
    before = (page_faults(), producer.descriptors, consumer.descriptors)
    storages |= {hand_over(i) for i in range(100, 150)}
    faults = page_faults() - before[0]
    assert (producer.descriptors, consumer.descriptors) == before[1:]
    assert len(storages) == producer.descriptors == consumer.descriptors == 1
    assert faults < 50, f"{faults} page faults in 50 hand-overs of {LARGE // 4096} pages"
    assert info(producer.client)["segments"] == 1


def test_small_tensors_are_recycled_as_well(pair):
    producer, consumer = pair
    for i in range(10):
        storage = producer.send(bytes([i]) * 100)
        item = get(consumer.client)
        assert bytes(consumer.view(item)) == bytes([i]) * 100
        assert item.tensors[0]["storage"] == storage and item.tensors[0]["mode"] == "single-writer"
        item.done()
    assert producer.descriptors == consumer.descriptors == 1


def test_a_held_item_keeps_its_segment(pair):
    """Acknowledged or not: what the consumer may still read is not written to."""
    producer, consumer = pair
    first = producer.send(b"a" * SIZE)
    held = get(consumer.client)
    ok(held.ack())
    view = consumer.view(held)
    for _ in range(5):
        assert producer.send(b"b" * SIZE) != first
        get(consumer.client).done()
    assert bytes(view) == b"a" * SIZE
    held.release()
    assert info(producer.client)["segments"] == 2
    back = [producer.allocate() for _ in range(2)]
    assert first in [fields["storage"] for fields in back] and producer.descriptors == 2


@pytest.mark.parametrize("holder", ["name", "view", "other queue"])
def test_what_else_leads_to_a_segment_keeps_it(pair, holder):
    producer, consumer = pair
    client = consumer.client
    first = producer.send(b"a" * SIZE)
    item = get(client)
    tensor = f"@{item.tensors[0]['id']}"
    if holder == "name":
        ok(client.request("as_tensor", {"input": tensor, "output": "kept"}))
    elif holder == "view":
        kept = ok(client.request("getitem", {"input": tensor, "index": [slice(0, 10)]}))
    else:
        make(client, "other")
        ok(client.request("queue_put", {"queue": "other", "tensors": tensor}))
    item.done()
    for _ in range(3):
        assert producer.send(b"b" * SIZE) != first
        get(client).done()
    if holder == "name":
        assert client.request("get", {"input": "kept"})[2] == b"a" * SIZE
        ok(client.request("delete", {"input": "kept"}))
    elif holder == "view":
        assert client.request("get", {"input": f"@{kept['id']}"})[2] == b"a" * 10
        ok(client.request("release", {"input": f"@{kept['id']}"}))
    else:
        item = get(client, "other")
        assert item.bytes() == b"a" * SIZE
        item.done()
        ok(client.request("queue_delete", {"queue": "other"}))
    assert first in [producer.allocate()["storage"] for _ in range(2)]


def test_segments_grow_and_shrink_with_shapes(pair):
    producer, consumer = pair
    storages = {}
    for size in (SIZE, 3 * SIZE, 20 * SIZE, SIZE, 20 * SIZE, 3 * SIZE):
        storage = producer.send(os.urandom(size))
        assert storages.setdefault(size, storage) == storage
        get(consumer.client).done()
    assert len(set(storages.values())) == 3
    fields = producer.allocate([SIZE // 8], "float32")  # half of the smallest
    assert fields["storage"] == storages[SIZE] and fields["nbytes"] == SIZE // 8 * 4


def allocation(client, **fields):
    return client.send("allocate", {"queue": "q", "dtype": "uint8", "shape": [SIZE], **fields})


def test_allocating_waits_when_all_segments_are_in_use(pair):
    producer, consumer = pair
    client = producer.client
    make(client, max_items=2)
    filled = [producer.allocate() for _ in range(6)]  # two that wait, and four more
    refused(client.wait(allocation(client, timeout_ms=0)), "full", text="max_items")
    begun = time.monotonic()
    refused(client.wait(allocation(client, timeout_ms=60)), "full")
    assert time.monotonic() - begun > 0.05
    ok(producer.put(filled[0]))
    waiting = allocation(client, timeout_ms=20000)
    assert client.request("ping")[0] == "ok"
    get(consumer.client).done()
    status, fields, _, fds = client.wait(waiting)
    assert status == "ok" and not fds and fields["storage"] == filled[0]["storage"]
    # Freed rather than waited for: one that is free, but too small.
    ok(client.request("release", {"input": f"@{fields['id']}"}))
    larger = producer.allocate([9 * SIZE])
    assert larger["storage"] not in [f["storage"] for f in filled]
    waiting = allocation(client)
    ok(client.request("queue_delete", {"queue": "q"}))
    refused(client.wait(waiting), "closed")
    make(client)


def test_a_put_that_asks_for_the_next_memory(pair):
    """One request for each item, in steady state, and no descriptor."""
    producer, consumer = pair
    fields = producer.allocate()
    filled = [fields["storage"]]
    for i in range(20):
        producer.fill(fields, bytes([i]) * SIZE)
        status, reply, _, fds = producer.put(fields, dtype="uint8", shape=[SIZE])
        assert status == "ok" and reply["item"] == i + 1 and not fds
        if i < 1:
            assert "storage" not in reply  # there is none yet that came back
            fields = producer.allocate()
        else:
            assert reply["mode"] == "single-writer" and reply["nbytes"] == SIZE
            fields = reply
        filled.append(fields["storage"])
        item = get(consumer.client)
        view = consumer.view(item)
        assert view[0] == view[-1] == i
        view.release()
        item.done()
    assert len(set(filled)) == producer.descriptors == consumer.descriptors == 2
    ok(producer.client.request("release", {"input": f"@{fields['id']}"}))


def test_a_client_that_lost_its_mapping_takes_new_memory(pair):
    producer, consumer = pair
    first = producer.send(bytes(SIZE))
    get(consumer.client).done()
    fields = producer.allocate()
    assert fields["storage"] == first
    refused(producer.client.request("map", {"input": f"@{fields['id']}", "write": True}), "frozen")
    ok(producer.client.request("release", {"input": f"@{fields['id']}"}))
    fields = producer.allocate(force=True)
    assert fields["storage"] != first and producer.descriptors == 2
    assert info(producer.client)["segments"] == 1


def test_a_mapping_that_was_lost_before_the_first_put(pair):
    producer, _ = pair
    fields = producer.allocate()
    status, mapped, _, (fd,) = producer.client.request("map", {"input": f"@{fields['id']}",
                                                               "write": True})  # fmt: skip
    assert status == "ok" and mapped["mode"] == "building"
    mmap.mmap(fd, mapped["storage_bytes"])[:3] = b"abc"
    os.close(fd)
    assert producer.maps[fields["storage"]][:3] == b"abc"
    ok(producer.client.request("release", {"lease": mapped["lease"]}))


def errno_of(action):
    with pytest.raises(OSError) as caught:
        action()
    return caught.value.errno


def test_consumers_cannot_write(pair):
    producer, consumer = pair
    producer.send(b"a" * SIZE)
    item = get(consumer.client)
    tensor = f"@{item.tensors[0]['id']}"
    status, fields, _, (fd,) = consumer.client.request("map", {"input": tensor})
    size, both = fields["storage_bytes"], mmap.PROT_READ | mmap.PROT_WRITE
    assert errno_of(lambda: mmap.mmap(fd, size, mmap.MAP_SHARED, both)) == errno.EACCES
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    assert errno_of(lambda: mmap.mmap(again, size, mmap.MAP_SHARED, both)) == errno.EPERM
    assert errno_of(lambda: os.pwrite(again, b"x", 0)) == errno.EPERM
    assert errno_of(lambda: os.ftruncate(again, 1)) == errno.EPERM
    assert errno_of(lambda: fcntl.fcntl(again, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE))
    for op, more in (("fill_", {"value": 1}), ("map", {"write": True})):
        refused(consumer.client.request(op, {"input": tensor, **more}), "frozen")
    os.close(again)
    os.close(fd)
    ok(consumer.client.request("release", {"lease": fields["lease"]}))
    # The producer can, and must not before it has the segment again.
    producer.maps[item.tensors[0]["storage"]][:1] = b"b"
    assert item.bytes()[:2] == b"ba"
    item.done()


def test_a_segment_is_put_or_published_as_single_writer(pair):
    producer, consumer = pair
    client = producer.client
    fields = producer.allocate()
    for mode in ({}, {"mode": "frozen"}, {"mode": "mutable"}):
        reply = client.request("publish", {"input": f"@{fields['id']}", "output": "x", **mode})
        refused(reply, "conflict", text="filled again")
    ok(client.request("publish", {"input": f"@{fields['id']}", "output": "x",
                                  "mode": "single-writer"}))  # fmt: skip
    ok(client.request("delete", {"input": "x"}))
    ok(producer.put(fields))
    refused(producer.put(fields), "not_found")  # it was given away
    get(consumer.client).done()


def test_memory_handed_out_twice_by_way_of_a_descriptor(pair):
    """A consumer that gives the segment's descriptor to the daemon, as memory of its own, holds it
    with that, and makes nothing come back that is in use."""
    producer, consumer = pair
    client = consumer.client
    first = producer.send(bytes(SIZE))
    item = get(client)
    status, mapped, _, (fd,) = client.request("map", {"input": f"@{item.tensors[0]['id']}"})
    item.done()

    def give():
        fields = {"dtype": "uint8", "shape": [10]}
        return ok(client.request("from_numpy", fields, fds=[os.dup(fd)]))["id"]

    held = producer.allocate()
    assert held["storage"] == first
    ok(client.request("release", {"input": f"@{give()}"}))
    assert producer.allocate()["storage"] != first
    ok(producer.client.request("release", {"input": f"@{held['id']}"}))
    kept = give()
    assert producer.allocate()["storage"] != first
    ok(client.request("release", {"input": f"@{kept}"}))
    assert producer.allocate()["storage"] == first
    os.close(fd)
    ok(client.request("release", {"lease": mapped["lease"]}))


# ---- ends ----------------------------------------------------------------------------------------

PRODUCER = """
from queue_client import *
p = Producer(c)
"""


@pytest.mark.parametrize("end", ["kill", "close"])
def test_a_producer_that_dies(daemon, local, end):
    """What it has put stays readable; what it had half filled, and what was free, goes at once."""
    make(local)
    consumer = Consumer(local)
    with daemon.unchanged():
        data = os.urandom(SIZE)
        with Peer(daemon.url) as peer:
            peer.run(PRODUCER)
            peer.run(f"for _ in range(3): p.send(bytes.fromhex({data.hex()!r}))")
            peer.run("f = p.allocate(); p.fill(f, b'half')")
            held = get(local)
            ok(held.ack())
            assert info(local)["segments"] == 4
            peer.kill() if end == "kill" else peer.run("p.close(); c.close()")
        deadline = time.monotonic() + 10
        while info(local)["segments"]:
            assert time.monotonic() < deadline, info(local)
        assert daemon.stats()["descriptors"] == 3
        for item in (held, get(local), get(local)):
            assert hashlib.sha256(consumer.view(item)).digest() == hashlib.sha256(data).digest()
            item.release() if item is held else item.done()
        consumer.close()
    ok(local.request("queue_delete", {"queue": "q"}))


def test_a_consumer_that_dies_may_read_on(daemon, local):
    """A process that has lost its connection may still read: the segment is not filled again."""
    with daemon.unchanged():
        make(local)
        producer = Producer(local)
        first = producer.send(b"a" * SIZE)
        consumer = Consumer(daemon.connect())
        item = get(consumer.client)
        view = consumer.view(item)
        ok(item.ack())
        consumer.client.close()
        deadline = time.monotonic() + 10
        while daemon.stats()["leases"] > 1:
            assert time.monotonic() < deadline
        assert first not in [producer.send(b"b" * SIZE) for _ in range(5)]
        assert bytes(view) == b"a" * SIZE
        view.release()
        consumer.close()
        producer.close()
        ok(local.request("queue_delete", {"queue": "q"}))


def test_a_slow_consumer_reads_what_it_got(daemon, local):
    """Its item went to another, which was done with it long ago; its own memory has not changed."""
    make(local, visibility_ms=30)
    producer, slow = Producer(local), Consumer(local)
    with daemon.connect() as quick:
        data = os.urandom(SIZE)
        storage = producer.send(data)
        item = get(local)
        view = slow.view(item)
        time.sleep(0.05)
        again = get(quick, timeout_ms=20000)
        assert again.deliveries == 2 and again.tensors[0]["storage"] == storage
        again.done()
        for _ in range(10):
            assert producer.send(os.urandom(SIZE)) != storage
            get(quick, timeout_ms=20000).done()
        assert bytes(view) == data
        refused(item.ack(), "conflict")
        view.release()
        item.release()
    producer.close()
    slow.close()
    ok(local.request("queue_delete", {"queue": "q"}))


def test_the_ring_of_a_deleted_queue_is_gone(daemon, local):
    """One queue after the other leaves no leases and no memory, while the session lasts."""
    with daemon.unchanged():
        before = daemon.stats()
        for i in range(20):
            make(local)
            producer = Producer(local)
            producer.send(bytes(SIZE))
            left = producer.allocate()
            ok(local.request("queue_delete", {"queue": "q"}))
            refused(producer.put(left), "not_found")
            ok(local.request("release", {"input": f"@{left['id']}"}))
            producer.close()
        now = daemon.stats()
        assert now["leases"] == before["leases"] and now["descriptors"] == before["descriptors"]


def test_giving_the_ring_back(daemon, local):
    """A producer that is done releases its lease, and may begin anew."""
    make(local)
    producer = Producer(local)
    first = producer.send(bytes(SIZE))
    get(local).done()
    (lease,) = [entry for entry in plain.read_list(local.request("leases")[2])
                if entry["kind"] == "producer"]  # fmt: skip
    assert lease["nbytes"] >= SIZE  # what an idle producer keeps is found there
    ok(local.request("release", {"lease": lease["lease"]}))
    assert info(local)["segments"] == 0
    assert producer.send(bytes(SIZE)) != first
    producer.close()
    ok(local.request("queue_delete", {"queue": "q"}))


def test_only_who_can_map_memory_allocates(daemon, local):
    make(local)
    fields = {"queue": "q", "dtype": "uint8", "shape": [SIZE]}
    with plain.PlainClient(daemon.tcp_url) as remote:
        refused(remote.request("allocate", fields), "unsupported")
        put(remote, "t", b"by value")
        ok(remote.request("queue_put", {"queue": "q", "tensors": "t"}))
        item = get(remote)
        assert item.bytes() == b"by value"
        item.done()
        ok(remote.request("delete", {"input": "t"}))
    refused(local.request("allocate", {**fields, "queue": "none"}), "not_found")
    refused(local.request("allocate", {**fields, "shape": [-1]}), "bad_shape")
    refused(local.request("allocate", {**fields, "shape": [1 << 40]}), "out_of_memory")
    ok(local.request("queue_delete", {"queue": "q"}))
