"""tensorctl where it is used otherwise than it was meant to be: names that collide, files that
change or lie about their size, errors about another tensor, limits reached half-way."""

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import safetensors.torch
import test_tensorctl
import torch
from test_tensorctl import PATIENCE_S, binary, ctl, environment  # noqa: F401
from test_tensorctl_terminal import MIB, SlowWay

from conftest import Daemon

# ---- get -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["npz", "safetensors", "json"])
def test_no_tensor_is_lost_in_a_file(ctl, client, tmp_path, ending):
    """Without the prefix "a" is nothing and stays "a", which "aa" becomes."""
    client["a"], client["aa"] = np.ones(1), np.zeros(1)
    target = tmp_path / f"x.{ending}"
    said = ctl.refuses("get", "-p", "a", "-o", target, code=1)
    assert "without the prefix 'a' two tensors would be 'a'" in said
    assert os.listdir(tmp_path) == []
    ctl("get", "a", "aa", "-o", target)
    assert os.listdir(tmp_path) == [target.name]


def test_a_prefix_goes_with_the_slash_behind_it(ctl, client, tmp_path):
    client["m/a"], client["m/b/c"] = np.ones(1), np.zeros(2)
    ctl("get", "-p", "m", "-o", tmp_path / "m.npz")
    assert sorted(np.load(tmp_path / "m.npz")) == ["a", "b/c"]
    ctl("put", "n", tmp_path / "m.npz")
    assert client.list("n") == ["n/a", "n/b/c"]


def test_many_names_are_compared_in_no_time(ctl, client):
    client["x"] = np.ones(1)
    names = [f"name{i}" for i in range(60000)]
    begun = time.monotonic()
    assert "'name0'" in ctl.refuses("get", *names, code=3)
    assert time.monotonic() - begun < 4
    assert "'name7' is named twice" in ctl.refuses("get", *names, "name7", code=2)


def test_an_assumed_format_is_told(ctl, client, tmp_path):
    client["x"] = np.arange(3)
    assert ctl("get", "x", "-o", tmp_path / "x.csv").stderr.endswith(b"24 B, as npy\n")
    assert ctl("get", "x", "-o", tmp_path / "x.npy").stderr.endswith(b"24 B\n")
    assert ctl("get", "x", "--format", "raw", "-o", tmp_path / "x").stderr.endswith(b"24 B\n")


def test_safetensors_are_in_the_order_of_the_reference(ctl, tmp_path):
    """Which is that of its dtypes, not only of their sizes."""
    names = (
        "bool uint8 int8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 "
        "complex64 float8_e4m3fn float8_e5m2"
    )
    tensors = {
        f"{i:02}-{again}": torch.zeros(3, dtype=getattr(torch, name))
        for i, name in enumerate(names.split())
        for again in "ab"
    }
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    ctl("put", "all", tmp_path / "x.safetensors")
    ctl("get", "-p", "all/", "-o", tmp_path / "y.safetensors")
    assert (tmp_path / "y.safetensors").read_bytes() == (tmp_path / "x.safetensors").read_bytes()


def test_a_text_of_casts_holds_no_copies(ctl, client):
    for i in range(4):
        client[f"x{i}"] = np.zeros(MIB, np.float32)
    used = client.stats()["memory_used_bytes"]
    ctl("get", "x0", "x1", "x2", "x3", "--format", "text", "--dtype", "float64")
    assert client.stats()["memory_peak_bytes"] < used + 20 * MIB  # one copy is 8 MiB


# ---- put -----------------------------------------------------------------------------------------


def test_a_file_that_says_it_is_empty(ctl, client):
    ctl("put", "p", "/proc/self/cmdline", "--dtype", "uint8")
    assert client["p"].numpy().tobytes().startswith(binary().encode())


def cut_while_sent(ctl, daemon, path):
    """Cuts the file off while tensorctl sends it. Its exit code and what it says."""
    with SlowWay(daemon.tcp_url, 10 * MIB) as way:
        words = [binary(), "put", "cut", path]
        process = subprocess.Popen(words, env=environment(way.url), stderr=subprocess.PIPE)
        time.sleep(0.5)
        os.truncate(path, 1000)
        said = process.communicate(timeout=PATIENCE_S)[1]
    return process.returncode, said.decode()


def test_a_file_that_becomes_shorter(ctl, daemon, client, tmp_path):
    big = np.ones(12 * MIB, np.uint8)
    np.savez(tmp_path / "x.npz", a=big, b=big)
    np.save(tmp_path / "x.npy", np.concatenate([big, big]))
    for name in ("x.npz", "x.npy"):
        code, said = cut_while_sent(ctl, daemon, tmp_path / name)
        assert code == 1 and "became shorter while it was read" in said, (code, said)
        assert "--url" not in said
    assert client.list() == []


@contextlib.contextmanager
def daemon_of_its_own(*options):
    running = Daemon(*options)
    try:
        yield test_tensorctl.Ctl(running.url)
    finally:
        running.stop()


@pytest.mark.parametrize("words", [[], ["--dtype", "int8"]])
def test_over_a_limit_nothing_of_a_file_is_stored(tmp_path, words):
    np.savez(tmp_path / "m.npz", **{f"k{i}": np.ones(1) for i in range(5)})
    with daemon_of_its_own("--memory-limit", "64MiB", "--max-names", "3") as few:
        said = few("put", "m", tmp_path / "m.npz", *words, code=6).stderr.decode()
        assert "of 3 names" in said and few.text("ls", "-1") == ""


@pytest.mark.parametrize("words", [[], ["--dtype", "int8"]])
def test_of_a_file_with_one_name_that_is_taken_nothing_is_stored(ctl, client, tmp_path, words):
    client["m/b"] = np.zeros(1)
    np.savez(tmp_path / "m.npz", a=np.ones(9), b=np.ones(9), c=np.ones(9))
    said = ctl.refuses("put", "m", tmp_path / "m.npz", "--create-only", *words, code=5)
    assert "'m/b' is taken" in said
    assert client.list() == ["m/b"] and client["m/b"].tolist() == [0]


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float8_e5m2", "complex128", "bool"])
def test_several_tensors_are_cast_together(ctl, client, tmp_path, dtype):
    tensors = {"a": np.arange(3.0), "b/c": np.array(2, "i1"), "e": np.zeros((0, 2), ">f4")}
    np.savez(tmp_path / "m.npz", **tensors)
    listed = ctl.json("put", "m", tmp_path / "m.npz", "--dtype", dtype)
    assert [(entry["name"], entry["dtype"]) for entry in listed] == [
        (f"m/{key}", dtype) for key in tensors
    ]
    assert len({entry["storage"] for entry in listed}) == 1
    assert client["m/a"].tolist() == client.tensor([0.0, 1, 2], dtype=dtype).tolist()
    np.savez(tmp_path / "none.npz")
    for words in ([], ["--dtype", dtype]):
        said = ctl("put", "n", tmp_path / "none.npz", *words).stderr
        assert said == b"the file holds no tensors\n" and client.list("n") == []


def test_a_file_with_too_large_a_header_is_recognised(ctl, daemon):
    data = (20 << 20).to_bytes(8, "little") + b"{" + b" " * 99
    said = ctl.refuses("put", "x", "-", data=data, code=6)
    assert "the safetensors header has 20971520 bytes; at most 16777216 are read" in said
    request = urllib.request.Request(f"{daemon.http_url}/v1/tensors/x", data, method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request)


def test_a_document_says_what_its_tensor_is(ctl, client):
    document = {"dtype": "float32", "shape": [2], "data": [1, 2]}
    for flags in ({"requires_grad": True}, {"mutable": True}, {"requires_grad": False}):
        ctl("put", "x", "-", data=json.dumps({**document, **flags}).encode())
        info = client.info("x")
        assert info.requires_grad == flags.get("requires_grad", False)
        assert (info.mode == "mutable") == flags.get("mutable", False)


def test_what_json_does_not_hold_is_told(ctl, client, tmp_path):
    client["x"] = client["y"] = np.ones(1)
    ctl("get", "x", "y", "-o", tmp_path / "both.json")
    said = ctl.refuses("put", "z", tmp_path / "both.json", code=1)
    assert "list of documents" in said and "npz and safetensors" in said
    said = ctl.refuses("put", "z", "-", data=b"1,2\n", code=1)
    assert "npy, npz, safetensors or json" in said


# ---- op, rm, ping, help --------------------------------------------------------------------------


def test_only_what_is_missing_is_guessed_at(ctl, client):
    client.put("first", np.ones(1), mutable=True)
    said = ctl.refuses("op", "copy_", "first", "other=missing", code=3)
    assert "'missing'" in said and "did you mean" not in said
    assert "did you mean 'first'?" in ctl.refuses("op", "item", "frist", code=3)


def test_the_body_of_an_operation_has_an_end():
    with daemon_of_its_own("--memory-limit", "16MiB") as small:
        said = small.refuses("op", "ping", "--body", "/dev/zero", code=6)
    assert "more than 16777216 bytes" in said


def test_rm_tells_every_error_in_its_turn(ctl, client):
    client["b"] = np.ones(1)
    said = ctl.refuses("rm", "one", "b", "two", code=3).splitlines()
    assert len(said) == 2 and "'one'" in said[0] and "'two'" in said[1]
    done = ctl("rm", "one", "two", "--json", code=3)
    errors = [json.loads(line)["error"] for line in done.stderr.splitlines()]
    assert [error["code"] for error in errors] == ["not_found", "not_found"]
    assert json.loads(done.stdout) == {"removed": []}


def test_ping_names_where_it_asks(ctl):
    path = ctl.url.removeprefix("unix://")
    for given in ({"TENSORD_URL": "", "TENSORD_SOCKET": path}, {"TENSORD_URL": path}):
        assert f"64 bytes from {path}: seq=1" in ctl.text("ping", "-c", "1", env=given)


def test_help_takes_one_command(ctl):
    assert "'show' is one argument too many" in ctl.refuses("help", "ls", "show", code=2)


@pytest.mark.parametrize(
    "value, dtype, text",
    [("0.1", "float64", "0.1"), ("[0.1,-0.3]", "complex128", "0.1-0.3j"),
     ("[-0.0,2.5]", "complex64", "-0.0+2.5j"), ("NaN", "float32", "nan")],
)  # fmt: skip
def test_a_scalar_has_no_more_digits_than_it_needs(ctl, value, dtype, text):
    ctl("op", "full", "shape=", f"value={value}", f"dtype={dtype}", "-o", "s")
    assert ctl.text("op", "item", "s").split() == ["dtype", dtype, "value", text]


def test_a_field_is_no_option(ctl, client):
    client["x"] = np.ones(1)
    for words in (["--dtype", "int8"], ["--dtype=int8"]):
        said = ctl.refuses("op", "to", "x", *words, code=2)
        assert "fields of operations are written dtype=..." in said
    assert "did you mean '--body'" in ctl.refuses("op", "to", "x", "--bdoy", "f", code=2)


def test_several_tensors_are_shown_by_name(ctl, client):
    client["a"], client["b"] = np.arange(2), np.ones(1, np.float32)
    assert ctl.text("show", "a", "b[0]") == "a:\ntensor([0, 1])\nb[0]:\ntensor(1.)\n"
    assert ctl.text("show", "a") == "tensor([0, 1])\n"
