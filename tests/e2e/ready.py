"""When a daemon that a test has started is ready: for the harness and for tests/containers."""

import time

import pytest


def wait_until_ready(process, log, seconds):
    """Until the daemon has said so; the test fails if it ends before, or does not in that time.
    log(): what it has said."""
    deadline = time.monotonic() + seconds
    while "is ready" not in log():
        if process.poll() is not None:
            pytest.fail(f"the daemon ended at its start:\n{log()}")
        if time.monotonic() > deadline:
            pytest.fail(f"the daemon is not ready after {seconds} s:\n{log()}")
        time.sleep(0.01)
