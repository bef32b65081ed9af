"""Files that are whole or absent: a crash while writing leaves the old one."""

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


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
