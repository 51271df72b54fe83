"""The tours on README's first page: with curl, the command line and Python, as they stand there."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import safetensors.numpy

README = pathlib.Path(__file__).resolve().parent.parent.parent / "README.md"


def block(title, language):
    """The lines of the first code block of a section, without their comments."""
    section = README.read_text().split(f"## {title}\n")[1]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL).group(1)
    lines = [re.sub(r"\s+# .*$", "", line) for line in found.splitlines()]
    return [line for line in lines if line.strip() and not line.strip().startswith("#")]


def commands():
    return block("A tour with curl", "sh")


def test_the_tour(daemon, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12, dtype="f4").reshape(3, 4))
    script = "\n".join(f"{line}\necho; echo '== {i}'" for i, line in enumerate(commands()))
    script = script.replace("http://127.0.0.1:7070", daemon.http_url).replace("curl ", "curl -sS ")
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    parts = [part.strip() for part in re.split(r"== \d+\n", done.stdout)]
    said = dict(zip(commands(), parts))

    def answer(*words):
        found = [text for line, text in said.items() if all(word in line for word in words)]
        assert len(found) == 1, words
        return found[0]

    assert json.loads(answer("-T x.npy"))["shape"] == [3, 4]
    assert json.loads(answer("PUT", "tensors/y"))["dtype"] == "float32"
    assert answer("tensors/x?format=text").startswith("tensor([[ 0.,  1.,  2.,  3.],")
    assert json.loads(answer("values=true"))["data"] == [[4.0, 6.0], [8.0, 10.0]]
    assert np.load(tmp_path / "row.npy").tolist() == [0, 1, 2, 3]
    assert json.loads(answer("transpose"))["memory"] == "shared"
    cast = json.loads(answer("ops/to"))
    assert (cast["memory"], cast["reason"]) == ("copied", "dtype")
    assert answer("tensors/m?format=text") == "tensor([4, 5])"
    refused = json.loads(answer("tensors/w?format=npy"))
    assert refused["status"] == 409 and refused["detail"].startswith("Can't call numpy() on Tensor")
    with np.load(tmp_path / "xy.npz") as archive:
        assert archive.files == ["x", "y"] and archive["y"].tolist() == [[1, 2], [3, 4.5]]
    stored = json.loads(answer("-T xy.npz"))["entries"]
    assert [entry["name"] for entry in stored] == ["model/x", "model/y"]
    assert json.loads(answer("queues/frames"))["max_items"] == 8
    assert json.loads(answer("queue_put"))["item"] == 1
    item = json.loads(answer("queue_get"))
    assert item["meta"] == "first" and [t["key"] for t in item["entries"]] == ["image", "mask"]
    listed = answer("openapi.json")
    assert '"entries"' in listed and '"openapi"' in listed


def test_the_command_line(daemon, client, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12, dtype="f4").reshape(3, 4))
    lines = block("The command line", "sh")
    assert lines[0].startswith("PATH=") and lines[-1] == "tensorctl watch"
    binary = pathlib.Path(os.environ.get("TENSORD_BIN", "")).parent / "client/cli"
    env = {**os.environ, "PATH": f"{binary}:{os.environ['PATH']}", "TENSORD_URL": daemon.url}
    for name in client.list():
        client.delete(name)
    for name in client.queues():
        client.op("queue_delete", queue=name)
    done = subprocess.run(["bash", "-e", "-c", "\n".join(lines[1:-1])], cwd=tmp_path, env=env,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tensor([1., 2.])" in done.stdout
    assert set(np.load(tmp_path / "item.npz")) == {"image"}
    assert set(safetensors.numpy.load_file(tmp_path / "all.safetensors")) == {"x", "half"}
    assert client.list("again/") == ["again/half", "again/x"]


def test_python(daemon, client, tmp_path):
    lines = block("A tour in Python", "python")
    refused = [line for line in lines if line == "w.numpy()"]
    code = "\n".join(line for line in lines if line not in refused)
    env = {**os.environ, "TENSORD_URL": daemon.url}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert len(refused) == 1 and done.returncode == 0, done.stderr
    assert done.stdout.startswith("tensor([[1., 0., 0.,")
    assert {"x", "w"} <= set(safetensors.numpy.load_file(tmp_path / "all.safetensors"))
    assert np.array_equal(client["again/x"].numpy(), np.eye(512))
    assert client["frame"].shape == (480, 640)
