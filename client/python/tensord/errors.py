"""What can go wrong: one class for each error of the daemon's status table.

Every error is a `tensord.Error` and, beside that, whatever PyTorch, NumPy or Python itself would
raise there, so that existing `except` clauses keep working. `code` is the status table's name
("not_found"), the text says what was wrong, what was expected and what to do; where PyTorch has
the same error, it is PyTorch's text.
"""

import builtins
import queue

from tensord._tensord import ffi, lib


class Error(Exception):
    """Anything that tensord reports. `code` is the name in the daemon's status table."""

    code = "internal"


class Invalid(Error, ValueError, RuntimeError):
    """An argument is missing, malformed or unknown. PyTorch raises RuntimeError for many."""


class Unauthorized(Error, PermissionError):
    """The daemon wants a token, and none or a wrong one was given."""


class Forbidden(Error, PermissionError):
    """The daemon may not do that: read or write a file where its owner does not allow it."""


class NotFound(Error, KeyError):
    """There is no such name or object."""

    __str__ = Exception.__str__  # KeyError's would put the sentence in quotes


class Conflict(Error, RuntimeError):
    """The state of the tensor does not allow this."""


class Exists(Conflict):
    """The name is taken."""


class RequiresGrad(Conflict):
    """The tensor requires grad, and this would go around its history."""


class Frozen(Conflict):
    """The bytes of this tensor can no longer change."""


class WrongDevice(Error, TypeError):
    """The tensor is on another device than this needs."""


class Precondition(Conflict):
    """The name has another generation than was asked for."""


class TooLarge(Error, ValueError):
    """A length is over a limit of the daemon."""


class Unsupported(Error, NotImplementedError):
    """This dtype, layout or transport cannot do that."""


class BadShape(Error, RuntimeError):
    """A shape does not fit; a RuntimeError, as in PyTorch."""


class BadIndex(Error, IndexError):
    """An index or a dimension does not fit the shape."""


class BadDtype(Error, TypeError, RuntimeError):
    """The dtype is unknown, or the cast is refused; PyTorch raises RuntimeError for some casts."""


class NoDevice(Error, RuntimeError):
    """The device does not exist where the daemon runs."""


class Cancelled(Error):
    """The request was taken back before it was done."""


class Unavailable(Error):
    """The daemon is stopping, or a limit on requests is reached."""


class Deadline(Error, TimeoutError):
    """The request was not done in time."""


class OutOfMemory(Error, MemoryError):
    """The daemon's memory limit does not allow this."""


class Full(Error, queue.Full):
    """The queue has no room for another item."""


class Empty(Error, queue.Empty):
    """The queue has nothing to hand out."""


class Closed(Error):
    """The queue is closed, or was deleted."""


class ConnectionError(Error, builtins.ConnectionError):
    """The daemon cannot be reached, or the connection was lost."""


CLASSES = {
    "invalid": Invalid,
    "protocol": ConnectionError,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "not_found": NotFound,
    "conflict": Conflict,
    "exists": Exists,
    "requires_grad": RequiresGrad,
    "wrong_device": WrongDevice,
    "frozen": Frozen,
    "precondition": Precondition,
    "too_large": TooLarge,
    "unsupported": Unsupported,
    "bad_shape": BadShape,
    "bad_index": BadIndex,
    "bad_dtype": BadDtype,
    "no_device": NoDevice,
    "cancelled": Cancelled,
    "internal": Error,
    "unavailable": Unavailable,
    "deadline": Deadline,
    "out_of_memory": OutOfMemory,
    "connection": ConnectionError,
    "full": Full,
    "empty": Empty,
    "closed": Closed,
}
for _code, _class in CLASSES.items():
    if "code" not in vars(_class) and _class is not Error:
        _class.code = _code
ConnectionError.code = "connection"


def check(status: int) -> None:
    """Raises the exception of a libtensord status, with the text of the failed call."""
    if status != lib.TD_OK:
        raise failure(status)


def failure(status: int) -> Error:
    """The exception that belongs to a status of the call this thread made last."""
    # The text first: nothing that could make another call may come before it is copied.
    text = ffi.string(lib.td_last_error()).decode("utf-8", "replace")
    code = ffi.string(lib.td_status_name(status)).decode()
    error = CLASSES.get(code, Error)(text or ffi.string(lib.td_status_meaning(status)).decode())
    error.code = code
    return error
