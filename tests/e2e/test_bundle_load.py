"""load over frames: files of the real writers become views over one storage, all or nothing."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
from bundle_files import (
    all_codes_file,
    assert_same,
    assert_stored,
    bomb,
    emptied,
    every_dtype,
    load,
    model,
    npy_file,
    npz_file,
    safetensors_file,
    save,
    stored,
)
from harness import SMALL, Daemon, Mapping, all_names, ok, put, refused
from http_client import Http

FILES = {
    "safetensors": lambda arrays: save(arrays),
    "npz": lambda arrays: npz_file(arrays),
    "npz compressed": lambda arrays: npz_file(arrays, compressed=True),
}


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL) as running:
        yield running


@pytest.fixture
def client(daemon):
    with emptied(daemon) as connected:
        yield connected


# ---- what is stored ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 4096])
@pytest.mark.parametrize("kind", FILES)
def test_files_of_the_real_writers(client, kind, scale):
    arrays = model(scale=scale)
    _, entries = load(client, FILES[kind](arrays), prefix="m")
    assert_stored(client, "m/", arrays)
    assert len({entry["storage"] for entry in entries.values()}) == 1
    assert {entry["mode"] for entry in entries.values()} == {"frozen"}
    assert not any(entry["requires_grad"] for entry in entries.values())
    generations = [entry["generation"] for entry in entries.values()]
    assert len(set(generations)) == len(generations)


def test_entries_are_those_of_list(client):
    _, entries = load(client, save(model()), prefix="m", ttl_ms=3_600_000)
    listed = {entry["name"]: entry for entry in all_names(client, prefix="m/")}
    for name, entry in entries.items():
        assert entry.pop("ttl_ms") == 3_600_000
        assert 0 < listed[name].pop("ttl_ms") <= 3_600_000
        assert entry == listed[name]


def test_every_dtype(client):
    load(client, all_codes_file(), prefix="d")
    assert_stored(client, "d/", every_dtype())


@pytest.mark.parametrize("prefix, name", [(None, "x"), ("", "x"), ("a", "a/x"), ("a/", "a/x"),
                                          ("a/b", "a/b/x"), ("ä ö", "ä ö/x")])  # fmt: skip
def test_prefixes(client, prefix, name):
    fields = {} if prefix is None else {"prefix": prefix}
    _, entries = load(client, save({"x": np.zeros(2)}), **fields)
    assert list(entries) == [name]


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_backslashes_in_names_there_and_back(client, kind):
    """Those of a file that NumPy and safetensors wrote, and those that save wrote."""
    arrays = {"a\\b": np.arange(3), "a/b": np.arange(4), "d/a\\b": np.arange(5)}
    load(client, (npz_file if kind == "npz" else save)(arrays), prefix="one")
    assert_stored(client, "one/", arrays)
    reply = client.request("save", {"prefix": "one", "format": kind})
    ok(reply)
    load(client, reply[2], prefix="two")
    assert_stored(client, "two/", arrays)


@pytest.mark.parametrize("prefix", ["one", "one/"])
def test_an_npy_file_is_the_prefix_itself(client, prefix):
    array = np.arange(12.0).reshape(3, 4)
    _, entries = load(client, npy_file(array), prefix=prefix)
    assert list(entries) == ["one"]
    assert_same(stored(client, "one"), array)
    refused(client.request("load", {}, npy_file(array)), "invalid", text="prefix")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8", ">i2", ">u8", ">c8", ">c16", ">f2", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_byte_orders_and_fortran_order(client, kind, order, dtype):
    array = np.asarray(np.arange(24).reshape(2, 3, 4).astype(dtype), order=order)
    if kind == "npy":
        _, entries = load(client, npy_file(array), prefix="m/x")
    else:
        _, entries = load(client, npz_file({"x": array}), prefix="m")
    assert_same(stored(client, "m/x"), array.astype(array.dtype.newbyteorder("=")))
    assert entries["m/x"]["strides"] == [s // array.itemsize for s in array.strides]


def test_void_elements_need_a_dtype(client):
    file = npz_file({"w": np.arange(6, dtype=np.uint16).view("V2")})
    refused(client.request("load", {"prefix": "v"}, file), "bad_dtype", text="bfloat16")
    _, entries = load(client, file, prefix="v", dtype="bfloat16")
    assert entries["v/w"]["dtype"] == "bfloat16"
    assert client.request("get", {"input": "v/w"})[2] == np.arange(6, dtype=np.uint16).tobytes()


def test_flags(client):
    _, entries = load(client, save(model()), prefix="m", mutable=True, requires_grad=True)
    assert {entry["mode"] for entry in entries.values()} == {"mutable"}
    assert {entry["kind"] for entry in entries.values()} == {"variable"}
    assert all(entry["requires_grad"] for entry in entries.values())


def test_metadata_comes_back(client):
    metadata = {"format": "pt", "ä": 'a "quoted" \n text'}
    reply, _ = load(client, save({"x": np.zeros(3)}, metadata), prefix="m")
    assert json.loads(reply["metadata"]) == metadata
    reply, _ = load(client, save({"x": np.zeros(3)}), prefix="m")
    assert "metadata" not in reply


def test_the_format_can_be_said(client):
    load(client, npz_file(model()), prefix="m", format="npz")
    message = refused(client.request("load", {"format": "gguf"}, b"GGUF"), "invalid", text="gguf")
    assert "safetensors, npz, npy" in message
    refused(client.request("load", {"format": "npy"}, npz_file(model())), "invalid", text="NUMPY")
    refused(client.request("load", {"prefix": "m"}, b"GGUF and more"), "unsupported",
            text="not recognised")  # fmt: skip


def test_empty_files(client):
    _, entries = load(client, save({}))
    assert entries == {}
    _, entries = load(client, npz_file({}))
    assert entries == {}


# ---- where the bytes lie -------------------------------------------------------------------------


def test_aligned_files_are_not_moved(client):
    file = save(model())
    reply, entries = load(client, file, prefix="m")
    assert (reply["memory"], reply["reason"]) == ("copied", "heap")
    header = 8 + struct.unpack("<Q", file[:8])[0]
    described = json.loads(file[8:header])
    for name, entry in entries.items():
        assert entry["offset_bytes"] == header + described[name[2:]]["data_offsets"][0]


@pytest.mark.parametrize("shift", range(8))
def test_unaligned_files_are_moved_once(client, shift):
    arrays = [("a" + "x" * shift, "U8", [3], b"abc"),
              ("b", "F64", [2], np.array([1.5, -2.5]).tobytes()), ("c", "I8", [1], b"z"),
              ("none", "F64", [0], b""),
              ("d", "I16", [2], np.array([7, -7], np.int16).tobytes()),
              ("e", "C64", [1], np.array([1 + 2j], np.complex64).tobytes())]  # fmt: skip
    reply, entries = load(client, safetensors_file(arrays, pad=False), prefix="m")
    assert (reply["memory"], reply["reason"]) == ("copied", "alignment")
    assert len({entry["storage"] for entry in entries.values()}) == 1
    for name, _, _, data in arrays:
        assert client.request("get", {"input": "m/" + name})[2] == data


def test_members_of_archives_are_aligned(client):
    _, entries = load(client, npz_file({f"a{i}": np.ones(i, np.int8) for i in range(1, 9)}))
    offsets = sorted(entry["offset_bytes"] for entry in entries.values())
    assert offsets == [64 * i for i in range(8)]
    assert len({entry["storage"] for entry in entries.values()}) == 1


# ---- all or nothing ------------------------------------------------------------------------------

GOOD = model(seed=3)


def damaged(file, at, byte=0xFF):
    return file[:at] + bytes([byte]) + file[at + 1 :]


def archive_of(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


ONE = np.zeros(2)
BAD = {
    "no header": (b"\x80" + bytes(7), "unsupported", "not recognised"),
    "broken header": (damaged(save(GOOD), 30), "invalid", ""),
    "header over its cap": (struct.pack("<Q", 17 << 20) + b"{" + bytes(100), "too_large",
                            "16777216"),
    "truncated": (save(GOOD)[:-1], "invalid", "bytes"),
    "trailing bytes": (save(GOOD) + b"x", "invalid", "bytes"),
    "unknown dtype": (safetensors_file([("a", "U8", [2], b"ab"), ("b", "F8_E8M0", [1], b"z")]),
                      "bad_dtype", "F8_E8M0"),
    "half bytes": (safetensors_file([("a", "F4", [2], b"a")]), "bad_dtype", "F4"),
    "bad name": (safetensors_file([("a", "U8", [1], b"a"), ("../b", "U8", [1], b"b")]), "invalid",
                 "../b"),
    "empty name": (safetensors_file([("a", "U8", [1], b"a"), ("", "U8", [1], b"b")]), "invalid",
                   "empty"),
    "long name": (safetensors_file([("a", "U8", [1], b"a"), ("b" * 600, "U8", [1], b"b")]),
                  "invalid", "512"),
    "npy truncated": (npy_file(np.arange(9))[:-1], "invalid", "bytes"),
    "npy with more": (npy_file(np.arange(9)) + b"x", "invalid", "bytes"),
    "npy within its header": (npy_file(np.arange(9))[:40], "invalid", "header"),
    "npy of objects": (npy_file(np.array(["a"])), "bad_dtype", "<U1"),
    "npz truncated": (npz_file(GOOD)[:-30], "invalid", ""),
    "npz damaged": (damaged(npz_file(GOOD), 300), "invalid", ""),
    "npz of other things": (archive_of([("a.npy", npy_file(ONE)), ("b.txt", b"text")]), "invalid",
                            "b.txt"),
    "npz of objects": (npz_file({"a": ONE, "b": np.array(["text"])}), "bad_dtype", "<U4"),
    "npz with a name twice": (archive_of([("a.npy", npy_file(ONE))] * 2), "invalid", "twice"),
}  # fmt: skip


def test_metadata_that_no_reply_has_room_for(daemon, client):
    fits, large = {"a": "x" * 500_000}, {"a": "x" * 600_000}
    reply, _ = load(client, save({"x": np.zeros(3)}, fits), prefix="m")
    assert json.loads(reply["metadata"]) == fits
    with daemon.unchanged():
        refused(client.request("load", {"prefix": "m"}, save({"x": np.ones(3)}, large)),
                "too_large", text="metadata")  # fmt: skip


def test_messages_are_cut_between_characters(client):
    """Names in messages stay UTF-8, which the plain client insists on."""
    for shift in range(4):
        name = "x" * shift + "€" * 300
        refused(client.request("load", {"prefix": "m"}, save({name: np.zeros(2)})), "invalid")
        refused(client.request("load", {"path": name}), "forbidden")
        refused(client.request("load", {"format": name}, b"x"), "invalid")
        refused(client.request("save", {"prefix": name[:100]}), "not_found")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_changes_nothing(daemon, client, what):
    file, status, text = BAD[what]
    load(client, save(model(seed=1)), prefix="m")
    with daemon.unchanged():
        refused(client.request("load", {"prefix": "m"}, file), status, text=text)
    assert_stored(client, "m/", model(seed=1))


def test_names_that_are_taken_with_create_only(daemon, client):
    put(client, "m/steps", b"taken")
    with daemon.unchanged():
        refused(client.request("load", {"prefix": "m", "create_only": True}, save(GOOD)),
                "exists", text="m/steps")  # fmt: skip
    ok(client.request("delete", {"input": "m/steps"}))
    load(client, save(GOOD), prefix="m", create_only=True)
    assert_stored(client, "m/", GOOD)


def test_a_quota_of_names():
    with Daemon(*SMALL, "--quota-names", "8") as daemon, daemon.connect() as client:
        load(client, save(GOOD), prefix="m")
        with daemon.unchanged():
            refused(client.request("load", {"prefix": "n"}, save(GOOD)), "out_of_memory",
                    text="names")  # fmt: skip
        load(client, save(model(seed=4)), prefix="m")  # those it has already
        assert_stored(client, "m/", model(seed=4))


@pytest.mark.parametrize("limit", ["--max-names", "--quota-bytes", "--memory-limit"])
def test_limits(limit):
    options = {"--max-names": "4", "--quota-bytes": "1MB", "--memory-limit": "4MiB"}
    big = {f"a{i}": np.zeros(1 << 16) for i in range(8)}
    with Daemon(*SMALL, limit, options[limit]) as daemon, daemon.connect() as client:
        with daemon.unchanged():
            refused(client.request("load", {"prefix": "m"}, npz_file(big, compressed=True)),
                    "out_of_memory", "too_large")  # fmt: skip
            if limit != "--memory-limit":  # where no larger request is taken at all
                refused(client.request("load", {"prefix": "m"}, save(big)), "out_of_memory")


@pytest.mark.parametrize("megabytes", [200, 300])
def test_bombs(daemon, client, megabytes):
    """Within the limit but not free, and over the limit."""
    load(client, save({"x": np.zeros(100 << 17)}), prefix="m")
    with daemon.unchanged():
        refused(client.request("load", {"prefix": "b"}, bomb(megabytes)), "out_of_memory",
                "too_large")  # fmt: skip
    assert daemon.stats()["memory_peak_bytes"] <= 256 << 20


def test_what_a_load_takes(client):
    refused(client.request("load", {"prefix": "m"}), "invalid", text="path")
    refused(client.request("load", {"path": "/etc/passwd"}, b"x"), "invalid", text="one of them")
    refused(client.request("load", {"shape": [1]}, b"x"), "invalid", text="shape")
    refused(client.request("load", {"ttl_ms": 0}, b"x"), "invalid", text="time to live")


@pytest.mark.parametrize("how", ["npz", "chunked npz", "chunked"])
def test_recycled_memory_shows_nothing(how):
    """What lies between the tensors, and behind them, is nobody else's."""
    size = 100_001 if how == "chunked" else 300_001  # less than it is received into
    arrays = {"a": np.zeros(size, np.uint8), "b": np.zeros(20_003, np.uint8)}
    file = save(arrays) if how == "chunked" else npz_file(arrays)
    with Daemon("--memory-limit", "256MiB") as daemon, daemon.connect() as client:
        sizes = (len(file), 1 << 18, 1 << 19, 320_100) * 4
        for i, size in enumerate(sizes):
            put(client, f"secret {i}", b"\xee" * size)
        for i in range(len(sizes)):
            ok(client.request("delete", {"input": f"secret {i}"}))
        assert daemon.stats()["memory_pool_bytes"] > 0
        if how.startswith("chunked"):
            with Http(daemon.http_url) as http:
                answer = http.send("PUT", "/v1/bundle", iter([file]), prefix="m")
                assert answer.status == 200, answer.body
        else:
            load(client, file, prefix="m")
        mapping = Mapping(client, "m/a")
        assert b"\xee" not in mapping.view[:]
        mapping.close()
