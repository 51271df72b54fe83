"""Clients and handles in other processes: after fork(), in spawned ones, in pickles and in
DataLoader."""

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time

import numpy as np
import process_roles as roles
import pytest
import torch

import tensord

ANSWER_S = 120


def in_child(action):
    """What action() returns in a child after fork(), or what it raises as (name, text)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(ANSWER_S)
        os.write(write, pickle.dumps(roles.told(action)))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        data = answer.read()
    assert os.waitpid(child, 0)[1] == 0
    return pickle.loads(data)


# ---- fork ----------------------------------------------------------------------------------------


def test_a_client_after_fork(client):
    client["fork/x"] = np.arange(50_000.0)
    session = client.session.count()

    def use():
        client["fork/y"] = [1, 2]
        return client["fork/x"].numpy()[-1], client.stats()["sessions"], client.session.count()

    done, (last, sessions, other) = in_child(use)
    assert (done, last, sessions) == ("done", 49_999.0, 2) and other != session
    assert client["fork/y"].tolist() == [1, 2] and client.session.count() == session


def test_handles_and_arrays_after_fork(client):
    x = client.put("fork/z", np.arange(50_000.0), mutable=True)
    array, anonymous = x.numpy(), client.ones(5)

    def use():
        x[0] = 7  # through a session of this process
        before = array[0], x.numpy()[0]
        array[1] = 8  # through the parent's mapping, which is this process's as well
        return before, x[1].item(), x.name, client.operand(x) is x

    assert in_child(use) == ("done", ((7, 7), 8, "fork/z", True))
    assert array[:2].tolist() == [7, 8]
    name, text = in_child(anonymous.tolist)
    assert name == "ConnectionError" and "x.save(name)" in text
    assert anonymous.tolist() == [1] * 5  # here it is as it was


def test_what_the_child_holds_goes_with_it(client, usage):
    x = client.put("fork/held", np.zeros(50_000))
    before = usage.now()

    def use():
        arrays = [x.numpy() for _ in range(10)]
        return client.stats()["leases"] - before["leases"], len(arrays)

    assert in_child(use) == ("done", (10, 10))
    usage.settles_at(before)


def test_a_name_that_moved_on_is_told(client):
    x = client.put("fork/moved", [1, 2])
    client["fork/moved"] = [3, 4]
    name, text = in_child(x.tolist)
    assert name == "Precondition" and "another tensor" in text
    del client["fork/moved"]
    assert in_child(x.tolist)[0] == "NotFound"
    assert x.tolist() == [1, 2]


def test_a_closed_client_stays_closed(daemon):
    other = tensord.connect(daemon.url)
    other.close()
    assert in_child(other.ping)[0] == "ConnectionError"


def test_grandchildren(client):
    x = client.put("fork/grand", [5.0])

    def use():
        mine = x.item()
        return mine, in_child(lambda: (x.item(), client.session.count())), client.session.count()

    done, (mine, (inner, (theirs, inner_session)), session) = in_child(use)
    assert (done, inner, mine, theirs) == ("done", "done", 5, 5)
    assert len({session, inner_session, client.session.count()}) == 3


def test_an_allocation_is_its_processs(client, usage):
    before = usage.now()
    memory = client.allocate(50_000)
    memory.array[:] = 1
    name, text = in_child(lambda: memory.publish("fork/not"))
    assert name == "ConnectionError" and "allocate anew" in text
    assert in_child(lambda: roles.publish_filled(client, "fork/mine", 4)) == ("done", True)
    assert memory.publish("fork/yes").memory == "shared"  # the child, which had it mapped, is gone
    del memory, client["fork/yes"], client["fork/mine"]
    usage.settles_at(before)


def test_a_child_that_can_still_write_makes_it_a_copy(client):
    memory = client.allocate(50_000)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # until the parent is through
        memory.array[:] = 9
        os._exit(0)
    memory.array[:] = 3
    x = memory.publish("fork/copied", wait=0.1)
    os.close(write)
    os.waitpid(child, 0)
    os.close(read)
    assert (x.memory, x.reason, x.mode) == ("copied", "mode", "frozen")
    assert x.numpy().min() == x.numpy().max() == 3


@pytest.mark.parametrize("closed", [False, True])
def test_a_child_does_not_keep_the_parents_leases(daemon, client, closed):
    """Nor does it end them: it has copies of the parent's descriptors for a moment only."""
    other = tensord.connect(daemon.url)
    arrays = [other.zeros(50_000).numpy()]
    if closed:
        other.close()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        arrays.clear()
        gc.collect()
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    time.sleep(0.1)
    assert len(client.leases()) == 1
    arrays.clear()
    gc.collect()
    deadline = time.monotonic() + 20
    while client.leases():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(write)
    os.waitpid(child, 0)
    other.close()


@pytest.mark.threads
def test_fork_while_other_threads_call(client):
    x = client.put("fork/busy", np.arange(50_000.0), mutable=True)
    stop, errors = threading.Event(), []

    def call():
        try:
            while not stop.is_set():
                x.numpy()[0] += 0
                client.zeros(1000).numpy()
                x[1:100].clone()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert in_child(lambda: (x.numpy()[-1], client.ones(3).tolist())) == (
                "done", (49_999.0, [1, 1, 1]))  # fmt: skip
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors


def test_threads_of_a_child_connect_once(client):
    def use():
        found = []
        threads = [threading.Thread(target=lambda: found.append(client.session.count()))
                   for _ in range(16)]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.collect()
        return len(found), len(set(found))

    assert in_child(use) == ("done", (16, 1))


# ---- pickles -------------------------------------------------------------------------------------


def test_a_pickled_client_connects_when_it_is_used(daemon, client):
    data = pickle.dumps(client)
    before = client.stats()["sessions"]
    again = pickle.loads(data)
    assert client.stats()["sessions"] == before and not again.closed
    assert again.ping(b"x") == b"x" and again is not client
    assert pickle.loads(data) is again  # one connection for all of them
    again.close()
    third = pickle.loads(data)
    assert third is not again and third.ping() == b""
    third.close()
    with pytest.raises(tensord.ConnectionError, match="closed"):
        pickle.dumps(third)


def test_a_pickle_knows_token_and_timeout(daemon):
    with tensord.connect(daemon.url, token="secret", timeout=7.5) as one:
        assert pickle.loads(pickle.dumps(one)).session.arguments() == (daemon.url, "secret", 7.5)
    os.environ["TENSORD_URL"] = daemon.url
    try:
        with tensord.connect() as two:  # where the environment leads is part of it
            assert pickle.loads(pickle.dumps(two)).session.arguments()[0] == daemon.url
    finally:
        del os.environ["TENSORD_URL"]


def test_pickled_handles(client):
    x = client.put("pickle/x", np.arange(6).reshape(2, 3), requires_grad=True)
    y = pickle.loads(pickle.dumps(x))
    assert isinstance(y, tensord.Variable) and y.id == x.id and y.name == "pickle/x"
    assert (y.shape, y.dtype) == ((2, 3), tensord.int64)  # without a word to the daemon
    assert y.detach().tolist() == x.detach().tolist() and y.requires_grad
    both = pickle.loads(pickle.dumps({"a": x, "c": client}))
    assert both["a"]._client is both["c"]
    with pytest.raises(TypeError, match="x.save"):
        pickle.dumps(client.ones(2))
    stale = pickle.loads(pickle.dumps(x))
    client["pickle/x"] = [1]
    with pytest.raises(tensord.Precondition, match="another tensor"):
        stale.detach()
    assert y.shape == (2, 3) and y.detach().tolist() == [[0, 1, 2], [3, 4, 5]]  # it holds it
    y._client.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_handles_through_a_queue(client, method):
    context = multiprocessing.get_context(method)
    inbox, outbox = context.Queue(), context.Queue()
    worker = context.Process(target=roles.through_queue, args=(inbox, outbox), daemon=True)
    worker.start()
    for value in range(5):
        inbox.put(client.put(f"queue/{value}", np.full(50_000, value)))
        assert outbox.get(timeout=ANSWER_S) == ("done", value * 50_000)
    gone = client.put("queue/gone", [1])
    client["queue/gone"] = [2]
    inbox.put(gone)
    assert outbox.get(timeout=ANSWER_S)[0] == "Precondition"
    assert client.stats()["sessions"] == 2  # one for all that came
    inbox.put(None)
    worker.join(ANSWER_S)
    assert worker.exitcode == 0


# ---- DataLoader ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_data_loader(daemon, method):
    with tensord.connect(daemon.url) as client, tensord.connect(daemon.url) as control:
        rows = client.put("rows", np.arange(64 * 100, dtype=np.float32).reshape(64, 100))
        mapped = rows.numpy()  # before the workers are made
        loader = torch.utils.data.DataLoader(
            roles.Named(client, rows), batch_size=8, num_workers=2,
            multiprocessing_context=method, timeout=ANSWER_S,
        )  # fmt: skip
        for _ in range(2):  # epochs, with new workers each
            seen, workers = [], set()
            for batch, worker in loader:
                seen.append(batch.numpy())
                workers.update(worker.tolist())
            assert workers == {0, 1} and np.array_equal(np.concatenate(seen), mapped)
        assert client["rows"].id == rows.id
        deadline = time.monotonic() + 20
        while control.stats()["sessions"] > 2 or len(control.leases()) > 1:
            assert time.monotonic() < deadline, (control.stats(), control.leases())
            time.sleep(0.01)


def test_a_data_loader_of_the_default_client(daemon):
    client = tensord.connect(daemon.url)
    tensord.set_default_client(client)
    try:
        tensord.default_client()["rows"] = np.ones((16, 4), np.float32)
        loader = torch.utils.data.DataLoader(roles.Named(client, client["rows"]), num_workers=2)
        assert sum(float(batch.sum()) for batch, _worker in loader) == 64
    finally:
        tensord.set_default_client(None)
        client.close()
