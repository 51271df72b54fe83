"""The HTTP door keeps to its contract, proto/openapi.json, and the contract leaves nothing out.

The product's tables and the contract are compared both ways, the contract's examples are run, and
Schemathesis makes requests from it, right ones and wrong ones, and checks what is answered: status,
type, schema and headers of the answer, that wrong requests are refused and right ones are not,
other methods, and requests without the token. TENSORD_TESTS_FULL asks for more of them.
"""

import io
import json
import os
import pathlib
import re
import subprocess
import zlib
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import quote

import numpy as np
import pytest
import requests
import safetensors.numpy
import schemathesis
from harness import ROOT, Daemon, binary
from hypothesis import strategies as st
from plain_client import protocol_table
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation as Location
from schemathesis.engine import events, from_schema
from schemathesis.generation.meta import TestPhase

CONTRACT = ROOT / "proto/openapi.json"
DOCUMENT = json.loads(CONTRACT.read_text())
PATHS = DOCUMENT["paths"]
OPS = {path.removeprefix("/v1/ops/"): item["post"] for path, item in PATHS.items()
       if path.startswith("/v1/ops/")}  # fmt: skip
FULL = bool(os.environ.get("TENSORD_TESTS_FULL"))
TOKEN = "the-token-of-the-contract-tests-0123456789"
ANSWER_S = 30
# The tensors that the examples of the contract are about.
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
        self.token = {"Authorization": f"Bearer {TOKEN}"}
        self.headers = self.token
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def ask(self, method, path, **more):
        more.setdefault("headers", self.headers)
        return self.http.request(method, self.url + path, timeout=ANSWER_S, **more)

    def renew(self):
        """Nothing but TENSORS is stored, and a new session has one object, `object`."""
        self.ask("DELETE", "/v1/session")
        self.headers = self.token
        stored = self.ask("GET", "/v1/tensors").json()["entries"]
        gone = [{"op": "delete", "input": entry["name"]} for entry in stored]
        self.ask("POST", "/v1/batch", json={"operations": gone})
        key = self.ask("POST", "/v1/session").json()["session"]
        self.headers = {**self.token, "Tensord-Session": key}
        for name, tensor in TENSORS.items():
            answer = self.ask("PUT", f"/v1/tensors/{name}", json=tensor)
            assert answer.status_code == 201, answer.text
        self.ask("POST", "/v1/ops/set_grad", json={"input": "v", "other": "x"})
        for queue in self.ask("GET", "/v1/queues").json()["entries"]:
            self.ask("DELETE", "/v1/queues/" + quote(queue["queue"]))
        self.ask("PUT", "/v1/queues/q")
        for tensors in ("image=x\nlabel=y", "s", "=v"):
            self.ask("POST", "/v1/ops/queue_put", json={"queue": "q", "tensors": tensors})
        self.object = self.ask("POST", "/v1/ops/eye", json={"shape": [3]}).json()["name"]


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    token_file = tmp_path_factory.mktemp("contract") / "token"
    folder = tmp_path_factory.mktemp("files")
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save({"w": np.ones(3)}))
    folders = ("--load-dir", folder, "--save-dir", folder)
    token_file.write_text(TOKEN + "\n")
    token_file.chmod(0o600)
    with Daemon("--memory-limit", "64MiB", "--token-file", token_file, *folders) as daemon:
        opened = Door(daemon.http_url)
        yield opened
        opened.http.close()


@pytest.fixture
def fresh(door):
    door.renew()
    return door


# ---- the tables and the contract -----------------------------------------------------------------


def test_contract_is_valid():
    from openapi_spec_validator import OpenAPIV31SpecValidator, validate

    validate(DOCUMENT, cls=OpenAPIV31SpecValidator)


def test_daemon_serves_the_contract(door):
    answer = door.ask("GET", "/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.content == CONTRACT.read_bytes(), "the daemon was built with another contract"


def tables(name):
    program = pathlib.Path(binary()).parent / "tests/tools/tables"
    if not program.exists():
        pytest.skip(f"no tables: build {program}")
    return json.loads(
        subprocess.run([program, "json", name], check=True, capture_output=True).stdout
    )


def resolve(value):
    while "$ref" in value:
        reference, value = value["$ref"], DOCUMENT
        for part in reference.split("/")[1:]:
            value = value[part]
    return value


def queries_of(operation):
    """The names of the parameters of the query."""
    parameters = map(resolve, operation.get("parameters", []))
    return [parameter["name"] for parameter in parameters if parameter["in"] == "query"]


def is_answered(door, method, path):
    """Whether something is there; what it says to a request that holds nothing does not matter."""
    waits = {"timeout_ms": 0} if path.startswith("/v1/ops/") and method == "POST" else {}
    answer = door.ask(method, path, params=waits, stream=True)
    if answer.status_code not in (404, 405):
        answer.close()  # of a stream that does not end only the head is read
        return True
    return answer.status_code == 404 and not re.match("there is nothing|there is no operation",
                                                      answer.json()["detail"])  # fmt: skip


def test_every_operation_is_in_the_contract(fresh):
    entries = fresh.ask("GET", "/v1/ops").json()["entries"]
    assert sorted(OPS) == sorted(entry["name"] for entry in entries)
    for entry in entries:
        operation, path = OPS[entry["name"]], "/v1/ops/" + entry["name"]
        body = operation["requestBody"]["content"].get("application/json", {}).get("schema", {})
        fields = body.get("properties")
        if fields:
            assert body["required"] == entry["required"], path
        else:  # elements come as the body, and all fields in the query
            fields = queries_of(operation)
        assert sorted(fields) == sorted(entry["required"] + entry["optional"]), path
        assert operation["summary"] == entry["text"]
        assert is_answered(fresh, "POST", path), path


def test_every_route_is_in_the_contract():
    for route in tables("routes"):
        if route["path"] == "/v1/ops/{name}":
            continue
        operation = PATHS[route["path"]][route["method"].lower()]
        assert queries_of(operation) == route["params"], route["path"]
        assert operation["summary"] == route["doc"]
        assert ("requestBody" in operation) == route["body"], route["path"]
        assert (operation.get("security") == []) == route["open"], route["path"]


def test_everything_in_the_contract_is_answered(fresh):
    for path, item in PATHS.items():
        address = path.replace("{name}", "x")
        for method in ("get", "put", "post", "delete"):
            assert is_answered(fresh, method.upper(), address) == (method in item), (method, path)
        allowed = {method.upper() for method in item} | {"OPTIONS"}
        allowed |= {"HEAD"} if "get" in item else set()
        for method, status in {"PATCH": 405, "OPTIONS": 204}.items():
            answer = fresh.ask(method, address)
            assert answer.status_code == status, path
            assert set(answer.headers["Allow"].split(", ")) == allowed, path
            assert fresh.ask(method, address, data=b"a body").status_code in (400, 405), path


def test_parameters_of_the_contract_are_known(fresh):
    for path, item in PATHS.items():
        for method, operation in item.items():
            for name in queries_of(operation):
                address = path.replace("{name}", "x")
                answer = fresh.ask(method, address, params={name: "?"}, stream=True)
                said = "" if answer.ok else answer.json()["detail"]
                answer.close()
                assert "takes no parameter" not in said, (path, name)


TAKE_ELEMENTS = ("put", "tensor", "from_numpy")
# Operations whose example cannot succeed here.
NOT_HERE = {"cuda": (422, "no_device"), "queue_ack": (404, "not_found"),
            "release": (404, "not_found"),
            "allocate": (415, "unsupported"), "publish": (409, "conflict")}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_example_of_an_operation(name, fresh):
    content = OPS[name]["requestBody"]["content"].get("application/json")
    if content is None:
        answer = fresh.ask("POST", f"/v1/ops/{name}", data=b"alive")
        assert (answer.status_code, answer.content) == (200, b"alive")
        return
    params = {"output": "z"} if name in TAKE_ELEMENTS else {}
    answer = fresh.ask("POST", f"/v1/ops/{name}", json=content["example"], params=params)
    if name in NOT_HERE:
        assert (answer.status_code, answer.json()["code"]) == NOT_HERE[name]
    else:
        assert answer.status_code == 200, answer.text


# ---- the stream that does not end ----------------------------------------------------------------


def read_events(door, count, **more):
    """So many events of /v1/watch, as (event, id, data); then stops reading."""
    found, event = [], {}
    with door.ask("GET", "/v1/watch", stream=True, **more) as answer:
        assert answer.status_code == 200, answer.text
        (kind,) = resolve(PATHS["/v1/watch"]["get"]["responses"]["200"])["content"]
        assert answer.headers["Content-Type"] == kind == "text/event-stream"
        for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
            key, _, value = line.partition(": ")
            event[key] = value
            if not line and "data" in event:
                found.append((event["event"], int(event["id"]), json.loads(event["data"])))
            if not line:
                event = {}
            if len(found) == count:
                return found
    pytest.fail(f"the stream ended after {found}")


def test_watch(fresh):
    since = fresh.ask("GET", "/v1/stats").json()["revision"]
    fresh.ask("PUT", "/v1/tensors/w/1", json=[1])
    fresh.ask("PUT", "/v1/tensors/other", json=[1])
    fresh.ask("DELETE", "/v1/tensors/w/1")
    expected = [
        ("publish", since + 1, {"name": "w/1", "revision": since + 1}),
        ("remove", since + 3, {"name": "w/1", "revision": since + 3}),
    ]
    params = {"prefix": "w/", "since": since}
    assert read_events(fresh, 2, params=params) == expected
    again = {**fresh.token, "Last-Event-ID": str(since + 1)}
    assert read_events(fresh, 1, params=params, headers=again) == expected[1:]


@pytest.mark.parametrize("wrong, status", [
    ({"params": {"since": "yesterday"}}, 400),
    ({"params": {"since": "-1"}}, 400),
    ({"params": {"limit": "1"}}, 400),
    ({"params": {"since": str(2**64)}}, 400),
    ({"headers": {}}, 401),
])  # fmt: skip
def test_watch_refuses(fresh, wrong, status):
    answer = fresh.ask("GET", "/v1/watch", **wrong)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert str(status) in PATHS["/v1/watch"]["get"]["responses"]


# ---- requests made from the contract -------------------------------------------------------------


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


ARRAYS = [np.array(1.5, "f4"), np.arange(3), np.zeros((0, 2), bool), np.ones((2, 2))]
FILES = {
    "application/x-npy": [npy(array) for array in (*ARRAYS, np.ones((2, 3), order="F"))],
    "application/vnd.safetensors": [safetensors.numpy.save({"t": array}) for array in ARRAYS],
    "application/zip": [npz(), npz(a=ARRAYS[0], b=ARRAYS[3])],
    "application/octet-stream": [b"", b"\0", b"tensor", bytes(1000)],
}
for kind, contents in FILES.items():
    schemathesis.openapi.media_type(kind, st.sampled_from(contents))


def alike():
    """Operations that take the same as another one: the other one stands for them."""
    seen, others = set(), []
    for name, operation in OPS.items():
        schemas = [
            content.get("schema") for content in operation["requestBody"]["content"].values()
        ]
        takes = "elements" if name in TAKE_ELEMENTS else json.dumps(schemas, sort_keys=True)
        if takes in seen:
            others.append(operation["operationId"])
        seen.add(takes)
    return others


EXAMPLES = 100 if FULL else 6
LEARN_NOTHING = {"extra-data-sources": {"responses": False}}  # so that each run is the same
CONFIG = {
    "seed": 1,
    "continue-on-failure": True,
    "request-timeout": ANSWER_S,
    "cache": {"enabled": False},
    "output": {"sanitization": {"enabled": False}},
    "generation": {
        "deterministic": True,
        "database": "none",
        "max-examples": EXAMPLES,
        "no-shrink": True,
        "with-security-parameters": False,
    },
    "checks": {
        # Deadlines and the limit of memory are no faults of the daemon.
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "504", "507"]},
        "negative_data_rejection": {"expected-statuses": ["4xx", "504", "507"]},
        # A right request may not fit what is stored, or limits. It is never called malformed (400),
        # unauthorized (401), or of a wrong type (415).
        "positive_data_acceptance": {"expected-statuses": [
            "2xx", "3xx", "404", "409", "412", "413", "416", "422", "504", "507"]},
    },
    "phases": {
        "examples": LEARN_NOTHING,
        "coverage": LEARN_NOTHING,
        "fuzzing": {**LEARN_NOTHING, "error-feedback": {"enabled": False}},
        "stateful": {"generation": {"max-examples": EXAMPLES}, "inference": {"algorithms": []}},
    },
}  # fmt: skip
QUICK = {"operations": [{
    "include-operation-id": alike(), "phases": {"coverage": {"enabled": False}}}]}  # fmt: skip

# What is wrong with values that a schema cannot tell from others.
SENSELESS = re.compile(
    "step must be nonzero|unsupported range|inconsistent with step sign|over its range|"
    "random_ expects|is out of bounds for|without overflow|go with an output name|"
    "go with a descriptor|takes either|"
    "takes elements in C order|has 1 to 512 bytes|stands twice in the item|"
    "shared over the Unix socket only|the file is not recognised|load needs a file|"
    "this is no (?:.np[yz]|safetensors) |"
    "say with prefix what it is to be called|cannot be stored|has no metadata|came together|"
    "an .npy file has one array|two tensors are to be called|which safetensors has not|"
    "more than any name"
)


def is_meant(check, failure, answer):
    """Whether a finding is one that shall be so."""
    if check == "positive_data_acceptance":
        return answer.status_code in (400, 415) and SENSELESS.search(answer.json()["detail"])
    if check != "negative_data_rejection":
        return False
    if answer.request.url.endswith("/v1/batch"):  # which tells in its place what is wrong
        return any("code" in result for result in answer.json()["results"])
    return "positive test case" in str(failure)  # without the body, which it may be


def without_points(value):
    """Integers as such: JSON Schema also calls 1.0 one."""
    if isinstance(value, dict):
        return {key: without_points(member) for key, member in value.items()}
    if isinstance(value, list):
        return [without_points(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def hashed(value, choices):
    """The same choice in every run."""
    return zlib.crc32(str(value).encode(errors="replace")) % choices


class Steering:
    """Makes requests be mostly about tensors that are there, wait for no more than a moment, and
    have nothing wrong with them but what Schemathesis made wrong."""

    def __init__(self, case, door):
        self.case, self.door = case, door
        data = case.meta.phase.data
        wrong = [data, *data.mutations] if case.meta.generation.mode.is_negative else []
        self.wrong = {(each.parameter_location, each.parameter) for each in wrong}

    def may_change(self, location, name):
        return not self.wrong & {(location, name), (location, None)}

    def name(self, text):
        names = (*TENSORS, self.door.object, text)
        return names[hashed(text, len(names))]

    def queue(self, text):
        return ("q", "q", text)[hashed(text, 3)]

    def leave_out(self, location, members, *names):
        for name in names:
            if name in (members or ()) and self.may_change(location, name):
                del members[name]

    def steer(self):
        case, path, query = self.case, self.case.path_parameters, self.case.query
        follows = case.meta.phase.name is TestPhase.STATEFUL  # what was answered before
        if path and not follows and self.may_change(Location.PATH, "name"):
            path["name"] = self.queue(path["name"]) if "/queues/" in case.path else \
                self.name(path["name"])  # fmt: skip
        if query and "wait" in query and self.may_change(Location.QUERY, "wait"):
            query["wait"] = "5ms"
        for name in ("If-Match", "If-None-Match", "If-Range"):
            if hashed(case.headers.get(name), 4):
                self.leave_out(Location.HEADER, case.headers, name)
        right_body = not any(location is Location.BODY for location, _ in self.wrong)
        if right_body and isinstance(case.body, (dict, list)):
            case.body = without_points(case.body)
        if case.operation.label == "PUT /v1/tensors/{name}" or case.path.endswith(ELEMENT_PATHS):
            self.describe_body()
        elif right_body:
            self.steer_document(case.body)
        if case.path.endswith(WAITING_PATHS) and self.may_change(Location.BODY, "timeout_ms"):
            if not isinstance(case.body, (dict, list, str)):
                case.body = {}
            if isinstance(case.body, dict):
                case.body["timeout_ms"] = 5

    def describe_body(self):
        case, query = self.case, self.case.query
        if hashed(query, 4):
            self.leave_out(Location.QUERY, query, "create_only", "if_generation")
        self.leave_out(Location.QUERY, query, "format", "dtype", "shape", "strides", "offset_bytes")
        raw = case.media_type == "application/octet-stream" and isinstance(case.body, bytes)
        if raw and all(self.may_change(Location.QUERY, name) for name in ("dtype", "shape")):
            query.update(dtype="uint8", shape=[len(case.body)])

    def steer_document(self, body):
        if not isinstance(body, dict):
            return
        for member in ("input", "other"):
            if isinstance(body.get(member), str):
                body[member] = self.name(body[member])
        if isinstance(body.get("queue"), str):
            body["queue"] = self.queue(body["queue"])
        if hashed(body, 4):
            self.leave_out(Location.BODY, body, "create_only", "if_generation")


ELEMENT_PATHS = tuple("/v1/ops/" + name for name in TAKE_ELEMENTS)
WAITING_PATHS = tuple("/v1/ops/" + row[1] for row in protocol_table("ops") if "waits" in row[4])


class Findings:
    """What Schemathesis finds, a text each, and how many requests each phase has made."""

    def __init__(self, door):
        self.door, self.place, self.texts, self.requests = door, None, [], {}

    def prepare(self, context, case):
        place = (case.meta.phase.name, context.operation.label)
        if place != self.place and case.meta.phase.name is not TestPhase.STATEFUL:
            self.door.renew()
            self.place = place
        case.headers.setdefault("Tensord-Session", self.door.headers["Tensord-Session"])
        Steering(case, self.door).steer()

    def gather(self):
        config = {**CONFIG, **({} if FULL else QUICK), "base-url": self.door.url}
        config = SchemathesisConfig.from_dict({**config, "headers": self.door.token})
        contract = schemathesis.openapi.from_dict(DOCUMENT, config=config)

        @schemathesis.hook
        def before_call(context, case, kwargs):
            self.prepare(context, case)

        try:
            for event in from_schema(contract.exclude(path="/v1/watch")).execute():
                self.note(event)
        finally:
            schemathesis.hooks.unregister(before_call)

    def note(self, event):
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.NonFatalError):
            self.texts.append(f"{event.label}: {event.value}")
        if not isinstance(event, events.ScenarioFinished):
            return
        made = event.recorder.interactions
        self.requests[event.phase.value] = self.requests.get(event.phase.value, 0) + len(made)
        for case_id, checks in event.recorder.checks.items():
            answer = made[case_id].response
            for check in checks:
                found = check.failure_info
                if found and not (answer and is_meant(check.name, found.failure, answer)):
                    told = answer and f"{answer.status_code} {answer.content[:400]}"
                    self.texts.append(f"{event.recorder.label}: {check.name}\n{found.failure}\n"
                                      f"{found.code_sample}\n{told}")  # fmt: skip


def test_requests_made_from_the_contract(door):
    findings = Findings(door)
    findings.gather()
    assert not findings.texts, "\n\n".join([f"{len(findings.texts)} findings", *findings.texts])
    # That it looked at all: less would mean that it no longer understands the contract.
    least = {"examples": 300, "coverage": 3000, "fuzzing": 300, "stateful": 10}
    assert all(findings.requests[phase] >= least[phase] for phase in least), findings.requests
    door.renew()  # the daemon is well
