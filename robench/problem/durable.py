"""Atomic writes, which leave the old file after a crash, and size-limited reads of whole files."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ..errors import UserError


def replace(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically, replacing any old file. Raises UserError if the path cannot be written."""
    try:
        # In the same folder: a rename between file systems is a copy, which is not atomic.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files that only the owner can read
        os.replace(name, path)
    except OSError as error:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def read(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file. Raises UserError if it cannot be read, is not a file, or has more than `max_bytes`."""
    try:
        if not path.is_file():  # a pipe would block, and a device might not end
            raise UserError(f"{path} is not a file; name one")
        with path.open("rb") as file:
            held = file.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(held) > max_bytes:
        raise UserError(f"{path} has more than {max_bytes:,} bytes, too many for this kind of file; name another file")
    return held


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
