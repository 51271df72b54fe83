"""Handles and names: what c["x"] is, says and does."""

import copy
import gc
import pickle

import numpy as np
import pytest
import torch

import tensord


def test_a_name_is_like_a_dict_key(client):
    client["dict/x"] = np.eye(3)
    assert "dict/x" in client and "dict/y" not in client and 3 not in client
    assert "dict/x" in list(client) and len(client) >= 1
    assert client.get("dict/y") is None and client.get("dict/y", 5) == 5
    client.update({"dict/a": [1, 2], "dict/b": [3.0]})
    assert client.list("dict/") == ["dict/a", "dict/b", "dict/x"]
    assert client.list("dict/", limit=2) == ["dict/a", "dict/b"]
    assert list(client.keys("dict/a")) == ["dict/a"]
    assert [tensor.tolist() for tensor in client.values("dict/a")] == [[1, 2]]
    assert {name: x.shape for name, x in client.items("dict/")} == {
        "dict/a": (2,),
        "dict/b": (1,),
        "dict/x": (3, 3),
    }
    del client["dict/x"]
    assert "dict/x" not in client
    with pytest.raises(KeyError) as error:
        client["dict/x"]
    assert isinstance(error.value, tensord.NotFound) and error.value.code == "not_found"
    assert "dict/x" in str(error.value) and not str(error.value).startswith("'")
    with pytest.raises(tensord.NotFound):
        del client["dict/x"]


def test_many_names_come_in_pages(client):
    for i in range(1203):
        client.zeros(0, name=f"page/{i:04}")
    assert client.list("page/") == [f"page/{i:04}" for i in range(1203)]
    assert len(client.list("page/", limit=1100)) == 1100


def test_what_a_handle_says(client):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    client["says/x"] = values
    x = client["says/x"]
    assert type(x) is tensord.Tensor and tensord.is_tensor(x)
    assert (x.shape, x.size(), x.size(1), x.size(-1)) == ((2, 3, 4), (2, 3, 4), 3, 4)
    assert (x.ndim, x.dim(), x.numel(), len(x)) == (3, 3, 24, 2)
    assert x.dtype == "int16" == x.dtype.name and x.dtype == np.int16 == np.dtype("int16")
    assert x.dtype == torch.int16 and x.dtype != torch.int32
    assert (x.itemsize, x.element_size(), x.nbytes) == (2, 2, 48)
    assert x.strides == x.stride() == (12, 4, 1) and x.stride(0) == 12
    assert x.storage_offset() == 0 and x[1].storage_offset() == 12
    assert x.is_contiguous() and not x.T.is_contiguous()
    assert x.device == "cpu" == str(x.device) and x.device == torch.device("cpu")
    assert (x.device.type, x.device.index, x.is_cuda) == ("cpu", None, False)
    assert not x.requires_grad and x.is_leaf and x.grad is None and x.grad_fn is None
    assert x.name == "says/x" and x.mode == "frozen" and not x.is_variable
    assert x.generation == client.info("says/x").generation > 0
    assert x.T.name is None and x.T.generation == 0
    assert x[0].storage_id == x.storage_id and x[0].id != x.id
    assert x.type() == "torch.ShortTensor" and not x.is_floating_point() and not x.is_complex()
    with pytest.raises(IndexError, match="Dimension out of range"):
        x.size(3)


def test_a_handle_outlives_its_name(client):
    client["outlive/x"] = [1, 2, 3]
    first = client["outlive/x"]
    before = first.generation
    client["outlive/x"] = [4, 5]
    second = client["outlive/x"]
    assert first.tolist() == [1, 2, 3] and second.tolist() == [4, 5]
    assert second.generation > before == first.generation
    del client["outlive/x"]
    assert first.tolist() == [1, 2, 3] and second.numpy().tolist() == [4, 5]


def test_publishing_does_not_copy(client):
    x = client.arange(6)
    client["publish/a"] = x
    client["publish/b"] = x.view(2, 3)
    a, b = client["publish/a"], client["publish/b"]
    assert a.storage_id == b.storage_id == x.storage_id
    a[0] = 9
    assert b[0, 0].item() == 9
    assert x.save("publish/c") is x and x.name == "publish/c"
    x.rename("publish/d")
    assert client.list("publish/") == ["publish/a", "publish/b", "publish/d"]
    assert client.zeros(2).rename("publish/e").name == "publish/e"
    with pytest.raises(tensord.Exists):
        client.zeros(1).save("publish/e", create_only=True)
    client.rename("publish/e", "publish/f")
    client.copy("publish/f", "publish/g")
    assert client["publish/g"].storage_id != client["publish/f"].storage_id
    assert "publish/e" not in client


def test_put(client):
    x = client.put("put/x", [1.5], mutable=True, requires_grad=True)
    assert x.mode == "mutable" and x.requires_grad and isinstance(x, tensord.Variable)
    with pytest.raises(tensord.Exists):
        client.put("put/x", [2.5], create_only=True)
    assert client["put/x"].tolist() == [1.5]
    assert client.put("put/y", [2]).mode == "frozen"
    with pytest.raises(tensord.Precondition):
        client.delete("put/y", if_generation=client["put/y"].generation + 1)
    client.delete("put/y", if_generation=client["put/y"].generation)
    assert "put/y" not in client


def test_frozen_tensors_do_not_change(client):
    x = client.put("frozen/x", np.zeros(20_000))
    for write in (lambda: x.fill_(1), lambda: x.copy_(1), lambda: x.zero_(), lambda: x.mul_(2)):
        with pytest.raises(tensord.Frozen) as error:
            write()
        assert isinstance(error.value, RuntimeError) and error.value.code == "frozen"
    with pytest.raises(tensord.Frozen):
        x[0] = 1
    array = x.numpy()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError):
        array.flags.writeable = True
    with pytest.raises(ValueError):
        array[1:].flags.writeable = True
    with pytest.raises(ValueError):
        np.asarray(x).flags.writeable = True
    assert not x.memoryview().obj or x.memoryview().readonly
    assert not np.any(x.fetch())


def test_writes_by_index(client):
    x, theirs = client.zeros(3, 4), torch.zeros(3, 4)
    for t in (x, theirs):
        t[0] = 1
        t[1, 2] = 2.5
        t[..., -1] = 7
        t[2, ::2] = -1
        t[1:, 1:3] *= 3
    x[0] = np.array([1, 2, 3, 4])
    theirs[0] = torch.tensor([1, 2, 3, 4])
    x[2, 1:3] = [8, 9]
    theirs[2, 1:3] = torch.tensor([8, 9])
    x[1] = client.full((4,), 6)
    theirs[1] = 6
    assert x.tolist() == theirs.tolist()
    x.copy_(np.arange(4))
    assert x.tolist() == torch.arange(4).expand(3, 4).tolist()
    assert x.fill_(2).tolist() == [[2] * 4] * 3 and x.zero_().tolist() == [[0] * 4] * 3


def test_numbers(client):
    one = client.tensor(7)
    assert (one.item(), int(one), float(one), complex(one), bool(one)) == (7, 7, 7.0, 7 + 0j, True)
    assert [10, 20][client.tensor(1)] == 20
    assert f"{client.tensor(2.5):.2f}" == "2.50" and f"{one}" == "7"
    assert client.tensor(2**63 - 1).item() == 2**63 - 1
    assert client.tensor(2**64 - 1, dtype="uint64").item() == 2**64 - 1
    assert client.tensor(0.1, dtype="float64").item() == 0.1
    assert client.tensor(1 + 2j).item() == 1 + 2j and client.tensor(True).item() is True
    assert 2 * client.tensor([1, 2]) is not None
    assert (np.float64(2) * client.tensor([1.0])).tolist() == [2.0]
    assert [row.tolist() for row in client.tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]
    with pytest.raises(TypeError):
        client.tensor([1.0]) * client.tensor([1.0])


def test_reprs_are_pytorchs(client):
    for theirs in (
        torch.arange(24).reshape(2, 3, 4),
        torch.linspace(-1, 1, 7),
        torch.zeros(0, 3),
        torch.tensor(1.5),
        torch.randn(2000),
        torch.tensor([1e10, 1e-10, float("nan"), float("inf")]),
        torch.tensor([True, False]),
        torch.eye(2, dtype=torch.bfloat16),
        torch.tensor([1 + 2j]),
    ):
        assert repr(client.tensor(theirs)) == str(client.tensor(theirs)) == repr(theirs)
    x = client.ones(2, requires_grad=True)
    assert repr(x) == repr(torch.ones(2, requires_grad=True))
    assert repr(x * 2) == repr(torch.ones(2, requires_grad=True) * 2)


def test_handles_release_what_they_hold(client, usage):
    before = usage.now()
    handles = [client.zeros(10) for _ in range(50)]
    assert usage.now()["objects"] == before["objects"] + 50
    same = [handles[0].to("cpu") for _ in range(50)]  # the same handle, so nothing more is held
    assert usage.now()["objects"] == before["objects"] + 50 and same[0] is handles[0]
    del handles, same
    gc.collect()
    usage.settles_at(before)


def test_memory_comes_back(client, usage):
    before = usage.now()
    for _ in range(40):  # 4 GiB in all, in a limit of 1 GiB
        client.zeros(25 << 20)
    gc.collect()
    usage.settles_at(before)


def test_handles_of_two_clients(client, daemon):
    with tensord.connect(daemon.url) as other:
        theirs = other.arange(4)
        mine = client.zeros(4, dtype="int64")
        assert mine.copy_(theirs).tolist() == [0, 1, 2, 3]
        client["two/x"] = theirs
        assert client["two/x"].tolist() == [0, 1, 2, 3]
        assert client.as_tensor(other["two/x"]).storage_id != theirs.storage_id
        assert client["two/x"].storage_id == other["two/x"].storage_id


def test_a_closed_client(daemon):
    client = tensord.connect(daemon.url)
    x = client.ones(3)
    array = x.numpy()
    assert repr(client) == f"<tensord.Client local {daemon.url}>"
    assert client.is_local and not client.closed
    client.close()
    client.close()
    assert client.closed and "closed" in repr(client)
    for use in (lambda: x.shape and x.tolist(), lambda: client["x"], lambda: x.numpy()):
        with pytest.raises(tensord.ConnectionError, match="closed") as error:
            use()
        assert isinstance(error.value, ConnectionError)
    assert array.tolist() == [1, 1, 1] and x.shape == (3,)


def test_closing_does_not_wait_for_old_errors(client, usage, daemon):
    other = tensord.connect(daemon.url)
    errors = []
    for use in (lambda: other["none"], lambda: other.ones(2).view(3), lambda: other.tensor("a")):
        with pytest.raises(Exception) as error:
            use()
        errors.append(error.value)  # with a traceback, whose frames hold what they used
    other.close()
    Usage = type(usage)
    assert Usage(client) and errors


def test_handles_are_not_copied_by_accident(client):
    x = client.ones(2)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(x)
    again = copy.copy(x)
    assert again is not x and again.id == x.id
    with pytest.raises(TypeError, match="handles come from a client"):
        tensord.Tensor()
    assert copy.deepcopy(x).storage_id != x.storage_id
    assert pickle.loads(pickle.dumps(tensord.float32)) is tensord.float32


def test_names_are_checked(client):
    for bad in ("", "/", "a//b", "a/../b", "@5x", "a\nb", "x" * 513):
        with pytest.raises((ValueError, tensord.Error)):
            client[bad] = [1]
    with pytest.raises(ValueError, match="NUL"):
        client["a\0b"] = [1]
    with pytest.raises(TypeError):
        client[5] = [1]
    for good in ("layer.0.weight", "weights:0", "a b", "größe/π", "x" * 512):
        client[good] = [1]
        assert client[good].tolist() == [1] and good in client.list()
        del client[good]


def test_a_republished_name_is_not_renamed(client):
    x = client.put("rename/a", [1])
    client["rename/a"] = [2]
    with pytest.raises(tensord.Precondition, match="another tensor"):
        x.rename("rename/b")
    assert client["rename/a"].tolist() == [2] and "rename/b" not in client
    assert x.save("rename/b").rename("rename/c").name == "rename/c"
    assert client.list("rename/") == ["rename/a", "rename/c"]
    del client["rename/c"]
    with pytest.raises(tensord.NotFound):
        x.rename("rename/d")


def test_names_are_no_operands(client):
    x = client.zeros(4, name="operand/x")
    for use in (
        lambda: assign(x, slice(0, 4), "operand/x"),
        lambda: x.copy_("operand/x"),
        lambda: setattr(x, "grad", "operand/x"),
    ):
        with pytest.raises(TypeError, match="not str"):
            use()
    assert client.variable("operand/x").is_variable and client.as_tensor("operand/x").id == x.id
    for arguments in ((), ("a", x, x)):
        with pytest.raises(TypeError, match="variable\\(\\) takes"):
            client.variable(*arguments)


def assign(target, key, value):
    target[key] = value


def test_what_can_be_no_name_is_not_there(client):
    x = client.ones(1)
    for bad in ("", "/", "a//b", "a/../b", x.ref, "a\nb", "a\0b", "x" * 513, 5, None):
        assert bad not in client


def test_copies_of_handles(client):
    ours, theirs = client.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    ours.grad, theirs.grad = client.full((2,), 3.0), torch.full((2,), 3.0)
    deep = copy.deepcopy(ours)
    assert deep.is_leaf and deep.requires_grad and deep.grad.tolist() == [3, 3]
    assert deep.storage_id != ours.storage_id and deep.grad.storage_id != ours.grad.storage_id
    assert isinstance(deep, tensord.Variable)
    for n in (ours * 2, theirs * 2):
        with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
            copy.deepcopy(n)
    nested = copy.deepcopy([ours, ours])
    assert nested[0] is nested[1]
    named = client.zeros(2, name="copies/x")
    assert copy.copy(named).id == named.id and copy.copy(named).name == "copies/x"
    assert copy.copy(ours).requires_grad and copy.copy(ours).storage_id == ours.storage_id


def test_formats_are_pytorchs(client):
    for value in (3, 3.5, True, 1 + 2j, [3], [1.5, 2]):
        assert f"{client.tensor(value)}" == f"{torch.tensor(value)}"
    assert f"{client.tensor(3.5, requires_grad=True)}" == "3.5"
    assert f"{client.tensor(3):>5}" == f"{torch.tensor(3):>5}"
    for x in (client.ones(2), torch.ones(2)):
        with pytest.raises(TypeError, match="unsupported format string"):
            f"{x:.2f}"


def test_in_compares_elements(client):
    ours, theirs = client.arange(6).view(2, 3), torch.arange(6).view(2, 3)
    for value in (3, 7, 3.0, 3.5, True, 3 + 0j, 1j, np.float32(3), np.int8(7), torch.tensor(3)):
        assert (value in ours) == (value in theirs), value
    assert ours[1, 0] in ours and ours[0] in ours and ours[1, 2] not in ours[0]
    for name in ("float16", "float32", "bfloat16", "float8_e5m2"):
        tenth = client.tensor([0.1, float("nan")], dtype=name)
        assert 0.1 in tenth and 0.3 not in tenth and float("nan") not in tenth
    assert 3 in client.tensor(3) and 1 in client.ones(2, requires_grad=True)
    assert 1 not in client.zeros(0)
    for bad in ("a", None, [1, 2, 3], np.array([3])):
        for x in (ours, theirs):
            with pytest.raises(RuntimeError, match="only supports Tensor or scalar"):
                bad in x


def test_arguments_as_pytorch_takes_them(client):
    x = client.ones(2)
    for arguments in (
        (torch.float16, False, True),
        ("cpu", torch.float16, False, True),
        (None, torch.float16),
        (client.ones(1, dtype="float16"), True),
    ):
        assert x.to(*arguments).dtype == "float16"
    assert x.to(x.dtype, False, True).id != x.id == x.to(x.dtype, True, False).id == x.to().id
    assert x.to(x, False, True).id != x.id == x.to("cpu").id
    for bad in ((torch.float16, "cpu"), ("cpu", False), (x, 1), (torch.float16, False, True, 1)):
        with pytest.raises(TypeError):
            x.to(*bad)
    if not any(device.startswith("cuda") for device in client.devices()):
        with pytest.raises(tensord.NoDevice):
            x.to(0)
    assert x.type(torch.HalfTensor).dtype == "float16" and x.type(torch.FloatTensor) is x
    assert client.arange(end=3).tolist() == client.arange(start=0, end=3).tolist() == [0, 1, 2]
    assert client.arange(1, end=3).tolist() == [1, 2]
    with pytest.raises(TypeError, match="missing 1 required"):
        client.arange()
    for made in (
        client.randint(high=3, size=(50,)),
        client.randint(3, size=(50,)),
        client.randint(3, (50,)),
        client.randint(0, 3, (50,)),
        client.randint(low=0, high=3, size=(50,)),
    ):
        assert made.shape == (50,) and set(made.tolist()) == {0, 1, 2}
    for bad in ({}, {"high": 3}, {"size": (2,)}):
        with pytest.raises(TypeError, match="randint"):
            client.randint(**bad)


def test_the_default_client(default, monkeypatch, daemon):
    assert tensord.default_client() is default
    assert tensord.zeros(2).tolist() == [0, 0] and tensord.full((2,), 3).tolist() == [3, 3]
    assert tensord.ones(1, 2).tolist() == [[1, 1]] and tensord.arange(3).tolist() == [0, 1, 2]
    assert tensord.cuda.is_available() == bool(tensord.cuda.device_count())
    monkeypatch.setenv("TENSORD_URL", daemon.url)
    tensord.set_default_client(None)
    anew = tensord.default_client()
    assert anew is not default and anew is tensord.default_client()
    assert tensord.Variable([1.0], requires_grad=True).requires_grad
    anew.close()
    assert tensord.default_client() is not anew
    tensord.set_default_client(None)
    monkeypatch.setenv("TENSORD_URL", "unix:///nonexistent/socket")
    assert tensord.cuda.is_available() is False
    with pytest.raises(tensord.ConnectionError):
        tensord.zeros(2)


def test_what_a_handle_has_not_is_told_where_it_is(client):
    x = client.zeros(2)
    with pytest.raises(AttributeError, match=r"'Tensor' object has no attribute 'sum'; .*x\.numpy"):
        x.sum()
    assert not hasattr(x, "astype") and not hasattr(x, "__cuda_array_interface__")
    assert not hasattr(client.zeros(2, dtype="bfloat16"), "__array_interface__")
    with pytest.raises(AttributeError, match="NumPy has no bfloat16"):
        client.zeros(2, dtype="bfloat16").__array_interface__


def test_a_handle_of_a_closed_client_is_shown(daemon):
    with tensord.connect(daemon.url) as client:
        x, anonymous = client.put("handles/shown", np.zeros((2, 3))), client.zeros(2)
    shown = "<tensord.Tensor 'handles/shown' float64[2, 3]: this client is closed"
    assert repr(x).startswith(shown)
    assert repr([anonymous]).startswith("[<tensord.Tensor float32[2]: this client is closed")
    for text in (str, "{}".format):
        with pytest.raises(tensord.ConnectionError):
            text(x)


def test_a_notebook_completes_names(client, tmp_path):
    client["complete/a"], client["complete/b"] = np.zeros(2), np.ones(3)
    assert {"complete/a", "complete/b"} <= set(client._ipython_key_completions_())
    client.save(tmp_path / "two.npz", "complete")
    loaded = client.load(tmp_path / "two.npz", "complete/again")
    assert loaded._ipython_key_completions_() == ["a", "b"]
    queue = client.queue("complete")
    queue.put({"image": np.zeros(2)})
    with queue.get() as item:
        assert item._ipython_key_completions_() == ["image"]
    queue.delete()
