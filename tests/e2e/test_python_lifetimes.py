"""Memory lives as long as what shows it; and many threads use one client."""

import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import tensord


def exports(x):
    """Everything that shows a tensor's memory."""
    return [
        x.numpy(),
        x.numpy()[1:].T,
        np.asarray(x),
        x.torch(),
        x.torch()[1:],
        np.from_dlpack(x),
        torch.from_dlpack(x),
        x.memoryview(),
        np.frombuffer(x.memoryview(), np.float32),
    ]


def first(view):
    return np.asarray(view).reshape(-1)[0]


@pytest.mark.parametrize("mutable", [False, True])
def test_arrays_outlive_handle_name_and_client(daemon, mutable):
    client = tensord.connect(daemon.url)
    x = client.put("outlive/x", np.full(40_000, 7, np.float32), mutable=mutable)
    shown = exports(x)
    del client["outlive/x"], x
    gc.collect()
    assert [first(view) for view in shown] == [7] * len(shown)
    client.close()
    del client
    gc.collect()
    assert [np.asarray(view).sum() % 7 for view in shown] == [0] * len(shown)
    while shown:  # the last one holds the memory alone
        shown.pop(0)
        gc.collect()
        assert [first(view) for view in shown] == [7] * len(shown)


def test_memory_goes_with_the_last_array(client, usage):
    before = usage.now()
    x = client.zeros(1 << 20)
    shown = exports(x)
    del x
    gc.collect()
    assert usage.now()["bytes"] >= before["bytes"] + (4 << 20)
    assert usage.now()["leases"] > before["leases"]
    del shown
    gc.collect()
    usage.settles_at(before)


def test_arrays_outlive_the_daemons_memory(client):
    """A replaced tensor's old memory stays what it was for whoever maps it."""
    client["replace/x"] = np.zeros(40_000)
    old = client["replace/x"].numpy()
    client["replace/x"] = np.ones(40_000)
    assert not old.any() and client["replace/x"].numpy().all()
    del client["replace/x"]
    assert not old.any()


def test_shared_arrays_and_the_daemon_keep_each_other_apart(client):
    array = tensord.empty(1000, "int64")
    array[:] = np.arange(1000)
    x = client.from_numpy(array, require_shared=True)
    del array
    gc.collect()
    assert x.tolist() == list(range(1000))
    kept = x.numpy()
    del x
    gc.collect()
    assert kept.tolist() == list(range(1000))


def test_array_interface_keeps_its_mapping(client):
    x = client.zeros(100)
    array = np.asarray(x)
    again = np.asarray(x)
    array[3] = 1
    assert again[3] == 1 and (array.base is x or sys.version_info >= (3, 12))  # then a memoryview
    del x
    gc.collect()
    assert array[3] == 1


def test_the_end_of_the_interpreter(daemon):
    """Arrays, handles and clients of every kind may be there when a process ends."""
    code = f"""
import numpy as np, tensord, torch
c = tensord.connect({daemon.url!r})
x = c.zeros(100, 100)
keep = [x, x.numpy(), x.torch(), np.asarray(x), np.from_dlpack(x), x.memoryview(), x.__dlpack__()]
with tensord.allocator():
    keep.append(np.eye(3))
keep.append(tensord.empty(5))
keep.append(keep)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""


def test_neither_numpy_nor_pytorch_is_imported(daemon):
    """Everything that needs neither works where they are not installed."""
    code = f"""
import sys
sys.modules.update(numpy=None, torch=None, ml_dtypes=None)
import tensord
c = tensord.connect({daemon.url!r})
c["plain/x"] = [[1, 2], [3, 4]]
x = c["plain/x"]
assert x.tolist() == [[1, 2], [3, 4]] and x.dtype == "int64" and x.to("float16").tobytes()
assert c.tensor(b"ab").memoryview().tolist() == [97, 98]
assert bytes(x.fetch(out=bytearray(32))) == x.tobytes() and x[0, 1].item() == 2
assert c.put("plain/y", memoryview(b"abcd").cast("H")).dtype == "uint16"
c["plain/z"] = c.ones(3) * 2
assert c["plain/z"].memoryview().tolist() == [2, 2, 2]
assert c.ones(2, dtype="bfloat16").tolist() == [1, 1]
c["plain/back"] = type("D", (), {{"__dlpack__": lambda s, **k: x.__dlpack__(**k)}})()
assert c["plain/back"].tolist() == x.tolist()
import io
c.save(file := io.BytesIO(), tensors={{"a": x, "b": "plain/z"}}, metadata={{"k": "v"}})
assert c.load(file.getvalue(), "plain/in")["b"].tolist() == [2, 2, 2]
print(x)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "tensor([[1, 2],\n        [3, 4]])\n"


def test_a_killed_process_gives_back_what_it_held(usage, second):
    before = usage.now()
    second.run("held = [c.zeros(1 << 20) for _ in range(8)]; arrays = [x.numpy() for x in held]")
    assert usage.now()["bytes"] >= before["bytes"] + (32 << 20)
    second.kill()
    usage.settles_at(before)


def test_a_daemon_that_comes_back(daemon):
    client = tensord.connect(daemon.url)
    x = client.put("back/x", np.eye(200))
    named, anonymous, shared = x.numpy(), client.zeros(5).numpy(), tensord.empty(1000)
    over = client.from_numpy(shared, require_shared=True)
    daemon.crash()
    for use in (x.tolist, client.list, lambda: over.fill_(1), x.numpy):
        with pytest.raises(tensord.ConnectionError):
            use()
    # What was mapped stays.
    assert named.sum() == 200 and not anonymous.any() and not shared.any()
    daemon.start()
    assert client.list() == []  # connected anew
    for use in (x.tolist, x.numpy, x.touch, x.fetch, lambda: x[0], lambda: over.fill_(1)):
        with pytest.raises(tensord.ConnectionError, match="was lost"):
            use()
    again = client.from_numpy(shared, require_shared=True)
    again.fill_(3)
    for use in (  # old handles beside ones of this session
        lambda: again.copy_(over),
        lambda: again.__setitem__(0, over),
        lambda: client.__setitem__("back/y", x),
        lambda: client.as_tensor(x),
        lambda: client.op("info", input=x),
    ):
        with pytest.raises(tensord.ConnectionError, match="was lost"):
            use()
    assert shared.sum() == 3000 and client.from_numpy(anonymous).tolist() == [0] * 5
    before = client.stats()["objects"]
    del x, over  # of the old session: nothing of the new one goes with them
    gc.collect()
    assert client.stats()["objects"] == before and again.tolist()[0] == 3
    client.close()


def test_the_default_client_after_fork(daemon):
    """Also while another thread holds its lock; and the parent's client goes on."""
    code = f"""
import os, threading
os.environ["TENSORD_URL"] = {daemon.url!r}
import tensord
from tensord import defaults
x = tensord.zeros(2)
held, done = threading.Event(), threading.Event()
def hold():
    with defaults._lock:
        held.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    tensord.default_client().list()
    os._exit(0 if tensord.ones(2).tolist() == [1, 1] else 1)
assert os.waitpid(child, 0)[1] == 0
done.set()
thread.join()
assert x.tolist() == [0, 0] and tensord.ones(1).tolist() == [1]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


def test_writes_are_announced(client):
    x = client.zeros(3)
    epoch, version = x.epoch, x._version
    x.numpy()[0] = 1
    x.touch()
    assert x.epoch > epoch and x._version > version
    x.save("touch/x")
    client.touch("touch/x")
    assert x.epoch > epoch + 1


# ---- threads ----


def in_threads(count, work):
    errors = []

    def run(number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.threads
def test_one_client_in_many_threads(client):
    def work(number):
        for i in range(20):
            name = f"threads/{number}"
            client[name] = np.full(100 + i, number)
            x = client[name]
            assert x.numpy().tolist() == [number] * (100 + i)
            y = (x.to("float32") * 2).view(-1, 1)
            assert y.fetch()[0, 0] == 2 * number
            with pytest.raises(tensord.NotFound, match=f"threads/none/{number}"):
                client[f"threads/none/{number}"]

    in_threads(8, work)
    assert len(client.list("threads/")) == 8


@pytest.mark.threads
def test_one_tensor_in_many_threads(client):
    x = client.zeros(8, 1000, dtype="int64")

    def work(number):
        for _ in range(20):
            x[number].add_(1)
            array = x.numpy()
            array[number] += 1
            assert (array[number] == array[number][0]).all()

    in_threads(8, work)
    assert (x.numpy() == 40).all()


@pytest.mark.threads
def test_handles_die_in_other_threads(client):
    handles = [client.ones(50) for _ in range(100)]
    arrays = [x.numpy() for x in handles]

    def work(_number):
        while True:
            try:
                handles.pop()
                arrays.pop()
            except IndexError:
                return
            if len(arrays) % 10 == 0:
                gc.collect()

    in_threads(4, work)
    gc.collect()
    assert client.ones(2).tolist() == [1, 1]


@pytest.mark.threads
def test_closing_while_others_work(daemon):
    client = tensord.connect(daemon.url)
    ready = threading.Barrier(5)

    def work(number):
        if number == 0:
            ready.wait()
            time.sleep(0.05)
            client.close()
            return
        ready.wait()
        with pytest.raises(tensord.ConnectionError, match="closed"):
            while True:
                client.arange(100).numpy()

    in_threads(5, work)


@pytest.mark.threads
def test_the_allocator_is_local_to_its_thread(client):
    inside, done = threading.Event(), threading.Event()
    found = []

    def other(_number):
        assert inside.wait(30)
        found.append(client.from_numpy(np.zeros(3)).reason)
        done.set()

    thread = threading.Thread(target=other, args=(0,))
    thread.start()
    with tensord.allocator():
        inside.set()
        assert done.wait(30)
        assert client.from_numpy(np.zeros(3)).memory == "shared"
    thread.join(30)
    assert found == ["heap"]
