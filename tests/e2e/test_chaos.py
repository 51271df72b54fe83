"""Chaos: members of a running pipeline are killed, stopped, cut off and starved, at random.

Afterwards every byte that was read must be one that was published, nothing may be left over in the
daemon, and it must be the same process. TENSORD_CHAOS_SEED repeats a sequence of actions as far as
the machine does its part; TENSORD_CHAOS_S says for how long.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from chaos_members import COUNTERS, HEADER, SLOTS, Member, fill, problem
from harness import Daemon

MEMBERS = pathlib.Path(__file__).with_name("chaos_members.py")
# No pool, so that all goes back to exactly what it was; little memory, so that it runs out.
LIMITS = ("--memory-limit", "64MiB", "--pool-limit", "0", "--max-descriptors", "400",
          "--io-timeout-ms", "5000")  # fmt: skip
CAST = {
    "source": 2, "transform": 2, "sink": 2, "starved": 1, "far": 1, "publisher": 1,
    "mapper": 2, "hog": 1, "deaf": 1, "breaker": 1,
}  # fmt: skip
STOPPED_S = 0.8  # longer than the queues' visibility
LEAVE_S = 30


class Show:
    """The members, and who torments them."""

    def __init__(self, daemon, folder, seed, cast):
        self.daemon, self.folder, self.random = daemon, pathlib.Path(folder), random.Random(seed)
        self.seed = seed
        self.members = []  # [role, process]
        self.stopped = []  # (when it goes on, process)
        self.actions = dict.fromkeys(("kills", "stops", "cuts", "restarts"), 0)
        self.slot = 0
        np.zeros((SLOTS, len(COUNTERS)), np.int64).tofile(self.folder / "counters")
        (self.folder / "violations").touch()
        for role, count in cast.items():
            for _ in range(count):
                self.members.append([role, self.start(role)])

    def start(self, role):
        self.slot += 1
        assert self.slot < SLOTS
        url = self.daemon.tcp_url if role == "far" else self.daemon.url
        words = [role, url, self.folder, self.slot, f"{self.seed} {self.slot}"]
        with open(self.folder / "errors", "ab") as errors:
            return subprocess.Popen([sys.executable, MEMBERS, *map(str, words)], stderr=errors)

    def torment(self):
        """One action, against one member."""
        member = self.random.choice(self.members)
        process = member[1]
        what = self.random.choices(("kill", "stop", "cut"), (3, 4, 3))[0]
        if what == "kill":
            process.kill()
            process.wait()
            self.actions["kills"] += 1
        elif what == "stop":
            process.send_signal(signal.SIGSTOP)
            self.stopped.append((time.monotonic() + STOPPED_S * (0.3 + self.random.random()),
                                 process))  # fmt: skip
            self.actions["stops"] += 1
        elif self.counters(process)["any"]:  # its handler is there
            process.send_signal(signal.SIGUSR1)
            self.actions["cuts"] += 1

    def counters(self, process=None):
        table = np.fromfile(self.folder / "counters", np.int64).reshape(SLOTS, -1)
        if process is not None:
            table = table[[int(process.args[5])]]
        sums = dict(zip(COUNTERS, table.sum(axis=0).tolist()))
        return {**sums, "any": sum(sums.values())} if process is not None else sums

    def go_on(self, everybody=False):
        """Lets those go on whose time it is, and puts new ones in the places of the dead."""
        now = time.monotonic()
        for entry in list(self.stopped):
            if everybody or entry[0] <= now:
                self.stopped.remove(entry)
                entry[1].send_signal(signal.SIGCONT)  # nothing, if it was killed
        for member in self.members:
            if member[1].poll() is not None and not everybody:
                member[1] = self.start(member[0])
                self.actions["restarts"] += 1

    def run(self, seconds):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.go_on()
            self.torment()
            time.sleep(0.05 + 0.25 * self.random.random())

    def end(self):
        self.go_on(everybody=True)
        for _role, process in self.members:
            process.terminate()
        deadline = time.monotonic() + LEAVE_S
        for _role, process in self.members:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGUSR2)  # it tells where it is
                time.sleep(0.5)
                self.violations_add(f"{_role} does not end {LEAVE_S} s after SIGTERM:\n"
                                    + (self.folder / "errors").read_text())  # fmt: skip
                process.kill()
                process.wait()

    def violations_add(self, text):
        with open(self.folder / "violations", "a") as file:
            file.write(text + "\n")

    def violations(self):
        return (self.folder / "violations").read_text()

    def report(self):
        said = {**self.actions, **self.counters()}
        return f"seed {self.seed}: " + ", ".join(f"{n} {what}" for what, n in said.items())


def clear(daemon):
    """Deletes what the members left on purpose: queues and names."""
    control = daemon._control()
    for queue in ("chaos/first", "chaos/second"):
        control.request("queue_delete", {"queue": queue})
    for entry in daemon.state()["store"]:
        name = entry if isinstance(entry, str) else entry[0]
        control.request("delete", {"input": name})


def play(daemon, folder, seed, seconds, cast):
    show = Show(daemon, folder, seed, cast)
    try:
        show.run(seconds)
    finally:
        show.end()
    print("\n" + show.report())
    return show


def test_a_pipeline_under_torment(tmp_path):
    seconds = float(os.environ.get("TENSORD_CHAOS_S")
                    or (60 if os.environ.get("TENSORD_TESTS_FULL") else 15))  # fmt: skip
    seed = int(os.environ.get("TENSORD_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    with Daemon(*LIMITS) as daemon:
        before, pid = daemon.state(), daemon.pid
        show = play(daemon, tmp_path, seed, seconds, CAST)
        assert not show.violations(), show.report() + "\n" + show.violations()[:5000]
        assert daemon.process.poll() is None and daemon.pid == pid, daemon.log()
        clear(daemon)
        try:
            daemon.settle(before, 30)
        except BaseException:
            print(leftovers(daemon))
            raise
        done = show.counters()
        for what in ("puts", "gets", "maps", "held", "published"):
            assert done[what] >= 30, show.report()
        assert min(show.actions.values()) >= 3, show.report()
        assert (tmp_path / "errors").read_bytes() == b"", (tmp_path / "errors").read_text()[:5000]


def leftovers(daemon):
    """Who still holds something, for the report of a failure."""
    import plain_client

    said = []
    for op in ("leases", "principals", "queues"):
        _status, fields, body, _fds = daemon._control().request(op)
        said.append(f"{op}: {fields} {plain_client.read_list(body)}")
    return "\n".join(said)


def test_a_reader_notices_what_was_not_published(tmp_path):
    """A producer that writes to what it has put is found out; else the test above proves nothing.
    """
    with Daemon(*LIMITS) as daemon:
        show = Show(daemon, tmp_path, 1, {"mutant": 1, "transform": 1, "sink": 1})
        deadline = time.monotonic() + 20
        while "torn" not in show.violations() and time.monotonic() < deadline:
            time.sleep(0.05)
        show.end()
        assert "torn" in show.violations()


@pytest.mark.parametrize("at", [0, 12, 20, 30, HEADER.size, -1])
def test_the_check_sees_each_byte(at):
    array = np.empty(5000, np.uint8)
    fill(array, 1, 3, 9)
    assert problem(array, 1, "3:9") == (None, "3:9")
    assert problem(array, 2)[0] and problem(array, 1, "3:8")[0] and problem(array[:-1], 1)[0]
    array[at] ^= 1
    assert problem(array, 1, "3:9")[0]


def test_the_check_sees_a_change_while_it_holds(tmp_path):
    np.zeros((SLOTS, len(COUNTERS)), np.int64).tofile(tmp_path / "counters")
    member = Member("reader", "", tmp_path, 1, 1)
    array = np.empty(5000, np.uint8)
    fill(array, 1, 3, 9)

    class Changes:
        def random(self):
            fill(array, 1, 3, 10)
            return 1.0

    member.random = Changes()
    member.check(array, 1)
    assert "is 3:10 now" in (tmp_path / "violations").read_text()
