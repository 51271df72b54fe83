"""core/print.c against PyTorch's repr(): character for character, on every dtype.

TENSORD_PRINT_LIB names a shared library of print_shim.c, core/print.c and what they need.
"""

import ctypes
import itertools
import math
import os
import random

import pytest

LIBRARY = os.environ.get("TENSORD_PRINT_LIB")
if not LIBRARY:
    pytest.skip("TENSORD_PRINT_LIB is not set: no library to test", allow_module_level=True)
torch = pytest.importorskip("torch")
hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import _tensor_str  # noqa: E402


class Options(ctypes.Structure):
    _fields_ = [
        ("precision", ctypes.c_int),
        ("threshold", ctypes.c_int64),
        ("edgeitems", ctypes.c_int64),
        ("linewidth", ctypes.c_int),
        ("sci_mode", ctypes.c_int),
    ]


shim = ctypes.CDLL(LIBRARY)
shim.print_shim_detail.restype = ctypes.c_char_p
shim.print_shim_dtype.restype = ctypes.c_char_p
shim.print_shim_free.argtypes = [ctypes.c_void_p]
shim.print_shim.argtypes = [
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.POINTER(ctypes.c_int64),
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(Options),
    ctypes.POINTER(ctypes.c_void_p),
]

NUMBERS = {shim.print_shim_dtype(i).decode(): i for i in range(1, 18)}
DTYPES = {name: getattr(torch, name) for name in NUMBERS}
WHOLE = [name for name in DTYPES if "int" in name]
REAL = [name for name in DTYPES if "float" in name]
COMPLEX = [name for name in DTYPES if "complex" in name]
DEFAULTS = dict(precision=4, threshold=1000, edgeitems=3, linewidth=80, sci_mode=None)

several = settings(
    deadline=None,
    database=None,
    max_examples=400,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def printed(tensor, device="cpu", requires_grad=None, grad_fn=None, **options):
    """What print_tensor makes of a tensor of PyTorch's, read in place."""
    options = {**DEFAULTS, **options}
    sci_mode = options.pop("sci_mode")
    record = Options(sci_mode=-1 if sci_mode is None else int(sci_mode), **options)
    if tensor.grad_fn is not None and grad_fn is None:
        grad_fn = type(tensor.grad_fn).__name__
    if requires_grad is None:
        requires_grad = tensor.requires_grad
    rank = tensor.dim()
    storage = tensor.untyped_storage()
    text = ctypes.c_void_p()
    status = shim.print_shim(
        NUMBERS[str(tensor.dtype).removeprefix("torch.")],
        rank,
        (ctypes.c_int64 * rank)(*tensor.shape),
        (ctypes.c_int64 * rank)(*tensor.stride()),
        tensor.storage_offset() * tensor.element_size(),
        storage.data_ptr() if storage.nbytes() else None,
        device.encode(),
        requires_grad,
        grad_fn.encode() if grad_fn else None,
        ctypes.byref(record),
        ctypes.byref(text),
    )
    assert status == 0, shim.print_shim_detail()
    try:
        return ctypes.string_at(text).decode()
    finally:
        shim.print_shim_free(text)


def expected(tensor, **options):
    # printoptions() itself would reset sci_mode of the caller's to None on leaving; nobody set one.
    with torch._tensor_str.printoptions(**{**DEFAULTS, **options}):
        return repr(tensor)


def check(tensor, **options):
    assert printed(tensor, **options) == expected(tensor, **options)


def random_bytes(rng, dtype, count):
    """Any bit pattern, so NaNs of both signs, subnormals and the largest numbers too."""
    if dtype is torch.bool:
        return torch.tensor([rng.random() < 0.5 for _ in range(count)], dtype=torch.bool)
    size = torch.empty(0, dtype=dtype).element_size()
    return torch.frombuffer(bytearray(rng.randbytes(count * size)), dtype=dtype)


def random_reals(rng, count):
    """Values of one style, with a few that any style must bear."""
    style = rng.choice(["whole", "half", "unit", "small", "large", "wide", "edge", "odd", "near"])
    make = {
        "whole": lambda: float(rng.randint(-20, 20)),
        "half": lambda: rng.randint(-9, 9) / 2,
        "unit": lambda: rng.uniform(-1, 1),
        "small": lambda: rng.uniform(-1, 1) * 10 ** rng.randint(-12, -3),
        "large": lambda: float(rng.randint(-(10**11), 10**11)),
        "wide": lambda: rng.uniform(-1, 1) * 10 ** rng.randint(-9, 9),
        "edge": lambda: rng.choice([1e-4, 9.9999e-5, 0.1, 1.0, 1000.0, 1001.0, 1e8, 1.00001e8]),
        "odd": lambda: rng.choice([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -2.0, 0.5]),
        "near": lambda: rng.choice([0.99995, 9.99995, 99.99995, 0.00005, 0.00015, 2.5, 1.00005]),
    }[style]
    spice = rng.choice([0, 0, 0.1])
    specials = [0.0, -0.0, math.inf, -math.inf, math.nan]
    return [rng.choice(specials) if rng.random() < spice else make() for _ in range(count)]


def random_values(rng, dtype, count):
    if rng.random() < 0.3 or dtype is torch.bool:
        return random_bytes(rng, dtype, count)
    if dtype.is_complex:
        pairs = zip(random_reals(rng, count), random_reals(rng, count))
        return torch.tensor([complex(re, im) for re, im in pairs], dtype=dtype)
    if dtype.is_floating_point:
        return torch.tensor(random_reals(rng, count), dtype=torch.float64).to(dtype)
    info = torch.iinfo(dtype)
    bound = 10 ** rng.randint(1, 19)
    low, high = max(info.min, -bound), min(info.max, bound)
    return torch.tensor([rng.randint(low, high) for _ in range(count)], dtype=dtype)


def random_view(rng, dtype, most=60):
    """A random tensor of up to `most` elements over a random storage, with random strides."""
    rank = rng.choice([0, 1, 1, 1, 2, 2, 3, 4, 5])
    shape = []
    for _ in range(rank):
        room = max(1, most // max(1, math.prod(shape)))
        shape.append(rng.randint(0 if rng.random() < 0.03 else 1, min(room, most)))
    rng.shuffle(shape)
    strides = [rng.randint(0, 7) for _ in shape]
    if rng.random() < 0.5:  # contiguous, at times transposed
        strides = [math.prod(max(1, n) for n in shape[dim + 1 :]) for dim in range(rank)]
        order = list(range(rank))
        if rng.random() < 0.3:
            rng.shuffle(order)
        shape = [shape[dim] for dim in order]
        strides = [strides[dim] for dim in order]
    offset = rng.randint(0, 5)
    count = offset + 1
    if 0 not in shape:
        count += sum((n - 1) * step for n, step in zip(shape, strides))
    return random_values(rng, dtype, count).as_strided(shape, strides, offset)


def test_names():
    """The numbers that the tests hand over are those of the 17 dtypes."""
    assert len(NUMBERS) == 17 and all(isinstance(d, torch.dtype) for d in DTYPES.values())


@pytest.mark.parametrize("name", DTYPES)
def test_views(name):
    rng = random.Random(f"views {name}")
    for _ in range(100):
        check(random_view(rng, DTYPES[name]))


@pytest.mark.parametrize("name", DTYPES)
def test_options(name):
    rng = random.Random(f"options {name}")
    for _ in range(100):
        check(
            random_view(rng, DTYPES[name], most=100),
            precision=rng.choice([0, 1, 2, 3, 4, 4, 6, 10, 17, 40]),
            threshold=rng.choice([-1, 0, 1, 5, 10, 30, 1000, 2**62]),
            edgeitems=rng.choice([0, 1, 1, 2, 3, 3, 5, 2**61]),
            linewidth=rng.choice([-3, 0, 1, 10, 20, 33, 50, 80, 120, 10**6]),
            sci_mode=rng.choice([None, None, None, True, False]),
        )


@pytest.mark.parametrize("name", DTYPES)
def test_summary_of_defaults(name):
    rng = random.Random(f"summary {name}")
    values = random_values(rng, DTYPES[name], 1500)
    check(values)
    check(values[:1001])
    check(values.reshape(3, 500))
    check(values.reshape(500, 3))
    check(values.reshape(10, 15, 10))
    check(values.reshape(2, 75, 2, 5))
    check(values.reshape(15, 100).t())
    check(values[0].expand(40, 50))


@pytest.mark.parametrize("name", DTYPES)
def test_full_thousand(name):
    """As many elements as the threshold allows are all shown."""
    rng = random.Random(f"thousand {name}")
    check(random_values(rng, DTYPES[name], 1000).reshape(8, 125))


@pytest.mark.parametrize("name", DTYPES)
def test_empty(name):
    for shape in [(0,), (0, 3), (3, 0), (1, 0, 2), (0, 0, 0, 0)]:
        check(torch.empty(shape, dtype=DTYPES[name]))
        check(torch.empty(shape, dtype=DTYPES[name]), edgeitems=0, linewidth=20)


def test_every_byte_of_float8():
    for name in ["float8_e4m3fn", "float8_e5m2"]:
        for byte in range(256):
            check(torch.tensor([byte], dtype=torch.uint8).view(DTYPES[name]))
        check(torch.arange(256, dtype=torch.uint8).view(DTYPES[name]).reshape(16, 16))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_sixteen_bits(name):
    """Every 97th pattern as a scalar, and bands of neighbours."""
    bits = torch.arange(0, 65536, dtype=torch.int32).to(torch.uint16)
    for start in range(0, 65536, 97):
        check(bits[start].view(DTYPES[name]))
    for start in range(0, 65536, 2048):
        check(bits[start : start + 16].view(DTYPES[name]))


@several
@given(st.lists(st.floats(), min_size=0, max_size=12), st.sampled_from(REAL))
def test_any_floats(values, name):
    check(torch.tensor(values, dtype=torch.float64).to(DTYPES[name]))


@several
@given(
    st.lists(st.complex_numbers(), min_size=0, max_size=8),
    st.sampled_from(COMPLEX),
    st.sampled_from([None, True, False]),
)
def test_any_complex(values, name, sci_mode):
    check(torch.tensor(values, dtype=torch.complex128).to(DTYPES[name]), sci_mode=sci_mode)


@several
@given(st.data(), st.sampled_from(WHOLE))
def test_any_integers(data, name):
    info = torch.iinfo(DTYPES[name])
    values = data.draw(st.lists(st.integers(info.min, info.max), max_size=12))
    check(torch.tensor(values, dtype=DTYPES[name]))


@several
@given(
    st.randoms(use_true_random=False),
    st.sampled_from(list(DTYPES)),
    st.integers(0, 60),
    st.integers(-1, 5),
    st.integers(0, 12),
    st.integers(0, 100),
)
def test_any_options(rng, name, threshold, edgeitems, precision, linewidth):
    check(
        random_view(rng, DTYPES[name], most=40),
        threshold=threshold,
        edgeitems=max(0, edgeitems),
        precision=precision,
        linewidth=linewidth,
    )


def test_gradients():
    rng = random.Random("gradients")
    for name in ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]:
        for _ in range(20):
            leaf = random_view(rng, DTYPES[name]).clone().requires_grad_()
            linewidth = rng.choice([20, 40, 60, 80])
            check(leaf, linewidth=linewidth)
            check(leaf * 2, linewidth=linewidth)
            check(leaf.unsqueeze(0), linewidth=linewidth)
            check(leaf.detach(), linewidth=linewidth)


def test_suffixes_of_other_devices_and_integers():
    """No GPU is at hand, nor integers that require grad: PyTorch's own functions, put together."""
    rng = random.Random("suffixes")
    for name, linewidth, _ in itertools.product(DTYPES, [30, 60, 80], range(8)):
        tensor = random_view(rng, DTYPES[name])
        if tensor.numel() == 0:
            continue
        grad_fn = rng.choice([None, "MulBackward0", "ToCopyBackward0", "N" * 70])
        requires_grad = rng.random() < 0.5
        suffixes = ["device='cuda:0'"]
        if name not in ("bool", "int64", "float32", "complex64"):
            suffixes.append(f"dtype=torch.{name}")
        if grad_fn:
            suffixes.append(f"grad_fn=<{grad_fn}>")
        elif requires_grad:
            suffixes.append("requires_grad=True")
        with _tensor_str.printoptions(**{**DEFAULTS, "linewidth": linewidth}):
            values = "tensor(" + _tensor_str._tensor_str(tensor, 7)
            want = _tensor_str._add_suffixes(values, suffixes, 7, False)
        got = printed(
            tensor,
            device="cuda:0",
            requires_grad=requires_grad,
            grad_fn=grad_fn,
            linewidth=linewidth,
        )
        assert got == want


def test_where_notation_turns():
    """Right at and beside the three limits that call for scientific notation, on either side."""
    for name in ["float32", "float64", "complex64", "complex128"]:
        for limit, other in [(1000.0, 1.0), (1e8, 1e8), (1e-4, 1e-4)]:
            at = torch.tensor(limit, dtype=torch.float64).to(DTYPES[name].to_real())
            for way in [-math.inf, math.inf]:
                beside = torch.nextafter(at, torch.tensor(way, dtype=at.dtype))
                for value in [at.item(), beside.item(), at.item() * (1.001 if way > 0 else 0.999)]:
                    check(torch.tensor([value, other], dtype=DTYPES[name]))


def test_where_suffixes_break():
    leaf = torch.tensor([[1.5, 2, 3], [4, 5, 6]], dtype=torch.float64, requires_grad=True)
    for linewidth in range(101):
        for tensor in [leaf, leaf * 2, leaf.detach()[:0], leaf[:0], leaf[:0] * 2, leaf.float()]:
            check(tensor, linewidth=linewidth)
            check(tensor, linewidth=linewidth, edgeitems=0)


def test_many_dimensions():
    check(torch.arange(4096).reshape([2] * 12), threshold=2**62)
    check(torch.arange(64).reshape([1] * 18 + [2] * 6).float())
    check(torch.zeros(()).expand([1] * 31 + [4]))
