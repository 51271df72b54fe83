"""Arithmetic on shapes and strides, in elements."""

import math


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
        arguments = tuple(arguments[0])
    return tuple(size.__index__() for size in arguments)
