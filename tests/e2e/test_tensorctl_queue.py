"""tensorctl queue: its commands, files both ways, and the exit codes of loops over a queue."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import safetensors.numpy
from test_tensorctl import PATIENCE_S, Ctl, binary, ctl, environment  # noqa: F401
from test_tensorctl_help import complete


@pytest.fixture
def q(ctl, client):
    """tensorctl queue, with a queue q and the tensors a and b."""
    client["a"] = np.arange(6, dtype=np.float32).reshape(2, 3)
    client["b"] = np.array([True, False])

    class Queue(Ctl):
        def __call__(self, *words, **how):
            return super().__call__("queue", *words, **how)

    queue = Queue(ctl.url)
    queue("create", "q")
    yield queue
    for entry in queue.json("ls"):
        queue("rm", entry["queue"])


def test_what_is_said_with_an_item_is_one_line_of_plain_text(q):
    """A meta comes from anybody, and may end up on a terminal."""
    said = "one\ttwo\nthree \x1b[31mred \x9b31m é"
    q("put", "q", "a", "--meta", said)
    row = q.text("peek", "q").strip("\n").split("\t")
    assert row[0] == "1" and row[-1] == "one two three  [31mred   31m é" and len(row) == 5
    assert q.text("get", "q", "--no-ack").splitlines()[1] == row[-1]
    assert q.json("get", "q")["meta"] == said


def start(q, *words):
    return subprocess.Popen([binary(), "queue", *words], env=environment(q.url), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def until(q, name, counter, value):
    deadline = time.monotonic() + PATIENCE_S
    while q.json("info", name)[counter] != value:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_queues(q):
    made = q.json("create", "r/1", "--max-items", "3", "--max-bytes", "64KiB",
                  "--when-full", "fail", "--visibility", "2s")  # fmt: skip
    assert made == {"queue": "r/1", "count": 0, "nbytes": 0, "max_items": 3, "max_bytes": 65536,
                    "when_full": "fail", "visibility_ms": 2000, "closed": False}  # fmt: skip
    assert "max_items      3" in q.text("create", "r/1")
    assert q.text("create", "r/1", "-q") == ""
    assert "max_items of 3 and not 4" in q.refuses("create", "r/1", "--max-items", "4", code=5)
    assert "there already" in q.refuses("create", "r/1", "--create-only", code=5)
    assert "'never'" in q.refuses("create", "s", "--when-full", "never", code=1)
    assert q.text("ls") == "q\t0/64\t0 B/1.0 GiB\tblock\t\nr/1\t0/3\t0 B/64.0 KiB\tfail\t\n"
    assert [entry["queue"] for entry in q.json("ls", "r/")] == ["r/1"]
    q("close", "r/1")
    assert q.text("ls", "r") == "r/1\t0/3\t0 B/64.0 KiB\tfail\tclosed\n"
    assert q("rm", "r/1").stderr == b""
    for words in (["rm", "r/1"], ["info", "r/1"], ["get", "r/1"], ["put", "r/1", "a"]):
        assert "no queue 'r/1'" in q.refuses(*words, code=3)


def test_items(q, tmp_path):
    assert q("put", "q", "x=a", "b", "--meta", '{"n": 1}').stderr == b"q: item 1, 26 B\n"
    assert q.json("put", "q", "=a") == {"item": 2, "nbytes": 24}
    assert q.text("peek", "q") == '1\t0\t26 B\tx=float32[2, 3] bool[2]\t{"n": 1}\n' \
        "2\t0\t24 B\tfloat32[2, 3]\t\n"  # fmt: skip
    assert [item["item"] for item in q.json("peek", "q", "-c", "1")] == [1]
    assert q.json("info", "q")["items"] == 2
    assert "waiting_gets" in q.text("info", "q")
    seen = q.json("get", "q", "--no-ack")
    assert (seen["item"], seen["deliveries"], seen["meta"]) == (1, 1, '{"n": 1}')
    file = tmp_path / "item.npz"
    printed = q.text("get", "q", "-o", file)
    assert printed.startswith('item 1, delivery 2, 2 tensors, 26 B\n{"n": 1}\n')
    assert printed.endswith("x\tfloat32\t[2, 3]\t24 B\n\tbool\t[2]\t2 B\n")
    with np.load(file) as read:
        assert np.array_equal(read["x"], [[0, 1, 2], [3, 4, 5]]) and list(read["1"]) == [1, 0]
    assert np.array_equal(np.load(os.path.join(tmp_path, "item.npz"))["x"].shape, [2, 3])
    whole = q("get", "q", "-o", "-", "--format", "safetensors").stdout
    assert list(safetensors.numpy.load(whole)) == ["0"]
    now = q.json("info", "q")
    assert (now["items"], now["acks"], now["returned"]) == (0, 2, 1)


def test_files_as_items(q, tmp_path):
    np.save(tmp_path / "one.npy", np.arange(3))
    np.savez(tmp_path / "two.npz", u=np.ones(2), v=np.zeros((1, 2), "i4"))
    one, two = tmp_path / "one.npy", tmp_path / "two.npz"
    q("put", "q", "--file", one, f"k={two}", f"y={one}")
    (peeked,) = q.json("peek", "q")
    assert peeked["tensors"].split("\n") == ["int64[3]", "k/u=float64[2]", "k/v=int32[1, 2]",
                                             "y=int64[3]"]  # fmt: skip
    q("put", "q", "--file", "-", data=b"[[1, 2], [3, 4]]")
    item = q.json("get", "q")
    assert [t.get("key") for t in item["tensors"]] == [None, "k/u", "k/v", "y"]
    assert {t["mode"] for t in item["tensors"]} == {"frozen"}
    assert json.loads(q.text("get", "q", "-o", "-", "--format", "json"))["data"] == [[1, 2], [3, 4]]
    (tmp_path / "raw.bin").write_bytes(b"12345678")
    assert "expected npy" in q.refuses("put", "q", "--file", tmp_path / "raw.bin", code=1)
    assert "cannot be read" in q.refuses("put", "q", "--file", tmp_path / "none", code=1)
    assert q.json("info", "q")["puts"] == 2


def test_several_items(q, tmp_path):
    for n in range(3):
        q("put", "q", "a", "--meta", str(n))
    lines = q("get", "q", "--count", "3", "-o", tmp_path / "f.npy", "--json").stdout.splitlines()
    assert [json.loads(line)["meta"] for line in lines] == ["0", "1", "2"]
    assert sorted(os.listdir(tmp_path)) == ["f-1.npy", "f-2.npy", "f-3.npy"]
    assert np.load(tmp_path / "f-2.npy").shape == (2, 3)


def test_exit_codes(q):
    assert "nothing to hand out" in q.refuses("get", "q", "--timeout", "1s", code=8)
    q("create", "full", "--max-items", "1")
    q("put", "full", "a")
    assert "is full" in q.refuses("put", "full", "a", "--timeout", "1s", code=8)
    q("close", "full")
    assert "takes no more" in q.refuses("put", "full", "a", code=9)
    q("get", "full")
    assert "closed" in q.refuses("get", "full", code=9)
    assert "@99" in q.refuses("put", "q", "k=@99", code=3)
    assert "stands twice" in q.refuses("put", "q", "k=a", "k=b", code=1)


def test_waiting(q):
    getting = start(q, "get", "q", "--json", "--timeout", "0")
    until(q, "q", "waiting_gets", 1)
    q("put", "q", "a", "--meta", "late")
    out, err = getting.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["meta"] == "late" and getting.returncode == 0, err
    q("create", "full", "--max-items", "1")
    q("put", "full", "a")
    putting = start(q, "put", "full", "b")
    until(q, "full", "waiting_puts", 1)
    q("get", "full")
    assert putting.wait(PATIENCE_S) == 0
    putting.communicate()
    assert q.json("info", "full")["items"] == 1
    looping = start(q, "get", "q", "--count", "1000", "--timeout", "0")
    until(q, "q", "waiting_gets", 1)
    looping.send_signal(signal.SIGTERM)
    assert looping.wait(PATIENCE_S) == -signal.SIGTERM or looping.returncode == 143
    looping.communicate()
    until(q, "q", "waiting_gets", 0)


def test_what_is_not_written_goes_back(q, tmp_path):
    q("put", "q", "a", "b")
    assert "holds one tensor" in q.refuses("get", "q", "-o", tmp_path / "x.npy", code=2)
    assert "/none/" in q.refuses("get", "q", "-o", "/none/x.npz", code=1)
    until(q, "q", "in_flight", 0)
    assert q.json("get", "q")["deliveries"] == 3


def test_what_is_parked(q):
    q("put", "q", "a")
    for _ in range(5):
        q("get", "q", "--no-ack")
    assert q.json("peek", "q") == [] and len(q.json("peek", "q", "--parked")) == 1
    assert q("drain", "q").stderr == b"q: 0 items dropped\n"
    assert q("drain", "q", "--parked").stderr == b"q: 1 item dropped\n"
    assert q.json("drain", "q") == {"count": 0}


def test_the_command_line(q):
    for words, said in (
        (["gte", "q"], "did you mean 'get'"),
        ([], "queue needs more"),
        (["get"], "queue get NAME"),
        (["info", "q", "r"], "'r' is one argument too many"),
        (["put", "q"], "queue put needs more"),
        (["ls", "--parked"], "queue ls has no option --parked"),
        (["create", "q", "--max-items", "0"], "a number from 1"),
        (["get", "q", "--no-ack", "-c", "2"], "would be the same"),
        (["get", "q", "--format", "npz"], "-o names"),
        (["put", "q", "a", "--format", "npz"], "--file puts"),
    ):
        assert said in q.refuses(*words, code=2), words


def test_completion(ctl, q):
    lines = ["tensorctl queue p", "tensorctl queue get ", "tensorctl queue put q ",
             "tensorctl queue put q key=", "tensorctl queue create q --when-full d",
             "tensorctl queue ls --par", "tensorctl queue get q "]  # fmt: skip
    commands, queues, tensors, values, policies, options, nothing = complete(ctl, *lines)
    assert commands == ["put", "peek"] and queues == ["q"]
    assert tensors == values == ["a", "b"]
    assert (policies, options, nothing) == (["drop_oldest"], ["--parked"], [])
