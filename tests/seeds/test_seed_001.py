"""Seed 001: "How to transform a PyTorch tensor into an array in NumPy", every step in its order."""

import numpy as np
import torch as pytorch

import tensord as torch

VALUES = [
    [0, 3, 3, 6],
    [2, 9, 1, 9],
    [7, 4, 2, 9],
    [8, 4, 2, 1],
]


def test_tensor_to_array(default, second, capsys):
    # "Step 2: import torch / import numpy as np"
    # "Step 3: PyTorch_2D_tensor = torch.tensor([[0, 3, 3, 6], ...])"
    PyTorch_2D_tensor = torch.tensor([
        [0, 3, 3, 6],
        [2, 9, 1, 9],
        [7, 4, 2, 9],
        [8, 4, 2, 1]])
    theirs = pytorch.tensor(VALUES)

    # 'print("PyTorch Tensor: \n", PyTorch_2D_tensor)'
    print("PyTorch Tensor: \n", PyTorch_2D_tensor)
    assert capsys.readouterr().out == f"PyTorch Tensor: \n {theirs}\n"

    # 'print("\n Shape:", PyTorch_2D_tensor.shape)'
    print("\n Shape:", PyTorch_2D_tensor.shape)
    assert capsys.readouterr().out == "\n Shape: (4, 4)\n"
    assert PyTorch_2D_tensor.shape == tuple(theirs.shape)
    assert PyTorch_2D_tensor.dtype == theirs.dtype

    # "Input some random numbers by hand as done above or use the randn or randint methods"
    assert torch.randn(4, 4).shape == (4, 4)
    drawn = torch.randint(0, 10, (4, 4))
    assert drawn.dtype == torch.int64
    assert all(0 <= number < 10 for row in drawn.tolist() for number in row)

    # "Step 4: NumPy_array = PyTorch_2D_tensor.numpy()"
    NumPy_array = PyTorch_2D_tensor.numpy()

    # 'print("NumPy array: \n", NumPy_array)'
    print("NumPy array: \n", NumPy_array)
    assert capsys.readouterr().out == f"NumPy array: \n {np.array(VALUES)}\n"
    assert NumPy_array.dtype == np.int64 and NumPy_array.tolist() == VALUES

    # The same memory, in two processes.
    PyTorch_2D_tensor.save("seed/001")
    second.run("a = c['seed/001'].numpy()")
    assert second.ask("a.tolist()") == VALUES
    second.run("a[3, 3] = -1")
    assert NumPy_array[3, 3] == -1 and PyTorch_2D_tensor[3, 3].item() == -1


def test_large_data_in_batches(default, second):
    # "Pro-Tip: If you are transforming a multidimensional tensor with a multitude of data values
    # into an array, it is recommended to do it in batches for efficient processing."
    large = torch.rand(10_500, 16).save("seed/001/large")
    parts = []
    for part in large.batches(1000):
        array = part.numpy()
        assert part.memory == "shared" and part.storage_id == large.storage_id
        parts.append(array)
    assert [len(part) for part in parts] == [1000] * 10 + [500]
    whole = large.numpy()
    assert np.array_equal(np.concatenate(parts), whole)
    assert all(np.shares_memory(part, whole) for part in parts)

    # Another process takes the same batches.
    second.run("parts = [part.numpy() for part in c['seed/001/large'].batches(1000)]")
    assert second.ask("[len(part) for part in parts]") == [1000] * 10 + [500]
    parts[3][7, 5] = 42
    assert second.ask("float(parts[3][7, 5])") == 42


def test_arrays_are_on_the_cpu(default):
    # "change the runtime settings to CPU because numpy arrays are not able to natively run on GPUs"
    tensor = torch.tensor(VALUES)
    assert tensor.device == "cpu" and tensor.device.type == "cpu"
    assert np.array_equal(tensor.cpu().numpy(), VALUES)
