"""Requests that wait, over frames: wait and watch. They hold up nobody, and nothing is left of
them, however they end."""

import contextlib
import random
import socket
import threading
import time

import plain_client as plain
import pytest
from harness import (SMALL, Daemon, client, daemon, is_silent, local, ok,  # noqa: F401
                     put, refused)
from plain_client import PlainClient

EVENTS_KEPT = 4096
INFLIGHT = 64  # --max-inflight
PATIENCE_S = 20  # until what must come has come, on a slow machine


def in_order(client):
    """A ping's answer: all that was sent before has been begun."""
    assert client.request("ping", {}, b"in order")[2] == b"in order"


def delete(client, *names):
    for name in names:
        client.request("delete", {"input": name})


def events_of(reply):
    ok(reply)
    return [(entry["event"], entry["name"], entry["revision"]) for entry in
            plain.read_list(reply[2])]  # fmt: skip


@contextlib.contextmanager
def connections(daemon, count):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(daemon.connect(timeout=PATIENCE_S)) for _ in range(count)]


# ---- wait ----------------------------------------------------------------------------------------


def test_others_are_answered_while_one_waits(client, daemon):
    with daemon.connect() as other, daemon.unchanged():
        late = client.send("wait", {"input": "late"})
        for i in range(100):
            assert client.request("ping", {}, b"%d" % i)[2] == b"%d" % i
        assert is_silent(client)
        published = put(other, "late", b"123")
        reply = ok(client.wait(late))
        assert reply["generation"] == published["generation"] and reply["shape"] == [3]
        assert reply["name"] == "late" and reply["id"] == published["id"]
        delete(other, "late")


def test_the_name_may_come_over_the_same_connection(client):
    wait = plain.build_frame("wait", 1001, {"input": "own"})
    body = plain.build_frame("put", 1002, {"output": "own", "dtype": "uint8", "shape": [2]}, b"ab")
    client.send_raw(wait + body)
    assert ok(client.wait(1002))["generation"] == ok(client.wait(1001))["generation"]
    delete(client, "own")


def test_another_generation(client, daemon):
    with daemon.connect() as other:
        seen = put(other, "x", b"1", mutable=True)["generation"]
        assert ok(client.request("wait", {"input": "x"}))["generation"] == seen
        assert ok(client.request("wait", {"input": "x", "generation": 1}))["generation"] == seen
        for change in (lambda: put(other, "x", b"2", mutable=True),
                       lambda: ok(other.request("touch", {"input": "x"})),
                       lambda: ok(other.request("touch", {"input": view, "output": "x"})),
                       lambda: (delete(other, "x"), put(other, "x", b"3")),
                       lambda: (put(other, "y", b"4"),
                                ok(other.request("rename", {"input": "y", "output": "x"})))):
            view = f"@{ok(other.request('detach', {'input': 'x'}))['id']}"
            waiting = client.send("wait", {"input": "x", "generation": seen})
            in_order(client)
            change()
            now = ok(client.wait(waiting))["generation"]
            assert now > seen
            seen = now
        delete(other, "x")


@pytest.mark.parametrize("fields, said", [({}, "not published"), ({"generation": 0}, "published")])
def test_deadlines(client, fields, said):
    for timeout_ms in (1, 80, 300):
        begun = time.monotonic()
        reply = client.request("wait", {"input": "never", "timeout_ms": timeout_ms, **fields})
        took_ms = (time.monotonic() - begun) * 1000
        message = refused(reply, "deadline", text=said)
        assert f"'never' was not published within {timeout_ms} ms" in message
        assert timeout_ms <= took_ms < timeout_ms + 5000
    begun = time.monotonic()
    at_once = client.request("wait", {"input": "never", "timeout_ms": 0})
    refused(at_once, "deadline", text="not wait")
    assert time.monotonic() - begun < 5
    refused(client.request("wait", {"input": "a//b"}), "invalid")
    refused(client.request("wait", {"input": "@7"}), "invalid", text="@")


def test_many_deadlines_on_one_connection(client):
    """In the order in which they are due, not in which they were sent."""
    waits = [300, 20, 200, 60, 250, 100]
    sent = {client.send("wait", {"input": "never", "timeout_ms": ms}): ms for ms in waits}
    answered = []
    for _ in waits:
        frame = client.receive()
        answered.append(sent[frame.header.request_id])
    assert answered == sorted(waits)


def test_the_others_limits_in_time_are_not_for_who_waits():
    with Daemon(*SMALL, "--io-timeout-ms", 150, "--hello-timeout-ms", 150) as daemon:
        with daemon.connect(timeout=PATIENCE_S) as a, daemon.connect() as b:
            waits = [a.send("wait", {"input": "x"}), a.send("watch")]
            assert is_silent(a, 2.5)
            put(b, "x", b"1")
            for waiting in waits:
                ok(a.wait(waiting))


def test_waiting_requests_count_as_in_flight(daemon):
    with daemon.connect(timeout=PATIENCE_S) as client, daemon.unchanged():
        waits = [client.send("wait", {"input": "full"}) for _ in range(INFLIGHT)]
        ping = client.send("ping", {}, b"behind them")
        assert is_silent(client)
        key = client.welcome["session_key"]
        with daemon.connect(session_key=key) as other:
            assert other.request("ping", {}, b"goes on")[2] == b"goes on"
            put(other, "full", b"1")
            assert {ok(client.wait(waiting))["name"] for waiting in waits} == {"full"}
            assert client.wait(ping)[2] == b"behind them"
            delete(other, "full")


def test_a_limit_on_watches():
    """Of one user that is alone; see test_quotas for several."""
    with Daemon(*SMALL, "--max-watches", 3) as daemon, daemon.connect() as client:
        waits = [client.send("wait", {"input": "x"}), client.send("watch"),
                 client.send("watch", {"prefix": "x"})]  # fmt: skip
        refused(client.request("wait", {"input": "y"}), "unavailable", text="--max-watches")
        refused(client.request("watch"), "unavailable", text="3 requests")
        put(client, "x", b"1")
        for waiting in waits:
            ok(client.wait(waiting))
        refused(client.request("wait", {"input": "y", "timeout_ms": 5}), "deadline")


# ---- how it ends ---------------------------------------------------------------------------------


def test_closing_while_waiting(client, daemon):
    with daemon.unchanged():
        for op, fields in (("wait", {"input": "never"}), ("watch", {"prefix": "never"}),
                           ("wait", {"input": "never", "timeout_ms": 60000})):  # fmt: skip
            with PlainClient(daemon.tcp_url if client.socket.family == socket.AF_INET
                             else daemon.url) as gone:  # fmt: skip
                for _ in range(5):
                    gone.send(op, fields)
                in_order(gone)


@pytest.mark.threads
def test_closing_as_the_wake_comes(daemon):
    """The wake is on its way to a request whose connection is gone: again and again."""
    with daemon.connect() as other, daemon.unchanged():
        for i in range(150):
            clients = [daemon.connect() for _ in range(3)]
            for one in clients:
                for _ in range(4):
                    one.send("wait", {"input": "now"})
                one.send("watch", {"prefix": "now"})
                in_order(one)
            publish = other.send("zeros", {"shape": [1], "output": "now"})
            if i % 3 == 0:
                time.sleep(random.random() / 2000)
            for one in clients:
                one.close()
            ok(other.wait(publish))
            delete(other, "now")


def test_bytes_that_are_no_frame_end_the_waiting(client, daemon):
    waiting = client.send("wait", {"input": "never"})
    in_order(client)
    client.send_raw(b"NOPE" + bytes(44))
    refused(client.wait(waiting), "cancelled", text="connection ends")
    statuses = {frame.header.status for frame in client.early.values()}
    assert statuses or client.receive().header.status
    assert client.is_closed()


def test_a_daemon_that_stops_tells_who_waits():
    with contextlib.ExitStack() as stack:
        daemon = Daemon(*SMALL)
        clients = [stack.enter_context(daemon.connect(timeout=PATIENCE_S)) for _ in range(6)]
        waits = [(c, c.send(op, fields)) for c in clients for op, fields in
                 [("wait", {"input": "x"}), ("watch", {}), ("wait", {"input": "y"})]]  # fmt: skip
        for one in clients:
            in_order(one)
        begun = time.monotonic()
        daemon.signal()
        for one, waiting in waits:
            refused(one.wait(waiting), "unavailable", text="the daemon is stopping")
        daemon.wait()
        assert time.monotonic() - begun < 5, "it waited for those who wait"


# ---- many ----------------------------------------------------------------------------------------


@pytest.mark.threads
def test_a_thousand_wait_and_one_publish_wakes_them(daemon):
    with connections(daemon, 25) as clients, daemon.unchanged():
        for round in range(3):
            waits = [(c, c.send("wait", {"input": f"storm/{round}"})) for c in clients
                     for _ in range(40)]  # fmt: skip
            for one in clients:
                in_order(one)
            generation = put(clients[0], f"storm/{round}", b"1")["generation"]
            for one, waiting in waits:
                assert ok(one.wait(waiting))["generation"] == generation
            delete(clients[0], f"storm/{round}")


@pytest.mark.threads
def test_each_generation_is_seen_by_who_waits_for_it(daemon):
    """A ring of connections: each publishes when the one before it has."""
    size, rounds, errors = 6, 40, []

    def run(me):
        try:
            with daemon.connect(timeout=PATIENCE_S) as client:
                seen = 0
                for _ in range(rounds):
                    seen = ok(client.request("wait", {"input": f"ring/{me}", "generation": seen})
                              )["generation"]  # fmt: skip
                    put(client, f"ring/{(me + 1) % size}", b"1")
        except BaseException as error:
            errors.append(error)

    with daemon.connect() as client, daemon.unchanged():
        threads = [threading.Thread(target=run, args=(i,)) for i in range(size)]
        for thread in threads:
            thread.start()
        put(client, "ring/0", b"1")
        for thread in threads:
            thread.join(60)
        assert not errors, errors
        delete(client, *(f"ring/{i}" for i in range(size)))


# ---- watch ---------------------------------------------------------------------------------------


def test_events_as_they_come(client, daemon):
    with daemon.connect() as other:
        waiting = client.send("watch", {"prefix": "w/"})
        in_order(client)
        put(other, "elsewhere", b"1")
        assert is_silent(client)
        first = put(other, "w/1", b"1", mutable=True)["generation"]
        reply = client.wait(waiting)
        assert events_of(reply) == [("publish", "w/1", first)]
        assert reply[1]["count"] == 1 and reply[1]["since"] >= first and "lost" not in reply[1]
        touched = ok(other.request("touch", {"input": "w/1"}))["generation"]
        delete(other, "w/1", "elsewhere")
        reply = client.request("watch", {"prefix": "w/", "since": reply[1]["since"]})
        assert events_of(reply) == [("publish", "w/1", touched), ("remove", "w/1", touched + 1)]
        reply = client.request("watch", {"since": first, "limit": 1})
        assert events_of(reply) == [("publish", "w/1", touched)] and reply[1]["since"] == touched
        begun = time.monotonic()
        reply = client.request("watch", {"timeout_ms": 100})
        assert events_of(reply) == [] and reply[1]["count"] == 0
        assert time.monotonic() - begun >= 0.099


def test_who_lags_is_told(client, daemon):
    with daemon.connect() as other, daemon.unchanged():
        since = client.request("watch", {"timeout_ms": 0})[1]["since"]
        quiet = client.send("watch", {"prefix": "quiet"})
        in_order(client)
        for _ in range(0, EVENTS_KEPT + 50, 50):
            sent = [other.send("zeros", {"shape": [1], "output": "loud"}) for _ in range(50)]
            for one in sent:
                ok(other.wait(one))
        status, reply, body, _ = client.request("watch", {"since": since, "limit": 1})
        assert status == "ok" and reply["lost"] and reply["count"] == 1
        (first,) = plain.read_list(body)
        assert first["revision"] > since + 1 and reply["since"] == first["revision"]
        assert is_silent(client)  # who waited all the time has not missed anything
        revision = put(other, "quiet", b"1")["generation"]
        reply = client.wait(quiet)
        assert events_of(reply) == [("publish", "quiet", revision)] and "lost" not in reply[1]
        delete(other, "loud", "quiet")


def test_a_restart_is_told():
    """Also when as much has happened since as before it: revisions and generations do not come
    again."""
    with Daemon(*SMALL) as first, first.connect() as client:
        seen = [put(client, name, b"1")["generation"] for name in "abc"]
    with Daemon(*SMALL) as second, second.connect() as client:
        made = [put(client, name, b"1")["generation"] for name in "abcdef"]
        assert not set(seen) & set(made)
        for since in seen:
            reply = client.request("watch", {"since": since, "timeout_ms": 0})
            assert reply[1]["lost"] and reply[1]["since"] == made[-1]
            assert events_of(reply) == [("publish", *pair) for pair in zip("abcdef", made)]
        reply = client.request("watch", {"since": 0, "timeout_ms": 0})  # from the start on
        assert "lost" not in reply[1] and reply[1]["count"] == len(made)
        for name, generation in zip("abc", seen):  # what was published again is noticed
            found = ok(client.request("wait", {"input": name, "generation": generation,
                                               "timeout_ms": 0}))  # fmt: skip
            assert found["generation"] in made


@pytest.mark.threads
def test_no_event_is_lost_or_out_of_order_for_who_keeps_up(daemon):
    """Writers of names of their own, and readers that compare what they are told with what was
    done: for each name all of it, in order."""
    writers, changes, errors, done = 3, 250, [], {}
    ready = threading.Barrier(writers + 3)

    def write(me):
        mine, source = [], random.Random(me)
        with daemon.connect(timeout=PATIENCE_S) as client:
            ready.wait()
            for _ in range(changes):
                name = f"p/{me}/{source.randrange(3)}"
                if source.random() < 0.3 and client.request("delete", {"input": name})[0] == "ok":
                    mine.append(("remove", name))
                else:
                    ok(client.request("zeros", {"shape": [1], "output": name}))
                    mine.append(("publish", name))
        done[me] = mine

    def read(prefix, told):
        with daemon.connect(timeout=PATIENCE_S) as client:
            since = client.request("watch", {"timeout_ms": 0})[1]["since"]
            ready.wait()
            while len(told) < (changes if prefix != "p/" else writers * changes):
                reply = client.request("watch", {"prefix": prefix, "since": since,
                                                 "timeout_ms": PATIENCE_S * 1000})  # fmt: skip
                assert "lost" not in reply[1] and reply[1]["count"], told[-3:]
                told += events_of(reply)
                since = reply[1]["since"]

    def guarded(function, *arguments):
        try:
            function(*arguments)
        except BaseException as error:
            errors.append(error)
            ready.abort()

    told = {prefix: [] for prefix in ("p/", "p/0/", "p/2/")}
    with daemon.connect() as client, daemon.unchanged():
        threads = [threading.Thread(target=guarded, args=(write, i)) for i in range(writers)]
        threads += [threading.Thread(target=guarded, args=(read, p, told[p])) for p in told]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert not errors, errors
        for prefix, events in told.items():
            assert [e[2] for e in events] == sorted({e[2] for e in events}), "in order, and once"
            for me in range(writers):
                mine = [event[:2] for event in events if event[1].startswith(f"p/{me}/")]
                assert mine == (done[me] if f"p/{me}/".startswith(prefix) else [])
        delete(client, *(f"p/{i}/{j}" for i in range(writers) for j in range(3)))
