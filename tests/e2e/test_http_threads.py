"""Many clients at once, over HTTP: every answer is right, and nothing is left. Also run against the
daemon of the thread sanitizer."""

import json
import random
import socket
import threading

import numpy as np
import pytest
from harness import SMALL, Daemon
from http_client import Http

pytestmark = pytest.mark.threads
CLIENTS, ROUNDS = 12, 40


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL, "--http-threads", "2", "--threads", "3") as running:
        yield running


def together(work):
    """Runs work(i) in a thread each, and raises what one of them raised."""
    failures = []

    def guarded(i):
        try:
            work(i)
        except BaseException as error:  # noqa: B036
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a client got no answer"
    if failures:
        raise failures[0]


def test_a_mixture(daemon):
    def work(i):
        dice = random.Random(i)
        values = np.arange(40000, dtype="f4") + i
        with Http(daemon.http_url) as http:
            for _ in range(ROUNDS):
                what = dice.randrange(7)
                if what == 0:
                    assert http.put(f"mine/{i}", values).status in (200, 201)
                    assert np.array_equal(http.tensor(f"mine/{i}", format="npy").array, values)
                elif what == 1:
                    shared = {
                        "data": [i] * 3000,
                        "dtype": "int32",
                        "shape": [3000],
                        "mutable": True,
                    }
                    assert http.put("ours", shared).status in (200, 201)
                elif what == 2:
                    got = http.tensor("ours", values=1)
                    assert got.status == 404 or len(set(got.json["data"])) == 1
                elif what == 3:
                    made = http.op("randn", shape=[200, 300], dtype="float64")
                    name = made.json["name"]
                    cast = http.tensor(name, format="raw", dtype="float16", index="::2")
                    assert len(cast.body) == 100 * 300 * 2
                    assert http.send("DELETE", f"/v1/tensors/{name}").status == 204
                elif what == 4:
                    operations = [
                        {"op": "zeros", "shape": [100000]},
                        {"op": "add", "input": "@[0]", "value": i},
                        {"op": "clone", "input": "@[1]", "output": f"batch/{i}"},
                    ]
                    body = json.dumps({"operations": operations})
                    done = http.send(
                        "POST", "/v1/batch", body, {"Content-Type": "application/json"}
                    )
                    assert all("code" not in result for result in done.json["results"])
                    assert http.tensor(f"batch/{i}", index="99999", values=1).json["data"] == i
                elif what == 5:
                    assert http.get("/v1/tensors", limit=5).status == 200
                    assert http.op("info", input="ours").status in (200, 404)
                else:
                    http.send("DELETE", "/v1/tensors/ours")

    together(work)


def test_waits_and_watches_while_names_come_and_go(daemon):
    def work(i):
        with Http(daemon.http_url) as http:
            for turn in range(ROUNDS // 2):
                name = f"turn/{turn}/{i // 2}"
                if i % 2:
                    assert http.tensor(name, wait="30s").status == 200
                else:
                    assert http.put(name, [turn]).status == 201

    seen = []
    with Http(daemon.http_url) as watcher:
        watcher.connection.request("GET", "/v1/watch?prefix=turn/&since=0")
        response = watcher.connection.getresponse()

        def watch():
            while len(seen) < CLIENTS // 2 * (ROUNDS // 2):
                line = response.fp.readline()
                if line.startswith(b"data:") or b"data:" in line:
                    seen.append(json.loads(line[line.index(b"data:") + 5 :])["name"])

        thread = threading.Thread(target=watch)
        thread.start()
        together(work)
        thread.join(60)
        assert not thread.is_alive(), len(seen)
    assert sorted(seen) == sorted(
        f"turn/{t}/{i}" for t in range(ROUNDS // 2) for i in range(CLIENTS // 2)
    )


def test_clients_that_hang_up_anywhere(daemon):
    with Http(daemon.http_url) as http:
        http.op("zeros", shape=[1 << 20], output="big")
    requests = [
        b"GET /v1/tensors/big?format=raw HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/tensors/big?format=raw&dtype=float64 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/tensors/big?values=true HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/tensors/never?wait=60s HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PUT /v1/tensors/x?dtype=float32&shape=1000000 HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: 4000000\r\n\r\n" + bytes(100000),
        b"POST /v1/ops/randn HTTP/1.1\r\n"
        b'Host: localhost\r\nContent-Length: 20\r\n\r\n{"shape": [1000000]}',
    ]

    def work(i):
        dice = random.Random(i)
        for _ in range(ROUNDS // 2):
            with socket.create_connection(
                daemon.http_url.removeprefix("http://").split(":"), timeout=30
            ) as gone:
                gone.sendall(dice.choice(requests))
                if dice.random() < 0.5:
                    gone.settimeout(0.02)
                    try:
                        gone.recv(dice.choice([1, 1000, 100000]))
                    except TimeoutError:
                        pass

    together(work)
    with Http(daemon.http_url) as http:
        assert http.get("/livez").status == 200
        http.send("DELETE", "/v1/tensors/big")
