"""Names that expire, over frames and HTTP: when they are gone, what is told of them, and that what
nobody asks for is removed too. How the store does it is told by tests/unit/test_store_expiry.c."""

import json
import time
import urllib.parse

import numpy as np
import plain_client as plain
import pytest
from harness import client, daemon, local  # noqa: F401
from harness import MIB, SMALL, Daemon, Mapping, all_names, eventually, get, ok, put, refused
from http_client import Http

SOON_MS = 250
SOON_S = (SOON_MS - 1) / 1000  # the daemon counts whole milliseconds
LATE_MS = 600_000
TTL_MAX_MS = 3_155_760_000_000


@pytest.fixture
def http(daemon):
    with Http(daemon.http_url) as connection:
        yield connection


@pytest.fixture
def by_name():
    """A name of the test's own, so that what it leaves expires by itself."""
    return f"expiry/{time.monotonic_ns()}"


def is_gone(client, name):
    return client.request("info", {"input": name})[0] == "not_found"


def zeros(client, **fields):
    return client.request("zeros", {"shape": [1], **fields})


# ---- over frames ---------------------------------------------------------------------------------


def test_gone_when_its_time_is_over(client, by_name):
    begin = time.monotonic()
    assert put(client, by_name, b"abc", ttl_ms=SOON_MS)["ttl_ms"] == SOON_MS
    status, fields, _, _ = client.request("info", {"input": by_name})
    if status == "ok":
        assert 0 < fields["ttl_ms"] <= SOON_MS
    eventually(lambda: is_gone(client, by_name), "the name is gone")
    assert time.monotonic() - begin >= SOON_S
    for op in ("get", "map", "touch", "delete", "expire", "print"):
        refused(client.request(op, {"input": by_name}), "not_found", text=by_name)
    refused(client.request("rename", {"input": by_name, "output": "other"}), "not_found")
    assert by_name not in [entry["name"] for entry in all_names(client)]


def test_what_is_left_is_told(client, by_name):
    put(client, by_name, b"x", ttl_ms=LATE_MS)
    put(client, by_name + "/stays", b"y")
    told = [ok(client.request(op, {"input": by_name}))["ttl_ms"] for op in ("info", "get", "info")]
    assert LATE_MS - 60_000 < told[2] <= told[1] <= told[0] <= LATE_MS
    listed = {entry["name"]: entry for entry in all_names(client, prefix=by_name)}
    assert LATE_MS - 60_000 < listed[by_name]["ttl_ms"] <= told[2]
    assert "ttl_ms" not in listed[by_name + "/stays"]
    for name in listed:
        ok(client.request("delete", {"input": name}))


def test_expire_sets_the_time_and_takes_it_back(client, by_name):
    before = put(client, by_name, b"x")
    assert "ttl_ms" not in before
    timed = ok(client.request("expire", {"input": by_name, "ttl_ms": LATE_MS}))
    assert timed["ttl_ms"] == LATE_MS and timed["name"] == by_name
    assert (timed["generation"], timed["id"]) == (before["generation"], before["id"])
    stays = ok(client.request("expire", {"input": by_name}))
    assert "ttl_ms" not in stays
    assert "ttl_ms" not in ok(client.request("info", {"input": by_name}))
    ok(client.request("expire", {"input": by_name, "ttl_ms": 1}))
    eventually(lambda: is_gone(client, by_name), "the name is gone")
    object_id = ok(zeros(client))["id"]
    refused(client.request("expire", {"input": f"@{object_id}", "ttl_ms": 1}), "invalid")


def test_publishing_and_renaming(client, by_name):
    put(client, by_name, b"x", ttl_ms=LATE_MS)
    assert "ttl_ms" not in put(client, by_name, b"y")
    assert "ttl_ms" not in ok(client.request("info", {"input": by_name}))
    put(client, by_name, b"z", ttl_ms=LATE_MS)
    renamed = ok(client.request("rename", {"input": by_name, "output": by_name + "/new"}))
    assert LATE_MS - 60_000 < renamed["ttl_ms"] <= LATE_MS
    copied = ok(client.request("copy", {"input": by_name + "/new", "output": by_name}))
    assert "ttl_ms" not in copied  # another tensor, another name
    for name in (by_name, by_name + "/new"):
        ok(client.request("delete", {"input": name}))


def test_an_expired_name_is_free(client, by_name):
    first = put(client, by_name, b"1", ttl_ms=SOON_MS)
    taken = {"output": by_name, "create_only": True}
    status = zeros(client, **taken)[0]
    assert status == "exists" or is_gone(client, by_name)
    eventually(lambda: zeros(client, **taken)[0] == "ok", "the name is free")
    second = ok(client.request("info", {"input": by_name}))
    assert second["generation"] > first["generation"] and "ttl_ms" not in second
    refused(zeros(client, output=by_name, if_generation=first["generation"]), "precondition")
    ok(client.request("delete", {"input": by_name}))


def test_lengths_that_are_none(client, by_name):
    for ttl_ms in (0, TTL_MAX_MS + 1, 2**64 - 1):
        refused(zeros(client, output=by_name, ttl_ms=ttl_ms), "invalid", text=str(ttl_ms))
        refused(client.request("expire", {"input": by_name, "ttl_ms": ttl_ms}), "invalid")
    assert is_gone(client, by_name)
    assert ok(zeros(client, output=by_name, ttl_ms=TTL_MAX_MS))["ttl_ms"] == TTL_MAX_MS
    ok(client.request("delete", {"input": by_name}))
    refused(zeros(client, ttl_ms=5), "invalid", text="output name")
    refused(client.request("info", {"input": "x", "ttl_ms": 5}), "invalid", text="ttl_ms")


def test_who_maps_it_keeps_it(local, by_name):
    data = bytes(range(256)) * 1024
    put(local, by_name, data, ttl_ms=SOON_MS)
    mapping = Mapping(local, by_name)
    eventually(lambda: is_gone(local, by_name), "the name is gone")
    assert mapping.view[:] == data
    mapping.close()
    ok(local.request("release", {"lease": mapping.reply["lease"]}))


@pytest.mark.parametrize("options", [(), ("--no-http",)], ids=["both doors", "frames alone"])
def test_what_nobody_asks_for_is_removed(options):
    """Many names, some of them large: everything is given back, without a look at any of them."""
    with Daemon(*SMALL, *options) as daemon, daemon.connect() as client:
        put(client, "stays", b"x")
        before = daemon.stats()
        for i in range(600):
            put(client, f"small/{i}", b"some bytes", ttl_ms=SOON_MS + i % 7)
        for i in range(8):
            put(client, f"large/{i}", bytes(MIB), ttl_ms=SOON_MS)
        counted = ("names", "memory_used_bytes", "descriptors")

        def all_back():
            stats = daemon.stats()
            return all(stats[key] == before[key] for key in counted)

        eventually(all_back, "memory and names are given back")
        assert [entry["name"] for entry in all_names(client)] == ["stays"]
        removed = daemon.stats()["revision"] - before["revision"]
        assert removed == 2 * 608


@pytest.mark.threads
def test_many_names_expire_while_others_work(daemon, by_name):
    """Publishing with short times goes on while names end: no name outlives its time, none goes
    before it, and what stays stays."""
    with daemon.connect() as client, daemon.connect() as other:
        put(client, by_name + "/stays", b"x")
        end = {}
        for i in range(1500):
            name = f"{by_name}/{i % 40}"
            sent = time.monotonic()
            if i % 3:
                put(client, name, b"y", ttl_ms=1 + i % 60)
                end[name] = (sent + (1 + i % 60) / 1000, time.monotonic() + (1 + i % 60) / 1000)
            else:
                now = time.monotonic()
                status = other.request("info", {"input": name})[0]
                after = time.monotonic()
                earliest, latest = end.get(name, (0, 0))
                assert status != "ok" or now < latest + 0.002, "it is still there"
                assert status == "ok" or after > earliest - 0.002, "it is gone too early"
        assert get(other, by_name + "/stays") == b"x"
        eventually(lambda: len(all_names(other, prefix=by_name)) == 1, "only one stays")
        ok(other.request("delete", {"input": by_name + "/stays"}))


# ---- over HTTP -----------------------------------------------------------------------------------


def test_ttl_of_a_put(http, by_name):
    begin = time.monotonic()
    made = http.put(by_name, np.arange(4), ttl=f"{SOON_MS}ms")
    assert made.status == 201 and made.json["ttl_ms"] == SOON_MS
    eventually(lambda: http.tensor(by_name).status == 404, "the name is gone")
    assert time.monotonic() - begin >= SOON_S
    assert http.put(by_name, np.arange(4), {"If-None-Match": "*"}, ttl="10m").status == 201
    replaced = http.put(by_name, np.arange(4))
    assert replaced.status == 200 and "ttl_ms" not in replaced.json
    assert http.send("DELETE", f"/v1/tensors/{by_name}").status == 204


@pytest.mark.parametrize("ttl, ttl_ms", [("250", 250), ("500ms", 500), ("30s", 30_000),
                                         ("2m", 120_000), ("1h", 3_600_000)])  # fmt: skip
def test_durations(http, by_name, ttl, ttl_ms):
    for body, query in ((np.arange(4), {}), ([1, 2], {}), (b"ab", {"dtype": "uint8", "shape": 2})):
        headers = {"Content-Type": "application/octet-stream"} if query else {}
        made = http.put(by_name, body, headers, ttl=ttl, **query)
        assert made.status < 300 and made.json["ttl_ms"] == ttl_ms, made.body
    http.send("DELETE", f"/v1/tensors/{by_name}")


@pytest.mark.parametrize("ttl", ["0", "0s", "", "soon", "-1s", "1.5s", "1d", str(TTL_MAX_MS + 1),
                                 "876600001h", "99999999999999999999"])  # fmt: skip
def test_durations_that_are_none(http, by_name, ttl):
    answer = http.put(by_name, np.arange(4), ttl=ttl)
    assert answer.status == 400 and answer.code == "invalid", answer.body
    assert http.tensor(by_name).status == 404
    query = urllib.parse.urlencode({"ttl": ttl, "dtype": "uint8", "shape": 100 * MIB})
    early = http.send("PUT", f"/v1/tensors/{by_name}?{query}", None,
                      {"Content-Length": str(100 * MIB), "Expect": "100-continue",
                       "Content-Type": "application/octet-stream"})  # fmt: skip
    assert early.code == "invalid"  # before the body


def test_a_description_tells_the_time_anew(http, by_name):
    http.put(by_name, np.arange(4), ttl="10m")
    first = http.tensor(by_name)
    assert 540_000 < first.json["ttl_ms"] <= 600_000
    tag = {"If-None-Match": first.headers["ETag"]}
    assert http.tensor(by_name, tag).status == 200
    npy = http.tensor(by_name, format="npy")
    assert http.tensor(by_name, {"If-None-Match": npy.headers["ETag"]}, format="npy").status == 304
    assert "ttl_ms" not in http.op("expire", input=by_name).json
    assert "ttl_ms" not in http.tensor(by_name).json
    assert http.tensor(by_name, tag).status == 304
    http.send("DELETE", f"/v1/tensors/{by_name}")


def test_operations_and_documents(http, by_name):
    made = http.op("zeros", shape=[2], output=by_name, ttl_ms=LATE_MS).json
    assert made["ttl_ms"] == LATE_MS
    assert http.op("zeros", shape=[2], ttl_ms=LATE_MS).code == "invalid"
    assert http.op("zeros", shape=[2], output=by_name, ttl_ms=0).code == "invalid"
    expired = http.op("expire", input=by_name, ttl_ms=LATE_MS + 1)
    assert expired.status == 200 and expired.json["ttl_ms"] == LATE_MS + 1
    assert http.op("expire", input="never there", ttl_ms=5).code == "not_found"
    document = {"output": by_name, "data": [1, 2], "ttl_ms": LATE_MS}
    put_it = http.op("put", **document)
    assert put_it.status == 200 and put_it.json["ttl_ms"] == LATE_MS
    by_document = http.put(by_name, {"data": [1, 2], "ttl_ms": LATE_MS})
    assert by_document.json["ttl_ms"] == LATE_MS
    by_both = http.put(by_name, {"data": [1, 2], "ttl_ms": LATE_MS}, ttl="1h")
    assert by_both.json["ttl_ms"] == 3_600_000  # the query is the request's own
    listed = http.get("/v1/tensors", prefix=by_name).json["entries"]
    assert [entry["name"] for entry in listed] == [by_name]
    assert 0 < listed[0]["ttl_ms"] <= 3_600_000
    batch = [{"op": "clone", "input": by_name, "output": by_name + "/c", "ttl_ms": LATE_MS},
             {"op": "expire", "input": "@[0]"},
             {"op": "expire", "input": by_name + "/c", "ttl_ms": 1}]  # fmt: skip
    results = http.send("POST", "/v1/batch", json.dumps({"operations": batch}),
                        {"Content-Type": "application/json"}).json["results"]  # fmt: skip
    assert [result.get("ttl_ms") for result in results] == [LATE_MS, None, 1]
    eventually(lambda: http.tensor(by_name + "/c").status == 404, "the copy is gone")
    http.send("DELETE", f"/v1/tensors/{by_name}")


def test_watchers_see_it_go(http, by_name):
    """The event of a removal, though nobody asks for the name again."""
    since = http.stats()["revision"]
    http.put(by_name, np.arange(4), ttl=f"{SOON_MS}ms")
    address = f"/v1/watch?prefix={urllib.parse.quote(by_name)}&since={since}"
    http.connection.request("GET", address)
    response = http.connection.getresponse()
    events = []
    while events[-1:] != ["remove"]:
        line = response.fp.readline()
        assert line, "the events ended"
        if line.startswith(b"event: "):
            events.append(line[7:].strip().decode())
    assert events == ["publish", "remove"]


def test_devices_tell_their_memory(http, client):
    entry = http.get("/v1/devices").json["entries"][0]
    assert entry["name"] == "cpu" and entry["storage_bytes"] == 256 * MIB
    put(client, "devices/x", bytes(4 * MIB), ttl_ms=LATE_MS)
    more = http.get("/v1/devices").json["entries"][0]["nbytes"] - entry["nbytes"]
    assert 4 * MIB <= more < 5 * MIB
    over_frames = plain.read_list(client.request("devices")[2])[0]
    assert over_frames["storage_bytes"] == 256 * MIB
    assert over_frames["nbytes"] == http.stats()["memory_used_bytes"]
    ok(client.request("delete", {"input": "devices/x"}))


# ---- in Python -----------------------------------------------------------------------------------


def test_ttl_in_python(daemon, by_name):
    tensord = pytest.importorskip("tensord")
    with tensord.connect(daemon.url) as c:
        short, late = by_name + "/short", by_name + "/late"
        x = c.put(late, np.arange(6).reshape(2, 3), ttl=600, mutable=True)
        assert 540 < c.ttl(late) <= 600
        assert x.mode == "mutable" and x.tolist() == [[0, 1, 2], [3, 4, 5]]
        x.save(short, ttl=SOON_MS / 1000)
        eventually(lambda: short not in c, "the name is gone")
        with pytest.raises(tensord.NotFound):
            c.expire(short, 1)
        with pytest.raises(tensord.Exists):
            c.put(late, [1], ttl=1, create_only=True)
        for ttl in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="ttl is a time in seconds above 0"):
                c.put(late, [1], ttl=ttl)
        assert x.save(late).tolist() == [[0, 1, 2], [3, 4, 5]] and c.ttl(late) is None
        del c[late]
