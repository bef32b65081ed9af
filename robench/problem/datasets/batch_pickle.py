"""Reads the pickled batches of CIFAR-10's python version without running code in a pickle.

Python 2 wrote these files: a dictionary with, among others, `data`, an array of bytes, and `labels`, a list.
An array inside a pickle is three named callables and a string of bytes. Here the names map to two small
records that store their arguments, so that neither numpy nor anything else runs.
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
    """The labels and pixels of a batch."""

    labels: UInt8[np.ndarray, "N"]
    pixels: UInt8[np.ndarray, "N 3072"]


def read_batch(data: bytes, source: str) -> PickledBatch:
    """The labels and pixels in a batch file.

    Raises UserError, which begins with `source`, if it names anything but an array of bytes, or is damaged.
    """
    try:
        held = _Reader(io.BytesIO(data), encoding="bytes").load()  # text of Python 2 is bytes
        if not isinstance(held, dict) or not isinstance(held.get(b"data"), _Array):
            raise ValueError("it holds no array called data")
        pixels = held[b"data"].bytes_in_rows()
        return PickledBatch(_labels(held.get(b"labels"), len(pixels)), pixels)
    except _RefusedError as error:
        raise UserError(f"{source} would run {error}, which no batch of images needs; it was not read") from None
    except (pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, EOFError) as error:
        raise damaged(source, error) from None


def _labels(held: object, count: int) -> UInt8[np.ndarray, "N"]:
    if not isinstance(held, list) or len(held) != count:
        raise ValueError(f"it has no list of {count} labels")
    if not all(type(label) is int and 0 <= label < CLASSES for label in held):
        raise ValueError(f"its labels are not all whole numbers below {CLASSES}")
    return np.array(held, dtype=np.uint8)


class _Type:
    """The type of an array in a pickle: `u1` is one unsigned byte."""

    def __init__(self, code: object, *_flags: object):
        self.code = code

    def __setstate__(self, _state: object) -> None:
        """Ignores byte order and alignment: one byte has neither."""


class _Array:
    """The state of an array in a pickle: version, shape, type, whether columns come first, and its bytes."""

    def __init__(self, *_placeholder: object):
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def bytes_in_rows(self) -> UInt8[np.ndarray, "N 3072"]:
        """The array, which must be rows of 3072 unsigned bytes. Raises ValueError if it is not."""
        match self.state:
            case (_, (int(rows), int(columns)), _Type(code=b"u1"), False, bytes(data)) if columns == PIXELS:
                return np.frombuffer(data, dtype=np.uint8).reshape(rows, columns)
        raise ValueError(f"its array is not one of rows of {PIXELS} unsigned bytes")


class _RefusedError(Exception):
    """The pickle names something that an array of bytes does not need."""


class _Reader(pickle.Unpickler):
    """An unpickler that resolves the three names that an array needs, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("numpy.core.multiarray", "_reconstruct") | ("numpy", "ndarray"):
                return _Array
            case ("numpy", "dtype"):
                return _Type
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: object) -> Any:
        raise _RefusedError(f"the outside object {pid!r}")
