"""One SQLite file per run. What is in it was committed: a killed run loses at most its last moments."""

import hashlib
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .records import Claim, Clean, Effort, Evidence, Failure, Plan, Probe, Spent, Verdict

APPLICATION_ID = 0x726F626E  # "robn": tells our files from other SQLite files
FORMAT = 1

_SCHEMA = """
CREATE TABLE plan (json TEXT NOT NULL);
CREATE TABLE clean (
    example INTEGER PRIMARY KEY, digest TEXT NOT NULL, correct INTEGER NOT NULL, margin REAL, tied INTEGER NOT NULL);
CREATE TABLE claim (
    id INTEGER PRIMARY KEY, example INTEGER NOT NULL, threat TEXT NOT NULL, attack TEXT NOT NULL,
    draw INTEGER NOT NULL, target INTEGER NOT NULL, witness BLOB, image BLOB, encoding TEXT, sha256 TEXT,
    forwards INTEGER NOT NULL, backwards INTEGER NOT NULL);
CREATE INDEX claim_place ON claim (example, threat);
CREATE TABLE verdict (
    claim INTEGER PRIMARY KEY REFERENCES claim, accepted INTEGER NOT NULL, rejection TEXT NOT NULL,
    reason TEXT NOT NULL, size REAL, margin REAL, passes INTEGER NOT NULL);
CREATE TABLE spent (
    example INTEGER NOT NULL, threat TEXT NOT NULL, attack TEXT NOT NULL, draws INTEGER NOT NULL,
    forwards INTEGER NOT NULL, backwards INTEGER NOT NULL, done BLOB NOT NULL,
    PRIMARY KEY (example, threat, attack)) WITHOUT ROWID;
CREATE TABLE probe (
    threat TEXT NOT NULL, example INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
    PRIMARY KEY (threat, example, name)) WITHOUT ROWID;
CREATE TABLE failure (
    example INTEGER NOT NULL, threat TEXT NOT NULL, attack TEXT NOT NULL, error TEXT NOT NULL,
    PRIMARY KEY (example, threat, attack)) WITHOUT ROWID;
CREATE TABLE effort (
    threat TEXT NOT NULL, attack TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (threat, attack)) WITHOUT ROWID;
CREATE TABLE environment (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_CLEAN = "SELECT example, digest, correct, margin, tied FROM clean ORDER BY example"
_CLAIMS = "SELECT id, example, threat, attack, draw, target, forwards, backwards FROM claim ORDER BY id"
_VERDICTS = "SELECT claim, accepted, rejection, reason, size, margin, passes FROM verdict ORDER BY claim"

Image = NDArray[np.float32]  # (C, H, W) in [0, 1]


class RunFile:
    """Records of one run, appended in transactions. One writer at a time; a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self.path = path
        self._db = connection

    @classmethod
    def open(cls, path: Path) -> "RunFile":
        """Continue the run in this file, or begin one. Raises UserError when the file cannot be used."""
        if path.exists() and path.stat().st_size:
            return cls(path, _existing(path, writing=True))
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a file; name a run file, such as --run run.robench")
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            db = _connect(path)
            _claim_for_writing(db)
            marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
            db.executescript(f"BEGIN IMMEDIATE; {marks} {_SCHEMA} COMMIT;")
        return cls(path, db)

    @classmethod
    def in_memory(cls) -> "RunFile":
        """A run that is kept nowhere."""
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(_SCHEMA)
        return cls(Path(":memory:"), db)

    @classmethod
    def read(cls, path: Path) -> "RunFile":
        """Open a finished run for reading; it stays as it is, byte for byte."""
        if not path.is_file():
            raise UserError(
                f"there is no run file {path}; `robench evaluate` writes them to runs/ unless --run says else"
            )
        return cls(path, _existing(path, writing=False))

    def __enter__(self) -> "RunFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Fold the log in, so that one file remains."""
        try:
            self._db.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error:
            pass  # a full disk or a reader: the log beside the file holds everything, and the next open folds it in
        finally:
            self._db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All records of the block are kept, or none."""
        with _explained(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.rollback()
                raise
            self._db.commit()

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
        """A claim with its verdict. One image is kept per example and threat: the smallest accepted."""
        self._put_claim(claim, verdict, *_packed(image))

    def adopt(self, evidence: Evidence, sources: Mapping[int, tuple[int, int]], files: Sequence["RunFile"]) -> None:
        """Everything of a merged evidence, with images from the files its claims come from; no files, no images."""
        self.put_clean(evidence.clean)
        for claim, verdict in evidence.judged():
            packed: tuple[bytes | None, str | None, str | None] = (None, None, None)
            if files:
                which, number = sources[claim.id]
                rows = files[which]._db.execute("SELECT image, encoding, sha256 FROM claim WHERE id = ?", [number])
                packed = rows.fetchone()
            self._put_claim(claim, verdict, *packed)
        self.put_spent(evidence.spent)
        self.put_failures(evidence.failures)
        self.put_effort(evidence.efforts)
        self.put_probes(evidence.probes)

    def _put_claim(
        self, claim: Claim, verdict: Verdict, pixels: bytes | None, encoding: str | None, sha256: str | None
    ) -> None:
        if not (verdict.accepted and pixels is not None and self._smallest(claim, verdict)):
            pixels = encoding = None
        c, v = claim, verdict
        self._db.execute(
            "INSERT INTO claim VALUES (?, ?, ?, ?, ?, ?, NULL, ?, ?, ?, ?, ?)",
            [c.id, c.example, c.threat, c.attack, c.draw, c.target, pixels, encoding, sha256, c.forwards, c.backwards],
        )
        self._db.execute(
            "INSERT INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?)",
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
                claims=tuple(Claim(*row) for row in rows(_CLAIMS)),
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
                except (zlib.error, ValueError):
                    image = None
                if image is None or _sha256(image) != sha256:
                    raise UserError(f"{self.path} is damaged: the image of example {example} differs from its checksum")
                yield claim, image


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rwc", uri=True, isolation_level=None, timeout=2)


def _claim_for_writing(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA locking_mode = EXCLUSIVE")  # one writer; the lock goes with the process
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # a pulled plug loses nothing that was committed


def _existing(path: Path, writing: bool) -> sqlite3.Connection:
    """Look before touching: a file that is not ours, or is damaged, is left as it is."""
    if not path.is_file():
        raise UserError(f"{path} is not a file; name a run file, such as --run run.robench")
    with _explained(path):
        with open(path, "rb") as f:
            header = f.read(100)
        if header[:16] != b"SQLite format 3\0" or header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
            raise UserError(f"{path} is not a robench run file; it was left as it is. Name another with --run")
        version = int.from_bytes(header[60:64], "big")
        if version > FORMAT:
            raise UserError(f"{path} is of format {version}, this robench reads up to {FORMAT}; update robench")
        db = _connect(path)
        try:
            if db.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("its pages do not fit together")
            if writing:
                _claim_for_writing(db)
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
        if "readonly" in text or "unable to open" in text:
            raise UserError(f"cannot write {path} ({text}); name a file in a folder you can write with --run") from None
        raise UserError(
            f"{path} is damaged ({text}); it was left as it is. Name another file with --run to start afresh"
        ) from None
    except OSError as error:
        raise UserError(f"cannot use {path}: {error.strerror}; name another file with --run") from None


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


def _bits(done: int) -> bytes:
    return done.to_bytes((done.bit_length() + 7) // 8 or 1, "little")


def _real(value: float) -> float | None:
    return None if value != value else value  # SQLite has no NaN


def _float(value: float | None) -> float:
    return float("nan") if value is None else value
