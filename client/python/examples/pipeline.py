"""A pipeline of three processes: decode -> batch -> consume, handed over without copies.

    python3 pipeline.py            the default socket, or TENSORD_URL
    python3 pipeline.py 2000       so many frames instead of 400

Each process knows the other ones by nothing but the names of two queues. `decode` fills frames
right in the daemon's memory; `batch` puts sixteen of them together, again in such memory; `consume`
reads the batches where they lie. The only copy is the one that `batch` makes, because a batch is
one piece.

Needs a running daemon (deploy/up.sh starts one) and NumPy. It ends by itself, and deletes its
queues.
"""

import multiprocessing
import os
import sys
import time

import numpy as np

import tensord

HEIGHT, WIDTH = 480, 640
BATCH = 16
FRAMES, BATCHES = "example/frames", "example/batches"  # the queues


def decode(count):
    """The first process: makes frames. A camera or a video file would be read here instead."""
    with tensord.connect() as client:
        frames = client.queue(FRAMES, maxsize=2 * BATCH)
        for number in range(count):
            # Memory of the daemon, which this process has mapped: the same few pieces again and
            # again. allocate() waits while the others are behind, so that we do not run away.
            with frames.allocate((HEIGHT, WIDTH, 3), "uint8") as frame:
                frame.array[:] = number % 256
                frames.put(frame, meta=str(number))
        frames.close()  # no more are to come: who iterates over the queue ends after the last one


def batch():
    """The second process: puts frames together."""
    with tensord.connect() as client:
        frames, batches = client.queue(FRAMES), client.queue(BATCHES, maxsize=4)
        collected = []  # (number, array)
        for item in frames:
            # The array is the memory that was filled. It stays what it is as long as we have it,
            # although the item is done with as soon as the next one is asked for.
            collected.append((int(item.meta), item.numpy()))
            if len(collected) == BATCH:
                put_batch(batches, collected)
                collected.clear()
        if collected:
            put_batch(batches, collected)
        batches.close()


def put_batch(batches, collected):
    """One tensor of all the frames, and one of their numbers, as one item."""
    numbers = [number for number, _frame in collected]
    with batches.allocate((len(collected), HEIGHT, WIDTH, 3), "uint8") as images:
        for slot, (_number, frame) in zip(images.array, collected):
            slot[:] = frame
        meta = f"{numbers[0]} to {numbers[-1]}"  # a small text that goes along
        batches.put({"images": images, "numbers": numbers}, meta=meta)


def consume(count):
    """The third process: reads batches. A model would be trained here; item["images"].torch() is
    the same memory for PyTorch."""
    with tensord.connect() as client:
        seen = read = 0
        copied, pieces = set(), set()
        begun = None
        for item in client.queue(BATCHES):
            begun = begun or time.perf_counter()
            images, numbers = item["images"], item["numbers"].numpy()
            pixels = images.numpy()  # the daemon's own memory, read-only; over TCP a copy
            first, last = pixels[:, 0, 0, 0], pixels[:, -1, -1, -1]
            assert (first == numbers % 256).all() and (last == numbers % 256).all()
            seen += len(numbers)
            read += pixels.nbytes
            copied.add(f"{images.memory} {images.reason}".strip())
            pieces.add(pixels.ctypes.data)
        spent = time.perf_counter() - begun
        assert seen == count, f"{seen} frames of {count} came"
        print(f"   process {os.getpid()}: consumed {seen} frames, {read / 1e6:.0f} MB,")
        print(f"   {read / spent / 1e9:.2f} GB/s; the batches' memory was {', '.join(copied)}: "
              f"{len(pieces)} pieces, used again and again")  # fmt: skip


def main():
    arguments = sys.argv[1:] or ["400"]
    if len(arguments) != 1 or not arguments[0].isdecimal():
        sys.exit(__doc__)
    count = int(arguments[0])
    with tensord.connect() as client:
        if not client.is_local:
            sys.exit("this example fills the daemon's memory in place, which needs the Unix socket")
        for name in (FRAMES, BATCHES):  # of a run that did not come to its end
            if name in client.queues(name):
                client.queue(name).delete()
        # Whoever comes first makes a queue; here that is us, so that none waits for another.
        frames, batches = client.queue(FRAMES, maxsize=2 * BATCH), client.queue(BATCHES, maxsize=4)
        print(f"three processes, {count} frames of {HEIGHT} x {WIDTH} x 3 bytes")

        # "spawn": three interpreters that share nothing but the address of the daemon.
        spawn = multiprocessing.get_context("spawn")
        workers = [spawn.Process(target=decode, args=(count,)), spawn.Process(target=batch),
                   spawn.Process(target=consume, args=(count,))]  # fmt: skip
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        for queue in (frames, batches):
            info = queue.info()
            print(f"   {queue.name}: {info['puts']} put, {info['acks']} acknowledged")
            queue.delete()
        if any(worker.exitcode for worker in workers):
            sys.exit("a process of the pipeline failed")


if __name__ == "__main__":
    main()
