"""The frames of proto/wire/vectors.txt, as plain_client.py reads and builds them.

    python3 tests/e2e/test_vectors.py FOLDER     writes each frame to a file: a corpus for fuzzing
"""

import os
import re
import sys

import plain_client as plain
import pytest

VECTORS = os.path.join(os.path.dirname(__file__), "..", "..", "proto", "wire", "vectors.txt")
HEADER_DEFAULTS = {"flags": 0, "status": 0, "descriptors": 0}


class Vector:
    """One frame of the file: its bytes, and what they mean."""

    def __init__(self, title):
        self.title = title
        self.bytes = b""
        self.header = None  # a dict
        self.fields = {}
        self.body = b""
        self.entries = None  # of a list
        self.refused = None  # (header, meta or list; status)
        self.request_id = None

    def add(self, word, rest):
        if word == "hex":
            self.bytes += bytes.fromhex(rest)
        elif word == "header":
            self.header = {k: int(v) for k, v in (pair.split("=") for pair in rest.split())}
        elif word == "body":
            self.body = bytes.fromhex(rest)
        elif word == "entry":
            self.entries = (self.entries or []) + [{}]
        elif word == "refused":
            self.refused = tuple(rest.split())
        elif word == "request_id":
            self.request_id = int(rest)
        else:
            name, _, value = rest.partition(" ")
            fields = self.fields if self.entries is None else self.entries[-1]
            if word == "unknown":
                fields[f"#{name}"] = bytes.fromhex(value)
            else:
                assert word == "field", word
                kind = plain.FIELDS[plain.FIELD_NUMBERS[name]][1]
                fields[name] = parse_value(kind, value)

    @property
    def meta(self):
        return self.bytes[40 : 40 + self.header["meta_length"]]

    @property
    def body_bytes(self):
        return self.bytes[40 + self.header["meta_length"] :]


def parse_scalar(text):
    kind, *numbers = text.split()
    if kind == "complex":
        return plain.Scalar(kind, complex(*map(float, numbers)))
    return plain.Scalar(kind, float(numbers[0]) if kind == "float" else int(numbers[0]))


def parse_item(text):
    if text in ("...", "None"):
        return {"...": Ellipsis, "None": None}[text]
    ends = [int(end) if end else None for end in text.split(":")]
    return slice(*ends) if len(ends) == 3 else ends[0]


def parse_value(kind, text):
    if kind in ("uint", "int", "bool"):
        return int(text)
    if kind in ("text", "dtype"):
        return text
    if kind == "dims":
        return [int(word) for word in text.split()]
    return parse_scalar(text) if kind == "scalar" else [parse_item(word) for word in text.split()]


def read_vectors():
    vectors = []
    with open(VECTORS, encoding="utf-8") as file:
        for line in file.read().split("\n"):
            word, _, rest = line.partition(" ")
            if word == "frame":
                vectors.append(Vector(rest))
            elif word and word != "#":
                vectors[-1].add(word, rest)
    return vectors


ALL = read_vectors()
GOOD = [v for v in ALL if not v.refused]


def refused(part):
    return [v for v in ALL if v.refused and v.refused[0] == part]


def each(vectors):
    return pytest.mark.parametrize("vector", vectors, ids=lambda v: v.title)


def show(data):
    return "\n".join(f"hex {data[i : i + 40].hex()}" for i in range(0, len(data), 40))


def test_titles_are_unique():
    assert len({v.title for v in ALL}) == len(ALL)


def test_every_type_and_dtype_has_a_vector():
    kinds = {plain.FIELDS[plain.FIELD_NUMBERS[n]][1] for v in GOOD for n in v.fields if n[0] != "#"}
    assert kinds == {kind for _, kind in plain.FIELDS.values()}
    assert {v.fields.get("dtype") for v in GOOD} - {None} == set(plain.DTYPE_NUMBERS)


@each(GOOD)
def test_built_from_its_meaning(vector):
    body = vector.body if vector.entries is None else plain.build_list(vector.entries)
    meta = plain.build_meta(vector.fields)
    header = plain.build_header(plain.Header(**vector.header))
    expected = header + meta + body
    assert vector.bytes == expected, "its bytes should be\n" + show(expected)
    assert vector.header["meta_length"] == len(meta)


@each(GOOD)
def test_read(vector):
    header = plain.read_header(vector.bytes[:40])
    assert header == plain.Header(**vector.header)
    fields = plain.read_meta(vector.meta, lenient=header.flags == plain.REPLY)
    assert list(fields) == list(vector.fields)
    assert plain.build_meta(fields) == vector.meta
    if vector.entries is not None:
        assert plain.read_list(vector.body_bytes) == vector.entries


@each(refused("header"))
def test_header_is_refused(vector):
    with pytest.raises(plain.Refused) as refusal:
        plain.read_header(vector.bytes[:40])
    assert refusal.value.status == vector.refused[1]
    assert plain.HEADER.unpack(vector.bytes[:40])[4] == vector.request_id


@each(refused("meta"))
def test_meta_is_refused(vector):
    header = plain.read_header(vector.bytes[:40])
    assert header == plain.Header(**vector.header)
    with pytest.raises(plain.Refused) as refusal:
        plain.read_meta(vector.meta, lenient=header.flags == plain.REPLY)
    assert refusal.value.status == vector.refused[1]


@each(refused("list"))
def test_list_is_refused(vector):
    with pytest.raises(plain.Refused) as refusal:
        plain.read_list(vector.body_bytes)
    assert refusal.value.status == vector.refused[1]
    good = plain.build_list(vector.entries or [])
    assert vector.body_bytes.startswith(good)


def write_corpus(folder):
    os.makedirs(folder, exist_ok=True)
    for vector in ALL:
        name = re.sub(r"\W+", "_", vector.title, flags=re.ASCII).strip("_")
        with open(os.path.join(folder, name), "wb") as file:
            file.write(vector.bytes)


if __name__ == "__main__":
    write_corpus(sys.argv[1])
