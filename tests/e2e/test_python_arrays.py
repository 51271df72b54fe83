"""Arrays in and out: every dtype through NumPy, PyTorch, ml_dtypes, DLPack and buffers."""

import array as arrays
import ctypes
import gc
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch

import tensord
from tensord import dtypes

NAMES = [dtype.name for dtype in dtypes.ALL]
BIG = 70_000  # elements: more than 64 KiB in every dtype, so that frozen ones are mapped too


def values_of(name, count=60):
    """Every dtype's interesting values, as a PyTorch tensor."""
    element = getattr(torch, name)
    random = torch.randn(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if element == torch.bool:
        return random > 0
    if element.is_complex:
        return torch.complex(random, -random).to(element)
    if element.is_floating_point:
        return (random * 10).to(element)
    reach = torch.iinfo(element)
    numbers = [reach.min, reach.max, 0, 1] + [i % reach.max for i in range(count - 4)]
    return torch.tensor(numbers, dtype=element)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def test_there_are_seventeen():
    assert len(dtypes.ALL) == 17
    for dtype in dtypes.ALL:
        assert dtype == getattr(torch, dtype.name) == dtype.torch
        assert dtype == dtype.numpy and dtype == str(dtype.torch) and dtype == dtype.name
        assert dtypes.dtype(dtype.legacy_name) is dtype is dtypes.dtype(dtype.numpy)
        assert torch.empty(0, dtype=dtype.torch).type() == dtype.legacy_name
        assert dtype.itemsize == dtype.torch.itemsize == dtype.numpy.itemsize
        assert dtype.is_floating_point == dtype.torch.is_floating_point
        assert dtype.is_complex == dtype.torch.is_complex
        assert dtype.is_signed == dtype.torch.is_signed
        assert repr(dtype) == f"tensord.{dtype.name}"
    assert tensord.float32 == np.float32 == tensord.dtype("<f4") == tensord.dtype("F32")
    assert tensord.bfloat16 == ml_dtypes.bfloat16 and tensord.bool == bool
    assert tensord.float32 != tensord.float64 and tensord.float32 != None  # noqa: E711
    assert tensord.float64 != np.floating and tensord.int64 != np.integer
    assert tensord.float32 != np.generic
    assert len({tensord.float32, tensord.dtype("float32"), tensord.float16}) == 2


@pytest.mark.parametrize("mutable", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_dtype_in_and_out(client, name, mutable):
    theirs = values_of(name).reshape(3, 4, 5)
    from_torch = client.put("dtype/t", theirs, mutable=mutable)
    as_array = theirs.contiguous().view(torch.uint8).numpy().view(from_torch.dtype.numpy)
    as_array = as_array.reshape(3, 4, 5)
    from_numpy = client.put("dtype/n", as_array, mutable=mutable)
    for x in (from_torch, from_numpy):
        assert x.dtype == theirs.dtype and x.dtype == as_array.dtype and x.shape == (3, 4, 5)
        assert bits(x.torch()) == bits(theirs) and x.torch().dtype == theirs.dtype
        assert x.numpy().dtype == as_array.dtype and x.numpy().tobytes() == as_array.tobytes()
        assert x.tobytes() == as_array.tobytes() == x.fetch().tobytes()
        assert np.asarray(x).tobytes() == as_array.tobytes()
        assert np.asarray(x).dtype == as_array.dtype
        assert x.tolist() == theirs.tolist() or name.startswith("float8")
        assert x[0, 0, 0].item() == theirs[0, 0, 0].item()
        assert bits(x.T.torch()) == bits(theirs.permute(2, 1, 0))
        assert x[:, 1:3].numpy().tobytes() == as_array[:, 1:3].tobytes()
        assert x.memoryview().tobytes() == as_array.tobytes()
        assert x.memoryview().readonly != mutable


@pytest.mark.parametrize("name", NAMES)
def test_shared_memory_of_every_dtype(client, name):
    theirs = values_of(name)
    x = client.zeros(60, dtype=name)
    tensor, array = x.torch(), x.numpy()
    tensor.copy_(theirs)
    assert x.memory == "shared" and bits(x.torch()) == bits(theirs) == array.tobytes()
    shared = tensord.empty(60, name)
    shared[:] = array
    y = client.from_numpy(shared, require_shared=True)
    assert y.dtype == name and y.tobytes() == array.tobytes()
    shared[0] = shared[1]
    assert y[0].item() == y[1].item()


@pytest.mark.parametrize("name", NAMES)
def test_frozen_memory_is_private_for_pytorch(client, name):
    x = client.put("private/x", values_of(name, BIG))
    before = x.tobytes()
    tensor = x.torch()
    assert (x.memory, x.reason) == ("private", "mode")
    tensor[0] = tensor[3]
    tensor.view(torch.uint8).zero_()
    assert x.tobytes() == before == x.numpy().tobytes()
    array = x.numpy()
    assert x.memory == "shared" and not array.flags.writeable


def test_zero_copies(client):
    x = client.zeros(3, 4)
    for view in (x.numpy(), np.asarray(x), x.torch().numpy(), np.from_dlpack(x)):
        view[...] += 1
    torch.from_dlpack(x).add_(1)
    memoryview(x.memoryview())[0, 0] = 9
    torch.as_tensor(x)[2, 3] = 8
    assert x[0, 0].item() == 9 and x[2, 3].item() == 8 and x[1].tolist() == [5] * 4
    assert np.array(x).base is None and np.array(x, copy=True).flags.owndata
    assert np.array(x, copy=None).base is not None
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError):
        np.array(x, dtype=np.float64, copy=False)
    assert np.array(x, copy=False).shape == (3, 4)
    assert np.sum(x) == np.sum(x.numpy())


def test_shapes(client):
    for shape in ((), (0,), (3, 0, 2), (1,), (1, 1, 1), (2,) * 20):
        for mutable in (False, True):
            theirs = np.ones(shape, np.float32)
            x = client.put("shape/x", theirs, mutable=mutable)
            assert x.shape == shape and x.numpy().shape == shape and x.torch().shape == shape
            assert np.array_equal(x.numpy(), theirs) and np.array_equal(np.asarray(x), theirs)
            assert np.array_equal(np.from_dlpack(x), theirs) and x.tolist() == theirs.tolist()
            assert x.numpy().flags.writeable == mutable
            assert x.fetch().shape == shape and torch.from_dlpack(x).shape == shape
    ranks = client.zeros(*(1,) * 32)
    assert ranks.ndim == 32 and ranks.numpy().ndim == 32 and ranks.torch().ndim == 32


def test_views_are_mapped_as_they_are(client):
    theirs = np.arange(120.0).reshape(4, 5, 6)
    x = client.tensor(theirs)
    for key in ((1,), (slice(None), 2), (..., 3), (slice(1, 4, 2), None, slice(0, 6, 5))):
        assert np.array_equal(x[key].numpy(), theirs[key])
        assert x[key].strides == torch.from_numpy(theirs)[key].stride()
        assert torch.equal(x[key].torch(), torch.from_numpy(theirs[key]))
        assert np.array_equal(np.asarray(x[key]), theirs[key])
        assert np.array_equal(np.from_dlpack(x[key]), theirs[key])
    expanded = x[0, 0].expand(3, 6)
    assert np.array_equal(expanded.numpy(), np.broadcast_to(theirs[0, 0], (3, 6)))
    assert torch.equal(expanded.torch(), torch.from_numpy(theirs[0, 0]).expand(3, 6))


# ---- what comes in ----


def test_sources(client):
    grid = np.arange(6).reshape(2, 3)
    sources = [
        grid,
        grid.T.copy().T,
        grid[::-1][::-1],
        grid.astype(">i8"),
        torch.from_numpy(grid),
        torch.from_numpy(grid.T.copy()).T,
        torch.nn.Parameter(torch.from_numpy(grid).double()),
        grid.tolist(),
        tuple(map(tuple, grid.tolist())),
        memoryview(grid),
        memoryview(grid.T.copy()).cast("B").cast("l", (3, 2)) and grid,
        [list(row) for row in grid],
        [np.array(row) for row in grid],
        Through(grid, "__dlpack__", "__dlpack_device__"),
        Through(grid.T.copy().T, "__dlpack__", "__dlpack_device__"),
        Through(grid, "__array_interface__"),
        Through(grid, "__array__"),
        client.tensor(grid),
    ]
    for source in sources:
        assert client.put("source/x", source).tolist() == grid.tolist(), source
        assert client.tensor(source).tolist() == grid.tolist()
        assert client.as_tensor(source).tolist() == grid.tolist()
        client["source/y"] = source
        assert client["source/y"].tolist() == grid.tolist()
    assert client.tensor(b"abc").dtype == "uint8" and client.tensor(bytearray(2)).tolist() == [0, 0]
    assert client.tensor(arrays.array("f", [1.5])).dtype == "float32"
    assert client.tensor(range(3)).tolist() == [0, 1, 2]
    assert client.tensor(np.float16(1.5)).dtype == "float16"
    conjugate = torch.tensor([1 + 2j]).conj()
    assert client.tensor(conjugate).tolist() == [1 - 2j]


class Through:
    """An object that has nothing but one protocol of an array's."""

    def __init__(self, array, *names):
        for name in names:
            setattr(type(self), name, property(lambda self, name=name: getattr(array, name)))

    def __new__(cls, *_args):
        return object.__new__(type("Through", (cls,), {}))


def test_numbers_and_lists_as_pytorch_reads_them(client):
    scalars = [True, 3, 2.5, 1j, -(2**63)]
    for value in [*scalars, [], [[], []], [1, 2.5], [True, 2], [1, 1j], [[1], [2]]]:
        ours, theirs = client.tensor(value), torch.tensor(value)
        assert ours.dtype == theirs.dtype and ours.shape == tuple(theirs.shape), value
        assert ours.tolist() == theirs.tolist()
    for name in ("float16", "bfloat16", "float64", "int8", "bool", "complex128", "float8_e5m2"):
        ours = client.tensor([[0, 1], [1, 0]], dtype=name)
        assert ours.dtype == name and ours.tolist() == [[0, 1], [1, 0]]
    assert client.tensor([1.5, -2.5], dtype="int64").tolist() == [1, -2]
    assert client.tensor([0.1], dtype="float16").item() == np.float16(0.1)
    assert client.tensor(np.arange(3), dtype="float32", requires_grad=True).requires_grad


NUMBERS = [
    ([float("nan")], "int64"),
    ([float("inf")], "int64"),
    ([float("nan")], "uint8"),
    ([float("nan")], "bool"),
    ([-1], "uint8"),
    ([-255, 255], "uint8"),
    ([-256], "uint8"),
    ([-1.0], "uint8"),
    ([300.5], "uint8"),
    ([-40000], "uint16"),
    ([-129], "int8"),
    ([1e30], "int64"),
    ([2**63], None),
    ([2**63], "uint8"),
    ([-(2**63) - 1], None),
    ([2**63], "uint64"),
    ([-1], "uint64"),
    ([2**63], "float32"),
    ([2**63], "bool"),
    ([2**1100, 1.0], None),
    ([1j], "int64"),
    ([1j], "float32"),
    ([1e300], "float32"),
]


@pytest.mark.parametrize("values, name", NUMBERS)
def test_numbers_that_hardly_fit(client, values, name):
    dtype = None if name is None else getattr(torch, name)
    try:
        expected = torch.tensor(values, dtype=dtype).tolist()
    except Exception as error:
        with pytest.raises(type(error)) as ours:
            client.tensor(values, dtype=name)
        assert str(ours.value) == str(error)
    else:
        assert client.tensor(values, dtype=name).tolist() == expected


def test_fetch(client):
    x = client.tensor([[1.25, 2.5], [3.75, -1.0]])
    assert x.fetch("int32").tolist() == [[1, 2], [3, -1]]
    assert x.T.fetch().flags.c_contiguous and x.T.fetch().tolist() == [[1.25, 3.75], [2.5, -1.0]]
    out = np.empty((2, 2), np.float64)
    assert x.fetch(np.float64, out) is out and out.tolist() == x.tolist()
    assert x.fetch(out=bytearray(16)) == x.tobytes()
    assert torch.equal(x.fetch(out=torch.empty(2, 2)), x.torch())
    x.save("fetch/x")
    assert client.fetch("fetch/x", "bfloat16").dtype == ml_dtypes.bfloat16
    frozen = np.empty((2, 2), np.float32)
    frozen.flags.writeable = False
    for bad in (np.empty(3, np.float32), frozen, np.empty((4, 4), np.float32)[::2, ::2], b"x" * 16):
        with pytest.raises(ValueError):
            x.fetch(out=bad)
    for bad in (np.empty((2, 3), np.float32), torch.empty(5), bytearray(15)):
        with pytest.raises(ValueError, match="out has"):
            x.fetch(out=bad)
    others = [np.zeros(4, "int32"), torch.zeros(4, dtype=torch.int32), np.zeros(16, "uint8")]
    for bad in (*others, memoryview(arrays.array("i", [0] * 4)), np.zeros((2, 2))):
        with pytest.raises(TypeError, match="out is"):
            x.fetch(out=bad)
        assert not np.asarray(bad).any()
    with pytest.raises(TypeError, match="int32"):
        x.fetch("int32", np.empty(4, np.float32))
    with pytest.raises(TypeError, match="handle"):
        x.fetch(out=client.zeros(2, 2))
    assert x.fetch(out=np.empty(4, np.float32)).tolist() == [1.25, 2.5, 3.75, -1.0]
    assert x.fetch(out=bytearray(20))[:16] == x.tobytes()


# ---- DLPack ----


def test_dlpack_out(client):
    x = client.arange(6).view(2, 3)
    assert x.__dlpack_device__() == (1, 0) == torch.arange(1).__dlpack_device__()
    theirs = torch.from_dlpack(x)
    theirs[0, 0] = 50
    ours = np.from_dlpack(x)
    ours[0, 1] = 60
    assert x.tolist()[0] == [50, 60, 2]
    copied = np.from_dlpack(x, copy=True)
    copied[...] = 0
    assert x.tolist()[0] == [50, 60, 2]
    assert np.from_dlpack(x, device="cpu", copy=False).tolist() == x.tolist()
    for legacy in (x.__dlpack__(), x.__dlpack__(max_version=(0, 8))):
        assert '"dltensor"' in repr(legacy)
        assert torch.utils.dlpack.from_dlpack(legacy).tolist() == x.tolist()
    assert '"dltensor_versioned"' in repr(x.__dlpack__(max_version=(1, 0)))
    with pytest.raises(BufferError):
        x.__dlpack__(dl_device=(2, 0))


def test_dlpack_of_frozen_tensors(client):
    x = client.put("dlpack/x", np.arange(float(BIG)))
    assert not np.from_dlpack(x).flags.writeable
    theirs = torch.from_dlpack(x)  # it ignores the read-only flag
    theirs.zero_()
    torch.utils.dlpack.from_dlpack(x.__dlpack__()).zero_()
    assert x[7].item() == 7 and x.memory == "private"


def test_dlpack_capsules_that_nobody_takes(client, usage):
    before = usage.now()
    x = client.zeros(10)
    for version in (None, (1, 0)):
        for _ in range(20):
            x.__dlpack__(max_version=version)
    del x
    gc.collect()
    usage.settles_at(before)


@pytest.mark.parametrize("name", NAMES)
def test_dlpack_of_every_dtype(client, name):
    x = client.put("dlpack/dtype", values_of(name), mutable=True)
    assert bits(torch.from_dlpack(x)) == x.tobytes()
    y = client.put("dlpack/back", Through(x, "__dlpack__", "__dlpack_device__"))
    assert y.dtype == name and y.tobytes() == x.tobytes()


# ---- tensord.allocator and tensord.empty ----


def test_allocator(client):
    with tensord.allocator():
        made = [np.array([4, 8]), np.eye(300), np.zeros(7, np.float16), np.arange(5) + 1]
        made.append(np.fromiter(range(5000), np.int64))
        made.append(made[0] * 2)
        made.append(np.concatenate([made[0], made[0]]))
    made.append(made[1])
    for array in made:
        x = client.from_numpy(array, require_shared=True)
        array.flat[0] = 3
        assert x.tolist() == array.tolist() and x.memory == "shared"
    heap = np.array([4, 8])
    assert client.from_numpy(heap).reason == "heap"


def test_the_allocator_leaves_descriptors_to_others():
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
import os, numpy as np, tensord
with tensord.allocator():
    made = [np.arange(i + 1) for i in range(500)]
    made.append(np.zeros(1000))
    files = [open(os.devnull) for _ in range(90)]
assert all(array[-1] == i for i, array in enumerate(made[:500])) and not made[500].any()
owned = [tensord.lib.td_shared_owns(tensord.ffi.from_buffer(array)) for array in made]
assert owned[0] and sum(owned) > 250 and not owned[-1]
del made[:100]
with tensord.allocator():
    assert tensord.lib.td_shared_owns(tensord.ffi.from_buffer(np.arange(5)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_allocators_name_outlives_python():
    """NumPy asks for it when the last array goes: it must not lie in memory of Python's."""
    from tensord import memory

    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_void_p, (ctypes.py_object,)
    with tensord.allocator():
        np.zeros(1)
    address = name(memory._capsule())
    assert ctypes.string_at(address) == b"mem_handler"
    with open("/proc/self/maps") as rows:
        parts = [row.split() for row in rows]
    ranges = [([int(end, 16) for end in row[0].split("-")], row[-1]) for row in parts]
    assert ["_tensord" in path for (low, high), path in ranges if low <= address < high] == [True]


def test_arrays_resize_and_outlive_the_allocator():
    with tensord.allocator():
        inside = np.arange(10)
    inside.resize(3000, refcheck=False)
    assert inside[:10].tolist() == list(range(10)) and not inside[10:].any()
    inside.resize(4, refcheck=False)
    assert inside.tolist() == [0, 1, 2, 3]
    outside = np.arange(10)
    with tensord.allocator():
        outside.resize(3000, refcheck=False)
        assert outside[:10].tolist() == list(range(10))
        del outside
    with pytest.raises(ZeroDivisionError), tensord.allocator():
        _ = np.zeros(3), 1 / 0
    with tensord.allocator(), tensord.allocator():
        nested = np.zeros(2)
    del nested, inside
    gc.collect()


def test_empty():
    array = tensord.empty((2, 3))
    assert array.dtype == np.float32 and array.shape == (2, 3) and not array.any()
    assert tensord.empty(4, torch.bfloat16).dtype == ml_dtypes.bfloat16
    assert tensord.empty((0, 3)).shape == (0, 3) and tensord.empty(()).shape == ()
    array.flags.writeable = False
    array.flags.writeable = True
    with pytest.raises(ValueError):
        tensord.empty((-1,))


def test_state_dicts(client):
    model = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.BatchNorm1d(200))
    client.put_state_dict("sd", model.state_dict())
    assert client.list("sd/") == sorted(f"sd/{key}" for key in model.state_dict())
    back = client.get_state_dict("sd")
    other = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.BatchNorm1d(200))
    other.load_state_dict(back)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    client.put_state_dict("sd", {"w": torch.ones(2, dtype=torch.bfloat16).t()}, mutable=True)
    client.get_state_dict("sd")["w"].fill_(3)
    assert client["sd/w"].tolist() == [3, 3]
    with pytest.raises(KeyError):
        client.get_state_dict("none")


def test_state_dicts_with_tied_weights(client):
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(9, 9), "b": torch.nn.Linear(9, 9)})
    model["b"].weight = model["a"].weight
    values = {**model.state_dict(), "t": model["a"].weight.detach().t()}
    values["none"] = values["none2"] = torch.empty(0)
    client.put_state_dict("tied", values, mutable=True)
    assert client["tied/a.weight"].id == client["tied/b.weight"].id
    others = {client[f"tied/{key}"].storage_id for key in ("a.weight", "a.bias", "b.bias", "t")}
    assert len(others) == 4 and client["tied/none"].id != client["tied/none2"].id
    assert torch.equal(client["tied/t"].torch(), values["t"])
    back = client.get_state_dict("tied")
    assert back["a.weight"].data_ptr() == back["b.weight"].data_ptr()
    assert all(torch.equal(back[key], value) for key, value in values.items())


def test_state_dicts_are_stored_whole_or_not_at_all(client):
    bad = {"a": torch.ones(2), "b": torch.ones(2).to_sparse(), "c": torch.ones(2)}
    with pytest.raises(TypeError):
        client.put_state_dict("bad", bad)
    assert client.list("bad/") == []


def test_without_ml_dtypes(client, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    x = client.ones(2, dtype="bfloat16")
    with pytest.raises(TypeError, match="pip install ml_dtypes"):
        x.numpy()
    assert x.torch().dtype == torch.bfloat16 and x.tolist() == [1, 1]
