"""tensorctl load and save: files of tensors in one request, on terminals and in pipes."""

import io
import json
import os
import re
import signal
import subprocess

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from harness import eventually
from test_tensorctl import PATIENCE_S, binary, ctl, environment  # noqa: F401
from test_tensorctl_terminal import BAR, MIB, SlowWay, Terminal, show

from conftest import Daemon


def arrays():
    return {
        "layer.0/weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "layer.0/bias": np.array([1.5, -2], np.float16),
        "steps": np.array(7),
    }


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays(), path, {"format": "np"})
    return path


def npz_of(**tensors):
    out = io.BytesIO()
    np.savez(out, **tensors)
    return out.getvalue()


def same(client, prefix, tensors):
    for key, array in tensors.items():
        got = client[prefix + key].fetch()
        assert got.dtype == array.dtype and got.shape == array.shape
        assert got.tobytes() == array.tobytes()


# ---- load ----------------------------------------------------------------------------------------


def test_load(ctl, client, model, tmp_path):
    done = ctl("load", model, "--prefix", "m")
    assert done.stdout == b"" and done.stderr.decode() == f"{model}: 3 tensors, 60 B\n"
    same(client, "m/", arrays())
    assert len({client[f"m/{key}"].storage_id for key in arrays()}) == 1
    assert ctl("load", model, "-q").stderr == b""
    same(client, "", arrays())
    listed = ctl.json("load", "-", "-p", "in/", data=npz_of(a=np.ones(2), b=np.zeros((3, 1))))
    assert [entry["name"] for entry in listed] == ["in/a", "in/b"]
    assert [entry["shape"] for entry in listed] == [[2], [3, 1]]
    assert [entry["mode"] for entry in listed] == ["frozen", "frozen"]
    done = ctl("load", "-", data=npz_of(a=np.ones(2)))
    assert done.stderr == b"standard input: 1 tensor, 16 B\n"
    np.save(tmp_path / "one.npy", np.arange(3))
    ctl("load", tmp_path / "one.npy", "-p", "one")
    assert client["one"].tolist() == [0, 1, 2]


def test_load_options(ctl, client, tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(3, ml_dtypes.bfloat16), b=np.ones(2, np.float32))
    file = tmp_path / "x.npz"
    assert "bfloat16" in ctl.refuses("load", file, code=1)
    ctl("load", file, "--dtype", "bfloat16", "--mutable", "--requires-grad", "--ttl", "5m",
        "--format", "npz")  # fmt: skip
    info = client.info("a")
    assert (info.dtype, info.mode, info.requires_grad) == ("bfloat16", "mutable", True)
    assert 290 < client.ttl("b") <= 300
    client.delete("a")
    said = ctl.refuses("load", file, "--dtype", "bfloat16", "--create-only", code=5)
    assert "'b'" in said and client.list() == ["b"]


@pytest.mark.parametrize(
    "words, data, code, said",
    [
        (["-"], b"", 1, "standard input is empty"),
        (["-"], b"hello, this is no file", 1, "not recognised"),
        (["none.npz"], b"", 1, "none.npz cannot be read"),
        (["-", "--format", "raw"], b"x", 2, "load takes safetensors, npz and npy, not raw"),
        (["-", "--format", "npx"], b"x", 2, "did you mean 'npy' or 'npz'?"),
        (["-", "--dtype", "flaot32"], b"x", 2, "did you mean 'float32'"),
        (["-", "--ttl", "0"], b"x", 2, "--ttl is a time above 0"),
        ([], b"", 2, "load FILE|-"),
        (["-", "x"], b"", 2, "'x' is one argument too many"),
        (["x.npz", "--by-daemon"], b"", 1, "--load-dir"),
        (["-", "--by-daemon"], b"x", 2, "not standard input"),
        (["-", "-p", "a//b"], npz_of(x=np.ones(1)), 1, "a//b"),
        (["-"], npz_of(x=np.array(["text"])), 1, "text"),
    ],
)
def test_load_refuses(ctl, client, words, data, code, said, tmp_path):
    assert said in ctl.refuses("load", *words, code=code, data=data, cwd=tmp_path)
    assert client.list() == []


# ---- save ----------------------------------------------------------------------------------------


def test_save(ctl, client, model, tmp_path):
    ctl("load", model, "-p", "m")
    done = ctl("save", tmp_path / "s.safetensors", "-p", "m", "--metadata", '{"format":"np"}')
    assert done.stdout == b"" and re.search(rb"s.safetensors: 3 tensors, \d+ B\n", done.stderr)
    assert (tmp_path / "s.safetensors").read_bytes() == model.read_bytes()
    ctl("save", tmp_path / "s.npz", "--prefix", "m/")
    found = np.load(tmp_path / "s.npz")
    assert set(found) == set(arrays())
    assert all(np.array_equal(found[key], array) for key, array in arrays().items())
    assert ctl.json("save", tmp_path / "all.npz")["count"] == 3
    assert set(np.load(tmp_path / "all.npz")) == {f"m/{key}" for key in arrays()}
    for flags in ([], ["--json"]):
        done = ctl("save", "-", "-p", "m", *flags)
        assert safetensors.numpy.load(done.stdout).keys() == arrays().keys() and not done.stderr
    assert sorted(os.listdir(tmp_path)) == ["all.npz", model.name, "s.npz", "s.safetensors"]


def test_save_of_names(ctl, client, tmp_path):
    client["a/b"], client["c=d"] = np.arange(3.0), np.zeros(2)
    ctl("save", tmp_path / "x.npz", "a/b", "k=a/b", "e=c=d")
    assert set(np.load(tmp_path / "x.npz")) == {"a/b", "k", "e"}
    ctl("save", tmp_path / "x.npz", "=c=d")
    assert list(np.load(tmp_path / "x.npz")) == ["c=d"]
    ctl("save", tmp_path / "x.npy", "a/b", "--dtype", "float16")
    assert np.load(tmp_path / "x.npy").dtype == np.float16
    ctl("save", tmp_path / "x", "a/b", "--format", "npy")
    assert np.load(tmp_path / "x").tolist() == [0, 1, 2]
    client.put("v", np.ones(1), requires_grad=True)
    assert "Can't call numpy" in ctl.refuses("save", tmp_path / "v.npz", "v", code=5)
    ctl("save", tmp_path / "v.npz", "v", "--force")


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["x.npz", "none"], 3, "none"),
        (["x.npz", "-p", "none"], 3, "no tensors below 'none/'"),
        (["x.npz", "near/nam"], 3, "did you mean 'near/name'?"),
        (["x.npz", "near/name", "-p", "m"], 2, "names, or --prefix"),
        (["x.txt", "near/name"], 2, "save takes safetensors, npz and npy, not text"),
        (["none/x.npz", "near/name"], 1, "none/x.npz cannot be written"),
        (["x.npy", "-p", ""], 1, "one array"),
        (["x.safetensors", "near/name", "--metadata", "{1}"], 1, "metadata"),
        (["/dev/full", "near/name"], 1, "No space left"),
        (["x.npz", "near/name", "--by-daemon"], 1, "--save-dir"),
        (["-", "near/name", "--by-daemon"], 2, "not standard output"),
        ([], 2, "save FILE|-"),
    ],
)
def test_save_refuses(ctl, client, tmp_path, words, code, said):
    client["near/name"], client["m/x"] = np.ones(2), np.ones(1)
    assert said in ctl.refuses("save", *words, code=code, cwd=tmp_path)
    assert os.listdir(tmp_path) == []


def test_save_into_a_pipe_that_nobody_reads(ctl, client):
    client["x"] = np.ones(4 * MIB)
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([binary(), "save", "-", "x"], stdout=write_end, stderr=subprocess.PIPE,
                          env=environment(ctl.url), timeout=PATIENCE_S)  # fmt: skip
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_files_of_the_daemon(tmp_path, model, ctl):
    (tmp_path / "out").mkdir()
    running = Daemon("--memory-limit", "1GiB", "--load-dir", str(tmp_path), "--save-dir",
                     str(tmp_path / "out"))  # fmt: skip
    there = type(ctl)(running.url)
    there("load", "model.safetensors", "--by-daemon", "-p", "m")
    said = there("save", "x.npz", "--by-daemon", "-p", "m").stderr
    assert said == b"x.npz: 3 tensors\n"
    assert set(np.load(tmp_path / "out/x.npz")) == set(arrays())
    assert "/etc/passwd" in there.refuses("load", "/etc/passwd", "--by-daemon", code=1)
    running.stop()


# ---- on a terminal -------------------------------------------------------------------------------


def test_progress_of_load_and_save(ctl, daemon, client, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones(6 * MIB, np.uint8))
    for words in (["load", "x.npy", "-p", "x"], ["save", "y.npy", "x"]):
        with SlowWay(daemon.tcp_url, 10 * MIB) as way:
            shown = Terminal([binary(), *words], environment(way.url), width=100,
                             cwd=tmp_path).finish()  # fmt: skip
        steps = [(label, int(percent)) for label, percent in re.findall(BAR, shown.encode())]
        assert steps and all(label == words[1].encode() for label, _ in steps), shown
        assert [percent for _, percent in steps] == sorted(percent for _, percent in steps)
        assert shown.endswith(f"\r\x1b[K{words[1]}: 1 tensor, 6.0 MiB\n")
    assert np.array_equal(np.load(path), np.load(tmp_path / "y.npy"))


def test_files_are_not_for_terminals(ctl, client):
    client["x"] = np.ones(1)
    assert "nothing for a terminal" in show(ctl, "save", "-", "x", code=2)


@pytest.mark.parametrize("command", ["load", "save"])
def test_an_interrupt_leaves_nothing(ctl, daemon, client, usage, tmp_path, command):
    np.savez(tmp_path / "x.npz", a=np.ones(3 * MIB, np.uint8), b=np.ones(3 * MIB, np.uint8))
    (tmp_path / "out").mkdir()
    if command == "save":
        client.load(tmp_path / "x.npz", "m")
    before = usage.now()
    file = {"load": "x.npz", "save": "out/y.npz"}[command]
    with SlowWay(daemon.tcp_url, 4 * MIB) as way:
        words = [binary(), command, file, "-p", "m"]
        terminal = Terminal(words, environment(way.url), cwd=tmp_path)
        terminal.read_until(rb"% ")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.finish(130).endswith("\r\x1b[K")
    assert os.listdir(tmp_path / "out") == []
    usage.settles_at(before)
    assert client.list() == (["m/a", "m/b"] if command == "save" else [])
    eventually(lambda: usage.now() == before, "all is given back")


# ---- a real model --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_a_model_there_and_back(ctl, daemon, client, weights, tmp_path, way):
    url = daemon.url if way == "unix" else daemon.tcp_url
    ctl("--url", url, "load", weights, "-p", "model")
    theirs = safetensors.numpy.load_file(weights)
    assert client.list() == sorted(f"model/{key}" for key in theirs)
    same(client, "model/", theirs)
    with safetensors.safe_open(weights, "np") as file:
        metadata = json.dumps(file.metadata(), separators=(",", ":"))
    ctl("--url", url, "save", tmp_path / "x.safetensors", "-p", "model", "--metadata", metadata)
    safetensors.numpy.save_file(theirs, tmp_path / "y.safetensors", json.loads(metadata))
    ours = (tmp_path / "x.safetensors").read_bytes()
    assert ours == (tmp_path / "y.safetensors").read_bytes()
