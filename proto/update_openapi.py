#!/usr/bin/env python3
"""Writes openapi.json, the contract of the HTTP door, from the product's tables and what stands
here.

    update_openapi.py TABLES            writes it anew
    update_openapi.py --check TABLES    exits 1 if it differs from what would be written

TABLES is the program of tests/tools/tables.c: operations, fields, dtypes, statuses and routes come
from it. What they cannot tell stands here, in openapi_schemas.py and in openapi_examples.py. A new
operation needs at most an example; a new route needs a row in ROUTES, a new parameter one in
PARAMETERS.
"""

import argparse
import json
import os
import subprocess
import sys

from openapi_examples import BATCH, TENSOR, example_of
from openapi_schemas import (
    INDEX, UINT, batch_schema, one_of, op_schema, ref, schemas, special_fields, tensor_schema, text,
)  # fmt: skip

HERE = os.path.dirname(os.path.abspath(__file__))
TABLES = ("status", "dtypes", "fields", "ops", "routes", "limits")

ABOUT = """tensord holds named tensors and shares them between processes, containers and machines.

Fields of operations mean the same everywhere: in JSON documents, in the queries of URLs, in the
frame protocol and in the clients. An operation that takes a JSON document also takes each of
its fields as a parameter of the query instead (`shape=2,3`, `index=0,1:3`, `timeout_ms=30s`). A
member that is null counts as absent. Integers have up to 64 bits, and neither point nor
exponent: read them exactly.

An operation that makes a tensor publishes it under `output`, or makes an anonymous object
(`@17`) of a session, which is opened when the request names none: the answer tells its key in
Tensord-Session.

HEAD is answered with the headers of GET, OPTIONS with the methods of an address, which Allow
also lists with status 405. Errors are problems (RFC 9457) with a `code`; one of status 500
would be a bug of the daemon. The token is needed where the daemon has one (--token-file)."""


# load takes a document here, files come to /v1/bundle; save gives a file.
OF_FILES = ("load", "save")


def takes_body(op):
    return "body_in" in op["traits"] and op["name"] not in OF_FILES


def takes_elements(op):
    return takes_body(op) and "connection" not in op["traits"]


def gives_elements(op):
    return "body_out" in op["traits"] and "bytes" in op["traits"] and op["name"] not in OF_FILES


# ---- answers -------------------------------------------------------------------------------------

HEADERS = {
    "Accept-Ranges": ("Where a Range can be asked for.", "bytes"),
    "Allow": ("The methods of the address.", "[A-Z]+(?:, [A-Z]+)*"),
    "Content-Range": ("Which bytes of how many.", r"bytes (?:[0-9]+-[0-9]+|\*)/[0-9]+"),
    "ETag": ("The generation of the name; of elements also the epoch of their memory and what was "
             "asked for. Weak while others may write to the memory.", '(?:W/)?"[^"]+"'),
    "Location": ("The tensor's address.", "/v1/tensors/.+"),
    "Retry-After": ("Seconds.", "[0-9]+"),
    "Set-Cookie": ("The key of the session, for browsers.", "tensord-session=.*"),
    "Tensord-Dtype": ("Of raw bytes: what they are.", "[a-z0-9_]+"),
    "Tensord-Session": ("The key of the session that was opened.", "[0-9a-f]{32}"),
    "Tensord-Shape": ("Of raw bytes: the sizes.", r"\[[-0-9, ]*\]"),
    "WWW-Authenticate": ("What is wanted.", "Bearer .*"),
}  # fmt: skip
RAW_HEADERS = ("Tensord-Dtype", "Tensord-Shape")
READ_HEADERS = ("ETag", "Accept-Ranges", *RAW_HEADERS)
FILE_TYPES = ("application/x-npy", "application/vnd.safetensors", "application/octet-stream")
BUNDLE_TYPES = ("application/vnd.safetensors", "application/zip", "application/x-npy")

# Answers that are JSON and no more: what they are; their schema has the same name.
DOCUMENTS = {
    "Tensor": "The tensor.",
    "TensorList": "The tensors, or a page of them: `cursor` asks for the next one.",
    "Loaded": "The tensors that are stored now; `count` tells how many.",
    "EventList": "What was published and removed; `since` is for the next request.",
    "TextList": "Names and what they are.",
    "DeviceList": "The devices, and their bytes.",
    "LeaseList": "The leases, or a page of them: `lease` asks for the next one.",
    "PrincipalList": "What is used of each quota, and `limit` where there is one.",
    "OpList": "The operations.",
    "Queue": "The queue's settings, and what waits in it: `count` items of `nbytes`.",
    "QueueInfo": "The queue, and its counters.",
    "QueueList": "The queues, or a page of them: `cursor` asks for the next one.",
    "Queued": "The item's number in its queue, and its bytes.",
    "PeekedItems": "The first items, with what their tensors are.",
    "Drained": "How many items were dropped.",
    "CountList": "The counters.",
    "Counts": "The counters.",
    "Printed": "The tensor in text.",
    "Item": "The value.",
    "Nothing": "Done.",
    "Hello": "Who answers.",
    "BatchResults": "A result or a problem for each operation.",
    "Contract": "This document.",
}


def headers(*names, always=()):
    made = {name: ref("headers", name) for name in names}
    for name in always:
        description, pattern = HEADERS[name]
        made[name] = {"description": description, "required": True, "schema": text(pattern)}
    return made


def reply(description, schema, **more):
    content = {"application/json": {"schema": ref("schemas", schema)}}
    return {"description": description, **more, "content": content}


def content_of(types, schema=None):
    made = {"application/json": {"schema": ref("schemas", schema)}} if schema else {}
    return {"content": {**made, **{kind: {} for kind in types}}}


def text_reply(description, content_type="text/plain"):
    return {"description": description, "content": {content_type: {"schema": {"type": "string"}}}}


def elements_reply(description, names, as_json=True, as_text=False):
    made = reply(description, "Elements", headers=headers(*names))
    if not as_json:
        made["content"] = {}
    made["content"].update({kind: {} for kind in FILE_TYPES})
    if as_text:
        made["content"].update(text_reply("")["content"])
    return made


def answers():
    links = {
        name: {"operationId": name, "parameters": {"path.name": "$request.path.name"}}
        for name in ("getTensor", "deleteTensor")
    }
    stored = {"headers": headers(always=("ETag", "Location")), "links": links}
    return {
        **{name: reply(what, name) for name, what in DOCUMENTS.items()},
        "Made": reply("The result.", "Made", headers=headers("Tensord-Session", "Set-Cookie")),
        "Delivery": reply(
            "The item: `lease` acknowledges it, and its tensors are objects (@id) of the session "
            "until that is released.",
            "Delivery", headers=headers("Tensord-Session", "Set-Cookie"),
        ),
        "Elements": elements_reply("The elements, in the format asked for.", RAW_HEADERS),
        "Formatted": elements_reply(
            "The tensor, in the format asked for.", READ_HEADERS, as_text=True
        ),
        "Bundle": {"description": "The file.", **content_of(BUNDLE_TYPES)},
        "Saved": {
            "description": "The file; with `path` how many tensors it has.",
            **content_of(BUNDLE_TYPES, "Saved"),
        },
        "Part": elements_reply(
            "The bytes asked for.", (*READ_HEADERS, "Content-Range"), as_json=False
        ),
        "NotModified": {
            "description": "It still is what If-None-Match names.",
            "headers": headers(*READ_HEADERS),
        },
        "Replaced": reply("Stored in place of what had the name.", "Made", **stored),
        "Created": reply("Stored; the name is new.", "Made", **stored),
        "Gone": {"description": "Done."},
        "Bytes": {
            "description": "The request's body.",
            "content": {"application/octet-stream": {}},
        },
        "Text": text_reply("A text for people."),
        "Events": text_reply(
            "Events `publish` and `remove` with data {name, revision}, and `lost` with {since, "
            "resumed} where the daemon no longer had all. Each id is a revision.",
            "text/event-stream",
        ),
        "Session": reply(
            "The session.", "Session", headers=headers(always=("Tensord-Session", "Set-Cookie"))
        ),
    }


def error_answers(tables):
    """For each HTTP status, with the codes it may have."""
    extra = {401: "WWW-Authenticate", 405: "Allow", 416: "Content-Range", 503: "Retry-After"}
    made = {}
    for status in sorted({row["http"] for row in tables["status"] if row["http"] >= 400}):
        rows = [row for row in tables["status"] if row["http"] == status]
        codes = one_of(*(row["name"] for row in rows))
        schema = {
            "allOf": [ref("schemas", "Problem")],
            "properties": {"status": {"const": status}, "code": codes},
        }
        made[f"error{status}"] = {
            "description": "; ".join(f"`{row['name']}`: {row['meaning']}" for row in rows),
            "headers": headers(always=[extra[status]] if status in extra else ()),
            "content": {"application/problem+json": {"schema": schema}},
        }
    return made


# ---- parameters ----------------------------------------------------------------------------------

DURATION = text("[0-9]{1,12}(?:ms|s|m|h)?")
LIFETIME = text("(?:[1-9][0-9]{0,11}(?:ms)?|[1-9][0-9]{0,8}s|[1-9][0-9]{0,6}m|[1-9][0-9]{0,4}h)")
FORMATS = ("json", "npy", "safetensors", "raw")
BUNDLE_FORMATS = ("safetensors", "npz", "npy")
TEXT = {"type": "string"}
# In queries; the others are fields of operations.
PARAMETERS = {
    "format": ("What is sent or wanted; otherwise Content-Type and Accept tell.",
               one_of(*FORMATS)),
    "limit": ("At most so many entries, and never more than 1000.", {**UINT, "minimum": 1}),
    "require_shared": ("Fail rather than copy: over HTTP nothing can be shared.", {"const": False}),
    "since": ("The revision after which events are wanted; unless given, the present one.", UINT),
    "timeout_ms": ("Gives up after so long: milliseconds, or with ms, s, m or h.", DURATION),
    "ttl": ("How long the name lives: milliseconds, or with ms, s, m or h.", LIFETIME),
    "values": ("JSON: with the elements.", {"type": "boolean"}),
    "wait": ("Waits so long (milliseconds, or with ms, s, m or h; at most an hour) for the name to "
             "come, or with If-None-Match for another generation of it.", DURATION),
}  # fmt: skip
REQUEST_HEADERS = {
    "If-Match": ("Only if the ETag is one of these, or for * if there is one.", TEXT),
    "If-None-Match": ("Only if the ETag is none of these.", TEXT),
    "If-None-Match-Any": ("Only if no name that is stored is taken.", {"const": "*"}),
    "Range": ("One range of bytes, such as bytes=0-99, of raw or npy that need no conversion.",
              TEXT),
    "If-Range": ("The Range if the ETag is this one, else everything.", TEXT),
    "Last-Event-ID": ("The last event's id, when the stream is opened again.", UINT),
}  # fmt: skip


def query(name, tables, required=False):
    field = next((row for row in tables["fields"] if row["name"] == name), None)
    if not field and name not in PARAMETERS:
        sys.exit(f"update_openapi.py: the parameter {name} needs a row in PARAMETERS")
    if name in PARAMETERS:
        meaning, schema = PARAMETERS[name]
    else:
        meaning, schema = field["meaning"], ref("schemas", "field." + name)
    made = {"name": name, "in": "query", "description": meaning}
    if field and field["type"] == "dims":
        made.update(style="form", explode=False)
    if field and field["type"] == "index":
        schema = text(INDEX)
    if required:
        made["required"] = True
    return {**made, "schema": schema}


def parameters(tables):
    fields = special_fields(tables)
    names = {name for route in tables["routes"] for name in route["params"]} - {"*"}
    for op in tables["ops"]:
        names.update(op["required"] + op["optional"] if takes_body(op) else ())
    made = {"query." + name: query(name, tables) for name in sorted(names)}
    made["query.format.text"] = {**made["query.format"], "schema": one_of(*FORMATS, "text")}
    made["query.format.bundle"] = {
        **made["query.format"],
        "description": "What is sent; otherwise its first bytes or Content-Type tell. What is "
        "wanted, instead of safetensors.",
        "schema": one_of(*BUNDLE_FORMATS),
    }
    for name, (meaning, schema) in REQUEST_HEADERS.items():
        made[name] = {"name": name.removesuffix("-Any"), "in": "header", "description": meaning,
                      "schema": schema}  # fmt: skip
    for name, field in (("Name", "input"), ("NewName", "output")):
        made[name] = {
            "name": "name",
            "in": "path",
            "required": True,
            "schema": fields[field],
            "description": "The tensor's name, percent-encoded.",
            "example": "x",
        }
    made["QueueName"] = {**made["NewName"], "description": "The queue's name, percent-encoded.",
                         "example": "q"}  # fmt: skip
    return made


SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Where the daemon has a token."},
    "session": {"type": "apiKey", "in": "header", "name": "Tensord-Session", "description": "The "
                "session whose objects (@id) are meant, and that is to hold those that are made."},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "tensord-session", "description": "The "
               "same, where there is no such header."},
}  # fmt: skip

# ---- bodies --------------------------------------------------------------------------------------


def json_body(schema, example, required=True):
    content = {"schema": schema, "example": example}
    return {"required": required, "content": {"application/json": content}}


def tensor_body():
    return {
        "description": "Without a Content-Type its first bytes tell what it is. Raw bytes "
        "(application/octet-stream) need dtype= and shape=.",
        "required": True,
        "content": {
            "application/json": {"schema": ref("schemas", "Document"), "example": TENSOR},
            **{kind: {} for kind in FILE_TYPES},
        },
    }


def bundle_body():
    return {
        "description": "A file of tensors. Its first bytes tell what it is, unless format= or "
        "Content-Type does.",
        "required": True,
        **content_of((*BUNDLE_TYPES, "application/octet-stream")),
    }


# ---- paths ---------------------------------------------------------------------------------------

READING = ("If-Match", "If-None-Match", "Range", "If-Range")
PARTS = {206: "Part", 304: "NotModified"}
# Method and path: operationId, tag, answers, errors besides those of all requests, headers.
ROUTES = {
    "GET /v1/tensors/{name}": ("getTensor", "tensors", {200: "Formatted", **PARTS},
                               (404, 406, 409, 412, 416, 422, 503), READING),
    "PUT /v1/tensors/{name}": ("putTensor", "tensors", {200: "Replaced", 201: "Created"},
                               (404, 409, 412, 413, 422, 503, 504),
                               ("If-Match", "If-None-Match-Any")),
    "DELETE /v1/tensors/{name}": ("deleteTensor", "tensors", {204: "Gone"}, (404, 412),
                                  ("If-Match",)),
    "GET /v1/tensors": ("listTensors", "tensors", {200: "TensorList"}, (404,), ()),
    "GET /v1/bundle": ("getBundle", "tensors", {200: "Bundle"}, (404, 409, 413, 422, 503), ()),
    "PUT /v1/bundle": ("putBundle", "tensors", {200: "Loaded"},
                       (404, 409, 412, 413, 422, 503, 504), ("If-None-Match-Any",)),
    "GET /v1/ops": ("listOps", "operations", {200: "OpList"}, (), ()),
    "POST /v1/batch": ("batch", "operations", {200: "BatchResults"}, (404, 413, 503), ()),
    "GET /v1/devices": ("listDevices", "daemon", {200: "DeviceList"}, (404,), ()),
    "GET /v1/leases": ("listLeases", "daemon", {200: "LeaseList"}, (404,), ()),
    "GET /v1/principals": ("listPrincipals", "daemon", {200: "PrincipalList"}, (404,), ()),
    "GET /v1/queues": ("listQueues", "queues", {200: "QueueList"}, (404,), ()),
    "GET /v1/queues/{name}": ("getQueue", "queues", {200: "QueueInfo"}, (404,), ()),
    "PUT /v1/queues/{name}": ("putQueue", "queues", {200: "Queue"}, (404, 409), ()),
    "DELETE /v1/queues/{name}": ("deleteQueue", "queues", {204: "Gone"}, (404,), ()),
    "GET /v1/stats": ("getStats", "daemon", {200: "Counts"}, (404,), ()),
    "POST /v1/session": ("openSession", "sessions", {201: "Session"}, (503,), ()),
    "DELETE /v1/session": ("closeSession", "sessions", {204: "Gone"}, (404,), ()),
    "GET /v1/watch": ("watch", "tensors", {200: "Events"}, (503,), ("Last-Event-ID",)),
    "GET /livez": ("live", "daemon", {200: "Text"}, (), ()),
    "GET /readyz": ("ready", "daemon", {200: "Text"}, (503,), ()),
    "GET /openapi.json": ("getContract", "daemon", {200: "Contract"}, (), ()),
    "GET /": ("getStart", "daemon", {200: "Text"}, (), ()),
}  # fmt: skip
# Routes that look at no session.
SESSIONLESS = ("listOps", "openSession", "watch", "getContract")
# What operations answer with that neither make tensors nor give elements.
REPLIES = {
    "hello": "Hello", "ping": "Bytes", "stats": "CountList", "devices": "DeviceList",
    "leases": "LeaseList", "principals": "PrincipalList",
    "ops": "TextList", "list": "TensorList", "release": "Nothing", "delete": "Nothing",
    "info": "Tensor", "rename": "Tensor", "touch": "Tensor", "print": "Printed", "item": "Item",
    "wait": "Tensor", "watch": "EventList", "load": "Loaded", "save": "Saved",
    "queue_create": "Queue", "queue_delete": "Nothing", "queue_info": "QueueInfo",
    "queues": "QueueList", "queue_put": "Queued", "queue_get": "Delivery", "queue_ack": "Nothing",
    "queue_peek": "PeekedItems", "queue_close": "Nothing", "queue_drain": "Drained",
}  # fmt: skip
# Full, closed, and what is in other hands by now; a queue with nothing to hand out is a 404.
QUEUE_ERRORS = {"queue_put": {409, 410, 429}, "queue_get": {410}, "queue_ack": {409}}
# Fields whose values may not fit the tensor, or this daemon.
FITTING = {"dtype", "shape", "index", "dim", "dim0", "dims", "device", "other"}


def operation(name, tag, doc, replies, errors, wanted, body=None, security=None):
    """`replies` maps HTTP statuses to names of answers(), `wanted` are parameters."""
    errors = {400, 403, 415, *errors} | (set() if security == [] else {401, 507})
    statuses = {**replies, **{status: f"error{status}" for status in errors}}
    return {
        "operationId": name,
        "tags": [tag],
        "summary": doc,
        **({"parameters": wanted} if wanted else {}),
        **({"requestBody": body} if body else {}),
        "responses": {str(at): ref("responses", statuses[at]) for at in sorted(statuses)},
        **({"security": security} if security is not None else {}),
    }


def route_operation(route, tables):
    key = f"{route['method']} {route['path']}"
    if key not in ROUTES:
        sys.exit(f"update_openapi.py: nothing is known of {key}; it needs a row in ROUTES")
    name, tag, replies, errors, extra = ROUTES[key]
    bodies = {
        "putTensor": tensor_body(),
        "putBundle": bundle_body(),
        "batch": json_body(ref("schemas", "Batch"), BATCH),
    }
    path = {"getTensor": ["Name"], "deleteTensor": ["Name"], "putTensor": ["NewName"],
            **dict.fromkeys(("getQueue", "putQueue", "deleteQueue"), ["QueueName"])}  # fmt: skip
    formats = {"getTensor": "text", "getBundle": "bundle", "putBundle": "bundle"}
    named = {"format": "format." + formats[name]} if name in formats else {}
    queries = ["query." + named.get(param, param) for param in route["params"]]
    wanted = [*path.get(name, ()), *queries, *extra]
    wanted = [ref("parameters", each) for each in wanted]
    security = [] if route["open"] else [{"bearer": []}] if name in SESSIONLESS else None
    return operation(name, tag, route["doc"], replies, errors, wanted, bodies.get(name), security)


def op_errors(op):
    """What may go wrong besides what may with every request."""
    fields = {*op["required"], *op["optional"]}
    errors = {404, 413, 503, 504}
    if fields & {"input", "other", "create_only", "tensors"}:
        errors |= {409}
    errors |= QUEUE_ERRORS.get(op["name"], set())
    if "if_generation" in fields:
        errors |= {412}
    if gives_elements(op):
        errors |= {406}
    if {"bytes", "body_in"} & {*op["traits"]} or fields & FITTING or op["name"] == "item":
        errors |= {422}
    return errors


def op_operation(op, tables):
    replies = {200: REPLIES.get(op["name"], "Made")}
    if takes_body(op):
        # What the body is stands in the query; files tell their dtype and shape themselves.
        any_bytes = {"content": {"application/octet-stream": {}}}
        body = tensor_body() if takes_elements(op) else any_bytes
        needed = {"output"} & {*op["required"]}
        wanted = [
            query(name, tables, True) if name in needed else ref("parameters", "query." + name)
            for name in op["required"] + op["optional"]
        ]
    else:
        wanted = []
        body = json_body(op_schema(op), example_of(op), bool(op["required"]))
    if gives_elements(op):
        replies = {200: "Elements"}
        wanted = [ref("parameters", "query.format")]
    return operation(
        "op_" + op["name"], "operations", op["doc"], replies, op_errors(op), wanted, body
    )


def paths(tables):
    made = {}
    for route in tables["routes"]:
        if route["path"] != "/v1/ops/{name}":
            path = made.setdefault(route["path"], {})
            path[route["method"].lower()] = route_operation(route, tables)
            continue
        for op in tables["ops"]:
            made["/v1/ops/" + op["name"]] = {"post": op_operation(op, tables)}
    return made


# ---- the document --------------------------------------------------------------------------------


def contract(tables):
    alone = [op for op in tables["ops"]
             if takes_elements(op) or gives_elements(op) or op["name"] in OF_FILES]  # fmt: skip
    batch = [op for op in tables["ops"] if op not in alone and "connection" not in op["traits"]]
    components = {
        "schemas": {
            **schemas(tables),
            "Document": tensor_schema(tables),
            "Batch": batch_schema(batch),
        },
        "responses": {**answers(), **error_answers(tables)},
        "parameters": parameters(tables),
        "headers": {
            name: {"description": what, "schema": text(pattern)}
            for name, (what, pattern) in HEADERS.items()
        },
        "securitySchemes": SECURITY_SCHEMES,
    }
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "tensord",
            "version": tables["limits"]["version"],
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}]
        + [{"bearer": [], name: []} for name in SECURITY_SCHEMES if name != "bearer"],
        "paths": paths(tables),
        "components": components,
    }
    return without_unused(document)


def references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = value.values()
    elif not isinstance(value, list):
        return
    for each in value:
        yield from references(each)


def without_unused(document):
    """Without the components that nothing refers to."""
    components, used, found = document["components"], set(), [*references(document["paths"])]
    while found:
        reference = found.pop()
        if reference not in used:
            used.add(reference)
            kind, name = reference.split("/")[2:]
            found += references(components[kind][name])
    for kind in ("schemas", "responses", "parameters", "headers"):
        components[kind] = {name: value for name, value in components[kind].items()
                            if f"#/components/{kind}/{name}" in used}  # fmt: skip
    return document


def lines(value, depth=3):
    """JSON with a line for each value `depth` levels down, so that changes can be read."""
    if depth == 0 or not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    members = (f"{json.dumps(key)}:{lines(each, depth - 1)}" for key, each in value.items())
    return "{\n" + ",\n".join(members) + "\n}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", help="the program of tests/tools/tables.c")
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    parser.add_argument("--file", default=os.path.join(HERE, "openapi.json"))
    arguments = parser.parse_args()
    tables = {}
    for name in TABLES:
        command = [arguments.tables, "json", name]
        tables[name] = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        )
    fresh = lines(contract(tables)) + "\n"
    try:
        with open(arguments.file, encoding="utf-8") as file:
            stale = file.read() != fresh
    except FileNotFoundError:
        stale = True
    if arguments.check and stale:
        sys.exit(
            f"{arguments.file} is stale: the tables, or what makes it, have changed; "
            f"run proto/update_openapi.py {arguments.tables}"
        )
    if stale:
        with open(arguments.file, "w", encoding="utf-8") as file:
            file.write(fresh)


if __name__ == "__main__":
    main()
