"""Leases: who has what mapped, for how long, and who pays for what is deleted."""

import hashlib
import os
import time

import pytest
from harness import (OPEN, OTHER_UID, SMALL, UNKNOWN_UID, Daemon, Filling, Mapping, Peer, as_root,
                     daemon, eventually, leases, local, ok, principals, put,  # noqa: F401
                     read_entries, refused, used)  # fmt: skip

SIZE = 300000  # bytes of a tensor; a memfd from the start
MANY = 1000
# All is let go within a second; sanitizers may take longer.
GONE_S = 10 if any(s in os.environ.get("TENSORD_BIN", "") for s in ("asan", "tsan")) else 1


@pytest.fixture(scope="module")
def open_daemon():
    with Daemon(*SMALL, *OPEN) as running:
        yield running


@pytest.fixture
def opened(open_daemon):
    with open_daemon.connect() as connected:
        yield connected
    open_daemon.quiet()


def test_a_lease_says_who_and_what(local):
    begun = time.monotonic()
    put(local, "says", bytes(SIZE))
    put(local, "writes", bytes(SIZE), mutable=True)
    read, write = Mapping(local, "says"), Mapping(local, "writes", write=True)
    filled = Filling(local, [SIZE])
    found = leases(local)
    assert [lease["kind"] for lease in found] == ["read", "write", "fill"]
    assert [lease["mode"] for lease in found] == ["frozen", "mutable", "building"]
    for lease, mapping in zip(found, (read, write, filled)):
        assert lease["lease"] == mapping.reply["lease"]
        assert lease["storage"] == mapping.reply["storage"]
        assert lease["nbytes"] >= mapping.reply["storage_bytes"] >= SIZE
        assert lease["pid"] == os.getpid() and lease["uid"] == os.getuid()
        assert lease["principal"] == f"uid:{os.getuid()}"
        assert lease["session"] == local.welcome["session"]
        assert lease["age_ms"] <= (time.monotonic() - begun) * 1000 + 1
        assert "ttl_ms" not in lease and "text" not in lease
    for mapping in (read, write, filled):
        ok(local.request("release", {"lease": mapping.reply["lease"]}))
        mapping.close()
    assert leases(local) == []
    ok(local.request("delete", {"input": "says"}))
    ok(local.request("delete", {"input": "writes"}))


def test_published_memory_is_not_filled_any_more(local):
    for mode, kind in [("frozen", "read"), ("single-writer", "write"), ("mutable", "write")]:
        filled = Filling(local, [SIZE])
        if mode == "frozen":
            filled.unmap()
        ok(filled.publish("done", mode=mode))
        (lease,) = leases(local)
        assert (lease["kind"], lease["mode"]) == (kind, mode)
        ok(local.request("release", {"lease": lease["lease"]}))
        filled.close()
    ok(local.request("release", {"force": True}))
    ok(local.request("delete", {"input": "done"}))


def test_leases_come_in_pages(local):
    put(local, "paged", bytes(SIZE))
    fields, taken = {"input": "paged"}, []
    for _ in range(25):
        status, reply, _, fds = local.request("map", fields)
        taken.append(reply["lease"])
        fields = {"input": "paged", "known_storage": reply["storage"]}
        for fd in fds:
            os.close(fd)
    found, after = [], {}
    for size in (10, 10, 5):
        reply = local.request("leases", {"limit": 10, **after})
        page = read_entries(reply)
        assert len(page) == size and reply[1]["count"] == 25
        found += page
        after = {"lease": reply[1].get("lease")}
    assert after == {"lease": None}
    assert [lease["lease"] for lease in found] == taken
    refused(local.request("leases", {"limit": 0}), "invalid", text="limit")
    assert read_entries(local.request("leases", {"lease": 2**64 - 1})) == []
    ok(local.request("delete", {"input": "paged"}))


@pytest.mark.threads
@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_thousand_leases_end_within_a_second(daemon, local, end):
    put(local, "many", bytes(SIZE), mutable=True)
    ok(local.request("map", {"input": "many"}))  # opens its descriptors, once
    local.close()
    daemon.quiet()
    before = daemon.state()
    with Peer(daemon.url) as peer:
        peer.run(f"""
for i in range({MANY}):
    status, reply, _, fds = c.request('map', dict({{'input': 'many'}}, **(
        {{'known_storage': storage}} if i else {{}})))
    storage = ok((status, reply, _, fds))['storage']
    c.request('zeros', {{'shape': [100]}})
""")
        assert daemon.stats()["leases"] == MANY and daemon.stats()["objects"] == MANY
        begun = time.monotonic()
        peer.kill() if end == "kill" else peer.run("c.close()")
        eventually(lambda: daemon.stats()["leases"] == 0, "no leases are left", GONE_S)
        print(f"{MANY} leases ended {time.monotonic() - begun:.3f} s after {end}")
    daemon.settle(before)
    with daemon.connect() as again:
        ok(again.request("delete", {"input": "many"}))


@pytest.mark.parametrize("how", ["delete", "replace", "rename over", "expire"])
def test_what_is_mapped_outlives_its_name(daemon, how):
    with daemon.unchanged():
        with daemon.connect() as client, Peer(daemon.url) as peer:
            body = os.urandom(SIZE)
            put(client, "old", body)
            peer.run("m = Mapping(c, 'old')")
            me = f"uid:{os.getuid()}"
            assert used(client, me, "bytes") == SIZE and used(client, me, "deleted_bytes") == 0
            if how == "delete":
                ok(client.request("delete", {"input": "old"}))
            elif how == "replace":
                put(client, "old", b"new")
            elif how == "rename over":
                put(client, "new", b"new")
                ok(client.request("rename", {"input": "new", "output": "old"}))
            else:
                ok(client.request("expire", {"input": "old", "ttl_ms": 1}))
                eventually(lambda: client.request("info", {"input": "old"})[0] == "not_found",
                           "the name is gone")  # fmt: skip
            eventually(lambda: used(client, me, "deleted_bytes") == SIZE, "it is deleted")
            (lease,) = leases(client)
            assert lease["text"] == "deleted"
            assert peer.ask("hashlib.sha256(m.view[:300000]).hexdigest()") == digest(body)
            peer.run("ok(c.request('release', {'lease': m.reply['lease']}))")
            assert used(client, me, "deleted_bytes") == 0
            assert used(client, me, "bytes") == (3 if how in ("replace", "rename over") else 0)
            client.request("delete", {"input": "old"})


def digest(body):
    return hashlib.sha256(body).hexdigest()


def test_a_lease_with_a_time_to_live(daemon):
    with daemon.unchanged():
        with daemon.connect() as client:
            put(client, "timed", bytes(SIZE))
            status, reply, _, (fd,) = client.request("map", {"input": "timed", "ttl_ms": 300})
            os.close(fd)
            (lease,) = leases(client)
            assert 0 < lease["ttl_ms"] <= 300 and lease["lease"] == reply["lease"]
            forever = Mapping(client, "timed")
            took = eventually(lambda: len(leases(client)) == 1, "it has expired")
            assert took > 0.2
            refused(client.request("release", {"lease": reply["lease"]}), "not_found")
            assert leases(client)[0]["lease"] == forever.reply["lease"]
            forever.close()
            refused(client.request("map", {"input": "timed", "ttl_ms": 0}), "invalid",
                    text="time to live")  # fmt: skip
            ok(client.request("delete", {"input": "timed"}))


def test_releasing_everything_keeps_the_leases(daemon):
    with daemon.unchanged():
        with daemon.connect() as client:
            put(client, "kept", bytes(SIZE))
            mapping = Mapping(client, "kept")
            filled = Filling(client, [SIZE])
            ok(client.request("zeros", {"shape": [10]}))
            ok(client.request("release", {"force": True}))
            assert daemon.stats()["objects"] == 0 and len(leases(client)) == 2
            refused(filled.publish("x"), "not_found")
            filled.close()
            mapping.close()
            ok(client.request("delete", {"input": "kept"}))


# ---- who pays for what is deleted ----------------------------------------------------------------


@as_root
def test_who_holds_deleted_memory_pays_for_it(open_daemon, opened):
    me, other = "uid:0", f"uid:{OTHER_UID}"
    with Peer(open_daemon.url, OTHER_UID) as peer:
        put(opened, "theirs", bytes(SIZE))
        peer.run("m = Mapping(c, 'theirs')")
        assert used(opened, me, "bytes") == SIZE and used(opened, other, "bytes") == 0
        assert used(opened, me, "descriptors") == 1 and used(opened, other, "descriptors") == 0
        ok(opened.request("delete", {"input": "theirs"}))
        assert used(opened, me, "bytes") == 0 and used(opened, me, "deleted_bytes") == 0
        assert used(opened, other, "bytes") == used(opened, other, "deleted_bytes") == SIZE
        assert used(opened, me, "descriptors") == 0 and used(opened, other, "descriptors") == 1
        peer.kill()
        eventually(lambda: used(opened, other, "deleted_bytes") == 0, "it is free")
    assert used(opened, other, "bytes") == 0


@as_root
def test_a_name_takes_the_cost_of_deleted_memory_back(open_daemon, opened):
    me, other = "uid:0", f"uid:{OTHER_UID}"
    with Peer(open_daemon.url, OTHER_UID) as peer:
        put(opened, "back", bytes(SIZE))
        held = ok(opened.request("as_tensor", {"input": "back"}))
        peer.run("m = Mapping(c, 'back')")
        ok(opened.request("delete", {"input": "back"}))
        assert used(opened, me, "deleted_bytes") == used(opened, other, "deleted_bytes") == SIZE
        ok(opened.request("as_tensor", {"input": f"@{held['id']}", "output": "back"}))
        assert used(opened, me, "deleted_bytes") == used(opened, other, "deleted_bytes") == 0
        assert used(opened, me, "bytes") == SIZE and used(opened, other, "bytes") == 0
        ok(opened.request("release", {"input": f"@{held['id']}"}))
    eventually(lambda: leases(opened) == [], "the other one is gone")
    ok(opened.request("delete", {"input": "back"}))
    assert used(opened, me, "bytes") == used(opened, me, "descriptors") == 0


@as_root
def test_the_user_that_the_kernel_cannot_name_sees_its_own(open_daemon, opened):
    put(opened, "seen", bytes(SIZE))
    mapping = Mapping(opened, "seen")
    with Peer(open_daemon.url, UNKNOWN_UID) as unknown, Peer(open_daemon.url, OTHER_UID) as peer:
        assert unknown.ask("leases(c)") == [] and len(peer.ask("leases(c)")) == 1
        unknown.run("m = Mapping(c, 'seen')")
        (own,) = unknown.ask("leases(c)")
        assert own["principal"] == f"uid:{UNKNOWN_UID}" and own["uid"] == UNKNOWN_UID
        assert unknown.ask("c.request('leases')[1]['count']") == 1
        assert set(unknown.ask("principals(c)")) == {f"uid:{UNKNOWN_UID}"}
        assert len(leases(opened)) == 2
        everybody = peer.ask("principals(c)")
    assert {"uid:0", f"uid:{OTHER_UID}", f"uid:{UNKNOWN_UID}", "tcp"} <= set(everybody)
    trusted, half = everybody["uid:0"], everybody[f"uid:{UNKNOWN_UID}"]
    for quota, (_, limit) in trusted.items():
        if quota != "deleted_bytes":
            assert half[quota][1] == limit // 2 > 0
    mapping.close()
    ok(opened.request("delete", {"input": "seen"}))


@as_root
def test_principals_go_when_they_hold_nothing(open_daemon, opened):
    with Peer(open_daemon.url, 4321) as peer:
        peer.run("put(c, 'mine', bytes(100))")
        assert "uid:4321" in principals(opened)
    eventually(lambda: principals(opened)["uid:4321"]["connections"][0] == 0, "it is gone")
    assert used(opened, "uid:4321", "bytes") == 100 and used(opened, "uid:4321", "names") == 1
    ok(opened.request("delete", {"input": "mine"}))
    eventually(lambda: "uid:4321" not in principals(opened), "it is forgotten")
