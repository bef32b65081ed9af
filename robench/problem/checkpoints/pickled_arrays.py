"""Reads NumPy arrays in pickles without calling NumPy's own unpickling functions.

A pickle names three functions of NumPy for an array. These allocate memory for any shape and change types in place.
Here the names map to records that store their arguments, and an array is made only once its numbers are there.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class PickledType:
    """An array's type in a pickle: a code such as `f4`, and the byte order."""

    def __init__(self, code: object = "", *_flags: object):
        self.code = code.decode() if isinstance(code, bytes) else str(code)
        self.order = "="

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", b"<", b">"):
            self.order = state[1].decode() if isinstance(state[1], bytes) else state[1]

    @property
    def dtype(self) -> "np.dtype[Any] | None":
        """The type, if it is numeric; None for text, objects and all else."""
        kind, size = self.code.lstrip("<>=|")[:1], self.code.lstrip("<>=|")[1:]
        plain = kind in tuple("fiubc") and size in ("1", "2", "4", "8", "16")
        return np.dtype(f"{self.order}{kind}{size}") if plain else None


class PickledArray:
    """An array in a pickle. `array` is None until its data are read, and if they are not numbers."""

    def __init__(self, *_placeholder: object):
        self.array: Array | None = None

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, tuple(shape), PickledType() as kind, bool() | int() as columns_first, bytes(data)):
                self.array = _filled(data, kind, shape, "F" if columns_first else "C")


def _filled(data: bytes | bytearray, kind: PickledType, shape: tuple[Any, ...], order: str) -> Array | None:
    dtype = kind.dtype
    if dtype is None:
        return None
    if not all(isinstance(side, int) and side >= 0 for side in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("an array is not as long as its shape")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _of_buffer(data: bytes | bytearray, kind: PickledType, shape: tuple[Any, ...], order: str) -> PickledArray:
    """Replaces NumPy's `_frombuffer`, which pickles of protocol 5 name."""
    made = PickledArray()
    made.array = _filled(data, kind, shape, order)
    return made


def _number(kind: PickledType, data: object = b"") -> object:
    """Replaces NumPy's `scalar`."""
    if kind.dtype is None or not isinstance(data, bytes):
        return None
    return np.frombuffer(data, kind.dtype, count=1)[0]


def array_names() -> list[tuple[Callable[..., Any], str]]:
    """The replacement for each name, under the names of NumPy 1 and 2."""
    functions: dict[str, Callable[..., Any]] = {
        "multiarray._reconstruct": PickledArray,
        "multiarray.scalar": _number,
        "numeric._frombuffer": _of_buffer,
    }
    return [
        *((function, f"numpy.{core}.{name}") for core in ("core", "_core") for name, function in functions.items()),
        (PickledArray, "numpy.ndarray"),
        (PickledType, "numpy.dtype"),
    ]
