"""Seed 000 by curl: "How to transform a PyTorch variable into NumPy", over HTTP alone."""

import numpy as np
import torch as pytorch
from curl import curl  # noqa: F401


def test_variable_to_numpy(curl):  # noqa: F811
    # "import numpy as np / print(np.__version__)", "import torch / print(torch.__version__)"
    assert curl(path="/").startswith(b"tensord ")

    # "random_variable_ex = Variable((torch.rand(2, 3, 4) * 100).int(), requires_grad=True)"
    rand = curl.op("rand", shape=[2, 3, 4])
    hundred = curl.op("mul", input=rand["name"], value=100)
    numbers = curl.op("type", input=hundred["name"], dtype="int32")
    made = curl.op(
        "variable", input=numbers["name"], requires_grad=True, output="random_variable_ex"
    )

    # "type(random_variable_ex)": "it is a PyTorch autograd variable"
    assert made["kind"] == "variable" and made["requires_grad"]

    # "random_variable_ex.numpy()": "Unfortunately, this causes an error."
    error = curl.numpy("random_variable_ex")
    try:
        pytorch.rand(2, 3, 4, requires_grad=True).numpy()
    except RuntimeError as theirs:
        assert error == str(theirs)

    # "print(random_variable_ex)": "a PyTorch IntTensor of size 2x3x4"
    printed = curl.text("random_variable_ex")
    assert printed.endswith("dtype=torch.int32, requires_grad=True)")

    # "random_tensor_ex = random_variable_ex.data"
    data = curl.op("data", input="random_variable_ex", output="random_tensor_ex")
    assert data["memory"] == "shared" and data["storage"] == made["storage"]
    assert not data["requires_grad"]

    # "print(random_tensor_ex)": "you see that we have our torch.IntTensor"
    values = pytorch.tensor(curl.values("random_tensor_ex"), dtype=pytorch.int32)
    assert curl.text("random_tensor_ex") == str(values)

    # "np_random_mda_ex = random_tensor_ex.numpy()", ".shape": "2x3x4", ".dtype": "int32"
    array = curl.numpy("random_tensor_ex")
    assert array.shape == (2, 3, 4) and array.dtype == np.int32

    # "Finally, we visually inspect the values": "16, 46, 90, 14; 16, 46, 90, 14."
    assert array.tolist() == curl.values("random_variable_ex")
    assert array.min() >= 0 and array.max() < 100

    # What is written through one of the two names shows under the other.
    curl.op("setitem", input="random_tensor_ex", index="1, 2, 3", value=1000)
    assert curl.values("random_variable_ex")[1][2][3] == 1000
