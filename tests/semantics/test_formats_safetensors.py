"""proto/format/safetensors against the safetensors package, both ways."""

import ctypes
import json
import struct

import pytest
from formats import (
    BAD_DTYPE, BAD_SHAPE, INVALID, NAMES, NUMPY, OK, OWN, RANK_MAX, described, detail, filled, libc,
    many, numbers, shim, st,
)  # fmt: skip
from hypothesis import given

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")
import safetensors.numpy  # noqa: E402
import safetensors.torch  # noqa: E402

TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32",
    "U32": "uint32", "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16",
    "F32": "float32", "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}  # fmt: skip
# From the last to the first the order in which the reference puts them.
RANKS = ["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32",
         "F32", "C64", "F64", "I64", "U64"]  # fmt: skip


def safetensors_read(data, file_bytes=None):
    """({name: (dtype, shape, bytes)}, metadata), or (status, detail)."""
    file, count, metadata = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_char_p()
    whole = len(data) if file_bytes is None else file_bytes
    status = shim.format_shim_safetensors_read(data, len(data), whole, file, count, metadata)
    if status != OK:
        return status, detail()
    entries = {}
    for i in range(count.value):
        out = numbers(5 + RANK_MAX)
        name = shim.format_shim_safetensors_entry(file, i, out).decode()
        begin, end = out[1] + out[3], out[2] + out[3]
        entries[name] = (NAMES[out[0] - 1], tuple(out[5 : 5 + out[4]]), data[begin:end])
    text = None if metadata.value is None else json.loads(metadata.value)
    shim.safetensors_destroy(file)
    return entries, text


def safetensors_write(entries, metadata=None):
    """entries: {name: (dtype, shape, bytes)}, in this order."""
    names = (ctypes.c_char_p * len(entries))(*(name.encode() for name in entries))
    flat = [n for dtype, shape, _ in entries.values() for n in described(dtype, shape)]
    out, length = ctypes.c_void_p(), ctypes.c_size_t()
    text = None if metadata is None else json.dumps(metadata, separators=(",", ":"),
                                                    ensure_ascii=False).encode()  # fmt: skip
    status = shim.format_shim_safetensors_write(
        len(entries), names, (ctypes.c_int64 * len(flat))(*flat), text, out, length
    )
    assert status == OK, detail()
    header = ctypes.string_at(out, length.value)
    libc.free(out)
    return header + b"".join(data for _, _, data in entries.values())


names = st.one_of(
    st.sampled_from(["a", "b", "layer.0.weight", "", "ü€😀", '"\\/\b\f\n\r\t\x01\x7f']),
    st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=6),
).filter(lambda name: name != "__metadata__")


@st.composite
def tensor_files(draw):
    """{name: (safetensors' dtype, shape, bytes)}"""
    small = st.lists(st.sampled_from([0, 1, 2, 3]), max_size=3).map(tuple)
    found = draw(st.dictionaries(names, st.tuples(st.sampled_from(RANKS), small), max_size=5))
    return {
        name: (dtype, shape, filled(NUMPY[TORCH[dtype]], shape).tobytes())
        for name, (dtype, shape) in found.items()
    }


def as_torch(entry):
    dtype, shape, data = entry
    tensor = torch.empty(shape, dtype=getattr(torch, TORCH[dtype]))
    if data:
        tensor.view(-1).view(torch.uint8)[:] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return tensor


def reference_save(entries, metadata=None):
    return safetensors.torch.save({name: as_torch(e) for name, e in entries.items()}, metadata)


def reference_entries(data):
    """As safetensors_read has them; None if the reference refuses."""
    try:
        found = safetensors.deserialize(data)
    except (safetensors.SafetensorError, ValueError, OverflowError):
        return None
    return {
        name: (TORCH.get(e["dtype"]), tuple(e["shape"]), bytes(e["data"])) for name, e in found
    }


def ours(entries):
    return {name: (TORCH[dtype], shape, data) for name, (dtype, shape, data) in entries.items()}


# With metadata of nothing the package writes what it cannot read.
@many
@given(tensor_files(), st.none() | st.dictionaries(names, names, min_size=1, max_size=3))
def test_safetensors_reads_what_the_package_writes(entries, metadata):
    got, text = safetensors_read(reference_save(entries, metadata))
    assert got == ours(entries), text
    assert text == metadata


@many
@given(tensor_files(), st.none() | st.dictionaries(names, names, max_size=3))
def test_safetensors_package_reads_what_is_written(entries, metadata):
    data = safetensors_write(ours(entries), metadata)
    assert reference_entries(data) == ours(entries)
    assert safetensors_read(data) == (ours(entries), metadata)


@many
@given(tensor_files(), st.none() | st.dictionaries(names, names, min_size=1, max_size=1))
def test_safetensors_writes_the_same_bytes(entries, metadata):
    """In the reference's order."""
    order = sorted(entries, key=lambda name: (-RANKS.index(entries[name][0]), name.encode()))
    ordered = ours({name: entries[name] for name in order})
    assert safetensors_write(ordered, metadata) == reference_save(entries, metadata)


def file_of(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


A, B = entry("U8", [2], 0, 2), entry("U8", [2], 2, 4)
TWICE = b'{"a":%s,"a":%s}' % (json.dumps(A).encode(), json.dumps(B).encode())
FAULTS = {
    "hole": file_of({"a": A, "b": entry("U8", [2], 3, 5)}, bytes(5)),
    "hole in front": file_of({"a": entry("U8", [2], 1, 3)}, bytes(3)),
    "overlap": file_of({"a": A, "b": entry("U8", [2], 1, 3)}, bytes(3)),
    "the same bytes": file_of({"a": A, "b": A}, bytes(2)),
    "wrong size": file_of({"a": entry("I16", [2], 0, 2)}, bytes(2)),
    "turned round": file_of({"a": entry("U8", [2], 2, 0)}, bytes(2)),
    "trailing bytes": file_of({"a": A}, bytes(3)),
    "too short": file_of({"a": A}, bytes(1)),
    "no data": file_of({"a": A}, b""),
    "unknown dtype": file_of({"a": entry("U7", [2], 0, 2)}, bytes(2)),
    "dtype in lower case": file_of({"a": entry("u8", [2], 0, 2)}, bytes(2)),
    "negative size": file_of({"a": entry("U8", [-2], 0, 2)}, bytes(2)),
    "fraction": file_of({"a": entry("U8", [2.0], 0, 2)}, bytes(2)),
    "size as a string": file_of({"a": entry("U8", ["2"], 0, 2)}, bytes(2)),
    "overflow": file_of({"a": entry("U8", [2**62, 4], 0, 0)}, b""),
    "overflow of bytes": file_of({"a": entry("I64", [2**61], 0, 0)}, b""),
    "past 64 bits": file_of({"a": entry("U8", [2**64], 0, 0)}, b""),
    "three offsets": file_of({"a": {**A, "data_offsets": [0, 2, 2]}}, bytes(2)),
    "no dtype": file_of({"a": {"shape": [2], "data_offsets": [0, 2]}}, bytes(2)),
    "no shape": file_of({"a": {"dtype": "U8", "data_offsets": [0, 2]}}, bytes(2)),
    "no offsets": file_of({"a": {"dtype": "U8", "shape": [2]}}, bytes(2)),
    "key twice": file_of(b'{"a":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}}',
                         bytes(2)),
    "metadata twice": file_of(b'{"__metadata__":{},"__metadata__":{}}', b""),
    "metadata no strings": file_of({"__metadata__": {"a": 1}}, b""),
    "metadata a list": file_of({"__metadata__": []}, b""),
    "list": file_of(b"[]", b""),
    "text": file_of(b'"{}"', b""),
    "empty": b"",
    "length only": struct.pack("<Q", 2),
    "length cut": b"\2\0\0\0",
    "no header": struct.pack("<Q", 0),
    "header too short": struct.pack("<Q", 3) + b"{}",
    "header too long": struct.pack("<Q", 10**8 + 1) + b"{}",
    "length negative": struct.pack("<q", -1) + b"{}",
    "not closed": file_of(b'{"a":', b""),
    "comma at the end": file_of(b'{"__metadata__":{},}', b""),
    "garbage behind": file_of(b"{}x", b""),
    "two documents": file_of(b"{}{}", b""),
    "NUL behind": file_of(b"{}\0", b""),
    "no UTF-8": file_of(b'{"__metadata__":{"a":"\xff"}}', b""),
    "half a surrogate": file_of(b'{"__metadata__":{"a":"\\ud800"}}', b""),
    "control character": file_of(b'{"__metadata__":{"a":"\n"}}', b""),
    "comment": file_of(b"{/**/}", b""),
    "single quotes": file_of(b"{'a':1}", b""),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_safetensors_refuses_as_the_package_does(fault):
    assert reference_entries(FAULTS[fault]) is None
    status, text = safetensors_read(FAULTS[fault])
    assert status in (INVALID, BAD_DTYPE, BAD_SHAPE), text


# The package takes the last of two, and what it does not know.
STRICTER = {
    "name twice": (file_of(b'{"a":%s,"\\u0061":%s}' % (
        json.dumps(A).encode(), json.dumps(A).encode()), bytes(2)), "two tensors with the name"),
    "metadata's key twice": (file_of(b'{"__metadata__":{"a":"1","a":"2"}}', b""), "two members"),
    "unknown key": (file_of({"a": {**A, "sparse": 1}}, bytes(2)), "the key 'sparse'"),
    "no metadata": (file_of({"__metadata__": None}, b""), "expected the metadata"),
    "blank in front": (file_of(b" {}", b""), "does not begin with '{'"),
    "NUL in a name": (file_of({"a\0b": A}, bytes(2)), "a character other than \\u0000"),
    "dtype that is not here": (file_of({"a": entry("F8_E8M0", [2], 0, 2)}, bytes(2)), "F8_E8M0"),
    "as a list": (file_of({"a": ["U8", [2], [0, 2]]}, bytes(2)), "expected an object"),
}


@pytest.mark.parametrize("case", STRICTER)
def test_safetensors_is_stricter(case):
    data, why = STRICTER[case]
    assert reference_entries(data) is not None
    status, text = safetensors_read(data)
    assert status in (INVALID, BAD_DTYPE)
    assert why in text


# Of the package, and one that there may be some day.
LACKING = {"float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ",
           "float8_e5m2fnuz": "F8_E5M2FNUZ", "float4_e2m1fn_x2": "F4"}  # fmt: skip


@pytest.mark.parametrize("dtype", LACKING)
def test_safetensors_of_pytorchs_dtypes_that_tensord_has_not(dtype):
    tensors = {"weight": torch.ones(4, dtype=torch.uint8).view(getattr(torch, dtype))}
    assert safetensors_read(safetensors.torch.save({"scale": torch.ones(2), **tensors})) == (
        BAD_DTYPE,
        f"tensor 'weight' has dtype '{LACKING[dtype]}', which tensord has not; convert it to one "
        "such as F32 before saving it",
    )


@pytest.mark.parametrize("dtype", ["F6_E2M3", "F6_E3M2", "I4", "F128", "BF8", "C32"])
def test_safetensors_of_other_dtypes(dtype):
    status, text = safetensors_read(file_of({"a": entry(dtype, [8], 0, 6)}, bytes(6)))
    assert status == BAD_DTYPE and f"tensor 'a' has dtype '{dtype}'" in text


def test_safetensors_package_loads_every_dtype(tmp_path):
    """As its users read a file: whole, and tensor by tensor; NumPy's and PyTorch's."""
    entries = {
        dtype: (dtype, (3, 4), filled(NUMPY[TORCH[dtype]], (3, 4)).tobytes()) for dtype in RANKS
    }
    data = safetensors_write(ours(entries), {"format": "pt"})
    for name, tensor in safetensors.torch.load(data).items():
        assert tensor.dtype == getattr(torch, TORCH[name]) and tensor.shape == (3, 4)
        assert tensor.view(torch.uint8).numpy().tobytes() == entries[name][2]
    path = tmp_path / "every.safetensors"
    path.write_bytes(data)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == set(entries)
        assert file.get_slice("F32")[1:, 2].shape == (2,)
    own = {name: entries[name] for name in entries if TORCH[name] in OWN}
    for name, array in safetensors.numpy.load(safetensors_write(ours(own))).items():
        assert array.dtype == TORCH[name] and array.tobytes() == entries[name][2]


def test_safetensors_longest_header():
    """16 MiB are read, and nothing longer."""
    for spare, expected in ((0, None), (1, "at most 16777216 are read")):
        header = json.dumps({"a": entry("U8", [2], 0, 2)}).encode()
        data = file_of(header.ljust((16 << 20) + spare), b"ab")
        assert list(reference_entries(data)) == ["a"]
        got, text = safetensors_read(data)
        assert text is None and list(got) == ["a"] if expected is None else expected in text


@many
@given(tensor_files(), st.data())
def test_safetensors_damaged(entries, data):
    """What the package refuses is refused, and what is not is read as the package reads it."""
    file = bytearray(reference_save(entries, {"k": "v"}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(file) - 1, 0)))
        cut = data.draw(st.integers(0, 2))
        file[at : at + cut] = data.draw(st.binary(max_size=2) | st.sampled_from(
            [b"0", b"1", b",", b"]", b"}", b'"', b" ", b"-", b"e", b"\\"]))  # fmt: skip
    got, text = safetensors_read(bytes(file))
    theirs = reference_entries(bytes(file))
    if isinstance(got, dict):
        assert got == theirs
    elif theirs is not None:  # only for the reasons above
        reasons = ["with the name", "the key '", "which tensord has not", "u0000",
                   "does not begin with '{'", "expected an object", "expected the metadata"]
        assert any(reason in text for reason in reasons), text
