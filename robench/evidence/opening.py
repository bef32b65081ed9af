"""Opening run files, including files from untrusted sources.

SQLite obeys the files beside a database. A rollback journal (-journal) can write any pages into it and, by naming
another journal, delete any file of the machine; a log (-wal) can replace the whole content. So a run file is read
alone, or as a private copy with its log. Journals are never obeyed, and robench leaves none.
"""

import errno
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import UserError
from ..problem.missing import missing
from .compressed import compress, expand, is_compressed
from .layout import FORMAT, HEADER, format_of, is_laid_out, is_ours, lay_out, uses_log

if sys.platform != "win32":  # there the system itself denies other processes an open file
    import fcntl

LARGEST = 2**36  # bytes: a run on ImageNet's whole validation set under four threats
PERIOD = 0.01  # seconds between two tries for a lock
SETTLED = 0.05  # seconds: longer than the unit in which systems count the time of a change

# The bytes that SQLite locks, far beyond its header: number and first. A writer holds the whole second range, a reader
# a part of it.
_ALL = 512, 0x40000000
_SHARED = 510, 0x40000002

# The files that this process writes to, by device and inode. The system has no locks between parts of one process, and
# closing any handle of a file releases all locks that the process has on it. So these files must not be opened again,
# not even for reading.
_written_here: set[tuple[int, int]] = set()


class InUseError(Exception):
    """Another process, or another part of this one, has the file for writing."""


def for_reading(path: Path, patience: float, stack: ExitStack) -> sqlite3.Connection:
    """A connection that changes neither the file nor its neighbours. It is closed with `stack`.

    A log beside the file holds the last commits of a killed run; then both are copied, and the copy is opened. Of a
    compressed file an expanded copy is opened.
    Raises UserError if this is no run file, InUseError if it is being written for longer than `patience` seconds,
    sqlite3.Error if it is damaged.
    """
    file = stack.enter_context(_opened(path))
    _lock(file, exclusive=False, patience=patience)
    header = file.read(HEADER)
    if is_compressed(header):
        copy = _private(stack)
        expand(file, os.fstat(file.fileno()).st_size, copy, path)
        with copy.open("rb") as expanded:
            header = expanded.read(HEADER)
        _refuse_foreign(header, path)
        return _reading(_connect(copy, "ro&immutable=1"), path, stack)
    _refuse_foreign(header, path)
    log = _log_of(path)
    if log is None and not uses_log(header):
        return _reading(_connect(path, "ro&immutable=1"), path, stack)
    copy = _private(stack)
    _copy(file, copy)
    if log is not None:
        with _opened(log) as commits:
            _copy(commits, copy.with_name("run-wal"))
    return _reading(_connect(copy, "rw"), path, stack)


def for_following(path: Path, patience: float, stack: ExitStack) -> tuple[sqlite3.Connection, bool]:
    """A connection to the last commits of a run, and whether it is a copy as the run is being written.

    Raises as `for_reading` does; InUseError if the file changed during every copy for `patience` seconds.
    """
    with ExitStack() as reading, suppress(InUseError):
        db = for_reading(path, 0.0, reading)
        stack.enter_context(reading.pop_all())
        return db, False
    until = time.monotonic() + patience
    while True:
        with ExitStack() as copying:
            copy = _private(copying)
            if _copied_between_changes(path, copy):
                stack.enter_context(copying.pop_all())
                return _reading(_connect(copy, "rw"), path, stack), True
        if time.monotonic() >= until:
            raise InUseError


def _copied_between_changes(path: Path, copy: Path) -> bool:
    """Copy a file that another process writes, with its log, and return whether the two belong together.

    Commits are appended to the log. They belong together if the file has not changed and the log has not started again
    meanwhile; a commit that was copied in part has no valid checksum, and SQLite passes over it.
    """
    with _opened(path) as file:
        before = os.fstat(file.fileno())
        time.sleep(SETTLED)
        _refuse_foreign(file.read(HEADER), path)
        log, start = _log_of(path), _start_of_log(path)
        _copy(file, copy)
        if log is not None:
            try:
                with log.open("rb") as commits:
                    _copy(commits, copy.with_name("run-wal"))
            except FileNotFoundError:  # folded in by the writer
                return False
        after = os.fstat(file.fileno())
        same = (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
        return same and _start_of_log(path) == start


def _start_of_log(path: Path) -> bytes:
    """The header of the log beside a file, which is another each time the log starts again; empty without a log."""
    log = _log_of(path)
    try:
        with open(log if log is not None else os.devnull, "rb") as file:
            return file.read(32)
    except FileNotFoundError:
        return b""


def _refuse_foreign(header: bytes, path: Path) -> None:
    if not is_ours(header):
        kind = ", but seems to be a summary, which holds no evidence" if header.lstrip()[:1] == b"{" else ""
        raise UserError(f"{path} is not a robench run file{kind}; it was left as it is. Name another run file")
    if format_of(header) > FORMAT:
        raise UserError(f"{path} is of format {format_of(header)}, this robench reads up to {FORMAT}; update robench")


def _refuse_compressed(path: Path) -> None:
    """Raises UserError for a compressed file: it is only read."""
    with _opened(path) as file:
        if is_compressed(file.read(HEADER)):
            expanded = path.with_name(f"expanded-{path.name}")
            raise UserError(
                f"{path} is compressed, and nothing can be added to it; expand it, robench merge {path} --out"
                f" {expanded}, and add to that file"
            )


def _private(stack: ExitStack) -> Path:
    """The name of a copy in a folder of its own, which is removed with `stack`."""
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="robench-"))) / "run"


def _reading(db: sqlite3.Connection, path: Path, stack: ExitStack) -> sqlite3.Connection:
    """The connection, once the file is known to be laid out as a run file."""
    stack.callback(db.close)
    db.execute("PRAGMA query_only = ON")
    _check(db, path)
    return db


def for_writing(path: Path, patience: float, stack: ExitStack) -> tuple[sqlite3.Connection, bool]:
    """An exclusive connection, which is closed with `stack`, and whether the file was created by this call.

    The file does not change before something is written. Raises as `for_reading` does.
    """
    journal = Path(f"{path}-journal")
    if os.path.lexists(journal):
        raise UserError(
            f"{journal} lies beside {path}, and robench leaves no such file; it can change or delete others, so move it"
            " away, and type the command again"
        )
    created = _create(path, patience)
    if not created:
        _refuse_compressed(path)
        with ExitStack() as checking:
            for_reading(path, patience, checking)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    db = _connect(path, "rw", patience)
    stack.callback(db.close)
    db.execute("BEGIN EXCLUSIVE")  # an empty transaction: its lock remains
    db.execute("COMMIT")
    key = _key(os.stat(path))
    _written_here.add(key)
    stack.callback(_written_here.discard, key)
    return db, created


def write_ahead(db: sqlite3.Connection) -> None:
    """Write later commits to a log beside the file."""
    if db.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        # A few bytes at the start of the file change. SQLite writes a journal for that; here it stays in memory.
        db.execute("PRAGMA journal_mode = MEMORY")
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # a power failure loses no commit


def fold(db: sqlite3.Connection) -> None:
    """Move the content of the log into the file, and remove the log."""
    db.execute("PRAGMA journal_mode = MEMORY")


@contextmanager
def appearing(path: Path, patience: float, *, compressed: bool = False) -> Iterator[Path]:
    """A temporary name for a file that must appear whole or not at all. It is renamed at the end of the block.

    If it is to be `compressed`, it is before that.

    Leftovers of a killed process under the temporary name are removed. Raises UserError if the file exists.
    """
    part = path.parent / f".{path.name}.part"
    if os.path.lexists(path):
        raise UserError(f"{path} exists already; name another file")
    if part.is_file() and not part.is_symlink():
        with _opened(part) as file:
            _lock(file, exclusive=False, patience=patience)
    _discard(part)
    try:
        yield part
        if _log_of(part) is not None:  # it could not be folded in
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if compressed:
            compress(part)
        os.replace(part, path)
    finally:
        _discard(part)


def _discard(path: Path) -> None:
    """Remove a file and the logs that SQLite may have left beside it."""
    path.unlink(missing_ok=True)
    _discard_logs(path)


def _discard_logs(path: Path) -> None:
    for ending in ("-wal", "-shm"):
        Path(f"{path}{ending}").unlink(missing_ok=True)


def _create(path: Path, patience: float) -> bool:
    """Create a run file, if there is none or an empty one. Returns whether it did.

    The file appears under its name with all its tables, so that a kill leaves no partial file.
    """
    there = os.path.lexists(path)
    if there and (os.lstat(path).st_size or not stat.S_ISREG(os.lstat(path).st_mode)):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.parent / f".{path.name}.new"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | _SAFELY, 0o666), "r+b") as file:
        _lock(file, exclusive=True, patience=patience)
        if _key(os.stat(path)) != _key(os.fstat(file.fileno())) or os.stat(path).st_size:
            return False  # another robench was faster
        try:
            _discard(fresh)
            with closing(_connect(fresh, "rwc")) as db:
                db.execute("PRAGMA journal_mode = MEMORY")
                lay_out(db)
            if sys.platform == "win32":
                file.close()
            _discard_logs(path)  # of a file that is gone
            os.replace(fresh, path)
        except BaseException:
            _discard(fresh)
            if not there:
                path.unlink(missing_ok=True)
            raise
    return True


_SAFELY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""Flags against a file that became a pipe or a link after it was checked: it neither blocks nor is followed."""


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A regular file, open for reading. Raises UserError for others: they could block, never end, or lead elsewhere."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        raise missing("run", path) from None
    if stat.S_ISLNK(found.st_mode):
        raise UserError(f"{path} is a link; name what it leads to, {os.path.realpath(path)}")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is not a file; name a run file, such as run.robench")
    if found.st_size > LARGEST:
        raise UserError(f"{path} has {found.st_size:,} bytes, more than any run file; name another")
    if _key(found) in _written_here:
        raise InUseError
    with os.fdopen(os.open(path, os.O_RDONLY | _SAFELY), "rb") as file:
        if _key(os.fstat(file.fileno())) != _key(found):
            raise InUseError
        yield file


def _key(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _lock(file: IO[bytes], *, exclusive: bool, patience: float) -> None:
    """Take SQLite's own lock, exclusive or shared with readers, until the file is closed. Raises InUseError."""
    if sys.platform == "win32":
        return
    kind, (length, start) = (fcntl.LOCK_EX, _ALL) if exclusive else (fcntl.LOCK_SH, _SHARED)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(file, kind | fcntl.LOCK_NB, length, start)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return  # the file system has no locks, so no process holds one
        if time.monotonic() >= until:
            raise InUseError
        time.sleep(PERIOD)


def _log_of(path: Path) -> Path | None:
    """The log beside a file, if it is not empty."""
    log = Path(f"{path}-wal")
    if not os.path.lexists(log):
        return None
    found = os.lstat(log)
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{log} lies beside {path} and is no log that robench has written; move it away")
    return log if found.st_size else None


def _copy(file: IO[bytes], to: Path) -> None:
    file.seek(0)
    with to.open("xb") as target:
        shutil.copyfileobj(file, target, 2**20)


def _connect(path: Path, mode: str, patience: float = 0.0) -> sqlite3.Connection:
    """A connection that keeps its locks and trusts nothing in the file."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=patience)
    for setting in ("locking_mode = EXCLUSIVE", "trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
        db.execute(f"PRAGMA {setting}")
    return db


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Raises UserError if the tables are not those of robench, sqlite3.DatabaseError if the pages are inconsistent."""
    if not is_laid_out(db):
        raise UserError(f"{path} is not laid out as a robench run file; it was left as it is. Name another")
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("its pages are inconsistent")
