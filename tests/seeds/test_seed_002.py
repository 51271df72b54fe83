"""Seed 002: "PyTorch tensor to NumPy array and back", every code step in its order.

Where the document moves a tensor to "cuda", both outcomes are asserted: the moved tensor where the
daemon has a GPU, an error like PyTorch's where it has none.
"""

import numpy as np
import pytest

import tensord as torch

EYE_FLOAT64 = """\
tensor([[1., 0., 0.],
        [0., 1., 0.],
        [0., 0., 1.]], dtype=torch.float64)"""
EYE_FLOAT32 = """\
tensor([[1., 0., 0.],
        [0., 1., 0.],
        [0., 0., 1.]])"""
EYE_CUDA = """\
tensor([[1., 0., 0.],
        [0., 1., 0.],
        [0., 0., 1.]], device='cuda:0', dtype=torch.float64)"""
EYE_ARRAY = """\
array([[1., 0., 0.],
       [0., 1., 0.],
       [0., 0., 1.]], dtype=float32)"""


def assert_no_device(error):
    assert isinstance(error.value, RuntimeError) and error.value.code == "no_device"
    assert "cuda" in str(error.value).lower()


def test_numpy_to_pytorch(default, second):
    # "x = np.eye(3) / torch.from_numpy(x)"
    with torch.allocator():
        x = np.eye(3)
    tensor = torch.from_numpy(x)
    assert repr(tensor) == EYE_FLOAT64
    assert tensor.memory == "shared"

    # "x = np.eye(3) / torch.from_numpy(x).type(torch.float32)"; the document prints "1, 0, 0",
    # PyTorch "1., 0., 0."
    with torch.allocator():
        x = np.eye(3)
    typed = torch.from_numpy(x).type(torch.float32)
    assert repr(typed) == EYE_FLOAT32
    assert typed.dtype == torch.float32
    assert (typed.memory, typed.reason) == ("copied", "dtype")

    # "You can test whether that's true with torch.cuda.is_available()"
    available = torch.cuda.is_available()
    assert available == (torch.cuda.device_count() > 0)
    assert available == any(device.startswith("cuda") for device in default.devices())

    # 'x = np.eye(3) / torch.from_numpy(x).to("cuda")'
    x = np.eye(3)
    if available:
        assert repr(torch.from_numpy(x).to("cuda")) == EYE_CUDA
    else:
        with pytest.raises(RuntimeError) as error:
            torch.from_numpy(x).to("cuda")
        assert_no_device(error)

    # The array's own memory, in two processes.
    tensor.save("seed/002")
    second.run("a = c['seed/002'].numpy()")
    assert second.ask("a.tolist()") == np.eye(3).tolist()


def test_pytorch_to_numpy(default):
    # "x = torch.eye(3) / x.numpy()"
    x = torch.eye(3)
    assert repr(x.numpy()) == EYE_ARRAY

    # "x = torch.eye(3) / x.requires_grad = True / x.detach().numpy()"
    x = torch.eye(3)
    x.requires_grad = True
    assert x.requires_grad
    with pytest.raises(RuntimeError, match="requires grad"):
        x.numpy()
    assert repr(x.detach().numpy()) == EYE_ARRAY

    # 'x = torch.eye(3) / x = x.to("cuda") / x.to("cpu").numpy()'
    x = torch.eye(3)
    if torch.cuda.is_available():
        x = x.to("cuda")
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            x.numpy()
        assert repr(x.to("cpu").numpy()) == EYE_ARRAY
    else:
        with pytest.raises(RuntimeError) as error:
            x.to("cuda")
        assert_no_device(error)
        assert repr(x.to("cpu").numpy()) == EYE_ARRAY

    # "Both the .detach() method and the .to("cpu") method are idempotent":
    # 'x = torch.eye(3) / x.detach().to("cpu").numpy()'
    x = torch.eye(3)
    assert repr(x.detach().to("cpu").numpy()) == EYE_ARRAY
    assert x.to("cpu") is x
    again = x.detach().detach().to("cpu").to("cpu")
    assert again.storage_id == x.storage_id and again.memory == "shared"
    assert repr(again.numpy()) == EYE_ARRAY


def test_the_way_back_shares_across_processes(default, second):
    x = torch.eye(3).save("seed/002/eye")
    array = x.detach().to("cpu").numpy()
    second.run("a = c['seed/002/eye'].detach().to('cpu').numpy()")
    second.run("a[2, 0] = 7")
    assert array[2, 0] == 7
    array[0, 2] = 5
    assert second.ask("a.tolist()") == [[1, 0, 5], [0, 1, 0], [7, 0, 1]]
