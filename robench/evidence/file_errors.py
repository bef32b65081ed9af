"""Errors of SQLite and of the system about a run file, as one sentence with a next step."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ..errors import UserError
from . import opening

_BUSY, _READ_ONLY, _DISK, _FULL, _CANNOT_OPEN = 5, 8, 10, 13, 14  # SQLite's own numbers
_UNKNOWN = -1  # Python 3.10 does not pass the number on


def _code(error: sqlite3.Error) -> int:
    """SQLite's number for the error, without the higher bits, which are more specific."""
    number: int = getattr(error, "sqlite_errorcode", _UNKNOWN)
    return number if number == _UNKNOWN else number & 0xFF


@contextmanager
def explained(path: Path, *, lasting: bool = True) -> Iterator[None]:
    """Turns errors of SQLite and of the system into one sentence with a next step. `lasting`: commits are retained."""
    retained = ": everything up to now is kept" if lasting else ""
    try:
        yield
    except opening.InUseError:
        raise _in_use(path) from None
    except sqlite3.Error as error:
        code, text = _code(error), str(error)
        if code == _BUSY:
            raise _in_use(path) from None
        if code == _FULL:
            raise UserError(
                f"the disk of {path} is full{retained}; free some space and type the command again"
            ) from None
        if code == _DISK:
            raise UserError(
                f"the disk of {path} fails ({text}){retained}; type the command again when it works"
            ) from None
        if code in (_READ_ONLY, _CANNOT_OPEN):
            raise UserError(f"cannot write {path} ({text}); name a file in a folder you can write with --run") from None
        # Python 3.10 raises this class for all of the above, and another one for a damaged file.
        if code == _UNKNOWN and isinstance(error, sqlite3.OperationalError):
            raise UserError(
                f"SQLite cannot use {path} ({text}){retained}; check that no other program uses it and that its"
                " disk is writable and has space, or name another file with --run"
            ) from None
        raise _damaged(path, text) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from None
    except UnicodeEncodeError as error:
        raise UserError(f"{error.object!r} is not Unicode, as a run file holds it; rename that file") from None
    except OSError as error:
        raise UserError(f"cannot use {path}: {error.strerror}; name another file with --run") from None


def _in_use(path: Path) -> UserError:
    return UserError(f"{path} is in use by another robench; wait for it, or name another file with --run")


def _damaged(path: Path, how: str) -> UserError:
    return UserError(f"{path} is damaged ({how}); it was left as it is. Name another run file, or evaluate again")
