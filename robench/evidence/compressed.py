"""Run files that are compressed by gzip: a fifth of the size, for files that are shared and only read."""

import gzip
import sqlite3
import zlib
from pathlib import Path
from typing import IO

from ..errors import UserError

LARGEST = 2**30  # bytes after expansion: a thousand times the largest that robench has published
RATIO = 200  # of the expanded size to the compressed one; run files reach 4 to 12, a file made to fill disks 1000

_CHUNK = 2**20  # bytes


def is_compressed(header: bytes) -> bool:
    """Whether a file that begins like this is compressed by gzip."""
    return header[:2] == b"\x1f\x8b"


def expand(file: IO[bytes], size: int, to: Path, path: Path) -> None:
    """Write the content of a compressed `file` of `size` bytes to `to`. `path` is its name in messages.

    Nothing in a compressed file states its expanded size reliably, so the size is counted while it grows. Raises
    UserError if it grows beyond what a run file can have, sqlite3.DatabaseError if the file is damaged.
    """
    limit = min(LARGEST, max(RATIO * size, _CHUNK))
    written = 0
    file.seek(0)
    with to.open("xb") as target, gzip.GzipFile(fileobj=file) as source:
        try:
            while chunk := source.read(_CHUNK):
                written += len(chunk)
                if written > limit:
                    raise UserError(
                        f"{path} expands to more than {limit:,} bytes, as no compressed run file does; name another"
                    )
                target.write(chunk)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise sqlite3.DatabaseError(f"its compressed content is damaged: {error}") from None


def compress(path: Path) -> None:
    """Replace a file by its compressed form: the same bytes for the same content."""
    content = gzip.compress(path.read_bytes(), mtime=0)
    path.write_bytes(content)
