"""Run files that are compressed by xz: an eighth of the size if slim, for files that are shared and only read.

Those of earlier versions are compressed by gzip, and are read as well.
"""

import gzip
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import UserError

LARGEST = 2**30  # bytes after expansion: a thousand times the largest that robench has published
RATIO = 200  # of the expanded size to the compressed one; run files reach 2 to 16, a file made to fill disks thousands
MEMORY = 2**27  # bytes for expansion: twice what the strongest preset of xz needs

_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_CHUNK = 2**20  # bytes


def is_compressed(header: bytes) -> bool:
    """Whether a file that begins like this is compressed by xz or gzip."""
    return header.startswith((_XZ, _GZIP))


def expand(file: IO[bytes], size: int, to: Path, path: Path) -> None:
    """Write the content of a compressed `file` of `size` bytes to `to`. `path` is its name in messages.

    Nothing in a compressed file states its expanded size reliably, so the size is counted while it grows. Raises
    UserError if it grows beyond what a run file can have, sqlite3.DatabaseError if the file is damaged.
    """
    limit = _limit(size)
    written = 0
    file.seek(0)
    xz = file.read(len(_XZ)) == _XZ
    file.seek(0)
    with to.open("xb") as target:
        for chunk in _of_xz(file, path) if xz else _of_gzip(file):
            written += len(chunk)
            if written > limit:
                raise UserError(
                    f"{path} expands to more than {limit:,} bytes, as no compressed run file does; name another"
                )
            target.write(chunk)


def compress(path: Path) -> None:
    """Replace a file by its compressed form: the same bytes for the same content, from the same version of xz.

    Raises UserError if this Python cannot, or if `expand` would refuse the result; then the file stays as it is.
    """
    try:
        import lzma
    except ImportError:
        raise UserError(f"{path.name} cannot be compressed: {_WITHOUT}; leave --compress out") from None

    content = path.read_bytes()
    packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    if len(content) > _limit(len(packed)):
        raise UserError(f"{path.name} would expand to more than is read again; leave --compress out")
    path.write_bytes(packed)


def _limit(size: int) -> int:
    """The largest expanded size of a compressed file of this size, in bytes."""
    return min(LARGEST, max(RATIO * size, _CHUNK))


def _of_xz(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The content, in parts."""
    try:
        import lzma
    except ImportError:
        raise UserError(f"{path} cannot be expanded: {_WITHOUT}; use another, or expand the file elsewhere") from None

    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
    try:
        while not decompressor.eof:
            compressed = file.read(_CHUNK) if decompressor.needs_input else b""
            if decompressor.needs_input and not compressed:
                raise _damaged("it ends early")
            yield decompressor.decompress(compressed, max_length=_CHUNK)
    except lzma.LZMAError as error:
        if "limit" in str(error):
            raise UserError(f"{path} needs more than {MEMORY:,} bytes of memory to expand; name another") from None
        raise _damaged(str(error)) from None
    if decompressor.unused_data or file.read(1):
        raise _damaged("something follows its end")


def _of_gzip(file: IO[bytes]) -> Iterator[bytes]:
    """The content, in parts."""
    try:
        with gzip.GzipFile(fileobj=file) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(str(error)) from None


def _damaged(why: str) -> sqlite3.DatabaseError:
    return sqlite3.DatabaseError(f"its compressed content is damaged: {why}")


_WITHOUT = "this Python was built without xz (its module lzma is missing)"
