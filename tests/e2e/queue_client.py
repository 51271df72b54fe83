"""What the tests of queues share: a plain client that allocates, fills, puts, gets and maps as
PROTOCOL.md says under Queues, and counts what that took."""

import mmap
import os
import resource

import plain_client as plain
from harness import ok

SIZE = 70000  # bytes: a memfd from the start


def make(client, name="q", **settings):
    """A new queue in place of an old one."""
    client.request("queue_delete", {"queue": name})
    return ok(client.request("queue_create", {"queue": name, **settings}))


def info(client, name="q"):
    status, fields, body, _ = client.request("queue_info", {"queue": name})
    assert status == "ok", fields
    return {**fields, **{row["name"]: row["count"] for row in plain.read_list(body)}}


class Item:
    """What a get gave: .tensors are its entries, .lease what to acknowledge and release."""

    def __init__(self, client, reply):
        fields, body = ok(reply), reply[2]
        self.client, self.tensors = client, plain.read_list(body)
        self.lease, self.number, self.deliveries = (
            fields["lease"], fields["item"], fields["deliveries"])  # fmt: skip
        self.meta = fields.get("meta")
        assert fields["count"] == len(self.tensors)

    def ack(self):
        return self.client.request("queue_ack", {"lease": self.lease})

    def release(self):
        ok(self.client.request("release", {"lease": self.lease}))

    def done(self):
        ok(self.ack())
        self.release()

    def bytes(self, i=0):
        return self.client.request("get", {"input": f"@{self.tensors[i]['id']}"})[2]


def get(client, name="q", **fields):
    return Item(client, client.request("queue_get", {"queue": name, "timeout_ms": 0, **fields}))


def put_text(client, text, name="q", **fields):
    """An item of a small tensor with that text, which is in meta, too."""
    reply = ok(put_tensor(client, text.encode()))
    fields = {"queue": name, "tensors": f"@{reply['id']}", "meta": text, **fields}
    status = client.request("queue_put", fields)
    client.request("release", {"input": f"@{reply['id']}"})
    return status


def put_tensor(client, data):
    return client.request("tensor", {"dtype": "uint8", "shape": [len(data)]}, data)


def drain_texts(client, name="q"):
    """Gets and acknowledges all that waits."""
    texts = []
    while True:
        reply = client.request("queue_get", {"queue": name, "timeout_ms": 0})
        if reply[0] != "ok":
            assert reply[0] in ("empty", "closed"), reply
            return texts
        item = Item(client, reply)
        texts.append(item.meta)
        item.done()


class Mapped:
    """The segments of a client, each mapped once."""

    def __init__(self, client, protection):
        self.client, self.protection = client, protection
        self.maps, self.descriptors = {}, 0

    def add(self, fields, fds):
        for fd in fds:
            self.descriptors += 1
            self.maps[fields["storage"]] = mmap.mmap(fd, fields["storage_bytes"], mmap.MAP_SHARED,
                                                     self.protection)  # fmt: skip
            os.close(fd)

    def close(self):
        for mapped in self.maps.values():
            mapped.close()


class Producer(Mapped):
    def __init__(self, client, queue="q"):
        super().__init__(client, mmap.PROT_READ | mmap.PROT_WRITE)
        self.queue = queue

    def allocate(self, shape=(SIZE,), dtype="uint8", **fields):
        reply = self.client.request("allocate", {"queue": self.queue, "shape": list(shape),
                                                 "dtype": dtype, **fields})  # fmt: skip
        self.add(ok(reply), reply[3])
        return reply[1]

    def fill(self, fields, data):
        self.maps[fields["storage"]][: len(data)] = data

    def put(self, fields, **more):
        wanted = {"queue": self.queue, "tensors": f"@{fields['id']}", **more}
        return self.client.request("queue_put", wanted)

    def send(self, data, **more):
        """Allocates, fills and puts; the storage's id."""
        fields = self.allocate([len(data)])
        self.fill(fields, data)
        ok(self.put(fields, **more))
        return fields["storage"]


class Consumer(Mapped):
    def __init__(self, client):
        super().__init__(client, mmap.PROT_READ)

    def view(self, item, i=0):
        """The tensor's memory, mapped if it was not; the lease of the mapping is given back at
        once, for what keeps the segment is the item."""
        fields = item.tensors[i]
        if fields["storage"] not in self.maps:
            reply = self.client.request("map", {"input": f"@{fields['id']}"})
            self.add(ok(reply), reply[3])
            ok(self.client.request("release", {"lease": reply[1]["lease"]}))
        start = fields["offset_bytes"]
        return memoryview(self.maps[fields["storage"]])[start : start + fields["nbytes"]]


def page_faults():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def touch(view):
    return sum(view[::4096])


