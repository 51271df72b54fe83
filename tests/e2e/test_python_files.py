"""Client.load and Client.save: files of tensors, against the libraries that others use for them."""

import io
import json
import mmap
import os
import pathlib
import threading

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import tensord
from conftest import Daemon
from tensord import dtypes
from test_tensorctl import Ctl

NAMES = [dtype.name for dtype in dtypes.ALL]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def swept(client):
    yield
    for name in client.list():
        client.delete(name)


@pytest.fixture(params=["unix", "tcp"])
def any_client(request, client, tcp_client):
    return client if request.param == "unix" else tcp_client


def arrays():
    return {
        "layer.0/weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "layer.0/bias": np.array([1.5, -2], np.float16),
        "steps": np.array(7),
        "none": np.zeros((0, 3), bool),
    }


def npz_of(tensors, **how):
    out = io.BytesIO()
    np.savez(out, **tensors, **how)
    return out.getvalue()


def npy_of(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def same(tensor, array):
    """Bit for bit."""
    got = tensor.fetch()
    assert got.dtype == array.dtype and got.shape == array.shape
    assert got.tobytes() == np.ascontiguousarray(array).tobytes()


def all_same(loaded, tensors):
    assert set(loaded) == set(tensors)
    for key, array in tensors.items():
        same(loaded[key], array)


# ---- load ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_load(any_client, tmp_path, kind):
    data = safetensors.numpy.save(arrays()) if kind == "safetensors" else npz_of(arrays())
    path = tmp_path / f"x.{kind}"
    path.write_bytes(data)
    opened, stream = open(path, "rb"), io.BytesIO(data)
    mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    sources = [path, str(path), data, bytearray(data), memoryview(data), mapped, opened, stream]
    for source in sources:
        loaded = any_client.load(source, "m")
        all_same(loaded, arrays())
        assert loaded.names == {key: f"m/{key}" for key in arrays()}
        assert any_client.list() == sorted(loaded.names.values())
        for name in any_client.list():
            any_client.delete(name)
    opened.close()


def test_load_makes_views_over_one_memory(client):
    tensors = {"a": np.ones(50_000), "b": np.arange(50_000)}
    loaded = client.load(safetensors.numpy.save(tensors), "m")
    a, b = loaded["a"], loaded["b"]
    assert a.storage_id == b.storage_id and a.name == "m/a"
    assert not a.numpy().flags.writeable and a.memory == "shared"
    assert b.torch().tolist() == list(range(50_000))


@pytest.mark.parametrize("prefix, name", [("", "x"), ("p", "p/x"), ("p/", "p/x"), ("p/q", "p/q/x")])
def test_prefixes_of_load(client, prefix, name):
    loaded = client.load(npz_of({"x": np.ones(2)}), prefix)
    assert list(loaded) == ["x"] and loaded.names == {"x": name} and client.list() == [name]
    assert client.load(npz_of({"x": np.ones(2)}), prefix or None).names == {"x": name}
    alone = client.load(npy_of(np.arange(3)), "alone")
    assert alone.names == {"alone": "alone"} and alone["alone"].tolist() == [0, 1, 2]


def test_what_load_returns(client):
    data = safetensors.numpy.save(arrays(), {"format": "np", "ü": "\n"})
    loaded = client.load(data, "m")
    assert loaded.metadata == {"format": "np", "ü": "\n"}
    assert client.load(npz_of(arrays()), "n").metadata == {}
    assert len(loaded) == 4 and "steps" in loaded and "m/steps" not in loaded
    assert loaded.get("other") is None and "layer.0/bias" in repr(loaded)
    with pytest.raises(KeyError):
        loaded["other"]
    state = {key: tensor.torch() for key, tensor in loaded.items()}
    assert state["steps"].item() == 7
    client["m/steps"] = np.ones(1)
    with pytest.raises(tensord.Precondition, match="'m/steps' is no longer the tensor"):
        loaded["steps"]
    del client["m/steps"]
    with pytest.raises(tensord.NotFound):
        loaded["steps"]


def test_flags_of_load(client):
    data = npz_of({"a": np.ones(3), "b": np.zeros(2)})
    frozen = client.load(data, "m")["a"]
    with pytest.raises(tensord.Frozen):
        frozen.fill_(2)
    loaded = client.load(data, "m", mutable=True, requires_grad=True, ttl=1000)
    assert loaded["a"].requires_grad and loaded["b"].mode == "mutable"
    assert 990 < client.ttl("m/b") <= 1000
    with pytest.raises(tensord.Exists):
        client.load(npz_of({"new": np.ones(1), "b": np.ones(1)}), "m", create_only=True)
    assert client.list() == ["m/a", "m/b"] and client["m/b"].shape == (2,)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
def test_void_elements_are_what_load_is_told(client, name):
    array = np.arange(6).astype(getattr(ml_dtypes, name))
    for data in (npz_of({"x": array}), npy_of(array)):
        with pytest.raises(tensord.BadDtype, match=name):
            client.load(data, "v")
        loaded = client.load(data, "v", dtype=getattr(torch, name))
        (tensor,) = loaded.values()
        same(tensor, array)


TENSOR = torch.zeros(4, dtype=torch.uint8)
REFUSED = {
    "nothing": (b"", tensord.Invalid, "has no bytes"),
    "no file of tensors": (b"GGUF and more", tensord.Unsupported, "not recognised"),
    "another format": (npz_of({"a": np.ones(1)}), tensord.Invalid, "safetensors"),
    "trailing bytes": (safetensors.numpy.save({"a": np.ones(1)}) + b"x", tensord.Invalid, "bytes"),
    "F8_E8M0": (
        safetensors.torch.save({"a": TENSOR.view(torch.float8_e8m0fnu)}),
        tensord.BadDtype, "tensor 'a' has dtype 'F8_E8M0', which tensord has not",
    ),
    "F4": (
        safetensors.torch.save({"a": TENSOR.view(torch.float4_e2m1fn_x2)}),
        tensord.BadDtype, "tensor 'a' has dtype 'F4', which tensord has not",
    ),
    "text": (npz_of({"a": np.ones(1), "b": np.array(["x"])}), tensord.BadDtype, "b.npy"),
    "no name": (npy_of(np.ones(1)), tensord.Invalid, "prefix"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_load_refuses_and_changes_nothing(any_client, fault):
    data, error, says = REFUSED[fault]
    format = "safetensors" if fault == "another format" else None
    with pytest.raises(error, match=says):
        any_client.load(data, format=format)
    assert any_client.list() == []


def test_load_of_no_file(client, tmp_path):
    with pytest.raises(FileNotFoundError):
        client.load(tmp_path / "none.npz")
    with pytest.raises(TypeError):
        client.load(7)
    (tmp_path / "empty.npz").touch()
    with pytest.raises(tensord.Invalid, match="empty.npz"):
        client.load(tmp_path / "empty.npz")


def test_load_of_a_pipe(client, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    data = npz_of({"x": np.ones(100_000)})
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    assert client.load(tmp_path / "pipe", "p")["x"].shape == (100_000,)
    writer.join()


def test_a_file_that_becomes_shorter(any_client, tmp_path):
    """It cannot be sent, and nothing worse happens."""
    np.save(tmp_path / "x.npy", np.ones(MIB))
    with open(tmp_path / "x.npy", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        file.truncate(5000)
    with pytest.raises(tensord.ConnectionError):
        any_client.load(mapped, "x")
    assert any_client.list() == []


def test_a_client_that_ends_within_a_load(client, daemon, usage):
    """What has not arrived as a whole changes nothing."""
    before = usage.now()
    other = tensord.connect(daemon.tcp_url, timeout=0.2)
    stuck = memoryview(safetensors.numpy.save({"a": np.ones(MIB)}))
    daemon.process.send_signal(19)  # SIGSTOP
    try:
        with pytest.raises(tensord.Deadline):
            other.load(stuck, "stuck")
    finally:
        daemon.process.send_signal(18)  # SIGCONT
    other.close()
    usage.settles_at(before)
    assert client.list() == []


def test_a_load_may_take_longer_than_other_calls(daemon):
    data = npz_of({"x": np.ones(MIB)})
    with tensord.connect(daemon.url, timeout=0.2) as other:
        daemon.process.send_signal(19)  # SIGSTOP
        threading.Timer(1, daemon.process.send_signal, [18]).start()
        loaded = other.load(data, "later", timeout=60)
        assert loaded.names == {"x": "later/x"}
        for method in (other.load, other.save):
            with pytest.raises(ValueError, match="timeout is a time"):
                method(io.BytesIO(data), timeout=-1)


# ---- save ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_save_of_a_prefix(any_client, tmp_path, kind):
    any_client.update((f"m/{key}", array) for key, array in arrays().items())
    any_client["mother"] = np.ones(1)
    path = tmp_path / f"x.{kind}"
    read = safetensors.numpy.load_file if kind == "safetensors" else np.load
    for prefix in ("m", "m/"):
        any_client.save(path, prefix)
        found = read(path)
        assert set(found) == set(arrays())
        for key, array in arrays().items():
            assert found[key].dtype == array.dtype and np.array_equal(found[key], array)
        assert os.listdir(tmp_path) == [path.name]
        path.unlink()


@pytest.mark.parametrize("name", NAMES)
def test_every_dtype_there_and_back(client, tmp_path, name):
    values = torch.arange(12, dtype=torch.float32).to(getattr(torch, name)).reshape(3, 4)
    raw = values.view(torch.uint8).numpy().tobytes()
    client["d/x"] = values
    for kind in ("safetensors", "npz", "npy"):
        path = tmp_path / f"x.{kind}"
        if kind == "safetensors" and name == "complex128":
            with pytest.raises(tensord.BadDtype, match="complex128"):
                client.save(path, "d")
            assert os.listdir(tmp_path) == []
            continue
        client.save(path, "d")
        if kind == "safetensors":
            theirs = safetensors.torch.load_file(path)["x"]
            assert theirs.dtype == values.dtype
            assert theirs.view(torch.uint8).numpy().tobytes() == raw
        else:
            theirs = np.load(path)["x"] if kind == "npz" else np.load(path)
            assert theirs.shape == (3, 4) and theirs.tobytes() == raw
        (back,) = client.load(path, "back", dtype=name).values()
        assert back.dtype == name and back.tobytes() == raw


def test_save_writes_the_bytes_of_the_package(client, tmp_path):
    tensors = {key: torch.from_numpy(array) for key, array in arrays().items()}
    client.update((f"m/{key}", tensor) for key, tensor in tensors.items())
    client.save(tmp_path / "ours", "m", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == safetensors.torch.save(tensors, {"format": "pt"})
    assert client.load(tmp_path / "ours", "again").metadata == {"format": "pt"}


def test_save_of_named_tensors(client, tmp_path):
    client["a"], x = np.arange(3), client.ones(2, 2)
    client.save(tmp_path / "x.npz", tensors={"k": "a", "h": x, "new": np.eye(2), "list": [1, 2]})
    found = np.load(tmp_path / "x.npz")
    assert {key: found[key].tolist() for key in found} == {
        "k": [0, 1, 2], "h": [[1, 1], [1, 1]], "new": [[1, 0], [0, 1]], "list": [1, 2],
    }  # fmt: skip
    client.save(tmp_path / "x.npz", tensors=["a"])
    assert list(np.load(tmp_path / "x.npz")) == ["a"]
    client.save(tmp_path / "a.npy", tensors=["a"])
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
    for bad, error in ((["none"], tensord.NotFound), ("a", TypeError), ({"a=": x}, ValueError),
                       ({"a\n": x}, ValueError), ({}, tensord.Error), ({"": x}, ValueError),
                       (x, TypeError), ([x], TypeError), ({1: x}, TypeError)):  # fmt: skip
        with pytest.raises(error) as raised:
            client.save(tmp_path / "bad", tensors=bad)
        assert error is not TypeError or "tensors are names" in str(raised.value)
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "x.npz"]


def test_save_of_names_with_an_equals_sign(client, tmp_path):
    client["a=b"] = np.arange(3)
    client.save(tmp_path / "x.npz", tensors=["a=b"])
    assert np.load(tmp_path / "x.npz")["a=b"].tolist() == [0, 1, 2]
    client.save(tmp_path / "x.npz", tensors={"a": "a=b"})
    assert list(np.load(tmp_path / "x.npz")) == ["a"]


def test_save_of_views(client, tmp_path):
    x = client.arange(12).view(3, 4)
    client.save(tmp_path / "x.npz", tensors={"t": x.T, "s": x[1:, ::2], "e": x[0].expand(2, 4)})
    found = np.load(tmp_path / "x.npz")
    theirs = np.arange(12).reshape(3, 4)
    assert np.array_equal(found["t"], theirs.T) and np.array_equal(found["s"], theirs[1:, ::2])
    assert np.array_equal(found["e"], np.broadcast_to(theirs[0], (2, 4)))


def test_save_casts(client, tmp_path):
    client["x"] = np.array([1.5, 1000.0, np.nan])
    client.save(tmp_path / "x.npy", tensors=["x"], dtype="float16")
    assert np.load(tmp_path / "x.npy").dtype == np.float16
    for saturate, largest in ((True, 448.0), (False, np.nan)):
        client.save(tmp_path / "x", tensors=["x"], dtype="float8_e4m3fn", saturate=saturate)
        found = safetensors.torch.load_file(tmp_path / "x")["x"].float().numpy()
        assert np.array_equal(found, [1.5, largest, np.nan], equal_nan=True)
    with pytest.raises(tensord.BadDtype):
        client.save(tmp_path / "y", tensors=["x"], dtype="int8", casting="safe")
    assert "y" not in os.listdir(tmp_path)


def test_save_of_variables(client, tmp_path):
    client.put("v", np.ones(2), requires_grad=True)
    client.save(tmp_path / "x.safetensors", tensors=["v"])
    for ending in ("npz", "npy"):
        with pytest.raises(tensord.RequiresGrad, match="Can't call numpy"):
            client.save(tmp_path / f"x.{ending}", tensors=["v"])
        client.save(tmp_path / f"x.{ending}", tensors=["v"], force=True)


def test_metadata_are_texts(client, tmp_path):
    client["x"] = np.ones(1)
    with pytest.raises(TypeError):
        client.save(tmp_path / "x", tensors=["x"], metadata={"a": 1})
    with pytest.raises(TypeError, match="metadata are texts by name, not list"):
        client.save(tmp_path / "x", tensors=["x"], metadata=["a"])
    odd = {"ü€😀": '"\\\n\x01', "": ""}
    client.save(tmp_path / "x", tensors=["x"], metadata=odd)
    with safetensors.safe_open(tmp_path / "x", "np") as file:
        assert file.metadata() == odd


def test_what_a_request_has_no_room_for(client, tmp_path):
    """It is refused here: for the daemon it is no request, and the session would end."""
    x, session = client.ones(1), client.session.count()
    half, whole = 530_000, 1_060_000
    parts = {"metadata": {"k": "v" * half}, "tensors": {"n" * half: x}}
    for more in ({"metadata": {"k": "v" * whole}}, {"tensors": {"n" * whole: x}}, parts):
        with pytest.raises(tensord.Invalid, match="a request has room for 1048576"):
            client.save(tmp_path / "x", **{"tensors": {"x": x}, **more})
    assert x.tolist() == [1] and client.session.count() == session
    assert os.listdir(tmp_path) == []


def test_large_metadata_and_many_names(client, tmp_path):
    """As trainers write: what they counted in a text, and thousands of tensors."""
    metadata = {"tag_frequency": "tag: 1, " * 60_000}
    names = {f"model.layers.{i}.self_attn.q_proj.lora_down.weight": f"{i}" for i in range(8_000)}
    client.load(safetensors.numpy.save({f"{i}": np.array([i]) for i in range(8_000)}))
    client.save(tmp_path / "x.safetensors", tensors=names, metadata=metadata)
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == metadata and set(file.keys()) == set(names)
        assert file.get_tensor("model.layers.77.self_attn.q_proj.lora_down.weight") == [77]
    assert client.load(tmp_path / "x.safetensors", "again").metadata == metadata


def test_a_saved_file_is_there_whole_or_not_at_all(client, tmp_path):
    client["x"] = np.ones(3)
    path = tmp_path / "x.npz"
    path.write_bytes(b"before")
    path.chmod(0o640)
    with pytest.raises(tensord.NotFound, match="no tensors below 'none/'"):
        client.save(path, "none")
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["x.npz"]
    client.save(path, tensors=["x"])
    assert list(np.load(path)) == ["x"] and path.stat().st_mode & 0o777 == 0o640
    (tmp_path / "link.npz").symlink_to("x.npz")
    client.save(tmp_path / "link.npz", tensors={"y": "x"})
    assert (tmp_path / "link.npz").is_symlink() and list(np.load(path)) == ["y"]
    with pytest.raises(FileNotFoundError):
        client.save(tmp_path / "none/x.npz", tensors=["x"])
    with pytest.raises(tensord.Invalid, match="cannot be written"):
        client.save("/dev/full", tensors=["x"])
    client.save("/dev/null", tensors=["x"])
    assert client["x"].tolist() == [1, 1, 1]  # the session is the same


def test_save_of_nothing(client, tmp_path):
    with pytest.raises(tensord.NotFound, match="there are no tensors to save"):
        client.save(tmp_path / "x.npz")
    assert os.listdir(tmp_path) == []


def test_save_to_paths_with_long_names(client, tmp_path):
    client["x"] = np.ones(3)
    for name in ("ü" * 125 + ".npz", "x" * 255, "€" * 85):
        client.save(tmp_path / name, tensors=["x"])
        assert os.listdir(tmp_path) == [name]
        (tmp_path / name).unlink()


def test_errors_name_the_path_that_was_given(client, tmp_path):
    client["x"] = np.ones(3)
    with pytest.raises(FileNotFoundError) as raised:
        client.save(tmp_path / "none/x.npz", tensors=["x"])
    assert raised.value.filename == str(tmp_path / "none/x.npz")
    for folder in (str(tmp_path), f"{tmp_path}/", f"{tmp_path}/new/"):
        with pytest.raises(IsADirectoryError) as raised:
            client.save(folder, tensors=["x"])
        assert raised.value.filename == folder
    assert os.listdir(tmp_path) == []


def test_save_into_a_pipe_by_its_path(client):
    """As bash names one in `python script.py >(gzip > x)`."""
    client["x"] = np.ones(3)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader:
        client.save(f"/dev/fd/{write_end}", tensors=["x"], format="npy")
        os.close(write_end)
        assert np.load(io.BytesIO(reader.read())).tolist() == [1, 1, 1]


def test_save_into_open_files(any_client):
    any_client["x"] = np.ones(3)
    out = io.BytesIO()
    any_client.save(out, tensors=["x"], format="npz")
    assert np.load(io.BytesIO(out.getvalue()))["x"].tolist() == [1, 1, 1]


class Drop(io.RawIOBase):
    """A file that takes 1000 bytes at a time, as those without a buffer may."""

    def __init__(self):
        self.data = b""

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data[:1000])
        return min(len(data), 1000)


def test_save_into_files_that_take_a_part(client):
    client["x"] = np.arange(1000)
    drop = Drop()
    client.save(drop, tensors=["x"], format="npy")
    assert np.array_equal(np.load(io.BytesIO(drop.data)), np.arange(1000))


def test_save_into_a_pipe_that_does_not_wait_and_is_full(client):
    """It takes nothing, and says None: that is no success."""
    client["x"] = np.zeros(MIB)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb"), open(writing, "wb", buffering=0) as pipe:
        with pytest.raises(BlockingIOError):
            client.save(pipe, tensors=["x"], format="npy")


@pytest.mark.parametrize("target", [b"x.npz", 5, None])
def test_save_into_what_is_no_file(client, target):
    client["x"] = np.ones(3)
    with pytest.raises(TypeError, match="expected a path or an open binary file, not"):
        client.save(target, tensors=["x"])


@pytest.mark.parametrize("way", ["python", "tensorctl"])
def test_a_list_that_is_cut_short_is_no_success(tmp_path, way):
    """Memory for the reply is missing when all tensors are stored: whoever counts on it is told."""
    many, count = tmp_path / "many.safetensors", 20_000
    one = np.zeros((1,) * 24, "u1")  # what is told of it is long
    safetensors.numpy.save_file({f"t{i}": one for i in range(count)}, many)

    def load(limit):
        """What it said, and the most memory that the daemon had; None where it did not load."""
        daemon = Daemon("--memory-limit", str(limit))
        try:
            with tensord.connect(daemon.url) as c:
                said = ""
                if way == "tensorctl":
                    said = Ctl(daemon.url).any("load", many, "--prefix", "m").stderr.decode()
                else:
                    try:
                        assert len(c.load(many, "m")) == count
                    except tensord.OutOfMemory as error:
                        said = str(error)
                return said if len(c) == count else None, c.stats()["memory_peak_bytes"]
        finally:
            daemon.stop()

    said, needed = load(256 << 20)
    assert said is not None and "are stored, but" not in said
    for less in range(8, 24):  # answers may go over the limit, by 8 MiB
        said, _peak = load(needed - (less << 20))
        if said is not None and "stored, but" in said:
            break
    assert f"all {count} tensors of the file are stored, but" in (said or "")


# ---- the daemon's own files ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def reading_daemon(folders):
    running = Daemon(
        "--memory-limit", "1GiB", "--load-dir", str(folders[0]), "--save-dir", str(folders[1])
    )
    yield running
    running.stop()


def test_the_daemon_reads_and_writes_files_itself(reading_daemon, folders, client):
    read, written = folders
    safetensors.numpy.save_file(arrays(), read / "x.safetensors", {"k": "v"})
    with tensord.connect(reading_daemon.tcp_url) as c:
        for path in (read / "x.safetensors", "x.safetensors"):
            loaded = c.load(path, "m", by_daemon=True)
            all_same(loaded, arrays())
            assert loaded.metadata == {"k": "v"}
        c.save(written / "y.npz", "m", by_daemon=True)
        assert set(np.load(written / "y.npz")) == set(arrays())
        c.save("z.safetensors", "m", by_daemon=True, metadata={"k": "v"})
        assert (written / "z.safetensors").read_bytes() == (read / "x.safetensors").read_bytes()
        for outside in ("/etc/passwd", read / "../x", written / "y.npz"):
            with pytest.raises((tensord.Forbidden, tensord.NotFound)):
                c.load(outside, by_daemon=True)
        with pytest.raises(tensord.Forbidden):
            c.save(read / "z.npz", "m", by_daemon=True)
        with pytest.raises(tensord.NotFound):
            c.load("none.npz", by_daemon=True)
    client["x"] = np.ones(1)
    for method in (client.load, client.save):
        with pytest.raises(tensord.Forbidden, match="-dir"):
            method("x.safetensors", by_daemon=True)
    assert isinstance(tensord.Forbidden(), PermissionError)


# ---- a real model --------------------------------------------------------------------------------


def test_a_model_there_and_back(any_client, weights, tmp_path):
    """Every bit of 90 MB, in one request each way."""
    loaded = any_client.load(weights, "model")
    theirs = safetensors.numpy.load_file(weights)
    with safetensors.safe_open(weights, "np") as file:
        assert loaded.metadata == (file.metadata() or {})
    assert len({tensor.storage_id for tensor in loaded.values()}) == 1
    for key, array in theirs.items():
        got = loaded[key].fetch() if array.nbytes < 65536 else loaded[key].numpy()
        assert got.dtype == array.dtype and got.tobytes() == array.tobytes(), key
    any_client.save(tmp_path / "back.safetensors", "model", metadata=loaded.metadata)
    safetensors.torch.save_file(
        safetensors.torch.load_file(weights), tmp_path / "theirs.safetensors", loaded.metadata
    )
    ours, reference = tmp_path / "back.safetensors", tmp_path / "theirs.safetensors"
    assert ours.read_bytes() == reference.read_bytes()


def test_a_model_into_pytorch(client, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.BatchNorm1d(200))
    client.put_state_dict("m", model.state_dict())
    client.save(tmp_path / "m.safetensors", "m", metadata={"format": "pt"})
    other = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.BatchNorm1d(200))
    loaded = client.load(pathlib.Path(tmp_path / "m.safetensors"), "again")
    other.load_state_dict({key: tensor.torch() for key, tensor in loaded.items()})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    assert json.dumps(loaded.metadata) == '{"format": "pt"}'
