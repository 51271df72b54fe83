"""Every operation of the table can be reached through a method of the package."""

import io

import numpy as np
import pytest

import tensord
from tensord._session import Session
from tensord._tensord import ffi, lib

# Sent by libtensord itself: when it connects, and when handles and arrays go.
# Those that libtensord calls by itself.
BY_THE_LIBRARY = {"hello", "release", "queue_create", "queue_put", "queue_get", "queue_ack"}


def table():
    found, description = {}, ffi.new("struct td_op_description *")
    while lib.td_op_info(len(found), description):
        name = ffi.string(description.name).decode()
        found[name] = {
            "doc": ffi.string(description.doc).decode(),
            "required": ffi.string(description.required).decode().split(),
            "optional": ffi.string(description.optional).decode().split(),
        }
    return found


@pytest.fixture
def reached(monkeypatch):
    """The names of the operations that the test has used."""
    seen = set()

    def record(method, name_of):
        original = getattr(Session, method)

        def call(self, *args, **kwargs):
            seen.add(name_of(*args))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Session, method, call)

    record("op", lambda name, *_rest: name)
    record("op_to_file", lambda name, *_rest: name)
    record("put", lambda *_args: "put")
    record("get", lambda *_args: "get")
    record("get_into", lambda *_args: "get")
    record("from_memory", lambda *_args: "from_numpy")
    record("touch", lambda *_args: "touch")
    record("allocate", lambda *_args: "allocate")
    record("publish", lambda *_args: "publish")
    record("map", lambda _name, flags: "numpy" if flags & lib.TD_MAP_NUMPY else "map")
    return seen


def make(c):
    """The operations that make tensors of nothing, or of arrays."""
    assert c.empty(2, 3).shape == c.empty((2, 3)).shape == (2, 3)
    assert c.zeros(2).tolist() == [0, 0] and c.ones(2, dtype="int8").tolist() == [1, 1]
    assert c.full((2,), 5).dtype == "int64" and c.full(2, 1.5).dtype == "float32"
    assert c.eye(2).tolist() == [[1, 0], [0, 1]] and c.eye(1, 2).tolist() == [[1, 0]]
    assert c.arange(3).tolist() == [0, 1, 2] and c.arange(1, 2, 0.5).tolist() == [1, 1.5]
    assert c.rand(3, seed=5).tolist() == c.rand(3, seed=5).tolist()
    assert c.rand(3, seed=5, counter=1).tolist() != c.rand(3, seed=5).tolist()
    assert c.randn(1000, seed=1).numpy().std() == pytest.approx(1, abs=0.1)
    assert set(c.randint(3, (100,), seed=1).tolist()) == {0, 1, 2}
    assert set(c.randint(5, 7, (100,)).tolist()) == {5, 6}
    assert c.tensor([1, 2], dtype="float16").dtype == "float16"
    assert c.from_numpy(np.ones(2)).tolist() == [1, 1]
    assert (
        c.zeros(2, mutable=False).mode == "frozen" and c.zeros(2, requires_grad=True).requires_grad
    )


def name(c):
    """The operations on names, and on the daemon."""
    c["ops/x"] = [1, 2, 3]
    assert c.info("ops/x").shape == (3,) and "ops/x" in c.list("ops/")
    c.rename("ops/x", "ops/y")
    c.copy("ops/y", "ops/z", mutable=True)
    assert c["ops/z"].mode == "mutable"
    c.touch("ops/z")
    c.expire("ops/z", 60)
    assert 50 < c.ttl("ops/z") <= 60
    c.expire("ops/z")
    assert c.ttl("ops/z") is None
    del c["ops/y"], c["ops/z"]
    assert c.ping(b"hello") == b"hello" and c.ping() == b""
    assert "cpu" in c.devices() and c.stats()["names"] >= 0
    assert set(c.ops()) == set(table())


def use(c):
    """The operations on a tensor."""
    x = c.arange(6).float().view(2, 3)
    for y in (x.to("int8"), x.type("int8"), x.cpu(), x.clone(), x.detach(), x.data, x.contiguous()):
        assert y.tolist() == x.tolist()
    with pytest.raises(tensord.NoDevice):
        x.cuda(99)
    assert c.as_tensor(x).id == x.id and x.numpy().tolist() == x.torch().tolist()
    assert x.reshape(3, 2).transpose(0, 1).permute(1, 0).shape == (3, 2)
    assert x.select(0, 1).tolist() == [3, 4, 5] and x.slice(1, 0, 3, 2).tolist() == [[0, 2], [3, 5]]
    assert x[1, 2].item() == 5 and x.unsqueeze(0).squeeze().expand(2, 2, 3).shape == (2, 2, 3)
    x[0] = 9
    assert x.copy_(x + 1).mul(2).fill_(3).tolist() == [[3] * 3] * 2 and x.tobytes()
    v = c.variable("ops/v", x, requires_grad=True)
    assert v.requires_grad and not c.variable(x).requires_grad and c.variable("ops/v").is_variable
    v.requires_grad_(False).requires_grad_()
    v.grad = x
    assert v.grad.tolist() == x.tolist()
    with c.allocate((2, 3)) as memory:
        memory.array[:] = 7
        assert memory.publish("ops/filled").tolist() == [[7] * 3] * 2
    assert c.zeros(3).seal().mode == "frozen" and c.seal("ops/v", wait=0).mode == "frozen"
    c.save(file := io.BytesIO(), "ops")
    assert c.load(file.getvalue(), "again").keys() == {"filled", "v"}
    assert c.leases() == [] and c.principals()
    assert repr(v).startswith("tensor(") and repr(v).endswith("requires_grad=True)")


def wait_and_queue(c):
    """What others do, and handing over to them."""
    c["ops/there"] = c.zeros(1)
    assert c.wait("ops/there", timeout=10).shape == (1,)
    assert list(c.watch("ops/nothing", timeout=0.01)) == []
    q = c.queue("ops/q")
    q.put(c["ops/there"])
    assert c.queues("ops/") == ["ops/q"] and q.qsize() == 1 and q.peek()[0].nbytes == 4
    item = q.get()
    item.ack()
    del item
    q.put([1.0])
    assert q.drain() == 1
    q.close()
    q.delete()


def test_every_operation_is_reached(client, reached):
    make(client)
    name(client)
    use(client)
    wait_and_queue(client)
    assert set(table()) - reached == BY_THE_LIBRARY


def test_any_operation_by_name(client):
    x = client.ones(2, 3)
    reply = client.op("transpose", input=x, dim0=0, dim1=1)
    assert reply.info().shape == (3, 2)
    assert client.op("item", input=x[0, 0]).fields()["value"] == 1
    assert client.op("print", input=x).text("text") == repr(x)
    with pytest.raises(tensord.NotFound):
        client.op("no_such_operation")
    with pytest.raises(ValueError, match="dim1"):
        client.op("transpose", input=x, dim0=0)
    with pytest.raises(ValueError, match="force"):
        client.op("transpose", input=x, dim0=0, dim1=1, force=True)


def test_the_fields_of_the_table_have_types():
    for row in table().values():
        assert row["doc"]
        for field in row["required"] + row["optional"]:
            assert lib.td_field_type(field.encode()) != ffi.NULL
