"""The data for other programs: CSV per table, and one SQLite file per data set."""

import csv
import io
import sqlite3
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from .entries import Board, ClaimedRow, ModelResult, Table
from .texts import certified

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Beginnings of texts that a spreadsheet would compute."""

Value = str | int | float | None

SCHEMA = """
CREATE TABLE tables (id TEXT PRIMARY KEY, data TEXT, place INTEGER, examples INTEGER, sha256 TEXT, numbers TEXT);
CREATE TABLE threat (table_id TEXT, place INTEGER, threat TEXT, PRIMARY KEY (table_id, place));
CREATE TABLE model (table_id TEXT, model_id TEXT, place INTEGER, name TEXT, weights_sha256 TEXT, architecture TEXT,
    normalisation TEXT, parameters INTEGER, recipe TEXT, trained_on TEXT, minutes REAL, protocol TEXT, masking TEXT,
    clean REAL, clean_low REAL, clean_high REAL, union_accuracy REAL, union_low REAL, union_high REAL,
    union_open INTEGER, average REAL, average_low REAL, average_high REAL, protocol_union REAL, beyond INTEGER,
    competitiveness REAL, competitiveness_worst REAL, stability REAL, backwards INTEGER, forwards INTEGER,
    seconds REAL, protocol_union_open INTEGER, clean_open INTEGER, average_open INTEGER, union_measured INTEGER,
    average_measured INTEGER, PRIMARY KEY (table_id, model_id));
CREATE TABLE result (table_id TEXT, model_id TEXT, threat TEXT, accuracy REAL, low REAL, high REAL, measured INTEGER,
    wrong INTEGER, broken INTEGER, standing INTEGER, open INTEGER, failed INTEGER, elsewhere INTEGER,
    protocol_accuracy REAL, certified REAL, masking TEXT, outcomes TEXT, levels TEXT,
    protocol_open INTEGER,
    PRIMARY KEY (table_id, model_id, threat));
CREATE TABLE attack (table_id TEXT, model_id TEXT, threat TEXT, place INTEGER, name TEXT, spec TEXT, tried INTEGER,
    broken INTEGER, standing INTEGER, forwards INTEGER, backwards INTEGER, seconds REAL);
CREATE TABLE class (table_id TEXT, model_id TEXT, label INTEGER, examples INTEGER, clean REAL, union_accuracy REAL);
CREATE TABLE history (table_id TEXT, model_id TEXT, place INTEGER, date TEXT, source TEXT, submitter TEXT,
    lowered INTEGER, union_accuracy REAL, average REAL, union_open INTEGER, unmeasured TEXT);
CREATE TABLE claimed (table_id TEXT, name TEXT, source TEXT, column_name TEXT, accuracy REAL);
"""


def csv_path(board: Board, table: Table) -> str:
    """The CSV file of a table, below the site."""
    return f"data/{board.id}/{table.id}.csv"


def sqlite_path(board: Board) -> str:
    """The SQLite file of a data set, below the site."""
    return f"data/{board.id}.sqlite"


def csv_file(table: Table) -> bytes:
    """A row per model, then those that others published. Texts that a spreadsheet would compute begin with a quote."""
    shares = ["clean", *table.threats, "union", "average"]
    head = ["model", "source", *(f"{name}{end}" for name in shares for end in ("", " low", " high", " open"))]
    head += [
        "union by protocol",
        "union by protocol open",
        "broken by other evidence",
        "masking",
        "protocol",
        "examples",
        "parameters",
    ]
    head += ["training minutes", "recipe", "trained on", "competitiveness", "competitiveness worst", "stability"]
    head += ["gradients", "forward passes", "seconds", "weights sha256", "id"]
    with io.StringIO(newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(map(_harmless, head))
        for row in table.models:
            writer.writerow(map(_harmless, _measured(table, row)))
        for claimed in table.claimed:
            writer.writerow(map(_harmless, _claimed(claimed, shares, len(head))))
        return file.getvalue().encode()


def _harmless(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _measured(table: Table, row: ModelResult) -> Iterable[Value]:
    yield from (row.name, "measured")
    for share in (row.clean, *(t.share for t in row.threats), row.union, row.average):
        yield from (share.accuracy, *share.ci95, share.open) if share.measured else (None,) * 4
    yield from (row.protocol_union, row.protocol_union_open) if row.union.measured else (None, None)
    yield from (row.beyond, row.masking, row.protocol, table.examples, row.parameters)
    card = row.card
    yield from (None, None, None) if card is None else (card.minutes, card.recipe, " ".join(card.trained_on))
    yield from (row.competitiveness, row.competitiveness_worst, row.stability)
    yield from (row.backwards, row.forwards, row.seconds, row.weights_sha256, row.id)


def _claimed(row: ClaimedRow, shares: Sequence[str], length: int) -> list[Value]:
    values: list[Value] = [row.name, f"claimed: {row.source}"]
    for name in shares:
        values += [row.accuracy.get(name), None, None, None]
    return values + [None] * (length - len(values))


def sqlite_file(board: Board) -> bytes:
    """The board as an SQLite file. Equal boards give equal bytes: free space is zero, and no version is recorded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "board.sqlite"
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.executescript("PRAGMA secure_delete = ON; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
            db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = 1;")
            for place, table in enumerate(board.tables):
                _insert(db, "tables", [(table.id, board.data, place, table.examples, table.sha256, table.numbers)])
                _fill(db, table)
            db.execute("COMMIT")
        finally:
            db.close()
        content = bytearray(path.read_bytes())
    content[96:100] = bytes(4)  # the version of the SQLite library that wrote the file, which nothing reads
    return bytes(content)


def _fill(db: sqlite3.Connection, table: Table) -> None:
    """The rows of one table."""
    _insert(db, "threat", [(table.id, place, threat) for place, threat in enumerate(table.threats)])
    for place, row in enumerate(table.models):
        key = (table.id, row.id)
        card = row.card
        facts = (None, None, None) if card is None else (card.recipe, " ".join(card.trained_on), card.minutes)
        _insert(db, "model", [(
            *key, place, row.name, row.weights_sha256, row.architecture, row.normalisation, row.parameters, *facts,
            row.protocol, row.masking, row.clean.accuracy, *row.clean.ci95, row.union.accuracy, *row.union.ci95,
            row.union.open, row.average.accuracy, *row.average.ci95, row.protocol_union, row.beyond,
            row.competitiveness, row.competitiveness_worst, row.stability, row.backwards, row.forwards, row.seconds,
            row.protocol_union_open, row.clean.open, row.average.open, row.union.measured, row.average.measured,
        )])  # fmt: skip
        for t in row.threats:
            s, bound = t.share, certified(row, t.threat)
            _insert(db, "result", [(
                *key, t.threat, s.accuracy, *s.ci95, s.measured, t.wrong, t.broken, t.standing, s.open, s.failed,
                t.elsewhere, t.protocol_accuracy, bound and bound.accuracy, t.masking, t.outcomes, t.levels,
                t.protocol_open,
            )])  # fmt: skip
            _insert(db, "attack", [
                (*key, t.threat, n, a.name, a.spec, a.tried, a.broken, a.standing, a.forwards, a.backwards, a.seconds)
                for n, a in enumerate(t.attacks)
            ])  # fmt: skip
        _insert(db, "class", [(*key, c.label, c.examples, c.clean, c.union) for c in row.classes])
        _insert(db, "history", [
            (
                *key, n, h.date, h.source, h.by, h.lowered.get("union", 0), h.union, h.average, h.union_open,
                " ".join(h.unmeasured),
            )
            for n, h in enumerate(row.history)
        ])  # fmt: skip
    _insert(db, "claimed", [
        (table.id, row.name, row.source, column, accuracy)
        for row in table.claimed for column, accuracy in row.accuracy.items()
    ])  # fmt: skip


def _insert(db: sqlite3.Connection, table: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Adds rows. `table` is a name of SCHEMA; all else is bound."""
    if rows:
        db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
