#!/usr/bin/env python3
"""Benchmarks of tensord beside what the machine can do, and beside what others use: see README.md.

    tests/bench/run.py                 builds a release in build/bench, measures, judges
    tests/bench/run.py --peers         the same, and installs the servers that it is compared with
    tests/bench/run.py --smoke         a few seconds, small sizes, no judgement
    tests/bench/run.py --only put      the measurements whose name contains a text

$TENSORD_BIN is the daemon to measure, if it is set. The exit code is 0 unless something breaks,
or, with --strict, a wanted figure is missed.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

from races import RACES, Course, measure_race
from servers import Daemon, Peers, Rivals, pin
from table import Row, judge, print_header, print_result

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DRIVER_S = 600
SMOKE_MIB, SMOKE_REPETITIONS, SMOKE_RACE_ROUNDS = 8, 10, 3
C_FLAGS = ["-std=c17", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Wconversion"]


@dataclasses.dataclass(frozen=True)
class Run:
    """One start of the driver."""

    name: str
    measurement: str
    peer: str
    rows: tuple
    mib: int = 64
    repetitions: int = 100
    tcp: bool = False
    together: bool = False  # client and server on one CPU; else each on its own
    awake: bool = False
    pool: bool = True  # False: a daemon that keeps no memory for reuse
    smoke: bool = True


def map_runs():
    for mib, repetitions in (1, 1000), (64, 1000), (512, 500):
        for together in False, True:
            where = "one CPU" if together else "two CPUs"
            rows = (
                Row("map", f"map {{mib}} MiB, {where}", at_most=1.3),
                Row("map_unmap", f"map and unmap {{mib}} MiB, {where}"),
                Row("map_first", "first map and unmap {mib} MiB (seals)"),
            )
            yield Run(f"map-{mib}-{'one' if together else 'two'}", "map", "share", rows, mib,
                      repetitions, together=together, awake=True, smoke=mib == 64)
    rows = (
        Row("touch", "touch {mib} MiB / memfd of 4 KiB pages", at_least=8),
        Row("touch_huge", "touch {mib} MiB / bare memfd of huge pages"),
        Row("touch_unmap", "unmap after that / memfd of 4 KiB pages"),
    )
    yield Run("touch-64", "touch", "share", rows, repetitions=100, awake=True)


def bulk_runs(tcp):
    kind = "tcp" if tcp else "unix"

    def run(name, measurement, title, at_least, **more):
        rows = (Row(measurement, title + " {mib} MiB, " + kind, at_least=at_least),)
        return Run(f"{name}-{kind}", measurement, "bulk", rows, repetitions=200, tcp=tcp, **more)

    yield run("get", "get", "get into caller's buffer", 0.9)
    yield run("put-recycled", "put", "put, recycled", 0.85)
    yield run("put-new", "put", "put, new memory", 0.425, pool=False)


def trip_runs():
    for place, awake in ("two", True), ("one", True), ("two", False):
        for kind in "unix", "tcp":
            how = f"{kind}, {place} CPU{'s' if place == 'two' else ''}{'' if awake else ', asleep'}"
            rows = (
                Row("ping", f"ping 64 B, {how}", at_most=1.3 if awake else None),
                Row("get", f"get 64 B, {how}"),
            )
            name = f"trip-{kind}-{place}{'' if awake else '-asleep'}"
            same = {"repetitions": 200, "tcp": kind == "tcp", "together": place == "one"}
            yield Run(name, "trip", "echo", rows, awake=awake, **same)
            if awake:  # how much of that is the event loop's
                rows = (Row("ping", f"the same / a bare libuv server, {kind}, {place}"),)
                yield Run(f"{name}-libuv", "trip", "bulk", rows, awake=True, **same)


def hand_runs():
    for place in "two", "one":
        rows = (Row("hand", f"hand over {{mib}} MiB / 64 B, {place} CPU{'s' * (place == 'two')}",
                    at_most=1.5),)
        yield Run(f"hand-{place}", "hand", "echo", rows, repetitions=100, awake=True,
                  together=place == "one", smoke=place == "two")


RUNS = [*map_runs(), *hand_runs(), *trip_runs(), *bulk_runs(False), *bulk_runs(True)]


# ---- building and starting ----------------------------------------------------------------------


def checked(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout


def build_release(folder):
    if not (folder / "build.ninja").exists():
        checked(["meson", "setup", folder, ROOT, "--buildtype=release", "-Dtests=disabled"])
    checked(["ninja", "-C", folder])


def build_programs(build, folder):
    """The driver, over libtensord; the peer, over libuv and libmicrohttpd; the race."""
    sources = sorted(HERE.glob("*.c"))
    shared = [HERE / "common.c", HERE / "measuring.c"]
    peer = [s for s in sources if s.name.startswith("peer")]
    race = [s for s in sources if s.name.startswith("race")]
    driver = [s for s in sources if s not in peer + race + shared]
    include = [f"-I{HERE}", f"-I{ROOT}"]
    compiler = [os.environ.get("CC", "gcc"), *C_FLAGS, *include]
    libraries = checked(["pkg-config", "--cflags", "--libs", "libuv", "libmicrohttpd"]).split()
    checked([*compiler, *shared, *driver, "-o", folder / "driver", f"-L{build}", "-ltensord",
             f"-Wl,-rpath,{build}"])
    checked([*compiler, *shared, *race, "-o", folder / "race"])
    checked([*compiler, *shared, *peer, "-o", folder / "peer", *libraries, "-pthread"])


def install_rivals():
    script = f". {ROOT}/deploy/packages.sh && ensure_bench"
    if subprocess.run(["bash", "-c", script]).returncode != 0:
        sys.exit("bench: the servers to compare with could not be installed")


# ---- measuring ----------------------------------------------------------------------------------


def measure(run, mib, repetitions, daemon, peers, folder):
    """Nanoseconds of every sample: {metric: {side: [...]}}."""
    peer, path, port = peers.get(run.peer)
    cpus = sorted(os.sched_getaffinity(0))
    for process in daemon.process, peer:
        pin(process.pid, cpus[0 if run.together else 1 % len(cpus)])
    command = [folder / "driver", "-u", daemon.tcp_url if run.tcp else daemon.unix_url]
    command += ["-t", port] if run.tcp else ["-p", path]
    command += ["-s", str(mib), "-n", str(repetitions), "-c", str(cpus[0])]
    command += ["-a"] if run.awake else []
    done = subprocess.run([*command, run.measurement], stdout=subprocess.PIPE, text=True,
                          timeout=DRIVER_S)
    if done.returncode != 0:
        sys.exit(f"bench: {run.name} failed; the daemon's log:\n{daemon.log_file.read_text()}")
    samples = collections.defaultdict(lambda: {"tensord": [], "limit": []})
    for line in done.stdout.splitlines():
        metric, side, nanoseconds = line.split()
        samples[metric][side].append(int(nanoseconds))
    return samples


def machine():
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds, no judgement")
    parser.add_argument("--build", type=pathlib.Path, metavar="DIR",
                        help="a build that is there already; else build/bench is made")
    parser.add_argument("--only", default="", metavar="TEXT",
                        help=f"of {', '.join(run.name for run in [*RUNS, *RACES])}")
    parser.add_argument("--peers", action="store_true",
                        help="install the servers of the races first, where they are missing")
    parser.add_argument("--http-url", metavar="URL",
                        help="http://127.0.0.1:PORT of another tensord, for the races over HTTP")
    parser.add_argument("--factor", type=float, default=1, help="of the repetitions")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results there")
    parser.add_argument("--strict", action="store_true", help="exit code 1 for a missed figure")
    return parser.parse_args()


def print_results(run, mib, samples, smoke):
    results = {}
    for row in run.rows:
        if not samples[row.metric][row.against] and row.against != "limit":
            continue
        result = judge(row, mib, samples[row.metric]) | {"load": os.getloadavg()[0]}
        beside = "" if row.against == "limit" else f":{row.against}"
        results[f"{run.name}:{row.metric}{beside}"] = result
        print_result(result, smoke)
    return results


def run_and_print(run, arguments, daemon, peers, folder):
    mib = SMOKE_MIB if arguments.smoke else run.mib
    repetitions = max(1, round(run.repetitions * arguments.factor))
    if arguments.smoke:
        repetitions = SMOKE_REPETITIONS
    samples = measure(run, mib, repetitions, daemon, peers, folder)
    return print_results(run, mib, samples, arguments.smoke)


def race_and_print(race, arguments, course):
    size = min(race.size, SMOKE_MIB << 20) if arguments.smoke else race.size
    rounds = max(1, round(race.rounds * arguments.factor))
    if arguments.smoke:
        rounds = 1 if race.measurement == "wrk" else SMOKE_RACE_ROUNDS
    samples = measure_race(race, size, rounds, course)
    return print_results(race, size >> 20, samples, arguments.smoke) if samples else {}


def measure_runs(arguments, binary, folder, peers):
    """One daemon at a time: the one with a pool first, then the one without."""
    results = {}
    runs = [r for r in RUNS if arguments.only in r.name and (r.smoke or not arguments.smoke)]
    if runs:
        print_header("limit")
    for pool in True, False:
        todo = [run for run in runs if run.pool == pool]
        if not todo:
            continue
        daemon = Daemon(binary, folder, *([] if pool else ["--pool-limit", "1"]))
        try:
            for run in todo:
                results |= run_and_print(run, arguments, daemon, peers, folder)
        finally:
            daemon.stop()
    return results


def measure_races(arguments, binary, folder, peers):
    """All servers at once; those whose turn it is not only wait."""
    results = {}
    races = [race for race in RACES if arguments.only in race.name]
    if not races:
        return results
    print_header("the other")
    with contextlib.ExitStack() as running:
        daemon = Daemon(binary, folder, "--io-threads", "1")
        running.callback(daemon.stop)
        rivals = Rivals(folder)
        running.callback(rivals.stop)
        course = Course(folder, daemon, peers, rivals, arguments.http_url)
        for race in races:
            results |= race_and_print(race, arguments, course)
    return results


def measure_all(arguments, binary, folder):
    peers = Peers(folder)
    try:
        return (measure_runs(arguments, binary, folder, peers)
                | measure_races(arguments, binary, folder, peers))
    finally:
        peers.stop()


def main():
    arguments = parse_arguments()
    if arguments.peers:
        install_rivals()
    build = arguments.build.resolve() if arguments.build else ROOT / "build/bench"
    if not arguments.build:
        build_release(build)
    binary = os.environ.get("TENSORD_BIN") or build / "tensord"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tensord-bench-"))
    try:
        build_programs(build, folder)
        before = machine()
        print(f"Linux {before['kernel']}, {before['cpus']} CPUs, load {before['load']:.2f}")
        if len(os.sched_getaffinity(0)) < 2:
            print("There is one CPU only: where two are written, client and server share it.")
        results = measure_all(arguments, binary, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    missed = [r["title"] for r in results.values() if r["ok"] is False]
    after = machine()
    if not arguments.smoke:
        print(f"{len(missed)} of the wanted figures are missed; load {after['load']:.2f}")
    if arguments.json:
        report = {"before": before, "after": after, "smoke": arguments.smoke, "results": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if missed and arguments.strict and not arguments.smoke else 0


if __name__ == "__main__":
    sys.exit(main())
