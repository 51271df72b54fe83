"""Containers for the tests: processes that enter.py puts into namespaces of their own."""

import contextlib
import ctypes
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import conftest
import pytest
from e2e.ready import wait_until_ready

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ENTER = pathlib.Path(__file__).with_name("enter.py")
INSIDE = "/run/tensord"  # where the shared folder is in a container
START_S = 30  # the wait ends as soon as the daemon is ready
STOP_S = 30
NAMESPACES = ("pid", "ipc", "mnt", "net", "user", "uts", "cgroup")
UNKNOWN = 65534  # how the kernel calls users that have no number in a user namespace
# Each container's root is another user outside. Apart from one another, as engines keep them.
BASES = {"daemon": 1000000, "a": 2000000, "b": 3000000}
MIB = 1 << 20
# Half of it is all that users without a number may hold together: all that --memory-limit allows.
QUOTA = ("--quota-bytes", "2GiB")

# Listens, and says who came. It ends by itself if nobody does.
WITNESS = """
import os, signal, socket, struct, sys
signal.alarm(30)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
listener.listen(1)
print("listening", flush=True)
peer = listener.accept()[0].getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
print(struct.unpack("3i", peer)[1], flush=True)
"""


def need_namespaces():
    """Skips where there are none; tried in a process of its own."""
    if os.geteuid() != 0:
        pytest.skip("containers of three users need root")
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        os._exit(min(ctypes.get_errno(), 255) if libc.unshare(0x10000000) else 0)
    error = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if error:
        pytest.skip(f"no user namespaces here: {os.strerror(error)}")


def binary():
    path = os.environ.get("TENSORD_BIN") or str(ROOT / "build/dev/tensord")
    if not os.access(path, os.X_OK):
        pytest.skip(f"no daemon: set TENSORD_BIN or build build/dev (looked for {path})")
    return path


def environment():
    """Without the settings of a tensord that the developer uses."""
    return {key: value for key, value in os.environ.items() if not key.startswith("TENSORD_")}


@contextlib.contextmanager
def temporary_folder(owner=0, mode=0o755):
    """A folder of a short path, as a socket's must be, that a container's root may own."""
    with tempfile.TemporaryDirectory(prefix="td-") as path:
        os.chown(path, owner, owner)
        os.chmod(path, mode)
        yield pathlib.Path(path)


def enter_command(name, root, shares=()):
    """The command that runs what is put behind it in the container of this name."""
    reads = [ROOT, sys.prefix, sys.base_prefix, pathlib.Path(binary()).resolve().parent]
    words = [sys.executable, ENTER, "--root", root, "--base", BASES[name]]
    for path in reads:
        words += ["--read", path]
    for outside, inside in shares:
        words += ["--share", f"{outside}:{inside}"]
    return [str(word) for word in (*words, "--")]


def inside(process):
    """The command that runs what is put behind it where enter.py's process runs its own."""
    path = f"/proc/{process.pid}/ns"
    files = {"user": "user", "mount": "mnt", "net": "net", "ipc": "ipc", "pid": "pid_for_children"}
    return ["nsenter", *(f"--{option}={path}/{file}" for option, file in files.items()), "--"]


def wait_for_network(process):
    """Until enter.py's process has a network of its own."""
    deadline = time.monotonic() + START_S
    while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        assert process.poll() is None and time.monotonic() < deadline, "no container yet"
        time.sleep(0.01)


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          timeout=START_S)  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def connect_networks(first, second, addresses):
    """A cable between the networks of two of enter.py's processes; this machine's is not touched.
    `addresses`, each with its prefix length, go to its two ends."""
    for process in (first, second):
        wait_for_network(process)
    ip = ["nsenter", f"--net=/proc/{first.pid}/ns/net", "ip"]
    run(*ip, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", second.pid)
    for process, address in zip((first, second), addresses):
        ip = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip"]
        run(*ip, "address", "add", address, "dev", "cable")
        run(*ip, "link", "set", "cable", "up")


class Client(conftest.SecondProcess):
    """A Python process with a client `c`, in a container. `shares`: the daemon's folder, and where
    it is inside. `before(process)` may do something to the container before the client connects."""

    def __init__(self, name, url, shares=(), before=None, token=None):
        self._stack = contextlib.ExitStack()
        root = self._stack.enter_context(temporary_folder())
        hold = ["env", *([f"TENSORD_TOKEN={token}"] if token else ()),
                "sh", "-c", 'read go && exec "$@"', "sh"]  # fmt: skip
        super().__init__(url, [*enter_command(name, root, shares), *hold])
        try:
            if before:
                before(self._process)
            self._process.stdin.write("go\n")
            self.run("import os, socket, threading")
        except BaseException:
            self.close()
            raise

    def close(self):
        with self._stack:
            super().close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def namespaces(self):
        return self.ask(f"{{n: os.readlink('/proc/self/ns/' + n) for n in {NAMESPACES}}}")

    def shm(self):
        """(size, used) of /dev/shm, in bytes."""
        self.run("v = os.statvfs('/dev/shm')")
        return self.ask("(v.f_blocks * v.f_bsize, (v.f_blocks - v.f_bfree) * v.f_bsize)")


class Daemon:
    """A daemon, on this machine or, given a name, in a container. `folder` has its socket and
    whatever else it needs; the container's root owns it."""

    def __init__(self, folder, *options, container=None):
        self.folder, self.container = folder, container
        self.log_file = folder / "log"
        self._stack = contextlib.ExitStack()
        command = self._command(options)
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log,
                                            env=environment())  # fmt: skip
        try:
            wait_until_ready(self.process, self.log, START_S)
        except BaseException:
            self.kill()
            raise

    def _command(self, options):
        prefix = ()
        if self.container:
            root = self._stack.enter_context(temporary_folder())
            prefix = enter_command(self.container, root, [(self.folder, INSIDE)])
        return [*prefix, binary(), "--memory-limit", "1GiB", *options]

    def log(self):
        return self.log_file.read_text(errors="replace")

    def address(self, scheme):
        return re.search(rf"{scheme}://[^,;\s]+", self.log()).group()

    def peer_uid(self, client):
        """The uid of a client's process, as the kernel tells it to processes where the daemon is:
        at a socket beside the daemon's."""
        place = INSIDE if self.container else self.folder
        command = [*(inside(self.process) if self.container else ()),
                   sys.executable, "-c", WITNESS, f"{place}/witness"]  # fmt: skip
        witness = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert witness.stdout.readline() == "listening\n"
            client.run(f"w = socket.socket(socket.AF_UNIX); w.connect('{INSIDE}/witness')")
            return int(witness.stdout.readline())
        finally:
            witness.kill()
            witness.communicate()
            (self.folder / "witness").unlink(missing_ok=True)

    def kill(self):
        with self._stack:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, *exception):
        if kind is not None:
            self.kill()
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        finally:
            self.kill()
        assert code == 0, f"exit code {code}:\n{self.log()}"
