"""Reads the pickled batches of CIFAR-10's python version without letting a pickle call anything.

Those files were written by Python 2: a dictionary with, among others, `data`, an array of bytes, and
`labels`, a list. An array inside a pickle is three named callables and a string of bytes. Here the names
lead to two small records that keep what they are given, so neither numpy nor anything else is run.
"""

import io
import pickle
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ...errors import UserError
from .files import damaged

PIXELS = 3 * 32 * 32
CLASSES = 10


class PickledBatch(NamedTuple):
    """What is read of a batch."""

    labels: UInt8[np.ndarray, "N"]
    pixels: UInt8[np.ndarray, "N 3072"]


def read_batch(data: bytes, source: str) -> PickledBatch:
    """The labels and pixels in a batch file.

    Raises UserError, naming `source`, when it asks for anything but an array of bytes, and when it is damaged.
    """
    try:
        held = _Reader(io.BytesIO(data), encoding="bytes").load()  # what Python 2 calls text is bytes
        if not isinstance(held, dict) or not isinstance(held.get(b"data"), _Array):
            raise ValueError("it holds no array called data")
        pixels = held[b"data"].bytes_in_rows()
        return PickledBatch(_labels(held.get(b"labels"), len(pixels)), pixels)
    except _RefusedError as error:
        raise UserError(f"{source} asks to run {error}, which no batch of images needs; it was not read") from None
    except (pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, EOFError) as error:
        raise damaged(source, error) from None


def _labels(held: object, count: int) -> UInt8[np.ndarray, "N"]:
    if not isinstance(held, list) or len(held) != count:
        raise ValueError(f"it has no list of {count} labels")
    if not all(type(label) is int and 0 <= label < CLASSES for label in held):
        raise ValueError(f"its labels are not all whole numbers below {CLASSES}")
    return np.array(held, dtype=np.uint8)


class _Type:
    """What a pickle says of an array's type: `u1` is one unsigned byte."""

    def __init__(self, code: object, *_flags: object):
        self.code = code

    def __setstate__(self, _state: object) -> None:
        """Byte order and alignment: one byte has neither."""


class _Array:
    """What a pickle says of an array: version, shape, type, whether columns come first, and its bytes."""

    def __init__(self, *_placeholder: object):
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def bytes_in_rows(self) -> UInt8[np.ndarray, "N 3072"]:
        """The array, if it is rows of 3072 unsigned bytes. Raises ValueError when it is not."""
        match self.state:
            case (_, (int(rows), int(columns)), _Type(code=b"u1"), False, bytes(data)) if columns == PIXELS:
                return np.frombuffer(data, dtype=np.uint8).reshape(rows, columns)
        raise ValueError(f"its array is not one of rows of {PIXELS} unsigned bytes")


class _RefusedError(Exception):
    """The pickle named something that an array of bytes does not need."""


class _Reader(pickle.Unpickler):
    """Resolves the three names that an array needs, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("numpy.core.multiarray", "_reconstruct") | ("numpy", "ndarray"):
                return _Array
            case ("numpy", "dtype"):
                return _Type
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: object) -> Any:
        raise _RefusedError(f"the outside object {pid!r}")
