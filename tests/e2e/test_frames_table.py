"""Every operation of PROTOCOL.md's table over frames, with each of its documented fields, and every
operation's errors about fields. An operation without an example here fails the test."""

import fcntl
import os
import struct

import plain_client as plain
import pytest
from harness import SMALL, Daemon, client, local, make_memfd, ok, put, refused  # noqa: F401
from plain_client import Scalar

TRAITS = {row[1]: set(row[4].split(", ")) - {""} for row in plain.protocol_table("ops")}
REQUIRED = {row[1]: set(row[2].split(", ")) - {""} for row in plain.protocol_table("ops")}
OPTIONAL = {row[1]: set(row[3].split(", ")) - {""} for row in plain.protocol_table("ops")}
MAKES_FIELDS = {"output", "create_only", "if_generation", "ttl_ms"}

NEW = {"dtype": "float64", "device": "cpu", "requires_grad": True, "mutable": True}
CAST = {"casting": "unsafe", "saturate": True}
BODY = {"dtype": "float32", "shape": [2], "device": "cpu", "requires_grad": False}
HEADER = b'{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
FILE = struct.pack("<Q", len(HEADER)) + HEADER + b"abc"
# Requests as (fields, body). The names are those of `stock`; NAME is a free one.
EXAMPLES = {
    "hello": [],  # see test_hello_fields
    "ping": [({}, b"body")],
    "stats": [({}, b"")],
    "devices": [({}, b"")],
    "ops": [({}, b"")],
    "put": [({**BODY, "output": "NAME", "mutable": True}, b"12345678"),
            ({**BODY, "output": "NAME", "shape": [2, 3], "strides": [1, 2]}, bytes(24))],
    "get": [({"input": "m", "dtype": "int16", **CAST}, b""),
            ({"input": "v", "index": [1, slice(0, 2)], "force": True}, b""),
            ({"input": "m", "index": [slice(None, None, -1)]}, b"")],
    "map": [({"input": "m", "write": True, "ttl_ms": 60000}, b""),
            ({"input": "m", "known_storage": 1}, b"")],
    "release": [({"input": "@"}, b""), ({"lease": 1}, b""), ({"force": True}, b"")],
    "info": [({"input": "m"}, b"")],
    "list": [({"prefix": "", "limit": 3, "cursor": "a"}, b"")],
    "rename": [({"input": "m", "output": "NAME", "create_only": True}, b""),
               ({"input": "one", "output": "old", "if_generation": 1}, b"")],
    "copy": [({"input": "m", "output": "NAME", "mutable": False}, b"")],
    "delete": [({"input": "m", "if_generation": 1}, b"")],
    "touch": [({"input": "m"}, b""), ({"input": "m", "output": "m"}, b"")],
    "empty": [({"shape": [2, 3], **NEW}, b"")],
    "zeros": [({"shape": [2, 3], **NEW}, b"")],
    "ones": [({"shape": [2, 3], **NEW}, b"")],
    "full": [({"shape": [2, 3], "value": 1.5, **NEW}, b"")],
    "eye": [({"shape": [3], **NEW}, b""), ({"shape": [2, 3]}, b"")],
    "arange": [({"end": 9, "start": 1.5, "step": Scalar("uint", 2), **NEW}, b"")],
    "rand": [({"shape": [2, 3], "seed": 7, "counter": 2, **NEW}, b"")],
    "randn": [({"shape": [2, 3], "seed": 7, "counter": 2, **NEW}, b"")],
    "randint": [({"shape": [2, 3], "high": 9, "low": -9, "seed": 7, "counter": 2, **NEW}, b"")],
    "tensor": [({**BODY, "mutable": False}, b"12345678")],
    "as_tensor": [({"input": "m", "dtype": "int8", "device": "cpu"}, b"")],
    "from_numpy": [({"dtype": "float32", "shape": [2], "require_shared": False}, b"12345678"),
                   ({"dtype": "uint8", "shape": [2, 3], "strides": [10, 2], "offset_bytes": 5,
                     "require_shared": True}, "memfd")],
    "expire": [({"input": "m", "ttl_ms": 60000}, b""), ({"input": "old"}, b"")],
    "allocate": [({"dtype": "float32", "shape": [2, 3], "device": "cpu"}, b""),
                 ({"dtype": "float32", "shape": [2, 3], "queue": "QUEUE", "force": True}, b"")],
    "publish": [({"input": "@new", "output": "NAME", "mode": "frozen", "wait_ms": 10}, b""),
                ({"input": "@new", "output": "NAME", "mode": "mutable", "requires_grad": True},
                 b"")],
    "seal": [({"input": "m", "wait_ms": 10}, b"")],
    "leases": [({"limit": 3, "lease": 1}, b"")],
    "principals": [({}, b"")],
    "wait": [({"input": "m"}, b""), ({"input": "m", "generation": 1}, b"")],
    "watch": [({"prefix": "", "since": 0, "limit": 3}, b"")],
    "to": [({"input": "m", "dtype": "float16", "device": "cpu", "copy": True, **CAST}, b""),
           ({"input": "m", "other": "one"}, b"")],
    "type": [({"input": "m", "dtype": "float8_e4m3fn", **CAST}, b"")],
    "cpu": [({"input": "m"}, b"")],
    "cuda": [({"input": "m", "device": "cuda:0"}, b"")],
    "clone": [({"input": "m"}, b"")],
    "detach": [({"input": "v"}, b"")],
    "data": [({"input": "v"}, b"")],
    "contiguous": [({"input": "m"}, b"")],
    "numpy": [({"input": "v", "force": True, "write": True}, b""),
              ({"input": "m", "known_storage": 1}, b"")],
    "view": [({"input": "m", "shape": [3, 2]}, b"")],
    "reshape": [({"input": "m", "shape": [-1]}, b"")],
    "transpose": [({"input": "m", "dim0": 0, "dim1": -1}, b"")],
    "permute": [({"input": "m", "dims": [1, 0]}, b"")],
    "select": [({"input": "m", "dim": 1, "index": [-1]}, b"")],
    "slice": [({"input": "m", "dim": 1, "index": [slice(0, None, 2)]}, b""),
              ({"input": "m", "dim": 0, "index": [slice(None, None, -1)]}, b"")],
    "getitem": [({"input": "m", "index": [None, ..., slice(1, 3)]}, b"")],
    "squeeze": [({"input": "m", "dim": 0}, b"")],
    "unsqueeze": [({"input": "m", "dim": -1}, b"")],
    "expand": [({"input": "one", "shape": [4, 1]}, b"")],
    "load": [({"prefix": "NAME", "format": "safetensors", "dtype": "bfloat16", "mutable": True,
               "requires_grad": True, "create_only": True, "ttl_ms": 60000}, FILE),
             ({"prefix": "NAME", "path": "file"}, b"")],
    "save": [({"prefix": "file", "format": "safetensors", "metadata": "{}", "dtype": "float16",
               **CAST}, b""),
             ({"tensors": "x=m\none", "path": "saved", "format": "npz", "force": True}, b"")],
    "setitem": [({"input": "m", "index": [0], "value": 2.5}, b""),
                ({"input": "m", "index": [..., 1], "other": "one", **CAST}, b"")],
    "fill_": [({"input": "m", "value": True}, b"")],
    "copy_": [({"input": "m", "other": "one", **CAST}, b"")],
    "mul": [({"input": "m", "value": 2}, b"")],
    "add": [({"input": "m", "value": 1j}, b"")],
    "variable": [({"input": "m", "requires_grad": True}, b"")],
    "requires_grad_": [({"input": "m", "requires_grad": False}, b"")],
    "grad": [({"input": "v"}, b"")],
    "set_grad": [({"input": "v", "other": "m"}, b""), ({"input": "v"}, b"")],
    "print": [({"input": "m"}, b""), ({"input": "m", "dtype": "int8", **CAST}, b"")],
    "item": [({"input": "one"}, b"")],
    "queue_create": [({"queue": "NEWQ", "max_items": 3, "max_bytes": 1000, "when_full": "fail",
                       "visibility_ms": 1000, "create_only": True}, b"")],
    "queue_delete": [({"queue": "Q"}, b"")],
    "queue_info": [({"queue": "Q"}, b"")],
    "queues": [({"prefix": "Q", "limit": 3, "cursor": "A"}, b"")],
    "queue_put": [({"queue": "Q", "tensors": "a=m\n=v\none", "meta": "{}", "dtype": "float32",
                    "shape": [2, 3]}, b"")],
    "queue_get": [({"queue": "Q"}, b"")],
    "queue_ack": [({"lease": "ITEM"}, b"")],
    "queue_peek": [({"queue": "Q", "limit": 3, "parked": False}, b"")],
    "queue_close": [({"queue": "Q"}, b"")],
    "queue_drain": [({"queue": "Q", "parked": False}, b"")],
}  # fmt: skip
# What a reply must have besides the description of a tensor.
TELLS = {"rand": {"seed"}, "randn": {"seed"}, "randint": {"seed"}, "list": {"count"},
         "print": {"text"}, "item": {"value", "dtype"}, "watch": {"since", "count"},
         "leases": {"count"}, "allocate": {"memory"}, "publish": {"memory"}, "seal": {"memory"},
         "load": {"count", "memory"}, "save": {"count"},
         "queue_create": {"queue", "max_items", "max_bytes", "when_full", "visibility_ms"},
         "queue_info": {"queue", "count", "nbytes", "closed"}, "queues": {"count"},
         "queue_put": {"item", "nbytes"}, "queue_drain": {"count"}, "queue_peek": {"count"},
         "queue_get": {"item", "lease", "deliveries", "nbytes", "count", "meta"}}  # fmt: skip
# What each entry has, besides more.
LISTS = {"stats": "name", "devices": "name", "ops": "name", "list": "name", "watch": "name",
         "principals": "name", "leases": "lease", "queues": "queue", "queue_info": "name",
         "queue_peek": "item", "queue_get": "storage", "load": "name"}  # fmt: skip
SILENT = {"ping", "release", "delete", "save", *LISTS}
SILENT |= {op for op in EXAMPLES if op.startswith("queue_")}


def stock(client):
    """The tensors of the examples: m a mutable matrix, one a single number, v a variable with grad,
    old a name to replace."""
    body = struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    put(client, "m", body, "float32", [2, 3], mutable=True)
    put(client, "one", body[:4], "float32", [1])
    put(client, "old", b"x")
    put(client, "file/a", b"abc")
    ok(client.request("variable", {"input": "m", "output": "v", "requires_grad": True}))
    ok(client.request("set_grad", {"input": "v", "other": "m"}))


def stock_queue(client):
    """A new queue Q with one item."""
    client.request("queue_delete", {"queue": "Q"})
    ok(client.request("queue_create", {"queue": "Q"}))
    ok(client.request("queue_put", {"queue": "Q", "tensors": "k=m\none", "meta": "text"}))


def completed(client, fields):
    """An example's fields with what only the running daemon knows."""
    fields = dict(fields)
    if fields.get("queue") == "QUEUE":
        client.request("queue_create", {"queue": "QUEUE"})
    if fields.get("queue") == "Q" or fields.get("lease") == "ITEM":
        stock_queue(client)
    if fields.get("queue") == "NEWQ":
        client.request("queue_delete", {"queue": "NEWQ"})
    if fields.get("input") == "@new":
        fields["input"] = allocated(client)
    if fields.get("input") == "@":
        fields["input"] = f"@{ok(client.request('zeros', {'shape': [1]}))['id']}"
    if fields.get("lease") == "ITEM":
        fields["lease"] = ok(client.request("queue_get", {"queue": "Q"}))["lease"]
    elif "lease" in fields and "limit" not in fields:
        status, reply, _, fds = client.request("map", {"input": "m"})
        fields["lease"] = reply.get("lease", 0)
        for fd in fds:
            os.close(fd)
    if "if_generation" in fields:
        name = fields.get("output", fields["input"])
        fields["if_generation"] = ok(client.request("info", {"input": name}))["generation"]
    if "known_storage" in fields:
        fields["known_storage"] = ok(client.request("info", {"input": "m"}))["storage"]
    return fields


def is_over_tcp(client):
    return client.socket.family != plain.socket.AF_UNIX


def allocated(client):
    """An object to be published; over TCP there is none."""
    if is_over_tcp(client):
        return "@1"
    status, reply, _, fds = client.request("allocate", {"dtype": "float32", "shape": [2, 3]})
    for fd in fds:
        os.close(fd)
    return f"@{reply['id']}"


def send(client, op, fields, body):
    if body != "memfd":
        return client.request(op, fields, body)
    fd = make_memfd(bytes(range(100)))
    try:
        return client.request(op, fields, fds=[fd])
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "file").write_bytes(FILE)
    with Daemon(*SMALL, "--load-dir", folder, "--save-dir", folder) as running:
        yield running


@pytest.fixture
def stocked(client):
    for name in ("m", "one", "old", "v", "NAME", "NAME/a"):
        client.request("delete", {"input": name})
    stock(client)
    return client


@pytest.mark.parametrize("op", plain.OPS.values())
def test_the_examples_have_every_documented_field(op):
    assert op in EXAMPLES, f"{op} is in PROTOCOL.md's table, but has no example here"
    if op == "hello":
        return
    used = set().union(*(fields for fields, _ in EXAMPLES[op]))
    automatic = MAKES_FIELDS if "makes" in TRAITS[op] else set()
    documented = REQUIRED[op] | OPTIONAL[op]
    assert documented - automatic <= used, f"{op}: no example with {documented - used}"
    assert used <= documented | automatic, f"{op}: {used - documented} are not documented"


def check_reply(op, reply):
    status, fields, body, fds = reply
    for fd in fds:
        os.close(fd)
    if op == "cuda":
        assert status == "no_device" and "CUDA" in fields["message"].upper()
        return
    assert status == "ok", fields
    assert not fds or "fd_out" in TRAITS[op]
    assert TELLS.get(op, set()) <= set(fields)
    if op in LISTS:
        assert all(LISTS[op] in entry for entry in plain.read_list(body))
    if op not in SILENT and op != "item" and op != "print":
        described = {"id", "kind", "dtype", "shape", "strides", "nbytes", "device", "storage",
                     "storage_bytes", "mode", "epoch", "version", "requires_grad", "is_leaf",
                     "offset_bytes"}  # fmt: skip
        assert described <= set(fields), described - set(fields)
    if fields.get("memory") == "copied":
        assert fields["reason"]
    else:
        assert "reason" not in fields


@pytest.mark.parametrize("op", [op for op in plain.OPS.values() if op != "hello"])
def test_every_operation(stocked, op):
    over_tcp = is_over_tcp(stocked)
    for fields, body in EXAMPLES[op]:
        fields = completed(stocked, fields)
        of_memory = body == "memfd" or fields.get("write") or op in ("allocate", "publish")
        if over_tcp and (of_memory or (op == "release" and "lease" in fields)):
            continue
        if op != "ping":
            fields["timeout_ms"] = 60000
        check_reply(op, send(stocked, op, fields, body))


@pytest.mark.parametrize("op", [op for op in plain.OPS.values() if "makes" in TRAITS[op]])
def test_every_operation_that_makes_publishes_its_result(stocked, op):
    fields, body = EXAMPLES[op][0]
    fields = {**completed(stocked, fields), "output": "NAME", "create_only": True, "ttl_ms": 60000}
    if op == "publish" and is_over_tcp(stocked):
        return
    reply = send(stocked, op, fields, body)
    if op == "cuda":
        return
    first = ok(reply)
    if op == "publish":
        fields["input"] = allocated(stocked)
    assert first["name"] == "NAME" and first["generation"] > 0 and first["ttl_ms"] == 60000
    refused(send(stocked, op, fields, body), "exists")
    del fields["create_only"], fields["ttl_ms"]
    fields["if_generation"] = first["generation"]
    second = ok(send(stocked, op, fields, body))
    assert second["generation"] > first["generation"]
    if op == "publish":
        fields["input"] = allocated(stocked)
    refused(send(stocked, op, fields, body), "precondition")
    info = ok(stocked.request("info", {"input": "NAME"}))
    assert (info["generation"], info["id"]) == (second["generation"], second["id"])
    assert "ttl_ms" not in info


@pytest.mark.parametrize("op", [op for op in plain.OPS.values() if op != "hello"])
def test_fields_that_an_operation_lacks_or_does_not_take(stocked, op):
    """Whatever is wrong, the message names the field, and nothing is done."""
    fields, body = EXAMPLES[op][0]
    fields = completed(stocked, fields)
    for name in REQUIRED[op]:
        lacking = {key: value for key, value in fields.items() if key != name}
        refused(send(stocked, op, lacking, body), "invalid", text=name)
    takes = REQUIRED[op] | OPTIONAL[op] | {"timeout_ms"}
    if "makes" in TRAITS[op]:
        takes |= MAKES_FIELDS
    samples = {"token": "x", "grad_fn": "x", "kind": "x", "session": 1, "message": "x",
               "count": 3, "is_leaf": True, "input": "m", "value": 1}  # fmt: skip
    for name, value in samples.items():
        if name not in takes:
            reply = send(stocked, op, {**fields, name: value}, body)
            refused(reply, "invalid", text=name)
    for number in (max(plain.FIELDS) + 1, 127, 200, 255):
        refused(send(stocked, op, {**fields, f"#{number}": b""}, body), "invalid", text=str(number))


@pytest.mark.parametrize("op", [op for op in plain.OPS.values() if op != "hello"])
def test_fields_twice_or_out_of_order(stocked, op):
    fields, body = EXAMPLES[op][0]
    meta = plain.build_meta(completed(stocked, fields))
    late = plain.build_field(30, (1000).to_bytes(8, "little"))
    early = plain.build_field(1, b"m")
    for wrong in (meta + late + late, late + early + meta, meta + late[:-1], meta + late + b"\1",
                  plain.build_field(0, b"") + meta):  # fmt: skip
        payload = b"" if body == "memfd" else body
        refused(stocked.request(op, wrong, payload), "protocol")
    assert stocked.request("ping", {}, b"in step")[2] == b"in step"


def test_hello_fields(daemon):
    with plain.PlainClient(daemon.url, client="somebody", token="not needed") as client:
        key = client.welcome["session_key"]
        with plain.PlainClient(daemon.url, session_key=key) as other:
            assert other.welcome["session"] == client.welcome["session"]
    for fields, status in [({"protocol": 2}, "unsupported"), ({}, "invalid"),
                           ({"protocol": 1, "session_key": "none"}, "not_found"),
                           ({"protocol": 1, "session_key": ""}, "not_found"),
                           ({"protocol": 1, "input": "x"}, "invalid"),
                           ({"protocol": 1, "#200": b"x"}, "invalid")]:  # fmt: skip
        for url in (daemon.url, daemon.tcp_url):
            with plain.PlainClient(url, hello=False) as client:
                refused(client.request("hello", fields), status)
                assert client.is_closed()


def test_ops_lists_the_table(client):
    listed = {entry["name"]: entry["text"] for entry in plain.read_list(client.request("ops")[2])}
    assert listed == {row[1]: row[5] for row in plain.protocol_table("ops")}


def test_operations_without_bodies_and_descriptors_refuse_them(stocked):
    over_tcp = stocked.socket.family != plain.socket.AF_UNIX
    for op in plain.OPS.values():
        if op == "hello":
            continue
        fields = completed(stocked, EXAMPLES[op][0][0])
        if "body_in" not in TRAITS[op]:
            refused(stocked.request(op, fields, b"surplus"), "invalid")
        if "fd_in" not in TRAITS[op] and not over_tcp:
            body = EXAMPLES[op][0][1]
            fd = make_memfd(b"surplus")
            reply = stocked.request(op, fields, body, fds=[fd])
            os.close(fd)
            refused(reply, "invalid")


def test_given_memory_with_strides(local):
    """The example of from_numpy, element by element."""
    fields, _ = EXAMPLES["from_numpy"][1]
    reply = ok(send(local, "from_numpy", fields, "memfd"))
    assert reply["memory"] == "shared" and reply["strides"] == [10, 2]
    body = local.request("get", {"input": f"@{reply['id']}"})[2]
    assert list(body) == [5, 7, 9, 15, 17, 19]


def test_known_storage_saves_the_descriptor(local):
    stock(local)
    status, first, _, (fd,) = local.request("map", {"input": "m"})
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    os.close(fd)
    status, second, _, fds = local.request("map", {"input": "m", "known_storage": first["storage"]})
    assert status == "ok" and fds == [] and second["lease"] != first["lease"]
    status, third, _, fds = local.request("map", {"input": "m", "known_storage": 1})
    assert status == "ok" and len(fds) == 1
    os.close(fds[0])
