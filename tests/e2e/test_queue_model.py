"""One queue and several sessions against a plain model of it: whatever they do, in any order, items
come in the model's order with the model's number of deliveries, and every byte is one that was put.

What waits for time is kept apart from what does not: an item in hand expires only when the test
lets it, for it waits until all that are in hand have."""

import time

import pytest
from harness import SMALL, Daemon, ok
from queue_client import SIZE, Consumer, Item, Producer, info, make

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import (  # noqa: E402
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

SESSIONS = 3
DELIVERIES_MAX = 5
VISIBILITY_MS = 300  # long beside what a step takes, short to wait for

running = {}


@pytest.fixture(scope="module", autouse=True)
def _daemon():
    with Daemon(*SMALL) as daemon:
        running["daemon"] = daemon
        yield
        running.clear()


class Entry:
    """An item of the model: its number, its bytes, and how often it was handed out."""

    def __init__(self, number, data):
        self.number, self.data, self.deliveries = number, data, 0


class QueueMachine(RuleBasedStateMachine):
    @initialize(max_items=st.integers(1, 4),
                when_full=st.sampled_from(["block", "fail", "drop_oldest"]),
                expires=st.booleans())  # fmt: skip
    def begin(self, max_items, when_full, expires):
        self.daemon = running["daemon"]
        self.before = self.daemon.state()
        self.control = self.daemon.connect()
        self.sessions = [self.daemon.connect() for _ in range(SESSIONS)]
        self.producers = [Producer(client) for client in self.sessions]
        self.consumers = [Consumer(client) for client in self.sessions]
        visibility = VISIBILITY_MS if expires else 3600000
        make(self.control, max_items=max_items, when_full=when_full, visibility_ms=visibility)
        self.max_items, self.when_full, self.expires = max_items, when_full, expires
        self.waiting, self.parked, self.closed = [], [], False
        self.hands = [[] for _ in range(SESSIONS)]  # of (Item, Entry, view)
        self.flying = {}  # by lease: the Entry
        self.numbers = 0
        self.renew()

    # What is in hand must not expire by itself.

    def renew(self):
        self.deadline = time.monotonic() + VISIBILITY_MS / 1000 / 2

    def check_time(self):
        """Lets everything in hand expire if it may have."""
        if self.expires and self.flying and time.monotonic() > self.deadline:
            self.expire_all()

    def come_back(self, entry):
        if entry.deliveries >= DELIVERIES_MAX:
            self.parked.append(entry)
        else:
            self.waiting.append(entry)
            self.waiting.sort(key=lambda e: e.number)

    def expire_all(self):
        time.sleep(VISIBILITY_MS / 1000 + 0.02)
        for entry in self.flying.values():
            self.come_back(entry)
        self.flying.clear()

    # Rules

    @rule(who=st.integers(0, SESSIONS - 1), size=st.sampled_from([1, 100, SIZE, 2 * SIZE]),
          seed=st.integers(0, 255), allocated=st.booleans())  # fmt: skip
    def put(self, who, size, seed, allocated):
        self.check_time()
        client, data = self.sessions[who], bytes([seed]) * (size - 1) + b"!"
        if allocated:
            fields = self.producers[who].allocate([size])
            self.producers[who].fill(fields, data)
        else:
            fields = ok(client.request("tensor", {"dtype": "uint8", "shape": [size]}, data))
        status, reply, _, _ = self.producers[who].put(fields, timeout_ms=0)
        full = len(self.waiting) >= self.max_items
        if self.closed:
            assert status == "closed", reply
        elif full and self.when_full != "drop_oldest":
            assert status == "full", reply
        else:
            assert status == "ok", reply
            self.numbers += 1
            assert reply["item"] == self.numbers
            while len(self.waiting) >= self.max_items:
                self.waiting.pop(0)
            self.waiting.append(Entry(self.numbers, data))
        if status != "ok" or not allocated:
            ok(client.request("release", {"input": f"@{fields['id']}"}))

    @rule(who=st.integers(0, SESSIONS - 1))
    def get(self, who):
        self.check_time()
        if not self.flying:
            self.renew()
        reply = self.sessions[who].request("queue_get", {"queue": "q", "timeout_ms": 0})
        if not self.waiting:
            over = self.closed and not self.flying
            assert reply[0] == ("closed" if over else "empty"), reply
            return
        item, entry = Item(self.sessions[who], reply), self.waiting.pop(0)
        entry.deliveries += 1
        assert (item.number, item.deliveries) == (entry.number, entry.deliveries)
        segment = item.tensors[0]["mode"] == "single-writer"
        view = self.consumers[who].view(item) if segment else None
        self.hands[who].append((item, entry, view))
        self.flying[item.lease] = entry

    @precondition(lambda self: any(self.hands))
    @rule(data=st.data(), release=st.booleans())
    def acknowledge(self, data, release):
        self.check_time()
        who, (item, entry, view) = self.pick(data)
        status, reply, _, _ = item.ack()
        if self.flying.pop(item.lease, None):
            assert status == "ok", reply
        else:
            assert status == "conflict", reply
        if release:
            self.let_go(who, (item, entry, view))

    @precondition(lambda self: any(self.hands))
    @rule(data=st.data())
    def release(self, data):
        self.check_time()
        self.let_go(*self.pick(data))

    def pick(self, data):
        choices = [(who, held) for who in range(SESSIONS) for held in self.hands[who]]
        return data.draw(st.sampled_from(choices))

    def let_go(self, who, held):
        item, entry, view = held
        if view:
            view.release()
        item.release()
        self.hands[who].remove(held)
        if self.flying.pop(item.lease, None):
            self.come_back(entry)

    @rule(who=st.integers(0, SESSIONS - 1))
    def die(self, who):
        self.check_time()
        self.sessions[who].close()
        for item, entry, _ in self.hands[who]:
            if self.flying.pop(item.lease, None):
                self.come_back(entry)
        self.hands[who] = []
        deadline = time.monotonic() + 10
        while info(self.control)["in_flight"] != len(self.flying):
            assert time.monotonic() < deadline
        self.sessions[who] = self.daemon.connect()
        self.producers[who] = Producer(self.sessions[who])
        self.consumers[who] = Consumer(self.sessions[who])

    @precondition(lambda self: self.expires and self.flying)
    @rule()
    def expire(self):
        self.expire_all()

    @rule(parked=st.booleans())
    def drain(self, parked):
        self.check_time()
        gone = self.parked if parked else self.waiting
        reply = ok(self.control.request("queue_drain", {"queue": "q", "parked": parked}))
        assert reply["count"] == len(gone)
        gone.clear()

    @precondition(lambda self: self.numbers > 5)
    @rule()
    def close(self):
        ok(self.control.request("queue_close", {"queue": "q"}))
        self.closed = True

    # What always holds

    @invariant()
    def counts_agree(self):
        if not hasattr(self, "control"):
            return
        self.check_time()
        now = info(self.control)
        told = (now["items"], now["in_flight"], now["parked"], now["closed"])
        assert told == (len(self.waiting), len(self.flying), len(self.parked), self.closed)
        assert now["bytes"] == sum(len(entry.data) for entry in self.waiting)
        assert now["puts"] == self.numbers
        assert now["gets"] == now["acks"] + now["returned"] + now["expired"] + now["in_flight"]

    @invariant()
    def every_byte_in_hand_is_one_that_was_put(self):
        if not hasattr(self, "control"):
            return
        for item, entry, view in (held for hand in self.hands for held in hand):
            got = bytes(view) if view else item.bytes()
            assert got == entry.data, f"item {item.number} has changed"

    def teardown(self):
        if not hasattr(self, "control"):
            return
        ok(self.control.request("queue_delete", {"queue": "q"}))
        for client in (*self.sessions, self.control):
            client.close()
        self.daemon.settle(self.before)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=60, deadline=None,
                              suppress_health_check=list(HealthCheck))  # fmt: skip
