"""Containers that have nothing in common but a mounted folder with the daemon's socket in it."""

import contextlib
import os
import time

import pytest
from containers import (
    BASES, INSIDE, MIB, NAMESPACES, QUOTA, UNKNOWN, Client, Daemon, need_namespaces,
    temporary_folder,
)  # fmt: skip

URL = f"unix://{INSIDE}/socket"
ELEMENTS = 512 * MIB // 4
SPOTS = (0, 1, ELEMENTS // 2, ELEMENTS - 1)


@pytest.fixture(scope="module", params=["daemon in a container", "daemon on the host"])
def daemon(request):
    need_namespaces()
    container = "daemon" if request.param == "daemon in a container" else None
    with temporary_folder(owner=BASES["daemon"] if container else 0) as folder:
        path = f"{INSIDE if container else folder}/socket"
        # Users of other containers are nobody in particular: the folder says who may connect.
        options = ("--socket", path, "--socket-mode", "0666", "--no-tcp", "--no-http",
                   *QUOTA)  # fmt: skip
        with Daemon(folder, *options, container=container) as running:
            yield running


@pytest.fixture
def both(daemon):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(n, URL, [(daemon.folder, INSIDE)])) for n in "ab"]


def values(client, array):
    return client.ask(f"{array}[list({SPOTS})].tolist()")


def test_they_are_containers(daemon, both):
    mine = {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
    a, b = (client.namespaces() for client in both)
    for name in NAMESPACES:
        assert len({mine[name], a[name], b[name]}) == 3, name
    assert [client.ask("os.getpid()") for client in both] == [1, 1]
    assert all(client.shm() == [64 * MIB, 0] for client in both)
    # Users that the daemon's namespace has no number for are all the same one to it.
    seen = [daemon.peer_uid(client) for client in both]
    assert seen == ([UNKNOWN, UNKNOWN] if daemon.container else [BASES["a"], BASES["b"]])


def test_512_mib_are_one_memory(both):
    a, b = both
    before = a.ask("c.stats()")["memory_used_bytes"]
    a.run(f"t = c.zeros({ELEMENTS}, dtype='float32', name='big'); x = t.numpy()")
    b.run("t = c['big']; y = t.numpy()")
    assert [client.ask("[t.memory, t.reason]") for client in both] == [["shared", ""]] * 2
    assert b.ask("[y.nbytes, y.flags.writeable]") == [512 * MIB, True]
    a.run(f"x[list({SPOTS})] = [1, 2, 3, 4]")
    assert values(b, "y") == [1, 2, 3, 4]
    b.run("y[:] = 7")
    assert values(a, "x") == [7, 7, 7, 7]
    assert a.ask("[float(x.min()), float(x.max())]") == [7, 7]
    used = a.ask("c.stats()")["memory_used_bytes"] - before
    assert 512 * MIB <= used < 520 * MIB, "there is one copy of it"
    assert all(client.shm() == [64 * MIB, 0] for client in both)
    a.run("del c['big'], x, t")
    assert values(b, "y") == [7, 7, 7, 7]  # who has mapped it keeps it
    b.run("del y, t")


def test_the_memory_of_a_client_is_shared_too(both):
    """A descriptor that was made in one container, in the daemon's and another one's hands."""
    a, b = both
    a.run("with tensord.allocator(): x = np.arange(1 << 20, dtype='f4')")
    a.run("t = c.from_numpy('mine', x, require_shared=True)")
    b.run("y = c['mine'].numpy(); y[5] = -1")
    assert a.ask("[t.memory, float(x[5])]") == ["shared", -1]
    a.run("del c['mine']")


def test_a_frozen_tensor_is_shared_for_reading(both):
    a, b = both
    a.run("c['frozen'] = np.arange(1 << 20, dtype='i8')")
    b.run("t = c['frozen']; y = t.numpy()")
    assert b.ask("[t.memory, y.flags.writeable, int(y.sum())]") == [
        "shared", False, (1 << 19) * ((1 << 20) - 1)]  # fmt: skip
    a.run("del c['frozen']")


WORK = """
failures = []

def work(i):
    try:
        c.wait(f"{who}/go", timeout=30)  # each over a connection of its own
        made = c.full((1 << 18,), i, dtype="int64", name=f"{who}/{i}")
        made.numpy()[0] = 10 + i
    except Exception as error:
        failures.append(repr(error))

threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
"""
FINISH = """
c.zeros((), name=f"{who}/go")
for thread in threads:
    thread.join(60)
"""


def test_several_connections_in_one_session(both):
    """Calls that run at the same time have a connection each, to the session of the first."""
    before = both[0].ask("c.stats()")["connections"]
    for already, who, client in zip((0, 4), "ab", both):
        client.run(f"who = '{who}'" + WORK)
        deadline = time.monotonic() + 30
        while client.ask("c.stats()")["connections"] < before + already + 4:
            assert time.monotonic() < deadline, client.ask("failures")
            time.sleep(0.01)
    for client in both:
        client.run(FINISH)
        assert client.ask("failures") == []
    for who, client in zip("ba", both):
        client.run(f"t = [c[f'{who}/{{i}}'] for i in range(4)]; y = [one.numpy() for one in t]")
        assert client.ask("[[int(n) for n in one[:2]] for one in y]") == [
            [10 + i, i] for i in range(4)]  # fmt: skip
        assert client.ask("[one.memory for one in t]") == ["shared"] * 4
    assert client.ask("c.stats()")["sessions"] == 2
    client.run("for name in list(c): del c[name]")
