"""The curl command, as a person would type it: what it printed, and what it was told."""

import io
import json
import shutil
import subprocess

import numpy as np
import pytest


class Curl:
    """Runs curl against one daemon, with a jar for its cookies, which hold the session."""

    def __init__(self, url, folder):
        if not shutil.which("curl"):
            pytest.fail("curl is missing; tests/run.sh installs it")
        self.url = url
        self.folder = folder
        self.jar = folder / "cookies"

    def __call__(self, *arguments, path):
        """The bytes of the answer; `path` follows the daemon's address."""
        jar = ["--cookie", self.jar, "--cookie-jar", self.jar]
        command = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            *jar,
            *arguments,
            self.url + path,
        ]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=90).stdout

    def put(self, name, array):
        """curl -T x.npy: the description of what was stored."""
        file = self.folder / "x.npy"
        np.save(file, array)
        return json.loads(self("-T", file, path=f"/v1/tensors/{name}"))

    def json(self, name, data, *query):
        """curl -X PUT -d '[[1, 2], [3, 4]]'."""
        return json.loads(
            self("-X", "PUT", "-d", json.dumps(data), path=f"/v1/tensors/{name}" + "".join(query))
        )

    def op(self, op, **fields):
        """curl URL/v1/ops/OP -d '{"input": ...}': the reply, or the problem."""
        return json.loads(self("-d", json.dumps(fields), path=f"/v1/ops/{op}"))

    def text(self, name, query=""):
        """As PyTorch prints it."""
        return self(path=f"/v1/tensors/{name}?format=text{query}").decode().removesuffix("\n")

    def numpy(self, name, query=""):
        """x.numpy(): the array, or the text of the error."""
        body = self(path=f"/v1/tensors/{name}?format=npy{query}")
        if body.startswith(b"\x93NUMPY"):
            return np.load(io.BytesIO(body))
        return json.loads(body)["detail"]

    def info(self, name):
        return json.loads(self(path=f"/v1/tensors/{name}"))

    def values(self, name):
        return json.loads(self(path=f"/v1/tensors/{name}?values=true"))["data"]


@pytest.fixture
def curl(daemon, tmp_path):
    return Curl(daemon.http_url, tmp_path)
