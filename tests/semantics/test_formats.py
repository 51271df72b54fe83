"""proto/format against what made the formats: NumPy's .npy and .npz, the safetensors package, and
Python's own reading of an index.

TENSORD_FORMAT_LIB names a shared library of format_shim.c and what it needs.
"""

import ctypes
import io
import json
import os
import struct
import warnings
import zipfile

import pytest

LIBRARY = os.environ.get("TENSORD_FORMAT_LIB")
if not LIBRARY:
    pytest.skip("TENSORD_FORMAT_LIB is not set: no library to test", allow_module_level=True)
np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
ml_dtypes = pytest.importorskip("ml_dtypes")
safetensors = pytest.importorskip("safetensors")
pytest.importorskip("hypothesis")
import safetensors.torch  # noqa: E402
from hypothesis import HealthCheck, example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

shim = ctypes.CDLL(LIBRARY)
int64s = ctypes.POINTER(ctypes.c_int64)
size_out = ctypes.POINTER(ctypes.c_size_t)
texts = ctypes.POINTER(ctypes.c_char_p)
VISIT = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, int64s, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t
)
shim.format_shim_detail.restype = ctypes.c_char_p
shim.format_shim_dtype.restype = ctypes.c_char_p
shim.format_shim_index_none.restype = ctypes.c_int64
shim.format_shim_index.argtypes = [ctypes.c_char_p, ctypes.c_size_t, int64s]
shim.format_shim_npy_read.argtypes = [
    ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, int64s, size_out
]  # fmt: skip
shim.format_shim_npy_write.argtypes = [ctypes.c_int, ctypes.c_int, int64s, ctypes.c_char_p]
shim.format_shim_npy_write.restype = ctypes.c_size_t
shim.format_shim_safetensors_read.argtypes = [
    ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.POINTER(ctypes.c_void_p), size_out,
    texts,
]  # fmt: skip
shim.format_shim_safetensors_entry.argtypes = [ctypes.c_void_p, ctypes.c_size_t, int64s]
shim.format_shim_safetensors_entry.restype = ctypes.c_char_p
shim.safetensors_destroy.argtypes = [ctypes.c_void_p]
shim.safetensors_destroy.restype = None
shim.format_shim_safetensors_write.argtypes = [
    ctypes.c_size_t, texts, int64s, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p), size_out
]  # fmt: skip
shim.format_shim_npz_read.argtypes = [
    ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_uint64, VISIT
]  # fmt: skip
shim.format_shim_npz_write.argtypes = [
    ctypes.c_size_t, texts, int64s, texts, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, size_out
]  # fmt: skip
libc = ctypes.CDLL(None)
libc.free.argtypes = [ctypes.c_void_p]

OK, INVALID, UNSUPPORTED, BAD_SHAPE, BAD_INDEX = 0, 1, 12, 13, 14
RANK_MAX, INDEX_MAX = 32, 64
NONE = shim.format_shim_index_none()
NAMES = [shim.format_shim_dtype(number).decode() for number in range(1, 18)]
NUMBERS = {name: number for number, name in enumerate(NAMES, 1)}
LACKING = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]
NUMPY = {
    name: np.dtype(getattr(ml_dtypes, name) if name in LACKING else name) for name in NAMES
}
OWN = [name for name in NAMES if name not in LACKING]  # NumPy's

many = settings(
    deadline=None,
    max_examples=int(os.environ.get("H3_EXAMPLES", 200)),
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def detail():
    return shim.format_shim_detail().decode()


def numbers(count):
    return (ctypes.c_int64 * count)()


def described(dtype, shape):
    """The numbers that say an array to the shim."""
    padding = [0] * (RANK_MAX - len(shape))
    return [NUMBERS[dtype], 0, 0, 0, len(shape), *shape, *padding]


sizes = st.sampled_from([0, 1, 1, 2, 3, 5, 12])
shapes = st.one_of(
    st.lists(sizes, max_size=4).map(tuple), st.integers(0, RANK_MAX).map(lambda n: (1,) * n)
)


def filled(dtype, shape):
    """An array whose bytes all differ from their neighbours'."""
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return (np.arange(count) * 37 % 251).astype(np.uint8).view(dtype).reshape(shape)


def same_bytes(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# ---- npy ---------------------------------------------------------------------------------------


class Npy:
    """What npy_read says of a file's start."""

    def __init__(self, data, hint="none"):
        out, needed = numbers(5 + RANK_MAX), ctypes.c_size_t(77)
        hint = NUMBERS.get(hint, 0)
        self.status = shim.format_shim_npy_read(data, len(data), hint, out, needed)
        self.detail = detail() if self.status != OK else None
        self.needed = needed.value
        if self.status == OK and self.needed == 0:
            self.dtype, self.fortran_order, self.big_endian = NAMES[out[0] - 1], out[1], out[2]
            self.header_bytes, self.shape = out[3], tuple(out[5 : 5 + out[4]])

    def array(self, data):
        """The elements, by what the header says and nothing else."""
        dtype = NUMPY[self.dtype]
        if self.big_endian:
            dtype = dtype.newbyteorder(">")
        flat = np.frombuffer(data[self.header_bytes :], dtype)
        return flat.reshape(self.shape, order="F" if self.fortran_order else "C")


def npy_bytes(array, version=None):
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of version 2.0, and of pickles
        np.lib.format.write_array(out, array, version)
    return out.getvalue()


@st.composite
def arrays(draw):
    dtype = NUMPY[draw(st.sampled_from(OWN))].newbyteorder(draw(st.sampled_from("<>=|")))
    array = filled(dtype, draw(shapes))
    layout = draw(st.sampled_from(["C", "F", "reversed"]))
    if layout == "reversed":
        return array.T[::-1] if array.ndim else array
    return np.asarray(array, order=layout)


@many
@given(arrays(), st.sampled_from([None, (1, 0), (2, 0), (3, 0)]))
def test_npy_reads_what_numpy_writes(array, version):
    data = npy_bytes(array, version)
    npy = Npy(data)
    assert npy.status == OK, npy.detail
    assert npy.needed == 0
    got = npy.array(data)
    assert got.dtype == array.dtype and got.shape == array.shape
    assert got.tobytes() == array.tobytes()


def npy_written(name, shape):
    out = ctypes.create_string_buffer(1024)
    sizes_ = (ctypes.c_int64 * RANK_MAX)(*shape)
    length = shim.format_shim_npy_write(NUMBERS[name], len(shape), sizes_, out)
    return out.raw[:length]


@many
@given(st.sampled_from(OWN + ["bfloat16"]), shapes)
def test_npy_writes_what_numpy_writes(name, shape):
    """Byte for byte."""
    array = filled(NUMPY[name], shape)
    assert npy_written(name, shape) + array.tobytes() == npy_bytes(array)


@many
@given(st.sampled_from(NAMES), st.lists(st.integers(0, 2**56), max_size=RANK_MAX))
def test_npy_writes_long_shapes(name, shape):
    descr = "|V1" if name.startswith("float8") else np.lib.format.dtype_to_descr(NUMPY[name])
    out = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(out, header)
    assert npy_written(name, shape) == out.getvalue()


@pytest.mark.parametrize("name", LACKING)
@pytest.mark.parametrize("order", "<>")
def test_npy_of_ml_dtypes(name, order):
    array = filled(NUMPY[name].newbyteorder(order), (3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = io.BytesIO()
        np.save(out, array)
    data = out.getvalue()
    npy = Npy(data, name)
    assert npy.status == OK, npy.detail
    assert (npy.dtype, npy.shape, npy.header_bytes) == (name, (3, 4), 128)
    assert npy.big_endian == (order == ">" and name == "bfloat16")
    assert npy.array(data).tobytes() == array.tobytes()
    if name != "float8_e5m2":  # whose type string is its own
        assert Npy(data).status == UNSUPPORTED
        assert name in Npy(data).detail


@pytest.mark.parametrize(
    "array, what",
    [
        (np.array([None]), "'|O' (Python objects)"),
        (np.array(["text"]), "'<U4' (text)"),
        (np.array([b"bytes"]), "'|S5' (byte strings)"),
        (np.array(["2020-01-01"], "M8[D]"), "'<M8[D]' (dates)"),
        (np.array([1], ">m8[ns]"), "'>m8[ns]' (time spans)"),
        (np.ones(2, np.longdouble), "'<f16' (floats of that size)"),
        (np.ones(2, np.clongdouble), "'<c32' (complex numbers of that size)"),
        (np.zeros(2, "V5"), "'|V5' (raw bytes)"),
        (np.zeros(2, "V2"), "say which dtype they are: bfloat16"),
        (np.zeros(2, [("a", "<f4"), ("b", "<i8", (2,))]), "structured dtype"),
        (np.zeros(2, {"names": ["ä"], "formats": ["<f4"]}), "structured dtype"),
    ],
)
def test_npy_of_what_tensord_has_not(array, what):
    npy = Npy(npy_bytes(array))
    assert npy.status == UNSUPPORTED
    assert what in npy.detail


def test_npy_of_numpy_strings():
    string_dtype = getattr(getattr(np, "dtypes", None), "StringDType", None)
    if string_dtype is None:
        return  # NumPy before 2.0 has none
    npy = Npy(npy_bytes(np.array(["a"], string_dtype())))
    assert npy.status == UNSUPPORTED and "Python objects" in npy.detail


blanks = st.sampled_from(["", "", " ", "  ", "\n", "\t"])


@st.composite
def literals(draw):
    """A header as some program might write it, and what it means."""

    def spaced(*parts):
        return "".join(part + draw(blanks) for part in parts)

    def quoted(text):
        quote = draw(st.sampled_from("'\""))
        return quote + text + quote

    def size(value):
        return f"{value}{draw(st.sampled_from(['', '', 'L']))}"

    order = draw(st.sampled_from(["<", ">", "=", "|", ""]))
    descr = order + NUMPY[draw(st.sampled_from(OWN))].str[1:]
    shape = draw(shapes)
    last_comma = "," if len(shape) == 1 or (shape and draw(st.booleans())) else ""
    inner = ",".join(spaced("", size(value)) for value in shape)
    values = {
        "descr": quoted(descr),
        "fortran_order": draw(st.sampled_from(["True", "False"])),
        "shape": spaced("(", inner, last_comma, ")"),
    }
    keys = draw(st.permutations(list(values)))
    members = [spaced("", quoted(key), ":", values[key]) for key in keys]
    text = spaced("{", ",".join(members), draw(st.sampled_from(["", ","])), "}")
    return text + draw(st.sampled_from(["", "\n", "   \n"]))


def with_prefix(literal, major=1):
    text = literal.encode("latin1")
    length = struct.pack("<H" if major == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([major, 0]) + length + text


def numpy_header(data):
    """(shape, fortran_order, dtype) by NumPy, None if it refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 2's integers
        try:
            file = io.BytesIO(data)
            read = {(1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0}  # fmt: skip
            return read[np.lib.format.read_magic(file)](file)
        except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError):
            return None


def same_header(npy, theirs):
    dtype = NUMPY[npy.dtype].newbyteorder(">" if npy.big_endian else "<")
    assert (npy.shape, bool(npy.fortran_order), dtype) == theirs


@many
@given(literals(), st.sampled_from([1, 2]))
def test_npy_literals(literal, major):
    data = with_prefix(literal, major)
    npy = Npy(data)
    assert npy.status == OK, npy.detail
    same_header(npy, numpy_header(data))


@many
@given(literals(), st.data())
def test_npy_damaged_literals(literal, data):
    """What NumPy refuses is refused; what is not is read as NumPy reads it."""
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(literal)))
        cut = data.draw(st.integers(0, 3))
        alphabet = "{}()[],:'\"0123456789LlTFalsrue<>=|bfci _-+.\\\n\0#ä"
        literal = literal[:at] + data.draw(st.text(alphabet, max_size=2)) + literal[at + cut :]
    start = with_prefix(literal)
    npy = Npy(start)
    if npy.status == OK:
        same_header(npy, numpy_header(start))
    else:
        assert npy.status in (INVALID, UNSUPPORTED, BAD_SHAPE)


# ---- an index as text --------------------------------------------------------------------------


class Grab:
    def __getitem__(self, index):
        return index


def clamped(value):
    """A slice's end as tensord has it."""
    return NONE if value is None else max(-(2**63) + 1, min(2**63 - 1, value))


def item_of(index):
    if index is Ellipsis:
        return (2, 0, 0, 0)
    if index is None:
        return (3, 0, 0, 0)
    if isinstance(index, slice):
        return (1, clamped(index.start), clamped(index.stop), clamped(index.step))
    return (0, index, 0, 0)


def python_items(text):
    """What Python takes the text for between brackets; None if it is not basic indexing."""
    text = text.strip(" \t\r\n")
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip(" \t\r\n")
    if not text:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            index = eval(f"g[{text}]", {"g": Grab(), "newaxis": None, "__builtins__": {
                "Ellipsis": Ellipsis}})  # fmt: skip
    except Exception:
        return None
    index = index if isinstance(index, tuple) else (index,)
    known = (int, slice, type(None), type(Ellipsis))
    return [item_of(item) for item in index] if all(type(i) in known for i in index) else None


def our_items(text):
    out = numbers(1 + 4 * INDEX_MAX)
    raw = text.encode("utf-8", "surrogatepass")
    status = shim.format_shim_index(raw, len(raw), out)
    if status != OK:
        assert status == BAD_INDEX
        return None
    return [tuple(out[1 + 4 * i : 5 + 4 * i]) for i in range(out[0])]


ints = st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63) + 1, 10**6]))
huge = st.one_of(ints, st.sampled_from([2**63, -(2**63), 10**30]))
ends = st.one_of(st.just(""), st.just("None"), huge.map(str))


@st.composite
def index_items(draw):
    kind = draw(st.sampled_from(["integer", "slice", "slice", "...", "Ellipsis", "None", "newaxis"]))
    if kind == "integer":
        return str(draw(ints))
    if kind == "slice":
        parts = [draw(ends) for _ in range(draw(st.integers(2, 3)))]
        return ":".join(draw(blanks) + part + draw(blanks) for part in parts)
    return kind


@st.composite
def index_texts(draw):
    items = draw(st.lists(index_items(), max_size=6))
    text = ",".join(draw(blanks) + item + draw(blanks) for item in items)
    text += "," if items and draw(st.booleans()) else ""
    return draw(blanks) + f"[{text}]" + draw(blanks) if draw(st.booleans()) else text


@many
@given(index_texts())
@example("")
@example("0, 1:3, ::2, ..., None")
def test_index(text):
    items = our_items(text)
    assert items is not None, detail()
    assert items == python_items(text)


@many
@given(st.one_of(
    st.text("0123456789-+:,. []()xN_", max_size=12),
    st.lists(st.sampled_from(["None", "newaxis", "Ellipsis", "...", ":", ",", "-", " ", "1", "07",
                              "True", "[", "]", "\n", "1.5", "é"]), max_size=9).map("".join),
))  # fmt: skip
def test_index_of_any_text(text):
    """What is taken means what it means in Python; what Python does not take is refused."""
    items = our_items(text)
    assert items is None or items == python_items(text)


# ---- safetensors -------------------------------------------------------------------------------

TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32",
    "U32": "uint32", "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16",
    "F32": "float32", "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}  # fmt: skip
# From the last to the first the order in which the reference puts them.
RANKS = ["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32",
         "F32", "C64", "F64", "I64", "U64"]  # fmt: skip
BYTES = {name: NUMPY[TORCH[name]].itemsize for name in TORCH}


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
    assert status in (INVALID, UNSUPPORTED, BAD_SHAPE), text


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
    assert status in (INVALID, UNSUPPORTED)
    assert why in text


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


# ---- npz ---------------------------------------------------------------------------------------


def npz_read(data, pipe=False, hint="none", max_bytes=2**63):
    """{name: array}, or (status, detail)."""
    found = {}

    def visit(name, numbers_, elements, length):
        npy = Npy.__new__(Npy)
        npy.dtype, npy.fortran_order = NAMES[numbers_[0] - 1], numbers_[1]
        npy.big_endian, npy.header_bytes = numbers_[2], 0
        npy.shape = tuple(numbers_[5 : 5 + numbers_[4]])
        found[name.decode()] = npy.array(ctypes.string_at(elements, length))

    status = shim.format_shim_npz_read(
        data, len(data), pipe, NUMBERS.get(hint, 0), max_bytes, VISIT(visit)
    )
    return found if status == OK else (status, detail())


def npz_write(tensors, deflate):
    """tensors: {name: (dtype, array)}"""
    keys = (ctypes.c_char_p * len(tensors))(*(name.encode() for name in tensors))
    flat = [n for dtype, array in tensors.values() for n in described(dtype, array.shape)]
    pointers = [array.ctypes.data_as(ctypes.c_char_p) for _, array in tensors.values()]
    out, length = ctypes.create_string_buffer(1 << 20), ctypes.c_size_t()
    status = shim.format_shim_npz_write(
        len(tensors), keys, (ctypes.c_int64 * len(flat))(*flat),
        (ctypes.c_char_p * len(tensors))(*pointers), deflate, out, len(out), length,
    )  # fmt: skip
    assert status == OK, detail()
    return out.raw[: length.value]


class Pipe(io.RawIOBase):
    """Keeps what is written, and cannot go back."""

    def __init__(self):
        self.data = b""

    def writable(self):
        return True

    def write(self, piece):
        self.data += bytes(piece)
        return len(piece)


keys = st.one_of(
    st.sampled_from(["a", "arr_0", "x.npy", "dir/b", "ü€😀"]),
    st.text(st.characters(min_codepoint=33, exclude_categories=["Cs"]), min_size=1, max_size=6)
    .filter(lambda name: not set(name) & set("/\\:") and name not in ("file", "args", "kwds")),
)  # fmt: skip
few = settings(many, max_examples=int(os.environ.get("H3_EXAMPLES", 180))//3)


@few
@given(st.dictionaries(keys, arrays(), max_size=4), st.booleans(), st.booleans(), st.booleans())
def test_npz_reads_what_numpy_writes(tensors, compressed, to_pipe, from_pipe):
    file = Pipe() if to_pipe else io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **tensors)
    data = file.data if to_pipe else file.getvalue()
    got = npz_read(data, from_pipe)
    assert isinstance(got, dict), got
    assert list(got) == list(tensors)
    assert all(same_bytes(got[name], tensors[name]) for name in tensors)


@few
@given(st.dictionaries(keys, st.tuples(st.sampled_from(OWN), shapes), max_size=4), st.booleans())
def test_npz_numpy_reads_what_is_written(found, deflate):
    tensors = {name: (dtype, filled(NUMPY[dtype], shape)) for name, (dtype, shape) in found.items()}
    data = npz_write(tensors, deflate)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        kinds = {info.compress_type for info in archive.infolist()}
        assert kinds <= {zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED}
        for name, (_, array) in tensors.items():
            assert archive.read(name + ".npy") == npy_bytes(array)
    with np.load(io.BytesIO(data)) as loaded:
        assert sorted(loaded.files) == sorted(tensors)
    back = npz_read(data)
    assert list(back) == list(tensors)
    assert all(same_bytes(back[name], tensors[name][1]) for name in tensors)


def test_npz_of_other_members():
    file = io.BytesIO()
    np.savez(file, good=np.ones(3), bad=np.array(["text"]))
    status, text = npz_read(file.getvalue())
    assert status == UNSUPPORTED
    assert text.startswith("member 'bad.npy' of the .npz archive: the array has dtype '<U4' (text)")


def test_npz_bomb():
    """A thousandfold, refused before it is inflated."""
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(10), bomb=np.zeros((1000, 1000)))
    data = file.getvalue()
    assert len(data) < 20000
    status, text = npz_read(data, max_bytes=1 << 20)
    assert text == (
        "member 'bomb.npy' of the .npz archive has 8000128 bytes, with which the archive goes over "
        "the limit of 1048576"
    )
    assert sorted(npz_read(data, max_bytes=8000128 + 208)) == ["a", "bomb"]
