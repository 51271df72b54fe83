"""Seed 003: "Conversions between PyTorch and NumPy", every cell of the notebook in its order.

What the notebook shares within one process is shared here by two: the second process maps the same
tensors before anything is written to them.

np.array([4, 8]) is int64 here; the notebook ran on Windows, where it was int32.
"""

import numpy as np
import torch as pytorch

import tensord as torch


def test_the_notebook(default, second):
    # In [1]: "import numpy as np / import torch"
    # In [3]: "tensor = torch.rand(4, 3) / tensor"
    tensor = torch.rand(4, 3)
    assert repr(tensor) == repr(pytorch.tensor(tensor.tolist()))

    # In [4]: "type(tensor)" -> "torch.Tensor"
    assert type(tensor) is torch.Tensor

    # In [6]: "numpy_from_tensor = tensor.numpy() / numpy_from_tensor"
    numpy_from_tensor = tensor.numpy()
    assert numpy_from_tensor.dtype == np.float32 and numpy_from_tensor.shape == (4, 3)
    assert numpy_from_tensor.tolist() == tensor.tolist()

    # In [7]: "type(numpy_from_tensor)" -> "numpy.ndarray"
    assert type(numpy_from_tensor) is np.ndarray

    # In [8]: "torch.is_tensor(tensor)" -> "True"
    assert torch.is_tensor(tensor) is True

    # In [9]: "torch.is_tensor(numpy_from_tensor)" -> "False"
    assert torch.is_tensor(numpy_from_tensor) is False

    # In [10]: "The NumPy array and the PyTorch tensor share the same underlying memory /
    # numpy_from_tensor[0, 0] = 100 / numpy_from_tensor"
    tensor.save("seed/003/tensor")
    second.run("a = c['seed/003/tensor'].numpy()")
    numpy_from_tensor[0, 0] = 100
    assert numpy_from_tensor[0, 0] == 100

    # In [11]: "tensor" -> "tensor([[1.0000e+02, 9.2245e-01, ..."
    assert tensor[0, 0].item() == 100
    assert repr(tensor) == repr(pytorch.tensor(numpy_from_tensor))
    assert second.ask("a.tolist()") == numpy_from_tensor.tolist()
    second.run("a[3, 2] = -5")
    assert numpy_from_tensor[3, 2] == -5 and tensor[3, 2].item() == -5

    # In [12]: "numpy_arr = np.array([[1.0, 2.0, 3.0], ...]) / numpy_arr"
    with torch.allocator():
        numpy_arr = np.array([[1.0, 2.0, 3.0],
                              [10.0, 20.0, 30.0],
                              [100.0, 200.0, 300.0]])

    # In [13]: "tensor_from_numpy = torch.from_numpy(numpy_arr) / tensor_from_numpy"
    tensor_from_numpy = torch.from_numpy(numpy_arr)
    assert repr(tensor_from_numpy) == (
        "tensor([[  1.,   2.,   3.],\n"
        "        [ 10.,  20.,  30.],\n"
        "        [100., 200., 300.]], dtype=torch.float64)"
    )

    # In [14]: "type(tensor_from_numpy)" -> "torch.Tensor"
    assert type(tensor_from_numpy) is torch.Tensor

    # In [15]: "torch.is_tensor(tensor_from_numpy)" -> "True"
    assert torch.is_tensor(tensor_from_numpy) is True

    # In [16]: "Also share the same underlying memory / tensor_from_numpy[0] = 1 /
    # tensor_from_numpy"
    tensor_from_numpy.save("seed/003/from_numpy")
    second.run("b = c['seed/003/from_numpy'].numpy()")
    tensor_from_numpy[0] = 1
    assert repr(tensor_from_numpy) == (
        "tensor([[  1.,   1.,   1.],\n"
        "        [ 10.,  20.,  30.],\n"
        "        [100., 200., 300.]], dtype=torch.float64)"
    )

    # In [17]: "numpy_arr" -> "array([[ 1., 1., 1.], ..."
    assert repr(numpy_arr) == (
        "array([[  1.,   1.,   1.],\n"
        "       [ 10.,  20.,  30.],\n"
        "       [100., 200., 300.]])"
    )
    assert second.ask("b.tolist()") == numpy_arr.tolist()
    second.run("b[2] = 9")
    assert numpy_arr[2].tolist() == [9, 9, 9]
    assert tensor_from_numpy[2].tolist() == [9, 9, 9]

    # In [18]: "np_array_one = np.array([4, 8]) / np_array_one"
    with torch.allocator():
        np_array_one = np.array([4, 8])

    # In [20]: "Performs a copy if the data is not already a tensor ... the new tensor will use the
    # same memory / tensor_from_array_one = torch.as_tensor(np_array_one)"
    tensor_from_array_one = torch.as_tensor(np_array_one)
    assert repr(tensor_from_array_one) == "tensor([4, 8])"
    assert tensor_from_array_one.memory == "shared"
    tensor_from_array_one.save("seed/003/as_tensor")
    second.run("d = c['seed/003/as_tensor'].numpy()")

    # In [21]: "np_array_one[1] = 5 / np_array_one" -> "array([4, 5])"
    np_array_one[1] = 5
    assert np_array_one.tolist() == [4, 5]

    # In [22]: "tensor_from_array_one" -> "tensor([4, 5], dtype=torch.int32)"
    assert repr(tensor_from_array_one) == "tensor([4, 5])"
    assert second.ask("d.tolist()") == [4, 5]
    second.run("d[0] = 3")
    assert np_array_one.tolist() == [3, 5]

    # In [23]: "np_array_two = np.array([2, 2]) / np_array_two"
    with torch.allocator():
        np_array_two = np.array([2, 2])

    # In [24]: "To ensure a copy of the data, use the tensor function /
    # tensor_from_array_two = torch.tensor(np_array_two)"
    tensor_from_array_two = torch.tensor(np_array_two)
    assert repr(tensor_from_array_two) == "tensor([2, 2])"
    assert tensor_from_array_two.memory == "copied"

    # In [25]: "np_array_two[1] = 4 / np_array_two" -> "array([2, 4])"
    np_array_two[1] = 4
    assert np_array_two.tolist() == [2, 4]

    # In [27]: "In this case the original data remains unchanged / tensor_from_array_two" ->
    # "tensor([2, 2], dtype=torch.int32)"
    assert repr(tensor_from_array_two) == "tensor([2, 2])"
    tensor_from_array_two.save("seed/003/tensor_two")
    assert second.ask("c['seed/003/tensor_two'].tolist()") == [2, 2]


def test_the_notebook_with_its_own_numbers(default):
    """Cells 3 to 11 with the numbers that the notebook drew: the same text."""
    tensor = torch.tensor([[0.5772584, 0.9224524, 0.96600515],
                           [0.6888324, 0.5569336, 0.56979424],
                           [0.07394451, 0.35725564, 0.6894745],
                           [0.30504584, 0.89943147, 0.6989591]])
    assert repr(tensor) == (
        "tensor([[0.5773, 0.9225, 0.9660],\n"
        "        [0.6888, 0.5569, 0.5698],\n"
        "        [0.0739, 0.3573, 0.6895],\n"
        "        [0.3050, 0.8994, 0.6990]])"
    )
    numpy_from_tensor = tensor.numpy()
    numpy_from_tensor[0, 0] = 100
    assert repr(numpy_from_tensor) == (
        "array([[1.0000000e+02, 9.2245239e-01, 9.6600515e-01],\n"
        "       [6.8883240e-01, 5.5693358e-01, 5.6979424e-01],\n"
        "       [7.3944509e-02, 3.5725564e-01, 6.8947452e-01],\n"
        "       [3.0504584e-01, 8.9943147e-01, 6.9895911e-01]], dtype=float32)"
    )
    assert repr(tensor) == (
        "tensor([[1.0000e+02, 9.2245e-01, 9.6601e-01],\n"
        "        [6.8883e-01, 5.5693e-01, 5.6979e-01],\n"
        "        [7.3945e-02, 3.5726e-01, 6.8947e-01],\n"
        "        [3.0505e-01, 8.9943e-01, 6.9896e-01]])"
    )


def test_the_notebook_on_the_heap(default):
    """The same cells without the allocator: the memory cannot be shared, and the reply says so."""
    numpy_arr = np.array([[1.0, 2.0, 3.0]])
    tensor_from_numpy = torch.from_numpy(numpy_arr)
    assert (tensor_from_numpy.memory, tensor_from_numpy.reason) == ("copied", "heap")
    tensor_from_numpy[0] = 1
    assert numpy_arr.tolist() == [[1.0, 2.0, 3.0]]
