"""Bodies that lie by strides, and parts that are read out of tensors: put with strides, get with an
index."""

import itertools
import struct

import numpy as np
import plain_client as plain
import pytest
from harness import MIB, client, daemon, get, local, ok, put, refused  # noqa: F401


def strides_of(array):
    """In elements."""
    return [step // array.itemsize for step in array.strides]


def raw(array):
    """The bytes of a permuted contiguous array as they lie in memory."""
    order = sorted(range(array.ndim), key=lambda dim: -array.strides[dim])
    return array.transpose(order).tobytes()


def put_array(client, name, array, **fields):
    reply = client.request("put", {"output": name, "dtype": array.dtype.name,
                                   "shape": list(array.shape), "strides": strides_of(array),
                                   **fields}, raw(array))  # fmt: skip
    return ok(reply)


# ---- put with strides --------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_order_of_dimensions_comes_back(client, order):
    array = np.arange(24, dtype="int32").reshape(2, 3, 4).transpose(order)
    reply = put_array(client, "x", array)
    assert reply["strides"] == strides_of(array) and reply["shape"] == list(array.shape)
    assert reply["memory"] == "copied" and reply["mode"] == "frozen" and reply["offset_bytes"] == 0
    assert get(client, "x") == array.tobytes()
    assert get(client, "x", dtype="float64") == array.astype("float64").tobytes()


def test_a_large_column_major_matrix(client):
    """Over what is received and read in a job, and in a memfd."""
    array = np.asfortranarray(np.arange(MIB, dtype="float32").reshape(512, 2048))
    put_array(client, "x", array)
    assert get(client, "x") == array.tobytes()
    part = get(client, "x", index=[slice(100, 300, 7), 11])
    assert part == array[100:300:7, 11].tobytes()


def test_the_memory_lies_by_the_strides(local):
    """Views and maps of it know: nothing was put into C order on the way in."""
    array = np.arange(40000, dtype="int32").reshape(200, 200).T
    put_array(local, "x", array, mutable=True)
    turned = ok(local.request("transpose", {"input": "x", "dim0": 0, "dim1": 1}))
    straight = ok(local.request("contiguous", {"input": f"@{turned['id']}"}))
    assert straight["memory"] == "shared" and straight["id"] == turned["id"]
    ok(local.request("setitem", {"input": "x", "index": [3, 5], "value": -1}))
    array[3, 5] = -1
    assert get(local, f"@{turned['id']}") == array.T.tobytes()
    assert get(local, "x") == array.tobytes()


@pytest.mark.parametrize("shape, strides", [
    ([6], [2]), ([6], [0]), ([2, 3], [1, 1]), ([2, 3], [2, 1]), ([2, 3], [5, 0]), ([2, 3], [3, 2]),
    ([2, 3], [-3, 1]), ([2, 3], [1]), ([2, 3], []), ([2, 3], [1, 2, 6]),
    ([2, 3], [1 << 62, 1]), ([2, 3], [1 << 50, 1 << 50]),
])  # fmt: skip
def test_strides_with_holes_or_overlaps(client, shape, strides):
    fields = {"output": "never", "dtype": "uint8", "shape": shape}
    refused(client.request("put", {**fields, "strides": strides}, b"abcdef"), "bad_shape",
            text="strides")  # fmt: skip
    refused(client.request("info", {"input": "never"}), "not_found")


def test_strides_of_little(client):
    for shape, strides, body in [([], [], b"x"), ([1, 1], [7, 0], b"x"), ([0, 3], [9, 9], b"")]:
        reply = ok(client.request("put", {"output": "x", "dtype": "uint8", "shape": shape,
                                          "strides": strides}, body))  # fmt: skip
        assert reply["shape"] == shape and get(client, "x") == body


def test_a_body_that_does_not_fit_its_strides_shape(client):
    fields = {"output": "x", "dtype": "uint8", "shape": [2, 3], "strides": [1, 2]}
    for size in (0, 5, 7, 12):
        refused(client.request("put", fields, bytes(size)), "bad_shape", text="need 6 bytes")


def test_only_put_takes_them(client):
    fields = {"dtype": "uint8", "shape": [2, 3], "strides": [1, 2]}
    refused(client.request("tensor", fields, b"abcdef"), "invalid", text="strides")
    refused(client.request("from_numpy", fields, b"abcdef"), "invalid", text="strides")


# ---- get with an index -------------------------------------------------------------------------

INDEXES = [
    (1,), (-1, 2), (slice(1, None),), (slice(None, None, -2), slice(None), 3), (..., 0),
    (None, 1, ..., None), (slice(5, 5),), (), (1, 2, 3), (slice(0, 1), ..., slice(1, 4, 2)),
]  # fmt: skip


@pytest.mark.parametrize("index", INDEXES, ids=str)
def test_parts_are_numpys(client, index):
    array = np.arange(24, dtype="int16").reshape(2, 3, 4)
    put(client, "x", array.tobytes(), "uint8", [48])  # another tensor of that name first
    generation = put_array(client, "x", array)["generation"]
    for dtype in ("int16", "float32", "uint8"):
        status, fields, body, _ = client.request("get", {"input": "x", "index": list(index),
                                                         "dtype": dtype})  # fmt: skip
        assert status == "ok", fields
        assert body == np.asarray(array[index]).astype(dtype).tobytes()
        assert fields["shape"] == list(array[index].shape)
        assert fields["nbytes"] == array[index].nbytes  # of the part, as it is stored
        assert (fields["name"], fields["generation"]) == ("x", generation)
        assert fields["memory"] == "copied"
        assert fields["reason"] == ("transport" if dtype == "int16" else "dtype")


def test_the_description_is_getitems(client):
    put(client, "x", bytes(24), "float32", [2, 3], requires_grad=True)
    index = {"input": "x", "index": [..., slice(1, 3)]}
    view = ok(client.request("getitem", index))
    part = ok(client.request("get", index))
    same = set(view) - {"id", "memory", "reason"}
    assert same == set(part) - {"id", "memory", "reason", "name", "generation"}
    assert {key: view[key] for key in same} == {key: part[key] for key in same}
    assert part["kind"] == "variable" and part["grad_fn"] == "SliceBackward0"
    refused(client.request("info", {"input": f"@{part['id']}"}), "not_found")


def test_indexes_that_do_not_fit(client):
    put(client, "x", bytes(6), "uint8", [2, 3])
    for index in ([2], [0, 3], [0, 0, 0], [..., ...], [slice(None, None, 0)], [0, slice(0, 1, 0)]):
        refused(client.request("get", {"input": "x", "index": index}), "bad_index")
    put(client, "one", b"x", "uint8", [])
    refused(client.request("get", {"input": "one", "index": [0]}), "bad_index")


def test_force_changes_nothing_of_the_bytes(client):
    body = struct.pack("<2f", 1.5, -2)
    put(client, "v", body, "float32", [2], requires_grad=True)
    for force in ({}, {"force": False}, {"force": True}):
        assert get(client, "v", **force) == body
        assert get(client, "v", index=[1], **force) == body[4:]


def test_a_part_of_more_than_there_is_memory_for(client):
    """The view of a small tensor that is expanded to 64 GiB: what is asked of it is what counts."""
    put(client, "row", bytes(range(4)), "uint8", [1, 4])
    wide = ok(client.request("expand", {"input": "row", "shape": [1 << 34, 4]}))
    name = f"@{wide['id']}"
    refused(client.request("get", {"input": name}), "out_of_memory")
    assert get(client, name, index=[1 << 33]) == bytes(range(4))
    assert get(client, name, index=[slice(7, 9), 2]) == b"\2\2"
    ok(client.request("release", {"input": name}))


def test_parts_leave_nothing_behind(daemon):
    """A part is an object for as long as the reply takes."""
    with daemon.connect() as first:
        put(first, "x", bytes(MIB), "uint8", [1024, 1024], requires_grad=True)
    daemon.quiet()
    with daemon.unchanged():
        for url in (daemon.url, daemon.tcp_url):
            with plain.PlainClient(url) as client:
                for row in range(50):
                    assert get(client, "x", index=[..., row]) == bytes(1024)
                    assert len(get(client, "x", index=[slice(0, 700)], dtype="int16")) == 1433600
                    refused(client.request("get", {"input": "x", "index": [1024]}), "bad_index")
