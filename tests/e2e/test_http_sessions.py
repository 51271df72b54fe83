"""Sessions over HTTP: they hold results without a name, and end by not being used."""

import json
import re
import time

import pytest
from harness import SMALL, Daemon, eventually, put
from http_client import Http

TTL_S = 1
MAX = 4
KEY = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL, "--session-ttl-ms", int(TTL_S * 1000), "--http-sessions", MAX) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(daemon):
    """Around each test: every session has ended, and let go what it held."""
    told.clear()
    yield
    for key in set(told):
        assert ask(daemon, "DELETE", "/v1/session", tensord_session=key).status in (204, 404)
    stats = daemon.stats()
    assert (stats["sessions"], stats["objects"]) == (1, 0)


told = []  # keys, by the daemon


def ask(daemon, method, target, value=None, **headers):
    body = None if value is None else json.dumps(value)
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    with Http(daemon.http_url) as http:
        answer = http.send(method, target, body, given)
    answer.key = answer.headers["Tensord-Session"]  # of the session that the answer tells of
    told.extend([answer.key] if answer.key else [])
    return answer


def open_session(daemon):
    answer = ask(daemon, "POST", "/v1/session")
    assert answer.status == 201, answer.body
    return answer.json["session"]


def zeros(daemon, **headers):
    return ask(daemon, "POST", "/v1/ops/zeros", {"shape": [2]}, **headers)


def test_opening_and_ending(daemon):
    answer = ask(daemon, "POST", "/v1/session")
    assert answer.status == 201 and re.fullmatch("[0-9a-f]{32}", answer.key)
    assert answer.json == {"session": answer.key, "ttl_seconds": TTL_S}
    cookie = answer.headers["Set-Cookie"]
    assert cookie == f"tensord-session={answer.key}; Path=/v1; HttpOnly; SameSite=Strict"
    assert daemon.stats()["sessions"] == 2
    ended = ask(daemon, "DELETE", "/v1/session", tensord_session=answer.key)
    assert (ended.status, ended.body) == (204, b"")
    assert daemon.stats()["sessions"] == 1
    again = ask(daemon, "DELETE", "/v1/session", tensord_session=answer.key)
    assert again.status == 404 and "ask again without a session" in again.json["detail"]
    assert ask(daemon, "POST", "/v1/session", {}).status == 400  # takes no body


def test_a_result_without_a_name_opens_one(daemon):
    made = zeros(daemon)
    assert made.status == 200 and re.fullmatch("@[0-9]+", made.json["name"])
    assert made.key and made.key in made.headers["Set-Cookie"]
    at = f"/v1/tensors/{made.json['name']}"
    for headers in ({"tensord_session": made.key}, {"cookie": f"tensord-session={made.key}"},
                    {"cookie": f"other=1; tensord-session={made.key}"}):  # fmt: skip
        found = ask(daemon, "GET", at, **headers)
        assert found.status == 200 and found.json["shape"] == [2]
        assert found.key is None  # it is told once
    assert ask(daemon, "GET", at).status == 404
    other = open_session(daemon)
    assert ask(daemon, "GET", at, tensord_session=other).status == 404
    more = zeros(daemon, tensord_session=other)
    assert more.status == 200 and more.key is None
    ask(daemon, "DELETE", "/v1/session", tensord_session=made.key)
    assert ask(daemon, "GET", at, tensord_session=made.key).status == 404
    at = f"/v1/tensors/{more.json['name']}"
    assert ask(daemon, "GET", at, tensord_session=other).status == 200


def test_the_header_goes_before_the_cookie(daemon):
    first, second = open_session(daemon), open_session(daemon)
    made = zeros(daemon, tensord_session=first, cookie=f"tensord-session={second}")
    assert made.status == 200
    at = f"/v1/tensors/{made.json['name']}"
    assert ask(daemon, "GET", at, tensord_session=second).status == 404
    assert ask(daemon, "GET", at, tensord_session=first).status == 200


@pytest.mark.parametrize("key", ["", "x", KEY[1:], KEY + "0", KEY.upper(), "g" * 32])
@pytest.mark.parametrize("header", ["tensord_session", "cookie"])
def test_keys_that_are_none(daemon, key, header):
    if header == "cookie":
        key = f"tensord-session={key}"
    for answer in (zeros(daemon, **{header: key}),
                   ask(daemon, "DELETE", "/v1/session", **{header: key})):  # fmt: skip
        assert answer.status == 400 and answer.code == "invalid"
        assert "32 hexadecimal digits" in answer.json["detail"]


def test_keys_of_nobody(daemon):
    for answer in (zeros(daemon, tensord_session=KEY),
                   ask(daemon, "DELETE", "/v1/session", tensord_session=KEY)):  # fmt: skip
        assert answer.status == 404
        assert f"unused for {TTL_S:g} s" in answer.json["detail"]
    assert ask(daemon, "DELETE", "/v1/session").status == 400  # which one?


def test_ends_when_it_is_not_used(daemon):
    made = zeros(daemon)
    assert daemon.stats()["objects"] == 1
    eventually(lambda: daemon.stats()["sessions"] == 1, "one is left")
    assert daemon.stats()["objects"] == 0
    answer = zeros(daemon, tensord_session=made.key)
    assert answer.status == 404 and "has ended" in answer.json["detail"]


def test_use_keeps_it(daemon):
    made = zeros(daemon)
    at = f"/v1/tensors/{made.json['name']}"
    begin = time.monotonic()
    while time.monotonic() - begin < 2.5 * TTL_S:
        assert ask(daemon, "GET", at, tensord_session=made.key).status == 200
        time.sleep(TTL_S / 10)


def test_a_request_under_way_keeps_it(daemon):
    made = zeros(daemon)
    waited = ask(daemon, "GET", f"/v1/tensors/never?wait={int(2.5 * TTL_S * 1000)}",
                 tensord_session=made.key)  # fmt: skip
    assert waited.status == 404
    at = f"/v1/tensors/{made.json['name']}"
    assert ask(daemon, "GET", at, tensord_session=made.key).status == 200


def test_an_ended_session_does_not_wait(daemon):
    with daemon.connect() as client:
        put(client, "there", b"1")
    eventually(lambda: daemon.stats()["sessions"] == 1, "the client's own has ended")
    for name in ("never", "there"):
        answer = ask(daemon, "GET", f"/v1/tensors/{name}?wait=20s", tensord_session=KEY)
        assert answer.status == 404 and "the session has ended" in answer.json["detail"]


def test_there_are_only_so_many(daemon):
    keys = [open_session(daemon) for _ in range(MAX)]
    for answer in (ask(daemon, "POST", "/v1/session"), zeros(daemon)):
        assert answer.status == 503 and answer.code == "unavailable"
        assert answer.headers["Retry-After"] == "1" and answer.key is None
        assert f"{MAX} sessions are open" in answer.json["detail"]
    assert zeros(daemon, tensord_session=keys[0]).status == 200
    assert ask(daemon, "DELETE", "/v1/session", tensord_session=keys[1]).status == 204
    assert zeros(daemon).status == 200
    eventually(lambda: daemon.stats()["sessions"] == 1, "one is left")
    assert zeros(daemon).status == 200


def test_stopping_ends_them():
    with Daemon(*SMALL) as daemon:
        for _ in range(3):
            assert zeros(daemon).status == 200
        assert daemon.stats()["objects"] == 3


def test_sealing_a_name_opens_no_session(daemon):
    with daemon.connect() as client:
        put(client, "sealed", b"x", mutable=True)
        for _ in range(MAX + 1):
            answer = ask(daemon, "POST", "/v1/ops/seal", {"input": "sealed"})
            assert answer.status == 200 and not answer.key
        client.request("delete", {"input": "sealed"})
    eventually(lambda: daemon.stats()["sessions"] == 1, "the client's own has ended")
