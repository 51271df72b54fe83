"""Waiting for what others publish and remove."""

import math
import time
from typing import Any, Iterator, NamedTuple

from tensord._session import Session, seconds
from tensord.errors import NotFound


class Event(NamedTuple):
    """What happened to a name.

    event: "publish" (also a touch), or "remove"; "lost" (of no name): so much has happened since
    the last event that the daemon has forgotten some of it, so look at the names anew. revision:
    of the store, rising; of a publish it is the tensor's generation. With it as `since` another
    watch goes on after the event.
    """

    event: str
    name: str
    revision: int


def timeout_argument(timeout: "float | None") -> "int | None":
    """The field timeout_ms of a time in seconds, rounded up; None for ever."""
    if timeout is None or (timeout := seconds(timeout, "timeout")) == math.inf:
        return None
    if not timeout >= 0:
        raise ValueError(f"timeout is a time in seconds, or None for ever: {timeout}")
    return min(math.ceil(timeout * 1000), 2**62)


def wait(client: Any, name: str, generation: "int | None", timeout: "float | None") -> Any:
    """See Client.wait."""
    timeout_argument(timeout)  # refuses what is none
    ends = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if ends is None else max(0.0, ends - time.monotonic())
        client.session.op(
            "wait", input=name, generation=generation, timeout_ms=timeout_argument(left)
        )
        try:
            return client[name]
        except NotFound:  # removed again just now
            continue


def watch(
    session: Session, prefix: str, since: "int | None", timeout: "float | None"
) -> Iterator[Event]:
    """See Client.watch. What happens from this call on is told, whenever the first is asked for."""
    timeout_ms = timeout_argument(timeout)
    if since is None:
        since = session.op("watch", prefix=prefix or None, timeout_ms=0).uint("since")
    return _events(session, prefix, since, timeout_ms)


def _events(
    session: Session, prefix: str, since: "int | None", timeout_ms: "int | None"
) -> Iterator[Event]:
    while True:
        reply = session.op("watch", prefix=prefix or None, since=since, timeout_ms=timeout_ms)
        before, since = since, reply.uint("since")
        if reply.bool("lost"):
            yield Event("lost", "", before or 0)
        elif not reply.uint("count"):
            return
        for entry in reply.entries():
            yield Event(
                entry.text("event") or "", entry.text("name") or "", entry.uint("revision") or 0
            )
