"""What the C client does when things go wrong: timeouts, lost connections, no descriptors."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import tensord

PROMPT_S = 1
PATIENCE_S = 20
DELAY_S = 0.3

# An array for reading of a tensor that others may write to.
READER = """
def reader(x):
    import numpy
    from tensord import mapping
    read_only = mapping.Mapping(x._session.map(x.ref, 0))
    read_only.writable = False
    return mapping.to_numpy(read_only)
"""

# PyTorch ignores that the array is read-only, but for a warning.
STRAY_WRITE = """
import sys, warnings
import tensord, torch
warnings.simplefilter("ignore")
c = tensord.connect(sys.argv[1])
x = c["stray"]
t = torch.from_numpy(x.numpy())
assert float(t[0]) == 1
t[0] = -1
assert float(t[0]) == -1
assert float(x[0].item()) == 1
"""


@pytest.mark.parametrize("mutable", [False, True])
def test_a_stray_write_kills_nobody(client, daemon, mutable):
    pytest.importorskip("torch")
    client.put("stray", np.ones(100_000, np.float32), mutable=mutable)
    code = STRAY_WRITE.replace("x.numpy()", "reader(x)") if mutable else STRAY_WRITE
    command = [sys.executable, "-c", READER + code, daemon.url]
    done = subprocess.run(command, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    assert client["stray"].numpy()[0] == 1


@contextmanager
def interrupted_after(delay_s):
    """Ctrl-C, once, while the block runs. Yields a list that gets the time of it."""
    times = []

    def press():
        times.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(delay_s, press)
    timer.start()
    try:
        yield times
    finally:
        timer.cancel()
        timer.join()


def stop(process):
    """Hangs a process; returns when it does."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def test_ctrl_c_ends_a_call(client):
    session = client.session.count()
    with interrupted_after(DELAY_S) as times:
        with pytest.raises(KeyboardInterrupt) as raised:
            client.randn(100_000_000, dtype="float64")  # takes seconds
        took_s = time.monotonic() - times[0]
    assert took_s < PROMPT_S
    assert raised.value.__context__ is None
    assert client.ping(b"x") == b"x"
    assert client.session.count() == session


def test_ctrl_c_while_the_daemon_hangs(client, daemon):
    stop(daemon.process)
    try:
        with interrupted_after(DELAY_S) as times:
            with pytest.raises(KeyboardInterrupt):
                client.ping()
            took_s = time.monotonic() - times[0]
        with interrupted_after(DELAY_S):  # and before there is a client
            with pytest.raises(KeyboardInterrupt):
                tensord.connect(daemon.url)
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert took_s < PROMPT_S + 1  # of which a second is for keeping the session
    assert client.ping(b"x") == b"x"


def test_ctrl_c_while_nobody_reads_what_is_saved(client, tmp_path):
    client["x"] = np.ones(1_000_000)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    ends = threading.Timer(PATIENCE_S, os.close, (reader,))  # or a bug would hang here for ever
    ends.start()
    with interrupted_after(DELAY_S):
        with pytest.raises(KeyboardInterrupt):
            client.save(tmp_path / "pipe", tensors=["x"])
    assert ends.is_alive()
    ends.cancel()
    os.close(reader)
    assert client["x"].shape == (1_000_000,)


def test_a_handler_that_raises_nothing_ends_no_call(client):
    calls = []
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(client.ping(b"in between")))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        for _ in range(5):
            assert client.randn(1_000_000).shape == (1_000_000,)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert calls


def test_no_descriptor_is_free(client):
    client["x"] = np.ones(100_000, np.float32)
    x, session = client["x"], client.session.count()
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(tensord.OutOfMemory, match="RLIMIT_NOFILE"):
            x.numpy()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert x.numpy()[0] == 1
    assert client.session.count() == session
