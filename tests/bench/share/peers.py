"""What hands a tensor to a Python process: tensord, and those that it is compared with.

Each peer has fetch() -> NumPy array of the tensor's memory (or of a copy), check(array), done(),
and `every`: how often it takes its turn. One that is not installed is left out, and that is said.
"""

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from multiprocessing import shared_memory

import numpy
import tensord

NAME = "bench-share"
START_S = 30
TITLES = {
    "torch": "torch.multiprocessing, file_system",
    "torch_fd": "torch.multiprocessing, file_descriptor",
    "shm": "shared_memory",
    "redis": "redis-py GET",
    "vineyard": "Vineyard",
}


def install(root):
    script = f". {root}/deploy/packages.sh && ensure_packages redis-server"
    subprocess.run(["bash", "-c", script], check=True)
    for package in "redis", "vineyard setuptools<81":
        command = [sys.executable, "-m", "pip", "install", "-q", *package.split()]
        done = subprocess.run(command)
        if done.returncode != 0:
            print(f"{package} cannot be installed here, and is left out")


def wait_for(path, process):
    until = time.monotonic() + START_S
    while not os.path.exists(path):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{process.args[0]} does not start")
        time.sleep(0.02)


def ended(process):
    process.terminate()
    try:
        process.wait(START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Peer:
    every = 1

    def __init__(self, size):
        self.values = numpy.arange(size // 4, dtype="f4")

    def check(self, values):
        assert values[-1] == self.values[-1] and len(values) == len(self.values)

    def done(self):
        """After the array has been dropped."""


class Tensord(Peer):
    """By its name, as an array of its memory."""

    def __init__(self, stack, daemon, _folder, size):
        super().__init__(size)
        self.client = stack.enter_context(tensord.connect(daemon.unix_url))
        self.client[NAME] = self.values
        stack.callback(self.client.delete, NAME)

    def fetch(self):
        return self.client.numpy(NAME)


class SharedMemory(Peer):
    def __init__(self, stack, _daemon, _folder, size):
        super().__init__(size)
        self.segment = shared_memory.SharedMemory(create=True, size=size)
        stack.callback(self.segment.unlink)
        stack.callback(self.segment.close)
        numpy.ndarray(self.values.shape, "f4", self.segment.buf)[...] = self.values
        self.attached = None

    def fetch(self):
        self.attached = shared_memory.SharedMemory(self.segment.name)
        return numpy.ndarray(self.values.shape, "f4", self.attached.buf)

    def done(self):
        self.attached.close()


class Redis(Peer):
    every = 12

    def __init__(self, stack, _daemon, folder, size):
        import redis

        super().__init__(size)
        if not shutil.which("redis-server"):
            raise ImportError("redis-server")
        path = folder / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "",
                   "--appendonly", "no", "--dir", folder]
        log = stack.enter_context(open(folder / "redis.log", "wb"))
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        stack.callback(ended, process)
        wait_for(path, process)
        self.client = redis.Redis(unix_socket_path=str(path))
        self.client.set(NAME, self.values.tobytes())

    def fetch(self):
        return numpy.frombuffer(self.client.get(NAME), "f4")


class Vineyard(Peer):
    def __init__(self, stack, _daemon, folder, size):
        import vineyard

        super().__init__(size)
        path = folder / "vineyard.sock"
        log = stack.enter_context(open(folder / "vineyard.log", "wb"))
        command = [sys.executable, "-m", "vineyard", "--socket", path, "--size", "512Mi",
                   "--meta", "local", "--rpc", "false"]
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        stack.callback(ended, process)
        wait_for(path, process)
        self.client = vineyard.connect(str(path))
        stack.callback(self.client.close)
        self.id = self.client.put(self.values)

    def fetch(self):
        return numpy.asarray(self.client.get(self.id))


# ---- torch.multiprocessing: a tensor comes through a queue from another process ----------------


def torch_giver(strategy, size, asked, given):
    import torch
    import torch.multiprocessing as mp

    mp.set_sharing_strategy(strategy)
    tensor = torch.arange(size // 4, dtype=torch.float32).share_memory_()
    while asked.get():
        given.put(tensor)


class Torch(Peer):
    """The hand-over of a tensor that is shared already: asked for, and got, as a round trip."""

    def __init__(self, stack, _daemon, _folder, size, strategy="file_system"):
        import torch.multiprocessing as mp

        super().__init__(size)
        mp.set_sharing_strategy(strategy)
        self.mp, self.strategy = mp, strategy
        context = mp.get_context("spawn")
        self.asked, self.given = context.SimpleQueue(), context.SimpleQueue()
        self.giver = context.Process(
            target=torch_giver, args=(strategy, size, self.asked, self.given), daemon=True
        )
        self.giver.start()
        stack.callback(self._end)

    def _end(self):
        self.asked.put(False)
        self.giver.join(START_S)
        self.giver.kill()

    def fetch(self):
        self.mp.set_sharing_strategy(self.strategy)
        self.asked.put(True)
        return self.given.get().numpy()


class TorchDescriptors(Torch):
    def __init__(self, *arguments):
        super().__init__(*arguments, strategy="file_descriptor")


KINDS = {"tensord": Tensord, "torch": Torch, "torch_fd": TorchDescriptors, "shm": SharedMemory,
         "redis": Redis, "vineyard": Vineyard}  # fmt: skip


def open_all(stack, daemon, folder, size):
    sides = {}
    for side, kind in KINDS.items():
        try:
            sides[side] = kind(stack, daemon, folder, size)
        except (ImportError, RuntimeError) as error:
            print(f"{TITLES[side]} is left out: {error} (--peers installs it)")
    return sides


# ---- pipes: there and back -----------------------------------------------------------------------


def tensord_mirror(url, there, back):
    with tensord.connect(url) as client:
        results = client.queue(back)
        for item in client.queue(there):
            values = item.numpy()
            assert values[0] == values[-1]
            results.put(item.tensor)
            del values


class TensordPipe:
    """Filled in place, taken by another process, and handed back by it, by reference."""

    def __init__(self, stack, daemon, size):
        self.count = size // 4
        self.client = stack.enter_context(tensord.connect(daemon.unix_url))
        self.there, self.back = (self.client.queue(f"{NAME}-{way}") for way in ("to", "fro"))
        context = multiprocessing.get_context("spawn")
        self.mirror = context.Process(
            target=tensord_mirror, args=(daemon.unix_url, self.there.name, self.back.name),
            daemon=True,
        )
        self.mirror.start()
        self.turn = 0
        stack.callback(self._end)

    def _end(self):
        self.there.close()
        self.mirror.join(START_S)
        self.mirror.kill()
        for queue in self.there, self.back:
            queue.delete()

    def round_trip(self):
        self.turn += 1
        with self.there.allocate(self.count) as segment:
            segment.array[0] = segment.array[-1] = self.turn
            self.there.put(segment)
        with self.back.get() as item:
            values = item.numpy()
            assert values[0] == values[-1] == self.turn
            del values


def torch_mirror(there, back):
    import torch.multiprocessing as mp

    mp.set_sharing_strategy("file_system")
    while (tensor := there.get()) is not None:
        assert tensor[0] == tensor[-1]
        back.put(tensor)


class TorchPipe:
    def __init__(self, stack, _daemon, size):
        import torch
        import torch.multiprocessing as mp

        mp.set_sharing_strategy("file_system")
        self.mp = mp
        self.tensor = torch.zeros(size // 4).share_memory_()
        context = mp.get_context("spawn")
        self.there, self.back = context.SimpleQueue(), context.SimpleQueue()
        self.mirror = context.Process(
            target=torch_mirror, args=(self.there, self.back), daemon=True
        )
        self.mirror.start()
        self.turn = 0
        stack.callback(self._end)

    def _end(self):
        self.there.put(None)
        self.mirror.join(START_S)
        self.mirror.kill()

    def round_trip(self):
        self.mp.set_sharing_strategy("file_system")
        self.turn += 1
        self.tensor[0] = self.tensor[-1] = self.turn
        self.there.put(self.tensor)
        tensor = self.back.get()
        assert tensor[0] == tensor[-1] == self.turn


def open_pipes(stack, daemon, size):
    sides = {"tensord": TensordPipe(stack, daemon, size)}
    with contextlib.suppress(ImportError):
        sides["torch"] = TorchPipe(stack, daemon, size)
    return sides
