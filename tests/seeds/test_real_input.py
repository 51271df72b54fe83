"""Real input: a model's weights and a data set, put, listed, mapped by a second process, cast and
fetched, and compared bit for bit with what NumPy, PyTorch and safetensors say."""

import hashlib

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import tensord


@pytest.fixture
def model(client, weights):
    """The model's tensors, stored as model/...; gone afterwards."""
    arrays = safetensors.numpy.load_file(weights)
    client.update((f"model/{key}", array) for key, array in arrays.items())
    yield arrays
    for name in client.list("model/"):
        del client[name]


def same_bits(ours, theirs):
    ours, theirs = np.ascontiguousarray(ours), np.ascontiguousarray(theirs)
    return (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape) and (
        ours.tobytes() == theirs.tobytes()
    )


def test_put_and_list(client, model, weights):
    assert client.list("model/") == sorted(f"model/{key}" for key in model)
    with safetensors.safe_open(weights, "numpy") as file:
        assert set(client.list("model/")) == {f"model/{key}" for key in file.keys()}
    infos = {info.name.removeprefix("model/"): info for info in client.infos("model/")}
    for key, array in model.items():
        info = infos[key]
        assert (info.shape, info.nbytes) == (array.shape, array.nbytes)
        assert info.dtype == array.dtype and info.mode == "frozen"
    assert sum(info.nbytes for info in infos.values()) > 80_000_000


def test_a_second_process_maps_them(client, model, second):
    second.run("model = {name: c[name] for name in c.list('model/')}")
    second.run("arrays = {name: handle.numpy() for name, handle in model.items()}")
    theirs = second.ask("{name: sha256(array) for name, array in arrays.items()}")
    assert theirs == {
        f"model/{key}": hashlib.sha256(array.tobytes()).hexdigest() for key, array in model.items()
    }
    memory = second.ask("{name: handle.memory for name, handle in model.items()}")
    large = {f"model/{key}" for key, array in model.items() if array.nbytes >= 65536}
    assert large and all(memory[name] == "shared" for name in large)
    assert second.ask("any(array.flags.writeable for array in arrays.values())") is False


def test_cast_to_float16(client, model):
    for key, array in model.items():
        half = client[f"model/{key}"].to("float16")
        expected = array.astype(np.float16)
        assert same_bits(half.fetch(), expected), key
        assert same_bits(half.numpy(), torch.from_numpy(array).to(torch.float16).numpy()), key
        assert same_bits(client[f"model/{key}"].fetch("float16"), expected), key


def test_cast_to_bfloat16(client, model):
    for key, array in model.items():
        small = client[f"model/{key}"].to(torch.bfloat16)
        assert same_bits(small.fetch(), array.astype(ml_dtypes.bfloat16)), key
        theirs = torch.from_numpy(array).to(torch.bfloat16)
        assert torch.equal(small.torch().view(torch.int16), theirs.view(torch.int16)), key


def test_state_dict(client, weights):
    theirs = safetensors.torch.load_file(weights)
    client.put_state_dict("state", theirs)
    ours = client.get_state_dict("state")
    assert set(ours) == set(theirs)
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype and torch.equal(ours[key], tensor), key
    # What safetensors writes of them reads back as the same.
    again = safetensors.torch.load(safetensors.torch.save(dict(ours)))
    assert all(torch.equal(again[key], tensor) for key, tensor in theirs.items())
    for name in client.list("state/"):
        del client[name]


def test_safetensors_of_casts(client, model):
    """The bytes that safetensors writes of a cast are those that it writes of PyTorch's cast."""
    key = max(model, key=lambda name: model[name].nbytes)
    for dtype in (torch.float16, torch.bfloat16):
        ours = client[f"model/{key}"].to(dtype).torch()
        theirs = torch.from_numpy(model[key]).to(dtype)
        assert safetensors.torch.save({key: ours}) == safetensors.torch.save({key: theirs})


def test_digits(client, second):
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    client["digits/data"] = digits.data
    client["digits/images"] = digits.images
    client["digits/target"] = digits.target
    assert client.list("digits/") == ["digits/data", "digits/images", "digits/target"]

    for name in ("data", "images", "target"):
        expected = np.ascontiguousarray(digits[name])
        assert same_bits(client[f"digits/{name}"].numpy(), expected)
        second.run(f"h = c['digits/{name}']; a = h.numpy()")
        assert second.ask("sha256(a)") == hashlib.sha256(expected.tobytes()).hexdigest()
        assert second.ask("[list(a.shape), str(a.dtype)]") == [
            list(expected.shape),
            str(expected.dtype),
        ]

    data = client["digits/data"]
    assert same_bits(data.to("float16").numpy(), digits.data.astype(np.float16))
    assert same_bits(data.to("bfloat16").numpy(), digits.data.astype(ml_dtypes.bfloat16))
    assert same_bits(data.to(tensord.uint8).numpy(), digits.data.astype(np.uint8))
    batches = [batch.numpy() for batch in data.batches(500)]
    assert np.array_equal(np.concatenate(batches), digits.data)

    # A model of scikit-learn's reads the mapped memory as it reads its own.
    linear = pytest.importorskip("sklearn.linear_model")
    fit = linear.RidgeClassifier().fit(data.numpy(), client["digits/target"].numpy())
    expected = linear.RidgeClassifier().fit(digits.data, digits.target)
    assert np.array_equal(fit.predict(data.numpy()), expected.predict(digits.data))
