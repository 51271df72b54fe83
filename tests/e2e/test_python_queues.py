"""Queues in Python: putting, getting, what an item is, and how its turn ends."""

import collections
import itertools
import queue
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import tensord

BIG = 20_000  # float64: elements of a tensor that is mapped, not copied

_names = itertools.count()


@pytest.fixture
def q(client):
    made = client.queue(f"q/{next(_names)}", maxsize=8)
    yield made
    made.delete()


@pytest.fixture
def later():
    """later(seconds, function, *arguments); asked for last, so that it ends first."""
    timers = []

    def start(seconds, function, *arguments):
        timers.append(threading.Timer(seconds, function, arguments))
        timers[-1].start()

    yield start
    for timer in timers:
        timer.join(60)


# ---- one at a time -----------------------------------------------------------------------------


def test_first_in_first_out(q):
    for i in range(5):
        q.put(np.full(BIG, i))
    assert (q.qsize(), len(q), q.empty(), q.full(), q.maxsize) == (5, 5, False, False, 8)
    for i in range(5):
        item = q.get()
        assert (item.shape, item.dtype, len(item)) == ((BIG,), "int64", 1)
        assert (item.numpy() == i).all() and item.deliveries == 1
        item.done()
    assert q.empty() and bool(q)
    info = q.info()
    assert (info["puts"], info["gets"], info["acks"], info["in_flight"]) == (5, 5, 5, 0)


def test_an_item_of_one_tensor_is_used_like_it(q):
    values = np.arange(12.0).reshape(3, 4)
    q.put(values)
    item = q.get()
    assert np.array_equal(np.asarray(item), values)
    assert np.array_equal(np.from_dlpack(item), values)
    assert torch.equal(torch.from_dlpack(item), torch.from_numpy(values))
    assert torch.equal(item.torch(), torch.from_numpy(values))
    assert np.array_equal(np.asarray(item, np.float32), values.astype(np.float32))
    assert item.tensor.tolist() == values.tolist()
    assert item[0].transpose(0, 1).tolist() == values.T.tolist()  # in the daemon
    assert repr(item) == f"<tensord.Item {item.id}: 0: float64[3, 4]>"
    assert item.tensor.memory == "shared" and item.tensor.reason == ""


@pytest.mark.parametrize("bytes_each", [8, 200_000])
def test_dicts_and_tuples(client, q, bytes_each):
    image, label = np.arange(bytes_each, dtype=np.uint8), torch.tensor([3, 4])
    named = client.put("queues/named", np.arange(5.0))
    with q.allocate((2, 2), "int32") as segment:
        segment.array[:] = 7
        q.put({"image": image, "label": label, "by name": named, "filled": segment}, meta="frame 1")
    q.put((image, segment_of(q, 5), [1, 2]))
    item = q.get()
    assert item.keys() == ["image", "label", "by name", "filled"] and item.meta == "frame 1"
    assert np.array_equal(item["image"].numpy(), image)
    assert item["label"].torch().tolist() == [3, 4]
    assert item["by name"].tolist() == [0, 1, 2, 3, 4]
    assert item["by name"].storage_id == named.storage_id
    assert item["filled"].numpy().tolist() == [[7, 7], [7, 7]]
    assert [key for key, tensor in item.items()] == item.keys() and len(list(item)) == 4
    assert "image" in item and "depth" not in item
    with pytest.raises(KeyError, match="no 'depth'.*image"):
        item["depth"]
    with pytest.raises(IndexError, match="no number 4"):
        item[4]
    with pytest.raises(ValueError, match="4 tensors"):
        item.numpy()
    item.done()
    item = q.get()
    assert item.keys() == ["0", "1", "2"] and item.meta == ""
    assert "1" in item and "3" not in item and item["1"].storage_id == item[1].storage_id
    assert [tensor.id for tensor in dict(item).values()] == [tensor.id for tensor in item]
    with pytest.raises(KeyError, match="no ''"):
        item[""]
    assert np.array_equal(item[0].numpy(), image) and (item[1].numpy() == 5).all()
    assert item[-1].tolist() == [1, 2]
    item.done()
    del client["queues/named"]


def segment_of(q, value, shape=(BIG,)):
    segment = q.allocate(shape, "float64")
    segment.array[:] = value
    return segment


def test_what_cannot_be_put(client, q):
    for wrong, error in (
        ({}, ValueError), ((), ValueError), ("a name", TypeError), (object(), TypeError),
        ({"a=b": [1]}, ValueError), ({3: [1]}, TypeError), (np.array(["text"]), TypeError),
        (tuple([[1]] * 65), ValueError),
    ):  # fmt: skip
        with pytest.raises(error):
            q.put(wrong)
    with pytest.raises(tensord.TooLarge, match="meta"):
        q.put([1], meta="x" * 5000)
    with pytest.raises(ValueError, match="when_full"):
        client.queue("q/wrong", when_full="explode")
    with pytest.raises(ValueError, match="timeout"):
        q.get(timeout=-1)
    with pytest.raises(TypeError, match="not None; q.close"):
        q.put(None)
    assert q.empty() and q.info()["segments"] <= 12


def test_settings(client):
    for wrong in ({"maxsize": 0}, {"maxsize": -1}, {"maxbytes": 0}, {"visibility": 0},
                  {"visibility": -1.0}, {"visibility": float("inf")}):  # fmt: skip
        with pytest.raises(ValueError):
            client.queue("q/wrong", **wrong)
    q = client.queue("q/settings", maxsize=3, maxbytes=1 << 20, when_full="fail", visibility=2.5)
    info = q.info()
    assert (info["max_items"], info["max_bytes"]) == (3, 1 << 20)
    assert (info["when_full"], info["visibility"], info["closed"]) == ("fail", 2.5, False)
    assert client.queue("q/settings").info() == info
    with pytest.raises(tensord.Exists, match="max_items of 3 and not 4"):
        client.queue("q/settings", maxsize=4)
    assert client.queues("q/set") == ["q/settings"]
    for i in range(3):
        q.put([i])
    with pytest.raises(queue.Full, match="is full"):
        q.put([3])
    assert q.full()
    q.delete()
    with pytest.raises(tensord.NotFound):
        q.info()
    assert client.queues("q/set") == []


def test_drop_oldest(client):
    q = client.queue("q/latest", maxsize=2, when_full="drop_oldest")
    for i in range(10):
        q.put(np.full(BIG, i))
    assert [int(q.get().numpy()[0]) for _ in range(2)] == [8, 9]
    assert q.info()["dropped"] == 8
    q.delete()


def test_peek_and_drain(q):
    q.put({"a": np.zeros((2, 3), np.float32), "b": [1, 2]}, meta="first")
    q.put(np.ones(4))
    first, other = q.peek()
    assert first.tensors == {"a": "float32[2, 3]", "b": "int64[2]"}
    assert (first.meta, first.deliveries, first.nbytes) == ("first", 0, 24 + 16)
    assert other.tensors == {"0": "float64[4]"} and len(q.peek(limit=1)) == 1
    assert q.drain() == 2 and q.drain() == 0 and q.peek() == []


def test_parked_after_five_deliveries(q):
    q.put([1, 2])
    for turn in range(5):
        item = q.get(timeout=5)
        assert item.deliveries == turn + 1
        item.retry()
    with pytest.raises(queue.Empty):
        q.get(timeout=0.05)
    assert [waiting.deliveries for waiting in q.peek(parked=True)] == [5]
    assert q.drain(parked=True) == 1 and q.info()["parked"] == 0


# ---- waiting -----------------------------------------------------------------------------------


def test_timeouts(client):
    q = client.queue("q/timeouts", maxsize=1)
    for call, error in ((q.get, tensord.Empty), (lambda **k: q.put([1], **k), tensord.Full)):
        for options, least in (({"block": False}, 0), ({"timeout": 0}, 0), ({"timeout": 0.2}, 0.2)):
            begun = time.monotonic()
            with pytest.raises(error) as raised:
                call(**options)
            assert least <= time.monotonic() - begun < least + 5, options
            assert isinstance(raised.value, (queue.Empty, queue.Full)) and "q/timeouts" in str(
                raised.value
            )
        with pytest.raises(error):
            q.get_nowait() if error is tensord.Empty else q.put_nowait([1])
        if error is tensord.Empty:
            q.put([0])
    q.delete()


def test_the_timeout_of_a_put_is_one_for_all_that_it_does(client):
    q = client.queue("q/once", maxsize=1)
    q.put(np.zeros(BIG))
    held = []
    with pytest.raises(queue.Full):
        while True:
            held.append(q.allocate(BIG, timeout=0))
    begun = time.monotonic()
    with pytest.raises(queue.Full):
        q.put((np.zeros(BIG), np.zeros(BIG)), timeout=2)
    assert 1.95 < time.monotonic() - begun < 3.8
    del held
    q.delete()


def test_get_waits_for_a_put(client, q, second, later):
    second.run(f"q = c.queue({q.name!r})")
    later(0.2, second.run, "q.put([1, 2, 3])")
    begun = time.monotonic()
    with q.get() as item:
        assert item.tensor.tolist() == [1, 2, 3]
    assert time.monotonic() - begun > 0.15


def test_put_waits_for_room(client, second, later):
    q = client.queue("q/room", maxsize=1)
    q.put([1])
    second.run("q = c.queue('q/room')")
    later(0.2, second.run, "q.get().done()")
    begun = time.monotonic()
    q.put([2], timeout=20)
    assert time.monotonic() - begun > 0.15
    q.delete()


def test_closing_ends_the_iterating(client, q, second, later):
    for i in range(3):
        q.put([i])
    second.run(f"q = c.queue({q.name!r})")
    later(0.2, second.run, "q.close()")
    assert [item.tensor.tolist() for item in q] == [[0], [1], [2]]
    assert q.closed and q.info()["acks"] == 3
    with pytest.raises(tensord.Closed, match="takes no more"):
        q.put([3])
    with pytest.raises(tensord.Closed):
        q.get()


def test_deleting_ends_those_who_wait(client, second, later):
    q = client.queue("q/gone")
    second.run("q = c.queue('q/gone')")
    later(0.2, second.run, "q.delete()")
    with pytest.raises((tensord.Closed, tensord.NotFound)):
        q.get()
    with pytest.raises(tensord.NotFound, match="no queue 'q/gone'"):
        q.put([1])


def test_closing_the_client_ends_a_get_in_another_thread(daemon, later):
    client = tensord.connect(daemon.url)
    q = client.queue("q/closing")
    later(0.2, client.close)
    begun = time.monotonic()
    with pytest.raises(tensord.ConnectionError, match="closed"):
        q.get()
    assert time.monotonic() - begun < 5
    with pytest.raises(tensord.ConnectionError, match="closed"):
        q.put([1])
    with tensord.connect(daemon.url) as other:
        other.queue("q/closing").delete()


# ---- how an item's turn ends -------------------------------------------------------------------


def in_flight(q):
    return q.info()["in_flight"]


def wait_until(condition, what=""):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def test_with(q):
    q.put([1])
    q.put([2])
    with q.get() as item:
        assert item.tensor.tolist() == [1]
    with pytest.raises(ZeroDivisionError):
        with q.get() as item:
            assert item.tensor.tolist() == [2]
            1 / 0
    again = q.get(timeout=20)
    assert again.tensor.tolist() == [2] and again.deliveries == 2
    again.done()
    wait_until(lambda: q.info()["acks"] == 2)


def test_what_comes_back_stands_first(q):
    for i in range(3):
        q.put([i])
    first = q.get()
    first.retry()
    wait_until(lambda: q.qsize() == 3)
    assert [q.get().tensor.item() for _ in range(3)] == [0, 1, 2]


def test_an_exception_in_an_iteration_gives_the_item_back(q):
    q.put([1])
    q.put([2])

    def consume():
        for item in q:
            if item.tensor.tolist() == [2]:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    again = q.get(timeout=20)
    assert again.tensor.tolist() == [2] and again.deliveries == 2


def test_a_dropped_item_was_done_with(q):
    q.put([1])
    assert q.get().tensor.tolist() == [1]
    wait_until(lambda: q.info()["acks"] == 1)
    assert in_flight(q) == 0 and q.empty()


def test_after_its_end(q):
    q.put(np.arange(3))
    item = q.get()
    item.done()
    item.done()  # nothing more happens
    item.retry()
    for use in (item.numpy, item.torch, item.ack):
        with pytest.raises(ValueError, match="done with"):
            use()
    assert item.keys() == ["0"] and item.shape == (3,) and item.meta == ""
    wait_until(lambda: q.info()["acks"] == 1)


def test_ack_waits_for_the_daemons_word(client):
    q = client.queue("q/ack", visibility=0.2)
    q.put([1])
    q.put([2])
    item = q.get()
    item.ack()
    assert q.info()["acks"] == 1
    slow = q.get()
    time.sleep(0.3)
    assert q.qsize() == 1  # it went back
    with pytest.raises(tensord.Conflict, match="visibility"):
        slow.ack()
    assert slow.numpy().tolist() == [2]
    assert q.get().tensor.tolist() == [2]
    q.delete()


def test_the_end_of_a_process_gives_its_items_back(q, second):
    for i in range(3):
        q.put(np.full(BIG, i))
    second.run(f"q = c.queue({q.name!r}); held = [q.get() for _ in range(3)]")
    assert in_flight(q) == 3
    second.kill()
    for i in range(3):
        with q.get(timeout=20) as item:
            assert (item.numpy() == i).all() and item.deliveries == 2


@pytest.mark.parametrize("last", ["", "raise SystemExit(1)", "os._exit(0)", "1 / 0"])
def test_the_end_of_the_interpreter_gives_the_item_in_hand_back(daemon, q, last):
    q.put(np.full(BIG, 7))
    code = f"""
import os, tensord
c = tensord.connect({daemon.url!r})
q = c.queue({q.name!r})
item = q.get()
array = item.numpy()
torch_like = item.tensor.memoryview()
segment = q.allocate(1000)
keep = [item, array, segment]
keep.append(keep)
{last}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert last == "1 / 0" or done.stderr == "", done.stderr
    with q.get(timeout=20) as item:
        assert (item.numpy() == 7).all() and item.deliveries == 2


# ---- far away, and when the daemon goes ----------------------------------------------------------


def test_over_tcp(tcp_client, q):
    far = tcp_client.queue(q.name)
    values = np.arange(BIG)
    far.put({"x": values, "y": torch.arange(3)}, meta="from afar")
    q.put(values * 2)
    with far.get() as item:
        x = item["x"]
        kept = x.numpy()
        assert np.array_equal(kept, values) and item.meta == "from afar"
        assert (x.memory, x.reason) == ("copied", "transport")
        assert item["y"].torch().tolist() == [0, 1, 2]
    with far.get() as item:
        assert np.array_equal(item.numpy(), values * 2)
        assert not item.numpy().flags.writeable
    assert np.array_equal(kept, values)
    with pytest.raises(tensord.Unsupported, match="Unix socket"):
        far.allocate(5)
    with pytest.raises(queue.Empty):
        far.get(timeout=0.05)
    wait_until(lambda: q.info()["acks"] == 2)


def test_forwarding_by_reference(client, q):
    onward = client.queue("q/onward")
    with q.allocate(BIG, "float64") as segment:
        segment.array[:] = np.arange(BIG)
        q.put({"x": segment, "y": [1]})
    with q.get() as item:
        storage = item["x"].storage_id
        onward.put({"x": item["x"], "half": item["x"].to("float16")})
        onward.put(item)
    for _ in range(20):  # the segment is not filled anew while it is in the other queue
        q.put(np.zeros(BIG))
        q.get().done()
    with onward.get() as item:
        assert item["x"].storage_id == storage
        assert np.array_equal(item["x"].numpy(), np.arange(BIG))
        assert item["half"].numpy().dtype == np.float16
    with onward.get() as item:
        assert item.keys() == ["x", "y"] and item["x"].storage_id == storage
        assert np.array_equal(item["x"].numpy(), np.arange(BIG))
    onward.delete()


def test_a_daemon_that_comes_back(daemon):
    client = tensord.connect(daemon.url)
    q = client.queue("q/lost")
    q.put(np.full(BIG, 3))
    q.put([1])
    segment, item = q.allocate(5), q.get()
    array = item.numpy()
    other = q.get()
    caught = []

    def wait():
        try:
            q.get()
        except tensord.Error as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    daemon.crash()
    thread.join(20)
    assert isinstance(caught[0], tensord.ConnectionError)
    with pytest.raises(tensord.ConnectionError, match="cannot connect"):
        q.put([1])
    daemon.start()
    with pytest.raises(tensord.NotFound, match="no queue 'q/lost'"):
        q.get()
    q = client.queue("q/lost")
    for i in range(3):
        q.put([i])
    now = q.get()  # the daemon counts from the beginning: numbers of before mean other things now
    for use in (other.ack, lambda: q.put(segment), lambda: q.put(other[0])):
        with pytest.raises(tensord.ConnectionError, match="was lost|is gone"):
            use()
    item.done()
    other.retry()
    segment = None
    assert (array == 3).all() and now.tensor.tolist() == [0]
    assert (q.qsize(), in_flight(q), q.info()["acks"]) == (2, 1, 0)
    now.ack()
    client.close()


# ---- more than one tensor, or item, at a time --------------------------------------------------


def test_more_tensors_than_the_producer_has_segments(client):
    q = client.queue("q/many", maxsize=1)
    many = {str(i): np.full(BIG, i) for i in range(64)}
    q.put(many, timeout=20)
    with q.get() as item:
        assert all((item[str(i)].numpy() == i).all() for i in range(64))
    q.delete()


def test_a_queue_with_room_takes_items_of_several_tensors(client):
    q = client.queue("q/several", maxsize=8)
    for i in range(8):
        q.put_nowait(tuple(np.full(BIG, i) for _ in range(4)))
    assert q.full()
    for i in range(8):
        with q.get() as item:
            assert [int(tensor.numpy()[-1]) for tensor in item] == [i] * 4
    q.delete()


def test_a_consumer_may_keep_all_it_gets(client):
    q = client.queue("q/keeps", maxsize=2)
    kept = collections.deque()
    for i in range(40):
        q.put(np.full(BIG, i), timeout=20)
        kept.append(q.get().numpy())
    assert [int(array[-1]) for array in kept] == list(range(40))
    q.delete()
