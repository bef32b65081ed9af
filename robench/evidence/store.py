"""One SQLite file per run. What is in it was committed: a killed run loses at most its last moments."""

import errno
import hashlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .records import Claim, Clean, Effort, Evidence, Failure, Plan, Probe, Spent, Verdict

APPLICATION_ID = 0x726F626E  # "robn": tells our files from other SQLite files
FORMAT = 1
PATIENCE = 2.0  # seconds to wait for another process to let go of a file

_SCHEMA = """
CREATE TABLE IF NOT EXISTS plan (json TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clean (
    example INTEGER PRIMARY KEY, digest TEXT NOT NULL, correct INTEGER NOT NULL, margin REAL, tied INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS claim (
    id INTEGER PRIMARY KEY, example INTEGER NOT NULL, threat TEXT NOT NULL, attack TEXT NOT NULL,
    draw INTEGER NOT NULL, target INTEGER NOT NULL, witness BLOB, image BLOB, encoding TEXT, sha256 TEXT,
    forwards INTEGER NOT NULL, backwards INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS claim_place ON claim (example, threat);
CREATE TABLE IF NOT EXISTS verdict (
    claim INTEGER PRIMARY KEY REFERENCES claim, accepted INTEGER NOT NULL, rejection TEXT NOT NULL,
    reason TEXT NOT NULL, size REAL, margin REAL, passes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS spent (
    example INTEGER NOT NULL, threat TEXT NOT NULL, attack TEXT NOT NULL, draws INTEGER NOT NULL,
    forwards INTEGER NOT NULL, backwards INTEGER NOT NULL, done BLOB NOT NULL,
    PRIMARY KEY (example, threat, attack)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS probe (
    threat TEXT NOT NULL, example INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
    PRIMARY KEY (threat, example, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failure (
    example INTEGER NOT NULL, threat TEXT NOT NULL, attack TEXT NOT NULL, error TEXT NOT NULL,
    PRIMARY KEY (example, threat, attack)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS effort (
    threat TEXT NOT NULL, attack TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (threat, attack)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS environment (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_CLEAN = "SELECT example, digest, correct, margin, tied FROM clean ORDER BY example"
_CLAIMS = "SELECT id, example, threat, attack, draw, target, forwards, backwards, witness FROM claim ORDER BY id"
_VERDICTS = "SELECT claim, accepted, rejection, reason, size, margin, passes FROM verdict ORDER BY claim"

Image = NDArray[np.float32]  # (C, H, W) in [0, 1]


class RunFile:
    """Records of one run, appended in transactions. One writer at a time; a context manager.

    Until something is written a file stays as it is, byte for byte; one that was begun and never written to
    is gone again when it is closed.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, *, begun: bool = False):
        self.path = path
        self._db = connection
        self._begun = begun  # by us, with nothing in it so far
        self._claimed = False  # for writing, by us alone

    @classmethod
    def open(cls, path: Path) -> "RunFile":
        """Continue the run in this file, or begin one. Raises UserError when the file cannot be used."""
        with _explained(path):
            if path.exists() and not path.is_file():
                raise UserError(f"{path} is not a file; name a run file, such as --run run.robench")
            _undo(path)
            if path.exists() and path.stat().st_size:
                _looked_at(path).close()
                if not os.access(path, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                return cls(path, _laid_out(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            run = cls(path, _laid_out(path), begun=True)
            try:
                run._claim()  # at once: nobody else may write to a file that we may take away again
            except BaseException:
                run._db.close()
                raise
            return run

    @classmethod
    def in_memory(cls) -> "RunFile":
        """A run that is kept nowhere."""
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(_SCHEMA)
        return cls(Path(":memory:"), db)

    @classmethod
    def read(cls, path: Path) -> "RunFile":
        """Open a run for reading; it stays as it is, byte for byte, also where a kill has left a log beside it."""
        with _explained(path):
            if path.exists() and not path.is_file():
                raise UserError(f"{path} is not a file; name a run file")
            if not path.exists():
                raise UserError(
                    f"there is no run file {path}; `robench evaluate` writes them to runs/ unless --run says else"
                )
            _undo(path)
            return cls(path, _looked_at(path))

    def __enter__(self) -> "RunFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Fold the log in, so that one file remains."""
        # On a full disk that fails: the log beside the file holds everything, and the next open folds it in.
        with suppress(sqlite3.Error, OSError):
            if self._claimed:
                self._db.execute("PRAGMA journal_mode = DELETE")
            if self._begun:
                self.path.unlink(missing_ok=True)
        self._db.close()

    def _claim(self) -> None:
        if not self._claimed:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # one writer; the lock goes with the process
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # a pulled plug loses nothing that was committed
            self._claimed = True

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All records of the block are kept, or none."""
        with _explained(self.path):
            self._claim()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.commit()
            except BaseException:
                self._db.rollback()
                raise
            self._begun = False

    # What is written

    def put_plan(self, plan: Plan, environment: dict[str, str]) -> None:
        """The question now being asked. Evidence from earlier questions stays."""
        self._db.execute("DELETE FROM plan")
        self._db.execute("INSERT INTO plan VALUES (?)", [msgspec.json.encode(plan).decode()])
        self._db.executemany("INSERT OR REPLACE INTO environment VALUES (?, ?)", environment.items())

    def put_clean(self, records: Iterable[Clean]) -> None:
        """The model's answers before any attack."""
        rows = [(c.example, c.digest, c.correct, _real(c.margin), c.tied) for c in records]
        self._db.executemany("INSERT OR REPLACE INTO clean VALUES (?, ?, ?, ?, ?)", rows)

    def next_claim(self) -> int:
        """The number the next claim should have."""
        return int(self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM claim").fetchone()[0])

    def put_judged(self, claim: Claim, verdict: Verdict, image: Image) -> None:
        """A claim with its verdict. One image is kept per example and threat: the smallest accepted.

        What is put twice is there once: a caller who was interrupted may not know how far it came.
        """
        self._put_claim(claim, verdict, *_packed(image))

    def adopt(self, evidence: Evidence, sources: Mapping[int, tuple[int, int]], files: Sequence["RunFile"]) -> None:
        """Everything of a merged evidence, with images from the files its claims come from; no files, no images."""
        self.put_clean(evidence.clean)
        for claim, verdict in evidence.judged():
            packed: tuple[bytes | None, str | None, str | None] = (None, None, None)
            if files:
                which, number = sources[claim.id]
                packed = files[which]._image_of(number, claim, verdict)
            self._put_claim(claim, verdict, *packed)
        self.put_spent(evidence.spent)
        self.put_failures(evidence.failures)
        self.put_effort(evidence.efforts)
        self.put_probes(evidence.probes)

    def _image_of(self, number: int, claim: Claim, verdict: Verdict) -> tuple[bytes | None, str | None, str | None]:
        """The image of a claim; else, of equal finds, the one that was kept for them all; else its hash alone."""
        packed: tuple[bytes | None, str | None, str | None] = self._db.execute(
            "SELECT image, encoding, sha256 FROM claim JOIN verdict ON claim = id"
            " WHERE id = ? OR (example = ? AND threat = ? AND size = ? AND image IS NOT NULL)"
            " ORDER BY image IS NULL, id != ?",
            [number, claim.example, claim.threat, verdict.size, number],
        ).fetchone()
        return packed

    def _put_claim(
        self, claim: Claim, verdict: Verdict, pixels: bytes | None, encoding: str | None, sha256: str | None
    ) -> None:
        if not (verdict.accepted and pixels is not None and self._smallest(claim, verdict)):
            pixels = encoding = None
        c, v = claim, verdict
        self._db.execute(
            "INSERT OR IGNORE INTO claim VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                *(c.id, c.example, c.threat, c.attack, c.draw, c.target),
                *(np.array(c.witness, "<f8").tobytes() or None, pixels, encoding, sha256, c.forwards, c.backwards),
            ],
        )
        self._db.execute(
            "INSERT OR IGNORE INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?)",
            [v.claim, v.accepted, v.rejection, v.reason, _real(v.size), _real(v.margin), v.passes],
        )

    def _smallest(self, claim: Claim, verdict: Verdict) -> bool:
        """Whether this find is smaller than the one whose image is kept; then that image goes."""
        held = self._db.execute(
            "SELECT id, size FROM claim JOIN verdict ON claim = id"
            " WHERE example = ? AND threat = ? AND image IS NOT NULL",
            [claim.example, claim.threat],
        ).fetchone()
        if held is None:
            return True
        if held[1] <= verdict.size:
            return False
        self._db.execute("UPDATE claim SET image = NULL, encoding = NULL WHERE id = ?", [held[0]])
        return True

    def put_spent(self, records: Iterable[Spent]) -> None:
        """The searches done so far on an example; replaces what was said before."""
        rows = [(s.example, s.threat, s.attack, s.draws, s.forwards, s.backwards, _bits(s.done)) for s in records]
        self._db.executemany("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def put_failures(self, records: Iterable[Failure]) -> None:
        """Attacks that raised."""
        rows = [(f.example, f.threat, f.attack, f.error) for f in records]
        self._db.executemany("INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?)", rows)

    def clear_failures(self, threat: str, attack: str) -> None:
        """Forget them: the attack is about to be tried again."""
        self._db.execute("DELETE FROM failure WHERE threat = ? AND attack = ?", [threat, attack])

    def put_effort(self, records: Iterable[Effort]) -> None:
        """Seconds spent so far; replaces what was said before."""
        self._db.executemany(
            "INSERT OR REPLACE INTO effort VALUES (?, ?, ?)", [(e.threat, e.attack, e.seconds) for e in records]
        )

    def put_probes(self, records: Iterable[Probe]) -> None:
        """Measurements taken in passing."""
        rows = [(p.threat, p.example, p.name, _real(p.value)) for p in records]
        self._db.executemany("INSERT OR REPLACE INTO probe VALUES (?, ?, ?, ?)", rows)

    # What is read

    def plan(self) -> Plan | None:
        """The last question asked; None in a file that was begun and never written to."""
        with _explained(self.path):
            row = self._db.execute("SELECT json FROM plan").fetchone()
            return msgspec.json.decode(row[0], type=Plan) if row else None

    def evidence(self) -> Evidence:
        """Everything the file knows."""
        with _explained(self.path):
            rows = self._db.execute
            return Evidence(
                clean=tuple(Clean(e, d, bool(c), _float(m), bool(t)) for e, d, c, m, t in rows(_CLEAN)),
                claims=tuple(Claim(*(*row, _numbers(witness))) for *row, witness in rows(_CLAIMS)),
                verdicts=tuple(
                    Verdict(c, bool(a), rejection, reason, _float(s), _float(m), p)
                    for c, a, rejection, reason, s, m, p in rows(_VERDICTS)
                ),
                spent=tuple(
                    Spent(e, t, a, int.from_bytes(done, "little"), f, b)
                    for e, t, a, f, b, done in rows(
                        "SELECT example, threat, attack, forwards, backwards, done FROM spent"
                    )
                ),
                failures=tuple(Failure(*row) for row in rows("SELECT example, threat, attack, error FROM failure")),
                efforts=tuple(Effort(*row) for row in rows("SELECT threat, attack, seconds FROM effort")),
                probes=tuple(
                    Probe(t, e, n, _float(v)) for t, e, n, v in rows("SELECT threat, example, name, value FROM probe")
                ),
                environment=dict(rows("SELECT key, value FROM environment").fetchall()),
            )

    def images(self, shape: Sequence[int]) -> Iterator[tuple[int, Image]]:
        """(claim, image) for every image kept. Raises UserError when one differs from its checksum."""
        query = "SELECT id, example, image, encoding, sha256 FROM claim WHERE image IS NOT NULL ORDER BY id"
        with _explained(self.path):
            for claim, example, pixels, encoding, sha256 in self._db.execute(query):
                try:
                    image = _unpacked(pixels, encoding, tuple(shape))
                except (zlib.error, ValueError, TypeError):
                    image = None
                if image is None or _sha256(image) != sha256:
                    raise UserError(f"{self.path} is damaged: the image of example {example} differs from its checksum")
                yield claim, image


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=PATIENCE)


def _header(path: Path) -> bytes:
    with open(path, "rb") as f:
        return f.read(100)


def _is_ours(header: bytes) -> bool:
    return header[:16] == b"SQLite format 3\0" and header[68:72] == APPLICATION_ID.to_bytes(4, "big")


def _undo(path: Path) -> None:
    """What a kill left half done when the file was laid out or its log switched on; nobody can read it before."""
    if path.with_name(f"{path.name}-journal").exists() and path.exists() and _is_ours(_header(path)):
        with closing(_connect(path, "rw")) as db:
            db.execute("PRAGMA schema_version").fetchone()


def _looked_at(path: Path) -> sqlite3.Connection:
    """A file that is ours and sound, for reading. Read-only: to close it would else fold a log into a damaged file."""
    header = _header(path)
    if not _is_ours(header):
        raise UserError(f"{path} is not a robench run file; it was left as it is. Name another with --run")
    version = int.from_bytes(header[60:64], "big")
    if version > FORMAT:
        raise UserError(f"{path} is of format {version}, this robench reads up to {FORMAT}; update robench")
    db = _connect(path, "ro")
    try:
        if db.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("its pages do not fit together")
    except BaseException:
        db.close()
        raise
    return db


def _laid_out(path: Path) -> sqlite3.Connection:
    """A connection to a file with all tables.

    They are made before the log is switched on: whoever kills us later leaves a file that says whose it is.
    """
    db = _connect(path, "rwc")
    try:
        if db.execute("PRAGMA user_version").fetchone() == (0,):
            marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
            db.executescript(f"BEGIN IMMEDIATE; {marks} {_SCHEMA} COMMIT;")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors and the system's, as one sentence that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text:
            raise UserError(
                f"{path} is in use by another robench; wait for it, or name another file with --run"
            ) from None
        if "full" in text:
            raise UserError(
                f"the disk of {path} is full: everything up to now is kept; free some space and type the command again"
            ) from None
        if "disk I/O error" in text:
            raise UserError(
                f"the disk of {path} fails ({text}): everything up to now is kept; type the command again when it works"
            ) from None
        if "readonly" in text or "unable to open" in text:
            raise UserError(f"cannot write {path} ({text}); name a file in a folder you can write with --run") from None
        raise _damaged(path, text) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from None
    except UnicodeEncodeError as error:
        raise UserError(f"{error.object!r} is not Unicode, as a run file holds it; rename that file") from None
    except OSError as error:
        raise UserError(f"cannot use {path}: {error.strerror}; name another file with --run") from None


def _damaged(path: Path, how: str) -> UserError:
    return UserError(f"{path} is damaged ({how}); it was left as it is. Name another file with --run to start afresh")


def _packed(image: Image) -> tuple[bytes, str, str]:
    """Pixels compressed, as 8-bit numbers where they are ones."""
    eight = np.round(image * 255)
    if np.array_equal((eight / np.float32(255)).astype(np.float32), image):
        return zlib.compress(eight.astype(np.uint8).tobytes(), 9), "u8", _sha256(image)
    return zlib.compress(image.astype("<f4").tobytes(), 9), "f4", _sha256(image)


def _unpacked(pixels: bytes, encoding: str, shape: tuple[int, ...]) -> Image:
    raw = zlib.decompress(pixels)
    if encoding == "u8":
        return (np.frombuffer(raw, np.uint8).reshape(shape) / np.float32(255)).astype(np.float32)
    return np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32)


def _sha256(image: Image) -> str:
    return hashlib.sha256(image.astype("<f4").tobytes()).hexdigest()


def _numbers(witness: bytes | None) -> tuple[float, ...]:
    return tuple(np.frombuffer(witness or b"", "<f8").tolist())


def _bits(done: int) -> bytes:
    return done.to_bytes((done.bit_length() + 7) // 8 or 1, "little")


def _real(value: float) -> float | None:
    return None if value != value else value  # SQLite has no NaN


def _float(value: float | None) -> float:
    return float("nan") if value is None else value
