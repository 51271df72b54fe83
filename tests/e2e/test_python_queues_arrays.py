"""Arrays of every kind through a queue: what comes out is what went in, bit by bit."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import tensord

TORCH = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16",
    "bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
]  # fmt: skip
NUMPY = [name for name in TORCH if name not in ("bfloat16", "float8_e4m3fn", "float8_e5m2")]
SHAPES = [(), (0,), (3, 0, 2), (1,), (5, 7), (40_000,)]

_names = itertools.count()


@pytest.fixture
def q(client):
    made = client.queue(f"arrays/{next(_names)}", maxsize=8)
    yield made
    made.delete()


def random_bytes(count):
    return np.random.default_rng(count).integers(0, 256, count, np.uint8)


def random_torch(name, shape):
    element = getattr(torch, name)
    count = int(np.prod(shape)) * element.itemsize
    raw = random_bytes(count) & (1 if name == "bool" else 255)
    if not count:
        return torch.empty(shape, dtype=element)
    return torch.from_numpy(raw).view(element).reshape(shape)


def bits_torch(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", TORCH)
def test_every_dtype_of_pytorch(q, name):
    for shape in SHAPES:
        sent = random_torch(name, shape)
        q.put(sent)
        with q.get() as item:
            got = item.torch()
            assert (got.dtype, got.shape, item.dtype.name) == (sent.dtype, sent.shape, name)
            assert bits_torch(got) == bits_torch(sent)
            array = item.numpy()  # ml_dtypes' types, where NumPy has none
            assert array.shape == shape and array.tobytes() == bits_torch(sent)
            assert not array.flags.writeable


@pytest.mark.parametrize("name", [*NUMPY, "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_every_dtype_of_numpy(q, name):
    element = np.dtype(getattr(ml_dtypes, name)) if name not in NUMPY else np.dtype(name)
    for shape in SHAPES:
        raw = random_bytes(int(np.prod(shape)) * element.itemsize)
        sent = (raw & 1 if name == "bool" else raw).view(element).reshape(shape)
        q.put({"x": sent})
        with q.get() as item:
            got = item["x"].numpy()
            assert (got.dtype, got.shape) == (element, shape) and got.tobytes() == sent.tobytes()


def test_filled_in_place(q):
    for name, shape in itertools.product(TORCH, SHAPES):
        with q.allocate(shape, name) as segment:
            assert (segment.shape, segment.dtype.name) == (shape, name)
            assert segment.array.shape == shape and segment.torch().shape == shape
            assert segment.array is segment.array and segment.memoryview().nbytes == (
                segment.array.nbytes
            )
            segment.array[...] = 1
            assert bool((segment.torch() == 1).all())
            q.put(segment)
        with q.get() as item:
            assert item.dtype.name == name and bool((item.torch() == 1).all())


def test_shapes(q):
    assert q.allocate(3).shape == (3,) and q.allocate([2, 3]).shape == (2, 3)
    assert q.allocate(np.int64(3), torch.int8).dtype == "int8"
    for wrong, error in ((-1, (ValueError, RuntimeError)), (1 << 62, tensord.Error)):
        with pytest.raises(error):
            q.allocate(wrong, timeout=1)
    with pytest.raises(TypeError):
        q.allocate(3, "text")


def test_sources_that_are_not_contiguous(q):
    base = np.arange(240.0).reshape(4, 6, 10)
    sources = [
        base.T, base[:, ::2], base[::-1], base[1:, 2, ::3], np.asfortranarray(base),
        np.broadcast_to(base[0, 0], (7, 10)), base.astype(">f8"), base[0, 0, 0],
    ]  # fmt: skip
    for sent in sources:
        q.put(sent)
        flat = torch.tensor(sent.astype(float).tolist(), dtype=torch.float64)
        q.put(flat.permute(tuple(reversed(range(flat.ndim)))))
        with q.get() as item:
            assert np.array_equal(item.numpy(), sent) and item.numpy().flags.c_contiguous
        with q.get() as item:
            assert np.array_equal(item.numpy(), sent.T)


def test_other_sources(client, q):
    sources = {
        "a list": ([[1, 2], [3, 4]], "int64"),
        "a number": (2.5, "float32"),
        "bytes": (b"abc", "uint8"),
        "a memoryview": (memoryview(b"abcd").cast("H"), "uint16"),
        "a handle": (client.zeros(3, dtype="int8"), "int8"),
        "a part of a handle": (client.arange(10)[2:8:2], "int64"),
        "a tensor that requires grad": (torch.ones(2, requires_grad=True), "float32"),
    }
    for sent, name in sources.values():
        q.put(sent)
        with q.get() as item:
            assert item.dtype.name == name
            want = sent.numpy() if isinstance(sent, tensord.Tensor) else None
            if isinstance(sent, torch.Tensor):
                want = sent.detach().numpy()
            if want is None:
                want = np.frombuffer(sent, np.uint8) if isinstance(sent, bytes) else sent
            assert np.array_equal(item.numpy(), want)
            assert not item.torch().requires_grad


def test_what_requires_grad(client, q):
    x = client.variable(np.ones(20_000, np.float32), requires_grad=True)
    q.put(x)
    with q.get() as item:
        with pytest.raises(RuntimeError, match="Can't call numpy"):
            item.numpy()
        assert item.tensor.numpy(force=True).sum() == 20_000
        assert item.torch().requires_grad and item.tensor.requires_grad


@pytest.mark.parametrize("door", ["unix", "tcp"])
def test_any_sequence_equals_numpys(daemon, door):
    """What a queue.Queue of copies would give, in the same order, whatever the shapes."""
    arrays = st.sampled_from([np.dtype(name) for name in NUMPY]).flatmap(
        lambda element: nps.arrays(
            element,
            nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
            elements=None if element.kind not in "fc" else {"allow_nan": False},
        )
    )
    items = st.lists(st.one_of(arrays, st.lists(arrays, min_size=1, max_size=3)), max_size=6)
    client = tensord.connect(daemon.url if door == "unix" else daemon.tcp_url)
    q = client.queue(f"hypothesis/{door}", maxsize=6)

    @settings(
        max_examples=60, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(items)
    def run(sequence):
        sequence = [tuple(item) if isinstance(item, list) else (item,) for item in sequence]
        kept = []
        for i, item in enumerate(sequence):
            q.put(item, meta=str(i))
        for i, sent in enumerate(sequence):
            with q.get_nowait() as item:
                assert item.meta == str(i) and len(item) == len(sent)
                kept.append([tensor.numpy() for tensor in item])
        assert q.empty()
        for sent, got in zip(sequence, kept):
            for a, b in zip(sent, got):
                assert (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()

    run()
    q.delete()
    client.close()
