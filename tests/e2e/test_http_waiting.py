"""Operations that wait, over HTTP: POST /v1/ops/wait and /v1/ops/watch."""

import contextlib
import json
import time

import pytest
from harness import SMALL, Daemon, ok, put
from test_http_watch import (FAREWELLS, PATIENCE_S, Caller, Events, connections,  # noqa: F401
                             daemon, event, local, until_hung_up)  # fmt: skip


def answered(caller, status=200):
    got, _, body = caller.answer()
    assert got == status, body
    return json.loads(body)


def call(daemon, op, status=200, **fields):
    with Caller(daemon) as caller:
        return answered(caller.op(op, **fields), status)


def test_wait(daemon, local):
    with Caller(daemon) as caller:
        caller.op("wait", input="ops/late")
        assert caller.is_silent()
        put(local, "ops/late/not", b"1")
        assert caller.is_silent()
        first = put(local, "ops/late", b"123", mutable=True)["generation"]
        got = answered(caller)
        assert (got["name"], got["generation"], got["shape"]) == ("ops/late", first, [3])
        assert answered(caller.op("wait", input="ops/late", generation=1))["generation"] == first
        caller.op("wait", input="ops/late", generation=first)
        assert caller.is_silent()
        second = ok(local.request("touch", {"input": "ops/late"}))["generation"]
        assert answered(caller)["generation"] == second > first


def test_a_touch_ends_the_wait_of_a_get(daemon, local):
    first = put(local, "ops/touched", b"123", mutable=True)["generation"]
    with Caller(daemon) as caller:
        caller.send("/v1/tensors/ops/touched?wait=20s", f'If-None-Match: "{first}"')
        assert caller.is_silent()
        second = ok(local.request("touch", {"input": "ops/touched"}))["generation"]
        assert answered(caller)["generation"] == second


def test_deadlines(daemon):
    for timeout_ms in (1, 250):
        begun = time.monotonic()
        problem = call(daemon, "wait", 504, input="ops/never", timeout_ms=timeout_ms)
        took_ms = (time.monotonic() - begun) * 1000
        assert problem["code"] == "deadline" and f"within {timeout_ms} ms" in problem["detail"]
        assert timeout_ms - 1 <= took_ms < timeout_ms + 2000
        assert call(daemon, "watch", prefix="never", timeout_ms=timeout_ms)["entries"] == []
    assert "does not wait" in call(daemon, "wait", 504, input="ops/never", timeout_ms=0)["detail"]
    assert call(daemon, "wait", 400, input="a//b")["code"] == "invalid"


def test_in_a_batch_nothing_waits(daemon, local):
    put(local, "ops/there", b"1")
    operations = [{"op": "wait", "input": "ops/there"}, {"op": "wait", "input": "ops/not"},
                  {"op": "watch"}, {"op": "wait", "input": "ops/not", "timeout_ms": 60000}]
    body = json.dumps({"operations": operations})  # fmt: skip
    with Caller(daemon) as caller:
        headers = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        caller.send("/v1/batch", *headers, method="POST").socket.sendall(body.encode())
        begun = time.monotonic()
        there, missing, nothing, also = answered(caller)["results"]
        assert time.monotonic() - begun < 10
    assert there["name"] == "ops/there" and nothing["entries"] == []
    assert missing["code"] == also["code"] == "deadline" and "not wait" in missing["detail"]


def test_watch(daemon, local):
    with Caller(daemon) as caller:
        caller.op("watch", prefix="ops/w/")
        assert caller.is_silent()
        put(local, "ops/elsewhere", b"1")
        assert caller.is_silent()
        revision = put(local, "ops/w/1", b"1")["generation"]
        got = answered(caller)
        assert got["entries"] == [{"event": "publish", "name": "ops/w/1", "revision": revision}]
        ok(local.request("delete", {"input": "ops/w/1"}))
        put(local, "ops/w/2", b"1")
        got = answered(caller.op("watch", since=got["since"], limit=1))
        assert got["entries"] == [{"event": "remove", "name": "ops/w/1", "revision": revision + 1}]
        assert got["since"] == revision + 1 and got["count"] == 1 and "lost" not in got
        got = answered(caller.op("watch", since=2**60))
        assert got["lost"] is True


@pytest.mark.parametrize("how", FAREWELLS)
@pytest.mark.parametrize("op", ["wait", "watch"])
def test_who_hangs_up_is_forgotten(daemon, local, how, op):
    until_hung_up(daemon)
    fields = {"wait": {"input": "gone"}, "watch": {}}[op]
    with daemon.unchanged():
        callers = [Caller(daemon).op(op, **fields) for _ in range(5)]
        assert callers[-1].is_silent() and connections(daemon) == 5
        for step in FAREWELLS[how]:
            for caller in callers:
                step(caller)
            time.sleep(0.6 if len(FAREWELLS[how]) > 1 else 0)  # the clock looks twice
        until_hung_up(daemon)


@pytest.mark.threads
def test_no_wake_up_is_lost(daemon, local):
    """The name comes just when it is looked for, and looked for again."""
    with Caller(daemon) as caller:
        for i in range(200):
            caller.op("wait", input=f"ops/race/{i}")
            if i % 3:
                time.sleep(i % 7 * 1e-4)
            made = put(local, f"ops/race/{i}", b"1")
            assert answered(caller)["generation"] == made["generation"]


@pytest.mark.threads
def test_many_wait_over_both_doors(daemon, local):
    with daemon.unchanged(), contextlib.ExitStack() as stack:
        callers = [stack.enter_context(Caller(daemon)) for _ in range(60)]
        clients = [stack.enter_context(daemon.connect(timeout=PATIENCE_S)) for _ in range(10)]
        for _ in range(3):
            for caller in callers:
                caller.op("wait", input="ops/both")
            waits = [(c, c.send("wait", {"input": "ops/both"})) for c in clients for _ in range(6)]
            assert callers[-1].is_silent(0.05)
            generation = put(local, "ops/both", b"1")["generation"]
            for caller in callers:
                assert answered(caller)["generation"] == generation
            for client, waiting in waits:
                assert ok(client.wait(waiting))["generation"] == generation
            ok(local.request("delete", {"input": "ops/both"}))


def test_a_listener_of_a_rare_name_has_lost_nothing(daemon, local):
    """Of others there were more events than are kept, while it was silent."""
    with Events(daemon, "?prefix=rare") as events:
        assert events.block()[0].startswith(": watching")
        for _ in range(90):
            sent = [local.send("zeros", {"shape": [1], "output": "often"}) for _ in range(50)]
            for one in sent:
                ok(local.wait(one))
        revision = put(local, "rare", b"1")["generation"]
        assert events.next() == event("publish", revision, "rare")


def test_stopping_ends_all_waiting():
    with Daemon(*SMALL) as daemon:
        callers = [Caller(daemon).op("wait", input="never") for _ in range(20)]
        callers += [Caller(daemon).op("watch") for _ in range(20)]
        assert all(caller.is_silent(0.02) for caller in callers)
        begun = time.monotonic()
        daemon.signal()
        for caller in callers:
            assert answered(caller, 503)["code"] == "unavailable"
            caller.socket.close()
        daemon.process.wait(PATIENCE_S)
        assert time.monotonic() - begun < 9, "it waited for its drain timeout"
