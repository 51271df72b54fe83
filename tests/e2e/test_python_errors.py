"""The errors of handles are PyTorch's, word for word: each is raised by both and compared."""

import datetime
import io

import numpy as np
import pytest
import torch

import tensord


def both(ours, theirs, kind):
    """Both raise `kind` with the same text."""
    with pytest.raises(kind) as our_error:
        ours()
    with pytest.raises(kind) as their_error:
        theirs()
    assert str(our_error.value) == str(their_error.value)
    return our_error.value


def assign(target, key, value):
    target[key] = value


def set_requires_grad(target, value):
    target.requires_grad = value


@pytest.mark.parametrize("values", [[1.0, 2.0], [[1.0], [2.0]]])
def test_numpy_of_a_variable(client, values):
    ours, theirs = client.tensor(values, requires_grad=True), torch.tensor(values)
    theirs.requires_grad_()
    for call in (
        lambda t: t.numpy(),
        lambda t: t.__array__(),
        lambda t: np.asarray(t),
        lambda t: (t * 2).numpy(),
    ):
        error = both(lambda: call(ours), lambda: call(theirs), RuntimeError)
        assert error.code == "requires_grad"
    assert ours.numpy(force=True).tolist() == theirs.numpy(force=True).tolist()
    assert not hasattr(ours, "__array_interface__")
    assert hasattr(ours.detach(), "__array_interface__")


def test_dlpack_of_a_variable(client):
    ours, theirs = client.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    both(ours.__dlpack__, theirs.__dlpack__, BufferError)
    both(lambda: np.from_dlpack(ours), lambda: np.from_dlpack(theirs), BufferError)


def test_in_place_on_a_leaf(client):
    ours, theirs = client.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    both(lambda: ours.fill_(2), lambda: theirs.fill_(2), RuntimeError)
    both(lambda: ours.copy_([1, 2, 3]), lambda: theirs.copy_(torch.ones(3)), RuntimeError)
    both(lambda: assign(ours, 0, 1), lambda: assign(theirs, 0, 1), RuntimeError)
    both(lambda: ours[0:2].fill_(1), lambda: theirs[0:2].fill_(1), RuntimeError)
    assert ours.detach().fill_(2).tolist() == [2, 2, 2]


def test_requires_grad_of_a_result(client):
    ours = client.ones(3, requires_grad=True) * 2
    theirs = torch.ones(3, requires_grad=True) * 2
    both(lambda: ours.requires_grad_(False), lambda: theirs.requires_grad_(False), RuntimeError)
    both(
        lambda: set_requires_grad(ours, False),
        lambda: set_requires_grad(theirs, False),
        RuntimeError,
    )


def test_integers_that_require_grad(client):
    ours = client.variable(client.ones(2, dtype="int32"), requires_grad=True)
    assert ours.requires_grad  # the daemon allows it, PyTorch does not
    both(ours.torch, lambda: torch.ones(2, dtype=torch.int32).requires_grad_(True), RuntimeError)


SHAPES = [
    (lambda t: t.view(5), RuntimeError),
    (lambda t: t.view(-1, 5), RuntimeError),
    (lambda t: t.view(-1, -1), RuntimeError),
    (lambda t: t.reshape(7), RuntimeError),
    (lambda t: t.expand(3, 4), RuntimeError),
    (lambda t: t.transpose(0, 2), IndexError),
    (lambda t: t.transpose(-3, 0), IndexError),
    (lambda t: t.select(0, 2), IndexError),
    (lambda t: t.select(5, 0), IndexError),
    (lambda t: t.squeeze(2), IndexError),
    (lambda t: t.unsqueeze(4), IndexError),
    (lambda t: t[2], IndexError),
    (lambda t: t[0, -4], IndexError),
    (lambda t: t[0, 0, 0], IndexError),
    (lambda t: t[::0], ValueError),
    (lambda t: t.narrow(0, 1, 2), RuntimeError),
    (lambda t: t.narrow(0, 0, -1), RuntimeError),
    (lambda t: t.narrow(0, -5, 1), IndexError),
    (lambda t: t.narrow(0, 3, 0), IndexError),
    (lambda t: t[1.0], IndexError),
    (lambda t: t[0, 1.5], IndexError),
    (lambda t: t.type("x"), ValueError),
    (lambda t: t.view(1, 2, 3).t(), RuntimeError),
    (lambda t: len(t[0, 0]), TypeError),
    (lambda t: iter(t[0, 0]), TypeError),
    (lambda t: t.item(), RuntimeError),
    (lambda t: bool(t), RuntimeError),
    (lambda t: bool(t[0:0]), RuntimeError),
    (lambda t: t.T.view(6), RuntimeError),
]


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_shapes_and_indices(client, number):
    call, kind = SHAPES[number]
    both(lambda: call(client.ones(2, 3)), lambda: call(torch.ones(2, 3)), kind)


def test_writes_that_do_not_fit(client):
    ours, theirs = client.ones(3), torch.ones(3)
    both(
        lambda: assign(ours, slice(None), [1, 2, 3, 4]),
        lambda: assign(theirs, slice(None), torch.tensor([1, 2, 3, 4])),
        RuntimeError,
    )
    both(
        lambda: client.ones(2, dtype="int32").mul_(1.5),
        lambda: torch.ones(2, dtype=torch.int32).mul_(1.5),
        RuntimeError,
    )
    assert ours.tolist() == [1, 1, 1]


LISTS = [
    ([[1, 2], [3]], ValueError),
    (["a"], ValueError),
    ([300], RuntimeError),
]


@pytest.mark.parametrize("values, kind", LISTS)
def test_lists(client, values, kind):
    both(
        lambda: client.tensor(values, dtype="uint8"),
        lambda: torch.tensor(values, dtype=torch.uint8),
        kind,
    )


def test_arrays_of_other_types(client):
    text = np.array(["a"])
    both(lambda: client.tensor(text), lambda: torch.tensor(text), TypeError)
    both(lambda: client.from_numpy([1]), lambda: torch.from_numpy([1]), TypeError)


KINDS = [
    (lambda lib, t: t.expand(2, 4), RuntimeError),
    (lambda lib, t: t.copy_(lib.zeros(4)), RuntimeError),
    (lambda lib, t: lib.eye(-1), RuntimeError),
    (lambda lib, t: lib.zeros(-1), RuntimeError),
    (lambda lib, t: lib.ones(2, -3), RuntimeError),
]


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_kinds_of_errors(client, number):
    call, kind = KINDS[number]
    for lib in (client, torch):
        with pytest.raises(kind):
            call(lib, lib.ones(2, 3))


def test_errors_are_what_pytorch_or_python_raises():
    assert issubclass(tensord.Invalid, ValueError) and issubclass(tensord.Invalid, RuntimeError)
    assert issubclass(tensord.BadDtype, TypeError) and issubclass(tensord.BadDtype, RuntimeError)


def test_a_missing_gpu(client):
    if any(device.startswith("cuda") for device in client.devices()):
        pytest.skip("the daemon has a GPU")
    for call in (
        lambda: client.ones(2).to("cuda"),
        lambda: client.ones(2).cuda(),
        lambda: client.ones(2).cuda(1),
        lambda: client.zeros(2, device="cuda:0"),
        lambda: client.ones(2).to(torch.device("cuda")),
    ):
        with pytest.raises(RuntimeError, match="(?i)cuda") as error:
            call()
        assert isinstance(error.value, tensord.NoDevice)


def test_what_is_no_dtype_or_device(client):
    for bad in ("float33", "no such device", object):
        with pytest.raises((TypeError, RuntimeError)):
            client.ones(2).to(bad)
    with pytest.raises(TypeError, match="is not a dtype"):
        client.zeros(2, dtype="float33")
    with pytest.raises(TypeError):
        client.zeros(2, dtype=np.dtype(">f4"))
    with pytest.raises(TypeError, match="safe"):
        client.ones(2).to("int32", casting="safe")
    with pytest.raises(TypeError, match="basic|integers, slices"):
        client.ones(2)[[0, 1]]
    with pytest.raises(TypeError):
        client.ones(2)["a"]
    with pytest.raises(TypeError, match="no argument 'colour'"):
        client.zeros(2, colour=3)


def test_over_the_limit(client):
    before = client.stats()["memory_used_bytes"]
    with pytest.raises(MemoryError) as error:
        client.zeros(2 << 30)
    assert isinstance(error.value, tensord.OutOfMemory)
    for shape in ((2**62, 2**62), (-1,), (1,) * 33, (10**18,)):
        with pytest.raises((tensord.Error, OverflowError)):
            client.zeros(*shape)
    assert client.stats()["memory_used_bytes"] <= before
    with pytest.raises(OverflowError):
        client.zeros(2**70)
    with pytest.raises(OverflowError):
        client.full((2,), 2**70)


def test_no_daemon():
    with pytest.raises(ConnectionError) as error:
        tensord.connect("unix:///nonexistent/socket")
    assert isinstance(error.value, tensord.ConnectionError)
    assert isinstance(error.value, tensord.Error) and error.value.code == "connection"
    with pytest.raises(tensord.ConnectionError):
        tensord.connect("tcp://127.0.0.1:1", timeout=5)
    with pytest.raises(ValueError):
        tensord.connect("gopher://x")


def test_to_what_is_neither_device_nor_dtype(client):
    for what in ("float99", "mps"):
        with pytest.raises(tensord.NoDevice, match=f"'{what}'; .*or a dtype such as float16"):
            client.zeros(2).to(what)
    with pytest.raises(tensord.NoDevice, match="cuda:x"):
        client.zeros(2).to("cuda:x")
    assert client.zeros(2).to("cpu").dtype == "float32"


SIZES = "sizes and dimensions are integers"
SECONDS = "is a time in seconds, such as 0.5, not"
VALUE = "an array, a tensor, a number or a nested list of numbers was expected, not"
FILE = "expected a path, an open binary file or the bytes of one, not"


@pytest.mark.parametrize("call, text", [
    (lambda c: c.zeros("a"), f"{SIZES}.* not str 'a'"),
    (lambda c: c.zeros(2.5), f"{SIZES}.* not float 2.5"),
    (lambda c: c.zeros((2, "a")), f"{SIZES}.* not str 'a'"),
    (lambda c: c.allocate((2, 1.5)), f"{SIZES}.* not float 1.5"),
    (lambda c: c.zeros(4).reshape(None), f"{SIZES}.* not NoneType None"),
    (lambda c: c.zeros(4).view(torch.int32), r"view takes a shape; .*x\.torch\(\)\.view\(dtype\)"),
    (lambda c: tensord.connect("none", timeout="1"), f"timeout {SECONDS} str"),
    (lambda c: c.wait("x", timeout=datetime.timedelta(1)), f"timeout {SECONDS} timedelta"),
    (lambda c: c.put("x", 1, ttl="5m"), f"ttl {SECONDS} str"),
    (lambda c: c.seal("x", wait=[1]), f"wait {SECONDS} list"),
    (lambda c: c.queue("errors").get(timeout="1"), f"timeout {SECONDS} str"),
    (lambda c: c.queue("errors", visibility="1m"), f"visibility {SECONDS} str"),
    (lambda c: c.put("x", None), f"{VALUE} NoneType"),
    (lambda c: c.put("x", object()), f"{VALUE} object"),
    (lambda c: c.put("x", {"a": 1}), f"{VALUE} dict; c.update and c.put_state_dict"),
    (lambda c: c.put_state_dict("sd", {"a": 1, "b": {}}), "dict's 'b' is no tensor but a dict"),
    (lambda c: c.put_state_dict("sd", {"b": "x"}), "dict's 'b' is no tensor but a str"),
    (lambda c: c.load(5), f"{FILE} int"),
    (lambda c: c.load(io.StringIO("x")), f"{FILE} a file opened as text"),
    (lambda c: c.save(io.StringIO()), "an open binary file, not a file opened as text"),
])  # fmt: skip
def test_wrong_arguments_are_named(client, call, text):
    with pytest.raises(TypeError, match=text):
        call(client)
    assert "x" not in client
