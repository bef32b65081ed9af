"""Files that are whole or absent: a crash while writing leaves the old one. And files that are read as a whole."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ..errors import UserError


def replace(path: Path, data: bytes) -> None:
    """Writes `data` to `path` in one step, over what was there. Raises UserError when the place cannot be written."""
    try:
        # In the same folder: a rename between file systems is a copy, and not in one step.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's files are for their owner alone
        os.replace(name, path)
    except OSError as error:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def read(path: Path, most: int) -> bytes:
    """The bytes of a file. Raises UserError when it cannot be read, is no file, or has more than `most`."""
    try:
        if not path.is_file():  # a pipe would block, and a device might not end
            raise UserError(f"{path} is not a file; name one")
        with path.open("rb") as file:
            held = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(held) > most:
        raise UserError(f"{path} has more than {most:,} bytes, which nothing of this kind needs; name another file")
    return held


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
