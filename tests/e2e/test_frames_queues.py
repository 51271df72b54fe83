"""Queues over frames: order, room, deadlines, items that come back, and the end of sessions, of
producers, of consumers and of queues. Their recycled memory: test_frames_segments.py."""

import os
import time

import plain_client as plain
import pytest
from harness import (SMALL, Daemon, Mapping, Peer, client, daemon, local,  # noqa: F401
                     make_memfd, ok, put, refused)  # fmt: skip
from harness import get as elements
from queue_client import Item, drain_texts, get, info, make, put_text

LONG_MS = 20000  # what is not waited for that long never comes


def start_get(client, timeout_ms=LONG_MS):
    return client.send("queue_get", {"queue": "q", "timeout_ms": timeout_ms})


def start_put(client, text, timeout_ms=LONG_MS):
    fields = {"queue": "q", "tensors": "small", "meta": text, "timeout_ms": timeout_ms}
    return client.send("queue_put", fields)


def until(client, **counters):
    """Waits until the queue's counters are these."""
    deadline = time.monotonic() + 10
    while True:
        now = info(client)
        if all(now[name] == value for name, value in counters.items()):
            return now
        assert time.monotonic() < deadline, (counters, now)
        time.sleep(0.002)


@pytest.fixture
def queue(local):
    """The client, with an empty queue q and a tensor to put."""
    make(local)
    put(local, "small", b"small")
    yield local
    for name in plain.read_list(local.request("queues")[2]):
        ok(local.request("queue_delete", {"queue": name["queue"]}))
    ok(local.request("delete", {"input": "small"}))


# ---- making, listing, telling --------------------------------------------------------------------


def test_settings_are_told_and_must_agree(queue):
    made = make(queue, max_items=3, max_bytes=1000, when_full="fail", visibility_ms=500)
    assert made == {"queue": "q", "count": 0, "nbytes": 0, "max_items": 3, "max_bytes": 1000,
                    "when_full": "fail", "visibility_ms": 500, "closed": False}  # fmt: skip
    for same in ({}, {"max_items": 3}, {"when_full": "fail", "visibility_ms": 500}):
        assert ok(queue.request("queue_create", {"queue": "q", **same})) == made
    for other in ({"max_items": 4}, {"max_bytes": 1}, {"when_full": "block"},
                  {"visibility_ms": 501}, {"create_only": True}):  # fmt: skip
        refused(queue.request("queue_create", {"queue": "q", **other}), "exists", text="there")
    for wrong in ({"max_items": 0}, {"max_items": 1 << 40}, {"max_bytes": 0}, {"visibility_ms": 0},
                  {"when_full": "never"}):  # fmt: skip
        refused(queue.request("queue_create", {"queue": "x", **wrong}), "invalid")
    for name in ("", "a//b", "@1", "x" * 513):
        refused(queue.request("queue_create", {"queue": name}), "invalid")
        refused(queue.request("queue_info", {"queue": name}), "invalid")
    for op in ("queue_info", "queue_get", "queue_peek", "queue_close", "queue_drain",
               "queue_delete"):  # fmt: skip
        refused(queue.request(op, {"queue": "nothing"}), "not_found", text="queue_create")


def test_queues_are_listed_page_by_page(queue):
    names = [f"list/{i:02}" for i in range(7)]
    for name in names:
        make(queue, name)
    found, cursor = [], {}
    while True:
        reply = queue.request("queues", {"prefix": "list/", "limit": 3, **cursor})
        found += [entry["queue"] for entry in plain.read_list(reply[2])]
        if "cursor" not in ok(reply):
            break
        cursor = {"cursor": reply[1]["cursor"]}
    assert found == names and reply[1]["count"] == 8
    refused(queue.request("queues", {"limit": 0}), "invalid")


def test_queues_have_names_of_their_own(queue):
    put(queue, "q", b"the tensor q")
    assert elements(queue, "q") == b"the tensor q" and info(queue)["items"] == 0
    ok(queue.request("delete", {"input": "q"}))


def test_counters_tell_what_happened(queue):
    for text in "abcde":
        ok(put_text(queue, text))
    now = info(queue)
    assert (now["items"], now["bytes"], now["puts"], now["nbytes"]) == (5, 5, 5, 5)
    get(queue).done()
    get(queue).release()
    held = get(queue)
    assert ok(queue.request("queue_drain", {"queue": "q"}))["count"] == 3
    now = info(queue)
    counted = {"items": 0, "in_flight": 1, "gets": 3, "acks": 1, "returned": 1, "drained": 3,
               "dropped": 0, "expired": 0, "parked": 0}  # fmt: skip
    assert counted.items() <= now.items(), now
    held.done()


# ---- items ---------------------------------------------------------------------------------------


def test_what_an_item_may_hold(queue):
    """By name, by id, of several tensors with keys; frozen, mutable, single-writer, and views."""
    put(queue, "frozen", b"frozen")
    put(queue, "a=b", bytes(range(12)), mutable=True)
    whole = ok(queue.request("info", {"input": "a=b"}))
    view = ok(queue.request("getitem", {"input": "a=b", "index": [slice(2, 11, 3)]}))
    fd = make_memfd(b"given" + bytes(69995))
    given = ok(queue.request("from_numpy", {"dtype": "uint8", "shape": [5]}, fds=[fd]))
    os.close(fd)
    tensors = f"first=frozen\n=a=b\nview=@{view['id']}\n@{given['id']}\nagain=frozen"
    reply = ok(queue.request("queue_put", {"queue": "q", "tensors": tensors, "meta": "{}"}))
    assert reply == {"item": 1, "nbytes": 6 + 12 + 3 + 5 + 6}
    (peeked,) = plain.read_list(queue.request("queue_peek", {"queue": "q"})[2])
    lines = ["first=uint8[6]", "uint8[12]", "view=uint8[3]", "uint8[5]", "again=uint8[6]"]
    assert peeked == {"item": 1, "deliveries": 0, "nbytes": 32, "count": 5, "meta": "{}",
                      "tensors": "\n".join(lines)}  # fmt: skip
    item = get(queue)
    assert [t.get("key") for t in item.tensors] == ["first", None, "view", None, "again"]
    assert [t["mode"] for t in item.tensors[:3]] == ["frozen", "mutable", "mutable"]
    assert item.tensors[1]["storage"] == item.tensors[2]["storage"] == whole["storage"]
    got = [item.bytes(i) for i in range(5)]
    assert got == [b"frozen", bytes(range(12)), bytes([2, 5, 8]), b"given", b"frozen"]
    # By reference: what is mutable is still the same memory.
    ok(queue.request("fill_", {"input": "a=b", "value": 7}))
    assert item.bytes(2) == b"\7\7\7"
    item.done()
    refused(queue.request("info", {"input": f"@{item.tensors[0]['id']}"}), "not_found")
    for name in ("frozen", "a=b"):
        ok(queue.request("delete", {"input": name}))


def test_what_no_item_may_hold(queue):
    for tensors, status in (("", "invalid"), ("\n\n", "invalid"), ("k=small\nk=small", "invalid"),
                            ("k=nothing", "not_found"), ("@99999999", "not_found"),
                            ("@x", "invalid"), ("k=", "invalid"),
                            (65 * "small\n", "too_large")):  # fmt: skip
        refused(queue.request("queue_put", {"queue": "q", "tensors": tensors}), status)
    fields = {"queue": "q", "tensors": "small"}
    refused(queue.request("queue_put", {**fields, "meta": 4097 * "x"}), "too_large", text="4096")
    ok(queue.request("queue_put", {**fields, "meta": 4096 * "x"}))
    refused(queue.request("queue_put", {**fields, "queue": "none"}), "not_found")
    allocated = queue.request("allocate", {"dtype": "uint8", "shape": [70000]})
    os.close(allocated[3][0])
    fields["tensors"] = f"@{allocated[1]['id']}"
    refused(queue.request("queue_put", fields), "conflict", text="publish")
    assert info(queue)["items"] == 1


def test_an_item_keeps_what_its_names_led_to(daemon, queue):
    put(queue, "t", b"before")
    ok(queue.request("queue_put", {"queue": "q", "tensors": "t"}))
    put(queue, "t", b"after!")
    ok(queue.request("delete", {"input": "t"}))
    item = get(queue)
    # all that the session was handed out, and an item is not
    ok(queue.request("release", {"force": True}))
    assert item.bytes() == b"before"
    ok(queue.request("as_tensor", {"input": f"@{item.tensors[0]['id']}", "output": "kept"}))
    item.done()
    assert elements(queue, "kept") == b"before"
    ok(queue.request("delete", {"input": "kept"}))


def test_order_is_that_of_the_puts(daemon, queue):
    """Of each producer; between two consumers each item goes to one."""
    make(queue, max_items=1000)
    with daemon.connect() as one, daemon.connect() as two:
        for i in range(50):
            ok(put_text(one, f"1 {i}"))
            ok(put_text(two, f"2 {i}"))
        texts = drain_texts(one)
        for producer in "12":
            mine = [int(text[2:]) for text in texts if text[0] == producer]
            assert mine == list(range(50))


# ---- room ----------------------------------------------------------------------------------------


def test_a_queue_that_fails_when_it_is_full(queue):
    make(queue, max_items=2, max_bytes=100, when_full="fail")
    put(queue, "large", bytes(101))
    refused(queue.request("queue_put", {"queue": "q", "tensors": "large"}), "too_large")
    ok(queue.request("delete", {"input": "large"}))
    ok(put_text(queue, "a" * 60))
    refused(put_text(queue, "b" * 60, timeout_ms=LONG_MS), "full", text="60 bytes (of 100)")
    ok(put_text(queue, "b"))
    refused(put_text(queue, ""), "full", text="2 items (of 2)")
    held = get(queue)
    ok(put_text(queue, "c"))
    held.release()
    assert info(queue)["items"] == 3  # what comes back is not refused
    assert drain_texts(queue) == ["a" * 60, "b", "c"]


def test_a_queue_that_drops_the_oldest(queue):
    make(queue, max_items=3, max_bytes=100, when_full="drop_oldest")
    for text in "abcde":
        ok(put_text(queue, text))
    assert info(queue)["dropped"] == 2
    ok(put_text(queue, "f" * 99))
    assert drain_texts(queue) == ["e", "f" * 99]


def test_a_queue_that_blocks(daemon, queue):
    make(queue, max_items=1)
    ok(put_text(queue, "first"))
    refused(put_text(queue, "no", timeout_ms=0), "full")
    begun = time.monotonic()
    refused(put_text(queue, "no", timeout_ms=80), "full")
    assert 0.07 < time.monotonic() - begun < 5
    with daemon.connect() as one, daemon.connect() as two:
        first = start_put(one, "one")
        until(queue, waiting_puts=1)
        second = start_put(two, "two")
        until(queue, waiting_puts=2)
        assert one.request("ping")[0] == "ok"  # waiting holds up nothing else
        for text, client, request in (("first", one, first), ("one", two, second)):
            item = get(queue)
            assert item.meta == text
            item.done()
            ok(client.wait(request))
    assert drain_texts(queue) == ["two"]


def test_a_put_whose_client_goes_is_not_put(daemon, queue):
    make(queue, max_items=1)
    ok(put_text(queue, "first"))
    with daemon.connect() as going:
        start_put(going, "never")
        until(queue, waiting_puts=1)
    until(queue, waiting_puts=0)
    assert drain_texts(queue) == ["first"]


# ---- waiting for items ---------------------------------------------------------------------------


def test_deadlines_of_a_get(queue):
    refused(queue.request("queue_get", {"queue": "q", "timeout_ms": 0}), "empty")
    begun = time.monotonic()
    refused(queue.request("queue_get", {"queue": "q", "timeout_ms": 80}), "empty")
    assert 0.07 < time.monotonic() - begun < 5
    without = queue.send("queue_get", {"queue": "q"})
    until(queue, waiting_gets=1)
    ok(put_text(queue, "x"))
    Item(queue, queue.wait(without)).done()


def test_gets_are_served_first_come_first_served(daemon, queue):
    with daemon.connect() as one, daemon.connect() as two, daemon.connect() as three:
        waiting = []
        for n, consumer in enumerate((one, two, three, one)):
            waiting.append((consumer, start_get(consumer)))
            until(queue, waiting_gets=n + 1)
        three.close()  # who gives up is passed over
        until(queue, waiting_gets=3)
        for text in "abc":
            ok(put_text(queue, text))
        texts = []
        for consumer, request in (waiting[0], waiting[1], waiting[3]):
            item = Item(consumer, consumer.wait(request))
            texts.append(item.meta)
            item.done()
        assert texts == ["a", "b", "c"]


def test_a_steady_stream_keeps_nobody_waiting(daemon, queue):
    """Who takes without waiting does not starve those who wait for long."""
    with daemon.connect() as patient:
        request = start_get(patient)
        until(queue, waiting_gets=1)
        for i in range(20):
            ok(put_text(queue, str(i)))
            reply = queue.request("queue_get", {"queue": "q", "timeout_ms": 1})
            if reply[0] == "ok":
                Item(queue, reply).done()
        Item(patient, patient.wait(request)).done()


# ---- coming back ---------------------------------------------------------------------------------


def test_what_is_released_without_ack_goes_back_to_the_front(queue):
    for text in "abc":
        ok(put_text(queue, text))
    first, second = get(queue), get(queue)
    first.release()
    second.release()
    refused(first.ack(), "not_found")
    again = get(queue)
    assert (again.meta, again.number, again.deliveries) == ("a", first.number, 2)
    again.release()
    assert drain_texts(queue) == ["a", "b", "c"]
    assert info(queue)["returned"] == 3


def test_acknowledging(daemon, queue):
    ok(put_text(queue, "a"))
    item = get(queue)
    with daemon.connect() as stranger:
        refused(stranger.request("queue_ack", {"lease": item.lease}), "not_found")
    put(queue, "mapped", bytes(70000))
    mapping = Mapping(queue, "mapped")
    not_an_item = queue.request("queue_ack", {"lease": mapping.reply["lease"]})
    refused(not_an_item, "invalid", text="no item")
    mapping.close()
    ok(queue.request("release", {"lease": mapping.reply["lease"]}))
    ok(queue.request("delete", {"input": "mapped"}))
    ok(item.ack())
    assert item.bytes() == b"a"  # until the lease is released
    refused(item.ack(), "conflict", text="before")
    item.release()
    assert info(queue)["acks"] == 1
    ok(put_text(queue, "b"))
    item = get(queue)
    queue.send("queue_ack", {"lease": item.lease}, flags=plain.ONE_WAY)
    queue.send("release", {"lease": item.lease}, flags=plain.ONE_WAY)
    assert info(queue)["acks"] == 2 and info(queue)["in_flight"] == 0


@pytest.mark.parametrize("end", ["kill", "close"])
def test_the_items_of_a_consumer_that_dies_go_back_to_the_front(daemon, queue, end):
    for text in "abcd":
        ok(put_text(queue, text))
    with Peer(daemon.url) as peer:
        peer.run("r = [c.request('queue_get', {'queue': 'q'}) for _ in range(3)]")
        assert peer.ask("[x[1]['meta'] for x in r]") == ["a", "b", "c"]
        peer.run("ok(c.request('queue_ack', {'lease': r[1][1]['lease']}))")
        assert info(queue)["in_flight"] == 2
        waiting = start_get(queue)
        ok(put_text(queue, "e"))
        first = Item(queue, queue.wait(waiting))
        assert (first.meta, first.deliveries) == ("d", 1)
        peer.kill() if end == "kill" else peer.run("c.close()")
        until(queue, in_flight=1)
    second = get(queue)
    assert (second.meta, second.deliveries) == ("a", 2)
    second.done()
    first.done()
    assert drain_texts(queue) == ["c", "e"]


def test_a_slow_consumer_loses_the_item_and_reads_on(daemon, queue):
    make(queue, visibility_ms=60)
    ok(put_text(queue, "slowly"))
    slow = get(queue)
    with daemon.connect() as quick:
        begun = time.monotonic()
        again = Item(quick, quick.request("queue_get", {"queue": "q", "timeout_ms": LONG_MS}))
        assert time.monotonic() - begun < 5 and again.deliveries == 2
        refused(slow.ack(), "conflict", text="visibility_ms")
        assert slow.bytes() == b"slowly"
        again.done()
        assert slow.bytes() == b"slowly"
        refused(slow.ack(), "conflict")
        slow.release()
    now = info(queue)
    assert (now["expired"], now["returned"], now["acks"], now["items"]) == (1, 0, 1, 0)


def test_an_item_is_parked_after_five_deliveries(queue):
    for text in ("poison", "good"):
        ok(put_text(queue, text))
    for delivery in range(1, 6):
        item = get(queue)
        assert (item.meta, item.deliveries) == ("poison", delivery)
        item.release()
    assert info(queue)["parked"] == 1
    (parked,) = plain.read_list(queue.request("queue_peek", {"queue": "q", "parked": True})[2])
    assert (parked["meta"], parked["deliveries"]) == ("poison", 5)
    assert drain_texts(queue) == ["good"]
    assert ok(queue.request("queue_drain", {"queue": "q", "parked": True}))["count"] == 1
    assert info(queue)["parked"] == 0


def test_peeking_takes_nothing(queue):
    for text in "abc":
        ok(put_text(queue, text))
    for limit, texts in ((1, ["a"]), (5, ["a", "b", "c"])):
        status, fields, body, _ = queue.request("queue_peek", {"queue": "q", "limit": limit})
        assert [entry["meta"] for entry in plain.read_list(body)] == texts
        assert fields["count"] == len(texts)
    refused(queue.request("queue_peek", {"queue": "q", "limit": 0}), "invalid")
    assert info(queue)["items"] == 3 and info(queue)["gets"] == 0


# ---- the end -------------------------------------------------------------------------------------


def test_a_closed_queue_gives_what_it_has(daemon, queue):
    for text in "ab":
        ok(put_text(queue, text))
    ok(queue.request("queue_close", {"queue": "q"}))
    assert info(queue)["closed"] is True
    refused(put_text(queue, "c"), "closed")
    first, second = get(queue), get(queue)
    with daemon.connect() as other:
        waiting = start_get(other)
        until(queue, waiting_gets=1)
        first.release()  # may come back, and does
        Item(other, other.wait(waiting)).done()
        waiting = start_get(other)
        until(queue, waiting_gets=1)
        second.done()
        refused(other.wait(waiting), "closed")
    refused(queue.request("queue_get", {"queue": "q"}), "closed")


def test_closing_when_the_last_item_is_parked(daemon, queue):
    ok(put_text(queue, "poison"))
    for _ in range(4):
        get(queue).release()
    last = get(queue)
    ok(queue.request("queue_close", {"queue": "q"}))
    with daemon.connect() as other:
        waiting = start_get(other)
        until(queue, waiting_gets=1)
        begun = time.monotonic()
        last.release()
        refused(other.wait(waiting), "closed")
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("op", ["queue_close", "queue_delete"])
def test_those_who_wait_are_told_of_the_end(daemon, queue, op):
    make(queue, "full", max_items=1)
    ok(queue.request("queue_put", {"queue": "full", "tensors": "small"}))
    clients = [daemon.connect() for _ in range(4)]
    gets = [(c, start_get(c)) for c in clients[:2]]
    puts = [(c, c.send("queue_put", {"queue": "full", "tensors": "small"})) for c in clients[2:]]
    until(queue, waiting_gets=2)
    while info(queue, "full")["waiting_puts"] < 2:
        time.sleep(0.002)
    for name in ("q", "full"):
        ok(queue.request(op, {"queue": name}))
    for c, request in gets + puts:
        refused(c.wait(request), "closed")
        c.close()


def test_what_is_in_hand_outlives_its_queue(daemon, queue):
    ok(put_text(queue, "in hand"))
    ok(put_text(queue, "waits"))
    item = get(queue)
    ok(queue.request("queue_delete", {"queue": "q"}))
    refused(queue.request("queue_info", {"queue": "q"}), "not_found")
    assert item.bytes() == b"in hand"
    make(queue)  # another one, which has nothing to do with it
    item.release()
    assert info(queue)["items"] == 0


def test_items_outlive_their_producer(daemon, queue):
    with Peer(daemon.url) as peer:
        peer.run("put(c, 'mine', b'of the dead', mutable=True)")
        peer.run("ok(c.request('queue_put', {'queue': 'q', 'tensors': 'mine', 'meta': 'x'}))")
        peer.run("ok(c.request('delete', {'input': 'mine'}))")
        peer.kill()
    item = get(queue)
    assert item.bytes() == b"of the dead"
    item.done()


def test_a_stopping_daemon_answers_those_who_wait():
    with Daemon("--memory-limit", "64MiB") as daemon, daemon.connect() as consumer:
        make(consumer)
        waiting = start_get(consumer)
        until(consumer, waiting_gets=1)
        daemon.signal()
        refused(consumer.wait(waiting), "unavailable")


# ---- quotas, and nothing left behind -------------------------------------------------------------


def test_the_quota_of_bytes_in_queues_is_each_principals_own():
    with Daemon(*SMALL, "--quota-queue-bytes", "150000") as daemon, daemon.connect() as user, \
            plain.PlainClient(daemon.tcp_url) as remote:  # fmt: skip
        make(user)
        with daemon.unchanged():
            for client in (user, remote):
                put(client, "t", bytes(70000))
                fields = {"queue": "q", "tensors": "t"}
                ok(client.request("queue_put", fields))
                ok(client.request("queue_put", fields))
                refused(client.request("queue_put", fields), "out_of_memory", text="in queues")
            item = get(user)
            refused(user.request("queue_put", fields), "out_of_memory")  # in flight it counts
            item.done()
            refused(remote.request("queue_put", fields), "out_of_memory")
            ok(user.request("queue_put", fields))
            assert len(drain_texts(remote)) == 4
            ok(user.request("delete", {"input": "t"}))


@pytest.mark.threads
def test_nothing_is_left_behind(daemon):
    """Of clients that do everything there is, and are killed at it."""
    with daemon.connect() as warm:
        make(warm)
        ok(put_text(warm, "x"))
        get(warm).done()
    daemon.quiet()
    with daemon.unchanged():
        for end in ("kill", "close"):
            with Peer(daemon.url) as one, Peer(daemon.url) as two:
                for peer in (one, two):
                    peer.run("put(c, 't', bytes(70000))")
                    peer.run("f = {'queue': 'q', 'tensors': 'k=t'}")
                    peer.run("for _ in range(9): ok(c.request('queue_put', f))")
                    peer.run("r = [c.request('queue_get', {'queue': 'q'}) for _ in range(5)]")
                    peer.run("m = Mapping(c, '@%d' % plain.read_list(r[0][2])[0]['id'])")
                    peer.run("a = c.request('allocate', {'queue': 'q', 'dtype': 'uint8',"
                             "'shape': [70000]})")  # fmt: skip
                one.run("for _ in range(99): c.send('queue_get', {'queue': 'q'})")
                two.kill() if end == "kill" else two.run("c.close()")
                one.kill()
            with daemon.connect() as client:
                deadline = time.monotonic() + 10
                while info(client)["in_flight"] or info(client)["waiting_gets"]:
                    assert time.monotonic() < deadline, info(client)
                ok(client.request("queue_drain", {"queue": "q"}))
                ok(client.request("queue_drain", {"queue": "q", "parked": True}))
                ok(client.request("delete", {"input": "t"}))
                assert info(client)["segments"] == 0
    with daemon.connect() as client:
        ok(client.request("queue_delete", {"queue": "q"}))
