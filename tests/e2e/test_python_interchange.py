"""The protocols between array libraries, both ways: DLPack, __array_interface__, buffers."""

import array as arrays
import ctypes
import gc
import mmap
import typing
import weakref

import numpy as np
import pytest
import torch

import tensord
from tensord import dlpack, dtypes

NAMES = [dtype.name for dtype in dtypes.ALL]
OWN = [name for name in NAMES if dtypes.dtype(name).typestr[1] != "V"]  # NumPy's
MANAGED = {b"dltensor": "DLManagedTensor *", b"dltensor_versioned": "DLManagedTensorVersioned *"}
READ_ONLY, IS_COPIED = 1, 2
VIEWS = {
    "whole": lambda a: a,
    "transposed": lambda a: a.transpose(2, 0, 1),
    "reversed": lambda a: a[::-1, :, ::-2],
    "sliced": lambda a: a[1:, ::2, 3:1:-1],
    "broadcast": lambda a: np.broadcast_to(a[:, :1, :1], (3, 4, 5)),
    "one": lambda a: a[1, 2, 3, ...],
    "empty": lambda a: a[:, 4:],
    "column": lambda a: a[:, 1, 2],
}


def test_what_hands_out_a_memoryview_says_so():
    for method in (tensord.Tensor.memoryview, tensord.Tensor.__buffer__):
        assert typing.get_type_hints(method)["return"] is memoryview  # not the method of that name


def managed(capsule):
    """The struct of a capsule that nobody has taken."""
    for name, struct in MANAGED.items():
        if dlpack._valid(capsule, name):
            return tensord.ffi.cast(struct, dlpack._get(capsule, name))
    raise AssertionError(repr(capsule))


class Producer:
    """An object that has DLPack and nothing else of an array's."""

    def __init__(self, source, legacy=False, **keywords):
        self.source, self.keywords, self.capsule = source, keywords, None
        if legacy:  # as before DLPack 1.0: no keywords but stream
            self.__class__ = LegacyProducer

    def __dlpack_device__(self):
        return self.source.__dlpack_device__()

    def __dlpack__(self, **keywords):
        self.capsule = self.source.__dlpack__(**keywords, **self.keywords)
        self.change(managed(self.capsule))
        return self.capsule

    def change(self, tensor):
        pass


class LegacyProducer(Producer):
    def __dlpack__(self, stream=None):
        self.capsule = self.source.__dlpack__()
        return self.capsule


def grid(dtype="float32"):
    return np.arange(60).astype(dtype).reshape(3, 4, 5)


# ---- DLPack, in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("legacy", [False, True])
def test_dlpack_in_of_any_strides(client, legacy, view):
    source = VIEWS[view](grid().copy())
    if not source.flags.writeable and legacy:  # a broadcast one; that form cannot say so
        source = np.lib.stride_tricks.as_strided(grid().copy(), source.shape, source.strides)
    producer = Producer(source, legacy)
    assert np.array_equal(client.put("x", producer).numpy(), source)
    name = "dltensor" if legacy else "dltensor_versioned"
    assert f'"{name}"' in repr(producer.capsule)  # and still the producer's
    assert np.array_equal(client.as_tensor(Producer(source, legacy)).numpy(), source)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_dlpack_in_of_every_dtype(client, name, legacy):
    source = torch.arange(12, dtype=torch.float32).to(getattr(torch, name)).reshape(3, 4)
    x = client.put("x", Producer(source.t(), legacy))
    assert x.dtype == name and x.shape == (4, 3)
    assert x.tobytes() == source.t().contiguous().view(torch.uint8).numpy().tobytes()
    if name in OWN:
        array = source.numpy()
        assert client.put("x", Producer(array, legacy)).tobytes() == array.tobytes()


def test_dlpack_in_from_producers_that_cannot_be_written(client):
    source = grid()
    source.flags.writeable = False
    with pytest.raises(BufferError):
        source.__dlpack__()
    producer = Producer(source)
    assert np.array_equal(client.put("x", producer).numpy(), source)
    assert managed(producer.capsule).flags == READ_ONLY


def test_dlpack_in_from_producers_that_copy(client):
    """A copy that a producer made for this request is nobody's memory to share."""
    with tensord.allocator():
        source = np.ones(5000)
    assert client.as_tensor(Producer(source)).memory == "shared"
    copying = Producer(source, copy=True)
    assert dlpack.read(copying).copied
    assert managed(copying.capsule).flags == IS_COPIED
    x = client.as_tensor(copying)
    assert (x.memory, x.reason) == ("copied", "heap") and x[0].item() == 1


@pytest.mark.parametrize("legacy", [False, True])
def test_dlpack_in_leaves_the_memory_to_its_owner(client, legacy):
    class Owned(np.ndarray):
        pass

    source = grid().view(Owned)
    gone = weakref.ref(source)
    producer = Producer(source, legacy)
    client.put("x", producer)
    del source, producer
    gc.collect()
    assert gone() is None


class Changed(Producer):
    """Of one field of the struct."""

    def __init__(self, source, change):
        super().__init__(source)
        self._change = change

    def change(self, tensor):
        self._change(tensor)


def set_code(code, bits=8, lanes=1):
    def change(tensor):
        tensor.dl_tensor.dtype.code, tensor.dl_tensor.dtype.bits = code, bits
        tensor.dl_tensor.dtype.lanes = lanes

    return change


def set_device(kind):
    def change(tensor):
        tensor.dl_tensor.device.device_type = kind

    return change


def set_version(major):
    def change(tensor):
        tensor.version.major, tensor.version.minor = major, 8

    return change


def stretch(tensor):
    """One row, as often as 2**40 times."""
    tensor.dl_tensor.shape[0], tensor.dl_tensor.strides[0] = 2**40, 0


FOREIGN = {  # of DLPack 1.1, and the codes of what came later
    "opaque": set_code(3, 64),
    "bits": set_code(6, 1),
    "float8_e3m4": set_code(7),
    "float8_e4m3": set_code(8),
    "float8_e4m3b11fnuz": set_code(9),
    "float8_e4m3fnuz": set_code(11),
    "float8_e5m2fnuz": set_code(13),
    "float8_e8m0fnu": set_code(14),
    "float6_e2m3fn": set_code(15, 6),
    "float6_e3m2fn": set_code(16, 6),
    "float4_e2m1fn": set_code(17, 4),
    "later": set_code(99),
    "float128": set_code(2, 128),
    "int4": set_code(0, 4),
    "complex32": set_code(5, 32),
    "vector": set_code(0, 8, lanes=4),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_dlpack_in_of_dtypes_that_tensord_has_not(client, name):
    with pytest.raises(tensord.BadDtype, match="DLPack's code"):
        client.put("foreign", Changed(np.zeros(4, np.uint8), FOREIGN[name]))
    assert "foreign" not in client


def test_dlpack_in_refuses_what_it_cannot_read(client):
    with pytest.raises(tensord.WrongDevice, match="DLPack device 2"):
        client.put("x", Changed(grid(), set_device(2)))
    for major in (0, 2):
        with pytest.raises(BufferError, match=f"is of DLPack {major}.8; 1.x is understood"):
            client.put("x", Changed(grid(), set_version(major)))
    for kind in (3, 11, 13):  # host memory of CUDA's and ROCm's
        assert client.put("x", Changed(grid(), set_device(kind))).shape == (3, 4, 5)
    taken = grid().__dlpack__()
    torch.utils.dlpack.from_dlpack(taken)
    with pytest.raises(BufferError, match="that can be used"):
        client.put("x", type("Taken", (), {"__dlpack__": lambda self, **_keywords: taken})())


class Described:
    """The array interface of 2**40 elements that are one."""

    def __init__(self, array):
        self.array = array
        data = (array.ctypes.data, True)
        self.__array_interface__ = dict(
            version=3, shape=(2**40,), strides=(0,), typestr="<f4", data=data
        )


ENDLESS = {
    "DLPack": lambda: Changed(grid().transpose(0, 2, 1), stretch),
    "array interface": lambda: Described(grid()),
    "NumPy": lambda: np.broadcast_to(np.zeros(1, "float32"), 2**40),
    "NumPy, of the other byte order": lambda: np.broadcast_to(np.zeros(1, ">f4"), 2**40),
    "PyTorch": lambda: torch.zeros(1).expand(2**40),
    "memoryview": lambda: memoryview(np.broadcast_to(np.zeros(1, "float32"), 2**40)),
}


@pytest.mark.parametrize("made", ENDLESS)
def test_elements_without_end_are_refused_before_they_are_gathered(client, made):
    """A stride of 0 makes as many of one as the producer says."""
    source = ENDLESS[made]()
    uses = [
        lambda: client.put("endless", source),
        lambda: client.tensor(source),
        lambda: client.as_tensor(source),
        lambda: client.put_state_dict("endless", {"x": source}),
        lambda: client.queue("endless").put(source),
    ]
    for use in uses:
        with pytest.raises(tensord.TooLarge, match="daemon takes at most 1073741824; store what"):
            use()
    assert client.list("endless") == []
    client.queue("endless").delete()


# ---- DLPack, out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [view for view in VIEWS if view not in ("reversed", "sliced")])
def test_dlpack_out_of_any_strides(client, view):
    indices = {"one": (1, 2, 3), "empty": (slice(None), slice(4, None)), "column": (..., 1, 2)}
    x = client.tensor(grid())
    theirs = grid()
    if view == "transposed":
        x, theirs = x.permute(2, 0, 1), theirs.transpose(2, 0, 1)
    elif view == "broadcast":
        x, theirs = x[:, :1, :1].expand(3, 4, 5), np.broadcast_to(theirs[:, :1, :1], (3, 4, 5))
    elif view in indices:
        x, theirs = x[indices[view]], theirs[indices[view]]
    for version in (None, (1, 1)):
        described = managed(x.__dlpack__(max_version=version)).dl_tensor
        assert described.ndim == theirs.ndim
        assert tuple(described.shape[0 : theirs.ndim]) == theirs.shape == x.shape
        assert tuple(described.strides[0 : theirs.ndim]) == x.strides
    assert np.array_equal(np.from_dlpack(x), theirs)
    assert np.array_equal(torch.from_dlpack(x).numpy(), theirs)


@pytest.mark.parametrize("version", [None, (0, 8), (1, 0), (1, 1), (1, 9), (2, 0)])
def test_dlpack_out_in_the_form_that_is_understood(client, version):
    capsule = client.zeros(3).__dlpack__(max_version=version)
    versioned = version is not None and version[0] >= 1
    assert ('"dltensor_versioned"' in repr(capsule)) == versioned
    if versioned:
        found = managed(capsule).version
        assert (found.major, found.minor) == (1, 1)


def test_dlpack_out_says_what_may_be_written(client, tcp_client):
    def flags(x, **keywords):
        return managed(x.__dlpack__(max_version=(1, 1), **keywords)).flags

    mutable, frozen = client.zeros(100, 100), client.put("frozen", np.ones((100, 100)))
    small = client.put("small", np.ones(3))
    assert flags(mutable) == flags(mutable, copy=False) == 0
    assert flags(mutable, copy=True) == flags(frozen, copy=True) == IS_COPIED
    assert flags(frozen) == flags(frozen, copy=False) == READ_ONLY
    assert flags(small) == READ_ONLY | IS_COPIED
    assert flags(tcp_client["frozen"]) == READ_ONLY | IS_COPIED
    for x in (small, tcp_client["frozen"]):
        with pytest.raises(BufferError, match="can only be copied"):
            x.__dlpack__(copy=False)
    for x in (frozen, small):
        assert not np.from_dlpack(x).flags.writeable
        assert np.from_dlpack(x, copy=True).flags.writeable
    assert np.from_dlpack(mutable).flags.writeable


def test_dlpack_out_to_devices(client):
    x = client.zeros(3)
    assert np.from_dlpack(x, device="cpu").shape == (3,)
    assert managed(x.__dlpack__(dl_device=(1, 0))).dl_tensor.device.device_type == 1
    for device in ((2, 0), (3, 0), (1, 1)):
        with pytest.raises(BufferError, match="host memory"):
            x.__dlpack__(dl_device=device)


@pytest.mark.parametrize("name", NAMES)
def test_dlpack_out_of_every_dtype(client, name):
    values = torch.arange(12, dtype=torch.float32).to(getattr(torch, name))
    for mutable in (False, True):
        x = client.put("x", values, mutable=mutable)
        back = torch.from_dlpack(x)
        assert back.dtype == values.dtype
        assert back.view(torch.uint8).equal(values.view(torch.uint8))
        if name in OWN:
            assert np.from_dlpack(x).tobytes() == values.numpy().tobytes()


# ---- __array_interface__ -------------------------------------------------------------------------


class Interface:
    def __init__(self, keep=None, **interface):
        self.__array_interface__, self._keep = {"version": 3, **interface}, keep


@pytest.mark.parametrize("name", OWN)
def test_array_interface_out(client, name):
    theirs = grid(name)
    x = client.put("x", theirs, mutable=True)
    for ours, seen in ((x, theirs), (x.T, theirs.T), (x[1, ::2], theirs[1, ::2])):
        told = ours.__array_interface__
        assert told["version"] == 3 and told["typestr"] == theirs.dtype.str
        assert told["shape"] == seen.shape and told["strides"] == seen.strides
        assert told["data"][1] is False
        assert np.array_equal(np.asarray(Interface(ours, **told)), seen)
    big = client.put("big", np.ones(70_000, name))
    assert big.__array_interface__["data"][1] is True
    assert not np.asarray(big).flags.writeable
    with pytest.raises(ValueError):
        np.asarray(big).flags.writeable = True


def test_array_interface_is_absent_where_it_could_not_be_true(client):
    assert not hasattr(client.zeros(3, dtype="bfloat16"), "__array_interface__")
    assert not hasattr(client.zeros(3, requires_grad=True), "__array_interface__")
    assert not hasattr(client.put("small", np.ones(3)), "__array_interface__")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("order", "<>")
def test_array_interface_in(client, order, view):
    source = VIEWS[view](grid(f"{order}i4"))
    source.flags.writeable = False
    assert np.array_equal(
        client.put("x", Interface(source, **source.__array_interface__)).numpy(), source
    )


def test_array_interface_in_over_a_buffer(client):
    data = bytearray(np.arange(6, dtype="<f4").tobytes())
    shown = Interface(shape=(2, 2), typestr="<f4", data=memoryview(data), offset=8)
    assert client.tensor(shown).tolist() == [[2, 3], [4, 5]]
    with pytest.raises(tensord.BadDtype, match="can't convert np.ndarray"):
        client.tensor(Interface(shape=(3,), typestr="|V2", data=memoryview(data)))


# ---- buffers -------------------------------------------------------------------------------------


def pages():
    memory = mmap.mmap(-1, 4096)
    memory[:3] = b"abc"
    return memory


def ctypes_table():
    return ((ctypes.c_int16 * 3) * 2)((1, 2, 3), (4, 5, 6))


BUFFERS = {
    "bytes": lambda: b"abc",
    "bytearray": lambda: bytearray(b"abc"),
    "every second byte, from behind": lambda: memoryview(b"abcdef")[::-2],
    "rows from behind": lambda: memoryview(grid("i2"))[::-1],
    "a table of bytes": lambda: memoryview(bytes(range(6))).cast("B", (2, 3)),
    "mmap": pages,
    "ctypes": ctypes_table,
    "ctypes' doubles": lambda: (ctypes.c_double * 2)(1.5, 2.5),
    "Fortran order": lambda: memoryview(np.asfortranarray(grid())),
    "NumPy's complex": lambda: memoryview(np.array([1 + 2j, 3])),
    "NumPy's half": lambda: memoryview(np.array([1.5, 2], np.float16)),
    "NumPy's bool": lambda: memoryview(np.array([True, False])),
    "no dimensions": lambda: memoryview(np.array(5, np.int32)),
    "empty": lambda: memoryview(np.empty((0, 3), np.int32)),
    **{f"array {code}": lambda code=code: arrays.array(code, [1, 2, 3]) for code in "bBhHiIlLqQfd"},
}  # fmt: skip


@pytest.mark.parametrize("kind", BUFFERS)
def test_buffers_in(client, kind):
    source = BUFFERS[kind]()
    theirs = np.asarray(memoryview(source))
    x = client.put("x", source)
    assert x.dtype == theirs.dtype and x.shape == theirs.shape
    assert np.array_equal(x.numpy(), theirs)


@pytest.mark.parametrize(
    "source",
    [
        memoryview(np.arange(3, dtype=">i4")),
        memoryview(np.zeros(3, [("a", "<i4")])),
        memoryview(np.array(["a"])),
        (ctypes.c_longdouble * 2)(),
        (ctypes.c_int32.__ctype_be__ * 2)(1, 2),
        arrays.array("u", "ab"),
    ],
    ids=["big-endian", "structured", "text", "long double", "ctypes' big-endian", "characters"],
)
def test_buffers_that_are_no_tensors(client, source):
    with pytest.raises(tensord.BadDtype, match="buffer format"):
        client.put("x", source)


@pytest.mark.parametrize("name", OWN)
def test_buffers_out(client, name):
    """Called here as Python does from 3.12 on."""
    theirs = grid(name)
    x = client.put("x", theirs, mutable=True)
    for ours, seen in ((x, theirs), (x.T, theirs.T), (x[1, ::2], theirs[1, ::2])):
        view = ours.__buffer__(0)
        assert view.format == memoryview(seen).format
        assert view.strides == seen.strides and view.tobytes() == seen.tobytes()
        assert not view.readonly
    assert client.put("big", np.ones(70_000, name)).__buffer__(0).readonly


def test_buffers_show_the_memory_or_nothing(client, tcp_client):
    x = client.zeros(3)
    x.__buffer__(0)[1] = 5.0
    assert x.tolist() == [0, 5, 0]
    x.save("x")
    small, bfloat16 = client.put("small", np.ones(3)), client.zeros(3, dtype="bfloat16")
    for other in (tcp_client["x"], small, bfloat16):
        with pytest.raises(BufferError):
            other.__buffer__(0)
    with pytest.raises(RuntimeError, match="requires grad"):
        client.zeros(3, requires_grad=True).__buffer__(0)
