"""The daemon under a service manager: sockets that are handed over, and what it reports."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import plain_client as plain
import pytest
from harness import SMALL, START_S, Daemon, binary, environment, get, put
from plain_client import PlainClient
from ready import wait_until_ready

TOKEN = "0123456789abcdef0123456789abcdef"
# Puts descriptors where a service manager would, 3 and following, and becomes the daemon.
HAND_OVER = """
import os, sys
fds, names, pid, command = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
high = [os.dup(int(fd)) for fd in fds.split(",")]
high = [os.dup2(fd, 100 + i, inheritable=False) for i, fd in enumerate(high)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
os.environ.update(LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=names,
                  LISTEN_PID=pid or str(os.getpid()))
os.execv(command[0], command)
"""


class Activated(Daemon):
    """A daemon that is given sockets: [(name, socket)]."""

    def __init__(self, folder, sockets, *options, env=None, pid=""):
        self.folder = folder
        self.socket, self.log_file, self.control = folder / "s", folder / "log", None
        self.command = hand_over(sockets, pid, *SMALL, *options)
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=environment(**(env or {})),
                pass_fds=[s.fileno() for _, s in sockets])  # fmt: skip
        try:
            wait_until_ready(self.process, self.log, START_S)
        except BaseException:
            self.kill()
            raise

    def _forget(self):
        """The folder is the test's."""
        if self.control:
            self.control.close()
            self.control = None


def hand_over(sockets, pid, *options):
    fds = ",".join(str(s.fileno()) for _, s in sockets)
    names = ":".join(name for name, _ in sockets)
    return [sys.executable, "-c", HAND_OVER, fds, names, pid, binary(), *map(str, options)]


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="td-") as path:  # short enough for a socket's path
        yield pathlib.Path(path)


@pytest.fixture
def listen():
    """listen(path or (host, port)) is a listening socket, closed after the test."""
    with contextlib.ExitStack() as stack:

        def listening(address):
            family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
            made = stack.enter_context(socket.socket(family))
            made.bind(address if isinstance(address, tuple) else str(address))
            made.listen(16)
            return made

        yield listening


@pytest.fixture
def manager(folder):
    """What the daemon reports is read from this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(folder / "notify"))
        made.settimeout(START_S)
        yield made


NO_DOORS = ("--no-socket", "--no-tcp", "--no-http")


def three(folder, listen):
    return [("http", listen(("127.0.0.1", 0))), ("unix", listen(folder / "s")),
            ("tcp", listen(("127.0.0.1", 0)))]  # fmt: skip


def address(sock):
    return "{}:{}".format(*sock.getsockname())


def test_each_socket_is_the_door_it_is_named_after(folder, listen, manager):
    sockets = three(folder, listen)
    env = {"NOTIFY_SOCKET": str(folder / "notify")}
    with Activated(folder, sockets, *NO_DOORS, env=env) as daemon:
        log = daemon.log()
        for scheme, where in (("http", address(sockets[0][1])), ("unix", folder / "s"),
                              ("tcp", address(sockets[2][1]))):  # fmt: skip
            assert f"{scheme}://{where}" in log
        ready = manager.recv(4096).decode().splitlines()
        assert "READY=1" in ready
        assert any(re.fullmatch(r"STATUS=Serving unix://.*http://.*", line) for line in ready)
        with PlainClient(daemon.url) as local, PlainClient(daemon.tcp_url) as remote:
            put(local, "x", b"abc")
            assert get(remote, "x") == b"abc"
        with urllib.request.urlopen(f"{daemon.http_url}/v1/tensors/x?format=raw",
                                    timeout=30) as answer:  # fmt: skip
            assert answer.read() == b"abc"
    assert "STOPPING=1" in manager.recv(4096).decode().splitlines()


def test_the_sockets_outlive_the_daemon(folder, listen):
    """As when systemd restarts the service: who connects meanwhile is served by the next one."""
    sockets = three(folder, listen)
    for _ in range(2):
        with Activated(folder, sockets) as daemon:
            PlainClient(daemon.url).close()
        assert (folder / "s").is_socket()
    early = [PlainClient(daemon.url, hello=False), PlainClient(daemon.tcp_url, hello=False)]
    with Activated(folder, sockets) as daemon:
        for client in early:
            assert client.request("hello", {"protocol": 1})[0] == "ok"
            client.close()
        with urllib.request.urlopen(f"{daemon.http_url}/v1/tensors", timeout=30) as answer:
            assert answer.status == 200


def test_the_other_doors_are_as_the_options_say(folder, listen):
    given = [("tcp", listen(("127.0.0.1", 0)))]
    options = ("--socket", folder / "own", "--tcp", "127.0.0.1:1", "--no-http")
    with Activated(folder, given, *options) as daemon:
        assert daemon.tcp_url == f"tcp://{address(given[0][1])}"
        assert "http://" not in daemon.log()
        PlainClient(f"unix://{folder / 'own'}").close()
        daemon.control = PlainClient(daemon.tcp_url)
        daemon.quiet()
    assert not (folder / "own").exists()


def test_sockets_for_another_process_are_not_taken(folder, listen):
    given = [("unix", listen(folder / "other"))]
    with Activated(folder, given, "--socket", folder / "s", "--no-tcp", "--no-http", pid="1"):
        with PlainClient(f"unix://{folder / 's'}") as client:
            assert client.request("ping", {}, b"x")[2] == b"x"
    assert (folder / "other").is_socket() and not (folder / "s").exists()


def refuses(sockets, *options, code):
    done = subprocess.run(hand_over(sockets, "", *SMALL, *options), capture_output=True, text=True,
                          timeout=START_S, env=environment(),
                          pass_fds=[s.fileno() for _, s in sockets])  # fmt: skip
    assert done.returncode == code and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", ["tcp", "http"])
def test_beyond_loopback_a_token_is_needed(folder, listen, name):
    given = [(name, listen(("0.0.0.0", 0)))]
    message = refuses(given, *NO_DOORS, code=1)
    assert address(given[0][1]) in message and "--token-file" in message
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with Activated(folder, given, *NO_DOORS, "--token-file", token) as daemon:
        port = given[0][1].getsockname()[1]
        if name == "tcp":
            PlainClient(f"tcp://127.0.0.1:{port}", token=TOKEN).close()
            with pytest.raises(plain.Refused, match="unauthorized"):
                PlainClient(f"tcp://127.0.0.1:{port}", token="")
        assert "clients need the token" in daemon.log()


def test_sockets_that_are_none_of_these(folder, listen):
    unix, tcp = listen(folder / "s"), listen(("127.0.0.1", 0))
    message = refuses([("unknown", unix)], code=2)
    assert "'unknown'" in message and "FileDescriptorName=" in message
    assert "two sockets named 'tcp'" in refuses([("tcp", tcp), ("tcp", tcp)], code=2)
    assert "'tcp'" in refuses([("tcp", unix)], code=2)
    assert "'unix'" in refuses([("unix", tcp)], code=2)
    with socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        idle.bind(("127.0.0.1", 0))
        datagrams.bind(("127.0.0.1", 0))
        assert "listen" in refuses([("http", idle)], code=2)
        assert "ListenStream=" in refuses([("tcp", datagrams)], code=2)


def test_socket_activation_by_systemd(folder):
    tool = shutil.which("systemd-socket-activate")
    if not tool:
        pytest.skip("systemd-socket-activate is not here (Debian package systemd)")
    path = folder / "s"
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([tool, "-l", str(path), "--fdname=unix", binary(), *SMALL,
                                    *NO_DOORS], stdout=log, stderr=log,
                                   env=environment())  # fmt: skip
    try:
        deadline = time.monotonic() + START_S
        while not path.is_socket():
            assert process.poll() is None and time.monotonic() < deadline, "it does not listen"
            time.sleep(0.01)
        with PlainClient(f"unix://{path}") as client:  # which starts the daemon
            put(client, "x", b"abc")
            assert get(client, "x") == b"abc"
        process.terminate()
        assert process.wait(START_S) == 0
    finally:
        process.kill()
        process.wait()
    assert path.is_socket()
