"""tensorctl on a terminal, when it is interrupted, and when there is no daemon."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import numpy as np
import pytest
from harness import eventually
from test_tensorctl import PATIENCE_S, binary, ctl, environment  # noqa: F401

from conftest import Daemon

MIB = 1 << 20
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Terminal:
    """A process with a terminal for its output, and for its input unless that is given."""

    def __init__(self, words, env, stdin=None, width=80, cwd=None):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        self.process = subprocess.Popen(
            [str(word) for word in words],
            stdin=slave if stdin is None else stdin,
            stdout=slave,
            stderr=slave,
            env=env,
            cwd=cwd,
        )
        os.close(slave)
        self.seen = b""

    def read_until(self, pattern):
        """Waits until the terminal has shown it."""
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, (pattern, self.seen)
            if not select.select([self.master], [], [], 0.1)[0]:
                continue
            with contextlib.suppress(OSError):  # EIO: the other side has closed
                more = os.read(self.master, 65536)
                self.seen += more
                if more:
                    continue
            assert re.search(pattern, self.seen), (pattern, self.seen)
        return self.seen

    def type(self, text):
        os.write(self.master, text.encode())

    def finish(self, code=0):
        """All that was shown, after the process has ended with that exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    more = os.read(self.master, 65536)
                except OSError:
                    break
                if not more:
                    break
                self.seen += more
        assert self.process.wait(PATIENCE_S) == code, self.seen
        os.close(self.master)
        return self.seen.decode().replace("\r\n", "\n")


def show(ctl, *words, code=0, **env):
    """What a terminal shows of a command."""
    return Terminal([binary(), *words], environment(ctl.url, **env)).finish(code)


class SlowWay:
    """A TCP way to the daemon that lets so many bytes a second through, in both directions."""

    def __init__(self, target, bytes_a_second):
        host, port = target.removeprefix("tcp://").split(":")
        self.target, self.rate, self.ends = (host, int(port)), bytes_a_second, False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.url = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self):
        with contextlib.suppress(OSError):
            here, _ = self.listener.accept()
            there = socket.create_connection(self.target)
            for source, sink in ((here, there), (there, here)):
                sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                self.threads.append(threading.Thread(target=self._carry, args=(source, sink)))
                self.threads[-1].start()

    def _carry(self, source, sink):
        piece = max(self.rate // 50, 1)
        with contextlib.suppress(OSError):
            while not self.ends:
                data = source.recv(piece)
                if not data:
                    break
                sink.sendall(data)
                if len(data) > 4096:
                    time.sleep(len(data) / self.rate)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.ends = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(PATIENCE_S)


# ---- colours, the tree ---------------------------------------------------------------------------

TREE = """\
a              int64    [1]      8 B  cpu  frozen
model/
├── head.w     int64    [1]      8 B  cpu  frozen
└── layer.
    ├── 0.
    │   ├── b  int64    [1]      8 B  cpu  frozen
    │   └── w  int64    [1]      8 B  cpu  frozen
    └── 1.w    int64    [1]      8 B  cpu  frozen
x              int64    [1]      8 B  cpu  mutable
x/
├── y          int64    [100]  800 B  cpu  frozen
└── ü          float32  [2]      8 B  cpu  mutable  grad
8 tensors, 856 B
"""


@pytest.fixture
def tree(client):
    for name in ("model/layer.0.w", "model/layer.0.b", "model/layer.1.w", "model/head.w", "a"):
        client[name] = np.zeros(1, np.int64)
    client.put("x", np.zeros(1, np.int64), mutable=True)
    client["x/y"] = np.zeros(100, np.int64)
    client.variable("x/ü", np.zeros(2, np.float32), requires_grad=True)


def test_a_terminal_shows_a_tree(ctl, tree):
    assert show(ctl, "ls", "--no-color") == TREE
    flat = show(ctl, "ls", "--flat", "--no-color").splitlines()
    assert flat[1] == "model/head.w     int64    [1]      8 B  cpu  frozen"
    assert show(ctl, "ls", "-1", "x") == "x\nx/y\nx/ü\n"


def test_colours_are_for_terminals_that_want_them(ctl, tree):
    plain = show(ctl, "ls", "--no-color")
    coloured = show(ctl, "ls")
    assert "\x1b[1m" in coloured and ESCAPES.sub("", coloured) == plain
    assert show(ctl, "ls", NO_COLOR="1") == plain
    assert show(ctl, "ls", NO_COLOR="") == coloured
    assert show(ctl, "ls", TERM="dumb") == plain
    assert "\x1b" not in ctl.text("ls") and "\x1b" not in ctl.text("info", "a")


def test_an_empty_daemon_says_so(ctl):
    assert show(ctl, "ls") == "nothing matches\n"
    assert show(ctl, "ls", "p") == "nothing matches: p\n"
    assert show(ctl, "ls", "p", "-q") == ""


def test_binary_is_not_for_terminals(ctl, client):
    client["x"] = np.arange(3)
    shown = show(ctl, "get", "x", code=2)
    assert "npy is nothing for a terminal; name a file with -o x.npy" in shown
    assert "tensorctl show x" in shown
    assert show(ctl, "get", "x", "--format", "text") == "tensor([0, 1, 2])\n"
    assert json.loads(show(ctl, "get", "x", "--json"))["data"] == [0, 1, 2]


@pytest.mark.parametrize("answer, left", [("y\n", []), ("n\n", ["p/1"]), ("\x04", ["p/1"])])
def test_rm_asks(ctl, client, answer, left):
    client["p/1"] = np.ones(1)
    terminal = Terminal([binary(), "rm", "-p", "p/"], environment(ctl.url))
    terminal.read_until(rb"remove 1 name that begins with 'p/'\? \[y/N\] ")
    terminal.type(answer)
    terminal.finish(1 if left else 0)
    assert client.list() == left


def test_stats_draws_anew(ctl):
    shown = show(ctl, "stats", "--watch", "0.05", "-c", "2")
    assert shown.count("\x1b[H\x1b[2J") == 2 and shown.count("memory_used_bytes") == 2


# ---- progress ------------------------------------------------------------------------------------

BAR = rb"\r(\S+) \[=*>? *\]  +(\d+)%  [\d.]+ [KM]?i?B of 6\.0 MiB  [\d.]+ [KM]iB/s  \d+ s left"


def test_progress_of_a_put(ctl, daemon, client, tmp_path):
    np.save(tmp_path / "x.npy", np.ones(6 * MIB, np.uint8))
    with SlowWay(daemon.tcp_url, 10 * MIB) as way:
        words = [binary(), "put", "x", tmp_path / "x.npy"]
        shown = Terminal(words, environment(way.url), width=100).finish()
    steps = [(label, int(percent)) for label, percent in re.findall(BAR, shown.encode())]
    assert steps and all(label == b"x" for label, _ in steps)
    assert [percent for _, percent in steps] == sorted(percent for _, percent in steps)
    assert shown.endswith("\r\x1b[Kx: uint8 [6291456], 6.0 MiB\n")
    assert client["x"].nbytes == 6 * MIB


def test_progress_of_a_get(ctl, daemon, client, tmp_path):
    client["x"] = np.ones(6 * MIB, np.uint8)
    with SlowWay(daemon.tcp_url, 10 * MIB) as way:
        words = [binary(), "get", "x", "-o", "x.npy"]
        shown = Terminal(words, environment(way.url), width=100, cwd=tmp_path).finish()
    assert re.search(BAR, shown.encode()), shown
    assert shown.endswith("\r\x1b[Kx.npy: 1 tensor, 6.0 MiB\n")
    assert np.load(tmp_path / "x.npy").nbytes == 6 * MIB


def test_progress_of_a_pipe_knows_no_end(ctl, client):
    read_end, write_end = os.pipe()
    terminal = Terminal([binary(), "put", "x", "-", "--dtype", "uint8"], environment(ctl.url),
                        stdin=read_end)  # fmt: skip
    os.close(read_end)
    for _ in range(5):
        os.write(write_end, bytes(50000))
        time.sleep(0.1)
    os.close(write_end)
    shown = terminal.finish()
    assert re.search(r"\rstandard input  [\d.]+ KiB  [\d.]+ KiB/s\x1b\[K", shown), shown
    assert " left" not in shown
    assert client["x"].nbytes == 250000


def test_no_progress_where_nobody_looks(ctl, daemon, client, tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3 * MIB, np.uint8))
    with SlowWay(daemon.tcp_url, 8 * MIB) as way:
        words = [binary(), "put", "x", tmp_path / "x.npy", "--quiet"]
        assert Terminal(words, environment(way.url)).finish() == ""
    with SlowWay(daemon.tcp_url, 8 * MIB) as way:
        done = subprocess.run([binary(), "put", "x", tmp_path / "x.npy"], capture_output=True,
                              env=environment(way.url), timeout=PATIENCE_S)  # fmt: skip
    assert done.stderr == b"x: uint8 [3145728], 3.0 MiB\n"


# ---- interruptions -------------------------------------------------------------------------------


def test_an_interrupt_wipes_the_progress(ctl, daemon, client, tmp_path):
    np.save(tmp_path / "x.npy", np.ones(6 * MIB, np.uint8))
    with SlowWay(daemon.tcp_url, 4 * MIB) as way:
        terminal = Terminal([binary(), "put", "x", tmp_path / "x.npy"], environment(way.url))
        terminal.read_until(rb"% ")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.finish(130).endswith("\r\x1b[K")
    assert "x" not in client


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_get_leaves_no_file(ctl, daemon, client, tmp_path, number):
    client["x"] = np.ones(20 * MIB, np.uint8)
    (tmp_path / "x.npy").write_text("old")
    with SlowWay(daemon.tcp_url, 8 * MIB) as way:
        process = subprocess.Popen([binary(), "get", "x", "-o", tmp_path / "x.npy"],
                                   env=environment(way.url), stderr=subprocess.PIPE)  # fmt: skip
        eventually(lambda: len(os.listdir(tmp_path)) == 2, "a part of the file")
        process.send_signal(number)
        said = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 128 + number and said == b""
    assert os.listdir(tmp_path) == ["x.npy"] and (tmp_path / "x.npy").read_text() == "old"


def test_an_interrupted_put_stores_nothing(ctl, client, usage):
    before = usage.now()
    process = subprocess.Popen([binary(), "put", "x", "-", "--dtype", "uint8"],
                               env=environment(ctl.url), stdin=subprocess.PIPE)  # fmt: skip
    process.stdin.write(bytes(1000))
    process.stdin.flush()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    assert "x" not in client
    usage.settles_at(before)


def test_an_interrupted_ping_still_sums_up(ctl):
    process = subprocess.Popen([binary(), "ping", "-c", "1000", "-i", "50ms"],
                               env=environment(ctl.url), stdout=subprocess.PIPE)  # fmt: skip
    assert b"seq=1 " in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 130
    assert re.fullmatch(rb"\d+ answered, min/median/max = [\d.]+/[\d.]+/[\d.]+ ms",
                        rest.splitlines()[-1])  # fmt: skip


def test_a_reader_that_goes_away_is_no_noise(ctl, client):
    client["n/0"] = np.zeros(1, np.uint8)
    for i in range(1, 800):
        client["n/0"].save(f"n/{i:04}-{'x' * 100}")
    line = f"{binary()} ls | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=environment(ctl.url),
                          timeout=PATIENCE_S)  # fmt: skip
    assert done.stderr == b"" and done.stdout.splitlines()[-1] == b"141"


def test_a_full_disk_is_told(ctl, client):
    client["x"] = np.ones(100000)
    with open("/dev/full", "wb") as full:
        done = subprocess.run([binary(), "get", "x"], stdout=full, stderr=subprocess.PIPE,
                              env=environment(ctl.url), timeout=PATIENCE_S)  # fmt: skip
    assert done.returncode == 1 and b"No space left on device" in done.stderr
    with open("/dev/full", "wb") as full:
        done = subprocess.run([binary(), "ls"], stdout=full, stderr=subprocess.PIPE,
                              env=environment(ctl.url), timeout=PATIENCE_S)  # fmt: skip
    assert done.returncode == 1 and b"standard output cannot be written" in done.stderr


# ---- watch ---------------------------------------------------------------------------------------


def watching(ctl, *words):
    process = subprocess.Popen([binary(), "watch", *words], text=True,
                               env=environment(ctl.url), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    assert "tensorctl: watching" in process.stderr.readline()
    return process


def test_watch_tells_what_happens(ctl, client):
    client["w/b"] = client["other"] = np.ones(1)
    process = watching(ctl, "w/")
    lines = []

    def after(action):
        action()
        lines.append(process.stdout.readline().split(None, 1)[1].rstrip("\n"))

    after(lambda: client.put("w/a", np.ones((2, 3), np.float32)))
    after(lambda: client.put("w/b", np.ones(2), mutable=True))
    client["other"] = np.ones(3)
    after(lambda: client.touch("w/b"))
    after(lambda: client.delete("w/a"))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130 and process.stdout.read() == ""
    assert lines == [
        "created   w/a  float32 [2, 3], 24 B",
        "replaced  w/b  float64 [2], 16 B",
        "replaced  w/b  float64 [2], 16 B",
        "removed   w/a",
    ]


def test_watch_misses_nothing_that_is_soon_over(ctl, client):
    process = watching(ctl, "--json", "-c", "60", "brief")
    for _ in range(30):
        client["brief"] = np.ones(1)
        client.delete("brief")
    events = [json.loads(line)["event"] for line in process.stdout]
    assert process.wait(PATIENCE_S) == 0 and events == ["created", "removed"] * 30


def test_watch_looks_at_the_names_when_events_were_lost(ctl, client):
    """While it is stopped more happens than the daemon keeps."""
    for name in ("w/gone", "w/kept", "w/new"):
        client[name] = np.ones(1)
    process = watching(ctl, "-c", "3", "w/")
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    client["w/one"] = np.ones(1)  # answers what it has asked already, if it has
    for _ in range(42):
        client.put_state_dict("many", {str(i): np.ones(1) for i in range(100)})
    client.delete("w/gone")
    client["w/new"] = np.ones(2)
    process.send_signal(signal.SIGCONT)
    told = sorted(line.split()[1:3] for line in process.stdout)
    assert process.wait(PATIENCE_S) == 0
    assert told == [["created", "w/one"], ["removed", "w/gone"], ["replaced", "w/new"]]
    assert "more has happened" in process.stderr.read()


# ---- wait ----------------------------------------------------------------------------------------


def test_wait(ctl, client):
    process = subprocess.Popen([binary(), "wait", "soon"], env=environment(ctl.url), text=True,
                               stdout=subprocess.PIPE)  # fmt: skip
    time.sleep(0.2)
    assert process.poll() is None
    client["soon"] = np.ones((2, 3))
    assert process.wait(PATIENCE_S) == 0
    assert process.stdout.read() == ctl.text("info", "soon") == ctl.text("wait", "soon")
    assert ctl.text("wait", "soon", "--quiet") == ""
    generation = client.info("soon").generation
    assert ctl.json("wait", "soon")["generation"] == generation
    assert ctl.json("wait", "soon", "-g", generation - 1)["generation"] == generation
    said = ctl.refuses("wait", "soon", "-g", generation, "--timeout", "300ms", code=7)
    assert "not published anew within 300 ms" in said
    assert "'never' was not published" in ctl.refuses("wait", "never", "--timeout", "300ms", code=7)


def test_wait_is_interrupted(ctl, client):
    process = subprocess.Popen([binary(), "wait", "never", "--timeout", "0"],
                               env=environment(ctl.url))  # fmt: skip
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130


def test_watch_as_json_ends_after_a_count(ctl, client):
    for name in ("a", "c", "e"):
        client[name] = np.ones(1)
    process = watching(ctl, "--json", "--count", "4")
    client.rename("c", "d")
    generation = client.info("d").generation
    client["a"] = np.zeros(1)
    client.delete("e")
    events = [json.loads(line) for line in process.stdout]
    assert process.wait(PATIENCE_S) == 0
    told = {(event["event"], event["name"]) for event in events}
    assert told == {("removed", "c"), ("created", "d"), ("replaced", "a"), ("removed", "e")}
    created = next(event for event in events if event["name"] == "d")
    assert created["generation"] == generation and created["shape"] == [1]


# ---- without a daemon ----------------------------------------------------------------------------


def test_no_daemon(ctl, tmp_path):
    url = f"unix://{tmp_path}/nobody.sock"
    said = ctl.refuses("ls", "--url", url, code=4)
    assert url in said and "deploy/up.sh" in said and "--url" in said
    assert ctl.refuses("ls", code=4, env={"TENSORD_URL": "", "TENSORD_SOCKET": url[7:]}) == said
    document = json.loads(ctl("ls", "--url", url, "--json", code=4).stderr)
    assert document["error"]["code"] == "connection" and url in document["error"]["message"]
    assert "no address" in ctl.refuses("ls", "--url", "http://x", code=1)


def test_a_daemon_that_does_not_answer(ctl, tmp_path):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        words = ("ls", "--url", f"unix://{tmp_path}/s", "--timeout", "100ms")
        assert "--timeout 2m waits longer" in ctl.refuses(*words, code=7)
    assert "duration" in ctl.refuses("ls", "--timeout", "soon", code=2)


def test_a_token(ctl, tmp_path, monkeypatch):
    secret = tmp_path / "token"
    secret.write_text("0123456789abcdef0123\nno more of it\n")
    secret.chmod(0o600)
    monkeypatch.setenv("TENSORD_TOKEN", "0123456789abcdef0123")  # Daemon connects by itself
    guarded = Daemon("--token-file", secret, "--memory-limit", "64MiB")
    said = ctl.refuses("ls", "--url", guarded.url, code=4)
    assert "--token-file FILE or TENSORD_TOKEN" in said
    ctl("ls", "--url", guarded.url, "--token-file", secret)
    ctl("ls", "--url", guarded.url, env={"TENSORD_TOKEN": "0123456789abcdef0123"})
    assert "cannot be read" in ctl.refuses("ls", "--token-file", tmp_path / "none", code=1)
    (tmp_path / "empty").write_text("\n")
    assert "has no token" in ctl.refuses("ls", "--token-file", tmp_path / "empty", code=1)
    guarded.stop()


def test_over_the_memory_limit(ctl, tmp_path):
    small = Daemon("--memory-limit", "16MiB")
    with open(tmp_path / "big.npy", "wb") as file:
        np.save(file, np.zeros(20 * MIB, np.uint8))
    said = ctl.refuses("put", "x", tmp_path / "big.npy", "--url", small.url, code=6)
    assert "memory" in said or "limit" in said
    endless = ("put", "x", "/dev/zero", "--dtype", "uint8")
    said = ctl.refuses(*endless, "--url", small.url, code=6)
    assert "/dev/zero has more than 67108864 bytes" in said
    small.stop()
