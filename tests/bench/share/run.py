#!/usr/bin/env python3
"""Sharing from Python, beside what others use for it; see README.md one folder up.

    build/venv/bin/python tests/bench/share/run.py     measures (two minutes), judges
    ... --peers     the same, and installs first what is missing of Redis, redis-py and Vineyard
    ... --smoke     a few seconds, small sizes, no judgement

Each side hands the same tensor to this process, turn by turn, a few times in a turn (of which the
first is left out, for it finds its server out of the caches): until its elements can be read. The
exit code is 0 unless something breaks, or, with --strict, a wanted figure is missed.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import shutil
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
sys.path.insert(0, str(HERE.parent))

import numpy  # noqa: E402
import peers  # noqa: E402
from servers import Daemon  # noqa: E402
from table import Row, judge, print_header, print_result  # noqa: E402

MIB = 1 << 20
BLOCK = 8


def rows(mib):
    """(the side that tensord is compared with, what is wanted)."""
    faster = {"torch": ("torch.multiprocessing, file_system", 4), "redis": ("redis-py GET", 1000)}
    for side, title in peers.TITLES.items():
        wanted = {"at_least": faster[side][1]} if side in faster else {"speed": True}
        yield Row("map", f"map {mib} MiB / {title}", against=side, **wanted)


class Reader:
    """Reads all elements, into memory of its own that is there already."""

    def __init__(self, size):
        self.into = numpy.ones(size // 4, "f4")
        self.own = numpy.ones(size // 4, "f4")

    def read(self, values):
        begun = time.perf_counter_ns()
        numpy.copyto(self.into, values)
        return time.perf_counter_ns() - begun


class Samples:
    def __init__(self):
        self.of = {}

    def add(self, metric, side, nanoseconds):
        self.of.setdefault(metric, {}).setdefault(side, []).append(nanoseconds)

    def get(self, metric, side):
        return {"tensord": self.of[metric]["tensord"], side: self.of.get(metric, {}).get(side, [])}


def one_fetch(samples, side, peer, reader=None):
    """Until the elements can be read; with a reader also what reading them all costs the first and
    the second time. That leaves nothing of anybody in the caches, so it has turns of its own."""
    begun = time.perf_counter_ns()
    values = peer.fetch()
    taken = time.perf_counter_ns() - begun
    peer.check(values)
    if reader:
        for metric in "first", "second":
            samples.add(metric, side, reader.read(values))
        samples.add("own", side, reader.read(reader.own))
    samples.add("cold" if reader else "map", side, taken)
    del values
    peer.done()


def measure_map(arguments, daemon, folder, samples):
    size = (8 if arguments.smoke else 64) * MIB
    turns = 5 if arguments.smoke else arguments.turns
    with contextlib.ExitStack() as stack:
        sides = peers.open_all(stack, daemon, folder, size)
        reader, warming = Reader(size), Samples()
        for turn in range(-3, turns):
            for side, peer in sides.items():
                for i in range(BLOCK if turn % peer.every == 0 else 0):
                    one_fetch(warming if turn < 0 or i == 0 else samples, side, peer)
        for turn in range(-3, turns):
            for side, peer in sides.items():
                one_fetch(warming if turn < 0 else samples, side, peer, reader)
        return size // MIB, sides


def measure_hand(arguments, daemon, samples):
    """A queue from one process to another and back, and the same through torch.multiprocessing."""
    size = (8 if arguments.smoke else 64) * MIB
    turns = 5 if arguments.smoke else arguments.turns
    with contextlib.ExitStack() as stack:
        sides = peers.open_pipes(stack, daemon, size)
        for turn in range(-3, turns):
            for (side, pipe), i in itertools.product(sides.items(), range(BLOCK)):
                begun = time.perf_counter_ns()
                pipe.round_trip()
                if turn >= 0 and i > 0:
                    samples.add("hand", side, time.perf_counter_ns() - begun)
        return sides


def measure_many(arguments, daemon):
    """Small tensors: held, listed, read; and how many descriptors that takes."""
    import tensord

    count = 2000 if arguments.smoke else 100_000
    client = tensord.connect(daemon.unix_url)
    files = f"/proc/{daemon.process.pid}/fd"
    before = len(os.listdir(files))
    value = numpy.arange(16, dtype="f4")
    times = {}
    begun = time.perf_counter()
    for i in range(count):
        client[f"many/{i:06}"] = value
    times["put"] = time.perf_counter() - begun
    begun = time.perf_counter()
    names = client.list("many/")
    times["list"] = time.perf_counter() - begun
    out = numpy.empty_like(value)
    begun = time.perf_counter()
    for name in names[:: max(1, count // 20_000)]:
        client.session.get_into(name, 0, out.ctypes.data, out.nbytes)
    times["get"] = (time.perf_counter() - begun) * max(1, count // 20_000)
    assert len(names) == count and (out == value).all()
    each = ", ".join(f"{what} {1e6 * took / count:.1f} us" for what, took in times.items())
    print(f"{count} tensors of 64 bytes, each: {each}; "
          f"descriptors of the daemon: {len(os.listdir(files)) - before} more")
    client.close()


def median(values):
    return sorted(values)[len(values) // 2]


def print_touches(samples, sides, mib):
    """How fast all elements are copied out, the first time and the second, beside memory that this
    process had before; and what mapping takes after that, when the caches hold other things."""
    cold = (f"{side} {median(samples.of['cold'][side]) / 1000:.0f}" for side in sides)
    print(f"map with cold caches, us: {', '.join(cold)}")
    for metric in "first", "second", "own":
        speeds = (f"{side} {mib / 1024 / (median(samples.of[metric][side]) / 1e9):.1f}"
                  for side in sides)
        what = "own memory" if metric == "own" else f"{metric} read"
        print(f"{what:10} GiB/s, median: {', '.join(speeds)}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds, no judgement")
    parser.add_argument("--peers", action="store_true", help="install what is compared with")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", metavar="DIR")
    parser.add_argument("--strict", action="store_true", help="exit code 1 for a missed figure")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.peers:
        peers.install(ROOT)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tensord-share-"))
    binary = os.environ.get("TENSORD_BIN") or arguments.build.resolve() / "tensord"
    samples, missed = Samples(), []
    daemon = Daemon(binary, folder)
    try:
        print_header("the other")
        mib, sides = measure_map(arguments, daemon, folder, samples)
        pipes = measure_hand(arguments, daemon, samples)
        table = [("map", row) for row in rows(mib) if row.against in sides]
        table += [("hand", Row("hand", f"hand over {mib} MiB and back / {peers.TITLES[side]}",
                               against=side, speed=True)) for side in pipes if side != "tensord"]
        for metric, row in table:
            result = judge(row, mib, samples.get(metric, row.against))
            print_result(result, arguments.smoke)
            missed += [result["title"]] if result["ok"] is False else []
        print_touches(samples, sides, mib)
        measure_many(arguments, daemon)
    finally:
        daemon.stop()
        shutil.rmtree(folder, ignore_errors=True)
    if not arguments.smoke:
        print(f"{len(missed)} of the wanted figures are missed; load {os.getloadavg()[0]:.2f}")
    return 1 if missed and arguments.strict and not arguments.smoke else 0


if __name__ == "__main__":
    sys.exit(main())
