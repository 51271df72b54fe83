"""Seed 003 by curl: "Conversions between PyTorch and NumPy", every cell over HTTP alone.

Over HTTP an array on the client's side is a download: what the notebook shares between a tensor and
an array is shared here between two names of the daemon, which every client sees.
"""

import numpy as np
import torch as pytorch
from curl import curl  # noqa: F401

NOTEBOOK = [
    [0.5772584, 0.9224524, 0.96600515],
    [0.6888324, 0.5569336, 0.56979424],
    [0.07394451, 0.35725564, 0.6894745],
    [0.30504584, 0.89943147, 0.6989591],
]


def test_the_notebook(curl):  # noqa: F811
    # In [3]: "tensor = torch.rand(4, 3)", with the numbers that the notebook drew
    made = curl.json("tensor", {"data": NOTEBOOK, "mutable": True})
    assert made["kind"] == "tensor" and made["dtype"] == "float32"
    assert curl.text("tensor") == (
        "tensor([[0.5773, 0.9225, 0.9660],\n"
        "        [0.6888, 0.5569, 0.5698],\n"
        "        [0.0739, 0.3573, 0.6895],\n"
        "        [0.3050, 0.8994, 0.6990]])"
    )

    # In [6]: "numpy_from_tensor = tensor.numpy()"
    array = curl.numpy("tensor")
    assert array.dtype == np.float32 and array.tolist() == np.float32(NOTEBOOK).tolist()
    curl.op("detach", input="tensor", output="numpy_from_tensor")

    # In [10]: "share the same underlying memory / numpy_from_tensor[0, 0] = 100"
    curl.op("setitem", input="numpy_from_tensor", index="0, 0", value=100)
    assert repr(curl.numpy("numpy_from_tensor")).startswith("array([[1.0000000e+02, 9.2245239e-01,")

    # In [11]: "tensor"
    assert curl.text("tensor") == (
        "tensor([[1.0000e+02, 9.2245e-01, 9.6601e-01],\n"
        "        [6.8883e-01, 5.5693e-01, 5.6979e-01],\n"
        "        [7.3945e-02, 3.5726e-01, 6.8947e-01],\n"
        "        [3.0505e-01, 8.9943e-01, 6.9896e-01]])"
    )

    # In [12], [13]: "numpy_arr = np.array([[1.0, ...]])",
    # "tensor_from_numpy = torch.from_numpy(numpy_arr)"
    numpy_arr = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [100.0, 200.0, 300.0]])
    curl.json("numpy_arr", {"dtype": "float64", "data": numpy_arr.tolist(), "mutable": True})
    shared = curl.op("as_tensor", input="numpy_arr", output="tensor_from_numpy")
    assert shared["memory"] == "shared"
    assert curl.text("tensor_from_numpy") == repr(pytorch.from_numpy(numpy_arr))

    # In [16]: "tensor_from_numpy[0] = 1"; In [17]: "numpy_arr"
    curl.op("setitem", input="tensor_from_numpy", index="0", value=1)
    numpy_arr[0] = 1
    assert curl.text("tensor_from_numpy") == repr(pytorch.from_numpy(numpy_arr))
    assert repr(curl.numpy("numpy_arr")) == (
        "array([[  1.,   1.,   1.],\n       [ 10.,  20.,  30.],\n       [100., 200., 300.]])"
    )

    # In [18], [20]: "np_array_one = np.array([4, 8]) / torch.as_tensor(np_array_one)"
    curl.json("np_array_one", {"data": [4, 8], "mutable": True})
    one = curl.op("as_tensor", input="np_array_one", output="tensor_from_array_one")
    assert one["memory"] == "shared" and curl.text("tensor_from_array_one") == "tensor([4, 8])"

    # In [21]: "np_array_one[1] = 5"; In [22]: "tensor_from_array_one"
    curl.op("setitem", input="np_array_one", index="1", value=5)
    assert curl.text("tensor_from_array_one") == "tensor([4, 5])"

    # In [23], [24]: "np.array([2, 2])", "To ensure a copy of the data, use the tensor function"
    curl.json("np_array_two", {"data": [2, 2], "mutable": True})
    two = curl.op("clone", input="np_array_two", output="tensor_from_array_two")
    assert (two["memory"], two["reason"]) == ("copied", "copy")

    # In [25]: "np_array_two[1] = 4"; In [27]: "In this case the original data remains unchanged"
    curl.op("setitem", input="np_array_two", index="1", value=4)
    assert curl.values("np_array_two") == [2, 4]
    assert curl.text("tensor_from_array_two") == "tensor([2, 2])"
