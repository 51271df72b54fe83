"""Every path of the casts gives the same bits: other steps, all values of narrow dtypes, all of
float32, and what was committed in cast_hashes.txt.

    python test_cast_paths.py --update        writes the hashes of 8- and 16-bit sources anew
    python test_cast_paths.py --update-full   those of all float32 values too (minutes)

A line of cast_hashes.txt is a source, a destination, "saturate" or "-", and the SHA-256 of the
packed destinations of all source values in the order of their bits (little-endian, bool: any byte
but 0 is true). It stands for tensord's casts on any device. float32 has all 2^32 values; they are
compared with NumPy, ml_dtypes and PyTorch here too, in parts unless TENSORD_TESTS_FULL is set.
"""

import hashlib
import os
import pathlib
import sys

import numpy as np
import pytest
import torch
from casting import (
    DTYPES, NAMES, NAN_BITS, NARROW, PATHS, SATURATE, STREAM, bits, cast, every_value, run,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.filterwarnings("ignore")  # overflow and NaN are meant here

HASHES = pathlib.Path(__file__).with_name("cast_hashes.txt")
FULL = bool(os.environ.get("TENSORD_TESTS_FULL"))
SMALL = [name for name in NAMES if DTYPES[name].itemsize <= 2]
FLOAT8 = ["float8_e4m3fn", "float8_e5m2"]
EVERY_FLOAT = [(to, 0) for to in NARROW] + [(to, SATURATE) for to in FLOAT8]
LARGEST = {"float8_e4m3fn": 448, "float8_e5m2": 57344}


def committed():
    lines = [line.split() for line in HASHES.read_text().splitlines()]
    return {(start, to, how == "saturate"): digest for start, to, how, digest in lines}


# ---- Narrow sources ---------------------------------------------------------------------------


def small_hashes(path):
    for start in SMALL:
        source = every_value(start)
        for to in NAMES:
            for saturate in (0, SATURATE):
                out = run(path, source, to, np.empty(source.size, DTYPES[to]), saturate)
                yield (start, to, bool(saturate)), hashlib.sha256(out).hexdigest()


@pytest.mark.parametrize("path", PATHS)
def test_hashes_of_narrow_sources(path):
    wanted = committed()
    for pair, digest in small_hashes(path):
        assert wanted[pair] == digest, pair


# ---- All of float32 ---------------------------------------------------------------------------


def by_numpy(source, to, saturate):
    """NumPy's and ml_dtypes' answer."""
    if saturate:
        source = np.clip(source, -LARGEST[to], LARGEST[to])  # keeps NaN
    return source.astype(DTYPES[to])


def by_torch(source, to, saturate):
    """PyTorch's float16: NumPy would take minutes for all floats."""
    return torch.from_numpy(source).to(torch.float16).numpy()


def check_floats(source, to, saturate, reference=by_numpy):
    wanted = bits(reference(source, to, saturate))
    is_nan = np.isnan(source) if to != "float8_e4m3fn" else np.isnan(wanted.view(DTYPES[to]))
    wanted[is_nan] = NAN_BITS[to]
    for path in PATHS:
        got = run(path, source, to, np.empty(source.size, DTYPES[to]), saturate)
        if np.array_equal(bits(got), wanted):
            continue
        wrong = np.flatnonzero(bits(got) != wanted)
        raise AssertionError(
            f"{path}: {wrong.size} differ, the first of {source[wrong[0]]!r}: "
            f"{bits(got)[wrong[0]]:#x}, not {wanted[wrong[0]]:#x}")  # fmt: skip
    return got


@pytest.mark.parametrize("to, saturate", EVERY_FLOAT)
def test_part_of_all_floats(to, saturate):
    """Every upper half with the lower halves beside which something is rounded."""
    edges = [1 << bit for bit in range(16)]
    lower = sorted({(edge + d) % 65536 for edge in edges + [0, 0x5555] for d in (-1, 0, 1)})
    upper = np.arange(65536, dtype=np.uint32) << 16
    source = upper[:, None] | np.array(lower, np.uint32)
    check_floats(source.ravel().view(np.float32), to, saturate)


def all_floats():
    size = 1 << 24
    chunk = np.arange(size, dtype=np.uint32)
    for first in range(0, 1 << 32, size):
        yield (chunk + np.uint32(first)).view(np.float32)


def digest_of_floats(to, saturate):
    digest = hashlib.sha256()
    reference = by_torch if to == "float16" else by_numpy
    for source in all_floats():
        digest.update(check_floats(source, to, saturate, reference))
    return digest.hexdigest()


if FULL:  # minutes

    @pytest.mark.parametrize("to, saturate", EVERY_FLOAT)
    def test_all_floats(to, saturate):
        assert committed()[("float32", to, bool(saturate))] == digest_of_floats(to, saturate)


# ---- Steps and alignment ----------------------------------------------------------------------


@st.composite
def runs(draw):
    """A pair of dtypes, a count, flags, and for each side a step and a misalignment in bytes."""
    start, to = draw(st.sampled_from(NAMES)), draw(st.sampled_from(NAMES))
    count = draw(st.one_of(st.integers(0, 70), st.integers(500, 5000)))

    def step(name):
        size = DTYPES[name].itemsize
        return st.one_of(st.just(size), st.integers(size, 40), st.integers(-40, -size))

    in_step = draw(st.one_of(step(start), st.just(0)))
    shifts = draw(st.integers(0, 64)), draw(st.integers(0, 64))
    flags = draw(st.integers(0, 3))
    return start, to, count, in_step, draw(step(to)), shifts, flags, draw(st.integers(0, 2**32))


def laid_out(memory, dtype, count, step, shift):
    """An array of that step within `memory`."""
    first = shift + (-step * (count - 1) if step < 0 and count else 0)
    return np.ndarray((count,), dtype, memory, first, (step,))


def elements(start, count, seed):
    """Random bits, or numbers of moderate size."""
    random = np.random.default_rng(seed)
    dtype = DTYPES[start]
    if seed % 2 and dtype.kind in "fc":
        numbers = random.standard_normal(count) * 2.0 ** random.integers(-20, 40, count)
        return numbers.astype(dtype)
    return random.integers(0, 256, count * dtype.itemsize, dtype=np.uint8).view(dtype)


@given(runs())
@settings(max_examples=2000 if FULL else 400, deadline=None)
def test_steps_and_alignment(case):
    start, to, count, in_step, out_step, (in_shift, out_shift), flags, seed = case
    packed = elements(start, count, seed)
    if in_step == 0:
        packed = np.repeat(packed[:1], count)
    # NumPy refuses to build some of these arrays aligned; bytes do not mind.
    raw = np.dtype(f"V{DTYPES[start].itemsize}"), np.dtype(f"V{DTYPES[to].itemsize}")
    source = np.zeros(128 + abs(in_step) * count + 16, np.uint8)
    laid_out(source, raw[0], count, in_step, in_shift)[...] = packed.view(raw[0])
    wanted = np.full(128 + abs(out_step) * count + 16, 0xA5, np.uint8)
    expected = cast(packed, to, flags & SATURATE)
    laid_out(wanted, raw[1], count, out_step, out_shift)[...] = expected.view(raw[1])
    for path in PATHS:
        out = np.full(wanted.size, 0xA5, np.uint8)
        run(path, laid_out(source, DTYPES[start], count, in_step, in_shift), to,
            laid_out(out, DTYPES[to], count, out_step, out_shift), flags)  # fmt: skip
        assert np.array_equal(out, wanted), path


# ---- Writing the hashes -----------------------------------------------------------------------


def update(full):
    hashes = dict(small_hashes(PATHS[0]))
    for to, saturate in EVERY_FLOAT:
        pair = "float32", to, bool(saturate)
        hashes[pair] = digest_of_floats(to, saturate) if full else committed()[pair]
        print(*pair, hashes[pair], flush=True)
    lines = [f"{a} {b} {'saturate' if s else '-'} {h}\n" for (a, b, s), h in hashes.items()]
    HASHES.write_text("".join(lines))


if __name__ == "__main__":
    if sys.argv[1:] not in (["--update"], ["--update-full"]):
        sys.exit(__doc__)
    update(sys.argv[1] == "--update-full")
