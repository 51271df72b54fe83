"""Arithmetic on shapes and strides, in elements."""

import math
from typing import Any


def c_strides(shape: tuple) -> tuple:
    """The strides of C order without holes."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def count(shape: tuple) -> int:
    """The number of elements."""
    return math.prod(shape)


def is_contiguous(shape: tuple, strides: tuple) -> bool:
    """C order without holes; dimensions of size 1 may have any stride, as in PyTorch."""
    return 0 in shape or all(
        size == 1 or have == want for size, have, want in zip(shape, strides, c_strides(shape))
    )


def sizes(arguments: tuple) -> tuple:
    """The sizes of f(2, 3) and of f((2, 3)), as PyTorch takes both."""
    if len(arguments) == 1 and not hasattr(arguments[0], "__index__"):
        if isinstance(arguments[0], str) or not hasattr(arguments[0], "__iter__"):
            raise _no_size(arguments[0])
        arguments = tuple(arguments[0])
    return tuple(map(_size, arguments))


def _size(size: Any) -> int:
    if not hasattr(size, "__index__"):
        raise _no_size(size)
    return int(size.__index__())


def _no_size(given: Any) -> TypeError:
    kind = type(given).__name__
    return TypeError(f"sizes and dimensions are integers, as (2, 3) or 2, 3, not {kind} {given!r}")
