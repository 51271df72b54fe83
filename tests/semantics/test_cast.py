"""Casts against NumPy, ml_dtypes, PyTorch and exact fractions.

TENSORD_CAST_LIB is the path of a shared library made of cast_shim.c, core/cast/*.c, core/scalar.c,
core/dtype.c and core/status.c.

Where tensord differs from the libraries, by design (each has its test below):

* Rounding once. PyTorch converts float64, complex128 and wide integers to float16, bfloat16 and
  float8 through float32, ml_dtypes to bfloat16: rounded twice, now and then to the wrong neighbour.
  tensord rounds the exact value once.
* Floats out of an integer's range, and NaN, are undefined in both libraries. tensord saturates, and
  makes NaN 0.
* float8_e4m3fn has no infinity. PyTorch 2.13 saturates to 448, infinities too, while it gives
  infinity for float8_e5m2; ml_dtypes gives NaN and infinity. tensord does as ml_dtypes, and
  saturates both types when asked to.
* A NaN becomes the one canonical NaN of its type; the libraries keep signs and payloads.
"""

import ctypes
import os
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

LIBRARY = os.environ.get("TENSORD_CAST_LIB")
if not LIBRARY:
    pytest.skip("TENSORD_CAST_LIB (path of the cast library) is not set", allow_module_level=True)

# NumPy and PyTorch warn of overflow, NaN and dropped imaginary parts: the cases meant here.
pytestmark = pytest.mark.filterwarnings("ignore")

cast_run = ctypes.CDLL(LIBRARY).cast_run_packed
cast_run.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
                     ctypes.c_size_t, ctypes.c_int]
cast_run.restype = None

# In the order of TD_DTYPES, which is that of their numbers, from 1.
NAMES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
         "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
         "float8_e4m3fn", "float8_e5m2"]
NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
INTEGERS = [name for name in NAMES if "int" in name]
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in NAMES}
assert all(torch.empty(0, dtype=getattr(torch, n)).element_size() == DTYPES[n].itemsize
           for n in NAMES)

# Fraction bits, least exponent of a normal number, largest finite value, whether it has infinity,
# canonical NaN.
FORMATS = {
    "float16": (10, -14, 65504, True, 0x7E00),
    "bfloat16": (7, -126, Fraction(2) ** 127 * Fraction(255, 128), True, 0x7FC0),
    "float32": (23, -126, Fraction(2) ** 128 - Fraction(2) ** 104, True, 0x7FC00000),
    "float64": (52, -1022, Fraction(2) ** 1024 - Fraction(2) ** 971, True, 0x7FF8000000000000),
    "float8_e4m3fn": (3, -6, 448, False, 0x7F),
    "float8_e5m2": (2, -14, 57344, True, 0x7F),
}


def cast(source, to, saturate=False):
    source = np.ascontiguousarray(source)
    out = np.empty(source.shape, DTYPES[to])
    start = NAMES.index(source.dtype.name) + 1
    cast_run(start, NAMES.index(to) + 1, source.ctypes.data, out.ctypes.data, source.size, saturate)
    return out


def torch_cast(source, to):
    """PyTorch's answer, its bytes carried through uint8, which both libraries know."""
    tensor = torch.from_numpy(np.ascontiguousarray(source).view(np.uint8))
    tensor = tensor.view(getattr(torch, source.dtype.name)).to(getattr(torch, to))
    return tensor.view(torch.uint8).numpy().view(DTYPES[to])


def bits(array):
    return array.view(f"u{array.dtype.itemsize}")


def parts(array):
    """Complex numbers as pairs, everything else as it is."""
    return array.view(f"f{array.dtype.itemsize // 2}") if array.dtype.kind == "c" else array


def assert_same(got, wanted, source, where=None):
    """The same bits, or NaN both, for every element or those that `where` selects."""
    a, b = parts(got), parts(wanted)
    same = bits(a) == bits(b)
    if got.dtype.name.startswith(("float", "bfloat", "complex")):
        same |= np.isnan(a) & np.isnan(b)
    same = same.reshape(source.size, -1).all(axis=1)
    if where is not None:
        same |= ~where
    wrong = np.flatnonzero(~same)
    assert wrong.size == 0, (
        f"{source.dtype} -> {got.dtype}: {wrong.size} differ, the first of {source[wrong[0]]!r}: "
        f"{got[wrong[0]]!r}, not {wanted[wrong[0]]!r}")


def is_float(name):
    return "float" in name or "complex" in name


def in_range(source, to):
    """Where float to integer is defined: the truncated value is one of the type."""
    if to not in INTEGERS or not is_float(source.dtype.name):
        return np.ones(source.size, bool)
    info = np.iinfo(to)
    value = np.trunc(parts(source).reshape(source.size, -1)[:, 0].astype(np.float64))
    return (value >= float(info.min)) & (value < 2.0 * float(info.max // 2 + 1))


def values(name):
    """Every value of a dtype of one or two bytes; of others random bits and moderate numbers."""
    dtype = DTYPES[name]
    random = np.random.default_rng(NAMES.index(name))
    if name == "bool":
        return np.array([False, True])
    if dtype.itemsize <= 2:
        return np.arange(256 ** dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)
    raw = random.integers(0, 256, 50000 * dtype.itemsize, dtype=np.uint8).view(dtype)
    if dtype.kind in "iu":
        shifts = random.integers(0, 8 * dtype.itemsize, raw.size).astype(dtype)
        return np.concatenate([raw, raw >> shifts, np.arange(-70000, 70000).astype(dtype)])
    pieces = parts(raw)
    moderate = random.integers(-2**40, 2**40, pieces.size) * 2.0 ** random.integers(
        -70, -20, pieces.size)
    return np.concatenate([pieces, moderate.astype(pieces.dtype)]).view(dtype)


PAIRS = [(a, b) for a in NAMES for b in NAMES if a != b]


def goes_through_float32(library, start, to):
    wide = start in ("float64", "complex128") or (start in INTEGERS and DTYPES[start].itemsize > 2)
    return wide and to in (NARROW if library == "torch" else ["bfloat16"])


@pytest.mark.parametrize("start, to", PAIRS)
def test_as_numpy(start, to):
    source = values(start)
    wanted = source.astype(DTYPES[to])
    if goes_through_float32("numpy", start, to):
        # What is left is rounding twice, and nothing else.
        assert_same(cast(cast(source, "float32"), to), wanted, source)
        exact = as_float64(source) == as_float64(cast(source, "float32"))
        assert_same(cast(source, to), wanted, source, exact)
    else:
        assert_same(cast(source, to), wanted, source, in_range(source, to))


@pytest.mark.parametrize("start, to", PAIRS)
def test_as_torch(start, to):
    source = values(start)
    wanted = torch_cast(source, to)
    saturate = to == "float8_e4m3fn"
    if goes_through_float32("torch", start, to):
        assert_same(cast(cast(source, "float32"), to, saturate), wanted, source)
        exact = as_float64(source) == as_float64(cast(source, "float32"))
        assert_same(cast(source, to, saturate), wanted, source, exact)
    else:
        assert_same(cast(source, to, saturate), wanted, source, in_range(source, to))


def as_float64(source):
    """The real part; integers of more than 53 bits are rounded, and so never count as exact."""
    value = parts(source).reshape(source.size, -1)[:, 0]
    if value.dtype.kind in "iu" and value.dtype.itemsize == 8:
        return np.where((value >> 53 == 0), value.astype(np.float64), np.nan)
    return value.astype(np.float64)


# ---- Rounding once: exact fractions -----------------------------------------------------------


def nearest(value, name):
    """The nearest number of a format, ties to even, as a float64; NaN and infinity as they are."""
    fraction_bits, least, largest, has_infinity, _ = FORMATS[name]
    if value != value or value == 0:
        return float(value)
    overflow = float("inf") if has_infinity else float("nan")
    if value in (float("inf"), -float("inf")):
        return value if has_infinity else overflow
    exact = Fraction(value)
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, least) - fraction_bits)
    rounded = round(size / unit) * unit  # Python rounds halves to even
    result = overflow if rounded > largest else float(rounded)
    return -result if exact < 0 else result


def assert_nearest(source, to):
    got = cast(source, to)
    wanted = np.array([nearest(v, to) for v in source.tolist()])
    as_double = got.astype(np.float64)
    assert np.array_equal(as_double, wanted, equal_nan=True), (source, got, wanted)
    signed = ~np.isnan(wanted)
    assert np.array_equal(np.signbit(as_double[signed]), np.signbit(wanted[signed]))


@st.composite
def hard_floats(draw):
    """A tie of some narrow float, and its neighbourhood: a few leading bits, a half, a little."""
    kept = draw(st.integers(0, 12))
    leading = draw(st.integers(2 ** kept, 2 ** (kept + 1) - 1))
    value = (2 * leading + draw(st.sampled_from([0, 1]))) * 2.0 ** draw(st.integers(-160, 130))
    value *= 1 + draw(st.sampled_from([0, 1, -1])) * 2.0 ** -draw(st.integers(14, 52))
    return draw(st.sampled_from([1, -1])) * value


@given(st.lists(st.one_of(hard_floats(), st.floats(width=64)), min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_float64_is_rounded_once(numbers):
    source = np.array(numbers, np.float64)
    for to in ["float32"] + NARROW:
        assert_nearest(source, to)
    single = source.astype(np.float32)
    for to in ["float64"] + NARROW:
        assert_nearest(single, to)


@st.composite
def hard_integers(draw):
    """A few leading bits, a half, and perhaps a one far below."""
    kept = draw(st.integers(0, 54))
    leading = draw(st.integers(2 ** kept, 2 ** (kept + 1) - 1))
    value = (2 * leading + 1) << draw(st.integers(0, max(0, 62 - kept - 1)))
    return value + draw(st.sampled_from([-1, 0, 1]))


@given(st.lists(st.one_of(hard_integers(), st.integers(0, 2**64 - 1)), min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_integers_are_rounded_once(numbers):
    source = np.array([n % 2**64 for n in numbers], np.uint64)
    for dtype in ["uint64", "int64", "uint32", "int32"]:
        for to in ["float32", "float64"] + NARROW:
            assert_nearest(source.astype(dtype), to)
            assert_nearest(-source.astype(dtype), to)


def test_the_libraries_round_twice():
    """One value each, so that this list shrinks when a library changes."""
    # A little over halfway between two float16 (bfloat16) numbers; halfway once it is a float32.
    source = np.array([1 + 2.0**-11 + 2.0**-40])
    assert cast(source, "float16")[0] == 1 + 2.0**-10 == source.astype(np.float16)[0]
    assert torch_cast(source, "float16")[0] == 1
    source = np.array([1 + 2.0**-8 + 2.0**-40])
    assert cast(source, "bfloat16")[0] == 1 + 2.0**-7
    assert torch_cast(source, "bfloat16")[0] == 1 == source.astype(ml_dtypes.bfloat16)[0]
    source = np.array([1 + 2.0**-4 + 2.0**-40])
    assert cast(source, "float8_e4m3fn")[0] == 1.125
    assert torch_cast(source, "float8_e4m3fn")[0] == 1
    source = np.array([2**40 + 2**32 + 1])
    assert cast(source, "bfloat16")[0] == 2.0**40 + 2.0**33
    assert torch_cast(source, "bfloat16")[0] == 2.0**40 == source.astype(ml_dtypes.bfloat16)[0]


# ---- Integers ---------------------------------------------------------------------------------


@given(st.lists(st.floats(width=64), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_float_to_integer_saturates(numbers):
    edges = [2.0**n + d for n in (7, 8, 15, 16, 31, 32) for d in (-1, -0.5, 0, 0.5)]
    edges += [2.0**63, 2.0**64, np.nextafter(2.0**63, 0), np.nextafter(2.0**64, 0)]
    source = np.array(numbers + edges + [-e for e in edges])
    sources = [source, source.astype(np.float32), source.astype(np.complex128)]
    for array in sources:
        for to in INTEGERS:
            info = np.iinfo(to)
            wanted = []
            for value in array.real.tolist():
                if value != value:
                    wanted.append(0)
                elif abs(value) == float("inf"):
                    wanted.append(info.max if value > 0 else info.min)
                else:
                    wanted.append(min(max(int(value), info.min), info.max))
            assert cast(array, to).tolist() == wanted


@given(st.lists(st.integers(-2**63, 2**64 - 1), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_integer_to_integer_wraps(numbers):
    source = np.array([n % 2**64 for n in numbers], np.uint64)
    for start in INTEGERS:
        for to in INTEGERS:
            array = source.astype(start)
            size = 2 ** (8 * DTYPES[to].itemsize)
            wanted = [n % size for n in array.tolist()]
            assert [n % size for n in cast(array, to).tolist()] == wanted
            assert cast(array, "bool").tolist() == [n != 0 for n in array.tolist()]


# ---- float8 and NaN ---------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("start", ["float16", "bfloat16", "float32", "float64", "int64"])
def test_saturating_is_clipping(start, to):
    source = values(start)
    largest = float(FORMATS[to][2])
    wide = source.astype(np.float64)
    clipped = np.clip(wide, -largest, largest)  # keeps NaN
    assert_same(cast(source, to, True), clipped.astype(DTYPES[to]), source)


def test_overflow_of_float8():
    source = np.array([464, 464.5, -465, np.inf, -np.inf], np.float32)
    assert bits(cast(source, "float8_e4m3fn")).tolist() == [0x7E] + [0x7F] * 4
    assert bits(cast(source, "float8_e4m3fn", True)).tolist() == [0x7E, 0x7E, 0xFE, 0x7E, 0xFE]
    assert bits(torch_cast(source, "float8_e4m3fn")).tolist() == [0x7E, 0x7E, 0xFE, 0x7E, 0xFE]
    source = np.array([61439, 61440, -np.inf], np.float32)
    assert bits(cast(source, "float8_e5m2")).tolist() == [0x7B, 0x7C, 0xFC]
    assert bits(torch_cast(source, "float8_e5m2")).tolist() == [0x7B, 0x7C, 0xFC]
    assert bits(cast(source, "float8_e5m2", True)).tolist() == [0x7B, 0x7B, 0xFB]


@pytest.mark.parametrize("start", list(FORMATS))
def test_nan_is_canonical(start):
    source = values(start)
    source = source[np.isnan(source)]
    for to, (_, _, _, _, nan) in FORMATS.items():
        if to != start:
            assert (bits(cast(source, to)) == nan).all()
    assert cast(source, "bool").all()
    assert (bits(cast(source, start)) == bits(source)).all()  # a copy keeps its bits
    pairs = cast(source, "complex128")
    assert (bits(pairs.real.copy()) == FORMATS["float64"][4]).all() and (pairs.imag == 0).all()
