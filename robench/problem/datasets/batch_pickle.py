"""Reads pickled batches of images without running code in a pickle.

CIFAR-10's python version was written by Python 2: a dictionary with, among others, `data`, an array of bytes, and
`labels`, a list. The pseudo-labelled images of Carmon et al. were written by Python 3: a dictionary with the arrays
`data` and `extrapolated_targets`. An array inside a pickle is three named callables and a string of bytes. Here the
names map to two small records that store their arguments, so that neither numpy nor anything else runs.
"""

import io
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

from ...errors import UserError
from .files import damaged

PIXELS = 3 * 32 * 32
INTEGERS = ("i8", "i4", "u1")
CLASSES = 10


class PseudoLabelled(NamedTuple):
    """Images, and the labels that a network gave them."""

    labels: UInt8[np.ndarray, "N"]
    pixels: UInt8[np.ndarray, "N 32 32 3"]


class PickledBatch(NamedTuple):
    """The labels and pixels of a batch."""

    labels: UInt8[np.ndarray, "N"]
    pixels: UInt8[np.ndarray, "N 3072"]


def read_batch(data: bytes, source: str) -> PickledBatch:
    """The labels and pixels in a batch file.

    Raises UserError, which begins with `source`, if it names anything but an array of bytes, or is damaged.
    """
    with _sentences(source):
        held = _dictionary(io.BytesIO(data), b"data")  # text of Python 2 is bytes
        pixels = held[b"data"].of((PIXELS,))
        return PickledBatch(_labels(held.get(b"labels"), len(pixels)), pixels)


def read_pseudo_labelled(file: io.BufferedIOBase, source: str) -> PseudoLabelled:
    """The images in `data`, and the labels that a network gave them, in `extrapolated_targets`.

    Raises UserError, which begins with `source`, if it names anything but arrays of numbers, or is damaged.
    """
    with _sentences(source):
        held = _dictionary(file, "data")
        pixels = held["data"].of((32, 32, 3))
        found = held.get("extrapolated_targets")
        labels = found.of((), INTEGERS).tolist() if isinstance(found, _Array) else found
        return PseudoLabelled(_labels(labels, len(pixels)), pixels)


def _dictionary(file: io.BufferedIOBase, key: str | bytes) -> dict[object, Any]:
    """The pickled dictionary. Raises ValueError unless it holds an array under this key."""
    held = _Reader(file, encoding="bytes").load()
    if not isinstance(held, dict) or not isinstance(held.get(key), _Array):
        raise ValueError("it holds no array called data")
    return held


@contextmanager
def _sentences(source: str) -> Iterator[None]:
    """Converts whatever a pickle makes the unpickler raise to a UserError about `source`."""
    try:
        yield
    except _RefusedError as error:
        raise UserError(f"{source} would run {error}, which no batch of images needs; it was not read") from None
    except (pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, EOFError) as error:
        raise damaged(source, error) from None
    except (MemoryError, OverflowError, RecursionError) as error:
        raise damaged(source, f"{type(error).__name__} while it was read") from None


def _labels(held: object, count: int) -> UInt8[np.ndarray, "N"]:
    if not isinstance(held, list) or len(held) != count:
        raise ValueError(f"it has no list of {count} labels")
    if not all(type(label) is int and 0 <= label < CLASSES for label in held):
        raise ValueError(f"its labels are not all whole numbers below {CLASSES}")
    return np.array(held, dtype=np.uint8)


class _Type:
    """The type of an array in a pickle: `u1` is one unsigned byte, `i8` an integer of eight."""

    def __init__(self, code: object, *_flags: object):
        self.code = code.decode("latin-1") if isinstance(code, bytes) else code
        self.big_endian = False

    def __setstate__(self, state: object) -> None:
        """Takes the byte order; alignment has no meaning for numbers."""
        self.big_endian = isinstance(state, tuple) and len(state) > 1 and state[1] in (">", b">")


class _Array:
    """The state of an array in a pickle: version, shape, type, whether columns come first, and its bytes."""

    def __init__(self, *_placeholder: object):
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def of(self, shape: tuple[int, ...], codes: Sequence[str] = ("u1",)) -> Shaped[np.ndarray, "N ..."]:
        """The array, of rows of this shape and of one of these types. Raises ValueError if it is another."""
        match self.state:
            case (_, (int(rows), *rest), _Type(code=str(code)) as kind, False, bytes(data)):
                if tuple(rest) == shape and code in codes:
                    order = ">" if kind.big_endian else "<"
                    return np.frombuffer(data, dtype=np.dtype(f"{order}{code}")).reshape(rows, *shape)
        wanted = "x".join(map(str, shape)) or "one"
        raise ValueError(f"an array in it is not one of rows of {wanted} of the type {' or '.join(codes)}")


class _RefusedError(Exception):
    """The pickle names something that an array of bytes does not need."""


class _Reader(pickle.Unpickler):
    """An unpickler that resolves the three names that an array needs, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") | ("numpy", "ndarray"):
                return _Array
            case ("numpy", "dtype"):
                return _Type
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: object) -> Any:
        raise _RefusedError(f"the outside object {pid!r}")
