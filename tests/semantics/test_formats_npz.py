"""proto/format/npz against NumPy's archives, both ways."""

import ctypes
import io
import zipfile

import pytest
from formats import (
    BAD_DTYPE, INVALID, LACKING, NUMBERS, NUMPY, OK, OWN, VISIT, Npy, arrays, described, detail,
    filled, many, np, npy_bytes, same_bytes, settings, shapes, shim, st,
)  # fmt: skip
from hypothesis import given


def npz_read(data, pipe=False, hint="none", max_bytes=2**63):
    """{name: array}, or (status, detail)."""
    found = {}

    def visit(name, array, elements, length):
        found[name.decode()] = Npy.of(array).array(ctypes.string_at(elements, length))

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
few = settings(many, max_examples=60)


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


@pytest.mark.parametrize("name", ["a\\b", "\\", "\\a", "a\\", "ü\\€", "d/a\\b", "a/b",
                                  "a" * 300 + "\\"])  # fmt: skip
@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("host", [0, 3])
def test_npz_keeps_backslashes(name, zip64, host):
    """libarchive makes slashes of those of a name without a slash; NumPy does not."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for key in ("first", name, "last"):
            info = zipfile.ZipInfo(key + ".npy")
            info.create_system = host
            with archive.open(info, "w", force_zip64=zip64) as member:
                member.write(npy_bytes(np.arange(3)))
    file.seek(0)
    assert list(npz_read(file.getvalue())) == list(np.load(file)) == ["first", name, "last"]


def spoilt(signature, offset, value):
    """An archive of two arrays, of which the last record of the kind has another value there."""
    file = io.BytesIO()
    np.savez(file, a=np.arange(3), b=np.arange(3))
    data = bytearray(file.getvalue())
    at = data.rindex(signature) + offset
    data[at : at + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize("data", [
    spoilt(b"PK\1\2", 42, bytes(4)),  # the second array begins where the first one does
    spoilt(b"PK\5\6", 8, b"\3\0\3\0"),  # there are three
], ids=["one place", "more"])  # fmt: skip
def test_npz_without_members_that_it_lists(data):
    status, why = npz_read(data)
    assert status == INVALID
    assert "members by the end of its directory" in why


def test_npz_keeps_what_differs_in_backslashes_only():
    file = io.BytesIO()
    np.savez(file, **{"a\\b": np.arange(2), "a/b": np.arange(3)})
    assert {k: len(v) for k, v in npz_read(file.getvalue()).items()} == {"a\\b": 2, "a/b": 3}


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


@pytest.mark.parametrize("name", LACKING)
@pytest.mark.parametrize("compressed", [False, True])
def test_npz_of_ml_dtypes(name, compressed):
    array = filled(NUMPY[name], (3, 5))
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, a=array, b=np.arange(3))
    got = npz_read(file.getvalue(), hint=name)
    assert same_bytes(got["a"], array) and same_bytes(got["b"], np.arange(3))
    with np.load(io.BytesIO(npz_write({"a": (name, array)}, compressed))) as loaded:
        assert same_bytes(loaded["a"].view(NUMPY[name]), array)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("pipe", [False, True])
def test_npz_with_zip64_records_everywhere(monkeypatch, compressed, pipe):
    """As archives over 4 GiB have them: for sizes, offsets, the directory and the count."""
    tensors = {f"x{i}": np.arange(i * 100.0) for i in range(5)}
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    file = Pipe() if pipe else io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **tensors)
    data = file.data if pipe else file.getvalue()
    assert b"PK\x06\x06" in data and b"PK\x06\x07" in data
    data = data[:-14] + b"\xff" * 12 + data[-2:]  # numbers that only the zip64 records have
    got = npz_read(data, pipe)
    assert isinstance(got, dict), got
    assert list(got) == list(tensors)
    assert all(same_bytes(got[name], tensors[name]) for name in tensors)
    assert "goes over the limit" in npz_read(data, pipe, max_bytes=1000)[1]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_compressed_otherwise(method):
    """NumPy reads these, too, and writes none."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.npy", npy_bytes(np.arange(1000)))
    assert same_bytes(npz_read(file.getvalue())["a"], np.arange(1000))


@pytest.mark.parametrize("pipe", [False, True])
def test_npz_of_a_folder(pipe):
    """As zip -r packs what was unpacked: with the folders."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("d/", b"")
        archive.writestr("d/a.npy", npy_bytes(np.arange(3)))
    got = npz_read(file.getvalue(), pipe)
    assert isinstance(got, dict), got
    assert list(got) == ["d/a"] and same_bytes(got["d/a"], np.arange(3))


def test_npz_of_encrypted_members():
    file = io.BytesIO()
    np.savez(file, secret=np.ones(3))
    data = bytearray(file.getvalue())
    for signature in (b"PK\x01\x02", b"PK\x03\x04"):
        data[data.index(signature) + (8 if signature == b"PK\x01\x02" else 6)] |= 1
    status, text = npz_read(bytes(data))
    assert status == INVALID and "member 'secret.npy'" in text


def test_npz_of_other_members():
    file = io.BytesIO()
    np.savez(file, good=np.ones(3), bad=np.array(["text"]))
    status, text = npz_read(file.getvalue())
    assert status == BAD_DTYPE
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
