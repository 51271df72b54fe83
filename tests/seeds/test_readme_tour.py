"""The tour with curl on README's first page: every line of it, as it stands there."""

import json
import pathlib
import re
import subprocess

import numpy as np
import safetensors.numpy

README = pathlib.Path(__file__).resolve().parent.parent.parent / "README.md"


def commands():
    """The lines of the first code block of the tour, without their comments."""
    section = README.read_text().split("## A tour with curl")[1]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL).group(1)
    lines = [re.sub(r"\s+# .*$", "", line) for line in block.splitlines()]
    return [line for line in lines if line.strip() and not line.strip().startswith("#")]


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
    bundle = safetensors.numpy.load_file(tmp_path / "all.safetensors")
    assert {"x", "xt", "half", "m"} <= set(bundle) and bundle["xt"].shape == (4, 3)
    again = json.loads(answer("-T all.safetensors"))
    assert {entry["name"] for entry in again["entries"]} == {f"again/{key}" for key in bundle}
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
