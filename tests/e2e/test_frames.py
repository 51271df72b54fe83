"""Binary frames: pipelining, bodies of every size, sessions, deadlines, lists, conditions."""

import os
import time

import plain_client as plain
import pytest
from harness import (MIB, SMALL, Daemon, all_names, client, daemon, eventually,  # noqa: F401
                     get, local, make_memfd, ok, put, refused)  # fmt: skip
from plain_client import PlainClient

# On both sides of what is made in the heap, made in a job, and read in several parts.
SIZES = [0, 1, 63 << 10, 64 << 10, (64 << 10) + 1, MIB, 9 * MIB]


def numbered(size):
    """Bytes that differ wherever they are shifted."""
    return (b"".join(i.to_bytes(4, "little") for i in range(size // 4 + 1)))[:size]


# ---- pipelining --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 63, 64, 65, 100, 400, 1000])
def test_many_requests_at_once_are_all_answered(client, count):
    """In one write: more than the limit of requests under way, and than one read of the daemon."""
    frames = b"".join(plain.build_frame("ping", 1000 + i, {}, b"%d" % i) for i in range(count))
    client.send_raw(frames)
    for i in reversed(range(count)):
        assert client.wait(1000 + i)[2] == b"%d" % i


@pytest.mark.threads
def test_replies_are_matched_by_their_ids(client):
    """Long and short requests mixed: whatever the order, each reply is its request's."""
    ids = {}
    for i in range(24):
        size = 1 << 20 if i % 3 == 0 else i + 1
        request = client.send("full", {"shape": [size], "value": i})
        ids[request] = (size, i)
    for request, (size, i) in reversed(ids.items()):
        reply = ok(client.wait(request))
        assert reply["shape"] == [size] and reply["dtype"] == "int64"
        item = ok(client.request("getitem", {"input": f"@{reply['id']}", "index": [size - 1]}))
        value = ok(client.request("item", {"input": f"@{item['id']}"}))["value"]
        assert value.value == i


def test_request_ids_are_the_clients_choice(client):
    for number in (0, 1, 7, 7, (1 << 64) - 1):
        assert client.request("ping", {}, b"x", request_id=number)[2] == b"x"


def test_a_short_request_overtakes_a_long_one(local):
    long = local.send("randn", {"shape": [4 * MIB], "seed": 1})
    short = local.send("ping", {}, b"short")
    first = local.receive()
    assert first.header.request_id == short
    ok(local.wait(long))


# A job of about a second in a sanitized daemon, of 16 MiB.
LONG = {"shape": [16 * MIB], "dtype": "float8_e5m2"}
IMPATIENT = ("--io-timeout-ms", "300", "--threads", "1")


def test_requests_that_wait_for_others_are_no_silence():
    """What has come but may not begin yet, because of --max-inflight, waits longer than the time
    without progress: it is the daemon that does not go on."""
    with Daemon(*SMALL, *IMPATIENT, "--max-inflight", "2") as daemon, \
            daemon.connect(timeout=60) as client:  # fmt: skip
        frames = [plain.build_frame("randn", 100 + i, LONG) for i in range(6)]
        frames += [plain.build_frame("ping", i, {}, b"%d" % i) for i in range(50)]
        client.send_raw(b"".join(frames))  # in one go: the daemon reads more than it may begin
        for i in range(50):
            assert client.wait(i)[2] == b"%d" % i
        for i in range(6):
            ok(client.wait(100 + i))


def test_a_body_waits_for_its_memory():
    """While the daemon makes the memory for a body it does not read: no silence either."""
    with Daemon(*SMALL, *IMPATIENT) as daemon, daemon.connect(timeout=60) as other, \
            daemon.connect(timeout=60) as client:  # fmt: skip
        busy = [other.send("randn", LONG) for _ in range(4)]
        body = numbered(2 * MIB)
        put(client, "waited", body)
        assert get(client, "waited") == body
        for request in busy:
            ok(other.wait(request))


def test_a_body_in_the_middle_of_small_requests(client):
    body = numbered(3 * MIB)
    fields = {"output": "mixed", "dtype": "uint8", "shape": [len(body)]}
    frames = [plain.build_frame("ping", 1, {}, b"before"),
              plain.build_frame("put", 2, fields, body),
              plain.build_frame("ping", 3, {}, b"after")]  # fmt: skip
    client.send_raw(b"".join(frames))
    assert client.wait(3)[2] == b"after"
    ok(client.wait(2))
    assert client.wait(1)[2] == b"before"
    assert get(client, "mixed") == body


# ---- bodies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_put_and_get(client, size):
    body = numbered(size)
    reply = put(client, f"sized/{size}", body)
    assert (reply["nbytes"], reply["shape"], reply["mode"]) == (size, [size], "frozen")
    assert reply["memory"] == "copied" and reply["reason"] in ("heap", "transport")
    assert get(client, f"sized/{size}") == body
    ok(client.request("delete", {"input": f"sized/{size}"}))


def test_ping_returns_its_body(client):
    for size in (0, 1, 65535, 65536):
        assert client.request("ping", {}, bytes(size))[2] == bytes(size)
    refused(client.request("ping", {}, bytes(65537)), "too_large")
    assert client.request("ping", {}, b"still here")[2] == b"still here"


def test_a_request_arrives_byte_by_byte(client):
    body = numbered(48)
    fields = {"output": "bytewise", "dtype": "uint8", "shape": [48]}
    for byte in plain.build_frame("put", 5, fields, body):
        client.send_raw(bytes([byte]))
    ok(client.wait(5))
    assert get(client, "bytewise") == body


def test_an_array_that_is_no_view_comes_in_c_order(client):
    body = numbered(24 * 4)
    put(client, "matrix", body, "int32", [2, 3, 4])
    turned = ok(client.request("transpose", {"input": "matrix", "dim0": 0, "dim1": 2}))
    values = list(memoryview(body).cast("i"))
    wanted = [values[k * 12 + j * 4 + i] for i in range(4) for j in range(3) for k in range(2)]
    assert list(memoryview(get(client, f"@{turned['id']}")).cast("i")) == wanted


# ---- descriptors -------------------------------------------------------------------------------


@pytest.mark.threads
def test_descriptors_go_both_ways_in_a_pipeline(local):
    """Each reply brings its own descriptor, although all are sent and received in one go."""
    given = [make_memfd(bytes([i]) * 70000) for i in range(10)]
    for i, fd in enumerate(given):
        local.send("from_numpy", {"output": f"given/{i}", "dtype": "uint8", "shape": [70000]},
                   fds=[fd], request_id=100 + i)  # fmt: skip
    for i in range(10):
        assert ok(local.wait(100 + i))["memory"] == "shared"
    ids = [local.send("map", {"input": f"given/{i}"}) for i in range(10)]
    for i, request in reversed(list(enumerate(ids))):
        status, fields, _, (fd,) = local.wait(request)
        assert status == "ok" and os.pread(fd, 3, 0) == bytes([i]) * 3
        assert os.fstat(fd).st_ino == os.fstat(given[i]).st_ino
        os.close(fd)
        local.send("release", {"lease": fields["lease"]}, flags=plain.ONE_WAY)
    for i, fd in enumerate(given):
        os.close(fd)
        ok(local.request("delete", {"input": f"given/{i}"}))


def test_one_way_release(daemon):
    with daemon.unchanged(), daemon.connect() as client:
        made = ok(client.request("zeros", {"shape": [100000]}))
        status, fields, _, (fd,) = client.request("map", {"input": f"@{made['id']}"})
        os.close(fd)
        assert status == "ok" and daemon.stats()["leases"] == 1
        client.send("release", {"lease": fields["lease"]}, flags=plain.ONE_WAY)
        client.send("release", {"input": f"@{made['id']}"}, flags=plain.ONE_WAY)
        client.send("release", {"lease": 999999}, flags=plain.ONE_WAY)  # no error comes either
        assert client.request("ping", {}, b"next")[2] == b"next"
        assert not client.early
        stats = daemon.stats()
        assert (stats["leases"], stats["objects"]) == (0, 0)
        refused(client.request("release", {"lease": fields["lease"]}), "not_found")
        refused(client.request("zeros", {"shape": [1]}, flags=plain.ONE_WAY), "invalid")


def test_an_object_lives_as_often_as_it_was_handed_out(local):
    made = ok(local.request("zeros", {"shape": [3]}))
    again = ok(local.request("cpu", {"input": f"@{made['id']}"}))
    assert again["id"] == made["id"]
    for _ in range(2):
        ok(local.request("info", {"input": f"@{made['id']}"}))
        ok(local.request("release", {"input": f"@{made['id']}"}))
    refused(local.request("info", {"input": f"@{made['id']}"}), "not_found")


# ---- sessions ----------------------------------------------------------------------------------


def test_hello_tells_what_a_client_needs(client):
    welcome = client.welcome
    assert welcome["protocol"] == 1 and welcome["session"] > 0
    assert len(welcome["session_key"]) >= 16 and welcome["boot"]
    limits = dict(pair.split("=") for pair in welcome["limits"].split(" "))
    assert int(limits["max_body"]) > 0 and int(limits["max_inflight"]) == 64
    assert welcome["text"].startswith("tensord ")
    refused(client.request("hello", {"protocol": 1}), "invalid")
    assert client.request("ping", {}, b"stays")[2] == b"stays"


@pytest.mark.threads
def test_connections_join_a_session_by_its_key(daemon):
    with daemon.unchanged():
        first = daemon.connect()
        key = first.welcome["session_key"]
        second = PlainClient(daemon.tcp_url, session_key=key)
        assert second.welcome["session"] == first.welcome["session"]
        assert second.welcome["session_key"] == key
        made = ok(first.request("arange", {"end": 5}))
        assert ok(second.request("info", {"input": f"@{made['id']}"}))["shape"] == [5]
        first.close()
        assert ok(second.request("info", {"input": f"@{made['id']}"}))["shape"] == [5]
        second.close()
    with pytest.raises(plain.Refused, match="not_found"):
        daemon.connect(session_key=key)


def test_sessions_do_not_see_each_others_objects(daemon, local):
    made = ok(local.request("zeros", {"shape": [2]}))
    with daemon.connect() as stranger:
        refused(stranger.request("info", {"input": f"@{made['id']}"}), "not_found")
        refused(stranger.request("release", {"input": f"@{made['id']}"}), "not_found")
    ok(local.request("info", {"input": f"@{made['id']}"}))


def test_a_session_ends_with_its_last_connection(daemon):
    with daemon.unchanged():
        client = daemon.connect()
        other = daemon.connect(session_key=client.welcome["session_key"])
        before = daemon.stats()
        for _ in range(5):
            made = ok(client.request("zeros", {"shape": [100000]}))
            status, _, _, (fd,) = client.request("map", {"input": f"@{made['id']}", "write": True})
            assert status == "ok"
            os.close(fd)
        now = daemon.stats()
        assert now["objects"] - before["objects"] == 5 and now["leases"] - before["leases"] == 5
        client.close()
        eventually(lambda: daemon.stats()["connections"] == before["connections"] - 1, "it left")
        assert daemon.stats()["objects"] - before["objects"] == 5
        other.close()


# ---- deadlines ---------------------------------------------------------------------------------


def test_a_deadline_ends_a_long_request(daemon):
    with daemon.unchanged(), daemon.connect() as client:
        fields = {"output": "late", "shape": [8 * MIB], "seed": 1, "timeout_ms": 20}
        begun = time.monotonic()
        refused(client.request("randn", fields), "deadline")
        assert time.monotonic() - begun < 5
        refused(client.request("info", {"input": "late"}), "not_found")
        client.wait(client.send("ping"))


@pytest.mark.threads
def test_a_deadline_in_the_queue(daemon):
    """What waits behind others ends in time, too, and is not done."""
    with daemon.unchanged(), daemon.connect() as client:
        busy = [client.send("randn", {"shape": [4 * MIB], "seed": i}) for i in range(4)]
        late = client.send("zeros", {"output": "late", "shape": [4 * MIB], "timeout_ms": 10})
        first = client.receive()
        assert first.header.request_id == late
        assert plain.STATUSES[first.header.status] == "deadline"
        for request in busy:
            ok(client.wait(request))
        refused(client.request("info", {"input": "late"}), "not_found")


def test_a_deadline_of_a_body_whose_memory_is_not_made_yet():
    with Daemon(*SMALL, "--threads", "1") as daemon, daemon.unchanged(), \
            daemon.connect(timeout=30) as client:  # fmt: skip
        before = daemon.stats()["memory_used_bytes"]
        busy = [client.send("randn", LONG) for _ in range(3)]
        # Memory for bodies goes ahead of what has not begun: the one thread must be at work.
        eventually(lambda: daemon.stats()["memory_used_bytes"] >= before + MIB, "one has begun")
        fields = {"output": "late", "dtype": "uint8", "shape": [MIB], "timeout_ms": 1}
        late = client.send("put", fields, bytes(MIB))
        refused(client.wait(late), "deadline")
        assert client.request("ping", {}, b"in step")[2] == b"in step"
        for request in busy:
            ok(client.wait(request))
        refused(client.request("info", {"input": "late"}), "not_found")


def test_a_long_enough_deadline_changes_nothing(client):
    for limit in (60000, (1 << 32) + 1, (1 << 64) - 1):
        reply = ok(client.request("ones", {"shape": [MIB], "timeout_ms": limit}))
        ok(client.request("release", {"input": f"@{reply['id']}"}))


def test_a_deadline_covers_a_body_that_does_not_come(daemon):
    """PROTOCOL.md: answered with deadline after that, if it has not finished."""
    with daemon.unchanged(), daemon.connect(timeout=5) as client:
        fields = {"output": "slow", "dtype": "uint8", "shape": [200000], "timeout_ms": 100}
        frame = plain.build_frame("put", 9, fields, bytes(200000))
        client.send_raw(frame[:1000])
        refused(client.wait(9), "deadline")
        client.send_raw(frame[1000:])
        assert client.request("ping", {}, b"in step")[2] == b"in step"


# ---- lists -------------------------------------------------------------------------------------


def test_list_in_pages(daemon, local):
    names = sorted(f"page/{i:03}" for i in range(57)) + ["page/é", "page/日本"]
    for name in names:
        put(local, name, b"1234", "float32")
    for limit in (1, 7, 57, 59, 60, 1000, 5000):
        pages = [entry["name"] for entry in all_names(local, prefix="page/", limit=limit)]
        assert pages == sorted(names, key=str.encode)
    assert all_names(local, prefix="page/05")[0]["shape"] == [1]
    refused(local.request("list", {"limit": 0}), "invalid")
    assert all_names(local, prefix="page/", cursor="page/055")[0]["name"] == "page/056"
    for name in names:
        ok(local.request("delete", {"input": name}))
    assert all_names(local, prefix="page/") == []


@pytest.mark.threads
def test_list_pages_while_names_come_and_go(daemon, local):
    """Names that are there all the time are listed exactly once; others once or not at all."""
    lasting = [f"moving/{i:03}" for i in range(0, 60, 2)]
    for name in lasting:
        put(local, name, b"x")
    with daemon.connect() as other:
        seen, cursor = [], {}
        for step in range(100):
            ok(other.request("zeros", {"output": f"moving/{(7 * step) % 60 | 1:03}", "shape": [1]}))
            fields = {"prefix": "moving/", "limit": 4, **cursor}
            status, reply, body, _ = local.request("list", fields)
            assert status == "ok"
            seen += [entry["name"] for entry in plain.read_list(body)]
            gone = f"moving/{(7 * (step - 3)) % 60 | 1:03}"
            other.request("delete", {"input": gone})
            other.request("delete", {"input": reply.get("cursor", "none")}
                          if reply.get("cursor", "0")[-1] in "13579" else {"input": "none"})
            if "cursor" not in reply:
                break
            cursor = {"cursor": reply["cursor"]}
        else:
            pytest.fail("list never ends")
    assert seen == sorted(set(seen)) and set(lasting) <= set(seen)
    for entry in all_names(local, prefix="moving/"):
        ok(local.request("delete", {"input": entry["name"]}))


def test_count_is_of_all_names(local):
    _, before, _, _ = local.request("list", {"prefix": "nothing/"})
    put(local, "counted", b"x")
    _, after, body, _ = local.request("list", {"prefix": "nothing/"})
    assert after["count"] == before["count"] + 1 and body == b""
    ok(local.request("delete", {"input": "counted"}))


# ---- conditions --------------------------------------------------------------------------------


def test_create_only(client):
    put(client, "once", b"first", create_only=True)
    fields = {"output": "once", "dtype": "uint8", "shape": [6], "create_only": True}
    refused(client.request("put", fields, b"second"), "exists")
    fields = {"output": "once", "shape": [1], "create_only": True}
    refused(client.request("zeros", fields), "exists")
    put(client, "twice", b"x")
    rename = {"input": "twice", "output": "once", "create_only": True}
    refused(client.request("rename", rename), "exists")
    assert get(client, "once") == b"first" and get(client, "twice") == b"x"
    for name in ("once", "twice"):
        ok(client.request("delete", {"input": name}))


def test_if_generation(client):
    first = put(client, "versioned", b"1")["generation"]
    second = put(client, "versioned", b"2", if_generation=first)["generation"]
    assert second > first
    fields = {"output": "versioned", "dtype": "uint8", "shape": [1], "if_generation": first}
    refused(client.request("put", fields, b"3"), "precondition")
    wrong = {"input": "versioned", "if_generation": first}
    refused(client.request("delete", wrong), "precondition")
    missing = {**fields, "output": "never-there"}
    refused(client.request("put", missing, b"3"), "precondition", "not_found")
    assert get(client, "versioned") == b"2"
    ok(client.request("delete", {"input": "versioned", "if_generation": second}))


def test_an_error_leaves_the_old_tensor(daemon):
    with daemon.connect() as client:
        put(client, "kept", b"old")
        with daemon.unchanged():
            fields = {"output": "kept", "dtype": "float32", "shape": [3]}
            refused(client.request("put", fields, b"short"), "bad_shape")
            refused(client.request("view", {"input": "kept", "output": "kept", "shape": [7]}),
                    "bad_shape")  # fmt: skip
            refused(client.request("fill_", {"input": "kept", "value": 1}), "frozen")
        ok(client.request("delete", {"input": "kept"}))
