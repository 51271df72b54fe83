"""The members of the pipeline that test_chaos.py torments: each a process that loops until SIGTERM.

    python3 tests/e2e/chaos_members.py ROLE URL FOLDER SLOT SEED

What is read is checked: every array begins with a header that says who made it and holds a
checksum of all that follows. A reader looks at all bytes, waits, and looks again, for what it holds
must stay what it was. What is wrong goes to FOLDER/violations, a line each; FOLDER/counters is
shared by all.

SIGUSR1 cuts the member's connections, wherever it is.
"""

import faulthandler
import os
import pathlib
import random
import resource
import signal
import socket
import stat
import struct
import sys
import time
import traceback
import zlib

import numpy as np
import plain_client
import tensord

HEADER = struct.Struct("<8sIIQII")  # magic, maker, kind, sequence, bytes that follow, checksum
MAGIC = b"chaos\0\0\1"
COUNTERS = ("puts", "gets", "maps", "refused", "lost", "late", "held", "published")
SLOTS = 4096
SHORT_S = 0.3  # of waiting in queues, so that the members look around now and then
NAMES = [f"chaos/{i}" for i in range(6)]
EXPECTED = (
    tensord.ConnectionError, tensord.OutOfMemory, tensord.Full, tensord.Empty, tensord.NotFound,
    tensord.Unavailable, tensord.Deadline, tensord.Conflict, tensord.Cancelled,
)  # fmt: skip
BROKEN = (OSError, plain_client.Disconnected, plain_client.Refused)


# ---- what is handed over -----------------------------------------------------------------------


def checksum(kind, maker, sequence, body):
    return zlib.crc32(body, zlib.crc32(struct.pack("<IIQ", maker, kind, sequence)))


def fill(array, kind, maker, sequence):
    """Writes a payload over a whole array of bytes."""
    body = array[HEADER.size :]
    step = 1 + sequence % 251
    body[:] = np.arange(maker, maker + len(body) * step, step, np.uint64).astype(np.uint8)
    seal(array, kind, maker, sequence)


def seal(array, kind, maker, sequence):
    body = array[HEADER.size :]
    crc = checksum(kind, maker, sequence, body)
    head = HEADER.pack(MAGIC, maker, kind, sequence, len(body), crc)
    array[: HEADER.size] = np.frombuffer(head, np.uint8)


def problem(array, kind, expected=None):
    """What is wrong with the bytes that were read, or None; and what they are."""
    magic, maker, made, sequence, length, crc = HEADER.unpack(array[: HEADER.size].tobytes())
    if magic != MAGIC or made != kind or length != len(array) - HEADER.size:
        return f"no payload of kind {kind}: {magic!r} {made} {length} of {len(array)}", None
    if checksum(made, maker, sequence, array[HEADER.size :]) != crc:
        return f"torn: {maker}:{sequence} of {length} bytes", None
    if expected is not None and expected != f"{maker}:{sequence}":
        return f"{maker}:{sequence} where {expected} was put", None
    return None, f"{maker}:{sequence}"


class Member:
    def __init__(self, role, url, folder, slot, seed):
        self.role, self.url, self.folder = role, url, pathlib.Path(folder)
        self.random = random.Random(f"{role} {seed}")
        self.number = int(slot)
        table = np.memmap(self.folder / "counters", np.int64, "r+", shape=(SLOTS, len(COUNTERS)))
        self.counters = table[self.number]
        self.sequence = 0
        self.leaving = False
        # Open from the start: there may be no descriptor to spare later.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self.violations = os.open(self.folder / "violations", flags)

    def count(self, what):
        self.counters[COUNTERS.index(what)] += 1

    def violation(self, text):
        line = f"{self.role} {self.number} (process {os.getpid()}): {text}\n"
        os.write(self.violations, line.encode())

    def check(self, array, kind, expected=None):
        """Reads all of it, now and in a while."""
        wrong, first = problem(array, kind, expected)
        if wrong is None:
            if self.random.random() < 0.3:
                time.sleep(self.random.random() * 0.02)
            wrong, again = problem(array, kind, expected)
            if wrong is None and again != first:
                wrong = f"it was {first}, and is {again} now, while it was held"
            elif wrong is not None:
                wrong = f"it was {first}, and while it was held: {wrong}"
        if wrong is not None:
            self.violation(wrong)
        return first

    def size(self):
        """Bytes of a payload: some are smaller than a page, and none is a multiple of one."""
        return self.random.choice((200, 3000, 70_001, 130_003, 260_009)) + HEADER.size

    def tag(self):
        return f"{self.number}:{self.sequence}"

    def connect(self):
        return tensord.connect(self.url, timeout=20)

    def loop(self, client, turn):
        """Turns until SIGTERM; what may happen to anybody here does not end it."""
        while not self.leaving:
            try:
                turn(client)
            except EXPECTED as error:
                lost = isinstance(error, tensord.ConnectionError)
                self.count("lost" if lost else "refused")
                if not isinstance(error, (tensord.Full, tensord.Empty)):
                    time.sleep(0.01 + self.random.random() * 0.04)

    def run(self):
        client = None
        while client is None and not self.leaving:
            try:
                client = self.connect()
            except EXPECTED:
                time.sleep(0.05)
        getattr(self, self.role)(client)


def queues(client):
    """As everybody opens them: whoever comes first makes them."""
    first = client.queue("chaos/first", maxsize=5, visibility=0.5)
    second = client.queue("chaos/second", maxsize=5, visibility=0.5)
    return first, second


def open_queues(client):
    while True:
        try:
            return queues(client)
        except EXPECTED:  # SIGTERM ends it in its sleep
            time.sleep(0.05)


# ---- the pipeline ------------------------------------------------------------------------------


class Pipeline(Member):
    def put(self, q, kind, fill_it):
        """Recycled memory, filled in place; or an array of this process, which is copied."""
        self.sequence += 1
        size, tag = self.size(), self.tag()
        if self.random.random() < 0.7:
            with q.allocate(size, "uint8", timeout=SHORT_S) as segment:
                fill_it(segment.array)
                q.put(segment, timeout=SHORT_S, meta=tag)
        else:
            array = np.empty(size, np.uint8)
            fill_it(array)
            q.put({"x": array, "more": [self.sequence]}, timeout=SHORT_S, meta=tag)
        self.count("puts")

    def source(self, client):
        first, _ = open_queues(client)
        self.loop(client, lambda _c: self.put(
            first, 1, lambda array: fill(array, 1, self.number, self.sequence)))  # fmt: skip

    def mutant(self, client):
        """Writes to what it has put, through a PyTorch tensor that it should have let go."""
        first, _ = open_queues(client)

        def turn(_client):
            aliases = []
            for _ in range(4):
                self.sequence += 1
                segment = first.allocate(self.size(), "uint8", timeout=SHORT_S)
                aliases.append(segment.torch())
                fill(segment.array, 1, self.number, self.sequence)
                first.put(segment, timeout=SHORT_S, meta=self.tag())
                self.count("puts")
            for alias in aliases:
                alias[-1] ^= 0xFF

        self.loop(client, turn)

    def transform(self, client):
        first, second = open_queues(client)

        def turn(_client):
            with first.get(timeout=SHORT_S) as item:
                array = item[0].numpy()
                self.check(array, 1, item.meta)
                self.count("gets")
                if self.random.random() < 0.2:  # by reference
                    second.put(item[0], timeout=SHORT_S, meta=item.meta)
                    self.count("puts")
                    return

                def turned(out):
                    part = array[HEADER.size : len(out)]
                    out[HEADER.size :] = 0
                    out[HEADER.size : HEADER.size + len(part)] = ~part
                    seal(out, 2, self.number, self.sequence)

                self.put(second, 2, turned)

        self.loop(client, turn)

    def sink(self, client):
        _, second = open_queues(client)
        kept = []  # arrays of items that are done with

        def turn(_client):
            if kept and (len(kept) > 3 or self.random.random() < 0.3):
                array, kind, meta = kept.pop(0)
                self.check(array, kind, meta)
                self.count("held")
            item = second.get(timeout=SHORT_S)
            array = item[0].numpy()
            kind = int(array[12])
            self.check(array, kind if kind in (1, 2) else 2, item.meta)
            self.count("gets")
            chance = self.random.random()
            if chance < 0.1:
                item.retry()
            elif chance < 0.4:
                try:
                    item.ack()
                except tensord.Conflict:
                    self.count("late")
            else:
                item.done()
            if self.random.random() < 0.3:
                kept.append((array, kind, item.meta))

        self.loop(client, turn)

    far = sink  # over TCP, where all is copied

    def starved(self, client):
        """A sink with hardly a descriptor to spare."""
        _, second = open_queues(client)
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, used + 1))
        held = []

        def turn(_client):
            if len(held) < 3 and self.random.random() < 0.5:
                try:
                    held.append(os.dup(0))
                except OSError:
                    pass
            elif held:
                os.close(held.pop())
            with second.get(timeout=SHORT_S) as item:
                array = item[0].numpy()
                self.check(array, int(array[12]), item.meta)
                self.count("gets")

        self.loop(client, turn)


# ---- names -------------------------------------------------------------------------------------


class Names(Member):
    def publisher(self, client):
        def turn(_client):
            name = self.random.choice(NAMES)
            self.sequence += 1
            chance = self.random.random()
            if chance < 0.15:
                client.delete(name)
                return
            if chance < 0.55:
                with client.allocate(self.size(), "uint8") as memory:
                    fill(memory.array, 3, self.number, self.sequence)
                    memory.publish(name)
            else:
                array = np.empty(self.size(), np.uint8)
                fill(array, 3, self.number, self.sequence)
                client[name] = array
            self.count("published")
            time.sleep(self.random.random() * 0.01)

        self.loop(client, turn)

    def mapper(self, client):
        kept = []

        def turn(_client):
            if kept and (len(kept) > 4 or self.random.random() < 0.4):
                self.check(kept.pop(self.random.randrange(len(kept))), 3)
                self.count("held")
            x = client[self.random.choice(NAMES)]
            array = x.numpy() if self.random.random() < 0.8 else x.fetch()
            self.check(array, 3)
            self.count("maps")
            if self.random.random() < 0.5:
                kept.append(array)

        self.loop(client, turn)


# ---- those who disturb ---------------------------------------------------------------------------


class Disturbers(Member):
    def hog(self, client):
        """Takes all memory that there is, holds it for a moment, and lets go."""

        def turn(_client):
            held = []
            try:
                while True:
                    held.append(client.zeros(self.random.choice((1 << 18, 1 << 20, 1 << 22)),
                                             dtype="uint8"))  # fmt: skip
            except tensord.OutOfMemory:
                self.count("refused")
            time.sleep(0.05 + self.random.random() * 0.2)
            held.clear()
            time.sleep(0.2 + self.random.random() * 0.3)

        self.loop(client, turn)

    def deaf(self, client):
        """Asks for memory and never reads the answers, so that descriptors pile up in sockets."""
        name = f"deaf/{self.number}"
        while not self.leaving:
            peers = []
            try:
                client[name] = np.zeros(70_000, np.uint8)
                for _ in range(4):
                    peers.append(plain_client.PlainClient(self.url))
                    for _ in range(40):
                        peers[-1].send("map", {"input": name})
                time.sleep(0.2 + self.random.random() * 0.3)
                client.delete(name)
            except (*EXPECTED, *BROKEN):
                self.count("refused")
            for peer in peers:
                peer.close()
            time.sleep(0.05)

    def breaker(self, client):
        """Ends connections in the middle of frames, of both directions, and while it waits."""

        def turn(_client):
            peer = plain_client.PlainClient(self.url)
            try:
                frame = plain_client.build_frame(
                    "put", 7, {"output": "chaos/broken", "dtype": "uint8", "shape": [50_000]},
                    bytes(50_000))  # fmt: skip
                what = self.random.randrange(4)
                if what == 0:
                    peer.send_raw(frame[: self.random.randrange(1, len(frame))])
                elif what == 1:
                    for _ in range(self.random.randrange(1, 4)):
                        peer.send("queue_get", {"queue": "chaos/second"})
                    if self.random.random() < 0.5:
                        peer.receive()
                elif what == 2:
                    for _ in range(3):
                        peer.send("allocate", {"queue": "chaos/first", "dtype": "uint8",
                                               "shape": [70_000]})  # fmt: skip
                else:
                    for name in NAMES:
                        peer.send("map", {"input": name})
                    peer.send("get", {"input": NAMES[0]})
                time.sleep(self.random.random() * 0.02)
            finally:
                peer.close()
            self.count("lost")
            time.sleep(0.02)

        while not self.leaving:
            try:
                self.loop(client, turn)
            except BROKEN:
                time.sleep(0.05)


class Everybody(Pipeline, Names, Disturbers):
    pass


def cut_connections(_number, _frame):
    """Ends the member's sockets under its feet; it may be in the middle of a frame."""
    for entry in range(256):  # without looking into /proc, which takes a descriptor
        try:
            if stat.S_ISSOCK(os.fstat(entry).st_mode):
                with socket.socket(fileno=os.dup(entry)) as cut:
                    cut.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # there is none, or no number to spare


def main():
    member = Everybody(*sys.argv[1:6])

    def leave(_number, _frame):
        """Where it is raised in a finalizer it is lost."""
        member.leaving = True
        raise SystemExit(0)

    signal.signal(signal.SIGUSR1, cut_connections)
    signal.signal(signal.SIGTERM, leave)
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    sys.unraisablehook = lambda _what: None  # of such a finalizer
    try:
        member.run()
    except Exception:
        member.violation(f"ended with {traceback.format_exc()}")


if __name__ == "__main__":
    main()
