"""tensord: named tensors in a daemon, shared by every process that needs the same bytes.

    import tensord
    c = tensord.connect()
    c["x"] = np.eye(3)          # stored
    c["x"].numpy()              # the daemon's own memory, not a copy

NumPy and PyTorch are used where they are installed, and imported only when they are asked for. The
functions below with PyTorch's names work on the default client, so that a notebook's
`import torch` can be `import tensord as torch`. `tensord.empty` is the exception: it makes a NumPy
array whose memory can be shared; Client.empty makes a tensor.
"""

from tensord import autograd, cuda, dtypes
from tensord._tensord import ffi, lib
from tensord.allocation import Allocation
from tensord.client import Client, Lease, connect
from tensord.defaults import (
    arange,
    as_tensor,
    default_client,
    eye,
    from_numpy,
    full,
    ones,
    rand,
    randint,
    randn,
    set_default_client,
    tensor,
    zeros,
)
from tensord.dtypes import (
    DType,
    bfloat16,
    complex64,
    complex128,
    dtype,
    float8_e4m3fn,
    float8_e5m2,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from tensord.dtypes import bool_ as bool
from tensord.errors import (
    BadDtype,
    BadIndex,
    BadShape,
    Cancelled,
    Closed,
    Conflict,
    ConnectionError,
    Deadline,
    Empty,
    Error,
    Exists,
    Forbidden,
    Frozen,
    Full,
    Invalid,
    NoDevice,
    NotFound,
    OutOfMemory,
    Precondition,
    RequiresGrad,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
    WrongDevice,
)
from tensord.files import Loaded
from tensord.handle import Device
from tensord.memory import allocator, empty
from tensord.queues import Item, Queue, Segment
from tensord.tensor import Tensor, Variable, is_tensor
from tensord.waiting import Event

__version__ = ffi.string(lib.td_version()).decode()

__all__ = [
    "Allocation",
    "BadDtype",
    "BadIndex",
    "BadShape",
    "Cancelled",
    "Client",
    "Closed",
    "Conflict",
    "ConnectionError",
    "DType",
    "Deadline",
    "Device",
    "Empty",
    "Full",
    "Item",
    "Error",
    "Event",
    "Exists",
    "Forbidden",
    "Frozen",
    "Invalid",
    "Lease",
    "Loaded",
    "NoDevice",
    "NotFound",
    "OutOfMemory",
    "Precondition",
    "Queue",
    "RequiresGrad",
    "Segment",
    "Tensor",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unsupported",
    "Variable",
    "WrongDevice",
    "allocator",
    "arange",
    "as_tensor",
    "autograd",
    "bfloat16",
    "bool",
    "complex128",
    "complex64",
    "connect",
    "cuda",
    "default_client",
    "dtype",
    "dtypes",
    "empty",
    "eye",
    "float16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
    "from_numpy",
    "full",
    "int16",
    "int32",
    "int64",
    "int8",
    "is_tensor",
    "ones",
    "rand",
    "randint",
    "randn",
    "set_default_client",
    "tensor",
    "uint16",
    "uint32",
    "uint64",
    "uint8",
    "zeros",
]
