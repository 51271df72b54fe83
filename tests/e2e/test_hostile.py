"""Bad values in well-formed frames, and bad memory: a clear error, the store unchanged, nothing
leaked. What breaks the frames themselves is in test_hostile_stream.py."""

import fcntl
import os
import struct
import tempfile

import plain_client as plain
import pytest
from harness import (MIB, SMALL, Daemon, client, daemon, get, local, make_memfd,  # noqa: F401
                     ok, put, refused)  # fmt: skip
from plain_client import PlainClient, Scalar

HUGE = 10**18
INT_MAX = (1 << 63) - 1


@pytest.fixture(autouse=True)
def nothing_is_left(daemon):
    """Around each test: what it did leaves the daemon as it was."""
    with daemon.connect() as client:
        if client.request("info", {"input": "keep"})[0] != "ok":
            put(client, "keep", bytes(range(256)))
            put(client, "keep/mutable", bytes(100000), mutable=True)
    daemon.quiet()
    with daemon.unchanged():
        yield


# ---- names, dtypes, devices ----------------------------------------------------------------------

BAD_NAMES = [
    "", "@", "@1", "@keep", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "./a", "a\n", "\t",
    "a\x7fb", "\x80", "a\x9fb", "x" * 513, "é" * 257, "a/" + "b" * 511,
]  # fmt: skip
GOOD_NAMES = ["a", "...", "a/.b", "a b", "weights:0", "layer.0.weight", "%00", "日本", "a@b",
              "x" * 512, "é" * 256, "-", "\\", "'\"", "a/" * 255 + "a"]  # fmt: skip
# Bytes that are no text at all.
BAD_TEXTS = [b"a\0b", b"\0", b"\xff", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xed\xa0\x80",
             b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xe2\x82", b"\x80", b"a\xc3"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_none(client, name):
    body = {"output": name, "dtype": "uint8", "shape": [1]}
    refused(client.request("put", body, b"x"), "invalid")
    refused(client.request("zeros", {"output": name, "shape": [1]}), "invalid")
    refused(client.request("rename", {"input": "keep", "output": name}), "invalid")
    refused(client.request("copy", {"input": "keep", "output": name}), "invalid")
    for op in ("info", "get", "delete", "map", "touch", "clone"):
        refused(client.request(op, {"input": name}), "invalid", "not_found")
    refused(client.request("copy_", {"input": "keep/mutable", "other": name}), "invalid",
            "not_found")  # fmt: skip


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_texts_that_are_no_utf8(client, text):
    for op, field in [("info", "#1"), ("zeros", "#3"), ("zeros", "#5"), ("list", "#31"),
                      ("list", "#33"), ("to", "#26")]:  # fmt: skip
        refused(client.request(op, {field: text}), "invalid", text="UTF-8")


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_that_look_odd(client, name):
    put(client, name, name.encode())
    assert get(client, name) == name.encode()
    reply = client.request("list", {"prefix": name, "limit": 1})
    assert plain.read_list(reply[2])[0]["name"] == name
    ok(client.request("delete", {"input": name}))
    refused(client.request("delete", {"input": name}), "not_found")


@pytest.mark.parametrize("id", ["@0", "@18446744073709551615", "@18446744073709551616", "@-1",
                                "@99999999999999999999999", "@1x", "@ 1", "@+1"])  # fmt: skip
def test_object_ids_that_are_none(client, id):
    for op in ("info", "get", "release"):
        refused(client.request(op, {"input": id}), "invalid", "not_found")


def test_dtypes_that_are_none(client):
    for number in (0, 18, 100, 255):
        fields = {"output": "x", "#4": bytes([number]), "shape": [1]}
        refused(client.request("put", fields, b"x"), "bad_dtype")
        refused(client.request("zeros", fields), "bad_dtype")
        refused(client.request("get", {"input": "keep", "#4": bytes([number])}), "bad_dtype")
    for raw in (b"", b"\1\0"):
        refused(client.request("zeros", {"#4": raw, "shape": [1]}), "protocol")
    refused(client.request("rand", {"shape": [2], "dtype": "int32"}), "bad_dtype")


def test_devices_that_are_none(client):
    for name in ("", "gpu", "cpu:", "cpu:1", "cuda:", "cuda:-1", "cuda:99999999999999999999", "CPU",
                 "cuda:0x0", " cpu", "meta", "x" * 60000):  # fmt: skip
        reply = client.request("zeros", {"shape": [1], "device": name})
        refused(reply, "invalid", "no_device", "unsupported")


# ---- shapes --------------------------------------------------------------------------------------

BAD_SHAPES = [
    [-1], [2, -1], [-(1 << 63)], [HUGE], [HUGE, HUGE], [1 << 32, 1 << 32], [INT_MAX], [INT_MAX, 2],
    [INT_MAX, INT_MAX], [0, INT_MAX, INT_MAX], [1 << 31, 1 << 31, 4], [3, 1 << 61, 8],
    [1 << 20] * 32, [2] * 32,
]  # fmt: skip


@pytest.mark.parametrize("shape", BAD_SHAPES, ids=str)
def test_shapes_that_cannot_be(client, shape):
    """No memory is taken for them, and no size wraps around to something small."""
    wrong = ("bad_shape", "out_of_memory")
    for op, more in [("zeros", {}), ("empty", {"dtype": "complex128"}), ("randn", {}),
                     ("full", {"value": 1}), ("randint", {"high": 3})]:  # fmt: skip
        status, fields, _, _ = reply = client.request(op, {"shape": shape, **more})
        if 0 in shape and status == "ok":
            assert fields["nbytes"] == 0
            ok(client.request("release", {"input": f"@{fields['id']}"}))
        else:
            refused(reply, *wrong)
    for body in (b"", b"12345678"):
        fields = {"output": "x", "dtype": "float64", "shape": shape}
        if 0 not in shape:
            refused(client.request("put", fields, body), *wrong)
            refused(client.request("tensor", {"dtype": "int8", "shape": shape}, body), *wrong)
    if len(shape) <= 2:
        refused(client.request("eye", {"shape": shape}), *wrong)
    for op in ("expand", "view", "reshape") if -1 not in shape else ():  # -1: as it fits
        refused(client.request(op, {"input": "keep", "shape": shape}), "bad_shape")


def test_ranks(client):
    fields = {"shape": [1] * 32, "dtype": "uint8"}
    made = ok(client.request("zeros", fields))
    assert made["shape"] == [1] * 32
    wide = {"#6": struct.pack("<33q", *[1] * 33)}
    refused(client.request("zeros", wide), "bad_shape")
    refused(client.request("put", {"output": "x", "dtype": "uint8", **wide}, b"x"), "bad_shape")
    refused(client.request("unsqueeze", {"input": f"@{made['id']}", "dim": 0}), "bad_shape")
    refused(client.request("getitem", {"input": f"@{made['id']}", "index": [None]}), "bad_shape",
            "bad_index")  # fmt: skip
    refused(client.request("zeros", {"#6": b"1234567"}), "protocol")
    refused(client.request("permute", {"input": "keep", "#25": bytes(8 * 33)}), "bad_shape")
    ok(client.request("release", {"input": f"@{made['id']}"}))


def test_a_huge_expansion_is_not_copied(client):
    """A view may have more elements than any memory; what would copy it is refused."""
    one = ok(client.request("zeros", {"shape": [1]}))
    status, wide, _, _ = reply = client.request("expand", {"input": f"@{one['id']}",
                                                           "shape": [1 << 40]})  # fmt: skip
    if status == "ok":
        name = f"@{wide['id']}"
        for op, more in [("clone", {}), ("get", {}), ("contiguous", {}), ("mul", {"value": 2}),
                         ("to", {"dtype": "int8"}), ("reshape", {"shape": [1 << 20, 1 << 20]}),
                         ("copy", {"output": "x"})]:  # fmt: skip
            reply = client.request(op, {"input": name, **more})
            if op != "reshape" or reply[0] != "ok":
                refused(reply, "out_of_memory", "too_large", "bad_shape")
        refused(client.request("fill_", {"input": name, "value": 1}), "conflict")
        text = client.request("print", {"input": name})
        assert text[0] == "ok" and len(text[1]["text"]) < 10000
    else:
        refused(reply, "bad_shape", "out_of_memory")


def test_dimensions_and_indices_out_of_range(client):
    for dim in (1, -2, INT_MAX, -(1 << 63)):
        for op, more in [("select", {"index": [0]}), ("slice", {"index": [slice(None)]}),
                         ("squeeze", {})]:  # fmt: skip
            refused(client.request(op, {"input": "keep", "dim": dim, **more}), "bad_shape",
                    "bad_index")  # fmt: skip
        refused(client.request("transpose", {"input": "keep", "dim0": 0, "dim1": dim}), "bad_shape",
                "bad_index")  # fmt: skip
    for index in ([256], [-257], [INT_MAX], [-(1 << 63)], [0, 0], [..., ...], [slice(None)] * 2,
                  [slice(None, None, 0)], [None] * 64, [0] * 64):  # fmt: skip
        refused(client.request("getitem", {"input": "keep", "index": index}), "bad_index",
                "bad_shape", "invalid")  # fmt: skip
    for dims in ([], [1], [0, 0], [-2], [INT_MAX]):
        refused(client.request("permute", {"input": "keep", "dims": dims}), "bad_shape",
                "bad_index")  # fmt: skip
    many = {"input": "keep", "#24": plain.INDEX_ITEM.pack(3, 0, 0, 0) * 65}
    refused(client.request("getitem", many), "bad_index")
    kind = {"input": "keep", "#24": plain.INDEX_ITEM.pack(4, 0, 0, 0)}
    refused(client.request("getitem", kind), "bad_index")


def test_slices_at_the_ends_of_integers(client):
    ends = (INT_MAX, -INT_MAX, 1 << 62, -(1 << 62), 0, None)
    for start in ends:
        for stop in ends:
            for step in (1, 2, INT_MAX, None):
                index = slice(start, stop, step)
                reply = client.request("getitem", {"input": "keep", "index": [index]})
                wanted = bytes(range(256))[index]
                made = ok(reply)
                assert get(client, f"@{made['id']}") == wanted, index
                ok(client.request("release", {"input": f"@{made['id']}"}))


def test_numbers_at_their_ends(client):
    for fields in ({"end": 1e300}, {"end": float("inf")}, {"end": float("nan")},
                   {"end": INT_MAX}, {"end": 5, "step": 0}, {"end": 5, "step": 1e-300},
                   {"end": 5, "start": -INT_MAX}, {"end": -(1 << 63), "start": INT_MAX, "step": -1},
                   {"end": Scalar("uint", (1 << 64) - 1)}, {"end": 1j}, {"end": -1},
                   {"end": 5, "step": float("nan")}):  # fmt: skip
        refused(client.request("arange", fields), "invalid", "bad_shape", "out_of_memory")
    for fields in ({"high": 0}, {"high": -5}, {"low": 5, "high": 5},
                   {"low": INT_MAX, "high": -(1 << 63)}):  # fmt: skip
        refused(client.request("randint", {"shape": [2], **fields}), "invalid")
    wide = {"shape": [4], "low": -(1 << 63), "high": INT_MAX}
    ok(client.request("release", {"input": f"@{ok(client.request('randint', wide))['id']}"}))
    for raw in (b"", b"\5" + bytes(8), b"\0\2", b"\1\0", b"\4" + bytes(15), b"\0"):
        refused(client.request("full", {"shape": [1], "#13": raw}), "invalid", "protocol")
    refused(client.request("zeros", {"shape": [1], "#9": b"\2"}), "invalid")


def test_words_that_are_none(client):
    for word in ("maybe", "", "SAFE", "safe "):
        fields = {"input": "keep", "dtype": "int8", "casting": word}
        refused(client.request("get", fields), "invalid")
        refused(client.request("to", fields), "invalid")
    refused(client.request("list", {"limit": 0}), "invalid")
    refused(client.request("release"), "invalid")
    refused(client.request("release", {"input": "keep"}), "invalid")
    refused(client.request("release", {"input": "@1", "lease": 1}), "invalid")
    refused(client.request("setitem", {"input": "keep/mutable", "index": []}), "invalid")


# ---- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["put", "tensor", "from_numpy"])
def test_bodies_of_another_size_than_the_shape(client, op):
    fields = {"dtype": "float32", "shape": [4]}
    if op == "put":
        fields["output"] = "x"
    for size in (0, 1, 15, 17, 70000, 3 * MIB):
        refused(client.request(op, fields, bytes(size)), "bad_shape")
    refused(client.request(op, {**fields, "shape": [0]}, b"x"), "bad_shape")
    refused(client.request(op, {**fields, "shape": [MIB]}, b"short"), "bad_shape")
    assert client.request("ping", {}, b"in step")[2] == b"in step"


def test_strides_go_with_descriptors_only(client):
    fields = {"dtype": "uint8", "shape": [2]}
    refused(client.request("from_numpy", {**fields, "strides": [1]}, b"ab"), "invalid")
    refused(client.request("from_numpy", {**fields, "offset_bytes": 0}, b"ab"), "invalid")


# ---- descriptors that are no memory for tensors --------------------------------------------------


def regular_file():
    with tempfile.TemporaryFile() as file:
        file.write(bytes(100000))
        file.flush()
        return os.dup(file.fileno())


def pipe_end():
    read, write = os.pipe()
    os.close(write)
    return read


def path_only():
    fd = os.memfd_create("path")
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_PATH)
    finally:
        os.close(fd)


def shrunk(size):
    fd = os.memfd_create("given", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def half_sealed(seal):
    fd = make_memfd(bytes(100000), sealed=False)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seal)
    return fd


def huge_pages():
    """A huge-TLB memfd needs no huge pages to be made, only to be filled."""
    fd = os.memfd_create("huge", os.MFD_HUGETLB | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * MIB)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def punched():
    """All but one page allocated."""
    import ctypes

    fd = make_memfd(bytes(100000))
    libc = ctypes.CDLL(None, use_errno=True)
    keep_size, punch = 1, 2
    done = libc.fallocate(fd, keep_size | punch, ctypes.c_long(8192), ctypes.c_long(4096))
    assert done == 0, os.strerror(ctypes.get_errno())
    return fd


BAD_MEMORY = {
    "unsealed": lambda: make_memfd(bytes(100000), sealed=False),
    "not sealable": lambda: make_memfd(bytes(100000), sealed=False, flags=0),
    "may grow": lambda: half_sealed(fcntl.F_SEAL_SHRINK),
    "may shrink": lambda: half_sealed(fcntl.F_SEAL_GROW),
    "sparse": lambda: make_memfd(bytes(100000), fill=False),
    "a hole": punched,
    "empty": lambda: shrunk(0),
    "exabytes": lambda: shrunk(1 << 60),
    "hugetlb": huge_pages,
    "pipe": pipe_end,
    "regular file": regular_file,
    "path only": path_only,
    "null device": lambda: os.open("/dev/null", os.O_RDWR),
    "zero device": lambda: os.open("/dev/zero", os.O_RDWR),
    "folder": lambda: os.open("/", os.O_RDONLY),
    "socket": lambda: plain.socket.socket().detach(),
    "itself": lambda: os.open("/proc/self/mem", os.O_RDONLY),
    "write only": lambda: writer_only(),
}


def writer_only():
    fd = make_memfd(bytes(100000))
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", BAD_MEMORY)
def test_descriptors_that_are_no_memory(local, kind):
    for shape in ([100], [0], [200000]):
        fd = BAD_MEMORY[kind]()
        fields = {"output": "given", "dtype": "uint8", "shape": shape}
        reply = local.request("from_numpy", fields, fds=[fd])
        os.close(fd)
        refused(reply, "invalid", "bad_shape", "out_of_memory")
    assert local.request("ping", {}, b"stays")[2] == b"stays"


@pytest.mark.parametrize("layout", [
    {"shape": [100001]}, {"shape": [100000], "offset_bytes": 1},
    {"shape": [1], "offset_bytes": 1 << 63},
    {"shape": [1], "offset_bytes": 100000}, {"shape": [2], "strides": [100000]},
    {"shape": [2], "strides": [-1]}, {"shape": [2], "strides": [INT_MAX]},
    {"shape": [2, 2], "strides": [1]},
    {"shape": [3], "strides": [1 << 62]}, {"shape": [1 << 40], "strides": [1 << 30]},
    {"shape": [4], "dtype": "float64", "offset_bytes": 3}, {"shape": [HUGE]}, {"shape": [-1]},
    {"shape": [1], "offset_bytes": (1 << 64) - 1}, {"shape": [12501], "dtype": "float64"},
], ids=str)  # fmt: skip
def test_layouts_beyond_the_given_memory(local, layout):
    fd = make_memfd(bytes(100000))
    reply = local.request("from_numpy", {"dtype": "uint8", "output": "given", **layout}, fds=[fd])
    os.close(fd)
    refused(reply, "bad_shape", "invalid")


def test_a_descriptor_and_a_body(local):
    fd = make_memfd(bytes(100))
    fields = {"dtype": "uint8", "shape": [100]}
    refused(local.request("from_numpy", fields, bytes(100), fds=[fd]), "invalid")
    os.close(fd)


def test_a_giver_that_changes_its_mind(daemon, local):
    """Whatever else the giver does with its descriptor, the daemon's memory cannot shrink."""
    fd = make_memfd(bytes(100000))
    made = ok(local.request("from_numpy", {"dtype": "uint8", "shape": [100000]}, fds=[fd]))
    with pytest.raises(OSError):
        os.ftruncate(fd, 0)
    import ctypes

    libc = ctypes.CDLL(None)
    libc.fallocate(fd, 1 | 2, ctypes.c_long(0), ctypes.c_long(98304))  # punches: zeros, no fault
    assert get(local, f"@{made['id']}") == bytes(100000)
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        raise AssertionError("the daemon maps it for writing, so this cannot be sealed")
    except OSError:
        pass
    ok(local.request("fill_", {"input": f"@{made['id']}", "value": 1}))
    os.close(fd)


# ---- limits --------------------------------------------------------------------------------------


def in_use(message, used):
    """The message says how much is used, within what the daemon needs for names."""
    numbers = [int(word) for word in message.replace(";", " ").split() if word.isdigit()]
    return any(used <= number <= used + MIB for number in numbers)


def test_reservations_over_the_memory_limit():
    with Daemon("--memory-limit", "32MiB", "--pool-limit", "0") as daemon, \
            daemon.connect() as client:  # fmt: skip
        put(client, "half", bytes(16 * MIB))
        with daemon.unchanged():
            for op, fields in [("zeros", {"shape": [20 * MIB], "dtype": "uint8"}),
                               ("clone", {"input": "half"}), ("mul", {"input": "half", "value": 2}),
                               ("copy", {"input": "half", "output": "x"}),
                               ("to", {"input": "half", "dtype": "float64"}),
                               ("arange", {"end": 1 << 40}),
                               ("zeros", {"shape": [1 << 45], "output": "half"})]:  # fmt: skip
                message = refused(client.request(op, fields), "out_of_memory")
                assert in_use(message, 16 * MIB), message
            fields = {"output": "half", "dtype": "uint8", "shape": [20 * MIB]}
            message = refused(client.request("put", fields, bytes(20 * MIB)), "out_of_memory")
            assert in_use(message, 16 * MIB), message
            fd = make_memfd(bytes(20 * MIB))
            reply = client.request("from_numpy", {"dtype": "uint8", "shape": [5]}, fds=[fd])
            os.close(fd)
            refused(reply, "out_of_memory")
            assert client.request("ping", {}, b"stays")[2] == b"stays"
        refused(client.request("put", {**fields, "shape": [33 * MIB]}, b""), "bad_shape")
        ok(client.request("delete", {"input": "half"}))
        put(client, "now", bytes(20 * MIB))


def test_a_body_over_the_limit_is_refused_before_it_is_sent():
    with Daemon(*SMALL, "--max-body", "1MiB") as daemon, daemon.unchanged():
        for url in (daemon.url, daemon.tcp_url):
            with PlainClient(url) as client:
                put(client, "fits", bytes(MIB))
                ok(client.request("delete", {"input": "fits"}))
                fields = {"output": "x", "dtype": "uint8", "shape": [MIB + 1]}
                reply = client.request("put", fields, b"", body_length=MIB + 1)
                refused(reply, "too_large")
                assert client.is_closed()


def test_limits_of_names_objects_and_leases():
    limits = ("--max-names", "3", "--max-objects", "2", "--max-leases", "2")
    with Daemon(*SMALL, *limits) as daemon, daemon.connect() as client:
        put(client, "base", bytes(100000), mutable=True)
        close_all(client.request("map", {"input": "base"}))  # opens its descriptors, once
        with daemon.unchanged(), daemon.connect() as other:
            for i in range(2):
                put(other, f"n{i}", b"x")
                ok(other.request("zeros", {"shape": [1]}))
                close_all(other.request("map", {"input": "base"}))
            fields = {"output": "n9", "dtype": "uint8", "shape": [1]}
            refused(other.request("put", fields, b"x"), "out_of_memory", text="max-names")
            put(other, "n0", b"replaced")  # takes no name more
            refused(other.request("zeros", {"shape": [1]}), "out_of_memory")
            refused(other.request("map", {"input": "base"}), "out_of_memory")
            for i in range(2):
                ok(other.request("delete", {"input": f"n{i}"}))


def close_all(reply):
    for fd in reply[3]:
        os.close(fd)
    return ok(reply)


def test_limit_of_memory_descriptors():
    with Daemon(*SMALL, "--max-descriptors", "3") as daemon, daemon.connect() as client:
        for i in range(3):
            put(client, f"n{i}", bytes(100000))
        with daemon.unchanged():
            wanted = "max-descriptors"
            fields = {"output": "more", "dtype": "uint8", "shape": [100000]}
            refused(client.request("put", fields, bytes(100000)), "out_of_memory", text=wanted)
            refused(client.request("clone", {"input": "n0"}), "out_of_memory", text=wanted)
            fd = make_memfd(bytes(5000))
            given = client.request("from_numpy", {"dtype": "uint8", "shape": [1]}, fds=[fd])
            os.close(fd)
            refused(given, "out_of_memory", text=wanted)
            small = ok(client.request("zeros", {"shape": [2]}))  # of the heap: needs none
            mapped = client.request("map", {"input": f"@{small['id']}"})
            refused(mapped, "out_of_memory", text=wanted)
            ok(client.request("release", {"input": f"@{small['id']}"}))
