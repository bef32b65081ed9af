"""One SQLite file per run. Its content is committed in transactions: a killed run loses at most its last moments."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

from .. import renames
from ..errors import UserError
from . import images, opening, probe_rows, rows
from .compressed import is_compressed
from .file_errors import explained
from .images import Image
from .layout import lay_out
from .records import (
    Claim,
    Clean,
    Effort,
    Evidence,
    Exhausted,
    Failure,
    MaskingState,
    Nearest,
    PassedOver,
    Plan,
    Probe,
    Verdict,
)

PART = 4096  # examples whose evidence is in memory at a time
PATIENCE = 2.0  # seconds to wait for another process to release a file

_Packed = tuple[bytes | None, str | None, str | None]
"""A stored image: pixels, encoding, hash."""


class RunFile:
    """Records of one run, appended in transactions. One writer at a time; a context manager.

    Until something is written a file stays as it is, byte for byte. A new file without records is removed when it is
    closed.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, *, stack: ExitStack | None = None, created: bool = False
    ):
        self.path = path
        self._place = path  # where it is meanwhile
        self._db = connection
        self._stack = stack or ExitStack()  # closed after the connection
        self._is_new = created  # by this object, without records so far
        self._claimed = False  # commits go to a log
        self.in_progress = False  # another process writes it, and these are its commits so far

    @classmethod
    def open(cls, path: Path) -> "RunFile":
        """Continue the run in this file, or create one. Raises UserError if the file cannot be used."""
        with explained(path), ExitStack() as stack:
            db, created = opening.for_writing(path, PATIENCE, stack)
            return cls(path, db, stack=stack.pop_all(), created=created)

    @classmethod
    def in_memory(cls) -> "RunFile":
        """A run without a file."""
        db = sqlite3.connect(":memory:", isolation_level=None)
        lay_out(db)
        return cls(Path(":memory:"), db)

    @classmethod
    def read(cls, path: Path) -> "RunFile":
        """Open a run for reading. It stays as it is, byte for byte, even if a kill has left a log beside it."""
        with explained(path), ExitStack() as stack:
            db = opening.for_reading(path, PATIENCE, stack)
            return cls(path, db, stack=stack.pop_all())

    @classmethod
    def follow(cls, path: Path) -> "RunFile":
        """Open a run for reading as it is now, even while another process writes it: see `in_progress`."""
        with explained(path), ExitStack() as stack:
            db, in_progress = opening.for_following(path, PATIENCE, stack)
            run = cls(path, db, stack=stack.pop_all())
            run.in_progress = in_progress
            return run

    @classmethod
    @contextmanager
    def whole(cls, path: Path, *, compressed: bool = False) -> "Iterator[RunFile]":
        """A new run file that appears when the block has ended without an error, and not before."""
        with explained(path), opening.appearing(path, PATIENCE, compressed=compressed) as part, cls.open(part) as run:
            run.path = path
            yield run

    def __enter__(self) -> "RunFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the run, and fold its log in, so that one file remains."""
        # On a full disk folding fails. The log beside the file then holds everything, and the next open folds it in.
        with suppress(sqlite3.Error, OSError):
            if self._claimed:
                opening.fold(self._db)
            if self._is_new:
                self._place.unlink(missing_ok=True)
        self._db.close()
        self._stack.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: all records of the block are stored, or none."""
        with explained(self.path, lasting=self.path == self._place):
            if not self._claimed:
                opening.write_ahead(self._db)
                self._claimed = True
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.commit()
            except BaseException:
                self._db.rollback()
                raise
            self._is_new = False

    # Writing

    def put_plan(self, plan: Plan, environment: dict[str, str]) -> None:
        """Replace the plan. Evidence for earlier plans stays."""
        try:
            text = rows.plan_text(plan)
        except msgspec.ValidationError as error:
            raise UserError(f"this plan cannot be stored in a run file ({error}); change what is evaluated") from None
        self._db.execute("DELETE FROM plan")
        self._db.execute("INSERT INTO plan VALUES (?)", [text])
        self.put_environment(environment)

    def put_environment(self, environment: Mapping[str, str]) -> None:
        """Store how the file was made; keys that are left out stay as they are."""
        self._db.executemany("INSERT OR REPLACE INTO environment VALUES (?, ?)", environment.items())

    def put_clean(self, records: Iterable[Clean]) -> None:
        """Store the model's answers before any attack."""
        values = ((c.example, c.digest, c.correct, rows.real(c.margin), c.tied) for c in records)
        self._db.executemany("INSERT OR REPLACE INTO clean VALUES (?, ?, ?, ?, ?)", values)

    def next_claim(self) -> int:
        """The number for the next claim."""
        return int(self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM claim").fetchone()[0])

    def put_judged(self, claim: Claim, verdict: Verdict, image: Image) -> None:
        """Store a claim with its verdict. For each example and threat only the smallest accepted image is stored.

        Storing a claim twice has no effect: an interrupted caller may not know how far it came.
        """
        self._put_claim(claim, verdict, *images.packed(image))

    def adopt(self, evidence: Evidence, sources: Mapping[int, tuple[int, int]], files: Sequence["RunFile"]) -> None:
        """Store merged evidence, with images from the files that its claims come from; no files, no images."""
        self.put_clean(evidence.clean)
        for claim, verdict in evidence.judged():
            packed: _Packed = (None, None, None)
            if files:
                which, number = sources[claim.id]
                holder, packed = files[which]._image_of(number, claim, verdict)
                if holder != number and (judged := files[which].judged_claim(holder)):
                    claim, verdict = _numbered(claim.id, *judged)
            self._put_claim(claim, verdict, *packed)
        self.put_exhausted(evidence.exhausted)
        self.put_failures(evidence.failures)
        self.put_effort(evidence.efforts)
        self.put_probes(evidence.probes)
        self.put_masking(evidence.masking)
        self.put_rounds([*evidence.nearest, *evidence.passed_over])

    def _image_of(self, number: int, claim: Claim, verdict: Verdict) -> tuple[int, _Packed]:
        """The image of a claim, or only its hash, and the number of the claim that holds it.

        For equal finds of one attack one image is stored, with one of their claims.
        """
        holder, *packed = self._db.execute(
            "SELECT id, image, encoding, sha256 FROM claim JOIN verdict ON claim = id"
            " WHERE id = ? OR (example = ? AND threat = ? AND attack = ? AND size = ? AND image IS NOT NULL)"
            " ORDER BY image IS NULL, id != ?",
            [number, claim.example, claim.threat, claim.attack, verdict.size, number],
        ).fetchone()
        pixels, encoding, sha256 = packed
        if not isinstance(pixels, bytes | None) or not all(isinstance(text, str | None) for text in (encoding, sha256)):
            raise msgspec.ValidationError("table claim: image, encoding and sha256 are of other types")
        return holder, (pixels, encoding, sha256)

    def _put_claim(
        self, claim: Claim, verdict: Verdict, pixels: bytes | None, encoding: str | None, sha256: str | None
    ) -> None:
        if not (verdict.accepted and pixels is not None and self._smallest(claim, verdict)):
            pixels = encoding = None
        c, v = claim, verdict
        self._db.execute(
            "INSERT OR IGNORE INTO claim VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                *(c.id, c.example, c.threat, c.attack, c.restart, c.target),
                *(rows.blob(c.params), pixels, encoding, sha256, c.forwards, c.backwards),
            ],
        )
        self._db.execute(
            "INSERT OR IGNORE INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?)",
            [v.claim, v.accepted, v.rejection, v.reason, rows.real(v.size), rows.real(v.margin), v.passes],
        )

    def _smallest(self, claim: Claim, verdict: Verdict) -> bool:
        """Whether this find is smaller than the stored one. If so, the stored image is removed."""
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

    def put_exhausted(self, records: Iterable[Exhausted]) -> None:
        """Replace the records of exhausted searches."""
        records = list(records)
        self._forget_former("spent", records)
        values = [
            (s.example, s.threat, s.attack, s.restarts, s.forwards, s.backwards, rows.bits(s.done)) for s in records
        ]
        self._db.executemany("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def put_failures(self, records: Iterable[Failure]) -> None:
        """Store errors of attacks."""
        records = list(records)
        self._forget_former("failure", records)
        values = [(f.example, f.threat, f.attack, f.error) for f in records]
        self._db.executemany("INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?)", values)

    def clear_failures(self, threat: str, attack: str) -> None:
        """Delete the errors of an attack that is about to run again."""
        names = (attack, renames.former_spec(attack))
        self._db.execute("DELETE FROM failure WHERE threat = ? AND attack IN (?, ?)", [threat, *names])

    def put_effort(self, records: Iterable[Effort]) -> None:
        """Replace the seconds that attacks have taken so far."""
        for e in records:
            former = renames.former_spec(e.attack)
            if former != e.attack:
                self._db.execute("DELETE FROM effort WHERE threat = ? AND attack = ?", [e.threat, former])
            self._db.execute("INSERT OR REPLACE INTO effort VALUES (?, ?, ?)", [e.threat, e.attack, e.seconds])

    def put_probes(self, records: Iterable[Probe]) -> None:
        """Store measurements."""
        values = [(p.threat, p.example, p.name, rows.real(p.value)) for p in records]
        self._db.executemany("INSERT OR REPLACE INTO probe VALUES (?, ?, ?, ?)", values)

    def put_rounds(self, records: Iterable[Nearest | PassedOver]) -> None:
        """Store how near searches came, which replaces what was known, and what attacks passed over."""
        self.put_probes(map(probe_rows.probe_of, records))

    def put_masking(self, records: Iterable[MaskingState]) -> None:
        """Store parts of the states of masking checks. Parts at their defaults stay as they are."""
        records = list(records)
        former = [(s.threat, name) for s in records for name in probe_rows.former_names(s)]
        self._db.executemany("DELETE FROM probe WHERE threat = ? AND name = ?", former)
        self.put_probes(probe for state in records for probe in probe_rows.probes_of(state))

    def _forget_former(self, table: Literal["spent", "failure"], records: Iterable[Exhausted | Failure]) -> None:
        """Delete rows of the same records under a former name of the attack: new rows replace them."""
        former = ((r, renames.former_spec(r.attack)) for r in records)
        rows_ = [(r.example, r.threat, old) for r, old in former if old != r.attack]
        self._db.executemany(f"DELETE FROM {table} WHERE example = ? AND threat = ? AND attack = ?", rows_)

    # Reading

    def plan(self) -> Plan | None:
        """The current plan; None in a new file without records."""
        with explained(self.path):
            found = self._db.execute("SELECT json FROM plan LIMIT 2").fetchall()
            if len(found) > 1:
                raise msgspec.ValidationError("table plan: expected one row")
            return rows.plan_of(found[0][0]) if found else None

    def evidence(self) -> Evidence:
        """Everything that the file records."""
        with explained(self.path):
            return rows.evidence_of(self._db)

    def shared(self) -> Evidence:
        """What the file records about no single example: seconds, states of masking checks, and the environment."""
        with explained(self.path):
            return rows.shared_evidence(self._db)

    def parts(self, examples: Sequence[int]) -> Iterator[tuple[slice, Evidence]]:
        """The rest of `evidence` in parts: which of these examples, in ascending order, and the evidence about them.

        Records about other examples are in these parts too, and every row is validated by the end. Nothing may be
        written about later examples meanwhile.
        """
        places = range(0, max(1, len(examples)), PART)
        parts = rows.evidence_in_parts(self._db, [examples[place] for place in places if examples])
        for first in places:
            with explained(self.path):
                evidence = next(parts)
            yield slice(first, min(first + PART, len(examples))), evidence
        with explained(self.path):
            assert next(parts, None) is None, "there are as many parts as first examples"

    def environment(self) -> dict[str, str]:
        """How the file was made."""
        return self.shared().environment

    def claims_about(self, example: int) -> int:
        """The number of claims about one example."""
        with explained(self.path):
            found = self._db.execute("SELECT count(*) FROM claim WHERE example = ?", [example]).fetchone()
            return int(found[0])

    def judged_claim(self, number: int) -> tuple[Claim, Verdict] | None:
        """The claim with this number and its verdict; None where either is missing."""
        with explained(self.path):
            claim, verdict = rows.claim_of(self._db, number), rows.verdict_of(self._db, number)
            return None if claim is None or verdict is None else (claim, verdict)

    def last_broken(self, threat: str, attack: str) -> int | None:
        """The example of the last accepted claim of this attack under this threat; None if it broke none."""
        query = (
            "SELECT id FROM claim JOIN verdict ON claim = id WHERE accepted AND threat = ? AND attack IN (?, ?)"
            " ORDER BY id DESC LIMIT 1"
        )
        with explained(self.path):
            found = self._db.execute(query, [threat, attack, renames.former_spec(attack)]).fetchone()
        judged = None if found is None else self.judged_claim(found[0])
        return None if judged is None else judged[0].example

    def is_broken(self, threat: str, example: int) -> bool:
        """Whether a claim about the example under exactly this threat has been accepted."""
        query = (
            "SELECT EXISTS (SELECT 1 FROM claim JOIN verdict ON claim = id"
            " WHERE example = ? AND threat = ? AND accepted)"
        )
        with explained(self.path):
            return bool(self._db.execute(query, [example, threat]).fetchone()[0])

    def is_searched(self) -> bool:
        """Whether an attack has found, or exhausted, anything."""
        query = "SELECT EXISTS (SELECT 1 FROM claim) OR EXISTS (SELECT 1 FROM spent)"
        with explained(self.path):
            return bool(self._db.execute(query).fetchone()[0])

    def evidence_about(self, examples: Iterable[int], threats: Sequence[str]) -> Evidence:
        """What the file records about these examples, but for errors, seconds and diagnostics."""
        with explained(self.path):
            return rows.evidence_about(self._db, examples, threats)

    def images(self, shape: Sequence[int]) -> Iterator[tuple[int, Image]]:
        """(claim, image) for every stored image. Raises UserError if one differs from its checksum."""
        query = "SELECT id, example, image, encoding, sha256 FROM claim WHERE image IS NOT NULL ORDER BY id"
        with explained(self.path):
            for claim, example, pixels, encoding, sha256 in self._db.execute(query):
                try:
                    image = images.unpacked(pixels, encoding, shape)
                except ValueError:
                    image = None
                if image is None or images.sha256(image) != sha256:
                    raise UserError(f"{self.path} is damaged: the image of example {example} differs from its checksum")
                yield claim, image

    def image_count(self) -> int:
        """The number of stored images."""
        with explained(self.path):
            return int(self._db.execute("SELECT count(*) FROM claim WHERE image IS NOT NULL").fetchone()[0])

    def image_hashes(self) -> dict[int, str]:
        """The hash of the image of each claim, also of those whose image is not stored; none in slim files."""
        with explained(self.path):
            found = self._db.execute("SELECT id, sha256 FROM claim WHERE sha256 IS NOT NULL").fetchall()
            return dict(found)


def _numbered(number: int, claim: Claim, verdict: Verdict) -> tuple[Claim, Verdict]:
    """The claim and its verdict under another number."""
    return msgspec.structs.replace(claim, id=number), msgspec.structs.replace(verdict, claim=number)


def is_run_file(path: Path) -> bool:
    """Whether a file is an SQLite file or compressed, as run files are and summaries are not.

    Raises UserError if it is unreadable.
    """
    with explained(path):
        if not path.is_file():
            return False
        with path.open("rb") as file:
            header = file.read(16)
        return header.startswith(b"SQLite format 3") or is_compressed(header)
