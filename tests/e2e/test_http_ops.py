"""Every operation of the table over HTTP, with the examples of the frame door: both say the same.
Then batches, sessions and objects, and what a request can get wrong."""

import json
import os
import struct
import urllib.parse

import pytest
import test_frames_table as table
from harness import (SMALL, Daemon, Mapping, client, daemon, leases, local, ok,  # noqa: F401
                     refused)  # fmt: skip
from http_client import Http
from plain_client import Scalar

# What differs between two runs of the same operation, or two doors.
OWN = {
    "id",
    "name",
    "generation",
    "storage",
    "epoch",
    "version",
    "session",
    "session_key",
    "boot",
    "text",
    "limits",
    "lease",
    "history",
    "count",
    "memory",
    "reason",
    "offset_bytes",
    "storage_bytes",
    "mode",
}


@pytest.fixture
def http(daemon):
    with Http(daemon.http_url) as connection:
        yield connection
        if connection.session:
            connection.send("DELETE", "/v1/session")


@pytest.fixture
def stocked(client):
    for name in ("m", "one", "old", "v", "NAME"):
        client.request("delete", {"input": name})
    table.stock(client)
    return client


def index_text(items):
    def one(item):
        if isinstance(item, slice):
            parts = [item.start, item.stop, item.step]
            return ":".join("" if part is None else str(part) for part in parts)
        return "..." if item is Ellipsis else str(item)

    return ",".join(one(item) for item in items)


def as_json(fields):
    """The fields of a frame example as members of a document."""
    out = {}
    for name, value in fields.items():
        if name == "index":
            value = index_text(value)
        elif isinstance(value, Scalar):
            value = value.value
        elif isinstance(value, complex):
            value = [value.real, value.imag]
        out[name] = value
    return out


def send(http, op, fields, body):
    document = as_json(fields)
    if not body:
        return http.op(op, **document)
    flat = {
        k: ",".join(map(str, v))
        if isinstance(v, list)
        else str(v).lower()
        if isinstance(v, bool)
        else v
        for k, v in document.items()
    }
    path = f"/v1/ops/{op}" + ("?" + urllib.parse.urlencode(flat) if flat else "")
    return http.send("POST", path, body, {"Content-Type": "application/octet-stream"})


def plain_value(name, value):
    if name == "value":
        value = value.value if isinstance(value, Scalar) else value
        return [value.real, value.imag] if isinstance(value, complex) else value
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("op", table.EXAMPLES)
def test_an_operation_says_what_it_says_over_frames(http, stocked, op):
    for fields, body in table.EXAMPLES[op]:
        if body == "memfd" or "lease" in fields or op in ("allocate", "publish"):
            continue  # memory is not passed over HTTP
        if op == "load" and body:
            continue  # files come to /v1/bundle: test_bundle_http.py
        if fields.get("input") == "@":
            http.op("zeros", shape=[1])
            made = http.op("zeros", shape=[1]).json
            assert http.op(op, input=f"@{made['id']}").status == 200
            assert http.op(op, input=f"@{made['id']}").code == "not_found"
            continue
        stock = ("m", "one", "old", "v", "NAME")
        for name in stock:
            stocked.request("delete", {"input": name})
        table.stock(stocked)
        status, reply, elements, fds = stocked.request(op, table.completed(stocked, fields), body)
        assert not fds or table.os.close(fds[0]) is None
        for name in stock:
            stocked.request("delete", {"input": name})
        table.stock(stocked)
        answer = send(http, op, table.completed(stocked, fields), body)
        if fields.get("write") and op in ("map", "numpy"):
            assert answer.status == 415, answer.body  # nothing can be shared
            continue
        if status != "ok":
            assert answer.status >= 400 and answer.code == status, answer.body
            assert answer.json["detail"] == reply["message"]
            continue
        assert answer.status == 200, (op, answer.body)
        if op in ("ping", "save"):
            assert answer.body == elements
            continue
        got = answer.json
        wanted = {k: plain_value(k, v) for k, v in reply.items() if k not in OWN}
        assert {k: got[k] for k in wanted} == wanted
        if op in table.LISTS:
            assert got["entries"]


def test_every_operation_is_listed(http):
    listed = {entry["name"]: entry for entry in http.get("/v1/ops").json["entries"]}
    assert set(listed) == set(table.EXAMPLES)
    for name, entry in listed.items():
        assert set(entry["required"]) == table.REQUIRED[name], name
        assert table.OPTIONAL[name] <= set(entry["optional"]), name
        assert entry["text"]


def test_elements_of_an_answer_in_any_format(http, stocked):
    for op in ("get", "map", "numpy"):
        document = http.op(op, input="m").json
        assert document["data"] == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
        raw = http.op(op, {"Accept": "application/octet-stream"}, input="m").body
        assert raw == struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    assert http.op("get", input="m", index="0, 1:").json["data"] == [2.0, 3.0]


def test_creating_from_a_document(http):
    made = http.send(
        "POST",
        "/v1/ops/put",
        json.dumps({"output": "made", "data": [[1, 2]], "mutable": True}),
        {"Content-Type": "application/json"},
    )
    assert made.status == 200 and made.json["name"] == "made" and made.json["mode"] == "mutable"
    late = {"data": [1.5], "dtype": "float16", "shape": [1], "create_only": True, "output": "made"}
    refused_ = http.send(
        "POST", "/v1/ops/put", json.dumps(late), {"Content-Type": "application/json"}
    )
    assert refused_.code == "exists"
    made = http.send(
        "POST", "/v1/ops/tensor?dtype=int16", b"[3, 4]", {"Content-Type": "application/json"}
    )
    assert made.json["dtype"] == "int16" and http.tensor(made.json["name"], values=1).json[
        "data"
    ] == [3, 4]


@pytest.mark.parametrize(
    "path, body, code",
    [
        ("nothing", b"{}", "not_found"),
        ("to", b"", "invalid"),
        ("to", b"[]", "invalid"),
        ("to", b'{"input": "m", "input": "one"}', "invalid"),
        ("to", b'{"input": 5}', "invalid"),
        ("to", b'{"input": "m", "colour": 1}', "invalid"),
        ("to", b'{"input": "m", "shape": [1]}', "invalid"),
        ("to", b'{"input": "m", "dtype": "float99"}', "bad_dtype"),
        ("to", b'{"input": "@5"}', "not_found"),
        ("to", b'{"input": "@x"}', "not_found"),
        ("to?dtype=int8", b'{"input": "m", "dtype": "int8"}', "invalid"),
        ("full", b'{"shape": [1], "value": 1e999}', "invalid"),
        ("rand", b'{"shape": [1], "seed": -1}', "invalid"),
        ("rand", b'{"shape": [1], "seed": 18446744073709551616}', "invalid"),
        ("view", b'{"input": "m", "shape": [7]}', "bad_shape"),
        ("getitem", b'{"input": "m", "index": "9"}', "bad_index"),
        ("getitem", b'{"input": "m", "index": "a"}', "bad_index"),
        ("hello", b'{"protocol": 9}', "unsupported"),
        ("release", b"{}", "not_found"),
        ("cuda", b'{"input": "m"}', "no_device"),
    ],
)
def test_refusals(http, stocked, path, body, code):
    answer = http.send("POST", "/v1/ops/" + path, body, {"Content-Type": "application/json"})
    wanted = {
        "bad_dtype": {"bad_dtype", "invalid"},
        "bad_index": {"bad_index", "invalid"},
        "invalid": {"invalid", "bad_dtype"},
    }.get(code, {code})
    assert answer.code in wanted, answer.body


def test_sixty_four_bits_are_exact(http):
    seed = 2**64 - 1
    made = http.op("rand", shape=[1], seed=seed).json
    assert made["seed"] == seed
    low = http.op("full", shape=[1], value=-(2**63), output="low").json
    assert low["dtype"] == "int64" and http.op("item", input="low").json["value"] == -(2**63)
    http.op("full", shape=[1], value=2**64 - 1, output="high")
    assert http.op("item", input="high").json["value"] == 2**64 - 1
    http.op("full", shape=[1], value=0.1, dtype="float64", output="tenth")
    assert http.op("item", input="tenth").json["value"] == 0.1
    http.op("full", shape=[1], value="NaN", output="nan")
    assert http.op("item", input="nan").json["value"] == "NaN"


# ---- batches -------------------------------------------------------------------------------------


def batch(http, *operations):
    return http.send(
        "POST",
        "/v1/batch",
        json.dumps({"operations": operations}),
        {"Content-Type": "application/json"},
    )


def test_a_batch_keeps_order_and_goes_on_after_errors(http, stocked):
    answer = batch(
        http,
        {"op": "clone", "input": "m"},
        {"op": "mul", "input": "@[0]", "value": 2, "output": "d"},
        {"op": "item", "input": "m"},
        {"op": "nothing"},
        {"op": "item", "input": "one"},
        {"op": "list", "prefix": "d"},
        {"op": "delete", "input": "d"},
        7,
        {"input": "m"},
        {"op": "to", "input": "@[2]"},
        {"op": "put", "output": "x"},
    )
    results = answer.json["results"]
    assert [r.get("code") for r in results] == [
        None,
        None,
        "bad_shape",
        "not_found",
        None,
        None,
        None,
        "invalid",
        "invalid",
        "invalid",
        "unsupported",
    ]
    assert results[1]["name"] == "d" and results[4]["value"] == 1.0
    assert [e["name"] for e in results[5]["entries"]] == ["d"]
    assert http.tensor("d").status == 404
    held = http.tensor(results[0]["name"], values=1).json["data"]
    assert held == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_a_batch_of_long_operations(http):
    size = 3_000_000
    answer = batch(
        http,
        {"op": "zeros", "shape": [size], "output": "z"},
        {"op": "add", "input": "z", "value": 1},
        {"op": "to", "input": "@[1]", "dtype": "float64", "output": "y"},
        {"op": "view", "input": "z", "shape": [7]},
        {"op": "fill_", "input": "z", "value": 5},
    )
    assert [r.get("code") for r in answer.json["results"]] == [None, None, None, "bad_shape", None]
    assert http.tensor("y", index="-1", values=1).json["data"] == 1.0
    assert http.tensor("z", index="-1", values=1).json["data"] == 5.0
    for name in "zy":
        http.send("DELETE", f"/v1/tensors/{name}")


def test_batches_that_are_none(http):
    for body in (b"", b"{}", b"7", b'{"operations": 7}', b'{"operations": [], "x": 1}', b"[1"):
        answer = http.send("POST", "/v1/batch", body, {"Content-Type": "application/json"})
        assert answer.status == 400 and answer.code == "invalid", body
    assert batch(http).json == {"results": []}
    assert batch(http, *[{"op": "ops"}] * 1001).code == "too_large"


# ---- sessions and objects ------------------------------------------------------------------------


def test_objects_belong_to_their_session(http, daemon, stocked):
    made = http.op("to", input="m", dtype="int8")
    assert len(made.headers["Tensord-Session"]) == 32
    cookie = made.headers["Set-Cookie"]
    assert cookie.startswith(f"tensord-session={http.session};")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    name = made.json["name"]
    assert http.tensor(name, values=1).json["data"] == [[1, 2, 3], [4, 5, 6]]
    assert "Tensord-Session" not in http.tensor(name).headers
    with Http(daemon.http_url) as other:
        assert other.tensor(name).code == "not_found"
        by_cookie = other.tensor(name, {"Cookie": f"other=1; tensord-session={http.session}"})
        assert by_cookie.json["dtype"] == "int8"
        other.session = "0" * 32
        assert other.tensor(name).code == "not_found"
        other.session = "x"
        assert other.tensor(name).status in (400, 404)
    assert http.send("DELETE", f"/v1/tensors/{name}").status == 204
    assert http.tensor(name).code == "not_found"


def test_a_session_ends_with_all_it_holds(http, stocked):
    opened = http.send("POST", "/v1/session")
    assert opened.status == 201
    before = http.stats()
    for _ in range(3):
        http.op("to", input="m", dtype="int8")
    assert http.stats()["objects"] == before["objects"] + 3
    assert http.send("DELETE", "/v1/session").status == 204
    http.session = None
    assert http.stats()["objects"] == before["objects"]


def test_hello_over_http_opens_a_session(http):
    hello = http.op("hello", protocol=1).json
    assert hello["session_key"] == http.session and hello["text"].startswith("tensord ")
    assert (
        http.op("hello", protocol=1, session_key=http.session).json["session"] == hello["session"]
    )


def test_an_unread_answer_leaves_no_object(stocked, daemon):
    import socket

    with Http(daemon.http_url) as http:
        before = http.stats()
        body = json.dumps({"input": "m", "dtype": "int8"}).encode()
        for _ in range(5):
            with socket.create_connection((http.address.hostname, http.address.port)) as gone:
                gone.sendall(
                    b"POST /v1/ops/to HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
                    % len(body)
                )
                gone.sendall(body[:-1])
        assert http.stats()["objects"] == before["objects"]


# ---- the daemon ----------------------------------------------------------------------------------


def test_probes_stats_and_devices(http):
    assert http.get("/livez").body == b"ok\n" and http.get("/readyz").body == b"ok\n"
    stats = http.stats()
    assert stats["memory_limit_bytes"] > 0 and stats["requests"] > 0
    assert http.get("/v1/devices").json["entries"][0]["name"] == "cpu"
    assert http.get("/openapi.json").json["openapi"].startswith("3.1")
    assert b"curl" in http.get("/").body


@pytest.mark.parametrize(
    "path", ["/", "/v1/tensors", "/v1/tensors/x", "/v1/ops/to", "/v1/batch", "/livez"]
)
def test_other_methods(http, path):
    options = http.send("OPTIONS", path)
    allowed = {method.strip() for method in options.headers["Allow"].split(",")}
    assert options.status == 204 and "OPTIONS" in allowed
    for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "TRACE", "BREW"} - allowed:
        answer = http.send(method, path)
        assert answer.status == 405 and answer.code == "bad_method", (method, answer.body)
        assert {m.strip() for m in answer.headers["Allow"].split(",")} == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/etc/passwd",
        "/v1/tensors.json",
        "/v2/tensors",
        "/.git",
        "//",
        "/v1/ops/",
        "/v1/../v1/stats",
    ],
)
def test_nothing_is_there(http, path):
    answer = http.get(path)
    assert answer.status == 404 and answer.code == "not_found"


def test_a_full_memory_is_refused_and_changes_nothing():
    with Daemon(*SMALL) as daemon, Http(daemon.http_url) as http:
        http.put("keep", [1, 2, 3])
        before = http.stats()
        big = http.op("zeros", shape=[300 << 20], dtype="uint8", output="keep")
        assert big.status == 507 and big.code == "out_of_memory"
        declared = http.send(
            "PUT",
            "/v1/tensors/keep?dtype=uint8&shape=300000000",
            None,
            {
                "Content-Length": "300000000",
                "Content-Type": "application/octet-stream",
                "Expect": "100-continue",
            },
        )
        assert declared.status == 413 and declared.code == "too_large"
        assert http.tensor("keep", values=1).json["data"] == [1, 2, 3]
        after = http.stats()
        assert after["memory_used_bytes"] == before["memory_used_bytes"]


def test_leases_and_principals(http, daemon, stocked):
    """Of all clients, whatever way they came; the lists of HTTP are those of frames."""
    with daemon.connect() as client:
        mappings = [Mapping(client, "m", write=True) for _ in range(3)]
        found = http.get("/v1/leases").json
        assert found["count"] == 3
        assert [strip(e) for e in found["entries"]] == [strip(e) for e in leases(client)]
        assert [entry["kind"] for entry in found["entries"]] == ["write"] * 3
        first = http.get("/v1/leases", limit=2).json
        second = http.get("/v1/leases", limit=2, lease=first["lease"]).json
        assert len(first["entries"]) == 2 and "lease" not in second
        assert [strip(e) for e in first["entries"] + second["entries"]] == [
            strip(e) for e in found["entries"]]  # fmt: skip
        assert http.get("/v1/leases", limit=0).code == "invalid"
        entries = http.get("/v1/principals").json["entries"]
        held = {(e["principal"], e["name"]): e["count"] for e in entries}
        assert held[f"uid:{os.getuid()}", "leases"] == 3 and held["tcp", "leases"] == 0
        for mapping in mappings:
            mapping.close()
    assert http.op("allocate", dtype="uint8", shape=[3]).code == "unsupported"


def strip(lease):
    """Without what changes while one looks."""
    return {key: value for key, value in lease.items() if key != "age_ms"}
