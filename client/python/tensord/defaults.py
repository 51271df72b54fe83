"""The default client, and PyTorch's functions on it: tensord.rand(4, 3), tensord.from_numpy(a).

It connects when it is first used, as tensord.connect() without arguments does, and anew in a
child process after fork().
"""

import functools
import os
import threading
from typing import Any, Callable, TypeVar

from tensord.client import Client
from tensord.errors import ConnectionError

_client: "Client | None" = None
_lock = threading.Lock()

_Method = TypeVar("_Method", bound=Callable[..., Any])


def default_client() -> Client:
    """The client that the functions of this package use."""
    global _client
    with _lock:
        if _client is None or _client.closed:
            _client = Client()
        return _client


def _after_fork_in_child() -> None:
    """Another thread of the parent may have held the lock, and is not there to give it back."""
    global _client, _lock
    _lock = threading.Lock()
    _client = None


os.register_at_fork(after_in_child=_after_fork_in_child)


def set_default_client(client: "Client | None") -> None:
    """Makes a client the default one. None: connect anew when it is next needed."""
    global _client
    with _lock:
        _client = client


def _on_default(method: _Method) -> Any:
    """A function that calls a method of the default client."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(default_client(), method.__name__)(*args, **kwargs)

    return call


arange = _on_default(Client.arange)
as_tensor = _on_default(Client.as_tensor)
eye = _on_default(Client.eye)
from_numpy = _on_default(Client.from_numpy)
full = _on_default(Client.full)
ones = _on_default(Client.ones)
rand = _on_default(Client.rand)
randint = _on_default(Client.randint)
randn = _on_default(Client.randn)
tensor = _on_default(Client.tensor)
zeros = _on_default(Client.zeros)


def devices() -> "list[str]":
    """The devices of the default client's daemon; none where no daemon answers."""
    try:
        return default_client().devices()
    except ConnectionError:
        return []
