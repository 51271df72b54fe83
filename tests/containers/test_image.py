"""The image that deploy/image.sh builds without a container engine, started by an OCI runtime."""

import json
import os
import re
import resource
import shutil
import subprocess

import pytest
from containers import (
    BASES, INSIDE, MIB, QUOTA, ROOT, Client, Daemon, need_namespaces, run, temporary_folder,
)  # fmt: skip

IMAGE = ROOT / "build/image/oci"
BUILD_S = 400
UNPACK_S = 120
USER = 10001  # in the image


@pytest.fixture(scope="module")
def image():
    need_namespaces()
    if not shutil.which("runc"):
        pytest.skip("runc is not here (Debian package runc)")
    done = subprocess.run([ROOT / "deploy/image.sh"], capture_output=True, text=True,
                          timeout=BUILD_S)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return f"{IMAGE}:latest"


class ImageDaemon(Daemon):
    """The image's entry point, in a container of runc's with this folder at /run/tensord."""

    def __init__(self, folder, bundle):
        self.bundle, self.name = bundle, f"tensord-{os.getpid()}"
        super().__init__(folder, "--memory-limit", "1GiB", *QUOTA, container="image")

    def _command(self, options):
        path = self.bundle / "config.json"
        config = json.loads(path.read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] += options
        config["process"]["capabilities"] = {}
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": most, "hard": most}]
        # In place of the image's volume; /sys is not tensord's business.
        others = (INSIDE, "/sys", "/sys/fs/cgroup")
        config["mounts"] = [m for m in config["mounts"] if m["destination"] not in others]
        config["mounts"].append({"destination": INSIDE, "type": "bind", "source": str(self.folder),
                                 "options": ["rbind", "rw", "nosuid", "nodev"]})  # fmt: skip
        path.write_text(json.dumps(config))
        self._stack.callback(run, "runc", "delete", "--force", self.name)
        return ["runc", "run", "--bundle", self.bundle, self.name]

    def inside(self, *command):
        return run("runc", "exec", self.name, *command)


@pytest.fixture(scope="module")
def daemon(image):
    with temporary_folder(mode=0o711) as work, \
            temporary_folder(owner=BASES["daemon"] + USER) as folder:  # fmt: skip
        ids = f"0:{BASES['daemon']}:65536"
        bundle = work / "bundle"
        subprocess.run(["umoci", "unpack", "--uid-map", ids, "--gid-map", ids, "--image", image,
                        bundle], check=True, capture_output=True, timeout=UNPACK_S)  # fmt: skip
        bundle.chmod(0o711)  # the container's root has to find its root file system
        with ImageDaemon(folder, bundle) as running:
            yield running


def test_the_image_says_how_it_is_run(image):
    manifest = blob(json.loads((IMAGE / "index.json").read_text())["manifests"][0])
    assert len(manifest["layers"]) == 2  # Debian's, and tensord's
    config = blob(manifest["config"])["config"]
    assert config["Entrypoint"] == ["/usr/bin/tensord"]
    assert config["User"] == f"{USER}:{USER}"
    assert set(config["ExposedPorts"]) == {"7070/tcp", "7071/tcp"}
    assert set(config["Volumes"]) == {INSIDE}
    assert f"TENSORD_SOCKET={INSIDE}/tensord.sock" in config["Env"]
    size = sum(layer["size"] for layer in manifest["layers"])
    print(f"{size / MIB:.0f} MiB compressed")
    assert size < 100 * MIB


def test_the_containerfile_says_the_same(image):
    manifest = blob(json.loads((IMAGE / "index.json").read_text())["manifests"][0])
    config = blob(manifest["config"])["config"]
    text = (ROOT / "deploy/Containerfile").read_text().replace("\\\n", " ")
    said = dict(re.findall(r"^(ENTRYPOINT|USER|ENV|VOLUME|EXPOSE|STOPSIGNAL)\s+(.*)$", text, re.M))
    assert json.loads(said["ENTRYPOINT"]) == config["Entrypoint"]
    assert said["USER"] == config["User"] and said["STOPSIGNAL"] == config["StopSignal"]
    assert set(said["ENV"].split()) <= set(config["Env"])
    assert said["VOLUME"].split() == list(config["Volumes"])
    assert {f"{port}/tcp" for port in said["EXPOSE"].split()} == set(config["ExposedPorts"])


def blob(descriptor):
    return json.loads((IMAGE / "blobs" / descriptor["digest"].replace(":", "/")).read_text())


def test_it_serves_the_machine_through_the_mounted_folder(daemon):
    import numpy as np

    import tensord

    assert "unix:///run/tensord/tensord.sock" in daemon.log()
    status = daemon.inside("cat", "/proc/1/status")
    assert f"Uid:\t{USER}\t" in status and "CapEff:\t0000000000000000" in status
    shm = daemon.inside("df", "--output=size,used", "--block-size=1M", "/dev/shm").split()[-2:]
    assert shm == ["64", "0"]
    with tensord.connect(f"unix://{daemon.folder}/tensord.sock") as client:
        client["x"] = np.arange(1 << 20, dtype="f4")
        x = client["x"]
        assert float(x.numpy().sum()) == float(np.arange(1 << 20, dtype="f4").sum())
        assert x.memory == "shared"
        ours = client.full((512 * MIB,), 5, dtype="uint8", name="large")
        array = ours.numpy()
        assert ours.memory == "shared" and array.nbytes == 512 * MIB and array[-1] == 5
        with Client("a", f"unix://{INSIDE}/tensord.sock", [(daemon.folder, INSIDE)]) as other:
            other.run("t = c['large']; y = t.numpy(); y[7] = 70")
            assert other.ask("t.memory") == "shared" and array[7] == 70
        said = daemon.inside("tensorctl", "ls")
        assert "large" in said and "x" in said
        del array, ours
    assert daemon.inside("df", "--output=used", "--block-size=1M", "/dev/shm").split()[-1] == "0"


def test_it_ends_as_engines_end_it(daemon):
    run("runc", "kill", daemon.name, "TERM")
    assert daemon.process.wait(30) == 0
    assert "stopped" in daemon.log().splitlines()[-1]
    assert not (daemon.folder / "tensord.sock").exists()
