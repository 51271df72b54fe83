"""The examples run, end by themselves and leave nothing behind."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "client/python/examples"
RUN_S = 120


def run(daemon, *command):
    env = {key: value for key, value in os.environ.items() if not key.startswith("TENSORD_")}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          timeout=RUN_S, env={**env, "TENSORD_URL": daemon.url})  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return done.stdout


def in_c(name):
    """Built beside the daemon that is tested."""
    path = pathlib.Path(os.environ.get("TENSORD_BIN") or ROOT / "build/dev/tensord").parent
    path = path / "client/example" / name
    if not path.exists():
        pytest.skip(f"no {path}: the C examples are not built")
    return path


@pytest.mark.parametrize("language", ["Python", "C"])
def test_the_pipeline(daemon, client, usage, language):
    before = usage.now()
    command = [in_c("pipeline")] if language == "C" else [sys.executable, EXAMPLES / "pipeline.py"]
    said = run(daemon, *command, 100)
    assert "three processes, 100 frames of 480 x 640 x 3 bytes" in said
    assert re.search(r"consumed 100 frames, 92 MB,\s+[0-9.]+ GB/s", said), said
    if language == "Python":
        assert "the batches' memory was shared" in said
        assert re.search(r"shared: [1-9] pieces, used again", said), said
        assert "example/frames: 100 put, 100 acknowledged\n" in said
        assert "example/batches: 7 put, 7 acknowledged\n" in said
    assert client.queues() == []
    usage.settles_at(before)


def test_the_pipeline_explains_itself():
    done = subprocess.run([sys.executable, EXAMPLES / "pipeline.py", "--help"], capture_output=True)
    assert done.returncode == 1 and b"python3 pipeline.py 2000" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_tours(daemon, client):
    assert "nothing was copied" in run(daemon, sys.executable, EXAMPLES / "tour.py")
    assert "element [2, 3] is 2003" in run(daemon, in_c("share"))
