"""Queues in several processes and threads: fork, spawn, DataLoader's workers, Ctrl-C."""

import collections
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from test_python_client_faults import PROMPT_S, interrupted_after
from test_python_lifetimes import in_threads

import tensord

BIG = 20_000
CHILD_S = 60


def wait_until(condition, what=""):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def run(code, *arguments):
    """Python code in an interpreter of its own; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=CHILD_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- fork --------------------------------------------------------------------------------------

FORK = """
import gc, os, sys, numpy as np, tensord
c = tensord.connect(sys.argv[1])
q = c.queue("fork", maxsize=4)
for i in range(3):
    q.put(np.full(20_000, i))
c.queue("fork/child").put(np.full(20_000, 8))
c.queue("fork/child").get().done()
held, segment = q.get(), q.allocate(20_000, "float64")
array = held.numpy()
segment.array[:] = 5

def child():
    assert (array == 0).all()          # what was mapped can be read
    uses = [lambda: q.put(segment), held.ack, held[0].tolist, held.numpy, held.torch]
    uses += [lambda: segment.array.fill(1)]
    c.queue("fork/child").put(array)   # memory of its own, of a queue that the parent uses, too
    assert (c.queue("fork/child").get().numpy() == 0).all()
    for use in uses:
        try:
            use()
        except (tensord.ConnectionError, ValueError):
            pass
        else:
            raise AssertionError("the parent's item or segment was used in the child")
    item = q.get(timeout=20)           # a session of its own
    assert (item.numpy() == 1).all()
    item.done()
    q.put(np.full(20_000, 9))
    held.done()                        # nothing: it is the parent's
    q.close is not None and c.close()

pid = os.fork()
if pid == 0:
    try:
        child()
        gc.collect()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
info = q.info()
assert info["in_flight"] == 1 and info["acks"] == 1, info
assert (array == 0).all() and (segment.array == 5).all()
q.put(segment)
held.ack()
c.queue("fork/child").put(np.full(20_000, 7))
assert (c.queue("fork/child").get().numpy() == 7).all()
c.queue("fork/child").delete()
assert [int(q.get().numpy()[0]) for _ in range(3)] == [2, 9, 5]
q.delete()
"""


def test_fork(daemon):
    run(FORK, daemon.url)


INHERITED = """
import gc, os, sys, numpy as np, tensord
c = tensord.connect(sys.argv[1])
q = c.queue("fork/inherited", maxsize=4)
for i in range(3):
    q.put(np.full(20_000, i))
first, second, third = q.get(), q.get(), q.get()
read, private, view = first.numpy(), second.torch(), third[0][10:].numpy()

ready, tell = os.pipe()
pid = os.fork()
if pid == 0:
    os.read(ready, 1)
    good = (read == 0).all() and bool((private == 1).all()) and (view == 2).all()
    os._exit(0 if good else 1)
first.done(), second.done(), third.done()
del first, second, third, read, private, view
gc.collect()
for i in range(40):
    q.put(np.full(20_000, 100 + i))
    with q.get() as item:
        assert (item.numpy() == 100 + i).all()
os.write(tell, b"x")
assert os.waitpid(pid, 0)[1] == 0
assert q.info()["in_flight"] == 0
q.delete()
"""


def test_arrays_that_a_child_inherits_stay_what_they_are(daemon):
    """Also when the parent, whose item it is, is done with it: others fill other memory then."""
    run(INHERITED, daemon.url)


FORK_WHILE_BUSY = """
import os, sys, threading, numpy as np, tensord
c = tensord.connect(sys.argv[1])
q = c.queue("fork/busy", maxsize=4)
stop = threading.Event()

def work():
    while not stop.is_set():
        q.put(np.full(9000, 1))
        with q.get() as item:
            item.numpy()

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for i in range(25):
    pid = os.fork()
    if pid == 0:
        import signal
        signal.alarm(20)               # a lock that another thread held at the fork never opens
        mine = c.queue("fork/busy/child")
        mine.put([i])
        assert q.qsize() >= 0 and mine.get().tensor.item() == i
        c.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, i
stop.set()
for thread in threads:
    thread.join()
"""


def test_fork_while_other_threads_use_the_queue(daemon):
    run(FORK_WHILE_BUSY, daemon.url)


def test_the_end_of_a_child_leaves_the_parents_items(client, second):
    q = client.queue("fork/child")
    q.put(np.full(BIG, 1))
    second.run("import os; q = c.queue('fork/child'); item = q.get(); array = item.numpy()")
    second.run("pid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)")
    assert q.info()["in_flight"] == 1 and q.empty()
    second.run("item.ack()")
    q.delete()


# ---- spawn, pickles, DataLoader ------------------------------------------------------------------


def doubler(first, second):
    for item in first:
        second.put({"x": item.numpy() * 2, "pid": [os.getpid()]}, meta=item.meta)
    second.close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(client, method):
    first, second = client.queue("mp/first", maxsize=4), client.queue("mp/second", maxsize=4)
    context = multiprocessing.get_context(method)
    process = context.Process(target=doubler, args=(first, second))
    process.start()
    for i in range(10):
        first.put(np.full(BIG, i), meta=str(i), timeout=CHILD_S)
        with second.get(timeout=CHILD_S) as item:
            assert (item["x"].numpy() == 2 * i).all() and item.meta == str(i)
            assert item["pid"].numpy()[0] == process.pid != os.getpid()
    first.close()
    with pytest.raises(tensord.Closed):
        second.get(timeout=CHILD_S)
    process.join(CHILD_S)
    assert process.exitcode == 0
    first.delete()
    second.delete()


def test_pickles(client):
    q = client.queue("pickle", maxsize=3, when_full="fail")
    again = pickle.loads(pickle.dumps(q))
    assert again.name == "pickle" and again.info()["max_items"] == 3
    again.put([1])
    assert q.get().tensor.tolist() == [1]
    q.put([1])
    item = q.get()
    with pytest.raises((TypeError, tensord.Error)):
        pickle.dumps(item)
    q.delete()


class FromQueue(torch.utils.data.IterableDataset):
    def __init__(self, q):
        self.q = q

    def __iter__(self):
        for item in self.q:
            yield item["x"].torch().clone(), int(item.meta)


class IntoQueue(torch.utils.data.Dataset):
    def __init__(self, q):
        self.q = q

    def __len__(self):
        return 12

    def __getitem__(self, i):
        self.q.put({"x": torch.full((BIG,), i)}, meta=str(i))
        return i


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_dataloader(client, method):
    q = client.queue(f"loader/{method}", maxsize=40)
    loader = torch.utils.data.DataLoader
    options = {"num_workers": 2, "multiprocessing_context": method, "timeout": CHILD_S}
    if method == "fork":
        put = [int(i) for batch in loader(IntoQueue(q), batch_size=3, **options) for i in batch]
        assert sorted(put) == list(range(12))
    else:  # where each worker imports PyTorch, which takes long
        for i in range(12):
            IntoQueue(q)[i]
    assert q.qsize() == 12
    q.close()
    seen = []
    for x, numbers in loader(FromQueue(q), batch_size=2, **options):
        assert all((row == number).all() for row, number in zip(x, numbers))
        seen += numbers.tolist()
    assert sorted(seen) == list(range(12)) and q.empty()
    wait_until(lambda: q.info()["acks"] == 12)
    q.delete()


# ---- Ctrl-C ------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_get_and_loses_nothing(client):
    q = client.queue("ctrl-c/get")
    for timeout in (None, 60):
        with interrupted_after(0.3) as pressed:
            with pytest.raises(KeyboardInterrupt):
                q.get(timeout=timeout)
        assert time.monotonic() - pressed[0] < PROMPT_S
    q.put([1])
    assert q.get().tensor.tolist() == [1] and q.info()["waiting_gets"] == 0
    q.delete()


def test_ctrl_c_ends_a_put(client):
    q = client.queue("ctrl-c/put", maxsize=1)
    q.put([0])
    with interrupted_after(0.3) as pressed:
        with pytest.raises(KeyboardInterrupt):
            q.put(np.ones(BIG))
    assert time.monotonic() - pressed[0] < PROMPT_S
    assert q.get().tensor.tolist() == [0]
    with pytest.raises(queue.Empty):
        q.get(timeout=0.05)
    held = []
    with pytest.raises(queue.Full):
        while True:
            held.append(q.allocate(BIG, timeout=0))
    with interrupted_after(0.3) as pressed:
        with pytest.raises(KeyboardInterrupt):
            q.allocate(BIG)
    assert time.monotonic() - pressed[0] < PROMPT_S
    q.delete()


def test_what_an_interrupted_put_may_have_given_away_is_not_written_to(client):
    q = client.queue("ctrl-c/segment", maxsize=1)
    q.put([0])
    segment = q.allocate(BIG, "uint8")
    array = segment.array
    array[:] = 1
    with pytest.raises(queue.Full):
        q.put(segment, timeout=0.05)
    array[:] = 2  # it was refused
    with interrupted_after(0.3):
        with pytest.raises(KeyboardInterrupt):
            q.put(segment)
    with pytest.raises(ValueError):
        array[:] = 3
    assert q.get().tensor.tolist() == [0]
    q.put((segment, segment))
    with pytest.raises(ValueError):
        q.put(segment)
    item = q.get()
    assert len(item) == 2 and (item[1].numpy() == 2).all()
    q.delete()


def test_ctrl_c_at_any_moment_loses_no_item(client, second):
    """Whenever it comes, the item is either here or in the queue, and not with nobody."""
    q = client.queue("ctrl-c/any", maxsize=64)
    second.run("import threading, time; q = c.queue('ctrl-c/any')")
    got, puts = 0, 60
    rng = np.random.default_rng(1)
    for i in range(puts):
        wait = float(rng.random()) * 0.004
        second.run(f"t = threading.Timer({wait}, q.put, ([{i}],)); t.start()")
        timer = threading.Timer(0.002, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            item = q.get(timeout=5)
            got += 1
            item.done()
            timer.join()
            time.sleep(0.001)
        except KeyboardInterrupt:
            item = None
        finally:
            timer.join()
        second.run("t.join()")
    item = None
    wait_until(lambda: q.info()["in_flight"] == 0, q.info())
    info = q.info()
    assert info["acks"] + info["items"] == puts and info["acks"] >= got, (got, info)
    q.delete()


# ---- threads -----------------------------------------------------------------------------------


@pytest.mark.threads
def test_many_threads_of_one_client(client):
    q = client.queue("threads/one", maxsize=6)
    seen, lock, each = collections.Counter(), threading.Lock(), 25

    def work(number):
        if number < 3:
            for i in range(each):
                if i % 2:
                    with q.allocate(9000, "int64", timeout=CHILD_S) as segment:
                        segment.array[:] = number * each + i
                        q.put(segment, timeout=CHILD_S)
                else:
                    q.put(np.full(9000, number * each + i), timeout=CHILD_S)
            return
        while True:
            try:
                item = q.get(timeout=CHILD_S)
            except tensord.Closed:
                return
            array = item.numpy()
            value = int(array[0])
            assert (array == value).all()
            item.done()
            assert (array == value).all()
            with lock:
                seen[value] += 1
                if sum(seen.values()) == 3 * each:
                    q.close()

    in_threads(6, work)
    assert seen == collections.Counter(range(3 * each))
    q.delete()


@pytest.mark.threads
def test_an_item_in_many_threads(client):
    """Ending it while others map it harms nobody; what they got stays what it is."""
    q = client.queue("threads/item", maxsize=4)
    for turn in range(15):
        q.put({"a": np.full(9000, turn), "b": np.full(9000, -turn)})
        item = q.get()
        barrier = threading.Barrier(4)

        def work(number, item=item, turn=turn, barrier=barrier):
            barrier.wait(30)
            if number < 2:
                (item.done, item.retry)[number]()
                return
            try:
                arrays = [item["a"].numpy(), item["b"].numpy()]
            except ValueError:
                return  # it was done with
            assert (arrays[0] == turn).all() and (arrays[1] == -turn).all()

        in_threads(4, work)
        item = work = None
        q.drain()
    q.delete()


@pytest.mark.threads
def test_those_who_give_up_beside_those_who_are_served(daemon):
    """Puts and gets that wait, end and begin anew, on connections of both of the daemon's loops."""
    with tensord.connect(daemon.url) as client:
        q = client.queue("threads/patience", maxsize=1)
        counts, ends = collections.Counter(), time.monotonic() + 1

        def work(number):
            with tensord.connect(daemon.url) as mine:
                mine = mine.queue("threads/patience")
                while time.monotonic() < ends:
                    try:
                        if number % 2:
                            mine.put([number], timeout=0.003)
                        else:
                            mine.get(timeout=0.003).done()
                        counts[number % 2] += 1
                    except (queue.Full, queue.Empty):
                        counts["late"] += 1

        in_threads(6, work)
        wait_until(lambda: q.info()["in_flight"] == 0)
        info = q.info()
        assert info["puts"] == counts[1] and info["gets"] == counts[0] > 0, (counts, info)
        assert info["waiting_puts"] == info["waiting_gets"] == 0
        q.delete()


@pytest.mark.threads
def test_a_queue_in_a_thread_each(daemon):
    """Several clients, as several processes would be, all in threads."""

    def work(number):
        with tensord.connect(daemon.url) as client:
            mine, next_one = (client.queue(f"ring/{(number + i) % 3}") for i in range(2))
            if number == 0:
                mine.put(np.zeros(9000, np.int64))
            for _ in range(10):
                with mine.get(timeout=CHILD_S) as item:
                    next_one.put(item.numpy() + 1, timeout=CHILD_S)

    in_threads(3, work)
    with tensord.connect(daemon.url) as client:
        with client.queue("ring/0").get(timeout=CHILD_S) as item:
            assert (item.numpy() == 30).all()
        for name in client.queues("ring/"):
            client.queue(name).delete()
