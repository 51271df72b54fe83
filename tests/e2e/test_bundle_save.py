"""save over frames: the reply's body is the file."""

import io
import json

import numpy as np
import pytest
from bundle_files import (
    assert_same,
    delete_all,
    load,
    model,
    npz_file,
    save,
)
from harness import SMALL, Daemon, Filling, ok, put, refused
from plain_client import PlainClient
from safetensors.numpy import load as read_safetensors


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL) as running:
        yield running


@pytest.fixture(params=["unix", "tcp"])
def client(daemon, request):
    with daemon.connect() as unix:
        if request.param == "unix":
            yield unix
        else:
            with PlainClient(daemon.tcp_url) as tcp:
                yield tcp
        delete_all(unix)


def saved(client, **fields):
    reply = client.request("save", fields)
    ok(reply)
    return reply[2]


def read_npz(body):
    with np.load(io.BytesIO(body)) as archive:
        return dict(archive)


@pytest.mark.parametrize("scale", [1, 64, 4096])
def test_a_file_as_the_reference_writes_it(client, scale):
    arrays = model(seed=9, scale=scale)
    load(client, npz_file(arrays), prefix="m")
    assert saved(client, prefix="m") == save(arrays)
    for name, array in read_npz(saved(client, prefix="m", format="npz")).items():
        assert_same(array, arrays[name])


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_cast_on_the_way(client, format):
    arrays = {"a": np.linspace(-2, 2, 3_000_000), "b": np.arange(7)}
    load(client, save(arrays), prefix="m")
    read = read_safetensors if format == "safetensors" else read_npz
    got = read(saved(client, prefix="m", format=format, dtype="float32"))
    for name, array in arrays.items():
        assert_same(got[name], array.astype(np.float32))


def test_views_and_objects(client):
    load(client, save({"x": np.arange(12.0).reshape(3, 4)}), prefix="m")
    made = ok(client.request("transpose", {"input": "m/x", "dim0": 0, "dim1": 1}))
    got = read_safetensors(saved(client, tensors=f"t=@{made['id']}\nx=m/x"))
    assert_same(got["t"], np.arange(12.0).reshape(3, 4).T.copy())
    assert_same(got["x"], np.arange(12.0).reshape(3, 4))


def test_many_tensors(client):
    """More than the snapshot looks for at first."""
    arrays = {f"layer.{i:05}": np.array([i], np.int32) for i in range(3000)}
    load(client, save(arrays), prefix="m")
    assert saved(client, prefix="m") == save(arrays)


def test_only_what_is_below_the_prefix(client):
    for name in ("m", "m2/x", "m/x", "m/y/z", "n"):
        put(client, name, b"abc")
    assert read_safetensors(saved(client, prefix="m")).keys() == {"x", "y/z"}
    assert read_safetensors(saved(client, prefix="m/y")).keys() == {"z"}
    assert read_safetensors(saved(client)).keys() == {"m", "m2/x", "m/x", "m/y/z", "n"}
    refused(client.request("save", {"prefix": "m/x"}), "not_found", text="m/x")


def test_what_is_refused(client):
    load(client, npz_file({"c": np.ones(2, complex)}), prefix="m")
    refused(client.request("save", {"prefix": "m"}), "bad_dtype", text="'c'")
    refused(client.request("save", {"prefix": "m", "format": "x"}), "invalid", text="npz")
    refused(client.request("save", {"prefix": "m", "tensors": "m/c"}), "invalid", text="one of")
    refused(client.request("save", {"prefix": "m", "format": "npz", "metadata": "{}"}),
            "unsupported", text="metadata")  # fmt: skip
    refused(client.request("save", {"tensors": "a=@1"}), "not_found")
    refused(client.request("save", {}, b"body"), "invalid", text="no body")


def test_memory_that_is_being_filled(daemon):
    with daemon.connect() as client:
        filling = Filling(client, [3])
        refused(client.request("save", {"tensors": f"a={filling.ref}"}), "conflict")
        filling.close()


def test_many_at_a_time(client):
    """Replies that are computed come in their turn, whole."""
    arrays = {"a": np.linspace(-2, 2, 600_000), "b": np.arange(7)}
    load(client, save(arrays), prefix="m")
    file, half = save(arrays), save({n: a.astype(np.float16) for n, a in arrays.items()})
    wanted = []
    for _ in range(4):
        wanted.append((client.send("save", {"prefix": "m"}), file))
        wanted.append((client.send("save", {"prefix": "m", "dtype": "float16"}), half))
    for request, want in wanted:
        assert client.wait(request)[2] == want


def test_what_is_saved_can_be_loaded(client):
    """Metadata has the limit that it has in load, although a request has room for more."""
    load(client, save({"x": np.zeros(3)}), prefix="m")
    fits = json.dumps({"k": "v" * ((512 << 10) - 9)})
    assert len(fits) == 512 << 10
    reply, _ = load(client, saved(client, prefix="m", metadata=fits), prefix="n")
    assert json.loads(reply["metadata"]) == json.loads(fits)
    refused(client.request("save", {"prefix": "m", "metadata": fits + " "}),
            "too_large", text="524289 bytes")  # fmt: skip


def test_metadata(client):
    load(client, save({"x": np.ones(2)}), prefix="m")
    body = saved(client, prefix="m", metadata='{"a": "b"}')
    reply, _ = load(client, body, prefix="n")
    assert json.loads(reply["metadata"]) == {"a": "b"}
