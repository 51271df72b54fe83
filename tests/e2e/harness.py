"""What the frame, hostile and daemon tests share: a daemon of their own, its counters, and a second
process. Only plain_client is used, so that no library of tensord can hide what the daemon does.

    python3 tests/e2e/harness.py URL [UID]   the second process, which runs what it is told: Peer
"""

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import pathlib
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import attacks  # noqa: F401  for Peer, which cannot read files any more when it has another user
import plain_client as plain
import pytest
from plain_client import PlainClient
from ready import wait_until_ready

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MIB = 1 << 20
START_S = 30  # sanitizers and busy machines are slow; the wait ends as soon as the daemon is ready
STOP_S = 30
SETTLE_S = 20  # what must come has come, on a slow machine
REPORTS = re.compile(r"Sanitizer|runtime error:|Assertion .* failed")
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}
# Without a pool the descriptors and the memory of the daemon go back to exactly what they were.
SMALL = ("--memory-limit", "256MiB", "--pool-limit", "0")


# So that processes of other users reach the socket.
OPEN = ("--socket-mode", "0666")
OTHER_UID, UNKNOWN_UID = 1234, 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes need root")


def binary():
    path = os.environ.get("TENSORD_BIN") or str(ROOT / "build/dev/tensord")
    if not os.access(path, os.X_OK):
        pytest.skip(f"no daemon: set TENSORD_BIN or build build/dev (looked for {path})")
    return path


def environment(**more):
    """Without the settings of a tensord that the developer uses."""
    plain_one = {key: value for key, value in os.environ.items() if not key.startswith("TENSORD_")}
    return {**SANITIZER_OPTIONS, **plain_one, **more}


def run_tensord(*arguments, env=None, timeout=START_S, **how):
    """A daemon that is expected to end by itself: its CompletedProcess, with texts."""
    command = [binary(), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout,
                          env=environment(**(env or {})), **how)  # fmt: skip
    assert not REPORTS.search(done.stderr), done.stderr
    return done


class Daemon:
    """A daemon of the test's own. `bare`: no options but the given ones."""

    def __init__(self, *options, env=None, bare=False):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tensord-"))  # short: sun_path is
        self.socket = self.folder / "socket"
        self.log_file = self.folder / "log"
        self.control = None
        doors = ("--socket", self.socket, "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0")
        ours = ("--no-http",) if bare and "--http" not in options else () if bare else doors
        command = [binary(), *ours, *options]
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log,
                                            env=environment(**(env or {})))  # fmt: skip
        try:
            wait_until_ready(self.process, self.log, START_S)
        except BaseException:
            self.kill()
            raise
        if "--socket-mode" in options:
            self.folder.chmod(0o711)

    def __enter__(self):
        return self

    def __exit__(self, kind, *exception):
        if kind is None:
            self.stop()
        else:
            self.kill()

    def log(self):
        return self.log_file.read_text(errors="replace")

    @property
    def pid(self):
        return self.process.pid

    @property
    def url(self):
        return f"unix://{self.socket}"

    @property
    def tcp_url(self):
        """With the port that the kernel chose, from the start-up message."""
        found = re.search(r"tcp://(\[\S+\]|[^\s:]+):\d+", self.log())
        assert found, f"no TCP address in the start-up message:\n{self.log()}"
        return found.group(0)

    @property
    def http_url(self):
        found = re.search(r"http://(\[\S+\]|[^\s:]+):\d+", self.log())
        assert found, f"no HTTP address in the start-up message:\n{self.log()}"
        return found.group(0)

    def connect(self, **fields):
        return PlainClient(self.url, **fields)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self):
        """After a signal: asserts that the daemon ends, and well."""
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the daemon still runs {STOP_S} s after its signal")
        log = self.log()
        self._forget()
        assert not REPORTS.search(log), log
        assert code == 0, f"exit code {code}:\n{log}"
        return log

    def stop(self):
        self.signal()
        return self.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._forget()

    def _forget(self):
        if self.control:
            self.control.close()
            self.control = None
        shutil.rmtree(self.folder, ignore_errors=True)

    # Counters

    def _control(self):
        """A connection that stays open, so that counting does not change the counts."""
        assert self.process.poll() is None, f"the daemon is gone:\n{self.log()}"
        if self.control is None:
            self.control = self.connect(client="control")
        return self.control

    def stats(self):
        return read_stats(self._control())

    def state(self):
        """All that a client may leave behind: counters, open descriptors, and the whole store."""
        stats = self.stats()
        kept = {key: stats[key] for key in ("descriptors", "leases", "objects", "sessions",
                                            "connections", "names")}  # fmt: skip
        kept["memory"] = stats["memory_used_bytes"] - stats["memory_pool_bytes"]
        kept["fds"] = len(os.listdir(f"/proc/{self.pid}/fd"))
        kept["store"] = store_of(self._control())
        return kept

    def quiet(self):
        """Waits until nobody is connected but who counts."""
        deadline = time.monotonic() + SETTLE_S
        while self.stats()["connections"] > 1:
            assert time.monotonic() < deadline, f"still connected: {self.stats()}"
            time.sleep(0.002)

    def settle(self, before, seconds=SETTLE_S):
        """Waits until everything is as it was; the daemon ends requests a moment after clients."""
        deadline = time.monotonic() + seconds
        while True:
            now = self.state()
            if now == before:
                return
            if time.monotonic() > deadline:
                different = {k: (before[k], now[k]) for k in now if now[k] != before[k]}
                pytest.fail(f"after {seconds} s, before and now: {different}\n{self.log()}")
            time.sleep(0.02)

    @contextlib.contextmanager
    def unchanged(self, seconds=SETTLE_S):
        """Asserts that what happens inside leaves nothing behind, and the daemon well."""
        before = self.state()
        yield
        with self.connect() as client:
            assert client.request("ping", {}, b"alive")[2] == b"alive"
        self.settle(before, seconds)


def read_stats(client):
    status, _, body, _ = client.request("stats")
    assert status == "ok"
    return {entry["name"]: entry["count"] for entry in plain.read_list(body)}


def all_names(client, **fields):
    """The entries of list, page by page."""
    entries, cursor = [], {}
    for _ in range(10000):
        status, reply, body, _ = client.request("list", {**fields, **cursor})
        assert status == "ok", reply
        entries += plain.read_list(body)
        if "cursor" not in reply:
            return entries
        cursor = {"cursor": reply["cursor"]}
    raise AssertionError("list never ends")


def store_of(client):
    """Each name with its generation, epoch and a hash of its elements."""
    store = {}
    for entry in all_names(client):
        name = entry["name"]
        _, _, body, _ = client.request("get", {"input": name})
        store[name] = (entry["generation"], entry["epoch"], hashlib.sha256(body).hexdigest())
    return store


def ok(reply):
    """The fields of a reply that must be a success."""
    status, fields, _, _ = reply
    assert status == "ok", (status, fields.get("message"))
    return fields


def refused(reply, *statuses, text=""):
    """Asserts that a reply is one of these errors, with a message that has `text`."""
    status, fields, body, fds = reply
    assert status in statuses, (status, fields)
    assert fields.get("message"), "an error has a message for people"
    assert text in fields["message"], fields["message"]
    assert body == b"" and not fds
    return fields["message"]


def is_silent(peer, seconds=0.15):
    """Whether nothing comes out of the peer's socket for so long."""
    before = peer.socket.gettimeout()
    peer.socket.settimeout(seconds)
    try:
        peer.socket.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        peer.socket.settimeout(before)
    return False


def put(client, name, body, dtype="uint8", shape=None, **fields):
    size = {"uint8": 1, "int32": 4, "float32": 4, "float64": 8, "int64": 8}[dtype]
    shape = [len(body) // size] if shape is None else shape
    return ok(client.request("put", {"output": name, "dtype": dtype, "shape": shape, **fields},
                             body))  # fmt: skip


def get(client, name, **fields):
    reply = client.request("get", {"input": name, **fields})
    ok(reply)
    return reply[2]


# ---- shared memory -----------------------------------------------------------------------------


def make_memfd(data, sealed=True, flags=os.MFD_ALLOW_SEALING, fill=True):
    """A memfd with these bytes, ready to be given to the daemon unless told otherwise."""
    fd = os.memfd_create("given", flags | os.MFD_CLOEXEC)
    os.ftruncate(fd, len(data))
    if fill:
        os.posix_fallocate(fd, 0, len(data))
        os.pwrite(fd, data, 0)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def read_entries(reply):
    """The entries of a list reply, which must be a success."""
    ok(reply)
    return plain.read_list(reply[2])


def leases(client):
    """All leases, page by page."""
    found, after = [], {}
    while True:
        reply = client.request("leases", after)
        found += read_entries(reply)
        if "lease" not in reply[1]:
            return found
        after = {"lease": reply[1]["lease"]}


def principals(client):
    """{"uid:0": {"bytes": (used, limit), ...}}; deleted_bytes with the limit None."""
    found = {}
    for entry in read_entries(client.request("principals")):
        mine = found.setdefault(entry["principal"], {})
        mine[entry["name"]] = entry["count"], entry.get("limit")
    return found


def used(client, principal, quota):
    return principals(client).get(principal, {}).get(quota, (0, None))[0]


def eventually(condition, what, seconds=SETTLE_S):
    """Waits until a condition holds, and returns the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"{what}: not after {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - begun


class Filling:
    """Memory of the operation allocate: .view is mapped for writing, .ref names the object."""

    def __init__(self, client, shape, dtype="uint8", **fields):
        reply = client.request("allocate", {"dtype": dtype, "shape": shape, **fields})
        self.client = client
        self.reply = ok(reply)
        (self.fd,) = reply[3]
        self.ref = f"@{self.reply['id']}"
        size = self.reply["storage_bytes"]
        self.view = mmap.mmap(self.fd, size, mmap.MAP_SHARED) if size else None

    def publish(self, name, **fields):
        return self.client.request("publish", {"input": self.ref, "output": name, **fields})

    def unmap(self):
        if self.view:
            self.view.close()
            self.view = None

    def close(self):
        self.unmap()
        os.close(self.fd)


class Mapping:
    """A tensor mapped by the operation map: .view is its storage, .reply the description."""

    def __init__(self, client, name, **fields):
        reply = client.request("map", {"input": name, **fields})
        self.reply = ok(reply)
        assert self.reply["memory"] == "shared", self.reply
        (self.fd,) = reply[3]
        write = fields.get("write", False)
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        self.view = mmap.mmap(self.fd, self.reply["storage_bytes"], mmap.MAP_SHARED, protection)

    def close(self):
        self.view.close()
        os.close(self.fd)


# ---- a second process --------------------------------------------------------------------------


class Peer:
    """Another process with a PlainClient `c` of the daemon; it runs what it is told, with the names
    of this file. uid: the user that it becomes before it connects."""

    ANSWER_S = 30

    def __init__(self, url, uid=None):
        self.process = subprocess.Popen(
            [sys.executable, __file__, url, *([] if uid is None else [str(uid)])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)  # fmt: skip
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.stdin.close()
        try:
            self.process.wait(self.ANSWER_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.selector.close()

    def _send(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        assert self.selector.select(self.ANSWER_S), f"no answer to {request}"
        line = self.process.stdout.readline()
        assert line, f"the second process ended at {request}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def run(self, code):
        self._send({"run": code})

    def ask(self, expression):
        return self._send({"ask": expression})

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def peer_main(url, uid=None):
    if uid is not None:
        become(int(uid))
    names = dict(globals(), c=PlainClient(url))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "run" in request:
                exec(request["run"], names)
            answer = {"value": eval(request["ask"], names) if "ask" in request else None}
        except Exception as error:  # told to the test, which fails with it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


# ---- fixtures, which test files import -----------------------------------------------------------


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL) as running:
        yield running


@pytest.fixture(params=["unix", "tcp"])
def client(request, daemon):
    url = daemon.url if request.param == "unix" else daemon.tcp_url
    with PlainClient(url) as connected:
        yield connected
    daemon.quiet()


@pytest.fixture
def local(daemon):
    with daemon.connect() as connected:
        yield connected
    daemon.quiet()


def abort(connection):
    """Closes a TCP connection with a reset instead of a farewell."""
    linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


if __name__ == "__main__":
    peer_main(*sys.argv[1:])
