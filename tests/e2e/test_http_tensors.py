"""Tensors over HTTP: every format both ways, conditions, ranges, lists, and what is refused."""

import io
import json
import urllib.parse

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from http_client import Http

DTYPES = """bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64
    complex64 complex128 float8_e4m3fn float8_e5m2""".split()
SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def numpy_dtype(name):
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def numbers(dtype, count, seed=7):
    """Any bits; bool as 0 and 1."""
    kind = numpy_dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, count * kind.itemsize, np.uint8)
    return (raw & 1 if dtype == "bool" else raw).view(kind)


def same(a, b):
    """Bit for bit, but for the bits of NaNs."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape and a.dtype == b.dtype
    if a.dtype.kind == "c":
        a, b = a.view(a.real.dtype), b.view(b.real.dtype)
    if a.dtype.kind in "fV" or a.dtype.name in DTYPES and "float" in a.dtype.name:
        nan = np.isnan(a.astype("f8"))
        assert np.array_equal(nan, np.isnan(b.astype("f8")))
        a, b = a[~nan], b[~nan]
    assert a.tobytes() == b.tobytes()


@pytest.fixture
def http(daemon):
    with Http(daemon.http_url) as connection:
        yield connection


# ---- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_there_and_back(http, dtype):
    array = numbers(dtype, 24).reshape(2, 3, 4)
    put = http.put("raw", array.tobytes(), dtype=dtype, shape="2,3,4")
    assert put.status in (200, 201)
    assert put.json["dtype"] == dtype and put.json["shape"] == [2, 3, 4]
    back = http.tensor("raw", format="raw")
    assert back.body == array.tobytes()
    assert back.headers["Tensord-Dtype"] == dtype and back.headers["Tensord-Shape"] == "[2, 3, 4]"


@pytest.mark.parametrize("dtype", [d for d in DTYPES if "float8" not in d and d != "bfloat16"])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("endian", "<>")
def test_npy_there_and_back(http, dtype, order, endian):
    array = numbers(dtype, 24).reshape(2, 3, 4)
    sent = np.asarray(array.astype(array.dtype.newbyteorder(endian)), order=order)
    put = http.put("npy", sent).json
    assert put["strides"] == [s // array.itemsize for s in sent.strides]
    answer = http.tensor("npy", format="npy")
    assert answer.headers["Content-Type"] == "application/x-npy"
    same(answer.array, array)


def test_npy_of_bfloat16_needs_its_dtype(http):
    array = numbers("bfloat16", 6)
    refused = http.put("bf", array)
    assert refused.status == 422 and "bfloat16" in refused.json["detail"]
    assert http.put("bf", array, dtype="bfloat16").json["dtype"] == "bfloat16"
    assert http.tensor("bf", format="npy").array.dtype.str == "|V2"


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_npy_of_what_only_ml_dtypes_has(http, dtype):
    array = numbers(dtype, 6)
    put = http.put("ml", array, dtype=dtype)
    assert put.status in (200, 201) and put.json["dtype"] == dtype
    same(http.tensor("ml", format="npy").array.view(array.dtype), array)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "complex128"])
def test_safetensors_there_and_back(http, dtype):
    sent = torch.from_numpy(numbers(dtype, 6).view(np.uint8).copy()).view(getattr(torch, dtype))
    file = safetensors.torch.save({"some.weight": sent.reshape(2, 3)})
    assert http.put("st", file).status in (200, 201)
    back = safetensors.torch.load(http.tensor("st", format="safetensors").body)
    assert list(back) == ["st"] and back["st"].dtype == sent.dtype
    assert back["st"].reshape(-1).view(torch.uint8).equal(sent.view(torch.uint8))


@pytest.mark.parametrize(
    "dtype, name",
    [
        ("float8_e8m0fnu", "F8_E8M0"),
        ("float8_e4m3fnuz", "F8_E4M3FNUZ"),
        ("float8_e5m2fnuz", "F8_E5M2FNUZ"),
        ("float4_e2m1fn_x2", "F4"),
    ],
)
def test_safetensors_of_dtypes_that_tensord_has_not(http, dtype, name):
    tensor = torch.zeros(6, dtype=torch.uint8).view(getattr(torch, dtype))
    refused = http.put("foreign", safetensors.torch.save({"w": tensor}))
    assert refused.status == 422 and refused.code == "bad_dtype"
    assert f"tensor 'w' has dtype '{name}', which tensord has not" in refused.json["detail"]
    assert http.tensor("foreign").status == 404


@pytest.mark.parametrize("first", [ord("["), ord("{")])
def test_safetensors_whose_length_looks_like_json(http, first):
    header = b'{"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'.ljust(first)
    put = http.put("st", first.to_bytes(8, "little") + header + b"ab")
    assert put.status in (200, 201), put.body
    assert http.tensor("st", format="raw").body == b"ab"


def test_safetensors_of_many_is_refused_with_what_to_do(http):
    file = safetensors.numpy.save({"a": np.zeros(2), "b": np.zeros(3)})
    refused = http.put("many", file)
    assert refused.status == 415 and "2 tensors" in refused.json["detail"]
    archive = io.BytesIO()
    np.savez(archive, a=np.zeros(2))
    refused = http.put("npz", archive.getvalue())
    assert refused.status == 415 and "/v1/bundle?prefix=NAME" in refused.json["detail"]
    assert http.tensor("many").status == 404


def json_values(array):
    """As a JSON reader gets them: NaN and infinities as strings, complex numbers as pairs."""
    if array.ndim:
        return [json_values(part) for part in array]
    value = array[()]
    if array.dtype.kind == "c":
        return [json_values(np.asarray(value.real)), json_values(np.asarray(value.imag))]
    if array.dtype.kind == "b":
        return bool(value)
    if array.dtype.kind in "iu":
        return int(value)
    value = float(value)
    return next((k for k, v in SPECIAL.items() if v == value or v != v and value != value), value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_json_is_exact_both_ways(http, dtype):
    array = numbers(dtype, 300).reshape(3, 100)
    http.put("j", array.tobytes(), dtype=dtype, shape="3,100")
    text = http.tensor("j", values="true")
    document = text.json
    assert document["dtype"] == dtype and document["shape"] == [3, 100]
    assert http.put("j2", text.body, {"Content-Type": "application/json"}).status in (200, 201)
    same(np.frombuffer(http.tensor("j2", format="raw").body, array.dtype), array.reshape(-1))
    # What Python reads is what NumPy holds.
    data = [
        [SPECIAL.get(v, v) if isinstance(v, str) else v for v in row] for row in document["data"]
    ]
    if array.dtype.kind == "c":
        data = [[complex(*(SPECIAL.get(p, p) for p in v)) for v in row] for row in data]
    read = np.array(data, array.dtype) if array.dtype.kind in "iu" else np.array(data)
    same(read.astype(array.dtype), array)


@pytest.mark.parametrize(
    "document, dtype, shape, data",
    [
        ([[1, 2], [3, 4.5]], "float32", [2, 2], [[1.0, 2.0], [3.0, 4.5]]),
        ([True, False], "bool", [2], [True, False]),
        ([1, -2], "int64", [2], [1, -2]),
        ({"data": [0.5], "dtype": "float64"}, "float64", [1], [0.5]),
        ({"data": [], "shape": [0, 3]}, "float32", [0, 3], []),
        ({"dtype": "int8", "shape": [], "data": -128}, "int8", [], -128),
        ({"dtype": "<u8", "shape": [1], "data": [2**64 - 1]}, "uint64", [1], [2**64 - 1]),
        (
            {"data": [[1, [2, 3]]], "dtype": "complex64"},
            "complex64",
            [1, 2],
            [[[1.0, 0.0], [2.0, 3.0]]],
        ),
    ],
)
def test_json_documents(http, document, dtype, shape, data):
    put = http.put("doc", document)
    assert put.status in (200, 201), put.body
    got = http.tensor("doc", values="1").json
    assert (got["dtype"], got["shape"], got["data"]) == (dtype, shape, data)


def test_json_carries_the_flags(http):
    http.put("flags", {"data": [1.5], "requires_grad": True, "mutable": True})
    got = http.tensor("flags").json
    assert got["requires_grad"] and got["kind"] == "variable" and got["mode"] == "mutable"
    http.put("flags", [1.5], requires_grad="true", mutable="true")
    got = http.tensor("flags").json
    assert got["requires_grad"] and got["mode"] == "mutable"


@pytest.mark.parametrize(
    "document, status, says",
    [
        (b"[1, 2", 400, "end"),
        (b"[1, [2]]", 422, ""),
        (b'{"data": [1], "data": [2]}', 400, "data"),
        (b'{"dtype": "int8", "shape": [1], "data": [300]}', 422, "300"),
        (b'{"dtype": "int8", "shape": [1], "data": [1.5]}', 422, "1.5"),
        (b'{"dtype": "float32", "shape": [1], "data": [1e999]}', 422, "1e999"),
        (b'{"dtype": "float32", "shape": [2], "data": [1]}', 422, ""),
        (b'{"dtype": "float32", "shape": [1], "data": [1]} x', 400, ""),
        (b'{"dtype": "float32", "colour": 1, "data": [1]}', 400, "colour"),
        (b'{"dtype": "float99", "data": [1]}', 422, "float99"),
        (b'{"dtype": "float32", "shape": [1]}', 400, "data"),
        (b"[" * 100 + b"]" * 100, 400, ""),
        (b"", 400, ""),
    ],
)
def test_bad_json_is_refused_and_nothing_stored(http, document, status, says):
    refused = http.put("bad", document, {"Content-Type": "application/json"})
    assert refused.status in (status, 422), refused.body
    assert refused.code and says in refused.json["detail"]
    assert http.tensor("bad").status == 404


@pytest.mark.parametrize("format", ["json", "npy", "safetensors", "raw", "text"])
def test_accept_chooses_as_format_does(http, format):
    http.put("a", np.arange(4.0))
    by_format = http.tensor("a", format=format)
    accept = {"Accept": f"image/png, {by_format.headers['Content-Type'].split(';')[0]};q=0.9"}
    by_accept = http.tensor("a", accept)
    assert by_accept.headers["Content-Type"] == by_format.headers["Content-Type"]
    assert by_accept.body == by_format.body


def test_what_no_format_can_be_is_not_acceptable(http):
    http.put("a", np.arange(4.0))
    assert http.tensor("a", {"Accept": "image/png"}).code == "not_acceptable"
    assert http.tensor("a", {"Accept": "*/*"}).json["name"] == "a"
    assert http.tensor("a", format="png").code == "invalid"


# ---- slices and casts ----------------------------------------------------------------------------

INDEX = st.lists(
    st.one_of(
        st.integers(-3, 3).map(str),
        st.just("..."),
        st.just("None"),
        st.tuples(st.integers(-4, 4), st.integers(-4, 5), st.sampled_from([1, 2, 3, -1, -2])).map(
            lambda t: f"{t[0]}:{t[1]}:{t[2]}"
        ),
        st.just(":"),
        st.just("::-1"),
    ),
    max_size=4,
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    index=INDEX,
    dtype=st.sampled_from(["float32", "int16", "float64", "bool"]),
    format=st.sampled_from(["npy", "raw", "json"]),
)
def test_slices_and_casts_are_numpys(http, index, dtype, format):
    array = np.arange(60, dtype="i4").reshape(3, 4, 5)
    if http.tensor("s").status == 404:
        http.put("s", array)
    text = ",".join(index)
    try:
        expected = eval(f"a[{text}]" if text else "a", {"a": array}).astype(dtype)
    except IndexError:
        assert http.tensor("s", index=text, dtype=dtype).status == 422
        return
    query = {"index": text} if text else {}
    got = http.tensor("s", format=format, dtype=dtype, values="true", **(query))
    assert got.status == 200, got.body
    if format == "npy":
        same(got.array, expected)
    elif format == "raw":
        assert got.body == np.ascontiguousarray(expected).tobytes()
    else:
        assert got.json["data"] == expected.tolist() and got.json["shape"] == list(expected.shape)


def test_backwards_in_many_blocks(http):
    """Strides of what is sent are those of C order: no tensor has negative ones."""
    array = np.arange(1500 * 1000, dtype="f4").reshape(1500, 1000)
    http.put("large", array)
    got = http.tensor("large", format="raw", index="::-1, 10::-1", dtype="float64")
    assert got.body == array[::-1, 10::-1].astype("f8").tobytes()
    assert http.tensor("large", format="raw", index="::-1").body == array[::-1].tobytes()
    described = http.tensor("large", index="::-1, ::-2").json
    assert (described["shape"], described["strides"]) == ([1500, 500], [500, 1])


def test_a_cast_that_is_refused(http):
    http.put("c", np.arange(3.0))
    assert http.tensor("c", dtype="int8", casting="safe").code == "bad_dtype"
    assert http.tensor("c", dtype="int8", casting="unsafe", format="raw").body == b"\0\1\2"


def test_numpy_of_a_variable_needs_force(http):
    text = "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
    http.put("v", np.ones(2, "f4"), requires_grad="true")
    refused = http.tensor("v", format="npy")
    assert refused.code == "requires_grad" and refused.status == 409
    assert refused.json["detail"] == text
    with pytest.raises(RuntimeError) as error:
        torch.ones(2, requires_grad=True).numpy()
    assert str(error.value) == text
    same(http.tensor("v", format="npy", force="true").array, np.ones(2, "f4"))


# ---- names ---------------------------------------------------------------------------------------

NAMES = [
    "a b",
    "layer.0/weight:0",
    "näme",
    "100%",
    "a+b&c=d?e#f",
    "日本",
    '"quoted"',
    "a\\b",
    "x" * 512,
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name(http, name):
    put = http.put(name, np.ones(1))
    assert put.status == 201 and put.json["name"] == name
    assert http.get(put.headers["Location"]).json["name"] == name
    found = http.get("/v1/tensors", prefix=name).json["entries"]
    assert [entry["name"] for entry in found] == [name]
    path = "/v1/tensors/" + urllib.parse.quote(name, safe="")
    assert http.send("DELETE", path).status == 204
    assert http.get(path).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a//b",
        "/a",
        "a/",
        ".",
        "a/../b",
        "%00",
        "a%0d%0ab",
        "%ff",
        "x" * 513,
        "%C2%80",
        "%4",
        "%zz",
    ],
)
def test_no_name(http, path):
    for method, body in (("PUT", b"[1]"), ("GET", None), ("DELETE", None)):
        answer = http.send(method, "/v1/tensors/" + path, body)
        assert answer.status in (400, 404, 405), (method, path, answer.body)
        assert answer.code in ("invalid", "not_found", "bad_method")


# ---- lists ---------------------------------------------------------------------------------------


def pages(http, **query):
    """The names of all pages."""
    names, cursor = [], {}
    for _ in range(1000):
        page = http.get("/v1/tensors", **query, **cursor).json
        names += [entry["name"] for entry in page["entries"]]
        if "cursor" not in page:
            return names
        cursor = {"cursor": page["cursor"]}
    raise AssertionError("the list does not end")


def test_paging_is_stable_while_names_come_and_go(http):
    for i in range(50):
        http.put(f"page/{i:02}", [i])
    assert pages(http, prefix="page/", limit=7) == [f"page/{i:02}" for i in range(50)]
    first = http.get("/v1/tensors", prefix="page/", limit=10).json
    http.send("DELETE", "/v1/tensors/page/09")  # the cursor's own name
    http.send("DELETE", "/v1/tensors/page/03")
    http.put("page/095", [1])
    second = http.get("/v1/tensors", prefix="page/", limit=3, cursor=first["cursor"]).json
    assert [e["name"] for e in second["entries"]] == ["page/095", "page/10", "page/11"]


def test_lists_refuse_what_they_do_not_take(http):
    assert http.get("/v1/tensors", limit="0").code == "invalid"
    assert http.get("/v1/tensors", limit="many").code == "invalid"
    assert http.get("/v1/tensors", colour="red").code == "invalid"
    assert http.get("/v1/tensors?limit=1&limit=2").code == "invalid"


# ---- conditions and ranges -----------------------------------------------------------------------


def test_create_only_and_replace_what_was_read(http):
    http.send("DELETE", "/v1/tensors/cond")
    created = http.put("cond", [1], {"If-None-Match": "*"})
    assert created.status == 201
    assert http.put("cond", [2], {"If-None-Match": "*"}).code == "precondition"
    tag = http.tensor("cond", format="raw").headers["ETag"]
    assert http.put("cond", [3], {"If-Match": tag}).status == 200
    again = http.put("cond", [4], {"If-Match": tag})
    assert again.status == 412 and again.code == "precondition"
    generation = http.tensor("cond").json["generation"]
    assert http.put("cond", [5], {"If-Match": f'"{generation}"'}).status == 200
    assert http.put("absent", [5], {"If-Match": "*"}).status == 412
    stale = {"If-Match": f'"{generation}"'}
    assert http.send("DELETE", "/v1/tensors/cond", None, stale).status == 412
    assert http.tensor("cond", values=1).json["data"] == [5]
    now = {"If-Match": http.tensor("cond").headers["ETag"]}
    assert http.send("DELETE", "/v1/tensors/cond", None, now).status == 204


def test_etags_name_a_representation(http):
    http.put("e", np.arange(6.0))
    queries = [
        {},
        {"values": 1},
        {"format": "npy"},
        {"format": "raw"},
        {"format": "raw", "dtype": "int8"},
        {"format": "raw", "index": "1:"},
        {"format": "raw", "index": "2:"},
    ]
    tags = [http.tensor("e", **query).headers["ETag"] for query in queries]
    assert len(set(tags)) == len(tags) and all(tag.startswith('"') for tag in tags)
    for query, tag in zip(queries, tags):
        unchanged = http.tensor("e", {"If-None-Match": f'"other", {tag}'}, **query)
        assert (
            unchanged.status == 304 and unchanged.body == b"" and unchanged.headers["ETag"] == tag
        )
    http.put("e", np.arange(6.0))
    assert http.tensor("e", {"If-None-Match": tags[3]}, format="raw").status == 200


def test_in_place_changes_change_the_etag(http):
    http.put("m", np.arange(6.0), mutable="true")
    tag = http.tensor("m", format="raw").headers["ETag"]
    assert http.op("fill_", input="m", value=3).status == 200
    changed = http.tensor("m", {"If-None-Match": tag}, format="raw")
    assert changed.status == 200 and changed.headers["ETag"] != tag
    assert http.put("m", [1], {"If-Match": tag}).status == 412


def test_what_others_may_write_has_a_weak_etag(http, client):
    array = np.arange(40000.0)
    http.put("w", array, mutable="true")
    assert http.tensor("w", format="raw").headers["ETag"].startswith('"')
    mapped = client["w"].numpy()
    tag = http.tensor("w", format="raw").headers["ETag"]
    assert tag.startswith('W/"')
    assert http.tensor("w", {"If-None-Match": tag}, format="raw").status == 200
    assert http.tensor("w", {"Range": "bytes=0-7"}, format="raw").status == 200
    mapped[0] = 5
    assert np.frombuffer(http.tensor("w", format="raw").body)[0] == 5


@pytest.mark.parametrize("format", ["raw", "npy"])
@pytest.mark.parametrize(
    "range, first, last",
    [
        ("0-9", 0, 9),
        ("100-", 100, None),
        ("-5", -5, None),
        ("0-999999999", 0, None),
        ("120-140", 120, 140),
        ("-99999999999999999999999", 0, None),
    ],
)
def test_ranges(http, format, range, first, last):
    http.put("r", np.arange(100, dtype="u4"))
    whole = http.tensor("r", format=format).body
    part = http.tensor("r", {"Range": f"bytes={range}"}, format=format)
    expected = whole[first:] if last is None else whole[first : last + 1]
    assert part.status == 206 and part.body == expected
    start = len(whole) + first if first < 0 else first
    end = start + len(expected) - 1
    assert part.headers["Content-Range"] == f"bytes {start}-{end}/{len(whole)}"


def test_ranges_that_are_none(http):
    http.put("r", np.arange(100, dtype="u1"))
    tag = http.tensor("r", format="raw").headers["ETag"]
    for text in ("bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5", "bytes=-", "bytes=1"):
        assert http.tensor("r", {"Range": text}, format="raw").status == 200, text
    for text in ("bytes=100-", "bytes=-0", "bytes=99999999999999999999999-"):
        beyond = http.tensor("r", {"Range": text}, format="raw")
        assert beyond.status == 416 and beyond.code == "bad_range", text
        assert beyond.headers["Content-Range"] == "bytes */100"
    ours = {"Range": "bytes=0-1", "If-Range": tag}
    assert http.tensor("r", ours, format="raw").status == 206
    other = {"Range": "bytes=0-1", "If-Range": '"other"'}
    assert http.tensor("r", other, format="raw").status == 200


# ---- HEAD and the rest ---------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["json", "npy", "safetensors", "raw", "text"])
def test_head_says_what_get_would(http, format):
    http.put("h", np.arange(1000.0))
    path = f"/v1/tensors/h?format={format}"
    get, head = http.get(path), http.send("HEAD", path)
    assert head.status == get.status == 200 and head.body == b""
    for header in ("Content-Type", "Content-Length", "ETag", "Accept-Ranges"):
        assert head.headers[header] == get.headers[header], header


def test_head_of_values_leaves_the_next_answer_alone(http):
    http.put("h", np.arange(1000.0))
    head = http.send("HEAD", "/v1/tensors/h?values=true")
    assert head.status == 200 and head.body == b""
    for _ in range(3):
        assert http.tensor("h").json["name"] == "h"


@pytest.mark.parametrize("what", ["to_1", "dtype", "shape", "length", "type"])
def test_raw_bytes_that_do_not_fit(http, what):
    good = {"dtype": "float32", "shape": "2,3"}
    body, query, headers = bytes(24), good, {"Content-Type": "application/octet-stream"}
    if what == "to_1":
        body = bytes(23)
    elif what == "dtype":
        query = {**good, "dtype": "float99"}
    elif what == "shape":
        query = {**good, "shape": "2,-3"}
    elif what == "length":
        query = {**good, "shape": str(2**62)}
    else:
        headers = {"Content-Type": "image/png"}
    refused = http.put("no", body, headers, **query)
    assert refused.status in (400, 415, 422), refused.body
    assert refused.code and http.tensor("no").status == 404


def test_problems_are_json_whatever_the_name_holds(http):
    answer = http.get("/v1/tensors/" + urllib.parse.quote('a"b\\c<script>'))
    assert answer.status == 404
    assert 'a"b\\c<script>' in json.loads(answer.body)["detail"]
