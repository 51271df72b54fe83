"""tensorctl: leases, principals and seal."""

import os
import re

import numpy as np
import pytest
from test_tensorctl import ctl  # noqa: F401
from test_tensorctl_terminal import show

ME = f"uid:{os.getuid()}"


@pytest.fixture
def held(client):
    """A read, a write and a fill lease, of memory of 800000, 80 and 400000 bytes."""
    frozen = client.put("held/frozen", np.zeros(100_000)).numpy()
    mutable = client.put("held/mutable", np.zeros(10), mutable=True).numpy()
    memory = client.allocate(100_000)
    yield frozen, mutable, memory


def test_leases(ctl, client, held):
    del client["held/frozen"]
    rows = [line.split("\t") for line in ctl.text("leases", "--bytes").splitlines()]
    assert [row[1] for row in rows] == ["read", "write", "fill"]
    assert [row[6] for row in rows] == ["frozen deleted", "mutable", "building"]
    for row in rows:
        assert row[2:4] == [ME, str(os.getpid())] and re.fullmatch(r"\d+\.\ds|\d+s", row[8])
    assert int(rows[0][7]) >= 800_000 and "KiB" in ctl.text("leases").splitlines()[0]
    documents = ctl.json("leases")
    assert [int(row[0]) for row in rows] == [document["lease"] for document in documents]
    assert [document["kind"] for document in documents] == ["read", "write", "fill"]
    assert documents[0]["text"] == "deleted" and documents[0]["uid"] == os.getuid()


def test_leases_on_a_terminal(ctl, client, held):
    head, *rows = show(ctl, "leases", "--no-color").splitlines()
    assert head.split() == ["LEASE", "KIND", "PRINCIPAL", "PID", "SESSION", "STORAGE", "MODE",
                            "SIZE", "AGE"]  # fmt: skip
    assert len(rows) == 3 and all(ME in row for row in rows)
    assert "\t" not in head and len({len(row.rstrip()) for row in rows}) == 1  # right-aligned


def test_nobody_holds_anything(ctl):
    assert ctl.text("leases") == "" and ctl.json("leases") == []


def test_more_leases_than_a_page(ctl, client):
    x = client.put("many", np.zeros(100_000), mutable=True)
    arrays = [x.numpy() for _ in range(1200)]
    assert len(ctl.text("leases").splitlines()) == len(ctl.json("leases")) == len(arrays)


def test_principals(ctl, client, held):
    rows = {tuple(line.split("\t")[:2]): line.split("\t")[2:]
            for line in ctl.text("principals", "-b").splitlines()}  # fmt: skip
    assert rows[ME, "leases"][0] == "3" and int(rows[ME, "leases"][1]) > 3
    assert int(rows[ME, "bytes"][0]) >= 1_200_080 and rows[ME, "deleted_bytes"] == ["0", ""]
    assert re.search(rf"{ME}\tbytes\t[\d.]+ MiB\t[\d.]+ GiB\n", ctl.text("principals"))
    documents = {(d["principal"], d["name"]): d for d in ctl.json("principals")}
    assert documents[ME, "leases"]["count"] == 3
    assert "limit" not in documents[ME, "deleted_bytes"]
    assert show(ctl, "principals", "--no-color").split()[:4] == ["PRINCIPAL", "QUOTA", "USED",
                                                                 "LIMIT"]  # fmt: skip


def test_seal(ctl, client):
    for name in ("a", "b"):
        client.put(f"seal/{name}", np.zeros(100_000), mutable=True)
    done = ctl("seal", "seal/a", "seal/b")
    assert done.stdout == b"" and done.stderr.decode() == "seal/a is frozen\nseal/b is frozen\n"
    assert client["seal/a"].mode == client["seal/b"].mode == "frozen"
    x = client.put("seal/c", np.zeros(100_000), mutable=True)
    array = x.numpy()
    done = ctl("seal", "seal/c", "--wait", "50ms")
    assert "seal/c is a frozen copy" in done.stderr.decode()
    array[0] = 1
    assert client["seal/c"].mode == "frozen" and client["seal/c"][0].item() == 0
    (document,) = ctl.json("seal", "seal/c")
    assert (document["memory"], document["mode"]) == ("shared", "frozen")
    assert ctl("seal", "seal/c", "-q").stderr == b""
    assert "seal/none" in ctl.refuses("seal", "seal/none", code=3)

