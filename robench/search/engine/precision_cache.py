"""What pilots decided about a precision, kept in the account's cache folder so that each runs once.

Nothing depends on the cache. A decision is a function of its key; it is made again, at the price of the pilot, where
there is no file, where the file is damaged or of another key, and where the folder cannot be written. So none of these
is an error, and none is reported.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from ...errors import UserError
from ...problem import durable

VARIABLE = "ROBENCH_PRECISION_CACHE"  # of the environment: another folder, or empty to keep nothing
LARGEST = 1 << 16  # bytes of a file that is read: ours have a few hundred


class Decision(msgspec.Struct, frozen=True):
    """What was decided, and why."""

    precision: str
    reason: str


class _Kept(msgspec.Struct, frozen=True):
    """A file of the cache. The key is in it, so that a decision is taken for no other question."""

    key: dict[str, str]
    decision: Decision


def read(key: dict[str, str]) -> Decision | None:
    """The decision of this key, where it is kept."""
    path = _path(key)
    if path is None:
        return None
    with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        if path.is_file() and path.stat().st_size <= LARGEST:
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            return kept.decision if kept.key == key else None
    return None


def write(key: dict[str, str], decision: Decision) -> None:
    """Keep the decision of this key, where that can be."""
    path = _path(key)
    if path is not None:
        with suppress(OSError, UserError):
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.replace(path, msgspec.json.encode(_Kept(key, decision)))


def _path(key: dict[str, str]) -> Path | None:
    """The file of a key; None where nothing is to be kept."""
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
