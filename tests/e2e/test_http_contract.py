"""The HTTP door keeps to its contract, proto/openapi.json, and the contract leaves nothing out.

The tables of the product are walked both ways, the contract's examples are run, and Schemathesis
makes requests from the contract, valid and invalid ones, and checks every answer against it. The
daemon has a token, so that every refusal without it is checked too. `TENSORD_TESTS_FULL` asks for
more requests.
"""

import io
import json
import os
import pathlib
import re
import subprocess
import time
import zlib
from http.cookiejar import DefaultCookiePolicy

import numpy as np
import pytest
import requests
import safetensors.numpy
import schemathesis
from harness import ROOT, Daemon, binary
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

CONTRACT = ROOT / "proto/openapi.json"
DOCUMENT = json.loads(CONTRACT.read_text())
FULL = bool(os.environ.get("TENSORD_TESTS_FULL"))
TOKEN = "the-token-of-the-contract-tests-0123456789"
ANSWER_S = 30
METHODS = ("get", "put", "post", "delete")
OPS = {path.rsplit("/", 1)[1]: item["post"] for path, item in DOCUMENT["paths"].items()
       if path.startswith("/v1/ops/")}  # fmt: skip
# The tensors that the examples are about.
TENSORS = {
    "x": {"dtype": "float32", "shape": [2, 3], "data": [[1, 2, 3], [4, 5, 6]]},
    "y": {"dtype": "float32", "data": [[1, 2, 3], [4, 5, 6]], "mutable": True},
    "v": {"dtype": "float32", "data": [[1, 2, 3], [4, 5, 6]], "requires_grad": True},
    "s": {"dtype": "int64", "data": 7},
    "old": {"data": [True, False]},
}


class Door:
    """A client of the daemon, with its token and a session."""

    def __init__(self, url):
        self.url = url
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.token = {"Authorization": f"Bearer {TOKEN}"}
        self.headers = self.token

    def ask(self, method, path, **more):
        more.setdefault("headers", self.headers)
        return self.http.request(method, self.url + path, timeout=ANSWER_S, **more)

    def renew(self):
        """Nothing but TENSORS is stored, and a new session has one object."""
        self.ask("DELETE", "/v1/session")
        while names := self.ask("GET", "/v1/tensors", headers=self.token).json()["entries"]:
            gone = [{"op": "delete", "input": entry["name"]} for entry in names]
            self.ask("POST", "/v1/batch", json=gone, headers=self.token)
        key = self.ask("POST", "/v1/session", headers=self.token).json()["session"]
        self.headers = {**self.token, "Tensord-Session": key}
        for name, tensor in TENSORS.items():
            answer = self.ask("PUT", f"/v1/tensors/{name}", json=tensor)
            assert answer.status_code == 201, answer.text
        self.ask("POST", "/v1/ops/set_grad", json={"input": "v", "other": "x"})
        self.object = self.ask("POST", "/v1/ops/eye", json={"shape": [3]}).json()["name"]


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    token_file = tmp_path_factory.mktemp("contract") / "token"
    token_file.write_text(TOKEN + "\n")
    token_file.chmod(0o600)
    with Daemon("--memory-limit", "64MiB", "--token-file", token_file) as daemon:
        opened = Door(daemon.http_url)
        opened.daemon = daemon
        yield opened
        opened.http.close()


@pytest.fixture
def fresh(door):
    door.renew()
    return door


# ---- the contract itself -------------------------------------------------------------------------


def test_contract_is_valid():
    from openapi_spec_validator import OpenAPIV31SpecValidator, validate

    validate(DOCUMENT, cls=OpenAPIV31SpecValidator)


def test_daemon_serves_the_contract(door):
    answer = door.ask("GET", "/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.content == CONTRACT.read_bytes(), "the daemon was built from another contract"


def tables(name):
    program = pathlib.Path(binary()).parent / "tests/tools/tables"
    if not program.exists():
        pytest.skip(f"no tables: build {program}")
    return json.loads(subprocess.run([program, "json", name], check=True, capture_output=True).stdout)


def resolve(schema):
    while "$ref" in schema:
        node = DOCUMENT
        for part in schema["$ref"].split("/")[1:]:
            node = node[part]
        schema = node
    return schema


def is_answered(door, method, path):
    """Whether there is something at an address; what it says to an empty request is another matter."""
    answer = door.ask(method, path, stream=True)
    answer.close()
    if answer.status_code == 405:
        return False
    missing = answer.status_code == 404 and answer.json()["detail"]
    return not (missing and ("there is nothing at" in missing or "there is no operation" in missing))


def test_every_operation_is_in_the_contract(fresh):
    entries = fresh.ask("GET", "/v1/ops").json()["entries"]
    assert sorted(OPS) == sorted(entry["name"] for entry in entries)
    for entry in entries:
        operation, path = OPS[entry["name"]], "/v1/ops/" + entry["name"]
        body = operation["requestBody"]["content"].get("application/json", {}).get("schema")
        if body and "properties" in body:
            fields, required = list(body["properties"]), body["required"]
            assert required == entry["required"], path
        else:  # elements come as the body, what describes them in the query
            fields = [resolve(parameter)["name"] for parameter in operation.get("parameters", [])]
        assert sorted(fields) == sorted(entry["required"] + entry["optional"]), path
        assert is_answered(fresh, "POST", path), path


def test_every_route_is_in_the_contract(fresh):
    for route in tables("routes"):
        if route["path"] == "/v1/ops/{name}":
            continue
        operation = DOCUMENT["paths"][route["path"]][route["method"].lower()]
        queries = [resolve(parameter) for parameter in operation.get("parameters", [])]
        names = [query["name"] for query in queries if query["in"] == "query"]
        assert names == route["params"], route["path"]
        assert operation["summary"] == route["doc"]
        assert ("requestBody" in operation) == route["body"]
        assert (operation.get("security") == []) == route["open"]


def test_everything_in_the_contract_is_answered(fresh):
    for path, item in DOCUMENT["paths"].items():
        address = path.replace("{name}", "x")
        allowed = {method.upper() for method in item} | {"OPTIONS"}
        allowed |= {"HEAD"} if "get" in item else set()
        for method in METHODS:
            assert is_answered(fresh, method.upper(), address) == (method in item), (method, path)
        for method in ("PATCH", "OPTIONS"):
            answer = fresh.ask(method, address)
            assert answer.status_code == (405 if method == "PATCH" else 204)
            assert set(answer.headers["Allow"].split(", ")) == allowed, path


def test_parameters_of_the_contract_are_known(fresh):
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            for parameter in map(resolve, operation.get("parameters", [])):
                if parameter["in"] != "query" or path == "/v1/watch":
                    continue
                address = path.replace("{name}", "x")
                answer = fresh.ask(method.upper(), address, params={parameter["name"]: "?"})
                problem = answer.json() if answer.status_code >= 400 else {}
                assert "takes no parameter" not in problem.get("detail", ""), (path, parameter)


# What examples of operations are answered with where it is no success.
BODIES = ("put", "tensor", "from_numpy")
NOT_HERE = {"cuda": (422, "no_device"), "release": (404, "not_found")}


@pytest.mark.parametrize("name", OPS)
def test_example_of_an_operation(name, fresh):
    content = OPS[name].get("requestBody", {})["content"].get("application/json")
    if not content:
        answer = fresh.ask("POST", "/v1/ops/ping", data=b"alive")
        assert (answer.status_code, answer.content) == (200, b"alive")
        return
    params = {"output": "z"} if name in BODIES else {}
    answer = fresh.ask("POST", f"/v1/ops/{name}", json=content["example"], params=params)
    if name in NOT_HERE:
        assert (answer.status_code, answer.json()["code"]) == NOT_HERE[name]
    else:
        assert answer.status_code == 200, answer.text


# ---- requests made from it -----------------------------------------------------------------------


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ARRAYS = [np.float32(1.5), np.arange(3), np.zeros((0, 2), bool), np.ones((2, 2), "F", order="F")]
for kind, files in {
    "application/x-npy": [npy(np.asarray(array)) for array in ARRAYS],
    "application/vnd.safetensors": [safetensors.numpy.save({"t": np.asarray(a)}) for a in ARRAYS[:3]],
    "application/octet-stream": [b"", b"\0", b"tensor", bytes(1000)],
}.items():
    schemathesis.openapi.media_type(kind, st.sampled_from(files))

# Within the contract a request may still not fit what is stored, the limits, or this machine.
# It is never called malformed (400), or of a method or type that is not known.
UNFIT = ["2xx", "3xx", "404", "409", "412", "413", "416", "422", "504", "507"]
LEARN_NOTHING = {"extra-data-sources": {"responses": False}}  # so that each run is the same
CONFIG = {
    "seed": 1,
    "continue-on-failure": True,
    "cache": {"enabled": False},
    "suppress-health-check": ["all"],
    "generation": {
        "deterministic": True,
        "max-examples": 100 if FULL else 6,
        "no-shrink": True,
        "with-security-parameters": False,
        "database": "none",
    },
    "checks": {
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "504", "507"]},
        "negative_data_rejection": {"expected-statuses": ["4xx", "504", "507"]},
        "positive_data_acceptance": {"expected-statuses": UNFIT},
    },
    "phases": {
        "examples": LEARN_NOTHING,
        "coverage": LEARN_NOTHING,
        "fuzzing": {**LEARN_NOTHING, "error-feedback": {"enabled": False}},
        "stateful": {
            **LEARN_NOTHING,
            "generation": {"max-examples": 50 if FULL else 10},
            "inference": {"algorithms": []},
        },
    },
}


def without_points(value):
    """Integers as such, which JSON Schema also calls what is written 1.0."""
    if isinstance(value, dict):
        return {key: without_points(member) for key, member in value.items()}
    if isinstance(value, list):
        return [without_points(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def steer_body(case):
    """What describes a body in the query fits it."""
    if case.media_type == "application/octet-stream":
        case.query.pop("format", None)
        case.query.update(dtype="uint8", shape=[len(case.body)])
    elif case.query:
        for name in ("format", "dtype", "shape"):
            case.query.pop(name, None)


def steer(case, door):
    """Valid requests are mostly about tensors that there are, and wait for no more than a moment."""

    def name(text):
        names = (*TENSORS, door.object, text)
        return names[zlib.crc32(text.encode(errors="replace")) % len(names)]

    if isinstance(case.body, dict):
        for member in ("input", "other"):
            if isinstance(case.body.get(member), str):
                case.body[member] = name(case.body[member])
    if "name" in (case.path_parameters or {}):
        case.path_parameters["name"] = name(case.path_parameters["name"])
    if case.query and "wait" in case.query:
        case.query["wait"] = "5ms"
    if case.operation.label in TAKE_ELEMENTS:
        steer_body(case)
    else:
        case.body = without_points(case.body)


TAKE_ELEMENTS = {"PUT /v1/tensors/{name}", *(f"POST /v1/ops/{name}" for name in BODIES)}
# What a schema cannot say of the values of a request.
SENSELESS = re.compile(
    "step must be nonzero|unsupported range|inconsistent with step sign|over its range|"
    "random_ expects|is out of bounds for|without overflow|go with an output name|"
    "go with a descriptor|takes either|format=text shows the tensor as it is|"
    "takes elements in C order"
)


def is_known(check, failure, answer):
    """Whether a finding is one that is meant to be so."""
    if check == "positive_data_acceptance":
        return answer.status_code in (400, 415) and SENSELESS.search(answer.json()["detail"])
    if check == "negative_data_rejection" and answer.request.url.endswith("/v1/batch"):
        return any("code" in result for result in answer.json()["results"])
    # A body that may be left out was left out.
    return check == "negative_data_rejection" and "positive test case" in str(failure)


class Findings:
    """What Schemathesis found, one text each, and how many requests it made."""

    def __init__(self, door, paths):
        config = SchemathesisConfig.from_dict({**CONFIG, "base-url": door.url, "headers": door.token})
        api = schemathesis.openapi.from_dict(DOCUMENT, config=config).exclude(path="/v1/watch")
        self.texts, self.requests, self.door, self.operation = [], {}, door, None

        @schemathesis.hook("before_call")
        def before_call(context, case, kwargs):
            if context.operation.label != self.operation:
                self.operation = context.operation.label
                door.renew()
            case.headers.setdefault("Tensord-Session", door.headers["Tensord-Session"])
            if case.meta.generation.mode.is_positive:
                steer(case, door)

        try:
            for event in from_schema(api).execute():
                self.note(event)
        finally:
            schemathesis.hooks.unregister(before_call)

    def note(self, event):
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.NonFatalError):
            self.texts.append(f"{event.label}: {event.value}")
        if isinstance(event, events.ScenarioFinished):
            key = (event.phase.value, event.recorder.label)
            self.requests[key] = self.requests.get(key, 0) + len(event.recorder.interactions)
            for case_id, checks in event.recorder.checks.items():
                answer = event.recorder.interactions[case_id].response
                for check in checks:
                    info = check.failure_info
                    if info and not (answer and is_known(check.name, info.failure, answer)):
                        self.add(event.recorder.label, check.name, info, answer)

    def add(self, label, check, info, answer):
        told = answer and f"{answer.status_code} {answer.content[:400]}"
        self.texts.append(f"{label}: {check}\n{info.failure}\n{info.code_sample}\n{told}")


def test_requests_made_from_the_contract(door):
    found = Findings(door, None)
    total = sum(found.requests.values())
    phases = {}
    for (phase, _), count in found.requests.items():
        phases[phase] = phases.get(phase, 0) + count
    print(phases)
    print(total, sorted(found.requests.items(), key=lambda pair: -pair[1])[:20])
    assert not found.texts, "\n\n".join([f"{len(found.texts)} findings", *found.texts])
