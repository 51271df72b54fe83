"""Files local to the daemon: read and written below the directories of --load-dir and --save-dir,
and never elsewhere."""

import contextlib
import os
import signal
import socket
import threading
import time

import numpy as np
import pytest
from bundle_files import (
    assert_same,
    assert_stored,
    delete_all,
    emptied,
    load,
    model,
    npy_file,
    npz_file,
    save,
)
from harness import SMALL, Daemon, all_names, as_root, eventually, ok, refused, run_tensord
from http_client import Http
from safetensors.numpy import load_file, save_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def daemon(folder):
    for name in ("in", "in/deep", "also", "out", "out/deep", "elsewhere"):
        (folder / name).mkdir()
    (folder / "link").symlink_to(folder / "in")
    loads = f"{folder}/in/:{folder}/also:{folder}/link"
    with Daemon(*SMALL, "--load-dir", loads, "--save-dir", folder / "out") as running:
        yield running


@pytest.fixture
def client(daemon):
    with emptied(daemon) as connected:
        yield connected


@pytest.fixture(scope="module")
def files(folder, daemon):
    """Files that are there, by what they are."""
    save_file(model(), folder / "in/m.safetensors", {"format": "pt"})
    save_file(model(seed=2), folder / "in/deep/m 2.safetensors")
    (folder / "also/x.npz").write_bytes(npz_file(model(seed=3), True))
    (folder / "also/x.npy").write_bytes(npy_file(np.arange(5.0)))
    (folder / "elsewhere/secret.npy").write_bytes(npy_file(np.arange(5)))
    (folder / "in/empty").touch()
    (folder / "in/inside").symlink_to("deep/m 2.safetensors")
    (folder / "in/folder").symlink_to("deep")
    (folder / "in/outside").symlink_to("../elsewhere/secret.npy")
    (folder / "in/absolute").symlink_to(folder / "elsewhere/secret.npy")
    (folder / "in/absolute inside").symlink_to(folder / "in/m.safetensors")
    (folder / "in/out").symlink_to(folder / "elsewhere")
    (folder / "in/magic").symlink_to("/proc/self/exe")
    (folder / "in/loop").symlink_to("loop")
    os.mkfifo(folder / "in/fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(folder / "in")
        bound.bind("socket")
        os.chdir(here)
    return folder


# ---- reading -------------------------------------------------------------------------------------


def test_paths_that_are_read(files, client):
    for path, arrays in [("m.safetensors", model()), ("./m.safetensors", model()),
                         ("deep//m 2.safetensors", model(seed=2)),
                         ("x.npz", model(seed=3)), (f"{files}/in/m.safetensors", model()),
                         (f"{files}/also//x.npz", model(seed=3)),
                         (f"{files}/link/m.safetensors", model()),
                         ("inside", model(seed=2)),
                         ("folder/m 2.safetensors", model(seed=2))]:  # fmt: skip
        reply, entries = load(client, path=path, prefix="m")
        assert reply["reason"] == "transport"
        assert len({entry["storage"] for entry in entries.values()}) == 1
        assert_stored(client, "m/", arrays)
        delete_all(client)
    reply, _ = load(client, path="m.safetensors")
    assert reply["metadata"] == '{"format":"pt"}'
    load(client, path="x.npy", prefix="one", mutable=True)
    assert len(all_names(client, prefix="one")) == 1


FORBIDDEN = ["../elsewhere/secret.npy", "deep/../m.safetensors", "..", "deep/..", "outside",
             "absolute", "absolute inside", "out/secret.npy", "magic", "loop", "fifo", "socket",
             "deep", ".", "/etc/passwd", "/proc/self/environ", "/dev/zero", "/dev/stdin", "/",
             "{folder}/elsewhere/secret.npy", "{folder}/in/../elsewhere/secret.npy",
             "{folder}/inx", "{folder}/in", "{folder}/in/", "{folder}/out/x"]  # fmt: skip


@pytest.mark.parametrize("path", FORBIDDEN)
def test_paths_that_are_refused(files, daemon, client, path):
    with daemon.unchanged():
        path = path.replace("{folder}", str(files))
        refused(client.request("load", {"path": path, "prefix": "m"}), "forbidden")


def test_other_paths_that_are_refused(files, daemon, client):
    with daemon.unchanged():
        for path in ("nothing", "deep/nothing", "m.safetensors/x", f"{files}/in/nothing"):
            refused(client.request("load", {"path": path}), "not_found", text=path)
        for path in ("", "x" * 5000, "m.safetensors\0"):
            refused(client.request("load", {"path": path}), "invalid", text="path")
        refused(client.request("load", {"path": "n" * 300}), "forbidden", text="too long")
        refused(client.request("load", {"path": "empty"}), "unsupported", text="not recognised")


def test_without_directories_nothing_is_opened():
    with Daemon(*SMALL) as daemon, daemon.connect() as client:
        message = refused(client.request("load", {"path": "/etc/passwd"}), "forbidden")
        assert "--load-dir" in message
        load(client, save(model()))
        message = refused(client.request("save", {"path": "x"}), "forbidden")
        assert "--save-dir" in message


def test_a_directory_that_is_not_there(tmp_path):
    for option in ("--load-dir", "--save-dir"):
        ended = run_tensord("--no-tcp", "--no-http", "--socket", tmp_path / "s", option,
                            f"{tmp_path}:{tmp_path}/nothing")  # fmt: skip
        assert ended.returncode == 1 and f"{tmp_path}/nothing" in ended.stderr
        assert option[2:] in ended.stderr


def test_directories_by_environment_and_file(files, tmp_path):
    config = tmp_path / "config"
    config.write_text(f"load-dir = {files}/also\n")
    for options, env in [(("--config", config), {}), ((), {"TENSORD_LOAD_DIR": f"{files}/also"})]:
        with Daemon(*SMALL, *options, env=env) as daemon, daemon.connect() as client:
            load(client, path="x.npz", prefix="m")
            refused(client.request("load", {"path": "m.safetensors"}), "not_found")


def test_directories_that_are_repeated(files, tmp_path):
    """Each counts, on the command line and in the file; a stronger source replaces all of them."""
    config = tmp_path / "config"
    config.write_text(f"load-dir = {files}/in/deep\nload-dir = {files}/also:{files}/in\n")
    both = ("--load-dir", f"{files}/also", f"--load-dir={files}/in")
    for options in (both, ("--config", config), ("--config", config, *both)):
        with Daemon(*SMALL, *options) as daemon, daemon.connect() as client:
            load(client, path="x.npz", prefix="m")
            load(client, path="m.safetensors", prefix="m")
            if both[0] in options:
                refused(client.request("load", {"path": "m 2.safetensors"}), "not_found")
            else:
                load(client, path="m 2.safetensors", prefix="m")


@as_root
def test_what_the_daemon_may_not_read(files, client):
    """As root it may read everything: that is said by the kernel, in its words."""
    (files / "in/m.safetensors").chmod(0)
    load(client, path="m.safetensors", prefix="m")
    (files / "in/m.safetensors").chmod(0o644)


def test_a_file_over_the_memory_limit(files, daemon, client):
    with open(files / "in/large", "wb") as file:
        file.truncate(1 << 40)
    with daemon.unchanged():
        refused(client.request("load", {"path": "large"}), "out_of_memory")
    (files / "in/large").unlink()


def test_files_that_change_while_they_are_read(files, daemon, client):
    """Somebody rewrites, cuts and extends the file all the time: each load is whole or refused."""
    file = files / "in/changing"
    contents = [save({"x": np.full(200_000, value)}) for value in range(4)]
    file.write_bytes(contents[0])
    stop = threading.Event()

    def change():
        turn = 0
        while not stop.is_set():
            turn += 1
            with open(file, "r+b") as opened:
                opened.write(contents[turn % 4])
                if turn % 3 == 0:
                    opened.truncate(100_000)
                if turn % 5 == 0:
                    opened.write(b"more")
                else:
                    opened.truncate(len(contents[0]))

    changer = threading.Thread(target=change)
    changer.start()
    try:
        seen = set()
        for i in range(10_000):
            if i >= 60 and "conflict" in seen:
                break
            status, fields, _, _ = client.request("load", {"path": "changing", "prefix": "c"})
            seen.add(status)
            assert status in ("ok", "conflict", "invalid"), fields
        assert "conflict" in seen
    finally:
        stop.set()
        changer.join()
    file.write_bytes(contents[1])
    load(client, path="changing", prefix="c")
    assert_stored(client, "c/", {"x": np.full(200_000, 1)})


# ---- writing -------------------------------------------------------------------------------------


def left_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


@pytest.fixture
def out(folder, daemon):
    yield folder / "out"
    for path in (folder / "out").rglob("*"):
        if path.is_symlink() or not path.is_dir():
            path.unlink()


def test_paths_that_are_written(daemon, client, out):
    load(client, save(model()), prefix="m")
    for path in ("m.safetensors", "deep/m.safetensors", f"{out}/again"):
        reply = client.request("save", {"prefix": "m", "path": path, "metadata": '{"a":"b"}'})
        assert ok(reply)["count"] == len(model()) and reply[2] == b""
    for name in ("m.safetensors", "deep/m.safetensors", "again"):
        assert (out / name).read_bytes() == save(model(), {"a": "b"})
        assert {n: a.tobytes() for n, a in load_file(out / name).items()} == {
            n: a.tobytes() for n, a in model().items()}  # fmt: skip
    ok(client.request("save", {"prefix": "m", "path": "m.npz", "format": "npz"}))
    with np.load(out / "m.npz") as archive:
        assert archive.files == sorted(model())
        for name, array in model().items():
            assert_same(archive[name], array)
    ok(client.request("save", {"tensors": "m/mask", "path": "m.npy", "format": "npy"}))
    assert_same(np.load(out / "m.npy"), model()["mask"])
    assert left_in(out) == ["again", "deep/m.safetensors", "m.npy", "m.npz", "m.safetensors"]


def test_what_is_there_is_replaced_whole(daemon, client, out):
    load(client, save(model()), prefix="m")
    (out / "old").write_bytes(b"what was there")
    (out / "link").symlink_to("other name")
    os.link(out / "old", out / "other name")
    with open(out / "old", "rb") as reader:
        ok(client.request("save", {"prefix": "m", "path": "old"}))
        refused(client.request("save", {"prefix": "m", "path": "link"}), "forbidden")
        assert reader.read() == b"what was there"
    assert (out / "other name").read_bytes() == b"what was there"
    assert (out / "old").read_bytes() == save(model())


def test_permissions_are_by_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with Daemon(*SMALL, "--save-dir", tmp_path) as daemon, daemon.connect() as client:
            load(client, save(model()))
            ok(client.request("save", {"path": "mode"}))
    finally:
        os.umask(before)
    assert (tmp_path / "mode").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_of_what_is_replaced_stay(daemon, client, out, mode):
    load(client, save(model()), prefix="m")
    (out / "kept").write_bytes(b"what was there")
    (out / "kept").chmod(mode)
    ok(client.request("save", {"prefix": "m", "path": "kept"}))
    assert (out / "kept").read_bytes() == save(model())
    assert (out / "kept").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("path", [
    "../elsewhere/x", "..", "deep/../x", "outside/x", "/etc/x", "/tmp/x", "{folder}/in/x",
    "{folder}/elsewhere/x", "fifo", "deep", "nothing/x", "/proc/self/fd/x", "", "x/", ".", "/",
    "deep/.", "{folder}/out", "{folder}/out/", "x\0",
])  # fmt: skip
def test_paths_that_are_not_written(folder, daemon, client, out, path):
    (out / "outside").symlink_to(folder / "elsewhere")
    os.mkfifo(out / "fifo")
    load(client, save(model()), prefix="m")
    before = left_in(folder)
    with daemon.unchanged():
        request = {"prefix": "m", "path": path.replace("{folder}", str(folder))}
        refused(client.request("save", request), "forbidden", "not_found", "invalid")
    assert left_in(folder) == before


def test_errors_leave_nothing(daemon, client, out):
    load(client, npz_file({"c": np.ones(2, complex), "d": np.ones(3)}), prefix="m")
    load(client, save({"w": np.ones(3)}), prefix="v", requires_grad=True)
    (out / "x").write_bytes(b"what was there")
    for fields, status in [({"prefix": "m"}, "bad_dtype"),
                           ({"prefix": "m", "format": "npy"}, "invalid"),
                           ({"prefix": "v", "format": "npz"}, "requires_grad"),
                           ({"prefix": "n"}, "not_found"),
                           ({"tensors": "a=m/d\na=m/c", "format": "npz"}, "invalid"),
                           ({"prefix": "m", "dtype": "int8", "casting": "safe"}, "bad_dtype")]:
        refused(client.request("save", {"path": "x", **fields}), status)
    assert left_in(out) == ["x"] and (out / "x").read_bytes() == b"what was there"


def test_a_deadline_leaves_nothing(daemon, client, out):
    load(client, npz_file({"x": np.zeros(8 << 20)}, True), prefix="m")
    (out / "x").write_bytes(b"what was there")
    for format in ("safetensors", "npz"):
        request = {"path": "x", "prefix": "m", "format": format, "timeout_ms": 1}
        refused(client.request("save", request), "deadline")
        eventually(lambda: left_in(out) == ["x"], "only what was there")
        assert (out / "x").read_bytes() == b"what was there"


def test_a_killed_daemon_leaves_nothing(files, folder, tmp_path):
    """Where the file system has files without a name."""
    (folder / "in/long").write_bytes(npz_file({"x": np.zeros(16 << 20)}, True))
    save_dir = tmp_path / "out"
    save_dir.mkdir()
    try:
        os.close(os.open(save_dir, os.O_TMPFILE | os.O_WRONLY))
    except OSError as error:
        pytest.skip(f"this file system has not: {error}")
    daemon = Daemon("--memory-limit", "256MiB", "--load-dir", str(folder / "in"),
                    "--save-dir", str(save_dir))  # fmt: skip

    def unnamed():
        for fd in os.listdir(f"/proc/{daemon.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                info = os.stat(f"/proc/{daemon.pid}/fd/{fd}")
                if info.st_dev == os.stat(save_dir).st_dev and info.st_nlink == 0:
                    return True
        return False

    caught = False
    try:
        with daemon.connect(timeout=60) as client:
            load(client, path="long", prefix="m")
            for i in range(20):  # until it is caught while it writes
                client.send("save", {"path": f"x{i}", "prefix": "m", "format": "npz"})
                eventually(lambda: unnamed() or (save_dir / f"x{i}").exists(), "it writes")
                if caught := unnamed():
                    break
    finally:
        daemon.kill()
    assert caught and all(name.startswith("x") for name in left_in(save_dir))


def test_a_full_disk_leaves_nothing(folder, daemon, client, out):
    """A limit on the size of files stands for a disk that is full."""
    import resource

    load(client, npz_file({"x": np.zeros(1 << 18)}, True), prefix="m")
    limit = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        for format in ("safetensors", "npz"):
            refused(client.request("save", {"prefix": "m", "path": "x", "format": format}),
                    "out_of_memory", text="large")  # fmt: skip
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, limit)
    assert left_in(out) == []


def test_over_http(files, daemon, client, out):
    with Http(daemon.http_url) as http:
        answer = http.op("load", path="m.safetensors", prefix="h")
        assert answer.status == 200 and answer.json["count"] == len(model())
        query = http.send("POST", "/v1/ops/load?path=x.npz&prefix=q&format=npz")
        assert query.status == 200 and query.json["count"] == len(model())
        assert_stored(client, "h/", model())
        answer = http.op("save", path="h.npz", prefix="h", format="npz")
        assert (answer.status, answer.json) == (200, {"count": len(model())})
        assert http.op("load", path="../x").status == 403
        assert http.op("load").status == 400
        assert http.op("save", path="/etc/x").status == 403
    assert left_in(out) == ["h.npz"]


def test_a_daemon_that_is_killed_leaves_the_old_file(folder):
    """Killed while it writes: at the path is the old file or the new one, whole."""
    out = folder / "out"
    arrays = {"x": np.arange(4_000_000.0)}
    (out / "killed").write_bytes(b"what was there")
    for delay in (0, 0.002, 0.005, 0.01, 0.02):
        daemon = Daemon(*SMALL, "--save-dir", out)
        with daemon.connect() as client:
            load(client, save(arrays), prefix="m")
            client.send("save", {"prefix": "m", "path": "killed"})
            time.sleep(delay)
            daemon.signal(signal.SIGKILL)
        daemon.kill()
        assert (out / "killed").read_bytes() in (b"what was there", save(arrays))
    for path in out.iterdir():
        if path.is_file():
            path.unlink()
