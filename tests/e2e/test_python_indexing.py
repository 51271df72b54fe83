"""Reading and writing through indices: NumPy's results, also backwards, also onto themselves."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tensord

many = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SHAPE = (5, 6, 7)


def numbers(dtype="i4", shape=SHAPE):
    return (np.arange(np.prod(shape)) % 120).astype(dtype).reshape(shape)


ends = st.one_of(st.none(), st.integers(-9, 9))
steps = st.sampled_from([None, 1, 2, 3, -1, -1, -2, -3, -(2**62)])
items = st.one_of(
    st.integers(-5, 4), st.builds(slice, ends, ends, steps), st.just(slice(None, None, -1))
)


@st.composite
def indices(draw):
    index = draw(st.lists(items, max_size=3))
    if draw(st.booleans()):
        index.insert(draw(st.integers(0, len(index))), Ellipsis)
    if draw(st.booleans()):
        index.insert(draw(st.integers(0, len(index))), None)
    return tuple(index)


def steps_back(index):
    return any(isinstance(item, slice) and (item.step or 1) < 0 for item in index)


@many
@given(index=indices())
def test_getitem_is_numpys(client, index):
    array = numbers()
    tensor = client.tensor(array)
    part = tensor[index]
    done = ("copied", "layout") if steps_back(index) else ("shared", "")
    assert (part.memory, part.reason) == done
    assert all(stride >= 0 for stride in part.strides)
    assert np.array_equal(part.numpy(), array[index])


@many
@given(index=indices(), dtype=st.sampled_from(["i4", "f4", "u1", "c16"]), expand=st.booleans())
def test_setitem_is_numpys(client, index, dtype, expand):
    array = numbers()
    tensor = client.tensor(array)
    value = numbers(dtype, array[index].shape)[::-1] if array[index].ndim else np.array(7, dtype)
    value = value[..., :1] if expand and value.ndim else value
    tensor[index] = client.tensor(np.ascontiguousarray(value))
    array[index] = value.real if dtype == "c16" else value
    assert np.array_equal(tensor.numpy(), array)
    tensor[index] = 9
    array[index] = 9
    assert np.array_equal(tensor.numpy(), array)


@st.composite
def two_of_a_shape(draw):
    """Two indices of one tensor whose results have the same shape, or can be expanded to it."""
    target, source = [], []
    for size in SHAPE:
        length = draw(st.integers(1, size))
        for index in (target, source):
            step = draw(st.sampled_from([1, 1, 2, -1, -2] if index is target else [1, 1, 2]))
            reach = (length - 1) * abs(step) if length else 0
            if reach >= size:
                step, reach = (1 if step > 0 else -1), max(length - 1, 0)
            first = draw(st.integers(0, size - 1 - reach))
            start = first + reach if step < 0 else first
            stop = start + step * length
            index.append(slice(start, stop if stop >= 0 else None, step))
    if draw(st.booleans()):
        source = [draw(st.integers(0, SHAPE[0] - 1)), *source[1:]]
    return tuple(target), tuple(source)


@many
@given(indices=two_of_a_shape())
def test_what_overlaps_is_written_as_if_through_a_copy(client, indices):
    target, source = indices
    array = numbers()
    tensor = client.tensor(array)
    tensor[target] = tensor[source]
    array[target] = array[source].copy()
    assert np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 1, 2)])
def test_a_tensor_becomes_its_own_transpose(client, order):
    array = numbers("f4", (6, 6, 6))
    tensor = client.tensor(array)
    tensor.copy_(tensor.permute(*order))
    assert np.array_equal(tensor.numpy(), array.transpose(order))


@pytest.mark.parametrize("target, source", [
    (slice(1, None), slice(None, -1)),
    (slice(None, -1), slice(1, None)),
    (slice(None), slice(None)),
    (slice(0, 50), slice(50, 100)),
    (slice(None, None, 2), slice(1, None, 2)),
    (slice(None, None, -1), slice(None)),
    (slice(10, 60), slice(59, 9, -1)),
])
def test_shifts_of_a_large_tensor(client, target, source):
    """Views of one memory, large enough for several threads."""
    array = numbers("i2", (100, 30011))
    tensor = client.tensor(array)
    before = tensor._version
    tensor[target] = tensor[source]
    expected = array.copy()
    expected[target] = array[source]
    assert np.array_equal(tensor.numpy(), expected)
    assert tensor._version == before + 1


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32", "float64"])
def test_transposes_and_casts_of_large_tensors(client, dtype):
    array = numbers(getattr(ml_dtypes, dtype, dtype), (700, 901, 3))
    tensor = client.tensor(array)
    for order in ((1, 0, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)):
        view = tensor.permute(*order)
        assert np.array_equal(view.contiguous().numpy(), array.transpose(order))
        into = client.zeros(view.shape, dtype="int32")
        into.copy_(view)
        assert np.array_equal(into.numpy(), array.transpose(order).astype("i4"))
        into[::-1, :, ::-1] = view
        assert np.array_equal(into.numpy()[::-1, :, ::-1], array.transpose(order).astype("i4"))


def test_backwards_through_slice_and_history(client):
    tensor = client.tensor(numbers("f4"), requires_grad=True)
    part = tensor.slice(1, None, None, -1)
    assert (part.memory, part.reason, part.grad_fn) == ("copied", "layout", "SliceBackward0")
    assert np.array_equal(part.detach().numpy(), numbers("f4")[:, ::-1])
    assert part.requires_grad and not part.is_leaf
    with pytest.raises(ValueError, match="slice step cannot be zero"):
        tensor[::0]


def test_a_copy_of_a_frozen_tensor_is_mutable(client):
    client["frozen"] = numbers()
    part = client["frozen"][::-1]
    part[0] = 1
    assert part[0].tolist() == np.ones(SHAPE[1:], int).tolist()
    with pytest.raises(tensord.Frozen):
        client["frozen"][::-1] = 1


def test_what_is_no_basic_index_is_told_where_it_works(client):
    x = client.put("index/told", numbers())
    mask = x.numpy() > 3
    arrays = (mask, torch.from_numpy(mask), np.arange(2), torch.arange(2), client.arange(3))
    bools = (True, np.bool_(True), torch.tensor(True), (0, mask[0]))
    for key in (*arrays, *bools, [0, 1], "a"):
        with pytest.raises(TypeError, match=r"for lists, arrays and masks use x\.numpy\(\)\["):
            x[key]
    for one in (np.int64(1), np.array(1), torch.tensor(1), client.tensor(1)):
        assert (x[one].numpy() == x.numpy()[1]).all()
