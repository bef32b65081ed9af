"""Checks of arrays in NumPy's format, in zip archives, before any of their numbers are read."""

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, KeyError, ValueError),
    *(OverflowError, RuntimeError),  # the last one: a password, or an unknown kind of compression
)
"""What reading a damaged or unusual member of a zip archive raises."""


def header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order (whether columns come first) and type of the array that begins here; `file` gives bytes.

    Raises ValueError for any other content, and for named fields, which alone need a later version of the format.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, columns_first, dtype = read(file)
    except (tokenize.TokenError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
        raise ValueError("its header cannot be read") from None
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"its header declares the shape {str(shape)[:100]}")
    return shape, columns_first, dtype


def size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """The bytes of such an array."""
    return math.prod(shape) * dtype.itemsize
