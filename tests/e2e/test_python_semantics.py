"""Who shares memory with whom: the same steps on PyTorch's tensors and on tensord's, compared."""

import numpy as np
import pytest
import torch

import tensord

# Each makes a tensor of x, which is 3 x 4, float32 and on the cpu.
STEPS = {
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "to itself": lambda x: x.to("cpu"),
    "to its dtype": lambda x: x.to(x.dtype),
    "to both": lambda x: x.to("cpu", x.dtype),
    "to another": lambda x: x.to(x),
    "to copy": lambda x: x.to("cpu", copy=True),
    "to float64": lambda x: x.to(module(x).float64),
    "to int32": lambda x: x.to(module(x).int32),
    "to complex64": lambda x: x.to(module(x).complex64),
    "type": lambda x: x.type(module(x).float32),
    "type by name": lambda x: x.type("torch.DoubleTensor"),
    "cpu": lambda x: x.cpu(),
    "float": lambda x: x.float(),
    "half": lambda x: x.half(),
    "int": lambda x: x.int(),
    "bool": lambda x: x.bool(),
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.contiguous(),
    "contiguous of a view": lambda x: x.T.contiguous(),
    "view": lambda x: x.view(4, 3),
    "view flat": lambda x: x.view(-1),
    "reshape": lambda x: x.reshape(2, 6),
    "reshape of a view": lambda x: x.T.reshape(12),
    "flatten": lambda x: x.flatten(),
    "transpose": lambda x: x.transpose(0, 1),
    "t": lambda x: x.t(),
    "permute": lambda x: x.permute(1, 0),
    "select": lambda x: x.select(1, 2),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "squeeze": lambda x: x.unsqueeze(0).squeeze(),
    "squeeze dim": lambda x: x.unsqueeze(0).squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "expand": lambda x: x[0].expand(5, 4),
    "expand keeping": lambda x: x.expand(2, -1, -1),
    "row": lambda x: x[1],
    "slice": lambda x: x[:, 1:3],
    "steps": lambda x: x[::2, ::3],
    "new axis": lambda x: x[None, ..., 0],
    "everything": lambda x: x[()],
    "mul": lambda x: x.mul(2),
    "times": lambda x: 2 * x,
    "add": lambda x: x.add(1.5),
    "plus": lambda x: x + True,
}


def module(x):
    return torch if isinstance(x, torch.Tensor) else tensord


def shares(x, y):
    """Whether a write through y shows in x."""
    before = np.array(x.detach().tolist())
    try:
        y.detach().fill_(77)
    except RuntimeError:  # an expanded tensor takes no writes
        y.detach()[0].fill_(77)
    changed = bool(np.any(np.array(x.detach().tolist()) != before))
    return changed


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_views_and_copies(client, step, requires_grad):
    values = [[float(4 * i + j) for j in range(4)] for i in range(3)]
    ours = client.tensor(values, requires_grad=requires_grad)
    theirs = torch.tensor(values, requires_grad=requires_grad)
    our_result, their_result = STEPS[step](ours), STEPS[step](theirs)

    assert our_result.shape == tuple(their_result.shape)
    assert our_result.dtype == their_result.dtype
    assert our_result.tolist() == their_result.tolist()
    assert our_result.requires_grad == their_result.requires_grad
    assert our_result.is_leaf == their_result.is_leaf
    assert (our_result is ours) == (their_result is theirs)
    assert our_result.is_contiguous() == their_result.is_contiguous()
    assert (our_result.grad_fn is None) == (their_result.grad_fn is None)
    same_storage = their_result.untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()
    assert (our_result.storage_id == ours.storage_id) == same_storage
    if step not in ("mul", "times", "add", "plus"):
        origin = "of a view" in step  # the view between was shared, the last step copied
        assert origin or our_result.memory == ("shared" if same_storage else "copied")
    if same_storage and their_result.numel():
        assert our_result.stride() == their_result.stride()
        assert our_result.storage_offset() == their_result.storage_offset()
    assert shares(ours, our_result) == shares(theirs, their_result)


def test_versions(client):
    def versions(x):
        view, detached, data = x[0], x.detach(), x.data
        counts = [x._version]
        for t in (x, view, detached, data):
            t.fill_(1)
            counts.append([x._version, view._version, detached._version, data._version])
        return counts

    assert versions(client.zeros(2, 2)) == versions(torch.zeros(2, 2))


def test_grad(client):
    x = client.ones(3, requires_grad=True)
    assert x.grad is None
    x.grad = [1.0, 2.0, 3.0]
    assert x.grad.tolist() == [1, 2, 3] and x.grad.shape == x.shape
    with pytest.raises((RuntimeError, TypeError)):
        x.grad = [1.0]
    x.grad = None
    assert x.grad is None
    y = x * 2
    assert y.grad_fn == type((torch.ones(1, requires_grad=True) * 2).grad_fn).__name__
    assert y.history and not y.is_leaf and x.is_leaf


def test_promotion(client):
    names = ["bool", "uint8", "int16", "int64", "float16", "bfloat16", "float32", "float64"]
    for name in [*names, "complex64"]:
        for number in (True, 2, 1.5, 1j)[: 3 if name == "float16" else 4]:  # no complex32 here
            ours = client.ones(2, dtype=name) * number
            theirs = torch.ones(2, dtype=getattr(torch, name)) * number
            assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist(), (name, number)


def test_inplace_operators(client):
    ours, theirs = client.ones(2, 2), torch.ones(2, 2)
    our_view, their_view = ours[0], theirs[0]
    ours *= 3
    theirs *= 3
    ours += 0.5
    theirs += 0.5
    our_view.add_(1).mul_(2)
    their_view.add_(1).mul_(2)
    assert ours.tolist() == theirs.tolist() and our_view.tolist() == their_view.tolist()


# ---- arrays on their way in ----


def shared_array(*values):
    with tensord.allocator():
        return np.array(values)


def test_tensor_never_shares(client):
    array = shared_array(2, 2)
    ours, theirs = client.tensor(array), torch.tensor(array)
    array[1] = 4
    assert ours.tolist() == theirs.tolist() == [2, 2]
    assert ours.memory == "copied" and ours.mode == "mutable"
    x = client.ones(2, requires_grad=True)
    copy = client.tensor(x)
    assert copy.storage_id != x.storage_id and not copy.requires_grad


def test_as_tensor_shares_what_fits(client):
    array = shared_array(4, 8)
    ours, theirs = client.as_tensor(array), torch.as_tensor(array)
    array[1] = 5
    assert ours.tolist() == theirs.tolist() == [4, 5]
    assert (ours.memory, ours.reason) == ("shared", "")
    ours[0] = 6
    assert array.tolist() == [6, 5] and theirs.tolist() == [6, 5]
    cast = client.as_tensor(array, dtype="float32")
    assert (cast.memory, cast.reason) == ("copied", "dtype")
    x = client.ones(2, requires_grad=True)
    assert client.as_tensor(x).id == x.id and client.as_tensor(x).requires_grad
    x.save("as_tensor/x")
    assert client.as_tensor("as_tensor/x").id == x.id
    assert client.as_tensor(torch.ones(2, requires_grad=True)).requires_grad
    assert client.as_tensor([1, 2]).reason == "heap"
    assert client.as_tensor(array, name="as_tensor/y").name == "as_tensor/y"


def test_from_numpy(client, second):
    array = tensord.empty((2, 3))
    x = client.from_numpy("from_numpy/x", array, require_shared=True)
    assert x.name == "from_numpy/x" and x.memory == "shared" and x.mode == "mutable"
    second.run("a = c['from_numpy/x'].numpy()")
    array[1, 2] = 5
    assert x[1, 2].item() == 5 and second.ask("float(a[1, 2])") == 5
    x[0, 0] = 7
    second.run("a[0, 1] = 8")
    assert array.tolist() == [[7, 8, 0], [0, 0, 5]]

    heap = np.ones(3)
    copied = client.from_numpy(heap)
    assert (copied.memory, copied.reason) == ("copied", "heap") and copied.name is None
    with pytest.raises(tensord.Unsupported):
        client.from_numpy(heap, require_shared=True)
    with pytest.raises(tensord.Unsupported):
        client.from_numpy(array[::-1], require_shared=True)


def test_views_of_shared_arrays(client):
    array = tensord.empty((4, 6), "int64")
    array[:] = np.arange(24).reshape(4, 6)
    for view in (array.T, array[1:], array[::2, 1::2], array[2], array[:, :0], array[3, 5, ...]):
        x = client.from_numpy(view, require_shared=view.size > 0)
        assert x.shape == view.shape and x.tolist() == view.tolist()
        if view.size:
            assert x.memory == "shared"
            view[...] += 100
            assert x.tolist() == view.tolist()
    assert client.from_numpy(array[::-1]).tolist() == array[::-1].tolist()


def test_copies_made_on_the_way_are_not_shared(client):
    """Inside the allocator they lie in memory that could be, but nobody else would see them."""
    heap = np.arange(8)
    with tensord.allocator():
        shared = np.arange(8)
        big_endian = shared.astype(">i8").reshape(2, 4).T
        odd = np.zeros(8, [("a", "i4"), ("b", "i2")])["a"]  # strides of 1.5 elements
        sources = [
            (shared[::-1], "layout"),
            (big_endian, "layout"),
            (odd, "layout"),
            (heap[::2], "heap"),
            (heap[::-1], "heap"),
        ]
        for array, reason in sources:
            x = client.from_numpy(array)
            assert (x.memory, x.reason) == ("copied", reason) and x.tolist() == array.tolist()
            with pytest.raises(tensord.Unsupported):
                client.from_numpy(array, require_shared=True)
        made = [np.int64(3), [np.int64(3)], [np.arange(3)], Made()]
        for value in made:
            assert client.as_tensor(value).memory == "copied", value
        assert client.from_numpy(shared[::2], require_shared=True).memory == "shared"


class Made:
    """Makes its array when it is asked for one."""

    def __array__(self, dtype=None, copy=None):
        return np.arange(4)


def test_arrays_over_tensors_are_shareable(client):
    x = client.zeros(4)
    again = client.from_numpy(x.numpy()[1:3], require_shared=True)
    again.fill_(5)
    assert x.tolist() == [0, 5, 5, 0]


def test_read_only_arrays(client):
    array = shared_array(1, 2)
    array.flags.writeable = False
    with pytest.warns(UserWarning, match="not writable"):
        x = client.from_numpy(array)
    assert x.memory == "shared"


def test_pytorch_tensors_can_be_shared(client):
    with tensord.allocator():
        array = np.zeros(5)
    theirs = torch.from_numpy(array)
    x = client.as_tensor(theirs[1:4])
    assert x.memory == "shared"
    theirs.fill_(3)
    assert x.tolist() == [3, 3, 3]


# ---- who has the bytes over TCP ----


def test_over_tcp_nothing_is_shared_with_the_client(tcp_client, client):
    x = tcp_client.zeros(3, name="tcp/x")
    array = x.numpy()
    assert (x.memory, x.reason) == ("copied", "transport") and not tcp_client.is_local
    array[0] = 1
    assert x.tolist() == [0, 0, 0]
    shared = tensord.empty(3)
    copied = tcp_client.from_numpy(shared)
    assert (copied.memory, copied.reason) == ("copied", "transport")
    with pytest.raises(tensord.Unsupported):
        tcp_client.from_numpy(shared, require_shared=True)
    # Between names in the daemon it is the same memory for every client.
    tcp_client["tcp/y"] = tcp_client["tcp/x"].view(3, 1)
    client["tcp/x"].fill_(4)
    assert tcp_client["tcp/y"].tolist() == [[4], [4], [4]]
    assert torch.equal(x.torch(), torch.full((3,), 4.0))
    with pytest.raises(ValueError):
        np.array(x, copy=False)
    calls = []
    x._session.map, once = lambda *args: calls.append(args) or once(*args), x._session.map
    assert not hasattr(x, "__array_interface__") and not calls
    assert np.asarray(x).tolist() == [4, 4, 4] and len(calls) == 1
    del x._session.map
    with pytest.raises(BufferError):
        x.__dlpack__(copy=False)
    assert np.from_dlpack(x).tolist() == [4, 4, 4]
    tcp_client["tcp/z"] = np.eye(200)
    assert np.array_equal(client["tcp/z"].numpy(), np.eye(200))
