"""A cache of pilot decisions about a precision, in the user's cache folder, so that each pilot runs once.

No result depends on the cache. A decision is a function of its key. The pilot decides again if there is no file, if the
file is damaged or belongs to another key, or if the folder cannot be written. None of these is an error or reported.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from ...errors import UserError
from ...problem import durable

VARIABLE = "ROBENCH_PRECISION_CACHE"  # of the environment: another folder, or empty to turn the cache off
MAX_BYTES = 1 << 16  # of a file that is read: real ones have a few hundred


class Decision(msgspec.Struct, frozen=True):
    """A precision, and the reason for it."""

    precision: str
    reason: str


class _CacheFile(msgspec.Struct, frozen=True):
    """A file of the cache. It contains the key, so that a decision is never used for another one."""

    key: dict[str, str]
    decision: Decision


def read(key: dict[str, str]) -> Decision | None:
    """The decision for this key; None if it is not in the cache."""
    path = _path(key)
    if path is None:
        return None
    with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        if path.is_file() and path.stat().st_size <= MAX_BYTES:
            file = msgspec.json.decode(path.read_bytes(), type=_CacheFile)
            return file.decision if file.key == key else None
    return None


def write(key: dict[str, str], decision: Decision) -> None:
    """Store the decision for this key if possible."""
    path = _path(key)
    if path is not None:
        with suppress(OSError, UserError):
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.replace(path, msgspec.json.encode(_CacheFile(key, decision)))


def _path(key: dict[str, str]) -> Path | None:
    """The file of a key; None if the cache is turned off."""
    text = os.environ.get(VARIABLE)
    if text == "":
        return None
    if text is None:
        import pooch  # late: it takes a while to import

        folder = Path(pooch.os_cache("robench")) / "precision"
    else:
        folder = Path(text).expanduser()
    name = hashlib.sha256(msgspec.json.encode(sorted(key.items()))).hexdigest()[:32]
    return folder / f"{name}.json"
