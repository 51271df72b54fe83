#!/usr/bin/env python3
"""Transposes, permutes and gaps: core/convert beside PyTorch and NumPy, in one process.

    build/venv/bin/python tests/bench/convert/layouts.py [--smoke] [--threads N] [--only TEXT]

TENSORD_CONVERT_LIB is the library of tests/semantics/convert_shim.c (build/release's).

Each case is run by all three in turn, the order changing from round to round, and the medians are
compared: into an existing result with PyTorch's copy_, and as np.ascontiguousarray makes it. Every
result is checked. The load of the machine is printed before and after; ratios of a busy machine say
little about memory, which all share.
"""

import argparse
import ctypes
import os
import pathlib
import statistics
import time

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
SHIMS = ROOT / "build/release/tests/semantics"
NUMBERS = {"uint8": 2, "int16": 5, "float32": 12, "float64": 13}  # of TD_DTYPES
CASES = {  # name: shape in memory, order of the dimensions
    "4096 x 4096, transposed": ((4096, 4096), (1, 0)),
    "1000 x 3000, transposed": ((1000, 3000), (1, 0)),
    "128 x 128, transposed": ((128, 128), (1, 0)),
    "NCHW to NHWC, 64 x 3 x 224 x 224": ((64, 3, 224, 224), (0, 2, 3, 1)),
    "NHWC to NCHW, 64 x 224 x 224 x 3": ((64, 224, 224, 3), (0, 3, 1, 2)),
    "NCHW to NHWC, 16 x 64 x 56 x 56": ((16, 64, 56, 56), (0, 2, 3, 1)),
    "(2, 0, 1) of 64 x 300 x 500": ((64, 300, 500), (2, 0, 1)),
    "(0, 2, 1, 3) of 8 x 512 x 16 x 64": ((8, 512, 16, 64), (0, 2, 1, 3)),
}
SMOKE = {
    "128 x 128, transposed": ((128, 128), (1, 0)),
    "NHWC to NCHW, 2 x 32 x 32 x 3": ((2, 32, 32, 3), (0, 3, 1, 2)),
}


def packed(view, base):
    offset = view.ctypes.data - base.ctypes.data
    strides = [stride // view.itemsize for stride in view.strides]
    numbers = [offset, NUMBERS[view.dtype.name], view.ndim, *view.shape, *strides]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def times(calls, rounds):
    """Medians in seconds, of calls that take turns."""
    taken = [[] for _ in calls]
    for number in range(rounds):
        order = [(number + i) % len(calls) for i in range(len(calls))]
        for i in order:
            begin = time.perf_counter()
            calls[i]()
            taken[i].append(time.perf_counter() - begin)
    return [statistics.median(one) for one in taken]


def measure(shim, shape, order, dtype, rounds):
    base = (np.arange(np.prod(shape)) % 251).astype(dtype).reshape(shape)
    view = base.transpose(order)
    theirs = torch.from_numpy(base).permute(order)
    out = torch.zeros(view.shape, dtype=theirs.dtype).numpy()  # aligned, as storages are
    source, target = packed(view, base), packed(out, out)
    existing = torch.zeros(view.shape, dtype=theirs.dtype)

    def ours():
        shim.convert_shim_all(source, base.ctypes.data, target, out.ctypes.data)

    ours()
    assert np.array_equal(out, view)
    calls = [ours, lambda: existing.copy_(theirs), lambda: np.ascontiguousarray(view)]
    return 2 * out.nbytes, times(calls, rounds)


def load():
    return "load " + " ".join(f"{value:.1f}" for value in os.getloadavg())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="small ones, once: does it run?")
    parser.add_argument("--threads", type=int, default=1, help="of tensord and of PyTorch each")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="cases with this in their names")
    options = parser.parse_args()
    shim = ctypes.CDLL(os.environ.get("TENSORD_CONVERT_LIB", SHIMS / "convert_shim.so"))
    int64s = ctypes.POINTER(ctypes.c_int64)
    shim.convert_shim_all.argtypes = [int64s, ctypes.c_void_p, int64s, ctypes.c_void_p]
    assert shim.convert_shim_threads(options.threads) == 0
    torch.set_num_threads(options.threads)
    print(f"{options.threads} thread(s) each, {os.cpu_count()} CPUs, {load()}")
    print(f"{'':36} {'':8} {'GB/s':>6} {'PyTorch':>8} {'NumPy':>8}")
    for name, (shape, order) in (SMOKE if options.smoke else CASES).items():
        if options.only not in name:
            continue
        for dtype in NUMBERS:
            size, (own, torchs, numpys) = measure(
                shim, shape, order, dtype, 1 if options.smoke else options.rounds)
            print(f"{name:36} {dtype:8} {size / own / 1e9:6.1f} {torchs / own:7.2f}x "
                  f"{numpys / own:7.2f}x", flush=True)
    print(load())


if __name__ == "__main__":
    main()
