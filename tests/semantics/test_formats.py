"""proto/format against what it reads and writes: NumPy's .npy headers, and Python's own reading of
an index."""

import ctypes
import io
import struct
import warnings

import pytest
from formats import (
    BAD_DTYPE, BAD_INDEX, BAD_SHAPE, INDEX_MAX, INVALID, LACKING, NAMES, NONE, NUMBERS, NUMPY, OK,
    OWN, RANK_MAX, UNSUPPORTED, Npy, arrays, blanks, detail, filled, many, np, npy_bytes,
    numbers, same_bytes, shapes, shim, st,
)  # fmt: skip
from hypothesis import example, given

# ---- npy ---------------------------------------------------------------------------------------


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
        assert Npy(data).status == BAD_DTYPE
        assert name in Npy(data).detail


@pytest.mark.parametrize("name", NAMES)
def test_npy_numpy_loads_what_is_written(name):
    """Elements that NumPy has no name for as void, which ml_dtypes' types view."""
    for shape in ((), (0,), (3, 0, 2), (7,), (2, 3, 4)):
        array = filled(NUMPY[name], shape)
        loaded = np.load(io.BytesIO(npy_written(name, shape) + array.tobytes()))
        assert loaded.dtype == NUMPY[name] or loaded.dtype.kind == "V" and name in LACKING
        assert same_bytes(loaded.view(NUMPY[name]), array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("name", NAMES)
def test_npy_of_every_dtype_version_and_order(name, endian, order, version):
    array = np.asarray(filled(NUMPY[name].newbyteorder(endian), (2, 3, 4)), order=order)
    data = npy_bytes(array, version)
    npy = Npy(data, name)
    assert npy.status == OK, npy.detail
    assert (npy.dtype, npy.fortran_order) == (name, order == "F")
    assert npy.array(data).tobytes() == array.tobytes()


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
    assert npy.status == BAD_DTYPE
    assert what in npy.detail


def test_npy_of_numpy_strings():
    string_dtype = getattr(getattr(np, "dtypes", None), "StringDType", None)
    if string_dtype is None:
        return  # NumPy before 2.0 has none
    npy = Npy(npy_bytes(np.array(["a"], string_dtype())))
    assert npy.status == BAD_DTYPE and "Python objects" in npy.detail


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
        assert npy.status in (INVALID, UNSUPPORTED, BAD_DTYPE, BAD_SHAPE)


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
    others = ["...", "Ellipsis", "None", "newaxis"]
    kind = draw(st.sampled_from(["integer", "slice", "slice", *others]))
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
