"""Who saves a prefix while it is loaded anew gets one model or the other, whole."""

import threading

import numpy as np
import pytest
from bundle_files import delete_all, load, npz_file, save
from harness import SMALL, Daemon, all_names, ok, refused
from http_client import Http
from safetensors.numpy import load as read_safetensors

LOADS = 60
LAYERS = 400


def model_of(value, layers=40):
    return {f"layer.{i}.w": np.full(5 + i % 50, value, np.float32) for i in range(layers)}


@pytest.fixture(scope="module")
def daemon():
    with Daemon(*SMALL, "--threads", "4") as running:
        yield running


def run_all(*functions):
    """Each in a thread of its own; raises what any of them raised."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def assert_one_model(body):
    arrays = read_safetensors(body)
    assert len(arrays) == LAYERS
    values = {float(value) for array in arrays.values() for value in np.unique(array)}
    assert len(values) == 1, values
    return values.pop()


@pytest.mark.threads
def test_saves_during_replacing_loads(daemon):
    files = [save(model_of(value, LAYERS)) for value in range(3)]
    files.append(npz_file(model_of(3, LAYERS), True))
    done, seen = threading.Event(), set()

    def loader(first):
        def run():
            try:
                with daemon.connect(timeout=60) as client:
                    for turn in range(LOADS):
                        load(client, files[(first + turn) % len(files)], prefix="m")
            finally:
                done.set()
        return run

    def frame_saver():
        with daemon.connect(timeout=60) as client:
            while not done.is_set():
                seen.add(assert_one_model(client.request("save", {"prefix": "m"})[2]))

    def http_saver():
        with Http(daemon.http_url) as http:
            while not done.is_set():
                answer = http.get("/v1/bundle", prefix="m")
                assert answer.status == 200, answer.body
                seen.add(assert_one_model(answer.body))

    with daemon.connect() as client:
        load(client, files[0], prefix="m")
        run_all(loader(0), loader(2), frame_saver, frame_saver, http_saver)
        assert len(seen) > 1
        delete_all(client)


@pytest.mark.threads
def test_only_one_of_many_creates(daemon):
    """With create_only one load wins; those that have lost left nothing, not even of theirs."""
    outcomes = []

    def creator(value):
        def run():
            mine = model_of(value) | {f"only {value}": np.ones(1, np.float32)}
            with daemon.connect(timeout=60) as client:
                fields = {"prefix": "c", "create_only": True}
                outcomes.append((client.request("load", fields, save(mine))[0], value))
        return run

    with daemon.connect() as client:
        for _ in range(5):
            outcomes.clear()
            run_all(*(creator(value) for value in range(6)))
            ((_, winner),) = [one for one in outcomes if one[0] == "ok"]
            assert {status for status, value in outcomes if value != winner} == {"exists"}
            names = {entry["name"] for entry in all_names(client, prefix="c/")}
            assert names == {f"c/{name}" for name in model_of(0)} | {f"c/only {winner}"}
            delete_all(client)


@pytest.mark.threads
def test_watchers_see_every_name(daemon):
    """A publish of many names is an event for each, in their order."""
    with daemon.connect(timeout=60) as client:
        since = ok(client.request("watch", {"timeout_ms": 0}))["since"]
        load(client, save(model_of(1)), prefix="w")
        reply = client.request("watch", {"since": since, "prefix": "w/"})
        assert ok(reply)["count"] == 40
        delete_all(client)


@pytest.mark.threads
def test_a_quota_that_others_take_meanwhile():
    with Daemon(*SMALL, "--quota-names", "100") as daemon:
        statuses = []

        def loader(name):
            def run():
                with daemon.connect(timeout=60) as client:
                    statuses.append(client.request("load", {"prefix": name}, save(model_of(1)))[0])
            return run

        run_all(*(loader(f"p{i}") for i in range(6)))
        assert sorted(statuses) == ["ok"] * 2 + ["out_of_memory"] * 4
        with daemon.connect() as client:
            assert len(all_names(client)) == 80
            refused(client.request("load", {"prefix": "q"}, save(model_of(1))), "out_of_memory")
            delete_all(client)
