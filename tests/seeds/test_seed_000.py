"""Seed 000: "How to transform a PyTorch variable into NumPy", every code step in its order.

The document's PyTorch is 0.2; client/python/deviations.md lists what is said differently today.
"""

import numpy as np
import pytest
import torch as pytorch

import tensord as torch


def test_variable_to_numpy(default, second):
    # "import numpy as np / print(np.__version__)"
    print(np.__version__)
    assert np.__version__

    # "import torch / print(torch.__version__)"
    print(torch.__version__)
    assert torch.__version__

    # "from torch.autograd import Variable"
    from tensord.autograd import Variable

    # "random_variable_ex = Variable((torch.rand(2, 3, 4) * 100).int(), requires_grad=True)"
    random_variable_ex = Variable((torch.rand(2, 3, 4) * 100).int(), requires_grad=True)
    assert random_variable_ex.shape == (2, 3, 4)
    assert random_variable_ex.dtype == torch.int32
    assert random_variable_ex.requires_grad

    # "type(random_variable_ex)": "it is a PyTorch autograd variable"
    assert type(random_variable_ex) is Variable
    assert isinstance(random_variable_ex, torch.Tensor) and random_variable_ex.is_variable

    # "random_variable_ex.numpy()": "Unfortunately, this causes an error"; AttributeError in
    # PyTorch 0.2, today's PyTorch says this:
    with pytest.raises(RuntimeError) as ours:
        random_variable_ex.numpy()
    with pytest.raises(RuntimeError) as theirs:
        pytorch.rand(2, 3, 4, requires_grad=True).numpy()
    assert str(ours.value) == str(theirs.value)
    assert isinstance(ours.value, torch.RequiresGrad)

    # "print(random_variable_ex)": "we can see that it's a PyTorch IntTensor of size 2x3x4"
    printed = str(random_variable_ex)
    print(random_variable_ex)
    assert printed.startswith("tensor([[[")
    assert printed.endswith("dtype=torch.int32, requires_grad=True)")

    # "random_tensor_ex = random_variable_ex.data"
    random_tensor_ex = random_variable_ex.data
    assert not random_tensor_ex.requires_grad
    assert random_tensor_ex.storage_id == random_variable_ex.storage_id

    # "print(random_tensor_ex)": "you see that we have our torch.IntTensor"
    print(random_tensor_ex)
    values = pytorch.tensor(random_tensor_ex.tolist(), dtype=pytorch.int32)
    assert str(random_tensor_ex) == str(values)
    assert random_tensor_ex.type() == "torch.IntTensor"
    # "Comparing it to the variable here": the variable's print says more.
    assert printed == str(values)[:-1] + ", requires_grad=True)"

    # "np_random_mda_ex = random_tensor_ex.numpy()"
    np_random_mda_ex = random_tensor_ex.numpy()
    assert type(np_random_mda_ex) is np.ndarray

    # "np_random_mda_ex.shape": "we see that it is 2x3x4"
    assert np_random_mda_ex.shape == (2, 3, 4)

    # "np_random_mda_ex.dtype": "We see that it is int32"
    assert np_random_mda_ex.dtype == np.int32

    # "print(random_variable_ex)", "print(np_random_mda_ex)": "visually inspect the values";
    # "We see 16, 46, 90, 14; 16, 46, 90, 14."
    print(random_variable_ex)
    print(np_random_mda_ex)
    assert np_random_mda_ex.tolist() == random_variable_ex.tolist()
    assert np_random_mda_ex.min() >= 0 and np_random_mda_ex.max() < 100

    # The same memory, in two processes.
    random_variable_ex.save("seed/000")
    second.run("a = c['seed/000'].data.numpy()")
    assert second.ask("a.tolist()") == np_random_mda_ex.tolist()
    second.run("a[1, 2, 3] = 1000")
    assert np_random_mda_ex[1, 2, 3] == 1000
    assert random_variable_ex.data[1, 2, 3].item() == 1000


def test_the_variable_as_pytorch_sees_it(default):
    variable = torch.Variable((torch.rand(2, 3, 4) * 100).int(), requires_grad=True)
    with pytest.raises(RuntimeError) as ours:
        variable.torch()
    with pytest.raises(RuntimeError) as theirs:
        pytorch.zeros(2, dtype=pytorch.int32).requires_grad_(True)
    assert str(ours.value) == str(theirs.value)
    assert variable.data.torch().dtype == pytorch.int32
