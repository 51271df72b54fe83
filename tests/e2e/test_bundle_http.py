"""/v1/bundle: a whole model in one request, read and written by the libraries that others use."""

import io
import json
import socket
import urllib.parse

import ml_dtypes
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
)
from harness import SMALL, Daemon
from http_client import Http
from safetensors import safe_open
from safetensors.numpy import load as read_safetensors

TYPES = {"safetensors": "application/vnd.safetensors", "npz": "application/zip",
         "npy": "application/x-npy"}  # fmt: skip


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL, "--max-body", "128MiB") as running:
        yield running


@pytest.fixture
def client(daemon):
    with emptied(daemon) as connected:
        yield connected


@pytest.fixture
def http(daemon, client):
    with Http(daemon.http_url) as connected:
        yield connected


def put(http, body, headers=None, **query):
    answer = http.send("PUT", "/v1/bundle", body, headers, **query)
    assert answer.status == 200, answer.body
    return answer.json


def get(http, **query):
    answer = http.get("/v1/bundle", **query)
    assert answer.status == 200, answer.body
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert answer.headers["Content-Type"] == TYPES[query.get("format", "safetensors")]
    return answer.body


def read_npz(body):
    with np.load(io.BytesIO(body)) as archive:
        return dict(archive)


def assert_arrays(got, want):
    assert got.keys() == want.keys()
    for name in want:
        assert_same(got[name], want[name])


# ---- storing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("scale", [1, 512])
@pytest.mark.parametrize("kind", ["safetensors", "npz", "compressed"])
def test_put(http, client, kind, scale, chunked):
    arrays = model(scale=scale)
    file = save(arrays) if kind == "safetensors" else npz_file(arrays, kind == "compressed")
    pieces = (file[i : i + 70_000] for i in range(0, len(file), 70_000))
    answer = put(http, pieces if chunked else file, prefix="m")
    assert_stored(client, "m/", arrays)
    assert answer["count"] == len(arrays) == len(answer["entries"])
    assert len({entry["storage"] for entry in answer["entries"]}) == 1


def test_a_file_of_unknown_length_shows_nothing_else(daemon, http, client):
    """Its memory grows by doubling, and what is left over may be recycled."""
    file = save({"x": np.zeros(50_000)})
    (entry,) = put(http, iter([file[:9], file[9:]]), prefix="m")["entries"]
    assert entry["storage_bytes"] <= len(file) + 65536


@pytest.mark.parametrize("kind", ["safetensors", "npy", "V2"])
def test_the_head_of_a_file_tells_its_length(kind):
    """Chunked as it comes, its memory is made for all of it at once, and no copy is left over."""
    array = np.zeros(5 << 20)
    half = np.zeros(20 << 20, np.uint16).view("V2")
    file = {"safetensors": save({"x": array}), "npy": npy_file(array), "V2": npy_file(half)}[kind]
    with Daemon(*SMALL) as daemon, Http(daemon.http_url) as http:
        pieces = (file[i : i + 65536] for i in range(0, len(file), 65536))
        put(http, pieces, prefix="m", dtype="bfloat16")
        assert daemon.stats()["memory_peak_bytes"] < len(file) + (8 << 20)
        for wrong in (file[:-1], file + b"x"):
            pieces = (wrong[i : i + 65536] for i in range(0, len(wrong), 65536))
            answer = http.send("PUT", "/v1/bundle", pieces, prefix="m", dtype="bfloat16")
            assert answer.status == 400, answer.body


def test_a_head_that_tells_too_much_is_refused_at_once():
    """Before memory is made for what would not be taken."""
    head = json.dumps({"x": {"dtype": "U8", "shape": [1 << 32], "data_offsets": [0, 1 << 32]}})
    file = len(head).to_bytes(8, "little") + head.encode() + bytes(1 << 20)
    with Daemon(*SMALL) as daemon, Http(daemon.http_url) as http:
        pieces = (file[i : i + 65536] for i in range(0, len(file), 65536))
        answer = http.send("PUT", "/v1/bundle", pieces)
        assert (answer.status, answer.code) == (413, "too_large"), answer.body
        assert daemon.stats()["memory_peak_bytes"] < 8 << 20


def test_query(http, client):
    file = save({"x": np.zeros(3), "y": np.ones(2)}, {"format": "np"})
    answer = put(http, file, prefix="a b/ä", mutable="true", requires_grad="true", ttl="1h")
    assert [entry["name"] for entry in answer["entries"]] == ["a b/ä/x", "a b/ä/y"]
    assert json.loads(answer["metadata"]) == {"format": "np"}
    for entry in answer["entries"]:
        assert entry["mode"] == "mutable" and entry["requires_grad"] and entry["ttl_ms"] == 3600000
    refused = http.send("PUT", "/v1/bundle", file, prefix="a b/ä", create_only="true")
    assert (refused.status, refused.code) == (409, "exists")


def test_preconditions(http, client):
    """A header that would keep what is there is not passed over."""
    put(http, save({"x": np.zeros(3)}), {"If-None-Match": "*"}, prefix="m")
    for headers, status in [({"If-None-Match": "*"}, 412), ({"If-None-Match": '"5"'}, 400),
                            ({"If-Match": "*"}, 400), ({"If-Match": '"5"'}, 400)]:  # fmt: skip
        refused = http.send("PUT", "/v1/bundle", save({"x": np.ones(3)}), headers, prefix="m")
        assert refused.status == status and refused.code, refused.body
    assert_stored(client, "m/", {"x": np.zeros(3)})


def test_load_as_an_operation(http):
    for refused in (http.op("load", prefix="m"),
                    http.send("POST", "/v1/ops/load", save(model()),
                              {"Content-Type": "application/octet-stream"})):  # fmt: skip
        assert refused.status in (400, 415) and "PUT /v1/bundle" in refused.json["detail"]


def test_void_elements(http, client):
    file = npz_file({"w": np.arange(6, dtype=np.uint16).view("V2")})
    assert http.send("PUT", "/v1/bundle", file).status == 422
    put(http, file, dtype="bfloat16")
    assert http.tensor("w").json["dtype"] == "bfloat16"


@pytest.mark.parametrize("kind", TYPES)
def test_content_types(http, client, kind):
    array = {"safetensors": save(model()), "npz": npz_file(model()), "npy": npy_file(np.ones(3))}
    for type_ in (TYPES[kind], "application/octet-stream", "application/x-www-form-urlencoded"):
        put(http, array[kind], {"Content-Type": type_}, prefix="m")
    put(http, array[kind], {"Content-Type": "image/png"}, prefix="m", format=kind)
    wrong = http.send("PUT", "/v1/bundle", array[kind], {"Content-Type": "image/png"})
    assert (wrong.status, wrong.code) == (415, "unsupported")


REFUSED = {
    "nothing": (b"", 400),
    "another file": (b"GGUF" + bytes(100), 415),
    "truncated": (save(model())[:-1], 400),
    "unknown dtype": (safetensors_file([("a", "F8_E8M0", [1], b"z")]), 422),
    "bad name": (safetensors_file([("a//b", "U8", [1], b"z")]), 400),
    "a bomb": (bomb(300), 413),
    "a bomb within the limit": (bomb(250), 507),
    "over max-body": (bytes(129 << 20), 413),
}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("what", REFUSED)
def test_refusals_change_nothing(daemon, client, what, chunked):
    body, status = REFUSED[what]
    load(client, save({"x": np.zeros(1 << 18)}), prefix="m")
    with daemon.unchanged():
        with Http(daemon.http_url) as other:
            pieces = (body[i : i + 65536] for i in range(0, len(body), 65536))
            try:
                answer = other.send("PUT", "/v1/bundle", pieces if chunked else body, prefix="m")
                assert answer.status == status and answer.code, answer.body
            except (BrokenPipeError, ConnectionResetError):
                assert what == "over max-body"


def test_a_client_that_goes_away(daemon):
    file = save(model(scale=512))
    address = urllib.parse.urlsplit(daemon.http_url)
    with daemon.unchanged():
        for part in (0, 5, 100, len(file) // 2, len(file) - 1):
            with socket.create_connection((address.hostname, address.port)) as half:
                head = f"PUT /v1/bundle?prefix=m HTTP/1.1\r\nHost: localhost"
                head += f"\r\nContent-Length: {len(file)}"
                half.sendall(f"{head}\r\n\r\n".encode() + file[:part])


# ---- getting -------------------------------------------------------------------------------------


def test_get_is_what_the_reference_writes(http):
    arrays, metadata = model(seed=5), {"format": "pt", "who": "ä\n"}
    put(http, npz_file(arrays), prefix="m")
    assert get(http, prefix="m") == save(arrays)
    body = get(http, prefix="m", metadata=json.dumps(metadata))
    assert_arrays(read_safetensors(body), arrays)
    assert json.loads(put(http, body, prefix="n")["metadata"]) == metadata


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"é": '"\\\n\u0007/'}])
def test_there_and_back_is_the_same_file(http, metadata):
    file = save(model(seed=7), metadata)
    said = {k: v for k, v in put(http, file, prefix="m").items() if k == "metadata"}
    assert get(http, prefix="m", **said) == file


def test_every_dtype(http, tmp_path):
    put(http, all_codes_file(), prefix="d")
    file = tmp_path / "d.safetensors"
    file.write_bytes(get(http, prefix="d"))
    with safe_open(file, "np") as opened:
        assert set(opened.keys()) == set(every_dtype())
    assert get(http, prefix="d") == get(http, prefix="d/")
    again = put(http, file.read_bytes(), prefix="e")
    assert again["count"] == len(every_dtype())
    for code, array in every_dtype().items():
        assert http.tensor(f"e/{code}", format="raw").body == array.tobytes()


@pytest.mark.parametrize("scale", [1, 512])
def test_get_npz(http, scale):
    arrays = model(seed=6, scale=scale)
    put(http, save(arrays), prefix="m")
    assert_arrays(read_npz(get(http, prefix="m", format="npz")), arrays)


def test_get_npy(http):
    put(http, save({"x": np.arange(6.0).reshape(2, 3), "y": np.ones(2)}), prefix="m")
    assert_same(np.load(io.BytesIO(get(http, tensors="m/x", format="npy"))),
                np.arange(6.0).reshape(2, 3))  # fmt: skip
    many = http.get("/v1/bundle", prefix="m", format="npy")
    assert many.status == 400 and "2 tensors" in many.json["detail"]


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_cast_on_the_way(http, format):
    arrays = {"a": np.linspace(-2, 2, 300_000, dtype=np.float32), "b": np.arange(7),
              "c": np.ones((3, 5), np.float32)}  # fmt: skip
    put(http, save(arrays), prefix="m")
    read = read_safetensors if format == "safetensors" else read_npz
    want = {name: array.astype(np.float16) for name, array in arrays.items()}
    assert_arrays(read(get(http, prefix="m", format=format, dtype="float16")), want)
    refused = http.get("/v1/bundle", prefix="m", dtype="int8", casting="safe")
    assert (refused.status, refused.code) == (422, "bad_dtype")
    half = get(http, prefix="m", dtype="bfloat16")
    want = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    put(http, half, prefix="h")
    for name, array in want.items():
        assert http.tensor(f"h/{name}", format="raw").body == array.tobytes()


def test_views_are_saved_as_they_look(http):
    put(http, save({"x": np.arange(12.0).reshape(3, 4)}), prefix="m")
    http.op("transpose", input="m/x", dim0=0, dim1=1, output="m/t")
    http.op("expand", input="m/x", shape=[2, 3, 4], output="m/e")
    got = read_safetensors(get(http, prefix="m"))
    assert_same(got["t"], np.arange(12.0).reshape(3, 4).T.copy())
    assert_same(got["e"], np.broadcast_to(np.arange(12.0).reshape(3, 4), (2, 3, 4)).copy())


def test_names_of_ones_own(http):
    put(http, save({"x": np.arange(3), "y=z": np.ones(2)}), prefix="m")
    body = get(http, tensors="first=m/x\nm/x\nsecond=m/y=z")
    assert read_safetensors(body).keys() == {"first", "m/x", "second"}
    for format in TYPES:
        twice = http.get("/v1/bundle", tensors="a=m/x\na=m/x", format=format)
        assert twice.status == 400 and "'a'" in twice.json["detail"]
    none = http.get("/v1/bundle", tensors="a=m/nothing")
    assert none.status == 404 and "m/nothing" in none.json["detail"]
    assert http.get("/v1/bundle", tensors="\n").status == 400
    assert http.get("/v1/bundle", tensors="m/x", prefix="m").status == 400


def test_what_cannot_be_saved(http):
    assert http.get("/v1/bundle", prefix="nothing").status == 404
    assert http.get("/v1/bundle", prefix="x" * 600).status == 400
    assert http.get("/v1/bundle", format="gguf").status == 400
    put(http, npz_file({"c": np.ones(2, complex)}), prefix="m")
    refused = http.get("/v1/bundle", prefix="m")
    assert (refused.status, refused.code) == (422, "bad_dtype")
    assert "'c'" in refused.json["detail"] and "npz and npy" in refused.json["detail"]
    assert_same(read_npz(get(http, prefix="m", format="npz"))["c"], np.ones(2, complex))
    assert http.get("/v1/bundle", prefix="m", format="npz", metadata="{}").status == 415
    for metadata in ("", "[]", '{"a": 1}', '{"a": "b"} x', '{"a": "b", "a": "c"}', "{}\0"):
        assert http.get("/v1/bundle", prefix="m", dtype="float32", metadata=metadata).status == 400


def test_variables(http):
    """As with one tensor: NumPy's formats want force, safetensors does not."""
    put(http, save({"w": np.ones(3)}), prefix="m", requires_grad="true")
    get(http, prefix="m")
    for format in ("npz", "npy"):
        refused = http.get("/v1/bundle", prefix="m", format=format)
        assert (refused.status, refused.code) == (409, "requires_grad")
        assert "requires grad" in refused.json["detail"] and "'w'" in refused.json["detail"]
        get(http, prefix="m", format=format, force="true")


def test_head(http):
    put(http, save(model()), prefix="m")
    answer = http.send("HEAD", "/v1/bundle", prefix="m")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(save(model()))


def test_the_whole_store(http):
    arrays = {"a": np.ones(2), "b/c": np.zeros(3)}
    put(http, save(arrays))
    assert_arrays(read_safetensors(get(http)), arrays)


def test_save_as_an_operation(http):
    put(http, save(model()), prefix="m")
    answer = http.op("save", prefix="m")
    assert (answer.status, answer.body) == (200, save(model()))
    answer = http.op("save", prefix="m", format="npz")
    assert answer.headers["Content-Type"] == "application/zip"
    assert_arrays(read_npz(answer.body), model())


def test_what_a_save_takes(daemon, client, http):
    """Nothing is left of it, and of a large archive no more memory than its own."""
    load(client, npz_file({"x": np.zeros(8 << 20)}, True), prefix="m")
    with daemon.unchanged(), Http(daemon.http_url) as other:
        get(other, prefix="m", format="npz")
        get(other, prefix="m", dtype="float16")
    put(http, npz_file({"y": np.zeros(8 << 20)}, True), prefix="m")
    refused = http.get("/v1/bundle", prefix="m", format="npz")
    assert (refused.status, refused.code) == (507, "out_of_memory")
    assert len(get(http, prefix="m")) > 128 << 20
