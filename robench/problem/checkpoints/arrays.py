"""Reads weights from `.npz` files of NumPy and `.mat` files of MATLAB 5. Reads only numbers, and runs no code.

The usual libraries are not used, because they allocate as much memory as a file claims to need.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ...errors import UserError, first_line
from .. import npy
from ..names import shown
from .nested import by
from .zips import AGAIN, max_unpacked, too_large

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

HEADER = 128  # bytes of text and version at the beginning of a .mat file
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Storage types by MATLAB's codes. The values of a double array may be stored as bytes."""
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
OTHERS = {1: "a cell", 2: "a struct", 3: "an object", 4: "text", 5: "sparse", 16: "a function", 17: "an object"}
COMPLEX = 0x08  # the flag of a complex matrix


def is_npz(names: set[str]) -> bool:
    """Whether a zip file with these entries is an `.npz` file."""
    return any(name.endswith(".npy") for name in names)


def read_npz(path: Path, found: list[zipfile.ZipInfo]) -> dict[str, Array]:
    """The arrays in an `.npz` file, by name. Raises UserError if one is damaged, or holds Python objects."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for entry in found:
            name = entry.filename.removesuffix(".npy")
            if entry.filename.endswith(".npy"):
                arrays[name] = _npy(path, name, archive, entry)
    return arrays


def _npy(path: Path, name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    try:
        with archive.open(entry) as file:
            shape, columns_first, dtype = npy.header(file)
            if dtype.hasobject:
                raise UserError(
                    f"{path}: {shown(name)} holds Python objects, which are never unpickled; save numbers, one array "
                    "for each weight: numpy.savez(path, **weights)"
                )
            size = npy.size(shape, dtype)
            if size > entry.file_size:
                raise ValueError(f"it is too short for {by(shape)}")
            data = file.read(size)
            if len(data) < size or file.read(1):
                raise ValueError(f"its length is not that of {by(shape)}")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C")
    except UserError:
        raise
    except (*npy.DAMAGED, MemoryError) as error:
        raise UserError(f"{path}: {shown(name)} is damaged ({first_line(error)}); {AGAIN}") from None


def is_mat(beginning: bytes) -> bool:
    """Whether a file begins like a `.mat` file of version 5 or later."""
    return beginning.startswith(b"MATLAB ") and beginning[126:128] in (b"IM", b"MI")


def read_mat(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays in a `.mat` file by name, and the kind of each other variable.

    Raises UserError if the file is damaged, or of version 7.3.
    """
    data = path.read_bytes()
    if data[124:126] in (b"\x00\x02", b"\x02\x00"):
        raise UserError(f"{path} is of MATLAB's version 7.3, which is HDF5; save it with save(..., '-v7')")
    order = "<" if data[126:128] == b"IM" else ">"
    arrays: dict[str, Array] = {}
    others: dict[str, str] = {}
    try:
        for kind, content in _elements(_unpacked(path, data, order), order):
            if kind == MATRIX:
                name, value = _matrix(content, order)
                (others if isinstance(value, str) else arrays)[name] = value  # type: ignore[assignment]
    except (struct.error, zlib.error, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is cut off or damaged ({first_line(error)}); {AGAIN}") from None
    return arrays, others


def _unpacked(path: Path, data: bytes, order: str) -> bytes:
    """The elements of a file, uncompressed. Raises UserError if they are far larger than the file."""
    limit = max_unpacked(len(data))
    pieces, length = [], 0
    for kind, content in _elements(data[HEADER:], order, padded=False):
        if kind == COMPRESSED:
            piece = zlib.decompressobj().decompress(content, limit - length + 1)
        else:
            piece = struct.pack(f"{order}II", kind, len(content)) + content
        length += len(piece)
        if length > limit:
            raise too_large(path, f"more than {limit / 1e6:,.0f} MB")
        pieces.append(piece + bytes(-len(piece) % 8))
    return b"".join(pieces)


def _elements(data: bytes, order: str, *, padded: bool = True) -> Iterator[tuple[int, bytes]]:
    """The type and the bytes of each element in a sequence."""
    place = 0
    while place + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, place)
        if kind >> 16:  # up to four bytes lie inside the tag
            kind, length, start, following = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        else:
            start = place + 8
            following = start + length + (-length % 8 if padded else 0)
        if length > len(data) - start:
            raise ValueError("an element is longer than the file")
        yield kind, data[start : start + length]
        place = following


def _matrix(content: bytes, order: str) -> tuple[str, "Array | str"]:
    """A variable's name, with its numbers or, if it holds none, its kind."""
    parts = _elements(content, order)
    flags, dimensions, name = (next(parts, (0, b""))[1] for _ in range(3))
    called = name.decode("latin-1")
    if len(flags) < 8:  # MATLAB's own data on objects
        return called, "an object"
    (word,) = struct.unpack_from(f"{order}I", flags)
    if (word & 0xFF) not in CLASSES:
        return called, OTHERS.get(word & 0xFF, "of a kind that holds no numbers")
    if word >> 8 & COMPLEX:
        return called, "complex"
    shape = np.frombuffer(dimensions, f"{order}i4").tolist()
    kind, numbers = next(parts, (0, b""))
    if kind not in TYPES:
        raise ValueError(f"{shown(called)} has no numbers")
    array = np.frombuffer(numbers, order + TYPES[kind]).reshape(shape, order="F")
    return called, array.astype(CLASSES[word & 0xFF])
