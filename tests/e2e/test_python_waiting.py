"""Waiting in Python: c.wait, c.watch, and that a touch is noticed."""

import signal
import threading
import time

import numpy as np
import pytest
import tensord
from tensord import Event
from tensord._session import Reply
from tensord._tensord import ffi, lib
from tensord.errors import check
from test_python_client_faults import PROMPT_S, interrupted_after


def later(seconds, function, *arguments):
    timer = threading.Timer(seconds, function, arguments)
    timer.start()
    return timer


def test_wait_for_a_name(client):
    later(0.2, client.put, "late", np.arange(3))
    begun = time.monotonic()
    x = client.wait("late")
    assert time.monotonic() - begun >= 0.15
    assert isinstance(x, tensord.Tensor) and x.tolist() == [0, 1, 2] and x.name == "late"
    assert client.wait("late", timeout=0).generation == x.generation
    assert client.wait("late", generation=x.generation - 1).generation == x.generation
    del client["late"]


def test_wait_for_a_newer_one(client, second):
    client["x"] = np.zeros(2)
    first = client["x"].generation
    later(0.2, second.run, "c['x'] = [1, 2]")
    x = client.wait("x", generation=first, timeout=20)
    assert x.tolist() == [1, 2] and x.generation > first


def test_a_touch_is_noticed(client, second):
    x = client.put("shared", np.zeros(2), mutable=True)
    with pytest.raises(TimeoutError):
        client.wait("shared", generation=x.generation, timeout=0.01)
    second.run("x = c['shared']; x.numpy()[:] = 7")
    later(0.2, second.run, "x.touch()")
    touched = client.wait("shared", generation=x.generation, timeout=20)
    assert touched.id == x.id and x.numpy().tolist() == [7, 7]
    touched.touch()  # one's own is not waited for
    with pytest.raises(tensord.Deadline, match="still is"):
        client.wait("shared", generation=touched.generation, timeout=0.01)
    client["shared"] = np.ones(1)
    assert client["shared"].generation > touched.generation
    before = client["shared"].generation
    touched.touch()  # the name is another's now
    assert client["shared"].generation == before


def test_timeouts(client):
    for timeout in (0, 0.05, 0.2):
        begun = time.monotonic()
        with pytest.raises(TimeoutError) as raised:
            client.wait("never", timeout=timeout)
        assert timeout <= time.monotonic() - begun < timeout + 5
        assert isinstance(raised.value, tensord.Deadline) and "'never'" in str(raised.value)
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            client.wait("never", timeout=wrong)
        with pytest.raises(ValueError, match="timeout"):
            client.watch(timeout=wrong)


def test_longer_than_the_clients_own_timeout(daemon):
    with tensord.connect(daemon.url, timeout=0.3) as impatient:
        for timeout in (None, 20):
            later(1.2, impatient.put, "slow", np.ones(1))
            begun = time.monotonic()
            assert impatient.wait("slow", timeout=timeout).tolist() == [1]
            assert time.monotonic() - begun > 1
            del impatient["slow"]


def test_other_threads_go_on(client):
    threads = [threading.Thread(target=client.wait, args=("all",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        assert client.ping(b"x") == b"x"
    assert all(thread.is_alive() for thread in threads)
    session = client.session.count()
    client["all"] = np.ones(1)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert client.session.count() == session
    del client["all"]


def test_ctrl_c_ends_waiting(client):
    session = client.session.count()
    with interrupted_after(0.3) as times:
        with pytest.raises(KeyboardInterrupt):
            client.wait("never")
        assert time.monotonic() - times[0] < PROMPT_S
    with interrupted_after(0.3):
        with pytest.raises(KeyboardInterrupt):
            next(client.watch("never"))
    assert client.ping(b"x") == b"x" and client.session.count() == session


def test_closing_ends_waiting(daemon):
    client = tensord.connect(daemon.url)
    raised = []

    def wait():
        try:
            client.wait("never", timeout=1.5)
        except tensord.Error as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    client.close()  # what still runs keeps the connection until it is done
    thread.join(20)
    assert [type(error) for error in raised] in ([tensord.Deadline], [tensord.ConnectionError])


def test_watch(client):
    client["w/old"] = np.ones(1)
    events = client.watch("w/")
    client["w/a"] = np.ones(1)
    client["elsewhere"] = np.ones(1)
    generation = client["w/a"].generation
    client.rename("w/a", "w/b")
    del client["w/b"]
    assert [next(events) for _ in range(4)] == [
        Event("publish", "w/a", generation),
        Event("publish", "w/b", generation + 2),
        Event("remove", "w/a", generation + 3),
        Event("remove", "w/b", generation + 4),
    ]
    again = client.watch("w/", since=generation + 2, timeout=0)
    assert [event.revision for event in again] == [generation + 3, generation + 4]
    later(0.2, client.put, "w/late", np.ones(1))
    event = next(events)
    assert event.event == "publish" and event.name == "w/late"
    assert list(client.watch("w/", timeout=0.05)) == []
    with pytest.raises(OverflowError):
        next(client.watch(since=-1))


def test_watch_tells_what_was_lost(client):
    events = client.watch("often")
    client["often"] = np.ones(1)
    assert next(events).event == "publish"
    since = client["often"].generation
    for _ in range(42):
        client.put_state_dict("many", {str(i): np.ones(1) for i in range(100)})
    client["often"] = np.ones(1)
    assert next(events) == Event("lost", "", since)
    event = next(events)
    assert event.name == "often" and event.revision == client["often"].generation


def test_the_c_functions(client):
    """td_wait and td_watch, which Python does not use itself."""
    connection = client.session.connection()
    since, out = ffi.new("uint64_t *", 2**64 - 1), ffi.new("struct td_reply **")
    prefix, name = ffi.new("char[]", b"cw/"), ffi.new("char[]", b"cw/x")
    check(lib.td_watch(connection, prefix, since, 0, out))
    assert Reply(out[0]).uint("count") == 0 and since[0] < 2**63
    with pytest.raises(tensord.Deadline):
        check(lib.td_wait(connection, name, 0, 20, out))
    later(0.1, client.put, "cw/x", np.ones(2))
    check(lib.td_wait(connection, name, 0, -1, out))
    generation = Reply(out[0]).info().generation
    check(lib.td_wait(connection, name, generation - 1, -1, ffi.NULL))
    with pytest.raises(tensord.Deadline, match="anew"):
        check(lib.td_wait(connection, name, generation, 1, ffi.NULL))
    check(lib.td_watch(connection, prefix, since, -1, out))
    assert since[0] >= generation
    assert [e.text("name") for e in Reply(out[0]).entries()] == ["cw/x"]


def test_watch_in_a_signal_handlers_company(client):
    """A handler that raises nothing does not end the waiting."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        later(0.5, client.put, "alarmed", np.ones(1))
        assert next(client.watch("alarmed")).name == "alarmed"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
