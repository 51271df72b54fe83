"""The schemas of openapi.json: what the values, documents and answers of the HTTP door look like.

For update_openapi.py. `tables` are the product's tables by name, as tests/tools/tables prints them.
"""

# ---- texts ---------------------------------------------------------------------------------------

# Names as core/name.c has them: segments that are neither empty nor "." nor "..".
CONTROL = r"\u0000-\u001f\u007f-\u009f"
SEGMENT = rf"(?:[^/.{CONTROL}][^/{CONTROL}]*|\.[^/.{CONTROL}][^/{CONTROL}]*|\.\.[^/{CONTROL}]+)"
NAME = SEGMENT.replace("[^/.", "[^/.@", 1) + f"(?:/{SEGMENT})*"
OBJECT = "@[0-9]{1,19}"
# A tensor of an item: KEY=NAME or KEY=@ID; without KEY= the name has no =.
ITEM_TENSOR = rf"(?:[^=\n\u0000]*=(?:{NAME}|{OBJECT})|[0-9A-Za-z_][0-9A-Za-z_.:-]*|{OBJECT})"

# NumPy's basic index, as proto/format/index_text.c reads it.
BLANKS = r"[ \t\r\n]*"
INTEGER = rf"[-+]?{BLANKS}(?:0|[1-9][0-9]*)"
BOUND = f"{BLANKS}(?:None|newaxis|{INTEGER})?{BLANKS}"
ITEM = (
    rf"(?:{BLANKS}(?:\.\.\.|Ellipsis|None|newaxis|{INTEGER}){BLANKS}"
    f"|{BOUND}:{BOUND}(?::{BOUND})?)"
)
ITEMS = f"(?:{ITEM}(?:,{ITEM})*(?:,{BLANKS})?|{BLANKS})"
INDEX = rf"(?:{ITEMS}|{BLANKS}\[{ITEMS}\]{BLANKS})"

# ---- values --------------------------------------------------------------------------------------

UINT = {"type": "integer", "format": "uint64", "minimum": 0, "maximum": 2**64 - 1}
INT = {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}
DOUBLE_MAX = 1.7976931348623157e308
DOUBLE = {"type": "number", "minimum": -DOUBLE_MAX, "maximum": DOUBLE_MAX}
SPECIAL = {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}
NUMBER = [{**INT, "maximum": 2**64 - 1}, DOUBLE, {"type": "boolean"}, SPECIAL]


def ref(kind, name):
    return {"$ref": f"#/components/{kind}/{name}"}


def text(pattern, longest=None, **more):
    length = {"maxLength": longest} if longest else {}
    return {"type": "string", "pattern": f"^{pattern}$", **length, **more}


def one_of(*words):
    return {"type": "string", "enum": list(words)}


def type_schemas(tables):
    """By the type of a field."""
    return {
        "uint": UINT,
        "int": INT,
        "bool": {"type": "boolean"},
        "text": text(r"[^\u0000]*"),
        "dtype": ref("schemas", "Dtype"),
        "dims": {"type": "array", "maxItems": tables["limits"]["rank"], "items": INT},
        "scalar": ref("schemas", "Scalar"),
        "index": {"anyOf": [text(INDEX), INT]},
    }


def special_fields(tables):
    """Fields of which more is known than their type. Lengths of names count bytes, of which there
    are at least as many as characters."""
    longest = tables["limits"]["name_bytes"]
    either = text(f"(?:{NAME}|{OBJECT})", longest)
    return {
        "input": either,
        "other": either,
        "name": either,
        "output": text(NAME, longest),
        "device": text("(?:cpu|cuda(?::[0-9]{1,4})?)"),
        "ttl_ms": {**UINT, "minimum": 1, "maximum": tables["limits"]["ttl_ms"]},
        "casting": one_of("unsafe", "same_kind", "safe"),
        "session_key": text(f"[0-9a-f]{{{tables['limits']['session_key_digits']}}}"),
        "kind": one_of("tensor", "variable"),
        "event": one_of("publish", "remove"),
        "queue": text(NAME, longest),
        "tensors": text(f"{ITEM_TENSOR}(?:\\n{ITEM_TENSOR}){{0,63}}"),
        "meta": text(r"[^\u0000]*", 4096),
        "format": one_of("safetensors", "npz", "npy"),
        "path": text("[0-9A-Za-z_-][0-9A-Za-z_.-]{0,99}"),
        "metadata": text(r'\{(?:"[0-9A-Za-z_.]*": ?"[0-9A-Za-z_. ]*")?\}'),
        "max_items": {**UINT, "minimum": 1, "maximum": 65536},
        "max_bytes": {**UINT, "minimum": 1},
        "visibility_ms": {**UINT, "minimum": 1, "maximum": tables["limits"]["ttl_ms"]},
        "when_full": one_of("block", "fail", "drop_oldest"),
        "mode": one_of("building", "frozen", "single-writer", "mutable"),
        "memory": one_of("shared", "copied"),
    }


def field_schemas(tables):
    """field.NAME, and optional.NAME for a member that may be null."""
    types, special, made = type_schemas(tables), special_fields(tables), {}
    for row in tables["fields"]:
        field = "field." + row["name"]
        made[field] = {
            "description": row["meaning"],
            **special.get(row["name"], types[row["type"]]),
        }
        made["optional." + row["name"]] = {"anyOf": [ref("schemas", field), {"type": "null"}]}
    return made


def value_schemas(tables):
    pair = {"type": "array", "items": {"anyOf": [DOUBLE, SPECIAL]}, "minItems": 2, "maxItems": 2}
    lists = {"type": "array", "items": ref("schemas", "Values")}
    return {
        "Dtype": {
            "description": "PyTorch's name. Requests may also have NumPy's type strings (<f4), the "
            "names of safetensors (F32), and names behind torch. or numpy.",
            **one_of(*(row["name"] for row in tables["dtypes"])),
        },
        "Scalar": {
            "description": "A number, exactly: an integer of 64 bits, a float64, a bool, or "
            "complex as [re, im].",
            "anyOf": [*NUMBER, pair],
        },
        "Real": {"description": "A number that is not complex.", "anyOf": NUMBER},
        "Values": {
            "description": "Elements in C order as nested lists, complex ones as [re, im]; of a "
            "scalar the number itself.",
            "anyOf": [*NUMBER, lists],
        },
    }


# ---- objects -------------------------------------------------------------------------------------

DESCRIPTION = ("kind", "dtype", "shape", "strides", "offset_bytes", "nbytes", "device", "storage",
               "storage_bytes", "mode", "epoch", "requires_grad", "is_leaf", "version")  # fmt: skip
SOMETIMES = ("id", "name", "generation", "ttl_ms", "grad_fn", "history")
WIDER = {"ttl_ms": UINT, "metadata": {"type": "string"}}  # what is left of it; what others wrote
QUEUE = ("queue", "count", "nbytes", "max_items", "max_bytes", "when_full", "visibility_ms",
         "closed")  # fmt: skip


def record(required=(), optional=(), more=None, **members):
    """An object of fields; `members` are required too and no fields, nor are those of `more`."""
    fields = {
        name: WIDER.get(name) or ref("schemas", "field." + name) for name in (*required, *optional)
    }
    return {
        "type": "object",
        "properties": {**fields, **members, **(more or {})},
        "required": [*required, *members],
        "additionalProperties": False,
    }


def entries(entry, required=(), optional=()):
    return record(required, optional, entries={"type": "array", "items": entry})


def answer_schemas(tables):
    tensor = ref("schemas", "Tensor")
    names = {"type": "array", "items": {"type": "string"}}
    result = record((), (*SOMETIMES, *DESCRIPTION, "memory", "reason", "seed", "text", "value",
                         "cursor", "since", "lost", *QUEUE, "item", "deliveries",
                         "lease", "meta"), {"entries": {"type": "array"}},
                    op={"type": "string"})  # fmt: skip
    op = record(("name", "text"))
    op["properties"].update(required=names, optional=names)
    op["required"] += ["required", "optional"]
    codes = [row["name"] for row in tables["status"] if row["name"] != "ok"]
    return {
        "Tensor": record(DESCRIPTION, SOMETIMES),
        "Made": record(DESCRIPTION, (*SOMETIMES, "memory", "reason", "seed")),
        "Elements": record(DESCRIPTION, (*SOMETIMES, "memory", "reason"),
                           {"data": ref("schemas", "Values")}),
        "TensorList": entries(tensor, ("count",), ("cursor",)),
        "Loaded": entries(tensor, ("count", "memory", "reason"), ("metadata",)),
        "Saved": record(("count",)),
        "OpList": entries(op),
        "EventList": entries(record(("event", "name", "revision")), ("since", "count"), ("lost",)),
        "Queue": record(QUEUE),
        "QueueInfo": entries(record(("name", "count")), QUEUE),
        "QueueList": entries(record(QUEUE), ("count",), ("cursor",)),
        "Queued": record(("item", "nbytes")),
        "Delivery": entries(record(DESCRIPTION, (*SOMETIMES, "key")),
                            ("item", "deliveries", "nbytes", "count", "lease"), ("meta",)),
        "PeekedItems": entries(
            record(("item", "deliveries", "nbytes", "count"), ("meta",),
                   {"tensors": {"type": "string"}}), ("count",)),
        "Drained": record(("count",)),
        "TextList": entries(record(("name", "text"))),
        "DeviceList": entries(record(("name", "text", "nbytes", "storage_bytes"))),
        "LeaseList": entries(record(
            ("lease", "session", "principal", "pid", "nbytes", "age_ms"),
            ("uid", "ttl_ms", "storage"),
            {"text": {"const": "deleted"}, "mode": ref("schemas", "field.mode")},
            kind=one_of("read", "write", "fill", "item", "producer")), ("count",), ("lease",)),
        "PrincipalList": entries(record(("principal", "name", "count"), ("limit",))),
        "CountList": entries(record(("name", "count"))),
        "Counts": {"type": "object", "additionalProperties": UINT},
        "Printed": record(("text",)),
        "Item": record(("value", "dtype")),
        "Nothing": {"type": "object", "maxProperties": 0},
        "Hello": record(("protocol", "session", "session_key", "boot", "text")),
        "Session": record(session=ref("schemas", "field.session_key"),
                          ttl_seconds={"type": "number", "exclusiveMinimum": 0}),
        "Contract": {"type": "object", "required": ["openapi", "info", "paths"]},
        "BatchResult": {
            "description": "What the operation would have been answered with, and its name.",
            "anyOf": [result, {"allOf": [ref("schemas", "Problem")], "required": ["op"]}],
        },
        "BatchResults": record(results={
            "type": "array", "maxItems": 1000, "items": ref("schemas", "BatchResult")}),
        "Problem": {
            "description": "RFC 9457. An error never changes what is stored.",
            "type": "object",
            "properties": {
                "type": {"type": "string", "pattern": "^urn:tensord:error:[a-z_]+$"},
                "title": {"type": "string"},
                "status": {"type": "integer", "minimum": 400, "maximum": 599},
                "detail": {"type": "string", "minLength": 1},
                "code": one_of(*codes),
            },
            "required": ["type", "title", "status", "detail", "code"],
        },
    }  # fmt: skip


def schemas(tables):
    return {**value_schemas(tables), **field_schemas(tables), **answer_schemas(tables)}


# ---- requests ------------------------------------------------------------------------------------

# Where an operation wants something else of a field, or of its fields together.
NARROWER = {
    ("delete", "input"): ref("schemas", "field.output"),
    ("expire", "input"): ref("schemas", "field.output"),
    ("rename", "input"): ref("schemas", "field.output"),
    ("wait", "input"): ref("schemas", "field.output"),
    ("release", "input"): {"anyOf": [text(OBJECT), {"type": "null"}]},
    ("map", "write"): {"enum": [False, None]},
    ("numpy", "write"): {"enum": [False, None]},
    ("list", "limit"): {"anyOf": [{**UINT, "minimum": 1}, {"type": "null"}]},
    ("queues", "limit"): {"anyOf": [{**UINT, "minimum": 1}, {"type": "null"}]},
    ("leases", "limit"): {"anyOf": [{**UINT, "minimum": 1}, {"type": "null"}]},
    ("publish", "mode"): {"enum": ["frozen", "single-writer", "mutable", None]},
    ("queue_peek", "limit"): {"anyOf": [{**UINT, "minimum": 1}, {"type": "null"}]},
    ("watch", "limit"): {"anyOf": [{**UINT, "minimum": 1}, {"type": "null"}]},
    ("hello", "protocol"): {"const": 1},
    ("arange", "end"): ref("schemas", "Real"),
    ("arange", "start"): {"anyOf": [ref("schemas", "Real"), {"type": "null"}]},
    ("arange", "step"): {"anyOf": [ref("schemas", "Real"), {"type": "null"}]},
}
EITHER = {"setitem": ("value", "other")}


# What release is told to give back. A lease may go with force or without.
NOTHING, NO = {"type": "null"}, {"enum": [False, None]}
RELEASED = (
    {"lease": ref("schemas", "field.lease"), "input": NOTHING},
    {"input": text(OBJECT), "lease": NOTHING, "force": NO},
    {"force": {"const": True}, "lease": NOTHING, "input": NOTHING},
)


def one_without(field, other):
    return {"required": [field], "properties": {other: {"type": "null"}}}


def members_of(required, optional):
    made = {name: ref("schemas", "field." + name) for name in required}
    return {**made, **{name: ref("schemas", "optional." + name) for name in optional}}


def op_schema(op):
    """The document that asks for an operation."""
    name = op["name"]
    properties = members_of(op["required"], op["optional"])
    properties.update({field: schema for (of, field), schema in NARROWER.items() if of == name})
    schema = {
        "type": "object",
        "properties": properties,
        "required": op["required"],
        "additionalProperties": False,
    }
    if name in EITHER:
        a, b = EITHER[name]
        schema["oneOf"] = [one_without(a, b), one_without(b, a)]
    if name == "release":
        schema["oneOf"] = [{"required": [*rule][:1], "properties": rule} for rule in RELEASED]
    if "makes" in op["traits"] and "output" not in op["required"]:
        schema["dependentRequired"] = {"create_only": ["output"], "if_generation": ["output"]}
    return schema


def tensor_schema(tables):
    """A tensor as a document. What a GET tells besides may stay in it, and is passed over."""
    taken = ("dtype", "shape", "requires_grad", "mutable")
    told = {*DESCRIPTION, *SOMETIMES, "memory", "reason"} - {*taken}
    types = type_schemas(tables)
    passed_over = {
        row["name"]: {"anyOf": [types[row["type"]], {"type": "null"}]}
        for row in tables["fields"]
        if row["name"] in told
    }
    members = {**members_of((), taken), **passed_over}
    whole = record(data=ref("schemas", "Values"), more=members)
    return {
        "description": "A tensor: an object with `data`, or the nested lists alone. dtype and "
        "shape are inferred where they are not given.",
        "anyOf": [whole, ref("schemas", "Values")],
    }


def batch_schema(ops):
    """A list of these operations."""
    fields = sorted({name for op in ops for name in op["required"] + op["optional"]})
    item = record(op=one_of(*(op["name"] for op in ops)), more=members_of((), fields))
    item["description"] = (
        "An operation and its fields. `@[0]` as an input stands for what the first one made."
    )
    items = {"type": "array", "maxItems": 1000, "items": item}
    return record(operations=items)
