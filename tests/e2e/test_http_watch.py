"""Waiting over HTTP: ?wait= for a name or a newer generation, and the events of /v1/watch."""

import contextlib
import http.client
import json
import re
import socket
import struct
import time
from urllib.parse import quote, urlsplit

import pytest
from harness import SMALL, Daemon, is_silent, ok, put

EVENTS_KEPT = 4096
KEEP_ALIVE_S = 0.4  # a fifth of --idle-timeout-ms
PATIENCE_S = 20  # until what must come has come, on a slow machine


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL, "--idle-timeout-ms", 2000) as running:
        yield running


@pytest.fixture
def local(daemon):
    with daemon.connect() as client:
        yield client
    daemon.quiet()


class Caller:
    """A connection that one can look at between the request and the answer."""

    def __init__(self, daemon, buffer=None):
        at = urlsplit(daemon.http_url)
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect((at.hostname, at.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.socket.close()

    def send(self, target, *headers, method="GET", version="1.1"):
        lines = [f"{method} {target} HTTP/{version}", "Host: localhost", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        self.method = method
        return self

    def op(self, name, **fields):
        body = json.dumps(fields)
        headers = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        self.send(f"/v1/ops/{name}", *headers, method="POST")
        self.socket.sendall(body.encode())
        return self

    is_silent = is_silent

    def answer(self):
        """Status, headers and body; interim answers are skipped."""
        response = http.client.HTTPResponse(self.socket, method=self.method)
        response.begin()
        return response.status, response.headers, response.read()

    def rest(self):
        """All that comes until the daemon ends the connection."""
        got = b""
        while part := self.socket.recv(65536):
            got += part
        return got

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def connections(daemon):
    """How many the daemon has open over HTTP, as the kernel sees it."""
    port = urlsplit(daemon.http_url).port
    rows = [line.split() for line in open("/proc/net/tcp").readlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] != "0A" and row[9] != "0" for row in rows)


def until_hung_up(daemon):
    deadline = time.monotonic() + PATIENCE_S
    while connections(daemon) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert connections(daemon) == 0


def ask(daemon, target, *headers, method="GET"):
    with Caller(daemon) as caller:
        return caller.send(target, *headers, method=method).answer()


def wait_for(name, seconds=PATIENCE_S):
    return f"/v1/tensors/{quote(name)}?wait={seconds}s"


def generation_of(body):
    return json.loads(body)["generation"]


# ---- ?wait= --------------------------------------------------------------------------------------


def test_what_is_there_is_answered_at_once(daemon, local):
    there = put(local, "wait/there", b"12")
    status, headers, body = ask(daemon, wait_for("wait/there"))
    assert status == 200 and generation_of(body) == there["generation"]
    assert ask(daemon, wait_for("wait/there"), method="HEAD")[0] == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_waits_until_the_name_exists(daemon, local, method):
    name = f"wait/come ü {method}"
    with Caller(daemon) as caller:
        caller.send(wait_for(name), method=method)
        assert caller.is_silent()
        put(local, f"{name}/not this", b"1")
        put(local, name[:-1], b"1")
        assert caller.is_silent()
        put(local, name, b"1")
        status, headers, body = caller.answer()
        assert status == 200
        assert body == b"" if method == "HEAD" else json.loads(body)["name"] == name
        # The connection goes on as if nothing had been.
        status, _, body = caller.send("/v1/tensors/wait%2Fnone").answer()
        assert status == 404


@pytest.mark.parametrize("tag", ["whole", "weak", "bare", "list"])
def test_waits_for_a_newer_generation(daemon, local, tag):
    name = f"wait/newer/{tag}"
    first = put(local, name, b"1")["generation"]
    _, headers, _ = ask(daemon, f"/v1/tensors/{name}")
    etag = headers["ETag"]
    assert re.fullmatch(rf'"{first}-0-[0-9a-f]{{8}}-\S+"', etag)
    sent = {"whole": etag, "weak": f"W/{etag}", "bare": f'"{first}"', "list": f'{etag}, "x"'}[tag]
    with Caller(daemon) as caller:
        caller.send(wait_for(name), f"If-None-Match: {sent}")
        assert caller.is_silent()
        second = put(local, name, b"2")["generation"]
        status, headers, body = caller.answer()
        assert (status, generation_of(body)) == (200, second)
        assert headers["ETag"] != etag
    # What is newer already is not waited for.
    status, _, body = ask(daemon, wait_for(name), f"If-None-Match: {sent}")
    assert (status, generation_of(body)) == (200, second)


def test_a_removed_name_is_waited_for(daemon, local):
    first = put(local, "wait/again", b"1")["generation"]
    with Caller(daemon) as caller:
        caller.send(wait_for("wait/again"), f'If-None-Match: "{first}"')
        assert caller.is_silent()
        ok(local.request("delete", {"input": "wait/again"}))
        assert caller.is_silent()
        put(local, "wait/other", b"2")
        ok(local.request("rename", {"input": "wait/other", "output": "wait/again"}))
        status, _, body = caller.answer()
        assert status == 200 and generation_of(body) > first


def test_a_tag_of_another_boot_is_old(daemon, local):
    now = put(local, "wait/boot", b"1")["generation"]
    tag = f'"{now}-0-{"0" * 8}-00000000"'
    status, _, body = ask(daemon, wait_for("wait/boot"), f"If-None-Match: {tag}")
    assert (status, generation_of(body)) == (200, now)


def test_deadlines(daemon, local):
    put(local, "wait/same", b"1")
    etag = ask(daemon, "/v1/tensors/wait/same")[1]["ETag"]
    for target, headers, expected in [
        ("/v1/tensors/wait/never?wait=300ms", (), 404),
        ("/v1/tensors/wait/never?wait=300", (), 404),
        ("/v1/tensors/wait/same?wait=300ms", (f"If-None-Match: {etag}",), 304),
    ]:
        begin = time.monotonic()
        status, answered, body = ask(daemon, target, *headers)
        took = time.monotonic() - begin
        assert status == expected and 0.299 <= took < PATIENCE_S, (target, status, took)
        assert answered["ETag"] == etag if status == 304 else b"'wait/never'" in body
    assert ask(daemon, "/v1/tensors/wait/never?wait=0")[0] == 404


@pytest.mark.parametrize("query", ["wait=", "wait=x", "wait=-1", "wait=1.5s", "wait=5d", "wait=s",
                                   "wait=99999999999999999999", "wait=1s&wait=2s"])  # fmt: skip
def test_durations_that_are_none(daemon, query):
    status, headers, body = ask(daemon, f"/v1/tensors/wait/x?{query}")
    assert status == 400 and headers["Content-Type"] == "application/problem+json"
    assert json.loads(body)["code"] == "invalid" and "wait" in query


@pytest.mark.parametrize("name", ["a//b", "%00", "%2e%2e", "x" * 513])
def test_only_names_can_be_waited_for(daemon, name):
    status, _, body = ask(daemon, f"/v1/tensors/{name}?wait=5s")
    assert status == 400, body


def test_no_wake_up_is_lost(daemon, local):
    """The name comes just when it is looked for, and looked for again."""
    with Caller(daemon) as caller:
        for i in range(300):
            name = f"wait/race/{i}"
            caller.send(wait_for(name))
            if i % 3:
                time.sleep(i % 7 * 1e-4)
            made = put(local, name, b"1")
            status, _, body = caller.answer()
            assert (status, generation_of(body)) == (200, made["generation"])


@pytest.mark.threads
def test_many_wait_for_one_name(daemon, local):
    callers = [Caller(daemon).send(wait_for("wait/many")) for _ in range(200)]
    try:
        assert callers[-1].is_silent() and callers[0].is_silent(0.01)
        assert ask(daemon, "/v1/tensors?prefix=wait/no")[0] == 200  # nobody else waits
        made = put(local, "wait/many", b"1")
        for caller in callers:
            status, _, body = caller.answer()
            assert (status, generation_of(body)) == (200, made["generation"])
    finally:
        for caller in callers:
            caller.socket.close()


# ---- hanging up ----------------------------------------------------------------------------------

FAREWELLS = {
    "closed": [lambda caller: caller.socket.close()],
    "reset": [Caller.reset],
    "half closed, then closed": [lambda caller: caller.socket.shutdown(socket.SHUT_WR),
                                 lambda caller: caller.socket.close()],
}  # fmt: skip


@pytest.mark.parametrize("how", FAREWELLS)
@pytest.mark.parametrize("target", ["/v1/tensors/gone?wait=1h", "/v1/watch"])
def test_who_hangs_up_is_forgotten(daemon, local, how, target):
    until_hung_up(daemon)
    with daemon.unchanged():
        callers = [Caller(daemon).send(target) for _ in range(5)]
        assert callers[-1].is_silent() == ("wait" in target)
        assert connections(daemon) == 5
        for step in FAREWELLS[how]:
            for caller in callers:
                step(caller)
            time.sleep(0.6 if len(FAREWELLS[how]) > 1 else 0)  # the clock looks twice
        until_hung_up(daemon)


def test_who_only_ends_its_side_gets_the_answer(daemon, local):
    """As `nc -N` does. Whether it is there is found out by an interim answer."""
    callers = [Caller(daemon) for _ in range(5)]
    try:
        for caller in callers:
            caller.send(wait_for("half/a")).socket.shutdown(socket.SHUT_WR)
        time.sleep(1.2)  # the clock looks several times
        put(local, "half/a", b"1")
        for caller in callers:
            interim, _, answer = caller.rest().partition(b"\r\n\r\n")
            assert interim == b"HTTP/1.1 100 Continue"  # once
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b'"name":"half/a"' in answer
    finally:
        for caller in callers:
            caller.socket.close()


def test_http_1_0_has_no_interim_answers(daemon, local):
    with Caller(daemon) as caller:
        caller.send(wait_for("half/b"), version="1.0").socket.shutdown(socket.SHUT_WR)
        assert caller.is_silent(0.8)
        put(local, "half/b", b"1")
        assert caller.answer()[0] == 200


def test_work_ends_with_its_deadline_or_its_client():
    """Before its turn: one job thread is busy for a second or more."""
    with contextlib.ExitStack() as open_ones:
        daemon = open_ones.enter_context(Daemon(*SMALL, "--threads", 1))
        local = open_ones.enter_context(daemon.connect())

        def work(name, **fields):
            caller = open_ones.enter_context(Caller(daemon))
            return caller.op("randn", shape=[4 << 20], dtype="float64", output=name, **fields)

        busy = [work("busy") for _ in range(8)]
        late = work("late", timeout_ms=50)
        half = work("half")
        gone = {how: work(how) for how in FAREWELLS}
        half.socket.shutdown(socket.SHUT_WR)
        for how, caller in gone.items():
            for step in FAREWELLS[how]:
                step(caller)
        status, _, body = late.answer()
        assert status == 504 and json.loads(body)["detail"] == "the request's timeout_ms passed"
        assert busy[-1].is_silent(0.01)  # it was not waited for
        for caller in (*busy, half):
            assert caller.answer()[0] == 200
        for name in ("late", *gone):
            assert local.request("info", {"input": name})[0] == "not_found"
        assert ok(local.request("info", {"input": "half"}))["dtype"] == "float64"


# ---- /v1/watch -----------------------------------------------------------------------------------


class Events(Caller):
    """A stream of events, as (id, event, data), read as the HTML standard says."""

    def __init__(self, daemon, query="", *headers, **options):
        super().__init__(daemon, options.pop("buffer", None))
        self.send(f"/v1/watch{query}", *headers, **options)
        self.response = http.client.HTTPResponse(self.socket)
        self.response.begin()
        assert self.response.status == 200, self.response.read()
        assert self.response.headers["Content-Type"] == "text/event-stream"
        assert self.response.headers["Cache-Control"] == "no-store"
        self.last_id, self.comments = None, []

    def block(self):
        """The lines up to the next empty one; None at the end of the stream."""
        lines = []
        while line := self.response.readline():
            assert line.endswith(b"\n") and b"\r" not in line
            if line == b"\n":
                return lines
            lines.append(line[:-1].decode())
        assert not lines, "the stream ends within an event"
        return None

    def next(self):
        """The next event, None at the end. Comments are gathered, ids remembered."""
        while (lines := self.block()) is not None:
            fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
            self.comments += [line for line in lines if line.startswith(":")]
            assert set(fields) <= {"id", "event", "data"} and len(fields) > 0
            self.last_id = int(fields["id"])
            if "data" in fields:
                return self.last_id, fields["event"], json.loads(fields["data"])
        return None

    def events(self, count):
        return [self.next() for _ in range(count)]


def revision(client):
    """That of the store: what the next publish gets, less one."""
    made = put(client, "revision", b"")["generation"]
    ok(client.request("delete", {"input": "revision"}))
    return made + 1


def event(kind, revision, name):
    return revision, kind, {"name": name, "revision": revision}


def test_events_in_their_order(daemon, local):
    with Events(daemon) as events:
        (greeting, ident) = events.block()
        start = revision(local) - 2
        assert greeting == f": watching from {start}" and ident == f"id: {start}"
        put(local, 'w/"a"\\ü', b"1")
        put(local, "w/b", b"1")
        put(local, "w/b", b"2")
        ok(local.request("rename", {"input": "w/b", "output": "w/c"}))
        ok(local.request("delete", {"input": "w/c"}))
        assert events.events(8) == [
            event("publish", start + 1, "revision"),
            event("remove", start + 2, "revision"),
            event("publish", start + 3, 'w/"a"\\ü'),
            event("publish", start + 4, "w/b"),
            event("publish", start + 5, "w/b"),
            event("publish", start + 6, "w/c"),
            event("remove", start + 7, "w/b"),
            event("remove", start + 8, "w/c"),
        ]


def test_long_names_are_whole(daemon, local):
    names = ['"' * 512, "ü" * 256, "\\" * 511]
    with Events(daemon, "?since=0") as events:
        made = [put(local, name, b"1")["generation"] for name in names]
        while (got := events.next())[0] < made[0]:
            pass
        assert [got] + events.events(2) == [event("publish", *pair) for pair in zip(made, names)]


def test_since_and_prefix(daemon, local):
    start = revision(local)
    made = [put(local, name, b"1")["generation"] for name in ("p/a", "q/a", "p/b", "p")]
    with Events(daemon, f"?since={start}&prefix=p/") as events:
        assert events.block() == [f": watching from {start}", f"id: {start}"]
        assert events.events(2) == [event("publish", made[0], "p/a"),
                                    event("publish", made[2], "p/b")]  # fmt: skip
        put(local, "q/b", b"1")
        last = put(local, "p/c", b"1")["generation"]
        assert events.next() == event("publish", last, "p/c")
    # What a browser sends when it connects again goes before the address.
    with Events(daemon, f"?since={start}", f"Last-Event-ID: {made[2]}") as events:
        assert events.next() == event("publish", made[3], "p")
    with Events(daemon, f"?since={made[3]}", "Last-Event-ID:") as events:
        assert events.next() == event("publish", made[3] + 1, "q/b")


@pytest.mark.parametrize("query, headers", [
    ("?since=", ()), ("?since=-1", ()), ("?since=1x", ()), ("?since=18446744073709551616", ()),
    ("", ("Last-Event-ID: x",)), ("?since=1&since=2", ()), ("?what=1", ()),
])  # fmt: skip
def test_revisions_that_are_none(daemon, query, headers):
    assert ask(daemon, f"/v1/watch{query}", *headers)[0] == 400


def test_the_head_alone(daemon):
    with Caller(daemon) as caller:
        got = caller.send("/v1/watch", method="HEAD").rest()
        assert got.startswith(b"HTTP/1.1 200 OK\r\n") and b"text/event-stream" in got
        assert got.index(b"\r\n\r\n") == len(got) - 4  # nothing of a body


def test_silence_is_broken(daemon, local):
    start = revision(local)
    with Events(daemon, "?prefix=silence") as events:
        assert events.block()[0] == f": watching from {start}"
        for i in range(3):
            begin = time.monotonic()
            assert events.block() == [": keep-alive", f"id: {start + i}"]
            assert KEEP_ALIVE_S * 0.7 < time.monotonic() - begin < PATIENCE_S
            put(local, "other", b"1")  # moves the id on, and is not told


def publish_many(client, count, name):
    """The revision of the last, without waiting for each."""
    fields = {"output": name, "dtype": "uint8", "shape": [1]}
    for begin in range(0, count, 50):
        sent = [client.send("put", fields, b"1") for _ in range(begin, min(begin + 50, count))]
        last = max(ok(client.wait(request))["generation"] for request in sent)
    return last


def test_what_is_too_old_is_lost(daemon, local):
    last = publish_many(local, EVENTS_KEPT + 10, "many")
    with Events(daemon, "?since=1&prefix=many") as events:
        oldest = last - EVENTS_KEPT
        assert events.next() == (oldest, "lost", {"since": 1, "resumed": oldest})
        for seen in range(oldest + 1, last + 1):
            assert events.next() == event("publish", seen, "many")
    with Events(daemon, f"?since={oldest}") as events:  # the last that is not too late
        assert events.next() == event("publish", oldest + 1, "many")


def test_a_revision_of_the_future_is_of_the_past(daemon, local):
    """From before a restart."""
    last = publish_many(local, 3, "future")
    with Events(daemon, f"?since={last + 1000}&prefix=future") as events:
        got_id, kind, data = events.next()
        assert kind == "lost" and data == {"since": last + 1000, "resumed": got_id}
        assert got_id < last
        assert events.events(3)[-1] == event("publish", last, "future")


def test_who_does_not_read_loses_events(daemon, local):
    """And only that one; its slowness costs no memory but the socket's."""
    name = '"' * 512  # more than the sockets take
    with Events(daemon, buffer=4096) as slow, Events(daemon) as quick:
        first = publish_many(local, 1, name)
        assert quick.next() == event("publish", first, name)
        last = publish_many(local, EVENTS_KEPT + 5000, name)
        seen, lost = first - 1, 0
        while seen < last:
            got, kind, data = slow.next()
            if kind == "lost":
                assert data == {"since": seen, "resumed": got} and got > seen
                lost += got - seen
            else:
                assert (got, kind, data) == event("publish", seen + 1, name)
            seen = got
        assert seen == last and lost > 0


@pytest.mark.threads
def test_many_listen(daemon, local):
    listeners = [Events(daemon, "?prefix=all/") for _ in range(100)]
    try:
        for listener in listeners:
            assert listener.block()[0].startswith(": watching")
        made = [put(local, f"all/{i}", b"1")["generation"] for i in range(20)]
        wanted = [event("publish", g, f"all/{i}") for i, g in enumerate(made)]
        for listener in listeners:
            assert listener.events(20) == wanted
    finally:
        for listener in listeners:
            listener.socket.close()


def test_http_1_0_listens_too(daemon, local):
    start = revision(local)
    with Events(daemon, version="1.0") as events:
        assert "Transfer-Encoding" not in events.response.headers
        assert events.block()[0] == f": watching from {start}"
        made = [put(local, f"old/{i}", b"1")["generation"] for i in range(50)]
        wanted = [event("publish", g, f"old/{i}") for i, g in enumerate(made)]
        assert events.events(50) == wanted


# ---- stopping ------------------------------------------------------------------------------------


@pytest.mark.threads
def test_stopping_ends_all_waiting():
    with Daemon(*SMALL) as daemon:
        waiting = [Caller(daemon).send("/v1/tensors/never?wait=1h") for _ in range(20)]
        streams = [Events(daemon) for _ in range(10)] + [Events(daemon, version="1.0")]
        for stream in streams:
            assert stream.block()[0].startswith(": watching")
        assert all(caller.is_silent(0.05) for caller in waiting)
        begin = time.monotonic()
        daemon.signal()
        for caller in waiting:
            status, headers, body = caller.answer()
            assert status == 503 and json.loads(body)["code"] == "unavailable"
            assert headers["Retry-After"] == "1" and headers["Connection"].lower() == "close"
        for stream in streams:
            assert stream.next() is None  # to its end: no piece is missing
        daemon.process.wait(PATIENCE_S)
        assert time.monotonic() - begin < 9, "it waited for its drain timeout"
        for caller in waiting + streams:
            caller.socket.close()
