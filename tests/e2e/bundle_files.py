"""Files of tensors for the tests of load and save, made by the libraries that others use."""

import contextlib
import io
import json
import struct
import zipfile

import ml_dtypes
import numpy as np
from harness import all_names, ok, read_entries
from safetensors.numpy import save

DTYPES = {"BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16,
          "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I32": np.int32, "U32": np.uint32,
          "F32": np.float32, "C64": np.complex64, "F64": np.float64, "I64": np.int64,
          "U64": np.uint64, "F8_E4M3": ml_dtypes.float8_e4m3fn,
          "F8_E5M2": ml_dtypes.float8_e5m2}  # fmt: skip
NAMES = {np.dtype(kind): np.dtype(kind).name for kind in [*DTYPES.values(), np.complex128]}


def model(seed=0, scale=1):
    """Some tensors of a network, of several dtypes and ranks."""
    random = np.random.default_rng(seed)
    return {
        "embed.weight": random.standard_normal((16 * scale, 32)).astype(np.float32),
        "layers/0/w": random.standard_normal((8, 16, 3)).astype(np.float16),
        "layers/0/b": random.integers(-9, 9, 7).astype(np.int64),
        "steps": np.array(seed, np.int32),
        "mask": random.integers(0, 2, 5).astype(bool),
        "none": np.zeros((0, 4), np.float64),
    }


def safetensors_file(entries, metadata=None, pad=True, tail=b""):
    """A file written by hand: [(name, dtype, shape, bytes)] in this order."""
    header, at = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, dtype, shape, data in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    if pad:
        text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(e[3] for e in entries) + tail


def every_dtype():
    """An array of each dtype that safetensors has here."""
    return {code: np.arange(6).reshape(2, 3).astype(kind) for code, kind in DTYPES.items()}


def all_codes_file():
    """every_dtype() as safetensors, also what safetensors.numpy cannot write."""
    arrays = every_dtype()
    order = sorted(arrays, key=lambda code: (-arrays[code].itemsize, code))
    return safetensors_file([(c, c, [2, 3], arrays[c].tobytes()) for c in order])


def npz_file(arrays, compressed=False):
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)
    return out.getvalue()


def npy_file(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def bomb(megabytes):
    """An archive of few bytes whose one array has so many MiB of zeros."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("zeros.npy", "w") as member:
            head = io.BytesIO()
            shape = (megabytes << 20,)
            np.lib.format.write_array_header_1_0(
                head, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            member.write(head.getvalue())
            for _ in range(megabytes):
                member.write(bytes(1 << 20))
    return out.getvalue()


def load(client, body=b"", **fields):
    """The reply's fields, and its entries by name."""
    reply = client.request("load", fields, body)
    entries = read_entries(reply)
    assert ok(reply)["count"] == len(entries)
    return reply[1], {entry["name"]: entry for entry in entries}


def stored(client, name):
    """The array behind a name."""
    info = ok(client.request("info", {"input": name}))
    _, _, body, _ = client.request("get", {"input": name})
    kind = next(k for k in NAMES if NAMES[k] == info["dtype"])
    return np.frombuffer(body, kind).reshape(info["shape"])


def assert_same(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    assert got.tobytes() == np.ascontiguousarray(want).tobytes()


def assert_stored(client, prefix, arrays):
    """Under the prefix are these arrays and nothing else."""
    names = {entry["name"] for entry in all_names(client, prefix=prefix)}
    assert names == {prefix + name for name in arrays}
    for name, array in arrays.items():
        assert_same(stored(client, prefix + name), array)


def delete_all(client):
    for entry in all_names(client):
        ok(client.request("delete", {"input": entry["name"]}))


@contextlib.contextmanager
def emptied(daemon):
    """A client of a daemon that others have left alone; nothing is named after it."""
    daemon.quiet()
    with daemon.connect() as connected:
        yield connected
        delete_all(connected)


__all__ = ["save"] + [name for name in dir() if not name.startswith("_")]
