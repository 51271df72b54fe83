#!/usr/bin/env python3
"""The kernels of core/cast beside PyTorch's copy_ and memcpy, one thread, call by call.

    kernels.py                     the pairs that matter, 128 KiB and 64 MiB of source, every path
    kernels.py --all               all 17 x 17 pairs
    kernels.py --only f32-f16,...  some pairs, by PyTorch's names or short ones
    kernels.py --path avx2         one path
    kernels.py --smoke             a few seconds, no figures worth reading

TENSORD_CAST_LIB is the library of tests/semantics/cast_shim.c (build/release's). A line is a pair,
a size and a path: medians in GB/s of bytes read and written, and the medians of the ratios of
neighbouring calls. What a call of one element takes, in Python or in PyTorch's dispatch, is taken
off each side's times.
"""

import argparse
import ctypes
import os
import pathlib
import statistics
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
SHIMS = ROOT / "build/release/tests/semantics"
NAMES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
         "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
         "float8_e4m3fn", "float8_e5m2"]  # fmt: skip
SHORT = {"u8": "uint8", "i8": "int8", "u16": "uint16", "i16": "int16", "u32": "uint32",
         "i32": "int32", "u64": "uint64", "i64": "int64", "f16": "float16", "bf16": "bfloat16",
         "f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128",
         "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}  # fmt: skip
PAIRS = """f32-f16 f16-f32 f32-bf16 bf16-f32 f64-f32 f32-f64 i32-f32 f32-i32 f32-i64 u8-f32
    i64-f32 i64-i32 i32-i64 f64-f16 f16-f64 f64-i64 i64-f64 f16-bf16 bf16-f16 f32-u8 bool-f32
    f32-bool u8-i64 i64-u8 u8-f16 f16-i64 e4m3-f32 f32-e4m3 e5m2-f32 f32-e5m2 e4m3-f16 f16-e4m3
    e4m3-bf16 bf16-e4m3 f32-f32""".split()
KIB, MIB = 1 << 10, 1 << 20
STREAM = 2  # CAST_STREAM


def library():
    loaded = ctypes.CDLL(os.environ.get("TENSORD_CAST_LIB", SHIMS / "cast_shim.so"))
    loaded.cast_run_packed.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p,
                                       ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]  # fmt: skip
    loaded.cast_run_packed.restype = None
    loaded.cast_path.restype = ctypes.c_char_p
    return loaded


def paths_of(lib):
    names, index = [], 0
    while (name := lib.cast_path(ctypes.c_size_t(index))) is not None:
        names.append(name.decode())
        index += 1
    return names


def sample(name, count):
    """Numbers that every dtype holds, more than the caches' worth of different ones."""
    values = (torch.arange(count, dtype=torch.int64) * 7919) % 100
    return values.to(getattr(torch, name))


def timed(call, repeats):
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def calls_of(lib, paths, start, to, count, flags):
    """What to time, by name, and the bytes that each of them reads and writes."""
    source = sample(start, count)
    out = torch.zeros(count, dtype=getattr(torch, to))
    traffic = count * (source.element_size() + out.element_size())
    from_, to_ = (torch.ones(traffic // 2, dtype=torch.uint8) for _ in range(2))
    numbers = NAMES.index(start) + 1, NAMES.index(to) + 1
    at = source.data_ptr(), out.data_ptr(), count, flags
    calls = dict.fromkeys(paths, lambda: lib.cast_run_packed(*numbers, *at))
    calls["copy_"] = lambda: out.copy_(source)
    calls["memcpy"] = lambda: ctypes.memmove(to_.data_ptr(), from_.data_ptr(), traffic // 2)
    return calls, traffic


def measure(lib, paths, start, to, size, rounds, flags):
    """Seconds of each path and peer, in `rounds` turns."""
    calls, traffic = calls_of(lib, paths, start, to, size // getattr(torch, start).itemsize, flags)
    least, _ = calls_of(lib, paths, start, to, 1, flags)
    repeats = max(1, 4 * MIB // size)
    times = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            if name in paths:
                lib.cast_use(name.encode())
            seconds = timed(call, repeats) - timed(least[name], repeats)
            if turn:  # the first one warms up
                times[name].append(max(seconds, 1e-9))
    return times, traffic


def line(times, traffic, path):
    median = statistics.median
    speed = [traffic / median(times[name]) / 1e9 for name in (path, "copy_", "memcpy")]
    ratios = [median(b / a for a, b in zip(times[path], times[peer]))
              for peer in ("copy_", "memcpy")]  # fmt: skip
    return speed, ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--path", default="")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lib = library()
    paths = [arguments.path] if arguments.path else paths_of(lib)
    pairs = [f"{a}-{b}" for a in NAMES for b in NAMES] if arguments.all else PAIRS
    pairs = arguments.only.split(",") if arguments.only else pairs
    sizes = [(128 * KIB, 15, 0), (64 * MIB, 5, STREAM)]
    if arguments.smoke:
        sizes = [(4 * KIB, 1, 0), (64 * KIB, 1, STREAM)]
    print(f"{'pair':28}{'size':>8}  {'path':8}{'GB/s':>7}{'copy_':>7}{'memcpy':>8}"
          f"{'/ copy_':>9}{'/ memcpy':>10}")  # fmt: skip
    for pair in pairs:
        start, to = (SHORT.get(name, name) for name in pair.split("-"))
        for size, rounds, flags in sizes:
            times, traffic = measure(lib, paths, start, to, size, rounds, flags)
            for path in paths:
                (own, copy, memory), (to_copy, to_memcpy) = line(times, traffic, path)
                print(f"{start + ' ' + to:28}{size // KIB:6}Ki  {path:8}{own:7.1f}{copy:7.1f}"
                      f"{memory:8.1f}{to_copy:9.2f}{to_memcpy:10.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
