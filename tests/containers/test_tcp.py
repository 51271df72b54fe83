"""Containers that share no folder: by TCP everything works the same, and is copied."""

import os

import pytest
from containers import (
    BASES, INSIDE, MIB, Client, Daemon, connect_networks, need_namespaces, run, temporary_folder,
)  # fmt: skip

TOKEN = "0123456789abcdef0123456789abcdef"
# Of documentation's own network (RFC 5737): nowhere else is it used.
DAEMON, CLIENT = "192.0.2.1", "192.0.2.2"


@pytest.fixture(scope="module")
def daemon():
    need_namespaces()
    with temporary_folder(owner=BASES["daemon"]) as folder:
        token = folder / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        os.chown(token, BASES["daemon"], BASES["daemon"])
        options = ("--no-socket", "--no-http", "--tcp", "0.0.0.0:7071",
                   "--token-file", f"{INSIDE}/token")  # fmt: skip
        with Daemon(folder, *options, container="daemon") as running:
            yield running


@pytest.fixture(scope="module")
def client(daemon):
    def before(process):
        connect_networks(daemon.process, process, (f"{DAEMON}/30", f"{CLIENT}/30"))

    with Client("a", f"tcp://{DAEMON}:7071", before=before, token=TOKEN) as connected:
        yield connected


def test_nothing_but_the_network_is_shared(daemon, client):
    assert not client.ask(f"os.path.exists('{INSIDE}')")
    assert client.ask("c.is_local") is False
    routes = run("nsenter", f"--net=/proc/{daemon.process.pid}/ns/net", "ip", "-o", "route")
    assert routes.startswith("192.0.2.0/30 dev cable") and routes.count("\n") == 1, routes


def test_the_same_calls_copy_and_say_so(client):
    client.run(f"t = c.full(({16 * MIB},), 3, dtype='float32', name='x'); x = t.numpy()")
    assert client.ask("[t.memory, t.reason]") == ["copied", "transport"]
    assert client.ask("[x.nbytes, float(x.min()), float(x.max())]") == [64 * MIB, 3, 3]
    client.run("x[0] = 9; c['y'] = x; t = c['y']; y = t.numpy()")
    assert client.ask("[t.memory, t.reason, float(y[0]), float(y[1])]") == [
        "copied", "transport", 9, 3]  # fmt: skip
    assert client.ask("float(c['x'].numpy()[0])") == 3  # the copy was the client's own
    client.run("h = c['x'].to('float16').detach().cpu(); z = h.numpy()")
    assert client.ask("[str(z.dtype), float(z[-1]), h.memory, h.reason]") == [
        "float16", 3, "copied", "transport"]  # fmt: skip
    client.run("with tensord.allocator(): a = np.arange(1 << 20, dtype='f4')")
    client.run("t = c.from_numpy('mine', a)")
    assert client.ask("[t.memory, t.reason]") == ["copied", "transport"]
    client.run("for name in list(c): del c[name]")


def test_a_wrong_token_is_refused(client):
    client.run(f"""
try:
    tensord.connect("tcp://{DAEMON}:7071", token="x" * 32)
    said = "connected"
except tensord.Error as error:
    said = str(error)
""")
    assert "token" in client.ask("said")
