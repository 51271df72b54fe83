"""The second process of a test: runs lines of Python that come as JSON, with a client of its own.

    {"run": "a = c['x'].numpy()"} -> {"value": null}
    {"ask": "a.tolist()"}         -> {"value": [1.0, 2.0]}
"""

import hashlib
import json
import sys
import traceback

import numpy as np

import tensord


def sha256(array):
    """Of an array's elements in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def main():
    with tensord.connect(sys.argv[1]) as client:
        space = {"c": client, "np": np, "sha256": sha256, "tensord": tensord}
        for line in sys.stdin:
            request = json.loads(line)
            try:
                if "run" in request:
                    exec(request["run"], space)
                    answer = {"value": None}
                else:
                    answer = {"value": eval(request["ask"], space)}
            except Exception:
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
