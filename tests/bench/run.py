#!/usr/bin/env python3
"""Benchmarks of tensord beside what the machine can do: see README.md.

    tests/bench/run.py                 builds a release in build/bench, measures, judges
    tests/bench/run.py --smoke         a few seconds, small sizes, no judgement
    tests/bench/run.py --only put      the measurements whose name contains a text

$TENSORD_BIN is the daemon to measure, if it is set. The exit code is 0 unless something breaks,
or, with --strict, a wanted figure is missed.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START_S = 30
DRIVER_S = 600
SMOKE_MIB, SMOKE_REPETITIONS = 8, 10
C_FLAGS = ["-std=c17", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Wconversion"]


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. at_most is of times (tensord / limit), at_least of speeds."""

    metric: str
    title: str
    at_most: float | None = None
    at_least: float | None = None


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
    for mib, repetitions in (64, 1000), (512, 500):
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


RUNS = [*map_runs(), *trip_runs(), *bulk_runs(False), *bulk_runs(True)]


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
    """The driver, over libtensord, and the peer, over libuv."""
    sources = sorted(HERE.glob("*.c"))
    shared = [HERE / "common.c"]
    peer = [s for s in sources if s.name.startswith("peer")]
    driver = [s for s in sources if s not in peer and s not in shared]
    include = [f"-I{HERE}", f"-I{ROOT}"]
    compiler = [os.environ.get("CC", "gcc"), *C_FLAGS, *include]
    libuv = checked(["pkg-config", "--cflags", "--libs", "libuv"]).split()
    checked([*compiler, *shared, *driver, "-o", folder / "driver", f"-L{build}", "-ltensord",
             f"-Wl,-rpath,{build}"])
    checked([*compiler, *shared, *peer, "-o", folder / "peer", *libuv, "-pthread"])


class Daemon:
    def __init__(self, binary, folder, *options):
        self.socket = folder / "tensord.sock"
        self.log_file = folder / "tensord.log"
        plain = {key: value for key, value in os.environ.items() if not key.startswith("TENSORD_")}
        command = [binary, "--socket", self.socket, "--tcp", "127.0.0.1:0"]
        command += ["--memory-limit", "1GiB", *options]
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=plain)
        try:
            self.tcp_url = f"tcp://127.0.0.1:{self._port()}"
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.unix_url = f"unix://{self.socket}"

    def _port(self):
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            log = self.log_file.read_text(errors="replace")
            found = re.search(r"ready:.*127\.0\.0\.1:(\d+)", log)
            if found:
                return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        sys.exit(f"bench: the daemon does not start:\n{log}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(START_S) != 0:
            sys.exit(f"bench: the daemon ended badly:\n{self.log_file.read_text()}")


class Peers:
    """The bare programs; each is started when it is first needed."""

    def __init__(self, folder):
        self.folder = folder
        self.started = {}

    def get(self, kind):
        """The process, the Unix socket and the TCP port of that peer."""
        if kind not in self.started:
            path = self.folder / f"{kind}.sock"
            process = subprocess.Popen([self.folder / "peer", kind, path], stdout=subprocess.PIPE)
            port = process.stdout.readline().decode().strip()
            if not port:
                sys.exit(f"bench: the peer {kind} does not start")
            self.started[kind] = process, path, port
        return self.started[kind]

    def stop(self):
        for process, _, _ in self.started.values():
            process.kill()
            process.wait()
        self.started.clear()


# ---- measuring ----------------------------------------------------------------------------------


def pin(pid, cpu):
    """All threads of a process. Where the scheduler puts them decides more than anything else."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {cpu})


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


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def summary(values):
    if not values:
        return None
    return {
        "p10": quantile(values, 0.1),
        "median": statistics.median(values),
        "p90": quantile(values, 0.9),
        "count": len(values),
    }


def ratio_of(row, ours, limit, which):
    """Of times; of speeds, where more is better, the other way round."""
    ratio = ours[which] / limit[which]
    return 1 / ratio if row.at_least else ratio


def judge(row, mib, samples):
    ours, limit = summary(samples["tensord"]), summary(samples["limit"])
    result = {"title": row.title.format(mib=mib), "ratio": None, "ok": None}
    result |= {"tensord": ours, "limit": limit}
    if limit:
        result["ratio"] = ratio_of(row, ours, limit, "median")
        result["quiet_ratio"] = ratio_of(row, ours, limit, "p10")
        if row.at_most:
            result["wanted"] = f"<= {row.at_most:g}"
            result["ok"] = result["ratio"] <= row.at_most
        elif row.at_least:
            result["wanted"] = f">= {row.at_least:g}"
            result["ok"] = result["ratio"] >= row.at_least
    return result


# ---- printing -----------------------------------------------------------------------------------


def duration(nanoseconds):
    if nanoseconds is None:
        return ""
    if nanoseconds >= 1e6:
        return f"{nanoseconds / 1e6:.2f} ms"
    return f"{nanoseconds / 1e3:.1f} us"


def print_header():
    print(f"{'':44} {'tensord':^21} {'limit':^21}  ratio")
    print(f"{'':44} {'median':>10} {'p90':>10} {'median':>10} {'p90':>10} {'median':>7} {'p10':>6}"
          "  wanted")


def print_result(result, smoke):
    ours, limit = result["tensord"], result["limit"] or {}
    times = [ours["median"], ours["p90"], limit.get("median"), limit.get("p90")]
    line = f"{result['title']:44} " + " ".join(f"{duration(t):>10}" for t in times)
    if result["ratio"]:
        line += f" {result['ratio']:7.2f} {result['quiet_ratio']:6.2f}"
    if result["ok"] is not None and not smoke:
        line += f"  {result['wanted']:8} {'ok' if result['ok'] else 'MISSED'}"
    print(line.rstrip(), flush=True)


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
                        help=f"of {', '.join(run.name for run in RUNS)}")
    parser.add_argument("--factor", type=float, default=1, help="of the repetitions")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results there")
    parser.add_argument("--strict", action="store_true", help="exit code 1 for a missed figure")
    return parser.parse_args()


def run_and_print(run, arguments, daemon, peers, folder):
    mib = SMOKE_MIB if arguments.smoke else run.mib
    repetitions = max(1, round(run.repetitions * arguments.factor))
    if arguments.smoke:
        repetitions = SMOKE_REPETITIONS
    samples = measure(run, mib, repetitions, daemon, peers, folder)
    results = {}
    for row in run.rows:
        result = results[f"{run.name}:{row.metric}"] = judge(row, mib, samples[row.metric])
        print_result(result, arguments.smoke)
    return results


def measure_all(arguments, binary, folder):
    """One daemon at a time: the one with a pool first, then the one without."""
    results = {}
    peers = Peers(folder)
    runs = [r for r in RUNS if arguments.only in r.name and (r.smoke or not arguments.smoke)]
    try:
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
    finally:
        peers.stop()
    return results


def main():
    arguments = parse_arguments()
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
        print_header()
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
