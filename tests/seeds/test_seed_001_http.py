"""Seed 001 by curl: "How to transform a PyTorch tensor into an array in NumPy", over HTTP alone."""

import numpy as np
import torch as pytorch
from curl import curl  # noqa: F401

VALUES = [[0, 3, 3, 6], [2, 9, 1, 9], [7, 4, 2, 9], [8, 4, 2, 1]]


def test_tensor_to_array(curl):  # noqa: F811
    # "Step 3: PyTorch_2D_tensor = torch.tensor([[0, 3, 3, 6], ...])"
    made = curl.json("PyTorch_2D_tensor", VALUES)
    assert made["dtype"] == "int64" and made["shape"] == [4, 4]

    # 'print("PyTorch Tensor: \n", PyTorch_2D_tensor)', 'print("\n Shape:", ...shape)'
    assert curl.text("PyTorch_2D_tensor") == str(pytorch.tensor(VALUES))
    assert curl.info("PyTorch_2D_tensor")["shape"] == [4, 4]

    # "or use the randn or randint methods"
    assert curl.op("randn", shape=[4, 4])["shape"] == [4, 4]
    drawn = curl.op("randint", shape=[4, 4], low=0, high=10, output="drawn")
    assert drawn["dtype"] == "int64"
    assert all(0 <= number < 10 for row in curl.values("drawn") for number in row)

    # "Step 4: NumPy_array = PyTorch_2D_tensor.numpy()", 'print("NumPy array: \n", NumPy_array)'
    array = curl.numpy("PyTorch_2D_tensor")
    assert array.dtype == np.int64 and array.tolist() == VALUES
    assert str(array) == str(np.array(VALUES))


def test_large_data_in_batches(curl):  # noqa: F811
    # "it is recommended to do it in batches for efficient processing"
    curl.op("rand", shape=[10_500, 16], output="large")
    parts = [curl.numpy("large", f"&index={at}:{at + 1000}") for at in range(0, 10_500, 1000)]
    assert [len(part) for part in parts] == [1000] * 10 + [500]
    assert np.array_equal(np.concatenate(parts), curl.numpy("large"))


def test_arrays_are_on_the_cpu(curl):  # noqa: F811
    # "change the runtime settings to CPU because numpy arrays are not able to natively run on GPUs"
    curl.json("values", VALUES)
    assert curl.info("values")["device"] == "cpu"
    assert curl.op("cpu", input="values", output="on_cpu")["memory"] == "shared"
    assert curl.numpy("on_cpu").tolist() == VALUES
