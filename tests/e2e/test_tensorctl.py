"""tensorctl: each command against a daemon, its formats both ways, its errors and exit codes."""

import json
import os
import pathlib
import subprocess

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 60
DTYPES = [
    np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64,
    np.float16, np.float32, np.float64, np.complex64, np.complex128,
]  # fmt: skip


def binary():
    daemon = os.environ.get("TENSORD_BIN") or str(ROOT / "build/dev/tensord")
    path = pathlib.Path(daemon).parent / "client/cli/tensorctl"
    if not os.access(path, os.X_OK):
        pytest.skip(f"no tensorctl: build it beside the daemon (looked for {path})")
    return str(path)


def environment(url, **more):
    """Without the settings of a tensord that the developer uses, and without colours' switches."""
    dropped = ("TENSORD_", "NO_COLOR")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {**kept, "TERM": "xterm", "TENSORD_URL": url, **more}


class Ctl:
    """Runs tensorctl; each call is a process."""

    def __init__(self, url):
        self.url = url

    def __call__(self, *words, data=b"", code=0, env=None, cwd=None):
        """Asserts the exit code; the CompletedProcess has bytes."""
        done = subprocess.run([binary(), *map(str, words)], input=data, capture_output=True,
                              timeout=PATIENCE_S, env=environment(self.url, **(env or {})),
                              cwd=cwd)  # fmt: skip
        assert b"Sanitizer" not in done.stderr, done.stderr.decode()
        assert done.returncode == code, (words, done.returncode, done.stderr.decode())
        return done

    def any(self, *words):
        """Whatever the exit code."""
        return subprocess.run([binary(), *map(str, words)], capture_output=True,
                              timeout=PATIENCE_S, env=environment(self.url))  # fmt: skip

    def text(self, *words, **how):
        """What it prints to standard output."""
        return self(*words, **how).stdout.decode()

    def json(self, *words, **how):
        return json.loads(self(*words, "--json", **how).stdout)

    def refuses(self, *words, code, **how):
        """What it says to standard error; nothing else is printed."""
        done = self(*words, code=code, **how)
        assert done.stdout == b""
        return done.stderr.decode()


@pytest.fixture
def ctl(daemon, client):
    yield Ctl(daemon.url)
    for name in list(client.keys()):
        client.delete(name)


# ---- ls, info, show ------------------------------------------------------------------------------


@pytest.fixture
def model(client):
    client["model/layer.0.weight"] = np.ones((10, 200), np.float32)
    client["model/layer.0.bias"] = np.zeros(10, np.float16)
    client["model/layer.1.weight"] = np.ones((10, 10), np.float32)
    client.put("other", np.arange(3), mutable=True)
    client.variable("grad", np.ones(2, np.float32), requires_grad=True)


def test_ls_in_a_pipe_is_lines_with_tabs(ctl, model):
    assert ctl.text("ls").split("\n") == [
        "grad\tfloat32\t[2]\t8 B\tcpu\tmutable\tgrad",
        "model/layer.0.bias\tfloat16\t[10]\t20 B\tcpu\tfrozen\t",
        "model/layer.0.weight\tfloat32\t[10, 200]\t7.8 KiB\tcpu\tfrozen\t",
        "model/layer.1.weight\tfloat32\t[10, 10]\t400 B\tcpu\tfrozen\t",
        "other\tint64\t[3]\t24 B\tcpu\tmutable\t",
        "",
    ]
    assert "\t8000\t" in ctl.text("ls", "--bytes", "model/layer.0.w")


@pytest.mark.parametrize(
    "options, expected",
    [
        (["model/"], ["layer.0.bias", "layer.0.weight", "layer.1.weight"]),
        (["--dtype", "f2"], ["layer.0.bias"]),
        (["--dtype=torch.float16"], ["layer.0.bias"]),
        (["--kind", "variable"], ["grad"]),
        (["--kind", "tensor", "o"], ["other"]),
        (["--min-size", "1kB"], ["layer.0.weight"]),
        (["--min-size", "400"], ["layer.0.weight", "layer.1.weight"]),
        (["--glob", "*.weight"], ["layer.0.weight", "layer.1.weight"]),
        (["--glob", "*.[1-9].*"], ["layer.1.weight"]),
        (["--device", "cuda"], []),
        (["--device", "cpu", "g"], ["grad"]),
        (["nothing"], []),
    ],
)
def test_ls_filters(ctl, model, options, expected):
    names = ctl.text("ls", "--names", *options).split()
    assert [name.removeprefix("model/") for name in names] == expected


def test_ls_goes_through_all_pages(ctl, client):
    small = np.zeros(1, np.uint8)
    names = sorted(f"many/{i}" for i in range(1100))
    client["many/0"] = small
    for name in names[1:]:
        client["many/0"].save(name)
    assert ctl.text("ls", "-1", "many/").split() == names
    assert [entry["name"] for entry in ctl.json("ls")] == names


def test_ls_json_is_exact(ctl, model, client):
    for entry in ctl.json("ls"):
        info = client.info(entry["name"])
        assert entry["nbytes"] == info.nbytes and entry["id"] == info.id
        assert entry["generation"] == info.generation
        assert tuple(entry["shape"]) == tuple(info.shape)
    assert ctl.json("ls", "nothing") == []


def test_info_shows_every_field(ctl, client):
    client["folder/x"] = np.ones((2, 3), np.float32)
    lines = dict(line.split(None, 1) for line in ctl.text("info", "folder/x").splitlines())
    document = ctl.json("info", "folder/x")
    assert set(lines) == set(document)
    assert lines["name"] == "folder/x" and lines["shape"] == "[2, 3]"
    assert lines["generation"] == str(document["generation"])
    assert document["strides"] == [3, 1] and document["nbytes"] == 24
    client["y"] = np.ones(1)
    assert [entry["name"] for entry in ctl.json("info", "y", "folder/x")] == ["y", "folder/x"]


@pytest.mark.parametrize("index", ["", "[0]", "[0, 1:3]", "[..., ::2]", "[None, -1]", "[:, 1]"])
def test_show_prints_as_pytorch(ctl, client, index):
    array = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
    client["w"] = array
    expected = eval(f"tensor{index}", {"tensor": torch.from_numpy(array)})
    assert ctl.text("show", f"w{index}") == f"{expected!r}\n"


def test_show_json_has_the_exact_values(ctl, client):
    array = np.array([[2**63 - 1, -(2**63)], [0, 1]])
    client["big"] = array
    assert ctl.json("show", "big[:, 0]") == {"dtype": "int64", "shape": [2], "data": [2**63 - 1, 0]}
    floats = np.array([0.1, np.nan, -np.inf, 5e-324, -0.0])
    client["floats"] = floats
    data = ctl.json("show", "floats")["data"]
    assert data == [0.1, "NaN", "-Infinity", 5e-324, 0.0] and str(data[4]) == "-0.0"
    assert [each["name"] for each in ctl.json("show", "big", "floats")] == ["big", "floats"]


def test_a_name_may_end_with_a_bracket(ctl, client):
    client["odd[0]"] = np.arange(2)
    assert ctl.text("show", "odd[0][]") == "tensor([0, 1])\n"
    assert ctl.text("show", "odd[0][1]") == "tensor(1)\n"
    assert "no tensor is named 'odd'" in ctl.refuses("show", "odd[0]", code=3)
    assert "'a'" in ctl.refuses("show", "odd[a]", code=2)


def test_show_leaves_nothing_behind(ctl, client, usage):
    client["w"] = np.arange(4)
    before = usage.now()
    ctl("show", "w[1:]")
    usage.settles_at(before)


# ---- put -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_npy_both_ways(ctl, client, tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    ctl("put", "x", tmp_path / "x.npy")
    stored = client["x"].numpy()
    assert stored.dtype == array.dtype and np.array_equal(stored, array)
    ctl("get", "x", "-o", tmp_path / "y.npy")
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "x.npy").read_bytes()


@pytest.mark.parametrize("dtype", [">f4", ">i2", ">c16", "<f8"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 7), (6,), (2, 0, 3)])
def test_put_takes_fortran_order_and_big_endian(ctl, client, tmp_path, dtype, shape):
    array = np.asfortranarray(np.arange(np.prod(shape)).reshape(shape).astype(dtype))
    np.save(tmp_path / "x.npy", array)
    ctl("put", "x", tmp_path / "x.npy")
    stored = client["x"].numpy()
    assert stored.shape == shape and np.array_equal(stored, array)


def test_bfloat16_of_numpy_needs_to_be_named(ctl, client, tmp_path):
    array = np.arange(5).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "x.npy", array)
    assert "V2" in ctl.refuses("put", "x", tmp_path / "x.npy", code=1)
    ctl("put", "x", tmp_path / "x.npy", "--dtype", "bfloat16")
    assert client["x"].torch().dtype == torch.bfloat16
    done = ctl("get", "x", "--format", "npy", "-o", tmp_path / "y.npy")
    assert "NumPy has no bfloat16" in done.stderr.decode()
    assert np.array_equal(np.load(tmp_path / "y.npy").view(ml_dtypes.bfloat16), array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_members_become_names(ctl, client, tmp_path, save):
    arrays = {"a": np.eye(3), "sub/b": np.arange(5), "s": np.array(2.5, np.float32)}
    save(tmp_path / "z.npz", **arrays)
    ctl("put", "z", tmp_path / "z.npz")
    assert client.list() == ["z/a", "z/s", "z/sub/b"]
    for name, array in arrays.items():
        assert np.array_equal(client[f"z/{name}"].numpy(), array)
    ctl("get", "--prefix", "z/", "-o", tmp_path / "back.npz")
    back = np.load(tmp_path / "back.npz")
    assert {name: back[name].dtype for name in back} == {n: a.dtype for n, a in arrays.items()}
    assert all(np.array_equal(back[name], array) for name, array in arrays.items())


def test_safetensors_of_one_and_of_several(ctl, client, tmp_path):
    weights = {
        "layer.0.weight": torch.randn(3, 5, dtype=torch.bfloat16),
        "layer.0.bias": torch.arange(7),
        "f8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
    }
    safetensors.torch.save_file(weights, tmp_path / "m.safetensors")
    ctl("put", "m", tmp_path / "m.safetensors")
    assert client.list() == ["m/f8", "m/layer.0.bias", "m/layer.0.weight"]
    ctl("get", "-p", "m/", "-o", tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == (
        tmp_path / "m.safetensors"
    ).read_bytes()
    safetensors.numpy.save_file({"key": np.arange(3)}, tmp_path / "one.safetensors")
    ctl("put", "one", tmp_path / "one.safetensors")
    ctl("put", "in/", tmp_path / "one.safetensors")
    assert client.list("one") == ["one"] and client.list("in") == ["in/key"]


def test_raw_bytes(ctl, client, tmp_path):
    array = np.arange(6, dtype=np.int16)
    (tmp_path / "x.raw").write_bytes(array.tobytes())
    ctl("put", "x", tmp_path / "x.raw", "--dtype", "int16", "--shape", "2,3")
    assert np.array_equal(client["x"].numpy(), array.reshape(2, 3))
    ctl("put", "flat", "-", "--dtype", "i2", data=array.tobytes())
    assert np.array_equal(client["flat"].numpy(), array)
    assert ctl("get", "x[1]", "--format", "raw").stdout == array[3:].tobytes()
    assert "--dtype" in ctl.refuses("put", "y", tmp_path / "x.raw", code=1)
    said = ctl.refuses("put", "y", tmp_path / "x.raw", "--dtype", "int16", "--shape", "4", code=1)
    assert "has 12 bytes, and int16 of shape [4] takes 8" in said
    assert "y" not in client


def test_json_both_ways(ctl, client):
    for text, dtype in (
        ('{"dtype": "int64", "shape": [2], "data": [1, 9007199254740993]}', np.int64),
        ('{"shape": [2], "data": [1, 9007199254740993], "dtype": "uint64"}', np.uint64),
        ("[[1, 2], [3, 4]]", np.int64),
        ("[0.1, 2]", np.float32),
        ("[true, false]", np.bool_),
    ):
        ctl("put", "x", "-", data=text.encode())
        stored = client["x"].numpy()
        assert stored.dtype == dtype
        document = ctl.json("get", "x")
        assert document["dtype"] == stored.dtype.name
        assert np.array_equal(np.array(document["data"], dtype), stored)
    ctl("put", "x", "-", "--dtype", "float64", data=b"[0.1]")
    assert client["x"].numpy()[0] == 0.1
    assert "standard input: " in ctl.refuses("put", "x", "-", data=b"[1, [2]]", code=1)


def test_put_says_how(ctl, client, tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3, np.float32))
    done = ctl("put", "x", tmp_path / "x.npy")
    assert done.stdout == b"" and done.stderr == b"x: float32 [3], 12 B\n"
    assert client.info("x").mode == "frozen"
    document = ctl.json("put", "m", tmp_path / "x.npy", "--mutable", "-q")
    assert document["name"] == "m" and document["mode"] == "mutable"
    ctl("put", "v", tmp_path / "x.npy", "--requires-grad")
    assert client["v"].requires_grad
    assert "taken" in ctl.refuses("put", "v", tmp_path / "x.npy", "--create-only", code=5)
    assert client["v"].requires_grad


@pytest.mark.parametrize("flags", [[], ["--mutable"], ["--requires-grad"]])
def test_put_casts(ctl, client, tmp_path, flags):
    array = np.array([1.5, -2.7, 300.0])
    np.save(tmp_path / "x.npy", array)
    ctl("put", "x", tmp_path / "x.npy", "--dtype", "float16", *flags)
    info = client.info("x")
    assert np.array_equal(client["x"].detach().numpy(), array.astype(np.float16))
    assert info.mode == ("mutable" if "--mutable" in flags else "frozen")
    assert info.requires_grad == ("--requires-grad" in flags)
    assert client["x"].is_leaf
    np.savez(tmp_path / "z.npz", a=array, b=np.arange(3))
    ctl("put", "z", tmp_path / "z.npz", "--dtype", "int32", *flags)
    assert [client[name].numpy(force=True).tolist() for name in ("z/a", "z/b")] == [
        [1, -2, 300],
        [0, 1, 2],
    ]


def test_several_tensors_are_stored_or_none(ctl, client, tmp_path, usage):
    np.savez(tmp_path / "z.npz", a=np.ones(100000), b=np.arange(50000))
    client["bad/b"] = np.zeros(1)
    before = usage.now()
    damaged = bytearray((tmp_path / "z.npz").read_bytes())
    damaged[-300000] ^= 1  # within b: the checksum is wrong
    assert "z" in ctl.refuses("put", "bad", "-", data=bytes(damaged), code=1)
    ctl.refuses("put", "bad", tmp_path / "z.npz", "--create-only", code=5)
    assert client.list() == ["bad/b"] and client["bad/b"].numpy().size == 1
    names = {"a": np.ones(2), "b//c": np.ones(2)}
    safetensors.numpy.save_file(names, tmp_path / "names.safetensors")
    assert "'bad/b//c'" in ctl.refuses("put", "bad", tmp_path / "names.safetensors", code=1)
    assert client.list() == ["bad/b"]
    usage.settles_at(before)


@pytest.mark.parametrize(
    "content, words, said",
    [
        (b"", [], "no format"),
        (b"", ["--format", "npy"], "middle of its npy header"),
        (b"", ["--format", "npz"], "is empty"),
        (b"", ["--format", "safetensors"], "middle of its safetensors header"),
        (b"", ["--format", "json"], "the document is empty"),
        (b"hello", [], "no format"),
        (b"\x93NUMPY\x01\x00\xff", ["--format", "npy"], "header"),
        (b"PK\x03\x04nothing", [], "npz"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{", [], "header"),
        (b"{", ["--format", "json"], "before the '}'"),
        (b"x", ["--format", "text"], "is not read back"),
    ],
)
def test_put_refuses_what_it_cannot_read(ctl, client, tmp_path, content, words, said):
    (tmp_path / "file").write_bytes(content)
    assert said in ctl.refuses("put", "x", tmp_path / "file", *words, code=1)
    assert "x" not in client


def test_put_refuses_a_cut_file(ctl, client, tmp_path):
    np.save(tmp_path / "x.npy", np.ones(1000))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-1])
    said = ctl.refuses("put", "x", tmp_path / "x.npy", code=1)
    assert "7999 bytes of elements, and its header announces 8000" in said
    ctl.refuses("put", "x", tmp_path / "nowhere.npy", code=1)
    assert "x" not in client


# ---- get -----------------------------------------------------------------------------------------


def test_get_of_slices_and_casts(ctl, client, tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(4, 6) / 5
    client["w"] = array
    ctl("get", "w[1:3, ::2]", "--dtype", "int8", "-o", tmp_path / "s.npy")
    assert np.array_equal(np.load(tmp_path / "s.npy"), array[1:3, ::2].astype(np.int8))
    ctl("get", "w[0]", "w[1]", "w", "-o", tmp_path / "s.npz")
    back = np.load(tmp_path / "s.npz")
    assert np.array_equal(back["w[1]"], array[1]) and np.array_equal(back["w"], array)
    assert ctl.text("get", "w[0]", "-o", "-", "--format", "text") == f"{torch.tensor(array[0])}\n"


@pytest.mark.parametrize(
    "shape",
    [(2, 3 << 19), (1, 1, 3 << 20), (3 << 20,), (1500, 7, 300), (3, 2, 1 << 19), (0, 5), ()],
)
def test_get_in_pieces(ctl, client, tmp_path, shape):
    """Large tensors come piece by piece, which must not show."""
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8).astype(np.float64)
    client["big"] = array
    ctl("get", "big", "-o", tmp_path / "big.npy")
    back = np.load(tmp_path / "big.npy")
    assert back.shape == shape and np.array_equal(back, array)
    if array.ndim > 1:
        client["turned"] = client["big"].transpose(0, array.ndim - 1)
        raw = ctl("get", "turned", "--format", "raw", "--dtype", "uint8").stdout
        assert raw == array.swapaxes(0, -1).astype(np.uint8).tobytes()


def test_get_writes_whole_files_only(ctl, client, tmp_path):
    client["x"] = np.ones(3)
    client["c"] = np.ones(3, np.complex128)
    target = tmp_path / "x.npy"
    target.write_text("old")
    target.chmod(0o640)
    link = tmp_path / "link.npy"
    link.symlink_to(target)
    ctl.refuses("get", "missing", "-o", target, code=3)
    assert target.read_text() == "old"
    said = ctl.refuses("get", "x", "c", "-o", tmp_path / "c.safetensors", code=1)
    assert "complex128" in said
    assert sorted(os.listdir(tmp_path)) == ["link.npy", "x.npy"]
    ctl("get", "x", "-o", link)
    assert link.is_symlink() and np.array_equal(np.load(target), np.ones(3))
    assert target.stat().st_mode & 0o777 == 0o640
    ctl("get", "x", "-o", "/dev/null", "--format", "npy")
    assert not os.path.isfile("/dev/null")
    assert "nowhere" in ctl.refuses("get", "x", "-o", tmp_path / "nowhere/x.npy", code=1)


def test_get_and_put_in_a_pipe(ctl, client, tmp_path):
    array = np.arange(100000).reshape(100, 1000)
    client["x"] = array
    for form in ("npy", "safetensors"):
        line = f"{binary()} get x -o - --format {form} | {binary()} put y-{form} -"
        subprocess.run(["bash", "-o", "pipefail", "-c", line], check=True, timeout=PATIENCE_S,
                       env=environment(ctl.url))  # fmt: skip
        assert np.array_equal(client[f"y-{form}"].numpy(), array)


def test_get_refuses_what_does_not_fit_together(ctl, client):
    client["x"] = client["y"] = np.ones(1)
    assert "npy holds one tensor" in ctl.refuses("get", "x", "y", "--format", "npy", code=2)
    assert "named twice" in ctl.refuses("get", "x", "x", code=2)
    assert "names, or --prefix" in ctl.refuses("get", code=2)
    assert "names, or --prefix" in ctl.refuses("get", "x", "-p", "x", code=2)
    assert "no format 'npx'" in ctl.refuses("get", "x", "--format", "npx", code=2)
    assert "did you mean 'npy' or 'npz'?" in ctl.refuses("get", "x", "--format", "npx", code=2)
    assert "no name begins with 'q'" in ctl.refuses("get", "-p", "q", code=3)


# ---- rm, mv --------------------------------------------------------------------------------------


def test_rm(ctl, client):
    for name in ("a", "b", "p/1", "p/2"):
        client[name] = np.ones(1)
    said = ctl.refuses("rm", "a", "missing", "b", code=3)
    assert "'missing'" in said and client.list() == ["p/1", "p/2"]
    assert "2 names begin with 'p/'; --yes" in ctl.refuses("rm", "--prefix", "p/", code=2)
    assert client.list() == ["p/1", "p/2"]
    assert ctl.json("rm", "-p", "p/", "-y") == {"removed": ["p/1", "p/2"]}
    assert client.list() == []
    ctl.refuses("rm", "-p", "p/", "-y", code=3)
    ctl.refuses("rm", code=2)


def test_mv(ctl, client):
    client["old"] = np.arange(3)
    client["taken"] = np.zeros(1)
    ctl.refuses("mv", "old", "taken", "--create-only", code=5)
    ctl("mv", "old", "new")
    assert client.list() == ["new", "taken"]
    assert ctl.json("mv", "new", "taken")["name"] == "taken"
    assert np.array_equal(client["taken"].numpy(), np.arange(3))
    ctl.refuses("mv", "old", "x", code=3)


# ---- op ------------------------------------------------------------------------------------------


def test_op_lists_and_explains(ctl, client):
    listed = {entry["name"]: entry for entry in ctl.json("op")}
    assert {name: entry["text"] for name, entry in listed.items()} == client.ops()
    assert [line.split()[0] for line in ctl.text("op").splitlines()] == list(listed)
    page = ctl.text("op", "arange", "--help")
    assert page == ctl.text("help", "op", "arange")
    fields = [line.split()[0] for line in page.split("\n\n")[1].splitlines()]
    required, optional = listed["arange"]["required"], listed["arange"]["optional"]
    assert fields == required.split() + optional.split()
    assert "scalar  needed  the value to stop before" in page


@pytest.mark.parametrize(
    "words, expected",
    [
        (["zeros", "shape=2,3"], torch.zeros(2, 3)),
        (["full", "shape=[2]", "value=-7"], torch.full((2,), -7)),
        (["full", "shape=", "value=18446744073709551615"], 2**64 - 1),
        (["full", "shape=1", "value=true"], torch.tensor([True])),
        (["arange", "end=1", "start=0.5", "step=0.25", "dtype=<f8"],
         torch.arange(0.5, 1, 0.25, dtype=torch.float64)),
        (["getitem", "w", "index=0, 1:3"], torch.arange(12).reshape(3, 4)[0, 1:3]),
        (["select", "input=w", "dim=-1", "index=2"], torch.arange(12).reshape(3, 4)[:, 2]),
        (["permute", "w", "dims=1,0"], torch.arange(12).reshape(3, 4).T),
        (["to", "w", "dtype=float16", "copy=true"], torch.arange(12.0).reshape(3, 4).half()),
    ],
)  # fmt: skip
def test_op_runs_any_operation(ctl, client, words, expected):
    client["w"] = np.arange(12).reshape(3, 4)
    document = ctl.json("op", *words, "-o", "result")
    assert document["name"] == "result"
    result = client["result"].torch()
    if isinstance(expected, int):
        assert ctl.json("op", "item", "result")["value"] == expected
    else:
        assert result.dtype == expected.dtype and torch.equal(result, expected)


def test_op_prints_what_has_no_name(ctl, client):
    client["x"] = np.array([1.0, 2.0], np.float32)
    done = ctl("op", "mul", "x", "value=2")
    assert done.stdout.decode().endswith("\n\ntensor([2., 4.])\n")
    assert "-o NAME keeps it" in done.stderr.decode()
    assert client.list() == ["x"]
    assert ctl.text("op", "print", "x") == "tensor([1., 2.])\n"
    assert ctl.json("op", "get", "x")["values"] == [1.0, 2.0]
    assert ctl.text("op", "get", "x").endswith("\n[1.0,2.0]\n")
    assert ctl.json("op", "ping", "--body", "-", data=b"abc")["body_bytes"] == 3
    assert [each["name"] for each in ctl.json("op", "list")["entries"]] == ["x"]
    ctl("op", "put", "output=y", "dtype=uint8", "shape=3", "--body", "-", data=b"\1\2\3")
    assert client["y"].numpy().tolist() == [1, 2, 3]


def test_op_prints_every_list(ctl, client):
    client.queue("ops").put({"image": np.zeros(3)})
    for op in ("queues", "queue_info queue=ops", "queue_peek queue=ops", "queue_get queue=ops",
               "principals"):  # fmt: skip
        assert ctl.json("op", *op.split())["entries"], op
    done = ctl("op", "queue_get", "queue=ops")
    assert "image" in done.stdout.decode() and not done.stderr
    client.queue("ops").delete()


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["ad", "x"], 3, "did you mean 'add'?"),
        (["add", "x", "valeu=2"], 2, "did you mean 'value'?"),
        (["add", "x", "value=two"], 2, "'value' is two"),
        (["add", "x"], 2, "add needs value=...: a number"),
        (["zeros"], 2, "zeros needs shape=...: sizes, outermost first"),
        (["add", "x", "2"], 2, "no field=value"),
        (["add", "missing", "value=2"], 3, "'missing'"),
        (["add", "input=frist", "value=2"], 3, "did you mean 'first'?"),
        (["add", "frist", "value=2"], 3, "did you mean 'first'?"),
        (["add", "x", "value=1", "value=2"], 2, "value is given twice"),
        (["zeros", "shape=2,a"], 2, "shape"),
        (["getitem", "x", "index=5"], 1, "index"),
        (["fill_", "x", "value=1"], 5, "frozen"),
        (["put", "output=x", "dtype=int8", "shape=1", "if_generation=1", "--body", "/dev/null"], 1,
         "bytes"),
        (["add", "x", "value=1", "--body", "/dev/null"], 2, "takes no elements"),
        (["add", "x", "value=1", "-o", "x", "if_generation=1"], 5, "generation"),
        (["zeros", "shape=1000000000000"], 6, "tensorctl stats"),
        (["hello", "protocol=1"], 1, "hello"),
    ],
)  # fmt: skip
def test_op_refuses(ctl, client, words, code, said):
    client["first"] = client["x"] = np.ones(2)
    assert said in ctl.refuses("op", *words, code=code)


# ---- stats, ping ---------------------------------------------------------------------------------


def test_stats(ctl, client):
    client["x"] = np.ones(100000)
    document = ctl.json("stats")
    assert set(document) == set(client.stats()) and document["names"] == 1
    assert document["memory_used_bytes"] >= 800000
    lines = dict(line.split(None, 1) for line in ctl.text("stats", "--bytes").splitlines())
    assert lines["memory_limit_bytes"] == str(document["memory_limit_bytes"])
    assert ["memory_limit_bytes", "1.0", "GiB"] in map(str.split, ctl.text("stats").splitlines())
    again = ctl.text("stats", "--watch", "0.1", "--count", "2")
    first, second = again.split("\n\n")
    assert "+" not in first and "+" in second
    ctl.refuses("stats", "--count", "2", code=2)
    ctl.refuses("stats", "--watch", "soon", code=2)


def test_ping(ctl):
    lines = ctl.text("ping", "-c", "3", "-i", "1ms", "-s", "1000").splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"1000 bytes from {ctl.url}: seq=") for line in lines[:3])
    assert lines[3].startswith("3 answered, min/median/max = ")
    document = ctl.json("ping", "-c", "5", "-i", "0")
    assert document["answered"] == 5 and document["bytes"] == 64
    assert 0 < document["min_ms"] <= document["median_ms"] <= document["max_ms"]
    ctl.refuses("ping", "-s", "65537", code=2)
