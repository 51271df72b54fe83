"""A short tour of tensord: a tensor is put, printed, shared with a second process, changed there,
and seen here. Needs a running daemon (deploy/up.sh starts one and runs this) and NumPy.
"""

import os
import subprocess
import sys

import numpy as np

import tensord

# What the second process runs: it knows nothing but the name.
SECOND_PROCESS = """
import os, tensord
client = tensord.connect()
array = client["tour/sine"].numpy()
array[0, 0] = 100.0
print(f"   process {os.getpid()}: wrote array[0, 0] = 100")
try:
    client["tour/frozen"].numpy()[0, 0] = 1.0
except ValueError as error:
    print(f"   process {os.getpid()}: tour/frozen refuses: {error}")
"""


def main():
    with tensord.connect() as client:
        print("1. NumPy code makes a sine table; its memory is one the daemon can take part in")
        with tensord.allocator():
            degrees = np.arange(0.0, 360.0, 15.0).reshape(4, 6)
            sine = np.sin(np.deg2rad(degrees)).round(4)

        print("2. the array's memory becomes the tensor tour/sine; a copy is put as tour/frozen")
        client.from_numpy("tour/sine", sine, require_shared=True)
        client["tour/frozen"] = sine
        print(client["tour/sine"])

        print(f"3. this is process {os.getpid()}; a second one opens both by name")
        sys.stdout.flush()
        subprocess.run([sys.executable, "-c", SECOND_PROCESS], check=True)

        print(f"4. here, sine[0, 0] is now {sine[0, 0]}: the same memory, nothing was copied")
        assert sine[0, 0] == 100.0
        assert client["tour/frozen"].numpy()[0, 0] == 0.0

        half = client["tour/frozen"].to("float16")
        print(f"5. cast in the daemon: {half.dtype}, {half.nbytes} bytes instead of {sine.nbytes}")

        del client["tour/sine"], client["tour/frozen"]


if __name__ == "__main__":
    main()
