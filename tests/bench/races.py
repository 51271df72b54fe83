"""tensord beside the servers that others use for the same: one client, the same work, turn by turn.

Frames race Redis and memcached over Unix sockets; HTTP races nginx and a bare libmicrohttpd server.
Every server has one thread that serves, on one CPU; the client has the other one.
"""

import collections
import dataclasses
import os
import re
import subprocess
import sys

from servers import http_put, pin
from table import Row

RACE_S = 600
WRK_CONNECTIONS = 16
NAME = "bench-race"  # as RACE_KEY in race.h


@dataclasses.dataclass(frozen=True)
class Race:
    name: str
    measurement: str  # of the program race, or wrk
    others: tuple
    rows: tuple
    size: int = 64 << 20
    rounds: int = 30
    lanes: int = 1
    awake: bool = False
    http: bool = False


def frame_races():
    def row(metric, title, rival, **wanted):
        return Row(metric, f"{title} / {rival}", against=rival.lower(), **wanted)

    both = ("redis", "memcached")
    yield Race("race-trip", "trip", both, (
        row("trip", "get 64 B, round trip", "Redis", at_most=1.1),
        row("trip", "get 64 B, round trip", "memcached"),
    ), size=64, rounds=200, awake=True)
    for lanes in 1, 4:
        title = f"get 64 B, 16 at once on {lanes} socket{'s' if lanes > 1 else ''}"
        yield Race(f"race-rate-{lanes}", "rate", both, (
            row("rate", title, "Redis", at_least=1),
            row("rate", title, "memcached", speed=True),
        ), size=64, rounds=100, lanes=lanes, awake=True)
    yield Race("race-get", "get", both, (
        row("get", "get {mib} MiB", "Redis", at_least=3.5),
        row("get", "get {mib} MiB", "memcached", at_least=0.95),
    ))
    yield Race("race-put", "put", both, (
        row("put", "put {mib} MiB", "Redis", at_least=3),
        row("put", "put {mib} MiB", "memcached", speed=True),
    ))


def http_races():
    yield Race("race-http-wrk", "wrk", ("nginx", "bare"), (
        Row("wrk", "HTTP get 1 KiB, 16 sockets / nginx", against="nginx", speed=True),
        Row("wrk", "HTTP get 1 KiB, 16 sockets / bare", against="bare", speed=True),
    ), size=1024, rounds=5, http=True)
    yield Race("race-http-get", "get", ("nginx", "bare"), (
        Row("get", "HTTP get {mib} MiB / nginx", against="nginx", speed=True),
        Row("get", "HTTP get {mib} MiB / bare", against="bare", speed=True),
    ), http=True)
    yield Race("race-http-put", "put", ("bare",), (
        Row("put", "HTTP put {mib} MiB / bare", against="bare", speed=True),
    ), http=True)


# The small ones first: bodies of 64 MiB that are let go leave the kernel with free pages that are
# in no cache, and for seconds each answer that is sent is copied into some of these.
RACES = sorted([*frame_races(), *http_races()], key=lambda race: race.size)


class Course:
    """Where a race takes place: the servers, and the base URL of tensord's HTTP."""

    def __init__(self, folder, daemon, peers, rivals, http_url=None):
        self.folder, self.daemon, self.peers, self.rivals = folder, daemon, peers, rivals
        self.http_url = http_url or daemon.http_url

    def frame_sides(self, race):
        """{side: the process and its address for the program race}."""
        sides = {"tensord": (self.daemon.process, f"frames:{self.daemon.socket}")}
        for name in race.others:
            rival = self.rivals.get(name)
            if rival:
                sides[name] = rival.process, f"{name}:{rival.address}"
        return sides

    def http_sides(self, race, size):
        tensor = f"{self.http_url}/v1/tensors/{NAME}"
        put = f"{tensor}?dtype=uint8&shape={size}"
        http_put(put, os.urandom(size))
        address = put if race.measurement == "put" else f"{tensor}?format=raw"
        sides = {"tensord": (self.daemon.process, address)}
        for name in race.others:
            if name == "bare":
                process, _, port = self.peers.get("http")
                sides[name] = process, f"http://127.0.0.1:{port}/{size}"
            elif rival := self.rivals.get(name):
                rival.provide(size)
                sides[name] = rival.process, f"http://127.0.0.1:{rival.address[1]}/{size}"
        return sides


def measure_race(race, size, rounds, course):
    """Nanoseconds of every sample: {metric: {side: [...]}}; None if there is nobody to race."""
    sides = course.http_sides(race, size) if race.http else course.frame_sides(race)
    if len(sides) < 2 or (race.measurement == "wrk" and not course.rivals.installed("wrk")):
        return None
    cpus = sorted(os.sched_getaffinity(0))
    for process, _ in sides.values():
        pin(process.pid, cpus[1 % len(cpus)])
    if race.measurement == "wrk":
        return {"wrk": measure_wrk(sides, rounds, cpus[0])}
    command = [course.folder / "race", "-s", str(size), "-n", str(rounds), "-l", str(race.lanes)]
    command += ["-c", str(cpus[0]), *(["-a"] if race.awake else []), race.measurement]
    command += [f"{name}={address.replace('http://127.0.0.1:', 'http:')}"
                for name, (_, address) in sides.items()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=RACE_S)
    if done.returncode != 0:
        sys.exit(f"bench: {race.name} failed")
    samples = collections.defaultdict(lambda: collections.defaultdict(list))
    for line in done.stdout.splitlines():
        metric, side, nanoseconds = line.split()
        samples[metric][side].append(int(nanoseconds))
    return samples


def measure_wrk(sides, rounds, cpu):
    """A second for each side in turn."""
    samples = collections.defaultdict(list)
    for _ in range(rounds):
        for name, (_, url) in sides.items():
            command = ["wrk", "-t", "1", "-c", str(WRK_CONNECTIONS), "-d", "1s", url]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60,
                                  preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))
            found = re.search(r"Requests/sec: *([\d.]+)", done.stdout)
            if done.returncode != 0 or not found or "Non-2xx" in done.stdout:
                sys.exit(f"bench: wrk {url} failed:\n{done.stdout}")
            samples[name].append(1e9 / float(found.group(1)))
    return samples
