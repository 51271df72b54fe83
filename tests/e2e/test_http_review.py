"""What HTTP answers in corners: refusals late in a body, HEAD and POST where GET is meant, stale
cookies, requests that fail after they got a session, memory that nobody would have counted."""

import contextlib
import io
import json
import socket
import threading
import time
import urllib.parse

import numpy as np
import pytest
from harness import MIB, SMALL, Daemon, put
from http_client import Http

# Fresh memory is filled, so that what was never written is not zero by chance.
FILLED = {"ASAN_OPTIONS": "detect_leaks=1:max_malloc_fill_size=1000000:malloc_fill_byte=165",
          "MALLOC_PERTURB_": "165"}  # fmt: skip
JSON = {"Content-Type": "application/json"}
RAW = {"Content-Type": "application/octet-stream"}
PATIENCE_S = 20


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL, "--http-sessions", 8, env=FILLED) as running:
        yield running


@pytest.fixture
def http(daemon):
    with Http(daemon.http_url) as connection:
        yield connection
        if connection.session:
            connection.send("DELETE", "/v1/session")


def connect(daemon):
    address = urllib.parse.urlsplit(daemon.http_url)
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S)


def exchange(daemon, request):
    """All that comes for a request that asks for the connection to end."""
    with connect(daemon) as raw:
        raw.sendall(request)
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
    return answer


def chunked(*chunks):
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def put_chunked(daemon, target, *chunks, content_type="application/octet-stream"):
    head = (f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n")  # fmt: skip
    return exchange(daemon, head.encode() + chunked(*chunks))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# ---- bodies --------------------------------------------------------------------------------------


def test_a_large_body_that_is_refused_in_the_middle_gets_its_answer(daemon, http):
    """Not a broken connection, which says nothing: what is wrong shows after the first bytes."""
    body = npy(np.zeros(16 * MIB, "u1"))
    wrong = http.put("late", body, RAW, dtype="float32")
    assert wrong.status == 422 and wrong.code == "bad_dtype"
    with contextlib.ExitStack() as kept:
        client = kept.enter_context(daemon.connect())
        for name in ("full/a", "full/b"):
            put(client, name, bytes(120 * MIB))
        full = http.put("late", body, RAW)
        assert full.status == 507 and full.code == "out_of_memory"
        raw = http.put("late", body, RAW, dtype="uint8", shape=len(body))
        assert raw.status == 507
        for name in ("full/a", "full/b"):
            assert client.request("delete", {"input": name})[0] == "ok"
    assert http.tensor("late").status == 404
    assert http.put("late", body, RAW).status == 201  # on the same connection


@pytest.mark.parametrize("body", [b"[1,2]", b"7", b" {} ", b"[1"])
def test_short_documents_in_chunks(daemon, http, body):
    """Too short to be told from a file by its first bytes, and of no declared length."""
    whole = http.put("short", body)
    for chunks in ((body,), (body[:1], body[1:])):
        if all(chunks):
            answer = put_chunked(daemon, "/v1/tensors/short", *chunks)
            assert int(answer.split()[1]) == (200 if whole.status == 201 else whole.status), answer
    assert put_chunked(daemon, "/v1/tensors/short").startswith(b"HTTP/1.1 400 ")


def test_a_chunked_document_may_be_as_large_as_the_limit():
    with Daemon(*SMALL, "--max-body", 700_000) as daemon, Http(daemon.http_url) as http:
        body = b"[" + b"1.25," * 119_999 + b"1.25]"
        put_chunked(daemon, "/v1/tensors/x", body, content_type="application/json")
        assert http.tensor("x").json["shape"] == [120_000]
        answer = put_chunked(daemon, "/v1/tensors/x", body, b" " * 100_000,
                             content_type="application/json")  # fmt: skip
        assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_part_of_a_body_is_not_stored_as_the_whole(http):
    answer = http.put("part", bytes(4), {**RAW, "Content-Range": "bytes 0-3/8"}, dtype="uint8",
                      shape=4)  # fmt: skip
    assert answer.status == 400 and "Content-Range" in answer.json["detail"]
    assert http.tensor("part").status == 404


@pytest.mark.parametrize("order", ["C", "F"])
def test_files_have_an_order_of_their_own(http, order):
    """Strides say how raw bytes lie; a file, or a document, says so itself."""
    array = np.asarray(np.arange(6, dtype="u1").reshape(2, 3), order=order)
    for body in (array, {"data": array.tolist(), "dtype": "uint8", "shape": [2, 3]}):
        answer = http.put("ordered", body, strides="1,2")
        assert answer.status == 400 and "raw" in answer.json["detail"]
    raw = http.put("ordered", bytes(range(6)), RAW, dtype="uint8", shape="2,3", strides="1,2")
    assert raw.status in (200, 201) and raw.json["strides"] == [1, 2]
    assert http.tensor("ordered", values=1).json["data"] == [[0, 2, 4], [1, 3, 5]]


def test_an_upload_of_an_ended_session_is_refused_before_its_body(daemon):
    answer = exchange(
        daemon,
        b"POST /v1/ops/tensor?dtype=uint8&shape=4 HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: close\r\nTensord-Session: 00000000000000000000000000000000\r\n"
        b"Content-Type: application/octet-stream\r\nContent-Length: 4\r\n"
        b"Expect: 100-continue\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 404 ")


def test_small_requests_do_not_wait_for_what_computes():
    """The job thread is busy for seconds, and more such work is in the queue."""
    work = json.dumps({"shape": [8 << 20], "dtype": "float64", "output": "busy"}).encode()
    with contextlib.ExitStack() as stack, Daemon(*SMALL, "--threads", 1) as daemon:
        with Http(daemon.http_url) as http:
            for _ in range(8):
                raw = stack.enter_context(connect(daemon))
                raw.sendall(b"POST /v1/ops/randn HTTP/1.1\r\nHost: localhost\r\n"
                            b"Content-Length: %d\r\n\r\n" % len(work) + work)  # fmt: skip
            assert http.put("list", [1, 2]).status == 201
            assert http.put("object", {"data": [1], "dtype": "int8", "shape": [1]}).status == 201
            assert put_chunked(daemon, "/v1/tensors/list", b"[1, 2, 3]").startswith(b"HTTP/1.1 200")
            names = [entry["name"] for entry in http.get("/v1/tensors").json["entries"]]
            assert names[-2:] == ["list", "object"]
            assert http.tensor("list", values="true").json["data"] == [1, 2, 3]
            raw.settimeout(0.01)
            with pytest.raises(TimeoutError):
                raw.recv(1)


def test_a_slow_upload_keeps_its_session():
    with Daemon(*SMALL, "--session-ttl-ms", 1000) as daemon, Http(daemon.http_url) as http:
        key = http.send("POST", "/v1/session").json["session"]
        with connect(daemon) as raw:
            raw.sendall(
                f"POST /v1/ops/tensor?dtype=uint8&shape=12 HTTP/1.1\r\n"
                f"Host: localhost\r\nTensord-Session: {key}\r\nContent-Length: 12\r\n\r\n".encode()
            )
            for _ in range(12):
                time.sleep(0.25)
                raw.sendall(b"x")
            assert raw.recv(4000).startswith(b"HTTP/1.1 200 ")


def test_bytes_received_are_counted_whole(daemon, http):
    body = bytes(3 * MIB)
    before = http.stats()["bytes_received"]
    assert http.put("counted", body, RAW, dtype="uint8", shape=len(body)).status == 201
    assert http.stats()["bytes_received"] - before == len(body)


@pytest.mark.parametrize(
    "content_type, status",
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/x-www-form-urlencoded", 200),  # what curl -d sends
        ("", 200),
        ("application/jsonfoo", 415),
        ("application/xml", 415),
        ("text/plain", 415),
        ("application/octet-stream", 415),
    ],
)
def test_types_of_documents(http, content_type, status):
    http.put("typed", [1])
    for path, document in (("/v1/ops/info", {"input": "typed"}), ("/v1/batch", {"operations": []})):
        answer = http.send("POST", path, json.dumps(document), {"Content-Type": content_type})
        assert answer.status == status, (path, answer.body)


def test_conditions_hold_when_the_body_has_come(daemon, http):
    """Not only when it began: an in-place change, or another's publish, comes in between."""
    answers = {}
    http.put("changing", {"data": [1, 2], "dtype": "uint8", "mutable": True})
    tag = http.tensor("changing", format="raw").headers["ETag"]
    with contextlib.ExitStack() as stack:
        for name, header in (("changing", f"If-Match: {tag}"), ("appears", "If-None-Match: *"),
                             ("comes", "X: y")):  # fmt: skip
            raw = stack.enter_context(connect(daemon))
            raw.sendall(
                f"PUT /v1/tensors/{name}?dtype=uint8&shape=2 HTTP/1.1\r\n"
                f"Host: localhost\r\nContent-Length: 2\r\n{header}\r\n"
                f"Expect: 100-continue\r\n\r\n".encode()
            )
            assert raw.recv(100).startswith(b"HTTP/1.1 100 ")
            answers[name] = raw
        assert http.op("fill_", input="changing", value=7).status == 200
        for name in ("appears", "comes"):
            assert http.put(name, [1]).status == 201
        for name, raw in answers.items():
            raw.sendall(b"ab")
            answers[name] = int(raw.recv(4000).split()[1])
    assert answers == {"changing": 412, "appears": 412, "comes": 200}
    assert http.tensor("changing", values=1).json["data"] == [7, 7]


# ---- GET, and what is not ------------------------------------------------------------------------


def test_ranges_and_conditions_are_of_get_alone(daemon, http):
    """RFC 9110, 14.2: a Range of other methods is ignored; 13.1: a POST is never 304."""
    http.put("x", np.arange(6.0))
    got = http.tensor("x", format="npy")
    head = http.send("HEAD", "/v1/tensors/x?format=npy", None, {"Range": "bytes=0-3"})
    assert head.status == 200 and head.headers["Content-Length"] == str(len(got.body))
    for headers in ({"Range": "bytes=0-3"}, {"If-None-Match": "*"}, {"If-Match": '"1"'}):
        posted = http.op("get", {"Accept": "application/x-npy", **headers}, input="x")
        assert posted.status == 200 and posted.body == got.body, headers
        assert posted.headers["ETag"] is None and posted.headers["Accept-Ranges"] is None


def test_ranges_are_offered_where_there_are_some(daemon, http):
    http.put("x", np.arange(6.0))
    assert http.tensor("x", format="npy").headers["Accept-Ranges"] == "bytes"
    made = http.op("zeros", shape=[4])  # without a generation, so without a validator
    anonymous = http.tensor(made.json["name"], {"Range": "bytes=0-3"}, format="npy")
    assert anonymous.status == 200 and anonymous.headers["Accept-Ranges"] is None


def test_answers_say_what_they_depend_on(http):
    http.put("x", np.arange(6.0))
    for query in ({"format": "npy"}, {}, {"values": "true"}, {"index": "::2", "format": "raw"}):
        assert http.tensor("x", **query).headers["Vary"] == "Accept", query
    again = http.tensor("x", {"If-None-Match": http.tensor("x").headers["ETag"]})
    assert again.status == 304 and again.headers["Vary"] == "Accept"


def test_a_description_with_the_time_left_is_another_each_time(http):
    http.put("short-lived", [1, 2], ttl="1h")
    told = http.tensor("short-lived")
    assert told.json["ttl_ms"] <= 3_600_000 and told.headers["ETag"].startswith('W/"')
    again = http.tensor("short-lived", {"If-None-Match": told.headers["ETag"]})
    assert again.status == 200 and again.json["name"] == "short-lived"
    bytes_of_it = http.tensor("short-lived", format="npy").headers["ETag"]
    assert bytes_of_it.startswith('"')
    assert http.tensor("short-lived", {"If-None-Match": bytes_of_it}, format="npy").status == 304


def test_a_file_names_the_tensor_it_holds(http):
    http.put("layer/weight", np.arange(3.0))
    headers = {"Accept": "application/vnd.safetensors"}
    for answer in (http.tensor("layer/weight", headers),
                   http.op("get", headers, input="layer/weight")):  # fmt: skip
        header = json.loads(answer.body[8 : 8 + int.from_bytes(answer.body[:8], "little")])
        assert list(header) == ["layer/weight"]


def test_pages_see_ranges(http):
    http.put("x", np.arange(6.0))
    origin = f"http://{http.address.netloc}"
    seen = http.tensor("x", {"Origin": origin}, format="npy").headers
    assert "Content-Range" in seen["Access-Control-Expose-Headers"]
    assert seen.get_all("Vary") == ["Accept", "Origin"]
    asked = http.send("OPTIONS", "/v1/tensors/x", None,
                      {"Origin": origin, "Access-Control-Request-Method": "GET"})  # fmt: skip
    assert {"If-Range", "Last-Event-ID"} < set(
        asked.headers["Access-Control-Allow-Headers"].split(", ")
    )


# ---- sessions ------------------------------------------------------------------------------------


def test_hello_needs_no_luck(daemon):
    """Its reply is made of fields that nothing else has filled."""
    for _ in range(3):
        with Http(daemon.http_url) as fresh:
            assert fresh.op("hello", protocol=1).status == 200
            assert fresh.send("DELETE", "/v1/session").status == 204


def test_a_request_that_fails_leaves_no_session(daemon):
    before = daemon.stats()["sessions"]
    failing = [
        ("zeros", {"shape": [-1]}),
        ("clone", {"input": "nobody"}),
        ("zeros", {"shape": [1 << 40]}),
        ("zeros", {}),
        ("randn", {"shape": [400 << 20], "dtype": "float32"}),
    ]
    for op, fields in failing * 3:  # more often than there may be sessions
        with Http(daemon.http_url) as http:
            answer = http.op(op, **fields)
            assert answer.status in (400, 404, 422, 507), answer.body
            assert answer.headers["Tensord-Session"] is None
            assert answer.headers["Set-Cookie"] is None
    assert daemon.stats()["sessions"] == before


def test_an_answer_that_nobody_got_leaves_no_session(daemon):
    """Its key was in it."""
    before = daemon.stats()["sessions"]
    document = b'{"shape":[8388608]}'
    for _ in range(3):
        with connect(daemon) as raw:
            raw.sendall(b"POST /v1/ops/randn HTTP/1.1\r\nHost: localhost\r\n"
                        b"Content-Length: %d\r\n\r\n" % len(document) + document)  # fmt: skip
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    deadline = time.monotonic() + PATIENCE_S
    while (stats := daemon.stats())["sessions"] != before or stats["objects"]:
        assert time.monotonic() < deadline, stats
        time.sleep(0.02)


def test_a_cookie_of_an_ended_session_is_none(daemon, http):
    """A browser cannot take it away; a header was written by somebody who can."""
    stale = {"Cookie": "tensord-session=" + "0" * 32}
    assert http.get("/v1/tensors", stale).status == 200
    made = http.op("zeros", stale, shape=[2])
    assert made.status == 200 and made.headers["Tensord-Session"]
    assert "tensord-session=" + http.session in made.headers["Set-Cookie"]
    with Http(daemon.http_url) as other:
        missing = other.tensor(made.json["name"], stale)
        assert missing.status == 404 and "session" in missing.json["detail"]
        assert other.get("/v1/tensors", {"Tensord-Session": "0" * 32}).status == 404


def test_a_batch_opens_a_session_while_the_clock_looks(daemon):
    """The clock keeps the sessions of requests under way; one of them begins in a job."""
    operations = [{"op": "randn", "shape": [2 << 20], "output": "busy"}] * 4
    operations += [{"op": "zeros", "shape": [2]}] + operations
    with Http(daemon.http_url) as http:
        answer = http.send("POST", "/v1/batch", json.dumps({"operations": operations}), JSON)
        assert answer.status == 200 and all("code" not in made for made in answer.json["results"])
        assert http.tensor(answer.json["results"][4]["name"]).json["shape"] == [2]
        assert http.send("DELETE", "/v1/session").status == 204


# ---- batches and memory --------------------------------------------------------------------------


def test_details_in_a_batch_are_utf_8(http):
    """Also where a long name was cut in the middle of a letter."""
    operations = [{"op": "z" * 99 + "\u00e9"}, {"op": "info", "input": "\u00e9" * 200}]
    answer = http.send("POST", "/v1/batch", json.dumps({"operations": operations}), JSON)
    first, second = answer.json["results"]  # which decodes the body as UTF-8
    assert first["code"] == second["code"] == "not_found" and "zzz?'" in first["detail"]


def test_deadlines_in_a_batch_harm_nobody(http):
    operations = [{"op": "randn", "shape": [1 << 19], "timeout_ms": 1, "output": "late"},
                  {"op": "zeros", "shape": [2], "output": "on-time"}]  # fmt: skip
    for _ in range(5):
        answer = http.send("POST", "/v1/batch", json.dumps({"operations": operations * 4}), JSON)
        assert answer.status in (200, 504), answer.body
        assert http.get("/livez").status == 200


def waiting_heads(daemon, stack, request, body, count):
    """Requests whose bodies have come but for their last byte."""
    for _ in range(count):
        raw = stack.enter_context(connect(daemon))
        raw.sendall(request + b"\r\nHost: localhost\r\n")
        raw.sendall(b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body)


@pytest.mark.parametrize("what", ["document", "header"])
def test_memory_of_unfinished_requests_is_counted(what):
    request, body = {
        "document": (b"POST /v1/batch HTTP/1.1", b" " * 900_000),
        "header": (b"PUT /v1/tensors/x HTTP/1.1\r\nContent-Type: application/vnd.safetensors",
                   (1_000_000).to_bytes(8, "little") + b"{" + b" " * 900_000),
    }[what]  # fmt: skip
    with Daemon(*SMALL) as daemon:
        before = daemon.stats()["memory_used_bytes"]
        with contextlib.ExitStack() as stack:
            waiting_heads(daemon, stack, request, body, 20)
            deadline = time.monotonic() + PATIENCE_S
            while daemon.stats()["memory_used_bytes"] - before < 20 * 800_000:
                assert time.monotonic() < deadline, daemon.stats()
                time.sleep(0.02)
        while daemon.stats()["memory_used_bytes"] != before:
            assert time.monotonic() < deadline, daemon.stats()
            time.sleep(0.02)


def test_memory_of_answers_under_way_is_counted(daemon, http):
    """Of each reader that does not read: a block, its text, and the block of libmicrohttpd."""
    http.put("slow", np.zeros(2 * MIB, "f4"))
    before = daemon.stats()["memory_used_bytes"]
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            raw = stack.enter_context(connect(daemon))
            raw.sendall(b"GET /v1/tensors/slow?values=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert raw.recv(15) == b"HTTP/1.1 200 OK"
        assert daemon.stats()["memory_used_bytes"] - before >= 10 * (480 << 10)
    deadline = time.monotonic() + PATIENCE_S
    while daemon.stats()["memory_used_bytes"] != before:
        assert time.monotonic() < deadline, daemon.stats()
        time.sleep(0.02)


def test_a_full_memory_can_be_looked_at_and_emptied():
    """Without a byte to spare for the questions."""
    small = ("--memory-limit", "8MiB", "--pool-limit", "0")
    with Daemon(*small) as daemon, Http(daemon.http_url) as http:
        names = 0
        for size in (MIB, 64 << 10, 4096, 64):
            while http.put(f"n{names}", bytes(size), RAW, dtype="uint8", shape=size).status == 201:
                names += 1
        stats = http.stats()
        assert stats["memory_limit_bytes"] - stats["memory_used_bytes"] < 4096
        assert http.op("delete", input=f"n{names - 1}").status == 200  # room for a slice's head
        listed = http.get("/v1/tensors", limit=4)
        assert listed.status == 200 and len(listed.json["entries"]) == 4
        assert http.tensor("n0", values="true", index=":2").json["data"] == [0, 0]
        assert http.op("delete", input="n0").status == 200
        assert http.put("n0", bytes(MIB), RAW, dtype="uint8", shape=MIB).status == 201


def read_all(raw):
    with contextlib.suppress(OSError):
        while raw.recv(MIB):
            pass


def test_stopping_does_not_wait_for_readers():
    """Whose answers are being made in jobs, block by block, when their time is over."""
    for _ in range(4):
        with contextlib.ExitStack() as stack, Daemon(*SMALL, "--drain-timeout-ms", 50) as daemon:
            with Http(daemon.http_url) as http:
                http.put("x", np.arange(1000.0))
                http.op("expand", input="x", shape=[2_000_000, 1000], output="endless")
            for _ in range(12):
                raw = stack.enter_context(connect(daemon))
                raw.sendall(b"GET /v1/tensors/endless?format=raw&dtype=float32 HTTP/1.1\r\n"
                            b"Host: localhost\r\n\r\n")  # fmt: skip
                reader = threading.Thread(target=read_all, args=(raw,))
                reader.start()
                stack.callback(reader.join, PATIENCE_S)  # the daemon ends first, and well
            time.sleep(0.3)
