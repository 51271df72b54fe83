"""Queues over HTTP: /v1/queues, the operations as documents, items that belong to a session, and
waiting with nobody's thread."""

import contextlib
import json
import time
import urllib.parse

import numpy as np
import pytest
from harness import SMALL, Daemon, ok, put, refused  # noqa: F401
from http_client import Http
from queue_client import Item, info
from test_http_watch import PATIENCE_S, Caller, local, until_hung_up  # noqa: F401

TTL_S = 0.6


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL, "--session-ttl-ms", int(TTL_S * 1000)) as running:
        yield running


@pytest.fixture
def http(daemon):
    with Http(daemon.http_url) as connection:
        yield connection
        for entry in connection.get("/v1/queues").json["entries"]:
            name = urllib.parse.quote(entry["queue"])
            assert connection.send("DELETE", f"/v1/queues/{name}").status == 204
        if connection.session:
            connection.send("DELETE", "/v1/session")


def make(http, name="q", **settings):
    answer = http.send("PUT", f"/v1/queues/{name}", **settings)
    assert answer.status == 200, answer.body
    return answer.json


def put_item(http, text, **fields):
    """An item of a named tensor, with that text."""
    assert http.put("t", np.array([1, 2, 3], "i4")).status in (200, 201)
    answer = http.op("queue_put", queue="q", tensors="x=t", meta=text, **fields)
    assert http.send("DELETE", "/v1/tensors/t").status == 204
    return answer


def get_item(http, **fields):
    answer = http.op("queue_get", queue="q", timeout_ms=0, **fields)
    assert answer.status == 200, answer.body
    return answer.json


def counters(http, name="q"):
    answer = http.get(f"/v1/queues/{name}").json
    return {row["name"]: row["count"] for row in answer["entries"]}


# ---- queues by their addresses -------------------------------------------------------------------


def test_a_queue_by_its_address(http):
    made = make(http, max_items=3, max_bytes=1000, when_full="fail", visibility_ms=2000)
    assert made == {"queue": "q", "count": 0, "nbytes": 0, "max_items": 3, "max_bytes": 1000,
                    "when_full": "fail", "visibility_ms": 2000, "closed": False}  # fmt: skip
    assert make(http, max_items=3) == made
    different = http.send("PUT", "/v1/queues/q", max_items=4)
    assert (different.status, different.code) == (409, "exists")
    assert http.send("PUT", "/v1/queues/q", create_only="true").code == "exists"
    for wrong in ({"max_items": 0}, {"when_full": "never"}, {"visibility_ms": "x"}, {"limit": 1}):
        assert http.send("PUT", "/v1/queues/r", **wrong).code == "invalid"
    assert http.send("PUT", "/v1/queues/a//b").code == "invalid"
    assert http.send("PUT", "/v1/queues/" + 513 * "n").code == "invalid"
    told = http.get("/v1/queues/q").json
    assert {key: told[key] for key in made} == made
    assert {"items", "in_flight", "parked", "puts", "acks"} <= {e["name"] for e in told["entries"]}
    assert http.send("HEAD", "/v1/queues/q").status == 200
    assert http.send("POST", "/v1/queues/q").status == 405
    assert http.send("DELETE", "/v1/queues/q").status == 204
    for gone in (http.send("DELETE", "/v1/queues/q"), http.get("/v1/queues/q")):
        assert (gone.status, gone.code) == (404, "not_found")


def test_queues_are_listed_page_by_page(http):
    names = ["a b", "a/1", "a/2", "b", "ä"]
    for name in names:
        make(http, urllib.parse.quote(name))
    first = http.get("/v1/queues", limit=2).json
    assert [entry["queue"] for entry in first["entries"]] == names[:2] and first["count"] == 5
    rest = http.get("/v1/queues", cursor=first["cursor"]).json
    assert [entry["queue"] for entry in rest["entries"]] == names[2:] and "cursor" not in rest
    found = http.get("/v1/queues", prefix="a/").json["entries"]
    assert [entry["queue"] for entry in found] == ["a/1", "a/2"]
    assert http.get("/v1/queues", limit=0).code == "invalid"


# ---- items ---------------------------------------------------------------------------------------


def test_an_item_belongs_to_a_session(http, daemon):
    make(http)
    put_answer = put_item(http, '{"n": 1}')
    assert put_answer.json == {"item": 1, "nbytes": 12} and http.session is None
    assert counters(http)["items"] == 1
    (peeked,) = http.op("queue_peek", queue="q").json["entries"]
    assert peeked["meta"] == '{"n": 1}' and peeked["tensors"] == "x=int32[3]"
    item = get_item(http)
    assert http.session and item["meta"] == '{"n": 1}' and item["deliveries"] == 1
    (tensor,) = item["entries"]
    assert tensor["key"] == "x" and tensor["shape"] == [3]
    got = http.get(f"/v1/tensors/@{tensor['id']}", format="npy")
    assert np.array_equal(got.array, [1, 2, 3])
    with Http(daemon.http_url) as stranger:
        assert stranger.op("queue_ack", lease=item["lease"]).code == "not_found"
        assert stranger.get(f"/v1/tensors/@{tensor['id']}").code == "not_found"
        stranger.send("POST", "/v1/session")
        assert stranger.op("queue_ack", lease=item["lease"]).code == "not_found"
        stranger.send("DELETE", "/v1/session")
    assert http.op("queue_ack", lease=item["lease"]).json == {}
    again = http.op("queue_ack", lease=item["lease"])
    assert (again.status, again.code) == (409, "conflict")
    assert http.op("release", lease=item["lease"]).status == 200
    assert http.get(f"/v1/tensors/@{tensor['id']}").code == "not_found"
    assert counters(http)["acks"] == 1


def test_what_a_queue_refuses(http):
    make(http, max_items=1, when_full="fail")
    empty = http.op("queue_get", queue="q", timeout_ms=0)
    assert (empty.status, empty.code) == (404, "empty")
    put_item(http, "a")
    full = put_item(http, "b")
    assert (full.status, full.code) == (429, "full")
    assert http.op("queue_close", queue="q").json == {}
    for closed in (put_item(http, "c"), http.op("queue_put", queue="q", tensors="none")):
        assert closed.code in ("closed", "not_found")
    assert http.op("queue_drain", queue="q").json == {"count": 1}
    closed = http.op("queue_get", queue="q")
    assert (closed.status, closed.code) == (410, "closed")


def test_a_session_that_ends_gives_its_items_back(http, daemon):
    make(http)
    put_item(http, "a")
    put_item(http, "b")
    with Http(daemon.http_url) as other:
        assert get_item(other)["meta"] == "a"
        assert other.send("DELETE", "/v1/session").status == 204
    item = get_item(http)
    assert (item["meta"], item["deliveries"]) == ("a", 2)
    with Http(daemon.http_url) as forgotten:
        assert get_item(forgotten)["meta"] == "b"
        begun = time.monotonic()
        # No use of the session, but one of the queue: it comes when the session's time is over.
        back = http.op("queue_get", queue="q").json
        assert 0.5 * TTL_S < time.monotonic() - begun < TTL_S + PATIENCE_S
        assert (back["meta"], back["deliveries"]) == ("b", 2)
        assert forgotten.op("queue_ack", lease=1).code == "not_found"


def test_items_between_the_doors(http, daemon, local):
    make(http)
    put(local, "t", b"by frames")
    ok(local.request("queue_put", {"queue": "q", "tensors": "t", "meta": "f"}))
    item = get_item(http)
    raw = http.get(f"/v1/tensors/@{item['entries'][0]['id']}", format="raw")
    assert raw.body == b"by frames"
    http.op("release", lease=item["lease"])
    got = Item(local, local.request("queue_get", {"queue": "q"}))
    assert (got.meta, got.deliveries, got.bytes()) == ("f", 2, b"by frames")
    got.done()
    ok(local.request("delete", {"input": "t"}))
    assert http.op("allocate", queue="q", dtype="uint8", shape=[3]).code == "unsupported"


# ---- waiting -------------------------------------------------------------------------------------


def answered(caller, status=200):
    got, headers, body = caller.answer()
    assert got == status, body
    return json.loads(body), headers


def until(local, **wanted):
    deadline = time.monotonic() + PATIENCE_S
    while any(info(local)[name] != value for name, value in wanted.items()):
        assert time.monotonic() < deadline, (wanted, info(local))
        time.sleep(0.005)


def until_no_sessions(daemon):
    """Over HTTP: two are the connections of the tests."""
    deadline = time.monotonic() + PATIENCE_S
    while daemon.stats()["sessions"] > 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_get_waits(http, daemon, local):
    make(http)
    with Caller(daemon) as caller:
        caller.op("queue_get", queue="q", timeout_ms=20000)
        assert caller.is_silent()
        assert info(local)["waiting_gets"] == 1
        put_item(http, "late")
        item, headers = answered(caller)
        assert item["meta"] == "late" and headers["Tensord-Session"]
    for timeout_ms in (1, 120):
        begun = time.monotonic()
        empty = http.op("queue_get", queue="q", timeout_ms=timeout_ms)
        assert empty.code == "empty" and time.monotonic() - begun >= timeout_ms / 1000 - 0.001
    until(local, waiting_gets=0)


def test_a_session_lives_while_it_waits(http, daemon):
    make(http)
    with Caller(daemon) as caller:
        caller.op("queue_get", queue="q")
        time.sleep(3 * TTL_S)
        put_item(http, "late")
        item, headers = answered(caller)
        http.session = headers["Tensord-Session"]
        assert http.op("queue_ack", lease=item["lease"]).status == 200


def test_what_a_peek_tells_is_charged(daemon, local):
    """A thousand items of long texts are not made into JSON in memory that nobody has reserved."""
    options = ("--memory-limit", "16MiB", "--pool-limit", "0")
    with Daemon(*options) as small, small.connect() as client, Http(small.http_url) as http:
        make(http, max_items=1000)
        put(client, "t", b"t")
        for _ in range(999):
            fields = {"queue": "q", "tensors": "t", "meta": 4096 * "x"}
            ok(client.request("queue_put", fields))
        few = http.op("queue_peek", queue="q", limit=10)
        assert few.status == 200 and len(few.json["entries"]) == 10
        all_of_them = http.op("queue_peek", queue="q", limit=999)
        assert all_of_them.status in (200, 507), all_of_them.body
        assert http.op("queue_info", queue="q").status == 200


def test_gets_over_http_stand_in_one_line(http, daemon, local):
    make(http)
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(Caller(daemon)) for _ in range(6)]
        for n, caller in enumerate(callers):
            caller.op("queue_get", queue="q")
            until(local, waiting_gets=n + 1)
        for n in range(6):
            put_item(http, str(n))
        assert [answered(caller)[0]["meta"] for caller in callers] == list("012345")


def test_a_put_waits_for_room(http, daemon, local):
    make(http, max_items=1)
    put(local, "t", b"t")
    ok(local.request("queue_put", {"queue": "q", "tensors": "t", "meta": "first"}))
    with Caller(daemon) as caller:
        caller.op("queue_put", queue="q", tensors="t", meta="second", timeout_ms=20000)
        assert caller.is_silent()
        item = get_item(http)
        assert answered(caller)[0]["item"] == 2
        http.op("queue_ack", lease=item["lease"])
        caller.op("queue_put", queue="q", tensors="t", timeout_ms=60)
        assert answered(caller, 429)[0]["code"] == "full"
    ok(local.request("delete", {"input": "t"}))


@pytest.mark.parametrize("end", ["close", "reset"])
def test_who_hangs_up_while_waiting_gets_nothing(http, daemon, local, end):
    make(http)
    until_no_sessions(daemon)  # of the tests before
    with daemon.unchanged():
        with Caller(daemon) as caller:
            caller.op("queue_get", queue="q")
            until(local, waiting_gets=1)
            if end == "reset":
                caller.reset()
        until(local, waiting_gets=0)
        until_no_sessions(daemon)  # of the one that was opened for it
    put_item(http, "nobody's")
    assert get_item(http)["deliveries"] == 1


def test_those_who_wait_are_told_of_the_end(http, daemon, local):
    make(http)
    with Caller(daemon) as one, Caller(daemon) as two:
        for caller in (one, two):
            caller.op("queue_get", queue="q")
        until(local, waiting_gets=2)
        http.op("queue_close", queue="q")
        for caller in (one, two):
            assert answered(caller, 410)[0]["code"] == "closed"


def test_in_a_batch_nothing_waits(http):
    make(http, max_items=1)
    http.send("POST", "/v1/session")
    operations = [{"op": "zeros", "shape": [2]},
                  {"op": "queue_get", "queue": "q", "timeout_ms": 60000},
                  {"op": "zeros", "shape": [2], "output": "t"},
                  {"op": "queue_put", "queue": "q", "tensors": "t"},
                  {"op": "queue_put", "queue": "q", "tensors": "t", "timeout_ms": 60000},
                  {"op": "queue_get", "queue": "q"},
                  {"op": "queue_info", "queue": "q"}]  # fmt: skip
    begun = time.monotonic()
    answer = http.send("POST", "/v1/batch", json.dumps({"operations": operations}))
    assert time.monotonic() - begun < 10
    _, empty, _, put_one, full, item, told = answer.json["results"]
    assert (empty["code"], put_one["item"], full["code"]) == ("empty", 1, "full")
    assert item["entries"][0]["shape"] == [2] and told["op"] == "queue_info"
    assert http.op("queue_ack", lease=item["lease"]).status == 200
    http.send("DELETE", "/v1/tensors/t")
