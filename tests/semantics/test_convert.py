"""core/convert.h against NumPy: any layout and dtype into any other, also in parts.

TENSORD_CONVERT_LIB names a shared library of convert_shim.c and what it needs. Casts themselves are
test_cast.py's: the values here are exact in every dtype, so that only where they go is in question.
"""

import ctypes
import itertools
import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LIBRARY = os.environ.get("TENSORD_CONVERT_LIB")
if not LIBRARY:
    pytest.skip("TENSORD_CONVERT_LIB is not set: no library to test", allow_module_level=True)

run = ctypes.CDLL(LIBRARY).convert_shim_run
int64s = ctypes.POINTER(ctypes.c_int64)
run.argtypes = [int64s, ctypes.c_void_p, int64s, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
run.restype = None
STREAM = 2  # CAST_STREAM

# In the order of TD_DTYPES, which is that of their numbers, from 1.
NAMES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
         "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
         "float8_e4m3fn", "float8_e5m2"]
DTYPES = [np.dtype(getattr(ml_dtypes, name, name)) for name in NAMES]
SIZES = {size: next(d for d in DTYPES if d.itemsize == size and d.kind in "uc")
         for size in (1, 2, 4, 8, 16)}
ELEMENTS = 60000

many = settings(deadline=None, max_examples=1500, database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def packed(view, base):
    offset = view.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    strides = [stride // view.itemsize for stride in view.strides]
    numbers = [offset, DTYPES.index(view.dtype) + 1, view.ndim, *view.shape, *strides]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def check(source_base, source, target_base, target, flags=0, parts=1):
    """Converts, and compares all of the target's memory with what NumPy makes of it."""
    place = packed(target, target_base)
    expected_base = target_base.copy()
    expected = np.ndarray(target.shape, target.dtype, expected_base, place[0], target.strides)
    with np.errstate(all="ignore"):
        np.copyto(expected, source.real if source.dtype.kind == "c" != target.dtype.kind
                  else source, casting="unsafe")
    run(packed(source, source_base), source_base.ctypes.data, place, target_base.ctypes.data,
        flags, parts)
    assert target_base.tobytes() == expected_base.tobytes()


def memory(dtype, elements, seed):
    """Small integers, which every dtype has; other bytes where nothing is cast."""
    return np.random.default_rng(seed).integers(0, 9, elements).astype(dtype)


@st.composite
def shapes(draw):
    """Of any rank; sizes are often 1, often those around the edges of vectors and tiles."""
    left, shape = ELEMENTS, []
    for _ in range(draw(st.sampled_from([0, 1, 2, 2, 3, 3, 4, 5, 6, 8]))):
        edges = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 256, 257,
                 511, 513, 1025]
        size = draw(st.sampled_from([s for s in edges if s <= left]))
        left //= size
        shape.append(size)
    return draw(st.permutations(shape))


@st.composite
def layouts(draw, shape, expands):
    """Strides and offset (in elements) for a shape, and how many elements there are in all: its
    dimensions in any order, with gaps, backwards, and, if `expands`, some of stride 0."""
    order = list(range(len(shape)))
    if draw(st.booleans()):
        order = draw(st.permutations(order))
    strides, reach, first = [0] * len(shape), 1, 0
    gaps = draw(st.booleans())
    for dim in reversed(order):
        if expands and draw(st.integers(0, 5)) == 0:
            continue
        step = draw(st.sampled_from([1, 1, 1, 2, 3])) if gaps and reach < ELEMENTS else 1
        extra = draw(st.sampled_from([0, 0, 1, 7])) if gaps and reach < ELEMENTS else 0
        strides[dim] = reach * step + extra
        span = strides[dim] * (shape[dim] - 1)
        if draw(st.integers(0, 5)) == 0:
            strides[dim] = -strides[dim]
            first += span
        reach = span + reach
    offset = draw(st.integers(0, 3))
    return strides, offset + first, offset + reach


def view_of(dtype, shape, layout, seed):
    strides, offset, elements = layout
    base = memory(dtype, max(1, elements), seed)
    size = base.itemsize
    view = np.ndarray(shape, base.dtype, base, offset * size, [s * size for s in strides])
    return base, view


@many
@given(st.data())
def test_any_layout_of_any_dtype(data):
    shape = data.draw(shapes())
    if data.draw(st.booleans()):
        source_dtype = target_dtype = data.draw(st.sampled_from(DTYPES))
    else:
        source_dtype, target_dtype = data.draw(st.tuples(*[st.sampled_from(DTYPES)] * 2))
    source = view_of(source_dtype, shape, data.draw(layouts(shape, True)), 1)
    target = view_of(target_dtype, shape, data.draw(layouts(shape, False)), 2)
    flags = data.draw(st.sampled_from([0, STREAM]))
    check(*source, *target, flags, data.draw(st.sampled_from([1, 1, 2, 3, 7])))


EDGES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 127, 128, 129, 255, 256, 257, 600]


@pytest.mark.parametrize("size", SIZES)
def test_transposes_of_every_size(size):
    """Each pair of sizes around the edges of vectors and tiles; bytes that are all their own."""
    base = np.random.default_rng(3).integers(0, 256, 600 * 600 * size, np.uint8)
    for rows in EDGES:
        for columns in EDGES:
            source = base[: rows * columns * size].view(SIZES[size]).reshape(rows, columns)
            target = np.zeros((columns, rows), SIZES[size])
            check(source, source.T, target, target, STREAM * (rows % 2))


@pytest.mark.parametrize("size", SIZES)
def test_short_rows_change_places(size):
    """As heads and positions of attention do; around the sizes that are copied without a call."""
    for nbytes in (16, 32, 48, 64, 80, 128, 240, 256, 272):
        shape = (3, 17, 5, nbytes // size)
        base = np.random.default_rng(4).integers(0, 256, 3 * 17 * 5 * nbytes + size, np.uint8)
        for offset in (0, size):  # in lines, and not
            source = base[offset:][: 3 * 17 * 5 * nbytes].view(SIZES[size]).reshape(shape)
            target = np.zeros((3, 5, 17, nbytes // size), SIZES[size])
            for flags in (0, STREAM):
                check(base.view(np.uint8), source.transpose(0, 2, 1, 3), target, target, flags)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16, 19])
def test_channels_last_and_first(dtype, channels):
    for height, width in ((1, 1), (5, 3), (16, 16), (37, 23), (64, 65)):
        images = memory(dtype, 3 * channels * height * width, 4)
        first = images.reshape(3, channels, height, width)
        target = np.zeros((3, height, width, channels), dtype)
        check(images, first.transpose(0, 2, 3, 1), target, target)
        back = np.zeros_like(first)
        check(target, target.transpose(0, 3, 1, 2), back, back, STREAM)
        assert (back == first).all()
        wider = np.zeros(back.shape, np.float64)
        check(target, target.transpose(0, 3, 1, 2), wider, wider)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_rows_of_whole_lines_in_any_order(order, parts):
    """Written past the cache, they are read in the source's order."""
    for width, target_type in ((16, "float32"), (64, "float32"), (32, "float64"), (48, "float16")):
        source = memory("float32", 3 * 5 * 7 * width, 6).reshape(3, 5, 7, width)
        view = source.transpose(*order, 3)
        room = np.zeros(view.size * np.dtype(target_type).itemsize + 64, np.uint8)
        start = -room.ctypes.data % 64  # of a line
        target = room[start : start + room.size - 64].view(target_type).reshape(view.shape)
        check(source, view, target, target, STREAM, parts)
        check(source, view[:, ::-1], target, target, STREAM, parts)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 4)])
def test_no_elements(shape):
    base = np.ones(4, np.float32)
    source, target = (np.ndarray(shape, np.float32, base) for _ in range(2))
    check(base, source.T, base, target.T, 0, 3)


def test_as_many_dimensions_as_there_can_be():
    source = memory("int16", 2**12, 5)
    shape = [2, 1, 1] * 10 + [2, 2]
    target = np.zeros(2**12, np.int16)
    forward = np.lib.stride_tricks.as_strided(source, shape, [0] * 32)
    check(source, forward, target, target.reshape([2] * 12).reshape(shape), 0, 2)
    view = source.reshape([2] * 12).transpose(range(11, -1, -1))
    check(source, view, target, target.reshape([2] * 12), 0, 5)
