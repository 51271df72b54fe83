"""core/layout.h against PyTorch: shapes, strides, offsets and texts of every view.

TENSORD_LAYOUT_LIB names a shared library of layout_shim.c and what it needs.
"""

import ctypes
import os
import re

import pytest

LIBRARY = os.environ.get("TENSORD_LAYOUT_LIB")
if not LIBRARY:
    pytest.skip("TENSORD_LAYOUT_LIB is not set: no library to test", allow_module_level=True)
np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

shim = ctypes.CDLL(LIBRARY)
int64s = ctypes.POINTER(ctypes.c_int64)
shim.layout_shim_none.restype = ctypes.c_int64
shim.layout_shim_detail.restype = ctypes.c_char_p
shim.layout_shim_strided.argtypes = [int64s, ctypes.c_uint64, int64s]
shim.layout_shim_view.argtypes = [ctypes.c_int, int64s, ctypes.c_int, int64s, int64s]
shim.layout_shim_index.argtypes = [int64s, ctypes.c_int, int64s, int64s]
shim.layout_shim_query.argtypes = [int64s] + 4 * [int64s]
shim.layout_shim_query.restype = None
shim.layout_shim_rows.argtypes = 4 * [int64s]
shim.layout_shim_rows.restype = ctypes.c_int64

RANK_MAX = shim.layout_shim_rank_max()
NONE = shim.layout_shim_none()
VIEWS = ["transpose", "permute", "squeeze", "unsqueeze", "expand", "view", "select", "slice"]
OK, BAD_SHAPE, BAD_INDEX = 0, 13, 14
ELEMENTS = 4096

# Every element is its own place in the storage.
storage = torch.arange(ELEMENTS, dtype=torch.int32)
many = settings(
    deadline=None,
    max_examples=300,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def array(values):
    return (ctypes.c_int64 * max(1, len(values)))(*values)


def packed(tensor):
    shape, strides = list(tensor.shape), list(tensor.stride())
    padding = [0] * (RANK_MAX - len(shape))
    return array([tensor.storage_offset(), len(shape)] + shape + padding + strides + padding)


def unpacked(values):
    rank = values[1]
    shape, strides = values[2 : 2 + rank], values[2 + RANK_MAX : 2 + RANK_MAX + rank]
    return tuple(shape), tuple(strides), values[0]


def places(tensor):
    """What a view is, with the offset of PyTorch only where it matters: see layout.h."""
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


def ours(call, *arguments):
    out = array([0] * (2 + 2 * RANK_MAX))
    status = call(*arguments, out)
    if status == OK:
        return unpacked(out), None
    return status, shim.layout_shim_detail().decode()


def ours_view(tensor, name, arguments):
    call = shim.layout_shim_view
    return ours(call, VIEWS.index(name), packed(tensor), len(arguments), array(arguments))


def theirs(function):
    try:
        return function(), None
    except (RuntimeError, IndexError, ValueError) as error:
        return None, str(error).split("\nException raised")[0]


def same(before, tensor, got):
    """Whether the layout is the tensor's, or that of `before` in the offset if it is empty."""
    shape, strides, offset = places(tensor)
    if tensor.numel() == 0:
        offset = before.storage_offset()
    assert got == (shape, strides, offset)


def compare(tensor, name, arguments, function, translate=lambda text: text):
    """Runs both; returns PyTorch's view, or None if both refuse with the same text."""
    got, detail = ours_view(tensor, name, arguments)
    view, text = theirs(function)
    if text is None:
        assert detail is None, detail
        same(tensor, view, got)
        return view
    assert detail is not None, f"only PyTorch refuses: {text}"
    assert got in (BAD_SHAPE, BAD_INDEX)
    assert detail == translate(text)
    return None


sizes = st.sampled_from([0, 1, 1, 1, 2, 2, 3, 3, 4, 5])
# Mostly what exists, sometimes what does not.
places_in_a_dim = st.one_of(st.integers(-6, 6), st.sampled_from([-(2**63), 2**63 - 1, 2**40]))


@st.composite
def tensors(draw, max_rank=5):
    shape = draw(st.lists(sizes, max_size=max_rank))
    offset = draw(st.integers(0, 9))
    if draw(st.booleans()):
        strides = [draw(st.integers(0, 9)) for _ in shape]
        return torch.as_strided(storage, shape, strides, offset)
    # A view of a dense tensor: what really occurs, with dimensions that can merge.
    steps = [draw(st.sampled_from([1, 1, 1, 2])) for _ in shape]
    whole = [size * step for size, step in zip(shape, steps)]
    count = 1
    for size in whole:
        count *= size
    if count + offset > ELEMENTS:
        shape = shape[:3]
        steps, whole = steps[:3], whole[:3]
        count = torch.Size(whole).numel()
    tensor = storage[offset : offset + count].view(whole)
    for dim, step in enumerate(steps):
        tensor = torch.ops.aten.slice(tensor, dim, None, None, step)
    tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    if tensor.dim() < max_rank and draw(st.booleans()):
        tensor = tensor.expand([draw(sizes)] + list(tensor.shape))
    return tensor


@many
@given(tensors())
def test_strided_and_queries(tensor):
    values = packed(tensor)
    got, detail = ours(shim.layout_shim_strided, values, ELEMENTS * 4)
    # Our offset must lie in the storage even if nothing is there.
    assert detail is None and got == places(tensor)
    answers = [ctypes.c_int64() for _ in range(4)]
    shim.layout_shim_query(values, *answers)
    contiguous, overlaps, nbytes, span = [answer.value for answer in answers]
    assert contiguous == tensor.is_contiguous()
    assert nbytes == tensor.nbytes
    elements = tensor.reshape(-1)
    if elements.numel() > 0:
        assert span == (int(elements.max()) - tensor.storage_offset() + 1) * 4
        assert overlaps or elements.unique().numel() == elements.numel()
    else:
        assert span == 0 and not overlaps


@many
@given(tensors(), st.integers(-1, 20), st.integers(0, ELEMENTS + 5), st.booleans())
def test_strided_refusals(tensor, stride, offset, negative):
    shape, strides = list(tensor.shape), list(tensor.stride())
    if strides:
        strides[0] = stride
        shape[-1] = -2 if negative else shape[-1] * 300
    view, text = theirs(lambda: torch.as_strided(storage, shape, strides, offset))
    padding = [0] * (RANK_MAX - len(shape))
    values = array([offset, len(shape)] + shape + padding + strides + padding)
    got, detail = ours(shim.layout_shim_strided, values, ELEMENTS * 4)
    if -2 in shape:
        assert detail.startswith("Trying to create tensor with negative dimension -2: [")
    elif text is not None:
        assert detail == text
    elif view.numel() == 0 and offset > ELEMENTS:
        assert "out of bounds for storage of size 16384" in detail
    else:
        assert detail is None and got == (tuple(shape), tuple(strides), offset)


@many
@given(tensors(), places_in_a_dim, places_in_a_dim)
def test_transpose(tensor, dim0, dim1):
    compare(tensor, "transpose", [dim0, dim1], lambda: tensor.transpose(dim0, dim1))


@many
@given(tensors(), st.data())
def test_permute(tensor, data):
    order = data.draw(st.permutations(range(tensor.dim())))
    order = [dim - data.draw(st.sampled_from([0, tensor.dim()])) for dim in order]
    assert compare(tensor, "permute", order, lambda: tensor.permute(order)) is not None
    order = data.draw(st.lists(places_in_a_dim, max_size=4))
    compare(tensor, "permute", order, lambda: tensor.permute(order))


@many
@given(tensors(), places_in_a_dim)
def test_squeeze_and_unsqueeze(tensor, dim):
    compare(tensor, "squeeze", [], tensor.squeeze)
    compare(tensor, "squeeze", [dim], lambda: tensor.squeeze(dim))
    compare(tensor, "unsqueeze", [dim], lambda: tensor.unsqueeze(dim))


@many
@given(tensors(max_rank=3), st.data())
def test_expand(tensor, data):
    wanted = [
        data.draw(st.sampled_from([size, -1, 4])) if size == 1 else
        data.draw(st.sampled_from([size, size, -1, 3])) for size in tensor.shape
    ]
    wanted = data.draw(st.lists(st.integers(-1, 3), max_size=2)) + wanted
    if data.draw(st.integers(0, 9)) == 0:
        wanted = wanted[: data.draw(st.integers(0, len(wanted)))]
    # A scalar's -1 is PyTorch's overflow; of a bad size below -1 it says the same.
    if tensor.dim() == 0 and -1 in wanted:
        _, detail = ours_view(tensor, "expand", wanted)
        assert detail.startswith("The expanded size of the tensor (-1) isn't allowed in a leading")
        return
    compare(
        tensor, "expand", wanted, lambda: tensor.expand(wanted),
        lambda text: text.replace("expand(torch.IntTensor{", "expand(torch.int32{"),
    )


def factors(draw, count):
    """A shape of `count` elements."""
    shape = []
    while count > 1:
        factor = draw(st.sampled_from([n for n in range(2, count + 1) if count % n == 0]))
        shape.append(factor)
        count //= factor
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return shape


@many
@given(tensors(), st.data())
def test_view(tensor, data):
    if tensor.numel() > 0:
        target = factors(data.draw, tensor.numel())
    else:
        target = data.draw(st.permutations(list(tensor.shape) + [data.draw(sizes)]))
    if target and data.draw(st.booleans()):
        target[data.draw(st.integers(0, len(target) - 1))] = -1
    compare_view(tensor, target)
    # The strides' own blocks, split: views that exist more often.
    compare_view(tensor, list(tensor.shape) + [1])
    compare_view(tensor.unsqueeze(0), list(tensor.shape))
    compare_view(tensor, [-1])


@many
@given(tensors(), st.lists(st.integers(-3, 6), max_size=4))
@example(storage[:12], [2**32, 2**32])
@example(storage[:12].view(3, 4), [-1, 0])
@example(storage[:0].view(0, 3), [0, -1])
def test_view_refusals(tensor, target):
    compare_view(tensor, target)


def compare_view(tensor, target):
    got, detail = ours_view(tensor, "view", target)
    view, text = theirs(lambda: tensor.view(target))
    if got == -1:
        assert text.startswith("view size is not compatible with input tensor's size and stride")
    elif text is not None:
        assert detail is not None and detail.replace("; its size calculation overflows", "") == text
        # What PyTorch refuses to copy, too.
        assert theirs(lambda: tensor.reshape(target))[1] == text
    else:
        assert detail is None, detail
        same(tensor, view, got)


@many
@given(tensors(), places_in_a_dim, places_in_a_dim)
def test_select(tensor, dim, position):
    compare(tensor, "select", [dim, position], lambda: tensor.select(dim, position))


ends = st.one_of(st.none(), st.integers(-7, 7), st.sampled_from([-(2**62), 2**62]))
steps = st.one_of(st.none(), st.integers(1, 5))
steps_back = st.one_of(st.integers(-5, -1), st.sampled_from([-(2**40), -(2**62)]))


def number(end):
    return NONE if end is None else end


@many
@given(tensors(), st.integers(-6, 6), ends, ends, steps)
def test_slice(tensor, dim, start, stop, step):
    compare(
        tensor, "slice", [dim, number(start), number(stop), number(step)],
        lambda: torch.ops.aten.slice(tensor, dim, start, stop, 1 if step is None else step),
    )


@many
@given(tensors(), st.data())
def test_slices_backwards_have_numpys_elements(tensor, data):
    """PyTorch refuses them. Where an element lies is its value."""
    array = tensor.numpy()
    items = []
    for _ in range(data.draw(st.integers(0, array.ndim))):
        step = data.draw(st.one_of(steps, steps_back))
        items.append(slice(data.draw(ends), data.draw(ends), step))
    got, detail = ours(shim.layout_shim_index, packed(tensor), len(items), index_numbers(items))
    assert detail is None, detail
    shape, strides, offset = got
    expected = array[tuple(items)]
    assert shape == expected.shape
    if expected.size:
        places = np.full(shape, offset)
        for dim, stride in enumerate(strides):
            along = np.arange(shape[dim]) * stride
            places += along.reshape([-1] + [1] * (len(shape) - dim - 1))
        assert np.array_equal(places, expected)


@pytest.mark.parametrize("tensor", [storage[:12].view(3, 4)])
def test_a_step_of_zero(tensor):
    _, detail = ours_view(tensor, "slice", [0, NONE, NONE, 0])
    with pytest.raises(ValueError, match=detail):
        tensor[::0]


def test_slice_with_a_step_past_everything():
    tensor = storage[:12].view(3, 4)
    for step in (2**40, 2**62, 2**63 - 1):
        (shape, strides, offset), _ = ours_view(tensor, "slice", [0, 1, NONE, step])
        assert (shape, offset) == ((1, 4), 4)
        # PyTorch's product wraps; ours stays, as nobody steps along it.
        assert strides[0] in (4, 4 * step)


@st.composite
def indices(draw, rank):
    items = []
    taken = draw(st.integers(0, rank + (draw(st.integers(0, 9)) == 0)))
    for _ in range(taken):
        if draw(st.booleans()):
            items.append(draw(st.integers(-3, 2)))
        else:
            items.append(slice(draw(ends), draw(ends), draw(st.sampled_from([None, 1, 2, 3]))))
    for _ in range(draw(st.integers(0, 2))):
        items.insert(draw(st.integers(0, len(items))), None)
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), Ellipsis)
    return items


def index_numbers(items):
    numbers = []
    for item in items:
        if isinstance(item, slice):
            numbers += [1, number(item.start), number(item.stop), number(item.step)]
        elif item is Ellipsis:
            numbers += [2, 0, 0, 0]
        elif item is None:
            numbers += [3, 0, 0, 0]
        else:
            numbers += [0, item, 0, 0]
    return array(numbers)


@many
@given(tensors(), st.data())
def test_index(tensor, data):
    items = data.draw(indices(tensor.dim()))
    one = len(items) == 1 and data.draw(st.booleans())
    got, detail = ours(shim.layout_shim_index, packed(tensor), len(items), index_numbers(items))
    view, text = theirs(lambda: tensor[items[0]] if one else tensor[tuple(items)])
    if text is None:
        assert detail is None, detail
        same(tensor, view, got)
        return
    assert got == BAD_INDEX
    if None in items or Ellipsis in items:
        # PyTorch counts the items of the index; this daemon, as NumPy, the tensor's dimensions.
        dimension = re.compile("for dimension [0-9]+ with")
        detail, text = dimension.sub("", detail), dimension.sub("", text)
    elif tensor.dim() == 0 and len(items) == 1:
        # These tell t[0] from t[0,] and t[:] from t[:,], which is one index here.
        assert text in (
            detail,
            "too many indices for tensor of dimension 0",
            # PyTorch's dimension of a scalar that is not 0.
            f"index {items[0]} is out of bounds for dimension 0 with size 0",
        )
        return
    assert detail == text


@pytest.mark.parametrize(
    "tensor, items, text",
    [
        (storage[:12].view(3, 4), [0, 0, 0], "too many indices for tensor of dimension 2"),
        (storage[:12].view(3, 4), [7], "index 7 is out of bounds for dimension 0 with size 3"),
        (storage[0], [0], "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or "
         "`tensor.item<T>()` in C++ to convert a 0-dim tensor to a number"),
        (storage[0], [slice(None)], "slice() cannot be applied to a 0-dim tensor."),
    ],
)
def test_index_texts(tensor, items, text):
    item = items[0] if len(items) == 1 else tuple(items)
    assert theirs(lambda: tensor[item])[1] == text
    _, detail = ours(shim.layout_shim_index, packed(tensor), len(items), index_numbers(items))
    assert detail == text


@many
@given(tensors(), st.data())
def test_chains_of_views_stay_in_the_storage(tensor, data):
    """Many views after one another; what core makes is what core gets next."""
    values = packed(tensor)
    for _ in range(data.draw(st.integers(1, 8))):
        items = data.draw(indices(tensor.dim()))
        out = array([0] * (2 + 2 * RANK_MAX))
        status = shim.layout_shim_index(values, len(items), index_numbers(items), out)
        view, text = theirs(lambda: tensor[tuple(items)])
        assert (status == OK) == (text is None)
        if status != OK or view.dim() > 8:
            continue
        values, tensor = out, view
        shape, strides, offset = unpacked(values)
        assert (shape, strides) == (tuple(tensor.shape), tensor.stride())
        assert offset <= ELEMENTS
        assert offset == tensor.storage_offset() or tensor.numel() == 0


@many
@given(tensors(), st.data())
def test_rows(tensor, data):
    """Rows give the elements of both in C order, whatever merged."""
    if data.draw(st.booleans()):
        strides = [data.draw(st.integers(0, 9)) for _ in tensor.shape]
        other = torch.as_strided(storage, tensor.shape, strides, data.draw(st.integers(0, 9)))
    else:
        other = storage[: tensor.numel()].view(tensor.shape)
    a, b = array([0] * tensor.numel()), array([0] * tensor.numel())
    count = shim.layout_shim_rows(packed(tensor), packed(other), a, b)
    assert count == tensor.numel()
    assert a[:count] == tensor.flatten().tolist()
    assert b[:count] == other.flatten().tolist()
