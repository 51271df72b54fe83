"""The examples of openapi.json, for update_openapi.py; test_http_contract.py runs them all."""

import sys

EXAMPLE = {
    "input": "x", "other": "y", "output": "z", "dtype": "float16", "shape": [3, 2], "value": 0.5,
    "end": 10, "high": 10, "dim": 0, "dim0": 0, "dim1": 1, "dims": [1, 0], "index": "0, 1:",
    "queue": "q", "tensors": "image=x\nlabel=y", "lease": 7,
}  # fmt: skip
# Where the fields that are needed (and an output) make no good example.
EXAMPLES = {
    "copy_": {"input": "y", "other": "x"},
    "cuda": {"input": "x", "device": "cuda:0", "output": "z"},
    "delete": {"input": "old"},
    "load": {"path": "model.safetensors", "prefix": "model"},
    "save": {"tensors": "first=x\nsecond=y", "format": "safetensors"},
    "expand": {"input": "x", "shape": [4, 2, 3], "output": "z"},
    "eye": {"shape": [3], "output": "z"},
    "fill_": {"input": "y", "value": 0.5},
    "grad": {"input": "v", "output": "z"},
    "hello": {"protocol": 1},
    "item": {"input": "s"},
    "leases": {"limit": 10},
    "list": {"prefix": "x", "limit": 10},
    "release": {"input": "@17"},
    "rename": {"input": "old", "output": "new"},
    "queue_get": {"queue": "q", "timeout_ms": 1000},
    "queue_put": {"queue": "q", "tensors": "image=x\nlabel=y", "meta": "{\"frame\": 1}"},
    "queues": {"prefix": "q", "limit": 10},
    "requires_grad_": {"input": "y", "requires_grad": False},
    "seal": {"input": "x", "wait_ms": 0, "output": "z"},
    "select": {"input": "x", "dim": 0, "index": 1, "output": "z"},
    "set_grad": {"input": "v", "other": "x"},
    "setitem": {"input": "y", "index": "0, 1:", "value": 0.5},
    "slice": {"input": "x", "dim": 1, "index": "0:2", "output": "z"},
    "to": {"input": "x", "dtype": "float16", "output": "z"},
    "touch": {"input": "y"},
    "wait": {"input": "x", "timeout_ms": 1000},
    "watch": {"prefix": "x", "since": 0, "timeout_ms": 1000},
}
TENSOR = {"dtype": "float32", "shape": [2, 3], "data": [[1, 2, 3], [4, 5, 6]]}
BATCH = {"operations": [{"op": "transpose", "input": "x", "dim0": 0, "dim1": 1},
                        {"op": "contiguous", "input": "@[0]", "output": "z"}]}  # fmt: skip


def example_of(op):
    if op["name"] in EXAMPLES:
        return EXAMPLES[op["name"]]
    names = dict.fromkeys(op["required"] + (["output"] if "makes" in op["traits"] else []))
    for name in names:
        if name not in EXAMPLE:
            sys.exit(f"openapi_examples.py: {op['name']} needs {name}, and EXAMPLE has no value")
    return {name: EXAMPLE[name] for name in names}
