"""proto/format/npz against NumPy's archives, both ways."""

import ctypes
import io
import zipfile

from formats import (
    NUMBERS, NUMPY, OK, OWN, UNSUPPORTED, VISIT, Npy, arrays, described, detail, filled,
    many, np, npy_bytes, same_bytes, settings, shapes, shim, st,
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
